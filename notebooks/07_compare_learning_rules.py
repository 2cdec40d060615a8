# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. Compare learning rules
#
# The same pictures, two rules: LCL, where each stage learns from its own local loss, and DetCon, where one contrastive
# loss trains all layers end to end. Each is set beside *its own network with random weights*, which is the only fair
# zero. Budgets are those of a demonstration, well under a minute each: the way of comparing is shown, not a result.
# `LCL_IMAGES` names a folder of photographs, by class; without it crops of the built-in photographs are used.

# %%
import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from lcl.config import Config
from lcl.images import open_images
from lcl.measure import run_model
from lcl.train import train
from neural_fits.activations import activations
from neural_fits.baselines import gabor_energy
from stimuli.textures import ready_textures
from vision_methods.config import DetConConfig
from vision_methods.method_run import method_model
from vision_methods.probes import classify
from vision_methods.train import train_method

# %matplotlib inline

rng = np.random.default_rng(0)

# %% [markdown]
# ## The pictures
#
# Sixteen crops of 160 px from each of twelve photographs, in a folder for each photograph.

# %%
IMAGES = os.environ.get("LCL_IMAGES")
if IMAGES is None:
    IMAGES = "crops"
    store = open_images("builtin")
    for number, (height, width) in enumerate(store.sizes):
        folder = Path(IMAGES) / f"photograph{number:02d}"
        folder.mkdir(parents=True)
        for crop in range(16):
            top, left = rng.integers(height - 160), rng.integers(width - 160)
            Image.fromarray(store[number][top : top + 160, left : left + 160]).save(folder / f"{crop:02d}.png")

# %% [markdown]
# ## Train
#
# At the prompt: `lcl train --images crops --steps 400,30` and `lcl train-method detcon --images crops --variant S`.
# `lcl methods` lists the other rules; every one of them leaves a run folder that all measurements read.

# %%
quiet = {"progress": False, "say": lambda line: None}
train(Config(images=IMAGES, steps=(400, 30)), Path("runs/lcl"), **quiet)
detcon = DetConConfig(
    images=IMAGES, variant="S", masks="grid", epochs=4, batch=32, learning_rate=5e-4, least_area=0.25, warmup_epochs=1
)
_ = train_method("detcon", detcon, Path("runs/detcon"), **quiet)

# %% [markdown]
# ## Measure
#
# All by one piece of code: the family of a texture, of 15, is that of the nearest picture (cosine of the mean of a
# layer over places) among one sample of every family; the four others are asked about, each at two shifts. None of the
# networks has seen a texture of the set. Gabor energy, which learns nothing, is the bar to pass.

# %%
models = {
    "LCL": (run_model("runs/lcl"), run_model("runs/lcl", seed=0)),
    "DetCon": (method_model("runs/detcon"), method_model("runs/detcon", seed=0)),
    "Gabor energy": (gabor_energy(input_px=112, grid=14), None),
}
textures = ready_textures()
kind, family, sample = (np.asarray(textures.parameters[name]) for name in ("type", "family", "sample"))
textured = kind == "texture"
pictures = np.concatenate([textures.images[textured], np.roll(textures.images[textured], (64, 64), axis=(1, 2))])
families, samples = np.tile(family[textured], 2), np.tile(sample[textured], 2)
learned = samples == np.unique(sample)[0]
numbers = np.unique(families, return_inverse=True)[1]

rows = []
for name, (trained, twin) in models.items():
    for weights, model in (("trained" if twin else "as it is", trained), ("random weights", twin)):
        if model is None:
            continue
        layers = ["complex"] if name == "Gabor energy" else None
        for layer, features in activations(
            model, pictures, size_deg=4.0, layers=layers, reduction="spatial_mean"
        ).items():
            features = features.reshape(len(features), -1)
            found = classify(
                features[learned],
                numbers[learned],
                features[~learned],
                numbers[~learned],
                probe="neighbours",
                n_neighbours=[1],
            )
            rows.append((f"{name} {layer}", weights, found.accuracy, found.interval))
            low, high = found.interval
            print(f"{name:12s} {layer:8s} {weights:15s} {found.accuracy:.3f} [{low:.3f}, {high:.3f}]")

# %%
names = list(dict.fromkeys(row[0] for row in rows))
figure = Figure((7, 0.36 * len(names) + 1.1), layout="constrained")
axes = figure.subplots()
for label, colour, marker, shift in (
    ("trained, or as it is", "#0072b2", "o", -0.12),
    ("random weights", "0.5", "D", 0.12),
):
    chosen = [row for row in rows if (row[1] == "random weights") == (label == "random weights")]
    values = np.array([row[2] for row in chosen])
    ends = np.array([row[3] for row in chosen])
    axes.errorbar(
        values,
        [names.index(row[0]) + shift for row in chosen],
        xerr=(values - ends[:, 0], ends[:, 1] - values),
        fmt=marker,
        color=colour,
        label=label,
    )
axes.axvline(1 / 15, color="0.7", linestyle=":", label="chance")
axes.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 1), ylabel="model and layer")
axes.set_xlabel(f"share of {int((~learned).sum())} textures named right (95 % interval, Wilson)")
axes.invert_yaxis()
axes.legend(fontsize=8, loc="lower left")
figure

# %% [markdown]
# What may be concluded: whether a *trained* layer lies above *its own random weights* by more than the intervals. What
# may not: that one rule is better than another. Layers differ in size, budgets were not matched, and one seed is one
# seed. `lcl compare` trains several rules on one architecture at full budget and measures them by everything
# ([docs/compare.md](../docs/compare.md)).
