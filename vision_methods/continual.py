"""A study of continual learning without rehearsal: methods, seeds, accuracy matrices (Thede et al. 2024).

Every method is run with every seed; a cell of a method and a seed is a file ``cells/METHOD/seedN.json`` with its
accuracy matrix. After every task what is needed to go on is kept beside it, so that a study that was stopped goes on
with the next task. The seed is that of the order of classes, of new weights and of batches, and the same for all
methods.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lcl.checkpoint import FORMAT, check_format, provenance, read_json, read_tensors, write_json, write_tensors
from lcl.images import open_images
from lcl.labelled_images import LabelledImages, train_and_validation
from lcl.train import choose_device
from neural_fits.vision_model import VisionModel
from vision_methods.continual_config import ContinualConfig
from vision_methods.continual_learners import Learner, seen_classes
from vision_methods.continual_methods import Chosen, read_method
from vision_methods.continual_networks import Base, Source, make_base
from vision_methods.continual_protocol import best_seen, split_classes

KIND = "continual"
Loaders = Mapping[str, Callable[..., VisionModel]]


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """Result of a method with one seed.

    Attributes
    ----------
    method : str
        As it was written.
    seed : int
    matrix : ndarray, (stages, tasks)
        Accuracy, NaN where a task was not learned yet; one stage for a joint training.
    counts : ndarray of int, (tasks,)
        Test pictures of each task.
    tuned : int
        Parameters beside the head.
    similarity : float
        Of prompts, per cent; NaN where there are none.
    valid : bool
        The method is told nothing that it may not know.
    seconds : float
    """

    method: str
    seed: int
    matrix: np.ndarray
    counts: np.ndarray
    tuned: int
    similarity: float
    valid: bool
    seconds: float


def accuracies(
    learner: Learner, source: Source, tasks: Sequence[np.ndarray], seen: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Accuracy on the test pictures of each task whose classes are all seen; NaN for the others.

    Parameters
    ----------
    learner : Learner
    source : Source
        Test pictures.
    tasks : sequence of ndarray of int
        Classes of each.
    seen : sequence of int
        Classes that compete.

    Returns
    -------
    ndarray, (tasks,)
    """
    row = np.full(len(tasks), np.nan)
    for number, classes in enumerate(tasks):
        if not np.isin(classes, seen).all():
            continue
        index = np.flatnonzero(np.isin(source.labels, classes))
        answers = best_seen(learner.scores(source, index, list(seen)), seen)
        row[number] = float((answers.cpu().numpy() == source.labels[index]).mean())
    return row


def run_cell(
    chosen: Chosen,
    base: Base,
    sources: tuple[Source, Source],
    tasks: Sequence[np.ndarray],
    *,
    seed: int,
    state: Path | None = None,
    each_task: Callable[[int, np.ndarray], None] = lambda task, row: None,
) -> Cell:
    """One method over all tasks.

    Parameters
    ----------
    chosen : Chosen
    base : Base
    sources : (Source, Source)
        Pictures to learn from, and to test on.
    tasks : sequence of ndarray of int
        Classes of each, by which accuracies are reported; a joint training learns all at once.
    seed : int
    state : Path, optional
        File that is written after every task but the last; where it exists the run goes on after the tasks it knows.
    each_task : callable
        Called with the number of each task and its row of accuracies.

    Returns
    -------
    Cell

    Raises
    ------
    ValueError
        If a task has no pictures, the state is of another method, or a loss is not finite.
    """
    train, test = sources
    learned = [np.concatenate(list(tasks))] if "joint" in chosen.modifiers else list(tasks)
    counts = np.array([int(np.isin(test.labels, classes).sum()) for classes in tasks])
    if not counts.all():
        raise ValueError(f"task {int(np.argmin(counts)) + 1} has no test pictures; expected some of every task.")
    learner = chosen.learner(base, learned, seed=seed)
    rows: list[np.ndarray] = []
    seconds = 0.0
    if state is not None and state.is_file():
        rows, seconds = _read_state(state, learner, chosen, seed)
    for task in range(len(rows), len(learned)):
        start = time.perf_counter()
        index = np.flatnonzero(np.isin(train.labels, learned[task]))
        if not len(index):
            raise ValueError(f"task {task + 1} has no pictures to learn from; expected some of every task.")
        learner.learn(train, index, task)
        rows.append(accuracies(learner, test, tasks, seen_classes(learned, task)))
        seconds += time.perf_counter() - start
        each_task(task, rows[-1])
        if state is not None and task + 1 < len(learned):
            _write_state(state, learner, chosen, seed, rows, seconds)
    some = np.linspace(0, len(test) - 1, min(500, len(test))).astype(int)
    similarity = learner.similarity(test, some)
    return Cell(chosen.text, seed, np.stack(rows), counts, learner.tuned, similarity, chosen.valid, seconds)


