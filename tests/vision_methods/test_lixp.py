"""The contextualised loss against its formula written out, its limits, and two processes; the learner."""

import json
import math
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lcl import distributed
from lcl.train import Interrupted
from vision_methods.image_text_config import CONTEXT_PATHS, ImageTextConfig, LIxPConfig
from vision_methods.image_text_run import load_towers
from vision_methods.lixp import attention_weights, build, contextualised, lixp_loss
from vision_methods.method_run import load_method
from vision_methods.siglip import build as base
from vision_methods.siglip import sigmoid_loss, softmax_loss
from vision_methods.train import train_method

GOLDEN = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]], dtype=torch.float64)


def drawn(rows, width, seed, dtype=torch.float64):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def numbers(*values):
    return [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]


def by_loops(images, temperature):
    """The formula of the paper in plain numbers: keys of unit length, values as they are, nothing from oneself."""
    rows, width = images.tolist(), images.shape[1]
    unit = [[v / math.sqrt(sum(a * a for a in row)) for v in row] for row in rows]
    found = []
    for i in range(len(rows)):
        of = {j: sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) for j in range(len(rows)) if j != i}
        terms = {j: math.exp(each / (temperature * math.sqrt(width))) for j, each in of.items()}
        total = sum(terms.values())
        found.append([sum(terms[j] / total * rows[j][k] for j in terms) for k in range(width)])
    return torch.tensor(found, dtype=torch.float64)


def test_golden_attention():
    weights = attention_weights(GOLDEN, temperature=1.0)
    expected = [(0, 0.395497, 0.604503), (0.362233, 0, 0.637767), (0.464703, 0.535297, 0)]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)
    expected = [(1.813509, 2.813509), (2.637767, 2.551068), (0.929407, 0.535297)]
    found = contextualised(GOLDEN, temperature=1.0)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-6)


def test_attention_is_the_formula_written_out():
    images = drawn(9, 5, 0) * torch.arange(1.0, 10)[:, None]
    for temperature in (0.02, 0.3, 5.0):
        expected = by_loops(images, temperature)
        torch.testing.assert_close(contextualised(images, temperature=temperature), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 50])
@pytest.mark.parametrize("temperature", [1e-6, 0.01, 1.0, 1e6])
def test_rows_sum_to_one_and_none_is_its_own(n, temperature):
    weights = attention_weights(drawn(n, 7, 1), temperature=temperature)
    assert (weights.diagonal() == 0).all()
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(n, dtype=torch.float64))


def test_one_picture_alone_is_refused():
    for call in (
        lambda one: attention_weights(one, temperature=1.0),
        lambda one: contextualised(one, temperature=1.0),
        lambda one: lixp_loss(one, one, alpha=0.9, scale=1.0, context_scale=1.0, context_temperature=1.0),
    ):
        with pytest.raises(ValueError, match="single picture, with no other"):
            call(torch.ones(1, 4))
    torch.testing.assert_close(contextualised(torch.ones(1, 4), temperature=1.0, self_mask=False), torch.ones(1, 4))


def test_of_two_each_is_the_other():
    images = drawn(2, 6, 0)
    for temperature in (1e-5, 0.7, 1e5):
        assert torch.equal(contextualised(images, temperature=temperature), images.flip(0))


def test_limits_of_the_temperature():
    images = drawn(12, 6, 2)
    others = (images.sum(0) - images) / 11
    torch.testing.assert_close(contextualised(images, temperature=1e9), others)
    cosines = F.normalize(images, dim=1) @ F.normalize(images, dim=1).T
    nearest = images[cosines.fill_diagonal_(-2).argmax(1)]
    torch.testing.assert_close(contextualised(images, temperature=1e-7), nearest)


def test_a_copy_is_read_from():
    images = drawn(8, 6, 3)
    images[5] = images[2]
    weights = attention_weights(images, temperature=1e-6)
    assert weights[2, 5] == 1
    assert weights[5, 2] == 1
    assert weights[2, 2] == 0


def test_order_of_the_batch_does_not_matter():
    images, texts, order = drawn(10, 6, 0), F.normalize(drawn(10, 6, 1), dim=1), torch.randperm(10)
    read = contextualised(images, temperature=0.2)
    torch.testing.assert_close(contextualised(images[order], temperature=0.2), read[order])
    for biases in ({}, {"bias": -2.0, "context_bias": -1.0}):
        options = {"alpha": 0.6, "scale": 5.0, "context_scale": 3.0, "context_temperature": 0.2, **biases}
        found = lixp_loss(images[order], texts[order], **options).total
        torch.testing.assert_close(found, lixp_loss(images, texts, **options).total)


