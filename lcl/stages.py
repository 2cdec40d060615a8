"""The model: stages of canonical operations, and chains of stages.

A stage convolves, normalises, rectifies and pools. A chain of stages maps an image batch to one feature map per stage.
Nothing is done in place, so that a response taken from any layer stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcl import receptive_field as rf
from lcl.distributed import sum_over_processes, world_size
from stimuli.display import PIXELS_PER_DEGREE


def max_pool(maps: Tensor, kernel: int, stride: int) -> Tensor:
    """Maximum over ``kernel x kernel`` windows.

    Parameters
    ----------
    maps : Tensor, shape (batch, channel, height, width)
    kernel, stride : int
        Window side and step, in units of the map.

    Returns
    -------
    Tensor, shape (batch, channel, height', width')

    Examples
    --------
    >>> max_pool(torch.arange(9.0).view(1, 1, 3, 3), 3, 2)
    tensor([[[[8.]]]])
    """
    return F.max_pool2d(maps, kernel, stride)


def blur_pool(maps: Tensor, kernel: int, stride: int) -> Tensor:
    """Binomial blur, then subsampling (Zhang 2019): anti-aliased linear pooling.

    A binomial window of side ``k`` is a cascade of ``k - 1`` averages over two neighbours; average pools are many
    times faster than the equivalent depthwise convolution.

    Parameters
    ----------
    maps : Tensor, shape (batch, channel, height, width)
    kernel, stride : int
        Window side and step, in units of the map.

    Returns
    -------
    Tensor, shape (batch, channel, height', width')

    Examples
    --------
    >>> blur_pool(torch.arange(9.0).view(1, 1, 3, 3), 3, 2)
    tensor([[[[4.]]]])
    """
    for _ in range(kernel - 2):
        maps = F.avg_pool2d(maps, 2, 1)
    return F.avg_pool2d(maps, min(kernel, 2), stride)


def l2_pool(maps: Tensor, kernel: int, stride: int) -> Tensor:
    """Root of the binomially weighted mean of squares over ``kernel x kernel`` windows.

    Parameters
    ----------
    maps : Tensor, shape (batch, channel, height, width)
    kernel, stride : int
        Window side and step, in units of the map.

    Returns
    -------
    Tensor, shape (batch, channel, height', width')

    Examples
    --------
    >>> float(l2_pool(torch.full((1, 1, 3, 3), 2.0), 3, 2).round(decimals=3))
    2.0
    """
    # The constant keeps the gradient of the root finite where a window is silent.
    return (blur_pool(_widened(maps).square(), kernel, stride) + 1e-6).sqrt().to(maps.dtype)


def _widened(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


#: Pools by name.
POOLS: dict[str, Callable[[Tensor, int, int], Tensor]] = {"max": max_pool, "blur": blur_pool, "l2": l2_pool}


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose batch is the whole batch of all processes; otherwise as in torch.

    torch's own synchronised version needs CUDA; this one gives one process's result on any device.

    Examples
    --------
    >>> BatchNorm(4)(torch.randn(8, 4, 5, 5)).shape
    torch.Size([8, 4, 5, 5])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(batch, channel, height, width)``."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        maps = _widened(input)
        count = sum_over_processes(maps.new_tensor([maps.numel() / maps.shape[1]]))
        mean = sum_over_processes(maps.sum((0, 2, 3))) / count
        centred = maps - mean[:, None, None]
        variance = sum_over_processes(centred.square().sum((0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * count / (count - 1), momentum)
        scaled = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (scaled * self.weight[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class Stage(nn.Module):
    """One cortical stage: convolution, normalisation, half-wave rectification, pooling.

    Parameters
    ----------
    in_channels, channels : int
        Channels of the input and number of filters.
    kernel, stride, padding : int
        Of the convolution, in units of the stage's input.
    norm : bool
        Batch normalisation with a learned gain and offset per channel.
    pool : {"max", "blur", "l2"}
        How neighbouring responses are pooled.
    pool_kernel, pool_stride : int
        Window of the pool; ``pool_stride=1, pool_kernel=1`` means no pool.
    simple_complex : bool
        Besides the rectified (simple) responses, give the energy ``sqrt(a^2 + b^2)`` of consecutive pairs of filters
        (complex); half as many channels again.
    generator : torch.Generator, optional
        Draws the initial weights (normal with variance 2 / fan-in); torch's default generator without it.

    Raises
    ------
    ValueError
        If ``pool`` is unknown, or ``simple_complex`` is asked for with an odd number of filters.

    Examples
    --------
    >>> stage = Stage(3, 64, kernel=11, stride=4, padding=2)
    >>> stage(torch.rand(2, 3, 64, 64)).shape, stage.receptive_field.size_px
    (torch.Size([2, 64, 7, 7]), 19)
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        norm: bool = True,
        pool: str = "max",
        pool_kernel: int = 3,
        pool_stride: int = 2,
        simple_complex: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool is {pool!r}; expected one of {', '.join(POOLS)}.")
        if simple_complex and channels % 2:
            raise ValueError(f"simple_complex pairs filters, but there are {channels}; expected an even number.")
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=not norm)
        nn.init.normal_(self.conv.weight, std=(2 / (in_channels * kernel**2)) ** 0.5, generator=generator)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.norm = BatchNorm(channels) if norm else nn.Identity()
        self.pool, self.pool_kernel, self.pool_stride = pool, pool_kernel, pool_stride
        self.simple_complex = simple_complex
        self.out_channels = channels + channels // 2 if simple_complex else channels

    def windows(self) -> list[rf.Window]:
        """Sliding windows of the stage, in order."""
        return [*rf.windows(self.conv), rf.Window(self.pool_kernel, self.pool_stride)]

    @property
    def spec(self) -> dict[str, Any]:
        """Arguments that build this stage again, as plain values."""
        return {
            "in_channels": self.conv.in_channels,
            "channels": self.conv.out_channels,
            "kernel": self.conv.kernel_size[0],
            "stride": self.conv.stride[0],
            "padding": int(self.conv.padding[0]),
            "norm": isinstance(self.norm, BatchNorm),
            "pool": self.pool,
            "pool_kernel": self.pool_kernel,
            "pool_stride": self.pool_stride,
            "simple_complex": self.simple_complex,
        }

    @property
    def receptive_field(self) -> rf.ReceptiveField:
        """Receptive field of one output unit on the stage's own input."""
        return rf.receptive_field(self.windows())

    def forward(self, maps: Tensor, *, valid: bool = False) -> Tensor:
        """Responses of the stage.

        Parameters
        ----------
        maps : Tensor, shape (batch, in_channels, height, width)
        valid : bool
            Leave out the padding, so that every output unit sees real input only. Training uses this: a padded border
            would be the same in both views of a patch.

        Returns
        -------
        Tensor, shape (batch, out_channels, height', width')
        """
        if valid:
            drive = F.conv2d(maps, self.conv.weight, self.conv.bias, self.conv.stride)
        else:
            drive = self.conv(maps)
        drive = self.norm(drive)
        response = F.relu(drive)
        if self.simple_complex:
            pairs = _widened(drive).square().unflatten(1, (-1, 2)).sum(2)
            response = torch.cat([response, (pairs + 1e-6).sqrt().to(response.dtype)], 1)
        if self.pool_kernel == 1 and self.pool_stride == 1:
            return response
        return POOLS[self.pool](response, self.pool_kernel, self.pool_stride)


