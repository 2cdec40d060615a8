import io
import json
import os
import tarfile
import threading
import warnings
from importlib import metadata
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from lcl.images import BUILTIN, builtin_images, open_images

LUMA = np.array([0.299, 0.587, 0.114])


def picture(height=40, width=60, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def reasons(store):
    return {name: reason.partition(":")[0] for name, reason in store.left_out}


@pytest.fixture
def one(tmp_path):
    """Open a folder that holds one picture."""

    def open_one(write, name="a.png", **options):
        write(tmp_path / name)
        return open_images(tmp_path, **options)

    return open_one


# ---------------------------------------------------------------------------------------------------------------------
# Built-in photographs


def test_builtin_photographs_are_what_the_list_says():
    for photograph, image in zip(BUILTIN, builtin_images(), strict=True):
        assert image.dtype == np.uint8
        assert image.shape[:2] == (photograph.height_px, photograph.width_px)
        assert (image.ndim == 3) == photograph.colour
        if photograph.colour:
            assert (image[..., 0] != image[..., 2]).any(), f"{photograph.name} is grey"
        assert image.std() > 15, f"{photograph.name} is nearly blank"
        assert photograph.licence
        assert photograph.source
    assert len({photograph.name for photograph in BUILTIN}) == len(BUILTIN) == 12


def test_builtin_photographs_are_files_of_the_installed_packages():
    shipped = {str(file) for name in ("scikit-image", "scikit-learn") for file in metadata.files(name) or ()}
    assert {f"{photograph.package}/{photograph.path}" for photograph in BUILTIN} <= shipped


def test_builtin_equals_what_the_packages_load():
    from skimage import data

    images = dict(zip((photograph.name for photograph in BUILTIN), builtin_images(), strict=True))
    np.testing.assert_array_equal(images["chelsea"], data.chelsea())
    np.testing.assert_array_equal(images["coins"], data.coins())
    store = open_images("builtin")
    assert store.names == tuple(images)
    np.testing.assert_array_equal(store[store.names.index("coffee")], data.coffee())


# ---------------------------------------------------------------------------------------------------------------------
# The store


def test_crops_equal_slices_of_each_picture():
    pictures = [picture(40 + 7 * i, 90 - 11 * i, seed=i) for i in range(5)]
    store = open_images(pictures)
    rng = np.random.default_rng(1)
    index = rng.integers(0, 5, 200)
    top, left = (rng.integers(0, store.sizes[index, axis] - 17 + 1) for axis in (0, 1))
    crops = store.crops(index, top, left, 17)
    assert crops.shape == (200, 17, 17, 3)
    for crop, i, t, x in zip(crops, index, top, left, strict=True):
        np.testing.assert_array_equal(crop, pictures[i][t : t + 17, x : x + 17])
    crops[...] = 0  # a copy: the store keeps its pixels
    np.testing.assert_array_equal(store[2], pictures[2])


def test_crops_reach_every_edge_and_take_tensors():
    store = open_images([picture(20, 30), picture(20, 20, seed=1)], channels=1)
    crops = store.crops(torch.tensor([0, 0, 1]), torch.tensor([0, 10, 0]), torch.tensor([20, 0, 10]), 10)
    np.testing.assert_array_equal(crops[0], store[0][:10, 20:])
    np.testing.assert_array_equal(crops[1], store[0][10:, :10])
    np.testing.assert_array_equal(crops[2], store[1][:10, 10:])
    np.testing.assert_array_equal(store.crops([1], [0], [0], 20)[0], store[1])
    assert store.crops([], [], [], 8).shape == (0, 8, 8, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (([0], [31], [0], 10), ValueError, r"10 x 10 px at \(31, 0\) in a picture of 40 x 60"),
        (([0], [0], [-1], 10), ValueError, r"at \(0, -1\)"),
        (([0], [0], [0], 0), ValueError, "0 x 0"),
        (([1], [0], [0], 10), IndexError, "0 to 0"),
        (([-1], [0], [0], 10), IndexError, "0 to 0"),
        (([0, 0], [0], [0], 10), ValueError, "same shape"),
        (([0], [0.5], [0], 10), ValueError, "whole numbers"),
    ],
)
def test_crops_refuses_what_is_outside(arguments, error, match):
    with pytest.raises(error, match=match):
        open_images([picture()]).crops(*arguments)


