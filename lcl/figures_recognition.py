"""Figures of recognition networks: accuracy against the level of every distortion, and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stimuli.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, WIDTH_IN, plain, styled

LOOKS: list[tuple[str, str, Any]] = [
    (BLUE, "o", "-"),
    (VERMILION, "s", "--"),
    (GREEN, "^", "-."),
    (ORANGE, "D", ":"),
    (PURPLE, "v", "-"),
    (SKY, "P", "--"),
    (GREY, "X", "-."),
]


@styled
def accuracy_by_level(rows: Sequence[Mapping[str, Any]], *, classes: int) -> Figure:
    """Accuracy against the level of every distortion, all front ends in each panel.

    Parameters
    ----------
    rows : sequence of mapping
        As :func:`lcl.recognition_evaluate.condition_rows` gives them.
    classes : int
        Their number; chance is drawn at its inverse.

    Returns
    -------
    Figure
        Line: mean over seeds; bar: lowest to highest seed, or the interval over images where there is one seed.

    Raises
    ------
    ValueError
        If there is no distortion.

    Examples
    --------
    >>> row = {"front_end": "lcl", "seed": 0, "distortion": "contrast", "level": "50", "accuracy": 0.5, "low": 0.4,
    ...     "high": 0.6}
    >>> accuracy_by_level([row], classes=10).axes[0].get_title()
    'contrast'
    """
    names = [name for name in dict.fromkeys(row["distortion"] for row in rows) if name != "clean"]
    if not names:
        raise ValueError(f"{len(rows)} rows name no distortion; expected at least one.")
    fronts = list(dict.fromkeys(row["front_end"] for row in rows))
    columns = min(4, len(names))
    height = 1.9 * ceil(len(names) / columns) + 0.3 + 0.2 * ceil(len(fronts) / 3)
    figure = Figure((WIDTH_IN if columns > 1 else 4.0, height))
    figure.set_layout_engine("constrained", wspace=0.03, hspace=0.05)
    panels = figure.subplots(ceil(len(names) / columns), columns, squeeze=False, sharey=True).ravel().tolist()
    for spare in panels[len(names) :]:
        spare.remove()
    for number, (axes, name) in enumerate(zip(panels, names, strict=False)):
        levels = list(dict.fromkeys(row["level"] for row in rows if row["distortion"] == name))
        places = np.arange(len(levels))
        axes.axhline(1 / classes, color=GREY, linewidth=0.8, linestyle=":")
        for k, front in enumerate(fronts):
            colour, marker, line = LOOKS[k % len(LOOKS)]
            found = [
                [r for r in rows if (r["front_end"], r["distortion"], r["level"]) == (front, name, level)]
                for level in levels
            ]
            means = np.array([np.mean([r["accuracy"] for r in each]) if each else np.nan for each in found])
            ends = [_range(each) for each in found if each]
            here = places[np.isfinite(means)] + 0.08 * (k - (len(fronts) - 1) / 2)
            axes.plot(here, means[np.isfinite(means)], color=colour, marker=marker, markersize=3.5, linestyle=line)
            axes.vlines(here, *zip(*ends, strict=True), color=colour, linewidth=1)
        axes.set_xticks(places, [plain(level) for level in levels], rotation=60 if len(levels) > 4 else 0)
        axes.set(title=plain(name), ylim=(0, 1), xlim=(-0.5, len(levels) - 0.5))
        if number % columns == 0:
            axes.set_ylabel("accuracy")
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, linestyle=line, label=plain(front))
        for front, (colour, marker, line) in zip(fronts, LOOKS * ceil(len(fronts) / len(LOOKS)), strict=False)
    ]
    handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=":", label="chance"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    return figure


def _range(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Lowest and highest seed; the interval over images of a single one."""
    if len(rows) == 1:
        return rows[0]["low"], rows[0]["high"]
    values = [row["accuracy"] for row in rows]
    return min(values), max(values)


@styled
def training(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss over steps, and accuracy on the validation images over epochs.

    Parameters
    ----------
    lines : sequence of mapping
        Lines of metrics.jsonl.

    Returns
    -------
    Figure

    Examples
    --------
    >>> lines = [{"stage": "train", "step": 0, "loss": 2.3}, {"stage": "epoch", "step": 22, "accuracy": 0.2}]
    >>> [axes.get_ylabel() for axes in training(lines).axes]
    ['loss', 'accuracy']
    """
    figure = Figure((WIDTH_IN, 2.6))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    for k, stage in enumerate(s for s in dict.fromkeys(line["stage"] for line in lines) if s != "epoch"):
        found = [line for line in lines if line["stage"] == stage]
        colour, _, style = LOOKS[k]
        steps, losses = [line["step"] for line in found], [line["loss"] for line in found]
        left.plot(steps, losses, color=colour, linestyle=style, label=plain(stage))
    left.set(xlabel="step", ylabel="loss", yscale="log")
    left.legend()
    epochs = [line for line in lines if line["stage"] == "epoch"]
    right.plot([line["step"] + 1 for line in epochs], [line["accuracy"] for line in epochs], color=BLUE, marker="o")
    right.set(xlabel="step", ylabel="accuracy", ylim=(0, 1))
    return figure
