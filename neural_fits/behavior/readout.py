"""Read-outs: labels from the features of a model that has no classifier.

All follow scikit-learn's conventions (``fit(X, y)``, ``predict``, ``predict_proba``, ``classes_``) with features ``X``
(image, feature) and any labels: the 16 categories, WordNet ids of the 1,000 ImageNet classes, or others. Whatever is
chosen (penalty, number of neighbours, temperature) is chosen inside the images given to ``fit``, by images held out
among them; scores that are not probabilities become so by a softmax whose temperature gives the smallest held-out log
loss (Guo et al. 2017, *ICML*). So probabilities can be averaged within categories
(:func:`neural_fits.behavior.categories.category_probabilities`). :mod:`neural_fits.behavior.head` puts those that are
linear on a network.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from neural_fits.ridge import (
    RidgeBasis,
    as_tensor,
    candidate_penalties,
    check_penalties,
    ridge_basis,
    ridge_cv_errors,
    ridge_weights,
    smallest_penalty,
)

METRICS = ("cosine", "euclidean")

#: Bytes of similarities of a block of images to all that were learned.
BLOCK_BYTES = 64 * 2**20


def best_temperature(scores, labels) -> float:
    """Temperature ``T`` for which ``softmax(scores / T)`` gives the labels the highest likelihood.

    Parameters
    ----------
    scores : array, (image, class)
        Of held-out images.
    labels : array of int, (image,)
        Column of the right class.

    Returns
    -------
    float
        Between a thousandth and a thousand times the standard deviation of the scores of an image.

    Examples
    --------
    >>> scores = np.random.default_rng(0).standard_normal((4000, 3))
    >>> labels = [np.random.default_rng(i).choice(3, p=softmax(row / 0.5)) for i, row in enumerate(scores)]
    >>> round(best_temperature(scores, labels), 1)
    0.5
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    scale = float(scores.std(1).mean()) or 1.0
    rows = np.arange(len(scores))

    def loss(log_sharpness: float) -> float:
        return -float(log_softmax(scores / scale * np.exp(log_sharpness), axis=1)[rows, labels].mean())

    found: Any = minimize_scalar(loss, bounds=(-np.log(1e3), np.log(1e3)), method="bounded")
    return scale / float(np.exp(found.x))


