"""Features seen from the stimuli: Gram matrix or factor, formed in one pass over blocks of features."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

#: Bytes of one block of features (float64) while a Gram or a factor is formed.
BLOCK_BYTES = 8 * 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class SampleCoordinates:
    """Features seen from the stimuli: all that PLS and kernel ridge need of them.

    Attributes
    ----------
    kind : {"gram", "qr", "features"}
        ``"gram"``: ``matrix`` is ``K = Xc Xc'``. ``"qr"`` and ``"features"``: ``matrix`` is a factor ``Z`` with
        ``Z Z' = Xc Xc'``, from a QR decomposition of ``Xc'`` or the centred features themselves. A factor keeps
        directions down to 1e-16 of the largest singular value, a Gram down to 1e-8.
    matrix : ndarray, (stimulus, stimulus) or (stimulus, coordinate), float64
    mean : ndarray, (feature,), float64
        Mean over all stimuli that was taken off each feature (``Xc = X - mean``).
    """

    kind: str
    matrix: np.ndarray
    mean: np.ndarray

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return self.matrix.shape[0]

    @property
    def scale(self) -> float:
        """Upper bound of the largest singular value of the centred features (Frobenius norm)."""
        norm = float(np.linalg.norm(self.matrix))
        return math.sqrt(norm) if self.kind == "gram" else norm

    def gram(self) -> np.ndarray:
        """``Xc Xc'``, (stimulus, stimulus)."""
        return self.matrix if self.kind == "gram" else self.matrix @ self.matrix.T

    def select(self, stimuli: np.ndarray) -> "SampleCoordinates":
        """Coordinates of some of the stimuli (still centred by the mean of all)."""
        matrix = self.matrix[np.ix_(stimuli, stimuli)] if self.kind == "gram" else self.matrix[stimuli]
        return dataclasses.replace(self, matrix=matrix)

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """``Xc Xc' vectors``, for ``vectors`` of shape (stimulus, n)."""
        return self.matrix @ vectors if self.kind == "gram" else self.matrix @ (self.matrix.T @ vectors)


def check_features(X) -> None:
    """Raise ValueError unless ``X`` is an array or tensor (stimulus, feature)."""
    if getattr(X, "ndim", 0) != 2:
        raise ValueError(
            f"features have shape {getattr(X, 'shape', None)}; expected (stimulus, feature): flatten the feature map."
        )


