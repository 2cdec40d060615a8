"""Explicit distillation of a contrastive model: a student's in-batch probabilities follow those of a teacher.

Udandarao et al. 2025 (ACED, eq. 3, known to us second-hand; spelled out here). Selection of examples by a reference
model distils as well, without this term (:mod:`vision_methods.acid`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lcl import distributed
from vision_methods.siglip import _in_chunks


def distillation_loss(
    images: Tensor,
    texts: Tensor,
    teacher_images: Tensor,
    teacher_texts: Tensor,
    *,
    scale: Tensor | float,
    teacher_scale: Tensor | float,
    chunk: int | None = None,
) -> Tensor:
    """Cross-entropy of a student's matches within the batch with those of a teacher, in both directions.

    ``-1/2B sum_i sum_j (P_ij log Q_ij + P'_ij log Q'_ij)`` over the B pairs of all processes: P and Q are the rows'
    softmax of teacher's and student's scaled similarities of pictures with texts, P' and Q' of texts with pictures. A
    constant that is added to all similarities, such as SigLIP's bias, changes nothing. No gradient reaches the teacher.

    Parameters
    ----------
    images, texts : Tensor, (b, D)
        The student's unit vectors of this process's pairs.
    teacher_images, teacher_texts : Tensor, (b, E)
        The teacher's, of the same pairs.
    scale, teacher_scale : float or Tensor
        Of each model's own similarities.
    chunk : int, optional
        Rows of the matrices that are held at a time; all without it.

    Returns
    -------
    Tensor
        Share of this process in the loss; see :mod:`lcl.distributed`.

    Raises
    ------
    ValueError
        If the shapes do not fit, or ``chunk`` is below 1.

    Examples
    --------
    >>> eye = torch.eye(2)  # the entropy of softmax([1, 0])
    >>> distillation_loss(eye, eye, eye, eye, scale=1.0, teacher_scale=1.0)
    tensor(0.5822)
    """
    shapes = [tuple(each.shape) for each in (images, texts, teacher_images, teacher_texts)]
    if any(len(shape) != 2 for shape in shapes) or shapes[0] != shapes[1] or shapes[2] != shapes[3]:
        raise ValueError(f"Embeddings have shapes {shapes}; expected (pair, feature), one width for each model.")
    if shapes[0][0] != shapes[2][0] or not shapes[0][0]:
        raise ValueError(f"Embeddings have shapes {shapes}; expected the same pairs of both models, at least one.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected at least 1 row, or None for all.")
    student = [each.to(torch.promote_types(each.dtype, torch.float32)) for each in (images, texts)]
    teacher = [each.detach().to(student[0].dtype) for each in (teacher_images, teacher_texts)]
    all_student, all_teacher = (
        [distributed.gather_over_processes(each) for each in side] for side in (student, teacher)
    )
    kept = torch.as_tensor(teacher_scale).detach()

    def part(rows: slice) -> Tensor:
        total = student[0].new_zeros(())
        for own, other in ((0, 1), (1, 0)):
            wanted = (kept * (teacher[own][rows] @ all_teacher[other].T)).softmax(1)
            found = (scale * (student[own][rows] @ all_student[other].T)).log_softmax(1)
            total = total - (wanted * found).sum()
        return total

    with torch.autocast(images.device.type, enabled=False):
        return _in_chunks(part, len(images), chunk) / (2 * len(all_student[0]))
