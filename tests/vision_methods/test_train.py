"""The loop that the comparison methods share: resuming, several processes, accuracy, mistakes."""

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

from lcl import recognition_train
from lcl.labelled_images import open_labelled
from lcl.optimizers import LARS, learning_rate_factor, optimizer
from lcl.train import Interrupted
from vision_methods import train
from vision_methods.backbones import make_backbone
from vision_methods.config import DetConConfig, MethodConfig
from vision_methods.method_run import read_method_config
from vision_methods.methods import METHODS
from vision_methods.pictures import open_pictures, own_share
from vision_methods.train import mean_responses, train_method, with_statistics

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "size_px": 48,
    "short_side_px": 48,
    "backbone": "lcl",
    "hidden_width": 16,
    "latent_width": 8,
    "epochs": 3,
    "batch": 8,
    "precision": "float32",
    "device": "cpu",
    "log_every": 1,
    "save_every": 4,
    "learning_rate": 3e-3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of noisy pictures, told apart by the orientation of a grating."""
    place = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(48) * 0.9)
    for part, count in (("train", 13), ("val", 8)):
        for name, grating in (("across", wave[None, :]), ("down", wave[:, None])):
            (place / part / name).mkdir(parents=True)
            for i in range(count):
                picture = 128 + 60 * rng.choice([-1, 1]) * grating + 20 * rng.standard_normal((48, 48))
                pixels = np.repeat(np.clip(picture, 0, 255)[..., None], 3, 2).astype(np.uint8)
                Image.fromarray(pixels).save(place / part / name / f"{i}.png")
    return place


@pytest.fixture(scope="module")
def config(folder):
    return DetConConfig(**SMALL, images=str(folder), masks="grid", grid_cells=3, samples=4)


def quiet(config, run, **named):
    return train_method("detcon", config, run, progress=False, say=lambda line: None, **named)


def lines(run, stage):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]


def test_a_run_leaves_what_is_needed(tmp_path, config):
    run = tmp_path / "run"
    backbone = quiet(config, run)
    assert {path.name for path in run.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "state.safetensors",
        "summary.json",
        "weights.safetensors",
    }
    kept = load_file(run / "weights.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in backbone.state_dict().items())
    assert [line["step"] for line in lines(run, "detcon")] == list(range(9))
    assert [line["epoch"] for line in lines(run, "epoch")] == [0, 1, 2, 3]
    assert all(0 <= line["neighbour_accuracy"] <= 1 for line in lines(run, "epoch"))
    rates = [line["learning_rate"] for line in lines(run, "detcon")]
    assert rates[0] == 0
    assert max(rates) == rates[3] == config.learning_rate
    assert read_method_config(run)[:2] == ("detcon", config)
    assert not backbone.training
    with pytest.raises(FileExistsError, match="lcl train-method detcon --resume"):
        quiet(config, run)


def test_the_loss_falls(tmp_path, config):
    quiet(dataclasses.replace(config, epochs=12, judge_every=0, variant="S"), tmp_path / "run")
    found = [line["loss"] / line["collapsed"] for line in lines(tmp_path / "run", "detcon")]
    assert np.mean(found[-6:]) < 0.9 * np.mean(found[:3])
    assert "neighbour_accuracy" not in lines(tmp_path / "run", "epoch")[-1]


@pytest.mark.parametrize(("variant", "optimiser"), [("B", "adamw"), ("S", "lars")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, config, monkeypatch, variant, optimiser, number):
    config = dataclasses.replace(
        config, variant=variant, optimizer=optimiser, learning_rate=0.1 if variant == "S" else 3e-3
    )
    quiet(config, tmp_path / "whole")
    finite, seen = recognition_train.check_finite, []

    def stop_in_the_middle(*given):
        seen.append(given)
        if len(seen) == 6:
            os.kill(os.getpid(), number)
        finite(*given)

    monkeypatch.setattr(recognition_train, "check_finite", stop_in_the_middle)
    with pytest.raises(Interrupted, match="lcl train-method detcon --resume"):
        quiet(config, tmp_path / "parts")
    assert len(seen) == 6
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    quiet(config, tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
    assert set(whole) == set(parts)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any("target" in name for name in whole) == (variant == "B")
    for stage in ("detcon", "epoch"):
        assert lines(tmp_path / "whole", stage) == lines(tmp_path / "parts", stage)


def test_a_run_that_was_killed_goes_on_from_its_last_state(tmp_path, config, monkeypatch):
    quiet(config, tmp_path / "whole")

    class Killed(BaseException):
        pass

    def die(name, config, device):
        learner = METHODS[name].build(config, device)
        loss, steps = learner.loss, []

        def until_the_seventh(batch):
            steps.append(batch)
            if len(steps) == 7:
                raise Killed
            return loss(batch)

        learner.loss = until_the_seventh
        return learner

    with pytest.raises(Killed):
        quiet(config, tmp_path / "parts", learner=die("detcon", config, torch.device("cpu")))
    assert len(lines(tmp_path / "parts", "detcon")) == 6  # two more than the state knows of
    quiet(config, tmp_path / "parts", resume=True)
    assert lines(tmp_path / "whole", "detcon") == lines(tmp_path / "parts", "detcon")
    whole, parts = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


TWO = """
import json, sys
from pathlib import Path
import torch
from lcl import distributed
from vision_methods.config import DetConConfig
from vision_methods.train import train_method

