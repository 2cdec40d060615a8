"""Pairs of frames as two views, and frames of other moments to judge by: what learning from clips takes from them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lcl import distributed
from lcl.images import open_images
from lcl.labelled_images import LabelledImages
from lcl.train import counter_generator, shuffled_batch
from vision_methods.clip_files import open_clips
from vision_methods.clips import ClipStore, draw_frame_pairs
from vision_methods.config import VITOConfig
from vision_methods.curation import read_kept
from vision_methods.pictures import own_share
from vision_methods.two_views import PHOTOMETRIC, Photometric, Views, cut_views, draw_views, photometric_views


class FrameView(NamedTuple):
    """One view of each clip of a batch.

    Attributes
    ----------
    crops : Tensor of uint8, (B, 3, size, size)
    views : Views
        How they were cut, and how they are changed.
    """

    crops: Tensor
    views: Views


class FramePairs:
    """Two frames of each clip, cut and changed on their own, by number of the step; each process cuts its own share.

    No clip is twice in a batch: it would be its own negative.

    Parameters
    ----------
    clips : ClipStore
    batch : int
        Clips per step, over all processes.
    size_px : int
        Side of the views.
    max_gap_s : float
        Largest distance in time of the two frames; 0: one frame, twice.
    pairs_per_clip : int
        Pairs of every clip in an epoch.
    photometric : (Photometric, Photometric)
        Of the two views.
    least_area, aspect : float
        Of :func:`vision_methods.two_views.draw_views`.
    seed : int

    Raises
    ------
    ValueError
        If the batch does not fit the clips or the processes.
    """

    def __init__(
        self,
        clips: ClipStore,
        *,
        batch: int,
        size_px: int,
        max_gap_s: float = 2.56,
        pairs_per_clip: int = 1,
        photometric: tuple[Photometric, Photometric],
        least_area: float = 0.4,
        aspect: float = 4 / 3,
        seed: int,
    ) -> None:
        if batch > len(clips):
            raise ValueError(
                f"batch is {batch}, but there are {len(clips)} clips, and none may be twice in a batch; lower --batch, "
                "or divide the clips with --segment-s."
            )
        self.own, per_pass = own_share(len(clips), batch)
        self.per_epoch = pairs_per_clip * per_pass
        self.clips, self.batch, self.size_px, self.max_gap_s = clips, batch, size_px, max_gap_s
        self.photometric, self.least_area, self.aspect, self.seed = photometric, least_area, aspect, seed
        self.pool = ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) - 1)))

    def frames(self, step: int) -> np.ndarray:
        """Numbers of the frames of a step, (batch, 2)."""
        index = shuffled_batch(len(self.clips), self.batch, seed=self.seed, step=step)
        return draw_frame_pairs(self.clips, index, counter_generator(self.seed, 5, step), max_gap_s=self.max_gap_s)

    def __call__(self, step: int) -> tuple[FrameView, FrameView]:
        """Both views of this process's share of a step."""
        first, second = self.frames(step).T
        return self.view(step, first, 0), self.view(step, second, 1)

    def view(self, step: int, frames: np.ndarray, number: int) -> FrameView:
        """One of the two views; windows and changes of the two are independent."""
        drawn = draw_views(
            self.clips.frames.sizes[frames],
            counter_generator(self.seed, 1 + number, step),
            photometric=self.photometric[number],
            least_area=self.least_area,
            aspect=self.aspect,
        )
        views = drawn.part(self.own)
        return FrameView(cut_views(self.clips.frames, frames[self.own], views, self.size_px, self.pool), views)


class HeldOut(NamedTuple):
    """Clips divided into what is trained on and what a network is judged by.

    Attributes
    ----------
    rest : ClipStore
        To train on: all clips.
    references : LabelledImages
        Those of its frames that are of judged clips, by clip.
    middle : LabelledImages
        Frames held out, by clip.
    """

    rest: ClipStore
    references: LabelledImages
    middle: LabelledImages


def held_out_frames(clips: ClipStore, *, share: float, most: int) -> HeldOut:
    """Hold out the middle frames of clips to judge by.

    Parameters
    ----------
    clips : ClipStore
    share : float
        Of every judged clip.
    most : int
        Frames of judged clips, at most (one clip at least); the choice does not depend on any seed.

    Returns
    -------
    HeldOut

    Raises
    ------
    ValueError
        As :meth:`vision_methods.clips.ClipStore.divided_in_time`.

    Examples
    --------
    >>> from vision_methods.clips import clips_of_arrays
    >>> held = held_out_frames(clips_of_arrays([np.zeros((10, 8, 8, 3), np.uint8)] * 3, fps=10), share=0.2, most=20)
    >>> sorted(held.rest.lengths.tolist()), len(held.references), len(held.middle)
    ([8, 8, 10], 16, 4)
    """
    order = np.random.default_rng(0).permutation(np.flatnonzero(clips.lengths >= 3))
    judged = np.sort(order[: max(1, int((clips.lengths[order].cumsum() <= most).sum()))])
    rest, middle = clips.divided_in_time(share, judged)
    references = rest.subset(judged).by_clip()
    return HeldOut(rest, references, middle.by_clip(references.classes))


def changed_views(
    pictures: LabelledImages,
    *,
    size_px: int,
    photometric: Photometric = PHOTOMETRIC["byol"][1],
    least_area: float = 0.4,
    aspect: float = 4 / 3,
    seed: int = 0,
) -> LabelledImages:
    """One cropped, flipped and photometrically changed view of every picture: what a network should look through.

    Runs are judged by the defaults whatever they are trained with, so that they can be compared.

    Parameters
    ----------
    pictures : LabelledImages
    size_px : int
        Side of the views.
    photometric : Photometric
    least_area, aspect : float
        Of :func:`vision_methods.two_views.draw_views`.
    seed : int

    Returns
    -------
    LabelledImages
        With the same labels.
    """
    generator = counter_generator(seed, 11)
    views = draw_views(pictures.store.sizes, generator, photometric=photometric, least_area=least_area, aspect=aspect)
    crops = cut_views(pictures.store, np.arange(len(pictures)), views, size_px)
    changed = (photometric_views(crops, views) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return LabelledImages(open_images(list(changed), short_side_px=size_px), pictures.labels, pictures.classes)


def store_options(config: VITOConfig, progress: bool) -> dict[str, Any]:
    """Options of decoded stores that a configuration sets."""
    return {
        "short_side_px": config.short_side_px,
        "memory_cap_bytes": int(config.memory_cap_gb * 2**30),
        "store_cap_bytes": int(config.store_cap_gb * 2**30),
        "store_dir": config.store_dir or None,
        "progress": progress and distributed.rank() == 0,
    }


def configured_clips(config: VITOConfig, *, progress: bool = False) -> ClipStore:
    """Clips of a configuration.

    Parameters
    ----------
    config : VITOConfig
    progress : bool
        Show progress bars.

    Returns
    -------
    ClipStore

    Raises
    ------
    FileNotFoundError, ValueError, ImportError, OSError
        As :func:`vision_methods.clip_files.open_clips`, or if no source is named.
    """
    if not config.images:
        raise ValueError("there are no clips; give --images FOLDER with video files or folders of frames.")
    return open_clips(
        config.images,
        frames_per_s=config.frames_per_s,
        first_s=config.first_s,
        segment_s=config.segment_s,
        assumed_fps=config.assumed_fps,
        skip=config.skip,
        only=read_kept(config.clip_table) if config.clip_table else None,
        seed=config.seed,
        **store_options(config, progress),
    )
