"""ResNets against their definition: names, shapes and counts by hand, and the forward pass written out again."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vision_methods.resnet import Conv, ResNet, same_pad

KINDS = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True)}


def resnet(depth, **options):
    blocks, bottleneck = KINDS[depth]
    return ResNet(blocks, bottleneck=bottleneck, generator=torch.Generator().manual_seed(depth), **options)


def norm(name, channels):
    shapes = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def shapes_18():
    shapes = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
    for layer, below, width in ((1, 64, 64), (2, 64, 128), (3, 128, 256), (4, 256, 512)):
        for block in (0, 1):
            at = f"layer{layer}.{block}"
            shapes |= {f"{at}.conv1.weight": (width, width if block else below, 3, 3)} | norm(f"{at}.bn1", width)
            shapes |= {f"{at}.conv2.weight": (width, width, 3, 3)} | norm(f"{at}.bn2", width)
            if block == 0 and layer > 1:
                shapes |= {f"{at}.downsample.0.weight": (width, below, 1, 1)} | norm(f"{at}.downsample.1", width)
    return shapes | {"fc.weight": (1000, 512), "fc.bias": (1000,)}


def shapes_50():
    shapes = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
    for layer, below, width, out, blocks in (
        (1, 64, 64, 256, 3),
        (2, 256, 128, 512, 4),
        (3, 512, 256, 1024, 6),
        (4, 1024, 512, 2048, 3),
    ):
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            shapes |= {f"{at}.conv1.weight": (width, out if block else below, 1, 1)} | norm(f"{at}.bn1", width)
            shapes |= {f"{at}.conv2.weight": (width, width, 3, 3)} | norm(f"{at}.bn2", width)
            shapes |= {f"{at}.conv3.weight": (out, width, 1, 1)} | norm(f"{at}.bn3", out)
            if block == 0:
                shapes |= {f"{at}.downsample.0.weight": (out, below, 1, 1)} | norm(f"{at}.downsample.1", out)
    return shapes | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


@pytest.mark.parametrize(("depth", "shapes", "parameters"), [(18, shapes_18(), 11689512), (50, shapes_50(), 25557032)])
def test_names_shapes_and_count_are_torchvisions(depth, shapes, parameters):
    state = resnet(depth, classes=1000).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == shapes
    learned = [n for n in shapes if not n.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert sum(int(np.prod(shapes[n])) for n in learned) == parameters
    assert sum(p.numel() for p in resnet(depth, classes=1000).parameters()) == parameters
    assert "fc.weight" not in resnet(depth).state_dict()


def disturb(net):
    """Gains, offsets and statistics that are not 1 and 0, so that a mix-up of norms shows."""
    generator = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if ".bn" in f".{name}" or "downsample.1" in name:
            if name.endswith(("weight", "running_var")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith(("bias", "running_mean")):
                value.uniform_(-0.3, 0.3, generator=generator)
    return net


def again(state, images, depth, *, classify=False, same=False):
    """The network by torch's functions, from its state alone."""

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        kernel = weight.shape[2]
        if not same:
            return F.conv2d(x, weight, stride=stride, padding=kernel // 2)
        total = [max((int(np.ceil(n / stride)) - 1) * stride + kernel - n, 0) for n in x.shape[2:]]
        (top, left) = (t // 2 for t in total)
        return F.conv2d(F.pad(x, (left, total[1] - left, top, total[0] - top)), weight, stride=stride)

    def bn(x, name):
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, 1e-5)

    x = F.relu(bn(conv(images, "conv1", 2), "bn1"))
    if same:
        assert x.shape[2] % 2 == 0
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)
    else:
        x = F.max_pool2d(x, 3, 2, 1)
    maps = {}
    for layer, count in enumerate(KINDS[depth][0], 1):
        for block in range(count):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = conv(x, f"{at}.conv1", 1 if depth == 50 else stride)
            y = conv(F.relu(bn(y, f"{at}.bn1")), f"{at}.conv2", stride if depth == 50 else 1)
            y = bn(y, f"{at}.bn2")
            if depth == 50:
                y = bn(conv(F.relu(y), f"{at}.conv3"), f"{at}.bn3")
            if f"{at}.downsample.0.weight" in state:
                x = bn(conv(x, f"{at}.downsample.0", stride), f"{at}.downsample.1")
            x = F.relu(x + y)
        maps[f"layer{layer}"] = x
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"]) if classify else maps


@pytest.mark.parametrize("depth", KINDS)
@pytest.mark.parametrize("same", [False, True])
def test_forward_is_the_definition(depth, same):
    net = disturb(resnet(depth, classes=10, same_padding=same)).eval().double()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = again(net.state_dict(), images, depth, same=same)
        for name, maps in net(images).items():
            torch.testing.assert_close(maps, expected[name], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            net.classify(images), again(net.state_dict(), images, depth, classify=True, same=same), rtol=1e-10, atol=0
        )
    assert [tuple(m.shape[2:]) for m in net(images).values()] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    with pytest.raises(ValueError, match="built with 0 classes"):
        resnet(18).classify(images.float())


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "before", "after"),
    # 224 px, 7x7 at stride 2: TensorFlow pads 2 and 3; a 1x1 at stride 2 nothing; an odd side as symmetric padding.
    [(224, 7, 2, 2, 3), (112, 3, 2, 0, 1), (56, 1, 2, 0, 0), (7, 3, 1, 1, 1), (225, 7, 2, 3, 3)],
)
def test_same_padding_is_tensorflows(side, kernel, stride, before, after):
    padded = same_pad(torch.ones(1, 1, side, side), kernel, stride)[0, 0]
    row = padded[before]
    assert padded.shape == (side + before + after,) * 2
    assert (row[:before] == 0).all()
    assert (row[before : before + side] == 1).all()
    assert (row[before + side :] == 0).all()


def test_weights_are_drawn_as_torchvisions_and_by_the_seed():
    torch.manual_seed(0)
    first = resnet(18).state_dict()
    torch.manual_seed(1)
    second = resnet(18).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert float(Conv(64, 256, 3).weight.detach().std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


def test_gradients_reach_every_parameter_and_responses_do_not_alias():
    net = resnet(18).train()
    maps = net(torch.randn(2, 3, 64, 64))
    kept = {name: values.detach().clone() for name, values in maps.items()}
    maps["layer4"].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    assert all(torch.equal(kept[name], maps[name]) for name in maps)
