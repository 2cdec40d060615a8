"""Networks that the comparison methods train: one interface, images in [0, 1] in, a dict of maps out.

========  ==========================  =================================  ===============================================
name      layers                      last map of 224, 112 and 96 px     what
========  ==========================  =================================  ===============================================
resnet18  ``layer1`` .. ``layer4``    7, 4, 3                            as torchvision's (:mod:`vision_methods.resnet`)
resnet50  ``layer1`` .. ``layer4``    7, 4, 3                            as torchvision's
alexnet   ``conv1`` .. ``conv5``      13, 6, 5                           AlexNet's convolutions with batch normalisation
lcl       ``V1``, ``V2``              13, 6, 5                           the stages of LCL-V2, trained end to end
conv4     ``conv1`` .. ``conv4``      28, 14, 12 (32 px: 4)              four small convolutions, ours
========  ==========================  =================================  ===============================================

``lcl`` is what a method makes of the very architecture of LCL-V2 when gradients pass from stage to stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcl.stages import LCLV2, BatchNorm, StageChain
from vision_methods.resnet import ResNet

#: Mean and standard deviation of ImageNet's colours, in [0, 1].
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Layer, filters, kernel, stride and padding of each convolution of AlexNet (Krizhevsky 2014).
ALEXNET = (
    ("conv1", 64, 11, 4, 2),
    ("conv2", 192, 5, 1, 2),
    ("conv3", 384, 3, 1, 1),
    ("conv4", 256, 3, 1, 1),
    ("conv5", 256, 3, 1, 1),
)
#: Layer, filters and stride of each convolution of :class:`SmallConvolutions`.
CONV4 = (("conv1", 32, 2), ("conv2", 64, 2), ("conv3", 96, 1), ("conv4", 128, 2))


class Backbone(nn.Module):
    """A network and how images enter it.

    The state of ``trunk`` alone has the names of the public weights (ResNets) or of an LCL run (stages).

    Parameters
    ----------
    trunk : Module
        From normalised images (B, 3, H, W) to a dict of maps, layer by layer.
    channels : mapping of str to int
        Channels of every layer that it gives, from the bottom up.
    mean, std : sequence of float
        Images enter the trunk as ``(image - mean) / std``, per colour.
    least_px : int
        Smallest side of an image that leaves a place on every map.

    Attributes
    ----------
    layers : tuple of str
    channels : dict of str to int

    Examples
    --------
    >>> backbone = make_backbone("alexnet", seed=0)
    >>> {name: tuple(maps.shape) for name, maps in backbone(torch.rand(2, 3, 96, 96)).items()}
    {'conv1': (2, 64, 23, 23), 'conv2': (2, 192, 11, 11), 'conv3': (2, 384, 5, 5), 'conv4': (2, 256, 5, 5),
     'conv5': (2, 256, 5, 5)}
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        channels: Mapping[str, int],
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        least_px: int = 1,
    ) -> None:
        super().__init__()
        self.trunk, self.channels, self.layers, self.least_px = trunk, dict(channels), tuple(channels), least_px
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of every layer.

        Parameters
        ----------
        images : Tensor, (B, 3, H, W)
            Floating point, in [0, 1].

        Returns
        -------
        dict of str to Tensor
            Layer to maps (B, C, H', W'), rectified.

        Raises
        ------
        ValueError
            If the images have another shape or type, or are too small.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"Images are {images.dtype} of shape {tuple(images.shape)}; expected floating point in [0, 1] of shape "
                "(batch, 3, height, width)."
            )
        if min(images.shape[2:]) < self.least_px:
            raise ValueError(
                f"Images of {images.shape[2]} x {images.shape[3]} px leave nothing of layer {self.layers[-1]}; "
                f"expected sides of at least {self.least_px} px."
            )
        return self.trunk((images - self.mean) / self.std)


