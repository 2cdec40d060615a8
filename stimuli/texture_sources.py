"""Pictures whose texture is synthesised anew: photographs that may be passed on, a user's folder, and drawn ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Picture = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TextureSource:
    """A grey picture, and where it comes from.

    Attributes
    ----------
    name : str
        Of the family of textures made from it.
    picture : ndarray, (row, column)
        Levels in [0, 1].
    kind : str
        ``"photograph"``, ``"print"`` or ``"procedural"``.
    origin : str
    licence : str

    Raises
    ------
    ValueError
        If the picture is not a grey one in [0, 1], or blank; or the name cannot be part of a file name.

    Examples
    --------
    >>> TextureSource("ramp", np.linspace(0, 1, 64).reshape(8, 8), kind="procedural").picture.shape
    (8, 8)
    """

    name: str
    picture: Picture
    kind: str = "photograph"
    origin: str = ""
    licence: str = "not stated"

    def __post_init__(self) -> None:
        picture = np.asarray(self.picture, dtype=np.float64)
        if picture.ndim != 2 or not (picture.min(initial=0.0) >= 0 and picture.max(initial=1.0) <= 1):
            raise ValueError(f"source {self.name!r} has shape {picture.shape}; expected (row, column) in [0, 1].")
        if picture.std() == 0:
            raise ValueError(f"source {self.name!r} is blank; a texture needs contrast.")
        if not self.name or not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"source is called {self.name!r}; expected letters, digits, - and _, such as 'grass'.")
        object.__setattr__(self, "picture", picture)


def resample(picture: ArrayLike, size_px: int) -> Picture:
    """Central square of a picture at another size: area averages when it shrinks, bicubic when it grows.

    Parameters
    ----------
    picture : array_like, (row, column)
        In [0, 1].
    size_px : int

    Returns
    -------
    ndarray, (size_px, size_px)
        In [0, 1].

    Examples
    --------
    >>> resample([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.5, 0.5]], 1)
    array([[0.375]])
    """
    levels = np.asarray(picture, dtype=np.float32)
    side = min(levels.shape)
    row, column = ((each - side) // 2 for each in levels.shape)
    square = Image.fromarray(np.ascontiguousarray(levels[row : row + side, column : column + side]))
    method = Image.Resampling.BOX if size_px <= side else Image.Resampling.BICUBIC
    return np.clip(np.asarray(square.resize((size_px, size_px), method), dtype=np.float64), 0.0, 1.0)


def periodic_component(picture: ArrayLike) -> Picture:
    """Picture without the jumps between its opposite borders (periodic plus smooth decomposition, Moisan 2011).

    Statistics of a Fourier pyramid take a picture to repeat itself; jumps at the borders would be texture to them, and
    come back in syntheses as specks. What is taken away is smooth inside the picture, and has no mean.

    Parameters
    ----------
    picture : array_like, (row, column)

    Returns
    -------
    ndarray, (row, column)

    Examples
    --------
    >>> ramp = np.tile(np.linspace(0, 1, 64), (64, 1))
    >>> flat = periodic_component(ramp)
    >>> bool(np.abs(flat[:, 0] - flat[:, -1]).max() < 0.05), round(float(flat.mean()), 6)
    (True, 0.5)
    """
    u = np.asarray(picture, dtype=np.float64)
    jumps = np.zeros_like(u)
    jumps[0] += u[-1] - u[0]
    jumps[-1] -= u[-1] - u[0]
    jumps[:, 0] += u[:, -1] - u[:, 0]
    jumps[:, -1] -= u[:, -1] - u[:, 0]
    rows, columns = u.shape
    q = 2 * np.cos(2 * np.pi * np.arange(rows) / rows)[:, None]
    r = 2 * np.cos(2 * np.pi * np.arange(columns // 2 + 1) / columns)[None]
    laplacian = q + r - 4
    laplacian[0, 0] = 1.0
    smooth = np.fft.rfft2(jumps) / laplacian
    smooth[0, 0] = 0.0
    return u - np.fft.irfft2(smooth, s=u.shape)


def read_grey(path: str | Path) -> Picture:
    """Grey levels in [0, 1] of an 8-bit picture (luma of ITU-R 601 for colours).

    Parameters
    ----------
    path : path

    Returns
    -------
    ndarray, (row, column)

    Raises
    ------
    ValueError
        If the file has more than 8 bits or is not a picture.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("1", "L", "P", "RGB", "RGBA"):
                raise ValueError(f"{path} has mode {image.mode}; expected a grey or RGB picture of 8 bits.")
            return np.asarray(image.convert("RGB" if image.mode in ("P", "RGBA") else image.mode).convert("L")) / 255.0
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}.") from error


