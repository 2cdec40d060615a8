"""The settings of the methods that learn from pictures and their captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from lcl.config import _check, _setting
from vision_methods.backbones import BACKBONES
from vision_methods.config import MethodConfig
from vision_methods.vit import VITS

#: Settings of methods that compare two views of a picture.
_TWO_VIEWS = ("keep", "photometric", "hidden_width", "temperature")
#: Ways of gradients from what a picture reads back to pictures.
CONTEXT_PATHS = ("queries", "keys", "values")


@dataclass(frozen=True, kw_only=True)
class ImageTextConfig(MethodConfig):
    """Settings of contrastive learning of pictures and captions (:mod:`vision_methods.siglip`).

    Settings of two views and their heads, which other methods have, are not its own, and are refused.

    Examples
    --------
    >>> ImageTextConfig(loss="softmax").first_bias
    0.0
    >>> round(ImageTextConfig(batch=64).first_bias, 2)
    -4.14
    """

    _backbones: ClassVar[Sequence[str]] = (*BACKBONES, *VITS)

    images: str = _setting("", "captions: COCO JSON, FILE.csv, FILE.jsonl or DIR/*.tar; empty: made pictures")
    image_dir: str = _setting("", "folder that the pictures' names start from; empty: the file's, or images/ in it")
    validation_images: str = _setting("", "captions to judge by; empty: held_out of the images")
    held_out: float = _setting(0.1, "share of the pictures to judge by")
    size_px: int = _setting(32, "side of the pictures")
    least_area: float = _setting(1.0, "least share of a picture's area that is seen; 1: the central square")
    mirror: bool = _setting(False, "half of the pictures are mirrored, whatever their captions say of left and right")
    made_pictures: int = _setting(20_000, "pictures that are made where none are given")
    made_noise: float = _setting(0.0, "share of made pictures whose caption is wrong (vision_methods.made_captions)")

    backbone: str = _setting("conv4", f"network of pictures: {', '.join((*BACKBONES, *VITS))}")
    latent_width: int = _setting(128, "features of the space that pictures and texts share")
    text_weights: str = _setting("", "folder of a CLIP text model of transformers (extra: text); empty: one of ours")
    freeze_text: bool = _setting(False, "the text tower, but for its last layer, keeps its first weights")
    tokenizer: str = _setting("", "tokenizer.json; empty: of text_weights, or learned from the captions (extra: text)")
    vocabulary: int = _setting(2048, "at most so many tokens are learned")
    length: int = _setting(24, "tokens of a text; more are cut off")
    text_width: int = _setting(128, "features of a token")
    text_depth: int = _setting(2, "blocks of the text tower")
    text_heads: int = _setting(4, "of attention")
    text_pooling: Literal["mean", "last"] = _setting("mean", "a text is the mean of its tokens, or its last one")

    loss: Literal["sigmoid", "softmax"] = _setting("sigmoid", "sigmoid: SigLIP; softmax: CLIP")
    start_scale: float = _setting(10.0, "that cosines are multiplied with at first; it is learned")
    start_bias: float = _setting(0.0, "sigmoid: added to them at first; 0: -log(batch - 1); it is learned")
    chunk: int = _setting(0, "pictures whose similarities with all texts are held at a time; 0: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("made_pictures", "vocabulary", "length", "text_width", "text_depth", "text_heads", "start_scale")
        for name in names:
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")
        _check("chunk", self.chunk, lambda value: value >= 0, "0 or more")
        _check("made_noise", self.made_noise, lambda value: 0 <= value <= 1, "a share from 0 to 1")
        defaults = MethodConfig()
        for name in _TWO_VIEWS:
            if getattr(self, name) != getattr(defaults, name):
                raise ValueError(f"{name} is no setting of methods of pictures and texts; leave it out.")

    @property
    def first_bias(self) -> float:
        """Bias at the start: as given, else the logit of 1 / batch, the share of pairs that belong together."""
        if self.loss == "softmax":
            return 0.0
        return self.start_bias or -math.log(self.batch - 1)


@dataclass(frozen=True, kw_only=True)
class LIxPConfig(ImageTextConfig):
    """Settings of LIxP (:mod:`vision_methods.lixp`).

    Examples
    --------
    >>> LIxPConfig(loss="softmax").alpha
    0.9
    """

    alpha: float = _setting(0.9, "weight of the base loss, the rest is the context's; 1: SigLIP or CLIP")
    start_context_scale: float = _setting(0.0, "of the contextual loss, at first; 0: start_scale; it is learned")
    start_context_temperature: float = _setting(
        0.02, "that cosines of pictures with pictures are divided by, with sqrt(latent_width), at first; it is learned"
    )
    shared_scale: bool = _setting(False, "for comparison: one scale for both losses, which costs zero-shot accuracy")
    shared_bias: bool = _setting(False, "sigmoid: one bias for both losses")
    self_mask: bool = _setting(True, "no picture reads from itself")
    stop_gradient: tuple[str, ...] = _setting((), "for comparison: queries, keys, values that no gradient passes")
    start_run: str = _setting("", "run of siglip or lixp with these settings that training goes on from; empty: none")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("alpha", self.alpha, lambda value: 0 <= value <= 1, "a weight from 0 to 1")
        _check("start_context_scale", self.start_context_scale, lambda value: value >= 0, "0 or more")
        _check(
            "start_context_temperature", self.start_context_temperature, lambda value: value > 0, "a positive number"
        )
        known = ", ".join(CONTEXT_PATHS)
        _check("stop_gradient", self.stop_gradient, lambda value: value in CONTEXT_PATHS, f"some of {known}")


@dataclass(frozen=True, kw_only=True)
class ACIDConfig(ImageTextConfig):
    """Settings of ACID and ACED (:mod:`vision_methods.acid`).

    Examples
    --------
    >>> ACIDConfig(batch=32_768).super_batch
    163840
    """

    filter_ratio: float = _setting(0.8, "share of the super-batch that is thrown away; 0: all pairs are learned from")
    score: Literal["learnability", "easy-reference", "hard-learner"] = _setting(
        "learnability", "H-ACID: hard for the learner, easy for the reference; I-ACID: easy-reference; or hard-learner"
    )
    jointly: bool = _setting(True, "pairs are chosen given the others; otherwise each by its own score")
    chunks: int = _setting(16, "parts that a batch is chosen in")
    gain: float = _setting(100.0, "that scores are multiplied with; 0: pairs are chosen by chance")
    reference: str = _setting("", "run of `lcl train-method siglip`; trained there if the folder does not exist")
    reference_images: str = _setting("", "captions that a reference is trained on; empty: made pictures without noise")
    reference_pictures: int = _setting(20_000, "pictures that are made for it")
    reference_epochs: int = _setting(10, "passes over them")
    reference_backbone: str = _setting("", "its network of pictures; empty: the learner's")
    reference_seed: int = _setting(0, "of its weights and made pictures; others than the learner's in any case")
    cache: bool = _setting(True, "reference and teacher see every pair once, before training, as central squares")
    distill: float = _setting(0.0, "weight of the distillation of the teacher's matches; 0: ACID, more: ACED")
    teacher: str = _setting("", "run that is distilled; empty: the reference")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("filter_ratio", self.filter_ratio, lambda value: 0 <= value < 1, "a share from 0 to below 1")
        for name in ("chunks", "reference_pictures", "reference_epochs"):
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")
        for name in ("gain", "distill", "reference_seed"):
            _check(name, getattr(self, name), lambda value: value >= 0, "0 or more")
        if self.reference_backbone:
            known = ", ".join(self._backbones)
            _check(
                "reference_backbone", self.reference_backbone, lambda name: name in self._backbones, f"one of {known}"
            )

    @property
    def super_batch(self) -> int:
        """Pairs that a batch is chosen from."""
        return round(self.batch / (1 - self.filter_ratio))


@dataclass(frozen=True, kw_only=True)
class ThreeWaysConfig(MethodConfig):
    """Settings of the open-vocabulary detector (:mod:`vision_methods.three_ways`).

    Examples
    --------
    >>> ThreeWaysConfig(gated=False).variants
    64
    """

    images: str = _setting("", "boxes as in COCO's FILE.json; empty: made pictures")
    image_dir: str = _setting("", "folder that the pictures' names start from; empty: the file's, or images/ in it")
    validation_images: str = _setting("", "boxes to judge by, as in COCO's FILE.json; empty: held_out of the images")
    size_px: int = _setting(64, "side of the frames that whole pictures are scaled to fit")
    held_out_words: tuple[str, ...] = _setting(
        (), "classes with these names or words show no box; lvis:rare: LVIS's rare"
    )
    towers: str = _setting("", "run of `lcl train-method siglip` to start from; trained there if it does not exist")
    made_pictures: int = _setting(1500, "pictures with boxes that are made where none are given")

    backbone: str = _setting("conv4", f"network of pictures of the towers: {', '.join(BACKBONES)}")
    layers: tuple[str, ...] = _setting(("conv2", "conv4"), "layers that the pyramid stands on, the finest first")
    beyond: int = _setting(1, "levels beyond the last layer")
    depth: int = _setting(2, "blocks of each tower of the head")
    level_range: float = _setting(8.0, "farthest side of a box from its location, in strides of its level")
    freeze_backbone: bool = _setting(True, "the network of pictures keeps its weights")
    gated: bool = _setting(True, "shortcuts beside every new layer; otherwise an ordinary pyramid and head")
    start_scale: float = _setting(1 / 0.07, "that cosines are multiplied with at first; it is learned")

    prompts: tuple[str, ...] = _setting(
        ("{}", "a {}", "a picture of a {}", "a photo of a {}", "here we see a {}"), "forms that a name is put into"
    )
    variants: int = _setting(64, "text vectors of each class to draw from; 1, with no dropout: no augmentation")
    text_dropout: float = _setting(0.1, "of the variants")

    teacher: str = _setting("", "run of three-ways whose boxes of captions are trained on; empty: no self-training")
    captions: str = _setting("", "captioned pictures for it, as of siglip; empty: made pictures")
    caption_dir: str = _setting("", "folder that their names start from")
    made_captioned: int = _setting(3000, "captioned pictures that are made where none are given")
    caption_batch: int = _setting(16, "captioned pictures of a step, over all processes")
    caption_weight: float = _setting(1.0, "of their loss")
    least_score: float = _setting(0.1, "boxes of captions with lower scores are left out")

    least_zoom: float = _setting(1.0, "pictures are scaled down to so much of their frame at most; 1: never")
    mirror: bool = _setting(True, "half of the pictures are mirrored")

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("made_pictures", "level_range", "start_scale", "variants", "made_captioned", "caption_batch", "depth")
        for name in names:
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")
        for name in ("beyond", "caption_weight", "least_score"):
            _check(name, getattr(self, name), lambda value: value >= 0, "0 or more")
        _check("text_dropout", self.text_dropout, lambda value: 0 <= value < 1, "a share from 0 to below 1")
        _check("least_zoom", self.least_zoom, lambda value: 0 < value <= 1, "a share of more than 0")
        if not self.prompts or not all("{}" in prompt for prompt in self.prompts):
            raise ValueError(f"prompts is {self.prompts!r}; expected at least one, each with {{}} for the name.")
        defaults = MethodConfig()
        for name in (*_TWO_VIEWS, "latent_width", "layer"):
            if getattr(self, name) != getattr(defaults, name):
                raise ValueError(f"{name} is no setting of three-ways; leave it out.")
