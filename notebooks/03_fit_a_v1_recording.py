# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Fit a V1 recording, with ceilings done right
#
# A recording of known truth is made: units of a Gabor-energy model, whose spike counts are Poisson. So it can be said
# what each number *should* be. Then the same code is pointed at a real recording: set `LCL_RECORDING` to a file
# (netCDF, MATLAB, NWB) or to a name in `lcl data list` whose files are in `LCL_DATA`.

# %%
import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import neural_fits
from lcl.images import open_images
from neural_fits.activations import activations
from neural_fits.baselines import gabor_energy, pixels
from neural_fits.ceiling import CEILINGS
from neural_fits.figures import layer_scores, predicted_measured

# %matplotlib inline

rng = np.random.default_rng(0)
N_PATCHES, N_REPEATS, N_NEURONS = 20, 8, 24

# %% [markdown]
# ## A recording whose truth is known
#
# 240 patches, 20 from each of the twelve built-in photographs, 4 degrees wide. A neuron is a complex cell of the
# Gabor-energy model near the centre; it fires 0.1 to 0.6 spikes on average, and each repeat is an independent Poisson
# draw.

# %%
store = open_images("builtin", channels=1)
photo = np.repeat(np.arange(len(store)), N_PATCHES)
corners = [(rng.integers(h - 128), rng.integers(w - 128)) for h, w in np.repeat(store.sizes, N_PATCHES, axis=0)]
patches = np.stack(
    [store[i][top : top + 128 : 2, left : left + 128 : 2, 0] for i, (top, left) in zip(photo, corners, strict=True)]
)

energy = gabor_energy(input_px=112, grid=14)
maps = activations(energy, patches, size_deg=4.0, layers=["complex"], reduction="maps")["complex"]
channels, rows, columns = maps.shape[1], maps.shape[2], maps.shape[3]
units = [
    (rng.integers(channels), rows // 2 + rng.integers(-1, 1), columns // 2 + rng.integers(-1, 1))
    for _ in range(N_NEURONS)
]
truth = np.stack([maps[:, c, y, x] for c, y, x in units], axis=1)
truth = truth / truth.mean(0) * rng.uniform(0.1, 0.6, N_NEURONS)
counts = rng.poisson(truth[:, None], (len(patches), N_REPEATS, N_NEURONS))
recording = neural_fits.recording_from_arrays(
    counts, images=patches, size_deg=4.0, stimulus={"photo": photo}, name="made complex cells"
)
print(recording.check() or "no problem found")

# %% [markdown]
# ## How good can a model be?
#
# Noise limits every score. The *reliability* is the share of the variance of the mean response that repeats. Here it
# is known: variance of the truth over that plus (mean count) / (repeats). All four estimates have to find it.

# %%
known = truth.var(0) / (truth.var(0) + truth.mean(0) / N_REPEATS)
figure = Figure((6.5, 3.2), layout="constrained")
axes = figure.subplots()
axes.plot([0, 1], [0, 1], color="0.7", label="equality")
for marker, (name, estimate) in zip("osx+", CEILINGS.items(), strict=True):
    values = estimate(recording.repeats())
    print(f"{name:22s} mean error {np.nanmean(values - known):+.3f}, largest {np.nanmax(np.abs(values - known)):.3f}")
    axes.plot(known, values, marker, fillstyle="none", label=name.replace("_", " "))
axes.set(xlabel="known reliability of a neuron", ylabel="estimated from the repeats", xlim=(0, 1), ylim=(0, 1))
axes.legend(fontsize=8)
figure

# %% [markdown]
# ## Fit
#
# Whole photographs are left out (`grouped_kfold:photo`): patches of one photograph are alike, and a fit that has seen
# one predicts the others too well. What is chosen (a place and a penalty for each neuron) is chosen inside the
# training part, by photograph as well. `control` fits the same responses re-ordered between pictures: it has to come
# out at about 0.

# %%
models = {"gabor-energy": (energy, ["simple", "complex"]), "pixels": (pixels(input_px=32), None)}
tables = {
    name: neural_fits.fit_layers(
        model,
        recording,
        layers=layers,
        regression="location_ridge",
        splits="grouped_kfold:photo",
        split_options={"n_folds": 6},
        n_bootstrap=200,
        seed=0,
    )
    for name, (model, layers) in models.items()
}
layer_scores(tables)

# %%
predicted_measured(tables["gabor-energy"], "complex")

# %% [markdown]
# ## One number, four rules
#
# The same predictions under every rule. A perfect model reaches a correlation of the *square root* of the reliability,
# so `raw` of 0.9 can be all there is to explain. The name of the rule belongs to the score.

# %%
for rule in neural_fits.RULES:
    print(neural_fits.layer_score(tables["gabor-energy"], "complex", rule))

# %% [markdown]
# What the truth itself would score, that is, the best any model could do with these counts. The fit above falls short
# of it although the model holds the very cells: 200 pictures are few to find a place and the weights of its channels.

# %%
mean = counts.mean(1)
r = np.array([np.corrcoef(truth[:, i], mean[:, i])[0, 1] for i in range(N_NEURONS)])
print(
    f"median r of the truth {np.median(r):.3f}, square root of its median reliability {np.sqrt(np.median(known)):.3f}"
)

# %% [markdown]
# ## The mistake that whole photographs left out avoid
#
# The same fit with patches left out at random: the scores are higher, and say less.

# %%
random_table = neural_fits.fit_layers(
    pixels(input_px=32),
    recording,
    regression="location_ridge",
    splits="kfold",
    split_options={"n_folds": 6},
    n_bootstrap=200,
)
layer = str(random_table["layer"].values[0])
for name, table in (("photographs left out", tables["pixels"]), ("patches left out", random_table)):
    print(name, neural_fits.layer_score(table, layer, "raw"))

# %% [markdown]
# ## A real recording
#
# The same call. The size of its pictures in degrees must be known; if the file does not say it, it has to be assumed,
# and the table keeps that it was.

# %%
source = os.environ.get("LCL_RECORDING")
if source is None:
    print("LCL_RECORDING is not set; for instance a file that neural_fits.read_recording reads.")
else:
    from neural_fits.datasets import load

    real = neural_fits.read_recording(source) if Path(source).exists() else load(source)
    size_deg = real.size_deg if np.isfinite(real.size_deg) else float(os.environ.get("LCL_SIZE_DEG", "8"))
    table = neural_fits.fit_layers(
        energy, real, layers=["complex"], regression="ridge", reduction="pool:7", size_deg=size_deg, n_bootstrap=200
    )
    print(neural_fits.layer_score(table, "complex", "noise_corrected_per_neuron"))
