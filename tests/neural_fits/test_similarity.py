import numpy as np
import pytest
from rsatoolbox.inference import boot_noise_ceiling
from rsatoolbox.rdm import RDMs, compare
from scipy.spatial.distance import pdist, squareform
from scipy.stats import kendalltau, pearsonr, spearmanr

from neural_fits.dissimilarity import dissimilarity
from neural_fits.kernel_alignment import linear_cka
from neural_fits.recordings import recording_from_arrays
from neural_fits.similarity import (
    COMPARISONS,
    bootstrap_comparison,
    bootstrap_neurons,
    compare_dissimilarities,
    noise_ceiling,
    similarity_table,
    split_half_ceiling,
)

RSATOOLBOX = {
    "pearson": "corr",
    "spearman": "spearman",
    "kendall_tau_a": "tau-a",
    "rho_a": "rho-a",
    "cosine": "cosine",
    "whitened_cosine": "cosine_cov",
}


def pair(n=15, ties=False, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 8))
    a, b = pdist(x, "sqeuclidean"), pdist(x + rng.standard_normal((n, 8)), "sqeuclidean")
    return (np.round(a / 4), np.round(b / 4)) if ties else (a, b)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("comparison", sorted(COMPARISONS))
def test_comparisons_are_those_of_rsatoolbox(comparison, ties):
    a, b = pair(ties=ties)
    theirs = compare(RDMs(a[None]), RDMs(b[None]), method=RSATOOLBOX[comparison])[0, 0]
    assert compare_dissimilarities(a, b, comparison=comparison) == pytest.approx(theirs)


def test_comparisons_are_those_of_scipy():
    a, b = pair()
    assert compare_dissimilarities(a, b, comparison="pearson") == pytest.approx(pearsonr(a, b)[0])
    a, b = pair(ties=True)
    assert compare_dissimilarities(a, b, comparison="spearman") == pytest.approx(spearmanr(a, b)[0])
    a, b = pair()  # without ties, tau a is tau b and rho a is rho
    assert compare_dissimilarities(a, b, comparison="kendall_tau_a") == pytest.approx(kendalltau(a, b)[0])
    assert compare_dissimilarities(a, b, comparison="rho_a") == pytest.approx(spearmanr(a, b)[0])


def test_rho_a_is_the_mean_over_random_orders_of_ties():
    a, b = np.array([1.0, 1.0, 2.0, 3.0, 3.0, 3.0]), np.array([1.0, 2.0, 2.0, 4.0, 0.0, 5.0])
    rng = np.random.default_rng(0)
    drawn = [spearmanr(a + 1e-6 * rng.random(6), b + 1e-6 * rng.random(6))[0] for _ in range(2000)]
    expected = np.mean(drawn)
    assert compare_dissimilarities(a, b, comparison="rho_a") == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("missing", [False, True])
def test_whitening_is_the_inverse_of_the_covariance_of_pairs(missing):
    a, b = pair(n=9)
    first, second = np.triu_indices(9, 1)
    contrast = np.eye(9)[first] - np.eye(9)[second]
    covariance = (contrast @ contrast.T) ** 2
    there = np.ones(len(a), dtype=bool)
    if missing:
        there[[0, 5, 20]] = False
        a = np.where(there, a, np.nan)
    inverse = np.linalg.inv(covariance[np.ix_(there, there)])
    x, y = a[there], b[there]
    expected = x @ inverse @ y / np.sqrt((x @ inverse @ x) * (y @ inverse @ y))
    assert compare_dissimilarities(a, b, comparison="whitened_cosine") == pytest.approx(expected)


def test_that_covariance_is_the_one_of_noisy_squared_distances():
    """Errors of cross-validated distances of stimuli that evoke the same response."""
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 4000, 4, 20))
    first, second = np.triu_indices(4, 1)
    errors = ((one[:, first] - one[:, second]) * (other[:, first] - other[:, second])).mean(2)
    covariance = np.cov(errors.T)
    contrast = np.eye(4)[first] - np.eye(4)[second]
    expected = (contrast @ contrast.T) ** 2
    np.testing.assert_allclose(covariance * 4 / covariance[0, 0], expected, atol=0.4)


def test_whitened_cosine_of_squared_distances_is_plain_cka():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 7))
    y = x[:, :4] + rng.standard_normal((20, 4))
    a, b = (dissimilarity(z, distance="euclidean") for z in (x, y))
    assert compare_dissimilarities(a, b, comparison="whitened_cosine") == pytest.approx(
        linear_cka(x, y, unbiased=False)
    )


@pytest.mark.parametrize("comparison", sorted(COMPARISONS))
def test_likeness_does_not_depend_on_the_order_of_stimuli_or_on_scale(comparison):
    a, b = pair()
    order = np.random.default_rng(1).permutation(15)
    moved = [squareform(squareform(x)[np.ix_(order, order)]) for x in (a, b)]
    value = compare_dissimilarities(a, b, comparison=comparison)
    assert compare_dissimilarities(moved[0], 3 * moved[1], comparison=comparison) == pytest.approx(value)
    assert compare_dissimilarities(a, a, comparison=comparison) == pytest.approx(1)
    assert np.isnan(compare_dissimilarities(a, np.zeros_like(b), comparison=comparison))


