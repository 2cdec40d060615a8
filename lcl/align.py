"""Models beside people on cue-conflict pictures and under distortions: what ``lcl align`` does.

Layers name the 16 categories by a read-out that is trained on labelled pictures (or by 1,000 ImageNet outputs that they
have). On pictures that people saw, decisions are compared picture by picture; on any other labelled pictures that are
distorted by the levels of the experiments, only accuracy can be set beside that of people.
"""

import csv
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from PIL import Image
from scipy.special import softmax

from lcl.labelled_images import central_squares, open_labelled
from lcl.measure import file_name
from lcl.report import name_table, paragraph, picture, section
from neural_fits.activations import activations
from neural_fits.behavior.alignment import alignment_table, balanced_choices, held_out_choices
from neural_fits.behavior.categories import CATEGORIES, category_choices
from neural_fits.behavior.crops import CategoryCrops, category_crops
from neural_fits.behavior.readout import READOUTS
from neural_fits.behavior.trials import COLUMNS, cue_categories, image_id, read_experiment, trials_from_columns
from neural_fits.figures_behavior import accuracy_dots, alignment_lines, error_consistency_bars, shape_bias_dots
from neural_fits.fits import write_dataset
from neural_fits.vision_model import VisionModel, layer_names
from stimuli.drawing import png
from stimuli.files import replacing

#: In place of a read-out: the layer is the 1,000 outputs of a network trained on ImageNet.
IMAGENET = "imagenet"

#: Side of training pictures and cue-conflict pictures, px.
SIZE_PX = 224

WEAK = (
    "Layers name the categories by a read-out trained on other pictures, so the numbers are of layer and read-out "
    "together; where the read-out is weak for held-out pictures of its own kind (the table), shape bias tends to 0.5 "
    "and error consistency to 0 whatever the layer holds."
)


class CuePictures(NamedTuple):
    """Cue-conflict pictures.

    Attributes
    ----------
    images : ndarray of uint8, (picture, row, column, 3)
    names : list of str
        Such as ``airplane1-bicycle2``.
    """

    images: np.ndarray
    names: list[str]


def read_cue_pictures(folder: Path | str) -> CuePictures:
    """All cue-conflict pictures in a folder and the folders in it.

    Parameters
    ----------
    folder : path
        ``stimuli/style-transfer-preprocessed-512`` of texture-vs-shape.

    Returns
    -------
    CuePictures
        Sorted by path.

    Raises
    ------
    FileNotFoundError
        If it holds no PNG file named as cue-conflict pictures are.
    ValueError
        If two pictures have one name, or they differ in size.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (4, 4)).save(folder / "cat1-dog2.png")
    >>> read_cue_pictures(folder).names
    ['cat1-dog2']
    """
    folder = Path(folder).expanduser()
    paths = [path for path in sorted(folder.rglob("*.png")) if cue_categories(image_id(path.name)) is not None]
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no cue-conflict picture; expected files such as airplane/airplane1-bicycle2.png, as in "
            "stimuli/style-transfer-preprocessed-512 of github.com/rgeirhos/texture-vs-shape (git clone brings them)."
        )
    names = [image_id(path.name) for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{folder} holds the picture {twice} more than once; expected each once.")
    pictures = []
    for path in paths:
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB")))
    sizes = {each.shape for each in pictures}
    if len(sizes) > 1:
        raise ValueError(f"the pictures in {folder} have the sizes {sorted(sizes)}; expected one size.")
    return CuePictures(np.stack(pictures), names)


def training_pictures(source: str, *, per_category: int | None = 12, min_px: int = 16) -> CategoryCrops:
    """Pictures of the 16 categories to train a read-out on.

    Parameters
    ----------
    source : str
        A folder with ``instances.json`` and ``images`` as in COCO, whose boxes are cut out; else as in
        :func:`lcl.labelled_images.open_labelled`, with classes among the 16 categories.
    per_category, min_px : int
        Of the boxes.

    Returns
    -------
    CategoryCrops

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`neural_fits.behavior.crops.category_crops` and :func:`lcl.labelled_images.open_labelled`.
    """
    folder = Path(source).expanduser()
    if (folder / "instances.json").is_file():
        return category_crops(
            folder / "instances.json", folder / "images", size_px=SIZE_PX, per_category=per_category, min_px=min_px
        )
    found = open_labelled(source)
    if foreign := [name for name in found.classes if name not in CATEGORIES]:
        raise ValueError(
            f"{source} holds the class {foreign[0]!r}; expected folders named {', '.join(CATEGORIES)}, or a folder "
            "with instances.json and images as in COCO."
        )
    images = central_squares(found, SIZE_PX).permute(0, 2, 3, 1).numpy()
    images = np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3)))
    return CategoryCrops(images, np.array(found.classes)[found.labels], np.array(found.store.names))


