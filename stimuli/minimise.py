"""Minimisation of many independent functions at once, by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


def minimise_each(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    *,
    max_iterations: int,
    history: int = 100,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """L-BFGS (Nocedal 1980) with a step of its own for every row: what a row becomes does not depend on the others.

    Steps are halved, and halved again, until the function falls by 1e-4 of what its slope promises (Armijo); a step
    without positive curvature is not remembered. A row for which no step falls forgets its steps and goes down the
    gradient; if that falls nowhere either, it is at its minimum as far as its precision goes. Rows that are finished
    leave the batch.

    Parameters
    ----------
    function : callable
        Of points (row, dimension) and of which rows they are (row,); returns values and truth values "finished",
        (row,) each.
    start : Tensor, (row, dimension)
    max_iterations : int
    history : int
        Steps that are remembered; memory is ``2 history`` times that of ``start``.
    progress : callable, optional
        Called after every iteration with its number and with how many rows are finished.

    Returns
    -------
    points : Tensor, (row, dimension)
        The lowest point of every row.
    values : Tensor, (row,)
    iterations : Tensor of int, (row,)

    Raises
    ------
    ValueError
        If ``start`` is not (row, dimension), a count is not positive, or the function is not finite at the start.

    Examples
    --------
    >>> valley = lambda x, rows: ((x - rows[:, None]).pow(2).sum(1), torch.zeros(len(x), dtype=torch.bool))
    >>> points, values, _ = minimise_each(valley, torch.full((3, 2), 9.0), max_iterations=9)
    >>> points.round(decimals=3)
    tensor([[0., 0.],
            [1., 1.],
            [2., 2.]])
    """
    if start.ndim != 2 or max_iterations < 1 or history < 1:
        raise ValueError(
            f"start has {start.ndim} dimensions, max_iterations is {max_iterations} and history {history}; expected "
            "(row, dimension) and positive counts."
        )

    def evaluate(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value, finished = function(x, rows)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient, finished

    points, values = start.detach().clone(), torch.empty(len(start), dtype=start.dtype, device=start.device)
    iterations = torch.zeros(len(start), dtype=torch.int64)
    rows = torch.arange(len(start), device=start.device)
    x = points.clone()
    value, gradient, finished = evaluate(x, rows)
    if not torch.isfinite(value).all():
        raise ValueError(f"the function is {value.tolist()} at the start; expected finite values.")
    steps: list[tuple[Tensor, Tensor, Tensor]] = []  # step, change of gradient, 1 / their product (0: not remembered)
    scale = 1 / gradient.norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    forgotten = torch.ones_like(finished)
    for iteration in range(1, max_iterations + 1):
        if finished.any():
            points[rows[finished]], values[rows[finished]] = x[finished], value[finished]
            keep = ~finished
            x, value, gradient, rows, scale = x[keep], value[keep], gradient[keep], rows[keep], scale[keep]
            forgotten = forgotten[keep]
            steps = [(s[keep], y[keep], rho[keep]) for s, y, rho in steps]
            if len(rows) == 0:
                break
        q, weights = gradient, []
        for s, y, rho in reversed(steps):
            weights.append(rho * _inner(s, q))
            q = q - weights[-1][:, None] * y
        q = q * scale[:, None]
        for (s, y, rho), weight in zip(steps, reversed(weights), strict=True):
            q = q + (weight - rho * _inner(y, q))[:, None] * s
        slope = -_inner(q, gradient)
        uphill = ~(slope < 0)
        if uphill.any():  # rounding has spoilt what was remembered
            q = torch.where(uphill[:, None], gradient * scale[:, None], q)
            slope = -_inner(q, gradient)
        length = torch.ones_like(value)
        trial = x - q
        new, new_gradient, new_finished = evaluate(trial, rows)
        for _ in range(20):
            falls = new <= value + 1e-4 * length * slope
            if falls.all():
                break
            length = torch.where(falls, length, length * 0.5)
            trial = x - length[:, None] * q
            new, new_gradient, new_finished = evaluate(trial, rows)
        falls = new <= value + 1e-4 * length * slope
        s, y = trial - x, new_gradient - gradient
        product = _inner(s, y)
        useful = falls & (product > 1e-10 * _inner(y, y))
        rho = torch.where(useful, 1 / torch.where(useful, product, 1.0), 0.0)
        tiny = torch.finfo(x.dtype).tiny
        scale = torch.where(useful, product / _inner(y, y).clamp_min(tiny), scale)
        stuck = (~falls | (s == 0).all(1)) & forgotten
        if not falls.all():
            steps = [(old_s, old_y, torch.where(falls, old, 0.0)) for old_s, old_y, old in steps]
            scale = torch.where(falls, scale, 1 / gradient.norm(dim=1).clamp_min(tiny))
        forgotten = ~falls | (forgotten & ~useful)
        steps = [*steps, (s, y, rho)][-history:]
        x, value = torch.where(falls[:, None], trial, x), torch.where(falls, new, value)
        gradient = torch.where(falls[:, None], new_gradient, gradient)
        finished = (falls & new_finished) | stuck
        iterations[rows.cpu()] = iteration
        if progress is not None:
            progress(iteration, len(start) - len(rows) + int(finished.sum()))
    points[rows], values[rows] = x, value
    return points, values, iterations
