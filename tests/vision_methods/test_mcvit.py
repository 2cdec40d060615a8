"""MC-ViT as a learner: its loss by hand, one process and two, short runs, weights from elsewhere."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from lcl.distributed import sum_gradients, sum_over_processes
from vision_methods.config import MCViTConfig
from vision_methods.long_videos import MadeVideos
from vision_methods.mcvit import MCViT, build, load_pretrained, make_vit, sine_positions, symmetric_nce
from vision_methods.method_report import write_method_report
from vision_methods.method_run import load_method, method_model
from vision_methods.presets import PRESETS
from vision_methods.train import train_method
from vision_methods.video_memory import read_video
from vision_methods.vit import ViT, resize_positions

SMALL = MCViTConfig(
    width=12,
    depth=2,
    heads=2,
    latent_width=8,
    frames=16,
    segment_frames=4,
    short_epochs=1,
    epochs=3,
    batch=4,
    videos_per_epoch=8,
    learning_rate=3e-3,
    judge_most=10,
    precision="float32",
    device="cpu",
    log_every=1,
    save_every=2,
)
LONG = dataclasses.replace(SMALL, short_epochs=0)
CPU = torch.device("cpu")


def quiet(config, run, **named):
    return train_method("mcvit", config, run, progress=False, say=lambda line: None, **named)


def lines(run, stage):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]


# The loss


def test_the_loss_of_equal_embeddings_is_twice_log_of_the_batch():
    assert float(symmetric_nce(torch.ones(2, 3), torch.ones(2, 3))) == pytest.approx(1.386294)
    assert float(symmetric_nce(torch.ones(5, 3), torch.ones(5, 3), temperature=2.0)) == pytest.approx(2 * math.log(5))


def embeddings(size=6, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, width, generator=generator, dtype=torch.float64) for _ in range(2)]


def unit(x):
    return np.asarray(x) / np.linalg.norm(np.asarray(x), axis=-1, keepdims=True)


def test_the_loss_is_the_sum_of_its_two_directions():
    videos, texts = embeddings()
    v, t = unit(videos), unit(texts)
    total = 0.0
    for i in range(6):
        to_texts = [math.exp(v[i] @ t[j] / 0.2) for j in range(6)]
        to_videos = [math.exp(t[i] @ v[j] / 0.2) for j in range(6)]
        total -= math.log(to_texts[i] / sum(to_texts)) + math.log(to_videos[i] / sum(to_videos))
    assert float(symmetric_nce(videos, texts, temperature=0.2)) == pytest.approx(total / 6)


def test_pairs_of_one_label_are_no_negatives_and_wrong_answers_are():
    videos, texts = embeddings()
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    wrong = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    v, t, w = unit(videos), unit(texts), unit(wrong)
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if j == i or labels[j] != labels[i]]
        to_texts = [math.exp(10 * v[i] @ t[j]) for j in others] + [math.exp(10 * v[i] @ w[i, m]) for m in range(4)]
        to_videos = [math.exp(10 * t[i] @ v[j]) for j in others]
        total += math.log(sum(to_texts)) + math.log(sum(to_videos)) - 20 * v[i] @ t[i]
    assert float(symmetric_nce(videos, texts, labels=labels, hard_negatives=wrong)) == pytest.approx(total / 6)


def test_embeddings_that_do_not_fit_are_refused():
    videos, texts = embeddings()
    for options, message in (
        ({"temperature": 0}, "temperature is 0"),
        ({"labels": torch.zeros(5)}, "expected \\(B, D\\), \\(B, D\\), \\(B,\\)"),
        ({"hard_negatives": torch.zeros(6, 4)}, "expected \\(6, M, 4\\)"),
    ):
        with pytest.raises(ValueError, match=message):
            symmetric_nce(videos, texts, **options)


# Initial weights and weights from elsewhere


def test_positions_are_waves_of_time_row_and_column():
    found = sine_positions((3, 2, 4), 26)[0].view(3, 2, 4, 26)
    for axis, part in ((0, slice(0, 8)), (1, slice(8, 16)), (2, slice(16, 24))):
        own = found[..., part].movedim(axis, 0)
        assert bool((own == own[:, :1, :1]).all())  # nothing but its own axis
        at = torch.arange(len(own)) * torch.pi / 2
        torch.testing.assert_close(own[:, 0, 0, 0], at.sin(), atol=1e-6, rtol=0)
        torch.testing.assert_close(own[:, 0, 0, 4], at.cos(), atol=1e-6, rtol=0)
        assert float((own[:, 0, 0].square().sum(1) - 4).abs().max()) < 1e-5
    assert bool((found[..., 24:] == 0).all())
    assert len({tuple(place) for place in found.flatten(0, 2).tolist()}) == 24


def test_initial_weights_depend_on_the_seed_and_span_the_video():
    first, again, other = (make_vit(SMALL, seed) for seed in (0, 0, 1))
    assert (first.grid, make_vit(LONG, 0).grid) == ((2, 2, 2), (8, 2, 2))
    assert torch.equal(make_vit(LONG, 0).pos_embed, resize_positions(first.pos_embed, (2, 2, 2), (8, 2, 2)))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.blocks[0].attn.qkv.weight, other.blocks[0].attn.qkv.weight)
    assert float(make_vit(MCViTConfig(), 0).blocks[0].mlp.fc2.weight.detach().std()) == pytest.approx(
        96**-0.5, rel=0.05
    )
    with_class = make_vit(dataclasses.replace(SMALL, class_token=True), 0)
    assert torch.equal(with_class.pos_embed[:, 1:], first.pos_embed)


SIZES = {"size_px": 8, "patch_px": 4, "width": 12, "depth": 2, "heads": 2, "mlp_ratio": 2.0}


def test_weights_of_videos_of_another_length_are_interpolated():
    short = ViT(**SIZES, frames=4, tubelet=2, class_token=False)
    vit = make_vit(LONG, 0)
    load_pretrained(vit, {f"trunk.vit.{name}": value for name, value in short.state_dict().items()})
    assert torch.equal(vit.blocks[1].attn.qkv.weight, short.blocks[1].attn.qkv.weight)
    assert torch.equal(vit.pos_embed, resize_positions(short.pos_embed, (2, 2, 2), (8, 2, 2)))
    back = ViT(**SIZES, frames=4, tubelet=2, class_token=False)
    load_pretrained(back, vit.state_dict())
    torch.testing.assert_close(back.pos_embed, short.pos_embed)


@pytest.mark.parametrize("class_token", [False, True])
def test_weights_of_pictures_are_inflated(class_token):
    pictures = ViT(**SIZES, class_token=class_token)
    vit = make_vit(dataclasses.replace(SMALL, class_token=class_token), 0)
    load_pretrained(vit, pictures.state_dict() | {"head.weight": torch.zeros(3, 12)})
    image = torch.rand(1, 3, 8, 8)
    still = image[:, None].expand(-1, 4, -1, -1, -1)
    own = pictures(image)["norm"][:, int(class_token) :]
    tokens = read_video(vit, still, segment_frames=2, kept=0)
    torch.testing.assert_close(tokens, own.repeat(1, 2, 1), rtol=1e-4, atol=1e-5)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="The weights lack"):
        load_pretrained(make_vit(SMALL, 0), {"pos_embed": torch.zeros(1, 8, 12)})
    wider = ViT(**SIZES | {"width": 24}, frames=4, tubelet=2, class_token=False)
    with pytest.raises(ValueError, match="expected finite numbers of shape"):
        load_pretrained(make_vit(SMALL, 0), wider.state_dict())


# The learner


@pytest.mark.parametrize(
    ("memory", "kept", "segment_frames"),
    [("consolidated", 3, 4), ("everything", None, 4), ("none", 0, 4), ("joint", 0, 16)],
)
def test_a_video_is_the_projected_mean_of_its_tokens(memory, kept, segment_frames):
    config = dataclasses.replace(SMALL, memory=memory, kept=3, consolidation="coreset")
    learner = build(config, CPU)
    batch = learner.draw(9)
    vit = learner.backbone.trunk.vit
    options = {"consolidation": "coreset", "seeds": batch.seeds}
    tokens = read_video(vit, batch.videos, segment_frames=segment_frames, kept=kept, **options)
    torch.testing.assert_close(learner.embed(batch), learner.online["projection"](tokens.mean(1)))


def test_steps_see_short_videos_first():
    learner = build(SMALL, CPU)
    assert learner.steps_per_epoch == 2
    assert [learner.draw(step).videos.shape[1] for step in range(4)] == [4, 4, 16, 16]


def test_the_answer_is_the_class_whose_vector_is_most_alike():
    learner = build(SMALL, CPU)
    with torch.no_grad():
        learner.online["classes"].weight.copy_(torch.eye(4, 8) * torch.tensor([[1.0], [5.0], [0.1], [1.0]]))
    vectors = torch.tensor([[1.0, 0.9, 0, 0], [0.1, 0, 0.2, 0], [-1, -1, -1, -0.5]])
    assert learner.answers(torch.nn.functional.pad(vectors, (0, 4))).tolist() == [0, 2, 3]


def test_judging_counts_right_answers_and_changes_nothing():
    learner = build(SMALL, CPU)
    before = [parameter.clone() for parameter in learner.parameters()]
    right = [learner.answers(learner.embed(batch)) == batch.labels for batch in learner.videos.held_out(10)]
    assert learner.judge() == {"accuracy": pytest.approx(float(torch.cat(right).float().mean())), "chance": 0.25}
    assert learner.judge() == learner.judge()
    assert all(torch.equal(*pair) for pair in zip(before, learner.parameters(), strict=True))


def test_the_loss_is_that_of_the_counts_where_nothing_is_told_apart_and_every_parameter_learns():
    learner = build(dataclasses.replace(SMALL, batch=16, temperature=1e4), CPU)
    batch = learner.draw(9)
    loss, numbers = learner.loss(batch)
    counts = torch.bincount(batch.labels, minlength=4)
    chance = sum(2 * math.log(1 + 16 - int(counts[label])) for label in batch.labels) / 16
    assert float(loss.detach()) == pytest.approx(chance, rel=1e-3)
    assert 0 <= float(numbers["accuracy"]) <= 1
    loss.backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in learner.parameters())


def test_bf16_is_near_float32():
    first, second = (build(dataclasses.replace(SMALL, precision=p), CPU) for p in ("float32", "bf16"))
    batch = first.draw(9)
    assert float(second.loss(batch)[0].detach()) == pytest.approx(float(first.loss(batch)[0].detach()), rel=0.05)


# Runs


def test_a_run_is_a_model(tmp_path):
    backbone = quiet(SMALL, tmp_path / "run")
    assert len(lines(tmp_path / "run", "mcvit")) == 6
    epochs = lines(tmp_path / "run", "epoch")
    assert [line["epoch"] for line in epochs] == [0, 1, 2, 3]
    assert all(0 <= line["accuracy"] <= 1 for line in epochs)
    report = write_method_report(tmp_path / "run").read_text()
    assert f"{epochs[-1]['accuracy']:.3f} after epoch 3; 0.25 by chance" in report
    loaded, everything = load_method(tmp_path / "run")
    assert (everything["model"]["backbone"], everything["config"]["kept"]) == ("vit", 2)
    image = torch.rand(1, 3, 8, 8)
    for name, maps in backbone(image).items():
        assert maps.shape == (1, 12, 2, 2)
        assert torch.equal(loaded(image)[name], maps)
    assert method_model(tmp_path / "run").layers == ("blocks.0", "blocks.1", "norm")
    assert not torch.equal(method_model(tmp_path / "run", seed=1).module(image)["norm"], loaded(image)["norm"])


def test_a_run_that_goes_on_ends_where_an_uninterrupted_one_does(tmp_path):
    quiet(SMALL, tmp_path / "whole")
    learner = build(SMALL, CPU)
    loss, steps = learner.loss, []

    class Killed(BaseException):
        pass

    def until_the_fourth(batch):
        steps.append(batch)
        if len(steps) == 4:
            raise Killed
        return loss(batch)

    learner.loss = until_the_fourth
    with pytest.raises(Killed):
        quiet(SMALL, tmp_path / "parts", learner=learner)
    quiet(SMALL, tmp_path / "parts", resume=True)
    for stage in ("mcvit", "epoch"):
        assert lines(tmp_path / "whole", stage) == lines(tmp_path / "parts", stage)


def test_a_run_starts_from_the_weights_of_another(tmp_path):
    quiet(SMALL, tmp_path / "first")
    weights = str(tmp_path / "first" / "weights.safetensors")
    learner = build(dataclasses.replace(SMALL, weights=weights, seed=5, frames=24, short_epochs=0), CPU)
    first = load_method(tmp_path / "first")[0].trunk.vit
    assert learner.backbone.trunk.vit.pos_embed.shape == (1, 48, 12)
    assert torch.equal(learner.backbone.trunk.vit.norm.weight, first.norm.weight)


def test_the_toy_task_is_learned_on_one_segment():
    # Seconds are enough for one segment; what memory adds is measured in benchmarks/mcvit_memory.py.
    config = dataclasses.replace(PRESETS["mcvit"]["toy"](), frames=8, segment_frames=8, batch=32, judge_most=200)
    learner = build(dataclasses.replace(config, depth=2, width=24), CPU)
    optimiser = torch.optim.AdamW(learner.parameters(), 5e-3)
    losses = []
    for step in range(60):
        loss, _ = learner.loss(learner.draw(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < np.mean(losses[:5])


def test_recordings_are_told_apart(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        colour = rng.integers(60, 196, 3)
        for number in range(20):
            frame = np.clip(colour + rng.normal(0, 20, (10, 12, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(frame).save(tmp_path / "videos" / name / f"{number}.png")
    config = dataclasses.replace(SMALL, images=str(tmp_path / "videos"), epochs=15, learning_rate=1e-2, short_epochs=5)
    quiet(config, tmp_path / "run")
    assert lines(tmp_path / "run", "epoch")[-1]["accuracy"] == 1.0


@pytest.mark.shared
def test_real_recordings_can_be_trained_on(shared, tmp_path):
    config = dataclasses.replace(SMALL, images=str(shared / "video" / "davis"), epochs=1, short_epochs=0)
    quiet(config, tmp_path / "run")
    assert math.isfinite(lines(tmp_path / "run", "mcvit")[-1]["loss"])


# Settings


def test_settings_that_cannot_be_are_named(tmp_path):
    for change, message in (
        ({"kept": 0}, "kept"),
        ({"tubelet": 3}, "segment_frames"),
        ({"frames": 15}, "frames"),
        ({"backbone": "alexnet"}, "backbone"),
        ({"memory": "some"}, "memory"),
        ({"photometric": "none"}, "photometric is no setting of MC-ViT"),
        ({"layer": "norm"}, "layer is no setting of MC-ViT"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SMALL, **change)
    for change, message in (
        ({"kept": 9}, "kept is 9, but a segment has 8 tokens"),
        ({"images": str(tmp_path / "none")}, "none"),
        ({"weights": str(tmp_path / "none")}, "none"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            build(dataclasses.replace(SMALL, **change), CPU)


@pytest.mark.parametrize("name", PRESETS["mcvit"])
def test_presets_hold_together(name):
    preset = PRESETS["mcvit"][name]()
    tokens = preset.segment_frames // preset.tubelet * (preset.size_px // preset.patch_px) ** 2
    assert tokens == 16 * preset.kept
    if name == "paper":
        assert (tokens, preset.kept, preset.width, preset.depth) == (2048, 128, 768, 12)
        assert preset.epochs * (preset.videos_per_epoch // preset.batch) == 30_000


# Two processes


def two_steps():
    """Loss, numbers and gradients of two steps: everything that must not depend on how the batch is divided."""
    config = dataclasses.replace(SMALL, detach_memory=False)
    videos = MadeVideos(batch=8, frames=16, short_frames=4, seed=0)
    generator = torch.Generator().manual_seed(0)
    learner, seen = MCViT(make_vit(config, 0), videos, kept=2, segment_frames=4, generator=generator).double(), {}
    for step in range(2):
        batch = learner.draw(step)
        loss, numbers = learner.loss(batch._replace(videos=batch.videos.double()))
        learner.zero_grad()
        loss.backward()
        sum_gradients(learner.online.parameters())
        for name, value in {"loss": loss, **numbers}.items():
            seen[f"{step} {name}"] = sum_over_processes(value.detach())
        with torch.no_grad():
            for name, parameter in learner.online.named_parameters():
                seen[f"{step} gradient {name}"] = parameter.grad.clone()
                parameter.sub_(0.01 * parameter.grad)
    return {name: value.numpy() for name, value in seen.items()}


def test_two_processes_are_one(assert_two_are_one):
    assert_two_are_one(__file__, two_steps, atol=1e-9)


def main(folder, number):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    try:
        np.savez(folder / f"{number}.npz", **two_steps())
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
