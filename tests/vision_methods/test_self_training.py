"""Boxes of whole captions, and the captions of a batch as each other's negatives."""

import numpy as np
import pytest
import torch

from vision_methods.backbones import make_backbone
from vision_methods.boxed_pictures import boxed
from vision_methods.captions import Captions
from vision_methods.detection import focal_loss
from vision_methods.pyramid import Detector
from vision_methods.self_training import caption_loss, caption_targets, pseudo_boxes


def drawn(pictures=5, places=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(pictures, places, pictures, generator=generator, dtype=torch.float64)
    return logits, torch.rand(pictures, places, generator=generator) < 0.4


def test_labels_are_the_identity_and_equal_captions_no_negatives():
    target, negative = caption_targets(torch.arange(4), torch.tensor([3, 1, 3, 0]))
    assert torch.equal(target, torch.eye(4, dtype=torch.bool))
    expected = ~torch.eye(4, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = False
    assert torch.equal(negative, expected)


def test_the_loss_is_that_of_places_one_by_one():
    logits, inside = drawn()
    same, total = torch.tensor([0, 1, 0, 2, 3]), 0.0
    for picture in range(5):
        for place in range(6):
            for caption in range(5):
                each = logits[picture, place, caption]
                if caption == picture:
                    total += float(focal_loss(each, torch.tensor(1.0))) if inside[picture, place] else 0.0
                elif same[caption] != same[picture]:
                    total += float(focal_loss(each, torch.tensor(0.0)))
    assert float(caption_loss(logits, inside, torch.arange(5), same)) == pytest.approx(total)


def test_captions_of_the_same_words_get_no_gradient_from_each_other():
    logits, inside = drawn()
    logits.requires_grad_()
    caption_loss(logits, inside, torch.arange(5), torch.tensor([0, 1, 0, 2, 3])).backward()
    assert (logits.grad[0, :, 2] == 0).all()
    assert (logits.grad[2, :, 0] == 0).all()
    assert (logits.grad[0, :, 1] > 0).all()
    own = torch.stack([logits.grad[i, :, i] for i in range(5)])
    assert (own[inside] < 0).all()
    assert (own[~inside] == 0).all()


def test_one_caption_has_no_negatives_and_the_order_does_not_matter():
    logits, inside = drawn(pictures=1)
    assert float(caption_loss(logits, torch.zeros_like(inside), torch.tensor([0]), torch.tensor([0]))) == 0
    logits, inside = drawn()
    same, order = torch.tensor([0, 1, 0, 2, 3]), torch.tensor([3, 1, 4, 0, 2])
    first = caption_loss(logits, inside, torch.arange(5), same)
    second = caption_loss(logits[order][:, :, order], inside[order], torch.arange(5), same[order])
    torch.testing.assert_close(first, second)


def test_every_caption_is_one_text_with_one_box_in_its_picture():
    rng = np.random.default_rng(0)
    sizes = boxed(rng.integers(0, 255, (20, 40, 56, 3), dtype=np.uint8), [[]] * 20, [[]] * 20, ("thing",))
    texts = tuple((f"caption {i}", "a thing")[: 1 + i % 2] for i in range(20))
    captions = Captions(sizes.store, texts)
    generator = torch.Generator().manual_seed(0)
    backbone = make_backbone("conv4", seed=0)
    alignment = torch.randn(8, 128, generator=generator)
    detector = Detector(backbone, ("conv2", "conv4"), (4, 8), alignment, beyond=1, depth=1, generator=generator)
    vectors = torch.randn(30, 8, generator=generator)
    found = pseudo_boxes(detector, captions, vectors, size_px=64)
    assert found.picture.tolist() == [i for i in range(20) for _ in texts[i]]
    assert found.boxes.shape == (30, 4)
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, 2:] <= torch.tensor([56, 40])).all()
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
    assert ((found.scores > 0) & (found.scores < 1)).all()
    assert found.same.unique().numel() == 21
    assert len(found.same[found.same == found.same[2]]) == 10
    kept = found.above(float(found.scores.median()))
    assert 10 < len(kept.picture) < 20
    assert len(kept.boxes) == len(kept.texts) == len(kept.same) == len(kept.picture)
    # By hand, of one picture: the best of all places.
    from vision_methods.boxed_pictures import framed

    frames = framed(captions.store, [7], 64)
    said = detector(frames.pictures.float() / 255)
    likely = (
        detector.logits(said.embeddings[0], vectors[found.picture == 7]).sigmoid() * said.centring[0].sigmoid()[:, None]
    )
    torch.testing.assert_close(found.scores[found.picture == 7], likely.max(0).values.sqrt().detach())
    with pytest.raises(ValueError, match="vectors of 3 texts; expected 30"):
        pseudo_boxes(detector, captions, vectors[:3], size_px=64)
