# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Naturalistic textures and V2
#
# V2, unlike V1, responds more to textures with the higher-order statistics of photographs than to noise with the same
# spectrum (Freeman, Ziemba et al. 2013). The set of 15 families that comes with the package is shown to a model.
# `LCL_RUN` names a run folder; without it the model that comes with the package is shown them. `LCL_TEXTURES` names
# another set made by `lcl textures make`.

# %%
import os
from pathlib import Path

import numpy as np

from lcl.checkpoint import run_folder
from lcl.measure import run_model
from lcl.properties import measure_modulation, modulation_rows, texture_set
from neural_fits.baselines import gabor_energy
from neural_fits.figures_modulation import index_by_family, modulation_summary, texture_sheet
from neural_fits.texture_indices import modulation_index
from stimuli.textures import ready_textures, spectral_deviation

# %matplotlib inline

RUN = run_folder(os.environ.get("LCL_RUN", "lcl-v2-small"))

# %% [markdown]
# ## The pictures
#
# Above, textures; below each, noise that has its power spectrum (to the rounding of 8-bit pixels, as the next cell
# says). So no unit that only adds up energies of orientations and frequencies can tell them apart on average, and a
# difference is about higher-order statistics.

# %%
textures = ready_textures()
texture_sheet(textures, n_samples=1)

# %%
kind = np.asarray(textures.parameters["type"])
deviation = spectral_deviation(textures.images[kind == "texture"], textures.images[kind == "noise"])
print(f"{(kind == 'texture').sum()} textures; largest relative difference of spectra {deviation.max():.4f}")

# %% [markdown]
# ## The index, by hand
#
# (texture - noise) / (texture + noise) of the mean responses: a unit that gives 3 to a texture and 2 to its noise has
# (3 - 2) / (3 + 2) = 0.2.

# %%
print(modulation_index([[3.0]], [[2.0]]))

# %% [markdown]
# ## A model, its untrained twin, and Gabor energy
#
# Each through an aperture of 2 degrees, at one shift here (`lcl modulation` shows four). The twin has the same layers
# with random weights: what it already shows was not learned. Gabor energy should stay at 0.

# %%
SOURCE = os.environ.get("LCL_TEXTURES")
shown = texture_set(Path(SOURCE) if SOURCE else None, shifts=1)
models = {
    "trained": run_model(RUN),
    "untrained twin": run_model(RUN, seed=0),
    "gabor-energy": gabor_energy(input_px=112, grid=14),
}
tables = measure_modulation(
    models,
    shown,
    n_units=48,
    n_resamples=200,
    layers=["V1", "V2", "complex"],
    say=print,
)

# %%
modulation_summary(modulation_rows(tables))

# %%
index_by_family(tables)

# %% [markdown]
# How to read it: an index of V2 above that of V1 *and* above the twin's, in most families, is like V2. Seeds,
# all units, four shifts and other models are in [docs/single-units.md](../docs/single-units.md).
