"""Where training images come from: the built-in photographs, a folder, HDF5, tar shards or arrays.

Every picture is decoded once into a bounded ``uint8`` store, in memory or memory-mapped, so that a training step only
copies pixels and never waits for a JPEG decoder. :func:`open_images` builds the store, an :class:`ImageStore`.

What happens to unusual pictures (each outcome is counted in :meth:`ImageStore.summary`):

================================  ===================================================================================
picture                           outcome
================================  ===================================================================================
short side above short_side_px    downscaled (anti-aliased) to short_side_px, aspect kept
short side below min_side_px      left out
unreadable, truncated, empty      left out, with the decoder's reason
not an image file                 left out and counted; a file without an image extension is recognised by its content
above 1 gigapixel                 left out
EXIF orientation                  applied
transparency                      composited over mid-grey (128), so that it adds no edge against black or white
16-bit grey                       scaled to 8 bits (65535 becomes 255)
floating point                    0..1 becomes 0..255; a file outside that range is left out, an array is an error
CMYK, palette, 1-bit, other       converted to RGB or grey; colour profiles are not applied
animated, several pages           first frame
grey picture, three channels      grey replicated
colour picture, one channel       luma, ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B
================================  ===================================================================================
"""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import stat
import tarfile
import tempfile
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import h5py
import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL import __version__ as pillow_version
from tqdm import tqdm

__all__ = ["BUILTIN", "ImageStore", "Photograph", "builtin_images", "open_images"]

FORMAT_NUMBER = 1  # of the files in store_dir; a change of the layout or of any outcome above raises it
GIGAPIXEL = 10**9
MID_GREY = 128

# EPS would run Ghostscript; the others are identified by Pillow but have no decoder in it.
_REFUSED_FORMATS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
_HDF5_SOURCE = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf|he5|mat|nc)):(?P<dataset>.+)", re.IGNORECASE)
_EXIF_ORIENTATION = 0x0112
_UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PILLOW_LOCK = threading.Lock()
_HUGE_PICTURE_LOCK = threading.Lock()
_HUGE_PX = 10**8

Item = TypeVar("Item")
Result = TypeVar("Result")


# ---------------------------------------------------------------------------------------------------------------------
# The built-in photographs


@dataclass(frozen=True)
class Photograph:
    """A photograph that is installed with scikit-image or scikit-learn.

    Attributes
    ----------
    name : str
        Short name.
    width_px, height_px : int
        Size in pixels.
    colour : bool
        Whether the file holds colour; grey otherwise.
    licence : str
        What the package that ships the file documents about its licence, no more.
    source : str
        Photographer or origin, as documented there.
    package, path : str
        Import name of the package and the file's path inside it.

    Examples
    --------
    >>> BUILTIN[0].name, BUILTIN[0].width_px, BUILTIN[0].height_px
    ('astronaut', 512, 512)
    """

    name: str
    width_px: int
    height_px: int
    colour: bool
    licence: str
    source: str
    package: str
    path: str


def _skimage(file: str, width_px: int, height_px: int, colour: bool, licence: str, source: str) -> Photograph:
    return Photograph(file.split(".")[0], width_px, height_px, colour, licence, source, "skimage", f"data/{file}")


def _sklearn(file: str, source: str) -> Photograph:
    path = f"datasets/images/{file}"
    return Photograph(file.split(".")[0], 640, 427, True, "CC BY 2.0 (attribution required)", source, "sklearn", path)


# Natural photographs only. Not taken, although in the same wheels: drawings, text and test charts (logo, horse, page,
# text, chessboards, colour wheel, phantom), microscopy and medical pictures (cell, ihc, retina, microaneurysms),
# motorcycle_right (the same scene again), clock_motion (motion blur along one orientation), hubble_deep_field (no
# surfaces), moon (no documented source).
#: The built-in photographs.
BUILTIN: tuple[Photograph, ...] = (
    _skimage("astronaut.png", 512, 512, True, "public domain", "NASA Great Images database: Eileen Collins"),
    _skimage("camera.png", 512, 512, False, "CC0", "Lav Varshney"),
    _skimage("chelsea.png", 451, 300, True, "CC0", "Stefan van der Walt"),
    _skimage("coffee.png", 600, 400, True, "CC0", "Rachel Michetti, courtesy of Pikolo Espresso Bar"),
    _skimage("rocket.jpg", 640, 427, True, "public domain, released by SpaceX", "SpaceX: launch of DSCOVR"),
    _skimage(
        "motorcycle_left.png", 741, 500, True, "not stated", "Middlebury stereo benchmark 2014, Scharstein et al."
    ),
    _skimage("brick.png", 512, 512, False, "CC0", "CC0Textures, Bricks25"),
    _skimage("grass.png", 512, 512, False, "CC0", "linolafett on DeviantArt, Grass 01"),
    _skimage("gravel.png", 512, 512, False, "CC0", "CC0Textures, Gravel04"),
    _skimage("coins.png", 384, 303, False, "no known copyright restrictions", "Brooklyn Museum: coins from Pompeii"),
    _sklearn("china.jpg", "danielbuechele, https://www.flickr.com/photos/danielbuechele/6061409035"),
    # scikit-learn's README prints danielbuechele for this one too, but links to vultilion.
    _sklearn("flower.jpg", "vultilion, https://www.flickr.com/photos/vultilion/6056698931"),
)


def _builtin_path(photograph: Photograph) -> Path:
    # find_spec locates the package without importing it: importing scikit-learn for two files would take a second.
    spec = importlib.util.find_spec(photograph.package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(folders[0], photograph.path) if folders else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"The built-in photograph {photograph.name!r} is not in the installed package {photograph.package!r} "
            f"({photograph.path}); reinstall it: pip install --force-reinstall scikit-image scikit-learn."
        )
    return path


