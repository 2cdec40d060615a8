"""Cross-validated PLS: Brain-Score's own metric against ours on the same assembly, in Brain-Score's environment.

450 stimuli, ten stratified splits, 25 components; both sides in turn, each in a process of its own. Printed: the times,
their ratio, the largest difference of a correlation, and the most memory that our side held.

    BS_INSTALL_DEPENDENCIES=no PYTHONPATH=. ENV/bin/python benchmarks/brainscore_pls.py [--features N] [--rounds N]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

N_STIMULI, N_NEURONS = 450, 103


def data(n_features):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_STIMULI, n_features), dtype=np.float32)
    Y = X[:, :20] @ rng.standard_normal((20, N_NEURONS)) + 3 * rng.standard_normal((N_STIMULI, N_NEURONS))
    return X, Y, np.where(np.arange(N_STIMULI) % 2, "texture", "noise")


def ours(X, Y, kind):
    from neural_fits.bootstrap import correlations
    from neural_fits.pls import PLS
    from neural_fits.splits import stratified_splits

    splits = stratified_splits(kind)
    started = time.perf_counter()
    parts = PLS(n_components=25).cross_predict(X, Y, splits)
    r = np.stack([correlations(part, Y[test]) for part, test in zip(parts, splits.test, strict=True)])
    return time.perf_counter() - started, r


def theirs(X, Y, kind):
    from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly
    from brainscore_vision import load_metric

    def assembly(values, prefix):
        n = values.shape[1]
        return NeuroidAssembly(
            values,
            coords={
                "stimulus_id": ("presentation", [f"im{i:03d}" for i in range(N_STIMULI)]),
                "texture_type": ("presentation", kind),
                "neuroid_id": ("neuroid", [f"{prefix}{k:06d}" for k in range(n)]),
                "region": ("neuroid", ["V1"] * n),
            },
            dims=["presentation", "neuroid"],
        )

    metric = load_metric("pls", crossvalidation_kwargs={"stratification_coord": "texture_type"})
    source, target = assembly(X, "f"), assembly(Y, "n")
    started = time.perf_counter()
    score = metric(source, target)
    seconds = time.perf_counter() - started
    raw = score.attrs["raw"]
    return seconds, raw.attrs.get("raw", raw).transpose("split", "neuroid").values


def one_side(name, n_features, out):
    values = data(n_features)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, r = {"ours": ours, "theirs": theirs}[name](*values)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.save(f"{out}.npy", r)
    Path(f"{out}.json").write_text(json.dumps({"seconds": seconds, "peak_mb": peak / 1024, "before_mb": held / 1024}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        one_side(args.side, args.features, args.out)
        return
    from importlib.metadata import version

    names = ("brainscore-vision", "brainscore-core", "numpy", "scikit-learn", "scipy", "xarray")
    print(time.strftime("# %Y-%m-%d %H:%M UTC, ", time.gmtime()) + ", ".join(f"{n} {version(n)}" for n in names))
    print(f"# load {os.getloadavg()[0]:.1f} before, {os.environ.get('OMP_NUM_THREADS', 'all')} threads")
    found = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for side in found:
                out = str(Path(folder) / side)
                command = [sys.executable, __file__, "--side", side, "--features", str(args.features), "--out", out]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                found[side].append(json.loads(Path(f"{out}.json").read_text()))
        difference = np.abs(np.load(Path(folder) / "ours.npy") - np.load(Path(folder) / "theirs.npy")).max()
    seconds = {side: float(np.median([each["seconds"] for each in values])) for side, values in found.items()}
    peak = max(each["peak_mb"] for each in found["ours"])
    ratio = seconds["theirs"] / seconds["ours"]
    print(
        f"{N_STIMULI} x {args.features:,} x {N_NEURONS}: Brain-Score {seconds['theirs']:.1f} s, ours "
        f"{seconds['ours']:.2f} s, ratio {ratio:.0f}x; largest difference of a correlation "
        f"{difference:.1e}; our process held at most {peak:.0f} MB"
    )


if __name__ == "__main__":
    main()
