"""Regressions on a few units, and read-outs that use where a unit looks.

The receptive-field positions of most recordings are unknown; :class:`LocationRidge` and :class:`SeparableRidge` find
them inside the training part of each split.
"""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from neural_fits.coordinates import BLOCK_BYTES, check_features, check_responses, feature_blocks
from neural_fits.ridge import (
    RidgeBasis,
    as_tensor,
    candidate_penalties,
    check_penalties,
    choose_penalties,
    cross_predict_by_fit,
    inner_folds,
    ridge_basis,
    ridge_cv_errors,
    ridge_weights,
    screening_error,
    smallest_cv_error,
    smallest_penalty,
)

#: Places that are compared over all penalties, for each neuron.
N_PLACES = 8


class Linear:
    """Ordinary least squares of each neuron on a few selected units.

    Parameters
    ----------
    n_units : int
        Units for each neuron, those with the largest squared correlation with it over the training stimuli.
    units : sequence of int, optional
        The same units for every neuron instead.
    block_bytes : int
        Bytes of one block of features in float64.

    Attributes
    ----------
    units_ : ndarray, (neuron, unit)
    coef_ : ndarray, (neuron, unit)
        Of the selected units.
    intercept_ : ndarray, (neuron,)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((50, 20))
    >>> model = Linear(n_units=1).fit(X, 2 * X[:, [7, 3]] + 1)
    >>> model.units_.tolist(), model.coef_.round(6).tolist(), model.intercept_.round(6).tolist()
    ([[7], [3]], [[2.0], [2.0]], [1.0, 1.0])
    """

    def __init__(self, n_units: int = 10, *, units: Sequence[int] | None = None, block_bytes: int = BLOCK_BYTES):
        self.n_units = n_units
        self.units = units
        self.block_bytes = block_bytes

    def fit(self, X, Y, *, groups=None) -> "Linear":
        """Fit responses ``Y`` (stimulus, neuron) to features ``X`` (stimulus, feature); ``groups`` changes nothing."""
        check_features(X)
        self._one = np.ndim(Y) == 1
        Y = check_responses(Y, X.shape[0])
        n, q = Y.shape
        if self.units is not None:
            units = np.asarray(self.units, dtype=int)
            if units.ndim != 1 or len(units) == 0 or units.min() < 0 or units.max() >= X.shape[1]:
                raise ValueError(f"units are {self.units}; expected column numbers from 0 to {X.shape[1] - 1}.")
            selected = np.tile(units, (q, 1))
        else:
            if not 1 <= self.n_units <= X.shape[1]:
                raise ValueError(f"n_units is {self.n_units}; expected 1 to the {X.shape[1]} features.")
            selected = self._most_correlated(X, Y)
        k = selected.shape[1]
        if k >= n:
            raise ValueError(f"{k} units with an intercept need more than {k} training stimuli; there are {n}.")
        y_mean = Y.mean(0)
        self.units_, self.n_features_in_ = selected, X.shape[1]
        self.coef_ = np.empty((q, k))
        self.intercept_ = np.empty(q)
        for units in np.unique(selected, axis=0):
            neurons = np.flatnonzero((selected == units).all(1))
            part = as_tensor(X[:, units]).cpu().numpy()
            mean = part.mean(0)
            weights = np.linalg.lstsq(part - mean, Y[:, neurons] - y_mean[neurons], rcond=None)[0]
            self.coef_[neurons] = weights.T
            self.intercept_[neurons] = y_mean[neurons] - mean @ weights
        return self

    def _most_correlated(self, X, Y: np.ndarray) -> np.ndarray:
        Yc = Y - Y.mean(0)
        best = np.full((self.n_units, Y.shape[1]), -1.0)
        index = np.zeros((self.n_units, Y.shape[1]), dtype=int)
        for where, block in feature_blocks(X, self.block_bytes):
            block = block.cpu().numpy() if isinstance(block, torch.Tensor) else block
            block = block - block.mean(0)
            power = (block**2).sum(0)
            # A unit that never changes has correlation 0, and rounding must not make it the best.
            alive = power > (np.finfo(np.float64).eps * len(block)) ** 2 * max(float(power.max()), 1e-300)
            squared = np.where(alive[:, None], (block.T @ Yc) ** 2 / np.where(alive, power, 1)[:, None], 0)
            best = np.concatenate([best, squared])
            index = np.concatenate([index, np.tile(np.arange(where.start, where.stop)[:, None], (1, Y.shape[1]))])
            order = np.argsort(-best, axis=0, kind="stable")[: self.n_units]
            best, index = np.take_along_axis(best, order, 0), np.take_along_axis(index, order, 0)
        return index.T

    def predict(self, X) -> np.ndarray:
        """Responses (stimulus, neuron) predicted for features ``X`` (stimulus, feature)."""
        check_features(X)
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"features have {X.shape[1]} columns; expected the {self.n_features_in_} that were fitted."
            )
        used, column = np.unique(self.units_, return_inverse=True)
        part = as_tensor(X[:, used]).cpu().numpy()
        predicted = np.einsum("nqk,qk->nq", part[:, column.reshape(self.units_.shape)], self.coef_) + self.intercept_
        return predicted[:, 0] if self._one else predicted

    def cross_predict(self, X, Y, splits, *, groups=None) -> list[np.ndarray]:
        """Predictions for the test part of each split; units are selected inside its training part."""
        return cross_predict_by_fit(self, X, Y, splits, groups=groups)


