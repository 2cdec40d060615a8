"""Clips chosen so that their classes are balanced and recognisable in single frames, as VITO's VideoNet was made.

VideoNet's clips were found by the names of ImageNet's classes and kept where a network trained on ImageNet agreed with
the name; its classes are about as frequent as ImageNet's (Parthasarathy et al. 2023, in words; threshold, number of
frames and what is taken of a class that has too many are not known, and ours).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lcl.labelled_images import central_squares
from vision_methods.clip_files import open_clips
from vision_methods.clips import ClipStore


def select_clips(
    names: Sequence[str],
    probabilities: np.ndarray,
    classes: Sequence[str],
    *,
    searched: Sequence[str] | None = None,
    threshold: float = 0.5,
    per_class: int | Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Choose clips by what a classifier sees in them.

    A clip counts for the class it was found by, and is kept only if that is its most probable class; without such
    names it counts for its most probable class. Its class must have a probability of ``threshold`` or more. Of a class
    with too many clips the most probable ones are kept, the first of equal ones.

    Parameters
    ----------
    names : sequence of str
        Of the clips.
    probabilities : array, (clip, class)
        Mean over each clip's frames.
    classes : sequence of str
    searched : sequence of str, optional
        Class that each clip was found by.
    threshold : float
        In [0, 1].
    per_class : int or mapping of str to int, optional
        Clips to keep of each class, at most (a mapping: the histogram wanted; 0 for a class it lacks); without it as
        many as the rarest class that has any.

    Returns
    -------
    list of dict
        One for each clip, in order: ``clip``, ``class`` (it counts for), ``seen`` (most probable), ``probability`` (of
        the class), ``kept`` and ``reason``.

    Raises
    ------
    ValueError
        If lengths differ, a row is no distribution, a class is unknown, or a number is out of range.

    Examples
    --------
    >>> seen = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.4, 0.6]])
    >>> for row in select_clips(["a", "b", "c", "d"], seen, ["cat", "dog"], searched=["cat", "cat", "dog", "cat"]):
    ...     print(row["clip"], row["class"], row["kept"], row["reason"])
    a cat True kept
    b cat False cat is full: 1 more probable
    c dog True kept
    d cat False seen as dog
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.shape != (len(names), len(classes)) or (searched is not None and len(searched) != len(names)):
        raise ValueError(
            f"There are probabilities of shape {probabilities.shape} and {len(searched or names)} classes searched "
            f"for, for {len(names)} clips and {len(classes)} classes; expected one row, and one class, per clip."
        )
    wrong = ~(np.isclose(probabilities.sum(1), 1, atol=1e-3) & (probabilities >= 0).all(1))
    if wrong.any():
        row = probabilities[wrong][0]
        raise ValueError(
            f"The probabilities of {names[int(wrong.argmax())]!r} go from {row.min():.3g} to {row.max():.3g} and sum "
            f"to {row.sum():.3g}; expected a distribution: apply a softmax to logits."
        )
    if not 0 <= threshold <= 1 or (isinstance(per_class, int) and per_class < 1):
        raise ValueError(
            f"threshold is {threshold} and per_class {per_class}; expected a probability, and at least 1 clip."
        )
    number = {name: i for i, name in enumerate(classes)}
    asked = [*(searched or ()), *(per_class if isinstance(per_class, Mapping) else ())]
    if unknown := sorted(set(asked) - set(number)):
        raise ValueError(f"There is no class {unknown[0]!r}; the classifier has {', '.join(classes[:5])}, ...")
    seen = probabilities.argmax(1)
    counts_for = seen if searched is None else np.array([number[name] for name in searched], int)
    probability = np.take_along_axis(probabilities, counts_for[:, None], 1)[:, 0]
    passes = (seen == counts_for) & (probability >= threshold)
    found = np.bincount(counts_for[passes], minlength=len(classes))
    if isinstance(per_class, Mapping):
        most = np.array([per_class.get(name, 0) for name in classes])
    else:
        most = np.full(len(classes), per_class or (found[found > 0].min() if passes.any() else 0))
    # Rank of each clip that passes within its class: sorted by class, then by falling probability, stable.
    rank, candidates = np.zeros(len(names), int), np.flatnonzero(passes)
    order = candidates[np.lexsort((-probability[candidates], counts_for[candidates]))]
    rank[order] = np.arange(len(order)) - np.concatenate([[0], np.cumsum(found)])[counts_for[order]]
    rows = []
    for i, clip in enumerate(names):
        mine = classes[counts_for[i]]
        if seen[i] != counts_for[i]:
            reason = f"seen as {classes[seen[i]]}"
        elif not passes[i]:
            reason = f"probability below {threshold:g}"
        elif rank[i] >= most[counts_for[i]]:
            reason = f"{mine} is full: {rank[i]} more probable"
        else:
            reason = "kept"
        rows.append(
            {
                "clip": clip,
                "class": mine,
                "seen": classes[seen[i]],
                "probability": float(probability[i]),
                "kept": reason == "kept",
                "reason": reason,
            }
        )
    return rows


@torch.no_grad()
def clip_probabilities(
    clips: ClipStore,
    classify: Callable[[Tensor], Tensor | np.ndarray],
    *,
    size_px: int = 224,
    batch: int = 64,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """What an image classifier sees in clips: the mean of its probabilities over each clip's frames.

    Parameters
    ----------
    clips : ClipStore
    classify : callable
        From pictures (B, 3, size_px, size_px) in [0, 1], the largest central squares of frames, to probabilities (B,
        class).
    size_px : int
    batch : int
        Pictures at once.
    device : torch.device or str
        Of the pictures.

    Returns
    -------
    ndarray of float64, (clip, class)

    Examples
    --------
    >>> from vision_methods.clips import clips_of_arrays
    >>> clips = clips_of_arrays([np.zeros((2, 8, 8, 3), np.uint8), np.full((3, 8, 8, 3), 255, np.uint8)], fps=1)
    >>> bright = lambda pictures: torch.stack([1 - pictures.mean((1, 2, 3)), pictures.mean((1, 2, 3))], 1)
    >>> clip_probabilities(clips, bright, size_px=8)
    array([[1., 0.],
           [0., 1.]])
    """
    pictures, found = clips.by_clip(), []
    for start in range(0, len(pictures), batch):
        index = np.arange(start, min(start + batch, len(pictures)))
        given = classify(central_squares(pictures, size_px, index).to(device).float() / 255)
        found.append(torch.as_tensor(given).double().cpu().numpy())
    return np.add.reduceat(np.concatenate(found), clips.starts[:-1]) / clips.lengths[:, None]


def curate(
    source: str | Path,
    classify: Callable[[Tensor], Tensor | np.ndarray],
    classes: Sequence[str],
    *,
    searched: bool = True,
    threshold: float = 0.5,
    per_class: int | Mapping[str, int] | None = None,
    first_s: float = 10.0,
    frames_per_s: float = 1.0,
    size_px: int = 224,
    batch: int = 64,
    device: torch.device | str = "cpu",
    **options: Any,
) -> list[dict[str, Any]]:
    """Choose clips of a folder: :func:`clip_probabilities`, then :func:`select_clips`.

    A frame a second of all clips is decoded into one store; of a collection that is too large for that, take the
    probabilities class by class and select at the end.

    Parameters
    ----------
    source : path
        As in :func:`vision_methods.clip_files.open_clips`.
    classify : callable
        As in :func:`clip_probabilities`; its columns are ``classes``.
    classes : sequence of str
    searched : bool
        The first folder on a clip's path is the class that it was found by: ``SOURCE/<class>/clip.mp4``.
    threshold, per_class
        As in :func:`select_clips`.
    first_s, frames_per_s : float
        Which frames are looked at: those of the first seconds, so many a second.
    size_px, batch, device
        As in :func:`clip_probabilities`.
    **options
        Of :func:`vision_methods.clip_files.open_clips`.

    Returns
    -------
    list of dict
        As :func:`select_clips`; :func:`lcl.align.write_csv` writes them, :func:`read_kept` reads the choice.

    Raises
    ------
    FileNotFoundError, ValueError
        As those functions, or if a clip lies in no folder of a class.
    """
    clips = open_clips(source, first_s=first_s, frames_per_s=frames_per_s, short_side_px=size_px, **options)
    folders = [PurePosixPath(name).parts for name in clips.names]
    if searched and (bare := [name for name, parts in zip(clips.names, folders, strict=True) if len(parts) < 2]):
        raise ValueError(
            f"{bare[0]!r} in {source} is in no folder of a class; give SOURCE/<class>/..., or searched=False."
        )
    return select_clips(
        clips.names,
        clip_probabilities(clips, classify, size_px=size_px, batch=batch, device=device),
        classes,
        searched=[parts[0] for parts in folders] if searched else None,
        threshold=threshold,
        per_class=per_class,
    )


def read_kept(path: str | Path) -> list[str]:
    """Names of the clips that a table of :func:`select_clips`, written as CSV, keeps.

    Parameters
    ----------
    path : path

    Returns
    -------
    list of str
        To be given to :func:`vision_methods.clip_files.open_clips` as ``only``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it lacks the columns ``clip`` and ``kept``, or keeps none.

    Examples
    --------
    >>> import tempfile
    >>> from lcl.align import write_csv
    >>> path = Path(tempfile.mkdtemp()) / "chosen.csv"
    >>> write_csv([{"clip": "a.mp4", "kept": True}, {"clip": "b.mp4", "kept": False}], path)
    >>> read_kept(path)
    ['a.mp4']
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No table of clips at {str(path)!r}; expected CSV with the columns clip and kept.")
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"clip", "kept"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} has the columns {reader.fieldnames}; expected clip and kept among them.")
        kept = [row["clip"] for row in reader if (row["kept"] or "").lower() in ("true", "1")]
    if not kept:
        raise ValueError(f"{path} keeps no clip; expected True in the column kept of one at least.")
    return kept
