"""What a comparison measures: each function takes one model and gives rows, one for each layer and statistic.

Nothing is measured in another way than by the commands for it (``lcl fit``, ``lcl properties``, ``lcl align``,
``lcl retrieve``, ``lcl probe``): their functions are called. A row has ``measure``, ``statistic`` (empty: the number
that the measure stands for in the table), ``layer``, ``value`` with its 95 % interval ``low``, ``high``, and ``n``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from lcl.align import align_cue_conflict, observer_rows, people_trials, read_cue_pictures
from lcl.align_distortions import distortion_accuracies
from lcl.images import open_images
from lcl.labelled_images import LabelledImages, train_and_validation
from lcl.measure import fit_models, rows_of, rows_where
from lcl.properties import measure_modulation, measure_tuning, modulation_rows, similarity_rows, texture_set
from lcl.recognition_evaluate import image_scores
from neural_fits.bootstrap import percentile_interval
from neural_fits.datasets import load as load_recording
from neural_fits.recordings import Recording
from neural_fits.vision_model import VisionModel, device_of, layer_responses
from stimuli.mosaics import texture_mosaics
from stimuli.textures import ready_textures
from vision_methods.dense_maps import as_maps, pooled_features
from vision_methods.dense_memory import RETRIEVALS
from vision_methods.dense_retrieval import Labelled, SegmentedPictures
from vision_methods.probe_tables import Squares, some_of_each
from vision_methods.probes import classify
from vision_methods.retrieval_report import retrieve_models
from vision_methods.segments import classes_at, divided, read_instances

Row = dict[str, Any]

#: Features of a layer that the linear probe reads, at most.
N_FEATURES = 4096


class Measure(NamedTuple):
    """A column of the table.

    Attributes
    ----------
    label : str
        With its unit; the axis of its figure.
    layer : {"first", "last"}
        Which layer of a model stands in the table: chosen before anything was measured, not by its score.
    better : str
        What a larger value means.
    counts : str
        What its number is over.
    page : str
        Where its computation is described.
    """

    label: str
    layer: Literal["first", "last"]
    better: str
    counts: str
    page: str


#: Columns by name.
MEASURES: dict[str, Measure] = {
    "v1-fit": Measure(
        "V1 fit: explained variance, r² / reliability", "first", "predicts V1 better", "units", "neural-fits.md"
    ),
    "v1-tuning": Measure(
        "similarity to published V1 tuning, 0 to 1", "first", "more like V1", "distributions", "single-units.md"
    ),
    "texture-modulation": Measure(
        "texture modulation index", "last", "0 in V1, positive in V2", "families", "single-units.md"
    ),
    "v2-statistics": Measure(
        "variance ratio, families / samples", "last", "more tolerant; above 1 in V2", "units", "single-units.md"
    ),
    "error-consistency": Measure(
        "error consistency with people, kappa", "last", "errs like people", "pictures", "alignment.md"
    ),
    "shape-bias": Measure(
        "shape bias, share of decisions for a cue", "last", "0.96 in people", "pictures", "alignment.md"
    ),
    "distortions": Measure("accuracy under distortions", "last", "more robust", "pictures", "alignment.md"),
    "retrieval": Measure(
        "dense retrieval, mean IoU", "last", "places say what they show", "pictures", "methods-hummingbird.md"
    ),
    "probe": Measure("linear probe, accuracy", "last", "holds more of the class", "pictures", "probes.md"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """What is shown and compared with. What is None is not measured.

    Attributes
    ----------
    labelled : (LabelledImages, LabelledImages)
        To learn read-outs from, and to judge them.
    prompts, queries : sequence of (picture, classes)
    classes : tuple of str
        Of prompts and queries; the first is the ground.
    recording : Recording, optional
    cue_pictures, trials, cue_training : str, optional
        Folders: cue-conflict pictures, decisions of people, photographs to learn the categories from.
    names : mapping of str to str
        What each of these is, for the record.
    splits : str
        Of the recording, as in :func:`neural_fits.fits.make_splits`.
    size_deg : float, optional
        Width of the recording's pictures, in degrees, where it does not say or another is assumed.
    distortions : tuple of str
        Of :data:`stimuli.distortions.DISTORTIONS`.
    per_class : int
        At most so many pictures of a class, to learn from and to judge.
    """

    labelled: tuple[LabelledImages, LabelledImages]
    prompts: Labelled
    queries: Labelled
    classes: tuple[str, ...]
    recording: Recording | None = None
    cue_pictures: str | None = None
    trials: str | None = None
    cue_training: str | None = None
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    splits: str = "kfold"
    size_deg: float | None = None
    distortions: tuple[str, ...] = ("contrast", "uniform-noise", "low-pass")
    per_class: int = 40


def texture_classes(seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
    """Textures that come with the package as pictures of 15 classes: quarters of samples 1 to 3, and of 4 and 5.

    Parameters
    ----------
    seed : int
        Of the order of the pictures.

    Returns
    -------
    train, held : LabelledImages
        180 and 120 pictures of 64 px; no texture is in both.

    Examples
    --------
    >>> train, held = texture_classes()
    >>> len(train), len(held), len(train.classes)
    (180, 120, 15)
    """
    textures = ready_textures()
    table = textures.parameters
    families = tuple(dict.fromkeys(np.asarray(table["family"]).astype(str).tolist()))
    parts = []
    for samples in ((1, 2, 3), (4, 5)):
        rows = np.flatnonzero((table["type"] == "texture") & np.isin(table["sample"], samples))
        rows = np.random.default_rng(seed).permutation(rows)
        half = textures.images.shape[1] // 2
        corners = [(r, c) for r in (0, half) for c in (0, half)]
        pictures = [textures.images[row][r : r + half, c : c + half] for row in rows for r, c in corners]
        labels = np.repeat([families.index(str(table["family"][row])) for row in rows], len(corners))
        parts.append(LabelledImages(open_images(pictures, min_side_px=half), labels, families))
    return parts[0], parts[1]


def open_sources(
    *,
    images: str = "",
    segments: str = "",
    recording: str = "",
    splits: str = "kfold",
    size_deg: float | None = None,
    stimuli: Sequence[str] = (),
    neurons: Sequence[str] = (),
    cue_pictures: str = "",
    trials: str = "",
    cue_training: str = "",
    distortions: Sequence[str] = ("contrast", "uniform-noise", "low-pass"),
    per_class: int = 40,
    n_mosaics: int = 45,
    seed: int = 0,
) -> Sources:
    """Open what a comparison needs; what is not given is replaced by what comes with the package, or not measured.

    Parameters
    ----------
    images : str
        Pictures by class (:func:`lcl.labelled_images.train_and_validation`); empty: :func:`texture_classes`.
    segments : str
        COCO-style annotations; empty: mosaics of textures (:func:`stimuli.mosaics.texture_mosaics`).
    recording : str
        Name or file of a recording; empty: none.
    splits : str
    size_deg : float, optional
    stimuli, neurons : sequence of str
        Rows of the recording, as :func:`lcl.measure.rows_where` takes them.
    cue_pictures, trials, cue_training : str
        As for ``lcl align``; empty: none. ``trials`` and ``cue_pictures`` belong together.
    distortions : sequence of str
    per_class, n_mosaics, seed : int

    Returns
    -------
    Sources

    Raises
    ------
    ValueError, FileNotFoundError
        If something that was given cannot be used.

    Examples
    --------
    >>> open_sources(n_mosaics=4).names["retrieval"]
    'mosaics of the textures that come with the package'
    """
    if bool(cue_pictures) != bool(trials):
        raise ValueError("cue-conflict pictures and decisions of people belong together; give both or neither.")
    names = {}
    if images:
        train, held = (some_of_each(each, per_class, seed=seed) for each in train_and_validation(images, seed=seed))
        names |= dict.fromkeys(("probe", "distortions"), f"{images}: {len(train)} pictures, {len(held)} held out")
    else:
        train, held = texture_classes(seed)
        about = f"quarters of the textures that come with the package: {len(train)} pictures, {len(held)} held out"
        names |= dict.fromkeys(("probe", "distortions"), about)
    if segments:
        found = read_instances(segments)
        classes, class_of = classes_at(found, "supercategory")
        prompts, queries = (SegmentedPictures(part, class_of) for part in divided(found, seed=seed))
        names["retrieval"] = segments
    else:
        textures = ready_textures()
        parts = [
            texture_mosaics(textures, n_mosaics, samples=samples, seed=seed + i)
            for i, samples in enumerate(((1, 2, 3), (4, 5)))
        ]
        prompts, queries = (list(zip(pictures, labels, strict=True)) for pictures, labels, _ in parts)
        classes = ("ground", *parts[0][2])
        names["retrieval"] = "mosaics of the textures that come with the package"
    names |= dict.fromkeys(("texture-modulation", "v2-statistics"), "the textures that come with the package")
    names["v1-tuning"] = "gratings, against published distributions of macaque V1"
    measured = load_recording(recording) if recording else None
    if measured is not None:
        for text in neurons:
            measured = measured.select(neurons=rows_where(measured, "neuron", text))
        for text in stimuli:
            measured = measured.select(stimuli=rows_where(measured, "stimulus", text))
        if size_deg is None and not np.isfinite(measured.size_deg):
            raise ValueError(
                f"how large the pictures of {measured.name} were shown is not known; give the width in degrees that "
                "you assume with --size-deg, such as 8."
            )
        names["v1-fit"] = f"{measured.name}: {measured.n_neurons} units, {measured.n_stimuli} images; {splits}"
    if trials:
        people_trials(trials, "cue-conflict")  # what is wrong is said before models run
        read_cue_pictures(cue_pictures)
        names |= dict.fromkeys(("error-consistency", "shape-bias"), f"{cue_pictures}, people in {trials}")
    return Sources(
        labelled=(train, held),
        prompts=prompts,
        queries=queries,
        classes=tuple(classes),
        recording=measured,
        cue_pictures=cue_pictures or None,
        trials=trials or None,
        cue_training=cue_training or None,
        names=names,
        splits=splits,
        size_deg=size_deg,
        distortions=tuple(distortions),
        per_class=per_class,
    )


def _row(measure: str, layer: str, value: float, low: float, high: float, n: int, **more: Any) -> Row:
    return {"measure": measure, "statistic": "", "layer": layer} | {
        "value": float(value),
        "low": float(low),
        "high": float(high),
        "n": int(n),
        **more,
    }


def fit(model: VisionModel, layers: Sequence[str], sources: Sources, *, seed: int, batch_size: int) -> list[Row]:
    """V1 fit: partial least squares, median over units of r² / reliability; beside it the median r and its control.

    Parameters
    ----------
    model : VisionModel
    layers : sequence of str
    sources : Sources
    seed, batch_size : int

    Returns
    -------
    list of dict
        Intervals over units.
    """
    assert sources.recording is not None
    tables = fit_models(
        {model.name: model},
        sources.recording,
        splits=[sources.splits],
        layers=list(layers),
        size_deg=sources.size_deg,
        rules=["noise_corrected_per_neuron", "raw"],
        control=True,
        seed=seed,
        batch_size=batch_size,
    )
    rows = []
    for row in rows_of(tables[sources.splits][model.name]):
        for rule, statistic in (("noise_corrected_per_neuron", ""), ("raw", "median r")):
            ends = row[f"{rule}_neurons_low"], row[f"{rule}_neurons_high"]
            rows.append(_row("v1-fit", row["layer"], row[rule], *ends, row["n_neurons"]) | {"statistic": statistic})
        control = _row("v1-fit", row["layer"], row["reordered"], np.nan, np.nan, row["n_neurons"])
        rows.append(control | {"statistic": "median r, re-ordered responses"})
    return rows


def tuned(model: VisionModel, layers: Sequence[str], sources: Sources, *, seed: int, batch_size: int) -> list[Row]:
    """V1 tuning: mean similarity to the published distributions that the layer has units for.

    The interval adds the variances of the single scores, which are drawn independently of each other.

    Parameters
    ----------
    model, layers, sources, seed, batch_size
        As in :func:`fit`.

    Returns
    -------
    list of dict
        ``n`` of the mean is the number of distributions; of single ones the number of units.
    """
    tables = measure_tuning({model.name: model}, layers=list(layers), n_sized=16, seed=seed, batch_size=batch_size)
    rows, found = [], similarity_rows(tables)
    for layer in layers:
        own = [row for row in found if row["layer"] == layer and np.isfinite(row["error"])]
        mean = float(np.mean([row["score"] for row in own])) if own else float("nan")
        spread = 1.96 * float(np.sqrt(np.sum([row["error"] ** 2 for row in own]))) / max(len(own), 1)
        rows.append(_row("v1-tuning", layer, mean, mean - spread, mean + spread, len(own)))
        for row in own:
            one = _row("v1-tuning", layer, row["score"], row["low"], row["high"], row["n_units"])
            rows.append(one | {"statistic": row["distribution"], "ceiling": row["ceiling"]})
    return rows


def textures(model: VisionModel, layers: Sequence[str], sources: Sources, *, seed: int, batch_size: int) -> list[Row]:
    """Texture modulation and V2-like statistics, of the same responses.

    Parameters
    ----------
    model, layers, sources, seed, batch_size
        As in :func:`fit`.

    Returns
    -------
    list of dict
        The index has its interval over families, which is the wider claim; ``noise against noise`` is its control.
    """
    tables = measure_modulation(
        {model.name: model}, texture_set(), layers=list(layers), seed=seed, batch_size=batch_size
    )
    rows = []
    for row in modulation_rows(tables):
        layer, n = row["layer"], row["n_units"]
        ends = row["modulation_families_low"], row["modulation_families_high"]
        rows.append(_row("texture-modulation", layer, row["modulation"], *ends, row["n_families"]))
        control = _row("texture-modulation", layer, row["control"], row["control_low"], row["control_high"], n)
        rows.append(control | {"statistic": "noise against noise"})
        for measure, name, statistic in (
            ("v2-statistics", "variance_ratio", ""),
            ("v2-statistics", "selectivity_texture", "selectivity for textures"),
            ("v2-statistics", "sparseness_texture", "sparseness for textures"),
        ):
            one = _row(measure, layer, row[name], row[f"{name}_low"], row[f"{name}_high"], n)
            rows.append(one | {"statistic": statistic})
    return rows


def cues(model: VisionModel, layers: Sequence[str], sources: Sources, *, seed: int, batch_size: int) -> list[Row]:
    """Cue conflict: error consistency with people, and shape bias, of a read-out of the last layer.

    Parameters
    ----------
    model, layers, sources, seed, batch_size
        As in :func:`fit`; only the last layer is read.

    Returns
    -------
    list of dict
        Intervals over pictures.
    """
    assert sources.trials is not None
    table, shown, _ = align_cue_conflict(
        {model.name: model},
        trials=sources.trials,
        stimuli=sources.cue_pictures,
        train_images=sources.cue_training,
        layers={model.name: [layers[-1]]},
        seed=seed,
        batch_size=batch_size,
    )
    rows, n = [], shown.sizes["image"]
    for row in observer_rows(table):
        if row["kind"] != "model":
            continue
        for measure, name in (("error-consistency", "mean_error_consistency"), ("shape-bias", "shape_bias")):
            rows.append(_row(measure, layers[-1], row[name], row[f"{name}_low"], row[f"{name}_high"], n))
    return rows


def distorted(model: VisionModel, layers: Sequence[str], sources: Sources, *, seed: int, batch_size: int) -> list[Row]:
    """Accuracy of a read-out of the last layer, learned from undistorted pictures, under distortions.

    Parameters
    ----------
    model, layers, sources, seed, batch_size
        As in :func:`fit`; only the last layer is read.

    Returns
    -------
    list of dict
        Mean over distortions of the mean over levels that change the picture, with a bootstrap interval over
        pictures; ``undistorted`` beside it.
    """
    train, held = sources.labelled
    table = distortion_accuracies(
        {model.name: model},
        {model.name: [layers[-1]]},
        train,
        held,
        distortions=sources.distortions,
        seed=seed,
        batch_size=batch_size,
    )
    drawn = np.random.default_rng(seed).integers(0, len(held), (1000, len(held)))
    rows = []
    for name, statistic in (("ood", ""), ("clean", "undistorted")):
        right = image_scores(table)[name][0]
        ends = percentile_interval(right[drawn].mean(1))
        rows.append(_row("distortions", layers[-1], right.mean(), *ends, len(held)) | {"statistic": statistic})
    return rows


def retrieved(model: VisionModel, layers: Sequence[str], sources: Sources, *, seed: int, batch_size: int) -> list[Row]:
    """Dense retrieval (:mod:`vision_methods.dense_retrieval`), each prompt shown once.

    Parameters
    ----------
    model, layers, sources, seed, batch_size
        As in :func:`fit`; only the last layer is asked.

    Returns
    -------
    list of dict
        Intervals over queries; ``reference``: the ground at every pixel.
    """
    retrieval = dataclasses.replace(RETRIEVALS["standard"], augmentations=1)
    blank = torch.zeros(1, model.channels, model.input_px, model.input_px, device=device_of(model))
    found = layer_responses(model, blank, [layers[-1]])
    if as_maps(found[layers[-1]], layers[-1]).shape[1] == 1:
        raise ValueError(f"{layers[-1]} of {model.name} has one channel, whose cosine tells no two places apart.")
    rows, record, _ = retrieve_models(
        {model.name: model},
        {model.name: [layers[-1]]},
        sources.prompts,
        sources.queries,
        classes=sources.classes,
        retrieval=retrieval,
        seed=seed,
        batch_size=min(batch_size, 16),
    )
    n, about = len(sources.queries), {"reference": record["reference"]}
    return [
        _row("retrieval", row["layer"], row["mean_iou"], row["mean_iou_low"], row["mean_iou_high"], n)
        | about
        | {"ceiling": row["ceiling"]}
        for row in rows
    ]


def probed(model: VisionModel, layers: Sequence[str], sources: Sources, *, seed: int, batch_size: int) -> list[Row]:
    """Linear probe of the last layer (:mod:`vision_methods.probe_tables`).

    Parameters
    ----------
    model, layers, sources, seed, batch_size
        As in :func:`fit`; only the last layer is probed.

    Returns
    -------
    list of dict
        Wilson's interval; ``reference``: the commonest class.
    """
    train, held = sources.labelled
    features, asked = (
        pooled_features(
            model,
            Squares(part, model.input_px),
            [layers[-1]],
            n_features=N_FEATURES,
            batch_size=batch_size,
            progress=False,
        )[layers[-1]]
        for part in (train, held)
    )
    found = classify(features, train.labels, asked, held.labels, probe="linear")
    reference = float(np.bincount(held.labels).max() / len(held))
    return [_row("probe", layers[-1], found.accuracy, *found.interval, len(held), reference=reference)]


class Measurement(NamedTuple):
    """What is computed at once.

    Attributes
    ----------
    about : str
    measures : tuple of str
        Columns that it fills.
    measure : callable
        As :func:`fit`.
    needs : tuple of str
        Attributes of :class:`Sources` without which it is left out.
    option : str
        What to give on the command line where they are missing.
    """

    about: str
    measures: tuple[str, ...]
    measure: Callable[..., list[Row]]
    needs: tuple[str, ...] = ()
    option: str = ""


#: Measurements by name.
MEASUREMENTS: dict[str, Measurement] = {
    "fit": Measurement("regression to a recording", ("v1-fit",), fit, ("recording",), "--recording"),
    "tuning": Measurement("tuning to gratings", ("v1-tuning",), tuned),
    "textures": Measurement("textures and their noise", ("texture-modulation", "v2-statistics"), textures),
    "cues": Measurement(
        "cue conflict",
        ("error-consistency", "shape-bias"),
        cues,
        ("trials", "cue_pictures"),
        "--cue-pictures and --trials",
    ),
    "distortions": Measurement("classes under distortions", ("distortions",), distorted),
    "retrieval": Measurement("classes of places from a few pictures", ("retrieval",), retrieved),
    "probe": Measurement("classes of pictures", ("probe",), probed),
}
