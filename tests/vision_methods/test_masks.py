"""Label maps: what they are, when they are computed, and what a broken cache or folder does."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut
from skimage.segmentation import felzenszwalb

from lcl.images import open_images
from vision_methods import masks as module
from vision_methods.masks import MASKS, LabelMaps, fh_masks, folder_masks, grid_masks, image_masks, resize_labels
from vision_methods.two_views import PHOTOMETRIC, cut_labels, draw_views

LOGGED = """
from pathlib import Path
import numpy as np


def bands(image, *, log, width=8):
    with Path(log).open("a") as file:
        file.write("x")
    return np.broadcast_to(np.arange(image.shape[1]) // width + SHIFT, image.shape[:2])


SHIFT = 0
"""


@pytest.fixture
def store():
    """Crops of a photograph, of several sizes."""
    sizes = ((60, 80), (80, 60), (64, 64), (90, 61))
    return open_images([astronaut()[40 * i :, 50 * i :][:h, :w] for i, (h, w) in enumerate(sizes)])


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user's function in the working directory, and the file in which every call of it leaves a letter."""
    (tmp_path / "my_masks_of_test.py").write_text(LOGGED)
    monkeypatch.chdir(tmp_path)
    yield "my_masks_of_test:bands", tmp_path / "log"
    sys.modules.pop("my_masks_of_test", None)


def calls(log):
    return len(log.read_text()) if log.is_file() else 0


def run(store, user, tmp_path, **options):
    masks, log = user
    return image_masks(
        store,
        masks,
        options={"log": str(log)} | options,
        cache_dir=tmp_path / "cache",
        workers=0,
        progress=False,
    )


# What they are --------------------------------------------------------------------------------------------------------


def test_fh_is_scikit_images(store):
    maps = image_masks(store, "fh", options={"scale": 50, "min_size": 20}, progress=False)
    for image, labels in zip(store, maps, strict=True):
        expected = felzenszwalb(image, scale=50, min_size=20)
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(labels, expected)
        assert labels.dtype == np.uint8
    np.testing.assert_array_equal(fh_masks(store[0]), felzenszwalb(store[0], scale=1000, min_size=1000))
    grey = open_images([astronaut()[:60, :60, 0]], channels=1)
    np.testing.assert_array_equal(
        image_masks(grey, "fh", options={"scale": 50, "min_size": 20}, progress=False)[0],
        felzenszwalb(grey[0][:, :, 0], scale=50, min_size=20),
    )


@pytest.mark.parametrize("cells", [1, 2, 5, 16])
def test_grid_is_a_partition_into_equal_cells(cells):
    labels = grid_masks(np.zeros((80, 160, 3)), cells=cells)
    numbers, areas = np.unique(labels, return_counts=True)
    assert numbers.tolist() == list(range(cells**2))
    assert areas.tolist() == [80 * 160 // cells**2] * cells**2
    # A cell is a rectangle: number row * cells + column.
    assert (np.diff(labels, axis=0) >= 0).all()
    assert labels[0, -1] == cells - 1
    uneven = np.unique(grid_masks(np.zeros((37, 53, 3)), cells=cells), return_counts=True)[1]
    assert len(uneven) == cells**2
    assert uneven.max() <= np.ceil(37 / cells) * np.ceil(53 / cells)
    with pytest.raises(ValueError, match="cells is 17; expected 1 to 16"):
        grid_masks(np.zeros((80, 160, 3)), cells=17)


def test_whole_is_one_mask(store):
    assert all((labels == 0).all() for labels in image_masks(store, "whole", progress=False))


def test_numbers_start_again_at_256():
    image = np.zeros((20, 300, 3), np.uint8)
    (labels,) = image_masks(open_images([image], short_side_px=20), numbered, progress=False)
    np.testing.assert_array_equal(labels[0], np.arange(300) % 256)


def numbered(image):
    return np.broadcast_to(np.arange(image.shape[1]), image.shape[:2])


def test_label_maps_are_a_sequence_that_cannot_be_written(store):
    maps = image_masks(store, "grid", progress=False)
    assert [labels.shape for labels in maps] == [image.shape[:2] for image in store]
    assert len(maps[1:3]) == 2
    np.testing.assert_array_equal(maps[-1], maps[3])
    with pytest.raises(IndexError, match="There are 4 label maps, but 4 was asked for"):
        maps[4]
    with pytest.raises(ValueError, match="read-only"):
        maps[0][0, 0] = 1


def test_maps_beyond_the_cap_are_mapped_from_disk(store):
    mapped = image_masks(store, "grid", memory_cap_bytes=1000, progress=False)
    assert mapped.memory_mapped
    plain = image_masks(store, "grid", progress=False)
    assert not plain.memory_mapped
    assert all(np.array_equal(one, other) for one, other in zip(mapped, plain, strict=True))
    with pytest.raises(OSError, match=r"Label maps need 1000000000\.0 GB, but .* GB free"):
        LabelMaps(np.array([[10**9, 10**9]]), memory_cap_bytes=0)


def test_masks_follow_a_view(store):
    maps = image_masks(store, "grid", options={"cells": 2}, progress=False)
    views = draw_views(store.sizes, torch.Generator().manual_seed(0), photometric=PHOTOMETRIC["none"][0])
    views = views._replace(flip=torch.ones(4, dtype=torch.bool))
    for labels, (top, left, height, width), (h, w) in zip(
        cut_labels(list(maps), views, 16), views.box.tolist(), store.sizes.tolist(), strict=True
    ):
        centre = (np.arange(16) + 0.5) / 16
        row, column = top + np.floor(centre * height), left + np.floor(centre * width)
        expected = 2 * (row * 2 >= h)[:, None] + (column * 2 >= w)[::-1]
        np.testing.assert_array_equal(labels, expected)


# When they are computed -----------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(store, user, tmp_path):
    first = run(store, user, tmp_path)
    assert (first.found, first.computed, calls(user[1])) == (0, 4, 4)
    assert repr(first) == "4 label maps, 0 found and 4 computed"
    again = run(store, user, tmp_path)
    assert (again.found, again.computed, calls(user[1])) == (4, 0, 4)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    # In any order and company: it is the picture that counts.
    some = run(open_images([store[3], store[0], np.zeros((50, 50, 3), np.uint8)]), user, tmp_path)
    assert (some.found, some.computed) == (2, 1)
    np.testing.assert_array_equal(some[0], first[3])


def test_other_options_other_code_and_other_pictures_are_computed_again(store, user, tmp_path):
    first = run(store, user, tmp_path)
    wider = run(store, user, tmp_path, width=16)
    assert (wider.computed, calls(user[1])) == (4, 8)
    assert not np.array_equal(first[0], wider[0])
    changed = store[0].copy()
    changed[5, 5, 1] ^= 1
    assert run(open_images([changed, store[1]]), user, tmp_path).computed == 1
    assert calls(user[1]) == 9
    sys.modules.pop("my_masks_of_test")
    (tmp_path / "my_masks_of_test.py").write_text(LOGGED.replace("SHIFT = 0", "SHIFT = 100"))
    shifted = run(store, user, tmp_path)
    assert shifted.computed == 4
    np.testing.assert_array_equal(shifted[0], first[0] + 100)


def test_cached_maps_are_pngs_with_nothing_beside_them(store, tmp_path):
    image_masks(store, "fh", options={"scale": 50, "min_size": 20}, cache_dir=tmp_path, progress=False)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {path.suffix for path in files} == {".png"}
    shapes = sorted(np.asarray(Image.open(path)).shape for path in files)
    assert shapes == sorted(image.shape[:2] for image in store)


def test_half_written_files_are_never_read(store, user, tmp_path, monkeypatch):
    first = run(store, user, tmp_path)
    files = sorted((tmp_path / "cache").rglob("*.png"))
    whole = [path.read_bytes() for path in files]
    files[0].write_bytes(whole[0][: len(whole[0]) // 2])
    files[1].write_bytes(b"")
    Image.new("L", (3, 3)).save(files[2])
    again = run(store, user, tmp_path)
    assert (again.found, again.computed) == (1, 3)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert [path.read_bytes() for path in files] == whole

    # A stop in the middle of writing leaves nothing under the name.
    files[0].unlink()
    save = Image.Image.save

    def interrupted(self, path, *rest):
        save(self, path, *rest)
        Path(path).write_bytes(Path(path).read_bytes()[:20])
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(store, user, tmp_path)
    assert sorted((tmp_path / "cache").rglob("*.*")) == files[1:]


def test_what_was_computed_before_a_stop_is_kept(store, user, tmp_path, monkeypatch):
    labels_of = module._labels
    seen = []

    def fails_at_third(*arguments):
        seen.append(1)
        if len(seen) == 3:
            raise MemoryError
        return labels_of(*arguments)

    monkeypatch.setattr(module, "_labels", fails_at_third)
    with pytest.raises(MemoryError):
        run(store, user, tmp_path)
    monkeypatch.undo()
    sys.path.insert(0, str(tmp_path))
    try:
        resumed = run(store, user, tmp_path)
    finally:
        sys.path.remove(str(tmp_path))
    assert (resumed.found, resumed.computed) == (2, 2)


def test_processes_give_what_this_one_gives(user, tmp_path):
    pictures = open_images([astronaut()[i : i + 40, 2 * i : 2 * i + 50] for i in range(40)])
    masks, log = user
    here = image_masks(pictures, masks, options={"log": str(log)}, workers=0, progress=False)
    there = image_masks(
        pictures, masks, options={"log": str(log)}, workers=2, cache_dir=tmp_path / "cache", progress=False
    )
    assert there.computed == 40
    assert calls(log) == 80
    assert all(np.array_equal(one, other) for one, other in zip(here, there, strict=True))
    again = image_masks(
        pictures, masks, options={"log": str(log)}, workers=2, cache_dir=tmp_path / "cache", progress=False
    )
    assert (again.found, calls(log)) == (40, 80)
    with pytest.raises(ValueError, match=r"cannot be sent to other processes .* workers=0"):
        image_masks(pictures, lambda image: image[..., 0], workers=2, progress=False)
    assert image_masks(pictures, lambda image: image[..., 0], workers=0, progress=False).computed == 40


def test_a_bar_is_shown_when_asked_for(store, capsys):
    image_masks(store, "grid", progress=True)
    assert "masks (grid): 100%" in capsys.readouterr().err
    image_masks(store, "grid", progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "wrong",
    [lambda image: image, lambda image: image[..., 0] / 2, lambda image: image[:5, :5, 0]],
    ids=["colours", "floats", "small"],
)
def test_what_a_function_returns_is_checked(store, wrong):
    with pytest.raises(ValueError, match=r"<lambda> returned .* expected whole numbers of shape \(60, 80\)"):
        image_masks(store, wrong, progress=False)


def test_unknown_masks_are_named(store, tmp_path):
    with pytest.raises(ValueError, match=r"masks is 'no_such_module:f', which cannot be found"):
        image_masks(store, "no_such_module:f", progress=False)
    with pytest.raises(ValueError, match=r"masks is 'numpy:no_such', which cannot be found"):
        image_masks(store, "numpy:no_such", progress=False)
    with pytest.raises(
        FileNotFoundError, match=r"'slic', which is no folder; expected fh, grid, whole, module:function"
    ):
        image_masks(store, "slic", progress=False)
    with pytest.raises(ValueError, match=r"options are \{'cells': 3\}, but masks is the folder"):
        image_masks(store, str(tmp_path), options={"cells": 3}, progress=False)
    assert list(MASKS) == ["fh", "grid", "whole"]


# Ground truth ---------------------------------------------------------------------------------------------------------


def ground_truth(folder, names=("a/one", "a/two", "b/one"), size=(40, 60)):
    truth = {}
    for i, name in enumerate(names):
        for kind in ("pictures", "truth"):
            (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(astronaut()[i : i + size[0], : size[1]]).save(folder / "pictures" / f"{name}.jpg")
        truth[f"{name}.jpg"] = np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(truth[f"{name}.jpg"]).save(folder / "truth" / f"{name}.png")
    return truth


def test_ground_truth_belongs_to_the_picture_of_its_name(tmp_path):
    truth = ground_truth(tmp_path)
    store = open_images(str(tmp_path / "pictures"))
    for maps in (
        folder_masks(store, tmp_path / "truth", progress=False),
        image_masks(store, str(tmp_path / "truth"), progress=False),
    ):
        assert (maps.found, maps.computed) == (3, 0)
        for name, labels in zip(store.names, maps, strict=True):
            np.testing.assert_array_equal(labels, truth[name])


def test_ground_truth_with_a_palette_one_bit_and_sixteen_bits(tmp_path):
    ground_truth(tmp_path)
    numbers = np.arange(2400).reshape(40, 60) % 7
    palette = Image.fromarray(numbers.astype(np.uint8))
    palette.putpalette([5 * i % 256 for i in range(768)])
    palette.save(tmp_path / "truth/a/one.png")
    Image.fromarray(numbers > 3).save(tmp_path / "truth/a/two.png")
    Image.fromarray((1000 + numbers).astype(np.uint16)).save(tmp_path / "truth/b/one.png")
    one, two, other = folder_masks(open_images(str(tmp_path / "pictures")), tmp_path / "truth", progress=False)
    np.testing.assert_array_equal(one, numbers)
    np.testing.assert_array_equal(two, numbers > 3)
    np.testing.assert_array_equal(other, (1000 + numbers) % 256)


def test_ground_truth_is_scaled_with_its_picture(tmp_path):
    ground_truth(tmp_path, size=(100, 151))
    blocks = np.kron(np.arange(6).reshape(2, 3), np.ones((50, 51), int))[:, :151].astype(np.uint8)
    Image.fromarray(blocks).save(tmp_path / "truth/a/one.png")
    store = open_images(str(tmp_path / "pictures"), short_side_px=40)
    labels = folder_masks(store, tmp_path / "truth", progress=False)[0]
    assert labels.shape == store[0].shape[:2] == (40, 60)
    expected = np.asarray(Image.fromarray(blocks).resize((60, 40), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(labels, expected)


def test_ground_truth_that_does_not_match_is_named(tmp_path):
    ground_truth(tmp_path)
    store = open_images(str(tmp_path / "pictures"))
    (tmp_path / "truth/b/one.png").unlink()
    with pytest.raises(
        ValueError, match=r"1 of 3 pictures have no label map .* such as 'b/one\.jpg'; expected b/one\.png"
    ):
        folder_masks(store, tmp_path / "truth", progress=False)
    Image.new("RGB", (60, 40)).save(tmp_path / "truth/b/one.png")
    with pytest.raises(ValueError, match=r"one\.png has mode RGB; expected one number per pixel"):
        folder_masks(store, tmp_path / "truth", progress=False)
    Image.new("L", (40, 60)).save(tmp_path / "truth/b/one.png")
    with pytest.raises(ValueError, match=r"one\.png has 60 x 40 px, but its picture 40 x 60"):
        folder_masks(store, tmp_path / "truth", progress=False)
    (tmp_path / "truth/b/one.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"one\.png cannot be read .* expected a PNG file"):
        folder_masks(store, tmp_path / "truth", progress=False)
    with pytest.raises(FileNotFoundError, match="which is no folder"):
        folder_masks(store, tmp_path / "nowhere", progress=False)


def test_resize_labels_is_pillows_nearest():
    labels = np.random.default_rng(0).integers(0, 256, (45, 63), dtype=np.uint8)
    for size in ((30, 40), (90, 128), (45, 63), (7, 200)):  # of odd sides, no centre falls between two pixels
        expected = np.asarray(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))
        np.testing.assert_array_equal(resize_labels(labels, size), expected)
