"""Recordings to and from Neurodata Without Borders (NWB 2), through pynwb."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np

from neural_fits.presentations import count_repeats, place_presentations, presented, sort_presentations
from neural_fits.recordings import ATTRIBUTES, FORMAT, Recording, recording_from_arrays
from stimuli.files import replacing

MODULE = "recording"  # processing module of the responses that write_nwb writes


def recording_from_nwb(
    path: str | Path,
    *,
    window_ms: tuple[float, float] | None = None,
    time_bins_ms: Any = None,
    stimulus_column: str = "stimulus_id",
    labels: Sequence[str] = (),
    region_column: str | None = None,
    images: Any = None,
    **settings: Any,
) -> Recording:
    """Count the spikes of each unit on each trial of an NWB file, and sort the trials by stimulus.

    Repeats are counted in the order of the trials' start times. Where a unit has observation intervals
    (``obs_intervals``), trials whose window is not inside one are missing (NaN). Pictures are taken from the stimulus
    templates: images named by stimulus id, or frames of an image series numbered by stimulus id; rows of the data are
    rows of the picture. The animal is the subject's id.

    Parameters
    ----------
    path : path
        An NWB file with a trials table and a units table with spike times.
    window_ms : pair of float
        Counting window from the start of the trial; or
    time_bins_ms : array, (time_bin, 2)
        Start and end of several.
    stimulus_column : str
        Column of the trials table that says which stimulus was shown.
    labels : sequence of str
        Columns of the trials table that are labels of the stimulus; each must agree within a stimulus.
    region_column : str, optional
        Column of the units table with the brain area; by default the ``location`` of the unit's first electrode, or
        unknown ("") where units have no electrodes.
    images : array or mapping, optional
        Pictures, as for :func:`~neural_fits.recordings.recording_from_arrays`, instead of the templates.
    **settings
        ``size_deg``, ``name``, ``licence``, ``citation``, ``neuron`` ... of
        :func:`~neural_fits.recordings.recording_from_arrays`.

    Returns
    -------
    Recording
        Stimuli in the order of their first trial; spike counts.

    Raises
    ------
    ImportError
        If pynwb is not installed.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, lacks trials, units, spike times or a column, or neither or both windows are given.

    Examples
    --------
    >>> import tempfile
    >>> from datetime import UTC, datetime
    >>> from pynwb import NWBHDF5IO, NWBFile
    >>> nwb = NWBFile("a session", "s1", datetime(2020, 1, 1, tzinfo=UTC))
    >>> nwb.add_trial_column("stimulus_id", "picture that was shown")
    >>> for start_s, stimulus_id in [(0.0, "a"), (1.0, "b"), (2.0, "a")]:
    ...     nwb.add_trial(start_time=start_s, stop_time=start_s + 0.1, stimulus_id=stimulus_id)
    >>> nwb.add_unit(spike_times=[0.06, 0.08, 1.3, 2.1])
    >>> path = Path(tempfile.mkdtemp()) / "s1.nwb"
    >>> with NWBHDF5IO(path, "w") as io:
    ...     io.write(nwb)
    >>> recording = recording_from_nwb(path, window_ms=(50, 200))
    >>> recording.labels("stimulus_id").tolist(), recording.repeats()[..., 0]
    (['a', 'b'], array([[ 2.,  1.],
           [ 0., nan]]))
    """
    if (window_ms is None) == (time_bins_ms is None):
        raise ValueError(f"window_ms is {window_ms} and time_bins_ms is {time_bins_ms}, expected exactly one: give it")
    bins_ms = np.asarray([window_ms] if time_bins_ms is None else time_bins_ms, dtype=float)
    if bins_ms.ndim != 2 or bins_ms.shape[1] != 2 or not (bins_ms[:, 0] < bins_ms[:, 1]).all():
        raise ValueError(f"windows are {bins_ms.tolist()} ms, expected pairs of a start before an end")
    path = Path(path)
    with _opened(path) as nwb:
        for table in ("trials", "units"):
            if getattr(nwb, table) is None:
                raise ValueError(
                    f"{path} has no {table} table: a recording needs trials with stimuli and units with spikes"
                )
        trials, units = nwb.trials, nwb.units
        columns = {name: _column(trials, name, path) for name in ("start_time", stimulus_column, *labels)}
        if "spike_times" not in units.colnames:
            raise ValueError(f"the units table of {path} has no spike_times: columns are {list(units.colnames)}")
        order = np.argsort(columns["start_time"], kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
        stimulus_id = columns[stimulus_column]
        windows_s = columns["start_time"][:, None, None] + bins_ms / 1000
        counts = np.stack([_counts(units, row, windows_s) for row in range(len(units))], axis=1)
        regions = _regions(units, region_column, path)
        neuron = {
            "neuron_id": np.asarray(units.id[:]),
            "region": regions,
            "animal": (nwb.subject.subject_id or "") if nwb.subject else "",
            **(settings.pop("neuron", None) or {}),
        }
        ids, repeats, row, column = place_presentations(stimulus_id, count_repeats(stimulus_id))
        images = _pictures(nwb, ids) if images is None else images
    stimulus = {"stimulus_id": ids}
    first = np.array([np.flatnonzero(row == each)[0] for each in range(len(ids))])
    for name in labels:
        values = columns[name]
        differing = np.flatnonzero(values != values[first][row])
        if differing.size:
            raise ValueError(
                f"trials of stimulus {stimulus_id[differing[0]]} differ in {name!r}: it is no label of stimuli"
            )
        stimulus[name] = values[first]
    responses = sort_presentations(counts if time_bins_ms is not None else counts[..., 0], row, column)
    timing = {"window_ms": window_ms} if time_bins_ms is None else {"time_bins_ms": bins_ms}
    return recording_from_arrays(
        responses, stimulus=stimulus, neuron=neuron, repeat=repeats, images=images, unit="spikes", **timing, **settings
    )


def write_nwb(
    recording: Recording, path: str | Path, *, session_start: datetime, description: str = "responses to pictures"
) -> Path:
    """Write a recording as NWB: trials, units, pictures, and the responses per trial; without loss.

    A recording holds counts, not spikes, so the units have no spike times: the responses lie in the processing module
    "recording", (trial, unit[, time bin]). Nor does it know when a trial took place, so the times of trials are NaN and
    the trials are ordered by stimulus. Each unit has its region and animal.

    Parameters
    ----------
    recording : Recording
        Read into memory.
    path : path
        File to write; it appears whole or not at all.
    session_start : datetime
        When the recording was made, with its time zone; NWB demands it.
    description : str
        What the session was.

    Returns
    -------
    Path

    Raises
    ------
    ImportError
        If pynwb is not installed.
    ValueError
        If the time zone is missing.

    Examples
    --------
    >>> import tempfile
    >>> from datetime import UTC
    >>> recording = recording_from_arrays(np.ones((2, 3, 1)), name="toy")
    >>> path = Path(tempfile.mkdtemp()) / "toy.nwb"
    >>> read_nwb(write_nwb(recording, path, session_start=datetime(2020, 1, 1, tzinfo=UTC)))
    <Recording 'toy': 2 stimuli x 3 repeats x 1 neurons, without pictures>
    """
    pynwb = _pynwb()
    if session_start.tzinfo is None:
        raise ValueError(f"session_start is {session_start} without a time zone: add one, such as datetime.UTC")
    path, dataset = Path(path), recording.dataset
    nwb = pynwb.NWBFile(
        session_description=description,
        identifier=recording.name or path.stem,
        session_start_time=session_start,
        related_publications=[recording.citation] if recording.citation else None,
    )
    responses = recording.responses.values
    row, column = presented(responses)
    rows = {("stimulus",): row, ("repeat",): column, ("stimulus", "repeat"): (row, column)}
    trials: dict[str, Any] = {
        str(n): (c.dims, c.values[rows[c.dims]]) for n, c in dataset.coords.items() if c.dims in rows
    }
    units = {str(n): c.values for n, c in dataset.coords.items() if c.dims == ("neuron",)}
    start_stop = {"start_time": np.full(len(row), math.nan), "stop_time": np.full(len(row), math.nan)}
    described = {name: (f"along {', '.join(dims)}", values) for name, (dims, values) in trials.items()}
    described |= {name: ("unknown", values) for name, values in start_stop.items()}
    nwb.trials = pynwb.epoch.TimeIntervals(
        name="trials",
        description="one row per presentation",
        columns=_columns(pynwb, described),
        id=np.arange(len(row)),
    )
    nwb.units = pynwb.misc.Units(
        name="units",
        description="neurons, without spike times",
        columns=_columns(pynwb, {name: ("along neuron", values) for name, values in units.items()}),
        id=np.arange(recording.n_neurons),
    )
    attributes = {str(name): np.asarray(value).tolist() for name, value in dataset.attrs.items()}
    bins = {str(n): c.values.tolist() for n, c in dataset.coords.items() if c.dims == ("time_bin",)}
    nwb.create_processing_module(MODULE, "responses per trial and unit").add(
        pynwb.TimeSeries(
            name="responses",
            data=pynwb.H5DataIO(responses[row, column], compression="gzip", shuffle=True),
            unit=recording.unit or "unknown",
            timestamps=np.full(len(row), math.nan),
            description="responses (trial, unit[, time bin]), NaN: missing; the times of trials are unknown",
            comments=json.dumps({"attributes": attributes, "time_bins": bins}),
        )
    )
    if "images" in dataset:
        nwb.add_stimulus_template(_template(pynwb, recording))
    with replacing(path) as partial, h5py.File(partial, "w") as file, pynwb.NWBHDF5IO(file=file, mode="w") as io:
        io.write(nwb)
    return path


def read_nwb(path: str | Path) -> Recording:
    """Recording that :func:`write_nwb` wrote; files with spikes: :func:`recording_from_nwb`.

    Parameters
    ----------
    path : path
        An NWB file; it is read into memory.

    Returns
    -------
    Recording

    Raises
    ------
    ImportError
        If pynwb is not installed.
    FileNotFoundError, ValueError
        If there is no such file, or it is damaged or was written by something else.

    Examples
    --------
    >>> import tempfile
    >>> from datetime import UTC
    >>> path = Path(tempfile.mkdtemp()) / "toy.nwb"
    >>> recording = recording_from_arrays(np.ones((1, 1, 2)), neuron={"region": ["V1", "V2"]})
    >>> _ = write_nwb(recording, path, session_start=datetime(2020, 1, 1, tzinfo=UTC))
    >>> read_nwb(path).labels("region").tolist()
    ['V1', 'V2']
    """
    path = Path(path)
    with _opened(path) as nwb:
        if MODULE not in nwb.processing or nwb.trials is None or nwb.units is None:
            raise ValueError(f"{path} was not written by write_nwb: use recording_from_nwb, which counts spikes")
        series = nwb.processing[MODULE]["responses"]
        described = json.loads(series.comments)
        if described["attributes"]["format"] != FORMAT:
            raise ValueError(
                f"{path} has recording format {described['attributes']['format']}, expected {FORMAT}: update lcl"
            )
        trials = {name: (nwb.trials[name].description, _column(nwb.trials, name, path)) for name in nwb.trials.colnames}
        neuron = {name: _column(nwb.units, name, path) for name in nwb.units.colnames}
        values = np.asarray(series.data[:])
        ids = trials["stimulus_id"][1]
        _, repeats, row, column = place_presentations(ids, trials["repeat"][1])
        first = np.unique(row, return_index=True)[1]
        images = _pictures(nwb, ids[first])
    stimulus = {name: values[first] for name, (along, values) in trials.items() if along == "along stimulus"}
    several = {name: values for name, (along, values) in trials.items() if along == "along stimulus, repeat"}
    stimulus.pop("has_image", None)
    attributes = described["attributes"]
    named = {name: attributes.pop(name) for name in ATTRIBUTES}
    del named["format"]
    bins = described["time_bins"]
    recording = recording_from_arrays(
        sort_presentations(values, row, column),
        stimulus=stimulus,
        neuron=neuron,
        repeat=repeats,
        time_bins_ms=np.transpose([bins["time_bin_start_ms"], bins["time_bin_end_ms"]]) if bins else None,
        images=images,
        attributes={name: np.array(value) if isinstance(value, list) else value for name, value in attributes.items()},
        **named,
    )
    tables = {name: (("stimulus", "repeat"), sort_presentations(each, row, column)) for name, each in several.items()}
    return Recording(recording.dataset.assign_coords(tables))


def _pynwb() -> ModuleType:
    try:
        import pynwb
    except ImportError as error:
        raise ImportError('NWB files need pynwb: pip install "lcl[nwb]"') from error
    return pynwb


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    pynwb = _pynwb()
    if not path.is_file():
        raise FileNotFoundError(f"no NWB file at {path}")
    try:
        io = pynwb.NWBHDF5IO(path, "r")
        nwb = io.read()
    except Exception as error:  # h5py and hdmf raise many kinds, depending on where the damage is
        raise ValueError(f"{path} cannot be read as NWB ({error}): it is damaged or something else") from error
    with io:
        yield nwb


def _column(table: Any, name: str, path: Path) -> np.ndarray:
    if name not in table.colnames:
        raise ValueError(f"no column {name!r} in {table.name} of {path}: choose among {', '.join(table.colnames)}")
    values = np.asarray(table[name][:])
    if values.ndim != 1:
        raise ValueError(
            f"column {name!r} in {table.name} of {path} has shape {values.shape}, expected one value per row"
        )
    return np.array([str(each) for each in values]) if values.dtype.kind in "OT" else values


def _columns(pynwb: ModuleType, described: Mapping[str, tuple[str, np.ndarray]]) -> list[Any]:
    return [
        pynwb.core.VectorData(
            name=name, description=along, data=values.tolist() if values.dtype.kind == "U" else values
        )
        for name, (along, values) in described.items()
    ]


def _counts(units: Any, row: int, windows_s: np.ndarray) -> np.ndarray:
    """Spikes of a unit in windows (trial, time bin, 2); NaN outside its observation intervals."""
    edges = np.searchsorted(np.sort(units.get_unit_spike_times(row)), windows_s)
    counts = (edges[..., 1] - edges[..., 0]).astype(float)
    if "obs_intervals" in units.colnames:
        observed = np.zeros(counts.shape, dtype=bool)
        for start_s, end_s in np.reshape(units.get_unit_obs_intervals(row), (-1, 2)):
            observed |= (windows_s[..., 0] >= start_s) & (windows_s[..., 1] <= end_s)
        counts[~observed] = math.nan
    return counts


def _regions(units: Any, column: str | None, path: Path) -> np.ndarray:
    if column is not None:
        return _column(units, column, path)
    if "electrodes" not in units.colnames:
        return np.full(len(units), "")
    locations = [units["electrodes"][row]["location"].tolist() for row in range(len(units))]
    return np.array([str(each[0]) if each else "" for each in locations])


def _template(pynwb: ModuleType, recording: Recording) -> Any:
    """Pictures named by stimulus id; the id itself, which may hold what a name may not, is the description."""
    pictures, ids = recording.dataset["images"].values, recording.labels("stimulus_id")
    kinds = {3: pynwb.image.GrayscaleImage, (4, 3): pynwb.image.RGBImage, (4, 4): pynwb.image.RGBAImage}
    kind = kinds.get(3 if pictures.ndim == 3 else (4, pictures.shape[-1]))
    if kind is None:
        raise ValueError(
            f"pictures have {pictures.shape[-1]} channels, NWB knows grey (no axis), 3 and 4: convert them"
        )
    there = recording.labels("has_image") if "has_image" in recording.dataset.coords else np.ones(len(ids), dtype=bool)
    images = [
        kind(name=re.sub(r"[/:]", "_", str(each)), data=picture, description=str(each))
        for each, picture, has in zip(ids, pictures, there, strict=True)
        if has
    ]
    return pynwb.base.Images(name="pictures", images=images, description="named by stimulus id")


def _pictures(nwb: Any, ids: np.ndarray) -> dict[Any, np.ndarray] | None:
    """Pictures of stimuli among the templates; None if there are none of theirs."""
    found: dict[str, np.ndarray] = {}
    for template in nwb.stimulus_template.values():
        if hasattr(template, "images"):
            for name, image in template.images.items():
                found[name] = found[image.description or name] = np.asarray(image.data[:])
        elif len(getattr(template.data, "shape", ())) in (3, 4) and template.data.dtype == np.uint8:
            found |= {str(number): frame for number, frame in enumerate(template.data[:])}
    return {each: found[str(each)] for each in ids.tolist() if str(each) in found} or None
