"""Recordings: layout, checks, arithmetic with missing repeats, and netCDF files that are read where needed."""

import tracemalloc

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from neural_fits.recordings import (
    FORMAT,
    Recording,
    read_recording,
    recording_from_arrays,
    response_blocks,
    write_recording,
)


def toy(*, time_bins=0, seed=0, dtype=float):
    """Counts of 6 stimuli x 4 repeats x 3 neurons with labels, pictures and gaps."""
    rng = np.random.default_rng(seed)
    shape = (6, 4, 3, time_bins) if time_bins else (6, 4, 3)
    responses = rng.poisson(4, size=shape).astype(dtype)
    responses[1, 3] = np.nan
    responses[2, 0, 1] = np.nan
    return recording_from_arrays(
        responses,
        stimulus={
            "stimulus_id": [f"im{i}" for i in range(6)],
            "family": np.repeat(["bark", "sand"], 3),
            "sample": [0, 1, 2] * 2,
        },
        neuron={
            "neuron_id": ["a", "b", "c"],
            "region": ["V1", "V1", "V2"],
            "animal": "m1",
            "depth_um": [1.0, 2.0, 3.5],
        },
        time_bins_ms=[(10 * i, 10 * i + 10) for i in range(time_bins)] if time_bins else None,
        images=rng.integers(0, 256, size=(6, 8, 9), dtype=np.uint8),
        size_deg=4.0,
        window_ms=None if time_bins else (50, 200),
        name="toy",
        licence="CC0",
        citation="Nobody (2000)",
        source="random numbers",
        attributes={"penetration": "u001"},
    )


def assert_equal(one: Recording, other: Recording):
    xr.testing.assert_equal(one.dataset, other.dataset)
    assert one.responses.dtype == other.responses.dtype
    assert one.dataset.attrs.keys() == other.dataset.attrs.keys()
    for key, value in one.dataset.attrs.items():
        np.testing.assert_array_equal(value, other.dataset.attrs[key], err_msg=key)
    for name in one.dataset.coords:
        assert one.labels(str(name)).dtype.kind == other.labels(str(name)).dtype.kind, name


@pytest.mark.parametrize("time_bins", [0, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_netcdf_round_trip(tmp_path, time_bins, dtype):
    recording = toy(time_bins=time_bins, dtype=dtype)
    assert_equal(read_recording(write_recording(recording, tmp_path / "toy.nc")), recording)
