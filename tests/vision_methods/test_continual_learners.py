"""Learners on a small transformer: what is trained, what stays, and that answers are a picture's own."""

import numpy as np
import pytest
import torch

from lcl.images import open_images
from lcl.labelled_images import LabelledImages
from lcl.recognition import RecognitionNet, alexnet_head
from lcl.stages import LCLV2
from vision_methods.continual_config import ContinualConfig
from vision_methods.continual_learners import Tuned, seen_classes
from vision_methods.continual_methods import read_method
from vision_methods.continual_networks import Source, TransformerBase, V2NetBase
from vision_methods.continual_protocol import best_seen
from vision_methods.vit import ViT

TASKS = [np.array([0, 3]), np.array([1, 5]), np.array([2, 4])]
CONFIG = ContinualConfig(
    size_px=16, tasks=3, epochs=2, batch=8, learning_rate=0.02, projections=30, fisher_pictures=4, blocks=(0, 1),
    align_epochs=1, read="class", wait_epochs=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def base():
    made = ViT(size_px=16, patch_px=8, width=12, depth=3, heads=2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    return TransformerBase(made, "class").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def source(base):
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 6
    pictures = [np.clip(40 * label + rng.integers(0, 80, (16, 16, 3)), 0, 255).astype(np.uint8) for label in labels]
    return Source(
        LabelledImages(open_images(pictures), labels, tuple("abcdef")),
        base,
        16,
        cap_bytes=2**30,
        device=torch.device("cpu"),
    )


def learner(text, base, tasks=TASKS, config=CONFIG, seed=0):
    return read_method(text, config).learner(base, tasks, seed=seed)


def learned(text, base, source, upto=3, tasks=TASKS, config=CONFIG):
    made = learner(text, base, tasks, config)
    for task in range(min(upto, len(tasks))):
        made.learn(source, np.flatnonzero(np.isin(source.labels, tasks[task])), task)
    return made


def state(made):
    # The regulariser's own notes are not what is compared.
    return {name: value for name, value in made.state_dict().items() if not name.startswith("regulariser")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["onlyprompt", "finetune", "adapter", "dualprompt"])
@pytest.mark.parametrize("regulariser", ["+ewc:ewc_lambda=0", "+si:si_c=0"])
def test_strength_zero_is_plain_training_to_the_last_bit(name, regulariser, base, source):
    assert same(state(learned(name, base, source)), state(learned(name + regulariser, base, source)))


@pytest.mark.parametrize("regulariser", ["+ewc:ewc_lambda=1000000", "+si:si_c=1000"])
def test_a_penalty_changes_later_tasks_alone(regulariser, base, source):
    plain, held = learner("onlyprompt", base), learner("onlyprompt" + regulariser, base)
    for task, alike in ((0, True), (1, False)):
        for each in (plain, held):
            each.learn(source, np.flatnonzero(np.isin(source.labels, TASKS[task])), task)
        assert same(state(plain), state(held)) is alike


def test_si_path_leaves_the_penalty_out(base, source):
    # The path of the second task is made of gradients of its loss alone: with the penalty in it, a huge c would show.
    def path(strength):
        made = learner(f"onlyprompt+si:si_c={strength},optimizer=sgd,learning_rate=0.0000001", base)
        kept = []
        ends = type(made.regulariser).end_task

        def note(self):
            kept.append(self.path[0].clone())
            ends(self)

        made.regulariser.end_task = note.__get__(made.regulariser)
        for task in range(2):
            made.learn(source, np.flatnonzero(np.isin(source.labels, TASKS[task])), task)
        return kept[1]

    # Steps are so small that the penalty, near 0, leaves them almost alone.
    torch.testing.assert_close(path(0.0), path(1.0), rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("name", ["linear", "onlyprompt", "l2p", "lora"])
def test_head_rows_of_other_tasks_stay(name, base, source):
    made = learned(name, base, source, 1)
    before = made.head.weight.detach().clone(), made.head.bias.detach().clone()
    made.learn(source, np.flatnonzero(np.isin(source.labels, TASKS[1])), 1)
    others = [0, 3, 2, 4]
    assert torch.equal(made.head.weight[others], before[0][others])
    assert torch.equal(made.head.bias[others], before[1][others])
    assert (made.head.weight[TASKS[1]] != before[0][TASKS[1]]).any()


@pytest.mark.parametrize("setting", ["weight_decay=0.1", "reset_optimizer=false", "mask=false"])
def test_they_move_with_decay_old_moments_or_without_the_mask(setting, base, source):
    made = learned(f"linear:{setting}", base, source, 1)
    before = made.head.weight.detach().clone()
    made.learn(source, np.flatnonzero(np.isin(source.labels, TASKS[1])), 1)
    assert (made.head.weight[TASKS[0]] != before[TASKS[0]]).any()


@pytest.mark.parametrize(
    "text",
    [
        *("linear", "nmc", "ranpac", "adam", "ranpac-first", "onlyprompt", "l2p", "dualprompt", "coda", "hide", "lae"),
        *("adapter", "lora", "finetune", "l2p:query=random"),
    ],
)
def test_answers_are_a_pictures_own_and_the_network_stays(text, base, source):
    before = {name: value.clone() for name, value in base.state_dict().items()}
    made, index = learned(text, base, source), np.arange(48)
    seen = seen_classes(TASKS, 2)
    scores = made.scores(source, index, seen)
    assert scores.shape == (48, 6)
    alone = torch.cat([made.scores(source, index[i : i + 1], seen) for i in range(0, 48, 5)])
    torch.testing.assert_close(alone, scores[::5], rtol=1e-4, atol=1e-4)
    turned = made.scores(source, index[::-1].copy(), seen).flip(0)
    torch.testing.assert_close(turned, scores, rtol=1e-4, atol=1e-4)
    assert same(before, dict(base.state_dict()))
    assert all(parameter.grad is None for parameter in base.parameters())
    assert torch.isin(best_seen(scores, [1, 5]), torch.tensor([1, 5])).all()


def test_batchwise_prompting_makes_answers_depend_on_the_batch(base, source):
    text = "dualprompt:batchwise=true,learning_rate=0.1"
    made, index = learned(text, base, source), np.arange(48)
    # Keys such that about half of the pictures are nearest to each.
    with torch.no_grad():
        features = source.features(index)
        made.tuner.keys[:2] = features[[0, 5]]
        made.tuner.of_tasks.prompts.mul_(50)
    seen = seen_classes(TASKS, 2)
    whole = made.scores(source, index, seen)
    alone = torch.cat([made.scores(source, index[i : i + 1], seen) for i in range(48)])
    assert not torch.allclose(whole, alone, atol=1e-4)
    assert not read_method(text, CONFIG).valid
    assert not read_method("l2p:query=oracle", CONFIG).valid
    assert read_method("l2p", CONFIG).valid


def test_l2p_of_one_prompt_is_only_prompt_through_all_tasks(base, source):
    l2p = learner("l2p:pool=1,top_k=1,length=1,pull=0,prompt_read=class,optimizer=sgd", base)
    only = learner("onlyprompt:optimizer=sgd", base)
    with torch.no_grad():
        only.tuner.trained.copy_(l2p.tuner.prompts[0, 0])
    for task in range(3):
        for each in (l2p, only):
            each.learn(source, np.flatnonzero(np.isin(source.labels, TASKS[task])), task)
    torch.testing.assert_close(l2p.tuner.prompts[0, 0], only.tuner.trained, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(l2p.head.weight, only.head.weight, rtol=1e-3, atol=1e-5)


def test_without_a_query_all_pictures_get_the_same(base, source):
    for name in ("l2p", "dualprompt", "coda"):
        assert learned(f"{name}:query=constant", base, source, 1).similarity(source, np.arange(48)) == pytest.approx(
            100
        )
    assert learned("onlyprompt", base, source, 1).similarity(source, np.arange(48)) == pytest.approx(100)
    assert learned("coda", base, source, 1).similarity(source, np.arange(48)) < 100
    assert np.isnan(learned("adapter", base, source, 1).similarity(source, np.arange(48)))


def test_oracle_of_dual_prompt_is_the_true_task(base, source):
    made, index = learned("dualprompt:query=oracle", base, source), np.arange(48)
    made.eval()
    found = made.tuner(made.ask(source, index, None, 2)).prefixes[1][0]
    tasks = made.task_of[source.labels]
    for picture in range(48):
        assert torch.equal(found[picture], made.tuner.of_tasks.prompts[0, 0, tasks[picture]])


def test_queries_do_not_see_prompts(base, source):
    made, index = learner("l2p", base), np.arange(48)
    before = made.ask(source, index, None, 0).query
    torch.testing.assert_close(
        before, base.vit(source.squares(index).float() / 255)["norm"][:, 0], rtol=1e-4, atol=1e-5
    )
    after = learned("l2p", base, source).ask(source, index, None, 0).query
    assert torch.equal(before, after)
    assert not before.requires_grad


@pytest.mark.parametrize("name", ["nmc", "ranpac:ridge=10"])
def test_prototypes_do_not_depend_on_tasks(name, base, source):
    everything = seen_classes(TASKS, 2)
    split = learned(name, base, source).scores(source, np.arange(48), everything)
    joint = learned(name, base, source, tasks=[everything]).scores(source, np.arange(48), everything)
    torch.testing.assert_close(split, joint, rtol=0, atol=1e-8)


def test_ranpac_chooses_its_penalty_on_all_classes(base, source):
    made, seen = learner("ranpac", base, [seen_classes(TASKS, 2)]), []
    made.classifier.add = lambda features, labels: seen.append(labels)
    by_class = np.argsort(source.labels, kind="stable")
    made.learn(source, by_class, 0)
    last = seen[0][-len(by_class) // 5 :]
    assert len(torch.unique(last)) > 2
    assert sorted(seen[0].tolist()) == sorted(source.labels.tolist())


def test_adam_that_adapts_nothing_is_class_means(base, source):
    adam = learner("adam", base)
    adam.first.features = lambda source, index, task: source.features(index)
    for task in range(3):
        if task == 0:
            adam.first.learn = lambda *a: None
        adam.learn(source, np.flatnonzero(np.isin(source.labels, TASKS[task])), task)
    seen = seen_classes(TASKS, 2)
    nmc = learned("nmc", base, source)
    torch.testing.assert_close(
        adam.scores(source, np.arange(48), seen), nmc.scores(source, np.arange(48), seen), rtol=0, atol=1e-9
    )


def test_first_only_leaves_the_prompt_after_the_first_task(base, source):
    made = learned("onlyprompt+first", base, source, 1)
    prompt, head = made.tuner.trained.detach().clone(), made.head.weight.detach().clone()
    made.learn(source, np.flatnonzero(np.isin(source.labels, TASKS[1])), 1)
    assert torch.equal(made.tuner.trained, prompt)
    assert not torch.equal(made.head.weight, head)


def test_lae_waits_and_follows(base, source):
    made = learned("lae:keep=0.0", base, source, 1)
    for slow, fast in zip(made.pair.offline.parameters(), made.pair.online.parameters(), strict=True):
        assert torch.equal(slow, fast)
    before = [each.detach().clone() for each in made.pair.online.parameters()]
    made.config = read_method("lae:wait_epochs=2", CONFIG).config
    made.learn(source, np.flatnonzero(np.isin(source.labels, TASKS[1])), 1)
    for each, kept in zip(made.pair.online.parameters(), before, strict=True):
        assert torch.equal(each, kept)


def test_parameter_counts_leave_the_head_out(base, source):
    assert learner("linear", base).tuned == learner("nmc", base).tuned == 0
    assert learner("onlyprompt:parameters=5", base).tuned == 5
    assert learner("adam", base).tuned == 5 * 12
    assert learner("l2p", base).tuned == 10 * 2 * 12 + 10 * 12
    assert learner("finetune", base).tuned == sum(each.numel() for each in base.vit.parameters())


def test_frozen_stages_stay_and_the_rest_learns():
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 6
    pictures = [rng.integers(0, 256, (63, 63, 3), dtype=np.uint8) for _ in labels]
    images = LabelledImages(open_images(pictures), labels, tuple("abcdef"))
    for frozen in (["V1", "V2"], []):
        chain = LCLV2(generator=torch.Generator().manual_seed(0))
        head = alexnet_head(192, 6, width=16, pool=1, channels=(8, 8, 8), generator=torch.Generator().manual_seed(1))
        base = V2NetBase(RecognitionNet(chain, head, frozen=frozen)).eval().requires_grad_(False)
        source = Source(images, base, 63, cap_bytes=2**30, device=torch.device("cpu"))
        made = learned(
            "finetune", base, source, 1, config=ContinualConfig(size_px=63, epochs=1, batch=4, network_rate=0.01)
        )
        assert isinstance(made, Tuned)
        assert made.network is not None
        moved = {
            name for name, value in made.network.state_dict().items() if not torch.equal(value, base.state_dict()[name])
        }
        assert any(name.startswith("rest.") for name in moved)
        assert any(name.startswith("front.") for name in moved) is not bool(frozen)
        rest = sum(each.numel() for each in base.rest.parameters())
        front = sum(each.numel() for each in base.front.parameters())
        assert made.tuned == rest + (0 if frozen else front)
