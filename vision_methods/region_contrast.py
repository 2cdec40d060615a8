"""Contrast of regions: pooling of responses in masks, and the loss that tells a mask from all others.

The same mask in two views of a picture is the positive pair; every other mask, of this picture and of the others, is a
negative (Henaff et al. 2021, DetCon). With one mask a picture the loss is image-level contrast.

Letters in shapes: B pictures of this process, S masks of a picture, D size of a latent, C channels, H and W sides of a
picture, h and w sides of a response map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lcl.distributed import gather_over_processes, rank, sum_over_processes, world_size

#: Similarities that are in memory at once; more where that would be less than ``LEAST_ROWS`` queries, since every part
#: of the queries adds to the gradient of all keys.
CHUNK, LEAST_ROWS = 2**22, 256


def _windows(size: int, cells: int) -> tuple[Tensor, Tensor]:
    """Pixels under each of some cells along one axis, and the cell of each, as in adaptive average pooling."""
    spans = [range(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]
    pixel = torch.tensor([pixel for span in spans for pixel in span])
    cell = torch.tensor([cell for cell, span in enumerate(spans) for _ in span])
    return pixel, cell


def label_grid(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Label of most of each cell: the average-pooled one-hot labels' largest, without the one-hot array.

    A tie goes to the lowest id. Cells are those of adaptive average pooling: blocks where the grid divides the picture,
    else windows that share pixels with their neighbours. The cells are a partition: small masks can vanish.

    Parameters
    ----------
    labels : Tensor, shape (B, H, W)
        Integer ids.
    grid : (int, int)
        Cells down and across, those of a response map.

    Returns
    -------
    Tensor, shape (B, h, w)
        int64 ids.

    Raises
    ------
    ValueError
        If the labels are no integers of shape (B, H, W), or the grid is empty.

    Examples
    --------
    >>> label_grid(torch.tensor([[[7, 7, 1, 2], [7, 7, 1, 2]]]), (1, 2))
    tensor([[[7, 1]]])
    """
    if labels.ndim != 3 or labels.is_floating_point() or labels.is_complex() or not labels.numel():
        raise ValueError(
            f"Labels are {labels.dtype} of shape {tuple(labels.shape)}; expected integer ids of shape "
            "(picture, row, column)."
        )
    if min(grid) < 1:
        raise ValueError(f"The grid is {grid[0]} x {grid[1]}; expected at least one cell down and across.")
    (row, down), (column, across) = (_windows(size, cells) for size, cells in zip(labels.shape[1:], grid, strict=True))
    cell = (down[:, None] * grid[1] + across).to(labels.device)
    row, column = row.to(labels.device), column.to(labels.device)
    found = []
    for label in labels:
        ids = label.long()
        low, n = int(ids.min()), int(ids.max() - ids.min()) + 1
        names = None
        if n > label.numel():
            names, ids = ids.unique(return_inverse=True)
            low, n = 0, len(names)
        counted = (ids - low)[row][:, column] + cell * n
        # The first of equal counts is that of the lowest id.
        most = torch.bincount(counted.flatten(), minlength=grid[0] * grid[1] * n).view(*grid, n).argmax(-1)
        found.append(most + low if names is None else names[most])
    return torch.stack(found)


