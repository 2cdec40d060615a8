"""Figures of texture modulation and decoding: tables in, a matplotlib ``Figure`` out, without pyplot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from neural_fits.figures import COLOURS, folded, label_outer
from neural_fits.texture_indices import by_family, mean_defined
from stimuli.drawing import BLUE, GREY, WIDTH_IN, plain, styled
from stimuli.stimulus_set import StimulusSet

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def _layers(table: xr.Dataset) -> dict[str, xr.Dataset]:
    names = table["unit_layer"].values.astype(str)
    return {name: table.isel(unit=np.flatnonzero(names == name)) for name in table["layer"].values.astype(str).tolist()}


def _checked(tables: Mapping[str, xr.Dataset]) -> Mapping[str, xr.Dataset]:
    if not tables:
        raise ValueError("no table was given; expected at least one.")
    return tables


def _by_family(units: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean over units of each family's index, and its standard error."""
    index = units["modulation_by_family"].transpose("unit", "family").values
    mean, undefined = mean_defined(index)
    n = np.maximum(len(index) - undefined, 1)
    deviations = np.where(np.isfinite(index), index - mean, 0.0)
    return mean, np.sqrt((deviations**2).sum(axis=0) / np.maximum(n - 1, 1) / n)


@styled
def modulation_summary(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Texture modulation index and variance ratio of every layer of every model, with intervals and the control.

    Parameters
    ----------
    rows : sequence of mapping
        Each with ``model``, ``layer``, and ``modulation``, ``modulation_families``, ``control`` and
        ``variance_ratio``, each but the second with its value, all with ``_low`` and ``_high``.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no row.
    """
    if not rows:
        raise ValueError("no row was given; expected at least one.")
    figure = Figure((WIDTH_IN, 1.5 + 0.27 * len(rows)), layout="constrained")
    index, ratio = figure.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    models = list(dict.fromkeys(row["model"] for row in rows))
    for y, row in enumerate(rows):
        colour = COLOURS[models.index(row["model"]) % len(COLOURS)]
        ends = {
            name: [row[f"{name}_low"], row[f"{name}_high"]]
            for name in ("modulation", "modulation_families", "control", "variance_ratio")
        }
        index.fill_between(ends["control"], y - 0.38, y + 0.38, color=GREY, alpha=0.3, linewidth=0)
        index.plot(ends["modulation"], [y, y], color=colour, linewidth=3.5, alpha=0.55)
        index.plot(ends["modulation_families"], [y, y], "|-", color="black", linewidth=0.8, markersize=5)
        index.plot(row["modulation"], y, "o", color=colour, markersize=5)
        ratio.plot(ends["variance_ratio"], [y, y], color=colour, linewidth=3.5, alpha=0.55)
        ratio.plot(row["variance_ratio"], y, "o", color=colour, markersize=5)
    index.axvline(0, color="black", linewidth=0.7)
    index.set_yticks(range(len(rows)), [folded(f"{row['model']}  {row['layer']}", 36) for row in rows])
    index.set_ylim(len(rows) - 0.4, -0.6)
    index.set(xlabel="texture modulation index", ylabel="model and layer", title="0: as in V1; above 0: as in V2")
    ratio.axvline(1, color="black", linewidth=0.7)
    ratio.set_xscale("log")
    low, high = ratio.get_xlim()
    ticks = [tick for tick in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if low <= tick <= high]
    ratio.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ratio.xaxis.set_minor_formatter(NullFormatter())
    ratio.set(xlabel="variance ratio\nfamilies / samples")
    handles = [
        Line2D([], [], color="black", marker="o", linestyle="none", label="mean over units"),
        Line2D([], [], color="black", linewidth=3.5, alpha=0.55, label="95 % interval over pictures and units"),
        Line2D([], [], color="black", marker="|", linewidth=0.8, label="95 % interval over families"),
        Line2D([], [], color=GREY, linewidth=7, alpha=0.3, label="noise against noise, 95 % of splits"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@styled
def index_by_family(tables: Mapping[str, xr.Dataset]) -> Figure:
    """Index of every texture family in each layer, families in the order of the last layer (as Freeman et al. 2013).

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset
        By model, from :func:`neural_fits.texture_modulation.texture_modulation`.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no table.
    """
    columns = min(2, len(_checked(tables)))
    lines = -(-len(tables) // columns)
    figure = Figure((WIDTH_IN, 0.3 + 2.7 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, (model, table) in zip(panels.ravel(), tables.items(), strict=False):
        layers = _layers(table)
        order = np.argsort(-np.nan_to_num(_by_family(list(layers.values())[-1])[0], nan=-2))
        for i, (layer, units) in enumerate(layers.items()):
            mean, error = _by_family(units)
            axes.errorbar(
                np.arange(len(order)) + 0.1 * (i - (len(layers) - 1) / 2),
                mean[order],
                error[order],
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                markersize=4,
                linewidth=1,
                label=plain(layer),
            )
        axes.axhline(0, color="black", linewidth=0.7)
        names = [plain(str(name).replace("_", " ")) for name in table["family"].values[order]]
        axes.set_xticks(range(len(order)), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_title(folded(model, 50))
        axes.legend(ncols=min(3, len(layers)))
    for axes in panels.ravel()[len(tables) :]:
        axes.remove()
    for axes in panels[:, 0]:
        axes.set_ylabel("texture modulation index")
    return figure


@styled
def index_between_layers(tables: Mapping[str, xr.Dataset]) -> Figure:
    """Index of every family in the first layer of each model against its later layers.

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset
        By model; those of one layer are left out.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If no model has two layers.
    """
    several = {model: table for model, table in tables.items() if table.sizes["layer"] > 1}
    if not several:
        raise ValueError("no model has two layers to compare; expected at least one.")
    columns = min(4, len(several))
    lines = -(-len(several) // columns)
    side = WIDTH_IN / max(columns, 3)
    titles = {model: folded(model, 26) for model in several}
    height = side + 0.5 + 0.15 * max(title.count("\n") for title in titles.values())
    figure = Figure((side * columns, height * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    reach = 0.05
    for axes, (model, table) in zip(panels.ravel(), several.items(), strict=False):
        (first, units), *later = _layers(table).items()
        x = _by_family(units)[0]
        for i, (layer, deeper) in enumerate(later, 1):
            y = _by_family(deeper)[0]
            kept = np.isfinite(x) & np.isfinite(y)
            label = plain(f"{layer}: {np.mean(y[kept] > x[kept]):.0%} above".replace("%", " %"))
            axes.plot(
                x[kept], y[kept], MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], markersize=4, label=label
            )
            reach = max(reach, *np.abs(np.r_[x[kept], y[kept]]))
        axes.set(title=titles[model], xlabel=plain(f"index in {first}"), aspect="equal")
        axes.legend(loc="lower right", borderpad=0, handletextpad=0.1)
    for axes in panels.ravel()[: len(several)]:
        axes.plot([-reach, reach], [-reach, reach], color=GREY, linewidth=0.8)
        axes.axhline(0, color=GREY, linewidth=0.5)
        axes.axvline(0, color=GREY, linewidth=0.5)
        axes.set(xlim=(-1.08 * reach, 1.08 * reach), ylim=(-1.08 * reach, 1.08 * reach))
    for axes in panels.ravel()[len(several) :]:
        axes.remove()
    for axes in panels[:, 0]:
        axes.set_ylabel("index in a later layer")
    return figure


@styled
def index_distributions(tables: Mapping[str, xr.Dataset], *, level: float = 0.05) -> Figure:
    """Indices of the single units of each layer; filled, where exchanging textures and noise gives p below a level.

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset
        By model.
    level : float

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no table.
    """
    rows = [(model, *each) for model, table in _checked(tables).items() for each in _layers(table).items()]
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure((WIDTH_IN, 0.7 + 1.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True)
    largest = max(float(np.nanmax(np.abs(units["modulation"].values), initial=0.1)) for *_, units in rows)
    edges = np.linspace(-1, 1, 41) * min(1.0, largest)
    for axes, (model, layer, units) in zip(panels.ravel(), rows, strict=False):
        index, p = units["modulation"].values, units["modulation_p"].values
        defined = np.isfinite(index)
        axes.hist(index[defined], edges, color=BLUE, histtype="step", linewidth=1, label="all units")
        axes.hist(index[defined & (p < level)], edges, color=BLUE, alpha=0.75, label=f"p < {level:g}")
        axes.axvline(0, color="black", linewidth=0.7)
        if defined.any():
            axes.axvline(index[defined].mean(), color="black", linestyle="--", linewidth=1, label="mean")
        axes.set_title(f"{folded(model, 28)}\n{plain(layer)}: {defined.sum()} of {len(index)} units", fontsize=8)
    label_outer(panels, len(rows), x="texture modulation index", y="units")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


@styled
def decoding_curves(tables: Mapping[str, xr.Dataset]) -> Figure:
    """Accuracy of family and of sample decoding against the number of units, of every layer of each model.

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset
        By model, with ``family_accuracy`` and ``sample_accuracy``.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no table.
    """
    columns = min(4, len(_checked(tables)))
    blocks = -(-len(tables) // columns)
    figure = Figure((WIDTH_IN, 0.4 + 3.9 * blocks), layout="constrained")
    panels = figure.subplots(2 * blocks, columns, squeeze=False, sharex=True, sharey="row")
    for place, (model, table) in enumerate(tables.items()):
        block, column = divmod(place, columns)
        for k, kind in enumerate(("family", "sample")):
            axes = panels[2 * block + k, column]
            for i, layer in enumerate(table["layer"].values.astype(str)):
                draws = table[f"{kind}_accuracy"].sel(layer=layer)
                kept = np.isfinite(draws.transpose("draw", "population_size").values).all(axis=0)
                if not kept.any():
                    continue
                sizes = draws["population_size"].values[kept]
                values = draws.transpose("draw", "population_size").values[:, kept]
                mean, (low, high) = values.mean(axis=0), np.quantile(values, [0.025, 0.975], axis=0)
                axes.errorbar(
                    sizes,
                    mean,
                    [mean - low, high - mean],
                    color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=4,
                    linewidth=1,
                    label=plain(layer),
                )
            axes.axhline(table.attrs[f"{kind}_chance"], color=GREY, linestyle="--", linewidth=1)
            axes.set_xscale("log")
            axes.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
            axes.xaxis.set_minor_formatter(NullFormatter())
            if column == 0:
                axes.set_ylabel(f"{kind} decoding,\nshare right")
            if k == 0:
                axes.set_title(folded(model, 26))
                axes.legend(loc="upper left")
    for place in range(len(tables), blocks * columns):
        block, column = divmod(place, columns)
        panels[2 * block, column].remove()
        panels[2 * block + 1, column].remove()
    figure.supxlabel("units of the population", fontsize=9)
    return figure


@styled
def texture_sheet(stimuli: StimulusSet, *, n_samples: int = 2) -> Figure:
    """Textures of each family, and the noise of each below it.

    Parameters
    ----------
    stimuli : StimulusSet
        With columns ``type`` (texture, noise), ``family`` and ``sample``.
    n_samples : int
        Of each family.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If a column is missing, or a texture has no noise.
    """
    if missing := [name for name in ("type", "family", "sample") if name not in stimuli.parameters]:
        raise ValueError(f"the set {stimuli.name} has no column {missing[0]!r}; expected type, family and sample.")
    pictures = stimuli.as_uint8()
    texture, noise, families, samples = by_family(
        pictures, **{name: stimuli.parameters[name] for name in ("type", "family", "sample")}
    )
    n_samples = min(n_samples, len(samples))
    columns = min(8 // n_samples, len(families))
    lines = -(-len(families) // columns)
    side = WIDTH_IN / (columns * n_samples)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure((WIDTH_IN, (2 * side + 0.3) * lines), layout=layout)
    blocks = figure.subfigures(lines, columns, squeeze=False).ravel()
    for block, family, *kinds in zip(blocks, families, texture, noise, strict=False):
        for line, kind in zip(block.subplots(2, n_samples, squeeze=False), kinds, strict=True):
            for axes, picture in zip(line, kind, strict=False):
                axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
                axes.set_axis_off()
        block.suptitle(plain(str(family).replace("_", " ")), fontsize=8)
    return figure