torch.set_num_threads(1)
with distributed.process_group():
    for variant in "BS":
        config = DetConConfig.from_dict(json.loads(sys.argv[1]) | {"variant": variant})
        train_method("detcon", config, Path(sys.argv[2], variant), progress=False, say=lambda line: None)
"""


@pytest.fixture
def one_thread():
    """As the two processes have: another number of threads adds in another order, which grows over the steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(sys.platform != "linux", reason="gloo over the loopback device")
@pytest.mark.usefixtures("one_thread")
def test_two_processes_are_one(tmp_path, config):
    config = dataclasses.replace(config, optimizer="lars", learning_rate=0.3, epochs=1)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in (0, 1):
        group = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-c", TWO, json.dumps(config.as_dict()), str(tmp_path / "two")]
        environment = os.environ | group | {"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    for variant in "BS":
        quiet(dataclasses.replace(config, variant=variant), tmp_path / "one" / variant)
        one, two = (load_file(tmp_path / name / variant / "state.safetensors") for name in ("one", "two"))
        for name in one:
            # A step is the same to 1e-6 (test_region_contrast); these have been through an epoch.
            assert torch.allclose(one[name].double(), two[name].double(), atol=1e-5, rtol=1e-5), name
        for stage in ("detcon", "epoch"):
            for a, b in zip(*(lines(tmp_path / name / variant, stage) for name in ("one", "two")), strict=True):
                assert {k: v for k, v in a.items() if k != "stage"} == pytest.approx(
                    {k: v for k, v in b.items() if k != "stage"}, rel=1e-5, abs=1e-5
                )


def test_golden_schedule():
    """DetCon's for 100 epochs with a batch of 4096: 31,278 steps, 312 of warm-up, peak 3.2."""
    found = [3.2 * learning_rate_factor(step, 31278, 312, from_zero=True) for step in (0, 156, 312, 5000, 15795, 31278)]
    assert found == pytest.approx([0, 1.6, 3.2, 3.022421, 1.6, 0], abs=5e-7)


def test_lars_is_the_authors():
    """Decay, trust ratio, momentum, learning rate, in this order; offsets and norms have neither of the first two."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3, bias=False))
    names = [name for name, _ in net.named_parameters()]
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight"]
    with torch.no_grad():
        net[2].weight.zero_()  # of norm 0: its ratio is 1
    lars = optimizer("lars", net.parameters(), learning_rate=0.4, weight_decay=0.02)
    assert isinstance(lars, LARS)
    expected = {name: p.detach().double().numpy().copy() for name, p in net.named_parameters()}
    momentum = dict.fromkeys(expected, 0.0)
    for rate in (0.4, 0.3, 0.2):
        for group in lars.param_groups:
            group["lr"] = rate * group["relative"]
        for name, p in net.named_parameters():
            p.grad = torch.randn_like(p)
            g, w = p.grad.double().numpy(), expected[name]
            if name.endswith("weight") and not name.startswith("1"):
                g = g + 0.02 * w
                norms = np.linalg.norm(w), np.linalg.norm(g)
                g = g * (1e-3 * norms[0] / norms[1] if min(norms) > 0 else 1)
            momentum[name] = 0.9 * momentum[name] + g
            expected[name] = w - rate * momentum[name]
        lars.step()
    for name, p in net.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), expected[name], atol=2e-6)


def test_the_statistics_of_an_untrained_network(folder):
    images = open_labelled(str(folder / "val"), short_side_px=48)
    backbone = make_backbone("alexnet", seed=0)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    twin = with_statistics(backbone, images, size_px=48, device=torch.device("cpu"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    pictures = torch.stack([torch.from_numpy(each.copy()) for each in images.store]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        maps = twin.trunk.convolutions["conv1"]((pictures - twin.mean) / twin.std)
    norm = twin.trunk.norms["conv1"]
    assert torch.allclose(norm.running_mean, maps.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, maps.var((0, 2, 3)), rtol=1e-4)
    assert norm.momentum == 0.1
    layers, device = ["conv2", "conv5"], torch.device("cpu")
    found = mean_responses(twin, images, np.array([3, 0]), layers=layers, size_px=48, device=device)
    with torch.no_grad():
        for layer in layers:
            assert torch.allclose(found[layer], twin(pictures[[3, 0]])[layer].mean((2, 3)), atol=1e-5)


class Slopes(nn.Module):
    """Responses to change down and across, or, of length 0, to nothing."""

    layers = ("slopes",)

    def __init__(self, gain):
        super().__init__()
        self.gain = gain

    def forward(self, pictures):
        down, across = (pictures.diff(dim=axis).abs().mean((1, 2, 3)) for axis in (2, 3))
        return {"slopes": self.gain * torch.stack([down, across], 1)[:, :, None, None] + 1 - self.gain}


def test_the_accuracy_is_of_the_nearest_neighbours(config):
    learner = METHODS["detcon"].build(config, torch.device("cpu"))
    found = [
        train.judge(learner, Slopes(gain), dataclasses.replace(config, judge_most=most), torch.device("cpu"))
        for gain, most in ((1, 100), (0, 100), (1, 8))
    ]
    assert found == [{"neighbour_accuracy": 1.0}, {"neighbour_accuracy": 0.5}, {"neighbour_accuracy": 1.0}]


def test_pictures_of_every_kind_of_source(tmp_path, folder, config):
    divided = open_pictures(config)
    assert (len(divided.store), len(divided.labelled[1])) == (26, 16)
    held = open_pictures(dataclasses.replace(config, images=str(folder / "train"), held_out=0.25))
    assert (len(held.store), len(held.labelled[0]), len(held.labelled[1])) == (20, 20, 6)
    bare = open_pictures(dataclasses.replace(config, images=str(folder / "train" / "down")))
    assert bare.labelled is None
    assert len(bare.store) == 13
    assert "no accuracy" in bare.about
    other = open_pictures(
        dataclasses.replace(config, images=str(folder / "train"), validation_images=str(folder / "val"))
    )
    assert (len(other.store), len(other.labelled[1])) == (26, 16)


def test_without_labels_nothing_is_judged(tmp_path, config, folder):
    quiet(dataclasses.replace(config, images=str(folder / "train" / "down"), epochs=1), tmp_path / "run")
    assert [line["epoch"] for line in lines(tmp_path / "run", "epoch")] == [0, 1]
    assert all("neighbour_accuracy" not in line for line in lines(tmp_path / "run", "epoch"))


def test_a_loss_that_is_not_finite_stops_before_the_weights(tmp_path, config):
    learner = METHODS["detcon"].build(config, torch.device("cpu"))
    right = learner.loss
    learner.loss = lambda batch: (right(batch)[0] * float("nan"), {})
    before = {name: tensor.clone() for name, tensor in learner.online.named_parameters()}
    with pytest.raises(FloatingPointError, match="The loss of detcon is nan at step 0"):
        quiet(config, tmp_path / "run", learner=learner)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.online.named_parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 64}, "there are 26 training pictures; lower --batch"),
        ({"images": ""}, "give --images"),
        ({"images": "nowhere"}, "nowhere"),
        ({"layer": "V9"}, "layer is 'V9'; expected one of V1, V2 of lcl"),
        ({"photometric": "sepia"}, "photometric is 'sepia'; expected one of byol, simclr, none"),
        ({"masks": "nowhere"}, "masks is 'nowhere'"),
        ({"size_px": 16}, "expected sides of at least 31 px"),
        ({"device": "abacus"}, "device is 'abacus'"),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(tmp_path, config, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        quiet(dataclasses.replace(config, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_method_and_nothing_to_resume(tmp_path, config):
    with pytest.raises(ValueError, match=r"method is 'detkon'; expected one of detcon"):
        train_method("detkon", config, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"state\.safetensors"):
        quiet(config, tmp_path / "run", resume=True)


def test_the_share_of_a_process(monkeypatch):
    monkeypatch.setattr("lcl.distributed.world_size", lambda: 4)
    monkeypatch.setattr("lcl.distributed.rank", lambda: 3)
    assert own_share(100, 32) == (slice(24, 32), 3)
    with pytest.raises(ValueError, match="batch is 30 for 4 processes; expected a multiple of 4"):
        own_share(100, 30)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch", 1),
        ("keep", 1.5),
        ("aspect", 0.5),
        ("optimizer", "x"),
        ("backbone", "vgg"),
        ("seed", -1),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        MethodConfig(**{name: value})
