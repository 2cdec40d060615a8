"""What a trained model learned: the numbers of a run's summary and the arrays its figures are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lcl.checkpoint import FORMAT, provenance, write_json, write_tensors
from lcl.config import Config
from lcl.images import ImageStore
from lcl.objective import decorrelation_weight
from lcl.stages import BatchNorm, StageChain
from lcl.train import Stream, build, counter_generator, geometry, local_loss, split
from lcl.views import choose_places
from neural_fits.gabor import GABOR_R2, TUNED_SELECTIVITY, fit_gabor, grating_tuning, is_gabor


@torch.no_grad()
def calibrate(model: StageChain, streams: Mapping[str, Callable[[int], Tensor]], batches: int = 4) -> None:
    """Set the running statistics of every batch normalisation to those of some batches, from the bottom up.

    An untrained network that is to be compared needs statistics of its own drives; without this its normalisation
    would be the identity.

    Parameters
    ----------
    model : StageChain
        Changed in place.
    streams : mapping of str to callable
        For every stage, pairs of patches (B, 2, C, P, P) by number of the batch.
    batches : int
        Batches to average over.
    """
    for name in model.names:
        norm = model[name].norm
        if not isinstance(norm, BatchNorm):
            continue
        norm.reset_running_stats()
        momentum, norm.momentum = norm.momentum, None  # torch then takes the plain average
        model.eval()
        norm.train()
        for step in range(batches):
            images = streams[name](step).flatten(0, 1)
            model[name](model.stage_input(images, name, valid=True), valid=True)
        norm.momentum = momentum
    model.eval()


@torch.no_grad()
def held_out_loss(
    model: StageChain, name: str, stream: Stream, *, readout: str, weight: float, batches: int = 8
) -> tuple[dict[str, float], Tensor]:
    """Local loss of a stage on patches that it has not seen, without a projector.

    Parameters
    ----------
    model : StageChain
        In evaluation mode.
    name : str
        Stage.
    stream : Stream
        Of held-out images.
    readout : str
        As in training.
    weight : float
        Of the decorrelation term.
    batches : int
        Batches to average over.

    Returns
    -------
    numbers : dict of str to float
        "loss", its standard deviation over batches "loss_sd", "similarity", "decorrelation", and "shared_dimension":
        ``(sum_i C_ii)^2 / sum_ij C_ij^2``, the effective number of independent features that survive the deformation
        (d if C is the identity, 1 if all features are the same). It can be compared between weights; the loss cannot.
    correlation : Tensor, shape (d, d)
        Mean cross-correlation.
    """
    terms, total = [], None
    for step in range(batches):
        loss = local_loss(model, name, stream(step), readout=readout, weight=weight)
        terms.append([float(value) for value in loss[:3]])
        total = loss.correlation if total is None else total + loss.correlation
    mean, spread = np.mean(terms, axis=0), np.std(terms, axis=0, ddof=min(1, batches - 1))
    numbers = dict(zip(("loss", "similarity", "decorrelation"), mean.tolist(), strict=True))
    assert total is not None
    mean_c = total / batches
    shared = float(mean_c.trace() ** 2 / mean_c.square().sum().clamp(min=1e-12))
    return {**numbers, "loss_sd": float(spread[0]), "shared_dimension": shared}, mean_c


@torch.no_grad()
def driving_patches(
    model: StageChain,
    name: str,
    store: ImageStore,
    *,
    units: int = 16,
    top: int = 8,
    candidates: int = 4096,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Image patches that drive a stage's units most, each exactly as large as the receptive field.

    Of two patches of one image that overlap by more than half along both axes only the better one is taken.

    Parameters
    ----------
    model : StageChain
        In evaluation mode.
    name : str
        Stage.
    store : ImageStore
    units : int
        The first so many units.
    top : int
        Patches per unit.
    candidates : int
        Random patches that are tried.
    generator : torch.Generator
        On the CPU; places of the candidates.
    device : torch.device

    Returns
    -------
    Tensor, shape (unit, top, C, R, R), uint8
    """
    size = model.receptive_field(name).size_px
    places = choose_places(store.sizes, candidates, size, generator)
    pixels = torch.from_numpy(store.crops(places.image, places.top, places.left, size)).permute(0, 3, 1, 2)
    responses = []
    for batch in pixels.split(256):
        maps = model.stage_input(batch.to(device).float() / 255, name, valid=True)
        responses.append(model[name](maps, valid=True)[:, :units, 0, 0].float().cpu())
    order = torch.cat(responses).argsort(dim=0, descending=True, stable=True)
    where = np.stack([places.image, places.top, places.left], 1)
    chosen = []
    for ranked in order.T.numpy():
        taken: list[int] = []
        for candidate in ranked:
            here = where[candidate]
            near = [
                np.abs(here[1:] - where[other, 1:]).max() <= size / 2 for other in taken if where[other, 0] == here[0]
            ]
            if not any(near):
                taken.append(int(candidate))
            if len(taken) == top:
                break
        taken += [int(c) for c in ranked if int(c) not in taken][: top - len(taken)]
        chosen.append(pixels[taken])
    return torch.stack(chosen)


