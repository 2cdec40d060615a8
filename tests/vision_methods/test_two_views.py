"""Views: windows by their distribution, labels by the place they come from, operations by other implementations."""

import colorsys

import kornia
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.ndimage import convolve1d

from lcl.images import open_images
from vision_methods import two_views
from vision_methods.two_views import (
    PHOTOMETRIC,
    Photometric,
    blur,
    brightness,
    contrast,
    cut_labels,
    cut_views,
    draw_views,
    grey,
    hue,
    photometric_views,
    saturation,
    solarise,
)

NONE = PHOTOMETRIC["none"][0]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed))


def draw(sizes, seed=0, photometric=NONE, **options):
    return draw_views(np.asarray(sizes), generator(seed), photometric=photometric, **options)


# Windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [0.08, 0.4])
def test_windows_have_uniform_area_and_uniform_logarithm_of_aspect(least):
    side = 2000
    box = draw(np.full((10000, 2), side), least_area=least).box.double()
    assert (box[:, :2] >= 0).all()
    assert (box[:, :2] + box[:, 2:] <= side).all()
    area = box[:, 2:].prod(1) / side**2
    assert least - 0.002 < float(area.min()) < least + 0.005
    assert float(area.max()) <= 1
    # A window of less than 3/4 of a square picture is never cut, and one that is cut keeps at least that much.
    for share in np.arange(least + 0.05, 0.75, 0.05):
        assert float((area <= share).double().mean()) == pytest.approx((share - least) / (1 - least), abs=0.015)
    whole = area < 0.74
    octaves = (box[whole, 3] / box[whole, 2]).log() / np.log(4 / 3)
    assert float(octaves.abs().max()) < 1.01
    for level in (-0.5, 0.0, 0.5):
        assert float((octaves <= level).double().mean()) == pytest.approx((level + 1) / 2, abs=0.025)
    # Where it lies is uniform too.
    place = (box[whole, 0] + 0.5) / (side - box[whole, 2] + 1)
    assert float((place <= 0.25).double().mean()) == pytest.approx(0.25, abs=0.02)


def test_sides_are_cut_to_the_picture():
    box = draw(np.tile([[20, 400]], (500, 1)), least_area=0.5).box
    assert (box[:, 2] <= 20).all()
    assert (box[:, 2] == 20).any()
    assert (box[:, 3] < 400).all()


def test_drawn_by_the_generator_alone():
    sizes = np.full((50, 2), 100)
    byol = PHOTOMETRIC["byol"][1]
    for first, second in zip(draw(sizes, 3, byol), draw(sizes, 3, byol), strict=True):
        assert torch.equal(first, second)
    plain = draw(sizes, 3)
    assert torch.equal(plain.box, draw(sizes, 3, byol).box)
    assert torch.equal(plain.flip, draw(sizes, 3, byol).flip)
    assert not torch.equal(plain.box, draw(sizes, 4).box)
    shared = generator(3)  # two views of the same generator are independent
    first, second = (draw_views(sizes, shared, photometric=byol) for _ in range(2))
    assert not torch.equal(first.box, second.box)
    assert not torch.equal(first.order, second.order)


@pytest.mark.parametrize("name", PHOTOMETRIC)
@pytest.mark.parametrize("view", [0, 1])
def test_photometric_draws_have_the_stated_distribution(name, view):
    p = PHOTOMETRIC[name][view]
    drawn = draw(np.full((20000, 2), 50), 1, p)

    def share(of):
        return float(of.double().mean())

    assert share(drawn.flip) == pytest.approx(0.5, abs=0.015)
    assert share(drawn.jitter) == pytest.approx(p.jitter_probability, abs=0.015)
    assert share(drawn.grey) == pytest.approx(p.grey_probability, abs=0.015)
    assert share(drawn.solarise) == pytest.approx(p.solarise_probability, abs=0.015)
    blurred = drawn.blur_sigma[drawn.blur_sigma > 0]
    assert len(blurred) / 20000 == pytest.approx(p.blur_probability, abs=0.015)
    if len(blurred):
        assert float(blurred.min()) >= 0.1
        assert float(blurred.max()) <= 2
        assert float(blurred.mean()) == pytest.approx(1.05, abs=0.05)
    for values, amplitude, centre in (
        (drawn.brightness, p.brightness, 0),
        (drawn.contrast, p.contrast, 1),
        (drawn.saturation, p.saturation, 1),
        (drawn.hue, p.hue, 0),
    ):
        assert float((values - centre).abs().max()) <= amplitude + 1e-6
        assert float(values.std()) == pytest.approx(amplitude / 3**0.5, rel=0.02)  # of a uniform distribution
    orders, counts = drawn.order.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert (orders.sort(1).values == torch.arange(4)).all()
    assert float(counts.double().std()) < 2 * (20000 / 24) ** 0.5


