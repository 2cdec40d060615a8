"""Clips of video, and pairs of frames of one clip.

A clip is a video file, a folder of frames, a segment of either (:func:`vision_methods.clip_files.open_clips`), a list
of arrays or a still picture. Frames are kept decoded, as pictures of one :class:`lcl.images.ImageStore`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from lcl.images import ImageStore, _count, _reasons, open_images
from lcl.labelled_images import LabelledImages


@dataclass(frozen=True, eq=False)
class ClipStore:
    """Frames of clips, one clip after the other.

    Made by :func:`~vision_methods.clip_files.open_clips`, :func:`clips_of_arrays` or :func:`still_clips`.

    Attributes
    ----------
    frames : ImageStore
        All frames as pictures.
    starts : ndarray of int, (clip + 1,)
        Clip ``i`` has the frames ``starts[i]`` up to, not including, ``starts[i + 1]``.
    times_s : ndarray, (frame,)
        Seconds since the clip's first frame.
    names : tuple of str
        One per clip; a segment has its number behind the name of the recording, ``"street.mp4[3]"``.
    assumed : ndarray of bool, (clip,)
        Whether the frame rate is an assumption, not the file's.
    left_out : tuple of (str, str)
        Name and reason of what was not kept.
    label : str
        The source in words.

    Examples
    --------
    >>> clips = clips_of_arrays([np.zeros((30, 32, 48, 3), np.uint8), np.zeros((5, 32, 48, 3), np.uint8)], fps=25)
    >>> len(clips), clips.starts.tolist(), clips.duration_s.round(2).tolist()
    (2, [0, 30, 35], [1.16, 0.16])
    """

    frames: ImageStore
    starts: np.ndarray
    times_s: np.ndarray
    names: tuple[str, ...]
    assumed: np.ndarray
    left_out: tuple[tuple[str, str], ...] = ()
    label: str = ""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def duration_s(self) -> np.ndarray:
        """Seconds from the first frame of every clip to its last, (clip,)."""
        return self.times_s[self.starts[1:] - 1]

    @property
    def lengths(self) -> np.ndarray:
        """Number of frames of every clip, (clip,)."""
        return np.diff(self.starts)

    @cached_property
    def clip_of_frame(self) -> np.ndarray:
        """Number of every frame's clip, (frame,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def _clock(self) -> tuple[np.ndarray, float]:
        """Times that rise through all clips, and how far apart the clips begin: one search finds frames of many."""
        period_s = float(self.times_s.max()) + 1
        return self.clip_of_frame * period_s + self.times_s, period_s

    def subset(self, clips: np.ndarray | Sequence[int]) -> ClipStore:
        """Some of the clips, in the order given; the pixels are shared.

        Raises
        ------
        ValueError, IndexError
            As :meth:`lcl.images.ImageStore.subset`.

        Examples
        --------
        >>> clips = clips_of_arrays([np.zeros((n, 8, 8, 3), np.uint8) for n in (3, 4, 5)], fps=10)
        >>> clips.subset([2, 0]).lengths.tolist()
        [5, 3]
        """
        chosen = np.asarray(clips)
        if chosen.ndim != 1 or not len(chosen) or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(f"clips is {chosen.dtype} of shape {chosen.shape}; expected at least one whole number.")
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise IndexError(f"The clips are numbered 0 to {len(self) - 1}; {chosen.min()}..{chosen.max()} is asked.")
        starts, ends = self.starts[chosen].tolist(), self.starts[chosen + 1].tolist()
        return self._of_frames([np.arange(*span) for span in zip(starts, ends, strict=True)], chosen)

    def by_clip(self, classes: Sequence[str] | None = None) -> LabelledImages:
        """Frames as pictures whose label is their clip.

        Parameters
        ----------
        classes : sequence of str, optional
            Names of clips, the store's own among them, in the order of their numbers; the store's own without it.

        Returns
        -------
        LabelledImages

        Examples
        --------
        >>> clips = clips_of_arrays([np.zeros((n, 8, 8, 3), np.uint8) for n in (2, 3)], fps=10)
        >>> clips.subset([1]).by_clip(clips.names).labels.tolist()
        [1, 1, 1]
        """
        classes = tuple(classes or self.names)
        number = {name: i for i, name in enumerate(classes)}
        return LabelledImages(self.frames, np.array([number[n] for n in self.names])[self.clip_of_frame], classes)

    def divided_in_time(self, share: float, clips: np.ndarray | None = None) -> tuple[ClipStore, ClipStore]:
        """Frames to learn from, and the middle frames of clips, which are held out.

        In time, every frame held out is nearer to its own clip than to the segments before and after.

        Parameters
        ----------
        share : float
            Of the frames held out, at least one, of every clip with three frames or more.
        clips : array of int, optional
            Clips whose middle is held out; all without it.

        Returns
        -------
        rest : ClipStore
            All clips, short ones and those that are not among ``clips`` whole.
        middle : ClipStore

        Raises
        ------
        ValueError
            If no clip has three frames, or the share is not between 0 and 1.

        Examples
        --------
        >>> clips = clips_of_arrays([np.zeros((10, 8, 8, 3), np.uint8)], fps=10)
        >>> [part.lengths.tolist() for part in clips.divided_in_time(0.3)]
        [[7], [3]]
        """
        if not 0 < share < 1:
            raise ValueError(f"share is {share}; expected a share between 0 and 1.")
        held = np.minimum(np.maximum(1, np.rint(share * self.lengths).astype(int)), self.lengths - 2)
        if clips is not None:
            held[np.setdiff1d(np.arange(len(self)), clips)] = 0
        longer = np.flatnonzero(held > 0)
        if not len(longer):
            raise ValueError(f"None of {_count(len(self), 'clip')} has three frames; expected a longer one at least.")
        rest, middle = [], []
        for start, length, count in zip(self.starts.tolist(), self.lengths.tolist(), held.tolist(), strict=False):
            frames, first = np.arange(start, start + length), (length - count) // 2
            if count > 0:
                middle.append(frames[first : first + count])
                frames = np.delete(frames, slice(first, first + count))
            rest.append(frames)
        return self._of_frames(rest, np.arange(len(self))), self._of_frames(middle, longer)

    def _of_frames(self, frames: list[np.ndarray], clips: np.ndarray) -> ClipStore:
        """Some frames of some clips, one array per clip."""
        chosen = np.concatenate(frames)
        return ClipStore(
            self.frames.subset(chosen),
            np.cumsum([0, *map(len, frames)]),
            np.concatenate([self.times_s[each] - self.times_s[each[0]] for each in frames]),
            tuple(self.names[i] for i in clips.tolist()),
            self.assumed[clips],
            self.left_out,
            self.label,
        )

    def summary(self) -> str:
        """Say in a few sentences what was kept and left out.

        Examples
        --------
        >>> print(clips_of_arrays([np.zeros((30, 32, 48, 3), np.uint8)], fps=25).summary())
        1 array: 1 clip of 30 frames (1.16 to 1.16 s); 30 pictures kept, 32 x 48 px, 3 channels, 138.2 kB in memory.
        """
        shortest, longest = self.lengths.min(), self.lengths.max()
        frames = f"{shortest} frames" if shortest == longest else f"{shortest} to {longest} frames"
        durations = f"{self.duration_s.min():.2f} to {self.duration_s.max():.2f} s"
        pictures = self.frames.summary().split("\n")[0].removeprefix(f"{self.frames.label}: ")
        lines = [f"{self.label}: {_count(len(self), 'clip')} of {frames} ({durations}); {pictures}"]
        if self.left_out:
            lines.append(f"Left out: {_reasons(self.left_out)}.")
        if self.assumed.any():
            lines.append(f"Frame rate assumed: {_count(int(self.assumed.sum()), 'clip')}.")
        return "\n".join(lines)


