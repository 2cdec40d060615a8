"""Tuning of single units to gratings, from response arrays of models and of recordings alike.

Curves come with the stimulus axis first, then any axes of units. Responses are rates: not negative, the response to
a blank subtracted where that is wanted. Every measure is NaN where the curve does not define it or has a value missing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

Array = NDArray[np.float64]

#: Height at which bandwidths of orientation and Schiller's of frequency are taken (Ringach et al. 2002).
HALF_POWER = 1 / np.sqrt(2)
#: Responses from this share of the largest take part in finding the peak of a frequency tuning curve.
NEAR_PEAK = 0.8
#: A unit is simple from this F1/F0 (Skottun et al. 1991).
SIMPLE = 1.0


def _curves(values: ArrayLike, responses: ArrayLike, name: str, least: int) -> tuple[Array, Array]:
    x, r = np.asarray(values, dtype=np.float64), np.asarray(responses, dtype=np.float64)
    if x.ndim != 1 or len(x) < least or r.shape[:1] != x.shape:
        raise ValueError(
            f"{name} {x.shape} and responses {r.shape} do not fit; expected at least {least} along the first."
        )
    if (np.diff(x) <= 0).any() or not np.isfinite(x).all():
        raise ValueError(f"{name} {x.tolist()} are not in rising order; sort them and average repeats.")
    # a curve with a missing value counts as one without a response, which defines nothing
    return x, np.where(np.isfinite(r).all(axis=0), r, 0.0)


def orientation_tuning(
    orientations_deg: ArrayLike, responses: ArrayLike, *, smoothing_deg: float = 0.0, step_deg: float = 0.5
) -> dict[str, Array]:
    """Preference, sharpness and selectivity of orientation tuning curves.

    Parameters
    ----------
    orientations_deg : array_like, (orientation,)
        Evenly spaced over 180 degrees.
    responses : array_like, (orientation, ...)
    smoothing_deg : float
        Half-width at half height of a Hanning window that smooths the curve before peak and bandwidth are read;
        13.5 in Ringach et al. (2002), 0 for none.
    step_deg : float
        Of the periodic cubic spline through the curve.

    Returns
    -------
    dict of str to ndarray, (...)
        ``preferred_orientation_deg``, half the angle of ``sum R exp(2i theta)``, which uses the whole curve;
        ``peak_orientation_deg``, the peak of the spline;
        ``orientation_bandwidth_deg``, half the width at 1/sqrt(2) of the peak;
        ``circular_variance``, ``1 - |sum R exp(2i theta)| / sum R``;
        ``orthogonal_preferred_ratio``, orthogonal response over that at the peak;
        ``orientation_selectivity``, (preferred - orthogonal) / (preferred + orthogonal).

    Raises
    ------
    ValueError
        If the orientations are fewer than 4 or not evenly spaced over 180 degrees.

    Examples
    --------
    >>> theta = np.arange(0, 180, 15)
    >>> curve = np.exp(2 * (np.cos(np.deg2rad(2 * (theta - 50))) - 1))
    >>> {name: round(float(v), 2) for name, v in orientation_tuning(theta, curve).items()}
    {'preferred_orientation_deg': 50.0, 'peak_orientation_deg': 49.69, 'orientation_bandwidth_deg': 17.28,
     'circular_variance': 0.3, 'orthogonal_preferred_ratio': 0.02, 'orientation_selectivity': 0.96}
    """
    theta, r = _curves(orientations_deg, responses, "orientations_deg", 4)
    step = 180.0 / len(theta)
    if not np.allclose(np.diff(theta), step, atol=1e-6):
        raise ValueError(
            f"orientations_deg {theta.tolist()} are not evenly spaced over 180 degrees; expected steps of {step:g}."
        )
    shape = r.shape[1:]
    flat = r.reshape(len(theta), -1)
    total = flat.sum(axis=0)
    vector = np.exp(2j * np.deg2rad(theta)) @ flat
    # cancellation leaves a rounding error where the curve is flat
    pointed = np.abs(vector) > 1e-9 * np.abs(flat).sum(axis=0)
    preferred = np.where(pointed, np.rad2deg(np.angle(vector)) / 2 % 180.0, np.nan)
    variance = np.where(total > 0, 1 - np.abs(vector) / np.where(total > 0, total, 1.0), np.nan)

    fine = theta[0] + np.arange(0.0, 180.0, step_deg)
    closed = CubicSpline(np.append(theta, theta[0] + 180.0), np.concatenate([flat, flat[:1]]), bc_type="periodic")
    curve = closed(fine)
    if smoothing_deg > 0:
        curve = _hanning(curve, smoothing_deg / step_deg)
    best = curve.argmax(axis=0)
    peak = curve[best, np.arange(curve.shape[1])]
    driven = (peak > 0) & pointed
    offset = _vertex(curve, best)
    orthogonal = curve[(best + len(fine) // 2) % len(fine), np.arange(curve.shape[1])]
    safe = np.where(driven, peak, 1.0)
    turned = curve[(best + np.arange(len(fine))[:, None]) % len(fine), np.arange(curve.shape[1])]
    rise = _first_below(turned[: len(fine) // 2 + 1], HALF_POWER * peak)
    fall = _first_below(turned[(-np.arange(len(fine) // 2 + 1)) % len(fine)], HALF_POWER * peak)
    summed = peak + orthogonal
    measures = {
        "preferred_orientation_deg": preferred,
        "peak_orientation_deg": np.where(driven, (fine[best] + step_deg * offset) % 180.0, np.nan),
        "orientation_bandwidth_deg": np.where(driven, step_deg * (rise + fall) / 2, np.nan),
        "circular_variance": variance,
        "orthogonal_preferred_ratio": np.where(peak > 0, orthogonal / np.where(peak > 0, peak, 1.0), np.nan),
        "orientation_selectivity": np.where(
            (peak > 0) & (summed > 0), (peak - orthogonal) / np.where(summed > 0, summed, safe), np.nan
        ),
    }
    return {name: value.reshape(shape) for name, value in measures.items()}


def _hanning(curve: Array, half_width: float) -> Array:
    n = len(curve)
    lag = np.minimum(np.arange(n), n - np.arange(n))
    kernel = np.where(lag < 2 * half_width, 0.5 * (1 + np.cos(np.pi * lag / (2 * half_width))), 0.0)
    spectrum = np.fft.rfft(kernel / kernel.sum())
    return np.fft.irfft(np.fft.rfft(curve, axis=0) * spectrum[:, None], n=n, axis=0)


def _vertex(curve: Array, best: NDArray[np.int64]) -> Array:
    """Place of a parabola's vertex through the largest value and its neighbours on a circle, in steps."""
    n, unit = len(curve), np.arange(curve.shape[1])
    before, at, after = curve[best - 1, unit], curve[best, unit], curve[(best + 1) % n, unit]
    bend = before - 2 * at + after
    return np.where(bend < 0, (before - after) / (2 * np.where(bend < 0, bend, 1.0)), 0.0)


