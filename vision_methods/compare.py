"""Models by measures: one table, of which only what is missing is computed.

Every pair of a model and a measurement (:data:`vision_methods.compare_measures.MEASUREMENTS`) is a *cell*: a JSON file
with rows of numbers, how long they took, and what made them. Its key is made of the model's weights and code, of what
it was shown, and of the settings; a cell whose key is still right is not computed again. A model that fails marks its
cell with one sentence, and the others go on.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import lcl
import neural_fits
import stimuli
import vision_methods
from lcl.checkpoint import FORMAT, provenance, read_json, write_json
from lcl.measure import file_name, move, named_model
from neural_fits.content import digest, file_digest
from neural_fits.fits import write_dataset
from neural_fits.vision_model import VisionModel, layer_names
from stimuli.files import replacing
from vision_methods import compare_measures
from vision_methods.compare_measures import MEASUREMENTS, MEASURES, Measurement, Row, Sources
from vision_methods.compare_models import RECIPES, trained


def sources_key(sources: Sources, measurement: Measurement) -> str:
    """Digest of what a measurement shows and compares with: pictures, labels and responses themselves.

    Parameters
    ----------
    sources : Sources
    measurement : Measurement

    Returns
    -------
    str
        64 hexadecimal digits. Of cue-conflict pictures and decisions of people, names and sizes of the files go in.
    """
    filled = set(measurement.measures)
    parts: list[Any] = []
    if filled & {"probe", "distortions"}:
        parts += [[part.labels, [np.asarray(part.store[i]) for i in range(len(part))]] for part in sources.labelled]
    if "distortions" in filled:
        parts.append(list(sources.distortions))
    if "retrieval" in filled:
        parts.append(list(sources.classes))
        parts += [[part[i] for i in range(len(part))] for part in (sources.prompts, sources.queries)]
    if "v1-fit" in filled and sources.recording is not None:
        parts += [sources.recording.responses.values, sources.recording.images, sources.splits, sources.size_deg]
    if "shape-bias" in filled:
        folders = [Path(each) for each in (sources.cue_pictures, sources.trials, sources.cue_training) if each]
        files = [sorted(path for path in folder.rglob("*") if path.is_file()) for folder in folders]
        parts += [[(path.name, path.stat().st_size) for path in found] for found in files]
    return digest(parts)


def cell_key(model: VisionModel, measurement: str, shown: str, settings: Mapping[str, Any]) -> str:
    """Key of a cell: what its numbers depend on.

    Parameters
    ----------
    model : VisionModel
    measurement : str
        Of :data:`vision_methods.compare_measures.MEASUREMENTS`.
    shown : str
        From :func:`sources_key`.
    settings : mapping
        Plain values.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    geometry = [getattr(model, f.name) for f in dataclasses.fields(model) if f.name not in ("module", "name")]
    parts = [measurement, code_digest(), digest(model.module, name=model.name), digest(geometry), shown]
    return hashlib.sha256(json.dumps([*parts, settings], sort_keys=True).encode()).hexdigest()


@functools.cache
def code_digest() -> str:
    """Digest of the code that measures: both packages of measuring, and the modules that the measures call.

    Returns
    -------
    str
        64 hexadecimal digits. A cell that other code has measured is measured again.
    """
    called = {getattr(each, "__module__", "") for each in vars(compare_measures).values()}
    ours = (neural_fits, stimuli, lcl, vision_methods)
    files = {Path(compare_measures.__file__)}
    files |= {
        Path(sys.modules[name].__file__ or "")
        for name in called
        if name.startswith(tuple(f"{o.__name__}." for o in ours))
    }
    files |= {path for package in (neural_fits, stimuli) for path in Path(package.__path__[0]).rglob("*.py")}
    return digest([(path.name, file_digest(path)) for path in sorted(files)])


