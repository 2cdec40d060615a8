"""Distillation against the equation, its limits, and as what selection does implicitly. A script, it is a process."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from vision_methods.distillation import distillation_loss
from vision_methods.joint_selection import Embeddings, conditional_losses


def embeddings(seed, count=7, features=5):
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, count, features, generator=generator, dtype=torch.float64)
    return list(F.normalize(both, dim=2))


def cross_entropy(wanted, logits):
    return -(wanted * logits.log_softmax(-1)).sum(-1)


def equation(student, teacher, scale, teacher_scale):
    found, wanted = scale * student[0] @ student[1].T, teacher_scale * teacher[0] @ teacher[1].T
    both = cross_entropy(wanted.softmax(1), found) + cross_entropy(wanted.T.softmax(1), found.T)
    return both.mean() / 2


@pytest.mark.parametrize("chunk", [None, 1, 3, 7])
def test_it_is_the_equation_and_its_gradient(chunk):
    student, teacher = embeddings(0), embeddings(1, features=9)
    scale = torch.tensor(4.0, dtype=torch.float64)
    values = [each.requires_grad_() for each in (*student, scale)]
    loss = distillation_loss(*student, *teacher, scale=scale, teacher_scale=6.0, chunk=chunk)
    expected = equation(student, teacher, scale, 6.0)
    torch.testing.assert_close(loss, expected)
    for one, two in zip(torch.autograd.grad(loss, values), torch.autograd.grad(expected, values), strict=True):
        torch.testing.assert_close(one, two)


def test_a_teacher_that_is_the_student_gives_its_entropy_and_no_gradient():
    student = [each.requires_grad_() for each in embeddings(0)]
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    loss = distillation_loss(*student, *student, scale=scale, teacher_scale=scale)
    logits = (scale * student[0] @ student[1].T).detach()
    entropy = [-(p * p.log()).sum(1).mean() for p in (logits.softmax(1), logits.T.softmax(1))]
    torch.testing.assert_close(loss.detach(), sum(entropy) / 2)
    for gradient in torch.autograd.grad(loss, [*student, scale]):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_a_constant_added_to_similarities_changes_nothing():
    student, teacher = embeddings(0), embeddings(1)
    # A feature that all pictures and texts share adds a constant to all similarities.
    wider = [torch.cat([each, torch.full((7, 1), 1.5, dtype=torch.float64)], 1) for each in student]
    options = {"scale": 4.0, "teacher_scale": 6.0}
    torch.testing.assert_close(
        distillation_loss(*wider, *teacher, **options), distillation_loss(*student, *teacher, **options)
    )


def test_no_gradient_reaches_the_teacher():
    student, teacher = embeddings(0), [each.requires_grad_() for each in embeddings(1)]
    scale = torch.tensor(2.0, requires_grad=True)
    student[0].requires_grad_()
    distillation_loss(*student, *teacher, scale=2.0, teacher_scale=scale).backward()
    assert student[0].grad is not None
    assert scale.grad is None
    assert all(each.grad is None for each in teacher)


def test_weights_of_selection_are_implicit_distillation():
    """Easy reference: cross-entropy to the product of label and reference; learnability: to that over the student.

    With the texts as the pictures both directions are one, and the conditional losses are cross-entropies to labels.
    """
    weights = {}
    q_logits, p_logits = (4.0 * z @ z.T for z, _ in (embeddings(0), embeddings(1)))
    for name, (z, _) in (("student", embeddings(0)), ("reference", embeddings(1))):
        weights[name] = conditional_losses(Embeddings(z, z, 4.0), loss="softmax").double()
    p, q, labels = p_logits.softmax(1), q_logits.softmax(1), torch.eye(7, dtype=torch.float64)
    student = cross_entropy(labels, q_logits)
    easy = torch.exp(-weights["reference"]) * student
    torch.testing.assert_close(easy, cross_entropy(p * labels, q_logits), rtol=1e-5, atol=1e-6)
    learnability = torch.exp(weights["student"] - weights["reference"]) * student
    torch.testing.assert_close(learnability, cross_entropy(p / q * labels, q_logits), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"texts": torch.zeros(6, 5)}, "one width for each model"),
        ({"teacher_images": torch.zeros(6, 5), "teacher_texts": torch.zeros(6, 5)}, "the same pairs"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_bad_input_is_refused(change, said):
    given = dict(zip(("images", "texts", "teacher_images", "teacher_texts"), [torch.zeros(7, 5)] * 4, strict=True))
    with pytest.raises(ValueError, match=said):
        distillation_loss(**(given | {"scale": 1.0, "teacher_scale": 1.0} | change))


def learn(rows):
    """Share of the loss, and gradients, of some of the pairs."""
    student = [each[rows].requires_grad_() for each in embeddings(0)]
    teacher = [each[rows] for each in embeddings(1)]
    loss = distillation_loss(*student, *teacher, scale=4.0, teacher_scale=6.0, chunk=2)
    loss.backward()
    return {"loss": loss.detach().numpy(), **{f"gradient {i}": each.grad.numpy() for i, each in enumerate(student)}}


def test_two_processes_learn_as_one(as_two_processes, tmp_path):
    alone = as_two_processes(__file__, tmp_path, beside=lambda: learn(slice(None)))
    together = [dict(np.load(tmp_path / f"{number}.npz")) for number in (0, 1)]
    assert sum(each["loss"] for each in together) == pytest.approx(alone["loss"], rel=1e-12)
    for name in ("gradient 0", "gradient 1"):
        np.testing.assert_allclose(np.concatenate([each[name] for each in together]), alone[name], rtol=1e-10)


def main(folder, number):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    try:
        np.savez(folder / f"{number}.npz", **learn(slice(0, 3) if number == 0 else slice(3, None)))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
