"""Figures of a training run: plain arrays in, a matplotlib ``Figure`` out.

Figures are made without pyplot, so that nothing global is set and nothing has to be closed. Sizes in pixels are shown
in degrees of visual angle as well. No text is smaller than 8 pt at the drawn size, and colours are told apart with any
colour vision (Okabe and Ito 2008).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from neural_fits.gabor import GABOR_R2, TUNED_SELECTIVITY, GaborFit, GratingTuning, is_gabor
from stimuli.display import PIXELS_PER_DEGREE, degrees
from stimuli.drawing import BLUE, GREEN, GREY, VERMILION, WIDTH_IN, plain, styled


@styled
def filters(
    initial: ArrayLike,
    trained: ArrayLike,
    *,
    gabor_r2: ArrayLike | None = None,
    marked: tuple[ArrayLike, ArrayLike] | None = None,
    pixels_per_degree: float = PIXELS_PER_DEGREE,
) -> Figure:
    """Filters of a stage at initialisation and after training, side by side.

    Every filter is scaled by its own largest absolute weight, around mid-grey (weight 0). A filter has the same place
    on both sides.

    Parameters
    ----------
    initial, trained : array_like, shape (filter, channel, height, width)
        Weights; 1 or 3 channels.
    gabor_r2 : array_like, shape (filter,), optional
        Share of variance explained by the Gabor fitted after training: the order of the filters. Without it they are
        in the order of the stage's channels.
    marked : pair of array_like of bool, shape (filter,), optional
        Gabor-like filters at initialisation and after training (:func:`neural_fits.gabor.is_gabor`); framed.
    pixels_per_degree : float
        Pixels of the stage's input per degree of visual angle.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the two banks differ in shape or have neither 1 nor 3 channels.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> [axes.get_title() for axes in filters(*rng.normal(size=(2, 16, 3, 11, 11))).axes]
    ['At initialisation', 'After training']
    """
    before, after = _bank(initial), _bank(trained)
    if before.shape != after.shape:
        raise ValueError(
            f"Filters have shape {before.shape} at initialisation and {after.shape} after training; "
            "expected the same shape."
        )
    n, _, height, width = after.shape
    order = np.arange(n) if gabor_r2 is None else np.argsort(-np.asarray(gabor_r2), kind="stable")
    columns, gap = ceil(n**0.5), max(2, round(width / 6))
    rows = ceil(n / columns)
    figure = Figure((WIDTH_IN, 1.1 + 3.7 * rows * (height + gap) / (columns * (width + gap))), layout="constrained")
    size = f"{degrees(width, pixels_per_degree):.2f}° × {degrees(height, pixels_per_degree):.2f}°"
    masks = (None, None) if marked is None else marked
    for axes, bank, mask, title in zip(
        figure.subplots(1, 2), (before, after), masks, ("At initialisation", "After training"), strict=True
    ):
        _mosaic(axes, _tiles(bank[order]), columns, gap)
        axes.set_xlabel(f"each filter {width} × {height} px = {size}")
        if mask is None:
            axes.set_title(title)
            continue
        chosen = np.asarray(mask, dtype=bool)[order]
        axes.set_title(f"{title}: {chosen.sum()} of {n} framed")
        for place in np.flatnonzero(chosen):
            row, column = divmod(int(place), columns)
            pad = 0.3 * gap
            corner = (gap + column * (width + gap) - pad, gap + row * (height + gap) - pad)
            frame = Rectangle(corner, width + 2 * pad, height + 2 * pad, fill=False, edgecolor=BLUE, linewidth=1.1)
            axes.add_patch(frame)
    text = "Filter by filter in the order of the stage's channels, row by row."
    if gabor_r2 is not None:
        text = "Row by row in falling order of the r² of the Gabor fitted after training; same place, same filter."
    if marked is not None:
        text += f"\nFramed: r² ≥ {GABOR_R2:g} and orientation selectivity ≥ {TUNED_SELECTIVITY:.2f}."
    figure.supxlabel(text, fontsize=8)
    return figure


@styled
def gabor_fits(
    filters: ArrayLike,
    fit: GaborFit,
    tuning: GratingTuning,
    *,
    columns: int = 9,
    pixels_per_degree: float = PIXELS_PER_DEGREE,
) -> Figure:
    """Filters above their fitted Gabor functions, from the best fit to the worst.

    The filters shown lie at equal steps of rank; filter and fit share one scale. Below are the preferences for
    gratings, as in :func:`tuning_distributions`.

    Parameters
    ----------
    filters : array_like, shape (filter, channel, height, width)
        Weights; 1 or 3 channels.
    fit : GaborFit
        Of the same filters.
    tuning : GratingTuning
        Of the same filters.
    columns : int
        How many to show; an odd number has the median in the middle.
    pixels_per_degree : float
        Pixels of the stage's input per degree of visual angle.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If fit or tuning is of another bank, or the bank has neither 1 nor 3 channels.

    Examples
    --------
    >>> from neural_fits.gabor import fit_gabor, grating_tuning
    >>> bank = np.random.default_rng(0).normal(size=(5, 1, 9, 9))
    >>> len(gabor_fits(bank, fit_gabor(bank), grating_tuning(bank), columns=3).axes)
    6
    """
    bank = _bank(filters)
    if fit.fitted.shape != bank.shape:
        raise ValueError(f"The fit is of filters of shape {fit.fitted.shape}; expected {bank.shape}, as the filters.")
    if len(tuning.frequency_cpp) != len(bank):
        raise ValueError(f"The tuning is of {len(tuning.frequency_cpp)} filters; expected {len(bank)}, as the filters.")
    ranking = np.argsort(-fit.r2, kind="stable")
    chosen = ranking[np.linspace(0, len(bank) - 1, min(columns, len(bank))).round().astype(int)]
    height, width = bank.shape[2:]
    scale = np.abs(bank[chosen]).max(axis=(1, 2, 3), keepdims=True)
    rows = (_tiles(bank[chosen], scale), _tiles(fit.fitted[chosen], scale))
    right, top = degrees(width, pixels_per_degree) / 2, degrees(height, pixels_per_degree) / 2
    figure = Figure((WIDTH_IN, 2.65), layout="constrained")
    grid = figure.subplots(2, len(chosen), squeeze=False)
    for axes_row, tiles, name in zip(grid, rows, ("filter", "Gabor"), strict=True):
        for axes, tile in zip(axes_row, tiles, strict=True):
            axes.imshow(tile, extent=(-right, right, -top, top), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(True)
        axes_row[0].set_ylabel(f"{name}\n(deg)")
        axes_row[0].yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5], symmetric=True))
    names = {0: "best", len(chosen) - 1: "worst"} if len(chosen) > 1 else {}
    if len(chosen) % 2 and len(chosen) > 2:
        names[len(chosen) // 2] = "median"
    for k, i in enumerate(chosen):
        grid[0, k].set_title(f"{names.get(k, '')}\nr² = {fit.r2[i]:.2f}", fontsize=8)
        frequency_cpd = tuning.frequency_cpp[i] * pixels_per_degree
        grid[1, k].set_xlabel(f"{tuning.orientation_deg[i]:.0f}°\n{frequency_cpd:.1f} c/deg", fontsize=8)
    figure.supxlabel("preferred orientation (0° is horizontal) and spatial frequency of gratings", fontsize=8)
    return figure


@styled
def tuning_distributions(
    fit_trained: GaborFit,
    tuning_trained: GratingTuning,
    fit_initial: GaborFit,
    tuning_initial: GratingTuning,
    *,
    pixels_per_degree: float = PIXELS_PER_DEGREE,
) -> Figure:
    """Quality of the Gabor fits, and preferred orientations and spatial frequencies of the Gabor-like filters.

    Preferences are those of the gratings: they are defined for every filter, while the carrier of a fit with less than
    a cycle under its envelope is not.

    Parameters
    ----------
    fit_trained, fit_initial : GaborFit
        Of all filters after training and at initialisation. An r² below 0 is counted in the first bin.
    tuning_trained, tuning_initial : GratingTuning
        Of the same filters.
    pixels_per_degree : float
        Pixels of the stage's input per degree of visual angle.

    Returns
    -------
    Figure

    Examples
    --------
    >>> from neural_fits.gabor import fit_gabor, gabor, grating_tuning
    >>> bank = gabor(11, 11, orientation_deg=45, frequency_cpp=0.2, across_px=2, along_px=3)[None]
    >>> fit, tuning = fit_gabor(bank), grating_tuning(bank)
    >>> [axes.get_xlabel() for axes in tuning_distributions(fit, tuning, fit, tuning).axes]
    ['r² of the Gabor fit', 'preferred orientation (deg)', 'preferred frequency (cycles/deg)']
    """
    figure = Figure((WIDTH_IN, 3.4), layout="constrained")
    quality, orientation, frequency = figure.subplots(1, 3)
    # 36 orientations are sampled by default: three to a bin, and the cardinal ones each in the middle of a bin.
    orientation_edges = np.linspace(-7.5, 172.5, 13)
    side_px = max(fit_trained.fitted.shape[2:])
    step = side_px ** (
        1 / 23
    )  # from half a cycle per filter to half a cycle per pixel in 24 frequencies, three to a bin
    frequency_edges = 0.5 / side_px * step ** (np.arange(9) * 3 - 0.5) * pixels_per_degree
    for fit, tuning, name, look in (
        (fit_trained, tuning_trained, "after training", {"color": BLUE, "alpha": 0.75}),
        (fit_initial, tuning_initial, "at initialisation", {"color": "black", "histtype": "step", "linewidth": 1.3}),
    ):
        chosen = is_gabor(fit, tuning)
        label = f"{name}\n({chosen.sum()} of {len(fit)})"
        quality.hist(np.clip(fit.r2, 0, 1), np.linspace(0, 1, 21), label=f"{name}\n({len(fit)} filters)", **look)
        bars_deg = (tuning.orientation_deg[chosen] + 7.5) % 180 - 7.5
        orientation.hist(bars_deg, orientation_edges, label=label, **look)
        frequency.hist(tuning.frequency_cpp[chosen] * pixels_per_degree, frequency_edges, label=label, **look)
    quality.axvline(GABOR_R2, color=VERMILION, linestyle="--", label=f"criterion r² = {GABOR_R2:g}")
    quality.set(title="All filters", xlabel="r² of the Gabor fit", ylabel="number of filters", xlim=(0, 1))
    orientation.set(title="Gabor-like filters", xlabel="preferred orientation (deg)", xlim=(-7.5, 172.5))
    orientation.set_xticks([0, 45, 90, 135])
    frequency.set(title="Gabor-like filters", xlabel="preferred frequency (cycles/deg)", xscale="log")
    frequency.set_xlim(frequency_edges[0], frequency_edges[-1])
    ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if frequency_edges[0] <= tick <= frequency_edges[-1]]
    frequency.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    frequency.xaxis.set_minor_formatter(NullFormatter())
    for axes in (quality, orientation, frequency):
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylim(0, max(axes.get_ylim()[1], 1))
        # Below the axes: a legend inside would lie on the bars of one run or another.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), alignment="left")
    return figure


@styled
def view_pairs(
    pairs: ArrayLike,
    *,
    size_px: float,
    pixels_per_degree: float = PIXELS_PER_DEGREE,
    title: str = "",
    columns: int = 8,
) -> Figure:
    """Pairs of views, one above the other, with the stage's receptive field drawn to scale in the middle.

    Parameters
    ----------
    pairs : array_like, shape (pair, 2, channel, side, side)
        In image units (black 0, white 1); 1 or 3 channels. Values outside are shown as black or white.
    size_px : float
        Side of the receptive field.
    pixels_per_degree : float
        Pixels of the image per degree of visual angle.
    title : str
        What the views are of; plain text.
    columns : int
        Largest number of pairs to show: the first ones.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the pairs have another shape, or the receptive field does not fit into them.

    Examples
    --------
    >>> figure = view_pairs(np.random.default_rng(0).random((4, 2, 3, 29, 29)), size_px=19)
    >>> [float(value) for value in figure.axes[0].patches[0].get_bbox().bounds]  # left, top, width, height
    [5.0, 5.0, 19.0, 19.0]
    """
    views = np.asarray(pairs, dtype=np.float64)
    if views.ndim != 5 or views.shape[1] != 2 or views.shape[2] not in (1, 3) or not len(views):
        raise ValueError(f"pairs have shape {views.shape}; expected (pair, 2, 1 or 3 channels, side, side).")
    views = views[:columns]
    n, side = len(views), views.shape[-1]
    if size_px > side:
        raise ValueError(f"A receptive field of {size_px:g} px does not fit into views of {side} px.")
    cell_in = min(0.9, 6.9 / n)
    figure = Figure((max(4.5, 1 + cell_in * n), 1.0 + 2 * cell_in), layout="constrained")
    figure.suptitle(plain(title), fontsize=9)
    grid = figure.subplots(2, n, squeeze=False)
    for row in range(2):
        for column in range(n):
            axes = grid[row, column]
            picture = _rgb(np.clip(views[column, row], 0, 1))
            axes.imshow(picture, extent=(0, side, side, 0), interpolation="nearest")
            _receptive_field(axes, (side - size_px) / 2, (side - size_px) / 2, size_px)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        grid[row, 0].set_ylabel(f"{('first', 'second')[row]} view\n(px)")
        grid[row, 0].set_yticks([0, side])
    scale = grid[1, 0].secondary_xaxis(
        "bottom", functions=(lambda px: px / pixels_per_degree, lambda deg: deg * pixels_per_degree)
    )
    side_deg = degrees(side, pixels_per_degree)
    scale.set_xticks([0, side_deg], ["0", f"{side_deg:.2f}"])
    scale.set_xlabel("(deg)")
    square = Line2D(
        [], [], linestyle="none", marker="s", markersize=9, markerfacecolor="none", markeredgecolor=VERMILION
    )
    size_deg = degrees(size_px, pixels_per_degree)
    label = f"receptive field {size_px:g} px = {size_deg:.2f}° (views {side} px = {side_deg:.2f}°)"
    figure.legend([square], [label], loc="outside lower center")
    return figure


@styled
def loss_terms(metrics: Mapping[str, Mapping[str, ArrayLike]]) -> Figure:
    """Loss of every stage and its two terms over training steps.

    Parameters
    ----------
    metrics : mapping of str to mapping
        Stage to ``step``, ``loss``, ``similarity`` and ``decorrelation``, each array_like of shape (line,).

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no stage.

    Examples
    --------
    >>> line = {"step": [0, 10], "loss": [9.0, 3.0], "similarity": [8.0, 2.0], "decorrelation": [2.0, 1.0]}
    >>> [axes.get_title() for axes in loss_terms({"V1": line}).axes]
    ['V1']
    """
    figure, panels = _panels(metrics, height_in=2.7)
    for axes, (stage, lines) in zip(panels, metrics.items(), strict=True):
        step = np.asarray(lines["step"])
        for name, label, look in (
            ("loss", "loss", {"color": "black", "linewidth": 1.4}),
            ("similarity", "similarity term  Σ (1 − C_ii)²", {"color": BLUE, "linewidth": 1.1}),
            ("decorrelation", "decorrelation term  Σ C_ij², unweighted", {"color": VERMILION, "linewidth": 1.1}),
        ):
            value = np.asarray(lines[name], dtype=np.float64)
            # One point is no line; a log axis has no place for 0.
            axes.plot(step, np.where(value > 0, value, np.nan), label=label, marker="o" * (len(step) == 1), **look)
        axes.set(title=plain(stage), xlabel="training step", ylabel="value per batch", yscale="log")
        # Powers of ten as exponents would be smaller than all other text.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


@styled
def correlation_matrix(matrices: Mapping[str, ArrayLike]) -> Figure:
    """Cross-correlation of features between the two views, for every stage.

    Parameters
    ----------
    matrices : mapping of str to array_like, shape (feature, feature)
        Stage to matrix; rows are features of the first view.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no matrix or one is not square.

    Examples
    --------
    >>> print(correlation_matrix({"V1": np.eye(4)}).axes[0].get_title())
    V1: diagonal mean 1.00,
    elsewhere root mean square 0.000
    """
    figure, panels = _panels(matrices, height_in=3.4, single_width_in=4.6)
    image = None
    for axes, (stage, matrix) in zip(panels, matrices.items(), strict=True):
        c = np.asarray(matrix, dtype=np.float64)
        if c.ndim != 2 or c.shape[0] != c.shape[1] or not len(c):
            raise ValueError(f"The correlation of {stage} has shape {c.shape}; expected (feature, feature).")
        image = axes.imshow(c, cmap="RdBu_r", vmin=-1, vmax=1)
        off = c[~np.eye(len(c), dtype=bool)]
        elsewhere = f",\nelsewhere root mean square {np.sqrt((off**2).mean()):.3f}" if off.size else ""
        axes.set(
            title=f"{plain(stage)}: diagonal mean {c.diagonal().mean():.2f}{elsewhere}",
            xlabel="feature, second view",
            ylabel="feature, first view",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True))
        axes.spines[:].set_visible(True)
    assert image is not None
    figure.colorbar(image, ax=panels, label="cross-correlation C_ij", shrink=0.8, pad=0.02)
    return figure


@styled
def driving_patches(
    patches: ArrayLike, *, stage: str, size_px: float, pixels_per_degree: float = PIXELS_PER_DEGREE
) -> Figure:
    """Image patches that drive the units of a stage most.

    Parameters
    ----------
    patches : array_like of uint8, shape (unit, rank, channel, side, side)
        For every unit its patches in falling order of response; 1 or 3 channels.
    stage : str
        Name of the stage; plain text.
    size_px : float
        Side of the receptive field; drawn where the patches are larger.
    pixels_per_degree : float
        Pixels of the image per degree of visual angle.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the patches have another shape or type.

    Examples
    --------
    >>> patches = np.zeros((3, 5, 1, 67, 67), dtype=np.uint8)
    >>> driving_patches(patches, stage="V2", size_px=67).axes[0].get_ylabel()
    'unit of V2'
    """
    shown = np.asarray(patches)
    if shown.ndim != 5 or shown.shape[2] not in (1, 3) or min(shown.shape) == 0 or shown.dtype != np.uint8:
        raise ValueError(
            f"patches are {shown.dtype} of shape {shown.shape}; "
            "expected uint8 of shape (unit, rank, 1 or 3 channels, side, side)."
        )
    units, ranks, _, side, _ = shown.shape
    gap = max(2, side // 16)
    cell_in = min(0.62, 7.2 / ranks)
    figure = Figure((min(WIDTH_IN, max(4.5, 0.8 + cell_in * ranks)), 0.9 + cell_in * units), layout="constrained")
    axes = figure.add_subplot()
    _mosaic(axes, _rgb(shown.reshape(units * ranks, *shown.shape[2:]) / 255), ranks, gap)
    if size_px < side:
        for place in range(units * ranks):
            row, column = divmod(place, ranks)
            inset = gap + (side - size_px) / 2
            _receptive_field(axes, column * (side + gap) + inset, row * (side + gap) + inset, size_px)
    middle = gap + side / 2
    axes.set_xticks(np.arange(ranks) * (side + gap) + middle, [str(k + 1) for k in range(ranks)])
    axes.set_yticks(np.arange(units) * (side + gap) + middle, [str(k + 1) for k in range(units)])
    axes.tick_params(length=0)
    size = f"each patch {side} px = {degrees(side, pixels_per_degree):.2f}°"
    if size_px < side:
        size += f", framed: receptive field {size_px:g} px = {degrees(size_px, pixels_per_degree):.2f}°"
    axes.set(xlabel=f"rank of the patch (1 drives the unit most)\n{size}", ylabel=f"unit of {plain(stage)}")
    return figure


@styled
def ablation(table: Sequence[Mapping[str, Any]]) -> Figure:
    """Measures of every rule of an ablation: each seed and their mean.

    Parameters
    ----------
    table : sequence of mapping
        One per run: ``rule``, ``held_fixed`` (what did not follow the rule), ``seed``, and any number of measures by
        name, numbers; a run without a measure, or with None or NaN, has no point there.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the table holds no run or no measure.

    Examples
    --------
    >>> runs = [{"rule": rule, "held_fixed": "patch side", "seed": 0, "loss": 1.0} for rule in ("matched", "under")]
    >>> ablation(runs).axes[0].get_ylabel()
    'loss'
    """
    measures = {name: None for row in table for name in row if name not in ("rule", "held_fixed", "seed")}
    if not measures:
        raise ValueError(f"An ablation of {len(table)} runs names no measure; expected at least one run with one.")
    rules = list(dict.fromkeys(row["rule"] for row in table))
    known = [rule for rule in ("matched", "under", "over", "reversed") if rule in rules]
    rules = known + [rule for rule in rules if rule not in known]
    kinds = list(dict.fromkeys(row["held_fixed"] for row in table))
    looks = [(BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (GREY, "D")]
    figure, panels = _panels(measures, height_in=2.5)
    handles = []
    for k, kind in enumerate(kinds):
        colour, marker = looks[k % len(looks)]
        runs = [row for row in table if row["held_fixed"] == kind]
        seeds = len({row["seed"] for row in runs})
        look = {"color": colour, "marker": marker, "markersize": 5}
        handles.append(
            Line2D([], [], **look, label=f"{plain(kind)} held fixed: {seeds} seed{'s' * (seeds > 1)}, line: mean")
        )
        for axes, measure in zip(panels, measures, strict=True):
            for position, rule in enumerate(rules):
                values = np.array(
                    [row[measure] for row in runs if row["rule"] == rule and row.get(measure) is not None], dtype=float
                )
                values = values[np.isfinite(values)]
                if not len(values):
                    continue
                centre = position + 0.36 * (k - (len(kinds) - 1) / 2)
                spread = np.linspace(-0.08, 0.08, len(values)) if len(values) > 1 else np.zeros(1)
                axes.plot(centre + spread, values, **look, linestyle="none", alpha=0.65, markeredgewidth=0)
                axes.plot([centre - 0.15, centre + 0.15], [values.mean()] * 2, color=colour, linewidth=2.2)
    for axes, measure in zip(panels, measures, strict=True):
        axes.set(ylabel=plain(measure.replace("_", " ")), xlabel="rule", xlim=(-0.5, len(rules) - 0.5))
        axes.set_xticks(range(len(rules)), [plain(str(rule)) for rule in rules])
        axes.margins(y=0.12)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(panels), 2))
    return figure


def _bank(weights: ArrayLike) -> NDArray[np.float64]:
    bank = np.asarray(weights, dtype=np.float64)
    if bank.ndim != 4 or bank.shape[1] not in (1, 3) or min(bank.shape) == 0:
        raise ValueError(f"filters have shape {bank.shape}; expected (filter, 1 or 3 channels, height, width).")
    return bank


def _tiles(bank: NDArray[np.float64], scale: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Filters as pictures, (filter, height, width, 3) in [0, 1], around mid-grey."""
    largest = np.abs(bank).max(axis=(1, 2, 3), keepdims=True) if scale is None else scale
    return _rgb(np.clip(0.5 + 0.5 * bank / np.where(largest > 0, largest, 1), 0, 1))


