"""Models: their fields, their layers, and where they come from."""

import sys

import pytest
import torch
from torch import nn

from neural_fits.vision_model import (
    VisionModel,
    as_vision_model,
    device_of,
    evaluating,
    layer_names,
    layer_responses,
    load_model,
)


class Block(nn.Module):
    """Two convolutions that share a rectifier, as residual networks do."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.relu(self.conv2(self.relu(self.conv1(x))) + x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), Block())
    return nn.Sequential(blocks, nn.Dropout(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))


@pytest.fixture
def model(net):
    return VisionModel(net, "net", input_px=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": 3}, "module is 3; expected a torch module"),
        ({"field_deg": float("nan")}, "field_deg is nan; expected a positive"),
        ({"field_deg": 0}, "field_deg is 0"),
        ({"input_px": 10.5}, "input_px is 10.5; expected a positive whole"),
        ({"channels": 4}, "channels is 4; expected 3"),
        ({"background": 128}, "background is 128; expected a level from 0"),
        ({"mean": (0.5, 0.5)}, r"mean is \(0.5, 0.5\); expected 1 or 3"),
        ({"std": (0.2, 0.0, 0.2)}, r"std is \(0.2, 0.0, 0.2\); expected finite positive"),
        ({"mean": (float("inf"),)}, r"mean is \(inf,\); expected finite numbers"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        VisionModel(**({"module": nn.Identity(), "name": "eye"} | change))


def test_lists_and_a_single_name_become_tuples():
    model = VisionModel(nn.Identity(), "eye", mean=[1, 2, 3], layers="a")
    assert model.mean == (1.0, 2.0, 3.0)
    assert model.layers == ("a",)


def test_as_vision_model():
    assert as_vision_model(torch.relu).name == "relu"
    module = nn.Conv2d(3, 1, 1)
    model = as_vision_model(module)
    assert (model.module, model.name, model.field_deg, model.input_px) == (module, "Conv2d", 8.0, 224)
    assert as_vision_model(model) is model
    with pytest.raises(ValueError, match="model is 'alexnet'; expected a VisionModel"):
        as_vision_model("alexnet")


def test_layers_by_pattern_in_the_order_of_the_model(model):
    assert layer_names(model, "0.2.*") == ["0.2.conv1", "0.2.conv2"]
    assert layer_names(model, ["3", "0.0"]) == ["0.0", "3"]
    assert layer_names(model, ["0.?", "0.0"]) == ["0.0", "0.1", "0.2"]
    everything = ["0", "0.0", "0.1", "0.2", "0.2.conv1", "0.2.conv2", "1", "2", "3"]
    assert layer_names(model) == layer_names(model, "*") == everything


def test_declared_layers_are_the_default(net):
    assert layer_names(VisionModel(net, "net", input_px=16, layers=("3", "0.0"))) == ["0.0", "3"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("0.2.conv3", "net has no layer '0.2.conv3'; near it are 0.2.conv"),
        ("features.*", r"net has no layer 'features.\*'; near it are"),
        ("0.2.relu", "layer 0.2.relu of net runs more than once for a picture"),
        ("0.2.unused", "layer 0.2.unused of net does not run"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused(model, pattern, message):
    with pytest.raises(ValueError, match=message):
        layer_names(model, pattern)


def test_responses_are_those_of_a_forward_pass_by_hand(net, model):
    images = torch.rand(3, 3, 16, 16)
    found = layer_responses(model, images, layer_names(model))
    net.eval()
    with torch.no_grad():
        conv = nn.functional.conv2d(images, net[0][0].weight, net[0][0].bias)
        block = net[0][2]
        within = block.conv1(conv.relu())
        whole = (block.conv2(within.relu()) + conv.relu()).relu()
    assert (conv < 0).any()
    torch.testing.assert_close(found["0.0"], conv)
    torch.testing.assert_close(found["0.1"], conv.relu())
    torch.testing.assert_close(found["0.2.conv1"], within)
    torch.testing.assert_close(found["0.2"], whole)
    torch.testing.assert_close(found["3"], net(images))


def hooks(net):
    return sum(len(each._forward_hooks) for each in net.modules())


def test_the_model_is_left_as_it_was(net, model):
    net.train()
    net[1].eval()
    modes = [each.training for each in net.modules()]
    weight = net[3].weight.clone()
    layer_responses(model, torch.rand(2, 3, 16, 16), layer_names(model))
    assert [each.training for each in net.modules()] == modes
    assert hooks(net) == 0
    assert torch.equal(weight, net[3].weight)
    assert torch.is_grad_enabled()
    assert net(torch.rand(2, 3, 16, 16)).requires_grad


def test_also_after_an_error(net, model):
    net.train()
    with pytest.raises(RuntimeError, match="shape"):
        layer_responses(model, torch.rand(2, 3, 15, 15), ["0.0", "3"])
    with pytest.raises(ValueError, match="runs more than once"):
        layer_responses(model, torch.rand(2, 3, 16, 16), ["0.2.relu"])
    with pytest.raises(ValueError, match="does not run"):
        layer_responses(model, torch.rand(2, 3, 16, 16), ["0.2.unused"])
    assert hooks(net) == 0
    assert all(each.training for each in net.modules())
    assert not torch.is_inference_mode_enabled()


def test_evaluating_leaves_frozen_parts_frozen():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout())
    net[0].eval()
    with pytest.raises(KeyError), evaluating(net):
        {each.training for each in net.modules()}.remove(True)
    with evaluating(net):
        assert not any(each.training for each in net.modules())
    assert [each.training for each in net.modules()] == [True, False, True]


def test_keys_of_a_mapping_are_layers():
    class Stages(nn.Module):
        def __init__(self):
            super().__init__()
            self.v1 = nn.Conv2d(3, 2, 3)

        def forward(self, x):
            return {"v1": self.v1(x).relu(), "v2": self.v1.bias * 0 + x.mean((2, 3))[:, :2]}

    net = Stages()
    model = VisionModel(net, "stages", input_px=8)
    assert layer_names(model) == ["v1", "v2"]
    # The key is meant where a submodule has the same name.
    assert (layer_responses(model, torch.rand(2, 3, 8, 8), ["v1"])["v1"] >= 0).all()
    function = VisionModel(lambda x: {"mean": x.mean((2, 3))}, "f", input_px=8)
    assert layer_names(function, "m*") == ["mean"]
    with pytest.raises(ValueError, match="near it are mean"):
        layer_names(function, "median")


def test_a_function_has_one_layer():
    model = VisionModel(lambda x: x.flatten(1), "pixels", input_px=4)
    assert layer_names(model) == ["output"]
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(layer_responses(model, images, ["output"])["output"], images.flatten(1))
    with pytest.raises(ValueError, match=r"gives a tensor of shape \(\) for 2 pictures"):
        layer_responses(VisionModel(torch.sum, "sum", input_px=4), images, ["output"])


def test_tokens_and_tuples():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(3, 1, batch_first=True)

        def forward(self, x):
            x = x.flatten(2).movedim(1, 2)
            return self.attend(x, x, x)[0]

    model = VisionModel(Attention(), "vit", input_px=4)
    assert "attend" in layer_names(model)
    assert layer_responses(model, torch.rand(2, 3, 4, 4), ["attend"])["attend"].shape == (2, 16, 3)


def test_transformer_layers_can_be_read_inside():
    encoder = nn.TransformerEncoderLayer(3, 1, 8, batch_first=True)
    model = VisionModel(nn.Sequential(nn.Flatten(2), nn.Linear(16, 3), encoder), "vit", input_px=4)
    assert {"2", "2.linear1", "2.linear2"} <= set(layer_names(model, "2*"))


def test_device_of_a_function_and_of_buffers():
    assert device_of(as_vision_model(torch.relu)) == torch.device("cpu")
    module = nn.Identity()
    module.register_buffer("x", torch.zeros(1, device="meta"))
    assert device_of(as_vision_model(module)) == torch.device("meta")


SOURCE = """
import torch
from neural_fits.vision_model import VisionModel
def make():
    import {name}_late
    return VisionModel(torch.nn.Identity(), "made", field_deg=4.0)
