"""Trials of people and models who named pictures: one array for each experiment, read as the authors distribute them.

Two public collections have this form, a CSV file for each observer (and session) in a folder for each experiment:

* model-vs-human (Geirhos et al. 2021, *NeurIPS* 34): 17 experiments, 90 observers, 85,120 trials;
  ``git clone https://github.com/bethgelab/model-vs-human``, folder `raw-data`;
* texture-vs-shape (Geirhos et al. 2019, *ICLR*): cue-conflict and related pictures, people and networks;
  ``git clone https://github.com/rgeirhos/texture-vs-shape``, folder `raw-data`.

For neither is a licence of the trials stated, so they do not come with this package.
"""

import csv
import fnmatch
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from neural_fits.behavior.categories import CATEGORIES

#: Response of an observer who was shown a picture and did not answer in time: a trial, and not correct.
NO_ANSWER = "na"

#: Columns of the files, in lower case (some files write `Session`).
COLUMNS = ("subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename")

_EXPECTED = (
    "expected CSV files as in raw-data/EXPERIMENT of github.com/bethgelab/model-vs-human or "
    "github.com/rgeirhos/texture-vs-shape (git clone brings them)."
)
_IMAGE = re.compile(r"(?:n\d{8}_\d+|[^_]+)$")
_SHOWN = re.compile(r"\d+_[^_]+_[^_]+_(?P<condition>.+)_(?P<category>[a-z]+)_\d+_(?:n\d{8}_\d+|[^_]+)$")
_CUES = re.compile(r"([a-z]+)\d+-([a-z]+)\d+$")


def image_id(picture: str) -> str:
    """Name of a picture that all its presentations share.

    The names of files that were shown begin with trial, experiment, observer, condition and category; what remains
    is the name of the source, which for ImageNet pictures holds one underscore.

    Parameters
    ----------
    picture : str
        Name or path of a file.

    Returns
    -------
    str
        Without folder and extension.

    Examples
    --------
    >>> image_id("0001_cop_s01_c30_knife_10_n03041632_7380.png"), image_id("a/airplane1-bicycle2.png")
    ('n03041632_7380', 'airplane1-bicycle2')
    """
    stem = re.sub(r"\.[A-Za-z]+$", "", str(picture).replace("\\", "/").rsplit("/", 1)[-1])
    found = _IMAGE.search(stem)
    if found is None:
        raise ValueError(f"picture {picture!r} has no name after its last underscore; expected one such as dog5.png.")
    return found[0]


def cue_categories(image: str) -> tuple[str, str] | None:
    """Shape and texture category of a cue-conflict picture, or None if the name is not of one.

    Parameters
    ----------
    image : str
        As :func:`image_id` gives it.

    Returns
    -------
    (shape, texture) or None

    Examples
    --------
    >>> cue_categories("airplane1-bicycle2")
    ('airplane', 'bicycle')
    >>> cue_categories("n03041632_7380")
    """
    found = _CUES.match(image)
    if found is None or not set(found.groups()) <= set(CATEGORIES):
        return None
    return found[1], found[2]


def _in_order(labels: Iterable[str]) -> list[str]:
    """Sorted by value where all are numbers, else with numbers inside them by value."""
    labels = list(set(labels))
    try:
        return sorted(labels, key=float)
    except ValueError:
        return sorted(labels, key=lambda text: re.sub(r"\d+", lambda number: number[0].zfill(12), text))


