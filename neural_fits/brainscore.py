"""Models as subjects of Brain-Score; recordings and trials as its assemblies and as local benchmarks.

Everything is Brain-Score's own but the way to a layer: pictures are placed by :func:`neural_fits.placing.place`, layers
copied by :func:`neural_fits.vision_model.layer_responses`, and stored activations keyed by content. Its data live in a
bucket; a benchmark made here needs no network. Brain-Score wants older versions of numpy and xarray than the rest of
this package, so it has an environment of its own: see ``docs/brain-score.md``.
"""

import functools
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from PIL import Image

from neural_fits import placing, vision_model
from neural_fits.assemblies import assembly_from_recording, recording_from_assembly
from neural_fits.content import digest, file_digest
from neural_fits.placing import place
from neural_fits.presentations import presented
from neural_fits.recordings import Recording
from neural_fits.vision_model import VisionModel, as_vision_model, device_of, layer_names, layer_responses

#: Areas that Brain-Score records from.
REGIONS = ("V1", "V2", "V4", "IT")


def require_brainscore() -> None:
    """Raise an error that says where Brain-Score is to be had, unless it is here.

    Raises
    ------
    ImportError

    Examples
    --------
    >>> import importlib.util
    >>> if importlib.util.find_spec("brainscore_vision") is None:
    ...     try:
    ...         require_brainscore()
    ...     except ImportError as error:
    ...         assert "environment of its own" in str(error)
    """
    try:
        import brainscore_vision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"Brain-Score cannot be imported ({error}); it needs an environment of its own: "
            "pip install -c constraints-brainscore.txt brainscore-vision, see docs/brain-score.md."
        ) from error


class LayerActivations:
    """What Brain-Score takes activations from, in place of its own wrapper of a torch module.

    Made by :func:`brain_model`. Pictures go from file to tensor and are never written; layers are copied before a later
    in-place operation can change them.

    Parameters
    ----------
    model : VisionModel
        On the device where it is to run.
    identifier : str or False
        Under which Brain-Score stores activations; False: it stores none.
    logits : str, optional
        Layer that stands for ``"logits"``.
    batch_size : int
    """

    def __init__(self, model: VisionModel, identifier: str | bool, *, logits: str | None, batch_size: int) -> None:
        from brainscore_vision.model_helpers.activations.core import (  # pyright: ignore[reportMissingImports]
            ActivationsExtractorHelper,
        )

        self.model, self.logits = model, logits
        self.image_size = model.input_px
        self._extractor = ActivationsExtractorHelper(
            get_activations=self.get_activations,
            preprocessing=self.preprocess,
            identifier=identifier,
            batch_size=batch_size,
        )
        self._extractor.insert_attrs(self)

    @property
    def identifier(self) -> str | bool:
        """Under which activations are stored."""
        return self._extractor.identifier

    @identifier.setter
    def identifier(self, value: str | bool) -> None:
        self._extractor.identifier = value

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Assembly of presentation x neuroid, as Brain-Score's extractor makes it."""
        return self._extractor(*arguments, **named)

    def preprocess(self, paths: Sequence[str]) -> np.ndarray:
        """Picture files, each as wide as the field, as the network takes them (picture, channel, row, column)."""
        placed = [place(read_picture(path)[None], size_deg=self.model.field_deg, model=self.model) for path in paths]
        return torch.cat(placed).numpy()

    def get_activations(self, images: Any, layer_names: Sequence[str]) -> "OrderedDict[str, np.ndarray]":
        """Responses of layers to preprocessed pictures."""
        if "logits" in layer_names and self.logits is None:
            raise ValueError(f"{self.model.name} has no logits; give the layer that names ImageNet classes as logits.")
        names = [self.logits if name == "logits" else name for name in layer_names]
        batch = torch.from_numpy(np.asarray(images, dtype=np.float32)).to(device_of(self.model))
        responses = layer_responses(self.model, batch, list(dict.fromkeys(map(str, names))))
        return OrderedDict(
            (asked, responses[str(name)].float().cpu().numpy()) for asked, name in zip(layer_names, names, strict=True)
        )


