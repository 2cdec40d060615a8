import numpy as np
import pytest
from scipy.optimize import curve_fit

from neural_fits.gabor import gabor, grating_tuning
from neural_fits.tuning_curves import (
    contrast_response,
    direction_tuning,
    frequency_tuning,
    orientation_tuning,
    phase_modulation,
    size_tuning,
)
from stimuli.gratings import grating
from stimuli.stimulus_set import factorial

THETA = np.arange(0, 180, 15.0)
FREQUENCY = np.geomspace(0.5, 12, 13)
PHASE = np.arange(0, 360, 30.0)
PX_PER_DEG = 24.0


def angle_error(found, true):
    return np.abs((found - true + 90) % 180 - 90)


@pytest.fixture(scope="module")
def gabor_neurons():
    """Rectified Gabor filters and their quadrature energy, shown gratings: known orientations and frequencies."""
    rng = np.random.default_rng(0)
    n = 40
    orientation, frequency = rng.uniform(0, 180, n), rng.uniform(1.5, 5, n)
    even, odd = (
        np.stack(
            [
                gabor(
                    48, 48, orientation_deg=o, frequency_cpp=f / PX_PER_DEG, phase_deg=phase,
                    across_px=0.42 * PX_PER_DEG / f, along_px=0.5 * PX_PER_DEG / f,
                )
                for o, f in zip(orientation, frequency, strict=True)
            ]
        ).reshape(n, -1)
        for phase in (0, 90)
    )  # fmt: skip
    even, odd = even - even.mean(axis=1, keepdims=True), odd - odd.mean(axis=1, keepdims=True)
    table = factorial({"orientation_deg": THETA, "frequency_cpd": FREQUENCY, "phase_deg": PHASE})
    images = grating(**table, size_deg=2, pixels_per_degree=PX_PER_DEG).reshape(-1, 48 * 48) - 0.5
    shape = (len(THETA), len(FREQUENCY), len(PHASE), n)
    a, b = (images @ even.T).reshape(shape), (images @ odd.T).reshape(shape)
    return orientation, frequency, np.maximum(a, 0), np.hypot(a, b)


def best_curves(responses):
    f0 = responses.mean(axis=2)
    o, f = np.divmod(f0.reshape(-1, f0.shape[2]).argmax(axis=0), f0.shape[1])
    unit = np.arange(f0.shape[2])
    return f0[:, f, unit], f0[o, :, unit].T, responses[o, f, :, unit].T


@pytest.mark.parametrize("kind", [2, 3])
def test_gabor_neurons_give_back_orientation_and_frequency(gabor_neurons, kind):
    orientation, frequency = gabor_neurons[:2]
    over_orientation, over_frequency, _ = best_curves(gabor_neurons[kind])
    tuned = orientation_tuning(THETA, over_orientation)
    assert angle_error(tuned["preferred_orientation_deg"], orientation).max() < 2
    assert angle_error(tuned["peak_orientation_deg"], orientation).max() < 2
    found = frequency_tuning(FREQUENCY, over_frequency)["peak_frequency_cpd"]
    assert np.abs(found / frequency - 1).max() < 0.05


def test_f1_over_f0_of_ideal_simple_and_complex(gabor_neurons):
    simple = phase_modulation(best_curves(gabor_neurons[2])[2])
    assert np.allclose(simple["f1_f0"], np.pi / 2, rtol=0.03)
    assert (simple["simple"] == 1).all()
    energy = phase_modulation(best_curves(gabor_neurons[3])[2])
    assert energy["f1_f0"].max() < 0.05
    assert (energy["simple"] == 0).all()
    fine = np.deg2rad(np.arange(0, 360, 5))
    exact = phase_modulation(np.stack([np.maximum(np.cos(fine + 1), 0), np.full(72, 3.0)], axis=1))["f1_f0"]
    assert exact == pytest.approx([np.pi / 2, 0], abs=2e-3)


def test_noisy_neurons_stay_within_their_intervals(gabor_neurons):
    """20 spikes at the peak per presentation, 10 repeats of every phase: errors are bounded for 95 % of the units."""
    orientation, frequency, simple, _ = gabor_neurons
    rng = np.random.default_rng(1)
    rates = 20 * simple / simple.max(axis=(0, 1, 2))
    counts = rng.poisson(rates[..., None], size=(*rates.shape, 10)).mean(axis=-1)
    over_orientation, over_frequency, cycle = best_curves(counts)
    error = angle_error(orientation_tuning(THETA, over_orientation)["preferred_orientation_deg"], orientation)
    assert np.quantile(error, 0.95) < 3
    error = np.abs(np.log2(frequency_tuning(FREQUENCY, over_frequency)["peak_frequency_cpd"] / frequency))
    assert np.quantile(error, 0.95) < 0.15
    assert np.abs(phase_modulation(cycle)["f1_f0"] - np.pi / 2).max() < 0.15


