"""Do ceilings and corrected scores find the truth? Fifty simulated recordings whose truth is known.

Each recording: linear-nonlinear neurons (a sigmoid of a weighted sum of the features of V1, divided by their norm) with
Poisson repeats to patches of the built-in photographs, of the size of the receptive field, of equal mean and contrast.
Half of the images fit a ridge regression, the other half is scored. Truth comes from the noise-free rates to 20,000
others. Without the division and the sigmoid, rare patches carry most of the variance, and no sample of 300 images can
know it. Printed: bias, error, and how often the 95 % bootstrap interval over images holds the truth.

    python benchmarks/ceiling_recovery.py [--threads N] [--simulations N] [--run RUN]
"""

import numpy as np
import torch
from side_by_side import arguments, header, threads

import lcl
from lcl.images import open_images
from neural_fits.bootstrap import bootstrap, correlations
from neural_fits.ceiling import CEILINGS
from neural_fits.ridge import Ridge
from neural_fits.score import EXPLAINED_VARIANCE

N_IMAGES, N_REPEATS, N_NEURONS, N_TRUTH = 300, 10, 20, 20_000
CONTRAST = 0.2


def patch_features(chain, seed):
    """Standardised V1 features of patches that its units see whole, (patch, feature)."""
    store = open_images("builtin")
    side = chain.receptive_field("V1").size_px
    rng = np.random.default_rng(seed)
    n = 2 * N_IMAGES + N_TRUTH
    image = rng.integers(0, len(store), n)
    shapes = np.array([picture.shape[:2] for picture in store])
    top, left = (rng.integers(0, shapes[image, axis] - side + 1) for axis in (0, 1))
    responses = []
    with torch.inference_mode():
        for part in zip(*(np.array_split(a, 20) for a in (image, top, left)), strict=True):
            patches = torch.from_numpy(store.crops(*part, side)).permute(0, 3, 1, 2) / 255
            # Equal mean and contrast, as in most experiments; else a few patches would decide everything.
            deviation = patches - patches.mean((1, 2, 3), keepdim=True)
            contrast = deviation.std((1, 2, 3), keepdim=True).clamp_min(0.01)
            patches = (0.5 + CONTRAST * deviation / contrast).clamp(0, 1)
            responses.append(chain["V1"](patches, valid=True).flatten(1).double().numpy())
    X = np.concatenate(responses)
    X = X[:, X.std(0) > 0]
    X = (X - X.mean(0)) / X.std(0)
    return X / (1 + np.sqrt((X**2).mean(1, keepdims=True)))


def simulate(seed, chain):
    """Truth, estimates and intervals (mean over neurons) of one recording, by name."""
    rng = np.random.default_rng(seed)
    features = patch_features(chain, seed)
    weights = rng.standard_normal((features.shape[1], N_NEURONS)) / features.shape[1] ** 0.5
    gain = rng.uniform(1, 8, N_NEURONS)
    parts = iter(np.split(features, [N_IMAGES, 2 * N_IMAGES]))

    def draw():
        X = next(parts)
        return X, gain / (1 + np.exp(-4 * (X @ weights)))

    X_fit, rate_fit = draw()
    X, rate = draw()
    X_truth, rate_truth = draw()
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
    args = arguments(__doc__, simulations={"type": int, "default": 50}, run={"default": None})
    chain = lcl.load(args.run) if args.run else lcl.LCLV2()
    chain.eval()
    header(["numpy", "scipy", "scikit-learn", "torch"], args.threads)
    found = {}
    with threads(args.threads):
        for seed in range(args.simulations):
            for name, truth, estimate, (low, high) in simulate(seed, chain):
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
