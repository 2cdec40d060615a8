"""The loss against a loop written from its equation, known values and limits; pooling against loops.

Run as a script, this file is one of two processes.
"""

import math
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lcl.distributed import sum_gradients, world_size
from vision_methods import region_contrast as module
from vision_methods.heads import mlp
from vision_methods.momentum import target_of
from vision_methods.region_contrast import label_grid, nt_xent, pool_masks, pool_regions, region_contrast, sample_ids

GOLDEN_IDS = torch.tensor([[0, 1, 1], [2, 0, 5]]), torch.tensor([[1, 0, 3], [2, 2, 4]])


def golden(k, batch=2, masks=3, features=4):
    b, s, d = (torch.arange(n, dtype=torch.float64) for n in (batch, masks, features))
    b, s = b[:, None, None], s[:, None]
    return torch.sin(k + 1.3 * b + 0.7 * s * (d + 1) + 0.5 * d**2)


def loop(queries, keys, ids, temperature, local_negatives=True, present=None):
    """The equation, query by query. Each argument but the temperature is a pair, of view 1 and view 2."""
    batch, masks = ids[0].shape
    if present is None:
        present = [torch.ones_like(each, dtype=torch.bool) for each in ids]
    keys = [key / key.norm(dim=-1, keepdim=True) for key in keys]
    total = 0
    for view, b, s in product(range(2), range(batch), range(masks)):
        if not present[view][b, s]:
            continue
        name, query = ids[view][b, s], queries[view][b, s] / queries[view][b, s].norm()
        candidates, positives = [], []
        for other, image, sample in product(range(2), range(batch), range(masks)):
            if not present[other][image, sample]:
                continue
            same = image == b and ids[other][image, sample] == name
            logit = query @ keys[other][image, sample] / temperature
            if other != view and same:
                positives.append(logit)
            elif image == b and (same or not local_negatives):
                continue
            candidates.append(logit)
        if positives:
            carriers = sum(bool(present[view][b, i]) for i in range(masks) if ids[view][b, i] == name)
            nce = torch.stack(candidates).logsumexp(0) - torch.stack(positives).mean()
            total = total + nce / carriers
    return total / (batch * masks)


def simclr(first, second, temperature):
    """NT-Xent by cross-entropy over the matrix of all similarities."""
    both = F.normalize(torch.cat([first, second]), dim=1)
    logits = (both @ both.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(both)).roll(len(first)))


def latents(seed, batch=4, masks=5, features=6, number=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, masks, features, generator=generator, dtype=torch.float64).to(dtype) for _ in range(number)
    ]


def random_ids(seed, batch=4, masks=5, names=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, names, (2, batch, masks), generator=generator).unbind()


@pytest.fixture(params=["whole", "parts"])
def in_parts(request, monkeypatch):
    """Queries at once, or three at a time."""
    if request.param == "parts":
        monkeypatch.setattr(module, "CHUNK", 1)
        monkeypatch.setattr(module, "LEAST_ROWS", 3)


@pytest.mark.parametrize(
    ("temperature", "local_negatives", "detcon_b", "detcon_s"),
    [
        (0.1, True, 6.182436, 9.896040),
        (0.1, False, 4.652870, 9.471892),
        (1.0, True, 2.194142, 2.702494),
        (1.0, False, 1.817025, 2.313039),
    ],
)
def test_golden_losses(temperature, local_negatives, detcon_b, detcon_s):
    a, b, c, d = map(golden, range(4))
    options = {"temperature": temperature, "local_negatives": local_negatives}
    assert float(region_contrast(a, b, c, d, *GOLDEN_IDS, **options)) == pytest.approx(detcon_b, abs=5.1e-7)
    assert float(region_contrast(a, b, a, b, *GOLDEN_IDS, **options)) == pytest.approx(detcon_s, abs=5.1e-7)


def test_golden_losses_of_whole_images():
    a, b, c, d = (golden(k)[:, :1] for k in range(4))
    one = torch.zeros(2, 1, dtype=torch.int64)
    assert float(nt_xent(a[:, 0], b[:, 0], temperature=0.1)) == pytest.approx(2.087374, abs=5.1e-7)
    assert float(region_contrast(a, b, a, b, one, one)) == pytest.approx(4.174748, abs=5.1e-7)
    assert float(region_contrast(a, b, c, d, one, one)) == pytest.approx(13.560434, abs=5.1e-7)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("form", ["s", "b", "keys alone"])