def compare(
    names: Sequence[str],
    out: Path,
    *,
    sources: Sources,
    measurements: Sequence[str] | None = None,
    train_images: str = "builtin",
    labelled: str = "",
    seed: int = 0,
    batch_size: int = 32,
    device: str = "cpu",
    budget: float = 1.0,
    loaders: Mapping[str, Callable[..., VisionModel]] | None = None,
    progress: bool = False,
    command: str = "",
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Compute the missing cells of a table.

    Parameters
    ----------
    names : sequence of str
        Rows: of :data:`vision_methods.compare_models.RECIPES`, else models as :func:`lcl.measure.named_model` takes
        them; ``ROW=MODEL`` names the row of a model.
    out : Path
        Folder. ``models/`` holds what is trained, ``cells/`` what is measured.
    sources : Sources
    measurements : sequence of str, optional
        Of :data:`vision_methods.compare_measures.MEASUREMENTS`; all that the sources allow without it.
    train_images : str
        What rows that are trained are trained on.
    labelled : str
        Pictures by class that rows with labels are trained on.
    seed, batch_size : int
    device : str
        Of the measurements, and of training.
    budget : float
        As in :func:`vision_methods.compare_models.trained`.
    loaders : mapping, optional
        As in :func:`lcl.measure.named_model`.
    progress : bool
    command : str
        For the record.
    say : callable
        Takes lines of text.

    Returns
    -------
    list of dict
        Every cell, in the order of rows and measurements: ``row``, ``measurement``, ``rows`` of numbers, ``error``
        (empty where there is none), ``seconds``, ``hit``, ``file``, ``model`` (as other commands take it), ``about``,
        ``differs``, ``processor_seconds`` of its training where it was trained here.

    Raises
    ------
    ValueError
        If two rows have one name, a measurement is unknown or lacks what it needs, or nothing is left to measure.
    """
    rows = dict(_named(name) for name in names)
    if len(rows) < len(names):
        raise ValueError(f"two of the rows {', '.join(names)} have one name; name them ROW=MODEL.")
    chosen = usable_measurements(sources, measurements)
    settings = {"seed": seed}
    shown = {name: sources_key(sources, MEASUREMENTS[name]) for name in chosen}
    cells = []
    for row, name in rows.items():
        recipe = RECIPES.get(name)
        about = {
            "row": row,
            "about": recipe.about if recipe else name,
            "differs": recipe.differs if recipe else "as it was given",
        }
        try:
            model_name = name
            if recipe:
                model_name = trained(
                    name,
                    out / "models",
                    images=train_images,
                    labelled=labelled,
                    seed=seed,
                    budget=budget,
                    device=device,
                    progress=progress,
                    say=say,
                )
            model = named_model(model_name, seed=seed, loaders=loaders)
            move({row: model}, device)
            layers = layer_names(model)
        except Exception as error:  # a model that fails marks its cells, and the others go on
            say(f"{row}: {_sentence(error)}")
            made = {"model": name, "error": _sentence(error), "rows": [], "seconds": 0.0, "hit": False}
            for measurement in chosen:
                path = out / "cells" / measurement / f"{file_name(row)}.json"
                write_cell(path, about | made | {"measurement": measurement, "key": ""}, command)
                cells.append(about | made | {"measurement": measurement, "file": str(path.relative_to(out))})
            continue
        about["model"] = model_name
        for measurement in chosen:
            path = out / "cells" / measurement / f"{file_name(row)}.json"
            key = cell_key(model, measurement, shown[measurement], settings)
            kept = read_json(path) if path.is_file() else {}
            hit = kept.get("key") == key and not kept.get("error")
            if not hit:
                kept = measured(model, layers, measurement, sources, seed=seed, batch_size=batch_size)
                kept |= {"measurement": measurement, "key": key}
                write_cell(path, about | kept, command)
            cells.append(about | kept | {"hit": hit, "file": str(path.relative_to(out))})
            say(cell_line(cells[-1]))
    return cells


def measured(
    model: VisionModel, layers: Sequence[str], measurement: str, sources: Sources, *, seed: int, batch_size: int
) -> dict[str, Any]:
    """Rows of one cell, or the sentence of what went wrong.

    Parameters
    ----------
    model : VisionModel
    layers : sequence of str
    measurement : str
    sources : Sources
    seed, batch_size : int

    Returns
    -------
    dict
        ``rows``, ``error``, ``seconds``, and ``trace`` where there is an error.
    """
    start = time.perf_counter()
    found: dict[str, Any] = {"rows": [], "error": ""}
    try:
        rows = MEASUREMENTS[measurement].measure(model, layers, sources, seed=seed, batch_size=batch_size)
        found["rows"] = [{name: _plain(value) for name, value in row.items()} for row in rows]
    except Exception as error:  # a model that fails marks its cell, and the others go on
        found |= {"error": _sentence(error), "trace": traceback.format_exc().splitlines()[-8:]}
    return found | {"seconds": round(time.perf_counter() - start, 2)}


def usable_measurements(sources: Sources, measurements: Sequence[str] | None = None) -> list[str]:
    """Measurements that the sources allow.

    Parameters
    ----------
    sources : Sources
    measurements : sequence of str, optional
        Those that are wanted: each has to be possible. Default: all that are.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If one is unknown or lacks what it needs.
    """
    for name in measurements or ():
        if name not in MEASUREMENTS:
            raise ValueError(f"there is no measurement {name!r}; expected some of {', '.join(MEASUREMENTS)}.")
        lacking = [each for each in MEASUREMENTS[name].needs if getattr(sources, each) is None]
        if lacking:
            raise ValueError(f"{name} needs what was not given; give {MEASUREMENTS[name].option}.")
    return [
        name
        for name, each in MEASUREMENTS.items()
        if (measurements is None or name in measurements)
        and all(getattr(sources, need) is not None for need in each.needs)
    ]


def write_cell(path: Path, cell: Mapping[str, Any], command: str) -> None:
    """Write a cell with what made it.

    Parameters
    ----------
    path : Path
    cell : mapping
        Plain values.
    command : str
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": FORMAT, **cell, "command": command, "made_with": provenance()})


def cell_line(cell: Mapping[str, Any]) -> str:
    """A cell in words.

    Parameters
    ----------
    cell : mapping
        From :func:`compare`.

    Returns
    -------
    str

    Examples
    --------
    >>> cell_line({"row": "lcl", "measurement": "probe", "error": "no pictures.", "rows": []})
    'lcl, probe: failed: no pictures.'
    """
    if cell["error"]:
        return f"{cell['row']}, {cell['measurement']}: failed: {cell['error']}"
    shown = [main_row(cell["rows"], measure) for measure in MEASUREMENTS[cell["measurement"]].measures]
    text = "; ".join(
        f"{row['measure']} ({row['layer']}) {number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"
        for row in shown
        if row
    )
    took = "kept" if cell.get("hit") else f"{cell['seconds']:.0f} s"
    return f"{cell['row']}, {cell['measurement']}: {text} ({took})"


def number(value: float | None, digits: int = 3) -> str:
    """A number of the table; a dash where it is undefined.

    Examples
    --------
    >>> number(0.12345), number(None)
    ('0.123', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def main_row(rows: Sequence[Mapping[str, Any]], measure: str) -> Mapping[str, Any] | None:
    """The row that stands in the table: the measure's own statistic, in the first or last layer as the measure says.

    Parameters
    ----------
    rows : sequence of mapping
        Of a cell.
    measure : str
        Of :data:`vision_methods.compare_measures.MEASURES`.

    Returns
    -------
    mapping, or None
        None where the cell has none.

    Examples
    --------
    >>> rows = [{"measure": "v1-fit", "statistic": "", "layer": layer} for layer in ("V1", "V2")]
    >>> main_row(rows, "v1-fit")["layer"]
    'V1'
    """
    own = [row for row in rows if row["measure"] == measure and not row["statistic"]]
    if not own:
        return None
    return own[0] if MEASURES[measure].layer == "first" else own[-1]


def as_rows(cells: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Every number of every cell, one a row, with where it is from.

    Parameters
    ----------
    cells : sequence of mapping
        From :func:`compare`.

    Returns
    -------
    list of dict
    """
    rows = []
    for cell in cells:
        base = {"row": cell["row"], "model": cell["model"], "measurement": cell["measurement"]}
        ends = {"file": cell["file"], "error": cell["error"]}
        if cell["error"]:
            rows += [
                base | {"measure": each, "in_table": True} | ends for each in MEASUREMENTS[cell["measurement"]].measures
            ]
        for row in cell["rows"]:
            rows.append(base | dict(row) | {"in_table": row is main_row(cell["rows"], row["measure"])} | ends)
    return rows


def as_dataset(cells: Sequence[Mapping[str, Any]]) -> xr.Dataset:
    """The table: a model a row, a measure a column.

    Parameters
    ----------
    cells : sequence of mapping
        From :func:`compare`.

    Returns
    -------
    xarray.Dataset
        ``value``, ``low``, ``high``, ``n`` over (``model``, ``measure``), NaN where a cell failed; ``layer``, ``error``
        and ``file`` as text.
    """
    models = list(dict.fromkeys(cell["row"] for cell in cells))
    filled = {measure for cell in cells for measure in MEASUREMENTS[cell["measurement"]].measures}
    measures = [measure for measure in MEASURES if measure in filled]
    shape = (len(models), len(measures))
    numbers = {name: np.full(shape, np.nan) for name in ("value", "low", "high", "n")}
    texts = {name: np.full(shape, "", dtype=object) for name in ("layer", "error", "file")}
    for cell in cells:
        for measure in MEASUREMENTS[cell["measurement"]].measures:
            at = models.index(cell["row"]), measures.index(measure)
            texts["error"][at], texts["file"][at] = cell["error"], cell["file"]
            row = main_row(cell["rows"], measure)
            if row:
                texts["layer"][at] = row["layer"]
                for name, values in numbers.items():
                    values[at] = np.nan if row[name] is None else row[name]
    variables = {name: (("model", "measure"), values) for name, values in numbers.items()}
    variables |= {name: (("model", "measure"), values.astype(str)) for name, values in texts.items()}
    labels = ("measure", [MEASURES[measure].label for measure in measures])
    return xr.Dataset(variables, {"model": models, "measure": measures, "label": labels})


def write_tables(cells: Sequence[Mapping[str, Any]], out: Path) -> xr.Dataset:
    """Write ``comparison.csv`` (every number) and ``comparison.nc`` (the table).

    Parameters
    ----------
    cells : sequence of mapping
        From :func:`compare`.
    out : Path

    Returns
    -------
    xarray.Dataset
        As :func:`as_dataset`.
    """
    rows, table = as_rows(cells), as_dataset(cells)
    with replacing(out / "comparison.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    write_dataset(table, out / "comparison.nc")
    return table


def _named(name: str) -> tuple[str, str]:
    row, equals, model = name.partition("=")
    return (row, model) if equals and row and "/" not in row else (name, name)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"


def _plain(value: Any) -> Any:
    """A number for JSON: what is not finite is null."""
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
