"""Dissimilarity matrices of responses: several distances, and one that noise does not bias.

A matrix is held as its upper triangle, row by row, as ``scipy.spatial.distance.pdist`` gives it.
"""

from __future__ import annotations

import numpy as np
from sklearn.covariance import ledoit_wolf


def mean_patterns(responses) -> np.ndarray:
    """Mean over the repeats that are there.

    Parameters
    ----------
    responses : array, (stimulus, feature) or (stimulus, repeat, feature)
        NaN where a repeat is missing.

    Returns
    -------
    ndarray, (stimulus, feature)

    Raises
    ------
    ValueError
        If the shape is another one, or a mean is not finite.

    Examples
    --------
    >>> mean_patterns([[[1.0], [3.0]], [[4.0], [np.nan]], [[0.0], [0.0]]])[:, 0]
    array([2., 4., 0.])
    """
    responses = np.asarray(responses, dtype=np.float64)
    if responses.ndim not in (2, 3) or len(responses) < 3 or 0 in responses.shape:
        raise ValueError(
            f"responses have shape {responses.shape}; expected (stimulus, feature) or (stimulus, repeat, feature) with "
            "3 stimuli at least."
        )
    if responses.ndim == 3:
        present = ~np.isnan(responses)
        number = present.sum(1)
        total = np.where(present, responses, 0).sum(1)
        responses = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    if not np.isfinite(responses).all():
        feature = int((~np.isfinite(responses)).any(0).argmax())
        raise ValueError(
            f"feature {feature} has a stimulus without a finite response; leave out the feature or the stimulus."
        )
    return responses


def _pairs(squares: np.ndarray) -> np.ndarray:
    return squares[np.triu_indices(len(squares), 1)]


def _from_products(products: np.ndarray) -> np.ndarray:
    """Squared distances of the pairs from inner products."""
    norms = np.diagonal(products)
    return _pairs(norms[:, None] + norms - products - products.T)


def _euclidean(responses, **_) -> np.ndarray:
    x = mean_patterns(responses)
    x = x - x.mean(0)
    return np.maximum(_from_products(x @ x.T), 0) / x.shape[1]


def _angular(x: np.ndarray) -> np.ndarray:
    norm = np.sqrt((x**2).sum(1, keepdims=True))
    x = np.divide(x, norm, out=np.full_like(x, np.nan), where=norm > 0)
    return _pairs(1 - x @ x.T)


def _cosine(responses, **_) -> np.ndarray:
    return _angular(mean_patterns(responses))


def _correlation(responses, **_) -> np.ndarray:
    x = mean_patterns(responses)
    centred = x - x.mean(1, keepdims=True)
    constant = (centred**2).sum(1) <= 1e-26 * (x**2).sum(1)
    return _angular(np.where(constant[:, None], 0, centred))


def noise_precision(responses, *, noise: str = "shrinkage") -> np.ndarray:
    """Inverse covariance of the noise: of the repeats about the mean of their stimulus, one covariance for all stimuli.

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron)
        NaN where missing.
    noise : {"shrinkage", "diagonal"}
        "shrinkage": covariance shrunk towards a multiple of the identity (Ledoit & Wolf 2004), for neurons recorded
        together; repeats that miss a neuron are left out. "diagonal": variances alone, for neurons of several
        recordings, whose trials have nothing to do with each other, or of scattered missing repeats.

    Returns
    -------
    ndarray, (neuron, neuron)
        Both are corrected for the degrees of freedom that the means take.

    Raises
    ------
    ValueError
        If there are too few repeats, a neuron never varies between repeats, or the name is unknown.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> responses = rng.standard_normal((50, 1, 3)) + rng.standard_normal((50, 40, 3)) * [1, 2, 3]
    >>> (1 / noise_precision(responses, noise="diagonal").diagonal()).round(1)
    array([1. , 3.9, 9.1])
    """
    if noise not in ("shrinkage", "diagonal"):
        raise ValueError(f"noise is {noise!r}; expected 'shrinkage' or 'diagonal'.")
    responses = np.asarray(responses, dtype=np.float64)
    if responses.ndim != 3:
        raise ValueError(f"responses have shape {responses.shape}; expected (stimulus, repeat, neuron).")
    present = ~np.isnan(responses)
    if noise == "shrinkage":
        present = np.broadcast_to(present.all(2, keepdims=True), responses.shape)
    number = present.sum(1, keepdims=True)
    mean = np.where(present, responses, 0).sum(1, keepdims=True) / np.maximum(number, 1)
    residuals = np.where(present, responses - mean, 0)
    freedom = np.maximum(number - 1, 0).sum((0, 1))
    if (freedom < 2).any():
        raise ValueError(
            f"neuron {int(freedom.argmin())} has {int(freedom.min())} degrees of freedom of noise; expected repeats "
            "that hold all neurons, or noise='diagonal'."
        )
    variance = (residuals**2).sum((0, 1)) / freedom
    if (variance <= 0).any():
        raise ValueError(f"neuron {int(variance.argmin())} never varies between repeats; leave it out.")
    if noise == "diagonal":
        return np.diag(1 / variance)
    rows = residuals[present[:, :, 0]]
    covariance = ledoit_wolf(rows, assume_centered=True)[0] * (len(rows) / freedom[0])
    return np.linalg.inv(covariance)


