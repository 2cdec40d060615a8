"""Hummingbird's reconstruction: limits of context and pooling, the memory, the target; run as a script: one of two."""

import copy
import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from torch import nn

from lcl import recognition_train
from lcl.cli import main as lcl
from lcl.distributed import sum_gradients, sum_over_processes
from vision_methods.clips import clips_of_arrays
from vision_methods.config import HummingbirdConfig
from vision_methods.frame_pairs import FramePairs
from vision_methods.heads import mlp
from vision_methods.hummingbird import (
    Context,
    ContextEncoder,
    Hummingbird,
    PictureMemory,
    build,
    make_encoder_backbone,
    read_memory,
)
from vision_methods.method_run import method_model
from vision_methods.momentum import keep_at, target_of
from vision_methods.presets import PRESETS
from vision_methods.train import train_method
from vision_methods.two_views import PHOTOMETRIC
from vision_methods.vit import ViT, vit_backbone
from vision_methods.vito import image_contrast

BATCH, SIZE_PX, WIDTH = 6, 16, 12
D = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=D)


def backbone(seed=0):
    vit = ViT(size_px=SIZE_PX, patch_px=4, width=WIDTH, depth=1, heads=2, generator=gen(seed))
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter *= 10
    return vit_backbone(vit)


def encoder(seed=0, **options):
    return ContextEncoder(backbone(seed), "norm", generator=gen(seed + 1), **options).double()


def pictures(count=9):
    clouds = F.interpolate(torch.rand(count, 3, 4, 4, generator=gen(7)), (24, 28), mode="bicubic").clamp(0, 1)
    return [(255 * each.permute(1, 2, 0)).byte().numpy() for each in clouds]


def hummingbird(*, supervised=False, share=0.2, size=10, **options):
    batches = FramePairs(
        clips_of_arrays([picture[None] for picture in pictures()], fps=1),
        batch=BATCH,
        size_px=SIZE_PX,
        max_gap_s=0.0,
        photometric=PHOTOMETRIC["byol"],
        seed=0,
    )
    online = encoder(share=share)
    if supervised:
        heads = nn.ModuleDict({"classifier": nn.Linear(WIDTH, 3)}).double()
        nn.init.normal_(heads["classifier"].weight, std=0.3, generator=gen(6))
        nn.init.zeros_(heads["classifier"].bias)
        return Hummingbird(
            online,
            target_of(online),
            batches,
            PictureMemory(size, WIDTH).double(),
            heads,
            labels=np.arange(9) % 3,
            **options,
        )
    heads = nn.ModuleDict(
        {"projector": mlp(WIDTH, 16, 8, generator=gen(4)), "predictor": mlp(8, 16, 8, generator=gen(5))}
    )
    heads = heads.double()
    memory = PictureMemory(size, WIDTH).double()
    target_projector = target_of(heads["projector"])
    return Hummingbird(online, target_of(online), batches, memory, heads, target_projector=target_projector, **options)


@pytest.fixture(autouse=True)
def _views_in_double(monkeypatch):
    from vision_methods import hummingbird as module

    photometric_views = module.photometric_views
    monkeypatch.setattr(module, "photometric_views", lambda crops, views: photometric_views(crops, views).double())


# --- context


def test_memory_is_read_as_softmax_of_cosines_says():
    features, keys, values = normal(2, 5, 4), normal(7, 4, seed=1), normal(7, 3, seed=2)
    read = read_memory(features, keys, values, temperature=0.3)
    for b in range(2):
        for n in range(5):
            cosines = torch.tensor(
                [float(features[b, n] @ k / features[b, n].norm() / k.norm()) for k in keys], dtype=D
            )
            torch.testing.assert_close(read[b, n], (cosines / 0.3).exp() @ values / (cosines / 0.3).exp().sum())
    torch.testing.assert_close(read_memory(3 * features, 7 * keys, values, temperature=0.3), read)
    with pytest.raises(ValueError, match="memory is empty"):
        read_memory(features, keys[:0], values[:0], temperature=0.3)
    with pytest.raises(ValueError, match="temperature is 0"):
        read_memory(features, keys, values, temperature=0)


