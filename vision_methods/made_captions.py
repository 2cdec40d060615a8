"""A made corpus of pictures and captions whose truth is known: how many things of which kind, and which captions lie.

A picture shows one to four things of one shape, colour and texture, in its quarters, on a dark, grey or light
background. Places, sizes, turns and shades vary, and no caption says them. A caption names number, texture, colour and
shape, in half of the cases the background, in one of several forms. Captions are spoiled in three grades, so that a
choice of data has a truth to be judged by:

========  ==============================================================================
dropped   one of number, colour, texture and shape is not said: vague, but true
wrong     one of them is another one
shuffled  the caption of another picture
========  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: What a picture can be, by attribute.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "number": ("one", "two", "three", "four"),
    "colour": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    "texture": ("plain", "striped", "dotted", "chequered"),
    "shape": ("circle", "square", "triangle", "cross", "ring", "star"),
    "background": ("dark", "grey", "light"),
}
#: Attributes that a spoiled caption leaves out or has wrong, and that learning is judged by.
JUDGED = ("number", "colour", "texture", "shape")
#: Kinds of captions; the number is the place.
KINDS = ("clean", "shuffled", "wrong", "dropped")

_RGB = np.array(
    [
        [0.85, 0.10, 0.10],
        [0.95, 0.50, 0.05],
        [0.95, 0.90, 0.10],
        [0.10, 0.65, 0.15],
        [0.10, 0.85, 0.90],
        [0.10, 0.20, 0.85],
        [0.45, 0.10, 0.60],
        [1.00, 0.55, 0.75],
    ],
    dtype=np.float32,
)
_LEVELS = ((0.03, 0.18), (0.4, 0.6), (0.85, 0.97))
_FORMS = ("{}", "a picture of {}", "a photo of {}", "here we see {}", "{} and nothing else")
_BEHIND = ("{} on a {} background", "{} on {} ground", "{} in front of something {}")
#: Pictures drawn at a time.
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class MadeTruth:
    """What pictures show, and what became of their captions.

    Attributes
    ----------
    attributes : dict of str to ndarray of int, (picture,)
        Of the picture: numbers of :data:`ATTRIBUTES`.
    kind : ndarray of int, (picture,)
        Of the caption: number of :data:`KINDS`.
    """

    attributes: dict[str, np.ndarray]
    kind: np.ndarray

    @property
    def clean(self) -> np.ndarray:
        """Whether each caption is of its picture and unspoiled, (picture,)."""
        return self.kind == 0


class MadeCorpus(NamedTuple):
    """Pictures, their captions and the truth.

    Attributes
    ----------
    pictures : ndarray of uint8, (picture, size_px, size_px, 3)
    captions : tuple of str, (picture,)
    truth : MadeTruth
    """

    pictures: np.ndarray
    captions: tuple[str, ...]
    truth: MadeTruth


def made_captions(
    n: int,
    *,
    seed: int,
    size_px: int = 32,
    noise: float = 0.5,
    wrong: float = 0.0,
    dropped: float = 0.0,
) -> MadeCorpus:
    """Make pictures with captions.

    Parameters
    ----------
    n : int
        Pictures.
    seed : int
    size_px : int
        Side of a picture, at least 16.
    noise : float
        Share of the captions that are exchanged among their pictures.
    wrong, dropped : float
        Shares with a wrong attribute, and with one left out.

    Returns
    -------
    MadeCorpus

    Raises
    ------
    ValueError
        If a number is out of range, or the shares sum to more than 1.

    Examples
    --------
    >>> made = made_captions(4, seed=0, noise=0.5)
    >>> made.pictures.shape, int(made.truth.clean.sum())
    ((4, 32, 32, 3), 2)
    >>> made.captions[0]
    '...'
    """
    if n < 1 or size_px < 16:
        raise ValueError(f"n is {n} and size_px {size_px}; expected at least 1 picture of 16 px.")
    shares = {"noise": noise, "wrong": wrong, "dropped": dropped}
    if min(shares.values()) < 0 or sum(shares.values()) > 1:
        said = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ValueError(f"Shares of spoiled captions are {said}; expected 0 or more, and at most 1 together.")
    rng = np.random.default_rng(seed)
    attributes = {name: rng.integers(len(words), size=n) for name, words in ATTRIBUTES.items()}
    order, kind = rng.permutation(n), np.zeros(n, np.int64)
    ends = np.rint(np.cumsum([*shares.values()]) * n).astype(int)
    mixed, mistaken, vague = np.split(order, ends)[:3]
    if len(mixed) == 1:  # there is nobody to exchange with
        mixed = mixed[:0]
    for number, part in enumerate((mixed, mistaken, vague), 1):
        kind[part] = number
    said = [{name: int(values[i]) for name, values in attributes.items()} for i in range(n)]
    for place in mistaken:
        name = JUDGED[rng.integers(len(JUDGED))]
        count = len(ATTRIBUTES[name])
        said[place][name] = int((said[place][name] + rng.integers(1, count)) % count)
    for place in vague:
        del said[place][JUDGED[rng.integers(len(JUDGED))]]
    captions = np.array([made_caption(each, rng) for each in said], dtype=object)
    captions[mixed] = captions[np.roll(mixed, 1)]
    pictures = np.concatenate(
        [
            _draw({name: values[start : start + _CHUNK] for name, values in attributes.items()}, size_px, rng)
            for start in range(0, n, _CHUNK)
        ]
    )
    return MadeCorpus(pictures, tuple(captions), MadeTruth(attributes, kind))


def made_caption(attributes: Mapping[str, int], rng: np.random.Generator) -> str:
    """Caption that says some attributes, in a form drawn at random.

    Parameters
    ----------
    attributes : mapping of str to int
        Numbers of :data:`ATTRIBUTES`; what is missing is not said. The background is said in half of the cases.
    rng : numpy.random.Generator

    Returns
    -------
    str

    Examples
    --------
    >>> made_caption({"number": 1, "colour": 0, "texture": 1, "shape": 4, "background": 2}, np.random.default_rng(8))
    'two red striped rings'
    """
    words = {name: ATTRIBUTES[name][value] for name, value in attributes.items()}
    several = attributes.get("number", 1) > 0
    kind = words.get("shape", "thing") + ("s" if several else "")
    kind = kind.replace("crosss", "crosses")
    which = [words[name] for name in ("texture", "colour") if name in words]
    if rng.random() < 0.5:
        which.reverse()
    number = words.get("number", "some")
    text = " ".join([*which, kind])
    if number == "one" and rng.random() < 0.5:
        number = "an" if text[0] in "aeiou" else "a"
    text = f"{number} {text}"
    if "background" in words and rng.random() < 0.5:
        text = _BEHIND[rng.integers(len(_BEHIND))].format(text, words["background"])
    return _FORMS[rng.integers(len(_FORMS))].format(text)


def made_prompts(attribute: str, *, count: int = 32, seed: int = 0) -> dict[str, list[str]]:
    """Captions of every value of an attribute, the others drawn at random: what a class is named by.

    Parameters
    ----------
    attribute : str
        Of :data:`ATTRIBUTES`.
    count : int
        Captions of each value; they differ in nothing else.
    seed : int

    Returns
    -------
    dict of str to list of str

    Raises
    ------
    ValueError
        If the attribute is unknown.

    Examples
    --------
    >>> made_prompts("colour", count=1, seed=1)["red"]
    ['...red...']
    """
    if attribute not in ATTRIBUTES:
        raise ValueError(f"attribute is {attribute!r}; expected one of {', '.join(ATTRIBUTES)}.")
    rng = np.random.default_rng(seed)
    others = [
        {name: int(rng.integers(len(words))) for name, words in ATTRIBUTES.items() if name != "background"}
        for _ in range(count)
    ]
    return {
        word: [
            made_caption({**each, attribute: value}, np.random.default_rng([seed, number]))
            for number, each in enumerate(others)
        ]
        for value, word in enumerate(ATTRIBUTES[attribute])
    }


def _outline(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Negative inside a shape of radius 1, about the distance from its outline."""
    across, down = np.abs(u), np.abs(v)
    if shape == "square":
        return np.maximum(across, down) - 0.8
    if shape == "triangle":
        return np.maximum(v, 0.866 * across - 0.5 * v) - 0.55
    if shape == "cross":
        return np.minimum(np.maximum(across - 0.95, down - 0.32), np.maximum(down - 0.95, across - 0.32))
    radius = np.hypot(u, v)
    if shape == "ring":
        return np.abs(radius - 0.7) - 0.24
    if shape == "star":
        return radius - 0.64 - 0.34 * np.cos(5 * np.arctan2(u, -v))
    return radius - 0.92


