"""What each of the three ways brings on made pictures: average precision of words whose boxes were shown, and were not.

    python benchmarks/three_ways_made.py --towers RUN --out DIR --seeds 3

Conditions: all three; each left out; gates or text variants alone; none. Self-training takes two trainings, a teacher's
and the detector's from the same towers anew, for the same number of steps; what has no self-training is a teacher. The
towers are the same for all seeds, which differ in new weights, pictures with boxes and captioned pictures; all are
judged by the same pictures. Training goes on where it was stopped. Writes benchmarks/results/three_ways_made.csv and
docs/figures/three-ways-made.png.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from stimuli.drawing import BLUE, VERMILION, WIDTH_IN, png, styled
from stimuli.files import replacing
from vision_methods.image_text_config import ThreeWaysConfig
from vision_methods.presets import PRESETS
from vision_methods.train import train_method

ROOT = Path(__file__).parents[1]
#: Settings of a teacher, and whether a detector is trained by it besides.
CONDITIONS: dict[str, tuple[dict[str, Any], bool]] = {
    "all": ({}, True),
    "no self-training": ({}, False),
    "ungated": ({"gated": False}, True),
    "no text variants": ({"variants": 1, "text_dropout": 0.0}, True),
    "gates alone": ({"variants": 1, "text_dropout": 0.0}, False),
    "text variants alone": ({"gated": False}, False),
    "none": ({"gated": False, "variants": 1, "text_dropout": 0.0}, False),
}
SCORES = ("ap_base", "ap_novel", "ap50_base", "ap50_novel")


def trained(config: ThreeWaysConfig, run: Path) -> dict[str, float]:
    """Scores at the end of a run, and its CPU seconds; trains it where it is not yet."""
    if not (run / "weights.safetensors").exists():
        start, going = time.process_time(), (run / "state.safetensors").exists()
        train_method("three-ways", config, run, resume=going, progress=False, say=lambda line: None)
        (run / "cpu.json").write_text(json.dumps(time.process_time() - start))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["stage"] == "epoch"][-1]
    return {name: last[name] for name in SCORES} | {"cpu_s": json.loads((run / "cpu.json").read_text())}


def interval(values: list[float]) -> float:
    """Half of the 95 % interval of a mean, by Student's t."""
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else float("nan")


@styled
def drawing(rows: list[dict[str, Any]]) -> Figure:
    """Average precision of every seed and its mean, of base and novel words."""
    figure = Figure((WIDTH_IN, 3.2))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = [name for name in CONDITIONS if any(row["condition"] == name for row in rows)]
    for axes, kind, color in zip(panels, ("base", "novel"), (BLUE, VERMILION), strict=True):
        for place, name in enumerate(names):
            values = [row[f"ap_{kind}"] for row in rows if row["condition"] == name]
            axes.barh(place, np.mean(values), color=color, alpha=0.35)
            axes.plot(values, [place] * len(values), "o", color=color, markersize=4)
        axes.set(xlabel=f"AP of {kind} words", yticks=range(len(names)), yticklabels=names)
    panels[0].invert_yaxis()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towers", required=True, help="run of `lcl train-method siglip` on made pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=1000, help="with boxes")
    parser.add_argument("--captioned", type=int, default=1500, help="pictures with captions")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=True, help="write csv and figure")
    arguments = parser.parse_args()
    toy = PRESETS["three-ways"]["toy"]()
    assert isinstance(toy, ThreeWaysConfig)
    common = {"towers": arguments.towers, "made_pictures": arguments.pictures, "epochs": arguments.epochs}
    common |= {"made_captioned": arguments.captioned, "judge_every": arguments.epochs}
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for name, (changes, self_trained) in CONDITIONS.items():
            config = dataclasses.replace(toy, **common, **changes, seed=seed)
            slug = "-".join(f"{key}={value}" for key, value in changes.items()) or "default"
            teacher = arguments.out / f"teacher-{slug}-seed{seed}"
            found = trained(config, teacher)
            if self_trained:
                student = dataclasses.replace(config, teacher=str(teacher))
                found = trained(student, arguments.out / f"student-{slug}-seed{seed}")
            rows.append({"condition": name, "seed": seed, **found})
            print(rows[-1], flush=True)
    for name in CONDITIONS:
        chosen = [row for row in rows if row["condition"] == name]
        said = [
            f"{score} {np.mean([row[score] for row in chosen]):.3f} +- {interval([row[score] for row in chosen]):.3f}"
            for score in SCORES[:2]
        ]
        print(f"{name}: {', '.join(said)} (n = {len(chosen)} seeds)")
    pairs = [("all", name) for name in CONDITIONS if name != "all"]
    pairs += [("gates alone", "none"), ("text variants alone", "none"), ("ungated", "text variants alone")]
    for more, less in pairs:
        for score in SCORES[:2]:
            by_seed = {(row["condition"], row["seed"]): row[score] for row in rows}
            gains = [by_seed[more, seed] - by_seed[less, seed] for seed in range(arguments.seeds)]
            print(f"{more} - {less}, {score}: {np.mean(gains):+.3f} +- {interval(gains):.3f}")
    if arguments.write:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
        with replacing(ROOT / "benchmarks" / "results" / "three_ways_made.csv") as partial:
            partial.write_text(text.getvalue(), encoding="utf-8")
        with replacing(ROOT / "docs" / "figures" / "three-ways-made.png") as partial:
            partial.write_bytes(png(drawing(rows)))


if __name__ == "__main__":
    main()
