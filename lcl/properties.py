"""Tuning and texture modulation of models, one row a layer: what ``lcl properties`` and its two halves do."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from lcl.checkpoint import provenance
from lcl.measure import file_name, layers_of
from lcl.report import name_table, paragraph, picture, section
from neural_fits import figures_modulation, figures_tuning
from neural_fits.bootstrap import percentile_interval, resampled_counts
from neural_fits.datasets.v1_published import published_distributions
from neural_fits.distribution_similarity import compare_with_published, published_ceiling
from neural_fits.fits import write_dataset
from neural_fits.texture_indices import by_family, mean_defined
from neural_fits.texture_modulation import texture_modulation
from neural_fits.tuning import tuning
from neural_fits.vision_model import VisionModel
from stimuli.drawing import png
from stimuli.files import replacing
from stimuli.stimulus_set import StimulusSet, read_folder, read_hdf5
from stimuli.textures import apertured, ready_textures, shifted

Tables = Mapping[str, xr.Dataset]
Row = dict[str, Any]

#: Measures of tuning in a row of the table: medians over units, or shares of units.
MEDIANS = (
    "circular_variance",
    "orientation_bandwidth_deg",
    "peak_frequency_cpd",
    "frequency_bandwidth_octaves",
    "f1_f0",
)
SHARES = ("orientation_selective", "low_pass", "simple")
#: Of the units alone that were shown discs and several contrasts.
SIZED_MEDIANS = ("summation_field_deg", "surround_suppression_index", "half_contrast", "contrast_exponent")
_OF_SIZE = (
    "summation_field_deg",
    "surround_suppression_index",
    "strongly_suppressed",
    "surround_diameter_deg",
    "surround_over_summation",
)
#: Properties of single units under textures: how they are averaged over units.
TEXTURE_MEASURES = {
    "variance_ratio": "geometric mean",
    "selectivity_texture": "median",
    "selectivity_noise": "median",
    "sparseness_texture": "median",
    "sparseness_noise": "median",
}


def over_units(
    values: ArrayLike, statistic: str, *, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float, int]:
    """Average of a property over units, with its bootstrap interval over units.

    Parameters
    ----------
    values : array_like, (unit,)
        NaN where undefined; these are left out, and counted.
    statistic : {"median", "mean", "geometric mean"}
    n_resamples, seed : int

    Returns
    -------
    average, low, high : float
        NaN where no unit is defined; 95 % interval.
    undefined : int

    Examples
    --------
    >>> average, low, high, undefined = over_units([1.0, 2.0, 3.0, np.nan], "median")
    >>> average, low, high, undefined
    (2.0, 1.0, 3.0, 1)
    """
    v = np.asarray(values, dtype=np.float64)
    defined = v[np.isfinite(v)]
    undefined = len(v) - len(defined)
    if len(defined) == 0:
        return float("nan"), float("nan"), float("nan"), undefined
    average: Callable[..., NDArray] = np.median if statistic == "median" else np.mean
    kept = np.log(defined) if statistic == "geometric mean" else defined
    drawn = np.random.default_rng(seed).integers(0, len(kept), (n_resamples, len(kept)))
    ends = float(average(kept)), *percentile_interval(average(kept[drawn], axis=1))
    estimate, low, high = np.exp(ends) if statistic == "geometric mean" else ends
    return float(estimate), float(low), float(high), undefined


def measure_tuning(
    models: Mapping[str, VisionModel],
    *,
    layers: Sequence[str] | None = None,
    places: str = "centre",
    n_units: int | None = None,
    n_sized: int | None = 24,
    n_orientations: int = 12,
    n_phases: int = 8,
    n_resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
    say: Callable[[str], object] | None = None,
) -> dict[str, xr.Dataset]:
    """Tuning to gratings of every model.

    Parameters
    ----------
    models : mapping of str to VisionModel
    layers : sequence of str, optional
        As in :func:`lcl.measure.layers_of`.
    places, n_units, n_sized, seed, batch_size, progress
        As in :func:`neural_fits.tuning.tuning`.
    n_orientations, n_phases : int
        As in :func:`neural_fits.tuning.measure_tuning`; 8 phases give F1/F0 within 4 %.
    n_resamples : int
        Of the intervals of :func:`tuning_rows` and :func:`similarity_rows`.
    say : callable, optional
        Called with a line for each layer as soon as it is known.

    Returns
    -------
    dict of str to xarray.Dataset
        By model.
    """
    tables = {}
    for name, chosen in layers_of(models, layers).items():
        units = tuning(
            models[name],
            layers=chosen,
            places=places,
            n_units=n_units,
            n_sized=n_sized,
            n_orientations=n_orientations,
            n_phases=n_phases,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
        about = {"model": name, "n_resamples": n_resamples, "n_sized": n_sized or 0, "n_units": n_units or 0}
        tables[name] = units.assign_attrs(about)
        for row in tuning_rows({name: tables[name]}):
            if say:
                say(tuning_line(row))
    return tables


def layer_units(table: xr.Dataset) -> dict[str, xr.Dataset]:
    """Units of each layer of a table over ``unit``, in the order of the layers.

    Parameters
    ----------
    table : xarray.Dataset
        Of :func:`measure_tuning` (coordinate ``layer``) or :func:`measure_modulation` (``unit_layer``).

    Returns
    -------
    dict of str to xarray.Dataset
    """
    names = table["unit_layer" if "unit_layer" in table.coords else "layer"].values.astype(str)
    return {name: table.isel(unit=np.flatnonzero(names == name)) for name in dict.fromkeys(names.tolist())}


def tuning_rows(tables: Tables) -> list[Row]:
    """One row a layer: averages of tuning measures over units, with intervals and counts of undefined units.

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset
        From :func:`measure_tuning`.

    Returns
    -------
    list of dict
        ``model``, ``layer``, ``n_units``, ``undriven_units``, ``n_sized``; and of each measure, under its own name,
        the median or share, with ``_low``, ``_high`` and ``_undefined``.
    """
    rows = []
    for model, table in tables.items():
        options = {"n_resamples": int(table.attrs["n_resamples"]), "seed": int(table.attrs["seed"])}
        for layer, units in layer_units(table).items():
            sized = units.isel(unit=np.flatnonzero(units["sized"].values))
            row: Row = {
                "model": model,
                "layer": layer,
                "n_units": units.sizes["unit"],
                "undriven_units": int(np.isnan(units["best_orientation_deg"].values).sum()),
                "n_sized": sized.sizes["unit"],
            }
            kinds = [(MEDIANS, "median", units), (SHARES, "mean", units), (SIZED_MEDIANS, "median", sized)]
            for names, statistic, of in kinds:
                for name in names:
                    row |= _with_interval(name, of[name].values, statistic, **options)
            rows.append(row)
    return rows


def _with_interval(name: str, values: ArrayLike, statistic: str, **options: int) -> Row:
    average, low, high, undefined = over_units(values, statistic, **options)
    return {name: average, f"{name}_low": low, f"{name}_high": high, f"{name}_undefined": undefined}


def similarity_rows(tables: Tables) -> list[Row]:
    """How alike the distributions of tuning are to published ones of macaque V1: a row for each, layer by layer.

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset
        From :func:`measure_tuning`.

    Returns
    -------
    list of dict
        ``model``, ``layer``, ``distribution`` (a key of
        :func:`neural_fits.datasets.v1_published.published_distributions`), ``score`` with ``low``, ``high`` and
        ``error`` (:func:`neural_fits.distribution_similarity.ks_similarity`), ``n_units``, ``n_undefined``,
        ``n_neurons`` and ``ceiling``, the score of the neurons' own distribution. Where a layer has no unit of the
        kind, the score is NaN and ``n_units`` 0.
    """
    published = {key: each for key, each in published_distributions().items() if each.counts.ndim == 1}
    rows = []
    for model, table in tables.items():
        options = {"n_resamples": int(table.attrs["n_resamples"]), "seed": int(table.attrs["seed"])}
        ceilings = {key: published_ceiling(each, **options).score for key, each in published.items()}
        for layer, units in layer_units(table).items():
            sized = units.isel(unit=np.flatnonzero(units["sized"].values))
            found = compare_with_published(units.drop_vars(_OF_SIZE), published, **options)
            found |= compare_with_published(sized[list(_OF_SIZE)], published, **options)
            for key in published:
                one = found.get(key)
                rows.append(
                    {
                        "model": model,
                        "layer": layer,
                        "distribution": key,
                        "score": one.score if one else float("nan"),
                        "low": one.low if one else float("nan"),
                        "high": one.high if one else float("nan"),
                        "error": one.error if one else float("nan"),
                        "n_units": one.n_units if one else 0,
                        "n_undefined": one.n_undefined if one else 0,
                        "n_neurons": published[key].n,
                        "ceiling": ceilings[key],
                    }
                )
    return rows


def texture_set(source: Path | None = None, *, aperture_deg: float = 2.0, shifts: int | None = None) -> StimulusSet:
    """Textures and noise as they are shown to models: each at several shifts, through the aperture.

    Parameters
    ----------
    source : path, optional
        HDF5 file, or folder, of a set; the one that comes with the package without it.
    aperture_deg : float
        Radius of the raised cosine; 0 for none. A set that has an aperture keeps its own.
    shifts : int, optional
        As in :func:`stimuli.textures.shifted`; by default 2 for the set of the package, whose pictures repeat at
        their borders, else 1.

    Returns
    -------
    StimulusSet

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such set, or it has no column ``type``, ``family`` and ``sample``.
    """
    if source is None:
        stimuli = ready_textures()
    elif source.is_dir() and (source / "textures.h5").is_file():
        stimuli = read_hdf5(source / "textures.h5")
    else:
        stimuli = read_folder(source) if source.is_dir() else read_hdf5(source)
    for column in ("type", "family", "sample"):
        if column not in stimuli.parameters:
            raise ValueError(
                f"the set {stimuli.name} has no column {column!r}; expected type (texture, noise), family and sample."
            )
    stimuli = shifted(stimuli, (2 if source is None else 1) if shifts is None else shifts)
    return apertured(stimuli, radius_deg=aperture_deg) if aperture_deg > 0 and stimuli.aperture == "none" else stimuli


def texture_lines(stimuli: StimulusSet) -> list[str]:
    """What a set of textures holds, and for each family how close its textures and noise came to the statistics.

    Parameters
    ----------
    stimuli : StimulusSet
        From :func:`texture_set`.

    Returns
    -------
    list of str
    """
    table, families = stimuli.parameters, list(dict.fromkeys(stimuli.parameters["family"].tolist()))
    lines = [
        f"{len(stimuli)} pictures of {stimuli.images.shape[1]} px, {stimuli.size_deg:.2f} deg; {len(families)} "
        f"families, {len(set(table['sample'].tolist()))} samples of each; aperture: {stimuli.aperture}"
    ]
    if "worst_error" not in table:
        return lines
    for family in families:
        mine, is_texture = table["family"] == family, table["type"] == "texture"
        error, noise = (table["worst_error"][mine & kind] for kind in (is_texture, ~is_texture))
        lines.append(
            f"  {family}: largest error of a statistic, textures {error.max():.3f}, noise {noise.min():.2f} or more"
        )
    return lines


def measure_modulation(
    models: Mapping[str, VisionModel],
    stimuli: StimulusSet,
    *,
    layers: Sequence[str] | None = None,
    places: str = "centre",
    n_units: int | None = None,
    baseline: str = "subtract",
    n_resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    say: Callable[[str], object] | None = None,
) -> dict[str, xr.Dataset]:
    """Texture modulation, tolerance and decoding of every model.

    Parameters
    ----------
    models : mapping of str to VisionModel
    stimuli : StimulusSet
        From :func:`texture_set`.
    layers : sequence of str, optional
        As in :func:`lcl.measure.layers_of`.
    places, n_units, baseline, n_resamples, seed, batch_size
        As in :func:`neural_fits.texture_modulation.texture_modulation`.
    say : callable, optional
        Called with a line for each layer as soon as it is known.

    Returns
    -------
    dict of str to xarray.Dataset
        By model.

    Raises
    ------
    ValueError
        As :func:`neural_fits.texture_modulation.texture_modulation`.
    """
    labels = {column: stimuli.parameters[column] for column in ("type", "family", "sample")}
    texture, noise, families, _ = by_family(stimuli.images, **labels)
    tables = {}
    for name, chosen in layers_of(models, layers).items():
        units = texture_modulation(
            models[name],
            texture,
            noise,
            size_deg=stimuli.size_deg,
            families=families,
            layers=chosen,
            places=places,
            n_units=n_units,
            baseline=baseline,
            n_resamples=n_resamples,
            seed=seed,
            batch_size=batch_size,
        )
        about = {"model": name, "stimuli": stimuli.name, "aperture": stimuli.aperture, "n_units": n_units or 0}
        tables[name] = units.assign_attrs(about)
        for row in modulation_rows({name: tables[name]}):
            if say:
                say(modulation_line(row))
    return tables


def modulation_rows(tables: Tables) -> list[Row]:
    """One row a layer: the index with its intervals and control, tolerance, selectivity and decoding.

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset
        From :func:`measure_modulation`.

    Returns
    -------
    list of dict
        ``modulation``, mean over units, with two 95 % intervals: ``_low`` and ``_high`` over pictures and units, the
        families given; ``_families_low`` and ``_families_high`` over families, pictures and units given. ``control``
        with ``_low`` and ``_high``: noise against noise, and the spread of its single splits. ``difference``: to the
        first layer of the model, paired by family, with ``_low`` and ``_high`` over families. ``share_positive``,
        ``undefined_units`` (no family defined) and ``undefined_pairs`` (of unit and family). Then the averages of
        :data:`TEXTURE_MEASURES`, and accuracies of decoding with an interval over populations.
    """
    rows = []
    for model, table in tables.items():
        seed, n_resamples = int(table.attrs["seed"]), int(table.attrs["n_resamples"])
        options = {"n_resamples": n_resamples, "seed": seed}
        first = None
        n_families = table.sizes["family"]
        counts = resampled_counts(n_families, n_resamples=n_resamples, seed=seed)
        for layer, units in layer_units(table).items():
            of = table.sel(layer=layer)
            over_families = resampled_families(units["modulation_by_family"], counts)
            low, high = percentile_interval(over_families)
            row: Row = {
                "model": model,
                "layer": layer,
                "n_units": units.sizes["unit"],
                "n_families": n_families,
                "n_samples": int(table.attrs["n_samples"]),
                "modulation": float(of["population_modulation"]),
                "modulation_low": float(of["population_modulation_low"]),
                "modulation_high": float(of["population_modulation_high"]),
                "modulation_families_low": low,
                "modulation_families_high": high,
                "control": float(of["population_control"]),
                "control_low": float(of["population_control_low"]),
                "control_high": float(of["population_control_high"]),
                "share_positive": float(of["share_positive"]),
                "undefined_units": int(of["undefined_units"]),
                "undefined_pairs": int(np.isnan(units["modulation_by_family"].values).sum()),
            }
            if first is None:
                first = row["modulation"], over_families
                row |= dict.fromkeys(("difference", "difference_low", "difference_high"), float("nan"))
            else:
                low, high = percentile_interval(over_families - first[1])
                row |= {"difference": row["modulation"] - first[0], "difference_low": low, "difference_high": high}
            for name, statistic in TEXTURE_MEASURES.items():
                row |= _with_interval(name, units[name].values, statistic, **options)
            for kind in ("family", "sample"):
                if f"{kind}_accuracy" not in of:
                    continue
                for size in of["population_size"].values.tolist():
                    draws = of[f"{kind}_accuracy"].sel(population_size=size).values
                    defined = bool(np.isfinite(draws).any())
                    low, high = percentile_interval(draws)
                    name = f"{kind}_accuracy_{size}"
                    row |= {name: float(draws.mean()) if defined else float("nan")}
                    row |= {f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    return rows


def resampled_families(index: xr.DataArray, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over units of their mean over the defined families, the families resampled.

    Parameters
    ----------
    index : xarray.DataArray, (family, unit)
        NaN where undefined.
    counts : ndarray, (resample, family)
        How often each family is drawn.

    Returns
    -------
    ndarray, (resample,)

    Examples
    --------
    >>> index = xr.DataArray([[0.2, np.nan], [0.4, 0.6]], dims=("family", "unit"))
    >>> resampled_families(index, np.array([[1.0, 1.0], [2.0, 0.0]])).round(3)
    array([0.45, 0.2 ])
    """
    values = index.transpose("family", "unit").values
    defined = np.isfinite(values)
    n = counts @ defined
    means = np.where(n > 0, counts @ np.where(defined, values, 0.0) / np.maximum(n, 1), np.nan)
    return mean_defined(means.T)[0]


