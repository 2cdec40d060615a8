"""Pixels and degrees of visual angle."""

#: 224 px across 8 degrees, the default field of view of Brain-Score's vision models.
PIXELS_PER_DEGREE = 28.0


def degrees(size_px: float, pixels_per_degree: float = PIXELS_PER_DEGREE) -> float:
    """Size in degrees of visual angle of a size in pixels.

    The small-angle relation ``size_deg = size_px / pixels_per_degree``.

    Parameters
    ----------
    size_px : float
        Size in pixels.
    pixels_per_degree : float
        Resolution of the display, px/deg.

    Returns
    -------
    float
        Size in degrees.

    Raises
    ------
    ValueError
        If ``pixels_per_degree`` is not positive.

    Examples
    --------
    >>> degrees(224)
    8.0
    """
    if not pixels_per_degree > 0:
        raise ValueError(f"pixels_per_degree is {pixels_per_degree}; expected a positive number of pixels per degree.")
    return size_px / pixels_per_degree


def pixels(size_deg: float, pixels_per_degree: float = PIXELS_PER_DEGREE) -> float:
    """Size in pixels of a size in degrees of visual angle: the inverse of :func:`degrees`.

    Parameters
    ----------
    size_deg : float
        Size in degrees.
    pixels_per_degree : float
        Resolution of the display, px/deg.

    Returns
    -------
    float
        Size in pixels (not rounded).

    Raises
    ------
    ValueError
        If ``pixels_per_degree`` is not positive.

    Examples
    --------
    >>> pixels(8)
    224.0
    """
    if not pixels_per_degree > 0:
        raise ValueError(f"pixels_per_degree is {pixels_per_degree}; expected a positive number of pixels per degree.")
    return size_deg * pixels_per_degree
