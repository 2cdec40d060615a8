"""Penalties on leaving the parameters of earlier tasks: elastic weight consolidation and synaptic intelligence.

Both keep, for any list of parameters, an importance and the values at the end of the last task, and add

====  ====================================  ==========================================================================
name  penalty                               importance
====  ====================================  ==========================================================================
EWC   lambda / 2 sum F (theta - theta*)^2   F: mean squared gradient of log p(y | x) (Kirkpatrick et al. 2017)
SI    c sum Omega (theta - theta*)^2        Omega: loss decrease along the path per squared distance (Zenke et al. 2017)
====  ====================================  ==========================================================================

There is no penalty during the first task. SI's path integral takes the gradient of the task's loss alone, without the
penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

#: Labels of Fisher's gradients: those given; drawn from the network's own answers; those given, each weighted by its
#: probability (as Mammoth's online EWC does).
Fisher = Literal["empirical", "sampled", "weighted"]


def quadratic_penalty(
    parameters: Sequence[Tensor], anchors: Sequence[Tensor], importances: Sequence[Tensor], strength: float
) -> Tensor:
    """``strength * sum importance (parameter - anchor)^2`` over all tensors.

    Parameters
    ----------
    parameters, anchors, importances : sequence of Tensor
        Of equal shapes.
    strength : float

    Returns
    -------
    Tensor
        A scalar.

    Examples
    --------
    >>> theta = torch.tensor([1.0, 0.5], requires_grad=True)
    >>> penalty = quadratic_penalty([theta], [torch.zeros(2)], [torch.tensor([1.0, 4.0])], 2 / 2)
    >>> penalty.backward()
    >>> penalty.item(), theta.grad
    (2.0, tensor([2., 4.]))
    """
    terms = [
        (importance * (parameter - anchor) ** 2).sum()
        for parameter, anchor, importance in zip(parameters, anchors, importances, strict=True)
    ]
    return strength * torch.stack(terms).sum()


def fisher_information(
    log_probabilities: Callable[[int], Tensor],
    labels: Tensor,
    parameters: Sequence[Tensor],
    *,
    kind: Fisher = "empirical",
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Diagonal of the Fisher information: mean over pictures of the squared gradient of ``log p(y | x)``.

    Parameters
    ----------
    log_probabilities : callable
        Number of a picture to the logarithms (C,) of its class probabilities.
    labels : Tensor of int, (N,)
        Columns of those.
    parameters : sequence of Tensor
        That the gradient is taken for; one that an answer does not depend on has none.
    kind : {"empirical", "sampled", "weighted"}
        See :data:`Fisher`.
    generator : torch.Generator, optional
        Draws the labels of ``sampled``.

    Returns
    -------
    list of Tensor
        Like the parameters; none is negative.

    Examples
    --------
    >>> weight = torch.zeros(2, requires_grad=True)
    >>> fisher_information(lambda i: torch.log_softmax(weight, 0), torch.tensor([0]), [weight])
    [tensor([0.2500, 0.2500])]
    """
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for i, label in enumerate(labels.tolist()):
        logs = log_probabilities(i)
        if kind == "sampled":
            label = int(torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator))
        weight = float(logs[label].detach().exp()) if kind == "weighted" else 1.0
        gradients = torch.autograd.grad(logs[label], list(parameters), allow_unused=True)
        for each, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                each += weight * gradient**2
    return [each / len(labels) for each in total]


