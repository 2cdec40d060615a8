"""Which family, and which sample of a family, a growing population tells apart (after Ziemba et al. 2016).

Spike counts are decoded by maximum likelihood, neurons taken as independent and Poisson. Decoder and folds are ours:
only the abstract of that paper was available, which says that V2 classifies families better and V1 samples, for
populations of up to 100 cells.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Added to every mean count, so that a silent neuron's first spike is unlikely instead of impossible.
PSEUDO_COUNT = 0.05


def response_gain(responses: ArrayLike, *, median_maximum: float = 3.38) -> float:
    """Gain that turns a model's responses into spikes per presentation.

    The median over units that respond at all of their largest response becomes ``median_maximum``: 33.8 spikes/s, the
    median of the V1 recordings, over 100 ms.

    Parameters
    ----------
    responses : array_like, (..., unit)
        Negative ones count as 0.
    median_maximum : float

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If no unit responds.

    Examples
    --------
    >>> response_gain([[1.0, 0.0, 2.0], [3.0, 0.0, 0.5]], median_maximum=5.0)
    2.0
    """
    r = np.asarray(responses, dtype=np.float64)
    largest = r.reshape(-1, r.shape[-1]).max(axis=0)
    if not (largest > 0).any():
        raise ValueError(f"none of {r.shape[-1]} units responds, so no gain can be found; choose other units.")
    return float(median_maximum / np.median(largest[largest > 0]))


def poisson_counts(
    responses: ArrayLike,
    *,
    n_repeats: int = 20,
    median_maximum: float = 3.38,
    spontaneous: float = 0.082,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Spike counts of a model without noise: Poisson, around responses scaled to the rates of V1.

    One gain for all units, :func:`response_gain`; negative responses count as 0; every mean gets ``spontaneous``
    spikes more. The defaults are 33.8 and 0.82 spikes/s, the medians of the V1 recordings, over 100 ms.

    Parameters
    ----------
    responses : array_like, (family, sample, unit)
    n_repeats : int
    median_maximum, spontaneous : float
        Spikes per presentation.
    seed : int

    Returns
    -------
    ndarray of int, (family, sample, repeat, unit)

    Raises
    ------
    ValueError
        If the shape differs, or no unit responds.

    Examples
    --------
    >>> counts = poisson_counts(np.random.default_rng(0).random((3, 4, 5)), n_repeats=10)
    >>> counts.shape, bool(counts.min() >= 0)
    ((3, 4, 10, 5), True)
    """
    r = np.asarray(responses, dtype=np.float64)
    if r.ndim != 3 or not np.isfinite(r).all():
        raise ValueError(f"responses have shape {r.shape}; expected (family, sample, unit) without missing values.")
    mean = np.maximum(r, 0.0) * response_gain(r, median_maximum=median_maximum) + spontaneous
    return np.random.default_rng(seed).poisson(mean[:, :, None], size=(*r.shape[:2], n_repeats, r.shape[2]))


def _checked(counts: ArrayLike) -> Array:
    x = np.asarray(counts, dtype=np.float64)
    if x.ndim != 4 or min(x.shape[:3]) < 2:
        raise ValueError(
            f"counts have shape {x.shape}; expected (family, sample, repeat, unit) with at least two of each but units."
        )
    if not np.isfinite(x).all() or (x < 0).any():
        raise ValueError("counts hold missing or negative values; expected spike counts: leave such neurons out.")
    return x


def _likeliest(trials: Array, means: Array) -> NDArray[np.int64]:
    """Most likely class of each trial (..., unit), classes (class, unit) of independent Poisson means."""
    rate = means + PSEUDO_COUNT
    return (trials @ np.log(rate).T - rate.sum(axis=1)).argmax(axis=-1)


def family_accuracy(counts: ArrayLike, *, n_folds: int = 5, seed: int = 0) -> float:
    """Share of trials given to the right family by a decoder that has not seen their samples.

    In each fold the mean count of every family is learned from all but ``1 / n_folds`` of its samples and tested on
    the repeats of those left out. Chance is 1 / families.

    Parameters
    ----------
    counts : array_like, (family, sample, repeat, unit)
    n_folds : int
        At most the number of samples.
    seed : int
        Which samples share a fold, drawn anew for each family.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shape differs, counts are missing or negative, or there are more folds than samples.

    Examples
    --------
    >>> rates = np.array([[2.0, 9.0], [9.0, 2.0]])[:, None, None]
    >>> counts = np.random.default_rng(0).poisson(rates, size=(2, 6, 10, 2))
    >>> family_accuracy(counts) > 0.9
    True
    """
    x = _checked(counts)
    families, samples = x.shape[:2]
    if not 2 <= n_folds <= samples:
        raise ValueError(f"n_folds is {n_folds}; expected 2 to {samples}, the number of samples.")
    fold = np.random.default_rng(seed).random((families, samples)).argsort(axis=1) % n_folds
    by_sample = x.mean(axis=2)
    right = 0
    for each in range(n_folds):
        kept = fold != each
        means = (by_sample * kept[..., None]).sum(axis=1) / kept.sum(axis=1)[:, None]
        family, sample = np.nonzero(~kept)
        right += (_likeliest(x[family, sample], means) == family[:, None]).sum()
    return float(right / np.prod(x.shape[:3]))


