import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from stimuli.minimise import minimise_each


def rosenbrock(x, rows):
    value = (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)
    return value, value.detach() < 1e-18


def never(x):
    return torch.zeros(len(x), dtype=torch.bool)


def start(n=5, d=4):
    return torch.from_numpy(np.random.default_rng(0).uniform(-1.5, 1.5, (n, d)))


def test_finds_the_minima_that_scipy_finds():
    points, values, _ = minimise_each(rosenbrock, start(), max_iterations=500)
    for begin, point, value in zip(start().numpy(), points.numpy(), values, strict=True):

        def scalar(x):
            return float(rosenbrock(torch.from_numpy(x[None]), None)[0])

        reference = minimize(scalar, begin, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
        if reference.fun < 1e-6:  # not the local minimum of the four-dimensional function
            assert np.allclose(point, reference.x, atol=1e-3)
        assert value <= reference.fun + 1e-6


def test_a_row_does_not_depend_on_the_others():
    together, values, iterations = minimise_each(rosenbrock, start(), max_iterations=30)
    for i in range(len(start())):
        alone, value, taken = minimise_each(rosenbrock, start()[i : i + 1], max_iterations=30)
        assert torch.allclose(alone[0], together[i], rtol=1e-8)
        assert torch.allclose(value[0], values[i], rtol=1e-8)
        assert taken[0] == iterations[i]


def test_an_ill_conditioned_quadratic_is_solved_in_about_its_dimension():
    scales = torch.logspace(0, 4, 8, dtype=torch.float64)

    def function(x, rows):
        return 0.5 * (scales * (x - 1) ** 2).sum(1), never(x)

    points, values, _ = minimise_each(function, torch.zeros(2, 8, dtype=torch.float64), max_iterations=60)
    assert torch.allclose(points, torch.ones_like(points), atol=1e-4)
    assert values.max() < 1e-8


def test_finished_rows_stop_and_keep_their_points():
    seen = []

    def function(x, rows):
        seen.append(rows.tolist())
        # the first row says at once that it is finished
        return x.pow(2).sum(1), rows == 0

    points, values, iterations = minimise_each(function, torch.ones(2, 3), max_iterations=3)
    assert points[0].tolist() == [1, 1, 1]
    assert values[0] == 3
    assert iterations.tolist()[0] == 0
    assert seen[0] == [0, 1]
    assert all(rows == [1] for rows in seen[1:])


def test_rows_at_their_minimum_end():
    points, values, iterations = minimise_each(
        lambda x, rows: (x.pow(2).sum(1), never(x)), torch.zeros(1, 2), max_iterations=9
    )
    assert points.tolist() == [[0, 0]]
    assert values.tolist() == [0]
    assert iterations.tolist() == [1]


def test_a_row_whose_memory_misleads_it_forgets_and_goes_on():
    """Where the gradient is wrong for a while no step falls; the row must not end there."""
    calls = []

    class Misled(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return x.pow(2).sum(1)

        @staticmethod
        def backward(context, upstream):
            (x,) = context.saved_tensors
            calls.append(1)
            return upstream[:, None] * 2 * x * torch.where(x > 3, 1e-3, 1.0) * torch.tensor([1.0, 30.0])

    _, values, _ = minimise_each(
        lambda x, rows: (Misled.apply(x), never(x)), torch.tensor([[4.0, 2.0]]), max_iterations=400
    )
    assert values[0] < 1e-3


def test_progress_counts_finished_rows():
    calls = []
    minimise_each(
        lambda x, rows: (x.pow(2).sum(1), (x.abs() < 1e-3).all(1)),
        torch.ones(3, 2),
        max_iterations=20,
        progress=lambda iteration, finished: calls.append((iteration, finished)),
    )
    assert [each[0] for each in calls] == list(range(1, len(calls) + 1))
    assert calls[-1][1] == 3


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="start has 1 dimensions"):
        minimise_each(rosenbrock, torch.zeros(3), max_iterations=1)
    with pytest.raises(ValueError, match="nan"):
        minimise_each(lambda x, rows: (x.sum(1) * torch.nan, never(x)), torch.zeros(1, 2), max_iterations=1)
