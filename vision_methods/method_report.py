"""The report of a comparison method's run: figures and one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lcl.checkpoint import read_json
from lcl.report import name_table, page, picture, section
from stimuli.drawing import BLUE, GREY, VERMILION, WIDTH_IN, plain, png, styled
from stimuli.files import replacing
from vision_methods.method_run import read_method_config

#: Numbers of a line of metrics that have a place of their own in the figures.
OWN = ("stage", "step", "position", "epoch", "loss", "collapsed", "learning_rate", "neighbour_accuracy")


def metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; a last one that was cut off is left out.

    Parameters
    ----------
    run : Path

    Returns
    -------
    list of dict

    Raises
    ------
    ValueError
        If a line is not JSON.
    """
    file = run / "metrics.jsonl"
    texts = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    try:
        return [json.loads(text) for text in texts if text.endswith("\n")]
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} has a line that is not JSON ({error}); restore it or train again.") from None


@styled
def training(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, learning rate and other numbers over steps, and the accuracy of nearest neighbours over epochs.

    Parameters
    ----------
    lines : sequence of mapping
        Lines of metrics.jsonl.

    Returns
    -------
    Figure
        The loss has a dotted line at its first value, or, where lines tell it, at that of equal latents.

    Examples
    --------
    >>> lines = [{"stage": "epoch", "epoch": 0, "neighbour_accuracy": 0.2},
    ...     {"stage": "detcon", "step": 0, "loss": 9.0, "learning_rate": 0.0, "spread": 0.9}]
    >>> [axes.get_ylabel() for axes in training(lines).axes]
    ['loss', 'learning rate', 'neighbour accuracy', 'spread']
    """
    steps = [line for line in lines if line["stage"] != "epoch"]
    epochs = [line for line in lines if line["stage"] == "epoch" and "neighbour_accuracy" in line]
    others = [name for name in (steps[0] if steps else {}) if name not in OWN]
    names = ["loss", "learning_rate", *(["neighbour_accuracy"] if epochs else []), *others]
    rows = -(-len(names) // 3)
    figure = Figure((WIDTH_IN, 2.3 * rows))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(rows, 3, squeeze=False).ravel().tolist()
    for spare in panels[len(names) :]:
        spare.remove()
    for name, axes in zip(names, panels, strict=False):
        if name == "neighbour_accuracy":
            axes.plot([e["epoch"] for e in epochs], [e[name] for e in epochs], color=BLUE, marker="o", markersize=3)
            axes.set(xlabel="epoch", ylim=(0, None))
            axes.axhline(epochs[0][name], color=GREY, linewidth=0.8, linestyle=":")
        else:
            axes.plot([s["step"] for s in steps], [s[name] for s in steps], color=BLUE, linewidth=1)
            axes.set(xlabel="step")
        axes.set(ylabel=plain(name.replace("_", " ")))
        if name == "loss":
            start = [s.get("collapsed", steps[0]["loss"]) for s in steps]
            axes.plot([s["step"] for s in steps], start, color=VERMILION, linewidth=0.8, linestyle=":")
    return figure


def write_method_report(run: Path | str) -> Path:
    """Draw the figures of a method's run and write its report, from what its folder holds.

    Parameters
    ----------
    run : path
        Made by ``lcl train-method``.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder is no such run, or a file is damaged.
    """
    run = Path(run)
    name, config, everything = read_method_config(run)
    summary = read_json(run / "summary.json") if (run / "summary.json").is_file() else {}
    lines = metrics(run)
    (run / "figures").mkdir(exist_ok=True)
    lead = [f"{everything['about']}. Backbone {config.backbone}, seed {config.seed}."]
    if not summary:
        lead.append("Training has not finished.")
    judged = [line for line in lines if "neighbour_accuracy" in line]
    if judged:
        lead.append(
            f"Accuracy of the nearest neighbours of pictures with labels, by the mean response of layer "
            f"{everything['model']['layer']}: {judged[0]['neighbour_accuracy']:.3f} untrained, "
            f"{judged[-1]['neighbour_accuracy']:.3f} after epoch {judged[-1]['epoch']}."
        )
    own = [line for line in lines if line["stage"] == "epoch" and "accuracy" in line]
    if own:
        lead.append(
            f"Accuracy on what was not trained on: {own[0]['accuracy']:.3f} untrained, {own[-1]['accuracy']:.3f} after "
            f"epoch {own[-1]['epoch']}; {own[-1]['chance']:.3g} by chance."
        )
    sections = []
    if any(line["stage"] != "epoch" for line in lines):
        figure = training(lines)
        data = png(figure)
        with replacing(run / "figures" / "training.png") as partial:
            partial.write_bytes(data)
        caption = (
            "Loss of the training batches, beside what it would be if all latents were equal (dotted; its first value "
            "where that is not known); learning rate; accuracy of the nearest neighbours (dotted: of the untrained "
            "network with the batch-norm statistics of the pictures); and the numbers that the method logs."
        )
        drawn = picture(data, caption=caption, alt=caption, width_in=float(figure.get_figwidth()))
        sections.append(section("Training", drawn))
    sections += [file.read_text(encoding="utf-8") for file in sorted((run / "sections").glob("*.html"))]
    if summary:
        sections.append(section("Run", name_table({k: v for k, v in summary.items() if k != "format"})))
    rest = {key: value for key, value in everything.items() if summary.get(key) != value}
    sections.append(section("Configuration", name_table(rest)))
    with replacing(run / "report.html") as partial:
        text = page(f"{name} {run.resolve().name}", lead, sections)
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return run / "report.html"
