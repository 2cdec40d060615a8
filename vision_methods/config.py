"""The settings of the comparison methods; their presets are in :mod:`vision_methods.presets`.

What all methods are told is in :class:`MethodConfig`; each method adds its own. Only this module, the training loop,
each method's ``build`` and the command line know about configurations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from lcl.config import _check, _check_literals, _setting, plain_settings
from lcl.optimizers import OPTIMIZERS
from vision_methods.backbones import BACKBONES
from vision_methods.vit import VITS

Settings = TypeVar("Settings", bound="MethodConfig")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Settings that all methods have.

    Each field's meaning is in its line of ``lcl train-method METHOD --help``.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    _backbones: ClassVar[Sequence[str]] = tuple(BACKBONES)

    images: str = _setting("", "folder (or train/ and val/ by class), FILE.h5[:/DATASET] or DIR/*.tar")
    validation_images: str = _setting("", "labelled pictures to judge by; empty: val/ beside train/, or held out")
    held_out: float = _setting(0.2, "share of every class to judge by, where pictures have labels and no val/")
    size_px: int = _setting(96, "side of the views")
    short_side_px: int = _setting(160, "larger images are scaled down to this short side before they are cropped")
    memory_cap_gb: float = _setting(2.0, "images beyond this are memory-mapped from disk")
    store_cap_gb: float = _setting(64.0, "images beyond this, in memory or on disk, are left out at random")
    store_dir: str = _setting("", "folder that keeps decoded images for the next run; empty: none")

    backbone: str = _setting("alexnet", f"network that is trained: {', '.join(BACKBONES)}")
    layer: str = _setting("", "layer that the method reads; empty: the last")
    pixels_per_degree: float = _setting(28.0, "of its input when it is measured, as of the other models of lcl")
    hidden_width: int = _setting(512, "units between the two layers of projector and predictor")
    latent_width: int = _setting(128, "units of what is compared")

    epochs: int = _setting(20, "passes over the images")
    batch: int = _setting(64, "pictures per step, over all processes")
    optimizer: str = _setting("adamw", f"one of {', '.join(OPTIMIZERS)}")
    learning_rate: float = _setting(1e-3, "peak learning rate")
    weight_decay: float = _setting(1e-2, "of weights; gains and offsets have none")
    warmup_epochs: float = _setting(1.0, "epochs of linear warm-up, from 0, before the cosine")
    keep: float = _setting(0.99, "share of the old target network that a step keeps at first; 1 at the end")
    temperature: float = _setting(0.1, "that similarities are divided by")
    photometric: str = _setting("byol", "photometric changes of the two views: byol, simclr, none")
    least_area: float = _setting(0.08, "least share of a picture's area in a view")
    aspect: float = _setting(4 / 3, "largest aspect ratio of a view")

    judge_every: int = _setting(1, "epochs between accuracies on pictures with labels; 0: none")
    judge_most: int = _setting(5000, "at most so many pictures with labels, of each kind, are judged")
    precision: Literal["bf16", "float32"] = _setting("bf16", "of networks; losses are always float32")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:1, mps")
    seed: int = _setting(0, "of weights, order and views of the images")
    save_every: int = _setting(200, "steps between resumable states")
    log_every: int = _setting(10, "steps between lines of metrics")
    tensorboard: bool = _setting(False, "also write TensorBoard events (extra: track)")

    def __post_init__(self) -> None:
        _check_literals(self)
        for name in ("size_px", "short_side_px", "memory_cap_gb", "store_cap_gb", "pixels_per_degree", "hidden_width"):
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")
        for name in ("latent_width", "epochs", "learning_rate", "temperature", "judge_most", "save_every", "log_every"):
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")
        for name in ("weight_decay", "warmup_epochs", "judge_every", "seed"):
            _check(name, getattr(self, name), lambda value: value >= 0, "0 or more")
        _check("batch", self.batch, lambda value: value >= 2, "at least 2")
        _check("keep", self.keep, lambda value: 0 <= value <= 1, "a share from 0 to 1")
        _check("held_out", self.held_out, lambda value: 0 < value < 1, "a share between 0 and 1")
        _check("least_area", self.least_area, lambda value: 0 < value <= 1, "a share of more than 0")
        _check("aspect", self.aspect, lambda value: value >= 1, "at least 1")
        for name, choices in (("optimizer", OPTIMIZERS), ("backbone", self._backbones)):
            known = ", ".join(choices)
            _check(name, getattr(self, name), lambda value, choices=choices: value in choices, f"one of {known}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls: type[Settings], values: dict[str, Any]) -> Settings:
        """Settings from plain values, as read from JSON.

        Parameters
        ----------
        values : dict
            Names and values; lists become tuples.

        Returns
        -------
        MethodConfig
            Of the class it is called on.

        Raises
        ------
        ValueError
            If a name is unknown.
        """
        return cls(**plain_settings(cls, values))


@dataclass(frozen=True, kw_only=True)
class DetConConfig(MethodConfig):
    """Settings of DetCon (:mod:`vision_methods.detcon`).

    Examples
    --------
    >>> DetConConfig(variant="S").samples
    16
    """

    variant: Literal["B", "S"] = _setting("B", "B: momentum target and predictor; S: one network")
    masks: str = _setting("fh", "fh, grid, whole, module:function, or a folder of PNG label maps named as the pictures")
    fh_scale: float = _setting(1000.0, "fh: scale; larger gives fewer, larger segments")
    fh_min_size: int = _setting(1000, "fh: least pixels of a segment")
    grid_cells: int = _setting(5, "grid: cells along each side")
    shuffle_masks: bool = _setting(False, "control: every picture has the masks of another")
    mask_dir: str = _setting("", "folder that keeps masks for the next run; empty: none")
    samples: int = _setting(16, "masks drawn from each view, with replacement")
    pooling: Literal["hard", "soft"] = _setting("hard", "each cell belongs to one mask, or to masks by their share")
    local_negatives: bool = _setting(True, "other masks of the same picture are negatives")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("fh_scale", "fh_min_size", "grid_cells", "samples"):
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")


@dataclass(frozen=True, kw_only=True)
class OdinConfig(MethodConfig):
    """Settings of Odin (:mod:`vision_methods.odin`).

    Examples
    --------
    >>> OdinConfig(clusters=8).discovery_rate
    0.01
    """

    clusters: int = _setting(16, "masks of a picture: clusters of the discovery network's responses")
    span_px: int = _setting(160, "side that the window which spans both views is scaled to, for the discovery network")
    cluster_on: Literal["features", "projections"] = _setting("features", "what is clustered: backbone, or projector")
    spherical: bool = _setting(True, "k-means of directions; otherwise of the responses as they are")
    kmeans_start: Literal["k-means++", "random"] = _setting("k-means++", "how first centres are drawn")
    kmeans_iterations: int = _setting(20, "at most so many")
    pooling: Literal["hard", "soft"] = _setting("hard", "each cell belongs to one mask, or to masks by their share")
    discovery_rate: float = _setting(0.01, "share of the online network mixed into the discovery network at each step")
    copy_epochs: int = _setting(0, "epochs between copies of the online network instead; 0: the rate above")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clusters", "span_px", "kmeans_iterations"):
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")
        _check("discovery_rate", self.discovery_rate, lambda value: 0 <= value <= 1, "a share from 0 to 1")
        _check("copy_epochs", self.copy_epochs, lambda value: value >= 0, "0 or more")


@dataclass(frozen=True, kw_only=True)
class VITOConfig(MethodConfig):
    """Settings of VITO (:mod:`vision_methods.vito`), and of MoCLR, its special case.

    Examples
    --------
    >>> VITOConfig().max_gap_s
    2.56
    """

    images: str = _setting("", "folder with video files and folders of frames, or one video file")
    validation_images: str = _setting("", "labelled pictures to judge by; empty: held-out frames, by their clip")
    held_out: float = _setting(0.2, "share of every clip, its middle, or of every class of pictures that is judged by")
    least_area: float = _setting(0.4, "least share of a picture's area in a view")

    still: bool = _setting(False, "the images are pictures, each a clip of one frame")
    clip_table: str = _setting("", "CSV of vision_methods.curation with the clips to take; empty: all")
    skip: tuple[str, ...] = _setting(("masks", "annotations"), "folders and files left out, by name, with * and ?")
    frames_per_s: float = _setting(0.0, "at most so many frames of a second are kept; 0: all")
    first_s: float = _setting(0.0, "only so many seconds of a recording are kept; 0: all")
    segment_s: float = _setting(0.0, "recordings are divided into clips this long, told apart from each other; 0: no")
    assumed_fps: float = _setting(25.0, "frame rate of folders of frames")
    max_gap_s: float = _setting(2.56, "largest distance in time of the two frames")
    pairs_per_clip: int = _setting(1, "pairs of every clip in an epoch")
    pooling: Literal["attention", "mean"] = _setting("attention", "how maps are pooled")
    lower_layers: tuple[str, ...] = _setting((), "layers that are pooled besides; each has a loss")
    zero_last: bool = _setting(False, "attention begins as the mean")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("frames_per_s", "first_s", "segment_s", "max_gap_s"):
            _check(name, getattr(self, name), lambda value: value >= 0, "0 or more")
        for name in ("assumed_fps", "pairs_per_clip"):
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")


@dataclass(frozen=True, kw_only=True)
class HummingbirdConfig(MethodConfig):
    """Settings of the reconstruction of Hummingbird's pretraining (:mod:`vision_methods.hummingbird`).

    None of the values is confirmed: of the paper only the names and roles of context and attention pooling are known.

    Examples
    --------
    >>> HummingbirdConfig(context_share=0, pooling="mean").memory_pictures
    1024
    """

    _backbones: ClassVar[Sequence[str]] = (*BACKBONES, *VITS)

    backbone: str = _setting("toy", f"network that is trained: {', '.join((*BACKBONES, *VITS))}")
    size_px: int = _setting(64, "side of the views")
    supervised: bool = _setting(False, "learn the classes of the pictures, without contrast")
    context_share: float = _setting(0.2, "of what places read from other pictures; 0: none")
    context_temperature: float = _setting(0.1, "that cosines with the memory are divided by")
    memory_pictures: int = _setting(1024, "past pictures that are remembered; 0: none")
    pooling: Literal["attention", "mean"] = _setting("attention", "how places are pooled")
    value_projection: bool = _setting(True, "pooled places are projected")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("context_share", self.context_share, lambda value: 0 <= value <= 1, "a share from 0 to 1")
        _check("context_temperature", self.context_temperature, lambda value: value > 0, "a positive number")
        _check("memory_pictures", self.memory_pictures, lambda value: value >= 0, "0 or more")


@dataclass(frozen=True, kw_only=True)
class MCViTConfig(MethodConfig):
    """Settings of MC-ViT (:mod:`vision_methods.mcvit`), and of the models it is compared with.

    Settings of two views, heads and targets, which other methods have, are not its own, and are refused.

    Examples
    --------
    >>> MCViTConfig(memory="everything").segment_frames
    16
    """

    _backbones: ClassVar[Sequence[str]] = ("vit",)

    images: str = _setting("", "folder with video files and folders of frames; empty: made delayed match to sample")
    backbone: str = _setting("vit", "a video transformer of the sizes below")
    held_out: float = _setting(0.2, "share of every clip, its middle, or of every folder's clips that is judged by")
    classes_by: Literal["clip", "folder"] = _setting("clip", "every clip is a class, or its folder")
    skip: tuple[str, ...] = _setting(("masks", "annotations"), "folders and files left out, by name, with * and ?")
    frames_per_s: float = _setting(0.0, "at most so many frames of a second are kept; 0: all")
    size_px: int = _setting(8, "side of the frames, a multiple of patch_px; of made ones an even number")
    weights: str = _setting("", "safetensors of a transformer of pictures or videos to start from; empty: none")

    patch_px: int = _setting(4, "side of a patch")
    tubelet: int = _setting(2, "frames of a tubelet")
    width: int = _setting(48, "features of a token")
    depth: int = _setting(2, "blocks")
    heads: int = _setting(3, "of attention")
    mlp_ratio: float = _setting(2.0, "hidden units of a block's two-layer network over width")
    class_token: bool = _setting(False, "a class token in every segment, as networks of pictures have")
    latent_width: int = _setting(48, "features of the vectors that are compared")

    frames: int = _setting(64, "of a video")
    segment_frames: int = _setting(16, "read at a time")
    memory: Literal["consolidated", "everything", "none", "joint"] = _setting(
        "consolidated", "MC-ViT; everything: all tokens of earlier segments; none; joint: a video is one segment"
    )
    kept: int = _setting(2, "tokens kept of a segment in every block")
    consolidation: Literal["kmeans", "coreset", "random"] = _setting("kmeans", "how tokens are consolidated")
    detach_memory: bool = _setting(False, "no gradient passes from a segment to those before")
    short_epochs: int = _setting(8, "epochs at first with videos of one segment")
    videos_per_epoch: int = _setting(2560, "drawn in an epoch")

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("patch_px", "tubelet", "width", "depth", "heads", "mlp_ratio", "frames", "segment_frames")
        for name in (*names, "kept", "videos_per_epoch"):
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")
        for name in ("short_epochs", "frames_per_s"):
            _check(name, getattr(self, name), lambda value: value >= 0, "0 or more")
        _check("segment_frames", self.segment_frames, lambda value: value % self.tubelet == 0, "whole tubelets")
        _check("frames", self.frames, lambda value: value % self.tubelet == 0, "whole tubelets")
        defaults = MethodConfig()
        for name in ("validation_images", "short_side_px", "layer", "hidden_width", *_TWO_VIEWS):
            if getattr(self, name) != getattr(defaults, name):
                raise ValueError(f"{name} is no setting of MC-ViT; leave it out.")


#: Settings of methods that compare two views of a picture.
_TWO_VIEWS = ("keep", "photometric", "least_area", "aspect")
