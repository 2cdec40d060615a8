"""VITO: what its loss reduces to, where gradients go, which frames meet. Run as a script: one of two processes."""

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

from lcl.distributed import sum_gradients, sum_over_processes
from lcl.images import open_images
from lcl.stages import BatchNorm
from vision_methods.attention_pooling import attention_figure
from vision_methods.backbones import Backbone
from vision_methods.clips import clips_of_arrays, still_clips
from vision_methods.config import VITOConfig
from vision_methods.detcon import DetCon, MaskedViews, MaskEncoder
from vision_methods.heads import mlp
from vision_methods.momentum import keep_at
from vision_methods.presets import PRESETS
from vision_methods.region_contrast import nt_xent
from vision_methods.train import train_method
from vision_methods.two_views import PHOTOMETRIC
from vision_methods.vito import (
    VITO,
    AttentionEncoder,
    FramePairs,
    attention_maps,
    build,
    image_contrast,
    trained_encoder,
)

BATCH, SIZE_PX = 6, 32


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


class Patches(nn.Module):
    """Responses of a few linear filters to patches of 8 px, and of a second layer to them."""

    def __init__(self, seed):
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 8, 8, 8, bias=False), nn.Conv2d(8, 12, 1, bias=False)
        self.norm, self.norm2 = BatchNorm(8), BatchNorm(12)
        nn.init.normal_(self.low.weight, std=0.1, generator=gen(seed))
        nn.init.normal_(self.high.weight, std=0.5, generator=gen(seed + 50))

    def forward(self, images):
        low = F.relu(self.norm(self.low(images)))
        return {"low": low, "high": F.relu(self.norm2(self.high(low)))}


def encoder(seed=0, layers=("low", "high"), **options):
    backbone = Backbone(Patches(seed), {"low": 8, "high": 12})
    widths = {"hidden_width": 32, "latent_width": 16}
    return AttentionEncoder(backbone, layers, generator=gen(seed + 1), **widths, **options).double()


def movie(seed, frames=8):
    """Coloured clouds that drift, so that neighbouring frames look alike."""
    clouds = torch.rand(1, 3, 3, 5, generator=gen(seed))
    wide = F.interpolate(clouds, (40, 48 + 2 * frames), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    return np.stack([(255 * wide[:, 2 * i : 2 * i + 48]).byte().numpy() for i in range(frames)])


def pairs(clips=None, **options):
    clips = clips or clips_of_arrays([movie(seed) for seed in range(9)], fps=10)
    settings = {"batch": BATCH, "size_px": SIZE_PX, "max_gap_s": 0.5, "photometric": PHOTOMETRIC["byol"], "seed": 3}
    return FramePairs(clips, **(settings | options))


def vito(seed=0, layers=("low", "high"), batches=None, keep=0.9, **options):
    predictors = nn.ModuleDict({layer: mlp(16, 32, 16, generator=gen(seed + 9 + i)) for i, layer in enumerate(layers)})
    return VITO(
        encoder(seed, layers, **options),
        predictors.double(),
        encoder(seed + 100, layers, **options),
        batches or pairs(),
        keep=keep,
    )


def loop_contrast(queries1, queries2, keys1, keys2, temperature):
    """The loss from its formula, one query at a time."""
    q1, q2, k1, k2 = (F.normalize(each, dim=1) for each in (queries1, queries2, keys1, keys2))
    total = 0.0
    for queries, own, other in ((q1, k1, k2), (q2, k2, k1)):
        for i, query in enumerate(queries):
            positive = math.exp(query @ other[i] / temperature)
            negative = sum(
                math.exp(query @ keys[n] / temperature) for keys in (own, other) for n in range(len(queries)) if n != i
            )
            total -= math.log(positive / (positive + negative)) / len(queries)
    return total


# ---------------------------------------------------------------------------------------------------------------------
# The loss


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_is_its_formula(temperature):
    latents = [torch.randn(5, 7, generator=gen(i)).double() for i in range(4)]
    assert float(image_contrast(*latents, temperature=temperature)) == pytest.approx(
        loop_contrast(*latents, temperature), rel=1e-12
    )


def test_golden_values_of_one_mask_a_picture():
    b, d = torch.arange(2.0).double()[:, None], torch.arange(4.0).double()
    x = [torch.sin(k + 1.3 * b + 0.5 * d**2) for k in range(4)]
    assert float(image_contrast(*x)) == pytest.approx(13.560434, abs=5e-7)
    same = image_contrast(x[0], x[1], x[0], x[1])
    assert float(same) == pytest.approx(4.174748, abs=5e-7)
    assert float(same) == pytest.approx(2 * float(nt_xent(x[0], x[1], temperature=0.1)), rel=1e-12)


def test_latents_that_are_all_equal_give_the_collapsed_loss():
    same = torch.ones(BATCH, 4)
    learner = vito(layers=("high",))
    _, numbers = learner.loss(learner.draw(0))
    assert float(image_contrast(same, same, same, same)) == pytest.approx(float(numbers["collapsed"]), rel=1e-6)
    assert float(numbers["collapsed"]) == pytest.approx(2 * math.log(2 * BATCH - 1), rel=1e-6)


@pytest.mark.parametrize("pooling", [{"pooling": "mean"}, {"zero_last": True}])
def test_without_gap_and_with_equal_weights_it_is_moclr_which_is_detcon_with_one_mask(pooling):
    store = open_images("builtin", short_side_px=64)
    views = {"batch": BATCH, "size_px": SIZE_PX, "photometric": PHOTOMETRIC["byol"], "least_area": 0.08, "seed": 3}
    learner = vito(layers=("high",), batches=FramePairs(still_clips(store), **views), **pooling)

    def with_one_mask(source):
        return MaskEncoder(copy.deepcopy(source.backbone), copy.deepcopy(source.projectors["high"]), layer="high")

    whole = [np.zeros(size, np.uint8) for size in store.sizes]
    detcon = DetCon(
        with_one_mask(learner.encoder),
        MaskedViews(store, whole, cells=(4, 4), samples=1, **views),
        predictor=copy.deepcopy(learner.online["predictors"]["high"]),
        target=with_one_mask(learner.target),
    )
    for step in range(3):
        mine, theirs = learner.draw(step), detcon.draw(step)
        for first, second in zip(mine, theirs, strict=True):
            assert torch.equal(first.crops, second.crops)
        loss, expected = learner.loss(mine)[0], detcon.loss(theirs)[0]
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        loss.backward()
        expected.backward()
    gradients = {name: p.grad for name, p in learner.encoder.backbone.named_parameters()}
    for name, parameter in detcon.online["encoder"].backbone.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-12)


