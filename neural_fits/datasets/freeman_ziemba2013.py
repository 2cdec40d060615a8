"""Macaque V1 and V2 responses to naturalistic textures and spectrally matched noise (Freeman, Ziemba et al. 2013).

102 V1 and 103 V2 single units of anaesthetised animals, 450 images: 15 texture families x 2 types (noise, texture) x
15 samples, 20 repeats each. Images were 4 degrees wide (320 x 320 pixels), shown for 100 ms every 200 ms; a record is
300 ms in bins of 1 ms from stimulus onset.

Two sources:

* the whole `.mat` file, for those who have it (:func:`load_mat` reads the time-resolved file and the one with counts);
* the part that Brain-Score gives openly (:func:`read_public`): 135 of the 450 images, both areas. It is too little for
  modulation indices per family and for a nested analysis of variance.

Two windows by name (:data:`WINDOWS`), both on rates in 10-ms bins: `"brain_score"`, the mean of 50-200 ms
(Brain-Score's predictivity benchmarks), and `"single_cell"`, eleven bins from the latency of the cell (the packaging of
single-cell properties by Marques et al. 2021, `data/marques2020/data_packaging` in brain-score/vision).
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import scipy.io
import xarray as xr
from PIL import Image

from neural_fits.datasets.fetch import DataFile, Entry, find
from neural_fits.presentations import place_presentations, sort_presentations
from neural_fits.recordings import Recording, recording_from_arrays

_CITATION = (
    "Freeman J, Ziemba CM, Heeger DJ, Simoncelli EP, Movshon JA (2013). A functional and perceptual signature of the "
    "second visual area in primates. Nature Neuroscience 16:974-981. Ziemba CM, Freeman J, Movshon JA, Simoncelli EP "
    "(2016). Selectivity and tolerance for visual texture in macaque V2. PNAS 113:E3140-E3149."
)
_BUCKET = "https://brainscore-storage.s3.amazonaws.com/brainio-brainscore/"

FULL = Entry(
    name="freeman_ziemba2013",
    title="102 V1 and 103 V2 units, 450 texture and noise images, 20 repeats, 1-ms bins",
    files=(DataFile("FreemanZiemba2013_V1V2data.mat"),),
    licence="none stated",
    who="those who have the file from its authors; do not pass it on",
    citation=_CITATION,
    source=(
        "There is no open copy of the whole recording: ask its authors for FreemanZiemba2013_V1V2data.mat and give it "
        "with --data, or fetch the open part, freeman_ziemba2013_public."
    ),
)
PUBLIC = Entry(
    name="freeman_ziemba2013_public",
    title="the same units, the 135 images that Brain-Score gives openly",
    files=(
        DataFile(
            "assy_movshon_FreemanZiemba2013_public.nc",
            "sha1:761c08f796db4e342555cdb60eef23a4f19ead43",
            address=_BUCKET + "assy_movshon_FreemanZiemba2013_public.nc?versionId=W2vx7jdh9utZdVumHHarXa4L1zOrA8Fd",
        ),
        DataFile(
            "stimulus_FreemanZiemba2013_aperture-public.csv",
            "sha1:194c9b301a4e3e9cff02481d4c19b39331d52660",
            address=_BUCKET + "stimulus_FreemanZiemba2013_aperture-public.csv",
        ),
        DataFile(
            "stimulus_FreemanZiemba2013_aperture-public.zip",
            "sha1:3a6fec1fc28c212882d6833e267ea8654d289611",
            address=_BUCKET + "stimulus_FreemanZiemba2013_aperture-public.zip",
        ),
    ),
    licence="none stated for the data",
    who="everyone who cites it, as Brain-Score's public benchmark; do not pass it on",
    citation=_CITATION,
    source="Brain-Score's public storage (brainscore-storage/brainio-brainscore on Amazon S3).",
)

AREAS = ("V1", "V2")
TYPES = ("noise", "texture")
#: Texture families in the order of the file.
FAMILIES = (327, 336, 393, 402, 13, 18, 23, 30, 38, 48, 52, 56, 60, 71, 99)
#: The same in the order used for analysis.
ANALYSIS_FAMILIES = (60, 56, 13, 48, 71, 18, 327, 336, 402, 38, 23, 52, 99, 393, 30)
N_SAMPLES = 15
N_REPEATS = 20
RECORD_MS = 300
SIZE_DEG = 4.0
BIN_MS = 10
_SHAPE = (len(FAMILIES), len(TYPES), N_SAMPLES, N_REPEATS)
_FILE_TYPES = {"noise": "noise", "texture": "tex"}
_NAME = re.compile(r"(?P<type>noise|tex)-\d+x\d+-im(?P<family>\d+)-smp(?P<sample>\d+)")


def image_name(family: int, type: str, sample: int) -> str:
    """File name of an image.

    Parameters
    ----------
    family : int
        One of :data:`FAMILIES`.
    type : {"noise", "texture"}
        Kind of image.
    sample : int
        1 to 15.

    Returns
    -------
    str
        As the authors name it.

    Examples
    --------
    >>> image_name(60, "texture", 3)
    'tex-320x320-im60-smp3.png'
    """
    return f"{_FILE_TYPES[type]}-320x320-im{family}-smp{sample}.png"


def stimulus_table() -> dict[str, np.ndarray]:
    """Labels of the 450 stimuli in the order of the file: family, then type, then sample.

    Returns
    -------
    dict of str to numpy.ndarray (450,)
        stimulus_id (the image name without `.png`), image_name, family, type, sample.

    Examples
    --------
    >>> table = stimulus_table()
    >>> table["image_name"][[0, 15, 30]].tolist()
    ['noise-320x320-im327-smp1.png', 'tex-320x320-im327-smp1.png', 'noise-320x320-im336-smp1.png']
    """
    family, kind, sample = (each.ravel() for each in np.indices(_SHAPE[:3]))
    names = [image_name(FAMILIES[f], TYPES[t], s + 1) for f, t, s in zip(family, kind, sample, strict=True)]
    return {
        "stimulus_id": np.array([name.removesuffix(".png") for name in names]),
        "image_name": np.array(names),
        "family": np.asarray(FAMILIES)[family],
        "type": np.asarray(TYPES)[kind],
        "sample": sample + 1,
    }


def binned_rates(spikes: np.ndarray, *, bin_ms: int = BIN_MS) -> np.ndarray:
    """Rates in wider bins from counts in bins of 1 ms.

    Parameters
    ----------
    spikes : numpy.ndarray (..., millisecond)
        Counts.
    bin_ms : int
        Width of the new bins; divides the length of the record.

    Returns
    -------
    numpy.ndarray (..., time_bin)
        Spikes/s.

    Raises
    ------
    ValueError
        If `bin_ms` does not divide the record.

    Examples
    --------
    >>> binned_rates(np.array([1, 0, 0, 1, 1, 0]), bin_ms=3).round(1).tolist()
    [333.3, 666.7]
    """
    spikes = np.asarray(spikes)
    if bin_ms < 1 or spikes.shape[-1] % bin_ms:
        raise ValueError(f"bin_ms must divide the {spikes.shape[-1]} ms of the record, not {bin_ms}.")
    return spikes.reshape(*spikes.shape[:-1], -1, bin_ms).mean(axis=-1) * 1000.0


def response_latency(
    psth_hz: np.ndarray,
    *,
    peak_bins: tuple[int, int] = (7, 22),
    earliest: int = 2,
    longest_rise: int = 10,
    fraction: float = 0.15,
) -> np.ndarray:
    """First bin of the response of each cell.

    In the condition with the highest rate among the peak bins, the latency is the bin after the last one, between the
    minimum before the peak and the peak, whose rate is at or below minimum + fraction * (maximum - minimum). The
    minimum is taken from `longest_rise` bins before the peak on, the maximum over the whole record.

    Parameters
    ----------
    psth_hz : numpy.ndarray (neuron, time_bin, condition)
        Mean rates in 10-ms bins; conditions are families x types.
    peak_bins : tuple of int
        First bin, and the one after the last, in which the peak may be.
    earliest : int
        First bin that the minimum may be in.
    longest_rise : int
        Bins before the peak in which the minimum may be.
    fraction : float
        Part of the range that still counts as no response.

    Returns
    -------
    numpy.ndarray of int (neuron,)
        Bin of the latency.

    Raises
    ------
    ValueError
        If the record is too short for `peak_bins`.

    Examples
    --------
    >>> psth = np.zeros((1, 30, 1))
    >>> psth[0, :9, 0], psth[0, 9:12, 0] = 5.0, (20.0, 60.0, 40.0)
    >>> response_latency(psth)
    array([9])
    """
    psth_hz = np.asarray(psth_hz, float)
    psth_hz = psth_hz.reshape(*psth_hz.shape[:2], -1)
    first, after = peak_bins
    if psth_hz.shape[1] < after:
        raise ValueError(
            f"psth_hz has {psth_hz.shape[1]} time bins; the peak is looked for in bins {first}-{after - 1}."
        )
    latency = np.empty(len(psth_hz), int)
    for neuron, rates in enumerate(psth_hz):
        peak, best = np.unravel_index(np.argmax(rates[first:after]), (after - first, rates.shape[1]))
        peak, response = int(peak) + first, rates[:, best]
        start = max(earliest, peak - longest_rise)
        lowest = start + int(np.argmin(response[start:peak]))
        threshold = response[lowest] + fraction * (response.max() - response[lowest])
        latency[neuron] = lowest + np.flatnonzero(response[lowest : peak + 1] <= threshold)[-1] + 1
    return latency


def baseline_rate(psth_hz: np.ndarray) -> np.ndarray:
    """Lowest rate over time of each cell's mean over all conditions.

    Subtract it from the mean over repeats and clip at zero for the properties of single cells.

    Parameters
    ----------
    psth_hz : numpy.ndarray (neuron, time_bin, condition)
        Mean rates.

    Returns
    -------
    numpy.ndarray (neuron,)
        Spikes/s.

    Examples
    --------
    >>> baseline_rate(np.array([[[4.0, 6.0], [1.0, 2.0], [9.0, 0.0]]]))
    array([1.5])
    """
    psth_hz = np.asarray(psth_hz, float)
    return psth_hz.reshape(*psth_hz.shape[:2], -1).mean(axis=2).min(axis=1)


def condition_psth(rates_hz: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """Mean rates of each condition.

    Parameters
    ----------
    rates_hz : numpy.ndarray (stimulus, repeat, neuron, time_bin)
        Rates; NaN repeats are left out.
    conditions : numpy.ndarray (stimulus,)
        Condition of each stimulus, such as the number of its family and type.

    Returns
    -------
    numpy.ndarray (neuron, time_bin, condition)
        Mean over repeats, then over the stimuli of a condition; conditions in sorted order.

    Examples
    --------
    >>> rates = np.arange(6.0).reshape(3, 1, 1, 2)
    >>> condition_psth(rates, np.array([0, 0, 1])).tolist()
    [[[1.0, 4.0], [2.0, 5.0]]]
    """
    means = np.nanmean(np.asarray(rates_hz, float), axis=1)
    conditions = np.asarray(conditions)
    return np.stack([means[conditions == each].mean(axis=0) for each in np.unique(conditions)], axis=-1)


class Windowed(NamedTuple):
    """Responses in a window, and the window of each neuron.

    Attributes
    ----------
    rates_hz : numpy.ndarray (stimulus, repeat, neuron)
        Mean rates in the window, spikes/s.
    start_ms, end_ms : numpy.ndarray (neuron,)
        The window.
    """

    rates_hz: np.ndarray
    start_ms: np.ndarray
    end_ms: np.ndarray


def brain_score_window(rates_hz: np.ndarray, conditions: np.ndarray | None = None) -> Windowed:
    """Mean rate 50-200 ms after stimulus onset, the window of Brain-Score's predictivity benchmarks.

    Parameters
    ----------
    rates_hz : numpy.ndarray (stimulus, repeat, neuron, time_bin)
        Rates in 10-ms bins from stimulus onset.
    conditions : numpy.ndarray, optional
        Not used; so that every window is called alike.

    Returns
    -------
    Windowed
        Rates (stimulus, repeat, neuron) and the window.

    Raises
    ------
    ValueError
        If the record is shorter than 200 ms.

    Examples
    --------
    >>> rates = np.arange(30.0).reshape(1, 1, 1, 30)
    >>> brain_score_window(rates).rates_hz.item()
    12.0
    """
    first, after = 50 // BIN_MS, 200 // BIN_MS
    if rates_hz.shape[-1] < after:
        raise ValueError(f"rates_hz has {rates_hz.shape[-1]} bins of 10 ms; the window ends at 200 ms.")
    neurons = rates_hz.shape[2]
    return Windowed(rates_hz[..., first:after].mean(axis=-1), np.full(neurons, 50.0), np.full(neurons, 200.0))


def single_cell_window(rates_hz: np.ndarray, conditions: np.ndarray) -> Windowed:
    """Mean rate of the eleven bins from each cell's latency on.

    Eleven, not ten: the packaging of Marques et al. (2021) takes the bins from latency to latency + 10, both included.

    Parameters
    ----------
    rates_hz : numpy.ndarray (stimulus, repeat, neuron, time_bin)
        Rates in 10-ms bins from stimulus onset.
    conditions : numpy.ndarray (stimulus,)
        Number of the family and type of each stimulus.

    Returns
    -------
    Windowed
        Rates (stimulus, repeat, neuron) and the window, cut at the end of the record.

    Raises
    ------
    ValueError
        If the record is too short for the latency.
    """
    bins = rates_hz.shape[-1]
    latency = response_latency(condition_psth(rates_hz, conditions))
    windows = [rates_hz[:, :, neuron, first : first + 11].mean(axis=-1) for neuron, first in enumerate(latency)]
    end = np.minimum(latency + 11, bins)
    return Windowed(np.stack(windows, axis=-1), latency * float(BIN_MS), end * float(BIN_MS))


#: Windows by name; each takes rates in 10-ms bins and the condition of each stimulus.
WINDOWS: dict[str, Callable[[np.ndarray, np.ndarray], Windowed]] = {
    "brain_score": brain_score_window,
    "single_cell": single_cell_window,
}


def load(
    data: Path | str | None = None,
    *,
    area: str = "V1",
    window: str | None = "brain_score",
    images: Path | str | None = None,
) -> Recording:
    """The whole recording, for those who have the `.mat` file.

    Parameters
    ----------
    data : path, optional
        `FreemanZiemba2013_V1V2data.mat` or a folder that holds it; looked for as :mod:`neural_fits.datasets.fetch` says
        without it.
    area, window, images
        As in :func:`load_mat`.

    Returns
    -------
    Recording
        As from :func:`load_mat`.
    """
    return load_mat(find(FULL, FULL.files[0], data), area=area, window=window, images=images)


def load_mat(
    path: Path | str, *, area: str = "V1", window: str | None = "brain_score", images: Path | str | None = None
) -> Recording:
    """Read a `.mat` file of the recording, MATLAB 5 or 7.3, in either of its layouts.

    Parameters
    ----------
    path : path
        A file with the variables `v1` and `v2`, family x type x sample x repeat x millisecond x cell; or with
        `V1V2_data`, two rows of cells that each hold counts, family x type x sample x repeat.
    area : {"V1", "V2"}
        Which area.
    window : {"brain_score", "single_cell"} or None
        One of :data:`WINDOWS`; None keeps the 30 bins of 10 ms. Counts of `V1V2_data` have a window already, which the
        file does not name: give None for them.
    images : path, optional
        Folder of the 450 images under their own names.

    Returns
    -------
    Recording
        Rates in spikes/s (450 stimuli, 20 repeats, neurons[, time bins]); counts of `V1V2_data` stay counts, their
        window unknown. On stimulus: stimulus_id, image_name, family, type, sample. On neuron: neuron_id, region, animal
        (unknown), and for a window window_start_ms, window_end_ms and baseline_hz (:func:`baseline_rate`).

    Raises
    ------
    FileNotFoundError
        If the file or an image is missing.
    ValueError
        If area or window is unknown, or the file has another layout.
    """
    path = Path(path).expanduser()
    if area not in AREAS:
        raise ValueError(f"There is no area {area!r} in this recording; expected V1 or V2.")
    if window is not None and window not in WINDOWS:
        raise ValueError(f"There is no window {window!r}; expected {', '.join(WINDOWS)} or None.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    table = stimulus_table()
    pictures = None if images is None else _folder_images(Path(images), table["image_name"])
    resolved, cells = _mat_cells(path, area)
    if not resolved:
        if window is not None:
            raise ValueError(f"{path} holds counts, not records in time; window {window!r} needs v1 and v2: give None.")
        counts = np.stack([each.reshape(len(table["family"]), N_REPEATS) for each in cells], axis=-1)
        return _recording(counts.astype(np.float32), area, table, pictures, unit="spikes", window_ms=(np.nan, np.nan))
    return _windowed_recording(cells, area, window, table, pictures)


def _mat_cells(path: Path, area: str) -> tuple[bool, Iterator[np.ndarray]]:
    """Whether a file is time-resolved, and its cells one by one: (family, type, sample, repeat[, millisecond])."""
    name = area.lower()
    expected = f"expected v1 and v2 of shape {(*_SHAPE, RECORD_MS)} x cell, or V1V2_data of cells {_SHAPE}."
    newer = h5py.is_hdf5(path)
    try:
        if newer:
            with h5py.File(path, "r") as file:
                variables = list(file)
        else:
            variables = [variable for variable, _, _ in scipy.io.whosmat(path)]
    except Exception as error:  # what scipy raises for a damaged file depends on where the damage is
        raise ValueError(f"{path} is not a whole MATLAB file ({error}); {expected}") from None
    resolved = name in variables
    if not resolved and "V1V2_data" not in variables:
        raise ValueError(f"{path} holds {', '.join(variables) or 'nothing'}; {expected}")
    read = _cells_of_hdf5 if newer else _cells_of_matlab5
    shape = (*_SHAPE, RECORD_MS) if resolved else _SHAPE

    def cells() -> Iterator[np.ndarray]:
        for cell in read(path, name if resolved else None, AREAS.index(area)):
            if cell.shape != shape:
                raise ValueError(f"A cell of {path} has shape {cell.shape}; {expected}")
            yield cell

    return resolved, cells()


def _cells_of_hdf5(path: Path, variable: str | None, row: int) -> Iterator[np.ndarray]:
    # HDF5 has MATLAB's axes reversed.
    with h5py.File(path, "r") as file:
        held = file[variable or "V1V2_data"]
        if not isinstance(held, h5py.Dataset):
            raise ValueError(f"{variable or 'V1V2_data'} of {path} is not an array.")
        if variable:
            for cell in range(len(held)):
                yield np.transpose(held[cell])
            return
        for reference in held[:, row]:
            counts = np.asarray(file[reference])
            if counts.ndim == len(_SHAPE):  # an empty cell is two sizes
                yield np.transpose(counts)


def _cells_of_matlab5(path: Path, variable: str | None, row: int) -> Iterator[np.ndarray]:
    name = variable or "V1V2_data"
    try:
        held = scipy.io.loadmat(path, variable_names=[name])[name]
    except Exception as error:  # as above
        raise ValueError(f"{path} is not a whole MATLAB file ({error}).") from None
    if variable:
        yield from np.moveaxis(held, -1, 0)
    else:
        yield from (counts for counts in held[row] if counts.size)


def load_public(data: Path | str | None = None, *, area: str = "V1", window: str | None = "brain_score") -> Recording:
    """The part that Brain-Score gives openly: 135 images, both areas.

    Parameters
    ----------
    data : path, optional
        Folder that holds the assembly (`.nc`), the table (`.csv`) and the pictures (`.zip`) under their own names;
        without it, looked for as :mod:`neural_fits.datasets.fetch` says.
    area, window
        As in :func:`read_public`.

    Returns
    -------
    Recording
        As from :func:`read_public`.
    """
    assembly, table, pictures = (find(PUBLIC, file, data) for file in PUBLIC.files)
    return read_public(assembly, table, pictures, area=area, window=window)


def read_public(
    assembly: Path | str,
    table: Path | str | None = None,
    pictures: Path | str | None = None,
    *,
    area: str = "V1",
    window: str | None = "brain_score",
) -> Recording:
    """Read Brain-Score's assembly of this recording.

    Parameters
    ----------
    assembly : path
        netCDF file: one variable (neuroid, time_bin of 1 ms, presentation) with the coordinates region and neuroid_id,
        time_bin_start, and image_id or stimulus_id and repetition.
    table : path, optional
        CSV of the stimulus set, with image_id or stimulus_id, filename, and image_file_name or texture_type,
        texture_family and sample; needed for a window, which knows families and types.
    pictures : path, optional
        ZIP of the stimulus set; needs the table. They carry Brain-Score's circular aperture.
    area : {"V1", "V2"}
        Which area.
    window : {"brain_score", "single_cell"} or None
        One of :data:`WINDOWS`; None keeps the 30 bins of 10 ms.

    Returns
    -------
    Recording
        Rates in spikes/s (stimuli, 20 repeats, neurons[, time bins]); labels as from :func:`load_mat`, but stimulus_id
        is Brain-Score's. Stimuli are in the order of the file.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If area or window is unknown, or a file has another layout.
    """
    if area not in AREAS:
        raise ValueError(f"There is no area {area!r} in this recording; expected V1 or V2.")
    if window is not None and window not in WINDOWS:
        raise ValueError(f"There is no window {window!r}; expected {', '.join(WINDOWS)} or None.")
    if pictures is not None and table is None:
        raise ValueError("The pictures need the table of the stimulus set, which names their files.")
    path = Path(assembly).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with xr.open_dataset(path, engine="h5netcdf" if h5py.is_hdf5(path) else "scipy", decode_times=False) as held:
        needed = ("neuroid", "time_bin", "presentation")
        variables = [name for name, variable in held.data_vars.items() if set(variable.dims) == set(needed)]
        if len(variables) != 1:
            raise ValueError(f"{path} holds {len(variables)} variables of {', '.join(needed)}; expected one.")
        array = held[variables[0]].transpose("neuroid", "presentation", "time_bin")
        coordinates = {str(name): values.values for name, values in held.variables.items() if values.ndim == 1}
        identity = coordinates.get("stimulus_id", coordinates.get("image_id"))
        lacking = [name for name in ("region", "neuroid_id", "repetition") if name not in coordinates]
        if identity is None or lacking:
            raise ValueError(
                f"{path} has no coordinate {', '.join(lacking) or 'stimulus_id'}; expected Brain-Score's assembly of "
                "this recording."
            )
        if array.sizes["time_bin"] != RECORD_MS:
            raise ValueError(f"{path} has {array.sizes['time_bin']} time bins; expected {RECORD_MS} of 1 ms.")
        if "time_bin_start" in coordinates and not np.array_equal(coordinates["time_bin_start"], np.arange(RECORD_MS)):
            raise ValueError(f"The time bins of {path} do not start at 0, 1, ... 299 ms.")
        ids, _, row, column = place_presentations(_text(identity), coordinates["repetition"])
        neurons = np.flatnonzero(_text(coordinates["region"]) == area)
        if not len(neurons):
            raise ValueError(f"{path} holds no neurons of {area}.")

        def cells() -> Iterator[np.ndarray]:
            for neuron in neurons:
                yield sort_presentations(array[neuron].values, row, column)

        stimulus, files = _stimulus_set(Path(table).expanduser(), ids) if table is not None else ({}, [])
        if window is not None and not stimulus:
            raise ValueError("A window needs the table of the stimulus set, which names families and types.")
        images = None if pictures is None else _zip_images(Path(pictures).expanduser(), files)
        return _windowed_recording(
            cells(),
            area,
            window,
            {"stimulus_id": ids, **stimulus},
            images,
            entry=PUBLIC,
            neuron={"neuron_id": np.array([f"{area}_{each}" for each in coordinates["neuroid_id"][neurons]])},
        )


def _text(values: np.ndarray) -> np.ndarray:
    return np.array([each.decode() if isinstance(each, bytes) else str(each) for each in values])


def _stimulus_set(path: Path, ids: np.ndarray) -> tuple[dict[str, np.ndarray], list[str]]:
    """Labels and picture files of stimuli from the CSV of a stimulus set."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    by_id = {row.get("stimulus_id") or row.get("image_id"): row for row in rows}
    missing = [name for name in ids.tolist() if name not in by_id]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of {len(ids)} stimuli of the assembly, such as {missing[0]}.")
    labels: dict[str, list[Any]] = {"image_name": [], "family": [], "type": [], "sample": []}
    files = []
    for name in ids.tolist():
        row = by_id[name]
        files.append(row.get("filename") or row.get("image_file_name") or "")
        match = _NAME.search(row.get("image_file_name") or "") or _NAME.search(files[-1])
        try:
            if match:
                kind, family, sample = match["type"], int(match["family"]), int(match["sample"])
            else:
                kind, family, sample = row["texture_type"], int(row["texture_family"]), int(row["sample"])
            kind = {"tex": "texture"}.get(kind, kind)
            labels["image_name"].append(image_name(family, kind, sample))
            FAMILIES.index(family)
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path} does not say family, type and sample of {name}; expected image_file_name such as "
                "tex-320x320-im60-smp3.png, or texture_family, texture_type and sample."
            ) from None
        labels["family"].append(family)
        labels["type"].append(kind)
        labels["sample"].append(sample)
    return {label: np.array(values) for label, values in labels.items()}, files


