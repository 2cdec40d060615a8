"""LIxP: a contrastive loss of pictures and texts that also asks what a picture's neighbours say.

Training for zero-shot use leaves open how well a few labelled pictures serve by their cosines alone. LIxP changes the
loss only: beside the base loss (SigLIP's or CLIP's) it has a second one in which every picture is replaced by what it
reads from the other pictures of the batch by attention, as a nearest-neighbour classifier would. Temperatures of the
two are separate and learned. At inference nothing is different.

Source: Roth et al. 2025, *Context-Aware Multimodal Pretraining* (CVPR; arXiv 2411.15099). What is confirmed of it, and
what is ours, is in ``docs/methods-lixp.md``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lcl import distributed
from vision_methods.caption_batches import PairBatches, Pairs
from vision_methods.image_text_config import CONTEXT_PATHS, LIxPConfig
from vision_methods.image_text_corpus import open_corpus, open_tokenizer
from vision_methods.siglip import (
    MOST_SCALE,
    SigLIP,
    TwoTowers,
    _first_row,
    make_towers,
    sigmoid_loss,
    softmax_loss,
    unit,
)


def attention_weights(images: Tensor, *, temperature: Tensor | float, self_mask: bool = True) -> Tensor:
    """How much each picture of this process reads from each picture of the batch.

    ``softmax_j(x_i . x_j / (temperature sqrt(D)) + mask_ij)``, where x are the images at unit length and ``mask_ii`` is
    minus infinity, by the number of the picture: equal pictures read from each other.

    Parameters
    ----------
    images : Tensor, (b, D)
        Embeddings of this process's pictures, of any length.
    temperature : float or Tensor
        Positive. Cosines of random directions differ by about ``1 / sqrt(D)``, so that weights are all alike unless it
        is near ``1 / D``.
    self_mask : bool
        No picture reads from itself.

    Returns
    -------
    Tensor, (b, n)
        Rows sum to 1; n pictures of all processes, in their order.

    Raises
    ------
    ValueError
        If shapes do not fit, or a single picture has no other to read from.

    Examples
    --------
    >>> attention_weights(torch.tensor([[2.0, 0], [0, 1], [3, 4]]), temperature=1.0)
    tensor([[0.0000, 0.3955, 0.6045],
            [0.3622, 0.0000, 0.6378],
            [0.4647, 0.5353, 0.0000]])
    """
    images = _embeddings(images)
    with torch.autocast(images.device.type, enabled=False):
        queries = unit(images)
        keys = distributed.gather_over_processes(queries)
        _check_others(len(keys), self_mask)
        return _weights(queries, keys, _own_numbers(images), temperature, self_mask)


def contextualised(
    images: Tensor,
    *,
    temperature: Tensor | float,
    self_mask: bool = True,
    stop_gradient: Collection[str] = (),
    chunk: int | None = None,
) -> Tensor:
    """Each picture of this process as read from the other pictures of the batch.

    :func:`attention_weights` times the embeddings as they are: what is compared has unit length, what is read has not.

    Parameters
    ----------
    images : Tensor, (b, D)
        Embeddings of this process's pictures, not normalised.
    temperature : float or Tensor
        As of :func:`attention_weights`.
    self_mask : bool
        No picture reads from itself.
    stop_gradient : collection of {"queries", "keys", "values"}
        Ways that no gradient takes; for comparison, as it harms.
    chunk : int, optional
        Rows of the matrix of weights that are held at a time; all without it.

    Returns
    -------
    Tensor, (b, D)
        Not normalised.

    Raises
    ------
    ValueError
        If shapes do not fit, a single picture has no other to read from, or a path is unknown.

    Examples
    --------
    >>> contextualised(torch.tensor([[2.0, 0], [0, 1]]), temperature=0.3)  # of two, each is the other
    tensor([[0., 1.],
            [2., 0.]])
    """
    images = _embeddings(images)
    for path in stop_gradient:
        if path not in CONTEXT_PATHS:
            raise ValueError(f"stop_gradient names {path!r}; expected some of {', '.join(CONTEXT_PATHS)}.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected at least 1 row, or None for all.")
    with torch.autocast(images.device.type, enabled=False):
        every = distributed.gather_over_processes(images)
        _check_others(len(every), self_mask)
        queries = unit(images.detach() if "queries" in stop_gradient else images)
        keys = unit(every.detach() if "keys" in stop_gradient else every)
        values = every.detach() if "values" in stop_gradient else every
        own = _own_numbers(images)

        def part(rows: slice) -> Tensor:
            return _weights(queries[rows], keys, own[rows], temperature, self_mask) @ values

        if chunk is None or chunk >= len(images):
            return part(slice(None))
        found = []
        for start in range(0, len(images), chunk):
            each = checkpoint(part, slice(start, start + chunk), use_reentrant=False, preserve_rng_state=False)
            assert isinstance(each, Tensor)
            found.append(each)
        return torch.cat(found)


class Losses(NamedTuple):
    """Shares of this process.

    Attributes
    ----------
    total : Tensor
        ``alpha base + (1 - alpha) context``.
    base, context : Tensor or None
        Of the pictures and of what they read; None where its weight is 0, as it is not computed.
    """

    total: Tensor
    base: Tensor | None
    context: Tensor | None


def lixp_loss(
    images: Tensor,
    texts: Tensor,
    *,
    alpha: float,
    scale: Tensor | float,
    context_scale: Tensor | float,
    context_temperature: Tensor | float,
    bias: Tensor | float | None = None,
    context_bias: Tensor | float | None = None,
    self_mask: bool = True,
    stop_gradient: Collection[str] = (),
    chunk: int | None = None,
) -> Losses:
    """Loss of pictures, and of contextualised pictures, with their texts.

    ``alpha L(x, t; scale) + (1 - alpha) L(x_context, t; context_scale)``, where L is SigLIP's loss if there is a bias
    and CLIP's otherwise, x are the images and x_context the contextualised images, all at unit length.

    Parameters
    ----------
    images : Tensor, (b, D)
        Embeddings of this process's pictures, not normalised.
    texts : Tensor, (b, D)
        Unit vectors.
    alpha : float
        Weight of the **base** loss, from 0 to 1: at 1 this is SigLIP or CLIP.
    scale, context_scale : float or Tensor
        That cosines are multiplied with.
    context_temperature : float or Tensor
        That those of pictures with pictures are divided by, together with ``sqrt(D)``.
    bias, context_bias : float or Tensor, optional
        Of SigLIP's loss; both or neither.
    self_mask, stop_gradient, chunk
        As of :func:`contextualised`; ``chunk`` also bounds the similarities of pictures and texts.

    Returns
    -------
    Losses

    Raises
    ------
    ValueError
        If shapes do not fit, ``alpha`` is out of range, one bias is missing, or a single picture has no other.

    Examples
    --------
    >>> eye = torch.eye(2)
    >>> found = lixp_loss(eye, eye, alpha=0.9, scale=1.0, context_scale=1.0, context_temperature=0.1)
    >>> [round(float(each), 4) for each in found]  # of two, each is taken for the other: 1 + log(1 + 1/e) at worst
    [0.4133, 0.3133, 1.3133]
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; expected the weight of the base loss, from 0 to 1 (1: no context).")
    if (bias is None) != (context_bias is None):
        raise ValueError("one of bias and context_bias is missing; give both for SigLIP's loss, neither for CLIP's.")
    images = _embeddings(images)
    # What has no weight is not computed: 0 times an infinite loss is no number, and temperatures get no gradient.
    base = context = None
    if alpha > 0:
        base = _contrast(unit(images), texts, scale, bias, chunk)
    if alpha < 1:
        read = contextualised(
            images, temperature=context_temperature, self_mask=self_mask, stop_gradient=stop_gradient, chunk=chunk
        )
        context = _contrast(unit(read), texts, context_scale, context_bias, chunk)
    if context is None:
        assert base is not None
        return Losses(base, base, None)
    if base is None:
        return Losses(context, None, context)
    return Losses(alpha * base + (1 - alpha) * context, base, context)


