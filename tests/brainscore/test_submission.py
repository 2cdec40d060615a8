"""A trained run, exported, registered as a plugin, checked by Brain-Score and scored with our numbers.

Run by ``.ci/brainscore``; skipped where brainscore_vision is not installed.
"""

import importlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("brainscore_vision", reason="needs Brain-Score's environment: .ci/brainscore")

import brainscore_vision.models
from brainscore_vision.model_interface import BrainModel

import lcl
from lcl.config import Config
from lcl.submit import check_plugin, submitted, write_plugin
from lcl.train import build, open_store, train
from neural_fits.activations import activations
from neural_fits.behavior.measures import error_consistency
from neural_fits.behavior.trials import trials_from_columns
from neural_fits.brainscore import behavior_benchmark, benchmark, stimulus_set
from neural_fits.ceiling import internal_consistency
from neural_fits.fits import fit_features, layer_score
from neural_fits.recordings import recording_from_arrays
from neural_fits.vision_model import VisionModel

IDENTIFIER = "lcl-v2-quick.test"


def trained(run, seed=0):
    """A run of `quick`, cut short."""
    config = Config(steps=(20, 5), seed=seed, device="cpu", short_side_px=160)
    train(config, run, store=open_store(config, build(config), progress=False), preset="quick", progress=False)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "quick")


@pytest.fixture(scope="module")
def plugin(run, tmp_path_factory):
    return exported(run, tmp_path_factory.mktemp("plugins") / "lcl_v2_quick")


def exported(run, out):
    url = (run / "weights.safetensors").resolve().as_uri()
    return write_plugin(run, out, identifier=IDENTIFIER, weights_url=url)


@pytest.fixture
def subject_of(monkeypatch, stored):
    """Function from a plugin's folder to its model, registered as Brain-Score does it: by importing the package."""

    def load(folder):
        package = f"brainscore_vision.models.{folder.name}"
        monkeypatch.setattr(brainscore_vision.models, "__path__", [str(folder.parent)])
        for name in [name for name in sys.modules if name.startswith(package)]:
            monkeypatch.delitem(sys.modules, name)
        importlib.import_module(package)
        return brainscore_vision.model_registry.pop(IDENTIFIER)()

    return load


def our_model(run):
    """The run as ``lcl fit`` sees it, but on the grey that Brain-Score puts around pictures."""
    chain = lcl.load(run)
    return VisionModel(chain, "run", field_deg=8.0, input_px=224, background=128 / 255, layers=tuple(chain.names))


def test_brainscores_own_checks_and_tests_pass(plugin, capfd):
    check_plugin(plugin, python=sys.executable)
    said = capfd.readouterr().out.splitlines()
    assert sum(line.startswith("passed: ") for line in said) == 5
    assert any("brainscore-vision" in line for line in said if line.startswith("environment: "))


def test_a_plugin_whose_weights_are_others_does_not_pass(run, tmp_path, capfd):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((run / "weights.safetensors").read_bytes())
    out = write_plugin(run, tmp_path / "broken", identifier=IDENTIFIER, weights_url=weights.as_uri())
    weights.write_bytes(b"others")
    with pytest.raises(ValueError, match="the plugin's own tests"):
        check_plugin(out, python=sys.executable)
    assert "put the right weights there" in capfd.readouterr().out


def test_its_activations_are_ours(run, plugin, subject_of, tmp_path):
    subject = subject_of(plugin)
    assert subject.identifier == IDENTIFIER
    assert subject.visual_degrees() == 8
    shapes = [(224, 224, 3), (180, 240, 3), (90, 90)]
    pictures = [np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8) for i, shape in enumerate(shapes)]
    stimuli = stimulus_set({str(i): each for i, each in enumerate(pictures)}, tmp_path / "files", identifier="three")
    model = submitted(run).vision_model
    for region in ("V1", "V2"):
        subject.start_recording(region, time_bins=[(50, 200)])
        theirs = subject.look_at(stimuli)
        for row, picture in enumerate(pictures):
            ours = activations(model, picture[None], size_deg=8.0, layers=[f"stages.{region}"])[f"stages.{region}"][0]
            np.testing.assert_allclose(theirs.values[row], ours, rtol=1e-6, atol=1e-6)


