"""How alike two distributions of a property are: model units against published counts of neurons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neural_fits.datasets.v1_published import Distribution

Array = NDArray[np.float64]

#: Bins of the properties of single units that Brain-Score uses; the others come with the published counts.
BINS: dict[str, Array] = {
    "modulation": np.linspace(-1, 1, 25),
    "absolute_modulation": np.linspace(0, 1, 13),
    "variance_ratio": np.geomspace(0.01, 10, 13),
    "selectivity": np.linspace(0, 1, 11),
    "sparseness": np.linspace(0, 1, 11),
    "max_response": np.geomspace(0.1, 1000, 13),
}


@dataclass(frozen=True)
class KSSimilarity:
    """Similarity of a model's distribution to that of neurons.

    Attributes
    ----------
    score : float
        Mean over resamples: 1 for the same histograms, 0 for the worst possible one.
    error : float
        Standard deviation over resamples.
    low, high : float
        Between them lie the central 95 % of the resamples.
    undefined_resamples : int
        Resamples without a single defined value; more than a tenth of them make the score 0.
    n_units, n_undefined : int
        Model units, and how many of them have no value.
    n_neurons : int
        Neurons, and the size of each resample.
    """

    score: float
    error: float
    low: float
    high: float
    undefined_resamples: int
    n_units: int
    n_undefined: int
    n_neurons: int


def histogram_similarity(model: ArrayLike, neurons: ArrayLike) -> Array:
    """Kolmogorov-Smirnov similarity ``1 - D / Dmax`` of histograms.

    ``D = max |cumsum(p) - cumsum(q)|`` of the normalised histograms of the model and of the neurons; ``Dmax`` is the
    larger D of the two histograms with all units in the first or in the last bin. Not symmetric.

    Parameters
    ----------
    model : array_like, (..., bin)
    neurons : array_like, (bin,)

    Returns
    -------
    ndarray, (...)
        NaN for a model without a unit.

    Raises
    ------
    ValueError
        If the numbers of bins differ, or there is no neuron.

    Examples
    --------
    >>> round(float(histogram_similarity([0.2, 0.3, 0.5], [0.5, 0.3, 0.2])), 6)
    0.625
    """
    p, q = np.asarray(model, dtype=np.float64), np.asarray(neurons, dtype=np.float64)
    if q.ndim != 1 or len(q) < 2 or p.shape[-1:] != q.shape:
        raise ValueError(f"histograms have shapes {p.shape} and {q.shape}; expected the same two or more bins last.")
    if not q.sum() > 0 or min(p.min(initial=0.0), q.min()) < 0:
        raise ValueError(f"counts of neurons are {q.tolist()}; expected at least one neuron and no negative count.")
    total = p.sum(axis=-1, keepdims=True)
    share = np.cumsum(p, axis=-1) / np.where(total > 0, total, 1.0)
    reference = np.cumsum(q) / q.sum()
    largest = max(1 - reference[0], reference[-2])
    distance = np.abs(share - reference).max(axis=-1)
    # the last cumulative share is 1 on both sides, so that all mass in the last bin is reference[-2] away
    return np.where(total[..., 0] > 0, 1 - distance / largest, np.nan)


def ks_similarity(
    values: ArrayLike,
    bins: ArrayLike,
    counts: ArrayLike,
    *,
    n_resamples: int = 1000,
    n_neurons: int | None = None,
    seed: int = 0,
) -> KSSimilarity:
    """Similarity of the values of model units to counts of neurons, units resampled to the number of neurons.

    Values are clipped to the outer edges. Units are drawn with replacement, the undefined ones among them; an undefined
    one adds to no bin. (Counts per bin of such a draw are multinomial, and are drawn so.)

    Parameters
    ----------
    values : array_like, (unit,)
        NaN where undefined.
    bins : array_like, (bin + 1,)
        Edges.
    counts : array_like, (bin,)
        Neurons per bin.
    n_resamples : int
    n_neurons : int, optional
        Size of each resample; the sum of the counts without it.
    seed : int

    Returns
    -------
    KSSimilarity

    Raises
    ------
    ValueError
        If there are no units, or bins and counts do not fit.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> counts, bins = np.histogram(rng.normal(size=300), np.linspace(-3, 3, 13))
    >>> alike = ks_similarity(rng.normal(size=1000), bins, counts)
    >>> shifted = ks_similarity(rng.normal(2, size=1000), bins, counts)
    >>> alike.score > 0.9 > 0.5 > shifted.score
    True
    """
    v, edges, q = (np.asarray(a, dtype=np.float64) for a in (values, bins, counts))
    if v.ndim != 1 or len(v) == 0:
        raise ValueError(f"values have shape {v.shape}; expected (unit,) with at least one unit.")
    if q.ndim != 1 or edges.shape != (len(q) + 1,) or (np.diff(edges) <= 0).any():
        raise ValueError(f"bins {edges.shape} and counts {q.shape} do not fit; expected rising edges around each bin.")
    defined = v[~np.isnan(v)]
    histogram = np.histogram(np.clip(defined, edges[0], edges[-1]), edges)[0]
    size = int(q.sum()) if n_neurons is None else n_neurons
    share = np.append(histogram, len(v) - len(defined)) / len(v)
    draws = np.random.default_rng(seed).multinomial(size, share, size=n_resamples)
    similarity = histogram_similarity(draws[:, :-1], q)
    undefined = int(np.isnan(similarity).sum())
    good = similarity[~np.isnan(similarity)]
    enough = undefined <= n_resamples / 10 and len(good) > 0
    return KSSimilarity(
        score=float(good.mean()) if enough else 0.0,
        error=float(good.std()) if enough else float("nan"),
        low=float(np.quantile(good, 0.025)) if enough else float("nan"),
        high=float(np.quantile(good, 0.975)) if enough else float("nan"),
        undefined_resamples=undefined,
        n_units=len(v),
        n_undefined=len(v) - len(defined),
        n_neurons=size,
    )


def published_ceiling(distribution: Distribution, *, n_resamples: int = 1000, seed: int = 0) -> KSSimilarity:
    """Similarity of a published distribution to resamples of itself: the score of a model that is exactly right.

    Below 1, since as few units are drawn as there are neurons.

    Parameters
    ----------
    distribution : Distribution
        Of one measure, counts (bin,).
    n_resamples : int
    seed : int

    Returns
    -------
    KSSimilarity

    Examples
    --------
    >>> from neural_fits.datasets.v1_published import published_distributions
    >>> 0.9 < published_ceiling(published_distributions()["surround_suppression_index"]).score < 1
    True
    """
    counts = distribution.counts
    places = np.repeat(np.arange(len(counts)), counts)
    return ks_similarity(places, np.arange(len(counts) + 1) - 0.5, counts, n_resamples=n_resamples, seed=seed)


def compare_with_published(
    properties: xr.Dataset, published: dict[str, Distribution], *, n_resamples: int = 1000, seed: int = 0
) -> dict[str, KSSimilarity]:
    """Every published distribution whose measure the properties of some units hold.

    Distributions of simple or of complex cells are compared with the units of that kind (``simple`` of the properties).
    Preferred orientations are wrapped into the published bins. Distributions without units to compare are left out, as
    is the joint one of n_x and n_y, which is not a property of tuning.

    Parameters
    ----------
    properties : xarray.Dataset
        Over ``unit``, as :func:`neural_fits.tuning.tuning_properties` makes it.
    published : dict of str to Distribution
        From :func:`neural_fits.datasets.v1_published.published_distributions`.
    n_resamples : int
    seed : int

    Returns
    -------
    dict of str to KSSimilarity
        Under the keys of ``published``.

    Examples
    --------
    >>> from neural_fits.datasets.v1_published import published_distributions
    >>> units = xr.Dataset({"surround_suppression_index": ("unit", [0.1, 0.3, 0.5, 0.0])})
    >>> list(compare_with_published(units, published_distributions()))
    ['surround_suppression_index']
    """
    scores = {}
    for key, each in published.items():
        if each.measure not in properties or each.counts.ndim != 1:
            continue
        values = properties[each.measure].values
        kind = each.cells.split("_")[0]
        if kind in ("simple", "complex"):
            if "simple" not in properties:
                continue
            values = values[properties["simple"].values == (kind == "simple")]
        if len(values) == 0:
            continue
        # categories are in the order no, yes: values 0 and 1
        edges = np.array([-0.5, 0.5, 1.5]) if each.scale == "categories" else each.bins
        if each.measure == "preferred_orientation_deg":
            values = edges[0] + (values - edges[0]) % 180.0
        scores[key] = ks_similarity(values, edges, each.counts, n_resamples=n_resamples, seed=seed)
    return scores
