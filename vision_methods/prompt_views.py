"""How a labelled picture is shown before its patches are remembered: cropped, scaled to a square, changed in colour.

After the public reproduction of Hummingbird's evaluation: the share of the area of a crop is uniform in 0.5 to 2 and
the logarithm of the ratio of its sides in that of 3/4 to 4/3, drawn again until it fits into the picture (so in effect
0.5 to 1); then brightness, contrast, saturation and hue, each with probability 0.5, by at most 0.1. No flip. Labels are
cropped with the picture and keep their own pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neural_fits.placing import LUMA
from vision_methods.two_views import hue

#: Least and most share of the area of a crop, most ratio of its sides, and how often it is drawn before the centre is.
CROP_AREA, CROP_ASPECT, CROP_TRIES = (0.5, 2.0), 4 / 3, 10
#: Largest change of brightness, contrast, saturation and hue, and the probability of each.
JITTER, JITTER_PROBABILITY = 0.1, 0.5


def as_square(picture: np.ndarray, side_px: int) -> Tensor:
    """Picture scaled to a square, bilinearly with antialiasing; its shape is not kept.

    Parameters
    ----------
    picture : array of uint8, or of floats in [0, 1], (row, column, 3)
    side_px : int

    Returns
    -------
    Tensor, (1, side_px, side_px, 3)
        In [0, 1].

    Examples
    --------
    >>> as_square(np.full((10, 20, 3), 51, np.uint8), 8)[0, 0, 0]
    tensor([0.2000, 0.2000, 0.2000])
    """
    picture = np.asarray(picture)
    pixels = torch.from_numpy(picture.astype(np.float32) / (255 if picture.dtype == np.uint8 else 1))
    size = (side_px, side_px)
    scaled = F.interpolate(pixels.movedim(2, 0)[None], size, mode="bilinear", align_corners=False, antialias=True)
    return scaled.clamp(0, 1).movedim(1, 3)


def prompt_window(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Window of a random resized crop, drawn again until it fits; after ten times the largest of the centre.

    Parameters
    ----------
    height, width : int
        Of the picture, px.
    generator : torch.Generator

    Returns
    -------
    top, left, height, width : int

    Examples
    --------
    >>> top, left, height, width = prompt_window(100, 150, torch.Generator().manual_seed(0))
    >>> 0.45 < height * width / 15000 <= 1
    True
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    for _ in range(CROP_TRIES):
        area = height * width * uniform(*CROP_AREA)
        aspect = math.exp(uniform(-math.log(CROP_ASPECT), math.log(CROP_ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = (int(torch.randint(n + 1, (), generator=generator)) for n in (height - h, width - w))
            return top, left, h, w
    w, h = min(width, round(height * CROP_ASPECT)), min(height, round(width * CROP_ASPECT))
    return (height - h) // 2, (width - w) // 2, h, w


def jittered(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue changed, each with a probability of its own, in this order.

    As torchvision's ``ColorJitter``: brightness is a factor, contrast is about the mean luma, saturation is the
    distance from luma, hue a turn of HSV's circle; clipped after each.

    Parameters
    ----------
    pixels : Tensor, (1, row, column, 3)
        In [0, 1].
    generator : torch.Generator

    Returns
    -------
    Tensor, (1, row, column, 3)
    """
    applied = (torch.rand(4, generator=generator) < JITTER_PROBABILITY).tolist()
    changes = (2 * torch.rand(4, generator=generator) - 1) * JITTER
    if applied[0]:
        pixels = _away(pixels, torch.zeros(()), changes[0])
    if applied[1]:
        pixels = _away(pixels, _luma(pixels).mean(), changes[1])
    if applied[2]:
        pixels = _away(pixels, _luma(pixels), changes[2])
    if applied[3]:
        pixels = hue(pixels.movedim(3, 1), changes[3:]).clamp(0, 1).movedim(1, 3)
    return pixels


def _luma(pixels: Tensor) -> Tensor:
    return (pixels * torch.tensor(LUMA)).sum(-1, keepdim=True)


def _away(pixels: Tensor, origin: Tensor, change: Tensor) -> Tensor:
    """Distance from an origin times ``1 + change``, clipped to [0, 1]."""
    return (origin + (1 + change) * (pixels - origin)).clamp(0, 1)


def prompt_view(
    picture: np.ndarray, labels: np.ndarray, side_px: int, generator: torch.Generator
) -> tuple[Tensor, np.ndarray]:
    """Crop of a picture, scaled to a square and changed in colour, and the labels of its own pixels.

    Parameters
    ----------
    picture : array of uint8, (row, column, 3)
    labels : array, (row, column)
    side_px : int
    generator : torch.Generator

    Returns
    -------
    pixels : Tensor, (1, side_px, side_px, 3)
    labels : array
        Of the crop, not scaled.
    """
    top, left, height, width = prompt_window(picture.shape[0], picture.shape[1], generator)
    rows, columns = slice(top, top + height), slice(left, left + width)
    return jittered(as_square(picture[rows, columns], side_px), generator), labels[rows, columns]
