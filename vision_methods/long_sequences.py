"""Delayed match to sample: made videos in which an early cue decides what the right answer is at the end.

A frame is divided into places (2 x 2). Somewhere in the first frames the *sample* shows one colour in every place,
marked by a white centre; somewhere in the last frames the *choice* shows every colour once, each in a place, marked
likewise. The answer is the place of the sample's colour. Before, after and in between, squares of the same colours with
a black centre come and go, over noise.

The colour of the sample and the order of the choice are independent, so each alone leaves all places equally likely:
whoever answers from frames that hold only one of the two is right once in as many times as there are places
(:func:`chance`). Adding up one score per answer from each does not help either. What has been kept of the sample when
the choice appears decides.
"""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import torch
from torch import Tensor


class LongSequences(NamedTuple):
    """What :func:`long_sequences` makes.

    Attributes
    ----------
    videos : Tensor of float32, (B, T, 3, H, W)
        In [0, 1].
    answers : Tensor of int64, (B,)
        Place of the sample's colour, row by row.
    sample : Tensor of int64, (B,)
        Colour of the sample.
    choice : Tensor of int64, (B, places)
        Colour of every place in the choice.
    sample_frame, choice_frame : Tensor of int64, (B,)
        First frames of the two.
    """

    videos: Tensor
    answers: Tensor
    sample: Tensor
    choice: Tensor
    sample_frame: Tensor
    choice_frame: Tensor


def chance(side: int = 2) -> float:
    """Share of right answers without memory: one over the number of places.

    Parameters
    ----------
    side : int
        Places along each side of a frame.

    Returns
    -------
    float

    Examples
    --------
    >>> chance()
    0.25
    """
    return 1 / side**2


def symbols(place_px: int, side: int = 2) -> Tensor:
    """Pictures that places show.

    Parameters
    ----------
    place_px : int
        Side of a place.
    side : int
        Places along each side of a frame; there are as many colours as places.

    Returns
    -------
    Tensor, (1 + 2 * colours, 3, place_px, place_px)
        In [0, 1]: nothing (grey), a distractor of each colour, a marked square of each colour.

    Examples
    --------
    >>> symbols(4).shape
    torch.Size([9, 3, 4, 4])
    """
    colours = [colorsys.hsv_to_rgb(number / side**2, 1.0, 0.8) for number in range(side**2)]
    shown = torch.tensor([(0.5,) * 3, *colours, *colours])[:, :, None, None]
    shown = shown.expand(-1, -1, place_px, place_px).clone()
    centre = slice(place_px // 4, place_px - place_px // 4)
    shown[1 : 1 + side**2, :, centre, centre] = 0.0
    shown[1 + side**2 :, :, centre, centre] = 1.0
    return shown


def long_sequences(
    count: int,
    *,
    frames: int = 64,
    end_frames: int = 8,
    size_px: int = 8,
    side: int = 2,
    duration_frames: int = 4,
    distractors: float = 0.5,
    noise: float = 0.1,
    generator: torch.Generator | None = None,
) -> LongSequences:
    """Make videos whose late answer an early cue decides.

    Parameters
    ----------
    count : int
        B.
    frames : int
        T, at least twice ``end_frames``.
    end_frames : int
        The sample lies within the first so many frames, the choice within the last.
    size_px : int
        Side of a frame, a multiple of ``side``.
    side : int
        Places along each side, at least 2.
    duration_frames : int
        How long sample, choice and every distractor last.
    distractors : float
        Share of the time in which a place shows one.
    noise : float
        Standard deviation of the noise on every pixel, before it is cut to [0, 1].
    generator : torch.Generator, optional

    Returns
    -------
    LongSequences

    Raises
    ------
    ValueError
        If a setting is out of range.

    Examples
    --------
    >>> made = long_sequences(3, generator=torch.Generator().manual_seed(0))
    >>> made.videos.shape
    torch.Size([3, 64, 3, 8, 8])
    >>> bool((made.choice[torch.arange(3), made.answers] == made.sample).all())
    True
    """
    if side < 2 or size_px < side or size_px % side:
        raise ValueError(f"size_px is {size_px} for {side} x {side} places; expected a multiple of side, from 2 up.")
    if not 1 <= duration_frames <= end_frames or frames < 2 * end_frames:
        raise ValueError(
            f"frames, end_frames and duration_frames are {frames}, {end_frames} and {duration_frames}; expected a "
            "duration of 1 to end_frames, and at least twice end_frames in all."
        )
    if count < 1 or not 0 <= distractors <= 1 or noise < 0:
        raise ValueError(
            f"count, distractors and noise are {count}, {distractors} and {noise}; expected at least 1, a share from 0 "
            "to 1, and 0 or more."
        )
    places = side**2
    choice = torch.rand(count, places, generator=generator).argsort(1)
    answers = torch.randint(places, (count,), generator=generator)
    sample = choice.gather(1, answers[:, None])[:, 0]
    starts = torch.randint(end_frames - duration_frames + 1, (2, count), generator=generator)
    sample_frame, choice_frame = starts[0], starts[1] + frames - end_frames

    # Every place has distractors of its own, which begin at moments of their own.
    spans = -(-frames // duration_frames) + 1
    kinds = torch.randint(1, places + 1, (count, spans, places), generator=generator)
    kinds *= torch.rand(count, spans, places, generator=generator) < distractors
    offset = torch.randint(duration_frames, (count, 1, places), generator=generator)
    time = torch.arange(frames).view(1, -1, 1)
    shown = kinds.gather(1, (time + offset) // duration_frames)
    for first, marked in ((sample_frame, sample[:, None]), (choice_frame, choice)):
        since = time - first.view(-1, 1, 1)
        shown = torch.where((since >= 0) & (since < duration_frames), 1 + places + marked[:, None], shown)

    pictures = symbols(size_px // side, side)[shown].unflatten(2, (side, side))
    # (video, time, row of places, column of places, channel, row, column)
    videos = pictures.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, frames, 3, size_px, size_px)
    videos = videos + noise * torch.randn(videos.shape, generator=generator)
    return LongSequences(videos.clamp_(0, 1), answers, sample, choice, sample_frame, choice_frame)
