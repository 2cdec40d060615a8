"""How much of a recorded response could be predicted at all: reliability of the mean over repeats, several estimators.

Responses are arrays (stimulus, repeat, neuron), NaN where a repeat is missing. Every ceiling is the reliability of the
**mean over repeats**: the share of its variance over stimuli that is signal. None is clipped: an estimate below 0 or
above 1 says that the data cannot tell, and is kept.
"""

import warnings

import numpy as np
from sklearn.model_selection import ShuffleSplit


def check_repeats(responses, *, min_repeats: int = 2) -> np.ndarray:
    """Responses as a float64 array (stimulus, repeat, neuron), or an error that says what is wrong.

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron)
    min_repeats : int
        Repeats needed along the axis.

    Returns
    -------
    ndarray, float64

    Raises
    ------
    ValueError
        If the shape is not (stimulus, repeat, neuron), there are too few repeats, or a value is infinite.

    Examples
    --------
    >>> check_repeats(np.zeros((10, 4)))
    Traceback (most recent call last):
    ...
    ValueError: responses have shape (10, 4); expected (stimulus, repeat, neuron) with 3 stimuli and 2 repeats at least.
    """
    responses = np.asarray(responses, dtype=np.float64)
    if responses.ndim != 3 or responses.shape[0] < 3 or responses.shape[1] < min_repeats or responses.shape[2] < 1:
        raise ValueError(
            f"responses have shape {responses.shape}; expected (stimulus, repeat, neuron) with 3 stimuli and "
            f"{min_repeats} repeats at least."
        )
    if np.isinf(responses).any():
        neuron = int(np.isinf(responses).any((0, 1)).argmax())
        raise ValueError(f"responses of neuron {neuron} are infinite; expected numbers, or NaN where missing.")
    return responses


def spearman_brown(correlation, *, lengthening: float = 2.0):
    """Reliability of ``lengthening`` times as many repeats (Spearman 1910, Brown 1910): ``k r / (1 + (k - 1) r)``.

    Parameters
    ----------
    correlation : float or array
        Correlation of two halves, or of two sets of repeats.
    lengthening : float
        ``k``; 2 for halves.

    Returns
    -------
    float or ndarray

    Examples
    --------
    >>> round(spearman_brown(0.6), 4)
    0.75
    """
    return lengthening * correlation / (1 + (lengthening - 1) * correlation)


def half_splits(n_repeats: int, *, n_splits: int = 10, seed: int = 1) -> np.ndarray:
    """Random halves of the repeats, as Brain-Score draws them (``ShuffleSplit(train_size=0.5, random_state=1)``).

    Parameters
    ----------
    n_repeats : int
        At least 2; of an odd number the first half is the smaller.
    n_splits : int
    seed : int

    Returns
    -------
    ndarray of bool, (split, repeat)
        True for the first half.

    Raises
    ------
    ValueError
        If there are fewer than 2 repeats.

    Examples
    --------
    >>> half_splits(6, n_splits=2).sum(1)
    array([3, 3])
    """
    if n_repeats < 2:
        raise ValueError(f"n_repeats is {n_repeats}; expected at least 2, one for each half.")
    shuffle = ShuffleSplit(n_splits=n_splits, train_size=0.5, random_state=seed)
    halves = np.zeros((n_splits, n_repeats), dtype=bool)
    for half, (first, _) in zip(halves, shuffle.split(np.zeros(n_repeats)), strict=True):
        half[first] = True
    return halves


def split_half_correlations(responses, halves: np.ndarray) -> np.ndarray:
    """Pearson correlation over stimuli of the mean responses of two halves of the repeats.

    With the trial Gram ``G = Rc'Rc`` (repeat x repeat, ``Rc`` centred over stimuli) and the half ``h`` (0 or 1)

        r = h'G(1-h) / sqrt(h'Gh (1-h)'G(1-h))

    so all splits of a neuron cost one product of (split, pairs of repeats) with (pairs of repeats,), and the responses
    are read once. Where a neuron misses repeats of some stimuli only, the means of what each half has are formed.

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron)
        NaN where missing.
    halves : ndarray of bool, (split, repeat)
        First half of each split; the rest is the second.

    Returns
    -------
    ndarray, (split, neuron)
        NaN where a half is constant or has responses to fewer than 3 stimuli of both halves.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> responses = rng.standard_normal((50, 1, 2)) + rng.standard_normal((50, 8, 2))
    >>> r = split_half_correlations(responses, half_splits(8, n_splits=3))
    >>> first, second = half_splits(8, n_splits=3)[0], ~half_splits(8, n_splits=3)[0]
    >>> plain = np.corrcoef(responses[:, first, 0].mean(1), responses[:, second, 0].mean(1))[0, 1]
    >>> r.shape, bool(np.isclose(r[0, 0], plain))
    ((3, 2), True)
    """
    responses = check_repeats(responses)
    halves = np.asarray(halves, dtype=bool)
    if halves.ndim != 2 or halves.shape[1] != responses.shape[1]:
        raise ValueError(f"halves have shape {halves.shape}; expected (split, {responses.shape[1]} repeats).")
    present = ~np.isnan(responses)
    # each repeat of these neurons is there for all stimuli or for none
    regular = (present.all(0) | ~present.any(0)).all(0)
    out = np.empty((len(halves), responses.shape[2]))
    if regular.any():
        out[:, regular] = _regular_correlations(responses[:, :, regular], present[0][:, regular], halves)
    for neuron in np.flatnonzero(~regular):
        out[:, neuron] = _irregular_correlations(responses[:, :, neuron], present[:, :, neuron], halves)
    return out


