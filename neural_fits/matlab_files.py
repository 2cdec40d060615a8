"""Recordings from and for MATLAB: files of version 5 and of version 7.3, which is HDF5 with reversed axes."""

import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import xarray as xr

from neural_fits.recordings import ATTRIBUTES, DIMS, FORMAT, Recording, recording_from_arrays, variable_blocks
from stimuli.files import replacing

MAT5_BYTES = 2**31  # a variable of MATLAB v5 counts its bytes in 32 bits
USERBLOCK = 512  # MATLAB v7.3 is HDF5 behind a header of this size
COORDINATE_DIMS = {
    "stimulus": ("stimulus",),
    "repeat": ("repeat",),
    "neuron": ("neuron",),
    "time_bin": ("time_bin",),
    "stimulus_repeat": ("stimulus", "repeat"),
}


def recording_from_mat(
    path: str | Path,
    *,
    variable: str,
    axes: Sequence[str],
    levels: Mapping[str, Sequence[Any]] | None = None,
    stimulus: Mapping[str, Any] | None = None,
    slices: Mapping[str, slice] | None = None,
    **settings: Any,
) -> Recording:
    """Recording from one numeric array of a MATLAB file, v5 or v7.3, whatever the order of its axes.

    The array is brought into memory once, part by part. MATLAB keeps one stimulus scattered over the whole file, so a
    file that is too large for that is best read in parts (``slices``) and written with
    :func:`~neural_fits.recordings.write_recording`.

    Parameters
    ----------
    path : path
        A .mat file.
    variable : str
        Name of the array; fields of structs after dots ("data.v1.counts").
    axes : sequence of str
        What each axis is, in the order that MATLAB's ``size`` shows: "neuron", "repeat" and "time_bin" (both may be
        absent) and "stimulus", or several names instead, such as ``("family", "type", "sample", "repeat", "time_bin",
        "neuron")``: these are stacked into stimuli, the last changing fastest, and become labels.
    levels : mapping of str to sequence, optional
        Values along stimulus axes, such as ``{"type": ["noise", "texture"]}``; 0, 1, ... by default. Where several
        axes are stacked, the stimulus id is made of them: "327-noise-0".
    stimulus : mapping, optional
        Further labels of the (stacked) stimuli; ``stimulus_id`` replaces the id.
    slices : mapping of str to slice, optional
        Part of an axis to read, such as ``{"neuron": slice(0, 50)}``, counted from 0; ``levels``, ``neuron`` and so on
        describe the part.
    **settings
        ``neuron``, ``time_bins_ms``, ``images``, ``size_deg``, ... of
        :func:`~neural_fits.recordings.recording_from_arrays`. Pictures in the file: :func:`mat_array`.

    Returns
    -------
    Recording

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, lacks the variable, or the variable is no array with these axes.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "v1.mat"
    >>> scipy.io.savemat(path, {"v1": np.arange(24.0).reshape(2, 3, 4)})
    >>> recording = recording_from_mat(
    ...     path, variable="v1", axes=("type", "sample", "neuron"), levels={"type": ["noise", "texture"]}
    ... )
    >>> recording, recording.labels("stimulus_id").tolist()[2:4]
    (<Recording '': 6 stimuli x 1 repeats x 4 neurons, without pictures>, ['noise-2', 'texture-0'])
    """
    axes = tuple(axes)
    stacked = [axis for axis in axes if axis not in DIMS[1:]]
    if len(set(axes)) < len(axes) or "neuron" not in axes or not stacked or ("stimulus" in axes and len(stacked) > 1):
        raise ValueError(
            f"axes are {axes}, expected each once: 'neuron', optionally 'repeat' and 'time_bin', and either 'stimulus' "
            f"or the names of several axes that make up the stimuli"
        )
    unknown = [name for name in slices or {} if name not in axes] + [
        name for name in levels or {} if name not in stacked
    ]
    if unknown:
        raise ValueError(f"slices or levels are given for {unknown}, expected names among the axes {axes}")
    with _mat_array(Path(path), variable) as (source, reverse):
        if len(source.shape) > len(axes):
            shape = source.shape[::-1] if reverse else source.shape
            raise ValueError(f"{variable} in {path} has shape {shape}, expected {len(axes)} axes {axes}: name them all")
        responses, sizes = _sorted_responses(source, axes, stacked, slices or {}, reverse=reverse)
    labels = _level_labels({axis: sizes[axis] for axis in stacked}, levels or {})
    return recording_from_arrays(responses, stimulus={**labels, **(stimulus or {})}, **settings)


