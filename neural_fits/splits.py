"""Which stimuli are fitted and which are held out: random, stratified, grouped and repeated k-fold splits.

Each function returns :class:`Splits`: plain index arrays and a record (name, seed, parameters) that makes them again.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Training and test rows of each split.

    Attributes
    ----------
    train, test : tuple of integer arrays
        Rows of each split; no row is in both.
    n_stimuli : int
        Number of rows that were split.
    record : dict
        ``name``, ``seed`` and parameters: what was asked for, in plain JSON values. With the labels, if any,
        ``SPLITS[name]`` gives the same rows again.

    Examples
    --------
    >>> splits = kfold_splits(6, n_folds=3, seed=0)
    >>> [(train.tolist(), test.tolist()) for train, test in splits]
    [([0, 1, 2, 5], [3, 4]), ([1, 3, 4, 5], [0, 2]), ([0, 2, 3, 4], [1, 5])]
    >>> splits.record
    {'name': 'kfold', 'seed': 0, 'n_folds': 3, 'n_repeats': 1}
    """

    train: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]
    n_stimuli: int
    record: dict

    def __len__(self) -> int:
        """Return the number of splits."""
        return len(self.train)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over pairs (train, test)."""
        return zip(self.train, self.test, strict=True)

    def assignment(self) -> np.ndarray:
        """Table (split, stimulus) of int8 to store: 1 in training, 2 in test, 0 in neither.

        Examples
        --------
        >>> kfold_splits(4, n_folds=2, seed=0).assignment().tolist()
        [[1, 2, 2, 1], [2, 1, 1, 2]]
        """
        table = np.zeros((len(self), self.n_stimuli), dtype=np.int8)
        for row, (train, test) in zip(table, self, strict=True):
            row[train] = 1
            row[test] = 2
        return table


def splits_from_assignment(assignment: np.ndarray, record: dict) -> Splits:
    """Splits from a stored :meth:`Splits.assignment` table (rows in ascending order).

    Parameters
    ----------
    assignment : array, (split, stimulus)
        1 in training, 2 in test, 0 in neither.
    record : dict
        Their record.

    Returns
    -------
    Splits

    Raises
    ------
    ValueError
        If a value is not 0, 1 or 2.

    Examples
    --------
    >>> splits = random_splits(10, n_splits=2, train_size=0.8, seed=1)
    >>> again = splits_from_assignment(splits.assignment(), splits.record)
    >>> bool((again.assignment() == splits.assignment()).all())
    True
    """
    assignment = np.asarray(assignment)
    if assignment.ndim != 2 or not np.isin(assignment, (0, 1, 2)).all():
        raise ValueError(
            f"assignment of shape {assignment.shape} is not a table (split, stimulus) of 0, 1 (train) and 2 (test)."
        )
    return Splits(
        train=tuple(np.flatnonzero(row == 1) for row in assignment),
        test=tuple(np.flatnonzero(row == 2) for row in assignment),
        n_stimuli=assignment.shape[1],
        record=dict(record),
    )


def _checked(n_stimuli: int, pairs, record: dict) -> Splits:
    pairs = [(np.asarray(train, dtype=np.intp), np.asarray(test, dtype=np.intp)) for train, test in pairs]
    for train, test in pairs:
        if len(train) < 2 or len(test) < 1:
            raise ValueError(
                f"{record['name']} splits of {n_stimuli} stimuli leave {len(train)} for training and {len(test)} for "
                "test; expected at least 2 and 1: use more stimuli, fewer folds or another train_size."
            )
    return Splits(tuple(train for train, _ in pairs), tuple(test for _, test in pairs), n_stimuli, record)


def _labels(labels, name: str) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"{name} have shape {labels.shape}; expected one label for each stimulus.")
    return labels


def random_splits(n_stimuli: int, *, n_splits: int = 10, train_size: float = 0.9, seed: int = 1) -> Splits:
    """Draw random training sets; the rest of the stimuli is the test part (scikit-learn's ``ShuffleSplit``).

    Parameters
    ----------
    n_stimuli : int
    n_splits : int
    train_size : float
        Share of the stimuli in training, in (0, 1).
    seed : int

    Returns
    -------
    Splits

    Raises
    ------
    ValueError
        If a part would be empty.

    Examples
    --------
    >>> splits = random_splits(20, n_splits=3, train_size=0.75)
    >>> [len(train) for train, test in splits]
    [15, 15, 15]
    """
    record = {"name": "random", "seed": seed, "n_splits": n_splits, "train_size": train_size}
    shuffle = ShuffleSplit(n_splits=n_splits, train_size=train_size, random_state=seed)
    return _checked(n_stimuli, shuffle.split(np.zeros(n_stimuli)), record)


def stratified_splits(labels, *, n_splits: int = 10, train_size: float = 0.9, seed: int = 1) -> Splits:
    """Draw random training sets with the same share of every label: Brain-Score's splits, with its defaults.

    Brain-Score draws ``StratifiedShuffleSplit(n_splits=10, train_size=0.9, random_state=1)`` of scikit-learn over the
    presentations in the order of the recording.

    Parameters
    ----------
    labels : array, (stimulus,)
        What is balanced, for example the type of the image.
    n_splits : int
    train_size : float
        Share of the stimuli in training, in (0, 1).
    seed : int

    Returns
    -------
    Splits

    Raises
    ------
    ValueError
        If a label occurs once, or a part would be empty.

    Examples
    --------
    >>> labels = np.repeat(["noise", "texture"], 20)
    >>> train, test = next(iter(stratified_splits(labels)))
    >>> labels[np.sort(test)].tolist()
    ['noise', 'noise', 'texture', 'texture']
    """
    labels = _labels(labels, "labels")
    values, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(
            f"label {values[counts.argmin()]!r} occurs once; stratified splits need at least 2 stimuli for each label."
        )
    record = {"name": "stratified", "seed": seed, "n_splits": n_splits, "train_size": train_size}
    shuffle = StratifiedShuffleSplit(n_splits=n_splits, train_size=train_size, random_state=seed)
    return _checked(len(labels), shuffle.split(np.zeros(len(labels)), labels), record)


def kfold_splits(n_stimuli: int, *, n_folds: int = 10, n_repeats: int = 1, seed: int = 0) -> Splits:
    """k-fold cross-validation of shuffled stimuli, repeated with new shuffles: every stimulus is tested once a repeat.

    Parameters
    ----------
    n_stimuli : int
    n_folds : int
        Folds whose sizes differ by one at most.
    n_repeats : int
    seed : int

    Returns
    -------
    Splits
        ``n_repeats * n_folds`` splits, rows in ascending order.

    Raises
    ------
    ValueError
        If there are fewer stimuli than folds, or fewer than 2 folds.

    Examples
    --------
    >>> splits = kfold_splits(10, n_folds=5, n_repeats=2)
    >>> len(splits), np.sort(np.concatenate(splits.test[:5])).tolist()
    (10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    record = {"name": "kfold", "seed": seed, "n_folds": n_folds, "n_repeats": n_repeats}
    return _checked(n_stimuli, _folds(np.arange(n_stimuli), n_stimuli, n_folds, n_repeats, seed), record)


def grouped_kfold_splits(groups, *, n_folds: int = 10, n_repeats: int = 1, seed: int = 0) -> Splits:
    """k-fold cross-validation with whole groups (movie, texture family, image) in one fold.

    Groups are shuffled and dealt to folds, so folds hold equal numbers of groups (within one), not of stimuli. With as
    many folds as groups, each group is left out once.

    Parameters
    ----------
    groups : array, (stimulus,)
        Label of the group of each stimulus.
    n_folds : int
    n_repeats : int
    seed : int

    Returns
    -------
    Splits

    Raises
    ------
    ValueError
        If there are fewer groups than folds.

    Examples
    --------
    >>> movies = np.repeat(["a", "b", "c"], 4)
    >>> [np.unique(movies[test]).tolist() for train, test in grouped_kfold_splits(movies, n_folds=3)]
    [['c'], ['a'], ['b']]
    """
    groups = _labels(groups, "groups")
    names, of_stimulus = np.unique(groups, return_inverse=True)
    record = {"name": "grouped_kfold", "seed": seed, "n_folds": n_folds, "n_repeats": n_repeats}
    return _checked(len(groups), _folds(of_stimulus, len(names), n_folds, n_repeats, seed), record)


def _folds(of_stimulus: np.ndarray, n_units: int, n_folds: int, n_repeats: int, seed: int):
    if not 2 <= n_folds <= n_units or n_repeats < 1:
        raise ValueError(
            f"n_folds is {n_folds} and n_repeats {n_repeats}; expected 2 to {n_units} folds (stimuli or groups to "
            "share out) and at least one repeat."
        )
    rng = np.random.default_rng(seed)
    for _ in range(n_repeats):
        fold_of_unit = np.empty(n_units, dtype=int)
        fold_of_unit[rng.permutation(n_units)] = np.arange(n_units) % n_folds
        fold = fold_of_unit[of_stimulus]
        for k in range(n_folds):
            yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)


def grouped_splits(groups, *, n_splits: int = 10, train_size: float = 0.9, seed: int = 1) -> Splits:
    """Draw random sets of whole groups for training; the other groups are the test part.

    Parameters
    ----------
    groups : array, (stimulus,)
        Label of the group of each stimulus.
    n_splits : int
    train_size : float
        Share of the **groups** in training, in (0, 1).
    seed : int

    Returns
    -------
    Splits

    Raises
    ------
    ValueError
        If a part would be empty.

    Examples
    --------
    >>> families = np.repeat(np.arange(5), 3)
    >>> train, test = next(iter(grouped_splits(families, train_size=0.8)))
    >>> len(set(families[test])), set(families[test]) & set(families[train])
    (1, set())
    """
    groups = _labels(groups, "groups")
    names, of_stimulus = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"groups hold the one label {names[0]!r}; expected at least 2 groups to leave some out.")
    shuffle = ShuffleSplit(n_splits=n_splits, train_size=train_size, random_state=seed)
    pairs = [
        (np.flatnonzero(np.isin(of_stimulus, train)), np.flatnonzero(np.isin(of_stimulus, test)))
        for train, test in shuffle.split(names)
    ]
    record = {"name": "grouped", "seed": seed, "n_splits": n_splits, "train_size": train_size}
    return _checked(len(groups), pairs, record)


#: Functions that split stimuli, by name. ``random`` and ``kfold`` take the number of stimuli, the others labels.
SPLITS = {
    "random": random_splits,
    "stratified": stratified_splits,
    "grouped": grouped_splits,
    "kfold": kfold_splits,
    "grouped_kfold": grouped_kfold_splits,
}
