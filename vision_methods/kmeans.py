"""K-means of many sets of points at once: the dense features of every picture of a batch form their own clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Ways to choose the first centres.
STARTS = ("k-means++", "random")


class Clusters(NamedTuple):
    """What :func:`kmeans` finds.

    Attributes
    ----------
    assignments : Tensor of int64, (B, N)
        Number of every point's cluster: the nearest centre, the first of equal ones.
    centres : Tensor, (B, K, D)
    inertia : Tensor, (B,)
        Sum of the squared distances between points and their centres.
    """

    assignments: Tensor
    centres: Tensor
    inertia: Tensor


@torch.no_grad()
def kmeans(
    points: Tensor,
    clusters: int,
    *,
    seeds: int | Sequence[int] = 0,
    start: str | Tensor = "k-means++",
    iterations: int = 20,
    spherical: bool = False,
) -> Clusters:
    """Cluster the points of every item by themselves, with Lloyd's iterations.

    The sum of squared distances never rises from one iteration to the next: a cluster that has lost its last point
    goes on from the point that lies farthest from its own centre. An item's clusters do not depend on the other
    items. No gradient passes.

    Parameters
    ----------
    points : Tensor of floating point, (B, N, D)
        Half precisions are computed in float32.
    clusters : int
        K, at most N.
    seeds : int, or one int per item
        Of the first centres; the same number for all without a list.
    start : {"k-means++", "random"} or Tensor, (B, K, D)
        First centres: points that are likely far apart (the best of ``2 + ln K`` draws at each step; Arthur and
        Vassilvitskii 2007), any K points, or those given.
    iterations : int
        At most this many; fewer where no assignment changes any more.
    spherical : bool
        Points are scaled to length 1, and centres are too (Dhillon and Modha 2001): the squared distance is then twice
        one minus the cosine.

    Returns
    -------
    Clusters

    Raises
    ------
    ValueError
        If shapes, settings or seeds do not fit, or a value is not finite.

    Examples
    --------
    >>> points = torch.tensor([[[0.0, 0], [0, 1], [10, 0], [10, 1]]])
    >>> found = kmeans(points, 2)
    >>> sorted(found.centres[0].tolist()), found.inertia
    ([[0.0, 0.5], [10.0, 0.5]], tensor([1.]))
    """
    if points.ndim != 3 or not points.is_floating_point():
        raise ValueError(
            f"points are {points.dtype} of shape {tuple(points.shape)}; expected floating point, (B, N, D)."
        )
    if not 1 <= clusters <= points.shape[1]:
        raise ValueError(f"clusters is {clusters} for {points.shape[1]} points; expected 1 to {points.shape[1]}.")
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; expected at least 1.")
    with torch.autocast(points.device.type, enabled=False):
        x = points if points.dtype == torch.float64 else points.float()
        # Distances would be small differences of large numbers where the points lie far from the origin.
        shift = torch.zeros_like(x[:, :1]) if spherical else x.mean(1, keepdim=True)
        x = F.normalize(x, dim=2) if spherical else x - shift
        squares = x.square().sum(2)
        if not bool(torch.isfinite(squares).all()):
            raise ValueError("points hold values that are not finite or too large; check what they were computed from.")
        scaled = partial(F.normalize, dim=2) if spherical else nn.Identity()
        centres = scaled(_first_centres(x, squares, clusters, start, seeds, shift))

        # Items whose assignments have stopped changing are left behind once they are half of those that go on.
        going = torch.arange(len(x), device=x.device)
        y, own_squares, own_centres = x, squares, centres
        assignments = torch.full_like(squares, -1, dtype=torch.int64)
        for _ in range(iterations):
            before, assignments = assignments, _assign(y, own_squares, own_centres)
            moved = (assignments != before).any(1)
            if 2 * (count := int(moved.sum())) <= len(going):
                centres[going] = own_centres
                going, y, own_squares, own_centres, assignments = (
                    each[moved] for each in (going, y, own_squares, own_centres, assignments)
                )
            if not count:
                break
            own_centres = scaled(_means(y, assignments, own_centres))
        centres[going] = own_centres

        assignments = _squares_less_own(x, centres).argmin(2)
        inertia = (x - _rows(centres, assignments)).square().sum((1, 2))
        return Clusters(assignments, centres + shift, inertia)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows (B, n, D) of x by their numbers (B, n)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def _squares_less_own(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distances less the squared lengths of the points, (B, N, K)."""
    return torch.baddbmm(centres.square().sum(2)[:, None], x, centres.transpose(1, 2), alpha=-2)


