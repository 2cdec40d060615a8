"""Clips from video files and folders of frames: every frame is decoded once into a bounded store.

A clip is a video file, a folder of frames, or a segment of either. A training step never waits for a decoder.

================================  ===================================================================================
found                             outcome
================================  ===================================================================================
video file                        one clip, its first video stream; frames at the times that the file gives them
folder that holds pictures        one clip: its pictures in natural order (2 before 10), ``assumed_fps`` apart
folder or file named in ``skip``  left out (masks are pictures, too)
frames without time stamps        the stream's mean rate (AVI, too); ``assumed_fps`` if it has none
unreadable file                   left out, with the decoder's reason
file that ends early              the frames before that are kept, the lost ones counted
short side above short_side_px    downscaled (bicubic, anti-aliased), aspect kept
pixels that are not square        widened to the aspect that is shown
turned recording                  turned upright (the display matrix that phones write), by whole quarters
colour matrix, range              as the file states them; without a statement BT.709 from 720 rows up, BT.601 below
pictures                          as in :mod:`lcl.images`
================================  ===================================================================================
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from lcl.images import (
    ImageStore,
    _available_processors,
    _decode,
    _File,
    _filled_buffer,
    _has_image_extension,
    _header,
    _in_order,
    _list_folder,
    _list_sequence,
    _Listing,
    _read_store,
    _reason,
    _reasons,
    _scaled,
    _store_files,
    _strict_pillow,
    _write_index,
    pillow_version,
)
from vision_methods.clips import ClipStore, segments

FORMAT_NUMBER = 1  # of the files in store_dir; a change of the layout or of any outcome above raises it
VIDEO_EXTENSIONS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
    *(".m2ts", ".mts", ".ts", ".wmv", ".flv", ".ogv", ".3gp", ".y4m"),
)
# AVCOL_SPC numbers that files state, and the names that PyAV gives to the matrices; 2 is "not stated".
_MATRICES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020"}
_HD_ROWS = 720


@dataclass(frozen=True, slots=True)
class _Recording:
    """A video file, or the pictures of a folder in order."""

    name: str
    files: tuple[_File, ...]
    video: bool


@dataclass(slots=True)
class _Frames:
    """What a recording holds, known before its pixels.

    ``keys`` are the time stamps or, where there are none, the numbers of a video's frames; files of a folder.
    """

    keys: list[Any]
    times_s: np.ndarray
    sides: list[tuple[int, int]]
    assumed: bool
    stamped: bool = True
    lost: list[tuple[str, str]] = field(default_factory=list)


def open_clips(
    source: str | os.PathLike[str],
    *,
    channels: int = 3,
    short_side_px: int = 128,
    frames_per_s: float = 0.0,
    first_s: float = 0.0,
    segment_s: float = 0.0,
    assumed_fps: float = 25.0,
    skip: Sequence[str] = ("masks", "annotations"),
    only: Sequence[str] | None = None,
    memory_cap_bytes: int = 2 * 2**30,
    store_cap_bytes: int = 64 * 2**30,
    store_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = False,
    workers: int | None = None,
) -> ClipStore:
    """Decode the frames of clips once into a bounded store.

    Parameters
    ----------
    source : path
        A folder with video files and folders of frames, in it and below, or one video file (see the module).
    channels : {3, 1}
        RGB, or luma.
    short_side_px : int
        Frames whose short side is longer are downscaled to it.
    frames_per_s, first_s, segment_s : float
        As in :func:`~vision_methods.clips.segments`; a segment is a clip of its own. Segments of one recording are told
        apart from each other by a network that is trained on them, however alike they look.
    assumed_fps : float
        Frame rate of folders of frames and of streams that state none.
    skip : sequence of str
        Names of folders and files that are left out wherever they are; without regard to case, with ``*`` and ``?``.
    only : sequence of str, optional
        Names of the recordings to take (paths below the folder); all without it.
    memory_cap_bytes, store_cap_bytes, store_dir, progress, workers
        As in :func:`lcl.images.open_images`; of a source above ``store_cap_bytes`` a random choice of clips is kept.
    seed : int
        Of that choice.

    Returns
    -------
    ClipStore

    Raises
    ------
    FileNotFoundError
        If the source does not exist.
    ValueError
        If it holds no clip, none can be read, ``only`` names what is not there, or an option is impossible.
    ImportError
        If there are video files and PyAV is not installed.
    OSError
        If the disk has no room for the store.
    """
    options: dict[str, Any] = {
        "channels": channels,
        "short_side_px": short_side_px,
        "frames_per_s": frames_per_s,
        "first_s": first_s,
        "segment_s": segment_s,
        "assumed_fps": assumed_fps,
        "seed": seed,
        "store_cap_bytes": store_cap_bytes,
    }
    _check_options(**options, workers=workers)
    threads = workers or _available_processors()
    listing, recordings = _list_clips(Path(source).expanduser(), skip, only)
    if any(recording.video for recording in recordings):
        _pyav()
    files = None
    if store_dir is not None:
        options |= {"clips": FORMAT_NUMBER, "pillow": pillow_version, "recordings": [each.name for each in recordings]}
        files = _store_files(Path(store_dir).expanduser(), listing, options)
        if (found := _read_store(files, listing, channels, memory_cap_bytes)) is not None:
            return _clip_store(found, json.loads(files.index.read_text(encoding="utf-8")), listing.label)
    with _strict_pillow():
        headers = _in_order(
            partial(_frames_of, assumed_fps=assumed_fps), recordings, workers=threads, label="clips", progress=progress
        )
        plan, left_out = _plan(listing, recordings, headers, options)
        ends = np.cumsum([slot for *_, slots in plan for slot in slots])

        def fill(buffer: np.ndarray) -> dict[str, Any]:
            slots = iter(np.split(buffer, ends[:-1]))
            jobs = [
                (recording, frames, clips, [next(slots) for _ in nbytes]) for recording, frames, clips, nbytes in plan
            ]
            decode = partial(_decode_recording, channels=channels, short_side_px=short_side_px)
            results = _in_order(decode, jobs, workers=threads, label="frames", progress=progress)
            return _index(plan, results, [0, *ends.tolist()], left_out, listing)

        buffer, index = _filled_buffer(int(ends[-1]), fill, memory_cap_bytes, files.pixels if files else None)
    if files:
        _write_index(files.index, index | {"options": options, "bytes": len(buffer)})
    store = ImageStore(
        buffer,
        np.array(index["offsets"], np.int64),
        np.array(index["sizes"], np.int64),
        tuple(index["names"]),
        channels=channels,
        left_out=tuple((name, reason) for name, reason in index["left_out"]),
        notes=index["notes"],
        label=listing.label,
        store=f"miss, written to {files.pixels}" if files else "",
    )
    return _clip_store(store, index, listing.label)


def _check_options(**options: Any) -> None:
    if options["channels"] not in (1, 3):
        raise ValueError(f"channels={options['channels']!r} must be 3 (RGB) or 1 (luma).")
    for name in ("short_side_px", "store_cap_bytes", "workers"):
        if options[name] is not None and options[name] < 1:
            raise ValueError(f"{name}={options[name]!r} must be 1 or more.")
    for name in ("frames_per_s", "first_s", "segment_s"):
        if not 0 <= options[name] < math.inf:
            raise ValueError(f"{name}={options[name]!r} must be 0 or more.")
    if not 0 < options["assumed_fps"] < math.inf:
        raise ValueError(f"assumed_fps={options['assumed_fps']!r} must be more than 0.")


def _clip_store(store: ImageStore, index: dict[str, Any], label: str) -> ClipStore:
    return ClipStore(
        store,
        np.array(index["starts"], np.int64),
        np.array(index["times_s"], np.float64),
        tuple(index["clips"]),
        np.array(index["assumed"], bool),
        store.left_out,
        label,
    )


def _list_clips(path: Path, skip: Sequence[str], only: Sequence[str] | None) -> tuple[_Listing, list[_Recording]]:
    if path.is_dir():
        listing = _list_folder(path)
    elif path.is_file():
        listing = _list_sequence([path])
    else:
        raise FileNotFoundError(f"No clips at {os.fspath(path)!r}; expected a folder or a video file, check the path.")
    recordings: list[_Recording] = []
    pictures: dict[str, list[_File]] = {}
    left_out = list(listing.left_out)
    for entry in listing.entries:
        assert isinstance(entry, _File)
        inside = PurePosixPath(entry.name) if path.is_dir() else PurePosixPath(path.name)
        if found := [each for each in skip if any(fnmatch(part.lower(), each.lower()) for part in inside.parts)]:
            left_out.append((entry.name, f"named {found[0]}"))
        elif inside.suffix.lower() in VIDEO_EXTENSIONS or not path.is_dir():
            recordings.append(_Recording(str(inside), (entry,), True))
        elif _has_image_extension(entry.name):
            folder = str(inside.parent)
            pictures.setdefault(path.resolve().name if folder == "." else folder, []).append(entry)
        else:
            left_out.append((entry.name, "neither a video nor a picture"))
    for folder, entries in pictures.items():
        recordings.append(_Recording(folder, tuple(sorted(entries, key=lambda e: _natural(e.name))), False))
    if only is not None:
        if unknown := sorted(set(only) - {each.name for each in recordings}):
            names = ", ".join(each.name for each in recordings[:5])
            raise ValueError(f"{os.fspath(path)!r} has no clip {unknown[0]!r}; it has {names or 'none'}, ...")
        wanted = set(only)
        left_out += [(each.name, "not chosen") for each in recordings if each.name not in wanted]
        recordings = [each for each in recordings if each.name in wanted]
    if not recordings:
        raise ValueError(
            f"No clip in {os.fspath(path)!r} ({_reasons(left_out) or 'it is empty'}); expected video files "
            f"({', '.join(VIDEO_EXTENSIONS[:4])}, ...) or folders of frames."
        )
    label = os.fspath(path)
    return _Listing(label, listing.entries, left_out, listing.fingerprint, listing.folder), recordings


def _natural(name: str) -> list[Any]:
    """Key that sorts numbers in names by value."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise ImportError(
            'Video files need PyAV, which is not installed; pip install "lcl[video]", or give folders of frames.'
        ) from None
    return av


