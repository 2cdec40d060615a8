"""A run folder: what a training run leaves behind, and how it is read back.

=====================  =============================================================================================
config.json            format number, settings, shape of the model, seeds, versions, git state, command
weights.safetensors    the model
metrics.jsonl          one line of JSON per logged step
summary.json           the figures of the report as numbers
analysis.safetensors   arrays that the figures are drawn from
state.safetensors      everything that resuming needs
figures/               figures, PNG
report.html            one self-contained page
=====================  =============================================================================================

Every file is written under a temporary name and then renamed, so that a reader never sees half a file. Everything is
plain JSON, safetensors, PNG or HTML: nothing that is loaded can run code.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lcl.optimizers import load_state_tensors, state_tensors
from lcl.stages import StageChain
from stimuli.files import replacing

#: Raised when a file of the run folder changes its meaning.
FORMAT = 1
#: Where trained models that come with the package are.
SHIPPED = Path(__file__).parent / "weights"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file at once.

    Parameters
    ----------
    path : Path
    values : mapping
        Plain values; NaN and infinity are refused, since JSON has none.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_json(path, {"a": 1})
    >>> read_json(path)
    {'a': 1}
    """
    text = json.dumps(values, indent=2, allow_nan=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run folder.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a run folder made by `lcl train`.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as JSON ({error}); restore it or train again.") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file at once.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to Tensor
    metadata : dict of str to str, optional

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> write_tensors(path, {"x": torch.ones(2)}, {"step": "3"})
    >>> read_tensors(path)
    ({'x': tensor([1., 1.])}, {'step': '3'})
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        save_file(plain, partial, metadata={"format": str(FORMAT), **(metadata or {})})
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # safetensors makes its files private
        # A file that survives the rename but not a power cut would be worse than none.
        with partial.open("rb") as written:
            os.fsync(written.fileno())


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file of a run folder.

    Parameters
    ----------
    path : Path

    Returns
    -------
    tensors : dict of str to Tensor
    metadata : dict of str to str
        Without the format number.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged or of another format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a run folder made by `lcl train`.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it or train again.") from None
    check_format(path, metadata.pop("format", None))
    return tensors, metadata


def write_training_state(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    *,
    position: int,
    seconds: float,
    **notes: str,
) -> None:
    """Write everything that changes during training, at once.

    Parameters
    ----------
    path : Path
    modules : mapping of str to Module
        Networks by name.
    optimisers : mapping of str to Optimizer
        By name.
    position : int
        Steps done.
    seconds : float
        Time they took.
    **notes : str
        Whatever else is needed to go on.
    """
    tensors = {f"{name}/{key}": tensor for name, of in modules.items() for key, tensor in of.state_dict().items()}
    for name, optimiser in optimisers.items():
        tensors |= {f"optimiser/{name}/{key}": tensor for key, tensor in state_tensors(optimiser).items()}
    write_tensors(path, tensors, {"position": str(position), "seconds": repr(seconds), **notes})


def read_training_state(
    path: Path, modules: Mapping[str, nn.Module], optimisers: Mapping[str, torch.optim.Optimizer]
) -> tuple[int, float, dict[str, str]]:
    """Put back what :func:`write_training_state` wrote.

    Parameters
    ----------
    path : Path
    modules, optimisers : mapping
        Of the same names.

    Returns
    -------
    position : int
    seconds : float
    notes : dict of str to str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of another format, or of other networks.

    Examples
    --------
    >>> import tempfile
    >>> path, net = Path(tempfile.mkdtemp()) / "state.safetensors", nn.Linear(2, 2)
    >>> write_training_state(path, {"net": net}, {}, position=3, seconds=1.5)
    >>> read_training_state(path, {"net": nn.Linear(2, 2)}, {})
    (3, 1.5, {})
    """
    tensors, notes = read_tensors(path)

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    for name, module in modules.items():
        try:
            module.load_state_dict(under(f"{name}/"))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"{path} is the state of another network ({reason}).") from None
    for name, optimiser in optimisers.items():
        load_state_tensors(optimiser, under(f"optimiser/{name}/"))
    return int(notes.pop("position")), float(notes.pop("seconds")), notes


