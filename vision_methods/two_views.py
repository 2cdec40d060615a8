"""Views of pictures, cropped, flipped and photometrically changed, and label maps that follow a view exactly.

A view is drawn (:func:`draw_views`, on the CPU), cut out (:func:`cut_views`) and changed (:func:`photometric_views`,
the whole batch at once on any device). Two views of a picture are two draws. Windows, probabilities and operations are
those of DetCon's public code (Henaff et al. 2021), which are BYOL's (Grill et al. 2020):

* a window's share of the area is uniform, the logarithm of its aspect ratio too; sides are cut to the picture's;
* colour jitter, then grey, blur, solarisation; the four jitters in a random order per picture, clipped after each;
* brightness is added, contrast is about the mean of each colour, saturation and hue are those of HSV;
* beyond the border, the blur sees black.

Two things differ: the bicubic resampling is anti-aliased where it scales down, and rounds to ``uint8`` as Pillow's does
(theirs is neither); and a flipped label map is the mirror image of the unflipped one to the last pixel (theirs can
differ from it where the centre of a place falls between two pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lcl.images import ImageStore
from lcl.labelled_images import cut, draw_crops
from neural_fits.placing import LUMA

#: Values of a batch that are worked on at a time on a CPU, so that they stay in its cache.
CHUNK_VALUES = 1 << 19


@dataclass(frozen=True, kw_only=True)
class Photometric:
    """Distribution of the photometric changes of one view.

    Attributes
    ----------
    jitter_probability : float
        Of changing brightness, contrast, saturation and hue.
    brightness : float
        Largest shift, black to white being 1.
    contrast, saturation : float
        Factors are uniform in 1 - this to 1 + this.
    hue : float
        Largest shift in turns of the circle of hues.
    grey_probability, blur_probability, solarise_probability : float
    blur_sigma : tuple of float
        Smallest and largest standard deviation of the blur, px.

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> Photometric(grey_probability=0.2).blur_sigma
    (0.1, 2.0)
    """

    jitter_probability: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey_probability: float = 0.0
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise_probability: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name == "blur_sigma":
                continue
            value, most = getattr(self, field.name), 0.5 if field.name == "hue" else 1
            if not 0 <= value <= most:
                raise ValueError(f"{field.name} is {value}; expected a number from 0 to {most}.")
        low, high = self.blur_sigma
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"blur_sigma is {self.blur_sigma}; expected two positive numbers of px, smallest first.")


_BYOL = Photometric(
    jitter_probability=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    grey_probability=0.2,
    blur_probability=1.0,
)
_SIMCLR = Photometric(
    jitter_probability=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grey_probability=0.2,
    blur_probability=0.5,
)
#: Distributions for the first and the second view, by name: BYOL's, which DetCon_B takes; SimCLR's, for DetCon_S (the
#: sources disagree on its blur; 0.5 in both views is SimCLR's own); none.
PHOTOMETRIC: dict[str, tuple[Photometric, Photometric]] = {
    "byol": (_BYOL, replace(_BYOL, blur_probability=0.1, solarise_probability=0.2)),
    "simclr": (_SIMCLR, _SIMCLR),
    "none": (Photometric(), Photometric()),
}


class Views(NamedTuple):
    """What was drawn for one view of B pictures, on the CPU.

    Attributes
    ----------
    size : Tensor of int, (B, 2)
        Height and width of the picture, px.
    box : Tensor of int, (B, 4)
        Top, left, height and width of the window, px of the picture.
    flip : Tensor of bool, (B,)
        Mirrored left to right.
    jitter : Tensor of bool, (B,)
        Whether the next four apply.
    brightness, contrast, saturation, hue : Tensor, (B,)
        Shift, factor, factor, shift in turns.
    order : Tensor of int, (B, 4)
        Their numbers in the order in which they apply.
    grey : Tensor of bool, (B,)
    blur_sigma : Tensor, (B,)
        Standard deviation, px; 0: no blur.
    solarise : Tensor of bool, (B,)
    """

    size: Tensor
    box: Tensor
    flip: Tensor
    jitter: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    grey: Tensor
    blur_sigma: Tensor
    solarise: Tensor

    def part(self, rows: slice | Tensor) -> Views:
        """Those of some of the pictures."""
        return Views(*(field[rows] for field in self))


def draw_views(
    sizes: np.ndarray,
    generator: torch.Generator,
    *,
    photometric: Photometric,
    least_area: float = 0.08,
    aspect: float = 4 / 3,
) -> Views:
    """Draw one view of every picture, on the CPU.

    Windows and flips depend on the generator alone, not on ``photometric``.

    Parameters
    ----------
    sizes : array of int, (B, 2)
        Height and width of every picture, px.
    generator : torch.Generator
    photometric : Photometric
    least_area : float
        A window's share of the picture's area is uniform from this to 1, but for rounding and cut sides.
    aspect : float
        Largest ratio of a window's sides.

    Returns
    -------
    Views

    Raises
    ------
    ValueError
        If ``least_area`` or ``aspect`` is out of range.

    Examples
    --------
    >>> sizes = np.full((100, 2), 64)
    >>> drawn = draw_views(sizes, torch.Generator().manual_seed(0), photometric=PHOTOMETRIC["byol"][1])
    >>> bool((drawn.box[:, :2] + drawn.box[:, 2:] <= 64).all()), int((drawn.blur_sigma > 0).sum())
    (True, 14)
    """
    if not 0 < least_area <= 1:
        raise ValueError(f"least_area is {least_area}; expected a share of the picture's area, above 0 and at most 1.")
    if not 1 <= aspect < float("inf"):
        raise ValueError(f"aspect is {aspect}; expected the largest ratio of two sides, at least 1.")
    crops = draw_crops(sizes, generator, least_area=least_area, aspect=aspect, jitter=0.0)
    count = len(crops.box)

    def uniform(low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    p = photometric
    return Views(
        size=torch.from_numpy(np.array(sizes)).long(),
        box=crops.box,
        flip=crops.flip,
        jitter=uniform() < p.jitter_probability,
        brightness=uniform(-p.brightness, p.brightness),
        contrast=uniform(1 - p.contrast, 1 + p.contrast),
        saturation=uniform(1 - p.saturation, 1 + p.saturation),
        hue=uniform(-p.hue, p.hue),
        order=torch.rand(count, 4, generator=generator).argsort(1),
        grey=uniform() < p.grey_probability,
        blur_sigma=uniform(*p.blur_sigma) * (uniform() < p.blur_probability),
        solarise=uniform() < p.solarise_probability,
    )


def cut_views(
    store: ImageStore, index: np.ndarray, views: Views, size_px: int, pool: ThreadPoolExecutor | None = None
) -> Tensor:
    """Cut the window out of each picture and scale it to a square, bicubic, anti-aliased; not flipped yet.

    Parameters
    ----------
    store : ImageStore
    index : array of int, (B,)
        Pictures of the store.
    views : Views
    size_px : int
    pool : ThreadPoolExecutor, optional
        Does several pictures at a time.

    Returns
    -------
    Tensor of uint8, (B, C, size_px, size_px)

    Examples
    --------
    >>> from lcl.images import open_images
    >>> store = open_images("builtin")
    >>> drawn = draw_views(store.sizes[:2], torch.Generator(), photometric=PHOTOMETRIC["none"][0])
    >>> cut_views(store, np.array([0, 1]), drawn, 32).shape
    torch.Size([2, 3, 32, 32])
    """
    return cut(store, index, views.box, size_px, pool, mode="bicubic")


def cut_labels(labels: Sequence[np.ndarray], views: Views, size_px: int) -> Tensor:
    """Label maps cut, scaled (nearest) and flipped as the pictures of the same views.

    Place ``i`` of a map takes the pixel that holds the point ``(i + 0.5) * side / size_px`` of the window, which is the
    centre of what the picture's place ``i`` is resampled from.

    Parameters
    ----------
    labels : sequence of B arrays of int, (H, W)
        Of the size of each picture.
    views : Views
    size_px : int

    Returns
    -------
    Tensor of int64, (B, size_px, size_px)

    Raises
    ------
    ValueError
        If the number of maps or the size of one is not that of the pictures.

    Examples
    --------
    >>> drawn = draw_views(np.array([[2, 4]]), torch.Generator(), photometric=PHOTOMETRIC["none"][0])
    >>> drawn = drawn._replace(box=torch.tensor([[0, 1, 2, 3]]), flip=torch.tensor([True]))
    >>> cut_labels([np.array([[0, 1, 2, 3], [4, 5, 6, 7]])], drawn, 2)
    tensor([[[3, 1],
             [7, 5]]])
    """
    if len(labels) != len(views.box):
        raise ValueError(f"{len(labels)} label maps were given for {len(views.box)} views; expected one for each.")
    result = np.empty((len(labels), size_px, size_px), np.int64)
    twice = 2 * np.arange(size_px) + 1
    rows = zip(labels, views.size.tolist(), views.box.tolist(), views.flip.tolist(), strict=True)
    for i, (map_, size, (top, left, height, width), flip) in enumerate(rows):
        if list(map_.shape) != size:
            raise ValueError(f"Label map {i} has shape {map_.shape}; expected {tuple(size)}, the size of its picture.")
        column = left + twice * width // (2 * size_px)
        result[i] = map_[np.ix_(top + twice * height // (2 * size_px), column[::-1] if flip else column)]
    return torch.from_numpy(result)


def _each(amount: Tensor) -> Tensor:
    return amount.view(-1, 1, 1, 1)


def brightness(images: Tensor, shift: Tensor) -> Tensor:
    """Add ``shift`` (B,) to images (B, C, H, W).

    Examples
    --------
    >>> brightness(torch.zeros(1, 1, 1, 1), torch.tensor([0.25])).item()
    0.25
    """
    return images + _each(shift)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale images (B, C, H, W) about the mean of each colour, by ``factor`` (B,).

    Examples
    --------
    >>> contrast(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([0.5])).flatten()
    tensor([0.2500, 0.7500])
    """
    mean = images.mean((2, 3), keepdim=True)
    return (images * _each(factor)).add_(mean * (1 - _each(factor)))


