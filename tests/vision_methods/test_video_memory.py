"""Memory of videos against a loop in numpy, the transformer itself, counted operations, and what must hold."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vision_methods.consolidation import CONSOLIDATIONS, token_orders
from vision_methods.video_memory import Memory, _positions, lengthened, read_segment, read_video, stream
from vision_methods.vit import VITS, ViT, load_timm, resize_positions

SEGMENT, TOKENS = 4, 8  # frames of a segment, and the tokens they make: 2 tubelets of 2 x 2 patches


def network(seed=0, dtype=torch.float64, **options):
    sizes = {"size_px": 8, "patch_px": 4, "width": 12, "depth": 3, "heads": 3, "mlp_ratio": 2, "frames": 4}
    sizes |= {"tubelet": 2, "class_token": False, "generator": torch.Generator().manual_seed(seed)}
    vit = ViT(**(sizes | options)).to(dtype)
    with torch.no_grad():
        for parameter in vit.parameters():  # larger than initial weights, so that attention is far from uniform
            parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(seed))
    return vit


def video(items=2, segments=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(items, segments * SEGMENT, 3, 8, 8, generator=generator, dtype=dtype)


def read(vit, frames, kept, **options):
    return read_video(vit, frames, segment_frames=SEGMENT, kept=kept, **options)


def of_segments(tokens):
    return tokens.unflatten(1, (-1, TOKENS)).unbind(1)


def alone(vit, frames, number):
    """The transformer itself on one segment, with the positions that this segment has in the whole video."""
    times = frames.shape[1] // vit.tubelet
    table = resize_positions(vit.pos_embed, vit.grid, (times, 2, 2))
    twin = copy.deepcopy(vit)
    twin.pos_embed = nn.Parameter(table[:, number * TOKENS : (number + 1) * TOKENS].detach())
    return twin(frames.split(SEGMENT, 1)[number])["norm"]


# Against a loop in numpy, and the transformer itself


def by_hand(vit, frames, kept, seeds):
    """MC-ViT with random consolidation, one video and one head at a time, from the arrays of the network's state."""
    state = {name: value.detach().numpy() for name, value in vit.state_dict().items()}

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6)
        return unit * state[f"{name}.weight"] + state[f"{name}.bias"]

    def gelu(x):
        return x * np.vectorize(lambda each: (1 + math.erf(each / math.sqrt(2))) / 2)(x)

    times = frames.shape[1] // 2
    places = np.linspace(0, vit.grid[0] - 1, times)
    table = state["pos_embed"].reshape(vit.grid[0], 4, -1)
    below = np.minimum(np.floor(places).astype(int), vit.grid[0] - 2)
    share = (places - below)[:, None, None]
    positions = (table[below] * (1 - share) + table[below + 1] * share).reshape(times * 4, -1)
    mean, std = vit.mean.numpy(), vit.std.numpy()
    kernel = state["patch_embed.proj.weight"]
    out = []
    for item, seed in zip(frames.numpy(), seeds, strict=True):
        memory = [[] for _ in vit.blocks]
        tokens_of_video = []
        for number in range(frames.shape[1] // SEGMENT):
            pixels = ((item - mean) / std)[number * SEGMENT : (number + 1) * SEGMENT]
            tokens = []
            for t in range(0, SEGMENT, 2):
                for row in (0, 4):
                    for column in (0, 4):
                        tubelet = pixels[t : t + 2, :, row : row + 4, column : column + 4].transpose(1, 0, 2, 3)
                        tokens.append((kernel * tubelet).sum((1, 2, 3, 4)) + state["patch_embed.proj.bias"])
            z = np.array(tokens) + positions[number * TOKENS : (number + 1) * TOKENS]
            chosen = token_orders([seed], TOKENS, segment=number, layers=len(vit.blocks))[:, 0, :kept]
            for block in range(len(vit.blocks)):
                name = f"blocks.{block}"
                remembered = list(memory[block])
                memory[block] += [z[i] for i in chosen[block]]
                sources = np.array([*z, *remembered])
                projected = linear(f"{name}.attn.qkv", norm(f"{name}.norm1", sources))
                heads = []
                for head in range(3):
                    q, k, v = (projected[:, part * 12 + head * 4 : part * 12 + head * 4 + 4] for part in range(3))
                    scores = np.exp(q[:TOKENS] @ k.T / 2)
                    heads.append(scores / scores.sum(1, keepdims=True) @ v)
                z = z + linear(f"{name}.attn.proj", np.concatenate(heads, 1))
                hidden = gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", z)))
                z = z + linear(f"{name}.mlp.fc2", hidden)
            tokens_of_video.append(norm("norm", z))
        out.append(np.concatenate(tokens_of_video))
    return np.array(out)


@pytest.mark.parametrize("kept", [0, 3, TOKENS])
def test_a_loop_in_numpy_gives_the_same(kept):
    vit, frames = network(), video()
    found = read(vit, frames, kept, consolidation="random", seeds=[4, 9])
    np.testing.assert_allclose(found.detach(), by_hand(vit, frames, kept, [4, 9]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_without_memory_every_segment_is_the_transformer_itself(method):
    vit, frames = network(), video()
    for number, tokens in enumerate(of_segments(read(vit, frames, 0, consolidation=method))):
        torch.testing.assert_close(tokens, alone(vit, frames, number), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", CONSOLIDATIONS)
@pytest.mark.parametrize("kept", [1, 5, None])
def test_the_first_segment_is_the_transformer_itself(method, kept):
    vit, frames = network(), video()
    first = of_segments(read(vit, frames, kept, consolidation=method))[0]
    torch.testing.assert_close(first, alone(vit, frames, 0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", [0, 3, None])
def test_one_segment_is_joint_attention(kept):
    vit, frames = network(), video()
    joint = vit(frames)["norm"]
    tokens = read_video(vit, frames, segment_frames=frames.shape[1], kept=kept)
    torch.testing.assert_close(tokens, joint, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_all_tokens_kept_is_memory_without_consolidation(method):
    vit, frames = network(), video()
    everything = read(vit, frames, None)
    torch.testing.assert_close(read(vit, frames, TOKENS, consolidation=method), everything, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(read(vit, frames, TOKENS - 1, consolidation=method), everything, atol=1e-4)


def test_memory_without_consolidation_is_not_joint_attention():
    vit, frames = network(), video()
    last = of_segments(read(vit, frames, None))[-1]
    joint = of_segments(vit(frames)["norm"])[-1]
    assert not torch.allclose(last, joint, atol=1e-3)


# What the memory is


def test_memory_holds_raw_inputs_of_each_block_and_grows_by_what_is_kept():
    vit, frames = network(), video()
    inputs = [[] for _ in vit.blocks]
    for block, seen in zip(vit.blocks, inputs, strict=True):
        block.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
    memory = Memory()
    for number, segment in enumerate(frames.split(SEGMENT, 1)):
        assert all(layer.shape == (2, 3 * number, 12) for layer in memory.layers)
        orders = token_orders([7, 7], TOKENS, segment=number, layers=3)
        before = memory
        _, memory = read_segment(
            vit, segment, memory, frames=100, kept=3, consolidation="random", seeds=7, detach=False
        )
        assert (memory.segments, memory.frames) == (number + 1, (number + 1) * SEGMENT)
        for layer, now in enumerate(memory.layers):
            raw = inputs[layer][number].gather(1, orders[layer, :, :3, None].expand(-1, -1, 12))
            assert torch.equal(now[:, -3:], raw)
            if number:
                assert torch.equal(now[:, :-3], before.layers[layer])  # never consolidated again


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_later_segments_never_change_earlier_outputs(method):
    vit, frames = network(), video()
    changed = frames.clone()
    changed[:, 2 * SEGMENT : 3 * SEGMENT] = 1 - frames[:, 2 * SEGMENT : 3 * SEGMENT]
    for kept, reaches in ((0, False), (2, True), (None, True)):
        first, second = (of_segments(read(vit, x, kept, consolidation=method)) for x in (frames, changed))
        assert all(torch.equal(first[i], second[i]) for i in (0, 1))
        assert not torch.allclose(first[2], second[2], atol=1e-3)
        assert torch.equal(first[3], second[3]) != reaches


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_segments_one_at_a_time_are_the_whole_video(method):
    vit, frames = network(), video()
    whole, memory, parts = read(vit, frames, 3, consolidation=method, seeds=[1, 2]), Memory(), []
    for segment in frames.split(SEGMENT, 1):
        tokens, memory = read_segment(vit, segment, memory, frames=16, kept=3, consolidation=method, seeds=[1, 2])
        parts.append(tokens)
    assert torch.equal(torch.cat(parts, 1), whole)


def test_a_stream_asks_for_a_segment_only_when_it_is_due():
    vit, frames, asked = network(), video(), []

    def segments():
        for number, segment in enumerate(frames.split(SEGMENT, 1)):
            asked.append(number)
            yield segment

    for number, _ in enumerate(stream(vit, segments(), frames=16, kept=2)):
        assert asked == list(range(number + 1))


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_a_video_alone_is_as_in_the_batch(method):
    vit, frames = network(), video(3)
    together = read(vit, frames, 3, consolidation=method, seeds=[5, 6, 7])
    for item in range(3):
        single = read(vit, frames[item : item + 1], 3, consolidation=method, seeds=[5 + item])
        torch.testing.assert_close(single[0], together[item], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_seeds_decide_what_is_kept(method):
    vit, frames = network(), video(1)
    first, again, other = (read(vit, frames, 3, consolidation=method, seeds=[seed]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-6)


def test_copies_in_memory_weigh_twice_and_order_does_not_matter():
    vit, frames = network(), video()
    _, memory = read_segment(vit, frames[:, :SEGMENT], Memory(), frames=16, kept=4)

    def second(layers):
        changed = Memory(tuple(layers), memory.segments, memory.frames)
        return read_segment(vit, frames[:, SEGMENT : 2 * SEGMENT], changed, frames=16, kept=0)[0]

    plain = second(memory.layers)
    torch.testing.assert_close(second([layer.flip(1) for layer in memory.layers]), plain, rtol=1e-10, atol=1e-10)
    copied = [torch.cat([layer, layer[:, :1]], 1) for layer in memory.layers]
    assert not torch.allclose(second(copied), plain, atol=1e-4)


def test_a_last_segment_may_be_shorter():
    vit, frames = network(), video()[:, :14]
    tokens = read(vit, frames, 3)
    assert tokens.shape == (2, 7 * 4, 12)
    longer = read_video(vit, frames[:, :12], segment_frames=SEGMENT, kept=3)
    assert tokens[:, :24].shape == longer.shape  # the same tokens with other positions


def test_class_and_register_tokens_serve_their_own_segment():
    vit, frames = network(class_token=True, registers=2), video()
    tokens, memory = read_segment(vit, frames[:, :SEGMENT], Memory(), frames=16, kept=None)
    assert tokens.shape == (2, 3 + TOKENS, 12)
    assert all(layer.shape == (2, TOKENS, 12) for layer in memory.layers)
    assert read(vit, frames, 2).shape == (2, 4 * TOKENS, 12)
    one = read_segment(vit, frames, Memory(), frames=16, kept=0)[0]
    torch.testing.assert_close(one, vit(frames)["norm"], rtol=1e-12, atol=1e-12)


# Gradients


def gradients(method, detach, kept=3):
    vit = network()
    parts = [part.clone().requires_grad_() for part in video().split(SEGMENT, 1)]
    tokens = list(stream(vit, parts, frames=16, kept=kept, consolidation=method, detach=detach))
    tokens[2].square().sum().backward()
    return [None if part.grad is None else float(part.grad.abs().sum()) for part in parts]


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_a_detached_memory_passes_no_gradient_to_earlier_segments(method):
    first, second, third, fourth = gradients(method, detach=True)
    assert (first, second, fourth) == (None, None, None)
    assert third > 0


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_an_attached_memory_passes_gradients_back_but_not_on(method):
    first, second, third, fourth = gradients(method, detach=False)
    assert min(first, second, third) > 0
    assert fourth is None
    assert gradients(method, detach=False, kept=0)[:2] == [None, None]


@pytest.mark.parametrize("method", CONSOLIDATIONS)
def test_gradients_through_the_memory_are_those_of_finite_differences(method):
    vit = network(depth=2)
    given = video(1, 2)[:, : SEGMENT + 2, :, :, :].clone()
    direction = torch.randn(given.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction[:, SEGMENT:] = 0  # only the first segment is changed, and only the second is looked at

    def late(x):
        return read(vit, x, 3, consolidation=method, detach=False)[:, TOKENS:].square().sum()

    step = 1e-6
    numeric = float((late(given + step * direction) - late(given - step * direction)).detach()) / (2 * step)
    given.requires_grad_()
    late(given).backward()
    assert float((given.grad * direction).sum()) == pytest.approx(numeric, rel=1e-5)


# No new parameters; positions


def test_the_state_is_that_of_the_transformer():
    vit, before = network(), network().state_dict()
    read(vit, video(), 3)
    assert {name: value.shape for name, value in vit.state_dict().items()} == {
        name: value.shape for name, value in before.items()
    }
    longer = lengthened(vit, 32).state_dict()
    changed = [name for name in before if longer[name].shape != before[name].shape]
    assert (list(longer), changed) == (list(before), ["pos_embed"])
    assert longer["pos_embed"].shape == (1, 8 * TOKENS, 12)


@pytest.mark.parametrize("sizes", [(4, 8), (8, 8), (4, 16), (2, 8), (8, 2), (16, 12)])
def test_positions_of_segments_are_those_of_the_whole_video(sizes):
    frames, total = sizes
    vit, whole = network(frames=frames, class_token=True), torch.rand(1, total, 3, 12, 8, dtype=torch.float64)
    expected = vit.embed(whole)
    parts = [
        vit.embed(part, _positions(vit, part, begin=2 * number, frames=total))
        for number, part in enumerate(whole.split(2, 1))
    ]
    tokens = torch.cat([parts[0][:, :1], *(part[:, 1:] for part in parts)], 1)
    torch.testing.assert_close(tokens, expected, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(part[:, :1], expected[:, :1]) for part in parts)


def test_lengthened_positions_are_exact_for_lines_and_read_the_same():
    vit, frames = network(), video(segments=8)
    with torch.no_grad():
        vit.pos_embed.view(2, 4, 12)[1].copy_(vit.pos_embed.view(2, 4, 12)[0] + 1)
    longer = lengthened(vit, 32)
    over_time = longer.pos_embed.view(16, 4, 12)
    line = vit.pos_embed.view(2, 4, 12)[:1] + torch.linspace(0, 1, 16, dtype=torch.float64).view(-1, 1, 1)
    torch.testing.assert_close(over_time, line, rtol=1e-12, atol=1e-12)
    assert torch.equal(lengthened(vit, 4).pos_embed, vit.pos_embed)
    torch.testing.assert_close(read(longer, frames, 3), read(vit, frames, 3), rtol=1e-12, atol=1e-12)
    assert longer.pos_embed.requires_grad
    assert longer.pos_embed.data_ptr() != vit.pos_embed.data_ptr()


def test_weights_of_a_network_of_pictures_read_a_still_video_as_the_picture():
    sizes = VITS["toy"] | {"size_px": 32, "depth": 2}
    pictures = ViT(**sizes, generator=torch.Generator().manual_seed(0))
    videos = ViT(**sizes, frames=4, tubelet=2)
    load_timm(videos, pictures.state_dict())
    image = torch.rand(1, 3, 32, 32)
    still = image[:, None].expand(-1, 8, -1, -1, -1)
    own = pictures(image)["norm"][:, 1:]
    # Segments of one tubelet: each token of the segment sees what it sees in the picture.
    tokens = read_video(videos, still, segment_frames=2, kept=0).unflatten(1, (4, 16))
    for part in tokens.unbind(1):
        torch.testing.assert_close(part, own, rtol=1e-4, atol=1e-5)


# Cost


def score_cells(segments, count, kept):
    """Cells of all score matrices, in units of those of segments alone."""
    return sum(count * (count + number * kept) for number in range(segments)) / (segments * count**2)


@pytest.mark.parametrize(
    ("segments", "joint", "everything", "of_128", "of_256", "of_512"),
    [
        (2, 2.0, 1.5, 1.03, 1.06, 1.13),
        (4, 4.0, 2.5, 1.09, 1.19, 1.38),
        (8, 8.0, 4.5, 1.22, 1.44, 1.88),
        (16, 16, 8.5, 1.47, 1.94, 2.88),
    ],
)
def test_the_published_sizes_cost_what_the_formula_says(segments, joint, everything, of_128, of_256, of_512):
    found = [score_cells(1, segments * 2048, 0) * segments]
    found += [score_cells(segments, 2048, kept) for kept in (2048, 128, 256, 512)]
    assert found == pytest.approx([joint, everything, of_128, of_256, of_512], abs=0.006)
    assert found[2:] == pytest.approx([1 + k * (segments - 1) / (2 * 2048) for k in (128, 256, 512)])


def counted(vit, frames, segment_frames, kept):
    """Operations of attention alone, and of all matrix products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        read_video(vit, frames, segment_frames=segment_frames, kept=kept, consolidation="random")
    total = counter.get_flop_counts()["Global"]
    return total.get(torch.ops.aten.bmm, 0), sum(total.values())


@pytest.mark.parametrize("segments", [2, 4, 8])
@pytest.mark.parametrize("kept", [0, 1, 4, TOKENS])
def test_counted_operations_are_those_of_the_formula(segments, kept):
    vit, frames = network(dtype=torch.float32), video(1, segments, dtype=torch.float32)
    attention, everything = counted(vit, frames, SEGMENT, kept)
    cells = segments * TOKENS**2 * score_cells(segments, TOKENS, kept)
    assert attention == 3 * 2 * 2 * cells * 12  # blocks x (scores, values) x (multiply, add) x cells x width
    # The rest is linear: the embedding, and per block and token qkv, projection and MLP; memories add keys and values.
    count, read_again = segments * TOKENS, sum(number * kept for number in range(segments))
    linear = 2 * count * (3 * 2 * 4 * 4) * 12 + 3 * 2 * (count * (3 + 1 + 2 + 2) + read_again * 2) * 12**2
    assert everything - attention == linear


def test_counted_operations_of_joint_attention_grow_with_the_square():
    vit = network(dtype=torch.float32)
    per_length = [counted(vit, video(1, n, dtype=torch.float32), n * SEGMENT, 0)[0] for n in (2, 4, 8)]
    assert per_length[1] / per_length[0] == per_length[2] / per_length[1] == 4
    kept = [counted(vit, video(1, n, dtype=torch.float32), SEGMENT, 0)[0] for n in (2, 4, 8)]
    assert kept[1] / kept[0] == kept[2] / kept[1] == 2


# Refusals


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (video(), {"frames": 15, "kept": 2}, "within a whole number of tubelets of 2"),
        (video(), {"frames": 12, "kept": 2}, "follows 0 frames of a video of 12"),
        (video()[0], {"frames": 16, "kept": 2}, "expected \\(video, frame, channel, row, column\\)"),
        (video()[:, :3], {"frames": 16, "kept": 2}, "3 frames of 8 x 8 px"),
        (video()[:, :4], {"frames": 16, "kept": 9}, "9 of 8 tokens"),
        (video()[:, :4], {"frames": 16, "kept": 2, "consolidation": "mean"}, "consolidation is 'mean'"),
        (video(1)[:, :4], {"frames": 16, "kept": 2, "memory": Memory((torch.zeros(2, 3, 12),) * 3)}, "and 2 videos"),
        (video()[:, :4], {"frames": 16, "kept": 2, "memory": Memory((torch.zeros(2, 3, 12),))}, "of 1 blocks"),
    ],
)
def test_segments_that_do_not_fit_are_refused(given, options, message):
    with pytest.raises(ValueError, match=message):
        read_segment(network(), given, options.pop("memory", Memory()), **options)


def test_other_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="segment_frames is 3"):
        read_video(network(), video(), segment_frames=3, kept=2)
    with pytest.raises(ValueError, match="frames is 9"):
        lengthened(network(), 9)
    with pytest.raises(ValueError, match="a network of videos"):
        lengthened(network(frames=1, tubelet=1), 8)
