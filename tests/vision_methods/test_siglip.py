"""The two losses against definitions worked by hand, in one and two processes; the towers and their training."""

import math

import pytest
import torch
import torch.nn.functional as F

from vision_methods.siglip import sigmoid_loss, softmax_loss


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
    logits = images @ texts.T * scale + bias
    eye = torch.eye(len(images), dtype=images.dtype)
    m1_diag1 = -torch.ones_like(logits) + 2 * eye
    nll = -torch.log(torch.sigmoid(m1_diag1 * logits)).sum(-1)
    return nll.mean()


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
