"""Prompts of a vision transformer: tokens put among its own, or keys and values put before those of a block.

==============  ======================================================================================================
class           what a picture gets
==============  ======================================================================================================
OnlyPrompt      the same few tokens, whatever the picture (Thede et al. 2024; VPT-shallow)
L2P             the tokens of the ``top_k`` keys nearest to its query (Wang et al. 2022)
DualPrompt      keys and values that all pictures share, and those of the task with the nearest key (Wang et al. 2022)
CODAPrompt      sums of components, weighted by cosines of the attended query with their keys (Smith et al. 2023)
TaskPrompts     keys and values of one task, named from outside (as HiDe-Prompt does; Wang et al. 2023)
==============  ======================================================================================================

The query of a picture is what the frozen transformer makes of it without prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_methods.prompted_vit import Ask, Insertion


def majority(index: Tensor, choices: int) -> Tensor:
    """The choices that most pictures of a batch made, for all of them: batch-wise prompting.

    It lets a picture's answer depend on its neighbours in the batch, and tells the task where batches are ordered by
    class.

    Parameters
    ----------
    index : Tensor of int, (B, k)
    choices : int
        Number of prompts.

    Returns
    -------
    Tensor of int, (B, k)

    Examples
    --------
    >>> majority(torch.tensor([[0], [2], [2]]), 3)
    tensor([[2],
            [2],
            [2]])
    """
    counts = torch.bincount(index.flatten(), minlength=choices)
    return counts.topk(index.shape[1]).indices.expand(len(index), -1)


def _drawn(*shape: int, generator: torch.Generator | None, std: float = 0.02) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=generator) * std)


class OnlyPrompt(nn.Module):
    """The same tokens for every picture and task.

    Parameters
    ----------
    width : int
        Of a token.
    parameters : int
        Trained numbers. The last token may be trained in part: its other coordinates stay as drawn.
    generator : torch.Generator, optional

    Attributes
    ----------
    queried : bool
        Whether a query is needed.

    Examples
    --------
    >>> prompt = OnlyPrompt(8, 12)
    >>> prompt(Ask(torch.zeros(3, 8), 0)).tokens.shape, sum(each.numel() for each in prompt.parameters())
    (torch.Size([3, 2, 8]), 12)
    """

    queried = False
    fixed: Tensor

    def __init__(self, width: int, parameters: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.width = width
        numbers = torch.randn(-(-parameters // width) * width, generator=generator) * 0.02
        self.trained = nn.Parameter(numbers[:parameters].clone())
        self.register_buffer("fixed", numbers[parameters:].clone())

    def begin_task(self, task: int, *, generator: torch.Generator) -> None:
        """Nothing is new."""

    def forward(self, ask: Ask) -> Insertion:
        """The tokens, for as many pictures as there are queries."""
        tokens = torch.cat([self.trained, self.fixed]).view(-1, self.width)
        return Insertion(tokens.expand(len(ask.query), -1, -1))


class L2P(nn.Module):
    """A pool of prompts that pictures choose from by cosine of query and key.

    Parameters
    ----------
    width, pool, length, top_k : int
        ``top_k`` of ``pool`` prompts of ``length`` tokens are chosen.
    pull : float
        Weight of the mean cosine between the query and the chosen keys, summed over these, which is taken off the loss.
    batchwise : bool
        :func:`majority`.
    generator : torch.Generator, optional

    Examples
    --------
    >>> l2p = L2P(768, pool=10, length=5, top_k=5)
    >>> l2p(Ask(torch.rand(2, 768), 0)).tokens.shape, sum(each.numel() for each in l2p.parameters())
    (torch.Size([2, 25, 768]), 46080)
    """

    queried = True

    def __init__(
        self,
        width: int,
        *,
        pool: int,
        length: int,
        top_k: int,
        pull: float = 0.1,
        batchwise: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= pool:
            raise ValueError(f"top_k is {top_k} of a pool of {pool}; expected 1 to {pool}.")
        self.top_k, self.pull, self.batchwise = top_k, pull, batchwise
        self.prompts = _drawn(pool, length, width, generator=generator)
        self.keys = _drawn(pool, width, generator=generator)

    def begin_task(self, task: int, *, generator: torch.Generator) -> None:
        """Nothing is new."""

    def choose(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines (B, pool), and the numbers (B, top_k) of the chosen prompts, the best first."""
        cosines = F.normalize(query, dim=1) @ F.normalize(self.keys, dim=1).T
        index = cosines.topk(self.top_k, 1).indices
        return cosines, majority(index, len(self.keys)) if self.batchwise else index

    def forward(self, ask: Ask) -> Insertion:
        """Tokens (B, top_k x length, D) of the chosen prompts."""
        cosines, index = self.choose(ask.query)
        pull = -self.pull * cosines.gather(1, index).sum(1).mean() if self.pull else None
        return Insertion(self.prompts[index].flatten(1, 2), pull=pull)


