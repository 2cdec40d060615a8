"""Partial least squares regression in sample coordinates: exactly scikit-learn's numbers, for any number of features.

PLS with ``scale=False`` does not depend on how the feature axis is rotated, so everything it needs from the features
``X`` (stimulus x feature) is the Gram matrix ``K = X X'`` (stimulus x stimulus). One Gram, formed once in one pass over
the features, serves every split of the stimuli, every number of components and every neuron.

The power iteration, its start and its stopping rule are those of scikit-learn's NIPALS (``PLSRegression``, Wegelin
2000), so results agree to rounding even where the iteration is stopped before it has converged, the usual case at the
default ``tol`` of 1e-6: another solver of the same problem (SIMPLS, an SVD per component) gives other predictions.
"""

import contextlib
import dataclasses
import functools
import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dsymv, dsyr, dsyr2  # type: ignore[attr-defined]
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController

from neural_fits.coordinates import (
    BLOCK_BYTES,
    SampleCoordinates,
    check_features,
    check_responses,
    feature_blocks,
    sample_coordinates,
)
from neural_fits.splits import grouped_kfold_splits, kfold_splits

EPS = float(np.finfo(np.float64).eps)

#: Estimated relative rounding error of a component above which a Gram matrix is given up for a QR factor.
GRAM_ROUNDING_LIMIT = 2e-12


@functools.cache
def _threadpools() -> ThreadpoolController:
    return ThreadpoolController()


def _one_thread() -> contextlib.AbstractContextManager:
    """BLAS on one thread, for the many tiny products: waking others costs more than they do, far more on a busy CPU."""
    return _threadpools().limit(limits=1, user_api="blas")


def _power_iteration(M: np.ndarray, start: np.ndarray, *, tol: float, max_iter: int) -> tuple[np.ndarray, int]:
    """NIPALS inner loop in neuron coordinates: the last ``c`` with ``w = Xk' Yk c / |Xk' Yk c|``, and its iterations.

    ``M = Yk' Kk Yk`` (upper triangle, Fortran order). One iteration is ``w = X'u/|X'u|``, ``t = Xw``, ``c = Y't``,
    ``u = Yc`` up to scale, i.e. ``c <- M c``; with unit ``c``, ``|X'Yc|^2 = c'Mc``, and the squared step of ``w`` that
    scikit-learn compares with ``tol`` is ``2 - 2 c_i'M c_{i-1} / sqrt(c_i'M c_i  c_{i-1}'M c_{i-1})``.
    """
    c = start / math.sqrt(start @ start)
    d_old = s_old = 0.0
    c_old = v_old = c
    for iteration in range(1, max_iter + 1):
        v = dsymv(1.0, M, c)
        d = float(c @ v)
        if d <= 0 or len(c) == 1:
            return c, iteration
        if iteration > 1:
            step = 2 - 2 * s_old / math.sqrt(d * d_old)
            if step < 1e-9:  # the difference of two numbers near 1 resolves no more: take it on the vectors
                x = c / math.sqrt(d) - c_old / math.sqrt(d_old)
                step = float(x @ (v / math.sqrt(d) - v_old / math.sqrt(d_old)))
            if step < tol:
                return c, iteration
        if iteration == max_iter:
            break
        c_old, v_old, d_old, s_old = c, v, d, math.sqrt(v @ v)
        c = v / s_old
    return c, max_iter


