"""The two losses against definitions worked by hand, in one and two processes; the towers and their training."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from lcl.cli import main as lcl
from lcl.distributed import gather_over_processes, sum_gradients, sum_over_processes
from vision_methods.backbones import make_backbone
from vision_methods.caption_batches import PairBatches
from vision_methods.captions import of_made
from vision_methods.image_text_config import ImageTextConfig
from vision_methods.image_text_run import load_towers
from vision_methods.image_text_scores import embed_pictures
from vision_methods.made_captions import made_captions
from vision_methods.method_run import load_method, method_model
from vision_methods.presets import PRESETS
from vision_methods.siglip import SigLIP, TwoTowers, build, make_towers, sigmoid_loss, softmax_loss
from vision_methods.text_tower import TextTower, tokenize, train_tokenizer
from vision_methods.train import train_method

SMALL = ImageTextConfig(
    made_pictures=48,
    size_px=16,
    text_width=16,
    text_depth=1,
    text_heads=2,
    vocabulary=300,
    latent_width=8,
    epochs=2,
    batch=16,
    judge_most=20,
    precision="float32",
    device="cpu",
    log_every=1,
    save_every=2,
)
CPU = torch.device("cpu")


def quiet(config, run, **named):
    return train_method("siglip", config, run, progress=False, say=lambda line: None, **named)


def lines(run, stage):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]


# The losses


def unit(rows, width, seed, dtype=torch.float64):
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return F.normalize(drawn, dim=1)


def open_clip_softmax(images, texts, scale):
    """open_clip's ``ClipLoss``: both cross-entropies over the whole batch, halved."""
    per_image, per_text = scale * images @ texts.T, scale * texts @ images.T
    labels = torch.arange(len(images))
    return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2


def open_clip_sigmoid(images, texts, scale, bias):
    """open_clip's ``SigLipLoss``: labels of -1 and 1, sums over all, divided by the pictures."""
    logits = scale * images @ texts.T + bias
    labels = 2 * torch.eye(len(images), dtype=images.dtype) - 1
    return -F.logsigmoid(labels * logits).sum() / len(images)


def big_vision_sigmoid(images, texts, scale, bias):
    """big_vision's ``siglip.py``: the log-likelihood of every entry, summed along rows, averaged over them."""
    similar = images @ texts.T * scale + bias
    own = torch.eye(len(images), dtype=torch.bool)
    probability = torch.where(own, torch.sigmoid(similar), torch.sigmoid(-similar))
    return -probability.log().sum(1).mean()


def by_loops(images, texts, scale, bias):
    """The formula of Zhai et al. 2023 in plain numbers."""
    total = 0.0
    for i, x in enumerate(images.tolist()):
        for j, y in enumerate(texts.tolist()):
            logit = scale * sum(a * b for a, b in zip(x, y, strict=True)) + bias
            total += math.log1p(math.exp(-logit if i == j else logit))
    return total / len(images)


def test_losses_are_those_of_open_clip_and_big_vision():
    for rows, width, scale, bias in ((1, 3, 1.0, 0.5), (7, 5, 10.0, -2.71), (32, 16, 14.3, -10.0)):
        images, texts = unit(rows, width, 0), unit(rows, width, 1)
        found = sigmoid_loss(images, texts, scale=scale, bias=bias)
        for reference in (open_clip_sigmoid, big_vision_sigmoid):
            torch.testing.assert_close(found, reference(images, texts, scale, bias), rtol=1e-12, atol=0)
        assert float(found) == pytest.approx(by_loops(images, texts, scale, bias), rel=1e-12)
        expected = open_clip_softmax(images, texts, scale)
        torch.testing.assert_close(softmax_loss(images, texts, scale=scale), expected, rtol=1e-12, atol=1e-15)


def test_limits_worked_by_hand():
    same = torch.ones(8, 1)
    # All similarities alike: the softmax knows nothing; of the sigmoid, 8 answers yes are right once.
    assert float(softmax_loss(same, same, scale=5.0)) == pytest.approx(math.log(8), rel=1e-6)
    expected = 7 * math.log1p(math.exp(3)) + math.log1p(math.exp(-3))
    assert float(sigmoid_loss(same, same, scale=2.0, bias=1.0)) == pytest.approx(expected, rel=1e-6)
    # At the bias -log(B - 1) and the scale 0, each text is a picture's own with probability 1 / B.
    assert float(torch.sigmoid(torch.tensor(-math.log(7.0)))) == pytest.approx(1 / 8, rel=1e-6)
    far = torch.eye(4)
    assert float(softmax_loss(far, far, scale=1e4)) == 0
    assert float(sigmoid_loss(far, far, scale=2e4, bias=-1e4)) == 0
    assert math.isfinite(float(sigmoid_loss(far, -far, scale=2e4, bias=-1e4)))


