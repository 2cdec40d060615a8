"""How well each layer predicts a recording: the table of layers, its scores, and the choice of a layer."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
import xarray as xr
from tqdm.auto import tqdm

from neural_fits.activations import activations
from neural_fits.baselines import reorder
from neural_fits.bootstrap import correlations
from neural_fits.ceiling import CEILINGS
from neural_fits.recordings import Recording
from neural_fits.regressions import REGRESSIONS
from neural_fits.score import RULES, Score, score_by_rules
from neural_fits.splits import SPLITS, Splits
from neural_fits.vision_model import as_vision_model
from stimuli.files import replacing

#: Raised when the meaning of a saved table changes.
FORMAT = 1

#: Regressions that look for a place on the feature map, and so need maps.
NEEDS_MAPS = frozenset({"location_ridge", "separable"})

#: Places on a side of the maps that these regressions are given (ours; see ``benchmarks/readout_grid.py``).
GRID = 13


def make_splits(recording: Recording, splits: str | Splits = "kfold", **options) -> Splits:
    """Split the stimuli of a recording by a name, with the labels that it needs.

    Parameters
    ----------
    recording : Recording
    splits : str or Splits
        Name in ``SPLITS``, with a label of the stimuli after a colon where the split needs one:
        ``"grouped_kfold:movie"``, ``"stratified:type"``. Splits are returned as they are.
    **options
        For the function in ``SPLITS``: ``n_splits``, ``n_folds`` (for groups 10, or as many as there are),
        ``train_size``, ``seed`` ...

    Returns
    -------
    Splits
        Its record holds the label as ``by``.

    Raises
    ------
    ValueError
        If the name is unknown, or the label is missing, unknown or of no use.

    Examples
    --------
    >>> from neural_fits.recordings import recording_from_arrays
    >>> rng = np.random.default_rng(0)
    >>> recording = recording_from_arrays(rng.random((6, 3, 4)), stimulus={"movie": ["a", "a", "b", "b", "c", "c"]})
    >>> make_splits(recording, "grouped_kfold:movie", n_folds=3).record["by"]
    'movie'
    """
    if isinstance(splits, Splits):
        if splits.n_stimuli != recording.n_stimuli:
            raise ValueError(f"splits are of {splits.n_stimuli} stimuli; the recording has {recording.n_stimuli}.")
        return splits
    name, _, by = splits.partition(":")
    if name not in SPLITS:
        raise ValueError(f"splits are {splits!r}; expected one of {', '.join(SPLITS)}, with :LABEL where it needs one.")
    needs_label = name not in ("random", "kfold")
    if needs_label != bool(by):
        known = ", ".join(_stimulus_labels(recording))
        raise ValueError(
            f"splits are {splits!r}; expected {name}:LABEL, a label of the stimuli ({known})."
            if needs_label
            else f"splits are {splits!r}; {name} splits take no label: give {name!r}."
        )
    if not needs_label:
        return SPLITS[name](recording.n_stimuli, **options)
    labels = recording.labels(by)
    if name == "grouped_kfold" and "n_folds" not in options:
        options["n_folds"] = min(10, len(np.unique(labels)))
    made = SPLITS[name](labels, **options)
    return dataclasses.replace(made, record={**made.record, "by": by})


def _stimulus_labels(recording: Recording) -> list[str]:
    return [str(name) for name, values in recording.dataset.coords.items() if values.dims == ("stimulus",)]


def fit_features(
    features: Mapping[str, np.ndarray | torch.Tensor],
    recording: Recording,
    *,
    regression: str | Any = "pls",
    regression_options: Mapping | None = None,
    splits: str | Splits = "kfold",
    split_options: Mapping | None = None,
    rules: Sequence[str] = tuple(RULES),
    ceiling: str = "spearman_brown",
    ceiling_options: Mapping | None = None,
    min_reliability: float | None = None,
    correlate: str = "split",
    nested_groups: bool = True,
    control: bool = True,
    choose: bool = False,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Predict a recording from features of the same stimuli, layer by layer, and score what was held out.

    Parameters
    ----------
    features : mapping of str to array, (stimulus, feature) or (stimulus, channel, row, column)
        By layer, rows in the order of the recording. Maps are flattened for regressions that have no use for places.
    recording : Recording
        Mean responses over its repeats are predicted.
    regression : str or object
        Name in ``REGRESSIONS``, or anything with ``cross_predict(X, Y, splits, groups=...)``.
    regression_options : mapping, optional
        Keyword arguments of the regression, for example ``{"n_components": 25}``.
    splits : str or Splits
        As in :func:`make_splits`.
    split_options : mapping, optional
        ``n_folds``, ``train_size`` ...; ``seed`` is ``seed`` without it.
    rules : sequence of str
        Names in ``RULES``.
    ceiling : str
        Name in ``CEILINGS``.
    ceiling_options : mapping, optional
    min_reliability : float, optional
        Neurons at or below are left out of the scores, not of the table.
    correlate : {"split", "pooled"}
        Correlate predictions and responses within each test part and average (Brain-Score), or over all held-out
        stimuli together, which needs splits that hold out every stimulus once (k-fold). Pooled correlations also count
        the differences between test parts; where these are whole movies, the two differ.
    nested_groups : bool
        Splits by group: keep groups together where the regression chooses a penalty or a number of components inside
        the training part as well. That asks the same question inside as outside; with few groups the choice is noisy.
    control : bool
        Fit responses re-ordered between stimuli as well (between groups, where the splits have groups): the
        correlation has to fall to about zero, or a little below, since a training mean is high where the test part's
        is low.
    choose : bool
        Choose a layer inside each training part, by :func:`choose_layer`, and give its correlations.
    n_bootstrap : int
    confidence : float
    seed : int
        Of the splits, the re-ordering and the bootstrap.
    progress : bool

    Returns
    -------
    xarray.Dataset
        ``correlation`` (layer, split, neuron); ``correlation_pooled`` (layer, neuron) where every stimulus is held out
        once; ``correlation_reordered`` and ``correlation_reordered_pooled``, those of the control; ``reliability``
        (neuron) by ``ceiling``;
        ``score``, ``score_interval_neurons``, ``score_interval_images`` (layer, rule[, end]), ``n_neurons`` (layer,
        rule) and ``left_out`` (layer, rule), JSON; ``predicted`` (layer, held_out, neuron) with the coordinates
        ``held_out_split`` and ``held_out_stimulus``; ``measured`` (stimulus, neuron); ``assignment`` (split, stimulus),
        1 training and 2 test; with ``choose``: ``chosen_layer`` (split), ``inner_score`` (split, layer) and
        ``correlation_chosen`` (split, neuron). Everything else that made it is in the attributes.

    Raises
    ------
    ValueError
        If a name is unknown, numbers of stimuli differ, responses are missing that the regression needs, or pooled
        correlations are asked of splits that do not hold out every stimulus once.

    Examples
    --------
    >>> from neural_fits.recordings import recording_from_arrays
    >>> rng = np.random.default_rng(0)
    >>> layer = rng.standard_normal((60, 20))
    >>> rates = layer[:, :3, None].transpose(0, 2, 1) + 0.5 * rng.standard_normal((60, 8, 3))
    >>> table = fit_features({"layer": layer}, recording_from_arrays(rates), regression="ridge", n_bootstrap=100)
    >>> bool(table.score.sel(layer="layer", rule="raw") > 0.9), bool(abs(table.correlation_reordered.mean()) < 0.2)
    (True, True)
    """
    started = time.perf_counter()
    for rule in rules:
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; expected one of {', '.join(RULES)}.")
    if ceiling not in CEILINGS:
        raise ValueError(f"ceiling is {ceiling!r}; expected one of {', '.join(CEILINGS)}.")
    if not features:
        raise ValueError("no layer was given; expected at least one.")
    divided = make_splits(recording, splits, **{"seed": seed, **(split_options or {})})
    groups = recording.labels(divided.record["by"]) if divided.record["name"].startswith("grouped") else None
    inner = groups if nested_groups else None
    tests = list(divided.test)
    held_out = np.concatenate(tests)
    once = len(held_out) == recording.n_stimuli == len(np.unique(held_out))
    if correlate not in ("split", "pooled") or (correlate == "pooled" and not once):
        raise ValueError(
            f"correlate is {correlate!r} with {divided.record['name']} splits; expected 'split', or 'pooled' with "
            "splits that hold out every stimulus once (kfold or grouped_kfold, one repeat)."
        )
    measured = recording.mean_responses()
    if recording.n_repeats > 1:
        reliability = CEILINGS[ceiling](recording.repeats(), **_ceiling_options(ceiling, ceiling_options, seed))
    else:
        reliability, ceiling = np.ones(recording.n_neurons), "none (one repeat: reliability unknown, taken as 1)"
    regressor = _regressor(regression, regression_options)
    reordered = reorder(recording.n_stimuli, groups=groups, seed=seed) if control else None
    # One fit serves both where neurons do not share anything; PLS finds its components from all responses together.
    together = isinstance(regression, str) and regression != "pls"

    layers = list(features)
    n_splits, n_neurons = len(divided), recording.n_neurons
    correlation = np.full((len(layers), n_splits, n_neurons), np.nan)
    control_correlation = correlation.copy()
    predicted = np.full((len(layers), len(held_out), n_neurons), np.nan, dtype=np.float32)
    pooled = np.full((len(layers), n_neurons), np.nan)
    control_pooled = pooled.copy()
    scores: list[dict[str, Score]] = []
    n_features = []
    for i, layer in enumerate(tqdm(layers, desc="fit", unit="layer", disable=not progress)):
        X = _features_for(regression, features[layer], layer, recording.n_stimuli)
        n_features.append(int(np.prod(X.shape[1:])))
        Y = measured if reordered is None or not together else np.concatenate([measured, measured[reordered]], 1)
        parts = regressor.cross_predict(X, Y, divided, groups=inner)
        if reordered is not None:
            if together:
                parts, others = [p[:, :n_neurons] for p in parts], [p[:, n_neurons:] for p in parts]
            else:
                others = regressor.cross_predict(X, measured[reordered], divided, groups=inner)
            for s, (part, test) in enumerate(zip(others, tests, strict=True)):
                control_correlation[i, s] = correlations(part, measured[reordered][test])
            if once:
                control_pooled[i] = correlations(np.concatenate(others), measured[reordered][held_out])
        for s, (part, test) in enumerate(zip(parts, tests, strict=True)):
            correlation[i, s] = correlations(part, measured[test])
        predicted[i] = np.concatenate(parts)
        if once:
            pooled[i] = correlations(np.concatenate(parts), measured[held_out])
        scores.append(
            score_by_rules(
                [np.concatenate(parts)] if correlate == "pooled" else parts,
                measured,
                [held_out] if correlate == "pooled" else tests,
                reliability,
                rules=rules,
                ceiling=ceiling,
                min_reliability=min_reliability,
                n_repeats=repeats_text(recording),
                groups=groups,
                n_bootstrap=n_bootstrap,
                confidence=confidence,
                seed=seed,
            )
        )

    table = xr.Dataset(
        {
            "correlation": (("layer", "split", "neuron"), correlation, {"long_name": "Pearson r, held out"}),
            "predicted": (
                ("layer", "held_out", "neuron"),
                predicted,
                {"unit": recording.dataset.attrs.get("unit", "")},
            ),
            "measured": (("stimulus", "neuron"), measured, {"unit": recording.dataset.attrs.get("unit", "")}),
            "assignment": (("split", "stimulus"), divided.assignment(), {"meaning": "1 training, 2 test"}),
            "reliability": ("neuron", reliability, {"long_name": f"reliability of the mean response ({ceiling})"}),
            "n_features": ("layer", n_features),
            "score": (("layer", "rule"), [[s[rule].value for rule in rules] for s in scores]),
            "score_interval_neurons": (
                ("layer", "rule", "end"),
                [[s[rule].interval_neurons for rule in rules] for s in scores],
            ),
            "score_interval_images": (
                ("layer", "rule", "end"),
                [[s[rule].interval_images for rule in rules] for s in scores],
            ),
            "n_neurons": (("layer", "rule"), [[s[rule].n_neurons for rule in rules] for s in scores]),
            "left_out": (("layer", "rule"), [[json.dumps(s[rule].left_out) for rule in rules] for s in scores]),
        },
        coords={
            "layer": layers,
            "rule": list(rules),
            "end": ["low", "high"],
            "held_out_split": ("held_out", np.repeat(np.arange(n_splits), [len(t) for t in tests])),
            "held_out_stimulus": ("held_out", held_out),
            **_coordinates(recording),
        },
        attrs={
            "format": FORMAT,
            "recording": recording.name,
            "licence": recording.licence,
            "citation": recording.citation,
            "n_stimuli": recording.n_stimuli,
            "n_recorded": n_neurons,
            "n_repeats": repeats_text(recording),
            "regression": regression if isinstance(regression, str) else type(regression).__name__,
            "regression_options": json.dumps(dict(regression_options or {}), default=str),
            "splits": json.dumps(divided.record),
            "correlate": correlate,
            "nested_groups": int(nested_groups),
            "ceiling": ceiling,
            "min_reliability": float("nan") if min_reliability is None else min_reliability,
            "n_bootstrap": n_bootstrap,
            "confidence": confidence,
            "seed": seed,
            "versions": json.dumps({m.__name__: m.__version__ for m in (np, scipy, torch, xr)}),
            "warnings": json.dumps(recording.check()),
        },
    )
    if once:
        table["correlation_pooled"] = (("layer", "neuron"), pooled)
    if reordered is not None:
        table["correlation_reordered"] = (("layer", "split", "neuron"), control_correlation)
        if once:
            table["correlation_reordered_pooled"] = (("layer", "neuron"), control_pooled)
    if choose:
        chosen, inner_scores = [], []
        for train in divided.train:
            name, values = choose_layer(
                {
                    layer: _features_for(regression, X, layer, recording.n_stimuli)[train]
                    for layer, X in features.items()
                },
                measured[train],
                regression=regression,
                regression_options=regression_options,
                groups=None if groups is None else groups[train],
                seed=seed,
            )
            chosen.append(name)
            inner_scores.append([values[layer] for layer in layers])
        rows = [layers.index(name) for name in chosen]
        table["chosen_layer"] = ("split", chosen)
        table["inner_score"] = (("split", "layer"), inner_scores)
        table["correlation_chosen"] = (("split", "neuron"), correlation[rows, np.arange(n_splits)])
    table.attrs["seconds"] = round(time.perf_counter() - started, 2)
    return table


