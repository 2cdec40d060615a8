import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler
from torch import nn

from neural_fits.activations import activations
from neural_fits.behavior.categories import category_choices, imagenet_classes
from neural_fits.behavior.head import WithReadout, linear_head
from neural_fits.behavior.readout import (
    READOUTS,
    LinearReadout,
    NeighbourReadout,
    PrototypeReadout,
    RidgeReadout,
    best_temperature,
    left_out_predictions,
)
from neural_fits.ridge import ridge_basis
from neural_fits.vision_model import VisionModel


def blobs(n_classes=3, n_each=20, n_features=30, *, spread=0.5, seed=0):
    """Features around a centre for each class, labels in no order."""
    rng = np.random.default_rng(seed)
    centres = spread * np.random.default_rng(99).standard_normal((n_classes, n_features))
    y = rng.permutation(np.repeat(np.arange(n_classes), n_each))
    return rng.standard_normal((len(y), n_features)) + centres[y], np.array(["cat", "dog", "car", "owl"])[y]


@pytest.mark.parametrize("name", READOUTS)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_conventions_of_every_readout(name, n_classes):
    X, y = blobs(n_classes, spread=1.0)
    X_new, y_new = blobs(n_classes, spread=1.0, seed=1)
    readout = READOUTS[name]().fit(X, y)
    assert readout.classes_.tolist() == sorted(set(y))
    probabilities = readout.predict_proba(X_new)
    assert probabilities.shape == (len(y_new), n_classes)
    assert np.allclose(probabilities.sum(1), 1)
    assert (probabilities >= 0).all()
    assert (readout.predict(X_new) == readout.classes_[probabilities.argmax(1)]).all()
    assert (readout.predict(X_new) == y_new).mean() > 0.8
    assert np.array_equal(readout.predict(torch.from_numpy(X_new)), readout.predict(X_new))
    with pytest.raises(ValueError, match=r"expected \(image, 30\)"):
        readout.predict(X_new[:, :-1])