def test_store_is_read_only():
    store = open_images([picture()])
    with pytest.raises(ValueError, match="read-only"):
        store[0][0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        store.sizes[0] = 1
    with pytest.raises(IndexError):
        store[1]
    np.testing.assert_array_equal(store[-1], store[0])


def test_subset_shares_pixels():
    store = open_images([picture(seed=i) for i in range(4)])
    held_out = store.subset([3, 1])
    assert held_out.names == ("array 3", "array 1")
    assert np.shares_memory(held_out[0], store[3])
    np.testing.assert_array_equal(held_out.crops([1], [2], [3], 8), store.crops([1], [2], [3], 8))
    assert held_out.nbytes == store.nbytes // 2
    assert "2 of 4 pictures of 4 arrays" in held_out.summary()
    for bad in ([], [True, False, True, True], [0.0]):
        with pytest.raises(ValueError, match="indices must be"):
            store.subset(bad)
    with pytest.raises(IndexError, match="0 to 3"):
        store.subset([4])


# ---------------------------------------------------------------------------------------------------------------------
# Unusual pictures


def test_colour_and_grey(tmp_path):
    colour, grey = picture(), picture(channels=1)
    save(tmp_path / "colour.png", colour)
    save(tmp_path / "grey.png", grey)
    rgb, luma = open_images(tmp_path), open_images(tmp_path, channels=1)
    np.testing.assert_array_equal(rgb[0], colour)
    np.testing.assert_array_equal(rgb[1], np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(luma[1][..., 0], grey)
    assert np.abs(luma[0][..., 0] - colour @ LUMA).max() <= 1
    assert rgb.notes == {"grey replicated": 1}
    assert luma.notes == {"colour to luma": 1}
    assert rgb.nbytes == 3 * luma.nbytes == 2 * 40 * 60 * 3


def test_downscaling_is_antialiased_and_keeps_the_aspect(one):
    stripes = np.zeros((200, 300), np.uint8)
    stripes[:, ::2] = 255  # beyond the resolution of the smaller picture: any aliasing would show as contrast
    store = one(lambda path: save(path, stripes), short_side_px=50, channels=1)
    assert store.sizes.tolist() == [[50, 75]]
    assert abs(store[0].mean() - 127.5) < 2
    assert store[0].std() < 2
    assert store.notes == {"downscaled": 1}


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_downscaled_file_resembles_area_means(one, kind):
    y, x = np.mgrid[:480, :640] / 480
    smooth = np.stack([255 * x / x.max(), 127.5 + 100 * np.sin(6 * y), 255 * y], axis=2).astype(np.uint8)
    store = one(lambda path: save(path, smooth), f"a.{kind}", short_side_px=60)
    means = smooth.reshape(60, 8, 80, 8, 3).mean(axis=(1, 3))
    assert store[0].shape == means.shape
    assert np.abs(store[0] - means).mean() < 2


def test_panorama_beyond_the_limit_of_pillow(one, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the same code path as a 200 megapixel file, in milliseconds
    store = one(lambda path: save(path, picture(10, 20_000, 1)), channels=1)
    assert store.sizes.tolist() == [[10, 20_000]]
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_pillow_is_put_back_after_an_error_and_by_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    save(tmp_path / "good.png", picture())
    whole = save(tmp_path / "whole.png", picture(100, 100)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with pytest.raises(ValueError, match="No usable"):
        open_images(tmp_path, min_side_px=500)
    stores: list = [None] * 4

    def work(i):
        stores[i] = open_images(tmp_path)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(reasons(store) == {"cut.png": "unreadable"} for store in stores)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert list(warnings.filters) == filters


def test_gigapixel_is_refused_by_its_header(tmp_path):
    save(tmp_path / "good.png", picture())
    (tmp_path / "huge.pgm").write_bytes(b"P5 40000 40000 255\n" + bytes(100))
    store = open_images(tmp_path)
    assert store.left_out == (("huge.pgm", "larger than 1 gigapixel: 40000 x 40000"),)


def test_files_that_are_not_kept(tmp_path):
    save(tmp_path / "good.png", picture())
    save(tmp_path / "tiny.png", picture(7, 90))
    whole = save(tmp_path / "whole.jpg", picture(200, 200)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "stub.jpg").write_bytes(whole[:40])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "empty").touch()
    (tmp_path / "readme.txt").write_text("P1 plants, a list")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "figure.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\n")
    (tmp_path / "broken link.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / ".hidden.png").write_bytes((tmp_path / "good.png").read_bytes())
    store = open_images(tmp_path, min_side_px=8)
    assert store.names == ("good.png", "whole.jpg")
    assert reasons(store) == {
        "tiny.png": "smaller than 8 px",
        "cut.jpg": "unreadable",
        "stub.jpg": "unreadable",
        "text.jpg": "unreadable",
        "empty.jpg": "empty file",
        "empty": "not an image file",
        "readme.txt": "not an image file",
        "table.csv": "not an image file",
        "figure.eps": "not an image file",
        "broken link.png": "unreadable",
    }
    assert "4 not an image file ('empty', 'figure.eps', 'readme.txt', ...)" in store.summary()
    # the truncated file is discovered after its place was reserved, and leaves nothing behind
    assert store.nbytes == sum(view.nbytes for view in store) == 3 * (40 * 60 + 200 * 200)


def test_permission_denied(tmp_path):
    save(tmp_path / "good.png", picture())
    locked = save(tmp_path / "locked.png", picture())
    locked.chmod(0)
    if os.access(locked, os.R_OK):
        pytest.skip("this user may read every file")
    assert open_images(tmp_path).left_out == (("locked.png", "permission denied"),)


def test_cmyk(one):
    flat = np.zeros((20, 20, 4), np.uint8)
    flat[..., 0] = 255  # full cyan ink takes away all red and nothing else
    store = one(lambda path: Image.fromarray(flat, "CMYK").save(path), "a.tif")
    np.testing.assert_array_equal(store[0][0, 0], [0, 255, 255])
    assert store.notes == {"CMYK converted": 1}


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bit(one, kind):
    values = np.tile(np.array([0, 257, 128 * 257, 65535], np.uint16), (8, 3))
    store = one(lambda path: save(path, values), f"a.{kind}", channels=1)
    assert store[0][0, :4, 0].tolist() == [0, 1, 128, 255]
    assert store.notes == {"16-bit scaled": 1}


def test_big_endian_sixteen_bit_tiff(one):
    from skimage import io as skio

    values = np.array([[0, 257], [128 * 257, 65535]], ">u2").repeat(8, 0).repeat(8, 1)
    store = one(lambda path: skio.imsave(path, values, check_contrast=False), "a.tif", channels=1)
    assert store[0][::8, ::8, 0].tolist() == [[0, 1], [128, 255]]


def test_floating_point_tiff(tmp_path):
    save(tmp_path / "a.tif", np.tile(np.array([0.0, 0.5, 1.0], np.float32), (5, 2)))
    save(tmp_path / "b.tif", np.full((5, 5), 37.0, np.float32))
    store = open_images(tmp_path, channels=1)
    assert store[0][0, :3, 0].tolist() == [0, 128, 255]
    assert (
        dict(store.left_out)["b.tif"] == "unreadable: the file has values from 37 to 37; expected 0..1: rescale them."
    )
    assert store.notes == {"floating point scaled": 1}


def test_palette_and_one_bit(tmp_path):
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[:8], colours[8:] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    Image.fromarray(np.eye(16, dtype=bool)).save(tmp_path / "bits.png")
    store = open_images(tmp_path)
    np.testing.assert_array_equal(store[0][..., 0], 255 * np.eye(16))
    np.testing.assert_array_equal(store[1], colours)
    assert store.notes == {"1-bit expanded": 1, "palette expanded": 1, "grey replicated": 1}


@pytest.mark.parametrize("kind", ["gif", "tif", "webp", "png"])
def test_first_of_several_frames(one, kind):
    frames = [Image.fromarray(np.full((16, 24), value, np.uint8)) for value in (200, 50, 0)]
    options = {"lossless": True} if kind == "webp" else {}
    store = one(lambda path: frames[0].save(path, save_all=True, append_images=frames[1:], **options), f"a.{kind}")
    assert store.sizes.tolist() == [[16, 24]]
    assert (store[0] == 200).all()
    assert store.notes["first frame of several"] == 1


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(one, kind, orientation):
    # EXIF 2.32: which edge of the scene row 0 and column 0 of the stored pixels are
    seen = np.array([[0, 60], [120, 240]], np.uint8).repeat(16, 0).repeat(24, 1)
    stored = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.T,
        6: np.rot90(seen, 1),
        7: seen[::-1, ::-1].T,
        8: np.rot90(seen, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "webp" else {"quality": 95} if kind == "jpg" else {}
    store = one(lambda path: save(path, np.ascontiguousarray(stored), exif=exif, **options), f"a.{kind}", channels=1)
    assert store.sizes.tolist() == [[32, 48]]
    assert np.abs(store[0][..., 0].astype(int) - seen).max() <= 3
    assert store.notes.get("EXIF rotated", 0) == (orientation > 1)


def test_exif_orientation_with_downscaling(one):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.zeros((200, 400), np.uint8)
    wide[:, :200] = 250
    store = one(lambda path: save(path, wide, exif=exif), "a.jpg", channels=1, short_side_px=50)
    assert store.sizes.tolist() == [[100, 50]]
    assert store[0][:45].min() > 240
    assert store[0][55:].max() < 10


def test_broken_exif_does_not_lose_the_picture(one):
    store = one(lambda path: save(path, picture(), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"), "a.jpg")
    assert len(store) == 1


def test_alpha_is_composited_over_mid_grey(tmp_path):
    rgba = np.full((10, 10, 4), 255, np.uint8)
    rgba[:5, :, 3], rgba[5, :, 3] = 0, 127
    save(tmp_path / "rgba.png", rgba)
    save(tmp_path / "grey alpha.png", np.ascontiguousarray(rgba[..., 2:]))
    opaque = rgba.copy()
    opaque[..., 3] = 255
    save(tmp_path / "opaque.png", opaque)
    palette = Image.new("P", (10, 10), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.paste(1, (0, 5, 10, 10))
    palette.save(tmp_path / "palette.png", transparency=b"\x00\xff")
    store = open_images(tmp_path)
    pixels = dict(zip(store.names, store, strict=True))
    for name in ("rgba.png", "grey alpha.png"):
        assert (pixels[name][:5] == 128).all()
        assert np.abs(pixels[name][5].astype(int) - (128 + 127) * 0.75).max() <= 1
        assert (pixels[name][6:] == 255).all()
    assert (pixels["opaque.png"] == 255).all()
    assert pixels["palette.png"][[0, 9], 0].tolist() == [[128, 128, 128], [0, 255, 0]]
    assert store.notes["alpha over mid-grey"] == 3


def test_file_without_extension_is_known_by_its_content(one):
    assert one(lambda path: save(path, picture(), format="PNG"), "photograph").names == ("photograph",)


# ---------------------------------------------------------------------------------------------------------------------
# Folders, lists, shards, HDF5


def test_folder_is_read_in_depth_and_in_order(tmp_path):
    for name in ("b/z.png", "b/a.png", "a/ö 山.png", "c.PNG", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, picture())
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    store = open_images(tmp_path)
    assert store.names == ("a/ö 山.png", "b/a.png", "b/z.png", "c.PNG")
    assert open_images(str(tmp_path) + os.sep).names == store.names


def test_result_does_not_depend_on_workers(tmp_path):
    for i in range(30):
        save(tmp_path / f"{i:02d}.png", picture(20 + i, 90 - i, seed=i))
    (tmp_path / "10.png").write_bytes((tmp_path / "11.png").read_bytes()[:200])
    a, b = open_images(tmp_path, workers=1), open_images(tmp_path, workers=8)
    assert a.names == b.names == tuple(f"{i:02d}.png" for i in range(30) if i != 10)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(x, picture(*x.shape[:2], seed=int(a.names[i][:2])))


def test_arrays_and_tensors_of_every_kind():
    grey, colour = picture(channels=1), picture()
    store = open_images(
        [
            grey,
            colour,
            np.moveaxis(colour, 2, 0),
            torch.from_numpy(np.moveaxis(colour, 2, 0).copy()),
            torch.from_numpy(colour).permute(2, 0, 1).float() / 255,
            colour.astype(np.uint16) * 257,
            (colour / 255).astype(np.float64),
            torch.tensor(grey / 255, dtype=torch.bfloat16),
            grey > 127,
        ]
    )
    for i in range(1, 7):
        np.testing.assert_array_equal(store[i], colour)
    np.testing.assert_array_equal(store[0], np.repeat(grey[..., None], 3, 2))
    assert np.abs(store[7].astype(int) - store[0]).max() <= 1
    np.testing.assert_array_equal(store[8][..., 0], 255 * (grey > 127))
    np.testing.assert_array_equal(open_images(np.stack([colour, colour]))[1], colour)


def test_list_of_paths_and_arrays(tmp_path):
    path = save(tmp_path / "a.png", picture())
    store = open_images([path, picture(seed=1), str(path)])
    assert store.names == (str(path), "array 1", str(path))
    np.testing.assert_array_equal(store[2], picture())
    assert "2 files" in store.summary()
    assert open_images(path).names == (str(path),)


def shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def encoded(array, kind="png"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def test_shards(tmp_path):
    for i in range(3):
        members = {f"{i}{j}.png": encoded(picture(20, 30 + j, seed=10 * i + j)) for j in range(4)}
        members |= {
            f"{i}0.cls": b"7",
            f"{i}0.json": b"{}",
            f"{i}9.jpg": b"broken",
            f"{i}8.tif": encoded(picture(), "tiff"),
        }
        shard(tmp_path / f"shard-{i:03d}.tar", members)
    store = open_images(f"{tmp_path}/shard-{{000..002}}.tar")
    assert store.names[:5] == tuple(f"shard-000.tar/{n}" for n in ("00.png", "01.png", "02.png", "03.png", "08.tif"))
    assert len(store) == 15
    np.testing.assert_array_equal(store[6], picture(20, 31, seed=11))
    assert set(reasons(store)) == {f"shard-00{i}.tar/{i}9.jpg" for i in range(3)}
    assert open_images(f"{tmp_path}/*.tar").names == store.names
    assert len(open_images(tmp_path / "shard-001.tar")) == 5
    assert len(open_images(f"{tmp_path}/shard-{{000,002}}.tar")) == 10


def test_shards_agree_with_webdataset(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"{i:03d}", "png": picture(seed=i), "cls": i})
    store = open_images(tmp_path / "a.tar")
    assert store.names == ("a.tar/000.png", "a.tar/001.png", "a.tar/002.png")
    for i, pixels in enumerate(store):
        np.testing.assert_array_equal(pixels, picture(seed=i))


def test_truncated_shard_keeps_what_is_whole(tmp_path):
    path = shard(tmp_path / "a.tar", {f"{i}.png": encoded(picture(seed=i)) for i in range(4)})
    path.write_bytes(path.read_bytes()[:25_000])
    store = open_images(path)
    assert 1 <= len(store) < 4
    assert reasons(store)["a.tar"] == "truncated shard"


def test_shards_that_cannot_be_read(tmp_path):
    shard(tmp_path / "shard-0.tar", {"0.png": encoded(picture())})
    with pytest.raises(FileNotFoundError, match=r"2 of 3 do not exist, first .*shard-1.tar"):
        open_images(f"{tmp_path}/shard-{{0..2}}.tar")
    with pytest.raises(FileNotFoundError, match="none"):
        open_images(f"{tmp_path}/missing-*.tar")
    with tarfile.open(tmp_path / "b.tar", "w:gz") as tar:
        tar.add(tmp_path / "shard-0.tar", "x")
    with pytest.raises(ValueError, match="uncompressed"):
        open_images(tmp_path / "b.tar")


@pytest.mark.parametrize("kind", ["grey", "last", "first", "float", "uint16"])
def test_hdf5(tmp_path, kind):
    stack = np.stack([picture(channels=1 if kind == "grey" else 3, seed=i) for i in range(3)])
    stored = {
        "first": np.moveaxis(stack, 3, 1) if stack.ndim == 4 else stack,
        "float": (stack / 255).astype(np.float32),
        "uint16": stack.astype(np.uint16) * 257,
    }.get(kind, stack)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("group/images", data=stored, chunks=True, compression="gzip")
        file["labels"] = np.arange(3)
    store = open_images(tmp_path / "a.h5")
    expected = stack if stack.ndim == 4 else np.repeat(stack[..., None], 3, 3)
    np.testing.assert_array_equal(np.stack(list(store)), expected)
    assert store.names == ("group/images[0]", "group/images[1]", "group/images[2]")
    assert open_images(f"{tmp_path}/a.h5:/group/images").names == store.names
    with pytest.raises(ValueError, match=r"'/labels' .* has shape \(3,\), int64; expected .*/group/images"):
        open_images(f"{tmp_path}/a.h5:/labels")
    with pytest.raises(ValueError, match=r"'/nothing' .* is no dataset"):
        open_images(f"{tmp_path}/a.h5:/nothing")


def test_hdf5_errors(tmp_path):
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"] = np.zeros((2, 10, 12), np.float32)
        file["b"] = np.full((2, 10, 12), 2.5, np.float32) * np.array([1, -1], np.float32)[:, None, None]
    with pytest.raises(ValueError, match=r"exactly one dataset.*/a \(2, 10, 12\), /b \(2, 10, 12\)"):
        open_images(tmp_path / "two.h5")
    with pytest.raises(ValueError, match=r"b\[0\] has values from 2.5 to 2.5; expected 0..1"):
        open_images(f"{tmp_path}/two.h5:b")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        open_images(f"{tmp_path}/text.h5:a")
    with pytest.raises(FileNotFoundError, match="No HDF5 file"):
        open_images(f"{tmp_path}/missing.h5:a")


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda folder: folder / "missing", FileNotFoundError, "No images at '.*missing': expected 'builtin'"),
        (lambda folder: folder, ValueError, "is empty"),
        (lambda folder: [], ValueError, "list of images is empty"),
        (lambda folder: 7, ValueError, "type int is not known"),
        (lambda folder: [folder / "no.png"], FileNotFoundError, "Item 0 of the list, .*no.png', does not exist"),
        (lambda folder: [folder], ValueError, "is a folder"),
        (lambda folder: [np.zeros((3, 4, 5, 6), np.uint8)], ValueError, r"array 0 has shape \(3, 4, 5, 6\)"),
        (lambda folder: [np.zeros((9, 9, 2), np.uint8)], ValueError, "1, 3 or 4 channels"),
        (lambda folder: [np.zeros((9, 9), np.int64)], ValueError, "array 0 is int64; expected uint8"),
        (lambda folder: [np.zeros((9, 9), np.int32)], ValueError, "array 0 is int32; expected uint8"),
        (lambda folder: [np.linspace(-1, 2, 81).reshape(9, 9)], ValueError, "values from -1 to 2; expected 0..1"),
        (lambda folder: [np.full((9, 9), np.nan)], ValueError, "values from nan"),
        (
            lambda folder: [picture(20, 90), picture(31, 40)],
            ValueError,
            "largest short side is 31 px and min_side_px=32",
        ),
    ],
)
def test_sources_that_fail(tmp_path, make, error, match):
    with pytest.raises(error, match=match) as caught:
        open_images(make(tmp_path), min_side_px=32 if "32" in match and "int32" not in match else 1)
    assert "\n" not in str(caught.value)


def test_folder_of_text(tmp_path):
    for name in ("a.txt", "b.md", "c.tar", "d"):
        (tmp_path / name).write_text("text")
    with pytest.raises(ValueError, match=r"4 not an image file \('a.txt', 'b.md', 'c.tar', ...\); give tar shards as"):
        open_images(tmp_path)


def test_every_picture_fails_while_decoding(tmp_path):
    whole = encoded(picture(200, 200), "jpeg")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"No usable picture in .*: 1 unreadable \('cut.jpg'\)"):
        open_images(tmp_path, memory_cap_bytes=0, store_dir=tmp_path.parent / "kept")
    assert not list((tmp_path.parent / "kept").iterdir())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"channels": 2}, "channels=2"),
        ({"short_side_px": 0}, "short_side_px=0"),
        ({"min_side_px": 600}, "min_side_px=600 is larger than short_side_px=512"),
        ({"workers": 0}, "workers=0"),
        ({"store_cap_bytes": 10}, "store_cap_bytes=10 holds not even the smallest"),
    ],
)
def test_impossible_options(options, match):
    with pytest.raises(ValueError, match=match):
        open_images([picture()], **options)


