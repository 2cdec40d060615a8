"""Detection by locations: what every place of a pyramid has to say, what it costs, and the boxes that come of it.

A location is the centre of a place of a map of some stride. It says the distances to the four sides of a box (left,
top, right, bottom), how well it is centred in it, and a logit for every class. Boxes are (x1, y1, x2, y2) in pixels,
whose edges are at whole numbers. Source: Tian et al. 2019 (FCOS), whose radius, ranges of sizes and losses these are;
Lin et al. 2017 (focal loss); Rezatofighi et al. 2019 (generalised IoU).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: A level of stride r is responsible for boxes whose farthest side is at most so many r away: 64 px of stride 8.
LEVEL_RANGE = 8.0
#: Logit of a probability of 0.01, that every class starts with.
PRIOR_BIAS = -math.log(99)


class Locations(NamedTuple):
    """Centres of all places of a pyramid.

    Attributes
    ----------
    points : Tensor, (location, 2)
        x and y in pixels.
    strides : Tensor, (location,)
        In pixels.
    ranges : Tensor, (location, 2)
        The farthest side of its box is more than the first, and at most the second, away; in pixels.
    """

    points: Tensor
    strides: Tensor
    ranges: Tensor


def locations(
    grids: Sequence[tuple[int, int]], strides: Sequence[int], *, level_range: float = LEVEL_RANGE
) -> Locations:
    """Locations of maps, level by level, each row by row.

    Parameters
    ----------
    grids : sequence of (int, int)
        Rows and columns of every level, the finest first.
    strides : sequence of int
        Pixels between places.
    level_range : float
        Of the sizes of a level, in strides; the last level has no upper end.

    Returns
    -------
    Locations

    Examples
    --------
    >>> found = locations([(1, 2), (1, 1)], [8, 16])
    >>> found.points.tolist(), found.ranges.tolist()
    ([[4.0, 4.0], [12.0, 4.0], [8.0, 8.0]], [[0.0, 64.0], [0.0, 64.0], [64.0, inf]])
    """
    points, sides, ranges, below = [], [], [], 0.0
    for number, ((rows, columns), stride) in enumerate(zip(grids, strides, strict=True)):
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()], 1) * stride)
        sides.append(torch.full((rows * columns,), float(stride)))
        above = math.inf if number == len(grids) - 1 else level_range * stride
        ranges.append(torch.tensor([[below, above]]).expand(rows * columns, 2))
        below = above
    return Locations(torch.cat(points), torch.cat(sides), torch.cat(ranges))


def encode(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances from points (..., 2) to the left, top, right and bottom side of boxes (..., 4); negative outside.

    Examples
    --------
    >>> encode(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 0.0, 10.0, 5.0]))
    tensor([2., 3., 8., 2.])
    """
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def decode(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes (..., 4) whose sides are at distances (..., 4) from points (..., 2); the inverse of :func:`encode`.

    Examples
    --------
    >>> decode(torch.tensor([2.0, 3.0]), torch.tensor([2.0, 3.0, 8.0, 2.0]))
    tensor([ 0.,  0., 10.,  5.])
    """
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def centerness(distances: Tensor) -> Tensor:
    """``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`` of distances (..., 4) inside a box: 1 at its centre.

    Examples
    --------
    >>> centerness(torch.tensor([1.0, 2.0, 3.0, 2.0]))
    tensor(0.5774)
    """
    across, down = distances[..., 0::2], distances[..., 1::2]
    ratio = across.amin(-1) / across.amax(-1) * (down.amin(-1) / down.amax(-1))
    return ratio.clamp(min=0).sqrt()


def box_targets(places: Locations, boxes: Tensor, *, radius: float = 1.5) -> Tensor:
    """Which box every location of a picture has to say.

    A location is positive if it is inside a box, at most ``radius`` strides from the box's centre in x and in y, and
    the box's farthest side is in the range of its level; of several boxes it takes the smallest.

    Parameters
    ----------
    places : Locations
    boxes : Tensor, (box, 4)
        May be none.
    radius : float
        In strides.

    Returns
    -------
    Tensor of int64, (location,)
        Number of the box; -1: none.

    Examples
    --------
    >>> places = locations([(2, 2)], [8])
    >>> box_targets(places, torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 16.0, 16.0]]))
    tensor([0, 1, 1, 1])
    """
    none = torch.full((len(places.points),), -1, device=places.points.device)
    if not len(boxes):
        return none
    distances = encode(places.points[:, None], boxes[None])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (places.points[:, None] - centres).abs().amax(-1) <= radius * places.strides[:, None]
    farthest = distances.amax(-1)
    fits = (farthest > places.ranges[:, :1]) & (farthest <= places.ranges[:, 1:])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).expand(len(none), -1)
    area, smallest = areas.masked_fill(~(near & fits & (distances.amin(-1) > 0)), math.inf).min(1)
    return torch.where(area.isinf(), none, smallest)


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss, element by element: ``-a_t (1 - p_t)^gamma log p_t``.

    Parameters
    ----------
    logits, targets : Tensor
        Of one shape; targets are 0 or 1.
    alpha : float
        Weight of positives, and 1 less it of negatives.
    gamma : float
        0: the cross-entropy, weighted.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
    tensor([0.0433, 0.1300])
    """
    targets = targets.to(logits.dtype)
    p = logits.sigmoid()
    wrong = p + targets - 2 * p * targets
    weight = (1 - alpha) + (2 * alpha - 1) * targets
    return weight * wrong**gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Overlaps of boxes (m, 4) with boxes (n, 4), as intersection over union, (m, n); 0 of boxes without area.

    Examples
    --------
    >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0]]))
    tensor([[0.1429, 1.0000]])
    """
    shared, union, _ = _overlap(first[:, None], second[None])
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU of boxes (..., 4), pair by pair: IoU less the share of the hull that neither covers, -1 to 1.

    Examples
    --------
    >>> giou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 3.0]))  # 1/7 - 2/9
    tensor(-0.0794)
    """
    shared, union, hull = _overlap(first, second)
    least = torch.finfo(union.dtype).tiny
    return shared / union.clamp(min=least) - (hull - union) / hull.clamp(min=least)


