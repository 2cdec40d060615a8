"""Annotated objects of photographs, maps of classes, and the measures of segmentation and of object discovery.

Annotations are files as Microsoft COCO has them (Lin et al. 2014, *ECCV*): polygons or run lengths for every object,
decoded by pycocotools. In a map of classes 0 is the background, the classes count from 1, and :data:`VOID` marks pixels
that nothing is asked of.

==================  ==================================================================================================
measure             rule
==================  ==================================================================================================
IoU of a class      pixels that are and are called it / pixels that are or are called it, over all pictures together
mean IoU            mean over classes; void pixels count nowhere
best overlap        largest IoU of an object with any proposed mask; its mean over objects is the average best overlap
                    (ABO), the share above 0.5 object recovery (OR), as Hénaff et al. (2022, *ECCV*) name them
==================  ==================================================================================================
"""

import dataclasses
import importlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

#: Pixels of a map of classes that count nowhere.
VOID = -1

#: What the classes are: COCO's categories, its groups of categories, or any object.
LEVELS = ("category", "supercategory", "foreground")

#: Clusters of the clusterings whose masks are proposed: 255 together.
N_CLUSTERS = (1, 2, 4, 8, 16, 32, 64, 128)

#: Overlap above which an object counts as recovered.
RECOVERED = 0.5


class Objects(NamedTuple):
    """Annotated objects of a photograph.

    Attributes
    ----------
    masks : ndarray of bool, (object, row, column)
    category : ndarray of int, (object,)
        Numbers of the categories, from 0.
    crowd : ndarray of bool, (object,)
        Regions of many objects that are not told apart.
    """

    masks: np.ndarray
    category: np.ndarray
    crowd: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentedImages:
    """Photographs with annotated objects, decoded one at a time.

    Attributes
    ----------
    paths : tuple of Path
    sizes : tuple of (int, int)
        Rows and columns.
    splits : tuple of str
        Such as ``train2017``; empty where the file does not say.
    annotations : tuple of tuple of dict
        Of every photograph, as in the file, with ``category`` as a number from 0.
    categories, supercategories : tuple of str
        Name of every category, and of the group it is in.
    """

    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    splits: tuple[str, ...]
    annotations: tuple[tuple[dict[str, Any], ...], ...]
    categories: tuple[str, ...]
    supercategories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "SegmentedImages":
        """Some of the photographs, with all categories."""
        kept = {
            name: tuple(getattr(self, name)[i] for i in indices) for name in ("paths", "sizes", "splits", "annotations")
        }
        return dataclasses.replace(self, **kept)

    def picture(self, index: int) -> np.ndarray:
        """Photograph, uint8 (row, column, 3)."""
        path, size = self.paths[index], self.sizes[index]
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        if pixels.shape[:2] != size:
            raise ValueError(f"{path} has {pixels.shape[:2]} rows and columns; expected {size} as annotated.")
        return pixels

    def objects(self, index: int) -> Objects:
        """Objects of a photograph."""
        found = self.annotations[index]
        return Objects(
            object_masks([each["segmentation"] for each in found], *self.sizes[index]),
            np.array([each["category"] for each in found], dtype=int),
            np.array([bool(each.get("iscrowd")) for each in found], dtype=bool),
        )


