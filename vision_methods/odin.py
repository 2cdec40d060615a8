"""Odin: object discovery and representation networks (Henaff et al. 2022, arXiv 2203.08777).

DetCon without masks from outside. A discovery network, which follows the trained one slowly, looks at the window of a
picture that spans both views; its dense responses are clustered, picture by picture, and the clusters are the masks.
Brought to the two views, they are contrasted as DetCon_B contrasts its own
(:func:`vision_methods.region_contrast.region_contrast`). There are three networks, and a gradient reaches the first
alone:

=========  ===========================================  ===========================================================
network    parameters                                   gives
=========  ===========================================  ===========================================================
online     trained                                      queries, from the two views
target     running average, as in BYOL                  keys, from the two views
discovery  running average of its own rate, or a copy   masks, from the spanning window, which is not changed
           made every so many epochs
=========  ===========================================  ===========================================================
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor, nn

from lcl import distributed
from lcl.images import ImageStore
from lcl.labelled_images import LabelledImages, cut
from lcl.train import counter_generator, shuffled_batch
from stimuli.drawing import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, WIDTH_IN, plain, styled
from vision_methods.backbones import Backbone, make_backbone
from vision_methods.config import OdinConfig
from vision_methods.detcon import MaskEncoder
from vision_methods.heads import mlp
from vision_methods.kmeans import kmeans
from vision_methods.momentum import TARGET_SEED, follow, keep_at
from vision_methods.pictures import open_pictures, own_share
from vision_methods.region_contrast import pool_masks, region_contrast
from vision_methods.two_views import PHOTOMETRIC, Photometric, Views, cut_views, draw_views, photometric_views

#: Cells that a mask needs in a view to be there: a sliver of a cell is not a view of a segment.
LEAST_CELLS = 0.5
#: Shares of cells that differ by less than one part of so many are equal.
SHARE_PARTS = 2**20
#: Colours of segments in figures: six, then lighter and darker ones.
TINTS = [
    tuple(np.clip(share * np.array(to_rgb(colour)) + white, 0, 1))
    for share, white in ((1.0, 0.0), (0.5, 0.5), (0.5, 0.0))
    for colour in (VERMILION, BLUE, ORANGE, SKY, GREEN, PURPLE)
]


def spanning_boxes(first: Tensor, second: Tensor) -> Tensor:
    """Smallest windows that contain two windows each.

    Parameters
    ----------
    first, second : Tensor of int, (B, 4)
        Top, left, height and width.

    Returns
    -------
    Tensor of int, (B, 4)

    Examples
    --------
    >>> spanning_boxes(torch.tensor([[20, 30, 120, 100]]), torch.tensor([[60, 10, 90, 150]]))
    tensor([[ 20,  10, 130, 150]])
    """
    low = torch.minimum(first[:, :2], second[:, :2])
    high = torch.maximum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    return torch.cat([low, high - low], 1)


def relative_boxes(boxes: Tensor, spans: Tensor) -> Tensor:
    """Windows in units of the window that spans them.

    Parameters
    ----------
    boxes, spans : Tensor of int, (B, 4)
        Top, left, height and width in the picture.

    Returns
    -------
    Tensor of float64, (B, 4)

    Examples
    --------
    >>> relative_boxes(torch.tensor([[60, 10, 90, 150]]), torch.tensor([[20, 10, 130, 150]])).round(decimals=4)
    tensor([[0.3077, 0.0000, 0.6923, 1.0000]], dtype=torch.float64)
    """
    sides = spans[:, 2:].double()
    return torch.cat([(boxes[:, :2] - spans[:, :2]) / sides, boxes[:, 2:] / sides], 1)


def in_reading_order(labels: Tensor) -> Tensor:
    """Number the clusters of every map anew, in the order in which they are met row by row.

    What k-means calls a cluster then decides nothing, not even a tie.

    Parameters
    ----------
    labels : Tensor of int, (B, h, w)
        From 0.

    Returns
    -------
    Tensor of int64, (B, h, w)

    Examples
    --------
    >>> in_reading_order(torch.tensor([[[5, 5, 2], [2, 0, 5]]]))
    tensor([[[0, 0, 1],
             [1, 2, 0]]])
    """
    flat = labels.flatten(1)
    count = flat.shape[1]
    place = torch.arange(count, device=flat.device).expand_as(flat)
    met = torch.full((len(flat), int(flat.max()) + 1), count, device=flat.device)
    met = met.scatter_reduce(1, flat, place, "amin")
    return met.argsort(1).argsort(1).gather(1, flat).view_as(labels)


def discover(
    maps: Tensor,
    clusters: int,
    *,
    seeds: int | Sequence[int] = 0,
    iterations: int = 20,
    start: str = "k-means++",
    spherical: bool = True,
) -> Tensor:
    """Segment pictures by clustering the responses of each at all places of the map.

    Parameters
    ----------
    maps : Tensor, (B, C, h, w)
        No gradient passes.
    clusters : int
        K; fewer are found where fewer places differ.
    seeds, iterations, start, spherical
        Of :func:`vision_methods.kmeans.kmeans`.

    Returns
    -------
    Tensor of int64, (B, h, w)
        Number of the cluster of every cell, from 0, in reading order.

    Raises
    ------
    ValueError
        As :func:`vision_methods.kmeans.kmeans`.

    Examples
    --------
    >>> discover(torch.tensor([[[[0.0, 1, 1]], [[1.0, 0, 0]]]]), 2)
    tensor([[[0, 1, 1]]])
    """
    points = maps.flatten(2).transpose(1, 2)
    found = kmeans(points, clusters, seeds=seeds, start=start, iterations=iterations, spherical=spherical)
    return in_reading_order(found.assignments.view(len(maps), *maps.shape[2:]))


def mask_shares(labels: Tensor, windows: Tensor, flip: Tensor, *, clusters: int, cells: tuple[int, int]) -> Tensor:
    """Bring masks to views: the share of every cell of a view that lies in each cluster.

    A cell of the view is a rectangle of the spanning window; what counts is how much of its area each cell of the
    spanning map covers.

    Parameters
    ----------
    labels : Tensor of int, (B, H, W)
        Clusters of the cells of the spanning window, 0 to K - 1.
    windows : Tensor, (B, 4)
        Views in units of the spanning window (:func:`relative_boxes`).
    flip : Tensor of bool, (B,)
        Whether a view is mirrored left to right.
    clusters : int
        K.
    cells : (int, int)
        Size of the view's map.

    Returns
    -------
    Tensor of float32, (B, K, h, w)
        In every cell, the shares sum to 1.

    Examples
    --------
    >>> whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    >>> mask_shares(torch.tensor([[[0, 1, 1]]]), whole, torch.tensor([True]), clusters=2, cells=(1, 2))
    tensor([[[[0.0000, 0.6667]],
             [[1.0000, 0.3333]]]])
    """
    windows = windows.to(labels.device, torch.float64)
    down = _overlaps(windows[:, 0], windows[:, 2], cells[0], labels.shape[1])
    across = _overlaps(windows[:, 1], windows[:, 3], cells[1], labels.shape[2])
    across = torch.where(flip.to(labels.device)[:, None, None], across.flip(1), across)
    own = (labels[:, None] == torch.arange(clusters, device=labels.device)[:, None, None]).double()
    shares = down[:, None] @ own @ across[:, None].transpose(2, 3)
    # Equal shares stay equal whatever order they were summed in.
    return ((shares * SHARE_PARTS).round() / SHARE_PARTS).float()


def _overlaps(start: Tensor, extent: Tensor, cells: int, source: int) -> Tensor:
    """Share of each of the cells of intervals that lies in each of the equal parts of [0, 1], (B, cells, source)."""
    edges = (start[:, None] + extent[:, None] * torch.arange(cells + 1, device=start.device) / cells) * source
    part = torch.arange(source, device=start.device)
    low, high = edges[:, :-1, None], edges[:, 1:, None]
    shared = (torch.minimum(high, part + 1) - torch.maximum(low, part)).clamp(min=0)
    return shared / shared.sum(2, keepdim=True)


def hardened(shares: Tensor) -> Tensor:
    """Give every cell to the cluster with the largest share of it, the first of equal ones.

    Parameters
    ----------
    shares : Tensor, (B, K, h, w)

    Returns
    -------
    Tensor of bool, (B, K, h, w)
        A partition of the cells.

    Examples
    --------
    >>> hardened(torch.tensor([[[[0.5, 0.2]], [[0.5, 0.8]]]])).int()
    tensor([[[[1, 0]],
             [[0, 1]]]], dtype=torch.int32)
    """
    number = torch.arange(shares.shape[1], device=shares.device)
    return shares.argmax(1, keepdim=True) == number[:, None, None]


def present(masks: Tensor) -> Tensor:
    """Whether a mask is there in a view: has half a cell or more.

    Parameters
    ----------
    masks : Tensor, (B, K, h, w)

    Returns
    -------
    Tensor of bool, (B, K)
    """
    return masks.float().sum((2, 3)) >= LEAST_CELLS


def mask_latents(maps: Tensor, masks: Tensor, there: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """Latents of masks: the mean response in each, through a head; 0 for those that are not there.

    The head sees the masks that are there alone: the others would count in its batch normalisation.

    Parameters
    ----------
    maps : Tensor, (B, C, h, w)
    masks : Tensor, (B, K, h, w)
    there : Tensor of bool, (B, K)
    head : callable
        From (masks, C) to (masks, D).

    Returns
    -------
    Tensor, (B, K, D)

    Examples
    --------
    >>> maps, masks = torch.tensor([[[[1.0, 5.0]]]]), torch.tensor([[[[True, True]], [[False, False]]]])
    >>> mask_latents(maps, masks, present(masks), lambda means: means + 1).flatten()
    tensor([4., 0.])
    """
    latents = head(pool_masks(maps, masks)[there])
    return latents.new_zeros(*there.shape, latents.shape[1]).index_put((there,), latents)


def mask_contrast(
    queries: Sequence[Tensor], keys: Sequence[Tensor], there: Sequence[Tensor], *, temperature: float = 0.1
) -> Tensor:
    """Share of this process in Odin's loss: every mask of one view finds itself in the other among all masks.

    DetCon_B's loss with all K masks of a picture in place of masks drawn from it. The divisor is the fixed B K: a mask
    that is in neither view, or in one only, counts as 0; in one view only it still is a negative of others, as in
    DetCon. (What the paper does with such masks is not known to us.)

    Parameters
    ----------
    queries, keys : two Tensors each, (B, K, D)
        Latents of the masks in view 1 and view 2; whatever stands for a mask that is not there is not read.
    there : two Tensors of bool, (B, K)
        From :func:`present`.
    temperature : float

    Returns
    -------
    Tensor, scalar

    Examples
    --------
    >>> latents, there = [torch.eye(4).view(2, 2, 4)] * 2, [torch.tensor([[True, True], [True, False]])] * 2
    >>> mask_contrast(latents, latents, there, temperature=1.0).round(decimals=4)
    tensor(1.3572)
    """
    (queries1, queries2), (keys1, keys2), (present1, present2) = queries, keys, there
    ids = torch.arange(present1.shape[1], device=present1.device).expand_as(present1)
    return region_contrast(
        queries1, queries2, keys1, keys2, ids, ids, temperature=temperature, present1=present1, present2=present2
    )


def discovery_rate_at(step: int, *, rate: float, copy_every: int = 0) -> float:
    """Share of the online network that is mixed into the discovery network after a step.

    This is lambda_tau of the paper, the share of the *new* value: 1 copies, 0 leaves it as it is.

    Parameters
    ----------
    step : int
        From 0.
    rate : float
        The same at every step, in [0, 1].
    copy_every : int
        Above 0: steps between copies; nothing in between, and ``rate`` is not used.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> [discovery_rate_at(step, rate=0.001) for step in range(2)]
    [0.001, 0.001]
    >>> [discovery_rate_at(step, rate=0.001, copy_every=3) for step in range(6)]
    [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    """
    if not 0 <= rate <= 1 or copy_every < 0:
        raise ValueError(f"rate is {rate} and copy_every {copy_every}; expected a share from 0 to 1, and 0 or more.")
    return float((step + 1) % copy_every == 0) if copy_every else rate


def cluster_watch(labels: Tensor, maps: Tensor, clusters: int) -> dict[str, Tensor]:
    """How clusters use the cells, means over pictures: what falls where the discovery network collapses.

    Parameters
    ----------
    labels : Tensor of int, (B, h, w)
    maps : Tensor, (B, C, h, w)
        What was clustered.
    clusters : int

    Returns
    -------
    dict of str to Tensor
        ``entropy`` of the shares of the cells, nats, at most log K; ``clusters`` that have a cell; ``dispersion``: mean
        squared distance of responses of length 1 from their mean over the picture, 0 where all places are alike.

    Examples
    --------
    >>> maps = torch.tensor([[[[1.0, 1, 0, 0]], [[0.0, 0, 1, 1]]]])
    >>> cluster_watch(torch.tensor([[[0, 0, 1, 1]]]), maps, 4)
    {'entropy': tensor(0.6931), 'clusters': tensor(2.), 'dispersion': tensor(0.5000)}
    """
    shares = F.one_hot(labels.flatten(1), clusters).float().mean(1)
    unit = F.normalize(maps.flatten(2).float(), dim=1)
    return {
        "entropy": torch.special.entr(shares).sum(1).mean(),
        "clusters": (shares > 0).sum(1).float().mean(),
        "dispersion": (unit - unit.mean(2, keepdim=True)).square().sum(1).mean(),
    }


class SpannedViews(NamedTuple):
    """Two views of each picture of a batch, and the window that spans them.

    Attributes
    ----------
    pictures : ndarray of int, (B,)
        Numbers in the store.
    spans : Tensor of uint8, (B, 3, span, span)
        Spanning windows, scaled to a square, otherwise as they are.
    crops : two Tensors of uint8, (B, 3, size, size)
    views : two Views
        How they were cut, and how they are changed.
    windows : two Tensors, (B, 4)
        Views in units of the spanning windows.
    """

    pictures: np.ndarray
    spans: Tensor
    crops: tuple[Tensor, Tensor]
    views: tuple[Views, Views]
    windows: tuple[Tensor, Tensor]


class Spans:
    """Spanned views by number of the step; each process cuts its own share.

    At the same seed, views are those of :class:`vision_methods.detcon.MaskedViews`.

    Parameters
    ----------
    store : ImageStore
    batch : int
        Pictures per step, over all processes.
    size_px, span_px : int
        Sides of the views and of the spanning windows.
    photometric : (Photometric, Photometric)
        Of the two views.
    least_area, aspect : float
        Of :func:`vision_methods.two_views.draw_views`.
    seed : int

    Raises
    ------
    ValueError
        If the batch does not fit the pictures or the processes.
    """

    def __init__(
        self,
        store: ImageStore,
        *,
        batch: int,
        size_px: int,
        span_px: int,
        photometric: tuple[Photometric, Photometric],
        least_area: float = 0.08,
        aspect: float = 4 / 3,
        seed: int,
    ) -> None:
        self.own, self.per_epoch = own_share(len(store), batch)
        self.store, self.batch, self.size_px, self.span_px = store, batch, size_px, span_px
        self.photometric, self.least_area, self.aspect, self.seed = photometric, least_area, aspect, seed
        self.pool = ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) - 1)))

    def __call__(self, step: int) -> SpannedViews:
        """Views of this process's share of a step."""
        index = shuffled_batch(len(self.store), self.batch, seed=self.seed, step=step)
        first, second = (
            draw_views(
                self.store.sizes[index],
                counter_generator(self.seed, 1 + number, step),
                photometric=photometric,
                least_area=self.least_area,
                aspect=self.aspect,
            ).part(self.own)
            for number, photometric in enumerate(self.photometric)
        )
        own, spans = index[self.own], spanning_boxes(first.box, second.box)
        return SpannedViews(
            own,
            cut(self.store, own, spans, self.span_px, self.pool, mode="bicubic"),
            (
                cut_views(self.store, own, first, self.size_px, self.pool),
                cut_views(self.store, own, second, self.size_px, self.pool),
            ),
            (first, second),
            (relative_boxes(first.box, spans), relative_boxes(second.box, spans)),
        )


class Odin(nn.Module):
    """Odin as a learner (:mod:`vision_methods.learner`).

    Parameters
    ----------
    encoder : MaskEncoder
        Online network, without the predictor.
    predictor : Module
    target : MaskEncoder
        Of the encoder's shape. No gradient reaches it, and its batch norms keep statistics of their own.
    batches : callable
        From the number of a step to its views, with ``per_epoch`` and ``batch`` (:class:`Spans`).
    clusters : int
        K, masks of a picture.
    soft : bool
        Masks share the cells of a view, or each cell belongs to one.
    cluster_projections : bool
        Cluster the head's output at every place instead of the backbone's.
    spherical, iterations, start
        Of :func:`vision_methods.kmeans.kmeans`.
    discovery_rate : float
        Share of the online network that is mixed into the discovery network after every step.
    copy_epochs : int
        Above 0: epochs after which it is copied instead.
    keep : float
        Share of the target that the first step keeps.
    temperature : float
    precision : {"float32", "bf16"}
        Of the networks.
    seed : int
        Of the clusters' first centres, with the number of the picture.
    labelled : (LabelledImages, LabelledImages), optional
    about_data : str

    Attributes
    ----------
    discovery : MaskEncoder
        Starts as a copy of the target.
    """

    def __init__(
        self,
        encoder: MaskEncoder,
        predictor: nn.Module,
        target: MaskEncoder,
        batches: Spans,
        *,
        clusters: int = 16,
        soft: bool = False,
        cluster_projections: bool = False,
        spherical: bool = True,
        iterations: int = 20,
        start: str = "k-means++",
        discovery_rate: float = 1e-3,
        copy_epochs: int = 0,
        keep: float = 0.996,
        temperature: float = 0.1,
        precision: str = "float32",
        seed: int = 0,
        labelled: tuple[LabelledImages, LabelledImages] | None = None,
        about_data: str = "",
    ) -> None:
        super().__init__()
        self.online = nn.ModuleDict({"encoder": encoder, "predictor": predictor})
        self.target = target.requires_grad_(False)
        self.discovery = copy.deepcopy(self.target)
        self.draw, self.batch, self.steps_per_epoch = batches, batches.batch, batches.per_epoch
        self.clusters, self.soft, self.cluster_projections = clusters, soft, cluster_projections
        self.spherical, self.iterations, self.start, self.seed = spherical, iterations, start, seed
        self.discovery_rate, self.copy_every = discovery_rate, copy_epochs * batches.per_epoch
        self.keep, self.temperature, self.precision = keep, temperature, precision
        self.labelled, self.about_data = labelled, about_data

    @property
    def encoder(self) -> MaskEncoder:
        """Online network, without the predictor."""
        encoder = self.online["encoder"]
        assert isinstance(encoder, MaskEncoder)
        return encoder

    @property
    def backbone(self) -> Backbone:
        """Backbone of the online network."""
        return self.encoder.backbone

    @torch.no_grad()
    def segment(self, spans: Tensor, pictures: np.ndarray) -> tuple[Tensor, dict[str, Tensor]]:
        """Clusters of the discovery network's responses.

        Parameters
        ----------
        spans : Tensor of uint8, (B, 3, H, W)
            On the network's device.
        pictures : array of int, (B,)
            Their numbers, which decide the first centres.

        Returns
        -------
        labels : Tensor of int64, (B, h, w)
        watch : dict of str to Tensor
            From :func:`cluster_watch`.
        """
        shown = (spans.float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(spans.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            maps = self.discovery.backbone(shown)[self.discovery.layer]
            if self.cluster_projections:
                maps = self.discovery.head(maps.movedim(1, 3)).movedim(3, 1)
        labels = discover(
            maps,
            self.clusters,
            seeds=[(self.seed << 32) + int(picture) for picture in pictures],
            iterations=self.iterations,
            start=self.start,
            spherical=self.spherical,
        )
        return labels, cluster_watch(labels, maps, self.clusters)

    def loss(self, batch: SpannedViews) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of this process in Odin's loss, and in what tells how it goes.

        Returns
        -------
        loss : Tensor
        numbers : dict of str to Tensor
            ``collapsed``: loss if all latents were equal; ``matched``: share of the K masks that are there in both
            views; ``entropy``, ``clusters`` and ``dispersion`` of :func:`cluster_watch`.
        """
        device, encoder = next(self.parameters()).device, self.encoder
        labels, numbers = self.segment(batch.spans.to(device, non_blocking=True), batch.pictures)
        asking = nn.Sequential(encoder.head, self.online["predictor"])
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")
        queries, keys, there = [], [], []
        for crops, views, windows in zip(batch.crops, batch.views, batch.windows, strict=True):
            pictures = photometric_views(crops.to(device, non_blocking=True), views)
            pictures = pictures.contiguous(memory_format=torch.channels_last)
            with autocast:
                maps = encoder.backbone(pictures)[encoder.layer]
                cells = (maps.shape[2], maps.shape[3])
                masks = mask_shares(labels, windows, views.flip, clusters=self.clusters, cells=cells)
                masks = masks if self.soft else hardened(masks)
                there.append(present(masks))
                queries.append(mask_latents(maps, masks, there[-1], asking))
                with torch.no_grad():
                    maps = self.target.backbone(pictures)[self.target.layer]
                    keys.append(mask_latents(maps, masks, there[-1], self.target.head))
        loss = mask_contrast(queries, keys, there, temperature=self.temperature)
        with torch.no_grad():
            processes, masks = distributed.world_size(), self.batch * self.clusters
            shared = (there[0] & there[1]).sum() / masks
            candidates = distributed.sum_over_processes(torch.stack(there).sum().float()) - 1
            numbers = {name: value / processes for name, value in numbers.items()}
            numbers |= {"matched": shared, "collapsed": 2 * shared * candidates.log()}
        return loss, numbers

    def after_step(self, step: int, steps: int) -> None:
        """Target and discovery network follow the online network, whose step is done."""
        follow(self.target, self.encoder, keep_at(step, steps, self.keep))
        rate = discovery_rate_at(step, rate=self.discovery_rate, copy_every=self.copy_every)
        follow(self.discovery, self.encoder, 1 - rate)


def build(config: OdinConfig, device: torch.device, *, progress: bool = False) -> Odin:
    """Odin of a configuration: its pictures, and its networks with initial weights.

    Parameters
    ----------
    config : OdinConfig
    device : torch.device
    progress : bool
        Show progress bars.

    Returns
    -------
    Odin

    Raises
    ------
    FileNotFoundError, ValueError
        If the pictures cannot be used, or do not fit the settings.
    """
    if config.photometric not in PHOTOMETRIC:
        raise ValueError(f"photometric is {config.photometric!r}; expected one of {', '.join(PHOTOMETRIC)}.")
    encoder = _encoder(config, config.seed)
    with torch.no_grad():
        encoder.backbone.eval()
        in_span, in_view = (
            encoder.backbone(torch.zeros(1, 3, side, side))[encoder.layer][0, 0].numel()
            for side in (config.span_px, config.size_px)
        )
    if config.clusters > min(in_span, in_view / LEAST_CELLS):
        raise ValueError(
            f"clusters is {config.clusters} for maps of {in_span} places in the spanning window and {in_view} in a "
            f"view; expected at most {int(min(in_span, in_view / LEAST_CELLS))}, or a larger span_px or size_px."
        )
    pictures = open_pictures(config, progress=progress)
    batches = Spans(
        pictures.store,
        batch=config.batch,
        size_px=config.size_px,
        span_px=config.span_px,
        photometric=PHOTOMETRIC[config.photometric],
        least_area=config.least_area,
        aspect=config.aspect,
        seed=config.seed,
    )
    width = config.latent_width
    return Odin(
        encoder,
        mlp(width, config.hidden_width, width, generator=counter_generator(config.seed, 6)),
        _encoder(config, config.seed + TARGET_SEED),
        batches,
        clusters=config.clusters,
        soft=config.pooling == "soft",
        cluster_projections=config.cluster_on == "projections",
        spherical=config.spherical,
        iterations=config.kmeans_iterations,
        start=config.kmeans_start,
        discovery_rate=config.discovery_rate,
        copy_epochs=config.copy_epochs,
        keep=config.keep,
        temperature=config.temperature,
        precision=config.precision,
        seed=config.seed,
        labelled=pictures.labelled,
        about_data=f"{pictures.about}\nMasks: {config.clusters} clusters of {in_span} places in every spanning window",
    ).to(device)


def _encoder(config: OdinConfig, seed: int) -> MaskEncoder:
    backbone = make_backbone(config.backbone, seed=seed)
    layer = config.layer or backbone.layers[-1]
    if layer not in backbone.channels:
        raise ValueError(f"layer is {layer!r}; expected one of {', '.join(backbone.layers)} of {config.backbone}.")
    head = mlp(backbone.channels[layer], config.hidden_width, config.latent_width, generator=counter_generator(seed, 5))
    return MaskEncoder(backbone, head, layer=layer)


@styled
def segments_figure(pictures: Tensor, segments: Mapping[str, Tensor]) -> Figure:
    """Pictures, and below them how each was divided.

    Every segment has a colour of its own, laid over the grey picture. A title is the number of segments.

    Parameters
    ----------
    pictures : Tensor, (N, 3, H, W)
        In [0, 1].
    segments : mapping of str to Tensor of int, (N, h, w)
        Label maps by name; each cell is enlarged to its part of the picture.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no picture, or not one label map for each.

    Examples
    --------
    >>> figure = segments_figure(torch.rand(2, 3, 64, 64), {"K = 3": torch.arange(3).expand(2, 3, 3)})
    >>> [axes.get_title() for axes in figure.axes]
    ['', '', '3 segments', '3 segments']
    """
    if not len(pictures) or not segments or any(len(each) != len(pictures) for each in segments.values()):
        given = {name: tuple(each.shape) for name, each in segments.items()}
        raise ValueError(f"{len(pictures)} pictures and segments {given}; expected one label map per picture.")
    rows, columns = 1 + len(segments), len(pictures)
    height, width = pictures.shape[2:]
    figure = Figure((WIDTH_IN, rows * (WIDTH_IN / columns * height / width + 0.25)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    shown = pictures.detach().cpu().float().clamp(0, 1).permute(0, 2, 3, 1).numpy()
    for axes in panels.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, picture in zip(panels[0], shown, strict=True):
        axes.imshow(picture)
    for row, (name, maps) in zip(panels[1:], segments.items(), strict=True):
        row[0].set_ylabel(plain(name))
        large = F.interpolate(maps[:, None].cpu().double(), (height, width), mode="nearest-exact")[:, 0].long().numpy()
        for axes, picture, labels in zip(row, shown, large, strict=True):
            numbers, place = np.unique(labels, return_inverse=True)
            colours = np.array(TINTS)[np.arange(len(numbers)) % len(TINTS)][place.reshape(labels.shape)]
            axes.imshow(0.6 * colours + 0.4 * picture.mean(2, keepdims=True))
            axes.set_title(f"{len(numbers)} segments")
    return figure
