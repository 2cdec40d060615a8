"""The made corpus: its captions say what its pictures show, and its truth says which do not."""

import re

import numpy as np
import pytest

from vision_methods.made_captions import ATTRIBUTES, JUDGED, made_caption, made_captions, made_prompts


def said(text):
    """Attributes that a caption says, read by its words."""
    words = {"a": "one", "an": "one"}
    tokens = [words.get(token, token) for token in re.sub(r"^(a picture of|a photo of) | on a", "", text).split()]
    tokens = [token if token in ("cross", "crosses") else token.removesuffix("s") for token in tokens]
    tokens = ["cross" if token == "crosses" else token for token in tokens]
    return {
        name: words_of.index(next(token for token in tokens if token in words_of))
        for name, words_of in ATTRIBUTES.items()
        if any(token in words_of for token in tokens)
    }


def test_clean_captions_say_what_is_shown():
    made = made_captions(300, seed=3, noise=0)
    assert made.truth.clean.all()
    for i, text in enumerate(made.captions):
        found = said(text)
        assert set(JUDGED) <= set(found)
        assert all(made.truth.attributes[name][i] == value for name, value in found.items())
    backgrounds = np.mean(["background" in said(text) for text in made.captions])
    assert backgrounds == pytest.approx(0.5, abs=0.1)


def test_spoiled_captions_are_spoiled_as_the_truth_says():
    made = made_captions(400, seed=1, noise=0.3, wrong=0.2, dropped=0.1)
    kind = made.truth.kind
    assert np.bincount(kind).tolist() == [160, 120, 80, 40]
    assert np.array_equal(made.truth.clean, kind == 0)
    right = np.array(
        [
            [name in said(text) and said(text)[name] == made.truth.attributes[name][i] for name in JUDGED]
            for i, text in enumerate(made.captions)
        ]
    )
    silent = np.array([[name not in said(text) for name in JUDGED] for text in made.captions])
    assert right[kind == 0].all()
    assert ((~right[kind == 2]).sum(1) == 1).all()
    assert not silent[kind == 2].any()
    assert (silent[kind == 3].sum(1) == 1).all()
    assert (right | silent)[kind == 3].all()
    # An exchanged caption is right by chance alone.
    chance = [1 / len(ATTRIBUTES[name]) for name in JUDGED]
    np.testing.assert_allclose(right[kind == 1].mean(0), chance, atol=0.15)


def test_exchanged_captions_are_those_of_others():
    clean, mixed = (made_captions(200, seed=5, noise=noise) for noise in (0.0, 0.5))
    assert sorted(clean.captions) == sorted(mixed.captions)
    kept = np.array(clean.captions) == np.array(mixed.captions)
    assert kept[mixed.truth.clean].all()
    assert kept[~mixed.truth.clean].mean() < 0.1  # of different pictures with the same words


def test_seed_decides_everything():
    first, again, other = (made_captions(20, seed=seed, noise=0.5) for seed in (0, 0, 1))
    assert np.array_equal(first.pictures, again.pictures)
    assert first.captions == again.captions
    assert np.array_equal(first.truth.kind, again.truth.kind)
    assert not np.array_equal(first.pictures, other.pictures)


def test_pictures_show_their_attributes():
    """By the pixels alone: how many quarters hold a thing, the hue, and the level of the background."""
    made = made_captions(200, seed=2, noise=0, size_px=64)
    truth, pictures = made.truth.attributes, made.pictures / 255
    behind = np.median(pictures.reshape(200, -1, 3), axis=1)
    for value, (low, high) in enumerate(((0.0, 0.3), (0.3, 0.7), (0.7, 1.0))):
        level = behind[truth["background"] == value].mean(1)
        assert ((level > low) & (level < high)).all()
    away = np.abs(pictures - behind[:, None, None]).max(3) > 0.25
    quarters = away.reshape(200, 2, 32, 2, 32).mean((2, 4)).reshape(200, 4)
    assert np.mean((quarters > 0.02).sum(1) == truth["number"] + 1) > 0.97
    plain = (truth["texture"] == 0) & np.isin(truth["colour"], [0, 3, 5])
    for i in np.flatnonzero(plain):
        strongest = pictures[i][away[i]].mean(0).argmax()
        assert strongest == {0: 0, 3: 1, 5: 2}[truth["colour"][i]]


@pytest.mark.parametrize("size_px", [16, 33])
def test_any_size_can_be_made(size_px):
    assert made_captions(3, seed=0, size_px=size_px).pictures.shape == (3, size_px, size_px, 3)


def test_prompts_name_one_value_and_differ_in_nothing_else():
    for name in JUDGED:
        prompts = made_prompts(name, count=5)
        assert tuple(prompts) == ATTRIBUTES[name]
        for value, texts in enumerate(prompts.values()):
            assert [said(text)[name] for text in texts] == [value] * 5
        for together in zip(*prompts.values(), strict=True):
            others = [{k: v for k, v in said(text).items() if k != name} for text in together]
            assert all(each == others[0] for each in others)


def test_what_cannot_be_made_is_named():
    for options, message in (
        ({"n": 0}, "n is 0"),
        ({"n": 3, "size_px": 8}, "size_px 8"),
        ({"n": 3, "noise": 0.8, "wrong": 0.3}, "at most 1 together"),
        ({"n": 3, "noise": -0.1}, "noise -0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            made_captions(**options, seed=0)
    with pytest.raises(ValueError, match="attribute is 'hue'"):
        made_prompts("hue")


def test_what_is_missing_is_not_said():
    text = made_caption({"colour": 1}, np.random.default_rng(0))
    assert said(text) == {"colour": 1}
    assert "things" in text