def test_presets_are_the_papers():
    first, second = PHOTOMETRIC["byol"]
    for view in (first, second):
        assert (view.jitter_probability, view.brightness, view.contrast, view.saturation, view.hue) == (
            0.8,
            0.4,
            0.4,
            0.2,
            0.1,
        )
        assert view.grey_probability == 0.2
    assert (first.blur_probability, first.solarise_probability) == (1.0, 0.0)
    assert (second.blur_probability, second.solarise_probability) == (0.1, 0.2)


# Labels follow the picture -------------------------------------------------------------------------------------------


def test_picture_and_labels_come_from_the_same_place():
    """A picture whose red is its row and whose green its column, and a map whose ids are its pixels' numbers."""
    store = open_images(
        [
            np.stack(np.broadcast_arrays(np.arange(h)[:, None], np.arange(w), 0), 2).astype(np.uint8)
            for h, w in ((200, 256), (256, 180), (90, 240), (64, 64))
        ],
        min_side_px=32,
    )
    maps = [np.arange(h * w).reshape(h, w) for h, w in store.sizes]
    index = np.tile(np.arange(4), 30)
    views = draw(store.sizes[index], 5, least_area=0.05, aspect=2.0)
    assert views.flip.any()
    assert not views.flip.all()
    for side in (32, 96):
        pictures = photometric_views(cut_views(store, index, views, side), views).numpy() * 255
        labels = cut_labels([maps[i] for i in index], views, side).numpy()
        for b, picture in enumerate(index):
            width = int(store.sizes[picture, 1])
            top, left, height, across = views.box[b].tolist()
            centre = (np.arange(side) + 0.5) / side
            row, column = top + centre * height, left + centre * across
            column = column[::-1] if views.flip[b] else column
            # By the definition: the pixel that holds the centre of the place.
            expected = np.floor(row).astype(int)[:, None] * width + np.floor(column).astype(int)
            np.testing.assert_array_equal(labels[b], expected)
            # What the picture shows there: its own coordinates, half a pixel from the corner to the centre of a pixel;
            # near the border the window of the resampling is one-sided, two pixels of the picture or places wide.
            inner = tuple(slice(m := 3 + 2 * side // length, -m) for length in (height, across))
            shown = pictures[b][:, *inner]
            np.testing.assert_allclose(shown[0], np.broadcast_to(row[inner[0], None] - 0.5, shown[0].shape), atol=0.51)
            np.testing.assert_allclose(shown[1], np.broadcast_to(column[inner[1]] - 0.5, shown[1].shape), atol=0.51)
            assert np.abs(labels[b] // width - pictures[b, 0]).max() <= 1.5
            assert np.abs(labels[b] % width - pictures[b, 1]).max() <= 1.5


def test_a_flipped_view_of_labels_is_the_mirror_image():
    views = draw([[60, 80]] * 8, 2)
    maps = [np.random.default_rng(i).integers(0, 256, (60, 80), dtype=np.uint8) for i in range(8)]
    plain = cut_labels(maps, views._replace(flip=torch.zeros(8, dtype=torch.bool)), 28)
    flipped = cut_labels(maps, views._replace(flip=torch.ones(8, dtype=torch.bool)), 28)
    assert flipped.dtype == torch.int64
    assert torch.equal(flipped, plain.flip(2))


def test_nearest_labels_are_torchs_nearest_exact():
    views = draw([[61, 83]] * 20, 3)
    views = views._replace(flip=torch.zeros(20, dtype=torch.bool))
    labels = np.random.default_rng(0).integers(0, 256, (61, 83), dtype=np.uint8)
    for b, (top, left, height, width) in enumerate(views.box.tolist()):
        window = torch.from_numpy(labels[top : top + height, left : left + width].copy()).double()[None, None]
        expected = torch.nn.functional.interpolate(window, size=(37, 37), mode="nearest-exact")[0, 0]
        same = cut_labels([labels], views.part(slice(b, b + 1)), 37)[0] == expected
        # A centre between two pixels is rounded by torch in float32, to either.
        between = [(2 * torch.arange(37) + 1) * length % 74 == 0 for length in (height, width)]
        assert (same | between[0][:, None] | between[1]).all()


def test_labels_are_checked():
    views = draw([[60, 80]] * 2)
    with pytest.raises(ValueError, match="1 label maps were given for 2 views"):
        cut_labels([np.zeros((60, 80), np.uint8)], views, 8)
    with pytest.raises(ValueError, match=r"Label map 1 has shape \(80, 60\); expected \(60, 80\)"):
        cut_labels([np.zeros((60, 80)), np.zeros((80, 60))], views, 8)


def test_windows_are_resampled_as_pillow_does():
    store = open_images("builtin")
    index = np.array([0, 2, 3, 7])
    views = draw(store.sizes[index], 1)
    crops = cut_views(store, index, views, 96)
    for crop, picture, (top, left, height, width) in zip(crops, index, views.box.tolist(), strict=True):
        image = Image.fromarray(store[picture][top : top + height, left : left + width])
        expected = np.asarray(image.resize((96, 96), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        assert np.abs(crop.numpy().astype(int) - expected).max() <= 1


# Operations ----------------------------------------------------------------------------------------------------------


def test_brightness_and_contrast():
    images, amount = noise(3, 3, 9, 7), torch.tensor([-0.4, 0.0, 0.3])
    for before, shift, bright, contrasted in zip(
        images.double().numpy(),
        amount.double().numpy(),
        brightness(images, amount).numpy(),
        contrast(images, 1 + amount).numpy(),
        strict=True,
    ):
        np.testing.assert_allclose(bright, before + shift, atol=1e-6)
        mean = before.mean((1, 2), keepdims=True)
        np.testing.assert_allclose(contrasted, mean + (1 + shift) * (before - mean), atol=1e-6)


def hard_colours():
    """Random colours and all corners: black, white, greys, pure and mixed colours, ties between two of three."""
    levels = torch.tensor([0.0, 0.25, 0.5, 1.0])
    grid = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 8, 8)
    return torch.cat([grid, noise(3, 3, 8, 8)])


@pytest.mark.parametrize("seed", range(3))
def test_saturation_and_hue_are_those_of_hsv(seed):
    images = hard_colours()
    factor, turns = 2 * noise(4, seed=seed), noise(4, seed=seed + 10) - 0.5
    saturated, turned = saturation(images, factor), hue(images, turns)
    for b in range(4):
        for y in range(8):
            for x in range(8):
                h, s, v = colorsys.rgb_to_hsv(*images[b, :, y, x].double().tolist())
                expected = colorsys.hsv_to_rgb(h, min(1.0, s * float(factor[b])), v)
                np.testing.assert_allclose(saturated[b, :, y, x], expected, atol=1e-6)
                expected = colorsys.hsv_to_rgb((h + float(turns[b])) % 1.0, s, v)
                np.testing.assert_allclose(turned[b, :, y, x], expected, atol=2e-6)
    torch.testing.assert_close(saturated, kornia.enhance.adjust_saturation(images, factor), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned, kornia.enhance.adjust_hue(images, 2 * torch.pi * turns), atol=1e-5, rtol=0)


def test_neutral_amounts_change_nothing():
    images, none = hard_colours(), torch.zeros(4)
    for changed in (
        brightness(images, none),
        contrast(images, none + 1),
        saturation(images, none + 1),
        hue(images, none),
    ):
        torch.testing.assert_close(changed, images, atol=1e-6, rtol=0)


def test_grey_is_pillows_luma():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    ours = grey(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0]
    assert (ours == ours[:1]).all()
    assert np.abs(255 * ours[0].numpy() - np.asarray(Image.fromarray(pixels).convert("L"))).max() <= 0.51


def test_solarise_is_pillows():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(levels), 128))
    np.testing.assert_allclose(255 * solarise(torch.from_numpy(levels) / 255).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(("side", "taps"), [(224, 23), (112, 11), (96, 9), (40, 5), (16, 1)])
def test_blur_is_a_gaussian_of_a_tenth_of_the_side_with_black_around(side, taps):
    images, sigma = noise(3, 2, side, side), torch.tensor([0.1, 0.7, 2.0])
    blurred = blur(images, sigma)
    at = np.arange(taps) - taps // 2
    for b in range(3):
        kernel = np.exp(-(at**2) / (2 * float(sigma[b]) ** 2))
        expected = images[b].double().numpy()
        for axis in (1, 2):
            expected = convolve1d(expected, kernel / kernel.sum(), axis=axis, mode="constant")
        np.testing.assert_allclose(blurred[b], expected, atol=2e-6)
    pair = sigma[:, None].expand(-1, 2)
    expected = kornia.filters.gaussian_blur2d(images, (taps, taps), pair, border_type="constant")
    torch.testing.assert_close(blurred, expected, atol=2e-6, rtol=0)


# All together -----------------------------------------------------------------------------------------------------


def by_hand(crop, views, b):
    """One picture through float64 NumPy and colorsys, in the drawn order."""
    x = crop.double().numpy() / 255
    if views.flip[b]:
        x = x[:, :, ::-1]

    def hsv(x, change):
        pixels = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in x.reshape(3, -1).T.tolist()]
        return np.array(pixels).T.reshape(x.shape)

    amount = {name: float(getattr(views, name)[b]) for name in ("brightness", "contrast", "saturation", "hue")}
    steps = [
        lambda x: x + amount["brightness"],
        lambda x: (x - x.mean((1, 2), keepdims=True)) * amount["contrast"] + x.mean((1, 2), keepdims=True),
        lambda x: hsv(x, lambda h, s, v: (h, min(1.0, s * amount["saturation"]), v)),
        lambda x: hsv(x, lambda h, s, v: ((h + amount["hue"]) % 1.0, s, v)),
    ]
    if views.jitter[b]:
        for number in views.order[b].tolist():
            x = np.clip(steps[number](x), 0, 1)
    if views.grey[b]:
        x = np.broadcast_to(np.tensordot([0.299, 0.587, 0.114], x, 1), x.shape)
    if views.blur_sigma[b] > 0:
        radius = x.shape[1] // 20
        kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * float(views.blur_sigma[b]) ** 2))
        for axis in (1, 2):
            x = convolve1d(x, kernel / kernel.sum(), axis=axis, mode="constant")
    if views.solarise[b]:
        x = np.where(x < 0.5, x, 1 - x)
    return np.clip(x, 0, 1)


