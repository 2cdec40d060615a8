"""Classes from a few labelled pictures, without training: adapters on frozen features, and their accuracy by shots.

An adapter turns the features of a few labelled pictures (the support: so many *shots* of each class) and, where the
model has a text tower, the texts of the classes, into logits for other pictures. What it leaves open is chosen from one
grid for all data, by folds of the support alone; of one shot nothing can be held out, and the default stands.

Sources: prototypes, Snell et al. 2017 (*NeurIPS*); Tip-Adapter, Zhang et al. 2022 (*ECCV*), without the averages over
augmented keys; Gaussian discriminant, Wang et al. 2024 (*ICLR*); votes of neighbours weighted by rank, after Geirhos et
al. 2024 (arXiv 2408.08172). All features are taken at unit length.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

VOTES = ("equal", "softmax", "rank")

#: Labelled pictures of each class.
SHOTS = (1, 2, 4, 8, 16, 32)

#: Folds of the support that settings are chosen by, at most.
FOLDS = 5
#: Cosines of queries with the support that are held at a time.
BLOCK = 1 << 24


def unit(features: np.ndarray) -> np.ndarray:
    """Rows at length 1, float64; rows of zeros stay."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or not len(features):
        raise ValueError(f"features have shape {features.shape}; expected (picture, feature), at least one picture.")
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Support:
    """What an adapter knows of the classes.

    Parameters
    ----------
    features : array, (picture, feature)
        Of the labelled pictures, of any length.
    labels : array of int, (picture,)
        From 0; every class has a picture.
    n_classes : int
    texts : array, (class, feature), optional
        Embeddings of the texts of the classes.
    scale : float
        That cosines of pictures and texts are multiplied with, as the model learned it.

    Raises
    ------
    ValueError
        If a class has no picture, or shapes do not fit.

    Examples
    --------
    >>> Support(np.array([[0.0, 2.0], [3.0, 0.0]]), np.array([1, 0]), 2).one_hot
    array([[0., 1.],
           [1., 0.]])
    """

    features: np.ndarray
    labels: np.ndarray
    n_classes: int
    texts: np.ndarray | None = None
    scale: float = 100.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", unit(self.features))
        labels = np.asarray(self.labels)
        if labels.shape != (len(self.features),) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"labels have shape {labels.shape} and type {labels.dtype}; expected {len(self.features)} integers."
            )
        if sorted(set(labels.tolist())) != list(range(self.n_classes)):
            raise ValueError(f"labels are not each of 0 to {self.n_classes - 1}; expected a picture of every class.")
        object.__setattr__(self, "labels", labels)
        if self.texts is not None:
            object.__setattr__(self, "texts", unit(self.texts))
            assert self.texts is not None
            if self.texts.shape != (self.n_classes, self.features.shape[1]):
                raise ValueError(
                    f"texts have shape {self.texts.shape}; expected ({self.n_classes}, {self.features.shape[1]})."
                )

    @property
    def one_hot(self) -> np.ndarray:
        """Labels, (picture, class)."""
        return np.eye(self.n_classes)[self.labels]

    @property
    def means(self) -> np.ndarray:
        """Mean feature of each class, (class, feature), as long as it is."""
        return self.one_hot.T @ self.features / self.one_hot.sum(0)[:, None]

    def at(self, rows: np.ndarray) -> Support:
        """Some of the pictures."""
        return dataclasses.replace(self, features=self.features[rows], labels=self.labels[rows])


def zero_shot(queries: np.ndarray, support: Support) -> np.ndarray:
    """``s x W^T``: cosines with the texts of the classes, no labelled picture.

    Parameters
    ----------
    queries : array, (query, feature)
    support : Support
        With texts.

    Returns
    -------
    ndarray, (query, class)

    Raises
    ------
    ValueError
        If there are no texts.

    Examples
    --------
    >>> support = Support(np.eye(2), np.array([0, 1]), 2, texts=np.eye(2), scale=10.0)
    >>> zero_shot(np.array([[3.0, 4.0]]), support)
    array([[6., 8.]])
    """
    if support.texts is None:
        raise ValueError("the model gave no texts of the classes; take an adapter that needs none.")
    return support.scale * unit(queries) @ support.texts.T


