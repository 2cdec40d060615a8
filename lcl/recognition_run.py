"""The run folder of a recognition network: what ``lcl recognize train`` leaves behind, and how it is read back.

Laid out as that of ``lcl train`` (:mod:`lcl.checkpoint`); besides, ``front/`` holds the stages of the front end as a
folder that :func:`lcl.load <lcl.checkpoint.load>` reads, ``evaluation/NAME.nc`` the answers under each distortion, and
``evaluation.nc`` those of the last evaluation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lcl import distributed
from lcl.checkpoint import (
    FORMAT,
    check_format,
    command_line,
    provenance,
    read_json,
    read_tensors,
    read_training_state,
    write_json,
    write_tensors,
    write_training_state,
)
from lcl.labelled_images import LabelledImages
from lcl.recognition import FRONT_ENDS, RecognitionNet, net_of, parse_front_end
from lcl.recognition_config import RecognitionConfig
from neural_fits.content import file_digest


def is_recognition_run(path: Path | str) -> bool:
    """Whether a path is the run folder of a recognition network.

    Examples
    --------
    >>> is_recognition_run("no-such-run")
    False
    """
    file = Path(path) / "config.json"
    return file.is_file() and read_json(file).get("kind") == "recognition"


def load_recognition(run: Path | str) -> tuple[RecognitionNet, dict[str, Any]]:
    """Network of a run folder, ready to be used.

    Parameters
    ----------
    run : path
        Made by ``lcl recognize train``.

    Returns
    -------
    RecognitionNet
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
    run = Path(run)
    everything = read_json(run / "config.json")
    check_format(run / "config.json", everything.get("format"))
    if everything.get("kind") != "recognition":
        raise ValueError(f"{run} is no recognition run; expected a folder made by `lcl recognize train`.")
    if not (run / "weights.safetensors").is_file():
        raise FileNotFoundError(
            f"{run} holds no weights.safetensors, so its training has not finished; "
            f"go on with `lcl recognize train --resume {run}`."
        )
    weights, _ = read_tensors(run / "weights.safetensors")
    net = net_of(everything["config"], everything["model"], everything["classes"])
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"The weights in {run} do not fit its config.json: {reason}") from None
    return net.eval(), everything


def write_config(
    run: Path,
    config: RecognitionConfig,
    net: RecognitionNet,
    images: LabelledImages,
    validation: LabelledImages,
    preset: str,
) -> None:
    """Write config.json: everything that is needed to understand or repeat the run."""
    kind, source = parse_front_end(config.front_end)
    origin: dict[str, Any] = {"kind": kind, "about": FRONT_ENDS[kind].about}
    if FRONT_ENDS[kind].weights == "run":
        origin["weights_sha256"] = file_digest(Path(source) / "weights.safetensors")
    write_json(
        run / "config.json",
        {
            "format": FORMAT,
            "kind": "recognition",
            "preset": preset,
            "command": command_line(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "config": config.as_dict(),
            "front_end": origin,
            "model": net.front.spec,
            "classes": list(images.classes),
            "images": {"training": images.store.summary(), "validation": validation.store.summary()},
            "processes": distributed.world_size(),
            **provenance(),
        },
    )


def read_recognition_config(run: Path) -> tuple[RecognitionConfig, dict[str, Any]]:
    """Settings of a recognition run, and everything else its config.json holds.

    Parameters
    ----------
    run : Path

    Returns
    -------
    RecognitionConfig
    dict

    Raises
    ------
    FileNotFoundError
        If there is no config.json.
    ValueError
        If it is damaged, or of another kind of run.
    """
    everything = read_json(run / "config.json")
    if everything.get("kind") != "recognition":
        raise ValueError(f"{run} is no recognition run; expected a folder made by `lcl recognize train`.")
    return RecognitionConfig.from_dict(everything["config"]), everything


def write_results(run: Path, config: RecognitionConfig, net: RecognitionNet, numbers: dict[str, float]) -> None:
    """Write the weights, the stages as a folder that :func:`~lcl.checkpoint.load` reads, and the numbers of the run."""
    front = run / "front"
    front.mkdir(exist_ok=True)
    write_json(front / "config.json", {"format": FORMAT, "front_end": config.front_end, "model": net.front.spec})
    write_tensors(front / "weights.safetensors", net.front.state_dict())
    write_json(run / "summary.json", {"format": FORMAT, **numbers, **provenance()})
    write_tensors(run / "weights.safetensors", net.state_dict())


def save_state(
    path: Path,
    net: RecognitionNet,
    projection: nn.Module,
    optimisers: Mapping[str, torch.optim.Optimizer],
    position: int,
    seconds: float,
    digests: dict[str, str],
) -> None:
    """Write everything that changes during training, at once."""
    modules: dict[str, nn.Module] = {"net": net, "projection": projection}
    write_training_state(path, modules, optimisers, position=position, seconds=seconds, frozen=json.dumps(digests))


def load_state(
    path: Path, net: RecognitionNet, projection: nn.Module, optimisers: Mapping[str, torch.optim.Optimizer]
) -> tuple[int, float, dict[str, str]]:
    """Put back what :func:`save_state` wrote; gives the steps done, the seconds they took and the frozen digests."""
    modules: dict[str, nn.Module] = {"net": net, "projection": projection}
    position, seconds, notes = read_training_state(path, modules, optimisers)
    return position, seconds, json.loads(notes["frozen"])
