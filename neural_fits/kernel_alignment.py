"""Centred kernel alignment (CKA): how alike two representations are up to rotation and one scale.

``CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` of the kernels (stimulus x stimulus) of two representations
(Kornblith et al. 2019). The plain estimate of HSIC grows with the number of features over stimuli, so unlike
representations of a few hundred stimuli look alike; the unbiased one (Song et al. 2012) has expectation 0 for
independent ones. Their ratio is not exactly unbiased: numerator and denominators are.

Noise in responses is not removed: it adds to ``HSIC(L, L)`` off the diagonal and lowers CKA. Divide by the ceiling of
:func:`neural_fits.similarity.split_half_ceiling`.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student_t

from neural_fits.bootstrap import percentile_interval, resampled_counts


def _centred(x, name: str) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or len(x) < 4 or x.shape[1] == 0:
        raise ValueError(f"{name} has shape {x.shape}; expected (stimulus, feature) with 4 stimuli at least.")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} has values that are missing or infinite; leave out their stimuli or features.")
    return x - x.mean(0)


def _both(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = _centred(x, "x"), _centred(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} stimuli and y {len(y)}; expected the same stimuli.")
    return x, y


def _ratio(cross: float, own_x: float, own_y: float) -> float:
    """NaN where a representation does not vary (or, unbiased, no more than chance)."""
    return float(cross / np.sqrt(own_x * own_y)) if own_x > 0 and own_y > 0 else float("nan")


def _unbiased(product: float, sums_k: np.ndarray, sums_l: np.ndarray) -> float:
    """``n (n - 3)`` times the estimator of Song et al. (2012) for kernels without their diagonals.

    From ``product = sum_ij K_ij L_ij`` and the sums of the rows.
    """
    n = len(sums_k)
    return product + sums_k.sum() * sums_l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (sums_k @ sums_l)


def _by_features(x: np.ndarray, y: np.ndarray, unbiased: bool) -> float:
    """HSIC (times a constant) of linear kernels through ``x'y``, for few features."""
    product = ((x.T @ y) ** 2).sum()
    if not unbiased:
        return float(product)
    diagonal_x, diagonal_y = (x**2).sum(1), (y**2).sum(1)
    # x is centred, so a row of its kernel sums to 0, and without the diagonal to minus that
    return float(_unbiased(product - diagonal_x @ diagonal_y, -diagonal_x, -diagonal_y))


def linear_cka(x, y, *, unbiased: bool = True) -> float:
    """CKA of linear kernels, over features or over stimuli, whichever is cheaper.

    Parameters
    ----------
    x, y : array, (stimulus, feature)
        The same stimuli; any number of features each. Averages over stimuli are taken out.
    unbiased : bool
        Unbiased estimates of HSIC (Song et al. 2012; for CKA, Nguyen et al. 2021); the plain one without.

    Returns
    -------
    float
        At most 1. The unbiased one can be slightly negative, and above 1 only by noise of its denominators; NaN where
        a representation does not vary.

    Raises
    ------
    ValueError
        If shapes do not fit, there are fewer than 4 stimuli, or a value is not finite.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((20, 5))
    >>> round(linear_cka(x, 3 * x[:, ::-1] + 1), 6)
    1.0
    """
    x, y = _both(x, y)
    n, p, q = len(x), x.shape[1], y.shape[1]
    if p * p + p * q + q * q <= n * (p + q):
        return _ratio(*(_by_features(a, b, unbiased) for a, b in ((x, y), (x, x), (y, y))))
    return kernel_cka(x @ x.T, y @ y.T, unbiased=unbiased)


