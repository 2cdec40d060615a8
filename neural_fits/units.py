"""Single units of a model's layers: which ones, and what they answer to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neural_fits.placing import place
from neural_fits.vision_model import VisionModel, device_of, layer_names, layer_responses

PLACES = ("centre", "all")


@dataclass(frozen=True, eq=False)
class Units:
    """Units of one or several layers of a model, each field but the first two of shape (unit,).

    Attributes
    ----------
    layers : tuple of str
        In the order in which their units come.
    indices : dict of str to ndarray
        Places of each layer's units among its flattened responses.
    layer : ndarray of str
    channel, row, column : ndarray of int
        Where the unit is in its layer; -1 for rows and columns of a layer without a map, whose channels are its
        flattened features.
    """

    layers: tuple[str, ...]
    indices: dict[str, NDArray[np.int64]]
    layer: NDArray
    channel: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.layer)

    def coordinates(self) -> dict[str, tuple[str, NDArray]]:
        """Coordinates over ``unit`` for an xarray Dataset."""
        names = ("layer", "channel", "row", "column")
        return {name: ("unit", getattr(self, name)) for name in names}


def choose_units(
    model: VisionModel,
    layers: str | Sequence[str] | None = None,
    *,
    places: str = "centre",
    n_units: int | None = None,
    seed: int = 0,
) -> Units:
    """Units at the centre of each layer's map, or anywhere, all of them or a random sample.

    The centre of a map of even side is the place after its middle, so the receptive field of a unit can be off the
    middle of the picture by half the layer's stride.

    Parameters
    ----------
    model : VisionModel
    layers : str or sequence of str, optional
        Names or patterns, see :func:`~neural_fits.vision_model.layer_names`.
    places : {"centre", "all"}
        Of layers with a map (batch, channel, row, column).
    n_units : int, optional
        At most so many of each layer, drawn without replacement.
    seed : int
        Of the draw.

    Returns
    -------
    Units

    Raises
    ------
    ValueError
        If ``places`` is unknown, ``n_units`` is not positive, or a layer does not exist.

    Examples
    --------
    >>> model = VisionModel(torch.nn.Conv2d(1, 4, 3), "conv", channels=1, input_px=8, layers=("output",))
    >>> units = choose_units(model)
    >>> len(units), units.channel.tolist(), units.row.tolist(), units.indices["output"].tolist()
    (4, [0, 1, 2, 3], [3, 3, 3, 3], [21, 57, 93, 129])
    """
    if places not in PLACES:
        raise ValueError(f"places is {places!r}; expected one of {PLACES}.")
    if n_units is not None and n_units < 1:
        raise ValueError(f"n_units is {n_units}; expected at least 1.")
    names = tuple(layer_names(model, layers))
    probe = torch.zeros(1, model.channels, model.input_px, model.input_px, device=device_of(model))
    shapes = {name: tuple(r.shape[1:]) for name, r in layer_responses(model, probe, names).items()}
    rng = np.random.default_rng(seed)
    indices, found = {}, []
    for name in names:
        shape = shapes[name] if len(shapes[name]) == 3 else (int(np.prod(shapes[name])), 1, 1)
        index = np.arange(np.prod(shape)).reshape(shape)
        if places == "centre":
            index = index[:, shape[1] // 2, shape[2] // 2]
        index = index.ravel()
        if n_units is not None and n_units < len(index):
            index = np.sort(rng.choice(index, n_units, replace=False))
        channel, row, column = np.unravel_index(index, shape)
        indices[name] = index
        if len(shapes[name]) != 3:
            row, column = row - 1, column - 1
        found.append((np.full(len(index), name), channel, row, column))
    layer, channel, row, column = (np.concatenate(each) for each in zip(*found, strict=True))
    return Units(names, indices, layer, channel, row, column)


def unit_responses(
    model: VisionModel, images: NDArray, units: Units, *, size_deg: float, batch_size: int = 64
) -> NDArray[np.float32]:
    """Responses of some units to pictures.

    Parameters
    ----------
    model : VisionModel
    images : ndarray, (stimulus, row, column[, channel])
        uint8, or floats in [0, 1].
    units : Units
        From :func:`choose_units` of the same model.
    size_deg : float
        Width of the pictures.
    batch_size : int

    Returns
    -------
    ndarray, (stimulus, unit), float32

    Examples
    --------
    >>> model = VisionModel(torch.nn.Conv2d(1, 4, 3), "conv", channels=1, input_px=8, layers=("output",))
    >>> unit_responses(model, np.zeros((5, 8, 8), np.uint8), choose_units(model), size_deg=8.0).shape
    (5, 4)
    """
    device = device_of(model)
    chosen = {name: torch.from_numpy(index).to(device) for name, index in units.indices.items()}
    rows = []
    for first in range(0, len(images), batch_size):
        batch = place(images[first : first + batch_size], size_deg=size_deg, model=model).to(device)
        answers = layer_responses(model, batch, units.layers)
        rows.append(torch.cat([answers[name].flatten(1)[:, chosen[name]] for name in units.layers], dim=1).cpu())
    return torch.cat(rows).float().numpy()