class Regulariser(nn.Module):
    """What EWC and SI share: the parameters, their values at the end of the last task, and their importance.

    Its state holds everything that later tasks need.

    Parameters
    ----------
    parameters : sequence of Parameter
        Not taken into its own state.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.of = list(parameters)
        for i, parameter in enumerate(self.of):
            self.register_buffer(f"anchor{i}", parameter.detach().clone())
            self.register_buffer(f"importance{i}", torch.zeros_like(parameter))
        self.register_buffer("tasks", torch.zeros((), dtype=torch.int64))

    @property
    def anchors(self) -> list[Tensor]:
        """Values at the end of the last task."""
        return [self.get_buffer(f"anchor{i}") for i in range(len(self.of))]

    @property
    def importances(self) -> list[Tensor]:
        """Like the parameters."""
        return [self.get_buffer(f"importance{i}") for i in range(len(self.of))]

    def _penalty(self, strength: float) -> Tensor | None:
        if strength == 0 or not self.of or int(self.get_buffer("tasks")) == 0:
            return None
        return quadratic_penalty(self.of, self.anchors, self.importances, strength)

    def _anchor(self) -> None:
        for anchor, parameter in zip(self.anchors, self.of, strict=True):
            anchor.copy_(parameter.detach())
        self.get_buffer("tasks").add_(1)


class EWC(Regulariser):
    """Elastic weight consolidation, online: ``F <- gamma F + F_new`` after every task.

    With ``gamma`` 1 the Fishers of all tasks are added up, all anchored at the last values (Schwarz et al. 2018).

    Parameters
    ----------
    parameters : sequence of Parameter
    strength : float
        Lambda, with the half: ``lambda / 2``. Mammoth's ``e_lambda`` is without, so it is half as large.
    gamma : float

    Examples
    --------
    >>> theta = torch.zeros(2, requires_grad=True)
    >>> ewc = EWC([theta], strength=2.0, gamma=1.0)
    >>> ewc.penalty() is None
    True
    >>> ewc.end_task([torch.tensor([1.0, 4.0])])
    >>> _ = theta.data.add_(torch.tensor([1.0, 0.5]))
    >>> ewc.penalty().item()
    2.0
    """

    def __init__(self, parameters: Sequence[Tensor], *, strength: float, gamma: float = 1.0) -> None:
        super().__init__(parameters)
        self.strength, self.gamma = strength, gamma

    def penalty(self) -> Tensor | None:
        """None during the first task and at lambda 0."""
        return self._penalty(self.strength / 2)

    def end_task(self, fisher: Sequence[Tensor]) -> None:
        """Take in the Fisher information of the task that ended (:func:`fisher_information`), and its values."""
        for importance, new in zip(self.importances, fisher, strict=True):
            importance.mul_(self.gamma).add_(new)
        self._anchor()


class SI(Regulariser):
    """Synaptic intelligence.

    Before each step of the optimiser :meth:`before_step` is given the gradient of the task's loss; after it
    :meth:`after_step` adds ``-gradient * change`` to the path integral.

    Parameters
    ----------
    parameters : sequence of Parameter
    strength : float
        c.
    xi : float
        Added to squared distances, against division by 0.

    Examples
    --------
    Gradient descent on theta^2 / 2 from 1 with rate 0.01: 1 / (2 - 0.01), near the decrease of 0.5.

    >>> theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    >>> si = SI([theta], strength=1.0)
    >>> for _ in range(2000):
    ...     si.before_step([theta.detach().clone()])
    ...     _ = theta.data.mul_(1 - 0.01)
    ...     si.after_step()
    >>> round(float(si.path[0]), 6)
    0.502513
    """

    def __init__(self, parameters: Sequence[Tensor], *, strength: float, xi: float = 0.1) -> None:
        super().__init__(parameters)
        self.strength, self.xi = strength, xi
        for i, parameter in enumerate(self.of):
            self.register_buffer(f"path{i}", torch.zeros_like(parameter))
        self._step: list[tuple[Tensor | None, Tensor]] = []

    @property
    def path(self) -> list[Tensor]:
        """Path integrals of the task so far."""
        return [self.get_buffer(f"path{i}") for i in range(len(self.of))]

    def penalty(self) -> Tensor | None:
        """None during the first task and at c = 0."""
        return self._penalty(self.strength)

    def before_step(self, gradients: Sequence[Tensor | None]) -> None:
        """Gradients of the task's loss alone, at the values that the step starts from."""
        self._step = [(gradient, each.detach().clone()) for gradient, each in zip(gradients, self.of, strict=True)]

    def after_step(self) -> None:
        """Add what the step contributed."""
        for path, each, (gradient, before) in zip(self.path, self.of, self._step, strict=True):
            if gradient is not None:
                path.sub_(gradient * (each.detach() - before))

    def end_task(self) -> None:
        """Turn the path integrals of the task into importance, and anchor its values."""
        for importance, path, anchor, each in zip(self.importances, self.path, self.anchors, self.of, strict=True):
            importance.add_(path / ((each.detach() - anchor) ** 2 + self.xi))
            path.zero_()
        self._anchor()
