"""One row per presentation of a stimulus, and back to stimulus x repeat.

Experiments are stored trial by trial (NWB, Brain-Score); a :class:`~neural_fits.recordings.Recording` is sorted.
"""

from typing import Any

import numpy as np


def count_repeats(stimulus_id: Any) -> np.ndarray:
    """Number the presentations of each stimulus in their order: 0, 1, ...

    Parameters
    ----------
    stimulus_id : sequence, (presentation,)
        Stimulus of each presentation.

    Returns
    -------
    array of int, (presentation,)

    Examples
    --------
    >>> count_repeats(["a", "b", "a", "a", "b"]).tolist()
    [0, 0, 1, 2, 1]
    """
    seen: dict[Any, int] = {}
    numbers = np.empty(len(stimulus_id), dtype=int)
    for row, each in enumerate(np.asarray(stimulus_id).tolist()):
        numbers[row] = seen.get(each, 0)
        seen[each] = seen.get(each, 0) + 1
    return numbers


def place_presentations(stimulus_id: Any, repetition: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where each presentation belongs in stimulus x repeat.

    Parameters
    ----------
    stimulus_id, repetition : sequence, (presentation,)
        Stimulus and number of the repeat of each presentation.

    Returns
    -------
    ids, repeats : array
        The stimuli in the order of their first presentation, and the numbers of the repeats in ascending order.
    row, column : array of int, (presentation,)
        Places: ``ids[row]`` is ``stimulus_id`` and ``repeats[column]`` is ``repetition``.

    Raises
    ------
    ValueError
        If a stimulus has the same repeat twice.

    Examples
    --------
    >>> ids, repeats, row, column = place_presentations(["b", "a", "b"], [1, 1, 2])
    >>> ids.tolist(), repeats.tolist(), row.tolist(), column.tolist()
    (['b', 'a'], [1, 2], [0, 1, 0], [0, 0, 1])
    """
    stimulus_id, repetition = np.asarray(stimulus_id), np.asarray(repetition)
    values, first, sorted_row = np.unique(stimulus_id, return_index=True, return_inverse=True)
    order = np.argsort(first)
    row = np.argsort(order)[sorted_row.ravel()]
    repeats, column = np.unique(repetition, return_inverse=True)
    column = column.ravel()
    cells, counts = np.unique(row * len(repeats) + column, return_counts=True)
    if (counts > 1).any():
        which, again = divmod(int(cells[counts > 1][0]), len(repeats))
        raise ValueError(
            f"stimulus {values[order][which]} has repeat {repeats[again]} more than once: "
            f"correct the numbers or have the repeats counted in their order"
        )
    return values[order], repeats, row, column


def sort_presentations(values: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Values per presentation as stimulus x repeat; what was not presented is missing.

    Parameters
    ----------
    values : array, (presentation, ...)
        Numbers or text.
    row, column : array of int, (presentation,)
        From :func:`place_presentations`.

    Returns
    -------
    array, (stimulus, repeat, ...)
        Missing numbers are NaN (whole numbers become float64 then), missing text is "".

    Examples
    --------
    >>> sort_presentations(np.array([5, 6, 7]), np.array([0, 1, 0]), np.array([0, 0, 1]))
    array([[ 5.,  7.],
           [ 6., nan]])
    """
    shape = (row.max() + 1, column.max() + 1, *values.shape[1:])
    dtype, missing = values.dtype, None
    if len(row) < shape[0] * shape[1]:
        missing = "" if dtype.kind == "U" else np.nan
        dtype = np.dtype(float) if dtype.kind in "biu" else dtype
    table = np.empty(shape, dtype) if missing is None else np.full(shape, missing, dtype)
    table[row, column] = values
    return table


def presented(responses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Presentations that happened: those with a response of any neuron.

    A stimulus or repeat without any response keeps one empty presentation, so that it is not lost.

    Parameters
    ----------
    responses : array, (stimulus, repeat, ...)
        NaN where missing.

    Returns
    -------
    row, column : array of int, (presentation,)
        Stimulus and repeat of each, stimulus by stimulus.

    Examples
    --------
    >>> row, column = presented(np.array([[[1.0], [2.0]], [[3.0], [np.nan]]]))
    >>> row.tolist(), column.tolist()
    ([0, 0, 1], [0, 1, 0])
    """
    there = np.any(~np.isnan(responses), axis=tuple(range(2, responses.ndim)))
    there[~np.any(there, axis=1), 0] = True
    there[0, ~np.any(there, axis=0)] = True
    row, column = np.nonzero(there)
    return row, column
