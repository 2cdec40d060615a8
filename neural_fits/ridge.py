"""Ridge regressions with one penalty for each neuron, chosen inside the training part from one eigendecomposition.

::

    prediction   y = ybar + (x - xbar)' b,    b = argmin |yc - Xc b|^2 + penalty |b|^2      (intercept not penalised)

With ``Xc Xc' = U diag(lambda) U'`` (less the constant) the residuals of all neurons are ``U diag(w) U'Y`` with
``w = penalty / (lambda + penalty)``, and the prediction of a held-out fold ``F``, as if the fit had never seen it,
misses by::

    e_F = (I - H)_FF^-1  (residuals)_F,      I - H = U diag(w) U'

(for one stimulus, division by ``1 - h_ii``: Golub, Heath & Wahba 1979; for folds: Rasmussen & Williams 2006, ch. 5).
So every fold, penalty and neuron is served by one decomposition, where refitting needs one for each fold.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.linalg
import torch

from neural_fits.coordinates import BLOCK_BYTES, check_features, feature_blocks, sample_coordinates
from neural_fits.splits import grouped_kfold_splits, kfold_splits

EPS = float(np.finfo(np.float64).eps)

#: Bytes of one block of residuals, small enough to stay in the cache of a core.
RESIDUAL_BYTES = 2**20

#: Penalties tried by default, in units of the mean eigenvalue of ``Xc Xc'``.
RELATIVE_PENALTIES = tuple(np.logspace(-4, 4, 17))


@dataclasses.dataclass(frozen=True, eq=False)
class RidgeBasis:
    """Eigenvectors of the centred features, in sample coordinates.

    Attributes
    ----------
    U : Tensor, (stimulus, r)
        Orthonormal, each orthogonal to the constant vector.
    eigenvalues : Tensor, (r,)
        Of ``Xc Xc'``, none negative.
    V : Tensor, (feature, r) or None
        Right singular vectors where there are fewer features than stimuli.
    complete : bool
        True if ``U`` spans all that is orthogonal to the constant.
    """

    U: torch.Tensor
    eigenvalues: torch.Tensor
    V: torch.Tensor | None
    complete: bool


def ridge_basis_of_gram(K: torch.Tensor) -> RidgeBasis:
    """Decompose a kernel matrix (stimulus, stimulus), which is centred here.

    Parameters
    ----------
    K : Tensor, (n, n), float64

    Returns
    -------
    RidgeBasis
        With ``r = n - 1``.

    Examples
    --------
    >>> basis = ridge_basis_of_gram(torch.eye(4, dtype=torch.float64))
    >>> basis.eigenvalues.round(decimals=9)
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    n = len(K)
    K = K - K.mean(0)
    K = K - K.mean(1, keepdim=True)
    # The constant vector is an eigenvector of eigenvalue 0, mixed with others where K is singular: lift it to the top.
    lift = 2 * torch.linalg.norm(K) + 1
    eigenvalues, U = _eigh(K + lift / n)
    return RidgeBasis(U[:, :-1], eigenvalues[:-1].clamp_min(0), None, complete=True)


def ridge_basis_of_features(X: torch.Tensor, *, smallest_penalty: float) -> RidgeBasis:
    """Decompose features (stimulus, feature), fewer features than stimuli, which are centred here.

    ``Xc'Xc`` is decomposed where the smallest penalty hides its rounding error, else ``Xc`` itself.

    Parameters
    ----------
    X : Tensor, (n, p), float64
    smallest_penalty : float
        The smallest penalty that will be used.

    Returns
    -------
    RidgeBasis
        With ``r <= p``; directions that are zero are left out.

    Examples
    --------
    >>> X = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    >>> ridge_basis_of_features(X, smallest_penalty=0.1).eigenvalues
    tensor([8.], dtype=torch.float64)
    """
    Xc = X - X.mean(0)
    n, p = Xc.shape
    eigenvalues, V = _eigh(Xc.T @ Xc)
    largest = float(eigenvalues[-1])
    kept = eigenvalues > EPS * max(n, p) * largest
    smallest = float(eigenvalues[kept][0]) if bool(kept.any()) else 0.0
    if largest > 0 and EPS * largest > 1e-11 * smallest_penalty and EPS * largest > 1e-11 * smallest:
        U, singular, Vh = torch.linalg.svd(Xc, full_matrices=False)
        kept = singular > EPS * max(n, p) * singular[0]
        return RidgeBasis(U[:, kept], singular[kept] ** 2, Vh[kept].T, complete=False)
    eigenvalues, V = eigenvalues[kept], V[:, kept]
    return RidgeBasis((Xc @ V) / eigenvalues.sqrt(), eigenvalues, V, complete=False)


