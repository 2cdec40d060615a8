"""Pairs of locally deformed patches, whose amplitudes are given in units of the stage's receptive field.

ViewParameters are drawn on the CPU from an explicit generator, apart from their application, so that runs on different
devices, and on different numbers of processes, see the same views. Position, affine deformation and elastic field are
composed into one coordinate map, and both views are read from the source region by one bilinear resampling.

Letters in shapes: B patches, C channels, P side of a patch, S side of the source region around it, K control points of
the elastic field along one axis. The views of a pair are the second axis, of length 2.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from math import ceil, cos, log2, sin
from typing import NamedTuple

import numpy as np
import torch
from kornia.geometry.transform import remap
from torch import Tensor

#: How a stage's amplitudes are scaled to pixels, besides "fixed:<px>".
AMPLITUDE_RULES = ("matched", "under", "over", "reversed")


@dataclass(frozen=True, kw_only=True)
class Deformation:
    """Amplitudes of the deformations. The families and all values are ours: the published ones were not available.

    Geometric amplitudes are displacements in units of the receptive field. Those that grow with distance (dilation,
    rotation, shear) are given by the displacement they cause at the edge of the receptive field, half a field from its
    centre, so that all five say how far the picture moves under one unit.

    Attributes
    ----------
    translation : float
        Largest shift along each axis.
    dilation : float
        Largest displacement by dilation; the factor is drawn uniformly in octaves.
    rotation : float
        Largest displacement by rotation; 0.1 is an angle of 0.2 rad.
    shear : float
        Largest displacement by shear, along each axis.
    elastic : float
        Largest displacement by the smooth local field.
    elastic_spacing : float
        Distance between the control points of the local field, in receptive fields.
    contrast : float
        Contrast is multiplied by a factor uniform in 1 - contrast to 1 + contrast, about the patch mean.
    luminance : float
        Largest shift of the mean, in image units (black to white is 1).
    colour : float
        Largest further shift of the mean of every colour channel on its own, as under another illuminant.
    noise : float
        Standard deviation of Gaussian pixel noise, in image units.

    Examples
    --------
    >>> Deformation(translation=0.1).translation
    0.1
    """

    translation: float = 0.15
    dilation: float = 0.095
    rotation: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    elastic_spacing: float = 0.5
    contrast: float = 0.2
    luminance: float = 0.1
    colour: float = 0.0
    noise: float = 0.05

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{field.name} is {value}; expected a number of 0 or more.")
        if self.contrast > 1:
            raise ValueError(f"contrast is {self.contrast}; expected at most 1, so that contrast is never inverted.")
        if self.elastic_spacing == 0:
            raise ValueError("elastic_spacing is 0; expected a positive number of receptive fields.")


class PixelDeformation(NamedTuple):
    """A stage's largest geometric deformations, in pixels and pure numbers.

    Attributes
    ----------
    translation_px : float
        Largest shift along each axis.
    dilation_octaves : float
        Largest absolute log2 of the dilation factor.
    rotation_rad, shear : float
        Largest angle, and largest shear coefficient of each axis.
    elastic_px, elastic_spacing_px : float
        Largest local displacement, and distance between control points.
    """

    translation_px: float
    dilation_octaves: float
    rotation_rad: float
    shear: float
    elastic_px: float
    elastic_spacing_px: float


class ViewParameters(NamedTuple):
    """What was drawn for B pairs of views.

    Attributes
    ----------
    matrix : Tensor, shape (B, 2, 2, 2)
        From patch coordinates (x, y) about the centre to source coordinates.
    shift_px : Tensor, shape (B, 2, 2)
        Shift (x, y) of the source.
    control_px : Tensor, shape (B, 2, 2, K, K), or None
        Displacements (x, y) at the control points of the elastic field.
    gain : Tensor, shape (B, 2)
        Contrast factor.
    offset : Tensor, shape (B, 2, C)
        Shift of the mean, in image units.
    noise_start : int
        Where in the noise table this batch begins.
    """

    matrix: Tensor
    shift_px: Tensor
    control_px: Tensor | None
    gain: Tensor
    offset: Tensor
    noise_start: int

    def part(self, rows: slice) -> ViewParameters:
        """Those of some of the pairs."""
        return self._replace(
            matrix=self.matrix[rows],
            shift_px=self.shift_px[rows],
            control_px=None if self.control_px is None else self.control_px[rows],
            gain=self.gain[rows],
            offset=self.offset[rows],
        )

    def to(self, device: torch.device) -> ViewParameters:
        """The same on another device."""
        return self._replace(
            matrix=self.matrix.to(device, non_blocking=True),
            shift_px=self.shift_px.to(device, non_blocking=True),
            control_px=None if self.control_px is None else self.control_px.to(device, non_blocking=True),
            gain=self.gain.to(device, non_blocking=True),
            offset=self.offset.to(device, non_blocking=True),
        )


def reference_px(rule: str, sizes_px: list[int], stage: int) -> float:
    """Length by which a stage's amplitudes are multiplied.

    Parameters
    ----------
    rule : str
        "matched": the stage's own receptive field. "under": the first stage's for all. "over": the last stage's for
        all. "reversed": the last stage's for the first, and so on. "fixed:<px>": that many pixels for all.
    sizes_px : list of int
        Receptive fields of all stages, from the bottom up.
    stage : int
        Number of the stage, from 0.

    Returns
    -------
    float
        Pixels.

    Raises
    ------
    ValueError
        If the rule is unknown or its length is not a positive number.

    Examples
    --------
    >>> [[reference_px(rule, [19, 67], stage) for stage in (0, 1)] for rule in ("matched", "under", "over", "reversed")]
    [[19.0, 67.0], [19.0, 19.0], [67.0, 67.0], [67.0, 19.0]]
    >>> reference_px("fixed:30", [19, 67], 1)
    30.0
    """
    if rule.startswith("fixed:"):
        try:
            length = float(rule.removeprefix("fixed:"))
        except ValueError:
            length = float("nan")
        if not 0 < length < float("inf"):
            raise ValueError(f"The amplitude rule is {rule!r}; expected a positive number of pixels after 'fixed:'.")
        return length
    if rule not in AMPLITUDE_RULES:
        raise ValueError(f"The amplitude rule is {rule!r}; expected one of {', '.join(AMPLITUDE_RULES)} or fixed:<px>.")
    chosen = {"matched": stage, "under": 0, "over": -1, "reversed": len(sizes_px) - 1 - stage}[rule]
    return float(sizes_px[chosen])


def in_pixels(deformation: Deformation, size_px: float, reference: float) -> PixelDeformation:
    """Amplitudes of one stage in pixels.

    Parameters
    ----------
    deformation : Deformation
        Amplitudes in units of the reference.
    size_px : float
        Receptive field of the stage; dilation, rotation and shear reach their displacement at its edge.
    reference : float
        Length that one unit of amplitude stands for, pixels (:func:`reference_px`).

    Returns
    -------
    PixelDeformation

    Examples
    --------
    >>> px = in_pixels(Deformation(translation=0.15, dilation=0.1), 20, 20)
    >>> round(px.translation_px, 9), round(2**px.dilation_octaves, 9)
    (3.0, 1.2)
    """
    edge = 2 * reference / size_px
    return PixelDeformation(
        translation_px=deformation.translation * reference,
        dilation_octaves=log2(1 + deformation.dilation * edge),
        rotation_rad=deformation.rotation * edge,
        shear=deformation.shear * edge,
        elastic_px=deformation.elastic * reference,
        elastic_spacing_px=deformation.elastic_spacing * size_px,
    )


def region_side(side_px: int, amplitude: PixelDeformation) -> int:
    """Side of a source region that holds every possible view of a patch, so that no padding is ever seen.

    Parameters
    ----------
    side_px : int
        Side of the patch.
    amplitude : PixelDeformation

    Returns
    -------
    int
        ``side_px`` plus twice the margin, pixels.

    Examples
    --------
    >>> region_side(29, in_pixels(Deformation(translation=0.15, dilation=0), 20, 20))
    37
    """
    half = (side_px - 1) / 2
    turn = cos(min(amplitude.rotation_rad, 0.785)) + sin(min(amplitude.rotation_rad, 0.785))
    reach = half * 2**amplitude.dilation_octaves * turn * (1 + amplitude.shear)
    # The bilinear kernel reads one pixel beyond.
    return side_px + 2 * ceil(reach - half + amplitude.translation_px + amplitude.elastic_px + 1 - 1e-9)


def draw(
    batch: int,
    amplitude: PixelDeformation,
    deformation: Deformation,
    side_px: int,
    generator: torch.Generator,
    *,
    channels: int = 3,
) -> ViewParameters:
    """Draw the parameters of a batch of pairs of views, on the CPU.

    Parameters
    ----------
    batch : int
        Number of pairs B.
    amplitude : PixelDeformation
        Geometric amplitudes (:func:`in_pixels`); uniform between minus and plus these.
    deformation : Deformation
        Gives the photometric amplitudes.
    side_px : int
        Side P of the patch.
    generator : torch.Generator
        On the CPU.
    channels : int
        Colour channels C of the images.

    Returns
    -------
    ViewParameters

    Examples
    --------
    >>> deformation = Deformation()
    >>> amplitude = in_pixels(deformation, 19, 19)
    >>> drawn = draw(4, amplitude, deformation, 29, torch.Generator().manual_seed(0))
    >>> drawn.matrix.shape, bool(drawn.shift_px.abs().max() <= amplitude.translation_px)
    (torch.Size([4, 2, 2, 2]), True)
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, 2, *shape, generator=generator) * 2 - 1

    factor = torch.exp2(uniform() * amplitude.dilation_octaves)
    angle = uniform() * amplitude.rotation_rad
    shear = uniform(2) * amplitude.shear
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).unflatten(-1, (2, 2))
    one = torch.ones_like(angle)
    shearing = torch.stack([one, shear[..., 0], shear[..., 1], one], -1).unflatten(-1, (2, 2))
    control = None
    if amplitude.elastic_px > 0:
        points = ceil((side_px - 1) / amplitude.elastic_spacing_px) + 3
        control = uniform(2, points, points) * amplitude.elastic_px
    return ViewParameters(
        matrix=factor[..., None, None] * rotation @ shearing,
        shift_px=uniform(2) * amplitude.translation_px,
        control_px=control,
        gain=1 + uniform() * deformation.contrast,
        offset=uniform(1) * deformation.luminance + uniform(channels) * deformation.colour,
        noise_start=int(torch.randint(NOISE_SLACK, (), generator=generator)),
    )


