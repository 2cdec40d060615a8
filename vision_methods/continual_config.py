"""The settings of a study of continual learning, and its presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lcl.config import _check, _check_literals, _setting, plain_settings
from lcl.optimizers import OPTIMIZERS
from vision_methods.prompted_vit import Query, Read
from vision_methods.regularisers import Fisher


@dataclass(frozen=True, kw_only=True)
class ContinualConfig:
    """Settings of a study; each method may have some of its own (:mod:`vision_methods.continual_methods`).

    The recipe of Thede et al. (2024) was not available to us: one recipe for all methods is our choice. Sizes of
    prompts are those of LAMDA-PILOT in the preset ``paper``. Each field's meaning is in its line of ``lcl continual
    --help``.

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> ContinualConfig(tasks=10).tasks
    10
    """

    images: str = _setting("", "folder by class (or train/ and val/ of such), FILE.h5[:/DATASET], or tar shards")
    validation_images: str = _setting("", "the same, to test on; empty: val/ beside train/, else a share held out")
    held_out: float = _setting(0.2, "that share of every class")
    size_px: int = _setting(64, "side of the pictures that the network sees")
    short_side_px: int = _setting(160, "larger images are scaled down to this short side before they are cropped")
    memory_cap_gb: float = _setting(
        2.0, "images beyond this are memory-mapped from disk; squares are cut anew each time"
    )
    store_cap_gb: float = _setting(64.0, "images beyond this, in memory or on disk, are left out at random")
    store_dir: str = _setting("", "folder that keeps decoded images for the next run; empty: none")

    backbone: str = _setting(
        "",
        "run folder of a transformer, vit_base16 and its kin (with weights), v2net:FRONT, or a model as in `lcl fit`",
    )
    weights: str = _setting("", "FILE.safetensors under timm's names, for vit_base16 and its kin; empty: random")
    read: Read = _setting("class", "what the head reads of a transformer: class, patches (their mean), prompts")
    layer: str = _setting("", "layer of other models, averaged over places; empty: the last")
    head_channels: tuple[int, ...] = _setting((96, 64, 64), "v2net: filters of its remaining convolutions")
    head_pool: int = _setting(2, "v2net: side of the map that its linear layers read")
    head_width: int = _setting(256, "v2net: units of its two hidden linear layers")

    tasks: int = _setting(5, "the classes come in so many tasks, in an order of the seed")
    first_classes: int = _setting(0, "classes of the first task; 0: an even share")
    seed: int = _setting(0, "first seed: of the order of classes, of new weights and of batches")
    epochs: int = _setting(3, "passes over the pictures of a task")
    batch: int = _setting(32, "pictures per step")
    optimizer: str = _setting("adam", f"one of {', '.join(OPTIMIZERS)}")
    learning_rate: float = _setting(3e-3, "of heads, prompts and adapters")
    network_rate: float = _setting(3e-4, "of the network itself, where a method trains it")
    weight_decay: float = _setting(0.0, "of weights; anything but 0 moves the head of old classes")
    schedule: Literal["constant", "cosine"] = _setting("constant", "of the learning rate, within a task")
    mask: bool = _setting(True, "only classes of the task compete while it is learned")
    reset_optimizer: bool = _setting(True, "the optimiser forgets its moments when a task begins")
    augment: bool = _setting(False, "random crops, mirrored half of the time; else the central square")
    crop_area: float = _setting(0.35, "least share of a picture's area in a random crop")

    parameters: int = _setting(0, "onlyprompt: trained numbers; 0: one token")
    query: Query = _setting("input", "l2p, dualprompt, coda: input, constant, random; oracle: told the task, not valid")
    batchwise: bool = _setting(False, "l2p, dualprompt: one choice for a whole batch, which leaks the task")
    pull: float = _setting(0.1, "l2p, dualprompt: weight of the cosine between queries and chosen keys")
    pool: int = _setting(10, "l2p: prompts to choose from")
    length: int = _setting(2, "l2p: tokens of each; dualprompt, hide: keys, and values, of each")
    top_k: int = _setting(2, "l2p: prompts that are chosen")
    prompt_read: Read = _setting("prompts", "l2p: what the head reads")
    shared_blocks: tuple[int, ...] = _setting((0,), "dualprompt: blocks whose prompt all tasks share")
    task_blocks: tuple[int, ...] = _setting((1, 2), "dualprompt: blocks with a prompt for each task")
    components: int = _setting(10, "coda: of the pool, shared out among the tasks")
    coda_length: int = _setting(4, "coda: keys and values of a component together")
    blocks: tuple[int, ...] = _setting((0, 1, 2), "coda, hide, lae, adapter, lora: blocks that are changed")
    hide_momentum: float = _setting(0.01, "hide: share of earlier prompts that a new one starts from")
    hide_contrast: float = _setting(0.1, "hide: weight of the contrast to the means of earlier classes")
    align_epochs: int = _setting(10, "hide: passes over drawn features that align the heads")
    adapter_size: int = _setting(5, "adapter, lae: hidden features; lora: rank")
    keep: float = _setting(0.99, "lae: share of the offline copy that a step keeps")
    wait_epochs: int = _setting(1, "lae: epochs of later tasks in which the head alone learns")
    first_tokens: int = _setting(5, "adam, ranpac-first: tokens that are learned on the first task")

    ewc_lambda: float = _setting(100.0, "+ewc: strength, with the half")
    ewc_gamma: float = _setting(1.0, "+ewc: share of earlier Fisher information that a task keeps")
    fisher: Fisher = _setting("empirical", "+ewc: labels of the gradients: empirical, sampled, weighted")
    fisher_pictures: int = _setting(100, "+ewc: pictures of a task that it is estimated on; 0: all")
    si_c: float = _setting(1.0, "+si: strength")
    si_xi: float = _setting(1e-3, "+si: added to squared distances")
    regularise_head: bool = _setting(False, "+ewc, +si: the head too")
    projections: int = _setting(1000, "ranpac: random features")
    ridge: float = _setting(0.0, "ranpac: penalty; 0: chosen on each task's last fifth")
    ridge_cosine: bool = _setting(False, "ranpac: scores over the length of each class's weights, as LAMDA-PILOT")

    device: str = _setting("auto", "auto, cpu, cuda, cuda:1, mps")

    def __post_init__(self) -> None:
        _check_literals(self)
        positive = ("size_px", "short_side_px", "memory_cap_gb", "store_cap_gb", "head_pool", "head_width", "tasks")
        positive += ("epochs", "learning_rate", "network_rate", "pool", "length", "top_k", "components", "coda_length")
        positive += ("adapter_size", "first_tokens", "projections", "si_xi", "crop_area")
        for name in positive:
            _check(name, getattr(self, name), lambda value: value > 0, "a positive number")
        zero = ("first_classes", "seed", "weight_decay", "parameters", "pull", "hide_contrast", "align_epochs")
        zero += ("wait_epochs", "ewc_lambda", "ewc_gamma", "fisher_pictures", "si_c", "ridge")
        for name in zero:
            _check(name, getattr(self, name), lambda value: value >= 0, "0 or more")
        for name in ("hide_momentum", "keep"):
            _check(name, getattr(self, name), lambda value: 0 <= value <= 1, "a share from 0 to 1")
        _check("held_out", self.held_out, lambda value: 0 < value < 1, "a share between 0 and 1")
        _check("crop_area", self.crop_area, lambda value: value <= 1, "a share of at most 1")
        _check("head_channels", len(self.head_channels), lambda value: value == 3, "three numbers of filters")
        _check("batch", self.batch, lambda value: value >= 2, "at least 2")
        _check("top_k", self.top_k, lambda value: value <= self.pool, f"at most the pool of {self.pool}")
        _check("coda_length", self.coda_length, lambda value: value % 2 == 0, "an even number")
        _check("optimizer", self.optimizer, lambda value: value in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ContinualConfig:
        """Settings from plain values, as read from JSON.

        Raises
        ------
        ValueError
            If a name is unknown.
        """
        return cls(**plain_settings(cls, values))


def toy() -> ContinualConfig:
    """Some thousand photographs by class on a small transformer of ours.

    Source: our own settings. Command: ``lcl continual --images FOLDER --backbone RUN``, where RUN was made by ``lcl
    train-method hummingbird``. Hardware: 2 CPU cores. Time and expected result: ``docs/methods-continual.md``.
    """
    return ContinualConfig(read="patches")


def paper() -> ContinualConfig:
    """Sizes of the paper's methods: ViT-B/16 at 224 px, 10 tasks.

    Source: parameter counts of Thede et al. (2024, tables 1 to 3), which are those of LAMDA-PILOT's defaults; epochs,
    batch and rates are ours. Command: ``lcl continual --preset paper --images FOLDER --weights FILE.safetensors`` with
    weights under timm's names (the paper's are most likely ``vit_base_patch16_224.augreg_in21k``). Hardware: a GPU.
    Time and expected result: not measured; ``--dry-run`` takes one step of every method.
    """
    return ContinualConfig(
        size_px=224,
        short_side_px=256,
        backbone="vit_base16",
        tasks=10,
        epochs=5,
        batch=64,
        augment=True,
        parameters=768,
        pool=10,
        length=5,
        top_k=5,
        shared_blocks=(0, 1),
        task_blocks=(2, 3, 4),
        components=10,
        coda_length=2,
        blocks=(0, 1, 2, 3, 4),
        keep=0.9999,
        wait_epochs=3,
        projections=10_000,
        crop_area=0.08,
        head_channels=(384, 256, 256),
        head_pool=6,
        head_width=4096,
    )


#: Presets by name.
PRESETS: dict[str, Callable[[], ContinualConfig]] = {"toy": toy, "paper": paper}
