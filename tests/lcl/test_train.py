"""Training: independence of stages, determinism, resuming, several processes, and the run folder."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lcl
from lcl.config import PRESETS, Config
from lcl.images import open_images
from lcl.objective import barlow_twins
from lcl.optimizers import OPTIMIZERS
from lcl.stages import LCLV2
from lcl.train import (
    CollapseWarning,
    Interrupted,
    Stream,
    build,
    geometry,
    local_loss,
    open_store,
    plan,
    read_config,
    split,
    train,
)

SMALL = Config(
    channels=(8, 12),
    kernels=(5, 3),
    strides=(2, 1),
    paddings=(2, 1),
    steps=(6, 5),
    batch=(16,),
    warmup=2,
    save_every=4,
    log_every=1,
    precision="float32",
    short_side_px=128,
    balance=(3.0,),
)


@pytest.fixture(scope="module")
def store():
    return open_store(SMALL, build(SMALL))


def quiet(config: Config, run: Path, store, **named):
    return train(config, run, store=store, progress=False, say=lambda line: None, **named)


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_s"} for line in lines]


@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
def test_loss_falls_and_the_folder_loads(tmp_path, store, schedule):
    config = dataclasses.replace(SMALL, schedule=schedule, steps=(40, 40), learning_rate=(1e-2,), weight_decay=(0.0,))
    model = quiet(config, tmp_path / "run", store)
    lines = metrics(tmp_path / "run")
    for name in ("V1", "V2"):
        losses = [line["loss"] for line in lines if line["stage"] == name]
        assert len(losses) == 40
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
    loaded = lcl.load(tmp_path / "run")
    images = torch.rand(2, 3, 64, 64)
    for name, maps in model(images).items():
        assert torch.equal(maps, loaded(images)[name])
    assert not loaded.training


def test_a_step_of_the_second_stage_leaves_the_first_bit_identical(tmp_path, store):
    only_first = quiet(dataclasses.replace(SMALL, steps=(6, 0)), tmp_path / "first", store)
    both = quiet(SMALL, tmp_path / "both", store)
    after = both["V1"].state_dict()
    for name, one in only_first["V1"].state_dict().items():
        assert torch.equal(one, after[name]), name
    assert not torch.equal(only_first["V2"].conv.weight, both["V2"].conv.weight)


def test_no_gradient_crosses_a_stage_boundary():
    model = LCLV2()
    pairs = torch.rand(8, 2, 3, 67, 67)
    local_loss(model, "V2", pairs, readout="centre", weight=0.1).total.backward()
    assert all(parameter.grad is None for parameter in model["V1"].parameters())
    assert all(parameter.grad is not None for parameter in model["V2"].parameters())


def test_the_first_loss_does_not_depend_on_the_second_stage():
    pairs = torch.rand(8, 2, 3, 19, 19)
    model = LCLV2()
    before = local_loss(model, "V1", pairs, readout="centre", weight=0.1).total
    with torch.no_grad():
        model["V2"].conv.weight.normal_()
    assert torch.equal(before, local_loss(model, "V1", pairs, readout="centre", weight=0.1).total)


def test_zero_amplitude_gives_identical_views_and_no_similarity_term(store):
    still = dataclasses.replace(
        SMALL.deformation, translation=0, dilation=0, contrast=0, luminance=0, colour=0, noise=0
    )
    config = dataclasses.replace(SMALL, deformation=still)
    model = build(config)
    stream = Stream(store, geometry(model, config, "V1"), still, batch=16, seeds=(0,), device=torch.device("cpu"))
    pairs = stream(0)
    assert torch.equal(pairs[:, 0], pairs[:, 1])
    loss = local_loss(model, "V1", pairs, readout="centre", weight=0.1)
    assert loss.similarity.item() == pytest.approx(0, abs=1e-9)


def test_interrupted_and_resumed_equals_never_interrupted(tmp_path, store):
    quiet(SMALL, tmp_path / "whole", store)
    previous = signal.getsignal(signal.SIGTERM)

    def stop_at_seven(config, run):
        from lcl.objective import barlow_twins as real

        calls = []

        def counted(*arguments, **named):
            calls.append(1)
            if len(calls) == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(*arguments, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lcl.train.barlow_twins", counted)
            quiet(config, run, store)

    with pytest.raises(Interrupted, match="lcl train --resume"):
        stop_at_seven(SMALL, tmp_path / "halved")
    assert signal.getsignal(signal.SIGTERM) == previous
    assert not (tmp_path / "halved" / "weights.safetensors").exists()
    with pytest.raises(FileNotFoundError, match="has not finished"):
        lcl.load(tmp_path / "halved")
    quiet(SMALL, tmp_path / "halved", store, resume=True)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "halved"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "halved")


KILLED = """
import sys
from pathlib import Path
from lcl.config import Config
from lcl.train import train
config = Config.from_dict(__import__("json").loads(sys.argv[1]))
train(config, Path(sys.argv[2]), resume=sys.argv[3] == "resume", progress=False, say=lambda line: None)
"""


def test_killed_at_a_random_step_and_resumed_equals_never_killed(tmp_path):
    config = dataclasses.replace(SMALL, steps=(60, 30), save_every=7)
    text = json.dumps(config.as_dict())

    def command(run, how):
        return [sys.executable, "-c", KILLED, text, str(tmp_path / run), how]

    subprocess.run(command("whole", "new"), check=True, timeout=120)
    chance = np.random.default_rng()
    for kill in range(3):
        process = subprocess.Popen(command("killed", "resume" if kill else "new"))
        log = tmp_path / "killed" / "metrics.jsonl"
        before = len(log.read_text().splitlines()) if log.exists() else 0
        wait_for = before + int(chance.integers(1, 25))
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and len(log.read_text().splitlines()) >= wait_for:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not list((tmp_path / "killed").glob("*.partial*.partial"))
    subprocess.run(command("killed", "resume"), check=True, timeout=120)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "killed")


TORCHRUN = """
import sys, json
from pathlib import Path
from lcl import distributed
from lcl.config import Config
from lcl.train import train
config = Config.from_dict(json.loads(sys.argv[1]))
with distributed.process_group():
    train(config, Path(sys.argv[2]), progress=False, say=lambda line: None)