def _contrast(
    images: Tensor, texts: Tensor, scale: Tensor | float, bias: Tensor | float | None, chunk: int | None
) -> Tensor:
    if bias is None:
        return softmax_loss(images, texts, scale=scale, chunk=chunk)
    return sigmoid_loss(images, texts, scale=scale, bias=bias, chunk=chunk)


def _embeddings(images: Tensor) -> Tensor:
    if images.ndim != 2 or not (images.is_floating_point() and len(images)):
        raise ValueError(
            f"images have shape {tuple(images.shape)} and type {images.dtype}; expected floating point (picture, "
            "feature), at least one picture."
        )
    return images.to(torch.promote_types(images.dtype, torch.float32))


def _check_others(pictures: int, self_mask: bool) -> None:
    if pictures < 2 and self_mask:
        raise ValueError("the batch has a single picture, with no other to read from; give at least 2.")


def _own_numbers(images: Tensor) -> Tensor:
    """Numbers of this process's pictures among those of all processes."""
    return _first_row(images) + torch.arange(len(images), device=images.device)


def _weights(queries: Tensor, keys: Tensor, own: Tensor, temperature: Tensor | float, self_mask: bool) -> Tensor:
    logits = queries @ keys.T / (temperature * math.sqrt(keys.shape[1]))
    if self_mask:
        logits = logits.masked_fill(own[:, None] == torch.arange(len(keys), device=keys.device), -math.inf)
    return logits.softmax(1)