class DualPrompt(nn.Module):
    """Keys and values shared by all tasks in some blocks, and those of one task in others.

    While a task is learned its own prompt is used, and its key pulled to the queries; at test the nearest key chooses.

    Parameters
    ----------
    width, tasks : int
    length : int
        Keys, and values, of a prompt.
    shared_blocks, task_blocks : sequence of int
    pull : float
    batchwise : bool
        :func:`majority`, at test.
    generator : torch.Generator, optional

    Examples
    --------
    >>> dual = DualPrompt(768, tasks=10, length=5, shared_blocks=(0, 1), task_blocks=(2, 3, 4))
    >>> sum(each.numel() for each in dual.parameters())
    253440
    """

    queried = True

    def __init__(
        self,
        width: int,
        *,
        tasks: int,
        length: int,
        shared_blocks: Sequence[int],
        task_blocks: Sequence[int],
        pull: float = 0.1,
        batchwise: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.shared_blocks, self.pull, self.batchwise = tuple(shared_blocks), pull, batchwise
        self.shared = _drawn(len(shared_blocks), 2, length, width, generator=generator)
        self.of_tasks = TaskPrompts(width, tasks=tasks, length=length, blocks=task_blocks, generator=generator)
        self.keys = _drawn(tasks, width, generator=generator)

    def begin_task(self, task: int, *, generator: torch.Generator) -> None:
        """Nothing is new."""

    def forward(self, ask: Ask) -> Insertion:
        """Keys and values of the shared blocks and of the task's blocks."""
        batch = len(ask.query)
        cosines = F.normalize(ask.query, dim=1) @ F.normalize(self.keys, dim=1).T
        pull = None
        if ask.index is not None:
            index = ask.index
        elif self.training:
            index = torch.full((batch,), ask.task, device=cosines.device)
        else:
            # Keys of tasks to come have learned nothing.
            index = cosines[:, : ask.task + 1].argmax(1)
            if self.batchwise:
                index = majority(index[:, None], len(self.keys))[:, 0]
        if self.training and self.pull:
            pull = -self.pull * cosines.gather(1, index[:, None]).mean()
        shared = {
            block: (pair[0].expand(batch, -1, -1), pair[1].expand(batch, -1, -1))
            for block, pair in zip(self.shared_blocks, self.shared, strict=True)
        }
        return Insertion(prefixes={**shared, **self.of_tasks.prefixes(index)}, pull=pull)


class TaskPrompts(nn.Module):
    """Keys and values of each task in some blocks, chosen by number.

    Parameters
    ----------
    width, tasks, length : int
    blocks : sequence of int
    momentum : float
        Share of the mean of earlier tasks' prompts that a new task's prompt starts from.
    generator : torch.Generator, optional

    Examples
    --------
    >>> prompts = TaskPrompts(768, tasks=10, length=5, blocks=range(5))
    >>> sum(each.numel() for each in prompts.parameters())
    384000
    """

    queried = True

    def __init__(
        self,
        width: int,
        *,
        tasks: int,
        length: int,
        blocks: Sequence[int],
        momentum: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.blocks, self.momentum = tuple(blocks), momentum
        self.prompts = _drawn(len(self.blocks), 2, tasks, length, width, generator=generator)

    def begin_task(self, task: int, *, generator: torch.Generator) -> None:
        """Start the new task's prompts near those before."""
        if task and self.momentum:
            with torch.no_grad():
                before = self.prompts[:, :, :task].mean(2)
                self.prompts[:, :, task].mul_(1 - self.momentum).add_(before, alpha=self.momentum)

    def prefixes(self, index: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """Keys and values (B, length, D) by block; row i is of prompt ``index[i]``."""
        chosen = self.prompts[:, :, index]  # (block, key or value, B, length, D)
        return {block: (pair[0], pair[1]) for block, pair in zip(self.blocks, chosen, strict=True)}

    def forward(self, ask: Ask) -> Insertion:
        """Those of ``ask.index``; without it, of ``ask.task``."""
        index = torch.full((len(ask.query),), ask.task, device=ask.query.device) if ask.index is None else ask.index
        return Insertion(prefixes=self.prefixes(index))


def orthogonal_rows(rows: Tensor, start: int, stop: int, *, generator: torch.Generator | None = None) -> Tensor:
    """New rows ``start`` to ``stop``: drawn at random, orthogonal to the rows before and to one another, of length 1.

    Parameters
    ----------
    rows : Tensor, (M, F)
        Those before ``start`` are left as they are.
    start, stop : int
    generator : torch.Generator, optional

    Returns
    -------
    Tensor, (M, F)

    Raises
    ------
    ValueError
        If there are more rows than dimensions.

    Examples
    --------
    >>> rows = orthogonal_rows(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), 1, 2)
    >>> rows[0], rows[1].abs()
    (tensor([2., 0.]), tensor([0., 1.]))
    """
    if stop > rows.shape[1]:
        raise ValueError(f"{stop} rows cannot be orthogonal in {rows.shape[1]} dimensions; expected fewer components.")
    done = rows.double().clone()
    for i in range(start, stop):
        new = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64)
        before = torch.linalg.qr(done[:i].T).Q if i else done[:0].T
        for _ in range(2):  # a second pass takes off what rounding left
            new = new - before @ (before.T @ new)
        done[i] = new / new.norm()
    return done.to(rows.dtype)


class CODAPrompt(nn.Module):
    """Keys and values that are sums of components, weighted by ``cos(query * attention, key)``.

    Each task has a share of the components, made orthogonal to those before when it begins; earlier ones are used but
    get no gradient.

    Parameters
    ----------
    width, tasks, components : int
    length : int
        The first half are keys, the second values.
    blocks : sequence of int
    generator : torch.Generator, optional

    Raises
    ------
    ValueError
        If ``length`` is odd.

    Examples
    --------
    >>> coda = CODAPrompt(768, tasks=10, components=10, length=2, blocks=range(5))
    >>> sum(each.numel() for each in coda.parameters())
    153600
    """

    queried = True

    def __init__(
        self,
        width: int,
        *,
        tasks: int,
        components: int,
        length: int,
        blocks: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if length % 2:
            raise ValueError(f"length is {length}; expected an even number, of keys and values.")
        self.tasks, self.blocks = tasks, tuple(blocks)
        self.components = _drawn(len(self.blocks), components, length, width, generator=generator)
        self.keys = _drawn(len(self.blocks), components, width, generator=generator)
        self.attention = _drawn(len(self.blocks), components, width, generator=generator)

    def share(self, task: int) -> tuple[int, int]:
        """First component of a task, and the one after its last; where they do not divide, tasks differ by one."""
        count = self.keys.shape[1]
        return task * count // self.tasks, (task + 1) * count // self.tasks

    def begin_task(self, task: int, *, generator: torch.Generator) -> None:
        """Draw the task's components, keys and attention orthogonal to those before."""
        start, stop = self.share(task)
        with torch.no_grad():
            for each in (self.components, self.keys, self.attention):
                for of_block in each:
                    flat = of_block.flatten(1)
                    flat.copy_(orthogonal_rows(flat, start, stop, generator=generator))

    def forward(self, ask: Ask) -> Insertion:
        """Keys and values of the blocks."""
        start, stop = self.share(ask.task)
        prefixes = {}
        for i, block in enumerate(self.blocks):
            components, keys, attention = (
                torch.cat([each[i, :start].detach(), each[i, start:stop]])
                for each in (self.components, self.keys, self.attention)
            )
            attended = F.normalize(ask.query[:, None] * attention, dim=2)
            weights = torch.einsum("bmd,md->bm", attended, F.normalize(keys, dim=1))
            prompt = torch.einsum("bm,mld->bld", weights, components)
            half = prompt.shape[1] // 2
            prefixes[block] = (prompt[:, :half], prompt[:, half:])
        return Insertion(prefixes=prefixes)
