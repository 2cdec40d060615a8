"""Tables, figures and the page of probes: what ``lcl probe`` writes."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lcl.align import save, write_csv
from lcl.report import name_table, paragraph, section
from neural_fits.figures import COLOURS, folded
from neural_fits.fits import write_dataset
from stimuli.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, WIDTH_IN, plain, styled
from vision_methods.probe_tables import EXAMPLE_CLUSTERS, WEIGHTS, Example
from vision_methods.segments import VOID

#: Measures of classes of pictures, and of pixels and objects, with their axis labels; shares of 1.
LABELS = {
    "linear accuracy": "accuracy of the linear probe\n(share of held-out pictures)",
    "neighbours accuracy": "accuracy of nearest neighbours\n(share of held-out pictures)",
    "mean IoU": "mean IoU of the linear\nsegmentation probe",
    "average best overlap": "average best overlap\n(mean IoU over objects)",
    "object recovery": "object recovery (share of\nobjects with IoU > 0.5)",
}
#: What the line of each measure is, and how it is drawn.
REFERENCES: dict[str, tuple[str, Any]] = {
    "linear accuracy": ("the commonest class at every picture", ":"),
    "neighbours accuracy": ("the commonest class at every picture", ":"),
    "mean IoU": ("mean IoU: background at every pixel", ":"),
    "average best overlap": ("objects: clusters of the places alone", "--"),
    "object recovery": ("objects: clusters of the places alone", "--"),
}

#: Colours of the classes with the largest areas; the background and the others.
CLASS_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, "#F0E442", "#8C564B", "#17BECF", "#B2DF8A", "#6A3D9A")
GROUND, OTHERS, VOIDS = "#E8E8E8", "#5A5A5A", "black"


def merged(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Records of the two kinds of probes in one.

    Examples
    --------
    >>> merged([{"a": 1, "reference": {"x": 0.1}}, {"reference": {"y": 0.2}}])
    {'a': 1, 'reference': {'x': 0.1, 'y': 0.2}}
    """
    together: dict[str, Any] = {}
    reference: dict[str, float] = {}
    for record in records:
        reference |= record["reference"]
        together |= record
    return {**together, "reference": reference}


