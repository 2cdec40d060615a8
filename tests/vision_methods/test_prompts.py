"""Prompts: what a picture gets, what is trained, and that a picture's answer is its own."""

import pytest
import torch

from vision_methods.prompted_vit import Ask, prompt_similarity, run_prompted
from vision_methods.prompts import L2P, CODAPrompt, DualPrompt, OnlyPrompt, TaskPrompts, orthogonal_rows
from vision_methods.vit import ViT

WIDTH = 12


@pytest.fixture(scope="module")
def vit():
    made = ViT(
        size_px=16, patch_px=8, width=WIDTH, depth=3, heads=2, generator=torch.Generator().manual_seed(0)
    ).requires_grad_(False)
    with torch.no_grad():
        for parameter in made.parameters():  # larger than initial weights, so that pictures differ
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    return made.eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def count(module):
    return sum(each.numel() for each in module.parameters())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_published_parameter_counts():
    assert count(L2P(768, pool=10, length=5, top_k=5)) == 46_080
    assert count(DualPrompt(768, tasks=10, length=5, shared_blocks=(0, 1), task_blocks=(2, 3, 4))) == 253_440
    assert count(TaskPrompts(768, tasks=10, length=5, blocks=range(5))) == 384_000
    assert count(CODAPrompt(768, tasks=10, components=10, length=2, blocks=range(5))) == 153_600
    assert count(OnlyPrompt(768, 768)) == 768
    assert count(OnlyPrompt(768, 3840)) == 3_840
    assert count(OnlyPrompt(768, 48)) == 48


@pytest.mark.parametrize("read", ["class", "patches", "prompts"])
def test_l2p_of_one_prompt_without_pull_is_only_prompt(vit, images, read):
    l2p = L2P(WIDTH, pool=1, length=1, top_k=1, pull=0.0, generator=generator())
    only = OnlyPrompt(WIDTH, WIDTH)
    only.trained.data.copy_(l2p.prompts.data[0, 0])
    ask = Ask(run_prompted(vit, images), 0)
    outputs = [run_prompted(vit, images, prompt(ask), read=read) for prompt in (l2p, only)]
    assert torch.equal(*outputs)
    for each in outputs:
        each.sum().backward()
    torch.testing.assert_close(l2p.prompts.grad[0, 0], only.trained.grad)  # sums in another order
    assert l2p.keys.grad is None
    assert l2p(ask).pull is None


def test_l2p_chooses_by_cosine_and_pulls_keys(vit, images):
    l2p = L2P(WIDTH, pool=4, length=2, top_k=2, pull=0.5, generator=generator())
    query = run_prompted(vit, images)
    found = l2p(Ask(query, 0))
    cosines = torch.nn.functional.cosine_similarity(query[:, None], l2p.keys[None], dim=2)
    for i in range(6):
        best = cosines[i].argsort(descending=True)[:2]
        assert torch.equal(found.tokens[i], l2p.prompts[best].flatten(0, 1))
    torch.testing.assert_close(found.pull, -0.5 * cosines.topk(2).values.sum(1).mean())
    same = l2p(Ask(query[:1].expand(6, -1), 0))
    assert prompt_similarity(same.flat()) == pytest.approx(100)
    assert prompt_similarity(found.flat()) < 100 or len(set(map(tuple, cosines.topk(2).indices.tolist()))) == 1


def test_answers_depend_on_the_batch_with_batchwise_prompting_alone(vit, images):
    query = run_prompted(vit, images)
    for batchwise in (False, True):
        l2p = L2P(WIDTH, pool=6, length=1, top_k=1, batchwise=batchwise, generator=generator())
        l2p.keys.data.copy_(query)  # each picture is nearest to its own key
        dual = DualPrompt(
            WIDTH, tasks=6, length=1, shared_blocks=(0,), task_blocks=(1,), batchwise=batchwise, generator=generator()
        ).eval()
        dual.keys.data.copy_(query)
        for prompt in (l2p, dual):
            prompt.requires_grad_(False)
            # As long as tokens are, so that they show in the output.
            for parameter in prompt.parameters():
                parameter.mul_(1 if parameter.shape == (6, WIDTH) else 50)
            whole = run_prompted(vit, images, prompt(Ask(query, 5)))
            alone = torch.cat(
                [run_prompted(vit, images[i : i + 1], prompt(Ask(query[i : i + 1], 5))) for i in range(6)]
            )
            turned = run_prompted(vit, images.flip(0), prompt(Ask(query.flip(0), 5))).flip(0)
            independent = torch.allclose(whole, alone, atol=1e-4) and torch.allclose(whole, turned, atol=1e-4)
            assert independent is not batchwise