@pytest.mark.parametrize("chunk", [1, 3, 4, 9, 10, 11])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_chunks_change_neither_value_nor_gradient(kind, chunk):
    found = []
    for each in (None, chunk):
        images, texts = unit(10, 6, 0).requires_grad_(), unit(10, 6, 1).requires_grad_()
        scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (7.0, -2.0))
        if kind == "softmax":
            loss = softmax_loss(images, texts, scale=scale, chunk=each)
        else:
            loss = sigmoid_loss(images, texts, scale=scale, bias=bias, chunk=each)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in (images, texts, scale, bias) if p.grad is not None)])
    assert len(found[0]) == (4 if kind == "softmax" else 5)
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)


def test_chunks_hold_no_more_than_their_rows():
    """Of what is kept for the way back, nothing has the size of all similarities."""
    images, texts = unit(64, 4, 0).requires_grad_(), unit(64, 4, 1)
    for loss, options in ((softmax_loss, {}), (sigmoid_loss, {"bias": -3.0})):
        for chunk, most in ((None, 64 * 64), (8, 64 * 4)):
            kept = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, k=kept: k.append(t.numel()) or t, lambda t: t):
                loss(images, texts, scale=2.0, chunk=chunk, **options)
            assert max(kept, default=0) == most if chunk is None else max(kept, default=0) <= most


