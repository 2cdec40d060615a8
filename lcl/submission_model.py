"""A network of `lcl` for Brain-Score: its layers, how it sees pictures, and its weights; needs torch and safetensors.

The `model.py` of a submission is this file with the numbers of one run below it, so that a submission does not need the
package and does not change with it.
"""

import hashlib
import os
import shutil
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

#: Level around pictures that do not fill the square.
BACKGROUND = 0.5
#: Red, green and blue in luma, ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


class Stage(nn.Module):
    """Convolution, normalisation, rectification, pooling; nothing in place, so that responses stay what they were."""

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        kernel: int,
        stride: int,
        padding: int,
        norm: bool,
        pool: str,
        pool_kernel: int,
        pool_stride: int,
        simple_complex: bool,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=not norm)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.pool, self.pool_kernel, self.pool_stride = pool, pool_kernel, pool_stride
        self.simple_complex = simple_complex

    def forward(self, maps: Tensor) -> Tensor:
        """Responses (picture, channel, row, column)."""
        drive = self.norm(self.conv(maps))
        response = F.relu(drive)
        if self.simple_complex:
            pairs = drive.square().unflatten(1, (-1, 2)).sum(2)
            response = torch.cat([response, (pairs + 1e-6).sqrt()], 1)
        if self.pool_kernel == self.pool_stride == 1:
            return response
        if self.pool == "max":
            return F.max_pool2d(response, self.pool_kernel, self.pool_stride)
        if self.pool == "blur":
            return self.blurred(response)
        return (self.blurred(response.square()) + 1e-6).sqrt()

    def blurred(self, maps: Tensor) -> Tensor:
        """Binomial blur, as a cascade of means of two, and subsampling."""
        for _ in range(self.pool_kernel - 2):
            maps = F.avg_pool2d(maps, 2, 1)
        return F.avg_pool2d(maps, min(self.pool_kernel, 2), self.pool_stride)


class Chain(nn.Module):
    """Stages in a row, fed with pictures in [0, 1]."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.mean, self.std = spec["input_mean"], spec["input_std"]
        self.stages = nn.ModuleDict({name: Stage(**stage) for name, stage in spec["stages"].items()})

    def forward(self, images: Tensor) -> Tensor:
        """Maps of the last stage."""
        maps = (images - self.mean) / self.std
        for stage in self.stages.values():
            maps = stage(maps)
        return maps


class Recognition(nn.Module):
    """AlexNet's layers above its second pool, on a chain of stages."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        head = spec["head"]
        self.front = Chain(spec)
        layers: list[nn.Module] = []
        below = head["in_channels"]
        for filters in head["channels"]:
            layers.append(nn.Conv2d(below, filters, 3, padding=1, bias=not head["norm"]))
            layers += [nn.BatchNorm2d(filters)] if head["norm"] else []
            layers.append(nn.ReLU())
            below = filters
        layers += [nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d(head["pool"]), nn.Flatten()]
        below *= head["pool"] ** 2
        for _ in range(2):
            layers += [nn.Dropout(), nn.Linear(below, head["width"]), nn.ReLU()]
            below = head["width"]
        self.head = nn.Sequential(*layers, nn.Linear(below, head["classes"]))

    def forward(self, images: Tensor) -> Tensor:
        """One number per class."""
        return self.head(self.front(images))


def network(spec: Mapping[str, Any]) -> nn.Module:
    """Network of a shape, without its weights, in evaluation mode.

    Parameters
    ----------
    spec : mapping
        ``stages``, ``input_mean``, ``input_std`` and, for a recognition network, ``head``.

    Returns
    -------
    Module

    Examples
    --------
    >>> sizes = {"kernel": 3, "stride": 1, "padding": 0, "pool_kernel": 2, "pool_stride": 2}
    >>> stage = {"in_channels": 1, "channels": 4, "norm": True, "pool": "max", "simple_complex": False, **sizes}
    >>> network({"stages": {"V1": stage}, "input_mean": 0.5, "input_std": 0.25})(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 4, 3, 3])
    """
    return (Recognition(spec) if spec.get("head") else Chain(spec)).eval()


def preprocess(paths: Sequence[str], *, input_px: int, channels: int) -> np.ndarray:
    """Picture files as the network takes them: as wide as its input, centred, in [0, 1].

    Resized bilinearly, with antialiasing where a picture becomes smaller, in floating point; a picture keeps its shape,
    and what it does not fill is grey.

    Parameters
    ----------
    paths : sequence of path
    input_px : int
        Side of the input.
    channels : {1, 3}

    Returns
    -------
    ndarray of float32, (picture, channel, input_px, input_px)

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> Image.fromarray(np.full((2, 4), 255, np.uint8)).save(path)
    >>> preprocess([str(path)], input_px=4, channels=1)[0, 0, :, 0]
    array([0.5, 1. , 1. , 0.5], dtype=float32)
    """
    batch = torch.full((len(paths), channels, input_px, input_px), BACKGROUND)
    for placed, path in zip(batch, paths, strict=True):
        with Image.open(path) as file:
            pixels = np.array(file if file.mode == "L" else file.convert("RGB"))
        picture = torch.from_numpy(pixels).float() / 255
        picture = picture[None] if picture.ndim == 2 else picture.movedim(2, 0)
        if len(picture) != channels:
            grey = torch.tensor(LUMA).view(3, 1, 1)
            picture = picture.expand(3, -1, -1) if channels == 3 else (picture * grey).sum(0, keepdim=True)
        height = max(1, round(input_px * picture.shape[1] / picture.shape[2]))
        if picture.shape[1:] != (height, input_px):
            size = (height, input_px)
            picture = F.interpolate(picture[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
        start = abs(height - input_px) // 2
        if height < input_px:
            placed[:, start : start + height] = picture
        else:
            placed.copy_(picture[:, start : start + input_px])
    return batch.numpy()


def weights_file(url: str, sha256: str, folder: Path) -> Path:
    """File of weights, downloaded unless it is there, and refused unless it is the right one.

    Parameters
    ----------
    url : str
    sha256 : str
    folder : Path

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If what the address gives has another digest.
    """
    path = folder / f"{sha256}.safetensors"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{sha256}.{os.getpid()}.partial"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, partial.open("wb") as file:
            shutil.copyfileobj(answer, file)
        found = hashlib.sha256(partial.read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(f"{url} gives a file with sha256 {found}; expected {sha256}: put the right weights there.")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def activations_model(
    spec: Mapping[str, Any], *, identifier: str, url: str, sha256: str, input_px: int, file: str
) -> Any:
    """Network with its weights, as Brain-Score takes activations from it.

    Parameters
    ----------
    spec : mapping
    identifier : str
        Name of the model.
    url, sha256 : str
        Of the weights.
    input_px : int
    file : path
        The file that holds all this: its digest is part of the name under which activations are stored, so that
        other weights, layers or preprocessing never get them.

    Returns
    -------
    PytorchWrapper
    """
    from brainscore_vision.model_helpers.activations.pytorch import (  # pyright: ignore[reportMissingImports]
        PytorchWrapper,
    )

    home = Path(os.environ.get("BRAINSCORE_HOME", "~/.brain-score")).expanduser()
    made = network(spec)
    made.load_state_dict(load_file(weights_file(url, sha256, home / "models" / identifier)))
    channels = next(iter(spec["stages"].values()))["in_channels"]
    content = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:24]
    wrapper = PytorchWrapper(
        model=made,
        preprocessing=lambda paths: preprocess(paths, input_px=input_px, channels=channels),
        identifier=f"{identifier}-{content}",
    )
    wrapper.image_size = input_px
    return wrapper
