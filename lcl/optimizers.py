"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017).

    Every weight of two or more dimensions takes steps in proportion to its own norm:
    ``step = trust * |w| / |g + decay * w| * (g + decay * w)``, accumulated with momentum. Gains and offsets take plain
    momentum steps.

    Parameters
    ----------
    params : iterable
        Parameters or groups.
    lr : float
        Learning rate.
    momentum : float
        Share of the last step that is kept.
    weight_decay : float
        Added to the gradient as ``weight_decay * w``.
    trust : float
        Trust coefficient.

    Examples
    --------
    >>> w = nn.Parameter(torch.ones(2, 2))
    >>> w.grad = torch.ones(2, 2)
    >>> LARS([w], lr=1.0, trust=0.1).step()
    >>> w
    Parameter containing:
    tensor([[0.9000, 0.9000],
            [0.9000, 0.9000]], requires_grad=True)
    """

    def __init__(
        self, params: Any, lr: float, *, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 1e-3
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step for every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                change = parameter.grad
                if parameter.ndim > 1:
                    change = change + group["weight_decay"] * parameter
                    norm, size = parameter.norm(), change.norm()
                    # A weight or a gradient of norm 0 has no direction to scale; it takes the plain step.
                    ratio = torch.where((norm > 0) & (size > 0), group["trust"] * norm / size, 1.0)
                    change = change * ratio
                buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
                buffer.mul_(group["momentum"]).add_(change)
                parameter.sub_(group["lr"] * buffer)


def _sgd(groups: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr, momentum=0.9)


def _adamw95(groups: Any, lr: float) -> torch.optim.Optimizer:
    # A shorter memory of squared gradients, for batches whose difficulty changes (Evans et al. 2024, A.2).
    return torch.optim.AdamW(groups, lr, betas=(0.9, 0.95))


#: Optimisers by name; each takes parameter groups and a learning rate.
OPTIMIZERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adamw95": _adamw95,
    "adam": torch.optim.Adam,
    "lars": LARS,
    "sgd": _sgd,
}


def optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    gain_rate: float = 1.0,
) -> torch.optim.Optimizer:
    """Optimiser over parameters; gains and offsets have a rate of their own and no weight decay.

    Parameters
    ----------
    name : {"adamw", "adamw95", "adam", "lars", "sgd"}
        "adamw95" is AdamW with a second beta of 0.95.
    parameters : iterable of Parameter
    learning_rate, weight_decay : float
    gain_rate : float
        Learning rate of parameters of one dimension, relative to the others'. Kept as "relative" in the groups.

    Returns
    -------
    torch.optim.Optimizer

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> len(optimizer("adamw", nn.Conv2d(3, 8, 5).parameters(), learning_rate=1e-3, weight_decay=0.1).param_groups)
    2
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer is {name!r}; expected one of {', '.join(OPTIMIZERS)}.")
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay, "relative": 1.0},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "relative": gain_rate},
    ]
    return OPTIMIZERS[name](groups, learning_rate)


def learning_rate_factor(step: int, steps: int, warmup: int, *, from_zero: bool = False) -> float:
    """Linear warm-up, then half a cosine down to 0 at the last step.

    Parameters
    ----------
    step, steps : int
        This step, from 0, and their number.
    warmup : int
        Steps of warm-up.
    from_zero : bool
        The first step of the warm-up has rate 0, not the first part of the peak.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> [round(learning_rate_factor(step, 12, 2), 3) for step in (0, 1, 2, 7, 11)]
    [0.5, 1.0, 1.0, 0.5, 0.024]
    """
    if step < warmup:
        return (step + (not from_zero)) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return float(0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress, dtype=torch.float64))))


def state_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything an optimiser has accumulated, as named tensors.

    Parameters
    ----------
    optimiser : torch.optim.Optimizer

    Returns
    -------
    dict of str to Tensor
        "number of the parameter/name of the quantity".

    Examples
    --------
    >>> w = nn.Parameter(torch.ones(2))
    >>> w.grad = torch.ones(2)
    >>> adam = torch.optim.Adam([w])
    >>> adam.step()
    >>> sorted(state_tensors(adam))
    ['0/exp_avg', '0/exp_avg_sq', '0/step']
    """
    return {
        f"{number}/{key}": value
        for number, quantities in optimiser.state_dict()["state"].items()
        for key, value in quantities.items()
        if isinstance(value, Tensor)
    }


def load_state_tensors(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`state_tensors` gave.

    Parameters
    ----------
    optimiser : torch.optim.Optimizer
        Over the same parameters.
    tensors : dict of str to Tensor

    Examples
    --------
    >>> adam = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    >>> load_state_tensors(adam, {"0/step": torch.tensor(3.0)})
    >>> state_tensors(adam)
    {'0/step': tensor(3.)}
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split("/")
        state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
