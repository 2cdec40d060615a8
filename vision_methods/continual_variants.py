"""Learners of continual learning that are more than a head and a tuner: LAE, HiDe-Prompt, those without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcl.train import counter_generator
from vision_methods.adapters import OnlineOffline, ensemble
from vision_methods.continual_config import ContinualConfig
from vision_methods.continual_learners import _ALIGN, _ORDER, _PROJECTION, CHUNK, Learner, Tuned, seen_classes
from vision_methods.continual_networks import Base, Source
from vision_methods.continual_protocol import masked_cross_entropy
from vision_methods.prompted_vit import Ask
from vision_methods.prototypes import ClassMeans, RanPAC


class LAE(Tuned):
    """Adapters that learn and adapters that follow, both asked (Gao et al. 2023)."""

    @property
    def pair(self) -> OnlineOffline:
        """The adapters."""
        assert isinstance(self.tuner, OnlineOffline)
        return self.tuner

    def seen_by_head(self, still: Tensor, ask: Ask, tuner: nn.Module | None = None) -> tuple[Tensor, Tensor | None]:
        """By the online adapters, or those named."""
        return super().seen_by_head(still, ask, tuner or self.pair.online)

    def begin_epoch(self, task: int, epoch: int) -> None:
        """The head alone learns in the first epochs of later tasks."""
        waits = task > 0 and epoch < self.config.wait_epochs
        self.pair.online.requires_grad_(not waits)
        self.pair.offline.requires_grad_(False)

    def after_step(self, task: int, epoch: int) -> None:
        """The offline adapters follow, once the online ones learn."""
        if next(self.pair.online.parameters()).requires_grad:
            self.pair.follow()

    @torch.no_grad()
    def scores(self, source: Source, index: np.ndarray, seen: Sequence[int]) -> Tensor:
        """Larger of the two networks' probabilities among classes seen."""
        columns, task = torch.as_tensor(np.asarray(seen)), self.last_task(seen)
        both = []
        for adapters in (self.pair.online, self.pair.offline):
            logits = self.head(self.features(source, index, task, adapters))
            among = torch.full_like(logits, -torch.inf)
            among[:, columns] = logits[:, columns]
            both.append(among)
        return ensemble(*both)