def fit_layers(
    model,
    recording: Recording,
    *,
    layers: str | Sequence[str] | None = None,
    regression: str | Any = "pls",
    reduction: str | None = None,
    size_deg: float | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    cache: Path | str | None = None,
    storage: Path | str | None = None,
    max_bytes: int | None = None,
    progress: bool = False,
    **options,
) -> xr.Dataset:
    """How well each layer of a model predicts a recording.

    Parameters
    ----------
    model : VisionModel, torch.nn.Module or callable
        See :class:`neural_fits.vision_model.VisionModel`; a bare module sees 8 degrees in 224 px.
    recording : Recording
        With pictures.
    layers : str or sequence of str, optional
        Names or patterns (``"features.*"``); default: those that the model declares.
    regression : str or object
        As in :func:`fit_features`.
    reduction : str, optional
        Of the features (:func:`neural_fits.activations.activations`). Default: all features; maps averaged to at most
        ``GRID`` x ``GRID`` places for read-outs that look for a place.
    size_deg : float, optional
        Size of the pictures in degrees, where the recording does not know it.
    batch_size, device, cache, storage, max_bytes, progress
        As in :func:`neural_fits.activations.activations`.
    **options
        As in :func:`fit_features`: ``splits``, ``rules``, ``ceiling``, ``seed`` ...

    Returns
    -------
    xarray.Dataset
        As :func:`fit_features`, with the model in the attributes.

    Raises
    ------
    ValueError
        If the recording has no pictures, a layer is unknown, or an option is of no use.

    Examples
    --------
    >>> from neural_fits.baselines import pixels
    >>> from neural_fits.recordings import recording_from_arrays
    >>> rng = np.random.default_rng(0)
    >>> pictures = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    >>> rates = pictures[:, None, 3:5, 4] / 255 + 0.1 * rng.standard_normal((40, 5, 2))
    >>> recording = recording_from_arrays(rates, images=pictures, size_deg=8.0)
    >>> table = fit_layers(pixels(input_px=8), recording, regression="ridge", n_bootstrap=50)
    >>> bool(table.score.sel(rule="raw").item() > 0.5)
    True
    """
    features, record = recording_features(
        model,
        recording,
        layers=layers,
        regression=regression,
        reduction=reduction,
        size_deg=size_deg,
        batch_size=batch_size,
        device=device,
        cache=cache,
        storage=storage,
        max_bytes=max_bytes,
        progress=progress,
    )
    table = fit_features(features, recording, regression=regression, progress=progress, **options)
    table.attrs |= record
    return table


