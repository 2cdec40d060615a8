"""Layer-by-layer training.

Every stage has its own stream of patches, deformed in proportion to its own receptive field and passed through the
stages below, which are not changed by it. A step draws pairs of views, computes the stage's local loss and updates the
stage's own weights; :func:`train` shows it on one screen. What a step sees depends on the seed, the stage and the
number of the step alone, so a run that was interrupted goes on exactly as if it had not been.
"""

from __future__ import annotations

import json
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lcl import distributed
from lcl.checkpoint import (
    FORMAT,
    command_line,
    provenance,
    read_json,
    read_training_state,
    write_json,
    write_tensors,
    write_training_state,
)
from lcl.config import Config
from lcl.images import ImageStore, open_images
from lcl.objective import READOUTS, Loss, barlow_twins, decorrelation_weight, projector
from lcl.optimizers import learning_rate_factor, optimizer
from lcl.receptive_field import map_side, patch_side
from lcl.stages import Stage, StageChain
from lcl.views import (
    Deformation,
    PixelDeformation,
    ViewParameters,
    choose_places,
    draw,
    in_pixels,
    noise_table,
    reference_px,
    region_side,
    views,
)


class CollapseWarning(UserWarning):
    """Features of a stage that carry nothing: constant ones, or copies of each other."""


class Interrupted(Exception):
    """Training was asked to stop by a signal; its state is saved."""

    def __init__(self, run: Path, signal_number: int, command: str = "lcl train") -> None:
        super().__init__(f"Stopped; everything is saved. Go on with: {command} --resume {run}")
        self.signal_number = signal_number


class Geometry(NamedTuple):
    """What one stage's patches look like.

    Attributes
    ----------
    size_px : int
        Receptive field of the stage.
    side_px : int
        Side of the patch.
    region_px : int
        Side of the source region around it.
    amplitude : PixelDeformation
        Largest deformations.
    """

    size_px: int
    side_px: int
    region_px: int
    amplitude: PixelDeformation


def build(config: Config) -> StageChain:
    """Model of a configuration with its initial weights, which depend on the seed alone.

    Parameters
    ----------
    config : Config

    Returns
    -------
    StageChain
        Stages V1, V2, stage3, stage4, ...

    Examples
    --------
    >>> three = Config(channels=(8, 16, 32), kernels=(5, 3, 3), strides=(1,), paddings=(2, 1, 1), steps=(1,),
    ...     learning_rate=(1e-3,), balance=(3.0,))
    >>> build(three).names
    ['V1', 'V2', 'stage3']
    """
    generator = torch.Generator().manual_seed(config.seed)
    kernels, strides, paddings, pools = (config.per_stage(n) for n in ("kernels", "strides", "paddings", "pools"))
    stages: dict[str, Stage] = {}
    below = config.in_channels
    for i, channels in enumerate(config.channels):
        stage = Stage(
            below,
            channels,
            kernel=kernels[i],
            stride=strides[i],
            padding=paddings[i],
            norm=config.norm,
            pool=pools[i],
            simple_complex=config.simple_complex and i == 0,
            generator=generator,
        )
        stages[f"V{i + 1}" if i < 2 else f"stage{i + 1}"] = stage
        below = stage.out_channels
    return StageChain(stages, pixels_per_degree=config.pixels_per_degree)


def geometry(model: StageChain, config: Config, name: str) -> Geometry:
    """Patch, source region and deformations of a stage.

    Parameters
    ----------
    model : StageChain
    config : Config
    name : str
        Stage.

    Returns
    -------
    Geometry

    Examples
    --------
    >>> config = Config(patch_ratio=1.5)
    >>> [geometry(build(config), config, name).side_px for name in ("V1", "V2")]
    [29, 101]
    """
    sizes = [model.receptive_field(each).size_px for each in model.names]
    number = model.names.index(name)
    size = sizes[number]
    if config.patches.startswith("fixed:"):
        side = round(reference_px(config.patches, sizes, number))
    else:
        side = patch_side(int(reference_px(config.patches, sizes, number)), config.patch_ratio)
    side = max(side, size)
    amplitude = in_pixels(config.deformation, size, reference_px(config.amplitudes, sizes, number))
    return Geometry(size, side, region_side(side, amplitude), amplitude)


