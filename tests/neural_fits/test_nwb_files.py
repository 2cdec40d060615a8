"""NWB files: trials and spikes as laboratories write them through pynwb, and recordings written and read again."""

from datetime import UTC, datetime

import numpy as np
import pytest

from neural_fits.nwb_files import read_nwb, recording_from_nwb, write_nwb

pynwb = pytest.importorskip("pynwb")
START = datetime(2020, 1, 1, tzinfo=UTC)
ORDER = ["b", "a", "b", "c", "a", "b"]
SPIKES = [np.sort(np.random.default_rng(seed).uniform(0, 7, 400)) for seed in range(3)]


def session(path, *, pictures=None, columns=True, trials=True, units=True, observed=None, spikes=True):
    """A session of six trials, one a second, with three units on two electrodes."""
    nwb = pynwb.NWBFile("session", "s1", START)
    nwb.subject = pynwb.file.Subject(subject_id="m7", species="Macaca mulatta", sex="U", age="P5Y")
    if trials:
        if columns:
            nwb.add_trial_column("stimulus_id", "picture")
            nwb.add_trial_column("family", "texture family")
            nwb.add_trial_column("outcome", "differs from trial to trial")
        for place in (5, 0, 1, 2, 3, 4):  # not in the order of time
            named = {"stimulus_id": ORDER[place], "family": "sand" if ORDER[place] == "b" else "bark", "outcome": place}
            nwb.add_trial(start_time=place + 0.5, stop_time=place + 1.0, **(named if columns else {}))
    if units:
        device = nwb.create_device("probe")
        group = nwb.create_electrode_group("shank", description="-", location="V1", device=device)
        for location in ("V1", "V2"):
            nwb.add_electrode(location=location, group=group)
        nwb.add_unit_column("quality", "of the sorting")
        for row, times in enumerate(SPIKES):
            extra = {"obs_intervals": observed[row]} if observed else {}
            extra |= {"spike_times": times} if spikes else {}
            nwb.add_unit(id=10 + row, electrodes=[row // 2], quality="good", **extra)
    for template in pictures or []:
        nwb.add_stimulus_template(template)
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    return path


def count(unit, place, start_ms, end_ms):
    start, end = place + 0.5 + start_ms / 1000, place + 0.5 + end_ms / 1000
    return sum(start <= spike < end for spike in SPIKES[unit])


def test_spikes_are_counted_in_the_window_of_each_trial_in_the_order_of_time(tmp_path):
    recording = recording_from_nwb(session(tmp_path / "s.nwb"), window_ms=(50, 250), labels=["family"], name="s1")
    assert recording.labels("stimulus_id").tolist() == ["b", "a", "c"]
    assert recording.labels("family").tolist() == ["sand", "bark", "bark"]
    assert recording.labels("neuron_id").tolist() == [10, 11, 12]
    assert recording.labels("region").tolist() == ["V1", "V1", "V2"]
    assert recording.labels("animal").tolist() == ["m7"] * 3
    assert (recording.window_ms, recording.unit, recording.images) == ((50.0, 250.0), "spikes", None)
    places = [[0, 2, 5], [1, 4, None], [3, None, None]]
    for stimulus, repeat, unit in np.ndindex(3, 3, 3):
        place = places[stimulus][repeat]
        expected = np.nan if place is None else count(unit, place, 50, 250)
        np.testing.assert_array_equal(recording.repeats()[stimulus, repeat, unit], expected)


def test_time_bins_add_up_to_the_window(tmp_path):
    path = session(tmp_path / "s.nwb")
    bins = recording_from_nwb(path, time_bins_ms=[(50, 100), (100, 250)])
    whole = recording_from_nwb(path, window_ms=(50, 250))
    assert bins.responses.shape == (3, 3, 3, 2)
    np.testing.assert_array_equal(bins.window(50, 250, reduction="sum").repeats(), whole.repeats())


def test_trials_outside_the_observation_intervals_of_a_unit_are_missing(tmp_path):
    observed = [[[0.0, 7.0]], [[0.0, 1.6]], [[0.0, 0.7], [1.0, 7.0]]]
    responses = recording_from_nwb(session(tmp_path / "s.nwb", observed=observed), window_ms=(0, 250)).repeats()
    whole = recording_from_nwb(session(tmp_path / "t.nwb"), window_ms=(0, 250)).repeats()
    np.testing.assert_array_equal(responses[..., 0], whole[..., 0])
    # trial 0 ends at 0.75 s, before 1.6 s; trial 1 lasts from 1.5 to 1.75 s
    assert np.argwhere(~np.isnan(responses[..., 1])).tolist() == [[0, 0]]
    np.testing.assert_array_equal(
        np.isnan(responses[..., 2]), np.isnan(whole[..., 2]) | (np.indices((3, 3)).sum(0) == 0)
    )


def test_region_may_be_a_column_of_the_units(tmp_path):
    recording = recording_from_nwb(session(tmp_path / "s.nwb"), window_ms=(0, 100), region_column="quality")
    assert recording.labels("region").tolist() == ["good"] * 3


def test_pictures_come_from_the_templates(tmp_path):
    pictures = {each: np.full((4, 6), ord(each), np.uint8) for each in "abz"}
    images = [pynwb.image.GrayscaleImage(name=each, data=picture) for each, picture in pictures.items()]
    template = pynwb.base.Images(name="shown", images=images, description="-")
    recording = recording_from_nwb(session(tmp_path / "s.nwb", pictures=[template]), window_ms=(0, 100), size_deg=4.0)
    assert recording.images.shape == (3, 4, 6)
    assert recording.images[:2, 0, 0].tolist() == [ord("b"), ord("a")]
    assert recording.check() == ["stimuli without picture: c"]


def test_frames_of_a_series_are_numbered(tmp_path):
    nwb = pynwb.NWBFile("session", "s1", START)
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    nwb.add_stimulus_template(pynwb.image.ImageSeries(name="frames", data=frames, unit="n.a.", rate=1.0))
    nwb.add_trial_column("frame", "number of the frame")
    for place, frame in enumerate([2, 0, 2]):
        nwb.add_trial(start_time=float(place), stop_time=place + 0.5, frame=frame)
    nwb.add_unit(spike_times=[0.1, 2.2])
    with pynwb.NWBHDF5IO(tmp_path / "s.nwb", "w") as io:
        io.write(nwb)
    recording = recording_from_nwb(tmp_path / "s.nwb", window_ms=(0, 300), stimulus_column="frame")
    np.testing.assert_array_equal(recording.images, frames[[2, 0]])
    assert recording.mean_responses().ravel().tolist() == [1, 0]
    assert recording.labels("region").tolist() == [""]


@pytest.mark.parametrize(
    ("contents", "settings", "message"),
    [
        ({"trials": False}, {}, "has no trials table"),
        ({"units": False}, {}, "has no units table"),
        ({"spikes": False}, {}, "has no spike_times: columns are"),
        ({"columns": False}, {}, "no column 'stimulus_id' in trials of .*: choose among start_time, stop_time"),
        ({}, {"labels": ["outcome"]}, "trials of stimulus b differ in 'outcome'"),
        ({}, {"region_column": "area"}, "no column 'area' in units"),
        ({}, {"window_ms": None}, "window_ms is None and time_bins_ms is None, expected exactly one"),
        ({}, {"time_bins_ms": [(0, 10)]}, "expected exactly one"),
        ({}, {"window_ms": (100, 50)}, r"windows are \[\[100\.0, 50\.0\]\] ms, expected"),
    ],
)
def test_what_is_lacking_is_named(tmp_path, contents, settings, message):
    path = session(tmp_path / "s.nwb", **contents)
    with pytest.raises(ValueError, match=message):
        recording_from_nwb(path, **{"window_ms": (0, 100), **settings})


@pytest.mark.parametrize("time_bins", [0, 3])
def test_round_trip(tmp_path, time_bins, toy, assert_same):
    recording = toy(time_bins=time_bins)
    assert_same(read_nwb(write_nwb(recording, tmp_path / "toy.nwb", session_start=START)), recording)
    assert [each.name for each in tmp_path.iterdir()] == ["toy.nwb"]


def test_round_trip_of_what_may_be_absent(tmp_path, toy, assert_same):
    varying = toy().dataset.assign_coords(session=(("stimulus", "repeat"), [["x"] * 4] * 5 + [["y"] * 4]))
    varying["session"][1, 3] = ""  # a trial that never was has no session
    slashes = {"stimulus_id": [f"a/b:{each}" for each in range(6)]}
    for recording in (
        toy(images=None, dtype=np.float32, name="", citation="", attributes={}, size_deg=np.nan),
        toy(images={"im0é": np.zeros((4, 4, 3), np.uint8)}),
        toy(stimulus=slashes),
        type(toy())(varying),
    ):
        assert_same(read_nwb(write_nwb(recording, tmp_path / "toy.nwb", session_start=START)), recording)


def test_written_files_are_valid_and_readable_for_others(tmp_path, toy):
    path = write_nwb(toy(), tmp_path / "toy.nwb", session_start=START)
    with pynwb.NWBHDF5IO(path, "r") as io:
        assert pynwb.validate(io=io) == []
        nwb = io.read()
        assert nwb.trials["stimulus_id"][:4].tolist() == ["im0é"] * 4
        assert nwb.units["region"][:].tolist() == ["V1", "V1", ""]
        assert nwb.processing["recording"]["responses"].data.shape == (23, 3)
        np.testing.assert_array_equal(nwb.stimulus_template["pictures"]["im5é"].data[:], toy().images[5])


def test_files_that_cannot_be_read_or_written(tmp_path, toy):
    path = session(tmp_path / "s.nwb")
    with pytest.raises(ValueError, match="was not written by write_nwb: use recording_from_nwb"):
        read_nwb(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cannot be read as NWB .*: it is damaged"):
        read_nwb(path)
    with pytest.raises(FileNotFoundError, match="no NWB file at"):
        recording_from_nwb(tmp_path / "absent.nwb", window_ms=(0, 1))
    with pytest.raises(ValueError, match="without a time zone"):
        write_nwb(toy(), tmp_path / "toy.nwb", session_start=datetime(2020, 1, 1))
    with pytest.raises(ValueError, match="pictures have 2 channels"):
        write_nwb(toy(images=np.zeros((6, 4, 4, 2), np.uint8)), tmp_path / "toy.nwb", session_start=START)
    assert not (tmp_path / "toy.nwb").exists()


def test_without_pynwb_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynwb", None)
    with pytest.raises(ImportError, match=r'pip install "lcl\[nwb\]"'):
        read_nwb(tmp_path / "s.nwb")