def _zip_images(path: Path, names: Sequence[str]) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
            missing = [name for name in names if name not in held]
            if missing:
                raise ValueError(f"{path} lacks {len(missing)} of {len(names)} pictures, such as {missing[0]}.")
            return np.stack([_grey(io.BytesIO(archive.read(name))) for name in names])
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is not a whole ZIP file; fetch it again.") from None


def _folder_images(folder: Path, names: Sequence[str] | np.ndarray) -> np.ndarray:
    missing = [str(name) for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} images are missing from {folder}, such as {missing[0]}."
        )
    return np.stack([_grey(folder / name) for name in names])


def _grey(source: Path | io.BytesIO) -> np.ndarray:
    with Image.open(source) as picture:
        return np.asarray(picture.convert("L"))


def _conditions(family: np.ndarray, type: np.ndarray) -> np.ndarray:
    """Number of each stimulus's type and family, in the order used for analysis, which decides between equal peaks."""
    return np.array(
        [TYPES.index(t) * len(FAMILIES) + ANALYSIS_FAMILIES.index(f) for f, t in zip(family, type, strict=True)]
    )


def _windowed_recording(
    cells: Iterator[np.ndarray],
    area: str,
    window: str | None,
    table: dict[str, np.ndarray],
    images: np.ndarray | None,
    **named: Any,
) -> Recording:
    """Recording of cells (stimuli, repeat, millisecond), taken one by one: all at once do not fit in small memories."""
    stimuli = len(table["stimulus_id"])
    conditions = np.zeros(stimuli) if window is None else _conditions(table["family"], table["type"])
    responses, starts, ends, baselines = [], [], [], []
    for spikes in cells:
        rates = binned_rates(spikes.reshape(stimuli, -1, spikes.shape[-1])).astype(np.float32)[:, :, None, :]
        if window is None:
            responses.append(rates)
            continue
        windowed = WINDOWS[window](rates, conditions)
        responses.append(windowed.rates_hz.astype(np.float32))
        starts.append(windowed.start_ms)
        ends.append(windowed.end_ms)
        baselines.append(baseline_rate(condition_psth(rates, conditions)))
    edges = np.arange(0, RECORD_MS + 1, BIN_MS, dtype=float)
    if window is None:
        named["time_bins_ms"] = np.stack([edges[:-1], edges[1:]], axis=1)
    else:
        start, end = np.concatenate(starts), np.concatenate(ends)
        named["neuron"] = {
            **named.get("neuron", {}),
            "window_start_ms": start,
            "window_end_ms": end,
            "baseline_hz": np.concatenate(baselines),
        }
        one = np.ptp(start) == 0 and np.ptp(end) == 0
        named["window_ms"] = (float(start[0]), float(end[0])) if one else (np.nan, np.nan)
    return _recording(np.concatenate(responses, axis=2), area, table, images, unit="spikes/s", **named)


def _recording(
    responses: np.ndarray,
    area: str,
    stimulus: dict[str, np.ndarray],
    images: np.ndarray | None,
    *,
    entry: Entry = FULL,
    neuron: dict[str, Any] | None = None,
    **named: Any,
) -> Recording:
    neurons = responses.shape[2]
    return recording_from_arrays(
        responses,
        stimulus=stimulus,
        neuron={
            "neuron_id": np.array([f"{area}_{number:03d}" for number in range(1, neurons + 1)]),
            "region": np.full(neurons, area),
            "animal": np.full(neurons, "unknown"),
            **(neuron or {}),
        },
        images=images,
        name=entry.name,
        size_deg=SIZE_DEG,
        licence=entry.licence,
        citation=entry.citation,
        source=entry.source,
        **named,
    )