class LinearReadout:
    """Multinomial logistic regression on standardised features, with a penalty chosen by held-out log loss.

    Parameters
    ----------
    penalties : sequence of float, optional
        Of half the squared weights, beside the summed log loss (``1 / C`` in scikit-learn). Default: seven from 0.01
        to 10,000. One is taken as it is.
    folds : int
        Of the training images, with as equal numbers of each class as possible.
    max_iter : int
        Steps of the solver.
    seed : int
        Of the folds.

    Attributes
    ----------
    classes_ : ndarray, (class,)
    coef_ : ndarray, (class, feature)
        Of the features as given: the standardisation is folded in.
    intercept_ : ndarray, (class,)
    penalty_ : float

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["cat", "dog", "car"], 30)
    >>> X = rng.standard_normal((90, 200)) + 2 * np.repeat(rng.standard_normal((3, 200)), 30, axis=0)
    >>> readout = LinearReadout([0.1, 10.0]).fit(X[::2], y[::2])
    >>> float((readout.predict(X[1::2]) == y[1::2]).mean()), readout.coef_.shape
    (1.0, (3, 200))
    """

    def __init__(
        self, penalties: Sequence[float] | None = None, *, folds: int = 5, max_iter: int = 1000, seed: int = 0
    ):
        checked = check_penalties(np.logspace(-2, 4, 7) if penalties is None else penalties)
        assert checked is not None
        self.penalties = checked
        self.folds, self.max_iter, self.seed = folds, max_iter, seed

    def fit(self, X, y) -> "LinearReadout":
        """Fit labels ``y`` (image,) to features ``X`` (image, feature)."""
        X, labels, self.classes_ = _labelled(X, y)
        mean, deviation = X.mean(0), X.std(0)
        deviation = np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0)
        Z, back = (X - mean) / deviation, None
        if Z.shape[1] > len(Z):  # the weights lie in the span of the images, and lengths do not change with the basis
            left, singular, back = np.linalg.svd(Z, full_matrices=False)
            Z = left * singular
        self.penalty_ = float(self.penalties[0] if len(self.penalties) == 1 else self._choose(Z, labels))
        model = self._model(Z, labels, self.penalty_)
        weights = model.coef_ if back is None else model.coef_ @ back
        intercept = model.intercept_
        if len(self.classes_) == 2:  # scikit-learn keeps the difference of the two
            weights, intercept = (np.concatenate([-part, part]) / 2 for part in (weights, intercept))
        self.coef_ = weights / deviation
        self.intercept_ = intercept - self.coef_ @ mean
        return self

    def _model(self, Z: np.ndarray, labels: np.ndarray, penalty: float) -> LogisticRegression:
        return LogisticRegression(C=1 / penalty, max_iter=self.max_iter).fit(Z, labels)

    def _choose(self, Z: np.ndarray, labels: np.ndarray) -> float:
        _at_least(labels, self.classes_, self.folds)
        losses = np.zeros(len(self.penalties))
        splitter = StratifiedKFold(self.folds, shuffle=True, random_state=self.seed)
        for train, test in splitter.split(Z, labels):
            for i, penalty in enumerate(self.penalties):
                log_probabilities = self._model(Z[train], labels[train], penalty).predict_log_proba(Z[test])
                losses[i] -= log_probabilities[np.arange(len(test)), labels[test]].sum()
        return float(self.penalties[losses.argmin()])

    def linear_map(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (class, feature) and biases (class,) of the logits."""
        return self.coef_, self.intercept_

    def decision_function(self, X) -> np.ndarray:
        """Logits (image, class)."""
        return _features(X, self.coef_.shape[1]) @ self.coef_.T + self.intercept_

    def predict_proba(self, X) -> np.ndarray:
        """Probabilities (image, class)."""
        return softmax(self.decision_function(X), axis=1)

    def predict(self, X) -> np.ndarray:
        """Most probable label (image,)."""
        return self.classes_[self.decision_function(X).argmax(1)]


class RidgeReadout:
    """Ridge regression of +1 (the class) and -1 (others), one penalty for all, and a softmax of the scores.

    The penalty has the smallest squared error of left-out images; it and the temperature cost no refit
    (:mod:`neural_fits.ridge`), so this is the read-out for many classes and features.

    Parameters
    ----------
    penalties : sequence of float, optional
        Default: as :class:`neural_fits.ridge.Ridge`.

    Attributes
    ----------
    classes_ : ndarray, (class,)
    coef_ : ndarray, (class, feature)
    intercept_ : ndarray, (class,)
        Of the scores.
    penalty_, temperature_ : float

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((60, 100)), np.repeat([0, 1, 2], 20)
    >>> X[np.arange(60), y] += 4
    >>> RidgeReadout().fit(X, y).predict_proba(X).argmax(1)[[0, 20, 40]]
    array([0, 1, 2])
    """

    def __init__(self, penalties: Sequence[float] | None = None):
        self.penalties = check_penalties(penalties)

    def fit(self, X, y) -> "RidgeReadout":
        """Fit labels ``y`` (image,) to features ``X`` (image, feature)."""
        X, labels, self.classes_ = _labelled(X, y)
        features = as_tensor(X)
        targets = as_tensor(2.0 * (labels[:, None] == np.arange(len(self.classes_))) - 1)
        basis = ridge_basis(features, smallest_penalty=smallest_penalty(self.penalties, features))
        if len(basis.eigenvalues) == 0:
            raise ValueError("the features are the same for all images; expected features that differ.")
        candidates = candidate_penalties(basis, self.penalties)
        penalty = candidates[ridge_cv_errors(basis, targets, candidates).mean(1).argmin()]
        weights = ridge_weights(basis, features, targets, penalty.expand(targets.shape[1]))
        self.penalty_ = float(penalty)
        self.coef_ = weights.T.numpy()
        self.intercept_ = targets.mean(0).numpy() - self.coef_ @ X.mean(0)
        self.temperature_ = best_temperature(left_out_predictions(basis, targets, penalty).numpy(), labels)
        return self

    def linear_map(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (class, feature) and biases (class,) of the logits."""
        return self.coef_ / self.temperature_, self.intercept_ / self.temperature_

    def decision_function(self, X) -> np.ndarray:
        """Scores (image, class): 1 for the class, -1 for others."""
        return _features(X, self.coef_.shape[1]) @ self.coef_.T + self.intercept_

    def predict_proba(self, X) -> np.ndarray:
        """Probabilities (image, class)."""
        return softmax(self.decision_function(X) / self.temperature_, axis=1)

    def predict(self, X) -> np.ndarray:
        """Label with the highest score (image,)."""
        return self.classes_[self.decision_function(X).argmax(1)]


def left_out_predictions(basis: RidgeBasis, Y: Tensor, penalty: Tensor) -> Tensor:
    """Ridge prediction of each image as if it had been left out: ``y - (y - fit) / (1 - h)``.

    Parameters
    ----------
    basis : RidgeBasis
        Of the features.
    Y : Tensor, (image, target)
    penalty : Tensor, scalar

    Returns
    -------
    Tensor, (image, target)

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[1.0], [2.0], [3.0], [5.0]], dtype=torch.float64)
    >>> basis = ridge_basis(X, smallest_penalty=1e-9)
    >>> left_out_predictions(basis, 3 * X, torch.tensor(1e-9, dtype=torch.float64)).round(decimals=3)[:, 0]
    tensor([ 3.,  6.,  9., 15.], dtype=torch.float64)
    """
    U, Yc = basis.U, Y - Y.mean(0)
    shrunk = penalty / (basis.eigenvalues + penalty)
    rotated = U.T @ Yc
    residuals, left = U @ (shrunk[:, None] * rotated), (U * U) @ shrunk  # left: 1 - h
    if not basis.complete:
        residuals += Yc - U @ rotated
        left += 1 - 1 / len(U) - (U * U).sum(1)
    return Y - residuals / left[:, None]


class NeighbourReadout:
    """Share of the labels among the nearest training images.

    Parameters
    ----------
    n_neighbours : sequence of int
        To choose from, by the accuracy for left-out images (the smallest of the best). Default 1, 3, 5, 9, 17, 33.
    metric : {"cosine", "euclidean"}

    Attributes
    ----------
    classes_ : ndarray, (class,)
    n_neighbours_ : int

    Examples
    --------
    >>> X = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    >>> readout = NeighbourReadout([3], metric="euclidean").fit(X, list("aaabbb"))
    >>> readout.predict_proba([[0.3], [4.0]])
    array([[1., 0.],
           [0., 1.]])
    """

    def __init__(self, n_neighbours: Sequence[int] = (1, 3, 5, 9, 17, 33), *, metric: str = "cosine"):
        self.n_neighbours = sorted({int(k) for k in n_neighbours})
        if not self.n_neighbours or self.n_neighbours[0] < 1:
            raise ValueError(f"n_neighbours are {list(n_neighbours)}; expected whole numbers from 1.")
        self.metric = _metric(metric)

    def fit(self, X, y) -> "NeighbourReadout":
        """Keep the features ``X`` (image, feature) and labels ``y`` (image,)."""
        X, self._labels, self.classes_ = _labelled(X, y)
        self._X = _scaled(X, self.metric)
        possible = [k for k in self.n_neighbours if k < len(X)]
        if not possible:
            raise ValueError(f"n_neighbours are {self.n_neighbours}; expected one below the {len(X)} training images.")
        right = np.zeros(len(possible))
        for rows, nearest in self._nearest(self._X, possible[-1], leave_out=True):
            for i, k in enumerate(possible):
                right[i] += (self._votes(nearest[:, :k]).argmax(1) == self._labels[rows]).sum()
        self.n_neighbours_ = possible[int(right.argmax())]
        return self

    def _nearest(self, X: np.ndarray, k: int, *, leave_out: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of rows with the ``k`` nearest training images of each, nearest first."""
        height = max(1, BLOCK_BYTES // (8 * len(self._X)))
        for start in range(0, len(X), height):
            rows = np.arange(start, min(start + height, len(X)))
            near = _similarity(X[rows], self._X, self.metric)
            if leave_out:
                near[np.arange(len(rows)), rows] = -np.inf
            yield rows, np.argsort(-near, axis=1, kind="stable")[:, :k]

    def _votes(self, nearest: np.ndarray) -> np.ndarray:
        votes = np.zeros((len(nearest), len(self.classes_)))
        np.add.at(votes, (np.arange(len(nearest))[:, None], self._labels[nearest]), 1 / nearest.shape[1])
        return votes

    def predict_proba(self, X) -> np.ndarray:
        """Probabilities (image, class): shares of the votes."""
        X = _scaled(_features(X, self._X.shape[1]), self.metric)
        return np.concatenate([self._votes(nearest) for _, nearest in self._nearest(X, self.n_neighbours_)])

    def predict(self, X) -> np.ndarray:
        """Most frequent label (image,); of equal ones the first in ``classes_``."""
        return self.classes_[self.predict_proba(X).argmax(1)]


class PrototypeReadout:
    """Nearest class mean, and a softmax over similarities to the means.

    Parameters
    ----------
    metric : {"cosine", "euclidean"}
        Cosine of the angle to the mean of unit-length features, or minus the squared distance to the mean.
    temperature : float, optional
        Default: chosen by images that are left out of the mean of their class; needed where no class has two images.

    Attributes
    ----------
    classes_ : ndarray, (class,)
    prototypes_ : ndarray, (class, feature)
    temperature_ : float

    Examples
    --------
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.1], [1.0, 0.0]])
    >>> PrototypeReadout().fit(X, ["a", "a", "b", "b"]).predict([[0.2, 0.9], [0.9, 0.2]]).tolist()
    ['a', 'b']
    """

    def __init__(self, *, metric: str = "cosine", temperature: float | None = None):
        self.metric = _metric(metric)
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected a positive number.")
        self.temperature = temperature

    def fit(self, X, y) -> "PrototypeReadout":
        """Take the mean of the features ``X`` (image, feature) of each label in ``y`` (image,)."""
        X, labels, self.classes_ = _labelled(X, y)
        X = _scaled(X, self.metric)
        counts = np.bincount(labels)
        self.prototypes_ = np.stack([X[labels == i].mean(0) for i in range(len(counts))])
        if self.temperature is not None:
            self.temperature_ = float(self.temperature)
            return self
        shared = np.flatnonzero(counts[labels] > 1)
        if len(shared) == 0:
            raise ValueError("no class has two images, so no temperature can be chosen; give one.")
        scores = self._scores(X, self.prototypes_)
        n = counts[labels[shared], None]
        without = (n * self.prototypes_[labels[shared]] - X[shared]) / (n - 1)
        if self.metric == "cosine":
            scores[shared, labels[shared]] = (X[shared] * _scaled(without, "cosine")).sum(1)
        else:
            scores[shared, labels[shared]] = -((X[shared] - without) ** 2).sum(1)
        self.temperature_ = best_temperature(scores[shared], labels[shared])
        return self

    def _scores(self, X: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
        return _similarity(X, _scaled(prototypes, self.metric), self.metric)

    def linear_map(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (class, feature) and biases (class,) of the logits; of the metric "euclidean" only."""
        if self.metric != "euclidean":
            raise ValueError("cosine similarity is not linear in the features; expected metric='euclidean' for a head.")
        return 2 * self.prototypes_ / self.temperature_, -(self.prototypes_**2).sum(1) / self.temperature_

    def decision_function(self, X) -> np.ndarray:
        """Similarities (image, class)."""
        return self._scores(_scaled(_features(X, self.prototypes_.shape[1]), self.metric), self.prototypes_)

    def predict_proba(self, X) -> np.ndarray:
        """Probabilities (image, class)."""
        return softmax(self.decision_function(X) / self.temperature_, axis=1)

    def predict(self, X) -> np.ndarray:
        """Label of the most similar prototype (image,)."""
        return self.classes_[self.decision_function(X).argmax(1)]


