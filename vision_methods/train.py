"""The training loop that all comparison methods share.

A method is a learner (:mod:`vision_methods.learner`): it draws batches by the number of the step and computes its loss;
everything else is here, once. A run folder is laid out as that of ``lcl train`` (:mod:`vision_methods.method_run`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lcl import distributed
from lcl.checkpoint import read_training_state, write_training_state
from lcl.labelled_images import LabelledImages, central_squares
from lcl.optimizers import learning_rate_factor, optimizer
from lcl.recognition_train import descend, randomness
from lcl.train import (
    Interrupted,
    Prefetch,
    choose_device,
    log_file,
    plan,
    refuse_to_overwrite,
    stop_requests,
    trim_metrics,
)
from vision_methods.backbones import Backbone
from vision_methods.config import MethodConfig
from vision_methods.learner import Judging, Keeping, Learner
from vision_methods.method_run import write_config, write_results
from vision_methods.methods import METHODS
from vision_methods.probes import classify

#: Pictures at once where a backbone is judged.
CHUNK = 64
#: Pictures that the statistics of an untrained backbone are taken from.
STATISTICS_PICTURES = 512


def train_method(
    name: str,
    config: MethodConfig,
    run: Path,
    *,
    learner: Learner | None = None,
    resume: bool = False,
    preset: str = "",
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Backbone:
    """Train a comparison method and write its run folder.

    Parameters
    ----------
    name : str
        Of :data:`vision_methods.methods.METHODS`.
    config : MethodConfig
        Of the method's class.
    run : Path
        Run folder; made if it does not exist.
    learner : Learner, optional
        On the configuration's device; the one that the method builds without it.
    resume : bool
        Go on from the state in ``run``.
    preset : str
        Name kept in config.json.
    progress : bool
        Show progress bars.
    say : callable
        Takes lines of text for the user.

    Returns
    -------
    Backbone
        The trained network, in evaluation mode.

    Raises
    ------
    FileExistsError
        If ``run`` holds something already and ``resume`` is false.
    FileNotFoundError, ValueError
        If the method is unknown, the images cannot be used, or there is nothing to resume.
    FloatingPointError
        If a loss is not finite.
    Interrupted
        After SIGINT or SIGTERM; the state is saved first.
    """
    if name not in METHODS:
        raise ValueError(f"method is {name!r}; expected one of {', '.join(METHODS)}.")
    device, main, command = choose_device(config.device), distributed.rank() == 0, f"lcl train-method {name}"
    say = say if main else (lambda line: None)
    if not resume:
        refuse_to_overwrite(run, command)
    learner = learner or METHODS[name].build(config, device, progress=progress)
    assert isinstance(learner, nn.Module)
    optimiser = optimizer(
        config.optimizer,
        learner.online.parameters(),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    steps = config.epochs * learner.steps_per_epoch
    warmup = round(config.warmup_epochs * learner.steps_per_epoch)
    order = plan([name], (steps,), "sequential")
    state = run / "state.safetensors"

    position, seconds = 0, 0.0
    if resume:
        position, seconds, _ = read_training_state(state, {"learner": learner}, {"": optimiser})
    elif main:
        run.mkdir(parents=True, exist_ok=True)
        write_config(run, name, config, learner, preset)
        write_training_state(state, {"learner": learner}, {"": optimiser}, position=0, seconds=0.0)
    distributed.barrier()
    if resume and main:
        trim_metrics(run / "metrics.jsonl", position or -1)
    say(f"{name}: {METHODS[name].about}\n{learner.about_data}")

    started, saved = time.perf_counter() - seconds, position
    with (
        log_file(run, tensorboard=config.tensorboard, main=main) as log,
        stop_requests() as stop,
        Prefetch(lambda _, step: learner.draw(step), order, position) as prefetch,
        tqdm(total=steps, initial=position, desc=name, disable=not (progress and main)) as bar,
    ):
        if position == 0:
            untrained = learner.backbone
            if learner.labelled is not None:
                untrained = with_statistics(untrained, learner.labelled[0], size_px=config.size_px, device=device)
            log({"stage": "epoch", "epoch": 0, "step": 0, "position": -1, **judge(learner, untrained, config, device)})
        for step in range(position, steps):
            rate = config.learning_rate * learning_rate_factor(step, steps, warmup, from_zero=True)
            learner.train()
            with randomness(config.seed, step, device):
                loss, numbers = learner.loss(prefetch.get(step))
            check = device.type == "cpu" or step % config.log_every == 0
            descend(loss, optimiser, rate, name=name, step=step, check=check)
            learner.after_step(step, steps)

            done, stopping = step + 1, stop.requested(device)
            bar.update(1)
            if step % config.log_every == 0 or done == steps:
                shares = {"loss": loss, **numbers}
                total = distributed.sum_over_processes(torch.stack([v.detach().float() for v in shares.values()]))
                line = dict(zip(shares, total.tolist(), strict=True))
                log({"stage": name, "step": step, "position": step, "learning_rate": rate, **line})
                bar.set_postfix_str(f"loss {line['loss']:.3g}", refresh=False)
            epoch, rest = divmod(done, learner.steps_per_epoch)
            if rest == 0 and (done == steps or (config.judge_every and epoch % config.judge_every == 0)):
                found = judge(learner, learner.backbone, config, device)
                log({"stage": "epoch", "epoch": epoch, "step": step, "position": step, **found})
            if done - saved >= config.save_every or done == steps or stopping:
                if main:
                    spent = time.perf_counter() - started
                    write_training_state(state, {"learner": learner}, {"": optimiser}, position=done, seconds=spent)
                distributed.barrier()
                saved = done
            if stopping and done < steps:
                raise Interrupted(run, stopping, command)
    if main:
        if isinstance(learner, Keeping):
            learner.write_besides(run)
        write_results(run, learner.backbone, seconds=time.perf_counter() - started)
    distributed.barrier()
    return learner.backbone.eval()


def judge(learner: Learner, backbone: Backbone, config: MethodConfig, device: torch.device) -> dict[str, float]:
    """Accuracy of the nearest neighbours among pictures with labels, by the layer that the method reads.

    Every process takes its share of the pictures.

    Parameters
    ----------
    learner : Learner
        Has the pictures.
    backbone : Backbone
        Left in evaluation mode.
    config : MethodConfig
    device : torch.device

    Returns
    -------
    dict of str to float
        ``neighbour_accuracy``; nothing where there are no labels, or ``judge_every`` is 0. The learner's own numbers
        where it has a measure of its own.
    """
    if config.judge_every and isinstance(learner, Judging):
        return learner.judge()
    if learner.labelled is None or not config.judge_every:
        return {}
    layer, sides = config.layer or backbone.layers[-1], []
    for images in learner.labelled:
        chosen = np.random.default_rng(0).permutation(len(images))[: config.judge_most]
        chosen = np.sort(chosen[distributed.rank() :: distributed.world_size()])
        features = mean_responses(
            backbone,
            images,
            chosen,
            layers=[layer],
            size_px=config.size_px,
            device=device,
            precision=config.precision,
        )
        both = (features[layer].to(device), torch.from_numpy(images.labels[chosen]).to(device))
        sides.append([distributed.gather_over_processes(each).cpu().numpy() for each in both])
    (references, known), (judged, labels) = sides
    return {"neighbour_accuracy": classify(references, known, judged, labels, probe="neighbours").accuracy}


@torch.no_grad()
def mean_responses(
    backbone: Backbone,
    images: LabelledImages,
    indices: np.ndarray,
    *,
    layers: Sequence[str],
    size_px: int,
    device: torch.device,
    precision: str = "float32",
) -> dict[str, Tensor]:
    """Responses of layers to central squares of pictures, averaged over the maps.

    Parameters
    ----------
    backbone : Backbone
        Left in evaluation mode.
    images : LabelledImages
    indices : array of int, (picture,)
    layers : sequence of str
    size_px : int
        Side that the squares are scaled to.
    device : torch.device
    precision : {"float32", "bf16"}

    Returns
    -------
    dict of str to Tensor, (picture, channel)
        float32 on the CPU.
    """
    backbone.eval()
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for start in range(0, len(indices), CHUNK):
        pictures = central_squares(images, size_px, indices[start : start + CHUNK]).to(device).float() / 255
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            maps = backbone(pictures.contiguous(memory_format=torch.channels_last))
        for layer in layers:
            found[layer].append(maps[layer].float().mean((2, 3)).cpu())
    return {layer: torch.cat(parts) for layer, parts in found.items()}


@torch.no_grad()
def with_statistics(
    backbone: Backbone, images: LabelledImages, *, size_px: int, device: torch.device, seed: int = 0
) -> Backbone:
    """Copy of a backbone whose batch norms have the statistics of some pictures, as an untrained network has none.

    To be called on every process: their batch norms have the statistics of all.

    Parameters
    ----------
    backbone : Backbone
    images : LabelledImages
        At most :data:`STATISTICS_PICTURES` of them are seen.
    size_px : int
    device : torch.device
    seed : int
        Of their choice.

    Returns
    -------
    Backbone
        In evaluation mode.
    """
    twin = copy.deepcopy(backbone).train()
    norms = [module for module in twin.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
    chosen = np.random.default_rng(seed).permutation(len(images))[:STATISTICS_PICTURES]
    for part in np.array_split(chosen, -(-len(chosen) // CHUNK)):
        own = part[distributed.rank() :: distributed.world_size()]
        twin(central_squares(images, size_px, own).to(device).float() / 255)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return twin.eval()
