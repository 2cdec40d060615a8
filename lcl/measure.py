"""Models by name, measured against recordings: what ``lcl fit`` does, as functions."""

import csv
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from lcl.checkpoint import load, read_json, run_folder, shipped
from lcl.report import name_table, page, picture, section, write_report
from lcl.stages import StageChain
from neural_fits import figures
from neural_fits.baselines import BASELINES, alexnet, untrained
from neural_fits.fits import fit_features, recording_features, write_fit
from neural_fits.recordings import Recording
from neural_fits.regressions import REGRESSIONS
from neural_fits.vision_model import VisionModel, layer_names, load_model
from stimuli.drawing import png
from stimuli.files import replacing

#: Side of the input of a trained run, px: Brain-Score's 8 degrees at the usual 28 px/deg.
INPUT_PX = 224


def named_model(
    name: str, *, seed: int = 0, loaders: Mapping[str, Callable[..., VisionModel]] | None = None
) -> VisionModel:
    """Model that a name of the command line stands for.

    Parameters
    ----------
    name : str
        A run folder; ``lcl-v2-small``, which comes with the package; ``pixels``, ``gabor-energy``,
        ``steerable-pyramid``; ``alexnet:FILE.npz``; ``untrained:NAME``, any of these with new random weights; or
        ``module:function``, a function without arguments that returns a torch module or a
        :class:`neural_fits.vision_model.VisionModel`.
    seed : int
        Of ``untrained:``.
    loaders : mapping of str to callable, optional
        What reads run folders of other kinds than ``lcl train``'s, by the ``kind`` in their config.json: functions of
        the folder and ``seed=``, as :func:`run_model`.

    Returns
    -------
    VisionModel

    Raises
    ------
    ValueError
        If the name stands for nothing.
    FileNotFoundError
        If a file or run folder is missing.

    Examples
    --------
    >>> named_model("pixels").layers
    ('pixels',)
    """
    kind, _, rest = name.partition(":")
    if kind == "untrained" and rest:
        if is_run(str(run_folder(rest))):
            return run_model(rest, seed=seed, loaders=loaders)
        return untrained(named_model(rest, seed=seed), seed=seed)
    if kind == "alexnet":
        if not rest:
            raise ValueError("alexnet needs its weights: give alexnet:FILE.npz (keys features.0.weight ...).")
        return alexnet(Path(rest))
    if name in BASELINES:
        return BASELINES[name]()
    if is_run(str(run_folder(name))):
        return run_model(name, loaders=loaders)
    if rest and not Path(name).exists():
        return load_model(name)
    raise ValueError(
        f"model {name!r} is unknown; expected a run folder, {', '.join([*shipped(), *sorted(BASELINES)])}, "
        "alexnet:FILE.npz, untrained:MODEL or module:function."
    )


def named_models(
    names: Sequence[str], *, seed: int = 0, loaders: Mapping[str, Callable[..., VisionModel]] | None = None
) -> dict[str, VisionModel]:
    """Models by a short name each: their own; where two have the same, the end of what the user wrote that differs.

    Parameters
    ----------
    names : sequence of str
        As in :func:`named_model`.
    seed : int
    loaders : mapping of str to callable, optional

    Returns
    -------
    dict of str to VisionModel

    Examples
    --------
    >>> list(named_models(["pixels", "gabor-energy"]))
    ['pixels', 'gabor-energy']
    """
    models = [named_model(name, seed=seed, loaders=loaders) for name in names]
    own = [model.name for model in models]
    ends = [[name.rstrip("/").split("/")[-n:] for name in names] for n in range(1, 64)]
    short = next((each for each in ends if len(set(map(tuple, each))) == len(set(names))), [[name] for name in names])
    return {
        "/".join(end) if own.count(model.name) > 1 else model.name: model
        for end, model in zip(short, models, strict=True)
    }


def is_run(name: str) -> bool:
    """Whether a name is the path of a run folder, which results can be written into."""
    return (Path(name) / "config.json").is_file()