#: Longest offset into the noise table.
NOISE_SLACK = 1 << 20


def noise_table(values: int, generator: torch.Generator) -> Tensor:
    """Standard normal values from which every batch takes a run at its own offset.

    One table, drawn on the CPU and moved once, costs nothing per step and is the same on every device.

    Parameters
    ----------
    values : int
        Longest run that a batch takes.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, shape (values + NOISE_SLACK,)

    Examples
    --------
    >>> noise_table(10, torch.Generator().manual_seed(0)).numel() == 10 + NOISE_SLACK
    True
    """
    return torch.randn(values + NOISE_SLACK, generator=generator)


def spline_basis(side_px: int, points: int) -> Tensor:
    """Uniform cubic B-spline weights of ``points`` control points at every pixel of a patch.

    Weights are positive and sum to 1, so that a field never exceeds its control points.

    Parameters
    ----------
    side_px, points : int
        Pixels along the patch, and control points, of which one lies before and one after the patch.

    Returns
    -------
    Tensor, shape (side_px, points)

    Examples
    --------
    >>> bool(torch.allclose(spline_basis(29, 6).sum(1), torch.ones(29)))
    True
    """
    position = torch.linspace(1, points - 2, side_px, dtype=torch.float64)[:, None]
    distance = (position - torch.arange(points, dtype=torch.float64)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far).float()


