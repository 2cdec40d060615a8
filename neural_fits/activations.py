"""Responses of any layer of any torch model to pictures of a known size in degrees.

Pictures are placed in the model's visual field and go through it in batches; every layer is copied out, made smaller as
asked, and written to memory, to memory-mapped files, or to a cache whose keys are made of content: the weights and code
of the model, its preprocessing, the pixels and the code of this package.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from neural_fits import content, placing, vision_model
from neural_fits.content import digest, file_digest
from neural_fits.placing import CHUNK, picture_size, place, some_pictures
from neural_fits.vision_model import VisionModel, as_vision_model, device_of, layer_names, layer_responses
from stimuli.files import replacing

log = logging.getLogger(__name__)

#: Features at once where matrices are made or multiplied: they need never be whole.
BLOCK = 4096
#: Numbers that are kept where a reduction does not say how many.
DEFAULT_COMPONENTS = {"random_projection": 4096, "pca": 1000}
REDUCTIONS = ("all", "maps", "spatial_mean", "pool:N", "random_projection:N", "pca:N")
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Reduction:
    """What is kept of a layer.

    Attributes
    ----------
    kind : {"all", "maps", "spatial_mean", "pool", "random_projection", "pca"}
    size : int, optional
        Side of the grid of ``pool``, or number of features of a projection.

    Examples
    --------
    >>> parse_reduction("pool:13")
    Reduction(kind='pool', size=13)
    """

    kind: str
    size: int | None = None

    def shape(self, layer: str, shape: Sequence[int], n_fit: int) -> tuple[int, ...]:
        """Shape of what is kept of one stimulus, of a layer with this shape, fitted (PCA) on so many."""
        n_features = math.prod(shape)
        if self.kind in ("maps", "pool"):
            if len(shape) not in (1, 3):
                raise ValueError(
                    f"layer {layer} has shape {tuple(shape)} for a picture; reduction {self.kind!r} expects maps "
                    "(channel, row, column), or a vector as maps of one place; expected reduction 'all' or another "
                    "layer."
                )
            maps = tuple(shape) if len(shape) == 3 else (*shape, 1, 1)
            return (maps[0], *(min(side, self.size) for side in maps[1:])) if self.size else maps
        if self.kind == "spatial_mean":
            if len(shape) > 3:
                raise ValueError(
                    f"layer {layer} has shape {tuple(shape)} for a picture; expected maps, tokens or a vector."
                )
            return (shape[1] if len(shape) == 2 else shape[0],)
        if self.kind == "random_projection":
            return (min(n_features, self.size or DEFAULT_COMPONENTS[self.kind]),)
        if self.kind == "pca":
            most = min(n_features, n_fit - 1)
            if (self.size or 1) > most:
                raise ValueError(
                    f"layer {layer} has {n_features} features and PCA {n_fit} pictures, which leave {most} components; "
                    f"expected at most that many, and at least one, instead of {self.size or 'some'}."
                )
            return (self.size or min(most, DEFAULT_COMPONENTS[self.kind]),)
        return (n_features,)


def parse_reduction(text: str) -> Reduction:
    """Reduction of a text such as ``pool:13``.

    Parameters
    ----------
    text : str
        See :func:`activations`.

    Returns
    -------
    Reduction

    Raises
    ------
    ValueError
        If there is no such reduction.

    Examples
    --------
    >>> parse_reduction("spatial_mean")
    Reduction(kind='spatial_mean', size=None)
    """
    kind, colon, size = text.partition(":")
    sized = kind in ("pool", "random_projection", "pca")
    valid = re.fullmatch("[1-9][0-9]*", size) if sized and colon else not colon and kind != "pool"
    if kind not in {each.partition(":")[0] for each in REDUCTIONS} or not valid:
        raise ValueError(f"reduction is {text!r}; expected one of {', '.join(REDUCTIONS)}, with a number as N.")
    return Reduction(kind, int(size) if size else None)


def random_projection(n_features: int, n_components: int, *, seed: int) -> scipy.sparse.csr_array:
    """Very sparse random projection, which keeps squared distances in expectation.

    Entries are ``±sqrt(1 / (density * n_components))`` with probability ``density = 1 / sqrt(n_features)``, else 0
    (Li, Hastie & Church 2006, KDD). They are drawn block by block of features; the matrix has about
    ``n_components * sqrt(n_features)`` entries, and depends on its shape and the seed alone.

    Parameters
    ----------
    n_features, n_components : int
    seed : int

    Returns
    -------
    scipy.sparse.csr_array, (n_features, n_components)
        float32.

    Examples
    --------
    >>> matrix = random_projection(10_000, 50, seed=0)
    >>> matrix.shape, bool(abs(matrix.nnz / 5_000 - 1) < 0.1)
    ((10000, 50), True)
    """
    density = 1 / math.sqrt(n_features)
    scale = np.float32(math.sqrt(1 / (density * n_components)))
    blocks = []
    for start in range(0, n_features, BLOCK):
        rng = np.random.default_rng([seed, n_features, n_components, start])
        n_rows = min(BLOCK, n_features - start)
        number = rng.binomial(n_rows * n_components, density)
        places = rng.choice(n_rows * n_components, number, replace=False, shuffle=False)
        values = np.where(rng.random(number) < 0.5, -scale, scale)
        rows, columns = np.divmod(places, n_components)
        blocks.append(scipy.sparse.coo_array((values, (rows, columns)), (n_rows, n_components)).tocsr())
    return scipy.sparse.csr_array(scipy.sparse.vstack(blocks, format="csr"))


def principal_components(features: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact principal components, of the smaller of the two products of features with themselves, in double precision.

    The features are overwritten by the components where there are more features than stimuli, so that nothing of
    their size is needed beside them. Signs are such that the largest score of each component is positive.

    Parameters
    ----------
    features : ndarray, (stimulus, feature)
        In memory or memory-mapped; changed.
    n_components : int
        Fewer than stimuli, and not more than features.

    Returns
    -------
    mean : ndarray, (feature,)
    components : ndarray, (component, feature)
        Of unit length; zero beyond the rank of the features.
    scores : ndarray, (stimulus, component)

    Examples
    --------
    >>> mean, components, scores = principal_components(np.array([[0.0, 0.0], [2.0, 2.0], [7.0, 7.0]]), 1)
    >>> np.abs(components).round(3), scores.round(3).ravel().tolist()
    (array([[0.707, 0.707]]), [-4.243, -1.414, 5.657])
    """
    n, n_features = features.shape
    column_blocks = [slice(start, start + BLOCK) for start in range(0, n_features, BLOCK)]
    row_blocks = [slice(start, start + BLOCK) for start in range(0, n, BLOCK)]
    mean = np.concatenate([features[:, block].mean(0, dtype=np.float64) for block in column_blocks])
    if n_features <= n:
        scatter = np.zeros((n_features, n_features))
        for block in row_blocks:
            centred = features[block] - mean
            scatter += centred.T @ centred
        components = np.linalg.eigh(scatter)[1][:, ::-1][:, :n_components].T
        scores = np.concatenate([(features[block] - mean) @ components.T for block in row_blocks])
        signs = _signs(scores)
        return mean, components * signs[:, None], scores * signs
    gram = np.zeros((n, n))
    for block in column_blocks:
        centred = features[:, block] - mean[block]
        gram += centred @ centred.T
    values, vectors = np.linalg.eigh(gram)
    lengths = np.sqrt(np.maximum(values[::-1][:n_components], 0))
    vectors = vectors[:, ::-1][:, :n_components]
    vectors = vectors * _signs(vectors)
    # Squares of lengths carry the rounding of double precision, relative to the largest.
    real = lengths > lengths[0] * math.sqrt(n * np.finfo(float).eps)
    lengths, inverse = np.where(real, lengths, 0), np.divide(1, lengths, out=np.zeros_like(lengths), where=real)
    for block in column_blocks:
        features[:n_components, block] = (vectors * inverse).T @ (features[:, block] - mean[block])
    return mean, features[:n_components], vectors * lengths