@pytest.mark.parametrize("name", READOUTS)
def test_bad_input_is_named(name):
    X, y = blobs()
    for wrong, labels, message in [
        (X[0], y, r"\(image, feature\)"),
        (np.where(np.arange(30) == 2, np.nan, X), y, "NaN"),
        (X, y[:-1], "one for each of 60"),
        (X, ["cat"] * 60, "at least 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            READOUTS[name]().fit(wrong, labels)


@pytest.mark.parametrize("n_features", [10, 90])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_linear_is_logistic_regression_of_standardised_features(n_classes, n_features):
    X, y = blobs(n_classes, n_features=n_features)
    X = 3 * X + 7
    X_new = 3 * blobs(n_classes, n_features=n_features, seed=1)[0] + 7
    scaler = StandardScaler().fit(X)
    theirs = LogisticRegression(C=1 / 5.0, tol=1e-8, max_iter=2000).fit(scaler.transform(X), y)
    ours = LinearReadout([5.0]).fit(X, y)
    assert np.allclose(ours.predict_proba(X_new), theirs.predict_proba(scaler.transform(X_new)), atol=2e-3)


def test_penalty_of_linear_is_the_best_of_held_out_folds():
    X, y = blobs(spread=0.2, n_each=30)
    penalties = [0.01, 1.0, 100.0, 1e4]
    ours = LinearReadout(penalties, folds=4).fit(X, y)
    theirs = [LinearReadout([penalty]).fit(X[::2], y[::2]) for penalty in penalties]
    losses = [log_loss(y[1::2], one.predict_proba(X[1::2]), labels=one.classes_) for one in theirs]
    assert ours.penalty_ == penalties[int(np.argmin(losses))]
    assert ours.penalty_ not in (penalties[0], penalties[-1])
    with pytest.raises(ValueError, match="'car' has 1 images; expected one for each of 5 folds"):
        LinearReadout().fit(X[:9], ["car"] + ["cat"] * 8)


def test_fits_are_reproducible():
    X, y = blobs(spread=0.3)
    for name, make in READOUTS.items():
        half = make().fit(X[:30], y[:30])
        again = make().fit(X[:30].copy(), y[:30].copy())
        assert np.array_equal(half.predict_proba(X[30:]), again.predict_proba(X[30:])), name


@pytest.mark.parametrize("n_features", [10, 100])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_ridge_is_scikit_learns(n_classes, n_features):
    X, y = blobs(n_classes, n_features=n_features, spread=0.3)
    penalties = np.array([0.1, 10.0, 300.0])
    ours, theirs = RidgeReadout(penalties).fit(X, y), RidgeClassifierCV(penalties).fit(X, y)
    assert ours.penalty_ == theirs.alpha_
    assert np.allclose(ours.decision_function(X)[:, -1], np.atleast_2d(theirs.decision_function(X).T)[-1])
    with pytest.raises(ValueError, match="the same for all images"):
        RidgeReadout().fit(np.ones((4, 3)), list("aabb"))


@pytest.mark.parametrize("n_features", [3, 12, 40])
def test_left_out_predictions_are_refits(n_features):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((12, n_features)), rng.standard_normal((12, 2))
    basis = ridge_basis(torch.from_numpy(X), smallest_penalty=0.5)
    found = left_out_predictions(basis, torch.from_numpy(Y), torch.tensor(0.5, dtype=torch.float64)).numpy()
    for i in range(12):
        rest = np.arange(12) != i
        centred = X[rest] - X[rest].mean(0)
        weights = np.linalg.solve(
            centred.T @ centred + 0.5 * np.eye(n_features), centred.T @ (Y[rest] - Y[rest].mean(0))
        )
        assert np.allclose(found[i], Y[rest].mean(0) + (X[i] - X[rest].mean(0)) @ weights)


def test_temperature_is_the_minimum_of_the_log_loss():
    rng = np.random.default_rng(0)
    scores = 40 * rng.standard_normal((300, 4))
    labels = np.array([rng.choice(4, p=np.exp(row / 60) / np.exp(row / 60).sum()) for row in scores])

    def loss(temperature):
        logits = scores / temperature
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(300), labels])

    grid = np.logspace(1, 3, 400)
    assert best_temperature(scores, labels) == pytest.approx(grid[np.argmin([loss(t) for t in grid])], rel=0.02)
    assert best_temperature(-scores, labels) == pytest.approx(1e3 * scores.std(1).mean(), rel=0.01)  # worse than chance


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_are_scikit_learns(metric, monkeypatch):
    X, y = blobs(spread=0.3)
    X_new = blobs(spread=0.3, seed=1)[0]
    theirs = KNeighborsClassifier(5, metric=metric).fit(X, y)
    ours = NeighbourReadout([5], metric=metric).fit(X, y)
    assert np.allclose(ours.predict_proba(X_new), theirs.predict_proba(X_new))
    assert (ours.predict(X_new) == theirs.predict(X_new)).all()
    monkeypatch.setattr("neural_fits.behavior.readout.BLOCK_BYTES", 8 * len(X) * 7)
    assert np.allclose(ours.predict_proba(X_new), theirs.predict_proba(X_new))
    # the number is chosen by leaving each image out
    right = {}
    for k in (1, 3, 9, 33):
        rest = [np.arange(len(X)) != i for i in range(len(X))]
        found = [KNeighborsClassifier(k, metric=metric).fit(X[r], y[r]).predict(X[~r])[0] for r in rest]
        right[k] = (np.array(found) == y).mean()
    assert NeighbourReadout([1, 3, 9, 33], metric=metric).fit(X, y).n_neighbours_ == max(right, key=right.__getitem__)
    with pytest.raises(ValueError, match="below the 4 training images"):
        NeighbourReadout([9]).fit(X[:4], ["a", "b", "a", "b"])
    with pytest.raises(ValueError, match="whole numbers"):
        NeighbourReadout([0])