@pytest.mark.parametrize("local_negatives", [True, False])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_it_is_the_equation_and_its_gradient(form, local_negatives, absent, temperature):
    ids = random_ids(1)
    present = random_ids(2)
    present = [each > 0 for each in present] if absent else [None, None]
    found, expected = [], []
    for results, ours in ((found, True), (expected, False)):
        values = [each.requires_grad_(form != "keys alone" or i > 1) for i, each in enumerate(latents(0))]
        queries, keys = values[:2], values[:2] if form == "s" else values[2:]
        if form == "b":
            keys = [key.detach() for key in keys]
        if ours:
            loss = region_contrast(
                *queries,
                *keys,
                *ids,
                temperature=temperature,
                local_negatives=local_negatives,
                present1=present[0],
                present2=present[1],
            )
        else:
            loss = loop(queries, keys, ids, temperature, local_negatives, present if absent else None)
        (3 * loss).backward()
        results += [loss.detach()] + [each.grad for each in values if each.grad is not None]
    assert len(found) == len(expected) == 3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("in_parts")
def test_gradients_are_those_of_differences():
    values = [each.requires_grad_() for each in latents(3, batch=2, masks=3, features=3)]
    ids = torch.tensor([[0, 1, 1], [2, 0, 5]]), torch.tensor([[1, 0, 3], [2, 2, 4]])
    assert torch.autograd.gradcheck(lambda *v: region_contrast(*v, *ids, temperature=0.5), values)
    assert torch.autograd.gradcheck(lambda *v: region_contrast(*v, *v, *ids, temperature=0.5), values[:2])


def test_one_global_mask_is_simclr():
    a, b, *_ = latents(4, batch=7, masks=1)
    one = torch.zeros(7, 1, dtype=torch.int64)
    expected = simclr(a[:, 0], b[:, 0], 0.1)
    torch.testing.assert_close(nt_xent(a[:, 0], b[:, 0], temperature=0.1), expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(region_contrast(a, b, a, b, one, one), 2 * expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("samples", "loss"), [(1, 13.925608), (2, 7.655951), (4, 4.174549), (16, 1.216924)])
def test_one_mask_drawn_many_times(samples, loss):
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.standard_normal((5, 8)))[:, None].expand(-1, samples, -1) for _ in range(2))
    one = torch.zeros(5, samples, dtype=torch.int64)
    found = region_contrast(a, b, a, b, one, one)
    assert float(found) == pytest.approx(loss, abs=5.1e-7)
    closed = (2 * simclr(a[:, 0], b[:, 0], 0.1) + 2 * math.log(samples)) / samples
    torch.testing.assert_close(found, closed, rtol=1e-12, atol=0)


def test_distinct_masks_in_both_views_are_instances():
    a, b, *_ = latents(5)
    order = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)).argsort(1)
    shuffled = b.gather(1, order[..., None].expand(-1, -1, 6))
    found = region_contrast(a, shuffled, a, shuffled, torch.arange(5).expand(4, -1), order)
    torch.testing.assert_close(found, 2 * simclr(a.flatten(0, 1), b.flatten(0, 1), 0.1), rtol=1e-12, atol=0)


def test_no_mask_in_both_views_is_no_loss():
    values = [each.requires_grad_() for each in latents(6)]
    loss = region_contrast(*values, torch.arange(5).expand(4, -1), torch.arange(5, 10).expand(4, -1))
    loss.backward()
    assert loss == 0
    assert all(not value.grad.any() for value in values)


def test_what_does_not_matter():
    values, ids = latents(7), random_ids(8)
    loss = region_contrast(*values, *ids)
    order = torch.tensor([3, 0, 4, 1, 2])
    queries1, queries2, keys1, keys2 = values
    shuffled = region_contrast(
        queries1[:, order], queries2, keys1[:, order], keys2, ids[0][:, order], ids[1], present1=torch.ones(4, 5) > 0
    )
    renamed = region_contrast(*values, *(torch.tensor([70, -3, 12, 5])[each] for each in ids))
    scaled = region_contrast(*(value * scale for value, scale in zip(values, (1e-9, 3, 1e9, 0.2), strict=True)), *ids)
    exchanged = region_contrast(queries2, queries1, keys2, keys1, ids[1], ids[0])
    images = region_contrast(*(value[[2, 0, 3, 1]] for value in values), *(each[[2, 0, 3, 1]] for each in ids))
    of_uint8 = region_contrast(*values, *(each.to(torch.uint8) for each in ids))
    for other in (shuffled, renamed, scaled, exchanged, images, of_uint8):
        torch.testing.assert_close(other, loss, rtol=1e-12, atol=0)
    swapped = region_contrast(*values, ids[1], ids[0])
    assert abs(float(swapped - loss)) > 0.01


