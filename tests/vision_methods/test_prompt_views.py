"""Crops and colours of prompts: against Pillow, colorsys and the stated distributions."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from vision_methods import prompt_views
from vision_methods.prompt_views import as_square, jittered, prompt_view, prompt_window


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(height=40, width=60, seed=0):
    """Smooth, so that rounding decides nothing."""
    small = np.random.default_rng(seed).integers(40, 210, (5, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_a_square_is_pillows():
    pixels = as_square(picture(90, 120), 32)
    expected = Image.fromarray(picture(90, 120)).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(255 * pixels[0].numpy(), np.asarray(expected), atol=1.01)
    own = picture(32, 32)
    np.testing.assert_allclose(255 * as_square(own, 32)[0].numpy(), own, atol=1e-4)
    np.testing.assert_allclose(as_square(own / 255, 32), as_square(own, 32), atol=1e-6)


def test_windows_have_the_stated_areas_and_ratios_and_lie_inside():
    draw = generator()
    boxes = np.array([prompt_window(300, 400, draw) for _ in range(3000)])
    top, left, height, width = boxes.T
    assert boxes.min() >= 0
    assert (top + height).max() <= 300
    assert (left + width).max() <= 400
    area, ratio = height * width / 120000, width / height
    assert 0.49 < area.min() < 0.51
    assert area.max() == pytest.approx(1, abs=0.02)
    assert 0.74 < ratio.min() < 0.77
    assert 1.31 < ratio.max() < 1.34
    # Among windows that always fit (the ratio of the picture is the largest there is: those of a small area).
    small = (area < 0.55) & (ratio > 0.9) & (ratio < 1.1)
    assert abs(np.log(ratio[small]).mean()) < 0.02
    assert len(set(top.tolist())) > 50


def test_a_window_that_never_fits_is_the_largest_of_the_centre():
    # No window of half the area of a line of pixels has a ratio of at most 4/3.
    assert prompt_window(2, 200, generator()) == (0, 98, 2, 3)
    assert prompt_window(200, 2, generator()) == (98, 0, 3, 2)


def test_labels_are_cropped_with_the_picture():
    image = picture(48, 48)
    labels = np.arange(48 * 48).reshape(48, 48)
    for seed in range(5):
        _, cut = prompt_view(image, labels, 16, generator(seed))
        top, left = divmod(cut[0, 0], 48)
        box = prompt_window(48, 48, generator(seed))
        assert (top, left, *cut.shape) == box
        assert np.array_equal(cut, labels[top : top + box[2], left : left + box[3]])


def test_colours_change_as_pillow_and_colorsys_say(monkeypatch):
    monkeypatch.setattr(prompt_views, "JITTER", 0.4)
    image = picture()
    pixels = torch.from_numpy(image / 255).float()[None]
    seen = set()
    for seed in range(40):
        draw = generator(seed)
        applied = (torch.rand(4, generator=draw) < 0.5).tolist()
        changes = ((2 * torch.rand(4, generator=draw) - 1) * 0.4).tolist()
        found = jittered(pixels, generator(seed))
        if sum(applied) == 0:
            assert torch.equal(found, pixels)
        if sum(applied) != 1:
            continue
        which = applied.index(True)
        seen.add(which)
        if which < 3:
            kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[which]
            expected = np.asarray(kind(Image.fromarray(image)).enhance(1 + changes[which])) / 255
        else:
            hsv = [colorsys.rgb_to_hsv(*rgb) for rgb in (image / 255).reshape(-1, 3)]
            expected = [colorsys.hsv_to_rgb((h + changes[3]) % 1, s, v) for h, s, v in hsv]
            expected = np.array(expected).reshape(image.shape)
        np.testing.assert_allclose(found[0].numpy(), expected, atol=1.6 / 255)
    assert seen == {0, 1, 2, 3}


def test_each_change_has_probability_one_half_of_its_own(monkeypatch):
    calls = []
    monkeypatch.setattr(prompt_views, "_away", lambda pixels, origin, change: calls.append(change) or pixels)
    monkeypatch.setattr(prompt_views, "hue", lambda pixels, turn: calls.append(turn) or pixels)
    draw, counts = generator(), []
    for _ in range(1000):
        calls.clear()
        jittered(torch.zeros(1, 1, 1, 3), draw)
        counts.append(len(calls))
        assert all(abs(float(each)) <= 0.1 for each in calls)
    # Binomial of four halves: mean 2, variance 1.
    assert np.mean(counts) == pytest.approx(2, abs=0.12)
    assert np.var(counts) == pytest.approx(1, abs=0.15)
