"""Our models as subjects of Brain-Score, recordings and trials as its benchmarks: its numbers are ours.

Run by ``.ci/brainscore``; skipped where brainscore_vision is not installed.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

os.environ["BS_INSTALL_DEPENDENCIES"] = "no"
pytest.importorskip("brainscore_vision", reason="needs Brain-Score's environment: .ci/brainscore")

from brainscore_vision.model_helpers.activations.pytorch import PytorchWrapper
from brainscore_vision.model_interface import BrainModel

from neural_fits.activations import activations
from neural_fits.baselines import alexnet
from neural_fits.behavior.measures import error_consistency
from neural_fits.behavior.trials import trials_from_columns
from neural_fits.brainscore import (
    behavior_benchmark,
    benchmark,
    brain_model,
    neuron_assembly,
    recording_of,
    stimulus_set,
)
from neural_fits.ceiling import internal_consistency
from neural_fits.fits import fit_features, layer_score
from neural_fits.recordings import recording_from_arrays
from neural_fits.vision_model import VisionModel

#: The grey that Brain-Score puts around pictures.
GREY = 128 / 255


@pytest.fixture(autouse=True)
def own_folders(stored, tmp_path, monkeypatch):
    """Nothing stored at first, and a place for the temporary files of this test alone."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def network(seed=0, channels=3):
    torch.manual_seed(seed)
    layers = [
        torch.nn.Conv2d(channels, 8, 7, stride=4),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(8, 6, 3, stride=2),
    ]
    return VisionModel(
        torch.nn.Sequential(*layers), "small", field_deg=8.0, input_px=64, channels=channels, background=GREY
    )


