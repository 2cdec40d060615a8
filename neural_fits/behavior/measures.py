"""Measures of choices: accuracy, agreement beyond accuracy, shape bias, reaction times.

Pure functions of arrays with one entry for each image. ``correct`` is 1 or 0, or the share of right answers to an image
that was shown repeatedly, NaN where there was no trial; measures of two observers use the images that both saw. No
answer in time is a wrong answer. Nothing takes an absolute value or clips: agreement below chance stays negative.
"""

import numpy as np
from scipy.stats import norm, rankdata

from neural_fits.bootstrap import correlations, percentile_interval, resampled_counts

#: Share of error by rounding up to which two accuracies leave no room for chance.
_ROUNDING = 1e-12


def accuracy(correct) -> float:
    """Share of right answers, over the trials that took place.

    Parameters
    ----------
    correct : array
        1, 0 or a share; NaN where there was no trial.

    Returns
    -------
    float
        NaN if there was none.

    Examples
    --------
    >>> accuracy([1, 0, np.nan, 1, 1])
    0.75
    """
    correct = _checked(correct)
    seen = ~np.isnan(correct)
    return float(correct[seen].mean()) if seen.any() else float("nan")


def accuracy_by_condition(correct, condition) -> dict[str, float]:
    """Accuracy in each condition.

    Parameters
    ----------
    correct : array, (trial,)
    condition : array, (trial,)

    Returns
    -------
    dict of str to float
        In order of appearance.

    Examples
    --------
    >>> accuracy_by_condition([1, 0, 1, 1], ["c50", "c50", "c05", "c05"])
    {'c50': 0.5, 'c05': 1.0}
    """
    correct, condition = _checked(correct), np.asarray(condition)
    if correct.shape != condition.shape:
        raise ValueError(f"correct have shape {correct.shape}, conditions {condition.shape}; expected the same.")
    return {str(label): accuracy(correct[condition == label]) for label in dict.fromkeys(condition.tolist())}


def accuracy_difference(correct_a, correct_b) -> float:
    """Squared difference of two accuracies (Geirhos et al. 2021), over the images that both saw.

    Parameters
    ----------
    correct_a, correct_b : array, (image,)

    Returns
    -------
    float

    Examples
    --------
    >>> round(accuracy_difference([1] * 7 + [0] * 3, [1] * 4 + [0] * 6), 9)
    0.09
    """
    a, b = _both(correct_a, correct_b)
    return float((accuracy(a) - accuracy(b)) ** 2)


def observed_consistency(correct_a, correct_b) -> float:
    """Share of images at which both are right or both are wrong.

    For images with repeats the share is over all pairs of a trial of one and a trial of the other observer:
    ``a b + (1 - a)(1 - b)``.

    Parameters
    ----------
    correct_a, correct_b : array, (image,)

    Returns
    -------
    float

    Examples
    --------
    >>> observed_consistency([1, 1, 0, 0], [1, 0, 0, 0])
    0.75
    """
    a, b = _both(correct_a, correct_b)
    return float((a * b + (1 - a) * (1 - b)).mean()) if len(a) else float("nan")


def expected_consistency(accuracy_a, accuracy_b):
    """Consistency of two observers who err independently: ``p q + (1 - p)(1 - q)``.

    Parameters
    ----------
    accuracy_a, accuracy_b : float or array

    Returns
    -------
    float or array

    Examples
    --------
    >>> round(expected_consistency(0.8, 0.7), 9)
    0.62
    """
    return accuracy_a * accuracy_b + (1 - accuracy_a) * (1 - accuracy_b)


def kappa(observed: float, expected: float, *, undefined: float = 1.0) -> float:
    """Error consistency from its two parts, ``(c - e) / (1 - e)`` (Cohen 1960; Geirhos, Meding & Wichmann 2020).

    Parameters
    ----------
    observed, expected : float
        Consistencies ``c`` and ``e``.
    undefined : float
        Value where both are 1, so that the ratio is 0 / 0 (both observers right on every image, or both wrong). 1 in
        model-vs-human, NaN in Brain-Score.

    Returns
    -------
    float

    Examples
    --------
    >>> round(kappa(0.75, 0.62), 6)
    0.342105
    """
    if np.isnan(observed) or np.isnan(expected):
        return float("nan")
    if 1 - expected <= _ROUNDING:
        return float(undefined)
    return float((observed - expected) / (1 - expected))


def error_consistency(correct_a, correct_b, *, undefined: float = 1.0) -> float:
    """Agreement on which images are hard, beyond what the two accuracies imply: Cohen's kappa of right and wrong.

    Parameters
    ----------
    correct_a, correct_b : array, (image,)
    undefined : float
        As in :func:`kappa`.

    Returns
    -------
    float
        1: the same errors; 0: as independent observers; negative: fewer shared errors than those. NaN if no image was
        seen by both.

    Raises
    ------
    ValueError
        If the arrays differ in shape or hold numbers outside [0, 1].

    Examples
    --------
    >>> error_consistency([1, 1, 0, 0], [1, 1, 0, 0]), error_consistency([1, 1, 0, 0], [1, 0, 1, 0])
    (1.0, 0.0)
    """
    a, b = _both(correct_a, correct_b)
    return kappa(observed_consistency(a, b), expected_consistency(accuracy(a), accuracy(b)), undefined=undefined)