def run_model(
    run: Path | str, *, seed: int | None = None, loaders: Mapping[str, Callable[..., VisionModel]] | None = None
) -> VisionModel:
    """Trained model of a run folder, seeing ``INPUT_PX`` px at its own resolution.

    Parameters
    ----------
    run : path
    seed : int, optional
        Draw new initial weights instead, as training does: the untrained twin.
    loaders : mapping of str to callable, optional
        As of :func:`named_model`.

    Returns
    -------
    VisionModel
        Its layers are the stages.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`lcl.checkpoint.load`; or if the run is of a kind that nothing here reads.
    """
    run = run_folder(run)
    kind, known = read_json(run / "config.json").get("kind"), loaders or {}
    if isinstance(kind, str) and kind in known:
        return known[kind](run, seed=seed)
    if kind is not None:
        raise ValueError(f"{run} is a run of kind {kind!r}, which cannot be measured; expected one of `lcl train`.")
    chain = load(run)
    name = Path(run).resolve().name
    if seed is not None:
        chain = StageChain.from_spec(chain.spec, torch.Generator().manual_seed(seed))
        name = f"{name}-untrained-seed{seed}"
    return VisionModel(
        module=chain.eval(),
        name=name,
        field_deg=INPUT_PX / chain.pixels_per_degree,
        input_px=INPUT_PX,
        channels=chain.in_channels,
        mean=(0.0,) * chain.in_channels,
        std=(1.0,) * chain.in_channels,
        layers=tuple(chain.names),
    )


def move(models: Mapping[str, VisionModel], device: str) -> None:
    """Move the networks of models to a device; functions stay where they are.

    Parameters
    ----------
    models : mapping of str to VisionModel
    device : str
        Of torch.

    Examples
    --------
    >>> move(named_models(["pixels"]), "cpu")
    """
    for model in models.values():
        if isinstance(model.module, torch.nn.Module):
            model.module.to(device)


def rows_where(recording: Recording, axis: str, text: str) -> np.ndarray:
    """Rows of a recording whose label has, or has not, some values.

    Parameters
    ----------
    recording : Recording
    axis : {"neuron", "stimulus"}
    text : str
        ``LABEL=VALUE,...`` or ``LABEL!=VALUE,...``.

    Returns
    -------
    ndarray of bool

    Raises
    ------
    ValueError
        If there is no such label or value.

    Examples
    --------
    >>> from neural_fits.recordings import recording_from_arrays
    >>> recording = recording_from_arrays(np.ones((2, 1, 3)), neuron={"region": ["V1", "V2", "V2"]})
    >>> rows_where(recording, "neuron", "region!=V1").tolist()
    [False, True, True]
    """
    label, equals, values = text.partition("=")
    without = label.endswith("!")
    label = label.removesuffix("!").strip()
    known = [str(name) for name, of in recording.dataset.coords.items() if of.dims == (axis,)]
    if not equals or label not in known:
        raise ValueError(
            f"{text!r} chooses no {axis}s; expected LABEL=VALUE,... or LABEL!=VALUE,... with a label of "
            f"{', '.join(known)}."
        )
    labels = recording.dataset[label].values.astype(str)
    wanted = [value.strip() for value in values.split(",")]
    for value in wanted:
        if value not in labels:
            some = ", ".join(sorted(set(labels))[:12])
            raise ValueError(f"no {axis} has {label} {value!r}; expected some of {some}.")
    return np.isin(labels, wanted) != without


