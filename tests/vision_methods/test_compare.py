import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from lcl.cli import main
from lcl.images import open_images
from lcl.labelled_images import LabelledImages
from neural_fits.datasets.v1_published import published_distributions
from neural_fits.fits import fit_layers
from neural_fits.recordings import recording_from_arrays, write_recording
from neural_fits.vision_model import VisionModel
from vision_methods import compare as module
from vision_methods.compare import as_dataset, as_rows, compare, main_row, usable_measurements, write_tables
from vision_methods.compare_measures import (
    MEASUREMENTS,
    MEASURES,
    Measurement,
    Sources,
    cues,
    fit,
    open_sources,
    probed,
    retrieved,
    texture_classes,
    tuned,
)
from vision_methods.compare_models import COMPARISONS, RECIPES, settings, trained
from vision_methods.compare_report import measure_figure, write_comparison


def colour() -> VisionModel:
    """Mean colour over a grid of 4 x 4."""
    return VisionModel(lambda x: {"cells": torch.nn.functional.adaptive_avg_pool2d(x, 4)}, "colour", input_px=32)


@pytest.fixture(scope="module")
def sources() -> Sources:
    """Pictures of two colours, to be told apart by any model that sees colour; and halves of these."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 12)
    pictures = rng.integers(0, 60, (24, 32, 32, 3)).astype(np.uint8)
    pictures[np.arange(24), :, :, labels] += 180
    store = open_images(list(pictures), min_side_px=32)
    images = LabelledImages(store, labels, ("red", "green"))
    halves = np.broadcast_to(np.arange(32) >= 16, (32, 32)).astype(int)
    dense = []
    for _ in range(4):
        picture = rng.integers(0, 60, (32, 32, 3)).astype(np.uint8)
        picture[..., 0][halves == 1] += 180
        dense.append((picture, halves))
    return Sources(
        (images.subset(np.arange(0, 24, 2)), images.subset(np.arange(1, 24, 2))), dense[:2], dense[2:], ("a", "b")
    )


@pytest.fixture
def measurements(monkeypatch):
    """A measurement that counts how often it is made, of the first weight of a model."""
    calls = []

    def measure(model, layers, sources, *, seed, batch_size):
        calls.append(model.name)
        if model.name == "pixels":
            raise RuntimeError("no   weights\nhere")
        return [
            {"measure": "probe", "statistic": "", "layer": layer, "value": i + seed, "low": 0.0, "high": np.nan, "n": 3}
            for i, layer in enumerate(layers)
        ]

    monkeypatch.setattr(module, "MEASUREMENTS", {"one": Measurement("first", ("probe",), measure)})
    for place in ("vision_methods.compare_report.MEASUREMENTS",):
        monkeypatch.setattr(place, module.MEASUREMENTS)
    return calls


def test_only_missing_cells_are_measured_and_a_failing_model_marks_its_own(measurements, sources, tmp_path):
    said = []
    cells = compare(["pixels", "gabor-energy"], tmp_path, sources=sources, say=said.append)
    assert [cell["error"] for cell in cells] == ["RuntimeError: no weights here", ""]
    assert [cell["hit"] for cell in cells] == [False, False]
    assert "failed: RuntimeError: no weights here" in said[0]
    again = compare(["pixels", "gabor-energy", "broken=nothing:here"], tmp_path, sources=sources, say=said.append)
    assert [cell["hit"] for cell in again] == [False, True, False]  # what failed is tried again
    assert measurements == ["pixels", "gabor-energy", "pixels"]
    assert "nothing" in again[2]["error"]
    assert compare(["gabor-energy"], tmp_path, sources=sources, seed=1, say=said.append)[0]["hit"] is False
    file = json.loads((tmp_path / again[1]["file"]).read_text())
    assert file["made_with"]["versions"]["torch"] == torch.__version__


def test_a_cell_is_of_the_weights_and_of_what_is_shown(measurements, sources, tmp_path):
    names = ["one=untrained:lcl-v2-small"]
    first = compare(names, tmp_path, sources=sources, say=lambda line: None)[0]
    other = compare(["one=lcl-v2-small"], tmp_path, sources=sources, say=lambda line: None)[0]
    assert not other["hit"]
    assert first["key"] != other["key"]
    halved = Sources((sources.labelled[1], sources.labelled[0]), sources.prompts, sources.queries, sources.classes)
    assert compare(["one=lcl-v2-small"], tmp_path, sources=halved, say=lambda line: None)[0]["key"] != other["key"]


def test_tables_hold_every_number_and_say_which_stands_in_the_table(measurements, sources, tmp_path):
    cells = compare(["pixels", "gabor-energy"], tmp_path, sources=sources, say=lambda line: None)
    table = write_tables(cells, tmp_path)
    with (tmp_path / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["pixels", *["gabor-energy"] * 3]
    assert [row["layer"] for row in rows if row["in_table"] == "True" and row["value"]] == ["normalised"]
    with xr.open_dataset(tmp_path / "comparison.nc") as read:
        assert read.value.sel(model="gabor-energy", measure="probe").item() == 2.0
        assert np.isnan(read.value.sel(model="pixels", measure="probe").item())
        assert read.error.sel(model="pixels", measure="probe").item() == "RuntimeError: no weights here"
    page = write_comparison(table, cells, tmp_path, names={}, record={"command": "here"}).read_text()
    assert "failed" in page
    assert 'href="cells/one/gabor-energy.json"' in page
    labels = measure_figure(cells, "probe").axes[0]
    assert [text.get_text() for text in labels.get_yticklabels()] == ["pixels", "gabor-energy"]
    assert labels.get_xlabel() == MEASURES["probe"].label


def test_the_layer_of_the_table_is_chosen_by_the_measure_alone():
    rows = [
        {"measure": name, "statistic": text, "layer": layer, "value": value}
        for name in ("v1-fit", "probe")
        for layer, value in (("V1", 0.1), ("V2", 0.9))
        for text in ("", "control")
    ]
    found = {name: main_row(rows, name) or {} for name in ("v1-fit", "probe")}
    assert {name: row["layer"] for name, row in found.items()} == {"v1-fit": "V1", "probe": "V2"}
    assert main_row(rows, "v1-tuning") is None


def test_what_cannot_be_measured_is_refused_before_anything_runs(sources, tmp_path):
    assert "fit" not in usable_measurements(sources)
    with pytest.raises(ValueError, match="give --recording"):
        usable_measurements(sources, ["fit"])
    with pytest.raises(ValueError, match="there is no measurement 'nose'"):
        compare(["pixels"], tmp_path, sources=sources, measurements=["nose"])
    with pytest.raises(ValueError, match="two of the rows"):
        compare(["a=pixels", "a=gabor-energy"], tmp_path, sources=sources)
    with pytest.raises(ValueError, match="belong together"):
        open_sources(trials="somewhere")


def test_the_probe_reads_what_is_there(sources):
    row = probed(colour(), ["cells"], sources, seed=0, batch_size=8)[0]
    assert (row["value"], row["n"], row["reference"]) == (1.0, 12, 0.5)
    assert row["low"] < 1 == row["high"]


def test_retrieval_finds_the_halves_and_refuses_one_channel(sources):
    row = retrieved(colour(), ["cells"], sources, seed=0, batch_size=8)[0]
    # the grid of 4 x 4 has its border where the classes have theirs, but maps are enlarged bilinearly
    assert row["value"] > 0.9
    assert row["reference"] == 0.25  # half of the pixels are of the first class: IoU 1/2, and 0
    grey = VisionModel(lambda x: {"grey": x.mean(1, keepdim=True)}, "grey", input_px=32)
    with pytest.raises(ValueError, match="has one channel"):
        retrieved(grey, ["grey"], sources, seed=0, batch_size=8)


def test_the_mean_similarity_of_tuning_is_that_of_its_distributions(monkeypatch, sources):
    found = [
        {
            "layer": "L",
            "distribution": name,
            "score": score,
            "error": error,
            "low": 0,
            "high": 1,
            "n_units": 5,
            "ceiling": 1,
        }
        for name, score, error in (("a", 0.5, 0.1), ("b", 0.7, 0.1), ("c", 0.9, float("nan")))
    ]
    monkeypatch.setattr("vision_methods.compare_measures.measure_tuning", lambda *a, **k: {})
    monkeypatch.setattr("vision_methods.compare_measures.similarity_rows", lambda tables: found)
    rows = tuned(colour(), ["L"], sources, seed=0, batch_size=8)
    assert [row["statistic"] for row in rows] == ["", "a", "b"]
    assert rows[0]["value"] == pytest.approx(0.6)
    assert rows[0]["high"] - rows[0]["value"] == pytest.approx(1.96 * np.hypot(0.1, 0.1) / 2)
    assert rows[0]["n"] == 2 < len(published_distributions())


def test_a_fit_is_the_rule_that_its_label_says():
    rng = np.random.default_rng(0)
    images = np.kron(rng.integers(0, 255, (200, 8, 8)), np.ones((4, 4))).astype(np.uint8)
    seen = images[:, :4, :4].mean((1, 2)) / 8
    responses = np.stack([seen, -seen], 1)[:, None] + 40 + rng.normal(size=(200, 4, 2))
    recording = recording_from_arrays(responses, images=images, size_deg=8.0)
    pooled = torch.nn.AdaptiveAvgPool2d(8)
    grey = VisionModel(lambda x: {"cells": pooled(x)}, "grey", input_px=32, channels=1)
    sources = dataclasses.replace(open_sources(n_mosaics=2), recording=recording)
    rows = {row["statistic"]: row for row in fit(grey, ["cells"], sources, seed=0, batch_size=8)}
    table = fit_layers(grey, recording, layers=["cells"], rules=["noise_corrected_per_neuron"], seed=0)
    assert rows[""]["value"] == pytest.approx(float(table.score.item()))
    squared = rows["median r"]["value"] ** 2 / float(table.reliability.median())
    assert rows[""]["value"] == pytest.approx(squared, rel=0.1)
    assert abs(rows["median r, re-ordered responses"]["value"]) < 0.5 < rows["median r"]["value"]
    assert rows[""]["n"] == 2


def test_a_recording_of_unknown_size_is_refused_before_anything_runs(tmp_path):
    recording = recording_from_arrays(np.ones((6, 2, 3)), images=np.zeros((6, 8, 8), np.uint8), size_deg=float("nan"))
    write_recording(recording, tmp_path / "r.nc")
    with pytest.raises(ValueError, match="--size-deg"):
        open_sources(recording=str(tmp_path / "r.nc"), n_mosaics=2)
    assert open_sources(recording=str(tmp_path / "r.nc"), size_deg=4.0, n_mosaics=2).size_deg == 4.0


@pytest.mark.shared
def test_cue_conflict_says_how_many_pictures(shared):
    data = shared / "data" if (shared / "data").is_dir() else shared
    sources = open_sources(
        cue_pictures=str(data / "texture_vs_shape/stimuli/style-transfer-preprocessed-512"),
        trials=str(data / "model_vs_human/raw-data"),
        cue_training=str(data / "coco_mini"),
        n_mosaics=2,
    )
    rows = cues(colour(), ["cells"], sources, seed=0, batch_size=64)
    assert [row["measure"] for row in rows] == ["error-consistency", "shape-bias"]
    assert {row["n"] for row in rows} == {1280}
    assert abs(rows[0]["value"]) < 0.15  # mean colours do not err as people do


def test_textures_of_the_package_are_pictures_of_classes_without_overlap():
    train, held = texture_classes()
    assert np.bincount(train.labels).tolist() == [12] * 15
    assert np.bincount(held.labels).tolist() == [8] * 15
    seen = {train.store[i].tobytes() for i in range(len(train))}
    assert not seen & {held.store[i].tobytes() for i in range(len(held))}


def test_every_measurement_fills_measures_that_exist():
    filled = [measure for each in MEASUREMENTS.values() for measure in each.measures]
    assert sorted(filled) == sorted(MEASURES)
    for measure in MEASURES.values():
        assert (Path(__file__).parents[2] / "docs" / measure.page).is_file()
    assert len(COMPARISONS["quick"]) >= 12


def test_recipes_are_settings_that_exist_and_a_budget_is_their_share(tmp_path):
    for recipe in RECIPES.values():
        if recipe.kind in ("stages", "method"):
            config = settings(recipe, images="builtin", seed=3, device="cpu", budget=0.01)
            assert (config.seed, config.images) == (3, "builtin")
        elif recipe.kind == "untrained":
            assert RECIPES[recipe.source].kind in ("stages", "method")
    with pytest.raises(ValueError, match="budget is 0"):
        settings(RECIPES["lcl"], images="builtin", seed=0, device="cpu", budget=0)
    with pytest.raises(ValueError, match="there is no row"):
        trained("no-such", tmp_path)


def test_a_row_is_trained_once_and_other_settings_are_refused(tmp_path):
    said = []
    options = {"budget": 0.004, "device": "cpu", "say": said.append}
    run = trained("moclr", tmp_path, **options)
    assert (Path(run) / "report.html").is_file()
    assert trained("moclr", tmp_path, **options) == run
    assert sum("is trained" in line for line in said) == 1
    with pytest.raises(ValueError, match="was trained with other settings"):
        trained("moclr", tmp_path, **{**options, "budget": 0.02})
    assert trained("gabor-energy", tmp_path) == "gabor-energy"


def test_rows_are_a_cell_each_number():
    cell = {"row": "a", "model": "a", "measurement": "probe", "file": "f", "error": "no.", "rows": []}
    assert as_rows([cell])[0] | {"value": None} == {
        "row": "a",
        "model": "a",
        "measurement": "probe",
        "measure": "probe",
        "in_table": True,
        "file": "f",
        "error": "no.",
        "value": None,
    }
    assert as_dataset([cell]).error.item() == "no."


def test_labels_are_asked_for_and_the_stages_below_are_the_model(tmp_path):
    with pytest.raises(ValueError, match=r"supervised learns from labels; give pictures by class with --images\."):
        trained("supervised", tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(6):
            picture = Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
            picture.save(tmp_path / "pictures" / name / f"{i}.png")
    options = {"labelled": str(tmp_path / "pictures"), "budget": 0.05, "device": "cpu", "say": lambda line: None}
    with pytest.raises(ValueError, match="batch"):
        trained("supervised", tmp_path / "models", **options)


def test_the_command_writes_a_table_and_keeps_what_it_has(tmp_path, capsys):
    given = ["compare", "pixels", "--measurements", "probe", "--out", str(tmp_path / "out"), "--no-progress"]
    assert main(given) == 0
    assert "1 cells in 0.0 minutes: 0 kept, 1 measured, 0 failed." in capsys.readouterr().out
    assert main(given) == 0
    assert "1 kept, 0 measured, 0 failed." in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cells",
        "comparison.csv",
        "comparison.nc",
        "figures",
        "report.html",
    ]
    for wrong, sentence in (
        (["--measurements", "fit"], "fit needs what was not given; give --recording."),
        (["--images", str(tmp_path / "none")], "none"),
    ):
        assert main(["compare", "pixels", *wrong, "--out", str(tmp_path / "other")]) == 2
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "other").exists()
