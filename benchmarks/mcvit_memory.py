"""What MC-ViT's memory is worth: accuracy on delayed match to sample against the tokens kept of a segment.

For every seed one network is trained on videos of one segment (16 frames), as the published method starts from a
network of short clips. Copies of it are then trained for the same number of steps, on the same videos of four segments,
with every memory: none, K tokens by each consolidation, everything, and joint attention. Accuracy is on videos that no
training saw. Chance is 1/4.

    python benchmarks/mcvit_memory.py [--seeds 0,1,2] [--out DIR]

Lines are added to DIR/mcvit_memory.csv as they are found, and what is there already is not done again; when all is
there, the table is printed and DIR/mcvit_memory.png drawn. About a quarter of an hour of one core in all.
"""

import argparse
import copy
import csv
import dataclasses
import statistics
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

from lcl.optimizers import learning_rate_factor, optimizer
from lcl.recognition_train import descend
from stimuli.drawing import BLUE, GREEN, VERMILION, png, styled
from vision_methods.config import mcvit_toy
from vision_methods.long_videos import MadeVideos
from vision_methods.mcvit import MCViT, build

SHORT_STEPS, STEPS, SHORT_BATCH, BATCH, JUDGED = 400, 200, 64, 32, 1024
KEPT = (1, 2, 4, 8)
COLOURS = {"kmeans": BLUE, "coreset": VERMILION, "random": GREEN}
FIELDS = ("seed", "condition", "memory", "consolidation", "kept", "detached", "accuracy", "cpu_s")
#: Name, memory, consolidation, kept, detached.
CONDITIONS = [
    ("none", "none", "kmeans", 0, False),
    *((f"{name} {kept}", "consolidated", name, kept, False) for kept in KEPT for name in COLOURS),
    ("everything", "everything", "kmeans", 32, False),
    ("joint", "joint", "kmeans", 0, False),
    ("kmeans 2 detached", "consolidated", "kmeans", 2, True),
]


def train(learner: MCViT, steps: int, *, seed: int) -> None:
    config = mcvit_toy()
    optimiser = optimizer(
        "adamw",
        learner.online.parameters(),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    learner.train()
    for step in range(steps):
        rate = config.learning_rate * learning_rate_factor(step, steps, 20, from_zero=True)
        loss, _ = learner.loss(learner.draw(step))
        descend(loss, optimiser, rate, name=f"seed {seed}", step=step, check=True)


def learner_of(seed: int, videos: MadeVideos, memory: str, consolidation: str, kept: int, detached: bool) -> MCViT:
    settings = {"memory": memory, "consolidation": consolidation, "kept": kept or 2, "detach_memory": detached}
    config = dataclasses.replace(mcvit_toy(), seed=seed, judge_most=JUDGED, **settings)
    learner = build(config, torch.device("cpu"))
    learner.videos = learner.draw = videos
    return learner


def measure(seed: int, file: Path) -> None:
    done = {(row["seed"], row["condition"]) for row in read(file)}
    left = [each for each in CONDITIONS if (str(seed), each[0]) not in done]
    if not left:
        return
    short = learner_of(seed, MadeVideos(batch=SHORT_BATCH, frames=16, seed=seed), "none", "kmeans", 0, False)
    start = time.process_time()
    train(short, SHORT_STEPS, seed=seed)
    spent = round(time.process_time() - start, 1)
    if (str(seed), "one segment") not in done:
        write(file, (seed, "one segment", "none", "", 0, False, short.judge()["accuracy"], spent))
    for name, *settings in left:
        learner = learner_of(seed, MadeVideos(batch=BATCH, frames=64, seed=seed), *settings)
        learner.online.load_state_dict(copy.deepcopy(short.online.state_dict()))
        start = time.process_time()
        train(learner, STEPS, seed=seed)
        spent = round(time.process_time() - start, 1)
        write(file, (seed, name, *settings, learner.judge()["accuracy"], spent))


def read(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write(file: Path, row: tuple) -> None:
    new = not file.is_file()
    with file.open("a", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        if new:
            lines.writerow(FIELDS)
        lines.writerow(row)
    print(*row, flush=True)


def table(found: dict[str, list[float]]) -> None:
    print("| memory | seeds | accuracy: mean (lowest to highest) |\n|---|---|---|")
    for name, values in found.items():
        mean, low, high = statistics.mean(values), min(values), max(values)
        print(f"| {name} | {len(values)} | {mean:.3f} ({low:.3f} to {high:.3f}) |")


@styled
def draw(found: dict[str, list[float]]) -> Figure:
    figure = Figure((5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(2 * 2**-0.12, 2 * 2**0.12, color="0.93", linewidth=0, zorder=0)
    axes.text(2, 1.06, "1/16 of the tokens", ha="center", va="bottom", fontsize=8)
    for name, colour in COLOURS.items():
        values = [found[f"{name} {kept}"] for kept in KEPT]
        means = [statistics.mean(each) for each in values]
        axes.plot(KEPT, means, color=colour, marker="o", label={"kmeans": "k-means"}.get(name, name))
        low, high = ([end(each) for each in values] for end in (min, max))
        axes.fill_between(KEPT, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(statistics.mean(found["everything"]), color="0.75", linewidth=4, label="everything (32)", zorder=1)
    axes.axhline(statistics.mean(found["joint"]), color="black", linestyle="--", linewidth=1, label="joint attention")
    axes.axhline(statistics.mean(found["none"]), color="black", linestyle=":", linewidth=1.2, label="no memory")
    axes.axhline(0.25, color="0.85", linewidth=4, label="chance", zorder=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(KEPT, [str(kept) for kept in KEPT])
    axes.set(ylim=(0, 1.05), xlabel="tokens kept of a segment's 32, in every block", ylabel="accuracy")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (default: 0,1,2)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the table and the figure (default: here)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = args.out / "mcvit_memory.csv"
    for seed in args.seeds.split(","):
        measure(int(seed), file)
    found: dict[str, list[float]] = {}
    for row in read(file):
        found.setdefault(row["condition"], []).append(float(row["accuracy"]))
    if missing := [name for name, *_ in CONDITIONS if name not in found]:
        print(f"Not all is there yet: {missing[0]}")
        return
    table(found)
    (args.out / "mcvit_memory.png").write_bytes(png(draw(found)))


if __name__ == "__main__":
    main()
