"""Heads against their formula and against torch's own batch normalisation of vectors."""

import pytest
import torch
from torch import nn

from vision_methods.heads import VectorNorm, mlp


def head(seed=0):
    return mlp(6, 10, 4, generator=torch.Generator().manual_seed(seed))


def test_it_is_linear_norm_rectify_linear():
    torch.manual_seed(0)
    module, vectors = head(), torch.randn(5, 3, 6)
    first, norm, _, last = module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    hidden = vectors.flatten(0, 1) @ first.weight.T + first.bias
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(module(vectors), (hidden.clamp(min=0) @ last.weight.T).view(5, 3, 4))
    assert last.bias is None


@pytest.mark.parametrize("shape", [(12, 10), (3, 4, 10), (3, 2, 2, 10)])
@pytest.mark.parametrize("training", [True, False])
def test_vectors_are_normalised_as_by_torch(shape, training):
    torch.manual_seed(0)
    ours, theirs = VectorNorm(10).train(training), nn.BatchNorm1d(10).train(training)
    for _ in range(2):
        vectors = 3 * torch.randn(shape) + 1
        ones = [vectors.clone().requires_grad_() for _ in range(2)]
        found, expected = ours(ones[0]), theirs(ones[1].view(-1, 10))
        torch.testing.assert_close(found, expected.view(shape))
        weight = torch.randn(shape)
        (found * weight).sum().backward()
        (expected.view(shape) * weight).sum().backward()
        torch.testing.assert_close(ones[0].grad, ones[1].grad, atol=1e-5, rtol=1e-4)
    assert (ours.momentum, ours.eps) == (0.1, 1e-5)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_names_of_the_state_are_plain():
    assert set(head().state_dict()) == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
        "3.weight",
    }


def test_weights_come_from_the_generator():
    a, b, c = head(0), head(0), head(1)
    assert torch.equal(a[3].weight, b[3].weight)
    assert not torch.equal(a[3].weight, c[3].weight)
    wide = mlp(400, 300, 200, generator=torch.Generator().manual_seed(0))
    assert float(wide[0].weight.detach().std()) == pytest.approx(400**-0.5, rel=0.02)
    assert float(wide[3].weight.detach().std()) == pytest.approx(300**-0.5, rel=0.02)
    assert not wide[0].bias.any()


def test_bad_sizes():
    with pytest.raises(ValueError, match="6, 0 and 4"):
        mlp(6, 0, 4)
