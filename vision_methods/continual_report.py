"""Table, figures and page of a study of continual learning: what ``lcl continual`` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lcl.align import save, write_csv
from lcl.checkpoint import read_json, write_json
from lcl.recognition_evaluate import seed_interval
from lcl.report import name_table, page, paragraph, section
from neural_fits.figures import COLOURS, folded
from stimuli.drawing import GREY, WIDTH_IN, styled
from stimuli.files import replacing
from vision_methods.continual import Cell, read_cell
from vision_methods.continual_protocol import measures

#: Measures of a row, in the order of columns; accuracies and forgetting are shares.
MEASURES = ("last_micro", "last_macro", "average_macro", "learned", "forgetting_best", "forgetting_step")
NOT_VALID = "is told the task or reads a batch together: not a valid method"


def seed_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Every measure of every method and seed.

    Parameters
    ----------
    cells : sequence of Cell

    Returns
    -------
    list of dict
        ``method``, ``seed``, ``tuned_parameters``, ``valid``, the measures, ``prompt_similarity``, ``seconds``.
    """
    return [
        {
            "method": cell.method,
            "seed": cell.seed,
            "tuned_parameters": cell.tuned,
            "valid": cell.valid,
            **measures(cell.matrix, cell.counts),
            "prompt_similarity": cell.similarity,
            "seconds": cell.seconds,
        }
        for cell in cells
    ]