def _ratio(covariance: np.ndarray, product: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """``covariance / sqrt(product)``, NaN where the product of variances is rounding noise."""
    defined = product > floor
    return np.where(defined, covariance / np.sqrt(np.where(defined, product, 1)), np.nan)


def _regular_correlations(responses: np.ndarray, used: np.ndarray, halves: np.ndarray) -> np.ndarray:
    centred = np.where(used, responses - responses.mean(0), 0).transpose(2, 1, 0)  # (neuron, repeat, stimulus)
    gram = centred @ centred.transpose(0, 2, 1)
    first, second = np.triu_indices(gram.shape[1])
    twice = np.where(first == second, 1.0, 2.0)
    pairs = gram[:, first, second] * twice  # (neuron, pair)
    h = halves.astype(np.float64)
    one = (h[:, first] * h[:, second]) @ pairs.T
    with_all = h @ gram.sum(2).T  # h'G1
    cross = with_all - one
    two = pairs.sum(1) - with_all - cross
    # a response that is constant over stimuli leaves only the rounding of its mean, an absent half that of the total
    floor = 1e-13 * np.where(used, np.where(used, responses, 0) ** 2, 0).sum((0, 1))
    there = (h @ used > 0) & ((1 - h) @ used > 0) & (one > floor) & (two > floor)
    return np.where(there, _ratio(cross, one * two, floor**2), np.nan)


def _irregular_correlations(responses: np.ndarray, present: np.ndarray, halves: np.ndarray) -> np.ndarray:
    filled = np.where(present, responses, 0.0)
    filled -= np.where(present, filled.sum() / max(present.sum(), 1), 0)
    floor = (1e-13 * (filled**2).sum()) ** 2
    count = present.astype(np.float64)
    r = np.empty(len(halves))
    width = max(1, 2**16 // len(responses))  # half a megabyte: the tables of one block stay in the cache of a core
    for start in range(0, len(halves), width):
        h = halves[start : start + width].T.astype(np.float64)
        counts = count @ h, count @ (1 - h)  # (stimulus, split)
        valid = np.minimum(*counts) > 0
        n = valid.sum(0)
        means = []
        for total, number in zip((filled @ h, filled @ (1 - h)), counts, strict=True):
            total /= np.maximum(number, 1)
            if (n < len(responses)).any():
                total *= valid
            total -= total.sum(0) / np.maximum(n, 1)
            if (n < len(responses)).any():
                total *= valid
            means.append(total)
        variances = [np.einsum("sb,sb->b", mean, mean) for mean in means]
        some = _ratio(np.einsum("sb,sb->b", *means), variances[0] * variances[1], np.full(len(n), floor))
        r[start : start + width] = np.where(n >= 3, some, np.nan)
    return r


def split_half_reliability(responses, *, n_splits: int = 10, seed: int = 1) -> np.ndarray:
    """Spearman-Brown corrected split-half correlation of each random split and neuron.

    Assumes that repeats are exchangeable: noise of the same size in both halves and independent between repeats. The
    correction is applied to each split and neuron, before any average, as Brain-Score does.

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron)
        NaN where missing.
    n_splits : int
    seed : int
        1 in Brain-Score.

    Returns
    -------
    ndarray, (split, neuron)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> responses = rng.standard_normal((400, 1, 3)) + 2 * rng.standard_normal((400, 20, 3))
    >>> round(float(split_half_reliability(responses).mean()), 2)  # truth: 1 / (1 + 4 / 20) = 0.83
    0.83
    """
    responses = check_repeats(responses)
    halves = half_splits(responses.shape[1], n_splits=n_splits, seed=seed)
    return spearman_brown(split_half_correlations(responses, halves))


def internal_consistency(responses, *, n_splits: int = 10, seed: int = 1) -> float:
    """Brain-Score's ceiling: split-half reliability, median over neurons, mean over splits.

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron)
    n_splits : int
    seed : int

    Returns
    -------
    float
        Neurons whose correlation is undefined in a split are passed over in that split. (Brain-Score passes over a
        neuron also where a half has no response to some stimulus; here the stimuli that both halves have count.)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> responses = rng.standard_normal((400, 1, 3)) + 2 * rng.standard_normal((400, 20, 3))
    >>> round(internal_consistency(responses), 2)
    0.83
    """
    return float(np.mean(_over_neurons(np.nanmedian, split_half_reliability(responses, n_splits=n_splits, seed=seed))))


def _over_neurons(function, values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all neurons undefined: NaN says so
        return function(values, axis=-1)


def spearman_brown_ceiling(responses, *, n_splits: int = 1000, seed: int = 1) -> np.ndarray:
    """Mean over random halves of the Spearman-Brown corrected correlation, for each neuron.

    Assumes exchangeable repeats with independent noise. Equal to the squared CC_max that Hsu, Borst & Theunissen (2004)
    compute from half splits.

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron)
        NaN where missing.
    n_splits : int
    seed : int

    Returns
    -------
    ndarray, (neuron,)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> responses = rng.standard_normal((2000, 1, 1)) + 2 * rng.standard_normal((2000, 20, 1))
    >>> spearman_brown_ceiling(responses).round(2)
    array([0.83])
    """
    return split_half_reliability(responses, n_splits=n_splits, seed=seed).mean(0)


def noise_of_mean(responses) -> np.ndarray:
    """Variance of the mean over repeats about the true response, averaged over stimuli.

    ``mean over stimuli of s_i^2 / n_i`` with the unbiased variance ``s_i^2`` over the ``n_i`` repeats of stimulus
    ``i``: unbiased whatever the noise of each stimulus (Poisson noise grows with the mean).

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron)
        NaN where missing; stimuli with one repeat take the mean ``s^2`` of the others.

    Returns
    -------
    ndarray, (neuron,)
        NaN where no stimulus has two repeats.

    Examples
    --------
    >>> noise_of_mean(np.array([[[0.0], [2.0]], [[1.0], [1.0]], [[3.0], [5.0]]])).round(3)
    array([0.667])
    """
    responses = check_repeats(responses)
    variance, number = _variance_over_repeats(responses)
    some = number > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        typical = np.where(number > 1, variance, 0).sum(0) / (number > 1).sum(0)
        each = np.where(number > 1, variance, typical) / np.maximum(number, 1)
        return np.where(some, each, 0).sum(0) / some.sum(0)


def _variance_over_repeats(responses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased variance over repeats (0 where one or none) and number of repeats, both (stimulus, neuron)."""
    present = ~np.isnan(responses)
    number = present.sum(1)
    mean = np.where(present, responses, 0).sum(1) / np.maximum(number, 1)
    squares = np.where(present, responses - mean[:, None], 0) ** 2
    return squares.sum(1) / np.maximum(number - 1, 1), number


def mean_over_repeats(responses) -> np.ndarray:
    """Mean over the repeats there are, (stimulus, neuron); NaN where a neuron has none of a stimulus.

    Examples
    --------
    >>> mean_over_repeats(np.array([[[1.0], [np.nan]], [[2.0], [4.0]], [[np.nan], [np.nan]]]))[:, 0]
    array([ 1.,  3., nan])
    """
    responses = check_repeats(responses, min_repeats=1)
    present = ~np.isnan(responses)
    number = present.sum(1)
    mean = np.where(present, responses, 0).sum(1) / np.maximum(number, 1)
    return np.where(number > 0, mean, np.nan)


def explainable_variance(responses) -> np.ndarray:
    """Unbiased signal variance over the variance of the mean response: ``1 - noise / Var(mean)``.

    ``Var`` over stimuli is the unbiased variance of the means, ``noise`` that of :func:`noise_of_mean`. The correction
    of Haefner & Cumming (2009), Cadena et al. (2019) and Pospisil & Bair (2021), without their assumption that noise
    is equal for all stimuli. Assumes noise that is independent between repeats and between stimuli. Signal and total
    are unbiased, their ratio has a bias that falls as one over the number of stimuli.

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron)
        NaN where missing.

    Returns
    -------
    ndarray, (neuron,)
        NaN where the mean response is the same for all stimuli.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> responses = rng.standard_normal((2000, 1, 1)) + 2 * rng.standard_normal((2000, 20, 1))
    >>> explainable_variance(responses).round(2)
    array([0.83])
    """
    total = _variance_over_stimuli(mean_over_repeats(responses))
    noise = noise_of_mean(responses)
    return np.where(total > 0, 1 - noise / np.where(total > 0, total, 1), np.nan)


def _variance_over_stimuli(mean: np.ndarray) -> np.ndarray:
    """Unbiased variance over stimuli, 0 where it is no more than the rounding of the mean."""
    present = ~np.isnan(mean)
    number = present.sum(0)
    centre = np.where(present, mean, 0).sum(0) / np.maximum(number, 1)
    squares = (np.where(present, mean - centre, 0) ** 2).sum(0)
    return np.where(squares > number * (1e-14 * centre) ** 2, squares / np.maximum(number - 1, 1), 0)


def signal_power(responses) -> np.ndarray:
    """Signal power over the power of the mean response (Sahani & Linden 2003).

        SP = (N P(mean response) - mean over repeats of P(response)) / (N - 1)          P = variance over stimuli

    Assumes complete repeats (each the whole stimulus set) with independent noise; an offset of a whole repeat counts
    neither as signal nor as noise. ``sqrt`` of it is CC_max of Schoppe et al. (2016).

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron)
        A repeat that a neuron misses for all stimuli (NaN) is left out; one missed for some is an error.

    Returns
    -------
    ndarray, (neuron,)

    Raises
    ------
    ValueError
        If a neuron misses a repeat for some stimuli only, or has fewer than 2 repeats.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> responses = rng.standard_normal((2000, 1, 1)) + 2 * rng.standard_normal((2000, 20, 1))
    >>> signal_power(responses).round(2)
    array([0.83])
    """
    gram, number = _complete_gram(responses, "signal_power")
    of_mean = gram.sum((1, 2)) / number**2
    of_repeats = np.trace(gram, axis1=1, axis2=2) / number
    signal = (number * of_mean - of_repeats) / (number - 1)
    defined = of_mean > 0
    return np.where(defined, signal / np.where(defined, of_mean, 1), np.nan)


def _complete_gram(responses, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Covariance over stimuli (neuron, repeat, repeat), zero for missing repeats, and the repeats of each neuron."""
    responses = check_repeats(responses)
    present = ~np.isnan(responses)
    partial = present.any(0) & ~present.all(0)
    if partial.any():
        neuron = int(partial.any(0).argmax())
        raise ValueError(
            f"neuron {neuron} misses repeats for some stimuli only ({int(partial.any(0).sum())} such neurons); {name} "
            "needs complete repeats: use 'explainable_variance' or 'spearman_brown'."
        )
    used = present[0]
    number = used.sum(0)
    if (number < 2).any():
        raise ValueError(f"neuron {int((number < 2).argmax())} has {number.min()} repeats; expected at least 2.")
    centred = np.where(used, responses, 0)
    centred = centred - centred.mean(0)
    centred[
        np.broadcast_to((centred**2).sum(0) <= 1e-26 * (np.where(used, responses, 0) ** 2).sum(0), centred.shape)
    ] = 0
    centred = centred.transpose(2, 1, 0)
    return centred @ centred.transpose(0, 2, 1) / (len(responses) - 1), number


def trial_correlation(responses) -> np.ndarray:
    """Mean correlation of two single repeats, carried to ``N`` repeats by Spearman-Brown: ``N r / (1 + (N - 1) r)``.

    With two repeats, the correlation of repeats as in Stringer et al. (2019), corrected to their mean. Assumes complete
    repeats with independent noise of equal size.

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron)
        A repeat that a neuron misses for all stimuli (NaN) is left out; one missed for some is an error.

    Returns
    -------
    ndarray, (neuron,)
        NaN where a repeat is constant over stimuli.

    Raises
    ------
    ValueError
        If a neuron misses a repeat for some stimuli only, or has fewer than 2 repeats.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> responses = rng.standard_normal((2000, 1, 1)) + 2 * rng.standard_normal((2000, 20, 1))
    >>> trial_correlation(responses).round(2)
    array([0.83])
    """
    gram, number = _complete_gram(responses, "trial_correlation")
    used = ~np.isnan(np.asarray(responses, dtype=np.float64)[0]).T  # (neuron, repeat)
    deviation = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    scale = deviation[:, :, None] * deviation[:, None, :]
    correlation = np.where(scale > 0, gram / np.where(scale > 0, scale, 1), 0)
    mean = (correlation.sum((1, 2)) - np.trace(correlation, axis1=1, axis2=2)) / (number * (number - 1))
    mean = np.where((used & (deviation == 0)).any(1), np.nan, mean)
    return number * mean / (1 + (number - 1) * mean)


#: Ceilings by name: functions of responses (stimulus, repeat, neuron) that give the reliability of the mean response of
#: each neuron, (neuron,).
CEILINGS = {
    "spearman_brown": spearman_brown_ceiling,
    "explainable_variance": explainable_variance,
    "signal_power": signal_power,
    "trial_correlation": trial_correlation,
}
