"""A transformer with insertions, against itself and by hand."""

import pytest
import torch

from vision_methods.prompted_vit import Ask, Insertion, prompt_similarity, run_prompted
from vision_methods.prompts import OnlyPrompt
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


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_insertions_it_is_the_transformer(vit, images):
    tokens = vit(images)["norm"]
    torch.testing.assert_close(run_prompted(vit, images), tokens[:, 0])
    torch.testing.assert_close(run_prompted(vit, images, read="patches"), tokens[:, 1:].mean(1))
    nothing = OnlyPrompt(WIDTH, 0)(Ask(torch.zeros(6, WIDTH), 0))
    torch.testing.assert_close(run_prompted(vit, images, nothing), tokens[:, 0])
    empty = {0: (torch.zeros(6, 0, WIDTH), torch.zeros(6, 0, WIDTH))}
    torch.testing.assert_close(run_prompted(vit, images, Insertion(prefixes=empty)), tokens[:, 0])
    with pytest.raises(ValueError, match="prompts"):
        run_prompted(vit, images, read="prompts")


def test_zero_tokens_are_not_neutral(vit, images):
    zero = Insertion(torch.zeros(6, 5, WIDTH))
    assert not torch.allclose(run_prompted(vit, images, zero), run_prompted(vit, images), atol=1e-3)


def test_prefixes_by_hand(vit, images):
    # Keys and values before those of the tokens, heads cut from them as from the tokens' own.
    block, tokens = vit.blocks[0], vit.embed(images)
    keys, values = (torch.randn(6, 2, WIDTH, generator=generator(i)) for i in (3, 4))
    q, k, v = block.attn.qkv(block.norm1(tokens)).chunk(3, -1)
    k, v = torch.cat([keys, k], 1), torch.cat([values, v], 1)
    read = []
    for head in (slice(0, 6), slice(6, 12)):
        weights = (q[..., head] @ k[..., head].transpose(1, 2) / 6**0.5).softmax(-1)
        read.append(weights @ v[..., head])
    after = tokens + block.attn.proj(torch.cat(read, -1))
    after = after + block.mlp(block.norm2(after))
    for other in vit.blocks[1:]:
        after = other(after)
    found = run_prompted(vit, images, Insertion(prefixes={0: (keys, values)}))
    torch.testing.assert_close(found, vit.norm(after)[:, 0], rtol=1e-4, atol=1e-5)


def test_similarity_by_hand():
    prompts = torch.randn(5, 8, generator=generator())
    pairs = [
        torch.nn.functional.cosine_similarity(prompts[i], prompts[j], dim=0)
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    assert prompt_similarity(prompts) == pytest.approx(100 * torch.stack(pairs).mean().item(), abs=1e-3)