def _rgb(pictures: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 1 or 3, height, width) to (..., height, width, 3)."""
    last = np.moveaxis(pictures, -3, -1)
    return np.broadcast_to(last, (*last.shape[:-1], 3))


def _mosaic(axes: Axes, tiles: NDArray[np.float64], columns: int, gap: int) -> None:
    """Pictures (n, height, width, 3) row by row; the first one's corner is at (gap, gap) in data coordinates, in px."""
    n, height, width, _ = tiles.shape
    rows = ceil(n / columns)
    canvas = np.ones((rows * (height + gap) + gap, columns * (width + gap) + gap, 3))
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    axes.imshow(canvas, extent=(0, canvas.shape[1], canvas.shape[0], 0), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _receptive_field(axes: Axes, left: float, top: float, size_px: float) -> None:
    # White on both sides keeps the line visible on any picture.
    line = {"edgecolor": VERMILION, "linewidth": 1.2, "path_effects": [withStroke(linewidth=2.6, foreground="white")]}
    axes.add_patch(Rectangle((left, top), size_px, size_px, fill=False, clip_on=False, **line))


def _panels(content: Mapping[str, Any], *, height_in: float, single_width_in: float = 5.5) -> tuple[Figure, list[Axes]]:
    """Two panels to a row, as many as there is content."""
    if not content:
        raise ValueError("There is nothing to draw; expected at least one panel.")
    columns = min(2, len(content))
    rows = ceil(len(content) / columns)
    figure = Figure((WIDTH_IN if columns == 2 else single_width_in, height_in * rows + 0.4))
    figure.set_layout_engine("constrained", wspace=0.04, hspace=0.04)
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in grid[len(content) :]:
        spare.remove()
    return figure, grid[: len(content)]
