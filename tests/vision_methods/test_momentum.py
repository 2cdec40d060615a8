"""Targets that follow a network, and schedules at the values of DetCon's 100-epoch run."""

import pytest
import torch
from torch import nn

from lcl.optimizers import learning_rate_factor
from vision_methods.momentum import follow, keep_at, target_of

#: 100 epochs of ImageNet in batches of 4096, one of them warm-up.
STEPS, WARMUP, PEAK = 31_278, 312, 3.2


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))


@pytest.mark.parametrize(("step", "keep"), [(0, 0.996), (7819, 0.9965857), (15639, 0.998), (31278, 1.0)])
def test_share_that_is_kept(step, keep):
    assert keep_at(step, STEPS, 0.996) == pytest.approx(keep, abs=5e-8)


def test_the_share_grows_from_base_to_one():
    shares = [keep_at(step, 50, 0.9) for step in range(51)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (pytest.approx(0.9), 1.0)
    assert keep_at(17, 50, 1.0) == 1.0


@pytest.mark.parametrize(("step", "rate"), [(156, 1.6), (312, 3.2), (5000, 3.022421), (15795, 1.6), (31278, 0.0)])
def test_learning_rate_of_the_recipe(step, rate):
    # The package's warm-up ends its first step at 1 / warmup, where the recipe's starts at 0: one step ahead.
    here = step - 1 if step <= WARMUP else step
    assert PEAK * learning_rate_factor(here, STEPS, WARMUP) == pytest.approx(rate, abs=5e-7)


def test_a_target_follows_parameters_and_no_buffers():
    online, target = network(0), network(1)
    with torch.no_grad():
        online(torch.rand(8, 1, 6, 6))
        target(torch.rand(8, 1, 6, 6) + 1)
    old = {name: value.clone() for name, value in target.state_dict().items()}
    follow(target, online, 0.75)
    parameters = {name for name, _ in target.named_parameters()}
    for name, value in target.state_dict().items():
        new = online.state_dict()[name]
        expected = old[name] + 0.25 * (new - old[name]) if name in parameters else old[name]
        torch.testing.assert_close(value, expected)
    assert not torch.equal(target[1].running_mean, online[1].running_mean)


def test_kept_whole_it_is_frozen_and_kept_not_at_all_a_copy():
    online, target = network(0), network(1)
    old = {name: value.clone() for name, value in target.named_parameters()}
    follow(target, online, 1.0)
    assert all(torch.equal(value, old[name]) for name, value in target.named_parameters())
    follow(target, online, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), online.parameters(), strict=True))


def test_it_follows_the_new_parameters_and_has_no_gradient():
    online = network(0)
    target = target_of(online)
    optimiser = torch.optim.SGD(online.parameters(), 0.1)
    images = torch.rand(4, 1, 6, 6)
    before = [parameter.clone() for parameter in online.parameters()]
    (online(images) - target(images)).square().sum().add(online(images).sum()).backward()
    optimiser.step()
    follow(target, online, 0.5)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in target.parameters())
    for old, new, held in zip(before, online.parameters(), target.parameters(), strict=True):
        torch.testing.assert_close(held, (old + new.detach()) / 2)
    assert not torch.equal(before[0], online[0].weight)


def test_a_target_is_a_copy_that_shares_nothing():
    online = network(0).eval()
    online(torch.rand(4, 1, 6, 6))
    target = target_of(online)
    assert not target.training
    assert all(parameter.requires_grad for parameter in online.parameters())
    for name, value in online.state_dict().items():
        held = target.state_dict()[name]
        assert torch.equal(held, value)
        assert held.data_ptr() != value.data_ptr()


@pytest.mark.parametrize(("step", "steps", "base"), [(-1, 10, 0.9), (11, 10, 0.9), (0, 0, 0.9), (1, 10, 1.1)])
def test_bad_schedules(step, steps, base):
    with pytest.raises(ValueError, match=r"expected"):
        keep_at(step, steps, base)


def test_bad_targets():
    with pytest.raises(ValueError, match=r"keep is 1\.2"):
        follow(network(0), network(0), 1.2)
    with pytest.raises(ValueError, match=r"Parameter 0\.bias of shape \(3,\) is only in one"):
        follow(nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3, bias=False)), 0.5)
    with pytest.raises(ValueError, match=r"Parameter weight of shape"):
        follow(nn.Linear(2, 3), nn.Linear(4, 3), 0.5)
