"""ACID and ACED: a small model of pictures and captions that learns from the pairs which a larger one singles out.

Of every super-batch the part is learned from whose loss the learner could lower most, judged by a reference model that
is not trained (:mod:`vision_methods.joint_selection`). Udandarao et al. 2025 read this as implicit distillation; ACED
adds the explicit one of a teacher (:mod:`vision_methods.distillation`) on the same pairs.

Letters in shapes: B pairs of the super-batch, b that are learned from, D features.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lcl import distributed
from lcl.train import counter_generator
from vision_methods.caption_batches import PairBatches, Pairs
from vision_methods.distillation import distillation_loss
from vision_methods.image_text_config import ACIDConfig, ImageTextConfig
from vision_methods.image_text_corpus import Corpus, open_corpus, open_tokenizer
from vision_methods.image_text_run import load_towers
from vision_methods.image_text_scores import embed_pictures, embed_tokens
from vision_methods.joint_selection import SCORES, Embeddings, gumbel_noise, select_independently, select_jointly
from vision_methods.method_run import read_method_config
from vision_methods.scoring_cost import forward_flops, relative_cost
from vision_methods.siglip import SigLIP, TwoTowers, make_towers, unit
from vision_methods.text_tower import tokenize

#: Of references that are trained here: other pictures are made, and other weights drawn, than for learners.
REFERENCE_SEED = 2**33


class SuperBatch(NamedTuple):
    """What a step chooses from.

    Attributes
    ----------
    pairs : Pairs
        Share of this process; the tokens are the learner's.
    captions : Tensor of int64, (B of this process,)
        Numbers of the captions.
    noise : Tensor, (N, B of all processes)
        What decides between pairs, the same on every process.
    """

    pairs: Pairs
    captions: Tensor
    noise: Tensor


class Frozen:
    """Two towers that are not trained, and what they make of the pairs of a corpus.

    Parameters
    ----------
    towers : TwoTowers
        Put in evaluation mode; its parameters get no gradient.
    tokens : Tensor of int64, (caption, length)
        Of all captions of the corpus, by the towers' own tokenizer.
    corpus : Corpus
    size_px : int
        Side of the pictures that the towers see.
    cached : bool
        Embed all pictures and captions once, the pictures' central squares; otherwise the pairs as they come.

    Attributes
    ----------
    flops : int
        Operations for a pair, each time it is asked for: none where they are cached.
    once_flops : int
        Operations before the first step.
    """

    def __init__(self, towers: TwoTowers, tokens: Tensor, corpus: Corpus, *, size_px: int, cached: bool) -> None:
        self.towers, self.tokens = towers.eval().requires_grad_(False), tokens
        self.scale, self.bias = float(towers.scale), float(towers.bias)
        each = tower_flops(towers, size_px, tokens)
        self.flops, self.once_flops = sum(each), 0
        self.cache: tuple[Tensor, Tensor] | None = None
        if cached:
            pictures = np.arange(len(corpus.train))
            self.cache = (
                embed_pictures(towers, corpus.train.store, pictures, size_px=size_px),
                embed_tokens(towers, tokens),
            )
            self.flops, self.once_flops = 0, each[0] * len(pictures) + each[1] * len(tokens)

    @torch.no_grad()
    def __call__(self, pairs: Pairs, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (pair, D) of pictures and of captions."""
        device = self.towers.log_scale.device
        if self.cache is not None:
            index = (pairs.index.cpu(), captions.cpu())
            images, texts = (kept[at].to(device) for kept, at in zip(self.cache, index, strict=True))
            return images, texts
        pictures = pairs.pictures.to(device).float() / 255
        return self.towers.encode_images(pictures), self.towers.encode_texts(self.tokens[captions.cpu()].to(device))


def tower_flops(towers: TwoTowers, size_px: int, tokens: Tensor) -> tuple[int, int]:
    """Operations of a forward pass of one picture and of one caption.

    Parameters
    ----------
    towers : TwoTowers
    size_px : int
    tokens : Tensor, (caption, length)

    Returns
    -------
    picture, caption : int
    """
    device = towers.log_scale.device
    picture = forward_flops(_Part(towers, "picture_vectors"), torch.zeros(1, 3, size_px, size_px, device=device))
    return picture, forward_flops(_Part(towers, "text_vectors"), tokens[:1].to(device))


class _Part(torch.nn.Module):
    """One of two towers as a module."""

    def __init__(self, towers: TwoTowers, method: str) -> None:
        super().__init__()
        self.towers, self.method = towers, method

    def forward(self, given: Tensor) -> Tensor:
        return getattr(self.towers, self.method)(given)