def _signs(scores: np.ndarray) -> np.ndarray:
    largest = scores[np.abs(scores).argmax(0), np.arange(scores.shape[1])]
    return np.where(largest < 0, -1.0, 1.0)


class Activations(dict[str, np.ndarray]):
    """Arrays of layers, by name; and for each layer whether the cache had it.

    Attributes
    ----------
    cache : dict of str to {"hit", "miss", "damaged"}
        A damaged entry was computed and written again. Empty where no cache was given.
    estimate : Estimate or None
        Of what had to be computed; None where nothing had.

    Examples
    --------
    >>> Activations(conv1=np.zeros((2, 3))).cache
    {}
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.cache: dict[str, str] = {}
        self.estimate: Estimate | None = None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Time and memory of a run, from one small batch.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        Of the array of each layer.
    layer_bytes : dict of str to int
        Of the array of each layer.
    fit_bytes : int
        Features that PCA is fitted on: in memory, or beside the files.
    working_bytes : int
        Always in memory while it runs: a batch, copies of its layers, matrices of reductions. What the model itself
        takes is not in it.
    seconds : float
        At the speed of the small batch.
    """

    shapes: dict[str, tuple[int, ...]]
    layer_bytes: dict[str, int]
    fit_bytes: int
    working_bytes: int
    seconds: float

    @property
    def result_bytes(self) -> int:
        """All arrays together."""
        return sum(self.layer_bytes.values())

    @property
    def memory_bytes(self) -> int:
        """Most that a run in memory takes."""
        return self.result_bytes + self.fit_bytes + self.working_bytes

    def __str__(self) -> str:
        """One line."""
        return (
            f"{_size(self.result_bytes)} of activations, {_size(self.fit_bytes + self.working_bytes)} while it runs, "
            f"about {self.seconds:.0f} s"
        )


