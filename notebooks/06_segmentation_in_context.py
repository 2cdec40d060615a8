# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. Segmentation in context: a few annotated photographs, no training
#
# Hummingbird's decoder: every patch of a new picture looks for the most alike patches of a few annotated pictures (the
# prompts), and takes their labels, weighted by likeness. Nothing is trained. Two sets are made from what ships with the
# package and with scikit-image: a photograph of coins, cut up, and mosaics of textures with exact maps. For your own
# set `LCL_PROMPTS` to a folder with `pictures/NAME.png` and `labels/NAME.png` (grey level = number of the class); the
# last third of the names are the new pictures.

# %%
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image
from scipy.ndimage import binary_fill_holes, label
from skimage import data, filters
from skimage.segmentation import watershed

from neural_fits.baselines import gabor_energy
from stimuli.textures import ready_textures
from vision_methods.cosine_search import SEARCHES
from vision_methods.dense_memory import DenseMemory, Retrieval, patch_labels, retrieve
from vision_methods.dense_retrieval import colour, patch_features, predict
from vision_methods.prompt_views import as_square
from vision_methods.segments import confusion

# %matplotlib inline


@dataclass
class Task:
    """Annotated pictures, and new ones whose maps serve to judge."""

    prompts: list[np.ndarray]
    prompt_labels: list[np.ndarray]
    queries: list[np.ndarray]
    truth: list[np.ndarray]
    classes: tuple[str, ...]


# %% [markdown]
# ## A photograph of coins
#
# What is a coin follows from the photograph itself: basins of its edges around what is certainly dark or bright. Two
# thirds of it are prompts, the rest is new.

# %%
photograph = data.coins()
certain = np.where(photograph > 150, 2, np.where(photograph < 30, 1, 0))
regions, n = label(binary_fill_holes(watershed(filters.sobel(photograph), certain) == 2))
coins = (regions > 0) & (np.bincount(regions.ravel())[regions] > 300)
tiles = [(slice(top, top + 150), slice(left, left + 128)) for left in (0, 128, 256) for top in (0, 150)]
pictures = [np.repeat(photograph[tile][..., None], 3, 2) for tile in tiles]
maps = [coins[tile].astype(int) for tile in tiles]
tasks = {"coins": Task(pictures[:4], maps[:4], pictures[4:], maps[4:], ("ground", "coin"))}

# %% [markdown]
# ## Mosaics of textures
#
# Three regions, each the points nearest to one of three places, filled with textures of four families. The new pictures
# are made of *other samples* of the families.

# %%
FAMILIES = ("brick", "fur", "gravel", "text")
textures = ready_textures()
kind, family, sample = (np.asarray(textures.parameters[name]) for name in ("type", "family", "sample"))