@contextmanager
def _video(file: _File) -> Iterator[tuple[Any, Any]]:
    """Container and first video stream of a file; nothing beside the file itself is opened."""
    with _pyav().open(f"file:{file.path}", options={"protocol_whitelist": "file"}) as container:
        if not container.streams.video:
            raise ValueError("no video in it")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _frames_of(recording: _Recording, *, assumed_fps: float) -> _Frames | str:
    """What a recording holds, or why nothing."""
    if not recording.video:
        headers = [_header(file) for file in recording.files]
        kept = [(file, sides) for file, sides in zip(recording.files, headers, strict=True) if isinstance(sides, tuple)]
        lost = [(f.name, each) for f, each in zip(recording.files, headers, strict=True) if isinstance(each, str)]
        if not kept:
            return lost[0][1]
        times_s = np.arange(len(kept)) / assumed_fps
        return _Frames([file for file, _ in kept], times_s, [sides for _, sides in kept], True, lost=lost)
    if not recording.files[0].nbytes:
        return "empty file"
    try:
        with _video(recording.files[0]) as (container, stream):
            context = stream.codec_context
            # Packets are counted without decoding them: nearly all of the time of a second pass is saved.
            stamps = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
            aspect = float(stream.sample_aspect_ratio or 1)
            sides = context.height, round(context.width * aspect)
            if not stamps or min(sides) < 1:
                return "no frames"
            if None in stamps or container.format.name == "avi":  # AVI stamps frames in the order of their storage
                rate = float(stream.guessed_rate or 0)
                times_s = np.arange(len(stamps)) / (rate or assumed_fps)
                return _Frames(list(range(len(stamps))), times_s, [sides] * len(stamps), not rate, stamped=False)
            stamps = sorted(set(stamps))
            times_s = (np.array(stamps) - stamps[0]) * float(stream.time_base)
            return _Frames(stamps, times_s, [sides] * len(stamps), False)
    except Exception as error:  # decoders raise almost anything on a broken file
        return _reason(error)