def summary_rows(cells: Sequence[Cell], *, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Means over seeds with Student's t intervals, and differences from the first method, seed by seed.

    Parameters
    ----------
    cells : sequence of Cell
    confidence : float

    Returns
    -------
    list of dict
        ``method``, ``tuned_parameters``, ``valid``, ``seeds``; for each measure its mean and ``_low``, ``_high``;
        ``difference``, ``difference_low``, ``difference_high`` of ``last_macro`` from the first method;
        ``prompt_similarity`` and ``seconds``, means. Intervals of one seed are NaN.

    Examples
    --------
    >>> matrices = [np.array([[0.8, np.nan], [0.6, 0.4 + 0.1 * seed]]) for seed in range(3)]
    >>> cells = [Cell("nmc", i, each, np.array([5, 5]), 0, np.nan, True, 1.0) for i, each in enumerate(matrices)]
    >>> (row,) = summary_rows(cells)
    >>> [round(row[name], 3) for name in ("last_macro", "last_macro_low", "last_macro_high", "forgetting_best")]
    [0.55, 0.426, 0.674, 0.2]
    """
    rows = seed_rows(cells)
    found, first = [], rows[0]["method"]
    reference = {row["seed"]: row["last_macro"] for row in rows if row["method"] == first}
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        line: dict[str, Any] = {name: own[0][name] for name in ("method", "tuned_parameters", "valid")}
        line["seeds"] = len(own)
        for name in MEASURES:
            values = np.array([row[name] for row in own])
            low, high = seed_interval(values, confidence=confidence)
            line |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
        apart = np.array([row["last_macro"] - reference[row["seed"]] for row in own if row["seed"] in reference])
        low, high = seed_interval(apart, confidence=confidence) if len(apart) else (np.nan, np.nan)
        line |= {"difference": float(apart.mean()) if len(apart) else np.nan, "difference_low": low}
        line["difference_high"] = high
        line |= {name: float(np.mean([row[name] for row in own])) for name in ("prompt_similarity", "seconds")}
        found.append(line)
    return found


@styled
def matrix_figure(cells: Sequence[Cell]) -> Figure:
    """Accuracy matrices, means over seeds: a panel for each method, stages downwards, tasks to the right.

    Parameters
    ----------
    cells : sequence of Cell

    Returns
    -------
    Figure
    """
    methods = list(dict.fromkeys(cell.method for cell in cells))
    columns = min(4, len(methods))
    rows = -(-len(methods) // columns)
    figure = Figure((WIDTH_IN, 0.5 + 1.95 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    shown = None
    for axes, method in zip(panels.flat, methods, strict=False):
        mean = np.mean([cell.matrix for cell in cells if cell.method == method], axis=0)
        shown = axes.imshow(100 * mean, vmin=0, vmax=100, cmap="viridis")
        tasks, large = mean.shape[1], mean.shape[1] > 6
        for (stage, task), value in np.ndenumerate(mean):
            if np.isfinite(value) and not large:
                ink = "black" if value > 0.6 else "white"
                axes.text(task, stage, f"{100 * value:.0f}", ha="center", va="center", color=ink, fontsize=7)
        axes.set_title(folded(method, 24), fontsize=7)
        axes.set_xticks(range(tasks), [str(i + 1) for i in range(tasks)])
        axes.set_yticks(range(len(mean)), [str(i + 1) for i in range(len(mean))] if len(mean) > 1 else ["all"])
        axes.tick_params(length=0, labelsize=7)
    for axes in panels.flat[len(methods) :]:
        axes.set_visible(False)
    figure.supxlabel("task that is tested", fontsize=9)
    figure.supylabel("tasks learned so far", fontsize=9)
    assert shown is not None
    figure.colorbar(shown, ax=panels, label="accuracy (%)", shrink=0.8)
    return figure


@styled
def parameter_figure(table: Sequence[Mapping[str, Any]]) -> Figure:
    """Final accuracy, accuracy just after learning and forgetting against the number of tuned parameters.

    Parameters
    ----------
    table : sequence of mapping
        From :func:`summary_rows`. Joint trainings have no forgetting and are left out there.

    Returns
    -------
    Figure
    """
    names = (("last_macro", "final accuracy"), ("learned", "accuracy just learned"), ("forgetting_best", "forgetting"))
    figure = Figure((WIDTH_IN, 3.1 + 0.14 * -(-len(table) // 2)), layout="constrained")
    panels = figure.subplots(1, len(names))
    for axes, (name, label) in zip(panels, names, strict=True):
        for i, row in enumerate(table):
            if name == "forgetting_best" and "joint" in row["method"]:
                continue
            colour, marker = COLOURS[i % len(COLOURS)], "osv^D"[i // len(COLOURS) % 5]
            y, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
            bars = None if np.isnan(low) else [[y - low], [high - y]]
            axes.errorbar(
                row["tuned_parameters"],
                y,
                bars,
                fmt=marker,
                color=colour,
                mfc=colour if row["valid"] else "white",
                markersize=5,
                linewidth=1,
                label=folded(row["method"] + ("" if row["valid"] else " (not valid)"), 40),
            )
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlim(left=-3)
        axes.set_title(f"{label} (%)", fontsize=9)
        axes.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.6)
    # The label of the middle panel is that of all: one of the figure would lie in the legend.
    panels[1].set_xlabel("tuned parameters beside the head", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7)
    return figure


def accuracy_table(table: Sequence[Mapping[str, Any]]) -> str:
    """HTML table: a row for each method, a column for each measure with its interval over seeds.

    Parameters
    ----------
    table : sequence of mapping
        From :func:`summary_rows`.

    Returns
    -------
    str
    """
    heads = ("method", "tuned parameters", "final accuracy, all pictures", "final accuracy, mean of tasks")
    heads += ("average over stages", "just learned", "forgetting from best", "forgetting by step", "prompts alike")
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = ""
    for row in table:
        cells = f"<td>{row['tuned_parameters']:,}</td>"
        for name in MEASURES:
            low, high = 100 * row[f"{name}_low"], 100 * row[f"{name}_high"]
            interval = f"<small>{low:.1f} to {high:.1f}</small>" if np.isfinite(low) else ""
            cells += f"<td>{100 * row[name]:.1f}{interval}</td>"
        alike = row["prompt_similarity"]
        cells += f"<td>{alike:.1f}</td>" if np.isfinite(alike) else "<td></td>"
        note = "" if row["valid"] else f"<small>{NOT_VALID}</small>"
        body += f'<tr><th scope="row">{escape(row["method"])}{note}</th>{cells}</tr>'
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="continual learning"><table class="numbers"><thead>'
        f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def write_study(cells: Sequence[Cell], out: Path, *, record: Mapping[str, Any]) -> Path:
    """Write the tables (CSV), the accuracy matrices (JSON), the figures and the page of a study.

    Parameters
    ----------
    cells : sequence of Cell
    out : Path
    record : mapping
        What else is to be known.

    Returns
    -------
    Path
        The page.
    """
    table = summary_rows(cells)
    write_csv(seed_rows(cells), out / "seeds.csv")
    write_csv(table, out / "summary.csv")
    matrices: dict[str, dict[str, Any]] = {}
    for cell in cells:
        rows = [[None if np.isnan(value) else float(value) for value in row] for row in cell.matrix]
        matrices.setdefault(cell.method, {})[str(cell.seed)] = rows
    write_json(out / "accuracy_matrices.json", matrices)
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    content = accuracy_table(table) + paragraph(
        "Per cent. Below each number: Student's t interval over seeds, each with its own order of classes. Counts of "
        "parameters leave the head out. Forgetting from best: mean over old tasks of the best accuracy less the final "
        "one; by step: mean over stages of what old tasks lost since the stage before. Prompts alike: mean cosine "
        "similarity of what different pictures get."
    )
    matrix = save(
        matrix_figure(cells), figures / "accuracy_matrices.png", "Accuracy matrices, means over seeds, per cent."
    )
    against = save(
        parameter_figure(table),
        figures / "parameters.png",
        "Accuracy and forgetting against the number of tuned parameters; bars are intervals over seeds. Empty symbols: "
        "not valid methods.",
    )
    able = [row for row in table if row["valid"] and "joint" not in row["method"]]
    lead = [f"{len(table)} methods of continual learning without rehearsal, {table[0]['seeds']} seeds."]
    if able:
        best = max(able, key=lambda row: row["last_macro"])
        lead.append(f"Highest final accuracy: {best['method']}, {100 * best['last_macro']:.1f} % (mean of tasks).")
    sections = [section("Accuracy and forgetting", content), section("Accuracy matrices", matrix)]
    sections += [section("Tuned parameters", against), section("Settings", name_table(record))]
    with replacing(out / "report.html") as partial:
        partial.write_text(page("Continual learning", lead, sections), encoding="utf-8")
    return out / "report.html"


def rewrite_study(run: Path | str) -> Path:
    """Tables, figures and page of a study's folder again, from the cells that it holds.

    Parameters
    ----------
    run : path

    Returns
    -------
    Path
        The page.

    Raises
    ------
    FileNotFoundError, ValueError
        If no cell is finished, or a file is damaged.

    Examples
    --------
    >>> rewrite_study("no-such-study")
    Traceback (most recent call last):
        ...
    FileNotFoundError: no-such-study holds no finished cell of a study; make one with `lcl continual`.
    """
    run = Path(run)
    cells = [read_cell(path)[0] for path in sorted(run.glob("cells/*/seed*.json"))]
    if not cells:
        raise FileNotFoundError(f"{run} holds no finished cell of a study; make one with `lcl continual`.")
    record = read_json(run / "config.json")
    order = {text: i for i, text in enumerate(record.get("methods", ()))}
    cells.sort(key=lambda cell: (cell.seed, order.get(cell.method, len(order))))  # differences are from the first
    return write_study(cells, run, record=record)
