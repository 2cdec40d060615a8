"""Labelled examples of the 16 categories cut out of photographs with annotated boxes, as in Microsoft COCO.

The 16 categories are names of categories of COCO, so its boxes label them (Lin et al. 2014, *ECCV*). A crop shows an
object in its surroundings, at any size and often partly hidden: a read-out trained on some hundred of them is weak, and
has to be judged by its accuracy for crops of other photographs
(:func:`neural_fits.behavior.alignment.held_out_choices`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from neural_fits.behavior.categories import CATEGORIES

#: Grey around a photograph that a square leaves.
GROUND = 128


class CategoryCrops(NamedTuple):
    """Crops with the category and the photograph of each.

    Attributes
    ----------
    images : ndarray of uint8, (crop, row, column, 3)
    category : ndarray of str, (crop,)
    photo : ndarray of str, (crop,)
        Crops of one photograph belong together where images are held out.
    """

    images: np.ndarray
    category: np.ndarray
    photo: np.ndarray


def square_around(box: Sequence[float], *, context: float = 1.2) -> tuple[int, int, int]:
    """Square with the centre of a box and the longer side of it times ``context``.

    Parameters
    ----------
    box : sequence of float
        Left, top, width and height, px.
    context : float
        At least 1.

    Returns
    -------
    left, top, side : int
        May leave the photograph.

    Examples
    --------
    >>> square_around([10, 20, 40, 20], context=1.5)
    (0, 0, 60)
    """
    left, top, width, height = box
    side = max(1, round(context * max(width, height)))
    return round(left + width / 2 - side / 2), round(top + height / 2 - side / 2), side


def category_crops(
    instances: Path | str,
    photos: Path | str,
    *,
    categories: Sequence[str] = CATEGORIES,
    size_px: int = 224,
    min_px: int = 16,
    per_category: int | None = 12,
    context: float = 1.2,
) -> CategoryCrops:
    """Squares around annotated objects of some categories, the largest boxes first, no crowds.

    Parameters
    ----------
    instances : path
        JSON file as in COCO: images, annotations (bbox, iscrowd), categories.
    photos : path
        Folder of the photographs.
    categories : sequence of str
        Names as in the file.
    size_px : int
        Side of the crops, which are scaled to it.
    min_px : int
        Boxes whose longer side is shorter are left out.
    per_category : int, optional
        At most so many crops of a category; None: all.
    context : float
        Side of the square over the longer side of the box.

    Returns
    -------
    CategoryCrops
        Sorted by category.

    Raises
    ------
    FileNotFoundError
        If the file or a photograph is missing.
    ValueError
        If the file is not as described, or a category has no box.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (60, 40), (255, 0, 0)).save(folder / "1.png")
    >>> boxes = [{"image_id": 1, "category_id": 5, "bbox": [10, 10, 20, 10], "iscrowd": 0}]
    >>> names = {"images": [{"id": 1, "file_name": "1.png"}], "categories": [{"id": 5, "name": "dog"}]}
    >>> _ = (folder / "instances.json").write_text(json.dumps({"annotations": boxes, **names}))
    >>> crops = category_crops(folder / "instances.json", folder, categories=["dog"], size_px=8)
    >>> crops.images.shape, crops.category, crops.photo
    ((1, 8, 8, 3), array(['dog'], dtype='<U3'), array(['1'], dtype='<U1'))
    """
    instances, photos = Path(instances).expanduser(), Path(photos).expanduser()
    try:
        content = json.loads(instances.read_text(encoding="utf-8"))
        names = {row["id"]: row["name"] for row in content["categories"]}
        files = {row["id"]: row["file_name"] for row in content["images"]}
        boxes = [
            (names[row["category_id"]], max(row["bbox"][2:]), row["image_id"], row["bbox"])
            for row in content["annotations"]
            if not row.get("iscrowd")
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{instances} is no file of annotated boxes ({type(error).__name__}: {error}); expected JSON as in COCO "
            "with images, categories, and annotations with bbox."
        ) from error
    images, labels, photo = [], [], []
    for category in sorted(categories):
        found = sorted((box for box in boxes if box[0] == category and box[1] >= min_px), key=lambda box: -box[1])
        if not found:
            raise ValueError(
                f"{instances} has no box of {category!r} of {min_px} px or more; expected one for every category."
            )
        for _, _, image_id, box in found[:per_category]:
            images.append(_cut(photos / files[image_id], square_around(box, context=context), size_px))
            labels.append(category)
            photo.append(str(image_id))
    return CategoryCrops(np.stack(images), np.array(labels), np.array(photo))


def _cut(path: Path, square: tuple[int, int, int], size_px: int) -> np.ndarray:
    left, top, side = square
    with Image.open(path) as picture:
        ground = Image.new("RGB", (side, side), (GROUND,) * 3)
        ground.paste(picture.convert("RGB"), (-left, -top))
    return np.asarray(ground.resize((size_px, size_px), Image.Resampling.BICUBIC))