def _ink(texture: str, u: np.ndarray, v: np.ndarray, side: int) -> np.ndarray:
    """Share of the colour at each place, of coordinates in px of a picture of a side."""
    if texture == "striped":
        wave = np.sin(u * (2 * np.pi * 8 / side))
    elif texture == "dotted":
        wave = 0.9 - np.cos(u * (2 * np.pi * 7 / side)) - np.cos(v * (2 * np.pi * 7 / side))
    elif texture == "chequered":
        wave = 1.6 * np.sin(u * (np.pi * 9 / side)) * np.sin(v * (np.pi * 9 / side))
    else:
        return np.ones_like(u)
    return 0.25 + 0.75 * np.clip(0.5 + 1.5 * wave, 0, 1)


def _draw(attributes: Mapping[str, np.ndarray], size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Pictures (picture, size_px, size_px, 3); every quarter is drawn on its own, as no thing leaves its quarter."""
    n, half = len(attributes["number"]), -(-size_px // 2)
    present = rng.random((n, 4)).argsort(1) <= attributes["number"][:, None]
    radius = rng.uniform(0.3, 0.44, (n, 4, 1, 1)).astype(np.float32)  # of a quarter's side, as all lengths below
    top, left = rng.uniform(-0.05, 0.05, (2, n, 4, 1, 1)).astype(np.float32)
    turn = rng.uniform(-0.35, 0.35, (n, 4, 1, 1)).astype(np.float32)
    shift = rng.uniform(0, size_px, (2, n, 4, 1, 1)).astype(np.float32)
    place = ((np.arange(half) + 0.5) / half - 0.5).astype(np.float32)
    down, across = place[:, None] - top, place - left
    u, v = across * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - across * np.sin(turn)
    cover, ink = np.zeros((2, n, 4, half, half), np.float32)
    for value, name in enumerate(ATTRIBUTES["shape"]):
        of = attributes["shape"] == value
        cover[of] = np.clip(0.5 - _outline(name, u[of] / radius[of], v[of] / radius[of]) * radius[of] * half, 0, 1)
    for value, name in enumerate(ATTRIBUTES["texture"]):
        of = attributes["texture"] == value
        ink[of] = _ink(name, u[of] * half + shift[0, of], v[of] * half + shift[1, of], size_px)
    cover *= present[:, :, None, None]
    colour = _RGB[attributes["colour"]] * rng.uniform(0.85, 1.1, (n, 1)) + rng.normal(0, 0.03, (n, 3))
    low, high = np.array(_LEVELS)[attributes["background"]].T
    behind = rng.uniform(low, high)[:, None] + rng.normal(0, 0.03, (n, 3))

    def whole(quarters: np.ndarray) -> np.ndarray:
        joined = quarters.reshape(n, 2, 2, half, half).transpose(0, 1, 3, 2, 4).reshape(n, 2 * half, 2 * half)
        return joined[:, :size_px, :size_px, None]

    share = whole(cover)
    drawn = share * whole(ink) * colour[:, None, None].astype(np.float32)
    drawn += (1 - share) * behind[:, None, None].astype(np.float32)
    drawn += rng.normal(0, 0.02, (n, size_px, size_px, 1)).astype(np.float32)
    return (drawn.clip(0, 1) * 255).round().astype(np.uint8)
