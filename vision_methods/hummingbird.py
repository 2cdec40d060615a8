"""Hummingbird's pretraining (Balažević et al. 2023, arXiv 2306.01667): a RECONSTRUCTION, not the authors' recipe.

Two devices are to make features good at dense retrieval (:mod:`vision_methods.dense_retrieval`): attention *across*
pictures, to a memory of other pictures, and learned attention *within* a picture, which pools it to one vector. Their
names and roles are confirmed; of the formulas neither code nor the paper's method section was available to us. What is
built here is

* every place ``h`` of a picture reads the memory: ``v = sum_m softmax_m(cos(h, k_m) / T) value(k_m)``, and becomes
  ``psi((1 - share) h/|h| + share v/|v|)`` (:class:`Context`);
* one weight per place pools these (:mod:`vision_methods.attention_pooling`), with a value projection;
* a projector and a predictor follow, and two views of a picture find each other among the pictures of the batch, keys
  from a target network that follows the online one (:func:`vision_methods.vito.image_contrast`); or, supervised, a
  linear classifier of the pooled vector learns the classes of the pictures, by cross-entropy alone.

The memory holds the mean response of the target network to past pictures, first in first out. When training is over
all but the backbone is thrown away. The page ``docs/methods-hummingbird.md`` says what is known and what is our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcl import distributed
from lcl.labelled_images import LabelledImages
from lcl.train import counter_generator
from vision_methods.attention_pooling import POOLINGS, attend, attended_share
from vision_methods.backbones import Backbone, make_backbone
from vision_methods.clips import still_clips
from vision_methods.config import HummingbirdConfig
from vision_methods.frame_pairs import FramePairs, FrameView
from vision_methods.heads import mlp
from vision_methods.momentum import follow, keep_at, target_of
from vision_methods.pictures import open_pictures
from vision_methods.region_contrast import latent_spread
from vision_methods.two_views import PHOTOMETRIC, photometric_views
from vision_methods.vit import VITS, ViT, vit_backbone
from vision_methods.vito import image_contrast


def read_memory(features: Tensor, keys: Tensor, values: Tensor, *, temperature: float) -> Tensor:
    """Values of a memory, weighted by a softmax of the cosines of features with its keys.

    Parameters
    ----------
    features : Tensor, (B, N, C)
        Of any length, as the keys.
    keys, values : Tensor, (M, C)
    temperature : float
        Cosines are divided by it.

    Returns
    -------
    Tensor, (B, N, C)

    Raises
    ------
    ValueError
        If the memory is empty, or the temperature not positive.

    Examples
    --------
    >>> read_memory(torch.tensor([[[3.0, 0.0]]]), torch.eye(2), torch.tensor([[1.0, 0], [0, 2]]), temperature=1.0)
    tensor([[[0.7311, 0.5379]]])
    """
    if not len(keys):
        raise ValueError("The memory is empty; expected at least one key.")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number, such as 0.1.")
    queries = F.normalize(features, dim=-1).flatten(0, 1)
    read = F.scaled_dot_product_attention(
        queries[None, None], F.normalize(keys, dim=-1)[None, None], values[None, None], scale=1 / temperature
    )
    return read[0, 0].unflatten(0, features.shape[:2])


class Context(nn.Module):
    """Places of pictures, changed by what a memory of other pictures says about them.

    Parameters
    ----------
    channels : int
    share : float
        Of the memory in the sum of two vectors of length 1; 0: no memory is read.
    temperature : float
        Of the softmax over the memory.
    generator : torch.Generator, optional
        Draws the initial weights. Those of ``psi`` have variance 1, as its input has length 1.

    Raises
    ------
    ValueError
        If the share is not in [0, 1].

    Examples
    --------
    >>> context = Context(8, share=0.2, temperature=0.1)
    >>> context(torch.rand(2, 5, 8), torch.rand(30, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self, channels: int, *, share: float, temperature: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}; expected the share of the memory, 0 to 1.")
        self.share, self.temperature = share, temperature
        first, last = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.value, self.psi = nn.Sequential(first, nn.ReLU(), last), nn.Linear(channels, channels)
        for linear, variance in ((first, 2 / channels), (last, 1 / channels), (self.psi, 1.0)):
            nn.init.normal_(linear.weight, std=variance**0.5, generator=generator)
            nn.init.zeros_(linear.bias)

    def mixed(self, features: Tensor, keys: Tensor) -> Tensor:
        """Before ``psi``: features (B, N, C) of length 1, and what they read from keys (M, C), in their shares."""
        unit = F.normalize(features, dim=-1)
        if not self.share or not len(keys):
            return unit
        read = read_memory(features, keys, self.value(keys), temperature=self.temperature)
        return (1 - self.share) * unit + self.share * F.normalize(read, dim=-1)

    def forward(self, features: Tensor, keys: Tensor) -> Tensor:
        """Contextualised places (B, N, C); with an empty memory, places as they are."""
        return self.psi(self.mixed(features, keys))


class PictureMemory(nn.Module):
    """Mean responses to past pictures, the oldest of which make room for new ones.

    Parameters
    ----------
    size : int
        Pictures; 0: none are kept.
    channels : int

    Examples
    --------
    >>> memory = PictureMemory(3, 1)
    >>> for number in range(5):
    ...     memory.add(torch.tensor([[float(number)]]))
    >>> memory.held().flatten()
    tensor([3., 4., 2.])
    """

    keys: Tensor
    added: Tensor

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, channels))
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))

    def held(self) -> Tensor:
        """Keys (M, channels) that are held, in no order."""
        return self.keys[: min(int(self.added), len(self.keys))]

    @torch.no_grad()
    def add(self, keys: Tensor) -> None:
        """Keep the responses (B, channels) to a batch, the same ones on every process."""
        size = len(self.keys)
        if size:
            kept = keys[-size:].to(self.keys)
            places = (int(self.added) + len(keys) - len(kept) + torch.arange(len(kept), device=kept.device)) % size
            self.keys[places] = kept
        self.added += len(keys)