def test_half_precision_is_computed_in_float32():
    images, texts = unit(5, 8, 0).bfloat16(), unit(5, 8, 1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = sigmoid_loss(images, texts, scale=10.0, bias=-2.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, open_clip_sigmoid(images.float(), texts.float(), 10.0, -2.0))


def test_pairs_that_cannot_be_are_named():
    for images, texts in ((torch.ones(2, 3), torch.ones(3, 3)), (torch.ones(2), torch.ones(2))):
        with pytest.raises(ValueError, match="expected floating point of one shape"):
            softmax_loss(images, texts, scale=1.0)
    with pytest.raises(ValueError, match="chunk is 0"):
        sigmoid_loss(torch.ones(2, 3), torch.ones(2, 3), scale=1.0, bias=0.0, chunk=0)


# Towers


def towers(**options):
    text = TextTower(300, length=8, width=12, depth=1, heads=2, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    return TwoTowers(make_backbone("conv4", seed=0), text, latent_width=6, generator=generator, **options)


def test_towers_pool_places_and_give_unit_vectors():
    two = towers(layer="conv3", scale=10.0, bias=-2.0).eval()
    assert two.scale.item() == pytest.approx(10)
    assert two.bias.item() == -2
    images, tokens = torch.rand(3, 3, 32, 32), torch.tensor([[5, 9, 1, 0], [7, 1, 0, 0], [1, 0, 0, 0]])
    with torch.no_grad():
        by_hand = two.image_head(two.image(images)["conv3"].flatten(2).mean(2))
        torch.testing.assert_close(two.picture_vectors(images), by_hand)
        torch.testing.assert_close(two.encode_images(images), by_hand / by_hand.norm(dim=1, keepdim=True))
        assert torch.allclose(two.encode_texts(tokens).norm(dim=1), torch.ones(3))
    with pytest.raises(ValueError, match="layer is 'conv9'; expected one of conv1"):
        towers(layer="conv9")


def test_what_is_trained_has_a_scale_and_a_bias_without_decay():
    two = towers()
    assert two.log_scale.ndim == two.bias.ndim == 0
    names = {name for name, _ in two.named_parameters() if not name.startswith(("image.", "text."))}
    assert names == {"image_head.weight", "text_head.weight", "log_scale", "bias"}


# Training


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    quiet(SMALL, folder)
    return folder


def test_a_run_keeps_both_towers_and_the_tokenizer(run):
    names = {path.name for path in run.iterdir()}
    assert {"towers.safetensors", "tokenizer.json", "weights.safetensors", "state.safetensors"} <= names
    model, (backbone, _) = load_towers(run), load_method(run)
    assert not model.towers.training
    for name, value in backbone.state_dict().items():
        assert torch.equal(model.towers.image.state_dict()[name], value)
    vectors = model.encode_words(["a red circle", "two blue squares"])
    assert vectors.shape == (2, 8)
    again = tokenize(build(SMALL, CPU).tokenizer, ["a red circle"], 9)
    assert torch.equal(again, tokenize(model.tokenizer, ["a red circle"], 9))
    epochs = lines(run, "epoch")
    assert [line["epoch"] for line in epochs] == [0, 1, 2]
    assert {"accuracy", "chance", "number", "colour", "texture", "shape"} <= set(epochs[-1])
    assert epochs[-1]["chance"] == pytest.approx((1 / 4 + 1 / 8 + 1 / 4 + 1 / 6) / 4)
    assert {"loss", "scale", "bias", "cosine"} <= set(lines(run, "siglip")[-1])


def test_of_no_pictures_there_are_no_vectors(run):
    store = of_made(made_captions(3, seed=0, size_px=16)).store
    towers = load_towers(run).towers
    assert embed_pictures(towers, store, np.arange(0), size_px=16).shape == (0, 8)
    assert embed_pictures(towers, store, np.arange(3), size_px=16).shape == (3, 8)


def test_a_run_is_a_model_for_the_other_commands(run):
    model = method_model(run)
    assert model.layers == ("conv1", "conv2", "conv3", "conv4")
    with torch.no_grad():
        assert model.module(torch.rand(1, 3, 224, 224))["conv4"].shape == (1, 128, 28, 28)


def test_a_broken_off_run_goes_on_as_if_it_had_not_been(run, tmp_path):
    class Stop(Exception):
        pass

    learner, seen = build(SMALL, CPU), []
    plain = learner.loss

    def loss(batch):
        if len(seen) == 4:
            raise Stop
        seen.append(batch)
        return plain(batch)

    learner.loss = loss
    with pytest.raises(Stop):
        quiet(SMALL, tmp_path / "run", learner=learner)
    quiet(SMALL, tmp_path / "run", resume=True)
    first, second = (load_towers(each).towers.state_dict() for each in (run, tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_state_of_other_tokens_is_refused(run):
    learner, other = build(SMALL, CPU), build(dataclasses.replace(SMALL, vocabulary=290), CPU)
    with pytest.raises(ValueError, match="tokens of the captions are not those of the state"):
        other.load_state_dict(learner.state_dict())
    learner.load_state_dict(learner.state_dict())


def test_the_softmax_holds_its_scale_and_leaves_the_bias_alone():
    learner = build(dataclasses.replace(SMALL, loss="softmax", start_scale=99.0), CPU)
    loss, numbers = learner.loss(learner.draw(0))
    loss.backward()
    assert learner.online.bias.grad is None
    assert "bias" not in numbers
    with torch.no_grad():
        learner.online.log_scale.add_(1.0)
    learner.after_step(0, 2)
    assert float(learner.online.scale.detach()) == pytest.approx(100.0, rel=1e-5)


def test_frozen_texts_keep_their_weights_and_their_last_layer_learns():
    learner = build(dataclasses.replace(SMALL, freeze_text=True), CPU)
    learner.loss(learner.draw(0))[0].backward()
    assert all(p.grad is None for p in learner.online.text.parameters())
    assert learner.online.text_head.weight.grad.abs().max() > 0


def test_a_short_training_finds_colours(tmp_path):
    config = dataclasses.replace(
        SMALL, made_pictures=600, epochs=8, batch=25, learning_rate=5e-3, judge_every=8, judge_most=200, latent_width=32
    )
    config = dataclasses.replace(config, text_width=32)
    quiet(config, tmp_path / "run")
    first, last = lines(tmp_path / "run", "epoch")[:: len(lines(tmp_path / "run", "epoch")) - 1]
    assert first["colour"] < 0.3
    assert last["colour"] > 0.6


def test_settings_that_cannot_be_are_named(tmp_path):
    for change, message in (
        ({"loss": "hinge"}, "loss"),
        ({"made_noise": 1.5}, "made_noise is 1.5"),
        ({"text_pooling": "max"}, "text_pooling"),
        ({"photometric": "none"}, "photometric is no setting of methods of pictures and texts"),
        ({"chunk": -1}, "chunk is -1"),
        ({"backbone": "vgg"}, "backbone"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SMALL, **change)
    for change, message in (
        ({"images": str(tmp_path / "none.json")}, "There is no file"),
        ({"images": "photos"}, "is no source of captions"),
        ({"validation_images": "a.json"}, "give --images too"),
        ({"layer": "conv9"}, "layer is 'conv9'"),
        ({"text_heads": 3}, "multiple of the heads"),
        ({"vocabulary": 100}, "vocabulary is 100"),
        ({"text_weights": str(tmp_path)}, "tokenizer.json"),
        ({"batch": 64}, "batch is 64, but there are 48"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            build(dataclasses.replace(SMALL, **change), CPU)
    tokenizer, text = train_tokenizer(["a"], 300), TextTower(300, length=8, width=12, depth=1, heads=2)
    with pytest.raises(ValueError, match="reads 8 tokens; lower --length"):
        make_towers(SMALL, tokenizer, text=text)


@pytest.mark.parametrize("name", PRESETS["siglip"])
def test_presets_hold_together(name):
    preset = PRESETS["siglip"][name]()
    if name == "paper":
        assert (preset.batch, preset.size_px, preset.length, preset.first_bias) == (32_768, 256, 64, -10.0)
        assert (preset.backbone, preset.latent_width, preset.text_depth) == ("vit_base16", 768, 12)
    else:
        assert preset.first_bias == pytest.approx(-math.log(preset.batch - 1))


def test_a_run_of_the_command_line(tmp_path, capsys):
    few = ["--made-pictures", "32", "--size-px", "16", "--batch", "8", "--epochs", "1", "--judge-most", "8"]
    small = ["--text-width", "16", "--text-depth", "1", "--vocabulary", "300", "--device", "cpu", "--no-progress"]
    assert lcl(["train-method", "siglip", "--out", str(tmp_path / "run"), *few, *small]) == 0
    assert "32 made pictures" in capsys.readouterr().out
    assert "Accuracy on what was not trained on" in (tmp_path / "run" / "report.html").read_text()


def test_without_the_extra_its_name_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    few = ["--made-pictures", "32", "--size-px", "16", "--out", str(tmp_path / "run")]
    assert lcl(["train-method", "siglip", *few]) == 2
    said = capsys.readouterr().err.strip()
    assert said == 'lcl train-method siglip: Texts need the package tokenizers; run pip install "lcl[text]".'


@pytest.mark.shared
def test_real_captions_can_be_trained_on(shared, tmp_path):
    config = dataclasses.replace(
        SMALL,
        images=str(shared / "coco_mini" / "captions.json"),
        size_px=32,
        short_side_px=40,
        vocabulary=600,
        epochs=2,
        batch=32,
        least_area=0.5,
        mirror=True,
        judge_every=2,
    )
    quiet(config, tmp_path / "run")
    last = lines(tmp_path / "run", "epoch")[-1]
    assert last["chance"] > 0
    assert math.isfinite(lines(tmp_path / "run", "siglip")[-1]["loss"])
    assert load_towers(tmp_path / "run").encode_words(["a dog on a beach"]).shape == (1, 8)


# Two processes


def two_losses():
    """Values and gradients of both losses, where the processes hold 3 and 5 pairs."""
    seen, number = {}, dist.get_rank() if dist.is_initialized() else None
    own = {None: slice(0, 8), 0: slice(0, 3), 1: slice(3, 8)}[number]
    for kind in ("softmax", "sigmoid"):
        for chunk in (None, 2):
            images, texts = (unit(8, 5, seed)[own].requires_grad_() for seed in (0, 1))
            scale, bias = (torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (7.0, -2.0))
            options = {} if kind == "softmax" else {"bias": bias}
            loss = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}[kind]
            share = loss(images, texts, scale=scale, chunk=chunk, **options)
            share.backward()
            sum_gradients([scale, bias])
            name = f"{kind} {chunk}"
            seen[name] = sum_over_processes(share.detach())
            seen |= {f"{name} {k}": gather_over_processes(v.grad) for k, v in (("x", images), ("y", texts))}
            seen |= {f"{name} s": scale.grad} | ({f"{name} b": bias.grad} if kind == "sigmoid" else {})
    return {name: value.numpy() for name, value in seen.items()}


def two_steps():
    """Loss, numbers and gradients of two steps, and what is judged: all that must not depend on the division."""
    made = made_captions(24, seed=0, size_px=16, noise=0.2)
    captions = of_made(made)
    tokenizer = train_tokenizer(captions.flat(), 300)
    tokens, seen = tokenize(tokenizer, captions.flat(), 24), {}
    for kind, steps in (("sigmoid", 2), ("softmax", 1)):
        batches = PairBatches(captions, tokens, batch=8, size_px=16, least_area=0.5, mirror=True, seed=0)
        learner = SigLIP(make_towers(SMALL, tokenizer), batches, tokenizer, loss=kind, chunk=3).double()
        for step in range(steps):
            batch = learner.draw(step)
            loss, numbers = learner.loss(batch._replace(pictures=batch.pictures.double() / 255))
            learner.zero_grad()
            loss.backward()
            sum_gradients(learner.online.parameters())
            for name, value in {"loss": loss, **numbers}.items():
                seen[f"{kind} {step} {name}"] = sum_over_processes(value.detach().double())
            with torch.no_grad():
                for name, parameter in learner.online.named_parameters():
                    if parameter.grad is not None:
                        seen[f"{kind} {step} gradient {name}"] = parameter.grad.clone()
                        parameter.sub_(0.01 * parameter.grad)
    judged = build(SMALL, CPU)
    seen |= {f"judged {name}": torch.tensor(value) for name, value in judged.judge().items()}
    return {name: value.numpy() for name, value in seen.items()}


def everything():
    return two_losses() | two_steps()


def test_two_processes_are_one(assert_two_are_one):
    assert_two_are_one(__file__, everything, atol=1e-9)


def main(folder, number):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    try:
        np.savez(folder / f"{number}.npz", **everything())
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
