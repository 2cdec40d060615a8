import numpy as np
import pytest

from stimuli.noise import natural_patches, pink_noise, sparse_noise, white_noise


def slope(images):
    """Exponent of the radial amplitude spectrum between 3 and 60 cycles per picture."""
    size = images.shape[1]
    amplitude = np.abs(np.fft.fft2(images - images.mean(axis=(1, 2), keepdims=True))).mean(axis=0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))) * size
    band = (f >= 3) & (f <= 60)
    return -np.polyfit(np.log(f[band]), np.log(amplitude[band]), 1)[0]


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_spectrum_falls_as_asked_for(exponent):
    assert slope(pink_noise(20, 128, seed=0, exponent=exponent, rms_contrast=0.1)) == pytest.approx(exponent, abs=0.03)


def test_white_noise_is_white_and_independent():
    images = white_noise(40, 128, seed=0, rms_contrast=0.2)
    assert slope(images) == pytest.approx(0, abs=0.03)
    z = (images - 0.5) / 0.1
    assert z.std() == pytest.approx(1, abs=0.01)
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 0.01
    assert abs((z[1:] * z[:-1]).mean()) < 0.01


def test_binary_noise_has_two_levels():
    images = white_noise(3, 64, seed=0, binary=True, rms_contrast=0.5, check_px=2)
    assert np.unique(images).tolist() == [0.25, 0.75]


@pytest.mark.parametrize("function", [white_noise, pink_noise])
def test_a_seed_gives_the_same_pictures(function):
    assert np.array_equal(function(2, 32, seed=1), function(2, 32, seed=1))
    assert not np.array_equal(function(2, 32, seed=1), function(2, 32, seed=2))


def test_pink_noise_has_the_contrast_asked_for():
    images = pink_noise(5, 64, seed=0, rms_contrast=0.15, mean_luminance=0.4)
    assert np.allclose(images.mean(axis=(1, 2)), 0.4, atol=1e-5)
    assert np.allclose(images.std(axis=(1, 2)) / 0.4, 0.15, atol=1e-4)


def test_sparse_noise_shows_every_place_equally_often():
    images, signs = sparse_noise(96, 32, seed=0, grid=8, squares=4)
    assert (np.abs(signs).sum(axis=(1, 2)) == 4).all()
    for sign in (1, -1):
        shown = (signs == sign).sum(axis=0)
        assert shown.max() - shown.min() <= 1
    assert np.array_equal(images[:, ::4, ::4], 0.5 * (1 + signs.astype(np.float32)))
    assert np.array_equal(images[:, 3::4, 2::4], images[:, ::4, ::4])


def test_reverse_correlation_finds_a_receptive_field():
    images, signs = sparse_noise(640, 32, seed=0, grid=8, squares=3)
    field = np.zeros((32, 32))
    field[8:16, 20:24] = [[1.0]]
    response = (images - 0.5).reshape(640, -1) @ field.ravel()
    average = np.tensordot(response, signs, axes=(0, 0)) / np.abs(signs).sum(axis=0)
    expected = field.reshape(8, 4, 8, 4).sum(axis=(1, 3)) * 0.5
    assert np.allclose(average, expected, atol=3)
    assert set(np.flatnonzero(average > 4)) == set(np.flatnonzero(expected))


def test_patches_lie_where_they_say_and_photographs_come_in_turn():
    rng = np.random.default_rng(0)
    photographs = [rng.integers(0, 256, (20 + i, 30, 3)).astype(np.uint8) for i in range(4)]
    patches, where = natural_patches(photographs, 10, 16, seed=0)
    assert patches.dtype == np.uint8
    for patch, (which, row, column) in zip(patches, where, strict=True):
        assert np.array_equal(patch, photographs[which][row : row + 16, column : column + 16])
    assert np.bincount(where[:, 0], minlength=4).max() - np.bincount(where[:, 0], minlength=4).min() <= 1


def test_blank_patches_are_drawn_again():
    half = np.full((16, 64), 0.5)
    half[:, 40:] += np.random.default_rng(0).random((16, 24)) - 0.5
    patches, _ = natural_patches([half], 30, 16, seed=0, least_contrast=0.2)
    assert (patches.std(axis=(1, 2)) >= 0.2 * patches.mean(axis=(1, 2))).all()
    with pytest.raises(ValueError, match="gave no patch"):
        natural_patches([np.ones((16, 16))], 1, 8, seed=0, least_contrast=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: white_noise(1, 10, seed=0, check_px=3), "check_px 3 does not divide size_px 10"),
        (lambda: white_noise(1, 10, seed=0, binary=True, rms_contrast=0.9, mean_luminance=0.8), "rms_contrast is 0.9"),
        (lambda: pink_noise(0, 10, seed=0), "n is 0"),
        (lambda: pink_noise(1, 10, seed=0, rms_contrast=2), "rms_contrast is 2"),
        (lambda: sparse_noise(1, 10, seed=0, grid=3), "grid 3"),
        (lambda: sparse_noise(1, 4, seed=0, grid=2, squares=5), "squares is 5"),
        (lambda: sparse_noise(1, 4, seed=0, grid=2, mean_luminance=0.9), "contrast is 1.0"),
        (lambda: natural_patches([], 1, 4, seed=0), "no photographs"),
        (lambda: natural_patches([np.ones((3, 9))], 1, 4, seed=0), "photograph 0 has shape"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
