"""What choosing examples costs: operations of scoring counted against those of training.

The unit is F, a forward pass of the learner for one example; training on it costs 3 F, forward and backward (Evans et
al. 2024, JEST, A.4). The filter ratio f is the share of the super-batch that is thrown away, so that every example
learned from has 1 / (1 - f) scored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def _check_ratio(filter_ratio: float) -> None:
    if not 0 <= filter_ratio < 1:
        raise ValueError(
            f"The filter ratio is {filter_ratio}; expected a share from 0 to below 1, that is thrown away."
        )


def relative_cost(
    filter_ratio: float,
    *,
    reference: float = 0.0,
    learner_scores: bool = True,
    reuse: bool = True,
    teacher: float = 0.0,
) -> float:
    """Operations of an iteration relative to one without selection, on as many examples learned from.

    ``(2 + 1 / (1 - f) + reference / (1 - f) + teacher) / 3``, where the chosen examples' scoring pass is also their
    forward pass of training (``reuse``); otherwise 3 in place of 2. JEST, A.4: ``reference`` is 0 where its embeddings
    are kept from an earlier pass, and 1 for one of the learner's size that is run.

    Parameters
    ----------
    filter_ratio : float
        f. At 0 nothing is scored.
    reference : float
        Forward pass of the reference, in units of the learner's.
    learner_scores : bool
        Whether the learner scores; not for a score by the reference alone.
    reuse : bool
        Whether the scoring pass is also the forward pass of training.
    teacher : float
        Forward pass of a teacher that the chosen examples are distilled from.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the filter ratio is no share below 1.

    Examples
    --------
    >>> relative_cost(0.8), relative_cost(0.8, reference=1.0), relative_cost(0.0)
    (2.3333333333333335, 4.0, 1.0)
    """
    _check_ratio(filter_ratio)
    if filter_ratio == 0:
        return (3 + teacher) / 3
    scored = 1 / (1 - filter_ratio)
    # Rounded, as 1 - 0.8 is not 0.2.
    total = (2 + (not (reuse and learner_scores))) + (learner_scores + reference) * scored + teacher
    return round(total, 12) / 3


def flexible_cost(filter_ratio: float, *, low: float) -> float:
    """Relative operations where scoring, and half of training, are at a low resolution (Flexi-JEST, A.4).

    ``0.5 + 0.5 A + A / (3 (1 - f))``, as printed.

    Parameters
    ----------
    filter_ratio : float
        f.
    low : float
        Cost of the low resolution in units of the full one's, A.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the filter ratio is no share below 1.

    Examples
    --------
    >>> round(flexible_cost(0.8, low=0.25), 4)
    1.0417
    """
    _check_ratio(filter_ratio)
    return 0.5 + 0.5 * low + low / (3 * (1 - filter_ratio))


@torch.no_grad()
def forward_flops(module: nn.Module, *inputs: Any) -> int:
    """Operations of a forward pass, as PyTorch counts them: matrix products, convolutions and attention.

    A product and a sum are two operations. Modes and buffers of the module are left as they are.

    Parameters
    ----------
    module : Module
    *inputs
        For one example.

    Returns
    -------
    int

    Examples
    --------
    >>> forward_flops(nn.Linear(10, 5), torch.zeros(1, 10))
    100
    """
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            module(*inputs)
    finally:
        for each, mode in modes.items():
            each.training = mode
    return counter.get_total_flops()
