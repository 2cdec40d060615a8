"""Class-incremental learning: how classes become tasks, the loss of a task, and what an accuracy matrix says.

Classes arrive in tasks, a few at a time; pictures of earlier tasks are not seen again; one head names all classes seen
so far, and no task is told at test. Entry (t, i) of the accuracy matrix is the accuracy on the test pictures of task i
after training on task t, all classes seen so far competing; NaN above the diagonal.

Two forgetting measures are in use and differ, so both have a name (Thede et al. 2024 do not say which is theirs):

==========================  ========================================================================================
measure                     mean over
==========================  ========================================================================================
:func:`forgetting_best`     old tasks of (best accuracy there ever was - final accuracy); LAMDA-PILOT, HiDe-Prompt
:func:`forgetting_step`     stages of the mean loss of accuracy on old tasks since the stage before; CODA-Prompt
==========================  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor


def split_classes(classes: int, tasks: int, *, seed: int, first: int | None = None) -> list[np.ndarray]:
    """Classes of every task: a random order of all classes, cut into tasks.

    Parameters
    ----------
    classes, tasks : int
    seed : int
        Of the order.
    first : int, optional
        Classes of the first task; an even share without it. The others are as even as can be, larger ones first.

    Returns
    -------
    list of ndarray of int
        Class numbers of each task, in the order of learning.

    Raises
    ------
    ValueError
        If a task would be empty.

    Examples
    --------
    >>> [task.tolist() for task in split_classes(10, 5, seed=0)]
    [[4, 6], [2, 7], [3, 5], [9, 0], [8, 1]]
    >>> [len(task) for task in split_classes(196, 10, seed=0, first=16)]
    [16, 20, 20, 20, 20, 20, 20, 20, 20, 20]
    """
    if not 1 <= tasks <= classes:
        raise ValueError(f"tasks is {tasks} for {classes} classes; expected 1 to {classes}.")
    order = np.random.default_rng(seed).permutation(classes)
    if first is None:
        return np.array_split(order, tasks)
    if tasks == 1 or not 1 <= first <= classes - tasks + 1:
        raise ValueError(f"first is {first} of {classes} classes in {tasks} tasks; expected every task to get a class.")
    return [order[:first], *np.array_split(order[first:], tasks - 1)]


def masked_cross_entropy(logits: Tensor, labels: Tensor, classes: Tensor | None) -> Tensor:
    """Cross-entropy in which only some classes compete, so that rows of others in the head get no gradient.

    Parameters
    ----------
    logits : Tensor, (B, C)
    labels : Tensor of int, (B,)
        Numbers of columns; all of them among ``classes``.
    classes : Tensor of int, (K,), optional
        Those that compete; all without it.

    Returns
    -------
    Tensor
        Mean over the batch.

    Examples
    --------
    >>> logits = torch.tensor([[5.0, 0.0, 0.0]], requires_grad=True)
    >>> loss = masked_cross_entropy(logits, torch.tensor([2]), torch.tensor([1, 2]))
    >>> loss.backward()
    >>> round(loss.item(), 4), logits.grad
    (0.6931, tensor([[ 0.0000,  0.5000, -0.5000]]))
    """
    if classes is None:
        return F.cross_entropy(logits, labels)
    place = torch.full((logits.shape[1],), -1, device=logits.device)
    place[classes] = torch.arange(len(classes), device=logits.device)
    return F.cross_entropy(logits[:, classes], place[labels])


def best_seen(scores: Tensor, seen: Sequence[int] | np.ndarray) -> Tensor:
    """Class of the highest score among those seen so far.

    Parameters
    ----------
    scores : Tensor, (B, C)
    seen : sequence of int
        Class numbers.

    Returns
    -------
    Tensor of int64, (B,)
        Class numbers.

    Examples
    --------
    >>> best_seen(torch.tensor([[9.0, 1.0, 2.0]]), [2, 1])
    tensor([2])
    """
    columns = torch.as_tensor(np.asarray(seen), device=scores.device)
    return columns[scores[:, columns].argmax(1)]


def checked_matrix(matrix: ArrayLike) -> np.ndarray:
    """The matrix as floats, lower triangular with NaN above; a single row is a joint training on all tasks.

    Raises
    ------
    ValueError
        If its shape is another, or an entry on or below the diagonal is missing.

    Examples
    --------
    >>> checked_matrix(np.array([[0.9, 0.0]]))
    array([[0.9, 0. ]])
    """
    found = np.asarray(matrix, float)
    square = found.ndim == 2 and found.shape[0] == found.shape[1]
    if not square and not (found.ndim == 2 and found.shape[0] == 1):
        raise ValueError(
            f"The accuracy matrix has shape {found.shape}; expected (tasks, tasks), or one row of all tasks."
        )
    known = found[np.tril_indices(len(found))] if square else found
    if not np.isfinite(known).all():
        raise ValueError(
            "The accuracy matrix lacks an entry on or below its diagonal; expected one of every task seen."
        )
    return found


def row_means(matrix: ArrayLike, counts: ArrayLike | None = None) -> np.ndarray:
    """Accuracy over all tasks seen, after every stage.

    Parameters
    ----------
    matrix : array, (stages, tasks)
    counts : array of int, (tasks,), optional
        Test pictures of every task: gives the share of all test pictures (micro); without it every task counts the same
        (macro). They differ where tasks differ in size.

    Returns
    -------
    ndarray, (stages,)

    Examples
    --------
    >>> matrix = np.array([[0.9, np.nan], [0.8, 0.5]])
    >>> row_means(matrix), row_means(matrix, np.array([30, 10]))
    (array([0.9 , 0.65]), array([0.9  , 0.725]))
    """
    found = checked_matrix(matrix)
    weights = np.where(np.isnan(found), 0, 1 if counts is None else np.asarray(counts, float))
    return (np.nan_to_num(found) * weights).sum(1) / weights.sum(1)


def final_accuracy(matrix: ArrayLike, counts: ArrayLike | None = None) -> float:
    """Accuracy over all tasks after the last one (``last``); weights as in :func:`row_means`.

    Examples
    --------
    >>> round(final_accuracy([[90, np.nan, np.nan], [80, 85, np.nan], [70, 80, 88]]), 4)
    79.3333
    """
    return float(row_means(matrix, counts)[-1])


def average_accuracy(matrix: ArrayLike, counts: ArrayLike | None = None) -> float:
    """Mean over stages of the accuracy over the tasks seen by then (``average``).

    Examples
    --------
    >>> round(average_accuracy([[90, np.nan, np.nan], [80, 85, np.nan], [70, 80, 88]]), 4)
    83.9444
    """
    return float(row_means(matrix, counts).mean())


def forgetting_best(matrix: ArrayLike) -> float:
    """Mean over old tasks of the best accuracy at any stage less the final one; 0 where nothing could be forgotten.

    Examples
    --------
    >>> forgetting_best([[90, np.nan, np.nan], [80, 85, np.nan], [70, 80, 88]])
    12.5
    """
    found = checked_matrix(matrix)
    if len(found) < 2:
        return 0.0
    old = found[:, :-1]
    return float((np.nanmax(old, 0) - old[-1]).mean())


def forgetting_step(matrix: ArrayLike) -> float:
    """Mean over stages of what old tasks lost on average since the stage before; 0 where nothing could be forgotten.

    Examples
    --------
    >>> forgetting_step([[90, np.nan, np.nan], [80, 85, np.nan], [70, 80, 88]])
    8.75
    """
    found = checked_matrix(matrix)
    lost = [(found[t - 1, :t] - found[t, :t]).mean() for t in range(1, len(found))]
    return float(np.mean(lost)) if lost else 0.0


def learned_accuracy(matrix: ArrayLike) -> float:
    """Mean accuracy on a task just after it was learned, all classes seen by then competing.

    Examples
    --------
    >>> round(learned_accuracy([[90, np.nan, np.nan], [80, 85, np.nan], [70, 80, 88]]), 4)
    87.6667
    """
    found = checked_matrix(matrix)
    return float(np.diagonal(found).mean() if len(found) > 1 else found.mean())


def measures(matrix: ArrayLike, counts: ArrayLike) -> dict[str, float]:
    """Every measure of an accuracy matrix, by name.

    Parameters
    ----------
    matrix : array, (stages, tasks)
    counts : array of int, (tasks,)
        Test pictures of every task.

    Returns
    -------
    dict of str to float
        ``last_micro``, ``last_macro``, ``average_micro``, ``average_macro``, ``learned``, ``forgetting_best``,
        ``forgetting_step``.

    Examples
    --------
    >>> found = measures([[90, np.nan, np.nan], [80, 85, np.nan], [70, 80, 88]], [1, 1, 1])
    >>> {name: round(value, 2) for name, value in found.items()}
    {'last_micro': 79.33, 'last_macro': 79.33, 'average_micro': 83.94, 'average_macro': 83.94, 'learned': 87.67,
     'forgetting_best': 12.5, 'forgetting_step': 8.75}
    """
    sizes = np.asarray(counts)
    return {
        "last_micro": final_accuracy(matrix, sizes),
        "last_macro": final_accuracy(matrix),
        "average_micro": average_accuracy(matrix, sizes),
        "average_macro": average_accuracy(matrix),
        "learned": learned_accuracy(matrix),
        "forgetting_best": forgetting_best(matrix),
        "forgetting_step": forgetting_step(matrix),
    }