class Context(nn.Module):
    """What LIxP learns beside the towers: scale and bias of the contextual loss, and the temperature of attention.

    Parameters
    ----------
    scale : float, optional
        At first; without it the base loss's is taken.
    temperature : float
        At first.
    bias : float, optional
        At first; without it the base loss's is taken, if that has one.

    Examples
    --------
    >>> sum(parameter.numel() for parameter in Context(scale=10.0, temperature=0.02, bias=-4.0).parameters())
    3
    """

    def __init__(self, *, scale: float | None, temperature: float, bias: float | None) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.log_scale = None if scale is None else nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    @property
    def temperature(self) -> Tensor:
        """What cosines of pictures with pictures are divided by, together with the root of their features."""
        return self.log_temperature.exp()


class LIxP(SigLIP):
    """Two towers and their context while they are trained: a learner (:mod:`vision_methods.learner`).

    Parameters
    ----------
    towers : TwoTowers
    batches : PairBatches
    tokenizer : tokenizers.Tokenizer
    context : Context
        Trained as a part of the towers, and not kept: at inference nothing is different.
    alpha : float
        Weight of the base loss.
    self_mask, stop_gradient
        As of :func:`contextualised`.
    **options
        Of :class:`vision_methods.siglip.SigLIP`.
    """

    def __init__(
        self,
        towers: TwoTowers,
        batches: PairBatches,
        tokenizer: Any,
        *,
        context: Context,
        alpha: float,
        self_mask: bool = True,
        stop_gradient: Collection[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(towers, batches, tokenizer, **options)
        towers.add_module("context", context)
        self.alpha, self.self_mask, self.stop_gradient = alpha, self_mask, tuple(stop_gradient)

    @property
    def context(self) -> Context:
        """Temperatures of the contextual loss."""
        context = self.online.context
        assert isinstance(context, Context)
        return context

    def loss(self, batch: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of this process in the loss, and in what tells how it goes.

        Returns
        -------
        loss : Tensor
        numbers : dict of str to Tensor
            Those of SigLIP, ``base`` and ``context``: the two losses, where they have a weight; ``context_scale`` and
            ``context_temperature``.
        """
        vectors, texts = self.embed(batch)
        texts, towers, context = unit(texts), self.online, self.context
        scale = towers.scale if context.log_scale is None else context.log_scale.exp()
        biases: dict[str, Any] = {}
        if self.kind == "sigmoid":
            biases = {"bias": towers.bias, "context_bias": towers.bias if context.bias is None else context.bias}
        found = lixp_loss(
            vectors,
            texts,
            alpha=self.alpha,
            scale=towers.scale,
            context_scale=scale,
            context_temperature=context.temperature,
            self_mask=self.self_mask,
            stop_gradient=self.stop_gradient,
            chunk=self.chunk,
            **biases,
        )
        numbers = self.numbers(unit(vectors), texts)
        numbers |= {name: loss for name, loss in (("base", found.base), ("context", found.context)) if loss is not None}
        own = {"context_scale": scale, "context_temperature": context.temperature}
        numbers |= {name: value.detach() / distributed.world_size() for name, value in own.items()}
        return found.total, numbers

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        """CLIP's scales grow to 100 at most; SigLIP's are free."""
        super().after_step(step, steps)
        if self.kind == "softmax" and self.context.log_scale is not None:
            self.context.log_scale.clamp_(max=math.log(MOST_SCALE))

    def write_besides(self, run: Path) -> None:
        """Both towers, without the context, and the tokenizer, in the run folder."""
        from vision_methods.image_text_run import write_towers

        towers = copy.deepcopy(self.online)
        del towers.context
        write_towers(run, towers, self.tokenizer)


def build(config: LIxPConfig, device: torch.device, *, progress: bool = False) -> LIxP:
    """LIxP of a configuration: its captions, and its towers with initial weights or those of a run.

    Parameters
    ----------
    config : LIxPConfig
    device : torch.device
    progress : bool
        Show progress bars.

    Returns
    -------
    LIxP

    Raises
    ------
    FileNotFoundError, ValueError
        If captions, tokenizer, weights or the run to start from cannot be used, or do not fit the settings.
    """
    corpus = open_corpus(config, progress=progress)
    if config.start_run:
        towers, tokenizer = _towers_of_run(config)
    else:
        tokenizer = open_tokenizer(config, corpus.train)
        towers = make_towers(config, tokenizer)
    sigmoid = config.loss == "sigmoid"
    # Of a run, both losses go on from what it learned.
    scale = float(towers.scale.detach()) if config.start_run else config.start_scale
    context = Context(
        scale=None if config.shared_scale else config.start_context_scale or scale,
        temperature=config.start_context_temperature,
        bias=float(towers.bias.detach()) if sigmoid and not config.shared_bias else None,
    )
    return LIxP(
        towers,
        corpus.batches(config, tokenizer),
        tokenizer,
        context=context,
        alpha=config.alpha,
        self_mask=config.self_mask,
        stop_gradient=config.stop_gradient,
        loss=config.loss,
        chunk=config.chunk,
        precision=config.precision,
        judged=corpus.judged(config, tokenizer),
        about_data=corpus.about,
    ).to(device)


#: Settings that towers of a run have to share with what goes on from them.
_SHAPES = (
    *("backbone", "layer", "latent_width", "loss", "length", "text_weights"),
    *("text_width", "text_depth", "text_heads", "text_pooling"),
)


def _towers_of_run(config: LIxPConfig) -> tuple[TwoTowers, Any]:
    from vision_methods.image_text_run import load_towers

    model = load_towers(config.start_run)
    for name in _SHAPES:
        own, other = getattr(config, name), getattr(model.config, name)
        if own != other:
            raise ValueError(f"{name} is {own!r}, but {other!r} in {config.start_run}; give the same settings.")
    if config.freeze_text:
        model.towers.text.requires_grad_(False)
    return model.towers, model.tokenizer
