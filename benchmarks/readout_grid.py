"""How many places the read-outs at one location should look at, on the V1 recording of Henaff et al. (2021).

Median correlation of held-out movies and of held-out frames, pooled over all stimuli, for grids of several sizes, for
several numbers of places that are compared over all penalties, and with movies kept together inside the training part
or not. The choices ``GRID`` in neural_fits/fits.py and ``N_PLACES`` in neural_fits/readouts.py were made by it.

    python benchmarks/readout_grid.py --data FILE [--alexnet FILE.npz] [--threads N]
"""

import numpy as np
from side_by_side import arguments, header, threads

from neural_fits import readouts
from neural_fits.activations import activations
from neural_fits.baselines import alexnet, gabor_energy
from neural_fits.bootstrap import correlations
from neural_fits.ceiling import CEILINGS
from neural_fits.datasets import load
from neural_fits.splits import grouped_kfold_splits

MIN_RELIABILITY = 0.49


def main():
    args = arguments(
        __doc__, data={"required": True}, alexnet={"default": None}, size_deg={"type": float, "default": 8.0}
    )
    recording = load(args.data)
    recording = recording.select(stimuli=np.isin(recording.labels("category"), ["natural", "synthetic"]))
    recording = recording.select(neurons=CEILINGS["spearman_brown"](recording.repeats()) > MIN_RELIABILITY)
    header(["numpy", "scipy", "torch"], args.threads)
    Y = recording.mean_responses()
    splits = {
        name: (grouped_kfold_splits(recording.labels(name), n_folds=n), recording.labels(name))
        for name, n in (("sequence", 10), ("frame_block", 4))
    }
    models = {"gabor-energy complex": (gabor_energy(), "complex")}
    if args.alexnet:
        models["alexnet conv1"] = (alexnet(args.alexnet), "conv1")
    print(f"{recording.n_neurons} neurons, {recording.n_stimuli} images")
    print(f"{'model':22s} {'grid':>4s} {'places':>6s} {'groups inside':>13s} {'movies out':>10s} {'frames out':>10s}")
    standard = readouts.N_PLACES
    with threads(args.threads):
        for name, (model, layer) in models.items():
            conditions = [(grid, standard, False) for grid in (7, 10, 13, 20)]
            conditions += [(13, places, False) for places in (1, 3, 20, 169)] + [(13, standard, True)]
            for grid, places, nested in conditions:
                X = activations(
                    model, recording.images, size_deg=args.size_deg, layers=[layer], reduction=f"pool:{grid}"
                )[layer]
                readouts.N_PLACES = places
                found = []
                for divided, labels in splits.values():
                    parts = readouts.LocationRidge().cross_predict(X, Y, divided, groups=labels if nested else None)
                    predicted = np.concatenate(parts)
                    found.append(np.median(correlations(predicted, Y[np.concatenate(divided.test)])))
                kept = "yes" if nested else "no"
                print(f"{name:22s} {grid:4d} {places:6d} {kept:>13s} {found[0]:10.3f} {found[1]:10.3f}", flush=True)
    readouts.N_PLACES = standard


if __name__ == "__main__":
    main()
