"""What trained towers know: classes of pictures named by words, and which caption is of which picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lcl.labelled_images import LabelledImages
from vision_methods.captions import Captions
from vision_methods.image_text_run import ImageTextModel
from vision_methods.image_text_scores import class_vectors, embed_pictures, filled, retrieval

#: Prompts of a class, where none are given.
TEMPLATES = ("a photo of a {}", "a picture of a {}", "a {}", "{}")


def zero_shot(
    model: ImageTextModel,
    images: LabelledImages,
    *,
    templates: Sequence[str] = TEMPLATES,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Classify pictures by the prompts of their classes, without any training.

    Parameters
    ----------
    model : ImageTextModel
    images : LabelledImages
    templates : sequence of str
        With ``{}`` for the name of a class; a class is the mean of its prompts.
    names : sequence of str, optional
        Words for the classes, in their order; the classes' own names without it, ``_`` as a blank.

    Returns
    -------
    dict
        ``accuracy`` with ``low`` and ``high`` (95 %, Wilson 1927), ``chance``, ``pictures``, ``prompts``, and
        the accuracy of each class by its name (``classes``).

    Raises
    ------
    ValueError
        If names do not fit the classes, or a template has no place for them.
    """
    names = [each.replace("_", " ") for each in images.classes] if names is None else list(names)
    if len(names) != len(images.classes):
        raise ValueError(
            f"{len(names)} names are given for {len(images.classes)} classes ({', '.join(images.classes)}); expected "
            "one of each, in this order."
        )
    prompts = filled(templates, names)
    vectors = embed_pictures(model.towers, images.store, np.arange(len(images)), size_px=model.config.size_px)
    answers = (vectors @ class_vectors(model.encode_words, prompts).T).argmax(1).numpy()
    right = answers == images.labels
    share, spread = float(right.mean()), 1.96**2 / len(right)
    middle, half = share + spread / 2, (spread * (share * (1 - share) + spread / 4)) ** 0.5
    return {
        "accuracy": share,
        "low": (middle - half) / (1 + spread),
        "high": (middle + half) / (1 + spread),
        "chance": 1 / len(names),
        "pictures": len(right),
        "prompts": list(templates),
        "classes": {
            name: float(right[images.labels == number].mean())
            for number, name in enumerate(names)
            if (images.labels == number).any()
        },
    }


def match(model: ImageTextModel, captions: Captions, *, at: Sequence[int] = (1, 5)) -> dict[str, Any]:
    """Find the captions of pictures and the pictures of captions (:func:`vision_methods.image_text_scores.retrieval`).

    Parameters
    ----------
    model : ImageTextModel
    captions : Captions
    at : sequence of int
        Values of k.

    Returns
    -------
    dict
        What ``retrieval`` finds, ``pictures`` and ``texts``.
    """
    vectors = embed_pictures(model.towers, captions.store, np.arange(len(captions)), size_px=model.config.size_px)
    found = retrieval(vectors, model.encode_words(captions.flat()), captions.owners(), at=at)
    return {**found, "pictures": len(captions), "texts": len(captions.flat())}


def match_lines(found: dict[str, Any]) -> list[str]:
    """What :func:`match` found, in lines of text.

    Examples
    --------
    >>> found = {"image_to_text_at_1": 0.5, "chance_image_to_text_at_1": 0.01, "pictures": 9, "texts": 45}
    >>> match_lines(found)
    ['9 pictures, 45 captions', 'image to text, recall at 1: 0.500 (by chance 0.0100)']
    """
    lines = [f"{found['pictures']} pictures, {found['texts']} captions"]
    for name in (name for name in found if "_at_" in name and not name.startswith("chance")):
        way, _, k = name.rpartition("_at_")
        chance = f"{found[f'chance_{name}']:.4f}"
        lines.append(f"{way.replace('_', ' ')}, recall at {k}: {found[name]:.3f} (by chance {chance})")
    return lines
