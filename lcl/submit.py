"""A run as a submission to Brain-Score: the folder of a plugin, and Brain-Score's own checks of it.

A plugin holds everything but the weights, which are fetched from an address of the submitter and known by their digest.
It needs torch and safetensors, not this package (:mod:`lcl.submission_model`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from pprint import pformat
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
from torch import Tensor, nn

from lcl import submission_check, submission_model
from lcl.checkpoint import load, read_json
from lcl.recognition_run import is_recognition_run, load_recognition
from lcl.stages import StageChain
from neural_fits.behavior.categories import imagenet_classes
from neural_fits.brainscore import REGIONS
from neural_fits.content import file_digest
from neural_fits.placing import place
from neural_fits.vision_model import VisionModel, layer_names, layer_responses

#: Side of the input of a chain of stages, px.
INPUT_PX = 224
#: Longest identifier: it is part of the names of files, which hold much else.
MAX_IDENTIFIER = 100
FILES = ("__init__.py", "model.py", "test.py", "requirements.txt", "metadata.yaml")

BIBTEX = """@article{parthasarathy2024layerwise,
  title = {Layerwise complexity-matched learning yields an improved model of cortical area {V2}},
  author = {Parthasarathy, Nikhil and H{\\'e}naff, Olivier J. and Simoncelli, Eero P.},
  journal = {Transactions on Machine Learning Research},
  year = {2024},
  url = {https://arxiv.org/abs/2312.11436}
}"""


@dataclasses.dataclass(frozen=True, eq=False)
class Submitted:
    """What of a run goes into a submission.

    Attributes
    ----------
    module : Module
        In evaluation mode; its layers have the names that they have in the plugin.
    spec : dict
        From which :func:`lcl.submission_model.network` builds it.
    regions : dict of str to str
        Layer of each area.
    readout : str
        Layer for behaviour.
    input_px : int
    field_deg : float
        That the input covers.
    config : dict
        Everything that the run's config.json holds.
    """

    module: nn.Module
    spec: dict[str, Any]
    regions: dict[str, str]
    readout: str
    input_px: int
    field_deg: float
    config: dict[str, Any]

    @property
    def vision_model(self) -> VisionModel:
        """The network and how pictures reach it."""
        channels = next(iter(self.spec["stages"].values()))["in_channels"]
        return VisionModel(
            self.module, "submission", field_deg=self.field_deg, input_px=self.input_px, channels=channels
        )


def submitted(run: Path | str) -> Submitted:
    """Network of a run, as it is submitted.

    Parameters
    ----------
    run : path
        Folder of ``lcl train`` or ``lcl recognize train``.

    Returns
    -------
    Submitted
        Of stages: V1 and V2 are the stages of that name, behaviour is read out of the last. Of a recognition network
        besides: V4 is its first convolution above the stages, IT its last pool, and behaviour is read out of its last
        hidden layer.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is no finished run, or its head is code of the user.

    Examples
    --------
    >>> submitted("no-such-run")
    Traceback (most recent call last):
        ...
    FileNotFoundError: no-such-run/config.json does not exist; expected a run folder made by `lcl train`.
    """
    if not is_recognition_run(run):
        chain = load(run)
        regions = {name: f"stages.{name}" for name in chain.names if name in REGIONS}
        return Submitted(
            module=chain,
            spec=_shape(chain),
            regions=regions,
            readout=f"stages.{chain.names[-1]}",
            input_px=INPUT_PX,
            field_deg=INPUT_PX / chain.pixels_per_degree,
            config=read_json(Path(run) / "config.json"),
        )
    head = read_json(Path(run) / "config.json")["config"]["head"]
    if head != "alexnet":
        raise ValueError(f"the head of {run} is {head}, code of your own; expected alexnet.")
    net, config = load_recognition(run)
    settings = config["config"]
    classes = config["classes"]
    if len(classes) == len(imagenet_classes()) and list(classes) != list(imagenet_classes()):
        raise ValueError(
            f"{run} names {len(classes)} classes that are not those of ImageNet in their usual order; "
            "Brain-Score would take them for these: train on other classes."
        )
    layers = {f"head.{name}": layer for name, layer in net.head.named_children()}
    rectifiers = [name for name, layer in layers.items() if isinstance(layer, nn.ReLU)]
    pool = next(name for name, layer in layers.items() if isinstance(layer, nn.MaxPool2d))
    stages = {name: f"front.stages.{name}" for name in net.front.names if name in REGIONS}
    return Submitted(
        module=net,
        spec={
            **_shape(net.front),
            "head": {
                "in_channels": net.front[net.front.names[-1]].out_channels,
                "channels": list(settings["head_channels"]),
                "pool": settings["head_pool"],
                "width": settings["head_width"],
                "norm": settings["head_norm"],
                "classes": len(classes),
            },
        },
        regions={**stages, "V4": rectifiers[0], "IT": pool},
        readout=rectifiers[-1],
        input_px=settings["size_px"],
        field_deg=settings["size_px"] / net.front.pixels_per_degree,
        config=config,
    )


def _shape(chain: StageChain) -> dict[str, Any]:
    return {name: value for name, value in chain.spec.items() if name != "pixels_per_degree"}


def identifier_problem(identifier: str) -> str:
    """Why Brain-Score would reject an identifier; empty if it would not.

    It is found by its text in a line of Python, listed with others between spaces, and part of the names of files.

    Parameters
    ----------
    identifier : str

    Returns
    -------
    str

    Examples
    --------
    >>> identifier_problem("lcl-v2_quick.1")
    ''
    >>> identifier_problem("my model")
    "holds ' '; expected letters, digits and _ - . : = alone"
    """
    if not identifier:
        return "is empty; expected a name such as lcl-v2-quick"
    if len(identifier) > MAX_IDENTIFIER:
        return f"has {len(identifier)} characters; expected at most {MAX_IDENTIFIER}"
    if wrong := re.search(r"[^A-Za-z0-9_.:=-]", identifier):
        return f"holds {wrong[0]!r}; expected letters, digits and _ - . : = alone"
    if not identifier[0].isalnum():
        return f"starts with {identifier[0]!r}; expected a letter or digit"
    return ""


def folder_problem(name: str) -> str:
    """Why Brain-Score could not import a plugin from a folder of this name; empty if it could.

    Parameters
    ----------
    name : str

    Returns
    -------
    str

    Examples
    --------
    >>> folder_problem("lcl_v2"), folder_problem("lcl.v2")
    ('', "holds '.'; expected letters, digits, _ and - alone")
    """
    if wrong := re.search(r"[^A-Za-z0-9_-]", name):
        return f"holds {wrong[0]!r}; expected letters, digits, _ and - alone"
    return "" if name[:1].isalnum() else f"starts with {name[:1]!r}, so Brain-Score passes over it; expected a letter"


def check_address(url: str, sha256: str) -> None:
    """Refuse an address from which nobody could fetch the weights.

    Parameters
    ----------
    url : str
        ``https://`` anywhere, or ``file://`` on this machine, for trying out; a file is compared with the digest.
    sha256 : str

    Raises
    ------
    ValueError
        If it is another kind of address, or the file is another.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> check_address("weights.safetensors", "")
    Traceback (most recent call last):
        ...
    ValueError: weights are at 'weights.safetensors'; expected https://HOST/PATH, or file:///PATH to try out.
    """
    parts = urlparse(url)
    host = parts.scheme == "https" and parts.hostname and not parts.username
    if not host and not (parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")):
        raise ValueError(f"weights are at {url!r}; expected https://HOST/PATH, or file:///PATH to try out.")
    if parts.scheme == "file":
        file = Path(unquote(parts.path))
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}; expected the weights of the run.")
        if (found := file_digest(file)) != sha256:
            raise ValueError(f"{file} has sha256 {found}; expected {sha256}, the weights of the run.")


def write_plugin(
    run: Path | str,
    out: Path | str,
    *,
    identifier: str,
    weights_url: str,
    regions: Mapping[str, str] | None = None,
    readout: str | None = None,
    bibtex: str = BIBTEX,
    licence: str | None = None,
) -> Path:
    """Write the folder of a plugin, all at once.

    Parameters
    ----------
    run : path
        Folder of ``lcl train`` or ``lcl recognize train``.
    out : path
        Folder to make, or an empty one; its name is the name of the plugin's package.
    identifier : str
        Name of the model on Brain-Score; nobody else's may be the same.
    weights_url : str
        Where ``weights.safetensors`` of the run is to be had.
    regions : mapping of str to str, optional
        Layer of some areas, in place of those of :func:`submitted` or besides.
    readout : str, optional
        Layer for behaviour, in place of that of :func:`submitted`.
    bibtex : str
        What to cite.
    licence : str, optional
        Of the model.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileNotFoundError, FileExistsError, ValueError
        If something is missing, in the way, or would be rejected.
    """
    out = Path(out)
    if problem := identifier_problem(identifier):
        raise ValueError(f"identifier {identifier!r} {problem}.")
    if problem := folder_problem(out.resolve().name):
        raise ValueError(f"the folder {out.resolve().name!r} {problem}.")
    if "@" not in bibtex or '"""' in bibtex or bibtex.count("{") != bibtex.count("}"):
        raise ValueError("the bibtex is not one entry such as @article{name, ...}; check its braces.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not empty; choose another folder.")
    described = submitted(run)
    described = dataclasses.replace(
        described, regions={**described.regions, **(regions or {})}, readout=readout or described.readout
    )
    model = described.vision_model
    for region, layer in [*described.regions.items(), ("the read-out", described.readout)]:
        if region not in (*REGIONS, "the read-out"):
            raise ValueError(f"region {region!r} is unknown to Brain-Score; expected some of {', '.join(REGIONS)}.")
        if layer not in layer_names(model, layer):
            raise ValueError(f"{layer!r} of {region} is a pattern; expected the name of one layer.")
    if not described.regions:
        raise ValueError(f"no stage of {run} has the name of an area; give --regions V1=LAYER ...")
    sha256 = file_digest(Path(run) / "weights.safetensors")
    check_address(weights_url, sha256)
    files = {
        "__init__.py": _init(identifier),
        "model.py": _model(described, identifier, weights_url, sha256, bibtex),
        "test.py": _test(described, identifier),
        "requirements.txt": "torch\nsafetensors\n",
        "metadata.yaml": yaml_text(metadata(described, identifier, weights_url, sha256, licence)),
        f"region_layer_map/{identifier}.json": json.dumps(described.regions, indent=2) + "\n",
    }
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        for name, text in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _layers(described: Submitted) -> list[str]:
    return list(dict.fromkeys([*described.regions.values(), described.readout]))


def _init(identifier: str) -> str:
    # Brain-Score finds the model by this text, quotes included, so the identifier is not taken from elsewhere.
    return f"""from brainscore_vision import model_registry
from brainscore_vision.model_helpers.brain_transformation import ModelCommitment

from .model import LAYERS, READOUT, REGIONS, VISUAL_DEGREES, get_model

model_registry['{identifier}'] = lambda: ModelCommitment(
    identifier='{identifier}',
    activations_model=get_model('{identifier}'),
    layers=LAYERS,
    behavioral_readout_layer=READOUT,
    region_layer_map=dict(REGIONS),
    visual_degrees=VISUAL_DEGREES,
)
"""


def _model(described: Submitted, identifier: str, url: str, sha256: str, bibtex: str) -> str:
    code = Path(submission_model.__file__).read_text(encoding="utf-8")
    return f'''{code}

# The run: its shape, its weights, and which layer stands for which area.

IDENTIFIER = {identifier!r}
WEIGHTS_URL = {url!r}
WEIGHTS_SHA256 = {sha256!r}
INPUT_PX = {described.input_px}
VISUAL_DEGREES = {_number(described.field_deg)}
LAYERS = {_layers(described)!r}
READOUT = {described.readout!r}
REGIONS = json.loads((Path(__file__).parent / "region_layer_map" / f"{{IDENTIFIER}}.json").read_text())
SPEC = {pformat(described.spec, width=110, sort_dicts=False)}
BIBTEX = r"""{bibtex.strip()}"""


def get_model_list() -> list[str]:
    """Names of the models."""
    return [IDENTIFIER]


def get_layers(identifier: str) -> list[str]:
    """Layers that stand for areas, and the read-out."""
    return LAYERS


def get_bibtex(identifier: str) -> str:
    """What to cite."""
    return BIBTEX


def get_model(identifier: str = IDENTIFIER) -> Any:
    """The network with its weights, as Brain-Score takes activations from it."""
    return activations_model(
        SPEC, identifier=IDENTIFIER, url=WEIGHTS_URL, sha256=WEIGHTS_SHA256, input_px=INPUT_PX, file=__file__
    )
'''.replace("import hashlib\nimport os", "import hashlib\nimport json\nimport os", 1)


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)


def waves() -> np.ndarray:
    """Picture of coloured waves, 72 x 96 px, that a plugin's test draws again.

    Returns
    -------
    ndarray of uint8, (row, column, 3)

    Examples
    --------
    >>> waves()[5, 7].tolist()
    [147, 201, 255]
    """
    rows, columns, channels = np.mgrid[:72, :96, :3]
    return ((rows * (7 + channels) + columns * (11 + 2 * channels) + rows * columns * (1 + channels)) % 256).astype(
        np.uint8
    )


def _test(described: Submitted, identifier: str) -> str:
    model, layers = described.vision_model, _layers(described)
    placed = place(waves()[None], size_deg=described.field_deg, model=model)
    expected = {name: _summary(response) for name, response in layer_responses(model, placed, layers).items()}
    return f'''"""The plugin gives what the trained network gave where it was exported."""

import numpy as np
import pytest
from brainscore_vision import load_model
from PIL import Image

IDENTIFIER = {identifier!r}
#: Of a picture that is drawn here: number of responses, mean, standard deviation, and some of them, evenly spaced.
EXPECTED = {pformat(expected, width=110, sort_dicts=False)}


@pytest.fixture(scope="module")
def model():
    return load_model(IDENTIFIER)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    rows, columns, channels = np.mgrid[:72, :96, :3]
    levels = (rows * (7 + channels) + columns * (11 + 2 * channels) + rows * columns * (1 + channels)) % 256
    path = tmp_path_factory.mktemp("pictures") / "waves.png"
    Image.fromarray(levels.astype(np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize("layer", EXPECTED)
def test_responses(model, picture, layer):
    found = model.activations_model([picture], layers=[layer]).values[0].astype(float)
    number, mean, deviation, some = EXPECTED[layer]
    assert found.size == number
    assert found.mean() == pytest.approx(mean, rel=1e-4, abs=1e-6)
    assert found.std() == pytest.approx(deviation, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(found[:: max(1, number // 8)], some, rtol=1e-3, atol=1e-4 * deviation)


def test_regions(model):
    assert set(model.layer_model.region_layer_map) == {set(described.regions)!r}
    assert model.identifier == IDENTIFIER


def test_stored_activations_are_those_of_these_weights(model):
    assert model.activations_model.identifier.startswith(IDENTIFIER + "-")
'''


def _summary(response: Tensor) -> tuple[int, float, float, list[float]]:
    values = response.flatten().double().numpy()
    some = values[:: max(1, values.size // 8)]
    return values.size, float(values.mean()), float(values.std()), [float(f"{value:.6g}") for value in some]


def metadata(
    described: Submitted, identifier: str, weights_url: str, sha256: str, licence: str | None
) -> dict[str, Any]:
    """What Brain-Score is told about a model, by its contract of version 2.0; from the run's own record.

    Parameters
    ----------
    described : Submitted
    identifier, weights_url, sha256 : str
    licence : str, optional

    Returns
    -------
    dict
    """
    settings, spec = described.config.get("config", {}), described.spec
    recognition = "head" in spec
    parameters = list(described.module.parameters())
    weighted = [layer for layer in described.module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    channels = next(iter(spec["stages"].values()))["in_channels"]
    images = settings.get("images") or "not recorded"
    source = "built-in photographs of lcl" if images == "builtin" else f"images given as {Path(images).name}"
    entry: dict[str, Any] = {
        "model": {
            "display_name": identifier,
            "version": sha256[:12],
            "architecture": {
                "family": "convolutional_neural_network",
                "description": f"stages {', '.join(spec['stages'])}" + " under AlexNet's upper layers" * recognition,
            },
            "parameter_count": sum(each.numel() for each in parameters),
            "parameter_count_exact": True,
            "trainable_layers": f"{len(weighted)} convolutions and linear layers",
            "recurrent": False,
            "input_resolution": {"channels": channels, "height": described.input_px, "width": described.input_px},
            "visual_degrees": _number(described.field_deg),
            "supervision": {
                "type": "supervised" if recognition else "self-supervised",
                "description": "labels above stages that may be frozen"
                if recognition
                else "each stage by its own loss, without labels and without gradients between stages",
            },
        },
        "training": {
            "process": "lcl recognize train" if recognition else "layer by layer (lcl train)",
            "objective": "naming of images"
            if recognition
            else "similar features for two deformed views of a patch, decorrelated over patches of other images",
            "loss": "cross-entropy" if recognition else "Barlow Twins per stage",
            "learning_rate": _text(settings.get("learning_rate")),
            "batch_size": _text(settings.get("batch")),
        },
        "data": {"summary": source},
        "io": {"modality": "image", "input_format": "image", "output_format": "activations"},
        "provenance": {
            "weights_provider": urlparse(weights_url).hostname or "local file",
            "checkpoint": f"sha256 {sha256}",
            "source_url": weights_url if weights_url.startswith("https:") else None,
        },
        "legal": {"license": licence},
    }
    sources = {"run": {"kind": "other", "citation": "config.json of the run, as lcl wrote it"}}
    assertions = [
        {"path": f"/{group}", "status": "probable", "sources": ["run"]}
        for group in ("model", "training", "data", "io", "provenance")
    ]
    return {
        "schema_version": "2.0",
        "domain": "vision",
        "models": {identifier: {"sources": sources, "assertions": assertions, **entry}},
    }


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def yaml_text(value: Any, indent: int = 0) -> str:
    """Plain values as YAML in blocks; text is quoted as in JSON.

    Parameters
    ----------
    value : dict, list, str, number, bool or None
    indent : int
        Of its lines.

    Returns
    -------
    str

    Examples
    --------
    >>> print(yaml_text({"a": [1, "x: y"], "b": {"c": None}}), end="")
    "a":
      - 1
      - "x: y"
    "b":
      "c": null
    """
    if not isinstance(value, dict | list) or not value:
        return f"{' ' * indent}{json.dumps(value, ensure_ascii=False)}\n"
    lines = []
    for name, each in value.items() if isinstance(value, dict) else ((None, each) for each in value):
        start = "-" if name is None else f"{json.dumps(name, ensure_ascii=False)}:"
        nested = yaml_text(each, indent + 2)
        below = name is not None and isinstance(each, dict | list) and each
        lines.append(f"{' ' * indent}{start}" + (f"\n{nested}" if below else f" {nested.lstrip()}"))
    return "".join(lines)


def plugin_problems(folder: Path | str) -> list[str]:
    """What a folder lacks to be a plugin of Brain-Score; nothing is imported or run.

    Parameters
    ----------
    folder : path

    Returns
    -------
    list of str
        Empty if it is complete.

    Examples
    --------
    >>> plugin_problems("no-such-plugin")
    ['no-such-plugin is no folder']
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder} is no folder"]
    problems = [f"{name} is missing" for name in FILES if not (folder / name).is_file()]
    if problem := folder_problem(folder.resolve().name):
        problems.append(f"the folder {folder.resolve().name!r} {problem}")
    if not (folder / "__init__.py").is_file():
        return problems
    lines = (folder / "__init__.py").read_text(encoding="utf-8").splitlines()
    names = [found[1] for line in lines if (found := re.search(r"model_registry\[['\"](.*)['\"]\]", line))]
    if len(names) != 1:
        return [*problems, f"__init__.py has {len(names)} lines with model_registry['IDENTIFIER']; expected one"]
    if problem := identifier_problem(names[0]):
        problems.append(f"identifier {names[0]!r} {problem}")
    layers = folder / "region_layer_map" / f"{names[0]}.json"
    if not layers.is_file():
        return [*problems, f"region_layer_map/{names[0]}.json is missing"]
    try:
        regions = json.loads(layers.read_text(encoding="utf-8"))
    except ValueError as error:
        return [*problems, f"region_layer_map/{names[0]}.json is no JSON ({error})"]
    if not isinstance(regions, dict) or not regions or not set(regions) <= set(REGIONS):
        problems.append(f"region_layer_map/{names[0]}.json names {regions}; expected layers of {', '.join(REGIONS)}")
    return problems


def check_plugin(folder: Path | str, *, python: str = sys.executable) -> None:
    """Run Brain-Score's own checks and tests of a plugin, in its environment; what they say is printed.

    Parameters
    ----------
    folder : path
    python : str
        Interpreter of an environment that has brainscore-vision, safetensors, pytest and pytest-check.

    Raises
    ------
    ValueError
        If the plugin is incomplete, the environment will not do, or a check fails.
    """
    if problems := plugin_problems(folder):
        raise ValueError(f"{folder} is no complete plugin: {'; '.join(problems)}.")
    needed = "import brainscore_vision.model_interface, safetensors, pytest, pytest_check"
    variables = {**os.environ, **submission_check.ENVIRONMENT}
    # No module of this folder may be taken for one of theirs: -P leaves it out.
    try:
        done = subprocess.run(
            [python, "-P", "-W", "ignore", "-c", needed], env=variables, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ValueError(f"{python} cannot be run ({error}); {submission_check.environment_needed()}") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"{python} will not do ({reason}); {submission_check.environment_needed()}")
    script = str(Path(submission_check.__file__).resolve())
    command = [python, "-P", "-W", "ignore", script, str(Path(folder).resolve())]
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line.strip())
    if process.returncode:
        failed = [line.removeprefix("failed: ") for line in said if line.startswith("failed: ")]
        raise ValueError(f"{folder} does not pass: {'; '.join(failed) or 'see above'}.")