def builtin_images() -> list[np.ndarray]:
    """Decode the built-in photographs; nothing is downloaded.

    Returns
    -------
    list of numpy.ndarray
        ``uint8``, (height, width, 3) for colour and (height, width) for grey, in the order of :data:`BUILTIN`.

    Raises
    ------
    FileNotFoundError
        If an installed package lacks its file.

    Examples
    --------
    >>> photographs = builtin_images()
    >>> len(photographs) == len(BUILTIN), photographs[0].shape, photographs[1].shape
    (True, (512, 512, 3), (512, 512))
    """
    images = []
    for photograph in BUILTIN:
        with Image.open(_builtin_path(photograph)) as image:
            images.append(np.array(image.convert("RGB" if photograph.colour else "L")))
    return images


# ---------------------------------------------------------------------------------------------------------------------
# The store


class ImageStore:
    """Pictures of any size in one flat ``uint8`` buffer, read-only.

    Made by :func:`open_images`.

    Attributes
    ----------
    channels : int
        1 (luma) or 3 (RGB).
    names : tuple of str
        One name per picture, sorted as the source lists them.
    sizes : numpy.ndarray
        (picture, 2), ``int64``: height and width in pixels.
    left_out : tuple of (str, str)
        Name and reason of every picture that was not kept. A reason is a category, or "category: detail".
    notes : dict of str to int
        How many kept pictures were converted, by kind of conversion.
    nbytes : int
        Bytes of the kept pictures.
    memory_mapped : bool
        Whether the pixels are in a file mapped into memory.
    label : str
        The source in words.
    store : str
        What became of ``store_dir``: hit, miss or not used.

    Examples
    --------
    >>> store = open_images([np.zeros((40, 60), np.uint8), np.full((50, 50), 255, np.uint8)], channels=1)
    >>> len(store), store[0].shape, store.sizes.tolist()
    (2, (40, 60, 1), [[40, 60], [50, 50]])
    >>> store.crops([0, 1], [3, 4], [20, 4], 32).mean(axis=(1, 2, 3)).tolist()
    [0.0, 255.0]
    """

    def __init__(
        self,
        buffer: np.ndarray,
        offsets: np.ndarray,
        sizes: np.ndarray,
        names: tuple[str, ...],
        *,
        channels: int,
        left_out: tuple[tuple[str, str], ...] = (),
        notes: dict[str, int] | None = None,
        label: str = "",
        store: str = "",
    ):
        self.channels, self.names, self.left_out, self.label, self.store = channels, names, left_out, label, store
        self.notes = dict(notes or {})
        self.memory_mapped = isinstance(buffer, np.memmap)
        self.sizes = np.array(sizes, dtype=np.int64).reshape(len(names), 2)
        self.nbytes = int(self.sizes.prod(axis=1).sum()) * channels
        self._buffer, self._offsets = buffer, np.asarray(offsets, dtype=np.int64)
        self._buffer.flags.writeable = self.sizes.flags.writeable = False

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return picture ``index`` as a read-only view, (height, width, channel)."""
        height, width = self.sizes[index].tolist()
        start = int(self._offsets[index])
        view = self._buffer[start : start + height * width * self.channels]
        return view.view(np.ndarray).reshape(height, width, self.channels)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def crops(
        self,
        index: np.ndarray | Sequence[int],
        top: np.ndarray | Sequence[int],
        left: np.ndarray | Sequence[int],
        side_px: int,
    ) -> np.ndarray:
        """Copy square patches out of pictures.

        Parameters
        ----------
        index : array_like of int
            (batch,) picture of each patch, 0 or more.
        top, left : array_like of int
            (batch,) upper left corner of each patch in pixels.
        side_px : int
            Side of every patch.

        Returns
        -------
        numpy.ndarray
            (batch, side_px, side_px, channel), ``uint8``, a new array.

        Raises
        ------
        IndexError
            If a picture does not exist.
        ValueError
            If the three arrays differ in length, are not whole numbers, or a patch reaches beyond its picture.

        Examples
        --------
        >>> picture = np.arange(24, dtype=np.uint8).reshape(4, 6)
        >>> open_images([picture], channels=1).crops([0], [1], [2], 2)[0, :, :, 0].tolist()
        [[8, 9], [14, 15]]
        """
        index, top, left = np.asarray(index), np.asarray(top), np.asarray(left)
        if not (index.ndim == 1 and index.shape == top.shape == left.shape):
            raise ValueError(
                "index, top and left must have the same shape (batch,), "
                f"but are {index.shape}, {top.shape} and {left.shape}."
            )
        if len(index) and not all(np.issubdtype(values.dtype, np.integer) for values in (index, top, left)):
            raise ValueError(
                f"index, top and left must be whole numbers, but are {index.dtype}, {top.dtype} and {left.dtype}."
            )
        index, top, left = (values.astype(np.int64) for values in (index, top, left))
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(
                f"The pictures are numbered 0 to {len(self) - 1}, but index has {index.min()}..{index.max()}."
            )
        sizes = self.sizes[index]
        inside = (top >= 0) & (left >= 0) & (top + side_px <= sizes[:, 0]) & (left + side_px <= sizes[:, 1])
        if side_px < 1 or not inside.all():
            bad = int(np.argmin(inside)) if len(index) else 0
            where = (
                f"at ({top[bad]}, {left[bad]}) in a picture of {sizes[bad, 0]} x {sizes[bad, 1]} px"
                if len(index)
                else ""
            )
            raise ValueError(f"A patch of {side_px} x {side_px} px {where} does not lie inside the picture.")
        # One row of a patch is contiguous in the buffer. Seen as items of row_bytes that start at every byte, all the
        # rows of all the patches are one gather of whole rows: several times faster than a slice per patch.
        row_bytes = side_px * self.channels
        stride = sizes[:, 1] * self.channels
        starts = self._offsets[index] + top * stride + left * self.channels
        rows = starts[:, None] + np.arange(side_px) * stride[:, None]
        row_type = np.dtype((np.void, row_bytes))
        windows = np.ndarray((max(self._buffer.size - row_bytes + 1, 0),), row_type, self._buffer.data, 0, (1,))
        return windows[rows].view(np.uint8).reshape(len(index), side_px, side_px, self.channels)

    def subset(self, indices: np.ndarray | Sequence[int]) -> ImageStore:
        """Return a store of some of the pictures that shares this store's pixels.

        Parameters
        ----------
        indices : array_like of int
            Pictures to keep, in the order wanted.

        Returns
        -------
        ImageStore

        Raises
        ------
        ValueError
            If no index is given, or the indices are not whole numbers (a boolean mask, for example).
        IndexError
            If a picture does not exist.

        Examples
        --------
        >>> store = open_images("builtin")
        >>> store.subset([2, 0]).names
        ('chelsea', 'astronaut')
        """
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or not len(chosen) or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(
                f"indices must be a list of at least one whole number, not {chosen.dtype} of shape {chosen.shape}."
            )
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise IndexError(
                f"The pictures are numbered 0 to {len(self) - 1}, but {chosen.min()}..{chosen.max()} is asked."
            )
        return ImageStore(
            self._buffer,
            self._offsets[chosen],
            self.sizes[chosen],
            tuple(self.names[i] for i in chosen.tolist()),
            channels=self.channels,
            left_out=self.left_out,
            notes=self.notes,
            label=f"{len(chosen)} of {len(self)} pictures of {self.label}",
            store=self.store,
        )

    def summary(self) -> str:
        """Say in a few sentences what was kept, left out and converted.

        Returns
        -------
        str

        Examples
        --------
        >>> print(open_images([np.zeros((40, 60), np.uint8), np.zeros((8, 8), np.uint8)], min_side_px=32).summary())
        2 arrays: 1 picture kept, 40 x 60 px, 3 channels, 7.2 kB in memory.
        Left out: 1 smaller than 32 px ('array 1').
        Converted: 1 grey replicated.
        """
        smallest, largest = (
            self.sizes[i] for i in (self.sizes.prod(axis=1).argmin(), self.sizes.prod(axis=1).argmax())
        )
        size = f"{smallest[0]} x {smallest[1]}"
        if (smallest != largest).any():
            size += f" to {largest[0]} x {largest[1]}"
        lines = [
            f"{self.label}: {_count(len(self), 'picture')} kept, {size} px, {_count(self.channels, 'channel')}, "
            f"{_bytes(self.nbytes)} {'mapped from a file' if self.memory_mapped else 'in memory'}."
        ]
        if self.left_out:
            lines.append(f"Left out: {_reasons(self.left_out)}.")
        if self.notes:
            lines.append("Converted: " + ", ".join(f"{n} {what}" for what, n in sorted(self.notes.items())) + ".")
        if self.store:
            lines.append(f"Store: {self.store}.")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"ImageStore({self.label!r}, {len(self)} pictures, {self.channels} channels, {_bytes(self.nbytes)})"


def open_images(
    source: Any,
    *,
    channels: int = 3,
    short_side_px: int = 512,
    min_side_px: int = 1,
    memory_cap_bytes: int = 2 * 2**30,
    store_cap_bytes: int = 64 * 2**30,
    store_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = False,
    workers: int | None = None,
) -> ImageStore:
    """Decode pictures once into a bounded store.

    Parameters
    ----------
    source : str, path or sequence
        One of

        - ``"builtin"``: the photographs in :data:`BUILTIN`;
        - a folder: every picture in it and below that Pillow reads, sorted by path, hidden files ignored;
        - ``"file.h5"`` or ``"file.h5:/path/to/dataset"``: shape (picture, height, width),
          (picture, height, width, channel) or (picture, channel, height, width), ``uint8``, ``uint16`` or floating
          point in 0..1; without a path the file must hold exactly one such dataset;
        - tar shards (WebDataset): ``"shard.tar"``, ``"folder/*.tar"`` or ``"shard-{000..012}.tar"``; every picture
          inside is taken, labels and captions are not;
        - a sequence of arrays (NumPy or torch, (height, width), (height, width, channel) or (channel, height, width);
          same types as HDF5) and of paths of picture files.
    channels : {3, 1}
        RGB, or luma.
    short_side_px : int
        A picture whose short side is longer is downscaled to it. This is a choice of this library: it bounds the
        memory a picture takes, and the pixels of a large camera picture are over-sampled (neighbours carry the same
        demosaiced, blurred signal), so that patches of them would show filters mostly the camera's blur.
    min_side_px : int
        A picture whose short side is shorter is left out; it is never enlarged.
    memory_cap_bytes : int
        Above this size the store is a memory-mapped file instead.
    store_cap_bytes : int
        Above this size a random subset that fits is kept and the rest is left out as "store is full".
    store_dir : path, optional
        Folder for the store's file. It is found again by content (paths, sizes and modification times of the source,
        options, versions), so that a second run decodes nothing. Without it, a store above ``memory_cap_bytes`` is in a
        temporary folder that is removed when the store goes.
    seed : int
        Of the random subset.
    progress : bool
        Show progress bars.
    workers : int, optional
        Decoding threads; by default one per processor this process may use. The result does not depend on it.

    Returns
    -------
    ImageStore

    Raises
    ------
    FileNotFoundError
        If the source does not exist.
    ValueError
        If the source is of no known kind, holds no pictures, none is left after exclusions, array values are outside
        their range, or an option is impossible.
    OSError
        If the disk has no room for a memory-mapped store.

    Notes
    -----
    While pictures are decoded Pillow's process-wide size limit is lifted (panoramas exceed it; pictures above one
    gigapixel are refused here instead), truncated files are errors, and its warnings are silenced. All is put back at
    the end; calls from several threads take turns.

    Examples
    --------
    >>> store = open_images("builtin", channels=1, min_side_px=64)
    >>> print(store.summary())
    built-in photographs: 12 pictures kept, 303 x 384 to 500 x 741 px, 1 channel, 3.0 MB in memory.
    Converted: 7 colour to luma.
    """
    options = {"channels": channels, "short_side_px": short_side_px, "min_side_px": min_side_px, "seed": seed}
    _check_options(**options, memory_cap_bytes=memory_cap_bytes, store_cap_bytes=store_cap_bytes, workers=workers)
    options |= {"store_cap_bytes": store_cap_bytes, "pillow": pillow_version, "format": FORMAT_NUMBER}
    threads = workers or _available_processors()
    with ExitStack() as resources:
        listing = _list_source(source, resources)
        files = None
        if store_dir is not None:
            files = _store_files(Path(store_dir).expanduser(), listing, options)
            if (found := _read_store(files, listing, channels, memory_cap_bytes)) is not None:
                return found
        resources.enter_context(_strict_pillow())
        headers = _in_order(_header, listing.entries, workers=threads, label="headers", progress=progress)
        entries, slots, left_out = _plan(listing, headers, channels, short_side_px, min_side_px, store_cap_bytes, seed)
        ends = np.cumsum(slots)

        def fill(buffer: np.ndarray) -> dict[str, Any]:
            jobs = list(zip(entries, np.split(buffer, ends[:-1]), strict=True))
            decode = partial(_decode, channels=channels, short_side_px=short_side_px)
            results = _in_order(decode, jobs, workers=threads, label="pictures", progress=progress)
            kept = [(i, result) for i, result in enumerate(results) if not isinstance(result, str)]
            failed = [(entries[i].name, result) for i, result in enumerate(results) if isinstance(result, str)]
            if not kept:
                raise ValueError(_nothing_left(listing, left_out + failed, min_side_px))
            return {
                "names": [entries[i].name for i, _ in kept],
                "offsets": [int(ends[i] - slots[i]) for i, _ in kept],
                "sizes": [[height, width] for _, (height, width, _) in kept],
                "left_out": sorted(left_out + failed),
                "notes": dict(Counter(note for _, (*_, notes) in kept for note in notes)),
            }

        buffer, index = _filled_buffer(int(ends[-1]), fill, memory_cap_bytes, files.pixels if files else None)
    if files:
        _write_index(files.index, index | {"options": options, "bytes": len(buffer)})
    return _store(buffer, index, listing, channels, f"miss, written to {files.pixels}" if files else "")


def _check_options(**options: Any) -> None:
    if options["channels"] not in (1, 3):
        raise ValueError(f"channels={options['channels']!r} must be 3 (RGB) or 1 (luma).")
    for name in ("short_side_px", "min_side_px", "memory_cap_bytes", "store_cap_bytes", "workers"):
        value, least = options[name], 0 if name == "memory_cap_bytes" else 1
        if value is not None and value < least:
            raise ValueError(f"{name}={value!r} must be {least} or more.")
    if options["min_side_px"] > options["short_side_px"]:
        raise ValueError(
            f"min_side_px={options['min_side_px']} is larger than short_side_px={options['short_side_px']}, to which "
            "pictures are downscaled, so that none could be kept; raise short_side_px."
        )


def _store(buffer: np.ndarray, index: dict[str, Any], listing: _Listing, channels: int, store: str) -> ImageStore:
    return ImageStore(
        buffer,
        np.array(index["offsets"], np.int64),
        np.array(index["sizes"], np.int64),
        tuple(index["names"]),
        channels=channels,
        left_out=tuple((name, reason) for name, reason in index["left_out"]),
        notes=index["notes"],
        label=listing.label,
        store=store,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sources: each becomes a list of entries whose size can be known before their pixels


@dataclass(frozen=True, slots=True)
class _File:
    """A picture file, or the part of a tar file that is one."""

    name: str
    path: str
    nbytes: int
    modified_ns: int
    start: int | None = None

    def open(self) -> BinaryIO:
        if self.start is None:
            return open(self.path, "rb")  # noqa: PTH123 - a Path per file would cost more than its header
        return io.BufferedReader(_Slice(self.path, self.start, self.nbytes))  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class _Array:
    """A picture that is already an array, in memory or in HDF5."""

    name: str
    height_px: int
    width_px: int
    read: Callable[[], np.ndarray]  # (height, width) or (height, width, channel)


@dataclass(frozen=True)
class _Listing:
    label: str
    entries: list[_File] | list[_Array] | list[_File | _Array]
    left_out: list[tuple[str, str]]
    fingerprint: Callable[[], Iterable[Any]]  # what the content depends on; called only when a store is kept
    folder: Path | None = None


class _Slice(io.RawIOBase):
    """A part of a file as a file, so that threads read pictures out of one tar file independently."""

    def __init__(self, path: str, start: int, length: int):
        self._file = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 - closed by close()
        self._start, self._length, self._position = start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._length - self._position))
        self._file.seek(self._start + self._position)
        count = self._file.readinto(memoryview(buffer)[:wanted]) or 0
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _list_source(source: Any, resources: ExitStack) -> _Listing:
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        if text == "builtin":
            return _list_builtin()
        path = Path(text).expanduser()
        if path.is_dir():
            return _list_folder(path)
        if path.is_file() and h5py.is_hdf5(path):
            return _list_hdf5(path, None, resources)
        if not path.exists() and (match := _HDF5_SOURCE.fullmatch(text)):
            return _list_hdf5(Path(match["file"]).expanduser(), match["dataset"], resources)
        if re.search(r"\.(tar|tgz|tar\.\w+)$", text):
            return _list_shards(text)
        if path.is_file():
            return _list_sequence([path])
        raise FileNotFoundError(
            f"No images at {text!r}: expected 'builtin', an existing folder, an HDF5 file ('file.h5:/dataset') or tar "
            "shards ('shard-{000..012}.tar'); check the path."
        )
    if hasattr(source, "__iter__") and not isinstance(source, (bytes, dict)):
        return _list_sequence(list(source))
    raise ValueError(
        f"A source of type {type(source).__name__} is not known: give 'builtin', the path of a folder, of an HDF5 file "
        "or of tar shards, or a list of arrays or paths."
    )


def _list_builtin() -> _Listing:
    images = [_array_entry(p.name, image) for p, image in zip(BUILTIN, builtin_images(), strict=True)]
    return _Listing("built-in photographs", images, [], lambda: _array_fingerprints(images))


def _list_folder(folder: Path) -> _Listing:
    entries: list[_File] = []
    left_out: list[tuple[str, str]] = []
    visited: set[tuple[int, int]] = set()
    prefix = len(os.fspath(folder).rstrip(os.sep)) + 1

    def walk(directory: str) -> None:
        status = os.stat(directory)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in visited:
            return  # a link back to a folder already listed
        visited.add((status.st_dev, status.st_ino))
        try:
            with os.scandir(directory) as scan:
                found = sorted((entry.name, entry.path) for entry in scan if not entry.name.startswith("."))
        except PermissionError:
            left_out.append((directory[prefix:] + os.sep, "permission denied"))
            return
        for _, path in found:
            name = path[prefix:].replace(os.sep, "/")
            try:
                status = os.stat(path)  # noqa: PTH116
            except OSError as error:
                left_out.append((name, f"unreadable: {error.strerror}"))
                continue
            if stat.S_ISDIR(status.st_mode):
                walk(path)
            elif stat.S_ISREG(status.st_mode):
                entries.append(_File(name, path, status.st_size, status.st_mtime_ns))
            else:
                left_out.append((name, "not an image file"))

    walk(os.fspath(folder))
    if not entries and not left_out:
        raise ValueError(f"The folder {os.fspath(folder)!r} is empty: put picture files (JPEG, PNG, TIFF, ...) there.")
    return _Listing(
        os.fspath(folder), entries, left_out, lambda: [os.path.realpath(folder), *_file_fingerprints(entries)], folder
    )


def _list_sequence(items: list[Any]) -> _Listing:
    if not items:
        raise ValueError("The list of images is empty: give at least one array or path.")
    entries: list[_File | _Array] = []
    for number, item in enumerate(items):
        if isinstance(item, (str, os.PathLike)):
            path = Path(item).expanduser()
            if not path.is_file():
                problem = "is a folder, give it as the source itself" if path.is_dir() else "does not exist"
                kind = ValueError if path.is_dir() else FileNotFoundError
                raise kind(f"Item {number} of the list, {os.fspath(item)!r}, {problem}; expected picture files.")
            status = path.stat()
            entries.append(_File(os.fspath(item), os.fspath(path), status.st_size, status.st_mtime_ns))
        else:
            if hasattr(item, "detach"):  # a torch tensor
                item = item.detach().cpu()
                item = (item.float() if item.is_floating_point() else item).numpy()
            entries.append(_array_entry(f"array {number}", item))
    arrays = [entry for entry in entries if isinstance(entry, _Array)]
    files = [entry for entry in entries if isinstance(entry, _File)]
    label = " and ".join(_count(len(kind), word) for kind, word in ((arrays, "array"), (files, "file")) if kind)
    return _Listing(label, entries, [], lambda: [*_array_fingerprints(arrays), *_file_fingerprints(files)])


def _list_shards(pattern: str) -> _Listing:
    paths = [Path(path).expanduser() for path in _expand_braces(pattern)]
    if glob.has_magic(pattern):
        paths = sorted(Path(found) for path in paths for found in glob.glob(os.fspath(path)))  # noqa: PTH207
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        problem = f"{len(missing)} of {len(paths)} do not exist, first {os.fspath(missing[0])!r}" if missing else "none"
        raise FileNotFoundError(f"Tar shards {pattern!r}: {problem}; expected .tar files, check the pattern.")
    entries: list[_File] = []
    left_out: list[tuple[str, str]] = []
    for path in paths:
        modified_ns = path.stat().st_mtime_ns
        try:
            # "r:" accepts uncompressed tar only: pictures are read by position, by several threads.
            with tarfile.open(path, "r:") as shard, path.open("rb") as blocks:
                for member in _members(shard):
                    base = PurePosixPath(member.name).name
                    if member.isreg() and not base.startswith(".") and _has_image_extension(base):
                        name = f"{path.name}/{member.name}"
                        entries.append(_File(name, os.fspath(path), member.size, modified_ns, member.offset_data))
                blocks.seek(shard.offset)
                if blocks.read(512) != bytes(512):  # a complete tar file ends in zero blocks
                    left_out.append((path.name, "truncated shard"))
        except tarfile.TarError as error:
            raise ValueError(
                f"{os.fspath(path)!r} is not an uncompressed tar file ({error}); decompress or rebuild the shard."
            ) from error
    label = pattern if len(paths) == 1 else f"{pattern} ({len(paths)} shards)"
    return _Listing(label, entries, left_out, lambda: _file_fingerprints(entries))


def _members(shard: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while True:
        try:
            member = shard.next()
        except tarfile.ReadError:
            return  # the file ends early; what came before is usable
        if member is None:
            return
        yield member


def _expand_braces(pattern: str) -> list[str]:
    """Expand ``{000..012}`` (zero-padded like its first number) and ``{train,val}``."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if not match:
        return [pattern]
    first, last, words = match.groups()
    if words is None:
        words = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    else:
        words = words.split(",")
    return [text for word in words for text in _expand_braces(pattern[: match.start()] + word + pattern[match.end() :])]