def _write_state(
    path: Path, learner: Learner, chosen: Chosen, seed: int, rows: list[np.ndarray], seconds: float
) -> None:
    notes = {
        "method": chosen.text,
        "config": json.dumps(chosen.config.as_dict()),
        "seed": str(seed),
        "rows": json.dumps([_plain(row) for row in rows]),
        "seconds": repr(seconds),
    }
    tensors = dict(learner.state_dict()) | {f"optimiser/{name}": value for name, value in learner.moments().items()}
    write_tensors(path, tensors, notes)


def _read_state(path: Path, learner: Learner, chosen: Chosen, seed: int) -> tuple[list[np.ndarray], float]:
    tensors, notes = read_tensors(path)
    same = notes.get("method") == chosen.text and notes.get("seed") == str(seed)
    if not same or json.loads(notes["config"]) != json.loads(json.dumps(chosen.config.as_dict())):
        raise ValueError(f"{path} is the state of another method or of other settings; choose another --out.")
    moments = {name.removeprefix("optimiser/"): tensors.pop(name) for name in list(tensors) if "optimiser/" in name}
    learner.load_state_dict(tensors)
    if moments:
        learner.resume(moments)
    return [np.array(row, float) for row in json.loads(notes["rows"])], float(notes["seconds"])


def _plain(row: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in row]


def write_cell(path: Path, cell: Cell, config: ContinualConfig, tasks: Sequence[np.ndarray]) -> None:
    """Write a cell as JSON: the accuracy matrix (null where a task was not learned yet) and all that made it."""
    write_json(
        path,
        {
            "format": FORMAT,
            "method": cell.method,
            "seed": cell.seed,
            "tasks": [classes.tolist() for classes in tasks],
            "accuracy_matrix": [_plain(row) for row in cell.matrix],
            "test_pictures": cell.counts.tolist(),
            "tuned_parameters": cell.tuned,
            "prompt_similarity": None if np.isnan(cell.similarity) else cell.similarity,
            "valid": cell.valid,
            "seconds": cell.seconds,
            "config": config.as_dict(),
            **provenance(),
        },
    )


def read_cell(path: Path) -> tuple[Cell, dict[str, Any]]:
    """A cell, and everything its file holds.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing or damaged.
    """
    found = read_json(path)
    check_format(path, found.get("format"))
    similarity = found["prompt_similarity"]
    cell = Cell(
        found["method"],
        found["seed"],
        np.array(found["accuracy_matrix"], float),
        np.array(found["test_pictures"]),
        found["tuned_parameters"],
        float("nan") if similarity is None else similarity,
        found["valid"],
        found["seconds"],
    )
    return cell, found


def cell_path(out: Path, method: str, seed: int) -> Path:
    """File of a cell.

    Examples
    --------
    >>> cell_path(Path("study"), "l2p:query=oracle", 1).as_posix()
    'study/cells/l2p-query-oracle/seed1.json'
    """
    return out / "cells" / re.sub(r"[^A-Za-z0-9+._]+", "-", method) / f"seed{seed}.json"


def open_sources(config: ContinualConfig, *, progress: bool = False) -> tuple[LabelledImages, LabelledImages]:
    """Pictures to learn from and to test on.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`lcl.labelled_images.train_and_validation`, or if none are named.
    """
    if not config.images:
        raise ValueError("there are no images; give --images FOLDER (by class), FILE.h5 or DIR/*.tar.")
    return train_and_validation(
        config.images,
        config.validation_images,
        held_out=config.held_out,
        short_side_px=config.short_side_px,
        min_side_px=min(16, config.short_side_px),
        memory_cap_bytes=int(config.memory_cap_gb * 2**30),
        store_cap_bytes=int(config.store_cap_gb * 2**30),
        store_dir=config.store_dir or None,
        progress=progress,
    )


