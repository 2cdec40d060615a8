"""Is it the match of difficulty to receptive field that matters? Amplitudes and patch sides, varied one at a time.

Both the amplitude of the deformations and the side of the patch can be "proportional to the receptive field". The
ablation varies the amplitude with the patch side held fixed, and the patch side with the amplitude held fixed, under
the rules `matched`, `under` (all stages as the first), `over` (all as the last) and `reversed`. Every model is judged
by the same measures, which do not depend on the rule it was trained under:

- the fraction of first-stage filters that a Gabor function fits and that are tuned for orientation;
- the effective number of features that survive the *matched* deformations on held-out images, for every stage;
- where the images lie in folders by class: accuracy of a ridge classifier on the last stage's features, averaged over
  each quadrant of the image, cross-validated over images.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lcl.analysis import filter_numbers, held_out_loss
from lcl.checkpoint import FORMAT, load, provenance, read_json, write_json
from lcl.config import Config
from lcl.images import ImageStore
from lcl.stages import StageChain
from lcl.train import Geometry, Stream, build, choose_device, geometry, open_store, split, train
from lcl.views import AMPLITUDE_RULES
from stimuli.files import replacing

#: What is held fixed, and the setting that then follows the rule.
HELD_FIXED = {"patch side": "amplitudes", "amplitude": "patches"}


def conditions(rules: Sequence[str] = AMPLITUDE_RULES) -> list[tuple[str, str]]:
    """All conditions of the ablation.

    Parameters
    ----------
    rules : sequence of str

    Returns
    -------
    list of (str, str)
        What is held fixed, and the rule.

    Examples
    --------
    >>> conditions(["matched", "under"])
    [('patch side', 'matched'), ('patch side', 'under'), ('amplitude', 'matched'), ('amplitude', 'under')]
    """
    return [(held, rule) for held in HELD_FIXED for rule in rules]


def condition_geometry(config: Config, held_fixed: str, rule: str) -> tuple[Geometry, ...]:
    """Patches and deformations of every stage under a condition; two conditions that share them are one.

    Parameters
    ----------
    config : Config
        The matched configuration.
    held_fixed : str
        A key of :data:`HELD_FIXED`, or empty for the matched configuration itself.
    rule : str

    Returns
    -------
    tuple of Geometry

    Examples
    --------
    >>> [shape.side_px for shape in condition_geometry(Config(), "amplitude", "over")]
    [67, 67]
    """
    if held_fixed:
        config = dataclasses.replace(config, **{HELD_FIXED[held_fixed]: rule})
    model = build(config)
    return tuple(geometry(model, config, name) for name in model.names)


def class_labels(names: Sequence[str]) -> np.ndarray | None:
    """Number of the class of every image, where images lie in folders by class.

    Parameters
    ----------
    names : sequence of str
        Paths; the class is the name of the folder that holds the file.

    Returns
    -------
    ndarray of int, or None
        None unless there are at least two folders with at least ten images each.

    Examples
    --------
    >>> int(class_labels([f"{kind}/{i}.jpg" for kind in ("cat", "dog") for i in range(10)]).sum())
    10
    >>> class_labels(["a.jpg", "b.jpg"]) is None
    True
    """
    folders, labels, counts = np.unique(
        [Path(name).parent.name for name in names], return_inverse=True, return_counts=True
    )
    return labels if len(folders) > 1 and counts.min() >= 10 else None


@torch.no_grad()
def probe_accuracy(
    model: StageChain, store: ImageStore, labels: np.ndarray, *, seed: int, device: torch.device, folds: int = 5
) -> float:
    """Cross-validated accuracy of a linear read-out of the last stage.

    Features are the last stage's maps, averaged over each quadrant of the image (scaled to a square of 128 px); the
    read-out is scikit-learn's ridge classifier with the penalty chosen inside each training part.

    Parameters
    ----------
    model : StageChain
        In evaluation mode.
    store : ImageStore
    labels : ndarray of int, shape (image,)
    seed : int
        Of the folds.
    device : torch.device
    folds : int

    Returns
    -------
    float
        Share of images named correctly.
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = []
    for start in range(0, len(store), 64):
        pictures = [
            F.interpolate(
                torch.from_numpy(np.array(store[i])).permute(2, 0, 1)[None].float() / 255,
                size=(128, 128),
                mode="bilinear",
                antialias=True,
                align_corners=False,
            )
            for i in range(start, min(start + 64, len(store)))
        ]
        maps = model(torch.cat(pictures).to(device))[model.names[-1]]
        features.append(F.adaptive_avg_pool2d(maps.float(), 2).flatten(1).cpu().numpy())
    classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 5, 11)))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return float(cross_val_score(classifier, np.concatenate(features), labels, cv=parts).mean())


def measure(model: StageChain, config: Config, store: ImageStore, device: torch.device) -> dict[str, float]:
    """Measures of one model of the ablation; see the module.

    Parameters
    ----------
    model : StageChain
        In evaluation mode, on ``device``.
    config : Config
        The *matched* configuration, by whose deformations every model is judged.
    store : ImageStore
        All images.
    device : torch.device

    Returns
    -------
    dict of str to float
    """
    first = model.names[0]
    filters = model[first].conv.weight.detach().float().cpu().numpy()
    measures = {f"{first} Gabor-like (fraction)": filter_numbers(filters, 1.0)["gabor_fraction"]}
    held = store.subset(split(len(store), config.held_out, config.seed)[1])
    for number, name in enumerate(model.names):
        stream = Stream(
            held,
            geometry(model, config, name),
            config.deformation,
            batch=config.per_stage("batch")[number],
            seeds=(config.seed, number, 3),
            device=device,
        )
        numbers, _ = held_out_loss(model, name, stream, readout="centre", weight=1.0)
        measures[f"{name} surviving features (number)"] = numbers["shared_dimension"]
    labels = class_labels(store.names)
    if labels is not None:
        accuracy = probe_accuracy(model, store, labels, seed=config.seed, device=device)
        measures[f"classes from {model.names[-1]} (fraction)"] = accuracy
    return measures


