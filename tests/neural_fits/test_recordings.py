"""Recordings: layout, checks, arithmetic with missing repeats, and netCDF files that are read where needed."""

import math
import tracemalloc

import h5netcdf
import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from xarray.backends import BackendArray
from xarray.core import indexing

from neural_fits.recordings import FORMAT, Recording, read_recording, recording_from_arrays, write_recording


def test_properties_say_what_was_given(toy):
    recording = toy()
    assert (recording.n_stimuli, recording.n_repeats, recording.n_neurons) == (6, 4, 3)
    assert (recording.name, recording.size_deg, recording.window_ms) == ("toy", 4.0, (50.0, 200.0))
    assert (recording.unit, recording.licence, recording.citation) == ("spikes", "CC0", "Nobody (2000)")
    assert recording.images.shape == (6, 8, 9)
    assert recording.labels("animal").tolist() == ["m1"] * 3
    assert math.isnan(recording_from_arrays(np.ones((1, 1, 1))).size_deg)


@given(
    responses=arrays(
        np.float64,
        array_shapes(min_dims=3, max_dims=3, max_side=5),
        elements=st.one_of(st.just(np.nan), st.floats(-1e6, 1e6)),
    )
)
@settings(max_examples=50, deadline=None)
def test_mean_over_the_repeats_that_are_there(responses):
    means = recording_from_arrays(responses).mean_responses()
    for stimulus, neuron in np.ndindex(means.shape):
        there = [value for value in responses[stimulus, :, neuron] if value == value]
        expected = math.fsum(there) / len(there) if there else math.nan
        np.testing.assert_allclose(means[stimulus, neuron], expected, rtol=1e-9, atol=1e-9)


def test_mean_of_small_floats_is_exact():
    counts = np.full((1, 3000, 1), 2**14 + 1, dtype=np.int16)  # their sum exceeds what float32 holds exactly
    assert recording_from_arrays(counts).responses.dtype == np.float32
    assert recording_from_arrays(counts).mean_responses().item() == 2**14 + 1


def test_select_keeps_pictures_and_labels_together(toy):
    recording = toy()
    part = recording.select(stimuli=[4, 0], neurons=recording.labels("region") == "V1", repeats=slice(0, 2))
    assert part.labels("stimulus_id").tolist() == ["im4é", "im0é"]
    assert part.labels("repeat").tolist() == [1, 2]
    np.testing.assert_array_equal(part.images, recording.images[[4, 0]])
    np.testing.assert_array_equal(part.repeats(), recording.repeats()[[4, 0], :2][:, :, :2])


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ([True, False], r"mask over stimulus has shape \(2,\), expected \(6,\)"),
        ([False] * 6, "leaves no stimulus"),
        ([], "leaves no stimulus"),
        ([0, 6], r"stimulus \[6\] lie outside: the recording has 6"),
        ([0.5], "expected mask or indices"),
        (slice(6, 9), r"shape \(0, 4, 3\)"),
    ],
)
def test_impossible_selections_are_refused(which, message, toy):
    with pytest.raises(ValueError, match=message):
        toy().select(stimuli=which)


def test_window_is_the_mean_or_sum_of_its_bins(toy):
    recording = toy(time_bins=5)
    values = recording.responses.values
    window = recording.window(10, 40)
    assert window.window_ms == (10.0, 40.0)
    assert window.images is not None
    np.testing.assert_allclose(window.repeats(), values[..., 1:4].mean(axis=-1))
    np.testing.assert_array_equal(recording.window(10, 40, reduction="sum").repeats(), values[..., 1:4].sum(axis=-1))


def test_a_missing_bin_makes_the_window_missing():
    recording = recording_from_arrays(np.array([[[[1.0, np.nan, 3.0]]]]), time_bins_ms=[(0, 1), (1, 2), (2, 3)])
    assert np.isnan(recording.window(0, 2).repeats()).all()
    assert recording.window(2, 3).repeats().item() == 3


def test_times_between_bins_and_methods_of_the_other_layout_are_refused(toy):
    with pytest.raises(ValueError, match=r"15 to 40 ms does not start and end with time bins .*0-10 ms to 40-50 ms"):
        toy(time_bins=5).window(15, 40)
    with pytest.raises(ValueError, match="no time bins"):
        toy().window(0, 10)
    for method in ("mean_responses", "repeats"):
        with pytest.raises(ValueError, match=rf"{method}\(\) needs responses without time bins, got 5 bins"):
            getattr(toy(time_bins=5), method)()