def pictures(n, side=32, seed=0, colour=True):
    shape = (n, side, side, 3) if colour else (n, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def recorded(n=60, **options):
    """Neurons of V1 that see 4 degrees in 32 px, half of the screen of :func:`network`, and one of V2."""
    images = pictures(n)
    rng = np.random.default_rng(1)
    model = network(seed=9)
    drive = activations(model, images, size_deg=4.0, layers=["1"], reduction="pca:8")["1"]
    drive = drive / drive.std(0)
    rate = np.exp(0.5 * drive @ rng.standard_normal((8, 12)) / np.sqrt(8))
    counts = rng.poisson(3 * rate[:, None], (n, 10, 12)).astype(float)
    counts[4, 3] = np.nan
    return recording_from_arrays(
        counts,
        stimulus={"stimulus_id": [f"p{i}" for i in rng.permutation(n)], "kind": np.where(np.arange(n) % 2, "a", "b")},
        neuron={"region": ["V1"] * 11 + ["V2"], "animal": "m"},
        images=images,
        size_deg=4.0,
        window_ms=(50, 200),
        name="made up",
        **options,
    )


def small_brain(model, **options):
    return brain_model(model, identifier="small", regions={"V1": "1", "V2": "2"}, **options)


def test_a_subject_sees_what_our_extractor_sees(tmp_path):
    """Any size and mode of picture, without a file left behind."""
    model = network()
    subject = small_brain(model)
    images = [
        pictures(1, 64)[0],
        pictures(1, 97, 1)[0],
        pictures(1, 40, 2, colour=False)[0],
        pictures(1, 64, 3)[0, :48],
    ]
    stimuli = stimulus_set({str(i): image for i, image in enumerate(images)}, tmp_path / "files", identifier="four")
    subject.start_recording("V1", time_bins=[(50, 100)])
    theirs = subject.look_at(stimuli)
    assert theirs.dims == ("presentation", "neuroid")
    for row, image in enumerate(images):
        ours = activations(model, image[None], size_deg=8.0, layers=["1"])["1"][0]
        np.testing.assert_allclose(theirs.values[row], ours, rtol=1e-6, atol=1e-6)
    left = {path.name for path in (tmp_path / "temporary").rglob("*") if path.is_file()}
    assert left <= {"probe.png"}  # Brain-Score's own, with which it measures the resolution


def test_regions_are_those_given():
    subject = small_brain(network())
    subject.start_recording("V4", time_bins=[(0, 1)])
    with pytest.raises(KeyError, match="V4"):
        subject.look_at([])
    with pytest.raises(ValueError, match="unknown to Brain-Score"):
        brain_model(network(), identifier="x", regions={"V3": "0"})
    with pytest.raises(ValueError, match="no layer"):
        brain_model(network(), identifier="x", regions={"V1": "7"})


def test_other_weights_under_the_same_name_never_get_stored_activations(tmp_path, stored):
    one, other = network(seed=1), network(seed=2)
    stimuli = stimulus_set({"a": pictures(1, 64)[0]}, tmp_path / "files", identifier="one picture")
    found = []
    for model in (one, other, one):
        subject = small_brain(model)
        assert subject.identifier == "small"
        subject.start_recording("V2", time_bins=[(50, 100)])
        found.append(subject.look_at(stimuli).values)
        np.testing.assert_allclose(
            found[-1][0], activations(model, pictures(1, 64), size_deg=8.0, layers=["2"])["2"][0], rtol=1e-6, atol=1e-6
        )
    assert np.abs(found[0] - found[1]).max() > 0.1
    assert len(list(stored.rglob("*_from_paths_stored/*"))) == 2


def test_brainscores_own_wrapper_would_give_them(tmp_path):
    """What the digest in the name prevents."""
    stimuli = stimulus_set({"a": pictures(1, 64)[0]}, tmp_path / "files", identifier="one picture")
    preprocessing = small_brain(network()).activations_model.preprocess
    found = [
        PytorchWrapper(network(seed).module, preprocessing, identifier="small")(stimuli, layers=["2"]).values
        for seed in (1, 2)
    ]
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="Brain-Score's wrapper uses the GPU, where a copy is made")
def test_on_a_cpu_brainscores_wrapper_returns_rectified_values(tmp_path):
    """A layer before an in-place rectifier: its wrapper shares memory with what the rectifier overwrites."""
    model = network()
    path = tmp_path / "picture.png"
    Image.fromarray(pictures(1, 64)[0]).save(path)
    wrapper = PytorchWrapper(model.module, small_brain(model).activations_model.preprocess, identifier=False)
    theirs = wrapper([str(path)], layers=["0"]).values[0]
    ours = (
        brain_model(model, identifier="x", regions={"V1": "0"}).activations_model([str(path)], layers=["0"]).values[0]
    )
    assert (ours < 0).mean() > 0.2
    assert (theirs < 0).sum() == 0
    np.testing.assert_allclose(theirs, np.maximum(ours, 0), rtol=1e-6, atol=1e-6)


@pytest.mark.shared
def test_alexnet_is_rectified_by_brainscores_wrapper_and_not_by_ours(shared, tmp_path):
    """As torchvision builds it, with its in-place rectifiers; and out of place, where both agree."""
    weights = shared / "models" / "alexnet_imagenet_conv.npz"
    path = tmp_path / "picture.png"
    noise = pictures(1, 28)[0].astype(np.uint8)
    Image.fromarray(noise).resize((224, 224)).save(path)
    layers = ["features.0", "features.3", "features.6"]
    found = {}
    for inplace in (True, False):
        model = alexnet(weights, inplace=inplace)
        subject = brain_model(
            model, identifier="alexnet", regions={"V1": "features.0", "V2": "features.6"}, store=False
        )
        wrapper = PytorchWrapper(model.module, subject.activations_model.preprocess, identifier=False)
        for layer in layers:
            found["ours", inplace, layer] = subject.activations_model([str(path)], layers=[layer]).values
            found["theirs", inplace, layer] = wrapper([str(path)], layers=[layer]).values
    for layer in layers:
        truth = found["ours", False, layer]
        np.testing.assert_allclose(found["ours", True, layer], truth, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["theirs", False, layer], truth, rtol=1e-5, atol=1e-5)
        print(f"\n{layer}: {(truth < 0).mean():.1%} of the values are negative")
        assert (truth < 0).mean() > 0.2
        if not torch.cuda.is_available():
            assert (found["theirs", True, layer] < 0).sum() == 0