def _first_below(curve: Array, level: Array) -> Array:
    """Where each curve, from its first value on, first falls under a level: index with linear interpolation."""
    below = curve < level
    found = below.any(axis=0)
    at = np.maximum(below.argmax(axis=0), 1)
    unit = np.arange(curve.shape[1])
    high, low = curve[at - 1, unit], curve[at, unit]
    gap = high - low
    return np.where(found, at - 1 + (high - level) / np.where(gap > 0, gap, 1.0), np.nan)


def direction_tuning(directions_deg: ArrayLike, responses: ArrayLike) -> dict[str, Array]:
    """Preferred direction and direction selectivity of responses to drifting gratings (Goris et al. 2015).

    Parameters
    ----------
    directions_deg : array_like, (direction,)
        Evenly spaced over 360 degrees, an even number of them.
    responses : array_like, (direction, ...)

    Returns
    -------
    dict of str to ndarray, (...)
        ``preferred_direction_deg``, angle of ``sum R exp(i theta)``; ``direction_selectivity``,
        ``1 - null / preferred`` at the strongest response and the one opposite; ``direction_vector_strength``,
        ``|sum R exp(i theta)| / sum R``.

    Raises
    ------
    ValueError
        If the directions are odd in number or not evenly spaced over 360 degrees.

    Examples
    --------
    >>> direction_tuning([0, 90, 180, 270], [1.0, 4.0, 1.0, 1.0])["direction_selectivity"]
    array(0.75)
    """
    theta, r = _curves(directions_deg, responses, "directions_deg", 4)
    if len(theta) % 2 or not np.allclose(np.diff(theta), 360.0 / len(theta), atol=1e-6):
        raise ValueError(f"directions_deg {theta.tolist()} are not an even number, evenly spaced over 360 degrees.")
    flat = r.reshape(len(theta), -1)
    best, unit = flat.argmax(axis=0), np.arange(flat.shape[1])
    peak, null = flat[best, unit], flat[(best + len(theta) // 2) % len(theta), unit]
    vector, total = np.exp(1j * np.deg2rad(theta)) @ flat, flat.sum(axis=0)
    pointed = np.abs(vector) > 1e-9 * np.abs(flat).sum(axis=0)
    measures = {
        "preferred_direction_deg": np.where(pointed, np.rad2deg(np.angle(vector)) % 360.0, np.nan),
        "direction_selectivity": np.where(peak > 0, 1 - null / np.where(peak > 0, peak, 1.0), np.nan),
        "direction_vector_strength": np.where(total > 0, np.abs(vector) / np.where(total > 0, total, 1.0), np.nan),
    }
    return {name: value.reshape(r.shape[1:]) for name, value in measures.items()}


def frequency_tuning(frequencies_cpd: ArrayLike, responses: ArrayLike) -> dict[str, Array]:
    """Peak and bandwidth of spatial frequency tuning curves.

    The peak is the vertex of a parabola in log frequency, fitted to the logarithm of the largest response, its two
    neighbours and those of at least 0.8 of it that adjoin it, weighted by their squares. It is exact for a Gaussian in
    log frequency; for Gabor functions, skewed there, it is 1 to 4 % too low at 13 frequencies over 4.6 octaves. Where
    the largest is the first or last of the range, the peak is that frequency.

    Parameters
    ----------
    frequencies_cpd : array_like, (frequency,)
        Positive, rising.
    responses : array_like, (frequency, ...)

    Returns
    -------
    dict of str to ndarray, (...)
        ``peak_frequency_cpd``; ``frequency_bandwidth_octaves``, width at half height;
        ``frequency_bandwidth_percent``, ``100 low / high`` at 1/sqrt(2) (Schiller et al. 1976);
        ``low_pass``, whether the response stays above half height down to the lowest frequency (1 or 0);
        ``frequency_selective``, whether Schiller's bandwidth is defined (1 or 0). Cut-offs are interpolated in log
        frequency.

    Raises
    ------
    ValueError
        If there are fewer than 3 frequencies, or they are not positive and rising.

    Examples
    --------
    >>> f = np.geomspace(0.25, 16, 13)
    >>> curve = np.exp(-(np.log2(f / 2.2) ** 2) / (2 * 0.6**2))
    >>> {name: round(float(v), 2) for name, v in frequency_tuning(f, curve).items()}
    {'peak_frequency_cpd': 2.2, 'frequency_bandwidth_octaves': 1.46, 'frequency_bandwidth_percent': 49.89,
     'low_pass': 0.0, 'frequency_selective': 1.0}
    """
    f, r = _curves(frequencies_cpd, responses, "frequencies_cpd", 3)
    if f[0] <= 0:
        raise ValueError(f"the lowest of frequencies_cpd is {f[0]}; expected positive frequencies.")
    flat = r.reshape(len(f), -1)
    best = flat.argmax(axis=0)
    peak = flat.max(axis=0)
    driven = peak > 0
    octaves = np.log2(f)
    place = _log_parabola(octaves, flat, best, peak)
    low_half, high_half = _cut_offs(octaves, flat, best, 0.5 * peak)
    low_power, high_power = _cut_offs(octaves, flat, best, HALF_POWER * peak)
    percent = 100 * 2.0 ** (low_power - high_power)
    measures = {
        "peak_frequency_cpd": 2.0**place,
        "frequency_bandwidth_octaves": high_half - low_half,
        "frequency_bandwidth_percent": percent,
        "low_pass": np.isnan(low_half).astype(np.float64),
        "frequency_selective": np.isfinite(percent).astype(np.float64),
    }
    return {name: np.where(driven, value, np.nan).reshape(r.shape[1:]) for name, value in measures.items()}


def _log_parabola(x: Array, curve: Array, best: NDArray[np.int64], peak: Array) -> Array:
    n, unit = len(x), np.arange(curve.shape[1])
    index = np.arange(n)[:, None]
    high = curve >= NEAR_PEAK * peak
    # the run of high responses around the largest, and its neighbours
    gap_left = np.where(~high & (index < best), index, -1).max(axis=0)
    gap_right = np.where(~high & (index > best), index, n).min(axis=0)
    near = ((index > gap_left) & (index < gap_right)) | (np.abs(index - best) <= 1)
    inner = (best > 0) & (best < n - 1) & (peak > 0)
    floor = 1e-6 * np.where(peak > 0, peak, 1.0)
    y = np.log(np.maximum(curve, floor))
    weight = np.where(near, np.maximum(curve, floor) ** 2, 0.0) / np.where(peak > 0, peak, 1.0) ** 2
    u = x[:, None] - x[best]
    powers = np.stack([np.ones_like(u), u, u**2])
    gram = np.einsum("ipn,jpn,pn->nij", powers, powers, weight) + 1e-12 * np.eye(3)
    solved = np.linalg.solve(gram, np.einsum("ipn,pn->ni", powers, weight * y)[..., None])[..., 0]
    slope, bend = solved[:, 1], solved[:, 2]
    vertex = np.where(bend < 0, -slope / (2 * np.where(bend < 0, bend, 1.0)), 0.0)
    low, high_edge = x[np.maximum(best - 1, 0)] - x[best], x[np.minimum(best + 1, n - 1)] - x[best]
    return np.where(inner, x[best] + np.clip(vertex, low, high_edge), x[best] + 0.0 * unit)


def _cut_offs(x: Array, curve: Array, best: NDArray[np.int64], level: Array) -> tuple[Array, Array]:
    """Places before and after the largest response where the curve first falls under a level; NaN where it does not."""
    n, unit = len(x), np.arange(curve.shape[1])
    index = np.arange(n)[:, None]
    below = curve < level
    left = np.where(below & (index < best), index, -1).max(axis=0)
    right = np.where(below & (index > best), index, n).min(axis=0)

    def crossing(outer, inner):
        low, high = curve[outer, unit], curve[inner, unit]
        share = (level - low) / np.where(high > low, high - low, 1.0)
        return x[outer] + share * (x[inner] - x[outer])

    lower = np.where(left >= 0, crossing(np.maximum(left, 0), np.minimum(left + 1, n - 1)), np.nan)
    upper = np.where(right < n, crossing(np.minimum(right, n - 1), np.maximum(right - 1, 0)), np.nan)
    return lower, upper


def phase_modulation(responses: ArrayLike) -> dict[str, Array]:
    """Mean response F0, first harmonic F1 and their ratio over one cycle of a grating.

    ``F0 = mean r`` and ``F1 = 2 |mean r exp(i phase)|``. A half-rectified sinusoid has F1/F0 = pi/2 = 1.57, a response
    that does not follow the phase 0. Few phases blur it: 12 give 1.55 to 1.61 for a half-rectified sinusoid.

    Parameters
    ----------
    responses : array_like, (phase, ...)
        At phases evenly spaced over 360 degrees, or over one period of drift.

    Returns
    -------
    dict of str to ndarray, (...)
        ``f0``, ``f1``, ``f1_f0`` and ``simple`` (1 from F1/F0 of 1, else 0).

    Raises
    ------
    ValueError
        If there are fewer than three phases.

    Examples
    --------
    >>> phase = np.deg2rad(np.arange(0, 360, 10))
    >>> measures = phase_modulation(np.stack([np.maximum(np.cos(phase), 0), np.ones(36)], axis=1))
    >>> measures["f1_f0"].round(2), measures["simple"]
    (array([1.57, 0.  ]), array([1., 0.]))
    """
    r = np.asarray(responses, dtype=np.float64)
    if r.ndim < 1 or len(r) < 3:
        raise ValueError(f"responses have shape {r.shape}; expected at least three phases along the first axis.")
    wave = np.exp(2j * np.pi * np.arange(len(r)) / len(r))
    f0, f1 = r.mean(axis=0), 2 * np.abs(np.tensordot(wave, r, axes=1)) / len(r)
    ratio = np.where(f0 > 0, f1 / np.where(f0 > 0, f0, 1.0), np.nan)
    return {"f0": f0, "f1": f1, "f1_f0": ratio, "simple": np.where(f0 > 0, (ratio >= SIMPLE).astype(float), np.nan)}


def size_tuning(diameters_deg: ArrayLike, responses: ArrayLike) -> dict[str, Array]:
    """Summation field and surround suppression of size tuning curves (Cavanaugh, Bair and Movshon 2002).

    Parameters
    ----------
    diameters_deg : array_like, (diameter,)
        Positive, rising.
    responses : array_like, (diameter, ...)

    Returns
    -------
    dict of str to ndarray, (...)
        ``surround_suppression_index``, (peak - response at the largest diameter) / peak;
        ``summation_field_deg``, smallest diameter that gives 95 % of the peak;
        ``strongly_suppressed``, index of at least 0.1 (1 or 0); and, of such units only,
        ``surround_diameter_deg``, smallest diameter beyond the peak at which the response is within 5 % of that at the
        largest, and ``surround_over_summation``, their ratio. Diameters are interpolated in their logarithm.

    Raises
    ------
    ValueError
        If there are fewer than 3 diameters, or they are not positive and rising.

    Examples
    --------
    >>> measures = size_tuning([0.5, 1, 2, 4, 8], [2, 6, 10, 5, 5])
    >>> {name: round(float(v), 2) for name, v in measures.items()}
    {'surround_suppression_index': 0.5, 'summation_field_deg': 1.83, 'strongly_suppressed': 1.0,
     'surround_diameter_deg': 3.86, 'surround_over_summation': 2.11}
    """
    d, r = _curves(diameters_deg, responses, "diameters_deg", 3)
    if d[0] <= 0:
        raise ValueError(f"the smallest of diameters_deg is {d[0]}; expected positive diameters.")
    flat = r.reshape(len(d), -1)
    x, n = np.log2(d), len(d)
    unit = np.arange(flat.shape[1])
    best, peak, plateau = flat.argmax(axis=0), flat.max(axis=0), flat[-1]
    driven = peak > 0
    index = np.arange(n)[:, None]

    def reached(level, at):
        # between the last diameter before `at`, where the level is not yet met, and `at`
        before = np.maximum(at - 1, 0)
        low, high = flat[before, unit], flat[at, unit]
        step = np.where(high != low, high - low, 1.0)
        share = np.where((at > 0) & (high != low), (level - low) / step, 1.0)
        return 2.0 ** (x[before] + np.clip(share, 0.0, 1.0) * (x[at] - x[before]))

    summation = reached(0.95 * peak, (flat >= 0.95 * peak).argmax(axis=0))
    settled = 1.05 * plateau
    surround = reached(settled, ((flat <= settled) & (index >= best)).argmax(axis=0))
    suppression = (peak - plateau) / np.where(driven, peak, 1.0)
    strong = driven & (suppression >= 0.1)
    measures = {
        "surround_suppression_index": np.where(driven, suppression, np.nan),
        "summation_field_deg": np.where(driven, summation, np.nan),
        "strongly_suppressed": np.where(driven, strong.astype(np.float64), np.nan),
        "surround_diameter_deg": np.where(strong, surround, np.nan),
        "surround_over_summation": np.where(strong, surround / summation, np.nan),
    }
    return {name: value.reshape(r.shape[1:]) for name, value in measures.items()}


def contrast_response(contrasts: ArrayLike, responses: ArrayLike, *, largest_exponent: float = 6.0) -> dict[str, Array]:
    """Naka-Rushton function ``Rmax c^n / (c^n + c50^n)``, fitted by least squares.

    Rmax is solved exactly; exponent and c50 by a grid over n in [0.5, largest_exponent] and c50 from the lowest
    contrast to 10 times the highest, refined five times. A curve that does not saturate has c50 beyond the
    contrasts shown.

    Parameters
    ----------
    contrasts : array_like, (contrast,)
        Positive, rising.
    responses : array_like, (contrast, ...)
    largest_exponent : float

    Returns
    -------
    dict of str to ndarray, (...)
        ``c50``, ``contrast_exponent``, ``r_max``, ``contrast_r2`` (share of the variance explained) and
        ``half_contrast``, the contrast that gives half the response to the highest one, read off the function.

    Raises
    ------
    ValueError
        If there are fewer than 4 contrasts, or they are not positive and rising.

    Examples
    --------
    >>> c = np.array([0.03, 0.06, 0.12, 0.25, 0.5, 1.0])
    >>> fit = contrast_response(c, 20 * c**2 / (c**2 + 0.2**2))
    >>> {name: round(float(v), 2) for name, v in fit.items()}
    {'c50': 0.2, 'contrast_exponent': 2.0, 'r_max': 20.0, 'contrast_r2': 1.0, 'half_contrast': 0.19}
    """
    c, r = _curves(contrasts, responses, "contrasts", 4)
    if c[0] <= 0:
        raise ValueError(f"the lowest of contrasts is {c[0]}; expected positive contrasts.")
    flat = r.reshape(len(c), -1)
    log_c = np.log(c)
    low = np.array([np.log(0.5), log_c[0]])
    high = np.array([np.log(largest_exponent), log_c[-1] + np.log(10.0)])
    centre = np.tile(((low + high) / 2)[:, None], flat.shape[1])  # log exponent, log c50
    reach = (high - low) / 2
    steps = np.linspace(-1, 1, 25)
    best = centre
    for _ in range(6):
        for block in np.array_split(np.arange(flat.shape[1]), max(1, flat.shape[1] // 256)):
            exponent = np.clip(centre[0, block] + reach[0] * steps[:, None], low[0], high[0])
            half = np.clip(centre[1, block] + reach[1] * steps[:, None], low[1], high[1])
            gain = 1 / (1 + np.exp(-np.exp(exponent)[:, None, None] * (log_c[:, None] - half[None, :, None, :])))
            energy, match = (gain**2).sum(axis=2), (gain * flat[:, block]).sum(axis=2)
            score = np.where(match > 0, match, 0.0) ** 2 / np.maximum(energy, 1e-300)
            at = score.reshape(-1, len(block)).argmax(axis=0)
            i, j = np.divmod(at, len(steps))
            best[:, block] = exponent[i, np.arange(len(block))], half[j, np.arange(len(block))]
        centre, reach = best, reach * 0.2
    exponent, c50 = np.exp(best)
    gain = 1 / (1 + (c50 / c[:, None]) ** exponent)
    r_max = np.maximum((gain * flat).sum(axis=0), 0.0) / (gain**2).sum(axis=0)
    spread = ((flat - flat.mean(axis=0)) ** 2).sum(axis=0)
    error = ((flat - r_max * gain) ** 2).sum(axis=0)
    driven = (r_max > 0) & (spread > 0)
    # c^n / (c^n + c50^n) = g/2 with g the gain at the highest contrast
    target = gain[-1] / 2
    half_contrast = c50 * (target / (1 - target)) ** (1 / exponent)
    measures = {
        "c50": c50,
        "contrast_exponent": exponent,
        "r_max": r_max,
        "contrast_r2": 1 - error / np.where(spread > 0, spread, 1.0),
        "half_contrast": half_contrast,
    }
    return {name: np.where(driven, value, np.nan).reshape(r.shape[1:]) for name, value in measures.items()}
