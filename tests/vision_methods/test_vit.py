"""The transformer against torch's own layers, and its names, shapes and counts against those of public weights."""

import pytest
import torch
from torch import nn

from vision_methods.vit import VITS, Attention, Block, ViT, load_dino, load_timm, resize_positions, vit_backbone

SMALL = {"size_px": 16, "patch_px": 8, "width": 12, "depth": 2, "heads": 3}


def small(seed=0, **options):
    return ViT(**{**SMALL, **options}, generator=torch.Generator().manual_seed(seed))


def names(width, depth, patch, tokens, *, registers=0, scaled=False):
    """Names and shapes of timm's ``vit_*`` models, without the classifier."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width)}
    shapes |= {"reg_token": (1, registers, width)} if registers else {}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        for part, (above, below) in {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():
            shapes |= {f"blocks.{i}.{part}.weight": (above, below), f"blocks.{i}.{part}.bias": (above,)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.weight": (width,), f"blocks.{i}.{norm}.bias": (width,)}
        shapes |= {f"blocks.{i}.{scale}.gamma": (width,) for scale in ("ls1", "ls2")} if scaled else {}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


# Counts of the public models: DINO's S/16 and B/16 have 21,665,664 and 85,798,656; ViT's with 1,000 classes have
# 5,717,416 (Ti/16), 86,567,656 (B/16) and 304,326,632 (L/16), of which (width + 1) * 1,000 are the classifier's.
@pytest.mark.parametrize(
    ("name", "width", "depth", "count"),
    [
        ("vit_tiny16", 192, 12, 5_717_416 - 193_000),
        ("vit_small16", 384, 12, 21_665_664),
        ("vit_base16", 768, 12, 85_798_656),
        ("vit_large16", 1024, 24, 304_326_632 - 1_025_000),
    ],
)
def test_names_shapes_and_count_are_those_of_public_weights(name, width, depth, count):
    with torch.device("meta"):
        vit = ViT(**VITS[name])
    assert {key: tuple(value.shape) for key, value in vit.state_dict().items()} == names(width, depth, 16, 197)
    assert sum(p.numel() for p in vit.parameters()) == count


def test_dinov2_with_registers_has_its_names_and_count():
    with torch.device("meta"):
        vit = ViT(size_px=518, patch_px=14, width=384, depth=12, heads=6, registers=4, layer_scale=1e-5)
    shapes = names(384, 12, 14, 1 + 37**2, registers=4, scaled=True)
    assert {key: tuple(value.shape) for key, value in vit.state_dict().items()} == shapes
    # The public S/14 has 22,056,576 with its mask token and without registers.
    assert sum(p.numel() for p in vit.parameters()) == 22_056_576 - 384 + 4 * 384


def torch_block(block, width, heads):
    """Torch's own pre-norm encoder layer with the same weights."""
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    of = {"norm1": "norm1", "norm2": "norm2", "attn.proj": "self_attn.out_proj", "mlp.fc1": "linear1"}
    of |= {"mlp.fc2": "linear2"}
    state = {"self_attn.in_proj_weight": block.attn.qkv.weight, "self_attn.in_proj_bias": block.attn.qkv.bias}
    for ours, theirs in of.items():
        state |= {f"{theirs}.{p}": block.get_submodule(ours).get_parameter(p) for p in ("weight", "bias")}
    layer.load_state_dict(state)
    return layer


