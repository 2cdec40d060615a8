"""Properties of single units: Brain-Score's own functions against ours, in Brain-Score's environment.

Run by ``.ci/brainscore``; skipped where brainscore_vision is not installed.
"""

import numpy as np
import pytest

from neural_fits.texture_indices import mean_defined, modulation_index, sparseness, variance_components, variance_ratio
from neural_fits.tuning_curves import orientation_tuning

pytest.importorskip("brainscore_vision", reason="needs Brain-Score's environment: .ci/brainscore")
theirs = pytest.importorskip("brainscore_vision.benchmark_helpers.properties_common")

N_FAMILIES, N_SAMPLES, N_REPEATS, N_UNITS = 15, 15, 20, 12


@pytest.fixture(scope="module")
def responses():
    """Responses (family, sample, repeat, unit) with variance between all three, positive as rates are."""
    rng = np.random.default_rng(0)
    family = rng.gamma(3.0, 2.0, (N_FAMILIES, 1, 1, N_UNITS))
    sample = rng.gamma(2.0, 1.0, (N_FAMILIES, N_SAMPLES, 1, N_UNITS))
    return family + sample + rng.gamma(1.0, 1.0, (N_FAMILIES, N_SAMPLES, N_REPEATS, N_UNITS))


def test_texture_modulation(responses):
    texture, noise = responses.mean((1, 2)), responses[::-1].mean((1, 2)) * 0.6
    ours = mean_defined(modulation_index(texture, noise))[0]
    for unit in range(N_UNITS):
        mean, families = theirs.calc_texture_modulation(np.stack([noise[:, unit], texture[:, unit]]))
        assert ours[unit] == pytest.approx(mean, abs=1e-12)
        np.testing.assert_allclose(modulation_index(texture[:, unit], noise[:, unit]), families, atol=1e-12)


def test_a_silent_family_is_left_out_on_both_sides(responses):
    texture, noise = responses.mean((1, 2))[:, 0], responses.mean((1, 2))[:, 1]
    texture[3] = noise[3] = 0.0
    with np.errstate(invalid="ignore"):
        mean, _ = theirs.calc_texture_modulation(np.stack([noise, texture]))
    ours, undefined = mean_defined(modulation_index(texture, noise))
    assert float(ours) == pytest.approx(mean, abs=1e-12)
    assert int(undefined) == 1


def test_sparseness_and_selectivity(responses):
    pictures = responses.mean(2)
    ours, selectivity = sparseness(pictures, axis=(0, 1)), sparseness(pictures.mean(1))
    for unit in range(N_UNITS):
        assert ours[unit] == pytest.approx(theirs.calc_sparseness(pictures[..., unit]), abs=1e-12)
        assert selectivity[unit] == pytest.approx(theirs.calc_sparseness(pictures[..., unit].mean(1)), abs=1e-12)


@pytest.mark.parametrize("repeats", [False, True])
def test_variance_ratio(responses, repeats):
    x = responses if repeats else responses.mean(2)
    ours = variance_ratio(x, repeats=repeats)
    _, sample, family = variance_components(x, repeats=repeats)
    assert (sample > 0).all()
    assert (family > 0).all()
    for unit in range(N_UNITS):
        ratio, _, _ = theirs.calc_variance_ratio(x[..., unit])
        assert ours[unit] == pytest.approx(ratio, rel=1e-12)


def test_only_negative_estimates_of_variance_are_treated_otherwise():
    """Where families differ less than samples by chance, the estimate is negative: ours is then 0, theirs kept."""
    x = np.array([[0.0, 4.0], [1.0, 3.5]])
    _, _, family = variance_components(x)
    ratio, _, share = theirs.calc_variance_ratio(x)
    assert (float(family), share < 0) == (0.0, True)
    assert float(variance_ratio(x)) == pytest.approx(0.02 / 1.02)
    assert ratio != pytest.approx(0.02 / 1.02)


def test_circular_variance(responses):
    orientations = np.arange(0, 180, 15.0)
    curves = responses.mean((1, 2))[: len(orientations)]
    ours = orientation_tuning(orientations, curves)["circular_variance"]
    for unit in range(N_UNITS):
        assert ours[unit] == pytest.approx(theirs.calc_circular_variance(curves[:, unit], orientations), abs=1e-12)
