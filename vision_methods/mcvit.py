"""MC-ViT: long videos by memory consolidation (Balazevic et al. 2024, arXiv 2402.05861).

A video transformer that was trained on short clips reads a long video in segments; in every block a segment also
attends to what was consolidated of those before (:mod:`vision_methods.video_memory`). It is trained on for a while, by
the contrast of videos and texts, and learns no new parameters but longer positions. Here the videos are made so that
only memory helps (:mod:`vision_methods.long_sequences`), or are recordings on disk
(:mod:`vision_methods.long_videos`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcl import distributed
from lcl.checkpoint import read_tensors
from lcl.train import counter_generator
from vision_methods.backbones import Backbone
from vision_methods.clip_files import open_clips
from vision_methods.config import MCViTConfig
from vision_methods.long_videos import ClipVideos, MadeVideos, VideoBatch, labelled_clips
from vision_methods.video_memory import lengthened, read_video
from vision_methods.vit import Maps, ViT, load_timm, resize_positions, vit_backbone


def symmetric_nce(
    videos: Tensor,
    texts: Tensor,
    *,
    temperature: float = 0.1,
    labels: Tensor | None = None,
    hard_negatives: Tensor | None = None,
) -> Tensor:
    """Contrast of videos and the texts that belong to them, in both directions, which are added.

    ``l_i = -log(exp(v_i t_i) / sum_j exp(v_i t_j)) - log(exp(t_i v_i) / sum_j exp(t_i v_j))``, averaged over i, with
    embeddings scaled to length 1 and products divided by a temperature (the paper writes none).

    Parameters
    ----------
    videos, texts : Tensor, (B, D)
        Of this process, as many on every one; all processes' are contrasted.
    temperature : float
    labels : Tensor of int, (B,), optional
        Another pair with the same label is no negative, as where classes are the texts; ours.
    hard_negatives : Tensor, (B, M, D), optional
        More wrong texts for each video, such as the other answers to its question.

    Returns
    -------
    Tensor, scalar
        This process's share of the loss of the whole batch.

    Raises
    ------
    ValueError
        If shapes do not fit or the temperature is not positive.

    Examples
    --------
    >>> symmetric_nce(torch.ones(2, 4), torch.ones(2, 4)), 2 * torch.log(torch.tensor(2.0))
    (tensor(1.3863), tensor(1.3863))
    """
    size, width = videos.shape
    given = [each for each in (videos, texts, labels) if each is not None]
    shapes = [tuple(each.shape) for each in given]
    if shapes != [(size, width), (size, width), (size,)][: len(given)]:
        raise ValueError(f"videos, texts and labels have shapes {shapes}; expected (B, D), (B, D), (B,).")
    if hard_negatives is not None and (hard_negatives.ndim != 3 or hard_negatives[:, 0].shape != (size, width)):
        shape = tuple(hard_negatives.shape)
        raise ValueError(f"hard_negatives have shape {shape}; expected ({size}, M, {width}), some for each video.")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number.")
    dtype = torch.promote_types(videos.dtype, torch.float32)
    videos, texts = (F.normalize(each.to(dtype), dim=1) for each in (videos, texts))
    all_videos, all_texts = (distributed.gather_over_processes(each) for each in (videos, texts))
    own = distributed.rank() * size + torch.arange(size, device=videos.device)
    to_texts, to_videos = videos @ all_texts.T / temperature, texts @ all_videos.T / temperature
    if labels is not None:
        alike = labels[:, None] == distributed.gather_over_processes(labels)
        alike[torch.arange(size), own] = False
        to_texts, to_videos = (each.masked_fill(alike, -torch.inf) for each in (to_texts, to_videos))
    if hard_negatives is not None:
        wrong = F.normalize(hard_negatives.to(dtype), dim=2)
        to_texts = torch.cat([to_texts, torch.einsum("bd,bmd->bm", videos, wrong) / temperature], 1)
    both = F.cross_entropy(to_texts, own, reduction="sum") + F.cross_entropy(to_videos, own, reduction="sum")
    return both / len(all_videos)


def sine_positions(grid: tuple[int, int, int], width: int) -> Tensor:
    """Positions of a grid as sines and cosines of time, row and column, a third of the features each.

    A small network learns in a few hundred steps from these what it does not learn from small random ones. Ours.

    Parameters
    ----------
    grid : (int, int, int)
        Times, rows, columns.
    width : int
        At least 6; features beyond a multiple of 6 are 0.

    Returns
    -------
    Tensor, (1, tokens, width)

    Examples
    --------
    >>> sine_positions((2, 1, 1), 6)[0, :, :2].round(decimals=3).abs()
    tensor([[0., 1.],
            [1., 0.]])
    """
    own = width // 6
    rates = torch.pi / 2 * 100.0 ** (-torch.arange(own) / own)
    axes = [torch.arange(count)[:, None] * rates for count in grid]
    places = torch.cartesian_prod(*(torch.arange(count) for count in grid))
    waves = [torch.cat([axis.sin(), axis.cos()], 1)[place] for axis, place in zip(axes, places.T, strict=True)]
    return F.pad(torch.cat(waves, 1), (0, width - 6 * own))[None]


class MCViT(nn.Module):
    """MC-ViT as a learner (:mod:`vision_methods.learner`): long videos are contrasted with the names of their classes.

    The names are learned vectors in place of a text tower, as the paper has it where there are only classes.

    Parameters
    ----------
    vit : ViT
        Of videos.
    videos : MadeVideos or ClipVideos
    kept : int, optional
        As of :func:`~vision_methods.video_memory.read_segment`.
    segment_frames : int
        All frames: joint attention.
    consolidation : {"kmeans", "coreset", "random"}
    detach : bool
    latent_width : int
        Of the vectors that are compared.
    temperature : float
    precision : {"float32", "bf16"}
    steps_per_epoch : int
    judged : int
        At most so many videos tell the accuracy.
    generator : torch.Generator, optional
        Draws the initial projection and classes.
    """

    def __init__(
        self,
        vit: ViT,
        videos: MadeVideos | ClipVideos,
        *,
        kept: int | None,
        segment_frames: int = 16,
        consolidation: str = "kmeans",
        detach: bool = False,
        latent_width: int = 48,
        temperature: float = 0.1,
        precision: str = "float32",
        steps_per_epoch: int = 1,
        judged: int = 500,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        projection = nn.Linear(vit.width, latent_width, bias=False)
        classes = nn.Embedding(len(videos.classes), latent_width)
        for weight in (projection.weight, classes.weight):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
        self.online = nn.ModuleDict({"encoder": vit_backbone(vit), "projection": projection, "classes": classes})
        self.videos, self.draw, self.steps_per_epoch, self.about_data = videos, videos, steps_per_epoch, videos.about
        self.kept, self.segment_frames, self.consolidation, self.detach = kept, segment_frames, consolidation, detach
        self.temperature, self.precision, self.judged, self.labelled = temperature, precision, judged, None

    @property
    def backbone(self) -> Backbone:
        """The transformer, as a network of pictures."""
        backbone = self.online["encoder"]
        assert isinstance(backbone, Backbone)
        return backbone

    @property
    def names(self) -> Tensor:
        """Vectors (classes, latent) of the classes."""
        weight = self.online["classes"].weight
        assert isinstance(weight, Tensor)
        return weight

    def embed(self, batch: VideoBatch) -> Tensor:
        """Vectors (B, latent) of videos: the mean of all their tokens, projected."""
        trunk, device = self.backbone.trunk, self.names.device
        assert isinstance(trunk, Maps)
        videos = batch.videos.to(device, non_blocking=True)
        videos = videos.float() / 255 if videos.dtype == torch.uint8 else videos
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            tokens = read_video(
                trunk.vit,
                videos,
                segment_frames=self.segment_frames,
                kept=self.kept,
                consolidation=self.consolidation,
                seeds=batch.seeds,
                detach=self.detach,
            )
            return self.online["projection"](tokens.mean(1))

    def answers(self, vectors: Tensor) -> Tensor:
        """Class (B,) whose vector is most like a video's."""
        return (vectors.to(self.names.dtype) @ F.normalize(self.names, dim=1).T).argmax(1)

    def loss(self, batch: VideoBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of this process in the contrast, and in the accuracy on the batch before the step learns from it."""
        vectors = self.embed(batch)
        labels = batch.labels.to(vectors.device)
        loss = symmetric_nce(vectors, self.names[labels], temperature=self.temperature, labels=labels)
        right = (self.answers(vectors.detach()) == labels).float().mean()
        return loss, {"accuracy": right / distributed.world_size()}

    def after_step(self, step: int, steps: int) -> None:
        """Nothing follows the network."""

    @torch.no_grad()
    def judge(self) -> dict[str, float]:
        """``accuracy`` on videos that were not trained on, and ``chance``; leaves the module in evaluation mode."""
        self.eval()
        counts = torch.zeros(2, device=self.names.device)
        for number, batch in enumerate(self.videos.held_out(self.judged)):
            if number % distributed.world_size() == distributed.rank():
                found = self.answers(self.embed(batch)).cpu() == batch.labels
                counts += torch.tensor([float(found.sum()), len(found)], device=counts.device)
        right, total = distributed.sum_over_processes(counts).tolist()
        return {"accuracy": right / total, "chance": self.videos.chance}


def make_vit(config: MCViTConfig, seed: int) -> ViT:
    """Video transformer of a configuration, with new weights.

    Its table of positions is for one segment where short videos come first, and is interpolated for long ones: a longer
    table would learn from short videos in a few places alone. Without short videos it is for the whole length.

    Parameters
    ----------
    config : MCViTConfig
    seed : int

    Returns
    -------
    ViT
        Its weights are normal with variance 1 / fan-in, its positions sines and cosines.

    Examples
    --------
    >>> make_vit(MCViTConfig(short_epochs=5), seed=0).grid, make_vit(MCViTConfig(short_epochs=0), seed=0).grid
    ((8, 2, 2), (32, 2, 2))
    """
    generator = torch.Generator().manual_seed(seed)
    vit = ViT(
        size_px=config.size_px,
        patch_px=config.patch_px,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        frames=config.segment_frames,
        tubelet=config.tubelet,
        class_token=config.class_token,
        generator=generator,
    )
    with torch.no_grad():
        for module in vit.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                module.weight.normal_(std=module.weight[0].numel() ** -0.5, generator=generator)
        vit.pos_embed[:, int(config.class_token) :] = sine_positions(vit.grid, config.width)
    return vit if config.short_epochs else lengthened(vit, config.frames)


def load_pretrained(vit: ViT, state: Mapping[str, Tensor]) -> None:
    """Load the weights of a transformer of pictures, or of videos of any length, into one of long videos.

    Parameters
    ----------
    vit : ViT
        Changed in place.
    state : mapping of str to Tensor
        Under timm's names (:func:`vision_methods.vit.load_timm`), or as a run of ``lcl train-method`` keeps them; a
        classifier ``head`` is left out. Positions of other lengths are interpolated in time.

    Raises
    ------
    ValueError
        As of :func:`vision_methods.vit.load_timm`.

    Examples
    --------
    >>> sizes = {"size_px": 16, "patch_px": 8, "width": 12, "depth": 2, "heads": 2, "tubelet": 2, "class_token": False}
    >>> load_pretrained(ViT(**sizes, frames=32), ViT(**sizes, frames=8).state_dict())
    """
    state = {name.removeprefix("trunk.vit."): value for name, value in state.items()}
    positions, (_, rows, columns) = state.get("pos_embed"), vit.grid
    if positions is not None and positions.ndim == 3:
        times, rest = divmod(positions.shape[1] - (vit.cls_token is not None), rows * columns)
        if times > 1 and not rest:
            state["pos_embed"] = resize_positions(positions, (times, rows, columns), vit.grid)
    load_timm(vit, state, drop=["head"])


def build(config: MCViTConfig, device: torch.device, *, progress: bool = False) -> MCViT:
    """MC-ViT of a configuration: its videos, and its network with initial or given weights.

    Parameters
    ----------
    config : MCViTConfig
    device : torch.device
    progress : bool
        Show progress bars.

    Returns
    -------
    MCViT

    Raises
    ------
    FileNotFoundError, ValueError
        If videos or weights cannot be used, or do not fit the settings.
    """
    vit = make_vit(config, config.seed)
    tokens = config.segment_frames // config.tubelet * math.prod(vit.grid[1:])
    if config.kept > tokens:
        raise ValueError(f"kept is {config.kept}, but a segment has {tokens} tokens; lower --kept.")
    per_epoch = max(1, config.videos_per_epoch // config.batch)
    options: dict[str, Any] = {
        "batch": config.batch,
        "frames": config.frames,
        "short_frames": config.segment_frames,
        "short_steps": config.short_epochs * per_epoch,
        "size_px": config.size_px,
        "seed": config.seed,
    }
    if config.images:
        clips = open_clips(
            config.images,
            short_side_px=config.size_px,
            skip=config.skip,
            frames_per_s=config.frames_per_s,
            memory_cap_bytes=int(config.memory_cap_gb * 2**30),
            store_cap_bytes=int(config.store_cap_gb * 2**30),
            store_dir=config.store_dir or None,
            progress=progress and distributed.rank() == 0,
        )
        videos = ClipVideos(*labelled_clips(clips, by=config.classes_by, share=config.held_out), **options)
    else:
        videos = MadeVideos(**options)
    if config.weights:
        load_pretrained(vit, read_tensors(Path(config.weights).expanduser())[0])
    return MCViT(
        vit,
        videos,
        kept={"consolidated": config.kept, "everything": None}.get(config.memory, 0),
        segment_frames=config.frames if config.memory == "joint" else config.segment_frames,
        consolidation=config.consolidation,
        detach=config.detach_memory,
        latent_width=config.latent_width,
        temperature=config.temperature,
        precision=config.precision,
        steps_per_epoch=per_epoch,
        judged=config.judge_most,
        generator=counter_generator(config.seed, 5),
    ).to(device)
