import numpy as np
import pytest
from scipy.optimize import least_squares

from neural_fits.gabor import GABOR_R2, TUNED_SELECTIVITY, GaborFit, fit_gabor, gabor, gabor_fraction, grating_tuning


def random_gabors(count, seed=0, side=11):
    """Gabor functions of random parameters, and these."""
    rng = np.random.default_rng(seed)
    names = ("orientation_deg", "frequency_cpp", "phase_deg", "across_px", "along_px", "x_px", "y_px")
    low = (0, 0.12, -180, 1.5, 1.5, -2, -2)
    high = (180, 0.35, 180, 2.6, 4, 2, 2)
    values = rng.uniform(low, high, (count, 7))
    parameters = [dict(zip(names, row.tolist(), strict=True)) for row in values]
    return np.stack([gabor(side, side, **each) for each in parameters]), dict(zip(names, values.T, strict=True))


def noisy(filters, level, seed=1):
    peak = np.abs(filters).max(axis=(-2, -1), keepdims=True)
    return filters + level * peak * np.random.default_rng(seed).standard_normal(filters.shape)


def angle_between(first_deg, second_deg, period=180.0):
    return np.abs((np.asarray(first_deg) - second_deg + period / 2) % period - period / 2)


def pixels(height, width):
    """x to the right and y down, from the centre."""
    return np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)


# ---------------------------------------------------------------------------------------------------------------------
# The function


def test_gabor_formula():
    x, y = pixels(9, 13)
    dx, dy = x - 1.5, y + 0.5
    bars = np.deg2rad(30)
    along = dx * np.cos(bars) - dy * np.sin(bars)  # up is minus y
    across = dx * np.sin(bars) + dy * np.cos(bars)
    expected = np.exp(-(across**2) / (2 * 1.7**2) - along**2 / (2 * 3.1**2)) * np.cos(
        2 * np.pi * 0.2 * across + np.deg2rad(50)
    )
    g = gabor(
        9, 13, orientation_deg=30, frequency_cpp=0.2, phase_deg=50, across_px=1.7, along_px=3.1, x_px=1.5, y_px=-0.5
    )
    np.testing.assert_allclose(g, expected, atol=1e-12)


