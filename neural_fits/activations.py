"""Responses of any layer of any torch model, streamed, reduced, and kept under a key of everything they depend on."""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import logging
import math
import os
import shutil
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from tqdm.auto import tqdm

from neural_fits.placing import place
from neural_fits.vision_model import VisionModel, as_vision_model, device_of, evaluating, layer_names, layer_responses
from stimuli.files import replacing

logger = logging.getLogger(__name__)

#: Bytes of one block of a random projection.
PROJECTION_BYTES = 64 * 2**20
#: Share of the free memory or disk that may be used.
SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class Reduction:
    """What is kept of a layer's response, read from its name.

    Attributes
    ----------
    kind : {"all", "maps", "spatial_mean", "pool", "random", "pca"}
    size : int
        Places on a side (``pool:13``), or features (``random:1000``, ``pca:300``).
    """

    kind: str
    size: int = 0


#: Names of reductions and what they give.
REDUCTIONS = {
    "all": "every feature, (stimulus, feature)",
    "maps": "maps as they are, (stimulus, channel, row, column)",
    "spatial_mean": "mean over places, (stimulus, channel)",
    "pool:N": "maps averaged to at most N x N places, (stimulus, channel, row, column)",
    "random:N": "N seeded Gaussian projections, (stimulus, N); distances are kept to about sqrt(2 / N)",
    "pca:N": "N principal components of the pictures shown, or of `pca_images`, (stimulus, N)",
}


def reduction_of(name: str) -> Reduction:
    """Reduction that a name stands for.

    Parameters
    ----------
    name : str
        One of ``REDUCTIONS`` with a number in place of ``N``.

    Returns
    -------
    Reduction

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> reduction_of("pool:13")
    Reduction(kind='pool', size=13)
    """
    kind, colon, size = name.partition(":")
    if kind in ("all", "maps", "spatial_mean") and not colon:
        return Reduction(kind)
    if kind in ("pool", "random", "pca") and size.isdecimal() and int(size) > 0:
        return Reduction(kind, int(size))
    raise ValueError(f"reduction is {name!r}; expected one of {', '.join(REDUCTIONS)}, N a positive whole number.")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run needs.

    Attributes
    ----------
    shapes : dict of str to tuple
        Of the result of each layer, (stimulus, ...).
    result_bytes : int
        Of all results.
    working_bytes : int
        Beside them: one batch of every layer, and projections.
    seconds : float
        From one batch.
    """

    shapes: dict[str, tuple[int, ...]]
    result_bytes: int
    working_bytes: int
    seconds: float

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"{len(self.shapes)} layers, {self.result_bytes / 2**20:,.0f} MiB of results, "
            f"{self.working_bytes / 2**20:,.0f} MiB to work in, about {self.seconds:,.0f} s"
        )


def activations(
    model: VisionModel | torch.nn.Module | Callable,
    images,
    *,
    size_deg: float,
    layers: str | Sequence[str] | None = None,
    reduction: str = "all",
    seed: int = 0,
    pca_images=None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    cache: Path | str | None = None,
    storage: Path | str | None = None,
    max_bytes: int | None = None,
    progress: bool = False,
    report: dict[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Responses of layers to pictures at their size in degrees.

    Parameters
    ----------
    model : VisionModel, torch.nn.Module or callable
        Put into evaluation mode for the time of the run.
    images : array, (stimulus, row, column) or (stimulus, row, column, channel)
        uint8, or floating point in [0, 1]; memory maps are read batch by batch.
    size_deg : float
        Width of the pictures.
    layers : str or sequence of str, optional
        Names or patterns; see :func:`neural_fits.vision_model.layer_names`.
    reduction : str
        See ``REDUCTIONS``. Tokens (stimulus, token, channel) are flattened by ``all``; ``spatial_mean`` averages them.
        Principal components of the very pictures whose responses are predicted have seen the test part (not its
        responses); give ``pca_images`` to avoid that.
    seed : int
        Of the random projection; the projection depends on it and on the size of the layer, on nothing else.
    pca_images : array, optional
        Other pictures that the components are taken from, of the same size in degrees.
    batch_size : int
        Changes nothing but speed and memory, up to rounding.
    device : str or torch.device, optional
        Where the model is moved for the run; default: where it is.
    cache : path, optional
        Folder of results under a key of everything they depend on: weights and buffers, the code of the model and of
        this module, preprocessing, pictures and their size, layer, reduction and seed. A model that has another name
        and nothing else is a hit; other weights under the same name are a miss.
    storage : path, optional
        Folder for memory-mapped results, one ``.npy`` file for each layer, replacing those of the same name.
    max_bytes : int, optional
        Most memory for results and work; default ``SHARE`` of what is free. On disk, ``SHARE`` of what is free.
    progress : bool
        Bar over pictures.
    report : dict, optional
        Filled with "hit" or "miss" for each layer, where there is a cache.

    Returns
    -------
    dict of str to ndarray or memmap, (stimulus, ...), float32

    Raises
    ------
    ValueError
        If a layer or reduction is unknown, a picture has no size, or a response is NaN or infinite.
    MemoryError
        If the result would not fit; the message has the numbers.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> model = VisionModel(net, "net", input_px=16)
    >>> pictures = np.zeros((5, 16, 16), dtype=np.uint8)
    >>> {name: values.shape for name, values in activations(model, pictures, size_deg=8, layers="*").items()}
    {'0': (5, 784), '1': (5, 784)}
    """
    model = as_vision_model(model)
    reduce = reduction_of(reduction)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    if len(images) == 0:
        raise ValueError("no picture was given; expected at least one.")
    names = layer_names(model, layers)
    results: dict[str, np.ndarray] = {}
    keys: dict[str, str] = {}
    if cache is not None:
        cache = Path(cache)
        base = _content(model, images, size_deg, pca_images if reduce.kind == "pca" else None)
        keys = {name: _digest({**base, "layer": name, "reduction": reduction, "seed": seed}) for name in names}
        for name, key in keys.items():
            found = _read_entry(cache, key, mapped=storage is not None)
            if report is not None:
                report[name] = "miss" if found is None else "hit"
            logger.info("%s of %s: cache %s", name, model.name, "miss" if found is None else "hit")
            if found is not None:
                results[name] = found
    missing = [name for name in names if name not in results]
    if missing:
        with _moved(model, device):
            computed = _compute(
                model, images, size_deg, missing, reduce, seed, pca_images, batch_size, storage, max_bytes, progress
            )
        for name, values in computed.items():
            if cache is not None:
                _write_entry(Path(cache), keys[name], values, {"model": model.name, "layer": name, "key": keys[name]})
            results[name] = values
    return {name: results[name] for name in names}


