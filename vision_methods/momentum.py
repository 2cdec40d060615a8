"""Target networks that follow a trained network as a running average of its parameters."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

#: Added to the seed of a run for the initial weights of a target network that starts apart from the online one.
TARGET_SEED = 1_000_003


def keep_at(step: int, steps: int, base: float) -> float:
    """Share of the old target that a step keeps: from ``base`` at the first step to 1 at the end, along a cosine.

    ``keep = 1 - (1 - base) * (1 + cos(pi * step / steps)) / 2`` (Grill et al. 2020, BYOL; also DetCon_B and VITO).

    Parameters
    ----------
    step, steps : int
        This step, from 0, and their number.
    base : float
        In [0, 1].

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If ``step`` is not in 0 to ``steps``, or ``base`` not in [0, 1].

    Examples
    --------
    >>> [keep_at(step, 100, 0.99) for step in (0, 50, 100)]
    [0.99, 0.995, 1.0]
    """
    if not 0 <= step <= steps or steps < 1:
        raise ValueError(f"step is {step} of {steps}; expected 0 to the number of steps, which is at least 1.")
    if not 0 <= base <= 1:
        raise ValueError(f"base is {base}; expected the share of the old target that is kept, 0 to 1.")
    return 1 - (1 - base) * (1 + math.cos(math.pi * step / steps)) / 2


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, keep: float) -> None:
    """Move the parameters of a target towards the online network's: ``target + (1 - keep) * (online - target)``.

    To be called after the optimiser's step, so that the target sees the new parameters. Buffers stay the target's own:
    running statistics of batch normalisation are of the responses it normalises, not averages of other statistics.

    Parameters
    ----------
    target, online : Module
        Of the same parameters.
    keep : float
        Share of the old target that is kept: 1 leaves it as it is, 0 copies the online network.

    Raises
    ------
    ValueError
        If ``keep`` is not in [0, 1], or the parameters differ in name or shape.

    Examples
    --------
    >>> online, target = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> follow(target, online, keep=0.0)
    >>> torch.equal(target.weight, online.weight)
    True
    """
    if not 0 <= keep <= 1:
        raise ValueError(f"keep is {keep}; expected the share of the old target that is kept, 0 to 1.")
    of_target, of_online = dict(target.named_parameters()), dict(online.named_parameters())
    shapes = [{name: tuple(p.shape) for name, p in each.items()} for each in (of_target, of_online)]
    if shapes[0] != shapes[1]:
        name, shape = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[0]
        raise ValueError(
            f"Parameter {name} of shape {shape} is only in one of the two networks; give a target and an online "
            "network of the same parameters."
        )
    for name, parameter in of_target.items():
        parameter.lerp_(of_online[name], 1 - keep)


def target_of(module: nn.Module) -> nn.Module:
    """Copy of a network, its buffers included, that no gradient reaches.

    Parameters
    ----------
    module : Module

    Returns
    -------
    Module
        In the same mode; nothing is shared with the original.

    Examples
    --------
    >>> [parameter.requires_grad for parameter in target_of(nn.Linear(2, 2)).parameters()]
    [False, False]
    """
    return copy.deepcopy(module).requires_grad_(False)
