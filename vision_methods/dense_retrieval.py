"""Dense tasks from a few labelled pictures, by any layer of any model: Hummingbird's evaluation, without training.

Labelled pictures (the prompts) fill a memory of patches (:mod:`vision_methods.dense_memory`); every patch of another
picture asks it. Pictures are scaled to the square field of the model, whatever their shape, as in the published
evaluation; its map of answers is enlarged bilinearly to the size of the picture and only then decided on. So the
measure is at the resolution of the photographs.

Whatever a label is (a class, a depth), it is averaged over the pixels of a patch: the place of a layer that the pixel's
centre lies in, all places being equal parts of the input. Layers with more than :data:`SIDE` places on a side are
averaged to so many, so that layers are set beside each other and the memory stays searchable.

For classes, prompts are shown ``augmentations`` times with other crops and colours
(:mod:`vision_methods.prompt_views`); for depth once, as they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lcl.train import counter_generator
from neural_fits.placing import place
from neural_fits.vision_model import VisionModel, device_of, layer_names, layer_responses
from vision_methods.cosine_search import SEARCHES, Search
from vision_methods.dense_maps import as_maps
from vision_methods.dense_memory import (
    RETRIEVALS,
    DenseMemory,
    MemoryWriter,
    Retrieval,
    draw_patches,
    patch_depths,
    patch_labels,
    patch_scores,
    retrieve,
)
from vision_methods.prompt_views import as_square, prompt_view
from vision_methods.segments import SegmentedImages, confusion, semantic_map

#: A layer has at most so many places on a side.
SIDE = 28

#: Pictures uint8 (row, column, 3) with a label for every pixel: classes (int, or VOID), or depths (float, or NaN).
Labelled = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentedPictures(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Annotated photographs and their maps of classes, decoded when they are asked for.

    Attributes
    ----------
    images : SegmentedImages
    class_of : ndarray of int, (category,)
        From :func:`vision_methods.segments.classes_at`.
    """

    images: SegmentedImages
    class_of: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Photograph and map of classes."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.images.picture(index), semantic_map(self.images.objects(index), self.class_of)


def some_photographs(images: SegmentedImages, n: int, *, seed: int = 0) -> SegmentedImages:
    """Photographs drawn at random, in their order.

    Parameters
    ----------
    images : SegmentedImages
    n : int
    seed : int

    Returns
    -------
    SegmentedImages

    Raises
    ------
    ValueError
        If there are not so many.
    """
    if not 1 <= n <= len(images):
        raise ValueError(f"{n} of {len(images)} photographs are asked for; expected 1 to {len(images)}.")
    return images.subset(np.sort(np.random.default_rng(seed).permutation(len(images))[:n]))


def colour(input_px: int = 224) -> VisionModel:
    """Nothing but the colour of each place, as what needs no network: ``vision_methods.dense_retrieval:colour``.

    Parameters
    ----------
    input_px : int

    Returns
    -------
    VisionModel
        Layer ``colour``: red, green and blue from -1 to 1, so that their direction holds hue, saturation and whether
        it is light or dark.

    Examples
    --------
    >>> colour().layers
    ('colour',)
    """
    return VisionModel(_colour, "colour", input_px=input_px, mean=(0.5,), std=(0.5,), layers=("colour",))


def _colour(images: Tensor) -> dict[str, Tensor]:
    return {"colour": images}


def patch_features(
    model: VisionModel, pixels: Tensor, layers: Sequence[str], *, side: int | None = SIDE
) -> dict[str, Tensor]:
    """Maps of layers for pictures that fill the field.

    Parameters
    ----------
    model : VisionModel
    pixels : Tensor, (picture, row, column, 3)
        Squares in [0, 1], of the side of the model's input.
    layers : sequence of str
    side : int, optional
        Maps with more places on a side are averaged to so many.

    Returns
    -------
    dict of str to Tensor, (picture, channel, row, column)
        float32, on the device of the model.

    Raises
    ------
    ValueError
        If a layer has no places.
    """
    shown = place(pixels, size_deg=model.field_deg, model=model).to(device_of(model))
    found = {}
    for layer, response in layer_responses(model, shown, layers).items():
        maps = as_maps(response, layer).float()
        if maps.shape[2:] == (1, 1):
            raise ValueError(f"layer {layer} of {model.name} has no places; expected maps, or tokens of a square grid.")
        if side is not None:
            maps = F.adaptive_avg_pool2d(maps, (min(side, maps.shape[2]), min(side, maps.shape[3])))
        found[layer] = maps
    return found