def estimate(
    model: VisionModel,
    images,
    *,
    size_deg: float,
    layers: str | Sequence[str] | None = None,
    reduction: str = "all",
    batch_size: int = 32,
) -> Estimate:
    """Shapes, memory and time of :func:`activations`, from one batch.

    Parameters
    ----------
    model, images, size_deg, layers, reduction, batch_size
        As in :func:`activations`.

    Returns
    -------
    Estimate

    Examples
    --------
    >>> model = VisionModel(torch.nn.Conv2d(3, 4, 3), "conv", input_px=16)
    >>> needs = estimate(model, np.zeros((100, 16, 16), np.uint8), size_deg=8)
    >>> needs.shapes, needs.result_bytes
    ({'output': (100, 784)}, 313600)
    """
    names, reduce = layer_names(model, layers), reduction_of(reduction)
    first = np.asarray(images[: min(batch_size, len(images), 4)])
    started = time.perf_counter()
    with evaluating(model.module):
        responses = layer_responses(model, place(first, size_deg=size_deg, model=model).to(device_of(model)), names)
    seconds = (time.perf_counter() - started) * len(images) / len(first)
    shapes: dict[str, tuple[int, ...]] = {}
    working = 0
    for name, response in responses.items():
        features = response[0].numel()
        if reduce.kind in ("random", "pca"):
            kept: tuple[int, ...] = (reduce.size,)
            working += PROJECTION_BYTES if reduce.kind == "random" else 4 * features * len(images)
        else:
            kept = tuple(_reduced(response, reduce, name).shape[1:])
        shapes[name] = (len(images), *kept)
        working += 4 * features * batch_size * 2
    result = sum(4 * math.prod(shape) for shape in shapes.values())
    return Estimate(shapes, result, working, seconds)