def test_filters_and_their_responses_agree_on_circular_variance():
    bank = np.stack([gabor(31, 31, orientation_deg=o, frequency_cpp=0.15, across_px=3, along_px=4) for o in (0, 40)])
    bank = bank - bank.mean(axis=(1, 2), keepdims=True)
    by_filter = grating_tuning(bank, orientations=36, frequencies=24)
    theta = np.arange(0, 180, 5.0)
    table = factorial({"orientation_deg": theta, "phase_deg": PHASE})
    images = grating(
        **table, frequency_cpd=by_filter.frequency_cpp[0] * 31, size_deg=1, pixels_per_degree=31, contrast=1
    )
    linear = (images.reshape(len(images), -1) - 0.5) @ bank.reshape(2, -1).T
    f0 = np.maximum(linear, 0).reshape(len(theta), len(PHASE), 2).mean(axis=1)
    ours = orientation_tuning(theta, f0)
    assert ours["circular_variance"] == pytest.approx(by_filter.circular_variance, abs=0.02)
    assert ours["orientation_selectivity"] == pytest.approx(by_filter.selectivity, abs=0.02)


def test_orientation_measures_by_formula():
    kappa = 1.5
    theta = np.arange(0, 180, 5.0)
    curve = np.exp(kappa * np.cos(np.deg2rad(2 * (theta - 77))))
    tuned = orientation_tuning(theta, curve)
    from scipy.special import iv

    assert tuned["circular_variance"] == pytest.approx(1 - iv(1, kappa) / iv(0, kappa), abs=1e-6)
    assert tuned["peak_orientation_deg"] == pytest.approx(77, abs=0.05)
    half = 0.5 * np.rad2deg(np.arccos(1 + np.log(1 / np.sqrt(2)) / kappa))
    assert tuned["orientation_bandwidth_deg"] == pytest.approx(half, abs=0.1)
    assert tuned["orthogonal_preferred_ratio"] == pytest.approx(np.exp(-2 * kappa), rel=0.01)
    smoothed = orientation_tuning(theta, curve, smoothing_deg=13.5)
    assert smoothed["orientation_bandwidth_deg"] > tuned["orientation_bandwidth_deg"]
    assert smoothed["peak_orientation_deg"] == pytest.approx(77, abs=0.3)


@pytest.mark.parametrize("curve", [np.zeros(12), np.ones(12), np.r_[np.nan, np.ones(11)]])
def test_flat_and_missing_curves_have_no_preference(curve):
    tuned = orientation_tuning(THETA, curve)
    assert np.isnan(tuned["preferred_orientation_deg"])
    assert np.isnan(tuned["orientation_bandwidth_deg"])
    if curve[0] == 1:
        assert tuned["circular_variance"] == pytest.approx(1)
        assert tuned["orientation_selectivity"] == pytest.approx(0)


def test_scale_changes_nothing_and_rotation_turns_the_preference(gabor_neurons):
    curve = best_curves(gabor_neurons[3])[0]
    one, scaled, rolled = (orientation_tuning(THETA, c) for c in (curve, 7 * curve, np.roll(curve, 2, axis=0)))
    for name in one:
        assert np.allclose(one[name], scaled[name], equal_nan=True), name
    turn = (rolled["preferred_orientation_deg"] - one["preferred_orientation_deg"]) % 180
    assert np.allclose(turn, 30)
    assert np.allclose(rolled["circular_variance"], one["circular_variance"])


def test_uneven_orientations_are_refused():
    with pytest.raises(ValueError, match="evenly spaced over 180"):
        orientation_tuning([0, 30, 60, 90], np.ones(4))
    with pytest.raises(ValueError, match="rising order"):
        orientation_tuning([0, 90, 45, 135], np.ones(4))
    with pytest.raises(ValueError, match="do not fit"):
        orientation_tuning([0, 45, 90, 135], np.ones(5))


