"""Zero-shot classes and retrieval, against counting by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vision_methods.image_text_scores import class_vectors, filled, retrieval


def drawn(rows, width, seed):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def by_sorting(images, texts, owners, k):
    """Recall at k by sorting all similarities, as COCO's five captions are scored."""
    similar = (images @ texts.T).numpy()
    to_texts = np.mean([i in owners[np.argsort(-row)[:k]] for i, row in enumerate(similar)])
    to_images = np.mean([owners[j] in np.argsort(-column)[:k] for j, column in enumerate(similar.T)])
    return to_texts, to_images


@pytest.mark.parametrize(("pictures", "per_picture"), [(40, 1), (40, 5), (300, 2)])
def test_recall_is_that_of_sorting(pictures, per_picture):
    owners = np.random.default_rng(0).permutation(np.repeat(np.arange(pictures), per_picture))
    images, noise = drawn(pictures, 8, 0), drawn(len(owners), 8, 1)
    texts = F.normalize(images[owners] + noise, dim=1)
    found = retrieval(images, texts, owners, at=(1, 5, 10))
    for k in (1, 5, 10):
        expected = by_sorting(images, texts, owners, k)
        assert found[f"image_to_text_at_{k}"] == pytest.approx(expected[0])
        assert found[f"text_to_image_at_{k}"] == pytest.approx(expected[1])


def test_right_and_collapsed_towers():
    owners = np.repeat(np.arange(6), 2)
    images = torch.eye(6)
    right = retrieval(images, images[owners], owners)
    assert all(value == 1 for name, value in right.items() if not name.startswith("chance"))
    same = retrieval(torch.ones(6, 1), torch.ones(12, 1), owners)
    assert all(value == 0 for name, value in same.items() if not name.startswith("chance"))


def test_chance_is_what_random_vectors_find():
    owners, found = np.repeat(np.arange(20), 3), []
    for seed in range(60):
        found.append(retrieval(drawn(20, 4, seed), drawn(60, 4, 1000 + seed), owners))
    for k in (1, 5):
        for name in (f"image_to_text_at_{k}", f"text_to_image_at_{k}"):
            mean = np.mean([each[name] for each in found])
            assert mean == pytest.approx(found[0][f"chance_{name}"], abs=0.03)
    assert found[0]["chance_image_to_text_at_1"] == pytest.approx(1 / 20)
    assert found[0]["chance_text_to_image_at_5"] == pytest.approx(5 / 20)


def test_order_of_the_texts_does_not_matter():
    owners = np.repeat(np.arange(10), 2)
    images, texts = drawn(10, 4, 0), drawn(20, 4, 1)
    order = np.random.default_rng(0).permutation(20)
    assert retrieval(images, texts, owners) == retrieval(images, texts[order], owners[order])


def test_what_does_not_fit_is_named():
    for owners, message in (([0, 1, 5], "do not fit"), ([0, 1], "do not fit"), ([0, 0, 0], "has no text")):
        with pytest.raises(ValueError, match=message):
            retrieval(torch.eye(2), torch.ones(3, 2), owners)


def test_prompts():
    vectors = drawn(5, 6, 0)
    texts = ["a", "b", "c", "d", "e"]
    found = class_vectors(lambda given: vectors[[texts.index(t) for t in given]], {"x": ["a", "c"], "y": ["e"]})
    torch.testing.assert_close(found[0], F.normalize(vectors[[0, 2]].mean(0), dim=0))
    torch.testing.assert_close(found[1], vectors[4])
    assert filled(["a {}", "{}s"], ["cat", "dog"])["dog"] == ["a dog", "dogs"]
    for templates, names, message in (
        (["a photo"], ["cat"], "'a photo' has no place for the class"),
        (["{} {}"], ["cat"], "expected one {}"),
        (["{}"], ["cat", "cat"], "'cat' is there twice"),
        ([], ["cat"], "no templates"),
    ):
        with pytest.raises(ValueError, match=message):
            filled(templates, names)
    with pytest.raises(ValueError, match="class 'y' has no prompt"):
        class_vectors(lambda given: vectors, {"x": ["a"], "y": []})
    with pytest.raises(ValueError, match="no classes"):
        class_vectors(lambda given: vectors, {})
