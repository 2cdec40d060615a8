"""Which conditions are left out of summaries over experiments, by named rules that can be changed.

A rule maps experiments to the conditions left out. The published one (Geirhos et al. 2021, *NeurIPS* 34,
model-vs-human `plot.py`) joins two: pictures that are not distorted, which say nothing on generalisation, and
conditions in which people are right at most once in five, where consistency means little (chance is 1/16).

A label is compared by value: ``"0.0"`` stands for `0.00` and ``"True"`` for `true`, as the two are written in the rule
and in the files.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import xarray as xr

from neural_fits.behavior.trials import fraction_correct

UNDISTORTED: dict[str, tuple[str, ...]] = {
    "colour": ("cr",),
    "contrast": ("c100",),
    "high-pass": ("inf",),
    "low-pass": ("0",),
    "phase-scrambling": ("0",),
    "power-equalisation": ("0",),
    "false-colour": ("True",),
    "rotation": ("0",),
    "eidolonI": ("1-10-10",),
    "eidolonII": ("1-3-10",),
    "eidolonIII": ("1-0-10",),
    "uniform-noise": ("0.0",),
}

NEAR_CHANCE: dict[str, tuple[str, ...]] = {
    "contrast": ("c03", "c01"),
    "high-pass": ("0.55", "0.45", "0.4"),
    "low-pass": ("15", "40"),
    "phase-scrambling": ("150", "180"),
    "eidolonI": ("64-10-10", "128-10-10"),
    "eidolonII": ("32-3-10", "64-3-10", "128-3-10"),
    "eidolonIII": ("16-0-10", "32-0-10", "64-0-10", "128-0-10"),
    "uniform-noise": ("0.6", "0.9"),
}

_BOTH = {name: UNDISTORTED[name] + NEAR_CHANCE.get(name, ()) for name in UNDISTORTED}

#: Rules by name. ``geirhos2021_as_text`` is the published list with its labels taken as text: it misses `0.00`, `0.60`
#: and `0.90` of uniform-noise and `true` of false-colour, so four conditions stay in that the authors left out.
EXCLUSIONS: dict[str, Mapping[str, Sequence[str]]] = {
    "none": {},
    "undistorted": UNDISTORTED,
    "near_chance": NEAR_CHANCE,
    "geirhos2021": _BOTH,
    "geirhos2021_as_text": {
        name: tuple(label for label in labels if label not in ("0.0", "0.6", "0.9", "True"))
        for name, labels in _BOTH.items()
    },
}


def label_value(label: object) -> str | float:
    """What a label of a condition stands for: a number, or text whose case does not matter.

    Parameters
    ----------
    label : object
        Its text counts.

    Returns
    -------
    str or float

    Examples
    --------
    >>> label_value("0.60"), label_value("True"), label_value(3)
    (0.6, 'true', 3.0)
    """
    try:
        return float(str(label))
    except ValueError:
        return str(label).casefold()


def level_value(label: str) -> str | float:
    """Level of the distortion in the label of a condition, which may say more.

    Parameters
    ----------
    label : str
        Such as ``c30`` (contrast) or ``4-10-10`` (reach, coherence and grain of an eidolon).

    Returns
    -------
    str or float

    Examples
    --------
    >>> level_value("c30"), level_value("4-10-10"), level_value("cr")
    (30.0, 4.0, 'cr')
    """
    return label_value(re.sub(r"^c(?=\d)", "", label).partition("-")[0])


def kept_conditions(
    experiment: str, conditions: Iterable[str], *, rule: str | Mapping[str, Sequence[str]] = "geirhos2021"
) -> list[str]:
    """Conditions of an experiment that a rule keeps.

    Parameters
    ----------
    experiment : str
    conditions : iterable of str
    rule : str or mapping of experiment to conditions left out
        A name in ``EXCLUSIONS``, or your own, which may start from one: ``UNDISTORTED | {"edge": ["0"]}``.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If there is no such rule, or it leaves out a condition that the experiment does not have.

    Examples
    --------
    >>> kept_conditions("uniform-noise", ["0.00", "0.03", "0.60", "0.90"])
    ['0.03']
    """
    if isinstance(rule, str):
        if rule not in EXCLUSIONS:
            raise ValueError(f"rule is {rule!r}; expected one of {', '.join(EXCLUSIONS)}, or a mapping.")
        rule = EXCLUSIONS[rule]
    conditions = [str(label) for label in conditions]
    unknown = {label_value(label) for label in rule.get(experiment, ())}
    kept = [label for label in conditions if label_value(label) not in unknown]
    unknown -= {label_value(label) for label in conditions}
    if unknown:
        raise ValueError(
            f"the rule leaves out condition {next(iter(unknown))!r} of {experiment}, which has {', '.join(conditions)}."
        )
    return kept


def near_chance(trials: xr.Dataset, *, threshold: float = 0.2) -> tuple[str, ...]:
    """Conditions in which the observers together are right in at most a share of their trials.

    With 0.2 this gives ``NEAR_CHANCE`` from the trials of model-vs-human; low-pass 15 is right in exactly 0.2 and is
    left out by the authors.

    Parameters
    ----------
    trials : xarray.Dataset
        Of people.
    threshold : float

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> from neural_fits.behavior.trials import trials_from_columns
    >>> columns = {"observer": ["a"] * 4, "image": ["dog1", "dog2"] * 2, "category": ["dog"] * 4}
    >>> response = ["dog", "cat", "cat", "na"]
    >>> near_chance(trials_from_columns(condition=["1", "1", "9", "9"], response=response, **columns))
    ('9',)
    """
    dims = [dim for dim in trials.correct.dims if dim != "condition"]
    accuracy = trials.correct.mean(dims)
    return tuple(str(label) for label in accuracy.condition.values[accuracy.values <= threshold + 1e-12])


def keep_conditions(trials: xr.Dataset, *, rule: str | Mapping[str, Sequence[str]] = "geirhos2021") -> xr.Dataset:
    """Trials of the conditions that a rule keeps, and of the images that were shown in them.

    Parameters
    ----------
    trials : xarray.Dataset
        Its attribute ``name`` is the experiment.
    rule : str or mapping
        As in :func:`kept_conditions`.

    Returns
    -------
    xarray.Dataset

    Examples
    --------
    >>> from neural_fits.behavior.trials import trials_from_columns
    >>> columns = {"observer": ["a", "a"], "image": ["dog1", "dog2"], "category": ["dog"] * 2, "response": ["dog"] * 2}
    >>> keep_conditions(trials_from_columns(condition=["cr", "bw"], name="colour", **columns)).image.values.tolist()
    ['dog2']
    """
    kept = trials.sel(condition=kept_conditions(trials.attrs["name"], trials.condition.values, rule=rule))
    shown = fraction_correct(kept).notnull().any(["observer", "condition"])
    return kept.isel(image=shown.values)
