"""Brain-Score's assemblies: MultiIndex or plain coordinates, sorted or trial by trial, with pictures from a table."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from neural_fits.assemblies import assembly_from_recording, recording_from_assembly
from neural_fits.recordings import Recording, recording_from_arrays


class StimulusSet(pd.DataFrame):
    """Table with files, as Brain-Score has it."""

    _metadata = ("stimulus_paths",)

    def get_stimulus(self, stimulus_id):
        return self.stimulus_paths[stimulus_id]


def trials(*, order=slice(None)):
    """Assembly with a MultiIndex on each axis, as Brain-Score's: 5 presentations x 2 neuroids x 3 time bins."""
    values = np.arange(30.0).reshape(5, 2, 3)
    presentation = pd.MultiIndex.from_arrays(
        [["b", "a", "b", "a", "b"], [0, 0, 1, 1, 2], ["sand", "bark", "sand", "bark", "sand"], [10.5, 11, 12, 13, 14]],
        names=["stimulus_id", "repetition", "family", "start_s"],
    )
    neuroid = pd.MultiIndex.from_arrays(
        [["n1", "n2"], ["V1", "V2"], ["m1", "m1"]], names=["neuroid_id", "region", "animal"]
    )
    time_bin = pd.MultiIndex.from_arrays([[0, 10, 20], [10, 20, 30]], names=["time_bin_start", "time_bin_end"])
    assembly = xr.DataArray(
        values, dims=("presentation", "neuroid", "time_bin"), name="movshon", attrs={"region": "V1"}
    )
    return assembly.assign_coords(multi_index(presentation, "presentation")).assign_coords(
        {**multi_index(neuroid, "neuroid"), **multi_index(time_bin, "time_bin")}
    )[order]


def multi_index(index, dim):
    return xr.Coordinates.from_pandas_multiindex(index, dim)


def test_levels_become_coordinates_and_repeats_are_placed():
    recording = recording_from_assembly(trials(), size_deg=4.0, name="fz")
    assert recording.responses.shape == (2, 3, 2, 3)
    assert recording.labels("stimulus_id").tolist() == ["b", "a"]
    assert recording.labels("family").tolist() == ["sand", "bark"]
    assert recording.labels("region").tolist() == ["V1", "V2"]
    assert recording.labels("neuron_id").tolist() == ["n1", "n2"]
    assert recording.window_ms == (0.0, 30.0)
    np.testing.assert_array_equal(recording.responses[0, 2], trials().values[4])
    assert np.isnan(recording.responses[1, 2]).all()
    np.testing.assert_array_equal(recording.labels("start_s"), [[10.5, 12, 14], [11, 13, np.nan]])
    assert recording.dataset.attrs["region"] == "V1"


@pytest.mark.parametrize("dims", [("time_bin", "neuroid", "presentation"), ("neuroid", "presentation", "time_bin")])
def test_order_of_axes_and_trials_does_not_matter(dims, assert_same):
    shuffled = trials(order=[0, 3, 4, 1, 2]).transpose(*dims)
    assert_same(recording_from_assembly(shuffled), recording_from_assembly(trials()))


def test_plain_coordinates_are_as_good_as_levels(assert_same):
    plain = trials().reset_index(["presentation", "neuroid", "time_bin"])
    assert_same(recording_from_assembly(plain), recording_from_assembly(trials()))


def test_without_numbers_repeats_are_counted_in_their_order():
    assembly = trials(order=[4, 3, 2, 1, 0]).reset_index("presentation")
    for each in (
        recording_from_assembly(assembly, repetition=None),
        recording_from_assembly(assembly.drop_vars("repetition")),
    ):
        np.testing.assert_array_equal(each.responses[0].values, trials().values[[4, 2, 0]])


def test_mean_over_time_with_one_region_left_over_as_single_values():
    assembly = trials().reset_index(["presentation", "neuroid", "time_bin"]).isel(time_bin=1, neuroid=slice(0, 1))
    assembly = assembly.drop_vars("region").assign_coords(region="V1")
    recording = recording_from_assembly(assembly.rename(stimulus_id="image_id"))
    assert recording.window_ms == (10.0, 20.0)
    assert recording.labels("region").tolist() == ["V1"]
    np.testing.assert_array_equal(recording.mean_responses()[:, 0], [(1 + 13 + 25) / 3, (7 + 19) / 2])