def _list_hdf5(path: Path, dataset: str | None, resources: ExitStack) -> _Listing:
    if not path.is_file():
        raise FileNotFoundError(f"No HDF5 file at {os.fspath(path)!r}; expected 'file.h5' or 'file.h5:/dataset'.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{os.fspath(path)!r} is not an HDF5 file; expected 'file.h5' or 'file.h5:/dataset'.")
    # A large chunk cache: neighbouring pictures often share one compressed chunk, which is then read once.
    file = resources.enter_context(h5py.File(path, "r", rdcc_nbytes=256 * 2**20, rdcc_nslots=100_003))
    found: dict[str, tuple[int, ...]] = {}
    file.visititems(lambda name, item: found.update({"/" + name: item.shape}) if _holds_images(item) else None)
    listed = ", ".join(f"{name} {shape}" for name, shape in list(found.items())[:10]) or "none"
    if dataset is None:
        if len(found) != 1:
            raise ValueError(
                f"{os.fspath(path)!r} must hold exactly one dataset of images or be given as 'file.h5:/dataset'; "
                f"datasets that look like images: {listed}."
            )
        dataset = next(iter(found))
    pictures = file.get(dataset)
    if not isinstance(pictures, h5py.Dataset) or not _holds_images(pictures):
        exists = isinstance(pictures, h5py.Dataset)
        is_a = f"has shape {pictures.shape}, {pictures.dtype}" if exists else "is no dataset"
        raise ValueError(
            f"{dataset!r} in {os.fspath(path)!r} {is_a}; expected (n, height, width[, channel]) or "
            f"(n, channel, height, width) of uint8, uint16 or floats in 0..1; datasets that look like images: {listed}."
        )
    name = dataset.strip("/")
    channels_first = pictures.ndim == 4 and pictures.shape[3] not in (1, 3, 4)
    height, width = pictures.shape[2:] if channels_first else pictures.shape[1:3]

    def reader(row: int) -> Callable[[], np.ndarray]:
        return lambda: np.moveaxis(pictures[row], 0, -1) if channels_first else pictures[row]

    entries = [_Array(f"{name}[{row}]", height, width, reader(row)) for row in range(pictures.shape[0])]
    status = path.stat()
    state = [os.path.realpath(path), dataset, status.st_size, status.st_mtime_ns]
    return _Listing(f"{os.fspath(path)}:{dataset}", entries, [], lambda: state)


