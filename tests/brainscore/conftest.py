"""Folders of Brain-Score for these tests alone; it reads their names when it is imported."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

HOME = Path(tempfile.mkdtemp(prefix="brainscore-tests-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ["BS_INSTALL_DEPENDENCIES"] = "no"
os.environ["RESULTCACHING_HOME"] = str(HOME / "cache")
os.environ["BRAINSCORE_HOME"] = str(HOME / "home")


@pytest.fixture
def stored() -> Path:
    """Folder of stored activations and ceilings, empty at first."""
    shutil.rmtree(HOME / "cache", ignore_errors=True)
    return HOME / "cache"
