"""The models of a comparison: those that are given, and those that are trained for it, all on the same pictures.

A :class:`Recipe` says how a row comes about and in what it differs from the others. Networks that learn have the two
stages of LCL-V2 unless the row says otherwise, see the same photographs, and take about as much processor time: a step
of one learning rule is not a step of another, so that equal steps would not be an equal budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lcl.analysis import write_analysis
from lcl.checkpoint import read_tensors
from lcl.config import PRESETS as STAGE_PRESETS
from lcl.config import Config
from lcl.recognition_config import RecognitionConfig
from lcl.recognition_report import write_recognition_report
from lcl.recognition_run import read_recognition_config
from lcl.recognition_train import train_recognition
from lcl.report import write_report
from lcl.train import build, choose_device, open_store, read_config
from lcl.train import train as train_stages
from vision_methods.config import MethodConfig
from vision_methods.method_report import write_method_report
from vision_methods.method_run import read_method_config
from vision_methods.presets import PRESETS as METHOD_PRESETS
from vision_methods.train import train_method

#: Settings of all methods on the architecture of LCL-V2, with few photographs: each is in every step.
STAGES = {"backbone": "lcl", "batch": 12, "judge_every": 0, "warmup_epochs": 10.0, "precision": "float32"}


class Recipe(NamedTuple):
    """How a model of a comparison comes about.

    Attributes
    ----------
    about : str
        What it is.
    kind : {"given", "stages", "method", "labels", "untrained"}
        Named as for every command; trained by ``lcl train``; by ``lcl train-method``; by ``lcl recognize train``, whose
        front end it is; or another row's network with random weights.
    source : str
        Name of the model, of the preset of ``lcl train``, of the method, or of the other row.
    preset : str
        Of the method.
    changes : mapping
        Settings that differ from the preset's.
    differs : str
        In what it is not like the others: architecture, pictures, budget; empty where it is.
    """

    about: str
    kind: Literal["given", "stages", "method", "labels", "untrained"]
    source: str
    preset: str = ""
    changes: Mapping[str, Any] = {}
    differs: str = ""


#: Models by the names of their rows.
RECIPES: dict[str, Recipe] = {
    "pixels": Recipe("luminances", "given", "pixels", differs="no learning"),
    "gabor-energy": Recipe("Gabor energy, normalised", "given", "gabor-energy", differs="no learning"),
    "lcl": Recipe("layer by layer, deformations matched to each stage", "stages", "quick"),
    "lcl-untrained": Recipe("the same network with random weights", "untrained", "lcl", differs="no learning"),
    "lcl-under": Recipe(
        "layer by layer, all deformations as of V1", "stages", "quick", changes={"amplitudes": "under"}
    ),
    "lcl-over": Recipe("layer by layer, all deformations as of V2", "stages", "quick", changes={"amplitudes": "over"}),
    "lcl-reversed": Recipe(
        "layer by layer, deformations exchanged", "stages", "quick", changes={"amplitudes": "reversed"}
    ),
    "supervised": Recipe(
        "end to end with labels, the stages of a recognition network",
        "labels",
        "supervised",
        differs="pictures by class; a network above the stages",
    ),
    "detcon-b": Recipe("contrast of masks, momentum target", "method", "detcon", "toy", STAGES | {"epochs": 400}),
    "detcon-s": Recipe("contrast of masks, one network", "method", "detcon", "toy-s", STAGES | {"epochs": 600}),
    "odin": Recipe("contrast of masks that the network finds", "method", "odin", "toy", STAGES | {"epochs": 450}),
    "moclr": Recipe(
        "contrast of whole pictures, momentum target",
        "method",
        "vito",
        "moclr",
        STAGES | {"still": True, "pairs_per_clip": 1, "epochs": 600},
    ),
    "hummingbird": Recipe(
        "contrast with context from other pictures",
        "method",
        "hummingbird",
        "toy",
        {"batch": 12, "judge_every": 0, "epochs": 600, "warmup_epochs": 10.0},
        "a small transformer",
    ),
    "hummingbird-untrained": Recipe(
        "the same transformer with random weights",
        "untrained",
        "hummingbird",
        differs="a small transformer, no learning",
    ),
}
#: The rows of a preset; ``labelled`` needs pictures by class.
COMPARISONS: dict[str, tuple[str, ...]] = {
    "quick": tuple(name for name, recipe in RECIPES.items() if recipe.kind != "labels"),
    "labelled": tuple(RECIPES),
}


#: What reads the configuration of a run, by the kind of its recipe.
READERS: dict[str, Callable[[Path], Any]] = {
    "stages": lambda run: read_config(run)[0],
    "labels": lambda run: read_recognition_config(run)[0],
    "method": lambda run: read_method_config(run)[1],
}


def trained(
    name: str,
    folder: Path,
    *,
    images: str = "builtin",
    labelled: str = "",
    seed: int = 0,
    budget: float = 1.0,
    device: str = "auto",
    progress: bool = False,
    say: Callable[[str], None] = print,
) -> str:
    """Name of a row's model as the other commands take it; trained first where it has to be, and is not yet.

    Parameters
    ----------
    name : str
        Of :data:`RECIPES`.
    folder : Path
        Holds a run folder for each row that is trained. Training that was stopped goes on.
    images : str
        What is trained on: photographs as for ``lcl train --images``.
    labelled : str
        Pictures by class, for rows of kind ``labels``.
    seed : int
    budget : float
        Share of the recipe's training steps.
    device : str
    progress : bool
    say : callable
        Takes lines of text.

    Returns
    -------
    str
        For :func:`lcl.measure.named_model`.

    Raises
    ------
    ValueError
        If there is no such row.
    FileNotFoundError, FloatingPointError
        As training raises them.

    Examples
    --------
    >>> trained("gabor-energy", Path("runs"))
    'gabor-energy'
    """
    if name not in RECIPES:
        raise ValueError(
            f"there is no row {name!r}; expected some of {', '.join(RECIPES)}, or a model by its own name."
        )
    recipe = RECIPES[name]
    options = {
        "images": images,
        "labelled": labelled,
        "seed": seed,
        "device": device,
        "progress": progress,
        "say": say,
        "budget": budget,
    }
    if recipe.kind == "given":
        return recipe.source
    if recipe.kind == "untrained":
        return f"untrained:{trained(recipe.source, folder, **options)}"
    run = folder / name
    if recipe.kind == "labels" and not labelled:
        raise ValueError(f"{name} learns from labels; give pictures by class with --images.")
    shown = labelled if recipe.kind == "labels" else images
    config = settings(recipe, images=shown, seed=seed, device=device, budget=budget)
    going_on = (run / "state.safetensors").is_file()
    if going_on and READERS[recipe.kind](run) != config:
        raise ValueError(f"{run} was trained with other settings; give another folder, or remove it.")
    found = str(run / "front" if recipe.kind == "labels" else run)
    if (run / "report.html").is_file():
        return found
    say(f"{name}: {'goes on' if going_on else 'is trained'} ({recipe.about})")
    if isinstance(config, Config):
        store = open_store(config, build(config), progress=progress)
        model = train_stages(config, run, store=store, resume=going_on, preset=recipe.source, progress=progress)
        seconds = float(read_tensors(run / "state.safetensors")[1]["seconds"])
        write_analysis(run, config, model, store, choose_device(config.device), seconds=seconds)
        write_report(run)
    elif isinstance(config, RecognitionConfig):
        train_recognition(config, run, resume=going_on, preset="quick", progress=progress, say=say)
        write_recognition_report(run)
    else:
        options = {"resume": going_on, "preset": recipe.preset, "progress": progress, "say": say}
        train_method(recipe.source, config, run, **options)
        write_method_report(run)
    return found


def settings(
    recipe: Recipe, *, images: str, seed: int, device: str, budget: float = 1.0
) -> Config | RecognitionConfig | MethodConfig:
    """Configuration that a row is trained with.

    Parameters
    ----------
    recipe : Recipe
        Of kind ``stages``, ``labels`` or ``method``.
    images, seed, device
        As in :func:`trained`.
    budget : float
        Share of the training steps.

    Returns
    -------
    Config, RecognitionConfig or MethodConfig

    Raises
    ------
    ValueError
        If the budget is not positive.

    Examples
    --------
    >>> settings(RECIPES["lcl"], images="builtin", seed=0, device="cpu", budget=0.1).steps
    (150, 50)
    """
    if not budget > 0:
        raise ValueError(f"budget is {budget}; expected a positive share of the training steps.")
    given = {**recipe.changes, "images": images, "seed": seed, "device": device}
    if recipe.kind == "stages":
        config = dataclasses.replace(STAGE_PRESETS[recipe.source](), **given)
        steps = tuple(max(1, round(budget * n)) for n in config.steps)
        return (
            config if budget == 1 else dataclasses.replace(config, steps=steps, warmup=min(config.warmup, min(steps)))
        )
    if recipe.kind == "labels":
        start = dataclasses.replace(RecognitionConfig(), front_end=recipe.source, **given)
        return start if budget == 1 else dataclasses.replace(start, epochs=max(1, round(budget * start.epochs)))
    config = dataclasses.replace(METHOD_PRESETS[recipe.source][recipe.preset](), **given)
    return config if budget == 1 else dataclasses.replace(config, epochs=max(1, round(budget * config.epochs)))
