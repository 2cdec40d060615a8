"""Scores of vectors of pictures and texts: classes named by prompts, and the finding of captions and pictures.

Vectors are of unit length, and compared by their cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lcl.images import ImageStore
from vision_methods.caption_batches import central_pictures
from vision_methods.text_tower import shortened

#: Pictures or texts that are encoded, or compared with all others, at a time.
CHUNK = 256


def class_vectors(encode: Callable[[Sequence[str]], Tensor], prompts: Mapping[str, Sequence[str]]) -> Tensor:
    """A vector of every class: the mean of its prompts' unit vectors, of unit length (Radford et al. 2021).

    Parameters
    ----------
    encode : callable
        Texts to unit vectors (text, D).
    prompts : mapping of str to sequence of str
        Prompts of every class, as many of each as one likes.

    Returns
    -------
    Tensor, (class, D)

    Raises
    ------
    ValueError
        If there is no class, or one without prompts.

    Examples
    --------
    >>> known = {"a cat": [1.0, 0.0], "cats": [0.0, 1.0], "a dog": [-1.0, 0.0]}
    >>> encode = lambda texts: torch.tensor([known[text] for text in texts])
    >>> class_vectors(encode, {"cat": ["a cat", "cats"], "dog": ["a dog"]})
    tensor([[ 0.7071,  0.7071],
            [-1.0000,  0.0000]])
    """
    if not prompts or not all(prompts.values()):
        without = next((name for name, texts in prompts.items() if not texts), None)
        raise ValueError(
            f"The class {without!r} has no prompt; expected one." if without else "There are no classes; expected one."
        )
    vectors = encode([text for texts in prompts.values() for text in texts])
    return mean_vectors(vectors, [len(texts) for texts in prompts.values()])


def mean_vectors(vectors: Tensor, counts: Sequence[int]) -> Tensor:
    """Mean directions of groups of unit vectors that follow each other.

    Parameters
    ----------
    vectors : Tensor, (N, D)
    counts : sequence of int, (group,)
        Vectors of each group; they sum to N.

    Returns
    -------
    Tensor, (group, D)
        Of unit length.

    Examples
    --------
    >>> mean_vectors(torch.eye(2), [1, 1])
    tensor([[1., 0.],
            [0., 1.]])
    """
    return F.normalize(torch.stack([part.mean(0) for part in vectors.split(list(counts))]), dim=1)


def filled(templates: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Prompts of classes: every template with the class's name in the place of ``{}``.

    Parameters
    ----------
    templates : sequence of str
    names : sequence of str

    Returns
    -------
    dict of str to list of str

    Raises
    ------
    ValueError
        If there is no template, one has no ``{}`` or more than one, or a name is there twice.

    Examples
    --------
    >>> filled(["a photo of a {}", "{}"], ["cat"])
    {'cat': ['a photo of a cat', 'cat']}
    """
    if wrong := [template for template in templates if template.count("{}") != 1]:
        raise ValueError(
            f"The template {wrong[0]!r} has no place for the class; expected one {{}}, as in 'a photo of a {{}}'."
        )
    if not templates:
        raise ValueError("There are no templates; expected at least one, as 'a photo of a {}'.")
    if twice := [name for name in names if list(names).count(name) > 1]:
        raise ValueError(f"The class {twice[0]!r} is there twice; expected names that differ.")
    return {name: [template.replace("{}", name) for template in templates] for name in names}