def _holds_images(item: Any) -> bool:
    if not isinstance(item, h5py.Dataset) or item.dtype not in ("uint8", "uint16", "float16", "float32", "float64"):
        return False
    if item.ndim == 3:
        return item.shape[0] > 0 and min(item.shape[1:]) > 4
    return item.ndim == 4 and item.shape[0] > 0 and (item.shape[3] in (1, 3, 4) or item.shape[1] in (1, 3, 4))


def _array_entry(name: str, item: Any) -> _Array:
    array = np.asarray(item)
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        raise ValueError(
            f"{name} has shape {array.shape}; expected (height, width), (height, width, channel) or "
            "(channel, height, width) with 1, 3 or 4 channels."
        )
    return _Array(name, array.shape[0], array.shape[1], lambda: array)


def _file_fingerprints(files: Iterable[_File]) -> Iterator[Any]:
    return ((file.name, file.path, file.nbytes, file.modified_ns, file.start) for file in files)


def _array_fingerprints(arrays: Iterable[_Array]) -> Iterator[Any]:
    for entry in arrays:
        array = np.ascontiguousarray(entry.read())
        yield entry.name, array.shape, str(array.dtype), hashlib.sha256(array.view(np.uint8).data).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Headers, plan, pixels


@contextmanager
def _strict_pillow() -> Iterator[None]:
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


