"""Vectors of class names from a frozen text tower, and variants of them that training draws from.

The tower runs once, before training: training needs neither its memory nor its time, and cannot make it forget. A
variant of a name is another prompt under dropout; a detector that sees variants cannot learn the few names that it is
trained on by heart. Source: that the text vectors are augmented is confirmed of Arandjelovic et al. 2023 (3Ways); by
prompts and dropout is our reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Forms that a name is put into.
PROMPTS = ("{}", "a {}", "a picture of a {}", "a photo of a {}", "here we see a {}")

Encode = Callable[[Sequence[str]], Tensor]


def clean_vectors(encode: Encode, names: Sequence[str], prompts: Sequence[str] = PROMPTS) -> Tensor:
    """Unit vectors of names: the mean of their prompts' unit vectors.

    Parameters
    ----------
    encode : callable
        Texts to vectors (text, D).
    names : sequence of str
    prompts : sequence of str
        With ``{}`` where the name comes.

    Returns
    -------
    Tensor, (name, D)

    Examples
    --------
    >>> clean_vectors(lambda texts: torch.tensor([[float(len(text)), 0] for text in texts]), ["ring"], ["{}", "a {}"])
    tensor([[1., 0.]])
    """
    texts = [prompt.replace("{}", name) for name in names for prompt in prompts]
    vectors = F.normalize(encode(texts), dim=1)
    return F.normalize(vectors.view(len(names), len(prompts), -1).mean(1), dim=1)


@contextmanager
def with_dropout(tower: nn.Module, rate: float, generator: torch.Generator) -> Iterator[None]:
    """Inside, what every layer norm of a tower gives has dropout; the tower itself is left in evaluation.

    Parameters
    ----------
    tower : Module
    rate : float
        Share of the features that are 0.
    generator : torch.Generator
    """

    def drop(module: nn.Module, given: Any, found: Tensor) -> Tensor:
        kept = torch.rand(found.shape, generator=generator, dtype=torch.float32).to(found) >= rate
        return found * kept / (1 - rate)

    norms = [module for module in tower.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_hook(drop) for norm in norms] if rate else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def text_variants(
    encode: Encode,
    tower: nn.Module,
    names: Sequence[str],
    prompts: Sequence[str] = PROMPTS,
    *,
    variants: int,
    dropout: float,
    seed: int,
) -> Tensor:
    """Unit vectors of variants of names.

    Parameters
    ----------
    encode : callable
        Texts to vectors (text, D), by ``tower``.
    tower : Module
        In evaluation mode.
    names, prompts : sequence of str
    variants : int
        Of each name, each with a prompt drawn at random.
    dropout : float
        As of :func:`with_dropout`.
    seed : int

    Returns
    -------
    Tensor, (variant, name, D)
        One variant without dropout is the clean vector: no augmentation.

    Raises
    ------
    ValueError
        If there is no variant, or dropout is no share.
    """
    if variants < 1 or not 0 <= dropout < 1:
        raise ValueError(f"variants is {variants} and dropout {dropout}; expected at least 1, and a share below 1.")
    if variants == 1 and dropout == 0:
        return clean_vectors(encode, names, prompts)[None]
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(prompts), (variants, len(names)), generator=generator)
    with with_dropout(tower, dropout, generator):
        made = [
            F.normalize(
                encode([prompts[int(p)].replace("{}", name) for p, name in zip(row, names, strict=True)]), dim=1
            )
            for row in chosen.tolist()
        ]
    return torch.stack(made)
