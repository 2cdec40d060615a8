"""Tasks, the loss of a task, and the measures of an accuracy matrix."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vision_methods.continual_protocol import (
    average_accuracy,
    best_seen,
    checked_matrix,
    final_accuracy,
    forgetting_best,
    forgetting_step,
    learned_accuracy,
    masked_cross_entropy,
    measures,
    row_means,
    split_classes,
)

NAN = np.nan
GOLDEN = np.array([[90, NAN, NAN], [80, 85, NAN], [70, 80, 88]])


def test_golden_matrix():
    assert forgetting_best(GOLDEN) == 12.5
    assert forgetting_step(GOLDEN) == 8.75
    assert final_accuracy(GOLDEN) == pytest.approx(79.3333, abs=1e-4)
    assert average_accuracy(GOLDEN) == pytest.approx(83.9444, abs=1e-4)
    assert learned_accuracy(GOLDEN) == pytest.approx(263 / 3)


def test_one_task_and_joint_training_forget_nothing():
    for matrix in ([[90.0]], [[90.0, 80.0, 70.0]]):
        assert forgetting_best(matrix) == forgetting_step(matrix) == 0
        assert final_accuracy(matrix) == average_accuracy(matrix)


def test_forgetting_measures_differ_and_can_be_negative():
    # Task 0 is best at the second stage: what "best" counts from.
    matrix = [[50, NAN, NAN], [90, 60, NAN], [70, 70, 80]]
    assert (
        forgetting_best(matrix) == ((90 - 70) + (60 - 70)) / 2 + 5
    )  # the best of task 1 is its final accuracy: 0 lost
    assert forgetting_step(matrix) == ((50 - 90) + ((90 - 70) + (60 - 70)) / 2) / 2


def test_micro_weighs_tasks_by_their_pictures():
    counts = np.array([10, 30, 60])
    expected = (70 * 10 + 80 * 30 + 88 * 60) / 100
    found = measures(GOLDEN, counts)
    assert found["last_micro"] == pytest.approx(expected)
    assert found["last_macro"] == pytest.approx(238 / 3)
    assert row_means(GOLDEN, counts)[1] == pytest.approx((80 * 10 + 85 * 30) / 40)
    equal = measures(GOLDEN, np.array([5, 5, 5]))
    assert equal["last_micro"] == equal["last_macro"]
    assert equal["average_micro"] == equal["average_macro"]


@pytest.mark.parametrize("matrix", [[[1.0, NAN], [NAN, 1.0]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [1.0]])
def test_refuses_incomplete_matrices(matrix):
    with pytest.raises(ValueError, match="accuracy matrix"):
        checked_matrix(matrix)


def test_split_has_each_class_once_and_follows_the_seed():
    for classes, tasks, first in ((100, 10, None), (10, 3, None), (196, 10, 16), (5, 5, None)):
        split = split_classes(classes, tasks, seed=3, first=first)
        assert len(split) == tasks
        assert sorted(np.concatenate(split)) == list(range(classes))
        again = split_classes(classes, tasks, seed=3, first=first)
        assert all(np.array_equal(a, b) for a, b in zip(split, again, strict=True))
    orders = {tuple(np.concatenate(split_classes(100, 10, seed=seed))) for seed in range(5)}
    assert len(orders) == 5


@pytest.mark.parametrize(("tasks", "first"), [(11, None), (0, None), (10, 5), (1, 10)])
def test_split_refuses_empty_tasks(tasks, first):
    with pytest.raises(ValueError, match="expected"):
        split_classes(10, tasks, seed=0, first=first)


def test_masked_loss_is_that_of_the_current_classes_alone():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 6, generator=generator, requires_grad=True)
    classes = torch.tensor([4, 1])
    labels = classes[torch.randint(2, (8,), generator=generator)]
    masked = torch.full((8, 6), -torch.inf)
    masked[:, classes] = logits[:, classes]
    loss = masked_cross_entropy(logits, labels, classes)
    torch.testing.assert_close(loss, F.cross_entropy(masked, labels))
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, [0, 2, 3, 5]] == 0).all()
    assert (logits.grad[:, [1, 4]] != 0).all()
    torch.testing.assert_close(masked_cross_entropy(logits, labels, None), F.cross_entropy(logits, labels))


def test_old_head_rows_stay_only_without_decay_and_old_moments():
    def row(*, weight_decay: float = 0.0, reset: bool = True) -> torch.Tensor:
        head = torch.nn.Linear(3, 4, bias=False)
        torch.nn.init.ones_(head.weight)
        features = torch.rand(16, 3, generator=torch.Generator().manual_seed(1))
        optimiser = torch.optim.Adam(head.parameters(), lr=0.1, weight_decay=weight_decay)
        for classes in (torch.tensor([0, 1]), torch.tensor([2, 3])):
            if reset:
                optimiser = torch.optim.Adam(head.parameters(), lr=0.1, weight_decay=weight_decay)
            before = head.weight.detach().clone()
            labels = classes[torch.arange(16) % 2]
            for _ in range(3):
                optimiser.zero_grad()
                masked_cross_entropy(head(features), labels, classes).backward()
                assert head.weight.grad is not None
                others = [c for c in range(4) if c not in classes.tolist()]
                assert (head.weight.grad[others] == 0).all()
                optimiser.step()
        return head.weight.detach()[:2] - before[:2]

    assert (row() == 0).all()
    assert (row(weight_decay=0.1) != 0).all()
    assert (row(reset=False) != 0).any()


def test_only_seen_classes_are_named():
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.0, 9.0, 1.0]])
    assert best_seen(scores, np.array([2])).tolist() == [2, 2]
    assert best_seen(scores, [2, 0]).tolist() == [0, 2]
