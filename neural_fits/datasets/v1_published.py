"""Published distributions of macaque V1 tuning, as cells per bin.

Digitised from figures of the cited papers by Marques et al. (2021) and Dapello, Marques et al. (2020): histograms, not
cells. The last bins of the bandwidth and of the suppression index are empty, and suppression can exceed 1. Not among
them: circular variance and bandwidth of orientation tuning (Ringach, Shapley and Hawken 2002) and texture modulation
(Freeman, Ziemba et al. 2013).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neural_fits.datasets.fetch import DataFile, Entry, find

ENTRY = Entry(
    name="v1_published",
    title="published V1 tuning distributions (cells per bin), read off figures",
    files=(
        DataFile(
            "published_v1.json",
            "sha256:391ce8ba5e1b3ec4e8b41be9e244e59cb95bbda90b2fe2e15127d8d1a0cea87e",
            5567,
        ),
    ),
    licence="published facts",
    who="everyone, citing the papers",
    citation=(
        "De Valois, Yund and Hepler 1982; De Valois, Albrecht and Thorell 1982; Schiller, Finlay and Volman 1976; "
        "Cavanaugh, Bair and Movshon 2002; Ringach 2002; digitised by Marques, Schrimpf and DiCarlo 2021 "
        "(bioRxiv 2021.03.01.433495) and Dapello, Marques et al. 2020 (NeurIPS 33)"
    ),
    source="It comes with the package; the arrays are also in brain-score/vision (data/marques2020) on GitHub.",
    bundled=True,
)


@dataclass(frozen=True, eq=False)
class Distribution:
    """Numbers of cells per bin of one measure.

    Attributes
    ----------
    measure : str
        Name of the measure; its last part is the unit.
    cells : str
        Which cells: `"all"`, or a group such as `"simple_foveal"`.
    bins : numpy.ndarray
        Edges (bin + 1,), in `unit`; or labels (bin,) of categories.
    counts : numpy.ndarray
        Cells per bin (bin,); for the joint distribution (bin of n_x, bin of n_y), both with the same edges.
    unit : str
        Unit of the edges.
    scale : {"linear", "log", "categories"}
        How bins are spaced.
    definition : str
        How the measure is defined.
    citation : str
        The paper whose figure was read.
    """

    measure: str
    cells: str
    bins: np.ndarray
    counts: np.ndarray
    unit: str
    scale: str
    definition: str
    citation: str

    @property
    def n(self) -> int:
        """Number of cells."""
        return int(self.counts.sum())


_ORIENTATION = "orientation of the grating that drives the cell best"
# measure in the file: name, unit, scale, definition (None: the one in the file)
_MEASURES: dict[str, tuple[str, str, str, str | None]] = {
    "DeValois1982a_preferred_orientation_deg": ("preferred_orientation_deg", "deg", "linear", _ORIENTATION),
    "DeValois1982b_peak_sf_cpd": (
        "peak_frequency_cpd",
        "cycles/deg",
        "log",
        "spatial frequency of the grating that drives the cell best",
    ),
    "Schiller1976c_sf_selective": (
        "frequency_selective",
        "category",
        "categories",
        "whether the cell is selective enough for its bandwidth to be defined (see frequency_bandwidth_percent)",
    ),
    "Schiller1976c_sf_bandwidth_percent": ("frequency_bandwidth_percent", "percent", "linear", None),
    "Cavanaugh2002a_surround_suppression_index": ("surround_suppression_index", "ratio", "linear", None),
    "Cavanaugh2002a_strongly_suppressed": ("strongly_suppressed", "category", "categories", None),
    "Cavanaugh2002a_grating_summation_field_deg": ("summation_field_deg", "deg", "log", None),
    "Cavanaugh2002a_surround_diameter_deg": ("surround_diameter_deg", "deg", "log", None),
    "Cavanaugh2002a_surround_over_summation": ("surround_over_summation", "ratio", "log", None),
    "DeValois1982a_preferred_orientation_deg_simple_vonenet": (
        "preferred_orientation_deg",
        "deg",
        "linear",
        _ORIENTATION,
    ),
    "ringach2002b_nx_ny": (
        "nx_ny",
        "periods",
        "log",
        "width n_x (rows) and length n_y (columns) of the receptive field in periods of the preferred frequency",
    ),
}
_CELLS = {"DeValois1982a_preferred_orientation_deg_simple_vonenet": "simple", "ringach2002b_nx_ny": "simple"}


def published_distributions(data: Path | str | None = None) -> dict[str, Distribution]:
    """Published V1 distributions by measure and group of cells.

    Parameters
    ----------
    data : path, optional
        Another copy of `published_v1.json`; the one that comes with the package without it.

    Returns
    -------
    dict of str to Distribution
        Keys are the measure, and the group after a slash where there is one: `"peak_frequency_cpd/simple_foveal"`.

    Raises
    ------
    FileNotFoundError, ValueError
        If `data` is not there, or is not the registered file.

    Examples
    --------
    >>> published = published_distributions()
    >>> index = published["surround_suppression_index"]
    >>> index.n, index.counts[:3].tolist(), index.bins[:4].tolist()
    (190, [66, 44, 38], [0.0, 0.2, 0.4, 0.6])
    >>> sorted(name for name in published if name.startswith("peak_frequency_cpd"))[:2]
    ['peak_frequency_cpd/complex_foveal', 'peak_frequency_cpd/complex_parafoveal']
    >>> published["nx_ny"].counts.shape, published["strongly_suppressed"].bins.tolist()
    ((5, 5), ['no', 'yes'])
    """
    held = json.loads(find(ENTRY, ENTRY.files[0], data).read_text())
    distributions: dict[str, Distribution] = {}
    for source, (measure, unit, scale, definition) in _MEASURES.items():
        values = held[source]
        paper = source.split("_")[0]
        definition = definition or held["_units"][source]
        if scale == "categories":
            groups = {"all": list(values.values())}
            bins = np.array(list(values))
        else:
            bins = np.asarray(values["bins"] if "bins" in values else 10.0 ** np.asarray(values["bins_log10"]), float)
            joint = values.get("joint_counts_nx_rows")
            cells = _CELLS.get(source, "all")
            groups = {cells: values.get("counts", joint)} if "counts" in values or joint else {}
            groups |= {group: each for group, each in values.items() if "simple" in group or "complex" in group}
        for group, counts in groups.items():
            key = measure if group == "all" or source == "ringach2002b_nx_ny" else f"{measure}/{group}"
            distributions[key] = Distribution(
                measure, group, bins, np.asarray(counts, int), unit, scale, definition, held["_citations"][paper]
            )
    return distributions