# the pooled matrix that rsatoolbox takes for whitened cosine is not the best one
@pytest.mark.filterwarnings("ignore:Noise ceiling for tau based on averaged ranks")
@pytest.mark.parametrize("comparison", sorted(set(COMPARISONS) - {"whitened_cosine"}))
def test_noise_ceiling_is_that_of_rsatoolbox(comparison):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 6))
    subjects = np.array([pdist(x + 0.7 * rng.standard_normal(x.shape), "sqeuclidean") for _ in range(5)])
    theirs = boot_noise_ceiling(RDMs(subjects), method=RSATOOLBOX[comparison], rdm_descriptor="index")
    np.testing.assert_allclose(noise_ceiling(subjects, comparison=comparison), theirs)


@pytest.mark.parametrize("comparison", ["pearson", "spearman", "cosine", "whitened_cosine", "rho_a"])
def test_no_matrix_exceeds_the_upper_bound(comparison):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 6))
    subjects = np.array([pdist(x + rng.standard_normal(x.shape), "sqeuclidean") for _ in range(4)])
    lower, upper = noise_ceiling(subjects, comparison=comparison)
    assert lower < upper
    candidates = [*subjects, subjects.mean(0), pdist(x, "sqeuclidean"), np.median(subjects, 0)]
    candidates += [subjects.mean(0) * rng.uniform(0.9, 1.1, subjects.shape[1]) for _ in range(50)]
    for candidate in candidates:
        reached = np.mean([compare_dissimilarities(candidate, s, comparison=comparison) for s in subjects])
        assert reached <= upper + 1e-12


@pytest.mark.parametrize(
    ("distance", "comparison"), [("crossnobis", "pearson"), ("correlation", "pearson"), ("correlation", "cka")]
)
def test_split_half_ceiling_is_what_the_truth_reaches(distance, comparison):
    rng = np.random.default_rng(0)
    reached, ceilings = [], []
    for _ in range(12):
        signal = rng.standard_normal((25, 40))
        responses = signal[:, None] + 2 * rng.standard_normal((25, 16, 40))
        ceilings.append(split_half_ceiling(responses, distance=distance, comparison=comparison, noise="diagonal"))
        if comparison == "cka":
            reached.append(linear_cka(signal, responses.mean(1)))
            continue
        true = dissimilarity(signal, distance="euclidean" if distance == "crossnobis" else distance)
        measured = dissimilarity(responses, distance=distance, noise="diagonal")
        reached.append(compare_dissimilarities(true, measured, comparison=comparison))
    # twice the repeats more than halve the errors of products of noise, which makes the ceiling careful
    assert -0.06 < np.mean(ceilings) - np.mean(reached) < 0.02


def test_noise_alone_has_no_ceiling_or_a_low_one():
    ceiling = split_half_ceiling(np.random.default_rng(0).standard_normal((30, 8, 10)), distance="crossnobis")
    assert np.isnan(ceiling) or ceiling < 0.5


def test_bootstrap_leaves_out_pairs_of_copies():
    """Copies would have dissimilarity 0 in both, which lifts the likeness of unrelated matrices."""
    rng = np.random.default_rng(0)
    values = []
    for seed in range(20):
        a, b = (dissimilarity(rng.standard_normal((20, 50)), distance="euclidean") for _ in range(2))
        values.append(bootstrap_comparison(a, b, comparison="pearson", n_resamples=40, seed=seed))
    assert abs(np.mean(values)) < 0.06  # 0.5 and more with copies
    low, high = np.mean(values, axis=0)
    assert low < 0 < high


@pytest.mark.parametrize("comparison", ["pearson", "spearman"])
def test_bootstrap_over_stimuli_is_as_wide_as_the_spread_over_draws_of_stimuli(comparison):
    rng = np.random.default_rng(0)

    def draw():
        x = rng.standard_normal((40, 6))
        return [dissimilarity(z, distance="euclidean") for z in (x, x + rng.standard_normal(x.shape))]

    spread = np.std([compare_dissimilarities(*draw(), comparison=comparison) for _ in range(150)])
    widths = [np.ptp(bootstrap_comparison(*draw(), comparison=comparison, n_resamples=80)) for _ in range(8)]
    assert 0.7 < np.mean(widths) / (2 * 1.96 * spread) < 1.5


