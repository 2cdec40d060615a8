"""DetCon: contrastive detection of masks (Henaff et al. 2021, arXiv 2103.10957).

Every picture comes with a segmentation from a cheap heuristic. Two views are cut from it, and its masks with them;
responses are averaged inside each mask, and each mask in one view has to find itself in the other among all masks of
all pictures (:func:`vision_methods.region_contrast.region_contrast`). DetCon_S has one network, whose latents are
queries and keys at once; in DetCon_B the queries come from a predictor, and the keys from a target network that follows
the online one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcl import distributed
from lcl.images import ImageStore
from lcl.labelled_images import LabelledImages
from lcl.train import counter_generator, shuffled_batch
from vision_methods.backbones import Backbone, make_backbone
from vision_methods.config import DetConConfig
from vision_methods.heads import mlp
from vision_methods.masks import image_masks, resize_labels
from vision_methods.momentum import TARGET_SEED, follow, keep_at
from vision_methods.pictures import open_pictures, own_share
from vision_methods.region_contrast import label_grid, latent_spread, pool_masks, region_contrast, sample_ids
from vision_methods.two_views import (
    PHOTOMETRIC,
    Photometric,
    Views,
    cut_labels,
    cut_views,
    draw_views,
    photometric_views,
)


class MaskedView(NamedTuple):
    """One view of each picture of a batch, and the masks that were drawn from it.

    Attributes
    ----------
    crops : Tensor of uint8, (B, 3, size, size)
    views : Views
        How they were cut, and how they are changed.
    ids : Tensor of int, (B, S)
        Masks that were drawn.
    masks : Tensor, (B, S, h, w)
        Each one's cells: bool, or its share of every cell.
    """

    crops: Tensor
    views: Views
    ids: Tensor
    masks: Tensor


class MaskedViews:
    """Two views of pictures and the masks in them, by number of the step; each process cuts its own share.

    Parameters
    ----------
    store : ImageStore
    labels : sequence of array of int, (H, W)
        Label map of every picture.
    batch : int
        Pictures per step, over all processes.
    size_px : int
        Side of the views.
    cells : (int, int)
        Size of the maps that masks are brought to.
    samples : int
        Masks drawn from each view.
    soft : bool
        Masks share cells, or each cell belongs to one.
    photometric : (Photometric, Photometric)
        Of the two views.
    least_area, aspect : float
        Of :func:`vision_methods.two_views.draw_views`.
    seed : int

    Raises
    ------
    ValueError
        If the batch does not fit the pictures, the processes or the labels.
    """

    def __init__(
        self,
        store: ImageStore,
        labels: Sequence[np.ndarray],
        *,
        batch: int,
        size_px: int,
        cells: tuple[int, int],
        samples: int = 16,
        soft: bool = False,
        photometric: tuple[Photometric, Photometric],
        least_area: float = 0.08,
        aspect: float = 4 / 3,
        seed: int,
    ) -> None:
        if len(labels) != len(store):
            raise ValueError(f"{len(labels)} label maps were given for {len(store)} pictures; expected one for each.")
        self.own, self.per_epoch = own_share(len(store), batch)
        self.store, self.labels, self.batch, self.size_px, self.cells = store, labels, batch, size_px, cells
        self.samples, self.soft, self.photometric, self.seed = samples, soft, photometric, seed
        self.least_area, self.aspect = least_area, aspect
        self.pool = ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) - 1)))

    def __call__(self, step: int) -> tuple[MaskedView, MaskedView]:
        """Both views of this process's share of a step."""
        index = shuffled_batch(len(self.store), self.batch, seed=self.seed, step=step)
        return self.view(step, index, 0), self.view(step, index, 1)

    def view(self, step: int, index: np.ndarray, number: int) -> MaskedView:
        """One of the two views of pictures: windows and masks of the two are independent."""
        drawn = draw_views(
            self.store.sizes[index],
            counter_generator(self.seed, 1 + number, step),
            photometric=self.photometric[number],
            least_area=self.least_area,
            aspect=self.aspect,
        )
        own, views = index[self.own], drawn.part(self.own)
        crops = cut_views(self.store, own, views, self.size_px, self.pool)
        labels = cut_labels([self.labels[i] for i in own], views, self.size_px)
        grid = label_grid(labels, self.cells)
        # One generator for each picture, so that what is drawn does not depend on how a batch is divided.
        places = range(self.batch)[self.own]
        ids = torch.cat(
            [
                sample_ids(one, self.samples, counter_generator(self.seed, 3 + number, step, place))
                for one, place in zip(grid.split(1), places, strict=True)
            ]
        )
        masks = mask_shares(labels, ids, self.cells) if self.soft else grid[:, None] == ids[:, :, None, None]
        return MaskedView(crops, views, ids, masks)


