"""Methods of continual learning by name, and how a name with options is read.

A method is written ``NAME[+MODIFIER...][:SETTING=VALUE,...]``: ``onlyprompt+ewc:parameters=960,ewc_lambda=10`` is one
prompt of 960 trained numbers under elastic weight consolidation. Modifiers are

=========  ============================================================================================================
modifier   what changes
=========  ============================================================================================================
``ewc``    elastic weight consolidation of what is trained beside the head
``si``     synaptic intelligence of the same
``joint``  all classes are one task: an upper bound
``first``  after the first task the head alone learns
=========  ============================================================================================================

and settings are those of :class:`~vision_methods.continual_config.ContinualConfig`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
from torch import nn

from lcl.config import parse_value
from lcl.train import counter_generator
from vision_methods.adapters import Beside, OnlineOffline
from vision_methods.continual_config import ContinualConfig
from vision_methods.continual_learners import _DRAWN, Learner, Tuned, only_prompt
from vision_methods.continual_networks import Base, TransformerBase
from vision_methods.continual_variants import LAE, HiDe, Prototypes
from vision_methods.prompts import L2P, CODAPrompt, DualPrompt, TaskPrompts

MODIFIERS = ("ewc", "si", "joint", "first")
#: Settings that a method may not have of its own: they are of the study.
_OF_THE_STUDY = (
    *("images", "validation_images", "held_out", "size_px", "short_side_px", "memory_cap_gb", "store_cap_gb"),
    *(
        "store_dir",
        "backbone",
        "weights",
        "read",
        "layer",
        "head_channels",
        "head_pool",
        "head_width",
        "tasks",
        "first_classes",
    ),
    *("seed", "device"),
)


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes
    ----------
    about : str
    learner : callable
        Of ``Tuned`` or its kin.
    tuner : callable, optional
        Makes what is trained beside the head, of (config, width, number of tasks, seed).
    network : bool
        Trains the network itself.
    modifiers : tuple of str
        That it takes.
    """

    about: str
    tuner: Callable[[ContinualConfig, int, int, int], nn.Module] | None = None
    learner: Callable[..., Tuned] | None = Tuned
    network: bool = False
    modifiers: tuple[str, ...] = MODIFIERS


def _onlyprompt(config: ContinualConfig, width: int, tasks: int, seed: int) -> nn.Module:
    return only_prompt(width, config.parameters or width, seed=seed)


def _first_tokens(config: ContinualConfig, width: int, tasks: int, seed: int) -> nn.Module:
    return only_prompt(width, config.first_tokens * width, seed=seed)


def _l2p(config: ContinualConfig, width: int, tasks: int, seed: int) -> nn.Module:
    return L2P(
        width,
        pool=config.pool,
        length=config.length,
        top_k=config.top_k,
        pull=config.pull,
        batchwise=config.batchwise,
        generator=counter_generator(seed, _DRAWN),
    )


def _dualprompt(config: ContinualConfig, width: int, tasks: int, seed: int) -> nn.Module:
    return DualPrompt(
        width,
        tasks=tasks,
        length=config.length,
        shared_blocks=config.shared_blocks,
        task_blocks=config.task_blocks,
        pull=config.pull,
        batchwise=config.batchwise,
        generator=counter_generator(seed, _DRAWN),
    )


def _coda(config: ContinualConfig, width: int, tasks: int, seed: int) -> nn.Module:
    return CODAPrompt(
        width,
        tasks=tasks,
        components=config.components,
        length=config.coda_length,
        blocks=config.blocks,
        generator=counter_generator(seed, _DRAWN),
    )


def _hide(config: ContinualConfig, width: int, tasks: int, seed: int) -> nn.Module:
    generator, momentum = counter_generator(seed, _DRAWN), config.hide_momentum
    return TaskPrompts(
        width, tasks=tasks, length=config.length, blocks=config.blocks, momentum=momentum, generator=generator
    )


def _beside(kind: str) -> Callable[[ContinualConfig, int, int, int], nn.Module]:
    def make(config: ContinualConfig, width: int, tasks: int, seed: int) -> nn.Module:
        return Beside(kind, width, config.adapter_size, config.blocks, generator=counter_generator(seed, _DRAWN))

    return make


