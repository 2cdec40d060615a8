"""Macaque V1 responses to frames of natural movies and of artificial sequences (Hénaff, Bai et al. 2021).

Nine populations (360 units, four anaesthetised animals) saw 440 images one by one, 200 ms each with 100 ms of blank
between, 24 to 60 times. A response is the number of spikes in 200 ms from the latency of the population.

What to know before fitting:

* Sizes in degrees, receptive-field positions and luminance are not in the files: `size_deg` is NaN. `zoom2x` shows the
  same movie twice enlarged, so a size that is assumed for one holds for both.
* Frames of one movie are strongly alike. `sequence` groups everything made of one movie, both zooms and all categories:
  leave groups of it out. `frame_block` (frames 1-3, 4-6, 7-9, 10-11) is the easier test.
* Synthetic sequences start and end with natural frames 1 and 11 - the same images, the same responses, held once here
  (see :func:`sequence_index`) - and frames 2 to 10 blend the two, so they tell of the natural frames of blocks 0 and 3.
  A contrast series is natural frame 1 at ten contrasts; its images are in frame block 0.
* One repeat number is one trial for all units of a population; across populations it means nothing. Missing repeats
  differ between units.
* ay5_u005 is reliable but hardly driven by the content of the images: report results with and without it. ay2_u007 and
  ay5_u002 are noisy, and the authors' own summary leaves them out (`plot_summary.m`: hardware failure).
* `cluster_group` 1 / 2 is not explained in the source; in the labels of the sorter phy, 1 is multi-unit and 2 single.

No licence is stated, so the data cannot be passed on, but anybody can clone the authors' two repositories:
:func:`from_originals` reads them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from PIL import Image

from neural_fits.datasets.fetch import DataFile, Entry, find, locate, places
from neural_fits.recordings import Recording, recording_from_arrays

ENTRY = Entry(
    name="henaff2021",
    title="360 V1 units, frames of natural and synthetic movies, 24-60 repeats",
    files=(
        DataFile(
            "henaff2021_v1.h5", "sha256:f5746beaeafb2069898535d54a81ec9424d13a9516af0b5ac49f42cf2e96dbda", 7928292
        ),
    ),
    licence="none stated",
    who="everyone, from the authors' repositories; do not pass it on",
    citation=(
        "Hénaff OJ, Bai Y, Charlton JA, Nauhaus I, Simoncelli EP, Goris RLT (2021). Primary visual cortex straightens "
        "natural video trajectories. Nature Communications 12:5982. doi:10.1038/s41467-021-25939-z"
    ),
    source=(
        "No licence is stated, so clone both originals into one folder, github.com/wongyoJung/"
        "Primary-visual-cortex-straightens-natural-video-trajectories (responses) and github.com/olivierhenaff/"
        "neural-straightening (images), and give that folder with --data (see also osf.io/gwtcs)."
    ),
)

#: Names of the folders that `git clone` makes of the two originals: responses, images.
CLONES = ("Primary-visual-cortex-straightens-natural-video-trajectories", "neural-straightening")
#: The nine recorded populations.
POPULATIONS = (
    "ay2_u003",
    "ay2_u007",
    "ay3_u001",
    "ay3_u002",
    "ay4_u001",
    "ay4_u005",
    "ay4_u006",
    "ay5_u002",
    "ay5_u005",
)
#: Sizes at which the movies were shown.
ZOOMS = ("zoom1x", "zoom2x")
#: Kinds of sequences.
CATEGORIES = ("natural", "synthetic", "contrast")
#: Titles of the ten movies; one title stands for both zooms and all that was made of the movie.
MOVIES = (
    "movie01-chironomus",
    "movie02-bees",
    "movie03-dogville",
    "movie04-egomotion",
    "movie05-prairie1",
    "movie06-carnegie-dam",
    "movie07-walking",
    "movie08-smile",
    "movie09-water",
    "movie10-leaves-wind",
)
N_FRAMES = 11
CONTRAST_MOVIES = (2, 4, 7, 10)
WINDOW_MS = 200.0
FORMAT = "henaff2021-v1-repack"


def _values(group: h5py.File | h5py.Group, name: str) -> np.ndarray:
    held = group.get(name)
    if not isinstance(held, h5py.Dataset):
        raise ValueError(f"{group.file.filename} holds no {name}; it is damaged or another version.")
    return held[()]


def _names(given: Sequence[str] | None, known: Sequence[str], what: str) -> list[str]:
    chosen = list(known if given is None else [given] if isinstance(given, str) else given)
    for name in chosen:
        if name not in known:
            raise ValueError(f"There is no {what} {name!r} in henaff2021; expected some of {', '.join(known)}.")
    if not chosen:
        raise ValueError(f"No {what} is left; expected some of {', '.join(known)}.")
    # In the order of the files, so that equal choices give equal recordings.
    return [name for name in known if name in chosen]


def load(
    data: Path | str | None = None,
    *,
    populations: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
) -> Recording:
    """Hénaff et al. 2021 from the packed file or from clones of the originals.

    Parameters
    ----------
    data : path, optional
        `henaff2021_v1.h5`, a folder that holds it, or a folder that holds both clones under their own names; looked for
        as :mod:`neural_fits.datasets.fetch` says without it.
    populations : sequence of str, optional
        Some of :data:`POPULATIONS`; all without it.
    categories : sequence of str, optional
        Some of :data:`CATEGORIES`; all without it. `("natural", "synthetic")` gives 400 images.

    Returns
    -------
    Recording
        Spike counts (440 stimuli, 60 repeats, 360 neurons), NaN where a repeat is missing; images 128 x 128.
        On stimulus: stimulus_id, zoom, category, movie (1-10), sequence (title of the movie), frame (1-11, of a
        contrast series the step 1-10), frame_block (0-3), source_number. On neuron: neuron_id, population, animal,
        region, cluster_id, cluster_group, window_start_ms, window_end_ms, blank_rate_hz.

    Raises
    ------
    FileNotFoundError
        If neither the file nor the clones are there.
    ValueError
        If the file is not the registered one, or a population or category is unknown.
    """
    if locate(ENTRY, ENTRY.files[0], data) is None and (originals := clones(data)) is not None:
        return from_originals(*originals, populations=populations, categories=categories)
    return read(find(ENTRY, ENTRY.files[0], data), populations=populations, categories=categories)


def clones(data: Path | str | None = None) -> tuple[Path, Path] | None:
    """Clones of the two originals on this machine.

    Parameters
    ----------
    data : path, optional
        Folder that holds both under their own names; looked for as :mod:`neural_fits.datasets.fetch` says without it.

    Returns
    -------
    tuple of Path or None
        Responses and images.

    Examples
    --------
    >>> clones("no/such/folder") is None
    True
    """
    for folder in places(ENTRY, data):
        responses, images = (folder / name for name in CLONES)
        if responses.is_dir() and images.is_dir():
            return responses, images
    return None


def read(
    path: Path | str, *, populations: Sequence[str] | None = None, categories: Sequence[str] | None = None
) -> Recording:
    """Read the packed HDF5 file.

    Parameters
    ----------
    path : path
        `henaff2021_v1.h5`.
    populations, categories
        As in :func:`load`.

    Returns
    -------
    Recording
        As from :func:`load`.

    Raises
    ------
    ValueError
        If the file has another format, or a population or category is unknown.
    """
    populations = _names(populations, POPULATIONS, "population")
    with h5py.File(path, "r") as file:
        if file.attrs.get("format") != FORMAT:
            raise ValueError(f"{path} is not a packed henaff2021 file (its attribute format is not {FORMAT!r}).")
        info = {name: _values(file, f"image_info/{name}_index") for name in ("zoom", "category", "movie", "frame")}
        table = stimulus_table(
            np.asarray(ZOOMS)[info["zoom"]],
            np.asarray(CATEGORIES)[info["category"]],
            info["movie"] + 1,
            info["frame"] + 1,
        )
        table["source_number"] = _values(file, "image_info/stimulus_id").astype(int)
        rows = np.isin(table["category"], _names(categories, CATEGORIES, "category"))
        parts = []
        for name in populations:
            group = f"populations/{name}"
            counts = _values(file, f"{group}/counts")
            parts.append(
                {
                    "counts": np.where(counts < 0, np.nan, counts)[rows],
                    "cluster_id": _values(file, f"{group}/cluster_id"),
                    "cluster_group": _values(file, f"{group}/cluster_group"),
                    "latency_ms": float(np.asarray(file[group].attrs["response_latency_ms"])),
                    "blank_rate_hz": _values(file, f"{group}/blank_rate_hz"),
                }
            )
        images = _values(file, "images")[rows]
    return _recording(populations, parts, {name: values[rows] for name, values in table.items()}, images)


def from_originals(
    responses: Path | str,
    images: Path | str,
    *,
    populations: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    image_px: int = 128,
) -> Recording:
    """Read clones of the authors' two repositories.

    With `image_px=128` everything equals what :func:`read` gives, number by number.

    Parameters
    ----------
    responses : path
        Clone of `wongyoJung/Primary-visual-cortex-straightens-natural-video-trajectories`; of it, `V1_responses/`.
    images : path
        Clone of `olivierhenaff/neural-straightening`; of it, `images/acute/stimulus_fullfield/`.
    populations, categories
        As in :func:`load`.
    image_px : int
        Side of the images; 512 divided by a whole number. 512 keeps the pixels of the files, which measures in the
        pixel domain (curvature) need; smaller images are means over square blocks, rounded.

    Returns
    -------
    Recording
        As from :func:`load`.

    Raises
    ------
    FileNotFoundError
        If a file is missing from a clone.
    ValueError
        If a file has another layout, or an argument is unknown.
    """
    responses, images = Path(responses).expanduser(), Path(images).expanduser()
    populations = _names(populations, POPULATIONS, "population")
    categories = _names(categories, CATEGORIES, "category")
    if image_px < 1 or 512 % image_px:
        raise ValueError(f"image_px must divide 512, not {image_px}.")
    # The order of the source's own numbers: zoom, then category, then movie, then frame.
    table = stimulus_table(*zip(*_shown(), strict=True))
    table["source_number"] = np.arange(1, len(table["movie"]) + 1)
    rows = np.isin(table["category"], categories)
    table = {name: values[rows] for name, values in table.items()}
    parts = [_original_population(responses / "V1_responses" / f"{name}_image_sequences.mat") for name in populations]
    for part in parts:
        part["counts"] = part["counts"][rows]
    folder = images / "images" / "acute" / "stimulus_fullfield"
    pictures = np.stack(
        [
            _picture(folder / f"stimSelected-{zoom}" / f"movie{movie}" / f"{category}{frame:02d}.png", image_px)
            for zoom, category, movie, frame in zip(
                table["zoom"], table["category"], table["movie"], table["frame"], strict=True
            )
        ]
    )
    return _recording(populations, parts, table, pictures)


def _shown() -> Iterator[tuple[str, str, int, int]]:
    """Every image once: zoom, category, movie, frame; in the order of the source's numbers."""
    for zoom in ZOOMS:
        for category, first, last in (("natural", 1, 11), ("synthetic", 2, 10), ("contrast", 1, 10)):
            for movie in range(1, len(MOVIES) + 1):
                if category != "contrast" or (zoom == "zoom1x" and movie in CONTRAST_MOVIES):
                    for frame in range(first, last + 1):
                        yield zoom, category, movie, frame


