"""Joint selection out of a super-batch: ours, and the published algorithm written down directly.

Pairs are random unit vectors: captions near their pictures, nearer for the reference than for the learner. Both sides
see the same embeddings and the same Gumbel noise, and are processes of their own that run in turn. Memory is the
highest of a run above what the process held before it.

- ours: :func:`vision_methods.joint_selection.select_jointly`.
- direct: Algorithm 1 of JEST (sigmoid; matrices of all terms, then masks times them) or Algorithm 3 (softmax; matrices
  of all logits, the normalisers over those chosen made anew for every chunk), with the reference's own diagonal.
- exact (``--exact``): the direct one in double precision, once, to say which choices rounding decides.

::

    PYTHONPATH=. python benchmarks/joint_selection.py [--loss sigmoid|softmax] [--pairs 16384] [--select 3277]
"""

import ctypes
import itertools
import json
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from region_contrast import memory

from vision_methods.joint_selection import Embeddings, chunk_sizes, gumbel_noise, select_jointly

SCALES, BIAS, NEAR = (20.0, 30.0), -10.0, (1.5, 0.75)


def inputs(pairs, features, chunks):
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(pairs, features, generator=generator), dim=1)
    models = []
    for scale, spread in zip(SCALES, NEAR, strict=True):
        noise = torch.randn(pairs, features, generator=generator) / features**0.5
        models.append(Embeddings(images, F.normalize(images + spread * noise, dim=1), scale, BIAS))
    return *models, gumbel_noise((chunks, pairs), generator)


def ours(learner, reference, select, noise, loss, gain):
    return select_jointly(learner, reference, select, noise=noise, loss=loss, gain=gain)


def direct(learner, reference, select, noise, loss, gain, dtype=torch.float32):
    def matrix(pairs):
        return pairs.scale * pairs.images.to(dtype) @ pairs.texts.to(dtype).T + pairs.bias

    def terms(pairs):
        return -F.logsigmoid((2 * torch.eye(len(pairs.images), dtype=dtype) - 1) * matrix(pairs))

    mask, found = torch.zeros(noise.shape[1], dtype=dtype), []
    if loss == "sigmoid":
        scores = terms(learner) - terms(reference)
    else:
        logits = [matrix(learner), matrix(reference)]
    for size, draws in zip(chunk_sizes(select, len(noise)), noise, strict=True):
        if loss == "sigmoid":
            each = scores.diag() + mask @ scores + scores @ mask
        else:
            each = logits[1].diag() - logits[0].diag()
            if found:
                chosen = torch.cat(found)
                norms = [(x[:, chosen].logsumexp(1) + x[chosen].logsumexp(0)) / 2 for x in logits]
                each = each + norms[0] - norms[1]
        index = (gain * each + draws - 1e8 * mask).topk(size).indices
        mask[index] = 1
        found.append(index)
    return torch.cat(found)


SIDES = {"ours": ours, "direct": direct, "exact": lambda *given: direct(*given, dtype=torch.float64)}


def work(side, loss, pairs, select, features, chunks, gain, threads):
    torch.set_num_threads(threads)
    c_library = ctypes.CDLL(None)
    given = inputs(pairs, features, chunks)
    for _ in sys.stdin:
        c_library.malloc_trim(0)  # memory that earlier runs freed would hide what this one takes
        before = memory("VmRSS")
        with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123
            file.write("5")  # the highest resident size starts again
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            found = SIDES[side](*given[:2], select, given[2], loss, gain)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps([wall, cpu, memory("VmHWM") - before, found.tolist()]), flush=True)


def main():
    from side_by_side import arguments, header

    options = arguments(
        __doc__.split("\n")[0],
        loss={"choices": ("sigmoid", "softmax"), "default": "sigmoid"},
        pairs={"type": int, "default": 16384, "help": "of the super-batch"},
        select={"type": int, "default": 3277},
        features={"type": int, "default": 128, "help": "of the embeddings"},
        chunks={"type": int, "default": 16},
        gain={"type": float, "default": 1.0},
        exact={"action": "store_true", "help": "also once in double precision: 8 bytes for every term"},
    )
    header(["torch"], options.threads)
    print(
        f"# {options.loss}, gain {options.gain:g}: {options.select} of {options.pairs} pairs, {options.features} "
        f"features, {options.chunks} chunks; medians of {options.rounds} rounds in turn",
        flush=True,
    )
    environment = os.environ | {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    sizes = (options.pairs, options.select, options.features, options.chunks, options.gain, options.threads)
    sides = [side for side in SIDES if side != "exact" or options.exact]
    found, workers = {side: [] for side in sides}, {}
    try:
        for side in sides:
            command = [sys.executable, __file__, "--worker", side, options.loss, *map(str, sizes)]
            workers[side] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
        for number in range(options.rounds):
            for side, worker in workers.items():
                if side == "exact" and number:
                    continue
                print(file=worker.stdin, flush=True)
                answer = worker.stdout.readline()
                if not answer:
                    raise RuntimeError(f"{side} ended without an answer; its error is above.")
                found[side].append(json.loads(answer))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    base = None
    for side, results in found.items():
        wall, cpu, peak = (statistics.median(each[i] for each in results) for i in range(3))
        base = base or (wall, cpu, peak)
        print(
            f"  {side:7} {wall:8.2f} s  {cpu:8.2f} s of processors  {peak / 2**30:7.3f} GiB"
            f"   {wall / base[0]:6.1f} x  {cpu / base[1]:6.1f} x  {peak / base[2]:6.1f} x of ours"
        )
    bounds = [0]
    for size in chunk_sizes(options.select, options.chunks):
        bounds.append(bounds[-1] + size)
    chosen = {side: results[0][3] for side, results in found.items()}
    for one, two in (("ours", "direct"), ("ours", "exact"), ("direct", "exact")):
        if two in chosen and one in chosen:
            chunks = [set(chosen[one][a:b]) == set(chosen[two][a:b]) for a, b in itertools.pairwise(bounds)]
            print(
                f"  {one} and {two}: {len(set(chosen[one]) & set(chosen[two]))} of {options.select} the same, "
                f"{sum(chunks)} of {options.chunks} chunks identical"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:4], *map(int, sys.argv[4:8]), float(sys.argv[8]), int(sys.argv[9]))
    else:
        main()
