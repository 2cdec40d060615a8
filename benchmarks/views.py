"""Two views of 256 patches: by one resampling, against the ways of other libraries.

Every way starts from the same uint8 pictures in memory and cuts the same source regions out of them; what differs is
how two views are made of every region (translation, dilation, contrast, luminance and noise of the default
deformation). The ways alternate within one run, and medians are compared.

- lcl: all parameters drawn at once, both views of all patches read by one bilinear resampling.
- kornia: an AugmentationSequential of RandomAffine, CenterCrop, ColorJiggle and RandomGaussianNoise, called twice.
- kornia, affine only: RandomAffine and CenterCrop, called twice; contrast, luminance and noise in plain torch.
- torchvision v2: RandomAffine, CenterCrop, ColorJitter and GaussianNoise, called per image and view, as in a data set.
- torch per image: affine_grid and grid_sample per image and view, with our parameters.
- Pillow per image: Image.transform per image and view, with our parameters; the rest in NumPy.

The last two are checked against ours before they are timed. torchvision is no requirement of this package, and is left
out where it is not installed.

    python benchmarks/views.py [--batch 256] [--repeats 15]
"""

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import kornia
import numpy as np
import PIL
import torch
from kornia.augmentation import AugmentationSequential, CenterCrop, ColorJiggle, RandomAffine, RandomGaussianNoise
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from lcl.images import open_images
from lcl.receptive_field import patch_side
from lcl.stages import LCLV2
from lcl.views import (
    Deformation,
    PixelDeformation,
    ViewParameters,
    choose_places,
    draw,
    in_pixels,
    noise_table,
    region_side,
    views,
)

PICTURES, PICTURE_PX = 300, 256
#: torch and NumPy round 0.5 of a grey level differently, and Pillow rounds to whole levels after reading.
LARGEST_DIFFERENCE = 1.5 / 255


def per_image_torch(regions: Tensor, parameters: ViewParameters, side_px: int, noise: float) -> Tensor:
    batch, channels, source, _ = regions.shape
    pair = torch.empty(batch, 2, channels, side_px, side_px)
    for b in range(batch):
        image = regions[b : b + 1].float() / 255
        for v in range(2):
            # affine_grid works in units of half a picture; the patch is a share of the region.
            theta = torch.cat(
                [
                    parameters.matrix[b, v] * (side_px - 1) / (source - 1),
                    parameters.shift_px[b, v, :, None] * 2 / (source - 1),
                ],
                1,
            )
            grid = affine_grid(theta[None], [1, channels, side_px, side_px], align_corners=True)
            view = grid_sample(image, grid, align_corners=True)[0]
            gain, mean = parameters.gain[b, v], view.mean()
            view = (view - mean) * gain + mean + parameters.offset[b, v, :, None, None]
            pair[b, v] = view + noise * torch.randn(view.shape) if noise else view
    return pair


def per_image_pillow(regions: np.ndarray, parameters: ViewParameters, side_px: int, noise: float) -> Tensor:
    batch, source, _, channels = regions.shape
    pair = np.empty((batch, 2, channels, side_px, side_px), dtype=np.float32)
    matrices, shifts, gains, offsets = (value.numpy() for value in parameters if isinstance(value, Tensor))
    rng = np.random.default_rng()
    for b in range(batch):
        image = Image.fromarray(regions[b])
        for v in range(2):
            # Pillow counts from the corner of the first pixel.
            corner = source / 2 + shifts[b, v] - matrices[b, v].sum(1) * side_px / 2
            rows = np.concatenate([matrices[b, v], corner[:, None]], 1)
            read = image.transform(
                (side_px, side_px), Image.Transform.AFFINE, rows.ravel().tolist(), Image.Resampling.BILINEAR
            )
            view = np.asarray(read, dtype=np.float32).transpose(2, 0, 1) / 255
            mean = view.mean()
            view = (view - mean) * gains[b, v] + mean + offsets[b, v, :, None, None]
            pair[b, v] = view + noise * rng.standard_normal(view.shape, dtype=np.float32) if noise else view
    return torch.from_numpy(pair)


def with_kornia(chain: AugmentationSequential, regions: Tensor) -> Tensor:
    image = regions.float() / 255
    return torch.stack([chain(image), chain(image)], 1)


def with_kornias_affine(geometry: AugmentationSequential, deformation: Deformation, regions: Tensor) -> Tensor:
    image = regions.float() / 255
    pair = torch.stack([geometry(image), geometry(image)], 1)
    gain, offset = (torch.rand(2, len(pair), 2, 1, 1, 1) * 2 - 1).unbind()
    gain, offset = 1 + deformation.contrast * gain, deformation.luminance * offset
    mean = pair.mean((2, 3, 4), keepdim=True)
    return pair * gain + (mean * (1 - gain) + offset) + deformation.noise * torch.randn(pair.shape)


def with_torchvision(chain: Callable[[Tensor], Tensor], regions: Tensor) -> Tensor:
    return torch.stack(
        [torch.stack([chain(image), chain(image)]) for image in (each.float() / 255 for each in regions)]
    )


