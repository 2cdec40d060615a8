"""LIxP against its base loss on the made corpus: zero-shot and few-shot accuracy over seeds of training.

    python benchmarks/lixp_made.py --out DIR --seeds 3 \
        --condition base alpha=1 --condition lixp alpha=0.9

Every condition is the toy preset of ``lcl train-method lixp`` with some settings changed; alpha=1 is SigLIP to the bit.
Runs of one seed share initial weights, pictures and their order. Judged on pictures that no run is trained on: classes
are the values of an attribute (number, colour, texture, shape), or colours and shapes together (48). Adapters see the
same labelled pictures in all conditions. Training goes on where it was stopped; what is finished is not done again.

Writes DIR/lixp_made.csv (a row for each run, classes, adapter and shots: mean over draws), DIR/differences.csv (from
the first condition, paired by seed, Student's t over seeds) and DIR/lixp_made.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from method_toys import configuration

from lcl.recognition_evaluate import seed_interval
from neural_fits.figures import COLOURS
from stimuli.drawing import GREY, WIDTH_IN, png, styled
from stimuli.files import replacing
from vision_methods.captions import of_made
from vision_methods.few_shot import ADAPTERS, SHOTS, few_shot_rows
from vision_methods.image_text_run import ImageTextModel, load_towers
from vision_methods.image_text_scores import class_vectors, embed_pictures
from vision_methods.made_captions import ATTRIBUTES, JUDGED, made_caption, made_captions, made_prompts
from vision_methods.train import train_method

#: Pictures that labelled ones are drawn from, and that are judged.
N_LABELLED, N_HELD = 4000, 2000
#: Classes of colour and shape together, and the shots that they have pictures for.
BOTH, SHOTS_OF_BOTH = "colour and shape", (1, 2, 4, 8)
PROMPTS = 16
#: Means over adapters, and over attributes.
ATTRIBUTES_MEAN = "mean of attributes"
ALONE, WITH_TEXTS = "mean of pictures alone", "mean with texts"


def prompts_of_both() -> dict[str, list[str]]:
    """Captions of every colour and shape; number and texture are drawn, as many times for each."""
    rng = np.random.default_rng(0)
    others = [
        {name: int(rng.integers(len(ATTRIBUTES[name]))) for name in ("number", "texture")} for _ in range(PROMPTS)
    ]
    return {
        f"{colour} {shape}": [
            made_caption({**other, "colour": c, "shape": s}, np.random.default_rng(number))
            for number, other in enumerate(others)
        ]
        for c, colour in enumerate(ATTRIBUTES["colour"])
        for s, shape in enumerate(ATTRIBUTES["shape"])
    }


def tasks() -> dict[str, tuple[list[np.ndarray], dict[str, list[str]], Sequence[int]]]:
    """Labels of both parts, prompts and shots, by the name of the classes."""
    truths = [made_captions(n, seed=2**42 + i, noise=0.0).truth.attributes for i, n in enumerate((N_LABELLED, N_HELD))]
    found: dict[str, tuple[list[np.ndarray], dict[str, list[str]], Sequence[int]]] = {
        name: ([truth[name] for truth in truths], made_prompts(name, count=PROMPTS), SHOTS) for name in JUDGED
    }
    pairs = [truth["colour"] * len(ATTRIBUTES["shape"]) + truth["shape"] for truth in truths]
    return {**found, BOTH: (pairs, prompts_of_both(), SHOTS_OF_BOTH)}


def judged(model: ImageTextModel, draws: int) -> list[dict[str, Any]]:
    """Accuracy by classes, adapter and shots: mean over draws of the labelled pictures."""
    stores = [of_made(made_captions(n, seed=2**42 + i, noise=0.0)).store for i, n in enumerate((N_LABELLED, N_HELD))]
    features = [
        embed_pictures(model.towers, store, np.arange(len(store)), size_px=model.config.size_px).numpy()
        for store in stores
    ]
    found = []
    for name, (labels, prompts, shots) in tasks().items():
        rows = few_shot_rows(
            features[0],
            labels[0],
            features[1],
            labels[1],
            shots=shots,
            seeds=range(draws),
            texts=class_vectors(model.encode_words, prompts).numpy(),
            scale=float(model.towers.scale.detach()),
        )
        for adapter, count in dict.fromkeys((row["adapter"], row["shots"]) for row in rows):
            values = [row["accuracy"] for row in rows if (row["adapter"], row["shots"]) == (adapter, count)]
            found.append({"classes": name, "adapter": adapter, "shots": count, "accuracy": float(np.mean(values))})
    return found


def one_run(condition: str, changes: list[str], common: Mapping[str, Any], run: Path, draws: int) -> dict[str, Any]:
    """Accuracies of a run and what its training ended with; it is trained where it is not yet."""
    file = run / "few_shot.json"
    if not file.exists():
        if not (run / "weights.safetensors").exists():
            start, going = time.process_time(), (run / "state.safetensors").exists()
            config = configuration("lixp", changes, **common)
            train_method("lixp", config, run, resume=going, progress=False, say=lambda line: None)
            if not going:
                (run / "cpu.json").write_text(json.dumps(time.process_time() - start))
        start = time.process_time()
        rows = judged(load_towers(run), draws)
        seconds = json.loads((run / "cpu.json").read_text()) if (run / "cpu.json").exists() else float("nan")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        last = next(line for line in reversed(lines) if line["stage"] == "lixp")
        ends = {name: last[name] for name in ("loss", "scale", "context_scale", "context_temperature") if name in last}
        record = {"rows": rows, "ends": ends, "training_cpu_s": seconds, "judging_cpu_s": time.process_time() - start}
        with replacing(file) as partial:
            partial.write_text(json.dumps(record))
    record = json.loads(file.read_text())
    zero = np.mean([row["accuracy"] for row in record["rows"] if row["adapter"] == "zero-shot"])
    few = np.mean([row["accuracy"] for row in record["rows"] if row["shots"] == 8])
    print(f"{condition} {run.name}: zero-shot {zero:.3f}, 8 shots {few:.3f}", record["ends"], flush=True)
    return record


def differences(rows: Sequence[Mapping[str, Any]], conditions: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy of conditions less that of the first, paired by seed: of all classes, and their mean over attributes."""
    of: dict[tuple[Any, ...], dict[tuple[str, int], list[float]]] = {}
    for row in rows:
        adapters, groups = [row["adapter"]], [row["classes"]]
        if row["adapter"] in ADAPTERS:
            adapters.append(WITH_TEXTS if ADAPTERS[row["adapter"]].needs_texts else ALONE)
        if row["classes"] in JUDGED:
            groups.append(ATTRIBUTES_MEAN)
        for key in ((group, adapter, row["shots"]) for group in groups for adapter in adapters):
            of.setdefault(key, {}).setdefault((row["condition"], row["seed"]), []).append(row["accuracy"])
    found = []
    for (group, adapter, shots), values in of.items():
        seeds = sorted({seed for _, seed in values})
        means = {name: np.array([np.mean(values[name, seed]) for seed in seeds]) for name in conditions}
        for name in conditions:
            low, high = seed_interval(means[name])
            gain = means[name] - means[conditions[0]]
            gain_low, gain_high = seed_interval(gain)
            row = {"classes": group, "adapter": adapter, "shots": shots, "condition": name, "seeds": len(seeds)}
            row |= {"accuracy": float(means[name].mean()), "low": low, "high": high}
            found.append({**row, "gain": float(gain.mean()), "gain_low": gain_low, "gain_high": gain_high})
    return found


