"""Gratings, plaids, Gabor patches, bars and rings, drawn from their parameters.

Conventions, the same as in :mod:`neural_fits.gabor`: an orientation is that of the bars, degrees counter-clockwise from
horizontal, so 90 is vertical. ``u`` runs across the bars, ``x cos(w) + y sin(w)`` with ``w = 90 - orientation``, ``x``
to the right, ``y`` down; a grating is ``cos(2 pi f u + phase)``, phase 0 having its peak at the centre. It drifts
towards growing ``u``: to the right at 90 degrees, in general in direction ``orientation - 90`` counter-clockwise from
rightward, so orientations from 180 to 360 drift the other way.

Every function draws ``n`` pictures at once: its parameters are numbers or arrays of shape (n,). Pictures are
float32 in [0, 1], shape (n, row, column), square, around ``mean_luminance``; contrast is Michelson contrast.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stimuli.apertures import annulus, centred
from stimuli.display import PIXELS_PER_DEGREE
from stimuli.stimulus_set import StimulusSet, factorial

Images = NDArray[np.float32]


def side_px(size_deg: float, pixels_per_degree: float) -> int:
    """Whole number of pixels of a picture's side.

    Parameters
    ----------
    size_deg : float
    pixels_per_degree : float

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the side is not a whole, positive number of pixels: the picture would have another size than asked for.

    Examples
    --------
    >>> side_px(8.0, 28.0)
    224
    """
    if not (size_deg > 0 and pixels_per_degree > 0):
        raise ValueError(f"size_deg {size_deg} and pixels_per_degree {pixels_per_degree}: expected positive numbers.")
    side = size_deg * pixels_per_degree
    if abs(side - round(side)) > 1e-6 or round(side) < 1:
        raise ValueError(
            f"{size_deg} degrees at {pixels_per_degree} pixels per degree are {side:g} pixels; expected a whole "
            "number: change either."
        )
    return round(side)


def _columns(**parameters: ArrayLike) -> list[NDArray[np.float64]]:
    """Parameters as arrays (n, 1, 1)."""
    flat = {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in parameters.items()}
    lengths = {name: len(value) for name, value in flat.items() if value.shape != (1,)}
    if any(value.ndim != 1 for value in flat.values()) or len(set(lengths.values())) > 1:
        shapes = {name: value.shape for name, value in flat.items()}
        raise ValueError(f"parameters have shapes {shapes}; expected numbers or arrays of one length.")
    for name, value in flat.items():
        if np.isnan(value).any() or (name != "diameter_deg" and np.isinf(value).any()):
            raise ValueError(f"{name} holds NaN or infinite values; expected finite numbers.")
    n = max(lengths.values(), default=1)
    return [np.broadcast_to(value, (n,))[:, None, None] for value in flat.values()]


def _check_frequency(frequency_cpd: NDArray[np.float64], pixels_per_degree: float) -> None:
    if (frequency_cpd < 0).any():
        raise ValueError(f"frequency_cpd is {frequency_cpd.min():g}; expected at least 0 cycles per degree.")
    if (frequency_cpd > pixels_per_degree / 2).any():
        raise ValueError(
            f"frequency_cpd {frequency_cpd.max():g} is above {pixels_per_degree / 2:g}, the highest that "
            f"{pixels_per_degree:g} pixels per degree can show (Nyquist); lower it or raise pixels_per_degree."
        )


def _picture(modulation: NDArray[np.float64], mean_luminance: float) -> Images:
    if not 0 < mean_luminance < 1:
        raise ValueError(f"mean_luminance is {mean_luminance}; expected a level between 0 and 1, such as 0.5.")
    image = mean_luminance * (1 + modulation)
    if image.size and (image.min() < -1e-9 or image.max() > 1 + 1e-9):
        raise ValueError(
            f"levels run from {image.min():.3g} to {image.max():.3g}; expected [0, 1]: lower the contrast or change "
            f"mean_luminance ({mean_luminance})."
        )
    return np.clip(image, 0.0, 1.0).astype(np.float32)


def _across_along(x, y, orientation_deg: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wave = np.deg2rad(90.0 - orientation_deg)
    return x * np.cos(wave) + y * np.sin(wave), -x * np.sin(wave) + y * np.cos(wave)


def grating(
    *,
    orientation_deg: ArrayLike,
    frequency_cpd: ArrayLike,
    phase_deg: ArrayLike = 0.0,
    contrast: ArrayLike = 1.0,
    diameter_deg: ArrayLike | None = None,
    inner_diameter_deg: ArrayLike = 0.0,
    edge_deg: float = 0.0,
    x_deg: ArrayLike = 0.0,
    y_deg: ArrayLike = 0.0,
    size_deg: float = 8.0,
    pixels_per_degree: float = PIXELS_PER_DEGREE,
    mean_luminance: float = 0.5,
) -> Images:
    """Sinusoidal gratings: full field, in a disc (size tuning) or in a ring (surround).

    Parameters
    ----------
    orientation_deg, frequency_cpd, phase_deg, contrast : float or array, (n,)
        Phase is that at ``(x_deg, y_deg)``.
    diameter_deg : float or array, (n,), optional
        Outer diameter; full field where infinite, or without it.
    inner_diameter_deg : float or array, (n,)
        Diameter of the hole; 0 is none.
    edge_deg : float
        Width of raised-cosine edges; 0 is hard.
    x_deg, y_deg : float or array, (n,)
        Centre, degrees to the right of and below the picture's centre.
    size_deg : float
        Side of the picture.
    pixels_per_degree : float
    mean_luminance : float

    Returns
    -------
    ndarray, (n, row, column), float32

    Raises
    ------
    ValueError
        If a frequency is above what the pixels can show, levels leave [0, 1], or the lengths differ.

    Examples
    --------
    >>> images = grating(orientation_deg=[0, 90], frequency_cpd=1, size_deg=2, pixels_per_degree=8)
    >>> images.shape, bool(np.allclose(images[0], images[1].T)), images[1, 0, :4].round(2)
    ((2, 16, 16), True, array([0.96, 0.69, 0.31, 0.04], dtype=float32))
    """
    everything = np.inf if diameter_deg is None else diameter_deg
    theta, f, phase, c, x0, y0, inner, outer = _columns(
        orientation_deg=orientation_deg,
        frequency_cpd=frequency_cpd,
        phase_deg=phase_deg,
        contrast=contrast,
        x_deg=x_deg,
        y_deg=y_deg,
        inner_diameter_deg=inner_diameter_deg,
        diameter_deg=everything,
    )
    _check_frequency(f, pixels_per_degree)
    side = side_px(size_deg, pixels_per_degree)
    x, y = centred(side, side, pixels_per_degree)
    u, _ = _across_along(x - x0, y - y0, theta)
    wave = c * np.cos(2 * np.pi * f * u + np.deg2rad(phase))
    if np.isfinite(outer).any() or (inner != 0).any():
        wave = wave * annulus(np.hypot(x - x0, y - y0), inner / 2, outer / 2, edge=edge_deg)
    return _picture(wave, mean_luminance)


def drifting_grating(
    *,
    orientation_deg: float,
    frequency_cpd: float,
    temporal_frequency_hz: float,
    duration_ms: float,
    frame_rate_hz: float = 60.0,
    phase_deg: float = 0.0,
    **options,
) -> Images:
    """Frames of a drifting grating.

    ``cos(2 pi (f u - t F) + phase)`` with ``t`` the start of each frame: it moves towards growing ``u``, in direction
    ``orientation_deg - 90`` counter-clockwise from rightward.

    Parameters
    ----------
    orientation_deg, frequency_cpd, phase_deg : float
    temporal_frequency_hz : float
        ``F``; at most half the frame rate.
    duration_ms : float
    frame_rate_hz : float
    **options
        Of :func:`grating`.

    Returns
    -------
    ndarray, (frame, row, column), float32

    Raises
    ------
    ValueError
        If the frames cannot show the temporal frequency, or :func:`grating` refuses.

    Examples
    --------
    >>> frames = drifting_grating(
    ...     orientation_deg=90, frequency_cpd=1, temporal_frequency_hz=5, duration_ms=200, frame_rate_hz=40,
    ...     size_deg=2, pixels_per_degree=8,
    ... )
    >>> frames.shape, bool(np.allclose(np.roll(frames[0], 1, axis=1), frames[1], atol=1e-6))
    ((8, 16, 16), True)
    """
    if not 0 <= temporal_frequency_hz <= frame_rate_hz / 2:
        raise ValueError(
            f"temporal_frequency_hz is {temporal_frequency_hz}; expected 0 to {frame_rate_hz / 2:g}, half the frame "
            "rate (turn the orientation by 180 to drift the other way)."
        )
    frames = round(duration_ms * frame_rate_hz / 1000)
    if frames < 1:
        raise ValueError(f"duration_ms {duration_ms} at {frame_rate_hz} frames per second holds no frame; lengthen it.")
    phases = phase_deg - 360.0 * temporal_frequency_hz * np.arange(frames) / frame_rate_hz
    return grating(orientation_deg=orientation_deg, frequency_cpd=frequency_cpd, phase_deg=phases, **options)


def plaid(
    *,
    orientation_deg: ArrayLike,
    angle_deg: ArrayLike = 90.0,
    contrast: ArrayLike = 1.0,
    mean_luminance: float = 0.5,
    **options,
) -> Images:
    """Sum of two gratings, each of half the contrast.

    Parameters
    ----------
    orientation_deg : float or array, (n,)
        Of the first grating.
    angle_deg : float or array, (n,)
        From the first to the second, counter-clockwise.
    contrast : float or array, (n,)
        Of the plaid.
    mean_luminance : float
    **options
        Of :func:`grating`, for both.

    Returns
    -------
    ndarray, (n, row, column), float32

    Examples
    --------
    >>> image = plaid(orientation_deg=0, frequency_cpd=1, size_deg=2, pixels_per_degree=8)[0]
    >>> bool(np.allclose(image, image.T)), bool(image.max() <= 1)
    (True, True)
    """
    first, angle, half = (v.ravel() for v in _columns(o=orientation_deg, a=angle_deg, c=np.asarray(contrast) / 2))
    options = {**options, "contrast": half, "mean_luminance": mean_luminance}
    one = grating(orientation_deg=first, **options)
    return one + grating(orientation_deg=first + angle, **options) - np.float32(mean_luminance)


def gabor_patch(
    *,
    orientation_deg: ArrayLike,
    frequency_cpd: ArrayLike,
    phase_deg: ArrayLike = 0.0,
    contrast: ArrayLike = 1.0,
    across_deg: ArrayLike = 0.5,
    along_deg: ArrayLike = 0.5,
    x_deg: ArrayLike = 0.0,
    y_deg: ArrayLike = 0.0,
    size_deg: float = 8.0,
    pixels_per_degree: float = PIXELS_PER_DEGREE,
    mean_luminance: float = 0.5,
) -> Images:
    """Gabor patches: gratings under a Gaussian.

    Parameters
    ----------
    orientation_deg, frequency_cpd, phase_deg, contrast : float or array, (n,)
    across_deg, along_deg : float or array, (n,)
        Standard deviations of the Gaussian across and along the bars.
    x_deg, y_deg : float or array, (n,)
        Centre, degrees to the right of and below the picture's centre.
    size_deg, pixels_per_degree, mean_luminance : float

    Returns
    -------
    ndarray, (n, row, column), float32

    Raises
    ------
    ValueError
        As :func:`grating`, and if a width is not positive.

    Examples
    --------
    >>> patch = gabor_patch(orientation_deg=45, frequency_cpd=2, size_deg=2, pixels_per_degree=16.5)[0]
    >>> float(patch[16, 16]), float(patch[0, 0].round(2))
    (1.0, 0.5)
    """
    theta, f, phase, c, across, along, x0, y0 = _columns(
        orientation_deg=orientation_deg,
        frequency_cpd=frequency_cpd,
        phase_deg=phase_deg,
        contrast=contrast,
        across_deg=across_deg,
        along_deg=along_deg,
        x_deg=x_deg,
        y_deg=y_deg,
    )
    _check_frequency(f, pixels_per_degree)
    if (across <= 0).any() or (along <= 0).any():
        raise ValueError(f"across_deg {across.min():g}, along_deg {along.min():g}: expected positive widths.")
    side = side_px(size_deg, pixels_per_degree)
    x, y = centred(side, side, pixels_per_degree)
    u, v = _across_along(x - x0, y - y0, theta)
    envelope = np.exp(-(u**2) / (2 * across**2) - v**2 / (2 * along**2))
    return _picture(c * envelope * np.cos(2 * np.pi * f * u + np.deg2rad(phase)), mean_luminance)


def bar(
    *,
    orientation_deg: ArrayLike,
    width_deg: ArrayLike,
    length_deg: ArrayLike,
    contrast: ArrayLike = 1.0,
    x_deg: ArrayLike = 0.0,
    y_deg: ArrayLike = 0.0,
    size_deg: float = 8.0,
    pixels_per_degree: float = PIXELS_PER_DEGREE,
    mean_luminance: float = 0.5,
) -> Images:
    """Bars, light or dark, with edges one pixel wide.

    Parameters
    ----------
    orientation_deg : float or array, (n,)
        Of the long side.
    width_deg, length_deg : float or array, (n,)
        Sizes across and along.
    contrast : float or array, (n,)
        Weber contrast, from -1 (black) up to what the mean luminance leaves.
    x_deg, y_deg : float or array, (n,)
        Centre, degrees to the right of and below the picture's centre.
    size_deg, pixels_per_degree, mean_luminance : float

    Returns
    -------
    ndarray, (n, row, column), float32

    Raises
    ------
    ValueError
        If a size is not positive, levels leave [0, 1], or the lengths differ.

    Examples
    --------
    >>> image = bar(orientation_deg=0, width_deg=0.5, length_deg=1, size_deg=2, pixels_per_degree=8)[0]
    >>> int((image == 1).sum()), float(image.min())
    (32, 0.5)
    """
    theta, width, length, c, x0, y0 = _columns(
        orientation_deg=orientation_deg,
        width_deg=width_deg,
        length_deg=length_deg,
        contrast=contrast,
        x_deg=x_deg,
        y_deg=y_deg,
    )
    if (width <= 0).any() or (length <= 0).any():
        raise ValueError(f"width_deg {width.min():g}, length_deg {length.min():g}: expected positive sizes.")
    side = side_px(size_deg, pixels_per_degree)
    x, y = centred(side, side, pixels_per_degree)
    u, v = _across_along(x - x0, y - y0, theta)
    # the share of a pixel that the edge leaves inside
    inside_u = np.clip((width / 2 - np.abs(u)) * pixels_per_degree + 0.5, 0.0, 1.0)
    inside_v = np.clip((length / 2 - np.abs(v)) * pixels_per_degree + 0.5, 0.0, 1.0)
    return _picture(c * inside_u * inside_v, mean_luminance)


#: Drawing functions by the name of what they draw.
PICTURES: dict[str, Callable[..., Images]] = {
    "grating": grating,
    "plaid": plaid,
    "gabor_patch": gabor_patch,
    "bar": bar,
}


def picture_set(
    kind: str,
    parameters: dict[str, ArrayLike],
    *,
    size_deg: float = 8.0,
    pixels_per_degree: float = PIXELS_PER_DEGREE,
    mean_luminance: float = 0.5,
    **fixed,
) -> StimulusSet:
    """Every combination of some parameters, as a set that knows them.

    Parameters
    ----------
    kind : str
        One of :data:`PICTURES`.
    parameters : dict of str to array
        Values of each; the last one runs fastest.
    size_deg, pixels_per_degree, mean_luminance : float
    **fixed
        Other parameters of the drawing function, the same for all.

    Returns
    -------
    StimulusSet

    Raises
    ------
    ValueError
        If the kind is unknown, or its function refuses the parameters.

    Examples
    --------
    >>> stimuli = picture_set(
    ...     "grating", {"orientation_deg": [0, 45, 90, 135], "phase_deg": [0, 90]}, frequency_cpd=1.0,
    ...     size_deg=2, pixels_per_degree=8,
    ... )
    >>> stimuli.images.shape, stimuli.parameters["orientation_deg"][:3], stimuli.size_deg
    ((8, 16, 16), array([ 0.,  0., 45.]), 2.0)
    """
    if kind not in PICTURES:
        raise ValueError(f"kind is {kind!r}; expected one of {sorted(PICTURES)}.")
    table = factorial({name: np.asarray(values, dtype=np.float64) for name, values in parameters.items()})
    images = PICTURES[kind](
        **table, **fixed, size_deg=size_deg, pixels_per_degree=pixels_per_degree, mean_luminance=mean_luminance
    )
    scalars = {name: np.full(len(images), float(value)) for name, value in fixed.items()}
    edge = fixed.get("edge_deg", 0.0)
    within = "diameter_deg" in table or fixed.get("diameter_deg") is not None
    envelope = {"gabor_patch": "Gaussian", "bar": "none"}.get(kind)
    return StimulusSet(
        images=images,
        parameters={**table, **scalars},
        pixels_per_degree=pixels_per_degree,
        mean_luminance=mean_luminance,
        aperture=envelope or ((f"raised-cosine edge {edge:g} deg" if edge else "hard") if within else "none"),
        name=kind,
    )
