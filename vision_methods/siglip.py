"""Contrastive learning of pictures and their captions: SigLIP's sigmoid loss and CLIP's softmax loss.

Both losses are pure functions of unit vectors. A process gives the vectors of its own pairs, and gets its share of the
loss of the whole batch; the shares of all processes sum to the loss that one process would find. ``chunk`` bounds the
memory: similarities of so many pictures (or texts) with all others are held at a time, and made again on the way back.

Sources: Radford et al. 2021 (CLIP; open_clip's ``ClipLoss``), Zhai et al. 2023 (SigLIP; big_vision's
``trainers/proj/image_text/siglip.py``, open_clip's ``SigLipLoss``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lcl import distributed
from lcl.train import counter_generator
from vision_methods.backbones import Backbone, make_backbone
from vision_methods.caption_batches import PairBatches, Pairs
from vision_methods.image_text_config import ImageTextConfig
from vision_methods.image_text_corpus import Judged, open_corpus, open_tokenizer
from vision_methods.text_tower import TextTower, clip_text, padding, written
from vision_methods.vit import VITS, ViT, vit_backbone

#: CLIP's scale may grow no further (Radford et al. 2021).
MOST_SCALE = 100.0


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


class TwoTowers(nn.Module):
    """A network of pictures and one of texts, each with a linear layer into a space that they share.

    Parameters
    ----------
    image : Backbone
        A picture is the mean of its last layer's places.
    text : Module
        Tokens (B, L) to vectors (B, ``width``): a :class:`vision_methods.text_tower.TextTower`, or CLIP's.
    latent_width : int
        Features of the shared space.
    layer : str
        That the mean is taken of; empty: the last.
    scale, bias : float
        That cosines are multiplied with, and what is added to them, at first; both are learned, the scale as its
        logarithm.
    generator : torch.Generator, optional
        Draws the linear layers, normal with variance 1 / fan-in.

    Attributes
    ----------
    log_scale, bias : Parameter, ()

    Raises
    ------
    ValueError
        If there is no such layer.

    Examples
    --------
    >>> text = TextTower(300, length=8, width=16, depth=1, heads=2)
    >>> towers = TwoTowers(make_backbone("conv4", seed=0), text, latent_width=32)
    >>> towers.encode_images(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 32])
    """

    def __init__(
        self,
        image: Backbone,
        text: nn.Module,
        *,
        latent_width: int,
        layer: str = "",
        scale: float = 10.0,
        bias: float = -10.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer or image.layers[-1]
        if self.layer not in image.layers:
            raise ValueError(f"layer is {layer!r}; expected one of {', '.join(image.layers)}.")
        self.image, self.text = image, text
        self.image_head = nn.Linear(image.channels[self.layer], latent_width, bias=False)
        self.text_head = nn.Linear(int(text.width), latent_width, bias=False)  # pyright: ignore[reportArgumentType]
        for head in (self.image_head, self.text_head):
            nn.init.normal_(head.weight, std=head.in_features**-0.5, generator=generator)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with."""
        return self.log_scale.exp()

    def picture_vectors(self, images: Tensor) -> Tensor:
        """Vectors (B, latent), not of unit length, of images (B, 3, H, W) in [0, 1]."""
        return self.image_head(self.image(images)[self.layer].mean((2, 3)))

    def text_vectors(self, tokens: Tensor) -> Tensor:
        """Vectors (B, latent), not of unit length, of tokens (B, L)."""
        return self.text_head(self.text(tokens))

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, latent) of images (B, 3, H, W) in [0, 1]."""
        return unit(self.picture_vectors(images))

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Unit vectors (B, latent) of tokens (B, L)."""
        return unit(self.text_vectors(tokens))


def unit(vectors: Tensor) -> Tensor:
    """Vectors (B, D) of unit length, in float32 at least.

    Examples
    --------
    >>> unit(torch.tensor([[3.0, 4.0]], dtype=torch.bfloat16))
    tensor([[0.6000, 0.8000]])
    """
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=1)


