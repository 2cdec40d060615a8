"""Boxes follow their pictures, and classes that are held out leave no trace."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from vision_methods.boxed_pictures import boxed, framed, read_boxes


def some():
    rng = np.random.default_rng(0)
    return boxed(
        rng.integers(0, 255, (3, 30, 20, 3), dtype=np.uint8),
        [[[2, 3, 10, 12], [5, 5, 19, 29]], [], [[0, 0, 4, 4]]],
        [[0, 2], [], [2]],
        ("red ring", "blue ring", "red square"),
    )


def test_classes_that_are_held_out_leave_no_trace():
    pictures = some()
    base = pictures.of_classes(np.flatnonzero(~pictures.held_out(["square"])))
    assert base.classes == ("red ring", "blue ring")
    assert [labels.tolist() for labels in base.labels] == [[0], [], []]
    assert [len(boxes) for boxes in base.boxes] == [1, 0, 0]
    assert base.known.shape == (3, 2)
    swapped = pictures.of_classes([2, 0])
    assert [labels.tolist() for labels in swapped.labels] == [[1, 0], [], [0]]
    assert pictures.held_out(["red ring"]).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="No class has the word 'star'"):
        pictures.held_out(["star"])
    with pytest.raises(ValueError, match="No class is left"):
        pictures.of_classes([])


def test_boxes_are_where_their_pixels_are_in_every_frame():
    pixels = np.full((1, 30, 20, 3), 20, np.uint8)
    pixels[0, 6:18, 4:16] = 250
    pictures = boxed(pixels, [[[4, 6, 16, 18]]], [[0]], ("thing",))
    truth = torch.from_numpy(pictures.boxes[0])
    index = [0] * 6
    frames = framed(
        pictures.store,
        index,
        120,
        shrink=torch.tensor([1, 1, 0.5, 0.75, 0.5, 0.8]),
        place=torch.tensor([[0, 0], [0.5, 0], [1, 1], [0.3, 0.7], [0, 1], [1, 0.0]]),
        flip=torch.tensor([False, True, False, True, True, False]),
    )
    assert frames.pictures.shape == (6, 3, 120, 120)
    for row in range(6):
        box = frames.to_frame(row, truth)
        bright = (frames.pictures[row, 0] > 135).nonzero()
        (top, left), (bottom, right) = bright.amin(0).tolist(), (bright.amax(0) + 1).tolist()
        np.testing.assert_allclose(box[0].numpy(), [left, top, right, bottom], atol=1.01)
        torch.testing.assert_close(frames.to_picture(row, box), truth, rtol=1e-5, atol=1e-4)
        assert (box >= 0).all()
        assert (box <= 120).all()


def test_pictures_that_have_the_size_are_copied():
    pixels = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    pictures = boxed(pixels.copy(), [[], []], [[], []], ("thing",))
    frames = framed(pictures.store, [1, 0], 16, flip=torch.tensor([False, True]))
    np.testing.assert_array_equal(frames.pictures[0].permute(1, 2, 0).numpy(), pixels[1])
    np.testing.assert_array_equal(frames.pictures[1].permute(1, 2, 0).numpy(), pixels[0][:, ::-1])


def write(folder, **changes):
    (folder / "images").mkdir(exist_ok=True)
    for name, (width, height) in {"a.png": (80, 40), "b.png": (20, 40), "c.png": (10, 10)}.items():
        Image.new("RGB", (width, height), (9, 9, 9)).save(folder / "images" / name)
    content = {
        "images": [
            {"id": 5, "file_name": "a.png", "height": 40, "width": 80},
            {"id": 2, "file_name": "b.png", "height": 40, "width": 20},
            {"id": 9, "file_name": "c.png", "height": 10, "width": 10, "has_instances": False},
        ],
        "categories": [{"id": 7, "name": "traffic_light"}, {"id": 3, "name": "dog"}, {"id": 8, "name": "cat"}],
        "annotations": [
            {"image_id": 5, "category_id": 3, "bbox": [10, 20, 30, 10], "iscrowd": 0},
            {"image_id": 5, "category_id": 7, "bbox": [0, 0, 80, 40], "iscrowd": 1},
            {"image_id": 2, "category_id": 7, "bbox": [1, 1, 0, 5]},
        ],
    } | changes
    path = folder / "boxes.json"
    path.write_text(json.dumps(content))
    return path, content


def test_boxes_are_read_and_scaled_with_their_pictures(tmp_path):
    path, content = write(tmp_path)
    found = read_boxes(path, short_side_px=20)
    assert found.classes == ("traffic light", "dog", "cat")
    assert found.store.sizes.tolist() == [[20, 40], [40, 20]]
    np.testing.assert_allclose(found.boxes[0], [[5, 10, 20, 15], [0, 0, 40, 20]])
    assert found.labels[0].tolist() == [1, 0]
    assert found.crowd[0].tolist() == [False, True]
    assert len(found.boxes[1]) == 0
    assert found.known.all()
    content["images"][0] |= {"neg_category_ids": [8], "not_exhaustive_category_ids": [3]}
    content["images"][1] |= {"neg_category_ids": [3]}
    path, _ = write(tmp_path, images=content["images"])
    federated = read_boxes(path)
    assert federated.known.tolist() == [[True, True, True], [False, True, False]]
    assert federated.complete.tolist() == [[True, False, True], [False, True, False]]


def test_files_of_lvis_name_pictures_by_address_and_classes_by_frequency(tmp_path):
    _, content = write(tmp_path)
    for row in content["images"]:
        row["coco_url"] = f"http://host/images/{row.pop('file_name')}"
    for row, frequency in zip(content["categories"], "rfc", strict=True):
        row["frequency"] = frequency
    path, _ = write(tmp_path, images=content["images"], categories=content["categories"])
    found = read_boxes(path, image_dir=str(tmp_path))
    assert len(found) == 2
    assert found.held_out(["lvis:rare"]).tolist() == [True, False, False]
    assert found.held_out(["lvis:rare", "cat"]).tolist() == [True, False, True]
    assert found.of_classes([1, 2]).frequency == ("f", "c")
    with pytest.raises(ValueError, match="'lvis:rare'"):
        some().held_out(["lvis:rare"])


def test_files_that_are_no_boxes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_boxes(tmp_path / "none.json")
    path, content = write(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is no file of boxes"):
        read_boxes(path)
    write(tmp_path, annotations=[{"image_id": 5, "category_id": 3}])
    with pytest.raises(ValueError, match="KeyError: 'bbox'"):
        read_boxes(path)
    write(tmp_path, images=content["images"][:1], annotations=[])
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 1 pictures"):
        read_boxes(path)