"""


def test_two_processes_train_the_weights_of_one(tmp_path):
    config = dataclasses.replace(SMALL, steps=(4, 3), optimizer="sgd", learning_rate=(0.05,), weight_decay=(0.0,))
    script = tmp_path / "script.py"
    script.write_text(TORCHRUN)
    text = json.dumps(config.as_dict())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    root = str(Path(lcl.__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*run, str(script), text, str(tmp_path / "two")], check=True, timeout=180, env=environment, capture_output=True
    )
    subprocess.run([sys.executable, str(script), text, str(tmp_path / "one")], check=True, timeout=120, env=environment)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5, msg=key)


def test_views_depend_on_seed_stage_and_step_alone(store):
    model = build(SMALL)
    shape = geometry(model, SMALL, "V2")

    def stream(*seeds):
        return Stream(store, shape, SMALL.deformation, batch=8, seeds=seeds, device=torch.device("cpu"))

    assert torch.equal(stream(0, 1)(5), stream(0, 1)(5))
    assert not torch.equal(stream(0, 1)(5), stream(0, 1)(6))
    assert not torch.equal(stream(0, 1)(5), stream(1, 1)(5))


def test_an_existing_run_is_never_overwritten(tmp_path, store):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty; choose another --out"):
        quiet(SMALL, tmp_path / "run", store)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_nothing_to_resume(tmp_path, store):
    with pytest.raises(FileNotFoundError, match=r"state\.safetensors does not exist"):
        quiet(SMALL, tmp_path / "run", store, resume=True)


def test_config_is_written_before_the_first_step_and_read_back(tmp_path, store):
    quiet(dataclasses.replace(SMALL, steps=(0, 0)), tmp_path / "run", store, preset="mine")
    config, everything = read_config(tmp_path / "run")
    assert config == dataclasses.replace(SMALL, steps=(0, 0))
    assert everything["preset"] == "mine"
    assert everything["format"] == 1
    assert everything["versions"]["torch"] == torch.__version__
    assert {"command", "git", "machine", "images", "model"} <= set(everything)


def test_a_loss_that_is_not_finite_stops_before_the_weights(tmp_path, store):
    def broken(*arguments, **named):
        from lcl.objective import barlow_twins

        return barlow_twins(*arguments, **named)._replace(total=torch.tensor(float("nan"), requires_grad=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lcl.train.barlow_twins", broken)
        with pytest.raises(FloatingPointError, match="loss of V1 is nan at step 0; lower --learning-rate"):
            quiet(SMALL, tmp_path / "run", store)
    saved = load_file(tmp_path / "run" / "state.safetensors")
    assert all(torch.isfinite(tensor.float()).all() for tensor in saved.values())


def test_collapse_is_named(tmp_path, store):
    dead = build(SMALL)

    def with_dead_features(config):
        with torch.no_grad():
            dead["V1"].norm.weight[:3] = 0
            dead["V1"].norm.bias[:3] = -1
            dead["V1"].conv.weight[4] = dead["V1"].conv.weight[3]
        return dead

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lcl.train.build", with_dead_features)
        with pytest.warns(CollapseWarning) as caught:
            quiet(dataclasses.replace(SMALL, steps=(1, 0)), tmp_path / "run", store)
    text = " ".join(str(warning.message) for warning in caught)
    assert "V1: 3 of 8 features are constant over the batch (numbers 0, 1, 2)" in text
    assert "identical to another over the batch (numbers 3, 4)" in text


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimiser_resumes_exactly(tmp_path, store, name):
    config = dataclasses.replace(SMALL, optimizer=name, steps=(6, 2), save_every=3, learning_rate=(1e-3,))
    quiet(config, tmp_path / "whole", store)
    with pytest.MonkeyPatch.context() as patch:

        def stop(*arguments, **named):
            raise KeyboardInterrupt

        patch.setattr("lcl.train.warn_of_collapse", lambda learner, loss: stop() if learner.name == "V2" else None)
        with pytest.raises(KeyboardInterrupt):
            quiet(config, tmp_path / "halved", store)
    quiet(config, tmp_path / "halved", store, resume=True)
    one, two = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "halved"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("projector", ["none", "linear", "mlp"])
@pytest.mark.parametrize("readout", ["average", "centre", "dense"])
def test_every_readout_and_projector_trains(tmp_path, store, readout, projector):
    config = dataclasses.replace(
        SMALL, readout=(readout,), projector=projector, projector_width=16, patch_ratio=1.5, steps=(2, 2)
    )
    model = quiet(config, tmp_path / "run", store)
    assert all(torch.isfinite(tensor.float()).all() for tensor in model.state_dict().values())


def test_three_and_four_stages_train(tmp_path, store):
    for count in (3, 4):
        config = Config(
            channels=(6, 8, 10, 12)[:count],
            kernels=(3,),
            strides=(1,),
            paddings=(1,),
            steps=(2,),
            batch=(16,),
            short_side_px=128,
            readout=("centre",),
            learning_rate=(1e-3,),
            balance=(3.0,),
        )
        model = quiet(config, tmp_path / str(count), open_store(config, build(config)))
        assert model.names == ["V1", "V2", "stage3", "stage4"][:count]
        assert lcl.load(tmp_path / str(count)).names == model.names


def test_grey_images_train(tmp_path):
    config = dataclasses.replace(SMALL, in_channels=1, steps=(2, 2), simple_complex=True)
    model = quiet(config, tmp_path / "run", open_store(config, build(config)))
    assert model(torch.rand(1, 1, 64, 64))["V1"].shape[1] == 12


def test_bf16_stays_close_to_float32(store):
    model = build(SMALL)
    stream = Stream(
        store, geometry(model, SMALL, "V1"), SMALL.deformation, batch=64, seeds=(0,), device=torch.device("cpu")
    )
    pairs = stream(0)
    exact = local_loss(model, "V1", pairs, readout="centre", weight=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = local_loss(model, "V1", pairs, readout="centre", weight=0.1)
    assert rough.total.dtype == torch.float32
    assert rough.total.item() == pytest.approx(exact.total.item(), rel=0.02)


def test_the_centre_readout_sees_only_the_middle_unit():
    model = LCLV2().eval()
    pairs = torch.rand(4, 2, 3, 101, 101)
    loss = local_loss(model, "V2", pairs, readout="centre", weight=0.1)
    with torch.no_grad():
        maps = model["V2"](model.stage_input(pairs.flatten(0, 1), "V2", valid=True), valid=True)
        middle = maps[:, :, 1, 1].unflatten(0, (4, 2))
    expected = barlow_twins(middle[:, 0], middle[:, 1], weight=0.1)
    assert maps.shape[2:] == (3, 3)
    torch.testing.assert_close(loss.correlation.detach(), expected.correlation, atol=1e-4, rtol=0)


def test_golden_patch_sides():
    config = Config(patch_ratio=1.5)
    assert [geometry(build(config), config, name).side_px for name in ("V1", "V2")] == [29, 101]


@pytest.mark.parametrize(
    ("rule", "expected"), [("matched", (19, 67)), ("under", (19, 19)), ("over", (67, 67)), ("reversed", (67, 19))]
)
def test_amplitude_rules_leave_patches_alone_and_the_other_way_round(rule, expected):
    matched = Config()
    config = Config(amplitudes=rule)
    for name, reference in zip(("V1", "V2"), expected, strict=True):
        shape = geometry(build(config), config, name)
        assert shape.amplitude.translation_px == pytest.approx(config.deformation.translation * reference)
        assert shape.side_px == geometry(build(matched), matched, name).side_px
    config = Config(patches=rule)
    for name in ("V1", "V2"):
        shape, usual = (geometry(build(c), c, name) for c in (config, matched))
        assert shape.amplitude == usual.amplitude
        assert shape.side_px >= shape.size_px


def test_split_keeps_images_apart():
    train_images, held = split(12, 0.25, 3)
    assert len(train_images) == 9
    assert sorted([*train_images, *held]) == list(range(12))
    for count in (0, 1, 2):
        with pytest.raises(ValueError, match="give at least 3"):
            split(count, 0.25, 0)


def test_plan_runs_every_step_once():
    for schedule in ("sequential", "simultaneous"):
        order = plan(["V1", "V2", "stage3"], (3, 5, 0), schedule)
        assert sorted(order) == sorted([("V1", i) for i in range(3)] + [("V2", i) for i in range(5)])


def test_presets_are_valid_and_documented():
    for preset in PRESETS.values():
        assert isinstance(preset(), Config)
        for word in ("Source:", "Command:", "Hardware:", "Time"):
            assert word in (preset.__doc__ or "")


def test_arrays_can_be_trained_on(tmp_path):
    pictures = [np.random.default_rng(i).integers(0, 255, (64, 80, 3), dtype=np.uint8) for i in range(20)]
    quiet(SMALL, tmp_path / "run", open_images(pictures))
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_tensorboard_events_hold_the_metrics(tmp_path, store):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    quiet(dataclasses.replace(SMALL, tensorboard=True), tmp_path / "run", store)
    events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    written = [event.value for event in events.Scalars("V1/loss")]
    logged = [line["loss"] for line in metrics(tmp_path / "run") if line["stage"] == "V1"]
    assert written == pytest.approx(logged, rel=1e-6)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_a_compiled_stage_trains(tmp_path, store):
    config = dataclasses.replace(SMALL, compile=True, steps=(2, 0))
    compiled = quiet(config, tmp_path / "compiled", store)
    plain = quiet(dataclasses.replace(config, compile=False), tmp_path / "plain", store)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor, rtol=1e-2, atol=1e-2, msg=name)
    assert lcl.load(tmp_path / "compiled").names == ["V1", "V2"]