def coordinates(parameters: ViewParameters, side_px: int) -> Tensor:
    """Where every pixel of every view is read, relative to the centre of the source region.

    Parameters
    ----------
    parameters : ViewParameters
    side_px : int
        Side P of the patch.

    Returns
    -------
    Tensor, shape (B, 2, P, P, 2)
        (x, y) in pixels.

    Examples
    --------
    >>> none = Deformation(translation=0, dilation=0, contrast=0, luminance=0, noise=0)
    >>> drawn = draw(1, in_pixels(none, 19, 19), none, 3, torch.Generator())
    >>> coordinates(drawn, 3)[0, 0, 0]
    tensor([[-1., -1.],
            [ 0., -1.],
            [ 1., -1.]])
    """
    axis = torch.arange(side_px, device=parameters.matrix.device) - (side_px - 1) / 2
    # x' = m00 x + m01 y + tx and y' = m10 x + m11 y + ty, as a column and a row that broadcast to the patch.
    column = parameters.matrix[..., :, 0, None, None] * axis
    row = parameters.matrix[..., :, 1, None, None] * axis[:, None]
    where = row + column + parameters.shift_px[..., None, None]  # (B, 2, xy, P, P)
    if parameters.control_px is not None:
        basis = spline_basis(side_px, parameters.control_px.shape[-1]).to(where.device)
        where = where + basis @ parameters.control_px @ basis.T
    return where.movedim(2, -1)


