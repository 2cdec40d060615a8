"""Batches of long videos with a label each: made sequences, and recordings on disk.

Also a reader that decodes a recording segment by segment, for videos that are too long to be held whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lcl.images import _decode, _scaled, _strict_pillow
from lcl.labelled_images import central_squares, stratified
from lcl.train import counter_generator
from vision_methods.clip_files import _Frames, _frames_of, _list_clips, _Recording, _video, _write_frame
from vision_methods.clips import ClipStore
from vision_methods.long_sequences import chance, long_sequences
from vision_methods.pictures import own_share


class VideoBatch(NamedTuple):
    """Videos of a step.

    Attributes
    ----------
    videos : Tensor, (B, T, 3, H, W)
        uint8, or floating point in [0, 1].
    labels : Tensor of int64, (B,)
    seeds : tuple of int, (B,)
        One per video, of what its reader draws; different at every step.
    """

    videos: Tensor
    labels: Tensor
    seeds: tuple[int, ...]


class MadeVideos:
    """Delayed match to sample (:mod:`vision_methods.long_sequences`), made anew for every step.

    Parameters
    ----------
    batch : int
        Videos per step, over all processes; each process makes all and keeps its share.
    frames : int
        Of a video.
    short_frames, short_steps : int
        The first so many steps see videos this long.
    size_px, side : int
        Of a frame, and places along it.
    seed : int

    Attributes
    ----------
    classes : tuple of str
        The places.
    chance : float
        Accuracy without memory.

    Examples
    --------
    >>> videos = MadeVideos(batch=4, frames=64, short_frames=16, short_steps=10, seed=0)
    >>> videos(0).videos.shape, videos(10).videos.shape
    (torch.Size([4, 16, 3, 8, 8]), torch.Size([4, 64, 3, 8, 8]))
    """

    def __init__(
        self,
        *,
        batch: int,
        frames: int,
        short_frames: int = 16,
        short_steps: int = 0,
        size_px: int = 8,
        side: int = 2,
        seed: int = 0,
    ) -> None:
        self.own, _ = own_share(batch, batch)
        self.batch, self.frames, self.short_frames, self.short_steps = batch, frames, short_frames, short_steps
        self.task = {"size_px": size_px, "side": side, "end_frames": short_frames // 2}
        self.task["duration_frames"] = max(1, short_frames // 4)
        self.seed, self.classes, self.chance = seed, tuple(f"place {i}" for i in range(side**2)), chance(side)
        self.about = f"Delayed match to sample, {frames} frames of {size_px} px; chance is {self.chance:.3g}"

    def __call__(self, step: int) -> VideoBatch:
        """Videos of a step: this process's share."""
        frames = self.short_frames if step < self.short_steps else self.frames
        return self._made(self.batch, frames, 0, step, self.own)

    def held_out(self, count: int, chunk: int = 64) -> Iterator[VideoBatch]:
        """Videos that no step sees, the same ones at every call."""
        for start in range(0, count, chunk):
            yield self._made(min(chunk, count - start), self.frames, 1, start, slice(None))

    def _made(self, count: int, frames: int, purpose: int, number: int, part: slice) -> VideoBatch:
        made = long_sequences(
            count, frames=frames, generator=counter_generator(self.seed, purpose, number), **self.task
        )
        seeds = counter_generator(self.seed, 2 + purpose, number)
        drawn = torch.randint(2**31, (count,), generator=seeds).tolist()
        return VideoBatch(made.videos[part], made.answers[part], tuple(drawn[part]))


