"""Figures of fits: tables in, a matplotlib ``Figure`` out, without pyplot."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stimuli.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, WIDTH_IN, plain, styled

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY)


def _reliable(table: xr.Dataset) -> np.ndarray:
    minimum = table.attrs["min_reliability"]
    return np.ones(table.sizes["neuron"], bool) if np.isnan(minimum) else table.reliability.values > minimum


def neuron_correlations(table: xr.Dataset, layer: str, *, control: bool = False) -> np.ndarray:
    """Correlation of each neuron with a layer's predictions, as the table's scores take it.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`neural_fits.fits.fit_layers`.
    layer : str
    control : bool
        Of the responses re-ordered between stimuli.

    Returns
    -------
    ndarray, (neuron,)
        Pooled over all held-out stimuli, or the mean over splits.

    Examples
    --------
    >>> r = (("layer", "split", "neuron"), np.array([[[0.2, 0.4], [0.4, 0.0]]]))
    >>> neuron_correlations(xr.Dataset({"correlation": r}, {"layer": ["a"]}, {"correlate": "split"}), "a")
    array([0.3, 0.2])
    """
    name = "correlation_reordered" if control else "correlation"
    if table.attrs["correlate"] == "pooled":
        return table[f"{name}_pooled"].sel(layer=layer).values
    return table[name].sel(layer=layer).mean("split").values


def folded(name: str, width: int) -> str:
    """Name as lines of at most some characters, broken after a space, hyphen, slash or underscore where there is one.

    Examples
    --------
    >>> print(folded("run-untrained-seed0", 14))
    run-untrained-
    seed0
    """
    lines = []
    while len(name) > width:
        at = max(name.rfind(mark, 0, width) for mark in " -/_") + 1 or width
        lines.append(name[:at].rstrip())
        name = name[at:]
    return plain("\n".join([*lines, name]))


def label_outer(panels: np.ndarray, n: int, *, x: str, y: str) -> None:
    """Label the lowest panel of each column and the first of each row; panels from the nth on are taken away.

    Parameters
    ----------
    panels : ndarray of Axes, (row, column)
    n : int
        Panels that are used, row by row.
    x, y : str

    Examples
    --------
    >>> panels = Figure().subplots(2, 2, sharex=True)
    >>> label_outer(panels, 3, x="a", y="b")
    >>> [axes.get_xlabel() for axes in panels.ravel()], len(panels[0, 0].figure.axes)
    (['', 'a', 'a', ''], 3)
    """
    columns = panels.shape[1]
    for i, axes in enumerate(panels.ravel()):
        if i >= n:
            axes.remove()
            continue
        if i + columns >= n:
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)
        if i % columns == 0:
            axes.set_ylabel(y)


@styled
def layer_scores(tables: Mapping[str, xr.Dataset], *, rule: str = "raw") -> Figure:
    """Score of every layer of every model with its interval, the ceiling, and the re-ordered control.

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset
        By model; all of one recording.
    rule : str
        In every table.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no table.
    """
    if not tables:
        raise ValueError("no table was given; expected at least one.")
    rows = [(model, str(layer)) for model, table in tables.items() for layer in table.layer.values]
    figure = Figure((WIDTH_IN, 1.5 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colour_of = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(tables)}
    for y, (model, layer) in enumerate(rows):
        table = tables[model]
        score = float(table.score.sel(layer=layer, rule=rule))
        low, high = table.score_interval_neurons.sel(layer=layer, rule=rule).values
        image_low, image_high = table.score_interval_images.sel(layer=layer, rule=rule).values
        axes.plot([image_low, image_high], [y, y], color=colour_of[model], linewidth=1)
        axes.plot([low, high], [y, y], color=colour_of[model], linewidth=3.5, alpha=0.55)
        axes.plot(score, y, "o", color=colour_of[model], markersize=5)
        if rule == "raw" and "correlation_reordered" in table:
            control = np.nanmedian(neuron_correlations(table, layer, control=True)[_reliable(table)])
            axes.plot(control, y, "x", color="black", markersize=5)
    first = next(iter(tables.values()))
    reliability = float(np.nanmedian(first.reliability.values[_reliable(first)]))
    ceiling = np.sqrt(reliability) if rule == "raw" else 1.0
    axes.axvline(ceiling, color=GREY, linestyle="--", linewidth=1)
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.set_yticks(
        range(len(rows)), [plain(layer if model == layer else f"{model}  {layer}") for model, layer in rows]
    )
    axes.invert_yaxis()
    label = "median Pearson r, held out" if rule == "raw" else plain(rule.replace("_", " "))
    axes.set(xlabel=label, ylabel="model and layer")
    handles = [
        Line2D([], [], color="black", marker="o", linestyle="none", label="score"),
        Line2D([], [], color="black", linewidth=3.5, alpha=0.55, label="95 % interval over neurons"),
        Line2D([], [], color="black", linewidth=1, label="95 % interval over images"),
        Line2D([], [], color=GREY, linestyle="--", label="√ median reliability" if rule == "raw" else "noise ceiling"),
    ]
    if rule == "raw":
        handles.append(Line2D([], [], color="black", marker="x", linestyle="none", label="re-ordered responses"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    n = int(first.n_neurons.sel(rule=rule).values[0])
    axes.set_title(plain(f"{first.attrs['recording']}: {n} neurons, {first.attrs['n_stimuli']} images"))
    return figure


@styled
def neuron_scatter(
    first: xr.Dataset, second: xr.Dataset, *, layers: tuple[str, str], names: tuple[str, str] | None = None
) -> Figure:
    """Correlation of each neuron with one model against another.

    Parameters
    ----------
    first, second : xarray.Dataset
        Tables of one recording, neurons in the same order.
    layers : pair of str
        Layer of each.
    names : pair of str, optional
        Of the models; those in the tables without it.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the tables are of other neurons.
    """
    a, b = first["neuron_id"].values, second["neuron_id"].values
    if len(a) != len(b) or (a != b).any():
        raise ValueError("the two tables are of different neurons; expected fits of one recording.")
    names = names or (first.attrs.get("model", "first"), second.attrs.get("model", "second"))
    x, y = neuron_correlations(first, layers[0]), neuron_correlations(second, layers[1])
    kept = _reliable(first) & np.isfinite(x) & np.isfinite(y)
    figure = Figure((5.2, 4.4), layout="constrained")
    axes = figure.subplots()
    dots = axes.scatter(
        x[kept], y[kept], c=first.reliability.values[kept], s=14, cmap="viridis", vmin=0, vmax=1, linewidths=0
    )
    low = min(0.0, float(x[kept].min()), float(y[kept].min())) - 0.03
    high = min(1.0, max(float(x[kept].max()), float(y[kept].max())) + 0.05)
    axes.plot([low, high], [low, high], color=GREY, linewidth=0.8)
    axes.set(
        xlim=(low, high),
        ylim=(low, high),
        aspect="equal",
        xlabel=plain(f"r, {names[0]} {layers[0]}"),
        ylabel=plain(f"r, {names[1]} {layers[1]}"),
        title=f"{kept.sum()} neurons; above the diagonal {np.mean(y[kept] > x[kept]):.0%}".replace("%", " %"),
    )
    figure.colorbar(dots, ax=axes, label="reliability of the mean response")
    return figure


@styled
def predicted_measured(table: xr.Dataset, layer: str) -> Figure:
    """Predicted against measured responses of the neurons that are predicted best, median and worst.

    Parameters
    ----------
    table : xarray.Dataset
    layer : str

    Returns
    -------
    Figure
    """
    r = neuron_correlations(table, layer)
    order = np.flatnonzero(_reliable(table) & np.isfinite(r))
    order = order[np.argsort(r[order])]
    figure = Figure((WIDTH_IN, 2.9), layout="constrained")
    measured, predicted = table.measured.values, table.predicted.sel(layer=layer).values
    stimulus = table.held_out_stimulus.values
    unit = table.measured.attrs.get("unit") or "response"
    ids, reliability = table["neuron_id"].values, table.reliability.values
    for axes, (title, neuron) in zip(
        figure.subplots(1, 3),
        (("best", order[-1]), ("median", order[len(order) // 2]), ("worst", order[0])),
        strict=True,
    ):
        x, y = predicted[:, neuron], measured[stimulus, neuron]
        axes.plot(x, y, "o", markersize=2.5, color=BLUE, alpha=0.6, markeredgewidth=0)
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        axes.plot([low, high], [low, high], color=GREY, linewidth=0.8)
        axes.set(
            title=plain(f"{title}: {ids[neuron]}\nr {r[neuron]:.2f}, reliability {reliability[neuron]:.2f}"),
            xlabel=plain(f"predicted ({unit})"),
            ylabel=plain(f"measured ({unit})"),
        )
    return figure
