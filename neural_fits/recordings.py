"""Responses of neurons to pictures: one container for every recording, checked, and read from disk only where needed.

Other formats: :mod:`neural_fits.matlab_files`, :mod:`neural_fits.nwb_files`, :mod:`neural_fits.assemblies`
(Brain-Score).
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr

from stimuli.files import replacing

FORMAT = 1
DIMS = ("stimulus", "repeat", "neuron", "time_bin")
ATTRIBUTES = ("name", "size_deg", "window_ms", "unit", "licence", "citation", "source", "format")
BLOCK_BYTES = 8 * 2**20  # read at once: small beside any memory, large beside the cost of a read
CHUNK_BYTES = 2**20  # the size of HDF5's own chunk cache: a chunk is decompressed once


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Recording:
    """Responses of neurons to repeated pictures; missing ones are NaN.

    Build one with :func:`recording_from_arrays`, :func:`read_recording` or the converters of
    :mod:`neural_fits.matlab_files`, :mod:`neural_fits.nwb_files` and :mod:`neural_fits.assemblies`; the constructor
    takes a dataset that already has this layout and refuses any other.

    Attributes
    ----------
    dataset : xarray.Dataset
        Data variables: ``responses`` (stimulus, repeat, neuron[, time_bin]), float, NaN where missing; and, where the
        pictures are known, ``images`` (stimulus, row, column[, channel]), uint8. Coordinates along stimulus:
        ``stimulus_id`` and any labels, ``has_image`` (bool) where some stimuli have no picture; along neuron:
        ``neuron_id``, ``region``, ``animal`` and any others; along repeat: ``repeat``; along time_bin:
        ``time_bin_start_ms``, ``time_bin_end_ms``, from stimulus onset. Attributes: ``name``, ``size_deg`` (side of
        the pictures in degrees of visual angle, NaN where unknown), ``window_ms`` (two times from stimulus onset),
        ``unit`` ("spikes", "spikes/s"), ``licence``, ``citation``, ``source``, ``format`` and any others.

    Raises
    ------
    ValueError
        If a variable, dimension, coordinate or attribute is missing, superfluous or of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> recording = recording_from_arrays(np.arange(12.0).reshape(3, 2, 2), neuron={"region": "V1"}, name="toy")
    >>> recording
    <Recording 'toy': 3 stimuli x 2 repeats x 2 neurons, without pictures>
    >>> recording.mean_responses()
    array([[ 1.,  2.],
           [ 5.,  6.],
           [ 9., 10.]])
    """

    dataset: xr.Dataset

    def __post_init__(self) -> None:
        _require_layout(self.dataset)

    def __repr__(self) -> str:
        sizes = [f"{self.n_stimuli} stimuli", f"{self.n_repeats} repeats", f"{self.n_neurons} neurons"]
        if "time_bin" in self.responses.dims:
            sizes.append(f"{self.responses.sizes['time_bin']} time bins")
        pictures = "with" if "images" in self.dataset else "without"
        return f"<Recording {self.name!r}: {' x '.join(sizes)}, {pictures} pictures>"

    @property
    def responses(self) -> xr.DataArray:
        """Responses (stimulus, repeat, neuron[, time_bin]); of a file, read where they are indexed."""
        return self.dataset["responses"]

    @property
    def images(self) -> np.ndarray | None:
        """Pictures (stimulus, row, column[, channel]), uint8, read at once; None where they are unknown."""
        return self.dataset["images"].values if "images" in self.dataset else None

    @property
    def name(self) -> str:
        """Name of the recording."""
        return str(self.dataset.attrs["name"])

    @property
    def size_deg(self) -> float:
        """Side of the pictures in degrees of visual angle (along columns); NaN where unknown."""
        return float(self.dataset.attrs["size_deg"])

    @property
    def window_ms(self) -> tuple[float, float]:
        """Start and end of the counting window, from stimulus onset; NaN where unknown."""
        start_ms, end_ms = self.dataset.attrs["window_ms"]
        return float(start_ms), float(end_ms)

    @property
    def unit(self) -> str:
        """Unit of the responses, such as "spikes" or "spikes/s"."""
        return str(self.dataset.attrs["unit"])

    @property
    def licence(self) -> str:
        """Terms of use."""
        return str(self.dataset.attrs["licence"])

    @property
    def citation(self) -> str:
        """What to cite."""
        return str(self.dataset.attrs["citation"])

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return self.responses.sizes["stimulus"]

    @property
    def n_repeats(self) -> int:
        """Largest number of repeats of a stimulus; fewer ones are filled with NaN."""
        return self.responses.sizes["repeat"]

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return self.responses.sizes["neuron"]

    def labels(self, name: str) -> np.ndarray:
        """Values of a coordinate, one per stimulus (or neuron, repeat, time bin).

        Parameters
        ----------
        name : str
            Name of the coordinate, such as "stimulus_id", "family", "region".

        Returns
        -------
        1-D array

        Raises
        ------
        ValueError
            If there is no such coordinate.

        Examples
        --------
        >>> import numpy as np
        >>> recording = recording_from_arrays(np.ones((2, 1, 1)), stimulus={"family": ["bark", "sand"]})
        >>> recording.labels("family").tolist()
        ['bark', 'sand']
        """
        if name not in self.dataset.coords:
            known = ", ".join(sorted(map(str, self.dataset.coords)))
            raise ValueError(f"no label {name!r} in recording {self.name!r}: use one of {known}")
        return self.dataset.coords[name].values

    def mean_responses(self) -> np.ndarray:
        """Mean over the repeats that are there.

        Returns
        -------
        array, (stimulus, neuron), float64
            NaN where a neuron has no repeat of a stimulus.

        Raises
        ------
        ValueError
            If there are time bins: average them with :meth:`window` first.

        Examples
        --------
        >>> import numpy as np
        >>> recording_from_arrays(np.array([[[1.0], [np.nan]], [[2.0], [5.0]]])).mean_responses().ravel()
        array([1. , 3.5])
        """
        self._require_no_time_bins("mean_responses")
        means = np.full((self.n_stimuli, self.n_neurons), np.nan)
        for rows, block in response_blocks(self):
            there = (~np.isnan(block)).sum(axis=1)
            total = np.nansum(block, axis=1, dtype=np.float64)
            np.divide(total, there, out=means[rows], where=there > 0)
        return means

    def repeats(self) -> np.ndarray:
        """Responses as one array in memory, NaN where missing.

        Returns
        -------
        array, (stimulus, repeat, neuron)

        Raises
        ------
        ValueError
            If there are time bins: average them with :meth:`window` first.

        Examples
        --------
        >>> import numpy as np
        >>> recording_from_arrays(np.ones((3, 2, 1))).repeats().shape
        (3, 2, 1)
        """
        self._require_no_time_bins("repeats")
        return self.responses.values

    def select(
        self,
        *,
        stimuli: slice | Sequence[int] | np.ndarray | None = None,
        repeats: slice | Sequence[int] | np.ndarray | None = None,
        neurons: slice | Sequence[int] | np.ndarray | None = None,
    ) -> "Recording":
        """Part of the recording, in the order asked for; nothing is read.

        Parameters
        ----------
        stimuli, repeats, neurons : mask, indices, slice or None
            Which ones to keep; all by default.

        Returns
        -------
        Recording

        Raises
        ------
        ValueError
            If a mask has another length than its axis, an index lies outside, or nothing is left.

        Examples
        --------
        >>> import numpy as np
        >>> recording = recording_from_arrays(np.ones((3, 2, 4)), neuron={"region": ["V1", "V1", "V2", "V2"]})
        >>> recording.select(stimuli=[2, 0], neurons=recording.labels("region") == "V2")
        <Recording '': 2 stimuli x 2 repeats x 2 neurons, without pictures>
        """
        chosen = {"stimulus": stimuli, "repeat": repeats, "neuron": neurons}
        keep = {
            dim: _indices(which, self.responses.sizes[dim], dim) for dim, which in chosen.items() if which is not None
        }
        return Recording(self.dataset.isel(keep))

    def window(self, start_ms: float, end_ms: float, *, reduction: str = "mean") -> "Recording":
        """Average of the time bins between two times.

        A response is missing (NaN) where one of its bins is.

        Parameters
        ----------
        start_ms, end_ms : float
            From stimulus onset; the start of one bin and the end of another.
        reduction : {"mean", "sum"}
            "mean" suits rates; "sum" makes the counts of bins the count of the window.

        Returns
        -------
        Recording
            Without time bins, in memory.

        Raises
        ------
        ValueError
            If there are no time bins or the times are not edges of bins.

        Examples
        --------
        >>> import numpy as np
        >>> bins_ms = [(0, 50), (50, 100), (100, 150)]
        >>> recording = recording_from_arrays(np.array([[[[0.0, 2.0, 4.0]]]]), time_bins_ms=bins_ms)
        >>> recording.window(50, 150).mean_responses()
        array([[3.]])
        """
        if "time_bin" not in self.responses.dims:
            raise ValueError(f"recording {self.name!r} has no time bins; its window is {self.window_ms} ms already")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction is {reduction!r}, expected 'mean' or 'sum'")
        starts, ends = self.labels("time_bin_start_ms"), self.labels("time_bin_end_ms")
        inside = np.flatnonzero((starts >= start_ms - 1e-6) & (ends <= end_ms + 1e-6))
        if not inside.size or abs(starts[inside].min() - start_ms) > 1e-6 or abs(ends[inside].max() - end_ms) > 1e-6:
            raise ValueError(
                f"{start_ms} to {end_ms} ms does not start and end with time bins of recording {self.name!r} "
                f"({starts[0]:g}-{ends[0]:g} ms to {starts[-1]:g}-{ends[-1]:g} ms): choose edges of bins"
            )
        bins = Recording(self.dataset.isel(time_bin=inside))
        values = np.empty(self.responses.shape[:3], dtype=self.responses.dtype)
        for rows, block in response_blocks(bins):
            values[rows] = getattr(block, reduction)(axis=3, dtype=np.float64)
        dataset = self.dataset.drop_dims("time_bin").assign(responses=(DIMS[:3], values))
        return Recording(dataset.assign_attrs(window_ms=np.array([start_ms, end_ms], dtype=float)))

    def check(self) -> list[str]:
        """Look for what would spoil a fit; the responses are read once, block by block.

        Returns
        -------
        list of str
            One sentence per problem, naming the ids: duplicate ids, neurons without responses, constant neurons,
            infinite responses, stimuli without responses, stimuli without picture (where others have one). Empty for
            a sound recording.

        Examples
        --------
        >>> import numpy as np
        >>> responses = np.array([[[1.0, 4.0]], [[2.0, 4.0]]])
        >>> recording_from_arrays(responses, neuron={"neuron_id": ["a", "b"]}).check()
        ['constant neurons, whose responses are all the same: b']
        """
        return [sentence for _, sentence in self._problems()]

    def require_sound(self, *, allow: Sequence[str] = (), pictures: bool = False) -> "Recording":
        """Return this recording, or raise with everything that :meth:`check` finds.

        Parameters
        ----------
        allow : sequence of str
            Problems to accept: "duplicate stimulus", "duplicate neuron", "silent neuron" (no response), "constant
            neuron", "infinite neuron", "silent stimulus", "missing picture".
        pictures : bool
            Whether pictures of known size are needed as well.

        Returns
        -------
        Recording

        Raises
        ------
        ValueError
            If there is another problem than the allowed ones.

        Examples
        --------
        >>> import numpy as np
        >>> recording = recording_from_arrays(np.ones((2, 1, 1)))
        >>> recording.require_sound()
        Traceback (most recent call last):
            ...
        ValueError: recording '' is not sound: constant neurons, whose responses are all the same: 0; select the others
        >>> recording.require_sound(allow=["constant neuron"])
        <Recording '': 2 stimuli x 1 repeats x 1 neurons, without pictures>
        """
        unknown = set(allow) - set(PROBLEMS)
        if unknown:
            raise ValueError(f"no problem is called {sorted(unknown)}: use {', '.join(PROBLEMS)}")
        found = [sentence for kind, sentence in self._problems() if kind not in allow]
        if found:
            raise ValueError(f"recording {self.name!r} is not sound: {'; '.join(found)}; select the others")
        if pictures and ("images" not in self.dataset or math.isnan(self.size_deg)):
            raise ValueError(f"recording {self.name!r} lacks pictures or their size: give images and size_deg")
        return self

    def _require_no_time_bins(self, method: str) -> None:
        if "time_bin" in self.responses.dims:
            raise ValueError(
                f"{method}() needs responses without time bins, got {self.responses.sizes['time_bin']} bins: "
                f"average them with window(start_ms, end_ms) first"
            )

    def _problems(self) -> list[tuple[str, str]]:
        lowest, highest = np.full(self.n_neurons, np.inf), np.full(self.n_neurons, -np.inf)
        infinite = np.zeros(self.n_neurons, dtype=bool)
        silent_stimulus = np.ones(self.n_stimuli, dtype=bool)
        for rows, block in response_blocks(self):
            missing = np.isnan(block)
            silent_stimulus[rows] &= missing.reshape(len(block), -1).all(axis=1)
            others = (0, 1, *range(3, block.ndim))
            infinite |= np.isinf(block).any(axis=others)
            lowest = np.minimum(lowest, np.where(missing, np.inf, block).min(axis=others))
            highest = np.maximum(highest, np.where(missing, -np.inf, block).max(axis=others))
        stimulus_id, neuron_id = self.labels("stimulus_id"), self.labels("neuron_id")
        pictured = (
            self.labels("has_image") if "has_image" in self.dataset.coords else np.ones(self.n_stimuli, dtype=bool)
        )
        silent_neuron = lowest > highest
        named = {
            "duplicate stimulus": _duplicates(stimulus_id),
            "duplicate neuron": _duplicates(neuron_id),
            "silent neuron": neuron_id[silent_neuron],
            "constant neuron": neuron_id[(lowest == highest) & ~infinite],
            "infinite neuron": neuron_id[infinite],
            "silent stimulus": stimulus_id[silent_stimulus],
            "missing picture": stimulus_id[~pictured.astype(bool)],
        }
        return [(kind, f"{PROBLEMS[kind]}: {_names(ids)}") for kind, ids in named.items() if len(ids)]


PROBLEMS = {
    "duplicate stimulus": "stimulus ids that occur more than once",
    "duplicate neuron": "neuron ids that occur more than once",
    "silent neuron": "neurons without any response (all NaN)",
    "constant neuron": "constant neurons, whose responses are all the same",
    "infinite neuron": "neurons with infinite responses",
    "silent stimulus": "stimuli without any response (all NaN)",
    "missing picture": "stimuli without picture",
}


def recording_from_arrays(
    responses: Any,
    *,
    stimulus: Mapping[str, Any] | None = None,
    neuron: Mapping[str, Any] | None = None,
    repeat: Any = None,
    time_bins_ms: Any = None,
    images: Any = None,
    size_deg: float = math.nan,
    window_ms: tuple[float, float] | None = None,
    unit: str = "spikes",
    name: str = "",
    licence: str = "",
    citation: str = "",
    source: str = "",
    attributes: Mapping[str, Any] | None = None,
) -> Recording:
    """Recording from arrays.

    Parameters
    ----------
    responses : array, (stimulus, repeat, neuron) or (stimulus, repeat, neuron, time_bin)
        Integers become floats; NaN where missing. An xarray variable that is read lazily stays lazy.
    stimulus : mapping of str to sequence or value
        Coordinates along stimulus: ``stimulus_id`` (0, 1, ... by default) and any labels; one value stands for all.
    neuron : mapping of str to sequence or value
        Coordinates along neuron: ``neuron_id`` (0, 1, ... by default), ``region`` and ``animal`` ("" by default, which
        means unknown) and any others.
    repeat : sequence of int, optional
        Numbers of the repeats; 0, 1, ... by default.
    time_bins_ms : array, (time_bin, 2)
        Start and end of each time bin from stimulus onset; needed where there are time bins.
    images : array of uint8, (stimulus, row, column) or (stimulus, row, column, channel); or mapping, optional
        Pictures. A mapping from stimulus id to a picture may leave some out: :meth:`Recording.check` names them.
    size_deg : float
        Side of the pictures in degrees of visual angle; NaN where unknown.
    window_ms : pair of float, optional
        Counting window from stimulus onset; by default from the first to the last time bin, or unknown (NaN).
    unit : str
        "spikes" or "spikes/s", or whatever the responses are in.
    name, licence, citation, source : str
        What the recording is, its terms, what to cite, where it came from.
    attributes : mapping of str to str, number or array
        Anything else to keep with the recording.

    Returns
    -------
    Recording

    Raises
    ------
    ValueError
        If shapes, ids or types do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.random.default_rng(0).poisson(3, size=(4, 10, 5))
    >>> pictures = np.zeros((4, 16, 16), dtype=np.uint8)
    >>> recording = recording_from_arrays(
    ...     counts,
    ...     stimulus={"family": ["bark", "bark", "sand", "sand"]},
    ...     neuron={"region": "V1", "animal": "m1"},
    ...     images=pictures,
    ...     size_deg=4.0,
    ...     window_ms=(50, 200),
    ... )
    >>> recording, recording.size_deg, recording.window_ms
    (<Recording '': 4 stimuli x 10 repeats x 5 neurons, with pictures>, 4.0, (50.0, 200.0))
    """
    variable = _response_variable(responses)
    sizes = dict(zip(variable.dims, variable.shape, strict=True))
    coords: dict[str, Any] = {}
    stimulus = {"stimulus_id": np.arange(sizes["stimulus"]), **(stimulus or {})}
    neuron = {"neuron_id": np.arange(sizes["neuron"]), "region": "", "animal": "", **(neuron or {})}
    taken = {
        *DIMS,
        "responses",
        "images",
        "has_image",
        "row",
        "column",
        "channel",
        "time_bin_start_ms",
        "time_bin_end_ms",
    }
    for dim, labels in (("stimulus", stimulus), ("neuron", neuron)):
        for label, values in labels.items():
            if label in taken:
                raise ValueError(f"the label {label!r} of {dim} has a name that is used already: rename it")
            taken.add(label)
            coords[label] = (dim, _label(values, sizes[dim], label, dim))
    coords["repeat"] = (
        "repeat",
        _label(np.arange(sizes["repeat"]) if repeat is None else repeat, sizes["repeat"], "repeat", "repeat"),
    )
    if ("time_bin" in sizes) != (time_bins_ms is not None):
        raise ValueError(
            f"responses have {'' if 'time_bin' in sizes else 'no '}time bins and time_bins_ms is "
            f"{'missing' if time_bins_ms is None else 'given'}: give both or neither"
        )
    if time_bins_ms is not None:
        bins = np.asarray(time_bins_ms, dtype=float)
        if bins.shape != (sizes["time_bin"], 2):
            raise ValueError(
                f"time_bins_ms has shape {bins.shape}, expected ({sizes['time_bin']}, 2): start and end per bin"
            )
        coords["time_bin_start_ms"], coords["time_bin_end_ms"] = ("time_bin", bins[:, 0]), ("time_bin", bins[:, 1])
        window_ms = window_ms or (bins[:, 0].min(), bins[:, 1].max())
    variables: dict[str, Any] = {"responses": variable}
    if images is not None:
        if isinstance(images, Mapping):
            images, there = _stack_images(images, coords["stimulus_id"][1])
            if not there.all():
                coords["has_image"] = ("stimulus", there)
        if not isinstance(images, xr.Variable):
            images = np.asarray(images)
            images = xr.Variable(("stimulus", "row", "column", "channel")[: images.ndim], images)
        variables["images"] = images
    attrs = {
        **(attributes or {}),
        "name": name,
        "size_deg": float(size_deg),
        "window_ms": np.array(window_ms or (math.nan, math.nan), dtype=float),
        "unit": unit,
        "licence": licence,
        "citation": citation,
        "source": source,
        "format": FORMAT,
    }
    return Recording(xr.Dataset(variables, coords, attrs))


def write_recording(recording: Recording, path: str | Path) -> Path:
    """Write a recording as netCDF 4 (HDF5), block by block, so that it may be larger than memory.

    Numbers keep their type and are compressed without loss (counts take about a tenth of their size in memory), with
    checksums. The file appears whole or not at all.

    Parameters
    ----------
    recording : Recording
        In memory or read from another file.
    path : path
        File to write; replaced if it exists.

    Returns
    -------
    Path

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> path = Path(tempfile.mkdtemp()) / "toy.nc"
    >>> recording = recording_from_arrays(np.array([[[1.0, np.nan]]]), name="toy")
    >>> read_recording(write_recording(recording, path)).responses.values
    array([[[ 1., nan]]])
    """
    path = Path(path)
    dataset = recording.dataset
    large = [name for name in ("responses", "images") if name in dataset]
    with replacing(path) as partial:
        small = dataset.drop_vars(large).reset_coords()
        small.to_netcdf(partial, engine="h5netcdf", format="NETCDF4")
        with h5netcdf.File(partial, "a") as file:
            for name in large:
                _write_blocks(file, dataset[name].variable, name)
    return path


def read_recording(path: str | Path) -> Recording:
    """Open a recording written by :func:`write_recording`; responses and pictures stay on disk until indexed.

    ``recording.dataset.close()`` lets go of the file.

    Parameters
    ----------
    path : path
        A netCDF file.

    Returns
    -------
    Recording

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, is not a recording, or is of a format that this version does not know.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> path = Path(tempfile.mkdtemp()) / "toy.nc"
    >>> _ = write_recording(recording_from_arrays(np.ones((3, 2, 2)), name="toy"), path)
    >>> read_recording(path)
    <Recording 'toy': 3 stimuli x 2 repeats x 2 neurons, without pictures>
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recording at {path}")
    try:
        dataset = xr.open_dataset(path, engine="h5netcdf", cache=False, decode_times=False)
    except Exception as error:  # what h5py raises for a damaged file depends on where the damage is
        raise ValueError(f"{path} cannot be read as netCDF 4 ({error}): it is damaged or something else") from error
    written = dataset.attrs.get("format")
    if not isinstance(written, int | np.integer) or "responses" not in dataset:
        dataset.close()
        raise ValueError(f"{path} is no recording (no responses or no format number): write it with write_recording")
    if written != FORMAT:
        dataset.close()
        raise ValueError(
            f"{path} has recording format {written}, this version reads {FORMAT}: update lcl or write the file again"
        )
    small = [name for name in dataset.variables if name not in ("responses", "images")]
    loaded = {name: (dataset[name].dims, _plain(dataset[name].values)) for name in small}
    coords = dataset.assign(loaded).set_coords(small)
    coords.set_close(dataset.close)
    return Recording(coords)


