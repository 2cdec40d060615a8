"""LCL-V2Net: a frozen front end under a recognition network, and its twins.

The front end is a chain of stages, the head any torch module that names the class from the last stage's maps. Twins
have the same stages, the same head and the same recipe; they differ in where the stages' weights come from and in
whether labels may change them (:data:`FRONT_ENDS`). What is frozen stays the same to the last bit, and training says so
if it does not.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lcl.checkpoint import load
from lcl.stages import LCLV2, BatchNorm, Stage, StageChain
from neural_fits.gabor import gabor


@dataclass(frozen=True)
class FrontEnd:
    """A kind of front end.

    Attributes
    ----------
    about : str
        What it is, in words.
    weights : {"run", "random", "gabor"}
        Where the weights are from: a run folder, chance, or a fixed bank in the first stage and chance above it.
    frozen : {"all", "first", "none"}
        Stages that labels do not change.
    pretrained : bool
        Learned end to end without labels before it is frozen.
    attacked : bool
        Trained on perturbed pictures.
    """

    about: str
    weights: Literal["run", "random", "gabor"]
    frozen: Literal["all", "first", "none"]
    pretrained: bool = False
    attacked: bool = False

    def frozen_stages(self, names: Sequence[str]) -> tuple[str, ...]:
        """Names of the frozen ones among the stages, from the bottom up."""
        return tuple(names[: {"all": len(names), "first": 1, "none": 0}[self.frozen]])


#: Kinds of front end by name.
FRONT_ENDS: dict[str, FrontEnd] = {
    "lcl": FrontEnd("learned layer by layer without labels, frozen", "run", "all"),
    "lcl-untrained": FrontEnd("random filters, frozen", "random", "all"),
    "supervised": FrontEnd("trained end to end with labels", "random", "none"),
    "selfsup": FrontEnd("learned end to end without labels (Barlow Twins), frozen", "random", "all", pretrained=True),
    "adversarial": FrontEnd(
        "trained end to end with labels on pictures perturbed to mislead it", "random", "none", attacked=True
    ),
    "gabor": FrontEnd("fixed Gabor filters in the first stage, the rest trained with labels", "gabor", "first"),
}


def parse_front_end(text: str) -> tuple[str, str]:
    """Kind of front end, and the run folder that gives its stages.

    Parameters
    ----------
    text : str
        KIND or KIND:RUN. ``lcl`` needs a run; the others take only its shape, or AlexNet's first two layers without it.

    Returns
    -------
    kind, run : str
        The run is empty where none is named.

    Raises
    ------
    ValueError
        If the kind is unknown, or a run is missing.

    Examples
    --------
    >>> parse_front_end("lcl:runs/mine"), parse_front_end("supervised")
    (('lcl', 'runs/mine'), ('supervised', ''))
    """
    kind, _, run = text.partition(":")
    if kind not in FRONT_ENDS:
        raise ValueError(f"front end {text!r} is unknown; expected one of {', '.join(FRONT_ENDS)}, and :RUN.")
    if kind == "lcl" and not run:
        raise ValueError("the front end lcl needs the run folder of `lcl train`: give lcl:RUN.")
    return kind, run


def build_front_end(kind: str, run: str, *, seed: int) -> StageChain:
    """Stages of a front end, before any training here.

    Parameters
    ----------
    kind : str
        Of :data:`FRONT_ENDS`.
    run : str
        Run folder that gives the shape (and for ``lcl`` the weights); empty: :class:`lcl.stages.LCLV2`.
    seed : int
        Of random weights; the same for every kind, so that twins start alike.

    Returns
    -------
    StageChain

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`lcl.checkpoint.load`.

    Examples
    --------
    >>> build_front_end("gabor", "", seed=0)["V1"].conv.weight.shape
    torch.Size([64, 3, 11, 11])
    """
    generator = torch.Generator().manual_seed(seed)
    trained = load(run) if run else None
    if FRONT_ENDS[kind].weights == "run":
        assert trained is not None
        return trained
    chain = StageChain.from_spec(trained.spec, generator) if trained else LCLV2(generator=generator)
    if FRONT_ENDS[kind].weights == "gabor":
        conv = chain[chain.names[0]].conv
        bank = gabor_bank(conv.out_channels, conv.kernel_size[0], conv.in_channels)
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(bank))
    return chain


def gabor_bank(filters: int, side_px: int, channels: int) -> np.ndarray:
    """Gabor filters that cover orientation, spatial frequency and phase evenly.

    Orientations over 180 degrees, frequencies from one cycle per filter to 0.3 cycles per pixel (evenly in octaves) and
    phases 0, 90, 180 and 270 degrees, in an additive sequence by the powers of the plastic number, so that any number
    of filters is even (Roberts 2018). The envelope has a standard deviation of 0.35 cycles across the bars, but at most
    a fifth of the filter, and a third more along them. These choices are ours.

    Parameters
    ----------
    filters, side_px, channels : int

    Returns
    -------
    ndarray of float32, (filter, channel, side_px, side_px)
        The same in every channel, sum 0, norm sqrt(2) over all channels.

    Examples
    --------
    >>> bank = gabor_bank(64, 11, 3)
    >>> bank.shape, bool(np.abs(bank.sum((1, 2, 3))).max() < 1e-5)
    ((64, 3, 11, 11), True)
    """
    plastic = 1.324717957244746
    steps = np.arange(filters)
    orientations = 180 * ((0.5 + steps / plastic) % 1)
    octaves = (0.5 + steps / plastic**2) % 1
    lowest = 1 / side_px
    bank = np.empty((filters, channels, side_px, side_px), np.float32)
    for i in range(filters):
        frequency = lowest * (max(0.3, 1.5 * lowest) / lowest) ** octaves[i]
        across = min(0.35 / frequency, side_px / 5)
        one = gabor(
            side_px,
            side_px,
            orientation_deg=orientations[i],
            frequency_cpp=frequency,
            phase_deg=90 * (i % 4),
            across_px=across,
            along_px=across * 4 / 3,
        )
        one = one - one.mean()
        bank[i] = one * np.sqrt(2 / channels) / np.linalg.norm(one)
    return bank


def alexnet_head(
    in_channels: int,
    classes: int,
    *,
    channels: Sequence[int] = (384, 256, 256),
    pool: int = 6,
    width: int = 4096,
    norm: bool = True,
    dropout: float = 0.5,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """The layers of AlexNet above its second pool (Krizhevsky 2014): three convolutions, a pool, three linear layers.

    Batch normalisation in the convolutions is ours.

    Parameters
    ----------
    in_channels, classes : int
    channels : sequence of 3 int
        Filters of the convolutions.
    pool : int
        Side of the map that the linear layers read.
    width : int
        Units of the two hidden linear layers.
    norm : bool
        Batch normalisation.
    dropout : float
    generator : torch.Generator, optional
        Draws the initial weights (normal with variance 2 / fan-in, 1 / fan-in in the last layer).

    Returns
    -------
    Sequential
        Maps (B, in_channels, H, W) to (B, classes).

    Examples
    --------
    >>> alexnet_head(192, 10, width=32)(torch.rand(2, 192, 13, 13)).shape
    torch.Size([2, 10])
    """
    layers: list[nn.Module] = []
    below = in_channels
    for filters in channels:
        layers.append(nn.Conv2d(below, filters, 3, padding=1, bias=not norm))
        layers += [BatchNorm(filters)] if norm else []
        layers.append(nn.ReLU())
        below = filters
    layers += [nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d(pool), nn.Flatten()]
    below *= pool**2
    for _ in range(2):
        layers += [nn.Dropout(dropout), nn.Linear(below, width), nn.ReLU()]
        below = width
    layers.append(nn.Linear(below, classes))
    weighted = [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in weighted:
        fan_in = layer.weight[0].numel()
        gain = 1 if layer is weighted[-1] else 2
        nn.init.normal_(layer.weight, std=(gain / fan_in) ** 0.5, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def make_head(name: str, in_channels: int, classes: int, *, seed: int, **alexnet: Any) -> nn.Module:
    """Head by name.

    Parameters
    ----------
    name : str
        ``alexnet``, or ``module:function`` of (in_channels, classes) that returns a torch module from maps (B,
        in_channels, H, W) to (B, classes); found from here or from the working directory.
    in_channels, classes : int
    seed : int
        Of the initial weights.
    **alexnet
        Of :func:`alexnet_head`; not used by others.

    Returns
    -------
    Module

    Raises
    ------
    ValueError
        If there is no such function, or it returns something else.
    """
    if name == "alexnet":
        return alexnet_head(in_channels, classes, generator=torch.Generator().manual_seed(seed + 1), **alexnet)
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"head is {name!r}, which cannot be found ({error}); expected module:function.") from None
    finally:
        sys.path.pop(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        head = function(in_channels, classes)
    if not isinstance(head, nn.Module):
        raise ValueError(f"head {name!r} returned {type(head).__name__}; expected a torch module.")
    return head


class RecognitionNet(nn.Module):
    """A head on a chain of stages, the lowest of which may be frozen.

    Frozen stages take no gradient and stay in evaluation mode, whatever mode the network is in; a gradient still passes
    through them to the picture, for those who perturb it.

    Parameters
    ----------
    front : StageChain
    head : Module
        From the last stage's maps to one number per class.
    frozen : sequence of str
        Names of the lowest stages.

    Raises
    ------
    ValueError
        If ``frozen`` are not the lowest stages.

    Examples
    --------
    >>> net = RecognitionNet(LCLV2(), alexnet_head(192, 10, width=32, pool=1), frozen=["V1", "V2"])
    >>> net.train()(torch.rand(2, 3, 112, 112)).shape, net.front.training
    (torch.Size([2, 10]), False)
    """

    def __init__(self, front: StageChain, head: nn.Module, *, frozen: Sequence[str] = ()) -> None:
        super().__init__()
        self.front, self.head = front, head
        self.freeze(frozen)

    def freeze(self, names: Sequence[str]) -> None:
        """Freeze the lowest stages, and no others."""
        if list(names) != self.front.names[: len(names)]:
            raise ValueError(f"frozen is {list(names)}; expected the lowest of {self.front.names}.")
        self.frozen = tuple(names)
        for name in self.front.names:
            self.front[name].requires_grad_(name not in self.frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> RecognitionNet:
        """Training mode for all but the frozen stages."""
        super().train(mode)
        for name in self.frozen:
            self.front[name].eval()
        self.front.training = mode and len(self.frozen) < len(self.front.names)
        return self

    def maps(self, images: Tensor) -> Tensor:
        """Maps of the last stage (B, C, H, W); unlike a chain that learns layer by layer, gradients pass stages."""
        maps = (images - self.front.input_mean) / self.front.input_std
        for name in self.front.names:
            maps = self.front[name](maps)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """One number per class, (B, classes), of pictures (B, C, H, W) in [0, 1]."""
        return self.head(self.maps(images))

    def frozen_digests(self) -> dict[str, str]:
        """SHA-256 of every tensor of the frozen stages."""
        return {
            name: hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
            for stage in self.frozen
            for name, tensor in self.front[stage].state_dict(prefix=f"front.stages.{stage}.").items()
        }


def check_frozen(net: RecognitionNet, digests: Mapping[str, str]) -> None:
    """Stop if a frozen tensor is not what it was, to the last bit.

    Parameters
    ----------
    net : RecognitionNet
    digests : mapping of str to str
        From :meth:`RecognitionNet.frozen_digests`, earlier.

    Raises
    ------
    RuntimeError
        Names the first tensor that changed.

    Examples
    --------
    >>> net = RecognitionNet(LCLV2(), nn.Identity(), frozen=["V1"])
    >>> before = net.frozen_digests()
    >>> check_frozen(net, before)
    >>> _ = net.front["V1"].conv.weight.data[0, 0, 0, 0].add_(1e-3)
    >>> check_frozen(net, before)
    Traceback (most recent call last):
        ...
    RuntimeError: front.stages.V1.conv.weight is frozen but has changed; the front end may not be trained.
    """
    now = net.frozen_digests()
    for name in digests.keys() | now.keys():
        if digests.get(name) != now.get(name):
            raise RuntimeError(f"{name} is frozen but has changed; the front end may not be trained.")


def net_of(config: Mapping[str, Any], spec: dict[str, Any], classes: Sequence[str]) -> RecognitionNet:
    """Network of the shape that a configuration and a chain's spec describe, with new weights and nothing frozen."""
    front = StageChain.from_spec(spec, torch.Generator().manual_seed(config["seed"]))
    last = front[front.names[-1]]
    assert isinstance(last, Stage)
    head = make_head(
        config["head"],
        last.out_channels,
        len(classes),
        seed=config["seed"],
        channels=config["head_channels"],
        pool=config["head_pool"],
        width=config["head_width"],
        norm=config["head_norm"],
        dropout=config["dropout"],
    )
    return RecognitionNet(front, head)
