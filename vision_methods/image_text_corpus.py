"""The captions of a configuration: those it trains on, those it is judged by, and how they are cut into tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lcl import distributed
from vision_methods.caption_batches import PairBatches
from vision_methods.captions import Captions, of_made, read_captions
from vision_methods.image_text_config import ImageTextConfig
from vision_methods.image_text_scores import embed_pictures, embed_tokens, mean_vectors, retrieval
from vision_methods.made_captions import JUDGED, MadeTruth, made_captions, made_prompts
from vision_methods.text_tower import load_tokenizer, tokenize, train_tokenizer

#: Prompts of every class that made pictures are judged by.
PROMPTS = 16


@dataclass(frozen=True, eq=False)
class Corpus:
    """Captions.

    Attributes
    ----------
    train, held : Captions
        To train on, and to judge by.
    about : str
        A line for the user.
    truth, held_truth : MadeTruth or None
        Of made pictures: what they show, and which captions are spoiled. None of ``held`` is.
    """

    train: Captions
    held: Captions
    about: str
    truth: MadeTruth | None = None
    held_truth: MadeTruth | None = None

    def batches(self, config: ImageTextConfig, tokenizer: Any, *, batch: int | None = None) -> PairBatches:
        """Batches of the training pairs, of the configuration's size or another."""
        return PairBatches(
            self.train,
            tokenize(tokenizer, self.train.flat(), config.length),
            batch=batch or config.batch,
            size_px=config.size_px,
            least_area=config.least_area,
            aspect=config.aspect,
            mirror=config.mirror,
            seed=config.seed,
        )

    def judged(self, config: ImageTextConfig, tokenizer: Any) -> Judged:
        """What two towers are judged by at the end of an epoch."""
        return Judged(self, tokenizer, size_px=config.size_px, length=config.length, most=config.judge_most)


def open_corpus(config: ImageTextConfig, *, progress: bool = False) -> Corpus:
    """Captions of a configuration: read and decoded once, or made.

    Parameters
    ----------
    config : ImageTextConfig
    progress : bool
        Show progress bars.

    Returns
    -------
    Corpus

    Raises
    ------
    FileNotFoundError, ValueError
        If they cannot be used.
    """
    if not config.images:
        if config.validation_images or config.image_dir:
            raise ValueError("validation_images and image_dir are for captions that are read; give --images too.")
        made = made_captions(config.made_pictures, seed=config.seed, size_px=config.size_px, noise=config.made_noise)
        # Of another seed than any run's: runs of all seeds are judged by the same pictures.
        held = made_captions(max(2, min(config.judge_most, 2000)), seed=2**40, size_px=config.size_px, noise=0)
        about = f"{len(made.captions)} made pictures, {made.truth.clean.mean():.3g} of them with their own caption"
        return Corpus(of_made(made), of_made(held), about, made.truth, held.truth)
    options = {
        "image_dir": config.image_dir,
        "short_side_px": config.short_side_px,
        "memory_cap_bytes": int(config.memory_cap_gb * 2**30),
        "store_cap_bytes": int(config.store_cap_gb * 2**30),
        "store_dir": config.store_dir or None,
        "progress": progress and distributed.rank() == 0,
    }
    everything = read_captions(config.images, **options)
    if config.validation_images:
        train, held = everything, read_captions(config.validation_images, **options)
    else:
        train, held = everything.divided(config.held_out, seed=0)
    about = (
        f"{everything.store.summary()}\n{len(train.flat())} captions of {len(train)} pictures; {len(held)} to judge by"
    )
    return Corpus(train, held, about)


def open_tokenizer(config: ImageTextConfig, captions: Captions) -> Any:
    """Tokenizer of a configuration: the one that is named, that of the CLIP folder, or one learned from captions.

    Parameters
    ----------
    config : ImageTextConfig
    captions : Captions

    Returns
    -------
    tokenizers.Tokenizer

    Raises
    ------
    FileNotFoundError, ValueError
        As of :mod:`vision_methods.text_tower`.
    """
    if config.tokenizer or config.text_weights:
        return load_tokenizer(config.tokenizer or config.text_weights)
    return train_tokenizer(captions.flat(), config.vocabulary)


class Judged:
    """What two towers are judged by: held-out pairs and, of made pictures, their attributes named by prompts.

    Parameters
    ----------
    corpus : Corpus
    tokenizer : tokenizers.Tokenizer
    size_px, length : int
        Of pictures and texts.
    most : int
        At most so many pictures.
    """

    def __init__(self, corpus: Corpus, tokenizer: Any, *, size_px: int, length: int, most: int) -> None:
        chosen = np.sort(np.random.default_rng(0).permutation(len(corpus.held))[:most])
        self.held, self.size_px = corpus.held.subset(chosen), size_px
        self.tokens = tokenize(tokenizer, self.held.flat(), length)
        self.classes: dict[str, tuple[Tensor, Tensor]] = {}  # labels of the pictures; tokens (class, prompt, length)
        if corpus.held_truth is not None:
            for name in JUDGED:
                prompts = made_prompts(name, count=PROMPTS)
                tokens = torch.stack([tokenize(tokenizer, texts, length) for texts in prompts.values()])
                self.classes[name] = torch.from_numpy(corpus.held_truth.attributes[name][chosen]), tokens

    def __call__(self, towers: torch.nn.Module) -> dict[str, float]:
        """Scores of two towers; every process encodes its share.

        Parameters
        ----------
        towers : TwoTowers
            Left in evaluation mode.

        Returns
        -------
        dict of str to float
            ``accuracy`` and ``chance``: of made pictures, the mean over attributes of the accuracy of classes named by
            prompts, each of which is there besides (``colour`` and so on); else the mean recall at 1 of both
            directions, besides what :func:`vision_methods.image_text_scores.retrieval` finds.
        """
        device = next(towers.parameters()).device
        own = np.array_split(np.arange(len(self.held)), distributed.world_size())[distributed.rank()]
        images = embed_pictures(towers, self.held.store, own, size_px=self.size_px).to(device)
        images = distributed.gather_over_processes(images).cpu()
        if not self.classes:
            scores = retrieval(images, embed_tokens(towers, self.tokens), self.held.owners())
            mean = {
                start: (scores[f"{start}image_to_text_at_1"] + scores[f"{start}text_to_image_at_1"]) / 2
                for start in ("", "chance_")
            }
            return {"accuracy": mean[""], "chance": mean["chance_"], **scores}
        found = {}
        for name, (labels, tokens) in self.classes.items():
            vectors = mean_vectors(embed_tokens(towers, tokens.flatten(0, 1)), [tokens.shape[1]] * len(tokens))
            found[name] = float(((images @ vectors.T).argmax(1) == labels).double().mean())
        chance = np.mean([1 / len(tokens) for _, tokens in self.classes.values()])
        return {"accuracy": float(np.mean(list(found.values()))), "chance": float(chance), **found}
