"""The detector as a method: its guarantee when training begins, what reaches its loss, its run folder and commands."""

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

from lcl.cli import main as lcl
from lcl.distributed import sum_gradients, sum_over_processes
from lcl.optimizers import optimizer, state_tensors
from vision_methods.boxed_pictures import boxed
from vision_methods.captions import Captions
from vision_methods.image_text_config import ImageTextConfig, ThreeWaysConfig
from vision_methods.made_detection import HELD_OUT
from vision_methods.method_run import load_method, method_model
from vision_methods.presets import PRESETS
from vision_methods.pyramid import Detector, Gate
from vision_methods.self_training import PseudoBoxes
from vision_methods.three_ways import JudgedBoxes, ThreeWays, detect, layer_strides
from vision_methods.three_ways_run import build, load_detector, new_detector, open_boxes
from vision_methods.train import train_method

CPU = torch.device("cpu")
TOWERS = ImageTextConfig(
    made_pictures=48,
    size_px=16,
    text_width=16,
    text_depth=1,
    text_heads=2,
    vocabulary=300,
    latent_width=8,
    epochs=1,
    batch=16,
    judge_most=20,
    precision="float32",
    device="cpu",
)
SMALL = ThreeWaysConfig(
    made_pictures=12,
    made_captioned=10,
    size_px=32,
    depth=1,
    variants=4,
    epochs=2,
    batch=4,
    caption_batch=4,
    least_score=0.0,
    judge_every=2,
    judge_most=6,
    precision="float32",
    device="cpu",
    log_every=1,
    save_every=2,
)


def quiet(config, run, **named):
    return train_method("three-ways", config, run, progress=False, say=lambda line: None, **named)


