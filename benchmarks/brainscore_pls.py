"""Cross-validated PLS through Brain-Score's own metric against ours, on the same features, responses and splits.

450 stimuli x 100,000 features x 103 neurons in float64, ten splits stratified by the type of picture, 25 components.
Each side runs in a process of its own, in turn, and is timed from arrays in memory (theirs: an assembly; ours: features
in a memory-mapped file) to the correlation of every split and neuron. In Brain-Score's environment:

    BS_INSTALL_DEPENDENCIES=no PYTHONPATH=. ENV/bin/python benchmarks/brainscore_pls.py [--features N] [--rounds N]
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from pls import COMPONENTS, features_and_responses
from side_by_side import arguments, header, seconds

N_STIMULI, N_NEURONS = 450, 103
KIND = np.where(np.arange(N_STIMULI) % 2, "texture", "noise")
SIDES = ("ours", "theirs")


def ours(folder):
    from neural_fits.bootstrap import correlations
    from neural_fits.pls import PLS
    from neural_fits.splits import stratified_splits

    X, Y = np.load(folder / "features.npy", mmap_mode="r"), np.load(folder / "responses.npy")
    splits = stratified_splits(KIND)

    def run():
        parts = PLS(COMPONENTS).cross_predict(X, Y, splits)
        return np.stack([correlations(part, Y[test]) for part, test in zip(parts, splits.test, strict=True)])

    return run


def theirs(folder):
    from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly
    from brainscore_vision import load_metric

    def assembly(name):
        values = np.load(folder / f"{name}.npy")
        return NeuroidAssembly(
            values,
            coords={
                "stimulus_id": ("presentation", [f"im{i:03d}" for i in range(N_STIMULI)]),
                "texture_type": ("presentation", KIND),
                "neuroid_id": ("neuroid", [f"n{i:06d}" for i in range(values.shape[1])]),
                "region": ("neuroid", ["V1"] * values.shape[1]),
            },
            dims=["presentation", "neuroid"],
        )

    metric = load_metric("pls", crossvalidation_kwargs={"stratification_coord": "texture_type"})
    features, responses = assembly("features"), assembly("responses")
    return lambda: metric(features, responses).attrs["raw"].transpose("split", "neuroid").values


def one_side(side, folder):
    run = {"ours": ours, "theirs": theirs}[side](folder)
    result = []
    wall, cpu = seconds(lambda: result.append(run()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    np.save(folder / f"{side}.npy", result[0])
    (folder / f"{side}.json").write_text(json.dumps({"wall": wall, "cpu": cpu, "peak": peak}))


def main():
    args = arguments(
        __doc__, features={"type": int, "default": 100_000}, side={"default": ""}, folder={"type": pathlib.Path}
    )
    if args.side:
        one_side(args.side, args.folder)
        return
    header(["brainscore-vision", "brainscore-core", "numpy", "scipy", "scikit-learn", "xarray", "torch"], args.threads)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
    environment = {**os.environ, **threads, "TQDM_DISABLE": "1"}
    found = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        X, Y = features_and_responses(N_STIMULI, args.features, N_NEURONS)
        np.save(folder / "features.npy", X)
        np.save(folder / "responses.npy", Y)
        del X
        for _ in range(args.rounds):
            for side in SIDES:
                child = [sys.executable, "-W", "ignore", __file__, "--side", side, "--folder", name]
                subprocess.run(child, check=True, env=environment)
                found[side].append(json.loads((folder / f"{side}.json").read_text()))
        a, b = (np.load(folder / f"{side}.npy") for side in SIDES)
    wall, cpu = (
        {side: statistics.median(each[what] for each in found[side]) for side in SIDES} for what in ("wall", "cpu")
    )
    print(f"10 splits, {N_STIMULI} x {args.features:,} x {N_NEURONS}; medians of {args.rounds}")
    for side in SIDES:
        peak = max(each["peak"] for each in found[side])
        print(f"  {side:6s} {wall[side]:8.2f} s wall {cpu[side]:8.2f} s CPU, process at most {peak:.2f} GiB")
    print(f"  ratio  {wall['theirs'] / wall['ours']:8.0f}x wall {cpu['theirs'] / cpu['ours']:8.0f}x CPU")
    score = abs(np.median(a, 1).mean() - np.median(b, 1).mean())
    print(f"  largest difference of a correlation {np.abs(a - b).max():.0e}, difference of the score {score:.0e}")


if __name__ == "__main__":
    main()