def prototypes(queries: np.ndarray, support: Support) -> np.ndarray:
    """Cosines with the mean feature of each class.

    Parameters
    ----------
    queries : array, (query, feature)
    support : Support

    Returns
    -------
    ndarray, (query, class)

    Examples
    --------
    >>> support = Support(np.array([[1.0, 0], [0, 1], [0, -1]]), np.array([0, 0, 1]), 2)
    >>> prototypes(np.array([[1.0, 1.0]]), support).round(3)
    array([[ 1.   , -0.707]])
    """
    return unit(queries) @ unit(support.means).T


def kernel(queries: np.ndarray, support: Support, *, beta: float = 1.0) -> np.ndarray:
    """``exp(-beta (1 - x F^T)) Y``: every labelled picture votes, less the farther it is; Tip-Adapter's cache.

    Parameters
    ----------
    queries : array, (query, feature)
    support : Support
    beta : float
        Sharpness.

    Returns
    -------
    ndarray, (query, class)

    Examples
    --------
    >>> kernel(np.array([[1.0, 0.0]]), Support(np.eye(2), np.array([0, 1]), 2), beta=1.0).round(3)
    array([[1.   , 0.368]])
    """
    return np.exp(-beta * (1 - unit(queries) @ support.features.T)) @ support.one_hot


def tip_adapter(queries: np.ndarray, support: Support, *, alpha: float = 1.17, beta: float = 1.0) -> np.ndarray:
    """Tip-Adapter without training: ``s x W^T + alpha exp(-beta (1 - x F^T)) Y``.

    Parameters
    ----------
    queries : array, (query, feature)
    support : Support
        With texts.
    alpha, beta : float
        Weight and sharpness of the labelled pictures, as the authors' code names them (the paper exchanges the names);
        the defaults are where it starts for ImageNet.

    Returns
    -------
    ndarray, (query, class)

    Examples
    --------
    >>> support = Support(np.eye(2), np.array([0, 1]), 2, texts=np.eye(2), scale=10.0)
    >>> tip_adapter(np.array([[1.0, 0.0]]), support, alpha=2.0, beta=1.0).round(3)
    array([[12.   ,  0.736]])
    """
    return zero_shot(queries, support) + alpha * kernel(queries, support, beta=beta)


def neighbours(
    queries: np.ndarray,
    support: Support,
    *,
    neighbours: int = 1,
    vote: str = "equal",
    temperature: float = 0.07,
    offset: float = 2.0,
) -> np.ndarray:
    """Votes of the nearest labelled pictures by the cosine.

    Parameters
    ----------
    queries : array, (query, feature)
    support : Support
    neighbours : int
        That vote; all where the support has fewer.
    vote : {"equal", "softmax", "rank"}
        One each, and the sum of cosines decides between as many; ``exp(cosine / temperature)``; ``1 / (offset +
        rank)``, where the nearest has rank 0.
    temperature, offset : float

    Returns
    -------
    ndarray, (query, class)

    Raises
    ------
    ValueError
        If the vote is unknown, or there are no neighbours.

    Examples
    --------
    >>> support = Support(np.array([[1.0, 0], [4, 3], [0, 1]]), np.array([0, 1, 1]), 2)
    >>> neighbours(np.array([[1.0, 0.1]]), support, neighbours=3, vote="rank")
    array([[0.5       , 0.58333333]])
    """
    if vote not in VOTES:
        raise ValueError(f"vote is {vote!r}; expected one of {', '.join(VOTES)}.")
    if neighbours < 1:
        raise ValueError(f"neighbours are {neighbours}; expected at least 1.")
    cosines = unit(queries) @ support.features.T
    k = min(neighbours, len(support.features))
    # Cosines that differ by rounding are equal, so that the order of the support decides nothing else.
    nearest = np.argsort(-cosines.round(12), axis=1, kind="stable")[:, :k]
    near = np.take_along_axis(cosines, nearest, 1)
    if vote == "equal":
        weights = 1 + near / (2 * k + 1)  # the sums of k cosines differ by less than a vote
    elif vote == "softmax":
        weights = np.exp((near - near[:, :1]) / temperature)
    else:
        weights = np.broadcast_to(1 / (offset + np.arange(k)), near.shape)
    return np.einsum("qk,qkc->qc", weights, support.one_hot[nearest])


