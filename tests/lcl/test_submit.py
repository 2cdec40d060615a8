"""Submissions without Brain-Score: what is refused, what is written, and the plugin's network against ours."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lcl.checkpoint import FORMAT, write_json, write_tensors
from lcl.cli import main
from lcl.recognition import RecognitionNet, alexnet_head
from lcl.stages import LCLV2, Stage, StageChain
from lcl.submission_model import network, preprocess, weights_file
from lcl.submit import check_plugin, plugin_problems, submitted, write_plugin, yaml_text
from neural_fits.behavior.categories import imagenet_classes
from neural_fits.content import file_digest
from neural_fits.placing import place
from neural_fits.vision_model import VisionModel, layer_responses

SETTINGS = {"learning_rate": [0.01, 0.003], "batch": [256], "images": "builtin"}


def write_run(folder, model, **extra):
    """Run folder of a model with settled batch statistics."""
    folder.mkdir(parents=True)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.uniform_(-0.5, 0.5)
    front = model.front if isinstance(model, RecognitionNet) else model
    write_json(folder / "config.json", {"format": FORMAT, "model": front.spec, "config": SETTINGS, **extra})
    write_tensors(folder / "weights.safetensors", model.state_dict())
    return folder


def chain(**options):
    return LCLV2(channels=(8, 12), generator=torch.Generator().manual_seed(1), **options)


def recognition(folder, *, norm=True, classes=("a", "b", "c")):
    generator = torch.Generator().manual_seed(2)
    head = {"head_channels": [10, 8, 6], "head_pool": 2, "head_width": 16, "head_norm": norm, "dropout": 0.5}
    net = RecognitionNet(
        chain(), alexnet_head(12, len(classes), channels=(10, 8, 6), pool=2, width=16, norm=norm, generator=generator)
    )
    config = {"seed": 0, "head": "alexnet", "size_px": 112, "images": "photographs", "batch": 64, **head}
    return write_run(folder, net, kind="recognition", classes=list(classes), config=config)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", chain())


def url(run):
    return (run / "weights.safetensors").resolve().as_uri()


def load_plugin(folder, name="submitted_model"):
    """The plugin's model.py, which stands alone."""
    spec = importlib.util.spec_from_file_location(name, folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "model",
    [
        chain(),
        chain(norm=False, pool="blur"),
        chain(pool="l2", simple_complex=True),
        chain(in_channels=1),
        StageChain(
            {"V1": Stage(3, 6, kernel=5, stride=2), "V2": Stage(6, 8, kernel=3, pool_kernel=1, pool_stride=1)},
            input_mean=0.4,
            input_std=0.3,
        ),
    ],
    ids=["standard", "blur, no norm", "l2, simple and complex", "grey", "no pool"],
)
def test_the_plugin_gives_our_responses(tmp_path, model):
    run = write_run(tmp_path / "run", model)
    folder = write_plugin(run, tmp_path / "plugin", identifier="x", weights_url=url(run))
    described, plugin = submitted(run), load_plugin(folder)
    twin = network(plugin.SPEC)
    path = weights_file(plugin.WEIGHTS_URL, plugin.WEIGHTS_SHA256, tmp_path / "cache")
    twin.load_state_dict(plugin.load_file(path))
    pictures = [np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8) for i, size in enumerate(SIZES)]
    channels = model.in_channels
    ours = torch.cat([place(each[None], size_deg=8.0, model=described.vision_model) for each in pictures])
    paths = []
    for i, each in enumerate(pictures):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(each).save(paths[-1])
    theirs = torch.from_numpy(preprocess(paths, input_px=224, channels=channels))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0)
    assert plugin.LAYERS == ["stages.V1", "stages.V2"]
    expected = model.eval()(ours)
    found = layer_responses(VisionModel(twin, "twin", channels=channels), theirs, plugin.LAYERS)
    for stage in ("V1", "V2"):
        torch.testing.assert_close(found[f"stages.{stage}"], expected[stage], rtol=1e-6, atol=1e-6)


#: Pictures as wide as the input, larger, smaller, lower, higher, grey.
SIZES = [(224, 224, 3), (300, 301, 3), (64, 64, 3), (50, 90, 3), (90, 50, 3), (70, 70)]


