import numpy as np
import pytest

from neural_fits.texture_modulation import (
    bootstrap_modulation,
    modulation_index,
    modulation_p_value,
    noise_against_noise,
    texture_properties,
)


def gamma(seed, shape, mean=5.0):
    return np.random.default_rng(seed).gamma(4.0, mean / 4.0, size=shape)


def test_units_do_not_mix():
    t, n = gamma(0, (5, 6, 3)), gamma(1, (5, 6, 3))
    together = texture_properties(t, n, n_resamples=20)
    alone = texture_properties(t[..., 1:2], n[..., 1:2], n_resamples=20)
    for name in ("modulation", "modulation_low", "modulation_p", "control", "sparseness_noise", "variance_ratio"):
        assert float(together[name][1]) == pytest.approx(float(alone[name][0])), name


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
