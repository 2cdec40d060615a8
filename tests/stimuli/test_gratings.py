import numpy as np
import pytest

from neural_fits.gabor import gabor, grating_tuning
from stimuli.gratings import bar, drifting_grating, gabor_patch, grating, picture_set, plaid, side_px


def spectrum_peak(image, pixels_per_degree):
    """Frequency (cycles/deg) and orientation of the bars (deg) of the strongest Fourier component."""
    size = 1024
    power = np.abs(np.fft.fft2(image - image.mean(), s=(size, size)))
    row, column = np.unravel_index(power[:, : size // 2].argmax(), (size, size // 2))
    fy, fx = np.fft.fftfreq(size)[row], np.fft.fftfreq(size)[column]
    return np.hypot(fx, fy) * pixels_per_degree, (90 + np.rad2deg(np.arctan2(-fy, fx))) % 180


@pytest.mark.parametrize("orientation", [0, 30, 90, 135, 170])
def test_frequency_and_orientation_by_the_fourier_transform(orientation):
    image = grating(orientation_deg=orientation, frequency_cpd=3.0, size_deg=4, pixels_per_degree=28)[0]
    frequency, bars = spectrum_peak(image, 28)
    assert frequency == pytest.approx(3.0, rel=0.02)
    assert abs((bars - orientation + 90) % 180 - 90) < 1


def test_orientation_convention_is_that_of_filters():
    filters = gabor(15, 15, orientation_deg=30, frequency_cpp=0.2, across_px=2.5, along_px=4)
    image = grating(orientation_deg=np.arange(0, 180, 30), frequency_cpd=0.2 * 15, size_deg=1, pixels_per_degree=15)
    response = ((image - 0.5) * filters).sum(axis=(1, 2))
    assert response.argmax() == 1
    assert grating_tuning(filters[None]).orientation_deg[0] == 30


def test_gabor_patch_is_the_gabor_function():
    patch = gabor_patch(
        orientation_deg=25, frequency_cpd=3, phase_deg=40, contrast=0.8, across_deg=0.2, along_deg=0.4, x_deg=0.3,
        y_deg=-0.1, size_deg=2, pixels_per_degree=16,
    )[0]  # fmt: skip
    function = gabor(
        32, 32, orientation_deg=25, frequency_cpp=3 / 16, phase_deg=40, across_px=0.2 * 16, along_px=0.4 * 16,
        x_px=0.3 * 16, y_px=-0.1 * 16,
    )  # fmt: skip
    assert np.allclose(patch, 0.5 * (1 + 0.8 * function), atol=1e-6)


def test_contrast_phase_and_luminance():
    image = grating(
        orientation_deg=90, frequency_cpd=1, contrast=0.5, mean_luminance=0.4, size_deg=8, pixels_per_degree=28
    )[0]
    assert (image.max() - image.min()) / (image.max() + image.min()) == pytest.approx(0.5, rel=0.01)
    assert image.mean() == pytest.approx(0.4, abs=1e-4)
    opposite = grating(
        orientation_deg=90, frequency_cpd=1, phase_deg=180, contrast=0.5, mean_luminance=0.4, size_deg=8
    )[0]
    assert np.allclose(image + opposite, 0.8, atol=1e-6)


def test_parameters_of_several_pictures_equal_single_ones():
    many = grating(
        orientation_deg=[10, 60], frequency_cpd=[1, 2], phase_deg=[0, 90], diameter_deg=[1, np.inf], x_deg=[0.5, 0],
        size_deg=2, pixels_per_degree=16,
    )  # fmt: skip
    first = grating(orientation_deg=10, frequency_cpd=1, diameter_deg=1, x_deg=0.5, size_deg=2, pixels_per_degree=16)[0]
    second = grating(orientation_deg=60, frequency_cpd=2, phase_deg=90, size_deg=2, pixels_per_degree=16)[0]
    assert np.array_equal(many, [first, second])


def test_disc_and_ring_add_up_to_the_full_field():
    options = {"orientation_deg": 45, "frequency_cpd": 2, "edge_deg": 0.2, "size_deg": 4, "pixels_per_degree": 16}
    centre = grating(diameter_deg=2, **options)
    surround = grating(inner_diameter_deg=2, **options)
    assert np.allclose(centre + surround - 0.5, grating(**options), atol=1e-6)
    assert np.allclose(surround[0, 30:34, 30:34], 0.5)
    assert np.allclose(centre[0, 0], 0.5)


def test_drift_moves_to_the_right_at_90_and_to_the_left_at_270():
    options = {
        "frequency_cpd": 1, "temporal_frequency_hz": 2, "duration_ms": 500, "frame_rate_hz": 16, "size_deg": 2,
        "pixels_per_degree": 8,
    }  # fmt: skip
    right = drifting_grating(orientation_deg=90, **options)
    left = drifting_grating(orientation_deg=270, **options)
    assert len(right) == 8
    for frame in range(7):
        assert np.allclose(np.roll(right[frame], 1, axis=1), right[frame + 1], atol=1e-6)
        assert np.allclose(np.roll(left[frame], -1, axis=1), left[frame + 1], atol=1e-6)
    with pytest.raises(ValueError, match=r"temporal_frequency_hz is 9.*half the frame rate"):
        drifting_grating(orientation_deg=0, **{**options, "temporal_frequency_hz": 9})


def test_plaid_is_the_sum_of_its_gratings():
    options = {"frequency_cpd": 2, "size_deg": 2, "pixels_per_degree": 16}
    one = grating(orientation_deg=20, contrast=0.4, **options)
    two = grating(orientation_deg=80, contrast=0.4, **options)
    assert np.allclose(plaid(orientation_deg=20, angle_deg=60, contrast=0.8, **options), one + two - 0.5, atol=1e-6)


def test_bar_has_the_area_and_the_orientation_asked_for():
    image = bar(orientation_deg=30, width_deg=0.3, length_deg=2, contrast=-1, size_deg=4, pixels_per_degree=32)[0]
    dark = (0.5 - image) / 0.5
    assert dark.sum() / 32**2 == pytest.approx(0.3 * 2, rel=0.02)
    y, x = np.mgrid[:128, :128] - 63.5
    angle = 0.5 * np.arctan2(-2 * (dark * x * y).sum(), (dark * (x**2 - y**2)).sum())
    assert np.rad2deg(angle) == pytest.approx(30, abs=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frequency_cpd": 20}, r"20 is above 14.*Nyquist"),
        ({"frequency_cpd": -1}, "at least 0"),
        ({"frequency_cpd": 1, "contrast": 1.5}, "levels run from"),
        ({"frequency_cpd": [1, 2], "contrast": [1, 1, 1]}, "one length"),
        ({"frequency_cpd": np.nan}, "frequency_cpd holds NaN"),
        ({"frequency_cpd": 1, "diameter_deg": 1, "inner_diameter_deg": 2}, "inner <= outer"),
        ({"frequency_cpd": 1, "mean_luminance": 0}, "mean_luminance is 0"),
        ({"frequency_cpd": 1, "size_deg": 1.01}, "whole number"),
    ],
)
def test_bad_parameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        grating(orientation_deg=0, **options)


def test_side():
    assert side_px(0.1 * 3, 10) == 3
    with pytest.raises(ValueError, match="positive"):
        side_px(-1, 10)


def test_picture_set_knows_its_parameters():
    stimuli = picture_set(
        "grating", {"orientation_deg": [0, 45], "diameter_deg": [1, 2, 4]}, frequency_cpd=2.0, edge_deg=0.1, size_deg=4,
        pixels_per_degree=16,
    )  # fmt: skip
    table = stimuli.parameters
    for i in range(6):
        row = {name: float(values[i]) for name, values in table.items()}
        assert np.array_equal(grating(**row, size_deg=4, pixels_per_degree=16)[0], stimuli.images[i])
    assert stimuli.aperture == "raised-cosine edge 0.1 deg"
    with pytest.raises(ValueError, match="kind is 'spiral'"):
        picture_set("spiral", {})
