import csv
import math

import numpy as np
import pytest
from scipy import ndimage
from skimage import data, transform

from stimuli import distortions as d
from stimuli.stimulus_set import StimulusSet


@pytest.fixture(scope="module")
def photographs():
    """Three grey squares of 96 px from a photograph."""
    picture = data.camera() / 255.0
    return np.stack([picture[i : i + 96, j : j + 96] for i, j in ((100, 150), (200, 200), (300, 60))])


@pytest.fixture(scope="module")
def coloured():
    return (data.astronaut()[None, 100:196, 150:246] / 255.0).astype(np.float64)


def amplitude(images):
    return np.abs(np.fft.fft2(images))


@pytest.mark.parametrize("name", d.DISTORTIONS)
def test_every_level_gives_pictures_in_range_and_a_seed_the_same_ones(name, photographs, coloured):
    images = coloured if name in ("colour", "false-colour") else photographs[:2]
    for level in d.LEVELS[name]:
        first = d.DISTORTIONS[name](images, level, 3)
        assert first.shape == images.shape
        assert first.min() >= 0
        assert first.max() <= 1
        assert np.array_equal(first, d.DISTORTIONS[name](images, level, 3))


@pytest.mark.parametrize("name", d.DISTORTIONS)
def test_the_first_level_changes_nothing(name, photographs, coloured):
    images = coloured if name in ("colour", "false-colour") else photographs
    options = {"contrast_percent": 100} if name in ("uniform-noise", "salt-and-pepper") else {}
    first = 0 if name.startswith("eidolon") else d.LEVELS[name][0]
    assert np.allclose(d.DISTORTIONS[name](images, first, 0, **options), images, atol=1e-12)


RANDOM = ["uniform-noise", "salt-and-pepper", "phase-scrambling", "eidolonI", "eidolonII", "eidolonIII", "elastic"]


@pytest.mark.parametrize("name", RANDOM)
def test_seeds_and_pictures_have_numbers_of_their_own(name, photographs):
    level = d.LEVELS[name][4]
    same = np.repeat(photographs[:1], 2, axis=0)
    result = d.DISTORTIONS[name](same, level, 0)
    assert not np.allclose(result[0], result[1])
    assert not np.allclose(result[0], d.DISTORTIONS[name](same, level, 1)[0])
    assert np.allclose(result[0], d.DISTORTIONS[name](same[:1], level, 0)[0], rtol=0, atol=1e-12)


@pytest.mark.shared
def test_levels_are_those_of_the_human_data(shared):
    word = {
        "contrast": lambda c: float(c[1:]),
        "high-pass": float,
        "low-pass": float,
        "phase-scrambling": float,
        "rotation": float,
        "uniform-noise": float,
        "colour": str,
        "power-equalisation": str,
        "false-colour": lambda c: c.lower(),
        "eidolonI": lambda c: float(c.split("-")[0]),
        "eidolonII": lambda c: float(c.split("-")[0]),
        "eidolonIII": lambda c: float(c.split("-")[0]),
    }
    for name, read in word.items():
        file = sorted((shared / "model_vs_human" / "raw-data" / name).glob("*.csv"))[0]
        with file.open(newline="") as table:
            conditions = {row["condition"] for row in csv.DictReader(table)}
        assert {read(each) for each in conditions} == set(d.LEVELS[name]), name


def test_contrast_scales_deviations_about_grey(photographs):
    result = d.contrast(photographs, 15)
    assert np.allclose(result.std(axis=(1, 2)), 0.15 * photographs.std(axis=(1, 2)))
    assert np.allclose(result.mean(), 0.5 + 0.15 * (photographs.mean() - 0.5))
    assert np.allclose((result - 0.5) / 0.15 + 0.5, photographs)


def test_uniform_noise_is_uniform_and_white():
    flat = np.full((4, 128, 128), 0.5)
    noise = d.uniform_noise(flat, 0.2, seed=0) - 0.5
    assert np.abs(noise).max() <= 0.2
    counts = np.histogram(noise, bins=10, range=(-0.2, 0.2))[0] / noise.size
    assert np.allclose(counts, 0.1, atol=0.005)
    assert noise.std() == pytest.approx(0.2 / math.sqrt(3), rel=0.01)
    assert abs((noise[:, 1:] * noise[:, :-1]).mean() / noise.var()) < 0.02


def test_uniform_noise_lies_on_thirty_per_cent_contrast(photographs):
    quiet = d.uniform_noise(photographs, 0.0)
    assert np.allclose(quiet, 0.35 + 0.3 * photographs)
    loud = d.uniform_noise(photographs, 0.9, seed=0, clip=False)
    assert loud.max() > 1
    assert np.array_equal(d.uniform_noise(photographs, 0.9, seed=0), np.clip(loud, 0, 1))