def test_length_scales_what_is_read_and_not_how_much():
    images = drawn(6, 4, 0)
    longer = images.clone()
    longer[3] *= 7
    weights = attention_weights(images, temperature=0.3)
    torch.testing.assert_close(attention_weights(longer, temperature=0.3), weights)
    change = contextualised(longer, temperature=0.3) - contextualised(images, temperature=0.3)
    torch.testing.assert_close(change, 6 * weights[:, 3:4] * images[3])


def test_temperature_at_which_attention_selects():
    unit = F.normalize(drawn(256, 768, 0), dim=1)
    found = []
    for temperature in (1.0, 0.1, 0.01, 0.001):
        weights = attention_weights(unit, temperature=temperature)
        found.append(float(-torch.xlogy(weights, weights).sum(1).mean()))
    assert found[:3] == pytest.approx([5.541, 5.541, 5.533], abs=1e-3)
    assert found[3] == pytest.approx(4.7, abs=0.1)
    assert max(found) <= math.log(255)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_total_is_both_losses_written_out(sigmoid):
    images, texts = drawn(7, 5, 0), F.normalize(drawn(7, 5, 1), dim=1)
    biases = {"bias": -1.5, "context_bias": -0.5} if sigmoid else {}
    found = lixp_loss(images, texts, alpha=0.8, scale=4.0, context_scale=2.0, context_temperature=0.1, **biases)
    unit, read = F.normalize(images, dim=1), F.normalize(by_loops(images, 0.1), dim=1)
    if sigmoid:
        sign, expected = 2 * torch.eye(7, dtype=torch.float64) - 1, []
        for each, scale, bias in ((unit, 4.0, -1.5), (read, 2.0, -0.5)):
            expected.append(torch.log1p(torch.exp(-sign * (scale * each @ texts.T + bias))).sum(1).mean())
    else:
        expected = []
        for each, scale in ((unit, 4.0), (read, 2.0)):
            logits = scale * each @ texts.T
            both = [-(logits.log_softmax(axis).diagonal()).mean() for axis in (0, 1)]
            expected.append(sum(both) / 2)
    torch.testing.assert_close(found.base, expected[0])
    torch.testing.assert_close(found.context, expected[1])
    torch.testing.assert_close(found.total, 0.8 * expected[0] + 0.2 * expected[1])


@pytest.mark.parametrize("sigmoid", [False, True])
def test_without_context_it_is_the_base_loss_to_the_bit(sigmoid):
    found = []
    for kind in ("lixp", "base"):
        images, texts = drawn(9, 6, 0, torch.float32).requires_grad_(), drawn(9, 6, 1, torch.float32).requires_grad_()
        scale, bias, context_scale, context_bias, temperature = numbers(7.0, -2.0, 5.0, -3.0, 0.1)
        unit = F.normalize(texts, dim=1)
        if kind == "lixp":
            more = {"bias": bias, "context_bias": context_bias} if sigmoid else {}
            options = {"scale": scale, "context_scale": context_scale, "context_temperature": temperature, **more}
            loss = lixp_loss(images, unit, alpha=1.0, **options).total
        elif sigmoid:
            loss = sigmoid_loss(F.normalize(images, dim=1), unit, scale=scale, bias=bias)
        else:
            loss = softmax_loss(F.normalize(images, dim=1), unit, scale=scale)
        loss.backward()
        assert context_scale.grad is None
        assert temperature.grad is None
        assert context_bias.grad is None
        found.append([loss, images.grad, texts.grad, scale.grad, *([bias.grad] if sigmoid else [])])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_with_context_alone_the_base_scale_gets_no_gradient():
    images, texts = drawn(5, 6, 0).requires_grad_(), F.normalize(drawn(5, 6, 1), dim=1)
    scale, bias, context_scale, context_bias, temperature = numbers(7.0, -2.0, 5.0, -3.0, 0.1)
    options = {"scale": scale, "context_scale": context_scale, "context_temperature": temperature}
    losses = lixp_loss(images, texts, alpha=0.0, bias=bias, context_bias=context_bias, **options)
    assert losses.base is None
    assert losses.total is losses.context
    losses.total.backward()
    assert scale.grad is None
    assert bias.grad is None
    assert all(float(p.grad.abs()) > 0 for p in (context_scale, context_bias, temperature))


