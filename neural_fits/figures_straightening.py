"""Figure of straightening: how much straighter or more curved sequences are than in pixels."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from stimuli.drawing import BLUE, GREY, VERMILION, WIDTH_IN, plain, styled

COLOURS = {"natural": BLUE, "synthetic": VERMILION}


@styled
def straightening(table: xr.Dataset, published: xr.Dataset | None = None, *, weighting: str = "equal") -> Figure:
    """Curvature less that in pixels, of every space, for natural and artificial sequences, beside published estimates.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`neural_fits.straightening.straightening_table`.
    published : xarray.Dataset, optional
        From :func:`neural_fits.straightening.compare_published`.
    weighting : {"equal", "length"}
        Every sequence counts the same, or by its squared length.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the table holds nothing beside pixels.
    """
    spaces = [str(name) for name in table["space"].values if name != "pixels"]
    if not spaces:
        raise ValueError("the table holds pixels alone; expected layers or populations to compare with them.")
    categories = [c for c in COLOURS if c in table["category"].values]
    figure = Figure((WIDTH_IN, 1.6 + 0.27 * len(spaces)), layout="constrained")
    axes = figure.subplots()
    for k, category in enumerate(categories):
        offset = 0.22 * (k - (len(categories) - 1) / 2)
        for y, space in enumerate(spaces):
            cell = table.sel(space=space, category=category, weighting=weighting)
            low, high = cell["difference_interval"].values
            label = f"{category} sequences" if y == 0 else None
            axes.plot([low, high], [y + offset] * 2, color=COLOURS[category], linewidth=1.6)
            axes.plot(cell["difference_deg"], y + offset, "o", color=COLOURS[category], markersize=5, label=label)
            if published is not None and space in published["space"].values:
                value = published["published_straightening_deg"].sel(space=space, category=category)
                known = not any("published" in str(line.get_label()) for line in axes.lines)
                axes.plot(
                    value,
                    y + offset,
                    "D",
                    color=COLOURS[category],
                    markerfacecolor="white",
                    markersize=5,
                    label="published estimate (neural less control)" if known else None,
                )
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(spaces)), [plain(space) for space in spaces])
    axes.invert_yaxis()
    axes.set(
        xlabel="curvature less that in pixels (degrees); negative: straighter",
        ylabel="layer or population",
        title=f"frame step {table.attrs['step']}, {weighting} weights; lines: 95 % intervals over movies",
    )
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def straightening_lines(table: xr.Dataset) -> list[str]:
    """One line for each space: curvature and its difference to pixels, with intervals, for every category.

    Parameters
    ----------
    table : xarray.Dataset

    Returns
    -------
    list of str
    """
    lines = []
    for space in map(str, table["space"].values):
        parts = []
        for category in map(str, table["category"].values):
            for weighting in map(str, table["weighting"].values):
                cell = table.sel(space=space, category=category, weighting=weighting)
                if np.isfinite(cell["curvature_deg"]):
                    low, high = cell["difference_interval"].values
                    parts.append(
                        f"{category} ({weighting} weights) {float(cell['curvature_deg']):.1f} deg, against pixels "
                        f"{float(cell['difference_deg']):+.1f} [{low:+.1f}, {high:+.1f}]"
                    )
        lines.append(f"{space}: {'; '.join(parts)}")
    return lines