def shown_for(retrieval: Retrieval, n_classes: int | None) -> Retrieval:
    """Setting for a task: depth (``n_classes`` None) has no augmentations.

    Examples
    --------
    >>> shown_for(RETRIEVALS["standard"], None).augmentations
    0
    """
    return retrieval if n_classes else dataclasses.replace(retrieval, augmentations=0)


def remember(
    model: VisionModel,
    layers: Sequence[str],
    prompts: Labelled,
    *,
    n_classes: int | None,
    retrieval: Retrieval = RETRIEVALS["standard"],
    side: int | None = SIDE,
    dtype: torch.dtype = torch.float16,
    folder: Path | str | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = False,
) -> dict[str, DenseMemory]:
    """Fill a memory for each layer.

    Parameters
    ----------
    model : VisionModel
    layers : sequence of str
    prompts : sequence of (picture, labels)
        Read once for every augmentation.
    n_classes : int, optional
        None: labels are depths.
    retrieval : Retrieval
        Gives augmentations and capacity.
    side : int, optional
        As in :func:`patch_features`.
    dtype : torch.dtype
        Of what is stored.
    folder : path, optional
        Keep the memories in files there, one folder for each layer, as of
        :class:`vision_methods.dense_memory.MemoryWriter`.
    seed : int
        Of crops, colours and the patches that are kept.
    batch_size : int
        Pictures at once.
    progress : bool

    Returns
    -------
    dict of str to DenseMemory

    Raises
    ------
    ValueError
        If there are no prompts, or labels are not of the size of their picture.
    """
    if not len(prompts):
        raise ValueError("There are no prompts; expected at least one labelled picture.")
    retrieval = shown_for(retrieval, n_classes)
    n = retrieval.patches_per_picture(len(prompts))
    writers: dict[str, MemoryWriter] = {}
    order = [(turn, i) for turn in range(max(1, retrieval.augmentations)) for i in range(len(prompts))]
    bar = tqdm(total=len(order), desc=f"{model.name}: prompts", unit="picture", disable=not progress)
    for start in range(0, len(order), batch_size):
        views = []
        for turn, i in order[start : start + batch_size]:
            picture, labels = prompts[i]
            if picture.shape[:2] != labels.shape:
                raise ValueError(
                    f"Prompt {i} has {picture.shape[:2]} pixels and {labels.shape} labels; expected the same."
                )
            if retrieval.augmentations:
                draw = counter_generator(seed, turn, i, 0)
                views.append(prompt_view(picture, labels, model.input_px, draw))
            else:
                views.append((as_square(picture, model.input_px), labels))
        maps = patch_features(model, torch.cat([pixels for pixels, _ in views]), layers, side=side)
        for layer, each in maps.items():
            grid = (each.shape[2], each.shape[3])
            if layer not in writers:
                entries = min(retrieval.capacity, len(order) * min(n, grid[0] * grid[1]))
                writers[layer] = MemoryWriter(
                    entries,
                    each.shape[1],
                    n_classes or 1,
                    dtype=dtype,
                    folder=None if folder is None else Path(folder) / layer.replace("/", "-"),
                )
            for features, (_, labels), (turn, i) in zip(each, views, order[start : start + batch_size], strict=True):
                read = patch_labels(labels, grid, n_classes=n_classes) if n_classes else patch_depths(labels, grid)
                scores = patch_scores(read) if n_classes else torch.where(read[:, 0].isnan(), math.nan, 1.0)
                kept = draw_patches(scores, n, counter_generator(seed, turn, i, 1))
                writers[layer].add(features.flatten(1).T.cpu()[kept], read[kept])
        bar.update(len(views))
    bar.close()
    return {layer: writer.finish() for layer, writer in writers.items()}


