"""Open-vocabulary detection on two aligned towers: gated shortcuts, text variants and self-training from captions.

The detector is built on the three ideas of Arandjelovic et al. 2023 ("Three ways to improve feature alignment for open
vocabulary detection", 3Ways), of which only the abstract and remarks in later papers were available to us: an
augmentation of the text vectors (:mod:`vision_methods.text_variants`), gated shortcuts that leave the alignment as it
is when training begins (:mod:`vision_methods.pyramid`), and self-training on captioned pictures
(:mod:`vision_methods.self_training`). Layers, losses and settings are ours, after FCOS
(:mod:`vision_methods.detection`); what is which is in ``docs/methods-three-ways.md``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lcl import distributed
from lcl.images import ImageStore
from lcl.train import counter_generator, shuffled_batch
from vision_methods.backbones import Backbone
from vision_methods.boxed_pictures import BoxedPictures, Frames, framed
from vision_methods.detection import DetectionLoss, Detections, best_boxes, box_targets, detection_loss
from vision_methods.detection_scores import average_precision
from vision_methods.pictures import own_share
from vision_methods.pyramid import Detector, LocationOutputs
from vision_methods.self_training import CHUNK, PseudoBoxes, caption_loss

#: Cosines are multiplied with no more than this.
MOST_SCALE = 100.0


class DetectionBatch(NamedTuple):
    """Share of a process in a step.

    Attributes
    ----------
    frames : Frames
        Of pictures with boxes.
    boxes, labels : list of Tensor
        Of every picture, in its frame.
    known : Tensor of bool, (picture, class)
        Classes that enter the loss.
    variant : Tensor of int64, (class,)
        Of the text vectors; the same on all processes.
    captioned : Frames or None
        Of captioned pictures.
    pseudo : Tensor, (picture, 4)
        Their boxes, in the frame.
    rows : Tensor of int64, (picture,)
        Numbers of their captions.
    """

    frames: Frames
    boxes: list[Tensor]
    labels: list[Tensor]
    known: Tensor
    variant: Tensor
    captioned: Frames | None
    pseudo: Tensor
    rows: Tensor


@torch.no_grad()
def detect(
    detector: Detector,
    store: ImageStore,
    index: np.ndarray | Sequence[int],
    texts: Tensor,
    *,
    size_px: int,
    **options: Any,
) -> list[Detections]:
    """Boxes of texts in pictures.

    Parameters
    ----------
    detector : Detector
        Left in evaluation mode.
    store : ImageStore
    index : array of int, (picture,)
    texts : Tensor, (text, D)
    size_px : int
        Side of the frames that the detector sees.
    **options
        Of :func:`vision_methods.detection.best_boxes`.

    Returns
    -------
    list of Detections
        Of every picture, in its pixels; labels are numbers of the texts.
    """
    detector.eval()
    device, found = detector.log_scale.device, []
    index = np.asarray(index)
    for start in range(0, len(index), CHUNK):
        chosen = index[start : start + CHUNK]
        frames = framed(store, chosen, size_px)
        said = detector(frames.pictures.to(device).float() / 255)
        logits = detector.logits(said.embeddings, texts.to(device))
        for row, (height, width) in enumerate(store.sizes[chosen].tolist()):
            rows, columns = (frames.scale[row].flip(0) * torch.tensor([height, width])).round().long().tolist()
            each = best_boxes(
                said.places, logits[row], said.distances[row], said.centring[row], (rows, columns), **options
            )
            boxes = frames.to_picture(row, each.boxes.cpu())
            found.append(Detections(boxes, each.scores.cpu(), each.labels.cpu()))
    return found


@dataclass(frozen=True, eq=False)
class JudgedBoxes:
    """What a detector is judged by at the end of an epoch.

    Attributes
    ----------
    pictures : BoxedPictures
        With the boxes of all classes.
    texts : Tensor, (class, D)
        Clean vectors: no variants.
    novel : ndarray of bool, (class,)
        Classes that were held out.
    size_px : int
    """

    pictures: BoxedPictures
    texts: Tensor
    novel: np.ndarray
    size_px: int

    def __call__(self, detector: Detector) -> dict[str, float]:
        """Average precision of all, base and novel classes (:mod:`vision_methods.detection_scores`)."""
        found = detect(
            detector,
            self.pictures.store,
            range(len(self.pictures)),
            self.texts,
            size_px=self.size_px,
            least_score=0.01,
            candidates=300,
        )
        groups = {"base": ~self.novel} | ({"novel": self.novel} if self.novel.any() else {})
        return average_precision(self.pictures, found, groups)


class ThreeWays(nn.Module):
    """A detector while it is trained: a learner (:mod:`vision_methods.learner`).

    Parameters
    ----------
    detector : Detector
    pictures : BoxedPictures
        Of the classes that are trained on, and of no other.
    texts : Tensor, (variant, class, D)
        Vectors of these classes.
    batch : int
        Pictures with boxes per step, over all processes.
    size_px : int
        Side of the frames.
    least_zoom : float
        Pictures are scaled down to so much of the frame at most.
    mirror : bool
    pseudo : PseudoBoxes, optional
        Captioned pictures with a box for each caption; without any the run is the supervised one.
    caption_batch : int
        Captioned pictures per step, over all processes.
    caption_weight : float
        Of their loss.
    seed : int
    precision : {"bf16", "float32"}
        Of the networks; losses are float32.
    judged : JudgedBoxes, optional
    towers : path, optional
        Run of the towers, kept in the run folder: their texts are what the detector knows.
    about_data : str
        A line for the user.

    Raises
    ------
    ValueError
        If a batch does not fit, or the vectors not the classes.
    """

    labelled = None
    texts: Tensor

    def __init__(
        self,
        detector: Detector,
        pictures: BoxedPictures,
        texts: Tensor,
        *,
        batch: int,
        size_px: int,
        least_zoom: float = 1.0,
        mirror: bool = True,
        pseudo: PseudoBoxes | None = None,
        caption_batch: int = 16,
        caption_weight: float = 1.0,
        seed: int,
        precision: str = "float32",
        judged: JudgedBoxes | None = None,
        towers: Path | str | None = None,
        about_data: str = "",
    ) -> None:
        super().__init__()
        if texts.ndim != 3 or texts.shape[1] != len(pictures.classes):
            raise ValueError(
                f"Text vectors have shape {tuple(texts.shape)}; expected (variant, {len(pictures.classes)} classes, "
                "feature)."
            )
        self.online, self.pictures, self.batch, self.size_px = detector, pictures, batch, size_px
        self.least_zoom, self.mirror, self.seed, self.precision = least_zoom, mirror, seed, precision
        self.register_buffer("texts", texts, persistent=False)
        self.own, self.per_epoch = own_share(len(pictures), batch)
        self.pseudo = pseudo if pseudo is not None and len(pseudo.picture) and caption_weight else None
        self.caption_batch, self.caption_weight = caption_batch, caption_weight
        if self.pseudo is not None:
            # The vectors are buffers, not parameters: no gradient and no optimiser reaches the text tower.
            self.register_buffer("caption_texts", self.pseudo.texts, persistent=False)
            self.caption_batch = min(caption_batch, len(self.pseudo.picture))
            self.own_captions, _ = own_share(len(self.pseudo.picture), self.caption_batch)
        self.judged, self.towers, self.about_data = judged, towers, about_data
        self.pool = ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) - 1)))

    @property
    def backbone(self) -> Backbone:
        """The network of pictures."""
        return self.online.backbone  # pyright: ignore[reportReturnType]

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch of the pictures with boxes."""
        return self.per_epoch

    def _frames(self, store: ImageStore, index: np.ndarray, own: slice, generator: torch.Generator) -> Frames:
        """Share of this process in the frames of a batch."""
        count = len(index)
        shrink = self.least_zoom + (1 - self.least_zoom) * torch.rand(count, generator=generator)
        place = torch.rand(count, 2, generator=generator)
        flip = (torch.rand(count, generator=generator) < 0.5) & self.mirror
        return framed(
            store, index[own], self.size_px, shrink=shrink[own], place=place[own], flip=flip[own], pool=self.pool
        )

    def draw(self, step: int) -> DetectionBatch:
        """Share of this process in the pictures of a step."""
        index = shuffled_batch(len(self.pictures), self.batch, seed=self.seed, step=step)
        generator = counter_generator(self.seed, 11, step)
        frames = self._frames(self.pictures.store, index, self.own, generator)
        variants, classes, _ = self.texts.shape
        variant = torch.randint(variants, (classes,), generator=generator)
        boxes, labels = [], []
        known = torch.from_numpy(self.pictures.known[index[self.own]].copy())
        for row, picture in enumerate(index[self.own].tolist()):
            crowd = self.pictures.crowd[picture]
            # Where things of a class are not told apart, nothing is known of that class.
            known[row, self.pictures.labels[picture][crowd]] = False
            kept = ~crowd & known[row].numpy()[self.pictures.labels[picture]]
            boxes.append(frames.to_frame(row, torch.from_numpy(self.pictures.boxes[picture][kept])))
            labels.append(torch.from_numpy(self.pictures.labels[picture][kept]))
        captioned, pseudo, rows = None, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        if self.pseudo is not None:
            generator = counter_generator(self.seed, 12, step)
            chosen = torch.randperm(len(self.pseudo.picture), generator=generator)[: self.caption_batch]
            pictures = self.pseudo.picture[chosen.numpy()]
            captioned = self._frames(self.pseudo.captions.store, pictures, self.own_captions, generator)
            rows = chosen[self.own_captions]
            placed = [captioned.to_frame(row, self.pseudo.boxes[[each]]) for row, each in enumerate(rows.tolist())]
            pseudo = torch.cat(placed)
        return DetectionBatch(frames, boxes, labels, known, variant, captioned, pseudo, rows)

    def loss(self, batch: DetectionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of this process in the loss, and in what tells how it goes.

        Returns
        -------
        loss : Tensor
        numbers : dict of str to Tensor
            ``classes``, ``boxes``, ``centres`` and, with captions, ``captions``: the losses; ``positives``: locations
            of a picture that have a box; ``gates``: mean of ``|tanh(alpha)|``; ``scale``.
        """
        device, detector = self.online.log_scale.device, self.online
        count = len(batch.boxes)
        pictures = [batch.frames.pictures, *([] if batch.captioned is None else [batch.captioned.pictures])]
        images = torch.cat(pictures).to(device, non_blocking=True).float() / 255
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            found = detector(images.contiguous(memory_format=torch.channels_last))
        texts = self.texts[batch.variant.to(device), torch.arange(self.texts.shape[1], device=device)]
        sums = detection_loss(
            found.places,
            detector.logits(found.embeddings[:count], texts),
            found.distances[:count],
            found.centring[:count],
            [each.to(device) for each in batch.boxes],
            [each.to(device) for each in batch.labels],
            known=batch.known.to(device),
        )
        parts = _divided(sums)
        numbers = {name: part.detach() for name, part in parts.items()}
        loss = torch.stack(list(parts.values())).sum()
        if batch.captioned is not None:
            captions = self._captions(found, count, batch)
            loss = loss + self.caption_weight * captions
            numbers["captions"] = captions.detach()
        gates = [abs(each) for each in detector.gates().values()]
        numbers["positives"] = sums.positives / self.batch
        numbers["gates"] = loss.new_tensor(float(np.mean(gates)) / distributed.world_size())
        numbers["scale"] = detector.log_scale.detach().exp() / distributed.world_size()
        return loss, numbers

    def _captions(self, found: LocationOutputs, count: int, batch: DetectionBatch) -> Tensor:
        """Share of this process in the loss of captioned pictures, against the captions of all processes."""
        device = found.embeddings.device
        assert self.pseudo is not None
        rows = batch.rows.to(device)
        everyone = distributed.gather_over_processes(rows)
        first = distributed.rank() * len(rows)
        same = self.pseudo.same.to(device)[everyone]
        logits = self.online.logits(found.embeddings[count:], self.get_buffer("caption_texts")[everyone])
        inside = torch.stack([box_targets(found.places, box[None]) >= 0 for box in batch.pseudo.to(device)])
        total = caption_loss(logits, inside, first + torch.arange(len(rows), device=device), same)
        return total / distributed.sum_over_processes(inside.sum().to(total.dtype)).clamp(min=1)

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        """The scale of cosines grows to 100 at most."""
        self.online.log_scale.clamp_(max=float(np.log(MOST_SCALE)))

    def judge(self) -> dict[str, float]:
        """Average precision on pictures that were not trained on; leaves the detector in evaluation mode."""
        return self.judged(self.online) if self.judged else {}

    def write_besides(self, run: Path) -> None:
        """The detector, the towers that its texts come from, and a section of the report."""
        from vision_methods.three_ways_run import write_detector

        write_detector(run, self.online, self.towers, self.judge())


def _divided(sums: DetectionLoss) -> dict[str, Tensor]:
    """Shares of this process in the losses: its sums, divided by the positives of all processes."""
    with torch.no_grad():
        totals = distributed.sum_over_processes(torch.stack([sums.positives, sums.weight]))
        positives, weight = totals[0].clamp(min=1), totals[1].clamp(min=1e-6)
    return {"classes": sums.classes / positives, "boxes": sums.boxes / weight, "centres": sums.centres / positives}


def layer_strides(backbone: nn.Module, layers: Sequence[str], size_px: int) -> tuple[int, ...]:
    """Pixels between places of layers.

    Parameters
    ----------
    backbone : Module
        Images to a dict of maps.
    layers : sequence of str
    size_px : int
        Side of the images.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If there is no such layer, or its places do not divide the side.

    Examples
    --------
    >>> from vision_methods.backbones import make_backbone
    >>> layer_strides(make_backbone("conv4", seed=0), ["conv2", "conv4"], 64)
    (4, 8)
    """
    was = backbone.training
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, size_px, size_px))
    backbone.train(was)
    strides = []
    for layer in layers:
        if layer not in maps:
            raise ValueError(f"layers names {layer!r}; expected some of {', '.join(maps)}.")
        places = int(maps[layer].shape[-1])
        if size_px % places:
            raise ValueError(
                f"Layer {layer} has {places} places across {size_px} px; expected a divisor: choose --size-px anew."
            )
        strides.append(size_px // places)
    return tuple(strides)