def retrieval(
    images: Tensor, texts: Tensor, owners: np.ndarray | Tensor, *, at: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """How often the right one is among the k most similar: texts of a picture, and the picture of a text.

    A picture is right where any of its texts is among the first k of all texts (as COCO's five captions are scored);
    what is as similar as the right one counts as more similar, so that vectors that are all alike find nothing.

    Parameters
    ----------
    images : Tensor, (N, D)
    texts : Tensor, (M, D)
    owners : array of int, (M,)
        Number of the picture of every text.
    at : sequence of int
        Values of k.

    Returns
    -------
    dict of str to float
        ``image_to_text_at_1`` and so on: recall at k in both directions; ``chance_image_to_text_at_1`` and so on: what
        a random order finds on average.

    Raises
    ------
    ValueError
        If the numbers do not fit, or a picture has no text.

    Examples
    --------
    >>> found = retrieval(torch.eye(3), torch.eye(3)[[0, 0, 1, 0]], [0, 0, 1, 2], at=(1,))
    >>> found["image_to_text_at_1"], found["text_to_image_at_1"]
    (0.3333333333333333, 0.75)
    """
    owners = torch.as_tensor(owners)
    count = len(images)
    texts_of = torch.bincount(owners, minlength=count) if len(owners) else torch.zeros(count)
    if len(owners) != len(texts) or images.shape[1:] != texts.shape[1:] or len(texts_of) > count:
        raise ValueError(
            f"{count} pictures, {len(texts)} texts and {len(owners)} owners do not fit; expected one owner, a number "
            "below the number of pictures, of every text, and vectors of one length."
        )
    if not count or int(texts_of.min()) == 0:
        raise ValueError("A picture has no text; expected at least one of each.")
    images, texts = images.float().cpu(), texts.float().cpu()
    first = [_better_texts(images[i : i + CHUNK], texts, owners, i) for i in range(0, count, CHUNK)]
    second = [_better_images(texts[i : i + CHUNK], images, owners[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)]
    found: dict[str, float] = {}
    for name, better in (("image_to_text", torch.cat(first)), ("text_to_image", torch.cat(second))):
        found |= {f"{name}_at_{k}": float((better < k).double().mean()) for k in at}
    for k in at:
        found[f"chance_image_to_text_at_{k}"] = float(np.mean([_chance(len(texts), int(n), k) for n in texts_of]))
        found[f"chance_text_to_image_at_{k}"] = min(k, count) / count
    return found


def _better_texts(images: Tensor, texts: Tensor, owners: Tensor, start: int) -> Tensor:
    similar = images @ texts.T
    own = owners[None] == torch.arange(start, start + len(images))[:, None]
    best = similar.masked_fill(~own, -torch.inf).max(1, keepdim=True).values
    return ((similar >= best) & ~own).sum(1)


def _better_images(texts: Tensor, images: Tensor, owners: Tensor) -> Tensor:
    similar = texts @ images.T
    return (similar >= similar.gather(1, owners[:, None])).sum(1) - 1


def _chance(texts: int, own: int, k: int) -> float:
    """Probability that one of a picture's own texts is among k drawn without replacement."""
    missed = 1.0
    for drawn in range(min(k, texts)):
        missed *= max(0, texts - own - drawn) / (texts - drawn)
    return 1 - missed


@torch.no_grad()
def embed_pictures(towers: torch.nn.Module, store: ImageStore, index: np.ndarray, *, size_px: int) -> Tensor:
    """Unit vectors (picture, D), on the CPU, of pictures' central squares by two towers, left in evaluation mode."""
    towers.eval()
    device = next(towers.parameters()).device
    parts = []
    for start in range(0, max(len(index), 1), CHUNK):  # of no pictures, no vectors
        pictures = central_pictures(store, index[start : start + CHUNK], size_px).to(device)
        parts.append(towers.encode_images(pictures.float() / 255).cpu())  # pyright: ignore[reportCallIssue]
    return torch.cat(parts)


@torch.no_grad()
def embed_tokens(towers: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Unit vectors (text, D), on the CPU, of tokens by two towers, left in evaluation mode."""
    towers.eval()
    device = next(towers.parameters()).device
    parts = shortened(tokens).split(CHUNK)
    return torch.cat([towers.encode_texts(part.to(device)).cpu() for part in parts])  # pyright: ignore[reportCallIssue]