#: Windows of scikit-image's photographs: file, first row, first column, side in pixels, licence as its documentation
#: states it.
PHOTOGRAPHS = {
    "brick": ("brick.png", 128, 64, 384, "CC0 (CC0Textures, Bricks25)"),
    "fur": ("chelsea.png", 0, 176, 80, "CC0 (Stefan van der Walt)"),
    "grass": ("grass.png", 0, 0, 256, "CC0 (CC0Textures)"),
    "gravel": ("gravel.png", 100, 100, 256, "CC0 (CC0Textures, Gravel04)"),
    "lawn": ("camera.png", 384, 400, 112, "CC0 (Lav Varshney)"),
    "stars": ("hubble_deep_field.jpg", 0, 0, 512, "public domain (NASA)"),
    "wood": ("coffee.png", 310, 0, 80, "CC0 (Rachel Michetti)"),
}


def photographs() -> list[TextureSource]:
    """Windows of photographs that come with scikit-image, in the public domain; nothing is downloaded.

    Returns
    -------
    list of TextureSource
        In the order of ``PHOTOGRAPHS``.

    Raises
    ------
    FileNotFoundError
        If the installed scikit-image does not carry one of them.

    Examples
    --------
    >>> [source.name for source in photographs()]
    ['brick', 'fur', 'grass', 'gravel', 'lawn', 'stars', 'wood']
    """
    import skimage.data

    folder = Path(skimage.data.__path__[0])
    sources = []
    for name, (file, row, column, side, licence) in PHOTOGRAPHS.items():
        if not (folder / file).is_file():
            raise FileNotFoundError(f"scikit-image came without {file}; install scikit-image 0.22 to 0.26.")
        picture = read_grey(folder / file)[row : row + side, column : column + side]
        where = f"scikit-image, {file}, rows {row} to {row + side - 1}, columns {column} to {column + side - 1}"
        sources.append(TextureSource(name, picture, origin=where, licence=licence))
    return sources


def portilla_simoncelli() -> list[TextureSource]:
    """Four pictures of Portilla and Simoncelli (2000): metal, nuts, reptile skin and printed text, 256 px.

    Returns
    -------
    list of TextureSource

    Examples
    --------
    >>> [(source.name, source.kind) for source in portilla_simoncelli()]
    [('metal', 'photograph'), ('nuts', 'photograph'), ('reptile_skin', 'photograph'), ('text', 'print')]
    """
    folder = Path(__file__).parent / "data" / "portilla_simoncelli"
    files = {"metal": "metal.png", "nuts": "nuts.png", "reptile_skin": "reptil_skin.png", "text": "text.png"}
    return [
        TextureSource(
            name,
            read_grey(folder / file),
            kind="print" if name == "text" else "photograph",
            origin=f"Portilla and Simoncelli (2000), textureSynth, {file}",
            licence="MIT, Copyright (c) 2016 LabForComputationalVision",
        )
        for name, file in files.items()
    ]


def folder_sources(folder: str | Path, *, licence: str = "not stated") -> list[TextureSource]:
    """A source for every picture of a folder, named after its file.

    Parameters
    ----------
    folder : path
        With PNG, JPEG, TIFF or PGM files of 8 bits.
    licence : str
        Of the pictures; kept with what is made of them.

    Returns
    -------
    list of TextureSource
        In the order of their names.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no picture in it.

    Examples
    --------
    >>> folder_sources("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: no folder nowhere; name a folder of pictures.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; name a folder of pictures.")
    endings = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings)
    if not paths:
        raise FileNotFoundError(f"no picture in {folder}; expected files that end in {', '.join(endings)}.")
    return [TextureSource(path.stem, read_grey(path), origin=path.name, licence=licence) for path in paths]


def _offsets(size_px: int, row: float, column: float, reach: float) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Indices, and distances from a place, of the pixels around it in a picture that repeats itself."""
    rows = np.arange(math.floor(row - reach), math.ceil(row + reach) + 1)
    columns = np.arange(math.floor(column - reach), math.ceil(column + reach) + 1)
    return (rows % size_px)[:, None], (columns % size_px)[None], rows[:, None] - row, columns[None] - column


def dead_leaves(size_px: int, seed: int) -> Picture:
    """Opaque discs that cover each other, radii distributed as their inverse cube (Lee, Mumford and Huang 2001).

    Parameters
    ----------
    size_px, seed : int

    Returns
    -------
    ndarray, (row, column)
        In [0, 1], repeating itself at the borders.

    Examples
    --------
    >>> dead_leaves(64, 0).shape
    (64, 64)
    """
    rng = np.random.default_rng(seed)
    picture, free = np.zeros((size_px, size_px)), np.ones((size_px, size_px), dtype=bool)
    small, large = size_px / 64, size_px / 8
    while free.any():  # from the front to the back
        u = rng.random()
        radius = (small**-2 - u * (small**-2 - large**-2)) ** -0.5
        row, column, level = rng.random() * size_px, rng.random() * size_px, rng.random()
        i, j, y, x = _offsets(size_px, row, column, radius)
        seen = free[i, j] & (x**2 + y**2 <= radius**2)
        picture[i, j] = np.where(seen, level, picture[i, j])
        free[i, j] &= ~seen
    return picture


