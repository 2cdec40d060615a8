"""Odin: geometry of its masks, what its loss reduces to, which network follows which. Run as a script: one of two."""

import copy
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from lcl.distributed import sum_gradients, sum_over_processes
from lcl.images import open_images
from lcl.stages import BatchNorm
from vision_methods.backbones import Backbone
from vision_methods.config import OdinConfig
from vision_methods.detcon import DetCon, MaskedViews, MaskEncoder
from vision_methods.heads import mlp
from vision_methods.momentum import keep_at
from vision_methods.odin import (
    Odin,
    Spans,
    build,
    cluster_watch,
    discover,
    discovery_rate_at,
    hardened,
    in_reading_order,
    mask_contrast,
    mask_latents,
    mask_shares,
    present,
    relative_boxes,
    segments_figure,
    spanning_boxes,
)
from vision_methods.region_contrast import label_grid, pool_regions, region_contrast
from vision_methods.train import train_method
from vision_methods.two_views import PHOTOMETRIC, Views, cut_labels

BATCH, SIZE_PX, SPAN_PX = 6, 32, 48
CELLS = (4, 4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Patches(nn.Module):
    """Responses of a few linear filters to patches of 8 px."""

    def __init__(self, seed):
        super().__init__()
        self.filters, self.norm = nn.Conv2d(3, 8, 8, 8, bias=False), BatchNorm(8)
        nn.init.normal_(self.filters.weight, std=0.1, generator=generator(seed))

    def forward(self, images):
        return {"maps": self.norm(self.filters(images.to(self.filters.weight.dtype)))}


def encoder(seed=0):
    return MaskEncoder(
        Backbone(Patches(seed), {"maps": 8}), mlp(8, 32, 16, generator=generator(seed)), layer="maps"
    ).double()


def spans(**options):
    settings = {"batch": BATCH, "size_px": SIZE_PX, "span_px": SPAN_PX, "photometric": PHOTOMETRIC["byol"], "seed": 3}
    return Spans(open_images("builtin", short_side_px=64), **(settings | options))


def odin(seed=0, batches=None, **options):
    predictor = mlp(16, 32, 16, generator=generator(seed + 9)).double()
    learner = Odin(encoder(seed), predictor, encoder(seed + 1), batches or spans(), **({"clusters": 4} | options))
    learner.discovery.load_state_dict(encoder(seed + 2).state_dict())
    return learner


def random_labels(clusters=5, side=8, pictures=3, seed=0):
    return torch.randint(clusters, (pictures, side, side), generator=generator(seed))


# --- geometry -------------------------------------------------------------------------------------------------------


def test_worked_example_of_two_windows():
    a, b = torch.tensor([[20, 30, 120, 100]]), torch.tensor([[60, 10, 90, 150]])
    span = spanning_boxes(a, b)
    assert span.tolist() == [[20, 10, 130, 150]]
    inside = [relative_boxes(box, span)[0] for box in (a, b)]
    np.testing.assert_allclose(inside[0], [0, 0.133333, 0.923077, 0.666667], atol=1e-6)
    np.testing.assert_allclose(inside[1], [0.307692, 0, 0.692308, 1], atol=1e-6)


def test_spanning_window_holds_both_and_no_smaller_one_does():
    boxes = torch.randint(1, 60, (2, 200, 4), generator=generator())
    span = spanning_boxes(*boxes)
    for box in boxes:
        inside = relative_boxes(box, span)
        assert float(inside.min()) >= 0
        assert float((inside[:, :2] + inside[:, 2:]).max()) <= 1 + 1e-12
    edges = torch.stack([torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1) for b in boxes])
    touched = torch.cat([edges[:, :, :2].amin(0), edges[:, :, 2:].amax(0)], 1)
    assert torch.equal(torch.cat([span[:, :2], span[:, :2] + span[:, 2:]], 1), touched)