def kappa_bounds(accuracy_a: float, accuracy_b: float) -> tuple[float, float]:
    """Smallest and largest error consistency that two accuracies allow (Geirhos, Meding & Wichmann 2020).

    The number of images that both get right is between ``max(0, p + q - 1)`` and ``min(p, q)``, so the observed
    consistency is between ``|p + q - 1|`` and ``1 - |p - q|``.

    Parameters
    ----------
    accuracy_a, accuracy_b : float
        ``p`` and ``q``.

    Returns
    -------
    low, high : float
        NaN where kappa is undefined (both accuracies 1, or both 0).

    Examples
    --------
    >>> kappa_bounds(0.5, 0.5)
    (-1.0, 1.0)
    >>> [round(bound, 3) for bound in kappa_bounds(0.9, 0.6)]
    [-0.19, 0.286]
    """
    for value in (accuracy_a, accuracy_b):
        if not 0 <= value <= 1:
            raise ValueError(f"accuracy is {value}; expected a share from 0 to 1.")
    expected = expected_consistency(accuracy_a, accuracy_b)
    low, high = abs(accuracy_a + accuracy_b - 1), 1 - abs(accuracy_a - accuracy_b)
    return kappa(low, expected, undefined=float("nan")), kappa(high, expected, undefined=float("nan"))


def consistency_bounds(expected: float) -> tuple[float, float]:
    """Smallest and largest observed consistency for an expected one, whatever the accuracies behind it.

    With ``m = 2 e - 1 = (2p - 1)(2q - 1)``: from ``sqrt(m)`` to 1 for ``m >= 0``, from 0 to ``1 - sqrt(-m)`` below
    (Geirhos, Meding & Wichmann 2020, where the bounds are drawn in a plane of expected and observed consistency).

    Parameters
    ----------
    expected : float

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> consistency_bounds(0.5), consistency_bounds(0.625), consistency_bounds(0.375)
    ((0.0, 1.0), (0.5, 1.0), (0.0, 0.5))
    """
    if not 0 <= expected <= 1:
        raise ValueError(f"expected consistency is {expected}; expected a share from 0 to 1.")
    m = 2 * expected - 1
    return (float(np.sqrt(m)), 1.0) if m >= 0 else (0.0, float(1 - np.sqrt(-m)))


def kappa_standard_error(correct_a, correct_b) -> float:
    """Standard error of the error consistency for many images, by the delta method.

    The square root of the sum of squared influences of the images, over their number. For single trials it is the
    formula of Fleiss, Cohen & Everitt (1969, *Psychological Bulletin* 72:323-327); it also holds for shares.

    Parameters
    ----------
    correct_a, correct_b : array, (image,)

    Returns
    -------
    float
        NaN where kappa is undefined; 0 where it is 1.

    Examples
    --------
    >>> round(kappa_standard_error([1] * 60 + [0] * 40, [1] * 50 + [0] * 10 + [1] * 10 + [0] * 30), 3)
    0.083
    """
    a, b = _both(correct_a, correct_b)
    if len(a) == 0:
        return float("nan")
    p, q = a.mean(), b.mean()
    agree = a * b + (1 - a) * (1 - b)
    observed, expected = agree.mean(), expected_consistency(p, q)
    if 1 - expected <= _ROUNDING:
        return float("nan")
    of_expected = (2 * q - 1) * (a - p) + (2 * p - 1) * (b - q)
    influence = (agree - observed) / (1 - expected) - (1 - observed) / (1 - expected) ** 2 * of_expected
    return float(np.sqrt((influence**2).sum()) / len(a))