def read_picture(path: str | Path) -> np.ndarray:
    """Picture file as uint8: grey (row, column) where the file is grey, else (row, column, 3).

    Transparency is left out, not blended, as Brain-Score does.

    Parameters
    ----------
    path : path

    Returns
    -------
    ndarray of uint8

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)
    >>> read_picture(path).shape
    (4, 6)
    """
    with Image.open(path) as picture:
        return np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))


def brain_model(
    model: Any,
    *,
    identifier: str,
    regions: Mapping[str, str | Sequence[str]],
    readout: str | None = None,
    logits: str | None = None,
    batch_size: int = 64,
    store: bool = True,
) -> Any:
    """Model as a subject of Brain-Score, with layers for its areas.

    Parameters
    ----------
    model : VisionModel, torch.nn.Module or callable
        With its preprocessing and visual field; on the device where it is to run.
    identifier : str
        Name of the subject. Stored activations are keyed by it and by the digest of weights, code and preprocessing, so
        that other weights under the same name never get them.
    regions : mapping of str to str or sequence of str
        Layer or layers of V1, V2, V4, IT; areas that the model has not are left out, and cannot be recorded.
    readout : str, optional
        Layer that behaviour is read out of (probabilities, odd one out). Default: the layer of the last region.
    logits : str, optional
        Layer with the 1,000 ImageNet classes, for the task of naming without fitting.
    batch_size : int
        Pictures at once; Brain-Score pads the last batch.
    store : bool
        Let Brain-Score store activations.

    Returns
    -------
    brainscore_vision BrainModel

    Raises
    ------
    ImportError
        If Brain-Score is not here.
    ValueError
        If a region or layer is unknown, or the content of the model cannot be known (give ``store=False``).

    Examples
    --------
    >>> brain_model(torch.nn.Identity(), identifier="nothing", regions={"V9": "output"})
    Traceback (most recent call last):
        ...
    ValueError: region 'V9' is unknown to Brain-Score; expected some of V1, V2, V4, IT.
    """
    model = as_vision_model(model)
    if unknown := [region for region in regions if region not in REGIONS]:
        raise ValueError(f"region {unknown[0]!r} is unknown to Brain-Score; expected some of {', '.join(REGIONS)}.")
    if not regions:
        raise ValueError(f"regions is empty; expected a layer for some of {', '.join(REGIONS)}.")
    layers = {region: [each] if isinstance(each, str) else list(each) for region, each in regions.items()}
    named = list(dict.fromkeys(layer for each in layers.values() for layer in each))
    readout = readout or named[-1]
    for layer in [*named, readout, *([logits] if logits else [])]:
        if layer not in layer_names(model, layer):
            raise ValueError(f"{model.name} has no layer {layer!r}; expected the name of one, not a pattern.")
    require_brainscore()
    from brainscore_vision.model_helpers.brain_transformation import (  # pyright: ignore[reportMissingImports]
        ModelCommitment,
    )

    key = f"{identifier}-{model_digest(model)[:24]}" if store else False
    return ModelCommitment(
        identifier=identifier,
        activations_model=LayerActivations(model, key, logits=logits, batch_size=batch_size),
        layers=named,
        behavioral_readout_layer=readout,
        region_layer_map={region: each[0] if len(each) == 1 else each for region, each in layers.items()},
        visual_degrees=model.field_deg,
    )


def model_digest(model: VisionModel) -> str:
    """SHA-256 of all that decides the activations of a model: weights, code, preprocessing, code of this package.

    Parameters
    ----------
    model : VisionModel

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it holds something whose content cannot be known.

    Examples
    --------
    >>> one, other = (VisionModel(torch.nn.Conv2d(3, 2, 3), "same name", input_px=8) for _ in range(2))
    >>> model_digest(one) == model_digest(one), model_digest(one) == model_digest(other)
    (True, False)
    """
    placed = (model.field_deg, model.input_px, model.channels, model.mean, model.std, model.background)
    code = tuple(file_digest(Path(file)) for file in (__file__, placing.__file__, vision_model.__file__))
    return digest((model.module, placed, code), name=model.name)


