"""The local objective of one stage: the pair alike, features decorrelated over patches of other images.

Letters in shapes: B batch, d features, C channels, H and W height and width of a map.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lcl.distributed import sum_over_processes


class Loss(NamedTuple):
    """The local loss and its two terms.

    Attributes
    ----------
    total : Tensor, scalar
        ``similarity + weight * decorrelation``.
    similarity : Tensor, scalar
        ``sum_i (1 - C_ii)^2``: 0 when each feature is the same in both views.
    decorrelation : Tensor, scalar
        ``sum_i sum_{j != i} C_ij^2``: 0 when no two features vary together over patches.
    correlation : Tensor, shape (d, d)
        The cross-correlation between the views.
    """

    total: Tensor
    similarity: Tensor
    decorrelation: Tensor
    correlation: Tensor


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Cross-correlation of features between two views over the whole batch.

    ``C_ij = sum_b a_bi b_bj / sqrt(sum_b a_bi^2 sum_b b_bj^2)`` with centred ``a`` and ``b`` (Zbontar et al. 2021).
    Sums run over the batches of all processes, in float32 or better, so the result does not depend on how a batch is
    divided. A feature that does not vary, up to the rounding of its mean, gets correlation 0 and no gradient.

    Parameters
    ----------
    first, second : Tensor, shape (B, d)
        Features of the two views.

    Returns
    -------
    Tensor, shape (d, d)

    Raises
    ------
    ValueError
        If the shapes differ or are not (B, d).

    Examples
    --------
    >>> views = torch.randn(100, 3)
    >>> correlation(views, -views).diagonal().round(decimals=4)
    tensor([-1., -1., -1.])
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"The two views have features of shapes {tuple(first.shape)} and {tuple(second.shape)}; "
            "expected the same shape (batch, features)."
        )
    with torch.autocast(first.device.type, enabled=False):
        a, b = (view.double() if view.dtype == torch.float64 else view.float() for view in (first, second))
        d = a.shape[1]
        moments = torch.cat([a.sum(0), b.sum(0), a.new_tensor([float(len(a))])])
        moments = sum_over_processes(moments)
        count, mean = moments[-1], moments[:-1] / moments[-1]
        a, b = a - mean[:d], b - mean[d:]
        sums = torch.cat([(a.T @ b).flatten(), a.square().sum(0), b.square().sum(0)])
        sums = sum_over_processes(sums)
        cross, squares = sums[: d * d].view(d, d), sums[d * d :]
        # A constant feature is left with the rounding of its mean, which would correlate perfectly with itself.
        info = torch.finfo(a.dtype)
        rounding = (count * (8 * info.eps * mean).square()).clamp(min=info.tiny**0.5)
        scale = squares.masked_fill(squares <= rounding, float("inf")).rsqrt()
        return cross * scale[:d, None] * scale[d:]


def barlow_twins(first: Tensor, second: Tensor, *, weight: float) -> Loss:
    """Local loss of a stage: ``sum_i (1 - C_ii)^2 + weight * sum_i sum_{j != i} C_ij^2``.

    The form of Zbontar et al. (2021), Barlow Twins; that the LCL paper uses it is our inference from its abstract.

    Parameters
    ----------
    first, second : Tensor, shape (B, d)
        Features of the two views of B patches.
    weight : float
        Of the decorrelation term (lambda); see :func:`decorrelation_weight`.

    Returns
    -------
    Loss

    Raises
    ------
    ValueError
        If the shapes differ or are not (B, d).

    Examples
    --------
    >>> views = torch.randn(1000, 4)
    >>> float(barlow_twins(views, views, weight=0.1).similarity.round(decimals=4))
    0.0
    """
    c = correlation(first, second)
    on = c.diagonal()
    similarity = (1 - on).square().sum()
    decorrelation = c.square().sum() - on.square().sum()
    return Loss(similarity + weight * decorrelation, similarity, decorrelation, c)


def decorrelation_weight(balance: float, features: int) -> float:
    """Weight of the decorrelation term from a balance that does not depend on the number of features.

    ``weight = balance / (features - 1)``: every diagonal element stands against ``features - 1`` others. Barlow Twins'
    0.0051 at 8192 features is a balance of 41.8.

    Parameters
    ----------
    balance : float
        Weight of the whole off-diagonal block relative to the diagonal; at least 0.
    features : int
        Number of features that enter the loss.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If ``balance`` is negative.

    Examples
    --------
    >>> [round(decorrelation_weight(41.8, d), 4) for d in (8192, 64, 192)]
    [0.0051, 0.6635, 0.2188]
    """
    if not balance >= 0:
        raise ValueError(f"balance is {balance}; expected 0 or more.")
    return balance / max(features - 1, 1)


def average(maps: Tensor) -> Tensor:
    """Mean over positions: (B, C, H, W) to (B, C).

    Examples
    --------
    >>> average(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3])
    """
    return maps.mean((2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))


def centre(maps: Tensor) -> Tensor:
    """The unit in the middle (the one before it where the side is even): (B, C, H, W) to (B, C).

    Examples
    --------
    >>> centre(torch.arange(9.0).view(1, 1, 3, 3))
    tensor([[4.]])
    """
    return maps[:, :, (maps.shape[2] - 1) // 2, (maps.shape[3] - 1) // 2]


def dense(maps: Tensor) -> Tensor:
    """Every position is a sample: (B, C, H, W) to (B * H * W, C).

    Examples
    --------
    >>> dense(torch.ones(2, 3, 4, 4)).shape
    torch.Size([32, 3])
    """
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


#: From a stage's maps to the features that enter the loss, by name.
READOUTS: dict[str, Callable[[Tensor], Tensor]] = {"average": average, "centre": centre, "dense": dense}


def projector(kind: str, features: int, width: int, generator: torch.Generator | None = None) -> nn.Module:
    """Layers between a stage's features and the loss; trained with the stage and not part of the model.

    Parameters
    ----------
    kind : {"none", "linear", "mlp"}
        Nothing; one linear layer; two layers with ReLU and a last linear one.
    features, width : int
        Size of its input and of its layers.
    generator : torch.Generator, optional
        Draws the initial weights.

    Returns
    -------
    Module
        Maps (B, features) to (B, width), or to (B, features) for "none".

    Raises
    ------
    ValueError
        If ``kind`` is unknown.

    Examples
    --------
    >>> projector("mlp", 64, 256)(torch.randn(8, 64)).shape
    torch.Size([8, 256])
    """
    if kind not in PROJECTORS:
        raise ValueError(f"projector is {kind!r}; expected one of {', '.join(PROJECTORS)}.")
    sizes = [features] + [width] * PROJECTORS[kind]
    layers: list[nn.Module] = []
    for i, (size, next_size) in enumerate(pairwise(sizes)):
        if i:
            layers.append(nn.ReLU())
        linear = nn.Linear(size, next_size)
        nn.init.normal_(linear.weight, std=(2 / size) ** 0.5, generator=generator)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
    return nn.Sequential(*layers)


#: Number of linear layers of each projector.
PROJECTORS = {"none": 0, "linear": 1, "mlp": 3}
