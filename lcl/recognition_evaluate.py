"""How well recognition networks name pictures under distortions, with the rule and the intervals of every number.

Distorted pictures are made once and shown to all networks, so every comparison is one of the same pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import Tensor, nn
from tqdm import tqdm

from lcl.recognition_train import logits_of
from neural_fits.behavior.exclusions import EXCLUSIONS, label_value, level_value
from neural_fits.bootstrap import percentile_interval, resampled_counts
from stimuli.distortions import DISTORTIONS, LEVELS

#: Distortions of Geirhos et al. (2021) that are used where none are named: without those of colour, and with one of the
#: three eidolons, which take most of the time.
STANDARD = (
    "contrast",
    "low-pass",
    "high-pass",
    "phase-scrambling",
    "power-equalisation",
    "rotation",
    "uniform-noise",
    "eidolonI",
)

#: Pictures distorted at once; what a distortion takes from a set of pictures (a mean spectrum) is taken from so many.
CHUNK = 500

#: Rules by which conditions are left out of the accuracy out of distribution.
RULES = {
    "undistorted": "all levels but the undistorted one",
    "geirhos2021": "all levels but the undistorted one and those at which people are near chance (Geirhos et al. 2021)",
    "none": "all levels",
}


def evaluate(
    models: Mapping[str, nn.Module],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    distortions: Mapping[str, Callable[..., np.ndarray]] | None = None,
    levels: Mapping[str, Sequence[Any]] | None = None,
    clean: bool = True,
    seed: int = 0,
    batch: int = 100,
    precision: str = "float32",
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> xr.Dataset:
    """Classes that networks name for pictures as they are and under every level of every distortion.

    Parameters
    ----------
    models : mapping of str to Module
        From pictures (B, C, H, W) in [0, 1] to one number per class; each is evaluated in evaluation mode.
    images : ndarray of uint8, (image, row, column, channel)
        At the size of the networks' input; levels in pixels are of this size.
    labels : ndarray of int, (image,)
    distortions : mapping of str to callable, optional
        Functions of images in [0, 1] (image, row, column[, channel]), level and seed; :data:`STANDARD` without it.
    levels : mapping of str to sequence, optional
        Those of :data:`stimuli.distortions.LEVELS` without it.
    clean : bool
        Begin with the pictures as they are.
    seed : int
        Of the distortions; the same for every level.
    batch : int
        Pictures that a network takes at once.
    precision : {"float32", "bf16"}
    device : torch.device or str
    progress : bool
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        ``predicted`` (run, condition, image) and ``label`` (image); coordinates run, distortion and level (condition).
        The condition "clean" is the pictures as they are.

    Raises
    ------
    ValueError
        If the shapes do not fit, a distortion has no levels, or there is no condition.

    Examples
    --------
    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    >>> found = evaluate({"net": net}, images, np.array([0, 1]), distortions={"contrast": DISTORTIONS["contrast"]})
    >>> found.predicted.shape, found.level.values[:3].tolist()
    ((1, 9, 2), ['', '100', '50'])
    """
    distortions = {name: DISTORTIONS[name] for name in STANDARD} if distortions is None else distortions
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(labels):
        raise ValueError(
            f"images are {images.dtype} of shape {images.shape} with {len(labels)} labels; expected uint8 (image, row, "
            "column, channel) and a label for each."
        )
    levels = LEVELS if levels is None else levels
    if missing := [name for name in distortions if not levels.get(name)]:
        raise ValueError(f"the distortion {missing[0]!r} has no levels; expected levels for each.")
    conditions: list[tuple[str, Any]] = [("clean", "")] if clean else []
    conditions += [(name, level) for name in distortions for level in levels[name]]
    if not conditions:
        raise ValueError("there is nothing to show; expected clean pictures or at least one distortion.")
    jobs = [(where, start) for where in range(len(conditions)) for start in range(0, len(images), CHUNK)]

    def shown(job: tuple[int, int]) -> Tensor:
        (name, level), start = conditions[job[0]], job[1]
        pictures = images[start : start + CHUNK] / 255.0
        if name != "clean":
            pictures = pictures if pictures.shape[3] == 3 else pictures[..., 0]
            pictures = distortions[name](pictures, level, seed + start // CHUNK)
        if pictures.ndim == 3:
            pictures = np.broadcast_to(pictures[..., None], (*pictures.shape, images.shape[3]))
        return torch.from_numpy(np.ascontiguousarray(pictures, np.float32)).permute(0, 3, 1, 2)

    for model in models.values():
        model.eval().to(device)
    predicted = np.empty((len(models), len(conditions), len(images)), np.int32)
    with ThreadPoolExecutor(1) as pool, tqdm(total=len(jobs), desc=conditions[-1][0], disable=not progress) as bar:
        ahead = pool.submit(shown, jobs[0])  # the next pictures are distorted while these are named
        for number, (where, start) in enumerate(jobs):
            pictures = ahead.result()
            if number + 1 < len(jobs):
                ahead = pool.submit(shown, jobs[number + 1])
            for run, model in enumerate(models.values()):
                for place in range(0, len(pictures), batch):
                    logits = logits_of(model, pictures[place : place + batch], precision, torch.device(device))
                    first = start + place
                    predicted[run, where, first : first + len(logits)] = logits.argmax(1)
            bar.update(1)
    return xr.Dataset(
        {"predicted": (("run", "condition", "image"), predicted), "label": ("image", np.asarray(labels, np.int32))},
        {
            "run": list(models),
            "distortion": ("condition", [name for name, _ in conditions]),
            "level": ("condition", [str(level) for _, level in conditions]),
        },
        {"distortion_seed": seed, "size_px": images.shape[1], "precision": precision},
    )


def kept(distortion: str, level: str, rule: str) -> bool:
    """Whether a condition counts for the accuracy out of distribution.

    Parameters
    ----------
    distortion, level : str
    rule : str
        Of :data:`RULES`. A distortion that was not in the published experiments loses its first level in
        :data:`stimuli.distortions.LEVELS`.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If the rule is unknown.

    Examples
    --------
    >>> [kept("contrast", level, "geirhos2021") for level in ("100", "50", "3")]
    [False, True, False]
    >>> [kept("clean", "", "undistorted"), kept("contrast", "3", "undistorted")]
    [False, True]
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; expected one of {', '.join(RULES)}.")
    if distortion == "clean":
        return False
    if rule == "none":
        return True
    if distortion not in EXCLUSIONS["undistorted"]:
        return level != str(LEVELS.get(distortion, ("",))[0])
    return label_value(level) not in map(level_value, EXCLUSIONS[rule].get(distortion, ()))