@lru_cache(maxsize=1)
def _formats() -> tuple[list[str], list[str], frozenset[str]]:
    """Return every format read, those that are recognised by their first bytes, and the extensions."""
    Image.init()
    formats = [name for name in Image.ID if name not in _REFUSED_FORMATS]
    extensions = frozenset(ext for ext, name in Image.registered_extensions().items() if name in formats)
    return formats, [name for name in formats if Image.OPEN[name][1] is not None], extensions


def _has_image_extension(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _formats()[2]  # noqa: PTH122


def _open_picture(file: _File, stream: BinaryIO) -> Image.Image:
    formats, recognisable, _ = _formats()
    return Image.open(stream, formats=formats if _has_image_extension(file.name) else recognisable)


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, UnidentifiedImageError):
        return "unreadable: no picture in it"
    message = " ".join(str(error).split())[:100] or type(error).__name__
    return f"unreadable: {message}"


def _header(entry: _File | _Array) -> tuple[int, int] | str:
    """Return the two sides in pixels, in any order (an orientation may yet swap them), or why there are none."""
    if isinstance(entry, _Array):
        return entry.height_px, entry.width_px
    if entry.nbytes == 0:
        return "empty file" if _has_image_extension(entry.name) else "not an image file"
    try:
        with entry.open() as stream, _open_picture(entry, stream) as image:
            width, height = image.size
    except PermissionError as error:
        return _reason(error)
    except Exception as error:  # decoders raise almost anything on a broken file
        return _reason(error) if _has_image_extension(entry.name) else "not an image file"
    if width * height > GIGAPIXEL:
        return f"larger than 1 gigapixel: {width} x {height}"
    return height, width


