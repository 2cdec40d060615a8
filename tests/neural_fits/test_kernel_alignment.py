import itertools

import numpy as np
import pytest

from neural_fits.kernel_alignment import (
    bootstrap_cka,
    kernel_cka,
    linear_cka,
    rbf_cka,
    rbf_kernel,
    weighted_cka,
)


def two(n=30, p=6, q=9, shared=3, seed=0):
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n, shared))
    x = common @ rng.standard_normal((shared, p)) + rng.standard_normal((n, p))
    y = common @ rng.standard_normal((shared, q)) + rng.standard_normal((n, q))
    return x, y


def unbiased_hsic(k, kernel_y):
    """The matrix formula of Song et al. (2012)."""
    k, kernel_y = k - np.diag(np.diag(k)), kernel_y - np.diag(np.diag(kernel_y))
    n, one = len(k), np.ones(len(k))
    cross = one @ k @ one * (one @ kernel_y @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ kernel_y) + cross - 2 / (n - 2) * one @ k @ kernel_y @ one) / (n * (n - 3))


def hsic_over_tuples(k, kernel_y, indices):
    """The U-statistic itself: mean over all orders of four positions of different stimuli."""
    total = weight = np.zeros(3)
    for i, j, q, r in itertools.permutations(range(len(indices)), 4):
        a, b, c, d = (indices[t] for t in (i, j, q, r))
        pair, triple, quadruple = a != b, len({a, b, c}) == 3, len({a, b, c, d}) == 4
        terms = np.array([k[a, b] * kernel_y[a, b], k[a, b] * kernel_y[a, c], k[a, b] * kernel_y[c, d]])
        there = np.array([pair, triple, quadruple], dtype=float)
        total, weight = total + there * terms, weight + there
    return (total / weight) @ [1, -2, 1]


@pytest.mark.parametrize(("n", "p", "q"), [(30, 6, 9), (12, 40, 50), (20, 3, 80)])
def test_unbiased_cka_is_the_formula_in_either_space(n, p, q):
    x, y = two(n, p, q)
    k, kernel_y = x @ x.T, y @ y.T
    expected = unbiased_hsic(k, kernel_y) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(kernel_y, kernel_y))
    assert linear_cka(x, y) == pytest.approx(expected)
    assert kernel_cka(k, kernel_y) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "p", "q"), [(30, 6, 9), (12, 40, 50)])
def test_plain_cka_is_the_formula_in_either_space(n, p, q):
    x, y = two(n, p, q)
    xc, yc = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(xc.T @ yc) ** 2 / (np.linalg.norm(xc.T @ xc) * np.linalg.norm(yc.T @ yc))
    assert linear_cka(x, y, unbiased=False) == pytest.approx(expected)
    assert kernel_cka(x @ x.T, y @ y.T, unbiased=False) == pytest.approx(expected)


@pytest.mark.parametrize("alignment", [linear_cka, rbf_cka])
@pytest.mark.parametrize("unbiased", [True, False])
def test_invariance_to_rotation_scale_shift_and_order_of_stimuli(alignment, unbiased):
    x, y = two()
    value = alignment(x, y, unbiased=unbiased)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    order = np.random.default_rng(2).permutation(len(x))
    assert alignment(3 * x @ rotation + 7, y, unbiased=unbiased) == pytest.approx(value)
    assert alignment(x[order], y[order], unbiased=unbiased) == pytest.approx(value)
    assert alignment(y, x, unbiased=unbiased) == pytest.approx(value)
    assert alignment(x, x, unbiased=unbiased) == pytest.approx(1)
    assert alignment(x[order], y, unbiased=unbiased) < value


def test_independent_representations_have_no_unbiased_alignment():
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((40, 100)), rng.standard_normal((40, 100))) for _ in range(200)]
    unbiased = [linear_cka(x, y) for x, y in pairs]
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / len(pairs) ** 0.5
    assert np.mean([linear_cka(x, y, unbiased=False) for x, y in pairs]) > 0.6


def test_alignment_is_one_for_one_feature_and_its_multiple():
    x = np.random.default_rng(0).standard_normal((20, 1))
    assert linear_cka(x, -2 * x) == pytest.approx(1)
    # one feature each: HSIC is a squared covariance, so plain CKA is the squared correlation
    y = x + np.random.default_rng(1).standard_normal((20, 1))
    assert linear_cka(x, y, unbiased=False) == pytest.approx(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2)


def test_wide_gaussian_kernels_approach_the_linear_one():
    x, y = two()
    for unbiased in (True, False):
        assert rbf_cka(x, y, bandwidth=100, unbiased=unbiased) == pytest.approx(
            linear_cka(x, y, unbiased=unbiased), abs=1e-3
        )