@pytest.mark.parametrize("norm", [True, False])
def test_a_recognition_network_has_v4_it_and_a_read_out(tmp_path, norm):
    run = recognition(tmp_path / "run", norm=norm)
    folder = write_plugin(run, tmp_path / "plugin", identifier="net", weights_url=url(run))
    described, plugin = submitted(run), load_plugin(folder)
    step = 3 if norm else 2
    assert {
        "V1": "front.stages.V1",
        "V2": "front.stages.V2",
        "V4": f"head.{step - 1}",
        "IT": f"head.{3 * step}",
    } == plugin.REGIONS
    assert (plugin.INPUT_PX, plugin.VISUAL_DEGREES) == (112, 4)
    twin = network(plugin.SPEC)
    twin.load_state_dict(plugin.load_file(run / "weights.safetensors"))
    images = torch.rand(2, 3, 112, 112)
    ours = layer_responses(described.vision_model, images, plugin.LAYERS)
    theirs = layer_responses(VisionModel(twin, "twin"), images, plugin.LAYERS)
    for layer in plugin.LAYERS:
        torch.testing.assert_close(theirs[layer], ours[layer], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(twin(images), described.module(images), rtol=1e-6, atol=1e-6)
    # Brain-Score's "logits" is the last module.
    assert list(twin.named_modules())[-1][1].out_features == 3


def test_classes_that_would_be_taken_for_those_of_imagenet_are_refused(tmp_path):
    classes = list(imagenet_classes())
    submitted(recognition(tmp_path / "right", classes=classes))
    with pytest.raises(ValueError, match="usual order"):
        submitted(recognition(tmp_path / "wrong", classes=classes[::-1]))


def test_a_head_of_the_users_own_is_refused(tmp_path):
    run = recognition(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["config"]["head"] = "tests.nothing:head"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="code of your own"):
        submitted(run)


def refused(capsys, *arguments):
    assert main(["submit", *map(str, arguments)]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    return said


@pytest.mark.parametrize(
    ("identifier", "why"),
    [
        ("", "is empty"),
        ("my model", "' '"),
        ("a/b", "'/'"),
        ("a'b", '"\'"'),
        ("a]b", "']'"),
        ("né", "'é'"),
        ("-lcl", "starts with '-'"),
        ("x" * 101, "101 characters"),
    ],
)
def test_an_identifier_that_brainscore_would_reject_is_refused(run, tmp_path, capsys, identifier, why):
    out = tmp_path / "plugin"
    said = refused(capsys, run, f"--identifier={identifier}", "--weights-url", url(run), "--out", out)
    assert why in said
    assert not out.exists()


def test_what_is_missing_is_named(run, tmp_path, capsys):
    assert "missing: RUN, --identifier NAME, --weights-url URL, --out DIR" in refused(capsys)
    assert "missing: --weights-url URL" in refused(capsys, run, "--identifier", "x", "--out", tmp_path / "p")
    given = ["--identifier", "x", "--weights-url", url(run)]
    assert "no-such-run" in refused(capsys, tmp_path / "no-such-run", *given, "--out", tmp_path / "p")
    assert "'.'" in refused(capsys, run, *given, "--out", tmp_path / "p.q")
    assert "passes over it" in refused(capsys, run, *given, "--out", tmp_path / "_p")
    assert "V9" in refused(capsys, run, *given, "--out", tmp_path / "p", "--regions", "V9=stages.V1")
    assert "has no layer" in refused(capsys, run, *given, "--out", tmp_path / "p", "--regions", "V4=nothing")
    assert "has no layer" in refused(capsys, run, *given, "--out", tmp_path / "p", "--regions", "V4")
    assert "pattern" in refused(capsys, run, *given, "--out", tmp_path / "p", "--regions", "V4=stages.V*")
    assert "alone" in refused(capsys, run, "--check", tmp_path)
    broken = tmp_path / "broken.bib"
    broken.write_text("@article{a, title = {b}")
    assert "braces" in refused(capsys, run, *given, "--out", tmp_path / "p", "--bibtex", broken)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("address", ["weights.safetensors", "http://a.org/w", "https:///w", "https://me:pw@a.org/w"])
def test_an_address_that_nobody_could_fetch_from_is_refused(run, tmp_path, capsys, address):
    given = ["--identifier", "x", "--out", tmp_path / "p", "--weights-url"]
    assert "expected https://" in refused(capsys, run, *given, address)


def test_a_file_that_is_not_the_weights_is_refused(run, tmp_path, capsys):
    (tmp_path / "other").write_bytes(b"other")
    given = ["--identifier", "x", "--out", tmp_path / "p", "--weights-url"]
    assert "has sha256" in refused(capsys, run, *given, (tmp_path / "other").as_uri())
    assert "no file" in refused(capsys, run, *given, (tmp_path / "none").as_uri())


def test_an_export_is_whole_or_not_there(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "plugin"
    out.mkdir()
    assert (
        main(["submit", str(run), "--identifier", "a.b-c:d=1", "--weights-url", "https://a.org/w", "--out", str(out)])
        == 0
    )
    assert "https://a.org/w" in capsys.readouterr().out
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {
        "__init__.py",
        "model.py",
        "test.py",
        "requirements.txt",
        "metadata.yaml",
        "region_layer_map/a.b-c:d=1.json",
    }
    assert plugin_problems(out) == []
    line = "model_registry['a.b-c:d=1'] = lambda: ModelCommitment("
    assert line in (out / "__init__.py").read_text().splitlines()
    assert "not empty" in refused(capsys, run, "--identifier", "x", "--weights-url", url(run), "--out", out)
    monkeypatch.setattr("lcl.submit.yaml_text", lambda value: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_plugin(run, tmp_path / "other", identifier="x", weights_url=url(run))
    assert {path.name for path in tmp_path.iterdir()} == {"run", "plugin"}


def test_what_a_plugin_lacks_is_named(run, tmp_path, capsys):
    out = write_plugin(run, tmp_path / "plugin", identifier="x", weights_url=url(run))
    (out / "metadata.yaml").unlink()
    (out / "region_layer_map" / "x.json").unlink()
    said = refused(capsys, "--check", out)
    assert "metadata.yaml is missing" in said
    assert "region_layer_map/x.json is missing" in said


def test_an_environment_without_brainscore_is_refused_with_the_way_to_make_one(run, tmp_path):
    out = write_plugin(run, tmp_path / "plugin", identifier="x", weights_url=url(run))
    if importlib.util.find_spec("brainscore_vision") is None:
        with pytest.raises(ValueError, match="brainscore-vision safetensors pytest"):
            check_plugin(out, python=sys.executable)
    with pytest.raises(ValueError, match="cannot be run"):
        check_plugin(out, python=str(tmp_path / "no-python"))


def test_weights_are_fetched_once_and_refused_if_others(run, tmp_path):
    cache, source = tmp_path / "cache", tmp_path / "w.safetensors"
    source.write_bytes((run / "weights.safetensors").read_bytes())
    sha256 = file_digest(source)
    path = weights_file(source.as_uri(), sha256, cache)
    assert file_digest(path) == sha256
    source.unlink()
    assert weights_file(source.as_uri(), sha256, cache) == path
    path.write_bytes(b"damaged")
    source.write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"expected {sha256}"):
        weights_file(source.as_uri(), sha256, cache)
    assert [each.read_bytes() for each in cache.iterdir()] == [b"damaged"]
    source.write_bytes((run / "weights.safetensors").read_bytes())
    assert file_digest(weights_file(source.as_uri(), sha256, cache)) == sha256


def test_regions_can_be_given(run, tmp_path):
    out = write_plugin(
        run, tmp_path / "p", identifier="x", weights_url=url(run), regions={"V1": "stages.V1.norm", "V4": "stages.V2"}
    )
    plugin = load_plugin(out)
    assert plugin.REGIONS == {"V1": "stages.V1.norm", "V2": "stages.V2", "V4": "stages.V2"}
    assert plugin.LAYERS == ["stages.V1.norm", "stages.V2"]


def test_the_model_file_of_other_weights_is_another(tmp_path):
    """Its digest is in the name under which activations are stored."""
    texts = []
    for seed in (1, 2):
        model = LCLV2(channels=(8, 12), generator=torch.Generator().manual_seed(seed))
        run = write_run(tmp_path / f"run{seed}", model)
        out = write_plugin(run, tmp_path / f"p{seed}", identifier="x", weights_url="https://example.org/w")
        texts.append((out / "model.py").read_bytes())
    assert texts[0] != texts[1]


def test_metadata_is_yaml_of_the_runs_own_record(run, tmp_path):
    yaml = pytest.importorskip("yaml")
    values = {"a": [], "b": {}, "c": [{"d": 1, "e": ["x: y", "ü\n"]}, [1, 2]], "f": None, "g": {"h": [True, 0.5]}}
    assert yaml.safe_load(yaml_text(values)) == values
    out = write_plugin(run, tmp_path / "p", identifier="x", weights_url="https://a.org/w", licence="MIT")
    entry = yaml.safe_load((out / "metadata.yaml").read_text())["models"]["x"]
    model = submitted(run).module
    assert entry["model"]["parameter_count"] == sum(each.numel() for each in model.parameters())
    assert entry["legal"] == {"license": "MIT"}
    assert entry["provenance"]["checkpoint"].endswith(file_digest(run / "weights.safetensors"))