def gaussian(queries: np.ndarray, support: Support) -> np.ndarray:
    """Gaussian discriminant with one covariance for all classes, and equal priors.

    ``x S^-1 mu_c - mu_c^T S^-1 mu_c / 2`` with ``S = (1 - g) S_0 D / tr(S_0) + g I``, where ``S_0`` is the covariance
    within classes and ``g = D / (n - 1 + D)`` for n pictures of D features: up to a factor, the estimate of Kubokawa
    and Srivastava (2008) that Wang et al. take. With a mean variance of 1, the logits weigh the same for any number of
    shots when they are added to others; of one shot, where nothing varies within a class, ``S = I``.

    Parameters
    ----------
    queries : array, (query, feature)
    support : Support

    Returns
    -------
    ndarray, (query, class)

    Examples
    --------
    >>> gaussian(np.array([[3.0, 4.0]]), Support(np.eye(2), np.array([0, 1]), 2)).round(6)  # one shot: cosine - 1/2
    array([[0.1, 0.3]])
    """
    means = support.means
    centred = support.features - means[support.labels]
    n, width = centred.shape
    within = centred.T @ centred / n
    spread = np.trace(within) / width
    share = width / (n - 1 + width) if spread > 1e-12 else 1.0
    shape = within / spread if spread > 1e-12 else within
    weights = np.linalg.solve((1 - share) * shape + share * np.eye(width), means.T)
    return unit(queries) @ weights - (means * weights.T).sum(1) / 2


