"""Made pictures have exact boxes, and captions that name what is in them."""

import numpy as np
import pytest

from vision_methods.made_captions import ATTRIBUTES
from vision_methods.made_detection import HELD_OUT, THING, made_detection


def test_boxes_hold_the_things_and_nothing_else_differs():
    made = made_detection(60, seed=1)
    sizes = []
    for boxes, picture in zip(made.pictures.boxes, made.pictures.store, strict=True):
        outside = np.ones((64, 64), bool)
        for x1, y1, x2, y2 in boxes.astype(int).tolist():
            assert 0 <= x1 < x2 <= 64
            assert 0 <= y1 < y2 <= 64
            outside[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = False
            sizes.append(x2 - x1)
        # Noise alone is left, of a standard deviation of 5 levels.
        assert picture[outside].std(0).max() < 8
    assert 5 <= min(sizes) < 12
    assert 20 < max(sizes) <= 26


def test_classes_are_named_by_attributes_and_captions_by_all():
    made = made_detection(40, seed=2, named=("shape", "texture"))
    for labels, kinds, caption in zip(made.pictures.labels, made.attributes, made.captions, strict=True):
        for row, label in enumerate(labels.tolist()):
            words = {name: ATTRIBUTES[name][kinds[name][row]] for name in THING}
            assert made.pictures.classes[label] == f"{words['texture']} {words['shape']}"
            assert all(word in caption for word in words.values())
    assert len(made.pictures.classes) == 24
    assert made.captioned().texts[3] == (made.captions[3],)


def test_the_seed_says_everything():
    first, second, other = (made_detection(5, seed=seed) for seed in (4, 4, 5))
    assert all(np.array_equal(a, b) for a, b in zip(first.pictures.store, second.pictures.store, strict=True))
    assert first.captions == second.captions
    assert first.captions != other.captions


def test_held_out_words_leave_most_classes():
    made = made_detection(200, seed=0)
    novel = made.pictures.held_out(HELD_OUT)
    assert novel.sum() == 6 * 2 + 6
    assert len(novel) == 48
    assert set(range(48)) == set(np.concatenate(made.pictures.labels).tolist())


def test_sizes_and_names_out_of_range_are_refused():
    with pytest.raises(ValueError, match="size_px 16"):
        made_detection(1, seed=0, size_px=16)
    with pytest.raises(ValueError, match="named is size"):
        made_detection(1, seed=0, named=("size",))
