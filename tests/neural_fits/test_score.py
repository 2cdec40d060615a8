import dataclasses

import numpy as np
import pytest

from neural_fits.bootstrap import correlations
from neural_fits.ceiling import explainable_variance, split_half_reliability
from neural_fits.ridge import Ridge
from neural_fits.score import EXPLAINED_VARIANCE, RULES, cc_norm, feve, r2_er, score_predictions, upsilon
from neural_fits.splits import kfold_splits


def example(n_images=60, n_neurons=12, *, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((n_images, n_neurons))
    responses = truth[:, None] + rng.standard_normal((n_images, 10, n_neurons))
    predicted = truth + 0.7 * rng.standard_normal((n_images, n_neurons))
    return truth, responses, predicted


def test_golden_rules():
    r, reliability = np.array([[0.466]]), np.array([[0.873]])
    assert RULES["raw"](r, reliability) == pytest.approx(0.466)
    assert RULES["r2_over_ceiling"](r, reliability) == pytest.approx(0.2487, abs=5e-5)
    assert RULES["r_over_ceiling_squared"](r, reliability) == pytest.approx(0.2849, abs=5e-5)
    assert RULES["noise_corrected_per_neuron"](r, reliability) == pytest.approx(0.2487, abs=5e-5)


def test_the_noise_free_neurons_score_one_by_every_rule_but_the_former():
    truth, responses, _ = example(2000, 40)
    reliability = split_half_reliability(responses)
    r = correlations(truth, responses.mean(1))[None]
    assert RULES["r2_over_ceiling"](r, reliability) == pytest.approx(1, abs=0.01)
    assert RULES["noise_corrected_per_neuron"](r, reliability) == pytest.approx(1, abs=0.01)
    # reliability is 1 / (1 + 1 / 10), and the former rule divides by it twice
    assert RULES["r_over_ceiling_squared"](r, reliability) == pytest.approx(1.1, abs=0.01)


def test_rules_take_medians_over_neurons_then_means_over_splits():
    r = np.array([[0.1, 0.5, 0.6], [0.3, 0.2, np.nan]])
    reliability = np.array([[0.9, 0.5, 0.8], [0.7, 0.6, 0.9]])
    raw, ceiling = (0.5 + 0.25) / 2, (0.8 + 0.7) / 2
    assert RULES["raw"](r, reliability) == pytest.approx(raw)
    assert RULES["r2_over_ceiling"](r, reliability) == pytest.approx(raw**2 / ceiling)
    assert RULES["r_over_ceiling_squared"](r, reliability) == pytest.approx((raw / ceiling) ** 2)
    per_neuron = [0.2**2 / 0.8, 0.35**2 / 0.55, 0.6**2 / 0.85]
    assert RULES["noise_corrected_per_neuron"](r, reliability) == pytest.approx(np.median(per_neuron))


def test_negative_correlation_stays_negative():
    assert RULES["noise_corrected_per_neuron"](np.array([[-0.5]]), np.array([[0.5]])) == pytest.approx(-0.5)
    assert RULES["raw"](np.array([[-0.5]]), None) == -0.5
    _, responses, predicted = example()
    score = score_predictions([-predicted], responses.mean(1), [np.arange(60)], np.full(12, 0.9), n_bootstrap=20)
    assert score.raw < 0
    assert score.negative == 12
    assert "12 neurons with negative r" in str(score)


@pytest.mark.parametrize("rule", RULES)
def test_score_equals_its_rule(rule):
    _, responses, predicted = example()
    splits = kfold_splits(60, n_folds=4)
    reliability = split_half_reliability(responses)
    mean = responses.mean(1)
    score = score_predictions(
        [predicted[test] for test in splits.test],
        mean,
        splits.test,
        reliability,
        rule=rule,
        n_bootstrap=100,
        n_repeats=10,
    )
    r = np.stack([correlations(predicted[test], mean[test]) for test in splits.test])
    assert score.value == pytest.approx(float(RULES[rule](r, reliability)))
    for low, high in (score.interval_neurons, score.interval_images):
        assert low <= score.value <= high
    assert (score.n_neurons, score.n_images, score.n_splits, score.n_repeats) == (12, 60, 4, "10")
    assert score.left_out == {}
    assert score.share_left_out == 0
    assert "no neuron left out" in str(score)
    with pytest.raises(dataclasses.FrozenInstanceError):
        score.value = 1.0


def test_seed_decides_the_intervals():
    _, responses, predicted = example()
    make = lambda seed: score_predictions(  # noqa: E731
        [predicted], responses.mean(1), [np.arange(60)], np.full(12, 0.9), n_bootstrap=50, seed=seed
    )
    assert make(3) == make(3)
    assert make(3).interval_images != make(4).interval_images


def test_what_is_left_out_is_counted_once_with_its_reason():
    _, responses, predicted = example()
    mean = responses.mean(1)
    reliability = np.full(12, 0.8)
    mean[3, 0] = np.nan
    mean[:, 1] = 2.0
    predicted[:, 2] = 0.5
    reliability[3], reliability[4], reliability[1] = np.nan, -0.1, np.nan
    score = score_predictions(
        [predicted], mean, [np.arange(60)], reliability, rule="noise_corrected_per_neuron", n_bootstrap=20
    )
    assert score.left_out == {
        "missing response in a test part": 1,
        "constant response": 1,
        "constant prediction": 1,
        "reliability undefined": 1,
        "reliability not above 0": 1,
    }
    assert score.n_neurons == 7
    assert "left out 5 of 12 neurons (41.7 %)" in str(score)
    strict = score_predictions([predicted], mean, [np.arange(60)], reliability, min_reliability=0.79, n_bootstrap=0)
    assert strict.n_neurons == 7
    assert np.isnan(strict.interval_images).all()
    with pytest.raises(ValueError, match="no neuron can be scored"):
        score_predictions([predicted], mean, [np.arange(60)], reliability, min_reliability=2.0)


@pytest.mark.parametrize("name", EXPLAINED_VARIANCE)
def test_explained_variance_of_truth_is_one_and_of_nothing_zero(name):
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((4000, 3)) * [1, 2, 3] + 4
    responses = truth[:, None] + 2 * rng.standard_normal((4000, 6, 3))
    measure = EXPLAINED_VARIANCE[name]
    assert np.allclose(measure(truth, responses), 1, atol=0.06)
    unrelated = rng.permutation(truth) if name in ("r2_er", "cc_norm") else np.full_like(truth, 4.0)
    assert np.allclose(measure(unrelated, responses), 0, atol=0.08)


def test_published_formulas():
    _, responses, predicted = example(40, 3)
    m, n = 40, 10
    y, x = responses.mean(1), predicted
    sigma2 = responses.var(1, ddof=1).mean(0)
    xc, yc = x - x.mean(0), y - y.mean(0)
    numerator = (xc * yc).sum(0) ** 2 - sigma2 / n * (xc**2).sum(0)
    denominator = (xc**2).sum(0) * (yc**2).sum(0) - (m - 1) * sigma2 / n * (xc**2).sum(0)
    assert np.allclose(r2_er(x, responses), numerator / denominator)
    signal = y.var(0, ddof=1) - sigma2 / n
    assert np.allclose(cc_norm(x, responses), (xc * yc).sum(0) / (m - 1) / np.sqrt(x.var(0, ddof=1) * signal))
    mse = ((responses - x[:, None]) ** 2).mean((0, 1))
    variance = responses.var((0, 1), ddof=1)
    assert np.allclose(feve(x, responses), 1 - (mse - sigma2) / (variance - sigma2))
    factor = m * (n - 1) / (m * (n - 1) - 2)
    residual = ((y - x) ** 2).sum(0) / (sigma2 / n) - factor * (m - 2)
    total = (yc**2).sum(0) / (sigma2 / n) - factor * (m - 1)
    assert np.allclose(upsilon(x, responses, n_parameters=2), 1 - residual / total)


def test_r2_er_is_unbiased_where_r2_is_not():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((80, 500))
    predicted = truth + rng.standard_normal((80, 500))
    responses = truth[:, None] + 2 * rng.standard_normal((80, 4, 500))
    target = (correlations(predicted, truth) ** 2).mean()
    naive = (correlations(predicted, responses.mean(1)) ** 2).mean()
    assert naive < target - 0.2
    assert r2_er(predicted, responses).mean() == pytest.approx(target, abs=0.04)


def test_simulated_neurons_recover_the_truth():
    """Linear-nonlinear neurons on given features, Poisson repeats: corrected scores find what the noise hides."""
    rng = np.random.default_rng(1)
    n_images, n_features, n_neurons = 400, 30, 40
    X = rng.standard_normal((n_images, n_features))
    drive = X @ rng.standard_normal((n_features, n_neurons)) / n_features**0.5
    rate = np.exp(0.5 * drive) * 2
    responses = rng.poisson(rate[:, None], (n_images, 10, n_neurons)).astype(float)
    truth = rate.var(0) / (rate.var(0) + rate.mean(0) / 10)
    estimated = explainable_variance(responses)
    assert np.median(estimated - truth) == pytest.approx(0, abs=0.02)
    splits = kfold_splits(n_images, n_folds=5)
    predictions = Ridge().cross_predict(X, responses.mean(1), splits)
    predicted = np.concatenate(predictions)
    order = np.concatenate(splits.test)
    target = correlations(predicted, rate[order]) ** 2
    assert np.median(r2_er(predicted, responses[order]) - target) == pytest.approx(0, abs=0.02)
    score = score_predictions(
        predictions,
        responses.mean(1),
        splits.test,
        split_half_reliability(responses, n_splits=50),
        rule="noise_corrected_per_neuron",
        n_bootstrap=200,
    )
    parts = zip(predictions, splits.test, strict=True)
    expected = np.median(np.mean([correlations(part, rate[test]) for part, test in parts], axis=0) ** 2)
    assert score.interval_images[0] - 0.02 < expected < score.interval_images[1] + 0.02
    assert score.value == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "r2"}, "expected one of raw"),
        ({"reliability": np.ones(3)}, "reliability is of 3 neurons"),
        ({"tests": []}, "0 test parts"),
        ({"predictions": [np.ones((60, 2))]}, "expected the same"),
        ({"confidence": 95}, "confidence is 95"),
    ],
)
def test_bad_input_is_named(change, message):
    _, responses, predicted = example()
    good = {
        "predictions": [predicted],
        "responses": responses.mean(1),
        "tests": [np.arange(60)],
        "reliability": np.ones(12),
        "n_bootstrap": 5,
    }
    with pytest.raises(ValueError, match=message):
        score_predictions(**{**good, **change})


