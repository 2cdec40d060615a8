"""Selection against the printed algorithm on whole matrices, against one draw at a time, and at its limits."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2

from vision_methods import joint_selection as module
from vision_methods.joint_selection import (
    LOSSES,
    SCORES,
    Embeddings,
    Insertion,
    batch_score,
    chunk_sizes,
    conditional_losses,
    gumbel_noise,
    select_independently,
    select_jointly,
)


def random_pairs(seed, count=24, features=8, scale=10.0, bias=-3.0, agree=0.7):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, features, generator=generator)
    texts = agree * images + torch.randn(count, features, generator=generator)
    return Embeddings(F.normalize(images, dim=1), F.normalize(texts, dim=1), scale, bias)


def noise(seed, chunks, count):
    return gumbel_noise((chunks, count), torch.Generator().manual_seed(seed))


def pairs_with(nll):
    """Pairs whose sigmoid terms are a given matrix of positive numbers."""
    nll = torch.as_tensor(nll, dtype=torch.float64)
    logits = torch.log(torch.expm1(nll))
    logits.diagonal().neg_()
    return Embeddings(torch.eye(len(nll)), logits.T.float(), 1.0, 0.0)


def logit_matrix(pairs):
    return pairs.scale * pairs.images.double() @ pairs.texts.double().T + pairs.bias


def sigmoid_terms(pairs):
    signs = 2 * torch.eye(len(pairs.images), dtype=torch.float64) - 1
    return -F.logsigmoid(signs * logit_matrix(pairs))


def printed_algorithm(learner, reference, select, draws, loss, gain=1.0):
    """Algorithms 1 and 3 of JEST on whole matrices, in double precision; the reference's diagonal is its own."""
    models = [(sign, pairs) for sign, pairs in ((1, learner), (-1, reference)) if pairs is not None]
    count = draws.shape[1]
    mask = torch.zeros(count, dtype=torch.float64)
    chosen = []
    for size, row in zip(chunk_sizes(select, len(draws)), draws, strict=True):
        scores = torch.zeros(count, dtype=torch.float64)
        for sign, pairs in models:
            if loss == "sigmoid":
                matrix = sigmoid_terms(pairs)
                scores += sign * (matrix.diag() + mask @ matrix + matrix @ mask)
            else:
                matrix = logit_matrix(pairs)
                scores -= sign * matrix.diag()
                if mask.any():
                    closed = torch.where(mask > 0, 0.0, -torch.inf)
                    scores += sign * ((matrix + closed).logsumexp(1) + (matrix.T + closed).logsumexp(1)) / 2
        picked = (gain * scores + row - 1e8 * mask).topk(size).indices
        mask[picked] = 1
        chosen.append(picked)
    return torch.cat(chosen)


@pytest.fixture(params=[1, 2**20])
def in_parts(request, monkeypatch):
    """A row of logits at a time, or all."""
    monkeypatch.setattr(module, "PART", request.param)


