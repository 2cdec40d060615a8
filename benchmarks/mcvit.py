"""Time and peak memory of MC-ViT against joint attention, as videos grow from 16 to 512 frames.

A forward pass over one video of 48 x 48 px: a transformer of 4 blocks of 96 features, patches of 8 px and tubelets of 2
frames (288 tokens in a segment of 16 frames), of which MC-ViT keeps a sixteenth by k-means. Segments come one at a time
and their tokens are averaged, as a stream is read; joint attention holds the whole video. The models take turns at each
length. Attention is torch's fused kernel, which holds no matrix of scores, or the plain one, which does (--attention).

Peak memory is of the tensors that are alive at a time (on a GPU what its allocator has given out), without parameters.
Growth exponents are slopes of the logarithm of time or memory over that of frames, by least squares over the upper half
of the lengths: 1 is proportional, 2 quadratic. A length is left out where its scores would not fit --most-gb.

    python benchmarks/mcvit.py [--threads N] [--rounds N] [--attention fused|plain] [--device cpu|cuda] [--most-gb 4]
"""

import time
import weakref

import numpy as np
import torch
from side_by_side import arguments, header, in_turn, threads
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vision_methods.video_memory import stream
from vision_methods.vit import ViT

SIDE, PATCH, TUBELET, SEGMENT, WIDTH, DEPTH, HEADS = 48, 8, 2, 16, 96, 4, 3
TOKENS = SEGMENT // TUBELET * (SIDE // PATCH) ** 2
FRAMES = (16, 32, 64, 128, 256, 512)
#: Name, frames of a segment (all without a number), tokens kept (None: all).
MODELS = {
    "joint": (None, 0),
    "everything": (SEGMENT, None),
    "MC-ViT": (SEGMENT, TOKENS // 16),
    "no memory": (SEGMENT, 0),
}


class LiveBytes(TorchDispatchMode):
    """Bytes of tensors that operations have made and that are still there, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self.drop, storage._cdata)
        self.peak = max(self.peak, self.live)
        return result

    def drop(self, key: int) -> None:
        """Count a storage no longer."""
        self.live -= self.sizes.pop(key)


@torch.no_grad()
def forward(vit: ViT, frames: int, segment: int | None, kept: int | None, device: str) -> Tensor:
    lengths = [segment or frames] * (frames // (segment or frames))
    generator = torch.Generator(device).manual_seed(0)
    parts = (torch.rand(1, n, 3, SIDE, SIDE, generator=generator, device=device) for n in lengths)
    total = torch.zeros(WIDTH, device=device)
    for tokens in stream(vit, parts, frames=frames, kept=kept):
        total += tokens.sum((0, 1))
    if device == "cuda":
        torch.cuda.synchronize()
    return total


def peak_mb(run, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with LiveBytes() as seen:
        run()
    return seen.peak / 1e6


def exponent(frames: list[int], values: list[float]) -> float:
    upper = len(frames) // 2
    return float(np.polyfit(np.log(frames[upper:]), np.log(values[upper:]), 1)[0])


def main():
    args = arguments(
        __doc__,
        attention={"choices": ["fused", "plain"], "default": "fused"},
        device={"choices": ["cpu", "cuda"], "default": "cpu"},
        **{"most-gb": {"type": float, "default": 4.0}},
    )
    header(["torch"], args.threads)
    card = f", {torch.cuda.get_device_name()}" if args.device == "cuda" else ""
    print(f"# attention {args.attention}, {args.device}{card}; {TOKENS} tokens in a segment, {TOKENS // 16} kept")
    generator = torch.Generator().manual_seed(0)
    sizes = {"size_px": SIDE, "patch_px": PATCH, "width": WIDTH, "depth": DEPTH, "heads": HEADS, "tubelet": TUBELET}
    vit = ViT(**sizes, frames=SEGMENT, class_token=False, generator=generator).eval().to(args.device)
    plain = args.attention == "plain"
    kernels = [SDPBackend.MATH] if plain else [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    found: dict[str, list[tuple[int, float, float, float]]] = {name: [] for name in MODELS}
    print("frames  model        wall s    CPU s   peak MB")
    with threads(args.threads), sdpa_kernel(kernels):
        for frames in FRAMES:
            runs = {}
            for name, (segment, kept) in MODELS.items():
                queries = (segment or frames) * TOKENS // SEGMENT
                read = queries if segment is None else queries + (frames - segment) * TOKENS // SEGMENT * (kept is None)
                if plain and 3 * 4 * HEADS * queries * read > args.most_gb * 1e9:
                    print(f"{frames:6d}  {name:10s}  left out: its scores take more than --most-gb")
                    continue
                runs[name] = lambda segment=segment, kept=kept, frames=frames: forward(
                    vit, frames, segment, kept, args.device
                )
            for run in runs.values():
                run()
            peaks = {name: peak_mb(run, args.device) for name, run in runs.items()}
            for name, (wall, cpu) in in_turn(runs, args.rounds).items():
                found[name].append((frames, wall, cpu, peaks[name]))
                print(f"{frames:6d}  {name:10s} {wall:8.3f} {cpu:8.3f} {peaks[name]:9.1f}", flush=True)
    print("\nexponents   wall   CPU    peak   (frames)")
    for name, rows in found.items():
        frames, *values = (list(column) for column in zip(*rows, strict=True))
        wall, cpu, peak = (exponent(frames, each) for each in values)
        print(f"{name:10s} {wall:5.2f} {cpu:6.2f} {peak:6.2f}   ({frames[len(frames) // 2]} to {frames[-1]})")
    both = [{row[0]: row for row in found[name]} for name in ("joint", "MC-ViT")]
    longest = max(set(both[0]) & set(both[1]))
    joint, ours = both[0][longest], both[1][longest]
    print(f"\njoint / MC-ViT at {longest} frames: CPU {joint[2] / ours[2]:.1f}x, memory {joint[3] / ours[3]:.1f}x")


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"# {time.perf_counter() - start:.0f} s in all")