def test_without_a_share_the_memory_changes_nothing():
    context = Context(4, share=0.0, temperature=0.1, generator=gen()).double()
    features = normal(2, 5, 4)
    with_memory = context(features, normal(7, 4, seed=1))
    assert torch.equal(with_memory, context(features, normal(3, 4, seed=2)))
    torch.testing.assert_close(with_memory, context.psi(F.normalize(features, dim=-1)))


def test_with_nothing_but_one_memory_all_places_are_the_same():
    context = Context(4, share=1.0, temperature=0.1, generator=gen()).double()
    places = context(normal(2, 5, 4), normal(1, 4, seed=1)).flatten(0, 1)
    torch.testing.assert_close(places, places[:1].expand(10, -1))
    assert places.abs().max() > 0


def test_context_is_a_weighted_sum_of_vectors_of_length_1():
    context = Context(4, share=0.3, temperature=0.1, generator=gen()).double()
    features, keys = normal(2, 5, 4), normal(7, 4, seed=1)
    read = read_memory(features, keys, context.value(keys), temperature=0.1)
    expected = 0.7 * features / features.norm(dim=-1, keepdim=True) + 0.3 * read / read.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(context.mixed(features, keys), expected)
    torch.testing.assert_close(context(features, keys), expected @ context.psi.weight.T + context.psi.bias)
    torch.testing.assert_close(context.mixed(features, keys[:0]), F.normalize(features, dim=-1))
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        Context(4, share=1.5, temperature=0.1)


# --- pooling


def test_equal_logits_are_the_mean_of_projections_and_permuting_places_changes_no_vector():
    images, keys = torch.rand(2, 3, 16, 16, generator=gen(3), dtype=D), normal(5, WIDTH, seed=1)
    attentive = encoder()
    places = attentive.context(attentive.backbone(images)["norm"].flatten(2).transpose(1, 2), keys)
    found = attentive(images, keys)
    weights = found.weights.flatten(1)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=D))
    # The sum of projected places, as it is written, is the projection of their sum.
    torch.testing.assert_close(found.vectors, (weights[:, :, None] * attentive.omega(places)).sum(1))
    nn.init.zeros_(attentive.pool.conv3.weight)
    torch.testing.assert_close(attentive(images, keys).vectors, attentive.omega(places).mean(1))
    mean = encoder(pooling="mean")
    torch.testing.assert_close(mean(images, keys).vectors, mean.omega(places).mean(1))

    order = torch.randperm(16, generator=gen(2))
    maps = places.transpose(1, 2).unflatten(2, (4, 4))
    mixed = places[:, order].transpose(1, 2).unflatten(2, (4, 4))
    pool = encoder().pool
    torch.testing.assert_close(pool.weights(mixed).flatten(1), pool.weights(maps).flatten(1)[:, order])
    torch.testing.assert_close(pool(mixed), pool(maps))


def test_the_memory_keeps_mean_responses_without_context():
    images = torch.rand(2, 3, 16, 16, generator=gen(3), dtype=D)
    online = encoder()
    a, b = online(images, normal(5, WIDTH, seed=1)), online(images, normal(5, WIDTH, seed=2))
    assert torch.equal(a.keys, b.keys)
    assert not torch.allclose(a.vectors, b.vectors)
    torch.testing.assert_close(a.keys.float(), online.backbone(images)["norm"].mean((2, 3)).float())
    assert isinstance(encoder(value_projection=False).omega, nn.Identity)


# --- memory


def test_the_oldest_pictures_make_room():
    memory, every = PictureMemory(7, 2), []
    for step in range(9):
        batch = torch.stack([torch.arange(3.0) + 3 * step, torch.zeros(3)], 1)
        memory.add(batch)
        every += batch[:, 0].tolist()
        assert sorted(memory.held()[:, 0].tolist()) == every[-7:]
    memory.add(torch.arange(20.0)[:, None].expand(-1, 2))
    assert sorted(memory.held()[:, 0].tolist()) == list(range(13, 20))
    none = PictureMemory(0, 2)
    none.add(torch.ones(3, 2))
    assert none.held().shape == (0, 2)


