"""`lcl align` on made cue-conflict pictures whose shape and texture a layer can see, and on real pictures."""

import csv

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from lcl import align
from lcl.align_distortions import condition_of, people_under
from lcl.cli import main
from neural_fits.behavior.categories import CATEGORIES
from neural_fits.behavior.crops import CategoryCrops
from neural_fits.behavior.trials import COLUMNS, read_experiment
from neural_fits.vision_model import VisionModel
from stimuli.distortions import LEVELS

PX = 32


def picture(shape, texture, rng):
    """The place of a square stands for the shape, the colour of the rest for the texture."""
    k, j = CATEGORIES.index(shape), CATEGORIES.index(texture)
    image = np.empty((PX, PX, 3), np.uint8)
    image[:] = [40 + 60 * (j % 4), 40 + 60 * (j // 4), 128]
    row, column = 8 * (k // 4), 8 * (k % 4)
    image[row : row + 8, column : column + 8] = 255
    return np.clip(image + rng.integers(-3, 4, image.shape), 0, 255).astype(np.uint8)


def write_pictures(folder, n=1):
    rng = np.random.default_rng(0)
    for shape in CATEGORIES:
        (folder / shape).mkdir(parents=True)
        for texture in CATEGORIES:
            for i in range(1, n + 1):
                image = picture(shape, texture, rng)
                Image.fromarray(image).save(folder / shape / f"{shape}{i}-{texture}{i}.png")


def write_trials(folder):
    """Two people who name the shape, each wrong at some pictures."""
    rng = np.random.default_rng(1)
    (folder / "cue-conflict").mkdir(parents=True)
    for who in ("subject-01", "subject-02"):
        with (folder / "cue-conflict" / f"cue-conflict_{who}_session_1.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for shape in CATEGORIES:
                for texture in CATEGORIES:
                    said = shape if rng.random() < 0.8 else texture
                    writer.writerow([who, 1, 1, 0.5, said, shape, "0", f"{shape}1-{texture}1.png"])


def training(cue):
    """Pictures that have one of the cues and a random other."""
    rng = np.random.default_rng(2)
    labels = np.repeat(CATEGORIES, 12)
    others = rng.choice(CATEGORIES, len(labels))
    images = [picture(*((a, b) if cue == "shape" else (b, a)), rng) for a, b in zip(labels, others, strict=True)]
    return CategoryCrops(np.stack(images), labels, np.arange(len(labels)).astype(str))


def eye():
    return VisionModel(torch.nn.Identity(), "eye", field_deg=8.0, input_px=PX, channels=3, layers=("output",))


# ridge cannot tell colours apart that lie between others on a grid of colours; the nearest prototype can
@pytest.mark.parametrize(("cue", "readout", "bias"), [("shape", "ridge", 1.0), ("texture", "prototypes", 0.0)])
def test_a_readout_of_one_cue_decides_by_that_cue(tmp_path, cue, readout, bias):
    write_pictures(tmp_path)
    pictures = align.read_cue_pictures(tmp_path)
    layers = {"eye": ["output"]}
    trials, rows = align.cue_trials({"eye": eye()}, layers, pictures, training(cue), readout=readout)
    assert trials.observer.values.tolist() == ["eye output"]
    named = trials.response.values[0, :, 0]
    other = trials.texture.values if cue == "texture" else trials.category.values
    assert (named == other).mean() > 0.9
    assert rows[0]["held_out_accuracy"] > 0.9
    assert rows[0]["features"] == 48
    conflict = trials.category.values != trials.texture.values
    shape, texture = ((named == each)[conflict].sum() for each in (trials.category.values, trials.texture.values))
    assert shape / (shape + texture) == pytest.approx(bias, abs=0.1)


def test_the_command_writes_decisions_that_are_read_again_tables_and_figures(tmp_path, capsys):
    write_pictures(tmp_path / "stimuli")
    write_trials(tmp_path / "raw-data")
    made = training("shape")
    for i, (image, label) in enumerate(zip(made.images, made.category, strict=True)):
        (tmp_path / "train" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "train" / label / f"{i}.png")
    command = ["align", "pixels", "--trials", str(tmp_path / "raw-data"), "--stimuli", str(tmp_path / "stimuli")]
    command += ["--train-images", str(tmp_path / "train"), "--reduction", "pool:4", "--n-resamples", "50"]
    command += ["--decisions", str(tmp_path / "raw-data" / "cue-conflict"), "--no-progress"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "2 people: shape bias" in said
    assert "read-out of 192 pictures" in said
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"alignment.nc", "alignment.csv", "readouts.csv", "report.html", "shape-bias.png", "accuracy.png"} <= written
    again = read_experiment(tmp_path / "out" / "decisions", name="cue-conflict")
    with xr.open_dataset(tmp_path / "out" / "alignment.nc", engine="h5netcdf") as table:
        assert again.observer.values.tolist() == ["pixels pixels"]
        accuracy = table.accuracy.sel(observer="pixels pixels").item()
        assert again.correct.mean().item() == pytest.approx(accuracy)
        assert accuracy > 0.9
        # people set beside themselves agree with themselves
        twin = table.error_consistency.sel(observer="subject-01 (decisions)", person="subject-01").item()
        assert twin == pytest.approx(1.0)


def test_outputs_of_imagenet_are_averaged_within_categories(tmp_path):
    write_pictures(tmp_path)

    class Airliner(torch.nn.Module):
        def forward(self, images):
            logits = torch.zeros(len(images), 1000)
            logits[:, 404] = 9.0
            return {"logits": logits, "few": logits[:, :10]}

    net = VisionModel(Airliner(), "net", input_px=PX, channels=3, layers=("logits",))
    pictures = align.read_cue_pictures(tmp_path)
    trials, rows = align.cue_trials({"net": net}, align.last_layers({"net": net}), pictures, None, readout="imagenet")
    assert set(trials.response.values.ravel()) == {"airplane"}
    assert np.isnan(rows[0]["held_out_accuracy"])
    with pytest.raises(ValueError, match="few of net has 10 outputs; expected the 1,000"):
        align.cue_trials({"net": net}, {"net": ["few"]}, pictures, None, readout="imagenet")


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no cue-conflict picture"):
        align.read_cue_pictures(tmp_path)
    write_pictures(tmp_path / "stimuli")
    write_trials(tmp_path / "raw-data")
    with pytest.raises(ValueError, match="no pictures to be trained on; give --train-images"):
        align.align_cue_conflict({"eye": eye()}, trials=tmp_path / "raw-data", stimuli=tmp_path / "stimuli")
    with pytest.raises(ValueError, match="give models or --decisions"):
        align.align_cue_conflict({}, trials=tmp_path / "raw-data")
    with pytest.raises(ValueError, match="give --stimuli"):
        align.align_cue_conflict({"eye": eye()}, trials=tmp_path / "raw-data")
    for name in ("n01440764", "n02102040"):
        (tmp_path / "other" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "other" / name / "1.png")
    with pytest.raises(ValueError, match="holds the class 'n01440764'"):
        align.training_pictures(str(tmp_path / "other"))


def bright_and_dark(folder, rng, n=12):
    """Two classes that contrast takes away: a bright left or right half."""
    for split, count in (("train", n), ("val", 6)):
        for label in ("left", "right"):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(60, 100, (40, 40, 3)).astype(np.uint8)
                image[:, :20] += np.uint8(100 * (label == "left"))
                image[:, 20:] += np.uint8(100 * (label == "right"))
                Image.fromarray(image).save(folder / split / label / f"{i}.png")


def write_contrast_trials(folder):
    """Two people: right at full contrast, one of them at none too."""
    (folder / "contrast").mkdir(parents=True)
    for who, at_none in (("subject-01", "cat"), ("subject-02", "dog")):
        with (folder / "contrast" / f"contrast_{who}_session_1.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for i in range(4):
                writer.writerow([who, 1, i, 0.5, "cat", "cat", "c100", f"x_y_z_c100_cat_10_cat{i}.png"])
                writer.writerow([who, 1, i, 0.5, at_none, "cat", "c01", f"x_y_z_c01_cat_10_cat{i}.png"])


def test_accuracy_under_distortions_stands_beside_that_of_people(tmp_path, capsys):
    bright_and_dark(tmp_path / "images", np.random.default_rng(0))
    write_contrast_trials(tmp_path / "raw-data")
    command = ["align", "pixels", "--distortions", "contrast,rotation", "--images", str(tmp_path / "images")]
    command += ["--trials", str(tmp_path / "raw-data"), "--readout", "prototypes", "--no-progress"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "clean accuracy 1.000" in said
    assert "error consistency, which asks" in said.replace("\n", " ")
    with (tmp_path / "out" / "distortions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["distortion"], row["level"]): row for row in rows}
    assert float(found["rotation", "180"]["accuracy"]) == 0.0  # left is right, upside down
    full, none = found["contrast", "100"], found["contrast", "1"]
    assert (full["condition"], float(full["accuracy"]), float(full["people_accuracy"])) == ("c100", 1.0, 1.0)
    assert (none["condition"], none["people_accuracy"]) == ("c01", "0.5")
    assert (none["people_low"], none["people_high"]) == ("0.0", "1.0")
    assert found["contrast", "30"]["condition"] == ""
    assert {"distortions.png", "distortions.nc", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["pixels", "--distortions", "blur", "--images", "IMAGES"], "there is no distortion 'blur'"),
        (["pixels", "--distortions", "contrast"], "nothing to distort; give models and --images"),
        (["--distortions", "contrast", "--images", "IMAGES"], "nothing to distort; give models and --images"),
        (["pixels"], "no decisions of people; give --trials"),
        (
            ["pixels", "--distortions", "contrast", "--images", "IMAGES", "--readout", "imagenet"],
            "one of linear, ridge",
        ),
        (["pixels", "--distortions", "colour", "--images", "IMAGES", "--trials", "IMAGES"], "no trials of colour"),
    ],
)
def test_what_cannot_be_distorted_is_said_in_one_sentence(tmp_path, capsys, extra, reason):
    bright_and_dark(tmp_path / "images", np.random.default_rng(0), n=3)
    extra = [str(tmp_path / "images") if part == "IMAGES" else part for part in extra]
    assert main(["align", *extra, "--no-progress", "--out", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.shared
def test_every_level_that_people_saw_has_its_label(shared):
    """All conditions of the twelve experiments are a level of the distortion of that name."""
    people = people_under(shared / "model_vs_human" / "raw-data", LEVELS)
    assert len(people) == 12
    for name, trials in people.items():
        found = {condition_of(level, trials.condition.values.tolist()) for level in LEVELS[name]}
        assert found - {""} == set(trials.condition.values.tolist()), name


@pytest.mark.shared
def test_real_pictures_are_those_of_the_trials(shared):
    folder = shared / "texture_vs_shape" / "stimuli" / "style-transfer-preprocessed-512" / "airplane"
    pictures = align.read_cue_pictures(folder)
    people = align.people_trials(shared / "model_vs_human" / "raw-data", "cue-conflict")
    assert pictures.images.shape == (80, 224, 224, 3)
    assert people.sizes["observer"] == 10
    assert set(pictures.names) == {name for name in people.image.values if name.startswith("airplane")}