def estimate(
    model: Any,
    images: np.ndarray | Tensor,
    *,
    size_deg: float,
    layers: str | Sequence[str] | None = None,
    reduction: str = "all",
    pca_images: np.ndarray | Tensor | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> Estimate:
    """Time and memory that :func:`activations` would take, from one batch of at most eight pictures.

    Parameters
    ----------
    model, images, size_deg, layers, reduction, pca_images, batch_size, device
        As in :func:`activations`.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        As :func:`activations`.

    Examples
    --------
    >>> model = VisionModel(torch.nn.Conv2d(1, 4, 3), "conv", channels=1, input_px=10)
    >>> expected = estimate(model, np.zeros((1000, 10, 10), dtype=np.uint8), size_deg=8.0)
    >>> expected.shapes, expected.result_bytes
    ({'output': (1000, 256)}, 1024000)
    """
    model, kept = as_vision_model(model), parse_reduction(reduction)
    _check(model, images, size_deg, pca_images, kept, batch_size)
    with _on(model, device) as where:
        names = layer_names(model, layers)
        return _estimate(model, images, size_deg, names, kept, pca_images, batch_size, where)


def _estimate(
    model: VisionModel,
    images: Any,
    size_deg: float,
    names: Sequence[str],
    kept: Reduction,
    pca_images: Any,
    batch_size: int,
    device: torch.device,
) -> Estimate:
    n, n_fit = len(images), len(images if pca_images is None else pca_images)
    n_tried = min(8, batch_size, n)
    # Shapes first: the matrices of a reduction are not made for what may be refused.
    started = time.perf_counter()
    shapes: dict[str, tuple[int, ...]] = {}
    for responses in _responses(model, images[:n_tried], size_deg, names, n_tried, device):
        shapes = {name: tuple(response.shape[1:]) for name, response in responses.items()}
    seconds = (time.perf_counter() - started) / n_tried * (n if pca_images is None else n + n_fit)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    results = {name: (n, *kept.shape(name, shape, n_fit)) for name, shape in shapes.items()}
    batch = min(batch_size, max(n, n_fit if kept.kind == "pca" else 0))
    working = 4 * batch * (model.channels * model.input_px**2 + 2 * sum(sizes.values()))
    fit = 0
    if kept.kind == "random_projection":
        working += sum(8 * int(results[name][1] * math.sqrt(size)) for name, size in sizes.items())
    elif kept.kind == "pca":
        fit = 4 * n_fit * sum(sizes.values())
        sides = {name: min(n_fit, size) for name, size in sizes.items()}
        working += max(24 * side**2 + 16 * BLOCK * side for side in sides.values())
    bytes_of = {name: 4 * math.prod(shape) for name, shape in results.items()}
    return Estimate(results, bytes_of, fit, working, seconds)


def activations(
    model: Any,
    images: np.ndarray | Tensor,
    *,
    size_deg: float,
    layers: str | Sequence[str] | None = None,
    reduction: str = "all",
    seed: int = 0,
    pca_images: np.ndarray | Tensor | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    storage: Path | str | None = None,
    cache: Path | str | None = None,
    max_bytes: int | None = None,
    progress: bool = False,
) -> Activations:
    """Responses of layers of a model to pictures.

    The model runs in evaluation mode and is left as it was. Layers are copied as they are computed, so that a later
    in-place operation does not change them. What a layer keeps of a picture:

    - ``"all"``: every feature, (stimulus, feature).
    - ``"maps"``: (stimulus, channel, row, column); a vector is maps of one place.
    - ``"pool:N"``: maps averaged to at most N x N places (adaptive average pooling).
    - ``"spatial_mean"``: the mean over places, or over tokens (stimulus, token, channel): (stimulus, channel).
    - ``"random_projection:N"``: (stimulus, N) by :func:`random_projection`, 4096 unless told; layers that have not
      more features than that are kept whole.
    - ``"pca:N"``: the first N principal components; unless told 1000, or as many as the pictures allow. Fitted on the
      pictures themselves, it has seen the pictures that a fit is tested on, though not the responses to them: give
      ``pca_images`` to keep test pictures out.

    Parameters
    ----------
    model : VisionModel, torch.nn.Module or callable
    images : array or Tensor, (stimulus, row, column[, channel])
        uint8, or float in [0, 1]. Anything with a shape that can be sliced, such as a memory map, is read in batches.
    size_deg : float
        Width of the pictures in degrees of visual angle.
    layers : str or sequence of str, optional
        Names, or patterns such as ``features.*``. Default: those that the model declares, else all.
    reduction : str
    seed : int
        Of the random projection.
    pca_images : array or Tensor, optional
        Pictures of the same size in degrees that PCA is fitted on. Default: ``images``.
    batch_size : int
        Pictures at once.
    device : str or torch.device, optional
        Where the model runs; it is moved back afterwards. Default: where it is.
    storage : path, optional
        Folder where each layer becomes a file, ``MODEL.LAYER.npy``, in place of one of that name. Default: memory.
    cache : path, optional
        Folder where results are kept as files, with a JSON file of what made them, under the digest of the weights
        and code of the model, its preprocessing, the pixels, their size, layer, reduction, kind of device, versions
        and the code of this package. Never under a name.
    max_bytes : int, optional
        Most memory to take. Default: what is available.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Activations
        Layer to array, float32. Arrays in files are memory-mapped; what is written into them stays in memory.

    Raises
    ------
    ValueError
        If pictures, size, layers or reduction are not as described; if memory or disk cannot hold the result, with its
        size and before the run; if activations are not finite; if a cache is asked for and the content of the model
        cannot be known.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
    >>> model = VisionModel(net, "net", channels=1, input_px=16)
    >>> pictures = np.random.default_rng(0).integers(0, 256, (5, 16, 16), dtype=np.uint8)
    >>> found = activations(model, pictures, size_deg=8.0, layers="*", reduction="spatial_mean")
    >>> {name: array.shape for name, array in found.items()}
    {'0': (5, 4), '1': (5, 4)}
    >>> folder = tempfile.mkdtemp()
    >>> activations(model, pictures, size_deg=8.0, layers="1", cache=folder).cache
    {'1': 'miss'}
    >>> activations(model, pictures, size_deg=8.0, layers="1", cache=folder).cache
    {'1': 'hit'}
    """
    model, kept = as_vision_model(model), parse_reduction(reduction)
    _check(model, images, size_deg, pca_images, kept, batch_size)
    if storage is not None and cache is not None:
        raise ValueError("storage and cache are both given; give one of them: what is cached is in files already.")
    folder = storage if storage is not None else cache
    folder = Path(folder) if folder is not None else None
    with _on(model, device) as where:
        names = layer_names(model, layers)
        found, files, made = Activations(), None, {}
        missing = names
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            files = {name: folder / f"{quote(model.name, safe=' ')}.{quote(name, safe='')}.npy" for name in names}
        if cache is not None and folder is not None:
            made = _what_makes(model, images, size_deg, names, kept, seed, pca_images, where)
            files = {name: folder / f"{_key(made[name])}.npy" for name in names}
            for name in names:
                array, found.cache[name] = _cached(files[name], f"{name} of {model.name}")
                if array is not None:
                    found[name] = array
            missing = [name for name in names if name not in found]
        if missing:
            expected = _estimate(model, images, size_deg, missing, kept, pca_images, batch_size, where)
            log.info("%s: %s", model.name, expected)
            _refuse(expected, model, len(images), folder, max_bytes)
            found.estimate = expected
            with contextlib.ExitStack() as stack:
                sinks = {}
                for name in missing:
                    file = None
                    if files is not None:
                        file = stack.enter_context(stack.enter_context(replacing(files[name])).open("wb"))
                    sinks[name] = _Rows(expected.shapes[name], file)
                _compute(model, images, size_deg, kept, seed, pca_images, batch_size, where, sinks, folder, progress)
            for name in missing:
                if files is None:
                    found[name] = sinks[name].array
                    continue
                if made:
                    _record(files[name], made[name], model, found.cache[name])
                found[name] = _open(files[name])
    ordered = {name: found.pop(name) for name in names}
    found.update(ordered)
    return found


def _check(model: VisionModel, images: Any, size_deg: float, pca_images: Any, kept: Reduction, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least one picture.")
    if pca_images is not None and kept.kind != "pca":
        raise ValueError(f"pca_images are given, but the reduction is {kept.kind}; expected reduction='pca'.")
    for pictures in (images, pca_images):
        if pictures is not None:
            picture_size(pictures, size_deg, model)


@contextlib.contextmanager
def _on(model: VisionModel, device: str | torch.device | None) -> Iterator[torch.device]:
    """A model on a device; afterwards it is where it was."""
    origin = device_of(model)
    if device is None or torch.device(device) == origin:
        yield origin
        return
    where = torch.device(device)
    if where.type == "meta":
        raise ValueError("device is meta, which holds no numbers; expected cpu, cuda or mps.")
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {device} cannot be used ({str(error).splitlines()[0]}); try cpu.") from error
    if not isinstance(model.module, torch.nn.Module):
        yield where
        return
    if len({tensor.device for tensor in [*model.module.parameters(), *model.module.buffers()]}) > 1:
        raise ValueError(f"{model.name} is spread over several devices; leave device out.")
    try:
        yield model.module.to(where) and where
    finally:
        model.module.to(origin)


def _responses(
    model: VisionModel, images: Any, size_deg: float, names: Sequence[str], batch_size: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Layers of one batch after another, finite, float32."""
    for start in range(0, len(images), batch_size):
        batch = place(some_pictures(images, slice(start, start + batch_size)), size_deg=size_deg, model=model)
        responses = layer_responses(model, batch.to(device), names)
        for name, response in responses.items():
            # The sum is quick, and finite wherever all are, but for very large numbers.
            if not response.sum().isfinite() and not response.isfinite().all():
                raise ValueError(
                    f"layer {name} of {model.name} is not finite for a picture among {start} to "
                    f"{start + len(batch) - 1}; check the weights and the preprocessing."
                )
        yield {name: response.float() for name, response in responses.items()}


def _reduced(response: Tensor, kept: Reduction, shape: Sequence[int], matrix: Any) -> np.ndarray:
    """What is kept of a batch of a layer; ``shape`` is that of one stimulus."""
    if kept.kind == "pca":
        mean, components = matrix
        return (response.flatten(1).cpu().numpy() - mean) @ components.T
    if kept.kind == "random_projection" and matrix is not None:
        return np.ascontiguousarray((matrix.T @ response.flatten(1).cpu().numpy().T).T)
    if kept.kind == "spatial_mean" and response.ndim > 2:
        places = 1 if response.ndim == 3 else (2, 3)
        response = response.mean(places)
    elif kept.kind == "pool" and response.ndim == 4:
        response = F.adaptive_avg_pool2d(response, (shape[1], shape[2]))
    return response.reshape(len(response), *shape).cpu().numpy()


class _Rows:
    """An array that grows by rows to its known shape, in memory or in a file."""

    def __init__(self, shape: tuple[int, ...], file: BinaryIO | None) -> None:
        self.shape, self.file, self.n = shape, file, 0
        if file is None:
            self.array = np.empty(shape, dtype=np.float32)
        else:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype("<f4")), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)

    def append(self, rows: np.ndarray) -> None:
        """Add rows below the others."""
        if self.file is None:
            self.array[self.n : self.n + len(rows)] = rows
        else:
            # Written, not memory-mapped: a full disk is then an error instead of the end of the process.
            self.file.write(np.ascontiguousarray(rows, dtype="<f4").data)
        self.n += len(rows)


def _open(path: Path, mode: Any = "c") -> np.ndarray:
    """Memory-mapped array; writing changes the file only in mode ``r+``."""
    return np.load(path, mmap_mode=mode, allow_pickle=False)


def _compute(
    model: VisionModel,
    images: Any,
    size_deg: float,
    kept: Reduction,
    seed: int,
    pca_images: Any,
    batch_size: int,
    device: torch.device,
    sinks: dict[str, _Rows],
    folder: Path | None,
    progress: bool,
) -> None:
    """Fill the sinks."""
    matrices: dict[str, Any] = {}
    names = list(sinks)

    def stream(pictures: Any, what: str) -> Iterator[dict[str, Tensor]]:
        with tqdm(total=len(pictures), desc=f"{model.name}: {what}", unit="picture", disable=not progress) as bar:
            for responses in _responses(model, pictures, size_deg, names, batch_size, device):
                yield responses
                bar.update(len(next(iter(responses.values()))))

    with contextlib.ExitStack() as stack:
        if kept.kind == "pca":
            where = stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=".pca.")) if folder else None
            fitted = _collected(stream(images if pca_images is None else pca_images, "PCA"), pca_images, images, where)
            for name in names:
                mean, components, scores = principal_components(fitted.pop(name), sinks[name].shape[1])
                if pca_images is None:
                    sinks[name].append(scores)
                else:
                    matrices[name] = mean.astype(np.float32), components
                del components
            if pca_images is None:
                return
        for responses in stream(images, "activations"):
            for name, response in responses.items():
                shape, size = sinks[name].shape[1:], math.prod(response.shape[1:])
                if kept.kind == "random_projection" and name not in matrices:
                    matrices[name] = random_projection(size, shape[0], seed=seed) if shape[0] < size else None
                sinks[name].append(_reduced(response, kept, shape, matrices.get(name)))


def _collected(
    stream: Iterator[dict[str, Tensor]], pca_images: Any, images: Any, folder: str | None
) -> dict[str, np.ndarray]:
    """All features of the pictures that PCA is fitted on, in memory or in files."""
    n = len(images if pca_images is None else pca_images)
    rows: dict[str, _Rows] = {}
    paths: dict[str, Path] = {}
    with contextlib.ExitStack() as stack:
        for responses in stream:
            for name, response in responses.items():
                if name not in rows:
                    file = None
                    if folder is not None:
                        paths[name] = Path(folder) / f"{len(paths)}.npy"
                        file = stack.enter_context(paths[name].open("wb"))
                    rows[name] = _Rows((n, math.prod(response.shape[1:])), file)
                rows[name].append(response.flatten(1).cpu().numpy())
    if folder is None:
        return {name: each.array for name, each in rows.items()}
    return {name: _open(path, "r+") for name, path in paths.items()}


def _what_makes(
    model: VisionModel,
    images: Any,
    size_deg: float,
    names: Sequence[str],
    kept: Reduction,
    seed: int,
    pca_images: Any,
    device: torch.device,
) -> dict[str, dict[str, Any]]:
    """All that decides the array of each layer."""
    code = [file_digest(Path(file)) for file in (__file__, placing.__file__, vision_model.__file__, content.__file__)]
    made = {
        "format": FORMAT,
        "model": digest(model.module, name=model.name),
        "field_deg": float(model.field_deg),
        "input_px": int(model.input_px),
        "channels": model.channels,
        "mean": list(model.mean),
        "std": list(model.std),
        "background": float(model.background),
        "images": _pixels_digest(images),
        "size_deg": float(size_deg),
        "reduction": [kept.kind, kept.size],
        "seed": seed if kept.kind == "random_projection" else None,
        "pca_images": None if pca_images is None else _pixels_digest(pca_images),
        "device": device.type,
        "code": code,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    return {name: {**made, "layer": name} for name in names}


def _pixels_digest(images: Any) -> str:
    """Digest of pictures, a few at a time."""
    sha = hashlib.sha256(f"{tuple(images.shape)}".encode())
    for start in range(0, len(images), CHUNK):
        pictures = some_pictures(images, slice(start, start + CHUNK))
        sha.update(f"{pictures.dtype}".encode())
        sha.update(pictures.contiguous().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _key(made: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def _cached(path: Path, what: str) -> tuple[np.ndarray | None, str]:
    """Entry of the cache, if it is there and is what was written."""
    try:
        entry = json.loads(path.with_suffix(".json").read_text())
    except FileNotFoundError:
        log.info("cache: miss, %s", what)
        return None, "miss"
    except ValueError:
        entry = None
    entry = entry if isinstance(entry, dict) else {}
    if path.is_file() and path.stat().st_size == entry.get("bytes") and file_digest(path) == entry.get("sha256"):
        log.info("cache: hit, %s", what)
        return _open(path), "hit"
    log.warning("cache: %s is damaged in %s and is computed again.", what, path.name)
    return None, "damaged"


def _record(path: Path, made: dict[str, Any], model: VisionModel, status: str) -> None:
    """Write what made an entry, after the entry itself: without it the entry does not count."""
    entry = {
        "name": model.name,
        "bytes": path.stat().st_size,
        "sha256": file_digest(path),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "made_of": made,
    }
    with replacing(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(entry, indent=1))


def _refuse(expected: Estimate, model: VisionModel, n: int, folder: Path | None, max_bytes: int | None) -> None:
    """Say what cannot fit, before it is tried."""
    memory = _available_memory() if max_bytes is None else max_bytes
    limit = "are available" if max_bytes is None else "are allowed by max_bytes"
    largest = max(expected.layer_bytes, key=lambda name: expected.layer_bytes[name])
    several = len(expected.shapes) > 1
    what = (
        f"{n} pictures in {f'{len(expected.shapes)} layers' if several else f'layer {largest}'} of {model.name} take "
        f"{_size(expected.result_bytes)}"
        + (f" (layer {largest}: {_size(expected.layer_bytes[largest])})" if several else "")
    )
    smaller = "a reduction ('pool:13', 'spatial_mean', 'random_projection') or fewer layers"
    if memory is not None and expected.working_bytes > memory:
        raise ValueError(
            f"a batch of {model.name} needs {_size(expected.working_bytes)} of memory and {_size(memory)} {limit}; "
            "give a smaller batch_size, or fewer layers."
        )
    if folder is None:
        if memory is not None and expected.memory_bytes > memory:
            raise ValueError(
                f"{what}, and {_size(expected.fit_bytes + expected.working_bytes)} while it runs, of which "
                f"{_size(memory)} {limit}; give storage=FOLDER or cache=FOLDER, {smaller}."
            )
        return
    free, needed = shutil.disk_usage(folder).free, expected.result_bytes + expected.fit_bytes
    if needed > free:
        pca = f", and PCA {_size(expected.fit_bytes)} beside them" if expected.fit_bytes else ""
        raise ValueError(f"{what}{pca}, of which {_size(free)} are free in {folder}; give another folder, {smaller}.")


def _size(n_bytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def _available_memory() -> int | None:
    """Bytes that this process can still take; None where the system does not say."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min([*found, *_group_memory()], default=None)


def _group_memory() -> list[int]:
    """Bytes left to the control groups of this process: containers and batch jobs have less than the machine."""
    groups = Path("/proc/self/cgroup")
    left = []
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup") / ("memory" if controllers else "")
        limit, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        folder = root / group.lstrip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(root) and (each / limit).is_file():
                most = (each / limit).read_text().strip()
                if most != "max":
                    stat = dict(pair.split() for pair in (each / "memory.stat").read_text().splitlines())
                    # Pages of files that nobody used of late are given back when memory is asked for.
                    left.append(int(most) - int((each / used).read_text()) + int(stat.get("inactive_file", 0)))
    return left
