"""Boxes that a detector found, drawn on their picture and written as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from stimuli.drawing import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, plain, styled
from vision_methods.detection import Detections

COLOURS = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY)
#: Longest side of a figure.
SIDE_IN = 6.0


@styled
def draw_boxes(picture: np.ndarray, found: Detections, names: Sequence[str]) -> Figure:
    """Picture with its boxes, each with its name and score; the best are drawn last.

    Parameters
    ----------
    picture : ndarray of uint8, (height, width, 3)
    found : Detections
        In pixels of the picture.
    names : sequence of str
        That labels are numbers of.

    Returns
    -------
    Figure

    Examples
    --------
    >>> import torch
    >>> found = Detections(torch.tensor([[1.0, 1.0, 5.0, 5.0]]), torch.tensor([0.8]), torch.tensor([1]))
    >>> figure = draw_boxes(np.zeros((9, 9, 3), np.uint8), found, ["cat", "dog"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['dog 0.80']
    """
    height, width = picture.shape[:2]
    scale = SIDE_IN / max(height, width)
    figure = Figure((max(width * scale, 1.0), max(height * scale, 1.0)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(picture, interpolation="nearest", extent=(0, width, height, 0))
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    for (x1, y1, x2, y2), score, label in reversed(list(rows)):
        colour = COLOURS[label % len(COLOURS)]
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=2))
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
        said = plain(f"{names[label]} {score:.2f}")
        axes.text(x1, y1, said, color="white", fontsize=8, va="bottom", bbox=box, clip_on=True)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure


def as_rows(found: Detections, names: Sequence[str]) -> list[dict[str, Any]]:
    """Detections as plain values: ``name``, ``score``, ``box`` (x1, y1, x2, y2, px), the best first.

    Examples
    --------
    >>> import torch
    >>> found = Detections(torch.tensor([[1.0, 1.0, 5.0, 5.0]]), torch.tensor([0.5]), torch.tensor([0]))
    >>> as_rows(found, ["cat"])
    [{'name': 'cat', 'score': 0.5, 'box': [1.0, 1.0, 5.0, 5.0]}]
    """
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return [
        {"name": names[label], "score": round(score, 4), "box": [round(side, 2) for side in box]}
        for box, score, label in rows
    ]