def answers(
    model: VisionModel,
    memories: Mapping[str, DenseMemory],
    searches: Mapping[str, Search],
    pictures: Sequence[np.ndarray],
    *,
    retrieval: Retrieval = RETRIEVALS["standard"],
    side: int | None = SIDE,
) -> dict[str, Tensor]:
    """What the memories of layers say about pictures, before it is enlarged.

    Parameters
    ----------
    model : VisionModel
    memories : mapping of str to DenseMemory
        By layer, from :func:`remember`.
    searches : mapping of str to callable
        Through their keys.
    pictures : sequence of array of uint8, (row, column, 3)
    retrieval : Retrieval
        Gives neighbours (all entries, where there are not so many) and temperature.
    side : int, optional
        As in :func:`remember`.

    Returns
    -------
    dict of str to Tensor, (picture, label, row, column)
    """
    pixels = torch.cat([as_square(picture, model.input_px) for picture in pictures])
    found = {}
    for layer, maps in patch_features(model, pixels, list(memories), side=side).items():
        read = retrieve(
            maps.movedim(1, 3).flatten(0, 2),
            memories[layer],
            searches[layer],
            neighbours=min(retrieval.neighbours, len(memories[layer])),
            temperature=retrieval.temperature,
        )
        found[layer] = read.unflatten(0, (len(maps), *maps.shape[2:])).movedim(3, 1)
    return found


def enlarged(answer: Tensor, height: int, width: int) -> Tensor:
    """Map of answers (label, row, column) at the size of a picture, bilinear: decide on classes after this.

    Examples
    --------
    >>> enlarged(torch.tensor([[[0.0, 1.0]]]), 1, 4)
    tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    return F.interpolate(answer[None], (height, width), mode="bilinear", align_corners=False)[0]


def predict(
    image: np.ndarray,
    prompt_images: Sequence[np.ndarray],
    prompt_labels: Sequence[np.ndarray],
    *,
    model: VisionModel,
    layer: str | None = None,
    retrieval: Retrieval = RETRIEVALS["standard"],
    side: int | None = SIDE,
    seed: int = 0,
) -> np.ndarray:
    """Label every pixel of a picture as labelled pictures show.

    Parameters
    ----------
    image : array of uint8, (row, column, 3)
    prompt_images : sequence of array of uint8, (row, column, 3)
    prompt_labels : sequence of array, (row, column)
        Whole numbers: classes from 0, or VOID (-1). Floats: depths or any other quantity, NaN where unknown.
    model : VisionModel
    layer : str, optional
        Default: the last.
    retrieval : Retrieval
    side : int, optional
        As in :func:`patch_features`.
    seed : int

    Returns
    -------
    ndarray, (row, column)
        Classes, or the quantity.

    Raises
    ------
    ValueError
        If there is not one map of labels for each prompt.

    Examples
    --------
    >>> halves = np.zeros((32, 32, 3), np.uint8)
    >>> halves[:, 16:] = 200
    >>> labels = np.repeat([[0, 1]], 16, 1).repeat(32, 0)
    >>> found = predict(halves.transpose(1, 0, 2), [halves], [labels], model=colour(64))
    >>> bool((found == labels.T).all())
    True
    """
    if len(prompt_images) != len(prompt_labels):
        raise ValueError(
            f"{len(prompt_images)} prompts have {len(prompt_labels)} maps of labels; expected one for each."
        )
    classes = all(np.issubdtype(np.asarray(labels).dtype, np.integer) for labels in prompt_labels)
    n_classes = 1 + max((int(np.max(labels)) for labels in prompt_labels), default=0) if classes else None
    layer = layer or layer_names(model)[-1]
    prompts = list(zip(prompt_images, prompt_labels, strict=True))
    memories = remember(model, [layer], prompts, n_classes=n_classes, retrieval=retrieval, side=side, seed=seed)
    searches = {layer: SEARCHES["exact"](memories[layer].keys)}
    answer = answers(model, memories, searches, [image], retrieval=retrieval, side=side)[layer][0]
    large = enlarged(answer.cpu(), *image.shape[:2])
    return (large.argmax(0) if classes else large[0]).numpy()


def squared_errors(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Sum of squared errors of depths, and number of pixels whose depth is known; of several pictures they add up.

    The root of the first over the second is the RMSE over all pixels together.

    Parameters
    ----------
    truth : array, (row, column)
        NaN where unknown.
    predicted : array, (row, column)

    Returns
    -------
    ndarray, (2,)

    Examples
    --------
    >>> squared_errors(np.array([[1.0, np.nan]]), np.array([[3.0, 9.0]]))
    array([4., 1.])
    """
    known = np.isfinite(truth)
    return np.array([np.square(np.asarray(predicted)[known] - truth[known]).sum(), known.sum()], dtype=float)


class Retrieved(NamedTuple):
    """What was found by a layer.

    Attributes
    ----------
    sums : ndarray, (picture, class, class) or (picture, 2)
        Of every query: confusions (true class, predicted class), or :func:`squared_errors`.
    grid : (int, int)
        Rows and columns of patches.
    channels, entries, patches_per_view : int
        Of the memory; at most so many patches of a prompt were kept each time it was shown.
    examples : dict of int to ndarray, (row, column)
        Predictions of some queries.
    """

    sums: np.ndarray
    grid: tuple[int, int]
    channels: int
    entries: int
    patches_per_view: int
    examples: dict[int, np.ndarray]


