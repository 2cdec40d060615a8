"""Adapters against scikit-learn, other implementations and formulas by hand; what their settings are chosen by."""

import functools
import itertools

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.gaussian_process.kernels import RBF
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from vision_methods import few_shot
from vision_methods.few_shot import (
    ADAPTERS,
    VOTES,
    Support,
    choose,
    draw_support,
    few_shot_rows,
    gaussian,
    kernel,
    neighbours,
    prototypes,
    tip_adapter,
    unit,
    with_texts,
    zero_shot,
)

CLASSES, SHOTS, WIDTH = 4, 6, 10


def clouds(seed=0, shots=SHOTS, noise=1.0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((CLASSES, WIDTH))
    labels = np.repeat(np.arange(CLASSES), shots)
    lengths = rng.uniform(0.2, 5, (len(labels), 1))
    return lengths * (centres[labels] + noise * rng.standard_normal((len(labels), WIDTH))), labels


def support_of(seed=0, shots=SHOTS, scale=20.0):
    texts = np.random.default_rng(7).standard_normal((CLASSES, WIDTH))
    return Support(*clouds(seed, shots), CLASSES, texts, scale)


QUERIES = clouds(5, 25)[0]


@pytest.mark.parametrize("k", [1, 3, 7])
def test_votes_are_those_of_scikit_learn(k):
    support, x = support_of(), normalize(QUERIES)
    weightings = {
        "equal": "uniform",
        "softmax": lambda distances: np.exp((1 - distances) / 0.1),
        "rank": lambda distances: np.tile(1 / (2 + np.arange(k)), (len(distances), 1)),
    }
    for vote, weights in weightings.items():
        theirs = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute")
        theirs.fit(support.features, support.labels)
        found = neighbours(QUERIES, support, neighbours=k, vote=vote, temperature=0.1)
        if vote == "equal":  # scikit-learn has no rule for as many votes
            np.testing.assert_array_equal(found.round(), (k * theirs.predict_proba(x)).round())
        else:
            found = found / found.sum(1, keepdims=True)
            np.testing.assert_allclose(found, theirs.predict_proba(x), rtol=1e-9, atol=1e-12)


def test_as_many_votes_are_decided_by_the_cosines():
    support = Support(np.array([[1, 0.0], [1, 0.3], [1, 0.5], [0, 1]]), np.array([0, 1, 1, 0]), 2)
    found = neighbours(np.array([[1.0, 0.1]]), support, neighbours=4)
    assert found.argmax() == 1
    np.testing.assert_array_equal(found.round(), [[2, 2]])
    # One vote more is more than any cosines.
    assert neighbours(np.array([[1.0, 0.01]]), support, neighbours=3).argmax() == 1


def test_prototypes_are_nearest_centroids():
    support, x = support_of(), normalize(QUERIES)
    centres = normalize(np.stack([support.features[support.labels == k].mean(0) for k in range(CLASSES)]))
    theirs = KNeighborsClassifier(1).fit(centres, np.arange(CLASSES))
    np.testing.assert_array_equal(prototypes(QUERIES, support).argmax(1), theirs.predict(x))
    np.testing.assert_allclose(prototypes(QUERIES, support), x @ centres.T)


def test_kernel_is_a_gaussian_of_distances():
    """Of unit vectors, 1 - cosine is half the squared distance."""
    support = support_of()
    for beta in (0.5, 5.0):
        affinities = RBF(1 / np.sqrt(beta))(normalize(QUERIES), support.features)
        np.testing.assert_allclose(kernel(QUERIES, support, beta=beta), affinities @ support.one_hot)


def test_tip_adapter_is_the_authors_formula():
    """Their ``main.py`` in torch: affinity, ``((-1) * (beta - beta * affinity)).exp() @ values``, plus ``100 x W``."""
    support = support_of(scale=100.0)
    x, keys, texts = (torch.from_numpy(each) for each in (normalize(QUERIES), support.features, support.texts))
    affinity = x @ keys.T
    logits = 100.0 * x @ texts.T + 1.17 * (-(5.5 - 5.5 * affinity)).exp() @ torch.from_numpy(support.one_hot)
    np.testing.assert_allclose(tip_adapter(QUERIES, support, alpha=1.17, beta=5.5), logits.numpy())


def test_gaussian_is_linear_discriminant_analysis_with_the_authors_shrinkage():
    support, x = support_of(), normalize(QUERIES)
    n, width = support.features.shape
    theirs = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=width / (n - 1 + width), priors=np.full(CLASSES, 1 / CLASSES)
    ).fit(support.features, support.labels)
    # In units of the mean variance, and without the prior.
    spread = np.trace(theirs.covariance_) / width
    expected = spread * (theirs.decision_function(x) + np.log(CLASSES))
    np.testing.assert_allclose(gaussian(QUERIES, support), expected, rtol=1e-8, atol=1e-8)
    # Wang et al.: D pinv((n - 1) cov + tr(cov) I), which differs by a factor.
    centred = torch.from_numpy(support.features - support.means[support.labels]).T
    cov = centred.cov()
    precision = width * torch.linalg.pinv((n - 1) * cov + cov.trace() * torch.eye(width, dtype=torch.float64))
    weights = torch.from_numpy(support.means) @ precision
    logits = torch.from_numpy(x) @ weights.T - (weights * torch.from_numpy(support.means)).sum(1) / 2
    ratio = logits.numpy() / gaussian(QUERIES, support)
    np.testing.assert_allclose(ratio, ratio[0, 0])