def read_instances(path: Path | str, photos: Path | str | None = None) -> SegmentedImages:
    """Read annotations and find the photographs.

    Parameters
    ----------
    path : path
        JSON file as in COCO: ``images`` (``id``, ``file_name``, ``height``, ``width``), ``annotations`` (``image_id``,
        ``category_id``, ``segmentation``, ``iscrowd``) and ``categories``; or a folder with ``instances.json``. Images
        may say their ``split``; those with ``has_instances`` false are not annotated and left out.
    photos : path, optional
        Folder of the photographs. Default: ``images`` beside the file, else the folder of the file.

    Returns
    -------
    SegmentedImages
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        If the file or a photograph is missing.
    ValueError
        If the file is not as described.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (4, 3)).save(folder / "1.png")
    >>> square = {"image_id": 1, "category_id": 7, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]], "iscrowd": 0}
    >>> file = {"images": [{"id": 1, "file_name": "1.png", "height": 3, "width": 4}], "annotations": [square]}
    >>> file["categories"] = [{"id": 7, "name": "dog", "supercategory": "animal"}]
    >>> _ = (folder / "instances.json").write_text(json.dumps(file))
    >>> read_instances(folder).objects(0).masks.astype(int)
    array([[[1, 1, 0, 0],
            [1, 1, 0, 0],
            [0, 0, 0, 0]]])
    """
    path = Path(path).expanduser()
    path = path / "instances.json" if path.is_dir() else path
    if photos is None:
        photos = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        number = {row["id"]: i for i, row in enumerate(content["categories"])}
        categories = [(row["name"], row.get("supercategory") or row["name"]) for row in content["categories"]]
        rows = [row for row in content["images"] if row.get("has_instances", True)]
        found: dict[Any, list[dict[str, Any]]] = {row["id"]: [] for row in content["images"]}
        for each in content["annotations"]:
            found[each["image_id"]].append({**each, "category": number[each["category_id"]]})
            found[each["image_id"]][-1]["segmentation"]
        images = [(row["file_name"], (int(row["height"]), int(row["width"])), row.get("split", "")) for row in rows]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no file of annotated objects ({type(error).__name__}: {error}); expected JSON as in COCO with "
            "images, categories, and annotations with segmentation."
        ) from error
    if not images or not categories:
        raise ValueError(f"{path} has {len(images)} images and {len(categories)} categories; expected at least one.")
    paths = [Path(photos).expanduser() / name for name, _, _ in images]
    if missing := [each for each in paths if not each.is_file()]:
        raise FileNotFoundError(f"{missing[0]} is missing; give the folder of the photographs of {path}.")
    return SegmentedImages(
        tuple(paths),
        tuple(size for _, size, _ in images),
        tuple(split for _, _, split in images),
        tuple(tuple(found[row["id"]]) for row in rows),
        tuple(name for name, _ in categories),
        tuple(group for _, group in categories),
    )