def mask_shares(labels: Tensor, ids: Tensor, cells: tuple[int, int]) -> Tensor:
    """Share of every cell that belongs to each mask: average-pooled binary masks, not hardened.

    Parameters
    ----------
    labels : Tensor of int, (B, H, W)
    ids : Tensor of int, (B, S)
    cells : (int, int)

    Returns
    -------
    Tensor, (B, S, h, w)

    Examples
    --------
    >>> mask_shares(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[0, 1]]), (1, 2))
    tensor([[[[0.5000, 0.0000]],
             [[0.5000, 1.0000]]]])
    """
    # One picture at a time: the binary masks of a whole batch would be many times its size.
    return torch.cat(
        [
            F.adaptive_avg_pool2d((one[None] == its[:, None, None]).float(), cells)[None]
            for one, its in zip(labels, ids, strict=True)
        ]
    )


class MaskEncoder(nn.Module):
    """From views and masks to latents of the masks: a backbone, the mean response in each mask, a head.

    Parameters
    ----------
    backbone : Backbone
    head : Module
    layer : str
        Layer of the backbone whose maps are averaged.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, *, layer: str) -> None:
        super().__init__()
        self.backbone, self.head, self.layer = backbone, head, layer

    def forward(self, pictures: Tensor, masks: Tensor) -> Tensor:
        """Latents (B, S, D) of pictures (B, 3, H, W) in [0, 1] and masks (B, S, h, w)."""
        return self.head(pool_masks(self.backbone(pictures)[self.layer], masks))


class DetCon(nn.Module):
    """DetCon as a learner (:mod:`vision_methods.learner`).

    Parameters
    ----------
    encoder : MaskEncoder
        Online network, without a predictor.
    batches : callable
        From the number of a step to its two views, with ``per_epoch`` and ``batch`` (:class:`MaskedViews`).
    predictor : Module, optional
        With ``target``: DetCon_B; without: DetCon_S.
    target : MaskEncoder, optional
        Of the encoder's shape. No gradient reaches it, and its batch norms keep statistics of their own.
    keep : float
        Share of the target that the first step keeps.
    temperature : float
    local_negatives : bool
    precision : {"float32", "bf16"}
        Of the networks.
    labelled : (LabelledImages, LabelledImages), optional
    about_data : str

    Raises
    ------
    ValueError
        If only one of predictor and target is given.
    """

    def __init__(
        self,
        encoder: MaskEncoder,
        batches: MaskedViews,
        *,
        predictor: nn.Module | None = None,
        target: MaskEncoder | None = None,
        keep: float = 0.996,
        temperature: float = 0.1,
        local_negatives: bool = True,
        precision: str = "float32",
        labelled: tuple[LabelledImages, LabelledImages] | None = None,
        about_data: str = "",
    ) -> None:
        super().__init__()
        if (predictor is None) != (target is None):
            raise ValueError("DetCon_B has a predictor and a target network, DetCon_S neither; one was given alone.")
        self.online = nn.ModuleDict({"encoder": encoder} | ({"predictor": predictor} if predictor else {}))
        self.target = target.requires_grad_(False) if target else None
        self.draw, self.batch, self.steps_per_epoch = batches, batches.batch, batches.per_epoch
        self.keep, self.temperature, self.local_negatives = keep, temperature, local_negatives
        self.precision, self.labelled, self.about_data = precision, labelled, about_data

    @property
    def backbone(self) -> Backbone:
        """Backbone of the online network."""
        backbone = self.online["encoder"].backbone
        assert isinstance(backbone, Backbone)
        return backbone

    def latents(self, views: Sequence[MaskedView]) -> tuple[list[Tensor], list[Tensor]]:
        """Queries and keys (B, S, D) of each view; the views pass the networks one after the other."""
        device = next(self.parameters()).device
        queries, keys = [], []
        for view in views:
            pictures = photometric_views(view.crops.to(device, non_blocking=True), view.views)
            pictures, masks = pictures.contiguous(memory_format=torch.channels_last), view.masks.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                latent = self.online["encoder"](pictures, masks)
                if self.target is None:
                    queries.append(latent)
                    keys.append(latent)
                    continue
                queries.append(self.online["predictor"](latent))
                with torch.no_grad():
                    keys.append(self.target(pictures, masks))
        return queries, keys

    def loss(self, batch: tuple[MaskedView, MaskedView]) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of this process in DetCon's loss, and in what tells how it goes.

        Returns
        -------
        loss : Tensor
        numbers : dict of str to Tensor
            ``collapsed``: loss if all latents were equal; ``matched``: share of the masks drawn that are drawn from the
            other view as well; ``spread``: standard deviation of latents of length 1 in each dimension, in units of
            that of random directions (0: collapsed).
        """
        queries, keys = self.latents(batch)
        device = queries[0].device
        ids = [view.ids.to(device, non_blocking=True) for view in batch]
        loss = region_contrast(
            *queries, *keys, *ids, temperature=self.temperature, local_negatives=self.local_negatives
        )
        with torch.no_grad():
            processes = distributed.world_size()
            equal = ids[0][:, :, None] == ids[1][:, None]
            matched = (equal.any(2).float().mean() + equal.any(1).float().mean()) / 2
            spread = latent_spread(torch.cat(queries))
            numbers = {
                "collapsed": collapsed_loss(*ids, batch=self.batch, local_negatives=self.local_negatives),
                "matched": matched / processes,
                "spread": spread / processes,
            }
        return loss, numbers

    def after_step(self, step: int, steps: int) -> None:
        """The target follows the online network, whose step is done."""
        if self.target is not None:
            follow(self.target, self.online["encoder"], keep_at(step, steps, self.keep))


