"""LCL-V2Net: front ends and twins, frozen tensors, the recipe, resuming, several processes and the run folder."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import lcl
from lcl import recognition_train
from lcl.checkpoint import FORMAT, write_json, write_tensors
from lcl.recognition import (
    FRONT_ENDS,
    RecognitionNet,
    alexnet_head,
    build_front_end,
    check_frozen,
    gabor_bank,
    make_head,
    parse_front_end,
)
from lcl.recognition_config import PRESETS, RecognitionConfig
from lcl.recognition_objective import l2_attack, labelled_loss
from lcl.recognition_run import load_recognition, read_recognition_config
from lcl.recognition_train import Batches, open_data, train_recognition
from lcl.stages import LCLV2, Stage, StageChain
from lcl.train import Interrupted
from neural_fits.gabor import fit_gabor

ROOT = Path(__file__).resolve().parents[2]
SMALL = RecognitionConfig(
    size_px=40,
    short_side_px=48,
    epochs=3,
    pretrain_epochs=2,
    pretrain_width=16,
    batch=8,
    head_channels=(12, 12, 12),
    head_pool=1,
    head_width=16,
    dropout=0.0,
    precision="float32",
    log_every=1,
    warmup_epochs=1.0,
    learning_rate=5e-3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of noisy pictures, told apart by the orientation of a grating."""
    place = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(48) * 0.9)
    for part, count in (("train", 20), ("val", 8)):
        for name, grating in (("across", wave[None, :]), ("down", wave[:, None])):
            (place / part / name).mkdir(parents=True)
            for i in range(count):
                picture = 128 + 60 * rng.choice([-1, 1]) * grating + 20 * rng.standard_normal((48, 48))
                pixels = np.repeat(np.clip(picture, 0, 255)[..., None], 3, 2).astype(np.uint8)
                Image.fromarray(pixels).save(place / part / name / f"{i}.png")
    return place


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of a small chain."""
    run = tmp_path_factory.mktemp("lcl-run")
    generator = torch.Generator().manual_seed(5)
    chain = StageChain(
        {
            "V1": Stage(3, 8, kernel=5, stride=2, padding=2, generator=generator),
            "V2": Stage(8, 12, kernel=3, padding=1, generator=generator),
        }
    )
    write_json(run / "config.json", {"format": FORMAT, "model": chain.spec})
    write_tensors(run / "weights.safetensors", chain.state_dict())
    return run


@pytest.fixture(scope="module")
def config(folder, trained):
    return dataclasses.replace(SMALL, images=str(folder), front_end=f"supervised:{trained}")


@pytest.fixture(scope="module")
def data(config):
    return open_data(config, channels=3)


def quiet(config, run, data=None, **named):
    return train_recognition(config, run, data=data, progress=False, say=lambda line: None, **named)


def lines(run, stage):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_every_twin_trains_and_keeps_what_is_frozen(tmp_path, config, data, trained, kind):
    config = dataclasses.replace(config, front_end=f"{kind}:{trained}", epsilon=0.3, attack_step_size=0.2)
    net = quiet(config, tmp_path / "run", data)
    losses = [line["loss"] for line in lines(tmp_path / "run", "train")]
    assert len(losses) == 3 * 5
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert len(lines(tmp_path / "run", "epoch")) == 3
    assert len(lines(tmp_path / "run", "pretrain")) == (10 if kind == "selfsup" else 0)
    start = build_front_end(kind, str(trained), seed=0).state_dict()
    after = {name: tensor.cpu() for name, tensor in net.front.state_dict().items()}
    same = {name for name in start if name.endswith("weight") and torch.equal(start[name], after[name])}
    weights = {name for name in start if "conv.weight" in name}
    kept = {"lcl": weights, "lcl-untrained": weights, "gabor": {"stages.V1.conv.weight"}}.get(kind, set())
    assert same & weights == kept
    if kind == "lcl":
        original = load_file(trained / "weights.safetensors")
        assert all(torch.equal(original[name], after[name]) for name in original)


def test_the_gratings_are_learned(tmp_path, config, data):
    quiet(dataclasses.replace(config, epochs=8), tmp_path / "run", data)
    assert lines(tmp_path / "run", "epoch")[-1]["accuracy"] >= 0.9


def test_a_changed_frozen_tensor_is_named(tmp_path, config, data, trained, monkeypatch):
    config = dataclasses.replace(config, front_end=f"lcl:{trained}")
    right = recognition_train.labelled_loss

    def meddling(logits, labels, **named):
        nets[0].front["V2"].norm.running_var.add_(1e-7)
        return right(logits, labels, **named)

    nets = []
    made = recognition_train.net_of
    monkeypatch.setattr(recognition_train, "net_of", lambda *given: nets.append(made(*given)) or nets[0])
    monkeypatch.setattr(recognition_train, "labelled_loss", meddling)
    with pytest.raises(RuntimeError, match=r"front\.stages\.V2\.norm\.running_var is frozen but has changed"):
        quiet(config, tmp_path / "run", data)


def test_frozen_stages_stay_in_evaluation_mode():
    net = RecognitionNet(LCLV2(), alexnet_head(192, 3, width=8, pool=1), frozen=["V1"])
    net.train()
    assert [module.training for module in (net.front["V1"].norm, net.front["V2"].norm, net.head)] == [False, True, True]
    before = net.frozen_digests()
    net(torch.rand(2, 3, 112, 112)).sum().backward()
    check_frozen(net, before)
    assert net.front["V1"].conv.weight.grad is None
    assert net.front["V2"].conv.weight.grad is not None
    with pytest.raises(ValueError, match="expected the lowest"):
        net.freeze(["V2"])


def test_twins_see_the_same_pictures_in_the_same_order(config, data, trained):
    device = torch.device("cpu")
    first = Batches(data[0], config, device)
    second = Batches(data[0], dataclasses.replace(config, front_end=f"lcl:{trained}"), device)
    other = Batches(data[0], dataclasses.replace(config, seed=1), device)
    assert first.per_epoch == 5
    for step in (0, 7):
        a, b, c = (batches(step) for batches in (first, second, other))
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
        assert not torch.equal(a[0], c[0])
    order = np.concatenate([first(step)[1] for step in range(5)])
    assert np.bincount(order).tolist() == [20, 20]  # every picture once in an epoch
    assert not torch.equal(first(0)[0], first(0, view=1)[0])


@pytest.mark.parametrize("kind", ["supervised", "selfsup"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, config, data, trained, kind, monkeypatch):
    config = dataclasses.replace(config, front_end=f"{kind}:{trained}", dropout=0.3, mixup=0.4)
    quiet(config, tmp_path / "whole", data)
    finite, seen = recognition_train.check_finite, []

    def stop_in_the_middle(*given, **named):
        seen.append(given)
        if len(seen) == 8:
            os.kill(os.getpid(), signal.SIGINT)
        finite(*given, **named)

    monkeypatch.setattr(recognition_train, "check_finite", stop_in_the_middle)
    with pytest.raises(Interrupted, match="lcl recognize train --resume"):
        quiet(config, tmp_path / "parts", data)
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    assert read_recognition_config(tmp_path / "parts")[0] == config
    quiet(config, tmp_path / "parts", data, resume=True)
    whole, parts = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert lines(tmp_path / "whole", "epoch") == lines(tmp_path / "parts", "epoch")
    assert lines(tmp_path / "whole", "train") == lines(tmp_path / "parts", "train")


def test_the_folder_loads(tmp_path, config, data):
    net = quiet(config, tmp_path / "run", data)
    loaded, everything = load_recognition(tmp_path / "run")
    pictures = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.allclose(loaded(pictures), net(pictures), atol=1e-6)
        stages = lcl.load(tmp_path / "run" / "front")
        assert torch.equal(stages(pictures)["V2"], loaded.maps(pictures))
    assert everything["classes"] == ["across", "down"]
    with pytest.raises(FileExistsError, match="--resume"):
        quiet(config, tmp_path / "run", data)
    with pytest.raises(ValueError, match="no recognition run"):
        read_recognition_config(tmp_path / "run" / "front")


@pytest.mark.skipif(sys.platform != "linux", reason="gloo over the loopback device")
def test_two_processes_are_one(tmp_path, config, data, trained):
    """Both phases: end to end through both stages, then the head on what is frozen."""
    config = dataclasses.replace(config, front_end=f"selfsup:{trained}", mixup=0.4, epochs=1, pretrain_epochs=1)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, json\nfrom pathlib import Path\nimport torch\ntorch.set_num_threads(1)\n"
        "from lcl import distributed\nfrom lcl.recognition_config import RecognitionConfig\n"
        "from lcl.recognition_train import train_recognition\n"
        "config = RecognitionConfig.from_dict(json.loads(sys.argv[1]))\n"
        "with distributed.process_group():\n"
        "    train_recognition(config, Path(sys.argv[2]), progress=False, say=lambda line: None)\n"
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    started = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for rank in (0, 1):
        environment = os.environ | {
            "PYTHONPATH": path,
            "GLOO_SOCKET_IFNAME": "lo",
            "WORLD_SIZE": "2",
            "RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [sys.executable, str(script), json.dumps(config.as_dict()), str(tmp_path / "two")]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    quiet(config, tmp_path / "one", data)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name in one:
        assert torch.allclose(one[name].float(), two[name].float(), atol=2e-3, rtol=1e-2), name
    assert lines(tmp_path / "two", "train")[0]["loss"] == pytest.approx(
        lines(tmp_path / "one", "train")[0]["loss"], rel=2e-2
    )


def test_the_gabor_bank_is_one_of_gabors_and_covers_orientation():
    bank = gabor_bank(32, 15, 1)
    assert np.allclose(np.linalg.norm(bank.reshape(32, -1), axis=1), np.sqrt(2), atol=1e-5)
    fits = fit_gabor(bank)
    assert np.median(fits.r2) > 0.95
    counts, _ = np.histogram(fits.orientation_deg % 180, bins=4, range=(0, 180))
    assert counts.min() >= 5
    colour = gabor_bank(8, 11, 3)
    assert np.array_equal(colour[:, 0], colour[:, 2])


def test_random_front_ends_start_alike():
    a, b = (build_front_end(kind, "", seed=3).state_dict() for kind in ("supervised", "lcl-untrained"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    gabors = build_front_end("gabor", "", seed=3).state_dict()
    assert torch.equal(a["stages.V2.conv.weight"], gabors["stages.V2.conv.weight"])


def test_the_attack_finds_what_a_linear_network_allows():
    """The best perturbation of a linear network is along the difference of its two rows."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    start = torch.full((3, 3, 2, 2), 0.5)
    labels = torch.tensor([0, 1, 0])
    moved = l2_attack(net, start, labels, epsilon=0.3, steps=4, step_size=0.2)
    direction = (net[1].weight[1] - net[1].weight[0]).detach()
    direction = direction / direction.norm()
    sign = torch.tensor([1.0, -1.0, 1.0])[:, None]
    assert torch.allclose((moved - start).flatten(1), 0.3 * sign * direction, atol=1e-4)
    bright = l2_attack(net, torch.ones_like(start), labels, epsilon=5.0, steps=3, step_size=3.0)
    assert bright.max() <= 1
    assert bright.min() >= 0
    still = l2_attack(net, start, labels, epsilon=0.0, steps=2, step_size=1.0)
    assert torch.equal(still, start)


