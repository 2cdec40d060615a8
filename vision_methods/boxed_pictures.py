"""Pictures with boxes around named things, which classes each picture is annotated for, and how they are framed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lcl.images import ImageStore, open_images

#: In place of a word: the classes that LVIS calls rare.
RARE = "lvis:rare"
#: Level, of 255, of what surrounds a picture in its frame.
PADDING = 124


@dataclasses.dataclass(frozen=True, eq=False)
class BoxedPictures:
    """Pictures and their boxes.

    Attributes
    ----------
    store : ImageStore
    boxes : tuple of ndarray of float32, (box, 4)
        x1, y1, x2, y2 in pixels of the store's pictures.
    labels : tuple of ndarray of int64, (box,)
        Numbers of ``classes``.
    classes : tuple of str
    known : ndarray of bool, (picture, class)
        Classes that a picture is annotated for; of the others it is not known whether they are there.
    complete : ndarray of bool, (picture, class)
        Of these, those whose things all have a box (in LVIS some pictures are not exhaustive).
    crowd : tuple of ndarray of bool, (box,)
        Boxes around many things that are not told apart: nothing to learn from, and no mistake to find.
    frequency : tuple of str, (class,)
        As LVIS says it: r, c or f; none elsewhere.
    """

    store: ImageStore
    boxes: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]
    classes: tuple[str, ...]
    known: np.ndarray
    complete: np.ndarray
    crowd: tuple[np.ndarray, ...]
    frequency: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.store)

    def subset(self, indices: np.ndarray | Sequence[int]) -> BoxedPictures:
        """Some of the pictures, with all classes."""
        chosen = np.asarray(indices)
        parts = {name: tuple(getattr(self, name)[i] for i in chosen.tolist()) for name in ("boxes", "labels", "crowd")}
        return dataclasses.replace(
            self, store=self.store.subset(chosen), known=self.known[chosen], complete=self.complete[chosen], **parts
        )

    def divided(self, share: float, seed: int) -> tuple[BoxedPictures, BoxedPictures]:
        """All but a share of the pictures, and that share: at least one in both."""
        held = np.random.default_rng(seed).permutation(len(self))[
            : min(max(1, round(share * len(self))), len(self) - 1)
        ]
        return self.subset(np.setdiff1d(np.arange(len(self)), held)), self.subset(np.sort(held))

    def of_classes(self, numbers: np.ndarray | Sequence[int]) -> BoxedPictures:
        """The same pictures with the boxes of some classes alone, which are numbered anew: others leave no trace.

        Raises
        ------
        ValueError
            If there are none.
        """
        chosen = np.asarray(numbers, dtype=np.int64)
        if not len(chosen):
            raise ValueError("No class is left to learn from; hold out fewer words.")
        place = np.full(len(self.classes), -1)
        place[chosen] = np.arange(len(chosen))
        kept = [place[labels] >= 0 for labels in self.labels]
        return dataclasses.replace(
            self,
            boxes=tuple(boxes[keep] for boxes, keep in zip(self.boxes, kept, strict=True)),
            labels=tuple(place[labels[keep]] for labels, keep in zip(self.labels, kept, strict=True)),
            crowd=tuple(crowd[keep] for crowd, keep in zip(self.crowd, kept, strict=True)),
            classes=tuple(self.classes[i] for i in chosen.tolist()),
            frequency=tuple(self.frequency[i] for i in chosen.tolist()) if self.frequency else (),
            known=self.known[:, chosen],
            complete=self.complete[:, chosen],
        )

    def held_out(self, words: Sequence[str]) -> np.ndarray:
        """Whether each class is one of some names, or has one of them among its words, (class,).

        :data:`RARE` stands for all classes that LVIS calls rare.

        Raises
        ------
        ValueError
            If a word is in no class.

        Examples
        --------
        >>> pictures = boxed(np.zeros((1, 8, 8, 3), np.uint8), [[]], [[]], ("red ring", "traffic light", "red square"))
        >>> pictures.held_out(["ring", "traffic light"])
        array([ True,  True, False])
        """
        found = np.zeros(len(self.classes), dtype=bool)
        for word in words:
            having = np.array([word == name or word in name.split() for name in self.classes])
            if word == RARE:
                having = np.array([each == "r" for each in self.frequency], dtype=bool)
            if not having.any():
                raise ValueError(f"No class has the word {word!r}; expected words of {', '.join(self.classes[:8])} ...")
            found |= having
        return found

    def as_coco(self) -> dict[str, Any]:
        """Annotations as in COCO's files, with pictures and classes numbered from 1."""
        annotations = []
        for picture, (boxes, labels, crowd) in enumerate(zip(self.boxes, self.labels, self.crowd, strict=True)):
            for (x1, y1, x2, y2), label, many in zip(boxes.tolist(), labels.tolist(), crowd.tolist(), strict=True):
                sides = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                kind = {"image_id": picture + 1, "category_id": label + 1, "iscrowd": int(many)}
                annotations.append({"id": len(annotations) + 1, **kind, **sides})
        sizes = enumerate(self.store.sizes.tolist(), 1)
        return {
            "images": [{"id": number, "height": height, "width": width} for number, (height, width) in sizes],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in enumerate(self.classes, 1)],
        }