def torchvision_chain(
    deformation: Deformation, amplitude: PixelDeformation, side_px: int, region_px: int
) -> Callable[[Tensor], Tensor] | None:
    try:
        from torchvision.transforms import InterpolationMode, v2  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    factor, shift = 2**amplitude.dilation_octaves, amplitude.translation_px / region_px
    return v2.Compose(
        [
            v2.RandomAffine(
                0, translate=(shift, shift), scale=(1 / factor, factor), interpolation=InterpolationMode.BILINEAR
            ),
            v2.CenterCrop(side_px),
            v2.ColorJitter(brightness=deformation.luminance, contrast=deformation.contrast),
            v2.GaussianNoise(sigma=deformation.noise, clip=False),
        ]
    )


def measure(stage: str, size_px: int, batch: int, repeats: int, pictures: np.ndarray) -> None:
    side_px, deformation = patch_side(size_px), Deformation()
    amplitude = in_pixels(deformation, size_px, size_px)
    region_px = region_side(side_px, amplitude)
    store = open_images(list(pictures))
    generator = torch.Generator().manual_seed(0)
    values = batch * 2 * 3 * side_px**2
    table = deformation.noise * noise_table(values, generator)
    factor, shift = 2**amplitude.dilation_octaves, amplitude.translation_px / region_px
    affine = partial(RandomAffine, 0, translate=(shift, shift), scale=(1 / factor, factor), align_corners=True, p=1.0)
    geometry = AugmentationSequential(affine(), CenterCrop(side_px))
    chain = AugmentationSequential(
        affine(),
        CenterCrop(side_px),
        ColorJiggle(brightness=deformation.luminance, contrast=deformation.contrast),
        RandomGaussianNoise(std=deformation.noise, p=1.0),
    )

    def cut() -> np.ndarray:
        places = choose_places(store.sizes, batch, region_px, generator)
        return store.crops(places.image, places.top, places.left, region_px)

    def as_tensor(regions: np.ndarray) -> Tensor:
        return torch.from_numpy(regions).permute(0, 3, 1, 2)

    def drawn() -> ViewParameters:
        return draw(batch, amplitude, deformation, side_px, generator)

    def ours() -> Tensor:
        regions, parameters = as_tensor(cut()), drawn()
        noise = table[parameters.noise_start :][:values].view(batch, 2, 3, side_px, side_px)
        return views(regions, parameters, side_px, noise=noise)

    # What is timed must be the same work: the per-image ways read the same views as ours.
    regions, parameters = cut(), drawn()
    expected = views(as_tensor(regions), parameters, side_px)
    for other in (
        per_image_torch(as_tensor(regions), parameters, side_px, 0),
        per_image_pillow(regions, parameters, side_px, 0),
    ):
        if (other - expected).abs().max() > LARGEST_DIFFERENCE:
            raise RuntimeError("The ways of making views disagree, so that their times cannot be compared.")

    ways: dict[str, Callable[[], Tensor]] = {
        "lcl": ours,
        "kornia": lambda: with_kornia(chain, as_tensor(cut())),
        "kornia, affine only": lambda: with_kornias_affine(geometry, deformation, as_tensor(cut())),
        "torch per image": lambda: per_image_torch(as_tensor(cut()), drawn(), side_px, deformation.noise),
        "Pillow per image": lambda: per_image_pillow(cut(), drawn(), side_px, deformation.noise),
    }
    per_image = torchvision_chain(deformation, amplitude, side_px, region_px)
    if per_image is not None:
        ways["torchvision v2 per image"] = lambda: with_torchvision(per_image, as_tensor(cut()))
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way, make in ways.items():
            start = time.perf_counter()
            pair = make()
            if repeat:  # the first round warms up
                seconds[way].append(time.perf_counter() - start)
            if pair.shape != expected.shape or not pair.isfinite().all():
                raise RuntimeError(f"{way} gave views of shape {tuple(pair.shape)}; expected {tuple(expected.shape)}.")
    print(f"\n{stage}: receptive field {size_px} px, patch {side_px} px, source region {region_px} px")
    base = median(seconds["lcl"])
    for way, times in seconds.items():
        step = median(times)
        ratio = "" if way == "lcl" else f", lcl is {step / base:.1f} times faster"
        print(f"  {way}: {1e3 * step:.1f} ms ({1e3 * min(times):.1f} to {1e3 * max(times):.1f}){ratio}")
    if per_image is None:
        print("  torchvision v2 per image: left out, torchvision is not installed")


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if options.repeats < 7:
        parser.error(f"--repeats is {options.repeats}; expected at least 7, so that a median means something.")
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, PICTURE_PX, PICTURE_PX, 3), dtype=np.uint8)
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}")
    print(f"{processor()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print(f"torch {torch.__version__}, kornia {kornia.__version__}, NumPy {np.__version__}, Pillow {PIL.__version__}")
    print(f"two views of {options.batch} colour patches, median of {options.repeats} alternating repeats")
    model = LCLV2()
    for stage in model.names:
        measure(stage, model.receptive_field(stage).size_px, options.batch, options.repeats, pictures)


if __name__ == "__main__":
    main()
