"""The run folder of a comparison method: what ``lcl train-method`` leaves behind, and how it is read back.

Laid out as that of ``lcl train`` (:mod:`lcl.checkpoint`); config.json says the kind ``method``, and weights.safetensors
holds the backbone alone: heads, targets and the optimiser are in state.safetensors.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lcl import distributed
from lcl.checkpoint import (
    FORMAT,
    check_format,
    command_line,
    provenance,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from lcl.measure import INPUT_PX
from neural_fits.vision_model import VisionModel
from vision_methods.backbones import Backbone
from vision_methods.config import MethodConfig
from vision_methods.learner import Learner
from vision_methods.methods import METHODS

KIND = "method"


def is_method_run(path: Path | str) -> bool:
    """Whether a path is the run folder of a comparison method.

    Examples
    --------
    >>> is_method_run("no-such-run")
    False
    """
    file = Path(path) / "config.json"
    return file.is_file() and read_json(file).get("kind") == KIND


def write_config(run: Path, name: str, config: MethodConfig, learner: Learner, preset: str) -> None:
    """Write config.json: everything that is needed to understand or repeat the run."""
    backbone = learner.backbone
    write_json(
        run / "config.json",
        {
            "format": FORMAT,
            "kind": KIND,
            "method": name,
            "about": METHODS[name].about,
            "preset": preset,
            "command": command_line(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "config": config.as_dict(),
            "model": {
                "backbone": config.backbone,
                "layer": config.layer or backbone.layers[-1],
                "channels": dict(backbone.channels),
                "pixels_per_degree": config.pixels_per_degree,
            },
            "images": learner.about_data,
            "steps_per_epoch": learner.steps_per_epoch,
            "processes": distributed.world_size(),
            **provenance(),
        },
    )


def write_results(run: Path, backbone: Backbone, **numbers: float) -> None:
    """Write the numbers of the run, then the weights of its backbone, whose file says that training has finished."""
    write_json(run / "summary.json", {"format": FORMAT, **numbers, **provenance()})
    write_tensors(run / "weights.safetensors", backbone.state_dict())


def read_method_config(run: Path | str) -> tuple[str, MethodConfig, dict[str, Any]]:
    """Method and settings of a run, and everything else its config.json holds.

    Parameters
    ----------
    run : path

    Returns
    -------
    name : str
    config : MethodConfig
        Of the method's class.
    everything : dict

    Raises
    ------
    FileNotFoundError
        If there is no config.json.
    ValueError
        If it is damaged, or of another kind of run.
    """
    file = Path(run) / "config.json"
    everything = read_json(file)
    check_format(file, everything.get("format"))
    if everything.get("kind") != KIND:
        raise ValueError(f"{run} is no run of a comparison method; expected a folder made by `lcl train-method`.")
    name = everything["method"]
    if name not in METHODS:
        raise ValueError(f"{run} is of the method {name!r}; this version has {', '.join(METHODS)}.")
    return name, METHODS[name].config.from_dict(everything["config"]), everything


def load_method(run: Path | str) -> tuple[Backbone, dict[str, Any]]:
    """Trained backbone of a run, ready to be used.

    Parameters
    ----------
    run : path
        Made by ``lcl train-method``.

    Returns
    -------
    Backbone
        In evaluation mode, on the CPU.
    dict
        Everything its config.json holds.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If it is no such run, a file is damaged, or the weights do not fit.
    """
    name, config, everything = read_method_config(run)
    file = Path(run) / "weights.safetensors"
    if not file.is_file():
        raise FileNotFoundError(
            f"{run} holds no weights.safetensors, so its training has not finished; "
            f"go on with `lcl train-method {name} --resume {run}`."
        )
    backbone = METHODS[name].backbone(config, config.seed)
    try:
        backbone.load_state_dict(read_tensors(file)[0])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"The weights in {run} do not fit its config.json: {reason}") from None
    return backbone.eval(), everything


def method_model(run: Path | str, *, seed: int | None = None) -> VisionModel:
    """Trained network of a run as a model to be measured, seeing 224 px at the resolution of its configuration.

    Parameters
    ----------
    run : path
        Made by ``lcl train-method``.
    seed : int, optional
        Draw new initial weights instead, as training does: the untrained twin.

    Returns
    -------
    VisionModel
        Its layers are the backbone's.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_method`; the twin needs no weights.
    """
    name = Path(run).resolve().name
    if seed is None:
        backbone, everything = load_method(run)
    else:
        method, config, everything = read_method_config(run)
        backbone, name = METHODS[method].backbone(config, seed), f"{name}-untrained-seed{seed}"
    return VisionModel(
        backbone.eval(),
        name,
        field_deg=INPUT_PX / everything["model"]["pixels_per_degree"],
        input_px=INPUT_PX,
        layers=backbone.layers,
    )