def test_salt_and_pepper_replaces_its_share():
    flat = np.full((4, 128, 128), 0.5)
    result = d.salt_and_pepper(flat, 0.2, seed=0)
    assert (result == 0).mean() == pytest.approx(0.1, abs=0.005)
    assert (result == 1).mean() == pytest.approx(0.1, abs=0.005)
    assert set(np.unique(result)) == {0.0, 0.5, 1.0}


def grating(size, cycles, amplitude=0.2):
    return 0.5 + amplitude * np.cos(2 * np.pi * cycles * np.arange(size) / size) * np.ones((1, size, 1))


@pytest.mark.parametrize("sigma", [1, 3, 5])
@pytest.mark.parametrize("cycles", [8, 16])
def test_blur_has_the_transfer_of_a_gaussian(sigma, cycles):
    size = 192
    inner = slice(48, 144)  # whole periods, away from the borders
    image = grating(size, cycles)
    transfer = math.exp(-2 * (math.pi * sigma * cycles / size) ** 2)
    low = d.low_pass(image, sigma)[0, inner, inner]
    high = d.high_pass(image, sigma, clip=False)[0, inner, inner]
    for result, expected in ((low, transfer), (high, 1 - transfer)):
        peak = 2 * np.abs(np.fft.fft(result.mean(axis=0)))[cycles * 96 // size] / 96
        assert peak / 0.2 == pytest.approx(expected, abs=1e-3)


def test_high_and_low_pass_are_complements(photographs):
    sigma = 3
    whole = d.low_pass(photographs, sigma) + d.high_pass(photographs, sigma, clip=False)
    shift = (whole - photographs).reshape(3, -1)
    assert np.allclose(shift, shift[:, :1])
    assert np.allclose(d.high_pass(photographs, sigma, clip=False).mean(axis=(1, 2)), d.GROUND)


@pytest.mark.parametrize("size", [95, 96])
@pytest.mark.parametrize("level", [60, 180])
def test_phase_scrambling_keeps_amplitudes_and_bounds_phases(photographs, size, level):
    pictures = photographs[:, :size, :]
    result = d.phase_scrambling(pictures, level, seed=0, clip=False)
    assert np.allclose(amplitude(result), amplitude(pictures), atol=1e-9)
    shift = np.angle(np.fft.fft2(result) / np.fft.fft2(pictures))
    assert np.abs(shift).max() <= math.radians(level) + 1e-6
    assert shift.std() == pytest.approx(math.radians(level) / math.sqrt(3), rel=0.03)
    assert np.allclose(result.mean(axis=(1, 2)), pictures.mean(axis=(1, 2)))


def test_power_equalisation_gives_all_pictures_the_mean_spectrum(photographs):
    result = d.power_equalisation(photographs, clip=False)
    mean = amplitude(photographs).mean(axis=0)
    assert np.allclose(amplitude(result), mean, rtol=1e-6, atol=1e-9)
    phase = np.angle(np.fft.fft2(result) * np.conj(np.fft.fft2(photographs)))
    assert np.abs(phase[:, mean > 1e-6]).max() < 1e-6
    assert np.allclose(d.power_equalisation(photographs[:1], mean_amplitude=mean, clip=False), result[:1])


def test_rotation_moves_pixels_only(photographs):
    quarter = d.rotation(photographs, 90)
    assert np.allclose(quarter[0], transform.rotate(photographs[0], 90))
    assert np.array_equal(d.rotation(d.rotation(quarter, 90), 180), photographs)
    assert np.array_equal(d.rotation(d.rotation(photographs, 270), 90), photographs)
    assert np.array_equal(d.rotation(photographs, 180), photographs[:, ::-1, ::-1])


def test_grey_has_the_weights_of_scikit_image(coloured):
    from skimage.color import rgb2gray

    result = d.colour(coloured, "bw")
    assert np.allclose(result[..., 0], rgb2gray(coloured))
    assert np.array_equal(result[..., 0], result[..., 2])


def test_false_colour_is_its_own_inverse_and_keeps_luminance(coloured):
    from skimage.color import rgb2xyz

    images = 0.3 + 0.4 * coloured  # so that opponents can be shown
    turned = d.false_colour(images, clip=False)
    assert turned.min() >= 0
    assert turned.max() <= 1
    assert not np.allclose(turned, images, atol=0.02)
    assert np.allclose(d.false_colour(turned, clip=False), images, atol=1e-6)
    assert np.allclose(rgb2xyz(turned)[..., 1], rgb2xyz(images)[..., 1], atol=2e-3)
    ramp = np.linspace(0, 1, 32)[None, None, :, None] * np.ones(3)
    assert np.allclose(d.false_colour(ramp), ramp, atol=1e-6)


def test_false_colour_turns_both_opponent_axes(coloured):
    images = 0.3 + 0.4 * coloured
    to_axes = d.opponent_matrix()

    def axes(pictures):
        return np.where(pictures <= 0.04045, pictures / 12.92, ((pictures + 0.055) / 1.055) ** 2.4) @ to_axes.T

    before, after = axes(images), axes(d.false_colour(images, clip=False))
    assert np.allclose(after, before * [1, -1, -1], atol=1e-9)


@pytest.mark.parametrize("coherence", [1.0, 0.3, 0.0])
def test_eidolon_without_reach_is_the_picture(photographs, coherence):
    assert np.allclose(d.eidolon(photographs, 0, coherence=coherence), photographs, atol=1e-12)


@pytest.mark.parametrize("coherence", [1.0, 0.3, 0.0])
def test_reach_is_the_spread_of_displacements(coherence):
    # a ramp shows where its pixels come from
    size, reach = 192, 4.0
    ramp = np.broadcast_to(np.linspace(0.25, 0.75, size), (4, size, size))
    moved = (d.eidolon(ramp, reach, seed=0, coherence=coherence, clip=False) - ramp) / (0.5 / (size - 1))
    inner = moved[:, 48:-48, 48:-48]
    # the blurred ramp carries the coarsest field; finer slices of a ramp are empty away from its borders
    assert inner.std() == pytest.approx(reach, rel=0.35)


def test_coherence_keeps_edges_together(photographs):
    """Independent displacement of the scales breaks edges up: steep slopes are lost, more of them the less coherent."""

    def steepness(images):
        slopes = np.hypot(*np.gradient(images, axis=(1, 2)))
        return np.percentile(slopes, 99)

    images = np.zeros((4, 128, 128))
    images[:, 32:96, 32:96] = 1.0
    steep = [steepness(d.eidolon(images, 8, seed=0, coherence=c)) for c in (1.0, 0.3, 0.0)]
    assert steep[0] > steep[1] > steep[2]


def test_elastic_moves_by_as_much_as_stated():
    size = 256
    ramp = np.broadcast_to(np.linspace(0.25, 0.75, size), (2, size, size))
    moved = (d.elastic(ramp, 3.0, seed=0) - ramp) / (0.5 / (size - 1))
    assert moved[:, 16:-16, 16:-16].std() == pytest.approx(3.0, rel=0.05)


def test_affine_deformations_can_be_undone():
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).random((2, 96, 96)), (0, 4, 4))
    inner = (slice(None), slice(28, 68), slice(28, 68))
    for function, level, back in ((d.shear, 0.3, -0.3), (d.scaling, 2.0, 0.5)):
        undone = function(function(smooth, level), back)
        assert np.abs(undone - smooth)[inner].max() < 0.1 * smooth.std()
        assert np.abs(function(smooth, level) - smooth)[inner].max() > smooth.std()


