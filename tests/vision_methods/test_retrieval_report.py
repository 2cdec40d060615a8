"""`lcl retrieve` on made photographs: numbers by hand, what is written, and what is refused."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from lcl.cli import main
from vision_methods.dense_memory import Retrieval
from vision_methods.dense_retrieval import SegmentedPictures, colour, some_photographs
from vision_methods.retrieval_report import N_EXAMPLES, prediction_panels, retrieval_dots, retrieve_models
from vision_methods.segments import VOID, classes_at, divided, read_instances

GREEN, RED, GREY = (30, 200, 40), (210, 30, 30), (90, 90, 90)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """Six photographs to learn from, six to predict: a red and a green object on grey, a third of the area."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    file = {"images": [], "annotations": [], "categories": []}
    file["categories"] = [
        {"id": 3, "name": "apple", "supercategory": "food"},
        {"id": 9, "name": "tree", "supercategory": "plant"},
        {"id": 10, "name": "car", "supercategory": "vehicle"},
    ]
    for i in range(12):
        pixels = np.full((60, 90, 3), GREY, np.uint8)
        for category, value, first in ((3, RED, 5), (9, GREEN, 50)):
            top, left = rng.integers(5, 25), first + rng.integers(0, 5)
            pixels[top : top + 30, left : left + 30] = value
            corners = [[int(c) for c in (left, top, left + 30, top, left + 30, top + 30, left, top + 30)]]
            file["annotations"].append({"image_id": i, "category_id": category, "segmentation": corners, "iscrowd": 0})
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        split = "train2017" if i < 6 else "val2017"
        file["images"].append({"id": i, "file_name": f"{i}.png", "height": 60, "width": 90, "split": split})
    (folder / "instances.json").write_text(json.dumps(file))
    return folder


def run(*arguments):
    return main([str(each) for each in arguments])


def test_classes_that_no_query_has_do_not_count(annotated):
    images = read_instances(annotated)
    names, class_of = classes_at(images, "category")
    prompts, queries = (SegmentedPictures(part, class_of) for part in divided(images))
    models = {"colour": colour(64)}
    retrieval = Retrieval(augmentations=0)
    lines = []
    rows, record, examples = retrieve_models(
        models, {"colour": ["colour"]}, prompts, queries, classes=names, retrieval=retrieval, say=lines.append
    )
    assert record["classes"] == ["background", "apple", "tree", "car"]
    assert record["classes that count"] == ["background", "apple", "tree"]
    # The background at every pixel: its IoU is its share of the area, the others' is 0; 1800 of 5400 px are objects.
    assert record["reference"] == pytest.approx((1 - 1800 / 5400) / 3)
    (row,) = rows
    assert 0.9 < row["mean_iou"] <= row["ceiling"] + 0.01
    assert row["mean_iou_low"] <= row["mean_iou"] <= row["mean_iou_high"]
    iou = json.loads(row["class_iou"])
    assert np.mean(iou[:3]) == pytest.approx(row["mean_iou"], abs=1e-5)
    assert iou[3] is None
    assert (row["rows"], row["columns"], row["channels"], row["entries"]) == (28, 28, 3, 6 * 784)
    assert len(examples["colour", "colour"]) == N_EXAMPLES
    assert "mean IoU 0.9" in lines[0]


def test_a_table_figures_and_a_page_are_written(annotated, tmp_path, capsys):
    arguments = ("retrieve", "vision_methods.dense_retrieval:colour", "gabor-energy", "--layers", "colour", "complex")
    arguments += ("--prompts", annotated, "--side", 14, "--n-prompts", 4, "--setting", "low-data", "--neighbours", 20)
    arguments += ("--augmentations", 1, "--n-resamples", 50, "--out", tmp_path / "out", "--no-progress")
    assert run(*arguments) == 0
    said = capsys.readouterr().out
    assert "colour colour: mean IoU" in said
    record = json.loads((tmp_path / "out" / "retrieval.json").read_text())
    assert (record["neighbours"], record["temperature"], record["augmentations"]) == (20, 0.1, 1)
    assert (record["capacity"], record["prompts"], record["queries"], record["seed"]) == (20_480_000, 4, 6, 0)
    assert (record["setting"], record["level"]) == ("low-data", "supercategory")
    assert record["classes that count"] == ["background", "food", "plant"]
    with (tmp_path / "out" / "retrieval.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == ["colour", "complex"]
    assert float(rows[0]["mean_iou"]) > 0.8 > float(rows[1]["mean_iou"])
    for name in ("retrieval.png", "predictions.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert min(image.size) > 200
    page = (tmp_path / "out" / "report.html").read_text()
    for text in ("Dense retrieval", "colour colour", "temperature", "classes that count", "14 × 14"):
        assert text in page


def test_queries_of_another_file(annotated, tmp_path):
    common = ("retrieve", "vision_methods.dense_retrieval:colour", "--prompts", annotated, "--side", 7, "--no-progress")
    common += ("--n-resamples", 20, "--augmentations", 0, "--level", "foreground")
    assert run(*common, "--queries", annotated, "--out", tmp_path / "both") == 0
    record = json.loads((tmp_path / "both" / "retrieval.json").read_text())
    assert (record["prompts"], record["queries"], record["classes"]) == (12, 12, ["background", "object"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--n-prompts", "7"], "7 of 6 photographs are asked for"),
        (["--neighbours", "0"], "neighbours is 0"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--layers", "conv1"], "no layer 'conv1'"),
        (["--prompts", "nowhere.json"], "nowhere.json"),
    ],
)
def test_mistakes_are_said_in_a_sentence(annotated, tmp_path, capsys, change, message):
    arguments = ("retrieve", "vision_methods.dense_retrieval:colour", "--prompts", annotated, "--out", tmp_path / "out")
    assert run(*arguments, "--no-progress", *change) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_categories_that_differ_are_refused(annotated, tmp_path, capsys):
    file = json.loads((annotated / "instances.json").read_text())
    file["categories"][0]["name"] = "pear"
    other = annotated / "other.json"
    other.write_text(json.dumps(file))
    arguments = ("retrieve", "vision_methods.dense_retrieval:colour", "--prompts", annotated, "--queries", other)
    assert run(*arguments, "--out", tmp_path / "out") == 2
    assert "different categories" in capsys.readouterr().err


def test_photographs_are_drawn_by_the_seed(annotated):
    images = read_instances(annotated)
    drawn = some_photographs(images, 5, seed=1)
    assert drawn.paths == some_photographs(images, 5, seed=1).paths != some_photographs(images, 5, seed=2).paths
    assert list(drawn.paths) == [path for path in images.paths if path in drawn.paths]


def test_figures_show_every_class_and_void():
    truth = np.array([[0, 1, 2, VOID]]).repeat(4, 0)
    queries = [(np.zeros((4, 4, 3), np.uint8), truth)]
    figure = prediction_panels(queries, {"model layer": {0: np.zeros((4, 4), int)}}, ["background", "a", "b$"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["background", "a", "b\\$", "void"]
    assert [axes.get_title() for axes in figure.axes] == ["photograph", "annotated", "model layer"]
    with pytest.raises(ValueError, match="no predictions"):
        prediction_panels(queries, {}, ["background"])
    row = {"model": "m", "layer": "l", "mean_iou": 0.5, "mean_iou_low": 0.4, "mean_iou_high": 0.6}
    assert retrieval_dots([row], 0.2, confidence=0.9).legends[0].get_texts()[0].get_text().startswith("90 %")
