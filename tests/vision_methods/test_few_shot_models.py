"""Few-shot accuracies of models and of towers with texts against their own features; the command."""

import csv

import numpy as np
import pytest
import torch

from lcl.cli import main
from neural_fits.vision_model import VisionModel
from vision_methods.few_shot import few_shot_rows
from vision_methods.few_shot_models import EMBEDDING, few_shot_models, made_classes
from vision_methods.image_text_config import LIxPConfig
from vision_methods.image_text_run import load_towers
from vision_methods.image_text_scores import class_vectors
from vision_methods.made_captions import ATTRIBUTES, made_captions, made_prompts
from vision_methods.train import train_method

SMALL = {
    **{"made_pictures": 64, "batch": 16, "epochs": 1, "text_width": 16, "text_depth": 1, "text_heads": 2},
    **{"vocabulary": 300, "length": 20, "latent_width": 8, "precision": "float32", "device": "cpu", "judge_most": 20},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lixp"
    train_method("lixp", LIxPConfig(**SMALL), folder, progress=False, say=lambda line: None)
    return folder


class Colour(torch.nn.Module):
    """The mean colour, which says the class of colours."""

    def forward(self, images):
        return {"mean": images.mean((2, 3), keepdim=True)}


def test_made_classes_are_pictures_that_nobody_trains_on():
    train, held = made_classes("colour", 40, 30)
    assert train.classes == ATTRIBUTES["colour"]
    (again, _), trained = made_classes("shape", 40, 30), made_captions(40, seed=0)
    # Of one seed the pictures are the same, whatever is asked of them.
    pictures, others, judged = (np.stack(list(each.store)) for each in (train, again, held))
    np.testing.assert_array_equal(others, pictures)
    assert not np.array_equal(pictures, trained.pictures)
    assert not np.array_equal(pictures[:30], judged)
    with pytest.raises(ValueError, match="attribute is 'size'"):
        made_classes("size", 4, 4)


def test_features_are_the_models_own(run):
    train, held = made_classes("colour", 120, 60)
    model = VisionModel(Colour(), "colour", input_px=32)
    towers, prompts = load_towers(run), made_prompts("colour", count=2)
    options = {"shots": [1, 4], "seeds": [0, 1]}
    rows, record = few_shot_models(
        {"colour": model}, {"colour": ["mean"]}, {"lixp": towers}, train, held, prompts=prompts, **options
    )
    squares = [torch.from_numpy(np.stack(list(each.store))).float() / 255 for each in (train, held)]
    expected = few_shot_rows(*_sides([each.mean((1, 2)).numpy() for each in squares], train, held), **options)
    found = [row for row in rows if row["model"] == "colour"]
    assert [row["accuracy"] for row in found] == [row["accuracy"] for row in expected]
    with torch.no_grad():
        vectors = [towers.towers.encode_images(each.permute(0, 3, 1, 2)).numpy() for each in squares]
    texts = class_vectors(towers.encode_words, prompts).numpy()
    expected = few_shot_rows(*_sides(vectors, train, held), texts=texts, scale=towers.towers.scale.item(), **options)
    found = [row for row in rows if row["layer"] == EMBEDDING]
    assert [row["accuracy"] for row in found] == pytest.approx([row["accuracy"] for row in expected], abs=0.02)
    assert found[0]["adapter"] == "zero-shot"
    assert record["chance"] == pytest.approx(np.bincount(held.labels).max() / 60)


def _sides(features, train, held):
    return features[0], train.labels, features[1], held.labels


def test_the_command_writes_its_tables(run, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["few-shot", str(run), "--made", "texture", "--shots", "1", "2", "--draws", "2", "--no-progress"]
    assert main([*given, "--layers", "conv4", "--per-class", "10", "--out", str(out)]) in (0, None)
    with (out / "few_shot.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["layer"] for row in rows} == {"conv4", EMBEDDING}
    assert {row["shots"] for row in rows if row["layer"] == "conv4"} == {"1", "2"}
    assert {row["adapter"] for row in rows if row["layer"] == "conv4"} == {
        *("neighbours", "neighbours-softmax", "neighbours-rank", "prototypes", "kernel", "gaussian")
    }
    assert (out / "few_shot.png").exists()
    assert "Few-shot classes" in (out / "report.html").read_text(encoding="utf-8")
    assert "embedding, 2 shots" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give --images FOLDER, or --made ATTRIBUTE"),
        (["--made", "colour", "--images", "x"], "give --images FOLDER, or --made ATTRIBUTE, not both"),
        (["--made", "colour", "--prompts", "a {}"], "--prompts"),
        (["--made", "colour", "--shots", "1000"], "expected at least 1000 shots"),
        (["--made", "colour", "--adapters", "best"], "'best' is unknown"),
    ],
)
def test_what_the_command_refuses(run, tmp_path, capsys, given, message):
    try:
        code = main(["few-shot", str(run), "--out", str(tmp_path / "out"), "--no-progress", *given])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
