"""Training of a recognition network and its twins: one recipe for all.

What a step sees (images, crops, flips, mixing) depends on the seed and the number of the step alone, so twins see the
same pictures in the same order, and an interrupted run goes on as if it had not been. A run folder is laid out as that
of ``lcl train``; the stages of its front end are in ``front/``, a folder that :func:`~lcl.checkpoint.load` reads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lcl import distributed
from lcl.analysis import calibrate
from lcl.labelled_images import (
    CropParameters,
    LabelledImages,
    central_squares,
    cut,
    draw_crops,
    photometric,
    train_and_validation,
)
from lcl.objective import average, barlow_twins, decorrelation_weight, projector
from lcl.optimizers import learning_rate_factor, optimizer
from lcl.receptive_field import map_side
from lcl.recognition import FRONT_ENDS, RecognitionNet, build_front_end, check_frozen, net_of, parse_front_end
from lcl.recognition_config import RecognitionConfig
from lcl.recognition_objective import l2_attack, labelled_loss, neighbours
from lcl.recognition_run import load_state, save_state, write_config, write_results
from lcl.stages import StageChain
from lcl.train import (
    Interrupted,
    Prefetch,
    choose_device,
    counter_generator,
    log_file,
    plan,
    refuse_to_overwrite,
    shuffled_batch,
    stop_requests,
    trim_metrics,
)

#: Images that are drawn to set the normalisation of random and fixed filters.
CALIBRATION_BATCHES = 8


def open_data(
    config: RecognitionConfig, *, channels: int, progress: bool = False
) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation images of a configuration.

    Parameters
    ----------
    config : RecognitionConfig
    channels : {1, 3}
    progress : bool
        Show progress bars.

    Returns
    -------
    train, validation : LabelledImages

    Raises
    ------
    FileNotFoundError, ValueError
        If they cannot be used.
    """
    if not config.images:
        raise ValueError("there are no images; give --images FOLDER, FILE.h5 or DIR/*.tar, with labels.")
    return train_and_validation(
        config.images,
        config.validation_images,
        held_out=config.held_out,
        seed=0,  # twins of any seed are judged on the same images
        channels=channels,
        short_side_px=config.short_side_px,
        min_side_px=min(16, config.short_side_px),
        memory_cap_bytes=int(config.memory_cap_gb * 2**30),
        store_cap_bytes=int(config.store_cap_gb * 2**30),
        store_dir=config.store_dir or None,
        progress=progress,
    )


class Batches:
    """Crops of training images by number of the step; each process cuts its own share of the batch.

    Parameters
    ----------
    images : LabelledImages
    config : RecognitionConfig
    device : torch.device
    """

    def __init__(self, images: LabelledImages, config: RecognitionConfig, device: torch.device) -> None:
        processes = distributed.world_size()
        share = config.batch // processes
        if config.batch % processes or (config.mixup > 0 and share % 2):
            raise ValueError(
                f"batch is {config.batch} for {processes} processes; expected a multiple of {processes}, and an even "
                "number for each with mixup."
            )
        self.per_epoch = len(images) // config.batch
        if not self.per_epoch:
            raise ValueError(f"batch is {config.batch}, but there are {len(images)} training images; lower --batch.")
        self.images, self.config, self.device = images, config, device
        self.own = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
        self.pool = ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) - 1)))

    def __call__(self, step: int, view: int = 0) -> tuple[Tensor, Tensor, CropParameters, float]:
        """Crops (uint8), labels, photometric parameters and the share of the picture in its mixture."""
        seed = self.config.seed
        index = shuffled_batch(len(self.images), self.config.batch, seed=seed, step=step)
        sizes = self.images.store.sizes[index]
        generator = counter_generator(seed, 1 + view, step)
        config = self.config
        drawn = draw_crops(
            sizes, generator, least_area=config.crop_area, aspect=config.crop_aspect, jitter=config.jitter
        )
        rng = np.random.default_rng([seed, 3, step])
        share = float(rng.beta(config.mixup, config.mixup)) if config.mixup > 0 else 1.0
        drawn = CropParameters(*(each[self.own] for each in drawn))
        crops = cut(self.images.store, index[self.own], drawn.box, config.size_px, self.pool)
        if self.device.type == "cuda":
            crops = crops.pin_memory()
        labels = torch.from_numpy(self.images.labels[index[self.own]])
        return crops, labels, drawn, share

    def single(self, step: int) -> Tensor:
        """Pictures of a step as patches with one view each, (B, 1, C, H, W)."""
        crops, _, drawn, _ = self(step)
        return self.pictures(crops, drawn)[:, None]

    def pictures(self, crops: Tensor, drawn: CropParameters) -> Tensor:
        """Pictures in [0, 1] on the device."""
        drawn = CropParameters(*(each.to(self.device, non_blocking=True) for each in drawn))
        pictures = photometric(crops.to(self.device, non_blocking=True), drawn)
        return pictures.contiguous(memory_format=torch.channels_last)


