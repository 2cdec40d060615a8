"""The same numbers on both sides: Brain-Score's own metric and ceiling against ours, in Brain-Score's environment.

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
)
from brainscore_vision.benchmark_helpers.neural_common import explained_variance  # noqa: E402
from brainscore_vision.metrics import Score as TheirScore  # noqa: E402

from neural_fits.assemblies import assembly_from_recording, recording_from_assembly  # noqa: E402
from neural_fits.bootstrap import correlations  # noqa: E402
from neural_fits.ceiling import internal_consistency, split_half_reliability  # noqa: E402
from neural_fits.pls import PLS  # noqa: E402
from neural_fits.recordings import recording_from_arrays  # noqa: E402
from neural_fits.score import score_by_rules  # noqa: E402
from neural_fits.splits import stratified_splits  # noqa: E402

N_STIMULI, N_REPEATS, N_NEURONS, N_FEATURES = 135, 20, 24, 400


@pytest.fixture(scope="module")
def responses():
    """Features (stimulus, feature), and counts (stimulus, repeat, neuron) that depend on them."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((N_STIMULI, N_FEATURES))
    rate = np.exp(features[:, :10] @ rng.standard_normal((10, N_NEURONS)) / 4) * 3
    return features, rng.poisson(rate[:, None], (N_STIMULI, N_REPEATS, N_NEURONS)).astype(float)


def stimulus_labels():
    rng = np.random.default_rng(1)
    ids = [f"im{i:03d}" for i in rng.permutation(N_STIMULI)]  # not in sorted order: alignment must not depend on it
    return ids, np.where(np.arange(N_STIMULI) % 2, "texture", "noise")


def neuroid_assembly(values, prefix):
    ids, kind = stimulus_labels()
    n = values.shape[1]
    return NeuroidAssembly(
        values,
        coords={
            "stimulus_id": ("presentation", ids),
            "texture_type": ("presentation", kind),
            "neuroid_id": ("neuroid", [f"{prefix}{k:05d}" for k in range(n)]),
            "region": ("neuroid", ["V1"] * n),
        },
        dims=["presentation", "neuroid"],
    )


def trials_assembly(counts):
    ids, kind = stimulus_labels()
    n, repeats, neurons = counts.shape
    return NeuronRecordingAssembly(
        counts.reshape(n * repeats, neurons),
        coords={
            "stimulus_id": ("presentation", np.repeat(ids, repeats)),
            "texture_type": ("presentation", np.repeat(kind, repeats)),
            "repetition": ("presentation", np.tile(np.arange(repeats), n)),
            "neuroid_id": ("neuroid", [f"n{k:05d}" for k in range(neurons)]),
            "region": ("neuroid", ["V1"] * neurons),
        },
        dims=["presentation", "neuroid"],
    )


@pytest.fixture(scope="module")
def both(responses):
    """Brain-Score's score and ours: correlations (split, neuron)."""
    features, counts = responses
    mean = counts.mean(1)
    metric = brainscore_vision.load_metric("pls", crossvalidation_kwargs={"stratification_coord": "texture_type"})
    theirs = metric(neuroid_assembly(features, "f"), neuroid_assembly(mean, "n"))
    _, kind = stimulus_labels()
    splits = stratified_splits(kind)
    parts = PLS(n_components=25).cross_predict(features, mean, splits)
    ours = np.stack([correlations(part, mean[test]) for part, test in zip(parts, splits.test, strict=True)])
    return theirs, ours, parts, splits, mean


def test_pls_gives_the_same_correlation_for_every_split_and_neuron(both):
    theirs, ours, *_ = both
    raw = theirs.attrs["raw"]
    raw = raw.attrs.get("raw", raw)
    raw = raw.transpose("split", "neuroid").values
    difference = np.abs(raw - ours).max()
    print(f"largest difference of a correlation: {difference:.1e}")
    assert difference < 1e-6


def test_pls_gives_the_same_score(both):
    theirs, ours, *_ = both
    value = float(np.asarray(theirs.values).ravel()[0])  # centre first
    assert value == pytest.approx(np.median(ours, 1).mean(), abs=1e-6)


def test_internal_consistency_is_the_same_with_the_same_halves(responses):
    _, counts = responses
    theirs = brainscore_vision.load_metric("internal_consistency")(trials_assembly(counts))
    ours = internal_consistency(counts, n_splits=10, seed=1)
    value = float(np.asarray(theirs.values).ravel()[0])
    print(f"internal consistency {value:.10f}, ours {ours:.10f}")
    assert ours == pytest.approx(value, abs=1e-6)


def test_both_rules_are_those_of_brain_score(both, responses):
    """The current rule through Brain-Score's own function; the former by its formula."""
    theirs, _, parts, splits, mean = both
    _, counts = responses
    ceiling = brainscore_vision.load_metric("internal_consistency")(trials_assembly(counts))
    reliability = split_half_reliability(counts, n_splits=10, seed=1)
    scores = {
        rule: score.value
        for rule, score in score_by_rules(parts, mean, splits.test, reliability, n_bootstrap=10).items()
    }
    r, c = (float(np.asarray(score.values).ravel()[0]) for score in (theirs, ceiling))
    assert scores["r2_over_ceiling"] == pytest.approx(r**2 / c, abs=1e-6)
    assert scores["r_over_ceiling_squared"] == pytest.approx((r / c) ** 2, abs=1e-6)
    # Whatever release is installed, its rule is one of the two that we name.
    installed = float(np.asarray(explained_variance(TheirScore(r), TheirScore(c)).values))
    named = {rule: scores[rule] for rule in ("r2_over_ceiling", "r_over_ceiling_squared")}
    print(f"rule of this release: {installed:.10f}; {named}")
    assert any(installed == pytest.approx(value, abs=1e-6) for value in named.values())


def test_a_recording_becomes_an_assembly_and_comes_back(responses):
    _, counts = responses
    counts = counts.copy()
    counts[3, 2] = np.nan  # a trial that was not shown
    ids, kind = stimulus_labels()
    recording = recording_from_arrays(
        counts, stimulus={"stimulus_id": ids, "texture_type": kind}, neuron={"region": "V1", "animal": "m"}
    )
    assembly = NeuronRecordingAssembly(assembly_from_recording(recording))
    assert set(assembly.dims) == {"presentation", "neuroid"}
    again = recording_from_assembly(assembly)
    order = [list(again.labels("stimulus_id")).index(i) for i in ids]
    np.testing.assert_array_equal(again.repeats()[order], counts)
