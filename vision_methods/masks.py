"""Label maps of pictures: computed once for each picture, kept on disk, or read from a folder of ground truth.

===================  ================================================================================================
name                 label map
===================  ================================================================================================
``fh``               Felzenszwalb and Huttenlocher's segments (:func:`fh_masks`), as DetCon's
``grid``             equal cells (:func:`grid_masks`)
``whole``            one mask (:func:`whole_mask`)
``module:function``  what a function of the user's own returns for a picture, found from here or the working directory
a folder             PNG files named as the pictures (:func:`folder_masks`)
===================  ================================================================================================

A label map has a ``uint8`` per pixel: the number of the one mask that the pixel belongs to. Numbers above 255 start
again at 0, as in DetCon's public code, so that of more than 256 segments some share a number.
"""

from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from skimage.segmentation import felzenszwalb
from tqdm import tqdm

from stimuli.files import replacing

if TYPE_CHECKING:  # processes that compute masks start ten times faster without torch
    from lcl.images import ImageStore

#: Of the files in ``cache_dir``; another layout or another conversion to ``uint8`` raises it.
FORMAT_NUMBER = 1
#: With fewer pictures to compute, starting processes takes longer than it saves.
LEAST_FOR_PROCESSES = 64
#: Pictures that a process is given at a time.
CHUNK = 16


def fh_masks(image: np.ndarray, *, scale: float = 1000.0, sigma: float = 0.8, min_size: int = 1000) -> np.ndarray:
    """Segments by Felzenszwalb and Huttenlocher (2004), of scikit-image.

    The defaults are DetCon's (Henaff et al. 2021), for photographs of about 400 x 500 px; both ``scale`` and
    ``min_size`` go with the number of pixels.

    Parameters
    ----------
    image : array of uint8, (H, W, C)
    scale : float
        Larger gives fewer, larger segments.
    sigma : float
        Standard deviation of the Gaussian that smooths the picture first, px.
    min_size : int
        Smaller segments are merged, px.

    Returns
    -------
    ndarray of int, (H, W)

    Examples
    --------
    >>> image = np.zeros((40, 60, 3), np.uint8)
    >>> image[:, 30:] = 255
    >>> np.unique(fh_masks(image, min_size=100))
    array([0, 1])
    """
    return felzenszwalb(image, scale=scale, sigma=sigma, min_size=min_size, channel_axis=-1)


