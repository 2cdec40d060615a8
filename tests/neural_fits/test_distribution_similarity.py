import numpy as np
import pytest
import xarray as xr

from neural_fits.datasets.v1_published import published_distributions
from neural_fits.distribution_similarity import (
    BINS,
    compare_with_published,
    histogram_similarity,
    ks_similarity,
    published_ceiling,
)


def test_golden_values():
    p, q = [0.2, 0.3, 0.5], [0.5, 0.3, 0.2]
    assert histogram_similarity(p, q) == pytest.approx(1 - 0.3 / 0.8)
    assert histogram_similarity(q, q) == 1
    assert histogram_similarity([0, 0, 1], q) == pytest.approx(0)
    assert histogram_similarity([1, 0, 0], q) == pytest.approx(1 - 0.5 / 0.8)


def test_it_is_not_symmetric_and_ignores_the_number_of_units():
    p, q = np.array([1, 2, 7]), np.array([3, 3, 4])
    assert histogram_similarity(p, q) != pytest.approx(float(histogram_similarity(q, p)))
    assert histogram_similarity(10 * p, q) == pytest.approx(float(histogram_similarity(p, q)))


def test_bad_histograms_are_named():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        histogram_similarity([1, 1], [1, 1, 1])
    with pytest.raises(ValueError, match="at least one neuron"):
        histogram_similarity([1, 1], [0, 0])
    with pytest.raises(ValueError, match="do not fit"):
        ks_similarity([1.0], [0, 1], [1, 1])
    with pytest.raises(ValueError, match="at least one unit"):
        ks_similarity([], [0, 1, 2], [1, 1])


def test_multinomial_draws_equal_drawing_units():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(60) < 0.2, np.nan, rng.normal(0.3, 1, 60))
    bins = np.linspace(-2, 2, 9)
    counts = np.histogram(rng.normal(size=50), bins)[0]
    ours = ks_similarity(values, bins, counts, n_resamples=4000)
    drawn = values[rng.integers(0, 60, (4000, counts.sum()))]
    plain = [histogram_similarity(np.histogram(np.clip(d[~np.isnan(d)], -2, 2), bins)[0], counts) for d in drawn]
    assert ours.score == pytest.approx(np.mean(plain), abs=4 * np.std(plain) / np.sqrt(4000))
    assert ours.error == pytest.approx(np.std(plain), rel=0.1)
    assert (ours.n_units, ours.n_undefined, ours.n_neurons) == (60, int(np.isnan(values).sum()), counts.sum())


def test_values_outside_the_bins_are_clipped_into_them():
    inside = ks_similarity([0.1, 1.9], [0, 1, 2], [1, 1], seed=3)
    assert ks_similarity([-50.0, 50.0], [0, 1, 2], [1, 1], seed=3) == inside


def test_undefined_units_make_the_score_zero():
    all_undefined = ks_similarity([np.nan] * 5, [0, 1, 2], [3, 1])
    assert all_undefined.score == 0
    assert all_undefined.undefined_resamples == 1000
    some = ks_similarity([np.nan] * 9 + [0.5], [0, 1, 2], [3, 1])  # 0.9^4 of the resamples have no value
    assert some.score == 0
    assert some.undefined_resamples == pytest.approx(656, abs=60)


def test_bins_are_those_of_the_protocol():
    assert {name: len(edges) - 1 for name, edges in BINS.items()} == {
        "modulation": 24, "absolute_modulation": 12, "variance_ratio": 12, "selectivity": 10, "sparseness": 10,
        "max_response": 12,
    }  # fmt: skip


def test_units_drawn_from_the_published_counts_match_them():
    published = published_distributions()
    rng = np.random.default_rng(0)
    n = 2000
    simple = np.arange(n) % 2
    variables = {"simple": ("unit", simple.astype(float))}
    for measure in {each.measure for each in published.values() if each.counts.ndim == 1}:
        groups = [each for each in published.values() if each.measure == measure and each.counts.ndim == 1]
        values = np.empty(n)
        for each in groups:
            rows = {"simple": simple == 1, "complex": simple == 0}.get(each.cells.split("_")[0], np.ones(n, bool))
            if each.measure == "preferred_orientation_deg" and each.cells == "simple":
                continue
            index = rng.choice(len(each.counts), n, p=each.counts / each.n)
            middle = index if each.scale == "categories" else (each.bins[:-1] + each.bins[1:])[index] / 2
            values[rows] = middle[rows]
        variables[measure] = ("unit", values % 180 if measure == "preferred_orientation_deg" else values)
    scores = compare_with_published(xr.Dataset(variables), published, n_resamples=200)
    assert set(scores) == {key for key, each in published.items() if each.counts.ndim == 1}
    assert scores["preferred_orientation_deg"].score > 0.9
    assert scores["surround_suppression_index"].score > 0.9
    assert scores["strongly_suppressed"].score > 0.9
    assert scores["frequency_bandwidth_percent/simple"].score > 0.8


def test_kinds_of_cells_are_compared_with_their_own_kind():
    published = published_distributions()
    units = xr.Dataset(
        {"simple": ("unit", [1.0, 1.0, 0.0]), "frequency_bandwidth_percent": ("unit", [55.0, 35.0, 99.0])}
    )
    scores = compare_with_published(units, published, n_resamples=50)
    assert scores["frequency_bandwidth_percent/simple"].n_units == 2
    assert scores["frequency_bandwidth_percent/complex"].n_units == 1
    assert compare_with_published(units.drop_vars("simple"), published, n_resamples=50) == {}


def test_the_ceiling_is_that_of_a_model_with_the_distribution_of_the_neurons():
    published = published_distributions()["summation_field_deg"]
    middle = np.sqrt(published.bins[:-1] * published.bins[1:])
    many = np.repeat(middle, 100 * published.counts)
    found = published_ceiling(published, n_resamples=2000)
    again = ks_similarity(many, published.bins, published.counts, n_resamples=2000, seed=1)
    assert found.score == pytest.approx(again.score, abs=0.005)
    assert found.low < found.score < found.high <= 1
    assert found.n_neurons == published.n