def cue_trials(
    models: Mapping[str, VisionModel],
    layers: Mapping[str, Sequence[str]],
    pictures: CuePictures,
    training: CategoryCrops | None,
    *,
    readout: str = "ridge",
    reduction: str = "pool:4",
    size_deg: float | None = None,
    batch_size: int = 32,
    folds: int = 5,
    progress: bool = False,
) -> tuple[xr.Dataset, list[dict[str, Any]]]:
    """Categories that layers of models name for cue-conflict pictures.

    Parameters
    ----------
    models : mapping of str to VisionModel
    layers : mapping of str to sequence of str
        Of each model.
    pictures : CuePictures
    training : CategoryCrops, optional
        None for the read-out "imagenet".
    readout : str
        Of :data:`neural_fits.behavior.readout.READOUTS`; or "imagenet": the layer is the 1,000 outputs before the
        softmax, averaged within categories.
    reduction : str
        As in :func:`neural_fits.activations.activations`; "imagenet" takes all.
    size_deg : float, optional
        Width of all pictures; default the field of each model.
    batch_size : int
    folds : int
        Photographs of the training are held out in so many folds.
    progress : bool

    Returns
    -------
    trials : xarray.Dataset
        An observer "MODEL LAYER" for each layer, one condition, "0".
    rows : list of dict
        model, layer, training pictures, and accuracy for held-out ones, balanced over categories too (NaN without a
        read-out).

    Raises
    ------
    ValueError
        If the read-out is unknown or has no training pictures, or a layer has not 1,000 outputs for "imagenet".
    """
    if readout != IMAGENET and readout not in READOUTS:
        raise ValueError(f"readout is {readout!r}; expected one of {', '.join([*READOUTS, IMAGENET])}.")
    if readout != IMAGENET and training is None:
        raise ValueError(f"the read-out {readout!r} has no pictures to be trained on; give --train-images.")
    shapes = [cues[0] for cues in map(cue_categories, pictures.names) if cues is not None]
    columns: dict[str, list[str]] = {name: [] for name in ("observer", "image", "category", "response")}
    rows = []
    for name, model in models.items():
        options: dict[str, Any] = {
            "size_deg": model.field_deg if size_deg is None else size_deg,
            "layers": list(layers[name]),
            "reduction": "all" if readout == IMAGENET else reduction,
            "batch_size": batch_size,
            "progress": progress,
        }
        shown = _vectors(activations(model, _channels(pictures.images, model), **options))
        learned = {}
        if readout != IMAGENET and training is not None:
            learned = _vectors(activations(model, _channels(training.images, model), **options))
        for layer, features in shown.items():
            row: dict[str, Any] = {"model": name, "layer": layer, "features": features.shape[1]}
            if readout == IMAGENET:
                if features.shape[1] != 1000:
                    raise ValueError(
                        f"layer {layer} of {name} has {features.shape[1]} outputs; expected the 1,000 of ImageNet."
                    )
                choices = category_choices(softmax(features.astype(np.float64), axis=1))
                row |= {"training_pictures": 0, "held_out_accuracy": np.nan, "held_out_balanced_accuracy": np.nan}
            else:
                assert training is not None
                make = READOUTS[readout]
                fitted = make().fit(learned[layer], training.category)
                choices = balanced_choices(fitted, features, training.category)
                held = held_out_choices(make, learned[layer], training.category, training.photo, folds=folds)
                row |= {
                    "training_pictures": len(training.category),
                    "held_out_accuracy": held.accuracy,
                    "held_out_balanced_accuracy": held.balanced_accuracy,
                }
            rows.append(row)
            columns["observer"] += [f"{name} {layer}"] * len(shapes)
            columns["image"] += pictures.names
            columns["category"] += shapes
            columns["response"] += [str(choice) for choice in choices]
    condition = ["0"] * len(columns["image"])
    trials = trials_from_columns(
        observer=columns["observer"],
        image=columns["image"],
        condition=condition,
        response=columns["response"],
        category=columns["category"],
        name="cue-conflict",
    )
    return trials, rows


def _channels(images: np.ndarray, model: VisionModel) -> np.ndarray:
    """Pictures in colour, or their luma (ITU-R 601) for a model that sees grey."""
    if model.channels == 3:
        return images
    return np.stack([np.asarray(Image.fromarray(each).convert("L")) for each in images])


