"""Figures of behaviour: shape bias and accuracy by category, error consistency, accuracy under distortions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neural_fits.behavior.measures import accuracy
from stimuli.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, WIDTH_IN, plain, styled

#: Colour and marker of each model, in turn; the second half, of the same colours, has open markers.
LOOKS: list[tuple[str, str]] = [
    (colour, marker)
    for colour, marker in zip((BLUE, GREEN, ORANGE, PURPLE, SKY, GREY) * 2, "s^DvPX<>ph*d", strict=True)
]


def _models(table: xr.Dataset) -> list[str]:
    return [str(name) for name in table.observer.values[table.kind.values == "model"]]


@styled
def shape_bias_dots(table: xr.Dataset) -> Figure:
    """Share of shape among decisions for a cue, by category of the shape, as Geirhos et al. (2019, fig. 4) draw it.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`neural_fits.behavior.alignment.alignment_table`.

    Returns
    -------
    Figure
        A dot for each category and model, and for the decisions of all people together; lines: over all categories,
        with the interval over pictures at the top. Texture is on the right.
    """
    figure = _category_dots(table, "shape_bias", float(table.people_shape_bias))
    axes = figure.axes[0]
    axes.set(xlim=(1.03, -0.03), xlabel="share of shape decisions (left: all shape; right: all texture)")
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    return figure


@styled
def accuracy_dots(table: xr.Dataset) -> Figure:
    """Share of pictures named by their shape, by category of the shape.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`neural_fits.behavior.alignment.alignment_table`.

    Returns
    -------
    Figure
    """
    people = table.accuracy.values[table.kind.values == "person"]
    figure = _category_dots(table, "accuracy", float(people.mean()))
    axes = figure.axes[0]
    axes.set(xlim=(-0.03, 1.03), xlabel="share of pictures named by their shape (dotted: chance)")
    axes.axvline(1 / table.sizes["category"], color=GREY, linewidth=0.8, linestyle=":")
    return figure


def _category_dots(table: xr.Dataset, measure: str, people: float) -> Figure:
    categories, models = [str(name) for name in table.category.values], _models(table)
    figure = Figure((WIDTH_IN, 1.6 + 0.25 * len(categories) + 0.18 * len(models)), layout="constrained")
    axes = figure.subplots()
    y = np.arange(len(categories))
    series: list[tuple[Any, ...]] = [
        ("people, all together", VERMILION, "o", people, None, table[f"people_category_{measure}"].values)
    ]
    for k, name in enumerate(models):
        row = table.sel(observer=name)
        ends = row[f"{measure}_interval"].values
        series.append((name, *LOOKS[k % len(LOOKS)], float(row[measure]), ends, row[f"category_{measure}"].values))
    for k, (name, colour, marker, overall, ends, values) in enumerate(series):
        fill = colour if k == 0 or (k - 1) % len(LOOKS) < len(LOOKS) // 2 else "white"
        dots = {"marker": marker, "color": colour, "markerfacecolor": fill}
        axes.plot(values, y, linestyle="", markersize=5.5, alpha=0.85, **dots)
        axes.axvline(overall, color=colour, linewidth=1.2, alpha=0.8)
        label = f"{plain(name)}: {overall:.2f}"
        if ends is not None:
            place = -1 - 0.35 * (k - 1)
            axes.plot(ends, [place, place], color=colour, linewidth=2)
            label += f" [{ends[0]:.2f}, {ends[1]:.2f}]"
        axes.plot([], [], label=label, **dots)
    axes.set_yticks(y, [plain(name) for name in categories])
    axes.set(ylim=(len(categories) - 0.4, -1.4 - 0.35 * max(0, len(models) - 1)), ylabel="category of the shape")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def error_consistency_bars(table: xr.Dataset) -> Figure:
    """Error consistency of every model with people, beside that of people with one another.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`neural_fits.behavior.alignment.alignment_table`.

    Returns
    -------
    Figure
        Bars: mean over people, with the interval over pictures; dots: each person, or each pair of people. Band: from
        the lowest to the highest pair of people.
    """
    models = _models(table)
    n_people = table.sizes["person"]
    pairs = table.error_consistency.values[:n_people][np.triu_indices(n_people, 1)]
    rows = [("people with one another", VERMILION, float(table.ceiling), table.ceiling_interval.values, pairs)]
    for k, name in enumerate(models):
        row = table.sel(observer=name)
        ends = row.mean_error_consistency_interval.values
        mean = float(row.mean_error_consistency)
        rows.append((name, LOOKS[k % len(LOOKS)][0], mean, ends, row.error_consistency.values))
    figure = Figure((WIDTH_IN, 1.3 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(*table.ceiling_range.values, color=VERMILION, alpha=0.12, linewidth=0)
    axes.axvline(float(table.ceiling), color=VERMILION, linewidth=1)
    for y, (_, colour, mean, ends, values) in enumerate(rows):
        axes.barh(y, mean, height=0.6, color=colour, alpha=0.55)
        axes.plot(values, y + np.linspace(-0.2, 0.2, len(values)), ".", color=colour, markersize=4)
        axes.plot(ends, [y, y], color="black", linewidth=1.5)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [plain(name) for name, *_ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("error consistency (kappa); 0: as observers who err independently")
    return figure


@styled
def accuracy_curves(
    rows: Sequence[Mapping[str, Any]], people: Mapping[str, xr.Dataset], *, chance: float, people_chance: float = 1 / 16
) -> Figure:
    """Accuracy of models against the level of distortions, with the curves of people and their spread.

    Parameters
    ----------
    rows : sequence of mapping
        model, distortion, level (text), accuracy; and condition, the label of the level in the trials of people, empty
        where there is none.
    people : mapping of distortion to xarray.Dataset
        Trials of people, on other pictures.
    chance, people_chance : float
        Of the models' and of people's choices.

    Returns
    -------
    Figure
        Line and band of people: mean, lowest and highest person.

    Raises
    ------
    ValueError
        If there are no rows.

    Examples
    --------
    >>> row = {"model": "net", "distortion": "contrast", "level": "50", "condition": "c50", "accuracy": 0.5}
    >>> accuracy_curves([row], {}, chance=0.1).axes[0].get_title()
    'contrast'
    """
    if not rows:
        raise ValueError("there are no rows; expected accuracy under one distortion at least.")
    names, models = (list(dict.fromkeys(row[key] for row in rows)) for key in ("distortion", "model"))
    n_columns = min(4, len(names))
    n_rows = -(-len(names) // n_columns)
    size = (WIDTH_IN if n_columns > 1 else 4.0, 2.0 * n_rows + 0.4 + 0.2 * len(models))
    figure = Figure(size, layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel().tolist()
    for spare in panels[len(names) :]:
        spare.remove()
    for number, (axes, name) in enumerate(zip(panels, names, strict=False)):
        here = [row for row in rows if row["distortion"] == name]
        levels = list(dict.fromkeys((row["level"], row["condition"]) for row in here))
        if name in people:
            seen = [(x, c) for x, (_, c) in enumerate(levels) if c in people[name].condition.values]
            by_person = np.array([[accuracy(o) for o in _right(people[name], c)] for _, c in seen])
            if len(seen):
                x = [place for place, _ in seen]
                axes.fill_between(x, by_person.min(1), by_person.max(1), color=VERMILION, alpha=0.2, linewidth=0)
                axes.plot(x, by_person.mean(1), color=VERMILION, marker="o", markersize=3.5)
        for k, model in enumerate(models):
            colour, marker = LOOKS[k % len(LOOKS)]
            values = {row["level"]: row["accuracy"] for row in here if row["model"] == model}
            y = [values.get(level, np.nan) for level, _ in levels]
            axes.plot(range(len(levels)), y, color=colour, marker=marker, markersize=3.5, linestyle="--")
        axes.axhline(chance, color=GREY, linewidth=0.8, linestyle=":")
        axes.axhline(people_chance, color=VERMILION, linewidth=0.8, linestyle=":")
        axes.set_xticks(range(len(levels)), [plain(level) for level, _ in levels], rotation=60)
        axes.set(title=plain(name), ylim=(0, 1))
        if number % n_columns == 0:
            axes.set_ylabel("accuracy")
        if number + n_columns >= len(names):
            axes.set_xlabel("level")
    handles = [Line2D([], [], color=VERMILION, marker="o", label="people, other pictures (band: lowest to highest)")]
    for k, model in enumerate(models):
        colour, marker = LOOKS[k % len(LOOKS)]
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="--", label=plain(model)))
    handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=":", label="chance (models; people: red)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _right(trials: xr.Dataset, condition: str) -> list[np.ndarray]:
    correct = trials.correct.sel(condition=condition)
    return [correct.sel(observer=one).values for one in trials.observer.values]


def alignment_lines(table: xr.Dataset) -> list[str]:
    """One line for people and one for each model: shape bias, accuracy, error consistency with intervals.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`neural_fits.behavior.alignment.alignment_table`.

    Returns
    -------
    list of str
    """
    people = table.isel(observer=table.kind.values == "person")
    low, high = table.ceiling_range.values
    lines = [
        f"{table.sizes['person']} people: shape bias {float(table.people_shape_bias):.3f} "
        f"({people.shape_bias.min().item():.3f} to {people.shape_bias.max().item():.3f}), accuracy "
        f"{people.accuracy.mean().item():.3f}, error consistency with one another {float(table.ceiling):.3f} (pairs "
        f"{low:.3f} to {high:.3f})"
    ]
    for name in _models(table):
        row = table.sel(observer=name)
        parts = []
        for key, label in (
            ("shape_bias", "shape bias"),
            ("accuracy", "accuracy"),
            ("mean_error_consistency", "error consistency with people"),
        ):
            ends = row[f"{key}_interval"].values
            parts.append(f"{label} {float(row[key]):.3f} [{ends[0]:.3f}, {ends[1]:.3f}]")
        parts.append(f"a cue named at {float(row.cue_share):.0%} of conflicts")
        most = row.answered.isel(category=int(row.answered.values.argmax()))
        parts.append(f"most frequent answer {most.category.item()} ({float(most):.0%})")
        lines.append(f"{name}: {', '.join(parts)}")
    return lines