def cells(size_px: int, seed: int) -> Picture:
    """Cells of a Voronoi mosaic, lighter away from the dark lines between them.

    Parameters
    ----------
    size_px, seed : int

    Returns
    -------
    ndarray, (row, column)
        In [0, 1], repeating itself at the borders.

    Examples
    --------
    >>> cells(64, 0).shape
    (64, 64)
    """
    from scipy.spatial import KDTree

    rng = np.random.default_rng(seed)
    n = 10
    corners = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2)
    centres = (corners + rng.uniform(0.1, 0.9, corners.shape)) * size_px / n
    levels = rng.uniform(0.45, 1.0, len(centres))
    pixels = np.indices((size_px, size_px)).reshape(2, -1).T
    distance, which = map(np.asarray, KDTree(centres, boxsize=size_px).query(pixels, k=2))
    inside = np.tanh((distance[:, 1] - distance[:, 0]) / (0.2 * size_px / n))
    return (levels[which[:, 0]] * inside).reshape(size_px, size_px)


def labyrinth(size_px: int, seed: int) -> Picture:
    """Winding bands: noise that short-range excitation and longer-range inhibition sharpen until it settles.

    Parameters
    ----------
    size_px, seed : int

    Returns
    -------
    ndarray, (row, column)
        In [0, 1], repeating itself at the borders.

    Examples
    --------
    >>> labyrinth(64, 0).shape
    (64, 64)
    """
    f = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None]) * size_px
    # of two Gaussian fields of one weight: no response to the mean, strongest at 11 cycles per picture
    transfer = np.exp(-((f / 14.0) ** 2)) - np.exp(-((f / 9.0) ** 2))
    transfer /= transfer.max()
    u = np.random.default_rng(seed).standard_normal((size_px, size_px))
    for _ in range(60):
        u = np.tanh(3.0 * np.fft.irfft2(np.fft.rfft2(u) * transfer, s=u.shape))
    return 0.5 + 0.5 * u


def straw(size_px: int, seed: int) -> Picture:
    """Straws that lie over each other, round in shading, at all angles.

    Parameters
    ----------
    size_px, seed : int

    Returns
    -------
    ndarray, (row, column)
        In [0, 1], repeating itself at the borders.

    Examples
    --------
    >>> straw(64, 0).shape
    (64, 64)
    """
    rng = np.random.default_rng(seed)
    picture = np.zeros((size_px, size_px))
    for _ in range(700):
        row, column, angle = rng.random() * size_px, rng.random() * size_px, rng.random() * np.pi
        half, width, level = size_px * rng.uniform(0.06, 0.18), size_px * rng.uniform(0.008, 0.018), rng.uniform(0.3, 1)
        i, j, y, x = _offsets(size_px, row, column, half + width)
        along, across = np.cos(angle) * x + np.sin(angle) * y, (np.cos(angle) * y - np.sin(angle) * x) / width
        on = (np.abs(along) < half) & (np.abs(across) < 1)
        picture[i, j] = np.where(on, level * np.sqrt(np.clip(1 - across**2, 0.0, 1.0)), picture[i, j])
    return picture


#: Drawn textures: functions of size and seed.
PROCEDURAL: dict[str, Callable[[int, int], Picture]] = {
    "cells": cells,
    "dead_leaves": dead_leaves,
    "labyrinth": labyrinth,
    "straw": straw,
}


def procedural(*, size_px: int = 256, seed: int = 0) -> list[TextureSource]:
    """The drawn textures of ``PROCEDURAL``.

    Parameters
    ----------
    size_px, seed : int

    Returns
    -------
    list of TextureSource

    Examples
    --------
    >>> [source.name for source in procedural(size_px=32)]
    ['cells', 'dead_leaves', 'labyrinth', 'straw']
    """
    return [
        TextureSource(
            name,
            draw(size_px, seed),
            kind="procedural",
            origin=f"stimuli.texture_sources.{name}({size_px}, {seed})",
            licence="that of lcl",
        )
        for name, draw in PROCEDURAL.items()
    ]


def free_sources() -> list[TextureSource]:
    """The 15 sources of the texture set that comes with the package; all may be passed on.

    Returns
    -------
    list of TextureSource
        In the order of their names: ten photographs, one print, four drawn textures.

    Examples
    --------
    >>> len(free_sources())
    15
    """
    return sorted([*photographs(), *portilla_simoncelli(), *procedural()], key=lambda source: source.name)
