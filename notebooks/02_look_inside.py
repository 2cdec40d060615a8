# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Look inside
#
# What the units of a trained model are: filters and the Gabor functions that fit them, tuning to gratings, the pairs
# of views that taught them, and the patches that drive them. `LCL_RUN` names a run folder of `lcl train`; without it
# the trained model that comes with the package is looked at.

# %%
import os
from dataclasses import replace

import torch

import lcl
from lcl import figures
from lcl.analysis import driving_patches
from lcl.checkpoint import run_folder
from lcl.images import open_images
from lcl.measure import run_model
from lcl.properties import measure_tuning
from lcl.train import Stream, build, counter_generator, geometry, read_config
from neural_fits.figures_tuning import tuning_curves
from neural_fits.gabor import fit_gabor, grating_tuning, is_gabor

# %matplotlib inline

RUN = run_folder(os.environ.get("LCL_RUN", "lcl-v2-small"))
model = lcl.load(RUN)
config, _ = read_config(RUN)
CPU = torch.device("cpu")

# %% [markdown]
# ## How much of the picture a unit sees
#
# Sizes follow from kernels, strides and pooling alone, so they are exact.

# %%
for name in model.names:
    field = model.receptive_field(name)
    print(f"{name}: {field.size_px} px, {field.size_deg():.2f} degrees; neighbours are {field.jump_px} px apart")

# %% [markdown]
# ## Filters and Gabor functions
#
# A filter counts as Gabor-like if the fit explains half of its variance *and* the response to the orthogonal
# orientation is at most half of that to the preferred one. A single edge passes as well as a wavelet does. Below the
# fits, at equal steps from best to worst.

# %%
filters = model["V1"].conv.weight.detach().numpy()
fit, tuning = fit_gabor(filters), grating_tuning(filters)
start = build(config)["V1"].conv.weight.detach().numpy()
at_start = is_gabor(fit_gabor(start), grating_tuning(start))
print(f"Gabor-like: {is_gabor(fit, tuning).sum()} of {len(filters)}; at initialisation {at_start.sum()}")
figures.filters(start, filters, gabor_r2=fit.r2, marked=(at_start, is_gabor(fit, tuning)))

# %%
figures.gabor_fits(filters, fit, tuning)

# %% [markdown]
# ## The views that teach
#
# V2's pairs with deformations half as large as its own, its own, and twice as large; without the jitter of brightness,
# colour and noise that training adds, so that the geometry can be seen. Too small and the pair is copied; too large and
# nothing is left in common. [docs/ablation.md](../docs/ablation.md) measures what that does.

# %%
store = open_images("builtin")
plain = replace(config.deformation, contrast=0.0, luminance=0.0, colour=0.0, noise=0.0)
shown = []
for factor in (0.5, 1.0, 2.0):
    amplitudes = ("translation", "dilation", "rotation", "shear", "elastic")
    deformation = replace(plain, **{name: factor * getattr(plain, name) for name in amplitudes})
    shape = geometry(model, replace(config, deformation=deformation), "V2")
    stream = Stream(store, shape, deformation, batch=8, seeds=(0, 0, 9), device=CPU)
    title = f"V2, deformations x {factor:g}"
    shown.append(figures.view_pairs(stream(0).numpy(), size_px=shape.size_px, title=title))
shown[0]

# %%
shown[1]

# %%
shown[2]

# %% [markdown]
# ## Tuning of units, as a physiologist would measure it
#
# Here the *units* are shown gratings, after rectification and pooling: curves of orientation, spatial frequency, size
# and contrast, and their median. `lcl tuning RUN` does it for all units and sets them beside published macaque V1.

# %%
table = measure_tuning(
    {"model": run_model(RUN)}, layers=["V1"], n_units=16, n_sized=6, n_phases=4, n_resamples=100, say=print
)["model"]
tuning_curves(table)

# %% [markdown]
# ## What drives V2
#
# For 16 units, one a row, the eight patches out of 1,024 that drive them most, each as large as the receptive field.

# %%
patches = driving_patches(model, "V2", store, candidates=1024, generator=counter_generator(0, 4), device=CPU)
figures.driving_patches(patches.numpy(), stage="V2", size_px=model.receptive_field("V2").size_px)