# ---------------------------------------------------------------------------------------------------------------------
# Bounds and the store on disk


def test_store_cap_keeps_a_seeded_subset():
    pictures = [picture(10, 10, 1, seed=i) for i in range(40)]
    a, b, c = (open_images(pictures, channels=1, store_cap_bytes=1234, seed=seed) for seed in (0, 0, 1))
    assert len(a) == 12
    assert a.nbytes <= 1234
    assert a.names == b.names != c.names
    assert list(a.names) == sorted(a.names, key=lambda name: int(name.split()[1]))
    assert len(a.left_out) == 28
    assert {reason for _, reason in a.left_out} == {"store is full"}
    assert "28 store is full (" in a.summary()
    assert len(a.summary()) < 300
    for name, pixels in zip(a.names, a, strict=True):
        np.testing.assert_array_equal(pixels[..., 0], pictures[int(name.split()[1])])


def test_memory_cap_maps_a_temporary_file_that_goes_with_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pictures = [picture(seed=i) for i in range(3)]
    store = open_images(pictures, memory_cap_bytes=1000)
    assert store.memory_mapped
    assert "mapped from a file" in store.summary()
    np.testing.assert_array_equal(store[1], pictures[1])
    np.testing.assert_array_equal(store.crops([2], [1], [2], 30)[0], pictures[2][1:31, 2:32])
    assert [path.name for path in tmp_path.rglob("*.*")] == ["images.u8"]
    half = store.subset([1])
    del store
    np.testing.assert_array_equal(half[0], pictures[1])
    del half
    assert not list(tmp_path.iterdir())
    assert not open_images(pictures).memory_mapped


