"""The same numbers on both sides: Brain-Score's own metrics and ceiling against ours, in Brain-Score's environment.

Run by ``.ci/brainscore``; skipped where brainscore_vision is not installed.
"""

import os

import numpy as np
import pytest

os.environ["BS_INSTALL_DEPENDENCIES"] = "no"
brainscore_vision = pytest.importorskip("brainscore_vision", reason="needs Brain-Score's environment: .ci/brainscore")

from brainscore_core.supported_data_standards.brainio.assemblies import (  # noqa: E402
    NeuroidAssembly,
    NeuronRecordingAssembly,
    walk_coords,
)
from brainscore_vision.benchmark_helpers.neural_common import average_repetition, explained_variance  # noqa: E402
from brainscore_vision.metrics.regression_correlation.metric import ALPHA_LIST  # noqa: E402

from neural_fits.assemblies import assembly_from_recording, recording_from_assembly  # noqa: E402
from neural_fits.bootstrap import correlations  # noqa: E402
from neural_fits.ceiling import internal_consistency, split_half_reliability  # noqa: E402
from neural_fits.pls import PLS  # noqa: E402
from neural_fits.readouts import Linear  # noqa: E402
from neural_fits.ridge import Ridge  # noqa: E402
from neural_fits.score import score_by_rules  # noqa: E402
from neural_fits.splits import stratified_splits  # noqa: E402

N_STIMULI, N_REPEATS, N_NEURONS, N_FEATURES = 135, 20, 40, 400
SILENT = 7
#: Neither stimuli nor neurons in the order of their names: nothing may depend on how either side sorts.
STIMULI = np.array([f"im{i:03d}" for i in np.random.default_rng(1).permutation(N_STIMULI)])
NEURONS = np.array([f"n{i:03d}" for i in np.random.default_rng(2).permutation(N_NEURONS)])
KIND = np.where(np.arange(N_STIMULI) % 2, "texture", "noise")