def stimulus_set(pictures: Mapping[str, np.ndarray], folder: Path, *, identifier: str | bool, **columns: Any) -> Any:
    """Brain-Score's table of stimuli, with a PNG file for each.

    Parameters
    ----------
    pictures : mapping of str to array of uint8, (row, column[, channel])
        By stimulus id.
    folder : Path
        Of the files; made where missing.
    identifier : str or False
        Under which Brain-Score stores activations for the set; False: it stores none.
    **columns : sequence
        Other columns.

    Returns
    -------
    StimulusSet
    """
    require_brainscore()
    from brainscore_core.supported_data_standards.brainio.stimuli import (  # pyright: ignore[reportMissingImports]
        StimulusSet,
    )

    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for i, (name, picture) in enumerate(pictures.items()):
        paths[name] = folder / f"{i:06d}.png"
        picture = np.asarray(picture)
        Image.fromarray(picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture).save(paths[name])
    table = StimulusSet({"stimulus_id": list(pictures), **columns})
    table.stimulus_paths = paths
    table.identifier = identifier
    return table


def on_screen(stimuli: Any, folder: Path, *, size_deg: float, field_deg: float) -> Any:
    """Stimuli as Brain-Score puts them on the screen of a subject: on mid-grey, or cut to it; files in a folder.

    Its own function keeps the files, and finds them again by the name of the set alone.

    Parameters
    ----------
    stimuli : StimulusSet
    folder : Path
    size_deg : float
        Width of the stimuli.
    field_deg : float
        Width of the screen.

    Returns
    -------
    StimulusSet
    """
    from brainscore_vision.benchmark_helpers.screen import ImageConverter  # pyright: ignore[reportMissingImports]

    folder.mkdir(parents=True, exist_ok=True)
    converter = ImageConverter(target_dir=folder)
    # A mere copy would still find the files of the original: pandas hands the bound method on.
    placed = type(stimuli)(stimuli.copy(deep=True))
    placed.stimulus_paths = {
        name: converter.convert_image(path, source_degrees=size_deg, target_degrees=field_deg)
        for name, path in stimuli.stimulus_paths.items()
    }
    placed.identifier = stimuli.identifier
    return placed


def neuron_assembly(recording: Recording, *, pictures: Path | None = None) -> Any:
    """Recording as Brain-Score's assembly, with its pictures as the stimulus set.

    Parameters
    ----------
    recording : Recording
        Read into memory.
    pictures : Path, optional
        Folder for the PNG files; without it the assembly has no stimulus set.

    Returns
    -------
    NeuronRecordingAssembly
        As :func:`neural_fits.assemblies.assembly_from_recording` lays it out. :func:`recording_of` gives back the
        recording, pictures included.
    """
    require_brainscore()
    from brainscore_core.supported_data_standards.brainio.assemblies import (  # pyright: ignore[reportMissingImports]
        NeuronRecordingAssembly,
    )

    assembly = NeuronRecordingAssembly(assembly_from_recording(recording))
    if pictures is not None:
        if recording.images is None:
            raise ValueError(f"recording {recording.name!r} has no pictures; leave the folder out.")
        ids, images = recording.labels("stimulus_id").tolist(), recording.images
        there = recording.labels("has_image") if "has_image" in recording.dataset.coords else np.ones(len(ids), bool)
        kept = {name: image for name, image, has in zip(ids, images, there, strict=True) if has}
        assembly.attrs["stimulus_set"] = stimulus_set(kept, pictures, identifier=recording.name)
        assembly.attrs["stimulus_set_identifier"] = recording.name
    return assembly