def recording_features(
    model,
    recording: Recording,
    *,
    layers: str | Sequence[str] | None = None,
    regression: str | Any = "pls",
    reduction: str | None = None,
    size_deg: float | None = None,
    **options,
) -> tuple[dict[str, np.ndarray], dict]:
    """Features of a model for the pictures of a recording, and what a table says of them.

    Parameters
    ----------
    model, recording, layers, regression, reduction, size_deg
        As in :func:`fit_layers`.
    **options
        As in :func:`neural_fits.activations.activations`.

    Returns
    -------
    features : dict of str to array
        For :func:`fit_features`.
    record : dict
        Attributes of the table.

    Raises
    ------
    ValueError
        If the recording has no pictures, or a layer is unknown.
    """
    model = as_vision_model(model)
    if recording.images is None:
        raise ValueError(f"recording {recording.name} holds no pictures; give it the images that were shown.")
    if reduction is None:
        reduction = f"pool:{GRID}" if isinstance(regression, str) and regression in NEEDS_MAPS else "all"
    size = recording.size_deg if size_deg is None else size_deg
    started = time.perf_counter()
    features = activations(model, recording.images, size_deg=size, layers=layers, reduction=reduction, **options)
    return features, {
        "model": model.name,
        "model_field_deg": model.field_deg,
        "model_input_px": model.input_px,
        "picture_size_deg": size,
        "picture_size_assumed": int(size_deg is not None and size_deg != recording.size_deg),
        "reduction": reduction,
        "seconds_activations": round(time.perf_counter() - started, 2),
    }