@torch.no_grad()
def collapsed_loss(ids1: Tensor, ids2: Tensor, *, batch: int, local_negatives: bool = True) -> Tensor:
    """Share of this process in DetCon's loss if all latents were equal: where training starts, and must not stay.

    A query then cannot tell its candidates apart, and its part is the logarithm of their number. With ids that are
    distinct in each view and matched, the sum over processes is ``2 log(2 B S - 1)``.

    Parameters
    ----------
    ids1, ids2 : Tensor of int, (B of this process, S)
    batch : int
        B of all processes.
    local_negatives : bool

    Returns
    -------
    Tensor, scalar

    Examples
    --------
    >>> ids = torch.arange(16).expand(64, 16)
    >>> collapsed_loss(ids, ids, batch=64)
    tensor(15.2483)
    """
    samples = ids1.shape[1]
    total = torch.zeros((), device=ids1.device)
    for own, other in ((ids1, ids2), (ids2, ids1)):
        alike = (own[:, :, None] == own[:, None]).sum(2).float()
        positives = (own[:, :, None] == other[:, None]).sum(2).float()
        left_out = alike if local_negatives else 2 * samples - positives
        candidates = (2 * batch * samples - left_out).clamp(min=1)
        total = total + ((positives > 0) * candidates.log() / alike).sum() / (batch * samples)
    return total