#: A recording, what it holds, its clips (name and positions of frames), and the bytes of every frame.
_Planned = tuple[_Recording, _Frames, list[tuple[str, np.ndarray]], list[int]]


def _plan(
    listing: _Listing, recordings: list[_Recording], headers: list[_Frames | str], options: dict[str, Any]
) -> tuple[list[_Planned], list[tuple[str, str]]]:
    """Decide before any frame is decoded which clips are kept, and how many bytes each frame takes."""
    left_out = list(listing.left_out)
    found: list[tuple[int, str, np.ndarray, list[int]]] = []
    for number, (recording, frames) in enumerate(zip(recordings, headers, strict=True)):
        if isinstance(frames, str):
            left_out.append((recording.name, frames))
            continue
        left_out += frames.lost
        cut = {name: options[name] for name in ("frames_per_s", "first_s", "segment_s")}
        for k, positions in enumerate(segments(frames.times_s, **cut)):
            scaled = [_scaled(frames.sides[p], options["short_side_px"]) for p in positions.tolist()]
            nbytes = [height * width * options["channels"] for height, width in scaled]
            name = f"{recording.name}[{k}]" if options["segment_s"] > 0 else recording.name
            found.append((number, name, positions, nbytes))
    if not found:
        raise ValueError(
            f"No readable clip in {listing.label!r}: {_reasons(left_out)}, of {left_out[-1][0]!r} {left_out[-1][1]!r}; "
            "expected video files that FFmpeg reads, or folders of frames."
        )
    sizes = np.array([sum(nbytes) for *_, nbytes in found])
    chosen = np.arange(len(found))
    if sizes.sum() > options["store_cap_bytes"]:
        order = np.random.default_rng(options["seed"]).permutation(len(found))
        chosen = np.sort(order[np.cumsum(sizes[order]) <= options["store_cap_bytes"]])
        if not len(chosen):
            raise ValueError(
                f"store_cap_bytes={options['store_cap_bytes']} holds not even one clip of {listing.label!r}, which "
                f"takes {sizes[order[0]]} bytes; raise it, or lower short_side_px, first_s or segment_s."
            )
        left_out += [(found[i][1], "store is full") for i in sorted(set(range(len(found))) - set(chosen.tolist()))]
    plan: dict[int, _Planned] = {}
    for i in chosen.tolist():
        number, name, positions, nbytes = found[i]
        frames = headers[number]
        assert isinstance(frames, _Frames)
        _, _, clips, slots = plan.setdefault(number, (recordings[number], frames, [], []))
        clips.append((name, positions))
        slots += nbytes
    return list(plan.values()), left_out


