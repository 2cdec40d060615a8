"""The settings of a recognition run, and the named presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lcl.config import _check, _check_literals, _setting, plain_settings
from lcl.optimizers import OPTIMIZERS


@dataclass(frozen=True, kw_only=True)
class RecognitionConfig:
    """Settings of a recognition network's training; twins differ in ``front_end`` alone.

    The published recipe was not available to us; every default is ours. Each field's meaning is in its line of
    ``lcl recognize --help``.

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> RecognitionConfig(epochs=5).epochs
    5
    """

    images: str = _setting("", "folder by class (or train/ and val/ of such), FILE.h5[:/DATASET], or tar shards")
    validation_images: str = _setting("", "the same, to judge by; empty: val/ beside train/, else a share held out")
    held_out: float = _setting(0.2, "that share of every class")
    size_px: int = _setting(112, "side of the network's input")
    short_side_px: int = _setting(160, "larger images are scaled down to this short side before they are cropped")
    memory_cap_gb: float = _setting(2.0, "images beyond this are memory-mapped from disk")
    store_cap_gb: float = _setting(64.0, "images beyond this, in memory or on disk, are left out at random")
    store_dir: str = _setting("", "folder that keeps decoded images for the next run; empty: none")

    front_end: str = _setting(
        "supervised", "lcl:RUN, lcl-untrained, supervised, gabor, selfsup or adversarial; :RUN gives the shape of any"
    )
    head: str = _setting("alexnet", "alexnet, or module:function of (in_channels, classes) that returns a torch module")
    head_channels: tuple[int, ...] = _setting((384, 256, 256), "filters of AlexNet's remaining convolutions")
    head_pool: int = _setting(2, "side of the map that its linear layers read")
    head_width: int = _setting(512, "units of its two hidden linear layers")
    head_norm: bool = _setting(True, "batch normalisation in its convolutions")
    dropout: float = _setting(0.5, "share of the inputs of its hidden linear layers that is dropped")

    epochs: int = _setting(20, "passes over the training images with labels")
    batch: int = _setting(64, "images per step, over all processes")
    optimizer: str = _setting("adamw", f"one of {', '.join(OPTIMIZERS)}")
    learning_rate: float = _setting(1e-3, "peak learning rate")
    weight_decay: float = _setting(0.05, "of weights; gains and offsets have none")
    warmup_epochs: float = _setting(2.0, "epochs of linear warm-up before the cosine")
    label_smoothing: float = _setting(0.1, "share of the target spread over all classes")
    mixup: float = _setting(0.0, "alpha of the Beta distribution that pairs of images are mixed by; 0: none")
    crop_area: float = _setting(0.35, "least share of a picture's area in a training crop")
    crop_aspect: float = _setting(4 / 3, "largest aspect ratio of a training crop")
    jitter: float = _setting(0.2, "largest relative change of brightness, contrast and saturation")

    pretrain_epochs: int = _setting(20, "selfsup: epochs without labels before the front end is frozen")
    pretrain_balance: float = _setting(42.0, "selfsup: weight of decorrelation, lambda times (d - 1)")
    pretrain_width: int = _setting(512, "selfsup: size of the three layers between maps and loss")
    epsilon: float = _setting(1.5, "adversarial: L2 norm of the perturbation, of pixels in [0, 1]")
    attack_steps: int = _setting(3, "adversarial: steps of projected gradient ascent")
    attack_step_size: float = _setting(0.75, "adversarial: L2 norm of a step")

    precision: Literal["bf16", "float32"] = _setting("bf16", "of convolutions; losses are always float32")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:1, mps")
    seed: int = _setting(0, "of weights, order and crops of the images")
    log_every: int = _setting(10, "steps between lines of metrics")
    tensorboard: bool = _setting(False, "also write TensorBoard events (extra: track)")

    def __post_init__(self) -> None:
        _check_literals(self)
        for name in ("size_px", "short_side_px", "memory_cap_gb", "store_cap_gb", "head_channels", "head_pool"):
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")
        for name in ("head_width", "epochs", "learning_rate", "pretrain_width", "attack_steps", "log_every"):
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")
        for name in ("weight_decay", "warmup_epochs", "mixup", "pretrain_epochs", "pretrain_balance", "seed"):
            _check(name, getattr(self, name), lambda value: value >= 0, "0 or more")
        for name in ("epsilon", "attack_step_size"):
            _check(name, getattr(self, name), lambda value: value >= 0, "0 or more")
        for name in ("dropout", "label_smoothing", "jitter"):
            _check(name, getattr(self, name), lambda value: 0 <= value < 1, "a share from 0 to below 1")
        _check("head_channels", len(self.head_channels), lambda value: value == 3, "three numbers of filters")
        _check("batch", self.batch, lambda value: value >= 2, "at least 2")
        _check("held_out", self.held_out, lambda value: 0 < value < 1, "a share between 0 and 1")
        _check("crop_area", self.crop_area, lambda value: 0 < value <= 1, "a share of more than 0")
        _check("crop_aspect", self.crop_aspect, lambda value: value >= 1, "at least 1")
        known = ", ".join(OPTIMIZERS)
        _check("optimizer", self.optimizer, lambda value: value in OPTIMIZERS, f"one of {known}")
        if self.head != "alexnet" and ":" not in self.head:
            raise ValueError(f"head is {self.head!r}; expected alexnet or module:function.")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RecognitionConfig:
        """Settings from plain values, as read from JSON.

        Parameters
        ----------
        values : dict
            Names and values; lists become tuples.

        Returns
        -------
        RecognitionConfig

        Raises
        ------
        ValueError
            If a name is unknown.
        """
        return cls(**plain_settings(cls, values))


def quick() -> RecognitionConfig:
    """LCL-V2Net or a twin on some thousand photographs by class, on a laptop.

    Source: our own settings. Command: ``lcl recognize compare --front-ends lcl:RUN supervised --images FOLDER --out
    DIR``. Hardware: 2 CPU cores. Time: 70 seconds per network for 1,500 training images; 11 minutes for three seeds of
    two front ends and eight distortions. Expected: ``docs/recognition.md``.
    """
    return RecognitionConfig()


def imagenet224() -> RecognitionConfig:
    """LCL-V2Net or a twin at 224 px with all of AlexNet's remaining layers.

    Source: AlexNet's layer sizes; the recipe is ours, and not tried at the scale of ImageNet. Command: ``torchrun
    --nproc-per-node 8 -m lcl.cli recognize train imagenet224 --images imagenet --front-end lcl:RUN --out RUN2``.
    Hardware: one to eight GPUs. Time and expected result: not measured.
    """
    return RecognitionConfig(
        size_px=224,
        short_side_px=256,
        head_pool=6,
        head_width=4096,
        epochs=90,
        batch=256,
        warmup_epochs=5.0,
        crop_area=0.08,
        jitter=0.4,
        pretrain_epochs=90,
        pretrain_width=2048,
        epsilon=3.0,
        attack_step_size=1.5,
        log_every=50,
    )


#: Presets by name.
PRESETS: dict[str, Callable[[], RecognitionConfig]] = {"quick": quick, "imagenet224": imagenet224}
