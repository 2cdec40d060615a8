"""Temporal straightening: is a sequence of images less curved in a layer, or a recorded population, than in pixels?

Henaff, Bai et al. (2021) found that macaque V1 straightens natural movies and bends artificial ones, blends of their
first and last frame that are straight in pixels. They fitted a generative model to each sequence: a trajectory given by
step lengths, angles and directions, an expansive nonlinearity and over-dispersed Poisson counts with shared gain, by
variational inference. They report the mean of the fitted prior of angles, before the nonlinearity, and correct it by
what the same fit gives for counts simulated from pixel trajectories (the control). Here nothing is fitted: inner
products across different repeats are free of noise in expectation (:mod:`neural_fits.curvature`). Theirs is a curvature
of latent rates, ours one of mean transformed counts, so the two need not agree where the nonlinearity bends.

Two ways to average sequences, both against pixels averaged the same way:

* "length": products and squared lengths are summed over all sequences, then divided. Nearly unbiased at any noise, but
  sequences that move far in that space count more.
* "equal": one angle for each sequence, then their mean, as the authors average. A noisy cosine beyond 1 or -1 is held
  at the limit, so curvatures near 0 and 180 degrees are drawn inwards and noise decides how far: trust it where
  ``n_clipped`` and ``n_undefined`` are few.

Simulated Poisson counts (20 sequences, 40 neurons, 40 repeats, steps of 0.6 in the square root of counts), true
curvature 0, 20, 60 and 100 degrees: by length 10, 19, 60 and 99; equal 17, 21, 57 and 98; from mean responses, as if
there were no noise, 85, 87, 96 and 112.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from neural_fits.bootstrap import percentile_interval, resampled_counts
from neural_fits.curvature import TRANSFORMS, angle_deg, curvature_deg, finite_trajectory, turns, unbiased_products

DIMS = ("zoom", "category", "movie", "frame")
WEIGHTINGS = ("length", "equal")


def _subsequences(rows: np.ndarray, step: int) -> list[np.ndarray]:
    """Every ``step``-th frame from each of the first frames, where 3 frames or more are left."""
    return [rows[start::step] for start in range(step) if len(rows[start::step]) >= 3]


def _sequences(index) -> xr.DataArray:
    if not isinstance(index, xr.DataArray):
        index = np.asarray(index)
        if index.ndim != 4:
            raise ValueError(f"image_index has shape {index.shape}; expected (zoom, category, movie, frame).")
        index = xr.DataArray(index, dims=DIMS, coords={d: np.arange(n) for d, n in zip(DIMS, index.shape, strict=True)})
    if index.dims != DIMS or index.dtype.kind not in "iu" or index.sizes["frame"] < 3:
        raise ValueError(
            f"image_index has dimensions {index.dims}, {index.dtype}; expected integers (zoom, category, movie, frame) "
            "of 3 frames at least."
        )
    return index


def sequence_turns(image_index, data, *, step: int = 1, transform: str = "none") -> tuple[np.ndarray, np.ndarray]:
    """Sums of :func:`neural_fits.curvature.turns` over the frames of each sequence.

    Parameters
    ----------
    image_index : array of int, (zoom, category, movie, frame)
        Row of the image; a sequence with a negative one is absent.
    data : array, (image, feature) or (image, repeat, neuron)
        Without repeats, taken as free of noise; with them, through :func:`neural_fits.curvature.unbiased_products`.
    step : int
        Every ``step``-th frame; the interleaved subsequences are summed, so all frames serve.
    transform : str
        Of each response, a name in :data:`neural_fits.curvature.TRANSFORMS`.

    Returns
    -------
    product, length : ndarray, (zoom, category, movie)
        NaN where there is no sequence.

    Raises
    ------
    ValueError
        If an index is beyond the data, ``step`` leaves fewer than 3 frames, or the transform is unknown.

    Examples
    --------
    >>> images = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    >>> product, length = sequence_turns(np.arange(3).reshape(1, 1, 1, 3), images)
    >>> angle_deg(product, length).item()
    90.0
    """
    index = _sequences(image_index).values
    data = np.asarray(data)
    if transform not in TRANSFORMS:
        raise ValueError(f"transform is {transform!r}; expected one of {', '.join(TRANSFORMS)}.")
    if data.ndim not in (2, 3):
        raise ValueError(f"data have shape {data.shape}; expected (image, feature) or (image, repeat, neuron).")
    if index.max() >= len(data):
        raise ValueError(f"image_index holds {index.max()}; expected rows of {len(data)} images.")
    if step < 1 or not _subsequences(index[0, 0, 0], step):
        raise ValueError(f"step is {step}; expected 1 or more that leaves 3 of {index.shape[-1]} frames.")
    sums = np.full((2, *index.shape[:-1]), np.nan)
    for place in np.ndindex(index.shape[:-1]):
        if (index[place] < 0).any():
            continue
        total = np.zeros(2)
        for rows in _subsequences(index[place], step):
            x = TRANSFORMS[transform](np.asarray(data[rows], dtype=np.float64))
            if data.ndim == 2:
                x = finite_trajectory(x)
                x = x - x[0]
            total += [part.sum() for part in turns(x @ x.T if data.ndim == 2 else unbiased_products(x))]
        sums[:, *place] = total
    return sums[0], sums[1]


def sequence_curvature_deg(image_index, images, *, step: int = 1) -> np.ndarray:
    """Mean angle of each sequence without noise, all frames weighing the same, as Henaff et al. (2021) take it.

    Parameters
    ----------
    image_index : array of int, (zoom, category, movie, frame)
    images : array, (image, feature)
    step : int

    Returns
    -------
    ndarray, (zoom, category, movie)
        Degrees; NaN where there is no sequence or a step has no length.

    Examples
    --------
    >>> images = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> sequence_curvature_deg(np.arange(4).reshape(1, 1, 1, 4), images).round(6).item()
    45.0
    """
    index = _sequences(image_index).values
    images = np.asarray(images)
    out = np.full(index.shape[:-1], np.nan)
    for place in np.ndindex(out.shape):
        if (index[place] >= 0).all():
            angles = [curvature_deg(images[rows]) for rows in _subsequences(index[place], step)]
            out[place] = np.concatenate(angles).mean()
    return out


def _statistics(counts: np.ndarray, product: np.ndarray, length: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """Curvature, that of pixels averaged alike, and their difference, (resample, space, category, weighting, 3).

    ``counts`` (resample, movie); ``product``, ``length`` (space, category, zoom, movie) and ``cosine`` of the pixels
    (category, zoom, movie), NaN where there is no sequence.
    """

    def summed(x):
        return np.einsum("bm,...m->b...", counts, np.where(np.isnan(x), 0, x).sum(-2))

    total = summed(length)
    by_length = angle_deg(summed(product), total), angle_deg(summed(length * cosine), total)
    angle = angle_deg(product, length)
    of_pixels = np.where(np.isnan(angle), np.nan, np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    number = summed(~np.isnan(angle))
    alike = (
        np.divide(summed(x), number, out=np.full_like(number, np.nan), where=number > 0) for x in (angle, of_pixels)
    )
    curvature, in_pixels = (np.stack(pair, axis=-1) for pair in zip(by_length, alike, strict=True))
    return np.stack([curvature, in_pixels, curvature - in_pixels], axis=-1)


def _draws(n_movies: int, n_resamples: int, seed: int) -> np.ndarray:
    """Counts (1 + movie + resample, movie): all movies, without each, resampled."""
    everything = np.ones((1, n_movies))
    drawn = resampled_counts(n_movies, n_resamples=n_resamples, seed=seed)
    return np.concatenate([everything, everything - np.eye(n_movies), drawn])


def straightening_table(
    image_index,
    pixels,
    *,
    features: Mapping[str, np.ndarray] | None = None,
    populations: Mapping[str, np.ndarray] | None = None,
    step: int = 1,
    transform: str = "sqrt",
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Curvature of each category of sequences in pixels, layers and populations, and the difference to pixels.

    Parameters
    ----------
    image_index : array of int or DataArray, (zoom, category, movie, frame)
        Row of the image at each place; negative where there is no such sequence. A DataArray brings names, such as
        that of :func:`neural_fits.datasets.henaff2021.sequence_index`.
    pixels : array, (image, ...)
        Grey levels. Fine detail turns from frame to frame, so curvature falls with lower resolution.
    features : mapping of str to array, (image, ...)
        Activations of layers.
    populations : mapping of str to array, (image, repeat, neuron)
        Counts, NaN where missing.
    step : int
        Every ``step``-th frame. Longer steps stand out of the noise further.
    transform : str
        Of counts, a name in :data:`neural_fits.curvature.TRANSFORMS`.
    n_resamples : int
        Movies are drawn with replacement, each with both zooms.
    confidence : float
    seed : int

    Returns
    -------
    xarray.Dataset
        Of (space, category, weighting), as in :func:`summary`: ``curvature_deg``, ``reference_deg`` (pixels averaged
        alike), ``difference_deg`` (negative where the space straightens), ``curvature_interval``,
        ``difference_interval``. Of (space, category, zoom, movie): ``sequence_curvature_deg``, NaN where noise left no
        positive length; ``sequence_angle_deg``, the mean of angles, for spaces without noise; ``product`` and
        ``length``, the sums that all is made of. Of (space, category): ``n_undefined`` and ``n_clipped``, how many
        sequences noise left without a length, or with a cosine beyond 1 or -1.

    Raises
    ------
    ValueError
        If shapes do not fit, a name occurs twice, or an option is unknown.

    Examples
    --------
    >>> corner, line = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    >>> images = np.concatenate([corner, line])
    >>> table = straightening_table(np.arange(6).reshape(1, 2, 1, 3), images, features={"first": images[:, :1]})
    >>> table["curvature_deg"].sel(space="pixels", weighting="equal").values
    array([90.,  0.])
    """
    index = _sequences(image_index)
    pixels = np.asarray(pixels).reshape(len(pixels), -1)
    deterministic = {"pixels": pixels, **(features or {})}
    spaces: dict[str, np.ndarray] = {**deterministic, **(populations or {})}
    if len(spaces) < 1 + len(features or {}) + len(populations or {}):
        raise ValueError(f"names {', '.join(spaces)} hide others; expected each once, and none 'pixels'.")
    sums, angles = [], []
    for name, data in spaces.items():
        data = np.asarray(data)
        if len(data) != len(pixels):
            raise ValueError(f"{name!r} has {len(data)} images; expected {len(pixels)}, as pixels.")
        if name in deterministic:
            data = data.reshape(len(data), -1)
            angles.append(sequence_curvature_deg(index, data, step=step))
            sums.append(sequence_turns(index, data, step=step))
        else:
            if data.ndim != 3:
                raise ValueError(f"{name!r} has shape {data.shape}; expected (image, repeat, neuron).")
            angles.append(np.full(index.shape[:-1], np.nan))
            sums.append(sequence_turns(index, data, step=step, transform=transform))
    # (space, category, zoom, movie)
    product, length = np.array(sums).transpose(1, 0, 3, 2, 4)
    angle = np.array(angles).transpose(0, 2, 1, 3)
    sequence = angle_deg(product, length)
    cells, places = ("space", "category"), ("space", "category", "zoom", "movie")
    undefined = ~np.isnan(length) & np.isnan(sequence)
    clipped = (length > 0) & (np.abs(product) > length * (1 + 1e-9))
    table = xr.Dataset(
        {
            "sequence_curvature_deg": (places, sequence),
            "sequence_angle_deg": (places, angle),
            "n_undefined": (cells, undefined.sum((-2, -1))),
            "n_clipped": (cells, clipped.sum((-2, -1))),
            "product": (places, product),
            "length": (places, length),
        },
        coords={"space": list(spaces), **{d: index.coords[d].values for d in ("category", "zoom", "movie")}},
        attrs={"step": step, "transform": transform},
    )
    return table.merge(summary(table, n_resamples=n_resamples, confidence=confidence, seed=seed))