def _decode_recording(
    job: tuple[_Recording, _Frames, list[tuple[str, np.ndarray]], list[np.ndarray]],
    *,
    channels: int,
    short_side_px: int,
) -> list[tuple[int, int, list[str]] | str]:
    """Write the frames of a recording into their slots; for each its height, width and notes, or why that failed."""
    recording, frames, clips, slots = job
    keys = [frames.keys[position] for _, positions in clips for position in positions.tolist()]
    if not recording.video:
        decode = partial(_decode, channels=channels, short_side_px=short_side_px)
        return [decode((file, slot)) for file, slot in zip(keys, slots, strict=True)]
    results: list[tuple[int, int, list[str]] | str] = ["the file ends before it"] * len(keys)
    wanted = {key: i for i, key in enumerate(keys)}
    try:
        with _video(recording.files[0]) as (container, stream):
            for number, frame in enumerate(container.decode(stream)):
                i = wanted.pop(frame.pts if frames.stamped else number, None)
                if i is not None:
                    results[i] = _write_frame(frame, frames.sides[0], slots[i], channels, short_side_px)
                if not wanted:
                    break
    except Exception as error:
        for i in wanted.values():
            results[i] = _reason(error)
    return results


def _write_frame(
    frame: Any, sides: tuple[int, int], slot: np.ndarray, channels: int, short_side_px: int
) -> tuple[int, int, list[str]] | str:
    stated = _MATRICES.get(frame.colorspace)
    full = frame.color_range == 2 or frame.format.name.startswith("yuvj")
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=stated or ("ITU709" if frame.height >= _HD_ROWS else "ITU601"),
        dst_colorspace="ITU601",  # FFmpeg converts by its default, this one, unless the two differ
        src_color_range="JPEG" if full else "UNSPECIFIED",  # PyAV 12 takes "MPEG" for the full range, too
        dst_color_range="UNSPECIFIED",
    )
    image, notes = Image.fromarray(rgb.to_ndarray()), []
    height, width = _scaled(sides, short_side_px)
    if height * width * channels != slot.size:
        return "its size is not the one its header gives"
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        notes.append("downscaled")
    if channels == 1:
        image = image.convert("L")
        notes.append("colour to luma")
    if turns := _quarter_turns(frame):
        image = image.transpose(
            (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)[turns - 1]
        )
        notes.append("turned upright")
    pixels = np.asarray(image)
    slot.reshape(image.height, image.width, channels)[...] = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return image.height, image.width, notes