def test_temporary_file_goes_when_decoding_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ValueError, match="values from 3"):
        open_images([np.full((9, 9), 3.0)], memory_cap_bytes=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("memory_cap_bytes", [0, 2**30])
def test_store_dir_is_reused_by_content(tmp_path, memory_cap_bytes, monkeypatch):
    folder, kept = tmp_path / "pictures", tmp_path / "kept" / "here"
    folder.mkdir()
    for i in range(3):
        save(folder / f"{i}.png", picture(seed=i))
    (folder / "note.txt").write_text("text")

    def again(**options):
        return open_images(folder, store_dir=kept, memory_cap_bytes=memory_cap_bytes, **options)

    first = again()
    assert "miss, written to" in first.summary()
    assert not list(kept.glob("*.tmp"))
    with monkeypatch.context() as patch:  # a hit opens no picture
        patch.setattr(Image, "open", None)
        second = again()
    assert "hit, " in second.summary()
    assert second.memory_mapped == first.memory_mapped == (memory_cap_bytes == 0)
    assert (second.names, second.left_out, second.notes) == (first.names, first.left_out, first.notes)
    for a, b, i in zip(first, second, range(3), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, picture(seed=i))
    assert "miss" in again(channels=1).store
    os.utime(folder / "1.png", ns=(1, 1))
    assert "miss" in again().store
    assert "hit" in again().store
    for path in kept.glob("*.u8"):  # cut short, by a full disk for example
        path.write_bytes(path.read_bytes()[:-1])
    assert "miss" in again().store
    for path in kept.glob("*.json"):
        assert json.loads(path.read_text())["options"]["format"] == 1


def test_store_dir_knows_arrays_and_hdf5_by_content(tmp_path):
    def state(source):
        return open_images(source, store_dir=tmp_path / "kept").store.split(",")[0]

    assert [state([picture(seed=i)]) for i in (0, 0, 1)] == ["miss", "hit", "miss"]
    for value, expected in ((1, "miss"), (1, "hit"), (2, "miss")):
        if expected == "miss":
            with h5py.File(tmp_path / "a.h5", "w") as file:
                file["x"] = np.full((value, 8, 8), value, np.uint8)
        assert state(tmp_path / "a.h5") == expected


def test_store_dir_inside_the_pictures_is_refused(tmp_path):
    save(tmp_path / "a.png", picture())
    with pytest.raises(ValueError, match="lies inside the folder of pictures"):
        open_images(tmp_path, store_dir=tmp_path / "store")


def test_full_disk_is_said_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match=r"needs 7.2 kB but .* has 10 B free"):
        open_images([picture()], store_dir=tmp_path)


def test_many_tiny_files_are_refused_by_their_headers(tmp_path, capsys):
    data = encoded(picture(4, 4))
    for i in range(2000):
        Path(tmp_path, f"{i}.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"2000 smaller than 64 px .* largest short side is 4 px") as caught:
        open_images(tmp_path, min_side_px=64, progress=True)
    assert len(str(caught.value)) < 400
    assert "2000/2000" in capsys.readouterr().err
