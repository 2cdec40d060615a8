"""What of the way to Brain-Score can be tested without it; the rest is in tests/brainscore."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from neural_fits.activations import activations
from neural_fits.baselines import alexnet
from neural_fits.brainscore import behavior_benchmark, benchmark, brain_model, model_digest, read_picture
from neural_fits.recordings import recording_from_arrays
from neural_fits.vision_model import VisionModel

without = pytest.mark.skipif(importlib.util.find_spec("brainscore_vision") is not None, reason="Brain-Score is here")


def model(seed=0, **options):
    torch.manual_seed(seed)
    return VisionModel(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), "m", input_px=16, **options)


@without
def test_without_brainscore_the_way_to_it_is_said():
    with pytest.raises(ImportError, match="environment of its own"):
        brain_model(model(), identifier="m", regions={"V1": "0"})
    counts = np.random.default_rng(0).poisson(3, (6, 2, 3)).astype(float)
    images = np.zeros((6, 8, 8), np.uint8)
    recording = recording_from_arrays(counts, neuron={"region": "V1"}, images=images, size_deg=4, window_ms=(0, 200))
    with pytest.raises(ImportError, match="environment of its own"):
        benchmark(recording, "V1")


def test_a_response_that_is_lacking_is_named():
    counts = np.random.default_rng(0).poisson(3, (6, 2, 3)).astype(float)
    counts[2, :, 1] = np.nan
    images = np.zeros((6, 8, 8), np.uint8)
    neuron = {"region": "V1", "neuron_id": ["a", "b", "c"]}
    recording = recording_from_arrays(counts, neuron=neuron, images=images, size_deg=4, window_ms=(0, 200))
    with pytest.raises(ValueError, match="neuron b has no response"):
        benchmark(recording, "V1")


def test_repeated_trials_are_refused():
    import xarray as xr

    trials = xr.Dataset({"correct": (("observer", "image", "condition", "repeat"), np.ones((2, 1, 1, 2)))})
    with pytest.raises(ValueError, match="repeats"):
        behavior_benchmark(trials, {}, size_deg=3.0)


def test_stored_activations_are_keyed_by_all_that_decides_them():
    one = model()
    others = [
        model(seed=1),
        model(field_deg=4.0),
        model(background=0.4),
        model(mean=(0.5,)),
        VisionModel(torch.nn.Sequential(one.module[0], torch.nn.ELU()), "m", input_px=16),
    ]
    keys = [model_digest(each) for each in (one, *others)]
    assert len(set(keys)) == len(keys)
    assert model_digest(dataclasses.replace(one, name="another name")) == keys[0]
    assert model_digest(model()) == keys[0]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
def test_pictures_are_read_whatever_their_mode(tmp_path, mode):
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(levels).convert(mode)
    picture.save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert found.dtype == np.uint8
    assert found.shape == ((5, 7) if mode == "L" else (5, 7, 3))
    np.testing.assert_array_equal(found, np.asarray(picture if mode == "L" else picture.convert("RGB")))


@pytest.mark.shared
def test_alexnet_with_inplace_rectifiers_gives_what_it_gives_without(shared):
    weights = shared / "models" / "alexnet_imagenet_conv.npz"
    images = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    layers = ["features.0", "features.3", "features.6", "features.10"]
    found = [
        activations(alexnet(weights, inplace=inplace), images, size_deg=4.0, layers=layers) for inplace in (True, False)
    ]
    for layer in layers:
        np.testing.assert_array_equal(found[0][layer], found[1][layer])
        assert (found[0][layer] < 0).mean() > 0.2


@pytest.mark.shared
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_alexnet_with_inplace_rectifiers_gives_the_same_on_a_gpu(shared):
    images = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    network = alexnet(shared / "models" / "alexnet_imagenet_conv.npz", inplace=True)
    layers = ["features.0", "features.3", "features.6", "features.10"]
    cpu, gpu = (activations(network, images, size_deg=4.0, layers=layers, device=name) for name in ("cpu", "cuda"))
    for layer in layers:
        scale = cpu[layer].std()
        np.testing.assert_allclose(gpu[layer], cpu[layer], rtol=1e-3, atol=1e-3 * scale)
        assert (gpu[layer] < 0).mean() > 0.2