def sample_accuracy(counts: ArrayLike, *, n_folds: int = 5, seed: int = 0) -> float:
    """Share of trials given to the right sample among those of their family, mean over families.

    In each fold the mean count of every sample is learned from all but ``1 / n_folds`` of its repeats and tested on the
    others. Chance is 1 / samples.

    Parameters
    ----------
    counts : array_like, (family, sample, repeat, unit)
    n_folds : int
        At most the number of repeats.
    seed : int
        Which repeats share a fold.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shape differs, counts are missing or negative, or there are more folds than repeats.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(3.0, size=(4, 5, 20, 10))  # nothing to tell apart
    >>> abs(sample_accuracy(counts) - 0.2) < 0.1
    True
    """
    x = _checked(counts)
    samples, repeats = x.shape[1:3]
    if not 2 <= n_folds <= repeats:
        raise ValueError(f"n_folds is {n_folds}; expected 2 to {repeats}, the number of repeats.")
    fold = np.random.default_rng(seed).permutation(repeats) % n_folds
    truth = np.arange(samples)[:, None]
    right = 0
    for each in range(n_folds):
        means, tested = x[:, :, fold != each].mean(axis=2), x[:, :, fold == each]
        right += sum((_likeliest(t, m) == truth).sum() for t, m in zip(tested, means, strict=True))
    return float(right / np.prod(x.shape[:3]))


def decoding(
    counts: ArrayLike,
    *,
    population_sizes: ArrayLike = (1, 3, 10, 30, 100),
    n_draws: int = 20,
    n_folds: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """Accuracy of family and of sample decoding with growing populations of units drawn at random.

    Parameters
    ----------
    counts : array_like, (family, sample, repeat, unit)
        Spike counts to textures: of a recording, or :func:`poisson_counts` of a model.
    population_sizes : array_like of int
        Those above the number of units are left out.
    n_draws : int
        Populations of each size, units drawn without replacement.
    n_folds : int
    seed : int

    Returns
    -------
    xarray.Dataset
        ``family_accuracy`` and ``sample_accuracy`` over (draw, population_size); chance levels as attributes.

    Raises
    ------
    ValueError
        If no population size fits, or as :func:`family_accuracy`.

    Examples
    --------
    >>> rates = np.random.default_rng(0).gamma(1, 3, size=(3, 5, 1, 40))
    >>> counts = np.random.default_rng(1).poisson(rates, size=(3, 5, 8, 40))
    >>> growth = decoding(counts, population_sizes=(1, 10, 40), n_draws=5).mean("draw")
    >>> bool((growth.sample_accuracy.diff("population_size") > 0).all())
    True
    """
    x = _checked(counts)
    sizes = [int(size) for size in np.atleast_1d(np.asarray(population_sizes)) if 1 <= size <= x.shape[3]]
    if not sizes:
        raise ValueError(f"population_sizes {population_sizes} do not fit {x.shape[3]} units; name smaller ones.")
    rng = np.random.default_rng(seed)
    accuracy = np.empty((2, n_draws, len(sizes)))
    for draw in range(n_draws):
        # a larger population holds the smaller ones, which makes the curve of a draw smoother
        order = rng.permutation(x.shape[3])
        for i, size in enumerate(sizes):
            population = x[..., order[:size]]
            accuracy[0, draw, i] = family_accuracy(population, n_folds=n_folds, seed=seed + draw)
            accuracy[1, draw, i] = sample_accuracy(population, n_folds=n_folds, seed=seed + draw)
    return xr.Dataset(
        {
            "family_accuracy": (("draw", "population_size"), accuracy[0]),
            "sample_accuracy": (("draw", "population_size"), accuracy[1]),
        },
        coords={"population_size": sizes},
        attrs={
            "family_chance": 1 / x.shape[0],
            "sample_chance": 1 / x.shape[1],
            "n_repeats": x.shape[2],
            "n_folds": n_folds,
            "seed": seed,
        },
    )
