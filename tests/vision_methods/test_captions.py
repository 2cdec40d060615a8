"""Readers of captions, and batches of them."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from vision_methods.caption_batches import PairBatches, central_pictures
from vision_methods.captions import Captions, of_made, read_captions
from vision_methods.made_captions import made_captions
from vision_methods.text_tower import tokenize, train_tokenizer


def picture(value, size=(20, 24)):
    return Image.fromarray(np.full((*size, 3), value, np.uint8))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        picture(60 * number).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def coco(folder, **changes):
    everything = {
        "images": [{"id": 10 + i, "file_name": f"{i}.png"} for i in range(4)],
        "annotations": [
            {"image_id": 11, "caption": " a dark\n picture "},
            {"image_id": 13, "caption": "a light picture"},
            {"image_id": 11, "caption": "not so light"},
        ],
    }
    (folder / "captions.json").write_text(json.dumps(everything | changes))
    return folder / "captions.json"


def means(captions):
    return {int(captions.store[i].mean()): captions.texts[i] for i in range(len(captions))}


EXPECTED = {60: ("a dark picture", "not so light"), 180: ("a light picture",)}


def test_coco(folder):
    found = read_captions(str(coco(folder)))
    assert means(found) == EXPECTED
    assert found.flat() == [text for texts in found.texts for text in texts]
    assert found.owners().tolist() == [0, 0, 1]


def test_tables(folder):
    rows = [("images/1.png", "a dark picture"), ("images/3.png", "a light picture"), ("images/1.png", "not so light")]
    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("caption", "other", "image"), *((text, 7, name) for name, text in rows)])
    (folder / "a.jsonl").write_text(
        '{"image": "images/1.png", "caption": ["a dark picture", "not so light"]}\n\n'
        '{"image": "images/3.png", "caption": "a light picture"}\n'
    )
    for name in ("a.csv", "a.jsonl"):
        assert means(read_captions(str(folder / name))) == EXPECTED
    moved = folder / "elsewhere"
    moved.mkdir()
    (folder / "a.csv").rename(moved / "a.csv")
    assert means(read_captions(str(moved / "a.csv"), image_dir=str(folder))) == EXPECTED


def shard(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            if not isinstance(content, bytes):
                stream = io.BytesIO()
                content.save(stream, "png")
                content = stream.getvalue()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def test_shards(tmp_path):
    first = {"a/1.png": picture(60), "a/1.txt": b"a dark picture", "a/1.json": b'{"caption": "other", "url": "x"}'}
    shard(tmp_path / "s-0.tar", first | {"2.png": picture(10), "2.json": b'{"url": "x"}'})
    shard(tmp_path / "s-1.tar", {"3.json": '{"caption": ["naïve", "two"]}'.encode(), "3.seg.png": picture(180)})
    found = read_captions(str(tmp_path / "s-{0..1}.tar"))
    assert means(found) == {60: ("a dark picture",), 180: ("naïve", "two")}
    assert means(read_captions(str(tmp_path / "*.tar"))) == means(found)


def test_shards_written_by_webdataset(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for number, text in ((1, "a dark picture"), (3, "a light picture")):
            pixels = np.full((20, 24, 3), 60 * number, np.uint8)
            writer.write({"__key__": f"{number:04d}", "png": pixels, "txt": text})
    found = read_captions(str(tmp_path / "w.tar"))
    assert means(found) == {60: ("a dark picture",), 180: ("a light picture",)}


def test_pictures_that_cannot_be_decoded_are_left_out_with_their_captions(folder):
    (folder / "images" / "1.png").write_bytes(b"nothing")
    found = read_captions(str(coco(folder)))
    assert means(found) == {180: ("a light picture",)}
    assert len(found.store.left_out) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1}]}, "'file_name' is missing"),
        ({"annotations": [{"image_id": 10}]}, "'caption' is missing"),
        ({"annotations": 3}, "other kinds of values"),
        ({"annotations": []}, "holds no captions"),
        ({"annotations": [{"image_id": 99, "caption": "x"}]}, "image 99, which is not among its images"),
        ({"annotations": [{"image_id": 10, "caption": "  "}]}, "Caption of annotation 0 .* is '  '; expected words"),
        ({"annotations": [{"image_id": 10, "caption": None}]}, "is None; expected words"),
    ],
)
def test_a_mistake_in_coco_is_one_sentence(folder, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        read_captions(str(coco(folder, **changes)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "is no JSON"),
        ("a.csv", b"image,text\n1.png,a\n", "has the columns image, text; expected image and caption"),
        ("a.csv", b"", "has the columns none"),
        ("a.csv", b"image,caption\nimages/1.png\n", "Caption of line 2 .* is None"),
        ("a.csv", b'image,caption\nimages/1.png,"a\n', "is no line of a table"),
        ("a.csv", "image,caption\nimages/1.png,ä\n".encode("latin-1"), "is not written in UTF-8"),
        (
            "a.jsonl",
            b'{"image": "images/1.png", "caption": "a"}\n{"image": 1}\n',
            "Line 2 of .* is no object",
        ),
        ("a.jsonl", b"[1]\n", "Line 1 of .* is no object"),
        ("a.jsonl", b'{"image": "images/1.png", "caption": 3}\n', "Caption of line 1 .* is 3; expected words"),
        ("a.txt", b"words", "is no source of captions; expected COCO's"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_captions(str(folder / name))
    assert "\n" not in str(error.value)


def test_what_does_not_exist_is_named(folder):
    for source in ("none.json", "none.csv", "none.jsonl", "none.tar"):
        with pytest.raises(FileNotFoundError, match="none"):
            read_captions(str(folder / source))
    (folder / "images" / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 pictures of .* do not exist, first .*3.png; give --image-dir"):
        read_captions(str(coco(folder)))


def test_mistakes_in_shards_are_named(tmp_path):
    shard(tmp_path / "a.tar", {"1.png": picture(1)})
    with pytest.raises(ValueError, match=r"No picture of .* has a caption"):
        read_captions(str(tmp_path / "a.tar"))
    with pytest.raises(ValueError, match="leave image_dir out"):
        read_captions(str(tmp_path / "a.tar"), image_dir=str(tmp_path))
    shard(tmp_path / "b.tar", {"1.png": picture(1), "1.txt": b"\xff"})
    with pytest.raises(ValueError, match=r"Caption of 1.txt in .* is no text in UTF-8"):
        read_captions(str(tmp_path / "b.tar"))


def test_captions_hold_together():
    made = of_made(made_captions(10, seed=0))
    train, held = made.divided(0.3, seed=1)
    assert sorted(train.store.names + held.store.names) == sorted(made.store.names)
    assert len(held) == 3
    for part in (train, held):
        for name, texts in zip(part.store.names, part.texts, strict=True):
            assert texts == made.texts[made.store.names.index(name)]
    with pytest.raises(ValueError, match="made/0000001 has no caption"):
        Captions(made.store.subset([0, 1]), (("a",), ()))
    with pytest.raises(ValueError, match="captions of 1 pictures, but 2"):
        Captions(made.store.subset([0, 1]), (("a",),))
    with pytest.raises(ValueError, match="1 picture with captions"):
        made.subset([0]).divided(0.5, seed=0)


# Batches


def batches(captions, **options):
    tokenizer = train_tokenizer(captions.flat(), 300)
    tokens = tokenize(tokenizer, captions.flat(), 24)
    return PairBatches(captions, tokens, **{"batch": 4, "size_px": 16, "seed": 0} | options), tokenizer


def test_every_picture_comes_once_in_an_epoch_with_a_caption_of_its_own():
    made = made_captions(12, seed=0, size_px=16)
    captions = Captions(of_made(made).store, tuple((f"first {i}", f"second {i}") for i in range(12)))
    source, tokenizer = batches(captions)
    assert source.per_epoch == 3
    seen = []
    for step in range(9):
        pairs = source(step)
        for pixels, tokens, index in zip(*pairs, strict=True):
            assert torch.equal(pixels, torch.from_numpy(made.pictures[index]).permute(2, 0, 1))
            text = tokenizer.decode([i for i in tokens.tolist() if i > 1]).strip()
            assert text in captions.texts[index]
            seen.append((int(index), text))
        assert all(torch.equal(a, b) for a, b in zip(pairs, source(step), strict=True))
    for epoch in range(3):
        assert sorted(index for index, _ in seen[12 * epoch : 12 * epoch + 12]) == list(range(12))
    assert len(set(seen)) > 14  # both captions of a picture are drawn


def test_windows_and_mirrors():
    captions = of_made(made_captions(8, seed=0, size_px=20))
    whole, _ = batches(captions)
    some, _ = batches(captions, least_area=0.3)
    mirrored, _ = batches(captions, mirror=True)
    first, other, turned = (each(0) for each in (whole, some, mirrored))
    assert torch.equal(first.index, other.index)
    assert not torch.equal(first.pictures, other.pictures)
    same = (first.pictures == turned.pictures).flatten(1).all(1)
    flipped = (first.pictures.flip(3) == turned.pictures).flatten(1).all(1)
    assert (same | flipped).all()
    found = torch.cat([(whole(i).pictures == mirrored(i).pictures).flatten(1).all(1) for i in range(16)])
    assert 0.2 < found.float().mean() < 0.8


def test_central_pictures_are_the_same_with_and_without_the_short_way():
    store = of_made(made_captions(5, seed=0, size_px=16)).store
    direct = central_pictures(store, [3, 1], 16)
    assert torch.equal(direct, torch.from_numpy(np.stack([store[3], store[1]])).permute(0, 3, 1, 2))
    assert central_pictures(store, [3, 1], 8).shape == (2, 3, 8, 8)


def test_tokens_of_others_are_refused():
    captions = of_made(made_captions(5, seed=0, size_px=16))
    with pytest.raises(ValueError, match="tokens of 4 captions; expected 5"):
        PairBatches(captions, torch.ones(4, 3, dtype=torch.int64), batch=2, size_px=16, seed=0)


@pytest.mark.shared
def test_coco_mini_is_read(shared):
    found = read_captions(str(shared / "coco_mini" / "captions.json"), short_side_px=32)
    assert len(found) == 239
    assert {len(texts) for texts in found.texts} == {5}
