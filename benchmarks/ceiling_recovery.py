"""Do ceilings and corrected scores find the truth? Fifty simulated recordings whose truth is known.

Each recording: linear-nonlinear neurons (softplus of a weighted sum of rectified features) with Poisson repeats. Half
of the images fit a ridge regression, the other half is scored. Truth comes from the noise-free rates to 20,000 others.
Printed: bias, error, and how often the 95 % bootstrap interval over images holds the truth.

    python benchmarks/ceiling_recovery.py [--threads N] [--simulations N]
"""

import numpy as np
from side_by_side import arguments, header, threads

from neural_fits.bootstrap import bootstrap, correlations
from neural_fits.ceiling import CEILINGS
from neural_fits.ridge import Ridge
from neural_fits.score import EXPLAINED_VARIANCE

N_IMAGES, N_REPEATS, N_NEURONS, N_TRUTH = 300, 10, 20, 20_000


def simulate(seed):
    """Truth, estimates and intervals (mean over neurons) of one recording, by name."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((20, 60)) / 20**0.5
    weights = rng.standard_normal((60, N_NEURONS)) / 60**0.5
    gain = rng.uniform(1, 4, N_NEURONS)

    def draw(n):
        X = np.maximum(rng.standard_normal((n, 20)) @ mixing, 0)
        return X, gain * np.log1p(np.exp(3 * (X @ weights)))

    X_fit, rate_fit = draw(N_IMAGES)
    X, rate = draw(N_IMAGES)
    X_truth, rate_truth = draw(N_TRUTH)
    fitted = rng.poisson(rate_fit[:, None], (N_IMAGES, N_REPEATS, N_NEURONS)).mean(1)
    responses = rng.poisson(rate[:, None], (N_IMAGES, N_REPEATS, N_NEURONS)).astype(float)
    model = Ridge().fit(X_fit, fitted)
    predicted, predicted_truth = model.predict(X), model.predict(X_truth)
    signal, noise = rate_truth.var(0), rate_truth.mean(0)  # Poisson: variance of one response = its rate
    share_of_signal = signal / (signal + noise / N_REPEATS)
    r = correlations(predicted_truth, rate_truth)
    unexplained = ((predicted_truth - rate_truth) ** 2).mean(0)
    truths = {**dict.fromkeys(CEILINGS, share_of_signal), "r2_er": r**2, "cc_norm": r}
    truths |= dict.fromkeys(("feve", "upsilon"), 1 - unexplained / signal)
    for name, truth in truths.items():
        if name in CEILINGS:
            # 20 halves in the resamples of the split-half ceiling keep the run short
            options = {"n_splits": 20} if name == "spearman_brown" else {}

            def estimate(rows, name=name, options=options):
                return float(np.mean(CEILINGS[name](responses[rows], **options)))
        else:

            def estimate(rows, name=name):
                return float(np.mean(EXPLAINED_VARIANCE[name](predicted[rows], responses[rows])))

        interval = bootstrap(estimate, N_IMAGES, n_resamples=200, seed=seed)
        yield name, float(np.mean(truth)), estimate(np.arange(N_IMAGES)), interval


def main():
    args = arguments(__doc__, simulations={"type": int, "default": 50})
    header(["numpy", "scipy", "scikit-learn", "torch"], args.threads)
    found = {}
    with threads(args.threads):
        for seed in range(args.simulations):
            for name, truth, estimate, (low, high) in simulate(seed):
                found.setdefault(name, []).append((truth, estimate, low, high))
    print(f"{args.simulations} simulations, {N_NEURONS} neurons, {N_IMAGES} images, {N_REPEATS} repeats; neuron means")
    print(f"{'':22s} {'truth':>7s} {'estimate':>9s} {'bias':>8s} {'rms error':>10s} {'95 % interval covers':>21s}")
    for name, rows in found.items():
        truth, estimate, low, high = np.array(rows).T
        covers = ((low <= truth) & (truth <= high)).mean()
        error = estimate - truth
        print(
            f"{name:22s} {truth.mean():7.3f} {estimate.mean():9.3f} {error.mean():+8.4f}"
            f" {np.sqrt((error**2).mean()):10.4f} {covers:20.0%}"
        )


if __name__ == "__main__":
    main()
