"""Placing in degrees, streaming, reductions, files, the cache and its keys, and refusals."""

import json
import logging

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from torch import nn

from neural_fits import activations as module_under_test
from neural_fits.activations import (
    activations,
    estimate,
    parse_reduction,
    principal_components,
    random_projection,
)
from neural_fits.placing import place
from neural_fits.vision_model import VisionModel


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean.fill_(0.1)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(4 * 14 * 14, 5)

    def forward(self, x):
        return self.fc(self.drop(self.norm(self.relu(self.conv(x)))).flatten(1))


class SquaredNet(Net):
    def forward(self, x):
        return self.fc(self.drop(self.norm(self.conv(x).square())).flatten(1))


SquaredNet.__name__ = SquaredNet.__qualname__ = "Net"


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def model(net):
    return VisionModel(net, "net", input_px=16, field_deg=4.0, mean=(0.5, 0.4, 0.3), std=(0.2,))


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)


def eye(**changes):
    return VisionModel(nn.Identity(), "eye", **({"input_px": 16, "field_deg": 4.0, "channels": 1} | changes))


# Placing


def test_a_picture_of_the_size_of_the_field_is_itself(pictures):
    placed = place(pictures, size_deg=4.0, model=eye(channels=3))
    assert placed.dtype == torch.float32
    assert np.array_equal(placed.movedim(1, 3).numpy(), pictures.astype(np.float32) / 255)
    assert torch.equal(place(pictures / 255, size_deg=4.0, model=eye(channels=3)), placed)
    assert torch.equal(place(torch.from_numpy(pictures), size_deg=4.0, model=eye(channels=3)), placed)


@pytest.mark.parametrize("size_deg", [0.3, 1.0, 2.6, 4.0, 9.0])
def test_a_constant_picture_stays_constant_on_its_square(size_deg):
    placed = place(np.full((1, 31, 31), 0.75), size_deg=size_deg, model=eye(background=0.25))[0, 0]
    side = min(16, round(size_deg * 4))
    start = (16 - side) // 2
    expected = torch.full((16, 16), 0.25)
    expected[start : start + side, start : start + side] = 0.75
    torch.testing.assert_close(placed, expected, rtol=0, atol=1e-6)


def test_a_bright_ring_stays_centred_at_every_size():
    rows = np.abs(np.arange(40) - 19.5)
    ring = ((np.hypot(rows, rows[:, None]) < 15) & (np.hypot(rows, rows[:, None]) > 8)).astype(float)
    for side in (8, 12, 16, 20):
        placed = place(ring[None], size_deg=side / 4, model=eye(background=0.0))[0, 0]
        torch.testing.assert_close(placed, placed.flip(0), rtol=0, atol=1e-6)
        torch.testing.assert_close(placed, placed.T, rtol=0, atol=1e-6)
        if side < 16:
            # Light is kept: the sum falls with the area.
            assert placed.sum().item() == pytest.approx(ring.sum() * (side / 40) ** 2, rel=0.01)


def test_reduction_by_four_is_the_triangle_filter_of_antialiasing():
    line = np.random.default_rng(0).random(64)
    placed = place(np.tile(line, (1, 64, 1)), size_deg=4.0, model=eye())[0, 0, 8]
    weights = 1 - np.abs(np.arange(-3.5, 4)) / 4
    by_hand = [line[4 * i - 2 : 4 * i + 6] @ weights / weights.sum() for i in range(1, 15)]
    np.testing.assert_allclose(placed[1:15], by_hand, atol=1e-6)
    # A grating that is too fine for the model becomes grey, not another grating.
    fine = np.tile(np.arange(64) % 2, (1, 64, 1)).astype(float)
    assert (place(fine, size_deg=4.0, model=eye())[..., 1:-1] - 0.5).abs().max() < 1e-6


def test_a_larger_picture_is_cut_at_the_centre(pictures):
    placed = place(pictures, size_deg=4.0, model=eye(channels=3, input_px=8, field_deg=2.0))
    np.testing.assert_allclose(placed.movedim(1, 3), pictures[:, 4:12, 4:12] / 255, atol=1e-7)


def test_width_counts_where_pictures_are_not_square():
    picture = np.zeros((1, 4, 8))
    placed = place(picture, size_deg=2.0, model=eye(background=1.0))[0, 0]
    assert torch.equal((placed == 0).sum(0), torch.tensor([0] * 4 + [4] * 8 + [0] * 4))
    assert torch.equal((placed == 0).sum(1), torch.tensor([0] * 6 + [8] * 4 + [0] * 6))