def with_texts(
    queries: np.ndarray,
    support: Support,
    *,
    adapter: Callable[..., np.ndarray] = prototypes,
    alpha: float = 1.0,
    **setting: Any,
) -> np.ndarray:
    """Zero-shot logits and those of an adapter: ``s (x W^T + alpha g(x))``.

    Parameters
    ----------
    queries : array, (query, feature)
    support : Support
        With texts.
    adapter : callable
        ``g``: :func:`prototypes`, :func:`gaussian`, ...
    alpha : float
        Its weight.
    **setting
        Of the adapter.

    Returns
    -------
    ndarray, (query, class)

    Examples
    --------
    >>> support = Support(np.eye(2), np.array([0, 1]), 2, texts=np.eye(2), scale=10.0)
    >>> with_texts(np.array([[3.0, 4.0]]), support, alpha=0.5)
    array([[ 9., 12.]])
    """
    return zero_shot(queries, support) + support.scale * alpha * adapter(queries, support, **setting)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter and the settings to choose from; the first is the default."""

    logits: Callable[..., np.ndarray]
    grid: Sequence[Mapping[str, Any]] = ({},)
    needs_texts: bool = False


def _every(**values: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """All combinations."""
    grid: list[dict[str, Any]] = [{}]
    for name, each in values.items():
        grid = [{**setting, name: value} for setting in grid for value in each]
    return tuple(grid)


# Pictures are more like each other than like texts, so that less than an equal weight is the default.
_SHARES = _every(alpha=(0.3, 0.03, 0.1, 1.0, 3.0, 10.0))
_BETAS = (1.0, 0.3, 3.0, 10.0, 30.0)

#: Adapters by name: six that need pictures alone, and those that have texts as well.
ADAPTERS: dict[str, Adapter] = {
    "neighbours": Adapter(neighbours, _every(neighbours=(1, 3, 5, 10, 20))),
    "neighbours-softmax": Adapter(
        functools.partial(neighbours, vote="softmax"),
        _every(neighbours=(20, 5, 10, 50), temperature=(0.07, 0.02, 0.2)),
    ),
    "neighbours-rank": Adapter(
        functools.partial(neighbours, vote="rank"), _every(neighbours=(10, 3, 5, 20, 50), offset=(2.0, 0.5))
    ),
    "prototypes": Adapter(prototypes),
    "kernel": Adapter(kernel, _every(beta=(10.0, 1.0, 3.0, 30.0, 100.0))),
    "gaussian": Adapter(gaussian),
    "tip-adapter": Adapter(tip_adapter, _every(alpha=(1.17, 0.1, 0.3, 3.0, 10.0, 30.0), beta=_BETAS), True),
    "prototypes-texts": Adapter(with_texts, _SHARES, True),
    "gaussian-texts": Adapter(functools.partial(with_texts, adapter=gaussian), _SHARES, True),
}


def choose(adapter: Adapter, support: Support) -> dict[str, Any]:
    """Setting with the most right answers in folds of the support; the default among as many.

    Parameters
    ----------
    adapter : Adapter
    support : Support
        Folds take the pictures of every class in turn, in their order. Where a class has a single picture, none can
        be held out.

    Returns
    -------
    dict

    Examples
    --------
    >>> x = np.array([[1, 0.0], [1, 0.1], [1, 0.4], [1, 1.2], [1, 1.1], [1, 0.5]])
    >>> choose(ADAPTERS["neighbours"], Support(x, np.array([0, 0, 0, 1, 1, 1]), 2))
    {'neighbours': 3}
    """
    counts = np.bincount(support.labels, minlength=support.n_classes)
    folds = min(FOLDS, int(counts.min()))
    if folds < 2 or len(adapter.grid) == 1:
        return dict(adapter.grid[0])
    turn = np.zeros(len(support.labels), dtype=int)
    for k in range(support.n_classes):
        rows = np.flatnonzero(support.labels == k)
        turn[rows] = np.arange(len(rows)) % folds
    right = np.zeros(len(adapter.grid), dtype=int)
    for fold in range(folds):
        held, rest = turn == fold, support.at(turn != fold)
        for i, setting in enumerate(adapter.grid):
            found = _answers(adapter.logits, support.features[held], rest, setting)
            right[i] += int((found == support.labels[held]).sum())
    return dict(adapter.grid[int(right.argmax())])


def draw_support(labels: np.ndarray, shots: int, *, seed: int) -> np.ndarray:
    """So many pictures of every class; those of fewer shots are among those of more with the same seed.

    Parameters
    ----------
    labels : array of int, (picture,)
    shots : int
    seed : int

    Returns
    -------
    ndarray of int, (class x shots,)
        Rows, class by class.

    Raises
    ------
    ValueError
        If a class has too few pictures.

    Examples
    --------
    >>> labels = np.repeat([0, 1], 10)
    >>> few, more = (draw_support(labels, shots, seed=0) for shots in (2, 4))
    >>> set(few) < set(more), np.bincount(labels[more]).tolist()
    (True, [4, 4])
    """
    labels = np.asarray(labels)
    if shots < 1:
        raise ValueError(f"shots are {shots}; expected at least 1.")
    rng, rows = np.random.default_rng(seed), []
    for k in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == k))
        if len(of_class) < shots:
            raise ValueError(f"class number {k} has {len(of_class)} pictures; expected at least {shots} shots.")
        rows.append(of_class[:shots])
    return np.concatenate(rows)


def few_shot_rows(
    features: np.ndarray,
    labels: np.ndarray,
    held_features: np.ndarray,
    held_labels: np.ndarray,
    *,
    shots: Iterable[int] = SHOTS,
    seeds: Iterable[int] = range(5),
    adapters: Sequence[str] | None = None,
    texts: np.ndarray | None = None,
    scale: float = 100.0,
) -> list[dict[str, Any]]:
    """Accuracy of adapters for held-out pictures, by shots and draw of the support.

    Parameters
    ----------
    features : array, (picture, feature)
        Of the pictures that the support is drawn from.
    labels : array of int, (picture,)
        From 0, every class.
    held_features, held_labels
        Of the pictures to judge by; nothing is chosen by them.
    shots : iterable of int
        Pictures of every class in the support.
    seeds : iterable of int
        Of draws. The same seed draws the same pictures whatever their features, so that models can be compared draw by
        draw.
    adapters : sequence of str, optional
        Of :data:`ADAPTERS`. Default: all that the model can do.
    texts : array, (class, feature), optional
        Embeddings of the texts of the classes.
    scale : float
        Of cosines with texts.

    Returns
    -------
    list of dict
        ``adapter``, ``shots``, ``seed``, ``accuracy``, ``setting`` (a dict); first ``zero-shot`` with 0 shots, where
        there are texts.

    Raises
    ------
    ValueError
        If an adapter is unknown or needs texts, or a class has too few pictures.

    Examples
    --------
    >>> x = np.array([[1, 0.1], [1, 0.2], [0.1, 1], [0.2, 1]])
    >>> y = np.array([0, 0, 1, 1])
    >>> rows = few_shot_rows(x, y, x, y, shots=[1], seeds=[0], adapters=["prototypes"])
    >>> rows[0]["adapter"], rows[0]["shots"], rows[0]["accuracy"]
    ('prototypes', 1, 1.0)
    """
    names = adapters
    if names is None:
        names = [name for name, adapter in ADAPTERS.items() if texts is not None or not adapter.needs_texts]
    for name in names:
        if name not in ADAPTERS:
            raise ValueError(f"adapter is {name!r}; expected one of {', '.join(ADAPTERS)}.")
        if ADAPTERS[name].needs_texts and texts is None:
            raise ValueError(f"{name} needs texts of the classes, which the model does not have; leave it out.")
    features, held_features = unit(features), unit(held_features)
    labels, held_labels = np.asarray(labels), np.asarray(held_labels)
    n_classes, shots, seeds = int(labels.max()) + 1, list(shots), list(seeds)
    rows = []
    if texts is not None:
        chance = Support(features, labels, n_classes, texts, scale)
        found = _answers(zero_shot, held_features, chance, {})
        rows.append(_row("zero-shot", 0, "", found, held_labels, {}))
    for count in shots:
        for seed in seeds:
            drawn = draw_support(labels, count, seed=seed)
            support = Support(features[drawn], labels[drawn], n_classes, texts, scale)
            for name in names:
                setting = choose(ADAPTERS[name], support)
                found = _answers(ADAPTERS[name].logits, held_features, support, setting)
                rows.append(_row(name, count, seed, found, held_labels, setting))
    return rows


def _answers(
    logits: Callable[..., np.ndarray], queries: np.ndarray, support: Support, setting: Mapping[str, Any]
) -> np.ndarray:
    """Class of each query, a block of them at a time."""
    blocks = -(-len(queries) * len(support.features) // BLOCK)
    return np.concatenate([logits(part, support, **setting).argmax(1) for part in np.array_split(queries, blocks)])


def _row(
    adapter: str, shots: int, seed: Any, answers: np.ndarray, labels: np.ndarray, setting: Mapping[str, Any]
) -> dict[str, Any]:
    accuracy = float((answers == labels).mean())
    return {"adapter": adapter, "shots": shots, "seed": seed, "accuracy": accuracy, "setting": dict(setting)}
