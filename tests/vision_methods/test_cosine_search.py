"""Searches against sorting all cosines, and against each other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vision_methods import cosine_search
from vision_methods.cosine_search import SEARCHES, exact, faiss_ivf, largest


def unit(rows, channels, seed=0, dtype=torch.float64):
    return F.normalize(torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=1)


def sorted_cosines(queries, keys, k):
    """By numpy, all at once."""
    q, k_ = (each.double().numpy() for each in (queries, keys))
    cosines = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ k_.T
    order = np.argsort(-cosines, 1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, 1), order


@pytest.mark.parametrize(("columns", "k"), [(5, 5), (100, 3), (1000, 7), (4096, 30), (4099, 1), (64 * 30 + 15, 30)])
def test_largest_are_those_of_topk(columns, k):
    values = torch.randn(20, columns, generator=torch.Generator().manual_seed(columns))
    found, at = largest(values, k)
    expected = values.topk(k, 1)
    assert torch.equal(found, expected.values)
    assert torch.equal(at, expected.indices)


def test_largest_of_equal_values_are_as_many_and_none_twice():
    values, at = largest(torch.ones(2, 2000), 30)
    assert torch.equal(values, torch.ones(2, 30))
    assert all(len(set(row)) == 30 for row in at.tolist())


def test_largest_next_to_each_other_are_all_found():
    """The large values all in one group, or in neighbouring columns."""
    for columns in (torch.arange(16) * 125, torch.arange(16)):
        row = torch.zeros(1, 2000)
        row[0, columns] = torch.arange(1.0, 17.0)
        assert largest(row, 16)[1][0].tolist() == columns.flip(0).tolist()


@pytest.mark.parametrize("name", ["exact", "faiss-flat"])
def test_exact_searches_are_sorting(name):
    if name.startswith("faiss"):
        pytest.importorskip("faiss")
    keys, queries = unit(300, 12), 3.7 * unit(40, 12, seed=1)
    cosines, entries = SEARCHES[name](keys)(queries, 30)
    expected, order = sorted_cosines(queries, keys, 30)
    assert np.array_equal(entries.numpy(), order)
    np.testing.assert_allclose(cosines.numpy(), expected, atol=1e-12 if name == "exact" else 1e-6)


def test_blocks_change_nothing(monkeypatch):
    keys, queries = unit(90, 12), unit(21, 12, seed=1)
    whole = exact(keys)(queries, 30)
    for keys_at_once, queries_at_once in ((17, 8), (29, 21), (90, 4), (7, 100)):
        monkeypatch.setattr(cosine_search, "KEYS_AT_ONCE", keys_at_once)
        monkeypatch.setattr(cosine_search, "QUERIES_AT_ONCE", queries_at_once)
        parts = exact(keys)(queries, 30)
        torch.testing.assert_close(parts[0], whole[0], rtol=0, atol=1e-14)
        assert torch.equal(parts[1], whole[1])


def test_length_of_a_query_changes_nothing():
    keys, queries = unit(200, 8), unit(20, 8, seed=1)
    scale = torch.rand(20, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 100 + 1e-3
    (a, i), (b, j) = exact(keys)(queries, 10), exact(keys)(scale * queries, 10)
    torch.testing.assert_close(a, b, rtol=0, atol=2e-15)
    assert torch.equal(i, j)


def test_cosine_and_distance_agree_also_for_queries_of_any_length():
    keys, queries = unit(200, 8), 5 * unit(20, 8, seed=1)
    by_distance = torch.cdist(queries, keys).topk(10, 1, largest=False).indices
    assert torch.equal(exact(keys)(queries, 10)[1], by_distance)


def test_half_precision_moves_cosines_little():
    keys, queries = unit(500, 64), unit(20, 64, seed=1, dtype=torch.float32)
    wide, half = exact(keys.float())(queries, 30), exact(keys.half())(queries, 30)
    assert half[0].dtype == torch.float32
    assert 1e-6 < (wide[0] - half[0]).abs().max() < 5e-4


def test_recall_of_the_approximate_index_rises_to_all():
    pytest.importorskip("faiss")
    keys, queries = unit(4000, 16, dtype=torch.float32), unit(50, 16, seed=1, dtype=torch.float32)
    right = exact(keys)(queries, 30)[1]

    def recall(probed):
        found = faiss_ivf(keys, lists=64, probed=probed)(queries, 30)[1]
        return float((found[:, :, None] == right[:, None]).any(2).float().mean())

    few, many, all_ = recall(2), recall(16), recall(64)
    assert 0.05 < few < many < 1
    assert all_ == 1
    again = [faiss_ivf(keys, lists=64, probed=2, seed=3)(queries, 30)[1] for _ in range(2)]
    assert torch.equal(*again)


def test_neighbours_that_the_index_does_not_find_have_no_weight():
    pytest.importorskip("faiss")
    # Two clusters of 40, one looked through: of 60 neighbours 20 are not found.
    keys = F.normalize(torch.cat([torch.randn(40, 4) * 0.01 + torch.eye(4)[i] for i in (0, 1)]), dim=1)
    cosines, entries = faiss_ivf(keys, lists=2, probed=1)(torch.eye(4)[:1], 60)
    assert int((cosines[0] == -torch.inf).sum()) == 20
    assert entries.min() >= 0


@pytest.mark.parametrize("name", SEARCHES)
def test_what_does_not_fit_is_refused(name):
    if name.startswith("faiss"):
        pytest.importorskip("faiss")
    search = SEARCHES[name](unit(80, 4, dtype=torch.float32))
    with pytest.raises(ValueError, match=r"81 neighbours of 80 entries"):
        search(torch.ones(1, 4), 81)
    with pytest.raises(ValueError, match=r"0 neighbours"):
        search(torch.ones(1, 4), 0)
    with pytest.raises(ValueError, match=r"shape \(1, 5\); expected \(query, 4\)"):
        search(torch.ones(1, 5), 1)