class ACID(SigLIP):
    """Two towers that learn from chosen pairs: a learner (:mod:`vision_methods.learner`).

    Parameters
    ----------
    towers : TwoTowers
    batches : PairBatches
        Super-batches whose tokens are the numbers of the captions, (caption, 1).
    tokens : Tensor of int64, (caption, length)
        Of all captions, for the learner.
    tokenizer : tokenizers.Tokenizer
    select : int
        Pairs that are learned from in a step, over all processes; all of the super-batch: no choice.
    score : str
        Of :data:`vision_methods.joint_selection.SCORES`.
    reference : Frozen or None
        Needed where the score counts its loss.
    jointly : bool
        Choose pairs given the others chosen, in chunks; otherwise each by its own score.
    chunks : int
    gain : float
        Multiplies the scores.
    distill : float
        Weight of the distillation; 0: none.
    teacher : Frozen or None
        Needed to distill.
    clean : ndarray of bool, (picture,), optional
        Truth of made captions; the share of clean ones among those chosen is logged.
    seed : int
        Of the draws.
    **options
        Of :class:`vision_methods.siglip.SigLIP`.

    Raises
    ------
    ValueError
        If a model that is needed is missing, or the numbers of pairs do not fit.
    """

    def __init__(
        self,
        towers: TwoTowers,
        batches: PairBatches,
        tokens: Tensor,
        tokenizer: Any,
        *,
        select: int,
        score: str = "learnability",
        reference: Frozen | None = None,
        jointly: bool = True,
        chunks: int = 16,
        gain: float = 1.0,
        distill: float = 0.0,
        teacher: Frozen | None = None,
        clean: np.ndarray | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(towers, batches, tokenizer, **options)
        chooses = select < batches.batch
        if score not in SCORES:
            raise ValueError(f"score is {score!r}; expected one of {', '.join(SCORES)}.")
        if chooses and SCORES[score][1] and reference is None:
            raise ValueError(f"The score {score} needs a reference; give the run folder of one.")
        if distill and teacher is None:
            raise ValueError(f"Distillation of weight {distill:g} needs a teacher; give the run folder of one.")
        if not 1 <= select <= batches.batch or select % distributed.world_size() or chunks > select:
            raise ValueError(
                f"{select} of {batches.batch} pairs in {chunks} chunks were asked for; expected a multiple of "
                f"{distributed.world_size()} processes, no more pairs than there are and no more chunks than pairs."
            )
        self.tokens, self.select, self.score, self.seed = tokens, select, score, seed
        self.jointly, self.chunks, self.gain, self.distill = jointly, chunks if jointly else 1, gain, distill
        self.reference, self.teacher, self.chooses = reference, teacher, chooses
        self.clean = None if clean is None else torch.from_numpy(clean)
        self.step_flops, self.once_flops = self._flops()

    def _flops(self) -> tuple[float, int]:
        """Operations of a step of all processes, with scoring, and those before the first one."""
        own = sum(tower_flops(self.online, self.batches.size_px, self.tokens))
        with_learner, with_reference = SCORES[self.score]
        relative = relative_cost(
            1 - self.select / self.batches.batch,
            reference=self.reference.flops / own if self.reference and with_reference else 0.0,
            learner_scores=with_learner,
            reuse=False,
            teacher=self.teacher.flops / own if self.teacher and self.distill else 0.0,
        )
        asked = {self.reference if self.chooses and with_reference else None, self.teacher if self.distill else None}
        return 3 * own * self.select * relative, sum(each.once_flops for each in asked if each is not None)

    def draw(self, step: int) -> SuperBatch:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Share of this process in the super-batch of a step."""
        pairs = self.batches(step)
        captions = pairs.tokens[:, 0]
        noise = gumbel_noise((self.chunks, self.batches.batch), counter_generator(self.seed, 9, step))
        return SuperBatch(pairs._replace(tokens=self.tokens[captions]), captions, noise)

    @torch.no_grad()
    def choose(self, batch: SuperBatch) -> Tensor:
        """Pairs to learn from, by their numbers in the super-batch of all processes.

        The learner scores in evaluation mode, without gradient, and is left as it was.

        Parameters
        ----------
        batch : SuperBatch

        Returns
        -------
        Tensor of int64, (b,)
            In ascending order; the same on every process.
        """
        with_learner, with_reference = SCORES[self.score]
        learner = reference = None
        if with_learner:
            modes = {module: module.training for module in self.online.modules()}
            self.online.eval()
            images, texts = (_gather(unit(each)) for each in self.embed(batch.pairs))
            learner = Embeddings(images, texts, float(self.online.scale), float(self.online.bias))
            for module, mode in modes.items():
                module.training = mode
        if with_reference:
            assert self.reference is not None
            images, texts = map(_gather, self.reference(batch.pairs, batch.captions))
            reference = Embeddings(images, texts, self.reference.scale, self.reference.bias)
        noise = batch.noise.to(self.online.log_scale.device)
        choose, noise = (select_jointly, noise) if self.jointly else (select_independently, noise[0])
        chosen = choose(learner, reference, self.select, noise=noise, loss=self.kind, gain=self.gain)
        return chosen.sort().values.cpu()

    def loss(self, batch: SuperBatch) -> tuple[Tensor, dict[str, Tensor]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Share of this process in the loss of the chosen pairs, and in what tells how it goes.

        Returns
        -------
        loss : Tensor
        numbers : dict of str to Tensor
            As of :class:`vision_methods.siglip.SigLIP`; ``gflop``: operations of the step, with scoring;
            ``distillation``: its loss, unweighted; ``clean``: share of chosen pairs whose caption is, where known.
        """
        pairs, captions = batch.pairs, batch.captions
        if self.chooses:
            pairs, captions = self._share(batch, self.choose(batch))
        images, texts = (unit(each) for each in self.embed(pairs))
        loss, numbers = self.contrast(images, texts), self.numbers(images, texts)
        if self.distill:
            assert self.teacher is not None
            extra = distillation_loss(
                images,
                texts,
                *self.teacher(pairs, captions),
                scale=self.online.scale,
                teacher_scale=self.teacher.scale,
                chunk=self.chunk,
            )
            loss, numbers = loss + self.distill * extra, {**numbers, "distillation": extra.detach()}
        shares = {"gflop": loss.new_tensor(self.step_flops / 1e9)}
        if self.clean is not None:
            shares["clean"] = self.clean[pairs.index.cpu()].to(loss).mean()
        return loss, numbers | {name: value / distributed.world_size() for name, value in shares.items()}

    def _share(self, batch: SuperBatch, chosen: Tensor) -> tuple[Pairs, Tensor]:
        """Equal part of this process in the chosen pairs, wherever they are."""
        count = len(batch.captions)
        own = chosen - distributed.rank() * count
        own = own[(own >= 0) & (own < count)]
        parts = [*batch.pairs, batch.captions]
        if distributed.world_size() == 1:
            *found, captions = (each[own] for each in parts)
            return Pairs(*found), captions
        size = self.select // distributed.world_size()
        rows = slice(distributed.rank() * size, (distributed.rank() + 1) * size)
        device = self.online.log_scale.device
        *found, captions = (distributed.gather_over_processes(each[own].to(device))[rows] for each in parts)
        return Pairs(*found), captions


def _gather(vectors: Tensor) -> Tensor:
    return distributed.gather_over_processes(vectors.contiguous())


def reference_config(config: ACIDConfig) -> ImageTextConfig:
    """Settings of a reference that is trained here: those of the learner, but for its data, length and network.

    Parameters
    ----------
    config : ACIDConfig

    Returns
    -------
    ImageTextConfig

    Raises
    ------
    ValueError
        If the learner's captions are read and none are given for the reference.

    Examples
    --------
    >>> reference_config(ACIDConfig(made_noise=0.5)).made_noise
    0.0
    """
    if config.images and not config.reference_images:
        raise ValueError(
            "There are no captions to train the reference with; give --reference-images, or --reference with a run of "
            "`lcl train-method siglip`."
        )
    same = {field.name: getattr(config, field.name) for field in dataclasses.fields(ImageTextConfig)}
    return ImageTextConfig(
        **same
        | {
            "images": config.reference_images,
            "made_noise": 0.0,
            "made_pictures": config.reference_pictures,
            "epochs": config.reference_epochs,
            "backbone": config.reference_backbone or config.backbone,
            "layer": "" if config.reference_backbone else config.layer,
            "seed": REFERENCE_SEED + config.reference_seed,
        }
    )


def open_frozen(run: Path | str, corpus: Corpus, config: ACIDConfig, device: torch.device, *, scores: bool) -> Frozen:
    """Reference or teacher from a run folder.

    Parameters
    ----------
    run : path
        Of ``lcl train-method siglip``.
    corpus : Corpus
        Of the learner.
    config : ACIDConfig
        Of the learner.
    device : torch.device
    scores : bool
        Whether its loss counts, which must then be the learner's kind of loss.

    Returns
    -------
    Frozen

    Raises
    ------
    FileNotFoundError
        If the run is not there, or not finished.
    ValueError
        If it is another kind of run, or does not fit.
    """
    model = load_towers(run, device=device)
    trained = model.config
    if scores and trained.loss != config.loss:
        raise ValueError(f"{run} was trained with the {trained.loss} loss; expected {config.loss}, the learner's.")
    if scores and config.images and not trained.images:
        raise ValueError(f"{run} was trained on made pictures; expected a reference that has seen such captions.")
    if not config.cache and trained.size_px != config.size_px:
        raise ValueError(
            f"{run} sees pictures of {trained.size_px} px, the learner of {config.size_px} px; expected the same size, "
            "or --cache."
        )
    tokens = tokenize(model.tokenizer, corpus.train.flat(), trained.length)
    return Frozen(model.towers, tokens, corpus, size_px=trained.size_px, cached=config.cache)


def train_reference(config: ACIDConfig, *, progress: bool = False) -> None:
    """Train the reference of a configuration, or go on with it, unless its run folder is finished.

    Parameters
    ----------
    config : ACIDConfig
    progress : bool

    Raises
    ------
    ValueError
        If there is no folder for it, or nothing to train it on.
    """
    from vision_methods.train import train_method

    if not config.reference:
        raise ValueError(
            f"The score {config.score} needs a reference; give --reference with a run of `lcl train-method siglip`, or "
            "with a folder that does not exist yet, to train one there."
        )
    run = Path(config.reference)
    done, begun = ((run / name).exists() for name in ("weights.safetensors", "state.safetensors"))
    distributed.barrier()  # before a process makes what another looks for
    if done:
        return
    if begun:
        name, settings, _ = read_method_config(run)
        if name != "siglip":
            raise ValueError(f"{run} is a run of {name}; expected one of siglip.")
    else:
        settings = reference_config(config)
    train_method("siglip", settings, run, resume=begun, progress=progress)


def build(config: ACIDConfig, device: torch.device, *, progress: bool = False) -> ACID:
    """ACID of a configuration: its captions, its reference, trained if it has to be, and towers with initial weights.

    Parameters
    ----------
    config : ACIDConfig
    device : torch.device
    progress : bool
        Show progress bars.

    Returns
    -------
    ACID

    Raises
    ------
    FileNotFoundError, ValueError
        If captions, tokenizer, reference or teacher cannot be used, or do not fit the settings.
    """
    scores = config.filter_ratio > 0 and SCORES[config.score][1]
    teaches = config.distill > 0
    if scores or (teaches and not config.teacher):
        train_reference(config, progress=progress)
    corpus = open_corpus(config, progress=progress)
    tokenizer = open_tokenizer(config, corpus.train)
    frozen: dict[str, Frozen] = {}
    for run, use in ((config.reference, scores), (config.teacher or config.reference, teaches)):
        if use and run not in frozen:
            frozen[run] = open_frozen(run, corpus, config, device, scores=scores and run == config.reference)
    batches = PairBatches(
        corpus.train,
        torch.arange(len(corpus.train.flat()))[:, None],
        batch=config.super_batch,
        size_px=config.size_px,
        least_area=config.least_area,
        aspect=config.aspect,
        mirror=config.mirror,
        seed=config.seed,
    )
    learner = ACID(
        make_towers(config, tokenizer),
        batches,
        tokenize(tokenizer, corpus.train.flat(), config.length),
        tokenizer,
        select=config.batch,
        score=config.score,
        reference=frozen.get(config.reference) if scores else None,
        jointly=config.jointly,
        chunks=min(config.chunks, config.batch),
        gain=config.gain,
        distill=config.distill,
        teacher=frozen.get(config.teacher or config.reference) if teaches else None,
        clean=None if corpus.truth is None else corpus.truth.clean,
        seed=config.seed,
        loss=config.loss,
        chunk=config.chunk,
        precision=config.precision,
        judged=corpus.judged(config, tokenizer),
    ).to(device)
    by = config.score if config.filter_ratio else "chance"
    learner.about_data = (
        f"{corpus.about}\n{config.batch} of {config.super_batch} pairs by {by}; a step takes "
        f"{learner.step_flops / 1e9:.4g} Gflop, {learner.once_flops / 1e9:.4g} were spent before the first"
    )
    return learner