@pytest.mark.parametrize("flipped", [False, True])
def test_masks_in_a_view_are_those_of_a_finely_drawn_label_map(flipped):
    # The clusters are drawn as pixels, 12 to a cell; the view is cut out as pictures are, without scaling.
    labels = random_labels()
    drawn = labels.repeat_interleave(12, 1).repeat_interleave(12, 2)
    boxes = torch.tensor([[0, 0, 96, 96], [7, 18, 60, 60], [40, 5, 30, 30]])
    flip = torch.full((3,), flipped)
    span = torch.tensor([[0, 0, 96, 96]]).expand(3, 4)
    shares = mask_shares(labels, relative_boxes(boxes, span), flip, clusters=5, cells=(6, 6))
    for i, box in enumerate(boxes.tolist()):
        fields = {name: torch.zeros(1) for name in Views._fields}
        view = Views(**(fields | {"size": torch.tensor([[96, 96]]), "box": boxes[[i]], "flip": flip[[i]]}))
        pixels = cut_labels([drawn[i].numpy()], view, box[2])
        own = (pixels == torch.arange(5)[:, None, None]).double()
        np.testing.assert_allclose(shares[i], F.adaptive_avg_pool2d(own, 6), atol=1e-6)
        found = hardened(shares[[i]]).int().argmax(1)
        assert torch.equal(found, label_grid(pixels, (6, 6)))


def test_masks_are_a_partition():
    labels, boxes = random_labels(pictures=20), torch.rand(20, 4, generator=generator(1), dtype=torch.float64)
    boxes[:, 2:] *= 1 - boxes[:, :2]
    shares = mask_shares(labels, boxes, torch.rand(20, generator=generator(2)) < 0.5, clusters=5, cells=(7, 5))
    torch.testing.assert_close(shares.sum(1), torch.ones(20, 7, 5), atol=1e-5, rtol=0)
    assert float(shares.min()) >= 0
    hard = hardened(shares)
    assert bool((hard.sum(1) == 1).all())
    assert hard.sum((1, 2, 3)).tolist() == [35] * 20


def test_mask_of_a_flipped_view_is_the_flipped_mask():
    labels, boxes = random_labels(pictures=20), torch.rand(20, 4, generator=generator(1), dtype=torch.float64)
    boxes[:, 2:] *= 1 - boxes[:, :2]
    boxes[:3] = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)  # cells of equal shares are there too
    plain, mirrored = (
        mask_shares(labels, boxes, torch.full((20,), flip), clusters=5, cells=(4, 4)) for flip in (False, True)
    )
    assert torch.equal(plain.flip(3), mirrored)
    assert torch.equal(hardened(plain).flip(3), hardened(mirrored))


def test_the_whole_window_at_its_own_resolution_keeps_the_labels():
    labels = random_labels()
    shares = mask_shares(
        labels, torch.tensor([[0.0, 0, 1, 1]]).expand(3, 4), torch.zeros(3).bool(), clusters=5, cells=(8, 8)
    )
    assert torch.equal(hardened(shares).int().argmax(1), labels)
    assert set(shares.unique().tolist()) == {0.0, 1.0}


def test_views_are_those_of_detcon_and_lie_in_their_span():
    store = open_images("builtin", short_side_px=64)
    labels = [np.zeros(store[i].shape[:2], np.uint8) for i in range(len(store))]
    settings = {"batch": BATCH, "size_px": SIZE_PX, "photometric": PHOTOMETRIC["byol"], "seed": 3}
    theirs, ours = MaskedViews(store, labels, cells=CELLS, **settings)(5), spans()(5)
    for number in range(2):
        assert torch.equal(theirs[number].crops, ours.crops[number])
        assert torch.equal(theirs[number].views.box, ours.views[number].box)
        assert torch.equal(theirs[number].views.flip, ours.views[number].flip)
    assert ours.spans.shape == (BATCH, 3, SPAN_PX, SPAN_PX)


