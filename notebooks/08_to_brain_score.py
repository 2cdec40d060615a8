# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. To Brain-Score
#
# From a run folder to a plugin that Brain-Score can score, and one of its scores by hand on a recording that anyone
# may have. `LCL_RUN` names a run folder; without it the model that comes with the package is taken.
# `LCL_BRAINSCORE_PYTHON` names the Python of an environment that has `brainscore-vision`; with it Brain-Score's own
# checks are run as well.

# %%
import json
import os

import numpy as np
import torch
from matplotlib.figure import Figure

import lcl
import neural_fits
from lcl.checkpoint import run_folder
from lcl.images import open_images
from lcl.measure import run_model
from lcl.submit import check_plugin, plugin_problems, write_plugin

# %matplotlib inline

RUN = run_folder(os.environ.get("LCL_RUN", "lcl-v2-small"))

# %% [markdown]
# ## The plugin
#
# The command is `lcl submit RUN --identifier NAME --weights-url URL --out FOLDER`. The weights themselves are not in
# the folder: put `weights.safetensors` at the address. A `file:///` address, as here, is for trying out on this
# machine.

# %%
plugin = write_plugin(
    RUN, "lcl_v2_mine", identifier="lcl-v2-mine", weights_url=(RUN / "weights.safetensors").resolve().as_uri()
)
for path in sorted(plugin.rglob("*")):
    if path.is_file():
        print(f"{path.relative_to(plugin)}: {path.stat().st_size:,} bytes")
assert not plugin_problems(plugin)

# %% [markdown]
# Which layer stands for which area:

# %%
print(json.dumps(json.loads(next((plugin / "region_layer_map").glob("*.json")).read_text()), indent=1))

# %% [markdown]
# The plugin does not need this package; its `model.py` is read here as Brain-Score would read it, and gives what the
# run gives.

# %%
print((plugin / "__init__.py").read_text())

# %% [markdown]
# ## Brain-Score's own checks

# %%
python = os.environ.get("LCL_BRAINSCORE_PYTHON")
if python:
    check_plugin(plugin, python=python)
else:
    print("LCL_BRAINSCORE_PYTHON is not set; `pip install -c constraints-brainscore.txt brainscore-vision safetensors`")
    print("in an environment of its own, then `lcl submit --check lcl_v2_mine --python THAT/bin/python`.")

# %% [markdown]
# ## A score of its kind, by hand
#
# Brain-Score's neural score: PLS with 25 components from a layer to the mean responses, ten random splits of 90 % and
# 10 %, the median over neurons of the correlation with held-out responses, squared, over the median reliability. Here
# the neurons are made, so that anyone can run it: each is a random mixture of the model's own V1 near the centre, with
# Poisson noise.

# %%
rng = np.random.default_rng(0)
store = open_images("builtin")
sizes = np.repeat(store.sizes, 15, axis=0)
corners = [(rng.integers(height - 128), rng.integers(width - 128)) for height, width in sizes]
patches = np.stack([store[i // 15][top : top + 128, left : left + 128] for i, (top, left) in enumerate(corners)])
model = lcl.load(RUN)
with torch.inference_mode():
    v1 = model(torch.from_numpy(patches / np.float32(255)).permute(0, 3, 1, 2))["V1"]
middle = v1.shape[2] // 2
drive = v1[:, :, middle, middle].numpy() @ rng.exponential(size=(v1.shape[1], 12)).astype(np.float32)
rate = 3 * drive / drive.mean(0)
counts = rng.poisson(rate[:, None], (len(patches), 20, 12))
px_per_degree = model.pixels_per_degree
recording = neural_fits.recording_from_arrays(
    counts, images=patches, size_deg=128 / px_per_degree, neuron={"region": "V1"}, name="made of V1"
)
options = {"splits": "random", "split_options": {"n_splits": 10, "train_size": 0.9}, "n_bootstrap": 200, "seed": 0}
tables = {
    name: neural_fits.fit_layers(each, recording, layers=["V1"], regression="pls", reduction="pool:7", **options)
    for name, each in (("trained", run_model(RUN)), ("untrained twin", run_model(RUN, seed=0)))
}
for name, table in tables.items():
    print(name, neural_fits.layer_score(table, "V1", "r2_over_ceiling"))

# %% [markdown]
# The same from its parts: correlations in the table, their median over neurons in every split, the mean over splits,
# squared, over the median reliability.

# %%
table = tables["trained"]
score = neural_fits.layer_score(table, "V1", "r2_over_ceiling")
r, reliability = score.raw, score.reliability
print(f"{r:.4f} squared is {r * r:.4f}; over {reliability:.4f} is {r * r / reliability:.4f}; score {score.value:.4f}")
assert np.isclose(r * r / reliability, score.value)

# %%
figure = Figure((5, 3), layout="constrained")
axes = figure.subplots()
rules = list(neural_fits.RULES)
for shift, (name, each) in zip((-0.1, 0.1), tables.items(), strict=True):
    scores = [neural_fits.layer_score(each, "V1", rule) for rule in rules]
    values, ends = np.array([score.value for score in scores]), np.array([score.interval_images for score in scores])
    errors = np.abs(ends - values[:, None]).T
    axes.errorbar(np.arange(len(rules)) + shift, values, errors, fmt="o", label=name)
axes.set_xticks(range(len(rules)), [rule.replace("_", "\n", 2) for rule in rules], fontsize=7)
axes.set(xlabel="rule", ylabel="score of V1\n(95 % interval over pictures)", ylim=(0, 1.05))
axes.legend(fontsize=8)
figure

# %% [markdown]
# Brain-Score used `r_over_ceiling_squared` before December 2025 and `r2_over_ceiling` since: scores of the two are not
# to be set side by side. Its recordings of V1 and V2 (Freeman, Ziemba et al. 2013) are partly private; the whole way,
# with the part that is public, is in [docs/brain-score.md](../docs/brain-score.md).