def test_the_loss_is_the_cross_entropy_of_mixed_and_smoothed_targets():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(4, 5, generator=generator), torch.tensor([0, 3, 2, 2])
    target = 0.9 * nn.functional.one_hot(labels, 5) + 0.1 / 5
    target = 0.7 * target + 0.3 * target[[1, 0, 3, 2]]
    expected = -(target * logits.log_softmax(1)).sum() / 8
    assert torch.allclose(labelled_loss(logits, labels, share=0.7, smoothing=0.1, batch=8), expected)


def test_the_alexnet_head_has_alexnets_layers():
    head = alexnet_head(192, 1000, norm=False)
    parameters = sum(parameter.numel() for parameter in head.parameters())
    below = 64 * 3 * 11 * 11 + 64 + 192 * 64 * 5 * 5 + 192  # of the first two convolutions
    assert parameters + below == 61_100_840


def test_a_head_of_ones_own():
    head = make_head("torch.nn:Linear", 4, 3, seed=0)
    again = make_head("torch.nn:Linear", 4, 3, seed=0)
    assert torch.equal(head.weight, again.weight)
    with pytest.raises(ValueError, match="cannot be found"):
        make_head("torch.nn:Nothing", 4, 3, seed=0)
    with pytest.raises(ValueError, match="returned int; expected a torch module"):
        make_head("math:gcd", 4, 2, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"front_end": "lcl"}, "needs the run folder"),
        ({"front_end": "v1"}, "expected one of lcl, lcl-untrained"),
        ({"size_px": 16}, "leaves 1 units"),
        ({"batch": 64}, "lower --batch"),
        ({"images": ""}, "give --images"),
        ({"images": "nowhere"}, "nowhere"),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(tmp_path, config, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        quiet(dataclasses.replace(config, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch", 1), ("dropout", 1.0), ("crop_aspect", 0.5), ("optimizer", "x"), ("head", "resnet")],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        RecognitionConfig(**{name: value})


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_say_what_they_are(preset):
    for field in ("Source", "Command", "Hardware", "Time", "xpected"):
        assert field in PRESETS[preset].__doc__
    config = PRESETS[preset]()
    assert RecognitionConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    assert parse_front_end(config.front_end)[0] in FRONT_ENDS
