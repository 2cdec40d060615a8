"""Pooling in masks and DetCon's loss, forward and backward: ours, lightly's, and a loop over queries.

The task "whole" pools two views' response maps (B pictures, 2048 channels, 7 x 7) in 16 sampled masks each, maps the
means to 256 features by a fixed matrix, and takes the loss and its gradient on the maps; the task "loss" is the loss
and its gradient on the features. Every side is a process of its own that holds the same input; they run in turn, and
must agree in the loss and the gradient. Memory is the highest of a run above what the process held before it, the
gradient of the maps included (0.2 GiB at B = 256).

- ours: :mod:`vision_methods.region_contrast`.
- lightly: `pool_masked`, then its DetConSLoss or DetConBLoss.
- loop: the equation, one query after the other, as one writes it down first. It runs in the first rounds only.

lightly asks for torchvision, which has no build beside every torch; this needs neither. In an environment of its own,
with any torch (here that of ours, through a .pth file)::

    pip install --no-deps lightly
    PYTHONPATH=. python benchmarks/region_contrast.py --lightly-python ENV/bin/python [--form s|b] [--batch 256]

Where torchvision cannot be imported, lightly's two modules are read without the rest of it, and the one name that they
import from torchvision, and never call here, is an empty class.
"""

import ctypes
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import types

import numpy as np
import torch

SAMPLES, NAMES, CELLS, CHANNELS, FEATURES, TEMPERATURE = 16, 16, 7, 2048, 256, 0.1


def inputs(batch):
    """Maps, grids of ids and sampled ids of two views, and the matrices of queries and keys."""
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((batch, CHANNELS, CELLS, CELLS), dtype=np.float32) for _ in range(2)]
    place = np.stack(np.meshgrid(range(CELLS), range(CELLS), indexing="ij"), -1).reshape(-1, 1, 2)
    grids, ids = [], []
    for _ in range(2):
        # Regions of the nearest of random points: up to 16 masks in a picture.
        points = rng.uniform(0, CELLS - 1, (batch, 1, NAMES, 2))
        grid = np.square(place - points).sum(-1).argmin(-1)
        grids.append(grid.reshape(batch, CELLS, CELLS))
        ids.append(np.stack([rng.choice(np.unique(each), SAMPLES) for each in grid]))
    matrices = rng.standard_normal((2, CHANNELS, FEATURES), dtype=np.float32) / CHANNELS**0.5
    return [torch.from_numpy(np.stack(each)) for each in (maps, grids, ids, matrices)]


def ours():
    from vision_methods.region_contrast import pool_regions, region_contrast

    return pool_regions, lambda queries, keys, ids: region_contrast(*queries, *keys, *ids, temperature=TEMPERATURE)


def lightly():
    if importlib.util.find_spec("torchvision") is None:
        spec = importlib.util.find_spec("lightly")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("lightly is not installed for this Python; pip install --no-deps lightly")
        root = pathlib.Path(spec.origin).parent
        for name in ("lightly", "lightly.loss", "lightly.models"):
            bare = types.ModuleType(name)
            bare.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = bare
        sys.modules["torchvision"] = types.ModuleType("torchvision")
        operations = types.ModuleType("torchvision.ops")
        operations.StochasticDepth = type("StochasticDepth", (torch.nn.Module,), {})  # pyright: ignore[reportAttributeAccessIssue]
        sys.modules["torchvision.ops"] = operations
    from lightly.loss.detcon_loss import (  # pyright: ignore[reportMissingImports]
        DetConBLoss,
        DetConSLoss,
    )
    from lightly.models.utils import pool_masked  # pyright: ignore[reportMissingImports]

    def pool(maps, grid, ids):
        pooled = pool_masked(maps, grid, num_cls=NAMES).transpose(1, 2)
        return pooled.gather(1, ids[..., None].expand(-1, -1, CHANNELS))

    def loss(queries, keys, ids):
        if keys is queries:
            return DetConSLoss(TEMPERATURE)(*queries, *ids)
        return DetConBLoss(TEMPERATURE)(*queries, *keys, *ids)

    return pool, loss


def loop():
    def pool(maps, grid, ids):
        return torch.stack(
            [
                torch.stack([picture[:, cells == name].mean(1) for name in names])
                for picture, cells, names in zip(maps, grid, ids, strict=True)
            ]
        )

    def loss(queries, keys, ids):
        queries, keys = ([torch.nn.functional.normalize(each, dim=2) for each in pair] for pair in (queries, keys))
        batch = len(queries[0])
        total = queries[0].new_zeros(())
        for own, other in ((0, 1), (1, 0)):
            theirs, same = keys[other].flatten(0, 1), keys[own].flatten(0, 1)
            for b in range(batch):
                place = slice(b * SAMPLES, (b + 1) * SAMPLES)
                for s in range(SAMPLES):
                    positive = ids[other][b] == ids[own][b, s]
                    if not positive.any():
                        continue
                    itself = ids[own][b] == ids[own][b, s]
                    keep = torch.ones(len(same), dtype=torch.bool)
                    keep[place] = ~itself
                    across = theirs @ queries[own][b, s] / TEMPERATURE
                    within = same @ queries[own][b, s] / TEMPERATURE
                    candidates = torch.cat([across, within[keep]])
                    nce = candidates.logsumexp(0) - across[place][positive].mean()
                    total = total + nce / itself.sum()
        return total / (batch * SAMPLES)

    return pool, loss


