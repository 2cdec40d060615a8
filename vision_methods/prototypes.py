"""Classifiers of frozen features that need no gradient: class means, and ridge regression on random features.

Both keep sums over pictures alone, so that they do not depend on the order in which pictures or tasks come.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Penalties that RanPAC chooses among.
RIDGES = tuple(10.0**power for power in range(-8, 9))


class ClassMeans(nn.Module):
    """Nearest class mean by cosine (SimpleCIL; Zhou et al. 2023).

    Parameters
    ----------
    width, classes : int

    Examples
    --------
    >>> means = ClassMeans(2, 2)
    >>> means.add(torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    >>> means.scores(torch.tensor([[3.0, 1.0]])).argmax(1)
    tensor([0])
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        # Double precision, so that the order of pictures does not show.
        self.register_buffer("sums", torch.zeros(classes, width, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take in features (N, width) of pictures of classes (N,)."""
        self.sums.index_add_(0, labels, features.detach().double())
        self.counts.index_add_(0, labels, torch.ones_like(labels))

    def scores(self, features: Tensor) -> Tensor:
        """Cosines (N, classes) with the class means; -1 for classes not seen."""
        means = self.sums / self.counts.clamp(min=1)[:, None]
        cosines = F.normalize(features.double(), dim=1) @ F.normalize(means, dim=1).T
        return cosines.masked_fill(self.counts == 0, -1)


def ridge_weights(gram: Tensor, sums: Tensor, penalty: float) -> Tensor:
    """``(G + penalty I)^-1 Q``.

    Parameters
    ----------
    gram : Tensor, (M, M)
    sums : Tensor, (M, C)
    penalty : float

    Returns
    -------
    Tensor, (M, C)

    Examples
    --------
    >>> ridge_weights(torch.eye(2), torch.ones(2, 1), 1.0)
    tensor([[0.5000],
            [0.5000]])
    """
    return torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), sums)


def choose_ridge(
    features: Tensor, targets: Tensor, penalties: Sequence[float] = RIDGES, *, share: float = 0.8
) -> float:
    """Penalty with the least squared error on the last pictures, fitted on the first ones.

    Parameters
    ----------
    features : Tensor, (N, M)
    targets : Tensor, (N, C)
    penalties : sequence of float
    share : float
        Of the pictures that is fitted.

    Returns
    -------
    float

    Examples
    --------
    >>> features = torch.eye(4, dtype=torch.float64).repeat(5, 1)
    >>> choose_ridge(features, features)
    1e-08
    """
    fitted = int(len(features) * share)
    left, right = features[:fitted], features[fitted:]
    # With fewer pictures than features the eigenvectors are those of the pictures, which spans the same solutions.
    dual = fitted < features.shape[1]
    values, vectors = torch.linalg.eigh(left @ left.T if dual else left.T @ left)
    before = right @ left.T @ vectors if dual else right @ vectors
    after = vectors.T @ targets[:fitted] if dual else vectors.T @ (left.T @ targets[:fitted])
    errors = []
    for penalty in penalties:
        found = before @ (after / (values.clamp(min=0) + penalty)[:, None])
        errors.append(float(((found - targets[fitted:]) ** 2).mean()))
    return penalties[min(range(len(errors)), key=errors.__getitem__)]


class RanPAC(nn.Module):
    """Ridge regression on rectified random projections of features (McDonnell et al. 2023).

    Parameters
    ----------
    width, classes : int
    projections : int
        Random features; 10,000 in the paper.
    penalty : float, optional
        Of the regression; chosen with every task's pictures (:func:`choose_ridge`) without it.
    cosine : bool
        Scores are divided by the length of each class's weights, as LAMDA-PILOT does; the paper's regression is not.
    projection : Tensor, (width, projections), optional
        Drawn from a normal distribution without it.
    generator : torch.Generator, optional
        Draws it.
    dtype : torch.dtype
        Of the sums and the solution. The Gram matrix of many random features is nearly singular; double precision makes
        the solution independent of the order of tasks.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> features = torch.randn(40, 3, generator=generator)
    >>> labels = (features[:, 0] > 0).long()
    >>> ranpac = RanPAC(3, 2, projections=64, generator=generator)
    >>> ranpac.add(features, labels)
    >>> bool((ranpac.scores(features).argmax(1) == labels).all())
    True
    """

    projection: Tensor
    gram: Tensor
    sums: Tensor
    weights: Tensor

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        projections: int,
        penalty: float | None = None,
        cosine: bool = False,
        projection: Tensor | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.penalty, self.cosine = penalty, cosine
        drawn = torch.randn(width, projections, generator=generator) if projection is None else projection
        self.register_buffer("projection", drawn)
        self.register_buffer("gram", torch.zeros(projections, projections, dtype=dtype))
        self.register_buffer("sums", torch.zeros(projections, classes, dtype=dtype))
        self.register_buffer("weights", torch.zeros(projections, classes, dtype=dtype))
        self.register_buffer("chosen", torch.zeros((), dtype=torch.float64))

    def project(self, features: Tensor) -> Tensor:
        """Rectified random projections (N, projections)."""
        return F.relu(features.detach() @ self.projection)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take in features (N, width) of a task, of classes (N,), and solve for the weights."""
        projected = self.project(features).to(self.gram.dtype)
        targets = F.one_hot(labels, self.sums.shape[1]).to(self.gram.dtype)
        self.sums += projected.T @ targets
        self.gram += projected.T @ projected
        penalty = choose_ridge(projected, targets) if self.penalty is None else self.penalty
        self.get_buffer("chosen").fill_(penalty)
        self.weights.copy_(ridge_weights(self.gram, self.sums, penalty))

    def scores(self, features: Tensor) -> Tensor:
        """Regressed scores (N, classes)."""
        weights = F.normalize(self.weights, dim=0) if self.cosine else self.weights
        return self.project(features).to(self.gram.dtype) @ weights
