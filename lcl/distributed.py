"""Many processes as one: what `torchrun` starts, and sums and batches of all of them that gradients pass through.

Every process sends its share of the global loss backward: its part of a sum over the batch or, of a loss that all hold
alike, the loss over the number of processes. Sums and gathered batches pass gradients back as sums, and parameter
gradients are summed at the end: the result is the gradient of one process that holds the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Number of processes that train together; 1 without `torchrun`.

    Examples
    --------
    >>> world_size()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; 0 without `torchrun`.

    Examples
    --------
    >>> rank()
    0
    """
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextmanager
def process_group() -> Iterator[None]:
    """Join the process group that `torchrun` describes in the environment, and leave it at the end.

    Uses NCCL where CUDA is available and gloo otherwise. Does nothing outside `torchrun`, or if a group exists.

    Examples
    --------
    >>> with process_group():
    ...     world_size()
    1
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here.

    Examples
    --------
    >>> barrier()
    """
    if world_size() > 1:
        dist.barrier()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes; gradients are summed on the way back.

    Parameters
    ----------
    tensor : Tensor
        Same shape on every process.

    Returns
    -------
    Tensor
        The same on every process.

    Examples
    --------
    >>> sum_over_processes(torch.ones(2))
    tensor([1., 1.])
    """
    if world_size() == 1:
        return tensor
    total = _Sum.apply(tensor)
    assert isinstance(total, Tensor)
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        counts = [torch.zeros((), dtype=torch.int64, device=tensor.device) for _ in range(world_size())]
        dist.all_gather(counts, torch.tensor(len(tensor), device=tensor.device))
        sizes = [int(count) for count in counts]
        # Messages of one size for all: processes may hold different numbers of rows.
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.start, ctx.rows = sum(sizes[: rank()]), len(tensor)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.rows]


def gather_over_processes(tensor: Tensor) -> Tensor:
    """Rows of all processes, in the order of the processes; gradients are summed on the way back to their owner.

    Parameters
    ----------
    tensor : Tensor, shape (rows, ...)
        As many rows as this process has, also 0; the other axes and the type are the same on every process.

    Returns
    -------
    Tensor, shape (rows of all processes, ...)
        The same on every process.

    Raises
    ------
    ValueError
        If the tensor has no axis.

    Examples
    --------
    >>> gather_over_processes(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    if not tensor.ndim:
        raise ValueError("A tensor without an axis was given; expected rows, which are joined along the first axis.")
    if world_size() == 1:
        return tensor
    whole = _Gather.apply(tensor)
    assert isinstance(whole, Tensor)
    return whole


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients of parameters by their sums over all processes, in one message.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those without a gradient are passed over; the same ones on every process.

    Examples
    --------
    >>> sum_gradients([nn.Parameter(torch.zeros(3))])
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world_size() == 1 or not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