def reading(row: Mapping[str, Any]) -> str:
    """What a row says of the question whether a layer is like V1 (index near 0) or V2 (index above 0).

    ``above 0`` or ``below 0`` needs both intervals, over pictures and units and over families, on that side.

    Parameters
    ----------
    row : mapping
        From :func:`modulation_rows`.

    Returns
    -------
    str

    Examples
    --------
    >>> over_pictures = {"modulation_low": 0.1, "modulation_high": 0.3}
    >>> reading({**over_pictures, "modulation_families_low": 0.05, "modulation_families_high": 0.4})
    'above 0, as in V2'
    >>> reading({**over_pictures, "modulation_families_low": -0.05, "modulation_families_high": 0.4})
    'above 0 for these families, not beyond them'
    """
    low, high = row["modulation_low"], row["modulation_high"]
    families_low, families_high = row["modulation_families_low"], row["modulation_families_high"]
    if low > 0 and families_low > 0:
        return "above 0, as in V2"
    if high < 0 and families_high < 0:
        return "below 0, as in neither"
    if low > 0 or high < 0:
        return f"{'above' if low > 0 else 'below'} 0 for these families, not beyond them"
    return "not told from 0" if np.isfinite(low) else "undefined"


def modulation_line(row: Mapping[str, Any]) -> str:
    """A row of :func:`modulation_rows` in words."""
    return (
        f"{row['model']} {row['layer']}: modulation {row['modulation']:+.3f} [{row['modulation_low']:+.3f}, "
        f"{row['modulation_high']:+.3f}], over families [{row['modulation_families_low']:+.3f}, "
        f"{row['modulation_families_high']:+.3f}], noise against noise {row['control']:+.3f} "
        f"[{row['control_low']:+.3f}, {row['control_high']:+.3f}]: {reading(row)}; variance ratio "
        f"{row['variance_ratio']:.2f} [{row['variance_ratio_low']:.2f}, {row['variance_ratio_high']:.2f}]"
    )


