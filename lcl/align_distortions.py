"""Accuracy of layers of models under distortions, beside that of people: the other half of what ``lcl align`` does.

Most pictures of the experiments cannot be passed on. Any labelled pictures can be distorted by the same levels, which
gives accuracies to set beside those of people, but nothing picture by picture: error consistency needs the pictures
that people saw, and is not computed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from lcl.align import save, write_csv
from lcl.labelled_images import LabelledImages, central_squares
from lcl.recognition_evaluate import condition_rows, evaluate
from lcl.recognition_report import write_table
from lcl.report import name_table, paragraph, section
from neural_fits.activations import activations
from neural_fits.behavior.categories import CATEGORIES
from neural_fits.behavior.exclusions import label_value, level_value
from neural_fits.behavior.measures import accuracy
from neural_fits.behavior.readout import READOUTS
from neural_fits.behavior.trials import read_experiment
from neural_fits.figures_behavior import accuracy_curves
from neural_fits.vision_model import VisionModel
from stimuli.distortions import DISTORTIONS, LEVELS

#: Side of the pictures, px, as in the experiments: levels in pixels mean the same.
SIZE_PX = 224

NO_CONSISTENCY = (
    "These are not the pictures that people saw, so only accuracies can be compared: error consistency, which asks "
    "whether two observers err at the same pictures, cannot be computed. People chose among 16 categories, the models "
    "among the {classes} classes of their pictures, so chance differs too."
)


def condition_of(level: Any, conditions: Iterable[str]) -> str:
    """Label in the trials of people of a level of a distortion.

    Parameters
    ----------
    level : object
        Of :data:`stimuli.distortions.LEVELS`.
    conditions : iterable of str
        Of an experiment.

    Returns
    -------
    str
        Empty where people did not see the level.

    Examples
    --------
    >>> condition_of(3, ["c100", "c03"]), condition_of(0.6, ["0.00", "0.60"]), condition_of(4, ["4-10-10"])
    ('c03', '0.60', '4-10-10')
    >>> condition_of(7, ["c100", "c03"])
    ''
    """
    return next((label for label in conditions if level_value(label) == label_value(level)), "")


def people_under(folder: Path | str, distortions: Iterable[str]) -> dict[str, xr.Dataset]:
    """Trials of people in those experiments that a folder holds.

    Parameters
    ----------
    folder : path
        ``raw-data`` of model-vs-human, with a folder for each experiment.
    distortions : iterable of str

    Returns
    -------
    dict of str to xarray.Dataset
        By distortion; one that people were not shown is left out.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it holds none of them.
    """
    folder, distortions = Path(folder).expanduser(), list(distortions)
    found = {
        name: read_experiment(folder / name, observers="subject-*", name=name)
        for name in distortions
        if (folder / name).is_dir()
    }
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no trials of {', '.join(distortions)}; expected a folder for each experiment, as in "
            "raw-data of github.com/bethgelab/model-vs-human (git clone brings them)."
        )
    return found


class LayerReadout(nn.Module):
    """A layer of a model and a read-out of it, as a network that names classes.

    Parameters
    ----------
    model : VisionModel
    layer : str
    readout : object
        Unfitted, of :data:`neural_fits.behavior.readout.READOUTS`.
    images : ndarray of uint8, (image, row, column, channel)
        To fit it to.
    labels : ndarray of int, (image,)
        From 0; every class occurs.
    reduction : str
        As in :func:`neural_fits.activations.activations`.
    size_deg : float, optional
        Width of the pictures; the field of the model without it.
    batch_size : int
    """

    def __init__(
        self,
        model: VisionModel,
        layer: str,
        readout: Any,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        reduction: str = "pool:4",
        size_deg: float | None = None,
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.options: dict[str, Any] = {
            "size_deg": model.field_deg if size_deg is None else size_deg,
            "layers": [layer],
            "reduction": reduction,
            "batch_size": batch_size,
        }
        features = self.features(torch.from_numpy(images).permute(0, 3, 1, 2))
        self.readout = readout.fit(features, labels)
        self.share = np.bincount(labels) / len(labels)

    def features(self, images: Tensor) -> np.ndarray:
        """Features (image, feature) of pictures (B, C, H, W)."""
        found = activations(self.model, images.permute(0, 2, 3, 1).contiguous(), **self.options)[self.layer]
        return np.asarray(found).reshape(len(found), -1)

    def forward(self, images: Tensor) -> Tensor:
        """Probability of every class over its share of the training pictures, (B, class)."""
        scores = self.readout.predict_proba(self.features(images)) / self.share
        return torch.from_numpy(np.ascontiguousarray(scores, np.float32))


def distortion_accuracies(
    models: Mapping[str, VisionModel],
    layers: Mapping[str, Sequence[str]],
    training: LabelledImages,
    shown: LabelledImages,
    *,
    distortions: Sequence[str],
    per_class: int | None = None,
    readout: str = "ridge",
    reduction: str = "pool:4",
    size_deg: float | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Classes that read-outs of layers name for pictures under every level of distortions.

    Parameters
    ----------
    models : mapping of str to VisionModel
    layers : mapping of str to sequence of str
        Of each model.
    training, shown : LabelledImages
        With the same classes: for the read-outs, and to be distorted.
    distortions : sequence of str
        Of :data:`stimuli.distortions.DISTORTIONS`.
    per_class : int, optional
        Most pictures of a class that are shown, chosen by the seed; all without it.
    readout : str
        Of :data:`neural_fits.behavior.readout.READOUTS`.
    reduction, size_deg, batch_size
        As in :class:`LayerReadout`.
    seed : int
        Of the distortions and of the choice.
    progress : bool

    Returns
    -------
    xarray.Dataset
        As :func:`lcl.recognition_evaluate.evaluate` gives it; runs are named "MODEL LAYER" (also the coordinate
        ``front_end``).

    Raises
    ------
    ValueError
        If a distortion or the read-out is unknown, or the classes differ.
    """
    if unknown := [name for name in distortions if name not in DISTORTIONS]:
        raise ValueError(f"there is no distortion {unknown[0]!r}; expected some of {', '.join(DISTORTIONS)}.")
    if readout not in READOUTS:
        raise ValueError(f"readout is {readout!r}; expected one of {', '.join(READOUTS)} under distortions.")
    if training.classes != shown.classes:
        raise ValueError(f"the classes differ: {', '.join(training.classes)} and {', '.join(shown.classes)}.")
    if per_class is not None:
        counts = np.bincount(shown.labels, minlength=len(shown.classes))
        order = np.random.default_rng(seed).permutation(len(shown))
        place = np.empty(len(shown), int)
        for number in range(len(counts)):
            of_class = order[shown.labels[order] == number]
            place[of_class] = np.arange(len(of_class))
        shown = shown.subset(np.flatnonzero(place < per_class))
    images, pictures = (_pictures(each) for each in (training, shown))
    nets = {}
    pairs = [(name, layer) for name in models for layer in layers[name]]
    for name, layer in tqdm(pairs, desc="read-outs", disable=not progress):
        nets[f"{name} {layer}"] = LayerReadout(
            models[name],
            layer,
            READOUTS[readout](),
            images,
            training.labels,
            reduction=reduction,
            size_deg=size_deg,
            batch_size=batch_size,
        )
    table = evaluate(
        nets,
        pictures,
        shown.labels,
        distortions={name: DISTORTIONS[name] for name in distortions},
        seed=seed,
        progress=progress,
    )
    return table.assign_coords(front_end=("run", list(nets)), seed=("run", [seed] * len(nets))).assign_attrs(
        classes=", ".join(shown.classes), training_pictures=len(training), readout=readout, reduction=reduction
    )


