"""Pictures with class labels: where the labels come from, and the crops that a recognition network is trained on.

==========================  ==========================================================================================
source                      label of a picture
==========================  ==========================================================================================
folder                      the first folder on its path: ``FOLDER/<class>/.../picture.jpg``
``FILE.h5[:/DATASET]``      the dataset ``labels`` beside the images (whole numbers or text), one per image
tar shards                  the member ``KEY.cls`` beside ``KEY.jpg``, else the folder inside the shard
==========================  ==========================================================================================

A folder with the subfolders ``train`` and ``val`` (or ``validation``, ``test``) is divided already.
"""

from __future__ import annotations

import glob
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lcl.images import _HDF5_SOURCE, ImageStore, _expand_braces, open_images
from neural_fits.placing import LUMA

VALIDATION_FOLDERS = ("val", "validation", "test")


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Pictures and the number of each one's class.

    Attributes
    ----------
    store : ImageStore
    labels : ndarray of int, (picture,)
        Numbers of ``classes``.
    classes : tuple of str
    """

    store: ImageStore
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.store)

    def subset(self, indices: np.ndarray) -> LabelledImages:
        """Some of the pictures, with all classes."""
        return LabelledImages(self.store.subset(indices), self.labels[indices], self.classes)

    def divided(self, share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """All but a share of every class, and that share (:func:`stratified`)."""
        train, held = stratified(self.labels, share, seed)
        return self.subset(train), self.subset(held)


def open_labelled(source: str, *, classes: Sequence[str] | None = None, **options: Any) -> LabelledImages:
    """Decode labelled pictures once.

    Parameters
    ----------
    source : str
        Folder, HDF5 file or tar shards (see the module).
    classes : sequence of str, optional
        Names in the order of their numbers; those found, sorted (numbers by value), without it.
    **options
        Of :func:`lcl.images.open_images`.

    Returns
    -------
    LabelledImages

    Raises
    ------
    FileNotFoundError
        If the source does not exist.
    ValueError
        If a picture has no label, there are fewer than two classes, or a class is not one of ``classes``.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (folder / name).mkdir()
    ...     Image.new("RGB", (40, 30)).save(folder / name / "1.png")
    >>> found = open_labelled(str(folder))
    >>> found.classes, found.labels
    (('cat', 'dog'), array([0, 1]))
    """
    return with_labels(open_images(source, **options), source, classes=classes)


def with_labels(store: ImageStore, source: str, *, classes: Sequence[str] | None = None) -> LabelledImages:
    """Decoded pictures with the labels that their source has.

    Parameters
    ----------
    store : ImageStore
        All of the source, or some.
    source : str
        What it was opened from.
    classes : sequence of str, optional
        As of :func:`open_labelled`.

    Returns
    -------
    LabelledImages

    Raises
    ------
    ValueError
        As :func:`open_labelled`.

    Examples
    --------
    >>> with_labels(open_images("builtin"), "builtin")
    Traceback (most recent call last):
        ...
    ValueError: '...' in builtin has no label; expected one folder per class, or KEY.cls in shards.
    """
    names = _label_names(str(source), store.names)
    if classes is None:
        found = set(names)
        whole = all(name.isdecimal() for name in found)
        classes = sorted(found, key=lambda name: (int(name), name) if whole else (0, name))
    if len(classes) < 2:
        raise ValueError(f"{source} holds {len(classes)} class ({', '.join(classes)}); expected at least two.")
    number = {name: i for i, name in enumerate(classes)}
    if unknown := sorted(set(names) - set(number)):
        raise ValueError(
            f"{source} holds the class {unknown[0]!r}, which was not trained; expected {', '.join(number)}."
        )
    return LabelledImages(store, np.array([number[name] for name in names]), tuple(classes))


def _label_names(source: str, names: Sequence[str]) -> list[str]:
    match = _HDF5_SOURCE.fullmatch(source)
    file = Path(match["file"] if match else source).expanduser()
    if file.is_file() and h5py.is_hdf5(file):
        return _hdf5_labels(file, names)
    if not file.is_dir():
        written = _shard_labels(source)
        inside = [name.partition("/")[2] or name for name in names]
        return [
            written.get(name.rpartition(".")[0]) or _folder_of(member, source)
            for name, member in zip(names, inside, strict=True)
        ]
    return [_folder_of(name, source) for name in names]


def _folder_of(name: str, source: str) -> str:
    parts = PurePosixPath(name).parts
    if len(parts) < 2:
        raise ValueError(f"{name!r} in {source} has no label; expected one folder per class, or KEY.cls in shards.")
    return parts[0]


def _hdf5_labels(path: Path, names: Sequence[str]) -> list[str]:
    with h5py.File(path, "r") as file:
        dataset, rows = names[0].rpartition("[")[0], [int(name.rpartition("[")[2][:-1]) for name in names]
        place = f"{dataset.rpartition('/')[0]}/labels"
        labels, images = file.get(place), file[dataset]
        assert isinstance(images, h5py.Dataset)
        if not isinstance(labels, h5py.Dataset) or labels.shape != images.shape[:1] or labels.dtype.kind not in "iuOS":
            raise ValueError(
                f"{path} has no {place} of shape ({images.shape[0]},); expected whole numbers or text, one per image."
            )
        values = labels[()]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values[rows]]


def _shard_labels(pattern: str) -> dict[str, str]:
    """Text of every ``KEY.cls``, by "shard.tar/KEY"."""
    written = {}
    for each in _expand_braces(pattern):
        for path in sorted(glob.glob(each)):  # noqa: PTH207 (the pattern may be absolute)
            with tarfile.open(path, "r:") as shard:
                for member in shard:
                    text = shard.extractfile(member) if member.isreg() and member.name.endswith(".cls") else None
                    if text is not None:
                        key = member.name.removesuffix(".cls")
                        written[f"{Path(path).name}/{key}"] = text.read(1000).decode().strip()
    return written


def train_and_validation(
    source: str, validation: str = "", *, held_out: float = 0.2, seed: int = 0, **options: Any
) -> tuple[LabelledImages, LabelledImages]:
    """Training pictures and pictures to judge by.

    Parameters
    ----------
    source : str
        Folder, HDF5 file or shards; a folder with ``train`` and ``val`` is divided already.
    validation : str
        Source of the pictures to judge by; empty: the folder's own, else a share of each class.
    held_out : float
        That share.
    seed : int
        Of the division.
    **options
        Of :func:`lcl.images.open_images`.

    Returns
    -------
    train, validation : LabelledImages
        With the same classes.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`open_labelled`; or if a class is too small to be divided.
    """
    folder = Path(source).expanduser()
    inside = [name for name in VALIDATION_FOLDERS if (folder / name).is_dir()] if (folder / "train").is_dir() else []
    if not validation and inside:
        source, validation = str(folder / "train"), str(folder / inside[0])
    everything = open_labelled(source, **options)
    if validation:
        return everything, open_labelled(validation, classes=everything.classes, **options)
    return everything.divided(held_out, seed)


def stratified(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of every class, at least one picture of each.

    Parameters
    ----------
    labels : array of int, (picture,)
    share : float
        Between 0 and 1.
    seed : int

    Returns
    -------
    train, held_out : ndarray of int
        Sorted numbers of pictures.

    Raises
    ------
    ValueError
        If a class has fewer than two pictures.

    Examples
    --------
    >>> train, held = stratified(np.repeat([0, 1], 10), 0.2, seed=0)
    >>> len(train), [int((held < 10).sum()), int((held >= 10).sum())]
    (16, [2, 2])
    """
    rng = np.random.default_rng(seed)
    held = []
    for number, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if count < 2:
            raise ValueError(f"class number {number} has {count} picture; expected at least 2 to hold one out.")
        chosen = rng.permutation(np.flatnonzero(labels == number))
        held.append(chosen[: min(max(1, round(share * count)), count - 1)])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out