def trials_from_columns(
    *,
    observer: Sequence[str],
    image: Sequence[str],
    condition: Sequence[str],
    response: Sequence[str],
    category: Sequence[str],
    reaction_time_s: Sequence[float] | None = None,
    session: Sequence[float] | None = None,
    trial: Sequence[float] | None = None,
    name: str = "",
) -> xr.Dataset:
    """Array of an experiment from columns with one entry for each trial.

    Parameters
    ----------
    observer, image, condition, response, category : sequence of str, (trial,)
        ``response`` is ``"na"`` where the observer did not answer; ``category`` is that of the picture.
    reaction_time_s, session, trial : sequence of float, (trial,), optional
        NaN where unknown.
    name : str
        Of the experiment.

    Returns
    -------
    xarray.Dataset
        Variables (observer, image, condition): ``response`` ("" where there was no trial), ``correct`` (1, 0, NaN
        where there was no trial), ``reaction_time_s``, ``session``, ``trial`` (NaN). A fourth dimension ``repeat``, in
        order of session and trial, is there only if somebody saw a picture more than once in a condition. Coordinates
        of the images: ``category``, and ``texture`` if all are cue-conflict pictures (``category`` is the shape then).

    Raises
    ------
    ValueError
        If columns differ in length or are empty, or one image has two categories.

    Examples
    --------
    >>> trials = trials_from_columns(
    ...     observer=["a", "a", "b"],
    ...     image=["dog1", "cat1", "dog1"],
    ...     condition=["0"] * 3,
    ...     response=["dog", "dog", "na"],
    ...     category=["dog", "cat", "dog"],
    ... )
    >>> trials.correct.sel(condition="0").values  # b did not see cat1
    array([[ 0.,  1.], [nan,  0.]])
    """
    texts = {"observer": observer, "image": image, "condition": condition, "response": response, "category": category}
    columns = {key: np.asarray(list(values), dtype=str) for key, values in texts.items()}
    n = len(columns["observer"])
    for key, values in {"reaction_time_s": reaction_time_s, "session": session, "trial": trial}.items():
        columns[key] = np.full(n, np.nan) if values is None else np.asarray(values, dtype=np.float64)
    for key, values in columns.items():
        if values.shape != (n,) or n == 0:
            raise ValueError(
                f"column {key} has shape {values.shape}; expected one entry for each of {n or 'some'} trials."
            )

    labels = {key: _in_order(columns[key]) for key in ("observer", "image", "condition")}
    where = {key: {label: i for i, label in enumerate(values)} for key, values in labels.items()}
    index = [np.array([where[key][label] for label in columns[key]]) for key in labels]
    cell = np.ravel_multi_index(index, [len(values) for values in labels.values()])
    order = np.lexsort((columns["trial"], columns["session"], cell))
    _, first, counts = np.unique(cell[order], return_index=True, return_counts=True)
    repeat = np.empty(n, dtype=int)
    repeat[order] = np.arange(n) - np.repeat(first, counts)
    dims, shape = list(labels), [len(values) for values in labels.values()]
    if counts.max() > 1:
        dims, shape, index = [*dims, "repeat"], [*shape, int(counts.max())], [*index, repeat]

    def spread(values: np.ndarray, missing) -> tuple[list[str], np.ndarray]:
        table = np.full(shape, missing, dtype=values.dtype)
        table[tuple(index)] = values
        return dims, table

    categories = _category_of_images(columns["image"], columns["category"], labels["image"])
    variables = {
        "response": spread(columns["response"], ""),
        "correct": spread((columns["response"] == columns["category"]).astype(np.float64), np.nan),
        **{key: spread(columns[key], np.nan) for key in ("reaction_time_s", "session", "trial")},
    }
    coordinates: dict[str, object] = {key: np.array(values) for key, values in labels.items()}
    coordinates["category"] = ("image", categories)
    cues = [cue_categories(image) for image in labels["image"]]
    if all(cue is not None for cue in cues):
        coordinates["texture"] = ("image", np.array([cue[1] for cue in cues if cue is not None]))
    return xr.Dataset(variables, coords=coordinates, attrs={"name": name, "mismatches": ""})


def _category_of_images(image: np.ndarray, category: np.ndarray, images: Sequence[str]) -> np.ndarray:
    pairs = np.unique(np.stack([image, category], 1), axis=0)
    of = dict(pairs.tolist())
    if len(of) < len(pairs):
        twice = next(one for one, n in zip(*np.unique(pairs[:, 0], return_counts=True), strict=True) if n > 1)
        found = pairs[pairs[:, 0] == twice, 1].tolist()
        raise ValueError(f"image {str(twice)!r} has the categories {', '.join(found)}; expected one for each image.")
    return np.array([of[one] for one in images])


def read_experiment(place: Path | str, *, observers: str = "*", name: str | None = None) -> xr.Dataset:
    """Trials of one experiment from its folder of CSV files, or from one file.

    Parameters
    ----------
    place : path
        A folder with one file for each observer and session, or one file.
    observers : str
        Pattern of the names to keep: ``"subject-*"`` leaves out networks that are listed beside people.
    name : str, optional
        Default: that of the folder or file.

    Returns
    -------
    xarray.Dataset
        As :func:`trials_from_columns` gives it. The attribute ``mismatches`` lists, a line each, the trials whose
        picture name tells of another category or condition than their columns (see :func:`name_mismatches`).

    Raises
    ------
    FileNotFoundError
        If there is no such file or no CSV file in the folder.
    ValueError
        If a column is missing, a number cannot be read, or no observer matches.

    Examples
    --------
    >>> import os, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "edge_subject-01_session_1.csv"
    >>> lines = [",".join(COLUMNS), "subject-01,1,1,0.87,knife,oven,0,0001_edg_s01_0_oven_00_oven10.png"]
    >>> _ = path.write_text(f"{lines[0]}{os.linesep}{lines[1]}")
    >>> trials = read_experiment(path.parent, name="edge")
    >>> trials.response.item(), trials.correct.item(), trials.category.item()
    ('knife', 0.0, 'oven')
    """
    place = Path(place).expanduser()
    paths = sorted(place.glob("*.csv")) if place.is_dir() else [place]
    if not paths or not place.exists():
        raise FileNotFoundError(f"{place} holds no trials; {_EXPECTED}")
    rows = _rows(paths, observers)
    if not rows:
        raise ValueError(f"no observer in {place} matches {observers!r}; expected a pattern such as 'subject-*'.")
    return _experiment(rows, place.stem if name is None else name)


