"""ResNet-18 and ResNet-50 (He et al. 2016), with the layer names of torchvision so that its weights load as they are.

The stride of a bottleneck is in its 3x3 convolution ("v1.5"), as in torchvision and in the networks of DetCon.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcl.stages import BatchNorm


def same_pad(maps: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad as TensorFlow's and JAX's "SAME": to ``ceil(side / stride)`` outputs, the odd pixel at the bottom and right.

    Parameters
    ----------
    maps : Tensor, (B, C, H, W)
    kernel, stride : int
        Of the window that follows.
    value : float
        Written into the border.

    Returns
    -------
    Tensor, (B, C, H', W')

    Examples
    --------
    >>> same_pad(torch.ones(1, 1, 1, 4), 3, 2)[0, 0]
    tensor([[0., 0., 0., 0., 0.],
            [1., 1., 1., 1., 0.],
            [0., 0., 0., 0., 0.]])
    """
    border = []
    for side in (maps.shape[3], maps.shape[2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        border += [total // 2, total - total // 2]
    return F.pad(maps, border, value=value)


class Conv(nn.Conv2d):
    """Square convolution without an offset whose output has ``ceil(side / stride)`` places.

    Parameters
    ----------
    in_channels, out_channels, kernel, stride : int
    same_padding : bool
        :func:`same_pad` instead of ``kernel // 2`` on all sides; they differ where the stride is above 1.
    generator : torch.Generator, optional
        Draws the weights (normal with variance 2 / fan-out, as torchvision's).

    Examples
    --------
    >>> Conv(3, 8, 7, 2)(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 8, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        same_padding: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, 0 if same_padding else kernel // 2, bias=False)
        self.same_padding = same_padding
        nn.init.normal_(self.weight, std=(2 / (out_channels * kernel**2)) ** 0.5, generator=generator)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(batch, channel, height, width)``."""
        if self.same_padding:
            input = same_pad(input, self.kernel_size[0], self.stride[0])
        return super().forward(input)


class Block(nn.Module):
    """Residual block: ``relu(shortcut(x) + f(x))`` with two 3x3 convolutions in f, or 1x1, 3x3 and 1x1 (bottleneck).

    Parameters
    ----------
    in_channels, width : int
        Of the input, and of the 3x3 convolution.
    stride : int
    bottleneck : bool
        Then the output has ``4 * width`` channels, else ``width``.
    same_padding, generator
        As in :class:`Conv`.

    Examples
    --------
    >>> Block(64, 64, 2, bottleneck=True)(torch.rand(2, 64, 8, 8)).shape
    torch.Size([2, 256, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        *,
        bottleneck: bool,
        same_padding: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()

        def conv(below: int, above: int, kernel: int, step: int = 1) -> Conv:
            return Conv(below, above, kernel, step, same_padding=same_padding, generator=generator)

        out = 4 * width if bottleneck else width
        self.conv1 = conv(in_channels, width, 1) if bottleneck else conv(in_channels, width, 3, stride)
        self.bn1 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, stride) if bottleneck else conv(width, width, 3)
        self.bn2 = BatchNorm(width)
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv3 = conv(width, out, 1)
            self.bn3 = BatchNorm(out)
        self.downsample = (
            nn.Sequential(conv(in_channels, out, 1, stride), BatchNorm(out))
            if stride > 1 or in_channels != out
            else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, out, H / stride, W / stride)."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        if self.bottleneck:
            residual = self.bn3(self.conv3(F.relu(residual)))
        return F.relu(residual + (maps if self.downsample is None else self.downsample(maps)))


class ResNet(nn.Module):
    """Residual network without the final pool, ``layer1`` to ``layer4`` at strides 4, 8, 16 and 32.

    Parameters
    ----------
    blocks : sequence of 4 int
        Blocks in each layer: (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) with bottlenecks ResNet-50.
    bottleneck : bool
    classes : int
        Outputs of torchvision's classifier ``fc``; 0: without it. :meth:`classify` is what uses it.
    same_padding : bool
        "SAME" padding of all windows (:func:`same_pad`), for weights that were trained in TensorFlow or JAX.
    generator : torch.Generator, optional
        Draws the initial weights.

    Examples
    --------
    >>> maps = ResNet((2, 2, 2, 2), bottleneck=False)(torch.rand(1, 3, 64, 64))
    >>> {name: tuple(values.shape[1:]) for name, values in maps.items()}
    {'layer1': (64, 16, 16), 'layer2': (128, 8, 8), 'layer3': (256, 4, 4), 'layer4': (512, 2, 2)}
    """

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        bottleneck: bool,
        classes: int = 0,
        same_padding: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.same_padding = same_padding
        self.conv1 = Conv(3, 64, 7, 2, same_padding=same_padding, generator=generator)
        self.bn1 = BatchNorm(64)
        below = 64
        self.channels: dict[str, int] = {}
        for number, count in enumerate(blocks):
            width, layer = 64 * 2**number, nn.Sequential()
            for block in range(count):
                stride = 2 if number > 0 and block == 0 else 1
                layer.append(
                    Block(
                        below,
                        width,
                        stride,
                        bottleneck=bottleneck,
                        same_padding=same_padding,
                        generator=generator,
                    )
                )
                below = 4 * width if bottleneck else width
            self.add_module(f"layer{number + 1}", layer)
            self.channels[f"layer{number + 1}"] = below
        self.fc = nn.Linear(below, classes) if classes else None
        if self.fc is not None:
            nn.init.normal_(self.fc.weight, std=below**-0.5, generator=generator)
            nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of the four layers, rectified, of normalised images (B, 3, H, W)."""
        maps = F.relu(self.bn1(self.conv1(images)))
        # The maps are rectified, so that a border of zeros is what the pool's own padding is.
        maps = F.max_pool2d(same_pad(maps, 3, 2) if self.same_padding else maps, 3, 2, 0 if self.same_padding else 1)
        responses = {}
        for name in self.channels:
            responses[name] = maps = self.get_submodule(name)(maps)
        return responses

    def classify(self, images: Tensor) -> Tensor:
        """One number per class, (B, classes): the classifier on the mean of the last layer over places.

        Raises
        ------
        ValueError
            If the network was built with 0 classes.
        """
        if self.fc is None:
            raise ValueError("The network was built with 0 classes; expected a classifier: give classes=.")
        return self.fc(list(self(images).values())[-1].mean((2, 3)))
