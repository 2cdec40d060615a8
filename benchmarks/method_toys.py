"""What a comparison method learns in minutes: accuracies of its frozen layers, trained and untrained, over seeds.

    python benchmarks/method_toys.py detcon --images IMAGES --out DIR --seeds 3 \
        --condition B variant=B --condition S variant=S --condition shuffled shuffle_masks=true

Every condition is the method's toy preset with some settings changed. Training goes on where it was stopped, and what
is finished is not done again. The classes of held-out pictures are read from the mean response of every layer, by the
nearest neighbours and by a linear read-out; beside them those of the initial weights of the same seed, with batch-norm
statistics of the training pictures. Writes DIR/toys.csv and prints means with the lowest and highest seed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import time
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch

from lcl.config import parse_value
from lcl.labelled_images import train_and_validation
from stimuli.files import replacing
from vision_methods.config import MethodConfig
from vision_methods.method_run import load_method
from vision_methods.methods import METHODS
from vision_methods.presets import PRESETS
from vision_methods.probes import classify
from vision_methods.train import mean_responses, train_method, with_statistics

CPU = torch.device("cpu")


def configuration(name: str, changes: list[str], **common: Any) -> MethodConfig:
    toy, kinds = PRESETS[name]["toy"](), get_type_hints(METHODS[name].config)
    given: dict[str, Any] = {}
    for change in changes:
        key, _, text = change.partition("=")
        given[key] = text.lower() == "true" if kinds[key] is bool else parse_value(text, kinds[key])
    return dataclasses.replace(toy, **common, **given)


def trained(name: str, config: MethodConfig, run: Path) -> dict[str, float]:
    """First and last numbers of a run's metrics, and the CPU seconds of the process; trains it where it is not yet."""
    if not (run / "weights.safetensors").exists():
        start = time.process_time()
        going = (run / "state.safetensors").exists()
        train_method(name, config, run, resume=going, progress=False, say=lambda line: None)
        if not going:
            (run / "cpu.json").write_text(json.dumps(time.process_time() - start))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["stage"] != "epoch"]
    seconds = json.loads((run / "cpu.json").read_text()) if (run / "cpu.json").exists() else float("nan")
    ends = {f"{key}_{place}": line[key] for place, line in (("first", lines[0]), ("last", lines[-1])) for key in line}
    return {"cpu_s": seconds} | {key: value for key, value in ends.items() if isinstance(value, float)}


def accuracies(backbone: Any, sides: Any, size_px: int) -> dict[str, dict[str, float]]:
    """Accuracy by layer and read-out."""
    (known, labels), (held, answers) = (
        (
            mean_responses(backbone, each, np.arange(len(each)), layers=backbone.layers, size_px=size_px, device=CPU),
            each.labels,
        )
        for each in sides
    )
    return {
        layer: {
            probe: classify(known[layer].numpy(), labels, held[layer].numpy(), answers, probe=probe).accuracy
            for probe in ("neighbours", "linear")
        }
        for layer in backbone.layers
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=list(METHODS))
    parser.add_argument("--images", required=True, help="what is trained on")
    parser.add_argument("--judge", help="labelled pictures, where the images have no labels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--condition", nargs="+", action="append", required=True, metavar="NAME KEY=VALUE")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, sides = [], None
    for seed in range(arguments.seeds):
        for condition, *changes in arguments.condition:
            common = {"images": arguments.images, "seed": seed, "device": "cpu"}
            config = configuration(arguments.method, changes, **common)
            run = arguments.out / condition / f"seed{seed}"
            ends = trained(arguments.method, config, run)
            if not (run / "accuracies.json").exists():
                sides = sides or train_and_validation(
                    arguments.judge or arguments.images, short_side_px=config.short_side_px
                )
                start = METHODS[arguments.method].backbone(config, seed)
                start = with_statistics(start, sides[0], size_px=config.size_px, device=CPU)
                found = {
                    "untrained": accuracies(start, sides, config.size_px),
                    "trained": accuracies(load_method(run)[0], sides, config.size_px),
                }
                (run / "accuracies.json").write_text(json.dumps(found))
            found = json.loads((run / "accuracies.json").read_text())
            for weights, by_layer in found.items():
                for layer, by_probe in by_layer.items():
                    row = {"method": arguments.method, "condition": condition, "seed": seed, "weights": weights}
                    rows.append({**row, "layer": layer, **by_probe, **ends})
            layer = config.layer or next(reversed(found["trained"]))
            print(condition, seed, {w: found[w][layer] for w in found}, ends, flush=True)
    with replacing(arguments.out / "toys.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    for condition, *_ in arguments.condition:
        for weights in ("untrained", "trained"):
            for layer in dict.fromkeys(row["layer"] for row in rows):
                of = [r for r in rows if (r["condition"], r["weights"], r["layer"]) == (condition, weights, layer)]
                shown = []
                for probe in ("neighbours", "linear"):
                    values = [row[probe] for row in of]
                    shown.append(f"{probe} {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
                print(f"{condition:>12} {weights:>9} {layer}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
