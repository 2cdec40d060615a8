import builtins
import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neural_fits.baselines import (
    BASELINES,
    AlexNetConvolutions,
    GaborEnergy,
    SteerablePyramid,
    alexnet,
    gabor_energy,
    pixels,
    reorder,
    shuffled_weights,
    steerable_pyramid,
    untrained,
)
from neural_fits.vision_model import VisionModel


def grating(frequency_cpd, orientation_deg, phase_deg=0.0, *, field_deg=8.0, input_px=224, amplitude=0.5):
    """Grating whose phase is that at the centre of the field, (1, 1, row, column)."""
    x = ((np.arange(input_px) + 0.5) / input_px - 0.5) * field_deg
    wave = np.deg2rad(90.0 - orientation_deg)
    u = x[None] * np.cos(wave) + x[:, None] * np.sin(wave)
    picture = 0.5 + amplitude * np.cos(2 * np.pi * frequency_cpd * u + np.deg2rad(phase_deg))
    return torch.from_numpy(picture).float()[None, None]


def inside(maps, grid=28):
    """Centre of the maps, away from the border of the picture."""
    return maps[..., grid // 2 - 2 : grid // 2 + 2, grid // 2 - 2 : grid // 2 + 2]


def noise(seed=0, *, input_px=224, highest=40):
    """Noise of up to ``highest`` cycles per picture, periodic."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((input_px, input_px)))
    k = np.fft.fftfreq(input_px, 1 / input_px)
    spectrum[np.hypot(k[:, None], k[None, : spectrum.shape[1]]) > highest] = 0
    return np.fft.irfft2(spectrum, s=(input_px, input_px))


@pytest.fixture(scope="module")
def bank() -> GaborEnergy:
    return gabor_energy().module  # type: ignore[return-value]


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_is_a_vision_model_that_gives_its_layers(name):
    model = BASELINES[name](input_px=96, field_deg=6.0)
    assert isinstance(model, VisionModel)
    assert (model.input_px, model.field_deg) == (96, 6.0)
    with torch.no_grad():
        maps = model.module(torch.rand(2, model.channels, 96, 96))
    assert tuple(maps) == model.layers
    assert all(values.shape[0] == 2 and values.ndim == 4 and values.isfinite().all() for values in maps.values())


def test_pixels_are_the_pictures():
    images = torch.rand(3, 3, 16, 16)
    model = pixels(colour=True, input_px=16)
    assert torch.equal(model.module(images)["pixels"], images)
    assert (model.channels, pixels().channels) == (3, 1)


# Gabor energy


@pytest.mark.parametrize("input_px", [128, 224])
def test_gabor_responses_peak_at_the_filters_own_frequency_and_orientation(input_px):
    bank = GaborEnergy(field_deg=8.0, input_px=input_px, frequencies_cpd=(1.0, 2.0, 4.0), grid=16)
    frequencies = 2.0 ** np.arange(-0.5, 2.51, 0.25)
    orientations = np.arange(0.0, 180.0, 7.5)
    pictures = torch.cat([grating(f, o, 30.0, input_px=input_px) for f in frequencies for o in orientations])
    responses = inside(bank(pictures)["complex"], 16).mean((2, 3)).reshape(len(frequencies), len(orientations), 3, 8)
    for i, frequency in enumerate(bank.frequencies_cpd):
        for j, orientation in enumerate(bank.orientations_deg):
            best = np.unravel_index(int(responses[..., i, j].argmax()), responses.shape[:2])
            assert frequencies[best[0]] == frequency
            assert orientations[best[1]] == orientation


def test_gabor_responses_to_gratings_follow_the_transfer_function_at_any_resolution():
    # continuous Gabor filter: Gaussians around +f and -f, less the envelope's around 0 that removes the mean
    f, octaves, aspect = 2.0, 1.3, 1.5
    sigma = math.sqrt(math.log(2) / 2) / (math.pi * f) * (2**octaves + 1) / (2**octaves - 1)

    def gauss(u, v):
        return math.exp(-2 * (math.pi * sigma) ** 2 * (u**2 + (aspect * v) ** 2))

    removed = gauss(f, 0)
    gains = {
        part: 1 + sign * gauss(2 * f, 0) - even * 2 * removed**2 for part, sign, even in (("e", 1, 1), ("o", -1, 0))
    }
    for input_px in (96, 224):
        bank = GaborEnergy(
            field_deg=8.0, input_px=input_px, frequencies_cpd=(f,), bandwidth_octaves=octaves, aspect=aspect, grid=15
        )
        for frequency, turned in ((2.0, 0.0), (1.4, 0.0), (2.6, 10.0), (2.0, 25.0)):
            u, v = (frequency * g(math.radians(turned)) for g in (math.cos, math.sin))
            even = (gauss(u - f, v) + gauss(u + f, v) - 2 * removed * gauss(u, v)) / gains["e"]
            odd = (gauss(u - f, v) - gauss(u + f, v)) / gains["o"]
            for phase, expected in ((0.0, [even, 0, 0, 0]), (90.0, [0, odd, 0, 0]), (180.0, [0, 0, even, 0])):
                maps = bank(grating(frequency, 90.0 - turned, phase, input_px=input_px, amplitude=0.4))["simple"]
                channel = bank.orientations_deg.index(90.0) * 4
                found = maps[0, channel : channel + 4, 7, 7] / 0.4
                np.testing.assert_allclose(found, expected, atol=0.005)


def test_half_height_of_the_band_is_half_an_octave_away_on_average():
    bank = GaborEnergy(field_deg=8.0, input_px=224, frequencies_cpd=(2.0,), n_orientations=1)
    edges = [2 * 2 / 3, 2 * 4 / 3]  # one octave apart, their mean is the centre
    for edge in edges:
        assert float(inside(bank(grating(edge, 0.0))["complex"]).mean()) == pytest.approx(0.25, rel=0.02)


def test_complex_responses_ignore_the_phase_and_simple_ones_do_not(bank):
    for i, frequency in enumerate(bank.frequencies_cpd):
        pictures = torch.cat([grating(frequency, 45.0, phase) for phase in range(0, 360, 15)])
        maps = bank(pictures)
        channel = i * 8 + 2
        amplitude = maps["complex"][:, channel, 14, 14]
        assert float((amplitude.max() - amplitude.min()) / amplitude.mean()) < 0.01
        assert float(amplitude.mean()) == pytest.approx(0.5, rel=0.01)
        simple = maps["simple"][:, channel * 4, 14, 14]
        assert float(simple.min()) == 0
        assert float(simple.max()) == pytest.approx(0.5, rel=0.05)


def test_gabor_responses_to_constant_pictures_are_zero(bank):
    maps = bank(torch.tensor([0.0, 0.3, 1.0]).view(3, 1, 1, 1).expand(3, 1, 224, 224))
    assert all(float(values.abs().max()) < 1e-5 for values in maps.values())


def test_a_moved_picture_moves_the_map(bank):
    picture = noise(highest=80)[None, None]
    moved = np.roll(picture, (2 * 8, -8), axis=(2, 3))  # two cells of 8 px down, one to the left
    maps, maps_moved = (bank(torch.from_numpy(p).float()) for p in (picture, moved))
    for name in ("simple", "complex"):  # the two lowest frequencies see the border from everywhere
        values, after = (m[name].unflatten(1, (5, -1))[:, 2:] for m in (maps, maps_moved))
        error = after[..., 12:18, 9:15] - values[..., 10:16, 10:16]
        assert float(error.abs().max()) < 0.005 * float(values.max())


def test_one_filter_equals_its_direct_fourier_computation(bank):
    # the filter drawn on the pixels in degrees and applied with the FFT; noise that is periodic and band-limited
    picture = noise(3)
    frequency, orientation = 2.0, 112.5
    sigma = 0.5 * math.sqrt(math.log(2) / 2) / math.pi * 3
    x = (((np.arange(224) + 112) % 224) - 112) / 28
    wave = np.deg2rad(90 - orientation)
    u = x[None] * np.cos(wave) + x[:, None] * np.sin(wave)
    envelope = np.exp(-(x[None] ** 2 + x[:, None] ** 2) / (2 * sigma**2))
    responses = []
    for carrier in (np.cos(2 * np.pi * frequency * u), -np.sin(2 * np.pi * frequency * u)):
        kernel = envelope * carrier
        kernel -= envelope * kernel.sum() / envelope.sum()
        kernel /= (kernel * carrier).sum()
        # cross-correlation, evaluated at the centres of the cells, 3.5 px from their first pixel
        k = np.fft.fftfreq(224)
        shift = np.exp(2j * np.pi * 3.5 * (k[:, None] + k[None]))
        product = np.fft.fft2(picture) * np.conj(np.fft.fft2(kernel)) * shift
        responses.append(np.fft.ifft2(product).real[::8, ::8])
    even, odd = responses
    maps = bank(torch.from_numpy(picture).float()[None, None])
    channel = 2 * 8 + bank.orientations_deg.index(orientation)
    simple = maps["simple"][0, channel * 4 : channel * 4 + 4].numpy()
    where = (slice(None), slice(7, 21), slice(7, 21))
    expected = np.maximum([even, odd, -even, -odd], 0)
    np.testing.assert_allclose(simple[where], expected[where], atol=0.003 * expected.max())
    amplitude = maps["complex"][0, channel].numpy()
    np.testing.assert_allclose(amplitude[where[1:]], np.hypot(even, odd)[where[1:]], atol=0.003 * expected.max())


def test_normalisation_divides_by_all_filters_of_the_place_and_saturates(bank):
    maps = bank(torch.cat([grating(2.0, 0.0, amplitude=a) for a in (0.01, 0.02, 0.25, 0.5)]))
    amplitude = maps["complex"].double()
    expected = amplitude / torch.sqrt(0.1**2 + (amplitude**2).sum(1, keepdim=True))
    torch.testing.assert_close(maps["normalised"].double(), expected, atol=1e-6, rtol=1e-5)
    response = maps["normalised"][:, 16, 14, 14]
    assert float(response[1] / response[0]) == pytest.approx(2.0, rel=0.03)  # low contrast: linear
    assert float(response[3] / response[2]) < 1.1  # high contrast: saturated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frequencies_cpd": (2.0, 12.0)}, r"\(2.0, 12.0\).*to 10.5 cycles per degree"),
        ({"frequencies_cpd": (0.1,)}, "no wider than the field of 8 deg"),
        ({"field_deg": 0.1}, r"frequencies_cpd is \(\)"),
        ({"field_deg": 0.0}, "field_deg is 0.0"),
        ({"bandwidth_octaves": -1.0}, "bandwidth_octaves is -1.0"),
        ({"aspect": 0.0}, "aspect is 0.0"),
        ({"grid": 0}, "grid is 0"),
        ({"n_orientations": 0}, "n_orientations is 0"),
        ({"semisaturation": 0.0}, "semisaturation is 0.0"),
    ],
)
def test_gabor_errors_name_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        gabor_energy(**options)


def test_pictures_of_another_shape_are_refused(bank):
    for shape in ((1, 3, 224, 224), (1, 1, 128, 128)):
        with pytest.raises(ValueError, match=r"expected \(batch, 1, 224, 224\)"):
            bank(torch.zeros(shape))


# Steerable pyramid


def plenoptic_pyramid(*args, **options):
    try:
        from plenoptic.process import SteerablePyramidFreq
    except ImportError:
        from plenoptic.simulate import SteerablePyramidFreq
    return SteerablePyramidFreq(*args, **options)


def test_pyramid_equals_plenoptics_own_without_downsampling():
    # on a grid of one place per pixel, interpolated bands are the bands that were never downsampled
    ours = SteerablePyramid(field_deg=8.0, input_px=64, n_scales=3, grid=64)
    picture = torch.from_numpy(noise(1, input_px=64, highest=32)).float()[None, None]
    maps = ours(picture)
    theirs = plenoptic_pyramid((64, 64), height=3, order=3, is_complex=True, downsample=False)(picture)
    for scale in range(3):
        z = theirs[scale][0, 0] / 2**scale  # plenoptic doubles each scale here
        channels = slice(4 * scale, 4 * scale + 4)
        tolerance = 1e-4 * float(z.abs().max())
        torch.testing.assert_close(maps["real"][0, channels], z.real, atol=tolerance, rtol=0)
        torch.testing.assert_close(maps["energy"][0, channels], z.abs(), atol=tolerance, rtol=0)


def test_pyramid_responses_peak_at_the_frequency_and_orientation_it_states():
    pyramid = SteerablePyramid(field_deg=8.0, input_px=128, n_scales=3, grid=16)
    frequencies = 4.0 * 2.0 ** np.arange(-2.5, 0.51, 0.5)
    orientations = np.arange(0.0, 180.0, 15.0)
    pictures = torch.cat([grating(f, o, input_px=128) for f in frequencies for o in orientations])
    responses = inside(pyramid(pictures)["energy"], 16).mean((2, 3)).reshape(len(frequencies), len(orientations), 3, 4)
    for i, frequency in enumerate(pyramid.frequencies_cpd):
        for j, orientation in enumerate(pyramid.orientations_deg):
            response = responses[..., i, j]
            best = np.unravel_index(int(response.argmax()), response.shape)
            assert (frequencies[best[0]], orientations[best[1]]) == (frequency, orientation)
            assert float(response.max()) == pytest.approx(0.5 * 0.894, rel=0.02)  # the gain the docstring states


def test_pyramid_leaves_numpys_generator_as_it_was_and_refuses_bad_values():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the generator in question
    SteerablePyramid(field_deg=8.0, input_px=32, grid=8)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    for options, message in (
        ({"input_px": 33}, "input_px is 33"),
        ({"input_px": 32, "n_scales": 9}, "n_scales is 9; expected 1 to 3"),
        ({"order": 0}, "order is 0"),
        ({"grid": 0}, "grid is 0"),
        ({"field_deg": 0.0}, "field_deg is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            steerable_pyramid(**options)


def test_a_missing_plenoptic_names_the_extra(monkeypatch):
    original = builtins.__import__

    def without_plenoptic(name, *args, **options):
        if name.split(".")[0] == "plenoptic":
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_plenoptic)
    with pytest.raises(ValueError, match=r'pip install "lcl\[pyramid\]"'):
        steerable_pyramid()


# AlexNet


@pytest.fixture
def weights(tmp_path):
    rng = np.random.default_rng(0)
    state = AlexNetConvolutions().state_dict()
    arrays = {k: (0.05 * rng.standard_normal(v.shape)).astype(np.float32) for k, v in state.items()}
    np.savez(tmp_path / "alexnet.npz", **arrays)
    return tmp_path / "alexnet.npz", arrays


def test_alexnet_has_the_shapes_of_the_paper_and_equals_its_layers_by_hand(weights):
    path, arrays = weights
    model = alexnet(path)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        maps = model.module(images)
        inplace = alexnet(path, inplace=True).module(images)
    shapes = {
        "conv1": (64, 55, 55),
        "pool1": (64, 27, 27),
        "conv2": (192, 27, 27),
        "pool2": (192, 13, 13),
        "conv3": (384, 13, 13),
        "conv4": (256, 13, 13),
        "conv5": (256, 13, 13),
        "pool5": (256, 6, 6),
    }
    assert model.name == "alexnet"
    assert {name: tuple(m.shape[1:]) for name, m in maps.items()} == shapes

    x = images
    for name, layer, options in (
        ("conv1", 0, {"stride": 4, "padding": 2}),
        ("conv2", 3, {"padding": 2}),
        ("conv3", 6, {"padding": 1}),
        ("conv4", 8, {"padding": 1}),
        ("conv5", 10, {"padding": 1}),
    ):
        weight, bias = (torch.from_numpy(arrays[f"features.{layer}.{part}"]) for part in ("weight", "bias"))
        x = torch.conv2d(x, weight, bias, **options).clamp(min=0)
        torch.testing.assert_close(maps[name], x)
        if (pooled := f"pool{name[-1]}") in shapes:
            x = torch.max_pool2d(x, 3, 2)
            torch.testing.assert_close(maps[pooled], x)
    for name, values in maps.items():
        assert torch.equal(values, inplace[name])


def test_only_the_inplace_alexnet_changes_what_a_hook_on_a_convolution_kept():
    smallest = {}
    for inplace in (False, True):
        module = alexnet(inplace=inplace).module
        kept = []
        module.features[0].register_forward_hook(lambda module, args, output, kept=kept: kept.append(output))
        with torch.no_grad():
            module(torch.randn(1, 3, 64, 64))
        smallest[inplace] = float(kept[0].min())
    assert smallest[False] < 0
    assert smallest[True] == 0


def test_untrained_alexnet_follows_its_seed_and_not_the_global_generator():
    state = torch.get_rng_state()
    first, again, other = (alexnet(seed=seed).module.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[k], again[k]) and not torch.equal(first[k], other[k]) for k in first)
    limit = 1 / math.sqrt(3 * 11 * 11)  # uniform in +-1 / sqrt(inputs), PyTorch's own for convolutions
    assert 0.99 * limit < float(first["features.0.weight"].abs().max()) <= limit


def test_alexnet_refuses_weights_that_are_not_its_own(weights, tmp_path):
    _, arrays = weights
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz does not exist"):
        alexnet(tmp_path / "nowhere.npz")
    wrong = tmp_path / "wrong.npz"

    def refuses(match, changed):
        np.savez(wrong, **changed)
        with pytest.raises(ValueError, match=match):
            alexnet(wrong)

    refuses(
        r"lacks features.0.bias and has besides extra",
        {k: v for k, v in arrays.items() if k != "features.0.bias"} | {"extra": np.ones(2)},
    )
    refuses(
        r"features.3.weight in .* of shape \(5, 5, 64, 192\); expected .*\(192, 64, 5, 5\)",
        arrays | {"features.3.weight": arrays["features.3.weight"].T},
    )
    refuses("finite", arrays | {"features.0.bias": np.full(64, np.nan, np.float32)})
    refuses("int64", arrays | {"features.0.bias": np.zeros(64, np.int64)})
    refuses("not an .npz file of plain arrays", arrays | {"features.0.bias": np.array([print] * 64, dtype=object)})
    wrong.write_bytes(b"not a file of arrays")
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        alexnet(wrong)
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        alexnet(tmp_path / "one.npy")
    with pytest.raises(ValueError, match="input_px is 32"):
        alexnet(input_px=32)


@pytest.mark.shared
def test_imagenet_alexnet_has_its_published_numbers(shared):
    model = alexnet(shared / "models" / "alexnet_imagenet_conv.npz")
    first = model.module.features[0]
    np.testing.assert_allclose(first.weight.detach().flatten()[:3], [0.1186, 0.0941, 0.0954], atol=5e-5)
    np.testing.assert_allclose(first.bias.detach()[:2], [-0.9705, -2.8070], atol=5e-5)
    with torch.no_grad():
        maps = model.module(torch.zeros(1, 3, 224, 224))
    assert all(values.isfinite().all() and (values > 0).any() for values in maps.values())


# Untrained, shuffled


class Net(nn.Module):
    def __init__(self, token: bool = False):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.register_buffer("scale", torch.tensor(3.0))
        self.token = nn.Parameter(torch.ones(2)) if token else None

    def forward(self, images):
        y = self.linear(self.norm(self.conv(images)).mean((2, 3))) * self.scale
        return {"out": y if self.token is None else y + self.token}


@pytest.fixture
def trained():
    net = Net()
    net(torch.randn(8, 3, 8, 8))  # moves the running statistics
    for parameter in net.parameters():
        parameter.data += 1
    net.conv.weight.requires_grad_(False)
    return VisionModel(net.eval(), name="net", input_px=8)


def test_untrained_is_a_fresh_network_and_leaves_everything_else_as_it_was(trained):
    before, state = copy.deepcopy(trained.module.state_dict()), torch.get_rng_state()
    first, again, other = (untrained(trained, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[k]) for k, value in trained.module.state_dict().items())
    assert first.name == "net-untrained-seed1"
    assert first.input_px == 8
    assert not first.module.training
    assert not first.module.conv.weight.requires_grad
    assert first.module.linear.weight.requires_grad
    one, two, three = (model.module.state_dict() for model in (first, again, other))
    assert all(torch.equal(one[k], two[k]) for k in one)
    for name in ("conv.weight", "conv.bias", "linear.weight", "linear.bias"):
        assert not torch.equal(one[name], three[name])
        assert not torch.equal(one[name], before[name])
    assert torch.equal(one["norm.weight"], torch.ones(4))
    assert torch.equal(one["norm.running_mean"], torch.zeros(4))
    assert int(one["norm.num_batches_tracked"]) == 0
    assert float(one["scale"]) == 3.0
    assert float(one["conv.weight"].abs().max()) <= 1 / math.sqrt(27)


def test_parameters_that_no_reset_reaches_are_named_or_drawn_by_the_caller():
    model = VisionModel(Net(token=True), name="net", input_px=8)
    with pytest.raises(ValueError, match="reaches token; give initialise="):
        untrained(model, seed=0)
    drawn = [
        untrained(model, seed=s, initialise=lambda net: nn.init.normal_(net.token)).module.token for s in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_attention_is_reset_as_pytorch_draws_it():
    fresh = nn.MultiheadAttention(8, 2)
    model = VisionModel(nn.TransformerEncoderLayer(8, 2), name="attention", input_px=8)
    attention = untrained(model, seed=0).module.self_attn
    assert torch.equal(attention.out_proj.bias, fresh.out_proj.bias)  # zeros
    limit = math.sqrt(6 / (8 + 24))  # Xavier
    assert 0.9 * limit < float(attention.in_proj_weight.detach().abs().max()) <= limit


@pytest.mark.parametrize("control", [untrained, shuffled_weights])
def test_models_without_parameters_have_no_untrained_control(control):
    for model in (pixels(), gabor_energy(input_px=64, grid=8)):
        with pytest.raises(ValueError, match=f"{model.name} has no parameters"):
            control(model, seed=0)


def test_shuffled_weights_keep_the_distribution_of_each_layer(trained):
    before, state = copy.deepcopy(trained.module.state_dict()), torch.get_rng_state()
    first, again, other = (shuffled_weights(trained, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.name == "net-shuffled-seed1"
    for name, value in first.module.state_dict().items():
        assert torch.equal(before[name], trained.module.state_dict()[name])
        assert torch.equal(value, again.module.state_dict()[name])
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
        assert torch.equal(value, before[name]) == (value.ndim < 2)
        assert torch.equal(value, other.module.state_dict()[name]) == (value.ndim < 2)


# Re-ordered responses


@given(n=st.integers(2, 60), seed=st.integers(0, 2**32 - 1))
def test_no_stimulus_keeps_its_own_responses(n, seed):
    order = reorder(n, seed=seed)
    assert sorted(order) == list(range(n))
    assert (order != np.arange(n)).all()
    assert np.array_equal(order, reorder(np.zeros((n, 3)), seed=seed))


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 8), min_size=2, max_size=12), seed=st.integers(0, 1000), data=st.data())
def test_no_stimulus_gets_responses_of_its_own_group(sizes, seed, data):
    groups = np.array(data.draw(st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist())))
    n = len(groups)
    if 2 * max(sizes) > n:
        with pytest.raises(ValueError, match="expected at most half"):
            reorder(n, groups=groups, seed=seed)
        return
    order = reorder(n, groups=groups, seed=seed)
    assert sorted(order) == list(range(n))
    assert (groups[order] != groups).all()
    alone = [s for s in sizes if sizes.count(s) == 1]
    if not alone or 2 * max(alone) <= sum(alone):  # the others are exchanged whole, in order
        for g, size in enumerate(sizes):
            source = groups[order][groups == g]
            if sizes.count(size) > 1:
                assert (source == source[0]).all()
                assert sizes[source[0]] == size
                assert (np.diff(order[groups == g]) > 0).all()


def test_groups_of_one_size_are_exchanged_whole_whatever_their_labels():
    movies = np.repeat(["a", "b", "c", "d"], 11)
    order = reorder(44, groups=movies, seed=3)
    frames = np.tile(np.arange(11), 4)
    assert np.array_equal(frames[order], frames)
    assert len({tuple(reorder(44, groups=movies, seed=seed)) for seed in range(30)}) == 6  # cycles of four


def test_reordering_cannot_leave_a_stimulus_where_it_was():
    for arguments, message in (
        ({"responses": 1}, "there are 1 stimuli"),
        ({"responses": 3, "groups": [1, 2]}, r"groups have shape \(2,\); expected one label for each of 3"),
        ({"responses": 3, "groups": [1, 1, 2]}, "group 1 holds 2 of 3 stimuli"),
    ):
        with pytest.raises(ValueError, match=message):
            reorder(**arguments, seed=0)


def test_a_perfect_prediction_of_reordered_responses_falls_to_zero():
    responses = np.random.default_rng(0).standard_normal((400, 50))
    wrong = responses[reorder(responses, seed=1)]
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(responses.T, wrong.T, strict=True)]
    assert abs(np.mean(r)) < 4 / math.sqrt(400 * 50)