class ClipVideos:
    """Recordings whose frames are spread over as many as a network reads, whatever their number.

    A step draws classes, then one recording of each, alike likely; then a stretch of at least half of it, of which
    frames are taken at equal distances. Frames are central squares; nothing is flipped or changed.

    Parameters
    ----------
    train, held_out : ClipStore
    labels, held_labels : array of int, (clip,)
        Classes of the two.
    classes : tuple of str
        Names.
    batch, frames, short_frames, short_steps, seed : int
        As of :class:`MadeVideos`.
    size_px : int

    Examples
    --------
    >>> from vision_methods.clips import clips_of_arrays
    >>> clips = clips_of_arrays([np.zeros((30, 12, 16, 3), np.uint8), np.ones((9, 12, 16, 3), np.uint8)], fps=10)
    >>> videos = ClipVideos(*labelled_clips(clips), batch=4, frames=8, size_px=12, seed=0)
    >>> videos.classes, videos(0).videos.shape
    (('clip 0', 'clip 1'), torch.Size([4, 8, 3, 12, 12]))
    """

    def __init__(
        self,
        train: ClipStore,
        held_out: ClipStore,
        labels: np.ndarray,
        held_labels: np.ndarray,
        classes: tuple[str, ...],
        *,
        batch: int,
        frames: int,
        short_frames: int = 16,
        short_steps: int = 0,
        size_px: int,
        seed: int,
    ) -> None:
        self.own, _ = own_share(batch, batch)
        self.batch, self.frames, self.short_frames, self.short_steps = batch, frames, short_frames, short_steps
        self.train, self.held, self.labels, self.held_labels = train, held_out, labels, held_labels
        self.size_px, self.seed, self.classes, self.chance = size_px, seed, classes, 1 / len(classes)
        self.of_class = [np.flatnonzero(labels == number) for number in range(len(classes))]
        self.about = f"{train.summary()}\n{len(classes)} classes; {len(held_out)} clips to judge by"

    def __call__(self, step: int) -> VideoBatch:
        """Videos of a step: this process's share."""
        frames = self.short_frames if step < self.short_steps else self.frames
        generator = counter_generator(self.seed, 0, step)
        shares = torch.rand(self.batch, 5, dtype=torch.float64, generator=generator).numpy()
        labels = (shares[:, 0] * len(self.classes)).astype(int)
        clips = [self.of_class[k][int(u * len(self.of_class[k]))] for k, u in zip(labels, shares[:, 1], strict=True)]
        lengths = self.train.lengths[clips]
        kept = np.maximum(1, np.rint(lengths * (1 + shares[:, 2]) / 2)).astype(int)
        starts = self.train.starts[clips] + (shares[:, 3] * (lengths - kept + 1)).astype(int)
        index = starts[:, None] + spread(kept, frames, shares[:, 4])
        drawn = torch.randint(2**31, (self.batch,), generator=generator).tolist()
        return self._batch(self.train, index[self.own], labels[self.own], tuple(drawn[self.own]))

    def held_out(self, count: int, chunk: int = 16) -> Iterator[VideoBatch]:
        """The first so many clips that are held out, each once, from end to end."""
        for start in range(0, min(count, len(self.held)), chunk):
            clips = np.arange(start, min(start + chunk, count, len(self.held)))
            frames = spread(self.held.lengths[clips], self.frames, np.full(len(clips), 0.5))
            index = self.held.starts[clips][:, None] + frames
            yield self._batch(self.held, index, self.held_labels[clips], tuple(clips.tolist()))

    def _batch(self, clips: ClipStore, index: np.ndarray, labels: np.ndarray, seeds: tuple[int, ...]) -> VideoBatch:
        found, place = np.unique(index, return_inverse=True)
        squares = central_squares(clips.by_clip(), self.size_px, found)
        return VideoBatch(squares[place.reshape(index.shape)], torch.from_numpy(labels.astype(np.int64)), seeds)


def spread(lengths: np.ndarray, frames: int, shift: np.ndarray) -> np.ndarray:
    """Frames at equal distances: of each of ``frames`` equal parts the one at a place that is the same in all parts.

    Parameters
    ----------
    lengths : array of int, (B,)
        Frames that there are; fewer than ``frames`` are repeated.
    frames : int
    shift : array, (B,)
        Place within the parts, from 0 to less than 1.

    Returns
    -------
    ndarray of int, (B, frames)
        From 0 to less than the length, rising.

    Examples
    --------
    >>> spread(np.array([8, 2]), 4, np.array([0.5, 0.5]))
    array([[1, 3, 5, 7],
           [0, 0, 1, 1]])
    """
    return np.floor((np.arange(frames) + shift[:, None]) / frames * lengths[:, None]).astype(int)


