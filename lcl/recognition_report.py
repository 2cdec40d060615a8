"""Tables, figures and pages of recognition networks: of one run, and of a comparison."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from html import escape
from math import isnan
from pathlib import Path
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from lcl.checkpoint import command_line, provenance, read_json
from lcl.figures_recognition import accuracy_by_level, training
from lcl.recognition_evaluate import RULES, condition_rows, summary_rows
from lcl.report import name_table, page, paragraph, picture, section
from stimuli.drawing import png
from stimuli.files import replacing

INTERVALS = (
    "95 % intervals: over seeds, Student's t of what training varies, the pictures given; over pictures, percentile "
    "bootstrap, the networks given. OOD accuracy: mean over distortions of the mean accuracy over levels; the rule: {}."
)


def write_table(table: xr.Dataset, path: Path) -> None:
    """Write the answers of networks as netCDF, at once."""
    with replacing(path) as partial:
        table.to_netcdf(partial, engine="h5netcdf")


def read_table(path: Path) -> xr.Dataset:
    """Read what :func:`write_table` wrote, into memory."""
    with xr.open_dataset(path, engine="h5netcdf") as table:
        # the file's fixed length of a text would cut longer ones that are joined to it and written
        return table.load().drop_encoding()


def write_comparison(table: xr.Dataset, out: Path, *, rule: str = "undistorted", record: Mapping[str, Any]) -> Path:
    """Write results.nc, conditions.csv, summary.csv, the figure and the page of a comparison.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`lcl.recognition_evaluate.evaluate`, with front_end and seed of every run.
    out : Path
        Folder, made where missing.
    rule : str
        Of :data:`lcl.recognition_evaluate.RULES`.
    record : mapping
        What the page says about how it was made.

    Returns
    -------
    Path
        The page.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows, summary = condition_rows(table), summary_rows(table, rule=rule)
    write_table(table, out / "results.nc")
    _write_csv(rows, out / "conditions.csv")
    _write_csv(summary, out / "summary.csv")
    html = comparison_section(table, rows, summary, rule, out)
    record = {**record, "command": command_line(), **provenance()}
    with replacing(out / "report.html") as partial:
        text = page(f"Recognition: {out.resolve().name}", [], [html, section("Record", name_table(record))])
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return out / "report.html"


def comparison_section(
    table: xr.Dataset, rows: Sequence[Mapping[str, Any]], summary: Sequence[Mapping[str, Any]], rule: str, out: Path
) -> str:
    """HTML section of a comparison; its figure is also written to the folder."""
    figure = accuracy_by_level(rows, classes=len(json.loads(table.attrs["classes"])))
    caption = (
        f"Accuracy on {table.sizes['image']} validation pictures of {table.attrs['size_px']} px against the level of "
        "each distortion. Lines: mean over seeds; bars: lowest to highest seed (with one seed, its interval)."
    )
    drawn = _save(figure, out / "accuracy.png", caption)
    text = paragraph(INTERVALS.format(RULES[rule]))
    return section("Accuracy under distortions", summary_table(summary) + text + drawn)


