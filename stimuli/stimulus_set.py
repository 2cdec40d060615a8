"""A set of pictures that knows its degrees, luminance, aperture and parameters, and its files."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stimuli.files import replacing

if TYPE_CHECKING:
    import pandas as pd

#: Number of the file layout that is written.
FORMAT = 1


@dataclass(frozen=True, eq=False)
class StimulusSet:
    """Pictures with a table of their parameters.

    Attributes
    ----------
    images : ndarray, (stimulus, row, column) or (stimulus, row, column, channel)
        float32 in [0, 1], or uint8.
    parameters : dict of str to ndarray, (stimulus,)
        The table: numbers, strings or truth values, one per picture.
    pixels_per_degree : float
    mean_luminance : float
        Level in [0, 1] around which the pictures vary, and of the ground around them.
    contrast : float
        Of all pictures, where it is one; NaN where it is not stated, or is a column of the table.
    aperture : str
        In words: ``"none"``, ``"hard"``, ``"raised cosine, radius 2 deg"``.
    name : str

    Raises
    ------
    ValueError
        If the pictures are neither, or a column has another length.

    Examples
    --------
    >>> stimuli = StimulusSet(np.zeros((2, 16, 16), np.uint8), {"family": np.array([7, 9])}, pixels_per_degree=8.0)
    >>> len(stimuli), stimuli.size_deg
    (2, 2.0)
    """

    images: NDArray
    parameters: dict[str, NDArray] = field(default_factory=dict)
    pixels_per_degree: float = 28.0
    mean_luminance: float = 0.5
    contrast: float = float("nan")
    aperture: str = "none"
    name: str = "stimuli"

    def __post_init__(self) -> None:
        images = np.asarray(self.images)
        if images.ndim not in (3, 4) or min(images.shape) == 0 or images.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"images are {images.dtype} of shape {images.shape}; expected uint8 or float32, (stimulus, row, "
                "column) or (stimulus, row, column, channel), not empty."
            )
        if images.dtype == np.float32 and not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(f"images run from {images.min()} to {images.max()}; expected levels in [0, 1].")
        if not self.pixels_per_degree > 0:
            raise ValueError(f"pixels_per_degree is {self.pixels_per_degree}; expected a positive number.")
        parameters = {}
        for name, values in self.parameters.items():
            column = np.asarray(values)
            if column.shape != (len(images),) or column.dtype.kind not in "iufbU":
                raise ValueError(
                    f"parameter {name!r} is {column.dtype} of shape {column.shape}; expected {len(images)} numbers, "
                    "strings or truth values, one per picture."
                )
            parameters[str(name)] = column
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "parameters", parameters)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size_deg(self) -> float:
        """Width of the pictures in degrees of visual angle."""
        return self.images.shape[2] / self.pixels_per_degree

    def as_uint8(self) -> NDArray[np.uint8]:
        """The pictures in 256 levels: ``round(255 x)``, exact for uint8 ones.

        Returns
        -------
        ndarray of uint8

        Examples
        --------
        >>> StimulusSet(np.full((1, 2, 2), 0.5, np.float32)).as_uint8()[0, 0]
        array([128, 128], dtype=uint8)
        """
        if self.images.dtype == np.uint8:
            return self.images
        return np.rint(255.0 * self.images).astype(np.uint8)

    def select(self, which) -> StimulusSet:
        """Some of the pictures, with their rows of the table.

        Parameters
        ----------
        which : array of int or bool

        Returns
        -------
        StimulusSet

        Examples
        --------
        >>> stimuli = StimulusSet(np.zeros((3, 2, 2), np.uint8), {"sample": np.array([1, 2, 3])})
        >>> stimuli.select(stimuli.parameters["sample"] > 1).parameters["sample"]
        array([2, 3])
        """
        rows = np.asarray(which)
        about = {key: value for key, value in _about(self).items() if key != "size_deg"}
        return StimulusSet(self.images[rows], {k: v[rows] for k, v in self.parameters.items()}, **about)


def factorial(levels: dict[str, NDArray]) -> dict[str, NDArray]:
    """Table of every combination of some levels; the last one runs fastest.

    Parameters
    ----------
    levels : dict of str to array

    Returns
    -------
    dict of str to ndarray

    Examples
    --------
    >>> factorial({"a": np.array([0, 1]), "b": np.array([5, 6, 7])})
    {'a': array([0, 0, 0, 1, 1, 1]), 'b': array([5, 6, 7, 5, 6, 7])}
    """
    grids = np.meshgrid(*(np.atleast_1d(values) for values in levels.values()), indexing="ij")
    return {name: grid.ravel() for name, grid in zip(levels, grids, strict=True)}


def _about(stimuli: StimulusSet) -> dict:
    return {
        "name": stimuli.name,
        "pixels_per_degree": float(stimuli.pixels_per_degree),
        "size_deg": float(stimuli.size_deg),
        "mean_luminance": float(stimuli.mean_luminance),
        "contrast": float(stimuli.contrast),
        "aperture": stimuli.aperture,
    }


def write_hdf5(stimuli: StimulusSet, path: str | Path) -> Path:
    """Write a set to one HDF5 file: ``images``, a group ``parameters`` and attributes.

    Parameters
    ----------
    stimuli : StimulusSet
    path : path

    Returns
    -------
    Path

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "set.h5"
    >>> _ = write_hdf5(StimulusSet(np.zeros((2, 4, 4), np.uint8), {"type": np.array(["texture", "noise"])}), path)
    >>> read_hdf5(path).parameters["type"]
    array(['texture', 'noise'], dtype='<U7')
    """
    path = Path(path)
    with replacing(path) as partial, h5py.File(partial, "w") as file:
        shape = stimuli.images.shape
        file.create_dataset("images", data=stimuli.images, chunks=(1, *shape[1:]), compression="gzip")
        group = file.create_group("parameters")
        for name, values in stimuli.parameters.items():
            text = values.dtype.kind == "U"
            group.create_dataset(name, data=values.astype(object) if text else values, dtype=_TEXT if text else None)
        file.attrs.update({**_about(stimuli), "format": FORMAT, "columns": json.dumps(list(stimuli.parameters))})
    return path


_TEXT = h5py.string_dtype("utf-8")


def read_hdf5(path: str | Path) -> StimulusSet:
    """Read a set that :func:`write_hdf5` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    StimulusSet

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds something else, or another format.

    Examples
    --------
    >>> read_hdf5("nowhere.h5")
    Traceback (most recent call last):
    FileNotFoundError: no stimulus set at nowhere.h5.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no stimulus set at {path}.")
    with h5py.File(path) as file:
        images, group = file.get("images"), file.get("parameters")
        if not isinstance(images, h5py.Dataset) or not isinstance(group, h5py.Group):
            raise ValueError(f"{path} is not a stimulus set; expected 'images' and 'parameters' in it.")
        _check_format(file.attrs.get("format"), path)
        parameters = {}
        for name in json.loads(np.asarray(file.attrs["columns"]).item()):
            column = group.get(name)
            if not isinstance(column, h5py.Dataset):
                raise ValueError(f"{path} lacks the parameter {name!r} that it lists; write the set again.")
            text = h5py.check_string_dtype(column.dtype) is not None
            parameters[name] = np.asarray(column.asstr()[()], dtype=str) if text else column[()]
        keep = ("name", "pixels_per_degree", "mean_luminance", "contrast", "aperture")
        return StimulusSet(images[()], parameters, **{key: np.asarray(file.attrs[key]).item() for key in keep})


