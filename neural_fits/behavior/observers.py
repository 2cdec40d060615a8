"""Every observer, every pair of observers, and their means over conditions, observers and experiments.

The order of the means is that of the published benchmark (Geirhos et al. 2021, *NeurIPS* 34): a measure of two
observers is taken in each condition, then averaged over conditions, then over observers (for people among themselves
over pairs), then over experiments. Accuracy is the share over all trials of the kept conditions, then averaged over
experiments. In those data every observer saw every image once, so the order of the first two means does not matter;
counting each observer's mean over partners before averaging over observers, or all conditions of all experiments alike,
gives other numbers.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product

import numpy as np
import xarray as xr

from neural_fits.behavior.confusions import confusion_divergence, confusion_matrix
from neural_fits.behavior.exclusions import keep_conditions
from neural_fits.behavior.measures import (
    accuracy,
    accuracy_difference,
    error_consistency,
    kappa_bounds,
    observed_consistency,
    reaction_time_relation,
    shape_bias,
)
from neural_fits.behavior.trials import fraction_correct

#: Measures of two observers from their right answers (image,), by name.
PAIRWISE = {
    "accuracy_difference": accuracy_difference,
    "observed_consistency": observed_consistency,
    "error_consistency": error_consistency,
}


def observer_table(trials: xr.Dataset) -> xr.Dataset:
    """Measures of each observer.

    Parameters
    ----------
    trials : xarray.Dataset
        As :func:`neural_fits.behavior.trials.trials_from_columns` gives it.

    Returns
    -------
    xarray.Dataset
        ``accuracy`` (observer, condition); ``overall_accuracy`` and mean ``reaction_time_s`` (observer), over all
        trials that have one; ``shape_bias`` (observer) for cue-conflict pictures. NaN where there was no trial.

    Examples
    --------
    >>> from neural_fits.behavior.trials import trials_from_columns
    >>> columns = {"observer": ["a", "a"], "image": ["dog1-cat2", "cat1-dog3"], "condition": ["0", "0"]}
    >>> trials = trials_from_columns(response=["dog", "dog"], category=["dog", "cat"], **columns)
    >>> table = observer_table(trials)
    >>> table.overall_accuracy.item(), table.shape_bias.item()
    (0.5, 0.5)
    """
    others = [dim for dim in trials.correct.dims if dim != "observer"]
    table = xr.Dataset(
        {
            "accuracy": trials.correct.mean([dim for dim in others if dim != "condition"]),
            "overall_accuracy": trials.correct.mean(others),
            "reaction_time_s": trials.reaction_time_s.mean(others),
        }
    )
    if "texture" in trials.coords:
        table["shape_bias"] = ("observer", [_shape_bias(trials.sel(observer=[one])) for one in trials.observer.values])
    return table


def pooled_shape_bias(trials: xr.Dataset) -> float:
    """Shape bias of the decisions of all observers together, which weights them by how often they decide for a cue.

    Parameters
    ----------
    trials : xarray.Dataset
        Of cue-conflict pictures.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the pictures are not named as cue-conflict pictures are.
    """
    if "texture" not in trials.coords:
        raise ValueError("the images have no texture category; expected cue-conflict names such as dog10-bird2.")
    return _shape_bias(trials)


def _shape_bias(trials: xr.Dataset) -> float:
    response, shape, texture = xr.broadcast(trials.response, trials.category, trials.texture)
    return shape_bias(response.values, shape.values, texture.values)


def pair_table(first: xr.Dataset, second: xr.Dataset | None = None) -> xr.Dataset:
    """Measures of every pair of observers in every condition, over the images that both saw.

    Parameters
    ----------
    first : xarray.Dataset
    second : xarray.Dataset, optional
        Of the same experiment: each observer of one is paired with each of the other. Default: the observers of
        ``first`` among themselves, each pair once.

    Returns
    -------
    xarray.Dataset
        ``accuracy_difference``, ``observed_consistency``, ``error_consistency``, the bounds ``kappa_low`` and
        ``kappa_high`` that the two accuracies set, and ``n_images``, all (pair, condition); coordinates ``observer_a``
        and ``observer_b`` of the pairs. NaN where no image was seen by both. A single observer gives no pair.

    Raises
    ------
    ValueError
        If the two share no image and condition, or give an image different categories.

    Examples
    --------
    >>> from neural_fits.behavior.trials import trials_from_columns
    >>> columns = {"observer": list("aaabbb"), "image": ["dog1", "dog2", "cat1"] * 2, "condition": ["0"] * 6}
    >>> response = ["dog", "dog", "dog", "dog", "cat", "dog"]
    >>> trials = trials_from_columns(response=response, category=["dog", "dog", "cat"] * 2, **columns)
    >>> table = pair_table(trials)
    >>> table.error_consistency.values.round(2), table.observed_consistency.values.round(2)
    (array([[0.4]]), array([[0.67]]))
    """
    a = fraction_correct(first)
    b = a
    if second is not None:
        a, b = xr.align(a, fraction_correct(second), join="inner", exclude=["observer"])
        if a.sizes["image"] == 0 or a.sizes["condition"] == 0:
            raise ValueError("the two tables share no image and condition; expected trials of one experiment.")
        differ = a.image.values[a.category.values != b.category.values]
        if len(differ):
            raise ValueError(f"image {str(differ[0])!r} has two categories; expected the same in both tables.")
    names = (a.observer.values.tolist(), b.observer.values.tolist())
    pairs = list(combinations(range(len(names[0])), 2) if second is None else product(*map(range, map(len, names))))
    correct_a, correct_b = (values.transpose("observer", "condition", "image").values for values in (a, b))
    columns = [*PAIRWISE, "kappa_low", "kappa_high", "n_images"]
    found = np.full((len(columns), len(pairs), a.sizes["condition"]), np.nan)
    for row, (i, j) in enumerate(pairs):
        for column in range(a.sizes["condition"]):
            x, y = correct_a[i, column], correct_b[j, column]
            seen = ~np.isnan(x) & ~np.isnan(y)
            bounds = kappa_bounds(accuracy(x[seen]), accuracy(y[seen])) if seen.any() else (np.nan, np.nan)
            measures = [measure(x, y) for measure in PAIRWISE.values()]
            found[:, row, column] = [*measures, *bounds, seen.sum()]
    return xr.Dataset(
        {name: (("pair", "condition"), values) for name, values in zip(columns, found, strict=True)},
        coords={
            "observer_a": ("pair", np.array([names[0][i] for i, _ in pairs], dtype=str)),
            "observer_b": ("pair", np.array([names[1][j] for _, j in pairs], dtype=str)),
            "condition": a.condition.values,
        },
    )


def compare_experiments(
    first: Mapping[str, xr.Dataset],
    second: Mapping[str, xr.Dataset] | None = None,
    *,
    rule: str | Mapping[str, Sequence[str]] = "geirhos2021",
) -> xr.Dataset:
    """Measures of each experiment: of people among themselves (the ceiling), or between models and people.

    Parameters
    ----------
    first : mapping of name to xarray.Dataset
        Trials of people, to which the rule is applied.
    second : mapping of name to xarray.Dataset, optional
        Trials of a model in the same experiments; each of its observers is compared with each person. Default: people
        among themselves.
    rule : str or mapping
        Conditions left out, as in :func:`neural_fits.behavior.exclusions.kept_conditions`.

    Returns
    -------
    xarray.Dataset
        ``accuracy`` (of ``second`` where given, over all trials of kept conditions), ``accuracy_difference``,
        ``observed_consistency``, ``error_consistency`` (experiment): mean over conditions, then pairs. Their means over
        the experiments are the numbers of the benchmark.

    Raises
    ------
    ValueError
        If an experiment of ``second`` has no trials of people.

    Examples
    --------
    >>> from neural_fits.behavior.trials import trials_from_columns
    >>> columns = {"observer": list("aabb"), "image": ["dog1", "cat1"] * 2, "condition": ["0"] * 4, "name": "edge"}
    >>> trials = trials_from_columns(response=["dog", "dog"] * 2, category=["dog", "cat"] * 2, **columns)
    >>> {name: float(value) for name, value in compare_experiments({"edge": trials}).mean("experiment").items()}
    {'accuracy': 0.5, 'accuracy_difference': 0.0, 'observed_consistency': 1.0, 'error_consistency': 1.0}
    """
    names = list(first if second is None else second)
    missing = [name for name in names if name not in first]
    if missing or not names:
        raise ValueError(f"experiment {(missing or ['(none)'])[0]} has no trials of people; it has {', '.join(first)}.")
    rows = []
    for name in names:
        people = keep_conditions(first[name].assign_attrs(name=name), rule=rule)
        others = None
        if second is not None:
            kept = [label for label in second[name].condition.values if label in people.condition.values]
            others = second[name].sel(condition=kept)
        pairs = pair_table(people, others)
        measured = {key: float(pairs[key].mean("condition").mean("pair")) for key in PAIRWISE}
        rows.append({"accuracy": accuracy((people if others is None else others).correct.values), **measured})
    columns = {key: ("experiment", np.array([row[key] for row in rows])) for key in rows[0]}
    return xr.Dataset(columns, coords={"experiment": np.array(names)})


def confusion_ceiling(trials: xr.Dataset, *, categories: Sequence[str], errors_only: bool = False) -> float:
    """Mean divergence of the confusion matrices of every pair of observers.

    Parameters
    ----------
    trials : xarray.Dataset
    categories : sequence of str
    errors_only : bool
        As in :func:`neural_fits.behavior.confusions.confusion_divergence`.

    Returns
    -------
    float
        In bits; NaN for a single observer.

    Examples
    --------
    >>> from neural_fits.behavior.trials import trials_from_columns
    >>> columns = {"observer": ["a", "b"], "image": ["dog1"] * 2, "condition": ["0"] * 2, "category": ["dog"] * 2}
    >>> confusion_ceiling(trials_from_columns(response=["dog", "cat"], **columns), categories=["cat", "dog"])
    1.0
    """
    matrices = []
    for one in trials.observer.values:
        response, category = xr.broadcast(trials.response.sel(observer=one), trials.category)
        matrices.append(confusion_matrix(response.values, category.values, categories=categories))
    return _mean([confusion_divergence(a, b, errors_only=errors_only) for a, b in combinations(matrices, 2)])


def reaction_time_ceiling(trials: xr.Dataset, *, method: str = "spearman") -> float:
    """Mean correlation, over pairs of observers and conditions, of their reaction times to the same images.

    Parameters
    ----------
    trials : xarray.Dataset
    method : {"spearman", "pearson"}

    Returns
    -------
    float
        NaN for a single observer.
    """
    times = trials.reaction_time_s.mean("repeat") if "repeat" in trials.dims else trials.reaction_time_s
    times = times.transpose("condition", "observer", "image").values
    return _mean([reaction_time_relation(a, b, method=method) for of in times for a, b in combinations(of, 2)])


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
