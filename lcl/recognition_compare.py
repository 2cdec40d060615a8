"""Twins trained under one recipe and judged on the same pictures: what ``lcl recognize compare`` does, as functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lcl import distributed
from lcl.checkpoint import read_json
from lcl.labelled_images import LabelledImages, central_squares
from lcl.recognition import build_front_end, parse_front_end
from lcl.recognition_config import RecognitionConfig
from lcl.recognition_evaluate import STANDARD, evaluate, with_runs
from lcl.recognition_report import read_table, write_recognition_report, write_table
from lcl.recognition_run import is_recognition_run, load_recognition, read_recognition_config
from lcl.recognition_train import open_data, train_recognition
from lcl.train import choose_device
from neural_fits.content import digest, file_digest
from stimuli.distortions import DISTORTIONS, LEVELS


def twins(front_ends: Sequence[str]) -> dict[str, str]:
    """Front ends by a short name each, all of one shape.

    Parameters
    ----------
    front_ends : sequence of str
        KIND or KIND:RUN; those without a run take the shape of the first run that is named.

    Returns
    -------
    dict of str to str
        Short name (the kind; with the run's name where a kind comes twice) and KIND[:RUN].

    Raises
    ------
    ValueError
        If a front end is unknown or given twice.

    Examples
    --------
    >>> twins(["lcl:runs/a", "supervised"])
    {'lcl': 'lcl:runs/a', 'supervised': 'supervised:runs/a'}
    """
    parsed = [parse_front_end(text) for text in front_ends]
    shape = next((run for _, run in parsed if run), "")
    kinds = [kind for kind, _ in parsed]
    named: dict[str, str] = {}
    for kind, run in parsed:
        name = kind if kinds.count(kind) == 1 else f"{kind}-{Path(run or shape).name}"
        if name in named:
            raise ValueError(f"the front end {name} is given twice; give each once.")
        named[name] = f"{kind}:{run or shape}" if run or shape else kind
    return named


def train_twins(
    config: RecognitionConfig,
    front_ends: Sequence[str],
    out: Path,
    *,
    seeds: int = 3,
    preset: str = "",
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> dict[Path, tuple[str, int]]:
    """Train every front end with every seed under one recipe; what is trained already is left as it is.

    Parameters
    ----------
    config : RecognitionConfig
        The recipe; its seed is the first one.
    front_ends : sequence of str
        As :func:`twins` takes them.
    out : Path
        Folder; run folders are ``out/NAME/seedN``.
    seeds : int
        Number of seeds.
    preset : str
        Name kept in config.json.
    progress : bool
        Show progress bars.
    say : callable
        Takes lines of text for the user.

    Returns
    -------
    dict of Path to (str, int)
        Name of the front end and seed of every run folder.

    Raises
    ------
    ValueError
        If ``seeds`` is below 1, ``out`` holds a run with other settings, or two front ends differ in shape.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected at least 1.")
    named = twins(front_ends)
    shapes = {name: build_front_end(*parse_front_end(text), seed=0).spec for name, text in named.items()}
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if shape != shapes[first]:
            raise ValueError(f"{name} and {first} have stages of different shapes; twins need runs of one shape.")
    cells: dict[Path, tuple[str, int]] = {}
    data = None
    for seed in range(config.seed, config.seed + seeds):
        for name, text in named.items():
            run = out / name / f"seed{seed}"
            cells[run] = (name, seed)
            own = dataclasses.replace(config, front_end=text, seed=seed)
            resume = (run / "state.safetensors").is_file()
            if resume and read_recognition_config(run)[0] != own:
                raise ValueError(f"{run} holds a run with other settings; choose another --out.")
            if (run / "weights.safetensors").is_file():
                continue
            main = distributed.rank() == 0
            channels = shapes[first]["stages"][next(iter(shapes[first]["stages"]))]["in_channels"]
            data = data or open_data(config, channels=channels, progress=progress and main)
            train_recognition(own, run, data=data, resume=resume, preset=preset, progress=progress, say=say)
    return cells


def runs_below(paths: Sequence[Path]) -> dict[Path, tuple[str, int]]:
    """Recognition runs in folders, each with a name for its front end and its seed.

    Parameters
    ----------
    paths : sequence of Path
        Run folders, or folders with run folders below.

    Returns
    -------
    dict of Path to (str, int)

    Raises
    ------
    ValueError
        If a folder holds none, or two runs have one name and seed.

    Examples
    --------
    >>> runs_below([Path("no-such-run")])
    Traceback (most recent call last):
        ...
    ValueError: no-such-run holds no finished recognition run; make one with `lcl recognize train`.
    """
    found: list[Path] = []
    for path in paths:
        inside = [path, *sorted(each.parent for each in path.rglob("config.json") if each.parent != path)]
        finished = [run for run in inside if is_recognition_run(run) and (run / "weights.safetensors").is_file()]
        if not finished:
            raise ValueError(f"{path} holds no finished recognition run; make one with `lcl recognize train`.")
        found += finished
    configs = {run: read_recognition_config(run)[0] for run in found}
    fronts = {config.front_end for config in configs.values()}
    kinds = [parse_front_end(text)[0] for text in fronts]
    cells: dict[Path, tuple[str, int]] = {}
    for run, config in configs.items():
        kind, source = parse_front_end(config.front_end)
        name = kind if kinds.count(kind) == 1 else f"{kind}-{Path(source).name or 'alexnet'}"
        if (name, config.seed) in cells.values():
            raise ValueError(f"{run} is a second run of {name} with seed {config.seed}; give one of them.")
        cells[run] = (name, config.seed)
    return cells


def evaluate_runs(
    cells: dict[Path, tuple[str, int]],
    *,
    images: str = "",
    validation_images: str = "",
    distortions: Sequence[str] = STANDARD,
    device: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Judge runs on the validation images under distortions; answers that a run folder holds already are taken.

    The answers to one distortion are one file, ``RUN/evaluation/NAME.nc``, written when all its levels were shown; the
    file is used again only for the same weights, pictures, levels and code of the distortion.

    Parameters
    ----------
    cells : dict of Path to (str, int)
        Run folders with the name of the front end and the seed.
    images, validation_images : str
        As in the configuration; those of the first run without them.
    distortions : sequence of str
        Of :data:`stimuli.distortions.DISTORTIONS`, at all their levels.
    device : str
    progress : bool
        Show progress bars.

    Returns
    -------
    xarray.Dataset
        As :func:`lcl.recognition_evaluate.evaluate`, with front_end and seed of every run.

    Raises
    ------
    ValueError
        If a distortion is unknown, or the runs differ in classes, input size or channels.
    """
    if unknown := [name for name in distortions if name not in DISTORTIONS]:
        raise ValueError(f"there is no distortion {unknown[0]!r}; expected one of {', '.join(DISTORTIONS)}.")
    loaded = {run: load_recognition(run) for run in cells}
    configs = {run: RecognitionConfig.from_dict(everything["config"]) for run, (_, everything) in loaded.items()}
    first, *others = cells
    config, (net, everything) = configs[first], loaded[first]
    for run in others:
        for what, one, other in (
            ("size_px", config.size_px, configs[run].size_px),
            ("classes", everything["classes"], loaded[run][1]["classes"]),
            ("channels", net.front.in_channels, loaded[run][0].front.in_channels),
        ):
            if one != other:
                raise ValueError(
                    f"{run} and {first} differ in {what}: {other} and {one}; compare runs that share them."
                )
    if images or validation_images:
        config = dataclasses.replace(config, images=images or config.images, validation_images=validation_images)
    validation = open_data(config, channels=net.front.in_channels, progress=progress)[1]
    _check_classes(validation, everything["classes"])
    pictures = central_squares(validation, config.size_px).permute(0, 2, 3, 1).contiguous().numpy()
    shown = digest([pictures, validation.labels])
    weights = {run: file_digest(run / "weights.safetensors") for run in cells}
    place = choose_device(device)
    tables: dict[Path, list[xr.Dataset]] = {run: [] for run in cells}
    for name in ("clean", *distortions):
        asked = {} if name == "clean" else {name: DISTORTIONS[name]}
        what = digest([asked, LEVELS.get(name)])
        keys = {run: f"{weights[run]} {shown} {what} {configs[run].precision}" for run in cells}
        for precision in ("bf16", "float32"):
            asking = [run for run in cells if configs[run].precision == precision]
            missing = [run for run in asking if not _answered(run, name, keys[run])]
            if not missing:
                continue
            table = evaluate(
                {str(run): loaded[run][0] for run in missing},
                pictures,
                validation.labels,
                distortions=asked,
                clean=name == "clean",
                precision=precision,
                device=place,
                progress=progress,
            )
            for number, run in enumerate(missing):
                (run / "evaluation").mkdir(exist_ok=True)
                one = table.isel(run=[number]).drop_vars("run").assign_attrs(key=keys[run])
                write_table(one, run / "evaluation" / f"{name}.nc")
        for run in cells:
            tables[run].append(read_table(run / "evaluation" / f"{name}.nc"))
    combined: list[xr.Dataset] = []
    for run, (name, seed) in cells.items():
        one = xr.concat(tables[run], "condition", combine_attrs="drop_conflicts", data_vars="minimal")
        one = with_runs(one.assign_coords(run=[str(run)]), [name], [seed], everything["classes"])
        write_table(one, run / "evaluation.nc")
        write_recognition_report(run)
        combined.append(one)
    return xr.concat(
        combined, "run", combine_attrs="drop_conflicts", data_vars="minimal", coords="different", compat="equals"
    )


def _answered(run: Path, name: str, key: str) -> bool:
    file = run / "evaluation" / f"{name}.nc"
    return file.is_file() and read_table(file).attrs.get("key") == key


def _check_classes(images: LabelledImages, classes: Sequence[str]) -> None:
    if list(images.classes) != list(classes):
        raise ValueError(
            f"{images.store.label} has the classes {', '.join(images.classes)}, but the network names "
            f"{', '.join(classes)}."
        )


def record_of(config: RecognitionConfig, cells: dict[Path, tuple[str, int]]) -> dict[str, Any]:
    """What a comparison's page says about its runs: the recipe they share, and their seconds of training."""
    seconds = {name: [] for name, _ in cells.values()}
    for run, (name, _) in cells.items():
        seconds[name].append(read_json(run / "summary.json")["seconds"])
    recipe = {key: value for key, value in config.as_dict().items() if key not in ("front_end", "seed")}
    return {"recipe": recipe, "mean seconds of training": {n: float(np.mean(s)) for n, s in seconds.items()}}