def mat_array(path: str | Path, variable: str) -> np.ndarray:
    """Array of numbers in a MATLAB file, v5 or v7.3, with its axes in MATLAB's order.

    Parameters
    ----------
    path : path
        A .mat file.
    variable : str
        Name of the array; fields of structs after dots.

    Returns
    -------
    array

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it is damaged, or lacks the variable.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.mat"
    >>> scipy.io.savemat(path, {"data": {"x": [[1.0, 2.0]]}})
    >>> mat_array(path, "data.x")
    array([[1., 2.]])
    """
    with _mat_array(Path(path), variable) as (source, reverse):
        return source[()].T if reverse else source


def write_mat(recording: Recording, path: str | Path, *, version: str = "7.3") -> Path:
    """Write a recording for MATLAB, without loss.

    In MATLAB, ``load`` gives ``responses`` (stimulus, repeat, neuron[, time_bin]), ``images`` and the structs
    ``stimulus``, ``neuron``, ``repeat``, ``time_bin`` (one column or cell per coordinate) and ``attributes``.

    Parameters
    ----------
    recording : Recording
        In memory or on disk.
    path : path
        File to write, .mat; it appears whole or not at all.
    version : {"7.3", "5"}
        "7.3" is HDF5 and is written block by block; "5" holds less than 2 GiB per variable, and labels that are true
        or false are read back as 1 and 0.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If a name is no MATLAB name, or the recording is too large for version 5.

    Examples
    --------
    >>> import tempfile
    >>> recording = recording_from_arrays(np.ones((2, 1, 3)), neuron={"region": "V1"}, name="toy")
    >>> path = write_mat(recording, Path(tempfile.mkdtemp()) / "toy.mat")
    >>> mat_array(path, "responses").shape, read_mat(path)
    ((2, 1, 3), <Recording 'toy': 2 stimuli x 1 repeats x 3 neurons, without pictures>)
    """
    if version not in ("5", "7.3"):
        raise ValueError(f"version is {version!r}, expected '7.3' or '5'")
    path = Path(path)
    dataset = recording.dataset
    structs: dict[str, dict[str, Any]] = {"attributes": {str(key): value for key, value in dataset.attrs.items()}}
    for name, coordinate in dataset.coords.items():
        group = next((group for group, dims in COORDINATE_DIMS.items() if dims == coordinate.dims), None)
        if group is None:
            raise ValueError(f"coordinate {name!r} lies along {coordinate.dims}, expected one of {[*COORDINATE_DIMS]}")
        values = coordinate.values
        structs.setdefault(group, {})[str(name)] = values if values.ndim > 1 else values[:, None]
    wrong = [
        name for fields in structs.values() for name in fields if not re.fullmatch(r"[A-Za-z]\w{0,62}", name, re.ASCII)
    ]
    if wrong:
        raise ValueError(f"{wrong} are no MATLAB names: use letters, digits and _ (at most 63), a letter first")
    with replacing(path) as partial:
        if version == "7.3":
            _write_mat73(recording, structs, partial)
        else:
            _write_mat5(recording, structs, partial)
    return path


