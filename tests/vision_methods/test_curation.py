"""Class-balanced choice of clips against a choice made by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from lcl.align import write_csv
from vision_methods.clip_files import open_clips
from vision_methods.clips import clips_of_arrays
from vision_methods.curation import clip_probabilities, curate, read_kept, select_clips

CLASSES = ["red", "green", "blue"]


def colour_share(pictures):
    """A classifier by colour: the share of each in the picture's light."""
    light = pictures.mean((2, 3)) + 1e-3
    return light / light.sum(1, keepdim=True)


def loop_selection(names, probabilities, searched, threshold, per_class):
    """The same choice, class by class, with plain loops."""
    kept = set()
    for number in range(probabilities.shape[1]):
        good = [
            (-row[number], i)
            for i, row in enumerate(probabilities)
            if searched[i] == number
            and max(range(len(row)), key=lambda k: row[k]) == number
            and row[number] >= threshold
        ]
        kept |= {names[i] for _, i in sorted(good)[:per_class]}
    return kept


@pytest.mark.parametrize("per_class", [1, 4, 1000])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_the_choice_of_many_clips_is_that_of_plain_loops(per_class, threshold):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(3, 0.4), 300).round(2)
    probabilities[:, 2] = 1 - probabilities[:, :2].sum(1)
    probabilities = np.abs(probabilities)
    searched = rng.integers(0, 3, 300)
    names = [f"{i}.mp4" for i in range(300)]
    rows = select_clips(
        names,
        probabilities,
        CLASSES,
        searched=[CLASSES[i] for i in searched],
        threshold=threshold,
        per_class=per_class,
    )
    expected = loop_selection(names, probabilities, searched, threshold, per_class)
    assert {row["clip"] for row in rows if row["kept"]} == expected
    assert [row["clip"] for row in rows] == names
    for row in rows:
        assert row["kept"] == (row["reason"] == "kept")


def test_every_reason():
    seen = np.array([[0.8, 0.1, 0.1], [0.9, 0.05, 0.05], [0.3, 0.4, 0.3], [0.1, 0.8, 0.1], [0.45, 0.35, 0.2]])
    rows = select_clips("abcde", seen, CLASSES, searched=["red", "red", "green", "blue", "red"], per_class=1)
    assert [row["reason"] for row in rows] == [
        "red is full: 1 more probable",
        "kept",
        "probability below 0.5",
        "seen as green",
        "probability below 0.5",
    ]
    assert [row["probability"] for row in rows] == [0.8, 0.9, 0.4, 0.1, 0.45]
    assert [row["seen"] for row in rows] == ["red", "red", "green", "green", "red"]


def test_without_a_number_all_classes_found_are_equally_frequent():
    seen = np.eye(3)[[0, 0, 0, 1, 1, 0]]
    rows = select_clips("abcdef", seen, CLASSES)
    assert [row["class"] for row in rows if row["kept"]] == ["red", "red", "green", "green"]


def test_a_histogram_is_followed_as_far_as_the_clips_go():
    seen = np.eye(3)[[0, 0, 0, 1, 2]]
    rows = select_clips("abcde", seen, CLASSES, per_class={"red": 2, "green": 5})
    assert [row["clip"] for row in rows if row["kept"]] == ["a", "b", "d"]


def test_nothing_passes():
    rows = select_clips("ab", np.full((2, 3), 1 / 3), CLASSES, threshold=0.9)
    assert not any(row["kept"] for row in rows)


def test_probabilities_of_a_clip_are_means_over_its_frames_whatever_the_batch():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (n, 12, 16, 3), dtype=np.uint8) for n in (3, 1, 5)]
    clips = clips_of_arrays(arrays, fps=1)
    found = clip_probabilities(clips, colour_share, size_px=12, batch=2)
    for row, array in zip(found, arrays, strict=True):
        squares = torch.from_numpy(array[:, :, 2:14].copy()).permute(0, 3, 1, 2) / 255
        np.testing.assert_allclose(row, colour_share(squares).mean(0), atol=1e-5)


def make_folder(folder):
    """Folders of frames by the class that was searched for, of one colour each."""
    shown = {"red": ["red", "red", "blue"], "green": ["green"], "blue": ["blue", "blue"]}
    for searched, colours in shown.items():
        for number, colour in enumerate(colours):
            place = folder / searched / f"clip{number}"
            place.mkdir(parents=True)
            for frame in range(3):
                Image.new("RGB", (20, 16), {"green": "lime"}.get(colour, colour)).save(place / f"{frame}.png")


def test_a_folder_of_clips_by_class(tmp_path):
    make_folder(tmp_path / "clips")
    rows = curate(tmp_path / "clips", colour_share, CLASSES, size_px=16)
    by_name = {row["clip"]: row for row in rows}
    assert by_name["red/clip2"]["reason"] == "seen as blue"
    assert {name for name, row in by_name.items() if row["kept"]} == {"red/clip0", "green/clip0", "blue/clip0"}

    table = tmp_path / "chosen.csv"
    write_csv(rows, table)
    clips = open_clips(tmp_path / "clips", only=read_kept(table))
    assert sorted(clips.names) == ["blue/clip0", "green/clip0", "red/clip0"]
    # Without the names of folders, what is seen decides alone.
    rows = curate(tmp_path / "clips", colour_share, CLASSES, size_px=16, searched=False, per_class=5)
    assert all(row["kept"] for row in rows)
    assert {row["clip"]: row["class"] for row in rows}["red/clip2"] == "blue"


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'b' go from -1 to 3 and sum to 2; expected a distribution: apply a softmax"):
        select_clips("ab", np.array([[1.0, 0, 0], [3, -1, 0]]), CLASSES)
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        select_clips("ab", np.eye(3)[:1], CLASSES)
    with pytest.raises(ValueError, match="no class 'pink'"):
        select_clips("a", np.eye(3)[:1], CLASSES, searched=["pink"])
    with pytest.raises(ValueError, match="threshold is 2"):
        select_clips("a", np.eye(3)[:1], CLASSES, threshold=2)
    Image.new("RGB", (20, 16)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="in no folder of a class"):
        curate(tmp_path, colour_share, CLASSES, size_px=16)
    with pytest.raises(FileNotFoundError, match="No table of clips"):
        read_kept(tmp_path / "no.csv")
    write_csv([{"clip": "a"}], tmp_path / "a.csv")
    with pytest.raises(ValueError, match="expected clip and kept"):
        read_kept(tmp_path / "a.csv")
    write_csv([{"clip": "a", "kept": False}], tmp_path / "a.csv")
    with pytest.raises(ValueError, match="keeps no clip"):
        read_kept(tmp_path / "a.csv")