def _scaled(sides: tuple[int, int], short_side_px: int) -> tuple[int, int]:
    short = min(sides)
    if short <= short_side_px:
        return sides
    first, second = (short_side_px if side == short else round(side * short_side_px / short) for side in sides)
    return first, second


def _plan(
    listing: _Listing,
    headers: list[tuple[int, int] | str],
    channels: int,
    short_side_px: int,
    min_side_px: int,
    store_cap_bytes: int,
    seed: int,
) -> tuple[list[_File | _Array], np.ndarray, list[tuple[str, str]]]:
    """Decide from the headers alone which pictures are kept, and how many bytes each will take."""
    left_out = list(listing.left_out)
    kept: list[_File | _Array] = []
    nbytes: list[int] = []
    for entry, header in zip(listing.entries, headers, strict=True):
        if isinstance(header, str):
            left_out.append((entry.name, header))
        elif min(header) < min_side_px:
            left_out.append((entry.name, f"smaller than {min_side_px} px: {min(header)}"))
        else:
            first, second = _scaled(header, short_side_px)
            kept.append(entry)
            nbytes.append(first * second * channels)
    if not kept:
        raise ValueError(_nothing_left(listing, left_out, min_side_px))
    if sum(nbytes) <= store_cap_bytes:
        return kept, np.array(nbytes, np.int64), left_out
    chosen, filled = [], 0
    for i in np.random.default_rng(seed).permutation(len(kept)).tolist():
        if filled + nbytes[i] <= store_cap_bytes:
            chosen.append(i)
            filled += nbytes[i]
    if not chosen:
        raise ValueError(
            f"store_cap_bytes={store_cap_bytes} holds not even the smallest picture of {listing.label!r}, which takes "
            f"{min(nbytes)} bytes; raise it or lower short_side_px."
        )
    chosen.sort()
    left_out += [(kept[i].name, "store is full") for i in sorted(set(range(len(kept))) - set(chosen))]
    return [kept[i] for i in chosen], np.array([nbytes[i] for i in chosen], np.int64), left_out