def shaken(module, seed=1):
    """All parameters away from their initial values, so that no offset is zero and no gain 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module


def test_tokens_are_those_of_torchs_own_layers():
    vit = shaken(small())
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    patches = nn.functional.unfold((images - mean) / std, 8, stride=8).transpose(1, 2)  # channel, row, column inside
    tokens = patches @ vit.patch_embed.proj.weight.flatten(1).T + vit.patch_embed.proj.bias
    tokens = torch.cat([vit.cls_token.expand(2, 1, -1), tokens], 1) + vit.pos_embed
    torch.testing.assert_close(vit.embed(images), tokens)
    found = vit(images)
    for i, block in enumerate(vit.blocks):
        tokens = torch_block(block, 12, 3)(tokens)
        torch.testing.assert_close(found[f"blocks.{i}"], tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["norm"], nn.functional.layer_norm(tokens, (12,), *vit.norm.parameters(), 1e-6))
    assert tuple(found) == vit.layers == ("blocks.0", "blocks.1", "norm")


def test_attention_to_a_memory_is_torchs_with_more_keys():
    attention, generator = shaken(Attention(12, 3)), torch.Generator().manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight,
            "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.proj.weight,
            "out_proj.bias": attention.proj.bias,
        }
    )
    tokens, memory = torch.randn(2, 5, 12, generator=generator), torch.randn(2, 7, 12, generator=generator)
    both = torch.cat([tokens, memory], 1)
    torch.testing.assert_close(attention(tokens, memory), theirs(tokens, both, both)[0])
    torch.testing.assert_close(attention(tokens, memory), attention(tokens, memory[:, torch.randperm(7)]))
    torch.testing.assert_close(attention(tokens, memory[:, :0]), attention(tokens), rtol=0, atol=0)


def test_a_block_normalises_its_memory_as_its_tokens():
    block, generator = shaken(Block(12, 3, 48, layer_scale=0.5)), torch.Generator().manual_seed(0)
    tokens, memory = torch.randn(2, 5, 12, generator=generator), torch.randn(2, 3, 12, generator=generator)
    attended = tokens + block.ls1.gamma * block.attn(block.norm1(tokens), block.norm1(memory))
    expected = attended + block.ls2.gamma * block.mlp(block.norm2(attended))
    torch.testing.assert_close(block(tokens, memory), expected)


def test_maps_put_patches_in_their_places():
    vit = shaken(small(registers=2))
    images = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(2))
    tokens, maps = vit(images)["blocks.1"], vit.maps(images)["blocks.1"]
    assert maps.shape == (1, 12, 2, 3)
    torch.testing.assert_close(maps[0, :, 1, 2], tokens[0, vit.first + 5])
    backbone = vit_backbone(vit)
    torch.testing.assert_close(backbone(images)["norm"], vit.maps(images)["norm"])
    assert backbone.layers == vit.layers
    assert backbone.channels["norm"] == 12


def test_patches_elsewhere_are_the_same_patches_elsewhere():
    vit = shaken(small())
    with torch.no_grad():
        vit.pos_embed.zero_()
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vit.maps(images.roll(8, 3))["norm"], vit.maps(images)["norm"].roll(1, 3))


def test_positions_of_the_same_grid_are_untouched_and_others_interpolated():
    table = torch.randn(1, 1 + 2 * 3 * 3, 4, generator=torch.Generator().manual_seed(0))
    assert resize_positions(table, (2, 3, 3), (2, 3, 3)) is table
    larger = resize_positions(table, (2, 3, 3), (2, 6, 6))
    assert larger.shape == (1, 1 + 2 * 36, 4)
    torch.testing.assert_close(larger[:, 0], table[:, 0])
    # The middle of an odd number of pixels lies on the middle of the old ones.
    middle = resize_positions(table, (2, 3, 3), (2, 9, 9))[0, 1:].view(2, 9, 9, 4)[:, 4, 4]
    torch.testing.assert_close(middle, table[0, 1:].view(2, 3, 3, 4)[:, 1, 1])
    constant = torch.ones(1, 9, 4)
    torch.testing.assert_close(resize_positions(constant, (1, 3, 3), (5, 4, 7)), torch.ones(1, 140, 4))
    # Linear in time stays linear, ends included; every place and feature on its own.
    line = torch.arange(4.0).view(4, 1, 1, 1) * torch.randn(1, 2, 3, 5, generator=torch.Generator().manual_seed(1))
    longer = resize_positions(line.view(1, 24, 5), (4, 2, 3), (10, 2, 3)).view(10, 2, 3, 5)
    torch.testing.assert_close(longer, line[1] * torch.linspace(0, 3, 10).view(10, 1, 1, 1))
    with pytest.raises(ValueError, match="no grid of 3 x 3 x 3"):
        resize_positions(table, (3, 3, 3), (1, 1, 1))


def test_other_sizes_use_resized_positions():
    vit = shaken(small())
    images = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    own = vit.embed(images)
    grown = small(size_px=32)
    state = vit.state_dict() | {"pos_embed": resize_positions(vit.pos_embed, (1, 2, 2), (1, 4, 4))}
    grown.load_state_dict(state)
    assert own.shape == (1, 21, 12)
    torch.testing.assert_close(grown.embed(images[..., :32]), vit.embed(images[..., :32]))


def test_weights_of_pictures_make_a_still_video_what_its_picture_is():
    vit = shaken(small())
    video = small(1, frames=4, tubelet=2)
    assert video.grid == (2, 2, 2)
    load_timm(video, vit.state_dict())
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    still = picture[:, None].expand(-1, 6, -1, -1, -1)
    tokens, once = video.embed(still), vit.embed(picture)
    torch.testing.assert_close(tokens[:, :1], once[:, :1])
    torch.testing.assert_close(tokens[:, 1:].unflatten(1, (3, 4)), once[:, None, 1:].expand(-1, 3, -1, -1))
    torch.testing.assert_close(video(picture)["norm"], vit(picture)["norm"])
    assert video.maps(still)["norm"].shape == (2, 12, 3, 2, 2)


def test_a_tubelet_is_summed_over_its_frames():
    video = shaken(small(frames=4, tubelet=2))
    frames = torch.rand(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    swapped = frames[:, [0, 1, 3, 2]]
    tokens, other = video.embed(frames), video.embed(swapped)
    torch.testing.assert_close(tokens[:, :5], other[:, :5])
    assert not torch.allclose(tokens[:, 5:], other[:, 5:])


def test_timms_other_forms_of_positions_compute_the_same():
    generator = torch.Generator().manual_seed(0)
    vit, images = shaken(small(registers=2)), torch.rand(1, 3, 16, 16, generator=generator)
    state = dict(vit.state_dict())
    without = state | {
        "pos_embed": state["pos_embed"][:, 1:],
        "cls_token": state["cls_token"] + state["pos_embed"][:, :1],
    }
    of_registers = torch.randn(1, 2, 12, generator=generator)
    whole = state | {
        "pos_embed": torch.cat([state["pos_embed"][:, :1], of_registers, state["pos_embed"][:, 1:]], 1),
        "reg_token": state["reg_token"] - of_registers,
    }
    for each in (without, whole):
        loaded = small(3, registers=2)
        load_timm(loaded, each)
        torch.testing.assert_close(loaded(images)["norm"], vit(images)["norm"])


def test_dinos_files_load():
    vit = shaken(small(registers=2, layer_scale=0.1))
    state = {}
    for name, value in vit.state_dict().items():
        parts = name.replace("reg_token", "register_tokens").split(".")
        if parts[0] == "blocks":
            parts.insert(1, "0")  # as in DINOv2's chunks
        state["module.backbone." + ".".join(parts)] = value
    state |= {"module.backbone.mask_token": torch.zeros(1, 12), "module.head.last_layer.weight": torch.zeros(3, 12)}
    loaded = small(4, registers=2, layer_scale=1.0)
    load_dino(loaded, state)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), vit.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"have besides head\.weight"):
        load_dino(small(), {**small().state_dict(), "head.weight": torch.zeros(2, 12)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.bias": None}, r"lack norm\.bias \(1 names\) and have besides nothing"),
        ({"head.bias": torch.zeros(3)}, r"have besides head\.bias \(1 names\).*drop=\['head'\]"),
        ({"norm.bias": torch.zeros(13)}, r"norm\.bias has shape \(13,\); expected finite numbers of shape \(12,\)"),
        ({"norm.bias": torch.full((12,), float("nan"))}, r"norm\.bias .*finite"),
        ({"pos_embed": torch.zeros(1, 10, 12)}, r"pos_embed has shape \(1, 10, 12\).*\(1, 5, 12\)"),
    ],
)
def test_weights_load_whole_or_not_at_all(change, message):
    vit = small()
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    state = {name: value for name, value in {**small(5).state_dict(), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_timm(vit, state)
    assert all(torch.equal(before[name], value) for name, value in vit.state_dict().items())


def test_weights_depend_on_the_seed_alone_and_are_cut_at_two_deviations():
    first, again, other = small(0), small(0), small(1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.pos_embed, other.pos_embed)
    weights = ViT(**VITS["toy"], generator=torch.Generator().manual_seed(0)).blocks[0].mlp.fc1.weight
    assert weights.abs().max() <= 0.04
    # 0.02 times the deviation of a normal cut at two.
    assert weights.detach().std().item() == pytest.approx(0.0176, rel=0.02)


def test_gradients_reach_every_parameter():
    vit = small(registers=1, layer_scale=0.1)
    sum(tokens.square().sum() for tokens in vit(torch.rand(2, 3, 24, 16)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vit.parameters())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 16, 16), r"shape \(1, 1, 16, 16\); expected .*\(batch, 3, height, width\)\."),
        ((1, 2, 3, 16, 16), r"expected floating point"),
        ((1, 3, 20, 16), r"1 frames of 20 x 16 px; expected .* whole patches of 8 px"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.rand(shape))


def test_more_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        small()(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="3 frames of"):
        small(frames=4, tubelet=2)(torch.rand(1, 3, 3, 16, 16))
    for wrong in ({"size_px": 20}, {"heads": 5}, {"frames": 3, "tubelet": 2}):
        with pytest.raises(ValueError, match="no multiples of"):
            small(**wrong)
    with pytest.raises(ValueError, match="below 1"):
        small(depth=0)
    with pytest.raises(ValueError, match="expected 1 or 3 numbers"):
        small(mean=(0.5, 0.5))