def evaluate(
    model: VisionModel,
    layers: Sequence[str],
    prompts: Labelled,
    queries: Labelled,
    *,
    n_classes: int | None,
    retrieval: Retrieval = RETRIEVALS["standard"],
    search: str = "exact",
    side: int | None = SIDE,
    seed: int = 0,
    batch_size: int = 16,
    examples: Sequence[int] = (),
    progress: bool = False,
) -> dict[str, Retrieved]:
    """Predict the labels of queries from prompts, by each layer.

    Parameters
    ----------
    model : VisionModel
    layers : sequence of str
    prompts, queries : sequence of (picture, labels)
    n_classes : int, optional
        None: labels are depths.
    retrieval : Retrieval
    search : str
        Of :data:`vision_methods.cosine_search.SEARCHES`.
    side : int, optional
        As in :func:`patch_features`.
    seed, batch_size, progress
        As in :func:`remember`.
    examples : sequence of int
        Queries whose predictions are kept.

    Returns
    -------
    dict of str to Retrieved

    Raises
    ------
    ValueError
        If there are no prompts or queries, or the search is unknown.
    """
    if search not in SEARCHES:
        raise ValueError(f"search is {search!r}; expected one of {', '.join(SEARCHES)}.")
    if not len(queries):
        raise ValueError("There are no queries; expected at least one labelled picture.")
    options = {"retrieval": retrieval, "side": side}
    memories = remember(
        model, layers, prompts, n_classes=n_classes, seed=seed, batch_size=batch_size, progress=progress, **options
    )
    device = device_of(model)
    found: dict[str, list[np.ndarray]] = {layer: [] for layer in memories}
    kept: dict[str, dict[int, np.ndarray]] = {layer: {} for layer in memories}
    grids: dict[str, tuple[int, int]] = {}
    moved = {"device": device} if search == "exact" else {}
    searches = {layer: SEARCHES[search](memory.keys, **moved) for layer, memory in memories.items()}
    for start, batch in _batches(queries, batch_size, f"{model.name}: queries", progress):
        for layer, soft in answers(model, memories, searches, [picture for picture, _ in batch], **options).items():
            grids[layer] = (soft.shape[2], soft.shape[3])
            for i, (answer, (_, truth)) in enumerate(zip(soft.cpu(), batch, strict=True)):
                large = enlarged(answer, *truth.shape)
                predicted = (large.argmax(0) if n_classes else large[0]).numpy()
                sums = confusion(truth, predicted, n_classes) if n_classes else squared_errors(truth, predicted)
                found[layer].append(sums)
                if start + i in examples:
                    kept[layer][start + i] = predicted
    n = shown_for(retrieval, n_classes).patches_per_picture(len(prompts))
    return {
        layer: Retrieved(
            np.stack(found[layer]),
            grids[layer],
            memory.keys.shape[1],
            len(memory),
            min(n, math.prod(grids[layer])),
            kept[layer],
        )
        for layer, memory in memories.items()
    }


def _batches(
    pictures: Labelled, batch_size: int, about: str, progress: bool
) -> Iterator[tuple[int, list[tuple[np.ndarray, np.ndarray]]]]:
    with tqdm(total=len(pictures), desc=about, unit="picture", disable=not progress) as bar:
        for start in range(0, len(pictures), batch_size):
            batch = [pictures[i] for i in range(start, min(start + batch_size, len(pictures)))]
            yield start, batch
            bar.update(len(batch))


def patch_ceiling(queries: Labelled, grid: tuple[int, int], *, n_classes: int) -> np.ndarray:
    """Confusions if every patch had its own labels: what no feature on this grid can be above.

    Parameters
    ----------
    queries : sequence of (picture, labels)
    grid : (int, int)
    n_classes : int

    Returns
    -------
    ndarray, (picture, class, class)
    """
    found = []
    for _, labels in (queries[i] for i in range(len(queries))):
        own = patch_labels(labels, grid, n_classes=n_classes).nan_to_num(1 / n_classes)
        large = enlarged(own.T.unflatten(1, grid), *labels.shape)
        found.append(confusion(labels, large.argmax(0).numpy(), n_classes))
    return np.stack(found)
