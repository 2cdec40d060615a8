"""Many processes as one: what `torchrun` starts, and sums over all of them that gradients pass through.

Every process computes the same global loss from sums over the whole batch. Each divides its copy by the number of
processes before the backward pass, sums pass gradients back as sums, and parameter gradients are summed at the end:
the result is the gradient of one process that holds the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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
