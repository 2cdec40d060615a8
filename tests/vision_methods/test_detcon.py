"""DetCon: masks that follow their views, its loss and gradients from its networks, its target, what is drawn."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lcl.images import open_images
from lcl.stages import BatchNorm
from lcl.train import counter_generator
from vision_methods.backbones import Backbone
from vision_methods.config import DetConConfig
from vision_methods.detcon import (
    DetCon,
    MaskedViews,
    MaskEncoder,
    build,
    collapsed_loss,
    exchanged,
    mask_shares,
    open_masks,
)
from vision_methods.heads import mlp
from vision_methods.momentum import keep_at
from vision_methods.presets import PRESETS
from vision_methods.region_contrast import label_grid, latent_spread, pool_regions, region_contrast, sample_ids
from vision_methods.two_views import PHOTOMETRIC, photometric_views

SIZE_PX, CELLS, BATCH, SAMPLES = 32, (4, 4), 6, 5


class Patches(nn.Module):
    """Rectified and normalised responses of a few filters to patches of 8 px."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(3, 7, 8, 8, bias=False), BatchNorm(7)
        nn.init.normal_(self.conv.weight, std=0.1, generator=generator)

    def forward(self, images):
        return {"patches": F.relu(self.norm(self.conv(images)))}


def encoder(seed):
    head = mlp(7, 12, 4, generator=counter_generator(seed, 1))
    return MaskEncoder(Backbone(Patches(seed), {"patches": 7}), head, layer="patches")


@pytest.fixture(scope="module")
def store():
    rng = np.random.default_rng(0)
    return open_images([rng.integers(0, 256, (40 + 3 * i, 50 - i, 3), dtype=np.uint8) for i in range(14)])


@pytest.fixture(scope="module")
def labels(store):
    """Random rectangles over each other."""
    rng = np.random.default_rng(1)
    maps = []
    for height, width in store.sizes:
        map_ = np.zeros((height, width), np.uint8)
        for number in range(1, 9):
            top, left = rng.integers(0, height - 12), rng.integers(0, width - 12)
            map_[top : top + rng.integers(10, 25), left : left + rng.integers(10, 25)] = number
        maps.append(map_)
    return maps


def views_of(store, labels, **changes):
    settings = {
        "batch": BATCH,
        "size_px": SIZE_PX,
        "cells": CELLS,
        "samples": SAMPLES,
        "photometric": PHOTOMETRIC["byol"],
        "seed": 0,
    }
    return MaskedViews(store, labels, **settings | changes)


@pytest.fixture(scope="module")
def batches(store, labels):
    return views_of(store, labels)


def learner_of(batches, variant, **named):
    extra = {"predictor": mlp(4, 12, 4, generator=counter_generator(9)), "target": encoder(8)} if variant == "B" else {}
    return DetCon(encoder(0), batches, **extra, **named).train()


def test_masks_follow_their_pictures():
    """Pictures whose colour says the label: what is inside a mask has its colour, whatever was cropped and flipped."""
    rng = np.random.default_rng(3)
    maps = [np.kron(rng.permutation(16).reshape(4, 4), np.ones((20, 20), int)).astype(np.uint8) for _ in range(8)]
    number = np.arange(16)
    colours = np.stack([10 + 15 * number, 250 - 15 * number, 40 * (number % 5)], 1).astype(np.uint8)
    store = open_images([colours[map_] for map_ in maps])
    many = views_of(store, maps, batch=8, size_px=96, cells=(96, 96), samples=16, photometric=PHOTOMETRIC["none"])
    flipped = set()
    for view in (*many(0), *many(1)):
        pictures = photometric_views(view.crops, view.views)
        flipped |= set(view.views.flip.tolist())
        # Away from borders, which resampling blends.
        inner = F.max_pool2d((~view.masks).float(), 19, 1, 9) == 0
        wrong = (pictures[:, None] - torch.from_numpy(colours)[view.ids][..., None, None] / 255).abs().amax(2)
        assert inner.sum() > 10_000
        assert wrong[inner].max() < 1e-6
        outside = ~view.masks
        assert (wrong[outside] > 0.02).float().mean() > 0.9
    assert flipped == {True, False}