def _overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of intersection, union and hull of pairs of boxes."""
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    inner = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    outer = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    shared = inner.clamp(min=0).prod(-1)
    return shared, areas[0] + areas[1] - shared, outer.prod(-1)


class DetectionLoss(NamedTuple):
    """Sums over the locations of some pictures, to be divided by the numbers of all.

    Attributes
    ----------
    classes, boxes, centres : Tensor, ()
        Focal loss; GIoU loss weighted by centerness; cross-entropy of centerness.
    positives, weight : Tensor, ()
        Positive locations, and the sum of their centerness: what the first and last, and the second, are divided by.
    """

    classes: Tensor
    boxes: Tensor
    centres: Tensor
    positives: Tensor
    weight: Tensor


def detection_loss(
    places: Locations,
    logits: Tensor,
    distances: Tensor,
    centring: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    known: Tensor | None = None,
    radius: float = 1.5,
) -> DetectionLoss:
    """Losses of FCOS, before they are divided.

    Parameters
    ----------
    places : Locations
    logits : Tensor, (picture, location, class)
    distances : Tensor, (picture, location, 4)
        Of the boxes that locations say, in pixels.
    centring : Tensor, (picture, location)
        Logits of centerness.
    boxes : sequence of Tensor, (box, 4)
        Of every picture; may be none.
    labels : sequence of Tensor of int64, (box,)
        Their classes.
    known : Tensor of bool, (picture, class), optional
        Classes that a picture is annotated for; the others enter no loss. All without it.
    radius : float
        As of :func:`box_targets`.

    Returns
    -------
    DetectionLoss

    Raises
    ------
    ValueError
        If a box has a class of which its picture is not annotated: unseen classes never reach the loss.
    """
    target, said, wanted = torch.zeros_like(logits), [], []
    positive = torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device)
    for picture, (sides, classes) in enumerate(zip(boxes, labels, strict=True)):
        if known is not None and len(classes) and not bool(known[picture, classes].all()):
            raise ValueError(f"Picture {picture} has a box of a class that it is not annotated for.")
        chosen = box_targets(places, sides, radius=radius)
        at = chosen >= 0
        positive[picture] = at
        target[picture, at, classes[chosen[at]]] = 1.0
        said.append(decode(places.points[at], distances[picture, at]))
        wanted.append(sides[chosen[at]])
    losses = focal_loss(logits, target)
    if known is not None:
        losses = losses * known[:, None]
    found, truth = torch.cat(said), torch.cat(wanted)
    points = places.points.expand(len(logits), -1, -1)[positive]
    centred = centerness(encode(points, truth))
    return DetectionLoss(
        losses.sum(),
        ((1 - giou(found, truth)) * centred).sum(),
        F.binary_cross_entropy_with_logits(centring[positive], centred, reduction="sum"),
        positive.sum().to(logits.dtype),
        centred.sum(),
    )


def nms(boxes: Tensor, scores: Tensor, labels: Tensor | None = None, *, overlap: float = 0.6) -> Tensor:
    """Non-maximum suppression, exact: the best box is kept, those that overlap it are not, and so on.

    Parameters
    ----------
    boxes : Tensor, (box, 4)
    scores : Tensor, (box,)
    labels : Tensor of int64, (box,), optional
        Boxes suppress those of their own class alone; all are of one class without it.
    overlap : float
        IoU above which a box is suppressed.

    Returns
    -------
    Tensor of int64, (kept,)
        Numbers of the boxes that are kept, the best first; of equal scores the earlier box is the better.

    Examples
    --------
    >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 20.0, 30.0, 30.0]])
    >>> nms(boxes, torch.tensor([0.5, 0.9, 0.3]))
    tensor([1, 2])
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order]
    rivals = box_iou(ranked, ranked) > overlap
    if labels is not None:
        rivals &= labels[order][:, None] == labels[order]
    matrix = rivals.cpu().numpy()
    kept, alive = [], [True] * len(order)
    for place in range(len(order)):
        if alive[place]:
            kept.append(place)
            for other in matrix[place].nonzero()[0].tolist():
                alive[other] = False
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


