"""MATLAB files: written by scipy, and by hand through HDF5 as MATLAB 7.3 does, with its axes reversed."""

import h5py
import numpy as np
import pytest
import scipy.io

from neural_fits.matlab_files import mat_array, read_mat, recording_from_mat, write_mat

AXES = ("family", "type", "sample", "repeat", "time_bin", "neuron")


def save_v5(path, name, array):
    scipy.io.savemat(path, {name: array})


def save_v73(path, name, array):
    """Dataset of reversed shape behind a header of 512 bytes: what MATLAB's save(..., '-v7.3') makes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset(name, data=array.transpose()).attrs["MATLAB_class"] = np.bytes_(array.dtype.name)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + b"\x00\x02IM")


SAVE = {"5": save_v5, "7.3": save_v73}
both = pytest.mark.parametrize("version", ["5", "7.3"])


@both
def test_several_stimulus_axes_are_stacked_in_their_order(tmp_path, version):
    shape = (3, 2, 4, 5, 6, 7)
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    SAVE[version](tmp_path / "v1.mat", "v1", array)
    recording = recording_from_mat(
        tmp_path / "v1.mat",
        variable="v1",
        axes=AXES,
        levels={"family": [327, 336, 13], "type": ["noise", "texture"]},
        neuron={"region": "V1"},
        time_bins_ms=[(i, i + 1) for i in range(6)],
    )
    assert recording.responses.shape == (24, 5, 7, 6)
    assert recording.responses.dtype == np.float32
    for row in (0, 5, 23):
        family, kind, sample = np.unravel_index(row, (3, 2, 4))
        np.testing.assert_array_equal(recording.responses[row], array[family, kind, sample].transpose(0, 2, 1))
        assert recording.labels("family")[row] == [327, 336, 13][family]
        assert recording.labels("type")[row] == ["noise", "texture"][kind]
        assert recording.labels("sample")[row] == sample
    assert recording.labels("stimulus_id")[[0, 5]].tolist() == ["327-noise-0", "327-texture-1"]


@both
@pytest.mark.parametrize(
    "axes", [("neuron", "stimulus", "repeat"), ("repeat", "neuron", "stimulus"), ("stimulus", "repeat", "neuron")]
)
def test_any_order_of_axes(tmp_path, version, axes):
    array = np.random.default_rng(0).normal(size=(4, 3, 2))
    SAVE[version](tmp_path / "a.mat", "rates", array)
    recording = recording_from_mat(tmp_path / "a.mat", variable="rates", axes=axes, unit="spikes/s")
    expected = array.transpose([axes.index(axis) for axis in ("stimulus", "repeat", "neuron")])
    np.testing.assert_array_equal(recording.repeats(), expected)
    part = {"stimulus": slice(1, None), "repeat": slice(None, None, 2)}
    some = recording_from_mat(tmp_path / "a.mat", variable="rates", axes=axes, slices=part)
    np.testing.assert_array_equal(some.repeats(), expected[1:, ::2])


@both
def test_last_axes_of_length_one_that_matlab_drops_are_put_back(tmp_path, version):
    SAVE[version](tmp_path / "a.mat", "x", np.arange(6.0).reshape(3, 2))
    recording = recording_from_mat(tmp_path / "a.mat", variable="x", axes=("image", "neuron", "repeat"))
    assert recording.responses.shape == (3, 1, 2)
    assert recording.labels("image").tolist() == recording.labels("stimulus_id").tolist() == [0, 1, 2]
    again = recording_from_mat(tmp_path / "a.mat", variable="x", axes=("stimulus", "repeat", "neuron"))
    assert again.responses.shape == (3, 2, 1)


def test_fields_of_structs(tmp_path):
    array = np.arange(6.0).reshape(3, 2)
    scipy.io.savemat(tmp_path / "5.mat", {"data": {"v1": {"counts": array}, "note": "text"}})
    with h5py.File(tmp_path / "7.mat", "w") as file:
        file["data/v1/counts"] = array.T
        file["data/note"] = np.frombuffer("text".encode("utf-16-le"), np.uint16)[:, None]
        file["data/note"].attrs["MATLAB_class"] = np.bytes_("char")
    for name in ("5.mat", "7.mat"):
        np.testing.assert_array_equal(mat_array(tmp_path / name, "data.v1.counts"), array)
        with pytest.raises(ValueError, match=r"no 'rates' in data\.v1 of .*, which has \['counts'\]: choose"):
            mat_array(tmp_path / name, "data.v1.rates")
        with pytest.raises(ValueError, match=r"no 'v1' in .*, which has \['data'\]: choose"):
            mat_array(tmp_path / name, "v1")
        for wrong in ("data.note", "data.v1"):
            with pytest.raises(ValueError, match=f"{wrong} in .* is no array of numbers"):
                mat_array(tmp_path / name, wrong)


def test_cells_are_refused(tmp_path):
    scipy.io.savemat(tmp_path / "5.mat", {"x": np.array([[np.ones(3), np.ones(2)]], dtype=object)})
    with pytest.raises(ValueError, match=r"x in .* is no array of numbers: convert it, in MATLAB with cell2mat"):
        mat_array(tmp_path / "5.mat", "x")


@both
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"axes": ("stimulus", "neuron")}, r"x in .* has shape \(4, 3, 2\), expected 2 axes"),
        ({"axes": ("stimulus", "family", "neuron")}, "either 'stimulus' or the names of several axes"),
        ({"axes": ("stimulus", "repeat", "repeat")}, "expected each once"),
        ({"axes": ("stimulus", "repeat", "cell", "neuron")}, "either 'stimulus' or"),
        ({"axes": ("repeat", "time_bin", "neuron")}, "either 'stimulus' or"),
        ({"levels": {"stimulus": [1, 2]}}, r"levels of 'stimulus' have shape \(2,\), expected \(4,\)"),
        ({"levels": {"family": [1, 2]}}, r"given for \['family'\], expected names among the axes"),
        ({"slices": {"cell": slice(2)}}, r"given for \['cell'\]"),
    ],
)
def test_what_does_not_fit_the_array_is_refused(tmp_path, version, settings, message):
    SAVE[version](tmp_path / "x.mat", "x", np.ones((4, 3, 2)))
    with pytest.raises(ValueError, match=message):
        recording_from_mat(tmp_path / "x.mat", variable="x", **{"axes": ("stimulus", "repeat", "neuron"), **settings})


@both
def test_half_a_file_and_no_file(tmp_path, version, toy):
    path = write_mat(toy(), tmp_path / "toy.mat", version=version)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (read_mat, lambda each: mat_array(each, "responses")):
        with pytest.raises(ValueError, match=r"toy\.mat cannot be read as a MATLAB file .*: it is damaged"):
            read(path)
        with pytest.raises(FileNotFoundError, match="no MATLAB file at"):
            read(tmp_path / "absent.mat")


@both
@pytest.mark.parametrize("time_bins", [0, 3])
def test_round_trip(tmp_path, version, time_bins, toy, assert_same):
    recording = toy(time_bins=time_bins)
    assert_same(read_mat(write_mat(recording, tmp_path / "toy.mat", version=version)), recording)
    assert [each.name for each in tmp_path.iterdir()] == ["toy.mat"]
    one = recording.select(stimuli=[2], neurons=[1])
    assert_same(read_mat(write_mat(one, tmp_path / "toy.mat", version=version)), one)


@both
def test_round_trip_of_what_may_be_absent(tmp_path, version, toy, assert_same):
    varying = toy().dataset.assign_coords(session=(("stimulus", "repeat"), np.arange(24).reshape(6, 4)))
    for recording in (
        toy(images=None, dtype=np.float32, name="", attributes={}),
        toy(images={"im0é": np.zeros((4, 4, 3), np.uint8)}),
        type(toy())(varying),
    ):
        assert_same(read_mat(write_mat(recording, tmp_path / "toy.mat", version=version)), recording)


def test_version_5_is_what_scipy_reads(tmp_path, toy):
    contents = scipy.io.loadmat(write_mat(toy(), tmp_path / "toy.mat", version="5"), simplify_cells=True)
    np.testing.assert_array_equal(contents["responses"], toy().repeats())
    np.testing.assert_array_equal(contents["images"], toy().images)
    assert contents["stimulus"]["family"].tolist() == ["bark"] * 3 + ["sand"] * 3
    assert contents["attributes"]["citation"] == "Nobody (2000)"


def test_version_73_is_laid_out_as_matlab_does(tmp_path, toy):
    path = write_mat(toy(), tmp_path / "toy.mat")
    header = path.read_bytes()[:128]
    assert header.startswith(b"MATLAB 7.3 MAT-file")
    assert header[124:] == b"\x00\x02IM"
    with h5py.File(path) as file:
        assert file.userblock_size == 512
        assert file["responses"].shape == (3, 4, 6)
        np.testing.assert_array_equal(file["responses"][()].T, toy().repeats())
        assert file["responses"].attrs["MATLAB_class"] == b"double"
        assert file["images"].attrs["MATLAB_class"] == b"uint8"
        family = file["stimulus/family"]
        assert (file["stimulus"].attrs["MATLAB_class"], family.attrs["MATLAB_class"]) == (b"struct", b"cell")
        assert family.shape == (1, 6)
        text = file[family[0, 5]]
        assert (text.attrs["MATLAB_class"], text.shape, text.dtype) == (b"char", (4, 1), np.uint16)
        assert "".join(map(chr, text[:, 0])) == "sand"
        empty = file[file["neuron/region"][0, 2]]
        assert (empty.attrs["MATLAB_empty"], empty.attrs["MATLAB_class"]) == (1, b"char")


def test_what_matlab_cannot_hold_is_refused(tmp_path, toy, monkeypatch):
    with pytest.raises(ValueError, match=r"\['depth \(um\)'\] are no MATLAB names"):
        write_mat(toy(neuron={"depth (um)": 1}), tmp_path / "toy.mat")
    with pytest.raises(ValueError, match="version is '4', expected"):
        write_mat(toy(), tmp_path / "toy.mat", version="4")
    monkeypatch.setattr("neural_fits.matlab_files.MAT5_BYTES", 100)
    with pytest.raises(ValueError, match=r"responses take 576 bytes, .* use version='7\.3'"):
        write_mat(toy(), tmp_path / "toy.mat", version="5")
    assert not list(tmp_path.iterdir())


def test_files_of_others_are_not_taken_for_recordings(tmp_path):
    for version, save in SAVE.items():
        save(tmp_path / f"{version}.mat", "responses", np.ones((2, 2, 2)))
        with pytest.raises(
            ValueError, match="was not written by write_mat in recording format 1: use recording_from_mat"
        ):
            read_mat(tmp_path / f"{version}.mat")
