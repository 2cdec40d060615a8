"""Choosing pairs of pictures and captions to learn from: scores of a super-batch, and joint selection out of it.

A contrastive loss of a pair depends on the pairs beside it, so that a batch is scored as a whole: by how much larger
the learner's loss of it is than that of a reference model. Joint selection draws a batch from a larger one with
probability that grows with the exponential of that score, a chunk at a time, each chunk given those before it (Evans
et al. 2024, JEST, Algorithms 1 and 3; Udandarao et al. 2025, ACID, takes it over).

Letters in shapes: B pairs of the super-batch, b pairs that are chosen, N chunks, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Logits that are in memory at once.
PART = 2**20
#: Scores by name: whether the learner's loss counts, and whether the reference's does, negatively.
SCORES: dict[str, tuple[bool, bool]] = {
    "easy-reference": (False, True),
    "hard-learner": (True, False),
    "learnability": (True, True),
}
LOSSES = ("sigmoid", "softmax")


class Embeddings(NamedTuple):
    """What a model makes of pairs of pictures and captions: logits are ``scale * images @ texts.T + bias``.

    Attributes
    ----------
    images, texts : Tensor, shape (B, D)
        Embeddings of length 1.
    scale : float
    bias : float
        The softmax loss does not depend on it.
    """

    images: Tensor
    texts: Tensor
    scale: float
    bias: float = 0.0

    def take(self, index: Tensor) -> Embeddings:
        """Some of the pairs.

        Examples
        --------
        >>> Embeddings(torch.eye(3), torch.eye(3), 1.0).take(torch.tensor([2])).images
        tensor([[0., 0., 1.]])
        """
        return self._replace(images=self.images[index], texts=self.texts[index])


def _check_pairs(loss: str, **models: Embeddings | None) -> int:
    """Number of pairs, the same for all models that there are."""
    shapes = {
        f"{name} {side}": tuple(getattr(pairs, side).shape)
        for name, pairs in models.items()
        if pairs is not None
        for side in ("images", "texts")
    }
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; expected one of {', '.join(LOSSES)}.")
    if not shapes:
        raise ValueError("Neither learner nor reference was given; expected one of them, or both.")
    rows = {shape[0] if len(shape) == 2 else 0 for shape in shapes.values()}
    if len(rows) > 1 or 0 in rows:
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"Embeddings have shapes {said}; expected (pair, feature) of the same pairs, at least one.")
    return rows.pop()


class _Conditional:
    """Loss that each pair would have, and add to those chosen, if it joined them: of one model."""

    def __init__(self, pairs: Embeddings, loss: str) -> None:
        images, texts = pairs.images.detach().float(), pairs.texts.detach().float()
        self.sides = ((images * pairs.scale, texts), (texts * pairs.scale, images))
        self.sigmoid = loss == "sigmoid"
        self.bias = images.new_tensor(pairs.bias if self.sigmoid else 0.0)
        own = (self.sides[0][0] * texts).sum(1) + self.bias
        self.own = F.softplus(-own) if self.sigmoid else -own
        # Sigmoid: sum over the chosen of both directions' losses. Softmax: each direction's log of the normaliser.
        start = [0.0] if self.sigmoid else [-torch.inf, -torch.inf]
        self.given = [torch.full_like(own, value) for value in start]
        self.chosen = 0

    def add(self, index: Tensor) -> None:
        self.chosen += len(index)
        for part in index.split(max(1, PART // len(self.own))):
            for side, (anchors, others) in enumerate(self.sides):
                logits = torch.addmm(self.bias, anchors[part], others.T)
                if self.sigmoid:
                    self.given[0] += F.softplus(logits).sum(0)
                else:
                    self.given[side] = torch.logaddexp(self.given[side], logits.logsumexp(0))

    def loss(self) -> Tensor:
        if self.sigmoid:
            return self.own + self.given[0]
        return self.own + (self.given[0] + self.given[1]) / 2 if self.chosen else self.own


class Insertion:
    """What each pair of a super-batch adds to the score of the pairs chosen so far.

    The score of a batch is the learner's loss minus the reference's; one of them may be left out
    (:data:`SCORES`). With ``nll`` the matrix of a model's terms of the sigmoid loss and ``m`` those chosen, pair ``k``
    adds ``nll_kk + sum_i m_i nll_ik + sum_j m_j nll_kj`` (Algorithm 1 of JEST): summed over a batch that grows pair by
    pair this is ``b`` times its loss. With the softmax loss it is the loss of pair ``k`` with the chosen as its
    negatives, ``-P_kk + (logsumexp_j P_kj + logsumexp_i P_ik) / 2`` (Algorithm 3, with the reference's own diagonal,
    where the printed one has the learner's). While none is chosen both are the terms of the pair alone.

    Only logits between chosen pairs and the others are made, a part at a time, and none is kept: memory is of the
    order of B D, where the printed algorithm holds matrices of B x B.

    Parameters
    ----------
    learner, reference : Embeddings or None
    loss : {"sigmoid", "softmax"}

    Raises
    ------
    ValueError
        If both are None, shapes do not fit, or the loss is unknown.

    Examples
    --------
    >>> pairs = Embeddings(torch.eye(3), torch.eye(3), scale=10.0, bias=-10.0)
    >>> joins = Insertion(pairs, None, loss="sigmoid")
    >>> joins.scores()
    tensor([0.6931, 0.6931, 0.6931])
    >>> joins.choose(torch.tensor([0]))
    >>> joins.scores()[1:]
    tensor([0.6932, 0.6932])
    """

    def __init__(self, learner: Embeddings | None, reference: Embeddings | None, *, loss: str = "sigmoid") -> None:
        self.pairs = _check_pairs(loss, learner=learner, reference=reference)
        self._models = [
            (sign, _Conditional(pairs, loss)) for sign, pairs in ((1, learner), (-1, reference)) if pairs is not None
        ]

    @torch.no_grad()
    def scores(self) -> Tensor:
        """What every pair would add; of no meaning for those chosen.

        Returns
        -------
        Tensor, shape (B,)
            float32.
        """
        return torch.stack([sign * model.loss() for sign, model in self._models]).sum(0)

    @torch.no_grad()
    def choose(self, index: Tensor) -> None:
        """Add pairs to those chosen.

        Parameters
        ----------
        index : Tensor of int, shape (n,)
            None of them chosen before.
        """
        with torch.autocast(index.device.type, enabled=False):
            for _, model in self._models:
                model.add(index)


@torch.no_grad()
def conditional_losses(pairs: Embeddings, *, loss: str = "sigmoid") -> Tensor:
    """Loss of every pair given all the others; their mean is the loss of the batch.

    Softmax: half the sum of both directions' cross-entropies (JEST eq. 1). Sigmoid: the loss of the pair and of its
    picture with all other captions (eq. 2). A few rows of logits at a time; without gradient.

    Parameters
    ----------
    pairs : Embeddings
    loss : {"sigmoid", "softmax"}

    Returns
    -------
    Tensor, shape (B,)

    Raises
    ------
    ValueError
        If shapes do not fit, or the loss is unknown.

    Examples
    --------
    >>> conditional_losses(Embeddings(torch.eye(2), torch.eye(2), scale=10.0, bias=-10.0))
    tensor([0.6932, 0.6932])
    """
    count = _check_pairs(loss, pairs=pairs)
    images, texts = pairs.images.float() * pairs.scale, pairs.texts.float()
    own = (images * texts).sum(1)
    rows, columns = [], torch.full_like(own, -torch.inf)
    for part in images.split(max(1, PART // count)):
        logits = part @ texts.T
        if loss == "sigmoid":
            rows.append(F.softplus(logits + pairs.bias).sum(1))
        else:
            rows.append(logits.logsumexp(1))
            columns = torch.logaddexp(columns, logits.logsumexp(0))
    if loss == "sigmoid":
        return torch.cat(rows) - own - pairs.bias  # softplus(-x) = softplus(x) - x
    return (torch.cat(rows) + columns) / 2 - own


def batch_score(learner: Embeddings | None, reference: Embeddings | None, *, loss: str = "sigmoid") -> Tensor:
    """Score of a batch: the learner's loss minus the reference's; one of them may be left out (:data:`SCORES`).

    Parameters
    ----------
    learner, reference : Embeddings or None
    loss : {"sigmoid", "softmax"}

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        If both are None, shapes do not fit, or the loss is unknown.

    Examples
    --------
    >>> pairs = Embeddings(torch.eye(2), torch.eye(2), scale=10.0, bias=-10.0)
    >>> batch_score(pairs, pairs), batch_score(None, pairs)
    (tensor(0.), tensor(-0.6932))
    """
    _check_pairs(loss, learner=learner, reference=reference)
    found = [
        sign * conditional_losses(pairs, loss=loss).mean()
        for sign, pairs in ((1, learner), (-1, reference))
        if pairs is not None
    ]
    return torch.stack(found).sum()


def chunk_sizes(select: int, chunks: int) -> list[int]:
    """Pairs in each chunk: as equal as can be, the larger ones first.

    Integers throughout: ``int(B * (1 - f) / N)`` is one too few for some shares, as 1 - 0.8 is below 0.2.

    Parameters
    ----------
    select : int
        Pairs that are chosen, b.
    chunks : int
        N.

    Returns
    -------
    list of int

    Raises
    ------
    ValueError
        If there are more chunks than pairs, or less than one.

    Examples
    --------
    >>> chunk_sizes(10, 4)
    [3, 3, 2, 2]
    """
    if not 1 <= chunks <= select:
        raise ValueError(f"{chunks} chunks of {select} pairs were asked for; expected 1 to {select} chunks.")
    return [select // chunks + (i < select % chunks) for i in range(chunks)]


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, drawn on the generator's device.

    The largest k of logits plus this noise are k draws without replacement with weights ``exp(logits)``.

    Parameters
    ----------
    shape : tuple of int
    generator : torch.Generator

    Returns
    -------
    Tensor
        float32.

    Examples
    --------
    >>> gumbel_noise((16, 3), torch.Generator().manual_seed(0)).shape
    torch.Size([16, 3])
    """
    draws = torch.empty(shape, dtype=torch.float64, device=generator.device).exponential_(generator=generator)
    return -draws.clamp_min(1e-300).log().float()


def _check_select(select: int, pairs: int) -> None:
    if not 1 <= select <= pairs:
        raise ValueError(f"{select} of {pairs} pairs were asked for; expected 1 to {pairs}.")


@torch.no_grad()
def select_jointly(
    learner: Embeddings | None,
    reference: Embeddings | None,
    select: int,
    *,
    noise: Tensor,
    loss: str = "sigmoid",
    gain: float = 1.0,
) -> Tensor:
    """Draw a batch from a super-batch, in chunks, each given those before it.

    In each chunk pairs are drawn without replacement with weights ``exp(gain * score)``, where the score is what the
    pair adds to those chosen before (:class:`Insertion`); in the first, that of the pair alone. The text of JEST says
    so of the first chunk; Algorithm 1 as printed leaves it open. Algorithm 2 has a gain of 100, Algorithm 1 none.

    Parameters
    ----------
    learner, reference : Embeddings or None
        Both: learnability. The reference alone: easy for the reference. The learner alone: hard for the learner.
    select : int
        Pairs to draw, b.
    noise : Tensor, shape (N, B)
        From :func:`gumbel_noise`, a row for every chunk; 16 are enough (JEST, Fig. 2). Zeros: the largest scores.
    loss : {"sigmoid", "softmax"}
    gain : float
        Multiplies the scores; 0 draws uniformly.

    Returns
    -------
    Tensor of int64, shape (b,)
        In the order of the chunks.

    Raises
    ------
    ValueError
        If shapes do not fit, the loss is unknown, there are more chunks than pairs to draw, or a score is not finite.

    Examples
    --------
    >>> learner = Embeddings(torch.eye(4), torch.eye(4)[[0, 1, 3, 2]], scale=10.0, bias=-10.0)
    >>> reference = Embeddings(torch.eye(4), torch.eye(4), scale=10.0, bias=-10.0)
    >>> select_jointly(learner, reference, 2, noise=torch.zeros(1, 4)).sort().values
    tensor([2, 3])
    """
    joins = Insertion(learner, reference, loss=loss)
    _check_select(select, joins.pairs)
    if noise.ndim != 2 or noise.shape[1] != joins.pairs:
        raise ValueError(f"Noise has shape {tuple(noise.shape)}; expected (chunk, pair) with {joins.pairs} pairs.")
    sizes, chosen, found = chunk_sizes(select, len(noise)), [], []
    taken = torch.zeros(joins.pairs, dtype=torch.bool, device=noise.device)
    for size, draws in zip(sizes, noise, strict=True):
        scores = (gain * joins.scores()).to(noise.device)
        index = (scores + draws).masked_fill(taken, -torch.inf).topk(size).indices
        taken[index] = True
        found.append(scores[index])
        chosen.append(index)
        if len(chosen) < len(sizes):
            joins.choose(index)
    if not torch.cat(found).isfinite().all():
        raise ValueError("Scores of pairs are not finite; expected embeddings, scales and biases that are.")
    return torch.cat(chosen)


def select_independently(
    learner: Embeddings | None,
    reference: Embeddings | None,
    select: int,
    *,
    noise: Tensor,
    loss: str = "sigmoid",
    gain: float = 1.0,
) -> Tensor:
    """Draw pairs by the score that each has in the whole super-batch: what joint selection is compared with.

    Without replacement, with weights ``exp(gain * score)``; the score is the difference of :func:`conditional_losses`.

    Parameters
    ----------
    learner, reference : Embeddings or None
        As in :func:`select_jointly`.
    select : int
    noise : Tensor, shape (B,)
        From :func:`gumbel_noise`.
    loss : {"sigmoid", "softmax"}
    gain : float

    Returns
    -------
    Tensor of int64, shape (b,)

    Raises
    ------
    ValueError
        If shapes do not fit, or the loss is unknown.

    Examples
    --------
    >>> pairs = Embeddings(torch.eye(3), torch.eye(3), scale=10.0)
    >>> select_independently(pairs, pairs, 2, noise=torch.tensor([0.0, 2.0, 1.0]))
    tensor([1, 2])
    """
    count = _check_pairs(loss, learner=learner, reference=reference)
    _check_select(select, count)
    if noise.shape != (count,):
        raise ValueError(f"Noise has shape {tuple(noise.shape)}; expected ({count},), a number for every pair.")
    scores = torch.zeros_like(noise)
    for sign, pairs in ((1, learner), (-1, reference)):
        if pairs is not None:
            scores = scores + sign * conditional_losses(pairs, loss=loss)
    return (gain * scores + noise).topk(select).indices