def recording_of(assembly: Any, **description: Any) -> Recording:
    """Recording from Brain-Score's assembly, with the pictures of its stimulus set.

    Parameters
    ----------
    assembly : NeuronRecordingAssembly
    **description
        As for :func:`neural_fits.assemblies.recording_from_assembly`.

    Returns
    -------
    Recording
        Stimuli without a file in the set have no picture.
    """
    stimuli = assembly.attrs.get("stimulus_set")
    plain = {name: value for name, value in assembly.attrs.items() if not name.startswith("stimulus_set")}
    assembly = xr.DataArray(assembly).copy()
    assembly.attrs = plain
    if stimuli is None:
        return recording_from_assembly(assembly, **description)
    presented_ids = set(np.asarray(assembly["stimulus_id"].values).tolist())
    paths = {name: path for name, path in stimuli.stimulus_paths.items() if name in presented_ids}
    images = {name: read_picture(path) for name, path in paths.items()}
    if len({image.ndim for image in images.values()}) > 1:
        images = {n: image if image.ndim == 3 else np.repeat(image[..., None], 3, 2) for n, image in images.items()}
    described = stimuli if presented_ids <= set(stimuli["stimulus_id"]) else None
    return recording_from_assembly(assembly, described, images=images, **description)


class RecordingBenchmark:
    """How well a subject of Brain-Score predicts a recording, by its own metric, ceiling and rule.

    Made by :func:`benchmark`. ``benchmark(model)`` gives Brain-Score's score, with ``raw`` and ``ceiling`` among its
    attributes. The pictures are in files only while the subject looks at them.

    Attributes
    ----------
    identifier, region, version, parent, bibtex
        As of any benchmark of Brain-Score.
    trials, assembly : NeuronRecordingAssembly
        Each presentation, and the means over repeats.
    """

    version = 1
    bibtex = None

    def __init__(
        self,
        recording: Recording,
        region: str,
        *,
        metric: str,
        stratify: str | None,
        size_deg: float,
        window_ms: tuple[float, float],
        identifier: str,
    ) -> None:
        from brainscore_core.supported_data_standards.brainio.assemblies import (  # pyright: ignore[reportMissingImports]
            NeuronRecordingAssembly,
        )
        from brainscore_vision import load_metric  # pyright: ignore[reportMissingImports]
        from brainscore_vision.benchmark_helpers.neural_common import (  # pyright: ignore[reportMissingImports]
            average_repetition,
        )

        self.identifier, self.region, self.parent = identifier, region, region
        self.size_deg, self.window_ms, self.n_repeats = size_deg, window_ms, recording.n_repeats
        ids = recording.labels("stimulus_id").astype(str)
        images = recording.images
        assert images is not None
        self.pictures = dict(zip(ids.tolist(), images, strict=True))
        labels = ids if stratify is None else recording.labels(stratify).astype(str)
        self.columns = {} if stratify is None else {stratify: labels.tolist()}
        repeats = recording.repeats()
        row, column = presented(repeats)
        # Brain-Score averages over presentations that agree in everything but their repetition.
        self.trials = NeuronRecordingAssembly(
            repeats[row, column],
            coords={
                "stimulus_id": ("presentation", ids[row]),
                stratify or "stimulus_name": ("presentation", labels[row]),
                "repetition": ("presentation", column),
                "neuroid_id": ("neuroid", recording.labels("neuron_id").astype(str)),
                "region": ("neuroid", [region] * recording.n_neurons),
            },
            dims=["presentation", "neuroid"],
        )
        self.assembly = average_repetition(self.trials)
        self._metric = load_metric(metric, crossvalidation_kwargs={"stratification_coord": stratify})

    @functools.cached_property
    def ceiling(self) -> Any:
        """Split-half consistency; Brain-Score's own class would store it under the name of the benchmark alone."""
        from brainscore_vision import load_ceiling  # pyright: ignore[reportMissingImports]

        return load_ceiling("internal_consistency")(self.trials)

    def preallocate_memory(self, candidate: Any) -> None:
        """Nothing: Brain-Score asks before it scores."""

    def __call__(self, candidate: Any) -> Any:
        """Score of a subject."""
        from brainscore_vision.benchmark_helpers.neural_common import (  # pyright: ignore[reportMissingImports]
            explained_variance,
        )

        candidate.start_recording(self.region, time_bins=[self.window_ms])
        with tempfile.TemporaryDirectory(prefix="neural-fits-") as name:
            folder = Path(name)
            # Under no identifier nothing is stored: a stored activation would name files that are gone.
            stimuli = stimulus_set(self.pictures, folder / "as shown", identifier=False, **self.columns)
            stimuli = on_screen(
                stimuli, folder / "on screen", size_deg=self.size_deg, field_deg=candidate.visual_degrees()
            )
            activations = candidate.look_at(stimuli, number_of_trials=self.n_repeats)
        if "time_bin" in activations.dims:
            activations = activations.squeeze("time_bin")
        return explained_variance(self._metric(activations, self.assembly), self.ceiling)


