"""Every backbone by its contract, and against the networks that it is built like."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lcl.recognition import RecognitionNet
from lcl.stages import LCLV2, BatchNorm
from neural_fits.activations import activations
from neural_fits.baselines import AlexNetConvolutions
from neural_fits.vision_model import VisionModel
from vision_methods.backbones import BACKBONES, IMAGENET_MEAN, IMAGENET_STD, load_torchvision, make_backbone
from vision_methods.resnet import ResNet


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", BACKBONES)
def test_contract(name):
    backbone = make_backbone(name, seed=0)
    maps = backbone(images(2, 3, 96, 112))
    assert tuple(maps) == backbone.layers == tuple(backbone.channels)
    assert {layer: values.shape[1] for layer, values in maps.items()} == backbone.channels
    sides = [values.shape[2] for values in maps.values()]
    assert sides == sorted(sides, reverse=True)
    kept = [values.detach().clone() for values in maps.values()]
    maps[backbone.layers[-1]].square().sum().backward()  # end to end: to the very first weights
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in backbone.parameters())
    assert all(torch.equal(old, new) for old, new in zip(kept, maps.values(), strict=True))
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(m, BatchNorm) for m in norms)
    assert all(key.startswith("trunk.") for key in backbone.state_dict())


@pytest.mark.parametrize("name", BACKBONES)
def test_seed_decides_the_weights(name):
    first, again, other = (make_backbone(name, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["alexnet", "lcl"])
def test_last_map_of_small_images_is_five_wide_and_smaller_ones_are_refused(name):
    backbone = make_backbone(name, seed=0).eval()
    for side, places in ((96, 5), (112, 6), (224, 13), (31, 1)):
        assert backbone(images(1, 3, side, side))[backbone.layers[-1]].shape[2:] == (places, places)
    with pytest.raises(ValueError, match=r"30 x 40 px leave nothing .* at least 31 px"):
        backbone(images(1, 3, 30, 40))


def test_images_are_checked():
    backbone = make_backbone("alexnet", seed=0)
    with pytest.raises(ValueError, match=r"torch.uint8 of shape \(1, 3, 64, 64\)"):
        backbone(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(batch, 3, height, width\)"):
        backbone(images(1, 1, 64, 64))
    with pytest.raises(ValueError, match="backbone is 'vgg'; expected one of resnet18"):
        make_backbone("vgg", seed=0)


def test_alexnet_with_norms_that_do_nothing_is_alexnet():
    backbone = make_backbone("alexnet", seed=0).eval()
    plain = AlexNetConvolutions().eval()
    with torch.no_grad():
        for bias_free, (number, name) in zip(
            backbone.trunk.convolutions.values(), ((0, 1), (3, 2), (6, 3), (8, 4), (10, 5)), strict=True
        ):
            plain.features[number].weight.copy_(bias_free.weight)
            # Running statistics 0 and 1, gain and offset of the norm: offset is the bias, gain 1 but for eps.
            offset = torch.linspace(-0.1, 0.1, len(bias_free.weight))
            backbone.trunk.norms[f"conv{name}"].bias.copy_(offset)
            backbone.trunk.norms[f"conv{name}"].eps = 0.0
            plain.features[number].bias.copy_(offset)
        x = images(2, 3, 112, 112)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        expected = plain((x - mean) / std)
        for name, maps in backbone(x).items():
            torch.testing.assert_close(maps, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_lcl_is_the_stages_with_gradients_between_them(training):
    backbone = make_backbone("lcl", seed=5).train(training)
    twin = RecognitionNet(LCLV2(generator=torch.Generator().manual_seed(5)), nn.Identity()).train(training)
    x = images(2, 3, 112, 112)
    mine, its = backbone(x)["V2"], twin.maps(x)
    torch.testing.assert_close(mine, its)
    mine.square().sum().backward()
    its.square().sum().backward()
    mine, its = backbone.trunk.stages["V1"].conv.weight.grad, twin.front["V1"].conv.weight.grad
    torch.testing.assert_close(mine, its)
    assert its.abs().max() > 0
    # So a chain takes the trunk's weights as they are.
    assert list(backbone.trunk.state_dict()) == list(LCLV2().state_dict())


def test_torchvision_weights_load_strictly():
    state = ResNet((3, 4, 6, 3), bottleneck=True, classes=1000, generator=torch.Generator().manual_seed(9)).state_dict()
    backbone = make_backbone("resnet50", seed=0).eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}

    def refused(changed, message, **options):
        with pytest.raises(ValueError, match=message):
            load_torchvision(backbone, changed, **options)
        assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())

    refused(state, r"have besides fc.bias, fc.weight \(2 names\)")
    without = {name: value for name, value in state.items() if name != "layer2.0.bn1.running_var"}
    refused(without, r"lack layer2.0.bn1.running_var \(1 names\)", drop=["fc"])
    refused(state | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, r"conv1.weight has shape \(64, 3, 3, 3\)", drop=["fc"])
    refused(state | {"bn1.bias": torch.full((64,), torch.nan)}, "bn1.bias .* finite", drop=["fc"])
    refused({f"module.{name}": value for name, value in state.items()}, "lack bn1.bias", drop=["fc"])
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    load_torchvision(backbone, old, drop=["fc"])
    reference = ResNet((3, 4, 6, 3), bottleneck=True, classes=1000).eval()
    reference.load_state_dict(state)
    x = images(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        for name, maps in reference((x - mean) / std).items():
            torch.testing.assert_close(backbone(x)[name], maps)
    with pytest.raises(ValueError, match="The backbone is AlexNet; expected a ResNet"):
        load_torchvision(make_backbone("alexnet", seed=0), state)


def test_same_padding_is_an_option_of_the_resnets():
    plain, same = (make_backbone("resnet18", seed=0, same_padding=flag).eval() for flag in (False, True))
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        first, second = plain(x)["layer1"], same(x)["layer1"]
    assert first.shape == second.shape
    assert not torch.allclose(first, second)
    # The first convolution alone: symmetric padding of 3 and "SAME" padding of 2 and 3 differ by a shift of one pixel.
    weight = plain.trunk.conv1.weight
    expected = F.conv2d(F.pad(x, (2, 3, 2, 3)), weight, stride=2)
    torch.testing.assert_close(same.trunk.conv1(x), expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_measurable(name):
    backbone = make_backbone(name, seed=0).eval()
    model = VisionModel(backbone, name=name, field_deg=4.0, input_px=96, channels=3, layers=backbone.layers)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    measured = activations(model, pictures, size_deg=4.0, layers=backbone.layers)
    with torch.no_grad():
        direct = backbone(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
    for layer in backbone.layers:
        expected = direct[layer].flatten(1).numpy()
        np.testing.assert_allclose(measured[layer], expected, rtol=0, atol=1e-5 * expected.max())
