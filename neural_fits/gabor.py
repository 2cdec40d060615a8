"""Gabor functions fitted to linear filters, and the filters' tuning to gratings.

Works on any bank of filters (first-layer weights, spike-triggered averages): arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: A filter counts as Gabor-like from this share of explained variance ...
GABOR_R2 = 0.5
#: ... and this orientation selectivity: preferred response at least twice the orthogonal one.
TUNED_SELECTIVITY = 1 / 3


@dataclass(frozen=True)
class GaborFit:
    """Gabor functions fitted to ``n`` filters; every field but the last two has shape ``(n,)``.

    Attributes
    ----------
    x_px, y_px : ndarray
        Centre of the envelope, pixels to the right of and below the filter's centre.
    orientation_deg : ndarray
        Orientation of the bars in [0, 180), degrees counter-clockwise from horizontal.
    frequency_cpp : ndarray
        Spatial frequency, cycles per pixel.
    phase_deg : ndarray
        Phase of the carrier at the centre of the envelope, in (-180, 180]; 0 is even-symmetric.
    width_px, length_px : ndarray
        Standard deviations of the envelope across and along the bars.
    amplitude : ndarray
        Peak of the envelope.
    r2 : ndarray
        Share of the filter's variance about its mean (each colour about its own) that the Gabor explains.
    colour : ndarray, shape (n, channel)
        Unit vector: how strongly the Gabor enters each channel.
    fitted : ndarray, shape (n, channel, height, width)
        The fitted functions.
    """

    x_px: Array
    y_px: Array
    orientation_deg: Array
    frequency_cpp: Array
    phase_deg: Array
    width_px: Array
    length_px: Array
    amplitude: Array
    r2: Array
    colour: Array
    fitted: Array

    def __len__(self) -> int:
        return len(self.r2)


@dataclass(frozen=True)
class GratingTuning:
    """Tuning of ``n`` linear filters to full-field gratings; every field has shape ``(n,)``.

    Attributes
    ----------
    orientation_deg : ndarray
        Preferred orientation of the bars in [0, 180), degrees counter-clockwise from horizontal.
    frequency_cpp : ndarray
        Preferred spatial frequency, cycles per pixel.
    selectivity : ndarray
        Orientation selectivity index (preferred - orthogonal) / (preferred + orthogonal) at the preferred frequency.
    circular_variance : ndarray
        ``1 - |sum_k R_k exp(2 i theta_k)| / sum_k R_k`` at the preferred frequency; 0 is sharp, 1 is untuned.
    """

    orientation_deg: Array
    frequency_cpp: Array
    selectivity: Array
    circular_variance: Array


def _as_bank(filters: ArrayLike) -> Array:
    bank = np.asarray(filters, dtype=np.float64)
    if bank.ndim == 3:
        bank = bank[:, None]
    if bank.ndim != 4 or min(bank.shape) == 0 or min(bank.shape[2:]) < 3:
        raise ValueError(
            f"filters have shape {np.shape(filters)}; expected (filter, height, width) or "
            "(filter, channel, height, width) with at least 3 x 3 pixels."
        )
    if not np.isfinite(bank).all():
        raise ValueError("filters hold NaN or infinite values; expected finite weights.")
    return bank


def _varying(flat: Array) -> Array:
    """Filters (filter, channel, pixel) less the mean of each channel: exactly 0 where only its rounding is left."""
    varying = flat - flat.mean(axis=2, keepdims=True)
    scale = np.linalg.norm(flat, axis=(1, 2), keepdims=True)
    return np.where(np.linalg.norm(varying, axis=(1, 2), keepdims=True) > 1e-12 * scale, varying, 0.0)


def _coordinates(height: int, width: int) -> tuple[Array, Array]:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return (x - (width - 1) / 2).ravel(), (y - (height - 1) / 2).ravel()


def gabor(
    height_px: int,
    width_px: int,
    *,
    orientation_deg: float,
    frequency_cpp: float,
    phase_deg: float = 0.0,
    across_px: float,
    along_px: float,
    x_px: float = 0.0,
    y_px: float = 0.0,
) -> Array:
    """Gabor function on a pixel grid.

    ``exp(-u^2 / (2 across^2) - v^2 / (2 along^2)) cos(2 pi f u + phase)``, with ``u`` across the bars and ``v`` along
    them (Jones and Palmer 1987).

    Parameters
    ----------
    height_px, width_px : int
        Size of the grid.
    orientation_deg : float
        Orientation of the bars, degrees counter-clockwise from horizontal.
    frequency_cpp : float
        Spatial frequency, cycles per pixel.
    phase_deg : float
        Phase of the carrier at the centre of the envelope.
    across_px, along_px : float
        Standard deviations of the envelope across and along the bars.
    x_px, y_px : float
        Centre, pixels to the right of and below the centre of the grid.

    Returns
    -------
    ndarray, shape (height_px, width_px)

    Examples
    --------
    >>> g = gabor(11, 11, orientation_deg=90, frequency_cpp=0.2, across_px=2, along_px=3)
    >>> bool(np.isclose(g[5, 5], 1.0)), bool(np.allclose(g, g[::-1]))
    (True, True)
    """
    x, y = _coordinates(height_px, width_px)
    u, v = _across_along(x - x_px, y - y_px, np.deg2rad(90.0 - orientation_deg))
    envelope = np.exp(-(u**2) / (2 * across_px**2) - v**2 / (2 * along_px**2))
    carrier = np.cos(2 * np.pi * frequency_cpp * u + np.deg2rad(phase_deg))
    return (envelope * carrier).reshape(height_px, width_px)


def _across_along(dx: Array, dy: Array, wave: Array | float) -> tuple[Array, Array]:
    # `wave` is the direction of the wave vector in image coordinates (y grows downwards); bars run along v.
    return dx * np.cos(wave) + dy * np.sin(wave), -dx * np.sin(wave) + dy * np.cos(wave)


def fit_gabor(filters: ArrayLike, *, starts: int = 8, iterations: int = 60) -> GaborFit:
    """Fit a Gabor function to every filter by least squares.

    A filter of several colour channels is fitted by one Gabor times one colour vector: the best rank-one
    approximation of (channel, pixel) gives the spatial map, and ``r2`` is computed on the whole filter. All filters
    and starting points are refined together by Levenberg-Marquardt. Frequency, widths and centre are kept to what the
    pixel grid can show: frequency below 0.5 cycles/px, widths between 0.4 px and the filter's side, centre inside.

    Parameters
    ----------
    filters : array_like, shape (filter, height, width) or (filter, channel, height, width)
        Weights.
    starts : int
        Starting points per filter: the strongest peaks of the amplitude spectrum times four envelopes.
    iterations : int
        Steps of Levenberg-Marquardt.

    Returns
    -------
    GaborFit

    Raises
    ------
    ValueError
        If the filters have another shape, or hold non-finite values.

    Examples
    --------
    >>> g = gabor(11, 11, orientation_deg=30, frequency_cpp=0.2, phase_deg=60, across_px=2, along_px=2.5)
    >>> fit = fit_gabor(g[None])
    >>> [round(float(v[0]), 3) for v in (fit.orientation_deg, fit.frequency_cpp, fit.phase_deg, fit.r2)]
    [30.0, 0.2, 60.0, 1.0]
    """
    bank = _as_bank(filters)
    n, channel, height, width = bank.shape
    flat = bank.reshape(n, channel, -1)
    scale = np.linalg.norm(flat, axis=(1, 2))
    safe = np.where(scale > 0, scale, 1.0)
    u, s, vt = np.linalg.svd(flat / safe[:, None, None], full_matrices=False)
    colour, target = u[:, :, 0], s[:, :1] * vt[:, 0]  # (n, channel), (n, pixel)
    side = max(height, width)
    x, y = _coordinates(height, width)

    start = _starting_points(target.reshape(n, height, width), starts)  # (n, start, 6) in natural units
    k = start.shape[1]
    free = _to_free(start.reshape(n * k, 6), height, width)
    data = np.repeat(target, k, axis=0)
    free, error = _levenberg_marquardt(free, data, x, y, height, width, iterations)
    best = error.reshape(n, k).argmin(axis=1) + np.arange(n) * k
    natural = _from_free(free[best], height, width)[0]
    basis = _quadrature(natural, x, y)  # (n, 2, pixel)
    weights = _linear_weights(basis, target)
    spatial = np.einsum("nbp,nb->np", basis, weights)  # (n, pixel)

    # Given the spatial function, the best colour vector is a projection of every channel onto it.
    energy = (spatial**2).sum(axis=1, keepdims=True)
    colour = np.einsum("ncp,np->nc", flat / safe[:, None, None], spatial) / np.where(energy > 0, energy, 1.0)
    # Sign of colour and of map are only defined together: the strongest channel is made positive.
    flip = np.sign(np.take_along_axis(colour, np.abs(colour).argmax(axis=1)[:, None], axis=1))
    flip = np.where(flip == 0, 1.0, flip)
    colour, spatial, weights = colour * flip, spatial * flip, weights * flip
    norm = np.linalg.norm(colour, axis=1, keepdims=True)
    fitted = colour[:, :, None] * spatial[:, None] * safe[:, None, None]
    total = (_varying(flat) ** 2).sum(axis=(1, 2))
    residual = ((flat - fitted) ** 2).sum(axis=(1, 2))
    r2 = np.where(total > 0, 1 - residual / np.where(total > 0, total, 1.0), 0.0)

    x0, y0, wave, frequency, across, along = natural.T
    # cos(2 pi f u + phase) = cos(phase) cos(2 pi f u) - sin(phase) sin(2 pi f u)
    phase = np.rad2deg(np.arctan2(-weights[:, 1], weights[:, 0]))
    orientation, phase = _canonical(np.rad2deg(wave), phase)
    return GaborFit(
        x_px=x0,
        y_px=y0,
        orientation_deg=orientation,
        frequency_cpp=frequency,
        phase_deg=phase,
        width_px=np.minimum(across, side),
        length_px=np.minimum(along, side),
        amplitude=np.linalg.norm(weights, axis=1) * safe * norm[:, 0],
        r2=r2,
        colour=colour / np.where(norm > 0, norm, 1.0),
        fitted=fitted.reshape(bank.shape),
    )


def _canonical(wave_deg: Array, phase_deg: Array) -> tuple[Array, Array]:
    """Bars in [0, 180); turning the wave vector by 180 degrees changes the sign of the phase."""
    turns = np.floor((90.0 - wave_deg) / 180.0)
    orientation = (90.0 - wave_deg) - 180.0 * turns
    sign = np.where(turns % 2 == 0, 1.0, -1.0)
    phase = (sign * phase_deg + 180.0) % 360.0 - 180.0
    return orientation, np.where(phase == -180.0, 180.0, phase)


def _starting_points(maps: Array, starts: int) -> Array:
    n, height, width = maps.shape
    side, size = max(height, width), 64
    spectrum = np.abs(np.fft.fft2(maps, s=(size, size)))
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    half = (fx > 0) | ((fx == 0) & (fy >= 0))
    neighbours = [np.roll(spectrum, (i, j), axis=(1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    peak = (spectrum >= np.max(neighbours, axis=0)) & half
    ranked = np.where(peak, spectrum, -1.0).reshape(n, -1)
    peaks = max(1, -(-starts // 4))
    order = np.argsort(-ranked, axis=1)[:, :peaks]
    px, py = fx.ravel()[order], fy.ravel()[order]  # (n, peaks)
    frequency = np.clip(np.hypot(px, py), 0.02, 0.48)
    wave = np.arctan2(py, px)
    weight = maps**2
    total = weight.sum(axis=(1, 2)) + 1e-300
    x, y = _coordinates(height, width)
    cx = (weight.reshape(n, -1) @ x) / total
    cy = (weight.reshape(n, -1) @ y) / total
    envelopes = side * np.array([[0.12, 0.12], [0.2, 0.2], [0.15, 0.3], [0.3, 0.3]])
    grid = np.empty((n, peaks, len(envelopes), 6))
    grid[..., 0], grid[..., 1] = cx[:, None, None], cy[:, None, None]
    grid[..., 2], grid[..., 3] = wave[..., None], frequency[..., None]
    grid[..., 4], grid[..., 5] = envelopes[:, 0], envelopes[:, 1]
    return grid.reshape(n, -1, 6)


def _limits(height: int, width: int) -> tuple[Array, Array]:
    side = float(max(height, width))
    low = np.array([-width / 2, -height / 2, np.nan, 0.0, 0.4, 0.4])
    high = np.array([width / 2, height / 2, np.nan, 0.5, side, side])
    return low, high


def _to_free(natural: Array, height: int, width: int) -> Array:
    low, high = _limits(height, width)
    free = natural.copy()
    for i in (0, 1, 3, 4, 5):
        unit = np.clip((natural[:, i] - low[i]) / (high[i] - low[i]), 1e-3, 1 - 1e-3)
        free[:, i] = np.log(unit / (1 - unit))
    return free


def _from_free(free: Array, height: int, width: int) -> tuple[Array, Array]:
    """Natural parameters and their derivatives with respect to the free ones (logistic between the limits)."""
    low, high = _limits(height, width)
    natural, slope = free.copy(), np.ones_like(free)
    for i in (0, 1, 3, 4, 5):
        unit = 1 / (1 + np.exp(-np.clip(free[:, i], -30, 30)))
        natural[:, i] = low[i] + (high[i] - low[i]) * unit
        slope[:, i] = (high[i] - low[i]) * unit * (1 - unit)
    return natural, slope


def _quadrature(natural: Array, x: Array, y: Array) -> Array:
    x0, y0, wave, frequency, across, along = (p[:, None] for p in natural.T)
    u, v = _across_along(x - x0, y - y0, wave)
    envelope = np.exp(-(u**2) / (2 * across**2) - v**2 / (2 * along**2))
    angle = 2 * np.pi * frequency * u
    return np.stack([envelope * np.cos(angle), envelope * np.sin(angle)], axis=1)


def _linear_weights(basis: Array, data: Array) -> Array:
    gram = np.einsum("nap,nbp->nab", basis, basis) + 1e-9 * np.eye(2)
    return np.linalg.solve(gram, np.einsum("nap,np->na", basis, data)[..., None])[..., 0]


def _levenberg_marquardt(
    free: Array, data: Array, x: Array, y: Array, height: int, width: int, iterations: int
) -> tuple[Array, Array]:
    """Variable projection: the two quadrature weights are solved exactly, the six others by Levenberg-Marquardt."""

    def evaluate(free: Array) -> tuple[Array, Array, Array, Array, Array]:
        natural, slope = _from_free(free, height, width)
        basis = _quadrature(natural, x, y)
        weights = _linear_weights(basis, data)
        residual = data - np.einsum("nbp,nb->np", basis, weights)
        return natural, slope, basis, weights, residual

    damping: Array = np.full(len(free), 1e-2)
    state = evaluate(free)
    error: Array = (state[4] ** 2).sum(axis=1)
    for _ in range(iterations):
        trial = free + _damped_step(*state, damping, x, y)
        candidate = evaluate(trial)
        trial_error: Array = (candidate[4] ** 2).sum(axis=1)
        better = trial_error < error
        damping = np.clip(np.where(better, damping * 0.3, damping * 4.0), 1e-9, 1e9)
        if not better.any():
            if (damping > 1e6).all():
                break
            continue
        free = _where(better, trial, free)
        error = _where(better, trial_error, error)
        state = (
            _where(better, candidate[0], state[0]),
            _where(better, candidate[1], state[1]),
            _where(better, candidate[2], state[2]),
            _where(better, candidate[3], state[3]),
            _where(better, candidate[4], state[4]),
        )
    return free, error


def _where(chosen: NDArray[np.bool_], new: Array, old: Array) -> Array:
    return np.where(chosen.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)


def _damped_step(
    natural: Array, slope: Array, basis: Array, weights: Array, residual: Array, damping: Array, x: Array, y: Array
) -> Array:
    x0, y0, wave, frequency, across, along = (p[:, None] for p in natural.T)
    u, v = _across_along(x - x0, y - y0, wave)
    even: Array = np.einsum("nbp,nb->np", basis, weights)  # the fitted function
    odd: Array = basis[:, 0] * weights[:, 1:] - basis[:, 1] * weights[:, :1]  # its derivative with respect to the angle
    du: Array = -even * u / across**2 + odd * 2 * np.pi * frequency
    dv: Array = -even * v / along**2
    cos, sin = np.cos(wave), np.sin(wave)
    jacobian: Array = np.stack(
        [
            -du * cos + dv * sin,
            -du * sin - dv * cos,
            du * v - dv * u,
            odd * 2 * np.pi * u,
            even * u**2 / across**3,
            even * v**2 / along**3,
        ],
        axis=1,
    )
    jacobian = jacobian * slope[:, :, None]
    # Kaufman's projection: what the two linear weights can absorb is taken out of the Jacobian.
    gram = np.einsum("nap,nbp->nab", basis, basis) + 1e-9 * np.eye(2)
    absorbed = np.linalg.solve(gram, np.einsum("nbp,njp->nbj", basis, jacobian))
    jacobian = jacobian - np.einsum("nbj,nbp->njp", absorbed, basis)
    normal: Array = np.einsum("njp,nkp->njk", jacobian, jacobian)
    gradient: Array = np.einsum("njp,np->nj", jacobian, residual)
    diagonal: Array = np.einsum("njj->nj", normal)
    lift = damping[:, None] * (diagonal + 1e-8 * diagonal.max(axis=1, keepdims=True) + 1e-12)
    step = np.linalg.solve(normal + lift[:, :, None] * np.eye(6), gradient[..., None])[..., 0]
    return np.clip(step, -1.0, 1.0)


def grating_tuning(filters: ArrayLike, *, orientations: int = 36, frequencies: int = 24) -> GratingTuning:
    """Tuning of linear filters to full-field gratings.

    The response amplitude of a linear filter to a grating of wave vector ``k`` is the modulus of its Fourier transform
    at ``k``; channels are combined by the root of the summed squares (a grating of the filter's preferred colour).
    The constant of every channel is taken out first, so that a low frequency is not preferred for its mean alone.

    Parameters
    ----------
    filters : array_like, shape (filter, height, width) or (filter, channel, height, width)
        Weights.
    orientations : int
        Orientations between 0 and 180 degrees.
    frequencies : int
        Spatial frequencies, spaced logarithmically from half a cycle per filter to 0.5 cycles per pixel.

    Returns
    -------
    GratingTuning

    Raises
    ------
    ValueError
        If the filters have another shape, or hold non-finite values.

    Examples
    --------
    >>> g = gabor(15, 15, orientation_deg=45, frequency_cpp=0.2, across_px=2.5, along_px=3)
    >>> tuning = grating_tuning(g[None])
    >>> float(tuning.orientation_deg[0]), bool(tuning.selectivity[0] > 0.9)
    (45.0, True)
    """
    bank = _as_bank(filters)
    n, channel, height, width = bank.shape
    flat = _varying(bank.reshape(n, channel, -1))
    theta = np.arange(orientations) * 180.0 / orientations
    frequency = np.geomspace(0.5 / max(height, width), 0.5, frequencies)
    x, y = _coordinates(height, width)
    wave = np.deg2rad(90.0 - theta)
    phase = 2 * np.pi * (np.cos(wave)[:, None] * x + np.sin(wave)[:, None] * y)  # (orientation, pixel) at 1 cycle/px
    angle = frequency[:, None, None] * phase
    amplitude = np.sqrt((np.abs(np.einsum("ncp,fop->ncfo", flat, np.exp(-1j * angle), optimize=True)) ** 2).sum(axis=1))
    best_f, best_o = np.divmod(amplitude.reshape(n, -1).argmax(axis=1), orientations)
    curve = amplitude[np.arange(n), best_f]  # (n, orientation)
    preferred = curve[np.arange(n), best_o]
    orthogonal = curve[np.arange(n), (best_o + orientations // 2) % orientations]
    total = curve.sum(axis=1)
    vector = np.abs(curve @ np.exp(2j * np.deg2rad(theta)))
    with np.errstate(invalid="ignore", divide="ignore"):
        selectivity = np.where(preferred > 0, (preferred - orthogonal) / (preferred + orthogonal), 0.0)
        variance = np.where(total > 0, 1 - vector / total, 1.0)
    return GratingTuning(
        orientation_deg=theta[best_o],
        frequency_cpp=frequency[best_f],
        selectivity=selectivity,
        circular_variance=variance,
    )


def is_gabor(fit: GaborFit, tuning: GratingTuning) -> NDArray[np.bool_]:
    """Which filters a Gabor function fits and are tuned for orientation.

    Those with ``r2 >= GABOR_R2`` and ``selectivity >= TUNED_SELECTIVITY``; both bounds are ours. A single step edge
    meets them as well as a wavelet of several cycles does: look at the preferred frequency too.

    Parameters
    ----------
    fit : GaborFit
        Of n filters.
    tuning : GratingTuning
        Of the same filters.

    Returns
    -------
    ndarray of bool, shape (n,)

    Examples
    --------
    >>> bank = gabor(11, 11, orientation_deg=45, frequency_cpp=0.2, across_px=2, along_px=3)[None]
    >>> is_gabor(fit_gabor(bank), grating_tuning(bank))
    array([ True])
    """
    return (fit.r2 >= GABOR_R2) & (tuning.selectivity >= TUNED_SELECTIVITY)


def gabor_fraction(filters: ArrayLike) -> float:
    """Fraction of filters that a Gabor function fits and that are tuned for orientation.

    The rule is :func:`is_gabor`.

    Parameters
    ----------
    filters : array_like, shape (filter, height, width) or (filter, channel, height, width)
        Weights.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If the filters have another shape, or hold non-finite values.

    Examples
    --------
    >>> g = gabor(11, 11, orientation_deg=45, frequency_cpp=0.2, across_px=2, along_px=3)
    >>> noise = np.random.default_rng(0).normal(size=(11, 11))
    >>> gabor_fraction([g, noise])
    0.5
    """
    return float(is_gabor(fit_gabor(filters), grating_tuning(filters)).mean())