def tuning_line(row: Mapping[str, Any]) -> str:
    """A row of :func:`tuning_rows` in words."""
    return (
        f"{row['model']} {row['layer']}: circular variance {row['circular_variance']:.2f} "
        f"[{row['circular_variance_low']:.2f}, {row['circular_variance_high']:.2f}], preferred frequency "
        f"{row['peak_frequency_cpd']:.2f} [{row['peak_frequency_cpd_low']:.2f}, {row['peak_frequency_cpd_high']:.2f}] "
        f"cycles/deg, simple {row['simple']:.0%} of {row['n_units']} units ({row['undriven_units']} not driven)"
    )


def property_rows(tuning_tables: Tables, modulation_tables: Tables) -> list[Row]:
    """Rows of both halves joined: a row a layer, similarities to published V1 as ``similarity:DISTRIBUTION``.

    Parameters
    ----------
    tuning_tables, modulation_tables : mapping of str to xarray.Dataset
        Either may be empty.

    Returns
    -------
    list of dict
    """
    rows: dict[tuple[str, str], Row] = {}
    for row in [*modulation_rows(modulation_tables), *tuning_rows(tuning_tables)]:
        rows.setdefault((row["model"], row["layer"]), {}).update(row)
    for one in similarity_rows(tuning_tables):
        name = f"similarity:{one['distribution']}"
        parts = {name: one["score"], f"{name}_low": one["low"], f"{name}_high": one["high"]}
        rows[one["model"], one["layer"]] |= parts
        rows[one["model"], one["layer"]] |= {f"{name}_units": one["n_units"] - one["n_undefined"]}
    return list(rows.values())


