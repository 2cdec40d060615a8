import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import cohen_kappa_score
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from neural_fits.behavior.confusions import confusion_divergence, confusion_matrix
from neural_fits.behavior.measures import (
    accuracy,
    accuracy_by_condition,
    accuracy_difference,
    consistency_bounds,
    error_consistency,
    error_consistency_interval,
    expected_consistency,
    kappa,
    kappa_bounds,
    kappa_standard_error,
    observed_consistency,
    reaction_time_relation,
    shape_bias,
)

few = settings(max_examples=60, deadline=None, database=None)
pairs = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40)
labels = st.sampled_from(["cat", "dog", "car", "na"])


def test_golden_values():
    assert round(kappa(0.75, expected_consistency(0.8, 0.7)), 6) == 0.342105
    assert kappa(0.62, 0.62) == 0
    assert error_consistency([1, 0, 1], [1, 0, 1]) == 1
    assert accuracy_difference([1] * 7 + [0] * 3, [1] * 4 + [0] * 6) == pytest.approx(0.09)
    assert shape_bias(["cat", "dog"], ["cat", "dog"], ["dog", "cat"]) == 1
    assert shape_bias(["dog", "cat"], ["cat", "dog"], ["dog", "cat"]) == 0
    assert shape_bias(["cat", "car", "na"], ["cat", "dog", "dog"], ["dog", "cat", "cat"]) == 1


@given(pairs)
@few
def test_consistency_by_the_definitions_of_both_packages(table):
    """Written out from Brain-Score's metric and model-vs-human's analysis, trial by trial."""
    a, b = zip(*table, strict=True)
    n = len(table)
    p, q = sum(a) / n, sum(b) / n
    observed = sum(x == y for x, y in table) / n
    expected = p * q + (1 - p) * (1 - q)
    assert observed_consistency(a, b) == pytest.approx(observed)
    model_vs_human = 1.0 if observed == 1 else (observed - expected) / (1 - expected)
    assert error_consistency(a, b) == pytest.approx(model_vs_human)
    brain_score = math.nan if expected == 1 else (observed - expected) / (1 - expected)
    assert error_consistency(a, b, undefined=math.nan) == pytest.approx(brain_score, nan_ok=True)
    if expected < 1:
        assert error_consistency(a, b) == pytest.approx(cohen_kappa_score(a, b))
    assert accuracy_difference(a, b) == pytest.approx((p - q) ** 2)
    low, high = kappa_bounds(p, q)
    if expected < 1:
        assert low - 1e-9 <= error_consistency(a, b) <= high + 1e-9


@given(pairs, st.lists(st.booleans(), min_size=40, max_size=40), st.lists(st.booleans(), min_size=40, max_size=40))
@few
def test_missing_images_are_those_left_out(table, without_a, without_b):
    a, b = (np.array(values) for values in zip(*table, strict=True))
    gone = np.array(without_a)[: len(a)], np.array(without_b)[: len(a)]
    kept = ~gone[0] & ~gone[1]
    a_gaps, b_gaps = np.where(gone[0], np.nan, a), np.where(gone[1], np.nan, b)
    for measure in (error_consistency, observed_consistency, accuracy_difference, kappa_standard_error):
        assert measure(a_gaps, b_gaps) == pytest.approx(measure(a[kept], b[kept]), nan_ok=True)
    if not kept.any():
        assert math.isnan(error_consistency(a_gaps, b_gaps))
        assert math.isnan(error_consistency_interval(a_gaps, b_gaps)[0])


@given(st.lists(st.tuples(*[st.lists(st.sampled_from([0, 1]), min_size=2, max_size=2)] * 2), min_size=1, max_size=12))
@few
def test_repeated_trials_are_all_pairs_of_trials(table):
    a, b = (np.array(values) for values in zip(*table, strict=True))  # (image, repeat)
    agree = [x == y for one, other in zip(a, b, strict=True) for x in one for y in other]
    p, q = a.mean(), b.mean()
    expected = p * q + (1 - p) * (1 - q)
    assert observed_consistency(a.mean(1), b.mean(1)) == pytest.approx(np.mean(agree))
    by_hand = (np.mean(agree) - expected) / (1 - expected) if expected < 1 else 1.0
    assert error_consistency(a.mean(1), b.mean(1)) == pytest.approx(by_hand)


