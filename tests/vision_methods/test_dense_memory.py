"""Hummingbird's decoder: golden values by hand, limits, and what must not change the answer."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import trapezoid
from scipy.optimize import linear_sum_assignment

from vision_methods.cosine_search import exact
from vision_methods.dense_memory import (
    RETRIEVALS,
    DenseMemory,
    MemoryWriter,
    Retrieval,
    draw_patches,
    patch_depths,
    patch_labels,
    patch_scores,
    read_memory,
    read_out,
    retrieve,
)
from vision_methods.segments import VOID, class_iou

D = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_memory(entries=200, channels=16, classes=5, seed=0):
    draw = generator(seed)
    keys = torch.randn(entries, channels, generator=draw, dtype=D)
    labels = torch.rand(entries, classes, generator=draw, dtype=D).log().mul(-1)
    return remembered(keys, labels / labels.sum(1, keepdim=True))


def remembered(features, labels):
    writer = MemoryWriter(len(features), features.shape[1], labels.shape[1], dtype=D)
    writer.add(features, labels)
    return writer.finish()


def ask(memory, queries, k, temperature):
    return retrieve(queries, memory, exact(memory.keys), neighbours=k, temperature=temperature)


def queries_for(memory, n=30, seed=9):
    return torch.randn(n, memory.keys.shape[1], generator=generator(seed), dtype=D)


# --- retrieval


def test_golden_retrieval():
    keys = torch.tensor([[1, 0], [0, 1], [0.6, 0.8]], dtype=D)
    memory = remembered(keys, torch.tensor([[1, 0], [0, 1], [0.5, 0.5]], dtype=D))
    query = torch.tensor([[2.0, 0.0]], dtype=D)
    cosines, entries = exact(memory.keys)(query, 2)
    assert entries.tolist() == [[0, 2]]
    weights = (cosines / 0.5).softmax(1)
    torch.testing.assert_close(weights, torch.tensor([[0.689974, 0.310026]], dtype=D), rtol=0, atol=5e-7)
    answer = ask(memory, query, 2, 0.5)
    torch.testing.assert_close(answer, torch.tensor([[0.844987, 0.155013]], dtype=D), rtol=0, atol=5e-7)
    torch.testing.assert_close(ask(memory, query, 2, 0.02), torch.tensor([[1.0, 0]], dtype=D), rtol=0, atol=1e-8)


def test_published_settings():
    standard, low = RETRIEVALS["standard"], RETRIEVALS["low-data"]
    assert (standard.neighbours, standard.temperature, standard.capacity) == (30, 0.02, 10_240_000)
    assert (low.neighbours, low.temperature, low.augmentations, low.capacity) == (90, 0.1, 8, 20_480_000)
    assert standard.patches_per_picture(10_582) == 10_240_000 // (10_582 * 2) == 483
    assert Retrieval(augmentations=1).patches_per_picture(20_210) == 506
    assert Retrieval(augmentations=0, capacity=100).patches_per_picture(10) == 10
    assert Retrieval(capacity=3).patches_per_picture(1000) == 1


def test_lengths_of_queries_and_features_change_nothing():
    draw = generator(3)
    features, queries = torch.randn(100, 8, generator=draw, dtype=D), torch.randn(20, 8, generator=draw, dtype=D)
    labels = torch.rand(100, 3, generator=draw, dtype=D)
    a = ask(remembered(features, labels), queries, 10, 0.1)
    scaled = features * (0.01 + 50 * torch.rand(100, 1, generator=draw, dtype=D))
    b = ask(remembered(scaled, labels), queries * (0.01 + 50 * torch.rand(20, 1, generator=draw, dtype=D)), 10, 0.1)
    torch.testing.assert_close(a, b, rtol=0, atol=2e-14)


def test_every_key_has_length_1_and_the_wrong_axis_is_told_apart():
    draw = generator(1)
    tokens = torch.randn(1, 500, 16, generator=draw, dtype=D) * torch.rand(1, 500, 1, generator=draw, dtype=D)
    keys = remembered(tokens[0], torch.ones(500, 1, dtype=D)).keys
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(500, dtype=D), rtol=0, atol=1e-14)
    # As released at first: over the tokens. Its rows have any length, and the neighbours are others.
    wrong = F.normalize(tokens, dim=1)[0]
    assert wrong.norm(dim=1).max() > 10 * wrong.norm(dim=1).min()
    queries = torch.randn(50, 16, generator=draw, dtype=D)
    right, other = exact(keys)(queries, 30)[1], exact(wrong)(queries, 30)[1]
    shared = (right[:, :, None] == other[:, None]).any(2).float().mean()
    assert shared < 0.7


def test_answers_are_inside_the_labels_of_the_neighbours():
    memory = some_memory()
    queries = queries_for(memory)
    answers = ask(memory, queries, 10, 0.05)
    torch.testing.assert_close(answers.sum(1), torch.ones(30, dtype=D))
    read = memory.labels[exact(memory.keys)(queries, 10)[1]]
    assert (answers >= read.amin(1) - 1e-12).all()
    assert (answers <= read.amax(1) + 1e-12).all()


def test_one_neighbour_gives_its_label_at_any_temperature():
    memory = some_memory()
    queries = queries_for(memory)
    nearest = F.normalize(queries, dim=1).mm(memory.keys.T).argmax(1)
    for temperature in (1e-4, 0.02, 1.0, math.inf):
        assert torch.equal(ask(memory, queries, 1, temperature), memory.labels[nearest])


def test_limits_of_the_temperature():
    memory = some_memory()
    queries = queries_for(memory)
    nearest = ask(memory, queries, 1, 1.0)
    torch.testing.assert_close(ask(memory, queries, 20, 1e-6), nearest)
    plain = memory.labels[exact(memory.keys)(queries, 20)[1]].mean(1)
    torch.testing.assert_close(ask(memory, queries, 20, math.inf), plain)
    torch.testing.assert_close(ask(memory, queries, 20, 1e9), plain)


@pytest.mark.parametrize(("entries", "channels", "most"), [(200, 32, 1e-5), (1000, 32, 1e-3), (3000, 64, 0.02)])
def test_all_entries_are_full_attention_and_thirty_nearly_so(entries, channels, most):
    """How nearly depends on entries and channels: more of either, more cosines near the largest."""
    memory = some_memory(entries=entries, channels=channels, classes=21)
    queries = queries_for(memory)
    full = (F.normalize(queries, dim=1) @ memory.keys.T / 0.02).softmax(1) @ memory.labels
    torch.testing.assert_close(ask(memory, queries, entries, 0.02), full)
    difference = (ask(memory, queries, 30, 0.02) - full).abs().sum(1).mean()
    assert 0 < difference < most


def test_order_and_repetition_of_the_memory_do_not_matter():
    memory = some_memory()
    queries, order = queries_for(memory), torch.randperm(200, generator=generator(5))
    answer = ask(memory, queries, 10, 0.05)
    torch.testing.assert_close(ask(DenseMemory(memory.keys[order], memory.labels[order]), queries, 10, 0.05), answer)
    twice = DenseMemory(memory.keys.repeat(2, 1), memory.labels.repeat(2, 1))
    torch.testing.assert_close(ask(twice, queries, 20, 0.05), answer)


def test_a_feature_of_zero_is_like_nothing():
    memory = remembered(torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=D), torch.tensor([[1.0], [2.0]], dtype=D))
    assert memory.keys[0].tolist() == [0, 0]
    assert exact(memory.keys)(torch.tensor([[3.0, 3.0]], dtype=D), 2)[0].tolist() == [[0, 0]]


def test_read_out_refuses_what_has_no_meaning():
    with pytest.raises(ValueError, match="temperature is 0"):
        read_out(torch.ones(1, 2), torch.ones(1, 2, 1), temperature=0)
    with pytest.raises(ValueError, match="no neighbour"):
        read_out(torch.full((1, 2), -math.inf), torch.ones(1, 2, 1), temperature=1)
    answer = read_out(torch.tensor([[0.5, -math.inf]]), torch.tensor([[[1.0], [9.0]]]), temperature=0.1)
    assert answer.tolist() == [[1.0]]


# --- labels of patches


def test_labels_of_patches_are_means_of_one_hot_pixels():
    labels = np.random.default_rng(0).integers(0, 4, (32, 48))
    one_hot = F.one_hot(torch.from_numpy(labels), 4).permute(2, 0, 1)[None].float()
    expected = F.avg_pool2d(one_hot, 8).flatten(2)[0].T
    torch.testing.assert_close(patch_labels(labels, (4, 6), n_classes=4), expected)


def test_unknown_pixels_count_nowhere():
    labels = np.full((4, 8), VOID)
    labels[:, 5:] = 2
    labels[0, 4] = 0
    found = patch_labels(labels, (1, 2), n_classes=3)
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1], torch.tensor([1 / 13, 0, 12 / 13]))


def test_pixels_that_patches_cut_belong_to_the_patch_of_their_centre():
    found = patch_labels(np.arange(7)[None], (1, 3), n_classes=7)
    assert [row.nonzero().flatten().tolist() for row in found] == [[0, 1], [2, 3, 4], [5, 6]]


def test_depth_of_patches_is_the_mean_of_known_pixels():
    depth = np.random.default_rng(0).random((12, 12))
    expected = torch.from_numpy(depth.reshape(3, 4, 3, 4).mean((1, 3)).reshape(9, 1)).float()
    torch.testing.assert_close(patch_depths(depth, (3, 3)), expected)
    depth[:4, :4] = np.nan
    depth[4, :4] = np.nan
    found = patch_depths(depth, (3, 3))
    assert found[0].isnan().all()
    assert float(found[3, 0]) == pytest.approx(depth[5:8, :4].mean())


def test_classes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="classes are 0 to 3; expected 0 to 2, or -1"):
        patch_labels(np.arange(4)[None], (1, 2), n_classes=3)


# --- which patches are kept


@pytest.mark.parametrize(
    ("classes", "scores"), [(([0], [0], [1]), [2, 2, 1]), (([0], [0], [0, 1]), [3, 3, 4]), (([0, 1, 2],), [3])]
)
def test_golden_scores(classes, scores):
    labels = torch.zeros(len(classes), 3)
    for row, present in zip(labels, classes, strict=True):
        row[present] = 1 / len(present)
    assert patch_scores(labels).tolist() == scores


def test_n_patches_are_drawn_and_none_twice_and_unknown_ones_never():
    labels = patch_labels(np.random.default_rng(0).integers(-1, 3, (30, 30)), (30, 30), n_classes=3)
    unknown = labels.isnan().any(1)
    assert unknown.any()
    drawn = draw_patches(patch_scores(labels), 100, generator())
    assert len(set(drawn.tolist())) == 100
    assert not unknown[drawn].any()
    assert len(draw_patches(patch_scores(labels), 10**6, generator())) == int((~unknown).sum())


def test_rare_classes_are_drawn_more_often_as_their_scores_say():
    scores = torch.tensor([1.0, 2.0, 4.0])
    draw, counts = generator(), torch.zeros(3)
    for _ in range(2000):
        counts[draw_patches(scores, 1, draw)] += 1
    # P(first is least) for uniforms on (0, 1), (0, 2), (0, 4), integrated by hand: 17/24, 5/24, 2/24 (each by
    # integral of the density of one times the survival of the others).
    u = np.linspace(0, 1, 200_001)
    survive = [np.clip(1 - u / s, 0, 1) for s in (1, 2, 4)]
    expected = []
    for i, s in enumerate((1, 2, 4)):
        others = np.prod([survive[j] for j in range(3) if j != i], 0)
        expected.append(trapezoid(others * (u <= s) / s, u))
    np.testing.assert_allclose(sum(expected), 1, atol=1e-6)
    np.testing.assert_allclose(counts / 2000, expected, atol=0.04)
    assert counts[0] > counts[1] > counts[2] > 0


def test_one_class_is_drawn_uniformly():
    draw, counts = generator(), torch.zeros(8)
    for _ in range(1200):
        counts[draw_patches(patch_scores(torch.ones(8, 1)), 2, draw)] += 1
    # Each is in a draw with probability 1/4: the deviation of a count is 15.
    assert (counts - 300).abs().max() < 4 * 15


# --- storage


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_files_hold_what_memory_holds(tmp_path, dtype):
    draw = generator()
    parts = [(torch.randn(7, 5, generator=draw), torch.rand(7, 2, generator=draw)) for _ in range(3)]
    writers = [MemoryWriter(18, 5, 2, dtype=dtype, folder=folder) for folder in (None, tmp_path / "memory")]
    for writer in writers:
        assert [writer.add(*part) for part in parts] == [7, 7, 4]  # the tail is cut
    with pytest.raises(FileNotFoundError, match="not finished"):
        read_memory(tmp_path / "memory")
    inside, mapped = (writer.finish() for writer in writers)
    again = read_memory(tmp_path / "memory")
    for memory in (mapped, again):
        assert memory.keys.dtype == dtype
        assert torch.equal(memory.keys, inside.keys)
        assert torch.equal(memory.labels, inside.labels)
    assert inside.size_bytes == 18 * 7 * dtype.itemsize
    with pytest.raises(FileExistsError, match="holds a memory already"):
        MemoryWriter(18, 5, 2, folder=tmp_path / "memory")


def test_room_that_was_not_used_is_left_out(tmp_path):
    writer = MemoryWriter(10, 3, 1, folder=tmp_path / "memory")
    writer.add(torch.ones(2, 3), torch.ones(2, 1))
    assert len(writer.finish()) == len(read_memory(tmp_path / "memory")) == 2
    with pytest.raises(ValueError, match="Nothing was remembered"):
        MemoryWriter(10, 3, 1).finish()


@pytest.mark.parametrize("damage", ["text", "short", "pickle"])
def test_damaged_files_are_refused(tmp_path, damage):
    writer = MemoryWriter(4, 3, 1, folder=tmp_path / "memory")
    writer.add(torch.ones(4, 3), torch.ones(4, 1))
    writer.finish()
    if damage == "text":
        (tmp_path / "memory" / "memory.json").write_text("{")
    elif damage == "short":
        (tmp_path / "memory" / "memory.json").write_text('{"format": 1, "entries": 9}')
    else:
        with (tmp_path / "memory" / "keys.npy").open("wb") as file:
            np.save(file, np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="is damaged"):
        read_memory(tmp_path / "memory")


def test_what_cannot_be_remembered_is_refused():
    with pytest.raises(ValueError, match=r"shapes \(2, 4\) and \(2, 1\); expected \(patch, 3\)"):
        MemoryWriter(10, 3, 1).add(torch.ones(2, 4), torch.ones(2, 1))
    with pytest.raises(ValueError, match="not finite"):
        MemoryWriter(10, 3, 1).add(torch.ones(2, 3), torch.full((2, 1), math.nan))
    with pytest.raises(ValueError, match="at least 1 each"):
        MemoryWriter(0, 3, 1)
    with pytest.raises(ValueError, match=r"dtype is torch\.int8"):
        MemoryWriter(1, 3, 1, dtype=torch.int8)
    for wrong in ({"neighbours": 0}, {"temperature": 0.0}, {"augmentations": -1}, {"capacity": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Retrieval(**wrong)


# --- the measure


def test_matched_classes_can_only_flatter():
    """Mean IoU is of the classes as they are; the Hungarian matching of public code is never lower."""
    rng, gained = np.random.default_rng(0), []
    for _ in range(50):
        confusions = rng.integers(1, 20, (5, 5)) + np.diag(rng.integers(0, 30, 5))
        hits = confusions
        union = confusions.sum(1)[:, None] + confusions.sum(0) - hits
        matched = (hits / union)[linear_sum_assignment(-(hits / union))].mean()
        best = max(
            np.mean([(hits / union)[i, j] for i, j in enumerate(order)]) for order in itertools.permutations(range(5))
        )
        assert matched == pytest.approx(best)
        gained.append(matched - class_iou(confusions).mean())
    assert min(gained) >= -1e-12
    assert np.mean(gained) > 0