class StageChain(nn.Module):
    """Stages in a row, each fed by the one below.

    While training, the input of every stage is detached: no gradient crosses a stage boundary.

    Parameters
    ----------
    stages : mapping of str to Stage
        Name and stage, from the bottom up; each stage's ``in_channels`` are the ``out_channels`` of the one below.
    pixels_per_degree : float
        Pixels of the input image per degree of visual angle.
    input_mean, input_std : float
        Images in [0, 1] enter the first stage as ``(image - mean) / std``, so that zero padding is mid-grey (ours).

    Raises
    ------
    ValueError
        If there is no stage, or the channels of two neighbours differ.

    Examples
    --------
    >>> chain = StageChain({"a": Stage(1, 8, kernel=5), "b": Stage(8, 16, kernel=3)})
    >>> {name: tuple(maps.shape) for name, maps in chain(torch.rand(2, 1, 32, 32)).items()}
    {'a': (2, 8, 13, 13), 'b': (2, 16, 5, 5)}
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        *,
        pixels_per_degree: float = PIXELS_PER_DEGREE,
        input_mean: float = 0.5,
        input_std: float = 0.25,
    ) -> None:
        super().__init__()
        if not stages:
            raise ValueError("A chain of 0 stages was given; expected at least one.")
        names = list(stages)
        for below, above in pairwise(names):
            given, needed = stages[below].out_channels, stages[above].conv.in_channels
            if given != needed:
                raise ValueError(f"Stage {above} takes {needed} channels, but {below} below it gives {given}.")
        self.stages = nn.ModuleDict(stages)
        self.pixels_per_degree = pixels_per_degree
        self.input_mean, self.input_std = input_mean, input_std

    def __getitem__(self, name: str) -> Stage:
        stage = self.stages[name]
        assert isinstance(stage, Stage)
        return stage

    @property
    def spec(self) -> dict[str, Any]:
        """Plain values from which :meth:`from_spec` builds a chain of the same shape."""
        return {
            "stages": {name: self[name].spec for name in self.names},
            "pixels_per_degree": self.pixels_per_degree,
            "input_mean": self.input_mean,
            "input_std": self.input_std,
        }

    @staticmethod
    def from_spec(spec: dict[str, Any], generator: torch.Generator | None = None) -> StageChain:
        """Chain of the shape that :attr:`spec` describes, with new weights.

        Parameters
        ----------
        spec : dict
        generator : torch.Generator, optional
            Draws the initial weights.

        Returns
        -------
        StageChain
        """
        stages = {name: Stage(**stage, generator=generator) for name, stage in spec["stages"].items()}
        return StageChain(stages, **{name: value for name, value in spec.items() if name != "stages"})

    def _place(self, name: str) -> int:
        if name not in self.stages:
            raise ValueError(f"There is no stage {name!r}; expected one of {', '.join(self.names)}.")
        return self.names.index(name)

    @property
    def names(self) -> list[str]:
        """Names of the stages, from the bottom up."""
        return list(self.stages)

    @property
    def in_channels(self) -> int:
        """Colour channels of the image."""
        return self[self.names[0]].conv.in_channels

    def windows(self, name: str | None = None) -> list[rf.Window]:
        """Sliding windows from the image up to and including a stage (the last one without a name)."""
        names = self.names[: self._place(name) + 1] if name else self.names
        return [window for each in names for window in self[each].windows()]

    def receptive_field(self, name: str) -> rf.ReceptiveField:
        """Receptive field on the image of one output unit of a stage."""
        return rf.receptive_field(self.windows(name))

    def stage_input(self, images: Tensor, name: str, *, valid: bool = False) -> Tensor:
        """What a stage is fed: the responses of all stages below it, or the scaled image for the first one.

        Detached while training, as in :meth:`forward`.
        """
        maps = (images - self.input_mean) / self.input_std
        for below in self.names[: self._place(name)]:
            maps = self[below](maps, valid=valid)
        return maps.detach() if self.training else maps

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps of every stage.

        Parameters
        ----------
        images : Tensor, shape (batch, channel, height, width)
            Floating point, in [0, 1].

        Returns
        -------
        dict of str to Tensor
            Stage name to maps of shape (batch, channel, height', width').

        Raises
        ------
        ValueError
            If the images have another shape or type, or are too small for the last stage.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels or not images.is_floating_point():
            raise ValueError(
                f"Images are {images.dtype} of shape {tuple(images.shape)}; expected floating point in [0, 1] of shape "
                f"(batch, {self.in_channels}, height, width)."
            )
        if rf.map_side(self.windows(), min(images.shape[2:])) < 1:
            raise ValueError(
                f"Images of {images.shape[2]} x {images.shape[3]} px are too small for stage {self.names[-1]}, whose "
                f"receptive field is {self.receptive_field(self.names[-1]).size_px} px; give larger images."
            )
        maps = (images - self.input_mean) / self.input_std
        responses = {}
        for name in self.names:
            maps = self[name](maps.detach() if self.training else maps)
            responses[name] = maps
        return responses


class LCLV2(StageChain):
    """Two stages with the geometry of AlexNet's first two: V1 (11/4, 64 filters) and V2 (5/1, 192 filters).

    Receptive fields 19 and 67 px. The layer sizes of the published model were not available to us; the AlexNet
    geometry, batch normalisation and the pool are ours.

    Parameters
    ----------
    in_channels : {1, 3}
        Grey or colour images.
    channels : sequence of int
        Filters of V1 and V2.
    norm, pool, simple_complex
        As in :class:`Stage`; ``simple_complex`` adds complex channels to V1.
    pixels_per_degree : float
        Pixels of the input image per degree of visual angle.
    generator : torch.Generator, optional
        Draws the initial weights.

    Examples
    --------
    >>> responses = LCLV2()(torch.rand(1, 3, 224, 224))
    >>> {name: tuple(maps.shape) for name, maps in responses.items()}
    {'V1': (1, 64, 27, 27), 'V2': (1, 192, 13, 13)}
    """

    def __init__(
        self,
        in_channels: int = 3,
        channels: Sequence[int] = (64, 192),
        *,
        norm: bool = True,
        pool: str = "max",
        simple_complex: bool = False,
        pixels_per_degree: float = PIXELS_PER_DEGREE,
        generator: torch.Generator | None = None,
    ) -> None:
        v1 = Stage(
            in_channels,
            channels[0],
            kernel=11,
            stride=4,
            padding=2,
            norm=norm,
            pool=pool,
            simple_complex=simple_complex,
            generator=generator,
        )
        v2 = Stage(v1.out_channels, channels[1], kernel=5, padding=2, norm=norm, pool=pool, generator=generator)
        super().__init__({"V1": v1, "V2": v2}, pixels_per_degree=pixels_per_degree)
