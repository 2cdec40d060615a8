"""Costs against JEST's formulas and numbers, and operations counted by hand."""

import pytest
import torch
from torch import nn

from vision_methods.scoring_cost import flexible_cost, forward_flops, relative_cost


@pytest.mark.parametrize(("filter_ratio", "cost"), [(0, 1), (0.5, 4 / 3), (0.8, 7 / 3), (0.9, 4)])
def test_jest_with_a_cached_reference(filter_ratio, cost):
    assert relative_cost(filter_ratio) == pytest.approx(cost, abs=1e-12)


@pytest.mark.parametrize("filter_ratio", [0.5, 0.8])
def test_a_reference_of_the_same_size_that_is_run(filter_ratio):
    expected = relative_cost(filter_ratio) + 1 / (3 * (1 - filter_ratio))
    assert relative_cost(filter_ratio, reference=1.0) == pytest.approx(expected)
    assert relative_cost(0.8, reference=1.0) == pytest.approx(4.0)


def test_what_is_not_scored_costs_nothing():
    assert relative_cost(0.8, learner_scores=False) == pytest.approx(1.0)
    assert relative_cost(0.8, learner_scores=False, reference=1.0) == pytest.approx(8 / 3)
    assert relative_cost(0.0, reference=4.0, reuse=False) == 1.0
    assert relative_cost(0.0, teacher=3.0) == 2.0


def test_a_second_forward_pass_of_the_chosen_costs_a_third():
    assert relative_cost(0.8, reuse=False) - relative_cost(0.8) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("low", "cost"), [(0.25, 1.0417), (0.28, 1.1067)])
def test_flexible_resolution(low, cost):
    assert flexible_cost(0.8, low=low) == pytest.approx(cost, abs=5e-5)


@pytest.mark.parametrize("cost", [relative_cost, lambda f: flexible_cost(f, low=0.25)])
@pytest.mark.parametrize("filter_ratio", [-0.1, 1.0])
def test_shares_out_of_range_are_refused(cost, filter_ratio):
    with pytest.raises(ValueError, match="thrown away"):
        cost(filter_ratio)


def test_operations_of_a_convolution_and_a_layer():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 7))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert forward_flops(network, torch.randn(1, 3, 8, 8)) == 2 * (36 * 4 * 27) + 2 * (144 * 7)
    assert network.training
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
