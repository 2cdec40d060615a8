"""Pictures placed in a model's field of view, by degrees of visual angle."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from neural_fits.vision_model import VisionModel

#: Weights of red, green and blue in grey (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


def as_image_batch(images) -> Tensor:
    """Pictures as float32 in [0, 1], (stimulus, channel, row, column).

    Parameters
    ----------
    images : array, (stimulus, row, column) or (stimulus, row, column, channel)
        uint8, or floating point in [0, 1]; 1 or 3 channels.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError
        If shape, type or range are others.

    Examples
    --------
    >>> as_image_batch(np.full((2, 4, 4), 255, dtype=np.uint8)).shape
    torch.Size([2, 1, 4, 4])
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"pictures have shape {images.shape}; expected (stimulus, row, column) or (stimulus, row, column, 1 or 3)."
        )
    if images.dtype == np.uint8:
        batch = torch.from_numpy(images.astype(np.float32) / np.float32(255))
    elif np.issubdtype(images.dtype, np.floating):
        if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"pictures go from {images.min()} to {images.max()}; expected uint8, or numbers in [0, 1]."
            )
        batch = torch.from_numpy(images.astype(np.float32))
    else:
        raise ValueError(f"pictures are of type {images.dtype}; expected uint8, or floating point in [0, 1].")
    return batch.permute(0, 3, 1, 2)


def place(images, *, size_deg: float, model: VisionModel) -> Tensor:
    """Pictures in the field of view of a model, at their size in degrees, and normalised as it expects.

    A picture is resized, with antialiasing, to ``round(width_deg * pixels_per_degree)`` and put in the middle of the
    background; what is larger than the field is cut off around the middle. Where the difference is odd, the picture is
    half a pixel to the upper left.

    Parameters
    ----------
    images : array, (stimulus, row, column) or (stimulus, row, column, channel)
        As in :func:`as_image_batch`. Grey becomes three equal channels; colour becomes grey by ``LUMA``.
    size_deg : float
        Width of the pictures in degrees; the height follows from their shape.
    model : VisionModel

    Returns
    -------
    Tensor, (stimulus, channel, input_px, input_px), float32

    Raises
    ------
    ValueError
        If the size is unknown (NaN), not positive, or less than a pixel.

    Examples
    --------
    >>> model = VisionModel(torch.nn.Identity(), "eye", field_deg=8.0, input_px=16, channels=1)
    >>> placed = place(np.full((1, 32, 32), 255, dtype=np.uint8), size_deg=4.0, model=model)
    >>> placed[0, 0, 8].tolist() == [0.5] * 4 + [1.0] * 8 + [0.5] * 4
    True
    """
    if math.isnan(size_deg):
        raise ValueError(
            "the size of the pictures in degrees is unknown (NaN); give size_deg, and say that it is assumed."
        )
    if not (math.isfinite(size_deg) and size_deg > 0):
        raise ValueError(f"size_deg is {size_deg}; expected a positive number of degrees.")
    batch = as_image_batch(images)
    if batch.shape[1] == 3 and model.channels == 1:
        batch = torch.einsum("bcij,c->bij", batch, torch.tensor(LUMA))[:, None]
    height, width = batch.shape[2:]
    size_px = (round(size_deg * height / width * model.pixels_per_degree), round(size_deg * model.pixels_per_degree))
    if min(size_px) < 1:
        raise ValueError(
            f"pictures of {size_deg:g} degrees are {size_px[1]} x {size_px[0]} px at {model.pixels_per_degree:.3g} "
            "px/deg; expected at least one pixel."
        )
    if size_px != (height, width):
        batch = interpolate(batch, size=size_px, mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)
    for axis in (2, 3):
        extra = batch.shape[axis] - model.input_px
        if extra > 0:
            batch = batch.narrow(axis, extra // 2, model.input_px)
    missing_rows, missing_columns = (model.input_px - batch.shape[axis] for axis in (2, 3))
    if missing_rows or missing_columns:
        top, left = missing_rows // 2, missing_columns // 2
        batch = pad(batch, (left, missing_columns - left, top, missing_rows - top), value=model.background)
    batch = batch.expand(-1, model.channels, -1, -1)
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (model.mean, model.std))
    return ((batch - mean) / std).contiguous()
