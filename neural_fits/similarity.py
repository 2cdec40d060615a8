"""How alike two representations are: dissimilarities compared (RSA) and kernels aligned (CKA), with noise ceilings.

Dissimilarities come from :mod:`neural_fits.dissimilarity`, CKA from :mod:`neural_fits.kernel_alignment`. Of the same
responses, the whitened cosine of squared Euclidean distances and CKA without debiasing are the same number
(Diedrichsen et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from scipy.spatial.distance import squareform
from scipy.stats import kendalltau, norm, rankdata

from neural_fits.bootstrap import percentile_interval
from neural_fits.ceiling import half_splits, spearman_brown
from neural_fits.dissimilarity import dissimilarity, mean_patterns, noise_precision
from neural_fits.kernel_alignment import bootstrap_cka, linear_cka
from neural_fits.recordings import Recording


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def _rho_a(a: np.ndarray, b: np.ndarray) -> float:
    n = len(a)
    return float(12 * ((rankdata(a) - (n + 1) / 2) @ (rankdata(b) - (n + 1) / 2)) / (n**3 - n))


def _tau_a(a: np.ndarray, b: np.ndarray) -> float:
    n_pairs = len(a) * (len(a) - 1) / 2
    untied = []
    for x in (a, b):
        number = np.unique(x, return_counts=True)[1].astype(float)
        untied.append(1 - (number * (number - 1) / 2).sum() / n_pairs)
    tau_b = kendalltau(a, b, method="asymptotic")[0]
    return float(tau_b * np.sqrt(untied[0] * untied[1]))


def _stimuli_of(n_pairs: int) -> int:
    n = round((1 + np.sqrt(1 + 8 * n_pairs)) / 2)
    if n * (n - 1) // 2 != n_pairs or n < 3:
        raise ValueError(f"{n_pairs} dissimilarities; expected n (n - 1) / 2 for n stimuli, such as 45 for 10.")
    return n


def _whitener(there: np.ndarray):
    """Multiplication by ``V^-1`` where ``V`` is the covariance of the pairs that are there, ``2 I + A A'``.

    Errors of squared distances that share a stimulus correlate: with equal independent noise of the stimuli their
    covariance is proportional to ``V_(ij)(kl) = (d_ik - d_il - d_jk + d_jl)^2``, which is 4 for a pair with itself and
    1 for pairs that share a stimulus (Diedrichsen et al. 2020). ``A`` (pair, stimulus) says who is in a pair, so the
    inverse is ``(I - A (2 I + A'A)^-1 A') / 2`` (Woodbury): a system of stimuli, not of pairs.
    """
    n = _stimuli_of(len(there))
    first, second = (i[there] for i in np.triu_indices(n, 1))
    shared = squareform(there).astype(float)
    np.fill_diagonal(shared, shared.sum(1) + 2)
    inverse = np.linalg.inv(shared)

    def whiten(x: np.ndarray) -> np.ndarray:
        sums = np.bincount(first, x, n) + np.bincount(second, x, n)
        of_stimuli = inverse @ sums
        return (x - of_stimuli[first] - of_stimuli[second]) / 2

    return whiten


def _whitened_cosine(a: np.ndarray, b: np.ndarray, there: np.ndarray) -> float:
    whiten = _whitener(there)
    wa, wb = whiten(a), whiten(b)
    return float(a @ wb / np.sqrt((a @ wa) * (b @ wb)))


def _plain_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(_unit(a) @ _unit(b))


#: Comparisons by name: functions of two sets of dissimilarities (pair,), and of which pairs are there.
COMPARISONS = {
    "pearson": lambda a, b, there: _plain_cosine(a - a.mean(), b - b.mean()),
    "spearman": lambda a, b, there: _plain_cosine(
        rankdata(a) - (len(a) + 1) / 2,
        rankdata(b) - (len(b) + 1) / 2,
    ),
    "kendall_tau_a": lambda a, b, there: _tau_a(a, b),
    "rho_a": lambda a, b, there: _rho_a(a, b),
    "cosine": lambda a, b, there: _plain_cosine(a, b),
    "whitened_cosine": _whitened_cosine,
}


def compare_dissimilarities(a, b, *, comparison: str = "spearman") -> float:
    """How alike two sets of dissimilarities of the same stimuli are; 1 for the same.

    "pearson" and "spearman" are correlations. "kendall_tau_a" and "rho_a" are Kendall's and Spearman's coefficients
    without credit for ties (Nili et al. 2014; Schutt et al. 2023), for models that predict ties. "cosine" needs
    dissimilarities with a meaningful zero (crossnobis). "whitened_cosine" is the cosine after whitening the errors
    that pairs share (Diedrichsen et al. 2020), for squared distances.

    Parameters
    ----------
    a, b : array, (pair,)
        Pairs that are NaN in one of the two are left out of both.
    comparison : str
        A name in :data:`COMPARISONS`.

    Returns
    -------
    float
        NaN where one of the two does not vary, or fewer than 3 pairs are left.

    Raises
    ------
    ValueError
        If the numbers of pairs differ or belong to no number of stimuli, or the comparison is unknown.

    Examples
    --------
    >>> round(compare_dissimilarities([1.0, 2.0, 4.0], [1.0, 3.0, 2.0]), 3)
    0.5
    """
    if comparison not in COMPARISONS:
        raise ValueError(f"comparison is {comparison!r}; expected one of {', '.join(COMPARISONS)}.")
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"dissimilarities have shapes {a.shape} and {b.shape}; expected the same (pair,).")
    _stimuli_of(len(a))
    there = ~(np.isnan(a) | np.isnan(b))
    a, b = a[there], b[there]
    zero = 0 if "cosine" in comparison else 1  # a cosine is defined for dissimilarities that are all the same
    if len(a) < 3 or any(np.ptp(x) <= 1e-13 * np.abs(x).max() if zero else not x.any() for x in (a, b)):
        return float("nan")
    return COMPARISONS[comparison](a, b, there)


def _pooled(dissimilarities: np.ndarray, comparison: str) -> np.ndarray:
    """Dissimilarities that are most like all given ones on average (for tau a, nearly so)."""
    if comparison == "pearson":
        dissimilarities = _unit(dissimilarities - dissimilarities.mean(1, keepdims=True))
    elif comparison == "cosine":
        dissimilarities = _unit(dissimilarities)
    elif comparison == "whitened_cosine":
        whiten = _whitener(np.ones(dissimilarities.shape[1], dtype=bool))
        dissimilarities = np.array([x / np.sqrt(x @ whiten(x)) for x in dissimilarities])
    else:
        dissimilarities = rankdata(dissimilarities, axis=1)
    return dissimilarities.mean(0)


def noise_ceiling(dissimilarities, *, comparison: str = "spearman") -> tuple[float, float]:
    """Bounds on what the true dissimilarities would reach, from several subjects (Nili et al. 2014).

    Lower: mean over subjects of the likeness to all others pooled. Upper: to all pooled, the subject included, which
    no model exceeds on average (for tau a, where mean ranks are only nearly the best, it can be exceeded slightly).
    Assumes that subjects share one true matrix and have independent errors; individual differences count as noise.

    Parameters
    ----------
    dissimilarities : array, (subject, pair)
        Of at least 2 subjects (animals, sessions), all pairs present.
    comparison : str
        A name in :data:`COMPARISONS`.

    Returns
    -------
    lower, upper : float

    Raises
    ------
    ValueError
        If there are fewer than 2 subjects, or a dissimilarity is missing.

    Examples
    --------
    >>> noise_ceiling([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], comparison="kendall_tau_a")
    (1.0, 1.0)
    """
    d = np.asarray(dissimilarities, dtype=np.float64)
    if d.ndim != 2 or len(d) < 2 or not np.isfinite(d).all():
        raise ValueError(
            f"dissimilarities have shape {d.shape}; expected finite (subject, pair) of 2 subjects at least."
        )
    everyone = _pooled(d, comparison)
    upper = [compare_dissimilarities(everyone, x, comparison=comparison) for x in d]
    lower = [
        compare_dissimilarities(_pooled(np.delete(d, subject, 0), comparison), x, comparison=comparison)
        for subject, x in enumerate(d)
    ]
    return float(np.mean(lower)), float(np.mean(upper))


def split_half_ceiling(
    responses,
    *,
    distance: str = "correlation",
    comparison: str = "spearman",
    noise: str | np.ndarray = "shrinkage",
    n_splits: int = 10,
    seed: int = 1,
) -> float:
    """What a noise-free model could reach: square root of the Spearman-Brown corrected likeness of two halves.

    For one recording. The likeness of dissimilarities (or, for ``comparison="cka"``, of kernels) from two halves of the
    repeats, mean over random splits, is carried to all repeats by Spearman-Brown; a true matrix correlates with a
    measured one by the square root of its reliability. Assumes that repeats are exchangeable with independent noise and
    that twice as many repeats halve the error variance of each entry. Where noise outweighs signal they do more than
    that, so the ceiling is a little low (0.75 for 0.80 in a simulation, 0.935 for 0.941 with four times the repeats).

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron)
        NaN where missing.
    distance, comparison, noise
        As in :func:`~neural_fits.dissimilarity.dissimilarity` and :func:`compare_dissimilarities`; "crossnobis" takes
        two folds of each half, so four repeats at least.
    n_splits : int
    seed : int

    Returns
    -------
    float
        NaN where the halves have nothing in common.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> responses = rng.standard_normal((20, 1, 30)) + rng.standard_normal((20, 10, 30))
    >>> 0.8 < split_half_ceiling(responses, comparison="pearson") < 1
    True
    """
    responses = np.asarray(responses, dtype=np.float64)
    if responses.ndim != 3:
        raise ValueError(f"responses have shape {responses.shape}; expected (stimulus, repeat, neuron).")
    if isinstance(noise, str) and distance in ("mahalanobis", "crossnobis"):
        noise = noise_precision(responses, noise=noise)
    likeness = []
    for half in half_splits(responses.shape[1], n_splits=n_splits, seed=seed):
        halves = responses[:, half], responses[:, ~half]
        if comparison == "cka":
            likeness.append(linear_cka(*(mean_patterns(part) for part in halves)))
            continue
        a, b = (dissimilarity(part, distance=distance, noise=noise, n_folds=2) for part in halves)
        likeness.append(compare_dissimilarities(a, b, comparison=comparison))
    reliability = spearman_brown(np.mean(likeness))
    return float(np.sqrt(reliability)) if reliability > 0 else float("nan")


def bootstrap_comparison(
    a, b, *, comparison="spearman", n_resamples: int = 1000, confidence=0.95, seed: int = 0, groups=None
) -> tuple[float, float]:
    """Interval of the likeness of two sets of dissimilarities over resampled stimuli.

    Stimuli are drawn with replacement, the same ones in both. A pair of two copies of one stimulus has dissimilarity 0
    in both by construction and would raise the likeness, so it is left out. Likewise pairs from two copies of one
    group: alike as within a group, they would count as if between groups.

    Parameters
    ----------
    a, b : array, (pair,)
    comparison : str
        A name in :data:`COMPARISONS`.
    n_resamples : int
    confidence : float
    seed : int
    groups : array, (stimulus,), optional
        Labels that are drawn whole, such as the movie of a frame.

    Returns
    -------
    low, high : float
        Central quantiles.

    Examples
    --------
    >>> d = dissimilarity(np.random.default_rng(0).standard_normal((12, 5)))
    >>> low, high = bootstrap_comparison(d, d**2, n_resamples=20)
    >>> round(low, 6), round(high, 6)
    (1.0, 1.0)
    """
    a, b = (squareform(np.asarray(x, dtype=np.float64), checks=False) for x in (a, b))
    labels = np.arange(len(a)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(labels) != len(a):
        raise ValueError(f"groups hold {len(labels)} labels; expected one for each of {len(a)} stimuli.")
    members = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n_resamples):
        copies = rng.integers(0, len(members), len(members))
        drawn = np.concatenate([members[group] for group in copies])
        copy = np.repeat(np.arange(len(copies)), [len(members[group]) for group in copies])
        first, second = np.triu_indices(len(drawn), 1)
        rows, columns = drawn[first], drawn[second]
        apart = (labels[rows] != labels[columns]) | (copy[first] == copy[second])
        pairs = np.where(apart, a[rows, columns], np.nan)
        values.append(compare_dissimilarities(pairs, b[rows, columns], comparison=comparison))
    return percentile_interval(np.array(values), confidence=confidence)


def bootstrap_neurons(
    responses,
    b,
    *,
    distance="correlation",
    comparison="spearman",
    noise="diagonal",
    n_resamples: int = 1000,
    confidence=0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the likeness of measured dissimilarities to ``b`` over resampled neurons.

    The estimate plus and minus the standard deviation over resamples times the normal quantile: fewer different neurons
    make noisier dissimilarities, so resampled likeness as a whole lies below that of all neurons, and its quantiles
    would not hold the estimate.

    Parameters
    ----------
    responses : array, (stimulus, neuron) or (stimulus, repeat, neuron)
    b : array, (pair,)
        Dissimilarities of a model.
    distance, comparison : str
    noise : str
        "diagonal", or None where the distance takes no noise: copies of a neuron have a singular covariance.
    n_resamples : int
    confidence : float
    seed : int

    Returns
    -------
    low, high : float

    Raises
    ------
    ValueError
        If the noise has a covariance.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((12, 40))
    >>> low, high = bootstrap_neurons(x, dissimilarity(x + rng.standard_normal(x.shape)), n_resamples=50)
    >>> low < high
    True
    """
    if distance in ("mahalanobis", "crossnobis") and noise != "diagonal":
        raise ValueError(f"noise is {noise!r}; expected 'diagonal', because resampled neurons repeat.")
    responses = np.asarray(responses, dtype=np.float64)
    n_folds = 2 if distance == "crossnobis" else None
    rng = np.random.default_rng(seed)

    def likeness(neurons: np.ndarray) -> float:
        d = dissimilarity(responses[..., neurons], distance=distance, noise=noise, n_folds=n_folds)
        return compare_dissimilarities(d, b, comparison=comparison)

    n = responses.shape[-1]
    values = [likeness(rng.integers(0, n, n)) for _ in range(n_resamples)]
    reach = float(np.nanstd(values) * norm.ppf((1 + confidence) / 2))
    estimate = likeness(np.arange(n))
    return estimate - reach, estimate + reach