def choose_layer(
    features: Mapping[str, np.ndarray | torch.Tensor],
    responses: np.ndarray,
    *,
    regression: str | Any = "pls",
    regression_options: Mapping | None = None,
    n_folds: int = 5,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[str, dict[str, float]]:
    """Choose the layer that best predicts held-out folds of the stimuli it is given, and only of those.

    It is called with the training part of a split; no row of the test part is in its reach.

    Parameters
    ----------
    features : mapping of str to array, (training stimulus, ...)
    responses : ndarray, (training stimulus, neuron)
    regression, regression_options
        As in :func:`fit_features`.
    n_folds : int
        Folds of the training stimuli, of whole groups where there are groups.
    groups : array, (training stimulus,), optional
    seed : int

    Returns
    -------
    layer : str
        With the highest median over neurons of the correlation, averaged over folds; the first of equal ones.
    scores : dict of str to float

    Raises
    ------
    ValueError
        If there are fewer stimuli or groups than folds.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> good, other = rng.standard_normal((40, 5)), rng.standard_normal((40, 5))
    >>> choose_layer({"other": other, "good": good}, good[:, :2] ** 3, regression="ridge")[0]
    'good'
    """
    responses = np.asarray(responses, dtype=np.float64)
    if groups is None:
        folds = SPLITS["kfold"](len(responses), n_folds=n_folds, seed=seed)
    else:
        folds = SPLITS["grouped_kfold"](groups, n_folds=min(n_folds, len(np.unique(groups))), seed=seed)
    regressor = _regressor(regression, regression_options)
    scores = {}
    for layer, X in features.items():
        parts = regressor.cross_predict(
            _features_for(regression, X, layer, len(responses)), responses, folds, groups=groups
        )
        r = [
            np.nanmedian(np.nan_to_num(correlations(part, responses[test])))
            for part, test in zip(parts, folds.test, strict=True)
        ]
        scores[layer] = float(np.mean(r))
    return max(scores, key=lambda layer: scores[layer]), scores


def layer_score(table: xr.Dataset, layer: str, rule: str) -> Score:
    """Score of one layer of a table, with everything that is printed with it.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`fit_layers`, or read back.
    layer, rule : str

    Returns
    -------
    Score

    Raises
    ------
    KeyError
        If the layer is not in the table.

    Examples
    --------
    >>> from neural_fits.recordings import recording_from_arrays
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((30, 4))
    >>> recording = recording_from_arrays(x[:, None] + 0.1 * rng.standard_normal((30, 3, 4)))
    >>> table = fit_features({"x": x}, recording, regression="ridge", n_bootstrap=50)
    >>> score = layer_score(table, "x", "raw")
    >>> score.n_neurons, round(score.value - table.score.sel(layer="x", rule="raw").item(), 6)
    (4, 0.0)
    """
    measured = table.measured.values
    stimulus, split = table.held_out_stimulus.values, table.held_out_split.values
    predicted = table.predicted.sel(layer=layer).values
    if table.attrs["correlate"] == "pooled":
        parts, tests = [predicted], [stimulus]
    else:
        rows = [np.flatnonzero(split == s) for s in range(table.sizes["split"])]
        parts, tests = [predicted[r] for r in rows], [stimulus[r] for r in rows]
    record = json.loads(table.attrs["splits"])
    groups = table[record["by"]].values if record["name"].startswith("grouped") else None
    minimum = table.attrs["min_reliability"]
    return score_by_rules(
        parts,
        measured,
        tests,
        table.reliability.values,
        rules=[rule],
        ceiling=table.attrs["ceiling"],
        min_reliability=None if np.isnan(minimum) else float(minimum),
        n_repeats=table.attrs["n_repeats"],
        groups=groups,
        n_bootstrap=int(table.attrs["n_bootstrap"]),
        confidence=float(table.attrs["confidence"]),
        seed=int(table.attrs["seed"]),
    )[rule]


def write_fit(table: xr.Dataset, path: Path | str) -> None:
    """Write a table as netCDF, at once.

    Parameters
    ----------
    table : xarray.Dataset
        From :func:`fit_layers`.
    path : path

    Examples
    --------
    >>> import tempfile
    >>> from neural_fits.recordings import recording_from_arrays
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((30, 4))
    >>> table = fit_features({"x": x}, recording_from_arrays(x[:, None]), regression="ridge", n_bootstrap=20)
    >>> path = Path(tempfile.mkdtemp()) / "fit.nc"
    >>> write_fit(table, path)
    >>> read_fit(path).equals(table)
    True
    """
    write_dataset(table, path)


def write_dataset(dataset: xr.Dataset, path: Path | str) -> None:
    """Write any dataset as netCDF, at once; its folder is made where it is missing.

    Parameters
    ----------
    dataset : xarray.Dataset
    path : path
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        dataset.to_netcdf(partial, engine="h5netcdf")


def read_fit(path: Path | str) -> xr.Dataset:
    """Read a table that :func:`write_fit` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no table of fits, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a table written by `lcl fit`.")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            table = opened.load()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not readable as netCDF ({error}); write it again with `lcl fit`.") from None
    if "correlation" not in table or table.attrs.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a table of fits of format {FORMAT} (it says {table.attrs.get('format')}); write it again."
        )
    return table


