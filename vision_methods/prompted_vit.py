"""A vision transformer with what parameter-efficient tuning adds: tokens, keys and values, networks beside its blocks.

Nothing of the transformer itself changes. What each picture gets is an :class:`Insertion`; what it is chosen by, an
:class:`Ask` (:mod:`vision_methods.prompts` has the methods).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_methods.vit import Block, ViT

#: What the head reads: the class token, the mean of the patches, or the mean of the prompts' own outputs.
Read = Literal["class", "patches", "prompts"]
#: Where queries come from: the picture; the true task, which no valid method knows; nowhere; chance.
Query = Literal["input", "oracle", "constant", "random"]


class Insertion(NamedTuple):
    """What a batch of pictures gets.

    Attributes
    ----------
    tokens : Tensor, (B, p, D), optional
        After the class token and registers, without positions.
    prefixes : mapping of int to (Tensor, Tensor)
        Keys and values (B, L, D) for a block.
    pull : Tensor, optional
        Added to the loss: draws keys to queries.
    """

    tokens: Tensor | None = None
    prefixes: Mapping[int, tuple[Tensor, Tensor]] = {}
    pull: Tensor | None = None

    def flat(self) -> Tensor:
        """All numbers that each picture gets, (B, F)."""
        parts = [] if self.tokens is None else [self.tokens.flatten(1)]
        parts += [each.flatten(1) for pair in self.prefixes.values() for each in pair]
        return torch.cat(parts, 1)


class Ask(NamedTuple):
    """What prompts are chosen by.

    Attributes
    ----------
    query : Tensor, (B, D)
    task : int
        Number of the task being learned, or learned last.
    index : Tensor of int, (B,), optional
        Prompts named from outside, one for each picture.
    """

    query: Tensor
    task: int
    index: Tensor | None = None


def block_with(
    block: Block,
    tokens: Tensor,
    *,
    prefix: tuple[Tensor, Tensor] | None = None,
    adapter: nn.Module | None = None,
    lora: nn.Module | None = None,
) -> Tensor:
    """A block of the transformer with what parameter-efficient tuning adds.

    Parameters
    ----------
    block : Block
    tokens : Tensor, (B, N, D)
    prefix : (Tensor, Tensor), each (B, L, D), optional
        Keys and values that are read besides those of the tokens.
    adapter : Module, optional
        From normalised tokens to what is added beside the two-layer network.
    lora : Module, optional
        From normalised tokens to what is added to queries, keys and values (B, N, 3 D).

    Returns
    -------
    Tensor, (B, N, D)

    Examples
    --------
    >>> block = Block(8, 2, 32)
    >>> tokens = torch.rand(1, 5, 8)
    >>> torch.allclose(block_with(block, tokens), block(tokens), atol=1e-6)
    True
    """
    attention = block.attn
    normal = block.norm1(tokens)
    projected = attention.qkv(normal)
    if lora is not None:
        projected = projected + lora(normal)
    queries, keys, values = projected.chunk(3, -1)
    if prefix is not None:
        keys, values = torch.cat([prefix[0], keys], 1), torch.cat([prefix[1], values], 1)
    queries, keys, values = (
        each.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for each in (queries, keys, values)
    )
    read = F.scaled_dot_product_attention(queries, keys, values)
    tokens = tokens + block.ls1(attention.proj(read.transpose(1, 2).flatten(2)))
    normal = block.norm2(tokens)
    changed = block.mlp(normal)
    if adapter is not None:
        changed = changed + adapter(normal)
    return tokens + block.ls2(changed)


def run_prompted(
    vit: ViT,
    images: Tensor,
    insertion: Insertion | None = None,
    *,
    read: Read = "class",
    adapters: Mapping[int, nn.Module] | None = None,
    loras: Mapping[int, nn.Module] | None = None,
) -> Tensor:
    """What the head reads of pictures that a transformer with insertions sees.

    Parameters
    ----------
    vit : ViT
    images : Tensor, (B, 3, H, W)
        In [0, 1].
    insertion : Insertion, optional
    read : {"class", "patches", "prompts"}
    adapters, loras : mapping of int to Module, optional
        By block, as of :func:`block_with`.

    Returns
    -------
    Tensor, (B, D)
        After the final norm.

    Raises
    ------
    ValueError
        If the prompts' outputs are to be read and there are none, or the class token, and there is none.

    Examples
    --------
    >>> from vision_methods.vit import VITS
    >>> vit = ViT(**VITS["toy"])
    >>> images = torch.rand(2, 3, 64, 64)
    >>> torch.allclose(run_prompted(vit, images), vit(images)["norm"][:, 0], atol=1e-5)
    True
    """
    insertion = insertion or Insertion()
    tokens = vit.embed(images)
    inserted = 0 if insertion.tokens is None else insertion.tokens.shape[1]
    if (read == "prompts" and not inserted) or (read == "class" and vit.cls_token is None):
        raise ValueError(f"read is {read!r}, but there are no such tokens; expected 'patches', or prompts to read.")
    if insertion.tokens is not None:
        tokens = torch.cat([tokens[:, : vit.first], insertion.tokens, tokens[:, vit.first :]], 1)
    for i, block in enumerate(vit.blocks):
        assert isinstance(block, Block)
        tokens = block_with(
            block,
            tokens,
            prefix=insertion.prefixes.get(i),
            adapter=(adapters or {}).get(i),
            lora=(loras or {}).get(i),
        )
    tokens = vit.norm(tokens)
    if read == "class":
        return tokens[:, 0]
    if read == "prompts":
        return tokens[:, vit.first : vit.first + inserted].mean(1)
    return tokens[:, vit.first + inserted :].mean(1)


def prompt_similarity(prompts: Tensor) -> float:
    """Mean cosine similarity between what different pictures get, in per cent; 100 where all get the same.

    Parameters
    ----------
    prompts : Tensor, (N, F)
        At least two rows (:meth:`Insertion.flat`).

    Returns
    -------
    float

    Examples
    --------
    >>> prompt_similarity(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    33.33...
    """
    unit = F.normalize(prompts.detach().double(), dim=1)
    n = len(unit)
    # The sum over all pairs is the squared length of the sum; the pairs of a picture with itself are taken off.
    return float(100 * (unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1)))