def test_both_always_right():
    a, b = np.ones(5), np.ones(5)
    assert error_consistency(a, b) == 1
    assert math.isnan(error_consistency(a, b, undefined=math.nan))
    assert all(math.isnan(value) for value in (*kappa_bounds(1, 1), kappa_standard_error(a, b)))
    assert all(math.isnan(end) for end in error_consistency_interval(a, b))
    assert error_consistency(a, [1, 1, 0, 1, 1]) == pytest.approx(0)  # one perfect observer: nothing beyond accuracy
    assert error_consistency([1, 0], [0, 1]) == -1  # negative stays negative


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_bounds_of_kappa_by_enumeration(n):
    """Every overlap of right answers that n images allow, for every pair of accuracies."""
    for right_a in range(n + 1):
        for right_b in range(n + 1):
            p, q = right_a / n, right_b / n
            a = np.arange(n) < right_a
            overlaps = {sum(a[list(rows)]) for rows in combinations(range(n), right_b)}
            found = []
            for both in overlaps:
                b = np.concatenate([np.arange(right_a) < both, np.arange(n - right_a) < right_b - both])
                found.append(error_consistency(a, b, undefined=math.nan))
            assert kappa_bounds(p, q) == pytest.approx((min(found), max(found)), nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("expected", [0.0, 0.1, 0.25, 0.5, 0.58, 0.9, 1.0])
def test_bounds_of_consistency_over_all_accuracies(expected):
    """Every accuracy of the one with the accuracy of the other that gives this expected consistency."""
    a = np.concatenate([np.linspace(-1, 1, 20001), np.zeros(20001)])  # 2 p - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        b = np.where(a == 0, np.linspace(-1, 1, len(a)), (2 * expected - 1) / a)  # 2 q - 1
    possible = (np.abs(b) <= 1) & (np.abs(a * b - (2 * expected - 1)) < 1e-9)
    lowest, highest = np.abs(a + b)[possible].min() / 2, 1 - np.abs(a - b)[possible].min() / 2
    assert consistency_bounds(expected) == pytest.approx((lowest, highest), abs=1e-3)


def test_bounds_need_shares():
    with pytest.raises(ValueError, match=r"1\.5"):
        consistency_bounds(1.5)
    with pytest.raises(ValueError, match=r"-0\.1"):
        kappa_bounds(0.5, -0.1)


def table(n11, n10, n01, n00):
    return np.repeat([1.0, 1, 0, 0], [n11, n10, n01, n00]), np.repeat([1.0, 0, 1, 0], [n11, n10, n01, n00])


@pytest.mark.parametrize("counts", [(50, 10, 10, 30), (5, 3, 9, 40), (30, 0, 12, 8), (70, 5, 5, 1)])
def test_standard_error_is_that_of_fleiss_cohen_and_everitt(counts):
    p = np.array(counts, dtype=float).reshape(2, 2) / sum(counts)
    rows, columns = p.sum(1), p.sum(0)
    expected = (rows * columns).sum()
    k = (np.trace(p) - expected) / (1 - expected)
    diagonal = sum(p[i, i] * (1 - (rows[i] + columns[i]) * (1 - k)) ** 2 for i in range(2))
    beside = (1 - k) ** 2 * sum(p[i, j] * (columns[i] + rows[j]) ** 2 for i, j in ((0, 1), (1, 0)))
    variance = (diagonal + beside - (k - expected * (1 - k)) ** 2) / (sum(counts) * (1 - expected) ** 2)
    assert kappa_standard_error(*table(*counts)) == pytest.approx(math.sqrt(variance))


def test_standard_error_is_the_delta_method_by_automatic_differentiation():
    counts = torch.tensor([23.0, 7, 4, 11], dtype=torch.float64)
    n = counts.sum()

    def of(p):
        e = (p[0] + p[1]) * (p[0] + p[2]) + (p[2] + p[3]) * (p[1] + p[3])
        return (p[0] + p[3] - e) / (1 - e)

    p = counts / n
    gradient = torch.func.grad(of)(p)
    variance = gradient @ (torch.diag(p) - torch.outer(p, p)) @ gradient / n
    assert kappa_standard_error(*table(23, 7, 4, 11)) == pytest.approx(float(variance.sqrt()))


def test_intervals_cover_the_truth():
    """Ninety per cent intervals of 300 tables with a known kappa, by both methods."""
    rng = np.random.default_rng(0)
    p = np.array([0.55, 0.15, 0.1, 0.2])
    truth = (p[0] + p[3] - 0.7 * 0.65 - 0.3 * 0.35) / (1 - 0.7 * 0.65 - 0.3 * 0.35)
    covered = {"bootstrap": 0, "analytic": 0}
    for seed in range(300):
        a, b = table(*rng.multinomial(160, p))
        for method in covered:
            low, high = error_consistency_interval(a, b, method=method, confidence=0.9, n_resamples=300, seed=seed)
            covered[method] += low <= truth <= high
    assert all(0.85 <= count / 300 <= 0.95 for count in covered.values()), covered


def test_intervals_over_groups_are_wider_where_a_group_is_alike():
    a, b = (np.repeat(values, 10) for values in table(8, 3, 3, 6))
    single = error_consistency_interval(a, b)
    grouped = error_consistency_interval(a, b, groups=np.repeat(np.arange(20), 10))
    assert grouped[1] - grouped[0] > 2 * (single[1] - single[0])
    gaps = np.where(np.arange(200) < 10, np.nan, a)
    assert error_consistency_interval(gaps, b, groups=np.repeat(np.arange(20), 10)) == pytest.approx(
        error_consistency_interval(a[10:], b[10:], groups=np.repeat(np.arange(19), 10))
    )


@given(st.lists(st.tuples(labels, labels, labels), max_size=40))
@few
def test_shape_bias_by_the_definition_of_model_vs_human(table):
    rows = [(r, s, t) for r, s, t in table if s != "na" and t != "na"]
    conflict = [row for row in rows if row[1] != row[2]]
    by_shape = sum(r == s for r, s, _ in conflict)
    by_texture = sum(r == t for r, _, t in conflict)
    expected = by_shape / (by_shape + by_texture) if by_shape + by_texture else math.nan
    columns = [np.array([row[i] for row in rows], dtype=str) for i in range(3)]
    assert shape_bias(*columns) == pytest.approx(expected, nan_ok=True)


@given(st.lists(st.tuples(labels, st.sampled_from(["cat", "dog", "car"])), min_size=1, max_size=40))
@few
def test_confusion_matrix_is_scikit_learns(table):
    response, category = zip(*table, strict=True)
    names = ["cat", "dog", "car"]
    found = confusion_matrix(response, category, categories=names)
    expected = sklearn_confusion_matrix(category, response, labels=[*names, "na"])
    assert (found == expected[:3]).all()
    assert confusion_divergence(found, found) == pytest.approx(0)


def test_divergence_is_that_of_each_row():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, size=(2, 4, 5))
    a[2] = 0  # a category that one of the two was never shown
    rows = [jensenshannon(a[i], b[i], base=2) ** 2 for i in (0, 1, 3)]
    assert confusion_divergence(a, b) == pytest.approx(np.mean(rows))
    assert confusion_divergence(a, b) == pytest.approx(confusion_divergence(b, a))
    errors = [jensenshannon(np.delete(a[i], i), np.delete(b[i], i), base=2) ** 2 for i in (0, 1, 3)]
    assert confusion_divergence(a, b, errors_only=True) == pytest.approx(np.mean(errors))
    assert math.isnan(confusion_divergence(np.diag([3, 4]), np.diag([1, 1]), errors_only=True))


