"""Tables, figures and the page of dense retrieval: what ``lcl retrieve`` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lcl.align import save, write_csv
from lcl.report import name_table, paragraph, section
from neural_fits.figures import COLOURS, folded
from neural_fits.vision_model import VisionModel
from stimuli.drawing import GREY, WIDTH_IN, plain, styled
from stimuli.files import replacing
from vision_methods.dense_memory import Retrieval
from vision_methods.dense_retrieval import SIDE, Labelled, Retrieved, evaluate, patch_ceiling
from vision_methods.probe_report import CLASS_COLOURS, GROUND, OTHERS, VOIDS
from vision_methods.probes import interval_of_sums
from vision_methods.segments import VOID, class_iou, mean_iou

#: Queries that are shown, those whose annotated share of the area is nearest to this, and models at most.
N_EXAMPLES, EXAMPLE_AREA, N_SHOWN = 5, 1 / 3, 5


def retrieve_models(
    models: Mapping[str, VisionModel],
    layers: Mapping[str, Sequence[str]],
    prompts: Labelled,
    queries: Labelled,
    *,
    classes: Sequence[str],
    retrieval: Retrieval,
    search: str = "exact",
    side: int = SIDE,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = False,
    say: Any = None,
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[tuple[str, str], dict[int, np.ndarray]]]:
    """Mean IoU of the predicted classes of queries, for layers of models.

    The mean is over the classes that some query has, the background included; classes are compared as they are, without
    matching; void pixels count nowhere. Intervals are of other queries of the kind, with the same prompts.

    Parameters
    ----------
    models : mapping of str to VisionModel
    layers : mapping of str to sequence of str
        Of each model.
    prompts, queries : sequence of (picture, classes)
    classes : sequence of str
        Names; the first is the background.
    retrieval : Retrieval
    search, side, seed, batch_size, progress
        As in :func:`vision_methods.dense_retrieval.evaluate`.
    n_resamples, confidence
        Of the bootstrap over queries.
    say : callable, optional
        Takes a line for each layer.

    Returns
    -------
    rows : list of dict
        ``model``, ``layer``, ``mean_iou`` with ``_low`` and ``_high``; ``ceiling``: of patches that had their own
        labels; the grid, channels, entries and patches of the memory.
    record : dict
        What all rows share, ``reference`` among it: the background at every pixel.
    examples : dict
        Predictions of :data:`N_EXAMPLES` queries, by model and layer, by query.
    """
    truths = [queries[i][1] for i in range(len(queries))]
    away = [abs(float((truth > 0).mean()) - EXAMPLE_AREA) for truth in truths]
    examples = sorted(np.argsort(away, kind="stable")[:N_EXAMPLES].tolist())
    counts = np.bincount(np.concatenate([t[t != VOID] for t in truths]), minlength=len(classes))
    present = [k for k in range(len(classes)) if counts[k]]
    ceilings: dict[tuple[int, int], float] = {}
    rows, kept = [], {}
    total = np.zeros((len(classes), len(classes)))
    for name, model in models.items():
        found = evaluate(
            model,
            layers[name],
            prompts,
            queries,
            n_classes=len(classes),
            retrieval=retrieval,
            search=search,
            side=side,
            seed=seed,
            batch_size=batch_size,
            examples=examples,
            progress=progress,
        )
        for layer, each in found.items():
            rows.append(_row(name, layer, model, each, present, n_resamples, confidence, seed))
            if each.grid not in ceilings:
                own = patch_ceiling(queries, each.grid, n_classes=len(classes))
                ceilings[each.grid] = float(mean_iou(own.sum(0), present))
            rows[-1]["ceiling"] = ceilings[each.grid]
            kept[name, layer], total = each.examples, each.sums.sum(0)
            if say:
                row = rows[-1]
                say(
                    f"{name} {layer}: mean IoU {row['mean_iou']:.3f} [{row['mean_iou_low']:.3f}, "
                    f"{row['mean_iou_high']:.3f}]  {row['entries']} entries, {row['rows']} x {row['columns']} patches"
                )
    background = np.zeros_like(total)
    background[:, 0] = total.sum(1)
    record = {
        "prompts": len(prompts),
        "queries": len(queries),
        "neighbours": retrieval.neighbours,
        "temperature": retrieval.temperature,
        "augmentations": retrieval.augmentations,
        "capacity": retrieval.capacity,
        "search": search,
        "stored as": "float16",
        "at most so many patches on a side": side,
        "resolution": "classes decided on and judged at that of the photographs",
        "classes": list(classes),
        "classes that count": [classes[k] for k in present],
        "reference": float(mean_iou(background, present)),
        "confidence": confidence,
        "n_resamples": n_resamples,
        "seed": seed,
    }
    return rows, record, kept


def _row(
    name: str,
    layer: str,
    model: VisionModel,
    found: Retrieved,
    present: Sequence[int],
    n_resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    low, high = interval_of_sums(
        found.sums, lambda sums: mean_iou(sums, present), n_resamples=n_resamples, confidence=confidence, seed=seed
    )
    total = found.sums.sum(0)
    return {
        "model": name,
        "layer": layer,
        "mean_iou": float(mean_iou(total, present)),
        "mean_iou_low": low,
        "mean_iou_high": high,
        "rows": found.grid[0],
        "columns": found.grid[1],
        "channels": found.channels,
        "entries": found.entries,
        "patches_per_view": found.patches_per_view,
        "input_px": model.input_px,
        "class_iou": json.dumps([None if math.isnan(value) else round(value, 6) for value in class_iou(total)]),
    }


@styled
def retrieval_dots(rows: Sequence[Mapping[str, Any]], reference: float, *, confidence: float) -> Figure:
    """Mean IoU of every layer with its interval.

    Parameters
    ----------
    rows : sequence of mapping
        From :func:`retrieve_models`.
    reference : float
        Of the background at every pixel.
    confidence : float
        Of the intervals.

    Returns
    -------
    Figure
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    names = [folded(f"{row['model']}  {row['layer']}", 30) for row in rows]
    figure = Figure((WIDTH_IN, 1.3 + 0.28 * len(names)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        colour = COLOURS[models.index(row["model"]) % len(COLOURS)]
        axes.plot([row["mean_iou_low"], row["mean_iou_high"]], [y, y], color=colour, linewidth=1.4)
        axes.plot(row["mean_iou"], y, "o", color=colour, markersize=5)
    axes.axvline(reference, color=GREY, linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), ylabel="model and layer")
    axes.set_xlim(left=0)
    axes.set_xlabel("mean IoU of the classes of pixels (1: as annotated)")
    axes.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.6)
    handles = [
        Line2D([], [], color="black", marker="o", markersize=5, label=f"{100 * confidence:g} % interval over pictures"),
        Line2D([], [], color=GREY, linestyle=":", linewidth=1.2, label="background at every pixel"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@styled
def prediction_panels(
    queries: Labelled, predicted: Mapping[str, Mapping[int, np.ndarray]], classes: Sequence[str]
) -> Figure:
    """Photographs, their annotated classes, and those that are predicted.

    Parameters
    ----------
    queries : sequence of (picture, classes)
    predicted : mapping of str to mapping of int to array of int, (row, column)
        By title, and by number of the query; the same queries in each.
    classes : sequence of str

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If nothing is predicted.
    """
    if not predicted or not all(predicted.values()):
        raise ValueError("There are no predictions to show.")
    shown = list(next(iter(predicted.values())))
    maps = [queries[i][1] for i in shown] + [maps[i] for maps in predicted.values() for i in shown]
    values, area = np.unique(np.concatenate([each.ravel() for each in maps]), return_counts=True)
    ranked = [int(k) for k in values[np.argsort(-area)] if k not in (0, VOID)]
    colour_of = {k: CLASS_COLOURS[i] if i < len(CLASS_COLOURS) else OTHERS for i, k in enumerate(ranked)}
    colour_of |= {0: GROUND, VOID: VOIDS}
    codes = sorted(colour_of)
    colours = ListedColormap([colour_of[k] for k in codes])
    columns = 2 + len(predicted)
    shape = float(np.mean([queries[i][1].shape[0] / queries[i][1].shape[1] for i in shown]))
    figure = Figure((WIDTH_IN, 1.2 + len(shown) * (WIDTH_IN / columns * shape + 0.05)), layout="constrained")
    panels = figure.subplots(len(shown), columns, squeeze=False)
    for row, i in zip(panels, shown, strict=True):
        picture, truth = queries[i]
        row[0].imshow(picture)
        for axes, labels in zip(row[1:], [truth, *(maps[i] for maps in predicted.values())], strict=True):
            coded = np.searchsorted(codes, labels)
            axes.imshow(coded, cmap=colours, vmin=-0.5, vmax=len(codes) - 0.5, interpolation="nearest")
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    for axes, title in zip(panels[0], ("photograph", "annotated", *predicted), strict=True):
        axes.set_title(folded(title, 18))
    handles = [Patch(color=colour_of[k], label=plain(classes[k])) for k in [0, *ranked[: len(CLASS_COLOURS)]]]
    if len(ranked) > len(CLASS_COLOURS):
        handles.append(Patch(color=OTHERS, label="other classes"))
    handles.append(Patch(color=VOIDS, label="void"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6)
    return figure


def score_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """HTML table of :func:`retrieve_models`: a row for each layer.

    Parameters
    ----------
    rows : sequence of mapping

    Returns
    -------
    str
    """
    body = "".join(
        f'<tr><th scope="row">{escape(row["model"])} {escape(row["layer"])}</th>'
        f"<td>{row['mean_iou']:.3f}<small>{row['mean_iou_low']:.3f} to {row['mean_iou_high']:.3f}</small></td>"
        f"<td>{row['ceiling']:.3f}</td><td>{row['rows']} × {row['columns']}</td><td>{row['channels']}</td>"
        f"<td>{row['entries']:,}<small>{row['patches_per_view']} of a view</small></td><td>{row['input_px']}</td></tr>"
        for row in rows
    )
    names = (
        "model and layer",
        "mean IoU",
        "patches with their own labels",
        "patches",
        "channels",
        "entries",
        "input, px",
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="scores"><table class="numbers"><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def write_retrieval(
    rows: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    examples: Mapping[tuple[str, str], Mapping[int, np.ndarray]],
    queries: Labelled,
    out: Path,
    *,
    command: str,
) -> list[str]:
    """Write table (CSV, JSON) and figures, and a section of a page.

    Parameters
    ----------
    rows, record, examples
        From :func:`retrieve_models`.
    queries : sequence of (picture, classes)
    out : Path
        Folder, made where missing.
    command : str
        How the table was made, for the record.

    Returns
    -------
    list of str
        HTML.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, out / "retrieval.csv")
    with replacing(out / "retrieval.json") as partial:
        partial.write_text(json.dumps({**record, "command": command, "rows": list(rows)}, indent=1), encoding="utf-8")
    caption = (
        f"Classes of the pixels of {record['queries']} photographs, read from the most similar patches of "
        f"{record['prompts']} annotated ones: no training. Bars: bootstrap over the queries, prompts as they are."
    )
    content = save(
        retrieval_dots(rows, record["reference"], confidence=record["confidence"]), out / "retrieval.png", caption
    )
    best = {}
    for row in rows:
        if row["model"] not in best or row["mean_iou"] > best[row["model"]]["mean_iou"]:
            best[row["model"]] = row
    chosen = sorted(best.values(), key=lambda row: -row["mean_iou"])[:N_SHOWN]
    predicted = {f"{row['model']} {row['layer']}": examples[row["model"], row["layer"]] for row in chosen}
    caption = (
        "Queries a third of whose area is annotated, and the classes predicted by the best layer of each model. The "
        "photographs are the user's: see their licences before passing this page on."
    )
    content += save(prediction_panels(queries, predicted, record["classes"]), out / "predictions.png", caption)
    content += paragraph(
        "Hummingbird's decoder. Its published settings (30 neighbours, temperature 0.02, and 90, 0.1 for few pictures) "
        "are different evaluations: compare numbers of the same setting, pictures and resolution alone."
    )
    content += score_table(rows) + name_table({**record, "command": command})
    return [section("Dense retrieval", content)]
