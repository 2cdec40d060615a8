"""The comparison methods by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from vision_methods.config import DetConConfig, MethodConfig, OdinConfig, VITOConfig
from vision_methods.learner import Learner


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
    """

    about: str
    page: str
    config: type[MethodConfig]
    build: Callable[..., Learner]


def _detcon(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.detcon import build

    return build(config, device, progress=progress)


def _odin(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.odin import build

    return build(config, device, progress=progress)


def _vito(config: Any, device: torch.device, *, progress: bool = False) -> Learner:
    from vision_methods.vito import build

    return build(config, device, progress=progress)


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
    ),
}