def read_mat(path: str | Path) -> Recording:
    """Recording that :func:`write_mat` wrote; any other file: :func:`recording_from_mat`.

    Parameters
    ----------
    path : path
        A .mat file, v5 or v7.3; it is read into memory.

    Returns
    -------
    Recording

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is damaged or was written by something else.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "toy.mat"
    >>> _ = write_mat(recording_from_arrays(np.ones((2, 3, 1)), name="toy"), path, version="5")
    >>> read_mat(path)
    <Recording 'toy': 2 stimuli x 3 repeats x 1 neurons, without pictures>
    """
    path = Path(path)
    contents = _read_mat_structs(path)
    attributes = contents.pop("attributes", {})
    if set(ATTRIBUTES) - set(attributes) or int(attributes["format"]) != FORMAT:
        raise ValueError(
            f"{path} was not written by write_mat in recording format {FORMAT}: use recording_from_mat with the name "
            f"and the axes of an array"
        )
    axes = DIMS if "time_bin" in contents else DIMS[:3]
    with _mat_array(path, "responses") as (source, reverse):
        responses, _ = _sorted_responses(source, axes, ["stimulus"], {}, reverse=reverse)
    variables = {"responses": xr.Variable(axes, responses)}
    coords: dict[str, Any] = {}
    for group, dims in COORDINATE_DIMS.items():
        for name, values in contents.get(group, {}).items():
            values = values.astype(bool) if name == "has_image" else values  # scipy reads logical as 0 and 1
            coords[name] = (dims, values if len(dims) > 1 else values.ravel())
    if "images" in contents:
        images = mat_array(path, "images")
        variables["images"] = xr.Variable(("stimulus", "row", "column", "channel")[: images.ndim], images)
    dataset = xr.Dataset(variables, coords, attributes)
    return Recording(dataset)


@contextmanager
def _mat_array(path: Path, variable: str) -> Iterator[tuple[Any, bool]]:
    """Array of numbers of a MATLAB file, and whether its axes are reversed, as HDF5 readers see them."""
    first, *fields = variable.split(".")
    with _damage_named(path):
        if h5py.is_hdf5(path):
            file, contents = h5py.File(path, "r", rdcc_nbytes=64 * 2**20), None
        else:
            file, contents = nullcontext(), scipy.io.loadmat(path, variable_names=[first])
    with file:
        found: Any = file if contents is None else contents
        for depth, name in enumerate((first, *fields)):
            if isinstance(found, np.ndarray) and found.dtype.names and found.size == 1:
                found = {field: found.ravel()[0][field] for field in found.dtype.names}
            if not isinstance(found, Mapping) or name not in found:
                inside = f"{'.'.join((first, *fields)[:depth])} of {path}" if depth else f"{path}"
                known = sorted(each for each in _keys(found) if not each.startswith(("__", "#")))
                raise ValueError(f"no {name!r} in {inside}, which has {known or _mat_names(path)}: choose one of them")
            found = found[name]
        kind = found.attrs.get("MATLAB_class", b"") if isinstance(found, h5py.Dataset) else b""
        if isinstance(found, Mapping) or found.dtype.kind not in "biuf" or kind in (b"char", b"cell"):
            raise ValueError(
                f"{variable} in {path} is no array of numbers: convert it, in MATLAB with cell2mat or double"
            )
        yield found, contents is None


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise FileNotFoundError(f"no MATLAB file at {path}")
    try:
        _require_whole_mat5(path)
        yield
    except Exception as error:  # scipy and h5py raise many kinds, depending on where the damage is
        raise ValueError(
            f"{path} cannot be read as a MATLAB file ({error}): it is damaged or something else"
        ) from error


def _require_whole_mat5(path: Path) -> None:
    """Walk over the elements of a v5 file: scipy reads what there is of half a file without a word."""
    with path.open("rb") as file:
        header = file.read(128)
        if not header.startswith(b"MATLAB 5.0"):
            return
        order = "<" if header[126:] == b"IM" else ">"
        size, place = path.stat().st_size, len(header)
        while place < size:
            tag = file.read(8)
            place += 8 + (struct.unpack(order + "II", tag)[1] if len(tag) == 8 else size)
            file.seek(place)
        if place != size:
            raise ValueError(f"it ends after {size} bytes of at least {place}")


def _keys(found: Any) -> list[str]:
    return list(found) if isinstance(found, Mapping) else []


def _mat_names(path: Path) -> list[str]:
    """Names of the variables of a MATLAB file."""
    with _damage_named(path):
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return sorted(name for name in map(str, file) if not name.startswith("#"))
        return sorted(name for name, _, _ in scipy.io.whosmat(path))


