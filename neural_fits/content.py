"""Digests of what decides a model's numbers: its weights, its constants and its code."""

import dis
import enum
import functools
import hashlib
import logging
import re
import struct
import sys
import types
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

#: Attributes of every torch module that do not change its responses in evaluation mode.
NO_CONTENT = set(vars(torch.nn.Module())) - {
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
}
#: Folders of installed packages.
INSTALLED = {"site-packages", "dist-packages"}
#: Code of C, known by its name and the version of its package.
COMPILED = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    np.ufunc,
)
#: Attributes of a class that say nothing of what its instances do.
OF_EVERY_CLASS = {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__"}
OF_EVERY_CLASS |= {"__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__orig_bases__"}
OF_EVERY_CLASS |= {"__abstractmethods__", "_abc_impl", "__parameters__", "__dataclass_params__", "__dataclass_fields__"}


def digest(value: Any, *, name: str = "value") -> str:
    """SHA-256 of a value by content, the same in every process: equal digests mean the same numbers.

    Arrays and tensors go in by type, shape and bytes. A torch module goes in with its parameters, buffers (also those
    that are not saved), hooks, all other attributes and its class; a function with its byte code, defaults, closure,
    and the functions, classes and constants that it names. Code of installed packages goes in by version and by the
    file that defines it. Names, devices, training mode and gradients do not count.

    Parameters
    ----------
    value : object
        Torch module, function, array, number, text, or containers and plain objects of these.
    name : str
        What errors call it.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    ValueError
        If it holds something whose content cannot be known, such as a lock, an open file or compiled code.

    Examples
    --------
    >>> one, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    >>> digest(one) == digest(other)
    False
    >>> _ = other.load_state_dict(one.state_dict())
    >>> digest(one) == digest(other)
    True
    >>> digest(lambda x: x + 1) == digest(lambda x: x + 2)
    False
    """
    state = _Digest()
    state.add(value, name)
    return state.sha.hexdigest()


class _Digest:
    """A running hash, and what has gone into it: code refers to itself."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.seen: dict[int, tuple[int, Any]] = {}
        self.modules: set[tuple[str, tuple[str, ...]]] = set()

    def write(self, kind: str, data: bytes = b"") -> None:
        """Kind and length first, so that no two contents run together to the same bytes."""
        self.sha.update(f"{kind}:{len(data)}:".encode())
        self.sha.update(data)

    def again(self, value: Any) -> bool:
        """Whether a thing with an identity went in before; then only its number goes in."""
        if id(value) in self.seen:
            self.write("again", str(self.seen[id(value)][0]).encode())
            return True
        self.seen[id(value)] = (len(self.seen), value)
        return False

    def add(self, value: Any, name: str) -> None:
        """Any value; ``name`` says where it was found."""
        match value:
            case enum.Enum():
                self.add((type(value), value.name), name)
            case None | bool() | int() | str() | PurePath():
                kind = "path" if isinstance(value, PurePath) else type(value).__name__
                self.write(kind, str(value).encode(errors="surrogatepass"))
            case float() | complex():
                number = complex(value)
                self.write(type(value).__name__, struct.pack("<dd", number.real, number.imag))
            case bytes() | bytearray():
                self.write("bytes", bytes(value))
            case torch.Tensor():
                self.tensor(value, name)
            case np.ndarray() | np.generic():
                self.array(np.asarray(value), name)
            case torch.dtype() | torch.device() | torch.layout() | torch.memory_format() | np.dtype():
                self.write("type", str(value).encode())
            case range() | slice() | types.EllipsisType() | types.NotImplementedType():
                self.write("range", repr(value).encode())
            case re.Pattern():
                self.add((value.pattern, value.flags), name)
            case torch.Generator():
                self.add(value.get_state(), name)
            case np.random.Generator():
                self.add(value.bit_generator.state, name)
            case logging.Logger():
                self.write("logger")
            case tuple() | list():
                self.write("sequence", str(len(value)).encode())
                for i, item in enumerate(value):
                    self.add(item, f"{name}[{i}]")
                if type(value) not in (tuple, list):
                    self.add(type(value), name)
                    self.instance(value, name)
            case set() | frozenset():
                self.add(sorted(digest(item, name=name) for item in value), name)
            case types.CodeType():
                self.code(value, name)
            case types.ModuleType():
                self.module(value, (), name)
            case _ if isinstance(value, Mapping) and not isinstance(value, torch.nn.Module):
                self.write("mapping", str(len(value)).encode())
                for key in value:
                    self.add(key, name)
                    self.add(value[key], f"{name}[{key!r}]")
            case _:
                self.thing(value, name)

    def tensor(self, value: torch.Tensor, name: str) -> None:
        """Type, shape and bytes, whatever the device."""
        if value.layout != torch.strided or value.is_quantized or torch.nn.parameter.is_lazy(value):
            raise ValueError(f"{name} is a {value.layout} tensor whose content cannot be read; leave the cache out.")
        self.write("tensor", f"{value.dtype}{tuple(value.shape)}".encode())
        flat = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        self.sha.update(flat.view(torch.uint8).numpy().data)

    def array(self, value: np.ndarray, name: str) -> None:
        """Type, shape and bytes."""
        if value.dtype.hasobject:
            self.add(value.tolist(), name)
        else:
            self.write("array", f"{value.dtype.str}{value.shape}".encode())
            self.sha.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def thing(self, value: Any, name: str) -> None:
        """Functions, classes and instances."""
        if isinstance(value, COMPILED):
            owner = getattr(value, "__self__", None)
            self.write("compiled", getattr(value, "__qualname__", value.__name__).encode())
            if owner is not None and not isinstance(owner, types.ModuleType):
                self.add(owner, name)
        elif self.again(value):
            return
        elif isinstance(value, functools.partial):
            self.add(("partial", value.func, value.args, value.keywords), name)
        elif isinstance(value, types.MethodType):
            self.add(("method", value.__func__, value.__self__), name)
        elif isinstance(value, property):
            self.add(("property", value.fget), name)
        elif isinstance(value, classmethod | staticmethod):
            self.add((type(value).__name__, value.__func__), name)
        elif isinstance(value, functools.cached_property):
            self.add(("property", value.func), name)
        elif isinstance(value, functools._lru_cache_wrapper):
            self.add(("cached", value.__wrapped__), name)
        elif isinstance(value, types.FunctionType):
            self.function(value, name)
        elif isinstance(value, type):
            self.type(value, name)
        elif isinstance(value, types.GenericAlias | types.UnionType):
            self.write("annotation", str(value).encode())
        else:
            self.add(("instance", type(value)), name)
            if not self.instance(value, name):
                raise ValueError(
                    f"{name} is {type(value).__qualname__}, whose content cannot be known, so that another might be "
                    "taken for it; leave the cache out."
                )

    def instance(self, value: Any, name: str) -> bool:
        """Attributes of an instance; False if it has no place for any."""
        slots = [slot for each in type(value).__mro__ for slot in _slots(each)]
        attributes = {slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}
        attributes |= getattr(value, "__dict__", {})
        skipped = NO_CONTENT if isinstance(value, torch.nn.Module) else set()
        for key in sorted(attributes):
            if key in skipped:
                continue
            content = attributes[key]
            # Hooks are numbered through the process.
            hooks = isinstance(value, torch.nn.Module) and key.startswith("_forward")
            self.add(key, name)
            self.add(list(content.values()) if hooks else content, f"{name}.{key}")
        return bool(slots) or hasattr(value, "__dict__")

    def function(self, value: types.FunctionType, name: str) -> None:
        """What a function does: its code, what it remembers and what it names."""
        self.add((value.__defaults__, value.__kwdefaults__), name)
        for cell, variable in zip(value.__closure__ or (), value.__code__.co_freevars, strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # a name that was never given a value
                content = None
            self.add(content, f"{name}:{variable}")
        # Not __module__: a decorator of an installed package takes that of the function that it wraps.
        if not self.installed(value.__globals__.get("__name__", ""), value.__qualname__):
            self.code(value.__code__, name)
            self.names(value.__code__, value.__globals__, name)

    def code(self, code: types.CodeType, name: str) -> None:
        """Byte code and constants, without the place in the file."""
        self.write("code", code.co_code)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self.add((*names, code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags), name)
        self.add((code.co_exceptiontable, code.co_consts), name)

    def names(self, code: types.CodeType, scope: dict, name: str) -> None:
        """Values of the global names, and modules that are imported inside."""
        steps = [(step.opname, step.argval) for step in dis.get_instructions(code)]
        for operation, called in dict.fromkeys(step for step in steps if step[0] in ("LOAD_GLOBAL", "IMPORT_NAME")):
            if operation == "LOAD_GLOBAL":
                value = scope.get(called)
            else:
                value = sys.modules.get(f"{scope.get('__package__')}.{called}", sys.modules.get(called))
            if isinstance(value, types.ModuleType):
                self.module(value, code.co_names, f"{name}:{called}")
            elif called in scope:
                self.add(value, f"{name}:{called}")
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.names(constant, scope, name)

    def module(self, module: types.ModuleType, names: tuple[str, ...], name: str) -> None:
        """Version of an installed module; file of another, and those of its things that are named."""
        if (module.__name__, names) in self.modules:
            return
        self.modules.add((module.__name__, names))
        if self.installed(module.__name__, ""):
            return
        file = getattr(module, "__file__", None)
        if file and Path(file).is_file():
            self.write("file", _file_digest(file).encode())
        for each in names:
            found = getattr(module, each, None)
            if isinstance(found, types.ModuleType):
                self.module(found, names, f"{name}.{each}")
            else:
                self.add(found, f"{name}.{each}")

    def type(self, value: type, name: str) -> None:
        """A class: its own functions and constants, and the classes it builds on."""
        self.write("class", value.__qualname__.encode())
        for base in value.__bases__:
            self.add(base, name)
        if self.installed(value.__module__, value.__qualname__):
            return
        for key, attribute in sorted(vars(value).items(), key=lambda item: item[0]):
            if key not in OF_EVERY_CLASS:
                self.add(key, name)
                self.add(attribute, f"{name}:{value.__name__}.{key}")

    def installed(self, module_name: str, what: str) -> bool:
        """Whether code is of Python or of an installed package; then its version and file go in."""
        top = module_name.partition(".")[0]
        if top in sys.stdlib_module_names and top != "__main__":
            self.write("python", f"{module_name}.{what} {sys.version_info[:3]}".encode())
            return True
        file = getattr(sys.modules.get(module_name), "__file__", None)
        if not file or not INSTALLED.intersection(Path(file).parts):
            return False
        version = getattr(sys.modules.get(top), "__version__", "")
        self.write("installed", f"{module_name}.{what} {version} {_file_digest(file)}".encode())
        return True


def _slots(each: type) -> list[str]:
    slots = vars(each).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__") and not name.startswith("__")]


@functools.cache
def _file_digest(path: str) -> str:
    """SHA-256 of a file of code, as it was when it was first asked for."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of the bytes of a file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a"
    >>> _ = path.write_bytes(b"")
    >>> file_digest(path)[:8]
    'e3b0c442'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
