"""The 1,000 ImageNet classes, the 16 basic-level categories made of 207 of them, and probabilities of categories.

The 16 categories are those of Microsoft COCO for which ImageNet has classes below them in WordNet (Geirhos et al. 2018,
*NeurIPS* 31). `imagenet_classes.txt` lists the WordNet ids of the classes of ILSVRC 2012 in sorted order, which is the
order of the outputs of networks trained on it (Russakovsky et al. 2015, *IJCV* 115:211-252), each with its category
where it has one (github.com/bethgelab/model-vs-human, `human_categories.py`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

#: The 16 categories in alphabetical order, which is the order of all arrays of categories here.
CATEGORIES = (
    "airplane",
    "bear",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "car",
    "cat",
    "chair",
    "clock",
    "dog",
    "elephant",
    "keyboard",
    "knife",
    "oven",
    "truck",
)

#: How the probabilities of the classes of a category become one number, by name: functions of (..., class).
AGGREGATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda probabilities: probabilities.mean(-1),
    "max": lambda probabilities: probabilities.max(-1),
    "sum": lambda probabilities: probabilities.sum(-1),
}


@functools.cache
def _classes() -> tuple[tuple[str, ...], ...]:
    lines = (Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return tuple(tuple(line.split()) for line in lines)


def imagenet_classes() -> tuple[str, ...]:
    """WordNet ids of the 1,000 ImageNet classes, in the order of the outputs of networks.

    Returns
    -------
    tuple of str, (1000,)

    Examples
    --------
    >>> classes = imagenet_classes()
    >>> len(classes), classes[0], classes[217]  # tench, English springer
    (1000, 'n01440764', 'n02102040')
    """
    return tuple(entry[0] for entry in _classes())


def category_members() -> dict[str, tuple[str, ...]]:
    """WordNet ids of the ImageNet classes of each of the 16 categories.

    Returns
    -------
    dict of str to tuple of str
        207 ids in all; from 1 (airplane, knife, oven) to 109 (dog).

    Examples
    --------
    >>> members = category_members()
    >>> members["keyboard"], sum(map(len, members.values()))
    (('n03085013', 'n04505470'), 207)
    """
    members: dict[str, list[str]] = {category: [] for category in CATEGORIES}
    for entry in _classes():
        if len(entry) > 1:
            members[entry[1]].append(entry[0])
    return {category: tuple(ids) for category, ids in members.items()}


def category_columns(
    classes: Sequence[str] | None = None, *, members: Mapping[str, Sequence[str]] | None = None
) -> dict[str, np.ndarray]:
    """Columns of each category in a table whose columns are classes.

    Parameters
    ----------
    classes : sequence of str, optional
        Name of each column; default the 1,000 ImageNet classes.
    members : mapping of category to class names, optional
        Default the 16 categories.

    Returns
    -------
    dict of str to ndarray of int

    Raises
    ------
    ValueError
        If a class is named twice, or a category has none of its classes among the columns.

    Examples
    --------
    >>> category_columns()["bear"]
    array([294, 295, 296, 297])
    >>> category_columns(["cab", "pug", "beagle"], members={"dog": ["beagle", "pug"]})
    {'dog': array([1, 2])}
    """
    classes = imagenet_classes() if classes is None else [str(name) for name in classes]
    members = category_members() if members is None else members
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise ValueError(f"class {twice!r} names more than one column; expected each class once.")
    columns = {}
    for category, names in members.items():
        wanted = set(names)
        columns[category] = np.array([i for i, name in enumerate(classes) if name in wanted], dtype=int)
        if len(columns[category]) == 0:
            raise ValueError(
                f"category {category!r} has no class among the {len(classes)} columns; give the categories that can be "
                "told apart as members."
            )
    return columns


def category_probabilities(
    probabilities,
    *,
    classes: Sequence[str] | None = None,
    members: Mapping[str, Sequence[str]] | None = None,
    aggregation: str = "mean",
) -> np.ndarray:
    """Probability of each category from probabilities of any number of classes.

    The mean within a category is what Geirhos et al. (2021, *NeurIPS* 34) recommend: it favours neither large
    categories, as the sum does (109 dogs, one knife), nor those with one confident class, as the maximum does. The
    numbers of the 16 categories are not normalised, since classes outside them keep their share.

    Parameters
    ----------
    probabilities : array, (..., class)
        After the softmax, over all classes.
    classes : sequence of str, optional
        Name of each column; default the 1,000 ImageNet classes by WordNet id.
    members : mapping of category to class names, optional
        Default the 16 categories.
    aggregation : {"mean", "max", "sum"}

    Returns
    -------
    ndarray, (..., category)
        In the order of ``members``, for the 16 that of ``CATEGORIES``.

    Raises
    ------
    ValueError
        If numbers are outside [0, 1], columns and classes differ in number, or the aggregation is unknown.

    Examples
    --------
    >>> members = {"dog": ["beagle", "pug"], "car": ["cab"]}
    >>> category_probabilities([0.3, 0.5, 0.2], classes=["beagle", "cab", "pug"], members=members)
    array([0.25, 0.5 ])
    >>> category_probabilities([0.3, 0.5, 0.2], classes=["beagle", "cab", "pug"], members=members, aggregation="sum")
    array([0.5, 0.5])
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation is {aggregation!r}; expected one of {', '.join(AGGREGATIONS)}.")
    columns = category_columns(classes, members=members)
    n_classes = len(imagenet_classes() if classes is None else classes)
    if probabilities.ndim == 0 or probabilities.shape[-1] != n_classes:
        raise ValueError(f"probabilities have shape {probabilities.shape}; expected (..., class) with {n_classes}.")
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise ValueError("probabilities hold numbers outside [0, 1]; apply the softmax to logits first.")
    return np.stack([AGGREGATIONS[aggregation](probabilities[..., where]) for where in columns.values()], -1)


def category_choices(
    probabilities,
    *,
    classes: Sequence[str] | None = None,
    members: Mapping[str, Sequence[str]] | None = None,
    aggregation: str = "mean",
) -> np.ndarray:
    """Most probable category of each picture.

    Parameters
    ----------
    probabilities, classes, members, aggregation
        As in :func:`category_probabilities`.

    Returns
    -------
    ndarray of str, (...)
        Of equal ones the first.

    Examples
    --------
    >>> probabilities = np.zeros((2, 1000))
    >>> probabilities[0, 404] = probabilities[1, 294:298] = 0.2  # airliner; four bears
    >>> category_choices(probabilities).tolist()
    ['airplane', 'bear']
    """
    found = category_probabilities(probabilities, classes=classes, members=members, aggregation=aggregation)
    return np.array(list(category_members() if members is None else members))[found.argmax(-1)]
