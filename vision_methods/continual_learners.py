"""What learns one task after the other: a head alone, a head with prompts or adapters, a whole network.

A learner is given the pictures of a task once (:meth:`Learner.learn`) and names classes seen so far at any time
(:meth:`Learner.scores`). What it draws depends on the seed, the task and the step alone, and its state after a task is
all that later tasks need.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lcl.optimizers import learning_rate_factor, load_state_tensors, optimizer, state_tensors
from lcl.train import counter_generator
from vision_methods.adapters import Beside, OnlineOffline
from vision_methods.continual_config import ContinualConfig
from vision_methods.continual_networks import Base, Source, TransformerBase
from vision_methods.continual_protocol import masked_cross_entropy
from vision_methods.prompted_vit import Ask, Insertion, prompt_similarity
from vision_methods.prompts import DualPrompt, OnlyPrompt, TaskPrompts
from vision_methods.regularisers import EWC, SI, fisher_information

#: Purposes of random numbers: with the seed and the task they make a generator of their own.
_ORDER, _CROPS, _BEGIN, _HEAD, _QUERY, _FISHER, _DRAWN, _ALIGN, _PROJECTION = range(9)
#: Pictures that are named at a time.
CHUNK = 64


class Learner(nn.Module, abc.ABC):
    """What a method gives to the study.

    Attributes
    ----------
    tuned : int
        Parameters beside the head that are learned or kept: what the paper's tables count.
    """

    tuned: int = 0

    @abc.abstractmethod
    def learn(self, source: Source, index: np.ndarray, task: int) -> None:
        """Learn a task from pictures ``index`` of a source; they are not seen again."""

    @abc.abstractmethod
    def scores(self, source: Source, index: np.ndarray, seen: Sequence[int]) -> Tensor:
        """Scores (B, C) of pictures, each on its own; the highest among the classes ``seen`` is the answer."""

    def similarity(self, source: Source, index: np.ndarray) -> float:
        """Mean cosine similarity of the prompts of different pictures, per cent; NaN where there are none."""
        return float("nan")

    def moments(self) -> dict[str, Tensor]:
        """What an optimiser keeps from one task to the next; nothing where it begins anew."""
        return {}

    def resume(self, moments: dict[str, Tensor]) -> None:
        """Put back what :meth:`moments` gave."""


def seen_classes(tasks: Sequence[np.ndarray], task: int) -> np.ndarray:
    """Classes of the tasks up to one, and this one.

    Examples
    --------
    >>> seen_classes([np.array([3, 1]), np.array([0, 2])], 1)
    array([3, 1, 0, 2])
    """
    return np.concatenate(list(tasks[: task + 1]))


class Tuned(Learner):
    """A head, and what is trained beside it, by gradient descent on one task after the other.

    Parameters
    ----------
    base : Base
        Never changed: where the network itself is trained, a copy is.
    tasks : sequence of ndarray of int
        Classes of each.
    config : ContinualConfig
    seed : int
    tuner : Module, optional
        Prompts, or networks beside the blocks.
    network : bool
        Train the network itself.
    regulariser : {"", "ewc", "si"}
    first_only : bool
        After the first task the head alone learns.
    read : str, optional
        What the head reads; as the base does without it.

    Raises
    ------
    ValueError
        If there are prompts and the network is no transformer, or nothing of the network can be trained.
    """

    def __init__(
        self,
        base: Base,
        tasks: Sequence[np.ndarray],
        config: ContinualConfig,
        *,
        seed: int,
        tuner: nn.Module | None = None,
        network: bool = False,
        regulariser: Literal["", "ewc", "si"] = "",
        first_only: bool = False,
        read: Any = None,
    ) -> None:
        super().__init__()
        if tuner is not None and not isinstance(base, TransformerBase):
            raise ValueError(
                "prompts and adapters need a vision transformer; give another --backbone, or other methods."
            )
        if network and not base.tunable:
            raise ValueError("this network cannot be trained here; expected a transformer or v2net:FRONT.")
        self._base, self.tasks, self.config, self.seed = [base], list(tasks), config, seed
        self.tuner, self.first_only, self.read = tuner, first_only, read
        self.network = copy.deepcopy(base) if network else None
        classes = sum(len(each) for each in tasks)
        self.task_of = np.empty(classes, int)
        for number, each in enumerate(tasks):
            self.task_of[each] = number
        width = base.width if network or tuner is not None else base.still_width
        self.head = nn.Linear(width, classes)
        with torch.no_grad():
            self.head.weight.normal_(std=0.02, generator=counter_generator(seed, _HEAD))
            self.head.bias.zero_()
        self.to(next(iter([*base.parameters(), *base.buffers()]), self.head.bias).device)
        beside = [] if tuner is None else list(tuner.parameters())
        trained = self.network.trainable() if self.network is not None else []
        for each in trained:
            each.requires_grad_(True)
        self.tuned = sum(each.numel() for each in [*beside, *trained])
        self.slow = trained
        subset = [each for each in [*beside, *trained] if each.requires_grad]
        subset += list(self.head.parameters()) if config.regularise_head else []
        self.regulariser: EWC | SI | None = None
        if regulariser:
            if not subset:
                raise ValueError(
                    "there is nothing to regularise beside the head; give --regularise-head, or leave +ewc."
                )
            made: dict[str, Callable[[], EWC | SI]] = {
                "ewc": lambda: EWC(subset, strength=config.ewc_lambda, gamma=config.ewc_gamma),
                "si": lambda: SI(subset, strength=config.si_c, xi=config.si_xi),
            }
            self.regulariser = made[regulariser]()
        self._optimiser: torch.optim.Optimizer | None = None

    @property
    def base(self) -> Base:
        """The network as it came, or the copy that is trained."""
        return self._base[0] if self.network is None else self.network

    # What pictures are shown with.

    def ask(self, source: Source, index: np.ndarray, still: Tensor | None, task: int) -> Ask:
        """What prompts are chosen by, for pictures of a source (``still``: of these very crops)."""
        base, mode = self._base[0], self.config.query
        device = self.head.weight.device
        if not getattr(self.tuner, "queried", False):
            return Ask(torch.zeros(len(index), base.width, device=device), task)
        named: Tensor | None = None
        if mode == "input":
            if still is None:
                query = source.features(index)
            else:
                with torch.no_grad():
                    query = base.frozen(still)
        elif mode == "random":
            generator = counter_generator(self.seed, _QUERY, len(source))
            query = torch.randn(len(source), base.width, generator=generator)[index]
            named = torch.randint(task + 1, (len(source),), generator=generator)[index]
        else:
            named = torch.from_numpy(self.task_of[source.labels[index]]) if mode == "oracle" else None
            named = torch.zeros(len(index), dtype=torch.int64) if named is None else named
            query = torch.randn(len(self.tasks), base.width, generator=counter_generator(self.seed, _QUERY))[named]
        if named is not None:
            named = named.to(device) if isinstance(self.tuner, DualPrompt | TaskPrompts) else None
        return Ask(query.to(device), task, named)

    def seen_by_head(self, still: Tensor, ask: Ask, tuner: nn.Module | None = None) -> tuple[Tensor, Tensor | None]:
        """Features (B, width), and what is added to the loss."""
        tuner = tuner or self.tuner
        if tuner is None:
            return (self.network(still) if self.network is not None else self.base.frozen(still)), None
        if isinstance(tuner, Beside):
            return self.base(still, read=self.read, **tuner.arguments()), None
        insertion: Insertion = tuner(ask)
        return self.base(still, insertion, read=self.read), insertion.pull

    # Learning.

    def learn(self, source: Source, index: np.ndarray, task: int) -> None:
        """Learn a task."""
        config, frozen = self.config, self.first_only and task > 0
        alone = self.tuner is None and self.network is None and not config.augment
        classes = torch.from_numpy(self.tasks[task]).to(self.head.weight.device) if config.mask else None
        self.begin(task)
        if config.reset_optimizer or self._optimiser is None:
            self._optimiser = self._make_optimiser()
        if self.tuner is not None:
            self.tuner.requires_grad_(not frozen)
        batches = max(1, round(len(index) / config.batch))
        steps, step = config.epochs * batches, 0
        self._mode(training=True)
        for epoch in range(config.epochs):
            order = torch.randperm(len(index), generator=counter_generator(self.seed, _ORDER, task, epoch)).numpy()
            self.begin_epoch(task, epoch)
            for part in np.array_split(index[order], batches):
                still = None
                if config.augment:
                    still = source.crops(part, counter_generator(self.seed, _CROPS, task, step), config.crop_area)
                ask = self.ask(source, part, still, task)
                if alone:
                    features, pull = source.features(part), None
                else:
                    features, pull = self.seen_by_head(source.still(part) if still is None else still, ask)
                labels = torch.from_numpy(source.labels[part]).to(features.device)
                loss = masked_cross_entropy(self.head(features), labels, classes) + self.extra(features, labels, task)
                self._step(loss if pull is None else loss + pull, step, steps, task)
                self.after_step(task, epoch)
                step += 1
        self._mode(training=False)
        self._remember(source, index, task, classes)
        self.end(source, index, task)

    def _make_optimiser(self) -> torch.optim.Optimizer:
        config = self.config
        fast = [each for each in self.parameters() if all(each is not other for other in self.slow)]
        parts = [(fast, config.learning_rate)] + ([(self.slow, config.network_rate)] if self.slow else [])
        made = [
            optimizer(config.optimizer, each, learning_rate=rate, weight_decay=config.weight_decay)
            for each, rate in parts
        ]
        for other in made[1:]:
            for group in other.param_groups:
                made[0].add_param_group(group)
        for group in made[0].param_groups:
            group["peak"] = group["lr"]
        return made[0]

    def _step(self, loss: Tensor, step: int, steps: int, task: int) -> None:
        optimiser, regulariser = self._optimiser, self.regulariser
        assert optimiser is not None
        if not bool(torch.isfinite(loss.detach())):
            raise ValueError(f"the loss of task {task + 1} is {loss.item()} at step {step}; lower the learning rate.")
        factor = learning_rate_factor(step, steps, 0) if self.config.schedule == "cosine" else 1.0
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        optimiser.zero_grad()
        loss.backward()
        # SI's path is that of the task's loss alone, so its gradient is read before the penalty's is added.
        if isinstance(regulariser, SI):
            regulariser.before_step([None if each.grad is None else each.grad.clone() for each in regulariser.of])
        penalty = None if regulariser is None else regulariser.penalty()
        if penalty is not None and penalty.requires_grad:
            penalty.backward()
        optimiser.step()
        if isinstance(regulariser, SI):
            regulariser.after_step()

    def _mode(self, *, training: bool) -> None:
        for each in (self.tuner, self.network, self.head):
            if each is not None:
                each.train(training)

    def _remember(self, source: Source, index: np.ndarray, task: int, classes: Tensor | None) -> None:
        regulariser, config = self.regulariser, self.config
        if isinstance(regulariser, SI):
            regulariser.end_task()
        if not isinstance(regulariser, EWC):
            return
        generator = counter_generator(self.seed, _FISHER, task)
        chosen = index[torch.randperm(len(index), generator=generator).numpy()]
        chosen = chosen[: config.fisher_pictures] if config.fisher_pictures else chosen
        columns = np.arange(self.head.out_features) if classes is None else self.tasks[task]
        place = {label: i for i, label in enumerate(columns.tolist())}

        def logs(i: int) -> Tensor:
            one = chosen[i : i + 1]
            # As while learning: a task's own prompt, not that of the nearest key.
            self._mode(training=isinstance(self.tuner, DualPrompt))
            if self.network is not None:
                self.network.eval()
            features, _ = self.seen_by_head(source.still(one), self.ask(source, one, None, task))
            return self.head(features)[0, columns].log_softmax(0)

        labels = torch.tensor([place[label] for label in source.labels[chosen].tolist()])
        of = [each for each in regulariser.of if each.requires_grad]
        found = iter(fisher_information(logs, labels, of, kind=config.fisher, generator=generator))
        regulariser.end_task([next(found) if each.requires_grad else torch.zeros_like(each) for each in regulariser.of])
        self._mode(training=False)

    def moments(self) -> dict[str, Tensor]:
        """Of the optimiser, where it is not reset."""
        if self.config.reset_optimizer or self._optimiser is None:
            return {}
        return state_tensors(self._optimiser)

    def resume(self, moments: dict[str, Tensor]) -> None:
        """An optimiser with these moments."""
        self._optimiser = self._make_optimiser()
        load_state_tensors(self._optimiser, moments)

    # Where methods differ.

    def begin(self, task: int) -> None:
        """Before the first step of a task."""
        begin_task = getattr(self.tuner, "begin_task", None)
        if begin_task is not None and not (self.first_only and task):
            begin_task(task, generator=counter_generator(self.seed, _BEGIN, task))

    def begin_epoch(self, task: int, epoch: int) -> None:
        """Before the first step of an epoch."""

    def extra(self, features: Tensor, labels: Tensor, task: int) -> Tensor | float:
        """Added to the loss."""
        return 0.0

    def after_step(self, task: int, epoch: int) -> None:
        """After a step of the optimiser."""

    def end(self, source: Source, index: np.ndarray, task: int) -> None:
        """After the last step of a task."""

    # Answers.

    @torch.no_grad()
    def features(self, source: Source, index: np.ndarray, task: int, tuner: nn.Module | None = None) -> Tensor:
        """Features (B, width) of pictures after a task."""
        if self.tuner is None and self.network is None:
            return source.features(index)
        parts = np.array_split(index, max(1, -(-len(index) // CHUNK)))
        found = [
            self.seen_by_head(source.still(part), self.ask(source, part, None, task), tuner)[0].detach()
            for part in parts
        ]
        return torch.cat(found)

    def last_task(self, seen: Sequence[int]) -> int:
        """Number of the last task among classes seen."""
        return int(self.task_of[np.asarray(seen)].max())

    @torch.no_grad()
    def scores(self, source: Source, index: np.ndarray, seen: Sequence[int]) -> Tensor:
        """Logits."""
        return self.head(self.features(source, index, self.last_task(seen)))

    @torch.no_grad()
    def similarity(self, source: Source, index: np.ndarray) -> float:
        """Of what the pictures get after the last task."""
        if self.tuner is None or isinstance(self.tuner, Beside | OnlineOffline):
            return float("nan")
        found = self.tuner(self.ask(source, index, None, len(self.tasks) - 1)).flat()
        return prompt_similarity(found) if found.shape[1] else float("nan")


def only_prompt(width: int, parameters: int, *, seed: int) -> OnlyPrompt:
    """Tokens of a method's own seed.

    Examples
    --------
    >>> only_prompt(8, 8, seed=0).trained.shape
    torch.Size([8])
    """
    return OnlyPrompt(width, parameters, generator=counter_generator(seed, _DRAWN))
