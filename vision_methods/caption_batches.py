"""Batches of pictures and captions, by number of the step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lcl.images import ImageStore
from lcl.labelled_images import cut, draw_crops, square_boxes
from lcl.train import counter_generator, shuffled_batch
from vision_methods.captions import Captions
from vision_methods.pictures import own_share
from vision_methods.text_tower import shortened


class Pairs(NamedTuple):
    """Pictures and a caption of each.

    Attributes
    ----------
    pictures : Tensor of uint8, (B, 3, size_px, size_px)
    tokens : Tensor of int64, (B, up to length)
    index : Tensor of int64, (B,)
        Numbers of the pictures.
    """

    pictures: Tensor
    tokens: Tensor
    index: Tensor

    def take(self, rows: Tensor | slice) -> Pairs:
        """Some of the pairs."""
        return Pairs(*(each[rows] for each in self))


class PairBatches:
    """Batches of pairs; every picture once in an epoch, with one of its captions drawn at random.

    A step depends on the seed and its number alone. Each process draws the whole batch and cuts out its own share.

    Parameters
    ----------
    captions : Captions
    tokens : Tensor of int64, (caption, length)
        Of ``captions.flat()``.
    batch : int
        Per step, over all processes.
    size_px : int
        Side of the pictures.
    least_area : float
        Least share of a picture's area that is seen; 1: the largest central square.
    aspect : float
        Largest aspect ratio of a window of less.
    mirror : bool
        Half of the pictures are mirrored.
    seed : int

    Attributes
    ----------
    per_epoch : int
        Steps.

    Raises
    ------
    ValueError
        If the batch does not fit the pictures or the processes, or the tokens not the captions.
    """

    def __init__(
        self,
        captions: Captions,
        tokens: Tensor,
        *,
        batch: int,
        size_px: int,
        least_area: float = 1.0,
        aspect: float = 4 / 3,
        mirror: bool = False,
        seed: int,
    ) -> None:
        counts = np.array([len(texts) for texts in captions.texts])
        if len(tokens) != counts.sum():
            raise ValueError(f"There are tokens of {len(tokens)} captions; expected {counts.sum()}.")
        self.own, self.per_epoch = own_share(len(captions), batch)
        self.captions, self.tokens, self.batch, self.size_px = captions, shortened(tokens), batch, size_px
        self.least_area, self.aspect, self.mirror, self.seed = least_area, aspect, mirror, seed
        self._counts, self._starts = torch.from_numpy(counts), torch.from_numpy(counts.cumsum() - counts)
        self.pool = ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) - 1)))

    def __call__(self, step: int) -> Pairs:
        """Share of this process in a step."""
        index = shuffled_batch(len(self.captions), self.batch, seed=self.seed, step=step)
        own = index[self.own]
        return Pairs(self._pictures(index, step), self.tokens[self._chosen(index, step)][self.own], torch.tensor(own))

    def _chosen(self, index: np.ndarray, step: int) -> Tensor:
        share = torch.rand(len(index), generator=counter_generator(self.seed, 7, step), dtype=torch.float64)
        return self._starts[index] + (share * self._counts[index]).long()

    def _pictures(self, index: np.ndarray, step: int) -> Tensor:
        store, own = self.captions.store, index[self.own]
        generator = counter_generator(self.seed, 8, step)
        if self.least_area == 1:
            pictures = central_pictures(store, own, self.size_px, self.pool)
            flip = torch.rand(len(index), generator=generator) < 0.5
        else:
            drawn = draw_crops(
                store.sizes[index], generator, least_area=self.least_area, aspect=self.aspect, jitter=0.0
            )
            pictures, flip = cut(store, own, drawn.box[self.own], self.size_px, self.pool), drawn.flip
        if self.mirror:
            pictures = torch.where(flip[self.own, None, None, None], pictures.flip(3), pictures)
        return pictures


def central_pictures(
    store: ImageStore, index: np.ndarray | Sequence[int], size_px: int, pool: ThreadPoolExecutor | None = None
) -> Tensor:
    """The largest central squares of pictures, scaled; those that have the size are copied as they are.

    Parameters
    ----------
    store : ImageStore
    index : array of int, (B,)
    size_px : int
    pool : ThreadPoolExecutor, optional
        Does several pictures at a time.

    Returns
    -------
    Tensor of uint8, (B, C, size_px, size_px)

    Examples
    --------
    >>> from lcl.images import open_images
    >>> central_pictures(open_images("builtin"), [0, 3], 32).shape
    torch.Size([2, 3, 32, 32])
    """
    index = np.asarray(index, dtype=np.int64)
    sizes = store.sizes[index]
    if (sizes == size_px).all():
        corner = np.zeros(len(index), np.int64)
        return torch.from_numpy(store.crops(index, corner, corner, size_px)).permute(0, 3, 1, 2).contiguous()
    return cut(store, index, square_boxes(sizes), size_px, pool)
