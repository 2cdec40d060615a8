"""Few-shot accuracies of models: what ``lcl few-shot`` computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lcl.labelled_images import LabelledImages
from neural_fits.vision_model import VisionModel
from vision_methods.captions import of_made
from vision_methods.dense_maps import pooled_features
from vision_methods.few_shot import few_shot_rows
from vision_methods.image_text_config import ImageTextConfig
from vision_methods.image_text_run import ImageTextModel, load_towers
from vision_methods.image_text_scores import class_vectors, embed_pictures
from vision_methods.made_captions import ATTRIBUTES, made_captions
from vision_methods.method_run import is_method_run, read_method_config
from vision_methods.probe_tables import Squares

#: Layer of the vectors that a model compares pictures and texts by.
EMBEDDING = "embedding"


def made_classes(attribute: str, n: int, n_held: int, *, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
    """Made pictures with the values of an attribute as their classes.

    Parameters
    ----------
    attribute : str
        Of :data:`vision_methods.made_captions.ATTRIBUTES`.
    n, n_held : int
        Pictures to draw the support from, and to judge by.
    seed : int
        No training run has these pictures, whatever its seed.

    Returns
    -------
    train, held : LabelledImages

    Raises
    ------
    ValueError
        If the attribute is unknown.

    Examples
    --------
    >>> train, held = made_classes("texture", 20, 10)
    >>> len(train), len(held), train.classes
    (20, 10, ('plain', 'striped', 'dotted', 'chequered'))
    """
    if attribute not in ATTRIBUTES:
        raise ValueError(f"attribute is {attribute!r}; expected one of {', '.join(ATTRIBUTES)}.")
    parts = []
    for number, count in enumerate((n, n_held)):
        made = made_captions(count, seed=2**41 + 2 * seed + number, noise=0.0)
        labels = made.truth.attributes[attribute]
        parts.append(LabelledImages(of_made(made).store, labels, ATTRIBUTES[attribute]))
    return parts[0], parts[1]


def towers_of_runs(names: Mapping[str, str], *, device: torch.device | str = "cpu") -> dict[str, ImageTextModel]:
    """Towers of those models that are runs of pictures and texts.

    Parameters
    ----------
    names : mapping of str to str
        What a model is called, and its name as of ``lcl fit``.
    device : torch.device or str

    Returns
    -------
    dict of str to ImageTextModel

    Raises
    ------
    FileNotFoundError, ValueError
        As of :func:`vision_methods.image_text_run.load_towers`.

    Examples
    --------
    >>> towers_of_runs({"pixels": "pixels"})
    {}
    """
    found = {}
    for short, name in names.items():
        if is_method_run(name) and isinstance(read_method_config(name)[1], ImageTextConfig):
            found[short] = load_towers(name, device=device)
    return found


def few_shot_models(
    models: Mapping[str, VisionModel],
    layers: Mapping[str, Sequence[str]],
    towers: Mapping[str, ImageTextModel],
    train: LabelledImages,
    held: LabelledImages,
    *,
    prompts: Mapping[str, Sequence[str]],
    n_features: int = 1,
    batch_size: int = 32,
    progress: bool = False,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Accuracy by shots of layers, and of embeddings with texts where a model has a text tower.

    Parameters
    ----------
    models, layers : mapping
        Models and their layers, by name.
    towers : mapping of str to ImageTextModel
        Models of pictures and texts; their layer is called ``embedding``.
    train, held : LabelledImages
        Pictures that the support is drawn from, and to judge by, of the same classes.
    prompts : mapping of str to sequence of str
        Texts of every class, in the order of the classes.
    n_features, batch_size, progress
        As in :func:`vision_methods.dense_maps.pooled_features`; 1: means over places.
    say : callable, optional
        Called with a line for each layer.
    **options
        Of :func:`vision_methods.few_shot.few_shot_rows`.

    Returns
    -------
    rows : list of dict
        Those of :func:`vision_methods.few_shot.few_shot_rows` with ``model`` and ``layer``.
    record : dict
        Numbers of pictures, classes, and ``chance``: the share of the commonest.
    """
    rows: list[dict[str, Any]] = []

    def add(name: str, layer: str, features: Sequence[np.ndarray], **texts: Any) -> None:
        found = few_shot_rows(features[0], train.labels, features[1], held.labels, **texts, **options)
        rows.extend({"model": name, "layer": layer, **row} for row in found)
        if say:
            most = max(row["shots"] for row in found)
            shown = [row for row in found if row["shots"] == most]
            of_adapter: dict[str, list[float]] = {}
            for row in shown:
                of_adapter.setdefault(row["adapter"], []).append(row["accuracy"])
            said = ", ".join(f"{adapter} {np.mean(values):.3f}" for adapter, values in of_adapter.items())
            say(f"{name} {layer}, {most} shots: {said}")

    for name, model in models.items():
        if not layers[name]:
            continue
        of = [
            pooled_features(
                model,
                Squares(images, model.input_px),
                layers[name],
                n_features=n_features,
                batch_size=batch_size,
                progress=progress,
            )
            for images in (train, held)
        ]
        for layer in layers[name]:
            add(name, layer, [each[layer] for each in of])
    for name, model in towers.items():
        features = [
            embed_pictures(model.towers, images.store, np.arange(len(images)), size_px=model.config.size_px).numpy()
            for images in (train, held)
        ]
        texts = class_vectors(model.encode_words, prompts).numpy()
        add(name, EMBEDDING, features, texts=texts, scale=float(model.towers.scale.detach()))
    record = {
        "n_training_pictures": len(train),
        "n_held_out_pictures": len(held),
        "classes": list(train.classes),
        "chance": float(np.bincount(held.labels).max() / len(held)),
    }
    return rows, record