def test_a_set_is_shown_at_every_level(photographs):
    stimuli = StimulusSet((255 * photographs).astype(np.uint8), {"picture": np.arange(3)}, pixels_per_degree=12.0)
    shown = d.distorted(stimuli, "contrast", [100, 10])
    assert shown.parameters["picture"].tolist() == [0, 1, 2, 0, 1, 2]
    assert shown.parameters["level"].tolist() == [100, 100, 100, 10, 10, 10]
    assert shown.size_deg == stimuli.size_deg
    assert np.allclose(shown.images[3:], d.contrast(stimuli.images / 255, 10), atol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: d.contrast(x, 101), "contrast is 101"),
        (lambda x: d.contrast(2 * x + 1, 10), "images run from"),
        (lambda x: d.contrast(x[0], 10), "images have shape"),
        (lambda x: d.rotation(x, 45), "level is 45"),
        (lambda x: d.colour(x), "expected colours"),
        (lambda x: d.false_colour(x[..., None] * np.ones(3), "no"), "level is 'no'"),
        (lambda x: d.phase_scrambling(x, 200), "the phase shift is 200"),
        (lambda x: d.eidolon(x, 1, coherence=2), "the coherence is 2"),
        (lambda x: d.eidolon(x, -1), "the reach is -1"),
        (lambda x: d.power_equalisation(x, mean_amplitude=np.ones((3, 3))), "mean_amplitude has shape"),
        (lambda x: d.power_equalisation(x, mean_amplitude=np.random.default_rng(0).random((8, 8))), "opposite"),
        (lambda x: d.uniform_noise(x, math.nan), "half width is nan"),
        (lambda x: d.distorted(StimulusSet(x.astype(np.float32)), "blur"), "no distortion 'blur'"),
        (lambda x: d.distorted(StimulusSet(x.astype(np.float32)), "contrast", []), "levels are empty"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.full((1, 8, 8), 0.5))
