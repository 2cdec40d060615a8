"""K-means against scikit-learn, sets of points whose clusters are known, and what must hold for any points."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from vision_methods.kmeans import STARTS, kmeans

SQUARE = [[0.0, 0.0], [0.0, 1.0], [10.0, 0.0], [10.0, 1.0]]


def points(items=5, count=60, width=7, seed=0, dtype=torch.float64):
    return torch.randn(items, count, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def settings():
    return [
        pytest.param(start, spherical, id=f"{start} {spherical}") for start in STARTS for spherical in (False, True)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_two_pairs_of_points(seed):
    found = kmeans(torch.tensor([SQUARE], dtype=torch.float64), 2, seeds=seed)
    assert sorted(found.centres[0].tolist()) == [[0.0, 0.5], [10.0, 0.5]]
    assert found.inertia.tolist() == [1.0]
    first, second, third, fourth = found.assignments[0].tolist()
    assert (first, third) == (second, fourth)
    assert first != third


@pytest.mark.parametrize("clusters", [1, 2, 5, 16])
def test_scikit_learn_from_the_same_centres_finds_the_same(clusters):
    x = points(6, 80, 9) * 3 + 100  # far from the origin
    start = x[:, :clusters]
    found = kmeans(x, clusters, start=start, iterations=300)
    for item in range(len(x)):
        peer = KMeans(clusters, init=start[item].numpy(), n_init=1, max_iter=300, tol=0).fit(x[item].numpy())
        assert (found.assignments[item].numpy() == peer.labels_).all()
        np.testing.assert_allclose(found.centres[item], peer.cluster_centers_, rtol=1e-12)
        assert float(found.inertia[item]) == pytest.approx(peer.inertia_, rel=1e-10)


def test_starts_as_good_as_those_of_scikit_learn():
    x = points(40, 60, 2).repeat(4, 1, 1)
    ours = {start: kmeans(x, 8, seeds=range(160), start=start, iterations=300).inertia.mean() for start in STARTS}
    theirs = [KMeans(8, n_init=1, random_state=seed).fit(each.numpy()).inertia_ for seed, each in enumerate(x)]
    assert float(ours["k-means++"]) == pytest.approx(np.mean(theirs), rel=0.02)
    assert float(ours["random"]) > 1.05 * np.mean(theirs)


def test_spread_starts_hit_every_clump_where_random_ones_do_not():
    clumps = 100 * torch.randn(1, 8, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = (clumps.repeat_interleave(20, 1) + 0.1 * points(1, 160, 2)).expand(20, -1, -1)
    found = {start: kmeans(x, 8, start=start, seeds=range(20)).inertia for start in STARTS}
    tight = float(found["k-means++"].min())
    assert float(found["k-means++"].max()) < 2 * tight
    assert float(found["random"].max()) > 100 * tight


@pytest.mark.parametrize(("start", "spherical"), settings())
def test_objective_never_rises(start, spherical):
    x = points(8, 50, 4)
    course = torch.stack(
        [kmeans(x, 12, seeds=range(8), start=start, spherical=spherical, iterations=i).inertia for i in range(1, 25)]
    )
    assert bool((course[1:] <= course[:-1] * (1 + 1e-12)).all())
    assert float(course[-1].sum()) < 0.99 * float(course[0].sum())


def test_objective_never_rises_through_reseeding():
    x = points(4, 30, 3)
    start = torch.full((4, 6, 3), 50.0, dtype=torch.float64)  # the first of equal centres gets all
    course = torch.stack([kmeans(x, 6, start=start, iterations=i).inertia for i in range(1, 12)])
    assert bool((course[1:] <= course[:-1] * (1 + 1e-12)).all())
    assert bool((course[-1] < x.sub(x.mean(1, keepdim=True)).square().sum((1, 2)) / 2).all())


def test_an_empty_cluster_goes_on_from_the_farthest_point():
    x = torch.tensor([[[0.0], [1.0], [2.0], [50.0]]])
    found = kmeans(x, 2, start=torch.tensor([[[10.0], [-1000.0]]]))
    assert found.assignments.tolist() == [[0, 0, 0, 1]]
    assert found.centres.flatten().tolist() == [1.0, 50.0]


@pytest.mark.parametrize(("start", "spherical"), settings())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_as_many_clusters_as_points_leave_no_distance(start, spherical, dtype):
    x = points(3, 9, 4, dtype=dtype)
    found = kmeans(x, 9, start=start, spherical=spherical)
    assert float(found.inertia.abs().max()) < 1e-12
    assert found.assignments.sort(1).values.tolist() == [list(range(9))] * 3


@pytest.mark.parametrize(("start", "spherical"), settings())
def test_equal_points_give_no_nan(start, spherical):
    x = torch.ones(2, 10, 3)
    x[1] = 0
    found = kmeans(x, 4, start=start, spherical=spherical)
    assert bool(torch.isfinite(found.centres).all())
    assert float(found.inertia.max()) < 1e-10
    assert [len(set(each)) for each in found.assignments.tolist()] == [1, 1]


@pytest.mark.parametrize(("start", "spherical"), settings())
def test_an_item_alone_is_as_in_the_batch(start, spherical):
    x, seeds = points(6, 64, 16, dtype=torch.float32), [5, 3, 8, 5, 0, 1]
    together = kmeans(x, 7, seeds=seeds, start=start, spherical=spherical, iterations=100)
    for item, seed in enumerate(seeds):
        alone = kmeans(x[item : item + 1], 7, seeds=[seed], start=start, spherical=spherical, iterations=100)
        assert torch.equal(alone.assignments[0], together.assignments[item])
        torch.testing.assert_close(alone.centres[0], together.centres[item], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("start", STARTS)
def test_seeds_decide_the_clusters(start):
    x = points(1, 64, 5).expand(4, -1, -1)
    found = kmeans(x, 9, seeds=[1, 2, 1, 3], start=start, iterations=2).assignments
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[3])


def test_spherical_distances_are_cosines():
    x = points(3, 40, 6)
    found = kmeans(x, 5, spherical=True, iterations=100)
    assert torch.allclose(found.centres.norm(dim=2), torch.ones(3, 5, dtype=torch.float64))
    cosine = F.cosine_similarity(x[:, :, None], found.centres[:, None], dim=3)
    assert torch.equal(cosine.argmax(2), found.assignments)
    torch.testing.assert_close(found.inertia, 2 * (1 - cosine.amax(2)).sum(1))
    scaled = kmeans(x * torch.rand(3, 40, 1, dtype=torch.float64).add(0.1), 5, spherical=True, iterations=100)
    assert torch.equal(scaled.assignments, found.assignments)


def test_no_gradient_and_full_precision_under_autocast():
    x = points(2, 20, 4, dtype=torch.float32).requires_grad_()
    plain = kmeans(x, 3)
    assert not plain.centres.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kmeans(x, 3).centres, plain.centres)
    assert kmeans(x.detach().bfloat16(), 3).centres.dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (torch.zeros(4, 3), {}, "expected floating point, \\(B, N, D\\)"),
        (torch.zeros(1, 4, 3, dtype=torch.int64), {}, "torch.int64"),
        (torch.zeros(1, 1, 3), {}, "clusters is 2 for 1 points"),
        (torch.zeros(1, 4, 3), {"iterations": 0}, "iterations is 0"),
        (torch.zeros(1, 4, 3), {"start": "first"}, "start is 'first'"),
        (torch.zeros(1, 4, 3), {"start": torch.zeros(1, 3, 3)}, "expected \\(1, 2, 3\\)"),
        (torch.zeros(2, 4, 3), {"seeds": [1]}, "1 seeds for 2 items"),
        (torch.full((1, 4, 3), torch.nan), {}, "not finite"),
        (torch.full((1, 4, 3), torch.inf), {"spherical": True}, "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(given, options, message):
    with pytest.raises(ValueError, match=message):
        kmeans(given, 2, **options)