def ablate(
    config: Config,
    out: Path,
    *,
    rules: Sequence[str] = AMPLITUDE_RULES,
    seeds: int = 3,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Train and measure every condition and seed; what is in the table already is not run again.

    Writes ``ablation.csv``, ``ablation.json`` and ``ablation.png``, and one run folder per condition and seed.

    Parameters
    ----------
    config : Config
        The matched configuration; its seed is the first one.
    out : Path
        Folder.
    rules : sequence of str
    seeds : int
        Number of seeds.
    progress : bool
        Show progress bars.
    say : callable
        Takes lines of text for the user.

    Returns
    -------
    list of dict
        One row per condition and seed; an untrained network is the rule "untrained".

    Raises
    ------
    ValueError
        If ``out`` holds the table of another configuration.
    """
    from lcl.figures import ablation as draw

    out.mkdir(parents=True, exist_ok=True)
    table_file = out / "ablation.json"
    settings = json.loads(json.dumps(config.as_dict()))
    rows: list[dict[str, Any]] = []
    if table_file.exists():
        saved = read_json(table_file)
        if saved["config"] != settings:
            raise ValueError(f"{out} holds an ablation with other settings; choose another --out.")
        rows = saved["rows"]
    device = choose_device(config.device)
    store = open_store(config, build(config), progress=progress)
    needed = max(
        shape.region_px for held, rule in conditions(rules) for shape in condition_geometry(config, held, rule)
    )
    if store.sizes.min() < needed:
        raise ValueError(
            f"The smallest image side is {store.sizes.min()} px, but the widest condition reads regions of {needed} "
            "px; give larger images or a smaller --patch-ratio."
        )
    jobs = [(held, rule, seed) for seed in range(seeds) for held, rule in [("", "untrained"), *conditions(rules)]]
    for held, rule, offset in jobs:
        seed = config.seed + offset
        if any((row["held_fixed"], row["rule"], row["seed"]) == (held, rule, seed) for row in rows):
            continue
        matched = dataclasses.replace(config, seed=seed)
        shape = condition_geometry(matched, held, rule)
        same = [row for row in rows if row["seed"] == seed and row["rule"] != "untrained"]
        twin = next((r for r in same if condition_geometry(matched, r["held_fixed"], r["rule"]) == shape), None)
        if rule != "untrained" and twin is not None:  # the same patches and views make the same model
            row = {**twin, "held_fixed": held, "rule": rule}
        else:
            if rule == "untrained":
                model = build(matched).to(device)
                _calibrate(model, matched, store, device)
            else:
                model = _trained(
                    dataclasses.replace(matched, **{HELD_FIXED[held]: rule}),
                    out / f"{HELD_FIXED[held]}-{rule.replace(':', '')}-seed{seed}",
                    store,
                    progress,
                ).to(device)
            row = {"held_fixed": held, "rule": rule, "seed": seed, **measure(model.eval(), matched, store, device)}
        rows.append(row)
        say(", ".join(f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()))
        write_json(table_file, {"format": FORMAT, "config": settings, "rows": rows, **provenance()})
    with replacing(out / "ablation.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    figure = draw([row for row in rows if row["rule"] != "untrained"])
    with replacing(out / "ablation.png") as partial:
        figure.savefig(partial, dpi=150, format="png")
    return rows


def _calibrate(model: StageChain, config: Config, store: ImageStore, device: torch.device) -> None:
    from lcl.analysis import calibrate

    streams = {
        name: Stream(
            store,
            geometry(model, config, name),
            config.deformation,
            batch=config.per_stage("batch")[number],
            seeds=(config.seed, number, 2),
            device=device,
        )
        for number, name in enumerate(model.names)
    }
    calibrate(model, streams)


def _trained(config: Config, run: Path, store: ImageStore, progress: bool) -> StageChain:
    if (run / "weights.safetensors").exists():
        return load(run)
    resume = (run / "state.safetensors").exists()
    return train(config, run, store=store, resume=resume, progress=progress, say=lambda line: None)


def summary_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table as text: mean and range over seeds of every condition.

    Parameters
    ----------
    rows : sequence of dict
        As :func:`ablate` gives them.

    Returns
    -------
    list of str

    Examples
    --------
    >>> rows = [{"held_fixed": "amplitude", "rule": "under", "seed": s, "x": float(s)} for s in (0, 1)]
    >>> summary_lines(rows)[-1]
    '| amplitude | under | 2 | 0.5 (0 to 1) |'
    """
    measures = [key for key in rows[0] if key not in ("held_fixed", "rule", "seed")]
    lines = [
        "| held fixed | rule | seeds | " + " | ".join(measures) + " |",
        "|---|---|---|" + "---|" * len(measures),
    ]
    for held, rule in dict.fromkeys((row["held_fixed"], row["rule"]) for row in rows):
        found = [row for row in rows if (row["held_fixed"], row["rule"]) == (held, rule)]
        cells = []
        for key in measures:
            values = [row[key] for row in found]
            cells.append(f"{np.mean(values):.3g} ({min(values):.3g} to {max(values):.3g})")
        lines.append(f"| {held or '-'} | {rule} | {len(found)} | " + " | ".join(cells) + " |")
    return lines