def boxed(
    pictures: np.ndarray, boxes: Sequence[Any], labels: Sequence[Any], classes: Sequence[str], *, label: str = "arrays"
) -> BoxedPictures:
    """Pictures of one size that are annotated for all classes.

    Parameters
    ----------
    pictures : ndarray of uint8, (picture, height, width, 3)
        Shared, not copied.
    boxes : sequence of array, (box, 4)
    labels : sequence of array of int, (box,)
    classes : sequence of str
    label : str
        The source in words.

    Returns
    -------
    BoxedPictures
    """
    count, height, width, channels = pictures.shape
    store = ImageStore(
        np.ascontiguousarray(pictures).reshape(-1),
        np.arange(count) * (height * width * channels),
        np.tile([height, width], (count, 1)),
        tuple(f"{label}/{number:07d}" for number in range(count)),
        channels=channels,
        label=label,
    )
    return BoxedPictures(
        store,
        tuple(np.asarray(each, np.float32).reshape(-1, 4) for each in boxes),
        tuple(np.asarray(each, np.int64).reshape(-1) for each in labels),
        tuple(classes),
        np.ones((count, len(classes)), bool),
        np.ones((count, len(classes)), bool),
        tuple(np.zeros(len(each), bool) for each in boxes),
    )


def read_boxes(source: str | Path, *, image_dir: str = "", **options: Any) -> BoxedPictures:
    """Decode pictures once, and read their boxes.

    Boxes are scaled with their pictures. Pictures that cannot be decoded are left out, and so are those whose
    ``has_instances`` is false: they are not annotated. Where pictures have ``neg_category_ids`` (LVIS), each is
    annotated for these and the classes of its boxes alone, and ``not_exhaustive_category_ids`` are not complete.

    Parameters
    ----------
    source : path
        JSON file as in COCO or LVIS: ``images`` (``id``, ``file_name`` or ``coco_url``, ``height``, ``width``),
        ``annotations`` (``image_id``, ``category_id``, ``bbox`` as x, y, width, height, ``iscrowd``) and ``categories``
        (``id``, ``name``).
    image_dir : str
        Folder that ``file_name`` starts from; empty: ``images`` beside the file where there is one, else its folder.
    **options
        Of :func:`lcl.images.open_images`.

    Returns
    -------
    BoxedPictures
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        If the file or a picture is missing.
    ValueError
        If the file is not as described.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {source}; expected boxes as in COCO's JSON.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        number = {row["id"]: i for i, row in enumerate(content["categories"])}
        classes = tuple(str(row["name"]).replace("_", " ") for row in content["categories"])
        rows = [row for row in content["images"] if row.get("has_instances", True)]
        sizes = [(int(row["height"]), int(row["width"])) for row in rows]
        # LVIS has no file_name, but COCO's address, which ends with folder and name.
        names = [str(row.get("file_name") or "/".join(row["coco_url"].split("/")[-2:])) for row in rows]
        frequency = tuple(str(row["frequency"]) for row in content["categories"] if "frequency" in row)
        found: dict[Any, list[tuple[list[float], int, bool]]] = {row["id"]: [] for row in content["images"]}
        for each in content["annotations"]:
            x, y, width, height = map(float, each["bbox"])
            kind = number[each["category_id"]], bool(each.get("iscrowd"))
            if width > 0 and height > 0:
                found[each["image_id"]].append(([x, y, x + width, y + height], *kind))
        federated = any("neg_category_ids" in row for row in rows)
        known = np.full((len(rows), len(classes)), not federated)
        complete = np.ones_like(known)
        for place, row in enumerate(rows):
            listed = [number[each] for each in row.get("neg_category_ids", [])]
            known[place, [*listed, *(label for _, label, _ in found[row["id"]])]] = True
            complete[place, [number[each] for each in row.get("not_exhaustive_category_ids", [])]] = False
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no file of boxes ({type(error).__name__}: {error}); expected JSON as in COCO with images, "
            "categories, and annotations with bbox."
        ) from None
    if not rows or not classes:
        raise ValueError(f"{path} has {len(rows)} images and {len(classes)} categories; expected at least one.")
    folder = Path(image_dir).expanduser() if image_dir else path.parent
    if not image_dir and (folder / "images").is_dir():
        folder = folder / "images"
    files = [str(folder / name) for name in names]
    if missing := [file for file in files if not Path(file).is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} pictures of {path} do not exist, first {missing[0]}; give --image-dir."
        )
    store = open_images(files, **options)
    place = {file: i for i, file in enumerate(files)}
    rank = np.array([place[name] for name in store.names])
    boxes, labels, crowd = [], [], []
    for kept, (height, width) in zip(rank.tolist(), store.sizes.tolist(), strict=True):
        here = found[rows[kept]["id"]]
        scale = np.array([width / sizes[kept][1], height / sizes[kept][0]] * 2)
        boxes.append((np.array([box for box, _, _ in here]).reshape(-1, 4) * scale).astype(np.float32))
        labels.append(np.array([label for _, label, _ in here], dtype=np.int64))
        crowd.append(np.array([many for _, _, many in here], dtype=bool))
    return BoxedPictures(
        store,
        tuple(boxes),
        tuple(labels),
        classes,
        known[rank],
        complete[rank] & known[rank],
        tuple(crowd),
        frequency if len(frequency) == len(classes) else (),
    )


class Frames(NamedTuple):
    """Pictures in square frames.

    Attributes
    ----------
    pictures : Tensor of uint8, (B, 3, size_px, size_px)
    scale : Tensor, (B, 2)
        Pixels of the frame per pixel of the picture, in x and y.
    offset : Tensor, (B, 2)
        Of the picture's left upper corner in its frame, x and y.
    flip : Tensor of bool, (B,)
        Mirrored, frame and all.
    """

    pictures: Tensor
    scale: Tensor
    offset: Tensor
    flip: Tensor

    def to_frame(self, row: int, boxes: Tensor) -> Tensor:
        """Boxes (box, 4) of a picture in its frame."""
        placed = boxes * self.scale[row].repeat(2) + self.offset[row].repeat(2)
        if self.flip[row]:
            x1, y1, x2, y2 = placed.unbind(1)
            side = self.pictures.shape[3]
            placed = torch.stack([side - x2, y1, side - x1, y2], 1)
        return placed

    def to_picture(self, row: int, boxes: Tensor) -> Tensor:
        """Boxes (box, 4) of a frame in its picture; the inverse of :meth:`to_frame`."""
        if self.flip[row]:
            x1, y1, x2, y2 = boxes.unbind(1)
            side = self.pictures.shape[3]
            boxes = torch.stack([side - x2, y1, side - x1, y2], 1)
        return (boxes - self.offset[row].repeat(2)) / self.scale[row].repeat(2)


def framed(
    store: ImageStore,
    index: np.ndarray | Sequence[int],
    size_px: int,
    *,
    shrink: Tensor | None = None,
    place: Tensor | None = None,
    flip: Tensor | None = None,
    pool: ThreadPoolExecutor | None = None,
) -> Frames:
    """Whole pictures, scaled to fit a square frame.

    Parameters
    ----------
    store : ImageStore
        Of three channels.
    index : array of int, (B,)
    size_px : int
        Side of the frame.
    shrink : Tensor, (B,), optional
        Scale besides, at most 1; 1 without it.
    place : Tensor, (B, 2), optional
        Share of the free space that is left of the picture, and above; it is in the left upper corner without it.
    flip : Tensor of bool, (B,), optional
    pool : ThreadPoolExecutor, optional
        Does several pictures at a time.

    Returns
    -------
    Frames

    Examples
    --------
    >>> pictures = boxed(np.full((1, 20, 10, 3), 9, np.uint8), [[[0, 0, 10, 20]]], [[0]], ("all",))
    >>> frames = framed(pictures.store, [0], 40)
    >>> frames.to_frame(0, torch.from_numpy(pictures.boxes[0]))
    tensor([[ 0.,  0., 20., 40.]])
    """
    index = np.asarray(index, dtype=np.int64)
    count, sizes = len(index), torch.from_numpy(store.sizes[index].copy()).double()
    ratio = size_px / sizes.amax(1) * (1.0 if shrink is None else shrink.double())
    scaled = (sizes * ratio[:, None]).round().clamp(1, size_px).long()
    free = size_px - scaled
    corner = torch.zeros_like(free) if place is None else (free * place.flip(1)).round().long()
    mirrored = torch.zeros(count, dtype=torch.bool) if flip is None else flip
    if (store.sizes[index] == size_px).all() and (scaled == size_px).all():
        zero = np.zeros(count, np.int64)
        pictures = torch.from_numpy(store.crops(index, zero, zero, size_px)).permute(0, 3, 1, 2).contiguous()
    else:
        pictures = torch.full((count, store.channels, size_px, size_px), PADDING, dtype=torch.uint8)

        def one(row: int) -> None:
            pixels = torch.from_numpy(np.ascontiguousarray(store[int(index[row])].transpose(2, 0, 1)))[None]
            (height, width), (top, left) = scaled[row].tolist(), corner[row].tolist()
            made = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
            pictures[row, :, top : top + height, left : left + width] = made[0]

        for _ in pool.map(one, range(count)) if pool else map(one, range(count)):
            pass
    pictures = torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)
    scale = (scaled.double() / sizes).flip(1).float()
    return Frames(pictures, scale, corner.flip(1).float(), mirrored)