def _check_maps(X) -> torch.Tensor:
    if getattr(X, "ndim", 0) != 4:
        raise ValueError(
            f"features have shape {getattr(X, 'shape', None)}; expected (stimulus, channel, height, width): this "
            "regression looks for a place on the feature map."
        )
    X = as_tensor(X)
    if not bool(torch.isfinite(X).all()):
        raise ValueError("features hold NaN or infinity; expected finite numbers.")
    return X


class LocationRidge:
    """Ridge regression on the channels at one place of the feature map, found for each neuron in the training part.

    Places are ranked by the held-out error (as in :class:`~neural_fits.ridge.Ridge`) with the middle penalty; the best
    ``N_PLACES`` of each neuron (ours; ``benchmarks/readout_grid.py``) are then compared over all penalties. For
    recordings whose receptive-field positions are unknown.

    Parameters
    ----------
    penalties, folds, seed
        As in :class:`~neural_fits.ridge.Ridge`; the default penalties are relative to the features of each place.

    Attributes
    ----------
    location_ : ndarray, (neuron, 2)
        Row and column on the feature map.
    penalty_, cv_error_ : ndarray, (neuron,)
    coef_ : ndarray, (neuron, channel)
    intercept_ : ndarray, (neuron,)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 4, 5, 5))
    >>> Y = np.stack([X[:, :, 1, 2].sum(1), X[:, :, 4, 0].sum(1)], 1)
    >>> LocationRidge().fit(X, Y).location_.tolist()
    [[1, 2], [4, 0]]
    """

    def __init__(
        self, penalties: Sequence[float] | np.ndarray | None = None, *, folds: str | int = "loo", seed: int = 0
    ):
        self.penalties = check_penalties(penalties)
        self.folds = folds
        self.seed = seed

    def fit(self, X, Y, *, groups=None) -> "LocationRidge":
        """Fit responses ``Y`` (stimulus, neuron) to maps ``X`` (stimulus, channel, height, width)."""
        X = _check_maps(X)
        self._one = np.ndim(Y) == 1
        y = as_tensor(check_responses(Y, len(X)), X.device)
        n, channels, height, width = X.shape
        groups = None if groups is None else np.asarray(groups)
        folds = inner_folds(n, self.folds, groups=groups, seed=self.seed, device=X.device)
        q = y.shape[1]
        best = torch.full((q,), torch.inf, dtype=torch.float64, device=X.device)
        place = torch.zeros(q, dtype=torch.long, device=X.device)
        penalty = torch.ones(q, dtype=torch.float64, device=X.device)
        weights = torch.zeros(channels, q, dtype=torch.float64, device=X.device)
        places = X.reshape(n, channels, height * width).permute(2, 0, 1).contiguous()
        bases = [_basis_at(features, self.penalties) for features in places]
        ranking = torch.full((len(places), q), torch.inf, device=X.device)
        for location, (basis, candidates) in enumerate(bases):
            if len(basis.eigenvalues):  # a place that does not change with the stimulus predicts the mean
                ranking[location] = screening_error(basis, y, candidates[len(candidates) // 2], folds=folds)
        finalists = torch.zeros_like(ranking, dtype=torch.bool)
        order = ranking.argsort(0)[: min(N_PLACES, len(places))]
        finalists.scatter_(0, order, torch.ones_like(order, dtype=torch.bool))
        for location, (basis, candidates) in enumerate(bases):
            here = finalists[location].nonzero()[:, 0]
            if len(here) and len(basis.eigenvalues):
                error, index = smallest_cv_error(basis, y[:, here], candidates, folds=folds)
                better = error < best[here]
                here, index = here[better], index[better]
                best[here], place[here], penalty[here] = error[better], location, candidates[index]
        for location in torch.unique(place).tolist():
            here = (place == location).nonzero()[:, 0]
            if len(bases[location][0].eigenvalues):
                weights[:, here] = ridge_weights(bases[location][0], places[location], y[:, here], penalty[here])
        self.cv_error_ = best.cpu().numpy()
        self.penalty_ = penalty.cpu().numpy()
        self.location_ = np.stack(np.unravel_index(place.cpu().numpy(), (height, width)), 1)
        self.coef_ = weights.T.cpu().numpy()
        means = places.mean(1)[place]
        self.intercept_ = (y.mean(0) - (means * weights.T).sum(1)).cpu().numpy()
        self.map_shape_ = (channels, height, width)
        return self

    def predict(self, X) -> np.ndarray:
        """Responses (stimulus, neuron) predicted for maps ``X`` (stimulus, channel, height, width)."""
        X = _check_maps(X)
        _check_map_shape(X, self.map_shape_)
        X = X.cpu().numpy()
        predicted = np.empty((len(X), len(self.coef_)))
        for row, column in np.unique(self.location_, axis=0):
            neurons = (self.location_ == (row, column)).all(1)
            predicted[:, neurons] = X[:, :, row, column] @ self.coef_[neurons].T
        predicted += self.intercept_
        return predicted[:, 0] if self._one else predicted

    def cross_predict(self, X, Y, splits, *, groups=None) -> list[np.ndarray]:
        """Predictions for the test part of each split; place and penalty are chosen inside its training part."""
        return _splits_in_threads(self, X, Y, splits, groups)


def _basis_at(features: torch.Tensor, penalties: np.ndarray | None) -> tuple[RidgeBasis, torch.Tensor]:
    """Decomposition of the channels at one place, and the penalties to try there."""
    basis = ridge_basis(features, smallest_penalty=smallest_penalty(penalties, features))
    return basis, candidate_penalties(basis, penalties)


def _splits_in_threads(regression, X, Y, splits, groups) -> list[np.ndarray]:
    """Fit each split in a thread of its own: its many small decompositions gain nothing from several threads each."""
    pairs = list(splits)
    n_threads = torch.get_num_threads()
    workers = min(n_threads, len(pairs))
    if workers < 2 or (isinstance(X, torch.Tensor) and X.is_cuda):
        return cross_predict_by_fit(regression, X, Y, pairs, groups=groups)
    copies = [copy.copy(regression) for _ in pairs]

    def one(fitted, pair):
        return cross_predict_by_fit(fitted, X, Y, [pair], groups=groups)[0]

    torch.set_num_threads(1)
    try:
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            predictions = list(pool.map(one, copies, pairs))
    finally:
        torch.set_num_threads(n_threads)
    vars(regression).update(vars(copies[-1]))  # as after the last split
    return predictions


def _check_map_shape(X: torch.Tensor, shape: tuple[int, int, int]) -> None:
    if tuple(X.shape[1:]) != shape:
        raise ValueError(f"feature maps have shape {tuple(X.shape[1:])}; expected {shape} as fitted.")


class SeparableRidge:
    """Ridge regression with separable weights, space x feature, for each neuron (Klindt et al. 2017).

        y = b + sum over places l and channels c of  s_l f_c x_cl

    Starts from the place found by :class:`LocationRidge` and alternates: ridge for ``s`` with ``f`` fixed, ridge for
    ``f`` with ``s`` fixed, the penalty of each step chosen by held-out error inside the training part. Each neuron
    keeps the step with the smallest held-out error, so it is never worse there than one place.

    Parameters
    ----------
    penalties, folds, seed
        As in :class:`~neural_fits.ridge.Ridge`.
    n_rounds : int
        Rounds of the alternation at most; a neuron stops when its held-out error no longer falls.

    Attributes
    ----------
    spatial_ : ndarray, (neuron, height, width)
        Of unit length.
    coef_ : ndarray, (neuron, channel)
    intercept_, cv_error_ : ndarray, (neuron,)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 3, 4, 4))
    >>> y = (X[:, 0, 1, 1] + X[:, 0, 1, 2]) / 2
    >>> model = SeparableRidge().fit(X, y)
    >>> bool(np.allclose(model.spatial_[0, 1], [0, 0.5**0.5, 0.5**0.5, 0], atol=0.01))
    True
    >>> bool(np.allclose(model.coef_[0], [0.5**0.5, 0, 0], atol=0.01))
    True
    """

    def __init__(
        self,
        penalties: Sequence[float] | np.ndarray | None = None,
        *,
        folds: str | int = "loo",
        seed: int = 0,
        n_rounds: int = 5,
    ):
        self.penalties = check_penalties(penalties)
        self.folds = folds
        self.seed = seed
        self.n_rounds = n_rounds

    def fit(self, X, Y, *, groups=None) -> "SeparableRidge":
        """Fit responses ``Y`` (stimulus, neuron) to maps ``X`` (stimulus, channel, height, width)."""
        X = _check_maps(X)
        self._one = np.ndim(Y) == 1
        Y = check_responses(Y, len(X))
        start = LocationRidge(self.penalties, folds=self.folds, seed=self.seed).fit(X, Y, groups=groups)
        n, channels, height, width = X.shape
        groups = None if groups is None else np.asarray(groups)
        folds = inner_folds(n, self.folds, groups=groups, seed=self.seed, device=X.device)
        maps = X.reshape(n, channels, height * width)
        q = Y.shape[1]
        spatial = np.zeros((q, height * width))
        spatial[np.arange(q), np.ravel_multi_index(tuple(start.location_.T), (height, width))] = 1
        self.coef_, self.cv_error_ = start.coef_.copy(), start.cv_error_.copy()
        y = as_tensor(Y, X.device)
        for neuron in range(q):
            s, f, error = self._alternate(
                maps,
                y[:, neuron : neuron + 1],
                as_tensor(spatial[neuron], X.device),
                as_tensor(self.coef_[neuron], X.device),
                float(self.cv_error_[neuron]),
                folds,
            )
            length = float(torch.linalg.vector_norm(s)) or 1.0
            # the sign is free between the two factors: the strongest place is positive
            length *= float(torch.sign(s[s.abs().argmax()])) or 1.0
            spatial[neuron], self.coef_[neuron] = (s / length).cpu().numpy(), (f * length).cpu().numpy()
            self.cv_error_[neuron] = error
        self.spatial_ = spatial.reshape(q, height, width)
        self.map_shape_ = (channels, height, width)
        self.intercept_ = np.zeros(q)
        self.intercept_ = Y.mean(0) - self._products(X).mean(0)
        return self

    def _alternate(self, maps, y, s, f, error: float, folds):
        for _ in range(self.n_rounds):
            before = error
            step_s, step_f = s, f
            for side in ("space", "feature"):
                part = torch.einsum("ncl,c->nl", maps, step_f) if side == "space" else maps @ step_s
                basis = ridge_basis(part, smallest_penalty=smallest_penalty(self.penalties, part))
                if len(basis.eigenvalues) == 0:
                    return s, f, error
                penalty, new_error, candidates = choose_penalties(basis, y, self.penalties, folds=folds)
                if len(candidates) == 1:
                    new_error = ridge_cv_errors(basis, y, candidates, folds=folds)[0]
                weights = ridge_weights(basis, part, y, penalty)[:, 0]
                if side == "space":
                    step_s = weights
                else:
                    step_f = weights
                if float(new_error) < error:
                    s, f, error = step_s, step_f, float(new_error)
            if error > before * (1 - 1e-4):
                break
        return s, f, error

    def _products(self, X: torch.Tensor) -> np.ndarray:
        maps = X.reshape(len(X), X.shape[1], -1)
        s = as_tensor(self.spatial_.reshape(len(self.spatial_), -1), X.device)
        f = as_tensor(self.coef_, X.device)
        out = torch.empty(len(X), len(s), dtype=torch.float64, device=X.device)
        for start in range(0, len(s), 32):
            some = slice(start, start + 32)
            out[:, some] = torch.einsum("ncq,qc->nq", maps @ s[some].T, f[some])
        return out.cpu().numpy()

    def predict(self, X) -> np.ndarray:
        """Responses (stimulus, neuron) predicted for maps ``X`` (stimulus, channel, height, width)."""
        X = _check_maps(X)
        _check_map_shape(X, self.map_shape_)
        predicted = self._products(X) + self.intercept_
        return predicted[:, 0] if self._one else predicted

    def cross_predict(self, X, Y, splits, *, groups=None) -> list[np.ndarray]:
        """Predictions for the test part of each split; everything is chosen inside its training part."""
        return cross_predict_by_fit(self, X, Y, splits, groups=groups)