@pytest.mark.parametrize("sigmoid", [False, True])
def test_gradients_are_those_of_differences(sigmoid):
    images, texts = drawn(4, 3, 0).requires_grad_(), drawn(4, 3, 1).requires_grad_()

    def loss(images, texts, scale, context_scale, temperature, *biases):
        return lixp_loss(
            images,
            F.normalize(texts, dim=1),
            alpha=0.7,
            scale=scale,
            context_scale=context_scale,
            context_temperature=temperature,
            **dict(zip(("bias", "context_bias"), biases, strict=False)),
        ).total

    given = numbers(3.0, 2.0, 0.3, *((-1.0, -0.4) if sigmoid else ()))
    assert torch.autograd.gradcheck(loss, (images, texts, *given))


def test_gradients_take_the_way_of_queries_keys_and_values():
    images = drawn(5, 4, 0)

    def jacobian(*stopped):
        """How what picture 0 reads follows each picture, (feature, picture, feature)."""
        read = lambda given: contextualised(given, temperature=0.3, stop_gradient=stopped)[0]  # noqa: E731
        return torch.autograd.functional.jacobian(read, images)

    own, others = jacobian("keys", "values"), jacobian("queries", "keys")
    assert own[:, 0].abs().max() > 1e-3
    assert (own[:, 1:] == 0).all()
    assert others[:, 0].abs().max() == 0
    assert all(others[:, j].abs().max() > 1e-3 for j in range(1, 5))
    by_keys = jacobian("queries", "values")
    assert by_keys[:, 0].abs().max() == 0
    assert all(by_keys[:, j].abs().max() > 1e-3 for j in range(1, 5))
    torch.testing.assert_close(jacobian(), own + others + by_keys)
    torch.testing.assert_close(jacobian("values"), own + by_keys)
    assert not contextualised(images.requires_grad_(), temperature=0.3, stop_gradient=CONTEXT_PATHS).requires_grad


@pytest.mark.parametrize("chunk", [1, 3, 4, 9, 10])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_chunks_change_neither_value_nor_gradient(sigmoid, chunk):
    found = []
    for each in (None, chunk):
        images, texts = drawn(10, 6, 0).requires_grad_(), F.normalize(drawn(10, 6, 1), dim=1).requires_grad_()
        given = numbers(7.0, 5.0, 0.1, *((-2.0, -1.0) if sigmoid else ()))
        names = ("scale", "context_scale", "context_temperature", "bias", "context_bias")
        loss = lixp_loss(images, texts, alpha=0.5, chunk=each, **dict(zip(names, given, strict=False))).total
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in (images, texts, *given))])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)


def test_chunks_hold_no_more_than_their_rows():
    for chunk, most in ((None, 64 * 64), (8, 64 * 4)):
        kept = []
        images = drawn(64, 4, 0).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            contextualised(images, temperature=0.1, chunk=chunk)
        assert max(kept) == most if chunk is None else max(kept) <= most


def test_half_precision_is_computed_in_float32():
    images = drawn(6, 8, 0).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = contextualised(images, temperature=0.1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, contextualised(images.float(), temperature=0.1))


def test_what_cannot_be_is_named():
    one = torch.ones(3, 2)
    options = {"scale": 1.0, "context_scale": 1.0, "context_temperature": 1.0}
    with pytest.raises(ValueError, match=r"alpha is 1\.2"):
        lixp_loss(one, one, alpha=1.2, **options)
    with pytest.raises(ValueError, match="one of bias and context_bias is missing"):
        lixp_loss(one, one, alpha=0.5, bias=1.0, **options)
    with pytest.raises(ValueError, match="stop_gradient names 'value'"):
        contextualised(one, temperature=1.0, stop_gradient=["value"])
    with pytest.raises(ValueError, match="chunk is 0"):
        contextualised(one, temperature=1.0, chunk=0)
    with pytest.raises(ValueError, match="expected floating point"):
        contextualised(torch.ones(3, 2, dtype=torch.int64), temperature=1.0)


SMALL = {
    **{"made_pictures": 64, "batch": 16, "epochs": 2, "text_width": 16, "text_depth": 1, "text_heads": 2},
    **{"vocabulary": 300, "length": 20, "latent_width": 8, "precision": "float32", "device": "cpu", "judge_most": 20},
}
CPU = torch.device("cpu")


