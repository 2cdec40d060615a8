"""Attention pooling: the network itself says where on a map to look (VITO).

Three 1 x 1 convolutions give one logit per cell; their softmax over the map weights a sum of the cells. There is no
value projection: what is summed is the map itself. With equal logits this is mean pooling.

Source: N. Parthasarathy, S. M. A. Eslami, J. Carreira, O. J. Hénaff, *Self-supervised video pretraining yields robust
and more human-aligned visual representations*, NeurIPS 2023. The layers are those of the released network; its
initial values are not known, and ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from stimuli.drawing import WIDTH_IN, plain, styled


def attention_weights(logits: Tensor) -> Tensor:
    """Softmax over the cells of a map, in float32 at least.

    Parameters
    ----------
    logits : Tensor, (B, h, w)

    Returns
    -------
    Tensor, (B, h, w)
        Not negative, sum 1 over each map. A constant added to all logits of a map changes nothing.

    Raises
    ------
    ValueError
        If the logits are not (B, h, w).

    Examples
    --------
    >>> attention_weights(torch.tensor([[[0.0, 1.0, 2.0]]]))
    tensor([[[0.0900, 0.2447, 0.6652]]])
    """
    if logits.ndim != 3:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected (batch, row, column), one per cell.")
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.flatten(1).softmax(1, dtype=dtype).view(logits.shape)


def attend(maps: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of a map's cells.

    Parameters
    ----------
    maps : Tensor, (B, C, h, w)
    weights : Tensor, (B, h, w)
        Sum 1 over each map (:func:`attention_weights`).

    Returns
    -------
    Tensor, (B, C)
        In the precision of the weights.

    Raises
    ------
    ValueError
        If there is not one weight per cell.

    Examples
    --------
    >>> maps = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.0, 4.0]]).T.view(1, 2, 1, 3)
    >>> attend(maps, attention_weights(torch.tensor([[[0.0, 1.0, 2.0]]])))
    tensor([[0.8242, 2.5963]])
    """
    if maps.ndim != 4 or weights.shape != (len(maps), *maps.shape[2:]):
        raise ValueError(
            f"weights have shape {tuple(weights.shape)} for maps of shape {tuple(maps.shape)}; expected one weight "
            "per cell, (batch, row, column)."
        )
    with torch.autocast(maps.device.type, enabled=False):
        return (maps.flatten(2).to(weights.dtype) @ weights.flatten(1).unsqueeze(2)).squeeze(2)


