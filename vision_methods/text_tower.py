"""Texts as vectors: a byte-pair tokenizer, a small transformer of ours, and CLIP's.

The tokenizer is of the library ``tokenizers``, CLIP's text model of ``transformers`` (extra: ``text``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vision_methods.vit import Block

#: Tokens of ours that stand for no text: what fills a text up, and its end.
PAD, END = "[PAD]", "[END]"
#: What CLIP's tokenizers end a text with, and fill it up with.
CLIP_END = "<|endoftext|>"


def _tokenizers() -> Any:
    try:
        import tokenizers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('Texts need the package tokenizers; run pip install "lcl[text]".') from error
    return tokenizers


def train_tokenizer(captions: Iterable[str], vocabulary: int) -> Any:
    """Byte-pair tokenizer of some captions (Sennrich et al. 2016), in lower case, over bytes.

    Every text can be written; ``[END]`` follows it, and ``[PAD]``, number 0, fills it up.

    Parameters
    ----------
    captions : iterable of str
    vocabulary : int
        At most so many tokens, 258 of which are bytes and the two above.

    Returns
    -------
    tokenizers.Tokenizer

    Raises
    ------
    ImportError
        Without the extra ``text``.
    ValueError
        If the vocabulary is below 258.

    Examples
    --------
    >>> tokenizer = train_tokenizer(["two red squares", "a red circle"], 300)
    >>> tokenizer.encode("Red!").tokens
    ['Ġred', '!', '[END]']
    """
    library = _tokenizers()
    least = 2 + len(library.pre_tokenizers.ByteLevel.alphabet())
    if vocabulary < least:
        raise ValueError(f"vocabulary is {vocabulary}; expected at least {least}, for every byte, [PAD] and [END].")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = library.normalizers.Sequence([library.normalizers.NFC(), library.normalizers.Lowercase()])
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return tokenizer


def load_tokenizer(path: Path | str) -> Any:
    """Tokenizer from the file ``tokenizer.json`` of the library ``tokenizers``, or from a folder that has it.

    Parameters
    ----------
    path : path

    Returns
    -------
    tokenizers.Tokenizer

    Raises
    ------
    ImportError
        Without the extra ``text``.
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no tokenizer, or has no token that fills texts up (``[PAD]``, or CLIP's ``<|endoftext|>``).
    """
    library, file = _tokenizers(), Path(path).expanduser()
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; expected a tokenizer.json.")
    try:
        tokenizer = library.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"{file} is no tokenizer of the library tokenizers ({error}).") from None
    padding(tokenizer)
    return tokenizer


def written(tokenizer: Any) -> str:
    """Tokenizer as the text of tokenizer.json, without the length that texts were last cut to.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer

    Returns
    -------
    str
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer.to_str()


def padding(tokenizer: Any) -> int:
    """Number of the token that fills a text up.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it has neither ``[PAD]`` nor CLIP's ``<|endoftext|>``.

    Examples
    --------
    >>> padding(train_tokenizer(["a red circle"], 300))
    0
    """
    for name in (PAD, CLIP_END):
        number = tokenizer.token_to_id(name)
        if number is not None:
            return number
    raise ValueError(f"The tokenizer has neither {PAD} nor {CLIP_END}; expected one of them, to fill short texts up.")


def tokenize(tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
    """Numbers of the tokens of texts, cut off or filled up to one length; the end is kept.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
    texts : sequence of str
    length : int
        At least 2.

    Returns
    -------
    Tensor of int64, (text, length)

    Raises
    ------
    ValueError
        If there are no texts, or one has no token.

    Examples
    --------
    >>> tokenizer = train_tokenizer(["a red circle"] * 9, 300)
    >>> tokenize(tokenizer, ["a red circle", "red red red red", "red"], 4)[:, -1]
    tensor([1, 1, 0])
    """
    if not len(texts) or length < 2:
        raise ValueError(f"There are {len(texts)} texts of length {length}; expected at least 1 text and 2 tokens.")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=padding(tokenizer))
    encoded = tokenizer.encode_batch(list(texts))
    for text, each in zip(texts, encoded, strict=True):
        if not any(each.attention_mask):
            raise ValueError(f"The text {text!r} has no token; expected words.")
    return torch.tensor([each.ids for each in encoded])


def shortened(tokens: Tensor) -> Tensor:
    """Texts without the columns that fill all of them up, which change nothing but the time it takes.

    Parameters
    ----------
    tokens : Tensor of int64, (text, length)

    Returns
    -------
    Tensor of int64, (text, up to length)
        One column of what fills texts up stays, as it may be their end (CLIP's tokenizers).

    Examples
    --------
    >>> shortened(torch.tensor([[5, 1, 0, 0, 0], [1, 0, 0, 0, 0]]))
    tensor([[5, 1, 0],
            [1, 0, 0]])
    """
    used = (tokens != tokens[:, -1:]).any(0).nonzero()
    return tokens[:, : int(used.max()) + 2] if len(used) else tokens[:, :1]


class TextTower(nn.Module):
    """A small transformer of texts: pre-norm blocks, every token reads every other, none reads what fills texts up.

    Parameters
    ----------
    vocabulary : int
        Tokens; number 0 fills texts up.
    length : int
        Most tokens of a text.
    width, depth, heads : int
        Features of a token, blocks, heads of attention.
    pooling : {"mean", "last"}
        A text is the mean of its tokens, or its last one.
    generator : torch.Generator, optional
        Draws the initial weights, as CLIP does (Radford et al. 2021).

    Attributes
    ----------
    width : int
        Features of a text.

    Raises
    ------
    ValueError
        If a size is below 1, heads do not divide the width, or the pooling is unknown.

    Examples
    --------
    >>> tower = TextTower(300, length=8, width=16, depth=1, heads=2)
    >>> tower(torch.tensor([[5, 7, 1, 0, 0]])).shape
    torch.Size([1, 16])
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        length: int,
        width: int,
        depth: int,
        heads: int,
        pooling: str = "mean",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(vocabulary, length, width, depth, heads) < 1 or width % heads:
            raise ValueError(
                f"vocabulary {vocabulary}, length {length}, width {width}, depth {depth} and heads {heads} were given; "
                "expected at least 1 each, and a width that is a multiple of the heads."
            )
        if pooling not in ("mean", "last"):
            raise ValueError(f"pooling is {pooling!r}; expected mean or last.")
        self.width, self.length, self.pooling = width, length, pooling
        self.token_embed = nn.Embedding(vocabulary, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, length, width))
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)
        nn.init.normal_(self.token_embed.weight, std=0.02, generator=generator)
        nn.init.normal_(self.pos_embed, std=0.01, generator=generator)
        for block in self.blocks:
            assert isinstance(block, Block)
            into = (2 * depth * width) ** -0.5  # branches that add to the stream grow with its length
            stds = {block.attn.qkv: width**-0.5, block.attn.proj: into, block.mlp.fc1: (2 * width) ** -0.5}
            for linear, std in {**stds, block.mlp.fc2: into}.items():
                nn.init.normal_(linear.weight, std=std, generator=generator)
                nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Texts as vectors.

        Parameters
        ----------
        tokens : Tensor of int64, (B, L)
            Filled up with 0; each text has at least one token, and at most ``length``.

        Returns
        -------
        Tensor, (B, width)

        Raises
        ------
        ValueError
            If they are no such tokens.
        """
        if tokens.ndim != 2 or tokens.is_floating_point() or not 1 <= tokens.shape[1] <= self.length:
            raise ValueError(
                f"Tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; expected whole numbers of shape (text, up "
                f"to {self.length})."
            )
        real = tokens != 0
        stream = self.token_embed(tokens) + self.pos_embed[:, : tokens.shape[1]]
        for block in self.blocks:
            stream = block(stream, mask=real)
        stream = self.norm(stream)
        if self.pooling == "mean":
            return (stream * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return stream[torch.arange(len(stream), device=stream.device), real.sum(1) - 1]


class CLIPText(nn.Module):
    """CLIP's text model of ``transformers``: a text is the final state of its end token, before CLIP's projection.

    Parameters
    ----------
    model : transformers.CLIPTextModel

    Attributes
    ----------
    width : int
        Features of a text.
    length : int
        Most tokens of a text.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.width = model, int(model.config.hidden_size)
        self.length = int(model.config.max_position_embeddings)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L), filled up with the end token, to vectors (B, width)."""
        return self.model(input_ids=tokens).pooler_output


def clip_text(folder: Path | str | None = None, *, settings: dict[str, Any] | None = None) -> CLIPText:
    """CLIP's text model from a folder on this machine, or with new weights of given sizes.

    Parameters
    ----------
    folder : path, optional
        As ``transformers`` saves a CLIP model or its text model: config.json and model.safetensors. Nothing is
        downloaded, and no code of the folder runs.
    settings : dict, optional
        Of ``transformers.CLIPTextConfig``, in place of a folder.

    Returns
    -------
    CLIPText

    Raises
    ------
    ImportError
        Without the extra ``text``.
    FileNotFoundError
        If the folder lacks a file.
    ValueError
        If its files are no CLIP text model.
    """
    try:
        from transformers import CLIPTextConfig, CLIPTextModel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('CLIP\'s text model needs the package transformers; run pip install "lcl[text]".') from error
    if folder is None:
        return CLIPText(CLIPTextModel(CLIPTextConfig(**(settings or {}))))
    folder = Path(folder).expanduser()
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist; expected a folder of a CLIP text model.")
    try:
        found, held = json.loads((folder / "config.json").read_bytes()), load_file(folder / "model.safetensors")
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no CLIP text model: a file is damaged ({error}).") from None
    settings = found.get("text_config", found)
    if not str(found.get("model_type", "")).startswith("clip") or not isinstance(settings, dict):
        raise ValueError(f"{folder} holds a model of type {found.get('model_type')!r}; expected CLIP's.")
    model = CLIPTextModel(CLIPTextConfig(**settings))
    # Releases of transformers differ in whether the names begin with the part of CLIP that they are of.
    state = {name.removeprefix("text_model."): value for name, value in held.items()}
    own = {name: name.removeprefix("text_model.") for name in model.state_dict()}
    if missing := sorted(short for short in own.values() if short not in state):
        raise ValueError(f"{folder} holds no CLIP text model: it lacks {len(missing)} tensors, first {missing[0]}.")
    try:
        model.load_state_dict({name: state[short] for name, short in own.items()})
    except RuntimeError as error:
        raise ValueError(f"{folder} holds no CLIP text model: {str(error).splitlines()[-1].strip()}") from None
    return CLIPText(model)