def image_scores(table: xr.Dataset, *, rule: str = "undistorted") -> dict[str, np.ndarray]:
    """Share of conditions in which each picture was named right: its mean over pictures is the accuracy.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`evaluate`.
    rule : str
        Of :data:`RULES`.

    Returns
    -------
    dict of str to ndarray, (run, image)
        ``clean``: right as it is. ``ood``: mean over distortions of the mean over the levels that the rule keeps.

    Raises
    ------
    ValueError
        If the rule leaves nothing.

    Examples
    --------
    >>> table = xr.Dataset(
    ...     {"predicted": (("run", "condition", "image"), [[[0, 1], [0, 0], [0, 1]]]), "label": ("image", [0, 1])},
    ...     {"distortion": ("condition", ["clean", "contrast", "contrast"]), "level": ("condition", ["", "50", "5"])})
    >>> {name: values.tolist() for name, values in image_scores(table).items()}
    {'clean': [[1.0, 1.0]], 'ood': [[1.0, 0.5]]}
    """
    correct = (table.predicted == table.label).transpose("run", "condition", "image").values.astype(float)
    names = table.distortion.values
    keep = np.array([kept(str(d), str(lv), rule) for d, lv in zip(names, table.level.values, strict=True)])
    used = [name for name in dict.fromkeys(names) if (keep & (names == name)).any()]
    if not used:
        raise ValueError(f"the rule {rule} leaves none of {len(names)} conditions; give more distortions or levels.")
    ood = np.mean([correct[:, keep & (names == name)].mean(1) for name in used], axis=0)
    return {"clean": correct[:, names == "clean"].mean(1), "ood": ood}


