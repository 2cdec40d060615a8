"""Both towers of a run of pictures and texts: what its folder holds beside the backbone, and how it is read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lcl.checkpoint import read_json, read_tensors, write_json, write_tensors
from stimuli.files import replacing
from vision_methods.image_text_config import ImageTextConfig
from vision_methods.image_text_scores import embed_tokens
from vision_methods.method_run import read_method_config
from vision_methods.siglip import TwoTowers, make_towers
from vision_methods.text_tower import CLIPText, clip_text, load_tokenizer, tokenize, written


@dataclass(frozen=True, eq=False)
class ImageTextModel:
    """Trained towers and how words reach them.

    Attributes
    ----------
    towers : TwoTowers
        In evaluation mode.
    tokenizer : tokenizers.Tokenizer
    config : ImageTextConfig
        Of the run.
    """

    towers: TwoTowers
    tokenizer: Any
    config: ImageTextConfig

    def encode_words(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (text, D) of texts, on the CPU."""
        return embed_tokens(self.towers, tokenize(self.tokenizer, texts, self.config.length))


def write_towers(run: Path, towers: TwoTowers, tokenizer: Any) -> None:
    """Write tokenizer.json, towers.safetensors and, of CLIP's text model, text_model.json into a run folder."""
    with replacing(run / "tokenizer.json") as temporary:
        temporary.write_text(written(tokenizer), encoding="utf-8")
    if isinstance(towers.text, CLIPText):
        write_json(run / "text_model.json", towers.text.model.config.to_dict())
    write_tensors(run / "towers.safetensors", towers.state_dict())


def load_towers(run: Path | str, *, device: torch.device | str = "cpu") -> ImageTextModel:
    """Trained towers of a run.

    Parameters
    ----------
    run : path
        Made by ``lcl train-method`` with a method of pictures and texts.
    device : torch.device or str

    Returns
    -------
    ImageTextModel

    Raises
    ------
    FileNotFoundError
        If its training has not finished.
    ValueError
        If it is of another method, or a file is damaged.
    """
    name, config, _ = read_method_config(run)
    if not isinstance(config, ImageTextConfig):
        raise ValueError(f"{run} is a run of {name}, which knows no texts; expected one of siglip.")
    run = Path(run)
    for file in ("weights.safetensors", "towers.safetensors"):
        if not (run / file).is_file():
            raise FileNotFoundError(
                f"{run} holds no {file}, so its training has not finished; "
                f"go on with `lcl train-method {name} --resume {run}`."
            )
    tokenizer = load_tokenizer(run)
    text = clip_text(settings=read_json(run / "text_model.json")) if config.text_weights else None
    towers = make_towers(config, tokenizer, text=text)
    try:
        towers.load_state_dict(read_tensors(run / "towers.safetensors")[0])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"The weights in {run} do not fit its config.json: {reason}") from None
    return ImageTextModel(towers.eval().to(device), tokenizer, config)