def test_collapsed_features():
    a = torch.ones(64, 16, 8, dtype=torch.float64)
    distinct = torch.arange(16).expand(64, -1)
    assert float(region_contrast(a, a, a, a, distinct, distinct)) == pytest.approx(15.248261, abs=5.1e-7)
    assert 2 * math.log(2 * 64 * 16 - 1) == pytest.approx(15.248261, abs=5.1e-7)


def test_without_local_negatives_one_image_has_none():
    values = latents(9, batch=1)
    distinct = torch.arange(5)[None]
    options = {"local_negatives": False, "temperature": 0.3}
    assert float(region_contrast(*values, distinct, distinct.flip(1), **options)) == pytest.approx(0, abs=1e-14)
    # With one id in all samples the other positives are left: logsumexp minus mean over them.
    one = torch.zeros(1, 5, dtype=torch.int64)
    a, b, c, d = (F.normalize(value[0], dim=1) for value in values)
    left = sum(x.logsumexp(1).mean() - x.mean() for x in (a @ d.T / 0.3, b @ c.T / 0.3)) / 5
    torch.testing.assert_close(region_contrast(*values, one, one, **options), left, rtol=1e-12, atol=0)
    assert left > 0


def test_the_momentum_form_with_one_global_mask_is_infonce_and_not_byol():
    a, b, c, d = latents(10, batch=6, masks=1)
    one = torch.zeros(6, 1, dtype=torch.int64)
    found = region_contrast(a, b, c, d, one, one, temperature=0.2)
    a, b, c, d = (F.normalize(value[:, 0], dim=1) for value in (a, b, c, d))
    pair = torch.arange(6)
    expected = sum(
        F.cross_entropy(torch.cat([query @ other.T, (query @ own.T).fill_diagonal_(-torch.inf)], 1) / 0.2, pair)
        for query, own, other in ((a, c, d), (b, d, c))
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    byol = (2 - 2 * (a * d).sum(1)).mean() + (2 - 2 * (b * c).sum(1)).mean()
    assert abs(float(found - byol)) > 0.5


def test_masks_empty_in_both_views_are_dropped():
    """As with clusters that neither view shows: the loss of those kept, times their share."""
    values, ids = latents(11), torch.arange(5).expand(4, -1)
    kept = torch.tensor([True, False, True, True, False]).expand(4, -1)
    values = [value.masked_fill(~kept[..., None], 0).requires_grad_() for value in values]
    loss = region_contrast(*values, ids, ids, present1=kept, present2=kept)
    loss.backward()
    of_kept = region_contrast(*(value.detach()[:, kept[0]] for value in values), *[ids[:, :3]] * 2)
    torch.testing.assert_close(loss.detach(), of_kept * 3 / 5, rtol=1e-12, atol=0)
    for value in values:
        assert value.grad.isfinite().all()
        assert not value.grad[~kept].any()
    # Without the flags, vectors of nothing would be each other's positives.
    assert region_contrast(*values, ids, ids) > loss + 1


def test_a_mask_empty_in_one_view_is_a_negative_in_the_other():
    values, ids = latents(12), torch.arange(5).expand(4, -1)
    absent = torch.ones(4, 5, dtype=torch.bool)
    absent[1, 2] = False
    loss = region_contrast(*values, ids, ids, present1=absent)
    expected = loop(values[:2], values[2:], (ids, ids), 0.1, present=(absent, torch.ones_like(absent)))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    # What it is called, or how its latents look, in the view that lacks it does not matter; its key in the other does.
    changed = [value.clone() for value in values]
    changed[0][1, 2], changed[2][1, 2] = 5, -3
    torch.testing.assert_close(region_contrast(*changed, ids, ids, present1=absent), loss, rtol=1e-13, atol=0)
    changed[3][1, 2] = -changed[3][1, 2]
    assert abs(float(region_contrast(*changed, ids, ids, present1=absent) - loss)) > 1e-3
    nothing = torch.zeros_like(absent)
    assert region_contrast(*values, ids, ids, present1=nothing, present2=nothing) == 0


def test_a_latent_without_length_has_cosine_zero_and_no_gradient():
    values = latents(13, number=2)
    values[0][1, 2] = 0
    values = [value.requires_grad_() for value in values]
    ids = random_ids(14)
    loss = region_contrast(*values, *values, *ids)
    loss.backward()
    assert loss.isfinite()
    assert not values[0].grad[1, 2].any()
    assert values[0].grad[1, 1].any()
    # A direction of its own gives the same: its cosine with itself is in no sum.
    apart = [F.pad(value.detach(), (0, 1)) for value in values]
    apart[0][1, 2, -1] = 1
    torch.testing.assert_close(region_contrast(*apart, *apart, *ids), loss.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.1, 0.005])
