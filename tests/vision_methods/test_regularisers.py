"""Penalties against closed forms."""

import pytest
import torch

from vision_methods.regularisers import EWC, SI, fisher_information, quadratic_penalty


def test_penalty_and_its_gradient_in_closed_form():
    generator = torch.Generator().manual_seed(0)
    theta = [torch.randn(*shape, generator=generator, requires_grad=True) for shape in ((3, 2), (4,))]
    anchors = [torch.randn(each.shape, generator=generator) for each in theta]
    fisher = [torch.rand(each.shape, generator=generator) for each in theta]
    ewc = EWC(theta, strength=3.0)
    with torch.no_grad():
        kept = [each.clone() for each in theta]
        for each, anchor in zip(theta, anchors, strict=True):
            each.copy_(anchor)
    ewc.end_task(fisher)
    assert ewc.penalty().item() == 0  # at the anchor
    with torch.no_grad():
        for each, value in zip(theta, kept, strict=True):
            each.copy_(value)
    ewc.penalty().backward()
    for each, anchor, importance in zip(theta, anchors, fisher, strict=True):
        torch.testing.assert_close(each.grad, 3.0 * importance * (each.detach() - anchor))


def test_golden_penalty():
    theta = torch.tensor([1.0, 0.5], requires_grad=True)
    ewc = EWC([torch.zeros(2)], strength=2.0)
    ewc.end_task([torch.tensor([1.0, 4.0])])
    ewc.of = [theta]
    penalty = ewc.penalty()
    assert penalty is not None
    assert penalty.item() == 2
    penalty.backward()
    assert theta.grad.tolist() == [2, 4]


@pytest.mark.parametrize("make", [lambda p: EWC(p, strength=5.0), lambda p: SI(p, strength=5.0)])
def test_no_penalty_in_the_first_task(make):
    assert make([torch.zeros(2, requires_grad=True)]).penalty() is None


@pytest.mark.parametrize("make", [lambda p: EWC(p, strength=0.0), lambda p: SI(p, strength=0.0)])
def test_no_penalty_at_strength_zero(make):
    regulariser = make([torch.zeros(2, requires_grad=True)])
    regulariser.end_task(*([[torch.ones(2)]] if isinstance(regulariser, EWC) else []))
    assert regulariser.penalty() is None


def test_fisher_of_a_linear_softmax_is_analytic():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (20,), generator=generator)
    p = (x @ weight.detach().T).softmax(1)

    def logs(i: int) -> torch.Tensor:
        return torch.log_softmax(weight @ x[i], 0)

    # d log p_y / dW = (onehot(y) - p) x^T
    residual = torch.eye(3, dtype=torch.float64)[y] - p
    squared = residual[:, :, None] ** 2 * x[:, None] ** 2
    (empirical,) = fisher_information(logs, y, [weight])
    torch.testing.assert_close(empirical, squared.mean(0))
    (weighted,) = fisher_information(logs, y, [weight], kind="weighted")
    torch.testing.assert_close(weighted, (p[torch.arange(20), y][:, None, None] * squared).mean(0))
    # The expectation over the network's own answers is p (1 - p) x^2.
    draws = [
        fisher_information(logs, y, [weight], kind="sampled", generator=torch.Generator().manual_seed(seed))[0]
        for seed in range(300)
    ]
    exact = ((p * (1 - p))[:, :, None] * x[:, None] ** 2).mean(0)
    torch.testing.assert_close(torch.stack(draws).mean(0), exact, rtol=0.15, atol=0.02)
    assert all((each >= 0).all() for each in (empirical, weighted, draws[0]))


def test_online_ewc_of_gamma_one_sums_fishers():
    theta = [torch.zeros(3, requires_grad=True)]
    fishers = [torch.rand(3, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    whole, fading = EWC(theta, strength=1.0, gamma=1.0), EWC(theta, strength=1.0, gamma=0.5)
    for fisher in fishers:
        whole.end_task([fisher])
        fading.end_task([fisher])
    torch.testing.assert_close(whole.importances[0], fishers[0] + fishers[1] + fishers[2])
    torch.testing.assert_close(fading.importances[0], fishers[0] / 4 + fishers[1] / 2 + fishers[2])


def test_a_large_lambda_holds_what_matters():
    theta = torch.zeros(2, requires_grad=True)
    ewc = EWC([theta], strength=1e6)
    ewc.end_task([torch.tensor([1.0, 0.0])])
    optimiser = torch.optim.SGD([theta], lr=1e-6)
    for _ in range(200):
        optimiser.zero_grad()
        (((theta - 1) ** 2).sum() + ewc.penalty()).backward()
        optimiser.step()
    assert abs(theta[0].item()) < 1e-5
    assert theta[1].item() > 1e-4


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_path_integral_on_a_quadratic(rate):
    # theta_n = (1 - rate)^n: the sum of gradient x step is rate sum (1 - rate)^2n = 1 / (2 - rate).
    theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    si = SI([theta], strength=1.0, xi=0.1)
    for _ in range(3000):
        loss = (theta**2).sum() / 2
        (gradient,) = torch.autograd.grad(loss, theta)
        si.before_step([gradient])
        with torch.no_grad():
            theta -= rate * gradient
        si.after_step()
    assert si.path[0].item() == pytest.approx(1 / (2 - rate), abs=1e-6)
    if rate == 0.01:
        assert si.path[0].item() == pytest.approx(0.502513, abs=1e-6)
    omega = si.path[0].item()
    si.end_task()
    assert si.importances[0].item() == pytest.approx(omega / (1 + 0.1), abs=1e-6)  # it moved by 1
    assert si.path[0].item() == 0
    assert si.penalty().item() == 0


def test_small_steps_sum_to_the_decrease_of_any_loss():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    matrix, start = root @ root.T / 4, torch.randn(4, generator=generator, dtype=torch.float64)
    theta = start.clone().requires_grad_()
    si = SI([theta], strength=1.0)
    for _ in range(20000):
        gradient = matrix @ theta.detach()
        si.before_step([gradient])
        with torch.no_grad():
            theta -= 1e-3 * gradient
        si.after_step()
    end = theta.detach()
    assert si.path[0].sum().item() == pytest.approx((start @ matrix @ start - end @ matrix @ end).item() / 2, rel=2e-3)


def test_state_carries_all_that_later_tasks_need():
    theta = torch.zeros(2, requires_grad=True)
    si = SI([theta], strength=2.0)
    si.before_step([torch.ones(2)])
    theta.data -= 0.5
    si.after_step()
    si.end_task()
    theta.data += 1
    other = SI([theta], strength=2.0)
    other.load_state_dict(si.state_dict())
    torch.testing.assert_close(other.penalty(), si.penalty())
    expected = quadratic_penalty([theta], [torch.full((2,), -0.5)], [torch.full((2,), 0.5 / (0.25 + 0.1))], 2.0)
    torch.testing.assert_close(si.penalty(), expected)
