"""Pictures placed in a model's field of view, by degrees of visual angle."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neural_fits.vision_model import VisionModel

#: Red, green and blue in luma, ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)
#: Pictures at once where they are placed or their pixels read.
CHUNK = 64


def place(images: np.ndarray | Tensor, *, size_deg: float, model: VisionModel) -> Tensor:
    """Pictures as a model sees them: scaled to degrees, centred in its field, and normalised.

    A picture ``size_deg`` wide takes ``round(size_deg * input_px / field_deg)`` columns, and as many rows as keep its
    shape. It is resized bilinearly, with a filter as wide as the step where it becomes smaller (antialiasing), unless
    it has that size already. What is outside the field is cut off; around smaller pictures the field is
    ``model.background``. Where margins cannot be equal, the right and the lower are one pixel wider. Colour becomes
    grey as ITU-R BT.601 luma; grey becomes three equal channels. Normalisation comes last.

    Parameters
    ----------
    images : array or Tensor, (stimulus, row, column) or (stimulus, row, column, channel)
        uint8, or float in [0, 1]; 1 or 3 channels.
    size_deg : float
        Width of the pictures in degrees of visual angle.
    model : VisionModel

    Returns
    -------
    Tensor, (stimulus, ``model.channels``, ``model.input_px``, ``model.input_px``)
        float32.

    Raises
    ------
    ValueError
        If the size is not known or not positive, or the pictures have another shape, type or range.

    Examples
    --------
    >>> model = VisionModel(torch.nn.Identity(), "eye", channels=1, input_px=8, field_deg=8.0)
    >>> place(np.full((1, 2, 2), 255, dtype=np.uint8), size_deg=2.0, model=model)[0, 0, 2:6, 2:6]
    tensor([[0.5000, 0.5000, 0.5000, 0.5000],
            [0.5000, 1.0000, 1.0000, 0.5000],
            [0.5000, 1.0000, 1.0000, 0.5000],
            [0.5000, 0.5000, 0.5000, 0.5000]])
    """
    height, width = picture_size(images, size_deg, model)
    placed = torch.full((len(images), model.channels, model.input_px, model.input_px), float(model.background))
    rows_in, rows_out = _overlap(height, model.input_px)
    columns_in, columns_out = _overlap(width, model.input_px)
    for start in range(0, len(images), CHUNK):
        pictures = _levels(some_pictures(images, slice(start, start + CHUNK)), model.channels)
        if pictures.shape[-2:] != (height, width):
            pictures = F.interpolate(pictures, (height, width), mode="bilinear", align_corners=False, antialias=True)
        placed[start : start + CHUNK, :, rows_out, columns_out] = pictures[..., rows_in, columns_in]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (model.mean, model.std))
    return placed.sub_(mean).div_(std)


def some_pictures(images: Any, rows: slice | Sequence[int]) -> Tensor:
    """Some pictures, copied: the array may be read-only, or a file."""
    return images[rows].detach().cpu() if isinstance(images, Tensor) else torch.from_numpy(np.array(images[rows]))


def picture_size(images: Any, size_deg: float, model: VisionModel) -> tuple[int, int]:
    """Rows and columns that pictures take in the input of a model."""
    shape = tuple(images.shape)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or 0 in shape:
        raise ValueError(
            f"images have shape {shape}; expected (stimulus, row, column), or 1 or 3 channels after these."
        )
    if not (isinstance(size_deg, int | float | np.number) and math.isfinite(size_deg)):
        raise ValueError(
            f"size_deg is {size_deg}: how large the pictures were shown is not known; give the width in degrees that "
            "you assume, such as size_deg=4.0."
        )
    width = round(float(size_deg) * model.input_px / model.field_deg)
    height = round(width * shape[1] / shape[2])
    if min(width, height) < 1:
        raise ValueError(
            f"size_deg is {size_deg}: pictures of {shape[1]} x {shape[2]} would take {height} x {width} pixels of "
            f"{model.name}, which has {model.pixels_per_degree:.3g} to a degree; expected at least one."
        )
    return height, width


def _overlap(size_px: int, input_px: int) -> tuple[slice, slice]:
    """The part of a line of pixels that is in the field, and the part of the field that it fills."""
    if size_px >= input_px:
        start = (size_px - input_px) // 2
        return slice(start, start + input_px), slice(None)
    start = (input_px - size_px) // 2
    return slice(None), slice(start, start + size_px)


def _levels(pictures: Tensor, channels: int) -> Tensor:
    """Float pictures (stimulus, channel, row, column) in [0, 1]."""
    if pictures.dtype == torch.uint8:
        pictures = pictures.float() / 255
    elif pictures.is_floating_point():
        pictures = pictures.float()
        low, high = (float(x) for x in pictures.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images reach from {low:g} to {high:g}; expected floats in [0, 1], or uint8.")
    else:
        raise ValueError(f"images are {pictures.dtype}; expected uint8, or floats in [0, 1].")
    pictures = pictures[:, None] if pictures.ndim == 3 else pictures.movedim(3, 1)
    if pictures.shape[1] == channels:
        return pictures
    if channels == 3:
        return pictures.expand(-1, 3, -1, -1)
    return (pictures * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
