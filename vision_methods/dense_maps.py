"""Maps of any layer of any model for photographs of any shape, and the place of every pixel in them.

A photograph is shown whole: its longer side takes the field of the model, it lies in the centre, and the background of
the model is around it. The places of a layer are taken to divide the input of the model into equal cells.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from neural_fits.placing import picture_size, place
from neural_fits.vision_model import VisionModel, device_of, layer_responses
from vision_methods.segments import SegmentedImages


def as_maps(response: Tensor, layer: str) -> Tensor:
    """Maps of what a layer gives for a batch.

    Parameters
    ----------
    response : Tensor
        Maps (batch, channel, row, column); a vector (batch, feature), which is maps of one place; or tokens (batch,
        token, channel) of a square grid, row by row, with or without a class token before them.
    layer : str
        For the error.

    Returns
    -------
    Tensor, (batch, channel, row, column)

    Raises
    ------
    ValueError
        If it is nothing of the kind.

    Examples
    --------
    >>> as_maps(torch.zeros(2, 50, 8), "blocks.0").shape
    torch.Size([2, 8, 7, 7])
    """
    if response.ndim == 4:
        return response
    if response.ndim == 2:
        return response[..., None, None]
    if response.ndim == 3:
        for first in (0, 1):
            side = math.isqrt(response.shape[1] - first)
            if side and side**2 == response.shape[1] - first:
                return response[:, first:].unflatten(1, (side, side)).movedim(3, 1)
    raise ValueError(
        f"layer {layer} has shape {tuple(response.shape[1:])} for a picture; expected maps (channel, row, column), a "
        "vector, or tokens of a square grid."
    )


def pooled_features(
    model: VisionModel,
    images: Any,
    layers: Sequence[str],
    *,
    n_features: int = 4096,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Features of layers, each averaged to the finest grid that gives at most so many (Zhang et al. 2016, *ECCV*).

    Parameters
    ----------
    model : VisionModel
    images : array of uint8, (picture, row, column[, channel])
        Squares that fill the field; anything with a length that can be sliced to such arrays.
    layers : sequence of str
    n_features : int
        Where a layer has more channels than that, they are averaged over all places.
    batch_size : int
    progress : bool

    Returns
    -------
    dict of str to ndarray, (picture, feature)
        float32.

    Examples
    --------
    >>> model = VisionModel(torch.nn.Identity(), "eye", input_px=32)
    >>> pooled_features(model, np.zeros((5, 32, 32, 3), np.uint8), ["output"], n_features=100)["output"].shape
    (5, 75)
    """
    if n_features < 1:
        raise ValueError(f"n_features is {n_features}; expected at least 1.")
    found: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
    with tqdm(total=len(images), desc=model.name, unit="picture", disable=not progress) as bar:
        for start in range(0, len(images), batch_size):
            shown = place(images[start : start + batch_size], size_deg=model.field_deg, model=model)
            for layer, response in layer_responses(model, shown.to(device_of(model)), layers).items():
                maps = as_maps(response, layer).float()
                side = max(1, math.isqrt(n_features // maps.shape[1]))
                pooled = F.adaptive_avg_pool2d(maps, (min(side, maps.shape[2]), min(side, maps.shape[3])))
                found[layer].append(pooled.flatten(1).cpu().numpy())
            bar.update(len(shown))
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


class Window(NamedTuple):
    """Where a picture lies in the input of a model, px; it may reach out by a pixel of rounding."""

    top: int
    left: int
    height: int
    width: int
    input_px: int


def picture_window(height: int, width: int, model: VisionModel) -> Window:
    """Window of a picture of so many rows and columns whose longer side takes the whole field.

    Examples
    --------
    >>> picture_window(30, 60, VisionModel(torch.nn.Identity(), "eye", input_px=32))
    Window(top=8, left=0, height=16, width=32, input_px=32)
    """
    size_deg = size_deg_of(height, width, model)
    rows, columns = picture_size(np.broadcast_to(np.uint8(0), (1, height, width)), size_deg, model)
    # As :func:`neural_fits.placing.place` centres and cuts.
    top, left = (
        ((model.input_px - n) // 2) if n < model.input_px else -((n - model.input_px) // 2) for n in (rows, columns)
    )
    return Window(top, left, rows, columns, model.input_px)


def size_deg_of(height: int, width: int, model: VisionModel) -> float:
    """Width in degrees of a picture whose longer side takes the whole field."""
    return model.field_deg * width / max(height, width)


def dense_maps(
    model: VisionModel,
    images: SegmentedImages,
    layers: Sequence[str],
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Maps of layers for every photograph, shown whole.

    Parameters
    ----------
    model : VisionModel
    images : SegmentedImages
    layers : sequence of str
    batch_size : int
    progress : bool

    Yields
    ------
    dict of str to Tensor, (channel, row, column)
        Of one photograph, float32, on the CPU.
    """
    with tqdm(total=len(images), desc=f"{model.name}: maps", unit="picture", disable=not progress) as bar:
        for start in range(0, len(images), batch_size):
            pictures = [images.picture(i) for i in range(start, min(start + batch_size, len(images)))]
            sizes = [size_deg_of(*images.sizes[i], model) for i in range(start, start + len(pictures))]
            shown = [place(p[None], size_deg=d, model=model) for p, d in zip(pictures, sizes, strict=True)]
            responses = layer_responses(model, torch.cat(shown).to(device_of(model)), layers)
            maps = {layer: as_maps(response, layer).float().cpu() for layer, response in responses.items()}
            for layer, each in maps.items():
                if each.shape[2:] == (1, 1):
                    raise ValueError(f"layer {layer} of {model.name} has no places; expected maps for segmentation.")
            for i in range(len(pictures)):
                yield {layer: each[i] for layer, each in maps.items()}
                bar.update()


def pixel_places(height: int, width: int, window: Window) -> Tensor:
    """Place of every pixel of a picture in the maps of a model, as :func:`torch.nn.functional.grid_sample` counts.

    Parameters
    ----------
    height, width : int
        Of the picture, px.
    window : Window

    Returns
    -------
    Tensor, (row, column, 2)
        x and y, from -1 to 1 over the input of the model.

    Examples
    --------
    >>> pixel_places(2, 4, Window(8, 0, 16, 32, 32))[:, 0].tolist()
    [[-0.75, -0.25], [-0.75, 0.25]]
    """
    y = (window.top + (torch.arange(height) + 0.5) * window.height / height) * 2 / window.input_px - 1
    x = (window.left + (torch.arange(width) + 0.5) * window.width / width) * 2 / window.input_px - 1
    return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1)


def maps_at(maps: Tensor, places: Tensor) -> Tensor:
    """Maps interpolated bilinearly; beyond the centres of the outermost places they go on as they are.

    Parameters
    ----------
    maps : Tensor, (channel, row, column)
    places : Tensor, (..., 2)
        From :func:`pixel_places`.

    Returns
    -------
    Tensor, (channel, ...)
    """
    grid = places.reshape(1, 1, -1, 2).to(maps)
    values = F.grid_sample(maps[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return values.reshape(len(maps), *places.shape[:-1])


def cells_inside(start: int, length: int, input_px: int, n: int) -> tuple[int, int]:
    """First and last of n equal parts of a line of pixels whose centres are inside; the nearest, where none is.

    Examples
    --------
    >>> cells_inside(8, 16, 32, 4), cells_inside(8, 2, 32, 2)
    ((1, 2), (0, 0))
    """
    first, last = math.ceil(start * n / input_px - 0.5), math.ceil((start + length) * n / input_px - 0.5) - 1
    if last < first:
        first = last = int((start + length / 2) * n / input_px)
    return max(0, min(first, n - 1)), max(0, min(last, n - 1))