def counter_generator(*numbers: int) -> torch.Generator:
    """Generator on the CPU that depends on whole numbers alone (seed, stage, step, purpose).

    Parameters
    ----------
    *numbers : int
        Not negative.

    Returns
    -------
    torch.Generator

    Examples
    --------
    >>> torch.rand((), generator=counter_generator(0, 1)) == torch.rand((), generator=counter_generator(0, 1))
    tensor(True)
    """
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1)


class Stream:
    """Pairs of views for one stage, by number of the step.

    Each process draws the parameters of the whole batch and makes its own share of the views.

    Parameters
    ----------
    store : ImageStore
    shape : Geometry
    deformation : Deformation
        Gives the photometric amplitudes.
    batch : int
        Patches per step over all processes.
    seeds : tuple of int
        Together with the step they decide what is drawn.
    device : torch.device
    """

    def __init__(
        self,
        store: ImageStore,
        shape: Geometry,
        deformation: Deformation,
        *,
        batch: int,
        seeds: tuple[int, ...],
        device: torch.device,
    ) -> None:
        processes = distributed.world_size()
        if batch % processes:
            raise ValueError(f"batch is {batch} for {processes} processes; expected a multiple of {processes}.")
        self.store, self.shape, self.deformation = store, shape, deformation
        self.batch, self.seeds, self.device = batch, seeds, device
        self.share = slice(distributed.rank() * (batch // processes), (distributed.rank() + 1) * (batch // processes))
        self.noise_shape = (batch, 2, store.channels, shape.side_px, shape.side_px)
        self.noise = None
        if deformation.noise > 0:
            table = noise_table(int(np.prod(self.noise_shape)), counter_generator(*seeds, 0))
            self.noise = (table * deformation.noise).to(device)

    def regions(self, step: int) -> tuple[Tensor, ViewParameters]:
        """Source regions (B, C, S, S) uint8 and parameters of a step, on the device."""
        generator = counter_generator(*self.seeds, 1, step)
        places = choose_places(self.store.sizes, self.batch, self.shape.region_px, generator)
        parameters = draw(
            self.batch,
            self.shape.amplitude,
            self.deformation,
            self.shape.side_px,
            generator,
            channels=self.store.channels,
        )
        own = self.share
        pixels = self.store.crops(places.image[own], places.top[own], places.left[own], self.shape.region_px)
        regions = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        if self.device.type == "cuda":
            regions = regions.pin_memory()
        return regions.to(self.device, non_blocking=True), parameters.part(own).to(self.device)

    def pairs(self, regions: Tensor, parameters: ViewParameters) -> Tensor:
        """Views (B, 2, C, P, P) of source regions."""
        noise = None
        if self.noise is not None:
            run = self.noise[parameters.noise_start :][: int(np.prod(self.noise_shape))]
            noise = run.view(self.noise_shape)[self.share]
        return views(regions, parameters, self.shape.side_px, noise=noise)

    def __call__(self, step: int) -> Tensor:
        """Views (B, 2, C, P, P) of a step."""
        return self.pairs(*self.regions(step))


def local_loss(
    model: StageChain,
    name: str,
    pairs: Tensor,
    *,
    readout: str,
    weight: float,
    projection: nn.Module | None = None,
    autocast: AbstractContextManager[Any] | None = None,
) -> Loss:
    """Local loss of one stage on pairs of views; its gradient ends at the stage's input.

    Parameters
    ----------
    model : StageChain
    name : str
        Stage.
    pairs : Tensor, shape (B, 2, C, P, P)
        Views in [0, 1].
    readout : str
        From maps to features (:data:`lcl.objective.READOUTS`).
    weight : float
        Of the decorrelation term.
    projection : Module, optional
        Between features and loss.
    autocast : context manager, optional
        Precision of the convolutions.

    Returns
    -------
    Loss

    Examples
    --------
    >>> from lcl.stages import LCLV2
    >>> loss = local_loss(LCLV2(), "V2", torch.rand(8, 2, 3, 67, 67), readout="centre", weight=0.03)
    >>> loss.correlation.shape
    torch.Size([192, 192])
    """
    images = pairs.flatten(0, 1)
    if readout == "centre":  # nothing outside the middle unit's receptive field reaches the loss
        field = model.receptive_field(name)
        units = map_side([replace(window, padding=0) for window in model.windows(name)], images.shape[3])
        first = field.jump_px * ((units - 1) // 2)
        images = images[:, :, first : first + field.size_px, first : first + field.size_px]
    images = images.contiguous(memory_format=torch.channels_last)
    with autocast or nullcontext():
        with torch.no_grad():
            below = model.stage_input(images, name, valid=True)
        maps = model[name](below.detach(), valid=True)
        maps = maps.unflatten(0, (-1, 2))
        first, second = (READOUTS[readout](maps[:, i]) for i in (0, 1))
        if projection is not None:
            first, second = projection(first), projection(second)
    return barlow_twins(first, second, weight=weight)


@dataclass
class Learner:
    """A stage while it is being trained."""

    name: str
    stream: Stream
    projection: nn.Module
    optimiser: torch.optim.Optimizer
    readout: str
    weight: float
    learning_rate: float
    steps: int
    warned: set[str]

    def parameters(self) -> list[nn.Parameter]:
        """Everything that its steps change."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]


def plan(names: list[str], steps: tuple[int, ...], schedule: str) -> list[tuple[str, int]]:
    """Order of all steps of a run.

    Parameters
    ----------
    names : list of str
        Stages from the bottom up.
    steps : tuple of int
        Number of steps of each.
    schedule : {"sequential", "simultaneous"}

    Returns
    -------
    list of (str, int)
        Stage and number of its step.

    Examples
    --------
    >>> plan(["V1", "V2"], (2, 1), "sequential")
    [('V1', 0), ('V1', 1), ('V2', 0)]
    >>> plan(["V1", "V2"], (2, 1), "simultaneous")
    [('V1', 0), ('V2', 0), ('V1', 1)]
    """
    if schedule == "sequential":
        return [(name, step) for name, count in zip(names, steps, strict=True) for step in range(count)]
    return [
        (name, step) for step in range(max(steps)) for name, count in zip(names, steps, strict=True) if step < count
    ]


def choose_device(name: str) -> torch.device:
    """Device by name; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Parameters
    ----------
    name : str

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If there is no such device.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {name!r}, which cannot be used here ({str(error).splitlines()[0]}).") from None
    return device


def split(images: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into training and held-out ones.

    Parameters
    ----------
    images : int
        Their number, at least 3.
    share : float
        Share held out; at least one image is held out and two are trained on.
    seed : int

    Returns
    -------
    train, held_out : ndarray of int
        Sorted numbers of images.

    Raises
    ------
    ValueError
        If there are fewer than 3 images.

    Examples
    --------
    >>> [len(part) for part in split(12, 0.25, 0)]
    [9, 3]
    """
    if images < 3:
        raise ValueError(
            f"{images} usable image{'s were' if images != 1 else ' was'} given; features are decorrelated over patches "
            "of different images and judged on others, so give at least 3 (a dozen or more is better)."
        )
    held = min(max(1, round(share * images)), images - 2)
    order = np.random.default_rng(seed).permutation(images)
    return np.sort(order[held:]), np.sort(order[:held])


def open_store(config: Config, model: StageChain, *, progress: bool = False) -> ImageStore:
    """Images of a configuration, each large enough for every stage's source region.

    Parameters
    ----------
    config : Config
    model : StageChain
    progress : bool
        Show a progress bar.

    Returns
    -------
    ImageStore
    """
    return open_images(
        config.images,
        channels=config.in_channels,
        short_side_px=config.short_side_px,
        min_side_px=max(geometry(model, config, name).region_px for name in model.names),
        memory_cap_bytes=int(config.memory_cap_gb * 2**30),
        store_cap_bytes=int(config.store_cap_gb * 2**30),
        store_dir=config.store_dir or None,
        seed=config.seed,
        progress=progress,
    )


def train(
    config: Config,
    run: Path,
    *,
    store: ImageStore | None = None,
    resume: bool = False,
    preset: str = "",
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> StageChain:
    """Train a model stage by stage and write its run folder.

    Parameters
    ----------
    config : Config
    run : Path
        Run folder; made if it does not exist.
    store : ImageStore, optional
        Images; those that the configuration names without it.
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
    StageChain
        The trained model, in evaluation mode.

    Raises
    ------
    FileExistsError
        If ``run`` holds something already and ``resume`` is false.
    FileNotFoundError, ValueError
        If the images cannot be used, or there is nothing to resume.
    FloatingPointError
        If a loss is not finite.
    Interrupted
        After SIGINT or SIGTERM; the state is saved first.
    """
    device = choose_device(config.device)
    main = distributed.rank() == 0
    say = say if main else (lambda line: None)
    if not resume:
        refuse_to_overwrite(run)
    model = build(config).to(device=device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    store = store or open_store(config, model, progress=progress and main)
    say(store.summary())
    train_images, _ = split(len(store), config.held_out, config.seed)
    learners = make_learners(model, config, store.subset(train_images), device, say)
    order = plan(model.names, config.per_stage("steps"), config.schedule)

    position, seconds = 0, 0.0
    if resume:
        position, seconds = load_state(run / "state.safetensors", model, learners)
    elif main:
        run.mkdir(parents=True, exist_ok=True)
        write_config(run, config, model, store, preset)
        save_state(run / "state.safetensors", model, learners, 0, 0.0)
    distributed.barrier()
    if resume and main:
        trim_metrics(run / "metrics.jsonl", position)

    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    if config.compile:
        for name in model.names:
            model[name].compile()
    started = time.perf_counter() - seconds
    saved = position
    with (
        log_file(run, tensorboard=config.tensorboard, main=main) as log,
        stop_requests() as stop,
        Prefetch(lambda name, step: learners[name].stream.regions(step), order, position) as batches,
        Bar(order, position, enabled=progress and main) as bar,
    ):
        for position in range(position, len(order)):  # noqa: B020 (goes on from the saved position)
            name, step = order[position]
            learner = learners[name]
            rate = learner.learning_rate * learning_rate_factor(step, learner.steps, config.warmup)
            for group in learner.optimiser.param_groups:
                group["lr"] = rate * group["relative"]

            pairs = learner.stream.pairs(*batches.get(position))
            model.eval()
            model[name].train()
            loss = local_loss(
                model,
                name,
                pairs,
                readout=learner.readout,
                weight=learner.weight,
                projection=learner.projection,
                autocast=autocast,
            )
            learner.optimiser.zero_grad()
            (loss.total / distributed.world_size()).backward()
            distributed.sum_gradients(learner.parameters())
            check_finite(loss, name, step, every=1 if device.type == "cpu" else config.log_every)
            learner.optimiser.step()

            done = position + 1
            bar.update(name, loss, 2 * learner.stream.batch)
            if step % config.log_every == 0 or step + 1 == learner.steps:
                log(metrics_line(name, step, position, loss, rate, bar.rate))
                warn_of_collapse(learner, loss)
            stopping = stop.requested(device)
            if done - saved >= config.save_every or done == len(order) or stopping:
                if main:
                    save_state(run / "state.safetensors", model, learners, done, time.perf_counter() - started)
                distributed.barrier()
                saved = done
            if stopping and done < len(order):
                raise Interrupted(run, stopping)
    model.eval()
    if main:
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        write_tensors(run / "weights.safetensors", state)
    distributed.barrier()
    return model


def refuse_to_overwrite(run: Path, command: str = "lcl train") -> None:
    """Refuse a run folder that holds something.

    Raises
    ------
    FileExistsError
        If it does.

    Examples
    --------
    >>> refuse_to_overwrite(Path("no-such-run"))
    """
    if run.exists() and any(run.iterdir()):
        raise FileExistsError(f"{run} is not empty; choose another --out, or go on with `{command} --resume {run}`.")


def shuffled_batch(count: int, batch: int, *, seed: int, step: int) -> np.ndarray:
    """Numbers of the images of a step: every epoch goes once through all images in an order of its own.

    Parameters
    ----------
    count, batch : int
        Images, and images per step; those that do not fill a last batch wait for another epoch.
    seed, step : int
        What is drawn depends on these alone.

    Returns
    -------
    ndarray of int, (batch,)

    Examples
    --------
    >>> sorted(np.concatenate([shuffled_batch(6, 2, seed=0, step=step) for step in range(3)]).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    epoch, place = divmod(step, count // batch)
    order = torch.randperm(count, generator=counter_generator(seed, 0, epoch)).numpy()
    return order[place * batch : (place + 1) * batch]


def make_learners(
    model: StageChain, config: Config, store: ImageStore, device: torch.device, say: Callable[[str], None]
) -> dict[str, Learner]:
    """One learner per stage: its stream of patches, its optimiser and its objective."""
    learners = {}
    for number, name in enumerate(model.names):
        pick = {
            setting: config.per_stage(setting)[number]
            for setting in ("steps", "batch", "learning_rate", "weight_decay", "readout", "balance")
        }
        shape = geometry(model, config, name)
        stage = model[name]
        generator = counter_generator(config.seed, number, 1)
        projection = projector(config.projector, stage.out_channels, config.projector_width, generator).to(device)
        features = stage.out_channels if config.projector == "none" else config.projector_width
        trained = [*stage.parameters(), *projection.parameters()]
        stream = Stream(
            store, shape, config.deformation, batch=pick["batch"], seeds=(config.seed, number, 0), device=device
        )
        learners[name] = Learner(
            name=name,
            stream=stream,
            projection=projection,
            optimiser=optimizer(
                config.optimizer,
                trained,
                learning_rate=pick["learning_rate"],
                weight_decay=pick["weight_decay"],
                gain_rate=config.gain_rate,
            ),
            readout=pick["readout"],
            weight=decorrelation_weight(pick["balance"], features),
            learning_rate=pick["learning_rate"],
            steps=pick["steps"],
            warned=set(),
        )
        units = map_side([replace(window, padding=0) for window in model.windows(name)], shape.side_px)
        places = choose_places(store.sizes, pick["batch"], shape.region_px, counter_generator(config.seed))
        apart = (
            "every patch from another image"
            if np.isinf(places.least_distance_px)
            else f"several patches of an image at least {places.least_distance_px:.0f} px apart"
        )
        degrees = model.receptive_field(name).size_deg(config.pixels_per_degree)
        say(
            f"{name}: receptive field {shape.size_px} px ({degrees:.2f} deg), patches of {shape.side_px} px "
            f"({units} x {units} units), shifts up to {shape.amplitude.translation_px:.1f} px, batch {pick['batch']}, "
            f"{apart}, lambda {learners[name].weight:.4g}"
        )
    return learners


class Prefetch:
    """Draws what the next step needs in a thread while this step is computed.

    Parameters
    ----------
    draw : callable
        From the name of a stage (or phase) and the number of its step to its batch.
    order : list of (str, int)
        All steps (:func:`plan`).
    position : int
        The first one to be asked for.
    """

    def __init__(self, draw: Callable[[str, int], Any], order: list[tuple[str, int]], position: int) -> None:
        self.draw, self.order = draw, order
        self.pool = ThreadPoolExecutor(1)
        self.next: Future[Any] | None = self.submit(position)

    def submit(self, position: int) -> Future[Any] | None:
        """Start drawing a step, if there is one."""
        if position >= len(self.order):
            return None
        name, step = self.order[position]
        return self.pool.submit(self.draw, name, step)

    def get(self, position: int) -> Any:
        """Batch of a step; steps are asked for in order."""
        assert self.next is not None
        batch = self.next.result()
        self.next = self.submit(position + 1)
        return batch

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)


class Bar:
    """One progress bar per stage: loss, its two terms, images per second, time left."""

    def __init__(self, order: list[tuple[str, int]], position: int, *, enabled: bool) -> None:
        self.bars: dict[str, tqdm[Any]] = {}
        self.totals: dict[str, int] = {}
        self.start: dict[str, int] = {}
        self.enabled, self.rate, self.clock = enabled, 0.0, time.perf_counter()
        for name, step in order[:position]:
            self.start[name] = step + 1
        for name, step in order:
            self.totals[name] = step + 1

    def update(self, name: str, loss: Loss, images: int) -> None:
        """Count one step of a stage, of so many images."""
        now = time.perf_counter()
        rate = images / max(now - self.clock, 1e-9)
        self.clock, self.rate = now, rate if self.rate == 0 else 0.95 * self.rate + 0.05 * rate
        if not self.enabled:
            return
        if name not in self.bars:
            self.bars[name] = tqdm(
                desc=name,
                total=self.totals[name],
                initial=self.start.get(name, 0),
                unit="step",
                dynamic_ncols=True,
                position=len(self.bars),
            )
        bar = self.bars[name]
        bar.update(1)
        if bar.n % 10 == 0 or bar.n == bar.total:
            bar.set_postfix_str(
                f"loss {float(loss.total.detach()):.3g} = similarity {float(loss.similarity.detach()):.3g} + lambda x "
                f"{float(loss.decorrelation.detach()):.3g}, {self.rate:.0f} images/s",
                refresh=False,
            )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        for bar in self.bars.values():
            bar.refresh()
            bar.close()


class StopRequests:
    """Signals that asked the run to stop, agreed on by all processes."""

    def __init__(self) -> None:
        self.number = 0

    def requested(self, device: torch.device) -> int:
        """Number of the signal that any process has received, or 0."""
        if distributed.world_size() == 1:
            return self.number
        total = torch.tensor(self.number, device=device)
        torch.distributed.all_reduce(total, torch.distributed.ReduceOp.MAX)
        return int(total)


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Note the first SIGINT or SIGTERM; a second one acts as usual. Outside the main thread nothing is changed."""
    stop = StopRequests()
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        stop.number = number
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.getsignal(number)
            signal.signal(number, note)
    except ValueError:  # signals can only be set in the main thread
        before.clear()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_finite(loss: Loss, name: str, step: int, *, every: int) -> None:
    """Stop on a loss that is not finite, before it reaches the weights.

    Raises
    ------
    FloatingPointError
        If the loss is NaN or infinite.
    """
    if step % every == 0 and not bool(torch.isfinite(loss.total)):
        raise FloatingPointError(
            f"The loss of {name} is {float(loss.total.detach())} at step {step}; lower --learning-rate, or use "
            "--precision float32. The last saved state is from before."
        )


def warn_of_collapse(learner: Learner, loss: Loss) -> None:
    """Warn, once per kind, of features that are constant over the batch or copies of another one."""
    c = loss.correlation.detach()
    dead = c.diagonal() == 0
    norm = torch.nn.functional.normalize(c, dim=1)
    same = (norm @ norm.T - 2 * torch.eye(len(c), device=c.device) > 0.9999) & ~dead & ~dead[:, None]
    for kind, found in (("constant", dead), ("identical to another", same.any(1))):
        numbers = found.nonzero().flatten().tolist()
        if len(numbers) * 20 > len(c) and kind not in learner.warned:
            learner.warned.add(kind)
            shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
            warnings.warn(
                f"{learner.name}: {len(numbers)} of {len(c)} features are {kind} over the batch (numbers {shown}); "
                "raise --balance, or lower --learning-rate.",
                CollapseWarning,
                stacklevel=3,
            )


def write_config(run: Path, config: Config, model: StageChain, store: ImageStore, preset: str) -> None:
    """Write config.json: everything that is needed to understand or repeat the run."""
    write_json(
        run / "config.json",
        {
            "format": FORMAT,
            "preset": preset,
            "command": command_line(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "config": config.as_dict(),
            "model": model.spec,
            "images": {"count": len(store), "left_out": len(store.left_out), "summary": store.summary()},
            "processes": distributed.world_size(),
            **provenance(),
        },
    )


def read_config(run: Path) -> tuple[Config, dict[str, Any]]:
    """Settings of a run folder, and everything else its config.json holds.

    Parameters
    ----------
    run : Path

    Returns
    -------
    Config
    dict

    Raises
    ------
    FileNotFoundError
        If there is no config.json.
    ValueError
        If it is damaged.
    """
    everything = read_json(run / "config.json")
    return Config.from_dict(everything["config"]), everything


def _parts(
    model: StageChain, learners: dict[str, Learner]
) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
    """Networks and optimisers of a run by name."""
    projections = {f"projection/{name}": learner.projection for name, learner in learners.items()}
    return {"model": model, **projections}, {name: learner.optimiser for name, learner in learners.items()}


def save_state(path: Path, model: StageChain, learners: dict[str, Learner], position: int, seconds: float) -> None:
    """Write everything that changes during training, at once."""
    write_training_state(path, *_parts(model, learners), position=position, seconds=seconds)


def load_state(path: Path, model: StageChain, learners: dict[str, Learner]) -> tuple[int, float]:
    """Put back what :func:`save_state` wrote; gives the number of steps done and the seconds they took."""
    return read_training_state(path, *_parts(model, learners))[:2]


def trim_metrics(path: Path, position: int) -> None:
    """Drop the lines that were written after the state, and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["position"] < position:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            break
    partial = path.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    partial.replace(path)


def metrics_line(
    name: str, step: int, position: int, loss: Loss, rate: float, images_per_s: float
) -> dict[str, str | int | float]:
    """One line of metrics.jsonl."""
    return {
        "stage": name,
        "step": step,
        "position": position,
        "loss": float(loss.total.detach()),
        "similarity": float(loss.similarity.detach()),
        "decorrelation": float(loss.decorrelation.detach()),
        "learning_rate": rate,
        "images_per_s": round(images_per_s, 1),
    }


@contextmanager
def log_file(run: Path, *, tensorboard: bool, main: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Function that appends one line of metrics (and TensorBoard events, if asked for).

    A line has ``stage`` and ``step``; its other floating-point values are the events.
    """
    if not main:
        yield lambda line: None
        return
    board = None
    if tensorboard:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                'TensorBoard is not installed; pip install "lcl[track]", or leave out --tensorboard.'
            ) from None
        board = SummaryWriter(str(run / "tensorboard"))

    def log(line: Mapping[str, Any]) -> None:
        print(json.dumps(line), file=file, flush=True)
        if board is not None:
            for key, value in line.items():
                if isinstance(value, float):
                    board.add_scalar(f"{line['stage']}/{key}", value, line["step"])

    file: TextIO
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        try:
            yield log
        finally:
            if board is not None:
                board.close()