@pytest.mark.parametrize("colour", [True, False])
def test_a_recording_becomes_an_assembly_and_comes_back(tmp_path, colour):
    rng = np.random.default_rng(3)
    responses = rng.random((6, 4, 3, 2)).astype(np.float32)
    responses[2, 1] = np.nan
    responses[3, :, 1] = np.nan
    recording = recording_from_arrays(
        responses,
        stimulus={"stimulus_id": list("fabdce"), "family": [1, 1, 2, 2, 3, 3], "contrast": np.linspace(0, 1, 6)},
        neuron={"neuron_id": ["u", "v", "w"], "region": ["V1", "V2", "V1"], "animal": "m", "depth": [1.5, 2.5, 0.0]},
        repeat=[3, 4, 5, 9],
        time_bins_ms=[(0, 50), (50, 100)],
        images=dict(zip("fabdc", pictures(5, colour=colour), strict=True)),
        size_deg=4.0,
        name="toy",
        licence="CC0",
        citation="none",
        source="made up",
        attributes={"n": 3},
    )
    assembly = neuron_assembly(recording, pictures=tmp_path / "pictures")
    assert assembly.attrs["stimulus_set"].get_stimulus("f").is_file()
    back = recording_of(assembly)
    assert back.dataset.equals(recording.dataset)
    assert set(back.dataset.coords) == set(recording.dataset.coords)
    for name, value in recording.dataset.attrs.items():
        np.testing.assert_array_equal(back.dataset.attrs[name], value)
    assert back.responses.dtype == recording.responses.dtype


@pytest.mark.parametrize("stratify", ["kind", None])
def test_a_local_benchmark_scores_as_our_fit(stratify):
    recording, model = recorded(), network(seed=9)
    score = benchmark(recording, "V1", stratify=stratify)(small_brain(model))
    # Averaging over repeats puts Brain-Score's stimuli into the order of their names, and that decides the splits.
    order = np.argsort(recording.labels("stimulus_id"))
    recording = recording.select(neurons=recording.labels("region") == "V1", stimuli=order)
    table = fit_features(
        activations(model, recording.images, size_deg=4.0, layers=["1"]),
        recording,
        regression="pls",
        splits=f"stratified:{stratify}" if stratify else "random",
        split_options={"seed": 1},
        rules=["raw"],
        control=False,
        n_bootstrap=10,
    )
    print(f"\nBrain-Score {float(score):.9f}: raw {float(score.raw):.9f}, ceiling {float(score.ceiling):.9f}")
    assert 0.2 < float(score.raw) < 1
    raw = layer_score(table, "1", "raw").value
    ceiling = internal_consistency(recording.repeats())
    assert raw == pytest.approx(float(score.raw), abs=1e-6)
    assert ceiling == pytest.approx(float(score.ceiling), abs=1e-6)
    assert raw**2 / ceiling == pytest.approx(float(score), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: recording_from_arrays(r.repeats(), neuron={"region": "V1"}), "no pictures"),
        (lambda r: r.select(repeats=[0]), "one repeat"),
        (lambda r: type(r)(r.dataset.assign_attrs(size_deg=np.nan)), "size_deg"),
        (lambda r: type(r)(r.dataset.assign_attrs(window_ms=np.array([np.nan, np.nan]))), "window_ms"),
    ],
)
def test_a_recording_that_lacks_something_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        benchmark(change(recorded(n=12)), "V1")


def observers(n=48, seed=5):
    """Three people who name pictures of three kinds in two conditions."""
    rng = np.random.default_rng(seed)
    kinds = ["car", "cat", "dog"]
    category = rng.choice(kinds, n)
    images = pictures(n, 32, seed)
    images[np.arange(n)] //= 2
    images += np.array([["car", "cat", "dog"].index(c) * 30 for c in category], np.uint8)[:, None, None, None]
    columns = {name: [] for name in ("observer", "image", "condition", "response", "category")}
    hard = rng.random(n) < 0.4
    for person in ("ann", "bob", "cem"):
        for i in range(n):
            wrong = rng.random() < (0.6 if hard[i] else 0.1)
            answer = rng.choice([k for k in kinds if k != category[i]]) if wrong else category[i]
            values = (person, f"im{i}", "noisy" if i % 2 else "clear", answer, category[i])
            for name, value in zip(columns, values, strict=True):
                columns[name].append(str(value))
    trials = trials_from_columns(**columns, name="made up")
    shown = {(f"im{i}", "noisy" if i % 2 else "clear"): images[i] for i in range(n)}
    return trials, shown, images, category