@styled
def gains(table: Sequence[Mapping[str, Any]], conditions: Sequence[str]) -> Figure:
    """Gains over the first condition by shots: a row for each kind of classes, a column for means over adapters."""
    groups, columns = [*JUDGED, BOTH], ["prototypes", ALONE, WITH_TEXTS]
    figure = Figure((WIDTH_IN, 8.6), layout="constrained")
    panels = figure.subplots(len(groups), len(columns), sharey=True)
    shown = [name for name in conditions if name != conditions[0]]
    zero_shot = {(row["classes"], row["condition"]): row for row in table if row["adapter"] == "zero-shot"}
    for line, group in zip(panels, groups, strict=True):
        for axes, adapter in zip(line, columns, strict=True):
            for i, name in enumerate(shown):
                key = group, name, adapter
                few = [row for row in table if (row["classes"], row["condition"], row["adapter"]) == key]
                colour, shift = COLOURS[i % len(COLOURS)], 1.08 ** (i - (len(shown) - 1) / 2)
                x = [row["shots"] * shift for row in few]
                axes.plot(x, [row["gain"] for row in few], "o-", color=colour, markersize=3.5, linewidth=1.2)
                for at, row in zip([*x, 0.5 * shift], [*few, zero_shot[group, name]], strict=True):
                    axes.plot([at, at], [row["gain_low"], row["gain_high"]], color=colour, linewidth=1.1)
                zero = zero_shot[group, name]["gain"]
                axes.plot(0.5 * shift, zero, "s", color=colour, markerfacecolor="white", markersize=4)
            axes.axhline(0, color=GREY, linewidth=0.8)
            axes.set_xscale("log", base=2)
            ticks = SHOTS_OF_BOTH if group == BOTH else SHOTS
            axes.set_xticks([0.5, *ticks], ["texts", *map(str, ticks)])
            axes.minorticks_off()
            zero = zero_shot[group, conditions[0]]["accuracy"]
            axes.set_title(f"{group} ({conditions[0]}: {zero:.2f} by texts)\n{adapter}")
    figure.supylabel(f"accuracy less that of {conditions[0]}", fontsize=9)
    figure.supxlabel("labelled pictures of each class (shots)", fontsize=9)
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker="o", markersize=3.5, label=name)
        for i, name in enumerate(shown)
    ]
    handles.append(Line2D([], [], color="black", marker="s", markerfacecolor="white", linestyle="", label="zero-shot"))
    bars = f"bars: 95 % interval (Student's t) over {table[0]['seeds']} seeds of training, paired"
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), title=bars, title_fontsize=8)
    return figure