def bare(size=3):
    return torch.nn.Linear(size, 1)
def wrong():
    return "weights.pt"
def needs(path):
    return torch.nn.Identity()
number = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    name = f"zoo_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE.format(name=name))
    (tmp_path / f"{name}_late.py").touch()
    (tmp_path / f"{name}_broken.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    return name


def test_models_are_loaded_from_the_working_directory(package):
    before = list(sys.path)
    model = load_model(f"{package}:make")
    assert (model.name, model.field_deg) == ("made", 4.0)
    assert isinstance(load_model(f"{package}:bare").module, nn.Linear)
    assert sys.path == before


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("zoo", "model is 'zoo'; expected module:function"),
        ("zoo:", "expected module:function"),
        ("no_such_zoo:make", "no_such_zoo cannot be imported .*; check the name"),
        ("{}_broken:make", "cannot be imported .*no_such_package_at_all"),
        ("{}:mak", "has no function mak; did you mean make"),
        ("{}:number", "has no function number; check the name"),
        ("{}:wrong", "returned str; expected a torch module"),
        ("{}:needs", "needs path; expected a function without arguments"),
    ],
)
def test_what_cannot_be_loaded_is_refused(package, place, message):
    with pytest.raises(ValueError, match=message):
        load_model(place.format(package))
