"""One training step of a stage: ours against the ways it is usually done, in turn in one run.

Peers, on the same views and model: the same layer-local step in float32 with contiguous memory; and both stages
trained end to end in float32 (the loss of stage 2 through stage 1, on stage-2 patches). Prints medians and ratios.

    python benchmarks/train_step.py [--threads 2] [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from lcl.checkpoint import provenance
from lcl.config import Config
from lcl.objective import READOUTS, barlow_twins
from lcl.train import Stream, build, geometry, local_loss, open_store


def layer_local(name: str, pairs: torch.Tensor, *, fast: bool) -> Callable[[], None]:
    model = build(Config())
    if fast:
        model.to(memory_format=torch.channels_last)
    model.eval()
    model[name].train()
    optimiser = torch.optim.AdamW(model[name].parameters(), 1e-3)

    def step() -> None:
        autocast = torch.autocast("cpu", torch.bfloat16) if fast else nullcontext()
        loss = local_loss(model, name, pairs, readout="centre", weight=0.05, autocast=autocast)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()

    return step


def end_to_end(pairs: torch.Tensor) -> Callable[[], None]:
    model = build(Config()).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)

    def step() -> None:
        maps = model.stage_input(pairs.flatten(0, 1), "V1")
        first = model["V1"](maps, valid=True)
        second = model["V2"](first, valid=True)
        loss = torch.zeros(())
        for maps in (first, second):
            a, b = (READOUTS["centre"](maps.unflatten(0, (-1, 2))[:, i]) for i in (0, 1))
            loss = loss + barlow_twins(a, b, weight=0.05).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = Config()
    model = build(config)
    store = open_store(config, model)
    pairs = {}
    for number, name in enumerate(model.names):
        stream = Stream(
            store,
            geometry(model, config, name),
            config.deformation,
            batch=256,
            seeds=(0, number),
            device=torch.device("cpu"),
        )
        pairs[name] = stream(0)
    ways = {
        "V1 layer-local, ours (bf16, channels_last)": layer_local("V1", pairs["V1"], fast=True),
        "V1 layer-local, float32": layer_local("V1", pairs["V1"], fast=False),
        "V2 layer-local, ours (bf16, channels_last)": layer_local("V2", pairs["V2"], fast=True),
        "V2 layer-local, float32": layer_local("V2", pairs["V2"], fast=False),
        "V1 and V2 end to end, float32": end_to_end(pairs["V2"]),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for round_number in range(arguments.rounds + 2):
        for way, step in ways.items():
            start = time.perf_counter()
            step()
            if round_number >= 2:
                seconds[way].append(time.perf_counter() - start)
    facts = provenance()
    print(
        f"{time.strftime('%Y-%m-%d')}, {facts['machine']['processor']}, {arguments.threads} threads, "
        f"torch {torch.__version__}, commit {(facts['git'] or {}).get('commit', 'none')}, batch 256 pairs"
    )
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    for way, median in medians.items():
        print(f"{way:<45} {median * 1e3:8.1f} ms")
    ours = medians["V1 layer-local, ours (bf16, channels_last)"], medians["V2 layer-local, ours (bf16, channels_last)"]
    print(f"V1: float32 / ours          {medians['V1 layer-local, float32'] / ours[0]:.1f}")
    print(f"V2: float32 / ours          {medians['V2 layer-local, float32'] / ours[1]:.1f}")
    print(f"end to end / ours (V1 + V2) {medians['V1 and V2 end to end, float32'] / sum(ours):.1f}")


if __name__ == "__main__":
    main()
