"""Cutting 256 patches per training step: out of the store, against decoding a JPEG per patch with Pillow.

The other way is that of an image-folder dataset with a random crop: open the file, decode it, cut one patch. It is
timed with one thread and with one per processor, warm (the files are in the page cache). The ways alternate within one
run, and medians are compared. The JPEGs are synthetic: noise with a 1/f amplitude spectrum, 500 x 375 px, quality 90.

    python benchmarks/image_store.py [--pictures 64] [--side-px 64] [--repeats 15]
"""

import argparse
import os
import platform
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import PIL
from PIL import Image

from lcl.images import open_images

BATCH = 256
HEIGHT_PX, WIDTH_PX = 375, 500


def write_jpegs(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT_PX)[:, None], np.fft.rfftfreq(WIDTH_PX))
    frequency[0, 0] = np.inf
    paths = []
    for number in range(count):
        spectrum = np.fft.rfft2(rng.standard_normal((3, HEIGHT_PX, WIDTH_PX))) / frequency
        noise = np.fft.irfft2(spectrum, (HEIGHT_PX, WIDTH_PX))
        pixels = np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:04d}.jpg")
        Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1))).save(paths[-1], quality=90)
    return paths


def decoded_patch(path: Path, top: int, left: int, side_px: int) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").crop((left, top, left + side_px, top + side_px)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--side-px", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    side_px, processors = options.side_px, os.cpu_count() or 1
    rng = np.random.default_rng(1)
    seconds: dict[str, list[float]] = {"store": [], "decode, 1 thread": [], f"decode, {processors} threads": []}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(processors) as pool:
        paths = write_jpegs(Path(name), options.pictures)
        start = time.perf_counter()
        store = open_images(name)
        opening = time.perf_counter() - start
        for repeat in range(options.repeats + 1):
            index = rng.integers(0, len(store), BATCH)
            top = rng.integers(0, HEIGHT_PX - side_px + 1, BATCH)
            left = rng.integers(0, WIDTH_PX - side_px + 1, BATCH)
            jobs = [(paths[i], t, x, side_px) for i, t, x in zip(index, top.tolist(), left.tolist(), strict=True)]
            ways = (
                lambda index=index, top=top, left=left: store.crops(index, top, left, side_px),
                lambda jobs=jobs: np.stack([decoded_patch(*job) for job in jobs]),
                lambda jobs=jobs: np.stack(list(pool.map(lambda job: decoded_patch(*job), jobs))),
            )
            patches = []
            for way, times in zip(ways, seconds.values(), strict=True):
                start = time.perf_counter()
                patches.append(way())
                if repeat:  # the first round warms up
                    times.append(time.perf_counter() - start)
            if not all(np.array_equal(patches[0], other) for other in patches[1:]):
                raise RuntimeError("The ways of cutting patches disagree, so that their times cannot be compared.")
    machine = f"{platform.processor() or platform.machine()}, {processors} CPUs"
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}")
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, Pillow {PIL.__version__}")
    print(f"{BATCH} patches of {side_px} x {side_px} px per step, {options.pictures} JPEGs, {options.repeats} repeats")
    print(f"opening the store, once: {1e3 * opening:.0f} ms")
    base = median(seconds["store"])
    for way, times in seconds.items():
        step = median(times)
        ratio = "" if way == "store" else f", the store is {step / base:.0f} times faster"
        print(f"{way}: {1e3 * step:.2f} ms per step, {1e6 * step / BATCH:.1f} us per patch{ratio}")


if __name__ == "__main__":
    main()