class _HeldOut:
    """Squared errors of held-out stimuli, without refitting, for one basis and several penalties."""

    def __init__(
        self, basis: RidgeBasis, Y: torch.Tensor, penalties: torch.Tensor, folds: Sequence[torch.Tensor] | None
    ):
        U = basis.U
        n = len(U)
        Yc = Y - Y.mean(0)
        self.U, self.folds = U, folds
        self.rotated = (U.T @ Yc).T.contiguous()  # (neuron, r)
        self.rest = None if basis.complete else Yc.T - self.rotated @ U.T  # (neuron, stimulus)
        self.w = penalties[:, None] / (basis.eigenvalues + penalties[:, None])  # (penalty, r)
        if self.rest is None:  # a factor common to residuals and 1 - h_ii cancels, and float32 stays in range
            self.w = self.w / self.w.amax(1, keepdim=True)
        if folds is None:
            squared = U * U
            left = self.w @ squared.T  # 1 - h_ii, (penalty, stimulus)
            if self.rest is not None:
                left += (1 - 1 / n) - squared.sum(1)
            self.left, self.inverses = left, None
            self.smallest_left = left.amin(1)
        else:
            self.inverses = []
            smallest = []
            for fold in folds:
                left = (U[fold] * self.w[:, None, :]) @ U[fold].T  # (penalty, fold, fold)
                if self.rest is not None:
                    left += torch.eye(len(fold), dtype=U.dtype, device=U.device) - 1 / n - U[fold] @ U[fold].T
                inverse = torch.cholesky_inverse(torch.linalg.cholesky(left))
                smallest.append(1 / torch.linalg.matrix_norm(inverse))
                self.inverses.append(inverse)
            self.smallest_left = torch.stack(smallest).amin(0)

    def to(self, dtype: torch.dtype) -> "_HeldOut":
        """Copy in another precision."""
        other = object.__new__(_HeldOut)
        other.folds, other.smallest_left = self.folds, self.smallest_left
        other.U, other.rotated, other.w = self.U.to(dtype), self.rotated.to(dtype), self.w.to(dtype)
        other.rest = None if self.rest is None else self.rest.to(dtype)
        if self.folds is None:
            other.left, other.inverses = self.left.to(dtype), None
        else:
            other.inverses = [inverse.to(dtype) for inverse in self.inverses or ()]
        return other

    def mean_squares(self, penalties: slice, neurons: slice | torch.Tensor) -> torch.Tensor:
        """Mean squared held-out error (penalty, neuron)."""
        n = len(self.U)
        scaled = self.rotated[neurons] * self.w[penalties, None, :]  # (penalty, neuron, r)
        residuals = (scaled.flatten(0, 1) @ self.U.T).reshape(*scaled.shape[:2], n)
        if self.rest is not None:
            residuals += self.rest[neurons]
        if self.inverses is None:
            residuals /= self.left[penalties, None, :]
            return torch.linalg.vector_norm(residuals, dim=2).square_() / n
        total = torch.zeros_like(residuals[:, :, 0])
        for fold, inverse in zip(self.folds or (), self.inverses, strict=True):
            total += torch.linalg.vector_norm(residuals[:, :, fold] @ inverse[penalties], dim=2).square_()
        return total / n