def test_colour_and_grey(pictures):
    grey = place(pictures, size_deg=4.0, model=eye())
    by_hand = pictures @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(grey[:, 0], by_hand, atol=1e-6)
    colour = place(pictures[..., 0], size_deg=4.0, model=eye(channels=3))
    assert torch.equal(colour[:, 0], colour[:, 2])
    assert torch.equal(place(pictures[..., :1], size_deg=4.0, model=eye(channels=3)), colour)


def test_normalisation_comes_last_and_holds_for_the_background():
    model = eye(channels=3, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), background=0.6)
    placed = place(np.full((1, 8, 8), 1.0), size_deg=2.0, model=model)[0]
    torch.testing.assert_close(placed[:, 8, 8], torch.tensor([1.8, 0.8, 0.35]))
    torch.testing.assert_close(placed[:, 0, 0], torch.tensor([1.0, 0.4, 0.15]))


def test_many_pictures_are_placed_as_each_alone():
    many = np.random.default_rng(0).random((150, 6, 6))
    placed = place(many, size_deg=3.0, model=eye())
    assert torch.equal(placed[[0, 70, 149]], place(many[[0, 70, 149]], size_deg=3.0, model=eye()))


@pytest.mark.parametrize(
    ("images", "size_deg", "message"),
    [
        (np.zeros((2, 4, 4)), float("nan"), "size_deg is nan: how large .* size_deg=4.0"),
        (np.zeros((2, 4, 4)), None, "size_deg is None"),
        (np.zeros((2, 4, 4)), -1.0, "size_deg is -1.0: pictures of 4 x 4 would take"),
        (np.zeros((2, 4, 4)), 0.05, "would take 0 x 0 pixels of eye, which has 4 to a degree"),
        (np.zeros((4, 4)), 2.0, r"images have shape \(4, 4\)"),
        (np.zeros((2, 4, 4, 4)), 2.0, r"images have shape \(2, 4, 4, 4\)"),
        (np.zeros((0, 4, 4)), 2.0, r"images have shape \(0, 4, 4\)"),
        (np.full((2, 4, 4), 255.0), 2.0, "images reach from 255 to 255; expected floats in"),
        (np.full((2, 4, 4), np.nan), 2.0, "images reach from nan"),
        (np.zeros((2, 4, 4), dtype=np.int64), 2.0, "images are torch.int64; expected uint8"),
    ],
)
def test_pictures_that_cannot_be_placed_are_refused(images, size_deg, message):
    with pytest.raises(ValueError, match=message):
        place(images, size_deg=size_deg, model=eye())


# Streaming


def by_hand(net, model, pictures):
    images = torch.from_numpy(pictures).movedim(3, 1) / 255
    images = (images - torch.tensor(model.mean).view(3, 1, 1)) / 0.2
    net.eval()
    with torch.no_grad():
        conv = net.conv(images)
        norm = net.norm(conv.relu())
        return {"conv": conv, "norm": norm, "fc": net.fc(norm.flatten(1))}


@pytest.mark.parametrize("batch_size", [1, 4, 11, 32])
def test_activations_are_those_of_a_forward_pass_whatever_the_batch(net, model, pictures, batch_size):
    expected = by_hand(net, model, pictures)
    net.train()
    found = activations(model, pictures, size_deg=4.0, layers=["fc", "conv", "norm"], batch_size=batch_size)
    assert list(found) == ["conv", "norm", "fc"]
    # The rectifier works in place: without a copy the convolution would come out rectified.
    assert (found["conv"] < 0).any()
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name].flatten(1), rtol=1e-4, atol=1e-5)
    assert all(each.training for each in net.modules())
    assert sum(len(each._forward_hooks) for each in net.modules()) == 0


def test_very_large_numbers_are_finite():
    model = VisionModel(lambda x: x * 3e38, "large", input_px=4)
    assert activations(model, np.ones((2, 4, 4)), size_deg=8.0)["output"].max() == np.float32(3e38)