def _compute(
    model, images, size_deg, names, reduce: Reduction, seed, pca_images, batch_size, storage, max_bytes, progress
) -> dict[str, np.ndarray]:
    if reduce.kind == "pca":
        wanted = len(images if pca_images is None else pca_images) - 1
        if reduce.size > wanted:
            raise ValueError(
                f"reduction is pca:{reduce.size} of {wanted + 1} pictures; expected at most {wanted} components."
            )
    needs = estimate(
        model,
        images,
        size_deg=size_deg,
        layers=names,
        reduction=f"{reduce.kind}:{reduce.size}" if reduce.size else reduce.kind,
        batch_size=batch_size,
    )
    _require_room(needs, storage, max_bytes)
    device = device_of(model)
    if reduce.kind == "pca":
        return _principal_components(model, images, size_deg, names, reduce.size, pca_images, batch_size, progress)
    with (
        tempfile.TemporaryDirectory(dir=_folder(storage), prefix=".partial-")
        if storage
        else contextlib.nullcontext() as partial
    ):
        out: dict[str, Any] = {
            name: np.lib.format.open_memmap(Path(partial) / _file_name(name), "w+", np.float32, needs.shapes[name])
            if partial
            else np.empty(needs.shapes[name], np.float32)
            for name in names
        }
        bar = tqdm(total=len(images), desc=model.name, unit="picture", disable=not progress)
        with bar:
            for start in range(0, len(images), batch_size):
                batch = place(np.asarray(images[start : start + batch_size]), size_deg=size_deg, model=model)
                for name, response in layer_responses(model, batch.to(device), names).items():
                    if not bool(torch.isfinite(response).all()):
                        raise ValueError(
                            f"layer {name} of {model.name} gave NaN or infinity for pictures from {start}."
                        )
                    if reduce.kind == "random":
                        values = _project(response.flatten(1).float(), reduce.size, seed)
                    else:
                        values = _reduced(response, reduce, name).float()
                    out[name][start : start + len(batch)] = values.cpu().numpy()
                bar.update(len(batch))
        if not partial:
            return out
        for name in names:
            out.pop(name).flush()
            (Path(partial) / _file_name(name)).replace(Path(storage) / _file_name(name))
    return {name: np.load(Path(storage) / _file_name(name), mmap_mode="r", allow_pickle=False) for name in names}


@contextlib.contextmanager
def _moved(model: VisionModel, device: str | torch.device | None) -> Iterator[None]:
    """Module on another device inside, and back where it was afterwards."""
    if device is None or not isinstance(model.module, torch.nn.Module):
        yield
        return
    here = device_of(model)
    model.module.to(device)
    try:
        yield
    finally:
        model.module.to(here)


def _reduced(response: Tensor, reduce: Reduction, name: str) -> Tensor:
    if reduce.kind == "all":
        return response.flatten(1)
    if reduce.kind == "spatial_mean":
        if response.ndim == 3:  # tokens
            return response.mean(1)
        return response.flatten(2).mean(2) if response.ndim > 2 else response
    if response.ndim != 4:
        raise ValueError(
            f"layer {name} gives shape {tuple(response.shape[1:])} for an image; reduction {reduce.kind!r} needs maps "
            "(channel, row, column): choose a convolutional layer, or 'all'."
        )
    if reduce.kind == "pool":
        size = (min(reduce.size, response.shape[2]), min(reduce.size, response.shape[3]))
        return response if size == tuple(response.shape[2:]) else adaptive_avg_pool2d(response, size)
    return response