def _assign(x: Tensor, squares: Tensor, centres: Tensor) -> Tensor:
    """Nearest centres, (B, N); the points farthest from theirs are given to the clusters without a point."""
    nearest, assignments = _squares_less_own(x, centres).min(2)
    sizes = torch.zeros_like(centres[..., 0]).scatter_add_(1, assignments, torch.ones_like(squares))
    for item in (sizes == 0).any(1).nonzero().flatten().tolist():
        vacant = (sizes[item] == 0).nonzero().flatten()
        far, points = (nearest[item] + squares[item]).topk(len(vacant))
        # Where nothing but copies of its centre is left to take, a cluster stays empty.
        taken = far > 32 * torch.finfo(x.dtype).eps * squares[item].max()
        assignments[item, points[taken]] = vacant[taken]
    return assignments


def _means(x: Tensor, assignments: Tensor, centres: Tensor) -> Tensor:
    """Means of the clusters' points, (B, K, D); centres without a point stay."""
    member = x.new_zeros(*x.shape[:2], centres.shape[1]).scatter_(2, assignments[..., None], 1)
    sizes = member.sum(1)[..., None]
    return torch.where(sizes > 0, torch.bmm(member.transpose(1, 2), x) / sizes.clamp(min=1), centres)


def _first_centres(
    x: Tensor, squares: Tensor, clusters: int, start: str | Tensor, seeds: int | Sequence[int], shift: Tensor
) -> Tensor:
    items, count, width = x.shape
    if isinstance(start, Tensor):
        if start.shape != (items, clusters, width):
            raise ValueError(f"start has shape {tuple(start.shape)}; expected {(items, clusters, width)}.")
        return start.to(x) - shift
    if start not in STARTS:
        raise ValueError(f"start is {start!r}; expected {', '.join(STARTS)} or a tensor of centres.")
    seeds = [seeds] * items if isinstance(seeds, int) else list(seeds)
    if len(seeds) != items:
        raise ValueError(f"there are {len(seeds)} seeds for {items} items; expected one each, or one number.")
    shape = (count,) if start == "random" else (clusters, 2 + int(math.log(clusters)))
    uniform = torch.empty(items, *shape, dtype=torch.float64)
    for own, seed in zip(uniform, seeds, strict=True):
        own.uniform_(generator=torch.Generator().manual_seed(int(seed)))
    uniform = uniform.to(x.device)
    return _rows(x, uniform.argsort(1)[:, :clusters] if start == "random" else _spread(x, squares, uniform))


def _spread(x: Tensor, squares: Tensor, uniform: Tensor) -> Tensor:
    """Numbers of points, (B, K), each drawn in proportion to the squared distance from those before it."""

    def distances(index: Tensor) -> Tensor:
        return (_squares_less_own(x, _rows(x, index)) + squares[..., None]).clamp(min=0)

    chosen = (uniform[:, 0, :1] * x.shape[1]).long()
    nearest = distances(chosen)
    for own in uniform[:, 1:].unbind(1):
        total = nearest[..., 0].double().cumsum(1)
        # Where all points are chosen already the total is 0, and any point does.
        drawn = torch.searchsorted(total, own * total[:, -1:], right=True).clamp(max=x.shape[1] - 1)
        lowered = torch.minimum(distances(drawn), nearest)
        best = lowered.sum(1).argmin(1, keepdim=True)
        nearest = lowered.gather(2, best[:, None].expand(-1, x.shape[1], 1))
        chosen = torch.cat([chosen, drawn.gather(1, best)], 1)
    return chosen