@dataclass
class Phase:
    """A part of training: its steps, what it changes, and its loss.

    Attributes
    ----------
    steps : int
    optimiser : torch.optim.Optimizer
    draw : callable
        From the number of a step to its batch.
    loss : callable
        From the batch to this process's share of the loss.
    """

    steps: int
    optimiser: torch.optim.Optimizer
    draw: Callable[[int], Any]
    loss: Callable[[Any], Tensor]


@contextmanager
def randomness(seed: int, position: int, device: torch.device) -> Iterator[None]:
    """Random numbers of dropout that depend on the seed, the step and the process alone."""
    number = int(np.random.SeedSequence([seed, 4, position, distributed.rank()]).generate_state(1, np.uint64)[0]) >> 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        yield


def make_phases(
    net: RecognitionNet, config: RecognitionConfig, batches: Batches, autocast: Any
) -> tuple[dict[str, Phase], nn.Module]:
    """The phases of a twin, in order: for ``selfsup`` one without labels, then the one with labels for all.

    Returns
    -------
    phases : dict of str to Phase
    projection : Module
        Between maps and loss of the first phase; empty for the others.
    """
    kind = FRONT_ENDS[parse_front_end(config.front_end)[0]]
    frozen = kind.frozen_stages(net.front.names)
    settings = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    phases: dict[str, Phase] = {}
    projection: nn.Module = nn.Identity()
    if kind.pretrained:
        projection = projector(
            "mlp", net.front[net.front.names[-1]].out_channels, config.pretrain_width, counter_generator(config.seed, 5)
        ).to(batches.device)
        weight = decorrelation_weight(config.pretrain_balance, config.pretrain_width)

        def unlabelled(batch: Any) -> Tensor:
            pair = torch.cat([batches.pictures(crops, drawn) for crops, _, drawn, _ in batch])
            with autocast:
                features = projection(average(net.maps(pair)))
            first, second = features.chunk(2)
            return barlow_twins(first, second, weight=weight).total / distributed.world_size()

        phases["pretrain"] = Phase(
            config.pretrain_epochs * batches.per_epoch,
            optimizer(config.optimizer, [*net.front.parameters(), *projection.parameters()], **settings),
            lambda step: (batches(step), batches(step, view=1)),
            unlabelled,
        )

    def labelled(batch: Any) -> Tensor:
        crops, labels, drawn, share = batch
        pictures, labels = batches.pictures(crops, drawn), labels.to(batches.device)
        if share < 1:
            pictures = share * pictures + (1 - share) * neighbours(pictures)
        with autocast:
            if kind.attacked:
                net.eval()
                pictures = l2_attack(
                    net,
                    pictures,
                    labels,
                    epsilon=config.epsilon,
                    steps=config.attack_steps,
                    step_size=config.attack_step_size,
                )
                net.train()
            logits = net(pictures)
        return labelled_loss(logits, labels, share=share, smoothing=config.label_smoothing, batch=config.batch)

    free = [parameter for name in net.front.names if name not in frozen for parameter in net.front[name].parameters()]
    phases["train"] = Phase(
        config.epochs * batches.per_epoch,
        optimizer(config.optimizer, [*free, *net.head.parameters()], **settings),
        batches,
        labelled,
    )
    return phases, projection