def test_exports_of_other_weights_under_the_same_name_never_share_activations(
    run, plugin, subject_of, stored, tmp_path
):
    other = exported(trained(tmp_path / "other-run", seed=1), tmp_path / "lcl_v2_other")
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    stimuli = stimulus_set({"a": picture}, tmp_path / "files", identifier="one picture")
    found = []
    for folder, source in ((plugin, run), (other, tmp_path / "other-run"), (plugin, run)):
        subject = subject_of(folder)
        subject.start_recording("V1", time_bins=[(50, 200)])
        found.append(subject.look_at(stimuli).values[0])
        ours = activations(our_model(source), picture[None], size_deg=8.0, layers=["V1"])["V1"][0]
        np.testing.assert_allclose(found[-1], ours, rtol=1e-6, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0.1
    assert len(list(stored.rglob(f"*_from_paths_stored/identifier={IDENTIFIER}-*"))) == 2


def patches(n, seed=0):
    """Smoothed noise, 112 px: 4 degrees of the 8 that 224 px cover, so that nothing is resized."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 14, 14, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((112, 112), Image.Resampling.BICUBIC)) for each in coarse])


@pytest.fixture(scope="module")
def recording(run):
    """Neurons that read a few components of V1 responses, with Poisson noise."""
    n, rng, images = 64, np.random.default_rng(1), patches(64)
    drive = activations(our_model(run), images, size_deg=4.0, layers=["V1"], reduction="pca:6")["V1"]
    drive = drive / drive.std(0)
    rate = 3 * np.exp(0.5 * drive @ rng.standard_normal((6, 8)) / np.sqrt(6))
    return recording_from_arrays(
        rng.poisson(rate[:, None], (n, 12, 8)),
        stimulus={"stimulus_id": [f"p{i:02d}" for i in range(n)], "texture_type": ["noise", "texture"] * (n // 2)},
        neuron={"region": "V1", "animal": "made up"},
        images=images,
        size_deg=4.0,
        window_ms=(50, 200),
        name="made up",
    )


def test_its_score_on_a_local_v1_benchmark_is_our_fit(run, plugin, subject_of, recording):
    score = benchmark(recording, "V1", stratify="texture_type")(subject_of(plugin))
    table = fit_features(
        activations(our_model(run), recording.images, size_deg=4.0, layers=["V1"]),
        recording,
        regression="pls",
        splits="stratified:texture_type",
        split_options={"seed": 1},
        rules=["raw"],
        control=False,
        n_bootstrap=10,
    )
    raw, ceiling = layer_score(table, "V1", "raw").value, internal_consistency(recording.repeats())
    print(f"\nBrain-Score {float(score):.9f}; ours: raw r {raw:.9f}, ceiling {ceiling:.9f}, {raw**2 / ceiling:.9f}")
    assert 0.2 < raw < 1
    assert float(score.raw) == pytest.approx(raw, abs=1e-6)
    assert float(score.ceiling) == pytest.approx(ceiling, abs=1e-6)
    assert float(score) == pytest.approx(raw**2 / ceiling, abs=1e-6)


def test_its_score_on_a_local_behaviour_benchmark_is_our_error_consistency(plugin, subject_of):
    rng = np.random.default_rng(4)
    kinds, n = ["car", "cat", "dog"], 36
    category = np.array(kinds * (n // 3))
    images = patches(n, seed=5) // 3
    images += np.array([kinds.index(kind) * 50 for kind in category], np.uint8)[:, None, None, None]
    condition = ["clear" if i % 2 else "noisy" for i in range(n)]
    hard = rng.random(n) < 0.4
    columns = {name: [] for name in ("observer", "image", "condition", "response", "category")}
    for person in ("ann", "bob", "cem"):
        for i in range(n):
            right = rng.random() > (0.6 if hard[i] else 0.1)
            answer = category[i] if right else rng.choice([kind for kind in kinds if kind != category[i]])
            row = (person, f"im{i:02d}", condition[i], str(answer), str(category[i]))
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
    trials = trials_from_columns(**columns, name="made up")
    shown = {(f"im{i:02d}", condition[i]): images[i] for i in range(n)}
    fitting = np.clip(images + rng.normal(0, 60, images.shape), 0, 255).astype(np.uint8)
    made = behavior_benchmark(trials, shown, size_deg=4.0, fitting=(list(fitting[:24]), category[:24]))
    subject = subject_of(plugin)
    choices, score = made.choices(subject), made(subject)
    answered = dict(zip(choices["stimulus_id"].values, choices.values, strict=True))
    correct = np.array([answered[f"im{i:02d}|{condition[i]}"] == category[i] for i in range(n)], float)
    assert 0.34 < correct.mean() < 1  # it has learned, and errs
    kappas = [
        error_consistency(
            np.where(np.array(condition) == level, correct, np.nan),
            trials.correct.sel(observer=person, condition=level).values,
            undefined=float("nan"),
        )
        for person in trials.observer.values
        for level in trials.condition.values
    ]
    print(f"\nBrain-Score {float(score.raw):.9f}, ours {abs(np.mean(kappas)):.9f}")
    assert abs(np.mean(kappas)) == pytest.approx(float(score.raw), abs=1e-6)
    people = trials.correct
    between = [
        error_consistency(
            people.sel(observer=a, condition=level).values, people.sel(observer=b, condition=level).values
        )
        for a, b in (("ann", "bob"), ("ann", "cem"), ("bob", "cem"))
        for level in trials.condition.values
    ]
    assert np.mean(between) == pytest.approx(float(score.ceiling), abs=1e-6)
    assert float(score) == pytest.approx(float(score.raw) / float(score.ceiling), abs=1e-9)
    subject.start_task(BrainModel.Task.passive)


def test_no_picture_is_left_behind(plugin, subject_of, recording, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    benchmark(recording.select(stimuli=slice(0, 30)), "V1")(subject_of(plugin))
    left = [path for path in Path(tmp_path).rglob("*") if path.is_file() and path.name != "probe.png"]
    assert left == []
