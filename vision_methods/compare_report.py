"""The page of a comparison: its table, a figure for each measure, and what every number is from."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lcl.align import save
from lcl.report import name_table, page, paragraph, section
from stimuli.drawing import BLUE, GREY, VERMILION, WIDTH_IN, plain, styled
from stimuli.files import replacing
from vision_methods.compare import main_row, number
from vision_methods.compare_measures import MEASUREMENTS, MEASURES


@styled
def measure_figure(cells: Sequence[Mapping[str, Any]], measure: str) -> Figure:
    """Every model on one measure: the layer of the table with its interval, and the other layers.

    Parameters
    ----------
    cells : sequence of mapping
        From :func:`vision_methods.compare.compare`.
    measure : str
        Of :data:`vision_methods.compare_measures.MEASURES`.

    Returns
    -------
    Figure
    """
    own = [cell for cell in cells if measure in MEASUREMENTS[cell["measurement"]].measures]
    figure = Figure((WIDTH_IN, 1.3 + 0.27 * len(own)), layout="constrained")
    axes = figure.subplots()
    references = set()
    for y, cell in enumerate(own):
        main = main_row(cell["rows"], measure)
        for row in cell["rows"]:
            if row["measure"] != measure or row["statistic"] or row["value"] is None:
                continue
            here = row is main
            colour = BLUE if here else GREY
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.5 if here else 1, alpha=0.6)
            axes.plot(row["value"], y, "o" if here else ".", color=colour, markersize=5)
            if row.get("reference") is not None:
                references.add(round(row["reference"], 6))
        if cell["error"]:
            axes.annotate("failed", (0.01, y), xycoords=("axes fraction", "data"), color=VERMILION, va="center")
    for reference in references:
        axes.axvline(reference, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(own)), [plain(cell["row"]) for cell in own])
    axes.set_ylim(len(own) - 0.5, -0.5)
    axes.set(xlabel=plain(MEASURES[measure].label), ylabel="model")
    layer = MEASURES[measure].layer
    handles = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2.5, label=f"{layer} layer, with 95 % interval"),
        Line2D([], [], color=GREY, marker=".", linewidth=1, label="other layers"),
    ]
    if references:
        handles.append(Line2D([], [], color=GREY, linestyle="--", label="without features"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def comparison_table(table: xr.Dataset, cells: Sequence[Mapping[str, Any]]) -> str:
    """HTML of the table: a model a row; every number is a link to the file that says what made it.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`vision_methods.compare.as_dataset`.
    cells : sequence of mapping

    Returns
    -------
    str
    """
    about = {cell["row"]: cell for cell in cells}
    names = table.measure.values.astype(str).tolist()
    head = "".join(
        f'<th scope="col">{_lines(MEASURES[name].label)}'
        f"<small>{_lines(f'{MEASURES[name].layer} layer; {MEASURES[name].better}')}</small></th>"
        for name in names
    )
    body = ""
    for model in table.model.values.astype(str).tolist():
        line = ""
        for name in names:
            cell = table.sel(model=model, measure=name)
            file, error = str(cell.file.item()), str(cell.error.item())
            if error:
                shown = f'<a href="{escape(file)}" title="{escape(error)}">failed</a>'
            elif not file:
                shown = "not measured"
            else:
                ends = f"{number(cell.low.item())} to {number(cell.high.item())}"
                shown = f'<a href="{escape(file)}">{number(cell.value.item())}</a><small>{ends}</small>'
                shown += f"<small>{escape(str(cell.layer.item()))}</small>"
            line += f"<td>{shown}</td>"
        text = about[model]["about"] + (f" ({about[model]['differs']})" if about[model]["differs"] else "")
        body += f'<tr><th scope="row">{escape(model)}<small>{escape(text)}</small></th>{line}</tr>'
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="comparison"><table class="numbers"><thead><tr>'
        f'<th scope="col">model</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _lines(text: str, width: int = 20) -> str:
    """HTML of a text in short lines: headings of the page's tables do not wrap by themselves."""
    return "<br>".join(escape(line) for line in textwrap.wrap(text, width))


def write_comparison(
    table: xr.Dataset,
    cells: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    names: Mapping[str, str],
    record: Mapping[str, Any],
) -> Path:
    """Write figures and the page.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`vision_methods.compare.write_tables`.
    cells : sequence of mapping
    out : Path
    names : mapping of str to str
        What every measure is of (`names` of :class:`vision_methods.compare_measures.Sources`).
    record : mapping
        Plain values: settings, command, versions.

    Returns
    -------
    Path
        The page.
    """
    (out / "figures").mkdir(parents=True, exist_ok=True)
    sections = [
        section(
            "All models and measures",
            paragraph(
                "Values with 95 % intervals. Which layer of a model stands here was chosen before, not by its score; "
                "all layers are in the figures and in comparison.csv. A number leads to its file: what it was measured "
                "on, with which code and command. Intervals are of other units, families or pictures with the same "
                "trained network; another training would move the numbers too."
            )
            + comparison_table(table, cells),
        )
    ]
    for measure in table.measure.values.astype(str).tolist():
        about = MEASURES[measure]
        caption = f"{about.label}: {about.better}. Of {names.get(measure, 'what comes with the package')}."
        shown = save(measure_figure(cells, measure), out / "figures" / f"{measure}.png", caption)
        defined = [cell["rows"] for cell in cells if measure in MEASUREMENTS[cell["measurement"]].measures]
        n = sorted({int(row["n"]) for row in (main_row(rows, measure) for rows in defined) if row})
        text = (
            f"n ({about.counts}): {', '.join(map(str, n))}. How it is computed: docs/{about.page}."
            if n
            else "Undefined everywhere."
        )
        sections.append(section(measure, shown + paragraph(text)))
    failures = {(cell["row"], cell["error"]): cell for cell in cells if cell["error"]}
    if failures:
        lines = "".join(
            f"<li>{escape(row)}, {escape(cell['measurement'])}: {escape(error)}</li>"
            for (row, error), cell in failures.items()
        )
        sections.insert(1, section("What failed", f"<ul>{lines}</ul>"))
    trained = {cell["row"]: cell["model"] for cell in cells if Path(cell["model"]).is_dir()}
    links = "".join(
        f'<li><a href="{escape(str(Path("models") / row / "report.html"))}">{escape(row)}</a></li>'
        for row, run in trained.items()
        if (out / "models" / row / "report.html").is_file()
    )
    if links:
        sections.append(section("Trained for this table", f"<ul>{links}</ul>"))
    seconds = float(np.sum([cell["seconds"] for cell in cells]))
    failed = sum(bool(cell["error"]) for cell in cells)
    sections.append(section("What made it", name_table(dict(record))))
    lead = [
        f"{table.sizes['model']} models, {table.sizes['measure']} measures; {len(cells) - failed} of {len(cells)} "
        f"cells are there, {failed} failed. Measuring took {seconds / 60:.0f} minutes."
    ]
    with replacing(out / "report.html") as partial:
        partial.write_text(page("How far is each learning rule from the brain?", lead, sections), encoding="utf-8")
    return out / "report.html"