def ridge_cv_errors(
    basis: RidgeBasis,
    Y: torch.Tensor,
    penalties: torch.Tensor,
    *,
    folds: Sequence[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Mean squared error of held-out stimuli for each penalty and neuron, without refitting.

    Parameters
    ----------
    basis : RidgeBasis
        Of the training stimuli.
    Y : Tensor, (stimulus, neuron), float64
    penalties : Tensor, (penalty,), positive
    folds : sequence of index tensors, optional
        Stimuli that are left out together; every stimulus in one fold. Default: each stimulus alone.

    Returns
    -------
    Tensor, (penalty, neuron)

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [2.0], [4.0]], dtype=torch.float64)
    >>> basis = ridge_basis_of_features(X, smallest_penalty=1.0)
    >>> ridge_cv_errors(basis, 3 * X, torch.tensor([1e-9, 1e9], dtype=torch.float64)).round(decimals=2)
    tensor([[ 0.],
            [35.]], dtype=torch.float64)
    """
    held_out = _HeldOut(basis, Y, penalties, folds)
    blocks = [held_out.mean_squares(slice(None), neurons) for neurons in _neuron_blocks(Y, len(penalties))]
    return torch.cat(blocks, 1)


def _neuron_blocks(Y: torch.Tensor, n_penalties: int) -> Iterator[slice]:
    width = max(16, RESIDUAL_BYTES // (8 * len(Y) * n_penalties))
    for start in range(0, Y.shape[1], width):
        yield slice(start, min(start + width, Y.shape[1]))


def smallest_cv_error(
    basis: RidgeBasis,
    Y: torch.Tensor,
    penalties: torch.Tensor,
    *,
    folds: Sequence[torch.Tensor] | None = None,
    limit: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest held-out error of each neuron and the penalty it belongs to, as by :func:`ridge_cv_errors`.

    With many neurons the errors are screened in float32, and those within its rounding error of the smallest are
    decided in float64.

    Parameters
    ----------
    basis, Y, penalties, folds
        As in :func:`ridge_cv_errors`.
    limit : Tensor, (neuron,), optional
        Errors above are of no interest: they may come back as infinity.

    Returns
    -------
    error : Tensor, (neuron,), float64
        Mean squared held-out error.
    index : Tensor of int, (neuron,)
        Of the penalty.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [2.0], [4.0]], dtype=torch.float64)
    >>> basis = ridge_basis_of_features(X, smallest_penalty=1.0)
    >>> smallest_cv_error(basis, 3 * X, torch.tensor([1e-9, 1e9], dtype=torch.float64))[1]
    tensor([0])
    """
    q = Y.shape[1]
    if q * len(penalties) < 256:
        return ridge_cv_errors(basis, Y, penalties, folds=folds).min(0)
    held_out = _HeldOut(basis, Y, penalties, folds)
    coarse = held_out.to(torch.float32)
    screened = torch.empty(len(penalties), q, dtype=torch.float64, device=Y.device)
    for penalty in range(len(penalties)):
        for neurons in _neuron_blocks(Y, 1):
            screened[penalty, neurons] = coarse.mean_squares(slice(penalty, penalty + 1), neurons)[0].double()
    # A residual is a sum of numbers of the size of the response: its float32 error, divided by the smallest 1 - h_ii.
    noise = (
        16 * torch.finfo(torch.float32).eps * (Y - Y.mean(0)).square().mean(0).sqrt() / held_out.smallest_left[:, None]
    )
    root = screened.sqrt()
    enough = (root + noise).amin(0)
    contested = root - noise <= (enough if limit is None else torch.minimum(enough, limit.sqrt()))
    errors = torch.full_like(screened, torch.inf)
    for penalty in range(len(penalties)):
        neurons = contested[penalty].nonzero()[:, 0]
        if len(neurons):
            errors[penalty, neurons] = held_out.mean_squares(slice(penalty, penalty + 1), neurons)[0]
    return errors.min(0)


def screening_error(
    basis: RidgeBasis, Y: torch.Tensor, penalty: torch.Tensor, *, folds: Sequence[torch.Tensor] | None = None
) -> torch.Tensor:
    """Held-out error with one penalty, in float32: enough to rank, not to decide.

    Parameters
    ----------
    basis, Y, folds
        As in :func:`ridge_cv_errors`.
    penalty : Tensor, scalar

    Returns
    -------
    Tensor, (neuron,), float32

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [2.0], [4.0]], dtype=torch.float64)
    >>> basis = ridge_basis_of_features(X, smallest_penalty=1.0)
    >>> screening_error(basis, 3 * X, torch.tensor(1e9, dtype=torch.float64)).round(decimals=2)
    tensor([35.])
    """
    held_out = _HeldOut(basis, Y, penalty[None], folds).to(torch.float32)
    return torch.cat([held_out.mean_squares(slice(None), neurons)[0] for neurons in _neuron_blocks(Y, 1)])


