"""Adapters, low-rank changes, and the two copies of LAE."""

import torch

from vision_methods.adapters import Beside, OnlineOffline, ensemble
from vision_methods.prompted_vit import run_prompted
from vision_methods.vit import ViT


def vit():
    return ViT(size_px=16, patch_px=8, width=8, depth=2, heads=2, generator=torch.Generator().manual_seed(0))


def test_published_parameter_count():
    pair = OnlineOffline(Beside("adapter", 768, 5, range(5)), keep=0.9999)
    assert sum(each.numel() for each in pair.parameters()) == 84_530
    assert sum(each.numel() for each in pair.parameters() if each.requires_grad) == 42_265


def test_they_start_as_the_transformer_and_change_it():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for kind in ("adapter", "lora"):
        beside = Beside(kind, 8, 2, (0, 1), generator=torch.Generator().manual_seed(2))
        network = vit()
        torch.testing.assert_close(run_prompted(network, images, **beside.arguments()), run_prompted(network, images))
        last = run_prompted(network, images, **beside.arguments()).sum()
        last.backward()
        assert all(each.grad is not None for each in beside.parameters())
        with torch.no_grad():
            for each in beside.parameters():
                each.add_(torch.randn(each.shape, generator=torch.Generator().manual_seed(4)))
        changed = run_prompted(network, images, **beside.arguments())
        assert not torch.allclose(changed, run_prompted(network, images), atol=1e-3)


def test_low_rank_change_is_that_of_the_weights():
    # Added to the weights of queries and values, the change computes the same.
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    lora = Beside("lora", 8, 2, (1,), generator=torch.Generator().manual_seed(2))
    network = vit()
    with torch.no_grad():
        one = lora.of_blocks["1"]
        one.up.normal_(generator=torch.Generator().manual_seed(3))
        with_change = run_prompted(network, images, **lora.arguments())
        weight = network.blocks[1].attn.qkv.weight
        weight[:8] += (one.down[0] @ one.up[0]).T
        weight[16:] += (one.down[1] @ one.up[1]).T
        torch.testing.assert_close(run_prompted(network, images), with_change, rtol=1e-4, atol=1e-5)


def test_offline_follows_and_equals_online_without_memory():
    for keep in (0.0, 0.9):
        pair = OnlineOffline(torch.nn.Linear(2, 2), keep=keep)
        before = pair.offline.weight.clone()
        with torch.no_grad():
            pair.online.weight += 1
        pair.follow()
        torch.testing.assert_close(pair.offline.weight, keep * before + (1 - keep) * pair.online.weight)
    assert not any(each.requires_grad for each in pair.offline.parameters())


def test_ensemble_of_equal_networks_is_the_network():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ensemble(logits, logits), logits.softmax(1))
    surer = torch.tensor([[0.0, 0.0, 9.0]])
    assert ensemble(torch.tensor([[1.0, 0.0, 0.0]]), surer).argmax(1).item() == 2