def test_every_picture_is_changed_as_drawn_for_it():
    everything = Photometric(
        jitter_probability=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.2,
        grey_probability=0.2,
        blur_probability=0.4,
        solarise_probability=0.3,
    )
    views = draw([[64, 64]] * 40, 8, everything)
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 40, 40), dtype=np.uint8))
    kept = crops.clone()
    changed = photometric_views(crops, views)
    assert torch.equal(crops, kept)
    assert changed.dtype == torch.float32
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    for b in range(40):
        difference = np.abs(changed[b].numpy() - by_hand(crops[b], views, b))
        if views.solarise[b]:  # a value within rounding of 0.5 may fall on either side: x and 1 - x hardly differ there
            assert difference.max() < 1e-4
        else:
            assert difference.max() < 1e-5


def test_batches_and_chunks_do_not_matter(monkeypatch):
    views = draw([[64, 64]] * 9, 4, PHOTOMETRIC["simclr"][0])
    crops = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (9, 3, 48, 48), dtype=np.uint8))
    whole = photometric_views(crops, views)
    alone = [photometric_views(crops[b : b + 1], views.part(slice(b, b + 1))) for b in range(9)]
    torch.testing.assert_close(whole, torch.cat(alone), atol=1e-6, rtol=0)
    monkeypatch.setattr(two_views, "CHUNK_VALUES", 2 * crops[0].numel())
    torch.testing.assert_close(whole, photometric_views(crops, views), atol=1e-6, rtol=0)
    assert photometric_views(crops[:0], views.part(slice(0, 0))).shape == (0, 3, 48, 48)