#: Columns of the table of the page: name, what it holds, digits.
_COLUMNS = (
    ("modulation", "texture modulation index", 3),
    ("modulation_families", "the same, interval over families", 3),
    ("control", "noise against noise", 3),
    ("share_positive", "units above 0, p < 0.05", 2),
    ("undefined_units", "units without an index", 0),
    ("undefined_pairs", "units × families without one", 0),
    ("difference", "index less that of the first layer", 3),
    ("variance_ratio", "variance ratio, families / samples", 2),
    ("circular_variance", "circular variance", 2),
    ("peak_frequency_cpd", "preferred frequency (cycles/deg)", 2),
    ("simple", "share simple", 2),
    ("similarity:preferred_orientation_deg", "similarity to V1: orientation", 2),
    ("similarity:peak_frequency_cpd/simple_foveal", "similarity to V1: frequency, simple, foveal", 2),
    ("similarity:peak_frequency_cpd/complex_foveal", "similarity to V1: frequency, complex, foveal", 2),
    ("similarity:peak_frequency_cpd/simple_parafoveal", "similarity to V1: frequency, simple, parafoveal", 2),
    ("similarity:peak_frequency_cpd/complex_parafoveal", "similarity to V1: frequency, complex, parafoveal", 2),
)


def property_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """HTML table of properties: a row a layer, 95 % intervals under the values.

    Parameters
    ----------
    rows : sequence of mapping
        From :func:`property_rows`.

    Returns
    -------
    str

    Examples
    --------
    >>> html = property_table([{"model": "a", "layer": "b", "simple": 0.5, "simple_low": 0.4, "simple_high": 0.6}])
    >>> "<td>0.50<small>0.40 to 0.60</small></td>" in html
    True
    """
    columns = [each for each in _COLUMNS if any(each[0] in row or f"{each[0]}_low" in row for row in rows)]
    # headings do not wrap by themselves in the page's tables of numbers
    names = [escape(about).replace(": ", ":<br>").replace(", ", ",<br>") for _, about, _ in columns]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{_cell(row, name, digits)}</td>" for name, _, digits in columns)
        body += f'<tr><th scope="row">{escape(row["model"])} {escape(row["layer"])}</th>{cells}</tr>'
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="properties"><table class="numbers"><thead><tr>'
        f'<th scope="col">model and layer</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(row: Mapping[str, Any], name: str, digits: int) -> str:
    value = row.get("modulation" if name == "modulation_families" else name, float("nan"))
    low, high = row.get(f"{name}_low", float("nan")), row.get(f"{name}_high", float("nan"))
    if not np.isfinite(value):
        return "–"
    interval = f"<small>{low:.{digits}f} to {high:.{digits}f}</small>" if np.isfinite(low) else ""
    units = f"<small>{row[f'{name}_units']} units</small>" if f"{name}_units" in row else ""
    return f"{value:.{digits}f}{interval}{units}"