def clips_of_arrays(arrays: Sequence[np.ndarray], *, fps: float, channels: int = 3) -> ClipStore:
    """Clips that are arrays already.

    Parameters
    ----------
    arrays : sequence of array
        Each (frame, height, width) or (frame, height, width, channel), ``uint8`` or floats in 0..1.
    fps : float
        Frames per second.
    channels : {3, 1}

    Returns
    -------
    ClipStore

    Raises
    ------
    ValueError
        If there is no clip, one has no frame, or ``fps`` is not positive.

    Examples
    --------
    >>> clips_of_arrays([np.zeros((4, 8, 8), np.uint8)], fps=2).times_s
    array([0. , 0.5, 1. , 1.5])
    """
    lengths = [len(each) for each in arrays]
    if not lengths or not min(lengths):
        raise ValueError(f"The clips have {lengths} frames; expected at least one clip, each with a frame or more.")
    if not fps > 0:
        raise ValueError(f"fps is {fps}; expected frames per second, a positive number.")
    frames = open_images([frame for each in arrays for frame in each], channels=channels, short_side_px=2**31)
    times_s = np.concatenate([np.arange(n) / fps for n in lengths])
    names = tuple(f"clip {number}" for number in range(len(arrays)))
    label = _count(len(arrays), "array")
    return ClipStore(frames, np.cumsum([0, *lengths]), times_s, names, np.zeros(len(names), bool), label=label)