def grid_masks(image: np.ndarray, *, cells: int = 5) -> np.ndarray:
    """A grid of equal cells, numbered row by row.

    Parameters
    ----------
    image : array, (H, W, C)
    cells : int
        Along each side; at most 16, so that every cell has its own number.

    Returns
    -------
    ndarray of int, (H, W)

    Raises
    ------
    ValueError
        If ``cells`` is out of range.

    Examples
    --------
    >>> grid_masks(np.zeros((2, 4, 3)), cells=2)
    array([[0, 0, 1, 1],
           [2, 2, 3, 3]])
    """
    if not 1 <= cells <= 16:
        raise ValueError(f"cells is {cells}; expected 1 to 16 along each side, so that every cell has its own number.")
    row, column = (np.arange(side) * cells // side for side in image.shape[:2])
    return row[:, None] * cells + column


def whole_mask(image: np.ndarray) -> np.ndarray:
    """One mask, number 0.

    Examples
    --------
    >>> whole_mask(np.zeros((2, 2, 3)))
    array([[0, 0],
           [0, 0]])
    """
    return np.zeros(image.shape[:2], int)


#: Label maps by name: each of a picture (H, W, C), ``uint8``, and its options.
MASKS: dict[str, Callable[..., np.ndarray]] = {"fh": fh_masks, "grid": grid_masks, "whole": whole_mask}


class LabelMaps(Sequence[np.ndarray]):
    """Label maps of pictures, read-only, in one buffer.

    Attributes
    ----------
    sizes : ndarray of int, (picture, 2)
        Height and width.
    found, computed : int
        How many were read (from the cache or a folder) and how many were computed.
    memory_mapped : bool
        Whether they are in a file mapped into memory.

    Examples
    --------
    >>> maps = LabelMaps(np.array([[2, 2], [1, 3]]))
    >>> maps.write(1, np.array([[7, 8, 9]]))
    >>> len(maps), maps[1]
    (2, array([[7, 8, 9]], dtype=uint8))
    """

    def __init__(self, sizes: np.ndarray, *, memory_cap_bytes: int = 2 * 2**30) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self.found = self.computed = 0
        ends = self.sizes.prod(1).cumsum()
        self._starts = np.concatenate([[0], ends])
        nbytes = int(self._starts[-1])
        self.memory_mapped = nbytes > memory_cap_bytes
        if not self.memory_mapped:
            self._buffer = np.empty(nbytes, np.uint8)
            return
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if nbytes > free:  # a mapped file on a full disk would end the process with a bus error
            raise OSError(
                f"Label maps need {nbytes / 1e9:.1f} GB, but {tempfile.gettempdir()!r} has {free / 1e9:.1f} GB free; "
                "set TMPDIR to another place, or take fewer or smaller pictures."
            )
        with tempfile.TemporaryFile() as file:  # stays mapped, and is gone with the last map
            self._buffer = np.memmap(file, np.uint8, "w+", shape=nbytes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: Any) -> Any:
        """Label map ``index`` as a read-only view, (height, width); a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} label maps, but {index} was asked for.")
        view = self._view(int(index) % len(self))
        view.flags.writeable = False
        return view

    def _view(self, index: int) -> np.ndarray:
        flat = self._buffer[self._starts[index] : self._starts[index + 1]].view(np.ndarray)
        return flat.reshape(self.sizes[index])

    def write(self, index: int, labels: np.ndarray) -> None:
        """Set a label map; numbers above 255 start again at 0."""
        self._view(index)[...] = labels.astype(np.uint8)

    def __repr__(self) -> str:
        return f"{len(self)} label maps, {self.found} found and {self.computed} computed"


def image_masks(
    store: ImageStore,
    masks: str | Callable[..., np.ndarray],
    *,
    options: Mapping[str, Any] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    memory_cap_bytes: int = 2 * 2**30,
    progress: bool = True,
) -> LabelMaps:
    """Label maps of all pictures.

    In ``cache_dir`` every label map is a PNG file whose name is a digest of the picture's pixels, the function (its
    code, what it calls, versions of installed packages) and its options. What was computed before a stop is kept.

    Parameters
    ----------
    store : ImageStore
    masks : str or callable
        See the module; a callable is of a picture (H, W, C), ``uint8``, and returns whole numbers (H, W).
    options : mapping of str, optional
        Passed to the function by name.
    cache_dir : path, optional
        Folder that keeps label maps for the next run.
    workers : int, optional
        Processes; 0: none but this one. All available processors without it, if there is enough to compute. Processes
        are started anew, so a script has to call this under ``if __name__ == "__main__":``.
    memory_cap_bytes : int
        Label maps beyond this are in a file mapped into memory.
    progress : bool
        Show a bar.

    Returns
    -------
    LabelMaps

    Raises
    ------
    ValueError
        If there are no such masks, options are given for a folder, or a function returns something else.
    RuntimeError
        If a process ended or could not start.

    Examples
    --------
    >>> from lcl.images import open_images
    >>> maps = image_masks(open_images("builtin"), "grid", options={"cells": 3}, progress=False)
    >>> maps, np.unique(maps[0]).tolist()
    (12 label maps, 0 found and 12 computed, [0, 1, 2, 3, 4, 5, 6, 7, 8])
    """
    options = dict(options or {})
    if isinstance(masks, str) and masks not in MASKS and (":" not in masks or Path(masks).is_dir()):
        if options:
            raise ValueError(f"options are {options}, but masks is the folder {masks!r}; expected none.")
        return folder_masks(store, masks, memory_cap_bytes=memory_cap_bytes, progress=progress)
    function = _function(masks) if isinstance(masks, str) else masks
    maps = LabelMaps(store.sizes, memory_cap_bytes=memory_cap_bytes)
    name = masks if isinstance(masks, str) else getattr(masks, "__name__", "function")
    with tqdm(total=len(store), desc=f"masks ({name})", disable=not progress) as bar:
        files = _cache_files(store, function, options, Path(cache_dir).expanduser()) if cache_dir else {}
        missing = _read_cached(maps, files, bar) if files else list(range(len(store)))
        if workers is None:
            workers = _available_processors() if len(missing) >= LEAST_FOR_PROCESSES else 0
            workers = 0 if workers == 1 else workers
        for index, labels in _computed(store, masks, options, missing, workers):
            maps.write(index, labels)
            if files:
                files[index].parent.mkdir(parents=True, exist_ok=True)
                with replacing(files[index]) as partial_file:
                    Image.fromarray(labels).save(partial_file, "png")
            maps.computed += 1
            bar.update()
    return maps


def _available_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _function(name: str) -> Callable[..., np.ndarray]:
    """One of :data:`MASKS`, or the user's ``module:function``."""
    if name in MASKS:
        return MASKS[name]
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"masks is {name!r}, which cannot be found ({error}); expected {', '.join(MASKS)}, module:function or a "
            "folder of PNG label maps."
        ) from None
    finally:
        sys.path.pop(0)