def _root(responses, noise) -> np.ndarray:
    precision = noise_precision(responses, noise=noise) if isinstance(noise, str) else np.asarray(noise, float)
    n = np.shape(responses)[-1]
    if precision.shape != (n, n):
        raise ValueError(f"noise has shape {precision.shape}; expected a precision matrix ({n}, {n}).")
    return np.linalg.cholesky(precision)


def _mahalanobis(responses, *, noise="shrinkage", **_) -> np.ndarray:
    return _euclidean(mean_patterns(responses) @ _root(responses, noise))


def _crossnobis(responses, *, noise="shrinkage", n_folds=None, **_) -> np.ndarray:
    responses = np.asarray(responses, dtype=np.float64)
    if responses.ndim != 3 or responses.shape[1] < 2:
        raise ValueError(
            f"responses have shape {responses.shape}; expected (stimulus, repeat, neuron) with 2 repeats at least."
        )
    n_repeats = responses.shape[1]
    n_folds = n_repeats if n_folds is None else n_folds
    if not 2 <= n_folds <= n_repeats:
        raise ValueError(f"n_folds is {n_folds}; expected 2 to {n_repeats}, the number of repeats.")
    root = _root(responses, noise)
    n = responses.shape[0]
    total, own = np.zeros((n, responses.shape[2])), np.zeros((n, n))
    for fold in range(n_folds):
        part = responses[:, fold::n_folds]
        present = ~np.isnan(part)
        number = present.sum(1)
        if (number == 0).any():
            raise ValueError(
                f"neuron {int((number == 0).any(0).argmax())} misses a stimulus in fold {fold} of {n_folds}; take "
                "fewer folds (n_folds=2) or leave it out."
            )
        mean = (np.where(present, part, 0).sum(1) / number) @ root
        total, own = total + mean, own + mean @ mean.T
    return _from_products((total @ total.T - own) / (n_folds * (n_folds - 1))) / responses.shape[2]


#: Dissimilarities by name: functions of responses (and of noise, n_folds for the last two) that give (pair,).
DISTANCES = {
    "correlation": _correlation,
    "euclidean": _euclidean,
    "cosine": _cosine,
    "mahalanobis": _mahalanobis,
    "crossnobis": _crossnobis,
}


def dissimilarity(
    responses,
    *,
    distance: str = "correlation",
    noise: str | np.ndarray = "shrinkage",
    n_folds: int | None = None,
) -> np.ndarray:
    """Dissimilarity of each pair of stimuli, in the order of ``scipy.spatial.distance.pdist``.

    "correlation" and "cosine" are one minus the correlation, or the cosine, of the two patterns. "euclidean" is the
    squared distance over the number of features, "mahalanobis" the same of patterns whitened with the noise
    covariance: ``(x_i - x_j)' P (x_i - x_j) / n``. Noise makes all four grow. "crossnobis" multiplies differences of
    independent folds of the repeats, ``(x_i - x_j)_a' P (x_i - x_j)_b / n``, mean over pairs of folds ``a != b``
    (Nili et al. 2014; Walther et al. 2016): its expectation does not depend on the noise, and is 0 (so estimates below
    0 occur) for stimuli that evoke the same response. It assumes noise that is independent between folds.

    Parameters
    ----------
    responses : array, (stimulus, feature) or (stimulus, repeat, feature)
        Repeats are averaged, except by "crossnobis"; NaN where a repeat is missing.
    distance : str
        A name in :data:`DISTANCES`.
    noise : str or array, (feature, feature)
        For "mahalanobis" and "crossnobis": as in :func:`noise_precision`, or a precision matrix.
    n_folds : int, optional
        For "crossnobis": fold k holds repeats k, k + n_folds ...; one repeat each without it.

    Returns
    -------
    ndarray, (pair,)
        NaN where a pattern without variance (without length) has no correlation (cosine).

    Raises
    ------
    ValueError
        If the distance is unknown, a response is missing, or the repeats do not suffice.

    Examples
    --------
    >>> dissimilarity([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]], distance="euclidean")
    array([12.5,  8. ,  4.5])
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}; expected one of {', '.join(DISTANCES)}.")
    return DISTANCES[distance](responses, noise=noise, n_folds=n_folds)
