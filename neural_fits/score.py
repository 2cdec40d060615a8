"""Scores of predicted responses: rules by name, and a score that says everything needed to read it.

Nothing here takes an absolute value or clips: a negative correlation stays visible, a corrected score may exceed 1.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

from neural_fits.bootstrap import correlations, percentile_interval, resampled_counts, weighted_correlations
from neural_fits.ceiling import check_repeats, mean_over_repeats, noise_of_mean


def _median(values: np.ndarray) -> np.ndarray:
    """Median over neurons (last axis), those undefined passed over, as Brain-Score's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all undefined: NaN says so
        return np.nanmedian(values, axis=-1)


def _mean_of_splits(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over splits (second last axis) of each neuron, over the splits where it is defined."""
    if weights is not None:
        w = np.where(np.isnan(values), 0, weights[..., None])
        with np.errstate(invalid="ignore", divide="ignore"):
            return (w * np.nan_to_num(values)).sum(-2) / w.sum(-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=-2)


def _mean_of_medians(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over splits (second last axis) of the median over neurons (last axis)."""
    medians = _median(values)
    if weights is None:
        return np.mean(medians, axis=-1)
    return np.where(weights > 0, weights * medians, 0).sum(-1) / weights.sum(-1)


def median_correlation(
    r: np.ndarray, reliability: np.ndarray | None = None, weights: np.ndarray | None = None
) -> np.ndarray:
    """Raw score: median over neurons of the correlation, mean over splits. ``reliability`` is not used.

    Parameters
    ----------
    r : ndarray, (..., split, neuron)
        Correlation of predicted and measured responses to held-out images.
    reliability : ndarray, (split, neuron), optional
        Reliability of the mean response; its splits (of repeats) are others than those of ``r``.
    weights : ndarray, (..., split), optional
        Of the splits, equal without it; resampled images give them.

    Returns
    -------
    ndarray, (...)

    Examples
    --------
    >>> round(float(median_correlation(np.array([[0.2, 0.4, 0.9], [0.0, 0.2, 0.3]]))), 2)
    0.3
    """
    return _mean_of_medians(r, weights)


def r2_over_ceiling(r: np.ndarray, reliability: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Brain-Score's rule since December 2025: ``(median r)^2 / median reliability``; the ceiling is not squared.

    The square hides the sign of the median correlation; :class:`Score` shows it beside.

    Parameters
    ----------
    r : ndarray, (..., split, neuron)
    reliability : ndarray, (split, neuron)
    weights : ndarray, (..., split), optional
        Of the splits, equal without it; resampled images give them.

    Returns
    -------
    ndarray, (...)

    Examples
    --------
    >>> round(float(r2_over_ceiling(np.array([[0.466]]), np.array([[0.873]]))), 4)
    0.2487
    """
    return median_correlation(r, weights=weights) ** 2 / np.mean(_median(reliability), axis=-1)


def r_over_ceiling_squared(r: np.ndarray, reliability: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Brain-Score's rule until December 2025: ``(median r / median reliability)^2``.

    Parameters
    ----------
    r : ndarray, (..., split, neuron)
    reliability : ndarray, (split, neuron)
    weights : ndarray, (..., split), optional
        Of the splits, equal without it; resampled images give them.

    Returns
    -------
    ndarray, (...)

    Examples
    --------
    >>> round(float(r_over_ceiling_squared(np.array([[0.466]]), np.array([[0.873]]))), 4)
    0.2849
    """
    return (median_correlation(r, weights=weights) / np.mean(_median(reliability), axis=-1)) ** 2


def noise_corrected_per_neuron(r: np.ndarray, reliability: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Noise-corrected explained variance of each neuron, ``r_n^2 / reliability_n``; median over neurons.

    ``r_n`` and ``reliability_n`` are means over splits. The square keeps the sign of ``r_n``: a neuron that is
    predicted the wrong way round is not explained. Neurons whose reliability is not positive have to be left out.

    Parameters
    ----------
    r : ndarray, (..., split, neuron)
    reliability : ndarray, (split, neuron)
    weights : ndarray, (..., split), optional
        Of the splits, equal without it; resampled images give them.

    Returns
    -------
    ndarray, (...)

    Examples
    --------
    >>> round(float(noise_corrected_per_neuron(np.array([[0.6, 0.3, -0.3]]), np.array([[0.9, 0.6, 0.5]]))), 3)
    0.15
    """
    r = _mean_of_splits(r, weights)
    return _median(np.copysign(r**2, r) / _mean_of_splits(reliability))


#: Score rules by name: functions of correlations (..., split, neuron) and reliabilities (split, neuron).
RULES = {
    "raw": median_correlation,
    "r2_over_ceiling": r2_over_ceiling,
    "r_over_ceiling_squared": r_over_ceiling_squared,
    "noise_corrected_per_neuron": noise_corrected_per_neuron,
}


@dataclasses.dataclass(frozen=True)
class Score:
    """A score and all that is needed to read it.

    Attributes
    ----------
    value : float
        By ``rule``.
    rule, ceiling : str
        Names in ``RULES`` and of the reliability used.
    raw : float
        Median correlation, sign kept.
    reliability : float
        Median reliability of the mean response.
    n_neurons, n_images, n_splits : int
        Neurons scored, images held out in some split, splits.
    n_repeats : str
        Repeats behind each mean response (``"20"``, ``"24-60"``, ``"unknown"``).
    interval_neurons, interval_images : tuple of float
        BCa bootstrap intervals of ``value`` over neurons (images fixed) and over images (neurons and ceiling fixed).
    confidence : float
        Of the intervals.
    left_out : dict of str to int
        Neurons left out, by reason.
    negative : int
        Neurons scored whose mean correlation is below zero.

    Examples
    --------
    >>> print(Score(0.2487, "r2_over_ceiling", "spearman_brown", 0.466, 0.873, 100, 135, 10, "20",
    ...             (0.21, 0.28), (0.19, 0.30), 0.95, {"constant response": 3}, 2))
    r2_over_ceiling 0.2487 [neurons 0.2100, 0.2800] [images 0.1900, 0.3000] (95 % bootstrap)
      raw median r 0.4660, reliability (spearman_brown) 0.8730
      100 neurons, 135 images, 20 repeats, 10 splits; 2 neurons with negative r
      left out 3 of 103 neurons (2.9 %): 3 constant response
    """

    value: float
    rule: str
    ceiling: str
    raw: float
    reliability: float
    n_neurons: int
    n_images: int
    n_splits: int
    n_repeats: str
    interval_neurons: tuple[float, float]
    interval_images: tuple[float, float]
    confidence: float
    left_out: dict[str, int]
    negative: int

    @property
    def share_left_out(self) -> float:
        """Share of the recorded neurons that are not in the score."""
        out = sum(self.left_out.values())
        return out / (out + self.n_neurons) if out else 0.0

    def __str__(self) -> str:
        """Return everything in four lines."""
        out = sum(self.left_out.values())
        reasons = ", ".join(f"{number} {reason}" for reason, number in self.left_out.items() if number)
        left_out = f"left out {out} of {out + self.n_neurons} neurons ({self.share_left_out:.1%}): {reasons}"
        lines = [
            f"{self.rule} {self.value:.4f} [neurons {self.interval_neurons[0]:.4f}, {self.interval_neurons[1]:.4f}] "
            f"[images {self.interval_images[0]:.4f}, {self.interval_images[1]:.4f}] "
            f"({100 * self.confidence:g} % bootstrap)",
            f"raw median r {self.raw:.4f}, reliability ({self.ceiling}) {self.reliability:.4f}",
            f"{self.n_neurons} neurons, {self.n_images} images, {self.n_repeats} repeats, {self.n_splits} splits; "
            f"{self.negative} neurons with negative r",
            left_out.replace("%)", " %)") if out else "no neuron left out",
        ]
        return "\n  ".join(lines)


def score_predictions(
    predictions: Sequence[np.ndarray],
    responses: np.ndarray,
    tests: Sequence[np.ndarray],
    reliability: np.ndarray,
    *,
    rule: str = "r2_over_ceiling",
    ceiling: str = "spearman_brown",
    min_reliability: float | None = None,
    n_repeats: str | int = "unknown",
    groups: np.ndarray | None = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Score:
    """Score held-out predictions by a rule, with intervals and a count of what was left out.

    Parameters
    ----------
    predictions : sequence of array, (test image, neuron)
        One for each split, as ``cross_predict`` of a regression gives them.
    responses : ndarray, (image, neuron)
        Measured mean responses to all images.
    tests : sequence of integer arrays
        Test rows of each split.
    reliability : ndarray, (neuron,) or (split of repeats, neuron)
        Of the mean responses, for example :func:`neural_fits.ceiling.split_half_reliability`.
    rule : str
        Name in ``RULES``.
    ceiling : str
        Name of the reliability, for the record.
    min_reliability : float, optional
        Neurons at or below are left out. Default: none for Brain-Score's rules and ``raw``, 0 for
        ``noise_corrected_per_neuron``, which divides by it.
    n_repeats : str or int
        Repeats behind each mean, for the record.
    groups : array, (image,), optional
        Images resampled together (frames of one movie).
    n_bootstrap : int
        Resamples of each interval.
    confidence : float
    seed : int

    Returns
    -------
    Score

    Raises
    ------
    ValueError
        If shapes disagree, the rule is unknown, or no neuron is left.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> measured = rng.standard_normal((40, 5))
    >>> predicted = measured + rng.standard_normal((40, 5))
    >>> tests = [np.arange(20), np.arange(20, 40)]
    >>> score = score_predictions([predicted[t] for t in tests], measured, tests, np.full(5, 0.9), n_repeats=20)
    >>> print(score)  # doctest: +ELLIPSIS
    r2_over_ceiling 0.4... [neurons 0..., 0...] [images 0..., 0...] (95 % bootstrap)
      raw median r 0.6..., reliability (spearman_brown) 0.9000
      5 neurons, 40 images, 20 repeats, 2 splits; 0 neurons with negative r
      no neuron left out
    """
    return score_by_rules(
        predictions,
        responses,
        tests,
        reliability,
        rules=[rule],
        ceiling=ceiling,
        min_reliability=min_reliability,
        n_repeats=n_repeats,
        groups=groups,
        n_bootstrap=n_bootstrap,
        confidence=confidence,
        seed=seed,
    )[rule]


def score_by_rules(
    predictions: Sequence[np.ndarray],
    responses: np.ndarray,
    tests: Sequence[np.ndarray],
    reliability: np.ndarray,
    *,
    rules: Sequence[str] = tuple(RULES),
    ceiling: str = "spearman_brown",
    min_reliability: float | None = None,
    n_repeats: str | int = "unknown",
    groups: np.ndarray | None = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Score]:
    """Score held-out predictions by several rules; the images are resampled once for all of them.

    Parameters
    ----------
    predictions, responses, tests, reliability
        As in :func:`score_predictions`.
    rules : sequence of str
        Names in ``RULES``.
    ceiling, min_reliability, n_repeats, groups, n_bootstrap, confidence, seed
        As in :func:`score_predictions`.

    Returns
    -------
    dict of str to Score
        By rule; each as :func:`score_predictions` gives it.

    Raises
    ------
    ValueError
        If shapes disagree, a rule is unknown, or no neuron is left.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> measured = rng.standard_normal((40, 5))
    >>> scores = score_by_rules([measured[:20] + 1], measured, [np.arange(20)], np.full(5, 0.8), n_bootstrap=10)
    >>> {rule: round(score.value, 4) for rule, score in scores.items()}
    {'raw': 1.0, 'r2_over_ceiling': 1.25, 'r_over_ceiling_squared': 1.5625, 'noise_corrected_per_neuron': 1.25}
    """
    for rule in rules:
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; expected one of {', '.join(RULES)}.")
    responses = np.asarray(responses, dtype=np.float64)
    reliability = np.atleast_2d(np.asarray(reliability, dtype=np.float64))
    n_images, n_neurons = responses.shape
    if reliability.shape[1] != n_neurons or len(predictions) != len(tests) or len(tests) == 0:
        raise ValueError(
            f"reliability is of {reliability.shape[1]} neurons, responses of {n_neurons}; {len(predictions)} "
            f"predictions, {len(tests)} test parts: expected the same neurons, and a prediction for each test part."
        )
    parts = [(np.asarray(p, dtype=np.float64), responses[t]) for p, t in zip(predictions, tests, strict=True)]
    r = np.stack([correlations(predicted, measured) for predicted, measured in parts])
    kept_of_rule = {rule: _kept_neurons(r, parts, reliability, rule, min_reliability) for rule in rules}
    held_out = np.unique(np.concatenate([np.asarray(test) for test in tests]))
    unit = held_out if groups is None else np.unique(np.asarray(groups)[held_out], return_inverse=True)[1]
    names = np.unique(unit)
    counts = np.zeros((n_bootstrap + len(names), n_images))
    counts[:n_bootstrap, held_out] = resampled_counts(
        len(held_out), n_resamples=n_bootstrap, seed=seed + 1, groups=None if groups is None else unit
    )
    counts[n_bootstrap:, held_out] = unit != names[:, None]  # each image, or group of images, left out in turn
    over_images: dict[str, list[np.ndarray]] = {rule: [] for rule in rules}
    for start in range(0, len(counts), 100):
        some = counts[start : start + 100]
        resampled = np.stack(
            [
                weighted_correlations(predicted, measured, some[:, test])
                for (predicted, measured), test in zip(parts, tests, strict=True)
            ],
            1,
        )
        # Groups are drawn whole, so a split may be drawn not at all, or twice.
        weights = None if groups is None else np.stack([some[:, test].sum(1) for test in tests], 1)
        for rule, (kept, _) in kept_of_rule.items():
            over_images[rule].append(RULES[rule](resampled[:, :, kept], reliability[:, kept], weights))
    return {
        rule: _score(
            rule,
            r[:, kept],
            reliability[:, kept],
            np.concatenate(over_images[rule]),
            n_images=len(held_out),
            n_repeats=str(n_repeats),
            ceiling=ceiling,
            left_out=left_out,
            n_bootstrap=n_bootstrap,
            confidence=confidence,
            seed=seed,
        )
        for rule, (kept, left_out) in kept_of_rule.items()
    }


def _score(
    rule: str,
    r: np.ndarray,
    reliability: np.ndarray,
    over_images: np.ndarray,
    *,
    n_images: int,
    n_repeats: str,
    ceiling: str,
    left_out: dict[str, int],
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> Score:
    apply = RULES[rule]
    n_neurons = r.shape[1]
    everyone = np.arange(n_neurons)
    drawn = np.random.default_rng(seed).integers(0, n_neurons, (n_bootstrap, n_neurons))
    over_neurons = np.array([float(apply(r[:, these], reliability[:, these])) for these in drawn])
    without_neuron = np.array(
        [float(apply(r[:, these], reliability[:, these])) for these in (np.delete(everyone, i) for i in everyone)]
    )
    value = float(apply(r, reliability))
    return Score(
        value=value,
        rule=rule,
        ceiling=ceiling,
        raw=float(median_correlation(r)),
        reliability=float(np.mean(_median(reliability))),
        n_neurons=n_neurons,
        n_images=n_images,
        n_splits=len(r),
        n_repeats=n_repeats,
        interval_neurons=percentile_interval(
            over_neurons, estimate=value, jackknife=without_neuron, confidence=confidence
        ),
        interval_images=percentile_interval(
            over_images[:n_bootstrap], estimate=value, jackknife=over_images[n_bootstrap:], confidence=confidence
        ),
        confidence=confidence,
        left_out=left_out,
        negative=int((_mean_of_splits(r) < 0).sum()),
    )


def _kept_neurons(
    r: np.ndarray,
    parts: list[tuple[np.ndarray, np.ndarray]],
    reliability: np.ndarray,
    rule: str,
    min_reliability: float | None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Neurons that can be scored, and how many cannot for which reason (the first that applies)."""
    missing = np.any([np.isnan(measured).any(0) for _, measured in parts], axis=0)
    constant = np.all([np.ptp(measured, axis=0) == 0 for _, measured in parts], axis=0)
    undefined = np.isnan(r).all(0)
    mean_reliability = _mean_of_splits(reliability)
    reasons = {
        "missing response in a test part": missing,
        "constant response": constant,
        "constant prediction": undefined,
        "reliability undefined": ~np.isfinite(mean_reliability) & (rule != "raw"),
    }
    if min_reliability is None and rule == "noise_corrected_per_neuron":
        min_reliability = 0.0
    if min_reliability is not None:
        reasons[f"reliability not above {min_reliability:g}"] = mean_reliability <= min_reliability
    out = np.zeros(r.shape[1], dtype=bool)
    left_out = {}
    for reason, these in reasons.items():
        number = int((these & ~out).sum())
        if number:
            left_out[reason] = number
        out |= these
    if out.all():
        raise ValueError(f"no neuron can be scored: {', '.join(f'{n} {reason}' for reason, n in left_out.items())}.")
    return np.flatnonzero(~out), left_out


def _signal(predicted, responses) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    responses = check_repeats(responses)
    predicted = np.asarray(predicted, dtype=np.float64)
    mean = mean_over_repeats(responses)
    if predicted.shape != mean.shape:
        raise ValueError(f"predicted have shape {predicted.shape}; expected (stimulus, neuron) = {mean.shape}.")
    if np.isnan(mean).any():
        raise ValueError(
            f"neuron {int(np.isnan(mean).any(0).argmax())} has no response to some stimuli; leave those stimuli out."
        )
    return predicted, mean, noise_of_mean(responses), len(mean)


def r2_er(predicted, responses) -> np.ndarray:
    """Squared correlation with the noise-free response, unbiased (Pospisil & Bair 2021).

        ( (sum x y)^2 - sum x^2 noise ) / ( sum x^2 (sum y^2 - (m - 1) noise) )

    for centred predictions ``x`` and mean responses ``y`` of ``m`` stimuli; ``noise`` is the variance of the mean
    response (:func:`neural_fits.ceiling.noise_of_mean`, which is not assumed equal for all stimuli). Assumes
    predictions that do not depend on these responses, and independent noise. A square: it does not show a negative
    correlation.

    Parameters
    ----------
    predicted : array, (stimulus, neuron)
    responses : array, (stimulus, repeat, neuron)
        NaN where missing.

    Returns
    -------
    ndarray, (neuron,)
        NaN where predictions are constant or no signal variance is left.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.standard_normal((2000, 1))
    >>> responses = truth[:, None] + 2 * rng.standard_normal((2000, 10, 1))
    >>> r2_er(truth + rng.standard_normal((2000, 1)), responses).round(1)  # truth: 0.5
    array([0.5])
    """
    predicted, mean, noise, m = _signal(predicted, responses)
    x, y = predicted - predicted.mean(0), mean - mean.mean(0)
    x2 = (x**2).sum(0)
    return _divide((x * y).sum(0) ** 2 - x2 * noise, x2 * ((y**2).sum(0) - (m - 1) * noise))


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    defined = denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1), np.nan)


def cc_norm(predicted, responses) -> np.ndarray:
    """Normalised correlation ``cov(x, y) / sqrt(var(x) signal power)`` (Schoppe et al. 2016), sign kept.

    Their signal power with the noise of :func:`neural_fits.ceiling.noise_of_mean`: ``var(y) - noise``. Assumes
    independent noise; its square is biased upwards for few stimuli, which :func:`r2_er` corrects.

    Parameters
    ----------
    predicted : array, (stimulus, neuron)
    responses : array, (stimulus, repeat, neuron)

    Returns
    -------
    ndarray, (neuron,)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.standard_normal((2000, 1))
    >>> responses = truth[:, None] + 2 * rng.standard_normal((2000, 10, 1))
    >>> cc_norm(-truth, responses).round(1)
    array([-1.])
    """
    predicted, mean, noise, m = _signal(predicted, responses)
    x, y = predicted - predicted.mean(0), mean - mean.mean(0)
    signal = (y**2).sum(0) - (m - 1) * noise
    product = (x**2).sum(0) * signal
    return _divide((x * y).sum(0), np.sqrt(np.where(product > 0, product, 0)))


def feve(predicted, responses) -> np.ndarray:
    """Fraction of explainable variance explained (Cadena et al. 2019): ``1 - (MSE - noise) / (Var - noise)``.

    Of single responses: ``MSE`` about the prediction, ``Var`` their unbiased variance, ``noise`` the mean over stimuli
    of the unbiased variance over repeats. Counts offset and gain of the prediction as errors. Assumes as many repeats
    for each stimulus and independent noise.

    Parameters
    ----------
    predicted : array, (stimulus, neuron)
    responses : array, (stimulus, repeat, neuron)
        NaN where missing.

    Returns
    -------
    ndarray, (neuron,)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.standard_normal((2000, 1))
    >>> responses = truth[:, None] + 2 * rng.standard_normal((2000, 10, 1))
    >>> feve(truth, responses).round(1), feve(0 * truth, responses).round(1)
    (array([1.]), array([0.]))
    """
    predicted, _, _, _ = _signal(predicted, responses)
    responses = np.asarray(responses, dtype=np.float64)
    error = np.nanmean((responses - predicted[:, None]) ** 2, axis=(0, 1))
    repeats = (~np.isnan(responses)).sum(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a stimulus with one repeat says nothing on noise
        noise = np.nanmean(np.where(repeats > 1, np.nanvar(responses, axis=1, ddof=1), np.nan), axis=0)
    variance = np.nanvar(responses, axis=(0, 1), ddof=1)
    explainable = variance - noise
    return np.where(explainable > 0, 1 - (error - noise) / np.where(explainable > 0, explainable, 1), np.nan)


def upsilon(predicted, responses, *, n_parameters: int = 0) -> np.ndarray:
    """Explained variance corrected for noise and for the uncertainty of the noise (Haefner & Cumming 2009).

        1 - ( RSS / noise - f (m - d) ) / ( TSS / noise - f (m - 1) ),      f = N / (N - 2),   N = m (n - 1)

    with ``m`` stimuli, ``n`` repeats, ``d`` parameters fitted to these very responses, and the variance ``noise`` of
    the mean response. Assumes Gaussian noise of equal size for all stimuli (a variance-stabilising transform helps).

    Parameters
    ----------
    predicted : array, (stimulus, neuron)
    responses : array, (stimulus, repeat, neuron)
        Complete.
    n_parameters : int
        ``d``; 0 for predictions of held-out stimuli.

    Returns
    -------
    ndarray, (neuron,)

    Raises
    ------
    ValueError
        If a response is missing or ``N`` is below 3.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.standard_normal((2000, 1))
    >>> responses = truth[:, None] + 2 * rng.standard_normal((2000, 10, 1))
    >>> upsilon(truth, responses).round(1)
    array([1.])
    """
    predicted, mean, noise, m = _signal(predicted, responses)
    n = np.asarray(responses).shape[1]
    freedom = m * (n - 1)
    if np.isnan(np.asarray(responses, dtype=np.float64)).any() or freedom < 3:
        raise ValueError("upsilon needs complete repeats, and 3 or more degrees of freedom for the noise; use r2_er.")
    if (noise <= 0).any():
        raise ValueError(
            f"neuron {int((noise <= 0).argmax())} has the same response in all repeats; use its plain r^2."
        )
    factor = freedom / (freedom - 2)
    residual = ((mean - predicted) ** 2).sum(0) / noise - factor * (m - n_parameters)
    total = ((mean - mean.mean(0)) ** 2).sum(0) / noise - factor * (m - 1)
    return np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), np.nan)


#: Noise-corrected measures of held-out predictions (stimulus, neuron) against responses (stimulus, repeat, neuron), by
#: name; each gives (neuron,).
EXPLAINED_VARIANCE = {"r2_er": r2_er, "cc_norm": cc_norm, "feve": feve, "upsilon": upsilon}
