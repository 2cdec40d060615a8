"""A small recording, and what it means that two recordings are the same."""

import numpy as np
import pytest
import xarray as xr

from neural_fits.recordings import Recording, recording_from_arrays


@pytest.fixture(scope="session")
def toy():
    return toy_recording


def toy_recording(*, time_bins=0, dtype=float, **changes):
    """Counts of 6 stimuli x 4 repeats x 3 neurons with labels, pictures and gaps."""
    rng = np.random.default_rng(0)
    responses = rng.poisson(4, size=(6, 4, 3, time_bins) if time_bins else (6, 4, 3)).astype(dtype)
    responses[1, 3] = np.nan
    responses[2, 0, 1] = np.nan
    stimulus = {
        "stimulus_id": [f"im{i}é" for i in range(6)],
        "family": ["bark"] * 3 + ["sand"] * 3,
        "sample": [0, 1, 2] * 2,
    }
    neuron = {"neuron_id": ["a", "b", "c"], "region": ["V1", "V1", ""], "animal": "m1", "depth_um": [1.0, np.nan, 3.5]}
    given = {
        "stimulus": stimulus,
        "neuron": neuron,
        "repeat": [1, 2, 3, 4],
        "time_bins_ms": [(10 * i, 10 * i + 10) for i in range(time_bins)] if time_bins else None,
        "images": rng.integers(0, 256, size=(6, 8, 9), dtype=np.uint8),
        "size_deg": 4.0,
        "window_ms": None if time_bins else (50, 200),
        "name": "toy",
        "licence": "CC0",
        "citation": "Nobody (2000)",
        "attributes": {"penetration": "u001", "latencies_ms": np.array([40.0, 50.0]), "depth": 3},
    }
    return recording_from_arrays(responses, **{**given, **changes})


@pytest.fixture(scope="session")
def assert_same():
    return assert_same_recordings


def assert_same_recordings(one: Recording, other: Recording):
    """Equal in every value, coordinate, kind of number and attribute."""
    xr.testing.assert_equal(one.dataset, other.dataset)
    assert one.responses.dtype == other.responses.dtype
    assert one.dataset.attrs.keys() == other.dataset.attrs.keys()
    for key, value in one.dataset.attrs.items():
        np.testing.assert_array_equal(value, other.dataset.attrs[key], err_msg=key)
    for name in one.dataset.coords:
        assert one.labels(str(name)).dtype.kind == other.labels(str(name)).dtype.kind, name
