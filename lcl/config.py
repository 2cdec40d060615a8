"""The settings of a training run, and the named presets.

Only this module and the command line know about configurations; everything else takes built parts and plain values.
A value that stages may differ in is a tuple: one entry for all stages, or one per stage from the bottom up.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lcl.objective import PROJECTORS, READOUTS
from lcl.optimizers import OPTIMIZERS
from lcl.stages import POOLS
from lcl.views import Deformation, reference_px


def _setting(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a training run.

    The published model's settings were not available to us; every default is ours, chosen by the experiment in
    ``benchmarks/quick_settings.py`` where it concerns learning. Each field's meaning is in its line of
    ``lcl train --help``.

    Raises
    ------
    ValueError
        If a value is out of range or a tuple has neither one entry nor one per stage.

    Examples
    --------
    >>> Config(steps=(100, 50)).per_stage("steps")
    (100, 50)
    >>> Config().per_stage("readout")
    ('centre', 'centre')
    """

    images: str = _setting("builtin", "'builtin', a folder, FILE.h5[:/DATASET], or tar shards (DIR/*.tar)")
    short_side_px: int = _setting(512, "larger images are scaled down to this short side, in pixels")
    memory_cap_gb: float = _setting(2.0, "images beyond this are memory-mapped from disk")
    store_cap_gb: float = _setting(64.0, "images beyond this, in memory or on disk, are left out at random")
    store_dir: str = _setting("", "folder that keeps decoded images for the next run; empty: none")
    held_out: float = _setting(0.25, "share of the images kept for the held-out loss (at least one)")

    in_channels: Literal[1, 3] = _setting(3, "1: grey images, 3: colour")
    channels: tuple[int, ...] = _setting((64, 192), "filters of every stage; their number is the number of stages")
    kernels: tuple[int, ...] = _setting((11, 5), "side of the filters")
    strides: tuple[int, ...] = _setting((4, 1), "step of the convolution")
    paddings: tuple[int, ...] = _setting((2, 2), "padding of the convolution outside training")
    pools: tuple[str, ...] = _setting(("max",), f"pool of every stage: {', '.join(POOLS)}")
    norm: bool = _setting(True, "batch normalisation after the convolution")
    simple_complex: bool = _setting(False, "add complex channels (energy of filter pairs) to the first stage")
    pixels_per_degree: float = _setting(28.0, "pixels of the input image per degree of visual angle")

    amplitudes: str = _setting("matched", "scale of the deformations: matched, under, over, reversed or fixed:<px>")
    patches: str = _setting("matched", "scale of the patch side: matched, under, over, reversed or fixed:<px>")
    patch_ratio: float = _setting(1.0, "patch side in receptive fields (never less than one field)")
    deformation: Deformation = _setting(
        Deformation(luminance=0.5, colour=0.5, noise=0.1), "amplitudes in receptive fields"
    )

    readout: tuple[str, ...] = _setting(("centre",), f"what enters the loss: {', '.join(READOUTS)}")
    projector: Literal["none", "linear", "mlp"] = _setting("none", "layers between features and loss")
    projector_width: int = _setting(512, "size of the projector's layers")
    balance: tuple[float, ...] = _setting(
        (3.0, 42.0), "weight of decorrelation against similarity: lambda times (d - 1)"
    )

    schedule: Literal["sequential", "simultaneous"] = _setting(
        "sequential", "one stage after the other, or one step of each in turn"
    )
    steps: tuple[int, ...] = _setting((1500, 500), "training steps")
    batch: tuple[int, ...] = _setting((256,), "patches per step, over all processes")
    optimizer: str = _setting("adamw", f"one of {', '.join(OPTIMIZERS)}")
    learning_rate: tuple[float, ...] = _setting((1e-2, 3e-3), "peak learning rate")
    weight_decay: tuple[float, ...] = _setting((1.0,), "weight decay of the filters")
    gain_rate: float = _setting(0.1, "learning rate of gains and offsets, relative to the filters'")
    warmup: int = _setting(100, "steps of linear warm-up before the cosine")

    precision: Literal["bf16", "float32"] = _setting("bf16", "of convolutions; losses are always float32")
    compile: bool = _setting(False, "compile the stages with torch.compile")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:1, mps")
    seed: int = _setting(0, "of weights, patches and views")
    save_every: int = _setting(200, "steps between resumable states")
    log_every: int = _setting(10, "steps between lines of metrics")
    tensorboard: bool = _setting(False, "also write TensorBoard events (extra: track)")

    def __post_init__(self) -> None:
        positive = ("short_side_px", "memory_cap_gb", "store_cap_gb", "pixels_per_degree", "save_every", "log_every")
        for name in (*positive, "channels", "kernels", "strides", "batch", "learning_rate", "projector_width"):
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")
        for name in ("paddings", "steps", "weight_decay", "gain_rate", "balance", "warmup", "seed"):
            _check(name, getattr(self, name), lambda value: value >= 0, "0 or more")
        _check("batch", self.batch, lambda value: value >= 2, "at least 2, since correlations are taken over a batch")
        _check("held_out", self.held_out, lambda value: 0 < value < 1, "a share between 0 and 1")
        _check("patch_ratio", self.patch_ratio, lambda value: value >= 1, "at least 1 receptive field")
        for name, choices in (
            ("pools", POOLS),
            ("readout", READOUTS),
            ("optimizer", OPTIMIZERS),
            ("projector", PROJECTORS),
        ):
            known = ", ".join(choices)
            _check(name, getattr(self, name), lambda value, choices=choices: value in choices, f"one of {known}")
        _check_literals(self)
        for settings in dataclasses.fields(self):
            if isinstance(getattr(self, settings.name), tuple):
                self.per_stage(settings.name)
        for rule in (self.amplitudes, self.patches):
            reference_px(rule, [1] * len(self.channels), 0)

    def per_stage(self, name: str) -> tuple[Any, ...]:
        """Values of a tuple setting, one per stage.

        Parameters
        ----------
        name : str
            Name of the setting.

        Returns
        -------
        tuple
            As many as there are stages.
        """
        values, stages = getattr(self, name), len(self.channels)
        if len(values) not in (1, stages):
            raise ValueError(
                f"{name} has {len(values)} values {values}; expected one, or one for each of {stages} stages."
            )
        return values * stages if len(values) == 1 else values

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Settings from plain values, as read from JSON.

        Parameters
        ----------
        values : dict
            Names and values; lists become tuples.

        Returns
        -------
        Config

        Raises
        ------
        ValueError
            If a name is unknown.
        """
        plain = plain_settings(cls, values)
        if isinstance(plain.get("deformation"), dict):
            plain["deformation"] = Deformation(**plain["deformation"])
        return cls(**plain)


def quick() -> Config:
    """V1 and V2 from the 12 built-in photographs, on a laptop.

    Source: our own settings, chosen in ``benchmarks/quick_settings.py``. Command: ``lcl train``.
    Hardware: 2 CPU cores. Time: under 5 minutes. Expected: more than half of the V1 filters Gabor-like and tuned for
    orientation (none at initialisation).
    """
    return Config()


def imagenette() -> Config:
    """V1 and V2 from a folder of some thousand photographs, on one GPU.

    Source: our own settings, those of ``quick`` with more steps and larger batches; not measured on a GPU yet.
    Command: ``lcl train imagenette --images FOLDER``. Hardware: one GPU. Time: minutes. Expected: as ``quick``, with V2
    units for contours and textures.
    """
    return Config(images="", short_side_px=256, steps=(6000, 6000), batch=(512,), warmup=300, save_every=1000)


def imagenet() -> Config:
    """V1 and V2 from ImageNet, at the scale the paper worked at.

    Source: the paper's settings were not available to us; all of these are ours and not tried at this scale.
    Command: ``torchrun --nproc-per-node 8 -m lcl.cli train imagenet --images FOLDER --store-dir CACHE``.
    Hardware: one to eight GPUs, 64 GB of fast disk. Time and expected result: not measured.
    """
    return Config(
        images="", short_side_px=256, steps=(50_000, 100_000), batch=(1024,), warmup=1000, save_every=5000, log_every=50
    )


#: Presets by name.
PRESETS: dict[str, Callable[[], Config]] = {"quick": quick, "imagenette": imagenette, "imagenet": imagenet}


def _check(name: str, value: Any, good: Any, expected: str) -> None:
    for each in value if isinstance(value, tuple) else (value,):
        if not good(each):
            raise ValueError(f"{name} is {each!r}; expected {expected}.")


def _check_literals(config: Any) -> None:
    for name, kind in get_type_hints(type(config)).items():
        value, options = getattr(config, name), get_args(kind)
        if get_origin(kind) is Literal and value not in options:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(str, options))}.")


def plain_settings(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a class of settings from plain values, as read from JSON.

    Parameters
    ----------
    kind : type
        A dataclass of settings.
    values : dict
        Names and values; lists become tuples.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If a name is unknown.

    Examples
    --------
    >>> plain_settings(Config, {"steps": [100, 50]})
    {'steps': (100, 50)}
    """
    known = {settings.name for settings in dataclasses.fields(kind)}
    if unknown := set(values) - known:
        wrong, right = ", ".join(sorted(unknown)), ", ".join(sorted(known))
        raise ValueError(f"Unknown settings {wrong}; this version knows {right}.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def parse_value(text: str, kind: Any) -> Any:
    """Value of a setting from text, by its type.

    Parameters
    ----------
    text : str
        For a tuple, values separated by commas.
    kind : type
        ``int``, ``float``, ``str``, ``bool``, ``Literal`` or ``tuple`` of these.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If the text is not of the type.

    Examples
    --------
    >>> parse_value("64,192", tuple[int, ...])
    (64, 192)
    """
    origin = get_origin(kind)
    if origin is tuple:
        return tuple(parse_value(part.strip(), get_args(kind)[0]) for part in text.split(","))
    if origin is Literal:
        options = get_args(kind)
        by_text = {str(option): option for option in options}
        if text not in by_text:
            raise ValueError(f"expected one of {', '.join(by_text)}, not {text!r}")
        return by_text[text]
    if origin in (Union, types.UnionType):
        raise TypeError(f"settings of type {kind} have no text form")
    try:
        return kind(text)
    except ValueError:
        named = {int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"expected {named}, not {text!r}") from None