class CropParameters(NamedTuple):
    """How every picture of a batch is cut out and changed.

    Attributes
    ----------
    box : Tensor of int, (B, 4)
        Top, left, height and width in pixels of the picture.
    flip : Tensor of bool, (B,)
        Mirrored left to right.
    brightness, contrast, saturation : Tensor, (B,)
        Factors.
    """

    box: Tensor
    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor


def draw_crops(
    sizes: np.ndarray, generator: torch.Generator, *, least_area: float, aspect: float, jitter: float
) -> CropParameters:
    """Draw random resized crops, flips and light photometric changes, on the CPU.

    The share of the picture's area is uniform in [least_area, 1], the logarithm of the aspect ratio in [-log aspect,
    log aspect]; a side that would be longer than the picture's is cut to it.

    Parameters
    ----------
    sizes : array of int, (B, 2)
        Height and width of every picture, px.
    generator : torch.Generator
    least_area, aspect, jitter : float
        Brightness, contrast and saturation are uniform in [1 - jitter, 1 + jitter].

    Returns
    -------
    CropParameters

    Examples
    --------
    >>> sizes = np.full((100, 2), 64)
    >>> drawn = draw_crops(sizes, torch.Generator().manual_seed(0), least_area=0.25, aspect=4 / 3, jitter=0.2)
    >>> bool((drawn.box[:, :2] + drawn.box[:, 2:] <= 64).all())
    True
    """
    sides = torch.from_numpy(np.array(sizes)).double()
    count = len(sides)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, dtype=torch.float64)

    area = sides.prod(1) * (least_area + (1 - least_area) * uniform())
    root = torch.exp((uniform() - 0.5) * float(np.log(aspect)))  # the square root of the aspect ratio
    height_width = torch.stack([area.sqrt() / root, area.sqrt() * root], 1)
    height_width = torch.minimum(height_width.round().clamp(min=1), sides)
    top_left = (uniform(2) * (sides - height_width + 1)).floor()
    factors = 1 + jitter * (2 * uniform(3) - 1)
    return CropParameters(torch.cat([top_left, height_width], 1).long(), uniform() < 0.5, *factors.float().unbind(1))