def feature_blocks(X, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[slice, np.ndarray | torch.Tensor]]:
    """Blocks of features in float64, of about ``block_bytes``: pairs of columns and (stimulus, feature) block.

    Raises ValueError where a feature is NaN or infinite.
    """
    n, p = X.shape
    width = max(1, block_bytes // (8 * max(n, 1)))
    for start in range(0, p, width):
        where = slice(start, min(start + width, p))
        block = X[:, where]
        if isinstance(X, torch.Tensor):
            block = block.detach().to(torch.float64)
        else:
            block = np.asarray(block, dtype=np.float64)
        # NaN and infinity survive summation, and a sum is much cheaper than a test of each value
        if not math.isfinite(float(block.sum())) and not np.isfinite(_numpy(block)).all():
            raise ValueError(
                f"features {where.start} to {where.stop - 1} hold NaN or infinity; expected finite numbers."
            )
        yield where, block


def _numpy(values) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values


def sample_coordinates(X, *, kind: str = "auto", block_bytes: int = BLOCK_BYTES) -> SampleCoordinates:
    """Gram matrix or factor of the features, in one pass over blocks of features.

    ``K = sum over blocks of (X_b - mean_b) (X_b - mean_b)'``. Blocks are turned to float64 one at a time, so float32
    features in a memory-mapped file are never held in memory whole.

    Parameters
    ----------
    X : array or torch.Tensor, (stimulus, feature)
        Any real type; a ``numpy.memmap`` is read block by block; the work on a CUDA tensor is done on its device.
    kind : {"auto", "gram", "qr", "features"}
        ``"auto"``: the features themselves where they are no more than the stimuli, else the Gram.
    block_bytes : int
        Bytes of one block in float64.

    Returns
    -------
    SampleCoordinates

    Raises
    ------
    ValueError
        If ``X`` is not two-dimensional, holds NaN or infinity, or ``kind`` is unknown.

    Examples
    --------
    >>> X = np.random.default_rng(0).standard_normal((5, 1000))
    >>> coordinates = sample_coordinates(X)
    >>> coordinates.kind, coordinates.matrix.shape
    ('gram', (5, 5))
    >>> Xc = X - X.mean(0)
    >>> bool(np.allclose(coordinates.matrix, Xc @ Xc.T))
    True
    """
    check_features(X)
    if kind not in ("auto", "gram", "qr", "features"):
        raise ValueError(f"kind is {kind!r}; expected 'auto', 'gram', 'qr' or 'features'.")
    n, p = X.shape
    if kind == "auto":
        kind = "features" if p <= n else "gram"
    mean = np.empty(p)
    if kind == "features":
        centred = np.empty((n, p))
        for where, block in feature_blocks(X, block_bytes):
            block = _numpy(block)
            mean[where] = block.mean(0)
            np.subtract(block, mean[where], out=centred[:, where])
        return SampleCoordinates("features", centred, mean)
    gram = torch.zeros(n, n, dtype=torch.float64, device=X.device) if isinstance(X, torch.Tensor) else np.zeros((n, n))
    triangle = np.empty((0, n))
    for where, block in feature_blocks(X, block_bytes):
        average = block.mean(0)
        mean[where] = _numpy(average)
        block = block - average
        if kind == "gram":
            gram += block @ block.T  # type: ignore[operator]
        else:
            triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, _numpy(block).T]), mode="r"))
    return SampleCoordinates(kind, _numpy(gram) if kind == "gram" else np.ascontiguousarray(triangle.T), mean)


def check_responses(Y, n_stimuli: int, neuron_ids: Sequence | None = None) -> np.ndarray:
    """Responses as a float64 array (stimulus, neuron), or an error that names the neurons with missing values.

    Parameters
    ----------
    Y : array, (stimulus,) or (stimulus, neuron)
    n_stimuli : int
        Number of stimuli of the features.
    neuron_ids : sequence, optional
        Names for the error message (default: the column number).

    Returns
    -------
    ndarray, (stimulus, neuron), float64

    Raises
    ------
    ValueError
        If the number of stimuli differs, or a response is NaN or infinite.

    Examples
    --------
    >>> check_responses([[1.0, np.nan], [2.0, 3.0]], 2, neuron_ids=["a", "b"])
    Traceback (most recent call last):
    ...
    ValueError: responses of 1 of 2 neurons are NaN or infinite for some stimuli (neuron b: 1 of 2); ...
    """
    Y = Y.detach().cpu().numpy() if isinstance(Y, torch.Tensor) else np.asarray(Y)
    Y = np.asarray(Y, dtype=np.float64)
    Y = Y[:, None] if Y.ndim == 1 else Y
    if Y.ndim != 2 or Y.shape[0] != n_stimuli or Y.shape[1] == 0:
        raise ValueError(f"responses have shape {Y.shape}; expected ({n_stimuli} stimuli as in the features, neuron).")
    bad = (~np.isfinite(Y)).sum(0)
    if bad.any():
        worst = np.flatnonzero(bad)
        names = ", ".join(
            f"neuron {neuron_ids[i] if neuron_ids is not None else i}: {bad[i]} of {n_stimuli}" for i in worst[:5]
        )
        more = ", ..." if len(worst) > 5 else ""
        raise ValueError(
            f"responses of {len(worst)} of {Y.shape[1]} neurons are NaN or infinite for some stimuli ({names}{more}); "
            "leave these neurons or stimuli out, or use a regression that fits each neuron on the stimuli it has "
            "(Ridge)."
        )
    return Y