def test_the_memory_never_holds_the_pictures_of_a_step_before_it_is_done():
    learner = hummingbird().train()
    for step in range(3):
        before = learner.memory.held().clone()
        loss, numbers = learner.loss(learner.draw(step))
        loss.backward()
        assert torch.equal(learner.memory.held(), before)
        assert int(numbers["remembered"]) == len(before)
        own = learner.seen.clone()
        learner.after_step(step, 10)
        held = learner.memory.held()
        assert len(held) == min(10, 6 * (step + 1))
        assert all(any(torch.equal(key, each) for each in held) for key in own)
        assert not held.requires_grad


def test_a_step_sees_the_memory():
    learner = hummingbird().eval()
    batch = learner.draw(0)
    alone, _ = learner.loss(batch)
    learner.memory.add(normal(10, WIDTH, seed=5))
    assert not torch.isclose(learner.loss(batch)[0], alone)
    without = hummingbird(share=0.0).eval()
    alone, _ = without.loss(batch)
    without.memory.add(normal(10, WIDTH, seed=5))
    assert torch.equal(without.loss(batch)[0], alone)


# --- learning


def test_the_loss_is_contrast_of_two_views_with_the_target():
    learner = hummingbird().eval()
    learner.memory.add(normal(10, WIDTH, seed=5))
    views, labels = learner.draw(0)
    assert labels is None
    loss, numbers = learner.loss((views, labels))
    from vision_methods import hummingbird as module

    queries, keys = [], []
    for view in views:
        images = module.photometric_views(view.crops, view.views)
        online = learner.online["encoder"](images, learner.memory.held()).vectors
        queries.append(learner.online["predictor"](learner.online["projector"](online)))
        keys.append(learner.target["projector"](learner.target["encoder"](images, learner.memory.held()).vectors))
    torch.testing.assert_close(loss, image_contrast(*queries, *keys, temperature=0.1))
    # Written out: each query against the target's latents of both views of the other pictures, and its own other view.
    total = 0.0
    unit = [[F.normalize(each, dim=1) for each in both] for both in (queries, keys)]
    for a, b in ((0, 1), (1, 0)):
        for i in range(BATCH):
            right = torch.exp(unit[0][a][i] @ unit[1][b][i] / 0.1)
            wrong = sum(torch.exp(unit[0][a][i] @ unit[1][v][j] / 0.1) for v in (0, 1) for j in range(BATCH) if j != i)
            total -= torch.log(right / (right + wrong)) / BATCH
    torch.testing.assert_close(loss, total)
    assert float(numbers["collapsed"]) == pytest.approx(2 * math.log(11))
    assert 0 < float(numbers["spread"]) < 1.2
    assert 0 < float(numbers["attended"]) <= 1.01


def test_gradients_reach_the_online_network_alone():
    learner = hummingbird().train()
    learner.memory.add(normal(10, WIDTH, seed=5))
    learner.loss(learner.draw(0))[0].backward()
    for name, parameter in learner.online.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or name.endswith("qkv.bias"), name
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in learner.target.parameters())


def test_the_target_is_a_running_average_exactly():
    learner = hummingbird(keep=0.9).train()
    with torch.no_grad():
        for parameter in learner.online.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=gen(3), dtype=D)
    before = {name: value.clone() for name, value in learner.target.named_parameters()}
    online = {name: value.clone() for name, value in learner.online.named_parameters()}
    assert set(before) < set(online)
    learner.after_step(3, 10)
    mu = keep_at(3, 10, 0.9)
    for name, value in learner.target.named_parameters():
        torch.testing.assert_close(value, mu * before[name] + (1 - mu) * online[name], rtol=0, atol=1e-15)