def run_study(
    config: ContinualConfig,
    methods: Sequence[str],
    out: Path,
    *,
    seeds: int,
    loaders: Loaders,
    command: str = "",
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> list[Cell]:
    """Run every method with every seed; what is there already is kept.

    Parameters
    ----------
    config : ContinualConfig
        Its seed is the first one.
    methods : sequence of str
        As :func:`vision_methods.continual_methods.read_method` reads them.
    out : Path
        Folder, made where missing.
    seeds : int
    loaders : mapping of str to callable
        As of :func:`lcl.measure.named_model`.
    command : str
        How it was called, for the record.
    progress : bool
        Show progress bars.
    say : callable
        Takes lines of text for the user.

    Returns
    -------
    list of Cell

    Raises
    ------
    FileNotFoundError, ValueError
        If something that was given cannot be used, or ``out`` holds a study with other settings.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected at least 1.")
    chosen = [read_method(text, config) for text in dict.fromkeys(methods)]
    _check_out(out, config)
    device = choose_device(config.device)
    base = make_base(config, seed=config.seed, loaders=loaders).to(device)
    for each in chosen:  # what does not fit is said before anything is computed
        each.learner(base, [np.arange(2)] * config.tasks if "joint" not in each.modifiers else [np.arange(2)], seed=0)
    pictures = open_sources(config, progress=progress)
    classes = len(pictures[0].classes)
    split_classes(classes, config.tasks, seed=0, first=config.first_classes or None)
    out.mkdir(parents=True, exist_ok=True)
    about = {"format": FORMAT, "kind": KIND, "config": config.as_dict(), "command": command}
    about |= {
        "methods": [each.text for each in chosen],
        "classes": list(pictures[0].classes),
        "pictures": [len(each) for each in pictures],
        **provenance(),
    }
    write_json(out / "config.json", about)
    say(f"{pictures[0].store.summary()}; {len(pictures[1])} to test on; {classes} classes in {config.tasks} tasks.")
    cap, cells, sources = int(config.memory_cap_gb * 2**30), [], None
    bar = tqdm(total=seeds * len(chosen), unit="run", dynamic_ncols=True, disable=not progress)
    for seed in range(config.seed, config.seed + seeds):
        tasks = split_classes(classes, config.tasks, seed=seed, first=config.first_classes or None)
        if base.seeded and seed != config.seed:
            base, sources = make_base(config, seed=seed, loaders=loaders).to(device), None
        for each in chosen:
            path = cell_path(out, each.text, seed)
            if path.is_file():
                cell, found = read_cell(path)
                if found["config"] != json.loads(json.dumps(each.config.as_dict())):
                    raise ValueError(f"{path} was made with other settings; choose another --out.")
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                state = path.with_suffix(".safetensors")
                if sources is None:
                    train, test = (
                        Source(part, base, config.size_px, cap_bytes=cap, device=device) for part in pictures
                    )
                    sources = (train, test)
                cell = run_cell(each, base, sources, tasks, seed=seed, state=state)
                write_cell(path, cell, each.config, tasks)
                state.unlink(missing_ok=True)
            cells.append(cell)
            bar.update()
    bar.close()
    return cells


def _check_out(out: Path, config: ContinualConfig) -> None:
    file = out / "config.json"
    if not file.is_file():
        if out.exists() and any(out.iterdir()):
            raise FileExistsError(f"{out} is not empty and holds no study; choose another --out.")
        return
    found = read_json(file)
    check_format(file, found.get("format"))
    before = found.get("config", {}) if found.get("kind") == KIND else {}
    # Where images and devices are may change; what is learned from them may not.
    free = {"device", "store_dir", "memory_cap_gb"}
    now = json.loads(json.dumps(config.as_dict()))
    other = [name for name in now if name not in free and before.get(name) != now[name]]
    if other:
        name = other[0]
        raise ValueError(
            f"{out} holds a study with other settings ({name} {before.get(name)!r}, not {now[name]!r}); choose another "
            "--out."
        )


def dry_run(
    config: ContinualConfig, methods: Sequence[str], *, loaders: Loaders, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Sizes of every method at a configuration, and one step of it on pictures of noise, two classes a task.

    Parameters
    ----------
    config : ContinualConfig
    methods : sequence of str
    loaders : mapping of str to callable
    say : callable

    Returns
    -------
    list of dict
        ``method``, ``tuned`` (parameters beside the head), ``features``, ``scores`` (shape), ``seconds``.
    """
    rng = np.random.default_rng(0)
    tasks = [np.array([2 * task, 2 * task + 1]) for task in range(config.tasks)]
    noise = [rng.integers(0, 256, (config.size_px, config.size_px, 3), dtype=np.uint8) for _ in range(2)]
    store = open_images(noise, short_side_px=config.size_px)
    images = LabelledImages(store, np.array([0, 1]), tuple(str(i) for i in range(2 * config.tasks)))
    device = choose_device(config.device)
    base = make_base(config, seed=config.seed, loaders=loaders).to(device)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    source = Source(images, base, config.size_px, cap_bytes=2**30, device=device)
    small = dataclasses.replace(config, epochs=1, batch=2, align_epochs=min(1, config.align_epochs), fisher_pictures=1)
    found = []
    for text in methods:
        chosen, start = read_method(text, small), time.perf_counter()
        learned = [np.concatenate(tasks)] if "joint" in chosen.modifiers else tasks
        learner = chosen.learner(base, learned, seed=config.seed)
        learner.learn(source, np.arange(2), 0)
        scores = learner.scores(source, np.arange(2), [0, 1])
        if not bool(torch.isfinite(scores[:, :2]).all()):
            raise ValueError(f"{text} gives scores that are not finite after one step.")
        row = {"method": text, "tuned": learner.tuned, "features": base.width, "scores": tuple(scores.shape)}
        found.append({**row, "seconds": time.perf_counter() - start})
        say(f"{text}: {learner.tuned:,} parameters beside the head; scores {tuple(scores.shape)}")
    changed = [name for name, value in base.state_dict().items() if not torch.equal(value, before[name])]
    if changed:
        raise RuntimeError(f"{changed[0]} of the network as it came has changed; no method may do that.")
    return found
