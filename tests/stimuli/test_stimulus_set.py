import json
import sys
import types

import numpy as np
import pandas as pd
import pytest

from stimuli.stimulus_set import (
    StimulusSet,
    brainscore_stimulus_set,
    factorial,
    from_brainscore,
    read_folder,
    read_hdf5,
    to_brainscore,
    write_folder,
    write_hdf5,
)


def a_set(dtype=np.uint8, shape=(4, 8, 6)):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape).astype(np.uint8)
    return StimulusSet(
        images if dtype is np.uint8 else (images / 255).astype(np.float32),
        {
            "orientation_deg": rng.random(4) * 180,
            "family": np.array([3, 1, 4, 1]),
            "type": np.array(["texture", "noise", 'größer, "x"', ""]),
            "blank": np.array([True, False, False, True]),
        },
        pixels_per_degree=3.0,
        mean_luminance=0.45,
        aperture="raised cosine, radius 2 deg",
        name="probe",
    )


def same(one, two):
    assert np.array_equal(one.images, two.images)
    assert one.images.dtype == two.images.dtype
    assert list(one.parameters) == list(two.parameters)
    for name, values in one.parameters.items():
        assert np.array_equal(values, two.parameters[name])
        assert values.dtype.kind == two.parameters[name].dtype.kind
    for name in ("pixels_per_degree", "mean_luminance", "contrast", "aperture", "name", "size_deg"):
        assert getattr(one, name) == getattr(two, name) or (name == "contrast" and np.isnan(two.contrast))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(4, 8, 6), (4, 8, 6, 3), (4, 8, 6, 1)])
def test_hdf5_is_exact(tmp_path, dtype, shape):
    stimuli = a_set(dtype, shape)
    same(stimuli, read_hdf5(write_hdf5(stimuli, tmp_path / "set.h5")))
    assert [path.name for path in tmp_path.iterdir()] == ["set.h5"]


@pytest.mark.parametrize("shape", [(4, 8, 6), (4, 8, 6, 3), (4, 8, 6, 1)])
def test_folder_is_exact_for_uint8(tmp_path, shape):
    stimuli = a_set(np.uint8, shape)
    same(stimuli, read_folder(write_folder(stimuli, tmp_path / "set")))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_set_without_parameters(tmp_path):
    stimuli = StimulusSet(np.zeros((2, 3, 3), np.uint8))
    same(stimuli, read_hdf5(write_hdf5(stimuli, tmp_path / "set.h5")))
    same(stimuli, read_folder(write_folder(stimuli, tmp_path / "set")))


def test_folder_of_floats_is_within_half_a_level(tmp_path):
    images = np.random.default_rng(0).random((3, 9, 9), dtype=np.float32)
    back = read_folder(write_folder(StimulusSet(images, contrast=0.3), tmp_path / "set"))
    assert np.abs(back.images / 255 - images).max() <= 1 / 510 + 1e-6
    assert back.contrast == 0.3


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_folder(a_set(), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(tmp_path):
    with pytest.raises(ValueError, match="exists"):
        write_folder(a_set(), tmp_path)


def test_files_outside_the_folder_are_refused(tmp_path):
    folder = write_folder(a_set(), tmp_path / "set")
    table = folder / "parameters.csv"
    table.write_text(table.read_text().replace("images/000001.png", "../../secret.png"))
    with pytest.raises(ValueError, match="lies outside"):
        read_folder(folder)
    table.write_text(table.read_text().replace("../../secret.png", "images/9.png"))
    with pytest.raises(FileNotFoundError, match=r"9\.png"):
        read_folder(folder)


def test_another_format_is_refused(tmp_path):
    folder = write_folder(a_set(), tmp_path / "set")
    description = folder / "stimulus_set.json"
    description.write_text(description.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="format 99"):
        read_folder(folder)


def test_not_a_stimulus_set(tmp_path):
    import h5py

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["other"] = 1
    with pytest.raises(ValueError, match="not a stimulus set"):
        read_hdf5(tmp_path / "x.h5")


def test_bad_sets_are_named():
    with pytest.raises(ValueError, match="float64"):
        StimulusSet(np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match=r"from 0.0 to 2.0"):
        StimulusSet(np.array([[[0, 2]]], np.float32))
    with pytest.raises(ValueError, match="'family'"):
        StimulusSet(np.zeros((2, 2, 2), np.uint8), {"family": np.array([1])})
    with pytest.raises(ValueError, match="pixels_per_degree is 0"):
        StimulusSet(np.zeros((2, 2, 2), np.uint8), pixels_per_degree=0)


def test_select_keeps_rows_together():
    stimuli = a_set()
    some = stimuli.select(stimuli.parameters["family"] == 1)
    assert np.array_equal(some.images, stimuli.images[[1, 3]])
    assert some.parameters["type"].tolist() == ["noise", ""]
    assert some.size_deg == stimuli.size_deg == 2.0


def test_factorial_runs_the_last_fastest():
    table = pd.MultiIndex.from_product([[0, 1], [5, 6, 7]], names=["a", "b"]).to_frame(index=False)
    ours = factorial({"a": np.array([0, 1]), "b": np.array([5, 6, 7])})
    assert all(np.array_equal(table[name], values) for name, values in ours.items())


def test_brainscore_there_and_back(tmp_path):
    stimuli = a_set()
    table, paths = to_brainscore(stimuli, tmp_path / "set")
    assert table["size_deg"].tolist() == [2.0] * 4
    back = from_brainscore(table, paths, size_deg=2.0)
    assert np.array_equal(back.images, stimuli.images)
    for name, values in stimuli.parameters.items():
        assert np.array_equal(back.parameters[name], values)
    with pytest.raises(ValueError, match="no path for 4"):
        from_brainscore(table, {}, size_deg=2.0)


def test_brainscore_own_set_gets_identifier_and_paths(monkeypatch):
    class Table(pd.DataFrame):
        _metadata = ["identifier", "stimulus_paths"]  # noqa: RUF012

    name = "brainscore_core.supported_data_standards.brainio.stimuli"
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    sys.modules[name].StimulusSet = Table
    made = brainscore_stimulus_set(pd.DataFrame({"stimulus_id": ["a"]}), {"a": "a.png"}, identifier="probe")
    assert made.identifier == "probe"
    assert made.stimulus_paths == {"a": "a.png"}


def test_brainscore_absent_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "brainscore_core", None)
    with pytest.raises(ImportError, match="pip install"):
        brainscore_stimulus_set(pd.DataFrame(), {}, identifier="probe")
