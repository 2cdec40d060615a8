"""Networks that continual learning starts from, and pictures as they see them.

A :class:`Base` makes features of pictures in two parts: what no method changes (:meth:`Base.still`), computed once for
each picture, and the rest, which a method may tune.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lcl.labelled_images import CropParameters, LabelledImages, central_squares, cut, draw_crops
from lcl.measure import named_model
from lcl.recognition import FRONT_ENDS, RecognitionNet, alexnet_head, build_front_end
from lcl.stages import Stage
from neural_fits.vision_model import VisionModel
from vision_methods.continual_config import ContinualConfig
from vision_methods.method_run import is_method_run, load_method
from vision_methods.prompted_vit import Insertion, Read, run_prompted
from vision_methods.vit import VITS, Maps, ViT, load_timm

#: Pictures that pass through a frozen network at a time.
CHUNK = 64


class Base(nn.Module):
    """A network without a head.

    Attributes
    ----------
    width : int
        Features that a head reads.
    still_width : int
        Features of :meth:`frozen`.
    tunable : tuple of str
        Names of submodules that a method may train; none where the whole network stays as it is.
    seeded : bool
        Its weights depend on the seed of a run.
    """

    width: int
    still_width: int
    tunable: tuple[str, ...] = ()
    seeded = False

    def still(self, pictures: Tensor) -> Tensor:
        """What no method changes, of pictures (B, 3, H, W), uint8; the pictures themselves where all may change."""
        return pictures

    def frozen(self, still: Tensor) -> Tensor:
        """Features (B, still_width) for methods that train no part of the network."""
        return self(still)

    def trainable(self) -> list[nn.Parameter]:
        """Parameters that a method may train."""
        return [each for name in self.tunable for each in self.get_submodule(name).parameters()]


class TransformerBase(Base):
    """A vision transformer, the only network that takes prompts.

    Parameters
    ----------
    vit : ViT
    read : {"class", "patches"}

    Examples
    --------
    >>> base = TransformerBase(ViT(**VITS["toy"]), "patches")
    >>> base(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
    torch.Size([2, 96])
    """

    tunable = ("vit",)
    read: Read

    def __init__(self, vit: ViT, read: Read) -> None:
        super().__init__()
        if read == "prompts":
            raise ValueError("read is 'prompts', which a transformer alone has none of; expected 'class' or 'patches'.")
        self.vit, self.read = vit, read
        self.width = self.still_width = vit.width

    def forward(self, still: Tensor, insertion: Insertion | None = None, *, read: Read | None = None, **beside: Any):
        """Features (B, width) of pictures, uint8, with insertions and networks beside its blocks."""
        return run_prompted(self.vit, still.float() / 255, insertion, read=read or self.read, **beside)


class PooledBase(Base):
    """A layer of any model, averaged over places; it stays as it is.

    Parameters
    ----------
    model : VisionModel
    layer : str
        Of the model; its last one without a name.

    Raises
    ------
    ValueError
        If the model has no such layer, or its module is no torch module of named layers.
    """

    def __init__(self, model: VisionModel, layer: str, size_px: int) -> None:
        super().__init__()
        self.model, self.layer = model, layer or model.layers[-1]
        if isinstance(model.module, nn.Module):
            self.module = model.module.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(model.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(model.std).view(-1, 1, 1))
        self.width = self.still_width = self.still(torch.zeros(1, 3, size_px, size_px, dtype=torch.uint8)).shape[1]

    def still(self, pictures: Tensor) -> Tensor:
        """Features (B, width)."""
        images = pictures.float() / 255
        if self.model.channels == 1:
            images = images.mean(1, keepdim=True)
        with torch.no_grad():
            responses = self.model.module((images - self.get_buffer("mean")) / self.get_buffer("std"))
        if not isinstance(responses, Mapping) or self.layer not in responses:
            known = ", ".join(responses) if isinstance(responses, Mapping) else "no named layers"
            raise ValueError(f"layer is {self.layer!r}, but {self.model.name} has {known}.")
        maps = responses[self.layer]
        return maps.flatten(2).mean(2) if maps.ndim > 2 else maps

    def forward(self, still: Tensor) -> Tensor:
        """The features themselves."""
        return still


class V2NetBase(Base):
    """LCL-V2Net or a twin, without its last layer: a chain of stages under AlexNet's remaining layers.

    Frozen stages are what never changes; their mean maps are the features of methods that train nothing.

    Parameters
    ----------
    net : RecognitionNet
        Its head ends in a linear layer, which is taken off.

    Examples
    --------
    >>> from lcl.stages import LCLV2
    >>> head = alexnet_head(192, 10, width=32, pool=1)
    >>> base = V2NetBase(RecognitionNet(LCLV2(), head, frozen=["V1", "V2"]))
    >>> still = base.still(torch.zeros(2, 3, 112, 112, dtype=torch.uint8))
    >>> still.shape, base(still).shape, base.tunable
    (torch.Size([2, 192, 6, 6]), torch.Size([2, 32]), ('rest',))
    """

    seeded = True

    def __init__(self, net: RecognitionNet) -> None:
        super().__init__()
        self.front, self.all_frozen = net, len(net.frozen) == len(net.front.names)
        assert isinstance(net.head, nn.Sequential)
        last = net.head[-1]
        assert isinstance(last, nn.Linear)
        self.rest, net.head = net.head[:-1], nn.Identity()
        self.tunable = ("rest",) if self.all_frozen else ("front", "rest")
        top = net.front[net.front.names[-1]]
        assert isinstance(top, Stage)
        self.width, self.still_width = last.in_features, top.out_channels

    def _maps(self, pictures: Tensor) -> Tensor:
        images = pictures.float() / 255
        if self.front.front[self.front.front.names[0]].conv.in_channels == 1:
            images = images.mean(1, keepdim=True)
        return self.front.maps(images)

    def still(self, pictures: Tensor) -> Tensor:
        """Maps of the stages where all of them are frozen, else the pictures."""
        if not self.all_frozen:
            return pictures
        with torch.no_grad():
            return self._maps(pictures)

    def frozen(self, still: Tensor) -> Tensor:
        """Mean maps of the stages (B, channels)."""
        return (still if self.all_frozen else self._maps(still)).mean((2, 3))

    def forward(self, still: Tensor) -> Tensor:
        """Features (B, width) of the last hidden layer."""
        return self.rest(still if self.all_frozen else self._maps(still))

    def trainable(self) -> list[nn.Parameter]:
        """All but frozen stages."""
        frozen = {each for name in self.front.frozen for each in self.front.front[name].parameters()}
        return [each for each in super().trainable() if each not in frozen]


def make_base(config: ContinualConfig, *, seed: int, loaders: Mapping[str, Callable[..., VisionModel]]) -> Base:
    """Network of a configuration.

    Parameters
    ----------
    config : ContinualConfig
    seed : int
        Of weights that are not given.
    loaders : mapping of str to callable
        As of :func:`lcl.measure.named_model`.

    Returns
    -------
    Base
        In evaluation mode, nothing of it taking a gradient.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such network.
    """
    name = config.backbone
    if not name:
        raise ValueError("there is no backbone; give --backbone RUN, vit_base16, v2net:FRONT or a model of `lcl fit`.")
    if config.weights and name not in VITS:
        raise ValueError(f"weights are given for {name}; expected them for {', '.join(VITS)} alone.")
    generator = torch.Generator().manual_seed(seed)
    if name in VITS:
        vit = ViT(**{**VITS[name], "size_px": config.size_px}, generator=generator)
        if config.weights:
            if not Path(config.weights).is_file():
                raise FileNotFoundError(f"{config.weights} does not exist; give weights under timm's names.")
            load_timm(vit, load_file(config.weights), drop=["head"])
        base: Base = TransformerBase(vit, config.read)
        base.seeded = not config.weights
    elif name.startswith("v2net:"):
        base = _v2net(name.removeprefix("v2net:"), config, seed)
    elif is_method_run(name):
        backbone, _ = load_method(name)
        if isinstance(backbone.trunk, Maps):
            base = TransformerBase(backbone.trunk.vit, config.read)
        else:
            model = VisionModel(backbone, Path(name).name, layers=backbone.layers)
            base = PooledBase(model, config.layer, config.size_px)
    else:
        base = PooledBase(named_model(name, seed=seed, loaders=loaders), config.layer, config.size_px)
    return base.eval().requires_grad_(False)


def _v2net(front: str, config: ContinualConfig, seed: int) -> V2NetBase:
    kind, _, run = front.partition(":")
    if kind != "tuned" and kind not in FRONT_ENDS:
        raise ValueError(f"v2net's front is {kind!r}; expected tuned:RUN, or one of {', '.join(FRONT_ENDS)}, and :RUN.")
    if kind in ("tuned", "lcl") and not run:
        raise ValueError(f"the front {kind} needs the run folder of `lcl train`: give v2net:{kind}:RUN.")
    chain = build_front_end("lcl" if kind == "tuned" else kind, run, seed=seed)
    top = chain[chain.names[-1]]
    assert isinstance(top, Stage)
    head = alexnet_head(
        top.out_channels,
        2,
        channels=config.head_channels,
        pool=config.head_pool,
        width=config.head_width,
        dropout=0.0,
        generator=torch.Generator().manual_seed(seed + 1),
    )
    frozen = () if kind == "tuned" else FRONT_ENDS[kind].frozen_stages(chain.names)
    return V2NetBase(RecognitionNet(chain, head, frozen=frozen))


class Source:
    """Labelled pictures as a network sees them; what is the same for all methods is computed once.

    Parameters
    ----------
    images : LabelledImages
    base : Base
        Not changed by any method.
    size_px : int
    cap_bytes : int
        Squares beyond this are cut anew each time.

    Attributes
    ----------
    labels : ndarray of int
    """

    def __init__(
        self, images: LabelledImages, base: Base, size_px: int, *, cap_bytes: int, device: torch.device
    ) -> None:
        self.images, self.base, self.size_px, self.device = images, base, size_px, device
        self.labels = images.labels
        self.keeps = len(images) * 3 * size_px**2 <= cap_bytes
        self._squares: Tensor | None = None
        self._still: Tensor | None = None
        self._features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def squares(self, index: np.ndarray) -> Tensor:
        """Central squares (B, 3, size_px, size_px) of pictures, uint8."""
        if not self.keeps:
            return _colour(central_squares(self.images, self.size_px, index)).to(self.device)
        if self._squares is None:
            self._squares = _colour(central_squares(self.images, self.size_px))
        return self._squares[index].to(self.device)

    def still(self, index: np.ndarray) -> Tensor:
        """What no method changes, of the central squares."""
        if type(self.base).still is Base.still or not self.keeps:
            return self.base.still(self.squares(index))
        if self._still is None:
            self._still = torch.cat([self.base.still(self.squares(part)).cpu() for part in _parts(len(self))])
        return self._still[index].to(self.device)

    def features(self, index: np.ndarray) -> Tensor:
        """Features by the network as it came, of the central squares."""
        if self._features is None:
            with torch.no_grad():
                parts = [self.base.frozen(self.still(part)).cpu() for part in _parts(len(self))]
            self._features = torch.cat(parts)
        return self._features[index].to(self.device)

    def crops(self, index: np.ndarray, generator: torch.Generator, least_area: float) -> Tensor:
        """What no method changes, of random crops, half of them mirrored."""
        sizes = self.images.store.sizes[index]
        drawn: CropParameters = draw_crops(sizes, generator, least_area=least_area, aspect=4 / 3, jitter=0.0)
        cuts = _colour(cut(self.images.store, index, drawn.box, self.size_px))
        return self.base.still(torch.where(drawn.flip[:, None, None, None], cuts.flip(3), cuts).to(self.device))


def _colour(pictures: Tensor) -> Tensor:
    return pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures


def _parts(count: int) -> list[np.ndarray]:
    return np.array_split(np.arange(count), max(1, -(-count // CHUNK)))
