import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import comb
from torch import nn

from lcl.objective import average, barlow_twins
from lcl.stages import LCLV2, POOLS, BatchNorm, Stage, StageChain, blur_pool, l2_pool, max_pool


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_maps(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=generator(seed), dtype=dtype)


def small(in_channels=1, **options):
    return LCLV2(in_channels, (6, 8), generator=generator(), **options)


def longer_chain(count):
    shapes = [(5, 2, 2, 6), (3, 1, 1, 8), (3, 1, 1, 10), (3, 1, 1, 12)][:count]
    stages, below = {}, 1
    for i, (kernel, stride, padding, channels) in enumerate(shapes):
        stages[f"S{i + 1}"] = Stage(
            below, channels, kernel=kernel, stride=stride, padding=padding, generator=generator(i)
        )
        below = channels
    return StageChain(stages)


def loss_of(maps):
    """Local loss of the first half of a batch against the second."""
    features = average(maps)
    return barlow_twins(*features.chunk(2), weight=0.1).total


# ---------------------------------------------------------------------------------------------------------------------
# Pools against independent definitions


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (4, 3), (5, 2)])
def test_blur_pool_is_a_convolution_with_a_binomial_kernel(kernel, stride):
    maps = random_maps(2, 3, 17, 14, dtype=torch.float64)
    row = torch.tensor([comb(kernel - 1, k) for k in range(kernel)], dtype=torch.float64) / 2 ** (kernel - 1)
    weight = torch.outer(row, row).expand(3, 1, kernel, kernel)
    torch.testing.assert_close(blur_pool(maps, kernel, stride), F.conv2d(maps, weight, stride=stride, groups=3))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (2, 2), (3, 2), (4, 1)])
def test_l2_pool_is_the_root_of_the_weighted_mean_of_squares(kernel, stride):
    maps = random_maps(2, 3, 12, 11, dtype=torch.float64) - 0.5
    row = np.array([comb(kernel - 1, k) for k in range(kernel)]) / 2 ** (kernel - 1)
    windows = np.lib.stride_tricks.sliding_window_view(maps.numpy(), (kernel, kernel), axis=(2, 3))
    expected = np.sqrt(np.einsum("bchwij,i,j->bchw", windows**2, row, row)[:, :, ::stride, ::stride] + 1e-6)
    np.testing.assert_allclose(l2_pool(maps, kernel, stride).numpy(), expected, rtol=1e-12)


def test_max_pool_is_the_largest_of_every_window():
    maps = random_maps(2, 3, 12, 11)
    windows = np.lib.stride_tricks.sliding_window_view(maps.numpy(), (3, 3), axis=(2, 3))
    np.testing.assert_array_equal(max_pool(maps, 3, 2).numpy(), windows.max((-2, -1))[:, :, ::2, ::2])


@pytest.mark.parametrize("pool", POOLS)
def test_pools_are_differentiable_and_finite_where_responses_are_silent(pool):
    silent = torch.zeros(1, 2, 7, 7, requires_grad=True)
    POOLS[pool](silent, 3, 2).sum().backward()
    assert silent.grad is not None
    assert silent.grad.isfinite().all()
    maps = random_maps(1, 1, 6, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: POOLS[pool](x, 3, 2), maps)


@pytest.mark.parametrize("pool", POOLS)
def test_pools_keep_the_type_of_their_input(pool):
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert POOLS[pool](random_maps(1, 2, 7, 7).to(dtype), 3, 2).dtype == dtype


