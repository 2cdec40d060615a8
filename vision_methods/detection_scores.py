"""Average precision of detections, apart for classes that were trained on and classes that were not.

The protocol is that of LVIS's boxes: 300 detections a picture, overlaps 0.5 to 0.95, the mean over classes. Of a class
that a picture is not annotated for, detections in it do not count; of one whose things there do not all have a box,
detections that match none do not count either. Counting is done by ``pycocotools``. Source: Gupta et al. 2019 (LVIS).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vision_methods.boxed_pictures import BoxedPictures
from vision_methods.detection import Detections

#: Detections of a picture that count.
MOST = 300


def average_precision(
    truth: BoxedPictures,
    found: Sequence[Detections],
    groups: Mapping[str, np.ndarray] | None = None,
    *,
    most: int = MOST,
) -> dict[str, float]:
    """Average precision over all classes and over groups of classes.

    Parameters
    ----------
    truth : BoxedPictures
    found : sequence of Detections
        Of every picture, in its pixels; labels are numbers of ``truth.classes``.
    groups : mapping of str to ndarray of bool, (class,), optional
        Such as ``base`` and ``novel``.
    most : int
        At most so many detections of a picture count, the best.

    Returns
    -------
    dict of str to float
        ``ap``, the mean over overlaps, and ``ap50``, at an overlap of 0.5; for each group ``ap_GROUP`` and
        ``ap50_GROUP``. The mean of classes that have a box; NaN if none has.

    Raises
    ------
    ModuleNotFoundError
        Without pycocotools.
    ValueError
        If there are detections of another number of pictures.

    Examples
    --------
    >>> import torch
    >>> from vision_methods.boxed_pictures import boxed
    >>> truth = boxed(np.zeros((1, 9, 9, 3), np.uint8), [[[0, 0, 4, 4]]], [[0]], ("ring",))
    >>> right = Detections(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([0.9]), torch.tensor([0]))
    >>> round(average_precision(truth, [right])["ap"], 6)
    1.0
    """
    by_class, by_class50 = class_precision(truth, found, most=most)
    scores = {"ap": _mean(by_class), "ap50": _mean(by_class50)}
    for name, chosen in (groups or {}).items():
        scores |= {f"ap_{name}": _mean(by_class[chosen]), f"ap50_{name}": _mean(by_class50[chosen])}
    return scores


def class_precision(
    truth: BoxedPictures, found: Sequence[Detections], *, most: int = MOST
) -> tuple[np.ndarray, np.ndarray]:
    """Average precision of every class: the mean over overlaps, and at an overlap of 0.5.

    Parameters
    ----------
    truth, found, most
        As of :func:`average_precision`.

    Returns
    -------
    ndarray, (class,)
    ndarray, (class,)
        NaN of classes without a box.

    Raises
    ------
    ModuleNotFoundError, ValueError
        As :func:`average_precision`.
    """
    if len(found) != len(truth):
        raise ValueError(f"There are detections of {len(found)} pictures, but {len(truth)} pictures.")
    try:
        coco: Any = importlib.import_module("pycocotools.coco")
        cocoeval: Any = importlib.import_module("pycocotools.cocoeval")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('average precision needs pycocotools: pip install "lcl[coco]".') from error
    results = []
    for picture, each in enumerate(found):
        order = each.scores.argsort(descending=True, stable=True)[:most].tolist()
        boxes, scores, labels = (part.detach().cpu().double().numpy() for part in each)
        for row in order:
            label = int(labels[row])
            if not truth.known[picture, label]:
                continue
            x1, y1, x2, y2 = boxes[row].tolist()
            sides = [x1, y1, x2 - x1, y2 - y1]
            results.append(
                {"image_id": picture + 1, "category_id": label + 1, "bbox": sides, "score": float(scores[row])}
            )
    nothing = np.full(len(truth.classes), np.nan)
    for labels, crowd in zip(truth.labels, truth.crowd, strict=True):
        nothing[labels[~crowd]] = 0.0
    if not results:
        return nothing, nothing.copy()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # pycocotools hands its memory to NumPy in the way of NumPy 1
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        annotated = coco.COCO()
        annotated.dataset = truth.as_coco()
        annotated.createIndex()
        evaluation = cocoeval.COCOeval(annotated, _results(coco, annotated, results), "bbox")
        evaluation.params.maxDets = [most]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.evaluate()
        for each in evaluation.evalImgs:
            if each is not None and not truth.complete[each["image_id"] - 1, each["category_id"] - 1]:
                each["dtIgnore"] = np.logical_or(each["dtIgnore"], np.asarray(each["dtMatches"]) == 0)
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # (overlap, recall, class, area, most)
    present = (precision > -1).all((0, 1))
    return tuple(  # pyright: ignore[reportReturnType]
        np.where(present, part.mean((0, 1)), np.nan) for part in (precision, precision[:1])
    )


def _results(coco: Any, annotated: Any, results: list[dict[str, Any]]) -> Any:
    """Detections as pycocotools wants them; its own way from a list reads files as well."""
    made = coco.COCO()
    numbered = [
        {**each, "id": number, "area": each["bbox"][2] * each["bbox"][3], "iscrowd": 0}
        for number, each in enumerate(results, 1)
    ]
    made.dataset = {**annotated.dataset, "annotations": numbered}
    made.createIndex()
    return made


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