def test_phase_zero_is_even_and_ninety_is_odd():
    shape = {"orientation_deg": 20.0, "frequency_cpp": 0.2, "across_px": 2.0, "along_px": 3.0}
    even, odd = (gabor(11, 11, phase_deg=phase, **shape) for phase in (0.0, 90.0))
    np.testing.assert_allclose(even, even[::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(odd, -odd[::-1, ::-1], atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Recovery


def test_noise_free_parameters_are_recovered():
    filters, true = random_gabors(60)
    fit = fit_gabor(filters)
    assert len(fit) == 60
    assert fit.r2.min() > 1 - 1e-8
    assert angle_between(fit.orientation_deg, true["orientation_deg"]).max() < 0.01
    for got, expected, tolerance in (
        (fit.frequency_cpp, true["frequency_cpp"], 1e-4),
        (fit.x_px, true["x_px"], 1e-3),
        (fit.y_px, true["y_px"], 1e-3),
        (fit.width_px, true["across_px"], 1e-3),
        (fit.length_px, true["along_px"], 1e-3),
        (fit.amplitude, 1.0, 1e-3),
    ):
        np.testing.assert_allclose(got, expected, atol=tolerance)
    # Orientations in [0, 180) go with wave vectors pointing to the right or down, as in the formula.
    assert angle_between(fit.phase_deg, true["phase_deg"], 360).max() < 0.1


@pytest.mark.parametrize(("level", "typical_deg", "worst_deg"), [(0.05, 0.5, 2), (0.1, 1, 4), (0.2, 2, 9)])
def test_orientation_under_noise(level, typical_deg, worst_deg):
    filters, true = random_gabors(40)
    fit = fit_gabor(noisy(filters, level))
    off = angle_between(fit.orientation_deg, true["orientation_deg"])
    assert np.median(off) < typical_deg
    assert off.max() < worst_deg
    assert np.median(np.abs(fit.frequency_cpp - true["frequency_cpp"])) < 0.1 * level
    assert (fit.r2 < 1).all()


@pytest.mark.parametrize(("height", "width"), [(9, 15), (15, 9), (3, 3), (24, 24)])
def test_filters_of_any_shape(height, width):
    side = min(height, width)
    g = gabor(height, width, orientation_deg=70, frequency_cpp=0.2, across_px=side / 5, along_px=side / 4)
    fit = fit_gabor(g[None])
    assert fit.fitted.shape == (1, 1, height, width)
    assert fit.r2[0] > 0.999


@pytest.mark.parametrize("shape", ["horizontal", "rising", "vertical", "falling"])
def test_orientation_is_that_of_the_bars_counter_clockwise(shape):
    x, y = pixels(15, 15)
    # Light along lines of constant: y; x + y, which rises to the right because y grows downwards; x; x - y.
    across = {"horizontal": y, "rising": (x + y) / 2**0.5, "vertical": x, "falling": (x - y) / 2**0.5}[shape]
    expected = {"horizontal": 0, "rising": 45, "vertical": 90, "falling": 135}[shape]
    bars = np.exp(-(x**2 + y**2) / 18) * np.cos(2 * np.pi * 0.2 * across)
    assert angle_between(fit_gabor(bars[None]).orientation_deg[0], expected) < 1e-6
    assert grating_tuning(bars[None]).orientation_deg[0] == expected
    g = gabor(15, 15, orientation_deg=expected, frequency_cpp=0.2, across_px=3, along_px=3)
    np.testing.assert_allclose(g, bars, atol=1e-12)


def test_centre_is_to_the_right_and_below():
    g = gabor(11, 11, orientation_deg=90, frequency_cpp=0.15, across_px=1.5, along_px=1.5, x_px=2, y_px=-1)
    assert np.unravel_index(g.argmax(), g.shape) == (4, 7)
    fit = fit_gabor(g[None])
    assert (fit.x_px[0], fit.y_px[0]) == (pytest.approx(2), pytest.approx(-1))


# ---------------------------------------------------------------------------------------------------------------------
# What the fit says about itself


def test_parameters_give_back_the_fitted_functions():
    filters, _ = random_gabors(12, seed=3)
    bank = np.stack([noisy(filters, 0.3), noisy(-0.5 * filters, 0.3, seed=2)], axis=1)
    fit = fit_gabor(bank)
    for i in range(12):
        spatial = gabor(
            11,
            11,
            orientation_deg=fit.orientation_deg[i],
            frequency_cpp=fit.frequency_cpp[i],
            phase_deg=fit.phase_deg[i],
            across_px=fit.width_px[i],
            along_px=fit.length_px[i],
            x_px=fit.x_px[i],
            y_px=fit.y_px[i],
        )
        again = fit.amplitude[i] * fit.colour[i, :, None, None] * spatial
        np.testing.assert_allclose(again, fit.fitted[i], atol=1e-6)
    assert ((fit.orientation_deg >= 0) & (fit.orientation_deg < 180)).all()
    assert ((fit.phase_deg > -180) & (fit.phase_deg <= 180)).all()
    assert ((fit.frequency_cpp >= 0) & (fit.frequency_cpp <= 0.5)).all()
    assert (fit.amplitude > 0).all()
    residual = ((bank - fit.fitted) ** 2).sum((1, 2, 3))
    total = bank.var((2, 3)).sum(1) * 121
    np.testing.assert_allclose(fit.r2, 1 - residual / total, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(fit.colour, axis=1), 1)


@pytest.mark.parametrize("factor", [1e-8, 3.0, -1.0, -1e8])
def test_scale_and_sign_do_not_matter(factor):
    filters, _ = random_gabors(12)
    filters = noisy(filters, 0.2)
    fit, other = fit_gabor(filters), fit_gabor(factor * filters)
    for name in ("r2", "frequency_cpp", "x_px", "y_px", "width_px", "length_px"):
        np.testing.assert_allclose(getattr(other, name), getattr(fit, name), atol=1e-5)
    assert angle_between(other.orientation_deg, fit.orientation_deg).max() < 1e-4
    np.testing.assert_allclose(other.amplitude, abs(factor) * fit.amplitude, rtol=1e-5)
    assert angle_between(other.phase_deg, fit.phase_deg + (180 if factor < 0 else 0), 360).max() < 1e-3
    np.testing.assert_allclose(other.colour, 1)


def test_filters_of_one_bank_do_not_touch_each_other():
    filters = noisy(random_gabors(6)[0], 0.2)
    together = fit_gabor(filters)
    for i in range(6):
        np.testing.assert_allclose(fit_gabor(filters[i : i + 1]).fitted[0], together.fitted[i], atol=1e-6)


def residuals_of(target):
    x, y = pixels(*target.shape)

    def residuals(p):
        x0, y0, wave, frequency, across, along, even, odd = p
        u = (x - x0) * np.cos(wave) + (y - y0) * np.sin(wave)
        v = (y - y0) * np.cos(wave) - (x - x0) * np.sin(wave)
        carrier = even * np.cos(2 * np.pi * frequency * u) + odd * np.sin(2 * np.pi * frequency * u)
        return (np.exp(-(u**2) / (2 * across**2) - v**2 / (2 * along**2)) * carrier - target).ravel()

    return residuals


@pytest.mark.parametrize("seed", range(6))
def test_scipy_finds_nothing_better_from_the_same_optimum(seed):
    target = noisy(random_gabors(1, seed)[0], 0.3, seed)[0]
    fit = fit_gabor(target[None])
    wave, phase = np.deg2rad(90 - fit.orientation_deg[0]), np.deg2rad(fit.phase_deg[0])
    start = [fit.x_px[0], fit.y_px[0], wave, fit.frequency_cpp[0], fit.width_px[0], fit.length_px[0]]
    start += [fit.amplitude[0] * np.cos(phase), -fit.amplitude[0] * np.sin(phase)]
    total = ((target - target.mean()) ** 2).sum()
    residuals = residuals_of(target)
    assert 1 - (residuals(np.array(start)) ** 2).sum() / total == pytest.approx(fit.r2[0], abs=1e-8)
    low = [-5.5, -5.5, -np.inf, 0, 0.4, 0.4, -np.inf, -np.inf]
    high = [5.5, 5.5, np.inf, 0.5, 11, 11, np.inf, np.inf]
    found = least_squares(residuals, start, bounds=(low, high), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    assert fit.r2[0] >= 1 - 2 * found.cost / total - 1e-6


def test_scipy_finds_nothing_better_from_the_true_parameters():
    filters, true = random_gabors(6, seed=7)
    filters = noisy(filters, 0.2)
    fit = fit_gabor(filters)
    for i, target in enumerate(filters):
        wave, phase = np.deg2rad(90 - true["orientation_deg"][i]), np.deg2rad(true["phase_deg"][i])
        start = [true["x_px"][i], true["y_px"][i], wave, true["frequency_cpp"][i]]
        start += [true["across_px"][i], true["along_px"][i], np.cos(phase), -np.sin(phase)]
        found = least_squares(residuals_of(target), start, xtol=1e-12, ftol=1e-12, gtol=1e-12)
        assert fit.r2[i] >= 1 - 2 * found.cost / ((target - target.mean()) ** 2).sum() - 1e-6


# ---------------------------------------------------------------------------------------------------------------------
# Colour


def test_a_colour_filter_is_one_gabor_times_one_colour():
    filters, true = random_gabors(8)
    colours = np.random.default_rng(5).standard_normal((8, 3))
    fit = fit_gabor(3 * filters[:, None] * colours[:, :, None, None])
    assert fit.r2.min() > 1 - 1e-8
    assert angle_between(fit.orientation_deg, true["orientation_deg"]).max() < 0.01
    unit = colours / np.linalg.norm(colours, axis=1, keepdims=True)
    sign = np.sign(np.take_along_axis(unit, np.abs(unit).argmax(1)[:, None], 1))
    np.testing.assert_allclose(fit.colour, unit * sign, atol=1e-5)
    np.testing.assert_allclose(fit.amplitude, 3 * np.linalg.norm(colours, axis=1), rtol=1e-4)


def test_the_same_filter_in_every_channel_is_a_grey_filter():
    filters = noisy(random_gabors(8)[0], 0.2)
    grey, colour = fit_gabor(filters), fit_gabor(np.repeat(filters[:, None], 3, 1))
    np.testing.assert_allclose(colour.r2, grey.r2, atol=1e-6)
    np.testing.assert_allclose(colour.colour, 3**-0.5, atol=1e-6)
    assert angle_between(colour.orientation_deg, grey.orientation_deg).max() < 0.01
    tuning = grating_tuning(np.repeat(filters[:, None], 3, 1))
    for name in ("orientation_deg", "frequency_cpp", "selectivity", "circular_variance"):
        np.testing.assert_allclose(getattr(tuning, name), getattr(grating_tuning(filters), name), atol=1e-9)


def test_two_different_gabors_in_two_channels_are_not_one():
    shape = {"frequency_cpp": 0.2, "across_px": 2.0, "along_px": 2.5}
    bank = np.stack([gabor(11, 11, orientation_deg=0, **shape), 0.5 * gabor(11, 11, orientation_deg=90, **shape)])
    fit = fit_gabor(bank[None])
    assert angle_between(fit.orientation_deg[0], 0) < 5  # the stronger one
    assert 0.75 < fit.r2[0] < 0.85  # and its share: 1 of 1 + 0.25
    np.testing.assert_allclose(np.abs(fit.colour[0]), [1, 0], atol=0.05)


# ---------------------------------------------------------------------------------------------------------------------
# What is not a Gabor function


def test_white_noise_is_hardly_explained():
    rng = np.random.default_rng(0)
    grey = fit_gabor(rng.standard_normal((40, 11, 11))).r2
    assert grey.mean() < 0.2
    assert grey.max() < 0.35
    colour = fit_gabor(rng.standard_normal((20, 3, 11, 11))).r2
    assert colour.max() < 0.2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [0.0, 0.1, 1.7, -3e-7, 1e30])
def test_constant_filters_explain_nothing_and_are_finite(channels, value):
    filters = np.concatenate(
        [np.full((2, channels, 11, 11), value), noisy(random_gabors(1)[0], 0.1)[:, None].repeat(channels, 1)]
    )
    fit = fit_gabor(filters)
    assert fit.r2[:2].tolist() == [0, 0]
    assert fit.r2[2] > 0.8
    assert all(np.isfinite(getattr(fit, name)).all() for name in GaborFit.__dataclass_fields__)
    tuning = grating_tuning(filters)
    assert tuning.selectivity[:2].tolist() == [0, 0]
    assert tuning.circular_variance[:2].tolist() == [1, 1]
    assert tuning.selectivity[2] > 0.5


# ---------------------------------------------------------------------------------------------------------------------
# Gratings


def test_tuning_equals_the_responses_to_gratings():
    """Every grating drawn, at every phase; the response of a linear filter is their sum of products."""
    filters = noisy(random_gabors(5)[0], 0.3)[:, None] * np.array([1.0, -0.4])[:, None, None]
    filters += 0.2  # does not respond to gratings: the mean of every channel is left out
    orientations, frequencies = np.arange(12) * 15.0, np.geomspace(0.5 / 11, 0.5, 7)
    x, y = pixels(11, 11)
    amplitude = np.empty((5, 7, 12))
    centred = filters - filters.mean((2, 3), keepdims=True)
    phases = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    for f, o in np.ndindex(7, 12):
        normal = np.deg2rad(orientations[o] + 90)  # up is minus y
        cycles = frequencies[f] * (x * np.cos(normal) - y * np.sin(normal))
        gratings = np.cos(2 * np.pi * cycles + phases[:, None, None])
        response = np.einsum("nchw,phw->ncp", centred, gratings)
        amplitude[:, f, o] = np.sqrt((response.max(-1) ** 2).sum(1))
    tuning = grating_tuning(filters, orientations=12, frequencies=7)
    for n in range(5):
        f, o = np.unravel_index(amplitude[n].argmax(), (7, 12))
        curve = amplitude[n, f]
        assert tuning.orientation_deg[n] == orientations[o]
        assert tuning.frequency_cpp[n] == pytest.approx(frequencies[f])
        opposite = curve[(o + 6) % 12]
        assert tuning.selectivity[n] == pytest.approx((curve[o] - opposite) / (curve[o] + opposite), abs=1e-4)
        resultant = abs(sum(r * np.exp(2j * np.deg2rad(t)) for r, t in zip(curve, orientations, strict=True)))
        assert tuning.circular_variance[n] == pytest.approx(1 - resultant / curve.sum(), abs=1e-4)


def test_gabors_prefer_their_own_gratings():
    filters, true = random_gabors(40)
    tuning = grating_tuning(filters, orientations=180, frequencies=60)
    many_bars = true["across_px"] * true["frequency_cpp"] > 0.45
    assert many_bars.sum() > 10
    assert angle_between(tuning.orientation_deg, true["orientation_deg"])[many_bars].max() < 12
    assert (np.abs(np.log2(tuning.frequency_cpp / true["frequency_cpp"]))[many_bars] < 0.25).all()
    assert tuning.selectivity[many_bars].min() > 0.8


def test_a_round_filter_is_not_tuned_for_orientation():
    x, y = pixels(25, 25)
    centre = np.exp(-(x**2 + y**2) / 8) / 4 - np.exp(-(x**2 + y**2) / 18) / 9
    tuning = grating_tuning(centre[None])
    assert tuning.selectivity[0] < 0.01
    assert tuning.circular_variance[0] > 0.99


def test_gabor_fraction_counts_filters_that_are_fitted_and_tuned():
    gabors = noisy(random_gabors(6)[0], 0.1)
    x, y = pixels(11, 11)
    blob = np.exp(-(x**2 + y**2) / 8)  # a Gabor function of frequency 0, but round
    noise = np.random.default_rng(0).standard_normal((4, 11, 11))
    assert fit_gabor(blob[None]).r2[0] > 0.99
    assert grating_tuning(blob[None]).selectivity[0] < TUNED_SELECTIVITY
    assert fit_gabor(noise).r2.max() < GABOR_R2
    assert gabor_fraction(gabors) == 1
    assert gabor_fraction(noise) == 0
    assert gabor_fraction(np.concatenate([gabors, noise, blob[None], np.ones((1, 11, 11))])) == 6 / 12


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize("measure", [fit_gabor, grating_tuning])
@pytest.mark.parametrize(
    ("filters", "match"),
    [
        (np.zeros((11, 11)), r"shape \(11, 11\); expected \(filter, height, width\)"),
        (np.zeros((2, 3, 2, 11)), "at least 3 x 3 pixels"),
        (np.zeros((0, 11, 11)), r"shape \(0, 11, 11\)"),
        (np.full((1, 11, 11), np.nan), "NaN or infinite values; expected finite weights"),
        (np.full((1, 11, 11), np.inf), "NaN or infinite"),
    ],
)
def test_what_is_no_bank_of_filters_is_refused(measure, filters, match):
    with pytest.raises(ValueError, match=match):
        measure(filters)
