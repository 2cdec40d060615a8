import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.model_selection import ShuffleSplit

from neural_fits.ceiling import (
    CEILINGS,
    explainable_variance,
    half_splits,
    internal_consistency,
    mean_over_repeats,
    noise_of_mean,
    signal_power,
    spearman_brown,
    split_half_correlations,
    split_half_reliability,
    trial_correlation,
)


def recording(n_stimuli=60, n_repeats=8, n_neurons=5, *, noise=1.5, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((n_stimuli, 1, n_neurons))
    return signal + noise * rng.standard_normal((n_stimuli, n_repeats, n_neurons)) + 10 * rng.standard_normal(n_neurons)


def loop(responses, halves):
    """Means of the two halves and scipy's Pearson, one neuron and split at a time."""
    r = np.full((len(halves), responses.shape[2]), np.nan)
    for i, half in enumerate(halves):
        for neuron in range(responses.shape[2]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                a = np.nanmean(responses[:, half, neuron], 1)
                b = np.nanmean(responses[:, ~half, neuron], 1)
            valid = np.isfinite(a) & np.isfinite(b)
            if valid.sum() >= 3 and np.ptp(a[valid]) > 0 and np.ptp(b[valid]) > 0:
                r[i, neuron] = pearsonr(a[valid], b[valid])[0]
    return r


@pytest.mark.parametrize("n_repeats", [2, 3, 8, 21])
def test_trial_gram_equals_the_loop(n_repeats):
    responses = recording(n_repeats=n_repeats)
    halves = half_splits(n_repeats, n_splits=7)
    assert np.allclose(split_half_correlations(responses, halves), loop(responses, halves), atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.05, 0.3, 0.6]), whole=st.booleans())
def test_missing_repeats_equal_the_loop(seed, share, whole):
    rng = np.random.default_rng(seed)
    responses = recording(n_stimuli=20, n_neurons=4, seed=seed)
    shape = (1, *responses.shape[1:]) if whole else responses.shape
    responses = np.where(rng.random(shape) < share, np.nan, responses)
    responses[..., 0] = recording(n_stimuli=20, n_neurons=4, seed=seed)[..., 0]
    halves = half_splits(8, n_splits=5, seed=seed)
    ours = split_half_correlations(responses, halves)
    assert np.allclose(ours, loop(responses, halves), atol=1e-10, equal_nan=True)


def test_constant_neuron_is_undefined():
    responses = recording()
    responses[..., 2] = 0.1 + 0.2
    responses[..., 3] = 0
    r = split_half_correlations(responses, half_splits(8))
    assert np.isnan(r[:, 2:4]).all()
    assert np.isfinite(r[:, [0, 1, 4]]).all()
    for name, ceiling in CEILINGS.items():
        assert np.isnan(ceiling(responses)[2:4]).all(), name
        assert np.isfinite(ceiling(responses)[[0, 1, 4]]).all(), name


def test_golden_spearman_brown():
    assert spearman_brown(0.6) == pytest.approx(0.75)
    assert spearman_brown(0.5, lengthening=4) == pytest.approx(0.8)
    assert spearman_brown(-0.2) == pytest.approx(-0.5)  # never clipped


def test_internal_consistency_is_brain_scores_procedure():
    responses = recording(n_repeats=11)
    medians = []
    for first, second in ShuffleSplit(n_splits=10, train_size=0.5, random_state=1).split(np.arange(11)):
        r = [
            pearsonr(responses[:, first, i].mean(1), responses[:, second, i].mean(1))[0]
            for i in range(responses.shape[2])
        ]
        medians.append(np.median([2 * x / (1 + x) for x in r]))
    assert internal_consistency(responses) == pytest.approx(np.mean(medians), abs=1e-12)


def test_noise_and_means_by_hand():
    responses = np.array([[1.0, 3.0, np.nan], [4.0, 4.0, 7.0], [5.0, np.nan, np.nan]])[:, :, None]
    assert np.allclose(mean_over_repeats(responses)[:, 0], [2, 5, 5])
    # variances 2 and 3; the stimulus with one repeat takes their mean, 2.5
    assert noise_of_mean(responses)[0] == pytest.approx((2 / 2 + 3 / 3 + 2.5 / 1) / 3)
    assert explainable_variance(responses)[0] == pytest.approx(1 - 1.5 / 3.0)


def test_signal_power_is_the_published_formula():
    responses = recording()
    n = 8
    mean = responses.mean(1)
    power = (n * mean.var(0) - responses.var(0).mean(0)) / (n - 1)
    assert np.allclose(signal_power(responses), power / mean.var(0))


def test_signal_power_leaves_out_repeats_and_ignores_their_offset():
    responses = recording()
    offset = responses + 50 * np.arange(8)[None, :, None]
    assert np.allclose(signal_power(offset), signal_power(responses))
    holes = responses.copy()
    holes[:, 5:, 1] = np.nan
    assert signal_power(holes)[1] == pytest.approx(signal_power(responses[:, :5])[1])
    assert trial_correlation(holes)[1] == pytest.approx(trial_correlation(responses[:, :5])[1])
    holes[0, 1, 2] = np.nan
    with pytest.raises(ValueError, match=r"neuron 2 misses repeats for some stimuli only \(1 such"):
        signal_power(holes)


def test_trial_correlation_by_hand():
    responses = recording(n_repeats=3)
    for neuron in range(5):
        R = np.corrcoef(responses[:, :, neuron].T)
        mean = (R[0, 1] + R[0, 2] + R[1, 2]) / 3
        assert trial_correlation(responses)[neuron] == pytest.approx(3 * mean / (1 + 2 * mean))


@pytest.mark.parametrize("name", CEILINGS)
def test_every_ceiling_recovers_the_truth(name):
    rng = np.random.default_rng(3)
    signal = rng.standard_normal((3000, 1, 4))
    noise = np.array([0.5, 1.0, 2.0, 4.0])
    responses = signal + noise * rng.standard_normal((3000, 10, 4))
    assert np.allclose(CEILINGS[name](responses), 1 / (1 + noise**2 / 10), atol=0.03)


def test_unbiased_for_poisson_repeats():
    rng = np.random.default_rng(0)
    rate = rng.gamma(2.0, 1.0, (200, 1, 400))
    responses = rng.poisson(rate, (200, 6, 400)).astype(float)
    signal = rate[:, 0].var(0, ddof=1)
    total = mean_over_repeats(responses).var(0, ddof=1)
    estimated = explainable_variance(responses) * total  # unbiased signal variance
    standard_error = (estimated - signal).std() / 400**0.5
    assert abs((estimated - signal).mean()) < 3 * standard_error


def test_pure_noise_is_not_clipped():
    responses = np.random.default_rng(0).standard_normal((50, 6, 300))
    for name in ("explainable_variance", "signal_power"):
        values = CEILINGS[name](responses)
        assert (values < 0).any()
        assert abs(np.median(values)) < 0.1


def test_reliability_shape():
    assert split_half_reliability(recording(), n_splits=4).shape == (4, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: explainable_variance(x[..., 0]), r"expected \(stimulus, repeat, neuron\)"),
        (lambda x: half_splits(1), "at least 2"),
        (lambda x: split_half_correlations(x, np.zeros((3, 7), bool)), r"expected \(split, 8 repeats\)"),
        (lambda x: explainable_variance(np.where(np.arange(5) == 3, np.inf, x)), "neuron 3 are infinite"),
        (lambda x: signal_power(np.where(np.arange(8)[:, None] > 0, np.nan, x)), "has 1 repeats"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(recording())