#: Read-outs by name; each is made without arguments, or with its own keywords.
READOUTS: dict[str, Callable[..., Any]] = {
    "linear": LinearReadout,
    "ridge": RidgeReadout,
    "neighbours": NeighbourReadout,
    "prototypes": PrototypeReadout,
}


def _labelled(X, y) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X, y = _features(X), np.asarray(y)
    if y.shape != (len(X),):
        raise ValueError(f"labels have shape {y.shape}; expected one for each of {len(X)} images.")
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels hold {len(classes)} class; expected at least 2.")
    return X, labels, classes


def _features(X, n_features: int | None = None) -> np.ndarray:
    X = X.detach().cpu().numpy() if isinstance(X, Tensor) else np.asarray(X)
    X = X.astype(np.float64)
    if X.ndim != 2 or len(X) == 0 or (n_features is not None and X.shape[1] != n_features):
        raise ValueError(f"features have shape {X.shape}; expected (image, {n_features or 'feature'}).")
    if not np.isfinite(X).all():
        raise ValueError("features hold NaN or infinity; expected finite numbers.")
    return X


def _at_least(labels: np.ndarray, classes: np.ndarray, n: int) -> None:
    counts = np.bincount(labels)
    if counts.min() < n:
        raise ValueError(
            f"class {classes[counts.argmin()].item()!r} has {counts.min()} images; expected one for each of {n} folds "
            "at least, or one penalty to take as it is."
        )


def _metric(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}.")
    return metric


def _scaled(X: np.ndarray, metric: str) -> np.ndarray:
    """Features of unit length for the cosine; those that are all zero stay so."""
    if metric == "euclidean":
        return X
    length = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(length > 0, length, 1)


def _similarity(X: np.ndarray, others: np.ndarray, metric: str) -> np.ndarray:
    """Cosine of scaled features, or minus the squared distance, (image, other)."""
    products = X @ others.T
    return products if metric == "cosine" else 2 * products - (X**2).sum(1)[:, None] - (others**2).sum(1)
