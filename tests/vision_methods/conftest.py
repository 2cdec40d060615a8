import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def as_two_processes():
    """Runs a test file as two processes, each given a folder and its number, and something else beside them.

    The processes treat warnings as errors, as the suite does, but those of what old releases deprecate.
    """

    def run(file, folder, beside=lambda: None):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        if sys.platform == "linux":
            environment["GLOO_SOCKET_IFNAME"] = "lo"
        command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", file, str(folder)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started = [subprocess.Popen([*command, str(number)], env=environment, **pipes) for number in (0, 1)]
        try:
            found = beside()
            said = [process.communicate(timeout=300)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        assert [process.returncode for process in started] == [0, 0], "\n".join(said)
        return found

    return run


@pytest.fixture
def assert_two_are_one(as_two_processes, tmp_path):
    """Asserts that the arrays that both processes save as NUMBER.npz are those of a function run here."""

    def check(file, alone, *, rtol=1e-6, atol):
        expected = as_two_processes(file, tmp_path, beside=alone)
        for number in (0, 1):
            with np.load(tmp_path / f"{number}.npz") as found:
                assert set(found) == set(expected)
                for name, value in expected.items():
                    np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol, err_msg=name)

    return check