def _original_population(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; clone the responses again, or leave its population out.")
    with h5py.File(path, "r") as file:
        # MATLAB's axes reversed: repeat, unit, frame, movie, category, zoom.
        held = _values(file, "naturalStruct/sortedResponses")
        if held.shape[2:] != (N_FRAMES, len(MOVIES), len(CATEGORIES), len(ZOOMS)):
            raise ValueError(
                f"sortedResponses of {path} has shape {held.shape}; expected (repeat, unit, 11, 10, 3, 2)."
            )
        at = np.array([(f - 1, m - 1, CATEGORIES.index(c), ZOOMS.index(z)) for z, c, m, f in _shown()]).T
        return {
            "counts": np.moveaxis(held[:, :, *at], -1, 0),
            "cluster_id": _values(file, "naturalStruct/cluster_list")[:, 0].astype(int),
            "cluster_group": _values(file, "naturalStruct/cluster_group")[:, 0].astype(int),
            "latency_ms": float(np.round(_values(file, "naturalStruct/response_latency")[0, 0] * 1000, 6)),
            "blank_rate_hz": _values(file, "naturalStruct/mean_blank_rates")[:, 0],
        }


def _picture(path: Path, image_px: int) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; clone the images again.")
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    if pixels.ndim == 3:
        pixels = pixels[..., 0]
    if pixels.shape != (512, 512) or pixels.dtype != np.uint8:
        raise ValueError(f"{path} is {pixels.shape} {pixels.dtype}; expected 512 x 512 pixels of 8 bits.")
    side = 512 // image_px
    blocks = pixels.reshape(image_px, side, image_px, side).astype(float).mean(axis=(1, 3))
    return np.round(blocks).astype(np.uint8)


def stimulus_table(
    zoom: Sequence[str] | np.ndarray,
    category: Sequence[str] | np.ndarray,
    movie: Sequence[int] | np.ndarray,
    frame: Sequence[int] | np.ndarray,
) -> dict[str, np.ndarray]:
    """Labels of stimuli and the groups to leave out together.

    Parameters
    ----------
    zoom, category : sequence of str (stimulus,)
        Names of :data:`ZOOMS` and :data:`CATEGORIES`.
    movie, frame : sequence of int (stimulus,)
        From 1, as in the file names.

    Returns
    -------
    dict of str to numpy.ndarray (stimulus,)
        stimulus_id, zoom, category, movie, sequence, frame, frame_block.

    Examples
    --------
    >>> table = stimulus_table(["zoom1x", "zoom2x"], ["natural", "synthetic"], [3, 3], [11, 4])
    >>> table["stimulus_id"].tolist(), table["sequence"].tolist(), table["frame_block"].tolist()
    (['zoom1x/movie03/natural11', 'zoom2x/movie03/synthetic04'], ['movie03-dogville', 'movie03-dogville'], [3, 1])
    """
    zoom, category = np.asarray(zoom), np.asarray(category)
    movie, frame = np.asarray(movie, int), np.asarray(frame, int)
    named = zip(zoom, category, movie, frame, strict=True)
    return {
        "stimulus_id": np.array([f"{z}/movie{m:02d}/{c}{f:02d}" for z, c, m, f in named]),
        "zoom": zoom,
        "category": category,
        "movie": movie,
        "sequence": np.asarray(MOVIES)[movie - 1],
        "frame": frame,
        "frame_block": np.where(category == "contrast", 0, (frame - 1) // 3),
    }


def _recording(
    populations: Sequence[str], parts: Sequence[dict[str, Any]], stimulus: dict[str, np.ndarray], images: np.ndarray
) -> Recording:
    """One recording of several populations, their repeats side by side and filled up with NaN."""
    units = [part["counts"].shape[-1] for part in parts]
    repeats = max(part["counts"].shape[1] for part in parts)
    responses = np.full((len(stimulus["stimulus_id"]), repeats, sum(units)), np.nan, dtype=np.float32)
    for part, start in zip(parts, np.cumsum([0, *units]), strict=False):
        responses[:, : part["counts"].shape[1], start : start + part["counts"].shape[2]] = part["counts"]
    population = np.repeat(populations, units)
    cluster = np.concatenate([part["cluster_id"] for part in parts]).astype(int)
    start_ms = np.repeat([part["latency_ms"] for part in parts], units)
    return recording_from_arrays(
        responses,
        stimulus=stimulus,
        neuron={
            "neuron_id": np.array([f"{name}_c{number}" for name, number in zip(population, cluster, strict=True)]),
            "region": np.full(sum(units), "V1"),
            "animal": np.array([name.split("_")[0] for name in population]),
            "population": population,
            "cluster_id": cluster,
            "cluster_group": np.concatenate([part["cluster_group"] for part in parts]).astype(int),
            "window_start_ms": start_ms,
            "window_end_ms": start_ms + WINDOW_MS,
            "blank_rate_hz": np.concatenate([part["blank_rate_hz"] for part in parts]).astype(float),
        },
        images=images,
        name=ENTRY.name,
        size_deg=np.nan,
        window_ms=(np.nan, np.nan),
        unit="spikes",
        licence=ENTRY.licence,
        citation=ENTRY.citation,
        source=ENTRY.source,
    )


def sequence_index(recording: Recording) -> xr.DataArray:
    """Where each frame of each sequence is among the stimuli of a recording.

    Parameters
    ----------
    recording : Recording
        Of :func:`load`, whole or selected.

    Returns
    -------
    xarray.DataArray of int (zoom, category, movie, frame)
        Row of the stimulus; -1 where there is none. Places 1 and 11 of a synthetic sequence are natural frames 1 and
        11; place 11 of a contrast series is natural frame 1 at full contrast.
    """
    labels = (recording.labels(name) for name in ("zoom", "category", "movie", "frame"))
    rows = {place: row for row, place in enumerate(zip(*(values.tolist() for values in labels), strict=True))}
    index = np.full((len(ZOOMS), len(CATEGORIES), len(MOVIES), N_FRAMES), -1)
    for z, zoom in enumerate(ZOOMS):
        for c, category in enumerate(CATEGORIES):
            for movie in range(1, len(MOVIES) + 1):
                if category == "contrast" and (zoom, category, movie, 1) not in rows:
                    continue
                for frame in range(1, N_FRAMES + 1):
                    place = (zoom, category, movie, frame)
                    if category == "synthetic" and frame in (1, N_FRAMES):
                        place = (zoom, "natural", movie, frame)
                    elif category == "contrast" and frame == N_FRAMES:
                        place = (zoom, "natural", movie, 1)
                    index[z, c, movie - 1, frame - 1] = rows.get(place, -1)
    return xr.DataArray(
        index,
        dims=("zoom", "category", "movie", "frame"),
        coords={
            "zoom": list(ZOOMS),
            "category": list(CATEGORIES),
            "movie": np.arange(1, len(MOVIES) + 1),
            "sequence": ("movie", list(MOVIES)),
            "frame": np.arange(1, N_FRAMES + 1),
        },
    )


def published_curvature(data: Path | str | None = None) -> dict[str, np.ndarray]:
    """The authors' curvature estimates, one row per population, category, frame step and sequence.

    Straightening as the authors plot it is `delta_curvature_neural_deg - delta_curvature_control_deg` (negative:
    straighter than the pixels); their main results are those of frame step 2.

    Parameters
    ----------
    data : path, optional
        As in :func:`load`; a clone of the responses is accepted as well.

    Returns
    -------
    dict of str to numpy.ndarray (row,)
        720 rows of population, category, frame_step (1: all frames, 2: every second), zoom, movie, sequence,
        pixel_curvature_deg, delta_curvature_neural_deg, delta_curvature_control_deg (neural, or the authors' recovery
        analysis, minus pixel curvature, degrees), neural_distance, rates_correlation. `pandas.DataFrame` takes it as it
        is.

    Raises
    ------
    FileNotFoundError
        If neither the packed file nor a clone of the responses is there.
    """
    for folder in [] if locate(ENTRY, ENTRY.files[0], data) else places(ENTRY, data):
        for clone in (folder, folder / CLONES[0]):
            table = clone / "curvatureEstimations" / "Acute data - combined_235x.csv"
            if table.is_file():
                return _original_curvature(table)
    with h5py.File(find(ENTRY, ENTRY.files[0], data), "r") as file:
        columns = ("pixel_curvature_deg", "delta_curvature_neural_deg", "delta_curvature_control_deg")
        columns += ("neural_distance", "rates_correlation")
        index = ("population", "category_index", "zoom_index", "movie_index", "frame_step")
        held = {name: _values(file, f"published_curvature/{name}") for name in (*index, *columns)}
    movie = held.pop("movie_index").astype(int)
    return {
        "population": np.array([name.decode() for name in held.pop("population")]),
        "category": np.asarray(CATEGORIES)[held.pop("category_index")],
        "zoom": np.asarray(ZOOMS)[held.pop("zoom_index")],
        "movie": movie + 1,
        "sequence": np.asarray(MOVIES)[movie],
        "frame_step": held.pop("frame_step").astype(int),
        **held,
    }


def _original_curvature(path: Path) -> dict[str, np.ndarray]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {
        "pixel_curvature_deg": "Pixel curvature",
        "delta_curvature_neural_deg": "Delta Curvature: neural",
        "delta_curvature_control_deg": "Delta Curvature: control",
        "neural_distance": "Distances",
        "rates_correlation": "Rates, correlation empirical vs predicted",
    }
    population = np.array([row["Dataset"].removesuffix("_image_sequences") for row in rows])
    category = np.array([CATEGORIES[int(row["sequence type"]) - 1] for row in rows])
    step = np.array([int(row["dither"]) for row in rows])
    # Within population, category and step: movies 1-10 of zoom1x, then of zoom2x, as the authors' summary.m reads it.
    place = np.empty(len(rows), int)
    for key in set(zip(population.tolist(), category.tolist(), step.tolist(), strict=True)):
        at = (population == key[0]) & (category == key[1]) & (step == key[2])
        place[at] = np.arange(at.sum())
    return {
        "population": population,
        "category": category,
        "zoom": np.asarray(ZOOMS)[place // len(MOVIES)],
        "movie": place % len(MOVIES) + 1,
        "sequence": np.asarray(MOVIES)[place % len(MOVIES)],
        "frame_step": step,
        **{name: np.array([float(row[column]) for row in rows]) for name, column in numbers.items()},
    }