def _check_format(found, path: Path) -> None:
    if found is None or int(found) != FORMAT:
        raise ValueError(f"{path} has format {found}; this version reads format {FORMAT}.")


def write_folder(stimuli: StimulusSet, folder: str | Path) -> Path:
    """Write a set as a folder: ``images/*.png``, ``parameters.csv`` (first column ``file``), ``stimulus_set.json``.

    float32 pictures are written in 256 levels (:meth:`StimulusSet.as_uint8`), off by at most 1/510; HDF5 is exact.
    The folder appears at once.

    Parameters
    ----------
    stimuli : StimulusSet
    folder : path
        Must not exist.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the folder exists, or a parameter is called ``file``.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "set"
    >>> _ = write_folder(StimulusSet(np.zeros((2, 4, 4), np.uint8), {"sample": np.array([1, 2])}), folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['images', 'parameters.csv', 'stimulus_set.json']
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists; name a new folder.")
    if "file" in stimuli.parameters:
        raise ValueError("a parameter is called 'file', the column of the PNG files; rename it.")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        (partial / "images").mkdir(parents=True)
        files = [f"images/{i:06d}.png" for i in range(len(stimuli))]
        for file, image in zip(files, stimuli.as_uint8(), strict=True):
            Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image).save(partial / file)
        with (partial / "parameters.csv").open("w", newline="", encoding="utf-8") as table:
            writer = csv.writer(table)
            writer.writerow(["file", *stimuli.parameters])
            writer.writerows(zip(files, *(v.tolist() for v in stimuli.parameters.values()), strict=True))
        about = {key: None if value != value else value for key, value in _about(stimuli).items()}
        dtypes = {name: values.dtype.str for name, values in stimuli.parameters.items()}
        layout = {"format": FORMAT, "shape": stimuli.images.shape, "written_from": stimuli.images.dtype.name}
        text = json.dumps({**layout, **about, "columns": dtypes}, indent=2)
        (partial / "stimulus_set.json").write_text(text, encoding="utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def read_folder(folder: str | Path) -> StimulusSet:
    """Read a set that :func:`write_folder` wrote; its pictures are uint8.

    Parameters
    ----------
    folder : path

    Returns
    -------
    StimulusSet

    Raises
    ------
    FileNotFoundError
        If the folder has no ``stimulus_set.json``, or a picture is missing.
    ValueError
        If table and pictures do not fit, or a file lies outside the folder.

    Examples
    --------
    >>> read_folder("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: no stimulus set in nowhere: it has no stimulus_set.json.
    """
    folder = Path(folder)
    description = folder / "stimulus_set.json"
    if not description.is_file():
        raise FileNotFoundError(f"no stimulus set in {folder}: it has no stimulus_set.json.")
    about = json.loads(description.read_text(encoding="utf-8"))
    _check_format(about.get("format"), folder)
    with (folder / "parameters.csv").open(newline="", encoding="utf-8") as table:
        header, *rows = csv.reader(table)
    if header != ["file", *about["columns"]] or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{folder / 'parameters.csv'} has columns {header}; expected file, {list(about['columns'])}.")
    images = _read_images([_inside(folder, row[0]) for row in rows])
    if list(images.shape) != about["shape"]:
        images = images.reshape(about["shape"]) if images.size == np.prod(about["shape"]) else images
    columns = zip(*(row[1:] for row in rows), strict=True)
    parameters = {
        name: _typed(values, dtype) for (name, dtype), values in zip(about["columns"].items(), columns, strict=True)
    }
    contrast = float("nan") if about["contrast"] is None else about["contrast"]
    keep = {key: about[key] for key in ("pixels_per_degree", "mean_luminance", "aperture", "name")}
    return StimulusSet(images, parameters, contrast=contrast, **keep)


def _inside(folder: Path, file: str) -> Path:
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{file} lies outside {folder}; expected pictures inside the folder.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} of the table is missing.")
    return path


def _read_images(paths: list[Path]) -> NDArray[np.uint8]:
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(np.asarray(image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")))
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(f"the pictures have shapes {sorted(shapes)}; expected at least one, and all of one shape.")
    return np.stack(images)


def _typed(values: tuple[str, ...], dtype: str) -> NDArray:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return np.array([value == "True" for value in values])
    return np.array(values, dtype=str) if kind.kind == "U" else np.array(values).astype(kind)


def to_brainscore(stimuli: StimulusSet, folder: str | Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Table and paths of a Brain-Score stimulus set; the pictures are written as PNG.

    Brain-Score's ``StimulusSet`` is such a table with two attributes, ``identifier`` and ``stimulus_paths``; see
    :func:`brainscore_stimulus_set`.

    Parameters
    ----------
    stimuli : StimulusSet
    folder : path
        Must not exist; :func:`write_folder` makes it.

    Returns
    -------
    table : pandas.DataFrame
        A row per picture: ``stimulus_id`` (name and number), ``filename``, ``size_deg`` and the parameters.
    paths : dict of str to str
        From ``stimulus_id`` to the PNG file.

    Examples
    --------
    >>> import tempfile
    >>> table, paths = to_brainscore(StimulusSet(np.zeros((2, 28, 28), np.uint8)), Path(tempfile.mkdtemp()) / "set")
    >>> table.size_deg.tolist(), table.stimulus_id.tolist() == list(paths)
    ([1.0, 1.0], True)
    """
    import pandas as pd

    root = write_folder(stimuli, folder).resolve()
    ids = [f"{stimuli.name}-{i:06d}" for i in range(len(stimuli))]
    names = [f"{i:06d}.png" for i in range(len(stimuli))]
    about = {"stimulus_id": ids, "filename": names, "size_deg": np.full(len(stimuli), stimuli.size_deg)}
    clash = sorted(set(about) & set(stimuli.parameters))
    if clash:
        raise ValueError(f"parameters {clash} are columns of every Brain-Score set; rename them.")
    paths = {each: str(root / "images" / name) for each, name in zip(ids, names, strict=True)}
    return pd.DataFrame({**about, **stimuli.parameters}), paths


def brainscore_stimulus_set(table: pd.DataFrame, paths: dict[str, str], *, identifier: str):
    """Brain-Score's own ``StimulusSet`` of a table and its paths.

    Parameters
    ----------
    table : pandas.DataFrame
    paths : dict of str to str
        Both from :func:`to_brainscore`.
    identifier : str

    Returns
    -------
    brainscore_core StimulusSet

    Raises
    ------
    ImportError
        If ``brainscore_core`` is not installed.

    Examples
    --------
    >>> brainscore_stimulus_set(table, paths, identifier="gratings")  # doctest: +SKIP
    """
    try:
        from brainscore_core.supported_data_standards.brainio.stimuli import (  # pyright: ignore[reportMissingImports]
            StimulusSet as BrainScoreSet,
        )
    except ImportError as error:
        raise ImportError(
            "Brain-Score's StimulusSet needs brainscore_core: pip install brainscore_core (2.2.5 or later)."
        ) from error
    stimulus_set = BrainScoreSet(table)
    stimulus_set.identifier = identifier
    stimulus_set.stimulus_paths = dict(paths)
    return stimulus_set


def from_brainscore(
    table: pd.DataFrame,
    paths: dict[str, str],
    *,
    size_deg: float,
    mean_luminance: float = 0.5,
    aperture: str = "none",
    name: str = "brain-score",
) -> StimulusSet:
    """Set from a Brain-Score table and its paths (a Brain-Score ``StimulusSet`` and its ``stimulus_paths``).

    Parameters
    ----------
    table : pandas.DataFrame
        With a column ``stimulus_id``.
    paths : dict of str to path
        From ``stimulus_id`` to a picture.
    size_deg : float
        Width of the pictures; the table need not say it.
    mean_luminance : float
    aperture, name : str

    Returns
    -------
    StimulusSet
        uint8, with every column of the table but ``size_deg``.

    Raises
    ------
    ValueError
        If ids are missing or repeated, or the size is not positive.

    Examples
    --------
    >>> import tempfile
    >>> stimuli = StimulusSet(np.full((2, 28, 28), 7, np.uint8), {"sample": np.array([3, 4])})
    >>> table, paths = to_brainscore(stimuli, Path(tempfile.mkdtemp()) / "set")
    >>> back = from_brainscore(table, paths, size_deg=1.0)
    >>> back.parameters["sample"], back.pixels_per_degree
    (array([3, 4]), 28.0)
    """
    if not size_deg > 0:
        raise ValueError(f"size_deg is {size_deg}; expected a positive width in degrees.")
    if "stimulus_id" not in table or not table["stimulus_id"].is_unique:
        raise ValueError("the table has no column stimulus_id, or ids come twice; expected one id per picture.")
    missing = [each for each in table["stimulus_id"] if each not in paths]
    if missing:
        raise ValueError(f"no path for {len(missing)} pictures, the first {missing[0]}; expected one for each id.")
    images = _read_images([Path(paths[each]) for each in table["stimulus_id"]])
    parameters = {}
    for column in table.columns:
        if column != "size_deg":
            values = table[column].to_numpy()
            parameters[str(column)] = values if values.dtype.kind in "iufb" else values.astype(str)
    return StimulusSet(
        images,
        parameters,
        pixels_per_degree=images.shape[2] / size_deg,
        mean_luminance=mean_luminance,
        aperture=aperture,
        name=name,
    )
