"""Table, figure and page of few-shot accuracies: what ``lcl few-shot`` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lcl.align import save, write_csv
from lcl.recognition_evaluate import seed_interval
from lcl.report import name_table, paragraph, section
from neural_fits.figures import COLOURS, folded
from stimuli.drawing import GREY, WIDTH_IN, styled

ZERO_SHOT = "zero-shot"


def summary(rows: Sequence[Mapping[str, Any]], *, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Mean accuracy over draws of the support, with Student's t interval over them.

    Parameters
    ----------
    rows : sequence of mapping
        Of :func:`vision_methods.few_shot.few_shot_rows`, with ``model`` and ``layer``.
    confidence : float

    Returns
    -------
    list of dict
        ``model``, ``layer``, ``adapter``, ``shots``, ``draws``, ``accuracy``, ``low``, ``high``; NaN for the interval
        of a single draw.

    Examples
    --------
    >>> of = {"model": "m", "layer": "V2", "adapter": "prototypes", "shots": 4}
    >>> (row,) = summary([{**of, "seed": seed, "accuracy": a} for seed, a in enumerate((0.5, 0.6, 0.7))])
    >>> row["draws"], round(row["accuracy"], 3), round(row["low"], 3), round(row["high"], 3)
    (3, 0.6, 0.352, 0.848)
    """
    of: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        of.setdefault(tuple(row[name] for name in ("model", "layer", "adapter", "shots")), []).append(row["accuracy"])
    found = []
    for (model, layer, adapter, shots), values in of.items():
        low, high = seed_interval(np.array(values), confidence=confidence)
        row = {"model": model, "layer": layer, "adapter": adapter, "shots": shots, "draws": len(values)}
        found.append({**row, "accuracy": float(np.mean(values)), "low": low, "high": high})
    return found


@styled
def shot_curves(table: Sequence[Mapping[str, Any]], *, chance: float, confidence: float = 0.95) -> Figure:
    """Accuracy by shots: a panel for each adapter, a line for each layer, the texts alone as a dashed line.

    Parameters
    ----------
    table : sequence of mapping
        From :func:`summary`.
    chance : float
        Accuracy of the commonest class everywhere.
    confidence : float
        Of the bands.

    Returns
    -------
    Figure
    """
    lines = list(dict.fromkeys((row["model"], row["layer"]) for row in table))
    adapters = list(dict.fromkeys(row["adapter"] for row in table if row["adapter"] != ZERO_SHOT))
    shots = sorted({row["shots"] for row in table if row["adapter"] != ZERO_SHOT})
    columns = min(3, len(adapters))
    n_rows = -(-len(adapters) // columns)
    named = [folded(f"{model}  {layer}", 60) for model, layer in lines]
    figure = Figure((WIDTH_IN, 0.8 + 1.95 * n_rows + 0.16 * len(lines)), layout="constrained")
    panels = figure.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, adapter in zip(panels.flat, adapters, strict=False):
        for i, line in enumerate(lines):
            colour = COLOURS[i % len(COLOURS)]
            of = {
                row["shots"]: row
                for row in table
                if (row["model"], row["layer"]) == line and row["adapter"] in (adapter, ZERO_SHOT)
            }
            known = [of[n] for n in shots if n in of]
            x, y = [row["shots"] for row in known], [row["accuracy"] for row in known]
            axes.plot(x, y, "o-", color=colour, markersize=4, linewidth=1.4)
            axes.fill_between(
                x, [row["low"] for row in known], [row["high"] for row in known], color=colour, alpha=0.2, linewidth=0
            )
            if 0 in of:
                axes.axhline(of[0]["accuracy"], color=colour, linestyle="--", linewidth=1.1)
        axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.1)
        axes.set_title(adapter)
        axes.set_xscale("log", base=2)
        axes.set_xticks(shots, [str(n) for n in shots])
        axes.minorticks_off()
        axes.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.6)
    for axes in panels.flat[len(adapters) :]:
        axes.set_visible(False)
    panels[n_rows - 1, columns // 2].set_xlabel("labelled pictures of each class (shots)")
    panels[n_rows // 2, 0].set_ylabel("accuracy (share of held-out pictures)")
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker="o", markersize=4, label=name)
        for i, name in enumerate(named)
    ]
    if any(row["adapter"] == ZERO_SHOT for row in table):
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1.1, label="zero-shot, by texts alone"))
    handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1.1, label="the commonest class everywhere"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        title=f"bands: {100 * confidence:g} % interval over draws of the labelled pictures",
        title_fontsize=8,
    )
    return figure


def curve_table(table: Sequence[Mapping[str, Any]]) -> str:
    """HTML table: a row for each layer and adapter, a column for each number of shots.

    Parameters
    ----------
    table : sequence of mapping
        From :func:`summary`.

    Returns
    -------
    str
    """
    shots = sorted({row["shots"] for row in table})
    head = "".join(f'<th scope="col">{n} shots</th>' if n else '<th scope="col">texts alone</th>' for n in shots)
    body = ""
    for key in dict.fromkeys((row["model"], row["layer"], row["adapter"]) for row in table):
        of = {row["shots"]: row for row in table if (row["model"], row["layer"], row["adapter"]) == key}
        cells = ""
        for n in shots:
            interval = f"{of[n]['low']:.3f} to {of[n]['high']:.3f}" if n in of and np.isfinite(of[n]["low"]) else ""
            cells += f"<td>{of[n]['accuracy']:.3f}<small>{interval}</small></td>" if n in of else "<td></td>"
        body += f'<tr><th scope="row">{escape(" ".join(key))}</th>{cells}</tr>'
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="few-shot accuracy"><table class="numbers"><thead>'
        f'<tr><th scope="col">model, layer and adapter</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def write_few_shot(
    rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any], out: Path, *, command: str
) -> list[str]:
    """Write the tables (CSV) and the figure, and a section of a page.

    Parameters
    ----------
    rows : sequence of mapping
        Of :func:`vision_methods.few_shot.few_shot_rows`, with ``model`` and ``layer``.
    record : mapping
        ``chance``, and what else is to be known of the pictures.
    out : Path
        Folder, made where missing; takes few_shot.csv (every draw), summary.csv, few_shot.png and record.json.
    command : str
        How the table was made, for the record.

    Returns
    -------
    list of str
        HTML.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = summary(rows)
    write_csv([{**row, "setting": json.dumps(row["setting"])} for row in rows], out / "few_shot.csv")
    write_csv(table, out / "summary.csv")
    caption = (
        "Accuracy of training-free adapters by the number of labelled pictures of each class. Settings are chosen "
        "within those; with one picture of a class there is nothing to choose by, and a default stands. Bands: "
        "Student's t over draws, the held-out pictures as they are."
    )
    content = save(shot_curves(table, chance=record["chance"]), out / "few_shot.png", caption)
    content += curve_table(table) + paragraph("Below each accuracy: its interval over draws.")
    content += name_table({**record, "command": command})
    return [section("Few-shot classes", content)]
