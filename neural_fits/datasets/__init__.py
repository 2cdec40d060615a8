"""Public recordings by name: where they are, who may use them, and readers that give a :class:`Recording`.

=========================== ======================================================================================
`henaff2021`                360 V1 units, frames of natural and synthetic movies (:mod:`.henaff2021`)
`freeman_ziemba2013`        V1 and V2 units, textures and noise, the whole file (:mod:`.freeman_ziemba2013`)
`freeman_ziemba2013_public` the part that Brain-Score gives openly (:mod:`.freeman_ziemba2013`)
`v1_published`              distributions of V1 tuning, not a recording (:mod:`.v1_published`)
=========================== ======================================================================================

Where files are looked for is said in :mod:`.fetch`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

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
    "load",
    "locate",
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