def _experiment(rows: list[dict[str, str]], name: str) -> xr.Dataset:
    trials = trials_from_columns(
        observer=[row["subj"] for row in rows],
        image=[image_id(row["imagename"]) for row in rows],
        condition=[row["condition"] for row in rows],
        response=[row["object_response"] for row in rows],
        category=[row["category"] for row in rows],
        reaction_time_s=[float(row["rt"]) for row in rows],
        session=[float(row["session"]) for row in rows],
        trial=[float(row["trial"]) for row in rows],
        name=name,
    )
    trials.attrs["mismatches"] = "\n".join(line for row in rows for line in _contradictions(row))
    return trials


def _rows(paths: Iterable[Path], observers: str) -> list[dict[str, str]]:
    rows = []
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            missing = [name for name in COLUMNS if name not in reader.fieldnames]
            if missing:
                raise ValueError(f"{path} has no column {missing[0]!r}; expected the columns {', '.join(COLUMNS)}.")
            for row in reader:
                if None in row or None in row.values() or not _numbers(row):
                    raise ValueError(
                        f"{path}, line {reader.line_num}, is not a trial; expected {len(COLUMNS)} entries with numbers "
                        "as session, trial and rt."
                    )
                if fnmatch.fnmatchcase(row["subj"], observers):
                    rows.append(row)
    return rows


def _numbers(row: dict[str, str]) -> bool:
    try:
        return all(isinstance(float(row[name]), float) for name in ("rt", "session", "trial"))
    except ValueError:
        return False


def _contradictions(row: dict[str, str]) -> list[str]:
    found = _SHOWN.match(re.sub(r"\.[A-Za-z]+$", "", row["imagename"]))
    if found is None:
        return []
    return [
        f"{row['subj']}, trial {row['trial']}: {row['imagename']} is named for {key} {found[key]}, listed as {row[key]}"
        for key in ("category", "condition")
        if found[key] != row[key]
    ]


def read_experiments(folder: Path | str, *, observers: str = "*") -> dict[str, xr.Dataset]:
    """Trials of all experiments of a folder with a folder of CSV files for each.

    Parameters
    ----------
    folder : path
        `raw-data` of model-vs-human or texture-vs-shape.
    observers : str
        As in :func:`read_experiment`; experiments without such observers are left out.

    Returns
    -------
    dict of str to xarray.Dataset
        By name of the folder, sorted.

    Raises
    ------
    FileNotFoundError
        If no folder in it holds a CSV file.
    """
    folder = Path(folder).expanduser()
    places = sorted({path.parent for path in folder.glob("*/*.csv")})
    if not places:
        raise FileNotFoundError(f"{folder} holds no folders with CSV files; {_EXPECTED}")
    rows = {place.name: _rows(sorted(place.glob("*.csv")), observers) for place in places}
    return {name: _experiment(found, name) for name, found in rows.items() if found}


def name_mismatches(trials: xr.Dataset, pictures: Iterable[Path | str] | None = None) -> list[str]:
    """What does not fit between the names of pictures and trials, one line each; empty if all fits.

    Parameters
    ----------
    trials : xarray.Dataset
    pictures : iterable of paths, optional
        Picture files: those of no trial, trials without a file, and files of the same picture are listed.

    Returns
    -------
    list of str

    Examples
    --------
    >>> columns = {"observer": ["a"], "condition": ["0"], "response": ["dog"], "category": ["dog"]}
    >>> trials = trials_from_columns(image=["dog1"], **columns)
    >>> name_mismatches(trials, ["dog1.png"])
    []
    >>> name_mismatches(trials, ["dog2.png"])
    ['image dog1 has trials and no picture', 'picture dog2.png has no trials']
    """
    lines = [line for line in trials.attrs.get("mismatches", "").split("\n") if line]
    if pictures is None:
        return lines
    files: dict[str, list[str]] = {}
    for picture in pictures:
        files.setdefault(image_id(str(picture)), []).append(str(picture))
    images = trials.image.values.tolist()
    lines += [f"image {image} has trials and no picture" for image in images if image not in files]
    for image in _in_order(files):
        if image not in set(images):
            lines += [f"picture {file} has no trials" for file in files[image]]
        elif len(files[image]) > 1:
            lines.append(f"image {image} has {len(files[image])} pictures: {', '.join(files[image])}")
    return lines


def fraction_correct(trials: xr.Dataset) -> xr.DataArray:
    """Share of right answers of each observer to each image and condition.

    Parameters
    ----------
    trials : xarray.Dataset

    Returns
    -------
    xarray.DataArray, (observer, image, condition)
        1 or 0 without repeats; NaN where there was no trial.

    Examples
    --------
    >>> columns = {"observer": ["a", "a"], "condition": ["0", "0"], "category": ["dog", "dog"]}
    >>> fraction_correct(trials_from_columns(image=["dog1", "dog1"], response=["dog", "cat"], **columns)).item()
    0.5
    """
    return trials.correct.mean("repeat") if "repeat" in trials.dims else trials.correct
