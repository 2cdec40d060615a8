"""Public recordings by name: where they are, who may use them, and readers that give a `Recording`.

=========================== ======================================================================================
`henaff2021`                360 V1 units, frames of natural and synthetic movies (:mod:`.henaff2021`)
`freeman_ziemba2013`        V1 and V2 units, textures and noise, the whole file (:mod:`.freeman_ziemba2013`)
`freeman_ziemba2013_public` the part that Brain-Score gives openly (:mod:`.freeman_ziemba2013`)
`v1_published`              distributions of V1 tuning, not a recording (:mod:`.v1_published`)
=========================== ======================================================================================

Where files are looked for is said in :mod:`.fetch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pooch

from neural_fits.datasets import freeman_ziemba2013, henaff2021, v1_published
from neural_fits.datasets.fetch import VARIABLE, DataFile, Entry, check_contents, fetch, find, locate
from neural_fits.recordings import Recording, read_recording

__all__ = [
    "LOADERS",
    "REGISTRY",
    "VARIABLE",
    "DataFile",
    "Entry",
    "check_contents",
    "fetch",
    "find",
    "here",
    "load",
    "locate",
    "verify",
]

#: Every public data set, by name.
REGISTRY: dict[str, Entry] = {
    "henaff2021": henaff2021.ENTRY,
    "freeman_ziemba2013": freeman_ziemba2013.FULL,
    "freeman_ziemba2013_public": freeman_ziemba2013.PUBLIC,
    "v1_published": v1_published.ENTRY,
}

#: Readers of the entries that are recordings.
LOADERS: dict[str, Callable[..., Recording]] = {
    "henaff2021": henaff2021.load,
    "freeman_ziemba2013": freeman_ziemba2013.load,
    "freeman_ziemba2013_public": freeman_ziemba2013.load_public,
}


def load(name_or_path: Path | str, data: Path | str | None = None, **options: Any) -> Recording:
    """A recording by its name in the registry, or from a file.

    Parameters
    ----------
    name_or_path : str or path
        A name of :data:`LOADERS`, or a file: one written by :func:`neural_fits.recordings.write_recording`, or the
        packed `henaff2021_v1.h5`.
    data : path, optional
        Local copy of a named recording: its file or a folder; without it, looked for as
        :mod:`neural_fits.datasets.fetch` says.
    **options
        Of the reader, such as `populations` of :func:`.henaff2021.load` or `area` of :func:`.freeman_ziemba2013.load`.

    Returns
    -------
    Recording
        The recording.

    Raises
    ------
    FileNotFoundError
        If it is not here.
    ValueError
        If there is no such name or file, or its contents are not the registered ones.

    Examples
    --------
    >>> load("v1_published")
    Traceback (most recent call last):
    ...
    ValueError: v1_published holds distributions, not a recording; use ...published_distributions().
    """
    name = str(name_or_path)
    if name in LOADERS:
        return LOADERS[name](data, **options)
    if name in REGISTRY:
        raise ValueError(
            f"{name} holds distributions, not a recording; use neural_fits.datasets.{name}.published_distributions()."
        )
    path = Path(name_or_path).expanduser()
    if data is not None or not path.exists():
        raise ValueError(f"There is no recording {name!r}; expected one of {', '.join(LOADERS)}, or a file.")
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            packed = file.attrs.get("format") == henaff2021.FORMAT
        if packed:
            return henaff2021.read(path, **options)
    if options:
        raise ValueError(f"{', '.join(options)} cannot be given for {path}: they are options of named recordings.")
    return read_recording(path)


def here(name: str, data: Path | str | None = None) -> list[Path]:
    """Where a data set is on this machine.

    Parameters
    ----------
    name : str
        A name of :data:`REGISTRY`.
    data : path, optional
        Local copy; looked for as :mod:`neural_fits.datasets.fetch` says without it.

    Returns
    -------
    list of Path
        Its files, or the two clones of `henaff2021`; empty unless all are here.

    Examples
    --------
    >>> [path.name for path in here("v1_published")]
    ['published_v1.json']
    """
    entry = REGISTRY[name]
    found = [path for file in entry.files if (path := locate(entry, file, data)) is not None]
    if len(found) == len(entry.files):
        return found
    return list(henaff2021.clones(data) or ()) if name == "henaff2021" else []


def verify(name_or_path: Path | str | None = None, data: Path | str | None = None) -> Iterator[tuple[Path, bool, str]]:
    """Compare local files with the registered sizes and hashes.

    Parameters
    ----------
    name_or_path : str or path, optional
        A name of :data:`REGISTRY`, one of its files under any name, or a folder of them; every data set that is here
        without it.
    data : path, optional
        Local copy of a named data set.

    Yields
    ------
    path : Path
        A file.
    good : bool
        Whether nothing is wrong with it.
    finding : str
        What was found, as the end of a sentence that begins with the path.

    Raises
    ------
    FileNotFoundError
        If a named data set is not here.
    ValueError
        If a path is none of the registered files.

    Examples
    --------
    >>> [(path.name, good, finding) for path, good, finding in verify("v1_published")]
    [('published_v1.json', True, 'is as registered')]
    """
    name = str(name_or_path)
    if name_or_path is not None and name not in REGISTRY:
        path = Path(name_or_path).expanduser()
        if path.is_file():
            yield path, *_finding(path, _registered_as(path))
            return
        data = path
    entries = [REGISTRY[name]] if name in REGISTRY else list(REGISTRY.values())
    found = [(locate(entry, file, data), entry, file) for entry in entries for file in entry.files]
    if name in REGISTRY and not any(path for path, _, _ in found):
        find(*found[0][1:], data)
    for path, _, file in found:
        if path is not None:
            yield path, *_finding(path, file)
        elif name in REGISTRY:
            yield Path(file.name), False, "is missing"


def _registered_as(path: Path) -> DataFile:
    """The registered file that a path is a copy of, by name or else by hash."""
    files = [file for entry in REGISTRY.values() for file in entry.files]
    digests = {f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}" for algorithm in ("sha1", "sha256")}
    for file in files:
        if path.name == file.name or file.digest in digests:
            return file
    raise ValueError(f"{path} is none of the registered files, neither by name nor by hash.")


def _finding(path: Path, file: DataFile) -> tuple[bool, str]:
    if file.digest is None:
        return True, "cannot be compared: no hash of it is known"
    try:
        check_contents(path, file)
    except ValueError as error:
        return False, str(error).removeprefix(f"{path} ")
    return True, "is as registered"
