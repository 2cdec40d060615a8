"""Recordings to and from the assemblies of Brain-Score: arrays of presentation x neuroid, optionally x time bin.

Any :class:`xarray.DataArray` of that layout will do, so Brain-Score need not be installed, and what is made here uses
only what every xarray since 2022.3 understands.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image

from neural_fits.presentations import count_repeats, place_presentations, presented, sort_presentations
from neural_fits.recordings import Recording, recording_from_arrays

RENAMED = {"repeat": "repetition", "neuron_id": "neuroid_id", "time_bin_start_ms": "time_bin_start"}
RENAMED["time_bin_end_ms"] = "time_bin_end"


def recording_from_assembly(
    assembly: xr.DataArray,
    stimulus_set: Any = None,
    *,
    repetition: str | None = "repetition",
    images: Any = None,
    **description: Any,
) -> Recording:
    """Recording from an assembly of Brain-Score or any array like it.

    Coordinates may be levels of a MultiIndex or plain ones. Those of presentations that agree within each stimulus
    become labels of the stimulus; the others (session, time of the trial) become coordinates (stimulus, repeat).

    Parameters
    ----------
    assembly : xarray.DataArray, (presentation, neuroid) or (presentation, neuroid, time_bin), in any order
        With a coordinate ``stimulus_id`` (or ``image_id``) along presentation; along neuroid ideally ``neuroid_id``,
        ``region``, ``animal``; along time_bin ``time_bin_start`` and ``time_bin_end`` in ms.
    stimulus_set : table with a column ``stimulus_id`` and a method ``get_stimulus``, optional
        Brain-Score's ``StimulusSet``: its other columns become labels, its files the pictures (grey if all are).
    repetition : str or None
        Coordinate that numbers the repeats; None, or where there is none of that name: the order of presentation.
    images : array or mapping, optional
        Pictures, as for :func:`~neural_fits.recordings.recording_from_arrays`, instead of those of ``stimulus_set``.
        An array is in the order of the first presentation of each stimulus.
    **description
        ``size_deg``, ``window_ms``, ``unit``, ``name``, ``licence``, ``citation``, ``source``, ``attributes`` as for
        :func:`~neural_fits.recordings.recording_from_arrays`; what is not given is taken from the assembly's
        attributes of that name.

    Returns
    -------
    Recording
        Stimuli in the order of their first presentation.

    Raises
    ------
    ValueError
        If dimensions or stimulus ids are lacking, or a stimulus has the same repetition twice.

    Examples
    --------
    >>> import xarray as xr
    >>> assembly = xr.DataArray(
    ...     [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
    ...     dims=("presentation", "neuroid"),
    ...     coords={"stimulus_id": ("presentation", ["a", "b", "a"]), "region": ("neuroid", ["V1", "V2"])},
    ... )
    >>> recording = recording_from_assembly(assembly, name="toy", size_deg=8.0)
    >>> recording, recording.mean_responses()
    (<Recording 'toy': 2 stimuli x 2 repeats x 2 neurons, without pictures>, array([[3., 4.],
           [3., 4.]]))
    """
    dims = ("presentation", "neuroid", "time_bin")[: assembly.ndim]
    if set(assembly.dims) != set(dims) or len(dims) < 2:
        raise ValueError(
            f"the assembly has dimensions {assembly.dims}, expected ('presentation', 'neuroid') and optionally "
            f"'time_bin': rename or stack them"
        )
    labels, neuron, bins = (_coordinates(assembly, dim) for dim in ("presentation", "neuroid", "time_bin"))
    key = "stimulus_id" if "stimulus_id" in labels else "image_id"
    if key not in labels:
        raise ValueError(f"presentations have coordinates {sorted(labels)}, expected 'stimulus_id': rename one of them")
    stimulus_id = labels.pop(key)
    numbers = count_repeats(stimulus_id) if repetition not in labels else labels.pop(str(repetition))
    ids, repeats, row, column = place_presentations(stimulus_id, numbers)
    values = np.transpose(np.asarray(assembly.values), [assembly.dims.index(dim) for dim in dims])
    values = values if values.dtype.kind == "f" else values.astype(float)

    stimulus: dict[str, Any] = {"stimulus_id": ids}
    first = np.array([np.flatnonzero(row == each)[0] for each in range(len(ids))])
    varying = {}
    for name, each in labels.items():
        if _same(each, each[first][row]):
            stimulus[name] = each[first]
        else:
            varying[name] = sort_presentations(each, row, column)
    if stimulus_set is not None:
        described, pictures = _from_stimulus_set(stimulus_set, ids, with_pictures=images is None)
        stimulus = {**described, **stimulus}
        images = pictures if images is None else images

    known = {"name", "size_deg", "window_ms", "unit", "licence", "citation", "source"}
    given = {str(name): value for name, value in assembly.attrs.items()}
    attributes = {name: value for name, value in given.items() if name not in known and _is_plain(value)}
    settings = {name: value for name, value in given.items() if name in known}
    if "window_ms" in settings:
        settings["window_ms"] = tuple(np.asarray(settings["window_ms"], dtype=float).tolist())
    attributes.update(description.pop("attributes", None) or {})
    time_bins_ms = None
    if "time_bin" in dims:
        lacking = {"time_bin_start", "time_bin_end"} - set(bins)
        if lacking:
            raise ValueError(f"time bins lack {sorted(lacking)}: give both, in ms from stimulus onset")
        time_bins_ms = np.stack([bins["time_bin_start"], bins["time_bin_end"]], axis=1).astype(float)
    for name in ("region", "animal"):  # one value for all after a selection
        if name in assembly.coords and assembly.coords[name].ndim == 0:
            neuron[name] = np.asarray(str(assembly.coords[name].values))
    ends = [assembly.coords.get(f"time_bin_{end}") for end in ("start", "end")]
    if "time_bin" not in dims and all(end is not None and end.ndim == 0 for end in ends):
        settings.setdefault("window_ms", tuple(float(end) for end in ends if end is not None))
    if "neuroid_id" in neuron:
        neuron = {"neuron_id": neuron.pop("neuroid_id"), **neuron}
    recording = recording_from_arrays(
        sort_presentations(values, row, column),
        stimulus=stimulus,
        neuron=neuron,
        repeat=repeats,
        time_bins_ms=time_bins_ms,
        images=images,
        attributes=attributes,
        **{**settings, **description},
    )
    taken = sorted(set(varying) & {*recording.dataset.variables, *recording.dataset.dims})
    if taken:
        raise ValueError(f"coordinates {taken} of presentations have names that are used already: rename them")
    return Recording(
        recording.dataset.assign_coords({name: (("stimulus", "repeat"), each) for name, each in varying.items()})
    )


def assembly_from_recording(recording: Recording) -> xr.DataArray:
    """Array of presentation x neuroid (x time bin) that Brain-Score's ``NeuronRecordingAssembly`` can wrap.

    A repeat that no neuron has is no presentation; a response that only some neurons lack stays NaN. Pictures are not
    part of an assembly: give them to :func:`recording_from_assembly` again.

    Parameters
    ----------
    recording : Recording
        Read into memory.

    Returns
    -------
    xarray.DataArray, (presentation, neuroid) or (presentation, neuroid, time_bin)
        Plain coordinates ``stimulus_id``, ``repetition`` and labels along presentation; ``neuroid_id``, ``region``,
        ``animal`` and others along neuroid; ``time_bin_start``, ``time_bin_end`` along time_bin. Attributes are those
        of the recording.

    Examples
    --------
    >>> import numpy as np
    >>> from neural_fits.recordings import recording_from_arrays
    >>> responses = np.array([[[1.0], [2.0]], [[3.0], [np.nan]]])
    >>> assembly = assembly_from_recording(recording_from_arrays(responses, stimulus={"stimulus_id": ["a", "b"]}))
    >>> assembly.dims, assembly["stimulus_id"].values.tolist(), assembly.values.ravel().tolist()
    (('presentation', 'neuroid'), ['a', 'a', 'b'], [1.0, 2.0, 3.0])
    """
    responses = recording.responses.values
    row, column = presented(responses)
    place = {
        ("stimulus",): ("presentation", row),
        ("repeat",): ("presentation", column),
        ("stimulus", "repeat"): ("presentation", (row, column)),
        ("neuron",): ("neuroid", slice(None)),
        ("time_bin",): ("time_bin", slice(None)),
    }
    coords = {}
    for name, coordinate in recording.dataset.coords.items():
        if name != "has_image" and coordinate.dims in place:
            dim, where = place[coordinate.dims]  # type: ignore[index]
            coords[RENAMED.get(str(name), str(name))] = (dim, coordinate.values[where])
    dims = ("presentation", "neuroid", "time_bin")[: responses.ndim - 1]
    attrs = {str(name): value for name, value in recording.dataset.attrs.items() if name != "format"}
    return xr.DataArray(responses[row, column], dims=dims, coords=coords, name=recording.name or None, attrs=attrs)


def _coordinates(assembly: xr.DataArray, dim: str) -> dict[str, np.ndarray]:
    """Coordinates along a dimension, levels of a MultiIndex among them, whichever version of xarray made them."""
    if dim not in assembly.dims:
        return {}
    index = assembly.indexes.get(dim)
    found = {}
    if isinstance(index, pd.MultiIndex):
        found = {str(level): np.asarray(index.get_level_values(level)) for level in index.names}
    elif index is not None and dim == "neuroid":
        found = {"neuroid_id": np.asarray(index)}
    for name, coordinate in assembly.coords.items():
        if coordinate.dims == (dim,) and name != dim:
            found[str(name)] = np.asarray(coordinate.values)
    return {name: _as_text(values) for name, values in found.items()}


def _as_text(values: np.ndarray) -> np.ndarray:
    """Objects (text, mostly) as text of one width; everything else as it is."""
    return np.array([str(each) for each in values]) if values.dtype.kind in "OT" else values


def _same(values: np.ndarray, others: np.ndarray) -> bool:
    return np.array_equal(values, others, equal_nan=values.dtype.kind == "f")


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | np.number | np.ndarray)


def _from_stimulus_set(
    stimulus_set: Any, ids: np.ndarray, *, with_pictures: bool
) -> tuple[dict[str, np.ndarray], Mapping[Any, np.ndarray] | None]:
    """Labels and pictures of stimuli from Brain-Score's table of them."""
    key = "stimulus_id" if "stimulus_id" in stimulus_set else "image_id"
    if key not in stimulus_set:
        raise ValueError(
            f"the stimulus set has columns {list(stimulus_set)}, expected 'stimulus_id': rename one of them"
        )
    position = {each: row for row, each in enumerate(np.asarray(stimulus_set[key]).tolist())}
    absent = [each for each in ids.tolist() if each not in position]
    if absent:
        raise ValueError(
            f"the stimulus set lacks {len(absent)} stimuli of the assembly, such as {absent[0]!r}: give the set that "
            f"was shown"
        )
    rows = [position[each] for each in ids.tolist()]
    labels = {str(name): _as_text(np.asarray(stimulus_set[name])[rows]) for name in stimulus_set if name != key}
    get = getattr(stimulus_set, "get_stimulus", None) or getattr(stimulus_set, "get_image", None)
    if not with_pictures or get is None:
        return labels, None
    pictures = {}
    for each in ids.tolist():
        with Image.open(get(each)) as picture:
            pictures[each] = picture.copy()
    mode = "L" if all(picture.mode == "L" for picture in pictures.values()) else "RGB"
    return labels, {each: np.asarray(picture.convert(mode)) for each, picture in pictures.items()}