def object_masks(segmentations: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Masks of annotations.

    Parameters
    ----------
    segmentations : sequence
        Each a list of polygons (x, y, x, y ... in px from the upper left corner of the picture), which are united, or
        a run-length code of COCO, compressed or not.
    height, width : int
        Of the picture.

    Returns
    -------
    ndarray of bool, (object, row, column)

    Raises
    ------
    ModuleNotFoundError
        Without pycocotools.
    ValueError
        If an annotation is neither, or its code is of another size.

    Examples
    --------
    >>> object_masks([{"size": [2, 3], "counts": [2, 3, 1]}], 2, 3).astype(int)
    array([[[0, 1, 1],
            [0, 1, 0]]])
    """
    try:
        coco: Any = importlib.import_module("pycocotools.mask")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('objects of COCO need pycocotools: pip install "lcl[coco]".') from error
    masks = np.zeros((len(segmentations), height, width), dtype=bool)
    for mask, each in zip(masks, segmentations, strict=True):
        try:
            if isinstance(each, dict):
                if tuple(each["size"]) != (height, width):
                    raise ValueError(f"its size is {each['size']}, not {[height, width]}")
                code = coco.frPyObjects(each, height, width) if isinstance(each["counts"], list) else each
            else:
                if not each:
                    raise ValueError("it has no polygon")
                code = coco.merge(coco.frPyObjects(each, height, width))
            with warnings.catch_warnings():
                # pycocotools hands its memory to NumPy in the way of NumPy 1
                warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
                mask[:] = coco.decode(code)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"a segmentation cannot be read ({type(error).__name__}: {error}); expected polygons or a run-length "
                f"code of a picture of {height} x {width} px."
            ) from error
    return masks


def divided(
    images: SegmentedImages, *, held_out: float = 0.2, seed: int = 0
) -> tuple[SegmentedImages, SegmentedImages]:
    """Photographs to learn from and to judge by: as the file says, else a share is held out.

    Parameters
    ----------
    images : SegmentedImages
        Splits whose names begin with ``train`` are learned from, those with ``val`` or ``test`` judge.
    held_out : float
        Share, where no splits are named.
    seed : int
        Of the division.

    Returns
    -------
    train, held_out : SegmentedImages

    Raises
    ------
    ValueError
        If one of the two is empty.

    Examples
    --------
    >>> images = SegmentedImages((Path("a"), Path("b")), ((1, 1),) * 2, ("val", "train"), ((), ()), ("x",), ("x",))
    >>> [part.paths[0].name for part in divided(images)]
    ['b', 'a']
    """
    if any(images.splits):
        train = [i for i, split in enumerate(images.splits) if split.startswith("train")]
        held = [i for i, split in enumerate(images.splits) if split.startswith(("val", "test"))]
    else:
        order = np.random.default_rng(seed).permutation(len(images))
        held = sorted(order[: round(held_out * len(images))].tolist())
        train = sorted(order[len(held) :].tolist())
    if not train or not held:
        raise ValueError(
            f"{len(train)} photographs are to learn from and {len(held)} to judge by; expected some of each: name "
            "their split (train2017, val2017), or give a file for each."
        )
    return images.subset(train), images.subset(held)


def classes_at(images: SegmentedImages, level: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes of a level and the class of every category.

    Parameters
    ----------
    images : SegmentedImages
    level : {"category", "supercategory", "foreground"}

    Returns
    -------
    names : tuple of str, (class,)
        The background first.
    class_of : ndarray of int, (category,)

    Examples
    --------
    >>> images = SegmentedImages((), (), (), (), ("cat", "car", "dog"), ("animal", "vehicle", "animal"))
    >>> classes_at(images, "supercategory")
    (('background', 'animal', 'vehicle'), array([1, 2, 1]))
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}; expected one of {', '.join(LEVELS)}.")
    groups = {
        "category": images.categories,
        "supercategory": images.supercategories,
        "foreground": ("object",) * len(images.categories),
    }[level]
    names = ("background", *dict.fromkeys(groups))
    return names, np.array([names.index(name, 1) for name in groups])


def semantic_map(objects: Objects, class_of: np.ndarray) -> np.ndarray:
    """Class of every pixel.

    Pixels of objects of two classes are void, and so are those of crowds where no single object is: a crowd is outlined
    roughly.

    Parameters
    ----------
    objects : Objects
    class_of : array of int, (category,)
        From :func:`classes_at`.

    Returns
    -------
    ndarray of int, (row, column)

    Examples
    --------
    >>> masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]]], dtype=bool)
    >>> semantic_map(Objects(masks, np.array([0, 1]), np.zeros(2, bool)), np.array([1, 2]))
    array([[ 1, -1,  2,  0]])
    """
    labels = np.zeros(objects.masks.shape[1:], dtype=int)
    taken = class_of[objects.category]
    for mask, each in zip(objects.masks[~objects.crowd], taken[~objects.crowd], strict=True):
        labels[mask] = np.where((labels[mask] == 0) | (labels[mask] == each), each, VOID)
    crowd = objects.masks[objects.crowd].any(0)
    return np.where(crowd & (labels == 0), VOID, labels)


def confusion(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Pixels of every class that are called each class; void pixels are left out.

    Parameters
    ----------
    truth : array of int, (...,)
        Classes, or :data:`VOID`.
    predicted : array of int, (...,)
    n_classes : int

    Returns
    -------
    ndarray of int, (true class, predicted class)

    Raises
    ------
    ValueError
        If shapes differ, or a value is no class.

    Examples
    --------
    >>> confusion(np.array([0, 1, 1, VOID]), np.array([0, 0, 1, 1]), 2)
    array([[1, 0],
           [1, 1]])
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ValueError(f"maps have shapes {truth.shape} and {predicted.shape}; expected the same.")
    truth, predicted = truth[truth != VOID], predicted[truth != VOID]
    for name, values in (("true", truth), ("predicted", predicted)):
        if len(values) and not (values.min() >= 0 and values.max() < n_classes):
            raise ValueError(f"{name} classes are {values.min()} to {values.max()}; expected 0 to {n_classes - 1}.")
    return np.bincount(n_classes * truth + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def class_iou(confusions: np.ndarray) -> np.ndarray:
    """Intersection over union of every class: ``TP / (TP + FP + FN)``.

    Parameters
    ----------
    confusions : array, (..., true class, predicted class)
        From :func:`confusion`, summed over pictures.

    Returns
    -------
    ndarray, (..., class)
        NaN for a class that neither is there nor was called.

    Examples
    --------
    >>> class_iou(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).round(3)
    array([0.75 , 0.667,   nan])
    """
    hit = np.diagonal(confusions, axis1=-2, axis2=-1).astype(float)
    union = confusions.sum(-1) + confusions.sum(-2) - hit
    return np.where(union > 0, hit / np.where(union > 0, union, 1), np.nan)


def mean_iou(confusions: np.ndarray, classes: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """Mean of :func:`class_iou` over classes.

    Parameters
    ----------
    confusions : array, (..., true class, predicted class)
    classes : sequence of int, optional
        Those that count: the same for all models, such as those of the held-out pictures. Pixels called another class
        count as missed. Default: all that are there or were called.

    Returns
    -------
    ndarray, (...,)

    Examples
    --------
    >>> float(mean_iou(np.array([[3, 1], [0, 2]])).round(3))
    0.708
    """
    values = class_iou(confusions)
    values = values if classes is None else values[..., classes]
    defined = np.isfinite(values)
    return np.where(defined, values, 0).sum(-1) / np.maximum(defined.sum(-1), 1)


def mask_overlaps(objects: np.ndarray, proposals: np.ndarray) -> np.ndarray:
    """Intersection over union of every object with every proposed mask.

    Parameters
    ----------
    objects : array of bool, (object, row, column)
    proposals : array of bool, (proposal, row, column)

    Returns
    -------
    ndarray, (object, proposal)
        0 where both are empty.

    Examples
    --------
    >>> mask_overlaps(np.array([[[1, 1, 0, 0]]]), np.array([[[0, 1, 1, 1]], [[1, 1, 0, 0]]]))
    array([[0.25, 1.  ]])
    """
    flat = [np.asarray(each, dtype=bool).reshape(len(each), -1).astype(np.float32) for each in (objects, proposals)]
    shared = flat[0] @ flat[1].T
    union = flat[0].sum(1)[:, None] + flat[1].sum(1) - shared
    return (shared / np.maximum(union, 1)).astype(float)


def clustering_masks(clusterings: Sequence[np.ndarray], n_clusters: Sequence[int] = N_CLUSTERS) -> np.ndarray:
    """A proposed mask for every cluster of every clustering.

    Parameters
    ----------
    clusterings : sequence of array of int, (row, column)
        Numbers of clusters from 0.
    n_clusters : sequence of int
        Of each clustering; 1, 2, 4 ... 128 give 255 masks.

    Returns
    -------
    ndarray of bool, (mask, row, column)
        All false for a cluster without a pixel.
    """
    return np.concatenate(
        [each == np.arange(k)[:, None, None] for each, k in zip(clusterings, n_clusters, strict=True)]
    )


def best_overlaps(objects: np.ndarray, clusterings: Sequence[np.ndarray]) -> np.ndarray:
    """Largest IoU of each object with any cluster of any clustering: :func:`mask_overlaps` without making the masks.

    Parameters
    ----------
    objects : array of bool, (object, row, column)
    clusterings : sequence of array of int, (row, column)

    Returns
    -------
    ndarray, (object,)

    Examples
    --------
    >>> best_overlaps(np.array([[[1, 1, 0, 0]]], dtype=bool), [np.array([[0, 0, 0, 0]]), np.array([[1, 1, 1, 0]])])
    array([0.66666667])
    """
    best = np.zeros(len(objects))
    for labels in clusterings:
        area = np.bincount(labels.ravel())
        for i, mask in enumerate(objects):
            shared = np.bincount(labels[mask], minlength=len(area))
            best[i] = max(best[i], (shared / np.maximum(area + mask.sum() - shared, 1)).max())
    return best


def discovery_sums(best: np.ndarray) -> np.ndarray:
    """Sum of best overlaps, number above :data:`RECOVERED`, and number of the objects of a picture.

    Parameters
    ----------
    best : array, (object,)
        From :func:`best_overlaps`, or the largest of :func:`mask_overlaps`.

    Returns
    -------
    ndarray, (3,)
        Of several pictures they add up; average best overlap and recovery are the first two over the third.

    Examples
    --------
    >>> discovery_sums(np.array([0.5, 0.75]))
    array([1.25, 1.  , 2.  ])
    """
    return np.array([best.sum(), (best > RECOVERED).sum(), len(best)], dtype=float)
