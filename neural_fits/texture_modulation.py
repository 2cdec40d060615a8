"""Responses to naturalistic textures against spectrally matched noise, with intervals and controls.

Axes come in this order: family, sample (pictures of one family that differ in where features fall), then units. The
indices themselves are those of :mod:`neural_fits.texture_indices`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neural_fits.texture_decoding import decoding, poisson_counts, response_gain
from neural_fits.texture_indices import (
    by_family,
    mean_defined,
    modulation_index,
    sparseness,
    stabilised,
    variance_components,
    variance_ratio,
)
from neural_fits.units import choose_units, unit_responses
from neural_fits.vision_model import VisionModel

__all__ = [
    "bootstrap_modulation",
    "by_family",
    "mean_defined",
    "modulation_index",
    "modulation_p_value",
    "noise_against_noise",
    "sparseness",
    "stabilised",
    "texture_modulation",
    "texture_properties",
    "variance_components",
    "variance_ratio",
]

Array = NDArray[np.float64]

BASELINES = ("subtract", "subtract_unclipped", "keep")


def _as_pair(texture: ArrayLike, noise: ArrayLike) -> tuple[Array, Array]:
    t, n = np.asarray(texture, dtype=np.float64), np.asarray(noise, dtype=np.float64)
    if t.shape != n.shape or t.ndim != 3 or min(t.shape[:2]) < 2:
        raise ValueError(
            f"texture responses {t.shape} and noise responses {n.shape}: expected one shape (family, sample, unit) "
            "with at least two families and two samples."
        )
    return t, n


def _weighted_index(texture: Array, noise: Array, weights_t: Array, weights_n: Array) -> Array:
    """Mean index over families under weights (family, draw, sample) of the samples: (draw, unit)."""
    total = np.zeros((weights_t.shape[1], texture.shape[2]))
    count = np.zeros_like(total)
    for t, n, wt, wn in zip(texture, noise, weights_t, weights_n, strict=True):
        mean_t, mean_n = wt @ t, wn @ n
        index = modulation_index(mean_t, mean_n)
        defined = np.isfinite(index)
        total += np.where(defined, index, 0.0)
        count += defined
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def bootstrap_modulation(texture: ArrayLike, noise: ArrayLike, *, n_resamples: int = 200, seed: int = 0) -> Array:
    """Mean index of every unit over resampled pictures: samples drawn with replacement within each family and type.

    Parameters
    ----------
    texture, noise : array_like, (family, sample, unit)
    n_resamples : int
    seed : int

    Returns
    -------
    ndarray, (resample, unit)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> draws = bootstrap_modulation(3 + rng.random((4, 8, 2)), 1 + rng.random((4, 8, 2)), n_resamples=50)
    >>> draws.shape, bool((draws > 0).all())
    ((50, 2), True)
    """
    t, n = _as_pair(texture, noise)
    rng = np.random.default_rng(seed)
    families, samples = t.shape[:2]
    share = np.full(samples, 1 / samples)
    weights = rng.multinomial(samples, share, size=(2, families, n_resamples)) / samples
    return _weighted_index(t, n, weights[0], weights[1])


def modulation_p_value(texture: ArrayLike, noise: ArrayLike, *, n_permutations: int = 1000, seed: int = 0) -> Array:
    """Two-sided p-value of each unit's index: textures and noise exchanged at random within families.

    ``(1 + number of exchanges with an index at least as far from 0) / (1 + number of exchanges)``.

    Parameters
    ----------
    texture, noise : array_like, (family, sample, unit)
    n_permutations : int
    seed : int

    Returns
    -------
    ndarray, (unit,)
        NaN where the index is undefined.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noise = 1 + rng.random((4, 8, 2))
    >>> p = modulation_p_value(noise + [2.0, 0.0], 1 + rng.random((4, 8, 2)), n_permutations=200)
    >>> p < 0.01
    array([ True, False])
    """
    t, n = _as_pair(texture, noise)
    rng = np.random.default_rng(seed)
    families, samples = t.shape[:2]
    measured = mean_defined(modulation_index(t.mean(axis=1), n.mean(axis=1)))[0]
    both = np.concatenate([t, n], axis=1)
    ranks = rng.random((families, n_permutations, 2 * samples)).argsort(axis=2)
    first = (ranks < samples) / samples
    null = _weighted_index(both, both, first, 1 / samples - first)
    # rounding must not make an exchange that changes nothing count as nearer to 0 than the measured index
    beyond = (np.abs(null) >= np.abs(measured) - 1e-12).sum(axis=0)
    return np.where(np.isfinite(measured), (1 + beyond) / (1 + n_permutations), np.nan)


def noise_against_noise(noise: ArrayLike, *, n_splits: int = 100, seed: int = 0) -> Array:
    """Control: the index of one half of the noise pictures against the other half.

    Its mean over splits goes to 0 whatever the responses are; its spread over splits says how far from 0 an index can
    lie when there is nothing but which pictures were drawn (half as many as in the real comparison).

    Parameters
    ----------
    noise : array_like, (family, sample, unit)
    n_splits : int
        Random splits, drawn anew in every family.
    seed : int

    Returns
    -------
    ndarray, (split, unit)

    Examples
    --------
    >>> control = noise_against_noise(1 + np.random.default_rng(0).random((5, 10, 3)))
    >>> bool(np.abs(control.mean()) < 0.01)
    True
    """
    n = _as_pair(noise, noise)[0]
    rng = np.random.default_rng(seed)
    families, samples = n.shape[:2]
    half = samples // 2
    ranks = rng.random((families, n_splits, samples)).argsort(axis=2)
    one = (ranks < half) / half
    other = ((ranks >= half) & (ranks < 2 * half)) / half
    return _weighted_index(n, n, one, other)


def texture_properties(
    texture: ArrayLike,
    noise: ArrayLike,
    *,
    families: ArrayLike | None = None,
    spikes_per_response: float = 1.0,
    n_resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """All properties of units from their mean responses to textures and noise.

    Parameters
    ----------
    texture, noise : array_like, (family, sample, unit)
        Responses, mean over repeats, baseline subtracted; a recording's come from
        :func:`~neural_fits.texture_indices.by_family`.
    families : array_like, (family,), optional
        Labels.
    spikes_per_response : float
        Turns a response into a spike count for the variance ratio, which is taken of
        :func:`~neural_fits.texture_indices.stabilised` counts rectified at 0: 0.1 for rates in spikes/s over 100 ms.
    n_resamples : int
        Of the bootstrap over pictures (and units, for the population), of the splits and of the exchanges.
    confidence : float
        Of the intervals.
    seed : int

    Returns
    -------
    xarray.Dataset
        Over ``unit``: ``modulation`` with ``modulation_low``, ``modulation_high``, ``modulation_p``,
        ``undefined_families``; ``control``, the mean over splits of noise against noise; ``selectivity_texture``,
        ``selectivity_noise``, ``sparseness_texture``, ``sparseness_noise``, ``variance_ratio``,
        ``max_texture``, ``max_noise``. Over (family, unit): ``modulation_by_family``. Over nothing:
        ``population_modulation`` and ``population_control``, each with ``_low`` and ``_high``;
        ``share_positive``, units with a positive index and p < 0.05; ``undefined_units``. Intervals of the control are
        the spread of its single splits.

    Raises
    ------
    ValueError
        If the shapes differ or are too small.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noise = 1 + rng.random((5, 10, 3))
    >>> units = texture_properties(1.5 * noise, noise)
    >>> units.modulation.values.round(3), int(units.undefined_units)
    (array([0.2, 0.2, 0.2]), 0)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95.")
    t, n = _as_pair(texture, noise)
    means = t.mean(axis=1), n.mean(axis=1)
    by_families = modulation_index(*means)
    modulation, undefined = mean_defined(by_families)
    draws = bootstrap_modulation(t, n, n_resamples=n_resamples, seed=seed)
    control = noise_against_noise(n, n_splits=n_resamples, seed=seed)
    p = modulation_p_value(t, n, n_permutations=n_resamples, seed=seed)
    defined = np.isfinite(modulation)
    ends = (1 - confidence) / 2, (1 + confidence) / 2
    low, high = (_quantile(draws, end) for end in ends)
    rng = np.random.default_rng(seed)
    units = rng.integers(0, t.shape[2], size=draws.shape)
    population = _mean(np.take_along_axis(draws, units, axis=1), axis=1)
    population_control = _mean(control, axis=1)
    unit = {
        "modulation": modulation,
        "modulation_low": low,
        "modulation_high": high,
        "modulation_p": p,
        "undefined_families": undefined,
        "control": _mean(control, axis=0),
        "selectivity_texture": sparseness(means[0]),
        "selectivity_noise": sparseness(means[1]),
        "sparseness_texture": sparseness(t, axis=(0, 1)),
        "sparseness_noise": sparseness(n, axis=(0, 1)),
        "variance_ratio": variance_ratio(stabilised(spikes_per_response * np.maximum(t, 0.0))),
        "max_texture": t.max(axis=(0, 1)),
        "max_noise": n.max(axis=(0, 1)),
    }
    scalar = {
        "population_modulation": _mean(modulation, axis=0),
        "population_modulation_low": _quantile(population, ends[0]),
        "population_modulation_high": _quantile(population, ends[1]),
        "population_control": _mean(population_control, axis=0),
        "population_control_low": _quantile(population_control, ends[0]),
        "population_control_high": _quantile(population_control, ends[1]),
        "share_positive": ((modulation > 0) & (p < 0.05))[defined].mean() if defined.any() else np.nan,
        "undefined_units": int((~defined).sum()),
    }
    return xr.Dataset(
        {
            **{name: ("unit", value) for name, value in unit.items()},
            "modulation_by_family": (("family", "unit"), by_families),
            **{name: ((), value) for name, value in scalar.items()},
        },
        coords={"family": np.arange(len(t)) if families is None else np.asarray(families)},
        attrs={"seed": seed, "n_resamples": n_resamples, "confidence": confidence, "n_samples": t.shape[1]},
    )