class AttentionPooling(nn.Module):
    """From a map to one vector, by a learned weight for every cell.

    1 x 1 convolution to ``hidden`` channels, ReLU, 1 x 1 convolution back to ``channels``, ReLU, 1 x 1 convolution
    without bias to one logit. A bias there would change nothing.

    Parameters
    ----------
    channels : int
        Of the map.
    hidden : int, optional
        Twice the channels without it, as in the released network.
    zero_last : bool
        Start the last convolution at zero, hence as mean pooling; its own gradient is not zero.
    generator : torch.Generator, optional
        Draws the initial weights: normal with variance 2 / fan-in before a ReLU, 1 / fan-in at the end.

    Examples
    --------
    >>> pool = AttentionPooling(8)
    >>> pool(torch.rand(2, 8, 7, 7)).shape, pool.weights(torch.rand(2, 8, 7, 7)).shape
    (torch.Size([2, 8]), torch.Size([2, 7, 7]))
    >>> sum(parameter.numel() for parameter in AttentionPooling(2048).parameters())
    16785408
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int | None = None,
        zero_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden or 2 * channels
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, channels, 1)
        self.conv3 = nn.Conv2d(channels, 1, 1, bias=False)
        with torch.no_grad():
            for convolution, gain in ((self.conv1, 2.0), (self.conv2, 2.0), (self.conv3, 0.0 if zero_last else 1.0)):
                convolution.weight.normal_(0, math.sqrt(gain / convolution.in_channels), generator=generator)
                if convolution.bias is not None:
                    convolution.bias.zero_()

    def logits(self, maps: Tensor) -> Tensor:
        """One logit per cell, (B, h, w), of maps (B, C, h, w)."""
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(maps))))).squeeze(1)

    def weights(self, maps: Tensor) -> Tensor:
        """Weights of the cells, (B, h, w), of maps (B, C, h, w)."""
        return attention_weights(self.logits(maps))

    def forward(self, maps: Tensor) -> Tensor:
        """Pooled vectors, (B, C)."""
        return attend(maps, self.weights(maps))


class UniformPooling(nn.Module):
    """Mean over the map, with the interface of :class:`AttentionPooling`: what MoCLR does.

    Examples
    --------
    >>> maps = torch.rand(2, 8, 7, 7)
    >>> torch.allclose(UniformPooling()(maps), maps.mean((2, 3)))
    True
    """

    def weights(self, maps: Tensor) -> Tensor:
        """Equal weights of the cells, (B, h, w), of maps (B, C, h, w)."""
        return attention_weights(torch.zeros_like(maps[:, 0]))

    def forward(self, maps: Tensor) -> Tensor:
        """Pooled vectors, (B, C)."""
        return attend(maps, self.weights(maps))


#: Ways to pool a map, by name: from the number of channels, ``zero_last`` and a generator to a module.
POOLINGS = {
    "attention": lambda channels, *, zero_last=False, generator=None: AttentionPooling(
        channels, zero_last=zero_last, generator=generator
    ),
    "mean": lambda channels, *, zero_last=False, generator=None: UniformPooling(),
}


@styled
def attention_figure(pictures: Tensor, weights: Mapping[str, Tensor]) -> Figure:
    """Where the network looks: pictures, and below them the weights of every scale laid over them.

    Weights are enlarged bilinearly; a picture is dark where its weight is low, and each map is scaled to its own
    maximum. The title of a map is its :func:`attended_share`: 1.00 is mean pooling.

    Parameters
    ----------
    pictures : Tensor, (N, 3, H, W)
        In [0, 1].
    weights : mapping of str to Tensor, (N, h, w)
        By layer.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no picture, or no weights for each.

    Examples
    --------
    >>> figure = attention_figure(torch.rand(2, 3, 64, 64), {"layer4": torch.full((2, 7, 7), 1 / 49)})
    >>> [axes.get_title() for axes in figure.axes]
    ['', '', '1.00', '1.00']
    """
    if not len(pictures) or not weights or any(len(each) != len(pictures) for each in weights.values()):
        given = {name: tuple(each.shape) for name, each in weights.items()}
        raise ValueError(f"{len(pictures)} pictures and weights {given}; expected one map of weights per picture.")
    rows, columns = 1 + len(weights), len(pictures)
    aspect = pictures.shape[2] / pictures.shape[3]
    figure = Figure((WIDTH_IN, rows * (WIDTH_IN / columns * aspect + 0.25)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    shown = pictures.detach().cpu().float().permute(0, 2, 3, 1)
    for axes in panels.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    for axes, picture in zip(panels[0], shown, strict=True):
        axes.imshow(picture.clamp(0, 1).numpy())
    for row, (name, maps) in zip(panels[1:], weights.items(), strict=True):
        row[0].set_ylabel(plain(name))
        maps = maps.detach().cpu().float()
        large = F.interpolate(maps[:, None], shown.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
        for axes, picture, share, light in zip(row, shown, attended_share(maps), large, strict=True):
            light = light / light.max()
            axes.imshow((picture * (0.2 + 0.8 * light[..., None])).clamp(0, 1).numpy())
            axes.set_title(f"{share:.2f}")
    return figure


def attended_share(weights: Tensor) -> Tensor:
    """Share of a map's cells that is attended: the exponential of the weights' entropy, over the number of cells.

    1 for equal weights, one over the number of cells where a single one has all.

    Parameters
    ----------
    weights : Tensor, (B, h, w)
        Not negative, sum 1 over each map.

    Returns
    -------
    Tensor, (B,)

    Examples
    --------
    >>> attended_share(torch.tensor([[[0.5, 0.5], [0.0, 0.0]]]))
    tensor([0.5000])
    """
    flat = weights.flatten(1)
    return (-torch.special.xlogy(flat, flat).sum(1)).exp() / flat.shape[1]