# ---------------------------------------------------------------------------------------------------------------------
# One stage


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("training", [True, False])
def test_a_stage_convolves_normalises_rectifies_and_pools(pool, training):
    stage = Stage(2, 6, kernel=5, stride=2, padding=1, pool=pool, generator=generator()).double().train(training)
    with torch.no_grad():
        stage.norm.weight.copy_(random_maps(6, seed=1))
        stage.norm.bias.copy_(random_maps(6, seed=2))
        stage.norm.running_mean.copy_(random_maps(6, seed=3))
        stage.norm.running_var.copy_(random_maps(6, seed=4))
    maps = random_maps(3, 2, 20, 19, dtype=torch.float64)
    columns = F.unfold(maps, 5, padding=1, stride=2)
    drive = (stage.conv.weight.flatten(1) @ columns).unflatten(2, (9, 9))
    mean, variance = drive.mean((0, 2, 3)), drive.var((0, 2, 3), correction=0)
    if not training:
        mean, variance = stage.norm.running_mean.clone(), stage.norm.running_var.clone()
    drive = (drive - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
    drive = drive * stage.norm.weight[:, None, None] + stage.norm.bias[:, None, None]
    torch.testing.assert_close(stage(maps), POOLS[pool](drive.clamp(min=0), 3, 2))


def test_simple_and_complex_channels():
    stage = Stage(1, 6, kernel=5, norm=False, pool_kernel=1, pool_stride=1, simple_complex=True, generator=generator())
    stage = stage.double()
    maps = random_maps(2, 1, 12, 12, dtype=torch.float64) - 0.5
    drive = F.conv2d(maps, stage.conv.weight)
    response = stage(maps)
    assert response.shape[1] == stage.out_channels == 9
    torch.testing.assert_close(response[:, :6], drive.clamp(min=0))
    for pair in range(3):
        energy = torch.hypot(drive[:, 2 * pair], drive[:, 2 * pair + 1])
        torch.testing.assert_close(response[:, 6 + pair], energy, atol=1.1e-3, rtol=1e-6)
        torch.testing.assert_close(response[:, 6 + pair] ** 2, energy**2 + 1e-6)


def test_energy_of_a_quadrature_pair_does_not_depend_on_phase():
    stage = Stage(1, 2, kernel=15, norm=False, pool_kernel=1, pool_stride=1, simple_complex=True)
    x = torch.arange(15.0) - 7
    envelope = torch.exp(-(x**2) / 18)
    with torch.no_grad():
        stage.conv.weight[0, 0] = (envelope * torch.cos(1.2 * x)).expand(15, 15)
        stage.conv.weight[1, 0] = (envelope * torch.sin(1.2 * x)).expand(15, 15)
    phases = torch.linspace(0, 2 * torch.pi, 12)
    gratings = torch.cos(1.2 * x + phases[:, None, None, None]).expand(12, 1, 15, 15)
    simple, complex_ = stage(gratings).detach()[:, :2], stage(gratings).detach()[:, 2]
    assert complex_.std() < 5e-3 * complex_.mean()  # the envelope is cut off at 2.3 standard deviations
    assert (simple.std(0) > 0.3 * complex_.mean()).all()


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("simple_complex", [True, False])
def test_every_kind_of_model_gives_maps_of_both_areas(in_channels, pool, norm, simple_complex):
    model = small(in_channels, pool=pool, norm=norm, simple_complex=simple_complex)
    responses = model(random_maps(2, in_channels, 80, 96))
    v1 = 9 if simple_complex else 6
    assert {name: tuple(maps.shape) for name, maps in responses.items()} == {"V1": (2, v1, 9, 11), "V2": (2, 8, 4, 5)}
    assert all(maps.isfinite().all() and (maps >= 0).all() for maps in responses.values())


def test_default_geometry():
    model = LCLV2()
    assert model.in_channels == 3
    assert model.names == ["V1", "V2"]
    assert tuple(model["V1"].conv.weight.shape) == (64, 3, 11, 11)
    assert tuple(model["V2"].conv.weight.shape) == (192, 64, 5, 5)
    responses = model(random_maps(1, 3, 224, 224))
    assert {name: tuple(maps.shape) for name, maps in responses.items()} == {
        "V1": (1, 64, 27, 27),
        "V2": (1, 192, 13, 13),
    }


def test_initial_weights_come_from_the_generator_alone():
    torch.manual_seed(1)
    first = small().state_dict()
    torch.manual_seed(2)
    second = small().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    weight = Stage(3, 256, kernel=11, generator=generator()).conv.weight
    assert weight.std().item() == pytest.approx((2 / (3 * 121)) ** 0.5, rel=0.02)
    assert abs(weight.mean().item()) < 1e-3


@pytest.mark.parametrize("norm", [True, False])
def test_state_dict_holds_filters_and_statistics_only(norm):
    kept = ["conv.weight"] + (
        [f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
        if norm
        else ["conv.bias"]
    )
    model = small(norm=norm, simple_complex=True)
    assert list(model.state_dict()) == [f"stages.{area}.{name}" for area in ("V1", "V2") for name in kept]
    twin = LCLV2(1, (6, 8), norm=norm, simple_complex=True)
    twin.load_state_dict(model.state_dict())
    images = random_maps(1, 1, 80, 80)
    assert torch.equal(twin.eval()(images)["V2"], model.eval()(images)["V2"])


@pytest.mark.parametrize(
    "make", [lambda: small(3, pool="l2", norm=False, simple_complex=True), lambda: longer_chain(4)]
)
def test_a_chain_is_built_again_from_its_spec(make):
    chain = make()
    again = StageChain.from_spec(chain.spec)
    assert again.spec == chain.spec
    again.load_state_dict(chain.state_dict())
    images = random_maps(2, chain.in_channels, 96, 96)
    for name, maps in chain.eval()(images).items():
        assert torch.equal(again.eval()(images)[name], maps)


def test_batch_norm_is_torchs_in_one_process():
    ours, theirs = BatchNorm(4), nn.BatchNorm2d(4)
    for seed in range(3):
        maps = random_maps(5, 4, 6, 6, seed=seed)
        assert torch.equal(ours(maps), theirs(maps))
    assert torch.equal(ours.eval()(maps), theirs.eval()(maps))
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize("simple_complex", [True, False])
@pytest.mark.parametrize("pool", POOLS)
def test_float64_is_kept(pool, simple_complex):
    stage = Stage(1, 4, kernel=3, pool=pool, simple_complex=simple_complex, generator=generator())
    maps = random_maps(2, 1, 9, 9)
    single, double = stage(maps), copy.deepcopy(stage).double()(maps.double())
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single, double.float(), atol=1e-5, rtol=1e-4)
    assert not torch.equal(double.float().double(), double)  # more than float32 can hold


# ---------------------------------------------------------------------------------------------------------------------
# Stages are independent


@pytest.mark.parametrize("make", [small, lambda: longer_chain(2), lambda: longer_chain(3), lambda: longer_chain(4)])
def test_no_gradient_crosses_a_stage_boundary(make):
    model = make().train()
    images = random_maps(12, 1, 96, 96)
    for name in model.names:
        model.zero_grad(set_to_none=True)
        loss_of(model(images)[name]).backward()
        for other in model.names:
            for parameter in model[other].parameters():
                if other == name:
                    assert parameter.grad is not None
                    assert parameter.grad.abs().sum() > 0
                else:
                    assert parameter.grad is None or not parameter.grad.any()


def test_all_losses_at_once_give_each_stage_its_own_gradient():
    model = longer_chain(3).train()
    images = random_maps(12, 1, 64, 64)
    alone = {}
    for name in model.names:
        model.zero_grad(set_to_none=True)
        loss_of(model(images)[name]).backward()
        alone |= {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    torch.stack([loss_of(maps) for maps in model(images).values()]).sum().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, alone[key], atol=1e-7, rtol=1e-5)


def test_the_input_of_a_stage_is_detached_while_training_only():
    model = small().train()
    images = random_maps(4, 1, 80, 80).requires_grad_()
    assert not model.stage_input(images, "V2").requires_grad
    assert not model.stage_input(images, "V1").requires_grad
    model.eval()
    assert model.stage_input(images, "V2").requires_grad
    model(images)["V2"].sum().backward()  # a unit's gradient with respect to the image shows its receptive field
    assert images.grad is not None
    assert images.grad.any()


def test_the_loss_of_a_stage_does_not_depend_on_stages_above():
    model = small().train()
    images = random_maps(12, 1, 80, 80)

    def loss_and_gradients():
        model.zero_grad(set_to_none=True)
        loss = loss_of(model(images)["V1"])
        loss.backward()
        return loss.item(), [parameter.grad.clone() for parameter in model["V1"].parameters()]

    loss, gradients = loss_and_gradients()
    with torch.no_grad():
        for parameter in model["V2"].parameters():
            parameter.normal_(generator=generator(9))
    again, same = loss_and_gradients()
    assert again == loss
    assert all(map(torch.equal, gradients, same))


def test_training_stage_two_leaves_a_frozen_stage_one_bit_identical():
    model = small()
    frozen = {key: value.clone() for key, value in model["V1"].state_dict().items()}
    above = {key: value.clone() for key, value in model["V2"].state_dict().items()}
    optimizer = torch.optim.Adam(model["V2"].parameters(), 1e-2)
    for step in range(2):
        model.train()
        model["V1"].eval()
        images = random_maps(12, 1, 80, 80, seed=step)
        loss = loss_of(model["V2"](model.stage_input(images, "V2", valid=True), valid=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_of(model(images)["V2"]).backward()  # by way of the whole model too
    assert all(torch.equal(value, frozen[key]) for key, value in model["V1"].state_dict().items())
    assert all(parameter.grad is None for parameter in model["V1"].parameters())
    assert not any(torch.equal(value, above[key]) for key, value in model["V2"].state_dict().items())


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("norm", [True, False])
def test_hooked_responses_do_not_change_afterwards(pool, norm):
    model = small(pool=pool, norm=norm, simple_complex=True)
    kept = []

    def keep(module, inputs, output):
        tensors = [*inputs, *(output.values() if isinstance(output, dict) else [output])]
        kept.extend((tensor, tensor.clone()) for tensor in tensors)

    for module in model.modules():
        if not isinstance(module, nn.ModuleDict):
            module.register_forward_hook(keep)
    images = random_maps(2, 1, 80, 80)
    before = images.clone()
    with torch.no_grad():
        model(images)
    assert torch.equal(images, before)
    assert len(kept) >= 14
    assert all(torch.equal(tensor, clone) for tensor, clone in kept)
    drive = kept[1][0]  # the first convolution's output still has both signs
    assert (drive < 0).any()
    assert (drive > 0).any()


# ---------------------------------------------------------------------------------------------------------------------
# Without padding


def crop_of_unit(images, field, row, column):
    top, left = field.first_pixel(row), field.first_pixel(column)
    return images[:, :, top : top + field.size_px, left : left + field.size_px]


def units_inside(field, units, side):
    return [u for u in range(units) if field.first_pixel(u) >= 0 and field.first_pixel(u) + field.size_px <= side]


def valid_map(chain, images):
    last = chain.names[-1]
    return chain[last](chain.stage_input(images, last, valid=True), valid=True)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("make", [lambda pool: small(pool=pool), lambda pool: longer_chain(3)])
def test_units_that_see_no_padding_are_the_same_without_it(pool, make):
    """Every unit of the padded map whose receptive field lies inside the image, computed from that square alone."""
    model = make(pool).double().eval()
    side = 120
    images = random_maps(2, 1, side, side, dtype=torch.float64)
    name = model.names[-1]
    maps, field = model(images)[name], model.receptive_field(name)
    inside = units_inside(field, maps.shape[2], side)
    assert len(inside) >= 3
    for row, column in zip(inside, reversed(inside), strict=True):
        alone = valid_map(model, crop_of_unit(images, field, row, column))
        assert tuple(alone.shape[2:]) == (1, 1)
        torch.testing.assert_close(alone[:, :, 0, 0], maps[:, :, row, column])


def test_the_map_without_padding_is_the_padded_map_cropped():
    model = small().double().eval()
    images = random_maps(2, 1, 150, 150, dtype=torch.float64)
    for name in model.names:
        field, maps = model.receptive_field(name), model(images)[name]
        inside = units_inside(field, maps.shape[2], 150)
        # Without padding the first unit starts at pixel 0: the image is cut so that this is a padded unit's first.
        start = field.first_pixel(inside[0])
        cut = images[:, :, start:, start:]
        valid = model[name](model.stage_input(cut, name, valid=True), valid=True)
        span = slice(inside[0], inside[-1] + 1)
        torch.testing.assert_close(valid, maps[:, :, span, span])


def test_without_padding_only_the_receptive_field_matters():
    model = small().eval()
    field = model.receptive_field("V2")
    patches = random_maps(3, 1, 67, 67)
    assert field.size_px == 67
    assert tuple(valid_map(model, patches).shape[2:]) == (1, 1)
    with pytest.raises(RuntimeError):
        valid_map(model, patches[:, :, 1:, 1:])


# ---------------------------------------------------------------------------------------------------------------------
# Chains


@pytest.mark.parametrize("count", [1, 3, 4])
def test_chains_of_any_length(count):
    chain = longer_chain(count)
    responses = chain(random_maps(2, 1, 96, 96))
    assert list(responses) == chain.names == [f"S{i + 1}" for i in range(count)]
    for name, maps in responses.items():
        assert maps.shape[1] == chain[name].out_channels
        torch.testing.assert_close(
            chain[name](chain.stage_input(random_maps(2, 1, 96, 96), name)), maps, atol=1e-5, rtol=1e-5
        )


def test_mid_grey_enters_as_zero():
    model = small()
    assert not model.stage_input(torch.full((1, 1, 80, 80), 0.5), "V1").any()
    torch.testing.assert_close(model.stage_input(torch.ones(1, 1, 4, 4), "V1"), torch.full((1, 1, 4, 4), 2.0))


def test_stage_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="pool is 'mean'; expected one of max, blur, l2"):
        Stage(1, 4, kernel=3, pool="mean")
    with pytest.raises(ValueError, match="there are 5; expected an even number"):
        Stage(1, 5, kernel=3, simple_complex=True)


def test_chain_refuses_stages_that_do_not_fit():
    with pytest.raises(ValueError, match="A chain of 0 stages"):
        StageChain({})
    with pytest.raises(ValueError, match="Stage b takes 9 channels, but a below it gives 8"):
        StageChain({"a": Stage(1, 8, kernel=3), "b": Stage(9, 4, kernel=3)})


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (torch.rand(2, 3, 80, 80), r"shape \(2, 3, 80, 80\); expected floating point in \[0, 1\] of shape \(batch, 1,"),
        (torch.rand(1, 80, 80), r"shape \(1, 80, 80\)"),
        (torch.zeros(2, 1, 80, 80, dtype=torch.uint8), "Images are torch.uint8"),
        (torch.rand(2, 1, 80, 20), "80 x 20 px are too small for stage V2, whose receptive field is 67 px"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, match):
    with pytest.raises(ValueError, match=match):
        small()(images)


def test_an_unknown_stage_is_named():
    with pytest.raises(ValueError, match="There is no stage 'V4'; expected one of V1, V2"):
        LCLV2().receptive_field("V4")