def benchmark(
    recording: Recording,
    region: str,
    *,
    metric: str = "pls",
    stratify: str | None = None,
    size_deg: float | None = None,
    window_ms: tuple[float, float] | None = None,
    identifier: str | None = None,
) -> RecordingBenchmark:
    """Local benchmark from any recording, scored by Brain-Score's own metric and ceiling.

    Parameters
    ----------
    recording : Recording
        With pictures, without time bins; neurons of other regions are left out.
    region : str
        V1, V2, V4 or IT: label ``region`` of the neurons, and what the subject is recorded from.
    metric : str
        A cross-validated metric of Brain-Score: ``pls``, ``ridge``, ``linear_predictivity`` ...
    stratify : str, optional
        Label of the stimuli that every split has in equal shares, as the type of texture in Freeman-Ziemba.
    size_deg, window_ms : optional
        Where the recording does not know them.
    identifier : str, optional
        Default: ``NAME.REGION-METRIC``.

    Returns
    -------
    RecordingBenchmark

    Raises
    ------
    ImportError
        If Brain-Score is not here.
    ValueError
        If there is no such neuron, there are fewer than two repeats, or pictures, their size, the window or responses
        are lacking.

    Examples
    --------
    >>> from neural_fits.recordings import recording_from_arrays
    >>> recording = recording_from_arrays(np.ones((4, 2, 1)), neuron={"region": ["V1"]}, name="toy")
    >>> benchmark(recording, "V2")
    Traceback (most recent call last):
        ...
    ValueError: recording 'toy' has no neurons of region 'V2'; expected one of V1.
    """
    if region not in REGIONS:
        raise ValueError(f"region {region!r} is unknown to Brain-Score; expected one of {', '.join(REGIONS)}.")
    regions = recording.labels("region").astype(str)
    if region not in regions:
        known = ", ".join(sorted(set(regions)))
        raise ValueError(f"recording {recording.name!r} has no neurons of region {region!r}; expected one of {known}.")
    recording = recording.select(neurons=regions == region)
    if recording.images is None:
        raise ValueError(f"recording {recording.name!r} has no pictures; a subject has nothing to look at without.")
    recording.require_sound(allow=["constant neuron"])
    size_deg = recording.size_deg if size_deg is None else size_deg
    if not size_deg > 0:
        raise ValueError(f"recording {recording.name!r} does not know how large its pictures were; give size_deg.")
    window_ms = recording.window_ms if window_ms is None else window_ms
    if np.isnan(window_ms).any():
        raise ValueError(f"recording {recording.name!r} does not know its window; give window_ms, such as (50, 200).")
    if recording.n_repeats < 2:
        raise ValueError(f"recording {recording.name!r} has one repeat; expected two at least, or there is no ceiling.")
    if (lacking := np.isnan(recording.mean_responses())).any():
        neuron = recording.labels("neuron_id")[lacking.any(0).argmax()]
        raise ValueError(f"neuron {neuron} has no response to some stimulus; Brain-Score needs all: select the others.")
    require_brainscore()
    return RecordingBenchmark(
        recording,
        region,
        metric=metric,
        stratify=stratify,
        size_deg=float(size_deg),
        window_ms=(float(window_ms[0]), float(window_ms[1])),
        identifier=identifier or f"{recording.name}.{region}-{metric}",
    )


