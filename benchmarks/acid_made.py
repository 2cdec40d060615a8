"""What choosing pairs saves where half of the captions are shuffled: accuracy against examples, and operations.

    python benchmarks/acid_made.py --out DIR [--seeds 3] [--condition NAME ...] [--longer TIMES] [--most RUNS]

Made pictures with captions, half of them shuffled; a reference is trained once, on other made pictures without noise.
IID and plain distillation learn from pairs as they come, 2.5 times as many as those that choose, which spend a fifth
more operations; IID learns once more from as few as those. Accuracy is the mean over number, colour, texture and shape
of held-out pictures, each named by prompts. What is finished is not done again; --most ends after so many runs. Once
all are there, DIR/acid_made.csv and DIR/acid_made.png are written and the means with 95 % t-intervals over seeds are
printed. Operations are those of scoring and learning, without the training of the reference.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from stimuli.files import replacing
from vision_methods.acid import build
from vision_methods.image_text_config import ACIDConfig
from vision_methods.train import train_method

COMMON = {
    "made_pictures": 12_800,
    "made_noise": 0.5,
    "text_width": 96,
    "text_depth": 1,
    "length": 16,
    "batch": 64,
    "optimizer": "adamw95",
    "learning_rate": 3e-3,
    "judge_most": 1000,
    "reference_pictures": 20_000,
    "reference_epochs": 3,
    "precision": "float32",
    "device": "cpu",
    "save_every": 100_000,
}
CHOICE = {"filter_ratio": 0.8, "epochs": 6, "warmup_epochs": 1.0}
#: Settings of each condition; 40 steps are an epoch of a choice, 200 one without.
CONDITIONS = {
    "IID": {"filter_ratio": 0.0, "epochs": 3, "warmup_epochs": 0.2},
    "IID, as few examples": {"filter_ratio": 0.0, "made_pictures": 15_360, "epochs": 1, "warmup_epochs": 0.2},
    "H-ACID": CHOICE | {"score": "learnability"},
    "I-ACID": CHOICE | {"score": "easy-reference"},
    "ACED": CHOICE | {"score": "learnability", "distill": 2.0},
    "softmax distillation": {"filter_ratio": 0.0, "epochs": 3, "warmup_epochs": 0.2, "distill": 2.0},
    "hard learner": CHOICE | {"score": "hard-learner"},
}
BASE = "IID"


def longer(settings: dict, times: int) -> dict[str, int]:
    """Settings of so many times the steps; where a pair is seen once, of so many times the pairs."""
    if settings["epochs"] == 1:
        return {"made_pictures": times * settings["made_pictures"]}
    return {"epochs": times * settings["epochs"]}


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def measured(run: Path, condition: str, seed: int) -> list[dict[str, float | str]]:
    """A row for every time that a run was judged."""
    settings = json.loads((run / "config.json").read_text())["config"]
    once = json.loads(run.with_name(f"{run.name}.json").read_text())["gflop"]
    found, steps = [], [line for line in lines(run) if line["stage"] == "acid"]
    for line in lines(run):
        if line["stage"] == "epoch":
            done = line["position"] + 1
            chosen = [each["clean"] for each in steps if each["step"] < done]
            found.append(
                {
                    "condition": condition,
                    "seed": seed,
                    "step": done,
                    "examples": done * settings["batch"],
                    "tflop": (once + done * steps[0]["gflop"]) / 1e3,
                    "clean": float(np.mean(chosen)) if chosen else float("nan"),
                    **{name: line[name] for name in ("accuracy", "number", "colour", "texture", "shape")},
                }
            )
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    return float(np.mean(values)), float(
        student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    )


def reached(curve: list[dict], accuracy: float, axis: str) -> float:
    """Where a curve first has an accuracy, between two judgements in proportion; infinite if it never has."""
    for one, two in itertools.pairwise(curve):
        if two["accuracy"] >= accuracy:
            share = (accuracy - one["accuracy"]) / (two["accuracy"] - one["accuracy"])
            return one[axis] + max(0.0, share) * (two[axis] - one[axis])
    return float("inf")


def draw(rows: list[dict], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, axis, label in zip(
        figure.subplots(1, 2, sharey=True),
        ("examples", "tflop"),
        ("training examples (thousand)", "operations, scoring included (Tflop)"),
        strict=True,
    ):
        for number, condition in enumerate(dict.fromkeys(row["condition"] for row in rows)):
            own = [row for row in rows if row["condition"] == condition]
            seeds = sorted({row["seed"] for row in own})
            curves = np.array([[row["accuracy"] for row in own if row["seed"] == seed] for seed in seeds])
            at = np.array([row[axis] for row in own if row["seed"] == seeds[0]]) / (1e3 if axis == "examples" else 1)
            half = [interval(list(each))[1] for each in curves.T]
            axes.errorbar(at, curves.mean(0), half, label=condition, color=f"C{number}", capsize=2, linewidth=1.5)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("accuracy, mean of four attributes")
    figure.axes[1].legend(frameon=False, fontsize=9)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--condition", action="append", choices=CONDITIONS, help="all without")
    parser.add_argument("--gain", type=float, default=100.0)
    parser.add_argument("--longer", type=int, default=1, help="times the passes over the pairs")
    parser.add_argument("--most", type=int, default=1_000_000, help="runs to train, at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    conditions, left = options.condition or list(CONDITIONS), options.most
    runs = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for condition in conditions:
            run = options.out / f"{condition.replace(' ', '-').replace(',', '')}-{seed}"
            runs[condition, seed] = run
            if (run / "weights.safetensors").exists():
                continue
            if not left:
                return
            left -= 1
            config = ACIDConfig(
                **COMMON | CONDITIONS[condition] | longer(CONDITIONS[condition], options.longer),
                reference=str(options.out / "reference"),
                gain=options.gain,
                seed=seed,
            )
            learner, begun = build(config, torch.device("cpu")), (run / "state.safetensors").exists()
            with replacing(options.out / f"{run.name}.json") as temporary:
                temporary.write_text(json.dumps({"gflop": learner.once_flops / 1e9}))
            train_method("acid", config, run, learner=learner, resume=begun, progress=False)
    rows = [row for (condition, seed), run in runs.items() for row in measured(run, condition, seed)]
    with replacing(options.out / "acid_made.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, options.out / "acid_made.png")

    reference = [line for line in lines(options.out / "reference") if line["stage"] == "epoch"]
    print(f"reference: accuracy {reference[-1]['accuracy']:.3f}")
    curves = {key: measured(run, *key) for key, run in runs.items()}
    seeds = sorted({seed for _, seed in runs})
    for condition in conditions:
        print(condition)
        for name in ("accuracy", "number", "colour", "texture", "shape", "clean", "examples", "tflop"):
            mean, half = interval([curves[condition, seed][-1][name] for seed in seeds])
            print(f"  {name:10} {mean:9.3f} +- {half:.3f}")
        if BASE in conditions and condition != BASE:
            for axis in ("examples", "tflop"):
                shares = [
                    curves[BASE, seed][-1][axis]
                    / reached(curves[condition, seed], curves[BASE, seed][-1]["accuracy"], axis)
                    for seed in seeds
                ]
                mean, half = interval(shares)
                print(f"  {axis} of {BASE} for its accuracy: {mean:.2f} x +- {half:.2f} of those here ({shares})")


if __name__ == "__main__":
    main()
