"""VITO: image networks learned from video (Parthasarathy et al. 2023, arXiv 2210.06433).

Two frames of one clip, each cropped and changed on its own, have to find each other among the frames of all other clips
of the batch. The network itself learns where to look: one attention map per picture and scale pools the responses
(:mod:`vision_methods.attention_pooling`). Queries come from a predictor, keys from a target network that follows the
online one, its attention included. The loss is DetCon_B's with one mask a picture
(:func:`vision_methods.region_contrast.region_contrast`), summed over scales.

With mean pooling, one scale and no gap between the frames this is MoCLR, contrast of images with a momentum target.

No official code is known and the paper's method section was not available to us; the page ``docs/methods-vito.md`` says
what is known and what is our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lcl import distributed
from lcl.checkpoint import read_tensors
from lcl.images import _count
from lcl.labelled_images import LabelledImages, train_and_validation
from lcl.train import counter_generator
from vision_methods.attention_pooling import POOLINGS, attend, attended_share
from vision_methods.backbones import Backbone, make_backbone
from vision_methods.clips import ClipStore, still_clips
from vision_methods.config import VITOConfig
from vision_methods.frame_pairs import (
    FramePairs,
    FrameView,
    changed_views,
    configured_clips,
    held_out_frames,
    store_options,
)
from vision_methods.heads import mlp
from vision_methods.method_run import read_method_config
from vision_methods.momentum import TARGET_SEED, follow, keep_at
from vision_methods.pictures import open_pictures
from vision_methods.region_contrast import latent_spread, region_contrast
from vision_methods.two_views import PHOTOMETRIC, photometric_views


def image_contrast(
    queries1: Tensor, queries2: Tensor, keys1: Tensor, keys2: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """Share of this process in the contrast of pictures: DetCon's loss with one mask a picture.

    A query of one view has the key of the same picture's other view as positive, and the keys of both views of all
    other pictures as negatives. Sum of the two directions, each the mean over the batch of all processes.

    Parameters
    ----------
    queries1, queries2, keys1, keys2 : Tensor, (B, D)
        Latents of two views, of any length.
    temperature : float

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        As :func:`vision_methods.region_contrast.region_contrast`.

    Examples
    --------
    >>> latents = torch.eye(3)
    >>> loss = image_contrast(latents, latents, latents, latents, temperature=1.0)
    >>> torch.isclose(loss, 2 * torch.log(torch.e + torch.tensor(4.0)) - 2)
    tensor(True)
    """
    ids = torch.zeros(len(queries1), 1, dtype=torch.int64, device=queries1.device)
    first, second, key1, key2 = (each[:, None] for each in (queries1, queries2, keys1, keys2))
    return region_contrast(first, second, key1, key2, ids, ids, temperature=temperature)


class AttentionEncoder(nn.Module):
    """From pictures to one latent for each scale: a backbone, and for each of some layers a pooling and a projector.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        Layers that are pooled, each with a pooling and a projector of its own.
    pooling : str
        Of :data:`vision_methods.attention_pooling.POOLINGS`.
    zero_last : bool
        Attention begins as mean pooling.
    hidden_width, latent_width : int
        Of the projectors.
    generator : torch.Generator, optional
        Draws the initial weights of poolings and projectors.

    Raises
    ------
    ValueError
        If a layer or the pooling is unknown, or a layer is named twice.

    Examples
    --------
    >>> from vision_methods.backbones import make_backbone
    >>> encoder = AttentionEncoder(make_backbone("lcl", seed=0), ["V1", "V2"], hidden_width=16, latent_width=8)
    >>> {name: latent.shape for name, latent in encoder(torch.rand(2, 3, 64, 64))[0].items()}
    {'V1': torch.Size([2, 8]), 'V2': torch.Size([2, 8])}
    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[str],
        *,
        pooling: str = "attention",
        zero_last: bool = False,
        hidden_width: int = 4096,
        latent_width: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}.")
        if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(backbone.layers):
            raise ValueError(
                f"The layers to be pooled are {', '.join(layers) or 'none'}; expected different ones of "
                f"{', '.join(backbone.layers)}."
            )
        self.backbone = backbone
        self.pools, self.projectors = nn.ModuleDict(), nn.ModuleDict()
        for layer in layers:
            channels = backbone.channels[layer]
            self.pools[layer] = POOLINGS[pooling](channels, zero_last=zero_last, generator=generator)
            self.projectors[layer] = mlp(channels, hidden_width, latent_width, generator=generator)

    def forward(self, pictures: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Latents (B, D) and attention (B, h, w) by layer, of pictures (B, 3, H, W) in [0, 1]."""
        responses, latents, weights = self.backbone(pictures), {}, {}
        for layer, pool in self.pools.items():
            maps = responses[layer]
            weights[layer] = pool.weights(maps)  # type: ignore[operator] (a pooling)
            latents[layer] = self.projectors[layer](attend(maps, weights[layer]))
        return latents, weights


class VITO(nn.Module):
    """VITO as a learner (:mod:`vision_methods.learner`).

    Parameters
    ----------
    encoder : AttentionEncoder
        Online network, without predictors.
    predictors : ModuleDict
        By layer.
    target : AttentionEncoder
        Of the encoder's shape, attention included. No gradient reaches it, and its batch norms keep statistics of their
        own.
    batches : FramePairs
    keep : float
        Share of the target that the first step keeps.
    temperature : float
    precision : {"float32", "bf16"}
        Of the networks.
    labelled : (LabelledImages, LabelledImages), optional
    about_data : str

    Raises
    ------
    ValueError
        If predictors and encoder are of different layers.
    """

    def __init__(
        self,
        encoder: AttentionEncoder,
        predictors: nn.ModuleDict,
        target: AttentionEncoder,
        batches: FramePairs,
        *,
        keep: float = 0.99,
        temperature: float = 0.1,
        precision: str = "float32",
        labelled: tuple[LabelledImages, LabelledImages] | None = None,
        about_data: str = "",
    ) -> None:
        super().__init__()
        if list(predictors) != list(encoder.pools):
            raise ValueError(
                f"Predictors are of {', '.join(predictors)}, pooled layers {', '.join(encoder.pools)}; expected the "
                "same layers."
            )
        self.online = nn.ModuleDict({"encoder": encoder, "predictors": predictors})
        self.target = target.requires_grad_(False)
        self.batches, self.steps_per_epoch = batches, batches.per_epoch
        self.keep, self.temperature, self.precision = keep, temperature, precision
        self.labelled, self.about_data = labelled, about_data

    @property
    def encoder(self) -> AttentionEncoder:
        """Online network, without predictors."""
        encoder = self.online["encoder"]
        assert isinstance(encoder, AttentionEncoder)
        return encoder

    @property
    def backbone(self) -> Backbone:
        """Backbone of the online network."""
        return self.encoder.backbone

    def draw(self, step: int) -> tuple[FrameView, FrameView]:
        """Share of this process in the two views of a step."""
        return self.batches(step)

    def latents(
        self, views: Sequence[FrameView]
    ) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        """Queries, keys (B, D) and attention (B, h, w) of each view by layer; the views pass one after the other."""
        device = next(self.parameters()).device
        predictors = self.online["predictors"]
        assert isinstance(predictors, nn.ModuleDict)
        queries, keys, attention = [], [], []
        for view in views:
            pictures = photometric_views(view.crops.to(device, non_blocking=True), view.views)
            pictures = pictures.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                latents, weights = self.encoder(pictures)
                queries.append({layer: predictors[layer](latent) for layer, latent in latents.items()})
                with torch.no_grad():
                    keys.append(self.target(pictures)[0])
            attention.append(weights)
        return queries, keys, attention

    def loss(self, batch: tuple[FrameView, FrameView]) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of this process in the loss, and in what tells how it goes.

        Returns
        -------
        loss : Tensor
            Sum over scales.
        numbers : dict of str to Tensor
            By scale, ``loss_LAYER`` (where there are several) and ``attended_LAYER``
            (:func:`vision_methods.attention_pooling.attended_share`); ``collapsed``: loss if all latents were equal;
            ``spread`` (:func:`vision_methods.region_contrast.latent_spread`).
        """
        queries, keys, attention = self.latents(batch)
        losses = {
            layer: image_contrast(
                *(each[layer] for each in queries), *(each[layer] for each in keys), temperature=self.temperature
            )
            for layer in queries[0]
        }
        total = torch.stack(list(losses.values())).sum()
        with torch.no_grad():
            processes = distributed.world_size()
            numbers = {
                "collapsed": total.new_tensor(len(losses) * 2 * np.log(2 * self.batches.batch - 1)),
                "spread": latent_spread(torch.cat([latent for each in queries for latent in each.values()])),
            }
            for layer in losses:
                numbers[f"attended_{layer}"] = attended_share(torch.cat([each[layer] for each in attention])).mean()
            shares = {name: value / processes for name, value in numbers.items()}
        if len(losses) > 1:
            shares |= {f"loss_{layer}": value.detach() for layer, value in losses.items()}
        return total, shares

    def after_step(self, step: int, steps: int) -> None:
        """The target follows the online network, whose step is done."""
        follow(self.target, self.encoder, keep_at(step, steps, self.keep))


def trained_encoder(run: Path | str) -> AttentionEncoder:
    """Trained network of a run with its attention, of which the run's weights hold the backbone alone.

    Parameters
    ----------
    run : path
        Made by ``lcl train-method vito``; training may go on.

    Returns
    -------
    AttentionEncoder
        In evaluation mode, on the CPU.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is no such run, or its state is damaged.
    """
    name, config, _ = read_method_config(run)
    if not isinstance(config, VITOConfig):
        raise ValueError(f"{run} is a run of {name}; expected one of vito.")
    encoder, prefix = _encoder(config, config.seed), "learner/online.encoder."
    tensors, _ = read_tensors(Path(run) / "state.safetensors")
    encoder.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return encoder.eval()


@torch.no_grad()
def attention_maps(encoder: AttentionEncoder, pictures: Tensor) -> dict[str, Tensor]:
    """Where a network looks, for :func:`vision_methods.attention_pooling.attention_figure`.

    Parameters
    ----------
    encoder : AttentionEncoder
        Left in evaluation mode.
    pictures : Tensor, (B, 3, H, W)
        In [0, 1].

    Returns
    -------
    dict of str to Tensor, (B, h, w)
        By layer.
    """
    device = next(encoder.parameters()).device
    return {layer: weights.cpu() for layer, weights in encoder.eval()(pictures.to(device))[1].items()}


def build(config: VITOConfig, device: torch.device, *, progress: bool = False) -> VITO:
    """VITO of a configuration: its clips, and its networks with initial weights.

    Parameters
    ----------
    config : VITOConfig
    device : torch.device
    progress : bool
        Show progress bars.

    Returns
    -------
    VITO

    Raises
    ------
    FileNotFoundError, ValueError
        If the clips or pictures cannot be used, or do not fit the settings.
    ImportError
        If there are video files and PyAV is not installed.
    """
    if config.photometric not in PHOTOMETRIC:
        raise ValueError(f"photometric is {config.photometric!r}; expected one of {', '.join(PHOTOMETRIC)}.")
    encoder, target = (_encoder(config, config.seed + offset) for offset in (0, TARGET_SEED))
    generator, width = counter_generator(config.seed, 6), config.latent_width
    predictors = nn.ModuleDict(
        {layer: mlp(width, config.hidden_width, width, generator=generator) for layer in encoder.pools}
    )
    with torch.no_grad():
        responses = encoder.backbone.eval()(torch.zeros(1, 3, config.size_px, config.size_px))
    scales = ", ".join(
        f"{layer} ({responses[layer].shape[2]} x {responses[layer].shape[3]})" for layer in encoder.pools
    )
    clips, labelled, about = _open_data(config, progress=progress)
    batches = FramePairs(
        clips,
        batch=config.batch,
        size_px=config.size_px,
        max_gap_s=config.max_gap_s,
        pairs_per_clip=config.pairs_per_clip,
        photometric=PHOTOMETRIC[config.photometric],
        least_area=config.least_area,
        aspect=config.aspect,
        seed=config.seed,
    )
    return VITO(
        encoder,
        predictors,
        target,
        batches,
        keep=config.keep,
        temperature=config.temperature,
        precision=config.precision,
        labelled=labelled,
        about_data=f"{about}\nPooled ({config.pooling}): {scales}",
    ).to(device)


def _encoder(config: VITOConfig, seed: int) -> AttentionEncoder:
    backbone = make_backbone(config.backbone, seed=seed)
    return AttentionEncoder(
        backbone,
        (*config.lower_layers, config.layer or backbone.layers[-1]),
        pooling=config.pooling,
        zero_last=config.zero_last,
        hidden_width=config.hidden_width,
        latent_width=config.latent_width,
        generator=counter_generator(seed, 5),
    )


def _open_data(
    config: VITOConfig, *, progress: bool
) -> tuple[ClipStore, tuple[LabelledImages, LabelledImages] | None, str]:
    """Clips to train on, pictures with labels to judge by, and a line about both."""
    if config.still:
        pictures = open_pictures(config, progress=progress)
        return still_clips(pictures.store), pictures.labelled, pictures.about
    clips = configured_clips(config, progress=progress)
    about = clips.summary()
    if config.validation_images:
        labelled = train_and_validation(
            config.validation_images, held_out=config.held_out, **store_options(config, progress)
        )
        return clips, labelled, f"{about}\n{len(labelled[1])} pictures with labels to judge by"
    if clips.lengths.max() < 3:
        return clips, None, f"{about}\nNo accuracy at the end of epochs: no clip has three frames"
    held = held_out_frames(clips, share=config.held_out, most=config.judge_most)
    views = changed_views(held.middle, size_px=config.size_px)
    return (
        held.rest,
        (held.references, views),
        f"{about}\n{len(views)} frames from the middle of {_count(len(held.middle.classes), 'clip')} are held out: a "
        "view of each, cropped and changed, is looked up among the frames trained on, by clip",
    )