def test_spanning_window_shows_the_picture_where_the_views_are():
    # Red is the row and green the column: a crop says where it was cut.
    class Coordinates:
        channels, sizes = 3, np.full((BATCH, 2), 200)

        def __len__(self):
            return BATCH

        def __getitem__(self, i):
            row, column = np.mgrid[:200, :200]
            return np.stack([row, column, row * 0], 2).astype(np.uint8)

    batch = Spans(Coordinates(), batch=BATCH, size_px=32, span_px=48, photometric=PHOTOMETRIC["none"], seed=1)(0)
    for number in range(2):
        box, window = batch.views[number].box.double(), batch.windows[number]
        for axis in range(2):
            at = batch.spans[:, axis].double()
            profile = at.mean(2 - axis)  # along the axis
            step = (profile[:, -9] - profile[:, 8]) / (48 - 17)
            start = profile[:, 8] - 8.5 * step
            np.testing.assert_allclose(start + window[:, axis] * 48 * step, box[:, axis] - 0.5, atol=1.5)
            np.testing.assert_allclose(window[:, 2 + axis] * 48 * step, box[:, 2 + axis], atol=2.5)


# --- discovery ------------------------------------------------------------------------------------------------------


def test_clusters_are_numbered_in_reading_order_whatever_they_were_called():
    labels = random_labels(pictures=30, side=4)
    ordered = in_reading_order(labels)
    for before, after in zip(labels.flatten(1).tolist(), ordered.flatten(1).tolist(), strict=True):
        names = list(dict.fromkeys(before))
        assert after == [names.index(each) for each in before]
    for permutation in (torch.randperm(5, generator=generator(i)) for i in range(3)):
        assert torch.equal(in_reading_order(permutation[labels]), ordered)


def test_discovery_finds_the_parts_of_a_picture():
    truth = in_reading_order(random_labels(clusters=4, pictures=5))
    directions = 3 * torch.eye(4)[truth].movedim(3, 1)
    lengths = 0.5 + torch.rand(5, 1, 8, 8, generator=generator())
    maps = lengths * (directions + 0.1 * torch.randn(5, 4, 8, 8, generator=generator(1)))
    assert torch.equal(discover(maps, 4), truth)
    assert discover(maps, 64).flatten(1).unique(dim=1).shape[1] == 64
    assert not discover(torch.ones(2, 3, 4, 4), 4).any()


def test_watch_tells_one_collapse_from_the_other():
    truth = random_labels(clusters=4)
    maps = torch.eye(4)[truth].movedim(3, 1)
    apart = cluster_watch(truth, maps, 8)
    assert float(apart["clusters"]) == 4
    shares = [(truth == k).flatten(1).double().mean(1).numpy() for k in range(4)]
    assert float(apart["entropy"]) == pytest.approx(np.mean(sum(-p * np.log(p) for p in shares)))
    assert float(apart["dispersion"]) == pytest.approx(np.mean(1 - sum(p**2 for p in shares)))
    collapsed = cluster_watch(torch.zeros(2, 3, 3, dtype=torch.int64), torch.ones(2, 4, 3, 3), 8)
    assert {name: round(float(value), 6) for name, value in collapsed.items()} == {
        "entropy": 0,
        "clusters": 1,
        "dispersion": 0,
    }
    even = cluster_watch(torch.arange(16).view(1, 4, 4), torch.ones(1, 4, 4, 4), 16)
    assert float(even["entropy"]) == pytest.approx(math.log(16))


# --- loss -----------------------------------------------------------------------------------------------------------


def latents_and_masks(clusters=5, pictures=3, side=4, seed=0):
    """Latents of the masks of two views, and masks of which some are in one view only, or in none."""
    masks = [hardened(torch.rand(pictures, clusters, side, side, generator=generator(seed + v))) for v in range(2)]
    masks[0][0, 1], masks[1][0, 1] = False, False
    masks[0][1, 0], masks[1][2, -1] = False, False
    latents = torch.randn(4, pictures, clusters, 6, generator=generator(seed), dtype=torch.float64)
    return list(latents[:2]), list(latents[2:]), [present(each) for each in masks]


