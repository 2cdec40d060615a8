"""What the frozen layers of any model hold: classes of pictures, classes of pixels, and objects.

Nothing of the model is trained. A picture's class is read by a linear or a nearest-neighbour read-out of
:mod:`neural_fits.behavior.readout`; a pixel's by a linear map of the features at its place (the maps of the layer
interpolated bilinearly); objects are proposed by clusters of the features of a picture's own places, without any label.
What is around a picture in the field of the model counts nowhere.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor

from neural_fits.behavior.readout import LinearReadout, NeighbourReadout
from neural_fits.bootstrap import percentile_interval, resampled_counts
from vision_methods.dense_maps import Window, cells_inside, maps_at
from vision_methods.kmeans import kmeans
from vision_methods.segments import N_CLUSTERS, VOID

#: Read-outs of the class of a picture, by name.
PROBES: dict[str, Callable[..., Any]] = {"linear": LinearReadout, "neighbours": NeighbourReadout}

#: Penalties of the linear segmentation probe to choose from, of half the squared weights beside the summed log loss.
PENALTIES = (10.0, 100.0, 1e3, 1e4)

#: Clustered maps have at most so many places on a side, so that layers of one network are set beside each other.
SIDE = 28


class Classification(NamedTuple):
    """Answers of a probe.

    Attributes
    ----------
    predicted : ndarray, (picture,)
        Labels of held-out pictures.
    correct : ndarray of bool, (picture,)
    accuracy : float
    interval : tuple of float
        Of the accuracy for other pictures of the kind; the probe is taken as it is.
    setting : float
        Penalty or number of neighbours, chosen inside the training pictures.
    """

    predicted: np.ndarray
    correct: np.ndarray
    accuracy: float
    interval: tuple[float, float]
    setting: float


def classify(
    features: np.ndarray,
    labels: np.ndarray,
    held_features: np.ndarray,
    held_labels: np.ndarray,
    *,
    probe: str = "linear",
    confidence: float = 0.95,
    **options: Any,
) -> Classification:
    """Fit a read-out of classes to training pictures and ask it about others.

    Parameters
    ----------
    features, held_features : array, (picture, feature)
    labels, held_labels : array, (picture,)
    probe : str
        Of :data:`PROBES`: multinomial logistic regression on standardised features, or a vote of the nearest training
        pictures by the cosine.
    confidence : float
        Of the interval, which is Wilson's (1927) for a binomial share.
    **options
        Of the read-out.

    Returns
    -------
    Classification

    Raises
    ------
    ValueError
        If there is no such probe, or the features do not fit.

    Examples
    --------
    >>> x = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.1], [1.0, 0.0]])
    >>> answers = classify(x, np.array([0, 0, 1, 1]), x, np.array([0, 0, 1, 0]), probe="neighbours", n_neighbours=[1])
    >>> answers.accuracy, [round(end, 2) for end in answers.interval]
    (0.75, [0.3, 0.95])
    """
    if probe not in PROBES:
        raise ValueError(f"probe is {probe!r}; expected one of {', '.join(PROBES)}.")
    fitted = PROBES[probe](**options).fit(features, labels)
    predicted = fitted.predict(held_features)
    correct = predicted == np.asarray(held_labels)
    interval = binomtest(int(correct.sum()), len(correct)).proportion_ci(confidence, method="wilson")
    setting = fitted.penalty_ if probe == "linear" else fitted.n_neighbours_
    return Classification(
        predicted, correct, float(correct.mean()), (float(interval.low), float(interval.high)), float(setting)
    )


def interval_of_sums(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval (BCa) over pictures of a statistic of sums over pictures, such as a mean IoU.

    Parameters
    ----------
    values : array, (picture, ...)
        What is summed over pictures: confusions, or sums of :func:`vision_methods.segments.discovery_sums`.
    statistic : callable
        Of sums (resample, ...), one number each.
    n_resamples, confidence, seed
        Of the bootstrap.

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> values = np.stack([np.arange(100.0), np.ones(100)], 1)
    >>> low, high = interval_of_sums(values, lambda sums: sums[:, 0] / sums[:, 1])
    >>> round(float((high - low) / (2 * 1.96 * np.arange(100).std() / 10)), 1)  # against the normal approximation
    1.0
    """
    values = np.asarray(values, dtype=float)
    flat, shape = values.reshape(len(values), -1), values.shape[1:]
    resampled = resampled_counts(len(values), n_resamples=n_resamples, seed=seed) @ flat
    total = flat.sum(0)
    return percentile_interval(
        statistic(resampled.reshape(-1, *shape)),
        estimate=float(statistic(total.reshape(1, *shape))[0]),
        jackknife=statistic((total - flat).reshape(-1, *shape)),
        confidence=confidence,
    )