def labelled_clips(
    clips: ClipStore, *, by: str = "clip", share: float = 0.2, seed: int = 0
) -> tuple[ClipStore, ClipStore, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Divide clips into those to train on and those to judge by, with a class each.

    Parameters
    ----------
    clips : ClipStore
    by : {"clip", "folder"}
        Every clip is a class, and its middle is held out; or the first folder of its name is its class, and whole clips
        are held out.
    share : float
        Held out.
    seed : int
        Of the choice of clips.

    Returns
    -------
    train, held_out : ClipStore
    labels, held_labels : ndarray of int, (clip,)
    classes : tuple of str

    Raises
    ------
    ValueError
        If there are fewer than two classes, or a class is too small to be divided.

    Examples
    --------
    >>> from vision_methods.clips import clips_of_arrays
    >>> clips = clips_of_arrays([np.zeros((10, 8, 8, 3), np.uint8)] * 3, fps=10)
    >>> train, held, labels, *_ = labelled_clips(clips)
    >>> train.lengths.tolist(), held.lengths.tolist(), labels.tolist()
    ([8, 8, 8], [2, 2, 2], [0, 1, 2])
    """
    if by not in ("clip", "folder"):
        raise ValueError(f"classes are by {by!r}; expected clip or folder.")
    folders = [PurePosixPath(name).parts[0] if "/" in name else "" for name in clips.names]
    classes = clips.names if by == "clip" else tuple(sorted(set(folders)))
    if len(classes) < 2 or "" in classes:
        raise ValueError(
            f"{len(clips)} clips are of {len(classes)} classes by {by}; expected at least two, each {by} in the folder "
            "that is given one of them."
        )
    if by == "clip":
        train, held = clips.divided_in_time(share)
        number = {name: i for i, name in enumerate(classes)}
        labels, held_labels = (np.array([number[name] for name in part.names]) for part in (train, held))
        return train, held, labels, held_labels, classes
    labels = np.array([classes.index(folder) for folder in folders])
    kept, out = stratified(labels, share, seed)
    return clips.subset(kept), clips.subset(out), labels[kept], labels[out], classes


def read_recording(
    path: str | os.PathLike[str],
    *,
    segment_frames: int = 16,
    tubelet: int = 2,
    size_px: int,
    assumed_fps: float = 25.0,
) -> tuple[int, Iterator[Tensor]]:
    """Decode a recording segment by segment; no more than a segment is held at a time.

    Parameters
    ----------
    path : path
        Video file, or folder of frames.
    segment_frames : int
    tubelet : int
        Frames at the end that do not fill one are left out.
    size_px : int
        Side of the central squares.
    assumed_fps : float
        As of :func:`vision_methods.clip_files.open_clips`; here the rate changes nothing.

    Returns
    -------
    frames : int
        Of all segments together, known before any is decoded.
    segments : iterator of Tensor, (1, S, 3, size_px, size_px)
        float32, in [0, 1]; the last may be shorter. For :func:`vision_methods.video_memory.stream`.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ValueError
        If it is not one recording, cannot be read, is shorter than a tubelet, or ends before its header says; or
        ``segment_frames`` is no multiple of the tubelet.
    ImportError
        If it is a video file and PyAV is not installed.
    """
    if tubelet < 1 or segment_frames < 1 or segment_frames % tubelet:
        raise ValueError(f"segment_frames is {segment_frames}; expected a multiple of the tubelet, {tubelet}.")
    _, recordings = _list_clips(Path(path).expanduser(), (), None)
    if len(recordings) > 1:
        raise ValueError(f"{os.fspath(path)!r} holds {len(recordings)} recordings; give a file, or a folder of one.")
    found = _frames_of(recordings[0], assumed_fps=assumed_fps)
    if isinstance(found, str):
        raise ValueError(f"{os.fspath(path)!r} cannot be read: {found}.")
    frames = len(found.keys) // tubelet * tubelet
    if not frames:
        raise ValueError(f"{os.fspath(path)!r} has {len(found.keys)} frames; expected at least {tubelet}, one tubelet.")
    return frames, _segments(recordings[0], found, frames, segment_frames, size_px)


def _segments(
    recording: _Recording, found: _Frames, frames: int, segment_frames: int, size_px: int
) -> Iterator[Tensor]:
    squares: list[Tensor] = []
    number = 0
    for number, picture in enumerate(_pictures(recording, found, size_px), 1):
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = torch.from_numpy(picture[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None]
        if side != size_px:
            square = F.interpolate(square, (size_px, size_px), mode="bilinear", antialias=True, align_corners=False)
        squares.append(square)
        if len(squares) == segment_frames or number == frames:
            yield torch.cat(squares)[None].float() / 255
            squares = []
        if number == frames:
            return
    raise ValueError(f"{recording.name} ends after {number} of {frames} frames; the file may be cut off.")


def _pictures(recording: _Recording, found: _Frames, short_side_px: int) -> Iterator[np.ndarray]:
    """Frames (height, width, 3) of a recording, each decoded when it is asked for."""
    if not recording.video:
        for file, sides in zip(found.keys, found.sides, strict=True):
            height, width = _scaled(sides, short_side_px)
            slot = np.empty(height * width * 3, np.uint8)
            with _strict_pillow():
                result = _decode((file, slot), channels=3, short_side_px=short_side_px)
            yield _picture(recording, result, slot)
        return
    height, width = _scaled(found.sides[0], short_side_px)
    with _video(recording.files[0]) as (container, stream):
        for frame in container.decode(stream):
            slot = np.empty(height * width * 3, np.uint8)
            yield _picture(recording, _write_frame(frame, found.sides[0], slot, 3, short_side_px), slot)


def _picture(recording: _Recording, result: tuple[int, int, list[str]] | str, slot: np.ndarray) -> np.ndarray:
    if isinstance(result, str):
        raise ValueError(f"A frame of {recording.name} cannot be read: {result}.")
    return slot.reshape(*result[:2], 3)
