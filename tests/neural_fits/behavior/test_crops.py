"""Crops of annotated boxes from made photographs, and from the real ones where they are."""

import json

import numpy as np
import pytest
from PIL import Image

from neural_fits.behavior.categories import CATEGORIES
from neural_fits.behavior.crops import GROUND, category_crops


def made(folder):
    """A photograph with a red and a blue object, and one object that leaves it."""
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[10:30, 10:30] = (255, 0, 0)
    picture[40:56, 40:72] = (0, 0, 255)
    Image.fromarray(picture).save(folder / "1.png")
    Image.new("RGB", (40, 40), (0, 255, 0)).save(folder / "2.png")
    boxes = [
        {"image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], "iscrowd": 0},
        {"image_id": 1, "category_id": 3, "bbox": [40, 40, 32, 16], "iscrowd": 0},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 70, 60], "iscrowd": 1},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 5], "iscrowd": 0},
        {"image_id": 2, "category_id": 7, "bbox": [0, 0, 40, 20], "iscrowd": 0},
        {"image_id": 2, "category_id": 9, "bbox": [0, 0, 40, 40], "iscrowd": 0},
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "car"}, {"id": 9, "name": "pizza"}],
        "annotations": boxes,
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def test_the_largest_boxes_of_the_categories_without_crowds(tmp_path):
    crops = category_crops(made(tmp_path), tmp_path, categories=["cat", "car"], size_px=32, context=1.0, min_px=16)
    assert crops.category.tolist() == ["car", "cat", "cat"]
    assert crops.photo.tolist() == ["2", "1", "1"]
    car, wide, square = crops.images
    assert (square == (255, 0, 0)).all()  # the box exactly
    assert wide[16].tolist() == [[0, 0, 255]] * 32  # a wide box keeps its proportions
    assert (wide[0] == 0).all()
    assert (wide[-1] == GROUND).all()  # below the photograph
    assert (car[-1] == (0, 255, 0)).all()
    assert (car[0] == GROUND).all()  # above the photograph
    one = category_crops(tmp_path / "instances.json", tmp_path, categories=["cat"], size_px=8, per_category=1)
    assert one.category.tolist() == ["cat"]


def test_files_and_categories_that_do_not_fit_are_refused(tmp_path):
    file = made(tmp_path)
    with pytest.raises(ValueError, match="no box of 'dog' of 16 px or more"):
        category_crops(file, tmp_path, categories=["cat", "dog"])
    (tmp_path / "other.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="no file of annotated boxes"):
        category_crops(tmp_path / "other.json", tmp_path)
    with pytest.raises(FileNotFoundError):
        category_crops(tmp_path / "none.json", tmp_path)


@pytest.mark.shared
def test_all_16_categories_are_categories_of_coco(shared):
    folder = shared / "coco_mini"
    crops = category_crops(folder / "instances.json", folder / "images", size_px=16, per_category=2)
    assert sorted(set(crops.category)) == list(CATEGORIES)
    assert crops.images.shape == (32, 16, 16, 3)