def summary(
    table: xr.Dataset,
    *,
    mean_over=None,
    name: str = "mean",
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Curvature, reference and difference of each space of a table with intervals, or of the mean of some spaces.

    Parameters
    ----------
    table : xarray.Dataset
        Of :func:`straightening_table`.
    mean_over : sequence of str, optional
        Spaces whose curvatures are averaged; intervals then draw both movies (the same in all) and spaces.
    name : str
        Of the mean.
    n_resamples : int
    confidence : float
    seed : int

    Returns
    -------
    xarray.Dataset
        ``curvature_deg``, ``reference_deg``, ``difference_deg`` (space, category, weighting); ``curvature_interval``,
        ``difference_interval`` (space, category, weighting, bound), BCa.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((6, 4))
    >>> table = straightening_table(np.arange(6).reshape(1, 1, 2, 3), images, features={"a": images, "b": -images})
    >>> summary(table, mean_over=["a", "b"])["difference_deg"].values
    array([[[0., 0.]]])
    """
    pixels = table.sel(space="pixels")
    cosine = (pixels["product"] / pixels["length"]).transpose("category", "zoom", "movie").values
    names = list(table["space"].values) if mean_over is None else list(mean_over)
    chosen = table.sel(space=names).transpose("space", "category", "zoom", "movie", ...)
    n_movies = table.sizes["movie"]
    draws = _draws(n_movies, n_resamples, seed)
    values = _statistics(draws, chosen["product"].values, chosen["length"].values, cosine)
    jackknifed = 1 + n_movies
    if mean_over is not None:
        weights = np.ones((len(draws), len(names)))
        weights[jackknifed:] = resampled_counts(len(names), n_resamples=n_resamples, seed=seed + 1)
        values = np.einsum("bs,bs...->b...", weights / len(names), values)[:, None]
        names = [name]
    bounds = np.full((2, *values.shape[1:]), np.nan)
    for cell in np.ndindex(values.shape[1:]):
        if np.isfinite(values[0][cell]) and n_resamples:
            each = values[:, *cell]
            # the mean of spaces varies over two things, and the acceleration of one of them would mislead
            jackknife = each[1:jackknifed] if mean_over is None else None
            bounds[:, *cell] = percentile_interval(
                each[jackknifed:], estimate=float(each[0]), jackknife=jackknife, confidence=confidence
            )
    cells = ("space", "category", "weighting")
    return xr.Dataset(
        {
            "curvature_deg": (cells, values[0, ..., 0]),
            "reference_deg": (cells, values[0, ..., 1]),
            "difference_deg": (cells, values[0, ..., 2]),
            "curvature_interval": ((*cells, "bound"), np.moveaxis(bounds[..., 0], 0, -1)),
            "difference_interval": ((*cells, "bound"), np.moveaxis(bounds[..., 2], 0, -1)),
        },
        coords={
            "space": names,
            "category": table["category"].values,
            "weighting": list(WEIGHTINGS),
            "bound": ["low", "high"],
        },
    )


def compare_published(
    table: xr.Dataset, published: Mapping[str, np.ndarray], *, baseline: str = "published"
) -> xr.Dataset:
    """Curvature of each sequence and population beside the estimates of Henaff et al. (2021).

    Theirs is pixel curvature plus ``delta_curvature_neural_deg``. For natural sequences at frame step 2 their column of
    pixel curvature repeats that of step 1 (mean 92.0 degrees; 102.0 from the 512-px originals, as in the authors' own
    model file), while the deltas are from step 2: added to the column, they give curvatures below 0, and added to the
    true one, none outside 0 to 180. There, take ``baseline="table"``.

    Parameters
    ----------
    table : xarray.Dataset
        Of :func:`straightening_table`; its names of categories, zooms and movies are those of ``published``.
    published : mapping of str to array, (row,)
        ``population``, ``category``, ``zoom``, ``movie``, ``frame_step``, ``pixel_curvature_deg``,
        ``delta_curvature_neural_deg``, ``delta_curvature_control_deg``, as of
        :func:`neural_fits.datasets.henaff2021.published_curvature`. Rows of the table's step are used.
    baseline : {"published", "table"}
        Where pixel curvature is from: the published column, or the mean angles of the table's pixels (4 to 7 degrees
        too low for natural sequences at 128 px).

    Returns
    -------
    xarray.Dataset
        (space, category): ``published_deg``, ``published_pixels_deg`` (of the baseline), means over sequences;
        ``published_straightening_deg``, neural minus control, as the authors plot it; ``curvature_deg``, mean of ours;
        ``mean_difference_deg``, ours minus theirs, and ``correlation``, over the ``n_sequences`` where ours is defined.

    Raises
    ------
    ValueError
        If no row belongs to a population of the table at its step, or the baseline is unknown.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> index, images = np.arange(9).reshape(1, 1, 3, 3), rng.standard_normal((9, 4))
    >>> table = straightening_table(index, images, populations={"p": images[:, None] + np.zeros((9, 4, 4))},
    ...                             transform="none", n_resamples=0)
    >>> rows = {"population": np.full(3, "p"), "category": np.zeros(3, int), "zoom": np.zeros(3, int),
    ...         "movie": np.arange(3), "frame_step": np.ones(3, int), "pixel_curvature_deg": np.zeros(3),
    ...         "delta_curvature_neural_deg": table["sequence_curvature_deg"].sel(space="p").values.ravel() - 5,
    ...         "delta_curvature_control_deg": np.zeros(3)}
    >>> compared = compare_published(table, rows)
    >>> compared["correlation"].values.round(6), compared["mean_difference_deg"].values.round(6)
    (array([[1.]]), array([[5.]]))
    """
    if baseline not in ("published", "table"):
        raise ValueError(f"baseline is {baseline!r}; expected 'published' or 'table'.")
    rows = {name: np.asarray(values) for name, values in published.items()}
    of_step = rows["frame_step"] == table.attrs["step"]
    spaces = [name for name in table["space"].values if (of_step & (rows["population"] == name)).any()]
    if not spaces:
        raise ValueError(f"no published row has step {table.attrs['step']} and a population of the table.")
    categories = table["category"].values
    names = ("published_deg", "published_pixels_deg", "published_straightening_deg", "curvature_deg")
    names += ("mean_difference_deg", "correlation", "n_sequences")
    out = {name: np.full((len(spaces), len(categories)), np.nan) for name in names}
    for cell in np.ndindex(len(spaces), len(categories)):
        space, category = spaces[cell[0]], categories[cell[1]]
        chosen = np.flatnonzero(of_step & (rows["population"] == space) & (rows["category"] == category))
        if len(chosen) == 0:
            continue
        zoom, movie = (xr.DataArray(rows[d][chosen], dims="row") for d in ("zoom", "movie"))
        ours, own_pixels = (
            table[name].sel(space=of, category=category).sel(zoom=zoom, movie=movie).values
            for name, of in (("sequence_curvature_deg", space), ("sequence_angle_deg", "pixels"))
        )
        pixels = rows["pixel_curvature_deg"][chosen] if baseline == "published" else own_pixels
        neural, control = (rows[f"delta_curvature_{name}_deg"][chosen] for name in ("neural", "control"))
        theirs = pixels + neural
        both = np.isfinite(ours)
        out["published_deg"][cell], out["published_pixels_deg"][cell] = theirs.mean(), pixels.mean()
        out["published_straightening_deg"][cell] = (neural - control).mean()
        out["n_sequences"][cell] = both.sum()
        if both.sum() > 2:
            out["curvature_deg"][cell] = ours[both].mean()
            out["mean_difference_deg"][cell] = (ours - theirs)[both].mean()
            out["correlation"][cell] = np.corrcoef(ours[both], theirs[both])[0, 1]
    return xr.Dataset(
        {name: (("space", "category"), values) for name, values in out.items()},
        coords={"space": spaces, "category": categories},
    )