def test_grey_pictures_have_no_colour_to_change():
    views = draw([[64, 64]] * 20, 6, PHOTOMETRIC["byol"][1])
    crops = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (20, 1, 32, 32), dtype=np.uint8))
    changed = photometric_views(crops, views)
    as_colour = photometric_views(
        crops.expand(-1, 3, -1, -1), views._replace(saturation=torch.ones(20), hue=torch.zeros(20))
    )
    torch.testing.assert_close(changed.expand(-1, 3, -1, -1), as_colour, atol=1e-4, rtol=0)


def test_nothing_drawn_is_a_flip_at_most():
    views = draw([[64, 64]] * 6, 0)
    crops = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8))
    expected = torch.stack([c.flip(2) if f else c for c, f in zip(crops, views.flip, strict=True)]) / 255
    torch.testing.assert_close(photometric_views(crops, views), expected, atol=1e-7, rtol=0)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match=r"hue is 0.7; expected a number from 0 to 0.5"):
        Photometric(hue=0.7)
    with pytest.raises(ValueError, match=r"blur_probability is 1.5"):
        Photometric(blur_probability=1.5)
    with pytest.raises(ValueError, match=r"blur_sigma is \(2.0, 1.0\)"):
        Photometric(blur_sigma=(2.0, 1.0))
    with pytest.raises(ValueError, match="least_area is 0"):
        draw([[50, 50]], least_area=0)
    with pytest.raises(ValueError, match=r"aspect is 0\.5"):
        draw([[50, 50]], aspect=0.5)
    views = draw([[50, 50]] * 2)
    with pytest.raises(ValueError, match=r"torch.float32 of shape \(2, 3, 8, 8\); expected torch.uint8"):
        photometric_views(torch.zeros(2, 3, 8, 8), views)
    with pytest.raises(ValueError, match=r"shape \(3, 3, 8, 8\); expected .* \(2, 1 or 3"):
        photometric_views(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), views)
