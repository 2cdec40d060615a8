import numpy as np
import pytest

from stimuli.mosaics import GROUND, texture_mosaics
from stimuli.textures import ready_textures


@pytest.fixture(scope="module")
def textures():
    return ready_textures()


def test_every_pixel_is_of_the_picture_that_its_label_names(textures):
    images, labels, families = texture_mosaics(textures, 12, samples=(1, 2), seed=3)
    table = textures.parameters
    for image, label in zip(images, labels, strict=True):
        for number in np.unique(label):
            inside = label == number
            kind = "noise" if number == GROUND else "texture"
            family = (
                table["family"] == families[number - 1] if number != GROUND else np.ones(len(table["family"]), bool)
            )
            allowed = textures.images[(table["type"] == kind) & family & np.isin(table["sample"], (1, 2))]
            # two overlapping discs of one family may hold two samples: each pixel is of one of them
            assert (allowed[:, inside] == image[inside][:, 0]).any(0).all()
    assert (images[..., 0] == images[..., 2]).all()


def test_samples_that_are_kept_for_others_are_not_shown(textures):
    one = texture_mosaics(textures, 8, samples=(4,), seed=0)[0]
    table = textures.parameters
    shown = textures.images[np.isin(table["sample"], (4,))]
    assert all(
        (shown[:, image[..., 0] >= 0].reshape(len(shown), -1) == image[..., 0].ravel()).any(0).all() for image in one
    )


def test_families_take_turns_and_a_seed_is_a_picture(textures):
    images, labels, families = texture_mosaics(textures, 30, samples=(1, 2, 3), seed=1)
    again = texture_mosaics(textures, 30, samples=(1, 2, 3), seed=1)
    assert np.array_equal(images, again[0])
    assert np.array_equal(labels, again[1])
    assert set(np.unique(labels)) == set(range(len(families) + 1))
    assert 0.2 < (labels == GROUND).mean() < 0.9


@pytest.mark.parametrize("bad", [{"n": 0}, {"patches": 0}, {"radius_px": (9, 3)}, {"samples": (99,)}])
def test_what_cannot_be_drawn_is_refused(textures, bad):
    given = {"n": 2, "samples": (1,), "seed": 0} | bad
    with pytest.raises(ValueError, match=r"expected positive|lacks textures"):
        texture_mosaics(textures, **given)