def _sorted_responses(
    source: Any, axes: tuple[str, ...], stacked: list[str], slices: Mapping[str, slice], *, reverse: bool
) -> tuple[np.ndarray, dict[str, int]]:
    """Array (stimulus, repeat, neuron[, time_bin]) and the length of every axis."""
    shape = source.shape[::-1] if reverse else source.shape
    full = dict(zip(axes, (*shape, *[1] * (len(axes) - len(shape))), strict=True))  # MATLAB drops last axes of length 1
    parts = {axis: range(full[axis])[slices.get(axis, slice(None))] for axis in axes}
    sizes = {axis: len(part) for axis, part in parts.items()}
    dtype = source.dtype if source.dtype.kind == "f" else np.dtype(np.float32 if source.dtype.itemsize <= 2 else float)
    order = [*stacked, *(axis for axis in DIMS[1:] if axis in axes)]
    result = np.empty([sizes[axis] for axis in order], dtype)
    present = axes[: len(shape)]
    file_order = present[::-1] if reverse else present
    view = result.transpose([order.index(axis) for axis in (*file_order, *axes[len(shape) :])])
    view = view.reshape(view.shape[: len(shape)])
    rest = tuple(slice(part.start, part.stop, part.step) for part in (parts[axis] for axis in file_order[1:]))
    for row, index in enumerate(parts[file_order[0]]):
        view[row] = source[(index, *rest)]
    stimuli = math.prod(sizes[axis] for axis in stacked)
    final = [stimuli, sizes.get("repeat", 1), sizes["neuron"], *([sizes["time_bin"]] if "time_bin" in axes else [])]
    return result.reshape(final), sizes