def _vectors(responses: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {layer: values.reshape(len(values), -1) for layer, values in responses.items()}


def last_layers(models: Mapping[str, VisionModel]) -> dict[str, list[str]]:
    """The last of the layers that each model declares, or else has.

    Examples
    --------
    >>> from lcl.measure import named_models
    >>> last_layers(named_models(["gabor-energy"]))
    {'gabor-energy': ['normalised']}
    """
    return {name: layer_names(model)[-1:] for name, model in models.items()}


def people_trials(folder: Path | str, experiment: str) -> xr.Dataset:
    """Trials of people in an experiment of a folder with a folder for each, or in the folder itself.

    Parameters
    ----------
    folder : path
        ``raw-data`` of model-vs-human.
    experiment : str

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    FileNotFoundError
        If there are no trials.
    """
    folder = Path(folder).expanduser()
    inside = folder / experiment
    return read_experiment(inside if inside.is_dir() else folder, observers="subject-*", name=experiment)


def published_decisions(folder: Path | str) -> xr.Dataset:
    """Decisions of networks in files of the format of the trials, such as texture-vs-shape brings.

    Parameters
    ----------
    folder : path
        A folder of CSV files, or one.

    Returns
    -------
    xarray.Dataset
        Observers "NAME (decisions)".

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`neural_fits.behavior.trials.read_experiment`.
    """
    trials = read_experiment(folder, name="cue-conflict")
    return trials.assign_coords(observer=[f"{name} (decisions)" for name in trials.observer.values])


def write_alignment(
    table: xr.Dataset, trials: xr.Dataset, rows: Sequence[Mapping[str, Any]], out: Path, *, record: Mapping[str, Any]
) -> list[str]:
    """Write decisions (CSV as model-vs-human has it), tables (CSV, netCDF), figures, and a section of a page.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`neural_fits.behavior.alignment.alignment_table`.
    trials : xarray.Dataset
        Of the models; of those in ``rows`` the decisions are written.
    rows : sequence of mapping
        From :func:`cue_trials`.
    out : Path
    record : mapping
        What was done, for the page and the netCDF file.

    Returns
    -------
    list of str
        HTML.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = {name: value for name, value in record.items() if value is not None}
    write_dataset(table.assign_attrs({name: str(value) for name, value in record.items()}), out / "alignment.nc")
    write_csv(observer_rows(table), out / "alignment.csv")
    if rows:
        write_csv(rows, out / "readouts.csv")
        (out / "decisions").mkdir(exist_ok=True)
    for name in [f"{row['model']} {row['layer']}" for row in rows]:
        write_csv(
            _decisions(trials.sel(observer=name), name), out / "decisions" / f"cue-conflict_{file_name(name)}.csv"
        )
    drawn = [
        (
            "shape-bias",
            shape_bias_dots(table),
            "Share of shape among the decisions for shape or texture, by category of the shape, pictures with a "
            "conflict. Vertical lines: over all categories; bars at the top: 95 % intervals over pictures.",
        ),
        (
            "error-consistency",
            error_consistency_bars(table),
            "Error consistency with people over all cue-conflict pictures, the shape counting as right. Bars: mean "
            "over people, black: 95 % intervals over pictures, dots: each person. Band: pairs of people, "
            "lowest to highest.",
        ),
        (
            "accuracy",
            accuracy_dots(table),
            "Share of all cue-conflict pictures named by their shape, by category. Bars at the top: 95 % intervals "
            "over pictures. An observer that names one category at most pictures is right for that category alone.",
        ),
    ]
    content = "".join(paragraph(line) for line in alignment_lines(table))
    if any(np.isfinite(row["held_out_accuracy"]) for row in rows):
        content += paragraph(WEAK) + readout_table(rows)
    content += "".join(save(figure, out / f"{name}.png", caption) for name, figure, caption in drawn)
    return [section("Cue-conflict pictures, models and people", content + name_table(record))]


def save(figure: Any, path: Path, caption: str) -> str:
    """Write a figure as PNG, at once; its HTML."""
    data = png(figure)
    with replacing(path) as partial:
        partial.write_bytes(data)
    return picture(data, caption=caption, alt=caption, width_in=float(figure.get_figwidth()))


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows with the same columns, at once."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _decisions(trials: xr.Dataset, name: str) -> list[dict[str, Any]]:
    said, category = trials.response.isel(condition=0).values.tolist(), trials.category.values.tolist()
    return [
        dict(zip(COLUMNS, (name, 1, i + 1, "nan", response, shape, "0", f"{image}.png"), strict=True))
        for i, (image, shape, response) in enumerate(zip(trials.image.values.tolist(), category, said, strict=True))
    ]


def observer_rows(table: xr.Dataset) -> list[dict[str, Any]]:
    """Rows of a table of observers, without what is below them.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`neural_fits.behavior.alignment.alignment_table`.

    Returns
    -------
    list of dict
        Numbers with ``_low`` and ``_high``, ``kappa_PERSON`` with each person, ``answered_CATEGORY``,
        ``accuracy_CATEGORY`` and ``shape_bias_CATEGORY``.
    """
    rows = []
    for name in table.observer.values.tolist():
        one = table.sel(observer=name)
        row: dict[str, Any] = {"observer": name, "kind": one.kind.item()}
        for key in ("shape_bias", "accuracy", "mean_error_consistency"):
            low, high = one[f"{key}_interval"].values.tolist()
            row |= {key: float(one[key]), f"{key}_low": low, f"{key}_high": high}
        row |= {key: float(one[key]) for key in ("cue_share", "accuracy_without_conflict")}
        row |= {
            f"answered_{category}": float(one.answered.sel(category=category)) for category in table.category.values
        }
        row |= {f"kappa_{who}": float(one.error_consistency.sel(person=who)) for who in table.person.values}
        for category in table.category.values:
            row[f"accuracy_{category}"] = float(one.category_accuracy.sel(category=category))
            row[f"shape_bias_{category}"] = float(one.category_shape_bias.sel(category=category))
        rows.append(row)
    return rows


def readout_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """HTML table of the read-outs.

    Parameters
    ----------
    rows : sequence of mapping
        From :func:`cue_trials`.

    Returns
    -------
    str
    """
    body = "".join(
        f'<tr><th scope="row">{escape(row["model"])} {escape(row["layer"])}</th><td>{row["features"]}</td>'
        f"<td>{row['training_pictures']}</td><td>{row['held_out_accuracy']:.3f}</td>"
        f"<td>{row['held_out_balanced_accuracy']:.3f}</td></tr>"
        for row in rows
    )
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="read-outs"><table class="numbers"><thead><tr>'
        '<th scope="col">model and layer</th><th scope="col">features</th><th scope="col">training pictures</th>'
        '<th scope="col">accuracy, held-out photographs</th>'
        f'<th scope="col">mean over categories (chance {1 / len(CATEGORIES):.3f})</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def align_cue_conflict(
    models: Mapping[str, VisionModel],
    *,
    trials: Path | str,
    stimuli: Path | str | None = None,
    train_images: str | None = None,
    layers: Mapping[str, Sequence[str]] | None = None,
    decisions: Path | str | None = None,
    per_category: int | None = 12,
    n_resamples: int = 1000,
    seed: int = 0,
    **options: Any,
) -> tuple[xr.Dataset, xr.Dataset, list[dict[str, Any]]]:
    """Decisions of models on the cue-conflict pictures, beside those of people.

    Parameters
    ----------
    models : mapping of str to VisionModel
    trials : path
        As in :func:`people_trials`.
    stimuli : path, optional
        As in :func:`read_cue_pictures`; needed where there are models.
    train_images : str, optional
        As in :func:`training_pictures`.
    layers : mapping of str to sequence of str, optional
        Default: :func:`last_layers`.
    decisions : path, optional
        As in :func:`published_decisions`: networks that are set beside the models.
    per_category : int, optional
        Of :func:`training_pictures`.
    n_resamples, seed : int
        Of the intervals.
    **options
        Of :func:`cue_trials`.

    Returns
    -------
    table : xarray.Dataset
        As :func:`neural_fits.behavior.alignment.alignment_table`.
    trials : xarray.Dataset
        Of the models.
    rows : list of dict
        As in :func:`cue_trials`.

    Raises
    ------
    FileNotFoundError, ValueError
        As the functions named; or if there is nothing to compare with people.
    """
    people = people_trials(trials, "cue-conflict")
    found: list[xr.Dataset] = []
    rows: list[dict[str, Any]] = []
    if models:
        if stimuli is None:
            raise ValueError("there are no pictures to show to the models; give --stimuli.")
        pictures = read_cue_pictures(stimuli)
        training = None if train_images is None else training_pictures(train_images, per_category=per_category)
        chosen = last_layers(models) if layers is None else layers
        own, rows = cue_trials(models, chosen, pictures, training, **options)
        found.append(own)
    if decisions is not None:
        found.append(published_decisions(decisions))
    if not found:
        raise ValueError("there is nothing to compare with people; give models or --decisions.")
    shared = set.intersection(*(set(each.image.values.tolist()) for each in found))
    images = [image for image in found[0].image.values.tolist() if image in shared]
    every = xr.concat([each.sel(image=images) for each in found], "observer", combine_attrs="override")
    return alignment_table(people, every, n_resamples=n_resamples, seed=seed), every, rows
