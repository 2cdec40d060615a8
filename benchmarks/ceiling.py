"""Split-half ceilings with 1,000 resamples from the trial Gram, against a loop and a version vectorised over neurons.

The loop forms the two half means and one Pearson correlation at a time (timed on 5 resamples, extrapolated); the
vectorised version does so for all neurons at once (timed on 100 resamples, extrapolated). The difference is printed.

    python benchmarks/ceiling.py [--threads N] [--rounds N]
"""

import numpy as np
from side_by_side import arguments, header, in_turn, threads

from neural_fits.ceiling import half_splits, split_half_correlations

RESAMPLES = 1000


def loop(responses, halves):
    r = np.empty((len(halves), responses.shape[2]))
    for i, half in enumerate(halves):
        for neuron in range(responses.shape[2]):
            a, b = responses[:, half, neuron].mean(1), responses[:, ~half, neuron].mean(1)
            r[i, neuron] = np.corrcoef(a, b)[0, 1]
    return r


def vectorised(responses, halves):
    r = np.empty((len(halves), responses.shape[2]))
    for i, half in enumerate(halves):
        a, b = responses[:, half].mean(1), responses[:, ~half].mean(1)
        a, b = a - a.mean(0), b - b.mean(0)
        r[i] = (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return r


def vectorised_missing(responses, halves):
    r = np.empty((len(halves), responses.shape[2]))
    for i, half in enumerate(halves):
        a, b = np.nanmean(responses[:, half], 1), np.nanmean(responses[:, ~half], 1)
        a, b = a - a.mean(0), b - b.mean(0)
        r[i] = (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return r


def main():
    args = arguments(__doc__)
    header(["numpy", "scipy", "scikit-learn"], args.threads)
    rng = np.random.default_rng(0)
    for n_stimuli, n_repeats, n_neurons, missing in [(450, 20, 103, 0), (440, 50, 360, 0), (440, 50, 60, 0.3)]:
        signal = rng.standard_normal((n_stimuli, 1, n_neurons))
        responses = signal + 2 * rng.standard_normal((n_stimuli, n_repeats, n_neurons))
        responses[rng.random(responses.shape) < missing] = np.nan
        halves = half_splits(n_repeats, n_splits=RESAMPLES)
        fast = vectorised_missing if missing else vectorised
        sides = {
            "ours": lambda r=responses, h=halves: split_half_correlations(r, h),
            "vectorised": lambda r=responses, h=halves, f=fast: f(r, h[:100]),
        }
        if not missing:
            sides["loop"] = lambda r=responses, h=halves: loop(r, h[:5])
        with threads(args.threads):
            times = in_turn(sides, args.rounds)
        error = np.abs(split_half_correlations(responses, halves[:5]) - fast(responses, halves[:5])).max()
        name = f"{n_stimuli} x {n_repeats} x {n_neurons}" + (f", {missing:.0%} missing" if missing else "")
        ours = times["ours"]
        line = f"{name:28s} ours {ours[0] * 1e3:7.1f} ms   difference {error:.0e}"
        for other, factor in (("loop", RESAMPLES / 5), ("vectorised", RESAMPLES / 100)):
            if other in times:
                wall, cpu = (factor * t for t in times[other])
                line += f"   {other} {wall:7.2f} s = {wall / ours[0]:5.0f}x wall {cpu / ours[1]:5.0f}x CPU"
        print(line, flush=True)


if __name__ == "__main__":
    main()
