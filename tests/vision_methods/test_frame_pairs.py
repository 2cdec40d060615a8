"""Frames that meet as two views, windows over many draws, and frames held out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lcl.images import open_images
from vision_methods.clips import clips_of_arrays, still_clips
from vision_methods.frame_pairs import FramePairs, changed_views, held_out_frames
from vision_methods.two_views import PHOTOMETRIC

BATCH = 6


def movie(seed, frames=8):
    """Coloured clouds that drift, so that neighbouring frames look alike."""
    clouds = torch.rand(1, 3, 3, 5, generator=torch.Generator().manual_seed(seed))
    wide = F.interpolate(clouds, (40, 48 + 2 * frames), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    return np.stack([(255 * wide[:, 2 * i : 2 * i + 48]).byte().numpy() for i in range(frames)])


def pairs(clips=None, **options):
    clips = clips or clips_of_arrays([movie(seed) for seed in range(9)], fps=10)
    settings = {"batch": BATCH, "size_px": 32, "max_gap_s": 0.5, "photometric": PHOTOMETRIC["byol"], "seed": 3}
    return FramePairs(clips, **(settings | options))


def test_a_batch_holds_two_frames_each_of_different_clips():
    batches = pairs()
    assert batches.per_epoch == 1
    clip = batches.clips.clip_of_frame
    seen = []
    for step in range(40):
        frames = batches.frames(step)
        assert (clip[frames[:, 0]] == clip[frames[:, 1]]).all()
        assert len(np.unique(clip[frames[:, 0]])) == BATCH
        assert np.abs(np.diff(batches.clips.times_s[frames])).max() <= 0.5 + 1e-9
        seen += clip[frames[:, 0]].tolist()
    assert set(seen) == set(range(9))
    np.testing.assert_array_equal(pairs().frames(7), batches.frames(7))
    assert (pairs(seed=4).frames(7) != batches.frames(7)).any()


def test_an_epoch_has_as_many_pairs_of_every_clip_as_asked():
    batches = pairs(batch=3, pairs_per_clip=5)
    assert batches.per_epoch == 15
    clips = np.concatenate([batches.clips.clip_of_frame[batches.frames(step)[:, 0]] for step in range(15)])
    assert np.bincount(clips).tolist() == [5] * 9


def test_views_are_of_their_frames_and_independent():
    clips = clips_of_arrays([np.full((5, 24, 24, 3), 20 * i, np.uint8) for i in range(8)], fps=10)
    batches = pairs(clips, photometric=PHOTOMETRIC["none"])
    first, second = batches(0)
    levels = 20 * clips.clip_of_frame[batches.frames(0)]
    for view, expected in zip((first, second), levels.T, strict=True):
        assert (view.crops == torch.from_numpy(expected)[:, None, None, None]).all()
    assert not torch.equal(first.views.box, second.views.box)
    # Without a gap both views are of one frame, still in windows of their own.
    first, second = pairs(clips, max_gap_s=0.0)(0)
    assert not torch.equal(first.views.box, second.views.box)


def test_windows_keep_the_least_area_over_ten_thousand_draws():
    clips = still_clips(open_images([np.zeros((90, 120), np.uint8)] * 100))
    batches = pairs(clips, batch=100, size_px=4)
    shares = []
    for step in range(50):
        frames = batches.frames(step)
        for number in (0, 1):
            box = batches.view(step, frames[:, number], number).views.box.double()
            shares.append((box[:, 2] * box[:, 3] / (90 * 120)).numpy())
    shares = np.concatenate(shares)
    assert len(shares) == 10_000
    assert shares.max() <= 1
    # Sides are whole pixels, and are cut where a window is longer than the picture: 0.4 up to that.
    assert np.quantile(shares, 0.001) >= 0.39
    assert shares.mean() == pytest.approx(0.69, abs=0.03)


def test_too_large_a_batch_says_what_to_do():
    with pytest.raises(ValueError, match=r"batch is 10, but there are 9 clips.*--segment-s"):
        pairs(batch=10)


def test_changed_views_keep_labels_and_change_pictures():
    clips = clips_of_arrays([movie(seed) for seed in range(3)], fps=10)
    made = changed_views(clips.by_clip(), size_px=24, seed=1)
    assert made.store.sizes.tolist() == [[24, 24]] * 24
    assert made.labels.tolist() == clips.clip_of_frame.tolist()
    again = changed_views(clips.by_clip(), size_px=24, seed=1)
    np.testing.assert_array_equal(made.store[5], again.store[5])
    assert (made.store[5] != made.store[6]).any()


def test_the_clips_that_judge_are_the_same_for_every_seed_and_no_more_than_asked():
    clips = clips_of_arrays([movie(seed, 8 + seed) for seed in range(6)], fps=10)
    held = held_out_frames(clips, share=0.25, most=25)
    assert len(held.references) + len(held.middle) <= 25
    assert set(held.middle.labels) == set(held.references.labels) == set(range(len(held.references.classes)))
    assert held.rest.names == clips.names
    assert len(held.rest.frames) + len(held.middle) == len(clips.frames)
    again = held_out_frames(clips, share=0.25, most=25)
    assert again.references.classes == held.references.classes
    # At least one clip judges, and at most all do.
    assert len(held_out_frames(clips, share=0.25, most=1).references.classes) == 1
    assert held_out_frames(clips, share=0.25, most=1000).references.classes == clips.names