def write_properties(
    out: Path, *, tuning_tables: Tables | None = None, modulation_tables: Tables | None = None, command: str
) -> list[str]:
    """Write netCDF and CSV tables and figures, and the section of a page.

    Parameters
    ----------
    out : Path
        Folder, made where missing.
    tuning_tables, modulation_tables : mapping of str to xarray.Dataset, optional
        One at least.
    command : str
        How the tables were made, for the record.

    Returns
    -------
    list of str
        HTML.
    """
    tuned, modulated = tuning_tables or {}, modulation_tables or {}
    out.mkdir(parents=True, exist_ok=True)
    made = {"command": command, "provenance": json.dumps(provenance())}
    for kind, tables in (("tuning", tuned), ("modulation", modulated)):
        for name, table in tables.items():
            write_dataset(table.assign_attrs(made), out / f"{kind}-{file_name(name)}.nc")
    rows = property_rows(tuned, modulated)
    write_csv(rows, out / "properties.csv")
    content = ""
    drawn: list[tuple[str, Figure, str]] = []
    if modulated:
        for row in modulation_rows(modulated):
            content += paragraph(modulation_line(row))
        drawn += modulation_figures(modulated)
    if tuned:
        similar = similarity_rows(tuned)
        write_csv(similar, out / "similarity.csv")
        drawn += tuning_figures(tuned, similar)
    content = property_table(rows) + paragraph(NOTES) + content
    for name, figure, caption in drawn:
        data = png(figure)
        with replacing(out / f"{name}.png") as partial:
            partial.write_bytes(data)
        content += picture(data, caption=caption, alt=caption, width_in=float(figure.get_figwidth()))
    record: dict[str, Any] = {}
    for kind, tables in (("tuning", tuned), ("modulation", modulated)):
        for table in list(tables.values())[:1]:
            # numbers of a table that was read from a file are numpy's
            plain = {key: getattr(value, "item", lambda value=value: value)() for key, value in table.attrs.items()}
            record[kind] = {key: value for key, value in plain.items() if key not in ("model", "undriven_units")}
    content += name_table({**record, "command": command})
    what = " and ".join([word for word, tables in (("texture modulation", modulated), ("tuning", tuned)) if tables])
    return [section(f"Single units: {what}", content)]