def test_every_mask_that_is_drawn_owns_cells(batches, labels, store):
    for step in (0, 5):
        first, second = batches(step)
        for view in (first, second):
            assert view.crops.shape == (BATCH, 3, SIZE_PX, SIZE_PX)
            assert view.ids.shape == (BATCH, SAMPLES)
            assert view.masks.any((2, 3)).all()
            same = view.ids[:, :, None] == view.ids[:, None]
            overlap = (view.masks[:, :, None] & view.masks[:, None]).any((3, 4))
            assert torch.equal(same, overlap)  # each cell belongs to one mask
        assert not torch.equal(first.views.box, second.views.box)
        assert not torch.equal(first.ids, second.ids)


def test_what_is_drawn_depends_on_seed_and_step_alone(store, labels, batches):
    again, other = views_of(store, labels), views_of(store, labels, seed=1)
    for a, b, c in zip(batches(3), again(3), other(3), strict=True):
        assert torch.equal(a.crops, b.crops)
        assert torch.equal(a.ids, b.ids)
        assert not torch.equal(a.crops, c.crops)
    assert batches.per_epoch == 2


def test_processes_draw_the_parts_of_one_batch(store, labels, batches, monkeypatch):
    parts = []
    monkeypatch.setattr("lcl.distributed.world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr("lcl.distributed.rank", lambda rank=rank: rank)
        parts.append(views_of(store, labels)(1))
    for number, whole in enumerate(batches(1)):
        for name in ("crops", "ids", "masks"):
            assert torch.equal(torch.cat([getattr(part[number], name) for part in parts]), getattr(whole, name))
        for field in whole.views._fields:
            both = torch.cat([getattr(part[number].views, field) for part in parts])
            assert torch.equal(both, getattr(whole.views, field))


def test_soft_masks_are_the_shares_that_hard_ones_are_the_largest_of(store, labels):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 6, (3, 30, 40), generator=generator)
    every = torch.arange(6).expand(3, 6)
    shares = mask_shares(maps, every, (5, 4))
    assert torch.allclose(shares.sum(1), torch.ones(3, 5, 4))
    assert torch.equal(shares.argmax(1), label_grid(maps, (5, 4)))
    assert shares[1, 2, 3, 1] == pytest.approx(float((maps[1, 18:24, 10:20] == 2).float().mean()))
    hard, soft = views_of(store, labels)(0), views_of(store, labels, soft=True)(0)
    for a, b in zip(hard, soft, strict=True):
        assert torch.equal(a.ids, b.ids)
        assert b.masks.is_floating_point()
        assert ((b.masks > 0) | ~a.masks).all()


@pytest.mark.parametrize(("n", "expected"), [(5, 0.972), (10, 0.815), (16, 0.644), (25, 0.480)])
def test_share_of_masks_that_are_drawn_from_both_views(n, expected):
    grid = torch.arange(n).expand(4000, 1, n)
    generator = torch.Generator().manual_seed(n)
    first, second = (sample_ids(grid, 16, generator) for _ in range(2))
    matched = (first[:, :, None] == second[:, None]).any(2).float().mean()
    assert float(matched) == pytest.approx(1 - (1 - 1 / n) ** 16, abs=0.006)
    assert float(matched) == pytest.approx(expected, abs=0.007)


def by_hand(learner, batch, variant, *, temperature=0.1):
    """Loss of a batch, query by query."""
    latents = []
    for view in batch:
        pictures = photometric_views(view.crops, view.views)
        encoders = {"online": learner.online["encoder"]} | ({"target": learner.target} if variant == "B" else {})
        found = {}
        for name, each in encoders.items():
            maps = each.backbone(pictures)["patches"]
            grid = torch.full((BATCH, *CELLS), -1)
            for i in range(SAMPLES):
                grid = torch.where(view.masks[:, i], view.ids[:, i, None, None], grid)
            found[name] = each.head(pool_regions(maps, grid, view.ids))
        query = learner.online["predictor"](found["online"]) if variant == "B" else found["online"]
        key = found["target"].detach() if variant == "B" else found["online"]
        latents.append((F.normalize(query, dim=-1), F.normalize(key, dim=-1), view.ids))
    total = 0
    for (queries, same, ids), (_, other, ids_other) in (latents, latents[::-1]):
        for b in range(BATCH):
            for s in range(SAMPLES):
                candidates, positives = [], []
                for picture in range(BATCH):
                    for t in range(SAMPLES):
                        if picture != b or ids[picture, t] != ids[b, s]:
                            candidates.append(queries[b, s] @ same[picture, t] / temperature)
                        logit = queries[b, s] @ other[picture, t] / temperature
                        candidates.append(logit)
                        if picture == b and ids_other[picture, t] == ids[b, s]:
                            positives.append(logit)
                if positives:
                    weight = 1 / (ids[b] == ids[b, s]).sum() / (BATCH * SAMPLES)
                    total = total + weight * (torch.stack(candidates).logsumexp(0) - torch.stack(positives).mean())
    return total


