"""Two augmented views of pictures and of their label maps, against kornia and against Pillow picture by picture.

Every side starts from the same decoded pictures (all of one size, which kornia needs) and label maps, and ends with two
batches of float pictures and two of label maps, with BYOL's two distributions of changes.

- ours: windows, flips and changes drawn for the batch; cut and scaled anti-aliased; labels by index; changes of the
  whole batch.
- kornia: an AugmentationSequential for each view (RandomResizedCrop, flip, ColorJiggle, grey, blur, solarise) on
  pictures and masks. Its jitters are in one order for the whole batch, and its windows are not anti-aliased.
- kornia, changes only: its ColorJiggle, grey, blur and solarise on our crops, against our changes on the same crops.
- Pillow: crop, resize, ImageEnhance, GaussianBlur and solarize for each picture, as in a data set's transform; changes
  by Pillow's own definitions (multiplied brightness, no hue).

    python benchmarks/two_views.py [--threads N] [--rounds N] [--batch 64] [--size 112]
"""

import math

import numpy as np
import torch
from kornia.augmentation import (
    AugmentationSequential,
    ColorJiggle,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomSolarize,
)
from kornia.constants import DataKey
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from side_by_side import arguments, header, in_turn, threads

from lcl.images import builtin_images, open_images
from vision_methods.two_views import PHOTOMETRIC, cut_labels, cut_views, draw_views, photometric_views

PICTURE_PX = 256


def pictures(count):
    """Squares of photographs, so that a decoder is no part of the comparison."""
    photographs = [image for image in builtin_images() if image.ndim == 3]
    rng = np.random.default_rng(0)
    cut = []
    for i in range(count):
        image = photographs[i % len(photographs)]
        top, left = (rng.integers(0, side - PICTURE_PX + 1) for side in image.shape[:2])
        cut.append(image[top : top + PICTURE_PX, left : left + PICTURE_PX])
    return np.stack(cut)


def kornia_changes(view, size):
    p, kernel = PHOTOMETRIC["byol"][view], 2 * (size // 20) + 1
    return [
        ColorJiggle(p.brightness, p.contrast, p.saturation, p.hue, p=p.jitter_probability),
        RandomGrayscale(p=p.grey_probability),
        RandomGaussianBlur((kernel, kernel), p.blur_sigma, border_type="constant", p=p.blur_probability),
        RandomSolarize(0.0, 0.0, p=p.solarise_probability),
    ]


def pillow_view(image, labels, view, size, rng):
    p = PHOTOMETRIC["byol"][view]
    area, aspect = rng.uniform(0.08, 1), math.exp(rng.uniform(-1, 1) * math.log(4 / 3))
    height, width = (min(PICTURE_PX, round(PICTURE_PX * math.sqrt(area * ratio))) for ratio in (1 / aspect, aspect))
    top, left = rng.integers(0, PICTURE_PX - height + 1), rng.integers(0, PICTURE_PX - width + 1)
    box = (left, top, left + width, top + height)
    image = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box)
    labels = Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST, box=box)
    if rng.random() < 0.5:
        image, labels = ImageOps.mirror(image), ImageOps.mirror(labels)
    if rng.random() < p.jitter_probability:
        for enhance, amplitude in (
            (ImageEnhance.Brightness, p.brightness),
            (ImageEnhance.Contrast, p.contrast),
            (ImageEnhance.Color, p.saturation),
        ):
            image = enhance(image).enhance(1 + amplitude * rng.uniform(-1, 1))
    if rng.random() < p.grey_probability:
        image = image.convert("L").convert("RGB")
    if rng.random() < p.blur_probability:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(*p.blur_sigma)))
    if rng.random() < p.solarise_probability:
        image = ImageOps.solarize(image)
    return np.asarray(image), np.asarray(labels)


def main():
    args = arguments(__doc__, batch={"type": int, "default": 64}, size={"type": int, "default": 112})
    header(["torch", "kornia", "pillow", "numpy"], args.threads)
    images = pictures(args.batch)
    store, index = open_images(list(images)), np.arange(args.batch)
    labels = np.random.default_rng(1).integers(0, 8, (args.batch, 16, 16)).repeat(16, 1).repeat(16, 2).astype(np.uint8)
    generator, rng, size = torch.Generator().manual_seed(0), np.random.default_rng(0), args.size
    float_images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    float_labels = torch.from_numpy(labels)[:, None].float()
    geometry = (RandomResizedCrop((size, size), resample="bicubic", cropping_mode="resample"), RandomHorizontalFlip())
    nearest = {DataKey.MASK: {"resample": "nearest", "align_corners": None}}
    chains = [
        AugmentationSequential(*geometry, *kornia_changes(view, size), data_keys=["input", "mask"], extra_args=nearest)
        for view in (0, 1)
    ]
    changes = [AugmentationSequential(*kornia_changes(view, size)) for view in (0, 1)]
    drawn = [draw_views(store.sizes, generator, photometric=PHOTOMETRIC["byol"][view]) for view in (0, 1)]
    crops = [cut_views(store, index, views, size) for views in drawn]
    result = {}

    def ours():
        result["ours"] = []
        for view in (0, 1):
            views = draw_views(store.sizes, generator, photometric=PHOTOMETRIC["byol"][view])
            maps = cut_labels(list(labels), views, size)
            result["ours"].append((photometric_views(cut_views(store, index, views, size), views), maps))

    def kornias():
        result["kornia"] = [chain(float_images.float() / 255, float_labels) for chain in chains]

    def pillows():
        result["Pillow"] = []
        for view in (0, 1):
            pairs = [pillow_view(*pair, view, size, rng) for pair in zip(images, labels, strict=True)]
            pixels, maps = (torch.from_numpy(np.stack(each)) for each in zip(*pairs, strict=True))
            result["Pillow"].append((pixels.permute(0, 3, 1, 2).float() / 255, maps))

    def our_changes():
        result["ours, changes only"] = [(photometric_views(*each), None) for each in zip(crops, drawn, strict=True)]

    def kornias_changes():
        result["kornia, changes only"] = [
            (chain(each.float() / 255), None) for chain, each in zip(changes, crops, strict=True)
        ]

    sides = {
        "ours": ours,
        "kornia": kornias,
        "Pillow": pillows,
        "ours, changes only": our_changes,
        "kornia, changes only": kornias_changes,
    }
    print(f"two views of {args.batch} pictures of {PICTURE_PX} px at {size} px and of their label maps")
    with threads(args.threads):
        for run in sides.values():  # warms up
            run()
        times = in_turn(sides, args.rounds)
    for name, views in result.items():
        for pixels, maps in views:
            if pixels.shape != (args.batch, 3, size, size) or not pixels.isfinite().all():
                raise RuntimeError(f"{name} gave pictures of shape {tuple(pixels.shape)} or not finite.")
            if maps is not None and not set(maps.unique().tolist()) <= set(range(8)):
                raise RuntimeError(f"{name} gave labels that no map has.")
    print(f"{'':22s} {'ms':>8s} {'CPU ms':>8s}   ours is faster: wall, CPU   mean level of the views")
    for name, (wall, cpu) in times.items():
        base = times["ours, changes only" if "changes" in name else "ours"]
        level = ", ".join(f"{float(pixels.mean()):.2f}" for pixels, _ in result[name])
        print(
            f"{name:22s} {1e3 * wall:8.1f} {1e3 * cpu:8.1f}   {wall / base[0]:11.2f}x {cpu / base[1]:9.2f}x   {level}"
        )


if __name__ == "__main__":
    main()