class AlexNet(nn.Module):
    """AlexNet's convolutions (Krizhevsky 2014) with batch normalisation, which is ours, before each rectification.

    Pools of 3 and stride 2 lie before ``conv2`` and ``conv3``.

    Parameters
    ----------
    generator : torch.Generator, optional
        Draws the initial weights (normal with variance 2 / fan-in).

    Examples
    --------
    >>> list(AlexNet()(torch.rand(2, 3, 64, 64)))
    ['conv1', 'conv2', 'conv3', 'conv4', 'conv5']
    """

    def __init__(self, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        below = 3
        self.convolutions, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for name, filters, kernel, stride, padding in ALEXNET:
            conv = nn.Conv2d(below, filters, kernel, stride, padding, bias=False)
            nn.init.normal_(conv.weight, std=(2 / (below * kernel**2)) ** 0.5, generator=generator)
            self.convolutions[name], self.norms[name] = conv, BatchNorm(filters)
            below = filters

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Rectified maps of the convolutions, before pooling, of normalised images (B, 3, H, W)."""
        maps, responses = images, {}
        for name, conv in self.convolutions.items():
            if name in ("conv2", "conv3"):
                maps = F.max_pool2d(maps, 3, 2)
            responses[name] = maps = F.relu(self.norms[name](conv(maps)))
        return responses


class SmallConvolutions(nn.Module):
    """Four 3 x 3 convolutions, ours, for pictures of some 32 px: each is normalised, then rectified.

    Parameters
    ----------
    generator : torch.Generator, optional
        Draws the initial weights (normal with variance 2 / fan-in).

    Examples
    --------
    >>> [tuple(maps.shape[1:]) for maps in SmallConvolutions()(torch.rand(2, 3, 32, 32)).values()]
    [(32, 16, 16), (64, 8, 8), (96, 8, 8), (128, 4, 4)]
    """

    def __init__(self, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        below = 3
        self.convolutions, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for name, filters, stride in CONV4:
            conv = nn.Conv2d(below, filters, 3, stride, 1, bias=False)
            nn.init.normal_(conv.weight, std=(2 / (below * 9)) ** 0.5, generator=generator)
            self.convolutions[name], self.norms[name] = conv, BatchNorm(filters)
            below = filters

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Rectified maps of the convolutions, of normalised images (B, 3, H, W)."""
        maps, responses = images, {}
        for name, conv in self.convolutions.items():
            responses[name] = maps = F.relu(self.norms[name](conv(maps)))
        return responses


class EndToEndStages(nn.Module):
    """The stages of a chain, each fed by the one below with its gradient, unlike the chain itself.

    Parameters
    ----------
    chain : StageChain
        Its stages are taken, not copied; their names in the state are the chain's.

    Examples
    --------
    >>> EndToEndStages(LCLV2())(torch.rand(2, 3, 112, 112))["V2"].shape
    torch.Size([2, 192, 6, 6])
    """

    def __init__(self, chain: StageChain) -> None:
        super().__init__()
        self.stages = chain.stages

    def forward(self, maps: Tensor) -> dict[str, Tensor]:
        """Maps of every stage."""
        responses = {}
        for name, stage in self.stages.items():
            responses[name] = maps = stage(maps)
        return responses


def _resnet(
    blocks: Sequence[int], bottleneck: bool, *, same_padding: bool = False, generator: torch.Generator | None = None
) -> Backbone:
    trunk = ResNet(blocks, bottleneck=bottleneck, same_padding=same_padding, generator=generator)
    return Backbone(trunk, trunk.channels)


def resnet18(*, same_padding: bool = False, generator: torch.Generator | None = None) -> Backbone:
    """ResNet-18 (:class:`vision_methods.resnet.ResNet`).

    Examples
    --------
    >>> resnet18().channels
    {'layer1': 64, 'layer2': 128, 'layer3': 256, 'layer4': 512}
    """
    return _resnet((2, 2, 2, 2), False, same_padding=same_padding, generator=generator)


def resnet50(*, same_padding: bool = False, generator: torch.Generator | None = None) -> Backbone:
    """ResNet-50 (:class:`vision_methods.resnet.ResNet`); ``same_padding`` for weights from TensorFlow or JAX.

    Examples
    --------
    >>> resnet50().channels
    {'layer1': 256, 'layer2': 512, 'layer3': 1024, 'layer4': 2048}
    """
    return _resnet((3, 4, 6, 3), True, same_padding=same_padding, generator=generator)


def alexnet(*, generator: torch.Generator | None = None) -> Backbone:
    """AlexNet's convolutions with batch normalisation (:class:`AlexNet`), for images of at least 31 px.

    Examples
    --------
    >>> alexnet().channels["conv5"]
    256
    """
    channels = {name: filters for name, filters, *_ in ALEXNET}
    return Backbone(AlexNet(generator=generator), channels, least_px=31)


def conv4(*, generator: torch.Generator | None = None) -> Backbone:
    """Four convolutions for small pictures (:class:`SmallConvolutions`), 13 MFLOP at 32 px.

    Examples
    --------
    >>> conv4().channels
    {'conv1': 32, 'conv2': 64, 'conv3': 96, 'conv4': 128}
    """
    return Backbone(SmallConvolutions(generator=generator), {name: filters for name, filters, _ in CONV4})


def lcl_stages(*, generator: torch.Generator | None = None) -> Backbone:
    """V1 and V2 of :class:`lcl.stages.LCLV2`, with that model's own scaling of images.

    Examples
    --------
    >>> lcl_stages().channels
    {'V1': 64, 'V2': 192}
    """
    chain = LCLV2(generator=generator)
    channels = {name: chain[name].out_channels for name in chain.names}
    mean, std = [chain.input_mean] * 3, [chain.input_std] * 3
    return Backbone(EndToEndStages(chain), channels, mean=mean, std=std, least_px=31)


#: Backbones by name; each is called with ``generator=``.
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "alexnet": alexnet,
    "lcl": lcl_stages,
    "conv4": conv4,
}


