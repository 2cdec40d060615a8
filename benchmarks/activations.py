"""Activations of five layers: ours against the loop that most people write, in seconds and in peak memory.

The loop prepares all pictures, hooks the layers, keeps what every batch gives in lists, and concatenates them; where
fewer features are wanted it reduces them with scikit-learn after that. Both sides see the same pictures through the
same network (the convolutions of AlexNet with random weights, in-place rectifiers) in batches of the same size. It is
checked that they give the same numbers, but for the rectifier: it overwrites what the loop keeps of a convolution.

Each side runs in a process of its own, in turn. Peaks are those of the resident set (Linux: VmHWM), less what the
process held before the run, the pictures among it.

    python benchmarks/activations.py [--pictures 300] [--rounds 3] [--threads 2]
"""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from side_by_side import arguments, header, threads
from sklearn.random_projection import SparseRandomProjection
from torch import nn

from neural_fits.activations import activations
from neural_fits.vision_model import VisionModel

LAYERS = ["0", "3", "6", "8", "10"]
PICTURE_PX, BATCH, COMPONENTS = 256, 32, 1000


def network() -> nn.Sequential:
    torch.manual_seed(0)
    relu, pool = (lambda: nn.ReLU(inplace=True)), (lambda: nn.MaxPool2d(3, 2))
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), relu(), pool()),
        *(nn.Conv2d(64, 192, 5, padding=2), relu(), pool()),
        *(nn.Conv2d(192, 384, 3, padding=1), relu()),
        *(nn.Conv2d(384, 256, 3, padding=1), relu()),
        *(nn.Conv2d(256, 256, 3, padding=1), relu()),
    )


def vision_model() -> VisionModel:
    return VisionModel(network(), "convolutions of AlexNet", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def loop(pictures: np.ndarray) -> dict[str, np.ndarray]:
    net, model = network().eval(), vision_model()
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    images = nn.functional.interpolate(images, (224, 224), mode="bilinear", antialias=True)
    images = (images - torch.tensor(model.mean).view(3, 1, 1)) / torch.tensor(model.std).view(3, 1, 1)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in LAYERS}
    for name in LAYERS:
        net.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: kept[name].append(output.detach().cpu().numpy())
        )
    with torch.no_grad():
        for batch in images.split(BATCH):
            net(batch)
    return {name: np.concatenate([each.reshape(len(each), -1) for each in batches]) for name, batches in kept.items()}


def loop_projected(pictures: np.ndarray) -> dict[str, np.ndarray]:
    features = loop(pictures)
    return {name: SparseRandomProjection(COMPONENTS, random_state=0).fit_transform(x) for name, x in features.items()}


def ours(pictures: np.ndarray, **options) -> dict[str, np.ndarray]:
    return activations(vision_model(), pictures, size_deg=8.0, layers=LAYERS, batch_size=BATCH, **options)


WAYS = {
    "loop": lambda pictures, folder: loop(pictures),
    "lcl, in memory": lambda pictures, folder: ours(pictures),
    "lcl, in files": lambda pictures, folder: ours(pictures, storage=folder),
    "lcl, cache, miss": lambda pictures, folder: ours(pictures, cache=folder),
    "lcl, cache, hit": lambda pictures, folder: ours(pictures, cache=folder),
    "loop, then projection": lambda pictures, folder: loop_projected(pictures),
    "lcl, projection": lambda pictures, folder: ours(pictures, reduction=f"random_projection:{COMPONENTS}"),
    "lcl, pool:13": lambda pictures, folder: ours(pictures, reduction="pool:13"),
}
BASE = {
    **dict.fromkeys(["lcl, in memory", "lcl, in files", "lcl, cache, miss", "lcl, cache, hit", "lcl, pool:13"], "loop"),
    "lcl, projection": "loop, then projection",
}


def pictures_of(number: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, PICTURE_PX, PICTURE_PX, 3), dtype=np.uint8)


def resident(field: str) -> float:
    """Resident set of this process, megabytes: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def run_one(way: str, number: int, n_threads: int, folder: str, results) -> None:
    with threads(n_threads):
        pictures = pictures_of(number)
        network()(torch.zeros(1, 3, 224, 224))
        Path("/proc/self/clear_refs").write_text("5")  # the largest so far is what it is now
        before, started = resident("VmRSS"), time.perf_counter()
        found = WAYS[way](pictures, folder)
        seconds = time.perf_counter() - started
        results.put({"seconds": seconds, "megabytes": resident("VmHWM") - before, "layers": len(found)})


def check(number: int) -> None:
    pictures = pictures_of(number)
    theirs, mine = loop(pictures), ours(pictures)
    for name in LAYERS:
        if not np.allclose(theirs[name], np.maximum(mine[name], 0), rtol=1e-3, atol=1e-4):
            raise RuntimeError(f"The two sides disagree in layer {name}, so that they cannot be compared.")
        if not (mine[name] < 0).any():
            raise RuntimeError(f"Layer {name} came out rectified.")


def main() -> None:
    options = arguments(__doc__, pictures={"type": int, "default": 300, "help": "number of pictures"})
    header(["torch", "numpy", "scipy", "scikit-learn"], options.threads)
    check(2 * BATCH)
    context = multiprocessing.get_context("spawn")
    runs: dict[str, list[dict]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            for way in WAYS:
                where = Path(folder) / f"{turn}-{'cache' if 'cache' in way else 'files'}"
                results = context.Queue()
                process = context.Process(
                    target=run_one, args=(way, options.pictures, options.threads, str(where), results)
                )
                process.start()
                runs[way].append(results.get(timeout=3600))
                process.join()
    n_features = {name: array.shape[1] for name, array in ours(pictures_of(1)).items()}
    total = 4 * options.pictures * sum(n_features.values()) / 1e6
    print(f"\n{options.pictures} pictures, {len(LAYERS)} layers, {sum(n_features.values())} features: {total:.0f} MB")
    median = {
        way: {key: statistics.median(each[key] for each in found) for key in ("seconds", "megabytes")}
        for way, found in runs.items()
    }
    for way, found in median.items():
        line = f"  {way:22s} {found['seconds']:7.2f} s  {found['megabytes']:7.0f} MB"
        if way in BASE:
            base = median[BASE[way]]
            line += (
                f"   {base['seconds'] / found['seconds']:.2f} times as fast as the {BASE[way]}, "
                f"{found['megabytes'] / base['megabytes']:.2f} of its memory"
            )
        print(line)
    print(json.dumps({"load_after": os.getloadavg(), "runs": runs}))


if __name__ == "__main__":
    main()