def draw_pixels(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers, in the flat map, of some pixels that are not void; all of them where there are not more."""
    known = np.flatnonzero(labels.ravel() != VOID)
    return known if len(known) <= n else np.sort(rng.choice(known, n, replace=False))


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentationProbe:
    """Linear classes of places.

    Attributes
    ----------
    weights : ndarray, (class, channel)
    bias : ndarray, (class,)
    classes : ndarray of int, (class,)
        Those seen in training.
    penalty : float
    """

    weights: np.ndarray
    bias: np.ndarray
    classes: np.ndarray
    penalty: float

    def predict(self, maps: Tensor, places: Tensor) -> np.ndarray:
        """Most probable class at places (...) of maps (channel, row, column).

        The logits are interpolated: a linear map of interpolated features is the same.
        """
        weights, bias = (torch.from_numpy(each).float() for each in (self.weights, self.bias))
        logits = torch.einsum("kc,chw->khw", weights, maps) + bias[:, None, None]
        return self.classes[maps_at(logits, places).argmax(0).numpy()]


def fit_segmentation(
    features: np.ndarray,
    labels: np.ndarray,
    picture: np.ndarray,
    *,
    penalties: Sequence[float] = PENALTIES,
    held_out: float = 0.2,
    seed: int = 0,
) -> SegmentationProbe:
    """Multinomial logistic regression of the classes of pixels; the penalty by the log loss of held-out pictures.

    Parameters
    ----------
    features : array, (pixel, channel)
    labels : array of int, (pixel,)
    picture : array, (pixel,)
        The picture that each pixel is of: those of one picture are held out together.
    penalties : sequence of float
        One is taken as it is.
    held_out : float
        Share of the pictures that the penalty is chosen by.
    seed : int
        Of the pictures held out.

    Returns
    -------
    SegmentationProbe

    Raises
    ------
    ValueError
        If there is one class alone, or there are too few pictures to choose a penalty.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 300)
    >>> probe = fit_segmentation(np.eye(3)[labels] + rng.normal(0, 0.1, (300, 3)), labels, np.arange(300) // 10)
    >>> probe.predict(5 * torch.eye(3)[..., None], torch.tensor([[0.0, 0.0]])).tolist()
    [1]
    """
    labels, picture = np.asarray(labels), np.asarray(picture)
    penalty = float(penalties[0])
    if len(penalties) > 1:
        names = np.random.default_rng(seed).permutation(np.unique(picture))
        if len(names) < 2:
            raise ValueError(f"pixels are of {len(names)} picture; expected at least 2 to choose a penalty.")
        held = np.isin(picture, names[: max(1, round(held_out * len(names)))])
        losses = []
        for each in penalties:
            fitted = LinearReadout([each]).fit(features[~held], labels[~held])
            # What no class was learned for says nothing about the penalty.
            known = held & np.isin(labels, fitted.classes_)
            right = np.searchsorted(fitted.classes_, labels[known])
            logits = torch.from_numpy(fitted.decision_function(features[known]))
            losses.append(float(F.cross_entropy(logits, torch.from_numpy(right))))
        penalty = float(penalties[int(np.argmin(losses))])
    fitted = LinearReadout([penalty]).fit(features, labels)
    return SegmentationProbe(fitted.coef_, fitted.intercept_, fitted.classes_, penalty)


def clusterings(
    maps: Tensor,
    height: int,
    width: int,
    window: Window,
    *,
    n_clusters: Sequence[int] = N_CLUSTERS,
    side: int = SIDE,
    spherical: bool = True,
    seed: int = 0,
) -> list[np.ndarray]:
    """Clusters of the places of a picture, by k-means of their features, brought to its pixels.

    Maps with more places are averaged to ``side`` of them first. A pixel belongs to the place that it lies in; places
    whose centres are outside the picture are left out.

    Parameters
    ----------
    maps : Tensor, (channel, row, column)
    height, width : int
        Of the picture, px.
    window : Window
    n_clusters : sequence of int
        Of each clustering; at most as many as there are places.
    side : int
    spherical : bool
        Features and centres of unit length; one channel has no direction, and is clustered by its values.
    seed : int

    Returns
    -------
    list of ndarray of int, (row, column)

    Examples
    --------
    >>> maps = torch.tensor([[[1.0, 1, 0, 0]], [[0.0, 0, 1, 1]]]).expand(2, 4, 4)
    >>> (found,) = clusterings(maps, 2, 8, Window(3, 0, 2, 8, input_px=8), n_clusters=[2])
    >>> (found == found[0, 0]).astype(int).tolist()
    [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]
    """
    maps = F.adaptive_avg_pool2d(maps, (min(side, maps.shape[1]), min(side, maps.shape[2])))
    ends = [
        cells_inside(start, length, window.input_px, n)
        for start, length, n in zip(window[:2], window[2:4], maps.shape[1:], strict=True)
    ]
    (top, bottom), (left, right) = ends
    inside = maps[:, top : bottom + 1, left : right + 1]
    points = inside.flatten(1).T[None]
    of_pixel = [
        np.clip(((start + (np.arange(size) + 0.5) * length / size) * n / window.input_px).astype(int), *end) - end[0]
        for size, start, length, n, end in zip(
            (height, width), window[:2], window[2:4], maps.shape[1:], ends, strict=True
        )
    ]
    found = []
    for k in n_clusters:
        clusters = kmeans(points, min(k, points.shape[1]), seeds=seed, spherical=spherical and len(maps) > 1)
        found.append(clusters.assignments[0].reshape(inside.shape[1:]).numpy()[np.ix_(*of_pixel)])
    return found


def place_maps(n: int = SIDE) -> Tensor:
    """Maps of nothing but the place, (2, n, n): clusters of them are compact patches, whatever the picture.

    The reference of object discovery: what clusters gain by lying together, without any feature.
    """
    at = torch.arange(n) + 0.5
    return torch.stack(torch.broadcast_tensors(at[:, None], at[None, :])).clone()