def summary_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """HTML table: a row for each front end or difference, a column for each measure.

    Examples
    --------
    >>> row = {"front_end": "a", "difference_from": "", "measure": "clean", "value": 0.5, "seeds": 1,
    ...     "seeds_low": float("nan"), "seeds_high": float("nan"), "images_low": 0.4, "images_high": 0.6}
    >>> "<td>0.500<small>pictures 0.400 to 0.600</small></td>" in summary_table([row])
    True
    """
    titles = {"clean": "clean accuracy", "ood": "OOD accuracy"}
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    head = "".join(f'<th scope="col">{escape(str(titles.get(name, name)))}</th>' for name in measures)
    body = []
    for front, reference in dict.fromkeys((row["front_end"], row["difference_from"]) for row in rows):
        found = {
            row["measure"]: row for row in rows if (row["front_end"], row["difference_from"]) == (front, reference)
        }
        seeds = next(iter(found.values()))["seeds"]
        name = f"{front} − {reference}" if reference else front
        cells = "".join(f"<td>{_cell(found[measure])}</td>" for measure in measures)
        body.append(
            f'<tr><th scope="row">{escape(name)}<small>{seeds} seed{"s" * (seeds > 1)}</small></th>{cells}</tr>'
        )
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="accuracies"><table class="numbers"><thead><tr>'
        f'<th scope="col">front end</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def _cell(row: Mapping[str, Any]) -> str:
    sign = "+" if row["difference_from"] else ""
    text = f"{row['value']:{sign}.3f}"
    if not isnan(row["seeds_low"]):
        text += f"<small>seeds {row['seeds_low']:{sign}.3f} to {row['seeds_high']:{sign}.3f}</small>"
    return text + f"<small>pictures {row['images_low']:{sign}.3f} to {row['images_high']:{sign}.3f}</small>"


def summary_text(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The summary as lines of text.

    Examples
    --------
    >>> row = {"front_end": "b", "difference_from": "a", "measure": "ood", "value": 0.01, "seeds": 3,
    ...     "seeds_low": -0.01, "seeds_high": 0.03, "images_low": -0.02, "images_high": 0.04}
    >>> summary_text([row])
    ['b - a, ood: +0.010 (3 seeds: -0.010 to +0.030; pictures: -0.020 to +0.040)']
    """
    lines = []
    for row in rows:
        sign = "+" if row["difference_from"] else ""
        name = row["front_end"] + (f" - {row['difference_from']}" if row["difference_from"] else "")
        ends = "" if isnan(row["seeds_low"]) else f": {row['seeds_low']:{sign}.3f} to {row['seeds_high']:{sign}.3f}"
        lines.append(
            f"{name}, {row['measure']}: {row['value']:{sign}.3f} ({row['seeds']} seed{'s' * (row['seeds'] > 1)}{ends}; "
            f"pictures: {row['images_low']:{sign}.3f} to {row['images_high']:{sign}.3f})"
        )
    return lines


def write_recognition_report(run: Path | str) -> Path:
    """Draw the figures of a recognition run and write its report, from what its folder holds.

    Parameters
    ----------
    run : path
        Made by ``lcl recognize train``.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder is no recognition run, or a file is damaged.
    """
    run = Path(run)
    config = read_json(run / "config.json")
    summary = read_json(run / "summary.json") if (run / "summary.json").is_file() else {}
    (run / "figures").mkdir(exist_ok=True)
    lead, sections = [f"Front end: {config['front_end']['about']}."], []
    if "accuracy" in summary:
        lead.append(f"Accuracy on the validation images: {summary['accuracy']:.3f}.")
    if (run / "evaluation.nc").is_file():
        table = read_table(run / "evaluation.nc")
        found = summary_rows(table)
        sections.append(comparison_section(table, condition_rows(table), found, "undistorted", run / "figures"))
    texts = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    if texts:
        caption = "Loss of the training batches, and accuracy on the validation images at the end of every epoch."
        figure = training([json.loads(text) for text in texts])
        sections.append(section("Training", _save(figure, run / "figures" / "training.png", caption)))
    if summary:
        sections.append(section("Run", name_table({k: v for k, v in summary.items() if k != "format"})))
    sections.append(section("Configuration", name_table({k: v for k, v in config.items() if summary.get(k) != v})))
    with replacing(run / "report.html") as partial:
        text = page(f"Recognition run {run.resolve().name}", lead, sections)
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return run / "report.html"


def _save(figure: Figure, path: Path, caption: str) -> str:
    data = png(figure)
    with replacing(path) as partial:
        partial.write_bytes(data)
    return picture(data, caption=caption, alt=caption, width_in=float(figure.get_figwidth()))


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        # an interval over one seed does not exist: an empty cell
        writer.writerows({k: "" if isinstance(v, float) and isnan(v) else v for k, v in row.items()} for row in rows)
