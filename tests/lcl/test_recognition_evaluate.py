"""Accuracy under distortions: tables and intervals by hand, resuming, and the commands from folders to a page."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from scipy import stats
from torch import nn

from lcl import recognition_compare
from lcl.checkpoint import FORMAT, write_json, write_tensors
from lcl.cli import main
from lcl.figures_recognition import accuracy_by_level
from lcl.recognition_compare import evaluate_runs, runs_below, train_twins, twins
from lcl.recognition_config import RecognitionConfig
from lcl.recognition_evaluate import (
    CHUNK,
    STANDARD,
    condition_rows,
    evaluate,
    image_scores,
    kept,
    seed_interval,
    summary_rows,
    with_runs,
)
from lcl.recognition_report import read_table, write_table
from lcl.stages import Stage, StageChain
from neural_fits.behavior.exclusions import EXCLUSIONS, kept_conditions
from stimuli.distortions import DISTORTIONS, LEVELS


class Brightness(nn.Module):
    """Names class 1 where a picture is brighter than half."""

    def forward(self, pictures):
        mean = pictures.mean((1, 2, 3))
        return torch.stack([torch.full_like(mean, 0.5), mean], 1)


def brighter(images, level, seed):
    return np.clip(images + level, 0, 1)


def seeded(images, level, seed):
    assert images.min() >= 0
    assert images.max() <= 1
    return np.random.default_rng(seed).random(images.shape[:3])


def grey(values):
    return np.tile(np.array(values, np.uint8)[:, None, None, None], (1, 8, 8, 3))


def made(correct, fronts, seeds, levels=("", "50", "5")):
    """A table in which run r is right on picture i in condition c where correct[r, c, i]."""
    correct = np.asarray(correct)
    table = xr.Dataset(
        {
            "predicted": (("run", "condition", "image"), np.where(correct, 0, 1)),
            "label": ("image", [0] * correct.shape[2]),
        },
        {
            "run": [f"{f}{s}" for f, s in zip(fronts, seeds, strict=True)],
            "distortion": ("condition", ["clean"] + ["contrast"] * (len(levels) - 1)),
            "level": ("condition", list(levels)),
        },
    )
    return with_runs(table, fronts, seeds, ["a", "b"])


def test_answers_follow_the_distortion():
    images, labels = grey([20, 100, 140, 230]), np.array([0, 0, 1, 1])
    found = evaluate({"b": Brightness()}, images, labels, distortions={"up": brighter}, levels={"up": (0, 0.2, 1)})
    assert found.distortion.values.tolist() == ["clean", "up", "up", "up"]
    assert found.level.values.tolist() == ["", "0", "0.2", "1"]
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]
    assert found.predicted.values[0].tolist() == expected
    accuracies = [row["accuracy"] for row in condition_rows(with_runs(found, ["b"], [0], ["x", "y"]))]
    assert accuracies == [1, 1, 0.75, 0.5]


def test_a_network_is_shown_what_the_distortion_gives():
    shown = []

    class Watching(nn.Module):
        def forward(self, pictures):
            assert not self.training
            shown.append(pictures.clone())
            return pictures.mean((2, 3))

    images = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3), np.uint8)
    evaluate({"w": Watching()}, images, np.zeros(5), distortions={"contrast": DISTORTIONS["contrast"]}, batch=2)
    assert [len(batch) for batch in shown[:3]] == [2, 2, 1]
    clean = torch.cat(shown[:3]).permute(0, 2, 3, 1).numpy()
    assert np.allclose(clean, images / 255, atol=1e-6)
    fifty = torch.cat(shown[6:9]).numpy()  # after the clean pictures and those of 100 per cent
    luma = images / 255 @ [0.2125, 0.7154, 0.0721]
    for channel in range(3):
        assert np.allclose(fifty[:, channel], 0.5 + 0.5 * (luma - 0.5), atol=1e-6)


def test_chunks_have_random_numbers_of_their_own(monkeypatch):
    seen = []

    def watched(images, level, seed):
        seen.append((len(images), level, seed))
        return seeded(images, level, seed)

    images = np.zeros((CHUNK + 3, 2, 2, 3), np.uint8)
    levels = {"noise": ("a", "b")}
    evaluate({"b": Brightness()}, images, np.zeros(len(images)), distortions={"noise": watched}, levels=levels, seed=7)
    assert seen == [(CHUNK, "a", 7), (3, "a", 8), (CHUNK, "b", 7), (3, "b", 8)]


def test_the_standard_set_is_eight_at_all_levels():
    assert len(STANDARD) == len(set(STANDARD)) == 8
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    found = evaluate({"b": Brightness()}, images, np.array([0, 1]))
    assert found.sizes["condition"] == 1 + sum(len(LEVELS[name]) for name in STANDARD)


def test_mistakes():
    with pytest.raises(ValueError, match="float64 of shape"):
        evaluate({}, np.zeros((2, 4, 4, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="'up' has no levels"):
        evaluate({}, grey([1]), np.zeros(1), distortions={"up": brighter})
    with pytest.raises(ValueError, match="nothing to show"):
        evaluate({}, grey([1]), np.zeros(1), distortions={}, clean=False)
    with pytest.raises(ValueError, match="rule is 'all'"):
        kept("contrast", "5", "all")
    with pytest.raises(ValueError, match="leaves none of 2 conditions"):
        image_scores(made([[[1], [1]]], ["a"], [0], levels=("", "100")))


@pytest.mark.parametrize("rule", ["undistorted", "geirhos2021"])
def test_rules_are_those_of_the_published_exclusions(rule):
    formats = {"contrast": "c{:02d}", "eidolonI": "{}-10-10", "eidolonII": "{}-3-10", "eidolonIII": "{}-0-10"}
    for name in EXCLUSIONS[rule]:
        labels = {formats.get(name, "{}").format(level): str(level) for level in LEVELS[name]}
        expected = [labels[label] for label in kept_conditions(name, labels, rule=rule)]
        assert [level for level in labels.values() if kept(name, level, rule)] == expected
    assert [kept("shear", str(level), rule) for level in LEVELS["shear"]] == [False, True, True, True, True]


def test_ood_is_the_mean_over_distortions_of_the_mean_over_levels():
    table = xr.Dataset(
        {
            "predicted": (("run", "condition", "image"), [[[0, 0], [0, 0], [0, 1], [1, 1], [0, 0]]]),
            "label": ("image", [0, 0]),
        },
        {
            "distortion": ("condition", ["clean", "contrast", "contrast", "contrast", "rotation"]),
            "level": ("condition", ["", "100", "50", "5", "90"]),
        },
    )
    scores = image_scores(table)
    assert scores["ood"].tolist() == [[(0.5 + 1) / 2, (0 + 1) / 2]]
    assert scores["clean"].tolist() == [[1, 1]]


def test_intervals_by_hand():
    rng = np.random.default_rng(0)
    n = 400
    correct = rng.random((6, 3, n)) < np.array([0.6, 0.62, 0.64, 0.5, 0.52, 0.54])[:, None, None]
    table = made(correct, ["a"] * 3 + ["b"] * 3, [0, 1, 2] * 2)
    rows = {(r["front_end"], r["measure"], r["difference_from"]): r for r in summary_rows(table)}
    assert len(rows) == 6
    a, difference = rows["a", "clean", ""], rows["b", "clean", "a"]
    by_seed = correct[:, 0].mean(1)
    low, high = stats.t.interval(0.95, 2, by_seed[:3].mean(), stats.sem(by_seed[:3]))
    assert (a["value"], a["seeds_low"], a["seeds_high"]) == pytest.approx((by_seed[:3].mean(), low, high))
    half = 1.96 * correct[:3, 0].mean(0).std() / n**0.5  # normal approximation of the bootstrap
    assert a["images_high"] - a["images_low"] == pytest.approx(2 * half, rel=0.1)
    paired = by_seed[3:] - by_seed[:3]
    low, high = stats.t.interval(0.95, 2, paired.mean(), stats.sem(paired))
    assert (difference["value"], difference["seeds_low"]) == pytest.approx((paired.mean(), low))
    assert difference["images_low"] < difference["value"] < difference["images_high"] < 0
    single = summary_rows(made(correct[:1], ["a"], [0]))[0]
    assert np.isnan(single["seeds_low"])
    row = condition_rows(table)[0]
    k = by_seed[0]  # Wilson's interval by its formula
    centre, z = (k + 1.96**2 / (2 * n)) / (1 + 1.96**2 / n), 1.96
    half = z / (1 + z**2 / n) * np.sqrt(k * (1 - k) / n + z**2 / (4 * n**2))
    assert (row["low"], row["high"]) == pytest.approx((centre - half, centre + half), abs=1e-4)


def test_the_same_networks_do_not_differ():
    correct = np.random.default_rng(0).random((1, 3, 50)) < 0.5
    rows = summary_rows(made(np.repeat(correct, 4, 0), ["a", "a", "b", "b"], [0, 1, 0, 1]))
    for row in rows[4:]:
        assert [row[key] for key in ("value", "seeds_low", "seeds_high", "images_low", "images_high")] == [0] * 5
    assert seed_interval(np.array([0.3, 0.3])) == (0.3, 0.3)


def test_tables_are_read_as_written(tmp_path):
    table = made(np.ones((1, 3, 4)), ["a"], [0])
    write_table(table, tmp_path / "a.nc")
    xr.testing.assert_identical(read_table(tmp_path / "a.nc"), table)


def test_the_figure_has_a_panel_for_every_distortion():
    rows = [
        {"front_end": f, "seed": s, "distortion": d, "level": level, "accuracy": 0.5 + 0.1 * s, "low": 0.4, "high": 0.6}
        for f in ("lcl", "supervised")
        for s in (0, 1)
        for d, levels in (("clean", [""]), ("contrast", ["100", "5"]), ("rotation", ["0", "90"]))
        for level in levels
    ]
    figure = accuracy_by_level(rows, classes=4)
    assert [axes.get_title() for axes in figure.axes] == ["contrast", "rotation"]
    lines = figure.axes[0].get_lines()
    assert lines[0].get_ydata()[0] == 0.25
    assert lines[1].get_ydata() == pytest.approx([0.55, 0.55])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lcl", "supervised", "chance"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 90), ("light", 160)):
        (place / name).mkdir()
        for i in range(20):
            pixels = np.clip(level + 15 * rng.standard_normal((40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / name / f"{i}.png")
    return place


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    run = tmp_path_factory.mktemp("chains") / "mine"
    run.mkdir()
    generator = torch.Generator().manual_seed(5)
    stages = {
        "V1": Stage(3, 8, kernel=5, stride=2, padding=2, generator=generator),
        "V2": Stage(8, 12, kernel=3, padding=1, generator=generator),
    }
    model = StageChain(stages)
    write_json(run / "config.json", {"format": FORMAT, "model": model.spec})
    write_tensors(run / "weights.safetensors", model.state_dict())
    return run


SETTINGS = ["--size-px", "40", "--short-side-px", "40", "--epochs", "2", "--batch", "8", "--head-channels", "8,8,8"]
SETTINGS += ["--head-pool", "1", "--head-width", "8", "--warmup-epochs", "0", "--log-every", "1", "--device", "cpu"]
SETTINGS += ["--no-progress"]


def test_one_command_from_images_to_a_page(tmp_path, folder, chain, capsys, monkeypatch):
    command = ["recognize", "compare", "--front-ends", f"lcl:{chain}", "supervised", "--images", str(folder)]
    command += ["--seeds", "2", "--out", str(tmp_path / "twins"), "--distortions", "contrast,rotation", *SETTINGS]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "supervised - lcl, ood: " in said
    out = tmp_path / "twins"
    for name in ("results.nc", "conditions.csv", "summary.csv", "accuracy.png", "report.html"):
        assert (out / name).stat().st_size > 0
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["front_end"], row["measure"], row["difference_from"]) for row in rows} == {
        (front, measure, other)
        for front, other in (("lcl", ""), ("supervised", ""), ("supervised", "lcl"))
        for measure in ("clean", "ood")
    }
    assert {row["rule"] for row in rows} == {"", "undistorted"}
    assert {(row["seeds"], row["images"]) for row in rows} == {("2", "8")}
    config = json.loads((out / "supervised" / "seed1" / "config.json").read_text())
    assert config["config"]["front_end"] == f"supervised:{chain}"
    assert config["model"] == json.loads((chain / "config.json").read_text())["model"]
    for run in ("lcl/seed0", "supervised/seed1"):
        assert "Accuracy under distortions" in (out / run / "report.html").read_text()
    # a second call trains and evaluates nothing
    for name in ("train_recognition", "evaluate"):
        monkeypatch.setattr(recognition_compare, name, lambda *given, **named: pytest.fail("computed again"))
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-7:-1] == said.splitlines()[-7:-1]
    # other settings are refused in the same folder
    assert main([*command, "--learning-rate", "0.5"]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


def test_train_and_evaluate(tmp_path, folder, chain, capsys):
    for kind in (f"lcl:{chain}", f"gabor:{chain}"):
        run = tmp_path / kind.partition(":")[0]
        command = ["recognize", "train", "--front-end", kind, "--images", str(folder), "--out", str(run), *SETTINGS]
        assert main(command) == 0
        assert (run / "report.html").is_file()
    assert main(["show", str(tmp_path / "lcl")]) == 0
    assert main(["recognize", "train", "--resume", str(tmp_path / "lcl")]) == 0
    assert "is finished" in capsys.readouterr().out
    runs = [str(tmp_path / "lcl"), str(tmp_path / "gabor")]
    runs += ["--out", str(tmp_path / "evaluated")]
    options = ["--distortions", "contrast", "--rule", "geirhos2021", "--device", "cpu", "--no-progress"]
    assert main(["recognize", "evaluate", *runs, *options]) == 0
    said = capsys.readouterr().out
    assert "gabor - lcl, clean: " in said
    answers = tmp_path / "lcl" / "evaluation"
    before = {file.name: file.stat().st_mtime_ns for file in answers.glob("*.nc")}
    assert set(before) == {"clean.nc", "contrast.nc"}
    # another distortion is shown alone; what was answered stays
    more = ["--distortions", "contrast,rotation", "--device", "cpu", "--no-progress"]
    assert main(["recognize", "evaluate", *runs, *more]) == 0
    after = {file.name: file.stat().st_mtime_ns for file in answers.glob("*.nc")}
    assert set(after) == set(before) | {"rotation.nc"}
    assert (after["clean.nc"], after["contrast.nc"]) == (before["clean.nc"], before["contrast.nc"])
    table = read_table(tmp_path / "lcl" / "evaluation.nc")
    assert list(dict.fromkeys(table.distortion.values)) == ["clean", "contrast", "rotation"]
    # other weights are other answers
    weights = tmp_path / "lcl" / "weights.safetensors"
    weights.write_bytes((tmp_path / "gabor" / "weights.safetensors").read_bytes())
    assert main(["recognize", "evaluate", *runs, *more]) == 0
    same = [read_table(tmp_path / name / "evaluation.nc").predicted.values for name in ("lcl", "gabor")]
    assert np.array_equal(*same)
    assert (tmp_path / "evaluated" / "report.html").is_file()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate"], "say which runs"),
        (["evaluate", "nowhere"], "holds no finished recognition run"),
        (["evaluate", "nowhere", "--epochs", "3"], "--epochs cannot be changed"),
        (["compare", "--images", "x"], "give --front-ends"),
        (["train", "fast"], "expected one of quick, imagenet224"),
        (["train", "--rule", "best"], "rule is 'best'"),
        (["compare", "--front-ends", "lcl", "--out", "x"], "needs the run folder"),
        (["train", "--resume", "nowhere", "--epochs", "3"], "--epochs cannot be changed on --resume"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, capsys, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    assert main(["recognize", *command]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_names_of_twins():
    assert list(twins(["lcl:a/x", "lcl:a/y", "gabor"])) == ["lcl-x", "lcl-y", "gabor"]
    assert twins(["supervised"]) == {"supervised": "supervised"}
    with pytest.raises(ValueError, match="given twice"):
        twins(["supervised", "supervised"])


def test_runs_must_agree(tmp_path, folder, chain):
    config = RecognitionConfig(
        images=str(folder),
        size_px=40,
        epochs=1,
        batch=8,
        head_channels=(4, 4, 4),
        head_pool=1,
        head_width=4,
        device="cpu",
    )
    named = {"seeds": 1, "progress": False, "say": lambda line: None}
    train_twins(config, [f"lcl:{chain}"], tmp_path / "a", **named)
    other = RecognitionConfig.from_dict(config.as_dict() | {"size_px": 48})
    train_twins(other, [f"supervised:{chain}"], tmp_path / "b", **named)
    cells = runs_below([tmp_path / "a", tmp_path / "b"])
    assert sorted(cells.values()) == [("lcl", 0), ("supervised", 0)]
    with pytest.raises(ValueError, match="differ in size_px: 48 and 40"):
        evaluate_runs(cells, distortions=["contrast"])
    with pytest.raises(ValueError, match="there is no distortion 'fog'"):
        evaluate_runs(cells, distortions=["fog"])
    with pytest.raises(ValueError, match="a second run of lcl with seed 0"):
        runs_below([tmp_path / "a", Path(shutil.copytree(tmp_path / "a", tmp_path / "copy"))])
    with pytest.raises(ValueError, match="stages of different shapes"):
        train_twins(config, [f"lcl:{chain}", f"supervised:{_wider(tmp_path)}"], tmp_path / "c", **named)


def _wider(place: Path) -> Path:
    chain = StageChain({"V1": Stage(3, 4, kernel=5)})
    (place / "wider").mkdir()
    write_json(place / "wider" / "config.json", {"format": FORMAT, "model": chain.spec})
    write_tensors(place / "wider" / "weights.safetensors", chain.state_dict())
    return place / "wider"
