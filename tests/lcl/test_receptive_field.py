from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lcl.receptive_field import ReceptiveField, Window, map_side, patch_side, receptive_field, trace, windows
from lcl.stages import LCLV2, Stage, StageChain

# ---------------------------------------------------------------------------------------------------------------------
# Golden values


def alexnet_features():
    """The convolutional layers of AlexNet."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )


def test_alexnet_golden():
    fields = trace(windows(alexnet_features()))
    assert [field.size_px for field in fields] == [11, 19, 51, 67, 99, 131, 163, 195]
    assert [field.jump_px for field in fields] == [4, 8, 8, 16, 16, 16, 16, 32]
    assert [round(field.size_deg(), 2) for field in fields] == [0.39, 0.68, 1.82, 2.39, 3.54, 4.68, 5.82, 6.96]
    assert fields[-1].jump_deg() == 32 / 28
    assert fields[-1].size_deg(14) == 2 * fields[-1].size_deg(28)


def test_alexnet_map_sides():
    chain = windows(alexnet_features())
    assert [map_side(chain[: i + 1], 224) for i in range(8)] == [55, 27, 27, 13, 13, 13, 13, 6]
    assert map_side(chain, 63) == 1
    assert map_side(chain, 62) == 0


def test_lclv2_is_alexnets_first_two_layers():
    model = LCLV2()
    assert (model.receptive_field("V1").size_px, model.receptive_field("V1").jump_px) == (19, 8)
    assert (model.receptive_field("V2").size_px, model.receptive_field("V2").jump_px) == (67, 16)
    assert model.windows() == windows(alexnet_features())[:4]


def test_patch_side_golden():
    assert patch_side(19) == 29
    assert patch_side(67) == 101
    assert patch_side(67, 1) == 67


def test_patch_side_is_not_raised_by_rounding():
    assert 1.1 * 50 > 55
    assert patch_side(50, 1.1) == 55
    assert patch_side(25, 2.2) == 55
    assert patch_side(1000, 1.0001) == 1001


def test_an_empty_chain_sees_one_pixel():
    assert receptive_field([]) == receptive_field(nn.ReLU()) == ReceptiveField(1, 1, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Against the support of the gradient of a unit with respect to the input


def support(chain, channels, side, row, column, draws=1):
    """First and last row, and first and last column, of the input that can change unit (row, column).

    Where the chain chooses or rectifies, the union over several random inputs.
    """
    images = torch.rand(draws, channels, side, side, dtype=torch.float64, requires_grad=True)
    maps = chain(images)
    maps[:, :, row, column].sum().backward()
    assert images.grad is not None
    seen = images.grad.abs().sum((0, 1)) > 0
    rows, columns = (seen.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return (rows[0], rows[-1]), (columns[0], columns[-1])


def check(chain, channels, draws=1):
    """Size, jump, start and centre, at two neighbouring units that see no padding and at the first, which may."""
    field, steps = receptive_field(chain), windows(chain)
    unit = max(0, -(field.start_px // field.jump_px))
    side = field.first_pixel(unit + 1) + field.size_px + 3
    while map_side(steps, side) < unit + 2:
        side += 1
    rows, columns = support(chain, channels, side, unit, unit + 1, draws)
    assert rows == (field.first_pixel(unit), field.first_pixel(unit) + field.size_px - 1)
    assert columns == (field.first_pixel(unit + 1), field.first_pixel(unit + 1) + field.size_px - 1)
    assert (field.centre_px(unit), field.centre_px(unit + 1)) == (sum(rows) / 2, sum(columns) / 2)
    assert columns[0] - rows[0] == field.jump_px
    corner = support(chain, channels, side, 0, 0, draws)
    assert [seen[1] for seen in corner] == [field.start_px + field.size_px - 1] * 2
    shape = chain(torch.rand(1, channels, side, side + 1, dtype=torch.float64)).shape
    assert tuple(shape[2:]) == (map_side(steps, side), map_side(steps, side + 1))


def positive(chain):
    """Weights above 0, so that no two paths from a pixel to a unit cancel."""
    for parameter in chain.parameters():
        nn.init.uniform_(parameter, 0.1, 1.0)
    return chain.double().eval()


@pytest.mark.parametrize("seed", range(16))
def test_agrees_with_the_gradient_for_random_linear_chains(seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    channels, layers = [1, *rng.integers(1, 4, rng.integers(2, 6))], []
    for below, above in pairwise(map(int, channels)):
        kernel, stride, dilation = (int(rng.integers(1, top)) for top in (6, 4, 4))
        padding = int(rng.integers(0, kernel // 2 + 1))
        if rng.random() < 0.6:
            layers += [nn.Conv2d(below, above, kernel, stride, padding, dilation), nn.Identity()]
        else:
            layers += [nn.AvgPool2d(kernel, stride, padding), nn.Conv2d(below, above, 1)]
    check(positive(nn.Sequential(*layers)), 1)


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_the_gradient_for_chains_that_choose_and_rectify(seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(100 + seed)
    layers, channels = [], 1
    for _ in range(2):
        kernel, padding, dilation = int(rng.integers(2, 5)), int(rng.integers(0, 2)), int(rng.integers(1, 3))
        layers += [nn.Conv2d(channels, 3, kernel, 1, padding, dilation), nn.ReLU()]
        layers += [nn.MaxPool2d(int(rng.integers(2, 4)), 2, dilation=int(rng.integers(1, 3)))]
        channels = 3
    check(positive(nn.Sequential(*layers)), 1, draws=400)


@pytest.mark.parametrize("pool", ["max", "blur", "l2"])
@pytest.mark.parametrize("shape", [(7, 2, 3, 3, 2), (5, 1, 0, 2, 2), (4, 3, 1, 4, 3), (3, 1, 1, 1, 1)])
def test_agrees_with_the_gradient_for_a_stage(pool, shape):
    torch.manual_seed(0)
    kernel, stride, padding, pool_kernel, pool_stride = shape
    stage = Stage(
        2, 4, kernel=kernel, stride=stride, padding=padding, pool=pool, pool_kernel=pool_kernel, pool_stride=pool_stride
    )
    check(positive(stage), 2, draws=60)
    assert stage.receptive_field == receptive_field(stage)


class Top(nn.Module):
    """The last stage of a chain of stages, as one module."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def windows(self):
        return self.chain.windows()

    def forward(self, images):
        return self.chain(images)[self.chain.names[-1]]