def test_the_loss_of_two_scales_is_the_sum_of_each_alone():
    both = vito().train()
    batch = both.draw(0)
    total, numbers = both.loss(batch)
    alone = []
    for layer in ("low", "high"):
        one = vito(layers=(layer,)).train()
        one.encoder.backbone.load_state_dict(vito().encoder.backbone.state_dict())
        for part, source in ((one.encoder, vito().encoder), (one.target, vito().target)):
            part.pools[layer].load_state_dict(source.pools[layer].state_dict())
            part.projectors[layer].load_state_dict(source.projectors[layer].state_dict())
        one.online["predictors"][layer].load_state_dict(vito().online["predictors"][layer].state_dict())
        alone.append(one.loss(batch)[0])
        torch.testing.assert_close(numbers[f"loss_{layer}"], alone[-1].detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(total, alone[0] + alone[1], rtol=1e-12, atol=0)
    queries, keys, attention = both.latents(batch)
    for each in (*queries, *keys, *attention):
        assert list(each) == ["low", "high"]
    assert queries[0]["low"].shape == (BATCH, 16)
    assert attention[0]["high"].shape == (BATCH, 4, 4)


# ---------------------------------------------------------------------------------------------------------------------
# Networks


def test_gradients_reach_all_of_the_online_network_and_nothing_of_the_target():
    learner = vito()
    learner.loss(learner.draw(0))[0].backward()
    for name, parameter in learner.online.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert all(p.grad is None and not p.requires_grad for p in learner.target.parameters())


def test_attention_that_begins_as_the_mean_learns_from_its_last_layer_on():
    learner = vito(zero_last=True)
    learner.loss(learner.draw(0))[0].backward()
    pool = learner.encoder.pools["high"]
    assert pool.conv3.weight.grad.abs().max() > 0
    assert pool.conv1.weight.grad.abs().max() == 0
    _, numbers = learner.loss(learner.draw(0))
    assert float(numbers["attended_high"]) == pytest.approx(1)


def test_the_target_follows_all_of_the_new_encoder_and_keeps_its_own_statistics():
    learner = vito(keep=0.9)
    before = copy.deepcopy(dict(learner.target.named_parameters()) | dict(learner.target.named_buffers()))
    learner.loss(learner.draw(0))[0].backward()
    with torch.no_grad():
        for parameter in learner.online.parameters():
            parameter.sub_(0.1 * parameter.grad)
    after_loss = copy.deepcopy(dict(learner.target.named_buffers()))
    learner.after_step(1, 4)
    keep = keep_at(1, 4, 0.9)
    online = dict(learner.encoder.named_parameters())
    assert {name.split(".")[0] for name in online} == {"backbone", "pools", "projectors"}
    for name, parameter in learner.target.named_parameters():
        torch.testing.assert_close(parameter, keep * before[name] + (1 - keep) * online[name])
    for name, buffer in learner.target.named_buffers():
        assert torch.equal(buffer, after_loss[name])  # follow() moves parameters alone
        if name.endswith("running_mean"):
            assert not torch.equal(buffer, before[name])  # its passes have moved its statistics
            assert not torch.equal(buffer, dict(learner.encoder.named_buffers())[name])
    assert not any("predictor" in name for name in before)


def test_layers_and_poolings_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="pooled are top; expected different ones of low, high"):
        encoder(layers=("top",))
    with pytest.raises(ValueError, match="pooled are low, low"):
        encoder(layers=("low", "low"))
    with pytest.raises(ValueError, match="pooling is 'max'; expected one of attention, mean"):
        encoder(pooling="max")
    with pytest.raises(ValueError, match="Predictors are of low, pooled layers low, high"):
        VITO(encoder(), nn.ModuleDict({"low": nn.Identity()}), encoder(1), pairs())


