"""A made detection set: pictures of shapes in colours and textures, boxes around them, and captions that name them.

Things differ in shape, colour and texture, drawn as those of :mod:`vision_methods.made_captions`, so that two towers
which were trained there know the words. A class is named by some of the attributes, such as "red circle"; the others
vary within it. Words can be held out: their classes are in the pictures, and in captions, but a method is not shown
their boxes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vision_methods.boxed_pictures import BoxedPictures, boxed
from vision_methods.captions import Captions
from vision_methods.made_captions import _FORMS, _LEVELS, _RGB, ATTRIBUTES, _ink, _outline

#: What a thing is, in the order in which words name it.
THING = ("texture", "colour", "shape")
#: Words that are held out where nothing else is said: two colours and a shape.
HELD_OUT = ("cyan", "purple", "ring")


@dataclass(frozen=True, eq=False)
class MadeDetection:
    """Pictures with boxes, a caption of each, and what every thing is.

    Attributes
    ----------
    pictures : BoxedPictures
    captions : tuple of str, (picture,)
        Names all things, by all of :data:`THING`.
    attributes : tuple of dict of str to ndarray of int, (picture,)
        Of the things, as their boxes: numbers of :data:`vision_methods.made_captions.ATTRIBUTES`.
    """

    pictures: BoxedPictures
    captions: tuple[str, ...]
    attributes: tuple[dict[str, np.ndarray], ...]

    def captioned(self) -> Captions:
        """Pictures and captions, without boxes."""
        return Captions(self.pictures.store, tuple((text,) for text in self.captions))


def made_detection(
    n: int,
    *,
    seed: int,
    size_px: int = 64,
    most: int = 3,
    named: Sequence[str] = ("colour", "shape"),
    radius: tuple[float, float] = (0.09, 0.19),
) -> MadeDetection:
    """Make pictures with boxes and captions.

    Parameters
    ----------
    n : int
        Pictures.
    seed : int
    size_px : int
        Side of a picture, at least 32.
    most : int
        Things of a picture are 1 to so many, fewer where they would overlap.
    named : sequence of str
        Attributes of :data:`THING` that classes are named by.
    radius : (float, float)
        Least and greatest of a thing, in sides of the picture.

    Returns
    -------
    MadeDetection

    Raises
    ------
    ValueError
        If a number or a name is out of range.

    Examples
    --------
    >>> made = made_detection(3, seed=0)
    >>> made.pictures.classes[:2], len(made.pictures.classes), made.pictures.boxes[0].shape[1]
    (('red circle', 'red square'), 48, 4)
    """
    if n < 1 or size_px < 32 or most < 1 or not 0 < radius[0] <= radius[1] <= 0.4:
        raise ValueError(
            f"n is {n}, size_px {size_px}, most {most} and radius {radius}; expected at least 1 picture of 32 px with "
            "1 thing, and radii of up to 0.4 sides."
        )
    order = [name for name in THING if name in named]
    if not order or len(order) != len(named):
        raise ValueError(f"named is {', '.join(named)}; expected some of {', '.join(THING)}, each once.")
    rng = np.random.default_rng(seed)
    classes = tuple(" ".join(words) for words in itertools.product(*(ATTRIBUTES[name] for name in order)))
    counts = [len(ATTRIBUTES[name]) for name in order]
    pictures = np.empty((n, size_px, size_px, 3), np.uint8)
    boxes, labels, captions, attributes = [], [], [], []
    for picture in range(n):
        pictures[picture], here, kinds = _scene(rng, size_px, int(rng.integers(1, most + 1)), radius)
        boxes.append(here)
        labels.append(np.ravel_multi_index([kinds[name] for name in order], counts))
        captions.append(_caption(kinds, rng))
        attributes.append(kinds)
    return MadeDetection(boxed(pictures, boxes, labels, classes, label="made"), tuple(captions), tuple(attributes))


def _scene(
    rng: np.random.Generator, size_px: int, things: int, radius: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Picture, its boxes, and the attributes of its things."""
    level = rng.uniform(*_LEVELS[rng.integers(len(_LEVELS))])
    canvas = np.full((size_px, size_px, 3), level, np.float32) + rng.normal(0, 0.03, 3).astype(np.float32)
    taken: list[tuple[float, float, float]] = []
    boxes, kinds = [], {name: [] for name in THING}
    grid = np.arange(size_px, dtype=np.float32) + 0.5
    for _ in range(things):
        size = float(rng.uniform(*radius)) * size_px
        x, y = rng.uniform(size, size_px - size, 2).tolist()
        if any(max(abs(x - left), abs(y - top)) < size + other for left, top, other in taken):
            continue  # no room there
        taken.append((x, y, size))
        kind = {name: int(rng.integers(len(ATTRIBUTES[name]))) for name in THING}
        turn, shift = rng.uniform(-0.35, 0.35), rng.uniform(0, size_px, 2)
        across, down = grid[None] - x, grid[:, None] - y
        u, v = across * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - across * np.sin(turn)
        shape, texture = ATTRIBUTES["shape"][kind["shape"]], ATTRIBUTES["texture"][kind["texture"]]
        # Textures have the period that they have in captioned pictures of 32 px.
        cover = np.clip(0.5 - _outline(shape, u / size, v / size) * size, 0, 1)[..., None]
        ink = _ink(texture, u + shift[0], v + shift[1], 32)[..., None]
        colour = _RGB[kind["colour"]] * rng.uniform(0.85, 1.1) + rng.normal(0, 0.03, 3)
        canvas = canvas * (1 - cover) + cover * ink * colour
        rows, columns = (np.flatnonzero((cover[..., 0] >= 0.5).any(axis)) for axis in (1, 0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        for name, value in kind.items():
            kinds[name].append(value)
    canvas += rng.normal(0, 0.02, (size_px, size_px, 1))
    picture = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    return picture, np.array(boxes, np.float32), {name: np.array(values) for name, values in kinds.items()}


def _caption(kinds: dict[str, np.ndarray], rng: np.random.Generator) -> str:
    """All things of a picture in words."""
    said = []
    for row in range(len(kinds["shape"])):
        texture, colour, shape = (ATTRIBUTES[name][kinds[name][row]] for name in THING)
        words = f"{texture} {colour} {shape}" if rng.random() < 0.5 else f"{colour} {texture} {shape}"
        said.append(f"{'an' if words[0] in 'aeiou' else 'a'} {words}")
    text = " and ".join(said)
    return _FORMS[rng.integers(len(_FORMS))].format(text)
