"""Attention pooling against formulas by hand, limits and invariances."""

import numpy as np
import pytest
import torch

from vision_methods.attention_pooling import (
    POOLINGS,
    AttentionPooling,
    UniformPooling,
    attend,
    attended_share,
    attention_figure,
    attention_weights,
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_golden_values_of_three_cells():
    maps = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.0, 4.0]], dtype=torch.float64).T.view(1, 2, 1, 3)
    weights = attention_weights(torch.tensor([[[0.0, 1.0, 2.0]]], dtype=torch.float64))
    np.testing.assert_allclose(weights.flatten(), [0.090031, 0.244728, 0.665241], atol=5e-7)
    np.testing.assert_allclose(attend(maps, weights).flatten(), [0.824216, 2.596296], atol=5e-7)


def test_weights_are_a_distribution_that_a_constant_does_not_change():
    logits = torch.randn(5, 6, 7, generator=gen()).double()
    weights = attention_weights(logits)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(attention_weights(logits + 30), weights)


def test_half_precision_logits_are_weighed_in_float32():
    weights = attention_weights(torch.randn(2, 60, 60, generator=gen()).bfloat16())
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2))
    maps = torch.randn(2, 8, 60, 60, generator=gen(1))
    with torch.autocast("cpu", torch.bfloat16):
        pooled = attend(maps, weights)
    torch.testing.assert_close(pooled, torch.einsum("bchw,bhw->bc", maps, weights))


def test_equal_logits_are_mean_pooling():
    maps = torch.randn(3, 8, 5, 4, generator=gen()).double()
    mean = maps.mean((2, 3))
    torch.testing.assert_close(attend(maps, attention_weights(torch.zeros(3, 5, 4).double())), mean)
    torch.testing.assert_close(AttentionPooling(8, zero_last=True).double()(maps), mean)
    torch.testing.assert_close(UniformPooling()(maps.float()), mean.float())


def test_one_large_logit_picks_its_cell():
    maps = torch.randn(2, 8, 3, 3, generator=gen())
    logits = torch.zeros(2, 3, 3)
    logits[:, 1, 2] = 200.0
    torch.testing.assert_close(attend(maps, attention_weights(logits)), maps[:, :, 1, 2])


def test_permuted_cells_permute_the_weights_and_leave_the_vector():
    pool = AttentionPooling(8, generator=gen()).double()
    maps = torch.randn(2, 8, 1, 12, generator=gen(1)).double()
    order = torch.randperm(12, generator=gen(2))
    torch.testing.assert_close(pool.weights(maps[..., order]), pool.weights(maps)[..., order])
    torch.testing.assert_close(pool(maps[..., order]), pool(maps))


def test_parameters_are_those_of_the_released_network():
    with torch.device("meta"):
        pool = AttentionPooling(2048)
    shapes = {name: tuple(p.shape) for name, p in pool.named_parameters()}
    assert shapes == {
        "conv1.weight": (4096, 2048, 1, 1),
        "conv1.bias": (4096,),
        "conv2.weight": (2048, 4096, 1, 1),
        "conv2.bias": (2048,),
        "conv3.weight": (1, 2048, 1, 1),
    }
    count = sum(np.prod(shape) for shape in shapes.values())
    assert count == 2048 * 4096 + 4096 + 4096 * 2048 + 2048 + 2048 == 16_785_408
    # With torchvision's ResNet-50 and its linear layer of 1000 classes: the size of the released file.
    assert count + 25_557_032 == 42_342_440


def test_logits_are_three_matrix_products_at_every_cell():
    pool = AttentionPooling(4, hidden=6, generator=gen()).double()
    with torch.no_grad():
        pool.conv1.bias.normal_(generator=gen(1))
        pool.conv2.bias.normal_(generator=gen(2))
    maps = torch.randn(2, 4, 3, 5, generator=gen(3)).double()
    cells = maps.permute(0, 2, 3, 1)
    hidden = (cells @ pool.conv1.weight[:, :, 0, 0].T + pool.conv1.bias).clamp(min=0)
    hidden = (hidden @ pool.conv2.weight[:, :, 0, 0].T + pool.conv2.bias).clamp(min=0)
    logits = (hidden @ pool.conv3.weight[:, :, 0, 0].T)[..., 0]
    torch.testing.assert_close(pool.logits(maps), logits)
    expected = torch.einsum("bhw,bhwc->bc", logits.flatten(1).softmax(1).view(2, 3, 5), cells)
    torch.testing.assert_close(pool(maps), expected)


def test_a_zero_last_convolution_learns_while_those_before_it_wait():
    pool = AttentionPooling(8, zero_last=True, generator=gen())
    maps = torch.rand(4, 8, 5, 5, generator=gen(1))
    pool(maps).square().sum().backward()
    assert pool.conv3.weight.grad.abs().max() > 0
    assert pool.conv1.weight.grad.abs().max() == 0
    assert pool.conv2.weight.grad.abs().max() == 0


def test_gradient_reaches_every_parameter_and_the_map():
    pool = AttentionPooling(8, generator=gen())
    maps = torch.rand(4, 8, 5, 5, generator=gen(1)).requires_grad_()
    pool(maps).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in pool.parameters())
    assert maps.grad is not None
    assert torch.autograd.gradcheck(
        lambda m, w: attend(m, attention_weights(w)),
        (torch.randn(2, 3, 2, 2).double().requires_grad_(), torch.randn(2, 2, 2).double().requires_grad_()),
    )


def test_initial_weights_depend_on_the_generator_alone():
    first, second, other = (AttentionPooling(8, generator=gen(seed)) for seed in (3, 3, 4))
    for a, b, c in zip(first.parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim == 1 or not torch.equal(a, c)


@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_gives_vectors_and_weights(name):
    pool = POOLINGS[name](8, zero_last=False, generator=gen())
    maps = torch.rand(2, 8, 3, 4, generator=gen())
    weights = pool.weights(maps)
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(pool(maps), (maps * weights[:, None]).sum((2, 3)))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"logits have shape \(2, 1, 3, 3\)"):
        attention_weights(torch.zeros(2, 1, 3, 3))
    with pytest.raises(ValueError, match=r"weights have shape \(2, 3, 3\) for maps of shape \(2, 8, 4, 4\)"):
        attend(torch.zeros(2, 8, 4, 4), torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match="expected one map of weights per picture"):
        attention_figure(torch.zeros(2, 3, 8, 8), {"layer4": torch.zeros(1, 2, 2)})


def test_the_share_attended_is_that_of_equal_weights_over_so_many_cells():
    weights = torch.zeros(3, 16, dtype=torch.float64)
    for row, count in enumerate((16, 5, 1)):
        weights[row, :count] = 1 / count
    torch.testing.assert_close(attended_share(weights.view(3, 4, 4)), torch.tensor([1, 5 / 16, 1 / 16]).double())


def test_a_figure_shows_pictures_darkened_where_weights_are_low():
    pictures = torch.ones(1, 3, 16, 16)
    weights = torch.zeros(1, 4, 4)
    weights[0, 0, 0] = 1
    figure = attention_figure(pictures, {"layer3": weights, "layer4": weights})
    assert [axes.get_ylabel() for axes in figure.axes] == ["", "layer3", "layer4"]
    shown = figure.axes[1].images[0].get_array()
    assert shown[0, 0, 0] == 1
    assert shown[-1, -1, 0] == pytest.approx(0.2)