@dataclasses.dataclass(frozen=True, eq=False)
class DualPLS:
    """PLS of one training set, in sample coordinates.

    Attributes
    ----------
    train : ndarray, (training stimulus,)
        Rows that were fitted.
    dual_weights : ndarray, (training stimulus, component)
        ``A``: the feature weights are ``W = Xc[train]' A``, with unit columns.
    scores : ndarray, (stimulus, component)
        ``T``: scores of **all** stimuli, training or not, about the training mean.
    y_loadings : ndarray, (component, neuron)
    y_mean : ndarray, (neuron,)
        Mean response over the training stimuli.
    triangle : ndarray, (component, component)
        ``P'W``, unit upper triangular; the rotations are ``W (P'W)^-1``.
    n_iter : ndarray, (component,)
        Iterations of the power method; ``max_iter`` means not converged.
    rounding : ndarray, (component,)
        Estimated relative rounding error of each component in these coordinates.
    exhausted : {"", "responses", "features"}
        What was used up where there are fewer components than asked for: the responses are fitted exactly, or the
        features left over are rounding noise (scikit-learn goes on in that noise, with arbitrary results).
    """

    train: np.ndarray
    dual_weights: np.ndarray
    scores: np.ndarray
    y_loadings: np.ndarray
    y_mean: np.ndarray
    triangle: np.ndarray
    n_iter: np.ndarray
    rounding: np.ndarray
    exhausted: str

    @property
    def n_components(self) -> int:
        """Components found."""
        return len(self.n_iter)

    def predict(self, stimuli: np.ndarray, n_components: int | None = None) -> np.ndarray:
        """Predicted responses (stimulus, neuron) to rows of the coordinates, by the first ``n_components``."""
        k = self.n_components if n_components is None else min(n_components, self.n_components)
        return self.y_mean + self.scores[stimuli, :k] @ self.y_loadings[:k]


