"""Pictures of several textures with exact maps of what is where: patches of textures on matched noise.

A texture and its noise share spectrum and contrast (:mod:`stimuli.textures`): a patch that lies on noise of its own
family differs from the ground, its border apart, by higher-order statistics alone.
"""

from __future__ import annotations

import numpy as np

from stimuli.stimulus_set import StimulusSet

#: Label of the ground.
GROUND = 0


def texture_mosaics(
    textures: StimulusSet,
    n: int,
    *,
    samples: tuple[int, ...],
    seed: int,
    patches: int = 3,
    radius_px: tuple[int, int] = (18, 34),
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Discs of textures on matched noise, with the family at every pixel.

    The ground of every picture is the noise of one family; each disc holds a texture of any family, that of the ground
    included. Families take turns, so that all are shown about equally often.

    Parameters
    ----------
    textures : StimulusSet
        With columns ``type`` (``texture``, ``noise``), ``family`` and ``sample``; grey pictures of one size.
    n : int
        Pictures.
    samples : tuple of int
        Which samples of every family are used; others can be kept for other pictures.
    seed : int
    patches : int
        Discs of a picture; later ones lie on earlier ones.
    radius_px : (int, int)
        Least and largest radius, in pixels of the pictures.

    Returns
    -------
    images : ndarray of uint8, (picture, row, column, 3)
    labels : ndarray of int, (picture, row, column)
        :data:`GROUND`, or the number of the family from 1.
    families : tuple of str
        Their names in the order of the numbers.

    Raises
    ------
    ValueError
        If no picture of the set has the samples, or a number is not positive.

    Examples
    --------
    >>> from stimuli.textures import ready_textures
    >>> images, labels, families = texture_mosaics(ready_textures(), 5, samples=(1, 2), seed=0)
    >>> images.shape, int(labels.max()) <= len(families) == 15
    ((5, 128, 128, 3), True)
    """
    if n < 1 or patches < 1 or not 0 < radius_px[0] <= radius_px[1]:
        raise ValueError(f"n is {n}, patches {patches} and radius_px {radius_px}; expected positive numbers, rising.")
    table = textures.parameters
    usable = np.isin(table["sample"], samples)
    families = tuple(dict.fromkeys(np.asarray(table["family"])[usable].astype(str).tolist()))
    of = {
        (kind, family): np.flatnonzero(usable & (table["type"] == kind) & (table["family"] == family))
        for kind in ("texture", "noise")
        for family in families
    }
    if not families or any(len(each) == 0 for each in of.values()):
        raise ValueError(f"the set {textures.name} lacks textures or noise of the samples {samples}; give others.")
    rng = np.random.default_rng(seed)
    height, width = textures.images.shape[1:3]
    rows, columns = np.mgrid[:height, :width] + 0.5
    images, labels = np.empty((n, height, width, 3), np.uint8), np.zeros((n, height, width), int)
    turns = np.concatenate(
        [rng.permutation(len(families)) for _ in range(-(-n * (patches + 1) // len(families)))]
    ).reshape(-1)
    for i in range(n):
        drawn = turns[i * (patches + 1) : (i + 1) * (patches + 1)]
        grey = textures.images[rng.choice(of["noise", families[drawn[0]]])].copy()
        for family in drawn[1:]:
            radius = rng.uniform(*radius_px)
            row, column = rng.uniform(0, height), rng.uniform(0, width)
            inside = np.hypot(rows - row, columns - column) < radius
            grey[inside] = textures.images[rng.choice(of["texture", families[family]])][inside]
            labels[i][inside] = family + 1
        images[i] = grey[..., None]
    return images, labels, families
