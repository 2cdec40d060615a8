"""PLS in sample coordinates against scikit-learn's PLSRegression(scale=False), and against Brain-Score's metric.

Brain-Score's `pls` metric is scikit-learn's PLSRegression(n_components=25, scale=False) in every split, inside xarray;
the plain scikit-learn fits timed here are its lower bound. Runs that would take minutes are timed on some of their fits
and extrapolated: the table says so.

    python benchmarks/pls.py [--threads N] [--rounds N] [--only fit,cv,brainscore]
"""

import pathlib
import resource
import subprocess
import sys
import tempfile
import warnings

import numpy as np
from side_by_side import arguments, header, in_turn, threads
from sklearn.cross_decomposition import PLSRegression
from sklearn.exceptions import ConvergenceWarning

from neural_fits.pls import PLS
from neural_fits.splits import kfold_splits, stratified_splits

COMPONENTS = 25


def features_and_responses(n, p, q, dtype=np.float64, seed=0):
    """Features with the falling spectrum of a convolution layer, and noisy linear responses."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 100)) * np.arange(1.0, 101) ** -0.5
    X = np.empty((n, p), dtype=dtype)
    for start in range(0, p, 5000):
        width = min(5000, p - start)
        X[:, start : start + width] = latent @ rng.standard_normal((100, width)) + rng.standard_normal((n, width))
    signal = latent @ rng.standard_normal((100, q))
    return X, signal + signal.std(0) * rng.standard_normal((n, q))


def difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def sklearn_fit(X, Y, new):
    return PLSRegression(COMPONENTS, scale=False).fit(X, Y).predict(new)


def row(name, ours, theirs, note, error):
    ratios = f"{theirs[0] / ours[0]:7.0f}x wall {theirs[1] / ours[1]:7.0f}x CPU"
    print(
        f"{name:44s} {theirs[0]:9.2f} s {ours[0]:8.3f} s {ratios}   difference {error:.0e}  {note}",
        flush=True,
    )


def one_fit(p, rounds):
    X, Y = features_and_responses(400, p, 100)
    result = {}

    def ours():
        result["ours"] = PLS(COMPONENTS).fit(X, Y).predict(X[:50])

    def theirs():
        result["theirs"] = sklearn_fit(X, Y, X[:50])

    times = in_turn({"ours": ours, "theirs": theirs}, rounds)
    error = difference(result["ours"], result["theirs"])
    row(f"fit + predict, 400 x {p:,} x 100", times["ours"], times["theirs"], "", error)


def cross_validation(rounds):
    X, Y = features_and_responses(1000, 20_000, 300)
    splits = kfold_splits(1000, n_folds=10, n_repeats=10)
    result = {}

    def ours():
        result["ours"] = PLS(COMPONENTS).cross_predict(X, Y, splits)

    def theirs():
        train, test = splits.train[0], splits.test[0]
        result["theirs"] = sklearn_fit(X[train], Y[train], X[test])

    times = in_turn({"ours": ours, "theirs": theirs}, rounds)
    theirs_all = tuple(100 * t for t in times["theirs"])
    error = difference(result["ours"][0], result["theirs"])
    row("10 x 10-fold, 1,000 x 20,000 x 300", times["ours"], theirs_all, "(theirs: 1 fit x 100)", error)


def brain_score(rounds):
    X, Y = features_and_responses(450, 100_000, 103, dtype=np.float32)
    splits = stratified_splits(np.repeat(["noise", "texture"], 225))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "features.npy"
        np.save(path, X)
        np.save(pathlib.Path(folder) / "responses.npy", Y)
        stored = np.load(path, mmap_mode="r")
        result = {}

        def ours():
            result["ours"] = PLS(COMPONENTS).cross_predict(stored, Y, splits)

        def theirs():
            train, test = splits.train[0], splits.test[0]
            # in float64, which scikit-learn fits in anyway; it would predict from float32 in float32
            result["theirs"] = sklearn_fit(X[train], Y[train], X[test].astype(np.float64))

        times = in_turn({"ours": ours, "theirs": theirs}, rounds)
        theirs_all = tuple(10 * t for t in times["theirs"])
        error = difference(result["ours"][0], result["theirs"])
        row("10 splits, 450 x 100,000 (float32) x 103", times["ours"], theirs_all, "(theirs: 1 split x 10)", error)
        child = [sys.executable, __file__, "--memory", folder]
        peak = subprocess.run(child, capture_output=True, text=True, check=True).stdout.strip()
        print(f"{'':44s} peak memory of ours in a process of its own: {peak}", flush=True)


def memory_of_ours(folder):
    """What the ten splits take, features in a memory-mapped file; everything imported is counted."""
    stored = np.load(pathlib.Path(folder) / "features.npy", mmap_mode="r")
    Y = np.load(pathlib.Path(folder) / "responses.npy")
    PLS(COMPONENTS).cross_predict(stored, Y, stratified_splits(np.repeat(["noise", "texture"], 225)))
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # the other count starts from the parent's
        peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{peak / 2**20:.2f} GiB")


def main():
    args = arguments(__doc__, only={"default": "fit,cv,brainscore"}, memory={"default": ""})
    warnings.simplefilter("ignore", ConvergenceWarning)
    if args.memory:
        memory_of_ours(args.memory)
        return
    header(["numpy", "scipy", "scikit-learn", "torch"], args.threads)
    print(f"{'':44s} {'scikit-learn':>11s} {'ours':>10s}")
    with threads(args.threads):
        if "fit" in args.only:
            one_fit(50_000, args.rounds)
            one_fit(200_000, 1)
        if "cv" in args.only:
            cross_validation(args.rounds)
        if "brainscore" in args.only:
            brain_score(args.rounds)


if __name__ == "__main__":
    main()