def test_golden_sigmoid_loss():
    pairs = Embeddings(torch.eye(2), torch.eye(2), 10.0, -10.0)
    expected = math.log(2) + math.log1p(math.exp(-10))
    assert expected == pytest.approx(0.693193, abs=5e-7)
    assert float(conditional_losses(pairs).mean()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_conditional_losses_are_the_equations_and_average_to_the_loss_of_the_batch(scale):
    pairs = random_pairs(0, scale=scale)
    logits, own = logit_matrix(pairs), torch.arange(24)
    softmax = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    each = -(logits.log_softmax(1).diag() + logits.log_softmax(0).diag()) / 2
    torch.testing.assert_close(conditional_losses(pairs, loss="softmax").double(), each, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(conditional_losses(pairs, loss="softmax").double().mean(), softmax, atol=1e-5, rtol=1e-5)
    rows = [
        math.log1p(math.exp(-logits[i, i])) + sum(math.log1p(math.exp(logits[i, j])) for j in range(24) if j != i)
        for i in range(24)
    ]
    torch.testing.assert_close(conditional_losses(pairs), torch.tensor(rows), atol=1e-5, rtol=1e-5)
    # big_vision: the mean over pictures of the sum over captions, not the mean of all entries.
    torch.testing.assert_close(
        conditional_losses(pairs).double().mean(), sigmoid_terms(pairs).sum() / 24, atol=1e-5, rtol=1e-5
    )


def test_the_softmax_loss_does_not_see_the_bias():
    pairs, other = random_pairs(0), random_pairs(1)
    moved = pairs._replace(bias=5.0)
    assert conditional_losses(pairs, loss="softmax").equal(conditional_losses(moved, loss="softmax"))
    draws = noise(0, 4, 24)
    one, two = (select_jointly(each, other, 8, noise=draws, loss="softmax") for each in (pairs, moved))
    assert one.equal(two)


def test_golden_insertion():
    """S = 1..9 and item 0 chosen: 11 and 19, up to the constant that a reference adds to every entry."""
    learner = pairs_with([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    joins = Insertion(learner, None)
    torch.testing.assert_close(joins.scores(), torch.tensor([1.0, 5.0, 9.0]))
    joins.choose(torch.tensor([0]))
    torch.testing.assert_close(joins.scores()[1:], torch.tensor([11.0, 19.0]))
    even = pairs_with([[math.log(2)] * 3] * 3)
    joins = Insertion(learner, even)
    joins.choose(torch.tensor([0]))
    torch.testing.assert_close(joins.scores()[1:], torch.tensor([11.0, 19.0]) - 3 * math.log(2))


@pytest.mark.usefixtures("in_parts")
def test_insertions_sum_to_b_times_the_difference_of_the_losses():
    learner, reference = random_pairs(0, scale=8.0), random_pairs(1, scale=12.0, bias=-5.0)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))[:9]
    joins, total = Insertion(learner, reference), 0.0
    for index in order:
        total += float(joins.scores()[index])
        joins.choose(index[None])
    score = batch_score(learner.take(order), reference.take(order))
    assert total == pytest.approx(9 * float(score), abs=1e-4)
    terms = sigmoid_terms(learner) - sigmoid_terms(reference)
    assert total == pytest.approx(float(terms[order][:, order].sum()), abs=1e-4)


@pytest.mark.usefixtures("in_parts")
def test_softmax_insertion_is_the_conditional_loss_with_the_chosen_as_negatives():
    learner, reference = random_pairs(0, scale=8.0), random_pairs(1, scale=20.0)
    chosen = torch.tensor([3, 17, 5, 11])
    joins = Insertion(learner, reference, loss="softmax")
    joins.choose(chosen[:3])
    joins.choose(chosen[3:])
    found = joins.scores()
    for k in set(range(24)) - set(chosen.tolist()):
        expected = 0.0
        for sign, pairs in ((1, learner), (-1, reference)):
            matrix = logit_matrix(pairs)
            both = matrix[k, chosen].logsumexp(0) + matrix[chosen, k].logsumexp(0)
            expected += sign * float(both / 2 - matrix[k, k])
        assert float(found[k]) == pytest.approx(expected, abs=1e-4)


def test_learnability_is_hard_plus_easy():
    learner, reference = random_pairs(0), random_pairs(1)
    assert SCORES["learnability"] == (True, True)
    for loss in LOSSES:
        sides = {name: (learner if use[0] else None, reference if use[1] else None) for name, use in SCORES.items()}
        score = {name: batch_score(*each, loss=loss) for name, each in sides.items()}
        torch.testing.assert_close(score["learnability"], score["hard-learner"] + score["easy-reference"])
        joins = {name: Insertion(*each, loss=loss) for name, each in sides.items()}
        for _ in range(2):
            found = {name: each.scores() for name, each in joins.items()}
            torch.testing.assert_close(found["learnability"], found["hard-learner"] + found["easy-reference"])
            for each in joins.values():
                each.choose(torch.tensor([2, 7]))


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("select", "chunks", "gain"), [(9, 1, 1.0), (9, 4, 1.0), (9, 9, 0.5), (20, 3, 100.0)])
def test_it_is_the_printed_algorithm(loss, score, select, chunks, gain):
    with_learner, with_reference = SCORES[score]
    learner = random_pairs(0, scale=8.0) if with_learner else None
    reference = random_pairs(1, scale=14.0, bias=-5.0) if with_reference else None
    draws = noise(3, chunks, 24)
    found = select_jointly(learner, reference, select, noise=draws, loss=loss, gain=gain)
    assert found.tolist() == printed_algorithm(learner, reference, select, draws, loss, gain).tolist()


@pytest.mark.parametrize("loss", LOSSES)
def test_choosing_all_is_a_permutation(loss):
    found = select_jointly(random_pairs(0), random_pairs(1), 24, noise=noise(0, 5, 24), loss=loss)
    assert sorted(found.tolist()) == list(range(24))


@pytest.mark.parametrize("count", [16, 30, 31])
@pytest.mark.parametrize("filter_ratio", [0, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_exactly_b_unique_pairs(count, filter_ratio, chunks):
    select = max(chunks, round(count * (1 - filter_ratio)))
    learner, reference = random_pairs(0, count), random_pairs(1, count)
    for loss in LOSSES:
        found = select_jointly(learner, reference, select, noise=noise(0, chunks, count), loss=loss, gain=100.0)
        assert len(found) == len(set(found.tolist())) == select
        assert min(found) >= 0
        assert max(found) < count


@pytest.mark.parametrize(
    ("pairs", "filter_ratio", "chunks", "each"),
    [(163840, 0.8, 16, 2048), (163840, 0.9, 16, 1024), (327680, 0.9, 16, 2048), (80, 0.8, 2, 8)],
)
def test_chunks_have_the_sizes_that_the_printed_formula_misses(pairs, filter_ratio, chunks, each):
    assert int(pairs * (1 - filter_ratio) / chunks) == each - 1
    assert chunk_sizes(round(pairs * (1 - filter_ratio)), chunks) == [each] * chunks


def test_the_remainder_is_spread():
    assert chunk_sizes(3277, 16) == [205] * 13 + [204] * 3


def test_one_chunk_has_the_weights_of_the_diagonal():
    learner, reference = random_pairs(0, 6), random_pairs(1, 6)
    draws = noise(0, 1, 6)
    for loss in LOSSES:
        sign = [torch.log1p(torch.exp(-logit_matrix(pairs).diag())) for pairs in (learner, reference)]
        if loss == "softmax":
            sign = [-logit_matrix(pairs).diag() for pairs in (learner, reference)]
        expected = (sign[0] - sign[1] + draws[0]).topk(3).indices
        assert select_jointly(learner, reference, 3, noise=draws, loss=loss).tolist() == expected.tolist()


def chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_learner_that_is_its_reference_draws_uniformly(loss):
    """Every item equally often, and every pair of items too; one that is easy for a reference is drawn more often."""
    pairs, draws = random_pairs(0, 6), 2000
    singles, together, easy = np.zeros(6), np.zeros((6, 6)), np.zeros(6)
    generator = torch.Generator().manual_seed(1)
    for _ in range(draws):
        found = select_jointly(pairs, pairs, 2, noise=gumbel_noise((2, 6), generator), loss=loss).numpy()
        singles[found] += 1
        together[found.min(), found.max()] += 1
        easy[select_jointly(None, pairs, 2, noise=gumbel_noise((2, 6), generator), loss=loss).numpy()] += 1
    # Two of six without replacement: the counts vary by 1 - 2/6 and a little, less than independent draws.
    assert chi_square(singles, draws * 2 / 6) < chi2.ppf(0.999, 5)
    assert chi_square(together[np.triu_indices(6, 1)], draws / 15) < chi2.ppf(0.999, 14)
    assert chi_square(easy, draws * 2 / 6) > 3 * chi2.ppf(0.999, 5)


def test_draws_follow_the_exponential_of_the_score():
    """One of four, and the second given the first, against probabilities written out."""
    nll = torch.tensor([[0.2, 0.9, 0.3, 0.4], [0.5, 0.6, 0.1, 1.2], [0.7, 0.2, 1.1, 0.3], [0.6, 0.8, 0.4, 0.9]])
    learner, draws = pairs_with(nll), 3000
    counts, generator = np.zeros((4, 4)), torch.Generator().manual_seed(0)
    for _ in range(draws):
        first, second = select_jointly(learner, None, 2, noise=gumbel_noise((2, 4), generator)).tolist()
        counts[first, second] += 1
    first = nll.diag().exp().numpy() / nll.diag().exp().sum().item()
    expected = []
    for i in range(4):
        weights = np.array([math.exp(nll[k, k] + nll[i, k] + nll[k, i]) if k != i else 0.0 for k in range(4)])
        expected.append(draws * first[i] * weights / weights.sum())
    other = ~np.eye(4, dtype=bool)
    assert chi_square(counts[other], np.array(expected)[other]) < chi2.ppf(0.999, 11)


def test_a_constant_added_to_every_term_changes_nothing():
    nll = torch.rand(10, 10, generator=torch.Generator().manual_seed(0)) + 0.5
    draws = noise(1, 3, 10)
    found = [select_jointly(pairs_with(each), None, 6, noise=draws).tolist() for each in (nll, nll + 0.75)]
    assert found[0] == found[1]


def test_gain_without_end_is_greedy_and_none_is_uniform():
    learner, reference = random_pairs(0), random_pairs(1)
    draws = noise(0, 4, 24)
    for loss in LOSSES:
        options = {"loss": loss}
        greedy = select_jointly(learner, reference, 8, noise=torch.zeros(4, 24), **options)
        assert select_jointly(learner, reference, 8, noise=draws, gain=1e6, **options).tolist() == greedy.tolist()
        taken, expected = set(), []
        for row in draws:
            order = [int(i) for i in row.argsort(descending=True) if int(i) not in taken][:2]
            taken.update(order)
            expected += order
        assert select_jointly(learner, reference, 8, noise=draws, gain=0.0, **options).tolist() == expected


@pytest.mark.parametrize("loss", LOSSES)
def test_it_follows_a_permutation_of_the_super_batch(loss):
    learner, reference, draws = random_pairs(0), random_pairs(1), noise(2, 4, 24)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    found = select_jointly(learner, reference, 10, noise=draws, loss=loss)
    moved = select_jointly(learner.take(order), reference.take(order), 10, noise=draws[:, order], loss=loss)
    assert order[moved].tolist() == found.tolist()


@pytest.mark.parametrize("loss", LOSSES)
def test_independent_selection_draws_by_the_difference_of_conditional_losses(loss):
    learner, reference, draws = random_pairs(0), random_pairs(1), noise(2, 1, 24)[0]
    difference = conditional_losses(learner, loss=loss) - conditional_losses(reference, loss=loss)
    expected = (3.0 * difference + draws).topk(5).indices
    found = select_independently(learner, reference, 5, noise=draws, loss=loss, gain=3.0)
    assert found.tolist() == expected.tolist()


def noisy_pool(seed, count=200):
    """Learner that knows a little, reference that knows more; the captions of the last half are of other pictures."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(count, 16, generator=generator)
    swapped = latent.clone()
    swapped[count // 2 :] = latent[count // 2 :].roll(1, 0)
    sides = []
    for spread in (2.0, 0.5):
        images = F.normalize(latent + spread * torch.randn(count, 16, generator=generator), dim=1)
        texts = F.normalize(swapped + spread * torch.randn(count, 16, generator=generator), dim=1)
        sides.append(Embeddings(images, texts, 10.0, -5.0))
    return sides


@pytest.mark.parametrize("loss", LOSSES)
def test_a_hard_learner_keeps_noise_and_an_easy_reference_leaves_it_out(loss):
    noisy = {name: [] for name in SCORES}
    for seed in range(5):
        learner, reference = noisy_pool(seed)
        for name, (with_learner, with_reference) in SCORES.items():
            sides = learner if with_learner else None, reference if with_reference else None
            found = select_jointly(*sides, 40, noise=noise(seed, 8, 200), loss=loss, gain=10.0)
            noisy[name].append(float((found >= 100).float().mean()))
    share = {name: np.mean(each) for name, each in noisy.items()}
    assert share["hard-learner"] > 0.6
    assert share["easy-reference"] < 0.1
    assert share["learnability"] < 0.4


def test_joint_selection_finds_batches_of_a_higher_score_than_independent_selection():
    """The more is thrown away the more so (JEST, Fig. 2), at the same gain."""
    ahead = []
    for filter_ratio in (0, 0.5, 0.8, 0.9):
        select, difference = round(200 * (1 - filter_ratio)), []
        for seed in range(8):
            learner, reference = noisy_pool(seed)
            joint = select_jointly(learner, reference, select, noise=noise(seed, 10, 200), gain=100.0)
            alone = select_independently(learner, reference, select, noise=noise(seed, 1, 200)[0], gain=100.0)
            scores = [batch_score(learner.take(each), reference.take(each)) for each in (joint, alone)]
            difference.append(float(scores[0] - scores[1]))
        ahead.append(np.mean(difference))
    assert ahead[0] == pytest.approx(0, abs=1e-4)
    assert all(each > 0 for each in ahead[1:])


def test_more_chunks_come_nearer_to_the_distribution_over_all_batches():
    """Probabilities that grow with the exponential of a batch's score, over all 495 batches of four of twelve."""
    batches = np.array(list(combinations(range(12), 4)))
    found = {"chance": [], 1: [], 2: [], 4: [], "aim": []}
    for seed in range(4):
        learner, reference = random_pairs(seed, 12, scale=8.0), random_pairs(seed + 50, 12, scale=14.0, bias=-5.0)
        terms = (sigmoid_terms(learner) - sigmoid_terms(reference)).numpy()
        scores = np.array([terms[np.ix_(each, each)].sum() for each in batches])
        weights = np.exp(scores - scores.max())
        found["chance"].append(scores.mean())
        found["aim"].append((weights * scores).sum() / weights.sum())
        generator = torch.Generator().manual_seed(seed)
        for chunks in (1, 2, 4):
            drawn = [
                select_jointly(learner, reference, 4, noise=gumbel_noise((chunks, 12), generator)).numpy()
                for _ in range(150)
            ]
            found[chunks].append(np.mean([terms[np.ix_(each, each)].sum() for each in drawn]))
    mean = {name: np.mean(values) for name, values in found.items()}
    assert mean["chance"] < mean[1] < mean[2] < mean[4] < mean["aim"]
    assert mean[4] - mean["chance"] > 0.75 * (mean["aim"] - mean["chance"])


def test_half_precision_embeddings_are_scored_in_single():
    learner, reference = random_pairs(0), random_pairs(1)
    halves = [each._replace(images=each.images.half(), texts=each.texts.half()) for each in (learner, reference)]
    with torch.autocast("cpu", torch.bfloat16):
        joins = Insertion(*halves)
        joins.choose(torch.arange(5))
        found = joins.scores()
    singles = [each._replace(images=each.images.float(), texts=each.texts.float()) for each in halves]
    joins = Insertion(*singles)
    joins.choose(torch.arange(5))
    assert found.dtype == torch.float32
    assert found.equal(joins.scores())


def test_embeddings_get_no_gradient():
    pairs = random_pairs(0)
    images = pairs.images.clone().requires_grad_()
    learner = pairs._replace(images=images)
    for loss in LOSSES:
        joins = Insertion(learner, pairs, loss=loss)
        joins.choose(torch.tensor([1]))
        assert not joins.scores().requires_grad
        assert not conditional_losses(learner, loss=loss).requires_grad


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"select": 25}, "25 of 24"),
        ({"select": 0}, "0 of 24"),
        ({"select": 3}, "4 chunks of 3"),
        ({"noise": torch.zeros(4, 23)}, "expected \\(chunk, pair\\)"),
        ({"learner": None, "reference": None}, "Neither learner nor reference"),
        ({"learner": random_pairs(0, 23)}, "of the same pairs"),
        ({"loss": "clip"}, "loss is 'clip'"),
        ({"learner": random_pairs(0)._replace(scale=float("nan"))}, "not finite"),
    ],
)
def test_bad_input_is_refused(change, said):
    given = {"learner": random_pairs(0), "reference": random_pairs(1), "select": 8, "noise": torch.zeros(4, 24)}
    given |= change
    with pytest.raises(ValueError, match=said):
        select_jointly(**given)


def test_independent_selection_refuses_noise_of_another_size():
    with pytest.raises(ValueError, match="a number for every pair"):
        select_independently(random_pairs(0), random_pairs(1), 8, noise=torch.zeros(23))