def test_maps_pool_and_mean(net, model, pictures):
    conv = by_hand(net, model, pictures)["conv"]

    def found(reduction, layers="conv"):
        return activations(model, pictures, size_deg=4.0, layers=layers, reduction=reduction, batch_size=4)[layers]

    np.testing.assert_allclose(found("maps"), conv, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found("spatial_mean"), conv.mean((2, 3)), rtol=1e-4, atol=1e-5)
    halves = conv.reshape(11, 4, 2, 7, 2, 7).mean((3, 5))
    np.testing.assert_allclose(found("pool:2"), halves, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found("pool:20"), conv, rtol=1e-4, atol=1e-5)
    assert found("maps", "fc").shape == found("pool:3", "fc").shape == (11, 5, 1, 1)
    assert found("spatial_mean", "fc").shape == (11, 5)


def test_tokens():
    model = VisionModel(lambda x: x.flatten(2).movedim(1, 2), "tokens", input_px=4, field_deg=1.0)
    images = np.random.default_rng(0).random((3, 4, 4, 3)).astype(np.float32)
    tokens = images.reshape(3, 16, 3)
    np.testing.assert_allclose(activations(model, images, size_deg=1.0)["output"], tokens.reshape(3, 48))
    mean = activations(model, images, size_deg=1.0, reduction="spatial_mean")["output"]
    np.testing.assert_allclose(mean, tokens.mean(1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"layer output has shape \(16, 3\) for a picture; reduction 'pool' expects"):
        activations(model, images, size_deg=1.0, reduction="pool:2")


def test_a_bare_module_and_half_precision():
    net = nn.Conv2d(3, 2, 1).to(torch.float64)
    model = VisionModel(lambda x: net(x.double()), "double", input_px=4)
    assert activations(model, np.zeros((2, 4, 4)), size_deg=8.0)["output"].dtype == np.float32
    found = activations(nn.AvgPool2d(56), np.full((1, 8, 8), 1.0), size_deg=4.0)["output"]
    np.testing.assert_allclose(found.reshape(3, 4, 4)[0], np.pad(np.full((2, 2), 1.0), 1, constant_values=0.5))


def test_pictures_in_a_file_are_read_in_batches(model, pictures, tmp_path):
    np.save(tmp_path / "pictures.npy", pictures)
    lazy = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    here = activations(model, pictures, size_deg=4.0, layers="fc", batch_size=3)
    np.testing.assert_array_equal(activations(model, lazy, size_deg=4.0, layers="fc", batch_size=3)["fc"], here["fc"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reduction": "mean"}, "reduction is 'mean'; expected one of all, maps"),
        ({"reduction": "pool"}, "reduction is 'pool'"),
        ({"reduction": "pca:0"}, "reduction is 'pca:0'"),
        ({"reduction": "all:3"}, "reduction is 'all:3'"),
        ({"reduction": "pca:11"}, "784 features and PCA 11 pictures, which leave 10 components"),
        ({"layers": "conv.*"}, r"net has no layer 'conv.\*'; near it are"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"size_deg": float("nan")}, "size_deg is nan"),
        ({"pca_images": np.zeros((3, 16, 16))}, "pca_images are given, but the reduction is all"),
        ({"storage": "a", "cache": "b"}, "storage and cache are both given"),
        ({"device": "meta"}, "device is meta, which holds no numbers"),
        ({"device": "cuda:99"}, "device cuda:99 cannot be used"),
    ],
)
def test_what_cannot_be_done_is_refused(model, pictures, change, message):
    with pytest.raises(ValueError, match=message):
        activations(model, pictures, **({"size_deg": 4.0, "layers": "conv"} | change))


def test_not_a_number_is_refused(net, model, pictures):
    net.fc.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="layer fc of net is not finite for a picture among 0 to"):
        activations(model, pictures, size_deg=4.0, layers="fc")


# Reductions


def test_random_projections_keep_distances():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20, 20_000)).astype(np.float32)
    projected = features @ random_projection(20_000, 1000, seed=1)
    ratios = pdist(projected) / pdist(features)
    assert abs(ratios.mean() - 1) < 0.02
    assert np.all(np.abs(ratios - 1) < 0.15)


def test_entries_of_a_random_projection_are_those_of_its_definition():
    matrix = random_projection(9_000, 40, seed=0)
    density = 1 / np.sqrt(9_000)
    assert matrix.nnz == pytest.approx(density * 9_000 * 40, rel=0.1)
    np.testing.assert_allclose(np.abs(matrix.data), np.sqrt(1 / (density * 40)), rtol=1e-6)
    assert abs(np.sign(matrix.data).mean()) < 0.05
    blocks = matrix.toarray()
    assert not np.array_equal(blocks[:808], blocks[4096:4904])
    assert (abs(matrix - random_projection(9_000, 40, seed=0))).nnz == 0
    assert (abs(matrix - random_projection(9_000, 40, seed=1))).nnz > 0


