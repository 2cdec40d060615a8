import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from neural_fits.splits import (
    SPLITS,
    grouped_kfold_splits,
    grouped_splits,
    kfold_splits,
    random_splits,
    splits_from_assignment,
    stratified_splits,
)

LABELS = np.repeat(np.arange(6), 5)


def make(name, **options):
    return SPLITS[name](30 if name in ("random", "kfold") else LABELS, **options)


@pytest.mark.parametrize("name", SPLITS)
def test_parts_are_apart_seeded_and_recorded(name):
    splits = make(name, n_folds=3) if "kfold" in name else make(name, n_splits=4, train_size=0.7)
    for train, test in splits:
        assert not set(train) & set(test)
        assert len(np.unique(train)) == len(train)
    record = json.loads(json.dumps(splits.record))
    assert record.pop("name") == name
    again = make(name, **record)
    assert all(np.array_equal(a, b) for a, b in zip(splits.train + splits.test, again.train + again.test, strict=True))
    other = make(name, **{**record, "seed": record["seed"] + 1})
    assert any(not np.array_equal(a, b) for a, b in zip(splits.test, other.test, strict=True))


def test_stratified_equals_brain_score():
    labels = np.repeat(["noise", "texture"], [67, 68])
    theirs = StratifiedShuffleSplit(n_splits=10, train_size=0.9, random_state=1).split(np.zeros(135), labels)
    ours = stratified_splits(labels)
    assert len(ours) == 10
    for (train, test), (their_train, their_test) in zip(ours, theirs, strict=True):
        assert np.array_equal(train, their_train)
        assert np.array_equal(test, their_test)


@settings(max_examples=30, deadline=None)
@given(n_groups=st.integers(3, 9), n_folds=st.integers(2, 9), seed=st.integers(0, 99))
def test_groups_are_left_out_whole(n_groups, n_folds, seed):
    groups = np.random.default_rng(seed).integers(0, n_groups, 60)
    n_groups = len(np.unique(groups))
    if n_folds > n_groups:
        with pytest.raises(ValueError, match=f"expected 2 to {n_groups} folds"):
            grouped_kfold_splits(groups, n_folds=n_folds, seed=seed)
        return
    splits = grouped_kfold_splits(groups, n_folds=n_folds, seed=seed)
    assert np.array_equal(np.sort(np.concatenate(splits.test)), np.arange(60))
    for train, test in [*splits, *grouped_splits(groups, train_size=0.5, seed=seed)]:
        assert not set(groups[train]) & set(groups[test])


def test_kfold_tests_every_stimulus_once_a_repeat():
    splits = kfold_splits(23, n_folds=5, n_repeats=3, seed=7)
    for repeat in range(3):
        tests = splits.test[5 * repeat : 5 * repeat + 5]
        assert np.array_equal(np.sort(np.concatenate(tests)), np.arange(23))
        assert {len(test) for test in tests} == {4, 5}


def test_stored_and_read_back():
    splits = random_splits(12, n_splits=3, train_size=0.5, seed=2)
    again = splits_from_assignment(splits.assignment(), splits.record)
    for (train, test), (train_again, test_again) in zip(splits, again, strict=True):
        assert np.array_equal(np.sort(train), train_again)
        assert np.array_equal(np.sort(test), test_again)
    with pytest.raises(ValueError, match="not a table"):
        splits_from_assignment(np.full((2, 3), 5), {})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kfold_splits(4, n_folds=5), "expected 2 to 4 folds"),
        (lambda: stratified_splits(["a", "a", "b"]), "label np.str_\\('b'\\) occurs once|label 'b' occurs once"),
        (lambda: grouped_splits(["a", "a"]), "at least 2 groups"),
        (lambda: grouped_splits(np.zeros((2, 2))), "one label for each stimulus"),
        (lambda: kfold_splits(3, n_folds=3, n_repeats=0), "at least one repeat"),
        (lambda: kfold_splits(2, n_folds=2), "leave 1 for training"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