class Encoded(NamedTuple):
    """What a :class:`ContextEncoder` makes of pictures.

    Attributes
    ----------
    vectors : Tensor, (B, C)
        Pooled over places.
    keys : Tensor, (B, C)
        Mean response before any context: what the memory keeps.
    weights : Tensor, (B, h, w)
        Attention over places.
    """

    vectors: Tensor
    keys: Tensor
    weights: Tensor


class ContextEncoder(nn.Module):
    """From pictures to a vector each: a backbone, context from a memory, pooling by attention.

    Parameters
    ----------
    backbone : Backbone
    layer : str
        Whose maps are read.
    share, context_temperature : float
        As in :class:`Context`.
    pooling : str
        Of :data:`vision_methods.attention_pooling.POOLINGS`.
    value_projection : bool
        Project what is pooled linearly. The weights of places sum to 1, so that the projection of the sum, which is
        made here, is the sum of projections.
    generator : torch.Generator, optional
        Draws the initial weights beside the backbone's.

    Raises
    ------
    ValueError
        If the backbone has no such layer, or there is no such pooling.
    """

    def __init__(
        self,
        backbone: Backbone,
        layer: str,
        *,
        share: float = 0.2,
        context_temperature: float = 0.1,
        pooling: str = "attention",
        value_projection: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if layer not in backbone.channels:
            raise ValueError(f"layer is {layer!r}; expected one of {', '.join(backbone.layers)}.")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}.")
        channels = backbone.channels[layer]
        self.backbone, self.layer = backbone, layer
        self.context = Context(channels, share=share, temperature=context_temperature, generator=generator)
        self.pool = POOLINGS[pooling](channels, generator=generator)
        self.omega = nn.Linear(channels, channels) if value_projection else nn.Identity()
        if isinstance(self.omega, nn.Linear):
            nn.init.normal_(self.omega.weight, std=channels**-0.5, generator=generator)
            nn.init.zeros_(self.omega.bias)

    def forward(self, pictures: Tensor, keys: Tensor) -> Encoded:
        """Vectors of pictures (B, 3, H, W) in [0, 1], with a memory of keys (M, C)."""
        maps = self.backbone(pictures)[self.layer]
        places = self.context(maps.flatten(2).transpose(1, 2), keys)
        around = places.transpose(1, 2).unflatten(2, maps.shape[2:])
        weights = self.pool.weights(around)  # type: ignore[operator] (a pooling)
        return Encoded(self.omega(attend(around, weights)), maps.float().mean((2, 3)), weights)