def lines(run, stage):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers") / "siglip"
    train_method("siglip", TOWERS, folder, progress=False, say=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def config(towers):
    return dataclasses.replace(SMALL, towers=str(towers))


@pytest.fixture(scope="module")
def teacher(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    quiet(config, folder)
    return folder


@pytest.fixture(scope="module")
def run(config, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "student"
    quiet(dataclasses.replace(config, teacher=str(teacher)), folder)
    return folder


class Colours(nn.Module):
    """A network that is aligned by construction: one map for each of six colours, where it is seen."""

    def __init__(self):
        super().__init__()
        self.channels, self.layers = {"fine": 6, "coarse": 6}, ("fine", "coarse")
        self.register_buffer("palette", torch.tensor([[r, g, b] for r, g, b in RGB]) / 255.0)

    def forward(self, images):
        near = torch.stack([(images - each[:, None, None]).abs().amax(1) < 0.02 for each in self.palette], 1).float()
        return {"fine": F.avg_pool2d(near, 4), "coarse": F.avg_pool2d(near, 8)}


RGB = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250), (250, 0, 250)]


def patches(n=24, seed=0):
    """Pictures (n, 3, 32, 32) of one colour each, and their colours."""
    colours = torch.randint(0, 6, (n,), generator=torch.Generator().manual_seed(seed))
    return (torch.tensor(RGB)[colours] / 255.0)[:, :, None, None].expand(-1, -1, 32, 32), colours


def of_colours(seed, gated=True):
    generator = torch.Generator().manual_seed(seed)
    return Detector(
        Colours(), ("fine", "coarse"), (4, 8), torch.eye(6), beyond=1, depth=2, gated=gated, generator=generator
    )


def test_before_training_gated_locations_know_their_words_and_ungated_ones_do_not():
    images, colours = patches()
    found = {}
    for gated in (True, False):
        right = []
        for seed in range(8):
            detector = of_colours(seed, gated)
            said = detector.logits(detector(images).embeddings, torch.eye(6)).argmax(2)
            right.append(float((said == colours[:, None]).float().mean()))
        found[gated] = np.mean(right)
    assert found[True] == 1
    assert found[False] == pytest.approx(1 / 6, abs=0.12)


def learner_of_colours(**options):
    images, colours = patches(12)
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    boxes = [[[4, 4, 20, 24]]] * 12
    pictures = boxed(pixels.copy(), boxes, [[int(each)] for each in colours], [f"colour {i}" for i in range(6)])
    base = pictures.of_classes([0, 1, 2, 3])
    return ThreeWays(of_colours(0), base, torch.eye(6)[None, :4], batch=4, size_px=32, seed=0, **options), pictures


def test_the_first_step_opens_gates_and_moves_no_branch():
    learner, _ = learner_of_colours()
    detector = learner.online
    optimiser = optimizer("adamw", detector.parameters(), learning_rate=1e-3, weight_decay=0.0)
    before = {name: value.clone() for name, value in detector.named_parameters()}
    gates = {f"{name}.alpha" for name, module in detector.named_modules() if isinstance(module, Gate)}
    branches = {
        name
        for name in before
        if name.startswith(("pyramid.", "head.classes.")) and name not in gates and "top" not in name
    }
    learner.loss(learner.draw(0))[0].backward()
    optimiser.step()
    after = dict(detector.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in branches)
    assert all(after[name].abs().item() == pytest.approx(1e-3, rel=1e-3) for name in gates)
    optimiser.zero_grad()
    learner.loss(learner.draw(1))[0].backward()
    optimiser.step()
    assert all(not torch.equal(before[name], after[name]) for name in branches if after[name].ndim > 1)
    decayed = next(group for group in optimiser.param_groups if group["params"][0].ndim <= 1)
    assert decayed["weight_decay"] == 0
    assert all(any(after[name] is p for p in decayed["params"]) for name in gates)


def test_boxes_of_held_out_words_never_reach_the_loss(config):
    learner = build(config, CPU)
    words = set(HELD_OUT)
    assert len(learner.pictures.classes) == 30
    assert not words & {word for name in learner.pictures.classes for word in name.split()}
    assert learner.judged.novel.sum() == 18
    assert learner.texts.shape[1] == 30
    whole = build(dataclasses.replace(config, held_out_words=("ring",)), CPU)
    assert len(whole.pictures.classes) == 40
    for step in range(learner.steps_per_epoch):
        seen = learner.draw(step)
        assert all((labels < 30).all() for labels in seen.labels)
    # Their boxes are in what it is judged by, and in no picture that it is trained on.
    assert len(whole.judged.pictures.classes) == len(whole.judged.texts) == 48
    everything, _, _ = open_boxes(config)
    novel = everything.held_out(HELD_OUT)
    assert any(novel[labels].any() for labels in everything.labels)
    for labels, boxes in zip(
        everything.labels, zip(learner.pictures.boxes, everything.boxes, strict=True), strict=True
    ):
        np.testing.assert_array_equal(boxes[0], boxes[1][~novel[labels]])


def test_no_weight_of_the_text_tower_is_trained_or_kept_in_the_state(config, run):
    learner = build(config, CPU)
    names = {name for name, _ in learner.named_parameters()}
    assert not any("text" in name for name in names)
    assert not any("text" in name for name in learner.state_dict())
    assert not learner.texts.requires_grad
    optimiser = optimizer("adamw", learner.online.parameters(), learning_rate=1e-3, weight_decay=0.0)
    learner.loss(learner.draw(0))[0].backward()
    optimiser.step()
    trained = [p for p in learner.online.parameters() if p.requires_grad]
    moments = [each for name, each in state_tensors(optimiser).items() if name.endswith("exp_avg")]
    assert sum(each.numel() for each in moments) == sum(p.numel() for p in trained)
    # The words of a trained detector are those of the towers that it began with.
    kept = load_detector(run)
    place = learner.judged.pictures.classes.index("red ring")
    torch.testing.assert_close(kept.texts(["red ring"])[0], learner.judged.texts[place])


def test_variants_are_for_training_and_clean_vectors_for_judging(config):
    learner = build(config, CPU)
    drawn = torch.stack([learner.draw(step).variant for step in range(8)])
    assert set(drawn.flatten().tolist()) == {0, 1, 2, 3}
    assert torch.equal(drawn[0], learner.draw(0).variant)
    first, second = learner.judge(), learner.judge()
    assert first == second or all(math.isnan(first[k]) or first[k] == second[k] for k in first)
    plain = build(dataclasses.replace(config, variants=1, text_dropout=0.0), CPU)
    base = ~plain.judged.novel
    # encoded in other batches: the same but for rounding
    torch.testing.assert_close(plain.texts[0], plain.judged.texts[base], rtol=0, atol=1e-5)


def test_without_pseudo_boxes_a_run_is_the_supervised_one(config, teacher, tmp_path):
    quiet(dataclasses.replace(config, teacher=str(teacher), least_score=2.0), tmp_path / "empty")
    first, second = (load_detector(each).detector.state_dict() for each in (teacher, tmp_path / "empty"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_captions_reach_the_loss_with_their_pseudo_boxes():
    learner, pictures = learner_of_colours()
    captions = Captions(pictures.store, tuple((f"colour {int(label[0])}",) for label in pictures.labels))
    kinds = torch.tensor([int(label[0]) for label in pictures.labels])
    boxes = torch.from_numpy(np.concatenate(pictures.boxes))
    pseudo = PseudoBoxes(captions, np.arange(12), torch.eye(6)[kinds], kinds, boxes, torch.ones(12))
    trained, _ = learner_of_colours(pseudo=pseudo, caption_batch=6)
    seen = trained.draw(0)
    assert len(seen.rows) == len(seen.pseudo) == 6
    for row, number in enumerate(seen.rows.tolist()):
        assert torch.equal(seen.pseudo[row], seen.captioned.to_frame(row, boxes[[number]])[0])
    loss, numbers = trained.loss(seen)
    plain, _ = learner.loss(learner.draw(0))
    torch.testing.assert_close(loss - plain, numbers["captions"])
    assert numbers["captions"] > 0
    double, _ = learner_of_colours(pseudo=pseudo, caption_batch=6, caption_weight=2.0)
    torch.testing.assert_close(double.loss(double.draw(0))[0] - plain, 2 * numbers["captions"])


def test_classes_of_crowds_and_unlisted_ones_are_not_known():
    learner, pictures = learner_of_colours()
    known = pictures.known.copy()
    known[:, 1] = False
    labels = [np.array([int(label[0]) % 2]) for label in pictures.labels]
    crowd = tuple(np.array([picture % 2 == 0]) for picture in range(12))
    changed = dataclasses.replace(pictures, known=known, labels=tuple(labels), crowd=crowd).of_classes([0, 1])
    other = ThreeWays(learner.online, changed, torch.eye(6)[None, :2], batch=12, size_px=32, seed=0)
    seen, kept = other.draw(0), 0
    for row in range(12):
        assert not seen.known[row, 1]
        kept += len(seen.labels[row])
        assert (seen.labels[row] == 0).all()
    assert kept == sum(label[0] == 0 and not many[0] for label, many in zip(labels, crowd, strict=True))
    assert torch.isfinite(other.loss(seen)[0])


def test_words_that_are_added_change_no_box_of_others(teacher, config):
    detector, (_, pictures, _) = load_detector(teacher).detector, open_boxes(config)
    words = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    options = {"size_px": 32, "least_score": 0.0, "candidates": 10**6, "most": 10**6}
    few = detect(detector, pictures.store, [0, 1], words[:3], **options)
    many = detect(detector, pictures.store, [0, 1], words, **options)
    for first, second in zip(few, many, strict=True):
        kept = second.labels < 3
        torch.testing.assert_close(second.boxes[kept], first.boxes)
        torch.testing.assert_close(second.scores[kept], first.scores)


def test_a_few_steps_find_what_was_shown():
    learner, pictures = learner_of_colours(mirror=False)
    optimiser = optimizer("adamw", learner.online.parameters(), learning_rate=3e-3, weight_decay=0.0)
    first = learner.loss(learner.draw(0))[0].item()
    for step in range(60):
        optimiser.zero_grad()
        loss, numbers = learner.loss(learner.draw(step))
        loss.backward()
        optimiser.step()
        learner.after_step(step, 60)
    assert loss.item() < first / 2
    novel = np.array([False] * 4 + [True] * 2)
    scores = JudgedBoxes(pictures, torch.eye(6), novel, 32)(learner.online)
    assert scores["ap50_base"] > 0.5
    assert 0 <= scores["ap50_novel"] <= 1
    assert 0 < numbers["gates"] < 1


def test_a_run_keeps_the_detector_and_its_towers(run, config):
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    wanted = {"detector.safetensors", "weights.safetensors", "towers/towers.safetensors", "towers/tokenizer.json"}
    assert wanted <= names
    model = load_detector(run)
    assert not model.detector.training
    assert model.config.epochs == 2
    backbone, _ = load_method(run)
    for name, value in backbone.state_dict().items():
        assert torch.equal(model.detector.backbone.state_dict()[name], value)
    found = model(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8), ["red ring"], least_score=0.0)
    assert len(found.scores) > 0
    assert (found.boxes >= -1e-3).all()
    assert (found.boxes <= torch.tensor([60.01, 40.01] * 2)).all()
    assert method_model(run).layers == ("conv1", "conv2", "conv3", "conv4")
    epochs = lines(run, "epoch")
    assert [line["epoch"] for line in epochs] == [0, 2]
    assert {"ap", "ap_base", "ap_novel", "ap50_novel"} <= set(epochs[-1])
    wanted = {"loss", "classes", "boxes", "centres", "captions", "positives", "gates", "scale"}
    assert wanted <= set(lines(run, "three-ways")[-1])


def test_a_broken_off_run_goes_on_as_if_it_had_not_been(run, config, teacher, tmp_path):
    class Stop(Exception):
        pass

    same = dataclasses.replace(config, teacher=str(teacher))
    learner, seen = build(same, CPU), []
    plain = learner.loss

    def loss(batch):
        if len(seen) == 4:
            raise Stop
        seen.append(batch)
        return plain(batch)

    learner.loss = loss
    with pytest.raises(Stop):
        quiet(same, tmp_path / "run", learner=learner)
    quiet(same, tmp_path / "run", resume=True)
    first, second = (load_detector(each).detector.state_dict() for each in (run, tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_settings_that_cannot_be_are_named(config, towers, teacher, tmp_path):
    with pytest.raises(ValueError, match="no towers to start from"):
        build(dataclasses.replace(config, towers=""), CPU)
    with pytest.raises(ValueError, match="backbone conv4, not alexnet"):
        build(dataclasses.replace(config, backbone="alexnet"), CPU)
    with pytest.raises(ValueError, match="aligned by layer conv4"):
        build(dataclasses.replace(config, layers=("conv1", "conv2")), CPU)
    with pytest.raises(ValueError, match="No class has the word 'dog'"):
        build(dataclasses.replace(config, held_out_words=("dog",)), CPU)
    with pytest.raises(ValueError, match="give --images too"):
        build(dataclasses.replace(config, image_dir="x"), CPU)
    with pytest.raises(ValueError, match="is a run of siglip, which finds no boxes"):
        load_detector(towers)
    with pytest.raises(ValueError, match="latent_width is no setting"):
        ThreeWaysConfig(latent_width=64)
    with pytest.raises(ValueError, match=r"each with \{\} for the name"):
        ThreeWaysConfig(prompts=("a photo",))
    with pytest.raises(ValueError, match="expected a divisor"):
        layer_strides(new_detector(config, load_detector(teacher).towers).backbone, ["conv4"], 36)
    learner, _ = learner_of_colours()
    with pytest.raises(ValueError, match=r"expected \(variant, 4 classes"):
        ThreeWays(learner.online, learner.pictures, torch.eye(6)[None], batch=4, size_px=32, seed=0)


@pytest.mark.parametrize("name", PRESETS["three-ways"])
def test_presets_hold_together(name):
    config = PRESETS["three-ways"][name]()
    assert ThreeWaysConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_the_commands(towers, tmp_path, capsys):
    few = ["--made-pictures", "8", "--batch", "4", "--epochs", "1", "--judge-most", "4", "--size-px", "32"]
    small = ["--variants", "2", "--device", "cpu", "--no-progress", "--towers", str(towers)]
    out = tmp_path / "run"
    assert lcl(["train-method", "three-ways", "--out", str(out), *few, *small]) == 0
    assert "18 classes held out (cyan, purple, ring)" in capsys.readouterr().out
    assert "Average precision, and gates" in (out / "report.html").read_text()
    Image.fromarray(np.full((50, 30, 3), 90, np.uint8)).save(tmp_path / "a.png")
    given = ["--words", "red ring", "dog", "--least-score", "0", "--most", "3", "--out", str(tmp_path / "b.png")]
    assert lcl(["detect", str(out), str(tmp_path / "a.png"), *given]) == 0
    assert "3 boxes" in capsys.readouterr().out
    found = json.loads((tmp_path / "b.json").read_text())
    assert len(found["detections"]) == 3
    assert {each["name"] for each in found["detections"]} <= {"red ring", "dog"}
    with Image.open(tmp_path / "b.png") as drawn:
        assert drawn.size[1] > drawn.size[0]
    assert lcl(["detect", str(out), "none.png", "--words", "dog"]) == 2
    assert lcl(["detect", str(towers), str(tmp_path / "a.png"), "--words", "dog"]) == 2


@pytest.mark.shared
def test_photographs_with_boxes_and_captions_from_end_to_end(shared, tmp_path):
    folder = shared / "coco_mini"
    captions = {"images": str(folder / "captions.json"), "size_px": 32, "short_side_px": 64, "vocabulary": 600}
    siglip = dataclasses.replace(TOWERS, **captions, batch=32)
    train_method("siglip", siglip, tmp_path / "towers", progress=False, say=lambda line: None)
    config = dataclasses.replace(
        SMALL,
        towers=str(tmp_path / "towers"),
        images=str(folder / "instances.json"),
        held_out_words=("dog", "bus", "pizza"),
        size_px=64,
        short_side_px=64,
        least_zoom=0.7,
        epochs=1,
        judge_every=1,
        judge_most=10,
        batch=32,
    )
    quiet(config, tmp_path / "teacher")
    student = dataclasses.replace(
        config, teacher=str(tmp_path / "teacher"), captions=str(folder / "captions.json"), caption_batch=16
    )
    quiet(student, tmp_path / "student")
    for run in ("teacher", "student"):
        last = lines(tmp_path / run, "epoch")[-1]
        assert 0 <= last["ap_base"] <= 1
        assert math.isfinite(lines(tmp_path / run, "three-ways")[-1]["loss"])
    picture = sorted((folder / "images").iterdir())[0]
    assert len(load_detector(tmp_path / "student")(picture, ["a dog"], least_score=0.0).scores) > 0


# Two processes


def two_steps():
    """Loss, numbers and gradients of two steps, captions included: all that must not depend on the division."""
    _, pictures = learner_of_colours()
    captions = Captions(pictures.store, tuple((f"colour {int(label[0])}",) for label in pictures.labels))
    kinds = torch.tensor([int(label[0]) for label in pictures.labels])
    boxes = torch.from_numpy(np.concatenate(pictures.boxes))
    pseudo = PseudoBoxes(captions, np.arange(12), torch.eye(6)[kinds], kinds, boxes, torch.ones(12))
    learner, _ = learner_of_colours(pseudo=pseudo, caption_batch=6, least_zoom=0.5)
    seen = {}
    for step in range(2):
        learner.zero_grad()
        loss, numbers = learner.loss(learner.draw(step))
        loss.backward()
        sum_gradients(learner.online.parameters())
        for name, value in {"loss": loss, **numbers}.items():
            seen[f"{step} {name}"] = sum_over_processes(value.detach())
        with torch.no_grad():
            for name, parameter in learner.online.named_parameters():
                if parameter.grad is not None:
                    seen[f"{step} gradient {name}"] = parameter.grad.clone()
                    parameter.sub_(0.01 * parameter.grad)
    return {name: value.numpy() for name, value in seen.items()}


def test_two_processes_are_one(assert_two_are_one):
    assert_two_are_one(__file__, two_steps, rtol=1e-4, atol=1e-5)


def main(folder, number):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    try:
        np.savez(folder / f"{number}.npz", **two_steps())
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
