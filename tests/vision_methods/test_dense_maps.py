"""Maps and places against PyTorch's own interpolation and the placing of pictures."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from neural_fits.placing import place
from neural_fits.vision_model import VisionModel
from vision_methods.dense_maps import (
    as_maps,
    cells_inside,
    dense_maps,
    maps_at,
    picture_window,
    pixel_places,
    pooled_features,
    size_deg_of,
)
from vision_methods.segments import SegmentedImages


def eye(input_px=32, channels=3, **options):
    return VisionModel(torch.nn.Identity(), "eye", input_px=input_px, channels=channels, layers=("output",), **options)


def photographs(folder, sizes):
    """Photographs of smooth ramps, which survive being made smaller."""
    paths = []
    for i, (height, width) in enumerate(sizes):
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([200 * y / height, 200 * x / width, np.full(y.shape, 20 * i)], -1)
        paths.append(folder / f"{i}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    n = len(paths)
    return SegmentedImages(tuple(paths), tuple(sizes), ("",) * n, ((),) * n, ("a",), ("a",))


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (64, 48), (341, 256), (63, 97), (97, 63), (16, 128)])
@pytest.mark.parametrize("input_px", [32, 33])
def test_the_window_is_where_pictures_are_placed(size, input_px):
    model = eye(input_px, background=0.0)
    white = np.full((1, *size), 255, np.uint8)
    shown = place(white, size_deg=size_deg_of(*size, model), model=model)[0, 0]
    window = picture_window(*size, model)
    lit = torch.zeros(input_px, input_px)
    lit[max(0, window.top) : window.top + window.height, max(0, window.left) : window.left + window.width] = 1
    torch.testing.assert_close(shown, lit)
    assert abs(max(window.height, window.width) - input_px) <= 1


def test_maps_of_a_square_picture_are_interpolated_as_pytorch_does():
    maps = torch.randn(3, 5, 7)
    places = pixel_places(40, 40, picture_window(40, 40, eye()))
    expected = F.interpolate(maps[None], (40, 40), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(maps_at(maps, places), expected)


def test_maps_of_pixels_are_the_picture_again(tmp_path):
    images = photographs(tmp_path, [(60, 80), (80, 60), (64, 64)])
    model = eye(40)
    found = [each["output"] for each in dense_maps(model, images, ["output"], batch_size=2)]
    assert len(found) == 3
    for i, (maps, size) in enumerate(zip(found, images.sizes, strict=True)):
        places = pixel_places(*size, picture_window(*size, model))
        back = 255 * maps_at(maps, places).movedim(0, 2).numpy()
        inner = (slice(4, -4), slice(4, -4))
        np.testing.assert_allclose(back[inner], images.picture(i)[inner], atol=3)


def test_cells_inside_are_those_whose_centres_are():
    for n in (1, 4, 7, 13):
        for start, length in ((0, 32), (3, 20), (8, 16), (15, 2), (-1, 34)):
            centres = (np.arange(n) + 0.5) * 32 / n
            inside = np.flatnonzero((centres >= start) & (centres < start + length))
            first, last = cells_inside(start, length, 32, n)
            if len(inside):
                assert (first, last) == (inside[0], inside[-1])
            else:
                assert first == last
                assert first * 32 / n <= start + length / 2 <= (first + 1) * 32 / n


def test_tokens_become_maps_row_by_row():
    maps = torch.randn(2, 8, 3, 3)
    tokens = maps.flatten(2).movedim(1, 2)
    assert torch.equal(as_maps(tokens, "block"), maps)
    assert torch.equal(as_maps(torch.cat([torch.randn(2, 1, 8), tokens], 1), "block"), maps)
    assert torch.equal(as_maps(maps, "conv"), maps)
    assert as_maps(torch.randn(2, 8), "fc").shape == (2, 8, 1, 1)
    for shape in ((2, 12, 8), (2, 3, 4, 5, 6)):
        with pytest.raises(ValueError, match=r"layer odd has shape"):
            as_maps(torch.zeros(shape), "odd")


@pytest.mark.parametrize(("n_features", "side"), [(3, 1), (2, 1), (12, 2), (300, 10), (10**6, 32)])
def test_layers_are_averaged_to_the_finest_grid_that_has_so_many_features(n_features, side):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    found = pooled_features(eye(), images, ["output"], n_features=n_features, batch_size=2)["output"]
    assert found.shape == (5, 3 * side**2)
    expected = F.adaptive_avg_pool2d(torch.from_numpy(images).movedim(3, 1) / 255, side).flatten(1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_layers_without_places_are_refused_for_pixels_alone(tmp_path):
    model = VisionModel(torch.nn.Sequential(torch.nn.Flatten()), "flat", input_px=8, layers=("0",))
    assert pooled_features(model, np.zeros((2, 8, 8, 3), np.uint8), ["0"])["0"].shape == (2, 192)
    with pytest.raises(ValueError, match="has no places"):
        next(dense_maps(model, photographs(tmp_path, [(8, 8)]), ["0"]))
    with pytest.raises(ValueError, match="n_features is 0"):
        pooled_features(model, np.zeros((2, 8, 8, 3), np.uint8), ["0"], n_features=0)