class TrialsBenchmark:
    """Error consistency of a subject of Brain-Score with people, by its own metric and ceiling.

    Made by :func:`behavior_benchmark`. The score is the consistency with people over that between people, with ``raw``
    and ``ceiling`` among its attributes; unlike Brain-Score's own benchmarks it is not cut to [0, 1].

    Attributes
    ----------
    identifier, version, parent, bibtex
        As of any benchmark of Brain-Score.
    assembly : BehavioralAssembly, (presentation,)
        Answers of all observers.
    """

    version = 1
    bibtex = None
    parent = "behavior_vision"

    def __init__(
        self,
        trials: xr.Dataset,
        pictures: Mapping[tuple[str, str], np.ndarray],
        *,
        size_deg: float,
        fitting: tuple[Sequence[np.ndarray], Sequence[str]] | None,
        fitting_size_deg: float,
        identifier: str,
    ) -> None:
        from brainscore_core.supported_data_standards.brainio.assemblies import (  # pyright: ignore[reportMissingImports]
            BehavioralAssembly,
        )
        from brainscore_vision import load_metric  # pyright: ignore[reportMissingImports]

        self.identifier, self.size_deg = identifier, size_deg
        self.fitting, self.fitting_size_deg = fitting, fitting_size_deg
        observer, image, condition = np.nonzero(trials.correct.notnull().values)
        names = {axis: trials[axis].values.astype(str) for axis in ("observer", "image", "condition")}
        truth = trials["category"].values.astype(str)
        shown = sorted(set(zip(image.tolist(), condition.tolist(), strict=True)))
        self.pictures = {
            f"{names['image'][i]}|{names['condition'][c]}": pictures[
                (str(names["image"][i]), str(names["condition"][c]))
            ]
            for i, c in shown
        }
        self.columns = {
            "truth": [str(truth[i]) for i, _ in shown],
            "condition": [str(names["condition"][c]) for _, c in shown],
        }
        self.assembly = BehavioralAssembly(
            trials.response.values[observer, image, condition].astype(str),
            coords={
                "stimulus_id": (
                    "presentation",
                    [f"{names['image'][i]}|{names['condition'][c]}" for i, c in zip(image, condition, strict=True)],
                ),
                "truth": ("presentation", truth[image]),
                "condition": ("presentation", names["condition"][condition]),
                "subject": ("presentation", names["observer"][observer]),
            },
            dims=["presentation"],
        )
        self._metric = load_metric("error_consistency")

    @functools.cached_property
    def ceiling(self) -> Any:
        """Error consistency between people, mean over pairs."""
        return self._metric.ceiling(self.assembly)

    def preallocate_memory(self, candidate: Any) -> None:
        """Nothing: Brain-Score asks before it scores."""

    def choices(self, candidate: Any) -> Any:
        """Answers of a subject, one for each stimulus.

        Parameters
        ----------
        candidate : BrainModel

        Returns
        -------
        BehavioralAssembly, (presentation,)
        """
        from brainscore_core.supported_data_standards.brainio.assemblies import (  # pyright: ignore[reportMissingImports]
            BehavioralAssembly,
            walk_coords,
        )
        from brainscore_vision.model_interface import BrainModel  # pyright: ignore[reportMissingImports]

        field_deg = candidate.visual_degrees()
        with tempfile.TemporaryDirectory(prefix="neural-fits-") as name:
            folder = Path(name)
            stimuli = stimulus_set(self.pictures, folder / "as shown", identifier=False, **self.columns)
            stimuli = on_screen(stimuli, folder / "on screen", size_deg=self.size_deg, field_deg=field_deg)
            if self.fitting is None:
                candidate.start_task(BrainModel.Task.label, sorted(set(self.columns["truth"])))
            else:
                images, labels = self.fitting
                learned = {f"fitting {i}": image for i, image in enumerate(images)}
                fitting = stimulus_set(
                    learned, folder / "fitting", identifier=False, image_label=list(map(str, labels))
                )
                size_deg = self.fitting_size_deg
                fitting = on_screen(fitting, folder / "fitting on screen", size_deg=size_deg, field_deg=field_deg)
                candidate.start_task(BrainModel.Task.probabilities, fitting)
            answers = candidate.look_at(stimuli, number_of_trials=1)
        candidate.start_task(BrainModel.Task.passive)
        if self.fitting is None:
            answers = answers.squeeze("choice")
            values = answers.values
        else:
            answers = answers.transpose("presentation", "choice")
            values = answers["choice"].values[answers.values.argmax(1)]
        coords = {name: (dims, each) for name, dims, each in walk_coords(answers) if tuple(dims) == ("presentation",)}
        return BehavioralAssembly(values.astype(str), coords=coords, dims=["presentation"])

    def __call__(self, candidate: Any) -> Any:
        """Score of a subject."""
        from brainscore_vision.benchmarks import ceil_score  # pyright: ignore[reportMissingImports]

        return ceil_score(self._metric(self.choices(candidate), self.assembly), self.ceiling)


