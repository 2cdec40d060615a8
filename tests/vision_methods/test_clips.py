"""Frame pairs and segments against their definitions, by hand and over many draws."""

import numpy as np
import pytest
import torch

from lcl.images import open_images
from vision_methods.clips import ClipStore, clips_of_arrays, draw_frame_pairs, segments, still_clips


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def black(*lengths, fps=25.0):
    return clips_of_arrays([np.zeros((n, 4, 4, 3), np.uint8) for n in lengths], fps=fps)


def numbered(*lengths, fps=10.0):
    """Clips whose frame j of clip i is everywhere 10 i + j."""
    arrays = [
        np.broadcast_to((10 * i + np.arange(n, dtype=np.uint8))[:, None, None], (n, 4, 4))
        for i, n in enumerate(lengths)
    ]
    return clips_of_arrays(arrays, fps=fps, channels=1)


def value(clips, frame):
    return int(clips.frames[frame][0, 0, 0])


@pytest.mark.parametrize("max_gap_s", [0.0, 0.04, 0.2, 1.0])
def test_pairs_are_of_their_clip_and_no_further_apart_than_asked(max_gap_s):
    clips = black(100, 7, 60)
    index = np.tile([2, 0, 1], 2000)
    pairs = draw_frame_pairs(clips, index, gen(), max_gap_s=max_gap_s)
    assert (clips.clip_of_frame[pairs] == index[:, None]).all()
    gaps = np.abs(np.diff(clips.times_s[pairs], axis=1))[:, 0]
    assert gaps.max() <= max_gap_s + 1e-9
    # The longest gap occurs, or the whole clip where that is shorter.
    for clip, duration_s in enumerate(clips.duration_s):
        assert gaps[index == clip].max() == pytest.approx(min(max_gap_s, duration_s))


def test_gaps_are_uniform_and_pairs_lie_anywhere():
    clips = black(1001, fps=100.0)
    pairs = draw_frame_pairs(clips, np.zeros(20_000, int), gen(), max_gap_s=2.56)
    gaps = np.abs(np.diff(pairs))[:, 0] / 100
    # Standard error of the mean of a uniform variable: 2.56 / sqrt(12 * 20000) = 0.005.
    assert gaps.mean() == pytest.approx(1.28, abs=0.03)
    np.testing.assert_allclose(np.quantile(gaps, [0.1, 0.5, 0.9]), [0.256, 1.28, 2.304], atol=0.06)
    assert pairs.min() < 10
    assert pairs.max() > 990


def test_the_order_of_a_pair_is_random_and_independent_of_its_gap():
    pairs = draw_frame_pairs(black(200), np.zeros(10_000, int), gen(), max_gap_s=2.0)
    apart = np.diff(pairs)[:, 0]
    moved = apart[apart != 0]
    assert (moved > 0).mean() == pytest.approx(0.5, abs=0.02)
    assert np.abs(moved[moved > 0]).mean() == pytest.approx(np.abs(moved[moved < 0]).mean(), rel=0.03)


def test_short_clips_use_all_of_their_frames():
    pairs = draw_frame_pairs(black(3), np.zeros(2000, int), gen(), max_gap_s=2.56)
    assert {tuple(pair) for pair in pairs.tolist()} == {(i, j) for i in range(3) for j in range(3)}


def test_without_a_gap_or_without_a_second_frame_both_views_come_from_one_picture():
    clips = black(50, 1)
    for pairs in (
        draw_frame_pairs(clips, np.zeros(500, int), gen(), max_gap_s=0.0),
        draw_frame_pairs(clips, np.ones(500, int), gen(), max_gap_s=2.56),
        draw_frame_pairs(still_clips(open_images("builtin")), np.arange(12), gen(), max_gap_s=2.56),
    ):
        assert (pairs[:, 0] == pairs[:, 1]).all()
    # Any frame of a clip can be the one.
    assert len(np.unique(draw_frame_pairs(clips, np.zeros(2000, int), gen(), max_gap_s=0.0))) == 50


def test_uneven_time_stamps_are_respected():
    times_s = np.array([0.0, 0.01, 0.02, 1.0, 1.01, 3.0])
    clips = ClipStore(
        open_images([np.zeros((4, 4), np.uint8)] * 6, channels=1), np.array([0, 6]), times_s, ("a",), np.array([False])
    )
    pairs = draw_frame_pairs(clips, np.zeros(5000, int), gen(), max_gap_s=1.0)
    gaps = np.abs(np.diff(times_s[pairs]))[:, 0]
    assert gaps.max() <= 1.0
    assert {0.0, 0.01, 0.99, 1.0} <= set(gaps.round(2))
    assert (5 not in pairs) or (pairs[(pairs == 5).any(1)] == 5).all()  # its only neighbour is too far


