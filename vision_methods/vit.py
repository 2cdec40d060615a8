"""A plain vision transformer of pictures and videos, under timm's names, so that public weights load as they are.

A picture is cut into patches, a video into tubelets (patches over some frames); each becomes a token by one linear map,
and a learned position is added. Blocks of attention and of a two-layer network follow, each after a layer norm and
added to its input (Dosovitskiy et al. 2021; for videos Arnab et al. 2021, ViViT, with attention over space and time
together).

Positions are one table for the grid that the network was built with. Another grid has them interpolated: bicubically in
space, as in DINO, and linearly in time, the first and the last frame kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_methods.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone

#: Sizes by name; each is called as ``ViT(**VITS[name])``.
VITS: dict[str, dict[str, Any]] = {
    "toy": {"size_px": 96, "patch_px": 8, "width": 96, "depth": 4, "heads": 3},
    "vit_tiny16": {"size_px": 224, "patch_px": 16, "width": 192, "depth": 12, "heads": 3},
    "vit_small16": {"size_px": 224, "patch_px": 16, "width": 384, "depth": 12, "heads": 6},
    "vit_base16": {"size_px": 224, "patch_px": 16, "width": 768, "depth": 12, "heads": 12},
    "vit_large16": {"size_px": 224, "patch_px": 16, "width": 1024, "depth": 24, "heads": 16},
}


def resize_positions(table: Tensor, grid: tuple[int, int, int], new: tuple[int, int, int]) -> Tensor:
    """Positions of another grid of tokens.

    Parameters
    ----------
    table : Tensor, (1, tokens, width)
        Tokens of ``grid``, times first, then rows, after any others (a class token), which stay as they are.
    grid, new : (int, int, int)
        Times, rows and columns of the table, and those wanted.

    Returns
    -------
    Tensor, (1, tokens, width)
        Bicubic in space (pixel centres, no antialiasing), linear in time with both ends kept; the table itself where
        the grid is the same.

    Raises
    ------
    ValueError
        If the table is smaller than its grid.

    Examples
    --------
    >>> table = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1)
    >>> resize_positions(table, (3, 1, 1), (5, 1, 1)).flatten()
    tensor([0.0000, 0.5000, 1.0000, 1.5000, 2.0000])
    """
    first = table.shape[1] - math.prod(grid)
    if first < 0:
        raise ValueError(f"A table of {table.shape[1]} positions is no grid of {' x '.join(map(str, grid))} tokens.")
    if new == grid:
        return table
    # (time, width, row, column), then (row and column and width, time).
    positions = table[0, first:].view(*grid, -1).permute(0, 3, 1, 2)
    if new[1:] != grid[1:]:
        positions = F.interpolate(positions, new[1:], mode="bicubic", align_corners=False)
    if new[0] != grid[0]:
        over_time = positions.permute(2, 3, 1, 0).flatten(0, 2)[None]
        over_time = F.interpolate(over_time, new[0], mode="linear", align_corners=True)
        positions = over_time.view(*new[1:], -1, new[0]).permute(3, 2, 0, 1)
    return torch.cat([table[:, :first], positions.permute(0, 2, 3, 1).reshape(1, math.prod(new), -1)], 1)


class LayerScale(nn.Module):
    """A learned gain for each feature (Touvron et al. 2021).

    Examples
    --------
    >>> LayerScale(2, 0.1)(torch.ones(1, 2))
    tensor([[0.1000, 0.1000]], grad_fn=<MulBackward0>)
    """

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens times their gains."""
        return tokens * self.gamma


