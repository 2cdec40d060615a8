"""Self-training of a detector from captions: one box for a whole caption, against the other captions of a batch.

A trained detector is shown a picture with its whole caption as the one text, and keeps its best box. In training that
caption is the class of the box, and the captions of the other pictures are its negatives. Source: the whole caption and
negatives of the batch are confirmed of Arandjelovic et al. 2023 (3Ways) by Minderer et al. 2023 (OWLv2); which box is
kept, and the rest, is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vision_methods.boxed_pictures import framed
from vision_methods.captions import Captions
from vision_methods.detection import decode, focal_loss
from vision_methods.pyramid import Detector

#: Pictures at once where a detector is run.
CHUNK = 16


class PseudoBoxes(NamedTuple):
    """Captioned pictures and the box that a detector finds for each caption.

    Attributes
    ----------
    captions : Captions
    picture : ndarray of int, (caption,)
        Number of the picture.
    texts : Tensor, (caption, D)
        Unit vectors of the captions.
    same : Tensor of int64, (caption,)
        Equal for captions of the same words.
    boxes : Tensor, (caption, 4)
        In pixels of the picture.
    scores : Tensor, (caption,)
    """

    captions: Captions
    picture: np.ndarray
    texts: Tensor
    same: Tensor
    boxes: Tensor
    scores: Tensor

    def above(self, least_score: float) -> PseudoBoxes:
        """Those whose score is high enough."""
        kept = self.scores >= least_score
        parts = (each[kept] for each in (self.texts, self.same, self.boxes, self.scores))
        return PseudoBoxes(self.captions, self.picture[kept.numpy()], *parts)


@torch.no_grad()
def pseudo_boxes(detector: Detector, captions: Captions, texts: Tensor, *, size_px: int) -> PseudoBoxes:
    """Best box of every whole caption, in its picture.

    Parameters
    ----------
    detector : Detector
        Left in evaluation mode.
    captions : Captions
    texts : Tensor, (caption, D)
        Vectors of ``captions.flat()``.
    size_px : int
        Side of the frames that the detector sees.

    Returns
    -------
    PseudoBoxes

    Raises
    ------
    ValueError
        If there is not one vector for each caption.
    """
    words, owners = captions.flat(), captions.owners()
    if len(texts) != len(words):
        raise ValueError(f"There are vectors of {len(texts)} texts; expected {len(words)}, one for each caption.")
    numbers: dict[str, int] = {}
    same = torch.tensor([numbers.setdefault(text, len(numbers)) for text in words])
    device = detector.log_scale.device
    boxes, scores = torch.zeros(len(words), 4), torch.zeros(len(words))
    starts = np.searchsorted(owners, np.arange(len(captions) + 1))
    detector.eval()
    for start in range(0, len(captions), CHUNK):
        index = np.arange(start, min(start + CHUNK, len(captions)))
        frames = framed(captions.store, index, size_px)
        found = detector(frames.pictures.to(device).float() / 255)
        for row, picture in enumerate(index.tolist()):
            own = slice(starts[picture], starts[picture + 1])
            logits = detector.logits(found.embeddings[row], texts[own].to(device))
            likely = (logits.sigmoid() * found.centring[row].sigmoid()[:, None]).sqrt()
            best, where = likely.max(0)
            said = decode(found.places.points[where], found.distances[row, where]).cpu()
            height, width = captions.store.sizes[picture].tolist()
            inside = frames.to_picture(row, said)
            limits = inside.new_tensor([width, height] * 2)
            boxes[own], scores[own] = torch.minimum(inside.clamp(min=0), limits), best.cpu()
    return PseudoBoxes(captions, owners, texts.cpu(), same, boxes, scores)


def caption_loss(logits: Tensor, inside: Tensor, own: Tensor, same: Tensor) -> Tensor:
    """Focal loss of pictures against the captions of a batch, summed.

    At the locations of a picture's pseudo-box its own caption is the one positive and all others are negatives;
    elsewhere all others are negatives, and of its own it is not known. Captions of the same words as a picture's own
    are never its negatives.

    Parameters
    ----------
    logits : Tensor, (picture, location, caption)
    inside : Tensor of bool, (picture, location)
        Locations of the pseudo-box.
    own : Tensor of int64, (picture,)
        Place of each picture's caption among the captions.
    same : Tensor of int64, (caption,)
        Equal for captions of the same words.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> inside = torch.tensor([[True, False]])
    >>> caption_loss(torch.zeros(1, 2, 1), inside, torch.tensor([0]), torch.tensor([5]))  # it has no negative
    tensor(0.0433)
    """
    target, counts = caption_targets(own, same)
    targets = inside[:, :, None] & target[:, None]
    known = targets | counts[:, None]
    return (focal_loss(logits, targets) * known).sum()


def caption_targets(own: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of pictures (picture, caption): which caption is a picture's own, and which are its negatives.

    Examples
    --------
    >>> target, negative = caption_targets(torch.tensor([0, 1, 2]), torch.tensor([4, 7, 4]))
    >>> target.int(), negative.int()
    (tensor([[1, 0, 0],
             [0, 1, 0],
             [0, 0, 1]], dtype=torch.int32), tensor([[0, 1, 0],
             [1, 0, 1],
             [0, 1, 0]], dtype=torch.int32))
    """
    target = torch.arange(len(same), device=same.device) == own[:, None]
    return target, same != same[own][:, None]
