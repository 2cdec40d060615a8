"""The tokenizer, the transformer of texts, and CLIP's text model against transformers' own answers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vision_methods.image_text_config import ImageTextConfig
from vision_methods.image_text_run import load_towers
from vision_methods.text_tower import (
    CLIPText,
    TextTower,
    clip_text,
    load_tokenizer,
    padding,
    shortened,
    tokenize,
    train_tokenizer,
    written,
)
from vision_methods.train import train_method

CAPTIONS = ["a picture of two red squares", "one blue ring on a dark background", "two dotted stars"] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CAPTIONS, 320)


# Tokens


def test_tokens_are_texts_and_back(tokenizer):
    for text in ("two red squares", "naïve 漢字 \t ok", "UPPER"):
        ids = tokenize(tokenizer, [text], 60)[0].tolist()
        assert tokenizer.decode([i for i in ids if i > 1]).strip() == text.lower().strip()
    # Words that were learned are one token each; the end follows.
    assert tokenize(tokenizer, ["Two red"], 5)[0].tolist()[2:] == [tokenizer.token_to_id("[END]"), 0, 0]


def test_texts_are_cut_off_and_filled_up(tokenizer):
    tokens = tokenize(tokenizer, ["two", "two red squares of a picture"], 4)
    assert tokens.shape == (2, 4)
    assert tokens.dtype == torch.int64
    assert (tokens[0] == 0).sum() == 2
    assert tokens[1, -1] == tokenizer.token_to_id("[END]")
    with pytest.raises(ValueError, match="0 texts"):
        tokenize(tokenizer, [], 4)
    with pytest.raises(ValueError, match="length 1"):
        tokenize(tokenizer, ["a"], 1)


def test_the_same_captions_give_the_same_tokens():
    first, again, other = (train_tokenizer(c, 320) for c in (CAPTIONS, iter(CAPTIONS), CAPTIONS[:1]))
    assert written(first) == written(again) != written(other)
    tokenize(first, ["two"], 7)  # what texts were cut to leaves no trace
    assert written(first) == written(again)
    assert first.get_vocab_size() <= 320


def test_a_tokenizer_comes_back_from_its_file(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text(written(tokenizer))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert written(load_tokenizer(path)) == written(tokenizer)


def test_what_is_no_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json does not exist"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer of the library tokenizers"):
        load_tokenizer(tmp_path)
    plain = json.loads(written(train_tokenizer(["a"], 300)))
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain).replace("[PAD]", "[NIL]"))
    with pytest.raises(ValueError, match=r"neither \[PAD\] nor"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="vocabulary is 257; expected at least 258"):
        train_tokenizer(["a"], 257)


def test_columns_that_fill_all_texts_up_are_left_out(tokenizer):
    tokens = tokenize(tokenizer, ["two", "two red squares"], 12)
    short = shortened(tokens)
    assert short.shape == (2, 5)
    assert (tokens[:, 5:] == 0).all()
    assert torch.equal(shortened(short), short)
    tower = made(12).eval()
    with torch.no_grad():
        torch.testing.assert_close(tower(short), tower(tokens))


# Our tower


def made(length=8, **options):
    generator = torch.Generator().manual_seed(0)
    settings = {"length": length, "width": 16, "depth": 2, "heads": 4, "generator": generator}
    return TextTower(320, **settings | options)


def by_hand(tower, tokens):
    """The same transformer by torch's own encoder layer, one text at a time, without what fills it up."""
    found = []
    for text in tokens:
        real = text[text != 0][None]
        stream = tower.token_embed(real) + tower.pos_embed[:, : real.shape[1]]
        for block in tower.blocks:
            layer = nn.TransformerEncoderLayer(
                tower.width, block.attn.heads, 4 * tower.width, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
            )
            layer.load_state_dict(
                {
                    "self_attn.in_proj_weight": block.attn.qkv.weight,
                    "self_attn.in_proj_bias": block.attn.qkv.bias,
                    "self_attn.out_proj.weight": block.attn.proj.weight,
                    "self_attn.out_proj.bias": block.attn.proj.bias,
                    "linear1.weight": block.mlp.fc1.weight,
                    "linear1.bias": block.mlp.fc1.bias,
                    "linear2.weight": block.mlp.fc2.weight,
                    "linear2.bias": block.mlp.fc2.bias,
                    "norm1.weight": block.norm1.weight,
                    "norm1.bias": block.norm1.bias,
                    "norm2.weight": block.norm2.weight,
                    "norm2.bias": block.norm2.bias,
                }
            )
            stream = layer(stream)
        stream = tower.norm(stream)[0]
        found.append(stream.mean(0) if tower.pooling == "mean" else stream[-1])
    return torch.stack(found)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_tower_is_a_pre_norm_transformer(pooling):
    tower = made(pooling=pooling)
    tokens = torch.tensor([[5, 9, 30, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0], [3, 4, 5, 6, 7, 8, 9, 1]])
    with torch.no_grad():
        torch.testing.assert_close(tower(tokens), by_hand(tower, tokens), rtol=1e-4, atol=1e-5)


