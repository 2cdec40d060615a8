"""The learner: what it chooses, learns from and counts. Run as a script, this file is one of two processes."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lcl.distributed import sum_gradients
from lcl.optimizers import optimizer
from vision_methods.acid import build, reference_config, tower_flops
from vision_methods.image_text_config import ACIDConfig, ImageTextConfig
from vision_methods.image_text_corpus import open_corpus
from vision_methods.joint_selection import Embeddings, select_independently, select_jointly
from vision_methods.scoring_cost import relative_cost
from vision_methods.siglip import build as build_siglip
from vision_methods.siglip import unit
from vision_methods.train import train_method

CPU = torch.device("cpu")
SMALL = {
    "size_px": 16,
    "made_pictures": 96,
    "made_noise": 0.5,
    "latent_width": 16,
    "text_width": 16,
    "text_depth": 1,
    "text_heads": 2,
    "vocabulary": 300,
    "batch": 8,
    "epochs": 1,
    "judge_every": 0,
    "judge_most": 20,
    "precision": "float32",
    "device": "cpu",
    "warmup_epochs": 0.0,
}
CHOICE = {"filter_ratio": 0.75, "chunks": 4, "reference_pictures": 64, "reference_epochs": 1}


def config(folder, **changes):
    return ACIDConfig(**(SMALL | CHOICE | {"reference": str(folder / "reference")} | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a reference that the first learner trained, and another model."""
    folder = tmp_path_factory.mktemp("runs")
    build(config(folder), CPU)
    other = dataclasses.replace(reference_config(config(folder)), seed=5, latent_width=24)
    train_method("siglip", other, folder / "teacher", progress=False, say=lambda line: None)
    return folder


def gradients(learner, batch):
    learner.online.zero_grad()
    loss, numbers = learner.loss(batch)
    loss.backward()
    trained = [(name, each) for name, each in learner.online.named_parameters() if each.grad is not None]
    assert len(trained) >= len(list(learner.online.parameters())) - 1  # the softmax loss has no bias
    return loss.detach(), numbers, {name: each.grad.clone() for name, each in trained}


def assert_same(one, two, **tolerance):
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, msg=name, **tolerance)


def test_without_a_choice_it_is_siglip(folder):
    plain = build_siglip(ImageTextConfig(**SMALL), CPU)
    acid = build(config(folder, filter_ratio=0.0, reference=""), CPU)
    assert acid.steps_per_epoch == plain.steps_per_epoch
    for step in (0, 14):
        one, two = gradients(plain, plain.draw(step)), gradients(acid, acid.draw(step))
        assert one[0].equal(two[0])
        assert_same(one[2], two[2], atol=0, rtol=0)
        assert all(two[1][name].equal(value) for name, value in one[1].items())


@pytest.mark.parametrize("score", ["learnability", "easy-reference", "hard-learner"])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("jointly", [True, False])
def test_it_learns_from_the_pairs_of_the_selection(folder, score, loss, jointly):
    reference = folder / ("reference" if loss == "sigmoid" else "reference-softmax")
    settings = config(folder, score=score, loss=loss, jointly=jointly, reference=str(reference))
    learner = build(settings, CPU)
    batch = learner.draw(3)
    assert len(batch.captions) == 32
    chosen = learner.choose(batch)
    with torch.no_grad():
        learner.online.eval()
        own = Embeddings(
            *(unit(each) for each in learner.embed(batch.pairs)),
            float(learner.online.scale),
            float(learner.online.bias),
        )
    sides = {"learner": own if score != "easy-reference" else None, "reference": None}
    if score != "hard-learner":
        kept = learner.reference
        sides["reference"] = Embeddings(*kept(batch.pairs, batch.captions), kept.scale, kept.bias)
    select, noise = (select_jointly, batch.noise) if jointly else (select_independently, batch.noise[0])
    expected = select(**sides, select=8, noise=noise, loss=loss, gain=100.0)
    assert chosen.tolist() == sorted(expected.tolist())

    learner.train()
    found = gradients(learner, batch)
    images, texts = (unit(each) for each in learner.embed(batch.pairs.take(chosen)))
    torch.testing.assert_close(found[0], learner.contrast(images, texts).detach())
    clean = learner.clean[batch.pairs.index[chosen]].float().mean()
    assert float(found[1]["clean"]) == pytest.approx(float(clean))


def test_the_captions_of_the_reference_are_those_of_the_pairs(folder):
    learner = build(config(folder), CPU)
    corpus = open_corpus(config(folder))
    batch = learner.draw(1)
    texts = [corpus.train.flat()[i] for i in batch.captions]
    words = [corpus.train.texts[i][0] for i in batch.pairs.index]
    assert texts == words
    assert learner.tokens[batch.captions].equal(batch.pairs.tokens)