def encoded(learner):
    learner.eval()
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return learner.online.encode_images(pictures)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_the_learner_without_context_is_siglip_to_the_bit(loss):
    found = []
    for config, make in ((LIxPConfig(alpha=1, loss=loss, **SMALL), build), (ImageTextConfig(loss=loss, **SMALL), base)):
        learner = make(config, CPU)
        value, _ = learner.loss(learner.draw(3))
        value.backward()
        gradients = {name: p.grad for name, p in learner.online.named_parameters() if "context" not in name}
        found.append([value, encoded(learner), gradients])
        assert all(p.grad is None for name, p in learner.online.named_parameters() if "context" in name)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert list(found[0][2]) == list(found[1][2])
    for one, other in zip(found[0][2].values(), found[1][2].values(), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_what_is_learned_beside_the_towers():
    count = lambda learner: sum(p.numel() for p in learner.online.parameters())  # noqa: E731
    for loss, more in (("sigmoid", 3), ("softmax", 2)):
        own = count(base(ImageTextConfig(loss=loss, **SMALL), CPU))
        assert count(build(LIxPConfig(loss=loss, **SMALL), CPU)) == own + more
    shared = LIxPConfig(shared_scale=True, shared_bias=True, **SMALL)
    assert count(build(shared, CPU)) == count(base(ImageTextConfig(**SMALL), CPU)) + 1


def test_temperatures_stay_positive():
    learner = build(LIxPConfig(**SMALL), CPU)
    with torch.no_grad():
        for parameter in learner.context.parameters():
            parameter -= 40
    assert 0 < learner.context.temperature.item() < 1e-12


def test_the_loss_of_the_learner_is_of_its_settings():
    learner = build(LIxPConfig(alpha=0.7, start_context_scale=3, start_context_temperature=0.05, **SMALL), CPU)
    pairs = learner.draw(0)
    value, numbers = learner.loss(pairs)
    images, texts = learner.embed(pairs)
    towers = learner.online
    expected = lixp_loss(
        images,
        F.normalize(texts, dim=1),
        alpha=0.7,
        scale=10.0,
        context_scale=3.0,
        context_temperature=0.05,
        bias=-math.log(15),
        context_bias=-math.log(15),
    )
    torch.testing.assert_close(value, expected.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(numbers["base"], expected.base, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(numbers["context"], expected.context, rtol=1e-5, atol=1e-6)
    assert float(numbers["context_temperature"]) == pytest.approx(0.05)
    value.backward()
    assert all(float(p.grad.abs()) > 0 for p in (towers.log_scale, towers.bias, *learner.context.parameters()))
    # A shared scale and bias get the gradient of both.
    one = build(LIxPConfig(alpha=0.7, shared_scale=True, shared_bias=True, **SMALL), CPU)
    _, numbers = one.loss(pairs)
    assert float(numbers["context_scale"]) == pytest.approx(10)


def test_scales_of_clip_are_bounded():
    learner = build(LIxPConfig(loss="softmax", **SMALL), CPU)
    with torch.no_grad():
        learner.context.log_scale.fill_(9.0)
    learner.after_step(0, 1)
    assert learner.context.log_scale.exp().item() == pytest.approx(100)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lixp"
    train_method("lixp", LIxPConfig(**SMALL), folder, progress=False, say=lambda line: None)
    return folder


def test_a_run_keeps_the_towers_alone(run):
    model = load_towers(run)
    assert not [name for name in model.towers.state_dict() if "context" in name]
    assert set(model.towers.state_dict()) == set(base(ImageTextConfig(**SMALL), CPU).online.state_dict())
    vectors = model.encode_words(["two red circles", "a blue star"])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["stage"] == "lixp"]
    assert {"base", "context", "context_scale", "context_temperature", "scale", "bias", "cosine"} <= set(steps[-1])
    assert steps[-1]["context_temperature"] != steps[0]["context_temperature"]
    named = load_method(run)[0]
    for name, value in named.state_dict().items():
        assert torch.equal(value, model.towers.image.state_dict()[name])


def test_training_goes_on_from_a_run(run):
    learner = build(LIxPConfig(start_run=str(run), alpha=0.5, **SMALL), CPU)
    model = load_towers(run)
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(learner.eval().online.encode_images(pictures), model.towers.encode_images(pictures))
    assert learner.context.log_scale.exp().item() == pytest.approx(model.towers.scale.item())
    assert learner.context.bias.item() == pytest.approx(model.towers.bias.item())
    with pytest.raises(ValueError, match="latent_width is 4, but 8 in"):
        build(LIxPConfig(start_run=str(run), **{**SMALL, "latent_width": 4}), CPU)


def test_a_run_that_was_stopped_goes_on_to_the_bit(run, tmp_path):
    learner, steps = build(LIxPConfig(**SMALL), CPU), []

    class Stopping(type(learner)):
        def after_step(self, step, of):
            super().after_step(step, of)
            steps.append(step)
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    learner.__class__ = Stopping
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        train_method("lixp", LIxPConfig(**SMALL), folder, learner=learner, progress=False, say=lambda line: None)
    assert len(steps) < 8
    train_method("lixp", LIxPConfig(**SMALL), folder, resume=True, progress=False, say=lambda line: None)
    for name in ("towers.safetensors", "weights.safetensors"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()


def test_settings_that_cannot_be_are_named():
    for settings, message in (
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"stop_gradient": ("value",)}, "stop_gradient is 'value'"),
        ({"start_context_temperature": 0.0}, "start_context_temperature is 0.0"),
        ({"start_context_scale": -1.0}, "start_context_scale is -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            LIxPConfig(**settings)


@pytest.mark.shared
def test_photographs_with_captions_end_to_end(shared, tmp_path):
    config = LIxPConfig(
        images=str(shared / "coco_mini" / "captions.json"),
        **{**SMALL, "epochs": 1, "batch": 64, "short_side_px": 40, "held_out": 0.2},
    )
    train_method("lixp", config, tmp_path / "run", progress=False, say=lambda line: None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= lines[-1]["image_to_text_at_1"] <= 1
    last = next(line for line in reversed(lines) if line["stage"] == "lixp")
    assert all(math.isfinite(last[name]) for name in ("loss", "base", "context"))
    assert load_towers(tmp_path / "run").encode_words(["a dog on a beach"]).shape == (1, 8)


def steps_of_the_learner():
    """Losses, numbers and gradients of two steps: nothing may depend on how the batch is divided."""
    found = {}
    for loss in ("sigmoid", "softmax"):
        learner = build(LIxPConfig(loss=loss, chunk=3, alpha=0.6, **SMALL), CPU).double()
        for step in range(2):
            pairs = learner.draw(step)
            value, told = learner.loss(pairs._replace(pictures=pairs.pictures.double() / 255))
            learner.zero_grad()
            value.backward()
            distributed.sum_gradients(learner.online.parameters())
            for name, share in {"loss": value, **told}.items():
                found[f"{loss} {step} {name}"] = distributed.sum_over_processes(share.detach())
            with torch.no_grad():
                for name, parameter in learner.online.named_parameters():
                    if parameter.grad is not None:
                        found[f"{loss} {step} gradient of {name}"] = parameter.grad.clone()
                        parameter -= 0.01 * parameter.grad
    return {name: each.numpy() for name, each in found.items()}


def shares(rows):
    """Loss and gradients of some rows of a batch, as a process that holds them finds them, summed over processes."""
    found = {}
    for name, sigmoid, chunk in (("clip", False, None), ("siglip", True, None), ("chunks", True, 2)):
        images, texts = drawn(7, 5, 0).requires_grad_(), drawn(7, 5, 1).requires_grad_()
        given = numbers(6.0, 4.0, 0.1, *((-2.0, -1.0) if sigmoid else ()))
        names = ("scale", "context_scale", "context_temperature", "bias", "context_bias")
        losses = lixp_loss(
            images[rows],
            F.normalize(texts, dim=1)[rows],
            alpha=0.5,
            chunk=chunk,
            **dict(zip(names, given, strict=False)),
        )
        losses.total.backward()
        found[name] = distributed.sum_over_processes(losses.total.detach())
        for part, each in zip(("images", "texts", *names), (images, texts, *given), strict=False):
            found[f"{name} {part}"] = distributed.sum_over_processes(each.grad)
    return {name: each.numpy() for name, each in found.items()}


def test_two_processes_are_one(assert_two_are_one):
    assert_two_are_one(__file__, lambda: shares(slice(None)) | steps_of_the_learner(), atol=1e-9)


if __name__ == "__main__":
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=number, world_size=2)
    own = slice(0, 3) if number == 0 else slice(3, 7)
    np.savez(folder / f"{number}.npz", **shares(own), **steps_of_the_learner())
    torch.distributed.destroy_process_group()
