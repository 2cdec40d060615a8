"""Comparisons of representations and of distributions: Brain-Score's own against ours, in Brain-Score's environment.

Run by ``.ci/brainscore``; skipped where brainscore_vision is not installed.
"""

import os

import numpy as np
import pytest

os.environ["BS_INSTALL_DEPENDENCIES"] = "no"
brainscore_vision = pytest.importorskip("brainscore_vision", reason="needs Brain-Score's environment: .ci/brainscore")

from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly  # noqa: E402
from brainscore_vision.metrics.distribution_similarity.metric import ks_similarity  # noqa: E402

from neural_fits.dissimilarity import dissimilarity  # noqa: E402
from neural_fits.distribution_similarity import histogram_similarity  # noqa: E402
from neural_fits.kernel_alignment import linear_cka  # noqa: E402
from neural_fits.similarity import compare_dissimilarities  # noqa: E402

N_STIMULI = 60


def assembly(values, rows):
    return NeuroidAssembly(
        values[rows],
        coords={
            "stimulus_id": ("presentation", [f"im{i:02d}" for i in rows]),
            "kind": ("presentation", rows % 2),
            "neuroid_id": ("neuroid", np.arange(values.shape[1])),
            "region": ("neuroid", ["V1"] * values.shape[1]),
        },
        dims=["presentation", "neuroid"],
    )


@pytest.fixture(scope="module")
def pair():
    """Features and responses that share some of their variance, and the same as assemblies in different orders."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N_STIMULI, 300)) + 1
    y = x[:, :30] @ rng.standard_normal((30, 40)) + 4 * rng.standard_normal((N_STIMULI, 40)) + 5
    return x, y, assembly(x, rng.permutation(N_STIMULI)), assembly(y, rng.permutation(N_STIMULI))


@pytest.mark.parametrize(
    ("metric", "ours"),
    [
        ("cka", linear_cka),
        ("cka_biased", lambda x, y: linear_cka(x, y, unbiased=False)),
        ("rdm", lambda x, y: compare_dissimilarities(dissimilarity(x), dissimilarity(y))),
    ],
)
def test_representations_are_compared_alike(pair, metric, ours):
    x, y, *assemblies = pair
    theirs = float(np.asarray(brainscore_vision.load_metric(metric)(*assemblies).values))
    print(f"\n{metric}: {theirs:.12f}, ours {ours(x, y):.12f}")
    assert 0.1 < theirs < 0.9
    assert ours(x, y) == pytest.approx(theirs, rel=1e-6)


def test_histograms_are_compared_alike():
    rng = np.random.default_rng(1)
    for p, q in rng.dirichlet(np.ones(12), (50, 2)):
        assert histogram_similarity(p, q) == pytest.approx(ks_similarity(p, q), rel=1e-6, abs=1e-12)