def kernel_cka(k, kernel_y, *, unbiased: bool = True) -> float:
    """CKA of two kernel matrices.

    Parameters
    ----------
    k, kernel_y : array, (stimulus, stimulus)
        Symmetric.
    unbiased : bool

    Returns
    -------
    float

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((20, 5))
    >>> bool(np.isclose(kernel_cka(x @ x.T, x[:, :2] @ x[:, :2].T), linear_cka(x, x[:, :2])))
    True
    """
    kernels = []
    for kernel in (k, kernel_y):
        kernel = np.array(kernel, dtype=np.float64)
        if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or len(kernel) < 4:
            raise ValueError(f"a kernel has shape {kernel.shape}; expected (stimulus, stimulus) of 4 stimuli at least.")
        if unbiased:
            np.fill_diagonal(kernel, 0)
        else:
            kernel -= kernel.mean(0)
            kernel -= kernel.mean(1, keepdims=True)
        kernels.append(kernel)
    if kernels[0].shape != kernels[1].shape:
        raise ValueError(f"kernels have {len(kernels[0])} and {len(kernels[1])} stimuli; expected the same stimuli.")
    sums = [kernel.sum(1) for kernel in kernels]

    def hsic(a: int, b: int) -> float:
        product = np.vdot(kernels[a], kernels[b])
        return float(_unbiased(product, sums[a], sums[b]) if unbiased else product)

    return _ratio(hsic(0, 1), hsic(0, 0), hsic(1, 1))