class Attention(nn.Module):
    """Attention of several heads among tokens, and to a memory if one is given.

    Parameters
    ----------
    width, heads : int

    Examples
    --------
    >>> Attention(8, 2)(torch.rand(1, 5, 8), memory=torch.rand(1, 3, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Each token reads all tokens, and the memory.

        Parameters
        ----------
        tokens : Tensor, (B, N, width)
        memory : Tensor, (B, M, width), optional
            More keys and values, made by the same weights; no queries.
        mask : Tensor of bool, (B, N), optional
            Tokens that are read; all without it. The memory is read whole.

        Returns
        -------
        Tensor, (B, N, width)
        """
        queries, keys, values = self.qkv(tokens).chunk(3, -1)
        if memory is not None and memory.shape[1]:
            width = tokens.shape[-1]
            kept = F.linear(memory, self.qkv.weight[width:], self.qkv.bias[width:])
            keys, values = (torch.cat(pair, 1) for pair in zip((keys, values), kept.chunk(2, -1), strict=True))
        queries, keys, values = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (queries, keys, values)
        )
        if mask is not None:
            mask = F.pad(mask, (0, keys.shape[2] - mask.shape[1]), value=True)[:, None, None]
        read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.proj(read.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Linear layer, GELU, linear layer.

    Examples
    --------
    >>> MLP(8, 32)(torch.rand(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Each token on its own."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """``y = x + attention(norm(x))``, then ``y + mlp(norm(y))``.

    Parameters
    ----------
    width, heads, hidden : int
    layer_scale : float, optional
        Initial gain of both branches; none without it.
    norm_eps : float

    Examples
    --------
    >>> Block(8, 2, 32)(torch.rand(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, layer_scale: float | None = None, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, norm_eps)
        self.attn = Attention(width, heads)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, norm_eps)
        self.mlp = MLP(width, hidden)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)

    def forward(self, tokens: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, N, width) to tokens; a memory (B, M, width) of such inputs is normalised as they are, and read.

        Of tokens, those of the mask (B, N) alone are read.
        """
        kept = None if memory is None else self.norm1(memory)
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), kept, mask))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class PatchEmbedding(nn.Module):
    """A linear map of patches or tubelets, as a convolution whose kernel is its stride.

    Examples
    --------
    >>> PatchEmbedding(3, 8, (16, 16))(torch.rand(1, 3, 32, 48)).shape
    torch.Size([1, 8, 2, 3])
    """

    def __init__(self, channels: int, width: int, patch: tuple[int, ...]) -> None:
        super().__init__()
        kind = nn.Conv3d if len(patch) == 3 else nn.Conv2d
        self.proj = kind(channels, width, patch, patch)  # pyright: ignore[reportArgumentType]

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) or videos (B, C, T, H, W) to maps of tokens."""
        return self.proj(images)


class ViT(nn.Module):
    """Vision transformer of pictures or of videos; the parts are named as in timm.

    Parameters
    ----------
    size_px, patch_px : int
        Side of the pictures that the positions are for, and of a patch. Pictures of any other size whose sides are
        whole patches can be shown.
    width, depth, heads : int
    mlp_ratio : float
        Hidden units of each two-layer network over ``width``.
    channels : int
    frames, tubelet : int
        Frames of the videos that the positions are for, and of a tubelet. 1 and 1: a network of pictures.
    class_token : bool
        A learned first token, with a position of its own.
    registers : int
        Further learned tokens after it, without positions (Darcet et al. 2024).
    layer_scale : float, optional
        Initial gain of both branches of every block; none without it.
    norm_eps : float
    mean, std : sequence of float
        Images enter as ``(image - mean) / std``, per channel: one number for all, or one each.
    generator : torch.Generator, optional
        Draws the initial weights: normal with standard deviation 0.02, cut at two of them; offsets are zero.

    Attributes
    ----------
    layers : tuple of str
        ``blocks.0`` and so on, and ``norm``: the last block after the final norm, which dense features are read from.
    channels : dict of str to int
        Width of every layer.
    grid : (int, int, int)
        Times, rows and columns of the table of positions.
    first : int
        Tokens before those of the patches.

    Raises
    ------
    ValueError
        If sizes do not divide.

    Examples
    --------
    >>> vit = ViT(**VITS["toy"])
    >>> vit.layers, vit(torch.rand(2, 3, 96, 96))["norm"].shape
    (('blocks.0', 'blocks.1', 'blocks.2', 'blocks.3', 'norm'), torch.Size([2, 145, 96]))
    >>> vit.maps(torch.rand(2, 3, 64, 128))["norm"].shape
    torch.Size([2, 96, 8, 16])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        size_px: int,
        patch_px: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4,
        channels: int = 3,
        frames: int = 1,
        tubelet: int = 1,
        class_token: bool = True,
        registers: int = 0,
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(size_px, patch_px, width, depth, heads, frames, tubelet) < 1 or registers < 0:
            raise ValueError("A size of the transformer is below 1; expected positive sizes, and 0 or more registers.")
        if size_px % patch_px or frames % tubelet or width % heads:
            raise ValueError(
                f"size_px {size_px}, frames {frames} and width {width} are no multiples of patch_px {patch_px}, "
                f"tubelet {tubelet} and heads {heads}; expected whole patches, tubelets and heads."
            )
        if len(mean) not in (1, channels) or len(std) not in (1, channels):
            raise ValueError(f"mean and std are {tuple(mean)} and {tuple(std)}; expected 1 or {channels} numbers each.")
        self.patch_px, self.tubelet, self.width, self.in_channels = patch_px, tubelet, width, channels
        self.video = frames > 1
        self.grid = (frames // tubelet, size_px // patch_px, size_px // patch_px)
        self.first = int(class_token) + registers
        self.layers = (*(f"blocks.{i}" for i in range(depth)), "norm")
        self.channels = dict.fromkeys(self.layers, width)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

        patch = (tubelet, patch_px, patch_px) if self.video else (patch_px, patch_px)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.pos_embed = nn.Parameter(torch.zeros(1, int(class_token) + math.prod(self.grid), width))
        self.patch_embed = PatchEmbedding(channels, width, patch)
        hidden = round(mlp_ratio * width)
        self.blocks = nn.ModuleList(
            Block(width, heads, hidden, layer_scale=layer_scale, norm_eps=norm_eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, norm_eps)
        self._draw(generator)

    def _draw(self, generator: torch.Generator | None) -> None:
        drawn: list[Tensor] = [each for each in (self.cls_token, self.reg_token, self.pos_embed) if each is not None]
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
                drawn.append(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for weight in drawn:
            nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04, generator=generator)

    def embed(self, images: Tensor, positions: Tensor | None = None) -> Tensor:
        """Tokens that enter the first block: those of the class and registers, then those of patches, with positions.

        Parameters
        ----------
        images : Tensor, (B, C, H, W) or (B, T, C, H, W)
            Floating point, in [0, 1]; sides are multiples of ``patch_px``, T is one of ``tubelet``. A network of videos
            sees a picture as a still video of one tubelet.
        positions : Tensor, (1, tokens, width), optional
            Of these very tokens, the class token's first, as for a part of a longer video; those of the table, resized
            to the images, without it.

        Returns
        -------
        Tensor, (B, ``first`` + tokens, width)
            Patches in the order of times, rows, columns.

        Raises
        ------
        ValueError
            If the images have another shape or type.
        """
        grid = self.grid_of(images)
        normal = (images - self.mean) / self.std
        if self.video:
            normal = (
                normal.transpose(1, 2) if images.ndim == 5 else normal[:, :, None].expand(-1, -1, self.tubelet, -1, -1)
            )
        tokens = self.patch_embed(normal).flatten(2).transpose(1, 2)
        if positions is None:
            positions = resize_positions(self.pos_embed, self.grid, grid)
        before = []
        if self.cls_token is not None:
            before.append((self.cls_token + positions[:, :1]).expand(len(tokens), -1, -1))
            positions = positions[:, 1:]
        if self.reg_token is not None:
            before.append(self.reg_token.expand(len(tokens), -1, -1))
        return torch.cat([*before, tokens + positions], 1)

    def grid_of(self, images: Tensor) -> tuple[int, int, int]:
        """Times, rows and columns of the tokens of images.

        Raises
        ------
        ValueError
            As of :meth:`embed`.
        """
        shape, patch = tuple(images.shape), self.patch_px
        fits = images.ndim == 4 or (images.ndim == 5 and self.video)
        if not fits or shape[-3] != self.in_channels or not images.is_floating_point():
            kinds = f"(batch, {self.in_channels}, height, width)"
            kinds += f" or (batch, frame, {self.in_channels}, height, width)" if self.video else ""
            raise ValueError(
                f"Images are {images.dtype} of shape {shape}; expected floating point in [0, 1] of shape {kinds}."
            )
        times = shape[1] if images.ndim == 5 else self.tubelet
        if times % self.tubelet or shape[-2] % patch or shape[-1] % patch or 0 in shape:
            raise ValueError(
                f"Images have {times} frames of {shape[-2]} x {shape[-1]} px; expected whole tubelets of "
                f"{self.tubelet} frames and whole patches of {patch} px."
            )
        return times // self.tubelet, shape[-2] // patch, shape[-1] // patch

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Tokens of every layer.

        Parameters
        ----------
        images : Tensor, (B, C, H, W) or (B, T, C, H, W)
            As in :meth:`embed`.

        Returns
        -------
        dict of str to Tensor
            Layer to tokens (B, ``first`` + tokens, width).

        Raises
        ------
        ValueError
            As of :meth:`embed`.
        """
        tokens, responses = self.embed(images), {}
        for name, block in zip(self.layers, self.blocks, strict=False):
            responses[name] = tokens = block(tokens)
        return {**responses, "norm": self.norm(tokens)}

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of every layer: the tokens of patches alone, in their places.

        Parameters
        ----------
        images : Tensor, (B, C, H, W) or (B, T, C, H, W)
            As in :meth:`embed`.

        Returns
        -------
        dict of str to Tensor
            Layer to maps (B, width, row, column); of a video (B, width, time, row, column).

        Raises
        ------
        ValueError
            As of :meth:`embed`.
        """
        grid = self.grid_of(images)[0 if images.ndim == 5 else 1 :]
        responses = self(images).items()
        return {name: tokens[:, self.first :].transpose(1, 2).unflatten(2, grid) for name, tokens in responses}


class Maps(nn.Module):
    """The maps of a transformer (:meth:`ViT.maps`) as what a module returns.

    Examples
    --------
    >>> Maps(ViT(**VITS["toy"]))(torch.rand(1, 3, 96, 96))["norm"].shape
    torch.Size([1, 96, 12, 12])
    """

    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of images in [0, 1]."""
        return self.vit.maps(images)


def vit_backbone(vit: ViT) -> Backbone:
    """Transformer of pictures with the interface of the other backbones: maps of its patches.

    Parameters
    ----------
    vit : ViT
        Taken, not copied; scales images itself.

    Returns
    -------
    Backbone
        For images whose sides are multiples of ``patch_px``.

    Examples
    --------
    >>> vit_backbone(ViT(**VITS["toy"])).layers[-1]
    'norm'
    """
    return Backbone(Maps(vit), vit.channels, mean=(0.0,) * 3, std=(1.0,) * 3, least_px=vit.patch_px)


def load_timm(vit: ViT, state: Mapping[str, Tensor], *, drop: Sequence[str] = ()) -> None:
    """Load weights under timm's names, all of them or none.

    What timm's models write differently is brought to the one form, which computes the same: positions without one for
    the class token (``no_embed_class``) get a zero there; positions of registers are added to the registers.

    Pictures' weights load into a network of videos too (Arnab et al. 2021): the embedding is repeated over the frames
    of a tubelet and divided by their number, and positions are repeated over time, so that a still video gives the
    tokens of its picture at every time.

    Parameters
    ----------
    vit : ViT
        Changed in place; of the same sizes, also that of the picture.
    state : mapping of str to Tensor
        As timm's ``state_dict()`` of a ``vit_*`` model.
    drop : sequence of str
        Modules whose tensors are left out, such as ``head``; no other name may be left over.

    Raises
    ------
    ValueError
        If a name is missing or left over, or a tensor has another shape or holds a number that is not finite.

    Examples
    --------
    >>> state = ViT(**VITS["toy"]).state_dict() | {"head.weight": torch.zeros(10, 96), "head.bias": torch.zeros(10)}
    >>> load_timm(ViT(**VITS["toy"]), state, drop=["head"])
    """
    kept = {name: value for name, value in state.items() if name.partition(".")[0] not in drop}
    expected = vit.state_dict()
    _fold_positions(kept, expected, math.prod(vit.grid[1:]))
    _inflate(kept, expected, vit.grid)
    missing, unknown = sorted(expected.keys() - kept.keys()), sorted(kept.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(
            f"The weights lack {', '.join(missing[:3]) or 'nothing'} ({len(missing)} names) and have besides "
            f"{', '.join(unknown[:3]) or 'nothing'} ({len(unknown)} names); expected timm's names of a network of "
            "these sizes, and drop=['head'] to leave its classifier out."
        )
    for name, value in kept.items():
        if value.shape != expected[name].shape or not value.isfinite().all():
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; expected finite numbers of shape "
                f"{tuple(expected[name].shape)}."
            )
    vit.load_state_dict(kept)


def _fold_positions(state: dict[str, Tensor], expected: Mapping[str, Tensor], patches: int) -> None:
    """Positions as the class token's, if there is one, and those of patches."""
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or "cls_token" not in expected:
        return
    if positions.shape[1] == patches:
        state["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)
    registers = state.get("reg_token")
    if registers is not None and positions.shape[1] == 1 + registers.shape[1] + patches:
        of_class, of_registers, of_patches = positions.split([1, registers.shape[1], patches], 1)
        state["pos_embed"] = torch.cat([of_class, of_patches], 1)
        state["reg_token"] = registers + of_registers


def _inflate(state: dict[str, Tensor], expected: Mapping[str, Tensor], grid: tuple[int, int, int]) -> None:
    """Embedding and positions of pictures, repeated over time."""
    name = "patch_embed.proj.weight"
    kernel, positions, patches = state.get(name), state.get("pos_embed"), math.prod(grid[1:])
    if kernel is None or positions is None or kernel.ndim != 4 or expected[name].ndim != 5:
        return
    tubelet = expected[name].shape[2]
    state[name] = kernel[:, :, None].repeat(1, 1, tubelet, 1, 1) / tubelet
    first = max(positions.shape[1] - patches, 0)
    state["pos_embed"] = torch.cat([positions[:, :first], positions[:, first:].repeat(1, grid[0], 1)], 1)


def load_dino(vit: ViT, state: Mapping[str, Tensor]) -> None:
    """Load weights under the names of DINO's or DINOv2's own files, all of them or none.

    Those are timm's, but for what is brought to them here: ``module.`` and ``backbone.`` before every name, blocks in
    chunks (``blocks.1.7`` is ``blocks.7``), ``register_tokens``; the projection ``head`` beside a ``backbone`` and
    ``mask_token`` serve training alone and are left out.

    Parameters
    ----------
    vit : ViT
        Changed in place; ``layer_scale`` has to be given for DINOv2, and ``registers=4`` where it has them.
    state : mapping of str to Tensor
        Of one network: of DINO's full files the part ``teacher`` or ``student``.

    Raises
    ------
    ValueError
        As of :func:`load_timm`.

    Examples
    --------
    >>> state = {f"module.backbone.{name}": value for name, value in ViT(**VITS["toy"]).state_dict().items()}
    >>> load_dino(ViT(**VITS["toy"]), {**state, "module.head.mlp.0.weight": torch.zeros(2, 2)})
    """
    names = {name: name.removeprefix("module.") for name in state}
    whole = any(name.startswith("backbone.") for name in names.values())
    kept = {}
    for name, value in state.items():
        short = names[name]
        if short.startswith("head.") and whole:
            continue
        parts = short.removeprefix("backbone.").split(".")
        if parts[0] == "blocks" and len(parts) > 2 and parts[2].isdigit():
            del parts[1]
        if parts != ["mask_token"]:
            kept[".".join(parts).replace("register_tokens", "reg_token")] = value
    load_timm(vit, kept)