def test_cached_embeddings_choose_as_live_ones(folder):
    cached, live = (build(config(folder, cache=each), CPU) for each in (True, False))
    for step in range(3):
        batch = cached.draw(step)
        for one, two in zip(
            cached.reference(batch.pairs, batch.captions), live.reference(batch.pairs, batch.captions), strict=True
        ):
            torch.testing.assert_close(one, two)
        assert cached.choose(batch).equal(live.choose(batch))


def test_scoring_has_no_side_effects(folder):
    learner = build(config(folder, cache=False, distill=1.0), CPU).train()
    learner.online.image.eval()  # a frozen part stays as it is
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    modes = [module.training for module in learner.online.modules()]
    random = torch.get_rng_state()
    learner.choose(learner.draw(0))
    assert [module.training for module in learner.online.modules()] == modes
    assert torch.get_rng_state().equal(random)
    assert_same(before, learner.state_dict(), atol=0, rtol=0)
    kept = {name: value.clone() for name, value in learner.reference.towers.state_dict().items()}
    gradients(learner, learner.draw(0))
    assert all(each.grad is None and not each.requires_grad for each in learner.reference.towers.parameters())
    assert_same(kept, learner.reference.towers.state_dict(), atol=0, rtol=0)
    assert not any("reference" in name or "teacher" in name for name in learner.state_dict())


def test_no_weight_of_distillation_is_acid_and_some_is_added(folder):
    acid = build(config(folder), CPU)
    none = build(config(folder, distill=0.0, teacher=str(folder / "teacher")), CPU)
    aced = build(config(folder, distill=2.0, teacher=str(folder / "teacher")), CPU)
    assert aced.teacher is not aced.reference
    batch = acid.draw(0)
    one, two, three = (gradients(each, batch) for each in (acid, none, aced))
    assert one[0].equal(two[0])
    assert_same(one[2], two[2], atol=0, rtol=0)
    torch.testing.assert_close(three[0], one[0] + 2.0 * three[1]["distillation"])
    assert float((three[2]["image_head.weight"] - one[2]["image_head.weight"]).abs().max()) > 1e-4


def test_without_a_choice_distillation_is_of_the_whole_batch(folder):
    learner = build(config(folder, filter_ratio=0.0, distill=1.0), CPU)
    assert learner.reference is None
    batch = learner.draw(2)
    loss, numbers, _ = gradients(learner, batch)
    with torch.no_grad():
        images, texts = (unit(each) for each in learner.embed(batch.pairs))
        teacher = learner.teacher(batch.pairs, batch.captions)
        logits, wanted = learner.online.scale * images @ texts.T, learner.teacher.scale * teacher[0] @ teacher[1].T
        both = [(w.softmax(1) * s.log_softmax(1)).sum(1).mean() for w, s in ((wanted, logits), (wanted.T, logits.T))]
    torch.testing.assert_close(numbers["distillation"], -(both[0] + both[1]) / 2)
    torch.testing.assert_close(loss, learner.contrast(images, texts).detach() + numbers["distillation"])


def test_operations_are_counted(folder):
    learner = build(config(folder), CPU)
    own = sum(tower_flops(learner.online, 16, learner.tokens))
    # The learner scores 32 pairs, 1 pass each, and learns from 8, 3 passes each; the reference's are cached.
    assert learner.step_flops == pytest.approx(own * (32 + 3 * 8))
    assert learner.step_flops == pytest.approx(3 * own * 8 * relative_cost(0.75, reuse=False))
    assert learner.once_flops == 96 * sum(tower_flops(learner.reference.towers, 16, learner.reference.tokens))
    live = build(config(folder, cache=False, score="easy-reference"), CPU)
    assert live.step_flops == pytest.approx(own * 3 * 8 + 32 * live.reference.flops)
    assert live.once_flops == 0
    assert float(learner.loss(learner.draw(0))[1]["gflop"]) == pytest.approx(learner.step_flops / 1e9)


def test_the_super_batch_has_the_share_that_is_thrown_away():
    assert ACIDConfig(batch=32_768, filter_ratio=0.8).super_batch == 163_840
    assert ACIDConfig(batch=64, filter_ratio=0.0).super_batch == 64
    assert ACIDConfig(batch=8, filter_ratio=0.8).super_batch == 40


def test_a_memory_for_squared_gradients_of_batches_that_change():
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    made = optimizer("adamw95", [parameter], learning_rate=0.1, weight_decay=0.0)
    assert made.param_groups[0]["betas"] == (0.9, 0.95)


