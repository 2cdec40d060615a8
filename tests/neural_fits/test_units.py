import numpy as np
import pytest
import torch
from torch import nn

from neural_fits.units import choose_units, unit_responses
from neural_fits.vision_model import VisionModel


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 7 * 7, 5))
    return VisionModel(net, "net", channels=1, input_px=16, field_deg=2.0, mean=(0.5,), std=(0.25,))


def test_units_at_the_centre_answer_as_the_layer_does(model):
    images = np.random.default_rng(0).random((6, 16, 16), dtype=np.float32)
    units = choose_units(model, ["1", "3"])
    responses = unit_responses(model, images, units, size_deg=2.0, batch_size=4)
    with torch.no_grad():
        x = (torch.from_numpy(images)[:, None] - 0.5) / 0.25
        maps, features = model.module[:2](x), model.module(x)
    assert np.allclose(responses[:, :3], maps[:, :, 3, 3], atol=1e-6)
    assert np.allclose(responses[:, 3:], features, atol=1e-6)
    assert units.layer.tolist() == ["1"] * 3 + ["3"] * 5
    assert units.row.tolist() == [3] * 3 + [-1] * 5
    assert units.channel.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]


def test_random_units_are_where_they_say(model):
    units = choose_units(model, "1", places="all", n_units=20, seed=3)
    images = np.random.default_rng(0).random((2, 16, 16), dtype=np.float32)
    responses = unit_responses(model, images, units, size_deg=2.0)
    with torch.no_grad():
        maps = model.module[:2]((torch.from_numpy(images)[:, None] - 0.5) / 0.25).numpy()
    assert np.allclose(responses, maps[:, units.channel, units.row, units.column], atol=1e-6)
    assert len(set(zip(units.channel, units.row, units.column, strict=True))) == 20
    assert np.array_equal(units.indices["1"], choose_units(model, "1", places="all", n_units=20, seed=3).indices["1"])
    assert len(choose_units(model, "1", places="all")) == 3 * 7 * 7


def test_bad_choices_are_named(model):
    with pytest.raises(ValueError, match="places is 'corner'"):
        choose_units(model, places="corner")
    with pytest.raises(ValueError, match="n_units is 0"):
        choose_units(model, n_units=0)
    with pytest.raises(ValueError, match="no layer 'x'"):
        choose_units(model, "x")