def regression_of(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a regression written as ``NAME:OPTION=VALUE,...``.

    Parameters
    ----------
    text : str

    Returns
    -------
    name : str
    options : dict
        Numbers where the value is one.

    Raises
    ------
    ValueError
        If the name or an option is unknown.

    Examples
    --------
    >>> regression_of("pls:n_components=10")
    ('pls', {'n_components': 10})
    """
    name, _, rest = text.partition(":")
    if name not in REGRESSIONS:
        raise ValueError(f"regression is {name!r}; expected one of {', '.join(REGRESSIONS)}.")
    taken = list(inspect.signature(REGRESSIONS[name]).parameters)
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        option, equals, value = part.partition("=")
        if option not in taken or not equals:
            raise ValueError(f"{part!r} is no option of {name}; expected OPTION=VALUE with one of {', '.join(taken)}.")
        try:
            options[option] = int(value)
        except ValueError:
            try:
                options[option] = float(value)
            except ValueError:
                options[option] = value
    return name, options


def fit_models(
    models: Mapping[str, VisionModel],
    recording: Recording,
    *,
    splits: Sequence[str],
    regression: str = "pls",
    layers: Sequence[str] | None = None,
    reduction: str | None = None,
    size_deg: float | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    cache: Path | None = None,
    progress: bool = False,
    say: Any = None,
    **options: Any,
) -> dict[str, dict[str, xr.Dataset]]:
    """Fit every model with every way of splitting; activations are computed once.

    Parameters
    ----------
    models : mapping of str to VisionModel
    recording : Recording
    splits : sequence of str
        As in :func:`neural_fits.fits.make_splits`.
    regression, layers, reduction, size_deg
        As in :func:`neural_fits.fits.fit_layers`.
    batch_size, device, cache, progress
        Of the activations.
    say : callable, optional
        Called with a line of text for each layer as soon as it is known.
    **options
        As in :func:`neural_fits.fits.fit_features`.

    Returns
    -------
    dict of str to dict of str to xarray.Dataset
        Tables by splits, then by model.
    """
    chosen = layers_of(models, layers)
    tables: dict[str, dict[str, xr.Dataset]] = {split: {} for split in splits}
    for name, model in models.items():
        features, record = recording_features(
            model,
            recording,
            layers=chosen[name],
            regression=regression,
            reduction=reduction,
            size_deg=size_deg,
            batch_size=batch_size,
            device=device,
            cache=cache,
            progress=progress,
        )
        for split in splits:
            table = fit_features(features, recording, regression=regression, splits=split, progress=progress, **options)
            table.attrs |= record | {"model": name}
            tables[split][name] = table
            if say:
                for line in table_lines(table):
                    say(f"{split}  {line}")
    return tables


def layers_of(models: Mapping[str, VisionModel], patterns: Sequence[str] | None) -> dict[str, list[str]]:
    """Layers of each model that some pattern matches.

    Parameters
    ----------
    models : mapping of str to VisionModel
    patterns : sequence of str, optional
        A pattern need not match in every model. Default: the layers that each model declares, or else has.

    Returns
    -------
    dict of str to list of str

    Raises
    ------
    ValueError
        If a model has none of the layers, or a pattern matches in no model.

    Examples
    --------
    >>> layers_of(named_models(["pixels", "gabor-energy"]), ["pixels", "comp*"])
    {'pixels': ['pixels'], 'gabor-energy': ['complex']}
    """
    if patterns is None:
        return {name: layer_names(model) for name, model in models.items()}
    chosen: dict[str, list[str]] = {name: [] for name in models}
    for pattern in patterns:
        refused = []
        for name, model in models.items():
            try:
                chosen[name] += [layer for layer in layer_names(model, pattern) if layer not in chosen[name]]
            except ValueError as error:
                refused.append(error)
        if len(refused) == len(models):
            raise refused[0]
    for name, layers in chosen.items():
        if not layers:
            raise ValueError(f"{name} has none of the layers {', '.join(patterns)}; add a pattern for it to --layers.")
    return chosen


def table_lines(table: xr.Dataset) -> list[str]:
    """One line for each layer: every score with its interval over neurons, and the control.

    Parameters
    ----------
    table : xarray.Dataset

    Returns
    -------
    list of str
    """
    lines = []
    for row in rows_of(table):
        scores = "  ".join(
            f"{rule} {row[rule]:.3f} [{row[f'{rule}_neurons_low']:.3f}, {row[f'{rule}_neurons_high']:.3f}]"
            for rule in map(str, table.rule.values)
        )
        control = f"  re-ordered {row['reordered']:.3f}" if "reordered" in row else ""
        lines.append(f"{row['model']} {row['layer']}: {scores}{control}")
    return lines


def rows_of(table: xr.Dataset) -> list[dict[str, Any]]:
    """Rows of the table as plain values, one for each layer.

    Parameters
    ----------
    table : xarray.Dataset

    Returns
    -------
    list of dict
    """
    rows = []
    kept = np.ones(table.sizes["neuron"], bool)
    if not np.isnan(table.attrs["min_reliability"]):
        kept = table.reliability.values > table.attrs["min_reliability"]
    for layer in map(str, table.layer.values):
        row: dict[str, Any] = {"model": table.attrs.get("model", ""), "layer": layer}
        for rule in map(str, table.rule.values):
            at = {"layer": layer, "rule": rule}
            row[rule] = float(table.score.sel(at))
            for kind in ("neurons", "images"):
                low, high = table[f"score_interval_{kind}"].sel(at).values
                row[f"{rule}_{kind}_low"], row[f"{rule}_{kind}_high"] = float(low), float(high)
            row["n_neurons"] = int(table.n_neurons.sel(at))
        if "correlation_reordered" in table:
            values = figures.neuron_correlations(table, layer, control=True)[kept]
            row["reordered"] = float(np.nanmedian(values))
        row["n_features"] = int(table.n_features.sel(layer=layer))
        rows.append(row)
    return rows


def write_fits(tables: Mapping[str, Mapping[str, xr.Dataset]], out: Path, *, command: str) -> list[str]:
    """Write netCDF tables, a CSV of the scores and figures, and the sections of a page.

    Parameters
    ----------
    tables : mapping
        From :func:`fit_models`.
    out : Path
        Folder, made where missing.
    command : str
        How the tables were made, for the record.

    Returns
    -------
    list of str
        HTML sections, one for each way of splitting.
    """
    out.mkdir(parents=True, exist_ok=True)
    sections = []
    for split, by_model in tables.items():
        label = split.replace(":", "-")
        rows = [row for table in by_model.values() for row in rows_of(table)]
        for name, table in by_model.items():
            write_fit(table.assign_attrs(command=command), out / f"{label}-{file_name(name)}.nc")
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with replacing(out / f"{label}.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        first = next(iter(by_model.values()))
        rules = list(map(str, first.rule.values))
        best = max(rows, key=lambda row: row[rules[0]])
        drawn = [
            (
                "scores",
                figures.layer_scores(by_model, rule=rules[0]),
                "Score of every layer on held-out images, with the intervals over neurons and over images; crosses: "
                "the same fit of responses re-ordered between images, which has to fall to about zero.",
            ),
            (
                "predicted",
                figures.predicted_measured(by_model[best["model"]], best["layer"]),
                f"Predicted against measured mean responses, {best['model']} {best['layer']}, every point a held-out "
                "image; for the neurons that are predicted best, median and worst. Grey: equality.",
            ),
        ]
        others = sorted((row for row in rows if row["model"] != best["model"]), key=lambda row: -row[rules[0]])
        if others:
            other = others[0]
            drawn.append(
                (
                    "neurons",
                    figures.neuron_scatter(
                        by_model[other["model"]],
                        by_model[best["model"]],
                        layers=(other["layer"], best["layer"]),
                        names=(other["model"], best["model"]),
                    ),
                    "Correlation of each neuron with the best layer of the two best models.",
                )
            )
        pictures = ""
        for name, figure, caption in drawn:
            data = png(figure)
            with replacing(out / f"{label}-{name}.png") as partial:
                partial.write_bytes(data)
            pictures += picture(data, caption=caption, alt=caption, width_in=float(figure.get_figwidth()))
        record = {
            name: first.attrs[name]
            for name in (
                "recording",
                "citation",
                "licence",
                "n_stimuli",
                "n_repeats",
                "regression",
                "regression_options",
                "splits",
                "correlate",
                "ceiling",
                "min_reliability",
                "picture_size_deg",
                "reduction",
                "seed",
            )
            if name in first.attrs
        }
        record["left_out"] = json.loads(str(first.left_out.values[0, 0]))
        record["command"] = command
        title = f"Fit to {first.attrs['recording']}, {split}"
        sections.append(section(title, score_table(rows, rules) + pictures + name_table(record)))
    return sections


def score_table(rows: Sequence[Mapping[str, Any]], rules: Sequence[str]) -> str:
    """HTML table of scores: a row for each layer of each model, a column for each rule.

    Parameters
    ----------
    rows : sequence of mapping
        From :func:`rows_of`.
    rules : sequence of str

    Returns
    -------
    str

    Examples
    --------
    >>> row = {"model": "a", "layer": "b", "raw": 0.5, "raw_neurons_low": 0.4, "raw_neurons_high": 0.6}
    >>> "<td>0.500<small>0.400 to 0.600</small></td>" in score_table([row], ["raw"])
    True
    """
    head = "".join(f'<th scope="col">{escape(rule.replace("_", " "))}</th>' for rule in rules)
    body = []
    for row in rows:
        cells = "".join(
            f"<td>{row[rule]:.3f}<small>{row[low]:.3f} to {row[high]:.3f}</small></td>"
            for rule, low, high in ((rule, f"{rule}_neurons_low", f"{rule}_neurons_high") for rule in rules)
        )
        control = f"<td>{row['reordered']:.3f}</td>" if "reordered" in row else "<td>–</td>"
        name = f"{row['model']} {row['layer']}"
        body.append(f'<tr><th scope="row">{escape(name)}</th>{cells}{control}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="scores"><table class="numbers"><thead><tr>'
        f'<th scope="col">model and layer</th>{head}<th scope="col">re-ordered responses, raw</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def file_name(name: str) -> str:
    """Name of a model as part of a file name.

    Examples
    --------
    >>> file_name("alexnet:data/a.npz")
    'alexnet-data-a.npz'
    """
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.")


def publish(
    sections: Sequence[str],
    out: Path,
    *,
    run: Path | None,
    name: str,
    report: Callable[[Path], Path] = write_report,
) -> Path:
    """Put sections into the report of a run, or into a page of their own.

    Parameters
    ----------
    sections : sequence of str
        HTML.
    out : Path
        Folder of the page where there is no run.
    run : Path, optional
        Run folder whose report takes them.
    name : str
        Name of the section's file, and title of the page.
    report : callable
        Writes the report of the run.

    Returns
    -------
    Path
        The report.
    """
    if run is not None:
        (run / "sections").mkdir(exist_ok=True)
        with replacing(run / "sections" / f"{name}.html") as partial:
            partial.write_text("\n".join(sections), encoding="utf-8")
        return report(run)
    with replacing(out / "report.html") as partial:
        partial.write_text(page(name, [], sections), encoding="utf-8", errors="backslashreplace")
    return out / "report.html"
