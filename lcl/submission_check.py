"""Brain-Score's checks of a submission, run by the Python of its environment: ``python -P submission_check.py FOLDER``.

Imports nothing of this package, which that environment need not have. The installed library is not touched: the plugin
is put into a copy of its folder in which other models are left out, with caches of its own.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

#: Variables of Brain-Score: no pip, no caches but those of this check.
ENVIRONMENT = {"BS_INSTALL_DEPENDENCIES": "no", "RESULTCACHING_DISABLE": "1", "PYTHONDONTWRITEBYTECODE": "1"}

METADATA = """
import sys
from brainscore_core.plugin_management.handle_metadata import validate_metadata_file
errors, document = validate_metadata_file(sys.argv[1])
assert not errors, errors
assert sys.argv[2] in document["models"], list(document["models"])
"""

MODEL = """
import sys
import numpy as np
from pathlib import Path
from PIL import Image
from brainscore_core.supported_data_standards.brainio.assemblies import NeuronRecordingAssembly
from brainscore_core.supported_data_standards.brainio.stimuli import StimulusSet
from brainscore_vision import load_model
from brainscore_vision.model_helpers.check_submission import check_models

identifier, folder = sys.argv[1], Path(sys.argv[2])
rng, n, repeats, neurons = np.random.default_rng(0), 60, 4, 5
ids, kinds = [f"im{i}" for i in range(n)], ["car", "dog", "face"] * (n // 3)
stimuli = StimulusSet({"stimulus_id": ids, "object_name": kinds, "image_label": kinds})
stimuli.stimulus_paths = {}
for name in ids:
    stimuli.stimulus_paths[name] = folder / f"{name}.png"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{name}.png")
stimuli.identifier = "lcl-check"
values = rng.standard_normal((n, 1, neurons)) + rng.standard_normal((n, repeats, neurons))
dataset = NeuronRecordingAssembly(
    values.reshape(n * repeats, neurons, 1),
    coords={
        "stimulus_id": ("presentation", np.repeat(ids, repeats)),
        "object_name": ("presentation", np.repeat(kinds, repeats)),
        "repetition": ("presentation", np.tile(np.arange(repeats), n)),
        "neuroid_id": ("neuroid", [f"n{i}" for i in range(neurons)]),
        "region": ("neuroid", ["IT"] * neurons),
        "animal": ("neuroid", ["made up"] * neurons),
        "time_bin_start": ("time_bin", [70]),
        "time_bin_end": ("time_bin", [170]),
    },
    dims=["presentation", "neuroid", "time_bin"],
    name="lcl-check",
    attrs={"stimulus_set": stimuli},
)

check_models.load_dataset = lambda identifier: dataset
model = load_model(identifier)
layers = model.layer_model.region_layer_map
layers.setdefault("IT", layers[list(layers)[-1]])  # the check records from IT alone
check_models.check_brain_model_processing(model)
"""


def library(plugin: Path, folder: Path) -> Path:
    """Copy of the installed brainscore_vision, made of links, in which the plugin is the only model.

    Parameters
    ----------
    plugin : Path
        Folder of the plugin.
    folder : Path
        Where the copy is made; to be put on the path of Python.

    Returns
    -------
    Path
        The plugin in it.
    """
    spec = importlib.util.find_spec("brainscore_vision")
    if spec is None or spec.origin is None:
        raise SystemExit(f"{sys.executable} has no brainscore_vision; {environment_needed()}")
    installed, copy = Path(spec.origin).parent, folder / "brainscore_vision"
    copy.mkdir(parents=True)
    for path in installed.iterdir():
        if path.name not in ("models", "model_helpers", "__pycache__"):
            (copy / path.name).symlink_to(path)
    # Files that look for others beside their own real place are copied.
    shutil.copytree(installed / "model_helpers", copy / "model_helpers", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "models").mkdir()
    shutil.copy(installed / "models" / "__init__.py", copy / "models" / "__init__.py")
    shutil.copytree(plugin, copy / "models" / plugin.name, ignore=shutil.ignore_patterns("__pycache__"))
    pictures = copy / "model_helpers" / "generic_plugin_tests_resources"
    if not pictures.exists():  # the packaged library leaves out the pictures of its own tests
        from PIL import Image

        pictures.mkdir()
        for name, colour in (("rgb1.jpg", (200, 40, 90)), ("rgb2.jpg", (30, 160, 80)), ("rgb3.png", (90, 90, 220))):
            picture = Image.new("RGB", (64, 64), colour)
            picture.paste((255, 255, 255), (8, 8, 30, 40))
            picture.save(pictures / name)
    return copy / "models" / plugin.name


def registered(models: Path, identifier: str) -> list[str]:
    """Folders of models in which an identifier is registered, whatever its case.

    Parameters
    ----------
    models : Path
    identifier : str

    Returns
    -------
    list of str
    """
    found = []
    for file in sorted(models.glob("*/__init__.py")):
        text = file.read_text(encoding="utf-8", errors="replace")
        names = re.findall(r"model_registry\[\s*['\"](.*?)['\"]\s*\]", text)
        if identifier.lower() in (name.lower() for name in names):
            found.append(file.parent.name)
    return found


def environment_needed() -> str:
    """How to make an environment in which the checks run."""
    return (
        "make an environment with `python3.11 -m venv bs && bs/bin/pip install -c constraints-brainscore.txt "
        "brainscore-vision safetensors pytest pytest-check` and give --python bs/bin/python."
    )


def environment() -> str:
    """What the checks run in, in one line."""
    versions = []
    for name in ("brainscore-vision", "brainscore-core", "torch", "numpy", "xarray", "safetensors", "pytest"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} missing")
    return f"Python {platform.python_version()}, {', '.join(versions)}"


def check(plugin: Path) -> list[str]:
    """Run every check, say how each ends, and give the names of those that failed.

    Parameters
    ----------
    plugin : Path

    Returns
    -------
    list of str
    """
    plugin = plugin.resolve()
    text = (plugin / "__init__.py").read_text(encoding="utf-8")
    identifier = re.findall(r"model_registry\[['\"](.*?)['\"]\]", text)[0]
    print(f"environment: {environment()}", flush=True)
    failed = []

    def say(name: str, problem: str) -> None:
        print(f"{'failed' if problem else 'passed'}: {name}", flush=True)
        if problem:
            failed.append(name)
            print("\n".join("    " + line for line in problem.strip().splitlines()[-30:]), flush=True)

    with tempfile.TemporaryDirectory(prefix="brainscore-check-") as name:
        folder = Path(name)
        placed = library(plugin, folder / "library")
        spec = importlib.util.find_spec("brainscore_vision")
        assert spec is not None
        assert spec.origin is not None
        others = [each for each in registered(Path(spec.origin).parent / "models", identifier) if each != plugin.name]
        say("no other model has the identifier", f"registered in {', '.join(others)}" if others else "")
        paths = [str(folder / "library"), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {
            **os.environ,
            **ENVIRONMENT,
            "PYTHONPATH": os.pathsep.join(paths),
            "BRAINSCORE_HOME": str(folder / "home"),
            "RESULTCACHING_HOME": str(folder / "cache"),
        }

        def run(what: str, *arguments: str) -> None:
            done = subprocess.run(
                [sys.executable, "-P", "-W", "ignore", *arguments],
                env=variables,
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            say(what, "" if done.returncode == 0 else done.stdout + done.stderr or f"exit code {done.returncode}")

        (folder / "pictures").mkdir()
        tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
        generic = str(folder / "library" / "brainscore_vision" / "model_helpers" / "generic_plugin_tests.py")
        run("metadata, by Brain-Score's contract", "-c", METADATA, str(placed / "metadata.yaml"), identifier)
        run("Brain-Score's model check, on made-up data", "-c", MODEL, identifier, str(folder / "pictures"))
        run("Brain-Score's tests of any model", *tests, generic, "--plugin_directory", str(placed))
        run("the plugin's own tests", *tests, "-m", "not slow and not private_access", str(placed / "test.py"))
    return failed


if __name__ == "__main__":
    sys.exit(1 if check(Path(sys.argv[1])) else 0)
