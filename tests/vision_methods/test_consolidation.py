"""Consolidation against known values, scikit-learn, a greedy loop in numpy, and what must hold for any tokens."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from vision_methods.consolidation import (
    CONSOLIDATIONS,
    consolidate,
    coreset_tokens,
    kmeans_means,
    random_tokens,
    token_orders,
)

LINE = torch.tensor([[[0.0], [1.0], [10.0], [11.0]]])


def tokens(items=3, count=40, width=6, seed=0):
    return torch.randn(items, count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orders(items=3, count=40, seed=0):
    return token_orders(range(seed, seed + items), count)[0]


def rows(x):
    return {tuple(row) for row in x.tolist()}


def nearest(x, kept):
    """Squared distance of every token to the nearest that is kept."""
    return torch.cdist(x, kept).square().amin(2)


# Golden values


def test_kmeans_of_four_points_on_a_line():
    assert kmeans_means(LINE, 2, torch.tensor([[0, 2, 1, 3]])).flatten().tolist() == [0.5, 10.5]
    assert kmeans_means(LINE, 1, torch.tensor([[3, 2, 1, 0]])).flatten().tolist() == [5.5]


def test_coreset_of_four_points_on_a_line():
    # 11 lies farthest from 0; then 1 and 10 tie, and the lower number is taken.
    assert coreset_tokens(LINE, 4, torch.tensor([[0, 1, 2, 3]])).flatten().tolist() == [0.0, 11.0, 1.0, 10.0]
    assert coreset_tokens(LINE, 2, torch.tensor([[2, 0, 1, 3]])).flatten().tolist() == [10.0, 0.0]


# Against others


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("iterations", [1, 5])
def test_scikit_learn_from_the_same_tokens_finds_the_same_means(count, iterations):
    x, order = tokens() * 2 + 50, orders()
    found = kmeans_means(x, count, order, iterations=iterations)
    for item in range(len(x)):
        start = x[item, order[item, :count]].numpy()
        peer = KMeans(count, init=start, n_init=1, max_iter=iterations, tol=0).fit(x[item].numpy())
        np.testing.assert_allclose(found[item], peer.cluster_centers_, rtol=1e-12)


def test_a_greedy_loop_finds_the_same_coreset():
    x, order = tokens(), orders()
    found = coreset_tokens(x, 9, order)
    for item in range(len(x)):
        points, chosen = x[item].numpy(), [int(order[item, 0])]
        while len(chosen) < 9:
            distances = [min(np.square(point - points[k]).sum() for k in chosen) for point in points]
            chosen.append(int(np.argmax(distances)))
        np.testing.assert_array_equal(found[item], points[chosen])


# What must hold


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_all_tokens_are_kept_where_as_many_are_asked_for(method):
    x = tokens()
    kept = consolidate(x, 40, orders(), method=method)
    for item in range(len(x)):
        order = torch.cdist(x[item], kept[item]).argmin(1)
        assert sorted(order.tolist()) == list(range(40))
        torch.testing.assert_close(kept[item, order], x[item], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", CONSOLIDATIONS)
@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_exactly_as_many_as_asked_for_and_finite(method, count):
    assert consolidate(tokens(), count, orders(), method=method).shape == (3, count, 6)
    equal = consolidate(torch.ones(3, 40, 6), count, orders(), method=method)
    assert equal.shape == (3, count, 6)
    assert bool((equal == 1).all())


@pytest.mark.parametrize("method", ["random", "coreset"])
def test_tokens_are_chosen_without_repeating_one(method):
    x = tokens()
    kept = consolidate(x, 12, orders(), method=method)
    for item in range(len(x)):
        assert rows(kept[item]) <= rows(x[item])
        assert len(rows(kept[item])) == 12


def test_copies_wait_until_distinct_tokens_run_out():
    x = tokens(1, 5).repeat(1, 3, 1)  # every token three times
    kept = consolidate(x, 15, orders(1, 15), method="coreset")
    assert rows(kept[0, :5]) == rows(x[0])
    assert sorted(map(tuple, kept[0].tolist())) == sorted(map(tuple, x[0].tolist()))


@pytest.mark.parametrize("method", ["random", "coreset"])
def test_fewer_are_the_first_of_more(method):
    x, order = tokens(), orders()
    many = consolidate(x, 20, order, method=method)
    assert torch.equal(consolidate(x, 6, order, method=method), many[:, :6])


def test_inertia_falls_and_means_lie_among_the_tokens():
    x, order = tokens(count=200), orders(count=200)
    course = torch.stack([nearest(x, kmeans_means(x, 10, order, iterations=i)).sum(1) for i in range(1, 8)])
    assert bool((course[1:] <= course[:-1] + 1e-9).all())
    assert bool((course[4] < 0.95 * nearest(x, random_tokens(x, 10, order)).sum(1)).all())
    means = kmeans_means(x, 10, order)
    assert bool(((means >= x.amin(1, keepdim=True)) & (means <= x.amax(1, keepdim=True))).all())


def test_one_mean_is_the_mean():
    x = tokens()
    torch.testing.assert_close(kmeans_means(x, 1, orders()), x.mean(1, keepdim=True))


def test_the_centre_of_an_empty_cluster_stays():
    # Centres start at two equal tokens: the first of them gets all, the second none.
    x = torch.tensor([[[0.0], [0.0], [1.0]]])
    assert kmeans_means(x, 2, torch.tensor([[0, 1, 2]]), iterations=1)[0, 1].tolist() == [0.0]


def test_errors_of_the_three_on_a_gaussian():
    x, order = tokens(20, 500, 32), orders(20, 500)
    errors = {name: nearest(x, consolidate(x, 32, order, method=name)) for name in CONSOLIDATIONS}
    mean = {name: float(each.mean()) for name, each in errors.items()}
    worst = {name: float(each.amax(1).mean()) for name, each in errors.items()}
    assert mean["kmeans"] < 0.75 * mean["random"]  # 24.0 and 36.0 in the reference's own toy
    assert mean["coreset"] > mean["random"]  # it spares the worst token, not the average one
    assert worst["coreset"] < worst["random"]


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_an_item_alone_is_as_in_the_batch(method):
    x = tokens(4)
    together = consolidate(x, 5, orders(4), method=method)
    x[1:] += 100  # the others do not matter
    for item in range(4):
        alone = consolidate(tokens(4)[item : item + 1], 5, token_orders([item], 40)[0], method=method)
        torch.testing.assert_close(alone[0], together[item], rtol=1e-13, atol=1e-13)
    assert torch.equal(consolidate(x, 5, orders(4), method=method)[0], together[0])


def test_seeds_segments_and_layers_have_orders_of_their_own():
    found = token_orders([5, 6], 30, segment=2, layers=3)
    assert torch.equal(found.sort(2).values, torch.arange(30).expand(3, 2, 30))
    assert torch.equal(found, token_orders([5, 6], 30, segment=2, layers=3))
    others = [found[1, 0], found[0, 1], token_orders([5, 6], 30, segment=3)[0, 0]]
    assert not any(torch.equal(found[0, 0], each) for each in others)


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_gradients_reach_the_tokens(method):
    x = tokens(1, 12).requires_grad_()
    consolidate(x, 4, orders(1, 12), method=method).sum().backward()
    assert x.grad is not None
    # A chosen token gets its gradient whole; of a mean each member gets its share.
    assert float(x.grad[0, :, 0].sum()) == pytest.approx(4)
    touched = int((x.grad[0, :, 0] != 0).sum())
    assert touched == (12 if method == "kmeans" else 4)
    if method == "kmeans":
        assert torch.autograd.gradcheck(lambda each: kmeans_means(each, 3, orders(1, 12)), x)


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_full_precision_under_autocast(method):
    x = tokens().float() + 100
    plain = consolidate(x, 5, orders(), method=method)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(consolidate(x, 5, orders(), method=method), plain)
    assert consolidate(x.bfloat16(), 5, orders(), method=method).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("given", "count", "options", "message"),
    [
        (torch.zeros(3, 40), 2, {}, "expected floats \\(B, N, D\\)"),
        (torch.zeros(3, 40, 6, dtype=torch.int64), 2, {}, "torch.int64"),
        (torch.zeros(3, 39, 6), 2, {}, "expected that of the tokens, \\(3, 39\\)"),
        (torch.zeros(3, 40, 6), 41, {}, "41 of 40 tokens"),
        (torch.zeros(3, 40, 6), -1, {}, "-1 of 40 tokens"),
        (torch.zeros(3, 40, 6), 2, {"method": "mean"}, "consolidation is 'mean'"),
    ],
)
def test_what_does_not_fit_is_refused(given, count, options, message):
    with pytest.raises(ValueError, match=message):
        consolidate(given, count, orders(), **options)
