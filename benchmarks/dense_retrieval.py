"""Search for the 30 most similar of many remembered patches: ours, faiss, and ScaNN as open-hummingbird-eval has it.

Keys and queries are unit vectors of 384 numbers (a ViT-S's) with clusters of many sizes in 32 dimensions and a little
noise in all. Each side runs in a process of its own with the same data and threads, one after the other; its memory is
the most that it held beyond the interpreter, its libraries and the queries: keys, index and what is made on the way.
Recall is the share of the 30 neighbours that numpy finds by sorting all products (of the first 64 queries).

open-hummingbird-eval searches with ScaNN on a CPU (its faiss needs a GPU); its documented steps are repeated here: a
tree of 512 leaves trained on all keys, 32 of them searched, asymmetric hashing with the anisotropic threshold 0.2,
120 candidates re-ordered, one batch of queries for each call. It asks for 2 dimensions per block by position and for 4
by name; ScaNN's builder takes the position. ScaNN needs its own environment: --scann-python names its interpreter.

    python benchmarks/dense_retrieval.py [--threads N] [--entries 100000] [--queries 2048] [--rounds 3] \
        [--scann-python ENVIRONMENT/bin/python]
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

WIDTH, INTRINSIC, CLUSTERS, NEIGHBOURS, CHECKED, BATCH = 384, 32, 2000, 30, 64, 1024


def made(number, rng, centres, basis):
    """Unit vectors, float32."""
    own = centres[rng.integers(0, len(centres), number)] + 0.5 * rng.standard_normal((number, INTRINSIC))
    rows = (own @ basis + 0.05 * rng.standard_normal((number, WIDTH))).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_data(folder, entries, queries):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, INTRINSIC)) * rng.gamma(2, 0.5, (CLUSTERS, 1))
    basis = rng.standard_normal((INTRINSIC, WIDTH)) / INTRINSIC**0.5
    with (folder / "keys.f32").open("wb") as file:
        for start in range(0, entries, 50_000):
            made(min(50_000, entries - start), rng, centres, basis).tofile(file)
    asked = made(queries, rng, centres, basis)
    asked.tofile(folder / "queries.f32")
    best = np.full((min(CHECKED, queries), 0), -np.inf), np.zeros((min(CHECKED, queries), 0), int)
    for start, block in blocks(folder):
        products = asked[:CHECKED] @ block.T
        both = np.concatenate([best[0], products], 1)
        at = np.concatenate([best[1], np.broadcast_to(np.arange(start, start + len(block)), products.shape)], 1)
        order = np.argsort(-both, 1, kind="stable")[:, :NEIGHBOURS]
        best = np.take_along_axis(both, order, 1), np.take_along_axis(at, order, 1)
    return best[1]


def blocks(folder, rows=32_768):
    """Keys, some at a time, so that none are held but by the side that is measured."""
    with (folder / "keys.f32").open("rb") as file:
        start = 0
        while (block := np.fromfile(file, np.float32, rows * WIDTH)).size:
            block = block.reshape(-1, WIDTH)
            yield start, block
            start += len(block)


def megabytes(field):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def ours(folder, entries, dtype):
    import torch

    from vision_methods.cosine_search import exact

    yield
    keys = torch.empty(entries, WIDTH, dtype=dtype)
    for start, block in blocks(folder):
        keys[start : start + len(block)] = torch.from_numpy(block)
    search = exact(keys)
    yield lambda queries: search(torch.from_numpy(queries), NEIGHBOURS)[1].numpy()


def ours_half(folder, entries):
    import torch

    yield from ours(folder, entries, torch.float16)


def ours_single(folder, entries):
    import torch

    yield from ours(folder, entries, torch.float32)


def faiss_flat(folder, entries):
    import faiss

    yield
    index = faiss.IndexFlatIP(WIDTH)
    for _, block in blocks(folder):
        index.add(block)
    yield lambda queries: index.search(queries, NEIGHBOURS)[1]


def faiss_ivf(folder, entries):
    import torch

    from vision_methods.cosine_search import faiss_ivf as build

    yield
    keys = torch.empty(entries, WIDTH)
    for start, block in blocks(folder):
        keys[start : start + len(block)] = torch.from_numpy(block)
    search = build(keys)
    yield lambda queries: search(torch.from_numpy(queries), NEIGHBOURS)[1].numpy()


def scann(folder, entries):
    import scann as package

    yield
    keys = np.concatenate([block for _, block in blocks(folder)])
    builder = package.scann_ops_pybind.builder(keys, NEIGHBOURS, "dot_product")
    builder = builder.tree(num_leaves=512, num_leaves_to_search=32, training_sample_size=entries)
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2, dimensions_per_block=4)
    index = builder.reorder(120).build()
    yield lambda queries: index.search_batched(queries)[0]


SIDES = {
    "ours, float16": ours_half,
    "ours, float32": ours_single,
    "faiss flat": faiss_flat,
    "faiss IVF": faiss_ivf,
    "ScaNN, as open-hummingbird-eval": scann,
}


def work(name, folder, entries, rounds):
    """One side: seconds to build and to search, most memory, and what was found."""
    queries = np.fromfile(folder / "queries.f32", np.float32).reshape(-1, WIDTH)
    steps = SIDES[name](folder, entries)
    next(steps)
    before = megabytes("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    start = time.perf_counter()
    search = next(steps)
    built = time.perf_counter() - start
    times, found = [], None
    for _ in range(rounds):
        start, spent = time.perf_counter(), time.process_time()
        found = np.concatenate([search(queries[at : at + BATCH]) for at in range(0, len(queries), BATCH)])
        times.append((time.perf_counter() - start, time.process_time() - spent))
    np.save(folder / "found.npy", found[:CHECKED].astype(np.int64))
    wall, cpu = (statistics.median(each) for each in zip(*times, strict=True))
    print(json.dumps({"built": built, "wall": wall, "cpu": cpu, "peak_mb": megabytes("VmHWM") - before}))


def main():
    from side_by_side import arguments, header

    args = arguments(
        __doc__,
        entries={"type": int, "default": 100_000},
        queries={"type": int, "default": 2048},
        **{"scann-python": {"default": "", "help": "interpreter that has ScaNN"}},
    )
    header(["numpy", "torch", "faiss-cpu"], args.threads)
    environment = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
    environment = os.environ | environment
    print(f"{args.entries:,} entries of {WIDTH}, {args.queries} queries in batches of {BATCH}, {NEIGHBOURS} neighbours")
    print(f"{'':32s} {'queries/s':>10s} {'per CPU s':>10s} {'recall':>7s} {'peak memory':>12s} {'build':>9s}")
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)
        right = write_data(folder, args.entries, args.queries)
        for name in SIDES:
            python = args.scann_python if name.startswith("ScaNN") else sys.executable
            if not python:
                print(f"{name:32s} left out: give --scann-python")
                continue
            command = [python, __file__, "--work", name, path, str(args.entries), str(args.rounds)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr}")
            result = json.loads(done.stdout.splitlines()[-1])
            found = np.load(folder / "found.npy")
            recall = np.mean([np.isin(a, b).mean() for a, b in zip(right, found, strict=True)])
            speeds = (args.queries / result[clock] for clock in ("wall", "cpu"))
            print(
                f"{name:32s} {' '.join(f'{speed:10.1f}' for speed in speeds)} {recall:7.3f} "
                f"{result['peak_mb']:9.0f} MB {result['built']:7.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], pathlib.Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