def views(regions: Tensor, parameters: ViewParameters, side_px: int, *, noise: Tensor | None = None) -> Tensor:
    """Two views of every patch, by one resampling.

    Parameters
    ----------
    regions : Tensor, shape (B, C, S, S)
        Source regions; uint8, or floating point in [0, 1]. ``S`` at least :func:`region_side`.
    parameters : ViewParameters
        On the same device.
    side_px : int
        Side P of the patch.
    noise : Tensor, shape (B, 2, C, P, P), optional
        Added to the views, in image units.

    Returns
    -------
    Tensor, shape (B, 2, C, P, P)
        In image units; contrast, luminance and noise may leave [0, 1].

    Raises
    ------
    ValueError
        If the parameters were drawn for another number of channels.

    Examples
    --------
    >>> none = Deformation(translation=0, dilation=0, contrast=0, luminance=0, noise=0)
    >>> drawn = draw(1, in_pixels(none, 19, 19), none, 29, torch.Generator())
    >>> regions = torch.rand(1, 3, 31, 31)
    >>> pair = views(regions, drawn, 29)
    >>> bool(torch.allclose(pair[:, 0], regions[:, :, 1:-1, 1:-1], atol=1e-5))
    True
    """
    batch, channels = regions.shape[:2]
    # On a CPU a few patches at a time stay in the cache through all passes: three times faster at 101 px.
    chunk = max(1, CHUNK_VALUES // (2 * channels * side_px**2))
    if regions.device.type != "cpu" or batch <= chunk:
        return _views(regions, parameters, side_px, noise)
    pairs = []
    for start in range(0, batch, chunk):
        part = slice(start, start + chunk)
        pairs.append(_views(regions[part], parameters.part(part), side_px, None if noise is None else noise[part]))
    return torch.cat(pairs)


#: Values of a pair of views that are worked on at a time on a CPU: 4 MB.
CHUNK_VALUES = 1 << 20


def _views(regions: Tensor, parameters: ViewParameters, side_px: int, noise: Tensor | None) -> Tensor:
    batch, channels, source, _ = regions.shape
    if parameters.offset.shape[-1] != channels:
        raise ValueError(
            f"The parameters were drawn for {parameters.offset.shape[-1]} channels, but the regions have {channels}; "
            "give draw the channels of the regions."
        )
    image = regions.contiguous().float() / 255 if regions.dtype == torch.uint8 else regions
    where = coordinates(parameters, side_px) + (source - 1) / 2
    tall = where.reshape(batch, 2 * side_px, side_px, 2)  # the second view below the first: one call reads both
    pair = remap(image, tall[..., 0], tall[..., 1], align_corners=True)
    pair = pair.view(batch, channels, 2, side_px, side_px).transpose(1, 2)
    mean = pair.mean((2, 3, 4), keepdim=True)
    gain, offset = parameters.gain[..., None, None, None], parameters.offset[..., None, None]
    pair = pair * gain + (mean * (1 - gain) + offset)
    return pair if noise is None else pair + noise


class Places(NamedTuple):
    """Where the source regions of a batch lie.

    Attributes
    ----------
    image, top, left : ndarray of int, shape (B,)
        Number of the image, and first row and column of the region.
    least_distance_px : float
        A lower bound of the distance (along the further axis) between two patches of one image; infinite where every
        patch has its own image.
    """

    image: np.ndarray
    top: np.ndarray
    left: np.ndarray
    least_distance_px: float


def choose_places(sizes_px: np.ndarray, batch: int, region_px: int, generator: torch.Generator) -> Places:
    """Choose the source regions of one batch: from different images wherever there are enough of them.

    With at least as many images as patches, every patch comes from another image (drawn without replacement). With
    fewer, patches are dealt evenly to the images, and those of one image are kept apart: its area is divided into at
    least as many equal cells as patches, no two patches share a cell, and each lies anywhere within half a cell's
    side, in a grid whose own origin is random. So two patches of an image are never closer than half a cell (rounded
    down to whole pixels), and every place can be drawn. This is ours; the decorrelation term is meant for patches of
    other images.

    Parameters
    ----------
    sizes_px : ndarray of int, shape (image, 2)
        Height and width of every image; both at least ``region_px``.
    batch : int
        Number of patches B.
    region_px : int
        Side S of a source region.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Places

    Raises
    ------
    ValueError
        If an image is smaller than a region.

    Examples
    --------
    >>> places = choose_places(np.full((12, 2), 512), 256, 40, torch.Generator().manual_seed(0))
    >>> sorted(np.bincount(places.image).tolist())
    [21, 21, 21, 21, 21, 21, 21, 21, 22, 22, 22, 22]
    >>> places.least_distance_px
    47.0
    """
    if len(sizes_px) == 0:
        raise ValueError("There are 0 images to take patches from; expected at least one.")
    if sizes_px.min() < region_px:
        raise ValueError(
            f"The smallest side among {len(sizes_px)} images is {sizes_px.min()} px; expected at least the "
            f"{region_px} px that a source region needs."
        )
    if len(sizes_px) >= batch:
        image = torch.randperm(len(sizes_px), generator=generator)[:batch].numpy()
        room = sizes_px[image] - region_px + 1
        unit = torch.rand(batch, 2, generator=generator, dtype=torch.float64).numpy()
        corner = np.minimum((unit * room).astype(np.int64), room - 1)
        return Places(image, corner[:, 0], corner[:, 1], float("inf"))
    order = torch.randperm(len(sizes_px), generator=generator).numpy()
    counts = np.full(len(sizes_px), batch // len(sizes_px))
    counts[order[: batch % len(sizes_px)]] += 1
    tops, lefts, least = [], [], float("inf")
    for (height, width), count in zip(sizes_px, counts, strict=True):
        room = np.array([height, width]) - region_px + 1
        rows, columns = _cells(int(room[0]), int(room[1]), int(count))
        cell = room / (rows, columns)
        chosen = torch.randperm(rows * columns, generator=generator)[:count].numpy()
        unit = torch.rand(count + 1, 2, generator=generator, dtype=torch.float64).numpy()
        origin, within = unit[0] * cell / 2, unit[1:] * cell / 2
        corner = np.stack(np.divmod(chosen, columns), 1) * cell + origin + within
        corner = np.minimum(corner.astype(np.int64), room - 1)
        tops.append(corner[:, 0])
        lefts.append(corner[:, 1])
        if count > 1:
            least = min(least, float(cell.min() // 2))
    image = np.repeat(np.arange(len(sizes_px)), counts)
    return Places(image, np.concatenate(tops), np.concatenate(lefts), least)


@lru_cache(maxsize=1024)
def _cells(height: int, width: int, count: int) -> tuple[int, int]:
    """Rows and columns of at least ``count`` cells whose smaller side is as large as possible."""
    best, best_side = (1, count), -1.0
    for rows in range(1, count + 1):
        columns = -(-count // rows)
        side = min(height / rows, width / columns)
        if side > best_side:
            best, best_side = (rows, columns), side
    return best