def _project(features: Tensor, size: int, seed: int) -> Tensor:
    """Gaussian projection, made block by block; the same matrix whatever the batch."""
    n_features = features.shape[1]
    out = torch.zeros(len(features), size, device=features.device)
    width = max(1, PROJECTION_BYTES // (4 * size))
    for block, start in enumerate(range(0, n_features, width)):
        part = features[:, start : start + width]
        generator = torch.Generator().manual_seed(_block_seed(seed, n_features, block))
        out += part @ torch.randn(part.shape[1], size, generator=generator).to(features.device)
    return out / math.sqrt(size)


def _block_seed(seed: int, n_features: int, block: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed},{n_features},{block}".encode()).digest()[:7], "big")


def _principal_components(model, images, size_deg, names, size, pca_images, batch_size, progress):
    """Components from the Gram matrix of the pictures: exact, and no matrix of features x features."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"size_deg": size_deg, "batch_size": batch_size, "progress": progress}
        own = activations(model, images, layers=names, storage=Path(folder) / "own", **options)
        basis = (
            own
            if pca_images is None
            else activations(model, pca_images, layers=names, storage=Path(folder) / "basis", **options)
        )
        out = {}
        for name in names:
            X, B = own[name], basis[name]
            mean = B.mean(0, dtype=np.float64).astype(np.float32)
            width = max(1, PROJECTION_BYTES // (8 * len(B)))
            blocks = [slice(start, start + width) for start in range(0, B.shape[1], width)]
            gram, cross = np.zeros((len(B), len(B))), np.zeros((len(X), len(B)))
            for block in blocks:
                centred = B[:, block].astype(np.float64) - mean[block]
                gram += centred @ centred.T
                cross += (X[:, block].astype(np.float64) - mean[block]) @ centred.T
            values, vectors = np.linalg.eigh(gram)
            values, vectors = values[::-1][:size], vectors[:, ::-1][:, :size]
            alive = values > 1e-12 * max(values[0], 1e-300)
            scores = np.where(alive, cross @ vectors / np.sqrt(np.where(alive, values, 1)), 0)
            # The sign of a component is free: its largest weight on a picture is positive.
            largest = np.abs(vectors).argmax(0)
            out[name] = (scores * np.sign(vectors[largest, np.arange(size)])).astype(np.float32)
        return out


def _require_room(needs: Estimate, storage, max_bytes: int | None) -> None:
    in_memory = needs.working_bytes + (0 if storage else needs.result_bytes)
    allowed = int(SHARE * free_memory()) if max_bytes is None else max_bytes
    if in_memory > allowed:
        raise MemoryError(
            f"this needs {in_memory / 2**30:.2f} GiB of memory ({needs}), and {allowed / 2**30:.2f} GiB may be used; "
            "give storage=FOLDER, fewer layers, or a reduction such as 'random:1000' or 'spatial_mean'."
        )
    if storage:
        free = int(SHARE * shutil.disk_usage(_folder(storage)).free)
        if needs.result_bytes > free:
            raise MemoryError(
                f"this needs {needs.result_bytes / 2**30:.2f} GiB in {storage}, and {free / 2**30:.2f} GiB may be "
                "used; give another folder, fewer layers or a reduction."
            )


def free_memory() -> int:
    """Bytes of memory that can be had without swapping.

    Returns
    -------
    int
        From the kernel where it tells (Linux), else half of the physical memory.

    Examples
    --------
    >>> free_memory() > 0
    True
    """
    limits = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    # A container may have less than the machine.
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        limits.append(int(limit.read_text()) - int(used.read_text()))
    if not limits:
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return max(min(limits), 1)


def _folder(storage) -> Path:
    folder = Path(storage)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file_name(layer: str) -> str:
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in layer)
    return f"{safe}-{hashlib.sha256(layer.encode()).hexdigest()[:8]}.npy"


# --- the key of a result, and its file ------------------------------------------------------------------------------


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(model: VisionModel, images, size_deg: float, pca_images) -> dict[str, Any]:
    """Everything that the responses depend on, but for layer and reduction."""
    return {
        "model": model_digest(model),
        "images": _array_digest(images),
        "pca_images": None if pca_images is None else _array_digest(pca_images),
        "size_deg": float(size_deg),
        "code": _own_code(),
        "torch": torch.__version__,
    }


def model_digest(model: VisionModel | torch.nn.Module | Callable) -> str:
    """Hash of a model's weights, buffers, structure, code and preprocessing; its name does not count.

    Parameters
    ----------
    model : VisionModel, torch.nn.Module or callable

    Returns
    -------
    str
        Hexadecimal sha256.

    Raises
    ------
    ValueError
        If a function holds something that has no content to hash.

    Examples
    --------
    >>> a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    >>> model_digest(a) == model_digest(b)
    False
    >>> _ = b.load_state_dict(a.state_dict())
    >>> model_digest(a) == model_digest(b)
    True
    """
    model = as_vision_model(model)
    digest = hashlib.sha256()
    fields = [field.name for field in dataclasses.fields(model) if field.name not in ("module", "name", "layers")]
    digest.update(json.dumps([(name, getattr(model, name)) for name in fields]).encode())
    _hash(model.module, digest, set())
    return digest.hexdigest()


def _hash(value: Any, digest, seen: set[int]) -> None:
    """Feed the content of a value into a digest."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, str | bytes | int | float | complex | bool | type(None) | torch.dtype | torch.device):
        digest.update(f"{type(value).__name__}:{value!r};".encode())
    elif id(value) in seen:
        digest.update(b"again;")
    elif isinstance(value, torch.nn.Module):
        seen.add(id(value))
        digest.update(f"{type(value).__qualname__}({value.extra_repr()});".encode())
        _hash_code(type(value), digest)
        for name, tensor in [*value._parameters.items(), *value._buffers.items()]:
            digest.update(name.encode())
            _hash(tensor, digest, seen)
        # Settings that are neither weights nor shown: they can change the forward pass as well.
        inside = {"_parameters", "_buffers", "_modules", "training"}
        for name, other in sorted(vars(value).items()):
            if name not in inside and not name.startswith("_"):
                digest.update(name.encode())
                _hash(other, digest, seen)
        hooks = [*value._forward_hooks.values(), *value._forward_pre_hooks.values()]
        for part in hooks:
            _hash(part, digest, seen)
        for name, child in value._modules.items():
            digest.update(name.encode())
            _hash(child, digest, seen)
    elif isinstance(value, dict):
        seen.add(id(value))
        for key, item in value.items():
            _hash(key, digest, seen)
            _hash(item, digest, seen)
    elif isinstance(value, list | tuple):
        seen.add(id(value))
        digest.update(f"{type(value).__name__}{len(value)};".encode())
        for item in value:
            _hash(item, digest, seen)
    elif isinstance(value, set | frozenset):
        digest.update(f"set{sorted(map(repr, value))};".encode())
    elif isinstance(value, types.FunctionType | types.MethodType | type):
        seen.add(id(value))
        _hash_code(value, digest)
        if isinstance(value, types.MethodType):
            _hash(value.__self__, digest, seen)
        for cell in getattr(value, "__closure__", None) or ():
            _hash(cell.cell_contents, digest, seen)
        for item in getattr(value, "__defaults__", None) or ():
            _hash(item, digest, seen)
    elif isinstance(value, types.BuiltinFunctionType | types.ModuleType):
        digest.update(f"{value.__name__};".encode())
    elif dataclasses.is_dataclass(value):
        seen.add(id(value))
        _hash_code(type(value), digest)
        for field in dataclasses.fields(value):
            _hash(getattr(value, field.name), digest, seen)
    elif hasattr(value, "__dict__"):
        seen.add(id(value))
        _hash_code(type(value), digest)
        _hash(vars(value), digest, seen)
    else:
        raise ValueError(
            f"{value!r} in the model has no content to make a key of; run without a cache, or hold tensors, arrays, "
            "numbers and functions only."
        )


def _hash_code(of: Any, digest) -> None:
    """Source of a class or function, or its compiled code where there is no source."""
    digest.update(f"{of.__module__}.{of.__qualname__};".encode())
    if of.__module__ and of.__module__.partition(".")[0] in ("torch", "builtins"):
        return  # torch's version is in the key
    try:
        digest.update(inspect.getsource(of).encode())
    except (OSError, TypeError):
        code = getattr(of, "__code__", None) or getattr(getattr(of, "forward", None), "__code__", None)
        if code is not None:
            digest.update(code.co_code + repr(code.co_consts).encode() + repr(code.co_names).encode())


def _array_digest(images) -> str:
    digest = hashlib.sha256(f"{images.dtype}{images.shape}".encode())
    for start in range(0, len(images), 64):
        digest.update(np.ascontiguousarray(images[start : start + 64]).tobytes())
    return digest.hexdigest()


def _own_code() -> str:
    folder = Path(__file__).parent
    files = [folder / name for name in ("activations.py", "placing.py", "vision_model.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _write_entry(cache: Path, key: str, values: np.ndarray, record: dict[str, Any]) -> None:
    folder = cache / key[:2]
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{key}.npy") as partial, partial.open("wb") as file:
        np.save(file, np.asarray(values), allow_pickle=False)
    sha256 = hashlib.sha256((folder / f"{key}.npy").read_bytes()).hexdigest()
    with replacing(folder / f"{key}.json") as partial:
        partial.write_text(json.dumps({**record, "sha256": sha256, "shape": list(values.shape)}), encoding="utf-8")


def _read_entry(cache: Path, key: str, *, mapped: bool) -> np.ndarray | None:
    """Result of a key, or None where there is none or it is damaged (then a warning says so)."""
    file, about = cache / key[:2] / f"{key}.npy", cache / key[:2] / f"{key}.json"
    if not (file.is_file() and about.is_file()):
        return None
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(2**22):
            digest.update(block)
    try:
        expected = json.loads(about.read_text(encoding="utf-8"))["sha256"]
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError):
        expected = ""
    if digest.hexdigest() != expected:
        logger.warning("%s is damaged; its activations are computed again.", file)
        return None
    return np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