def loss_by_hand(queries, keys, there, temperature):
    """Section by section from the formula: one query at a time."""
    unit = [[F.normalize(each, dim=2).numpy() for each in both] for both in (queries, keys)]
    pictures, clusters = there[0].shape
    total = 0.0
    for view, other in ((0, 1), (1, 0)):
        for b in range(pictures):
            for k in range(clusters):
                if not (there[view][b, k] and there[other][b, k]):
                    continue
                candidates = [
                    unit[1][v][p, m]
                    for v in (other, view)
                    for p in range(pictures)
                    for m in range(clusters)
                    if there[v][p, m] and (v, p, m) != (view, b, k)
                ]
                logits = np.stack(candidates) @ unit[0][view][b, k] / temperature
                positive = unit[1][other][b, k] @ unit[0][view][b, k] / temperature
                total += np.log(np.exp(logits).sum()) - positive
    return total / (pictures * clusters)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_loss_is_that_of_the_formula_with_masks_missing(temperature):
    queries, keys, there = latents_and_masks()
    queries[0][0, 1] = torch.nan  # what stands where no mask is, is not read
    finite = [torch.nan_to_num(each) for each in queries]
    found = mask_contrast(finite, keys, there, temperature=temperature)
    assert float(found) == pytest.approx(loss_by_hand(finite, keys, there, temperature), rel=1e-12)


def test_masks_in_neither_view_only_shrink_the_loss():
    queries, keys, _ = latents_and_masks(clusters=5)
    kept = torch.tensor([True, False, True, True, False]).expand(3, 5)
    found = mask_contrast(queries, keys, [kept, kept])
    picked = [each[:, kept[0]] for each in (*queries, *keys)]
    ids = torch.arange(3).expand(3, 3)
    mean_over_kept = region_contrast(*picked, ids, ids)
    assert float(found) == pytest.approx(float(mean_over_kept) * 3 / 5, rel=1e-12)


def test_a_mask_in_one_view_is_a_negative_and_no_query():
    queries, keys, there = latents_and_masks()
    for each in queries:
        each.requires_grad_()
    before = mask_contrast(queries, keys, there)
    before.backward()
    assert not queries[1].grad[1, 0].any()
    assert not queries[0].grad[0, 1].any()
    changed = [each.clone() for each in keys]
    changed[1][1, 0] *= -1  # there in view 2 alone
    assert float(mask_contrast(queries, changed, there).detach()) != float(before.detach())
    changed = [each.clone() for each in keys]
    changed[1][0, 1] *= -1  # in neither view
    assert float(mask_contrast(queries, changed, there).detach()) == float(before.detach())


def test_no_mask_in_both_views_gives_zero():
    queries, keys, _ = latents_and_masks(clusters=2)
    queries[0].requires_grad_()
    there = [torch.tensor([[True, False]] * 3), torch.tensor([[False, True]] * 3)]
    loss = mask_contrast(queries, keys, there)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not queries[0].grad.any()