@pytest.mark.parametrize("time_bins", [0, 3])
def test_recording_to_assembly_and_back(time_bins, toy, assert_same):
    recording = toy(time_bins=time_bins)
    assembly = assembly_from_recording(recording)
    assert assembly.sizes["presentation"] == 6 * 4 - 1  # one repeat is missing for all neurons
    assert assembly.isnull().any(dim=assembly.dims[1:]).sum() == 1  # one only for some
    assert_same(recording_from_assembly(assembly, images=recording.images), recording)
    levels = {"presentation": ["stimulus_id", "repetition", "family", "sample"], "neuroid": ["neuroid_id", "region"]}
    assert_same(recording_from_assembly(assembly.set_index(levels), images=recording.images), recording)


def test_assembly_to_recording_and_back_keeps_what_varies_over_trials(assert_same):
    recording = recording_from_assembly(trials())
    again = assembly_from_recording(recording)
    assert again["start_s"].values.tolist() == [10.5, 12, 14, 11, 13]
    assert_same(recording_from_assembly(again), recording)


@given(
    responses=arrays(
        float, array_shapes(min_dims=3, max_dims=3, max_side=4), elements=st.sampled_from([np.nan, 0.5, 2.0])
    )
)
@settings(max_examples=50, deadline=None)
def test_no_pattern_of_missing_responses_loses_anything(responses):
    again = recording_from_assembly(assembly_from_recording(recording_from_arrays(responses)))
    np.testing.assert_array_equal(again.repeats(), responses)
    np.testing.assert_array_equal(again.labels("stimulus_id"), np.arange(len(responses)))


@pytest.mark.parametrize(("modes", "shape"), [("LL", (2, 5, 4)), (["L", "RGB"], (2, 5, 4, 3))])
def test_pictures_and_labels_come_from_the_stimulus_set(tmp_path, modes, shape):
    paths = {}
    for each, mode in zip("ab", modes, strict=True):
        paths[each] = tmp_path / f"{each}.png"
        Image.fromarray(np.full((5, 4), ord(each), np.uint8)).convert(mode).save(paths[each])
    stimulus_set = StimulusSet({"stimulus_id": ["a", "b", "c"], "sample": [1, 2, 3]})
    stimulus_set.stimulus_paths = {**paths, "c": tmp_path / "never shown.png"}
    recording = recording_from_assembly(trials(), stimulus_set, size_deg=4.0)
    assert recording.images.shape == shape
    assert recording.images[0].max() == recording.images[0].min() == ord("b")
    assert recording.labels("sample").tolist() == [2, 1]
    with pytest.raises(ValueError, match="lacks 1 stimuli of the assembly, such as 'b'"):
        recording_from_assembly(trials(), stimulus_set.iloc[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda each: each.rename(neuroid="neuron"), r"dimensions \('presentation', 'neuron', 'time_bin'\), expected"),
        (lambda each: each.isel(neuroid=0), "dimensions .* expected"),
        (lambda each: each.drop_vars("stimulus_id"), r"coordinates \['family', .*\], expected 'stimulus_id'"),
        (lambda each: each.drop_vars("time_bin_end"), r"time bins lack \['time_bin_end'\]"),
        (
            lambda each: each.assign_coords(repetition=("presentation", [0] * 5)),
            "stimulus b has repeat 0 more than once",
        ),
        (lambda each: each.rename(start_s="responses"), r"coordinates \['responses'\] of presentations have names"),
    ],
)
def test_what_is_no_assembly_is_refused(change, message):
    plain = trials().reset_index(["presentation", "neuroid", "time_bin"])
    with pytest.raises(ValueError, match=message):
        recording_from_assembly(change(plain))


def test_what_was_stacked_can_be_used_at_once():
    recording = recording_from_assembly(trials()).window(10, 30)
    assert isinstance(recording, Recording)
    assert recording.mean_responses().shape == (2, 2)