def test_bad_responses_are_named():
    _, responses, predicted = example()
    with pytest.raises(ValueError, match=r"predicted have shape \(59, 12\)"):
        r2_er(predicted[1:], responses)
    responses[2, :, 4] = np.nan
    with pytest.raises(ValueError, match="neuron 4 has no response to some stimuli"):
        cc_norm(predicted, responses)
    responses[2, :5, 4] = 1.0
    with pytest.raises(ValueError, match="complete repeats"):
        upsilon(predicted, responses)


def test_groups_of_images_are_resampled_together():
    _, responses, predicted = example(60, 12)
    frames = np.repeat(np.arange(6), 10)  # six movies of ten frames that are all the same
    alike = lambda x: x[np.arange(0, 60, 10)][frames]  # noqa: E731
    measured, predicted = alike(responses.mean(1)), alike(predicted)
    common = {"reliability": np.full(12, 0.9), "rule": "raw", "n_bootstrap": 300}
    single = score_predictions([predicted], measured, [np.arange(60)], **common)
    whole = score_predictions([predicted], measured, [np.arange(60)], groups=frames, **common)
    assert np.ptp(whole.interval_images) > 1.5 * np.ptp(single.interval_images)


def test_interval_over_whole_movies_when_each_movie_is_one_test_part():
    """Movies drawn not at all or twice: the interval is that of the mean over resampled movies."""
    rng = np.random.default_rng(3)
    measured = rng.standard_normal((120, 12))
    predicted = measured + rng.standard_normal(measured.shape) * np.repeat(rng.uniform(0.3, 3, 8), 15)[:, None]
    movie = np.repeat(np.arange(8), 15)
    tests = [np.flatnonzero(movie == k) for k in range(8)]
    score = score_predictions(
        [predicted[t] for t in tests], measured, tests, np.ones(12), rule="raw", groups=movie, n_bootstrap=4000
    )
    of_movie = np.array([np.median(correlations(predicted[t], measured[t])) for t in tests])
    by_hand = rng.choice(of_movie, (4000, 8)).mean(1)
    assert score.value == pytest.approx(of_movie.mean())
    assert np.diff(score.interval_images)[0] == pytest.approx(np.diff(np.quantile(by_hand, [0.025, 0.975]))[0], rel=0.1)