def make_backbone(name: str, *, seed: int, **options: Any) -> Backbone:
    """Backbone by name, with new weights.

    Parameters
    ----------
    name : str
        Of :data:`BACKBONES`.
    seed : int
        Of the weights.
    **options
        Of the ResNets: ``same_padding``.

    Returns
    -------
    Backbone

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> make_backbone("lcl", seed=0).layers
    ('V1', 'V2')
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone is {name!r}; expected one of {', '.join(BACKBONES)}.")
    return BACKBONES[name](generator=torch.Generator().manual_seed(seed), **options)


def load_torchvision(backbone: Backbone, state: Mapping[str, Tensor], *, drop: Sequence[str] = ()) -> None:
    """Load weights under torchvision's names into a ResNet backbone, all of them or none.

    Parameters
    ----------
    backbone : Backbone
        Changed in place.
    state : mapping of str to Tensor
        As torchvision's ``resnet18().state_dict()``. The counters ``num_batches_tracked`` may be missing, as in
        torchvision's oldest files.
    drop : sequence of str
        Modules whose tensors are left out, such as ``fc``; no other name may be left over.

    Raises
    ------
    ValueError
        If the backbone is no ResNet, a name is missing or left over, or a tensor has another shape or holds a number
        that is not finite.

    Examples
    --------
    >>> state = ResNet((2, 2, 2, 2), bottleneck=False, classes=1000).state_dict()
    >>> backbone = make_backbone("resnet18", seed=1)
    >>> load_torchvision(backbone, state, drop=["fc"])
    >>> torch.equal(backbone.trunk.conv1.weight, state["conv1.weight"])
    True
    """
    if not isinstance(backbone.trunk, ResNet):
        raise ValueError(
            f"The backbone is {type(backbone.trunk).__name__}; expected a ResNet for torchvision's weights."
        )
    kept = {name: value for name, value in state.items() if name.partition(".")[0] not in drop}
    expected = backbone.trunk.state_dict()
    missing = sorted(name for name in expected.keys() - kept.keys() if not name.endswith(".num_batches_tracked"))
    unknown = sorted(kept.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(
            f"The weights lack {', '.join(missing[:3]) or 'nothing'} ({len(missing)} names) and have besides "
            f"{', '.join(unknown[:3]) or 'nothing'} ({len(unknown)} names); expected torchvision's names, and "
            "drop=['fc'] to leave its classifier out."
        )
    for name, value in kept.items():
        if value.shape != expected[name].shape or not value.isfinite().all():
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; expected finite numbers of shape "
                f"{tuple(expected[name].shape)}."
            )
    backbone.trunk.load_state_dict(kept)