def test_random_projection_of_a_layer(model, pictures):
    def found(**options):
        return activations(model, pictures, size_deg=4.0, **options)

    whole = found(layers=["conv", "fc"])
    one = found(layers=["conv", "fc"], reduction="random_projection:60", batch_size=11, seed=3)
    assert one["conv"].shape == (11, 60)
    np.testing.assert_allclose(one["conv"], whole["conv"] @ random_projection(784, 60, seed=3).toarray(), atol=1e-3)
    other = found(layers="conv", reduction="random_projection:60", batch_size=2, seed=3)
    np.testing.assert_allclose(one["conv"], other["conv"], rtol=1e-4, atol=1e-4)
    assert not np.allclose(one["conv"], found(layers="conv", reduction="random_projection:60", seed=4)["conv"])
    np.testing.assert_array_equal(one["fc"], whole["fc"])


def assert_same_components(found, expected):
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, expected * signs, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("layer", ["conv", "fc"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_pca_is_that_of_sklearn(model, pictures, layer, on_disk, tmp_path):
    others = np.random.default_rng(1).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    storage = tmp_path if on_disk else None

    def found(reduction="pca:4", images=pictures, **options):
        return activations(
            model, images, size_deg=4.0, layers=layer, reduction=reduction, storage=storage, batch_size=4, **options
        )[layer]

    whole, whole_others = found("all").astype(float), found("all", others).astype(float)
    assert_same_components(found(), PCA(4, svd_solver="full").fit_transform(whole))
    fitted = PCA(4, svd_solver="full").fit(whole_others)
    assert_same_components(found(pca_images=others), fitted.transform(whole))
    assert found("pca").shape == (11, min(10, whole.shape[1]))
    assert [path.name for path in tmp_path.iterdir()] == ([f"net.{layer}.npy"] if on_disk else [])


def test_components_beyond_the_rank_are_zero():
    features = np.zeros((6, 9000))
    features[:3, 8000] = [1, 2, 4]
    _, components, scores = principal_components(features.copy(), 4)
    np.testing.assert_allclose(scores[:, 1:], 0, atol=1e-12)
    np.testing.assert_allclose(components[1:], 0, atol=1e-12)
    np.testing.assert_allclose(scores[:, 0], features[:, 8000] - features[:, 8000].mean(), atol=1e-12)


def test_parse_reduction():
    assert (parse_reduction("pca").size, parse_reduction("pca:12").size) == (None, 12)
    assert parse_reduction("random_projection:7").kind == "random_projection"


# Files


def test_files_hold_what_memory_holds(model, pictures, tmp_path):
    memory = activations(model, pictures, size_deg=4.0, layers=["conv", "fc"], reduction="maps", batch_size=4)
    stored = activations(
        model, pictures, size_deg=4.0, layers=["conv", "fc"], reduction="maps", batch_size=4, storage=tmp_path / "new"
    )
    for name in ("conv", "fc"):
        assert isinstance(stored[name], np.memmap)
        np.testing.assert_array_equal(stored[name], memory[name])
        np.testing.assert_array_equal(np.load(tmp_path / "new" / f"net.{name}.npy"), memory[name])
        torch.from_numpy(stored[name]).zero_()
        assert np.load(tmp_path / "new" / f"net.{name}.npy").any()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["net.conv.npy", "net.fc.npy"]


def test_names_that_are_no_file_names(pictures, tmp_path):
    model = VisionModel(lambda x: {"a/b": x, "a_b": x + 1}, "my/../net", input_px=4)
    found = activations(model, pictures, size_deg=4.0, storage=tmp_path)
    np.testing.assert_array_equal(found["a/b"] + 1, found["a_b"])
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("where", ["storage", "cache"])
@pytest.mark.parametrize("reduction", ["all", "pca:3"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_nothing(net, model, pictures, tmp_path, where, reduction, error):
    calls = []

    def interrupt(*_):
        calls.append(0)
        if len(calls) == 4:
            raise error("stop")

    handle = net.norm.register_forward_hook(interrupt)
    with pytest.raises(error, match="stop"):
        activations(
            model, pictures, size_deg=4.0, layers="conv", reduction=reduction, batch_size=4, **{where: tmp_path}
        )
    assert list(tmp_path.iterdir()) == []
    handle.remove()
    assert sum(len(each._forward_hooks) for each in net.modules()) == 0


# The cache


@pytest.fixture
def cached(pictures, tmp_path):
    def run(model, images=pictures, *, size_deg=4.0, layers="conv", **options):
        return activations(model, images, size_deg=size_deg, layers=layers, cache=tmp_path, **options)

    return run


def test_the_cache_says_hit_or_miss(model, cached, caplog):
    caplog.set_level(logging.INFO)
    first = cached(model)
    assert first.cache == {"conv": "miss"}
    assert first.estimate.shapes == {"conv": (11, 784)}
    second = cached(model, layers=["conv", "fc"], batch_size=2)
    assert second.cache == {"conv": "hit", "fc": "miss"}
    np.testing.assert_array_equal(second["conv"], first["conv"])
    assert list(second) == ["conv", "fc"]
    assert "cache: hit, conv of net" in caplog.text
    assert "cache: miss, fc of net" in caplog.text
    assert cached(model, layers=["conv", "fc"]).estimate is None


def test_an_entry_says_what_made_it(model, cached, tmp_path):
    cached(model)
    (path,) = tmp_path.glob("*.json")
    entry = json.loads(path.read_text())
    assert entry["name"] == "net"
    assert entry["made_of"]["layer"] == "conv"
    assert entry["made_of"]["size_deg"] == 4.0
    assert len(entry["made_of"]["model"]) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.conv.weight.data[0, 0, 0, 0].add_(1e-3),
        lambda net: net.norm.running_var.mul_(1.001),
        lambda net: setattr(net.norm, "eps", 1e-3),
    ],
)
def test_another_model_of_the_same_name_is_a_miss(net, model, cached, change):
    before = cached(model)
    change(net)
    assert cached(model).cache == {"conv": "miss"}
    assert cached(VisionModel(Net(), "another name", **preprocessing(model))).cache == {"conv": "hit"}
    assert before.cache == {"conv": "miss"}


def preprocessing(model):
    return {name: getattr(model, name) for name in ("input_px", "field_deg", "channels", "mean", "std", "background")}


def test_another_forward_with_equal_weights_is_a_miss(model, cached):
    first = cached(model, layers="fc")
    other = VisionModel(SquaredNet(), "net", **preprocessing(model))
    assert repr(other.module) == repr(model.module)
    assert all(torch.equal(a, b) for a, b in zip(Net().parameters(), other.module.parameters(), strict=True))
    second = cached(other, layers="fc")
    assert second.cache == {"fc": "miss"}
    assert not np.allclose(first["fc"], second["fc"])


@pytest.mark.parametrize(
    "change",
    [
        {"mean": (0.5, 0.4, 0.31)},
        {"std": (0.21,)},
        {"background": 0.4},
        {"field_deg": 5.0},
        {"input_px": 17},
    ],
)
def test_other_preprocessing_is_a_miss(net, cached, change):
    fields = {"input_px": 16, "field_deg": 4.0, "mean": (0.5, 0.4, 0.3), "std": (0.2,)}
    net = nn.Sequential(net.conv)
    cached(VisionModel(net, "net", **fields), layers="0")
    assert cached(VisionModel(net, "net", **fields), layers="0").cache == {"0": "hit"}
    assert cached(VisionModel(net, "net", **(fields | change)), layers="0").cache == {"0": "miss"}


def test_other_pictures_sizes_reductions_and_seeds_are_misses(model, pictures, cached):
    cached(model)
    changed = pictures.copy()
    changed[-1, -1, -1, -1] ^= 1
    assert cached(model, changed).cache == {"conv": "miss"}
    assert cached(model, pictures[:-1]).cache == {"conv": "miss"}
    assert cached(model, size_deg=3.9).cache == {"conv": "miss"}
    for options in (
        {"reduction": "maps"},
        {"reduction": "pool:2"},
        {"reduction": "pool:3"},
        {"reduction": "random_projection:9"},
        {"reduction": "random_projection:9", "seed": 1},
        {"reduction": "pca:3"},
        {"reduction": "pca:3", "pca_images": changed},
    ):
        assert cached(model, **options).cache == {"conv": "miss"}, options
        assert cached(model, **options).cache == {"conv": "hit"}, options
    # A seed that nothing is drawn with does not count.
    assert cached(model, seed=5).cache == {"conv": "hit"}


def test_other_code_of_this_package_is_a_miss(model, cached, monkeypatch):
    cached(model)
    monkeypatch.setattr(module_under_test, "file_digest", lambda path: "0" * 64)
    assert cached(model).cache == {"conv": "miss"}


def test_damaged_entries_are_computed_again(model, cached, tmp_path, caplog):
    first = cached(model)["conv"].copy()
    (data,), (record,) = tmp_path.glob("*.npy"), tmp_path.glob("*.json")
    whole = data.read_bytes()
    damages = [
        (data, whole[:-1] + bytes([whole[-1] ^ 1])),
        (data, whole[:-4]),
        (data, None),
        (record, record.read_bytes()[:-10]),
        (record, b"[]"),
    ]
    for path, content in damages:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        caplog.clear()
        again = cached(model)
        assert again.cache == {"conv": "damaged"}
        assert "conv of net is damaged in" in caplog.text
        np.testing.assert_array_equal(again["conv"], first)
        assert cached(model).cache == {"conv": "hit"}
    # Written in part by a run that was killed before it could say what it was.
    record.unlink()
    assert cached(model).cache == {"conv": "miss"}


def test_what_cannot_be_told_apart_is_not_cached(net, model, cached, tmp_path):
    net.stream = iter([1])
    with pytest.raises(ValueError, match=r"net.stream is list_iterator, whose content cannot be known"):
        cached(model)
    assert list(tmp_path.iterdir()) == []


# Estimates


def test_the_estimate_is_what_it_becomes(model, pictures):
    for reduction in ("all", "pool:3", "random_projection:50", "pca:3", "spatial_mean"):
        options = {"size_deg": 4.0, "layers": ["conv", "fc"], "reduction": reduction}
        expected, found = estimate(model, pictures, **options), activations(model, pictures, **options)
        assert expected.layer_bytes == {name: array.nbytes for name, array in found.items()}
        assert expected.shapes == {name: array.shape for name, array in found.items()}
        assert expected.result_bytes == sum(array.nbytes for array in found.values())
        assert expected.seconds > 0
        assert "of activations" in str(expected)
    assert estimate(model, pictures, size_deg=4.0, reduction="pca").fit_bytes > 0


class Many:
    """Pictures of which only those that are asked for exist."""

    def __init__(self, n):
        self.shape = (n, 16, 16)
        self.read = 0

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        number = len(range(self.shape[0])[rows])
        self.read += number
        return np.zeros((number, 16, 16), dtype=np.uint8)


def test_what_cannot_fit_is_refused_with_its_size_before_it_is_tried(model, tmp_path):
    many = Many(10**9)
    with pytest.raises(ValueError, match=r"layer conv of net take 3.14 TB.* are available; give storage=FOLDER"):
        activations(model, many, size_deg=4.0, layers="conv")
    with pytest.raises(ValueError, match=r"take 3.14 TB, of which .* are free in .*; give another folder"):
        activations(model, many, size_deg=4.0, layers="conv", storage=tmp_path)
    assert many.read <= 32
    assert list(tmp_path.iterdir()) == []


def test_max_bytes(model, pictures, tmp_path):
    needed = estimate(model, pictures, size_deg=4.0, layers="conv").memory_bytes
    options = {"size_deg": 4.0, "layers": "conv"}
    assert activations(model, pictures, max_bytes=needed, **options)["conv"].any()
    with pytest.raises(
        ValueError, match=r"11 pictures in layer conv of net take 34.5 KB, .* allowed by max_bytes; give"
    ):
        activations(model, pictures, max_bytes=needed - 1, **options)
    with pytest.raises(ValueError, match=r"2 layers of net take 34.7 KB \(layer conv: 34.5 KB\)"):
        activations(model, pictures, size_deg=4.0, layers=["conv", "fc"], max_bytes=needed)
    assert activations(model, pictures, max_bytes=needed - 1, storage=tmp_path, **options)["conv"].any()
    with pytest.raises(ValueError, match=r"a batch of net needs .* give a smaller batch_size"):
        activations(model, pictures, max_bytes=1000, storage=tmp_path, **options)


def test_progress_is_shown_only_when_asked_for(model, pictures, capsys):
    activations(model, pictures, size_deg=4.0, layers="fc")
    assert capsys.readouterr().err == ""
    activations(model, pictures, size_deg=4.0, layers="fc", progress=True)
    assert "net: activations" in capsys.readouterr().err
