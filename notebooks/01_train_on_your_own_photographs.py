# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Train on your own photographs
#
# Learns V1 and V2 from a folder of photographs, layer by layer, and looks at what came out. Nothing is fetched:
# without `LCL_IMAGES` (a folder, an HDF5 file or tar shards) the twelve photographs that come with scikit-image and
# scikit-learn are used.

# %%
import json
import os
from pathlib import Path

import numpy as np
from IPython.display import Image

from lcl.cli import main
from lcl.images import BUILTIN, open_images

# %matplotlib inline

IMAGES = os.environ.get("LCL_IMAGES", "builtin")
# `quick` takes 1500,500 steps and a few minutes; with these it takes half a minute and the filters are less sharp.
STEPS = "400,30"

# %% [markdown]
# ## What can be read
#
# `lcl images FOLDER` says the same at the prompt. Whatever cannot be read is named, with the reason, and left out.

# %%
store = open_images(IMAGES)
print(f"{len(store)} photographs")
if IMAGES == "builtin":
    print(f"the first: {BUILTIN[0].name}, {BUILTIN[0].licence}, {BUILTIN[0].source}")

# %% [markdown]
# ## Train
#
# This cell is the command `lcl train --images IMAGES --steps 400,30 --out runs/mine`. Every option of `lcl train
# --help` can be given. If it is interrupted, `lcl train --resume runs/mine` goes on exactly as if it had not been.

# %%
RUN = Path("runs/mine")
exit_code = main(["train", "--images", IMAGES, "--steps", STEPS, "--out", str(RUN), "--no-progress"])
assert exit_code == 0

# %% [markdown]
# ## What it saw
#
# Each stage is given pairs of patches as large as its receptive field (the square), shifted, scaled, turned and bent
# in proportion to it. V2's receptive field is larger, so its pairs differ by more pixels: that is the match of
# complexity.

# %%
Image(filename=RUN / "figures" / "views_V1.png")

# %%
Image(filename=RUN / "figures" / "views_V2.png")

# %% [markdown]
# ## What it learned
#
# Filters of V1 before and after, framed where a Gabor function fits and the filter is tuned for orientation. The
# numbers are those of the report, beside the same network at initialisation.

# %%
Image(filename=RUN / "figures" / "filters.png")

# %%
stages = json.loads((RUN / "summary.json").read_text())["stages"]
v1 = stages["V1"]
print(
    f"Gabor-like and tuned: {v1['gabor_fraction_at_init']:.2f} of the filters before, {v1['gabor_fraction']:.2f} after"
)
for name, numbers in stages.items():
    for term in ("similarity", "decorrelation", "shared_dimension"):
        print(f"{name}: {term} {numbers[f'held_out_{term}_at_init']:.1f} -> {numbers[f'held_out_{term}']:.1f}")

# %% [markdown]
# The loss has two terms, of similarity and of decorrelation. Both have to be watched: features that are all alike have
# a small first and a large second term. `shared_dimension`, the number of independent features that survive the
# deformations on held-out photographs, can be compared between networks; the weighted loss cannot (30 steps for V2 are
# few: its features agree long before they are decorrelated).

# %%
Image(filename=RUN / "figures" / "loss_terms.png")

# %% [markdown]
# ## Use it
#
# `report.html` in the run folder holds all of this on one page. In Python the run is a model that maps images in [0,
# 1] to the maps of every stage.

# %%
import torch

import lcl

model = lcl.load(RUN)
picture = torch.from_numpy(np.asarray(store[0], dtype=np.float32) / 255).permute(2, 0, 1)[None, :, :224, :224]
for name, maps in model(picture).items():
    print(name, tuple(maps.shape), f"one unit sees {model.receptive_field(name).size_deg():.2f} degrees")