def test_pairs_depend_on_the_generator_alone():
    clips, index = black(40, 50), np.tile([0, 1], 20)
    first, second, other = (draw_frame_pairs(clips, index, gen(seed), max_gap_s=0.5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    with pytest.raises(ValueError, match="max_gap_s is -1"):
        draw_frame_pairs(clips, index, gen(), max_gap_s=-1)


def test_segments_are_equal_parts_that_hold_every_frame_once():
    times_s = np.arange(250) / 25
    parts = segments(times_s, segment_s=0.9)
    assert len(parts) == 11
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(250))
    assert {len(part) for part in parts} <= {22, 23}
    assert [len(part) for part in segments(times_s, segment_s=1.0)] == [25] * 10
    assert [len(part) for part in segments(times_s, segment_s=20.0)] == [250]
    assert [len(part) for part in segments(times_s[:1], segment_s=1.0)] == [1]


def test_first_seconds_and_thinning():
    times_s = 100.0 + np.arange(250) / 25
    assert segments(times_s, first_s=2.0)[0].tolist() == list(range(50))
    assert segments(times_s, frames_per_s=5.0)[0].tolist() == list(range(0, 250, 5))
    assert segments(times_s, frames_per_s=30.0)[0].tolist() == list(range(250))
    # 10 frames a second of 25: at most one in each tenth of a second.
    kept = segments(times_s, frames_per_s=10.0)[0]
    assert len(kept) == 100
    np.testing.assert_array_equal(np.floor((times_s[kept] - 100) * 10 + 1e-6), np.arange(100))


def test_a_subset_shares_pixels_and_keeps_times():
    clips = numbered(3, 5, 4)
    some = clips.subset([2, 1])
    assert some.names == ("clip 2", "clip 1")
    assert [value(some, i) for i in range(9)] == [20, 21, 22, 23, 10, 11, 12, 13, 14]
    np.testing.assert_allclose(some.times_s[4:], np.arange(5) / 10)
    assert np.shares_memory(some.frames[0], clips.frames[8])
    with pytest.raises(IndexError, match="numbered 0 to 2"):
        clips.subset([3])
    with pytest.raises(ValueError, match="at least one whole number"):
        clips.subset([])


def test_the_middle_of_clips_is_held_out():
    clips = numbered(10, 1, 2, 4)
    rest, middle = clips.divided_in_time(0.3)
    assert rest.names == clips.names
    assert middle.names == ("clip 0", "clip 3")
    assert [value(rest, i) for i in range(len(rest.frames))] == [0, 1, 2, 6, 7, 8, 9, 10, 20, 21, 30, 32, 33]
    assert [value(middle, i) for i in range(len(middle.frames))] == [3, 4, 5, 31]
    assert rest.times_s[:7].tolist() == pytest.approx([0, 0.1, 0.2, 0.6, 0.7, 0.8, 0.9])
    assert middle.times_s.tolist() == pytest.approx([0, 0.1, 0.2, 0])
    labelled = middle.by_clip(rest.names)
    assert labelled.labels.tolist() == [0, 0, 0, 3]
    assert labelled.classes == clips.names
    # A nearly whole share leaves the first and the last frame.
    assert [value(each, 0) for each in numbered(10).divided_in_time(0.99)] == [0, 1]
    rest, middle = clips.divided_in_time(0.3, np.array([3]))
    assert rest.lengths.tolist() == [10, 1, 2, 3]
    assert middle.names == ("clip 3",)
    with pytest.raises(ValueError, match="None of 2 clips has three frames"):
        black(1, 2).divided_in_time(0.3)
    with pytest.raises(ValueError, match=r"share is 1\.0"):
        clips.divided_in_time(1.0)


def test_arrays_of_grey_or_colour_and_their_times():
    movie = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
    clips = clips_of_arrays([movie, movie[:2, :, :, 0]], fps=4)
    assert clips.lengths.tolist() == [3, 2]
    assert clips.times_s.tolist() == [0, 0.25, 0.5, 0, 0.25]
    np.testing.assert_array_equal(clips.frames[1], movie[1])
    assert "2 clips of 2 to 3 frames (0.25 to 0.50 s)" in clips.summary()
    with pytest.raises(ValueError, match=r"\[3, 0\] frames"):
        clips_of_arrays([movie, movie[:0]], fps=4)
    with pytest.raises(ValueError, match="fps is 0"):
        clips_of_arrays([movie], fps=0)