class _TrainingSet:
    """What one training set carries from component to component."""

    def __init__(self, rows: np.ndarray, n_stimuli: int, n_components: int, n_coordinates: int):
        self.rows = rows
        self.scores = np.zeros((n_components, n_stimuli))
        self.T = np.zeros((n_components, len(rows)))
        self.norms = np.zeros(n_components)
        self.B = np.zeros((n_components, n_coordinates))
        self.A = np.zeros((n_components, len(rows)))
        self.triangle = np.eye(n_components)
        self.n_iter: list[int] = []
        self.rounding: list[float] = []
        self.exhausted = ""

    @property
    def k(self) -> int:
        return len(self.n_iter)

    def set_cross_product(self, M: np.ndarray) -> None:
        self.M = np.asfortranarray(M)
        self.trace_when_set = float(np.trace(M))

    def residual(self, columns: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Centred responses ``columns`` (of the training stimuli, in coordinates ``c``) less what is explained."""
        k = self.k
        return columns - columns.mean(0) - self.T[:k].T @ (self.B[:k] @ c)


def _cross_product(coordinates: SampleCoordinates, rows: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """``R'KR`` of residuals (training stimulus, coordinate), from its definition."""
    if coordinates.kind == "gram":
        return residuals.T @ (coordinates.matrix[np.ix_(rows, rows)] @ residuals)
    G = coordinates.matrix[rows].T @ residuals
    return G.T @ G


def _first_cross_product(
    coordinates: SampleCoordinates, V: np.ndarray, KV: np.ndarray, VKV: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """``Vc'KVc`` of one training set: that of all stimuli, less the part of the held-out ones where they are few."""
    n = len(V)
    mean = V[rows].mean(0)
    held_out = np.setdiff1d(np.arange(n), rows)
    if 2 * len(held_out) < len(rows):
        used = np.zeros((n, 1))
        used[rows] = 1
        with _one_thread():
            K_used = coordinates.apply(used)[:, 0]
            V_out = V[held_out]
            E_KV = V_out.T @ KV[held_out] + np.outer(mean, used[:, 0] @ KV)
            cross = np.outer(V_out.T @ K_used[held_out], mean)
            E_KE = V_out.T @ coordinates.select(held_out).apply(V_out) + cross + cross.T
            E_KE += (used[:, 0] @ K_used) * np.outer(mean, mean)
        M = VKV - E_KV - E_KV.T + E_KE
        if np.trace(M) > 0.1 * np.trace(VKV):
            return M
    return _cross_product(coordinates, rows, V[rows] - mean)


def _prepare_step(one: _TrainingSet, V: np.ndarray, basis: np.ndarray | None, coordinates: SampleCoordinates):
    """Where the power iteration starts (None: responses exhausted), with ``M`` renewed when it has lost digits."""
    if one.M.trace() < 1e-3 * one.trace_when_set:
        residuals = one.residual(V[one.rows], np.eye(V.shape[1]))
        one.set_cross_product(_cross_product(coordinates, one.rows, residuals))
    n_neurons = V.shape[1] if basis is None else len(basis)
    for neuron in range(n_neurons):
        if basis is None:
            start, column = np.eye(1, n_neurons, neuron)[0], V[one.rows, neuron]
        else:
            start, column = basis[neuron], V[one.rows] @ basis[neuron]
        # scikit-learn starts from the first neuron with a residual, and takes residuals below 10 eps for zero.
        if np.any(np.abs(one.residual(column, start)) >= 10 * EPS):
            return start
    one.exhausted = "responses"
    return None


def _add_component(
    one: _TrainingSet, u: np.ndarray, v: np.ndarray, coordinates: SampleCoordinates, scale: float, n_iter: int
) -> bool:
    """Store the component of residual ``u`` and ``v = K u`` (all stimuli); False if only rounding noise is left."""
    v = v - v[one.rows].mean()
    d = float(u @ v[one.rows])
    length = math.sqrt(u @ u)
    if d <= 0:
        one.exhausted = "features"
        return False
    t = v / math.sqrt(d)
    k = one.k
    for _ in range(2):  # once leaves an error that grows with the number of components
        coefficients = (one.T[:k] @ t[one.rows]) / one.norms[:k]
        t -= coefficients @ one.scores[:k]
        one.triangle[:k, k] += coefficients
    norm = float(t[one.rows] @ t[one.rows])
    noise = EPS * scale / math.sqrt(d)
    if coordinates.kind == "gram":
        rounding = max(noise * scale * length**2 / math.sqrt(d), noise * scale * length / math.sqrt(norm))
    else:
        rounding = max(noise * length, EPS * scale / math.sqrt(norm)) if norm > 0 else math.inf
    if not rounding < 1e-3:
        one.exhausted = "features"
        return False
    one.A[k] = u / math.sqrt(d)
    one.scores[k], one.T[k], one.norms[k] = t, t[one.rows], norm
    one.n_iter.append(n_iter)
    one.rounding.append(rounding)
    return True


def _next_component(
    coordinates: SampleCoordinates,
    V: np.ndarray,
    basis: np.ndarray | None,
    sets: list[_TrainingSet],
    *,
    scale: float,
    tol: float,
    max_iter: int,
    last: bool,
) -> None:
    """One more component of every training set; products with ``K`` and ``V`` are made for all of them together."""
    active, C, iterations = [], [], []
    with _one_thread():
        for one in sets:
            start = None if one.exhausted else _prepare_step(one, V, basis, coordinates)
            if start is not None:
                c, n_iter = _power_iteration(one.M, start, tol=tol, max_iter=max_iter)
                active.append(one)
                C.append(c)
                iterations.append(n_iter)
    if not active:
        return
    U = V @ np.stack(C, 1)
    with _one_thread():
        for s, (one, c) in enumerate(zip(active, C, strict=True)):
            u = one.residual(U[one.rows, s], c)
            U[:, s] = 0
            U[one.rows, s] = u
    KU = coordinates.apply(U)
    T = np.zeros_like(U)
    with _one_thread():
        for s, one in enumerate(active):
            if _add_component(one, U[one.rows, s], KU[:, s], coordinates, scale, iterations[s]):
                T[one.rows, s] = one.T[one.k - 1]
    loadings = V.T @ T
    for s, one in enumerate(active):
        if not one.exhausted:
            one.B[one.k - 1] = loadings[:, s] / one.norms[one.k - 1]
    if last:
        return
    H = coordinates.apply(T)
    for s, one in enumerate(active):
        h = H[one.rows, s]
        H[:, s] = 0
        H[one.rows, s] = h - h.mean()
    G = V.T @ H
    with _one_thread():
        for s, one in enumerate(active):
            if not one.exhausted:
                k = one.k - 1
                h = H[one.rows, s]
                g = G[:, s] - (one.T[:k] @ h) @ one.B[:k]
                one.M = dsyr2(-1.0, g, one.B[k], a=one.M, overwrite_a=1)
                one.M = dsyr(float(one.T[k] @ h), one.B[k], a=one.M, overwrite_a=1)


def pls_dual(
    coordinates: SampleCoordinates,
    Y: np.ndarray,
    trains: Sequence[np.ndarray],
    *,
    n_components: int,
    tol: float = 1e-6,
    max_iter: int = 500,
) -> list[DualPLS]:
    """PLS of many training sets that share one Gram; all components from 1 to ``n_components`` in one pass.

    With ``u = Yk c`` (responses left over), the weights ``w = Xk'u / |Xk'u|`` are ``Xc'a`` with ``a = u / sqrt(u'Ku)``,
    because ``u`` is orthogonal to the earlier scores; the scores are ``t = K a`` made orthogonal to them on the
    training rows, the same combination on all other rows. The power iteration runs on ``M = Yk'KYk``, which deflation
    changes by a matrix of rank two.

    Parameters
    ----------
    coordinates : SampleCoordinates
        Of all stimuli, training or not.
    Y : ndarray, (stimulus, neuron), float64
    trains : sequence of integer arrays
        Training rows of each split.
    n_components, tol, max_iter
        As in scikit-learn's ``PLSRegression``.

    Returns
    -------
    list of DualPLS, one for each training set

    Raises
    ------
    ValueError
        If a training set repeats rows, has fewer than two, or allows fewer than ``n_components``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.standard_normal((20, 300)), rng.standard_normal((20, 4))
    >>> fit, = pls_dual(sample_coordinates(X), Y, [np.arange(15)], n_components=3)
    >>> fit.predict(np.arange(15, 20)).shape
    (5, 4)
    """
    n, n_neurons = Y.shape
    n_features = len(coordinates.mean)
    for train in trains:
        limit = min(len(train), n_features)
        if len(train) < 2 or not 1 <= n_components <= limit:
            raise ValueError(
                f"n_components is {n_components}; expected 1 to {limit} with {len(train)} training stimuli (at least 2 "
                f"are needed) and {n_features} features."
            )
        if len(np.unique(train)) != len(train):
            raise ValueError("a training set holds the same row twice; expected distinct rows.")
    V = Y - Y.mean(0)
    basis = None
    if n_neurons > n:  # the same iteration in an orthonormal basis of the responses
        basis, factor = np.linalg.qr(V.T)
        V = np.ascontiguousarray(factor.T)
    q = V.shape[1]
    KV = coordinates.apply(V)
    VKV = V.T @ KV
    scale = coordinates.scale
    block = max(1, int(256e6 // (8 * q * q)))
    fits: list[DualPLS] = []
    for first in range(0, len(trains), block):
        sets = []
        for rows in trains[first : first + block]:
            one = _TrainingSet(np.asarray(rows), n, n_components, q)
            one.set_cross_product(_first_cross_product(coordinates, V, KV, VKV, one.rows))
            sets.append(one)
        small = n * max(n, q) * len(sets) < 1e7
        with _one_thread() if small else contextlib.nullcontext():
            for k in range(n_components):
                last = k == n_components - 1
                _next_component(coordinates, V, basis, sets, scale=scale, tol=tol, max_iter=max_iter, last=last)
        for one in sets:
            k = one.k
            fits.append(
                DualPLS(
                    train=one.rows,
                    dual_weights=one.A[:k].T,
                    scores=one.scores[:k].T,
                    y_loadings=one.B[:k] if basis is None else one.B[:k] @ basis.T,
                    y_mean=Y[one.rows].mean(0),
                    triangle=one.triangle[:k, :k],
                    n_iter=np.array(one.n_iter, dtype=int),
                    rounding=np.array(one.rounding),
                    exhausted=one.exhausted,
                )
            )
    return fits


def pls_splits(
    X,
    Y: np.ndarray,
    trains: Sequence[np.ndarray],
    *,
    n_components: int = 25,
    tol: float = 1e-6,
    max_iter: int = 500,
    coordinates: str | SampleCoordinates = "auto",
    block_bytes: int = BLOCK_BYTES,
) -> tuple[SampleCoordinates, list[DualPLS]]:
    """:func:`pls_dual` in coordinates that are good enough: a Gram, or a QR factor where the Gram has lost digits.

    Squaring the features squares their condition, so a component that lies in weak directions is inexact in a Gram.
    The rounding error of each component is estimated, ``eps |K| |u|^2 / u'Ku``; above ``GRAM_ROUNDING_LIMIT``
    everything is computed again from a QR factor of the centred features, whose error is far smaller.

    Parameters
    ----------
    X : array, memory map or torch.Tensor, (stimulus, feature)
    Y : ndarray, (stimulus, neuron), float64
    trains : sequence of integer arrays
    n_components, tol, max_iter
        As in scikit-learn's ``PLSRegression``.
    coordinates : {"auto", "gram", "qr", "features"} or SampleCoordinates
        A name other than ``"auto"`` is kept whatever the error; a
        :class:`~neural_fits.coordinates.SampleCoordinates` is used as it is.
    block_bytes : int
        Bytes of one block of features in float64.

    Returns
    -------
    coordinates : SampleCoordinates
        Those used; ``coordinates.kind`` says which.
    fits : list of DualPLS

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.standard_normal((20, 300)), rng.standard_normal((20, 4))
    >>> coordinates, fits = pls_splits(X, Y, [np.arange(15), np.arange(5, 20)], n_components=3)
    >>> coordinates.kind, len(fits)
    ('gram', 2)
    """
    automatic = isinstance(coordinates, str) and coordinates == "auto"
    if isinstance(coordinates, str):
        coordinates = sample_coordinates(X, kind=coordinates, block_bytes=block_bytes)
    fits = pls_dual(coordinates, Y, trains, n_components=n_components, tol=tol, max_iter=max_iter)
    if automatic and coordinates.kind == "gram":
        worst = max(float(fit.rounding.max(initial=0.0)) for fit in fits)
        if worst > GRAM_ROUNDING_LIMIT or any(fit.exhausted == "features" for fit in fits):
            coordinates = sample_coordinates(X, kind="qr", block_bytes=block_bytes)
            fits = pls_dual(coordinates, Y, trains, n_components=n_components, tol=tol, max_iter=max_iter)
    return coordinates, fits


def choose_n_components(
    coordinates: SampleCoordinates,
    Y: np.ndarray,
    trains: Sequence[np.ndarray],
    candidates: Sequence[int] | np.ndarray,
    *,
    folds: int = 5,
    groups: np.ndarray | None = None,
    seed: int = 0,
    tol: float = 1e-6,
    max_iter: int = 500,
) -> np.ndarray:
    """Number of components with the best explained variance on folds inside each training set (nested choice).

    ``score(k) = mean over neurons of 1 - sum (y - yhat_k)^2 / sum (y - ybar)^2`` on the held-out folds; ties go to the
    smaller number. Every candidate comes out of the same pass.

    Parameters
    ----------
    coordinates : SampleCoordinates
    Y : ndarray, (stimulus, neuron), float64
    trains : sequence of integer arrays
        The training rows of each split; nothing else is looked at.
    candidates : sequence of int
    folds : int
        Folds inside each training set.
    groups : array, (stimulus,), optional
        Labels kept together in a fold (movie, texture family).
    seed : int
        Of the random folds.
    tol, max_iter
        As in scikit-learn's ``PLSRegression``.

    Returns
    -------
    ndarray of int, (training set,)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 200)) @ np.diag(1 / np.arange(1.0, 201))
    >>> Y = X[:, :1] + 0.5 * rng.standard_normal((60, 5))
    >>> choose_n_components(sample_coordinates(X), Y, [np.arange(50)], [1, 20])
    array([1])
    """
    candidates = np.sort(np.asarray(candidates, dtype=int))
    inner_trains, inner_tests = [], []
    for train in trains:
        if groups is None:
            inner = kfold_splits(len(train), n_folds=folds, seed=seed)
        else:
            inner = grouped_kfold_splits(np.asarray(groups)[train], n_folds=folds, seed=seed)
        inner_trains += [train[rows] for rows in inner.train]
        inner_tests += [train[rows] for rows in inner.test]
    fits = pls_dual(coordinates, Y, inner_trains, n_components=int(candidates[-1]), tol=tol, max_iter=max_iter)
    chosen = []
    for i, train in enumerate(trains):
        total = ((Y[train] - Y[train].mean(0)) ** 2).sum(0)
        errors = np.zeros((len(candidates), Y.shape[1]))
        for fit, test in zip(fits[i * folds : (i + 1) * folds], inner_tests[i * folds : (i + 1) * folds], strict=True):
            for j, k in enumerate(candidates):
                errors[j] += ((Y[test] - fit.predict(test, int(k))) ** 2).sum(0)
        explained = 1 - errors[:, total > 0] / total[total > 0]
        chosen.append(candidates[np.argmax(explained.mean(1))])
    return np.array(chosen)


class PLS:
    """Partial least squares regression with the numbers of ``sklearn.cross_decomposition.PLSRegression(scale=False)``.

    Parameters
    ----------
    n_components : int or sequence of int
        Number of components; of several, the best on folds inside the training part is taken
        (:func:`choose_n_components`).
    tol, max_iter
        Stopping rule of the power iteration, as in scikit-learn.
    folds : int
        Folds inside the training part.
    seed : int
        Of these folds.
    coordinates : {"auto", "gram", "qr", "features"}
        See :func:`pls_splits`.
    block_bytes : int
        Bytes of one block of features in float64.

    Attributes
    ----------
    coordinates_ : str
        Sample coordinates used: ``"gram"``, ``"qr"`` or ``"features"``.
    n_components_ : int
        Components in use; fewer than asked for where features or responses are exhausted.
    x_weights_, x_rotations_ : ndarray, (feature, component)
    x_scores_ : ndarray, (stimulus, component)
    y_loadings_ : ndarray, (neuron, component)
    x_mean_, y_mean_ : ndarray, (feature,) and (neuron,)
    n_iter_ : ndarray, (component,)
    coef_ : ndarray, (neuron, feature)
    intercept_ : ndarray, (neuron,)
        As in scikit-learn, ``Y = (X - x_mean_) coef_' + intercept_``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.standard_normal((30, 500)), rng.standard_normal((30, 3))
    >>> from sklearn.cross_decomposition import PLSRegression
    >>> ours, theirs = PLS(n_components=4).fit(X, Y), PLSRegression(n_components=4, scale=False).fit(X, Y)
    >>> bool(np.allclose(ours.predict(X), theirs.predict(X), rtol=1e-9))
    True
    """

    def __init__(
        self,
        n_components: int | Sequence[int] = 25,
        *,
        tol: float = 1e-6,
        max_iter: int = 500,
        folds: int = 5,
        seed: int = 0,
        coordinates: str = "auto",
        block_bytes: int = BLOCK_BYTES,
    ):
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.folds = folds
        self.seed = seed
        self.coordinates = coordinates
        self.block_bytes = block_bytes

    def _solve(self, X, Y, trains, groups):
        options = {"tol": self.tol, "max_iter": self.max_iter}
        candidates = np.atleast_1d(np.asarray(self.n_components))
        coordinates, fits = pls_splits(
            X,
            Y,
            trains,
            n_components=int(candidates.max()),
            coordinates=self.coordinates,
            block_bytes=self.block_bytes,
            **options,
        )
        if len(candidates) > 1:
            inner = {"folds": self.folds, "groups": groups, "seed": self.seed}
            numbers = choose_n_components(coordinates, Y, trains, candidates, **inner, **options)
        else:
            numbers = np.repeat(candidates, len(trains))
        stopped = sum(int((fit.n_iter >= self.max_iter).sum()) for fit in fits) if Y.shape[1] > 1 else 0
        if stopped:
            warnings.warn(
                f"the power iteration of {stopped} of {sum(fit.n_components for fit in fits)} components was stopped "
                f"after max_iter={self.max_iter} steps (scikit-learn stops there too).",
                ConvergenceWarning,
                stacklevel=3,
            )
        return coordinates, fits, numbers

    def fit(self, X, Y, *, groups=None) -> "PLS":
        """Fit responses ``Y`` (stimulus, neuron) to features ``X`` (stimulus, feature).

        Parameters
        ----------
        X : array, memory map or torch.Tensor, (stimulus, feature)
        Y : array, (stimulus,) or (stimulus, neuron)
        groups : array, (stimulus,), optional
            Labels kept together when the number of components is chosen.

        Returns
        -------
        PLS
            Itself.

        Raises
        ------
        ValueError
            If shapes disagree or a value is not finite (neurons are named).
        """
        check_features(X)
        self._one = np.ndim(Y) == 1
        Y = check_responses(Y, X.shape[0])
        coordinates, (fit,), (number,) = self._solve(X, Y, [np.arange(len(Y))], groups)
        k = min(int(number), fit.n_components)
        self.coordinates_ = coordinates.kind
        self.n_components_ = k
        self.x_mean_ = coordinates.mean
        self.y_mean_ = self.intercept_ = fit.y_mean
        self.n_iter_ = fit.n_iter[:k]
        self._scores, self._loadings, self._triangle = fit.scores[:, :k], fit.y_loadings[:k], fit.triangle[:k, :k]
        dual = fit.dual_weights[:, :k].T
        if k:  # scipy before 1.13 refuses an empty system
            dual = solve_triangular(self._triangle.T, dual, lower=True, unit_diagonal=True)
        self._rotations = np.empty((k, X.shape[1]))
        for where, block in feature_blocks(X, self.block_bytes):
            if isinstance(block, torch.Tensor):
                self._rotations[:, where] = (torch.from_numpy(dual).to(block.device) @ block).cpu().numpy()
            else:
                self._rotations[:, where] = dual @ block
        # the dual weights sum to zero, so centring changes only the rounding: the sum times the mean
        self._rotations -= np.outer(dual.sum(1), self.x_mean_)
        return self

    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (component, feature) and the sign scikit-learn gives each: its largest weight is positive."""
        weights = self._triangle.T @ self._rotations
        return weights, np.sign(weights[np.arange(len(weights)), np.abs(weights).argmax(1)])

    @property
    def x_weights_(self) -> np.ndarray:
        """Weights (feature, component)."""
        weights, sign = self._weights()
        return weights.T * sign

    @property
    def x_rotations_(self) -> np.ndarray:
        """Rotations (feature, component): ``x_scores_ = (X - x_mean_) x_rotations_``."""
        return self._rotations.T * self._weights()[1]

    @property
    def x_scores_(self) -> np.ndarray:
        """Scores (stimulus, component)."""
        return self._scores * self._weights()[1]

    @property
    def y_loadings_(self) -> np.ndarray:
        """Loadings of the responses (neuron, component)."""
        return self._loadings.T * self._weights()[1]

    @property
    def coef_(self) -> np.ndarray:
        """Coefficients (neuron, feature)."""
        return self._loadings.T @ self._rotations

    def predict(self, X, *, n_components: int | None = None) -> np.ndarray:
        """Responses predicted for features ``X`` (stimulus, feature), by the first ``n_components`` (default: all)."""
        check_features(X)
        if X.shape[1] != len(self.x_mean_):
            raise ValueError(f"features have {X.shape[1]} columns; expected the {len(self.x_mean_)} that were fitted.")
        k = self.n_components_ if n_components is None else min(n_components, self.n_components_)
        scores = np.zeros((X.shape[0], k))
        for where, block in feature_blocks(X, self.block_bytes):
            block = block.cpu().numpy() if isinstance(block, torch.Tensor) else block
            scores += (block - self.x_mean_[where]) @ self._rotations[:k, where].T
        predicted = self.y_mean_ + scores @ self._loadings[:k]
        return predicted[:, 0] if self._one else predicted

    def cross_predict(self, X, Y, splits, *, groups=None) -> list[np.ndarray]:
        """Predictions for the test part of each split, each as by fitting the training part alone, from one Gram.

        Parameters
        ----------
        X : array, memory map or torch.Tensor, (stimulus, feature)
        Y : array, (stimulus,) or (stimulus, neuron)
        splits : iterable of (train, test) index arrays
        groups : array, (stimulus,), optional
            Labels kept together when the number of components is chosen.

        Returns
        -------
        list of ndarray, (test stimulus, neuron)
        """
        check_features(X)
        Y = check_responses(Y, X.shape[0])
        pairs = [(np.asarray(train), np.asarray(test)) for train, test in splits]
        coordinates, fits, numbers = self._solve(X, Y, [train for train, _ in pairs], groups)
        self.coordinates_ = coordinates.kind
        self.n_components_ = numbers
        return [fit.predict(test, int(k)) for fit, (_, test), k in zip(fits, pairs, numbers, strict=True)]