def test_gaussian_of_one_shot_is_the_euclidean_mean():
    support = support_of(shots=1)
    distances = ((normalize(QUERIES)[:, None] - support.features) ** 2).sum(2)
    np.testing.assert_array_equal(gaussian(QUERIES, support).argmax(1), distances.argmin(1))


def test_without_weight_tip_adapter_and_texts_are_zero_shot():
    support = support_of()
    expected = 20.0 * normalize(QUERIES) @ normalize(support.texts).T
    np.testing.assert_allclose(zero_shot(QUERIES, support), expected)
    np.testing.assert_array_equal(tip_adapter(QUERIES, support, alpha=0.0), zero_shot(QUERIES, support))
    for adapter in (prototypes, gaussian):
        found = with_texts(QUERIES, support, adapter=adapter, alpha=0.0)
        np.testing.assert_array_equal(found, zero_shot(QUERIES, support))


def test_one_shot_and_one_neighbour_are_nearest_neighbours():
    support = support_of(shots=1)
    nearest = support.labels[(normalize(QUERIES) @ support.features.T).argmax(1)]
    np.testing.assert_array_equal(prototypes(QUERIES, support).argmax(1), nearest)
    support = support_of()
    nearest = support.labels[(normalize(QUERIES) @ support.features.T).argmax(1)]
    for vote in VOTES:
        found = neighbours(QUERIES, support, neighbours=1, vote=vote)
        np.testing.assert_array_equal(found.argmax(1), nearest)


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_order_and_length_do_not_matter(name):
    adapter, support = ADAPTERS[name], support_of()
    order = np.random.default_rng(0).permutation(len(support.labels))
    lengths = np.random.default_rng(1).uniform(0.1, 9, (len(order), 1))
    other = Support((lengths * support.features)[order], support.labels[order], CLASSES, 3 * support.texts, 20.0)
    for setting in adapter.grid:
        expected = adapter.logits(QUERIES, support, **setting)
        assert expected.shape == (len(QUERIES), CLASSES)
        np.testing.assert_allclose(adapter.logits(7 * QUERIES, other, **setting), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_classes_that_are_apart_are_told_apart(name):
    x, y = clouds(0, noise=0.05)
    queries, answers = clouds(1, noise=0.05)
    texts = np.stack([x[y == k].mean(0) for k in range(CLASSES)])
    support = Support(x, y, CLASSES, texts, 20.0)
    logits = ADAPTERS[name].logits(queries, support, **choose(ADAPTERS[name], support))
    np.testing.assert_array_equal(logits.argmax(1), answers)


def test_the_grid_is_searched_by_the_support_alone():
    seen = []

    def spy(queries, support, *, right):
        seen.append((queries.copy(), support))
        answers = np.array(list(queries[:, 0])).round().astype(int)
        return np.eye(2)[answers if right else 1 - answers]

    # One feature that says the class, and one that tells pictures apart.
    x = np.array([[0.0, 1], [0, 1], [0, 1], [1, 0], [1, 0], [1, 0]])
    adapter = few_shot.Adapter(spy, ({"right": False}, {"right": True}))
    support = Support(x, np.array([0, 0, 0, 1, 1, 1]), 2)
    assert choose(adapter, support) == {"right": True}
    assert len(seen) == 2 * 3
    for queries, rest in seen:
        assert len(queries) == 2
        assert len(rest.features) == 4
        assert np.bincount(rest.labels).tolist() == [2, 2]
    # As many right answers: the default.
    assert choose(few_shot.Adapter(functools.partial(spy, right=True), ({}, {})), support) == {}


def test_of_one_shot_the_default_is_taken():
    for adapter in ADAPTERS.values():
        assert choose(adapter, support_of(shots=1)) == adapter.grid[0]


def test_draws_are_nested_and_of_every_class():
    labels = np.random.default_rng(0).integers(0, 5, 200)
    draws = [draw_support(labels, shots, seed=3) for shots in (1, 2, 8)]
    for few, more in itertools.pairwise(draws):
        assert set(few) < set(more)
    assert np.bincount(labels[draws[2]]).tolist() == [8] * 5
    assert set(draws[2]) != set(draw_support(labels, 8, seed=4))
    # With more shots the settings of an adapter see the pictures of each class in the order of the draw.
    assert draws[2][::8].tolist() == draws[0].tolist()


def test_rows_are_the_adapters_by_hand():
    x, y = clouds(0, 20)
    held, answers = clouds(1, 10)
    texts = np.random.default_rng(7).standard_normal((CLASSES, WIDTH))
    rows = few_shot_rows(x, y, held, answers, shots=[1, 4], seeds=[0, 1], texts=texts, scale=20.0)
    assert [(row["adapter"], row["shots"]) for row in rows[:1]] == [("zero-shot", 0)]
    assert rows[0]["accuracy"] == ((unit(held) @ unit(texts).T).argmax(1) == answers).mean()
    assert len(rows) == 1 + 2 * 2 * len(ADAPTERS)
    drawn = draw_support(y, 4, seed=1)
    expected = (prototypes(held, Support(x[drawn], y[drawn], CLASSES)).argmax(1) == answers).mean()
    (row,) = [r for r in rows if (r["adapter"], r["shots"], r["seed"]) == ("prototypes", 4, 1)]
    assert row["accuracy"] == expected
    without = few_shot_rows(x, y, held, answers, shots=[1], seeds=[0])
    assert [row["adapter"] for row in without] == [name for name, each in ADAPTERS.items() if not each.needs_texts]


def test_queries_are_asked_a_block_at_a_time(monkeypatch):
    x, y = clouds(0, 20)
    held, answers = clouds(1, 10)
    given = {"shots": [4], "seeds": [0], "texts": np.eye(CLASSES, WIDTH)}
    expected = few_shot_rows(x, y, held, answers, **given)
    monkeypatch.setattr(few_shot, "BLOCK", 7 * 16)
    most = []

    def spied(queries, support, **setting):
        most.append(len(queries) * len(support.features))
        return prototypes(queries, support, **setting)

    monkeypatch.setitem(ADAPTERS, "prototypes", few_shot.Adapter(spied))
    assert few_shot_rows(x, y, held, answers, **given) == expected
    assert 0 < max(most) <= 7 * 16


def test_more_shots_are_better():
    x, y = clouds(0, 64)
    held, answers = clouds(1, 200)
    rows = few_shot_rows(x, y, held, answers, shots=[1, 32], seeds=range(4))
    for name in {row["adapter"] for row in rows}:
        few, many = (
            np.mean([r["accuracy"] for r in rows if r["adapter"] == name and r["shots"] == n]) for n in (1, 32)
        )
        assert many > few + 0.05, name


def test_what_cannot_be_is_named():
    support = Support(*clouds(), CLASSES)
    for call, message in (
        (lambda: zero_shot(QUERIES, support), "no texts of the classes"),
        (lambda: neighbours(QUERIES, support, vote="loud"), "vote is 'loud'"),
        (lambda: neighbours(QUERIES, support, neighbours=0), "neighbours are 0"),
        (lambda: unit(np.ones(3)), "features have shape"),
        (lambda: Support(np.eye(3), np.array([0, 1, 1]), 3), "a picture of every class"),
        (lambda: Support(np.eye(3), np.array([0.0, 1, 1]), 2), "labels have shape"),
        (lambda: Support(np.eye(3), np.array([0, 1, 1]), 2, np.eye(2)), r"texts have shape \(2, 2\)"),
        (lambda: draw_support(np.array([0, 1, 1]), 2, seed=0), "class number 0 has 1 pictures"),
        (lambda: draw_support(np.array([0, 1, 1]), 0, seed=0), "shots are 0"),
        (lambda: few_shot_rows(*clouds(), *clouds(), adapters=["best"]), "adapter is 'best'"),
        (lambda: few_shot_rows(*clouds(), *clouds(), adapters=["tip-adapter"]), "tip-adapter needs texts"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
