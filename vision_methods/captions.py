"""Pictures with captions: a store of pictures, the captions of each, and where they are read from.

=====================  ===============================================================================================
source                 captions
=====================  ===============================================================================================
``FILE.json``          COCO's: ``images`` (``id``, ``file_name``) and ``annotations`` (``image_id``, ``caption``)
``FILE.csv``           columns ``image`` and ``caption``, one row for each caption
``FILE.jsonl``         one object a line: ``image`` and ``caption``, a text or a list of texts
tar shards             WebDataset's: ``KEY.txt`` beside ``KEY.jpg``, or ``KEY.json`` with ``caption``
=====================  ===============================================================================================
"""

from __future__ import annotations

import csv
import glob
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lcl.images import ImageStore, _expand_braces, open_images
from vision_methods.made_captions import MadeCorpus


@dataclass(frozen=True, eq=False)
class Captions:
    """Pictures and their captions.

    Attributes
    ----------
    store : ImageStore
    texts : tuple of tuple of str, (picture,)
        At least one caption of every picture.

    Raises
    ------
    ValueError
        If a picture has no caption, or their numbers differ.

    Examples
    --------
    >>> from lcl.images import open_images
    >>> pairs = Captions(open_images([np.zeros((8, 8), np.uint8)] * 2), (("a night", "black"), ("nothing",)))
    >>> len(pairs), pairs.subset([1]).texts, pairs.owners().tolist()
    (2, (('nothing',),), [0, 0, 1])
    """

    store: ImageStore
    texts: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.store):
            raise ValueError(f"There are captions of {len(self.texts)} pictures, but {len(self.store)} pictures.")
        if () in self.texts:
            raise ValueError(f"{self.store.names[self.texts.index(())]} has no caption; expected at least one of each.")

    def __len__(self) -> int:
        return len(self.store)

    def subset(self, indices: np.ndarray | Sequence[int]) -> Captions:
        """Some of the pictures, in the order wanted."""
        chosen = np.asarray(indices)
        return Captions(self.store.subset(chosen), tuple(self.texts[i] for i in chosen.tolist()))

    def divided(self, share: float, seed: int) -> tuple[Captions, Captions]:
        """All but a share of the pictures, and that share: at least one in both.

        Raises
        ------
        ValueError
            If there are fewer than two pictures.
        """
        if len(self) < 2:
            raise ValueError("There is 1 picture with captions; expected at least 2, to hold one out.")
        held = np.random.default_rng(seed).permutation(len(self))[
            : min(max(1, round(share * len(self))), len(self) - 1)
        ]
        return self.subset(np.setdiff1d(np.arange(len(self)), held)), self.subset(np.sort(held))

    def flat(self) -> list[str]:
        """All captions, picture by picture."""
        return [text for texts in self.texts for text in texts]

    def owners(self) -> np.ndarray:
        """Number of the picture of every caption of :meth:`flat`."""
        return np.repeat(np.arange(len(self)), [len(texts) for texts in self.texts])


def of_made(made: MadeCorpus) -> Captions:
    """The made corpus as captions; the pixels are shared.

    Examples
    --------
    >>> from vision_methods.made_captions import made_captions
    >>> len(of_made(made_captions(5, seed=0)))
    5
    """
    count, height, width, channels = made.pictures.shape
    names = tuple(f"made/{number:07d}" for number in range(count))
    store = ImageStore(
        made.pictures.reshape(-1),
        np.arange(count) * (height * width * channels),
        np.tile([height, width], (count, 1)),
        names,
        channels=channels,
        label="made pictures",
    )
    return Captions(store, tuple((text,) for text in made.captions))