def _level_labels(sizes: dict[str, int], levels: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    values = {axis: np.asarray(levels.get(axis, np.arange(size))) for axis, size in sizes.items()}
    for axis, size in sizes.items():
        if values[axis].shape != (size,):
            raise ValueError(
                f"levels of {axis!r} have shape {values[axis].shape}, expected ({size},): one value per place"
            )
    if len(sizes) == 1:
        (axis,) = sizes
        return {"stimulus_id": values[axis], **({} if axis == "stimulus" else {axis: values[axis]})}
    places = np.unravel_index(np.arange(math.prod(sizes.values())), tuple(sizes.values()))
    labels = {axis: values[axis][place] for axis, place in zip(sizes, places, strict=True)}
    ids = ["-".join(map(str, row)) for row in zip(*(each.tolist() for each in labels.values()), strict=True)]
    return {"stimulus_id": np.array(ids), **labels}


def _write_mat5(recording: Recording, structs: dict[str, dict[str, Any]], path: Path) -> None:
    for name in recording.dataset.data_vars:
        size = recording.dataset[name].nbytes
        if size >= MAT5_BYTES:
            raise ValueError(
                f"{name} take {size} bytes, a MATLAB v5 file holds less than {MAT5_BYTES}: use version='7.3'"
            )
    contents: dict[str, Any] = {str(name): variable.values for name, variable in recording.dataset.data_vars.items()}
    for group, fields in structs.items():
        contents[group] = {
            name: value.astype(object) if isinstance(value, np.ndarray) and value.dtype.kind == "U" else value
            for name, value in fields.items()
        }
    with path.open("wb") as file:  # a name without .mat would get one
        scipy.io.savemat(file, contents, do_compression=True, long_field_names=True)


def _write_mat73(recording: Recording, structs: dict[str, dict[str, Any]], path: Path) -> None:
    with h5py.File(path, "w", userblock_size=USERBLOCK) as file:
        for name, variable in recording.dataset.data_vars.items():
            shape, dtype = variable.shape[::-1], variable.dtype
            created = file.create_dataset(str(name), shape, dtype, chunks=True, compression="gzip", shuffle=True)
            created.attrs["MATLAB_class"] = np.bytes_({"f4": "single", "f8": "double", "u1": "uint8"}[dtype.str[1:]])
            for rows, block in variable_blocks(variable.variable):
                created[..., rows] = block.T
        for group, fields in structs.items():
            parent = file.create_group(group)
            parent.attrs["MATLAB_class"] = np.bytes_("struct")
            for name, value in fields.items():
                _write_mat73_value(parent, name, value)
    with path.open("r+b") as file:
        text = "MATLAB 7.3 MAT-file, Platform: any, Created by: lcl, HDF5 schema 1.00 ."
        file.write(text.ljust(116).encode("ascii") + bytes(8) + struct.pack("<H", 0x0200) + b"IM")


def _write_mat73_value(parent: h5py.Group, name: str, value: Any) -> None:
    """Write text as char, an array of text as a cell array, numbers as numbers, as MATLAB does."""
    if isinstance(value, str):
        codes = np.frombuffer(value.encode("utf-16-le"), np.uint16)
        created = parent.create_dataset(name, data=codes[:, None] if len(codes) else np.zeros(2, np.uint64))
        created.attrs["MATLAB_class"] = np.bytes_("char")
        created.attrs["MATLAB_int_decode"] = np.int32(2)
        if not len(codes):
            created.attrs["MATLAB_empty"] = np.uint8(1)
        return
    array = np.asarray(value)
    if array.dtype.kind == "U":
        store = parent.file.require_group("#refs#")
        references = np.empty(array.shape, h5py.ref_dtype)
        for place, text in np.ndenumerate(array):
            key = f"t{len(store)}"
            _write_mat73_value(store, key, str(text))
            references[place] = store[key].ref
        created = parent.create_dataset(name, data=references.T, dtype=h5py.ref_dtype)
        created.attrs["MATLAB_class"] = np.bytes_("cell")
        return
    array = np.atleast_2d(array)
    logical = array.dtype.kind == "b"
    created = parent.create_dataset(name, data=(array.astype(np.uint8) if logical else array).T)
    named = {"f4": "single", "f8": "double", "b1": "logical"}
    kind = array.dtype.str[1:]
    created.attrs["MATLAB_class"] = np.bytes_(named.get(kind, array.dtype.name))
    if logical:
        created.attrs["MATLAB_int_decode"] = np.int32(1)


def _read_mat_structs(path: Path) -> dict[str, dict[str, Any]]:
    """Structs of a file of write_mat, and the names of its arrays, which are left unread."""
    groups = ("attributes", *COORDINATE_DIMS)
    contents: dict[str, dict[str, Any]] = {name: {} for name in _mat_names(path) if name not in groups}
    with _damage_named(path):
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                for group in set(groups) & set(file):
                    fields = file[group]
                    if isinstance(fields, h5py.Group):
                        contents[group] = {name: _mat73_value(file, fields[name]) for name in map(str, fields)}
        else:
            for group, value in scipy.io.loadmat(path, variable_names=groups, chars_as_strings=True).items():
                if isinstance(value, np.ndarray) and value.dtype.names and value.size == 1:
                    contents[group] = {name: _mat5_value(value.ravel()[0][name]) for name in value.dtype.names}
    attributes = contents.get("attributes", {})
    contents["attributes"] = {name: _attribute(value) for name, value in attributes.items()}
    return contents


def _mat73_value(file: h5py.File, stored: Any) -> Any:
    kind = bytes(stored.attrs.get("MATLAB_class", b"")).decode()
    if kind == "cell":
        texts = [_mat73_value(file, file[reference]) for reference in stored[()].T.ravel()]
        return np.array(texts).reshape(stored.shape[::-1])
    if kind == "char":
        return "" if "MATLAB_empty" in stored.attrs else stored[()].T.astype(np.uint16).tobytes().decode("utf-16-le")
    return stored[()].T.astype(bool) if kind == "logical" else stored[()].T


def _mat5_value(value: np.ndarray) -> Any:
    if value.dtype.kind == "U":
        return str(value.ravel()[0]) if value.size else ""
    if value.dtype.kind == "O":
        return np.array([_mat5_value(each) for each in value.ravel()]).reshape(value.shape)
    return value


def _attribute(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return value.item() if value.size == 1 else value.ravel()
