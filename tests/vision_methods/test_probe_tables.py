"""Tables of probes where the answer is known, and `lcl probe` as a user runs it."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from lcl.cli import main
from lcl.labelled_images import open_labelled
from neural_fits.vision_model import VisionModel
from vision_methods import probe_report, probe_tables
from vision_methods.segments import read_instances

PX = 32
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 220)}


def write_classes(folder, n=12):
    """Pictures of one colour each, with noise."""
    rng = np.random.default_rng(0)
    for split, number in (("train", n), ("val", n // 2)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = np.clip(colour + rng.normal(0, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def write_objects(folder, n=10):
    """A coloured rectangle on grey in each photograph; its class is its colour."""
    rng = np.random.default_rng(1)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(n):
        height, width = ((48, 64), (64, 40))[i % 2]
        pixels = np.full((height, width, 3), 128, np.uint8)
        k = i % 3
        top, left = int(rng.integers(4, 16)), int(rng.integers(4, 12))
        bottom, right = top + 24, left + 24
        pixels[top:bottom, left:right] = list(COLOURS.values())[k]
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        split = "train2017" if i < n // 2 else "val2017"
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width, "split": split})
        polygon = [left, top, right, top, right, bottom, left, bottom]
        annotations.append({"image_id": i, "category_id": k, "segmentation": [polygon], "iscrowd": 0})
    categories = [{"id": k, "name": name, "supercategory": "colour"} for k, name in enumerate(COLOURS)]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def eye(name="eye", module=None):
    return VisionModel(module or torch.nn.Identity(), name, input_px=PX, layers=("output",))


def test_colours_are_named_by_a_layer_that_has_them_and_not_by_one_that_has_not(tmp_path):
    folder = write_classes(tmp_path)
    train, held = (open_labelled(str(folder / split)) for split in ("train", "val"))
    blind = VisionModel(lambda x: {"output": torch.rand(len(x), 3, 4, 4)}, "blind", input_px=PX, layers=("output",))
    models, layers = {"eye": eye(), "blind": blind}, {"eye": ["output"], "blind": ["output"]}
    sums, record = probe_tables.classification(models, {}, layers, train, held, n_features=12)
    table = probe_tables.probe_table(sums, record)
    assert record["n_features"] == {"eye output": 12, "blind output": 12}
    score = table.score.sel(weights="given")
    assert (score.sel(row="eye output") == 1).all()
    low, high = table.score_interval.sel(row="blind output", weights="given", measure="linear accuracy").values
    assert low < 1 / 3 < high
    np.testing.assert_allclose(table.reference, 1 / 3)
    assert table.gain.isnull().all()


def test_gains_are_differences_on_the_same_pictures():
    """The two networks are wrong at the same pictures but one: the gain is sure although each accuracy is not."""
    right = np.arange(100) < 50
    other = right.copy()
    other[:10] = False
    row = ("net", "layer")
    ones = np.ones(100)
    sums = {
        (row, "given", "linear accuracy"): np.stack([right, ones], 1),
        (row, "untrained", "linear accuracy"): np.stack([other, ones], 1),
    }
    table = probe_tables.probe_table(sums, {"reference": {"linear accuracy": 0.1}})
    np.testing.assert_allclose(table.gain.values, [[0.1]])
    low, high = table.gain_interval.values[0, 0]
    half = 1.96 * np.sqrt(0.1 * 0.9 / 100)
    np.testing.assert_allclose([low, high], [0.1 - half, 0.1 + half], atol=0.03)
    assert low > 0
    own, twin = table.score_interval.values[0, :, 0]
    assert own[0] < twin[1]  # taken apart, the two intervals overlap


@pytest.mark.parametrize("level", ["category", "foreground"])
def test_objects_are_found_by_a_layer_that_has_their_colours(tmp_path, level):
    images = read_instances(write_objects(tmp_path, 18))
    train, held = images.subset(range(9)), images.subset(range(9, 18))
    grey = eye("grey", _Grey())
    sums, record, examples = probe_tables.segmentation(
        {"eye": eye(), "grey": grey},
        {},
        {"eye": ["output"], "grey": ["output"]},
        train,
        held,
        level=level,
        n_pixels=900,
    )
    table = probe_tables.probe_table(sums, record, n_resamples=100)
    score = table.score.sel(weights="given")
    assert score.sel(row="eye output", measure="mean IoU") > 0.85  # the 32 px of the model blur edges
    assert score.sel(row="eye output", measure="average best overlap") > 0.85
    assert score.sel(row="eye output", measure="object recovery") == 1
    assert score.sel(row="grey output", measure="mean IoU") == table.reference.sel(measure="mean IoU")
    n = 2 if level == "foreground" else 4
    assert record["counted_classes"] == list(range(n))
    assert table.class_iou.shape == (2, 2, n)
    assert record["n_held_out_objects"] == 9
    assert record["mean_proposals"]["eye output"] <= 255
    low, high = table.score_interval.sel(row="eye output", weights="given", measure="mean IoU").values
    assert low <= score.sel(row="eye output", measure="mean IoU") <= high
    assert len(examples) == probe_tables.N_EXAMPLES
    assert examples[0].predicted["eye", "output"].shape == examples[0].truth.shape


class _Grey(torch.nn.Module):
    def forward(self, images):
        return {"output": torch.zeros(len(images), 2, 8, 8)}


def test_other_categories_are_refused(tmp_path):
    images = read_instances(write_objects(tmp_path))
    other = dataclasses.replace(images, categories=("a",))
    with pytest.raises(ValueError, match="other categories"):
        probe_tables.segmentation({}, {}, {}, images, other)


def test_a_page_is_written_with_what_the_tables_say(tmp_path, monkeypatch, capsys):
    classes, objects = write_classes(tmp_path / "classes"), write_objects(tmp_path / "objects")
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom neural_fits.vision_model import VisionModel\n"
        "def small():\n"
        "    torch.manual_seed(0)\n"
        "    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU())\n"
        f"    return VisionModel(net, 'small', input_px={PX}, layers=('1',))\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["probe", "nets:small", "pixels", "--images", str(classes), "--segments", str(objects), "--out", "out"]
    options = ["--n-resamples", "100", "--pixels", "500", "--per-class", "10", "--no-progress"]
    assert main([*arguments, *options]) == 0
    said = capsys.readouterr().out
    assert "small 1, untrained weights: linear accuracy" in said
    out = tmp_path / "out"
    assert {"probes.nc", "probes.csv", "classes.png", "segments.png", "examples.png", "report.html"} <= {
        path.name for path in out.iterdir()
    }
    with (out / "probes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["weights"]) for row in rows] == [
        ("small", "given"),
        ("small", "untrained"),
        ("pixels", "given"),
    ]
    with xr.open_dataset(out / "probes.nc", engine="h5netcdf") as table:
        assert table.attrs["n_train_pictures"] == 30
        assert float(table.score.sel(row="small 1", weights="given", measure="mean IoU")) == float(rows[0]["mean_IoU"])
        assert json.loads(table.attrs["n_features"])["small 1"] == 8 * 22**2
        again = probe_report.write_probes(table.load(), [], tmp_path / "again", command="again")
    assert "n_features.small 1" in again[0]
    assert (tmp_path / "again" / "probes.csv").read_text() == (out / "probes.csv").read_text()
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 3
    assert f"<td>{float(rows[0]['linear_accuracy']):.3f}<small>" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --images FOLDER, --segments FILE, or both"),
        (["--images", "nowhere"], "nowhere"),
        (["--segments", "a.json", "b.json", "c.json"], "3 files"),
    ],
)
def test_mistakes_are_said_in_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["probe", "pixels", "--out", "out", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_figures_have_labels_and_hold_every_layer():
    rows = [("a", "one"), ("a-long-name-of-a-model", "two")]
    measures = ["linear accuracy", "mean IoU", "object recovery"]
    rng = np.random.default_rng(0)
    sums = {}
    for row in rows:
        for weights in probe_tables.WEIGHTS:
            sums[row, weights, "linear accuracy"] = np.stack([rng.random(30) < 0.5, np.ones(30)], 1)
            sums[row, weights, "mean IoU"] = rng.integers(0, 9, (30, 3, 3))
            sums[row, weights, "object recovery"] = np.stack([rng.random(30), rng.random(30) < 0.3, np.ones(30)], 1)
    record = {"reference": dict.fromkeys(measures, 0.1), "segment_classes": ["background", "x", "y"]}
    table = probe_tables.probe_table(sums, record, n_resamples=50)
    figure = probe_report.probe_dots(table, measures)
    assert [axes.get_xlabel() for axes in figure.axes] == [probe_report.LABELS[measure] for measure in measures]
    names = [text.get_text().replace("\n", "") for text in figure.axes[0].get_yticklabels()]
    assert [name.replace(" ", "") for name in names] == ["aone", "a-long-name-of-a-modeltwo"]
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    shown = sorted(float(line.get_xdata()[0]) for line in lines)
    np.testing.assert_allclose(shown, np.sort(table.score.sel(measure=measures[0]).values.ravel()))
    assert len(figure.legends[0].get_texts()) == 5


@pytest.mark.shared
def test_real_pictures_and_objects_end_to_end(shared, tmp_path, monkeypatch):
    everything = json.loads((shared / "coco_mini" / "instances.json").read_text())
    of_split = {s: [i for i in everything["images"] if i["split"] == f"{s}2017"][:8] for s in ("train", "val")}
    everything["images"] = of_split["train"] + of_split["val"]
    kept = {image["id"] for image in everything["images"]}
    everything["annotations"] = [each for each in everything["annotations"] if each["image_id"] in kept]
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(everything))
    pictures = tmp_path / "pictures"
    for split in ("train", "val"):
        for folder in sorted((shared / "imagenette160" / split).iterdir())[:3]:
            (pictures / split / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:12]:
                (pictures / split / folder.name / path.name).symlink_to(path)
    out = tmp_path / "out"
    weights = shared / "models" / "alexnet_imagenet_conv.npz"
    arguments = ["probe", f"alexnet:{weights}", "--layers", "conv5", "--images", str(pictures), "--segments", str(file)]
    options = ["--photos", str(shared / "coco_mini" / "images"), "--pixels", "1500", "--no-progress", "--out", str(out)]
    assert main([*arguments, *options]) == 0
    with xr.open_dataset(out / "probes.nc", engine="h5netcdf") as table:
        gain = table.gain.sel(row="alexnet conv5")
        # trained on ImageNet, of which the ten classes are
        assert float(table.score.sel(row="alexnet conv5", weights="given", measure="linear accuracy")) > 0.8
        assert float(gain.sel(measure="linear accuracy")) > 0.1
        assert 0 < float(table.score.sel(row="alexnet conv5", weights="given", measure="average best overlap")) < 1
        assert table.attrs["n_held_out_photographs"] == 8
