"""Digests: equal for equal numbers, different for all that can make other numbers."""

import copy
import functools
import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from neural_fits.content import digest

GAIN = 2.0


def scale(x):
    return x * GAIN


class Rectified(nn.Module):
    limit = 0.0

    def __init__(self, gain=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.register_buffer("window", torch.ones(2), persistent=False)
        self.gain = gain
        self.table = {"a": np.arange(3)}

    def forward(self, x):
        return scale(self.norm(self.conv(x)).clamp(min=self.limit)) * self.gain


class Squared(Rectified):
    def forward(self, x):
        return scale(self.norm(self.conv(x)).square()) * self.gain


Squared.__name__ = Squared.__qualname__ = "Rectified"


def assert_changes(change, module=None):
    module = Rectified() if module is None else module
    before = digest(module)
    change(module)
    assert digest(module) != before


def test_equal_contents_have_equal_digests():
    one = Rectified()
    assert digest(one) == digest(Rectified()) == digest(copy.deepcopy(one))


def test_what_does_not_change_the_numbers_does_not_count():
    module = Rectified()
    before = digest(module)
    module.train().requires_grad_(False)
    module.eval()
    module.conv.register_full_backward_hook(lambda *_: None)
    assert digest(module) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.conv.weight.data[0, 0, 0, 0].add_(1e-6),
        lambda m: m.norm.running_mean.add_(1e-6),
        lambda m: m.window.mul_(2),
        lambda m: setattr(m, "gain", 1.5),
        lambda m: m.table["a"].__setitem__(0, 5),
        lambda m: setattr(m.conv, "stride", (2, 2)),
        lambda m: setattr(m, "conv", m.conv.double()),
        lambda m: setattr(m, "norm", nn.InstanceNorm2d(2)),
        lambda m: m.conv.register_forward_hook(lambda *out: out[-1] * 2),
        lambda m: setattr(m, "forward", lambda x: x),
        lambda m: parametrizations.weight_norm(m.conv),
    ],
)
def test_every_part_of_a_module_counts(change):
    assert_changes(change)


def test_another_forward_with_the_name_and_weights_of_the_first():
    one, other = Rectified(), Squared()
    assert repr(one) == repr(other)
    assert digest(one) != digest(other)


def test_names_outside_of_the_module_count(monkeypatch):
    before = digest(Rectified()), digest(scale)
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    after = digest(Rectified()), digest(scale)
    assert before[0] != after[0]
    assert before[1] != after[1]
    monkeypatch.undo()
    assert (digest(Rectified()), digest(scale)) == before
    monkeypatch.setattr(Rectified, "limit", 0.1)
    assert digest(Rectified()) != before[0]


def test_functions_by_code_closure_defaults_and_arguments():
    def power(exponent, offset=0.0):
        return lambda x: x**exponent + offset

    assert digest(power(2)) == digest(power(2))
    different = [power(2), power(3), power(2, 1.0), scale, functools.partial(scale, x=1), functools.partial(scale, x=2)]
    different += [torch.relu, torch.sigmoid, nn.functional.relu, Rectified(2.0).forward, Rectified(3.0).forward, len]
    assert len({digest(each) for each in different}) == len(different)


def test_contents_do_not_run_together():
    different = [
        *(["ab", "c"], ["a", "bc"], ["a", "b", "c"], [["a"], "b", "c"], ("ab",), "ab", b"ab"),
        *(1, 1.0, True, None, "1", {}, [], {"a": 1}, {"a": 2}, [("a", 1)], {1, 2}, {1, 3}, 0.0, -0.0, 1j),
        *(np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.zeros(4, np.int64), torch.zeros(4)),
        *(slice(1), slice(2), range(3), Path("a"), torch.float32, torch.float64, int, float),
    ]
    assert len({digest(each) for each in different}) == len(different)
    assert digest({3, 1, 2}) == digest({2, 3, 1})
    assert digest(torch.arange(6).reshape(2, 3).T) == digest(torch.arange(6).reshape(2, 3).T.contiguous())
    assert digest(np.array(["a", {"b": 1}], dtype=object)) != digest(np.array(["a", {"b": 2}], dtype=object))


def test_what_refers_to_itself_ends():
    one, other = Rectified(), Rectified()
    for module in (one, other):
        module.owner = [module]
    assert digest(one) == digest(other)

    def countdown(n):
        return countdown(n - 1) if n else 0

    assert len(digest(countdown)) == 64


def test_what_cannot_be_known_is_refused_by_its_place():
    module = Rectified()
    module.conv.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"net\._modules\['conv'\]\.lock is lock, whose content cannot be known"):
        digest(module, name="net")
    with pytest.raises(ValueError, match="sparse_coo tensor whose content cannot be read"):
        digest(torch.eye(2).to_sparse())


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import zoo_of_one
from neural_fits.content import digest
print(digest(zoo_of_one.make()))
"""


def fresh_digest():
    for name in [name for name in sys.modules if name.startswith("zoo_")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    return digest(importlib.import_module("zoo_of_one").make())


def test_every_process_finds_the_same_and_sees_code_of_others(tmp_path, monkeypatch):
    (tmp_path / "zoo_of_one.py").write_text(
        "import torch\nimport zoo_parts as parts\n"
        "class Layer(torch.nn.Module):\n"
        "    names = {'a', 'b', 'c', 'd'}\n"
        "    def forward(self, x):\n"
        "        from zoo_late import late\n"
        "        return late(parts.rectify(x))\n"
        "def make():\n    torch.manual_seed(0)\n    return torch.nn.Sequential(torch.nn.Linear(2, 3), Layer())\n"
    )
    (tmp_path / "zoo_parts.py").write_text("from zoo_more import shift\ndef rectify(x):\n    return shift(x.relu())\n")
    (tmp_path / "zoo_late.py").write_text("def late(x):\n    return x\n")
    (tmp_path / "zoo_more.py").write_text("def shift(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = fresh_digest()
    assert fresh_digest() == before
    (tmp_path / "zoo_more.py").write_text("def shift(x):\n    return x + 22\n")
    assert fresh_digest() != before
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM.format(folder=str(tmp_path))]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env=environment)
    assert run.stdout.strip() == fresh_digest()


def test_a_module_imported_inside_counts_once_it_is_there(tmp_path, monkeypatch):
    (tmp_path / "zoo_late_one.py").write_text("def late(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)

    def forward(x):
        from zoo_late_one import late  # pyright: ignore[reportMissingImports]

        return late(x)

    forward(1)
    before = digest(forward)
    sys.modules["zoo_late_one"].late = lambda x: x + 1
    assert digest(forward) != before
