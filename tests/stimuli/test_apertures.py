import numpy as np
import pytest

from stimuli.apertures import annulus, apply_aperture, centred, disc, raised_cosine


def test_raised_cosine_golden_values():
    assert raised_cosine(0, 160) == 1
    assert raised_cosine(80, 160) == pytest.approx(0.5)
    assert np.allclose(raised_cosine([160, 161, 1000], 160), 0)


def test_centre_is_the_middle_of_the_picture():
    x, y = centred(6, 4, 2.0)
    assert x.sum() == pytest.approx(0)
    assert y.sum() == pytest.approx(0)
    assert x[0, 1] - x[0, 0] == 0.5


def test_area_of_discs_hard_and_soft():
    r = np.hypot(*centred(400, 400, 100.0))
    assert disc(r, 1.0).sum() / 100**2 == pytest.approx(np.pi, rel=0.01)
    assert disc(r, 1.0, edge=0.2).sum() / 100**2 == pytest.approx(np.pi, rel=0.01)


def test_a_ring_and_its_hole_make_the_disc():
    r = np.hypot(*centred(64, 64, 16.0))
    assert np.allclose(annulus(r, 0.5, 1.5, edge=0.1) + disc(r, 0.5, edge=0.1), disc(r, 1.5, edge=0.1))
    assert not annulus(r, 1.0, 1.0).any()
    with pytest.raises(ValueError, match="radii 2 and 1"):
        annulus(r, 2, 1)


def test_aperture_leaves_the_background_outside():
    images = np.random.default_rng(0).random((3, 32, 32))
    window = raised_cosine(np.hypot(*centred(32, 32, 16.0)), 0.9)
    seen = apply_aperture(images, window, background=0.4)
    assert np.allclose(seen[:, window == 0], 0.4)
    assert np.allclose(apply_aperture(images, np.ones((32, 32))), images, atol=1e-7)
    with pytest.raises(ValueError, match="differ in rows"):
        apply_aperture(images, np.ones((3, 3)))