def test_direction_selectivity_by_hand():
    directions = np.arange(0, 360, 45.0)
    curve = 1 + 3 * np.maximum(np.cos(np.deg2rad(directions - 90)), 0)
    tuned = direction_tuning(directions, np.stack([curve, np.ones(8)], axis=1))
    assert tuned["direction_selectivity"] == pytest.approx([0.75, 0])
    assert tuned["preferred_direction_deg"][0] == pytest.approx(90)
    assert np.isnan(tuned["preferred_direction_deg"][1])
    with pytest.raises(ValueError, match="even number"):
        direction_tuning([0, 72, 144, 216, 288], np.ones(5))


def test_frequency_bandwidths_of_a_log_gaussian():
    f = np.geomspace(0.1, 30, 60)
    sigma = 0.7
    curve = np.exp(-(np.log2(f / 3) ** 2) / (2 * sigma**2))
    tuned = frequency_tuning(f, curve)
    assert tuned["peak_frequency_cpd"] == pytest.approx(3, rel=1e-3)
    assert tuned["frequency_bandwidth_octaves"] == pytest.approx(2 * sigma * np.sqrt(2 * np.log(2)), rel=0.01)
    assert tuned["frequency_bandwidth_percent"] == pytest.approx(100 * 2 ** (-2 * sigma * np.sqrt(np.log(2))), rel=0.02)
    assert tuned["low_pass"] == 0


def test_low_pass_curves_are_flagged():
    f = np.geomspace(0.5, 16, 11)
    curves = np.stack([np.exp(-f / 3), np.exp(-(np.log2(f / 3) ** 2)), np.zeros(11)], axis=1)
    tuned = frequency_tuning(f, curves)
    assert np.array_equal(tuned["low_pass"], [1, 0, np.nan], equal_nan=True)
    assert np.array_equal(tuned["frequency_selective"], [0, 1, np.nan], equal_nan=True)
    assert tuned["peak_frequency_cpd"][0] == 0.5
    assert np.isnan(tuned["frequency_bandwidth_octaves"][0])


def test_size_tuning_of_a_difference_of_integrated_gaussians():
    from scipy.special import erf

    d = np.geomspace(0.1, 16, 40)
    curve = 10 * erf(d / 1.0) ** 2 - 4 * erf(d / 4.0) ** 2
    fine = np.geomspace(0.1, 16, 200_001)
    truth = 10 * erf(fine / 1.0) ** 2 - 4 * erf(fine / 4.0) ** 2
    peak, plateau, best = truth.max(), truth[-1], truth.argmax()
    tuned = size_tuning(d, curve)
    assert tuned["surround_suppression_index"] == pytest.approx((peak - plateau) / peak, abs=0.01)
    assert tuned["summation_field_deg"] == pytest.approx(fine[(truth >= 0.95 * peak).argmax()], rel=0.05)
    beyond = fine[best + (truth[best:] <= 1.05 * plateau).argmax()]
    assert tuned["surround_diameter_deg"] == pytest.approx(beyond, rel=0.05)
    assert tuned["strongly_suppressed"] == 1


def test_size_tuning_without_suppression():
    tuned = size_tuning([1, 2, 4, 8], np.array([[1, 0], [2, 0], [3, 0], [3, 0]]))
    assert tuned["surround_suppression_index"][0] == 0
    assert tuned["strongly_suppressed"][0] == 0
    assert np.isnan(tuned["surround_diameter_deg"]).all()
    assert np.isnan(tuned["summation_field_deg"][1])


def test_contrast_response_agrees_with_a_general_least_squares_fit():
    c = np.geomspace(0.02, 1, 8)

    def naka_rushton(c, r_max, n, c50):
        return r_max * c**n / (c**n + c50**n)

    rng = np.random.default_rng(0)
    curves = np.stack([naka_rushton(c, 30, n, c50) for n, c50 in ((1.5, 0.1), (3, 0.3), (1, 0.05))], axis=1)
    curves = curves + 0.5 * rng.standard_normal(curves.shape)
    fit = contrast_response(c, curves)
    for i in range(3):
        theirs = curve_fit(naka_rushton, c, curves[:, i], p0=[30, 2, 0.2], bounds=([0, 0.5, 0.02], [200, 6, 10]))[0]
        ours = [fit["r_max"][i], fit["contrast_exponent"][i], fit["c50"][i]]
        assert ours == pytest.approx(list(theirs), rel=0.01)


def test_linear_contrast_response_has_no_saturation():
    c = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
    fit = contrast_response(c, np.stack([c, np.zeros(5)], axis=1))
    assert fit["c50"][0] > 0.8
    assert fit["half_contrast"][0] == pytest.approx(0.4, rel=0.1)
    assert np.isnan(fit["c50"][1])
