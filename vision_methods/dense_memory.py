"""A memory of patches of labelled pictures, and what it says about other patches: dense tasks without training.

This is the decoder of Hummingbird (Balažević et al. 2023, *NeurIPS*), after its public reproductions: a patch of a new
picture takes the labels of the most similar remembered patches, weighted by a softmax of their similarities. Nothing is
learned. The steps, and the numbers of the two published settings (:data:`RETRIEVALS`):

=============  =======================================================================================================
keys           features of patches, scaled to length 1 over the channels
labels         of a patch: the share of each class among its pixels, or their mean depth; unknown pixels count nowhere
what is kept   ``n = capacity // (pictures * augmentations)`` patches of each picture, rare classes first, but at random
               (:func:`patch_scores`); for depth all alike
neighbours     the ``k`` keys of the largest cosine with the query
answer         ``sum_j softmax_j(cosine_j / temperature) label_j`` over these
=============  =======================================================================================================
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stimuli.files import replacing
from vision_methods.cosine_search import Search
from vision_methods.segments import VOID


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Setting of a retrieval.

    Attributes
    ----------
    neighbours : int
        Entries that a query reads.
    temperature : float
        Cosines are divided by it before the softmax.
    augmentations : int
        Passes over the labelled pictures, each with other crops and colours; 0: one pass over the pictures as they are.
    capacity : int
        Entries that the memory has room for.

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> RETRIEVALS["standard"].patches_per_picture(10582)
    483
    """

    neighbours: int = 30
    temperature: float = 0.02
    augmentations: int = 2
    capacity: int = 10_240_000

    def __post_init__(self) -> None:
        for name, least in (("neighbours", 1), ("augmentations", 0), ("capacity", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; expected a positive number, such as 0.02.")

    def patches_per_picture(self, pictures: int) -> int:
        """Patches that are kept of each picture in each pass: ``max(1, capacity // (pictures * passes))``."""
        return max(1, self.capacity // (pictures * max(1, self.augmentations)))


#: The two published settings. Another table of the paper was made with each: never set their numbers side by side.
RETRIEVALS = {
    "standard": Retrieval(),
    "low-data": Retrieval(neighbours=90, temperature=0.1, augmentations=8, capacity=20_480_000),
}


def _cell_of_pixel(shape: Sequence[int], grid: tuple[int, int]) -> np.ndarray:
    """Number of the cell that the centre of every pixel lies in, row by row."""
    rows, columns = (((np.arange(n) + 0.5) * cells / n).astype(np.int64) for n, cells in zip(shape, grid, strict=True))
    return rows[:, None] * grid[1] + columns


def patch_labels(labels: np.ndarray, grid: tuple[int, int], *, n_classes: int) -> Tensor:
    """Share of every class among the pixels of every patch.

    Parameters
    ----------
    labels : array of int, (row, column)
        Classes from 0, or :data:`vision_methods.segments.VOID`, of a picture of any size that the patches divide.
    grid : (int, int)
        Rows and columns of patches.
    n_classes : int

    Returns
    -------
    Tensor, (patch, class)
        float32, row by row; sum 1 over classes, NaN for a patch without a known pixel.

    Raises
    ------
    ValueError
        If a value is no class.

    Examples
    --------
    >>> patch_labels(np.array([[0, 0, 1, VOID], [0, 2, 1, 1]]), (1, 2), n_classes=3)
    tensor([[0.7500, 0.0000, 0.2500],
            [0.0000, 1.0000, 0.0000]])
    """
    labels = np.asarray(labels)
    known = labels != VOID
    values = labels[known].astype(np.int64)
    if len(values) and not (values.min() >= 0 and values.max() < n_classes):
        raise ValueError(f"classes are {values.min()} to {values.max()}; expected 0 to {n_classes - 1}, or {VOID}.")
    cells = math.prod(grid)
    at = _cell_of_pixel(labels.shape, grid)[known]
    counts = np.bincount(at * n_classes + values, minlength=cells * n_classes).reshape(cells, n_classes)
    counts = torch.from_numpy(counts).float()
    return counts / counts.sum(1, keepdim=True)


def patch_depths(depth: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Mean depth of the pixels of every patch, or of any other quantity.

    Parameters
    ----------
    depth : array, (row, column)
        NaN where it is not known.
    grid : (int, int)
        Rows and columns of patches.

    Returns
    -------
    Tensor, (patch, 1)
        float32, row by row; NaN for a patch without a known pixel.

    Examples
    --------
    >>> patch_depths(np.array([[1.0, 3.0, np.nan, 7.0]]), (1, 2))
    tensor([[2.],
            [7.]])
    """
    depth = np.asarray(depth, dtype=float)
    known, cells = np.isfinite(depth), math.prod(grid)
    at = _cell_of_pixel(depth.shape, grid)[known]
    total, count = np.bincount(at, depth[known], cells), np.bincount(at, minlength=cells)
    return (torch.from_numpy(total) / torch.from_numpy(count)).float()[:, None]


def patch_scores(labels: Tensor) -> Tensor:
    """How common the classes of every patch are in its picture: the sum, over its classes, of the patches that have it.

    A mixed patch scores higher than a pure one, as the scores of its classes add up.

    Parameters
    ----------
    labels : Tensor, (patch, class)
        Of one picture, as of :func:`patch_labels`.

    Returns
    -------
    Tensor, (patch,)
        NaN where nothing is known.

    Examples
    --------
    >>> patch_scores(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]))
    tensor([3., 3., 4.])
    """
    present = (labels > 0).to(labels.dtype)
    scores = present @ present.sum(0)
    return scores.masked_fill(labels.isnan().any(1), math.nan)


def draw_patches(scores: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Patches of the smallest scores, each first multiplied by a number drawn between 0 and 1.

    Parameters
    ----------
    scores : Tensor, (patch,)
        From :func:`patch_scores`, or all 1: then all patches are as likely. NaN: never drawn.
    n : int
        All that can be drawn, where there are not more.
    generator : torch.Generator

    Returns
    -------
    Tensor of int, (at most n,)
        In order, none twice.

    Examples
    --------
    >>> draw_patches(torch.tensor([1.0, math.nan, 1.0, 1.0]), 5, torch.Generator().manual_seed(0))
    tensor([0, 2, 3])
    """
    known = scores.isfinite().nonzero().flatten()
    drawn = scores[known] * torch.rand(len(known), generator=generator)
    return known[drawn.topk(min(n, len(known)), largest=False).indices].sort().values


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class DenseMemory:
    """Remembered patches.

    Attributes
    ----------
    keys : Tensor, (entry, channel)
        Of length 1, or 0 where a feature was 0 throughout: its cosine with everything counts as 0.
    labels : Tensor, (entry, label)
        Shares of classes, or depth.
    """

    keys: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def size_bytes(self) -> int:
        """Of keys and labels."""
        return sum(each.numel() * each.element_size() for each in (self.keys, self.labels))


class MemoryWriter:
    """Room for so many entries, filled a picture at a time.

    Parameters
    ----------
    entries, channels, labels : int
        Rows, and columns of keys and of labels.
    dtype : torch.dtype
        float16 takes half the room of float32 and moves a cosine by some 1e-4.
    folder : path, optional
        Keep keys and labels in files there that are mapped into memory: a memory may be larger than the computer's.
        :func:`read_memory` opens it again. Without it they are in memory.

    Raises
    ------
    ValueError
        If there is no room for one entry, or the type is none that is stored.
    FileExistsError
        If the folder holds a memory already.

    Examples
    --------
    >>> writer = MemoryWriter(3, 2, 1, dtype=torch.float32)
    >>> writer.add(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0], [2.0]]))
    2
    >>> writer.finish().keys
    tensor([[0.6000, 0.8000],
            [0.0000, 1.0000]])
    """

    def __init__(
        self,
        entries: int,
        channels: int,
        labels: int,
        *,
        dtype: torch.dtype = torch.float16,
        folder: Path | str | None = None,
    ) -> None:
        if min(entries, channels, labels) < 1:
            raise ValueError(f"A memory of {entries} x {channels} keys and {labels} labels; expected at least 1 each.")
        if dtype not in TYPES.values():
            raise ValueError(f"dtype is {dtype}; expected one of {', '.join(TYPES)}.")
        self.folder, self.filled = None if folder is None else Path(folder), 0
        if self.folder is None:
            self.keys, self.labels = (torch.empty(entries, n, dtype=dtype) for n in (channels, labels))
            return
        if (self.folder / "memory.json").exists():
            raise FileExistsError(f"{self.folder} holds a memory already; give another folder, or delete it.")
        self.folder.mkdir(parents=True, exist_ok=True)
        kind = next(name for name, each in TYPES.items() if each == dtype)
        self.keys, self.labels = (
            torch.from_numpy(np.lib.format.open_memmap(self.folder / f"{name}.npy", "w+", kind, (entries, n)))
            for name, n in (("keys", channels), ("labels", labels))
        )

    def add(self, features: Tensor, labels: Tensor) -> int:
        """Remember patches, until there is no room.

        Parameters
        ----------
        features : Tensor, (patch, channel)
            Of any length.
        labels : Tensor, (patch, label)

        Returns
        -------
        int
            Those for which there was room: the first.

        Raises
        ------
        ValueError
            If shapes differ, or a number is not finite.
        """
        if features.shape != (len(labels), self.keys.shape[1]) or labels.shape[1:] != self.labels.shape[1:]:
            raise ValueError(
                f"features and labels have shapes {tuple(features.shape)} and {tuple(labels.shape)}; expected "
                f"(patch, {self.keys.shape[1]}) and (patch, {self.labels.shape[1]})."
            )
        if not (features.isfinite().all() and labels.isfinite().all()):
            raise ValueError(
                "A feature or label is not finite; expected numbers, and patches without a label left out."
            )
        end = min(self.filled + len(features), len(self.keys))
        count = end - self.filled
        self.keys[self.filled : end] = F.normalize(features[:count].to(_wide(features)), dim=1).to(self.keys.dtype)
        self.labels[self.filled : end] = labels[:count].to(self.labels.dtype)
        self.filled = end
        return count

    def finish(self) -> DenseMemory:
        """The memory, without the room that was not used.

        Raises
        ------
        ValueError
            If nothing was added.
        """
        if not self.filled:
            raise ValueError("Nothing was remembered; expected pictures with at least one labelled patch.")
        if self.folder is not None:
            with replacing(self.folder / "memory.json") as partial:
                partial.write_text(json.dumps({"format": 1, "entries": self.filled}), encoding="utf-8")
        return DenseMemory(self.keys[: self.filled], self.labels[: self.filled])


#: Types that keys and labels are stored in, by numpy's name.
TYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


def read_memory(folder: Path | str) -> DenseMemory:
    """Open a memory that was written into files; they are mapped, not read.

    Parameters
    ----------
    folder : path
        As of :class:`MemoryWriter`.

    Returns
    -------
    DenseMemory
        What is written into its tensors stays out of the files.

    Raises
    ------
    FileNotFoundError
        If it was not finished.
    ValueError
        If a file is damaged.
    """
    folder = Path(folder)
    if not (folder / "memory.json").is_file():
        raise FileNotFoundError(f"{folder} holds no memory.json: there is no memory, or it was not finished.")
    try:
        entries = json.loads((folder / "memory.json").read_text(encoding="utf-8"))["entries"]
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in ("keys", "labels")]
        kept = [torch.from_numpy(each[:entries]) for each in arrays]
        if not entries or any(len(each) != entries or each.ndim != 2 for each in kept):
            raise ValueError(f"{entries} entries are said, {[tuple(each.shape) for each in arrays]} stored")
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The memory in {folder} is damaged ({error}); build it again.") from error
    return DenseMemory(*kept)


def read_out(cosines: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Labels of the neighbours, weighted by a softmax of their cosines.

    Parameters
    ----------
    cosines : Tensor, (query, neighbour)
        Minus infinity: no neighbour.
    labels : Tensor, (query, neighbour, label)
    temperature : float

    Returns
    -------
    Tensor, (query, label)

    Raises
    ------
    ValueError
        If the temperature is not positive, or a query has no neighbour.

    Examples
    --------
    >>> read_out(torch.tensor([[1.0, 0.6]]), torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]), temperature=0.5)
    tensor([[0.8450, 0.1550]])
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number, such as 0.02.")
    if (cosines == -math.inf).all(1).any():
        raise ValueError("A query has no neighbour; look through more of the memory.")
    weights = (cosines.to(_wide(cosines)) / temperature).softmax(1)
    return (weights[:, None] @ labels.to(weights))[:, 0]


def retrieve(queries: Tensor, memory: DenseMemory, search: Search, *, neighbours: int, temperature: float) -> Tensor:
    """What a memory says about patches.

    Parameters
    ----------
    queries : Tensor, (query, channel)
        Features of any length.
    memory : DenseMemory
    search : callable
        Through the keys of the memory, of :data:`vision_methods.cosine_search.SEARCHES`.
    neighbours : int
    temperature : float

    Returns
    -------
    Tensor, (query, label)

    Raises
    ------
    ValueError
        As of the search and of :func:`read_out`.

    Examples
    --------
    >>> from vision_methods.cosine_search import exact
    >>> keys, labels = torch.tensor([[1, 0], [0, 1], [0.6, 0.8]]), torch.tensor([[1, 0], [0, 1], [0.5, 0.5]])
    >>> memory = DenseMemory(keys, labels)
    >>> retrieve(torch.tensor([[2.0, 0.0]]), memory, exact(keys), neighbours=2, temperature=0.5)
    tensor([[0.8450, 0.1550]])
    """
    cosines, entries = search(queries, neighbours)
    read = memory.labels[entries.cpu()].to(cosines.device)
    return read_out(cosines, read, temperature=temperature)
