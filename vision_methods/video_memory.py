"""Long videos read segment by segment, with a memory in every block of a transformer (Balazevic et al. 2024, MC-ViT).

The tokens of a segment attend to each other and to the memory: a few consolidated inputs of that same block from each
segment before (:mod:`vision_methods.consolidation`), normalised by the block's own norm when they are read. Nothing has
parameters of its own: the network is a :class:`vision_methods.vit.ViT`, whose positions span the whole video and are
added before it is divided.

How much of a segment is kept, and how long a segment is, makes the published baselines from the same code:

==================  =================  ======================================================================
``kept``            segments           model
==================  =================  ======================================================================
K                   many               MC-ViT
0                   many               ST-ViT: every segment alone
None (all tokens)   many               MA-ViT: memory without consolidation, as in Transformer-XL
any                 one                joint attention over the whole video
==================  =================  ======================================================================
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vision_methods.consolidation import consolidate, token_orders
from vision_methods.vit import ViT, resize_positions


@dataclass(frozen=True, eq=False)
class Memory:
    """What is carried from one segment of a video to the next.

    Attributes
    ----------
    layers : tuple of Tensor, (B, M, width)
        What was kept of the inputs of every block, the oldest segment first; nothing before the first segment.
    segments, frames : int
        Read so far.
    """

    layers: tuple[Tensor, ...] = ()
    segments: int = 0
    frames: int = 0


def read_segment(
    vit: ViT,
    segment: Tensor,
    memory: Memory,
    *,
    frames: int,
    kept: int | None,
    consolidation: str = "kmeans",
    seeds: int | Sequence[int] = 0,
    detach: bool = True,
) -> tuple[Tensor, Memory]:
    """Tokens of the next segment of a video, and the memory for the one after.

    What is kept are raw inputs of the blocks, consolidated before any norm, and never consolidated again. Tokens of the
    class and registers serve their own segment and are not kept. The paper's equation and its pseudo-code differ on
    this; we follow the equation.

    Parameters
    ----------
    vit : ViT
        Of videos.
    segment : Tensor, (B, S, C, H, W)
        Floating point, in [0, 1]; whole tubelets and patches.
    memory : Memory
        What the segment before left; ``Memory()`` for the first.
    frames : int
        Of the whole video, which the positions span.
    kept : int, optional
        Tokens kept of the segment in every block; None: all.
    consolidation : {"kmeans", "coreset", "random"}
    seeds : int, or one int per video
        Of what consolidation draws; the same number for all without a list.
    detach : bool
        No gradient passes from a segment to those before.

    Returns
    -------
    tokens : Tensor, (B, ``vit.first`` + N, width)
        After the final norm.
    memory : Memory

    Raises
    ------
    ValueError
        If shapes or settings do not fit, or the video ends before the segment does.

    Examples
    --------
    >>> vit = ViT(size_px=16, patch_px=8, width=12, depth=2, heads=2, frames=4, tubelet=2, class_token=False)
    >>> tokens, memory = read_segment(vit, torch.rand(1, 4, 3, 16, 16), Memory(), frames=32, kept=3)
    >>> tokens.shape, [tuple(layer.shape) for layer in memory.layers]
    (torch.Size([1, 8, 12]), [(1, 3, 12), (1, 3, 12)])
    """
    begin, end = memory.frames, memory.frames + segment.shape[1]
    if segment.ndim != 5 or end > frames or frames % vit.tubelet:
        raise ValueError(
            f"A segment of shape {tuple(segment.shape)} follows {begin} frames of a video of {frames}; expected "
            f"(video, frame, channel, row, column), within a whole number of tubelets of {vit.tubelet} frames."
        )
    tokens = vit.embed(segment, _positions(vit, segment, begin=begin, frames=frames))
    before = memory.layers or (tokens[:, :0].detach(),) * len(vit.blocks)
    if len(before) != len(vit.blocks) or len(before[0]) != len(tokens):
        raise ValueError(
            f"The memory is of {len(before)} blocks and {len(before[0])} videos, the segment of {len(vit.blocks)} and "
            f"{len(tokens)}; give the memory that the segment before left."
        )
    count = tokens.shape[1] - vit.first
    if kept is not None and end == frames:
        kept = 0  # nothing will read it
    orders: Sequence[Tensor] = ()
    if kept:
        seeds = [seeds] * len(tokens) if isinstance(seeds, int) else seeds
        orders = token_orders(seeds, count, segment=memory.segments, layers=len(vit.blocks)).to(tokens.device).unbind()
    after = []
    for number, (block, read) in enumerate(zip(vit.blocks, before, strict=True)):
        own = tokens[:, vit.first :]
        own = own.detach() if detach else own
        if kept is not None:
            own = consolidate(own, kept, orders[number], method=consolidation) if kept else own[:, :0]
        after.append(torch.cat([read, own], 1))
        tokens = block(tokens, read)
    return vit.norm(tokens), Memory(tuple(after), memory.segments + 1, end)


def _positions(vit: ViT, segment: Tensor, *, begin: int, frames: int) -> Tensor:
    """Positions of a segment's tokens, as :func:`vision_methods.vit.resize_positions` has them for the whole video.

    No others are made: those of a long video would be as many as its tokens, which are never held together.
    """
    times, rows, columns = vit.grid_of(segment)
    table = resize_positions(vit.pos_embed, vit.grid, (vit.grid[0], rows, columns))[0]
    first = len(table) - vit.grid[0] * rows * columns
    grid = table[first:].view(vit.grid[0], rows * columns, -1)
    last = frames // vit.tubelet - 1
    places = (torch.arange(times, dtype=torch.float64) + begin // vit.tubelet) * (vit.grid[0] - 1) / max(last, 1)
    below = places.floor().long().clamp(max=max(vit.grid[0] - 2, 0))
    above = (below + 1).clamp(max=vit.grid[0] - 1)
    share = (places - below).to(table.device, table.dtype)[:, None, None]
    own = torch.lerp(grid[below.to(table.device)], grid[above.to(table.device)], share)
    return torch.cat([table[:first], own.flatten(0, 1)])[None]


def stream(vit: ViT, segments: Iterable[Tensor], *, frames: int, **options: Any) -> Iterator[Tensor]:
    """Tokens of a video's segments, one after the other; only a segment and the memory are held at a time.

    Parameters
    ----------
    vit : ViT
    segments : iterable of Tensor, (B, S, C, H, W)
        In order; the last may be shorter.
    frames : int
        Of all segments together.
    **options
        As of :func:`read_segment`: ``kept``, ``consolidation``, ``seeds``, ``detach``.

    Yields
    ------
    Tensor, (B, N, width)
        Tokens of the patches after the final norm.

    Raises
    ------
    ValueError
        As of :func:`read_segment`.

    Examples
    --------
    >>> vit = ViT(size_px=16, patch_px=8, width=12, depth=2, heads=2, frames=4, tubelet=2, class_token=False)
    >>> parts = stream(vit, (torch.rand(1, 4, 3, 16, 16) for _ in range(8)), frames=32, kept=2)
    >>> sum(part.shape[1] for part in parts)
    64
    """
    memory = Memory()
    for segment in segments:
        tokens, memory = read_segment(vit, segment, memory, frames=frames, **options)
        yield tokens[:, vit.first :]


def read_video(vit: ViT, video: Tensor, *, segment_frames: int = 16, kept: int | None, **options: Any) -> Tensor:
    """Tokens of a whole video, read segment by segment: what the segments give, one after the other.

    Parameters
    ----------
    vit : ViT
    video : Tensor, (B, T, C, H, W)
        Floating point, in [0, 1].
    segment_frames : int
        A multiple of the tubelet; all frames: joint attention.
    kept : int, optional
        As of :func:`read_segment`.
    **options
        As of :func:`read_segment`: ``consolidation``, ``seeds``, ``detach``.

    Returns
    -------
    Tensor, (B, tokens, width)
        Of the patches, after the final norm.

    Raises
    ------
    ValueError
        As of :func:`read_segment`.

    Examples
    --------
    >>> vit = ViT(size_px=16, patch_px=8, width=12, depth=2, heads=2, frames=4, tubelet=2, class_token=False)
    >>> read_video(vit, torch.rand(2, 12, 3, 16, 16), segment_frames=4, kept=2).shape
    torch.Size([2, 24, 12])
    """
    if segment_frames < 1 or segment_frames % vit.tubelet:
        raise ValueError(f"segment_frames is {segment_frames}; expected a multiple of the tubelet, {vit.tubelet}.")
    return torch.cat(list(stream(vit, video.split(segment_frames, 1), frames=video.shape[1], kept=kept, **options)), 1)


def lengthened(vit: ViT, frames: int) -> ViT:
    """Transformer whose table of positions is for longer videos, interpolated linearly; all else is copied.

    Longer videos are read without it, by positions that are interpolated each time; after it they can be learned.

    Parameters
    ----------
    vit : ViT
        Of videos.
    frames : int
        A multiple of the tubelet.

    Returns
    -------
    ViT

    Raises
    ------
    ValueError
        If the frames are no whole number of tubelets, or the network is of pictures.

    Examples
    --------
    >>> vit = ViT(size_px=16, patch_px=8, width=12, depth=2, heads=2, frames=16, tubelet=2, class_token=False)
    >>> lengthened(vit, 128).pos_embed.shape
    torch.Size([1, 256, 12])
    """
    if not vit.video or frames < vit.tubelet or frames % vit.tubelet:
        raise ValueError(
            f"frames is {frames}; expected a network of videos, and whole tubelets of {vit.tubelet} frames."
        )
    longer = copy.deepcopy(vit)
    longer.grid = (frames // vit.tubelet, *vit.grid[1:])
    longer.pos_embed = nn.Parameter(resize_positions(vit.pos_embed.detach(), vit.grid, longer.grid).clone())
    return longer
