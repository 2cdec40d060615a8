"""Apertures: how much of a picture is seen at a distance from its centre, and what lies around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def centred(rows: int, columns: int, pixels_per_degree: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Degrees to the right of and below the centre of a picture, at every pixel.

    Parameters
    ----------
    rows, columns : int
    pixels_per_degree : float

    Returns
    -------
    x_deg, y_deg : ndarray, (row, column)

    Examples
    --------
    >>> centred(1, 4, 2.0)[0]
    array([[-0.75, -0.25,  0.25,  0.75]])
    """
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    return (x - (columns - 1) / 2) / pixels_per_degree, (y - (rows - 1) / 2) / pixels_per_degree


def raised_cosine(distance: ArrayLike, radius: float) -> NDArray[np.float64]:
    """Aperture ``0.5 (1 + cos(pi r / a))``, zero beyond ``a``.

    With ``a`` = 160 px, 2 degrees, it is the one of the public modelling copy of the texture pictures of Freeman,
    Ziemba et al. (2013), on a mid-grey ground.

    Parameters
    ----------
    distance : array_like
        Distance ``r`` from the centre.
    radius : float
        Distance ``a`` at which the picture is gone, in the unit of ``distance``.

    Returns
    -------
    ndarray
        Between 0 and 1.

    Raises
    ------
    ValueError
        If the radius is not positive.

    Examples
    --------
    >>> raised_cosine([0, 80, 160, 200], 160).round(12)
    array([1. , 0.5, 0. , 0. ])
    """
    if not radius > 0:
        raise ValueError(f"the aperture's radius is {radius}; expected a positive distance.")
    return 0.5 * (1 + np.cos(np.pi * np.minimum(np.abs(distance) / radius, 1.0)))


def disc(distance: ArrayLike, radius: ArrayLike, *, edge: float = 0.0) -> NDArray[np.float64]:
    """Disc: 1 inside, 0 outside, with a hard edge or a raised-cosine one centred on the radius.

    Parameters
    ----------
    distance : array_like
        From the centre.
    radius : float or array_like
        Where the aperture is one half; broadcast against ``distance``. 0 shows nothing.
    edge : float
        Width of the edge, in the unit of ``distance``; 0 is a hard one.

    Returns
    -------
    ndarray
        Between 0 and 1.

    Raises
    ------
    ValueError
        If the radius or the edge is negative.

    Examples
    --------
    >>> disc([0.0, 0.9, 1.1], 1.0), disc([0.5, 1.0, 1.25, 1.5], 1.0, edge=1.0).round(3)
    (array([1., 1., 0.]), array([1.   , 0.5  , 0.146, 0.   ]))
    """
    a = np.asarray(radius, dtype=np.float64)
    if (a < 0).any() or edge < 0:
        raise ValueError(f"the disc has radius {a.min()} and edge {edge}; expected neither to be negative.")
    r = np.abs(np.asarray(distance, dtype=np.float64))
    if edge == 0:
        return (r < a).astype(np.float64)
    return np.where(a > 0, 0.5 * (1 + np.cos(np.pi * np.clip((r - a) / edge + 0.5, 0.0, 1.0))), 0.0)


def annulus(distance: ArrayLike, inner: ArrayLike, outer: ArrayLike, *, edge: float = 0.0) -> NDArray[np.float64]:
    """Ring between two radii: the outer :func:`disc` less the inner one.

    Parameters
    ----------
    distance : array_like
        From the centre.
    inner, outer : float or array_like
        Radii, broadcast against ``distance``; equal ones show nothing.
    edge : float
        Width of both edges; 0 is hard.

    Returns
    -------
    ndarray
        Between 0 and 1.

    Raises
    ------
    ValueError
        If the radii are not in order.

    Examples
    --------
    >>> annulus([0.0, 1.5, 3.0], 1.0, 2.0)
    array([0., 1., 0.])
    """
    if (np.asarray(inner) < 0).any() or (np.asarray(inner) > np.asarray(outer)).any():
        raise ValueError(f"the ring has radii {inner} and {outer}; expected 0 <= inner <= outer.")
    return np.maximum(disc(distance, outer, edge=edge) - disc(distance, inner, edge=edge), 0.0)


def apply_aperture(images: ArrayLike, aperture: ArrayLike, *, background: float = 0.5) -> NDArray[np.float32]:
    """Pictures seen through an aperture: ``background + aperture (image - background)``.

    Parameters
    ----------
    images : array_like, (..., row, column)
        In [0, 1].
    aperture : array_like, (row, column)
        Between 0 and 1.
    background : float
        Level around the picture.

    Returns
    -------
    ndarray, (..., row, column), float32

    Raises
    ------
    ValueError
        If the sizes differ.

    Examples
    --------
    >>> apply_aperture([[0.0, 1.0]], [[1.0, 0.5]])
    array([[0.  , 0.75]], dtype=float32)
    """
    pictures, window = np.asarray(images, dtype=np.float64), np.asarray(aperture, dtype=np.float64)
    if pictures.shape[-2:] != window.shape:
        raise ValueError(f"pictures {pictures.shape} and aperture {window.shape} differ in rows and columns.")
    return (background + window * (pictures - background)).astype(np.float32)
