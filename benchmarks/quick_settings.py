"""The experiment behind the settings of the `quick` preset: one factor at a time, three seeds.

Every row changes one setting of `quick`. Settings that concern V1 train V1 alone; those that concern V2 train both.
For V1 the table says which fraction of the filters a Gabor function fits (r^2 >= 0.5) and are tuned for orientation,
their median spatial frequency, and the effective number of features that two views share on held-out photographs; for
V2 the last of these, and the number of constant features. Rows that are in the results file already are not run again.

    python benchmarks/quick_settings.py [--rows WORD] [--seeds 3] [--results benchmarks/results/quick_settings.jsonl]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lcl.analysis import analyse
from lcl.checkpoint import provenance
from lcl.config import Config
from lcl.train import build, open_store, train

QUICK = Config()


def change(**settings: object) -> Config:
    deformation = {key: settings.pop(key) for key in list(settings) if hasattr(QUICK.deformation, key)}
    changed = dataclasses.replace(QUICK.deformation, **deformation)
    return dataclasses.replace(QUICK, deformation=changed, **settings)


V1 = {
    "quick": {},
    "readout average, patches 29 px": {"readout": ("average",), "patch_ratio": 1.5},
    "readout dense, patches 29 px": {"readout": ("dense",), "patch_ratio": 1.5},
    "balance 0.63": {"balance": (0.63, 42.0)},
    "balance 12": {"balance": (12.0, 42.0)},
    "balance 42": {"balance": (42.0, 42.0)},
    "translation 0.05, dilation 0.03": {"translation": 0.05, "dilation": 0.03},
    "translation 0.3, dilation 0.2": {"translation": 0.3, "dilation": 0.2},
    "luminance 0.1, colour 0": {"luminance": 0.1, "colour": 0.0},
    "noise 0.05": {"noise": 0.05},
    "pool blur": {"pools": ("blur",)},
    "learning rate 0.001": {"learning_rate": (1e-3,)},
    "weight decay 0.1": {"weight_decay": (0.1,)},
    "gains at the filters' rate": {"gain_rate": 1.0},
    "grey": {"in_channels": 1},
}
V2 = {
    "V2 quick (balance 42)": {},
    "V2 balance 3": {"balance": (3.0, 3.0)},
    "V2 balance 3, learning rate 0.01": {"balance": (3.0, 3.0), "learning_rate": (1e-2, 1e-2)},
    "V2 balance 3, learning rate 0.001": {"balance": (3.0, 3.0), "learning_rate": (1e-2, 1e-3)},
}


def run(row: str, seed: int) -> dict[str, object]:
    both = row in V2
    config = dataclasses.replace(change(**(V2[row] if both else V1[row])), seed=seed)
    if not both:  # a stage-2 that is never trained costs nothing and keeps the geometry
        config = dataclasses.replace(config, steps=(config.steps[0], 0))
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(config, build(config))
        started = time.perf_counter()
        model = train(config, Path(folder) / "run", store=store, progress=False, say=lambda line: None)
        seconds = time.perf_counter() - started
    stages = analyse(config, model, store, torch.device("cpu"))[0]["stages"]
    numbers = stages["V2" if both else "V1"]
    kept = {k: v for k, v in numbers.items() if k.startswith(("gabor", "held_out", "preferred", "constant"))}
    return {"row": row, "seed": seed, "seconds": round(seconds, 1), **kept}


def table(results: list[dict]) -> str:
    lines = [
        "| setting | Gabor and tuned | at init | cycles/deg | shared dimension | at init | constant | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in [*V1, *V2]:
        found = [result for result in results if result["row"] == row]
        if not found:
            continue

        def cell(key: str, form: str, found: list[dict] = found) -> str:
            values = [result[key] for result in found if key in result]
            if not values:
                return ""
            low, middle, high = np.min(values), np.mean(values), np.max(values)
            return f"{middle:{form}} ({low:{form}} to {high:{form}})"

        columns = (
            ("gabor_fraction", ".2f"),
            ("gabor_fraction_at_init", ".2f"),
            ("preferred_frequency_median_cpd", ".1f"),
            ("held_out_shared_dimension", ".1f"),
            ("held_out_shared_dimension_at_init", ".1f"),
            ("constant_features", ".0f"),
            ("seconds", ".0f"),
        )
        lines.append(f"| {row} | " + " | ".join(cell(*column) for column in columns) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="only rows whose name holds this word")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "quick_settings.jsonl")
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(exist_ok=True)
    arguments.results.touch()

    def read() -> list[dict]:
        return [json.loads(line) for line in arguments.results.read_text().splitlines()]

    for seed in range(arguments.seeds):
        for row in [*V1, *V2]:
            if arguments.rows in row and (row, seed) not in {(r["row"], r["seed"]) for r in read()}:
                result = run(row, seed)
                with arguments.results.open("a") as file:
                    print(json.dumps({**result, "date": time.strftime("%Y-%m-%d"), **provenance()}), file=file)
                print(f"{row}, seed {seed}: {result.get('gabor_fraction', '')} {result['seconds']} s", flush=True)
    text = "Mean (lowest to highest) over seeds.\n\n" + table(read()) + "\n"
    arguments.results.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
