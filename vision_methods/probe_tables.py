"""Probes of layers of several models, each beside the same network with random weights: what ``lcl probe`` computes.

Every measure is a statistic of sums over held-out pictures, so that one bootstrap over pictures gives the interval of
any of them, and of its difference to the untrained network on the same pictures.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from scipy.stats import binomtest

from lcl.labelled_images import LabelledImages, central_squares
from neural_fits.vision_model import VisionModel
from vision_methods.dense_maps import dense_maps, maps_at, picture_window, pixel_places, pooled_features
from vision_methods.probes import (
    PROBES,
    Classification,
    classify,
    clusterings,
    draw_pixels,
    fit_segmentation,
    interval_of_sums,
    place_maps,
)
from vision_methods.segments import (
    N_CLUSTERS,
    Objects,
    SegmentedImages,
    best_overlaps,
    class_iou,
    classes_at,
    confusion,
    discovery_sums,
    mean_iou,
    semantic_map,
)

#: Weights that a layer is probed with: those of the model, and new random ones.
WEIGHTS = ("given", "untrained")

#: Pictures whose maps are kept to be looked at, and the clustering of them that is shown.
N_EXAMPLES, EXAMPLE_CLUSTERS = 4, 8

# Sums over pictures of a measure, for a row (model, layer), weights and measure.
Sums = dict[tuple[tuple[str, str], str, str], np.ndarray]


def share(sums: np.ndarray, part: int = 0) -> np.ndarray:
    """One of the sums (..., part) over the last of them.

    Examples
    --------
    >>> share(np.array([[3.0, 1.0, 4.0]]), 1)
    array([0.25])
    """
    return sums[..., part] / np.where(sums[..., -1] > 0, sums[..., -1], np.nan)


class Example(NamedTuple):
    """A held-out photograph with what was read from it.

    Attributes
    ----------
    photograph : ndarray of uint8, (row, column, 3)
    truth : ndarray of int, (row, column)
        Classes, with void.
    classes : tuple of str
        Their names.
    predicted, clusters : dict of (str, str) to ndarray of int, (row, column)
        For a model and layer, with its own weights.
    """

    photograph: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...]
    predicted: dict[tuple[str, str], np.ndarray]
    clusters: dict[tuple[str, str], np.ndarray]


class Squares:
    """Central squares of labelled pictures, cut when they are asked for.

    Examples
    --------
    >>> from lcl.images import open_images
    >>> store = open_images("builtin", short_side_px=64)
    >>> Squares(LabelledImages(store, np.zeros(len(store), int), ("a",)), 32)[1:4].shape
    (3, 32, 32, 3)
    """

    def __init__(self, images: LabelledImages, size_px: int):
        self.images, self.size_px = images, size_px

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Uint8 pictures (picture, row, column, channel)."""
        chosen = np.arange(len(self))[rows]
        return central_squares(self.images, self.size_px, chosen).permute(0, 2, 3, 1).contiguous().numpy()


def some_of_each(images: LabelledImages, n: int | None, *, seed: int = 0) -> LabelledImages:
    """At most so many pictures of each class (None: all), drawn by the seed."""
    rng = np.random.default_rng(seed)
    of_class = [rng.permutation(np.flatnonzero(images.labels == k))[:n] for k in range(len(images.classes))]
    return images.subset(np.sort(np.concatenate(of_class)))


def has_weights(model: VisionModel) -> bool:
    """Whether a model has parameters that could be untrained."""
    return isinstance(model.module, torch.nn.Module) and any(True for _ in model.module.parameters())


def _networks(
    models: Mapping[str, VisionModel], twins: Mapping[str, VisionModel], layers: Mapping[str, Sequence[str]]
) -> list[tuple[str, str, VisionModel, Sequence[str]]]:
    """Name, weights, model and layers of all that is probed."""
    of_weights = dict(zip(WEIGHTS, (models, twins), strict=True))
    return [
        (name, weights, each[name], layers[name])
        for name in models
        for weights, each in of_weights.items()
        if name in each
    ]


