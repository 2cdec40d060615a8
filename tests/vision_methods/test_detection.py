"""Parts of FCOS against values worked by hand, limits, and slow twins."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vision_methods.detection import (
    PRIOR_BIAS,
    best_boxes,
    box_iou,
    box_targets,
    centerness,
    decode,
    detection_loss,
    encode,
    focal_loss,
    giou,
    locations,
    nms,
)

PLACES = locations([(16, 16), (8, 8), (4, 4), (2, 2)], [8, 16, 32, 64])


def some_boxes(n, seed=0, side=128.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * side * 0.7
    return torch.cat([corner, corner + 2 + torch.rand(n, 2, generator=generator) * side * 0.8], 1)


def test_golden_values():
    assert pytest.approx(-4.595120, abs=1e-6) == PRIOR_BIAS
    assert torch.tensor(PRIOR_BIAS).sigmoid() == pytest.approx(0.01)
    first, second = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])
    assert giou(first, second) == pytest.approx(1 / 7 - 2 / 9)
    assert 1 - giou(first, second) == pytest.approx(1.079365, abs=1e-6)
    assert centerness(torch.tensor([1.0, 2, 3, 2])) == pytest.approx(0.577350, abs=1e-6)
    assert focal_loss(torch.zeros(()), torch.ones(())) == pytest.approx(0.25 * 0.25 * math.log(2))
    assert focal_loss(torch.zeros(()), torch.ones(())) == pytest.approx(0.043322, abs=1e-6)


def test_decoding_undoes_encoding_and_sides_are_positive_inside_alone():
    boxes, points = some_boxes(50), some_boxes(50, seed=1)[:, :2]
    torch.testing.assert_close(decode(points, encode(points, boxes)), boxes)
    inside = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (encode(inside, boxes) > 0).all()
    assert centerness(encode(inside, boxes)).tolist() == pytest.approx([1.0] * 50, abs=1e-4)
    assert (encode(boxes[:, :2] - 1, boxes).amin(1) < 0).all()


def test_focal_loss_without_focus_is_cross_entropy_and_stays_finite():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(20, 5, generator=generator) * 4, torch.rand(20, 5, generator=generator) < 0.3
    plain = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    torch.testing.assert_close(focal_loss(logits, targets, alpha=0.5, gamma=0.0), plain / 2)
    p = torch.where(targets, logits.double().sigmoid(), 1 - logits.double().sigmoid())
    weight = torch.where(targets, 0.25, 0.75)
    torch.testing.assert_close(
        focal_loss(logits, targets).double(), -weight * (1 - p) ** 2 * p.log(), rtol=1e-4, atol=1e-6
    )
    extreme = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    found = focal_loss(extreme, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    found.sum().backward()
    assert found.isfinite().all()
    assert extreme.grad.isfinite().all()


def test_overlaps_are_counted_pixels_and_giou_has_its_limits():
    generator = torch.Generator().manual_seed(3)
    boxes = torch.randint(0, 8, (12, 2), generator=generator).repeat(1, 2).float()
    boxes[:, 2:] += torch.randint(1, 8, (12, 2), generator=generator)
    masks = np.zeros((12, 16, 16), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    counted = np.array([[(a & b).sum() / (a | b).sum() for b in masks] for a in masks])
    np.testing.assert_allclose(box_iou(boxes, boxes), counted, atol=1e-6)
    losses = 1 - giou(boxes[:, None], boxes[None])
    assert losses.diagonal().abs().max() < 1e-6
    assert losses.min() >= -1e-6
    assert losses.max() <= 2
    far = 1 - giou(torch.tensor([0.0, 0, 1, 1]), torch.tensor([999.0, 999, 1000, 1000]))
    assert 1.99 < far < 2
    flat = torch.zeros(4, requires_grad=True)
    giou(flat, flat.detach()).backward()
    assert flat.grad.isfinite().all()
    assert box_iou(flat.detach()[None], flat.detach()[None]) == 0


def test_every_positive_location_has_one_box_of_its_level_and_the_smallest():
    boxes = some_boxes(12)
    chosen = box_targets(PLACES, boxes)
    assert (chosen >= 0).sum() > 20
    centres, areas = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for place, point in enumerate(PLACES.points):
        stride, (low, high) = PLACES.strides[place], PLACES.ranges[place].tolist()
        fitting = []
        for number, box in enumerate(boxes):
            sides = [point[0] - box[0], point[1] - box[1], box[2] - point[0], box[3] - point[1]]
            close = max(abs(point[0] - centres[number, 0]), abs(point[1] - centres[number, 1])) <= 1.5 * stride
            if min(sides) > 0 and low < max(sides) <= high and close:
                fitting.append((float(areas[number]), number))
        assert chosen[place] == (min(fitting)[1] if fitting else -1)
    assert PLACES.ranges.unique(dim=0).tolist() == [[0, 64], [64, 128], [128, 256], [256, math.inf]]
    assert (box_targets(PLACES, boxes[:0]) == -1).all()


def outputs(seed=0, classes=3, pictures=2):
    generator = torch.Generator().manual_seed(seed)
    count = len(PLACES.points)
    logits = torch.randn(pictures, count, classes, generator=generator)
    distances = torch.rand(pictures, count, 4, generator=generator) * 40 + 1
    return logits.requires_grad_(), distances.requires_grad_(), torch.randn(pictures, count, generator=generator)


def test_the_loss_is_that_of_locations_one_by_one():
    logits, distances, centring = outputs()
    boxes, labels = [some_boxes(4), some_boxes(2, seed=5)], [torch.tensor([0, 1, 1, 2]), torch.tensor([2, 0])]
    found = detection_loss(PLACES, logits, distances, centring, boxes, labels)
    sums = dict.fromkeys(("classes", "boxes", "centres", "positives", "weight"), 0.0)
    for picture in range(2):
        for place, number in enumerate(box_targets(PLACES, boxes[picture]).tolist()):
            target = torch.zeros(3)
            if number >= 0:
                target[labels[picture][number]] = 1
                truth = boxes[picture][number]
                centred = centerness(encode(PLACES.points[place], truth))
                said = decode(PLACES.points[place], distances[picture, place])
                sums["boxes"] += (1 - giou(said, truth)) * centred
                sums["centres"] += F.binary_cross_entropy_with_logits(centring[picture, place], centred)
                sums["positives"] += 1
                sums["weight"] += centred
            sums["classes"] += focal_loss(logits[picture, place], target).sum()
    for name, value in sums.items():
        assert float(getattr(found, name).detach()) == pytest.approx(float(torch.as_tensor(value).detach()), rel=1e-4)


def test_pictures_without_boxes_have_a_finite_loss():
    logits, distances, centring = outputs()
    nothing = [torch.zeros(0, 4)] * 2
    found = detection_loss(PLACES, logits, distances, centring, nothing, [torch.zeros(0, dtype=torch.int64)] * 2)
    (found.classes + found.boxes + found.centres).backward()
    assert found.positives == 0
    assert found.boxes == 0
    assert found.classes.isfinite()
    assert logits.grad.isfinite().all()


def test_classes_that_are_not_annotated_have_no_loss_and_no_gradient():
    boxes, labels = [some_boxes(3), some_boxes(1, seed=5)], [torch.tensor([0, 0, 1]), torch.tensor([2])]
    known = torch.tensor([[True, True, False], [False, False, True]])
    logits, distances, centring = outputs()
    found = detection_loss(PLACES, logits, distances, centring, boxes, labels, known=known)
    found.classes.backward()
    assert (logits.grad[~known[:, None].expand_as(logits)] == 0).all()
    assert (logits.grad[known[:, None].expand_as(logits)] != 0).all()
    moved = logits.detach() + 5 * ~known[:, None]
    again = detection_loss(PLACES, moved, distances, centring, boxes, labels, known=known)
    assert again.classes == found.classes
    with pytest.raises(ValueError, match="not annotated"):
        detection_loss(PLACES, moved, distances, centring, boxes, [torch.tensor([0, 2, 1]), labels[1]], known=known)


def slow_nms(boxes, scores, labels, overlap):
    left, kept = sorted(range(len(scores)), key=lambda i: -scores[i]), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if labels[i] != labels[best] or float(box_iou(boxes[[i]], boxes[[best]])) <= overlap]
    return kept


@pytest.mark.parametrize("overlap", [0.3, 0.6])
def test_suppression_is_the_greedy_one(overlap):
    boxes, generator = some_boxes(80), torch.Generator().manual_seed(2)
    scores, labels = torch.rand(80, generator=generator), torch.randint(0, 3, (80,), generator=generator)
    kept = nms(boxes, scores, labels, overlap=overlap)
    assert kept.tolist() == slow_nms(boxes, scores.tolist(), labels.tolist(), overlap)
    assert len(kept) < 80
    assert nms(boxes, scores, overlap=overlap).tolist() == slow_nms(boxes, scores.tolist(), [0] * 80, overlap)
    assert len(nms(boxes[:0], scores[:0])) == 0


def test_boxes_of_a_picture_lie_in_it_and_no_class_moves_those_of_another():
    logits, distances, centring = (each.detach() for each in outputs())
    found = best_boxes(PLACES, logits[0], distances[0], centring[0], (100, 90), least_score=0.3)
    assert len(found.scores) > 3
    assert (found.scores.diff() <= 0).all()
    assert found.scores.min() >= 0.3
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 0::2] <= 90).all()
    assert (found.boxes[:, 1::2] <= 100).all()
    fewer, more = (
        best_boxes(
            PLACES,
            each,
            distances[0],
            centring[0],
            (100, 90),
            least_score=0.3,
            candidates=each.numel(),
            most=each.numel(),
        )
        for each in (logits[0, :, :2], logits[0])
    )
    kept = more.labels < 2
    assert torch.equal(more.boxes[kept], fewer.boxes)
    torch.testing.assert_close(more.scores[kept], fewer.scores)
    assert len(best_boxes(PLACES, logits[0], distances[0], centring[0], (100, 90), most=5).boxes) == 5
