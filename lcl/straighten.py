"""Straightening of movies in pixels, layers and recorded populations: what ``lcl straighten`` does."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import xarray as xr

from lcl.measure import layers_of
from lcl.report import name_table, paragraph, picture, section
from neural_fits.activations import activations
from neural_fits.datasets import henaff2021
from neural_fits.figures_straightening import straightening, straightening_lines
from neural_fits.fits import write_dataset
from neural_fits.recordings import Recording
from neural_fits.straightening import compare_published, straightening_table, summary
from neural_fits.vision_model import VisionModel
from stimuli.drawing import png
from stimuli.files import replacing

CATEGORIES = ("natural", "synthetic")
MEAN = "all populations"


def straighten(
    models: Mapping[str, VisionModel],
    recording: Recording,
    *,
    size_deg: float,
    layers: Sequence[str] | None = None,
    without: Sequence[str] = (),
    step: int = 2,
    transform: str = "sqrt",
    n_resamples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Curvature of the sequences of Henaff et al. (2021) in pixels, in layers and in the recorded populations.

    Parameters
    ----------
    models : mapping of str to VisionModel
    recording : Recording
        Of :func:`neural_fits.datasets.henaff2021.load`.
    size_deg : float
        Assumed width of the pictures, degrees; the files do not say it.
    layers : sequence of str, optional
        As in :func:`lcl.measure.layers_of`.
    without : sequence of str
        Populations that are left out of ``all populations``.
    step : int
        Every how many frames; the authors' main results are those of step 2.
    transform : str
        Of spike counts.
    n_resamples, seed : int
        Of the intervals over movies.
    progress : bool

    Returns
    -------
    xarray.Dataset
        As :func:`neural_fits.straightening.straightening_table`, with the mean over populations as ``all populations``.

    Raises
    ------
    ValueError
        If the recording has no sequences, or a population to leave out is unknown.
    """
    names = set(map(str, recording.dataset.coords))
    if not {"zoom", "category", "movie", "frame", "population"} <= names:
        raise ValueError(
            f"recording {recording.name} has no sequences of frames; expected labels zoom, category, movie and frame, "
            "as henaff2021 has."
        )
    population = recording.dataset["population"].values.astype(str)
    for name in without:
        if name not in population:
            raise ValueError(
                f"there is no population {name!r} to leave out; expected some of {sorted(set(population))}."
            )
    if recording.images is None:
        raise ValueError(f"recording {recording.name} holds no pictures; curvature in pixels needs them.")
    index = henaff2021.sequence_index(recording).sel(category=list(CATEGORIES))
    features = {}
    for model_name, chosen in layers_of(models, layers).items():
        values = activations(
            models[model_name],
            recording.images,
            size_deg=size_deg,
            layers=chosen,
            progress=progress,
        )
        features |= {f"{model_name} {layer}": value for layer, value in values.items()}
    repeats = recording.repeats()
    populations = {str(name): repeats[:, :, population == name] for name in dict.fromkeys(population)}
    table = straightening_table(
        index,
        recording.images,
        features=features,
        populations=populations,
        step=step,
        transform=transform,
        n_resamples=n_resamples,
        seed=seed,
    )
    kept = [name for name in populations if name not in without]
    mean = summary(table, mean_over=kept, name=MEAN, n_resamples=n_resamples, seed=seed)
    table = table.reindex(space=[*table["space"].values, MEAN])
    for name, values in mean.data_vars.items():
        table[name].loc[{"space": MEAN}] = values.sel(space=MEAN)
    table.attrs |= {
        "step": step,
        "transform": transform,
        "recording": recording.name,
        "citation": recording.citation,
        "licence": recording.licence,
        "picture_size_deg": size_deg,
        "mean_over": json.dumps(kept),
        "seed": seed,
    }
    return table


def write_straightening(
    table: xr.Dataset, published: Mapping[str, np.ndarray] | None, out: Path, *, command: str
) -> list[str]:
    """Write the table as netCDF, its figure, and a section of a page.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`straighten`.
    published : mapping, optional
        The authors' estimates.
    out : Path
    command : str

    Returns
    -------
    list of str
        HTML.
    """
    out.mkdir(parents=True, exist_ok=True)
    # The published column of pixels is that of step 1 for natural sequences at step 2.
    baseline = "table" if table.attrs["step"] == 2 else "published"
    compared = None if published is None else compare_published(table, published, baseline=baseline)
    write_dataset(table.assign_attrs(command=command), out / "straightening.nc")
    if compared is not None:
        write_dataset(compared.assign_attrs(command=command), out / "straightening-published.nc")
    figure = straightening(table, compared)
    data = png(figure)
    with replacing(out / "straightening.png") as partial:
        partial.write_bytes(data)
    caption = (
        "Curvature of sequences less their curvature in pixels (as stored in the recording), intervals over movies. "
        "Diamonds: the authors' estimates by a generative model, corrected by their control."
    )
    content = picture(data, caption=caption, alt=caption, width_in=float(figure.get_figwidth()))
    content += "".join(paragraph(line) for line in straightening_lines(table))
    if compared is not None:
        content += published_table(compared)
    content += name_table({**table.attrs, "command": command})
    return [section(f"Straightening of movies, {table.attrs['recording']}", content)]


def published_table(compared: xr.Dataset) -> str:
    """HTML table of our and the published curvature, a row for each population.

    Parameters
    ----------
    compared : xarray.Dataset
        From :func:`neural_fits.straightening.compare_published`.

    Returns
    -------
    str
    """
    categories = [str(name) for name in compared["category"].values]
    head = "".join(
        f'<th scope="col">{escape(c)}: ours, published (deg)</th><th scope="col">{escape(c)}: r over sequences</th>'
        for c in categories
    )
    body = ""
    for space in map(str, compared["space"].values):
        cells = ""
        for category in categories:
            cell = compared.sel(space=space, category=category)
            cells += (
                f"<td>{float(cell.curvature_deg):.1f}, {float(cell.published_deg):.1f}</td>"
                f"<td>{float(cell.correlation):.2f} ({int(cell.n_sequences)})</td>"
            )
        body += f'<tr><th scope="row">{escape(space)}</th>{cells}</tr>'
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="published estimates"><table class="numbers"><thead>'
        f'<tr><th scope="col">population</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