def repeats_text(recording: Recording) -> str:
    """Repeats behind the mean responses: ``"20"``, or ``"24-60"`` where neurons and stimuli differ.

    Parameters
    ----------
    recording : Recording

    Returns
    -------
    str

    Examples
    --------
    >>> from neural_fits.recordings import recording_from_arrays
    >>> responses = np.ones((4, 3, 2))
    >>> responses[0, 2, 1] = np.nan
    >>> repeats_text(recording_from_arrays(responses))
    '2-3'
    """
    counts = np.isfinite(recording.repeats()).sum(1)
    counts = counts[counts > 0]
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low}-{high}"


def _coordinates(recording: Recording) -> dict:
    """Labels of stimuli and neurons, as they are in the recording."""
    return {
        name: values.variable
        for name, values in recording.dataset.coords.items()
        if values.dims in (("stimulus",), ("neuron",))
    }


def _ceiling_options(ceiling: str, options: Mapping | None, seed: int) -> dict:
    return {**({"seed": seed} if ceiling == "spearman_brown" else {}), **(options or {})}


def _regressor(regression: str | Any, options: Mapping | None) -> Any:
    if not isinstance(regression, str):
        if options:
            raise ValueError("regression_options are for a regression given by name; set them on the object instead.")
        return regression
    if regression not in REGRESSIONS:
        raise ValueError(f"regression is {regression!r}; expected one of {', '.join(REGRESSIONS)}.")
    return REGRESSIONS[regression](**(options or {}))


def _features_for(regression, X, layer: str, n_stimuli: int):
    """Features of a layer in the shape that the regression takes."""
    if len(X) != n_stimuli:
        raise ValueError(f"layer {layer} has {len(X)} rows; expected one for each of {n_stimuli} stimuli.")
    maps = isinstance(regression, str) and regression in NEEDS_MAPS
    if maps and X.ndim != 4:
        raise ValueError(
            f"layer {layer} has shape {tuple(X.shape)}; {regression} needs maps (stimulus, channel, row, column): "
            "choose a convolutional layer or another regression."
        )
    return X if maps or X.ndim == 2 else X.reshape(len(X), -1)
