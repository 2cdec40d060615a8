"""The run folder of a method: what it is as a model, its report, and the commands, as a user meets them."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lcl import measure
from lcl.cli import loaders, main
from neural_fits.activations import activations
from neural_fits.recordings import recording_from_arrays, write_recording
from vision_methods.backbones import make_backbone
from vision_methods.method_report import metrics, training, write_method_report
from vision_methods.method_run import is_method_run, load_method, method_model, read_method_config
from vision_methods.methods import METHODS
from vision_methods.presets import PRESETS

SMALL = [
    *("--backbone", "lcl", "--size-px", "48", "--short-side-px", "48", "--batch", "8", "--epochs", "2"),
    *("--hidden-width", "16", "--latent-width", "8", "--masks", "grid", "--samples", "4", "--log-every", "1"),
    *("--precision", "float32", "--device", "cpu", "--no-progress"),
]


def refused(capsys, *arguments):
    """The single sentence that a command answers a mistake with."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err.strip()
    assert code == 2, said
    assert len(said.splitlines()) == 1, said
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, count in (("train", 9), ("val", 4)):
        for name, mean in (("dark", 80), ("light", 170)):
            (place / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(mean + 30 * rng.standard_normal((48, 56, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / part / name / f"{i}.png")
    return place


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder):
    made = tmp_path_factory.mktemp("runs") / "small"
    assert main(["train-method", "detcon", "--images", str(folder), "--out", str(made), *SMALL]) == 0
    return made


def test_a_run_folder_holds_everything(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json",
        "figures",
        "metrics.jsonl",
        "report.html",
        "state.safetensors",
        "summary.json",
        "weights.safetensors",
    }
    config = json.loads((run / "config.json").read_text())
    assert (config["kind"], config["method"], config["preset"]) == ("method", "detcon", "toy")
    assert config["model"]["layer"] == "V2"
    assert set(config["versions"]) >= {"torch", "lcl"}
    assert is_method_run(run)
    report = (run / "report.html").read_text()
    assert "http" not in report.replace("http-equiv", "")
    assert "untrained" in report
    assert "data:image/png" in report
    assert (run / "figures" / "training.png").stat().st_size > 5000


def test_a_run_is_a_model(run):
    backbone, _ = load_method(run)
    model = measure.named_model(str(run), loaders=loaders())
    assert model.layers == ("V1", "V2")
    assert model.name == "small"
    assert model.pixels_per_degree == 28
    pictures = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(model.module(pictures)["V2"], backbone(pictures)["V2"])
    kept = load_file(run / "weights.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.module.state_dict().items())
    state = load_file(run / "state.safetensors")
    prefix = "learner/online.encoder.backbone."
    assert all(torch.equal(state[prefix + name], tensor) for name, tensor in kept.items())


def test_the_untrained_twin_has_the_weights_that_training_starts_from(run):
    names = [str(run), f"untrained:{run}"]
    models = measure.named_models(names, seed=5, loaders=loaders())
    assert list(models) == ["small", "small-untrained-seed5"]
    expected = make_backbone("lcl", seed=5).state_dict()
    found = models["small-untrained-seed5"].module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    pictures = np.random.default_rng(0).integers(0, 256, (3, 60, 60, 3), dtype=np.uint8)
    responses = [activations(model, pictures, size_deg=2.0, layers=["V2"])["V2"] for model in models.values()]
    assert responses[0].shape == responses[1].shape
    assert not np.allclose(*responses)


def test_a_run_of_an_unknown_kind_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="is a run of kind 'method', which cannot be measured"):
        measure.named_model(str(run))
    (tmp_path / "config.json").write_text('{"format": 1, "kind": "recognition", "method": "detcon"}')
    with pytest.raises(ValueError, match="no run of a comparison method"):
        read_method_config(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 1, "kind": "method", "method": "detkon"}')
    with pytest.raises(ValueError, match="is of the method 'detkon'; this version has detcon"):
        load_method(tmp_path)
    assert not is_method_run(tmp_path / "nowhere")


def test_damaged_runs_are_named(run, tmp_path):
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match="go on with `lcl train-method detcon --resume"):
        method_model(tmp_path)
    assert method_model(tmp_path, seed=1).layers == ("V1", "V2")
    weights = load_file(run / "weights.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "V2" not in name},
        tmp_path / "weights.safetensors",
        metadata={"format": "1"},
    )
    with pytest.raises(ValueError, match="do not fit its config"):
        method_model(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"stage": "detcon", "step": 0, "loss": 1.0}\nnot json\n')
    with pytest.raises(ValueError, match="a line that is not JSON"):
        metrics(tmp_path)


def test_show_draws_the_report_again_with_what_other_commands_added(run, capsys):
    (run / "sections").mkdir()
    (run / "sections" / "fit.html").write_text("<section><h2>A fit</h2></section>")
    (run / "report.html").unlink()
    assert main(["show", str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    assert "<h2>A fit</h2>" in (run / "report.html").read_text()
    (run / "sections" / "fit.html").unlink()
    (run / "sections").rmdir()


def test_the_report_of_an_unfinished_run(run, tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_text((run / name).read_text())
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "detc')  # cut off
    assert "Training has not finished." in write_method_report(tmp_path).read_text()
    (tmp_path / "metrics.jsonl").unlink()
    assert "Configuration" in write_method_report(tmp_path).read_text()


def test_the_figure_shows_every_number():
    lines = [
        {"stage": "detcon", "step": step, "position": step, "learning_rate": 0.1, "loss": 3.0 - step, "spread": 0.5}
        for step in range(3)
    ]
    labels = [axes.get_ylabel() for axes in training(lines).axes]
    assert labels == ["loss", "learning rate", "spread"]
    curve, start = training(lines).axes[0].lines
    assert curve.get_ydata().tolist() == [3, 2, 1]
    assert list(start.get_ydata()) == [3, 3, 3]
    told = [line | {"collapsed": 4.0} for line in lines]
    assert list(training(told).axes[0].lines[1].get_ydata()) == [4, 4, 4]


def test_fit_measures_a_method_and_puts_it_into_its_report(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (24, 32, 32), dtype=np.uint8)
    counts = rng.poisson(pictures[:, 14:18, 14:18].mean((1, 2))[:, None, None] / 20, (24, 6, 3))
    recording = recording_from_arrays(counts, images=pictures, size_deg=2.0, name="made")
    write_recording(recording, tmp_path / "made.nc")
    command = ["fit", str(run), f"untrained:{run}", "--data", str(tmp_path / "made.nc"), "--layers", "V1"]
    command += ["--regression", "pls:n_components=2", "--n-folds", "2", "--n-bootstrap", "10", "--no-progress"]
    code = main([*command, "--reduction", "spatial_mean"])
    assert code == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "small V1" in said
    assert "small-untrained-seed0 V1" in said
    report = (run / "report.html").read_text()
    assert "Fit to made" in report
    assert report.startswith("<!DOCTYPE html>")
    assert "detcon" in report
    assert "nearest neighbours" in report


def test_resume_of_a_finished_run_says_so(run, capsys):
    assert main(["train-method", "detcon", "--resume", str(run)]) == 0
    assert "is finished" in capsys.readouterr().out


def test_methods_and_their_presets_are_listed(capsys):
    assert main(["methods"]) == 0
    said = capsys.readouterr().out
    for name, method in METHODS.items():
        assert method.about in said
        assert method.page in said
        for preset, make in PRESETS[name].items():
            assert f"{preset}: {inspect.getdoc(make)}" in said


@pytest.mark.parametrize("name", [None, *METHODS])
def test_help_has_examples(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train-method", *([name] if name else []), "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert f"examples:\n  lcl train-method {name or next(iter(METHODS))}" in said
    if name:
        assert "--batch VALUE" in said
        assert "(toy: " in said


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_toy_of_its_own_settings(name):
    assert "toy" in PRESETS[name]
    for make in PRESETS[name].values():
        assert type(make()) is METHODS[name].config


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ([], "say which method: detcon"),
        (["detkon"], "invalid choice: 'detkon'"),
        (["detcon"], "there are no images; give --images"),
        (["detcon", "--epocs", "3"], "there is no option --epocs; did you mean --epochs?"),
        (["detcon", "--preset", "tiny"], "'tiny' is unknown; did you mean toy?"),
        (["detcon", "--masks", "nowhere", "--images", "builtin", "--no-progress"], "masks is 'nowhere'"),
        (["detcon", "--variant", "C"], "expected one of B, S, not 'C'"),
        (["detcon", "--epochs", "many"], "expected a whole number, not 'many'"),
        (["detcon", "--images", "nowhere"], "nowhere"),
        (["detcon", "--batch", "1"], "batch is 1; expected at least 2"),
        (["detcon", "--device", "abacus"], "device is 'abacus'"),
        (["detcon", "--resume", "nowhere"], "nowhere/config.json does not exist"),
        (["detcon", "--resume", "RUN", "--epochs", "9"], "--epochs cannot be changed on --resume"),
        (["detcon", "--resume", "RUN", "--out", "elsewhere"], "--out cannot be changed on --resume"),
        (["detcon", "--images", "builtin", "--out", "RUN"], "is not empty; choose another --out"),
    ],
)
def test_a_mistake_is_answered_by_one_sentence(arguments, answer, capsys, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in run.iterdir())
    assert answer in refused(capsys, "train-method", *(str(run) if each == "RUN" else each for each in arguments))
    assert not list(tmp_path.iterdir())
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_run_of_another_method_is_not_gone_on_with(run, tmp_path, capsys, monkeypatch):
    other = {**METHODS, "other": METHODS["detcon"]}
    monkeypatch.setattr("vision_methods.methods.METHODS", other)
    monkeypatch.setattr("vision_methods.presets.PRESETS", {**PRESETS, "other": PRESETS["detcon"]})
    said = refused(capsys, "train-method", "other", "--resume", str(run))
    assert "is a run of detcon; go on with `lcl train-method detcon --resume" in said


def test_sigterm_saves_and_the_command_says_how_to_go_on(folder, tmp_path):
    """A signal from outside, to a process of its own."""
    script = (
        "import os, signal, sys\nimport torch\ntorch.set_num_threads(1)\n"
        "from lcl import recognition_train\nfrom lcl.cli import main\n"
        "finite, seen = recognition_train.check_finite, []\n"
        "def stop(*given):\n"
        "    seen.append(given)\n"
        "    if len(seen) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finite(*given)\n"
        "recognition_train.check_finite = stop\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = ["train-method", "detcon", "--images", str(folder), "--out", str(tmp_path / "run"), *SMALL]
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 128 + 15, done.stderr
    assert f"Go on with: lcl train-method detcon --resume {tmp_path / 'run'}" in done.stderr
    assert main(["train-method", "detcon", "--resume", str(tmp_path / "run"), "--no-progress"]) == 0
    assert (tmp_path / "run" / "report.html").exists()