def similarity_table(
    features: Mapping[str, np.ndarray],
    responses,
    *,
    distance: str = "correlation",
    comparisons=("spearman", "whitened_cosine", "cka"),
    n_folds: int | None = 2,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    groups=None,
) -> xr.Dataset:
    """RSA and CKA of each layer with a recording, intervals over stimuli, and the ceiling of each measure.

    Parameters
    ----------
    features : mapping of str to array, (stimulus, feature)
        Activations of each layer.
    responses : Recording or array, (stimulus, repeat, neuron)
        NaN where missing.
    distance : str
        For the responses, a name in :data:`neural_fits.dissimilarity.DISTANCES`; features have no noise, so theirs is
        "euclidean" for "mahalanobis" and "crossnobis".
    comparisons : sequence of str
        Names in :data:`COMPARISONS`, and "cka" (linear, unbiased).
    n_folds : int, optional
        For "crossnobis".
    n_resamples : int
        0 for no intervals.
    confidence : float
    seed : int
    groups : array, (stimulus,), optional
        Stimuli that are drawn together.

    Returns
    -------
    xarray.Dataset
        ``value``, ``low``, ``high`` (layer, measure); ``ceiling`` (measure), NaN where it is not defined. Attributes
        say what was asked.

    Raises
    ------
    ValueError
        If a layer has another number of stimuli than the responses.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((20, 8))
    >>> responses = x[:, None] + rng.standard_normal((20, 6, 8))
    >>> table = similarity_table({"same": x, "other": rng.standard_normal((20, 8))}, responses, n_resamples=20)
    >>> bool((table.value.sel(layer="same") > table.value.sel(layer="other")).all())
    True
    """
    array = responses.repeats() if isinstance(responses, Recording) else np.asarray(responses, dtype=np.float64)
    if array.ndim != 3:
        raise ValueError(f"responses have shape {array.shape}; expected (stimulus, repeat, neuron).")
    measured = dissimilarity(array, distance=distance, n_folds=n_folds)
    means = mean_patterns(array)
    of_features = "euclidean" if distance in ("mahalanobis", "crossnobis") else distance
    measures = list(comparisons)
    value, low, high = (np.full((len(features), len(measures)), np.nan) for _ in range(3))
    options = {"n_resamples": n_resamples, "confidence": confidence, "seed": seed, "groups": groups}
    for row, (layer, x) in enumerate(features.items()):
        x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
        if len(x) != len(array):
            raise ValueError(f"layer {layer!r} has {len(x)} stimuli; expected {len(array)}, as the responses.")
        modelled = dissimilarity(x, distance=of_features)
        for column, name in enumerate(measures):
            if name == "cka":
                value[row, column] = linear_cka(x, means)
                ends = bootstrap_cka(x, means, **options) if n_resamples else (np.nan, np.nan)
            else:
                value[row, column] = compare_dissimilarities(modelled, measured, comparison=name)
                ends = (np.nan, np.nan)
                if n_resamples:
                    ends = bootstrap_comparison(modelled, measured, comparison=name, **options)
            low[row, column], high[row, column] = ends
    ceiling = [split_half_ceiling(array, distance=distance, comparison=name, seed=seed) for name in measures]
    cells = ("layer", "measure")
    return xr.Dataset(
        {"value": (cells, value), "low": (cells, low), "high": (cells, high), "ceiling": ("measure", ceiling)},
        coords={"layer": list(features), "measure": measures},
        attrs={"distance": distance, "confidence": confidence, "n_resamples": n_resamples, "seed": seed},
    )