def test_check_names_every_problem():
    responses = np.random.default_rng(0).normal(size=(4, 3, 5))
    responses[:, :, 1] = np.nan
    responses[:, :, 2] = 7
    responses[0, 0, 3] = np.inf
    responses[3] = np.nan
    recording = recording_from_arrays(
        responses,
        stimulus={"stimulus_id": ["p", "q", "q", "r"]},
        neuron={"neuron_id": ["n0", "n1", "n2", "n3", "n0"]},
        images={"p": np.zeros((2, 2), np.uint8), "q": np.ones((2, 2), np.uint8)},
    )
    assert recording.check() == [
        "stimulus ids that occur more than once: q",
        "neuron ids that occur more than once: n0",
        "neurons without any response (all NaN): n1",
        "constant neurons, whose responses are all the same: n2",
        "neurons with infinite responses: n3",
        "stimuli without any response (all NaN): r",
        "stimuli without picture: r",
    ]
    with pytest.raises(
        ValueError, match=r"recording '' is not sound: .* n1; constant neurons.* n2; .*; select the others"
    ):
        recording.require_sound(allow=["duplicate stimulus"])
    sound = recording.select(stimuli=[0, 1], neurons=[0])
    assert sound.check() == []
    assert sound.require_sound() is sound


def test_requirements_of_pictures_and_unknown_problems(toy):
    with pytest.raises(ValueError, match="lacks pictures or their size"):
        toy(size_deg=math.nan).require_sound(pictures=True)
    with pytest.raises(ValueError, match="lacks pictures or their size"):
        toy(images=None).require_sound(pictures=True)
    with pytest.raises(ValueError, match=r"no problem is called \['dead'\]: use duplicate stimulus"):
        toy().require_sound(allow=["dead"])
    assert toy().require_sound(pictures=True).images is not None


