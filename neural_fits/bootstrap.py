"""Bootstrap intervals over neurons and over images."""

from collections.abc import Callable

import numpy as np
from scipy.stats import norm


def percentile_interval(
    values: np.ndarray,
    *,
    estimate: float | None = None,
    jackknife: np.ndarray | None = None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval from bootstrap values: central, or bias-corrected and accelerated (BCa; Efron 1987).

    The ends are the quantiles ``Phi(z0 + (z0 +- z) / (1 - a (z0 +- z)))`` with ``z0 = Phi^-1(share of values below the
    estimate)`` and ``a = sum d^3 / (6 (sum d^2)^1.5)`` for the jackknife's deviations ``d`` below its mean; both are 0
    where not given. They matter for ratios of variances: resampled images repeat, so their variance is too small, and
    the plain interval lies on the wrong side.

    Parameters
    ----------
    values : array, (resample,)
        Undefined ones are left out.
    estimate : float, optional
        Statistic of the data themselves.
    jackknife : array, (item,), optional
        Statistic without each item in turn.
    confidence : float
        In (0, 1).

    Returns
    -------
    low, high : float
        NaN if no value is defined.

    Raises
    ------
    ValueError
        If ``confidence`` is outside (0, 1).

    Examples
    --------
    >>> percentile_interval(np.arange(101.0), confidence=0.5)
    (25.0, 75.0)
    >>> low, high = percentile_interval(np.arange(101.0), estimate=60.0, confidence=0.5)
    >>> round(low, 1), round(high, 1)
    (43.1, 88.0)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95.")
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    z0 = a = 0.0
    if estimate is not None:
        below = ((values < estimate).mean() + (values <= estimate).mean()) / 2
        outermost = 0.5 / len(values)  # all on one side: as far as this many values can tell
        z0 = float(norm.ppf(min(max(below, outermost), 1 - outermost)))
    if jackknife is not None and np.isfinite(jackknife).all():
        d = np.mean(jackknife) - np.asarray(jackknife, dtype=np.float64)
        squares = (d**2).sum()
        a = float((d**3).sum() / (6 * squares**1.5)) if squares > 0 else 0.0
    ends = z0 + float(norm.ppf((1 + confidence) / 2)) * np.array([-1.0, 1.0])
    low, high = np.quantile(values, norm.cdf(z0 + ends / (1 - a * ends)))
    return float(low), float(high)


def resampled_counts(n: int, *, n_resamples: int, seed: int, groups=None) -> np.ndarray:
    """How often each item is drawn in each resample with replacement.

    Parameters
    ----------
    n : int
        Number of items.
    n_resamples : int
    seed : int
    groups : array, (n,), optional
        Labels that are drawn whole: frames of one movie are alike, so single frames would give too narrow intervals.

    Returns
    -------
    ndarray, (resample, n)

    Examples
    --------
    >>> resampled_counts(4, n_resamples=2, seed=0).sum(1)
    array([4., 4.])
    >>> resampled_counts(4, n_resamples=1, seed=0, groups=["a", "a", "b", "b"])
    array([[1., 1., 1., 1.]])
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        return rng.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(np.float64)
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    if len(which) != n:
        raise ValueError(f"groups hold {len(which)} labels; expected one for each of {n} items.")
    return rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)[:, which].astype(float)


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """BCa interval of any statistic of ``n`` items (neurons or images) resampled with replacement.

    Parameters
    ----------
    statistic : callable
        From row numbers to a number; it is also called without each item in turn.
    n : int
    n_resamples : int
    confidence : float
    seed : int

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal(400)
    >>> low, high = bootstrap(lambda rows: x[rows].mean(), len(x))
    >>> round(float((high - low) / (2 * 1.96 * x.std() / 400**0.5)), 1)  # against the normal approximation
    1.0
    """
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, n, n)) for _ in range(n_resamples)])
    items = np.arange(n)
    without = np.array([statistic(np.delete(items, item)) for item in items])
    return percentile_interval(values, estimate=statistic(items), jackknife=without, confidence=confidence)


def weighted_correlations(predicted: np.ndarray, measured: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pearson correlation of each neuron over resampled images, all resamples in five products.

    Parameters
    ----------
    predicted, measured : ndarray, (image, neuron)
    counts : ndarray, (resample, image)
        How often each image is drawn.

    Returns
    -------
    ndarray, (resample, neuron)
        NaN where one of the two is constant over the images drawn.

    Examples
    --------
    >>> x, y = np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [1.0], [5.0]])
    >>> r = weighted_correlations(x, y, np.ones((1, 3)))
    >>> bool(np.isclose(r[0, 0], np.corrcoef(x[:, 0], y[:, 0])[0, 1]))
    True
    """
    x, y = predicted - predicted.mean(0), measured - measured.mean(0)
    total = counts.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mx, my = counts @ x / total, counts @ y / total
        cov = counts @ (x * y) / total - mx * my
        vx, vy = counts @ x**2 / total - mx**2, counts @ y**2 / total - my**2
        # variances that are only rounding of the squares they are differences of
        floor_x, floor_y = 1e-13 * (x**2).mean(0), 1e-13 * (y**2).mean(0)
        defined = (vx > floor_x) & (vy > floor_y) & (vx > 0) & (vy > 0)
        return np.where(defined, cov / np.sqrt(np.where(defined, vx * vy, 1)), np.nan)


def correlations(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Pearson correlation over images of each neuron.

    Parameters
    ----------
    predicted, measured : array, (image, neuron)

    Returns
    -------
    ndarray, (neuron,)
        NaN where one of the two is constant (but for rounding).

    Examples
    --------
    >>> correlations([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]], [[2.0, 0.0], [4.0, 1.0], [6.0, 2.0]])
    array([ 1., nan])
    """
    x, y = (np.asarray(a, dtype=np.float64) for a in (predicted, measured))
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"predicted {x.shape} and measured {y.shape} differ; expected the same (image, neuron).")
    xc, yc = x - x.mean(0), y - y.mean(0)
    sx, sy = (xc**2).sum(0), (yc**2).sum(0)
    defined = (sx > 1e-26 * (x**2).sum(0)) & (sy > 1e-26 * (y**2).sum(0))
    r = (xc * yc).sum(0) / np.sqrt(np.where(defined, sx, 1)) / np.sqrt(np.where(defined, sy, 1))
    return np.where(defined, r, np.nan)
