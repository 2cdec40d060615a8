import sys

import numpy as np
import pytest
import torch

from neural_fits.placing import LUMA, place
from neural_fits.vision_model import VisionModel, as_vision_model, evaluating, layer_names, layer_responses, load_model


def net(inplace=False):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(inplace=inplace))


def model(**fields):
    return VisionModel(**{"module": net(), "name": "net", "input_px": 16, **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"field_deg": 0}, "field_deg is 0"),
        ({"field_deg": float("nan")}, "field_deg is nan"),
        ({"input_px": 2.5}, r"input_px is 2\.5"),
        ({"channels": 2}, "channels is 2; expected 3"),
        ({"background": 128}, "background is 128"),
        ({"mean": (0.1, 0.2)}, "mean is .* expected 1 or 3"),
        ({"std": (0.0,)}, "std is"),
        ({"module": 3}, "module is 3"),
    ],
)
def test_wrong_fields_are_named(fields, said):
    with pytest.raises(ValueError, match=said):
        model(**fields)


def test_responses_before_an_in_place_rectifier_keep_their_negative_values():
    """The trap of hooks that do not clone: half of the values of the layer before would be rectified."""
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    both = [layer_responses(model(module=net(inplace)), images, ["0", "1", "2"]) for inplace in (False, True)]
    for name in ("0", "1", "2"):
        torch.testing.assert_close(both[0][name], both[1][name], rtol=0, atol=0)
    assert 0.2 < float((both[1]["1"] < 0).float().mean()) < 0.8


def test_modes_and_hooks_are_as_before_even_after_an_error():
    module = net().train()
    module[1].eval()

    def fails(*_):
        raise RuntimeError("in the network")

    handle = module[2].register_forward_hook(fails)
    with pytest.raises(RuntimeError, match="in the network"):
        layer_responses(model(module=module), torch.rand(1, 3, 16, 16), ["0"])
    handle.remove()
    assert module.training
    assert not module[1].training
    assert not module[0]._forward_hooks
    before = module[1].running_mean.clone()
    layer_responses(model(module=module), torch.rand(4, 3, 16, 16), ["2"])
    torch.testing.assert_close(module[1].running_mean, before)


def test_keys_of_a_mapping_are_layers_and_come_before_submodules():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.V1 = torch.nn.Conv2d(3, 2, 3)

        def forward(self, images):
            return {"V1": torch.relu(self.V1(images)), "V2": images.mean((2, 3))}

    two = model(module=Two())
    assert layer_names(two) == ["V1", "V2"]
    responses = layer_responses(two, torch.rand(2, 3, 16, 16), ["V1", "V2"])
    assert float(responses["V1"].min()) >= 0  # the rectified map, not the submodule of that name
    assert responses["V2"].shape == (2, 3)


def test_patterns_choose_layers_in_the_order_of_the_model():
    assert layer_names(model(), ["2", "0"]) == ["0", "2"]
    assert layer_names(model(layers=("1",))) == ["1"]
    assert layer_names(model(), "[01]") == ["0", "1"]
    with pytest.raises(ValueError, match=r"net has no layer 'conv\*'; near it are 0, 1, 2"):
        layer_names(model(), "conv*")


def test_layers_that_give_no_row_for_each_image_are_refused():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.twice = torch.nn.Identity()
            self.unused = torch.nn.Identity()
            self.sum = torch.nn.Identity()

        def forward(self, images):
            return self.twice(self.twice(images)) + self.sum(images.sum())

    odd = model(module=Odd())
    with pytest.raises(ValueError, match="twice of net runs more than once"):
        layer_responses(odd, torch.rand(2, 3, 16, 16), ["twice"])
    with pytest.raises(ValueError, match="unused of net does not run"):
        layer_responses(odd, torch.rand(2, 3, 16, 16), ["unused"])
    with pytest.raises(ValueError, match=r"sum of net gives a tensor of shape \(\) for 2 pictures"):
        layer_responses(odd, torch.rand(2, 3, 16, 16), ["sum"])


def test_evaluating_functions_have_no_mode():
    with evaluating(torch.relu):
        assert torch.is_inference_mode_enabled()


def test_models_by_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "made_here.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Identity()\ndef wrong():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert load_model("made_here:make").name == "Identity"
    assert sys.path == path
    for place_, said in (
        ("made_here:mak", "did you mean make"),
        ("made_here:wrong", "returned int; expected a torch module"),
        ("no_such_module_here:make", "cannot be imported"),
        ("made_here", "expected module:function"),
    ):
        with pytest.raises(ValueError, match=said):
            load_model(place_)