def test_dual_prompt_gives_each_picture_the_keys_of_its_own_prompt():
    dual = DualPrompt(WIDTH, tasks=4, length=3, shared_blocks=(0,), task_blocks=(1, 2), generator=generator()).eval()
    index = torch.tensor([2, 0, 3])
    found = dual(Ask(torch.rand(3, WIDTH, generator=generator()), 3, index))
    for place, block in enumerate((1, 2)):
        keys, values = found.prefixes[block]
        for i, prompt in enumerate(index):
            assert torch.equal(keys[i], dual.of_tasks.prompts[place, 0, prompt])
            assert torch.equal(values[i], dual.of_tasks.prompts[place, 1, prompt])
    assert torch.equal(found.prefixes[0][0][1], dual.shared[0, 0])
    assert torch.equal(found.prefixes[0][1][2], dual.shared[0, 1])


def test_dual_prompt_learns_by_task_and_is_asked_by_key():
    dual = DualPrompt(WIDTH, tasks=3, length=1, shared_blocks=(0,), task_blocks=(1,), pull=0.1, generator=generator())
    query = torch.rand(2, WIDTH, generator=generator())
    learning = dual.train()(Ask(query, 1))
    assert torch.equal(learning.prefixes[1][0][0], dual.of_tasks.prompts[0, 0, 1])
    cosines = torch.nn.functional.cosine_similarity(query, dual.keys[1:2], dim=1)
    torch.testing.assert_close(learning.pull, -0.1 * cosines.mean())
    dual.keys.data[2] = query[0]  # a task to come is never chosen
    dual.keys.data[0] = query[0]
    asked = dual.eval()(Ask(query, 1))
    assert torch.equal(asked.prefixes[1][0][0], dual.of_tasks.prompts[0, 0, 0])
    assert asked.pull is None


def test_coda_trains_the_components_of_the_task_alone():
    coda = CODAPrompt(WIDTH, tasks=3, components=7, length=2, blocks=(0, 2), generator=generator())
    assert [coda.share(task) for task in range(3)] == [(0, 2), (2, 4), (4, 7)]  # 7 is no multiple of 3
    query = torch.rand(4, WIDTH, generator=generator())
    for task in range(3):
        coda.begin_task(task, generator=generator(task))
        coda.zero_grad()
        found = coda(Ask(query, task))
        found.flat().square().sum().backward()
        start, stop = coda.share(task)
        for each in (coda.components, coda.keys, coda.attention):
            assert (each.grad[:, :start] == 0).all()
            assert (each.grad[:, stop:] == 0).all()
            assert (each.grad[:, start:stop] != 0).any()
    for each in (coda.components, coda.keys, coda.attention):
        for rows in each.flatten(2):
            torch.testing.assert_close(rows @ rows.T, torch.eye(7), rtol=0, atol=1e-5)


def test_coda_weights_by_hand():
    coda = CODAPrompt(WIDTH, tasks=1, components=3, length=4, blocks=(1,), generator=generator())
    query = torch.rand(2, WIDTH, generator=generator())
    keys, values = coda(Ask(query, 0)).prefixes[1]
    expected = torch.zeros(2, 4, WIDTH)
    for b in range(2):
        for m in range(3):
            attended = query[b] * coda.attention[0, m]
            weight = torch.nn.functional.cosine_similarity(attended, coda.keys[0, m], dim=0)
            expected[b] += weight * coda.components[0, m]
    torch.testing.assert_close(torch.cat([keys, values], 1), expected)
    with pytest.raises(ValueError, match="even"):
        CODAPrompt(WIDTH, tasks=1, components=3, length=3, blocks=(1,))


def test_orthogonal_rows_keep_those_before():
    rows = torch.randn(4, 6, generator=generator())
    found = orthogonal_rows(rows, 2, 4, generator=generator(1))
    assert torch.equal(found[:2], rows[:2])
    assert (found[2:] @ found[:2].T).abs().max() < 1e-6
    torch.testing.assert_close(found[2:] @ found[2:].T, torch.eye(2), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="orthogonal"):
        orthogonal_rows(torch.zeros(4, 3), 0, 4)


def test_task_prompts_start_near_earlier_ones():
    prompts = TaskPrompts(WIDTH, tasks=3, length=2, blocks=(0,), momentum=1.0, generator=generator())
    prompts.begin_task(2, generator=generator())
    torch.testing.assert_close(prompts.prompts[:, :, 2], prompts.prompts[:, :, :2].mean(2))


def test_part_of_a_token_is_trained(vit, images):
    only = OnlyPrompt(WIDTH, 5, generator=generator())
    before = only(Ask(torch.zeros(1, WIDTH), 0)).tokens[0]
    optimiser = torch.optim.Adam(only.parameters(), lr=0.1)
    run_prompted(vit, images, only(Ask(torch.zeros(6, WIDTH), 0)))[:, 0].sum().backward()
    optimiser.step()
    after = only(Ask(torch.zeros(1, WIDTH), 0)).tokens[0]
    assert (before[0, :5] != after[0, :5]).all()
    assert torch.equal(before[0, 5:], after[0, 5:])
