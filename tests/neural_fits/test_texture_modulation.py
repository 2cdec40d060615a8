import numpy as np
import pytest
from scipy.stats import f_oneway

from neural_fits.texture_modulation import (
    bootstrap_modulation,
    by_family,
    mean_defined,
    modulation_index,
    modulation_p_value,
    noise_against_noise,
    sparseness,
    stabilised,
    texture_properties,
    variance_components,
    variance_ratio,
)


def gamma(seed, shape, mean=5.0):
    return np.random.default_rng(seed).gamma(4.0, mean / 4.0, size=shape)


def test_modulation_index_golden_values():
    index = modulation_index([3, 1, 2], [1, 1, 0])
    assert np.array_equal(index, [0.5, 0, 1])
    mean, undefined = mean_defined(index)
    assert mean == 0.5
    assert undefined == 0
    mean, undefined = mean_defined(modulation_index([3, 1, 2, 0], [1, 1, 0, 0]))
    assert mean == 0.5
    assert undefined == 1
    assert mean_defined(modulation_index([1, 1, 0], [3, 1, 2]))[0] == -0.5


def test_modulation_index_is_undefined_where_the_sum_is_not_positive():
    assert np.isnan(modulation_index([-1.0, 0.0, 1.0], [-2.0, 0.0, -1.0])).all()


def test_modulation_index_ignores_scale():
    t, n = gamma(0, (15, 7)), gamma(1, (15, 7))
    assert np.allclose(modulation_index(3 * t, 3 * n), modulation_index(t, n))


def test_modulation_index_names_differing_shapes():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        modulation_index([1, 2], [1, 2, 3])


def test_sparseness_golden_values():
    assert sparseness([1, 0, 0, 0]) == pytest.approx(1)
    assert sparseness([1, 1, 1, 1]) == 0
    assert sparseness([4, 2, 1, 1]) == pytest.approx(0.363636, abs=1e-6)
    assert np.isnan(sparseness([0, 0, 0]))


def test_sparseness_ignores_scale_and_order():
    r = gamma(0, (15, 15, 4))
    assert np.allclose(sparseness(7 * r, axis=(0, 1)), sparseness(r, axis=(0, 1)))
    assert np.allclose(sparseness(r.reshape(225, 4)[::-1]), sparseness(r, axis=(0, 1)))


def test_sparseness_needs_two_responses():
    with pytest.raises(ValueError, match="over 1 responses"):
        sparseness([[1.0, 2.0]])


def test_variance_ratio_golden_values():
    residual, sample, family = variance_components([[1, 3], [6, 8]])
    assert (residual, sample, family) == (0, 2, 11.5)
    assert variance_ratio([[1, 3], [6, 8]]) == pytest.approx(5.185022, abs=1e-6)
    repeated = [[[1, 2], [3, 5]], [[8, 9], [11, 12]]]
    assert [float(v) for v in variance_components(repeated, repeats=True)] == [0.875, 3.375, 24.375]
    assert variance_ratio(repeated, repeats=True) == pytest.approx(6.319823, abs=1e-6)
    assert variance_ratio([[1, 1], [5, 5]]) == pytest.approx(51)
    assert variance_ratio([[1, 3], [1, 3]]) == pytest.approx(0.0196078, abs=1e-7)
    assert np.isnan(variance_ratio([[2, 2], [2, 2]]))


def test_family_variance_agrees_with_a_one_way_analysis():
    x = gamma(0, (6, 9)) + np.arange(6)[:, None]
    _, sample, family = variance_components(x)
    assert (9 * family + sample) / sample == pytest.approx(f_oneway(*x).statistic)


def test_components_recover_the_variances_of_a_nested_model():
    rng = np.random.default_rng(0)
    x = (
        2.0 * rng.standard_normal((40, 1, 1, 500))
        + 1.0 * rng.standard_normal((40, 10, 1, 500))
        + 0.5 * rng.standard_normal((40, 10, 5, 500))
    )
    residual, sample, family = (v.mean() for v in variance_components(x, repeats=True))
    assert residual == pytest.approx(0.25, rel=0.02)
    assert sample == pytest.approx(1, rel=0.02)
    assert family == pytest.approx(4, rel=0.05)