def _labels(function: Callable[..., np.ndarray], image: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    labels = np.asarray(function(image, **options))
    if labels.shape != image.shape[:2] or labels.dtype.kind not in "biu":
        raise ValueError(
            f"{getattr(function, '__name__', function)} returned {labels.dtype} of shape {labels.shape} for a picture "
            f"of shape {image.shape}; expected whole numbers of shape {image.shape[:2]}."
        )
    return labels.astype(np.uint8)


def _labels_of_chunk(
    masks: str | Callable[..., np.ndarray], images: list[np.ndarray], options: Mapping[str, Any]
) -> list[np.ndarray]:
    # By name, because what a script or a notebook has imported is not there in a new process.
    function = _function(masks) if isinstance(masks, str) else masks
    return [_labels(function, image, options) for image in images]


def _computed(
    store: ImageStore,
    masks: str | Callable[..., np.ndarray],
    options: Mapping[str, Any],
    indices: list[int],
    workers: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Number and label map of each picture, as they are done."""
    if not workers or not indices:
        for index in indices:
            yield index, _labels_of_chunk(masks, [store[index]], options)[0]
        return
    chunks = iter([indices[i : i + CHUNK] for i in range(0, len(indices), CHUNK)])
    if not isinstance(masks, str):
        try:
            pickle.dumps(masks)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"masks is {masks!r}, which cannot be sent to other processes ({error}); expected a function of a "
                "module, or workers=0."
            ) from None
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running: dict[Future, list[int]] = {}
        try:
            while True:
                while len(running) < 2 * workers and (chunk := next(chunks, None)):
                    running[pool.submit(_labels_of_chunk, masks, [store[i] for i in chunk], options)] = chunk
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield from zip(running.pop(future), future.result(), strict=True)
        except BrokenProcessPool:
            raise RuntimeError(
                f"One of {workers} processes that compute masks ended; expected a script to call this under "
                "`if __name__ == '__main__':`, and enough memory: lower workers, or give 0 to compute in this process."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _cache_files(
    store: ImageStore, function: Callable[..., np.ndarray], options: Mapping[str, Any], folder: Path
) -> dict[int, Path]:
    """File of every picture's label map."""
    from neural_fits.content import digest  # imports torch

    what = digest((FORMAT_NUMBER, function, sorted(options.items())), name="masks").encode()

    def file(index: int) -> Path:
        image = store[index]
        name = hashlib.sha256(what + str(image.shape).encode() + b":")
        name.update(np.ascontiguousarray(image).data)
        return folder / name.hexdigest()[:2] / f"{name.hexdigest()[2:40]}.png"

    with ThreadPoolExecutor() as pool:
        return dict(enumerate(pool.map(file, range(len(store)))))


def _read_cached(maps: LabelMaps, files: Mapping[int, Path], bar: tqdm) -> list[int]:
    """Fill in the label maps that are in the cache; numbers of the others."""

    def fill(index: int) -> bool:
        labels = _read_or_none(files[index])
        # A file that was cut short since, by a full disk or a copy, counts as missing and is written anew.
        if labels is None or labels.shape != tuple(maps.sizes[index]):
            return False
        maps.write(index, labels)
        return True

    missing = []
    with ThreadPoolExecutor() as pool:
        for index, found in zip(files, pool.map(fill, files), strict=True):
            if not found:
                missing.append(index)
            maps.found += found
            bar.update(found)
    return missing


def _read_or_none(path: Path) -> np.ndarray | None:
    try:
        return _read_png(path)
    except (OSError, SyntaxError, ValueError):  # Pillow raises any of these on a broken PNG
        return None


def _read_png(path: Path) -> np.ndarray:
    """Numbers of the pixels (H, W): palette indices as they are."""
    with Image.open(path, formats=["PNG"]) as image:
        if image.mode not in ("1", "L", "P", "I", "I;16"):
            raise ValueError(f"{path} has mode {image.mode}; expected one number per pixel (grey or palette).")
        return np.asarray(image)


def folder_masks(
    store: ImageStore,
    folder: str | os.PathLike[str],
    *,
    memory_cap_bytes: int = 2 * 2**30,
    progress: bool = True,
) -> LabelMaps:
    """Label maps from a folder: for the picture ``a/b.jpg`` the file ``FOLDER/a/b.png``.

    Grey levels, or numbers of a palette's colours, are the numbers of masks. Where a picture was scaled down when it
    was opened, its label map is too (:func:`resize_labels`).

    Parameters
    ----------
    store : ImageStore
    folder : path
    memory_cap_bytes, progress
        As in :func:`image_masks`.

    Returns
    -------
    LabelMaps

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If a picture has no file, or its file has another shape or no single number per pixel.

    Examples
    --------
    >>> from lcl.images import open_images
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "masks").mkdir(), (folder / "pictures").mkdir()
    (None, None)
    >>> Image.new("RGB", (40, 30)).save(folder / "pictures" / "a.jpg")
    >>> Image.new("L", (40, 30), 3).save(folder / "masks" / "a.png")
    >>> int(folder_masks(open_images(str(folder / "pictures")), folder / "masks", progress=False)[0].max())
    3
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"masks is {os.fspath(folder)!r}, which is no folder; expected {', '.join(MASKS)}, module:function or a "
            "folder of PNG label maps."
        )
    files = [folder / PurePosixPath(name).with_suffix(".png") for name in store.names]
    if without := [name for name, file in zip(store.names, files, strict=True) if not file.is_file()]:
        raise ValueError(
            f"{len(without)} of {len(store)} pictures have no label map in {folder}, such as {without[0]!r}; expected "
            f"{files[store.names.index(without[0])].relative_to(folder)}."
        )
    maps = LabelMaps(store.sizes, memory_cap_bytes=memory_cap_bytes)

    def fill(index: int) -> None:
        labels, (height, width) = _read_mask(files[index]), maps.sizes[index].tolist()
        # The long side of a picture is rounded when it is scaled.
        if abs(labels.shape[0] * width - labels.shape[1] * height) > max(labels.shape):
            raise ValueError(
                f"{files[index]} has {labels.shape[0]} x {labels.shape[1]} px, but its picture {height} x {width}; "
                "expected the same shape, or a picture that was scaled down."
            )
        maps.write(index, resize_labels(labels, (height, width)))

    with ThreadPoolExecutor() as pool, tqdm(total=len(store), desc="masks (folder)", disable=not progress) as bar:
        for _ in pool.map(fill, range(len(store))):
            maps.found += 1
            bar.update()
    return maps


def _read_mask(path: Path) -> np.ndarray:
    try:
        return _read_png(path)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected a PNG file.") from None


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest label of the centre of every new pixel.

    Parameters
    ----------
    labels : array of int, (H, W)
    size : (int, int)
        New height and width.

    Returns
    -------
    ndarray, ``size``

    Examples
    --------
    >>> resize_labels(np.array([[1, 2, 3, 4]]), (1, 2))
    array([[2, 4]])
    """
    row, column = ((2 * np.arange(n) + 1) * old // (2 * n) for n, old in zip(size, labels.shape, strict=True))
    return labels[np.ix_(row, column)]
