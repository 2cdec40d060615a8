"""Text variants: none are the clean vector, many are near it, and nothing of the tower is left behind."""

import pytest
import torch
import torch.nn.functional as F

from vision_methods.text_tower import TextTower, tokenize, train_tokenizer
from vision_methods.text_variants import PROMPTS, clean_vectors, text_variants, with_dropout

NAMES = ("red circle", "blue ring", "striped star")


@pytest.fixture(scope="module")
def tower():
    return TextTower(300, length=12, width=32, depth=2, heads=2, generator=torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module")
def encode(tower):
    tokenizer = train_tokenizer([prompt.replace("{}", name) for prompt in PROMPTS for name in NAMES], 300)
    return lambda texts: tower(tokenize(tokenizer, texts, 12)).detach()


def test_one_variant_without_dropout_is_no_augmentation(tower, encode):
    found = text_variants(encode, tower, NAMES, variants=1, dropout=0.0, seed=3)
    assert torch.equal(found[0], clean_vectors(encode, NAMES))
    assert found.shape == (1, 3, 32)


def test_the_clean_vector_is_the_mean_of_prompts(encode):
    found = clean_vectors(encode, NAMES[:1])
    each = F.normalize(encode([prompt.replace("{}", NAMES[0]) for prompt in PROMPTS]), dim=1)
    torch.testing.assert_close(found[0], F.normalize(each.mean(0), dim=0))
    torch.testing.assert_close(clean_vectors(encode, NAMES, ["{}"]), F.normalize(encode(NAMES), dim=1))


def test_variants_differ_and_their_mean_is_near_the_clean_vector(tower, encode):
    found = text_variants(encode, tower, NAMES, variants=64, dropout=0.1, seed=0)
    assert torch.equal(found, text_variants(encode, tower, NAMES, variants=64, dropout=0.1, seed=0))
    assert not torch.equal(found, text_variants(encode, tower, NAMES, variants=64, dropout=0.1, seed=1))
    torch.testing.assert_close(found.norm(dim=2), torch.ones(64, 3))
    assert len(found[:, 0].unique(dim=0)) == 64
    assert F.cosine_similarity(found.mean(0), clean_vectors(encode, NAMES), dim=1).min() > 0.9
    prompts_alone = text_variants(encode, tower, NAMES, variants=64, dropout=0.0, seed=0)
    assert len(prompts_alone[:, 0].unique(dim=0)) <= len(PROMPTS) + 1
    assert not found.requires_grad


def test_dropout_leaves_the_tower_as_it_was(tower, encode):
    before = encode(NAMES)
    with with_dropout(tower, 0.3, torch.Generator().manual_seed(0)):
        inside = encode(NAMES)
        assert not tower.training
    assert torch.equal(encode(NAMES), before)
    assert not torch.allclose(inside, before)
    # What is left is scaled up, so that a feature keeps its mean.
    norm = torch.nn.LayerNorm(4000, elementwise_affine=False)
    norm.forward = lambda given: given
    with with_dropout(torch.nn.Sequential(norm), 0.3, torch.Generator().manual_seed(0)):
        dropped = norm(torch.ones(4000))
    assert dropped.mean() == pytest.approx(1, abs=0.03)
    assert (dropped == 0).float().mean() == pytest.approx(0.3, abs=0.03)


def test_numbers_out_of_range_are_refused(tower, encode):
    with pytest.raises(ValueError, match="variants is 0"):
        text_variants(encode, tower, NAMES, variants=0, dropout=0.1, seed=0)
    with pytest.raises(ValueError, match="dropout 1"):
        text_variants(encode, tower, NAMES, variants=2, dropout=1.0, seed=0)