def classification(
    models: Mapping[str, VisionModel],
    twins: Mapping[str, VisionModel],
    layers: Mapping[str, Sequence[str]],
    train: LabelledImages,
    held: LabelledImages,
    *,
    probes: Sequence[str] = tuple(PROBES),
    n_features: int = 4096,
    batch_size: int = 32,
    progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> tuple[Sums, dict[str, Any]]:
    """Classes of pictures from layers.

    Parameters
    ----------
    models, twins : mapping of str to VisionModel
        Under the same names; a model without weights has no twin.
    layers : mapping of str to sequence of str
        Of each model.
    train, held : LabelledImages
        Of the same classes; the central square of each picture fills the field.
    probes : sequence of str
        Of :data:`vision_methods.probes.PROBES`.
    n_features, batch_size, progress
        As in :func:`vision_methods.dense_maps.pooled_features`.
    say : callable, optional
        Called with a line for each answer.

    Returns
    -------
    sums : dict
        Right answers and pictures, for every held-out picture; measures ``linear accuracy``, ``neighbours accuracy``.
    record : dict
        How many pictures, classes and features; the share of the commonest class as ``reference``.
    """
    sums: Sums = {}
    features_of, settings = {}, {}
    for name, weights, model, chosen in _networks(models, twins, layers):
        features, held_features = (
            pooled_features(
                model,
                Squares(images, model.input_px),
                chosen,
                n_features=n_features,
                batch_size=batch_size,
                progress=progress,
            )
            for images in (train, held)
        )
        for layer in chosen:
            features_of[f"{name} {layer}"] = features[layer].shape[1]
            for probe in probes:
                found = classify(features[layer], train.labels, held_features[layer], held.labels, probe=probe)
                sums[(name, layer), weights, f"{probe} accuracy"] = np.stack([found.correct, np.ones(len(held))], 1)
                settings[f"{name} {layer} {weights} {probe}"] = found.setting
                if say:
                    say(_line(name, layer, weights, probe, found))
    commonest = float(np.bincount(held.labels).max() / len(held))
    record = {
        "n_train_pictures": len(train),
        "n_held_out_pictures": len(held),
        "classes": list(train.classes),
        "n_features": features_of,
        "settings": settings,
        "reference": {f"{probe} accuracy": commonest for probe in probes},
    }
    return sums, record


def _line(name: str, layer: str, weights: str, probe: str, found: Classification) -> str:
    low, high = found.interval
    return f"{name} {layer}, {weights} weights: {probe} accuracy {found.accuracy:.3f} [{low:.3f}, {high:.3f}]"


def segmentation(
    models: Mapping[str, VisionModel],
    twins: Mapping[str, VisionModel],
    layers: Mapping[str, Sequence[str]],
    train: SegmentedImages,
    held: SegmentedImages,
    *,
    level: str = "supercategory",
    n_pixels: int = 20_000,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> tuple[Sums, dict[str, Any], list[Example]]:
    """Classes of pixels, and objects, from layers.

    Parameters
    ----------
    models, twins, layers
        As in :func:`classification`.
    train, held : SegmentedImages
        Of the same categories.
    level : str
        Of the classes, as in :func:`vision_methods.segments.classes_at`.
    n_pixels : int
        To learn from, as many of every photograph.
    batch_size, progress
        Of the models.
    seed : int
        Of pixels, of the pictures that choose a penalty, and of clusters.
    say : callable, optional
        Called with a line for each layer.

    Returns
    -------
    sums : dict
        For every held-out photograph: confusions (``mean IoU``) and sums of
        :func:`vision_methods.segments.discovery_sums` (``average best overlap``, ``object recovery``).
    record : dict
        How many of what; the scores of background everywhere and of clusters of places alone as ``reference``.
    examples : list of Example

    Raises
    ------
    ValueError
        If the two have other categories, or a layer has no places.
    """
    if train.categories != held.categories:
        raise ValueError("photographs to learn from and to judge by have other categories; expected the same.")
    names, class_of = classes_at(train, level)
    reference, record = _without_features(held, class_of, len(names), seed)
    record |= {
        "n_train_photographs": len(train),
        "n_train_pixels_of_a_photograph": max(1, n_pixels // len(train)),
        "level": level,
        "segment_classes": list(names),
        "reference": reference,
    }
    drawn = functools.partial(_training_pixels, train, class_of, record["n_train_pixels_of_a_photograph"], seed)
    shown = np.unique(np.linspace(0, len(held) - 1, N_EXAMPLES).round().astype(int)).tolist()
    examples = {i: Example(held.picture(i), semantic_map(held.objects(i), class_of), names, {}, {}) for i in shown}
    sums: Sums = {}
    proposals = record["mean_proposals"] = dict[str, float]()
    for name, weights, model, chosen in _networks(models, twins, layers):
        options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
        fitted = {
            layer: fit_segmentation(*pixels, seed=seed) for layer, pixels in drawn(model, chosen, **options).items()
        }
        confusions: dict[str, list[np.ndarray]] = {layer: [] for layer in chosen}
        overlaps: dict[str, list[np.ndarray]] = {layer: [] for layer in chosen}
        n_proposals: dict[str, list[int]] = {layer: [] for layer in chosen}
        for i, maps in enumerate(dense_maps(model, held, chosen, **options)):
            objects, size = held.objects(i), held.sizes[i]
            truth, window = semantic_map(objects, class_of), picture_window(*size, model)
            places, single = pixel_places(*size, window), single_objects(objects)
            for layer in chosen:
                predicted = fitted[layer].predict(maps[layer], places)
                clusters = clusterings(maps[layer], *size, window, seed=seed)
                n_proposals[layer].append(sum(int(each.max()) + 1 for each in clusters))
                confusions[layer].append(confusion(truth, predicted, len(names)))
                overlaps[layer].append(discovery_sums(best_overlaps(single, clusters)))
                if i in examples and weights == WEIGHTS[0]:
                    examples[i].predicted[name, layer] = predicted
                    examples[i].clusters[name, layer] = clusters[N_CLUSTERS.index(EXAMPLE_CLUSTERS)]
        for layer in chosen:
            row = (name, layer)
            proposals[f"{name} {layer}"] = float(np.mean(n_proposals[layer]))
            sums[row, weights, "mean IoU"] = np.stack(confusions[layer])
            sums[row, weights, "average best overlap"] = np.stack(overlaps[layer])
            sums[row, weights, "object recovery"] = np.stack(overlaps[layer])
            if say:
                scores = [
                    f"{measure} {float(statistic(sums[row, weights, measure].sum(0)[None])[0]):.3f}"
                    for measure, statistic in statistics(record).items()
                    if (row, weights, measure) in sums
                ]
                say(f"{name} {layer}, {weights} weights: {', '.join(scores)}")
    return sums, record, list(examples.values())


def single_objects(objects: Objects) -> np.ndarray:
    """Masks (object, row, column) of the objects that are told apart and have a pixel."""
    return objects.masks[~objects.crowd & objects.masks.any((1, 2))]


def _training_pixels(
    images: SegmentedImages,
    class_of: np.ndarray,
    of_picture: int,
    seed: int,
    model: VisionModel,
    layers: Sequence[str],
    **options: Any,
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Features (pixel, channel), class and picture of some pixels; the same pixels for every model."""
    features: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
    labels, picture = [], []
    for i, maps in enumerate(dense_maps(model, images, layers, **options)):
        truth = semantic_map(images.objects(i), class_of).ravel()
        drawn = draw_pixels(truth, of_picture, np.random.default_rng([seed, i]))
        places = pixel_places(*images.sizes[i], picture_window(*images.sizes[i], model)).flatten(0, 1)[drawn]
        for layer in layers:
            features[layer].append(maps_at(maps[layer], places).T.numpy())
        labels.append(truth[drawn])
        picture.append(np.full(len(drawn), i))
    known, of = np.concatenate(labels), np.concatenate(picture)
    return {layer: (np.concatenate(parts), known, of) for layer, parts in features.items()}


def _without_features(
    held: SegmentedImages, class_of: np.ndarray, n_classes: int, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores of background everywhere and of clusters of places alone; what the held-out photographs hold."""
    confusions, overlaps = np.zeros((n_classes, n_classes)), np.zeros(3)
    eye = VisionModel(torch.nn.Identity(), "places")
    for i, size in enumerate(held.sizes):
        objects = held.objects(i)
        truth = semantic_map(objects, class_of)
        confusions += confusion(truth, np.zeros_like(truth), n_classes)
        clusters = clusterings(place_maps(), *size, picture_window(*size, eye), spherical=False, seed=seed)
        overlaps += discovery_sums(best_overlaps(single_objects(objects), clusters))
    counted = np.flatnonzero(confusions.sum(1))
    reference = {
        "mean IoU": float(mean_iou(confusions, counted)),
        "average best overlap": float(share(overlaps)),
        "object recovery": float(share(overlaps, 1)),
    }
    record = {
        "n_held_out_photographs": len(held),
        "n_held_out_objects": int(overlaps[2]),
        "counted_classes": counted.tolist(),
    }
    return reference, record


def statistics(record: Mapping[str, Any]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What each measure is of sums over pictures (..., sums).

    Parameters
    ----------
    record : mapping
        Of :func:`classification`, :func:`segmentation` or both: the mean IoU is over its ``counted_classes``, those of
        the held-out photographs.

    Returns
    -------
    dict of str to callable

    Examples
    --------
    >>> statistics({})["object recovery"](np.array([[1.5, 1.0, 4.0]]))
    array([0.25])
    """
    return {
        **{f"{probe} accuracy": share for probe in PROBES},
        "mean IoU": functools.partial(mean_iou, classes=record.get("counted_classes")),
        "average best overlap": share,
        "object recovery": functools.partial(share, part=1),
    }


def probe_table(
    sums: Sums, record: Mapping[str, Any], *, n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> xr.Dataset:
    """Scores with intervals, and the gain over the untrained network on the same pictures.

    Parameters
    ----------
    sums : dict
        Of :func:`classification`, :func:`segmentation` or both.
    record : mapping
        Of both.
    n_resamples, confidence, seed
        Of the bootstrap over pictures; the interval of an accuracy is Wilson's for a binomial share.

    Returns
    -------
    xarray.Dataset
        ``score``, ``score_interval`` (row, weights, measure[, bound]); ``gain``, ``gain_interval`` (row, measure[,
        bound]): given less untrained, NaN where nothing was untrained; ``reference`` (measure): what no feature is
        needed for; ``class_iou`` (row, weights, class), where pixels were probed. Coordinates ``model`` and ``layer``
        of the rows.
    """
    rows = list(dict.fromkeys(row for row, _, _ in sums))
    of = statistics(record)
    measures = [measure for measure in of if any(each == measure for _, _, each in sums)]
    options: dict[str, Any] = {"n_resamples": n_resamples, "confidence": confidence, "seed": seed}
    shape = (len(rows), len(WEIGHTS), len(measures))
    score, interval = np.full(shape, np.nan), np.full((*shape, 2), np.nan)
    gain, gain_interval = np.full(shape[::2], np.nan), np.full((*shape[::2], 2), np.nan)
    for r, row in enumerate(rows):
        for m, measure in enumerate(measures):
            statistic = of[measure]
            found = [sums.get((row, weights, measure)) for weights in WEIGHTS]
            for w, values in enumerate(found):
                if values is None:
                    continue
                score[r, w, m] = statistic(values.sum(0)[None])[0]
                if measure.endswith("accuracy"):
                    right, n = values.sum(0).astype(int)
                    interval[r, w, m] = binomtest(right, n).proportion_ci(confidence, method="wilson")
                else:
                    interval[r, w, m] = interval_of_sums(values, statistic, **options)
            own, other = found
            if own is not None and other is not None:
                difference = functools.partial(_difference, statistic)
                gain[r, m] = score[r, 0, m] - score[r, 1, m]
                gain_interval[r, m] = interval_of_sums(np.stack([own, other], 1), difference, **options)
    data = {
        "score": (("row", "weights", "measure"), score),
        "score_interval": (("row", "weights", "measure", "bound"), interval),
        "gain": (("row", "measure"), gain),
        "gain_interval": (("row", "measure", "bound"), gain_interval),
        "reference": (("measure",), [record["reference"].get(measure, np.nan) for measure in measures]),
    }
    coordinates = {
        "row": [" ".join(row) for row in rows],
        "model": ("row", [name for name, _ in rows]),
        "layer": ("row", [layer for _, layer in rows]),
        "weights": list(WEIGHTS),
        "measure": measures,
        "bound": ["low", "high"],
    }
    if "mean IoU" in measures:
        iou = np.full((*shape[:2], len(record["segment_classes"])), np.nan)
        for r, row in enumerate(rows):
            for w, weights in enumerate(WEIGHTS):
                if (confusions := sums.get((row, weights, "mean IoU"))) is not None:
                    iou[r, w] = class_iou(confusions.sum(0))
        data["class_iou"] = (("row", "weights", "class"), iou)
        coordinates["class"] = list(record["segment_classes"])
    simple = str | int | float
    plain = {name: each if isinstance(each, simple) else json.dumps(each) for name, each in record.items()}
    plain |= {"n_resamples": n_resamples, "confidence": confidence, "seed": seed}
    return xr.Dataset(data, coordinates, plain)


def _difference(statistic: Callable[[np.ndarray], np.ndarray], sums: np.ndarray) -> np.ndarray:
    """Difference of a statistic between the two halves of sums (resample, 2, ...)."""
    return statistic(sums[:, 0]) - statistic(sums[:, 1])
