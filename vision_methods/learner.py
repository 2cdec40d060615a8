"""What a method gives to the training loop that all methods share (:mod:`vision_methods.train`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from lcl.labelled_images import LabelledImages
from vision_methods.backbones import Backbone


class Learner(Protocol):
    """A method while it is being trained: a torch module, on its device, with what follows.

    Its state holds everything that has to be there to go on: the online network, targets, buffers. What a step sees
    depends on the configuration and the number of the step alone, so that an interrupted run goes on as if it had not
    been. Each process draws its own share of the batch, and its loss is its share of the loss of the whole batch.

    Attributes
    ----------
    online : Module
        What the optimiser trains.
    backbone : Backbone
        Inside ``online``: what is kept of the run, and measured.
    steps_per_epoch : int
    labelled : (LabelledImages, LabelledImages) or None
        Training pictures and pictures to judge by, both with labels, for the accuracy at the end of every epoch.
    about_data : str
        A line for the user: what is trained on, and what was left out.
    """

    @property
    def online(self) -> nn.Module: ...  # noqa: D102
    @property
    def backbone(self) -> Backbone: ...  # noqa: D102
    @property
    def steps_per_epoch(self) -> int: ...  # noqa: D102
    @property
    def labelled(self) -> tuple[LabelledImages, LabelledImages] | None: ...  # noqa: D102
    @property
    def about_data(self) -> str: ...  # noqa: D102

    def draw(self, step: int) -> Any:
        """Share of this process in the batch of a step; runs in a thread beside training, on the CPU."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of this process in the loss, and its shares of numbers that are logged beside it."""
        ...

    def after_step(self, step: int, steps: int) -> None:
        """Called after the optimiser's step number ``step`` of ``steps``: targets follow the online network."""
        ...

    def train(self, mode: bool = True) -> Any:
        """As of every torch module."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """As of every torch module."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """As of every torch module."""
        ...


@runtime_checkable
class Judging(Protocol):
    """A learner that has a measure of its own, in place of the accuracy of nearest neighbours."""

    def judge(self) -> dict[str, float]:
        """``accuracy`` and ``chance`` at the end of an epoch; called on every process, the same on all."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """A learner of which more than the backbone is kept."""

    def write_besides(self, run: Path) -> None:
        """Write it into the run folder; called on the first process, at the end of training."""
        ...
