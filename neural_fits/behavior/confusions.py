"""Which categories are taken for which: confusion matrices, and how far two of them are apart."""

from collections.abc import Sequence

import numpy as np

from neural_fits.behavior.trials import NO_ANSWER


def confusion_matrix(response, category, *, categories: Sequence[str], no_answer: str = NO_ANSWER) -> np.ndarray:
    """How often each category was answered to each category shown.

    Parameters
    ----------
    response, category : array of str, (trial,)
        ``""`` where there was no trial.
    categories : sequence of str
    no_answer : str
        Response that becomes the last column.

    Returns
    -------
    ndarray of int, (shown, answered)
        As many rows as categories, one column more: no answer.

    Raises
    ------
    ValueError
        If a response or category is not in the list.

    Examples
    --------
    >>> confusion_matrix(["cat", "dog", "na"], ["cat", "cat", "dog"], categories=["cat", "dog"])
    array([[1, 1, 0],
           [0, 0, 1]])
    """
    response, category = np.broadcast_arrays(np.asarray(response), np.asarray(category))
    trial = response != ""
    answers = [*categories, no_answer]
    for what, labels, known in (("response", response[trial], answers), ("category", category[trial], answers[:-1])):
        unknown = sorted(set(labels.tolist()) - set(known))
        if unknown:
            raise ValueError(f"{what} {unknown[0]!r} is not among the categories; expected {', '.join(known)}.")
    place = {label: i for i, label in enumerate(answers)}
    rows, columns = ([place[label] for label in labels[trial].tolist()] for labels in (category, response))
    matrix = np.zeros((len(answers) - 1, len(answers)), dtype=int)
    np.add.at(matrix, (rows, columns), 1)
    return matrix


def confusion_divergence(matrix_a, matrix_b, *, errors_only: bool = False) -> float:
    """Jensen-Shannon divergence between the answers of two observers to each category, mean over categories, in bits.

    Parameters
    ----------
    matrix_a, matrix_b : array, (shown, answered)
        As :func:`confusion_matrix` gives them.
    errors_only : bool
        Leave out the right answers, so that only the kinds of errors are compared.

    Returns
    -------
    float
        0: the same; 1: no answer in common. Over the categories to which both answered; NaN if there is none.

    Raises
    ------
    ValueError
        If the shapes differ or a number is negative.

    Examples
    --------
    >>> a, b = [[8, 2, 0], [0, 10, 0]], [[4, 1, 0], [0, 0, 10]]
    >>> confusion_divergence(a, b), confusion_divergence(a, b, errors_only=True)
    (0.5, 0.0)
    """
    counts = [np.array(matrix, dtype=np.float64) for matrix in (matrix_a, matrix_b)]
    if counts[0].ndim != 2 or counts[0].shape != counts[1].shape or min(matrix.min() for matrix in counts) < 0:
        shapes = " and ".join(str(matrix.shape) for matrix in counts)
        raise ValueError(f"confusion matrices have shapes {shapes}; expected counts (shown, answered) of one shape.")
    if errors_only:
        for matrix in counts:
            np.fill_diagonal(matrix, 0)
    both = (counts[0].sum(1) > 0) & (counts[1].sum(1) > 0)
    if not both.any():
        return float("nan")
    p, q = (matrix[both] / matrix[both].sum(1, keepdims=True) for matrix in counts)
    return float((_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2).mean())


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log2(np.where(p > 0, p, 1))).sum(-1)