def test_precision(dtype, temperature):
    values, ids = latents(15, dtype=dtype), random_ids(16)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = region_contrast(*values, *ids, temperature=temperature)
    assert found.dtype == torch.float32
    doubles = [value.double() for value in values]
    expected = loop(doubles[:2], doubles[2:], ids, temperature)
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=0)
    queries = [value.requires_grad_() for value in values[:2]]
    region_contrast(*queries, *values[2:], *ids).backward()
    assert all(query.grad.dtype == dtype for query in queries)


def test_similarities_are_never_all_in_memory(monkeypatch):
    """Largest tensor made: a part of the queries against all keys."""
    monkeypatch.setattr(module, "CHUNK", 2**10)
    monkeypatch.setattr(module, "LEAST_ROWS", 8)

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for each in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(each, torch.Tensor):
                    self.size = max(self.size, each.numel())
            return out

    values, ids = [each.requires_grad_() for each in latents(17, batch=40)], random_ids(18, batch=40)
    with Largest() as seen:
        region_contrast(*values, *ids).backward()
    assert seen.size <= 40 * 10 * 10 < (40 * 10) ** 2 / 20


def test_bad_input_of_the_loss():
    values, ids = latents(0), random_ids(0)
    flags = torch.ones(4, 5, dtype=torch.bool)
    for bad in (values[0][:3], values[0][..., :2], values[0].long(), values[0][0]):
        with pytest.raises(ValueError, match="Queries and keys have shapes"):
            region_contrast(bad, *values[1:], *ids)
    with pytest.raises(ValueError, match=r"Ids and present masks have shapes \(4, 5\), \(4, 4\)"):
        region_contrast(*values, ids[0], ids[1][:, :4])
    with pytest.raises(ValueError, match=r"\(3, 5\); expected \(4, 5\)"):
        region_contrast(*values, *ids, present2=flags[:3])
    with pytest.raises(ValueError, match="expected integers and bool"):
        region_contrast(*values, ids[0].double(), ids[1])
    with pytest.raises(ValueError, match="expected integers and bool"):
        region_contrast(*values, *ids, present1=flags.long())
    with pytest.raises(ValueError, match="temperature is 0"):
        region_contrast(*values, *ids, temperature=0)
    with pytest.raises(ValueError, match="at least one picture"):
        region_contrast(*(value[:0] for value in values), *(each[:0] for each in ids))
    with pytest.raises(ValueError, match="two views have latents"):
        nt_xent(values[0][0], values[0][1, :3])


# Grids of labels, samples, pooling


def test_a_tie_goes_to_the_lowest_id():
    labels = (torch.arange(224) >= 112).long().expand(1, 224, 224)
    row = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    assert torch.equal(label_grid(labels, (7, 7)), row.expand(1, 7, 7))
    assert torch.equal(label_grid(labels.flip(2), (7, 7)), row.flip(0).expand(1, 7, 7).clone())


@pytest.mark.parametrize(("size", "grid"), [((28, 42), (7, 6)), ((30, 25), (7, 7)), ((5, 9), (7, 4)), ((8, 8), (1, 8))])
@pytest.mark.parametrize("names", [3, 40])
def test_labels_of_cells_are_those_of_the_pooled_one_hot(size, grid, names):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, names, (6, *size), generator=generator)
    # Few labels over patches, so that cells have ties and clear winners alike.
    labels[3:] = labels[3:, ::3, ::3].repeat_interleave(3, 1).repeat_interleave(3, 2)[:, : size[0], : size[1]]
    one_hot = F.one_hot(labels, names).permute(0, 3, 1, 2).double()
    expected = F.adaptive_avg_pool2d(one_hot, grid).round(decimals=12).argmax(1)
    found = label_grid(labels, grid)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)
    assert torch.equal(label_grid(labels.to(torch.uint8), grid), expected)
    assert torch.equal(label_grid(labels.flip(1, 2), grid), expected.flip(1, 2))
    # Ids that lie apart, and below 0.
    far = torch.arange(names) * 10**12 - 5
    assert torch.equal(label_grid(far[labels], grid), far[expected])