def test_a_run_can_be_interrupted_and_loaded(folder, tmp_path):
    """The reference is found in its folder, and the run is a model of pictures and texts as SigLIP's."""
    from vision_methods.image_text_run import load_towers

    stamp = (folder / "reference" / "weights.safetensors").stat().st_mtime_ns
    settings = config(folder, epochs=2, judge_every=1, save_every=1, log_every=1)
    train_method("acid", settings, tmp_path / "whole", progress=False, say=lambda line: None)
    assert (folder / "reference" / "weights.safetensors").stat().st_mtime_ns == stamp
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["stage"] == "acid"]
    assert len(steps) == 6
    assert all(0 <= line["clean"] <= 1 for line in steps)
    assert load_towers(tmp_path / "whole").towers.encode_images(torch.rand(1, 3, 16, 16)).shape == (1, 16)

    class Stop(Exception):
        pass

    learner = build(settings, CPU)
    original = learner.after_step

    def after_step(step, steps):
        original(step, steps)
        if step == 3:
            raise Stop

    learner.after_step = after_step
    with pytest.raises(Stop):
        train_method("acid", settings, tmp_path / "parts", learner=learner, progress=False, say=lambda line: None)
    train_method("acid", settings, tmp_path / "parts", resume=True, progress=False, say=lambda line: None)
    whole, parts = (load_towers(tmp_path / name).towers.state_dict() for name in ("whole", "parts"))
    assert_same(whole, parts, atol=0, rtol=0)


@pytest.mark.shared
def test_photographs_with_five_captions_each_end_to_end(folder, shared, tmp_path):
    from vision_methods.image_text_run import load_towers

    captions = str(shared / "coco_mini" / "captions.json")
    settings = config(
        tmp_path, images=captions, reference_images=captions, made_noise=0.0, least_area=0.5, judge_every=1, distill=1.0
    )
    train_method("acid", settings, tmp_path / "run", progress=False, say=lambda line: None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["stage"] == "epoch"][-1]
    assert {"image_to_text_at_1", "text_to_image_at_5", "accuracy", "chance"} <= set(last)
    assert "clean" not in lines[-2]
    assert load_towers(tmp_path / "run").encode_words(["a dog"]).shape == (1, 16)
    with pytest.raises(ValueError, match="trained on made pictures"):
        build(dataclasses.replace(settings, reference=str(folder / "reference")), CPU)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reference": ""}, "needs a reference"),
        ({"loss": "softmax"}, "was trained with the sigmoid loss"),
        ({"size_px": 24, "cache": False}, "expected the same size"),
        ({"made_pictures": 16}, "lower --batch"),
    ],
)
def test_what_does_not_fit_is_refused(folder, change, said):
    with pytest.raises(ValueError, match=said):
        build(config(folder, **change), CPU)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"filter_ratio": 1.0}, "filter_ratio is 1.0"),
        ({"distill": -1.0}, "distill is -1.0"),
        ({"reference_backbone": "vgg"}, "reference_backbone is 'vgg'"),
    ],
)
def test_settings_out_of_range_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        ACIDConfig(**change)


def test_captions_that_are_read_need_a_curated_part():
    with pytest.raises(ValueError, match="--reference-images"):
        reference_config(ACIDConfig(images="captions.json"))


def learn(folder):
    """Loss, what is logged and gradients of two steps of all processes together."""
    learner = build(config(folder, distill=1.0, teacher=str(folder / "teacher")), CPU).train()
    found = {}
    for step in (0, 1):
        learner.online.zero_grad()
        loss, numbers = learner.loss(learner.draw(step))
        loss.backward()
        sum_gradients(learner.online.parameters())
        found |= {f"{step} {name}": value.detach().numpy() for name, value in (("loss", loss), *numbers.items())}
        found |= {f"{step} gradient of {name}": each.grad.numpy() for name, each in learner.online.named_parameters()}
    return found


def test_two_processes_learn_as_one(folder, as_two_processes, tmp_path):
    (tmp_path / "runs").symlink_to(folder)
    alone = as_two_processes(__file__, tmp_path, beside=lambda: learn(folder))
    together = [dict(np.load(tmp_path / f"{number}.npz")) for number in (0, 1)]
    for name, value in alone.items():
        values = [each[name] for each in together]
        found = values[0] if "gradient" in name else values[0] + values[1]
        np.testing.assert_allclose(found, value, rtol=2e-4, atol=2e-6 * max(1, np.abs(value).max()), err_msg=name)


def main(folder, number):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    try:
        np.savez(folder / f"{number}.npz", **learn(folder / "runs"))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