def test_supervised_is_cross_entropy_of_both_views_and_nothing_else():
    learner = hummingbird(supervised=True).train()
    learner.memory.add(normal(10, WIDTH, seed=5))
    views, labels = learner.draw(2)
    frames = learner.batches.frames(2)[:, 0]
    assert labels.tolist() == [int(i) % 3 for i in frames]
    loss, numbers = learner.loss((views, labels))
    online, target = learner.encoded(views)
    assert len(target) == 1
    logits = torch.cat([learner.online["classifier"](each.vectors) for each in online])
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels.repeat(2)).float(), rtol=1e-5, atol=1e-6)
    assert set(numbers) == {"attended", "remembered", "accuracy"}
    assert float(numbers["accuracy"]) == pytest.approx(float((logits.argmax(1) == labels.repeat(2)).double().mean()))
    loss.backward()
    learner.after_step(2, 10)
    assert len(learner.memory.held()) == 10


def test_heads_of_no_variant_are_refused():
    online = encoder()
    arguments = (online, target_of(online), hummingbird().batches, PictureMemory(4, WIDTH))
    for heads, options in (
        ({"classifier": nn.Linear(2, 2)}, {}),
        ({"projector": nn.Linear(2, 2)}, {}),
        ({"projector": nn.Linear(2, 2)}, {"labels": np.zeros(3), "target_projector": nn.Linear(2, 2)}),
    ):
        with pytest.raises(ValueError, match="a classifier and labels, or a projector"):
            Hummingbird(*arguments, nn.ModuleDict(heads), **options)
    with pytest.raises(ValueError, match="layer is 'conv5'"):
        ContextEncoder(backbone(), "conv5")
    with pytest.raises(ValueError, match="pooling is 'max'"):
        ContextEncoder(backbone(), "norm", pooling="max")


# --- runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of ten pictures: bluish and reddish clouds."""
    place = tmp_path_factory.mktemp("pictures")
    clouds = F.interpolate(torch.rand(20, 3, 4, 4, generator=gen(1)), (48, 56), mode="bicubic").clamp(0, 1)
    for i, cloud in enumerate(clouds):
        pixels = (255 * cloud.permute(1, 2, 0) * torch.tensor([1.0, 0.6, 0.3] if i % 2 else [0.3, 0.6, 1.0])).byte()
        (place / f"class{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(pixels.numpy()).save(place / f"class{i % 2}" / f"{i}.png")
    return place


def small(folder, **options):
    settings = {"images": str(folder), "size_px": 32, "short_side_px": 48, "batch": 8, "epochs": 3, "device": "cpu"}
    settings |= {"precision": "float32", "hidden_width": 16, "latent_width": 8, "memory_pictures": 20, "log_every": 1}
    return HummingbirdConfig(**{**settings, **options})


def quiet(config, run, **named):
    return train_method("hummingbird", config, run, progress=False, say=lambda line: None, **named)


def lines(run, stage):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]


@pytest.fixture
def _views_as_they_are(monkeypatch):
    from vision_methods import hummingbird as module
    from vision_methods.two_views import photometric_views

    monkeypatch.setattr(module, "photometric_views", photometric_views)


@pytest.mark.usefixtures("_views_as_they_are")
def test_an_interrupted_run_goes_on_with_its_memory(tmp_path, folder, monkeypatch):
    config = small(folder)
    backbone = quiet(config, tmp_path / "whole")
    finite, seen = recognition_train.check_finite, []

    def die(*given):
        seen.append(given)
        if len(seen) == 4:
            raise KeyboardInterrupt
        finite(*given)

    monkeypatch.setattr(recognition_train, "check_finite", die)
    config = dataclasses.replace(config, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        quiet(config, tmp_path / "parts")
    monkeypatch.setattr(recognition_train, "check_finite", finite)
    again = quiet(config, tmp_path / "parts", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), again.parameters(), strict=True))
    whole = lines(tmp_path / "whole", "hummingbird")
    assert whole == lines(tmp_path / "parts", "hummingbird")
    assert [line["remembered"] for line in whole] == [0, 8, 16, 20, 20, 20]
    model = method_model(tmp_path / "whole")
    assert model.layers[-1] == "norm"
    assert model.module(torch.rand(1, 3, 224, 224))["norm"].shape == (1, 96, 28, 28)


