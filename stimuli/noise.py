"""Noise of known statistics, and patches of natural images.

Pictures are float32 in [0, 1], shape (n, row, column), square; a seed gives the same pictures everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Images = NDArray[np.float32]


def _check(n: int, size_px: int, mean_luminance: float) -> None:
    if n < 1 or size_px < 2:
        raise ValueError(f"n is {n} and size_px {size_px}; expected at least 1 picture of at least 2 pixels.")
    if not 0 < mean_luminance < 1:
        raise ValueError(f"mean_luminance is {mean_luminance}; expected a level between 0 and 1, such as 0.5.")


def white_noise(
    n: int,
    size_px: int,
    *,
    seed: int,
    check_px: int = 1,
    rms_contrast: float = 0.2,
    binary: bool = False,
    mean_luminance: float = 0.5,
) -> Images:
    """Independent levels at every check, Gaussian or of two values.

    Parameters
    ----------
    n, size_px : int
        Pictures, and their side.
    seed : int
    check_px : int
        Side of a check; must divide the side.
    rms_contrast : float
        Standard deviation of the levels over the mean luminance. Gaussian levels beyond [0, 1] are clipped: 0.05 % of
        them at a mean of 0.5 and a contrast of 0.29, fewer below.
    binary : bool
        Two levels, ``mean_luminance (1 +- rms_contrast)``, instead of Gaussian ones.
    mean_luminance : float

    Returns
    -------
    ndarray, (n, row, column), float32

    Raises
    ------
    ValueError
        If checks do not fill the side, or the two levels leave [0, 1].

    Examples
    --------
    >>> images = white_noise(2, 64, seed=0, check_px=4)
    >>> images.shape, bool((images[:, ::4] == images[:, 3::4]).all()), round(float(images.std() / 0.5), 1)
    ((2, 64, 64), True, 0.2)
    """
    _check(n, size_px, mean_luminance)
    if check_px < 1 or size_px % check_px:
        raise ValueError(f"check_px {check_px} does not divide size_px {size_px}; change either.")
    if rms_contrast < 0 or (binary and mean_luminance * (1 + rms_contrast) > 1) or rms_contrast > 1:
        raise ValueError(
            f"rms_contrast is {rms_contrast}; expected 0 to {min(1.0, 1 / mean_luminance - 1):g} around a mean "
            f"luminance of {mean_luminance}."
        )
    rng = np.random.default_rng(seed)
    side = size_px // check_px
    z = rng.choice([-1.0, 1.0], size=(n, side, side)) if binary else rng.standard_normal((n, side, side))
    levels = np.clip(mean_luminance * (1 + rms_contrast * z), 0.0, 1.0).astype(np.float32)
    return levels.repeat(check_px, axis=1).repeat(check_px, axis=2)


def pink_noise(
    n: int,
    size_px: int,
    *,
    seed: int,
    exponent: float = 1.0,
    rms_contrast: float = 0.2,
    mean_luminance: float = 0.5,
) -> Images:
    """Noise of amplitude spectrum ``1 / f^exponent`` and random phases; 1 is pink, that of natural images on average.

    Mean and contrast of every picture are exact but for levels clipped to [0, 1].

    Parameters
    ----------
    n, size_px : int
    seed : int
    exponent : float
        0 is white.
    rms_contrast : float
        Standard deviation over mean.
    mean_luminance : float

    Returns
    -------
    ndarray, (n, row, column), float32

    Raises
    ------
    ValueError
        If the contrast is not in [0, 1], or a size is too small.

    Examples
    --------
    >>> images = pink_noise(3, 64, seed=0)
    >>> images.mean(axis=(1, 2)).round(2).tolist() == [0.5] * 3, round(float(images[0].std()), 3)
    (True, 0.1)
    """
    _check(n, size_px, mean_luminance)
    if not 0 <= rms_contrast <= 1:
        raise ValueError(f"rms_contrast is {rms_contrast}; expected 0 to 1.")
    f = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None])
    f[0, 0] = np.inf  # no mean
    # the spectrum of white noise has random phases with the symmetry that real pictures need
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((n, size_px, size_px)))
    magnitude = np.abs(spectrum)
    phases = spectrum / np.where(magnitude > 0, magnitude, 1.0)
    noise = np.fft.irfft2(phases * f**-exponent * np.isfinite(f), s=(size_px, size_px))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    return np.clip(mean_luminance * (1 + rms_contrast * noise), 0.0, 1.0).astype(np.float32)


def sparse_noise(
    n: int,
    size_px: int,
    *,
    seed: int,
    grid: int = 16,
    squares: int = 1,
    contrast: float = 1.0,
    mean_luminance: float = 0.5,
) -> tuple[Images, NDArray[np.int8]]:
    """Light and dark squares at random places of a grid, for mapping receptive fields.

    Every place, light and dark, is shown equally often but for one time in ``n`` pictures; places within a picture
    differ.

    Parameters
    ----------
    n, size_px : int
    seed : int
    grid : int
        Places per side; must divide ``size_px``.
    squares : int
        Squares per picture.
    contrast : float
        Weber contrast: levels ``mean_luminance (1 +- contrast)``.
    mean_luminance : float

    Returns
    -------
    images : ndarray, (n, row, column), float32
    signs : ndarray of int8, (n, grid, grid)
        1 light, -1 dark, 0 none.

    Raises
    ------
    ValueError
        If the grid does not divide the side, the squares do not fit, or levels leave [0, 1].

    Examples
    --------
    >>> images, signs = sparse_noise(32, 16, seed=0, grid=4)
    >>> images.shape, np.abs(signs).sum(axis=0).tolist()
    ((32, 16, 16), [[2, 2, 2, 2], [2, 2, 2, 2], [2, 2, 2, 2], [2, 2, 2, 2]])
    """
    _check(n, size_px, mean_luminance)
    if grid < 1 or size_px % grid:
        raise ValueError(f"grid {grid} does not divide size_px {size_px}; change either.")
    if not 1 <= squares <= grid**2:
        raise ValueError(f"squares is {squares}; expected 1 to {grid**2}, the places of the grid.")
    if not 0 <= contrast <= min(1.0, 1 / mean_luminance - 1):
        raise ValueError(f"contrast is {contrast}; levels around {mean_luminance} would leave [0, 1].")
    rng = np.random.default_rng(seed)
    signs = np.zeros((n, grid**2), dtype=np.int8)
    # times each place is still to be shown light (first half) and dark: the neediest places come first, ties at random
    shown = np.zeros(2 * grid**2, dtype=np.int64)
    for picture in signs:
        order = np.lexsort((rng.random(len(shown)), shown))
        place = order % grid**2
        # the first occurrence of each place, in order of need
        first = np.sort(np.unique(place, return_index=True)[1])[:squares]
        chosen = order[first]
        picture[place[first]] = np.where(chosen < grid**2, 1, -1)
        shown[chosen] += 1
    signs = signs.reshape(n, grid, grid)
    levels = (mean_luminance * (1 + contrast * signs.astype(np.float64))).astype(np.float32)
    side = size_px // grid
    return levels.repeat(side, axis=1).repeat(side, axis=2), signs


def natural_patches(
    photographs: Sequence[ArrayLike], n: int, size_px: int, *, seed: int, least_contrast: float = 0.0
) -> tuple[NDArray, NDArray[np.int64]]:
    """Patches of photographs at random places, photographs used in turn.

    Parameters
    ----------
    photographs : sequence of array_like, (row, column) or (row, column, channel)
        All uint8, or all of one float type.
    n, size_px : int
    seed : int
    least_contrast : float
        Patches whose standard deviation over mean is less are drawn again (blank sky); at most 100 times.

    Returns
    -------
    patches : ndarray, (n, row, column[, channel])
        Of the photographs' type.
    where : ndarray of int, (n, 3)
        Photograph, first row and first column of each.

    Raises
    ------
    ValueError
        If there are no photographs, one is too small, or one has no patch of that contrast.

    Examples
    --------
    >>> photograph = np.arange(64.0).reshape(8, 8)
    >>> patches, where = natural_patches([photograph], 2, 4, seed=0)
    >>> _, row, column = where[0]
    >>> bool((patches[0] == photograph[row : row + 4, column : column + 4]).all())
    True
    """
    _check(n, size_px, 0.5)
    pictures = [np.asarray(each) for each in photographs]
    if not pictures:
        raise ValueError("there are no photographs; give at least one.")
    for i, each in enumerate(pictures):
        if each.ndim not in (2, 3) or min(each.shape[:2]) < size_px:
            raise ValueError(f"photograph {i} has shape {each.shape}; expected at least {size_px} rows and columns.")
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(pictures)) for _ in range(-(-n // len(pictures)))])[:n]
    patches, where = [], np.empty((n, 3), dtype=np.int64)
    for i, which in enumerate(order):
        photograph = pictures[which]
        for _ in range(100):
            row, column = (int(rng.integers(0, side - size_px + 1)) for side in photograph.shape[:2])
            patch = photograph[row : row + size_px, column : column + size_px]
            if least_contrast <= 0 or patch.std() >= least_contrast * max(patch.mean(), 1e-12):
                break
        else:
            raise ValueError(
                f"photograph {which} gave no patch of contrast {least_contrast} in 100 draws; lower least_contrast or "
                "leave it out."
            )
        patches.append(patch)
        where[i] = which, row, column
    return np.stack(patches), where
