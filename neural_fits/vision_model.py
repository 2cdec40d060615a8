"""A network and how pictures reach it: what every measurement is made on."""

import dataclasses
import difflib
import fnmatch
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class VisionModel:
    """A network, the square field of view of its input, and the numbers that pictures in [0, 1] are turned into.

    Attributes
    ----------
    module : callable
        ``torch.nn.Module``, or function, of images (batch, channel, row, column). Where it returns a mapping, its keys
        are the layers; otherwise the layers are the names of its submodules.
    name : str
    field_deg : float
        Side of the input in degrees of visual angle. Default: Brain-Score's 8.
    input_px : int
        Side of the input in pixels, so that the resolution is ``input_px / field_deg``.
    channels : {3, 1}
        Colour or grey.
    mean, std : tuple of float
        Subtracted from, and divided out of, pictures in [0, 1]: one number, or one for each channel.
    background : float
        Level in [0, 1] around pictures that are smaller than the field.
    layers : tuple of str
        Measured where no others are asked for. Empty: all that the module names.

    Raises
    ------
    ValueError
        If a value is out of its range.

    Examples
    --------
    >>> model = VisionModel(torch.nn.Conv2d(1, 4, 3), "conv", channels=1, input_px=32, field_deg=2.0)
    >>> model.pixels_per_degree
    16.0
    """

    module: Callable[[Tensor], Any]
    name: str
    field_deg: float = 8.0
    input_px: int = 224
    channels: int = 3
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    background: float = 0.5
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field."""
        if not callable(self.module):
            raise ValueError(f"module is {self.module!r}; expected a torch module or a function of an image batch.")
        if not (math.isfinite(self.field_deg) and self.field_deg > 0):
            raise ValueError(f"field_deg is {self.field_deg}; expected a positive number of degrees, such as 8.")
        if self.input_px < 1 or int(self.input_px) != self.input_px:
            raise ValueError(f"input_px is {self.input_px}; expected a positive whole number of pixels, such as 224.")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; expected 3 (colour) or 1 (grey).")
        if not 0 <= self.background <= 1:
            raise ValueError(f"background is {self.background}; expected a level from 0 (black) to 1 (white).")
        for field in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, field))
            if len(values) not in (1, self.channels):
                raise ValueError(f"{field} is {values}; expected 1 or {self.channels} numbers, one for each channel.")
            if not all(math.isfinite(value) and (field == "mean" or value > 0) for value in values):
                raise ValueError(f"{field} is {values}; expected finite{' positive' * (field == 'std')} numbers.")
            object.__setattr__(self, field, values)
        object.__setattr__(self, "layers", (self.layers,) if isinstance(self.layers, str) else tuple(self.layers))

    @property
    def pixels_per_degree(self) -> float:
        """Resolution of the input, px/deg."""
        return self.input_px / self.field_deg


def as_vision_model(model: Any) -> VisionModel:
    """Vision model of anything that maps images to responses.

    Parameters
    ----------
    model : VisionModel, torch.nn.Module or callable
        A bare module sees colour pictures, 8 degrees in 224 px, in [0, 1].

    Returns
    -------
    VisionModel

    Raises
    ------
    ValueError
        If it cannot be called.

    Examples
    --------
    >>> as_vision_model(torch.nn.Identity()).name
    'Identity'
    """
    if isinstance(model, VisionModel):
        return model
    if not callable(model):
        raise ValueError(f"model is {model!r}; expected a VisionModel, a torch module or a function of an image batch.")
    return VisionModel(model, getattr(model, "__name__", type(model).__name__))


def load_model(place: str) -> VisionModel:
    """Model made by a function that is named as ``module:function``.

    Parameters
    ----------
    place : str
        Module, importable from here or from the working directory, and a function in it without arguments that returns
        a torch module or a :class:`VisionModel`.

    Returns
    -------
    VisionModel

    Raises
    ------
    ValueError
        If there is no such module or function, or it returns something else.

    Examples
    --------
    >>> load_model("torch.nn:Identity").name
    'Identity'
    """
    module_name, colon, function_name = place.partition(":")
    if not (colon and module_name and function_name):
        raise ValueError(f"model is {place!r}; expected module:function, such as mypackage.models:make.")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        made = _made(place, module_name, function_name)
    finally:
        if added:
            sys.path.remove(here)
    if not isinstance(made, VisionModel | torch.nn.Module):
        raise ValueError(
            f"model {place!r} returned {type(made).__name__}; expected a torch module or a neural_fits VisionModel."
        )
    return as_vision_model(made)


def _made(place: str, module_name: str, function_name: str) -> Any:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"model {place!r}: {module_name} cannot be imported ({error}); check the name.") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        near = difflib.get_close_matches(function_name, [name for name in dir(module) if name != function_name], 1)
        hint = f"did you mean {near[0]}?" if near else "check the name."
        raise ValueError(f"model {place!r}: {module_name} has no function {function_name}; {hint}")
    needed = [
        name
        for name, each in inspect.signature(function).parameters.items()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if needed:
        raise ValueError(f"model {place!r} needs {', '.join(needed)}; expected a function without arguments.")
    return function()


@contextmanager
def evaluating(module: Callable) -> Iterator[None]:
    """Evaluation mode and no gradients inside; afterwards every submodule is in the mode it was in.

    Parameters
    ----------
    module : callable
        Functions have no mode.

    Examples
    --------
    >>> dropout = torch.nn.Dropout()
    >>> with evaluating(dropout):
    ...     dropout.training
    False
    >>> dropout.training
    True
    """
    modes = [(each, each.training) for each in module.modules()] if isinstance(module, torch.nn.Module) else []
    try:
        for each, _ in modes:
            each.training = False
        with torch.inference_mode():
            yield
    finally:
        for each, mode in modes:
            each.training = mode


def device_of(model: VisionModel) -> torch.device:
    """Device of a model's parameters or buffers; the CPU for a function."""
    if isinstance(model.module, torch.nn.Module):
        for tensor in [*model.module.parameters(), *model.module.buffers()]:
            return tensor.device
    return torch.device("cpu")