def _value_and_chroma(images: Tensor) -> tuple[Tensor, Tensor]:
    """Largest colour of every pixel, and its distance from the smallest, (B, 1, H, W)."""
    red, green, blue = images.split(1, 1)
    value = torch.maximum(torch.maximum(red, green), blue)
    return value, value - torch.minimum(torch.minimum(red, green), blue)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the saturation of HSV by ``factor`` (B,), at most to 1; images (B, 3, H, W) in [0, 1].

    At the same hue and value, every colour keeps its share of the way to the largest one.

    Examples
    --------
    >>> saturation(torch.tensor([0.2, 0.6, 1.0]).view(1, 3, 1, 1), torch.tensor([0.5])).flatten()
    tensor([0.6000, 0.8000, 1.0000])
    """
    value, chroma = _value_and_chroma(images)
    return torch.lerp(value, images, torch.minimum(_each(factor), value / chroma.clamp_(min=1e-12)))


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of HSV by ``turns`` (B,) of the circle; images (B, 3, H, W).

    Examples
    --------
    >>> hue(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1), torch.tensor([1 / 3])).flatten()
    tensor([0., 1., 0.])
    """
    value, chroma = _value_and_chroma(images)
    red, green, blue = images.split(1, 1)
    share = 1 / chroma.clamp(min=1e-12)
    # Sixths of a turn from red, by which colour is the largest (lerp with 0 or 1: on a CPU many times faster than
    # where); a pixel without chroma stays grey whatever comes out.
    from_green, from_blue = ((blue - red) * share).add_(2), ((red - green) * share).add_(4)
    other = torch.lerp(from_green, from_blue, (value - green).sign_())
    sixths = torch.lerp((green - blue) * share, other, (value - red).sign_()).add_(_each(6 * turns))
    sixths -= 6 * (sixths / 6).floor_()
    # Every colour is the value but around its complement: cyan at 3 sixths, magenta at 5 (and -1), yellow at 1 (and 7).
    away = ((sixths - 3).abs_(), torch.minimum((sixths - 5).abs_(), sixths + 1))
    away = (*away, torch.minimum((sixths - 1).abs_(), 7 - sixths))
    return torch.cat([value - chroma * (2 - each).clamp_(0, 1) for each in away], 1)