def test_samples_are_ids_that_own_a_cell_and_uniform_over_them():
    grid = torch.zeros(3, 7, 7, dtype=torch.int64)
    grid[0, 0, 0], grid[0, 3, 3], grid[1] = 9, -4, torch.arange(49).view(7, 7)
    drawn = sample_ids(grid, 6000, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 6000)
    names, counts = drawn[0].unique(return_counts=True)
    # One of three ids holds 47 of 49 cells, and is drawn as often as the others.
    assert names.tolist() == [-4, 0, 9]
    assert all(abs(int(count) - 2000) < 4 * 37 for count in counts)
    assert torch.equal(drawn[1].unique(), torch.arange(49))
    assert not drawn[2].any()


def test_samples_are_the_generators_and_apart_across_views():
    grid = torch.arange(49).view(1, 7, 7).expand(4, -1, -1)
    first = sample_ids(grid, 16, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(sample_ids(grid.to(torch.uint8), 16, generator), first)
    assert not torch.equal(sample_ids(grid, 16, generator), first)


@pytest.mark.parametrize(("names", "probability"), [(5, 0.972), (10, 0.815), (16, 0.644), (25, 0.480)])
def test_share_of_queries_with_a_positive(names, probability):
    grid = torch.arange(25).clamp(max=names - 1).view(1, 5, 5).expand(2000, -1, -1)
    generator = torch.Generator().manual_seed(0)
    first, second = (sample_ids(grid, 16, generator) for _ in range(2))
    found = (first[:, :, None] == second[:, None]).any(2).double().mean()
    assert 1 - (1 - 1 / names) ** 16 == pytest.approx(probability, abs=5.1e-4)
    assert float(found) == pytest.approx(probability, abs=0.01)


def test_pooled_regions_are_means_over_their_cells():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    grid = torch.randint(0, 7, (3, 5, 6), generator=generator)
    ids = torch.tensor([[0, 3, 3, 99], [1, 0, 2, 6], [5, 5, 5, 5]])
    pooled = pool_regions(maps, grid, ids)
    for b, s in product(range(3), range(4)):
        cells = maps[b][:, grid[b] == ids[b, s]]
        expected = cells.mean(1) if cells.numel() else torch.zeros(4, dtype=torch.float64)
        torch.testing.assert_close(pooled[b, s], expected)
    flipped = pool_regions(maps.flip(3), grid.flip(2), ids)
    torch.testing.assert_close(flipped, pooled)
    assert torch.autograd.gradcheck(lambda value: pool_regions(value, grid, ids), maps)


def test_regions_are_a_partition():
    grid = label_grid(torch.randint(0, 9, (2, 28, 28), generator=torch.Generator().manual_seed(0)), (7, 7))
    masks = grid[:, None] == torch.arange(9)[:, None, None]
    assert (masks.sum(1) == 1).all()
    maps = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    whole = (pool_regions(maps, grid, torch.arange(9).expand(2, -1)) * masks.sum((2, 3))[..., None]).sum(1)
    torch.testing.assert_close(whole, maps.sum((2, 3)))


def test_soft_masks_weigh_cells():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=generator)
    masks = torch.rand(2, 5, 4, 4, dtype=torch.float64, generator=generator)
    masks[0, 1] = 0
    pooled = pool_masks(maps, masks)
    for b, k in product(range(2), range(5)):
        expected = np.zeros(3)
        if (b, k) != (0, 1):
            expected = np.average(maps[b].flatten(1), axis=1, weights=masks[b, k].flatten())
        np.testing.assert_allclose(pooled[b, k], expected, rtol=1e-12)
    # A small soft mask has the response of its cells, not a share of it; the whole map has its mean.
    torch.testing.assert_close(pool_masks(maps, masks / 100), pooled)
    torch.testing.assert_close(pool_masks(maps, torch.ones(2, 1, 4, 4))[:, 0], maps.mean((2, 3)))


def test_pooling_is_in_float32_or_better():
    maps = torch.full((1, 1, 7, 7), 3.0, dtype=torch.bfloat16)
    maps[0, 0, 0, 0] = 3.125
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pool_regions(maps, torch.zeros(1, 7, 7, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))
    assert pooled.dtype == torch.float32
    assert float(pooled) == pytest.approx(3 + 0.125 / 49, rel=1e-6)


