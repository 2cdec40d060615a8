"""Average precision against a slow twin, and what LVIS's annotations say is not known."""

import dataclasses

import numpy as np
import pytest
import torch

from vision_methods.boxed_pictures import boxed
from vision_methods.detection import Detections, box_iou
from vision_methods.detection_scores import average_precision, class_precision

CLASSES = ("red circle", "red ring", "cyan circle", "cyan ring")


def truth_and_found(seed=0, pictures=12, jitter=6.0):
    """Boxes, and detections of them that are moved, missed, of another class, or of nothing."""
    rng = np.random.default_rng(seed)
    boxes, labels, found = [], [], []
    for _ in range(pictures):
        count = int(rng.integers(0, 5))
        corner = rng.uniform(0, 60, (count, 2))
        here = np.concatenate([corner, corner + rng.uniform(10, 36, (count, 2))], 1).round()
        kinds = rng.integers(0, 3, count)  # the last class has no box
        boxes.append(here)
        labels.append(kinds)
        kept = rng.random(count) < 0.8
        said = here[kept] + rng.normal(0, jitter, (int(kept.sum()), 4))
        said[:, 2:] = np.maximum(said[:, 2:], said[:, :2] + 1)
        said = np.concatenate([said, [[5, 5, 20, 20]]])
        others = np.append(np.where(rng.random(kept.sum()) < 0.2, 3, kinds[kept]), rng.integers(0, 4))
        found.append(
            Detections(torch.tensor(said), torch.tensor(rng.permutation(len(said)) / 10 + 0.1), torch.tensor(others))
        )
    return boxed(np.zeros((pictures, 96, 96, 3), np.uint8), boxes, labels, CLASSES), found


def slow_precision(truth, found, label, overlap):
    """Precision at 101 recalls of one class, averaged, box by box."""
    said = sorted(
        (
            (-float(each.scores[row]), picture, row)
            for picture, each in enumerate(found)
            for row in range(len(each.scores))
            if each.labels[row] == label
        ),
    )
    total = sum(int((labels == label).sum()) for labels in truth.labels)
    taken, right = set(), []
    for _, picture, row in said:
        best, match = overlap, None
        for number in np.flatnonzero(truth.labels[picture] == label).tolist():
            box = torch.from_numpy(truth.boxes[picture][[number]]).double()
            shared = float(box_iou(found[picture].boxes[[row]].double(), box))
            if (picture, number) not in taken and shared >= best:
                best, match = shared, number
        if match is not None:
            taken.add((picture, match))
        right.append(match is not None)
    right = np.array(right, dtype=bool)
    recall, precision = right.cumsum() / total, right.cumsum() / np.arange(1, len(right) + 1)
    reached = [precision[recall >= level - 1e-12] for level in np.linspace(0, 1, 101)]
    return float(np.mean([each.max() if len(each) else 0.0 for each in reached]))


def test_average_precision_is_that_of_a_slow_twin():
    truth, found = truth_and_found()
    by_class, by_class50 = class_precision(truth, found)
    overlaps = np.arange(0.5, 0.96, 0.05)
    expected = [[slow_precision(truth, found, label, overlap) for overlap in overlaps] for label in range(3)]
    np.testing.assert_allclose(by_class[:3], np.mean(expected, 1), atol=1e-6)
    np.testing.assert_allclose(by_class50[:3], np.array(expected)[:, 0], atol=1e-6)
    assert np.isnan(by_class[3])
    assert 0.05 < np.nanmean(by_class) < np.nanmean(by_class50) < 0.95
    groups = {"base": np.array([True, True, False, False]), "novel": np.array([False, False, True, True])}
    scores = average_precision(truth, found, groups)
    assert scores["ap_base"] == pytest.approx(by_class[:2].mean())
    assert scores["ap_novel"] == pytest.approx(by_class[2])
    assert scores["ap"] == pytest.approx(np.nanmean(by_class))
    assert scores["ap50_base"] == pytest.approx(by_class50[:2].mean())


def test_true_boxes_are_perfect_and_none_are_nothing():
    truth, _ = truth_and_found()
    right = [
        Detections(torch.from_numpy(boxes), torch.ones(len(boxes)), torch.from_numpy(labels))
        for boxes, labels in zip(truth.boxes, truth.labels, strict=True)
    ]
    assert average_precision(truth, right)["ap"] == pytest.approx(1)
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert average_precision(truth, [none] * len(truth)) == {"ap": 0.0, "ap50": 0.0}
    with pytest.raises(ValueError, match="of 1 pictures, but 12"):
        average_precision(truth, [none])


def test_the_best_detections_of_a_picture_count_and_no_more():
    truth = boxed(np.zeros((1, 96, 96, 3), np.uint8), [[[0, 0, 20, 20]]], [[0]], CLASSES)
    spread = torch.tensor([[40.0, 40, 50, 50]]).repeat(5, 1) + torch.arange(5.0)[:, None]
    found = Detections(
        torch.cat([spread, torch.tensor([[0.0, 0, 20, 20]])]),
        torch.linspace(0.9, 0.4, 6),
        torch.zeros(6, dtype=torch.int64),
    )
    assert average_precision(truth, [found])["ap50"] == pytest.approx(1 / 6)
    assert average_precision(truth, [found], most=5)["ap50"] == 0


def test_classes_that_a_picture_is_not_annotated_for_do_not_count():
    truth = boxed(np.zeros((2, 96, 96, 3), np.uint8), [[[0, 0, 20, 20]], []], [[0], []], CLASSES)
    box, wrong = torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([[50.0, 50, 70, 70]])
    label = torch.zeros(1, dtype=torch.int64)
    found = [
        Detections(torch.cat([box, wrong]), torch.tensor([0.5, 0.8]), label.repeat(2)),
        Detections(wrong, torch.tensor([0.9]), label),
    ]
    assert average_precision(truth, found)["ap50"] == pytest.approx(1 / 3)
    known = np.ones_like(truth.known)
    known[1, 0] = False
    unknown = dataclasses.replace(truth, known=known)
    assert average_precision(unknown, found)["ap50"] == pytest.approx(1 / 2)
    complete = known.copy()
    complete[0, 0] = False
    partial = dataclasses.replace(unknown, complete=complete)
    assert average_precision(partial, found)["ap50"] == pytest.approx(1)


def test_boxes_around_many_are_no_mistake_to_find():
    truth = boxed(np.zeros((1, 96, 96, 3), np.uint8), [[[0, 0, 20, 20], [40, 40, 90, 90]]], [[0, 0]], CLASSES)
    truth = dataclasses.replace(truth, crowd=(np.array([False, True]),))
    boxes = torch.tensor([[0.0, 0, 20, 20], [45.0, 45, 60, 60], [70.0, 70, 80, 80]])
    found = Detections(boxes, torch.tensor([0.5, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64))
    assert average_precision(truth, [found])["ap50"] == pytest.approx(1)