def texture_modulation(
    model: VisionModel,
    texture: ArrayLike,
    noise: ArrayLike,
    *,
    size_deg: float,
    layers: str | Sequence[str] | None = None,
    families: ArrayLike | None = None,
    places: str = "centre",
    n_units: int | None = None,
    baseline: str = "subtract",
    population_sizes: Sequence[int] = (1, 3, 10, 30, 100),
    n_repeats: int = 20,
    n_draws: int = 20,
    n_resamples: int = 200,
    seed: int = 0,
    batch_size: int = 64,
) -> xr.Dataset:
    """Texture modulation, selectivity, tolerance and decoding of the units of any layers of any model.

    Responses are rectified. One gain per layer (:func:`~neural_fits.texture_decoding.response_gain`) turns them into
    spikes for the variance ratio and for decoding, where each presentation adds Poisson noise: a network without noise
    would tell any two samples apart. A feed-forward network cannot show the delay of the preference for textures in
    area V2, nor what feedback adds to it.

    Parameters
    ----------
    model : VisionModel
    texture, noise : array_like, (family, sample, row, column[, channel])
        Pictures, uint8 or floats in [0, 1], with their aperture and on the ground they are shown on. Those of a
        :class:`~stimuli.stimulus_set.StimulusSet` are arranged by :func:`~neural_fits.texture_indices.by_family`.
    size_deg : float
        Width of the pictures.
    layers : str or sequence of str, optional
        Names or patterns; the model's own without it.
    families : array_like, (family,), optional
        Labels.
    places : {"centre", "all"}
        Units at the centre of each map, or anywhere.
    n_units : int, optional
        At most so many units per layer, drawn at random.
    baseline : {"subtract", "subtract_unclipped", "keep"}
        Subtract the response to a blank of the background's level and set what falls below to 0, as for neurons;
        leave it negative, as Brain-Score's property benchmarks do for models; or keep the responses as they are.
    population_sizes : sequence of int
        Of decoding; larger ones than a layer has units are NaN, and an empty sequence leaves decoding out.
    n_repeats, n_draws : int
        Presentations of each picture to the decoder, and populations of each size.
    n_resamples : int
        See :func:`texture_properties`.
    seed : int
    batch_size : int
        Pictures at once.

    Returns
    -------
    xarray.Dataset
        :func:`texture_properties` with all layers' units along ``unit`` (coordinates ``unit_layer``, ``channel``,
        ``row``, ``column``), what it says of a population along ``layer``; ``blank`` over unit; ``family_accuracy``
        and ``sample_accuracy`` over (layer, draw, population_size).

    Raises
    ------
    ValueError
        If the pictures do not fit, an option is unknown, or no unit of a layer responds.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 5), torch.nn.ReLU())
    >>> model = VisionModel(net, "net", channels=1, input_px=16, field_deg=2.0, layers=("1",))
    >>> texture, noise = np.random.default_rng(0).random((2, 3, 4, 16, 16))
    >>> units = texture_modulation(model, texture, noise, size_deg=2.0, n_draws=2, population_sizes=(1, 2))
    >>> units.modulation.shape, units.family_accuracy.dims
    ((6,), ('layer', 'draw', 'population_size'))
    """
    pictures = [np.asarray(texture), np.asarray(noise)]
    if pictures[0].shape != pictures[1].shape or pictures[0].ndim not in (5, 4) or min(pictures[0].shape[:2]) < 2:
        raise ValueError(
            f"textures {pictures[0].shape} and noise {pictures[1].shape}: expected one shape (family, sample, row, "
            "column[, channel]) with at least two families and two samples."
        )
    if baseline not in BASELINES:
        raise ValueError(f"baseline is {baseline!r}; expected one of {BASELINES}.")
    grid = pictures[0].shape[:2]
    units = choose_units(model, layers, places=places, n_units=n_units, seed=seed)
    show = {"size_deg": size_deg, "batch_size": batch_size}
    ground = np.full((1, *pictures[0].shape[2:]), model.background, dtype=np.float32)
    blank = np.maximum(unit_responses(model, ground, units, **show)[0].astype(np.float64), 0.0)
    responses = []
    for each in pictures:
        r = np.maximum(unit_responses(model, each.reshape(-1, *each.shape[2:]), units, **show).astype(np.float64), 0.0)
        r = r if baseline == "keep" else r - blank
        responses.append((np.maximum(r, 0.0) if baseline == "subtract" else r).reshape(*grid, -1))
    options = {"families": families, "n_resamples": n_resamples, "seed": seed}
    of_layers = []
    for name in units.layers:
        t, n = (r[..., units.layer == name] for r in responses)
        if not (np.maximum(t, n) > 0).any():
            raise ValueError(f"no unit of layer {name} of {model.name} responds to a picture; choose another layer.")
        gain = response_gain(np.concatenate([t, n]))
        found = texture_properties(t, n, spikes_per_response=gain, **options)
        if any(size <= t.shape[2] for size in population_sizes):
            counts = poisson_counts(t, n_repeats=n_repeats, seed=seed)
            folds = min(5, grid[1], n_repeats)
            growth = decoding(counts, population_sizes=population_sizes, n_draws=n_draws, n_folds=folds, seed=seed)
            found = found.merge(growth.reindex(population_size=list(population_sizes)))
        of_layers.append(found)
    per_unit = [found[[v for v in found if "unit" in found[v].dims]] for found in of_layers]
    per_layer = [found[[v for v in found if "unit" not in found[v].dims]] for found in of_layers]
    joined = xr.concat(per_unit, dim="unit").merge(xr.concat(per_layer, dim="layer"))
    coordinates = {"unit_layer" if k == "layer" else k: v for k, v in units.coordinates().items()}
    about = {"model": model.name, "size_deg": size_deg, "places": places, "baseline": baseline, "n_repeats": n_repeats}
    chances = {"family_chance": 1 / grid[0], "sample_chance": 1 / grid[1]}
    joined = joined.assign(blank=("unit", blank)).assign_coords(layer=list(units.layers), **coordinates)
    return joined.assign_attrs({**of_layers[0].attrs, **about, **chances})


def _mean(values: Array, *, axis: int) -> Array:
    defined = np.isfinite(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _quantile(values: Array, q: float) -> Array:
    """Quantile over the first axis of the defined values."""
    ordered = np.sort(values, axis=0)  # NaN last
    count = np.isfinite(ordered).sum(axis=0)
    place = q * np.maximum(count - 1, 0)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(count - 1, 0))
    first = np.take_along_axis(ordered, np.expand_dims(below, 0), axis=0)[0]
    second = np.take_along_axis(ordered, np.expand_dims(above, 0), axis=0)[0]
    return first + (place - below) * (second - first)