SIDES = {"ours": ours, "lightly": lightly, "loop": loop}


def memory(field):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{field} is not in /proc/self/status; peaks of memory are read on Linux only.")


def work(side, form, batch, threads):
    """Run the task that each line of the standard input names, and print what it took and gave."""
    torch.set_num_threads(threads)
    c_library = ctypes.CDLL(None)
    pool, loss = SIDES[side]()
    (maps, grids, ids, (to_queries, to_keys)) = inputs(batch)
    views = [each.requires_grad_() for each in maps]

    def whole():
        pooled = [pool(*each) for each in zip(views, grids, ids, strict=True)]
        queries = [each @ to_queries for each in pooled]
        keys = queries if form == "s" else [each.detach() @ to_keys for each in pooled]
        return loss(queries, keys, ids), views

    with torch.no_grad():
        means = [pool(*each) for each in zip(views, grids, ids, strict=True)]
    features = [(each @ to_queries).requires_grad_() for each in means]
    targets = features if form == "s" else [each @ to_keys for each in means]
    del means

    def alone():
        return loss(features, targets, ids), features

    for line in sys.stdin:
        for each in (*views, *features):
            each.grad = None
        c_library.malloc_trim(0)  # memory that earlier runs freed would hide what this one takes
        before = memory("VmRSS")
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts again
        wall, cpu = time.perf_counter(), time.process_time()
        value, leaves = {"whole": whole, "loss": alone}[line.strip()]()
        value.backward()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = memory("VmHWM") - before
        gradient = torch.cat([leaf.grad.flatten()[:: leaf.numel() // 500] for leaf in leaves])
        print(json.dumps([wall, cpu, peak, float(value.detach()), gradient.tolist()]), flush=True)
        del value


def main():
    from side_by_side import arguments, header

    options = arguments(
        __doc__.split("\n")[0],
        **{
            "batch": {"type": int, "default": 256},
            "form": {"choices": ("s", "b"), "default": "s", "help": "keys are the queries, or have no gradient"},
            "lightly-python": {"help": "Python of an environment with lightly; left out without"},
            "loop-rounds": {"type": int, "default": 1, "help": "rounds that the slow loop takes part in"},
        },
    )
    header(["torch", "numpy"], options.threads)
    print(
        f"# B = {options.batch}, S = {SAMPLES}, {CELLS} x {CELLS} cells, {CHANNELS} channels, {FEATURES} features, ",
        end="",
    )
    print(f"DetCon_{options.form.upper()}, median of {options.rounds} rounds in turn (loop: {options.loop_rounds})")
    pythons = {"ours": sys.executable, "lightly": options.lightly_python, "loop": sys.executable}
    environment = os.environ | {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    found = {(task, side): [] for task in ("whole", "loss") for side in SIDES}
    workers = {}
    try:
        for side, python in pythons.items():
            if python is not None:
                command = [python, __file__, "--worker", side, options.form, str(options.batch), str(options.threads)]
                workers[side] = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
                )
        # The first run of each side warms up; the loop, which takes minutes, goes without.
        for number in range(-1, options.rounds):
            for (task, side), results in found.items():
                if side not in workers or (side == "loop" and not 0 <= number < options.loop_rounds):
                    continue
                print(task, file=workers[side].stdin, flush=True)
                answer = workers[side].stdout.readline()
                if not answer:
                    raise RuntimeError(f"{side} ended without an answer; its error is above.")
                if number >= 0:
                    results.append(json.loads(answer))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    for task in ("whole", "loss"):
        expected, base = found[task, "ours"][0], None
        print(f"\n{task}: loss {expected[3]:.6f}")
        for side in workers:
            results = found[task, side]
            if not results:
                continue
            np.testing.assert_allclose(results[0][3], expected[3], rtol=1e-5, err_msg=f"loss of {side}")
            largest = np.abs(expected[4]).max()
            np.testing.assert_allclose(results[0][4], expected[4], atol=1e-4 * largest, err_msg=f"gradient of {side}")
            wall, cpu, peak = (statistics.median(each[i] for each in results) for i in range(3))
            base = base or (wall, cpu, peak)
            print(
                f"  {side:8} {wall:8.2f} s  {cpu:8.2f} s of processors  {peak / 2**30:6.2f} GiB"
                f"   {wall / base[0]:6.1f} x  {cpu / base[1]:6.1f} x  {peak / base[2]:6.1f} x of ours"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:4], *map(int, sys.argv[4:6]))
    else:
        main()
