"""Labels of every kind of source, divisions, and crops against other implementations."""

import io
import tarfile

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lcl.images import open_images
from lcl.labelled_images import (
    CropParameters,
    central_squares,
    cut,
    draw_crops,
    open_labelled,
    photometric,
    stratified,
    train_and_validation,
)


def picture(value, height=30, width=40):
    return Image.fromarray(np.full((height, width, 3), value, np.uint8))


def png(value):
    stream = io.BytesIO()
    picture(value).save(stream, "png")
    return stream.getvalue()


def fill(folder, names=("a", "b"), count=5):
    for k, name in enumerate(names):
        (folder / name / "deeper").mkdir(parents=True)
        for i in range(count):
            picture(10 * k + i).save(folder / name / ("deeper" if i % 2 else "") / f"{i}.png")


def test_folders(tmp_path):
    fill(tmp_path)
    found = open_labelled(str(tmp_path))
    assert found.classes == ("a", "b")
    assert [int(found.store[i][0, 0, 0]) // 10 for i in range(10)] == found.labels.tolist()
    assert open_labelled(str(tmp_path), classes=["z", "b", "a"]).labels.tolist() == [2] * 5 + [1] * 5
    with pytest.raises(ValueError, match="holds the class 'b', which was not trained"):
        open_labelled(str(tmp_path), classes=["a", "c"])
    picture(0).save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"'loose\.png' .* has no label"):
        open_labelled(str(tmp_path))


def test_one_class_is_not_enough(tmp_path):
    fill(tmp_path, names=("only",))
    with pytest.raises(ValueError, match="holds 1 class"):
        open_labelled(str(tmp_path))


@pytest.mark.parametrize("labels", [np.array([10, 9, 10]), np.array([b"10", b"9", b"10"])])
def test_hdf5(tmp_path, labels):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["set/images"] = np.zeros((3, 20, 20, 3), np.uint8)
        file["set/labels"] = labels
    found = open_labelled(f"{path}:/set/images")
    assert found.classes == ("9", "10")  # numbers in the order of numbers
    assert found.labels.tolist() == [1, 0, 1]
    with h5py.File(path, "a") as file:
        del file["set/labels"]
        file["set/labels"] = [1.5, 2, 3]
    with pytest.raises(ValueError, match="has no set/labels of shape"):
        open_labelled(str(path))


def test_shards(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        for i, label in enumerate(("cat", "dog", "cat")):
            for name, data in ((f"{i}.png", png(i)), (f"{i}.cls", label.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    with tarfile.open(tmp_path / "1.tar", "w") as shard:
        for label in ("cat", "dog"):
            member = tarfile.TarInfo(f"{label}/0.png")
            member.size = len(png(9))
            shard.addfile(member, io.BytesIO(png(9)))
    assert open_labelled(str(tmp_path / "*.tar")).labels.tolist() == [0, 1, 0, 0, 1]


def test_divisions(tmp_path):
    fill(tmp_path / "whole")
    train, held = train_and_validation(str(tmp_path / "whole"), held_out=0.4, seed=1)
    assert [len(train), len(held)] == [6, 4]
    assert not set(train.store.names) & set(held.store.names)
    assert np.bincount(held.labels).tolist() == [2, 2]
    again = train_and_validation(str(tmp_path / "whole"), held_out=0.4, seed=1)[1]
    assert again.store.names == held.store.names
    fill(tmp_path / "divided" / "train")
    fill(tmp_path / "divided" / "val", names=("b",), count=2)
    train, held = train_and_validation(str(tmp_path / "divided"))
    assert (len(train), held.labels.tolist()) == (10, [1, 1])
    train, held = train_and_validation(str(tmp_path / "whole"), str(tmp_path / "divided" / "val"))
    assert (len(train), len(held)) == (10, 2)
    with pytest.raises(ValueError, match="class number 1 has 1 picture"):
        stratified(np.array([0, 0, 1]), 0.5, 0)


def test_crops_cover_what_they_should():
    sizes = np.tile([[60, 90]], (4000, 1))
    drawn = draw_crops(sizes, torch.Generator().manual_seed(0), least_area=0.2, aspect=4 / 3, jitter=0.3)
    top, left, height, width = drawn.box.double().unbind(1)
    assert ((top + height <= 60) & (left + width <= 90) & (top >= 0) & (left >= 0)).all()
    area, aspect = height * width / 5400, width / height
    assert area.min() > 0.18
    inside = (height < 60) & (width < 90)
    assert 0.72 < aspect[inside].min() < 0.8
    assert 1.25 < aspect[inside].max() < 1.38
    assert top[height <= 40].max() > 15
    assert abs(drawn.flip.double().mean() - 0.5) < 0.03
    for factor in (drawn.brightness, drawn.contrast, drawn.saturation):
        assert 0.7 <= factor.min() < 0.71
        assert 1.29 < factor.max() <= 1.3
    still = draw_crops(sizes[:50], torch.Generator().manual_seed(0), least_area=1.0, aspect=1.0, jitter=0.0)
    assert (still.box[:, 2] == 60).all()
    assert (still.brightness == 1).all()


def test_cut_against_pillow():
    store = open_images("builtin").subset([0, 3])
    box = torch.tensor([[10, 20, 300, 200], [0, 5, 100, 100]])
    found = cut(store, np.array([0, 1]), box, 64)
    for i, (top, left, height, width) in enumerate(box.tolist()):
        piece = Image.fromarray(store[i][top : top + height, left : left + width])
        expected = np.asarray(piece.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.abs(found[i].numpy().astype(int) - expected.astype(int)).max() <= 1


def test_central_squares(tmp_path):
    fill(tmp_path)
    images = open_labelled(str(tmp_path))
    squares = central_squares(images, 20, np.array([7, 0]))
    assert squares.shape == (2, 3, 20, 20)
    assert squares[:, 0, 0, 0].tolist() == [int(images.store[7][0, 0, 0]), int(images.store[0][0, 0, 0])]


def test_photometric_by_hand():
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(90, 160, (2, 3, 5, 6), generator=generator, dtype=torch.uint8)
    drawn = CropParameters(
        torch.zeros(2, 4),
        torch.tensor([True, False]),
        torch.tensor([1.1, 0.9]),
        torch.tensor([0.8, 1.2]),
        torch.tensor([0.5, 1.0]),
    )
    first = crops[0].flip(2).double() / 255 * 1.1
    first = first.mean() + 0.8 * (first - first.mean())
    luma = 0.299 * first[0] + 0.587 * first[1] + 0.114 * first[2]
    first = luma + 0.5 * (first - luma)
    found = photometric(crops, drawn)
    assert torch.allclose(found[0].double(), first, atol=1e-6)
    assert torch.allclose(F.avg_pool2d(found[1], 5).mean() * 255, crops[1].double().mean().float() * 0.9, atol=0.6)
    grey = photometric(crops[:, :1], drawn)
    assert grey.shape == (2, 1, 5, 6)