def build(config: DetConConfig, device: torch.device, *, progress: bool = False) -> DetCon:
    """DetCon of a configuration: its pictures, their masks, and its networks with initial weights.

    Parameters
    ----------
    config : DetConConfig
    device : torch.device
    progress : bool
        Show progress bars.

    Returns
    -------
    DetCon

    Raises
    ------
    FileNotFoundError, ValueError
        If the pictures or masks cannot be used, or do not fit the settings.
    """
    if config.photometric not in PHOTOMETRIC:
        raise ValueError(f"photometric is {config.photometric!r}; expected one of {', '.join(PHOTOMETRIC)}.")
    encoder = _encoder(config, config.seed)
    with torch.no_grad():
        maps = encoder.backbone.eval()(torch.zeros(1, 3, config.size_px, config.size_px))[encoder.layer]
    pictures = open_pictures(config, progress=progress)
    labels = open_masks(config, pictures.store, progress=progress)
    batches = MaskedViews(
        pictures.store,
        labels,
        batch=config.batch,
        size_px=config.size_px,
        cells=(maps.shape[2], maps.shape[3]),
        samples=config.samples,
        soft=config.pooling == "soft",
        photometric=PHOTOMETRIC[config.photometric],
        least_area=config.least_area,
        aspect=config.aspect,
        seed=config.seed,
    )
    predictor, target = None, None
    if config.variant == "B":
        generator = counter_generator(config.seed, 6)
        predictor = mlp(config.latent_width, config.hidden_width, config.latent_width, generator=generator)
        target = _encoder(config, config.seed + TARGET_SEED)
    counts = [len(np.unique(each)) for each in labels[:1000]]
    masks = f"Masks ({config.masks}): {np.mean(counts):.1f} a picture, {min(counts)} to {max(counts)}"
    return DetCon(
        encoder,
        batches,
        predictor=predictor,
        target=target,
        keep=config.keep,
        temperature=config.temperature,
        local_negatives=config.local_negatives,
        precision=config.precision,
        labelled=pictures.labelled,
        about_data=f"{pictures.about}\n{masks}",
    ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def open_masks(config: DetConConfig, store: ImageStore, *, progress: bool = False) -> Sequence[np.ndarray]:
    """Label maps of a configuration's pictures.

    Parameters
    ----------
    config : DetConConfig
    store : ImageStore
    progress : bool
        Show a progress bar.

    Returns
    -------
    sequence of array of int, (H, W)

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`vision_methods.masks.image_masks`.
    """
    options: dict[str, dict[str, Any]] = {
        "fh": {"scale": config.fh_scale, "min_size": config.fh_min_size},
        "grid": {"cells": config.grid_cells},
    }
    first = distributed.rank() == 0
    if config.mask_dir and not first:
        distributed.barrier()  # what one process computes the others find
    labels = image_masks(
        store,
        config.masks,
        options=options.get(config.masks),
        cache_dir=config.mask_dir or None,
        progress=progress and first,
    )
    if config.mask_dir and first:
        distributed.barrier()
    return exchanged(labels, seed=config.seed) if config.shuffle_masks else labels


def exchanged(labels: Sequence[np.ndarray], *, seed: int) -> list[np.ndarray]:
    """Label maps of other pictures, scaled to the size of each: their statistics without their content.

    Parameters
    ----------
    labels : sequence of array of int, (H, W)
    seed : int

    Returns
    -------
    list of array of int, (H, W)
        No picture has its own, and every map is used once.

    Raises
    ------
    ValueError
        If there are fewer than two.

    Examples
    --------
    >>> exchanged([np.zeros((1, 2), int), np.ones((2, 1), int)], seed=0)
    [array([[1, 1]]), array([[0],
           [0]])]
    """
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} label map cannot be exchanged; give at least two pictures.")
    order = np.random.default_rng(seed).permutation(len(labels))
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))  # one cycle through all
    return [resize_labels(labels[other[i]], labels[i].shape) for i in range(len(labels))]


def _encoder(config: DetConConfig, seed: int) -> MaskEncoder:
    backbone = make_backbone(config.backbone, seed=seed)
    layer = config.layer or backbone.layers[-1]
    if layer not in backbone.channels:
        raise ValueError(f"layer is {layer!r}; expected one of {', '.join(backbone.layers)} of {config.backbone}.")
    head = mlp(backbone.channels[layer], config.hidden_width, config.latent_width, generator=counter_generator(seed, 5))
    return MaskEncoder(backbone, head, layer=layer)
