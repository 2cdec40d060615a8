import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.objective import (
    PROJECTORS,
    READOUTS,
    average,
    barlow_twins,
    centre,
    correlation,
    decorrelation_weight,
    dense,
    projector,
)


def golden_views(dtype=torch.float64):
    """``x_k[b, i] = sin(k + 1.3 b + 0.7 (i + 1) + 0.5 b (i + 1))`` for k = 0 and 1."""
    b, i = np.arange(4)[:, None], np.arange(3)
    return tuple(torch.tensor(np.sin(k + 1.3 * b + 0.7 * (i + 1) + 0.5 * b * (i + 1)), dtype=dtype) for k in (0, 1))


def random_views(batch=40, features=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(batch, features, generator=generator, dtype=dtype)
    noise = torch.randn(2, batch, features, generator=generator, dtype=dtype)
    return shared + 0.5 * noise[0], shared + 0.5 * noise[1]


def numpy_correlation(first, second):
    """Between the features of two views: the off-diagonal block of the correlations of all of them."""
    return np.corrcoef(first.numpy(), second.numpy(), rowvar=False)[: first.shape[1], first.shape[1] :]


def close(loss, other, tolerance=1e-12):
    for value, expected in zip(loss[:3], other[:3], strict=True):
        assert value.item() == pytest.approx(expected.item(), rel=tolerance, abs=tolerance)


# ---------------------------------------------------------------------------------------------------------------------
# Golden values


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_pair(dtype):
    first, second = golden_views(dtype)
    expected = [[0.539918, -0.461585, -0.432598], [0.932878, 0.540447, -0.383523], [-0.093578, 0.832259, 0.870363]]
    np.testing.assert_allclose(correlation(first, second).numpy(), expected, atol=1e-6)
    for weight, total in ((0.0051, 0.450476), (0.66, 1.838187)):
        loss = barlow_twins(first, second, weight=weight)
        assert loss.similarity.item() == pytest.approx(0.439670, abs=1e-6)
        assert loss.decorrelation.item() == pytest.approx(2.118966, abs=1e-6)
        assert loss.total.item() == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_same_view_twice(dtype):
    first, _ = golden_views(dtype)
    loss = barlow_twins(first, first, weight=0.0051)
    assert loss.similarity.item() == pytest.approx(0, abs=1e-6)
    assert loss.decorrelation.item() == pytest.approx(0.331632, abs=1e-6)
    assert loss.total.item() == pytest.approx(0.001691, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_opposite_views(dtype):
    first, _ = golden_views(dtype)
    assert barlow_twins(first, -first, weight=0.0051).similarity.item() == pytest.approx(12, abs=1e-5)


def test_golden_weights():
    assert decorrelation_weight(0.0051 * 8191, 8192) == pytest.approx(0.0051)
    for features, weight in ((8192, 0.0051), (64, 0.663), (192, 0.219)):
        assert weight * (features - 1) == pytest.approx(41.8, abs=0.05)
        assert decorrelation_weight(41.8, features) == pytest.approx(weight, abs=6e-4)
    assert decorrelation_weight(3.0, 1) == 3.0
    assert decorrelation_weight(0, 64) == 0


# ---------------------------------------------------------------------------------------------------------------------
# Identities


@given(st.integers(3, 60), st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_equals_numpys_correlations(batch, features, seed):
    first, second = random_views(batch, features, seed)
    c = numpy_correlation(first, second) if features > 1 else np.corrcoef(first[:, 0], second[:, 0])[:1, 1:]
    loss = barlow_twins(first, second, weight=0.3)
    np.testing.assert_allclose(loss.correlation.numpy(), c, atol=1e-12)
    on = np.diag(c)
    assert loss.similarity.item() == pytest.approx(((1 - on) ** 2).sum(), abs=1e-10)
    assert loss.decorrelation.item() == pytest.approx((c**2).sum() - (on**2).sum(), abs=1e-10)
    assert loss.total.item() == pytest.approx(loss.similarity.item() + 0.3 * loss.decorrelation.item())


def test_does_not_depend_on_the_order_of_patches():
    first, second = random_views()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    close(barlow_twins(first[order], second[order], weight=0.3), barlow_twins(first, second, weight=0.3))


def test_does_not_depend_on_the_order_of_features():
    first, second = random_views()
    order = torch.tensor([3, 0, 4, 1, 2])
    loss, other = barlow_twins(first, second, weight=0.3), barlow_twins(first[:, order], second[:, order], weight=0.3)
    close(other, loss)
    torch.testing.assert_close(other.correlation, loss.correlation[order][:, order])


def test_does_not_depend_on_offset_and_positive_scale_of_features():
    first, second = random_views()
    loss = barlow_twins(first, second, weight=0.3)
    offset = torch.tensor([0.0, 5.0, -3.0, 100.0, 1e-3], dtype=torch.float64)
    scale = torch.tensor([1.0, 1e-6, 1e6, 0.3, 7.0], dtype=torch.float64)
    close(barlow_twins(first + offset, second, weight=0.3), loss)
    close(barlow_twins(first, second - offset, weight=0.3), loss)
    close(barlow_twins(first * scale, second, weight=0.3), loss)
    close(barlow_twins((first + offset) * scale, (second - offset) * scale.flip(0), weight=0.3), loss)
    flipped = barlow_twins(first * torch.tensor([-1.0, 1, 1, 1, 1]), second, weight=0.3)
    assert abs(flipped.similarity - loss.similarity) > 0.1


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e6])
def test_scale_does_not_matter_in_float32(scale):
    first, second = random_views(dtype=torch.float32)
    torch.testing.assert_close(correlation(first * scale, second * scale), correlation(first, second))


def test_views_can_be_exchanged():
    first, second = random_views()
    loss, other = barlow_twins(first, second, weight=0.3), barlow_twins(second, first, weight=0.3)
    close(other, loss)
    torch.testing.assert_close(other.correlation, loss.correlation.T)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_zero_where_the_correlation_is_the_identity(dtype, tolerance):
    random = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = torch.linalg.qr(random - random.mean(0))[0].to(dtype)
    loss = barlow_twins(features, 3 * features + 1, weight=0.7)
    torch.testing.assert_close(loss.correlation, torch.eye(6, dtype=dtype))
    for value in loss[:3]:
        assert abs(value.item()) < tolerance


# ---------------------------------------------------------------------------------------------------------------------
# Constant features


@pytest.mark.parametrize("value", [0.0, 0.1, 1.7, 123.4, -1e5, 1e-12])
@pytest.mark.parametrize("where", ["both", "first", "second"])
@pytest.mark.parametrize("batch", [3, 7, 256, 1001])
def test_a_constant_feature_has_no_correlation_and_no_gradient(value, where, batch):
    views = [view.clone() for view in random_views(batch, 4, dtype=torch.float32)]
    for view, name in zip(views, ("first", "second"), strict=True):
        if where in (name, "both"):
            view[:, 1] = value
        view.requires_grad_()
    loss = barlow_twins(*views, weight=0.3)
    loss.total.backward()
    c = loss.correlation.detach()
    if where != "second":
        assert not c[1].any()
    if where != "first":
        assert not c[:, 1].any()
    assert (1 - c[1, 1]) ** 2 == 1
    for view, name in zip(views, ("first", "second"), strict=True):
        assert view.grad is not None
        assert view.grad.isfinite().all()
        assert view.grad.abs().max() < 100
        assert view.grad[:, 0].any()
        if where in (name, "both"):
            assert not view.grad[:, 1].any()


def test_nothing_varies_at_all():
    views = torch.full((8, 3), 0.3, requires_grad=True)
    loss = barlow_twins(views, views, weight=1.0)
    loss.total.backward()
    assert loss.total.item() == 3
    assert views.grad is not None
    assert not views.grad.any()


def test_one_patch_has_no_correlation():
    assert not correlation(torch.ones(1, 3), torch.ones(1, 3)).any()


def test_a_feature_that_hardly_varies_about_a_large_mean_still_counts():
    first, second = random_views(64, 2)
    offset = torch.tensor([1000.0, 0.0])
    single = correlation(first.float() + offset, second.float() + offset)
    torch.testing.assert_close(single, correlation(first, second).float(), atol=2e-3, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Gradient and precision


def test_gradient():
    first, second = (view.requires_grad_() for view in random_views(7, 3))
    assert torch.autograd.gradcheck(lambda a, b: barlow_twins(a, b, weight=0.3)[:3], (first, second))
    assert torch.autograd.gradcheck(correlation, (first, second))


def test_a_step_along_the_gradient_lowers_the_loss():
    first, second = (view.requires_grad_() for view in random_views())
    before = barlow_twins(first, second, weight=0.3).total
    slope_a, slope_b = torch.autograd.grad(before, (first, second))
    after = barlow_twins(first - 1e-3 * slope_a, second - 1e-3 * slope_b, weight=0.3).total
    fall = 1e-3 * (slope_a.square().sum() + slope_b.square().sum())
    assert (before - after).item() == pytest.approx(fall.item(), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_run_in_float32_under_autocast(dtype):
    first, second = (view.to(dtype) for view in random_views(512, 8, dtype=torch.float32))
    expected = barlow_twins(first.float(), second.float(), weight=0.3)
    with torch.autocast("cpu", dtype):
        loss = barlow_twins(first, second, weight=0.3)
    for value, exact in zip(loss, expected, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, exact)
    # What a correlation in that type would have given is visibly another.
    a, b = ((view - view.mean(0)) / view.std(0) for view in (first, second))
    assert (a.T @ b / 511 - loss.correlation).abs().max() > 1e-4


def test_gradient_comes_back_in_the_type_of_the_features():
    first, second = (view.bfloat16().requires_grad_() for view in random_views(16, 3))
    with torch.autocast("cpu", torch.bfloat16):
        loss = barlow_twins(first, second, weight=0.3)
    loss.total.backward()
    assert first.grad is not None
    assert first.grad.dtype == torch.bfloat16


# ---------------------------------------------------------------------------------------------------------------------
# Readouts and projectors


def test_readouts():
    maps = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    np.testing.assert_allclose(average(maps), maps.numpy().mean((2, 3)))
    torch.testing.assert_close(centre(maps), maps[:, :, 1, 2])
    torch.testing.assert_close(centre(maps[:, :, :3, :5]), maps[:, :, 1, 2])
    torch.testing.assert_close(centre(torch.rand(1, 1, 1, 1).expand(2, 3, 1, 1)).shape, torch.Size([2, 3]))
    samples = dense(maps)
    assert samples.shape == (2 * 4 * 6, 3)
    for b, y, x in np.ndindex(2, 4, 6):
        torch.testing.assert_close(samples[b * 24 + y * 6 + x], maps[b, :, y, x])


def test_readouts_agree_on_a_map_of_one_position():
    maps = torch.rand(6, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    for readout in READOUTS.values():
        torch.testing.assert_close(readout(maps), maps[:, :, 0, 0])


def test_averages_run_in_float32():
    maps = torch.full((1, 1, 64, 64), 1.0) + torch.arange(4096.0).view(1, 1, 64, 64) % 2 / 128
    assert average(maps.bfloat16()).dtype == torch.float32
    assert average(maps.bfloat16()).item() == pytest.approx(1 + 0.5 / 128, abs=1e-6)


@pytest.mark.parametrize(("kind", "width"), [("none", 6), ("linear", 10), ("mlp", 10)])
def test_projectors(kind, width):
    layers = projector(kind, 6, 10, torch.Generator().manual_seed(0))
    features = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    assert layers(features).shape == (5, width)
    weights = [parameter.detach() for parameter in layers.parameters() if parameter.ndim == 2]
    expected = features
    for number, weight in enumerate(weights):
        expected = (expected.clamp(min=0) if number else expected) @ weight.T
    torch.testing.assert_close(layers(features), expected)
    assert len(weights) == PROJECTORS[kind]
    again = projector(kind, 6, 10, torch.Generator().manual_seed(0))
    assert all(map(torch.equal, layers.state_dict().values(), again.state_dict().values()))


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ((4, 3), (4, 2), r"shapes \(4, 3\) and \(4, 2\); expected the same shape"),
        ((4, 3), (5, 3), r"\(5, 3\)"),
        ((4, 3, 2, 2), (4, 3, 2, 2), r"shape \(batch, features\)"),
        ((4,), (4,), r"shape \(batch, features\)"),
    ],
)
def test_views_of_other_shapes_are_refused(first, second, match):
    with pytest.raises(ValueError, match=match):
        barlow_twins(torch.ones(first), torch.ones(second), weight=1.0)


@pytest.mark.parametrize("balance", [-1.0, float("nan")])
def test_a_negative_balance_is_refused(balance):
    with pytest.raises(ValueError, match=f"balance is {balance}; expected 0 or more"):
        decorrelation_weight(balance, 64)


def test_an_unknown_projector_is_refused():
    with pytest.raises(ValueError, match="projector is 'mpl'; expected one of none, linear, mlp"):
        projector("mpl", 4, 4)
