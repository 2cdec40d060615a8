"""Trained towers tried on pictures with classes and on captions, by the functions and by the commands."""

import json

import numpy as np
import pytest
from PIL import Image

from lcl.cli import main as lcl
from lcl.labelled_images import open_labelled
from vision_methods.captions import of_made
from vision_methods.image_text_config import ImageTextConfig
from vision_methods.image_text_report import match, zero_shot
from vision_methods.image_text_run import load_towers
from vision_methods.made_captions import ATTRIBUTES, made_captions
from vision_methods.train import train_method


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Towers that know colours."""
    config = ImageTextConfig(
        made_pictures=600,
        size_px=16,
        text_width=32,
        text_depth=1,
        text_heads=2,
        vocabulary=300,
        latent_width=32,
        epochs=8,
        batch=25,
        learning_rate=5e-3,
        judge_every=0,
        precision="float32",
        device="cpu",
    )
    folder = tmp_path_factory.mktemp("runs") / "small"
    train_method("siglip", config, folder, progress=False, say=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Pictures in folders by colour, with a table of captions beside."""
    made, folder = made_captions(96, seed=9, size_px=16, noise=0), tmp_path_factory.mktemp("pictures")
    lines = []
    for number, (pixels, caption) in enumerate(zip(made.pictures, made.captions, strict=True)):
        colour = ATTRIBUTES["colour"][made.truth.attributes["colour"][number]]
        (folder / "colours" / colour).mkdir(parents=True, exist_ok=True)
        name = f"colours/{colour}/{number}.png"
        Image.fromarray(pixels).save(folder / name)
        lines.append(json.dumps({"image": name, "caption": caption}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder, made


def test_classes_are_named_by_words(run, corpus):
    images = open_labelled(str(corpus[0] / "colours"))
    model = load_towers(run)
    found = zero_shot(model, images, templates=["two {} plain squares", "a {} ring", "three dotted {} stars"])
    assert found["accuracy"] > 0.5 > 3 * found["chance"]
    assert found["low"] < found["accuracy"] < found["high"]
    for end in ("low", "high"):  # where the accuracy is 1.96 standard errors away
        error = (found[end] * (1 - found[end]) / 96) ** 0.5
        assert abs(found["accuracy"] - found[end]) == pytest.approx(1.96 * error, rel=1e-6)
    assert set(found["classes"]) == set(ATTRIBUTES["colour"])
    sizes = {name: (images.labels == number).sum() for number, name in enumerate(images.classes)}
    mean = sum(found["classes"][name] * size for name, size in sizes.items()) / len(images)
    assert mean == pytest.approx(found["accuracy"])
    turned = zero_shot(model, images, names=list(reversed(images.classes)))
    assert turned["accuracy"] < found["accuracy"]
    with pytest.raises(ValueError, match="1 names are given for 8 classes"):
        zero_shot(model, images, names=["red"])


def test_captions_are_matched_better_than_by_chance(run, corpus):
    found = match(load_towers(run), of_made(corpus[1]), at=(1, 5))
    for name in ("image_to_text_at_5", "text_to_image_at_5"):
        assert found[name] > 2 * found[f"chance_{name}"]
    assert (found["pictures"], found["texts"]) == (96, 96)


def test_commands(run, corpus, tmp_path, capsys):
    folder = corpus[0]
    out = tmp_path / "found.json"
    given = ["--images", str(folder / "colours"), "--templates", "a {} ring", "--no-progress"]
    assert lcl(["zero-shot", str(run), *given, "--out", str(out)]) == 0
    said, kept = capsys.readouterr().out, json.loads(out.read_text())
    assert f"Accuracy on 96 pictures: {kept['accuracy']:.3f}" in said
    assert kept["prompts"] == ["a {} ring"]
    assert (
        lcl(["match", str(run), "--captions", str(folder / "captions.jsonl"), "--at", "1", "3", "--no-progress"]) == 0
    )
    said, kept = capsys.readouterr().out, json.loads((run / "match.json").read_text())
    assert f"image to text, recall at 3: {kept['image_to_text_at_3']:.3f}" in said
    assert np.isfinite(kept["chance_text_to_image_at_1"])


@pytest.mark.parametrize("name", ["zero-shot", "match"])
def test_help_has_examples(name, capsys):
    with pytest.raises(SystemExit):
        lcl([name, "--help"])
    assert f"examples:\n  lcl {name} runs/siglip" in capsys.readouterr().out


def test_mistakes_are_one_sentence(run, corpus, tmp_path, capsys):
    colours = str(corpus[0] / "colours")
    for arguments, message in (
        (["zero-shot", "nowhere", "--images", colours], "nowhere/config.json does not exist"),
        (["zero-shot", str(run), "--images", "nowhere"], "nowhere"),
        (["zero-shot", str(run), "--images", colours, "--templates", "a ring"], "'a ring' has no place for the class"),
        (["zero-shot", str(run), "--images", colours, "--names", "red"], "1 names are given for 8 classes"),
        (["match", str(run), "--captions", "nowhere.json"], "There is no file nowhere.json"),
    ):
        assert lcl([*arguments, "--no-progress"]) == 2
        said = capsys.readouterr().err.strip()
        assert message in said
        assert len(said.splitlines()) == 1