def filter_numbers(filters: np.ndarray, pixels_per_degree: float) -> dict[str, float]:
    """Numbers that describe a bank of first-stage filters.

    Parameters
    ----------
    filters : ndarray, shape (filter, channel, height, width)
    pixels_per_degree : float

    Returns
    -------
    dict of str to float
        Fractions that a Gabor function fits, that are tuned, and both (:func:`neural_fits.gabor.is_gabor`); of the last
        those that prefer a grating of at least one cycle per filter, which a single step edge does not; and medians.

    Examples
    --------
    >>> numbers = filter_numbers(np.random.default_rng(0).normal(size=(8, 3, 11, 11)), 28.0)
    >>> numbers["gabor_fraction"]
    0.0
    """
    fit, tuning = fit_gabor(filters), grating_tuning(filters)
    both = is_gabor(fit, tuning)
    one_cycle = both & (tuning.frequency_cpp >= 1 / max(filters.shape[2:]))
    numbers = {
        "gabor_fraction": float(both.mean()),
        "gabor_one_cycle_fraction": float(one_cycle.mean()),
        "gabor_fitted_fraction": float((fit.r2 >= GABOR_R2).mean()),
        "orientation_tuned_fraction": float((tuning.selectivity >= TUNED_SELECTIVITY).mean()),
        "gabor_r2_median": float(np.median(fit.r2)),
    }
    if both.any():
        numbers["preferred_frequency_median_cpd"] = float(np.median(tuning.frequency_cpp[both]) * pixels_per_degree)
    return numbers


def analyse(config: Config, model: StageChain, store: ImageStore, device: torch.device) -> tuple[dict[str, Any], dict]:
    """Numbers and arrays of a trained model, against the same network at initialisation.

    Parameters
    ----------
    config : Config
        That the model was trained with.
    model : StageChain
        In evaluation mode, on ``device``.
    store : ImageStore
        All images of the run.
    device : torch.device

    Returns
    -------
    summary : dict
        Plain values, by stage.
    arrays : dict of str to Tensor
        What the figures are drawn from.
    """
    train_images, held_images = split(len(store), config.held_out, config.seed)
    initial = build(config).to(device)
    streams: dict[str, Stream] = {}
    held: dict[str, Stream] = {}
    for number, name in enumerate(model.names):
        shape = geometry(model, config, name)
        settings = {"batch": config.per_stage("batch")[number], "device": device}
        seen, unseen = store.subset(train_images), store.subset(held_images)
        streams[name] = Stream(seen, shape, config.deformation, seeds=(config.seed, number, 2), **settings)
        held[name] = Stream(unseen, shape, config.deformation, seeds=(config.seed, number, 3), **settings)
    calibrate(initial, streams)

    stages: dict[str, dict[str, Any]] = {}
    arrays: dict[str, Tensor] = {}
    for number, name in enumerate(model.names):
        shape, field = geometry(model, config, name), model.receptive_field(name)
        balance = config.per_stage("balance")[number]
        weight = decorrelation_weight(balance, model[name].out_channels)
        numbers: dict[str, Any] = {
            "receptive_field_px": field.size_px,
            "receptive_field_deg": field.size_deg(config.pixels_per_degree),
            "patch_px": shape.side_px,
            "steps": config.per_stage("steps")[number],
            "decorrelation_weight": weight,
        }
        for network, which in ((model, ""), (initial, "_at_init")):
            measured, correlation = held_out_loss(
                network, name, held[name], readout=config.per_stage("readout")[number], weight=weight
            )
            numbers |= {f"held_out_{key}{which}": value for key, value in measured.items()}
            if not which:
                numbers["constant_features"] = int((correlation.diagonal() == 0).sum())
                arrays[f"correlation/{name}"] = correlation.cpu()
        if number == 0:
            for which, network in (("trained", model), ("initial", initial)):
                filters = network[name].conv.weight.detach().float().cpu().contiguous()
                arrays[f"filters/{which}"] = filters
                described = filter_numbers(filters.numpy(), config.pixels_per_degree)
                numbers |= {key + ("" if which == "trained" else "_at_init"): value for key, value in described.items()}
        else:
            generator = counter_generator(config.seed, number, 4)
            arrays[f"driving/{name}"] = driving_patches(model, name, store, generator=generator, device=device)
        pairs = streams[name](0)  # in the order of the images: eight from all over the batch
        arrays[f"views/{name}"] = pairs[:: max(1, len(pairs) // 8)][:8].half().cpu()
        stages[name] = numbers
    return {"stages": stages}, arrays


def write_analysis(
    run: Path, config: Config, model: StageChain, store: ImageStore, device: torch.device, *, seconds: float
) -> dict[str, Any]:
    """Analyse a trained model and write summary.json and analysis.safetensors.

    Parameters
    ----------
    run : Path
    config : Config
    model : StageChain
    store : ImageStore
    device : torch.device
    seconds : float
        Time that training took.

    Returns
    -------
    dict
        The summary.
    """
    summary, arrays = analyse(config, model, store, device)
    train_images, held_images = split(len(store), config.held_out, config.seed)
    summary = {
        "format": FORMAT,
        **summary,
        "seconds": round(seconds, 1),
        "seed": config.seed,
        "images": {"training": len(train_images), "held_out": len(held_images), "left_out": len(store.left_out)},
        "criteria": {"gabor_r2": GABOR_R2, "orientation_selectivity": TUNED_SELECTIVITY},
        **provenance(),
    }
    write_tensors(run / "analysis.safetensors", arrays)
    write_json(run / "summary.json", summary)
    return summary
