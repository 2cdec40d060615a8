"""The guarantee: with closed gates no random weight reaches the logit of any class."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from vision_methods.backbones import make_backbone
from vision_methods.detection import PRIOR_BIAS
from vision_methods.pyramid import GATE_RATE, Detector, Gate, Head, Pyramid

LAYERS, STRIDES = ("conv2", "conv4"), (4, 8)


def new_detector(seed=0, **options):
    torch.manual_seed(9)
    alignment = torch.randn(16, 128)
    made = {"beyond": 2, "depth": 2, "generator": torch.Generator().manual_seed(seed)} | options
    return Detector(make_backbone("conv4", seed=0), LAYERS, STRIDES, alignment, **made)


def pictures(n=2, side=64):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def texts(n=7):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(2))


def test_with_closed_gates_logits_are_those_of_the_pretrained_network_whatever_the_random_weights():
    images, words = pictures(), texts()
    first, second = new_detector(seed=0), new_detector(seed=1)
    found = [detector.logits(detector(images).embeddings, words) for detector in (first, second)]
    assert torch.equal(*found)
    assert not torch.equal(first(images).distances, second(images).distances)
    # By hand: the aligned map, resampled, and its cosine with the texts.
    top = F.conv2d(first.backbone(images)["conv4"], first.pyramid.top.weight)
    levels = [F.interpolate(top, scale_factor=2, mode="nearest"), top, F.avg_pool2d(top, 2)]
    levels.append(F.avg_pool2d(levels[-1], 2))
    flat = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
    cosines = F.normalize(flat, dim=2) @ F.normalize(words, dim=1).T
    assert torch.equal(found[0], first.log_scale.exp() * cosines + first.bias)
    assert first.bias.item() == pytest.approx(PRIOR_BIAS)
    assert first.log_scale.exp().item() == pytest.approx(1 / 0.07)


def test_the_mean_of_the_top_is_the_pretrained_vector_of_the_picture():
    detector, images = new_detector(), pictures()
    maps = [detector.backbone(images)[layer] for layer in LAYERS]
    top = detector.pyramid(maps)[1]
    alignment = detector.pyramid.top.weight[:, :, 0, 0]
    torch.testing.assert_close(top.mean((2, 3)), maps[-1].mean((2, 3)) @ alignment.T, rtol=1e-5, atol=1e-5)


def branches(detector):
    parts = (detector.pyramid.laterals, detector.pyramid.smooth, detector.pyramid.beyond, detector.head.classes)
    return [p for part in parts for name, p in part.named_parameters() if "alpha" not in name]


def alphas(detector):
    return [module.alpha for module in detector.modules() if isinstance(module, Gate)]


def test_at_first_gates_have_a_gradient_and_branches_have_none():
    detector, images = new_detector(), pictures()
    assert len(alphas(detector)) == 1 + 2 + 2 + 2  # laterals, smoothing, beyond, tower

    def step():
        detector.zero_grad()
        detector.logits(detector(images).embeddings, texts())[..., 0].pow(2).sum().backward()

    step()
    assert all(p.grad is not None and (p.grad == 0).all() for p in branches(detector))
    assert all(a.grad != 0 for a in alphas(detector))
    with torch.no_grad():
        for alpha in alphas(detector):
            alpha -= 1e-3 * alpha.grad.sign()
    step()
    # Offsets that a norm takes away keep a gradient of rounding error alone.
    assert all((p.grad != 0).any() for p in branches(detector) if p.ndim > 1)
    assert all(a.grad != 0 for a in alphas(detector))
    assert detector.gates().keys()
    assert all(abs(g) == pytest.approx(math.tanh(1e-2)) for g in detector.gates().values())


def test_a_gate_at_zero_has_the_slope_of_tanh():
    gate = Gate(rate=GATE_RATE)
    gate(torch.tensor(3.0)).sum().backward()
    assert gate.alpha.grad == 3 * GATE_RATE
    assert gate.openness == 0
    plain = Gate()
    plain(torch.tensor(3.0)).sum().backward()
    assert plain.alpha.grad == 3


def test_without_gates_random_weights_are_in_every_logit():
    images, words = pictures(), texts()
    first, second = (new_detector(seed=seed, gated=False) for seed in (0, 1))
    found = [d.logits(d(images).embeddings, words) for d in (first, second)]
    assert (found[0] - found[1]).abs().mean() > 0.5
    assert set(first.gates().values()) == {1.0}
    gated = new_detector(seed=0)
    shared = {k: v for k, v in gated.state_dict().items() if "alpha" not in k}
    assert shared.keys() == first.state_dict().keys()
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in shared.items())


def test_other_texts_change_no_logit_and_no_box():
    detector, images, words = new_detector(), pictures(), texts()
    for alpha in alphas(detector):
        torch.nn.init.constant_(alpha, 0.05)
    found = detector(images)
    every = detector.logits(found.embeddings, words)
    order = torch.tensor([3, 0, 6, 2])
    torch.testing.assert_close(detector.logits(found.embeddings, words[order]), every[..., order], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(detector.logits(found.embeddings, words * 7), every, rtol=1e-6, atol=1e-5)


def test_a_frozen_backbone_keeps_weights_and_statistics():
    detector, images = new_detector().train(), pictures()
    before = copy.deepcopy(detector.backbone.state_dict())
    detector(images).embeddings.sum().backward()
    assert all(torch.equal(v, detector.backbone.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for p in detector.backbone.parameters())
    assert detector.pyramid.top.weight.grad is None
    free = new_detector(frozen=False).train()
    free(images).embeddings[..., 0].sum().backward()
    assert all(p.grad is not None for p in free.backbone.parameters())
    assert free.pyramid.top.weight.grad is not None


def test_levels_have_their_strides_for_odd_sizes_and_wrong_strides_are_refused():
    found = new_detector()(pictures(1, side=72))
    counts = [int((found.places.strides == stride).sum()) for stride in (4, 8, 16, 32)]
    assert counts == [18**2, 9**2, 5**2, 3**2]
    assert found.distances.shape == (1, sum(counts), 4)
    assert (found.distances > 0).all()
    wrong = new_detector()
    wrong.strides = (8, 16, 32, 64)
    with pytest.raises(ValueError, match="Layer conv2 has"):
        wrong(pictures())
    backbone = make_backbone("conv4", seed=0)
    with pytest.raises(ValueError, match="twice the stride"):
        Detector(backbone, LAYERS, (4, 4), torch.rand(16, 128))
    with pytest.raises(ValueError, match="some of conv1"):
        Detector(backbone, ("conv2", "conv9"), STRIDES, torch.rand(16, 128))
    with pytest.raises(ValueError, match="alignment has shape"):
        Pyramid([8, 16], torch.rand(4, 8))


def test_the_tower_of_boxes_is_an_ordinary_one():
    head = Head(8, depth=1, generator=torch.Generator().manual_seed(0))
    level = torch.rand(2, 8, 4, 4)
    embedding, distances, _ = head(level)
    assert torch.equal(embedding, level)
    distances.sum().backward()
    assert all((p.grad != 0).any() for p in head.boxes.parameters() if p.ndim > 1)
