"""Decisions of models on cue-conflict pictures, beside those of people: shape bias and error consistency.

A model without a classifier names the 16 categories by a read-out (:mod:`neural_fits.behavior.readout`) of one layer.
What is measured is then the layer and its read-out together, and the accuracy of the read-out for held-out images says
how much there is to measure: observers at chance agree with nobody beyond chance, and have a shape bias near 0.5.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from sklearn.model_selection import GroupKFold

from neural_fits.behavior.categories import CATEGORIES
from neural_fits.behavior.measures import accuracy, error_consistency, expected_consistency
from neural_fits.behavior.observers import pooled_shape_bias
from neural_fits.behavior.trials import fraction_correct
from neural_fits.bootstrap import percentile_interval, resampled_counts


def balanced_choices(readout: Any, features, labels) -> np.ndarray:
    """Label with the highest probability over its share among the training images.

    The read-out has learned how frequent the categories were; dividing by that gives the choices for pictures of which
    all categories are equally many (Bayes' rule with another prior).

    Parameters
    ----------
    readout : object
        Fitted, with ``predict_proba`` and ``classes_``.
    features : array, (image, feature)
    labels : array, (training image,)
        What it was fitted to.

    Returns
    -------
    ndarray, (image,)

    Examples
    --------
    >>> from neural_fits.behavior.readout import NeighbourReadout
    >>> X, y = np.array([[0.0], [0.1], [0.2], [0.3], [0.4]]), np.array(["car", "car", "car", "car", "cat"])
    >>> readout = NeighbourReadout([4], metric="euclidean").fit(X, y)
    >>> readout.predict([[0.4]]).tolist(), balanced_choices(readout, [[0.4]], y).tolist()
    (['car'], ['cat'])
    """
    share = np.array([np.mean(np.asarray(labels) == name) for name in readout.classes_])
    return readout.classes_[(readout.predict_proba(features) / share).argmax(1)]


class HeldOut(NamedTuple):
    """Choices for images whose photograph the read-out was not fitted to.

    Attributes
    ----------
    choices : ndarray of str, (image,)
    accuracy : float
        Share of right choices.
    balanced_accuracy : float
        Mean over categories of it, of which chance is one over the number of categories.
    """

    choices: np.ndarray
    accuracy: float
    balanced_accuracy: float


def held_out_choices(make: Callable[[], Any], features, labels, photo, *, folds: int = 5) -> HeldOut:
    """Choices for each training image of a read-out fitted without its photograph.

    Parameters
    ----------
    make : callable
        Makes an unfitted read-out, such as an entry of ``READOUTS``.
    features : array, (image, feature)
    labels : array of str, (image,)
    photo : array, (image,)
        Images of one photograph are held out together.
    folds : int

    Returns
    -------
    HeldOut
        A category whose photographs are all held out at once cannot be chosen, which counts as wrong.

    Raises
    ------
    ValueError
        If there are fewer photographs than folds.

    Examples
    --------
    >>> from neural_fits.behavior.readout import PrototypeReadout
    >>> X = np.eye(2)[np.tile([0, 1], 10)] + 0.01 * np.random.default_rng(0).standard_normal((20, 2))
    >>> held_out_choices(PrototypeReadout, X, np.tile(["cat", "dog"], 10), np.arange(20)).balanced_accuracy
    1.0
    """
    features, labels, photo = np.asarray(features), np.asarray(labels), np.asarray(photo)
    n_photos = len(np.unique(photo))
    if n_photos < folds:
        raise ValueError(f"there are {n_photos} photographs; expected one for each of {folds} folds at least.")
    choices = np.empty_like(labels)
    for train, test in GroupKFold(folds).split(features, labels, photo):
        choices[test] = balanced_choices(make().fit(features[train], labels[train]), features[test], labels[train])
    right = choices == labels
    return HeldOut(choices, float(right.mean()), float(np.mean([right[labels == name].mean() for name in set(labels)])))


def alignment_table(
    people: xr.Dataset,
    models: xr.Dataset,
    *,
    categories: Sequence[str] = CATEGORIES,
    n_resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Shape bias, accuracy and error consistency of models and of every person, with intervals over pictures.

    Parameters
    ----------
    people, models : xarray.Dataset
        Trials of one experiment with cue-conflict pictures and one condition; pictures are those that both have.
    categories : sequence of str
    n_resamples, seed : int
        Of the pictures, drawn with replacement, the same draw for all observers.

    Returns
    -------
    xarray.Dataset
        For each observer (people, then models; coordinate ``kind``): ``accuracy`` (the shape counts as right),
        ``shape_bias`` and ``mean_error_consistency`` (with people; of a person with the others), each with an interval
        ``..._interval`` (observer, bound); ``cue_share``, the share of pictures with a conflict at which a cue was
        named; ``accuracy_without_conflict``, for pictures with one category as shape and texture;
        ``error_consistency`` (observer, person), NaN with oneself; ``category_accuracy`` and ``category_shape_bias``
        (observer, category), by the category of the shape; ``answered`` (observer, category), how often each was the
        answer. Of people among themselves: ``ceiling`` with
        ``ceiling_interval`` and ``ceiling_range`` (the lowest and highest pair), and ``people_category_accuracy``,
        ``people_category_shape_bias`` (category), ``people_shape_bias`` of all decisions together.

    Raises
    ------
    ValueError
        If they share no picture, a picture differs in category, pictures have no texture category, there is more than
        one condition, or fewer than two people.

    Examples
    --------
    >>> from neural_fits.behavior.trials import trials_from_columns
    >>> pictures, shapes = ["cat1-dog1", "cat2-dog1", "dog1-cat1", "dog2-cat2"], ["cat", "cat", "dog", "dog"]
    >>> def trials(**answers):
    ...     columns = [(who, *row) for who, said in answers.items() for row in zip(pictures, shapes, said)]
    ...     who, image, category, response = zip(*columns)
    ...     return trials_from_columns(
    ...         observer=who, image=image, category=category, response=response, condition=["0"] * len(who)
    ...     )
    >>> people = trials(a=["cat", "cat", "dog", "cat"], b=["cat", "cat", "dog", "cat"])
    >>> table = alignment_table(people, trials(net=["dog", "dog", "cat", "dog"]), categories=["cat", "dog"])
    >>> table.shape_bias.values, table.mean_error_consistency.sel(observer="net").item(), table.ceiling.item()
    (array([0.75, 0.75, 0.25]), -0.6, 1.0)
    """
    for trials in (people, models):
        if "texture" not in trials.coords:
            raise ValueError("the images have no texture category; expected cue-conflict names such as dog10-bird2.")
        if trials.sizes["condition"] != 1:
            raise ValueError(f"the trials have {trials.sizes['condition']} conditions; expected one.")
    if people.sizes["observer"] < 2:
        raise ValueError("there is one person; expected two at least, whose agreement is the ceiling.")
    shared = [name for name in people.image.values if name in set(models.image.values.tolist())]
    if not shared:
        raise ValueError("people and models share no image; expected trials on the same pictures.")
    people, models = (each.sel(image=shared).isel(condition=0) for each in (people, models))
    category, texture = people.category.values, people.texture.values
    if (models.category.values != category).any():
        differs = shared[int((models.category.values != category).argmax())]
        raise ValueError(f"image {differs!r} has two categories; expected the same in both tables.")
    names = [*people.observer.values.tolist(), *models.observer.values.tolist()]
    if len(set(names)) < len(names):
        raise ValueError(f"observers {', '.join(names)} are not all different; rename the models.")
    n_people, n = people.sizes["observer"], len(shared)
    correct = np.concatenate(
        [fraction_correct(each).transpose("observer", "image").values for each in (people, models)]
    )
    shape, by_texture = (
        np.concatenate([_named(each, cue) for each in (people, models)]) * (category != texture)
        for cue in ("category", "texture")
    )
    counts = resampled_counts(n, n_resamples=n_resamples, seed=seed)

    def interval(statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """Of a function of how often each picture is taken, (draw, image) to (draw,)."""
        estimate = float(statistic(np.ones((1, n)))[0])
        if np.isnan(estimate):
            return float("nan"), float("nan")
        return percentile_interval(statistic(counts), estimate=estimate, jackknife=statistic(1 - np.eye(n)))

    seen = np.isfinite(correct).astype(float)
    filled = np.nan_to_num(correct)
    pairs = np.full((len(names), n_people), np.nan)
    for i in range(len(names)):
        for j in range(n_people):
            if i != j:
                pairs[i, j] = error_consistency(correct[i], correct[j], undefined=float("nan"))

    def kappas(i: int, partners: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
        def statistic(taken: np.ndarray) -> np.ndarray:
            found = []
            for j in partners:
                both = seen[i] * seen[j]
                a, b = filled[i], filled[j]
                size, p, q, agree = (taken @ (both * x) for x in (np.ones(n), a, b, a * b + (1 - a) * (1 - b)))
                with np.errstate(invalid="ignore", divide="ignore"):
                    expected = expected_consistency(p / size, q / size)
                    found.append(np.where(expected < 1, (agree / size - expected) / (1 - expected), np.nan))
            return _mean(np.array(found), 0)

        return statistic

    others = [[j for j in range(n_people) if j != i] for i in range(len(names))]
    upper = np.triu_indices(n_people, 1)
    per_person = [kappas(i, others[i]) for i in range(n_people)]
    agreement = pairs[:n_people][upper]
    by_category: dict[str, list[list[float]]] = {"category_accuracy": [], "category_shape_bias": []}
    groups = [category == name for name in categories]
    for i in range(len(names)):
        by_category["category_accuracy"].append([accuracy(correct[i, group]) for group in groups])
        by_category["category_shape_bias"].append(
            [_ratio(shape[i, group].sum(), by_texture[i, group].sum()) for group in groups]
        )
    plain = category == texture
    table = xr.Dataset(
        {
            "accuracy": ("observer", [accuracy(row) for row in correct]),
            "accuracy_interval": (
                ("observer", "bound"),
                [interval(lambda w, i=i: (w @ filled[i]) / (w @ seen[i])) for i in range(len(names))],
            ),
            "shape_bias": ("observer", [_ratio(shape[i].sum(), by_texture[i].sum()) for i in range(len(names))]),
            "shape_bias_interval": (
                ("observer", "bound"),
                [interval(lambda w, i=i: _ratios(w @ shape[i], w @ by_texture[i])) for i in range(len(names))],
            ),
            "cue_share": ("observer", (shape + by_texture).sum(1) / (seen * ~plain).sum(1)),
            "accuracy_without_conflict": ("observer", [accuracy(row[plain]) for row in correct]),
            "error_consistency": (("observer", "person"), pairs),
            "mean_error_consistency": ("observer", _mean(pairs, 1)),
            "mean_error_consistency_interval": (
                ("observer", "bound"),
                [interval(kappas(i, others[i])) for i in range(len(names))],
            ),
            "ceiling": ((), float(_mean(agreement, 0))),
            "ceiling_interval": (
                "bound",
                list(interval(lambda w: _mean(np.array([statistic(w) for statistic in per_person]), 0))),
            ),
            "ceiling_range": ("bound", [np.min(agreement), np.max(agreement)]),
            "people_shape_bias": ((), pooled_shape_bias(people)),
            "answered": (
                ("observer", "category"),
                np.concatenate([_answered(each, categories) for each in (people, models)]),
            ),
            **{key: (("observer", "category"), values) for key, values in by_category.items()},
        },
        coords={
            "observer": np.array(names),
            "kind": ("observer", np.array(["person"] * n_people + ["model"] * (len(names) - n_people))),
            "person": np.array(names[:n_people]),
            "category": np.array(list(categories)),
            "bound": np.array(["low", "high"]),
        },
        attrs={"n_images": n, "n_conflict": int((~plain).sum()), "n_resamples": n_resamples, "seed": seed},
    )
    table["people_category_accuracy"] = ("category", [accuracy(correct[:n_people, group]) for group in groups])
    table["people_category_shape_bias"] = (
        "category",
        [_ratio(shape[:n_people, group].sum(), by_texture[:n_people, group].sum()) for group in groups],
    )
    return table


def _named(trials: xr.Dataset, cue: str) -> np.ndarray:
    """How often each observer named the shape or texture of each image, (observer, image)."""
    response, right = xr.broadcast(trials.response, trials[cue])
    named = (response == right).astype(np.float64)
    named = named.sum("repeat") if "repeat" in named.dims else named
    return named.transpose("observer", "image").values


def _answered(trials: xr.Dataset, categories: Sequence[str]) -> np.ndarray:
    """Share of the trials of each observer at which each category was the answer, (observer, category)."""
    said = trials.response.transpose("observer", ...).values.reshape(trials.sizes["observer"], -1)
    return np.stack([[(row == name).sum() / (row != "").sum() for name in categories] for row in said])


def _ratios(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(a / (a + b))


def _ratio(a: float, b: float) -> float:
    return float(a / (a + b)) if a + b else float("nan")


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of the defined ones, NaN where there is none."""
    number = np.isfinite(values).sum(axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(values, axis) / number