def rbf_kernel(x, *, bandwidth: float = 1.0) -> np.ndarray:
    """``exp(-d^2 / (2 s^2))`` of the distances ``d`` of the stimuli, ``s`` = bandwidth times the median distance.

    Parameters
    ----------
    x : array, (stimulus, feature)
    bandwidth : float
        Above 0; the fraction of the median distance as in Kornblith et al. (2019).

    Returns
    -------
    ndarray, (stimulus, stimulus)

    Raises
    ------
    ValueError
        If the bandwidth is not positive, or most stimuli are the same.

    Examples
    --------
    >>> rbf_kernel([[0.0], [1.0], [0.0], [1.0]]).round(2)[0]
    array([1.  , 0.61, 1.  , 0.61])
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}; expected a number above 0.")
    x = _centred(x, "x")
    norms = (x**2).sum(1)
    squares = np.maximum(norms[:, None] + norms - 2 * x @ x.T, 0)
    median = np.median(squares[np.triu_indices(len(x), 1)])
    if not median > 0:
        raise ValueError("the median distance of the stimuli is 0; leave out copies.")
    return np.exp(-squares / (2 * bandwidth**2 * median))


def rbf_cka(x, y, *, bandwidth: float = 1.0, unbiased: bool = True) -> float:
    """CKA of Gaussian kernels, sensitive to near stimuli the more, the narrower they are.

    Parameters
    ----------
    x, y : array, (stimulus, feature)
    bandwidth : float
        As in :func:`rbf_kernel`; wide kernels approach :func:`linear_cka`.
    unbiased : bool

    Returns
    -------
    float

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((20, 5))
    >>> round(rbf_cka(x, 2 * x), 6)
    1.0
    """
    x, y = _both(x, y)
    return kernel_cka(rbf_kernel(x, bandwidth=bandwidth), rbf_kernel(y, bandwidth=bandwidth), unbiased=unbiased)


def weighted_cka(k, kernel_y, counts) -> np.ndarray:
    """Unbiased CKA of resampled stimuli, all resamples at once.

    HSIC is a mean of ``K_ij L_ij + K_ij L_qr - 2 K_ij L_iq`` over different stimuli i, j, q, r; here each term weighs
    as often as its stimuli were drawn, ``w_i w_j w_q w_r``. Copies of one stimulus are the same index, so pairs of them
    never enter (they would count as perfectly alike in both kernels). With ``K, L`` without diagonals, ``H = K L``
    entry by entry, ``k = K w``, ``l = L w`` and power sums ``s_a = sum w^a``:

        A = w'Hw                                       over  s1^2 - s2
        B = sum w k l - w'H w^2                        over  s1^3 - 3 s1 s2 + 2 s3
        C = w'k w'l - 4 sum w^2 k l + 2 w^2'H w^2      over  s1^4 - 6 s1^2 s2 + 3 s2^2 + 8 s1 s3 - 6 s4
        HSIC = A - 2 B + C

    Parameters
    ----------
    k, kernel_y : array, (stimulus, stimulus)
    counts : array, (resample, stimulus)

    Returns
    -------
    ndarray, (resample,)
        NaN where fewer than 4 stimuli were drawn or a denominator is not positive.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((20, 5))
    >>> k, kernel_y = x @ x.T, x[:, :2] @ x[:, :2].T
    >>> bool(np.isclose(weighted_cka(k, kernel_y, np.ones((1, 20)))[0], kernel_cka(k, kernel_y)))
    True
    """
    w = np.asarray(counts, dtype=np.float64)
    kernels = [np.array(kernel, dtype=np.float64) for kernel in (k, kernel_y)]
    for kernel in kernels:
        np.fill_diagonal(kernel, 0)
    s1, s2, s3, s4 = ((w**power).sum(1) for power in (1, 2, 3, 4))
    pairs, triples = s1**2 - s2, s1**3 - 3 * s1 * s2 + 2 * s3
    quadruples = s1**4 - 6 * s1**2 * s2 + 3 * s2**2 + 8 * s1 * s3 - 6 * s4
    enough = (w > 0).sum(1) >= 4
    pairs, triples, quadruples = (np.where(enough, number, np.nan) for number in (pairs, triples, quadruples))
    sums = [w @ kernel for kernel in kernels]

    def hsic(a: int, b: int) -> np.ndarray:
        w_h = w @ (kernels[a] * kernels[b])
        w2_h_w = (w_h * w**2).sum(1)
        w2_h_w2 = ((w**2 @ (kernels[a] * kernels[b])) * w**2).sum(1)
        both = sums[a] * sums[b]
        of_pairs = (w_h * w).sum(1)
        of_triples = (w * both).sum(1) - w2_h_w
        of_quadruples = (w * sums[a]).sum(1) * (w * sums[b]).sum(1) - 4 * (w**2 * both).sum(1) + 2 * w2_h_w2
        return of_pairs / pairs - 2 * of_triples / triples + of_quadruples / quadruples

    cross, own_k, own_l = hsic(0, 1), hsic(0, 0), hsic(1, 1)
    defined = (own_k > 0) & (own_l > 0)
    return np.where(defined, cross / np.sqrt(np.where(defined, own_k * own_l, 1)), np.nan)


def bootstrap_cka(
    x,
    y,
    *,
    kernel: str = "linear",
    bandwidth: float = 1.0,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    groups=None,
) -> tuple[float, float]:
    """Interval of unbiased CKA over stimuli.

    BCa over resampled stimuli; pairs of copies are left out (:func:`weighted_cka`). Where stimuli come in groups that
    are alike, a group drawn twice would count its inner pairs four times, so groups are left out in turn instead
    (jackknife): the estimate plus and minus its standard error times the quantile of Student's t.

    Parameters
    ----------
    x, y : array, (stimulus, feature)
    kernel : {"linear", "rbf"}
    bandwidth : float
        Of "rbf", from the distances of all stimuli.
    n_resamples : int
    confidence : float
    seed : int
    groups : array, (stimulus,), optional
        Labels that are left out whole, such as the movie of a frame; 3 groups at least.

    Returns
    -------
    low, high : float

    Raises
    ------
    ValueError
        If the kernel is unknown or shapes do not fit.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((40, 5))
    >>> low, high = bootstrap_cka(x, x + rng.standard_normal((40, 5)), n_resamples=100)
    >>> low < linear_cka(x, x + 0.9 * rng.standard_normal((40, 5))) < 1
    True
    """
    if kernel not in ("linear", "rbf"):
        raise ValueError(f"kernel is {kernel!r}; expected 'linear' or 'rbf'.")
    x, y = _both(x, y)
    kernels = [a @ a.T if kernel == "linear" else rbf_kernel(a, bandwidth=bandwidth) for a in (x, y)]
    labels = np.arange(len(x)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    n = int(labels.max()) + 1
    if len(labels) != len(x) or n < 3:
        raise ValueError(f"groups hold {len(labels)} labels, {n} different; expected {len(x)}, 3 different at least.")
    without = (labels != np.arange(n)[:, None]).astype(float)
    weights = np.concatenate([np.ones((1, len(x))), without])
    if groups is None:
        weights = np.concatenate([weights, resampled_counts(n, n_resamples=n_resamples, seed=seed)])
    values = weighted_cka(kernels[0], kernels[1], weights)
    estimate, jackknife = float(values[0]), values[1 : 1 + n]
    if groups is None:
        return percentile_interval(values[1 + n :], estimate=estimate, jackknife=jackknife, confidence=confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95.")
    error = np.sqrt((n - 1) / n * ((jackknife - jackknife.mean()) ** 2).sum())
    reach = float(student_t.ppf((1 + confidence) / 2, n - 1) * error)
    return estimate - reach, estimate + reach