@pytest.mark.usefixtures("_views_as_they_are")
def test_classes_are_learned(tmp_path, folder):
    config = small(folder, supervised=True, epochs=12, photometric="none", learning_rate=3e-3)
    quiet(config, tmp_path / "run")
    found = lines(tmp_path / "run", "hummingbird")
    assert found[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # the classifier begins at zero
    assert np.mean([line["accuracy"] for line in found[-4:]]) > 0.85


@pytest.mark.usefixtures("_views_as_they_are")
def test_the_command_trains_any_backbone(tmp_path, folder, capsys):
    arguments = [
        "train-method",
        "hummingbird",
        "--images",
        str(folder),
        "--backbone",
        "lcl",
        "--epochs",
        "1",
        "--batch",
    ]
    arguments += ["8", "--size-px", "48", "--short-side-px", "48", "--device", "cpu", "--precision", "float32"]
    arguments += ["--no-progress", "--out", str(tmp_path / "run"), "--context-share", "0", "--pooling", "mean"]
    assert lcl(arguments) == 0
    said = capsys.readouterr().out
    assert "A reconstruction; mean over" in said
    assert (tmp_path / "run" / "report.html").exists()
    assert lcl([*arguments[:-4], "--supervised", "--context-share", "2", "--out", str(tmp_path / "no")]) == 2
    assert "context_share is 2" in capsys.readouterr().err


def test_labels_are_needed_to_learn_them(tmp_path, folder):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(folder.glob("*/*.png"))):
        (flat / f"{i}.png").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="have no labels to learn"):
        build(small(flat, supervised=True), torch.device("cpu"))
    with pytest.raises(ValueError, match="photometric is 'harsh'"):
        build(small(folder, photometric="harsh"), torch.device("cpu"))


def test_presets_are_of_this_method_and_the_paper_is_a_large_transformer():
    for name, make in PRESETS["hummingbird"].items():
        config = make()
        assert isinstance(config, HummingbirdConfig)
        assert config.supervised == name.endswith("supervised")
    paper = PRESETS["hummingbird"]["paper"]()
    assert (paper.backbone, paper.size_px, paper.batch, paper.latent_width) == ("vit_base16", 224, 4096, 256)
    toy = PRESETS["hummingbird"]["toy"]()
    first, again = make_encoder_backbone(toy, 3), make_encoder_backbone(toy, 3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert copy.deepcopy(first).layers == first.layers


# --- two processes


def two_steps():
    """Loss, numbers, gradients and memory of three steps: what must not depend on how the batch is divided."""
    seen = {}
    for supervised in (False, True):
        learner = hummingbird(supervised=supervised).train()
        for step in range(3):
            at = f"{supervised} {step}"
            loss, numbers = learner.loss(learner.draw(step))
            learner.zero_grad()
            loss.backward()
            sum_gradients(learner.online.parameters())
            seen |= {
                f"{at} {name}": sum_over_processes(value.detach()) for name, value in {**numbers, "loss": loss}.items()
            }
            with torch.no_grad():
                for name, parameter in learner.online.named_parameters():
                    seen[f"{at} gradient {name}"] = torch.zeros(1) if parameter.grad is None else parameter.grad.clone()
                    if parameter.grad is not None:
                        parameter.sub_(0.01 * parameter.grad)
            learner.after_step(step, 4)
            seen[f"{at} memory"] = learner.memory.held().clone()
    return {name: value.numpy() for name, value in seen.items()}


def test_two_processes_are_one(assert_two_are_one):
    assert_two_are_one(__file__, two_steps, rtol=1e-5, atol=1e-7)


def main(folder, number):
    from vision_methods import hummingbird as module

    views = module.photometric_views
    module.photometric_views = lambda crops, drawn: views(crops, drawn).double()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    try:
        np.savez(folder / f"{number}.npz", **two_steps())
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