@pytest.mark.parametrize("pool", ["max", "blur", "l2"])
@pytest.mark.parametrize("simple_complex", [False, True])
def test_agrees_with_the_gradient_for_lclv2(pool, simple_complex):
    torch.manual_seed(0)
    model = LCLV2(1, (4, 4), pool=pool, simple_complex=simple_complex)
    check(positive(Top(model)), 1, draws=60)
    assert receptive_field(Top(model)) == model.receptive_field("V2")


@pytest.mark.parametrize("stages", [3, 4])
@pytest.mark.parametrize("pool", ["max", "blur"])
def test_agrees_with_the_gradient_for_longer_chains(stages, pool):
    torch.manual_seed(1)
    shapes = [(5, 2, 2), (3, 1, 1), (4, 1, 0), (3, 2, 1)][:stages]
    chain = StageChain(
        {
            f"stage {i}": Stage(1 if i == 0 else 3, 3, kernel=kernel, stride=stride, padding=padding, pool=pool)
            for i, (kernel, stride, padding) in enumerate(shapes)
        }
    )
    check(positive(Top(chain)), 1, draws=240 // stages**2)
    for i, name in enumerate(chain.names):
        assert chain.receptive_field(name) == trace(chain.windows())[2 * i + 1]


def test_a_window_that_skips_pixels_is_measured_from_first_to_last():
    # Every other pixel, then three of these: pixels 0, 2 and 4.
    torch.manual_seed(0)
    chain = positive(nn.Sequential(nn.Conv2d(1, 1, 1, 2), nn.Conv2d(1, 1, 3)))
    assert receptive_field(chain) == ReceptiveField(5, 2, 0)
    check(chain, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Reading a chain of layers


def test_windows_of_pools():
    assert windows(nn.MaxPool2d(3)) == windows(nn.AvgPool2d(3)) == [Window(3, 3)]
    assert windows(nn.MaxPool2d(3, 2, 1, dilation=2)) == [Window(3, 2, 1, 2)]
    assert windows(nn.AvgPool2d((2, 2), (1, 1))) == [Window(2, 1)]


def test_nested_chains_are_read_in_order():
    inner = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1))
    assert windows(nn.Sequential(inner, nn.ReLU(), nn.MaxPool2d(2))) == [Window(3), Window(2, 2)]


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.Linear(3, 3), "No receptive field is known for a layer of type Linear"),
        (nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1)), "type AdaptiveAvgPool2d"),
        (nn.Conv2d(1, 1, (3, 5)), r"not square \(\(3, 5\)\)"),
        (nn.Conv2d(1, 1, 3, (1, 2)), r"not square \(\(1, 2\)\)"),
        (nn.Conv2d(1, 1, 3, padding="same"), "padding 'same'; expected a number of pixels"),
        (nn.MaxPool2d(3, 2, ceil_mode=True), "expected ceil_mode=False"),
    ],
)
def test_layers_without_one_square_window_are_refused(layer, match):
    with pytest.raises(ValueError, match=match):
        windows(layer)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ((0,), "Window kernel is 0; expected a whole number of at least 1"),
        ((3, 0), "Window stride is 0"),
        ((3, 1, -1), "Window padding is -1; expected a whole number of at least 0"),
        ((3, 1, 0, 0), "Window dilation is 0"),
        ((2.5,), "Window kernel is 2.5"),
    ],
)
def test_windows_that_do_not_exist_are_refused(values, match):
    with pytest.raises(ValueError, match=match):
        Window(*values)


@pytest.mark.parametrize("ratio", [0.5, 0.999, -1])
def test_a_patch_smaller_than_the_receptive_field_is_refused(ratio):
    with pytest.raises(ValueError, match=f"The patch is {ratio} receptive fields wide; expected at least 1"):
        patch_side(19, ratio)