def test_anything_else_is_no_model():
    with pytest.raises(ValueError, match="expected a VisionModel"):
        as_vision_model("alexnet")


# --- pictures in the field of view ---------------------------------------------------------------------------------


def eye(**fields):
    return VisionModel(**{"module": torch.nn.Identity(), "name": "eye", "input_px": 32, "channels": 1, **fields})


def test_a_picture_of_the_size_of_the_field_is_not_touched():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    placed = place(pictures, size_deg=8.0, model=eye())
    np.testing.assert_array_equal(placed[:, 0].numpy(), pictures.astype(np.float32) / 255)


@pytest.mark.parametrize("size_deg", [1.0, 2.5, 4.0, 8.0, 11.0])
def test_a_constant_picture_covers_its_size_in_degrees_around_the_middle(size_deg):
    placed = place(np.full((1, 50, 50), 255, np.uint8), size_deg=size_deg, model=eye(background=0.25))[0, 0]
    side = min(32, round(size_deg * 4))
    inside = placed > 0.999
    assert int(inside.sum()) == side**2
    rows = torch.nonzero(inside)[:, 0]
    assert abs(float(rows.float().mean()) - 15.5) <= 0.5
    assert bool((placed[~inside] == 0.25).all())


def test_shrinking_averages_what_it_covers():
    """Antialiased: fine stripes become grey, and the mean of a picture is kept."""
    stripes = np.tile(np.array([0, 255], np.uint8), (1, 64, 32))
    placed = place(stripes, size_deg=4.0, model=eye())[0, 0]
    np.testing.assert_allclose(placed[10:22, 10:22], 0.5, atol=0.02)


def test_the_same_size_in_degrees_at_another_resolution_is_the_same_share_of_the_field():
    picture = np.zeros((1, 64, 64), np.uint8)
    picture[:, 16:48, 16:48] = 255
    shares = [
        float(place(picture, size_deg=4.0, model=eye(input_px=px, background=0.0)).mean()) for px in (32, 64, 128)
    ]
    np.testing.assert_allclose(shares, (2 / 8) ** 2, rtol=0.02)


def test_what_is_larger_than_the_field_is_cut_around_the_middle():
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (1, 64, 1))
    placed = place(ramp, size_deg=16.0, model=eye())[0, 0]
    np.testing.assert_allclose(placed[0], ramp[0, 0, 16:48], atol=1e-6)


def test_colour_and_grey():
    colour = np.random.default_rng(0).random((1, 32, 32, 3)).astype(np.float32)
    grey = place(colour, size_deg=8.0, model=eye())
    np.testing.assert_allclose(grey[0, 0], colour[0] @ np.array(LUMA, np.float32), atol=1e-6)
    three = place(colour[..., 0], size_deg=8.0, model=eye(channels=3, mean=(0.5, 0.4, 0.3), std=(0.5,)))
    np.testing.assert_allclose(three[0, 2], (colour[0, :, :, 0] - 0.3) / 0.5, atol=1e-6)


def test_pictures_that_are_not_square_keep_their_shape():
    wide = np.full((1, 10, 20), 255, np.uint8)
    inside = place(wide, size_deg=4.0, model=eye(background=0.0))[0, 0] > 0.999
    assert (int(inside.any(1).sum()), int(inside.any(0).sum())) == (8, 16)


@pytest.mark.parametrize(
    ("pictures", "size_deg", "said"),
    [
        (np.zeros((1, 4, 4), np.uint8), float("nan"), "unknown .NaN.; give size_deg"),
        (np.zeros((1, 4, 4), np.uint8), -1.0, r"size_deg is -1\.0"),
        (np.zeros((1, 4, 4), np.uint8), 0.01, "0 x 0 px"),
        (np.zeros((4, 4), np.uint8), 1.0, r"shape \(4, 4\)"),
        (np.zeros((1, 4, 4), np.int64), 1.0, "of type int64"),
        (np.full((1, 4, 4), 200.0), 1.0, r"go from 200\.0 to 200\.0"),
        (np.full((1, 4, 4), np.nan), 1.0, "go from nan"),
    ],
)
def test_wrong_pictures_are_named(pictures, size_deg, said):
    with pytest.raises(ValueError, match=said):
        place(pictures, size_deg=size_deg, model=eye())