def layer_names(model: VisionModel, patterns: str | Sequence[str] | None = None) -> list[str]:
    """Names of layers that match patterns, in the order of the model.

    One forward pass of two grey pictures tells which layers can be read: those that run once and give one row for each
    picture. Patterns match these alone, so that ``*`` passes over containers and layers that are used twice.

    Parameters
    ----------
    model : VisionModel
    patterns : str or sequence of str, optional
        Names, or patterns such as ``features.*`` (a ``*`` matches dots too). Default: the layers that the model
        declares, else the keys of the mapping that it returns, else all submodules. The layer of a model without
        submodules is called ``output``.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If a pattern matches nothing, or a named layer cannot be read.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> layer_names(VisionModel(net, "net", input_px=16), "*")
    ['0', '1']
    """
    keys, submodules = _probe(model)
    problems = dict.fromkeys(keys, "") | {name: why for name, why in submodules.items() if name not in keys}
    if all(problems.values()):
        problems["output"] = ""
    readable = [name for name, why in problems.items() if not why]
    if patterns is None:
        patterns = model.layers or keys or readable
    wanted: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if problems.get(pattern):
            raise ValueError(f"layer {pattern} of {model.name} {problems[pattern]}.")
        found = [pattern] if pattern in problems else fnmatch.filter(readable, pattern)
        if not found:
            near = difflib.get_close_matches(pattern, readable, 3, 0.3) or readable[:5]
            raise ValueError(f"{model.name} has no layer {pattern!r}; near it are {', '.join(near)}.")
        wanted.update(found)
    return [name for name in readable if name in wanted]


def _probe(model: VisionModel) -> tuple[list[str], dict[str, str]]:
    """Keys of what a model returns; and submodules, each with the reason why it cannot be read, if there is one."""
    probe = torch.full((2, model.channels, model.input_px, model.input_px), 0.5, device=device_of(model))
    submodules = dict.fromkeys(_submodules(model), UNUSED)
    seen: set[str] = set()

    def see(name: str, output: Any) -> None:
        submodules[name] = TWICE if name in seen else _unreadable(output, len(probe))
        seen.add(name)

    output = _forward(model, probe, list(submodules), see)
    return [str(key) for key in output] if isinstance(output, Mapping) else [], submodules


UNUSED = "does not run; choose one that the forward pass uses"
TWICE = "runs more than once for a picture; choose a layer around it or inside it"


def _submodules(model: VisionModel) -> dict[str, torch.nn.Module]:
    modules = model.module.named_modules() if isinstance(model.module, torch.nn.Module) else []
    return {name: module for name, module in modules if name}


def _first(output: Any) -> Any:
    """Itself, or the first of several: attention layers return their weights second, recurrent ones their state."""
    return output[0] if isinstance(output, tuple | list) and output else output


def _unreadable(output: Any, n_images: int) -> str:
    """Why the output of a layer is no response to pictures; empty if it is one."""
    tensor = _first(output)
    if isinstance(tensor, Tensor) and tensor.ndim >= 2 and len(tensor) == n_images and not tensor.is_complex():
        return ""
    what = f"a tensor of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
    return f"gives {what} for {n_images} pictures; expected a real tensor with a row of features for each"


def _forward(model: VisionModel, images: Tensor, hooked: Sequence[str], see: Callable[[str, Any], None]) -> Any:
    """Output of a model, after ``see(name, output)`` of each of some submodules."""
    submodules = _submodules(model)
    handles = []
    try:
        for name in hooked:
            handles.append(submodules[name].register_forward_hook(lambda _, __, output, name=name: see(name, output)))
        with evaluating(model.module):
            return model.module(images)
    finally:
        for handle in handles:
            handle.remove()


def layer_responses(model: VisionModel, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Responses of layers to an image batch, copied so that a later in-place operation cannot change them.

    Parameters
    ----------
    model : VisionModel
    images : Tensor, (batch, channel, row, column)
        As the module takes them: placed and normalised.
    layers : sequence of str
        From :func:`layer_names`.

    Returns
    -------
    dict of str to Tensor, (batch, ...)
        The first, where a layer returns several.

    Raises
    ------
    ValueError
        If a layer does not run, runs more than once, or does not give one row for each image.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True))
    >>> model = VisionModel(net, "net", input_px=16)
    >>> responses = layer_responses(model, torch.rand(2, 3, 16, 16), ["0", "1"])
    >>> bool((responses["0"] < 0).any()), bool((responses["1"] < 0).any())
    (True, False)
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        if why := TWICE if name in found else _unreadable(output, len(images)):
            raise ValueError(f"layer {name} of {model.name} {why}.")
        found[name] = _first(output).clone()

    submodules = _submodules(model)
    output = _forward(model, images, [name for name in layers if name in submodules], keep)
    if isinstance(output, Mapping):
        # Where a submodule has the name of a key, the key is meant.
        for key in output:
            if str(key) in layers:
                found.pop(str(key), None)
                keep(str(key), output[key])
    elif "output" in layers and "output" not in submodules:
        keep("output", output)
    for name in layers:
        if name not in found:
            raise ValueError(f"layer {name} of {model.name} {UNUSED}.")
    return {name: found[name] for name in layers}