def train_recognition(
    config: RecognitionConfig,
    run: Path,
    *,
    data: tuple[LabelledImages, LabelledImages] | None = None,
    resume: bool = False,
    preset: str = "",
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> RecognitionNet:
    """Train a recognition network and write its run folder.

    Parameters
    ----------
    config : RecognitionConfig
    run : Path
        Run folder; made if it does not exist.
    data : (LabelledImages, LabelledImages), optional
        Training and validation images; those that the configuration names without it.
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
    RecognitionNet
        In evaluation mode.

    Raises
    ------
    FileExistsError
        If ``run`` holds something already and ``resume`` is false.
    FileNotFoundError, ValueError
        If the images or the front end cannot be used, or there is nothing to resume.
    FloatingPointError
        If a loss is not finite.
    RuntimeError
        If a frozen tensor has changed.
    Interrupted
        After SIGINT or SIGTERM; the state is saved first.
    """
    device, main = choose_device(config.device), distributed.rank() == 0
    say = say if main else (lambda line: None)
    if not resume:
        refuse_to_overwrite(run, "lcl recognize train")
    kind, source = parse_front_end(config.front_end)
    front = build_front_end(kind, source, seed=config.seed)
    check_size(front, config)
    images, validation = data or open_data(config, channels=front.in_channels, progress=progress and main)
    net = net_of(config.as_dict(), front.spec, images.classes)
    net.front.load_state_dict(front.state_dict())
    net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = Batches(images, config, device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    if FRONT_ENDS[kind].weights != "run" and not resume:
        calibrate(net.front, dict.fromkeys(net.front.names, batches.single), CALIBRATION_BATCHES)
    phases, projection = make_phases(net, config, batches, autocast)
    optimisers = {name: phase.optimiser for name, phase in phases.items()}
    order = plan(list(phases), tuple(phase.steps for phase in phases.values()), "sequential")

    position, seconds, digests = 0, 0.0, {}
    if resume:
        position, seconds, digests = load_state(run / "state.safetensors", net, projection, optimisers)
    elif main:
        run.mkdir(parents=True, exist_ok=True)
        write_config(run, config, net, images, validation, preset)
        save_state(run / "state.safetensors", net, projection, optimisers, 0, 0.0, {})
    distributed.barrier()
    if resume and main:
        trim_metrics(run / "metrics.jsonl", position)
    say(f"{config.front_end}: {FRONT_ENDS[kind].about}; {len(images)} training and {len(validation)} validation images")

    started, warmup = time.perf_counter() - seconds, round(config.warmup_epochs * batches.per_epoch)
    frozen = FRONT_ENDS[kind].frozen_stages(net.front.names)
    with (
        log_file(run, tensorboard=config.tensorboard, main=main) as log,
        stop_requests() as stop,
        Prefetch(lambda name, step: phases[name].draw(step), order, position) as prefetch,
        tqdm(total=len(order), initial=position, desc=config.front_end, disable=not (progress and main)) as bar,
    ):
        for position in range(position, len(order)):  # noqa: B020 (goes on from the saved position)
            name, step = order[position]
            phase = phases[name]
            if name == "train" and net.frozen != frozen:
                net.freeze(frozen)
                digests = digests or net.frozen_digests()
            rate = config.learning_rate * learning_rate_factor(step, phase.steps, warmup)
            net.train()
            with randomness(config.seed, position, device):
                loss = phase.loss(prefetch.get(position))
            check = device.type == "cpu" or step % config.log_every == 0
            descend(loss, phase.optimiser, rate, name=name, step=step, check=check)

            done, stopping = position + 1, stop.requested(device)
            bar.update(1)
            if step % config.log_every == 0 or step + 1 == phase.steps:
                total = float(distributed.sum_over_processes(loss.detach()))
                log({"stage": name, "step": step, "position": position, "loss": total, "learning_rate": rate})
                bar.set_postfix_str(f"{name} loss {total:.3g}", refresh=False)
            if (step + 1) % batches.per_epoch == 0 or stopping:
                check_frozen(net, digests)
                if (step + 1) % batches.per_epoch == 0 and name == "train":
                    found = validate(net, validation, config, device)
                    log({"stage": "epoch", "step": step, "position": position, **found})
                if main:
                    spent = time.perf_counter() - started
                    save_state(run / "state.safetensors", net, projection, optimisers, done, spent, digests)
                distributed.barrier()
            if stopping and done < len(order):
                raise Interrupted(run, stopping, "lcl recognize train")
    found = validate(net, validation, config, device)
    if main:
        write_results(run, config, net, {"seconds": time.perf_counter() - started, **found})
    distributed.barrier()
    return net.eval()


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, rate: float, *, name: str, step: int, check: bool) -> None:
    """One step of an optimiser against the gradient of a loss, of which every process has its share.

    Parameters
    ----------
    loss : Tensor
        This process's share; the shares sum to the loss of the whole batch.
    optimiser : torch.optim.Optimizer
        From :func:`lcl.optimizers.optimizer`.
    rate : float
        Learning rate of this step.
    name : str
        Of what is trained, for the error.
    step : int
    check : bool
        Stop on a loss that is not finite, before it reaches the weights.

    Raises
    ------
    FloatingPointError
        If the loss is NaN or infinite.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate * group["relative"]
    optimiser.zero_grad()
    loss.backward()
    distributed.sum_gradients(p for group in optimiser.param_groups for p in group["params"])
    if check:
        check_finite(loss, name, step)
    optimiser.step()


def check_size(front: StageChain, config: RecognitionConfig) -> None:
    """Refuse pictures that leave the head of AlexNet less than the 3 x 3 map it pools over."""
    side = map_side(front.windows(), config.size_px)
    if side < 3:
        raise ValueError(
            f"size_px is {config.size_px}, of which the front end leaves {side} units; give a larger --size-px."
        )


@torch.no_grad()
def validate(
    net: RecognitionNet, images: LabelledImages, config: RecognitionConfig, device: torch.device, chunk: int = 256
) -> dict[str, float]:
    """Accuracy and cross-entropy on central squares; every process takes its share of the images.

    Parameters
    ----------
    net : RecognitionNet
        Left in evaluation mode.
    images : LabelledImages
    config : RecognitionConfig
        Gives size and precision.
    device : torch.device
    chunk : int
        Images at once.

    Returns
    -------
    dict of str to float
        ``accuracy`` and ``validation_loss``.
    """
    net.eval()
    sums = torch.zeros(2, dtype=torch.float64)
    own = np.arange(distributed.rank(), len(images), distributed.world_size())
    for start in range(0, len(own), chunk):
        index = own[start : start + chunk]
        logits = logits_of(net, central_squares(images, config.size_px, index), config.precision, device)
        labels = torch.from_numpy(images.labels[index])
        sums[0] += (logits.argmax(1) == labels).sum()
        sums[1] += F.cross_entropy(logits, labels, reduction="sum")
    accuracy, loss = (distributed.sum_over_processes(sums.float().to(device)) / len(images)).tolist()
    return {"accuracy": accuracy, "validation_loss": loss}


@torch.no_grad()
def logits_of(net: nn.Module, pictures: Tensor, precision: str, device: torch.device) -> Tensor:
    """A network's output, float32 on the CPU, for pictures (B, C, H, W): uint8, or floating point in [0, 1]."""
    pictures = pictures.to(device).float() / (255 if pictures.dtype == torch.uint8 else 1)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return net(pictures.contiguous(memory_format=torch.channels_last)).float().cpu()


def check_finite(loss: Tensor, name: str, step: int) -> None:
    """Stop on a loss that is not finite, before it reaches the weights.

    Raises
    ------
    FloatingPointError
        If the loss is NaN or infinite.
    """
    if not bool(torch.isfinite(loss)):
        raise FloatingPointError(
            f"The loss of {name} is {float(loss.detach())} at step {step}; lower --learning-rate, or use --precision "
            "float32. The last saved state is from before."
        )