def cut(
    store: ImageStore,
    index: np.ndarray,
    box: Tensor,
    size_px: int,
    pool: ThreadPoolExecutor | None = None,
    *,
    mode: str = "bilinear",
) -> Tensor:
    """Cut a box out of each picture and scale it to a square, anti-aliased.

    Parameters
    ----------
    store : ImageStore
    index : array of int, (B,)
    box : Tensor of int, (B, 4)
        As in :class:`CropParameters`.
    size_px : int
    pool : ThreadPoolExecutor, optional
        Does several pictures at a time.
    mode : {"bilinear", "bicubic"}

    Returns
    -------
    Tensor of uint8, (B, C, size_px, size_px)

    Examples
    --------
    >>> from lcl.images import open_images
    >>> cut(open_images("builtin"), np.array([0]), torch.tensor([[0, 0, 512, 512]]), 32).shape
    torch.Size([1, 3, 32, 32])
    """
    result = torch.empty(len(index), store.channels, size_px, size_px, dtype=torch.uint8)

    def one(job: tuple[int, int, list[int]]) -> None:
        place, picture, (top, left, height, width) = job
        pixels = np.ascontiguousarray(store[picture][top : top + height, left : left + width].transpose(2, 0, 1))
        image = torch.from_numpy(pixels)[None]
        scaled = F.interpolate(image, size=(size_px, size_px), mode=mode, antialias=True, align_corners=False)
        result[place] = scaled[0]

    jobs = zip(range(len(index)), index.tolist(), box.tolist(), strict=True)
    for _ in pool.map(one, jobs) if pool else map(one, jobs):
        pass
    return result


def central_squares(images: LabelledImages, size_px: int, indices: np.ndarray | None = None) -> Tensor:
    """The largest central square of every picture, scaled.

    Parameters
    ----------
    images : LabelledImages
    size_px : int
    indices : array of int, optional
        Some of the pictures.

    Returns
    -------
    Tensor of uint8, (picture, C, size_px, size_px)
    """
    index = np.arange(len(images)) if indices is None else indices
    return cut(images.store, index, square_boxes(images.store.sizes[index]), size_px)


def square_boxes(sizes: np.ndarray) -> Tensor:
    """The largest central square of pictures.

    Parameters
    ----------
    sizes : array of int, (B, 2)
        Height and width of every picture, px.

    Returns
    -------
    Tensor of int64, (B, 4)
        As in :class:`CropParameters`.

    Examples
    --------
    >>> square_boxes(np.array([[40, 60]]))
    tensor([[ 0, 10, 40, 40]])
    """
    sides = torch.from_numpy(np.array(sizes)).long()
    side = sides.min(1, keepdim=True).values
    return torch.cat([(sides - side) // 2, side, side], 1)


def photometric(crops: Tensor, drawn: CropParameters) -> Tensor:
    """Flip, and change brightness, contrast (about the picture's mean) and saturation (about its luma), in this order.

    Parameters
    ----------
    crops : Tensor of uint8, (B, C, H, W)
    drawn : CropParameters
        On the same device.

    Returns
    -------
    Tensor of float32, (B, C, H, W)
        In [0, 1].

    Examples
    --------
    >>> one = torch.ones(1)
    >>> drawn = CropParameters(torch.zeros(1, 4), torch.tensor([True]), one, one, one)
    >>> photometric(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), drawn)
    tensor([[[[1., 0.]]]])
    """
    images = crops.float() / 255
    images = torch.where(drawn.flip[:, None, None, None], images.flip(3), images)
    brightness, contrast, saturation = (
        factor.view(-1, 1, 1, 1) for factor in (drawn.brightness, drawn.contrast, drawn.saturation)
    )
    images = (images * brightness).clamp(0, 1)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (mean + contrast * (images - mean)).clamp(0, 1)
    if images.shape[1] == 3:
        luma = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        images = (luma + saturation * (images - luma)).clamp(0, 1)
    return images