class Detections(NamedTuple):
    """Boxes found in a picture, the best first.

    Attributes
    ----------
    boxes : Tensor, (box, 4)
        In pixels, within the picture.
    scores : Tensor, (box,)
    labels : Tensor of int64, (box,)
        Numbers of the texts.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def best_boxes(
    places: Locations,
    logits: Tensor,
    distances: Tensor,
    centring: Tensor,
    size: tuple[int, int],
    *,
    least_score: float = 0.05,
    candidates: int = 1000,
    overlap: float = 0.6,
    most: int = 300,
) -> Detections:
    """Boxes of one picture: of the locations' best scores, those that no better box of their class overlaps.

    A score is the geometric mean of the class's probability and the centerness.

    Parameters
    ----------
    places : Locations
    logits : Tensor, (location, class)
    distances : Tensor, (location, 4)
    centring : Tensor, (location,)
        Logits of centerness.
    size : (int, int)
        Rows and columns of the picture; boxes are cut off there.
    least_score : float
        Lower ones are left out.
    candidates : int
        At most so many scores go into the suppression.
    overlap : float
        As of :func:`nms`.
    most : int
        At most so many boxes are kept.

    Returns
    -------
    Detections
    """
    scores = (logits.sigmoid() * centring.sigmoid()[:, None]).sqrt()
    flat = scores.flatten()
    chosen = flat.topk(min(candidates, len(flat))).indices
    chosen = chosen[flat[chosen] >= least_score]
    where, labels = chosen // logits.shape[1], chosen % logits.shape[1]
    boxes = decode(places.points[where], distances[where])
    limits = boxes.new_tensor([size[1], size[0]] * 2)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    kept = nms(boxes, flat[chosen], labels, overlap=overlap)[:most]
    return Detections(boxes[kept], flat[chosen][kept], labels[kept])