def _pictures(found: LabelledImages) -> np.ndarray:
    """Central squares, (image, row, column, 3)."""
    squares = central_squares(found, SIZE_PX).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(np.broadcast_to(squares, (*squares.shape[:3], 3)))


def accuracy_rows(table: xr.Dataset, people: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """Accuracy of every model at every level, with that of people at the level.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`distortion_accuracies`.
    people : mapping of str to xarray.Dataset
        From :func:`people_under`.

    Returns
    -------
    list of dict
        model, distortion, level, accuracy with its 95 % interval over pictures (Wilson), images, and ``condition``,
        ``people_accuracy``, ``people_low``, ``people_high`` (mean, lowest and highest person) and ``people`` (their
        number); empty and NaN where people did not see the level.
    """
    rows = []
    for row in condition_rows(table):
        trials = people.get(row["distortion"])
        condition = "" if trials is None else condition_of(row["level"], trials.condition.values.tolist())
        each = np.full(1, np.nan)
        if trials is not None and condition:
            right = trials.correct.sel(condition=condition)
            each = np.array([accuracy(right.sel(observer=one).values) for one in right.observer.values])
        rows.append(
            {
                "model": row["front_end"],
                **{name: row[name] for name in ("distortion", "level", "accuracy", "low", "high", "images")},
                "condition": condition,
                "people_accuracy": float(each.mean()),
                "people_low": float(each.min()),
                "people_high": float(each.max()),
                "people": len(each) if condition else 0,
            }
        )
    return rows


def mean_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each model: clean accuracy, and the mean over the levels that people saw distorted, beside people.

    Parameters
    ----------
    rows : sequence of mapping
        From :func:`accuracy_rows`.

    Returns
    -------
    list of str

    Examples
    --------
    >>> row = {"model": "net", "accuracy": 0.5, "images": 100}
    >>> clean = row | {"distortion": "clean", "level": "", "accuracy": 0.75, "people_accuracy": np.nan}
    >>> mean_lines([clean, row | {"distortion": "rotation", "level": "90", "people_accuracy": 0.9}])
    ['net: clean accuracy 0.750, mean over distortions 0.500 (100 pictures); people at the same levels 0.900']
    """
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        clean = next(row for row in own if row["distortion"] == "clean")
        first = {name: str(levels[0]) for name, levels in LEVELS.items()}
        hard = [row for row in own if row["distortion"] != "clean" and row["level"] != first[row["distortion"]]]
        line = f"{model}: clean accuracy {clean['accuracy']:.3f}, mean over distortions {_mean(hard, 'accuracy'):.3f} "
        line += f"({clean['images']} pictures)"
        seen = [row for row in hard if np.isfinite(row["people_accuracy"])]
        if seen:
            line += f"; people at the same levels {_mean(seen, 'people_accuracy'):.3f}"
            line += f", the model there {_mean(seen, 'accuracy'):.3f}" if len(seen) < len(hard) else ""
        lines.append(line)
    return lines


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    """Mean over distortions of the mean over levels."""
    names = dict.fromkeys(row["distortion"] for row in rows)
    return float(np.mean([np.mean([row[key] for row in rows if row["distortion"] == name]) for name in names]))


def write_curves(
    table: xr.Dataset, people: Mapping[str, xr.Dataset], out: Path, *, record: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Write the answers (netCDF), accuracies (CSV) and the figure, and a section of a page.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`distortion_accuracies`.
    people : mapping of str to xarray.Dataset
        From :func:`people_under`; empty: no curves of people.
    out : Path
    record : mapping
        What was done, for the page.

    Returns
    -------
    lines : list of str
        As :func:`mean_lines`.
    sections : list of str
        HTML.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = accuracy_rows(table, people)
    write_table(table.drop_vars(["front_end", "seed"]), out / "distortions.nc")
    write_csv(rows, out / "distortions.csv")
    classes = len(str(table.attrs["classes"]).split(", "))
    shown = [row for row in rows if row["distortion"] != "clean"]
    figure = accuracy_curves(shown, people, chance=1 / classes, people_chance=1 / len(CATEGORIES))
    seen = "; red: people, on other pictures (band: lowest to highest person)" if people else ""
    caption = f"Share of {table.sizes['image']} pictures named right against the level of each distortion{seen}."
    note = NO_CONSISTENCY.format(classes=classes)
    content = paragraph(note) + "".join(paragraph(line) for line in mean_lines(rows))
    content += save(figure, out / "distortions.png", caption) + name_table(dict(record))
    return [*mean_lines(rows), note], [section("Accuracy under distortions, models and people", content)]
