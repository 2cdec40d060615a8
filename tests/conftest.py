from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    if SHARED.is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(pytest.mark.skip(reason="the evaluation data are not beside the checkout"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the evaluation data, beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the evaluation data are not beside the checkout")
    return SHARED
