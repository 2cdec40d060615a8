"""Ridge with a penalty for each neuron against scikit-learn (leave-one-out) and himalaya (five folds), in float64.

Leave-one-out is compared with scikit-learn's RidgeCV(alpha_per_target=True), five folds with himalaya's RidgeCV and
KernelRidgeCV; the last column compares our leave-one-out with the fastest of all three. Fit and prediction are timed.

    python benchmarks/ridge.py [--threads N] [--rounds N]
"""

import warnings

import numpy as np
from side_by_side import arguments, header, in_turn, threads
from sklearn.linear_model import RidgeCV

from neural_fits.ridge import Ridge

PENALTIES = np.logspace(-1, 6, 20)
SHAPES = [(400, 5_000, 100), (1000, 20_000, 300), (450, 50_000, 103), (400, 1_000, 1), (440, 64, 360), (2000, 200, 300)]


def main():
    args = arguments(__doc__)
    try:
        from himalaya.kernel_ridge import KernelRidgeCV
        from himalaya.ridge import RidgeCV as HimalayaRidgeCV
    except ImportError as error:
        raise SystemExit("himalaya is not installed; `pip install himalaya` to compare with it.") from error
    header(["numpy", "scipy", "scikit-learn", "torch", "himalaya"], args.threads)
    print(
        f"{'stimuli x features x neurons':>28s} {'scikit-learn':>13s} {'himalaya':>9s} {'him. kernel':>12s}"
        f" {'ours LOO':>9s} {'ours 5 folds':>13s}   LOO/sklearn  folds/himalaya  best of all (wall, CPU)"
    )
    for n, p, q in SHAPES:
        rng = np.random.default_rng(0)
        X = rng.standard_normal((n, p))
        Y = X[:, :20] @ rng.standard_normal((20, q)) + 3 * rng.standard_normal((n, q))
        new = X[:50].copy()
        sides = {
            "sklearn": lambda X=X, Y=Y, new=new: RidgeCV(PENALTIES, alpha_per_target=True).fit(X, Y).predict(new),
            "kernel": lambda X=X, Y=Y, new=new: KernelRidgeCV(alphas=PENALTIES, cv=5).fit(X, Y).predict(new),
            "loo": lambda X=X, Y=Y, new=new: Ridge(PENALTIES).fit(X, Y).predict(new),
            "folds": lambda X=X, Y=Y, new=new: Ridge(PENALTIES, folds=5).fit(X, Y).predict(new),
        }
        if p <= 1000:  # a singular value decomposition of the features for each fold: minutes beyond
            sides["himalaya"] = lambda X=X, Y=Y, new=new: (
                HimalayaRidgeCV(alphas=PENALTIES, cv=5, fit_intercept=True).fit(X, Y).predict(new)
            )
        with threads(args.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            times = in_turn(sides, args.rounds)
        himalaya = min(times[name] for name in ("himalaya", "kernel") if name in times)
        best = min(himalaya, times["sklearn"])
        shown = [
            f"{times[name][0] * 1e3:.0f} ms" if name in times else "-" for name in ("sklearn", "himalaya", "kernel")
        ]
        print(
            f"{f'{n:,} x {p:,} x {q:,}':>28s} {shown[0]:>13s} {shown[1]:>9s} {shown[2]:>12s}"
            f" {times['loo'][0] * 1e3:6.0f} ms {times['folds'][0] * 1e3:10.0f} ms"
            f" {times['sklearn'][0] / times['loo'][0]:11.1f}x {himalaya[0] / times['folds'][0]:14.1f}x"
            f" {best[0] / times['loo'][0]:9.1f}x {best[1] / times['loo'][1]:6.1f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