def test_rbf_kernel_by_hand():
    x = np.array([[0.0], [1.0], [3.0], [7.0]])  # distances 1 3 7 2 6 4, squares 1 4 9 16 36 49, median 12.5
    np.testing.assert_allclose(rbf_kernel(x, bandwidth=2)[0], np.exp(-np.array([0, 1, 9, 49]) / (2 * 4 * 12.5)))


def test_weighted_alignment_is_the_mean_over_tuples_of_different_stimuli():
    x, y = two(n=6, p=3, q=2)
    k, kernel_y = x @ x.T, y @ y.T
    indices = [0, 1, 1, 2, 4, 5, 5]  # stimulus 3 not drawn, 1 and 5 twice
    counts = np.bincount(indices, minlength=6)[None]
    expected = hsic_over_tuples(k, kernel_y, indices) / np.sqrt(
        hsic_over_tuples(k, k, indices) * hsic_over_tuples(kernel_y, kernel_y, indices)
    )
    assert weighted_cka(k, kernel_y, counts)[0] == pytest.approx(expected)
    assert weighted_cka(k, kernel_y, np.ones((1, 6)))[0] == pytest.approx(linear_cka(x, y))


def test_weighted_alignment_without_a_stimulus_is_that_of_the_others():
    x, y = two(n=12)
    k, kernel_y = x @ x.T, y @ y.T
    values = weighted_cka(k, kernel_y, np.ones((12, 12)) - np.eye(12))
    np.testing.assert_allclose(values, [linear_cka(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(12)])
    three = np.zeros((1, 12))
    three[0, :3] = 4
    assert np.isnan(weighted_cka(k, kernel_y, three)[0])


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((2, 3, 8))

    def draw(n):
        common = rng.standard_normal((n, 3))
        return [common @ m + rng.standard_normal((n, 8)) for m in maps]

    truth = linear_cka(*draw(20000))
    held = 0
    for seed in range(100):
        low, high = bootstrap_cka(*draw(60), n_resamples=200, confidence=0.8, seed=seed)
        held += low <= truth <= high
    assert 68 <= held <= 92  # 80 of 100, three standard deviations of the binomial


def test_the_interval_over_groups_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((2, 3, 8))

    def draw(n_groups, size=6):
        common = np.repeat(rng.standard_normal((n_groups, 3)), size, axis=0)
        common += 0.3 * rng.standard_normal(common.shape)
        return [common @ m + rng.standard_normal((len(common), 8)) for m in maps]

    # the population value among stimuli of other groups; within groups is a vanishing share of the pairs
    truth = np.mean([linear_cka(*draw(12)) for _ in range(300)])
    held = 0
    for _ in range(100):
        low, high = bootstrap_cka(*draw(12), confidence=0.8, groups=np.repeat(np.arange(12), 6))
        held += low <= truth <= high
    assert 66 <= held <= 94


def test_bootstrap_of_groups_is_wider():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((10, 5)), 6, axis=0) + 0.1 * rng.standard_normal((60, 5))
    y = x + np.repeat(rng.standard_normal((10, 5)), 6, axis=0)
    groups = np.repeat(np.arange(10), 6)
    alone, whole = (bootstrap_cka(x, y, n_resamples=300, groups=g) for g in (None, groups))
    assert whole[1] - whole[0] > 1.5 * (alone[1] - alone[0])
    low, high = bootstrap_cka(x, y, kernel="rbf", n_resamples=50)
    assert low < rbf_cka(x, y) < high


def test_bad_input_is_refused():
    x, y = two()
    with pytest.raises(ValueError, match="4 stimuli at least"):
        linear_cka(x[:3], y[:3])
    with pytest.raises(ValueError, match="x has 30 stimuli and y 29"):
        linear_cka(x, y[1:])
    with pytest.raises(ValueError, match="y has values that are missing"):
        linear_cka(x, np.where(y > 1, np.nan, y))
    with pytest.raises(ValueError, match="bandwidth is 0"):
        rbf_cka(x, y, bandwidth=0)
    with pytest.raises(ValueError, match="leave out copies"):
        rbf_kernel(np.ones((5, 2)))
    with pytest.raises(ValueError, match="groups hold 30 labels, 2 different"):
        bootstrap_cka(x, y, groups=np.repeat([0, 1], 15))
    with pytest.raises(ValueError, match="confidence is 2"):
        bootstrap_cka(x, y, groups=np.repeat([0, 1, 2], 10), confidence=2)
    with pytest.raises(ValueError, match="expected 'linear' or 'rbf'"):
        bootstrap_cka(x, y, kernel="cubic")
    with pytest.raises(ValueError, match=r"a kernel has shape \(3, 3\)"):
        kernel_cka(np.eye(3), np.eye(3))
    with pytest.raises(ValueError, match="kernels have 5 and 6 stimuli"):
        kernel_cka(np.eye(5), np.eye(6))
    assert np.isnan(linear_cka(np.ones((5, 2)), y[:5]))