NOTES = (
    "95 % intervals in small print. Index (texture - noise) / (texture + noise), mean over families and units: "
    "interval over pictures and units; beside it, over families. Noise against noise: one half of the noise pictures "
    "against the other, and the spread of single splits. Tuning: medians or shares, intervals over units. Similarity: "
    "1 - D / Dmax of cumulative histograms against published macaque V1 (1: the same; 0: the worst possible). A "
    "feed-forward network cannot show the delay of V2's preference for textures, nor what feedback adds to it."
)


def modulation_figures(tables: Tables) -> list[tuple[str, Figure, str]]:
    """Figures of texture modulation: name, figure, caption.

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset

    Returns
    -------
    list of (str, Figure, str)
    """
    rows = modulation_rows(tables)
    drawn = [
        (
            "modulation",
            figures_modulation.modulation_summary(rows),
            "Left: texture modulation index of every layer; thick: 95 % interval over pictures and units, black: over "
            "families; grey: noise against noise. Right: variance across families over variance across samples.",
        ),
        (
            "modulation-families",
            figures_modulation.index_by_family(tables),
            "Index of every texture family, mean over units, families in the order of the last layer; bars: one "
            "standard error over units.",
        ),
    ]
    if any(table.sizes["layer"] > 1 for table in tables.values()):
        drawn.append(
            (
                "modulation-layers",
                figures_modulation.index_between_layers(tables),
                "Index of every family in the first layer of a model against its later ones; above the diagonal: "
                "larger in the later layer.",
            )
        )
    drawn.append(
        (
            "modulation-units",
            figures_modulation.index_distributions(tables),
            "Indices of single units; filled: p < 0.05 by exchange of textures and noise within families.",
        )
    )
    if all("family_accuracy" in table for table in tables.values()):
        drawn.append(
            (
                "decoding",
                figures_modulation.decoding_curves(tables),
                "Which family, and which sample of a family, a growing population of units with Poisson noise tells "
                "apart; bars: 95 % of populations; dashed: chance.",
            )
        )
    return drawn


