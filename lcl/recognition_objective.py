"""What recognition networks are trained on: cross-entropy, mixed pairs, and pictures perturbed to mislead."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def l2_attack(
    net: nn.Module, pictures: Tensor, labels: Tensor, *, epsilon: float, steps: int, step_size: float
) -> Tensor:
    """Perturb pictures to raise the cross-entropy: projected gradient ascent in an L2 ball (Madry et al. 2018).

    The network should be in evaluation mode. Starts at the picture; every step goes ``step_size`` along the normalised
    gradient, back into the ball of radius ``epsilon`` and into [0, 1].

    Parameters
    ----------
    net : Module
    pictures : Tensor, (B, C, H, W)
        In [0, 1].
    labels : Tensor of int, (B,)
    epsilon, step_size : float
        L2 norms.
    steps : int

    Returns
    -------
    Tensor, (B, C, H, W)

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> start = torch.full((1, 1, 2, 2), 0.5)
    >>> moved = l2_attack(net, start, torch.tensor([0]), epsilon=0.2, steps=5, step_size=0.1)
    >>> round(float((moved - start).norm()), 3)
    0.2
    """
    change = torch.zeros_like(pictures)
    for _ in range(steps):
        change.requires_grad_()
        loss = F.cross_entropy(net(pictures + change).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, change)
        with torch.no_grad():
            length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
            change = change + step_size * gradient / length
            length = change.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
            change = change * (epsilon / length).clamp(max=1)
            change = (pictures + change).clamp(0, 1) - pictures
    return (pictures + change).detach()


def labelled_loss(logits: Tensor, labels: Tensor, *, share: float, smoothing: float, batch: int) -> Tensor:
    """Cross-entropy, summed over these pictures and divided by the batch of all processes.

    With mixup (Zhang et al. 2018) neighbours in the batch were mixed, so the target is their labels in these shares.

    Parameters
    ----------
    logits : Tensor, (B, classes)
    labels : Tensor of int, (B,)
    share : float
        Of a picture's own label; 1 without mixup.
    smoothing : float
        Of labels.
    batch : int

    Returns
    -------
    Tensor, scalar

    Examples
    --------
    >>> labelled_loss(torch.zeros(2, 4), torch.tensor([0, 1]), share=1.0, smoothing=0.0, batch=2)  # log 4
    tensor(1.3863)
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
    if share < 1:
        other = F.cross_entropy(logits, neighbours(labels), label_smoothing=smoothing, reduction="sum")
        loss = share * loss + (1 - share) * other
    return loss / batch


def neighbours(batch: Tensor) -> Tensor:
    """Every item of a batch exchanged with its neighbour.

    Examples
    --------
    >>> neighbours(torch.tensor([1, 2, 3, 4]))
    tensor([2, 1, 4, 3])
    """
    return batch.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
