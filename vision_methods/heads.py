"""Projectors and predictors: small networks between pooled responses and a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lcl.stages import BatchNorm


class VectorNorm(BatchNorm):
    """Batch normalisation of vectors: statistics over all axes but the last, of the whole batch of all processes.

    Examples
    --------
    >>> VectorNorm(4)(torch.randn(8, 16, 4)).shape
    torch.Size([8, 16, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(..., features)``."""
        return super().forward(input.reshape(-1, input.shape[-1], 1, 1)).view(input.shape)


def mlp(in_features: int, hidden: int, out: int, *, generator: torch.Generator | None = None) -> nn.Sequential:
    """Linear layer, batch normalisation, rectification, linear layer without offset.

    The form of BYOL's and DetCon's projectors and predictors (Grill et al. 2020; Henaff et al. 2021).

    Parameters
    ----------
    in_features, hidden, out : int
        Size of its input, between its layers, and of its output.
    generator : torch.Generator, optional
        Draws the initial weights: normal, with variance 1 / fan-in.

    Returns
    -------
    Sequential
        Maps (..., in_features) to (..., out). In training, all axes but the last are the batch that is normalised.

    Raises
    ------
    ValueError
        If a size is below 1.

    Examples
    --------
    >>> mlp(2048, 4096, 256)(torch.randn(2, 16, 2048)).shape
    torch.Size([2, 16, 256])
    """
    if min(in_features, hidden, out) < 1:
        raise ValueError(f"The sizes of a head are {in_features}, {hidden} and {out}; expected at least 1 each.")
    first, last = nn.Linear(in_features, hidden), nn.Linear(hidden, out, bias=False)
    for linear in (first, last):
        nn.init.normal_(linear.weight, std=linear.in_features**-0.5, generator=generator)
    nn.init.zeros_(first.bias)
    return nn.Sequential(first, VectorNorm(hidden), nn.ReLU(), last)