def check_format(path: Path, number: Any) -> None:
    """Refuse a file of another format than this version writes.

    Parameters
    ----------
    path : Path
        Named in the error.
    number : object
        Format number found in it.

    Raises
    ------
    ValueError
        If the number is not :data:`FORMAT`.

    Examples
    --------
    >>> check_format(Path("config.json"), FORMAT)
    """
    if str(number) != str(FORMAT):
        raise ValueError(f"{path} has format {number}; this version of lcl reads format {FORMAT}.")


def shipped() -> dict[str, Path]:
    """Run folders of the trained models that come with the package, by name; each has a model card, ``CARD.md``.

    Returns
    -------
    dict of str to Path

    Examples
    --------
    >>> list(shipped())
    ['lcl-v2-small']
    """
    return {folder.name: folder for folder in sorted(SHIPPED.iterdir()) if (folder / "config.json").is_file()}


def run_folder(path: str | os.PathLike[str]) -> Path:
    """Folder that a name stands for: of a model that comes with the package, or the path itself.

    Parameters
    ----------
    path : path-like
        A folder of this name in the working directory comes before a model of the package.

    Returns
    -------
    Path

    Examples
    --------
    >>> run_folder("lcl-v2-small").name, run_folder("runs/mine").as_posix()
    ('lcl-v2-small', 'runs/mine')
    """
    return Path(path) if Path(path).exists() else shipped().get(os.fspath(path), Path(path))


def load(path: str | os.PathLike[str]) -> StageChain:
    """Model of a run folder, or one that comes with the package by its name, ready to be used.

    Reads config.json and weights.safetensors; no code is run and nothing is trusted beyond names and numbers.

    Parameters
    ----------
    path : path-like
        A run folder made by ``lcl train``, or a name of :func:`shipped`.

    Returns
    -------
    StageChain
        In evaluation mode, on the CPU.

    Raises
    ------
    FileNotFoundError
        If the folder, its configuration or its weights do not exist.
    ValueError
        If a file is damaged, of another format, or the weights do not fit the configuration.

    Examples
    --------
    >>> load("lcl-v2-small").names
    ['V1', 'V2']
    >>> load("no-such-run")
    Traceback (most recent call last):
        ...
    FileNotFoundError: no-such-run/config.json does not exist; expected a run folder made by `lcl train`.
    """
    run = run_folder(path)
    config = read_json(run / "config.json")
    check_format(run / "config.json", config.get("format"))
    if not (run / "weights.safetensors").is_file():
        raise FileNotFoundError(
            f"{run} holds no weights.safetensors, so its training has not finished; "
            f"go on with `lcl train --resume {run}`."
        )
    weights, _ = read_tensors(run / "weights.safetensors")
    model = StageChain.from_spec(config["model"])
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if needed != given:
        wrong = sorted(name for name in needed.keys() | given.keys() if needed.get(name) != given.get(name))
        raise ValueError(
            f"The weights in {run} do not fit its config.json: {wrong[0]} is {given.get(wrong[0])}, "
            f"expected {needed.get(wrong[0])}."
        )
    model.load_state_dict(weights)
    return model.eval()


def provenance() -> dict[str, Any]:
    """What a result must carry to be understood later: versions, machine, git state.

    Returns
    -------
    dict
        Plain values.

    Examples
    --------
    >>> sorted(provenance())
    ['git', 'machine', 'threads', 'versions']
    """
    versions = {"python": platform.python_version()}
    for name in ("lcl", "torch", "numpy", "kornia", "pillow", "scikit-image", "scikit-learn", "safetensors"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed as a distribution"
    machine = {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()}
    if torch.cuda.is_available():
        machine["accelerator"] = torch.cuda.get_device_name()
    return {"versions": versions, "machine": machine, "threads": torch.get_num_threads(), "git": _git_state()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git_state() -> dict[str, Any] | None:
    """Commit of the checkout the package runs from, and whether files differ from it; None for an installed wheel."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def command_line() -> str:
    """The command that this process was started with, without the folder of the program.

    Examples
    --------
    >>> isinstance(command_line(), str)
    True
    """
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
