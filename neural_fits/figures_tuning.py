"""Figures of tuning to gratings: tables in, a matplotlib ``Figure`` out, without pyplot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from neural_fits.datasets.v1_published import Distribution
from neural_fits.figures import COLOURS, folded, label_outer
from stimuli.drawing import GREY, WIDTH_IN, plain, styled

#: Name, axis label and place of the curves of a table of :func:`neural_fits.tuning.tuning`.
CURVES = (
    ("orientation", "from the preferred\norientation (deg)"),
    ("frequency", "spatial frequency\n(cycles/deg)"),
    ("size", "diameter (deg)"),
    ("contrast", "contrast"),
)
#: Scores of fewer units than these are marked.
FEW = 10
OCTAVE_TICKS = (0.25, 0.5, 1, 2, 4, 8, 16)


def _layers(table: xr.Dataset) -> dict[str, xr.Dataset]:
    names = table["layer"].values.astype(str)
    return {name: table.isel(unit=np.flatnonzero(names == name)) for name in dict.fromkeys(names.tolist())}


def _rows(tables: Mapping[str, xr.Dataset]) -> list[tuple[str, str, xr.Dataset]]:
    if not tables:
        raise ValueError("no table was given; expected at least one.")
    return [(model, layer, units) for model, table in tables.items() for layer, units in _layers(table).items()]


def _normalised(curve: np.ndarray) -> np.ndarray:
    """Curves (value, unit) over their largest value; those without a positive one are left out."""
    kept = np.isfinite(curve).all(axis=0) & (curve.max(axis=0) > 0)
    return curve[:, kept] / curve[:, kept].max(axis=0)


def _from_preferred(orientations_deg: np.ndarray, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orientation curves turned so that their largest value is at 0, from -90 to 90 degrees."""
    n = len(orientations_deg)
    steps = np.arange(-(n // 2), n // 2 + 1)
    rows = (curve.argmax(axis=0) + steps[:, None]) % n
    return steps * 180.0 / n, np.take_along_axis(curve, rows, axis=0)


@styled
def tuning_curves(table: xr.Dataset, *, n_single: int = 40) -> Figure:
    """Curves of orientation, frequency, size and contrast of the units of each layer, and their median.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`neural_fits.tuning.tuning`.
    n_single : int
        At most so many single units are drawn, evenly over the table.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the table holds no curve.
    """
    curves = [(kind, label) for kind, label in CURVES if f"{kind}_curve" in table]
    if not curves:
        raise ValueError("the table holds no tuning curve; expected orientation_curve and others.")
    layers = _layers(table)
    figure = Figure((WIDTH_IN, 0.7 + 1.55 * len(layers)), layout="constrained")
    panels = figure.subplots(len(layers), len(curves), squeeze=False, sharey=True, sharex="col")
    for i, (layer, units) in enumerate(layers.items()):
        for j, (kind, label) in enumerate(curves):
            axes, values = panels[i, j], units[f"{kind}_curve"]
            at, shown = values[values.dims[0]].values, _normalised(values.values)
            if kind == "orientation":
                at, shown = _from_preferred(at, shown)
            axes.set_xscale("linear" if kind == "orientation" else "log")
            some = np.unique(np.linspace(0, max(shown.shape[1] - 1, 0), n_single).astype(int))
            if shown.shape[1]:
                axes.plot(at, shown[:, some], color=GREY, linewidth=0.6, alpha=0.45)
                axes.plot(at, np.median(shown, axis=1), color=COLOURS[i % len(COLOURS)], linewidth=2.2)
            axes.set_title(f"{shown.shape[1]} units", fontsize=8)
            axes.set_ylim(-0.03, 1.05)
            if kind == "orientation":
                axes.set_xticks([-90, -45, 0, 45, 90])
            else:
                ticks = {"contrast": (0.03, 0.1, 0.3, 1), "size": (0.25, 0.5, 1, 2, 4, 8)}.get(kind, OCTAVE_TICKS)
                ticks = [tick for tick in ticks if at[0] * 0.99 <= tick <= at[-1] * 1.01]
                axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.xaxis.set_minor_formatter(NullFormatter())
            if i == len(layers) - 1:
                axes.set_xlabel(label)
        panels[i, 0].set_ylabel(plain(f"{layer}\nresponse / largest"))
    figure.suptitle(plain(str(table.attrs.get("model", ""))), fontsize=9)
    return figure


@styled
def orientation_histograms(
    tables: Mapping[str, xr.Dataset], published: Distribution | None = None, *, n_bins: int = 12
) -> Figure:
    """Polar histogram of preferred orientations of each layer of each model, beside the published one.

    Radii are shares of units in 15 degrees, scaled to the largest of each panel.

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset
        By model.
    published : Distribution, optional
        Of ``preferred_orientation_deg``.
    n_bins : int
        Over 180 degrees, the cardinal orientations in the middle of a bin.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no table.
    """
    rows = _rows(tables)
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure((WIDTH_IN, 0.5 + 2.25 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, subplot_kw={"projection": "polar"}).ravel()
    width = 180.0 / n_bins
    edges = np.arange(n_bins + 1) * width - width / 2
    colour_of = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(tables)}
    for axes, (model, layer, units) in zip(panels, rows, strict=False):
        values = units["preferred_orientation_deg"].values
        defined = values[np.isfinite(values)]
        counts = np.histogram((defined + width / 2) % 180.0 - width / 2, edges)[0]
        # shares of a 15-degree sector, whatever the bins
        share = counts / max(len(defined), 1) * 15.0 / width
        densest = share.max()
        for turn in (0, 180):
            axes.bar(
                np.deg2rad(edges[:-1] + width / 2 + turn),
                share,
                np.deg2rad(width),
                color=colour_of[model],
                alpha=0.75,
                linewidth=0,
            )
        if published is not None:
            density = published.counts / published.n * 15.0 / np.diff(published.bins)
            densest = max(densest, density.max())
            outline = np.deg2rad(np.linspace(published.bins[0], published.bins[0] + 360.0, 721))
            inside = (np.rad2deg(outline) - published.bins[0]) % 180.0 + published.bins[0]
            which = np.clip(np.searchsorted(published.bins, inside, side="right") - 1, 0, len(density) - 1)
            axes.plot(outline, density[which], color="black", linewidth=1.2, label=f"macaque V1, {published.n} cells")
        title = f"{folded(model, 28)}\n{plain(layer)}: {len(defined)} of {len(values)} units"
        axes.set_title(title, fontsize=8, pad=4)
        axes.set_xticks(np.deg2rad(np.arange(0, 360, 45)), ["0°", "45°", "90°", "135°", "0°", "45°", "90°", "135°"])
        axes.tick_params(axis="x", pad=-3)
        axes.set_yticks([])
        axes.set_ylim(0, 1.05 * densest or 1)
    for axes in panels[len(rows) :]:
        axes.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center")
    return figure


@styled
def frequency_histograms(
    tables: Mapping[str, xr.Dataset], published: Mapping[str, Distribution] | None = None
) -> Figure:
    """Preferred spatial frequencies of each layer of each model, beside those of macaque V1.

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset
        By model.
    published : mapping of str to Distribution, optional
        Of ``peak_frequency_cpd``; simple and complex cells are added, fovea and parafovea kept apart.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no table.
    """
    rows = _rows(tables)
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    neurons: dict[str, np.ndarray] = {}
    edges = np.geomspace(0.35, 22.4, 13)
    for each in (published or {}).values():
        if each.measure == "peak_frequency_cpd":
            place = each.cells.split("_")[-1]
            neurons[place] = neurons.get(place, 0) + each.counts
            edges = each.bins
    figure = Figure((WIDTH_IN, 0.8 + 1.75 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    colour_of = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(tables)}
    for axes, (model, layer, units) in zip(panels.ravel(), rows, strict=False):
        values = units["peak_frequency_cpd"].values
        defined = values[np.isfinite(values)]
        counts = np.histogram(np.clip(defined, edges[0], edges[-1]), edges)[0]
        axes.stairs(counts / max(len(defined), 1), edges, fill=True, color=colour_of[model], alpha=0.75)
        for (place, cells), style in zip(neurons.items(), ("-", ":"), strict=False):
            label = f"macaque V1, {place}, {int(cells.sum())} cells"
            axes.stairs(cells / cells.sum(), edges, color="black", linestyle=style, linewidth=1.2, label=label)
        low_pass = np.nanmean(units["low_pass"].values) if len(defined) else float("nan")
        title = f"{folded(model, 28)}\n{plain(layer)}: {len(defined)} units\n{100 * low_pass:.0f} % low-pass"
        axes.set_title(title, fontsize=8)
        axes.set_xscale("log")
        axes.set_xticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
        axes.xaxis.set_minor_formatter(NullFormatter())
    label_outer(panels, len(rows), x="preferred frequency\n(cycles/deg)", y="share of units")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


@styled
def similarities(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Similarity of distributions of tuning to published ones: a line for each layer, a column for each distribution.

    Parameters
    ----------
    rows : sequence of mapping
        Each with ``model``, ``layer``, ``distribution``, ``score``, ``n_units``, ``n_undefined`` and ``ceiling``.
        Scores of fewer than 10 units stand in brackets.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no row.
    """
    if not rows:
        raise ValueError("no similarity was given; expected at least one.")
    columns = list(dict.fromkeys(row["distribution"] for row in rows))
    lines = list(dict.fromkeys((row["model"], row["layer"]) for row in rows))
    score = np.full((len(lines) + 1, len(columns)), np.nan)
    few = np.zeros(score.shape, dtype=bool)
    for row in rows:
        place = columns.index(row["distribution"])
        line = lines.index((row["model"], row["layer"]))
        score[line, place] = row["score"]
        few[line, place] = row["n_units"] - row["n_undefined"] < FEW
        score[-1, place] = row["ceiling"]
    figure = Figure((WIDTH_IN, 2.4 + 0.26 * len(score)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(score, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (i, j), value in np.ndenumerate(score):
        text = f"({value:.2f})" if few[i, j] else f"{value:.2f}"
        text = text if np.isfinite(value) else "–"
        light = np.isfinite(value) and value < 0.6
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if light else "black")
    names = [folded(layer if model == layer else f"{model}  {layer}", 36) for model, layer in lines]
    axes.set_yticks(range(len(score)), [*names, "neurons, resampled"])
    labels = [column.replace("_deg", "").replace("_cpd", "").replace("_", " ").replace("/", ": ") for column in columns]
    axes.set_xticks(range(len(columns)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.axhline(len(lines) - 0.5, color="white", linewidth=2)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xlabel="published distribution of macaque V1", ylabel="model and layer")
    figure.colorbar(shown, ax=axes, label="similarity, 1 - D / Dmax", fraction=0.03)
    return figure