def read_captions(source: str, *, image_dir: str = "", **options: Any) -> Captions:
    """Decode pictures once, and read their captions.

    Pictures that cannot be decoded are left out with their captions, as the store's summary says; a picture without a
    caption is left out too.

    Parameters
    ----------
    source : str
        File or shards (see the module).
    image_dir : str
        Folder that the names of pictures in a file start from; empty: the file's own or, of COCO's, ``images`` in it
        where there is one.
    **options
        Of :func:`lcl.images.open_images`.

    Returns
    -------
    Captions

    Raises
    ------
    FileNotFoundError
        If the source, or a picture that it names, does not exist.
    ValueError
        If it is of none of the kinds, damaged, or says nothing of any picture.
    """
    path = Path(source).expanduser()
    if re.search(r"\.(tar|tgz|tar\.\w+)$", source):
        if image_dir:
            raise ValueError(f"{source} holds its pictures itself; leave image_dir out.")
        store = open_images(source, **options)
        written = _shard_captions(source)
        texts = {name: written.get(_key(name), ()) for name in store.names}
        kept = [i for i, name in enumerate(store.names) if texts[name]]
        if not kept:
            raise ValueError(f"No picture of {source} has a caption; expected KEY.txt, or KEY.json with caption.")
        return Captions(store.subset(kept), tuple(texts[store.names[i]] for i in kept))
    readers = {".json": _coco, ".csv": _csv, ".jsonl": _json_lines}
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"{source} is no source of captions; expected COCO's FILE.json, FILE.csv, FILE.jsonl, or tar shards."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {source}; expected captions as JSON, CSV or JSON lines.")
    found: dict[str, list[str]] = {}
    try:
        for name, caption in readers[path.suffix.lower()](path):
            found.setdefault(name, []).append(caption)
    except UnicodeDecodeError:
        raise ValueError(f"{source} is not written in UTF-8; expected text.") from None
    if not found:
        raise ValueError(f"{source} holds no captions; expected at least one.")
    folder = Path(image_dir).expanduser() if image_dir else path.parent
    if not image_dir and path.suffix.lower() == ".json" and (folder / "images").is_dir():
        folder = folder / "images"
    files = {str(folder / name): captions for name, captions in found.items()}
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} pictures of {source} do not exist, first {missing[0]}; give --image-dir."
        )
    store = open_images(list(files), **options)
    return Captions(store, tuple(tuple(files[name]) for name in store.names))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} is {value!r}; expected words.")
    return " ".join(value.split())


def _coco(path: Path) -> Iterator[tuple[str, str]]:
    try:
        everything = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}).") from None
    try:
        names = {image["id"]: str(image["file_name"]) for image in everything["images"]}
        pairs = [(annotation["image_id"], annotation["caption"]) for annotation in everything["annotations"]]
    except (KeyError, TypeError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else "other kinds of values"
        raise ValueError(
            f"{path} is not of COCO's captions ({reason}); expected images with id and file_name, and annotations with "
            "image_id and caption."
        ) from None
    for number, (image, caption) in enumerate(pairs):
        if image not in names:
            raise ValueError(f"Annotation {number} of {path} is of the image {image!r}, which is not among its images.")
        yield names[image], _text(caption, f"Caption of annotation {number} of {path}")


def _csv(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        if not {"image", "caption"} <= set(rows.fieldnames or ()):
            said = ", ".join(rows.fieldnames or ()) or "none"
            raise ValueError(f"{path} has the columns {said}; expected image and caption.")
        try:
            for row in rows:
                where = f"of line {rows.line_num} of {path}"
                yield _text(row["image"], f"Image {where}"), _text(row["caption"], f"Caption {where}")
        except csv.Error as error:
            raise ValueError(f"Line {rows.line_num} of {path} is no line of a table ({error}).") from None


def _json_lines(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"of line {number} of {path}"
            try:
                found = json.loads(line)
                image, captions = found["image"], found["caption"]
            except (json.JSONDecodeError, KeyError, TypeError):
                raise ValueError(
                    f"Line {number} of {path} is no object with image and caption; expected "
                    '{"image": "1.jpg", "caption": "words"}.'
                ) from None
            for caption in captions if isinstance(captions, list) else [captions]:
                yield _text(image, f"Image {where}"), _text(caption, f"Caption {where}")


def _key(name: str) -> str:
    """What the files of one sample share, "shard.tar/folder/KEY": WebDataset's key ends at the first dot."""
    whole = PurePosixPath(name)
    return str(whole.parent / whole.name.partition(".")[0])


def _shard_captions(pattern: str) -> dict[str, tuple[str, ...]]:
    written: dict[str, tuple[str, ...]] = {}
    for each in _expand_braces(pattern):
        for path in sorted(glob.glob(str(Path(each).expanduser()))):  # noqa: PTH207 (the pattern may be absolute)
            with tarfile.open(path, "r:") as shard:
                for member in shard:
                    suffix = PurePosixPath(member.name).name.partition(".")[2].lower()
                    if not member.isreg() or suffix not in ("txt", "json"):
                        continue
                    where = f"Caption of {member.name} in {path}"
                    content = shard.extractfile(member)
                    assert content is not None
                    try:
                        text: Any = content.read().decode()
                        found = json.loads(text) if suffix == "json" else text
                    except ValueError:
                        raise ValueError(f"{where} is no text in UTF-8, or no JSON; expected words.") from None
                    if suffix == "json":
                        found = found.get("caption") if isinstance(found, dict) else None
                        if found is None:
                            continue  # other data of the sample
                    key = _key(f"{Path(path).name}/{member.name}")
                    texts = tuple(_text(one, where) for one in (found if isinstance(found, list) else [found]))
                    if suffix == "txt" or key not in written:  # the text itself goes before what JSON says
                        written[key] = texts
    return written
