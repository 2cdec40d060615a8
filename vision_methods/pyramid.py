"""A feature pyramid and a detection head that leave the alignment of pictures and texts as it is when training begins.

New layers with random weights between an aligned network and its texts destroy the alignment. Here every new layer that
texts are compared with is a branch beside a shortcut, ``x + tanh(alpha) f(x)``, whose gate alpha is 0 at first: the
logit of a class is then that of the pretrained network, whatever the random weights, and training opens the gates as
far as it helps. Source: the idea is Arandjelovic et al. 2023 (3Ways), of which the abstract alone was available to us;
form and places of the gates are ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_methods.detection import PRIOR_BIAS, Locations, locations

#: Gates move so much faster than other parameters.
GATE_RATE = 10.0


class Gate(nn.Module):
    """``tanh(alpha) * branch`` with one learned alpha, 0 at first; or the branch alone.

    ``alpha`` is ``rate`` times the parameter, so that steps of an optimiser such as Adam move it faster.

    Parameters
    ----------
    gated : bool
        Without a gate, the branch comes as it is.
    rate : float

    Examples
    --------
    >>> Gate()(torch.ones(2)), Gate(gated=False)(torch.ones(2))
    (tensor([0., 0.], grad_fn=<MulBackward0>), tensor([1., 1.]))
    """

    def __init__(self, *, gated: bool = True, rate: float = 1.0) -> None:
        super().__init__()
        self.rate = rate
        self.alpha = nn.Parameter(torch.zeros(1)) if gated else None

    def forward(self, branch: Tensor) -> Tensor:
        """Branch, as far as the gate is open."""
        return branch if self.alpha is None else torch.tanh(self.rate * self.alpha) * branch

    @property
    def openness(self) -> float:
        """``tanh(alpha)``; 1 without a gate."""
        return 1.0 if self.alpha is None else math.tanh(self.rate * float(self.alpha.detach()))


class Shortcut(nn.Module):
    """``x + tanh(alpha) f(x)``; without a gate ``f(x)``, as in an ordinary network.

    Parameters
    ----------
    branch : Module
        From maps (B, C, H, W) to maps of the same shape.
    gated : bool
    rate : float
        As of :class:`Gate`.

    Examples
    --------
    >>> maps = torch.rand(1, 4, 3, 3)
    >>> torch.equal(Shortcut(nn.Conv2d(4, 4, 3, padding=1))(maps), maps)
    True
    """

    def __init__(self, branch: nn.Module, *, gated: bool = True, rate: float = 1.0) -> None:
        super().__init__()
        self.branch, self.gate = branch, Gate(gated=gated, rate=rate)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape."""
        found = self.gate(self.branch(maps))
        return found if self.gate.alpha is None else maps + found


def _convolution(below: int, above: int, kernel: int, stride: int, generator: torch.Generator | None) -> nn.Conv2d:
    conv = nn.Conv2d(below, above, kernel, stride, kernel // 2)
    nn.init.normal_(conv.weight, std=(below * kernel**2) ** -0.5, generator=generator)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


class Pyramid(nn.Module):
    """Maps of several strides, all in the space that pictures and texts share.

    The top is the last layer's map under the pretrained linear layer, place by place; its mean is the picture's
    pretrained vector. Levels below are the level above, enlarged, and a gated lateral of their layer; levels beyond are
    the one before, averaged, and a gated convolution.

    Parameters
    ----------
    channels : sequence of int
        Of the layers, the finest first.
    alignment : Tensor, (D, channels[-1])
        The pretrained linear layer.
    beyond : int
        Levels beyond the last layer.
    gated : bool
        Without gates it is an ordinary pyramid on the same top.
    rate : float
        As of :class:`Gate`.
    generator : torch.Generator, optional
        Draws the initial weights, normal with variance 1 / fan-in.

    Raises
    ------
    ValueError
        If the alignment does not fit the channels.

    Examples
    --------
    >>> pyramid = Pyramid([8, 16], torch.eye(16)[:4], beyond=1)
    >>> maps = [torch.rand(1, 8, 8, 8), torch.rand(1, 16, 4, 4)]
    >>> [tuple(level.shape) for level in pyramid(maps)]
    [(1, 4, 8, 8), (1, 4, 4, 4), (1, 4, 2, 2)]
    """

    def __init__(
        self,
        channels: Sequence[int],
        alignment: Tensor,
        *,
        beyond: int = 2,
        gated: bool = True,
        rate: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if alignment.ndim != 2 or not channels or alignment.shape[1] != channels[-1]:
            raise ValueError(
                f"The alignment has shape {tuple(alignment.shape)}; expected (features, channels of the last "
                f"layer) for layers of {list(channels)} channels."
            )
        width = len(alignment)
        self.top = nn.Conv2d(channels[-1], width, 1, bias=False)
        with torch.no_grad():
            self.top.weight.copy_(alignment[:, :, None, None])
        self.laterals = nn.ModuleList(_convolution(below, width, 1, 1, generator) for below in channels[:-1])
        self.gates = nn.ModuleList(Gate(gated=gated, rate=rate) for _ in channels[:-1])
        self.smooth = nn.ModuleList(
            Shortcut(_convolution(width, width, 3, 1, generator), gated=gated, rate=rate) for _ in channels
        )
        self.beyond = nn.ModuleList(_convolution(width, width, 3, 2, generator) for _ in range(beyond))
        self.beyond_gates = nn.ModuleList(Gate(gated=gated, rate=rate) for _ in range(beyond))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B, D, H, W), the finest first, of the layers' maps, the finest first."""
        level = self.top(maps[-1])
        levels = [level]
        for below, lateral, gate in reversed(list(zip(maps[:-1], self.laterals, self.gates, strict=True))):
            level = F.interpolate(level, below.shape[2:], mode="nearest") + gate(lateral(below))
            levels.insert(0, level)
        levels = [smooth(each) for smooth, each in zip(self.smooth, levels, strict=True)]
        for conv, gate in zip(self.beyond, self.beyond_gates, strict=True):
            coarse = gate(conv(levels[-1]))
            if gate.alpha is not None:
                coarse = F.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False) + coarse
            levels.append(coarse)
        return levels