def _quarter_turns(frame: Any) -> int:
    """Quarter turns, anticlockwise, that show the frame upright: 0 to 3."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b = np.frombuffer(bytes(data), np.int32)[:2].tolist()
            return round(-math.atan2(b, a) / (math.pi / 2)) % 4
    return 0


def _index(
    plan: list[_Planned],
    results: list[list[tuple[int, int, list[str]] | str]],
    offsets: list[int],
    left_out: list[tuple[str, str]],
    listing: _Listing,
) -> dict[str, Any]:
    """Everything of the store but its pixels, as JSON holds it."""
    index: dict[str, Any] = {
        name: [] for name in ("names", "offsets", "sizes", "starts", "times_s", "clips", "assumed")
    }
    left_out, notes, slot = list(left_out), Counter(), iter(offsets)
    index["starts"].append(0)
    for (_, frames, clips, _), decoded in zip(plan, results, strict=True):
        frame = iter(decoded)
        for name, positions in clips:
            done = [(p, offset, result) for p, result, offset in zip(positions.tolist(), frame, slot)]  # noqa: B905
            kept = [(p, offset, result) for p, offset, result in done if not isinstance(result, str)]
            if lost := [result for *_, result in done if isinstance(result, str)]:
                left_out.append((name, f"frames lost: {len(lost)} of {len(done)}, {lost[0]}"))
            if not kept:
                continue
            start_s = frames.times_s[kept[0][0]]
            for p, offset, (height, width, what) in kept:
                index["names"].append(f"{name}:{p}")
                index["offsets"].append(offset)
                index["sizes"].append([height, width])
                index["times_s"].append(float(frames.times_s[p] - start_s))
                notes.update(what)
            index["clips"].append(name)
            index["assumed"].append(frames.assumed)
            index["starts"].append(len(index["names"]))
    if not index["clips"]:
        raise ValueError(f"No frame of {listing.label!r} could be decoded: {_reasons(left_out)}; check the files.")
    return index | {"left_out": sorted(left_out), "notes": dict(notes)}
