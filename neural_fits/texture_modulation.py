"""Responses to naturalistic textures against spectrally matched noise: modulation, sparseness and tolerance.

Arrays in, arrays out. Axes come in this order: family, sample (pictures of one family that differ in where features
fall), repeat where there are repeats, then any axes of units. The formulas are those used publicly for the V1 and V2
recordings of Freeman, Ziemba et al. (2013) and Ziemba et al. (2016).
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Added to both shares of variance, so that a ratio lies between 0.02 / 1.02 and 51.
VARIANCE_RATIO_FLOOR = 0.02


def modulation_index(texture: ArrayLike, noise: ArrayLike) -> Array:
    """Texture modulation index ``(T - N) / (T + N)`` of mean responses.

    It is undefined, NaN, where ``T + N`` is not positive: no response to either, or responses below the baseline that
    was subtracted, for which the sign of the ratio means nothing. The index of a unit is the mean over its families
    (:func:`mean_defined`), the undefined ones left out and counted. It lies in [-1, 1] where no response is negative.

    Parameters
    ----------
    texture, noise : array_like, same shape
        Mean responses over samples to textures and to noise, such as (family, unit).

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> index = modulation_index([3, 1, 2, 0], [1, 1, 0, 0])
    >>> index
    array([0.5, 0. , 1. , nan])
    >>> mean_defined(index)
    (array(0.5), array(1))
    """
    t, n = np.asarray(texture, dtype=np.float64), np.asarray(noise, dtype=np.float64)
    if t.shape != n.shape:
        raise ValueError(f"texture responses {t.shape} and noise responses {n.shape} differ; expected one shape.")
    return _ratio(t - n, t + n)


def _ratio(numerator: Array, denominator: Array) -> Array:
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1.0), np.nan)


def mean_defined(index: ArrayLike) -> tuple[Array, NDArray[np.int64]]:
    """Mean over families (the first axis) of the indices that are defined, and how many are not.

    Parameters
    ----------
    index : array_like, (family, ...)

    Returns
    -------
    mean : ndarray, (...)
        NaN where no family is defined.
    undefined : ndarray of int, (...)

    Examples
    --------
    >>> mean_defined([[0.2, np.nan], [0.4, np.nan]])
    (array([0.3, nan]), array([0, 2]))
    """
    values = np.asarray(index, dtype=np.float64)
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), np.asarray(len(values) - count)


def sparseness(responses: ArrayLike, *, axis: int | tuple[int, ...] = 0) -> Array:
    """Sparseness ``[1 - mean(r)^2 / mean(r^2)] / (1 - 1/K)`` over ``K`` responses (Vinje and Gallant 2000).

    Over the means of the families it is the selectivity for families; over all pictures, the sparseness. 0: the same
    response to all; 1: a response to one alone.

    Parameters
    ----------
    responses : array_like
        Such as (family, unit), or (family, sample, unit) with ``axis=(0, 1)``.
    axis : int or tuple of int
        Axes of the responses that are compared.

    Returns
    -------
    ndarray
        NaN where all responses are 0.

    Raises
    ------
    ValueError
        If there are fewer than two responses.

    Examples
    --------
    >>> sparseness([[1, 1, 4], [0, 1, 2], [0, 1, 1], [0, 1, 1]]).round(6)
    array([1.      , 0.      , 0.363636])
    """
    r = np.asarray(responses, dtype=np.float64)
    mean, square = r.mean(axis=axis), (r**2).mean(axis=axis)
    k = r.size // max(mean.size, 1)
    if k < 2:
        raise ValueError(f"sparseness over {k} responses (shape {r.shape}, axis {axis}); expected at least two.")
    driven = square > 0
    # differences that are only rounding would make the sparseness of equal responses negative
    lifetime = np.maximum(1 - mean**2 / np.where(driven, square, 1.0), 0.0) / (1 - 1 / k)
    return np.where(driven, lifetime, np.nan)


def stabilised(counts: ArrayLike) -> Array:
    """Spike counts ``x`` with variance made nearly constant: ``sqrt(x) + sqrt(x + 1)`` (Freeman and Tukey 1950).

    Parameters
    ----------
    counts : array_like
        Not negative.

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If a count is negative.

    Examples
    --------
    >>> stabilised([0, 4]).round(3)
    array([1.   , 4.236])
    """
    x = np.asarray(counts, dtype=np.float64)
    if (x < 0).any():
        raise ValueError(f"the smallest spike count is {x.min()}; expected counts of at least 0: rectify them first.")
    return np.sqrt(x) + np.sqrt(x + 1)


def variance_components(responses: ArrayLike, *, repeats: bool = False) -> tuple[Array, Array, Array]:
    """Variance between repeats, samples and families, by a nested analysis of variance.

    With ``a`` families, ``b`` samples and ``n`` repeats: ``residual = MS_res``, ``sample = (MS_samp - MS_res) / n`` and
    ``family = (MS_fam - MS_samp) / (b n)``; without repeats ``residual = 0`` and ``n = 1``. These estimates can fall
    under 0 where the true variance is small; such ones are set to 0.

    Parameters
    ----------
    responses : array_like, (family, sample, ...) or (family, sample, repeat, ...)
        Usually :func:`stabilised` spike counts.
    repeats : bool
        Whether the third axis is repeats.

    Returns
    -------
    residual, sample, family : ndarray, (...)

    Raises
    ------
    ValueError
        If there are fewer than two families, samples or repeats.

    Examples
    --------
    >>> [float(v) for v in variance_components([[[1, 2], [3, 5]], [[8, 9], [11, 12]]], repeats=True)]
    [0.875, 3.375, 24.375]
    """
    x = np.asarray(responses, dtype=np.float64)
    axes = 3 if repeats else 2
    if x.ndim < axes or min(x.shape[:axes]) < 2:
        wanted = "(family, sample, repeat, ...)" if repeats else "(family, sample, ...)"
        raise ValueError(f"responses have shape {x.shape}; expected {wanted} with at least two of each.")
    a, b = x.shape[:2]
    n = x.shape[2] if repeats else 1
    samples = x.mean(axis=2) if repeats else x
    families = samples.mean(axis=1)
    ms_sample = n * ((samples - families[:, None]) ** 2).sum(axis=(0, 1)) / (a * (b - 1))
    ms_family = b * n * ((families - families.mean(axis=0)) ** 2).sum(axis=0) / (a - 1)
    residual = np.zeros_like(ms_sample)
    if repeats:
        residual = ((x - samples[:, :, None]) ** 2).sum(axis=(0, 1, 2)) / (a * b * (n - 1))
    sample = np.maximum(ms_sample - residual, 0.0) / n
    family = np.maximum(ms_family - ms_sample, 0.0) / (b * n)
    return residual, sample, family


def variance_ratio(responses: ArrayLike, *, repeats: bool = False) -> Array:
    """Variance across families over variance across samples: tolerance (Ziemba et al. 2016).

    ``(family / total + 0.02) / (sample / total + 0.02)`` of :func:`variance_components`; the floor bounds it to
    [0.0196, 51].

    Parameters
    ----------
    responses : array_like, (family, sample, ...) or (family, sample, repeat, ...)
        Usually :func:`stabilised` spike counts to textures, averaged over repeats.
    repeats : bool
        Whether the third axis is repeats.

    Returns
    -------
    ndarray, (...)
        NaN where nothing varies.

    Raises
    ------
    ValueError
        If there are fewer than two families, samples or repeats.

    Examples
    --------
    >>> round(float(variance_ratio([[1, 3], [6, 8]])), 6)
    5.185022
    """
    residual, sample, family = variance_components(responses, repeats=repeats)
    total = residual + sample + family
    safe = np.where(total > 0, total, 1.0)
    ratio = (family / safe + VARIANCE_RATIO_FLOOR) / (sample / safe + VARIANCE_RATIO_FLOOR)
    return np.where(total > 0, ratio, np.nan)


def by_family(
    responses: ArrayLike, *, type: ArrayLike, family: ArrayLike, sample: ArrayLike
) -> tuple[Array, Array, NDArray, NDArray]:
    """Arrange responses to a list of pictures by family and sample, textures and noise apart.

    Parameters
    ----------
    responses : array_like, (stimulus, ...)
    type : array_like of str, (stimulus,)
        ``"texture"`` or ``"noise"``; pictures of other types are left out.
    family, sample : array_like, (stimulus,)

    Returns
    -------
    texture, noise : ndarray, (family, sample, ...)
    families, samples : ndarray
        Their labels, sorted.

    Raises
    ------
    ValueError
        If a combination is missing or comes twice.

    Examples
    --------
    >>> labels = dict(type=["texture", "noise"] * 2, family=[7, 7, 9, 9], sample=[1, 1, 1, 1])
    >>> texture, noise, families, samples = by_family([3.0, 1.0, 2.0, 0.0], **labels)
    >>> texture[:, 0], families
    (array([3., 2.]), array([7, 9]))
    """
    r = np.asarray(responses, dtype=np.float64)
    types = np.asarray(type)
    labels = np.asarray(family), np.asarray(sample)
    if not len(r) == len(types) == len(labels[0]) == len(labels[1]):
        raise ValueError(
            f"there are {len(r)} responses and {len(types)}, {len(labels[0])} and {len(labels[1])} labels of type, "
            "family and sample; expected one of each kind per picture."
        )
    used = np.isin(types, ["texture", "noise"])
    if not used.any():
        raise ValueError(f"types are {sorted(set(types.tolist()))}; expected 'texture' and 'noise'.")
    families, f = np.unique(labels[0][used], return_inverse=True)
    samples, s = np.unique(labels[1][used], return_inverse=True)
    grid = np.zeros((2, len(families), len(samples)), dtype=np.int64)
    place = (types[used] == "texture").astype(int), f, s
    np.add.at(grid, place, 1)
    if (grid != 1).any():
        kind, i, j = np.argwhere(grid != 1)[0]
        raise ValueError(
            f"{grid[kind, i, j]} pictures of {['noise', 'texture'][kind]}, family {families[i]}, sample {samples[j]}; "
            "expected exactly one of each type, family and sample."
        )
    arranged = np.empty((2, len(families), len(samples), *r.shape[1:]))
    arranged[place] = r[used]
    return arranged[1], arranged[0], families, samples


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
        index = _ratio(mean_t - mean_n, mean_t + mean_n)
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
        Responses, mean over repeats, baseline subtracted; a recording's come from :func:`by_family`.
    families : array_like, (family,), optional
        Labels.
    spikes_per_response : float
        Turns a response into a spike count for the variance ratio, which is taken of :func:`stabilised` counts
        rectified at 0: 0.1 for rates in spikes/s over 100 ms.
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