def test_reaction_times_against_scipy():
    rng = np.random.default_rng(0)
    times = rng.gamma(3, 0.2, size=50)
    other = -times + rng.standard_normal(50)
    with_gaps = np.append(times, [np.nan, 1.0]), np.append(other, [1.0, np.nan])
    assert reaction_time_relation(*with_gaps) == pytest.approx(spearmanr(times, other)[0])
    assert reaction_time_relation(*with_gaps, method="pearson") == pytest.approx(pearsonr(times, other)[0])
    assert reaction_time_relation(*with_gaps) < 0
    assert math.isnan(reaction_time_relation([0.5, 0.6, np.nan], [1.0, 2.0, 3.0]))
    assert math.isnan(reaction_time_relation([0.5, 0.5, 0.5], [1.0, 2.0, 3.0]))


def test_accuracies():
    assert math.isnan(accuracy([np.nan]))
    assert accuracy_by_condition([1, np.nan, 0, 1], ["b", "b", "a", "a"]) == {"b": 1.0, "a": 0.5}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: error_consistency([1, 2], [1, 0]), "outside"),
        (lambda: error_consistency([1, 0], [1]), r"shapes \(2,\) and \(1,\)"),
        (lambda: error_consistency_interval([1, 0], [1, 1], method="exact"), "'exact'"),
        (lambda: error_consistency_interval([1, 0], [1, 1], method="analytic", groups=[0, 1]), "independent"),
        (lambda: accuracy_by_condition([1, 0], ["a"]), "expected the same"),
        (lambda: confusion_matrix(["cow"], ["cat"], categories=["cat"]), "response 'cow'"),
        (lambda: confusion_matrix(["na"], ["na"], categories=["cat"]), "category 'na'"),
        (lambda: confusion_divergence(np.ones((2, 3)), np.ones((2, 2))), "one shape"),
        (lambda: reaction_time_relation([1.0], [1.0, 2.0]), "for both"),
        (lambda: reaction_time_relation([1.0], [1.0], method="kendall"), "'kendall'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
