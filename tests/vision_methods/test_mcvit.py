"""MC-ViT as a learner: its loss by hand, one process and two, short runs, weights from elsewhere."""

import math

import numpy as np
import pytest
import torch

from vision_methods.mcvit import symmetric_nce

# The loss


def test_the_loss_of_equal_embeddings_is_twice_log_of_the_batch():
    assert float(symmetric_nce(torch.ones(2, 3), torch.ones(2, 3))) == pytest.approx(1.386294)
    assert float(symmetric_nce(torch.ones(5, 3), torch.ones(5, 3), temperature=2.0)) == pytest.approx(2 * math.log(5))


def embeddings(size=6, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, width, generator=generator, dtype=torch.float64) for _ in range(2)]


def unit(x):
    return np.asarray(x) / np.linalg.norm(np.asarray(x), axis=-1, keepdims=True)


def test_the_loss_is_the_sum_of_its_two_directions():
    videos, texts = embeddings()
    v, t = unit(videos), unit(texts)
    total = 0.0
    for i in range(6):
        to_texts = [math.exp(v[i] @ t[j] / 0.2) for j in range(6)]
        to_videos = [math.exp(t[i] @ v[j] / 0.2) for j in range(6)]
        total -= math.log(to_texts[i] / sum(to_texts)) + math.log(to_videos[i] / sum(to_videos))
    assert float(symmetric_nce(videos, texts, temperature=0.2)) == pytest.approx(total / 6)


def test_pairs_of_one_label_are_no_negatives_and_wrong_answers_are():
    videos, texts = embeddings()
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    wrong = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    v, t, w = unit(videos), unit(texts), unit(wrong)
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if j == i or labels[j] != labels[i]]
        to_texts = [math.exp(10 * v[i] @ t[j]) for j in others] + [math.exp(10 * v[i] @ w[i, m]) for m in range(4)]
        to_videos = [math.exp(10 * t[i] @ v[j]) for j in others]
        total += math.log(sum(to_texts)) + math.log(sum(to_videos)) - 20 * v[i] @ t[i]
    assert float(symmetric_nce(videos, texts, labels=labels, hard_negatives=wrong)) == pytest.approx(total / 6)


def test_embeddings_that_do_not_fit_are_refused():
    videos, texts = embeddings()
    for options, message in (
        ({"temperature": 0}, "temperature is 0"),
        ({"labels": torch.zeros(5)}, "expected \\(B, D\\), \\(B, D\\), \\(B,\\)"),
        ({"hard_negatives": torch.zeros(6, 4)}, "expected \\(6, M, 4\\)"),
    ):
        with pytest.raises(ValueError, match=message):
            symmetric_nce(videos, texts, **options)