class SigLIP(nn.Module):
    """Two towers while they are trained: a learner (:mod:`vision_methods.learner`).

    Parameters
    ----------
    towers : TwoTowers
    batches : PairBatches
    tokenizer : tokenizers.Tokenizer
        Kept in the run folder.
    loss : {"sigmoid", "softmax"}
        SigLIP's or CLIP's.
    chunk : int, optional
        Of the losses.
    precision : {"bf16", "float32"}
        Of the networks; the loss is float32.
    judged : Judged, optional
        What is measured at the end of epochs.
    about_data : str
        A line for the user.
    """

    labelled = None

    def __init__(
        self,
        towers: TwoTowers,
        batches: PairBatches,
        tokenizer: Any,
        *,
        loss: str = "sigmoid",
        chunk: int | None = None,
        precision: str = "float32",
        judged: Judged | None = None,
        about_data: str = "",
    ) -> None:
        super().__init__()
        self.online, self.batches, self.tokenizer = towers, batches, tokenizer
        self.kind, self.chunk, self.precision = loss, chunk or None, precision
        self.judged, self.about_data = judged, about_data
        # A run goes on with the tokens that it began with, or not at all.
        self.register_buffer("vocabulary", fingerprint(tokenizer))

    @property
    def backbone(self) -> Backbone:
        """The network of pictures."""
        return self.online.image

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return self.batches.per_epoch

    def draw(self, step: int) -> Pairs:
        """Share of this process in the pairs of a step."""
        return self.batches(step)

    def embed(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Vectors (b, latent) of pictures and of texts, not yet of unit length."""
        device = self.online.log_scale.device
        pictures = pairs.pictures.to(device, non_blocking=True)
        pictures = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return (
                self.online.picture_vectors(pictures.contiguous(memory_format=torch.channels_last)),
                self.online.text_vectors(pairs.tokens.to(device, non_blocking=True)),
            )

    def contrast(self, images: Tensor, texts: Tensor) -> Tensor:
        """Share of this process in the loss of unit vectors (b, latent)."""
        towers = self.online
        if self.kind == "softmax":
            return softmax_loss(images, texts, scale=towers.scale, chunk=self.chunk)
        return sigmoid_loss(images, texts, scale=towers.scale, bias=towers.bias, chunk=self.chunk)

    def loss(self, batch: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of this process in the loss, and in what tells how it goes.

        Returns
        -------
        loss : Tensor
        numbers : dict of str to Tensor
            ``scale``, ``bias``, and ``cosine``: mean of the pairs.
        """
        images, texts = (unit(each) for each in self.embed(batch))
        return self.contrast(images, texts), self.numbers(images, texts)

    @torch.no_grad()
    def numbers(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Shares of this process in what is logged beside the loss."""
        towers = self.online
        found = {"scale": towers.scale, "cosine": (images * texts).sum(1).mean()}
        found |= {"bias": towers.bias.clone()} if self.kind == "sigmoid" else {}
        return {name: value / distributed.world_size() for name, value in found.items()}

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        """CLIP's scale stays from 1 to 100, as open_clip's; SigLIP's is free."""
        if self.kind == "softmax":
            self.online.log_scale.clamp_(0, math.log(MOST_SCALE))

    def judge(self) -> dict[str, float]:
        """What the towers know of pictures that were not trained on; leaves them in evaluation mode."""
        return self.judged(self.online) if self.judged else {}

    def write_besides(self, run: Path) -> None:
        """Both towers and the tokenizer, in the run folder."""
        from vision_methods.image_text_run import write_towers

        write_towers(run, self.online, self.tokenizer)

    def load_state_dict(self, state_dict: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
        """As of every module; a state whose texts were cut into other tokens is refused."""
        known = state_dict.get("vocabulary")
        if known is not None and not torch.equal(known.cpu(), self.get_buffer("vocabulary").cpu()):
            raise ValueError(
                "The tokens of the captions are not those of the state; go on with the same captions and tokenizer."
            )
        return super().load_state_dict(state_dict, *arguments, **options)


def fingerprint(tokenizer: Any) -> Tensor:
    """What tells tokenizers apart: SHA-256 of the file, as bytes (32,)."""
    return torch.frombuffer(bytearray(hashlib.sha256(written(tokenizer).encode()).digest()), dtype=torch.uint8)


def make_image_tower(config: ImageTextConfig, seed: int) -> Backbone:
    """Network of pictures of a configuration, with new weights.

    Examples
    --------
    >>> make_image_tower(ImageTextConfig(backbone="toy"), 0).layers[-1]
    'norm'
    """
    if config.backbone in VITS:
        return vit_backbone(ViT(**VITS[config.backbone], generator=torch.Generator().manual_seed(seed)))
    return make_backbone(config.backbone, seed=seed)


def make_towers(config: ImageTextConfig, tokenizer: Any, *, text: nn.Module | None = None) -> TwoTowers:
    """Two towers of a configuration, with new weights.

    Parameters
    ----------
    config : ImageTextConfig
    tokenizer : tokenizers.Tokenizer
        Its tokens are those of the text tower.
    text : Module, optional
        Text tower; that of the configuration without it.

    Returns
    -------
    TwoTowers

    Raises
    ------
    FileNotFoundError, ValueError
        If the configuration's text tower cannot be loaded, or does not fit the tokens.
    """
    if text is None and config.text_weights:
        text = clip_text(config.text_weights)
    elif text is None:
        if padding(tokenizer) != 0:
            raise ValueError("The tokenizer fills texts up with another number than 0; give --text-weights with it.")
        text = TextTower(
            tokenizer.get_vocab_size(),
            length=config.length,
            width=config.text_width,
            depth=config.text_depth,
            heads=config.text_heads,
            pooling=config.text_pooling,
            generator=counter_generator(config.seed, 6),
        )
    assert text is not None
    if config.freeze_text:
        text.requires_grad_(False)
    if config.length > int(text.length):  # pyright: ignore[reportArgumentType]
        raise ValueError(f"length is {config.length}, but the text tower reads {text.length} tokens; lower --length.")
    return TwoTowers(
        make_image_tower(config, config.seed),
        text,
        latent_width=config.latent_width,
        layer=config.layer,
        scale=config.start_scale,
        bias=config.first_bias,
        generator=counter_generator(config.seed, 5),
    )


def build(config: ImageTextConfig, device: torch.device, *, progress: bool = False) -> SigLIP:
    """SigLIP or CLIP of a configuration: its captions, and its towers with initial weights.

    Parameters
    ----------
    config : ImageTextConfig
    device : torch.device
    progress : bool
        Show progress bars.

    Returns
    -------
    SigLIP

    Raises
    ------
    FileNotFoundError, ValueError
        If captions, tokenizer or weights cannot be used, or do not fit the settings.
    """
    corpus = open_corpus(config, progress=progress)
    tokenizer = open_tokenizer(config, corpus.train)
    return SigLIP(
        make_towers(config, tokenizer),
        corpus.batches(config, tokenizer),
        tokenizer,
        loss=config.loss,
        chunk=config.chunk,
        precision=config.precision,
        judged=corpus.judged(config, tokenizer),
        about_data=corpus.about,
    ).to(device)