def test_names_of_clusters_do_not_matter():
    queries, keys, there = latents_and_masks()
    order = torch.randperm(5, generator=generator(4))
    losses, gradients = [], []
    for index in (torch.arange(5), order):
        own = [each[:, index].clone().requires_grad_() for each in queries]
        loss = mask_contrast(own, [each[:, index] for each in keys], [each[:, index] for each in there])
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append([each.grad[:, index.argsort()] for each in own])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("all_there", [True, False])
def test_given_masks_are_detcon(all_there):
    # Label maps of pictures, cut into views and brought to the grid as DetCon does, with all ids in place of draws.
    store = open_images("builtin", short_side_px=64)
    labels = [np.add.outer(np.arange(h) * 2 // h, np.arange(w) * 3 // w * 2) for h, w in store.sizes.tolist()]
    area = {"least_area": 1.0} if all_there else {}
    settings = {"batch": BATCH, "size_px": 48, "photometric": PHOTOMETRIC["byol"], "seed": 3, **area}
    pictures, views = spans()(0).pictures, MaskedViews(store, labels, cells=(6, 6), **settings)(0)
    grids = [label_grid(cut_labels([labels[i] for i in pictures], view.views, 48), (6, 6)) for view in views]
    ids = torch.arange(6).expand(BATCH, 6)
    masks = [grid[:, None] == ids[0, :, None, None] for grid in grids]
    there = [present(each) for each in masks]
    assert bool(torch.stack(there).all()) == all_there
    maps = torch.rand(2, BATCH, 8, 6, 6, generator=generator(), dtype=torch.float64)
    predictor = mlp(16, 32, 16, generator=generator(9)).double()
    heads = nn.Sequential(encoder(0).head, predictor).eval(), encoder(1).head.eval()
    results = []
    for way in ("detcon", "odin"):
        own = maps.clone().requires_grad_()
        if way == "odin":
            q, k = ([mask_latents(m, s, t, head) for m, s, t in zip(own, masks, there, strict=True)] for head in heads)
            loss = mask_contrast(q, k, there)
        else:
            q, k = ([head(pool_regions(m, g, ids)) for m, g in zip(own, grids, strict=True)] for head in heads)
            loss = region_contrast(*q, *k, ids, ids, present1=there[0], present2=there[1])
        loss.backward()
        results.append((loss.detach(), own.grad))
    assert float(results[0][0]) > 1
    for a, b in zip(*results, strict=True):
        if all_there:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_one_cluster_is_detcon_b_with_one_mask():
    store = open_images("builtin", short_side_px=64)
    labels = [np.zeros(tuple(size), np.uint8) for size in store.sizes.tolist()]
    settings = {"batch": BATCH, "size_px": SIZE_PX, "photometric": PHOTOMETRIC["byol"], "seed": 3}
    ours = odin(clusters=1).train()
    theirs = DetCon(
        copy.deepcopy(ours.encoder),
        MaskedViews(store, labels, cells=CELLS, samples=1, **settings),
        predictor=copy.deepcopy(ours.online["predictor"]),
        target=copy.deepcopy(ours.target),
    ).train()
    losses = []
    for learner in (ours, theirs):
        loss, _ = learner.loss(learner.draw(0))
        loss.backward()
        losses.append(loss.detach())
    assert torch.equal(*losses)
    for (name, a), b in zip(ours.online.named_parameters(), theirs.online.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


def test_absent_masks_do_not_reach_the_batch_normalisation():
    maps = torch.randn(4, 8, 3, 3, generator=generator(), dtype=torch.float64)
    masks = hardened(torch.rand(4, 2, 3, 3, generator=generator(1)))
    assert bool(present(masks).all())
    wide = torch.cat([masks, torch.zeros(4, 5, 3, 3, dtype=torch.bool)], 1)
    plain, beside = (mlp(8, 32, 16, generator=generator(2)).double().train() for _ in range(2))
    found = mask_latents(maps, wide, present(wide), beside)
    means = torch.stack([torch.stack([m[:, s].mean(1) for s in own]) for m, own in zip(maps, masks, strict=True)])
    torch.testing.assert_close(found[:, :2], plain(means), rtol=1e-12, atol=1e-12)
    assert not found[:, 2:].any()
    torch.testing.assert_close(plain[1].running_mean, beside[1].running_mean, rtol=1e-12, atol=1e-12)


# --- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"soft": True}, {"cluster_projections": True}, {"spherical": False}])
def test_gradient_reaches_the_online_network_alone(options):
    learner = odin(**options).train()
    loss, numbers = learner.loss(learner.draw(0))
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in learner.online.parameters())
    for frozen in (learner.target, learner.discovery):
        assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
    assert set(numbers) == {"entropy", "clusters", "dispersion", "matched", "collapsed"}
    assert bool(torch.isfinite(torch.stack(list(numbers.values()))).all())
    assert float(numbers["clusters"]) == 4
    assert 0 < float(numbers["matched"]) <= 1


def test_only_the_clusters_depend_on_the_discovery_network():
    first, second = (odin().train() for _ in range(2))
    second.discovery.load_state_dict(encoder(7).state_dict())
    batch = first.draw(0)
    labels = [each.segment(batch.spans, batch.pictures)[0] for each in (first, second)]
    assert not torch.equal(*labels)
    second.segment = lambda *_: (labels[0], {})
    assert torch.equal(first.loss(batch)[0], second.loss(batch)[0])


def test_number_logged_as_collapsed_is_the_loss_of_equal_latents():
    learner = odin().train()
    for each in (learner.online["predictor"], learner.target.head):
        each[-1] = nn.Sequential(each[-1], Constant())
    loss, numbers = learner.loss(learner.draw(0))
    assert float(loss.detach()) == pytest.approx(float(numbers["collapsed"]), rel=1e-6)


class Constant(nn.Module):
    def forward(self, rows):
        return 0 * rows + 1


def parameters(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_discovery_network_mixes_its_share_of_the_new_parameters(rate):
    learner = odin(discovery_rate=rate)
    for step in range(2):
        old, new = parameters(learner.discovery), parameters(learner.encoder)
        learner.after_step(step, 10)
        torch.testing.assert_close(parameters(learner.discovery), (1 - rate) * old + rate * new, rtol=1e-12, atol=1e-14)
        if rate in (0.0, 1.0):
            assert torch.equal(parameters(learner.discovery), new if rate else old)
        with torch.no_grad():
            for p in learner.online.parameters():
                p.add_(0.1)


def test_equal_rates_from_the_same_start_stay_equal():
    learner = odin(keep=0.9)
    learner.discovery.load_state_dict(learner.target.state_dict())
    for step in range(5):
        learner.discovery_rate = 1 - keep_at(step, 5, 0.9)
        learner.after_step(step, 5)
        assert torch.equal(parameters(learner.discovery), parameters(learner.target))
        assert not torch.equal(parameters(learner.discovery), parameters(learner.encoder))
        with torch.no_grad():
            for p in learner.online.parameters():
                p.mul_(1.1)


def test_discovery_network_starts_as_the_target():
    learner = Odin(encoder(0), mlp(16, 32, 16), encoder(1), spans())
    assert torch.equal(parameters(learner.discovery), parameters(learner.target))
    assert not torch.equal(parameters(learner.discovery), parameters(learner.encoder))


def test_copies_are_made_after_whole_epochs():
    learner = odin(copy_epochs=2, discovery_rate=0.5)
    learner.copy_every = 2 * learner.steps_per_epoch
    per_epoch = learner.steps_per_epoch
    for step in range(4 * per_epoch):
        old = parameters(learner.discovery)
        learner.after_step(step, 4 * per_epoch)
        copied = (step + 1) in (2 * per_epoch, 4 * per_epoch)
        assert torch.equal(parameters(learner.discovery), parameters(learner.encoder) if copied else old)
        with torch.no_grad():
            for p in learner.online.parameters():
                p.add_(0.1)


def test_rate_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"rate is 1\.5"):
        discovery_rate_at(0, rate=1.5)
    with pytest.raises(ValueError, match="copy_every -1"):
        discovery_rate_at(0, rate=0.5, copy_every=-1)


def test_same_step_same_batch_and_clusters_by_picture():
    first, second = (odin(seed=2).train() for _ in range(2))
    a, b = first.draw(1), second.draw(1)
    assert torch.equal(a.spans, b.spans)
    assert torch.equal(first.loss(a)[0], second.loss(b)[0])
    labels, _ = first.eval().segment(a.spans, a.pictures)
    order = torch.arange(BATCH).flip(0)
    turned, _ = first.segment(a.spans[order], a.pictures[order.numpy()])
    assert torch.equal(turned, labels[order])


# --- as a method ----------------------------------------------------------------------------------------------------


def tiny(**changes):
    settings = {
        "images": "builtin",
        "size_px": 64,
        "span_px": 96,
        "short_side_px": 96,
        "batch": 4,
        "clusters": 4,
        "hidden_width": 32,
        "latent_width": 16,
        "epochs": 1,
        "judge_every": 0,
        "device": "cpu",
        "precision": "float32",
        "log_every": 1,
    }
    return OdinConfig(**(settings | changes))


def test_a_run_stopped_and_resumed_is_the_run(tmp_path):
    whole = train_method("odin", tiny(), tmp_path / "whole", progress=False, say=lambda line: None)

    class Stopping(Odin):
        def after_step(self, step, steps):
            super().after_step(step, steps)
            if step == 1 and not resumed:
                os.kill(os.getpid(), 2)

    from lcl.train import Interrupted

    def learner():
        built = build(tiny(), torch.device("cpu"))
        built.__class__ = Stopping
        return built

    resumed = False
    with pytest.raises(Interrupted):
        train_method("odin", tiny(), tmp_path / "part", learner=learner(), progress=False, say=lambda line: None)
    resumed = True
    again = train_method(
        "odin", tiny(), tmp_path / "part", learner=learner(), resume=True, progress=False, say=lambda line: None
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    lines = [json.loads(line) for line in (tmp_path / "part" / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["stage"] == "odin"]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert all(line["clusters"] == 4 and 0 < line["entropy"] <= math.log(4) for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"photometric": "bright"}, "photometric is 'bright'"),
        ({"layer": "conv9"}, "layer is 'conv9'"),
        ({"clusters": 19}, "at most 18"),
        ({"clusters": 18}, None),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    if message is None:
        assert build(tiny(**changes), torch.device("cpu")).clusters == 18
        return
    with pytest.raises(ValueError, match=message):
        build(tiny(**changes), torch.device("cpu"))


@pytest.mark.parametrize("bad", [{"clusters": 0}, {"discovery_rate": 1.5}, {"copy_epochs": -1}, {"cluster_on": "x"}])
def test_configuration_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        OdinConfig(**bad)


def test_figure_shows_every_picture_and_map():
    pictures = torch.rand(3, 3, 40, 60)
    maps = {"before": random_labels(2, 4), "after": random_labels(9, 8)}
    figure = segments_figure(pictures, maps)
    assert len(figure.axes) == 9
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["", "before", "after"]
    drawn = figure.axes[3].images[0].get_array()
    assert drawn.shape == (40, 60, 3)
    tint = drawn - 0.4 * pictures[0].mean(0)[..., None].numpy()
    labels = maps["before"][0].repeat_interleave(10, 0).repeat_interleave(15, 1).numpy()
    for number in range(2):
        assert np.ptp(tint[labels == number], axis=0).max() < 1e-6
    assert figure.axes[3].get_title() == "2 segments"
    with pytest.raises(ValueError, match="one label map per picture"):
        segments_figure(pictures, {"few": random_labels(2, 4, pictures=2)})


# --- two processes --------------------------------------------------------------------------------------------------


def two_steps():
    """Loss, numbers and gradients of two steps: everything that must not depend on how the batch is divided."""
    learner, seen = odin().train(), {}
    for step in range(2):
        loss, numbers = learner.loss(learner.draw(step))
        learner.zero_grad()
        loss.backward()
        sum_gradients(learner.online.parameters())
        seen |= {
            f"{step} {name}": sum_over_processes(value.detach()) for name, value in (numbers | {"loss": loss}).items()
        }
        with torch.no_grad():
            for name, parameter in learner.online.named_parameters():
                seen[f"{step} gradient {name}"] = parameter.grad.clone()
                parameter.sub_(0.01 * parameter.grad)
        learner.after_step(step, 4)
    return {name: value.numpy() for name, value in seen.items()}


def test_two_processes_are_one(assert_two_are_one):
    assert_two_are_one(__file__, two_steps, atol=1e-8)


def main(folder, number):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    try:
        np.savez(folder / f"{number}.npz", **two_steps())
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
