import numpy as np
import pytest
import torch

from neural_fits.texture_decoding import decoding, poisson_counts
from neural_fits.texture_modulation import (
    bootstrap_modulation,
    modulation_index,
    modulation_p_value,
    noise_against_noise,
    texture_modulation,
    texture_properties,
)
from neural_fits.vision_model import VisionModel
from stimuli.noise import white_noise


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


def moments(x):
    """Second moments of differences, blind to structure, and fourth moments, which sparse dots alone drive."""
    horizontal, vertical = x.diff(dim=2)[..., :-1], x.diff(dim=3)[:, :, :-1]
    pool = torch.nn.functional.avg_pool2d
    energy = pool(horizontal**2 + vertical**2, 31)
    return {
        "energy": torch.cat([energy, 2 * energy], dim=1),
        "kurtosis": torch.cat([pool(vertical**4, 31), pool(horizontal**4, 31)], dim=1),
        "silent": torch.zeros_like(energy),
    }


@pytest.fixture(scope="module")
def pictures():
    """Families of sparse textures, and noise of the same variance: their fourth moments differ, their energies not."""
    rng = np.random.default_rng(0)
    noise = white_noise(64, 32, seed=0, rms_contrast=0.2).reshape(8, 8, 32, 32)
    dots = rng.choice([-1.0, 0.0, 1.0], p=[0.02, 0.96, 0.02], size=(8, 8, 32, 32))
    return (0.5 + 0.1 * dots / 0.2).astype(np.float32), noise


@pytest.fixture(scope="module")
def model():
    return VisionModel(moments, "toy", channels=1, input_px=32, field_deg=4.0)


def test_a_layer_for_structure_is_modulated_and_one_for_energy_is_not(model, pictures):
    units = texture_modulation(
        model, *pictures, size_deg=4.0, layers=["energy", "kurtosis"], families=np.arange(8) * 10, n_draws=4,
        population_sizes=(1, 2, 50), n_resamples=100,
    )  # fmt: skip
    population = units.population_modulation.to_series()
    assert abs(population["energy"]) < 0.03
    assert population["kurtosis"] > 0.3
    assert units.population_modulation_low.to_series()["kurtosis"] > 0.3
    assert (np.abs(units.population_control) < 0.01).all()
    assert units.unit_layer.values.tolist() == ["energy"] * 2 + ["kurtosis"] * 2
    assert units.family.values.tolist() == [0, 10, 20, 30, 40, 50, 60, 70]
    # the same energy, doubled, has the same index
    assert float(units.modulation[0]) == pytest.approx(float(units.modulation[1]))
    assert units.family_accuracy.dims == ("layer", "draw", "population_size")
    assert np.isnan(units.family_accuracy.sel(population_size=50)).all()


def test_one_call_equals_its_parts(model, pictures):
    units = texture_modulation(model, *pictures, size_deg=4.0, layers="kurtosis", n_resamples=20)
    t, n = (
        model.module(torch.from_numpy(each.reshape(64, 1, 32, 32)))["kurtosis"].flatten(1).numpy().reshape(8, 8, 2)
        for each in pictures
    )
    by_hand = texture_properties(t, n, n_resamples=20)
    for name in ("modulation", "modulation_p", "selectivity_texture", "control", "max_noise"):
        assert np.allclose(units[name], by_hand[name], rtol=1e-5), name
    growth = decoding(poisson_counts(t))
    for name in ("family_accuracy", "sample_accuracy"):
        assert np.allclose(units[name].sel(layer="kurtosis", population_size=1), growth[name][:, 0]), name


def test_the_blank_is_subtracted(model, pictures):
    def module(x):
        return {"kurtosis": moments(x)["kurtosis"] + 3}

    raised = VisionModel(module, "raised", channels=1, input_px=32, field_deg=4.0)
    options = {"size_deg": 4.0, "layers": "kurtosis", "population_sizes": (), "n_resamples": 20}
    plain = texture_modulation(model, *pictures, **options)
    assert "family_accuracy" not in plain
    subtracted = texture_modulation(raised, *pictures, **options)
    kept = texture_modulation(raised, *pictures, baseline="keep", **options)
    assert np.allclose(subtracted.blank, 3)
    assert np.allclose(subtracted.modulation, plain.modulation, atol=1e-3)
    assert (kept.modulation < 0.1 * plain.modulation).all()


def test_bad_pictures_and_silent_layers_are_named(model, pictures):
    with pytest.raises(ValueError, match="no unit of layer silent of toy"):
        texture_modulation(model, *pictures, size_deg=4.0, layers="silent")
    with pytest.raises(ValueError, match=r"textures \(8, 8, 32, 32\) and noise \(7, 8, 32, 32\)"):
        texture_modulation(model, pictures[0], pictures[1][:7], size_deg=4.0)
    with pytest.raises(ValueError, match="baseline is 'none'"):
        texture_modulation(model, *pictures, size_deg=4.0, baseline="none")
