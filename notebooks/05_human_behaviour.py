# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Human behaviour: do a model and a person err at the same pictures?
#
# Accuracy alone cannot say it. Error consistency can: how often two observers are both right or both wrong, beyond
# what their accuracies imply. Everything here runs on made trials whose answer is known, and on pictures of the
# package. Set `LCL_TRIALS` to the folder `raw-data` of github.com/bethgelab/model-vs-human for the people themselves.

# %%
import os

import numpy as np
from matplotlib.figure import Figure

from neural_fits.activations import activations
from neural_fits.baselines import gabor_energy
from neural_fits.behavior.measures import (
    error_consistency,
    error_consistency_interval,
    expected_consistency,
    kappa,
    kappa_bounds,
    observed_consistency,
    shape_bias,
)
from neural_fits.behavior.observers import observer_table, pair_table
from neural_fits.behavior.readout import RidgeReadout
from neural_fits.behavior.trials import read_experiment, trials_from_columns
from stimuli.distortions import DISTORTIONS
from stimuli.textures import ready_textures

# %matplotlib inline

# %% [markdown]
# ## The number, by hand
#
# 100 pictures. A is right on 80, B on 70; both are right on 62 and both wrong on 12, so they agree on 74. Two
# observers who err independently with these accuracies agree on 0.8 x 0.7 + 0.2 x 0.3 = 0.62. What is beyond that, of
# what is possible: (0.74 - 0.62) / (1 - 0.62) = 0.316.

# %%
a = np.repeat([1, 1, 0, 0], [62, 18, 8, 12])
b = np.repeat([1, 0, 1, 0], [62, 18, 8, 12])
observed, expected = observed_consistency(a, b), expected_consistency(a.mean(), b.mean())
low, high = error_consistency_interval(a, b)
print(f"observed {observed:.2f}, expected {expected:.2f}, error consistency {kappa(observed, expected):.3f}")
print(f"95 % interval over pictures {low:.2f} to {high:.2f}")
print("possible with these accuracies: {:.2f} to {:.2f}".format(*kappa_bounds(0.8, 0.7)))
assert np.isclose(error_consistency(a, b), (0.74 - 0.62) / (1 - 0.62))

# %% [markdown]
# ## People who find the same pictures hard
#
# Four made people see 160 pictures at four contrasts. Each picture has a difficulty of its own; `shared` says how much
# of it is common to all people. With none in common error consistency has to be 0 whatever the accuracy, and it has to
# rise with `shared` though accuracies stay the same.

# %%
rng = np.random.default_rng(0)
CATEGORIES = ("bear", "boat", "car", "cat")
LEVELS = (100, 30, 10, 5)
N = 160


def people(shared: float):
    """Trials of four people whose difficulties have this much variance in common."""
    common = rng.standard_normal((N, len(LEVELS)))
    columns = {key: [] for key in ("observer", "image", "condition", "category", "response")}
    for person in "ABCD":
        own = rng.standard_normal((N, len(LEVELS)))
        difficulty = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
        for j, level in enumerate(LEVELS):
            right = difficulty[:, j] < (1.6, 0.9, 0.3, -0.4)[j]
            for i in range(N):
                category = CATEGORIES[i % 4]
                wrong = CATEGORIES[(i + 1 + rng.integers(3)) % 4]
                columns["observer"].append(person)
                columns["image"].append(f"{category}{i}")
                columns["condition"].append(str(level))
                columns["category"].append(category)
                columns["response"].append(category if right[i] else wrong)
    return trials_from_columns(**columns, name=f"shared {shared:g}")


figure = Figure((7, 3), layout="constrained")
left, right = figure.subplots(1, 2)
for shared in (0.0, 0.5, 0.9):
    trials = people(shared)
    left.plot(LEVELS, observer_table(trials).accuracy.mean("observer").sel(condition=[str(x) for x in LEVELS]), "o-")
    pairs = pair_table(trials).error_consistency.sel(condition=[str(x) for x in LEVELS])
    right.errorbar(
        LEVELS, pairs.mean("pair"), pairs.std("pair"), fmt="o-", label=f"{shared:g} of the difficulty shared"
    )