def test_maps_of_attention_make_a_figure():
    pictures = torch.rand(3, 3, SIZE_PX, SIZE_PX).double()
    maps = attention_maps(encoder(), pictures)
    for each in maps.values():
        torch.testing.assert_close(each.sum((1, 2)), torch.ones(3).double())
    assert len(attention_figure(pictures, maps).axes) == 9


# ---------------------------------------------------------------------------------------------------------------------
# From files to a run


SMALL = {
    "size_px": 48,
    "short_side_px": 48,
    "backbone": "lcl",
    "hidden_width": 16,
    "latent_width": 8,
    "epochs": 3,
    "batch": 4,
    "precision": "float32",
    "device": "cpu",
    "log_every": 1,
    "learning_rate": 3e-3,
    "pairs_per_clip": 2,
    "lower_layers": ("V1",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five clips of nine frames, as folders."""
    place = tmp_path_factory.mktemp("clips")
    for clip in range(5):
        (place / f"clip{clip}").mkdir()
        for number, frame in enumerate(movie(clip, 9)):
            Image.fromarray(frame).resize((72, 60)).save(place / f"clip{clip}" / f"{number}.png")
    return place


@pytest.fixture(scope="module")
def config(folder):
    return VITOConfig(**SMALL, images=str(folder))


def quiet(config, run, **named):
    return train_method("vito", config, run, progress=False, say=lambda line: None, **named)


def lines(run, stage):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]


def test_a_run_is_judged_by_frames_that_were_held_out(tmp_path, config):
    learner = build(config, torch.device("cpu"))
    assert learner.steps_per_epoch == 2
    references, judged = learner.labelled
    assert np.bincount(references.labels).tolist() == [7] * 5  # of nine frames, two in the middle are held out
    assert np.bincount(judged.labels).tolist() == [2] * 5
    assert len(learner.batches.clips.frames) == 35
    other = build(dataclasses.replace(config, least_area=0.08, photometric="none"), torch.device("cpu"))
    np.testing.assert_array_equal(other.labelled[1].store[3], judged.store[3])  # judged by the same, however trained
    assert "Pooled (attention): V1 (5 x 5), V2 (2 x 2)" in learner.about_data
    # Of many clips some are judged, and the others are trained on whole.
    some = build(dataclasses.replace(config, judge_most=20), torch.device("cpu"))
    assert sorted(some.batches.clips.lengths.tolist()) == [7, 7, 9, 9, 9]
    assert [len(each) for each in some.labelled] == [14, 4]
    backbone = quiet(config, tmp_path / "run")
    assert [line["epoch"] for line in lines(tmp_path / "run", "epoch")] == [0, 1, 2, 3]
    assert all(0 <= line["neighbour_accuracy"] <= 1 for line in lines(tmp_path / "run", "epoch"))
    last = lines(tmp_path / "run", "vito")[-1]
    assert last["loss"] == pytest.approx(last["loss_V1"] + last["loss_V2"], rel=1e-5)
    assert last["collapsed"] == pytest.approx(4 * math.log(7), rel=1e-5)
    assert not backbone.training
    trained = trained_encoder(tmp_path / "run")
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, trained.backbone.state_dict()[name])
    assert any(
        (p != q).any() for p, q in zip(trained.pools.parameters(), learner.encoder.pools.parameters(), strict=True)
    )


def test_the_loss_falls(tmp_path, config):
    config = dataclasses.replace(config, epochs=15, judge_every=0, photometric="none", max_gap_s=0.1, keep=0.9)
    quiet(config, tmp_path / "run")
    found = [line["loss"] for line in lines(tmp_path / "run", "vito")]
    assert np.mean(found[-6:]) < 0.8 * np.mean(found[:3])


def test_a_run_that_goes_on_ends_where_an_uninterrupted_one_does(tmp_path, config):
    quiet(config, tmp_path / "whole")
    learner = build(config, torch.device("cpu"))
    loss, steps = learner.loss, []

    class Killed(BaseException):
        pass

    def until_the_fourth(batch):
        steps.append(batch)
        if len(steps) == 4:
            raise Killed
        return loss(batch)

    learner.loss = until_the_fourth
    config = dataclasses.replace(config, save_every=2)
    with pytest.raises(Killed):
        quiet(config, tmp_path / "parts", learner=learner)
    quiet(config, tmp_path / "parts", resume=True)
    for stage in ("vito", "epoch"):
        assert lines(tmp_path / "whole", stage) == lines(tmp_path / "parts", stage)


def test_pictures_with_labels_can_judge_instead(tmp_path, config):
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(
                    tmp_path / part / name / f"{i}.png"
                )
    learner = build(dataclasses.replace(config, validation_images=str(tmp_path)), torch.device("cpu"))
    assert [len(each) for each in learner.labelled] == [8, 4]
    assert len(learner.batches.clips.frames) == 45  # no frame is held out
    still = dataclasses.replace(config, images=str(tmp_path), still=True, pooling="mean", lower_layers=())
    learner = build(still, torch.device("cpu"))
    assert learner.batches.clips.lengths.tolist() == [1] * 8
    assert [len(each) for each in learner.labelled] == [8, 4]


def test_a_table_of_chosen_clips_is_followed(tmp_path, config):
    table = tmp_path / "chosen.csv"
    table.write_text("clip,kept\nclip0,True\nclip1,False\nclip2,True\nclip3,True\nclip4,True\n")
    learner = build(dataclasses.replace(config, clip_table=str(table)), torch.device("cpu"))
    assert learner.batches.clips.names == ("clip0", "clip2", "clip3", "clip4")


def test_settings_that_cannot_be_are_named(config, folder):
    for change, message in (
        ({"images": ""}, "there are no clips"),
        ({"images": "nowhere"}, "No clips at 'nowhere'"),
        ({"batch": 6}, "batch is 6, but there are 5 clips"),
        ({"layer": "V1"}, "pooled are V1, V1"),
        ({"photometric": "x"}, "photometric is 'x'"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            build(dataclasses.replace(config, **change), torch.device("cpu"))
    for change in ({"max_gap_s": -1.0}, {"pairs_per_clip": 0}, {"assumed_fps": 0.0}, {"pooling": "max"}):
        with pytest.raises(ValueError, match=next(iter(change))):
            VITOConfig(**change)


@pytest.mark.parametrize("name", PRESETS["vito"])
def test_presets_are_what_their_names_say(name):
    preset = PRESETS["vito"][name]()
    assert isinstance(preset, VITOConfig)
    if name.startswith("moclr"):
        assert (preset.pooling, preset.max_gap_s, preset.lower_layers) == ("mean", 0, ())
    else:
        assert preset.pooling == "attention"
        assert preset.max_gap_s > 0
        assert preset.least_area == 0.4
    if name.endswith("paper"):
        assert (preset.backbone, preset.size_px, preset.batch, preset.epochs) == ("resnet50", 224, 4096, 300)


@pytest.mark.shared
def test_real_clips_can_be_trained_on(shared, tmp_path):
    config = dataclasses.replace(
        PRESETS["vito"]["toy"](),
        images=str(shared / "video" / "davis"),
        size_px=48,
        short_side_px=48,
        hidden_width=32,
        latent_width=16,
        batch=4,
        epochs=1,
        pairs_per_clip=1,
        device="cpu",
        log_every=1,
    )
    quiet(config, tmp_path / "run")
    assert math.isfinite(lines(tmp_path / "run", "vito")[-1]["loss"])


# ---------------------------------------------------------------------------------------------------------------------
# Two processes


def two_steps():
    """Loss, numbers and gradients of two steps: everything that must not depend on how the batch is divided."""
    learner, seen = vito().train(), {}
    for step in range(2):
        loss, numbers = learner.loss(learner.draw(step))
        learner.zero_grad()
        loss.backward()
        sum_gradients(learner.online.parameters())
        seen |= {
            f"{step} {name}": sum_over_processes(each.detach()) for name, each in (numbers | {"loss": loss}).items()
        }
        with torch.no_grad():
            for name, parameter in learner.online.named_parameters():
                seen[f"{step} gradient {name}"] = parameter.grad.clone()
                parameter.sub_(0.01 * parameter.grad)
        learner.after_step(step, 4)
    return {name: value.numpy() for name, value in seen.items()}


def test_two_processes_are_one(assert_two_are_one):
    assert_two_are_one(__file__, two_steps, atol=1e-8)


def main(folder, number):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    try:
        np.savez(folder / f"{number}.npz", **two_steps())
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