@pytest.mark.parametrize("variant", ["B", "S"])
def test_loss_and_gradients_are_those_written_out(batches, variant):
    found, twin = learner_of(batches, variant), learner_of(batches, variant)
    batch = found.draw(1)
    loss, numbers = found.loss(batch)
    expected = by_hand(twin, batch, variant)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    loss.backward()
    expected.backward()
    for (name, a), (_, b) in zip(found.named_parameters(), twin.named_parameters(), strict=True):
        if name.startswith("target"):
            assert a.grad is None
            assert not a.requires_grad
        else:
            assert a.grad is not None, name
            assert torch.allclose(a.grad, b.grad, atol=1e-5, rtol=1e-3), name
    assert 0 < float(numbers["matched"]) < 1
    assert float(numbers["collapsed"]) == pytest.approx(float(loss.detach()), rel=0.5)


@pytest.mark.parametrize("variant", ["B", "S"])
def test_each_view_has_batch_statistics_of_its_own(batches, variant):
    """Two calls: running means move twice, by the mean of one view each; the target's are its own."""
    learner = learner_of(batches, variant)
    networks = [learner.online["encoder"]] + ([learner.target] if variant == "B" else [])
    expected = []
    for network in networks:
        backbone, mean = network.backbone, torch.zeros(7)
        for view in learner.draw(0):
            pictures = photometric_views(view.crops, view.views)
            with torch.no_grad():
                maps = backbone.trunk.conv((pictures - backbone.mean) / backbone.std)
            mean = 0.9 * mean + 0.1 * maps.mean((0, 2, 3))
        expected.append(mean)
    learner.loss(learner.draw(0))
    for network, mean in zip(networks, expected, strict=True):
        assert torch.allclose(network.backbone.trunk.norm.running_mean, mean, atol=1e-5)
    if variant == "B":
        learner.after_step(0, 10)
        assert torch.allclose(learner.target.backbone.trunk.norm.running_mean, expected[1], atol=1e-5)


@pytest.mark.parametrize("keep", [1.0, 0.0, 0.7])
def test_the_target_follows_the_new_online_network(batches, keep):
    learner = learner_of(batches, "B", keep=keep)
    before = {name: p.clone() for name, p in learner.target.named_parameters()}
    loss, _ = learner.loss(learner.draw(0))
    loss.backward()
    torch.optim.SGD(learner.online.parameters(), 0.5).step()
    learner.after_step(2, 10)
    kept = keep_at(2, 10, keep)
    online = dict(learner.online["encoder"].named_parameters())
    for name, p in learner.target.named_parameters():
        assert torch.allclose(p, kept * before[name] + (1 - kept) * online[name], atol=1e-6)
        assert not torch.equal(p, online[name]) or kept < 0.1 or name.endswith("bias")
    assert kept == (1.0 if keep == 1 else kept)


@pytest.mark.parametrize("local_negatives", [True, False])
def test_the_loss_of_equal_latents(local_negatives):
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, 7, (5, 6), generator=generator) for _ in range(2)]
    ones = torch.ones(5, 6, 3)
    expected = region_contrast(ones, ones, ones, ones, *ids, local_negatives=local_negatives)
    found = collapsed_loss(*ids, batch=5, local_negatives=local_negatives)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    distinct = torch.arange(6).expand(5, 6)
    assert float(collapsed_loss(distinct, distinct, batch=5)) == pytest.approx(2 * np.log(2 * 5 * 6 - 1))


def test_the_spread_of_random_latents():
    latents = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert float(latent_spread(latents)) == pytest.approx(1, abs=0.01)


def test_exchanged_masks_are_those_of_other_pictures(labels):
    found = exchanged(labels, seed=0)
    assert [each.shape for each in found] == [each.shape for each in labels]
    numbered = exchanged([np.full((4, 5), i) for i in range(20)], seed=3)
    origin = [int(each[0, 0]) for each in numbered]
    assert sorted(origin) == list(range(20))
    assert all(i != place for place, i in enumerate(origin))
    with pytest.raises(ValueError, match="at least two pictures"):
        exchanged(labels[:1], seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, store):
    from PIL import Image

    place = tmp_path_factory.mktemp("pictures")
    for i in range(8):
        Image.fromarray(store[i]).save(place / f"{i}.png")
    return place