def _decode(
    job: tuple[_File | _Array, np.ndarray], *, channels: int, short_side_px: int
) -> tuple[int, int, list[str]] | str:
    """Write a picture's pixels into its slot; return height, width and notes, or why that failed."""
    entry, slot = job
    notes: list[str] = []
    if isinstance(entry, _Array):
        array = _to_uint8(entry.read(), entry.name)
        image = Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2:] == (1,) else array))
        pixels = _to_pixels(image, image.size, channels, short_side_px, 1, notes)
    else:
        try:
            with entry.open() as stream, _open_picture(entry, stream) as image, _turn(image):
                pixels = _file_pixels(image, channels, short_side_px, notes)
        except Exception as error:
            return _reason(error)
    height, width = pixels.shape[:2]
    if height * width * channels != slot.size:
        return "unreadable: its size is not the one its header gives"
    slot.reshape(height, width, channels)[...] = pixels
    return height, width, notes


def _turn(image: Image.Image) -> AbstractContextManager[Any]:
    """Decode very large pictures one at a time, so that threads do not multiply their memory."""
    return _HUGE_PICTURE_LOCK if image.width * image.height > _HUGE_PX else nullcontext()


def _file_pixels(image: Image.Image, channels: int, short_side_px: int, notes: list[str]) -> np.ndarray:
    size = image.size
    if getattr(image, "is_animated", False) and image.format not in ("MPO", "PSD"):  # those hold previews and layers
        notes.append("first frame of several")
        image.seek(0)
    width, height = _scaled(size, short_side_px)
    image.draft(None, (2 * width, 2 * height))  # a JPEG is decoded at 1/2, 1/4 or 1/8 size, at least twice the target
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a broken EXIF block is no reason to lose the picture
        notes.append("broken EXIF ignored")
        orientation = 1
    if orientation in _UNDO_ORIENTATION:
        notes.append("EXIF rotated")
    image.load()
    if image.format == "TIFF":  # Pillow has applied a TIFF's orientation by now
        size, orientation = image.size, 1
    return _to_pixels(image, size, channels, short_side_px, orientation, notes)