class LocationOutputs(NamedTuple):
    """What all locations of a pyramid say of pictures, before any text is known.

    Attributes
    ----------
    places : Locations
    embeddings : Tensor, (picture, location, D)
        Unit vectors, compared with those of texts.
    distances : Tensor, (picture, location, 4)
        To the sides of a box, in pixels; no text changes them.
    centring : Tensor, (picture, location)
        Logits of centerness.
    """

    places: Locations
    embeddings: Tensor
    distances: Tensor
    centring: Tensor


class Head(nn.Module):
    """A tower that keeps the alignment, and one for boxes; shared by all levels.

    Parameters
    ----------
    width : int
        Features of the levels.
    depth : int
        Blocks of each tower: convolution, group norm, rectification.
    gated : bool
    rate : float
        As of :class:`Gate`.
    generator : torch.Generator, optional
        Draws the initial weights.

    Examples
    --------
    >>> embedding, log_distances, centring = Head(8, depth=1)(torch.rand(2, 8, 4, 4))
    >>> log_distances.shape, centring.shape
    (torch.Size([2, 4, 4, 4]), torch.Size([2, 1, 4, 4]))
    """

    def __init__(
        self,
        width: int,
        *,
        depth: int = 4,
        gated: bool = True,
        rate: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        groups = math.gcd(width, 8)

        def block() -> nn.Module:
            return nn.Sequential(
                _convolution(width, width, 3, 1, generator), nn.GroupNorm(groups, width), nn.ReLU(inplace=False)
            )

        self.classes = nn.Sequential(*(Shortcut(block(), gated=gated, rate=rate) for _ in range(depth)))
        self.boxes = nn.Sequential(*(block() for _ in range(depth)))
        self.distances = _convolution(width, 4, 3, 1, generator)
        self.centring = _convolution(width, 1, 3, 1, generator)
        nn.init.normal_(self.distances.weight, std=0.01, generator=generator)
        nn.init.normal_(self.centring.weight, std=0.01, generator=generator)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (B, D, H, W), log distances in strides (B, 4, H, W), centerness as logits (B, 1, H, W)."""
        boxes = self.boxes(level)
        return self.classes(level), self.distances(boxes), self.centring(boxes)


class Detector(nn.Module):
    """A network of pictures under a pyramid and a head: locations that are compared with the vectors of any texts.

    Parameters
    ----------
    backbone : Module
        Images (B, 3, H, W) in [0, 1] to a dict of maps; with ``channels``, layer by layer.
    layers : sequence of str
        That the pyramid stands on, the finest first; the last is the aligned one.
    strides : sequence of int
        Of these layers, in pixels; each twice the one before.
    alignment : Tensor, (D, channels)
        Pretrained linear layer from the last layer to the space of the texts.
    beyond, depth : int
        Levels beyond the last layer, blocks of each tower.
    gated : bool
    level_range : float
        As of :func:`vision_methods.detection.locations`.
    scale : float
        That cosines are multiplied with, at first; learned, as its logarithm.
    frozen : bool
        Backbone and alignment keep their weights and statistics.
    generator : torch.Generator, optional

    Raises
    ------
    ValueError
        If layers, strides and alignment do not fit the backbone.

    Examples
    --------
    >>> from vision_methods.backbones import make_backbone
    >>> backbone = make_backbone("conv4", seed=0)
    >>> detector = Detector(backbone, ["conv2", "conv4"], [4, 8], torch.rand(16, 128), beyond=1, depth=1)
    >>> found = detector(torch.rand(2, 3, 64, 64))
    >>> found.embeddings.shape, detector.logits(found.embeddings, torch.rand(5, 16)).shape
    (torch.Size([2, 336, 16]), torch.Size([2, 336, 5]))
    """

    def __init__(
        self,
        backbone: nn.Module,
        layers: Sequence[str],
        strides: Sequence[int],
        alignment: Tensor,
        *,
        beyond: int = 2,
        depth: int = 4,
        gated: bool = True,
        level_range: float = 8.0,
        scale: float = 1 / 0.07,
        frozen: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        channels: Mapping[str, int] = backbone.channels  # pyright: ignore[reportAssignmentType]
        unknown = [layer for layer in layers if layer not in channels]
        doubling = all(above == 2 * below for below, above in itertools.pairwise(strides))
        if unknown or not layers or len(layers) != len(strides) or not doubling:
            raise ValueError(
                f"layers are {', '.join(layers)} of strides {list(strides)}; expected some of {', '.join(channels)}, "
                "each of twice the stride of the one before."
            )
        self.backbone, self.layers, self.frozen = backbone, tuple(layers), frozen
        self.strides = tuple(strides) + tuple(strides[-1] * 2 ** (level + 1) for level in range(beyond))
        self.level_range = level_range
        self.pyramid = Pyramid(
            [channels[layer] for layer in layers],
            alignment,
            beyond=beyond,
            gated=gated,
            rate=GATE_RATE,
            generator=generator,
        )
        self.head = Head(len(alignment), depth=depth, gated=gated, rate=GATE_RATE, generator=generator)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(PRIOR_BIAS))
        if frozen:
            self.backbone.requires_grad_(False)
            self.pyramid.top.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Detector:
        """As of every module; a frozen backbone stays as in evaluation."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> LocationOutputs:
        """What all locations say of images (B, 3, H, W) in [0, 1]; results are float32.

        Raises
        ------
        ValueError
            If a layer's map has not the size that its stride demands.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            responses = self.backbone(images)
        maps = [responses[layer] for layer in self.layers]
        for layer, level, stride in zip(self.layers, maps, self.strides, strict=False):
            expected = tuple(-(-side // stride) for side in images.shape[2:])
            if tuple(level.shape[2:]) != expected:
                raise ValueError(
                    f"Layer {layer} has {tuple(level.shape[2:])} places for {tuple(images.shape[2:])} px; expected "
                    f"{expected}, of stride {stride}."
                )
        levels = self.pyramid(maps)
        grids = [(int(level.shape[2]), int(level.shape[3])) for level in levels]
        places = Locations(
            *(
                each.to(images.device)
                for each in locations(grids, self.strides[: len(levels)], level_range=self.level_range)
            )
        )
        embeddings, distances, centring = zip(*(_flat(self.head(level)) for level in levels), strict=True)
        return LocationOutputs(
            places,
            F.normalize(torch.cat(embeddings, 1).float(), dim=2),
            # A distance of 1,000 strides is beyond every picture; more would not be finite.
            torch.cat(distances, 1).float().clamp(max=math.log(1000)).exp() * places.strides[:, None],
            torch.cat(centring, 1).float()[:, :, 0],
        )

    def logits(self, embeddings: Tensor, texts: Tensor) -> Tensor:
        """``s cos(e, t) + b`` of unit vectors (..., D) with vectors of texts (text, D), (..., text)."""
        return self.log_scale.exp() * (embeddings @ F.normalize(texts, dim=1).T) + self.bias

    def gates(self) -> dict[str, float]:
        """``tanh(alpha)`` of every gate, by its name."""
        return {name: module.openness for name, module in self.named_modules() if isinstance(module, Gate)}


def _flat(maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Maps (B, C, H, W) as (B, H W, C)."""
    return tuple(each.flatten(2).transpose(1, 2) for each in maps)