@pytest.fixture(scope="module")
def config(folder):
    return DetConConfig(
        images=str(folder),
        size_px=48,
        short_side_px=48,
        backbone="lcl",
        batch=4,
        hidden_width=16,
        latent_width=8,
        masks="grid",
        precision="float32",
        fh_min_size=50,
        fh_scale=50.0,
    )


def test_target_and_online_network_start_from_different_seeds(config):
    device = torch.device("cpu")
    learner, again = (build(config, device) for _ in range(2))
    state, same = learner.state_dict(), again.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    weights = [name for name, p in learner.target.named_parameters() if p.ndim > 1]
    assert len(weights) == 4
    online = learner.online["encoder"].state_dict()
    assert not any(torch.equal(learner.target.state_dict()[name], online[name]) for name in weights)
    assert build(dataclasses.replace(config, variant="S"), device).target is None
    other = build(dataclasses.replace(config, seed=1), device).state_dict()
    assert not torch.equal(state["online.predictor.0.weight"], other["online.predictor.0.weight"])


@pytest.mark.parametrize("masks", ["fh", "grid", "whole", "numpy:empty_like", "folder"])
def test_masks_of_every_kind(config, folder, tmp_path, store, masks):
    from PIL import Image

    from vision_methods.pictures import open_pictures

    pictures = open_pictures(config).store
    if masks == "folder":
        for i, (height, width) in enumerate(pictures.sizes):
            Image.fromarray((np.arange(height * width).reshape(height, width) % 5).astype(np.uint8)).save(
                tmp_path / f"{i}.png"
            )
        masks = str(tmp_path)
    if masks == "numpy:empty_like":
        with pytest.raises(ValueError, match="expected whole numbers of shape"):
            open_masks(dataclasses.replace(config, masks=masks), pictures)
        return
    found = open_masks(dataclasses.replace(config, masks=masks), pictures)
    count = {len(np.unique(each)) for each in found}
    assert {"fh": min(count) >= 1, "grid": count == {25}, "whole": count == {1}}.get(masks, count == {5})
    learner = build(dataclasses.replace(config, masks=masks, pooling="soft"), torch.device("cpu"))
    loss, _ = learner.train().loss(learner.draw(0))
    assert torch.isfinite(loss)
    exchanged_ = open_masks(dataclasses.replace(config, masks=masks, shuffle_masks=True), pictures)
    assert all(a.shape == b.shape for a, b in zip(found, exchanged_, strict=True))


def test_masks_that_are_kept_are_found_again(config, tmp_path):
    from vision_methods.pictures import open_pictures

    config = dataclasses.replace(config, masks="fh", mask_dir=str(tmp_path / "masks"))
    pictures = open_pictures(config).store
    first, second = open_masks(config, pictures), open_masks(config, pictures)
    assert (first.computed, second.computed, second.found) == (8, 0, 8)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_does_not_fit_is_refused(store, labels, batches):
    with pytest.raises(ValueError, match="13 label maps were given for 14 pictures"):
        views_of(store, labels[:-1])
    with pytest.raises(ValueError, match="one was given alone"):
        DetCon(encoder(0), batches, target=encoder(1))
    with pytest.raises(ValueError, match="samples is 0"):
        DetConConfig(samples=0)
    with pytest.raises(ValueError, match="variant is 'C'"):
        DetConConfig(variant="C")


@pytest.mark.parametrize("preset", PRESETS["detcon"])
def test_presets_say_what_they_are(preset):
    make = PRESETS["detcon"][preset]
    for word in ("Source", "Command", "Hardware", "Time", "xpected"):
        assert word in make.__doc__
    assert DetConConfig.from_dict(make().as_dict()) == make()


def test_the_papers_settings():
    b, s = PRESETS["detcon"]["paper"](), PRESETS["detcon"]["paper-s"]()
    assert (b.variant, b.learning_rate, b.weight_decay, b.keep) == ("B", pytest.approx(0.2 * 4096 / 256), 1.5e-6, 0.996)
    assert (b.hidden_width, b.latent_width, b.samples, b.temperature) == (4096, 256, 16, 0.1)
    assert (s.variant, s.hidden_width, s.latent_width, s.photometric) == ("S", 2048, 128, "simclr")
    for config in (b, s):
        assert (config.backbone, config.size_px, config.batch, config.optimizer) == ("resnet50", 224, 4096, "lars")
        assert (config.masks, config.fh_scale, config.fh_min_size) == ("fh", 1000, 1000)