def test_check_shortens_long_lists():
    (sentence,) = recording_from_arrays(np.zeros((2, 2, 30))).check()
    assert sentence.endswith("18, 19 and 10 more")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": np.ones((2, 3))}, r"shape \(2, 3\), expected \(stimulus, repeat, neuron\)"),
        ({"responses": np.ones((2, 3, 1), complex)}, "expected real numbers"),
        ({"responses": np.array([[["a"]]])}, "expected real numbers"),
        ({"responses": np.ones((2, 0, 1))}, r"shape \(2, 0, 1\), expected at least one"),
        ({"stimulus": {"stimulus_id": ["a"]}}, r"stimulus_id has shape \(1,\), expected \(2,\)"),
        ({"neuron": {"region": ["V1", "V2"]}}, r"region has shape \(2,\), expected \(1,\)"),
        ({"stimulus": {"neuron_id": [0, 1]}}, "'neuron_id' of neuron has a name that is used already"),
        ({"stimulus": {"responses": [0, 1]}}, "'responses' of stimulus has a name that is used already"),
        ({"time_bins_ms": [(0, 1)]}, "responses have no time bins and time_bins_ms is given"),
        ({"responses": np.ones((2, 3, 1, 2))}, "responses have time bins and time_bins_ms is missing"),
        ({"responses": np.ones((2, 3, 1, 2)), "time_bins_ms": [(0, 1)]}, r"shape \(1, 2\), expected \(2, 2\)"),
        ({"images": np.zeros((2, 4, 4))}, "type float64, expected .* uint8: scale"),
        ({"images": np.zeros((2, 4), np.uint8)}, r"images have dimensions \('stimulus', 'row'\)"),
        ({"images": {0: np.zeros((2, 2), np.uint8), 7: np.zeros((2, 2), np.uint8)}}, "pictures of 7: expected"),
        ({"images": {0: np.zeros((2, 2), np.uint8), 1: np.zeros((3, 2), np.uint8)}}, "expected one shape"),
        ({"size_deg": 0}, r"size_deg is 0\.0, expected a positive size"),
        ({"window_ms": (200, 50)}, r"window_ms is \[200\.0, 50\.0\], expected a start before an end"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        recording_from_arrays(**{"responses": np.ones((2, 3, 1)), **changes})


def test_other_layouts_are_refused(toy):
    good = toy().dataset
    unlicensed = good.copy()
    del unlicensed.attrs["licence"]
    bad = {
        "expected 'responses' among them": good.drop_vars("responses"),
        r"dimensions \('repeat', 'stimulus', 'neuron'\)": good.transpose("repeat", "stimulus", ...),
        "type int64, expected float": good.assign(responses=good["responses"].fillna(0).astype(np.int64)),
        "other variables, blank": good.assign(blank=("neuron", [1.0, 2.0, 3.0])),
        "lacks the coordinate 'region' along 'neuron'": good.drop_vars("region"),
        "lacks attributes licence": unlicensed,
    }
    for message, dataset in bad.items():
        with pytest.raises(ValueError, match=message):
            Recording(dataset)
    with pytest.raises(ValueError, match="got ndarray: use recording_from_arrays"):
        Recording(np.ones(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("time_bins", [0, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_netcdf_round_trip(tmp_path, time_bins, dtype, toy, assert_same):
    recording = toy(time_bins=time_bins, dtype=dtype)
    again = read_recording(write_recording(recording, tmp_path / "toy.nc"))
    assert_same(again, recording)
    assert_same(again.select(stimuli=[3, 1], neurons=[2]), recording.select(stimuli=[3, 1], neurons=[2]))
    assert [each.name for each in tmp_path.iterdir()] == ["toy.nc"]


@given(
    responses=arrays(
        st.sampled_from([np.float32, np.float64]),
        array_shapes(min_dims=3, max_dims=3, max_side=6),
        elements=st.floats(width=32),  # NaN, infinities and subnormal numbers among them
    )
)
@settings(max_examples=25, deadline=None)
def test_netcdf_keeps_every_number(tmp_path_factory, responses):
    path = tmp_path_factory.mktemp("any") / "any.nc"
    read = read_recording(write_recording(recording_from_arrays(responses), path))
    np.testing.assert_array_equal(read.repeats(), responses, strict=True)


def test_netcdf_keeps_which_stimuli_have_a_picture(tmp_path, toy, assert_same):
    recording = toy(images={"im0é": np.zeros((4, 4, 3), np.uint8)})
    again = read_recording(write_recording(recording, tmp_path / "toy.nc"))
    assert again.check() == recording.check() != []
    assert_same(again, recording)


def test_file_may_be_replaced_by_a_part_of_itself(tmp_path, toy, assert_same):
    path = write_recording(toy(), tmp_path / "toy.nc")
    write_recording(read_recording(path).select(neurons=[1]), path)
    assert_same(read_recording(path), toy().select(neurons=[1]))


def test_file_is_plain_netcdf(tmp_path, toy):
    path = write_recording(toy(), tmp_path / "toy.nc")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["responses"][()], toy().repeats())
        assert file["responses"].fletcher32
        assert file.attrs["citation"] == "Nobody (2000)"
    with h5netcdf.File(path) as file:
        assert file.variables["responses"].dimensions == ("stimulus", "repeat", "neuron")


class Ramp(BackendArray):
    """Stimulus number plus neuron number modulo 8, computed where it is indexed; remembers the largest read."""

    def __init__(self, shape):
        self.shape, self.dtype, self.largest = shape, np.dtype(np.float32), 0

    def __getitem__(self, key):
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self.compute)

    def compute(self, key):
        places = [np.arange(size)[part] for size, part in zip(self.shape, key, strict=True)]
        values = places[0][:, None, None] + 0 * places[1][:, None] + places[2] % 8
        self.largest = max(self.largest, values.size * self.dtype.itemsize)
        return values.astype(self.dtype)


def test_larger_than_memory_is_written_read_and_checked_by_parts(tmp_path):
    ramp = Ramp((384, 16, 4096))
    limit = 64 * 2**20
    tracemalloc.start()
    try:
        lazy = xr.Variable(("stimulus", "repeat", "neuron"), indexing.LazilyIndexedArray(ramp))
        read = read_recording(write_recording(recording_from_arrays(lazy), tmp_path / "large.nc"))
        few = read.select(stimuli=[300, 5], neurons=slice(3, 6)).mean_responses()
        problems, means = read.check(), read.mean_responses()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read.responses.nbytes == 96 * 2**20
    assert 0 < ramp.largest <= 8 * 2**20
    assert peak < limit
    assert problems == []
    np.testing.assert_array_equal(few, [[303, 304, 305], [8, 9, 10]])
    np.testing.assert_array_equal(means, np.arange(384)[:, None] + np.arange(4096) % 8)


def test_damaged_foreign_and_newer_files_are_refused(tmp_path, toy):
    path = write_recording(toy(), tmp_path / "toy.nc")
    whole = path.read_bytes()
    half = tmp_path / "half.nc"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.nc cannot be read as netCDF 4 .*: it is damaged or something else"):
        read_recording(half)
    with pytest.raises(FileNotFoundError, match="no recording at"):
        read_recording(tmp_path / "absent.nc")
    (tmp_path / "text.nc").write_text("not a recording")
    with pytest.raises(ValueError, match="damaged or something else"):
        read_recording(tmp_path / "text.nc")
    xr.Dataset({"x": ("y", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"other\.nc is no recording"):
        read_recording(tmp_path / "other.nc")
    with h5py.File(path, "a") as file:
        file.attrs["format"] = FORMAT + 1
    with pytest.raises(ValueError, match="recording format 2, this version reads 1: update lcl"):
        read_recording(path)


def test_flipped_bits_of_responses_are_noticed(tmp_path, toy):
    path = write_recording(toy(), tmp_path / "toy.nc")
    with h5py.File(path) as file:
        place = file["responses"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 20] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"checksum|filter|[Rr]ead"):
        read_recording(path).repeats()


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path):
    ramp = Ramp((4, 2, 3))
    ramp.compute = lambda key: (_ for _ in ()).throw(RuntimeError("the source is gone"))
    lazy = xr.Variable(("stimulus", "repeat", "neuron"), indexing.LazilyIndexedArray(ramp))
    with pytest.raises(RuntimeError, match="the source is gone"):
        write_recording(recording_from_arrays(lazy), tmp_path / "toy.nc")
    assert not list(tmp_path.iterdir())