def error_consistency_interval(
    correct_a,
    correct_b,
    *,
    method: str = "bootstrap",
    confidence: float = 0.95,
    n_resamples: int = 1000,
    groups=None,
    seed: int = 0,
) -> tuple[float, float]:
    """Confidence interval of the error consistency over images.

    Parameters
    ----------
    correct_a, correct_b : array, (image,)
    method : {"bootstrap", "analytic"}
        Images resampled, with the bias-corrected and accelerated ends of
        :func:`neural_fits.bootstrap.percentile_interval`; or kappa plus and minus a multiple of
        :func:`kappa_standard_error`, which may pass 1 and is too narrow for few images or accuracies near 0 or 1.
    confidence : float
    n_resamples : int
    groups : array, (image,), optional
        Images that are drawn together (bootstrap only), such as those of one category.
    seed : int

    Returns
    -------
    low, high : float
        NaN where kappa is undefined. Resamples where it is undefined are left out.

    Raises
    ------
    ValueError
        If there is no such method, or it cannot draw groups.

    Examples
    --------
    >>> a, b = np.array([1] * 60 + [0] * 40), np.array([1] * 50 + [0] * 10 + [1] * 10 + [0] * 30)
    >>> [round(end, 2) for end in error_consistency_interval(a, b, method="analytic")]
    [0.42, 0.75]
    """
    if method not in ("bootstrap", "analytic"):
        raise ValueError(f"method is {method!r}; expected 'bootstrap' or 'analytic'.")
    a, b = _both(correct_a, correct_b)
    estimate = error_consistency(a, b, undefined=float("nan"))
    if method == "analytic":
        if groups is not None:
            raise ValueError(
                "method is 'analytic', which takes images as independent; expected 'bootstrap' for groups."
            )
        half = float(norm.ppf((1 + confidence) / 2)) * kappa_standard_error(a, b)
        return estimate - half, estimate + half
    if np.isnan(estimate):
        return float("nan"), float("nan")
    groups = np.arange(len(a)) if groups is None else np.asarray(groups)[_seen(correct_a, correct_b)]
    names, which = np.unique(groups, return_inverse=True)
    n, *sums = (np.bincount(which, values) for values in (np.ones(len(a)), a, b, a * b + (1 - a) * (1 - b)))
    counts = resampled_counts(len(names), n_resamples=n_resamples, seed=seed)
    resampled = _kappas(counts @ n, *(counts @ each for each in sums))
    without = _kappas(n.sum() - n, *(each.sum() - each for each in sums))
    return percentile_interval(resampled, estimate=estimate, jackknife=without, confidence=confidence)


def _kappas(n: np.ndarray, a: np.ndarray, b: np.ndarray, agree: np.ndarray) -> np.ndarray:
    """Error consistency from sums over images; NaN where undefined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = expected_consistency(a / n, b / n)
        return np.where(1 - expected > _ROUNDING, (agree / n - expected) / (1 - expected), np.nan)


def shape_bias(response, shape, texture) -> float:
    """Share of shape among the decisions for shape or texture (Geirhos et al. 2019), over pictures with a conflict.

    Pictures whose shape and texture are of one category, other answers and missing trials are left out.

    Parameters
    ----------
    response, shape, texture : array of str, (trial,)
        Or of shapes that go together, such as (observer, image) and (image,).

    Returns
    -------
    float
        1: all shape; 0: all texture; NaN without a decision for either.

    Examples
    --------
    >>> shape_bias(["cat", "cat", "dog", "na", "car"], ["cat"] * 5, ["dog", "dog", "dog", "dog", "cat"])
    0.6666666666666666
    """
    response, shape, texture = np.broadcast_arrays(np.asarray(response), np.asarray(shape), np.asarray(texture))
    conflict = shape != texture
    by_shape, by_texture = int((conflict & (response == shape)).sum()), int((conflict & (response == texture)).sum())
    return by_shape / (by_shape + by_texture) if by_shape + by_texture else float("nan")


def reaction_time_relation(reaction_time_s, other, *, method: str = "spearman") -> float:
    """Correlation over images of reaction times with anything else that has one number for each image.

    The other may be another observer's times, or a model's entropy or number of recurrent steps; sign kept.

    Parameters
    ----------
    reaction_time_s, other : array, (image,)
        NaN where missing; images that have both are used.
    method : {"spearman", "pearson"}

    Returns
    -------
    float
        NaN with fewer than 3 images, or where one of the two is constant.

    Examples
    --------
    >>> round(reaction_time_relation([0.5, 0.9, 0.7, np.nan], [1.0, 30.0, 2.0, 4.0]), 9)
    1.0
    """
    if method not in ("spearman", "pearson"):
        raise ValueError(f"method is {method!r}; expected 'spearman' or 'pearson'.")
    x, y = (np.asarray(values, dtype=np.float64) for values in (reaction_time_s, other))
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"reaction times have shape {x.shape}, the other {y.shape}; expected (image,) for both.")
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    if method == "spearman":
        x, y = rankdata(x), rankdata(y)
    return float(correlations(x[:, None], y[:, None])[0])


def _checked(correct) -> np.ndarray:
    correct = np.asarray(correct, dtype=np.float64)
    if ((correct < 0) | (correct > 1)).any():
        raise ValueError(
            "correct holds numbers outside [0, 1]; expected 1, 0 or a share, NaN where there was no trial."
        )
    return correct


def _seen(correct_a, correct_b) -> np.ndarray:
    a, b = _checked(correct_a), _checked(correct_b)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"the observers have shapes {a.shape} and {b.shape}; expected (image,) for both.")
    return ~(np.isnan(a) | np.isnan(b))


def _both(correct_a, correct_b) -> tuple[np.ndarray, np.ndarray]:
    seen = _seen(correct_a, correct_b)
    return np.asarray(correct_a, dtype=np.float64)[seen], np.asarray(correct_b, dtype=np.float64)[seen]