def response_blocks(recording: Recording) -> Iterator[tuple[slice, np.ndarray]]:
    """Responses, a few stimuli at a time, so that a file larger than memory can be worked through.

    Parameters
    ----------
    recording : Recording
        In memory or on disk.

    Yields
    ------
    rows : slice
        Which stimuli.
    block : array, (stimulus, repeat, neuron[, time_bin])
        Their responses.

    Examples
    --------
    >>> import numpy as np
    >>> [block.shape for rows, block in response_blocks(recording_from_arrays(np.ones((5, 2, 1))))]
    [(5, 2, 1)]
    """
    return variable_blocks(recording.responses.variable)


def variable_blocks(variable: xr.Variable, *, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[slice, np.ndarray]]:
    """Parts of a variable along its first axis.

    Parameters
    ----------
    variable : xarray.Variable
        In memory or on disk.
    block_bytes : int
        Largest size of a part in bytes (one row at least).

    Yields
    ------
    rows : slice
        Which rows.
    block : array
        Their values.

    Examples
    --------
    >>> variable = xr.Variable(("stimulus", "repeat"), np.ones((5, 2)))
    >>> [(rows.start, rows.stop, block.shape) for rows, block in variable_blocks(variable, block_bytes=32)]
    [(0, 2, (2, 2)), (2, 4, (2, 2)), (4, 5, (1, 2))]
    """
    rows = max(1, block_bytes // max(1, variable.dtype.itemsize * math.prod(variable.shape[1:])))
    for start in range(0, variable.shape[0], rows):
        part = slice(start, min(start + rows, variable.shape[0]))
        yield part, variable[part].values


def _write_blocks(file: h5netcdf.File, variable: xr.Variable, name: str) -> None:
    for dim, size in variable.sizes.items():
        if dim not in file.dimensions:
            file.dimensions[str(dim)] = size
    created = file.create_variable(
        name,
        tuple(map(str, variable.dims)),
        variable.dtype,
        chunks=_chunk(variable.shape, variable.dtype.itemsize),
        compression="gzip",
        shuffle=True,
        fletcher32=True,
    )
    for rows, block in variable_blocks(variable):
        created[rows] = block


def _chunk(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    chunk = [1, *shape[1:]]
    while itemsize * math.prod(chunk) > CHUNK_BYTES:
        longest = int(np.argmax(chunk))
        chunk[longest] = -(-chunk[longest] // 2)
    chunk[0] = max(1, min(shape[0], CHUNK_BYTES // (itemsize * math.prod(chunk))))
    return tuple(chunk)


def _response_variable(responses: Any) -> xr.Variable:
    if isinstance(responses, xr.DataArray):
        responses = responses.variable
    if not isinstance(responses, xr.Variable):
        values = np.asarray(responses)
        if values.ndim not in (3, 4):
            raise ValueError(
                f"responses have shape {values.shape}, expected (stimulus, repeat, neuron) or "
                f"(stimulus, repeat, neuron, time_bin): add an axis of length 1 where there is one repeat"
            )
        responses = xr.Variable(DIMS[: values.ndim], values)
    dtype = responses.dtype
    if dtype.kind not in "biuf":
        raise ValueError(f"responses are of type {dtype}, expected real numbers: convert them to float")
    if dtype not in (np.float32, np.float64):
        responses = responses.astype(np.float32 if dtype.itemsize <= 2 else np.float64)
    return responses


def _label(values: Any, length: int, name: str, dim: str) -> np.ndarray:
    array = _plain(np.asarray(values))
    if array.ndim == 0:
        array = np.full(length, array)
    if array.shape != (length,):
        raise ValueError(f"{name} has shape {array.shape}, expected ({length},): one value per {dim}, or one for all")
    return array


def _plain(array: np.ndarray) -> np.ndarray:
    """Text as numpy's fixed-width text, whatever a reader or pandas made of it."""
    if array.dtype.kind in "SOT":
        array = np.array([each.decode() if isinstance(each, bytes) else str(each) for each in array.ravel()]).reshape(
            array.shape
        )
    return array


def _stack_images(images: Mapping[Any, Any], stimulus_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids = stimulus_id.tolist()
    strangers = [each for each in images if each not in set(ids)]
    if strangers or not images:
        raise ValueError(f"pictures of {_names(strangers) or 'no stimulus'}: expected pictures of ids in stimulus_id")
    pictures = {each: np.asarray(picture) for each, picture in images.items()}
    shapes = sorted({picture.shape for picture in pictures.values()})
    if len(shapes) > 1:
        raise ValueError(f"pictures have shapes {shapes}, expected one shape: bring them to one size first")
    blank = np.zeros(shapes[0], dtype=next(iter(pictures.values())).dtype)
    return np.stack([pictures.get(each, blank) for each in ids]), np.array([each in pictures for each in ids])


def _indices(which: Any, length: int, dim: str) -> np.ndarray | slice:
    if isinstance(which, slice):
        return which
    array = np.asarray(which)
    if array.size == 0:
        raise ValueError(f"the selection leaves no {dim}: choose at least one of {length}")
    if array.dtype == bool:
        if array.shape != (length,):
            raise ValueError(f"the mask over {dim} has shape {array.shape}, expected ({length},)")
        if not array.any():
            raise ValueError(f"the selection leaves no {dim}: choose at least one of {length}")
        return np.flatnonzero(array)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"selection over {dim} is of type {array.dtype} and shape {array.shape}, expected mask or indices"
        )
    outside = array[(array < -length) | (array >= length)]
    if outside.size:
        raise ValueError(f"{dim} {outside.tolist()} lie outside: the recording has {length}, counted from 0")
    return array


def _duplicates(ids: np.ndarray) -> np.ndarray:
    values, counts = np.unique(ids, return_counts=True)
    return values[counts > 1]


def _names(ids: Any, limit: int = 20) -> str:
    names = [str(each) for each in ids]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _require_layout(dataset: xr.Dataset) -> None:
    if not isinstance(dataset, xr.Dataset):
        raise ValueError(
            f"a recording is made of an xarray.Dataset, got {type(dataset).__name__}: use recording_from_arrays"
        )
    if "responses" not in dataset.data_vars:
        raise ValueError(
            f"the dataset has variables {sorted(map(str, dataset.data_vars))}, expected 'responses' among them"
        )
    responses = dataset["responses"]
    if responses.dims not in (DIMS[:3], DIMS):
        raise ValueError(
            f"responses have dimensions {responses.dims}, expected {DIMS[:3]} and optionally 'time_bin': transpose them"
        )
    if responses.dtype.kind != "f":
        raise ValueError(f"responses are of type {responses.dtype}, expected float with NaN for missing: convert them")
    if 0 in responses.shape:
        raise ValueError(f"responses have shape {responses.shape}, expected at least one of each: keep something")
    strangers = sorted(map(str, set(dataset.data_vars) - {"responses", "images"}))
    if strangers:
        raise ValueError(
            f"the dataset has other variables, {', '.join(strangers)}: make them coordinates or leave them out"
        )
    needed = {"stimulus": ["stimulus_id"], "neuron": ["neuron_id", "region", "animal"], "repeat": ["repeat"]}
    if "time_bin" in responses.dims:
        needed["time_bin"] = ["time_bin_start_ms", "time_bin_end_ms"]
    for dim, names in needed.items():
        for name in names:
            if name not in dataset.coords or dataset.coords[name].dims != (dim,):
                raise ValueError(f"the dataset lacks the coordinate {name!r} along {dim!r}: use recording_from_arrays")
    lacking = [name for name in ATTRIBUTES if name not in dataset.attrs]
    if lacking:
        raise ValueError(f"the dataset lacks attributes {', '.join(lacking)}: use recording_from_arrays")
    size_deg, window_ms = float(dataset.attrs["size_deg"]), np.asarray(dataset.attrs["window_ms"], dtype=float)
    if size_deg <= 0 or math.isinf(size_deg):
        raise ValueError(f"size_deg is {size_deg}, expected a positive size in degrees, or NaN where unknown")
    if window_ms.shape != (2,) or window_ms[0] >= window_ms[1]:
        raise ValueError(f"window_ms is {window_ms.tolist()}, expected a start before an end, or NaN where unknown")
    if "images" in dataset:
        images = dataset["images"]
        dims = ("stimulus", "row", "column", "channel")
        if images.dims not in (dims[:3], dims) or images.dtype != np.uint8:
            raise ValueError(
                f"images have dimensions {images.dims} and type {images.dtype}, expected {dims[:3]} and optionally "
                f"'channel', uint8: scale pictures in [0, 1] by 255 and round them"
            )