left.axhline(0.25, color="0.7", linestyle=":", label="chance")
left.set(xscale="log", xlabel="contrast (%)", ylabel="accuracy (mean of four people)", ylim=(0, 1))
right.axhline(0, color="0.7", linestyle=":")
right.set(xscale="log", xlabel="contrast (%)", ylabel="error consistency\n(mean and s.d. of six pairs)", ylim=(-0.2, 1))
left.legend(fontsize=8)
right.legend(fontsize=8)
figure

# %% [markdown]
# ## Models as observers
#
# Two models name the family of a texture, by the same read-out: Gabor energy of low and of high spatial frequencies.
# They learn from three samples of each of the 15 families and are asked about the other two, in rising noise. High
# frequencies say more where there is no noise, and drown in it first.

# %%
textures = ready_textures()
kind, family, sample = (np.asarray(textures.parameters[name]) for name in ("type", "family", "sample"))
learned = (kind == "texture") & np.isin(sample, np.unique(sample)[:3])
asked = (kind == "texture") & ~learned
# A texture has no place of its own: four shifts of each picture, so that 120 are asked about.
shifts = [np.roll(textures.images, (64 * i, 64 * j), axis=(1, 2)) for i in (0, 1) for j in (0, 1)]


def shown(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures in [0, 1] and their families."""
    return np.concatenate([each[rows] for each in shifts]) / np.float32(255), np.tile(family[rows], len(shifts))


NOISE = (0.0, 0.03, 0.05, 0.1, 0.2)
train_pictures, train_families = shown(learned)
pictures, families = shown(asked)
correct = {}
for name, model in (
    ("Gabor energy, up to 1 cycle/deg", gabor_energy(input_px=112, grid=14, frequencies_cpd=(0.5, 1.0))),
    ("Gabor energy, 2 and 4 cycles/deg", gabor_energy(input_px=112, grid=14, frequencies_cpd=(2.0, 4.0))),
):

    def features(images, model=model):
        """Averages over a 3 x 3 grid, as a read-out sees the layer."""
        found = activations(model, images, size_deg=8.0, layers="complex", reduction="pool:3")
        return next(iter(found.values())).reshape(len(images), -1)

    # As it is asked: this distortion shows all pictures at 30 % contrast, without noise too.
    readout = RidgeReadout().fit(features(DISTORTIONS["uniform-noise"](train_pictures, 0.0)), train_families)
    correct[name] = {
        level: readout.predict(features(DISTORTIONS["uniform-noise"](pictures, level, 0))) == families
        for level in NOISE
    }

figure = Figure((7, 3), layout="constrained")
left, right = figure.subplots(1, 2)
for name, by_level in correct.items():
    left.plot(NOISE, [by_level[level].mean() for level in NOISE], "o-", label=name)
left.axhline(1 / 15, color="0.7", linestyle=":", label="chance")
left.set(xlabel="half width of uniform noise (share of the range)", ylabel="accuracy", ylim=(-0.3, 1))
left.legend(fontsize=7, loc="lower left")
values, intervals = [], []
for level in NOISE:
    x, y = (by_level[level].astype(float) for by_level in correct.values())
    values.append(error_consistency(x, y))
    intervals.append(error_consistency_interval(x, y, n_resamples=500))
low, high = np.array(intervals).T
right.errorbar(NOISE, values, (values - low, high - values), fmt="o", color="0.2", label="95 % over pictures")
right.axhline(0, color="0.7", linestyle=":", label="independent errors")
right.set(
    xlabel="half width of uniform noise (share of the range)", ylabel="error consistency of the two", ylim=(-0.6, 1)
)
right.legend(fontsize=8)
figure

# %% [markdown]
# ## Shape bias
#
# Where shape and texture say different things, whose side are decisions on? Decisions for neither are left out: three
# for the shape, one for the texture, one for neither is 3 / (3 + 1) = 0.75.

# %%
print(shape_bias(["cat", "cat", "cat", "dog", "car"], ["cat"] * 5, ["dog"] * 5))

# %% [markdown]
# ## People
#
# With the trials of ten people who saw the cue-conflict pictures of Geirhos et al. (2019).

# %%
folder = os.environ.get("LCL_TRIALS")
if folder is None:
    print("LCL_TRIALS is not set: git clone https://github.com/bethgelab/model-vs-human, then its folder raw-data.")
else:
    trials = read_experiment(f"{folder}/cue-conflict")
    print(observer_table(trials).shape_bias.to_series().round(3).to_string())
    pairs = pair_table(trials).error_consistency
    print(f"error consistency of people with one another {float(pairs.mean()):.3f}")