def _lae(config: ContinualConfig, width: int, tasks: int, seed: int) -> nn.Module:
    return OnlineOffline(_beside("adapter")(config, width, tasks, seed), keep=config.keep)


#: Methods by name.
METHODS: dict[str, Method] = {
    "linear": Method("a linear head on frozen features", modifiers=("joint",)),
    "nmc": Method("nearest class mean of frozen features (SimpleCIL)", learner=None, modifiers=("joint",)),
    "ranpac": Method("ridge regression on random features of frozen ones (RanPAC)", learner=None, modifiers=("joint",)),
    "adam": Method("a prompt learned on the first task, then class means (ADAM)", _first_tokens, None, modifiers=()),
    "ranpac-first": Method("a prompt learned on the first task, then RanPAC", _first_tokens, None, modifiers=()),
    "onlyprompt": Method("one prompt for every picture and task (OnlyPrompt)", _onlyprompt),
    "l2p": Method("prompts chosen from a pool by the picture (L2P)", _l2p),
    "dualprompt": Method("shared prompts, and prompts of the task with the nearest key (DualPrompt)", _dualprompt),
    "coda": Method("weighted sums of components, new ones for each task (CODA-Prompt)", _coda),
    "hide": Method("prompts of each task, told by a head of its own (HiDe-Prompt)", _hide, HiDe, modifiers=()),
    "lae": Method("adapters that learn and adapters that follow, both asked (LAE)", _lae, LAE, modifiers=("joint",)),
    "adapter": Method("adapters beside the blocks", _beside("adapter")),
    "lora": Method("low-rank changes of queries and values (LoRA)", _beside("lora")),
    "finetune": Method("the whole network, or all of it that is not frozen", network=True, modifiers=MODIFIERS[:3]),
}

#: Experiments of the paper: each a list of methods.
EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "main": (
        *("nmc", "ranpac", "linear", "adam", "l2p", "dualprompt", "coda", "hide", "lae", "onlyprompt"),
        *("adapter", "lora", "finetune", "linear+joint", "onlyprompt+joint", "finetune+joint"),
    ),
    "queries": tuple(
        f"{name}:query={query}" for name in ("l2p", "dualprompt", "coda") for query in ("input", "oracle", "constant")
    ),
    "sizes": ("linear", *(f"onlyprompt:parameters={{{part}}}" for part in ("1/16", "1/4", "1", "5", "25", "100"))),
    "first": ("linear", "nmc", "adam", "ranpac", "ranpac-first", "onlyprompt+first", "onlyprompt"),
    "regularisers": (
        *("onlyprompt", "onlyprompt+ewc", "onlyprompt+si", "onlyprompt:parameters={25}"),
        *("onlyprompt+ewc:parameters={25}", "onlyprompt+si:parameters={25}"),
        *("adapter", "adapter+ewc", "adapter+si", "finetune", "finetune+ewc", "finetune+si"),
    ),
    "front": ("nmc", "ranpac", "linear", "finetune", "finetune+ewc", "finetune+si", "finetune+joint"),
}


@dataclass(frozen=True)
class Chosen:
    """A method as the user wrote it, read.

    Attributes
    ----------
    text : str
    name : str
        Of :data:`METHODS`.
    modifiers : tuple of str
    config : ContinualConfig
        The study's, with the method's own settings.
    """

    text: str
    name: str
    modifiers: tuple[str, ...]
    config: ContinualConfig

    @property
    def valid(self) -> bool:
        """Whether it is told nothing that a method may not know: the task, or the pictures of one batch together."""
        return self.config.query != "oracle" and not self.config.batchwise

    def learner(self, base: Base, tasks: Sequence[np.ndarray], *, seed: int) -> Learner:
        """The method, before its first task.

        Parameters
        ----------
        base : Base
        tasks : sequence of ndarray of int
            Classes of each task.
        seed : int

        Returns
        -------
        Learner

        Raises
        ------
        ValueError
            If the network does not fit the method.
        """
        method, config = METHODS[self.name], self.config
        named: dict[str, Any] = {"seed": seed}
        if method.tuner is not None:
            if not isinstance(base, TransformerBase):
                raise ValueError(f"{self.text} needs a vision transformer; give another --backbone, or leave it out.")
            self._check_blocks(len(base.vit.blocks))
            named["tuner"] = method.tuner(config, base.width, len(tasks), seed)
        ridge = self.name.startswith("ranpac")
        if method.learner is None:
            first = Tuned(base, tasks, config, **named) if "tuner" in named else None
            return Prototypes(base, tasks, config, seed=seed, ridge=ridge, first=first)
        return method.learner(
            base,
            tasks,
            config,
            **named,
            network=method.network,
            regulariser=next((each for each in ("ewc", "si") if each in self.modifiers), ""),
            first_only="first" in self.modifiers,
            read=config.prompt_read if self.name == "l2p" else None,
        )

    def _check_blocks(self, depth: int) -> None:
        used: dict[str, tuple[str, ...]] = {"dualprompt": ("shared_blocks", "task_blocks")}
        used |= dict.fromkeys(("coda", "hide", "lae", "adapter", "lora"), ("blocks",))
        for name in used.get(self.name, ()):
            value = getattr(self.config, name)
            if not value or min(value) < 0 or max(value) >= depth:
                raise ValueError(f"{name} is {value}, but the transformer has the blocks 0 to {depth - 1}.")