def still_clips(pictures: ImageStore) -> ClipStore:
    """Every picture as a clip of one frame: both views come from it, which is learning from images.

    Parameters
    ----------
    pictures : ImageStore

    Returns
    -------
    ClipStore

    Examples
    --------
    >>> still_clips(open_images("builtin")).lengths.tolist()
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    """
    count = len(pictures)
    still = np.zeros(count, bool)
    return ClipStore(
        pictures, np.arange(count + 1), np.zeros(count), pictures.names, still, pictures.left_out, pictures.label
    )


def draw_frame_pairs(
    clips: ClipStore, index: np.ndarray, generator: torch.Generator, *, max_gap_s: float
) -> np.ndarray:
    """Draw two frames of every clip asked for, in random order.

    The gap is uniform in [0, ``max_gap_s``], or up to the clip's duration where that is less; the pair lies anywhere in
    the clip, and its moments are rounded to frames, never to a gap above ``max_gap_s``. A clip of one frame gives it
    twice.

    Parameters
    ----------
    clips : ClipStore
    index : array of int, (B,)
        Clips.
    generator : torch.Generator
    max_gap_s : float
        0: the same frame twice.

    Returns
    -------
    ndarray of int, (B, 2)
        Numbers of frames of ``clips.frames``: of the first view and of the second.

    Raises
    ------
    ValueError
        If ``max_gap_s`` is negative.

    Examples
    --------
    >>> clips = clips_of_arrays([np.zeros((50, 8, 8, 3), np.uint8)], fps=25)
    >>> pairs = draw_frame_pairs(clips, np.zeros(100, int), torch.Generator().manual_seed(0), max_gap_s=0.4)
    >>> int(np.abs(np.diff(pairs)).max()), bool((np.diff(pairs) < 0).any())
    (10, True)
    """
    if not max_gap_s >= 0:
        raise ValueError(f"max_gap_s is {max_gap_s}; expected 0 or more.")
    clock, _ = clips._clock
    gap_share, start_share, order = torch.rand(3, len(index), generator=generator, dtype=torch.float64).numpy()
    duration_s = clips.duration_s[index]
    gap_s = gap_share * np.minimum(max_gap_s, duration_s)
    first = _nearest(clips, index, start_share * (duration_s - gap_s))
    second = np.maximum(_nearest(clips, index, clips.times_s[first] + gap_s), first)
    # Rounding may have made the gap too long by less than one frame.
    second -= clock[second] - clock[first] > max_gap_s + 1e-6
    return np.where((order < 0.5)[:, None], np.stack([first, second], 1), np.stack([second, first], 1))


def _nearest(clips: ClipStore, index: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Frame of each clip that is nearest in time."""
    clock, period_s = clips._clock
    wanted = index * period_s + times_s
    after = np.clip(np.searchsorted(clock, wanted), clips.starts[index], clips.starts[index + 1] - 1)
    before = np.maximum(after - 1, clips.starts[index])
    return np.where(np.abs(clock[after] - wanted) < np.abs(clock[before] - wanted), after, before)


def segments(
    times_s: np.ndarray, *, frames_per_s: float = 0.0, first_s: float = 0.0, segment_s: float = 0.0
) -> list[np.ndarray]:
    """Divide a recording into clips.

    Parameters
    ----------
    times_s : array, (frame,)
        Rising.
    frames_per_s : float
        At most so many frames of each second are kept; 0: all.
    first_s : float
        Only the first seconds are kept; 0: all.
    segment_s : float
        Seconds of a clip: the recording is divided into as many equal parts, none shorter than this, as it holds, one
        at least; 0: one.

    Returns
    -------
    list of ndarray of int
        Positions of the frames of every clip.

    Examples
    --------
    >>> times_s = np.arange(25) / 10
    >>> [len(part) for part in segments(times_s, segment_s=1.0)]
    [13, 12]
    >>> segments(times_s, frames_per_s=2.0, first_s=1.5)
    [array([ 0,  5, 10])]
    """
    times_s = times_s - times_s[0]
    kept = np.arange(len(times_s))
    if first_s > 0:
        kept = kept[times_s < first_s - 1e-6]
    if frames_per_s > 0:
        kept = kept[np.unique(np.floor(times_s[kept] * frames_per_s + 1e-6), return_index=True)[1]]
    if segment_s <= 0 or len(kept) < 2:
        return [kept]
    # The last frame lasts as long as the others do on average.
    duration_s = times_s[kept[-1]] * len(kept) / (len(kept) - 1)
    parts = max(1, math.floor(duration_s / segment_s + 1e-6))
    number = np.minimum(np.floor(times_s[kept] / duration_s * parts + 1e-9).astype(int), parts - 1)
    return [kept[number == part] for part in range(parts) if (number == part).any()]