def test_a_local_behaviour_benchmark_scores_as_our_error_consistency():
    trials, shown, images, category = observers()
    rng = np.random.default_rng(8)
    learned = rng.permutation(48)[:30]
    noisy = np.clip(images[learned] + rng.normal(0, 40, images[learned].shape), 0, 255).astype(np.uint8)
    made = behavior_benchmark(trials, shown, size_deg=8.0, fitting=(list(noisy), category[learned]))
    subject = small_brain(network(), readout="2")
    choices = made.choices(subject)
    score = made(subject)
    answered = dict(zip(choices["stimulus_id"].values, choices.values, strict=True))
    kappas = {}
    for person in trials.observer.values:
        for condition in trials.condition.values:
            correct = trials.correct.sel(observer=person, condition=condition)
            ours = [
                float(answered.get(f"{image}|{condition}", "") == kind) if not np.isnan(right) else np.nan
                for image, kind, right in zip(trials.image.values, trials.category.values, correct.values, strict=True)
            ]
            kappas[person, condition] = error_consistency(ours, correct.values, undefined=float("nan"))
            theirs = score.raw.raw.sel(subject=person, condition=condition)
            assert kappas[person, condition] == pytest.approx(float(theirs.values.ravel()[0]), abs=1e-6)
    means = [
        np.mean([kappas[person, condition] for condition in trials.condition.values])
        for person in trials.observer.values
    ]
    assert abs(np.mean(means)) == pytest.approx(float(score.raw), abs=1e-6)
    between = [
        error_consistency(*(trials.correct.sel(observer=o, condition=c).values for o in pair))
        for pair in (("ann", "bob"), ("ann", "cem"), ("bob", "cem"))
        for c in trials.condition.values
    ]
    assert np.mean(between) == pytest.approx(float(score.ceiling), abs=1e-6)
    assert float(score) == pytest.approx(float(score.raw) / float(score.ceiling), abs=1e-9)
    assert len({answer == "dog" for answer in choices.values}) == 2  # the read-out has learned something to differ by
    # Afterwards the subject can be recorded from again.
    subject.start_recording("V1", time_bins=[(50, 100)])


def test_without_fitting_a_subject_needs_logits(tmp_path):
    trials, shown, *_ = observers(n=6)
    made = behavior_benchmark(trials, shown, size_deg=8.0)
    with pytest.raises(ValueError, match="logits"):
        made(small_brain(network()))
    head = torch.nn.Sequential(network().module, torch.nn.Flatten(), torch.nn.LazyLinear(1000))
    model = VisionModel(head, "named", input_px=64, background=GREY)
    head(torch.zeros(1, 3, 64, 64))
    subject = brain_model(model, identifier="named", regions={"V1": "0.1"}, logits="2")
    choices = made.choices(subject)
    assert set(choices.values) <= {"car", "cat", "dog"}
    subject.start_task(BrainModel.Task.passive)


def test_trials_that_not_all_observers_have_are_refused():
    trials, shown, *_ = observers(n=6)
    with pytest.raises(ValueError, match="pictures lack image"):
        behavior_benchmark(trials, dict(list(shown.items())[1:]), size_deg=8.0)
    partial = trials.copy(deep=True)
    partial.correct[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="observer bob has no trial"):
        behavior_benchmark(partial, shown, size_deg=8.0)


def test_the_place_of_temporary_files_is_emptied(tmp_path):
    benchmark(recorded(n=20), "V1")(small_brain(network()))
    left = [path for path in Path(tempfile.gettempdir()).rglob("*") if path.is_file() and path.name != "probe.png"]
    assert left == []