def _eigh(symmetric: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if symmetric.is_cuda:
        return torch.linalg.eigh(symmetric)
    if len(symmetric) == 1:  # scipy before 1.12 asks LAPACK for too little work space here
        return symmetric[0].clone(), torch.ones_like(symmetric)
    # divide and conquer, a quarter faster than the same routine through torch or numpy
    values, vectors = scipy.linalg.eigh(symmetric.numpy(), driver="evd", check_finite=False)
    return torch.from_numpy(values), torch.from_numpy(vectors)


def as_tensor(X, device: torch.device | None = None) -> torch.Tensor:
    """Float64 tensor of an array, without a copy where it already is float64."""
    if isinstance(X, torch.Tensor):
        return X.detach().to(dtype=torch.float64, device=device)
    return torch.from_numpy(np.ascontiguousarray(X, dtype=np.float64)).to(device)


def inner_folds(
    n: int, folds: str | int, *, groups: np.ndarray | None, seed: int, device: torch.device
) -> list[torch.Tensor] | None:
    """Folds inside a training part of ``n`` stimuli: None for leave-one-out."""
    if isinstance(folds, str):
        if folds != "loo":
            raise ValueError(f"folds is {folds!r}; expected 'loo', a number of folds, or a label for each stimulus.")
        if groups is None:
            return None
        _, labels = np.unique(groups, return_inverse=True)
        return [torch.from_numpy(np.flatnonzero(labels == k)).to(device) for k in range(labels.max() + 1)]
    splits = (
        kfold_splits(n, n_folds=folds, seed=seed)
        if groups is None
        else grouped_kfold_splits(groups, n_folds=folds, seed=seed)
    )
    return [torch.from_numpy(test).to(device) for test in splits.test]


def check_penalties(penalties) -> np.ndarray | None:
    """Penalties as an array, or an error naming what is wrong with them."""
    if penalties is None:
        return None
    penalties = np.atleast_1d(np.asarray(penalties, dtype=np.float64))
    if penalties.ndim != 1 or not np.isfinite(penalties).all() or not (penalties > 0).all():
        raise ValueError(f"penalties are {penalties.tolist()}; expected positive finite numbers.")
    return penalties


def neurons_by_missing(Y, n_stimuli: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups of neurons that miss the same stimuli: (neurons, stimuli that they have).

    Parameters
    ----------
    Y : array, (stimulus, neuron)
        NaN where a response is missing.
    n_stimuli : int

    Yields
    ------
    neurons, stimuli : integer arrays

    Raises
    ------
    ValueError
        If a neuron has fewer than 3 responses, or one is infinite.

    Examples
    --------
    >>> Y = np.array([[1.0, 2, np.nan], [2, 3, 4], [5, 6, 7], [8, 9, 1]])
    >>> [(neurons.tolist(), stimuli.tolist()) for neurons, stimuli in neurons_by_missing(Y, 4)]
    [([2], [1, 2, 3]), ([0, 1], [0, 1, 2, 3])]
    """
    if Y.ndim != 2 or len(Y) != n_stimuli or Y.shape[1] == 0:
        raise ValueError(f"responses have shape {Y.shape}; expected ({n_stimuli} stimuli as in the features, neuron).")
    if np.isinf(Y).any():
        raise ValueError(
            f"responses of neuron {int(np.isinf(Y).any(0).argmax())} are infinite; expected numbers or NaN."
        )
    present = ~np.isnan(Y)
    few = np.flatnonzero(present.sum(0) < 3)
    if len(few):
        raise ValueError(
            f"neuron {few[0]} has {int(present[:, few[0]].sum())} responses in the {n_stimuli} training stimuli; "
            f"expected at least 3 ({len(few)} such neurons: leave them out)."
        )
    if present.all():
        yield np.arange(Y.shape[1]), np.arange(n_stimuli)
        return
    patterns, which = np.unique(present, axis=1, return_inverse=True)
    for pattern in range(patterns.shape[1]):
        yield np.flatnonzero(which.ravel() == pattern), np.flatnonzero(patterns[:, pattern])


def as_responses(Y) -> tuple[np.ndarray, bool]:
    """Float64 array (stimulus, neuron) of responses, and whether one neuron was given without its axis."""
    Y = Y.detach().cpu().numpy() if isinstance(Y, torch.Tensor) else np.asarray(Y)
    Y = np.asarray(Y, dtype=np.float64)
    return (Y[:, None], True) if Y.ndim == 1 else (Y, False)


def choose_penalties(
    basis: RidgeBasis,
    Y: torch.Tensor,
    penalties: np.ndarray | None,
    *,
    folds: Sequence[torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Penalty of each neuron with the smallest held-out squared error.

    Parameters
    ----------
    basis : RidgeBasis
    Y : Tensor, (stimulus, neuron)
    penalties : ndarray, (penalty,), optional
        Default ``RELATIVE_PENALTIES`` times the mean eigenvalue.
    folds : sequence of index tensors, optional
        As in :func:`ridge_cv_errors`.

    Returns
    -------
    chosen : Tensor, (neuron,)
    error : Tensor, (neuron,)
        Mean squared held-out error with it (zero if there is only one penalty to choose from).
    candidates : Tensor, (penalty,)

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [2.0], [4.0]], dtype=torch.float64)
    >>> basis = ridge_basis_of_features(X, smallest_penalty=0.1)
    >>> choose_penalties(basis, 3 * X, np.array([0.1, 10.0]))[0]
    tensor([0.1000], dtype=torch.float64)
    """
    candidates = candidate_penalties(basis, penalties)
    if len(candidates) == 1:
        return candidates.expand(Y.shape[1]), torch.zeros(Y.shape[1], dtype=Y.dtype, device=Y.device), candidates
    error, index = smallest_cv_error(basis, Y, candidates, folds=folds)
    return candidates[index], error, candidates


def candidate_penalties(basis: RidgeBasis, penalties: np.ndarray | None) -> torch.Tensor:
    """Penalties to try: those given, or ``RELATIVE_PENALTIES`` times the mean eigenvalue of the basis."""
    if penalties is not None:
        return torch.from_numpy(penalties).to(basis.U.device)
    mean = basis.eigenvalues.mean() if len(basis.eigenvalues) else basis.eigenvalues.sum()
    return torch.tensor(RELATIVE_PENALTIES, dtype=basis.U.dtype, device=basis.U.device) * mean.clamp(min=1e-300)


def ridge_basis(X: torch.Tensor, *, smallest_penalty: float) -> RidgeBasis:
    """Decompose features (stimulus, feature): their Gram where they are at least as many as the stimuli.

    Parameters
    ----------
    X : Tensor, (n, p), float64
    smallest_penalty : float
        The smallest penalty that will be used.

    Returns
    -------
    RidgeBasis

    Examples
    --------
    >>> ridge_basis(torch.eye(3, 5, dtype=torch.float64), smallest_penalty=1.0).eigenvalues.round(decimals=9)
    tensor([1., 1.], dtype=torch.float64)
    """
    if X.shape[1] < len(X):
        return ridge_basis_of_features(X, smallest_penalty=smallest_penalty)
    Xc = X - X.mean(0)
    return ridge_basis_of_gram(Xc @ Xc.T)


def smallest_penalty(penalties: np.ndarray | None, X: torch.Tensor) -> float:
    """Smallest of the penalties, or of the default ones for features ``X`` (stimulus, feature)."""
    if penalties is not None:
        return float(penalties.min())
    n, p = X.shape
    return RELATIVE_PENALTIES[0] * float(X.var(0, unbiased=False).sum()) * n / min(n - 1, p)


def ridge_weights(basis: RidgeBasis, X: torch.Tensor | None, Y: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """Ridge weights with one penalty for each neuron.

    Parameters
    ----------
    basis : RidgeBasis
    X : Tensor, (stimulus, feature), or None
        Features; None to get the dual weights.
    Y : Tensor, (stimulus, neuron)
    penalty : Tensor, (neuron,)

    Returns
    -------
    Tensor, (feature, neuron), or dual weights (stimulus, neuron) if ``X`` is None

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> basis = ridge_basis(X, smallest_penalty=2.0)
    >>> ridge_weights(basis, X, 3 * X, torch.tensor([2.0], dtype=torch.float64))
    tensor([[1.5000]], dtype=torch.float64)
    """
    rotated = basis.U.T @ (Y - Y.mean(0)) / (basis.eigenvalues[:, None] + penalty)
    if X is None:
        return basis.U @ rotated
    if basis.V is None:
        return (X - X.mean(0)).T @ (basis.U @ rotated)
    return basis.V @ (basis.eigenvalues.sqrt()[:, None] * rotated)


@dataclasses.dataclass(frozen=True, eq=False)
class RidgeFit:
    """Weights, intercepts and chosen penalties of all neurons.

    Attributes
    ----------
    weights : Tensor, (feature, neuron), or dual (stimulus, neuron)
    intercept : ndarray, (neuron,)
    penalty : ndarray, (neuron,)
    at_edge : float
        Share of neurons whose penalty is the smallest or largest tried.
    """

    weights: torch.Tensor
    intercept: np.ndarray
    penalty: np.ndarray
    at_edge: float


def fit_ridge(
    X: torch.Tensor | None,
    K: torch.Tensor | None,
    Y: np.ndarray,
    *,
    penalties: np.ndarray | None = None,
    folds: str | int = "loo",
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> RidgeFit:
    """Ridge of every neuron on the stimuli it has, from features ``X`` or from their Gram (or kernel) matrix ``K``.

    Parameters
    ----------
    X : Tensor, (stimulus, feature), or None
    K : Tensor, (stimulus, stimulus), or None
        One of the two; with ``K`` the weights are dual, ``y = K weights + intercept``.
    Y : ndarray, (stimulus, neuron)
        NaN where missing.
    penalties, folds, seed
        As in :class:`Ridge`.
    groups : ndarray, (stimulus,), optional
        Labels left out together.

    Returns
    -------
    RidgeFit

    Raises
    ------
    ValueError
        If a neuron has fewer than 3 responses.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    >>> fit = fit_ridge(X, None, (3 * X + 1).numpy(), penalties=np.array([5.0]))
    >>> fit.weights, fit.intercept
    (tensor([[1.5000]], dtype=torch.float64), array([3.25]))
    """
    table = X if K is None else K
    assert table is not None
    n, q = len(table), Y.shape[1]
    device = table.device
    weights = torch.zeros(table.shape[1], q, dtype=torch.float64, device=device)
    chosen, intercept, at_edge = np.empty(q), np.empty(q), 0
    for neurons, rows in neurons_by_missing(Y, n):
        columns, index = torch.from_numpy(neurons).to(device), torch.from_numpy(rows).to(device)
        part = table if len(rows) == n else table[index]
        y = torch.from_numpy(Y if part is table and len(neurons) == q else Y[np.ix_(rows, neurons)]).to(device)
        if K is None:
            basis = ridge_basis(part, smallest_penalty=smallest_penalty(penalties, part))
        else:
            basis = ridge_basis_of_gram(part if len(rows) == n else part[:, index])
        inner = inner_folds(len(rows), folds, groups=None if groups is None else groups[rows], seed=seed, device=device)
        penalty, _, candidates = choose_penalties(basis, y, penalties, folds=inner)
        block = ridge_weights(basis, None if K is not None else part, y, penalty)
        if K is None:
            weights[:, columns] = block
        else:
            weights[index[:, None], columns] = block
        intercept[neurons] = (y.mean(0) - part.mean(0) @ weights[:, columns]).cpu().numpy()
        chosen[neurons] = penalty.cpu().numpy()
        if len(candidates) > 1:
            at_edge += int(((penalty == candidates[0]) | (penalty == candidates[-1])).sum())
    return RidgeFit(weights, intercept, chosen, at_edge / q)


class Ridge:
    """Ridge regression with one penalty for each neuron.

    Works on the features where they are fewer than the stimuli, else on their Gram matrix (the same fit). Responses
    that are NaN are left out of the fit of that neuron; neurons that miss the same stimuli share a decomposition.

    Parameters
    ----------
    penalties : sequence of float, optional
        Penalties to choose from (default: ``RELATIVE_PENALTIES`` times the mean eigenvalue of ``Xc Xc'``).
    folds : "loo" or int
        How the choice is validated inside the training part: each stimulus left out, or that many folds. With
        ``groups`` whole groups are left out.
    seed : int
        Of the folds.
    block_bytes : int
        Bytes of one block of features in float64.

    Attributes
    ----------
    penalty_ : ndarray, (neuron,)
        Chosen inside the training part.
    at_edge_ : float
        Share of neurons whose penalty is the smallest or largest tried: widen the range if it is large.
    coef_ : ndarray, (neuron, feature)
    intercept_ : ndarray, (neuron,)
        ``Y = X coef_' + intercept_``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.standard_normal((40, 200)), rng.standard_normal((40, 3))
    >>> from sklearn.linear_model import RidgeCV
    >>> ours = Ridge([1.0, 10.0, 100.0]).fit(X, Y)
    >>> theirs = RidgeCV([1.0, 10.0, 100.0], alpha_per_target=True).fit(X, Y)
    >>> bool((ours.penalty_ == theirs.alpha_).all()), bool(np.allclose(ours.predict(X), theirs.predict(X)))
    (True, True)
    """

    def __init__(
        self,
        penalties: Sequence[float] | np.ndarray | None = None,
        *,
        folds: str | int = "loo",
        seed: int = 0,
        block_bytes: int = BLOCK_BYTES,
    ):
        self.penalties = check_penalties(penalties)
        self.folds = folds
        self.seed = seed
        self.block_bytes = block_bytes

    def _fit(self, X: torch.Tensor | None, K: torch.Tensor | None, Y: np.ndarray, groups) -> RidgeFit:
        groups = None if groups is None else np.asarray(groups)
        fit = fit_ridge(X, K, Y, penalties=self.penalties, folds=self.folds, groups=groups, seed=self.seed)
        self.penalty_, self.at_edge_ = fit.penalty, fit.at_edge
        return fit

    def fit(self, X, Y, *, groups=None) -> "Ridge":
        """Fit responses ``Y`` (stimulus, neuron; NaN for missing) to features ``X`` (stimulus, feature).

        Parameters
        ----------
        X : array, memory map or torch.Tensor, (stimulus, feature)
        Y : array, (stimulus,) or (stimulus, neuron)
        groups : array, (stimulus,), optional
            Labels left out together when penalties are chosen.

        Returns
        -------
        Ridge
            Itself.

        Raises
        ------
        ValueError
            If shapes disagree, a feature is not finite, or a neuron has fewer than 3 responses.
        """
        check_features(X)
        Y, self._one = as_responses(Y)
        if X.shape[1] < X.shape[0]:
            coordinates = sample_coordinates(X, kind="features", block_bytes=self.block_bytes)
            fit = self._fit(as_tensor(coordinates.matrix, _device(X)), None, Y, groups)
            self.coef_ = fit.weights.T.cpu().numpy()
        else:
            coordinates = sample_coordinates(X, kind="gram", block_bytes=self.block_bytes)
            fit = self._fit(None, as_tensor(coordinates.matrix, _device(X)), Y, groups)
            self.coef_ = np.empty((Y.shape[1], X.shape[1]))
            for where, block in feature_blocks(X, self.block_bytes):
                self.coef_[:, where] = (fit.weights.T @ as_tensor(block)).cpu().numpy()
            # the dual weights sum to zero, so centring changes only the rounding: the sum times the mean
            self.coef_ -= np.outer(fit.weights.sum(0).cpu().numpy(), coordinates.mean)
        self.intercept_ = fit.intercept - self.coef_ @ coordinates.mean
        return self

    def predict(self, X) -> np.ndarray:
        """Responses (stimulus, neuron) predicted for features ``X`` (stimulus, feature)."""
        check_features(X)
        if X.shape[1] != self.coef_.shape[1]:
            raise ValueError(
                f"features have {X.shape[1]} columns; expected the {self.coef_.shape[1]} that were fitted."
            )
        predicted = np.zeros((X.shape[0], len(self.coef_))) + self.intercept_
        for where, block in feature_blocks(X, self.block_bytes):
            predicted += as_tensor(block).cpu().numpy() @ self.coef_[:, where].T
        return predicted[:, 0] if self._one else predicted

    def cross_predict(self, X, Y, splits, *, groups=None) -> list[np.ndarray]:
        """Predictions for the test part of each split, each as by fitting the training part alone, from one Gram.

        Parameters
        ----------
        X : array, memory map or torch.Tensor, (stimulus, feature)
        Y : array, (stimulus,) or (stimulus, neuron)
        splits : iterable of (train, test) index arrays
        groups : array, (stimulus,), optional
            Labels left out together when penalties are chosen.

        Returns
        -------
        list of ndarray, (test stimulus, neuron)
        """
        check_features(X)
        Y, _ = as_responses(Y)
        coordinates = sample_coordinates(X, block_bytes=self.block_bytes)
        table = as_tensor(coordinates.matrix, _device(X))
        predictions = []
        for train, test in splits:
            inner_groups = None if groups is None else np.asarray(groups)[train]
            rows, tested = (torch.from_numpy(np.asarray(part)).to(table.device) for part in (train, test))
            if coordinates.kind == "gram":
                fit = self._fit(None, table[rows][:, rows], Y[train], inner_groups)
                predicted = table[tested][:, rows] @ fit.weights
            else:
                fit = self._fit(table[rows], None, Y[train], inner_groups)
                predicted = table[tested] @ fit.weights
            predictions.append(predicted.cpu().numpy() + fit.intercept)
        return predictions


def _device(X) -> torch.device | None:
    return X.device if isinstance(X, torch.Tensor) else None


def cross_predict_by_fit(regression, X, Y, splits, *, groups=None) -> list[np.ndarray]:
    """Predictions for the test part of each split by fitting each training part.

    Parameters
    ----------
    regression : object with ``fit(X, Y, groups=...)`` and ``predict(X)``
    X : array, (stimulus, ...)
    Y : array, (stimulus,) or (stimulus, neuron)
    splits : iterable of (train, test) index arrays
    groups : array, (stimulus,), optional
        Labels kept together inside the training part.

    Returns
    -------
    list of ndarray, (test stimulus, neuron)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.standard_normal((12, 3)), rng.standard_normal((12, 2))
    >>> splits = kfold_splits(12, n_folds=3)
    >>> [part.shape for part in cross_predict_by_fit(Ridge(), X, Y, splits)]
    [(4, 2), (4, 2), (4, 2)]
    """
    Y, _ = as_responses(Y)
    groups = None if groups is None else np.asarray(groups)
    predictions = []
    for train, test in splits:
        regression.fit(X[train], Y[train], groups=None if groups is None else groups[train])
        predictions.append(regression.predict(X[test]))
    return predictions


def _linear(products, squares_a, squares_b, scale):
    return products


def _cosine(products, squares_a, squares_b, scale):
    tiny = 1e-300
    return products / (squares_a.sqrt()[:, None] * squares_b.sqrt()[None, :]).clamp_min(tiny)


def _rbf(products, squares_a, squares_b, scale):
    distances = (squares_a[:, None] + squares_b[None, :] - 2 * products).clamp_min(0)
    return torch.exp(-distances / scale)


def _quadratic(products, squares_a, squares_b, scale):
    return (1 + products / scale) ** 2


#: Kernels by name, functions of inner products: ``(products (a, b), squared lengths (a,), (b,), scale)``. ``scale`` is
#: in units of squared feature distance; by default the mean squared distance of two training stimuli.
KERNELS = {"linear": _linear, "cosine": _cosine, "rbf": _rbf, "quadratic": _quadratic}


class KernelRidge:
    """Kernel ridge regression with an intercept and one penalty for each neuron.

    Parameters
    ----------
    penalties : sequence of float, optional
        As in :class:`Ridge`.
    kernel : str
        Name in ``KERNELS``: ``linear`` `x'y`, ``cosine`` `x'y/|x||y|`, ``rbf`` `exp(-|x-y|^2/scale)`, ``quadratic``
        `(1 + x'y/scale)^2`, of features centred on the training mean.
    scale : float, optional
        Squared feature distance of ``rbf`` and ``quadratic``; default: the mean over pairs of training stimuli.
    folds, seed, block_bytes
        As in :class:`Ridge`.

    Attributes
    ----------
    penalty_ : ndarray, (neuron,)
    at_edge_ : float
        Share of neurons whose penalty is the smallest or largest tried.
    scale_ : float

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.standard_normal((30, 50)), rng.standard_normal((30, 2))
    >>> same = KernelRidge([1.0, 10.0]).fit(X, Y).predict(X), Ridge([1.0, 10.0]).fit(X, Y).predict(X)
    >>> bool(np.allclose(*same))
    True
    """

    def __init__(
        self,
        penalties: Sequence[float] | np.ndarray | None = None,
        *,
        kernel: str = "linear",
        scale: float | None = None,
        folds: str | int = "loo",
        seed: int = 0,
        block_bytes: int = BLOCK_BYTES,
    ):
        if kernel not in KERNELS:
            raise ValueError(f"kernel is {kernel!r}; expected one of {', '.join(KERNELS)}.")
        self.kernel = kernel
        self.scale = scale
        self.block_bytes = block_bytes
        self._ridge = Ridge(penalties, folds=folds, seed=seed, block_bytes=block_bytes)

    def _kernel(self, products: torch.Tensor, squares_a: torch.Tensor, squares_b: torch.Tensor) -> torch.Tensor:
        return KERNELS[self.kernel](products, squares_a, squares_b, self.scale_)

    def _set_scale(self, gram: torch.Tensor) -> None:
        n = len(gram)
        mean_distance = 2 * float(gram.diagonal().sum() - gram.sum() / n) / max(n - 1, 1)
        self.scale_ = self.scale if self.scale is not None else max(mean_distance, 1e-300)

    def fit(self, X, Y, *, groups=None) -> "KernelRidge":
        """Fit responses ``Y`` (stimulus, neuron; NaN for missing) to features ``X``, which are kept for prediction."""
        check_features(X)
        Y, self._one = as_responses(Y)
        coordinates = sample_coordinates(X, kind="gram", block_bytes=self.block_bytes)
        self._X, self._mean = X, coordinates.mean
        gram = as_tensor(coordinates.matrix, _device(X))
        self._set_scale(gram)
        self._squares = gram.diagonal().clone()
        self._fitted = self._ridge._fit(None, self._kernel(gram, self._squares, self._squares), Y, groups)
        self.penalty_, self.at_edge_ = self._fitted.penalty, self._fitted.at_edge
        return self

    def predict(self, X) -> np.ndarray:
        """Responses (stimulus, neuron) predicted for features ``X`` (stimulus, feature)."""
        check_features(X)
        if X.shape[1] != len(self._mean):
            raise ValueError(f"features have {X.shape[1]} columns; expected the {len(self._mean)} that were fitted.")
        device = self._squares.device
        products = torch.zeros(X.shape[0], len(self._squares), dtype=torch.float64, device=device)
        squares = torch.zeros(X.shape[0], dtype=torch.float64, device=device)
        for where, block in feature_blocks(X, self.block_bytes):
            mean = as_tensor(self._mean[where], device)
            new = as_tensor(block, device) - mean
            products += new @ (as_tensor(self._X[:, where], device) - mean).T
            squares += new.square().sum(1)
        kernel = self._kernel(products, squares, self._squares)
        predicted = (kernel @ self._fitted.weights).cpu().numpy() + self._fitted.intercept
        return predicted[:, 0] if self._one else predicted

    def cross_predict(self, X, Y, splits, *, groups=None) -> list[np.ndarray]:
        """Predictions for the test part of each split, each as by fitting the training part alone, from one Gram."""
        check_features(X)
        Y, _ = as_responses(Y)
        coordinates = sample_coordinates(X, kind="gram", block_bytes=self.block_bytes)
        gram = as_tensor(coordinates.matrix, _device(X))
        predictions = []
        for train, test in splits:
            rows, tested = (torch.from_numpy(np.asarray(part)).to(gram.device) for part in (train, test))
            # centred on the training mean, as when the training part is fitted alone
            middle = gram[:, rows].mean(1, keepdim=True)
            centred = gram - middle - middle.T + middle[rows].mean()
            self._set_scale(centred[rows][:, rows])
            squares = centred.diagonal()
            K = self._kernel(centred, squares, squares)
            inner_groups = None if groups is None else np.asarray(groups)[train]
            fit = self._ridge._fit(None, K[rows][:, rows], Y[train], inner_groups)
            predictions.append((K[tested][:, rows] @ fit.weights).cpu().numpy() + fit.intercept)
            self.penalty_, self.at_edge_ = fit.penalty, fit.at_edge
        return predictions