def test_order_counts_and_seeds_decide():
    first, again = made(), made()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    with torch.no_grad():
        one, other = first(torch.tensor([[5, 9, 1], [9, 5, 1]]))
    assert not torch.allclose(one, other)


def test_what_fills_up_gets_no_gradient_and_words_do():
    tower = made()
    (tower(torch.tensor([[5, 9, 1, 0, 0]])) * torch.arange(16)).sum().backward()
    rows = tower.token_embed.weight.grad.abs().sum(1)
    assert rows.nonzero().flatten().tolist() == [1, 5, 9]
    assert (tower.pos_embed.grad[0, 3:] == 0).all()


def test_sizes_and_tokens_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="multiple of the heads"):
        made(heads=3)
    with pytest.raises(ValueError, match="pooling is 'max'"):
        made(pooling="max")
    for tokens in (torch.ones(2, 9, dtype=torch.int64), torch.ones(3), torch.ones(2, 3)):
        with pytest.raises(ValueError, match="expected whole numbers of shape"):
            made()(tokens)


# CLIP's


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP text model with random weights and a tokenizer of its own kind, as transformers saves them."""
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("clip")
    tokens = json.loads(written(train_tokenizer(CAPTIONS, 320)))
    (place / "tokenizer.json").write_text(
        json.dumps(tokens).replace("[PAD]", "[NIL]").replace("[END]", "<|endoftext|>")
    )
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        eos_token_id=1,
        bos_token_id=0,
        pad_token_id=1,
    )
    transformers.CLIPTextModel(config).save_pretrained(place)
    return place


def test_clip_s_text_model_is_transformers_own(folder):
    from transformers import CLIPTextModel

    tower, tokenizer = clip_text(folder).eval(), load_tokenizer(folder)
    assert isinstance(tower, CLIPText)
    assert (tower.width, tower.length, padding(tokenizer)) == (16, 12, 1)
    tokens = tokenize(tokenizer, ["two red squares", "one ring"], 12)
    reference = CLIPTextModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = reference(input_ids=tokens)
        torch.testing.assert_close(tower(tokens), expected.pooler_output)
        # The end token's state, whatever fills the texts up behind it.
        ends = (tokens == 1).int().argmax(1)
        torch.testing.assert_close(tower(tokens), expected.last_hidden_state[torch.arange(2), ends])
        torch.testing.assert_close(tower(shortened(tokens)), tower(tokens))


def test_the_text_model_of_a_whole_clip_is_found(folder, tmp_path):
    """Names with and without the part of CLIP in front, beside tensors of its other parts."""
    state = load_file(folder / "model.safetensors")
    short = {name.removeprefix("text_model."): value for name, value in state.items()}
    settings = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": settings}))
    expected = clip_text(folder).state_dict()
    for prefix in ("", "text_model."):
        whole = {f"{prefix}{name}": value for name, value in short.items()}
        save_file(
            whole | {"logit_scale": torch.ones(()), "vision_model.x": torch.ones(2)}, tmp_path / "model.safetensors"
        )
        found = clip_text(tmp_path).state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_folder_without_clip_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.json does not exist"):
        clip_text(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"model_type": "bert"}, "a model of type 'bert'; expected CLIP's"),
        ({"num_hidden_layers": 3}, "it lacks 16 tensors"),
        ({"intermediate_size": 64}, "holds no CLIP text model: size mismatch"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        with pytest.raises(ValueError, match=message):
            clip_text(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="a file is damaged"):
        clip_text(tmp_path)


def test_siglip_learns_on_clip_s_text_model_and_a_run_keeps_it(folder, tmp_path):
    config = ImageTextConfig(
        made_pictures=24,
        size_px=16,
        text_weights=str(folder),
        freeze_text=True,
        length=12,
        epochs=1,
        batch=8,
        latent_width=8,
        judge_every=0,
        precision="float32",
        device="cpu",
    )
    train_method("siglip", config, tmp_path / "run", progress=False, say=lambda line: None)
    model, given = load_towers(tmp_path / "run"), clip_text(folder)
    assert isinstance(model.towers.text, CLIPText)
    for name, value in given.state_dict().items():  # frozen
        assert torch.equal(model.towers.text.state_dict()[name], value)
    assert model.encode_words(["one ring"]).shape == (1, 8)