def condition_rows(table: xr.Dataset) -> list[dict[str, Any]]:
    """Accuracy of every run in every condition, with its 95 % interval over pictures (Wilson 1927).

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`evaluate`, with the coordinates front_end and seed (run).

    Returns
    -------
    list of dict
        front_end, seed, distortion, level, accuracy, low, high, images.
    """
    rows = []
    correct = (table.predicted == table.label).transpose("run", "condition", "image").values
    n = correct.shape[2]
    for run, right in enumerate(correct.sum(2)):
        for condition, count in enumerate(right.tolist()):
            interval = stats.binomtest(count, n).proportion_ci(method="wilson")
            rows.append(
                {
                    "front_end": str(table.front_end.values[run]),
                    "seed": int(table.seed.values[run]),
                    "distortion": str(table.distortion.values[condition]),
                    "level": str(table.level.values[condition]),
                    "accuracy": count / n,
                    "low": float(interval.low),
                    "high": float(interval.high),
                    "images": n,
                }
            )
    return rows


def seed_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean over seeds; NaN for a single seed.

    Parameters
    ----------
    values : array, (seed,)
    confidence : float

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> [round(end, 3) for end in seed_interval(np.array([0.5, 0.6, 0.7]))]
    [0.352, 0.848]
    """
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * float(np.std(values, ddof=1)) / n**0.5
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def summary_rows(
    table: xr.Dataset, *, rule: str = "undistorted", n_resamples: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """Clean and out-of-distribution accuracy of every front end, and its differences from the first.

    Two 95 % intervals stand beside each number: Student's t over seeds (all that training varies, the pictures given),
    and the percentile bootstrap over pictures (the networks given, their seeds averaged). Differences are taken seed by
    seed and picture by picture before either.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`evaluate`, with the coordinates front_end and seed (run).
    rule : str
        Of :data:`RULES`.
    n_resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    list of dict
        front_end, measure, value, seeds_low, seeds_high, images_low, images_high, seeds (number), images, rule,
        ``difference_from`` (empty for the accuracy itself).
    """
    scores = image_scores(table, rule=rule)
    fronts, seeds = table.front_end.values, table.seed.values
    counts = resampled_counts(table.sizes["image"], n_resamples=n_resamples, seed=seed)

    def row(front: str, measure: str, by_seed: np.ndarray, reference: str = "") -> dict[str, Any]:
        low, high = seed_interval(by_seed.mean(1))
        image_low, image_high = percentile_interval(counts @ by_seed.mean(0) / by_seed.shape[1])
        return {
            "front_end": front,
            "measure": measure,
            "difference_from": reference,
            "value": float(by_seed.mean()),
            "seeds_low": low,
            "seeds_high": high,
            "images_low": image_low,
            "images_high": image_high,
            "seeds": len(by_seed),
            "images": by_seed.shape[1],
            "rule": rule if measure == "ood" else "",
        }

    first, *others = dict.fromkeys(map(str, fronts))
    rows = []
    for front in (first, *others):
        rows += [row(front, measure, values[fronts == front]) for measure, values in scores.items()]
    for front in others:
        shared = sorted(set(seeds[fronts == first]) & set(seeds[fronts == front]))
        for measure, values in scores.items():
            if shared:
                one, other = (
                    np.stack([values[(fronts == name) & (seeds == number)][0] for number in shared])
                    for name in (first, front)
                )
                rows.append(row(front, measure, other - one, first))
    return rows


def with_runs(table: xr.Dataset, fronts: Sequence[str], seeds: Sequence[int], classes: Sequence[str]) -> xr.Dataset:
    """A table with the front end and seed of every run, and the names of the classes."""
    table = table.assign_coords(front_end=("run", list(fronts)), seed=("run", list(seeds)))
    return table.assign_attrs(classes=json.dumps(list(classes)))