def behavior_benchmark(
    trials: xr.Dataset,
    pictures: Mapping[tuple[str, str], np.ndarray],
    *,
    size_deg: float,
    fitting: tuple[Sequence[np.ndarray], Sequence[str]] | None = None,
    fitting_size_deg: float | None = None,
    identifier: str | None = None,
) -> TrialsBenchmark:
    """Local benchmark from trials of people, scored by Brain-Score's own error consistency and its ceiling.

    Parameters
    ----------
    trials : xarray.Dataset, (observer, image, condition)
        From :mod:`neural_fits.behavior.trials`, without repeats. A picture was seen by all observers or by none.
    pictures : mapping of (image, condition) to array of uint8, (row, column[, channel])
        As they were shown.
    size_deg : float
        Their width in degrees of visual angle.
    fitting : (pictures, labels), optional
        On which the subject's read-out learns the categories. Without it the subject names 16 categories by its
        ImageNet classes, so it needs logits.
    fitting_size_deg : float, optional
        Default: ``size_deg``.
    identifier : str, optional
        Default: ``NAME-error_consistency``.

    Returns
    -------
    TrialsBenchmark

    Raises
    ------
    ImportError
        If Brain-Score is not here.
    ValueError
        If there are repeats, fewer than two observers, pictures are lacking, or one was not seen by all.

    Examples
    --------
    >>> from neural_fits.behavior.trials import trials_from_columns
    >>> columns = {"image": ["dog1"], "condition": ["0"], "response": ["dog"], "category": ["dog"]}
    >>> behavior_benchmark(trials_from_columns(observer=["a"], **columns), {}, size_deg=3.0)
    Traceback (most recent call last):
        ...
    ValueError: trials are of 1 observer; expected two at least, or there is no ceiling.
    """
    if "repeat" in trials.dims:
        raise ValueError("trials have repeats, which Brain-Score's error consistency cannot take; choose one of them.")
    if trials.sizes["observer"] < 2:
        raise ValueError(
            f"trials are of {trials.sizes['observer']} observer; expected two at least, or there is no ceiling."
        )
    seen = trials.correct.notnull()
    some, everyone = seen.any("observer").values, seen.all("observer").values
    for i, c in zip(*np.nonzero(some), strict=True):
        image, condition = str(trials["image"].values[i]), str(trials["condition"].values[c])
        if not everyone[i, c]:
            lacking = str(trials["observer"].values[~seen.values[:, i, c]][0])
            raise ValueError(
                f"observer {lacking} has no trial of image {image} in condition {condition}; Brain-Score needs all "
                "observers for each: choose images that all saw."
            )
        if (image, condition) not in pictures:
            raise ValueError(f"pictures lack image {image} in condition {condition}; give all that were shown.")
    require_brainscore()
    return TrialsBenchmark(
        trials,
        pictures,
        size_deg=size_deg,
        fitting=fitting,
        fitting_size_deg=size_deg if fitting_size_deg is None else fitting_size_deg,
        identifier=identifier or f"{trials.attrs.get('name') or 'trials'}-error_consistency",
    )