def _to_pixels(
    image: Image.Image, size: tuple[int, int], channels: int, short_side_px: int, orientation: int, notes: list[str]
) -> np.ndarray:
    """Return (height, width, 1 or channels) uint8; ``size`` is the (width, height) before any draft decoding."""
    image = _to_grey_or_rgb(image, notes)
    if channels == 1 and image.mode == "RGB":
        image = image.convert("L")
        notes.append("colour to luma")
    elif channels == 3 and image.mode == "L":
        notes.append("grey replicated")
    target = _scaled(size, short_side_px)
    if target != size:
        image = image.resize(target, Image.Resampling.BICUBIC, reducing_gap=2.0)
        notes.append("downscaled")
    if orientation in _UNDO_ORIENTATION:
        image = image.transpose(_UNDO_ORIENTATION[orientation])
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _to_grey_or_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        notes.append("floating point scaled" if mode == "F" else "16-bit scaled")
        values = np.asarray(image)
        if mode == "I":  # Pillow hands some 16-bit files over as 32-bit integers
            if values.min() < 0 or values.max() > 65535:
                raise ValueError(f"the file has values from {values.min()} to {values.max()}; expected 0..65535")
            values = values.astype(np.uint16)
        return Image.fromarray(_to_uint8(values, "the file"))
    if mode == "P":
        notes.append("palette expanded")
    elif mode == "1":
        notes.append("1-bit expanded")
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        notes.append(f"{mode} converted")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opacity = image.getchannel("A").getextrema()
        if opacity != (255, 255):
            notes.append("alpha over mid-grey")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (MID_GREY, MID_GREY, MID_GREY, 255)), image)
    wanted = "L" if mode in ("1", "L", "LA", "La") else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """Map 16-bit integers from 0..65535 and floats from 0..1 to 0..255; ``uint8`` stays."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    floating = np.issubdtype(values.dtype, np.floating)
    if not floating and values.dtype.newbyteorder("=") != np.uint16:
        raise ValueError(f"{name} is {values.dtype}; expected uint8, uint16 or floating point in 0..1.")
    if floating:
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):  # also true for NaN
            raise ValueError(f"{name} has values from {low:g} to {high:g}; expected 0..1: rescale them.")
        return np.rint(values * values.dtype.type(255)).astype(np.uint8)
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _in_order(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, label: str, progress: bool
) -> list[Result]:
    """Apply a function in threads; the results come in the order of the items."""
    size = min(64, max(1, len(items) // (8 * workers)))  # a future per tiny picture would cost more than its header
    batches = [items[i : i + size] for i in range(0, len(items), size)]
    results: list[Result] = []
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(items), desc=label, disable=not progress) as bar:
        futures = [pool.submit(lambda batch: [function(item) for item in batch], batch) for batch in batches]
        try:
            for future in futures:
                done = future.result()
                results += done
                bar.update(len(done))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _available_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------------------------------
# The store on disk


@dataclass(frozen=True)
class _StoreFiles:
    folder: Path
    pixels: Path
    index: Path


def _store_files(folder: Path, listing: _Listing, options: dict[str, Any]) -> _StoreFiles:
    if listing.folder is not None and folder.resolve().is_relative_to(listing.folder.resolve()):
        raise ValueError(
            f"store_dir={os.fspath(folder)!r} lies inside the folder of pictures {os.fspath(listing.folder)!r}; "
            "choose another place."
        )
    digest = hashlib.sha256(json.dumps([options, listing.left_out]).encode())
    for part in listing.fingerprint():
        digest.update(json.dumps(part).encode())
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"images-{digest.hexdigest()[:24]}"
    return _StoreFiles(folder, folder / f"{stem}.u8", folder / f"{stem}.json")


def _read_store(files: _StoreFiles, listing: _Listing, channels: int, memory_cap_bytes: int) -> ImageStore | None:
    # The index is written last, so that it vouches for the pixels; a store cut short since is built again.
    if not (files.index.is_file() and files.pixels.is_file()):
        return None
    index = json.loads(files.index.read_text(encoding="utf-8"))
    if files.pixels.stat().st_size != index["bytes"]:
        return None
    if index["bytes"] > memory_cap_bytes:
        buffer = np.memmap(files.pixels, np.uint8, "r")
    else:
        buffer = np.fromfile(files.pixels, np.uint8)
    return _store(buffer, index, listing, channels, f"hit, {files.pixels}")


def _filled_buffer(
    nbytes: int, fill: Callable[[np.ndarray], dict[str, Any]], memory_cap_bytes: int, path: Path | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Allocate a buffer in memory or, above the cap, in a mapped file, and fill it; ``path`` keeps it in a file too."""
    mapped = nbytes > memory_cap_bytes
    if path is None and not mapped:
        buffer = np.empty(nbytes, np.uint8)
        return buffer, fill(buffer)
    if path is None:
        folder = Path(tempfile.mkdtemp(prefix="lcl-images-"))
        try:
            buffer, index = _filled_buffer(nbytes, fill, memory_cap_bytes, folder / "images.u8")
        except BaseException:
            shutil.rmtree(folder)
            raise
        weakref.finalize(buffer, shutil.rmtree, folder, ignore_errors=True)  # also runs at exit
        return buffer, index
    free = shutil.disk_usage(path.parent).free
    if nbytes > free:  # a mapped file on a full disk would end the process with a bus error
        raise OSError(
            f"The store needs {_bytes(nbytes)} but {os.fspath(path.parent)!r} has {_bytes(free)} free; give another "
            "store_dir, or lower store_cap_bytes or short_side_px."
        )
    handle, name = tempfile.mkstemp(suffix=".tmp", prefix=f"{path.stem}-", dir=path.parent)
    os.close(handle)
    try:
        buffer = np.memmap(name, np.uint8, "w+", shape=(nbytes,)) if mapped else np.empty(nbytes, np.uint8)
        index = fill(buffer)
        if isinstance(buffer, np.memmap):
            buffer.flush()
            del buffer  # some systems refuse to rename a file that is mapped
            Path(name).replace(path)
            buffer = np.memmap(path, np.uint8, "r")
        else:
            buffer.tofile(name)
            Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return buffer, index


def _write_index(path: Path, index: dict[str, Any]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(index), encoding="utf-8")
    temporary.replace(path)


# ---------------------------------------------------------------------------------------------------------------------
# Words


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _bytes(n: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"


def _reasons(left_out: Iterable[tuple[str, str]]) -> str:
    """Return the number and the first names of the pictures left out, by category of reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out:
        by_reason.setdefault(reason.partition(":")[0], []).append(name)
    parts = []
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        parts.append(f"{len(names)} {reason} ({', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''})")
    return ", ".join(parts)


def _nothing_left(listing: _Listing, left_out: list[tuple[str, str]], min_side_px: int) -> str:
    small = [int(reason.partition(": ")[2]) for _, reason in left_out if reason.startswith("smaller than")]
    if small:
        advice = f"the largest short side is {max(small)} px and min_side_px={min_side_px}, give larger pictures"
    elif any(name.endswith((".tar", ".h5", ".hdf5")) for name, _ in left_out):
        advice = "give tar shards as 'folder/*.tar' and HDF5 as 'file.h5:/dataset'"
    else:
        advice = "expected picture files that Pillow reads, such as JPEG, PNG or TIFF"
    return f"No usable picture in {listing.label!r}: {_reasons(left_out) or 'it holds none'}; {advice}."