class HiDe(Tuned):
    """Prompts of each task; which task is told by a head of its own on frozen features (Wang et al. 2023).

    After each task both heads learn anew from features drawn from a normal distribution of each class seen, with its
    mean and variances. Features of new classes are kept apart from the means of old ones by a contrast.
    """

    means: Tensor
    variances: Tensor

    def __init__(self, base: Base, tasks: Sequence[np.ndarray], config: ContinualConfig, **named: Any) -> None:
        super().__init__(base, tasks, config, **named)
        classes = self.head.out_features
        self.identity = nn.Linear(base.width, classes, device=self.head.weight.device)
        with torch.no_grad():
            self.identity.weight.zero_()
            self.identity.bias.zero_()
        # Of features with prompts, and of frozen ones.
        self.register_buffer("means", torch.zeros(2, classes, base.width, device=self.head.weight.device))
        self.register_buffer("variances", torch.zeros_like(self.means))

    def extra(self, features: Tensor, labels: Tensor, task: int) -> Tensor | float:
        """Cross-entropy of each feature with itself among the means of old classes and the other features."""
        if not task or not self.config.hide_contrast:
            return 0.0
        old = self.means[0, seen_classes(self.tasks, task - 1)]
        rows = F.normalize(features, dim=1)
        among = torch.cat([rows, F.normalize(old, dim=1)])
        return self.config.hide_contrast * F.cross_entropy(
            rows @ among.T / 0.8, torch.arange(len(rows), device=rows.device)
        )

    def end(self, source: Source, index: np.ndarray, task: int) -> None:
        """Statistics of the new classes, then both heads."""
        own = torch.full((len(index),), task, device=self.head.weight.device)
        with torch.no_grad():
            parts = np.array_split(np.arange(len(index)), max(1, -(-len(index) // CHUNK)))
            found = [
                self.seen_by_head(
                    source.still(index[part]), Ask(torch.zeros(len(part), self.base.width), task, own[part])
                )[0]
                for part in parts
            ]
            kinds = (torch.cat(found), source.features(index))
            for place, features in enumerate(kinds):
                for label in self.tasks[task].tolist():
                    rows = features[torch.from_numpy(source.labels[index] == label)]
                    self.means[place, label] = rows.mean(0)
                    self.variances[place, label] = rows.var(0, correction=0)
        seen = torch.from_numpy(seen_classes(self.tasks, task)).to(own.device)
        for place, head in enumerate((self.head, self.identity)):
            self._align(head, place, seen, task)

    def _align(self, head: nn.Linear, place: int, seen: Tensor, task: int) -> None:
        optimiser = torch.optim.Adam(head.parameters(), lr=self.config.learning_rate)
        per_class, generator = 32, counter_generator(self.seed, _ALIGN, task, place)
        for _ in range(self.config.align_epochs * 4):
            labels = seen.repeat_interleave(per_class)
            noise = torch.randn(len(labels), head.in_features, generator=generator).to(labels.device)
            drawn = self.means[place, labels] + self.variances[place, labels].sqrt() * noise
            optimiser.zero_grad()
            masked_cross_entropy(head(drawn), labels, seen).backward()
            optimiser.step()

    def ask(self, source: Source, index: np.ndarray, still: Tensor | None, task: int) -> Ask:
        """While learning the task's own prompt; then that of the task of the likeliest class by frozen features."""
        blank = torch.zeros(len(index), self.base.width, device=self.head.weight.device)
        if self.head.training:
            return Ask(blank, task)
        seen = seen_classes(self.tasks, task)
        with torch.no_grad():
            likely = self.identity(source.features(index))[:, torch.from_numpy(seen)].argmax(1).cpu().numpy()
        return Ask(blank, task, torch.from_numpy(self.task_of[seen[likely]]).to(blank.device))


class Prototypes(Learner):
    """Class means or ridge regression on features that are frozen, or tuned on the first task and frozen then.

    Parameters
    ----------
    base : Base
    tasks : sequence of ndarray of int
    config : ContinualConfig
    seed : int
    ridge : bool
        RanPAC; else class means.
    first : Tuned, optional
        Learns the first task. RanPAC then reads its features; class means read them beside the frozen ones, as ADAM
        does (Zhou et al. 2023).
    """

    def __init__(
        self,
        base: Base,
        tasks: Sequence[np.ndarray],
        config: ContinualConfig,
        *,
        seed: int,
        ridge: bool,
        first: Tuned | None = None,
    ) -> None:
        super().__init__()
        self.first, self.both, self.seed = first, first is not None and not ridge, seed
        self.tuned = 0 if first is None else first.tuned
        classes = sum(len(each) for each in tasks)
        width = base.still_width if first is None else base.width + (base.still_width if self.both else 0)
        if ridge:
            self.classifier: ClassMeans | RanPAC = RanPAC(
                width,
                classes,
                projections=config.projections,
                penalty=config.ridge or None,
                cosine=config.ridge_cosine,
                generator=counter_generator(seed, _PROJECTION),
            )
        else:
            self.classifier = ClassMeans(width, classes)

    def _features(self, source: Source, index: np.ndarray) -> Tensor:
        if self.first is None:
            return source.features(index).cpu()
        adapted = self.first.features(source, index, 0).cpu()
        return torch.cat([source.features(index).cpu(), adapted], 1) if self.both else adapted

    def learn(self, source: Source, index: np.ndarray, task: int) -> None:
        """Tune on the first task; take in the features of every task."""
        if task == 0 and self.first is not None:
            self.first.learn(source, index, 0)
        # Mixed, since RanPAC chooses its penalty on the last fifth, and pictures come class by class.
        mixed = index[torch.randperm(len(index), generator=counter_generator(self.seed, _ORDER, task)).numpy()]
        self.classifier.add(self._features(source, mixed), torch.from_numpy(source.labels[mixed]))

    def scores(self, source: Source, index: np.ndarray, seen: Sequence[int]) -> Tensor:
        """Cosines with class means, or regressed scores."""
        return self.classifier.scores(self._features(source, index))

    def similarity(self, source: Source, index: np.ndarray) -> float:
        """Of the prompts of the first task."""
        return float("nan") if self.first is None else self.first.similarity(source, index)