@styled
def probe_dots(table: xr.Dataset, measures: Sequence[str]) -> Figure:
    """Scores of every layer with its own and with random weights, intervals, and what needs no feature.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`vision_methods.probe_tables.probe_table`.
    measures : sequence of str
        A panel for each.

    Returns
    -------
    Figure
    """
    models = list(dict.fromkeys(table.model.values.tolist()))
    names = [
        folded(f"{model}  {layer}", 26)
        for model, layer in zip(table.model.values.tolist(), table.layer.values.tolist(), strict=True)
    ]
    heights = [0.1 + 0.17 * (1 + name.count("\n")) for name in names]
    figure = Figure((WIDTH_IN, 1.5 + max(sum(heights), 0.28 * len(names))), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(measures), sharey=True))
    for axes, measure in zip(panels, measures, strict=True):
        for y, model in enumerate(table.model.values.tolist()):
            colour = COLOURS[models.index(model) % len(COLOURS)]
            for weights, at, fill in ((WEIGHTS[1], y + 0.17, "white"), (WEIGHTS[0], y - 0.1, colour)):
                one = table.isel(row=y).sel(weights=weights, measure=measure)
                if np.isfinite(one.score):
                    axes.plot(one.score_interval.values, [at, at], color=colour, linewidth=1.4)
                    axes.plot(float(one.score), at, "o", color=colour, markerfacecolor=fill, markersize=5)
        reference = float(table.reference.sel(measure=measure))
        axes.axvline(reference, color=GREY, linestyle=REFERENCES[measure][1], linewidth=1.2)
        axes.set_xlabel(LABELS[measure])
        axes.set_xlim(left=0)
        axes.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.6)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    panels[0].set_ylabel("model and layer")
    dot: dict[str, Any] = {"color": "black", "marker": "o", "markersize": 5, "linewidth": 1.4}
    percent = f"{100 * float(table.attrs['confidence']):g} %"
    handles = [
        Line2D([], [], label=f"trained or fixed weights, {percent} interval", **dot),
        Line2D([], [], label=f"random weights, {percent} interval", markerfacecolor="white", **dot),
        *(
            Line2D([], [], color=GREY, linestyle=style, linewidth=1.2, label=text)
            for text, style in dict.fromkeys(REFERENCES[measure] for measure in measures)
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@styled
def example_panels(examples: Sequence[Example], *, segmented: tuple[str, str], clustered: tuple[str, str]) -> Figure:
    """Held-out photographs, their annotated classes, the classes read from a layer, and the clusters of a layer.

    Parameters
    ----------
    examples : sequence of Example
        From :func:`vision_methods.probe_tables.segmentation`.
    segmented, clustered : pair of str
        Model and layer.

    Returns
    -------
    Figure
    """
    maps = [each.ravel() for example in examples for each in (example.truth, example.predicted[segmented])]
    present, area = np.unique(np.concatenate(maps), return_counts=True)
    ranked = [int(k) for k in present[np.argsort(-area)] if k not in (0, VOID)]
    colour_of = {k: CLASS_COLOURS[i] if i < len(CLASS_COLOURS) else OTHERS for i, k in enumerate(ranked)}
    colour_of |= {0: GROUND, VOID: VOIDS}
    codes = sorted(colour_of)
    classes = ListedColormap([colour_of[k] for k in codes])
    figure = Figure((WIDTH_IN, 0.9 + 1.55 * len(examples)), layout="constrained")
    panels = np.atleast_2d(figure.subplots(len(examples), 4))
    titles = (
        "photograph",
        "annotated classes",
        "classes read from\n" + folded(" ".join(segmented), 28),
        f"{EXAMPLE_CLUSTERS} clusters of\n" + folded(" ".join(clustered), 28),
    )
    for row, example in zip(panels, examples, strict=True):
        row[0].imshow(example.photograph)
        for axes, labels in zip(row[1:3], (example.truth, example.predicted[segmented]), strict=True):
            axes.imshow(
                np.searchsorted(codes, labels), cmap=classes, vmin=-0.5, vmax=len(codes) - 0.5, interpolation="nearest"
            )
        row[3].imshow(
            example.clusters[clustered], cmap="Set2", vmin=0, vmax=EXAMPLE_CLUSTERS - 1, interpolation="nearest"
        )
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title)
    names = examples[0].classes
    shown = [0, *ranked[: len(CLASS_COLOURS)]]
    handles = [Patch(color=colour_of[k], label=plain(names[k])) for k in shown]
    if len(ranked) > len(CLASS_COLOURS):
        handles.append(Patch(color=OTHERS, label="other classes"))
    handles.append(Patch(color=VOIDS, label="void: crowds, two classes"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    return figure


def rows_of(table: xr.Dataset) -> list[dict[str, Any]]:
    """Rows of a table, one for each layer and its weights.

    Parameters
    ----------
    table : xarray.Dataset

    Returns
    -------
    list of dict
        ``model``, ``layer``, ``weights``, ``n_features``; each measure with ``_low`` and ``_high``, and its ``gain``
        over random weights.
    """
    found = []
    n_features = json.loads(table.attrs.get("n_features", "{}"))
    for name in table["row"].values.tolist():
        for weights in WEIGHTS:
            one = table.sel(row=name, weights=weights)
            if not np.isfinite(one.score).any():
                continue
            row: dict[str, Any] = {"model": one.model.item(), "layer": one.layer.item(), "weights": weights}
            row["n_features"] = n_features.get(name, "")
            for measure in table.measure.values.tolist():
                low, high = one.score_interval.sel(measure=measure).values.tolist()
                key = measure.replace(" ", "_")
                row |= {key: float(one.score.sel(measure=measure)), f"{key}_low": low, f"{key}_high": high}
                low, high = one.gain_interval.sel(measure=measure).values.tolist()
                gain = float(one.gain.sel(measure=measure))
                gains = (gain, low, high) if weights == WEIGHTS[0] else (np.nan,) * 3
                row |= dict(zip((f"{key}_gain", f"{key}_gain_low", f"{key}_gain_high"), gains, strict=True))
            found.append(row)
    return found


def score_table(table: xr.Dataset) -> str:
    """HTML table of scores: a row for each layer and its weights, a column for each measure.

    Parameters
    ----------
    table : xarray.Dataset

    Returns
    -------
    str
    """
    measures = table.measure.values.tolist()
    head = "".join(
        f'<th scope="col">{escape(measure)}<small>without features {float(table.reference.sel(measure=measure)):.3f}'
        "</small></th>"
        for measure in measures
    )
    body = ""
    for row in rows_of(table):
        cells = ""
        for measure in measures:
            key = measure.replace(" ", "_")
            gain = ""
            if np.isfinite(row[f"{key}_gain"]):
                gain = (
                    f"<small>{row[f'{key}_gain']:+.3f} ({row[f'{key}_gain_low']:+.3f} to "
                    f"{row[f'{key}_gain_high']:+.3f})</small>"
                )
            cells += f"<td>{row[key]:.3f}<small>{row[f'{key}_low']:.3f} to {row[f'{key}_high']:.3f}</small>{gain}</td>"
        name = f"{row['model']} {row['layer']}" + ", random weights" * (row["weights"] == WEIGHTS[1])
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="scores"><table class="numbers"><thead><tr>'
        f'<th scope="col">model and layer</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _plain(record: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as they were before they were written: lists and mappings from JSON, numbers of Python."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in record.items()}
    return {name: json.loads(each) if str(each)[:1] in ("{", "[") else each for name, each in values.items()}


def write_probes(table: xr.Dataset, examples: Sequence[Example], out: Path, *, command: str) -> list[str]:
    """Write the table (netCDF, CSV) and figures, and a section of a page.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`vision_methods.probe_tables.probe_table`.
    examples : sequence of Example
        From :func:`vision_methods.probe_tables.segmentation`; or none.
    out : Path
        Folder, made where missing.
    command : str
        How the table was made, for the record.

    Returns
    -------
    list of str
        HTML.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_dataset(table.assign_attrs(command=command), out / "probes.nc")
    write_csv(rows_of(table), out / "probes.csv")
    measures = table.measure.values.tolist()
    of_pictures = [measure for measure in measures if measure.endswith("accuracy")]
    of_pixels = [measure for measure in measures if measure not in of_pictures]
    content = ""
    if of_pictures:
        n = f"{table.attrs['n_held_out_pictures']} held-out pictures, {table.attrs['n_train_pictures']} to learn from"
        caption = (
            f"Share of pictures whose class a frozen probe names: {n}. Bars: Wilson's interval for the probe as it is; "
            "another set of training pictures would move the dots as well. Dotted: the commonest class."
        )
        content += save(probe_dots(table, of_pictures), out / "classes.png", caption)
    if of_pixels:
        n = (
            f"{table.attrs['n_held_out_photographs']} photographs with {table.attrs['n_held_out_objects']} objects, "
            f"{table.attrs['n_train_photographs']} photographs to learn from"
        )
        caption = (
            f"Classes of pixels ({table.attrs['level']}) by a frozen linear probe, and objects by clusters of the "
            f"features of each photograph: {n}. Bars: bootstrap over photographs. Lines: without features."
        )
        content += save(probe_dots(table, of_pixels), out / "segments.png", caption)
    if examples and of_pixels:
        given = table.score.sel(weights=WEIGHTS[0])
        best = {
            measure: int(np.argmax(given.sel(measure=measure).values))
            for measure in ("mean IoU", "average best overlap")
        }
        segmented, clustered = ((table.model.values[i].item(), table.layer.values[i].item()) for i in best.values())
        figure = example_panels(examples, segmented=segmented, clustered=clustered)
        caption = (
            "Held-out photographs, and what is read from the layers of the highest mean IoU and average best overlap. "
            "The photographs are the user's: see their licences before passing this page on."
        )
        content += save(figure, out / "examples.png", caption)
    content += paragraph(
        "Nothing of a model was trained here. Below each score: its interval, and the difference to the same network "
        "with random weights on the same pictures, with the bootstrap interval over pictures."
    )
    content += score_table(table) + name_table({**_plain(table.attrs), "command": command})
    return [section("Frozen probes", content)]