def grey(images: Tensor) -> Tensor:
    """Luma of images (B, 3, H, W) in all three colours.

    Examples
    --------
    >>> grey(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).flatten()
    tensor([0.2990, 0.2990, 0.2990])
    """
    red, green, blue = images.split(1, 1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).expand_as(images)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of images (B, C, H, W) by ``sigma`` (B,) px, black beyond the border.

    The kernel is a tenth of the height wide (to each side, a twentieth, rounded down): 23 px of 224.

    Examples
    --------
    >>> blur(torch.ones(1, 1, 40, 40), torch.tensor([1.0]))[0, 0, 20, 18:22]
    tensor([1., 1., 1., 1.])
    """
    radius = images.shape[2] // 20
    offset = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.softmax(-(offset**2) / (2 * sigma[:, None] ** 2), 1).T[:, :, None, None, None]
    # Tap by tap, of all pictures at once: two to five times faster than a convolution with a group per picture, whose
    # kernels torch has no fast way for.
    for axis, border in ((2, (0, 0, radius, radius)), (3, (radius, radius))):
        padded, side = F.pad(images, border), images.shape[axis]
        images = kernel[0] * padded.narrow(axis, 0, side)
        for tap in range(1, 2 * radius + 1):
            images.addcmul_(kernel[tap], padded.narrow(axis, tap, side))
    return images


def solarise(images: Tensor) -> Tensor:
    """Invert what is 0.5 or above, of images in [0, 1].

    Examples
    --------
    >>> solarise(torch.tensor([0.25, 0.5, 1.0]))
    tensor([0.2500, 0.5000, 0.0000])
    """
    return torch.minimum(images, 1 - images)


#: The jitters, in the order of their numbers in :attr:`Views.order`; each is of images and an amount per picture.
JITTERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}


def photometric_views(crops: Tensor, views: Views) -> Tensor:
    """Flip crops and change them photometrically.

    Parameters
    ----------
    crops : Tensor of uint8, (B, C, H, W)
        On any device; of one channel, only brightness, contrast, blur and solarisation have an effect.
    views : Views
        On the CPU, so that nothing waits for the device.

    Returns
    -------
    Tensor of float32, (B, C, H, W)
        In [0, 1], on the device of the crops.

    Raises
    ------
    ValueError
        If the crops are not as above.

    Examples
    --------
    >>> drawn = draw_views(np.array([[2, 2]]), torch.Generator(), photometric=PHOTOMETRIC["none"][0])
    >>> crop = torch.tensor([[[[0, 255], [51, 102]]]], dtype=torch.uint8)
    >>> photometric_views(crop, drawn._replace(flip=torch.tensor([True])))
    tensor([[[[1.0000, 0.0000],
              [0.4000, 0.2000]]]])
    """
    if crops.dtype != torch.uint8 or crops.ndim != 4 or len(crops) != len(views.box) or crops.shape[1] not in (1, 3):
        raise ValueError(
            f"The crops are {crops.dtype} of shape {tuple(crops.shape)}; expected torch.uint8 of shape "
            f"({len(views.box)}, 1 or 3, height, width), one for each view."
        )
    images = torch.empty(crops.shape, device=crops.device)
    chunk = (
        max(1, CHUNK_VALUES // max(1, crops[0].numel())) if crops.device.type == "cpu" and len(crops) else len(crops)
    )
    for start in range(0, len(crops), max(1, chunk)):
        part = slice(start, start + chunk)
        _change(torch.div(crops[part], 255, out=images[part]), views.part(part))
    return images


def _change(images: Tensor, views: Views) -> None:
    """Change images in place; each operation takes only the pictures that it is for."""
    colour = images.shape[1] == 3

    def apply(which: Tensor, operation: Callable[..., Tensor], amount: Tensor | None = None) -> None:
        rows = which.nonzero()[:, 0]
        if len(rows):
            amounts = () if amount is None else (amount[rows].to(images.device, non_blocking=True),)
            rows = rows.to(images.device, non_blocking=True)
            images.index_copy_(0, rows, operation(images.index_select(0, rows), *amounts))

    apply(views.flip, lambda each: each.flip(3))
    for place in range(len(JITTERS)):
        for number, (name, operation) in enumerate(JITTERS.items()):
            if colour or name not in ("saturation", "hue"):
                apply(
                    views.jitter & (views.order[:, place] == number),
                    lambda each, amount, operation=operation: operation(each, amount).clamp_(0, 1),
                    getattr(views, name),
                )
    if colour:
        apply(views.grey, grey)
    apply(views.blur_sigma > 0, blur, views.blur_sigma)
    apply(views.solarise, solarise)
    images.clamp_(0, 1)