def tuning_figures(tables: Tables, similarities: Sequence[Mapping[str, Any]]) -> list[tuple[str, Figure, str]]:
    """Figures of tuning: name, figure, caption.

    Parameters
    ----------
    tables : mapping of str to xarray.Dataset
    similarities : sequence of mapping
        From :func:`similarity_rows`.

    Returns
    -------
    list of (str, Figure, str)
    """
    published = published_distributions()
    drawn = [
        (
            "similarity",
            figures_tuning.similarities(similarities),
            "Similarity of each layer's distributions of tuning to those published of macaque V1; 1: the same, 0: the "
            "worst possible. Last row: the neurons' own distribution resampled. Brackets: fewer than 10 units; dash: "
            "none of that kind.",
        ),
        (
            "orientation",
            figures_tuning.orientation_histograms(tables, published["preferred_orientation_deg"]),
            "Preferred orientations (bars' angle, drawn on both sides): share of units, each panel with a radius of "
            "its own; black: macaque V1 (De Valois et al. 1982), in its four bins.",
        ),
        (
            "frequency",
            figures_tuning.frequency_histograms(tables, published),
            "Preferred spatial frequencies of the units, simple and complex together; black: macaque V1 (De Valois et "
            "al. 1982).",
        ),
    ]
    for name, table in tables.items():
        drawn.append(
            (
                f"curves-{file_name(name)}",
                figures_tuning.tuning_curves(table),
                f"{name}: tuning curves over their largest response, orientation from the preferred one; grey: single "
                "units, coloured: their median.",
            )
        )
    return drawn


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as a table, at once.

    Parameters
    ----------
    rows : sequence of mapping
    path : Path
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