def sample_ids(grid: Tensor, samples: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw masks of every picture, with replacement, uniformly over the ids that own at least one cell.

    Parameters
    ----------
    grid : Tensor, shape (B, h, w)
        Ids, from :func:`label_grid`.
    samples : int
        Draws from each picture, S.
    generator : torch.Generator, optional
        On any device; the draws do not depend on the grid's.

    Returns
    -------
    Tensor, shape (B, S)
        int64 ids.

    Raises
    ------
    ValueError
        If the grid is not of shape (B, h, w) or has no cells, or ``samples`` is below 1.

    Examples
    --------
    >>> sample_ids(torch.full((1, 7, 7), 3), 4)
    tensor([[3, 3, 3, 3]])
    """
    if grid.ndim != 3 or not grid[0:1].numel() or samples < 1:
        raise ValueError(
            f"{samples} samples of a grid of shape {tuple(grid.shape)} were asked for; expected at least 1 sample of "
            "a grid of shape (picture, row, column)."
        )
    cells = grid.flatten(1).long().sort(1).values
    new = torch.ones_like(cells, dtype=torch.bool)
    new[:, 1:] = cells[:, 1:] != cells[:, :-1]
    order = new.cumsum(1)
    n = order[:, -1:].contiguous()
    device = generator.device if generator is not None else torch.device("cpu")
    draws = torch.rand(len(grid), samples, dtype=torch.float64, generator=generator, device=device).to(grid.device)
    # Draws are below 1, but a product with the number of ids can round up to it.
    chosen = torch.minimum((draws * n).long(), n - 1)
    return cells.gather(1, torch.searchsorted(order, chosen + 1))


def pool_masks(maps: Tensor, masks: Tensor) -> Tensor:
    """Mean response in each mask, weighted by the mask: soft and overlapping masks too.

    ``sum_cells mask * map / sum_cells mask``, and 0 in an empty mask; in float32 or better.

    Parameters
    ----------
    maps : Tensor, shape (B, C, h, w)
    masks : Tensor, shape (B, K, h, w)
        Weights of the cells, at least 0; bool, integer or floating point.

    Returns
    -------
    Tensor, shape (B, K, C)

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> pool_masks(torch.tensor([[[[1.0, 5.0]]]]), torch.tensor([[[[1.0, 0.0]], [[0.5, 0.5]], [[0.0, 0.0]]]]))
    tensor([[[1.],
             [3.],
             [0.]]])
    """
    if maps.ndim != 4 or masks.ndim != 4 or maps.shape[0] != masks.shape[0] or maps.shape[2:] != masks.shape[2:]:
        raise ValueError(
            f"Maps of shape {tuple(maps.shape)} and masks of shape {tuple(masks.shape)} do not fit; expected "
            "(picture, channel, row, column) and (picture, mask, row, column) with the same pictures and cells."
        )
    with torch.autocast(maps.device.type, enabled=False):
        maps = _widened(maps)
        weights = masks.flatten(2).to(maps.dtype)
        total = weights.sum(2, keepdim=True)
        weights = weights / total.masked_fill(total == 0, 1)
        return weights @ maps.flatten(2).transpose(1, 2)


def pool_regions(maps: Tensor, grid: Tensor, ids: Tensor) -> Tensor:
    """Mean response over the cells of each id; 0 for an id that owns none.

    ``sum_cells m * map / max(sum_cells m, 1)`` with ``m`` 1 in the cells of the id (DetCon's mask pooling).

    Parameters
    ----------
    maps : Tensor, shape (B, C, h, w)
    grid : Tensor, shape (B, h, w)
        Ids of the cells.
    ids : Tensor, shape (B, S)

    Returns
    -------
    Tensor, shape (B, S, C)

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> pool_regions(torch.tensor([[[[1.0, 2.0, 6.0]]]]), torch.tensor([[[4, 4, 9]]]), torch.tensor([[4, 9, 5]]))
    tensor([[[1.5000],
             [6.0000],
             [0.0000]]])
    """
    if ids.ndim != 2 or grid.ndim != 3 or len(ids) != len(grid):
        raise ValueError(
            f"Ids of shape {tuple(ids.shape)} and a grid of shape {tuple(grid.shape)} do not fit; expected (picture, "
            "sample) and (picture, row, column) of the same pictures."
        )
    return pool_masks(maps, grid[:, None] == ids[:, :, None, None])


def _widened(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _unit(latents: Tensor) -> Tensor:
    """Latents of length 1. A latent of length 0 has no direction: it stays 0 and gets no gradient."""
    latents = _widened(latents)
    squares = latents.square().sum(-1, keepdim=True)
    return latents * squares.masked_fill(squares == 0, torch.inf).rsqrt()


class _Contrast(torch.autograd.Function):
    """Weighted sum over queries of logsumexp(candidates) - mean(positives), a few rows of similarities at a time.

    The loss is one number, so that its gradient is known, up to a factor, as soon as the similarities are: both are
    taken from them while they are there, and no similarity is kept or made twice.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        # queries (R, D) divided by the temperature, keys (M, D); own (R, O): columns of the query's own picture;
        # drop, positive (R, O): which of those are no candidates, and positives; weight (R); bias (M) or None.
        queries, keys, own, drop, positive, weight, bias = inputs
        to_queries = torch.zeros_like(queries) if ctx.needs_input_grad[0] else None
        to_keys = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        loss = torch.empty_like(weight)
        rows = max(LEAST_ROWS, CHUNK // len(keys))
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            q, columns, positives, w = queries[part], own[part], positive[part], weight[part, None]
            logits = q @ keys.T if bias is None else torch.addmm(bias, q, keys.T)
            mine = logits.gather(1, columns)
            count = positives.sum(1, keepdim=True)
            mean = mine.masked_fill(~positives, 0).sum(1, keepdim=True) / count
            logits.scatter_(1, columns, mine.masked_fill(drop[part], -torch.inf))
            largest = logits.amax(1, keepdim=True)
            share = logits.sub_(largest).exp_()
            total = share.sum(1, keepdim=True)
            loss[part] = (w * (total.log() + largest - mean)).squeeze(1)
            if to_queries is None and to_keys is None:
                continue
            # Gradient of each similarity, up to a factor of its row.
            share.scatter_add_(1, columns, positives * (-total / count))
            if to_queries is not None:
                to_queries[part] = (share @ keys) * (w / total)
            if to_keys is not None:
                to_keys.addmm_(share.T, q * (w / total))
        ctx.save_for_backward(to_queries, to_keys)
        return loss.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_inputs = [None if each is None else gradients[0] * each for each in ctx.saved_tensors]
        return *to_inputs, None, None, None, None, None


def region_contrast(
    queries1: Tensor,
    queries2: Tensor,
    keys1: Tensor,
    keys2: Tensor,
    ids1: Tensor,
    ids2: Tensor,
    *,
    temperature: float = 0.1,
    local_negatives: bool = True,
    present1: Tensor | None = None,
    present2: Tensor | None = None,
) -> Tensor:
    """Share of this process in DetCon's loss: a mask in one view finds itself in the other among all masks.

    With cosines divided by the temperature as logits, a query of id ``i`` in one view has as positives ``P`` the keys
    of its picture in the other view with id ``i``, and as candidates all keys of both views but those of its own
    picture, view and id (itself among them)::

        l = logsumexp(candidates) - mean(P)
        L = sum over the queries of both views that have a positive of l / (c * B * S)

    with ``c`` the number of samples of its picture and view that carry its id. That is the sum of the two directions.
    ``B`` is the batch of all processes, the divisor the same whether few or many queries have a positive; a mask
    that is in one view only counts as 0 and is a negative of others (Henaff et al. 2021, the authors' code).

    DetCon_S gives the queries as keys too, and gradients pass through both; DetCon_B gives a momentum target's keys,
    which have no gradient. Shares sum to the loss of one process that holds the whole batch, and so do their gradients
    (see :mod:`lcl.distributed`). Computed in float32 or better, with a few million similarities in memory at once; the
    gradient comes with the loss, and cannot be differentiated again. A latent of length 0 has cosine 0 with all.

    Parameters
    ----------
    queries1, queries2 : Tensor, shape (B, S, D)
        Latents of the masks of two views, of any length.
    keys1, keys2 : Tensor, shape (B, S, D)
        Latents they are compared with.
    ids1, ids2 : Tensor, shape (B, S)
        Integer id of each mask within its picture; equal ids of a picture are the same mask.
    temperature : float
        Divides cosines; above 0.
    local_negatives : bool
        Whether other masks of the same picture are negatives.
    present1, present2 : Tensor, shape (B, S), optional
        bool; False entries are no mask at all (an empty cluster) and are neither query nor key. The divisor stays.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        If shapes or types do not fit, the batch is empty, or the temperature is not above 0.

    Examples
    --------
    >>> latents, ids = torch.eye(4).view(2, 2, 4), torch.tensor([[0, 1], [0, 1]])
    >>> region_contrast(latents, latents, latents, latents, ids, ids, temperature=1.0).round(decimals=4)
    tensor(2.3308)
    """
    latents, ids = (queries1, queries2, keys1, keys2), (ids1, ids2)
    present = tuple(torch.ones_like(ids1, dtype=torch.bool) if each is None else each for each in (present1, present2))
    shapes = [tuple(each.shape) for each in latents]
    if len(set(shapes)) > 1 or queries1.ndim != 3 or not all(each.is_floating_point() for each in latents):
        raise ValueError(
            f"Queries and keys have shapes {', '.join(map(str, shapes))}; expected floating point of one shape "
            "(picture, mask, feature)."
        )
    if any(each.shape != queries1.shape[:2] for each in (*ids, *present)):
        raise ValueError(
            f"Ids and present masks have shapes {', '.join(str(tuple(each.shape)) for each in (*ids, *present))}; "
            f"expected {shapes[0][:2]}, the pictures and masks of the queries."
        )
    if any(each.is_floating_point() for each in ids) or any(each.dtype != torch.bool for each in present):
        raise ValueError(
            f"Ids are {ids1.dtype} and {ids2.dtype}, present masks {present[0].dtype} and {present[1].dtype}; expected "
            "integers and bool."
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected more than 0.")
    with torch.autocast(queries1.device.type, enabled=False):
        # All that belongs to a picture lies together: its S masks in view 1, then its S masks in view 2.
        queries = torch.cat([_unit(queries1), _unit(queries2)], 1)
        keys = torch.cat([_unit(keys1), _unit(keys2)], 1).to(queries.dtype)
        masks = queries.shape[1]
        name, real = torch.cat(ids, 1), torch.cat(present, 1)
        everyone, first = gather_over_processes(keys), 0
        all_real = real
        if world_size() > 1:
            owner = torch.full_like(real[:, :1], rank(), dtype=torch.int64)
            around = gather_over_processes(torch.cat([real.long(), owner], 1))
            all_real, first = around[:, :-1].bool(), (around[:, -1] < rank()).sum()
        if not everyone.numel():
            raise ValueError(
                f"Queries and keys have shape {shapes[0]}; expected at least one picture, mask and feature."
            )
        equal = (name[:, :, None] == name[:, None]) & real[:, None]
        view = torch.arange(masks, device=name.device) >= masks // 2
        same_view = view[:, None] == view
        positive = equal & ~same_view
        itself = equal & same_view
        row = (positive.any(2) & real).flatten().nonzero().squeeze(1)
        drop = (itself if local_negatives else ~positive).flatten(0, 1)[row]
        weight = (itself.sum(2) * (len(everyone) * masks / 2)).flatten()[row].to(queries.dtype).reciprocal()
        own = ((first + row // masks) * masks)[:, None] + torch.arange(masks, device=name.device)
        bias = None
        if present1 is not None or present2 is not None or world_size() > 1:
            bias = torch.zeros_like(everyone[:, :, 0]).masked_fill(~all_real, -torch.inf).flatten().detach()
        share = _Contrast.apply(
            queries.flatten(0, 1)[row] / temperature,
            everyone.flatten(0, 1),
            own,
            drop,
            positive.flatten(0, 1)[row],
            weight,
            bias,
        )
        assert isinstance(share, Tensor)
        return share


def latent_spread(latents: Tensor) -> Tensor:
    """Standard deviation of the directions of latents over the batch of all processes, in units of random directions'.

    Parameters
    ----------
    latents : Tensor, (..., D)

    Returns
    -------
    Tensor, scalar
        Mean over dimensions, times the root of D: 0 for one direction, 1 for directions that are evenly spread.

    Examples
    --------
    >>> latent_spread(torch.cat([torch.eye(4), -torch.eye(4)])), latent_spread(torch.ones(8, 4))
    (tensor(1.), tensor(0.))
    """
    unit = F.normalize(latents.float(), dim=-1).flatten(0, -2)
    count = sum_over_processes(unit.new_tensor([len(unit)]))
    mean = sum_over_processes(unit.sum(0)) / count
    variance = sum_over_processes((unit - mean).square().sum(0)) / count
    return variance.sqrt().mean() * unit.shape[1] ** 0.5


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Share of this process in SimCLR's loss: an image in one view finds itself in the other among all images.

    The mean over the 2 B latents of ``logsumexp(cosines with all others / T) - cosine with the pair / T``, B of all
    processes (Chen et al. 2020): half of :func:`region_contrast` with one mask a picture.

    Parameters
    ----------
    first, second : Tensor, shape (B, D)
        Latents of the two views, of any length.
    temperature : float
        Divides cosines; above 0.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        If the shapes differ or are not (B, D), the batch is empty, or the temperature is not above 0.

    Examples
    --------
    >>> nt_xent(torch.eye(2), torch.eye(2), temperature=1.0).round(decimals=4)
    tensor(0.5514)
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"The two views have latents of shapes {tuple(first.shape)} and {tuple(second.shape)}; expected the same "
            "shape (picture, feature)."
        )
    a, b, ids = first[:, None], second[:, None], torch.zeros(len(first), 1, dtype=torch.int64, device=first.device)
    return region_contrast(a, b, a, b, ids, ids, temperature=temperature) / 2