@pytest.fixture(scope="module")
def responses():
    """Features (stimulus, feature), and counts (stimulus, repeat, neuron) that depend on them; one neuron is silent."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((N_STIMULI, N_FEATURES))
    rate = np.exp(features[:, :10] @ rng.standard_normal((10, N_NEURONS)) / 6) / 2
    rate[:, SILENT] = 0
    return features, rng.poisson(rate[:, None], (N_STIMULI, N_REPEATS, N_NEURONS)).astype(float)


def neuroid_assembly(values, names, *, rows=slice(None)):
    return NeuroidAssembly(
        values[rows],
        coords={
            "stimulus_id": ("presentation", STIMULI[rows]),
            "texture_type": ("presentation", KIND[rows]),
            "neuroid_id": ("neuroid", names),
            "region": ("neuroid", ["V1"] * len(names)),
        },
        dims=["presentation", "neuroid"],
    )


def feature_assembly(features, *, rows=None):
    """In another order of stimuli than the responses."""
    rows = np.random.default_rng(3).permutation(N_STIMULI) if rows is None else rows
    return neuroid_assembly(features, [f"f{i:03d}" for i in range(features.shape[1])], rows=rows)


def trials_assembly(counts):
    """Every trial that is there (not NaN for all neurons) is a presentation, in shuffled order."""
    row, repeat = np.nonzero(~np.isnan(counts).all(2))
    shuffled = np.random.default_rng(4).permutation(len(row))
    row, repeat = row[shuffled], repeat[shuffled]
    return NeuronRecordingAssembly(
        counts[row, repeat],
        coords={
            "stimulus_id": ("presentation", STIMULI[row]),
            "texture_type": ("presentation", KIND[row]),
            "repetition": ("presentation", repeat),
            "neuroid_id": ("neuroid", NEURONS),
            "region": ("neuroid", ["V1"] * len(NEURONS)),
        },
        dims=["presentation", "neuroid"],
    )


def split_by_neuron(score):
    """Values (split, neuron) of a score of Brain-Score before it was aggregated, neurons in our order."""
    while "raw" in score.attrs:
        score = score.attrs["raw"]
    place = {name: i for i, name in enumerate(score["neuroid_id"].values)}
    return score.transpose("split", "neuroid").values[:, [place[name] for name in NEURONS]]


def number(score):
    return float(np.asarray(score.values).ravel()[0])


def their_score(metric, features, mean):
    metric = brainscore_vision.load_metric(metric, crossvalidation_kwargs={"stratification_coord": "texture_type"})
    return metric(feature_assembly(features), neuroid_assembly(mean, NEURONS))


def our_predictions(regression, features, mean):
    """Predictions of each split, and correlations (split, neuron)."""
    splits = stratified_splits(KIND)
    parts = regression.cross_predict(features, mean, splits)
    return parts, np.stack([correlations(part, mean[test]) for part, test in zip(parts, splits.test, strict=True)])


def report_difference(what, ours, theirs):
    print(f"\n{what}: largest relative difference {np.nanmax(np.abs(ours - theirs) / np.abs(theirs)):.1e}")


@pytest.mark.parametrize(
    ("metric", "regression", "n_features"),
    [
        ("pls", PLS(n_components=25), N_FEATURES),
        ("ridge", Ridge([1.0]), N_FEATURES),
        ("linear_predictivity", Linear(units=range(30)), 30),
    ],
)
def test_every_split_and_neuron_has_the_same_correlation(responses, metric, regression, n_features):
    features, counts = responses
    mean = counts.mean(1)
    theirs = their_score(metric, features[:, :n_features], mean)
    _, ours = our_predictions(regression, features[:, :n_features], mean)
    raw = split_by_neuron(theirs)
    report_difference(metric, ours, raw)
    assert np.isnan(raw[:, SILENT]).all()
    np.testing.assert_allclose(ours, raw, rtol=1e-6, atol=1e-9)
    assert np.nanmedian(ours, 1).mean() == pytest.approx(number(theirs), rel=1e-6)


@pytest.mark.parametrize("metric", ["ridgecv_split", "dual_ridgecv_split"])
def test_the_penalty_is_chosen_alike(responses, metric):
    """Of one neuron, because Brain-Score takes one penalty for all."""
    features, counts = responses
    mean = counts.mean(1)[:, :1]
    splits = stratified_splits(KIND)
    train, test = splits.train[0], splits.test[0]
    theirs = brainscore_vision.load_metric(metric)(
        source_train=feature_assembly(features, rows=train),
        source_test=feature_assembly(features, rows=test),
        target_train=neuroid_assembly(mean, NEURONS[:1], rows=train),
        target_test=neuroid_assembly(mean, NEURONS[:1], rows=test),
    )
    ours = Ridge(ALPHA_LIST).fit(features[train], mean[train])
    assert ours.penalty_[0] == float(theirs.attrs["raw"].attrs["alpha"])
    assert correlations(ours.predict(features[test]), mean[test])[0] == pytest.approx(number(theirs), rel=1e-6)


def test_a_missing_response_is_refused_by_both(responses):
    features, counts = responses
    mean = counts.mean(1)
    mean[3, 5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        their_score("pls", features, mean)
    with pytest.raises(ValueError, match="neuron 5"):
        our_predictions(PLS(n_components=25), features, mean)


@pytest.mark.parametrize("missing", [0, 0.1])
def test_halves_and_reliabilities_are_the_same(responses, missing):
    """All repeats; and trials that were not shown, or lost for some neurons."""
    counts = responses[1].copy()
    rng = np.random.default_rng(5)
    counts[rng.random((N_STIMULI, N_REPEATS)) < missing] = np.nan
    counts[rng.random(counts.shape) < missing / 2] = np.nan
    trials = trials_assembly(counts)
    theirs = brainscore_vision.load_metric("internal_consistency")(trials)
    ours = split_half_reliability(counts, n_splits=10, seed=1)
    raw = split_by_neuron(theirs)
    report_difference(f"reliability with {missing:.0%} missing", ours, raw)
    assert np.isnan(raw[:, SILENT]).all()
    np.testing.assert_allclose(ours, raw, rtol=1e-6)
    assert internal_consistency(counts) == pytest.approx(number(theirs), rel=1e-6)
    assert internal_consistency(recording_from_assembly(trials).repeats()) == pytest.approx(number(theirs), rel=1e-6)


def test_a_half_without_one_stimulus_is_where_the_two_part(responses):
    """Brain-Score then passes over the neuron in that split; we correlate the stimuli that both halves have."""
    counts = responses[1][:, :4].copy()
    counts[3, :2, 2] = np.nan
    raw = split_by_neuron(brainscore_vision.load_metric("internal_consistency")(trials_assembly(counts)))
    ours, without = (split_half_reliability(each) for each in (counts, np.delete(counts, 3, axis=0)))
    theirs_lack = np.isnan(raw[:, 2])
    assert 0 < theirs_lack.sum() < len(raw)
    np.testing.assert_allclose(ours[theirs_lack, 2], without[theirs_lack, 2], rtol=1e-6)
    ours[theirs_lack, 2] = np.nan
    np.testing.assert_allclose(ours, raw, rtol=1e-6)


def test_from_trials_to_the_score(responses):
    """As its benchmarks do it: repeats averaged by Brain-Score, then PLS, ceiling and the rule of this release."""
    features, counts = responses
    trials = trials_assembly(counts)
    averaged = average_repetition(trials)
    metric = brainscore_vision.load_metric("pls", crossvalidation_kwargs={"stratification_coord": "texture_type"})
    raw = metric(feature_assembly(features), averaged)
    ceiling = brainscore_vision.load_metric("internal_consistency")(trials)
    theirs = number(explained_variance(raw, ceiling))

    recording = recording_from_assembly(averaged)
    row = [list(STIMULI).index(name) for name in recording.labels("stimulus_id")]
    mean = recording.mean_responses()
    splits = stratified_splits(recording.labels("texture_type"))
    ours = score_by_rules(
        PLS(n_components=25).cross_predict(features[row], mean, splits),
        mean,
        splits.test,
        split_half_reliability(recording_from_assembly(trials).repeats()),
        n_bootstrap=10,
    )
    print(f"\nexplained_variance {theirs:.12f}, r2_over_ceiling {ours['r2_over_ceiling'].value:.12f}")
    assert ours["r2_over_ceiling"].value == pytest.approx(theirs, rel=1e-6)
    assert ours["r_over_ceiling_squared"].value == pytest.approx((number(raw) / number(ceiling)) ** 2, rel=1e-6)
    assert ours["r_over_ceiling_squared"].value != pytest.approx(theirs, rel=1e-2)  # so the rules can be told apart


def test_an_assembly_becomes_a_recording_and_comes_back(responses):
    rng = np.random.default_rng(6)
    counts = responses[1].copy()
    counts[3, 2] = np.nan  # a trial that was not shown
    counts[5, 1, 4] = np.nan  # a response that was lost
    trials = trials_assembly(counts)
    n = trials.sizes["presentation"]
    bins = np.arange(50, 110, 20)
    theirs = NeuronRecordingAssembly(
        trials.values[:, :, None] + np.arange(3.0),
        coords={
            **{name: (dims, values) for name, dims, values in walk_coords(trials)},
            "session": ("presentation", rng.integers(0, 5, n)),
            "time_bin_start": ("time_bin", bins),
            "time_bin_end": ("time_bin", bins + 20),
        },
        dims=["presentation", "neuroid", "time_bin"],
        attrs={"size_deg": 4.0, "licence": "CC-BY-4.0"},
    )
    back = NeuronRecordingAssembly(assembly_from_recording(recording_from_assembly(theirs)))
    coords = [{name: (dims, values) for name, dims, values in walk_coords(each)} for each in (theirs, back)]
    order = [np.lexsort((each["repetition"][1], each["stimulus_id"][1])) for each in coords]
    np.testing.assert_array_equal(back.values[order[1]], theirs.values[order[0]])
    for name, (dims, values) in coords[0].items():
        again = coords[1][name]
        assert again[0] == dims
        where = order if dims == ("presentation",) else (slice(None), slice(None))
        np.testing.assert_array_equal(again[1][where[1]], values[where[0]])
    assert {name: back.attrs[name] for name in theirs.attrs} == theirs.attrs