def test_prototypes_by_hand():
    X, y = blobs()
    X_new = blobs(seed=1)[0]
    euclidean = PrototypeReadout(metric="euclidean").fit(X, y)
    assert (euclidean.predict(X_new) == NearestCentroid().fit(X, y).predict(X_new)).all()
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosine = PrototypeReadout().fit(X, y)
    means = np.stack([unit[y == name].mean(0) for name in cosine.classes_])
    by_hand = X_new @ means.T / np.linalg.norm(X_new, axis=1)[:, None] / np.linalg.norm(means, axis=1)
    assert np.allclose(cosine.decision_function(X_new), by_hand)
    assert np.allclose(cosine.decision_function(5 * X_new), by_hand)
    # the temperature by means that each image is left out of
    for readout in (euclidean, cosine):
        scores = np.empty((len(X), 3))
        for i in range(len(X)):
            rest = np.arange(len(X)) != i
            one = PrototypeReadout(metric=readout.metric, temperature=1.0).fit(X[rest], y[rest])
            scores[i] = one.decision_function(X[i : i + 1])[0]
        labels = np.searchsorted(readout.classes_, y)
        assert readout.temperature_ == pytest.approx(best_temperature(scores, labels), rel=1e-4)
    with pytest.raises(ValueError, match="no class has two"):
        PrototypeReadout().fit(X[:2], ["a", "b"])
    assert PrototypeReadout(temperature=0.1).fit(X[:2], ["a", "b"]).predict(X[:2]).tolist() == ["a", "b"]
    for wrong in ({"metric": "manhattan"}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="expected"):
            PrototypeReadout(**wrong)


@pytest.mark.parametrize(
    "readout",
    [LinearReadout([1.0]), RidgeReadout(), PrototypeReadout(metric="euclidean")],
    ids=lambda r: type(r).__name__,
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_head_gives_the_probabilities_of_the_readout(readout, n_classes):
    X, y = blobs(n_classes)
    readout = copy.deepcopy(readout).fit(X, y)
    order = readout.classes_[::-1].tolist()
    head = linear_head(readout, classes=order)
    found = head(torch.from_numpy(X).float()).softmax(1).numpy()
    assert np.allclose(found[:, ::-1], readout.predict_proba(X), atol=1e-5)
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_head_of_what_is_not_linear_or_not_fitted():
    X, y = blobs()
    for readout in (NeighbourReadout().fit(X, y), PrototypeReadout().fit(X, y)):
        with pytest.raises(ValueError, match="not linear"):
            linear_head(readout)
    ridge = RidgeReadout().fit(X, y)
    with pytest.raises(ValueError, match="'owl' was not fitted"):
        linear_head(ridge, classes=[*ridge.classes_, "owl"])
    with pytest.raises(ValueError, match="knows class 'dog'"):
        linear_head(ridge, classes=["car", "cat"])


def last_leaf(module):
    """The layer that Brain-Score reads the 1,000 logits from."""
    while module._modules:
        module = list(module._modules.values())[-1]
    return module


@pytest.mark.parametrize("reduction", ["all", "spatial_mean", "pool:2"])
def test_thousand_way_head_on_a_network(reduction):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(6, 2, 3)
    ).train()
    rng = np.random.default_rng(0)
    wnids = np.array(["n02123045", "n02085936", "n03041632"])  # cat, dog, knife
    y = np.repeat(wnids, 8)
    images = rng.integers(0, 40, size=(24, 16, 16, 3), dtype=np.uint8)
    for i, channel in enumerate((0, 1, 2)):
        images[8 * i : 8 * i + 8, :, :, channel] += 200
    vision = VisionModel(network, "net", input_px=16)
    features = activations(vision, images, size_deg=8.0, layers=["1"], reduction=reduction)["1"]
    readout = RidgeReadout().fit(features.reshape(24, -1), y)
    head = linear_head(readout, classes=imagenet_classes(), absent_logit=float("-inf"))
    model = WithReadout(network, "1", head, reduction=reduction)
    assert last_leaf(model) is head
    assert head.out_features == 1000
    batch = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    logits = model(batch)
    assert np.array(imagenet_classes())[logits.argmax(1)].tolist() == readout.predict(features.reshape(24, -1)).tolist()
    assert category_choices(logits.softmax(1).numpy()).tolist() == ["cat"] * 8 + ["dog"] * 8 + ["knife"] * 8
    assert network.training
    with pytest.raises(ValueError, match="same layer, size of input and reduction"):
        WithReadout(network, "3", head, reduction=reduction)(batch)
    with pytest.raises(ValueError, match="'pca'"):
        WithReadout(network, "1", head, reduction="pca")