class Hummingbird(nn.Module):
    """Reconstruction of Hummingbird's pretraining as a learner (:mod:`vision_methods.learner`).

    Parameters
    ----------
    encoder : ContextEncoder
        Online network.
    target : Module
        A copy, which follows it: no gradient reaches it.
    batches : FramePairs
        Two views of each picture; of still clips, so that frames are pictures.
    memory : PictureMemory
    heads : ModuleDict
        ``projector`` and ``predictor``; or ``classifier``: supervised.
    target_projector : Module, optional
        With ``projector``.
    labels : array of int, (picture,), optional
        Class of every picture, with ``classifier``.
    keep : float
        Share of the target that the first step keeps.
    temperature : float
        Of the contrast.
    precision : {"float32", "bf16"}
        Of the networks.
    labelled : (LabelledImages, LabelledImages), optional
    about_data : str

    Raises
    ------
    ValueError
        If the heads are of neither variant, or labels are missing.
    """

    def __init__(
        self,
        encoder: ContextEncoder,
        target: nn.Module,
        batches: FramePairs,
        memory: PictureMemory,
        heads: nn.ModuleDict,
        *,
        target_projector: nn.Module | None = None,
        labels: np.ndarray | None = None,
        keep: float = 0.99,
        temperature: float = 0.1,
        precision: str = "float32",
        labelled: tuple[LabelledImages, LabelledImages] | None = None,
        about_data: str = "",
    ) -> None:
        super().__init__()
        self.supervised = "classifier" in heads
        if self.supervised != (labels is not None) or self.supervised == (target_projector is not None):
            raise ValueError(
                "Hummingbird has a classifier and labels, or a projector, a predictor and a target's projector; "
                f"heads are {', '.join(heads)}."
            )
        self.online = nn.ModuleDict({"encoder": encoder, **heads})
        projector = {} if target_projector is None else {"projector": target_projector}
        self.target = nn.ModuleDict({"encoder": target, **projector}).requires_grad_(False)
        self.memory, self.batches, self.labels = memory, batches, labels
        self.steps_per_epoch = batches.per_epoch
        self.keep, self.temperature, self.precision = keep, temperature, precision
        self.labelled, self.about_data = labelled, about_data
        self.seen: Tensor | None = None

    @property
    def backbone(self) -> Backbone:
        """Backbone of the online network."""
        backbone = self.online["encoder"].backbone
        assert isinstance(backbone, Backbone)
        return backbone

    def draw(self, step: int) -> tuple[tuple[FrameView, FrameView], Tensor | None]:
        """Share of this process in the two views of a step, and its classes."""
        labels = None
        if self.labels is not None:
            labels = torch.from_numpy(self.labels[self.batches.frames(step)[self.batches.own, 0]]).long()
        return self.batches(step), labels

    def encoded(self, views: Sequence[FrameView]) -> tuple[list[Encoded], list[Encoded]]:
        """Views by the online network and by the target (supervised: the first alone), which read the same memory."""
        device, keys = next(self.parameters()).device, self.memory.held()
        online, target = [], []
        for view in views:
            pictures = photometric_views(view.crops.to(device, non_blocking=True), view.views)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                online.append(self.online["encoder"](pictures, keys))
                if not (self.supervised and target):
                    with torch.no_grad():
                        target.append(self.target["encoder"](pictures, keys))
        return online, target

    def loss(self, batch: tuple[tuple[FrameView, FrameView], Tensor | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of this process in the loss, and in what tells how it goes.

        Returns
        -------
        loss : Tensor
        numbers : dict of str to Tensor
            ``attended``: share of the places that hold half of the weight; ``remembered``: pictures in the memory;
            then ``collapsed`` (loss if all latents were equal) and ``spread``
            (:func:`vision_methods.region_contrast.latent_spread`), or, supervised, ``accuracy`` of the batch's views.
        """
        views, labels = batch
        online, target = self.encoded(views)
        device, processes = online[0].vectors.device, distributed.world_size()
        with torch.no_grad():
            self.seen = target[0].keys.detach()
            attended = torch.stack([attended_share(each.weights.float()).mean() for each in online]).mean()
            numbers = {"attended": attended, "remembered": attended.new_tensor(len(self.memory.held()))}
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if self.supervised:
                logits = [self.online["classifier"](each.vectors) for each in online]
            else:
                queries = [self.online["predictor"](self.online["projector"](each.vectors)) for each in online]
                with torch.no_grad():
                    keys = [self.target["projector"](each.vectors) for each in target]
        if self.supervised:
            assert labels is not None
            known = labels.to(device).repeat(2)
            answers = torch.cat(logits).float()
            loss = F.cross_entropy(answers, known, reduction="sum") / (2 * self.batches.batch)
            numbers["accuracy"] = (answers.argmax(1) == known).float().mean()
        else:
            loss = image_contrast(*queries, *keys, temperature=self.temperature)
            numbers["collapsed"] = loss.new_tensor(2 * np.log(2 * self.batches.batch - 1))
            numbers["spread"] = latent_spread(torch.cat(queries).detach())
        return loss, {name: value / processes for name, value in numbers.items()}

    def after_step(self, step: int, steps: int) -> None:
        """The target follows the online network, and the memory takes the pictures of the step: only now."""
        keep = keep_at(step, steps, self.keep)
        for name, part in self.target.items():
            follow(part, self.online[name], keep)
        if self.seen is not None:
            self.memory.add(distributed.gather_over_processes(self.seen))
            self.seen = None


def make_encoder_backbone(config: HummingbirdConfig, seed: int) -> Backbone:
    """Backbone of a configuration with new weights: one of those of all methods, or a transformer.

    Examples
    --------
    >>> make_encoder_backbone(HummingbirdConfig(), 0).layers[-1]
    'norm'
    """
    if config.backbone in VITS:
        return vit_backbone(ViT(**VITS[config.backbone], generator=torch.Generator().manual_seed(seed)))
    return make_backbone(config.backbone, seed=seed)


def build(config: HummingbirdConfig, device: torch.device, *, progress: bool = False) -> Hummingbird:
    """Hummingbird of a configuration: its pictures, and its networks with initial weights.

    Parameters
    ----------
    config : HummingbirdConfig
    device : torch.device
    progress : bool
        Show progress bars.

    Returns
    -------
    Hummingbird

    Raises
    ------
    FileNotFoundError, ValueError
        If the pictures cannot be used, do not fit the settings, or have no labels and are to be learned.
    """
    if config.photometric not in PHOTOMETRIC:
        raise ValueError(f"photometric is {config.photometric!r}; expected one of {', '.join(PHOTOMETRIC)}.")
    backbone = make_encoder_backbone(config, config.seed)
    encoder = ContextEncoder(
        backbone,
        config.layer or backbone.layers[-1],
        share=config.context_share,
        context_temperature=config.context_temperature,
        pooling=config.pooling,
        value_projection=config.value_projection,
        generator=counter_generator(config.seed, 5),
    )
    with torch.no_grad():
        maps = encoder.backbone.eval()(torch.zeros(1, 3, config.size_px, config.size_px))[encoder.layer]
    pictures = open_pictures(config, progress=progress)
    batches = FramePairs(
        still_clips(pictures.store),
        batch=config.batch,
        size_px=config.size_px,
        max_gap_s=0.0,
        photometric=PHOTOMETRIC[config.photometric],
        least_area=config.least_area,
        aspect=config.aspect,
        seed=config.seed,
    )
    channels, hidden, latent = maps.shape[1], config.hidden_width, config.latent_width
    heads, target_projector, labels = nn.ModuleDict(), None, None
    if config.supervised:
        if pictures.labelled is None:
            raise ValueError(f"the pictures of {config.images} have no labels to learn; leave --supervised out.")
        labels = pictures.labelled[0].labels
        classifier = nn.Linear(channels, len(pictures.labelled[0].classes))
        nn.init.zeros_(classifier.weight)
        nn.init.zeros_(classifier.bias)
        heads["classifier"] = classifier
    else:
        heads["projector"] = mlp(channels, hidden, latent, generator=counter_generator(config.seed, 7))
        heads["predictor"] = mlp(latent, hidden, latent, generator=counter_generator(config.seed, 6))
        target_projector = target_of(heads["projector"])
    places = f"{config.pooling} over {maps.shape[2]} x {maps.shape[3]} places of {encoder.layer}"
    return Hummingbird(
        encoder,
        target_of(encoder),
        batches,
        PictureMemory(config.memory_pictures, channels),
        heads,
        target_projector=target_projector,
        labels=labels,
        keep=config.keep,
        temperature=config.temperature,
        precision=config.precision,
        labelled=pictures.labelled,
        about_data=f"{pictures.about}\nA reconstruction; {places}, {config.context_share:g} of context",
    ).to(device)
