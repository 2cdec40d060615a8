"""Small networks beside the blocks of a frozen transformer: adapters, low-rank changes, copies that follow slowly."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Adapter(nn.Module):
    """Linear layer to a few features, rectification, linear layer back; it starts as zero (Chen et al. 2022).

    Parameters
    ----------
    width, hidden : int
    generator : torch.Generator, optional

    Examples
    --------
    >>> Adapter(8, 2)(torch.rand(1, 3, 8)).abs().max()
    tensor(0., grad_fn=<MaxBackward1>)
    """

    def __init__(self, width: int, hidden: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.normal_(self.down.weight, std=width**-0.5, generator=generator)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, tokens: Tensor) -> Tensor:
        """Each token (..., width) on its own."""
        return self.up(F.relu(self.down(tokens)))


class LoRA(nn.Module):
    """A low-rank change of queries and values; it starts as zero (Hu et al. 2022).

    Parameters
    ----------
    width, rank : int
    generator : torch.Generator, optional

    Examples
    --------
    >>> LoRA(8, 2)(torch.rand(1, 3, 8)).shape
    torch.Size([1, 3, 24])
    """

    def __init__(self, width: int, rank: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(2, width, rank, generator=generator) * width**-0.5)
        self.up = nn.Parameter(torch.zeros(2, rank, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """What is added to queries, keys (nothing) and values of tokens (B, N, width): (B, N, 3 width)."""
        queries, values = (tokens @ down @ up for down, up in zip(self.down, self.up, strict=True))
        return torch.cat([queries, torch.zeros_like(queries), values], -1)


class Beside(nn.Module):
    """One such network for each of some blocks.

    Parameters
    ----------
    kind : {"adapter", "lora"}
    width, size : int
        Hidden features of an adapter, or rank.
    blocks : sequence of int
    generator : torch.Generator, optional

    Examples
    --------
    >>> beside = Beside("adapter", 768, 5, range(5))
    >>> sum(each.numel() for each in beside.parameters())
    42265
    """

    def __init__(
        self, kind: str, width: int, size: int, blocks: Sequence[int], *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        make = {"adapter": Adapter, "lora": LoRA}[kind]
        self.kind = kind
        self.of_blocks = nn.ModuleDict({str(block): make(width, size, generator=generator) for block in blocks})

    def arguments(self) -> dict[str, dict[int, nn.Module]]:
        """For :func:`vision_methods.prompted_vit.run_prompted`."""
        name = {"adapter": "adapters", "lora": "loras"}[self.kind]
        return {name: {int(block): module for block, module in self.of_blocks.items()}}


class OnlineOffline(nn.Module):
    """Two copies of a module: one learns, the other follows it slowly (LAE; Gao et al. 2023).

    Parameters
    ----------
    online : Module
        Taken, and copied.
    keep : float
        Share of the offline copy that a step keeps; 0: it equals the online one.

    Examples
    --------
    >>> pair = OnlineOffline(Beside("adapter", 768, 5, range(5)), keep=0.9999)
    >>> sum(each.numel() for each in pair.parameters())
    84530
    """

    def __init__(self, online: nn.Module, *, keep: float) -> None:
        super().__init__()
        self.online, self.offline, self.keep = online, copy.deepcopy(online).requires_grad_(False), keep

    def follow(self) -> None:
        """One step of the offline copy."""
        with torch.no_grad():
            for slow, fast in zip(self.offline.parameters(), self.online.parameters(), strict=True):
                slow.mul_(self.keep).add_(fast, alpha=1 - self.keep)


def ensemble(first: Tensor, second: Tensor) -> Tensor:
    """Larger of two networks' class probabilities (LAE).

    Parameters
    ----------
    first, second : Tensor, (B, C)
        Logits; -inf for classes that do not compete.

    Returns
    -------
    Tensor, (B, C)

    Examples
    --------
    >>> ensemble(torch.tensor([[0.0, 0.0]]), torch.tensor([[9.0, 0.0]])).round(decimals=2)
    tensor([[1.0000, 0.5000]])
    """
    return torch.maximum(first.softmax(1), second.softmax(1))