def mosaic(samples: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture of three textures and its map."""
    rows, columns = np.mgrid[:128, :128]
    places = rng.uniform(16, 112, (3, 2))
    region = np.argmin([np.hypot(rows - y, columns - x) for y, x in places], axis=0)
    shown = rng.choice(len(FAMILIES), 3, replace=False)
    grey = np.zeros((128, 128), np.uint8)
    for number, which in enumerate(shown):
        rows_of = np.flatnonzero((kind == "texture") & (family == FAMILIES[which]) & np.isin(sample, samples))
        grey[region == number] = textures.images[rng.choice(rows_of)][region == number]
    return np.repeat(grey[..., None], 3, 2), shown[region]


rng = np.random.default_rng(0)
samples = np.unique(sample)
learned = [mosaic(samples[:3], rng) for _ in range(6)]
asked = [mosaic(samples[3:], rng) for _ in range(4)]
tasks["textures"] = Task(*map(list, zip(*learned, strict=True)), *map(list, zip(*asked, strict=True)), FAMILIES)

# %%
folder = os.environ.get("LCL_PROMPTS")
if folder:
    names = sorted(path.name for path in (Path(folder) / "pictures").glob("*.png"))
    pictures = [np.asarray(Image.open(Path(folder) / "pictures" / name).convert("RGB")) for name in names]
    maps = [np.asarray(Image.open(Path(folder) / "labels" / name).convert("L")).astype(int) for name in names]
    new = max(1, len(names) // 3)
    classes = tuple(f"class {number}" for number in range(1 + max(int(each.max()) for each in maps)))
    tasks["yours"] = Task(pictures[:-new], maps[:-new], pictures[-new:], maps[-new:], classes)

COLOURS = ListedColormap(["#bbbbbb", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#f0e442", "#56b4e9", "#000000"])


def draw(columns: list[list[np.ndarray]], rows: tuple[str, ...], classes: tuple[str, ...]) -> Figure:
    """Pictures (three channels) and maps, a column for each picture."""
    figure = Figure((1.6 * len(columns) + 1.4, 1.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for column, content in zip(panels.T, columns, strict=True):
        for axes, what in zip(column, content, strict=True):
            axes.imshow(what, **({} if what.ndim == 3 else {"cmap": COLOURS, "vmin": -0.5, "vmax": 7.5}))
            axes.set(xticks=[], yticks=[])
    for axes, row in zip(panels[:, 0], rows, strict=True):
        axes.set_ylabel(row)
    keys = [Patch(facecolor=COLOURS(i), edgecolor="0.5", label=name) for i, name in enumerate(classes)]
    figure.legend(handles=keys, loc="outside right upper", fontsize=8)
    return figure


def draw_prompts(task: Task) -> Figure:
    """At most six of them."""
    return draw(
        [list(pair) for pair in zip(task.prompts, task.prompt_labels, strict=True)][:6],
        ("prompt", "its labels"),
        task.classes,
    )


draw_prompts(tasks["coins"])

# %%
draw_prompts(tasks["textures"])

# %% [markdown]
# ## Predict
#
# One call for each new picture. Any model with maps will do: complex cells of the Gabor-energy model, averaged to 14 x
# 14 places, and the colour of pixels (here their grey level) as the reference.

# %%
AS_THEY_ARE = Retrieval(neighbours=30, temperature=0.02, augmentations=0)
SIDE = 14
models = {"Gabor energy": (gabor_energy(input_px=224), "complex"), "pixel colour": (colour(224), "colour")}
predictions = {
    (name, which): [
        predict(
            query,
            task.prompts,
            task.prompt_labels,
            model=model,
            layer=layer,
            retrieval=AS_THEY_ARE,
            side=SIDE,
        )
        for query in task.queries
    ]
    for name, task in tasks.items()
    for which, (model, layer) in models.items()
}


def draw_predictions(name: str) -> Figure:
    """New pictures, what is true and what was read."""
    task = tasks[name]
    read = [predictions[name, which] for which in models]
    columns = [list(each) for each in zip(task.queries, task.truth, *read, strict=True)]
    return draw(columns, ("new picture", "truth", *models), task.classes)


draw_predictions("coins")

# %%
draw_predictions("textures")

# %% [markdown]
# Mean IoU over classes, from the counts of all new pictures: pixels rightly called a class over all pixels that are, or
# are called, that class.


# %%
def mean_iou(task: Task, answers: list[np.ndarray]) -> float:
    """Over the classes that occur."""
    counts = sum(confusion(t, p, n_classes=len(task.classes)) for t, p in zip(task.truth, answers, strict=True))
    right, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    return float((right / np.maximum(union, 1))[counts.sum(1) > 0].mean())


for name, task in tasks.items():
    for which in models:
        print(f"{name:9s} {which:15s} mean IoU {mean_iou(task, predictions[name, which]):.3f}")
    print(f"{name:9s} {'one class':15s} mean IoU {mean_iou(task, [np.zeros_like(t) for t in task.truth]):.3f}")

# %% [markdown]
# Coins are brighter than the ground, so their grey level says more than orientations do; textures of equal mean grey
# cannot be told apart by it at all.
#
# ## Which patches were used?
#
# The memory is nothing but the patches of the prompts, so every answer can be traced. For one patch of a new picture:
# the five most alike remembered patches, where they come from, and the weight with which each speaks.

# %%
task, (model, layer) = tasks["textures"], models["Gabor energy"]
remembered = patch_features(model, torch.cat([as_square(each, 224) for each in task.prompts]), [layer], side=SIDE)[
    layer
]
keys = F.normalize(remembered.movedim(1, 3).flatten(0, 2), dim=1)
labels = torch.cat([patch_labels(each, (SIDE, SIDE), n_classes=len(task.classes)) for each in task.prompt_labels])
new = patch_features(model, as_square(task.queries[0], 224), [layer], side=SIDE)[layer].movedim(1, 3).flatten(0, 2)

# The patch that is furthest inside the largest region.
cells = patch_labels(task.truth[0], (SIDE, SIDE), n_classes=len(task.classes))
largest = int(cells.sum(0).argmax())
inside = (cells[:, largest] == 1).float().reshape(1, 1, SIDE, SIDE)
place = int(F.avg_pool2d(inside, 7, stride=1, padding=3).flatten().argmax())

search = SEARCHES["exact"](keys)
cosines, entries = search(F.normalize(new[place : place + 1], dim=1), AS_THEY_ARE.neighbours)
weights = (cosines[0] / AS_THEY_ARE.temperature).softmax(0)
answer = (weights[:, None] * labels[entries[0]]).sum(0)
said = {name: round(float(share), 2) for name, share in zip(task.classes, answer, strict=True)}
print(f"truth: {task.classes[largest]}; answer: {said}")
same = retrieve(new[place : place + 1], DenseMemory(keys, labels), search, neighbours=30, temperature=0.02)
assert torch.allclose(same[0], answer, atol=1e-5)


# %%
def mark(axes, picture: np.ndarray, cell: int, title: str) -> None:
    """A picture and the patch in it."""
    height, width = picture.shape[0] / SIDE, picture.shape[1] / SIDE
    axes.imshow(picture)
    corner = (cell % SIDE * width, cell // SIDE * height)
    axes.add_patch(Rectangle(corner, width, height, fill=False, color="#e00000", lw=2))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)


figure = Figure((11, 2.3), layout="constrained")
panels = figure.subplots(1, 6)
mark(panels[0], task.queries[0], place, f"asked: {task.classes[largest]}")
for axes, entry, weight in zip(panels[1:], entries[0].tolist(), weights.tolist(), strict=False):
    picture, cell = divmod(entry, SIDE * SIDE)
    title = f"prompt {picture}: {task.classes[int(labels[entry].argmax())]}\nweight {weight:.2f}"
    mark(axes, task.prompts[picture], cell, title)
figure

# %% [markdown]
# Trained layers, more prompts and photographs: `lcl retrieve RUN --prompts coco/instances.json`; how it is judged is in
# [docs/methods-hummingbird.md](../docs/methods-hummingbird.md).
