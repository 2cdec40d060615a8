"""Indices of responses to naturalistic textures and to matched noise: modulation, sparseness and tolerance.

Arrays in, arrays out. Axes come in this order: family, sample (pictures of one family that differ in where features
fall), repeat where there are repeats, then any axes of units. The formulas are those used publicly for the V1 and V2
recordings of Freeman, Ziemba et al. (2013) and Ziemba et al. (2016).
"""

from __future__ import annotations

import numpy as np
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
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Arrange responses to a list of pictures by family and sample, textures and noise apart.

    Parameters
    ----------
    responses : array_like, (stimulus, ...)
        Or the pictures themselves.
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
    r = np.asarray(responses)
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
    arranged = np.empty((2, len(families), len(samples), *r.shape[1:]), dtype=r.dtype)
    arranged[place] = r[used]
    return arranged[1], arranged[0], families, samples