def write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {name: round(each, 5) if isinstance(each, float) else each for name, each in row.items()} for row in rows
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=3, help="of labelled pictures")
    parser.add_argument("--condition", nargs="+", action="append", required=True, metavar="NAME KEY=VALUE")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for seed in range(arguments.seeds):
        for condition, *changes in arguments.condition:
            common = {"seed": seed, "device": "cpu", "judge_every": 0}
            record = one_run(condition, changes, common, arguments.out / condition / f"seed{seed}", arguments.draws)
            of = {"condition": condition, "seed": seed}
            rows += [{**of, **row, **record["ends"]} for row in record["rows"]]
    conditions = [condition for condition, *_ in arguments.condition]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write([{name: row.get(name, "") for name in columns} for row in rows], arguments.out / "lixp_made.csv")
    table = differences(rows, conditions)
    write(table, arguments.out / "differences.csv")
    if len(conditions) > 1:
        with replacing(arguments.out / "lixp_made.png") as partial:
            partial.write_bytes(png(gains(table, conditions)))
    for row in table:
        if row["shots"] in (0, 1, 8, 32) and row["condition"] != conditions[0]:
            interval = f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
            print(f"{row['classes']:>18} {row['adapter']:>22} {row['shots']:>2} {row['condition']:>10} "
                  f"{row['accuracy']:.3f}  {interval}")  # fmt: skip


if __name__ == "__main__":
    main()