def test_units_do_not_mix():
    t, n = gamma(0, (5, 6, 3)), gamma(1, (5, 6, 3))
    together = texture_properties(t, n, n_resamples=20)
    alone = texture_properties(t[..., 1:2], n[..., 1:2], n_resamples=20)
    for name in ("modulation", "modulation_low", "modulation_p", "control", "sparseness_noise", "variance_ratio"):
        assert float(together[name][1]) == pytest.approx(float(alone[name][0])), name


def test_stabilised_makes_the_variance_of_poisson_counts_constant():
    rng = np.random.default_rng(0)
    variances = [stabilised(rng.poisson(rate, 40_000)).var() for rate in (3, 10, 30)]
    assert np.allclose(variances, 1, atol=0.08)
    with pytest.raises(ValueError, match="smallest spike count is -1"):
        stabilised([-1.0, 2.0])


def test_by_family_restores_any_order_and_leaves_other_types_out():
    rng = np.random.default_rng(0)
    t, n = rng.random((3, 4, 2)), rng.random((3, 4, 2))
    flat = np.concatenate([t.reshape(12, 2), n.reshape(12, 2), rng.random((2, 2))])
    family, sample = np.divmod(np.arange(12), 4)
    labels = {
        "type": np.array(["texture"] * 12 + ["noise"] * 12 + ["blank"] * 2),
        "family": np.r_[family, family, 0, 0],
        "sample": np.r_[sample, sample, 0, 0],
    }
    order = rng.permutation(26)
    texture, noise, families, samples = by_family(flat[order], **{k: v[order] for k, v in labels.items()})
    assert np.array_equal(texture, t)
    assert np.array_equal(noise, n)
    assert families.tolist() == [0, 1, 2]
    assert samples.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="0 pictures of texture, family 0, sample 0"):
        by_family(flat[1:24], **{k: v[1:24] for k, v in labels.items()})


def test_exact_zero_for_the_same_pictures_and_near_zero_for_noise_against_noise():
    noise = gamma(0, (15, 15, 40))
    same = texture_properties(noise, noise, n_resamples=100)
    assert (same.modulation == 0).all()
    modulated = texture_properties(2 * gamma(1, (15, 15, 40)), noise, n_resamples=100)
    assert float(modulated.population_modulation) == pytest.approx(1 / 3, abs=0.02)
    assert abs(float(modulated.population_control)) < 0.003
    assert float(modulated.population_control_low) < 0 < float(modulated.population_control_high)
    assert float(modulated.population_control_high) < float(modulated.population_modulation_low)
    assert float(modulated.share_positive) == 1


def test_swapping_a_split_negates_the_control():
    noise = gamma(0, (3, 2, 5))
    control = noise_against_noise(noise, n_splits=400)
    # two samples: each family's index is +-m, so the set of values is symmetric
    m = modulation_index(noise[:, 0], noise[:, 1])
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1)
    possible = signs.T @ m / 3
    assert np.allclose(np.abs(control[:, None] - possible).min(axis=1), 0)


def test_bootstrap_intervals_cover_the_true_index():
    covered = []
    for seed in range(10):
        t, n = gamma(seed, (15, 15, 30), mean=6), gamma(100 + seed, (15, 15, 30), mean=4)
        low, high = np.quantile(bootstrap_modulation(t, n, seed=seed), [0.025, 0.975], axis=0)
        covered.append((low < 0.2) & (high > 0.2))
    assert 0.88 < np.mean(covered) < 0.98


def test_p_values_are_uniform_without_modulation():
    p = modulation_p_value(gamma(0, (5, 8, 800)), gamma(1, (5, 8, 800)), n_permutations=199)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.025)
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=0.06)


def test_undefined_units_are_counted():
    t, n = gamma(0, (4, 5, 3)), gamma(1, (4, 5, 3))
    t[..., 1] = n[..., 1] = 0
    t[2, :, 0] = n[2, :, 0] = 0
    units = texture_properties(t, n, families=[3, 1, 4, 5], n_resamples=20)
    assert int(units.undefined_units) == 1
    assert units.undefined_families.values.tolist() == [1, 4, 0]
    assert np.isnan(units.modulation_by_family.sel(family=4)[0])
    assert np.isfinite(float(units.population_modulation_low))


def test_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(4, 1, 3\)"):
        texture_properties(np.ones((4, 1, 3)), np.ones((4, 1, 3)))
