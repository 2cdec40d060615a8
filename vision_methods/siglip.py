"""Contrastive learning of pictures and their captions: SigLIP's sigmoid loss and CLIP's softmax loss.

Both losses are pure functions of unit vectors. A process gives the vectors of its own pairs, and gets its share of the
loss of the whole batch; the shares of all processes sum to the loss that one process would find. ``chunk`` bounds the
memory: similarities of so many pictures (or texts) with all others are held at a time, and made again on the way back.

Sources: Radford et al. 2021 (CLIP; open_clip's ``ClipLoss``), Zhai et al. 2023 (SigLIP; big_vision's
``trainers/proj/image_text/siglip.py``, open_clip's ``SigLipLoss``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lcl import distributed


def softmax_loss(images: Tensor, texts: Tensor, *, scale: Tensor | float, chunk: int | None = None) -> Tensor:
    """CLIP's loss: the mean of two cross-entropies, of texts given a picture and of pictures given a text.

    ``-1/2B sum_i (log softmax_j(s x_i.y_j)[i] + log softmax_j(s y_i.x_j)[i])`` over the B pairs of all processes.

    Parameters
    ----------
    images, texts : Tensor, (b, D)
        Unit vectors of this process's pairs.
    scale : float or Tensor
        ``s``.
    chunk : int, optional
        Rows of the matrix of similarities that are held at a time; all without it.

    Returns
    -------
    Tensor
        Share of this process.

    Raises
    ------
    ValueError
        If shapes do not fit, or ``chunk`` is below 1.

    Examples
    --------
    >>> softmax_loss(torch.eye(2), torch.eye(2), scale=1.0)  # log(1 + 1/e)
    tensor(0.3133)
    """
    images, texts = _pairs(images, texts, chunk)
    all_images, all_texts = (distributed.gather_over_processes(each) for each in (images, texts))
    own = _first_row(images) + torch.arange(len(images), device=images.device)

    def part(rows: slice) -> Tensor:
        to_texts, to_images = scale * (images[rows] @ all_texts.T), scale * (texts[rows] @ all_images.T)
        both = [F.cross_entropy(logits, own[rows], reduction="sum") for logits in (to_texts, to_images)]
        return both[0] + both[1]

    with torch.autocast(images.device.type, enabled=False):
        return _in_chunks(part, len(images), chunk) / (2 * len(all_images))


def sigmoid_loss(
    images: Tensor, texts: Tensor, *, scale: Tensor | float, bias: Tensor | float, chunk: int | None = None
) -> Tensor:
    """SigLIP's loss: every picture with every text is a question of its own, whether they belong together.

    ``-1/B sum_i sum_j log sigmoid(z_ij (s x_i.y_j + b))`` over the B pairs of all processes, where z is 1 for a pair
    and -1 else: a mean over pictures of sums over texts.

    Parameters
    ----------
    images, texts : Tensor, (b, D)
        Unit vectors of this process's pairs.
    scale, bias : float or Tensor
        ``s`` and ``b``, which is added (Evans et al. 2024 subtract it in their text).
    chunk : int, optional
        Rows of the matrix of similarities that are held at a time; all without it.

    Returns
    -------
    Tensor
        Share of this process.

    Raises
    ------
    ValueError
        If shapes do not fit, or ``chunk`` is below 1.

    Examples
    --------
    >>> sigmoid_loss(torch.eye(2), torch.eye(2), scale=1.0, bias=0.0)  # log(1 + 1/e) + log 2
    tensor(1.0064)
    """
    images, texts = _pairs(images, texts, chunk)
    all_texts, first = distributed.gather_over_processes(texts), _first_row(images)

    def part(rows: slice) -> Tensor:
        logits = scale * (images[rows] @ all_texts.T) + bias
        # Of a pair, -log sigmoid(l) = -log sigmoid(-l) - l: all are taken as strangers, then pairs are put right.
        pairs = logits.diagonal(offset=int(first) + rows.start)
        return F.softplus(logits).sum() - pairs.sum()

    with torch.autocast(images.device.type, enabled=False):
        return _in_chunks(part, len(images), chunk) / len(all_texts)


def _pairs(images: Tensor, texts: Tensor, chunk: int | None) -> tuple[Tensor, Tensor]:
    if images.ndim != 2 or images.shape != texts.shape or not (images.is_floating_point() and len(images)):
        raise ValueError(
            f"images and texts have shapes {tuple(images.shape)} and {tuple(texts.shape)}; expected floating point of "
            "one shape (pair, feature), at least one pair."
        )
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected at least 1 row, or None for all.")
    dtype = torch.promote_types(torch.promote_types(images.dtype, texts.dtype), torch.float32)
    return images.to(dtype), texts.to(dtype)


def _first_row(rows: Tensor) -> Tensor:
    """Number of this process's first row among those of all processes."""
    own = torch.full((len(rows),), distributed.rank(), device=rows.device)
    return (distributed.gather_over_processes(own) < distributed.rank()).sum()


def _in_chunks(part: Callable[[slice], Tensor], rows: int, chunk: int | None) -> Tensor:
    """Sum over chunks of rows; what a chunk holds is let go of, and made again on the way back."""
    if chunk is None or chunk >= rows:
        return part(slice(0, rows))
    total = None
    for start in range(0, rows, chunk):
        each = slice(start, min(start + chunk, rows))
        found = checkpoint(part, each, use_reentrant=False, preserve_rng_state=False)
        assert isinstance(found, Tensor)
        total = found if total is None else total + found
    assert total is not None
    return total