def test_bootstrap_over_groups_is_centred_on_the_estimate():
    """Pairs from two copies of a group would be alike in both, as within a group, and lift the likeness."""
    rng = np.random.default_rng(0)
    excess = []
    for seed in range(10):
        group = np.repeat(rng.standard_normal((10, 20)), 4, axis=0)
        x, y = (group + rng.standard_normal((40, 20)) + np.repeat(rng.standard_normal((10, 20)), 4, 0) for _ in "ab")
        a, b = dissimilarity(x, distance="euclidean"), dissimilarity(y, distance="euclidean")
        low, high = bootstrap_comparison(
            a, b, comparison="pearson", n_resamples=40, confidence=0.02, seed=seed, groups=np.repeat(np.arange(10), 4)
        )
        excess.append((low + high) / 2 - compare_dissimilarities(a, b, comparison="pearson"))
    assert abs(np.mean(excess)) < 0.06
    with pytest.raises(ValueError, match="groups hold 5 labels"):
        bootstrap_comparison(a, b, groups=np.arange(5))


def test_bootstrap_over_groups_is_wider():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((8, 5)), 5, axis=0) + 0.2 * rng.standard_normal((40, 5))
    y = x + np.repeat(rng.standard_normal((8, 5)), 5, axis=0)
    a, b = dissimilarity(x, distance="euclidean"), dissimilarity(y, distance="euclidean")
    groups = np.repeat(np.arange(8), 5)
    alone, whole = (bootstrap_comparison(a, b, comparison="pearson", n_resamples=80, groups=g) for g in (None, groups))
    assert np.ptp(whole) > 1.3 * np.ptp(alone)


def test_bootstrap_over_neurons_is_as_wide_as_the_spread_over_draws_of_neurons():
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((25, 5))
    model = dissimilarity(latent, distance="euclidean")

    def draw():
        return latent @ rng.standard_normal((5, 40)) + rng.standard_normal((25, 40))

    options = {"distance": "euclidean", "comparison": "pearson"}
    reached = [
        compare_dissimilarities(dissimilarity(draw(), distance="euclidean"), model, comparison="pearson")
        for _ in range(200)
    ]
    intervals = np.array([bootstrap_neurons(draw(), model, n_resamples=60, **options) for _ in range(15)])
    assert 0.7 < np.mean(intervals[:, 1] - intervals[:, 0]) / (2 * 1.96 * np.std(reached)) < 1.5
    held = np.mean((intervals[:, 0] < np.mean(reached)) & (np.mean(reached) < intervals[:, 1]))
    assert held > 0.7
    with pytest.raises(ValueError, match="resampled neurons repeat"):
        bootstrap_neurons(rng.standard_normal((25, 4, 10)), model, distance="crossnobis", noise="shrinkage")


def test_table_of_layers():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 10))
    responses = x[:, None] + 0.8 * rng.standard_normal((30, 8, 10))
    responses[3, 7] = np.nan
    features = {"same": x @ rng.standard_normal((10, 10)) * 0.1 + x, "other": rng.standard_normal((30, 4, 3))}
    measures = ["pearson", "kendall_tau_a", "cka"]
    recording = recording_from_arrays(responses, name="toy")
    options = {"comparisons": measures, "n_resamples": 30, "distance": "crossnobis"}
    table = similarity_table(features, recording, **options)
    assert table["value"].dims == ("layer", "measure")
    same = table.sel(layer="same")
    assert (same["low"] < same["value"]).all()
    assert (same["value"] < same["high"]).all()
    assert (same["value"] < table["ceiling"]).all()
    assert (same["low"] > table["value"].sel(layer="other")).all()
    cka = linear_cka(features["same"], np.nanmean(responses, 1))
    assert float(same["value"].sel(measure="cka")) == pytest.approx(cka)
    expected = compare_dissimilarities(
        dissimilarity(features["same"], distance="euclidean"),
        dissimilarity(responses, distance="crossnobis", n_folds=2),
        comparison="pearson",
    )
    assert float(same["value"].sel(measure="pearson")) == pytest.approx(expected)
    assert similarity_table(features, responses, **options).equals(table)
    without = similarity_table(features, responses, comparisons=["cka"], n_resamples=0)
    assert without["low"].isnull().all()


def test_bad_input_is_refused():
    a, b = pair()
    with pytest.raises(ValueError, match="expected one of pearson"):
        compare_dissimilarities(a, b, comparison="tau")
    with pytest.raises(ValueError, match=r"shapes \(105,\) and \(104,\)"):
        compare_dissimilarities(a, b[1:])
    with pytest.raises(ValueError, match="104 dissimilarities"):
        compare_dissimilarities(a[1:], b[1:])
    with pytest.raises(ValueError, match="2 subjects at least"):
        noise_ceiling(a[None])
    with pytest.raises(ValueError, match=r"expected \(stimulus, repeat, neuron\)"):
        split_half_ceiling(np.ones((4, 4)))
    with pytest.raises(ValueError, match=r"expected \(stimulus, repeat, neuron\)"):
        similarity_table({}, np.ones((4, 4)))
    with pytest.raises(ValueError, match="layer 'v1' has 5 stimuli; expected 6"):
        similarity_table({"v1": np.ones((5, 2))}, np.random.default_rng(0).standard_normal((6, 4, 3)))
