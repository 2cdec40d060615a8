"""Controls and baselines that make a fit mean something.

Models without learning (pixels, Gabor energy, steerable pyramid), a model that learned another task (ImageNet
AlexNet), the same network untrained or with its weights shuffled, and responses re-ordered between images. Each of the
first four returns a :class:`~neural_fits.vision_model.VisionModel`, so that it is fitted like any other network.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from os import PathLike
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neural_fits.gabor import gabor
from neural_fits.vision_model import VisionModel

#: Octaves from which :func:`gabor_energy` takes those that the field and the pixels can hold, cycles per degree.
OCTAVES_CPD = (0.5, 1.0, 2.0, 4.0, 8.0)
#: How far a Gaussian is followed, in standard deviations, in space and in frequency: amplitude 0.002 is left out.
REACH = 3.5
#: Standard deviations of its envelope between the places at which the amplitude of a filter is taken.
AMPLITUDE_STEP = 1.5


def _pixels(images: Tensor) -> dict[str, Tensor]:
    return {"pixels": images}


def pixels(*, colour: bool = False, field_deg: float = 8.0, input_px: int = 64) -> VisionModel:
    """Pictures themselves as features: what a linear read-out gains without any model.

    Parameters
    ----------
    colour : bool
        Red, green and blue instead of grey.
    field_deg : float
        Side of the square field, degrees of visual angle.
    input_px : int
        Side of the square input: the resolution is ``input_px / field_deg`` pixels per degree.

    Returns
    -------
    VisionModel
        Layer ``"pixels"``: (batch, 1 or 3, ``input_px``, ``input_px``), levels in [0, 1].

    Examples
    --------
    >>> model = pixels(input_px=32)
    >>> model.name, model.module(torch.rand(2, 1, 32, 32))["pixels"].shape
    ('pixels', torch.Size([2, 1, 32, 32]))
    """
    return VisionModel(
        _pixels,
        name="pixels",
        field_deg=field_deg,
        input_px=input_px,
        channels=3 if colour else 1,
        layers=("pixels",),
    )


def _check_input(images: Tensor, input_px: int) -> None:
    if images.ndim != 4 or images.shape[1:] != (1, input_px, input_px):
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected (batch, 1, {input_px}, {input_px}): grey pictures of "
            "the side that the bank was made for."
        )


def _check_grid(grid: int) -> None:
    if grid < 1:
        raise ValueError(f"grid is {grid}; expected at least 1 place per side.")


def _odd(least: float) -> int:
    """Smallest odd integer that is not below ``least``: an odd number of places has one at the centre."""
    return 2 * math.ceil((least - 1) / 2) + 1 if least > 1 else 1


def _cosine_interpolation(n_in: int, n_out: int, margin: int) -> np.ndarray:
    """Matrix (n_out + 2 margin, n_in) that samples a row of pixels anew, mirrored at its ends.

    The cosine series (DCT-II) through the pixels, cut at the Nyquist frequency of the new samples, evaluated at their
    centres and at ``margin`` more on each side, where the series is the mirror image of itself.
    """
    at = (np.arange(-margin, n_out + margin) + 0.5) / n_out
    from_ = (np.arange(n_in) + 0.5) / n_in
    k = np.arange(1, min(n_in, n_out))
    return (1 + 2 * np.cos(np.pi * np.outer(at, k)) @ np.cos(np.pi * np.outer(k, from_))) / n_in


def _periodic_interpolation(n_in: int, at: np.ndarray) -> np.ndarray:
    """Matrix (place, n_in): the Fourier series through ``n_in`` samples of one period, evaluated at ``at`` periods."""
    distance = 2 * np.pi * (at[:, None] - np.arange(n_in) / n_in)
    k = np.arange(1, (n_in + 1) // 2)
    series = 1 + 2 * np.cos(distance[..., None] * k).sum(-1)
    if n_in % 2 == 0:  # the wave at the Nyquist frequency stands once in the series, as a cosine
        series += np.cos(distance * (n_in // 2))
    return series / n_in


class GaborEnergy(nn.Module):
    r"""Quadrature bank of Gabor filters over frequencies and orientations, on one grid of places.

    A filter is :math:`g_\phi(u, v) = \exp(-u^2 / 2\sigma^2 - v^2 / 2 (a \sigma)^2) \cos(2 \pi f u + \phi)`, ``u``
    across the bars and ``v`` along them, with :math:`\sigma = \frac{\sqrt{\ln 2 / 2}}{\pi f} \frac{2^b + 1}{2^b - 1}`
    for a bandwidth of ``b`` octaves at half height (Jones and Palmer 1987; De Valois, Albrecht and Thorell 1982). Its
    mean is removed with a multiple of its envelope. Its gain is 1: a grating of amplitude ``c`` at the filter's own
    frequency and orientation gives a complex response ``c``, at any resolution, so photographs, whose amplitude falls
    as ``1 / f``, drive all scales alike (Field 1987).

    * ``"simple"``: half-rectified responses at the centre of each cell of the grid;
    * ``"complex"``: energy :math:`A = \sqrt{e^2 + o^2}` of the even and odd filter (Adelson and Bergen 1985), averaged
      over the cell of the grid, so that no part of the picture is missed by high frequencies;
    * ``"normalised"``: divided by its neighbours of all orientations and frequencies at the same place,
      :math:`A_k / \sqrt{s^2 + \sum_j A_j^2}` (the root of the normalised energy of Heeger 1992).

    Each frequency is computed on the picture sampled anew, finely enough for this frequency alone: by the cosine
    series through its pixels, an exact low-pass that mirrors the picture at its border.

    Parameters
    ----------
    field_deg : float
        Side of the square field, degrees of visual angle.
    input_px : int
        Side of the square input in pixels.
    frequencies_cpd : sequence of float
        Spatial frequencies, cycles per degree.
    n_orientations : int
        Orientations, equally spaced over 180 degrees from 0 (horizontal bars), counter-clockwise.
    bandwidth_octaves : float
        Full bandwidth in frequency at half height.
    aspect : float
        Length of the envelope along the bars over its width across them. At 1 and 1 octave, the full bandwidth in
        orientation is 37 degrees, near the median of macaque V1.
    grid : int
        Places per side at which responses are given.
    semisaturation : float
        ``s``, an amplitude of a grating on levels of 0 to 1. The default, 0.1, is the project's own choice: a contrast
        of 20 % on mean grey.

    Attributes
    ----------
    frequencies_cpd, orientations_deg : tuple of float
        Of the bank. Channels run over frequencies, then orientations, then (``"simple"`` alone) the phases 0, 90, 180
        and 270 degrees of the carrier.

    Raises
    ------
    ValueError
        If a value is not positive, a frequency is too high for the pixels (the upper half-height of its band is above
        the Nyquist frequency) or too low for the field (four standard deviations of the envelope are wider than it).

    Examples
    --------
    >>> bank = GaborEnergy(field_deg=4.0, input_px=64, frequencies_cpd=(1.0, 2.0), grid=8)
    >>> {name: tuple(maps.shape) for name, maps in bank(torch.rand(2, 1, 64, 64)).items()}
    {'simple': (2, 64, 8, 8), 'complex': (2, 16, 8, 8), 'normalised': (2, 16, 8, 8)}
    """

    def __init__(
        self,
        *,
        field_deg: float,
        input_px: int,
        frequencies_cpd: Sequence[float],
        n_orientations: int = 8,
        bandwidth_octaves: float = 1.0,
        aspect: float = 1.0,
        grid: int = 28,
        semisaturation: float = 0.1,
    ) -> None:
        super().__init__()
        _check_grid(grid)
        if n_orientations < 1:
            raise ValueError(f"n_orientations is {n_orientations}; expected at least 1.")
        if not semisaturation > 0:
            raise ValueError(f"semisaturation is {semisaturation}; expected a positive amplitude.")
        low, high = _frequency_limits(field_deg, input_px, bandwidth_octaves, aspect)
        if not frequencies_cpd or not all(low <= f <= high for f in frequencies_cpd):
            raise ValueError(
                f"frequencies_cpd is {tuple(frequencies_cpd)}; expected one or more from {low:.3g} (a filter no wider "
                f"than the field of {field_deg:g} deg) to {high:.3g} cycles per degree (a band below the Nyquist "
                f"frequency of {input_px} px): leave the others out or change field_deg or input_px."
            )
        self.field_deg, self.input_px, self.grid, self.semisaturation = field_deg, input_px, grid, semisaturation
        self.frequencies_cpd = tuple(float(f) for f in frequencies_cpd)
        self.orientations_deg = tuple(180.0 * i / n_orientations for i in range(n_orientations))
        self._steps: list[tuple[int, int]] = []
        for i, frequency in enumerate(self.frequencies_cpd):
            across_deg = _across_deg(frequency, bandwidth_octaves)
            rate = 2 * (frequency + REACH / (2 * math.pi * across_deg))  # samples per degree: twice the band's end
            parts = _odd(field_deg / grid / (AMPLITUDE_STEP * across_deg))
            stride = math.ceil(rate * field_deg / (grid * parts))
            n_samples = grid * parts * stride
            across_px = across_deg * n_samples / field_deg
            side = 2 * math.ceil(REACH * across_px * max(1.0, aspect)) + stride % 2  # centred as the stride is
            kernels = _quadrature_kernels(
                side, self.orientations_deg, frequency * field_deg / n_samples, across_px, aspect * across_px
            )
            resample = _cosine_interpolation(input_px, n_samples, (side - stride) // 2)
            self._steps.append((stride, parts))
            self.register_buffer(f"kernels_{i}", torch.from_numpy(kernels).float(), persistent=False)
            self.register_buffer(f"resample_{i}", torch.from_numpy(resample).float(), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Responses of the bank.

        Parameters
        ----------
        images : Tensor, (batch, 1, input_px, input_px)
            Grey levels.

        Returns
        -------
        dict of str to Tensor
            ``"simple"``: (batch, frequency x orientation x phase, grid, grid); ``"complex"`` and ``"normalised"``:
            (batch, frequency x orientation, grid, grid).

        Raises
        ------
        ValueError
            If the pictures have another shape.
        """
        _check_input(images, self.input_px)
        simple, amplitude = [], []
        for i, (stride, parts) in enumerate(self._steps):
            resample = self.get_buffer(f"resample_{i}")
            samples = resample @ images @ resample.T
            even, odd = F.conv2d(samples, self.get_buffer(f"kernels_{i}"), stride=stride).chunk(2, dim=1)
            amplitude.append(F.avg_pool2d((even.square() + odd.square()).sqrt(), parts))
            even, odd = (part[..., parts // 2 :: parts, parts // 2 :: parts] for part in (even, odd))
            simple.append(torch.stack([even, odd, -even, -odd], dim=2).flatten(1, 2).relu())
        energy = torch.cat(amplitude, dim=1)
        pool = (self.semisaturation**2 + energy.square().sum(1, keepdim=True)).sqrt()
        return {"simple": torch.cat(simple, dim=1), "complex": energy, "normalised": energy / pool}


def _across_deg(frequency_cpd: float, bandwidth_octaves: float) -> float:
    ratio = 2.0**bandwidth_octaves
    return math.sqrt(math.log(2) / 2) / (math.pi * frequency_cpd) * (ratio + 1) / (ratio - 1)


def _frequency_limits(field_deg: float, input_px: int, bandwidth_octaves: float, aspect: float) -> tuple[float, float]:
    """Lowest and highest frequency that the field and the pixels can hold, cycles per degree."""
    for name, value in (
        ("field_deg", field_deg),
        ("input_px", input_px),
        ("bandwidth_octaves", bandwidth_octaves),
        ("aspect", aspect),
    ):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; expected a positive number.")
    ratio = 2.0**bandwidth_octaves
    lowest = 4 * _across_deg(1.0, bandwidth_octaves) * max(1.0, aspect) / field_deg
    return lowest, input_px / field_deg / 2 * (ratio + 1) / (2 * ratio)


def _quadrature_kernels(
    side: int, orientations_deg: Sequence[float], frequency_cpp: float, across_px: float, along_px: float
) -> np.ndarray:
    """Filters (all phases of 0 degrees, then all of 90; 1; side; side) of mean 0 and gain 1 at their own frequency."""
    kernels = []
    for phase in (0.0, 90.0):
        for orientation in orientations_deg:
            draw = partial(gabor, side, side, orientation_deg=orientation)
            envelope = draw(frequency_cpp=0.0, across_px=across_px, along_px=along_px)
            wave = draw(frequency_cpp=frequency_cpp, phase_deg=phase, across_px=math.inf, along_px=math.inf)
            kernel = envelope * wave
            kernel -= envelope * (kernel.sum() / envelope.sum())
            kernels.append(kernel / (kernel * wave).sum())
    return np.stack(kernels)[:, None]


def gabor_energy(
    *,
    field_deg: float = 8.0,
    input_px: int = 224,
    frequencies_cpd: Sequence[float] | None = None,
    n_orientations: int = 8,
    bandwidth_octaves: float = 1.0,
    aspect: float = 1.0,
    grid: int = 28,
    semisaturation: float = 0.1,
) -> VisionModel:
    """Gabor energy model of V1: simple cells, complex cells and complex cells with divisive normalisation.

    Parameters
    ----------
    field_deg : float
        Side of the square field, degrees of visual angle.
    input_px : int
        Side of the square input in pixels.
    frequencies_cpd : sequence of float, optional
        Spatial frequencies, cycles per degree; by default those of 0.5, 1, 2, 4 and 8 that the field and the pixels
        can hold.
    n_orientations, bandwidth_octaves, aspect, grid, semisaturation
        As in :class:`GaborEnergy`.

    Returns
    -------
    VisionModel
        Layers ``"simple"``, ``"complex"`` and ``"normalised"``, maps on one grid.

    Raises
    ------
    ValueError
        As :class:`GaborEnergy`; or if no frequency of the default fits.

    Examples
    --------
    >>> model = gabor_energy(input_px=128)
    >>> model.module.frequencies_cpd
    (0.5, 1.0, 2.0, 4.0)
    >>> gabor_energy(input_px=128, frequencies_cpd=(4.0, 8.0))
    Traceback (most recent call last):
    ...
    ValueError: frequencies_cpd is (4.0, 8.0); expected one or more from 0.281 (a filter no wider than the field of
    8 deg) to 6 cycles per degree (a band below the Nyquist frequency of 128 px): ...
    """
    if frequencies_cpd is None:
        low, high = _frequency_limits(field_deg, input_px, bandwidth_octaves, aspect)
        frequencies_cpd = [f for f in OCTAVES_CPD if low <= f <= high]
    bank = GaborEnergy(
        field_deg=field_deg,
        input_px=input_px,
        frequencies_cpd=frequencies_cpd,
        n_orientations=n_orientations,
        bandwidth_octaves=bandwidth_octaves,
        aspect=aspect,
        grid=grid,
        semisaturation=semisaturation,
    )
    return VisionModel(
        bank,
        name="gabor-energy",
        field_deg=field_deg,
        input_px=input_px,
        channels=1,
        layers=("simple", "complex", "normalised"),
    )


def _steerable_pyramid_class() -> Callable[..., nn.Module]:
    try:
        version = metadata.version("plenoptic")
        try:
            from plenoptic.process import SteerablePyramidFreq
        except ImportError:  # its place before version 2
            from plenoptic.simulate import SteerablePyramidFreq  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            'The steerable pyramid needs plenoptic, which is not installed; pip install "lcl[pyramid]".'
        ) from None
    if tuple(int(part) for part in version.split(".")[:2]) < (1, 4):
        raise ValueError(
            f"The steerable pyramid needs plenoptic 1.4 or later, and {version} is installed; "
            'pip install --upgrade "lcl[pyramid]".'
        )
    return SteerablePyramidFreq


class SteerablePyramid(nn.Module):
    r"""Steerable pyramid (Simoncelli and Freeman 1995; plenoptic's), on one grid of places.

    The complex pyramid of plenoptic, whose bands, an octave apart, tile the frequencies; even and odd filters are the
    real and imaginary part. Each band is evaluated anywhere by the Fourier series through its coefficients.

    * ``"energy"``: amplitude :math:`|z|`, averaged over the cell of the grid;
    * ``"real"``: real part at the centre of each cell, signed (odd-symmetric filters where ``order`` is odd).

    Bands are divided by what their downsampling multiplies them with, so that the gain to a grating at the peak of a
    band is the same at all scales (0.89 at ``order=3``). The pyramid wraps the picture around at its border.

    Parameters
    ----------
    field_deg : float
        Side of the square field, degrees of visual angle.
    input_px : int
        Side of the square input in pixels, even.
    n_scales : int, optional
        Number of octaves; by default as many as plenoptic allows, ``floor(log2(input_px)) - 2``.
    order : int
        Order of the Gaussian derivative, 1 to 15; there are ``order + 1`` orientations.
    grid : int
        Places per side at which responses are given.

    Attributes
    ----------
    frequencies_cpd : tuple of float
        Frequency at the peak of each scale, cycles per degree, from the finest: 0.25 cycles per pixel, then halved.
    orientations_deg : tuple of float
        Orientation of the bars, degrees counter-clockwise from horizontal. Channels run over scales, then
        orientations.

    Raises
    ------
    ValueError
        If plenoptic is missing or older than 1.4, ``input_px`` is odd, or a value is out of its range.

    Examples
    --------
    >>> pyramid = SteerablePyramid(field_deg=4.0, input_px=64, n_scales=2, grid=8)
    >>> pyramid.frequencies_cpd, pyramid.orientations_deg
    ((4.0, 2.0), (90.0, 45.0, 0.0, 135.0))
    >>> {name: tuple(maps.shape) for name, maps in pyramid(torch.rand(2, 1, 64, 64)).items()}
    {'energy': (2, 8, 8, 8), 'real': (2, 8, 8, 8)}
    """

    def __init__(
        self, *, field_deg: float, input_px: int, n_scales: int | None = None, order: int = 3, grid: int = 28
    ) -> None:
        super().__init__()
        _check_grid(grid)
        most = int(math.log2(max(input_px, 1))) - 2
        n_scales = most if n_scales is None else n_scales
        if input_px % 2 or most < 1:
            raise ValueError(f"input_px is {input_px}; expected an even number of at least 8 pixels.")
        if not 1 <= n_scales <= most:
            raise ValueError(f"n_scales is {n_scales}; expected 1 to {most} for an input of {input_px} px.")
        if not 1 <= order <= 15:
            raise ValueError(f"order is {order}; expected 1 to 15.")
        if not 0 < field_deg < math.inf:
            raise ValueError(f"field_deg is {field_deg}; expected a positive number.")
        pyramid_class = _steerable_pyramid_class()
        state = np.random.get_state()  # noqa: NPY002 - plenoptic draws a picture from the global generator
        try:
            self.pyramid = pyramid_class((input_px, input_px), height=n_scales, order=order, is_complex=True)
        finally:
            np.random.set_state(state)  # noqa: NPY002
        self.field_deg, self.input_px, self.grid, self.n_scales = field_deg, input_px, grid, n_scales
        self.frequencies_cpd = tuple(input_px / field_deg / 4 / 2**scale for scale in range(n_scales))
        self.orientations_deg = tuple((90.0 - 180.0 * i / (order + 1)) % 180.0 for i in range(order + 1))
        side, self._parts = input_px, []
        for scale in range(n_scales):
            parts = _odd(side / 2 / grid)  # a band fills half of the frequencies of its samples, so does its amplitude
            places_px = (np.arange(grid * parts) + 0.5) * input_px / (grid * parts) - 0.5
            matrix = _periodic_interpolation(side, places_px / input_px)
            self._parts.append(parts)
            self.register_buffer(f"interpolate_{scale}", torch.from_numpy(matrix).float(), persistent=False)
            side = math.ceil((side - 0.5) / 2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Amplitude and real part of the bands.

        Parameters
        ----------
        images : Tensor, (batch, 1, input_px, input_px)
            Grey levels.

        Returns
        -------
        dict of str to Tensor
            ``"energy"`` and ``"real"``: (batch, scale x orientation, grid, grid).

        Raises
        ------
        ValueError
            If the pictures have another shape.
        """
        _check_input(images, self.input_px)
        bands = self.pyramid(images, scales=list(range(self.n_scales)))
        energy, real = [], []
        for scale, parts in enumerate(self._parts):
            z = bands[scale][:, 0] * (bands[scale].shape[-1] / self.input_px) ** 2
            matrix = self.get_buffer(f"interpolate_{scale}")
            even, odd = (matrix @ part @ matrix.T for part in (z.real, z.imag))
            energy.append(F.avg_pool2d((even.square() + odd.square()).sqrt(), parts))
            real.append(even[..., parts // 2 :: parts, parts // 2 :: parts])
        return {"energy": torch.cat(energy, dim=1), "real": torch.cat(real, dim=1)}


def steerable_pyramid(
    *,
    field_deg: float = 8.0,
    input_px: int = 224,
    n_scales: int | None = None,
    order: int = 3,
    grid: int = 28,
) -> VisionModel:
    """Steerable pyramid: energies and signed responses of bands of frequency and orientation.

    Parameters
    ----------
    field_deg, input_px, n_scales, order, grid
        As in :class:`SteerablePyramid`.

    Returns
    -------
    VisionModel
        Layers ``"energy"`` and ``"real"``, maps on one grid.

    Raises
    ------
    ValueError
        As :class:`SteerablePyramid`: among others, if plenoptic is missing (``pip install "lcl[pyramid]"``).

    Examples
    --------
    >>> steerable_pyramid(input_px=128).module.frequencies_cpd
    (4.0, 2.0, 1.0, 0.5, 0.25)
    """
    return VisionModel(
        SteerablePyramid(field_deg=field_deg, input_px=input_px, n_scales=n_scales, order=order, grid=grid),
        name="steerable-pyramid",
        field_deg=field_deg,
        input_px=input_px,
        channels=1,
        layers=("energy", "real"),
    )


class AlexNetConvolutions(nn.Module):
    """Convolution layers of AlexNet in torchvision's variant (Krizhevsky 2014), without the classifier.

    The submodules have torchvision's names (``features.0`` to ``features.12``), so its weights load and hooks by those
    names work. Weights are as PyTorch draws them, which is how torchvision leaves them.

    Parameters
    ----------
    inplace : bool
        Rectify in place, as torchvision does: less memory, but a hook on a convolution sees rectified values.

    Examples
    --------
    >>> maps = AlexNetConvolutions()(torch.rand(1, 3, 224, 224))
    >>> {name: tuple(values.shape[1:]) for name, values in maps.items() if name.startswith("conv")}
    {'conv1': (64, 55, 55), 'conv2': (192, 27, 27), 'conv3': (384, 13, 13), 'conv4': (256, 13, 13),
     'conv5': (256, 13, 13)}
    """

    #: Name of the output of each submodule of ``features`` that is given: after rectification, or pooled.
    outputs = {  # noqa: RUF012 - a constant
        1: "conv1",
        2: "pool1",
        4: "conv2",
        5: "pool2",
        7: "conv3",
        9: "conv4",
        11: "conv5",
        12: "pool5",
    }

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=inplace),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=inplace),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=inplace),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=inplace),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=inplace),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of each layer.

        Parameters
        ----------
        images : Tensor, (batch, 3, row, column)
            Normalised as for ImageNet.

        Returns
        -------
        dict of str to Tensor
            ``"conv1"`` to ``"conv5"``, rectified, and ``"pool1"``, ``"pool2"``, ``"pool5"``:
            (batch, channel, row, column).
        """
        maps, x = {}, images
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.outputs:
                maps[self.outputs[i]] = x
        return maps


def _read_weights(path: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Arrays of an ``.npz`` file, which must be exactly those expected, float and finite."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected an .npz file with the weights of AlexNet.")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name")
        with file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is not an .npz file of plain arrays ({error}); save it with numpy.savez.") from None
    missing, unknown = sorted(expected.keys() - arrays.keys()), sorted(arrays.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(
            f"{path} lacks {', '.join(missing) or 'nothing'} and has besides {', '.join(unknown) or 'nothing'}; "
            "expected the weight and bias of features.0, 3, 6, 8 and 10, as torchvision's alexnet names them."
        )
    for name, shape in expected.items():
        array = arrays[name]
        if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(
                f"{name} in {path} is {array.dtype} of shape {array.shape}; expected finite floating-point numbers of "
                f"shape {shape} (output channel, input channel, row, column)."
            )
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}


def alexnet(
    weights: str | PathLike[str] | None = None,
    *,
    inplace: bool = False,
    seed: int = 0,
    field_deg: float = 8.0,
    input_px: int = 224,
) -> VisionModel:
    """AlexNet's convolution layers: learned from ImageNet labels, or untrained.

    Parameters
    ----------
    weights : path, optional
        An ``.npz`` file with ``features.0.weight``, ``features.0.bias`` and so on for ``features.3``, ``6``, ``8`` and
        ``10``, as in the state of torchvision's ``alexnet``. Without it, the network is untrained.
    inplace : bool
        Rectify in place, as torchvision does.
    seed : int
        Of the untrained weights.
    field_deg : float
        Side of the square field, degrees of visual angle.
    input_px : int
        Side of the square input, at least 63 px.

    Returns
    -------
    VisionModel
        Layers ``"conv1"`` to ``"conv5"`` (rectified), ``"pool1"``, ``"pool2"`` and ``"pool5"``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If names, shapes or numbers in the file are not those of AlexNet, or the input is too small.

    Examples
    --------
    >>> model = alexnet(seed=1)
    >>> model.name, model.layers
    ('alexnet-untrained-seed1', ('conv1', 'pool1', 'conv2', 'pool2', 'conv3', 'conv4', 'conv5', 'pool5'))
    """
    if input_px < 63:
        raise ValueError(f"input_px is {input_px}; expected at least 63, or no pixel is left after the last pooling.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = AlexNetConvolutions(inplace=inplace)
    if weights is not None:
        expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        module.load_state_dict(_read_weights(Path(weights), expected))
    return VisionModel(
        module,
        name="alexnet" if weights is not None else f"alexnet-untrained-seed{seed}",
        field_deg=field_deg,
        input_px=input_px,
        channels=3,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        layers=tuple(AlexNetConvolutions.outputs.values()),
    )


#: Baselines by name: each is called with keywords and returns a :class:`~neural_fits.vision_model.VisionModel`.
BASELINES: dict[str, Callable[..., VisionModel]] = {
    "pixels": pixels,
    "gabor-energy": gabor_energy,
    "steerable-pyramid": steerable_pyramid,
    "alexnet": alexnet,
}


def _copy_of_network(model: VisionModel) -> nn.Module:
    if not isinstance(model.module, nn.Module) or not any(True for _ in model.module.parameters()):
        raise ValueError(
            f"{model.name} has no parameters; expected a model whose module is a torch.nn.Module with some."
        )
    return copy.deepcopy(model.module)


def untrained(model: VisionModel, *, seed: int, initialise: Callable[[nn.Module], object] | None = None) -> VisionModel:
    """Copy of a model with new random weights: what its architecture gives without learning.

    Every submodule with a ``reset_parameters`` method (as PyTorch's layers have) is reset, batch norms with their
    running statistics; other buffers stay. Numbers are drawn on the CPU, so that they do not depend on the device, and
    the global generators are left as they were.

    Parameters
    ----------
    model : VisionModel
        Stays as it is.
    seed : int
    initialise : callable, optional
        Called with the copied module after the resets, to draw what they left (class tokens, position embeddings), or
        to initialise all as the network's authors did; it draws from PyTorch's global CPU generator, seeded.

    Returns
    -------
    VisionModel
        Named ``"<name>-untrained-seed<seed>"``.

    Raises
    ------
    ValueError
        If the model has no parameters, or some are left as they were; the error names them.

    Examples
    --------
    >>> again = untrained(alexnet(), seed=1)
    >>> again.name
    'alexnet-untrained-seed0-untrained-seed1'
    >>> torch.equal(again.module.features[0].weight, alexnet(seed=1).module.features[0].weight)
    True
    """
    network = _copy_of_network(model)
    devices = {name: value.device for name, value in _tensors(network)}
    network.cpu()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators as well
        for parameter in network.parameters():
            parameter.fill_(math.nan)  # a parameter that no reset reaches gives itself away
        network.apply(_reset)  # children before parents, which may have their own way with them
        if initialise is not None:
            initialise(network)
    left = [name for name, parameter in network.named_parameters() if parameter.isnan().any()]
    if left:
        raise ValueError(
            f"no reset_parameters of {model.name} reaches {', '.join(left)}; give initialise=, a function of the "
            "module that draws them."
        )
    for name, value in _tensors(network):
        value.data = value.data.to(devices[name])
    return dataclasses.replace(model, module=network, name=f"{model.name}-untrained-seed{seed}")


def _reset(module: nn.Module) -> None:
    for name in ("reset_parameters", "_reset_parameters"):  # the second is that of PyTorch's attention
        if callable(reset := getattr(module, name, None)):
            reset()


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def shuffled_weights(model: VisionModel, *, seed: int) -> VisionModel:
    """Copy of a model whose weights are permuted within each layer: their distribution stays, their pattern does not.

    Every parameter of two or more axes (filters, weight matrices) is permuted over all of its entries; biases and the
    scales of norms, one number per channel, stay.

    Parameters
    ----------
    model : VisionModel
        Stays as it is.
    seed : int

    Returns
    -------
    VisionModel
        Named ``"<name>-shuffled-seed<seed>"``.

    Raises
    ------
    ValueError
        If the model has no parameters.

    Examples
    --------
    >>> model = alexnet()
    >>> before, after = (m.module.features[0].weight.flatten() for m in (model, shuffled_weights(model, seed=0)))
    >>> torch.equal(before, after), torch.equal(before.sort().values, after.sort().values)
    (False, True)
    """
    network = _copy_of_network(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return dataclasses.replace(model, module=network, name=f"{model.name}-shuffled-seed{seed}")


def reorder(responses: int | np.ndarray, *, groups: Sequence | np.ndarray | None = None, seed: int) -> np.ndarray:
    """Permutation that gives every stimulus the responses to another: a control in which any fit must fall to zero.

    Without groups, the stimuli are put into one random cycle and each gets the responses of the next. With groups
    (movies, families of textures), whose members share responses, each gets those of a member of another group:

    * groups of the same size are exchanged whole, in a random cycle, and keep the order within the group;
    * groups whose size no other group has are laid end to end in random order, and the row is turned by the size of
      the largest: runs of stimuli keep their order, and none stays in its group;
    * where that cannot be (one such group alone, or one larger than the others of them together), all groups are laid
      end to end and turned in this way.

    Parameters
    ----------
    responses : int or array, (stimulus, ...)
        Responses, or the number of stimuli.
    groups : sequence, (stimulus,), optional
        Label of the group of each stimulus.
    seed : int

    Returns
    -------
    ndarray of int, (stimulus,)
        ``responses[order]`` are the responses re-ordered. Each stimulus occurs once, so that the distribution of the
        responses of every neuron stays.

    Raises
    ------
    ValueError
        If there are fewer than two stimuli, ``groups`` has another length, or a group holds more than half of the
        stimuli, so that some would have to stay in it.

    Examples
    --------
    >>> reorder(5, seed=0)
    array([1, 2, 4, 0, 3])
    >>> reorder(6, groups=["a", "a", "a", "b", "b", "b"], seed=0)
    array([3, 4, 5, 0, 1, 2])
    >>> reorder(4, groups=["a", "a", "a", "b"], seed=0)
    Traceback (most recent call last):
    ...
    ValueError: group a holds 3 of 4 stimuli; expected at most half, or some must keep responses of their own group.
    """
    n = responses if isinstance(responses, int | np.integer) else len(responses)
    if n < 2:
        raise ValueError(f"there are {n} stimuli; expected at least 2 to exchange responses between them.")
    labels = np.arange(n) if groups is None else np.asarray(groups)
    if labels.shape != (n,):
        raise ValueError(f"groups have shape {labels.shape}; expected one label for each of {n} stimuli.")
    names, group = np.unique(labels, return_inverse=True)
    members = [np.flatnonzero(group == i) for i in range(len(names))]
    largest = max(range(len(names)), key=lambda i: len(members[i]))
    if 2 * len(members[largest]) > n:
        raise ValueError(
            f"group {names[largest]} holds {len(members[largest])} of {n} stimuli; expected at most half, or some must "
            "keep responses of their own group."
        )
    by_size: dict[int, list[np.ndarray]] = {}
    for rows in members:
        by_size.setdefault(len(rows), []).append(rows)
    alone = [same[0] for same in by_size.values() if len(same) == 1]
    exchanged = [same for same in by_size.values() if len(same) > 1]
    if alone:
        turns = 2 * max(map(len, alone)) <= sum(map(len, alone))
        exchanged = [*exchanged, alone] if turns else [members]
    rng = np.random.default_rng(seed)
    order = np.empty(n, dtype=np.intp)
    for row_of_groups in exchanged:
        row = np.concatenate([row_of_groups[i] for i in rng.permutation(len(row_of_groups))])
        order[row] = np.roll(row, -max(map(len, row_of_groups)))
    return order