def read_method(text: str, config: ContinualConfig) -> Chosen:
    """A method as it is written.

    Parameters
    ----------
    text : str
        ``NAME[+MODIFIER...][:SETTING=VALUE,...]``; a list as a value is written with spaces between its entries.
    config : ContinualConfig
        Of the study.

    Returns
    -------
    Chosen

    Raises
    ------
    ValueError
        If a name is unknown or a value cannot be read.

    Examples
    --------
    >>> chosen = read_method("onlyprompt+ewc:parameters=48", ContinualConfig())
    >>> chosen.name, chosen.modifiers, chosen.config.parameters
    ('onlyprompt', ('ewc',), 48)
    >>> read_method("l2q", ContinualConfig())
    Traceback (most recent call last):
        ...
    ValueError: there is no method 'l2q'; did you mean l2p?
    """
    whole, _, settings = text.partition(":")
    name, *modifiers = whole.split("+")
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(METHODS)}."
        raise ValueError(f"there is no method {name!r}; {hint}")
    for modifier in modifiers:
        if modifier not in METHODS[name].modifiers:
            takes = ", ".join(METHODS[name].modifiers) or "none"
            raise ValueError(f"{name} takes no +{modifier}; it takes {takes}.")
    if len(set(modifiers)) < len(modifiers) or len({"ewc", "si", "first"} & set(modifiers)) > 1:
        raise ValueError(f"{text} has modifiers that exclude each other; expected one of +ewc, +si and +first at most.")
    kinds, changes = get_type_hints(ContinualConfig), {}
    for setting in filter(None, settings.split(",")):
        key, given, value = setting.partition("=")
        if not given or key not in kinds or key in _OF_THE_STUDY:
            known = [each for each in kinds if each not in _OF_THE_STUDY]
            near = difflib.get_close_matches(key, known, 1, 0.4)
            hint = f"did you mean {near[0]}?" if near else "see `lcl continual --help`."
            raise ValueError(f"{text} has the setting {setting!r}, which methods do not have; {hint}")
        if kinds[key] is bool:
            if value not in ("true", "false"):
                raise ValueError(f"{text} has {setting!r}; expected {key}=true or {key}=false.")
            changes[key] = value == "true"
        else:
            changes[key] = parse_value(value.replace(" ", ","), kinds[key])
    return Chosen(text, name, tuple(modifiers), dataclasses.replace(config, **changes))


def experiment(name: str, width: int) -> list[str]:
    """Methods of an experiment, sizes in braces written out: ``{1/4}`` is a quarter of the width of a token.

    Parameters
    ----------
    name : str
        Of :data:`EXPERIMENTS`.
    width : int

    Returns
    -------
    list of str

    Examples
    --------
    >>> experiment("sizes", 96)[:4]
    ['linear', 'onlyprompt:parameters=6', 'onlyprompt:parameters=24', 'onlyprompt:parameters=96']
    """
    found = []
    for text in EXPERIMENTS[name]:
        before, brace, rest = text.partition("{")
        if brace:
            inside, _, after = rest.partition("}")
            number, _, divisor = inside.partition("/")
            text = f"{before}{width * int(number) // int(divisor or 1)}{after}"
        found.append(text)
    return found