def test_bad_input_of_pooling():
    maps, grid, ids = torch.zeros(2, 3, 7, 7), torch.zeros(2, 7, 7, dtype=torch.int64), torch.zeros(2, 4)
    for labels in (grid[0], grid.float(), grid[:0]):
        with pytest.raises(ValueError, match="expected integer ids of shape"):
            label_grid(labels, (7, 7))
    with pytest.raises(ValueError, match="grid is 0 x 7"):
        label_grid(grid, (0, 7))
    for labels, samples in ((grid[0], 3), (grid, 0), (grid[:, :0], 3)):
        with pytest.raises(ValueError, match=f"{samples} samples of a grid"):
            sample_ids(labels, samples)
    with pytest.raises(ValueError, match=r"masks of shape \(2, 4, 6, 7\) do not fit"):
        pool_masks(maps, torch.zeros(2, 4, 6, 7))
    with pytest.raises(ValueError, match="of the same pictures"):
        pool_regions(maps, grid, ids[:1])


# Two processes against one

PICTURES, MASKS = 7, 5
SHARES = {"even": (slice(0, 4), slice(4, 7)), "uneven": (slice(0, 2), slice(2, 7))}
CASES = list(product(("s", "b"), ("even", "uneven"), (False, True), ("float32", "float64")))


def learn(form, own, absent, dtype):
    """Loss and gradients of the pictures ``own`` of a batch, from response maps through heads."""
    generator = torch.Generator().manual_seed(5)
    maps = torch.randn(2, PICTURES, 6, 4, 4, generator=generator, dtype=torch.float64).to(dtype)[:, own]
    grid = torch.randint(0, 4, (2, PICTURES, 4, 4), generator=generator)
    ids = [sample_ids(each, MASKS, generator)[own] for each in grid]
    present = (torch.rand(2, PICTURES, MASKS, generator=generator) > 0.3)[:, own] if absent else (None, None)
    maps.requires_grad_()
    heads = [mlp(n, 12, 8, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (6, 8)]
    projector, predictor = heads[0], heads[1] if form == "b" else nn.Identity()
    target = target_of(mlp(6, 12, 8, generator=torch.Generator().manual_seed(1)).to(dtype))
    pooled = [pool_regions(each, cells[own], names) for each, cells, names in zip(maps, grid, ids, strict=True)]
    queries = [predictor(projector(each)) for each in pooled]
    with torch.no_grad():
        keys = [target(each) for each in pooled]
    share = region_contrast(
        *queries, *(keys if form == "b" else queries), *ids, present1=present[0], present2=present[1]
    )
    share.backward()
    trained = [*projector.parameters(), *predictor.parameters()]
    sum_gradients(trained)
    assert all(parameter.grad is None for parameter in target.parameters())
    seen = {"share": share.detach(), "maps": maps.grad}
    seen |= {f"gradient {i}": parameter.grad for i, parameter in enumerate(trained)}
    seen |= {f"statistics {i}": value for i, value in enumerate([*projector.buffers(), *target.buffers()])}
    seen["nt_xent"] = nt_xent(pooled[0][:, 0].detach(), pooled[1][:, 0].detach(), temperature=0.1)
    return {name: value.numpy() for name, value in seen.items()}


def main(folder, number):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    try:
        assert world_size() == 2
        for case in CASES:
            form, share, absent, dtype = case
            values = learn(form, SHARES[share][number], absent, getattr(torch, dtype))
            np.savez(folder / f"{case} {number}.npz", **values)
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(as_two_processes, tmp_path_factory):
    """What two processes found in each case: their arrays."""
    folder = tmp_path_factory.mktemp("processes")
    as_two_processes(__file__, folder)

    def load(case):
        files = []
        for number in (0, 1):
            with np.load(folder / f"{case} {number}.npz") as file:
                files.append(dict(file))
        return files

    return load


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case)))
def test_two_processes_learn_as_one(two, case):
    form, _, absent, dtype = case
    alone, together = learn(form, slice(None), absent, getattr(torch, dtype)), two(case)
    tolerance = {"float32": 1e-6, "float64": 1e-13}[dtype]
    for name, value in alone.items():
        if name in ("share", "nt_xent"):
            found = [sum(each[name] for each in together)]
        elif name == "maps":
            found = [np.concatenate([each[name] for each in together], 1)]
        else:
            found = [each[name] for each in together]
        for each in found:
            np.testing.assert_allclose(
                each, value, rtol=tolerance, atol=tolerance * max(1, np.abs(value).max()), err_msg=name
            )
    assert alone["share"] > 1
    assert np.abs(alone["maps"]).max() > 0.01


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
