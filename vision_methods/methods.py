"""The comparison methods by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from vision_methods.backbones import Backbone, make_backbone
from vision_methods.config import (
    DetConConfig,
    HummingbirdConfig,
    MCViTConfig,
    MethodConfig,
    OdinConfig,
    VITOConfig,
)
from vision_methods.image_text_config import ACIDConfig, ImageTextConfig, LIxPConfig, ThreeWaysConfig
from vision_methods.learner import Learner


def _named_backbone(config: Any, seed: int) -> Backbone:
    return make_backbone(config.backbone, seed=seed)


@dataclass(frozen=True)
class Method:
    """A comparison method.

    Attributes
    ----------
    about : str
        One line.
    page : str
        Its page in ``docs``.
    config : type
        Its settings.
    build : callable
        From a configuration, a device and ``progress=`` to a learner on that device.
    backbone : callable
        From a configuration and a seed to the learner's backbone with new weights, to load a run into.
    images : str
        What ``--images`` is in examples; empty: photographs.
    """

    about: str
    page: str
    config: type[MethodConfig]
    build: Callable[..., Learner]
    backbone: Callable[[Any, int], Backbone] = _named_backbone
    images: str = ""


def _detcon(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.detcon import build

    return build(config, device, progress=progress)


def _odin(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.odin import build

    return build(config, device, progress=progress)


def _vito(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.vito import build

    return build(config, device, progress=progress)


def _hummingbird(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.hummingbird import build

    return build(config, device, progress=progress)


def _hummingbird_backbone(config: Any, seed: int) -> Backbone:
    from vision_methods.hummingbird import make_encoder_backbone

    return make_encoder_backbone(config, seed)


def _mcvit(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.mcvit import build

    return build(config, device, progress=progress)


def _mcvit_backbone(config: Any, seed: int) -> Backbone:
    from vision_methods.mcvit import make_vit
    from vision_methods.vit import vit_backbone

    return vit_backbone(make_vit(config, seed))


def _acid(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.acid import build

    return build(config, device, progress=progress)


def _lixp(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.lixp import build

    return build(config, device, progress=progress)


def _siglip(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.siglip import build

    return build(config, device, progress=progress)


def _three_ways(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.three_ways_run import build

    return build(config, device, progress=progress)


def _image_tower(config: Any, seed: int) -> Backbone:
    from vision_methods.siglip import make_image_tower

    return make_image_tower(config, seed)


#: Methods by name.
METHODS: dict[str, Method] = {
    "detcon": Method(
        "Contrastive detection of masks in two views of a picture (Henaff et al. 2021)",
        "methods-detcon.md",
        DetConConfig,
        _detcon,
    ),
    "odin": Method(
        "Object discovery and representation: DetCon with masks that the network finds (Henaff et al. 2022)",
        "methods-odin.md",
        OdinConfig,
        _odin,
    ),
    "vito": Method(
        "Two frames of a clip, pooled by learned attention (Parthasarathy et al. 2023); MoCLR as a special case",
        "methods-vito.md",
        VITOConfig,
        _vito,
        images="~/videos",
    ),
    "hummingbird": Method(
        "Context from other pictures and attention pooling for dense retrieval, reconstructed (Balazevic et al. 2023)",
        "methods-hummingbird.md",
        HummingbirdConfig,
        _hummingbird,
        _hummingbird_backbone,
    ),
    "mcvit": Method(
        "Memory-consolidated transformer for long videos (Balazevic et al. 2024)",
        "methods-mcvit.md",
        MCViTConfig,
        _mcvit,
        _mcvit_backbone,
        "~/videos",
    ),
    "acid": Method(
        "Pairs to learn from chosen by a reference model, ACID; and distilled besides, ACED (Udandarao et al. 2025)",
        "methods-acid.md",
        ACIDConfig,
        _acid,
        _image_tower,
        "captions.json",
    ),
    "lixp": Method(
        "Pictures and captions, and what a picture reads from its neighbours, for few-shot use (Roth et al. 2025)",
        "methods-lixp.md",
        LIxPConfig,
        _lixp,
        _image_tower,
        "captions.json",
    ),
    "siglip": Method(
        "Pictures and their captions: SigLIP's sigmoid loss or CLIP's softmax (Zhai et al. 2023; Radford et al. 2021)",
        "methods-siglip.md",
        ImageTextConfig,
        _siglip,
        _image_tower,
        "captions.json",
    ),
    "three-ways": Method(
        "Boxes for any words: gated shortcuts, text variants, self-training; our reading (Arandjelovic et al. 2023)",
        "methods-three-ways.md",
        ThreeWaysConfig,
        _three_ways,
    ),
}
