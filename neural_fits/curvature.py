"""Curvature of a trajectory: the angle between the steps before and after a frame, 0 degrees on a straight line.

Noise bends: the frame that two steps share enters them with opposite signs, so independent noise alone gives 120
degrees, and noisy responses something between that and the truth. :func:`unbiased_products` multiplies responses of
different repeats, which leaves noise out of the expectation of every inner product; sums of them over frames (and
sequences) are divided once, by :func:`angle_deg`, because a ratio of noisy numbers is biased and a sum is not.
"""

from __future__ import annotations

import numpy as np

#: Transforms of counts by name; square roots give noise of Poisson counts nearly the same variance at all rates.
TRANSFORMS = {
    "none": lambda counts: counts,
    "sqrt": np.sqrt,
    "anscombe": lambda counts: 2 * np.sqrt(counts + 3 / 8),
}


def curvature_deg(trajectory) -> np.ndarray:
    """Angle between successive steps of a trajectory without noise.

    Parameters
    ----------
    trajectory : array, (..., frame, dimension)
        3 frames at least.

    Returns
    -------
    ndarray, (..., frame - 2)
        Degrees, 0 (straight) to 180 (back again); NaN beside a step of no length.

    Raises
    ------
    ValueError
        If there are fewer than 3 frames or a value is not finite.

    Examples
    --------
    >>> curvature_deg([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0], [1.0, 5.0]]).round(6)
    array([90.,  0.])
    """
    steps = np.diff(finite_trajectory(trajectory), axis=-2)
    length = np.sqrt((steps**2).sum(-1, keepdims=True))
    unit = np.divide(steps, length, out=np.full_like(steps, np.nan), where=length > 0)
    # half angles from chords: exact near 0 and 180 degrees, where the arc cosine is not
    chord, other = unit[..., 1:, :] - unit[..., :-1, :], unit[..., 1:, :] + unit[..., :-1, :]
    return np.degrees(2 * np.arctan2(np.sqrt((chord**2).sum(-1)), np.sqrt((other**2).sum(-1))))


def finite_trajectory(trajectory) -> np.ndarray:
    """Trajectory as float64, or an error that says what is wrong.

    Parameters
    ----------
    trajectory : array, (..., frame, dimension)

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If there are fewer than 3 frames or a value is not finite.

    Examples
    --------
    >>> finite_trajectory([[1, 2], [3, 4]])
    Traceback (most recent call last):
    ...
    ValueError: trajectory has shape (2, 2); expected (..., frame, dimension) of 3 frames at least.
    """
    x = np.asarray(trajectory, dtype=np.float64)
    if x.ndim < 2 or x.shape[-2] < 3:
        raise ValueError(f"trajectory has shape {x.shape}; expected (..., frame, dimension) of 3 frames at least.")
    if not np.isfinite(x).all():
        raise ValueError("trajectory has values that are missing or infinite; expected finite numbers.")
    return x


def unbiased_products(responses) -> np.ndarray:
    """Inner products of the mean responses to frames, each from pairs of different repeats.

    ``G_st = sum over neurons of mean over r != q of x_s^r x_t^q``, over the repeats there are: with noise independent
    between repeats its expectation is the inner product of the true means, also for s = t and for noise shared by the
    frames of a repeat. A drift that adds the same to all frames of a repeat changes all entries alike (where no repeat
    is missing) and so no difference of frames.

    Parameters
    ----------
    responses : array, (frame, repeat, neuron)
        NaN where missing.

    Returns
    -------
    ndarray, (frame, frame)
        Not positive semidefinite: squared lengths below 0 occur.

    Raises
    ------
    ValueError
        If a neuron has no two different repeats of two frames.

    Examples
    --------
    >>> unbiased_products([[[1.0], [3.0]], [[2.0], [4.0]]])
    array([[3., 5.],
           [5., 8.]])
    """
    x = np.asarray(responses, dtype=np.float64)
    if x.ndim != 3:
        raise ValueError(f"responses have shape {x.shape}; expected (frame, repeat, neuron).")
    present = ~np.isnan(x)
    x = np.where(present, x, 0).transpose(2, 0, 1)  # (neuron, frame, repeat)
    there = present.astype(np.float64).transpose(2, 0, 1)
    pairs = there.sum(2)[:, :, None] * there.sum(2)[:, None] - there @ there.transpose(0, 2, 1)
    if (pairs < 1).any():
        neuron = int((pairs < 1).any((1, 2)).argmax())
        raise ValueError(f"neuron {neuron} has fewer than two repeats of a frame; leave it out.")
    total = x.sum(2)
    return ((total[:, :, None] * total[:, None] - x @ x.transpose(0, 2, 1)) / pairs).sum(0)


def turns(products) -> tuple[np.ndarray, np.ndarray]:
    """Inner product of the steps before and after each frame, and the mean of their squared lengths.

    Both are linear in the inner products of frames, so unbiased where those are. Their ratio, of sums over frames, is
    the cosine of the curvature where steps are equally long, and nearer 0 (the arithmetic mean exceeds the geometric
    one) where they differ.

    Parameters
    ----------
    products : array, (..., frame, frame)

    Returns
    -------
    product, length : ndarray, (..., frame - 2)

    Examples
    --------
    >>> x = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    >>> turns(x @ x.T)
    (array([0.]), array([2.5]))
    """
    steps = np.diff(np.diff(np.asarray(products, dtype=np.float64), axis=-1), axis=-2)
    squares = np.diagonal(steps, axis1=-2, axis2=-1)
    return np.diagonal(steps, offset=1, axis1=-2, axis2=-1), (squares[..., 1:] + squares[..., :-1]) / 2


def angle_deg(product, length) -> np.ndarray:
    """Angle whose cosine is ``product / length``, at its limit where noise carries the ratio beyond 1 or -1.

    Near 0 and 180 degrees a cosine hardly changes with the angle, so its errors become large ones of the angle, and
    towards 90: an error of 0.05 turns 0 degrees into 18.

    Parameters
    ----------
    product, length : array
        Sums over frames and sequences, as of :func:`turns`.

    Returns
    -------
    ndarray
        Degrees; NaN where the length is not positive.

    Examples
    --------
    >>> angle_deg([0.0, 2.0, 1.0], [1.0, 1.0, -1.0])
    array([90.,  0., nan])
    """
    product, length = np.asarray(product, dtype=np.float64), np.asarray(length, dtype=np.float64)
    defined = length > 0
    cosine = np.where(defined, product / np.where(defined, length, 1), np.nan)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))
