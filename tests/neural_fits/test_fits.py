import json

import numpy as np
import pytest
import torch
import xarray as xr

from neural_fits import figures
from neural_fits.fits import (
    choose_layer,
    fit_features,
    fit_layers,
    layer_score,
    make_splits,
    read_fit,
    write_fit,
)
from neural_fits.pls import PLS
from neural_fits.recordings import recording_from_arrays
from neural_fits.ridge import Ridge
from neural_fits.score import RULES
from neural_fits.vision_model import VisionModel


def simulated(n_movies=8, n_frames=10, n_neurons=6, n_repeats=12, seed=0):
    """Poisson counts of linear-nonlinear neurons on the layer 'good'; 'other' is unrelated."""
    rng = np.random.default_rng(seed)
    n = n_movies * n_frames
    good, other = rng.standard_normal((n, 15)), rng.standard_normal((n, 15))
    rate = np.log1p(np.exp(good @ rng.standard_normal((15, n_neurons)) / 2)) * 6
    counts = rng.poisson(rate[:, None], (n, n_repeats, n_neurons))
    recording = recording_from_arrays(
        counts,
        stimulus={"movie": np.repeat([f"m{k}" for k in range(n_movies)], n_frames)},
        neuron={"region": "V1"},
        name="simulated",
        images=rng.integers(0, 256, (n, 12, 12), dtype=np.uint8),
        size_deg=4.0,
    )
    return {"other": other, "good": good}, recording


def fitted(**options):
    features, recording = simulated()
    return features, recording, fit_features(features, recording, n_bootstrap=60, **{"regression": "ridge", **options})


def test_correlations_and_scores_are_those_of_the_parts_done_by_hand():
    features, recording, table = fitted(splits="kfold", seed=3)
    splits = make_splits(recording, "kfold", seed=3)
    Y = recording.mean_responses()
    for i, (train, test) in enumerate(splits):
        predicted = Ridge().fit(features["good"][train], Y[train]).predict(features["good"][test])
        by_hand = [np.corrcoef(predicted[:, q], Y[test, q])[0, 1] for q in range(6)]
        np.testing.assert_allclose(table.correlation.sel(layer="good", split=i), by_hand, rtol=1e-9)
    r = table.correlation.sel(layer="good").values
    assert table.score.sel(layer="good", rule="raw").item() == pytest.approx(np.median(r, 1).mean())
    for rule in RULES:
        expected = RULES[rule](r, table.reliability.values[None])
        assert table.score.sel(layer="good", rule=rule).item() == pytest.approx(float(expected))


def test_the_right_layer_is_predicted_and_re_ordered_responses_are_not():
    _, _, table = fitted()
    raw = table.score.sel(rule="raw")
    assert raw.sel(layer="good") > 0.8
    assert abs(raw.sel(layer="other")) < 0.2
    assert abs(np.median(table.correlation_reordered)) < 0.2


def test_a_control_fitted_alone_equals_one_fitted_beside_the_responses():
    features, recording, table = fitted(regression="ridge")
    object_table = fit_features(features, recording, regression=Ridge(), n_bootstrap=10)
    np.testing.assert_allclose(table.correlation_reordered, object_table.correlation_reordered, atol=1e-6)
    assert object_table.attrs["regression"] == "Ridge"


def test_pls_is_fitted_to_the_responses_alone():
    """Its components depend on all responses, so the control must not be fitted beside them."""
    features, recording, table = fitted(regression="pls", regression_options={"n_components": 3})
    parts = PLS(n_components=3).cross_predict(
        features["good"], recording.mean_responses(), make_splits(recording, seed=0)
    )
    np.testing.assert_allclose(table.predicted.sel(layer="good"), np.concatenate(parts), rtol=1e-5)


def test_whole_movies_are_left_out_and_kept_together_inside():
    _, recording, table = fitted(splits="grouped_kfold:movie")
    movie = recording.labels("movie")
    for row in table.assignment.values:
        assert not set(movie[row == 1]) & set(movie[row == 2])
    assert json.loads(table.attrs["splits"])["n_folds"] == 8  # as many as there are movies


def test_pooled_correlations_are_over_all_held_out_stimuli():
    _, recording, table = fitted(splits="grouped_kfold:movie", correlate="pooled")
    Y = recording.mean_responses()
    predicted = table.predicted.sel(layer="good").values
    by_hand = [np.corrcoef(predicted[:, q], Y[table.held_out_stimulus, q])[0, 1] for q in range(6)]
    np.testing.assert_allclose(table.correlation_pooled.sel(layer="good"), by_hand, rtol=1e-6)
    assert table.score.sel(layer="good", rule="raw").item() == pytest.approx(np.median(by_hand), rel=1e-6)


def test_pooling_needs_splits_that_hold_out_everything_once():
    with pytest.raises(ValueError, match=r"'pooled' with random splits"):
        fitted(splits="random", correlate="pooled")


def test_choice_of_a_layer_cannot_see_the_test_part():
    """Whatever the test part holds, the choice and its inner scores stay."""
    features, recording = simulated()
    splits = make_splits(recording, "kfold", n_folds=4, seed=0)
    train, test = splits.train[0], splits.test[0]
    Y = recording.mean_responses()
    first = choose_layer({k: X[train] for k, X in features.items()}, Y[train], regression="ridge")
    spoilt_Y = Y.copy()
    spoilt_Y[test] = features["other"][test][:, :6]  # the test part alone would say "other"
    table = fit_features(
        features,
        recording_from_arrays(spoilt_Y[:, None]),
        regression="ridge",
        splits=splits,
        choose=True,
        n_bootstrap=10,
        control=False,
    )
    assert first[0] == table.chosen_layer.values[0] == "good"
    np.testing.assert_allclose(table.inner_score[0], [first[1]["other"], first[1]["good"]])
    np.testing.assert_array_equal(table.correlation_chosen[0], table.correlation.sel(layer="good")[0])


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ("kfolds", "expected one of random"),
        ("grouped_kfold", r"expected grouped_kfold:LABEL, a label of the stimuli \(stimulus_id, movie\)"),
        ("kfold:movie", "kfold splits take no label"),
        ("grouped_kfold:film", "film"),
    ],
)
def test_wrong_splits_are_named(splits, said):
    with pytest.raises(ValueError, match=said):
        make_splits(simulated()[1], splits)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regression": "rigde"}, "regression is 'rigde'; expected one of pls"),
        ({"rules": ["r2"]}, "rule is 'r2'"),
        ({"ceiling": "none"}, "ceiling is 'none'"),
        ({"regression": "location_ridge"}, r"layer other has shape \(80, 15\); location_ridge needs maps"),
    ],
)
def test_wrong_options_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        fitted(**options)


def test_a_table_is_written_at_once_and_read_back(tmp_path):
    _, _, table = fitted()
    write_fit(table, tmp_path / "a" / "fit.nc")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["fit.nc"]
    again = read_fit(tmp_path / "a" / "fit.nc")
    xr.testing.assert_identical(again, table)
    score = layer_score(again, "good", "r2_over_ceiling")
    assert score.value == pytest.approx(table.score.sel(layer="good", rule="r2_over_ceiling").item(), rel=1e-6)
    np.testing.assert_allclose(
        score.interval_images, table.score_interval_images.sel(layer="good", rule="r2_over_ceiling"), rtol=1e-4
    )
    assert score.n_repeats == "12"


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "half.nc").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match="not readable as netCDF"):
        read_fit(tmp_path / "half.nc")
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="not a table of fits of format 1"):
        read_fit(tmp_path / "other.nc")
    with pytest.raises(FileNotFoundError, match="expected a table written by `lcl fit`"):
        read_fit(tmp_path / "none.nc")


def test_one_repeat_has_no_ceiling_and_says_so():
    features, recording = simulated()
    one = recording_from_arrays(recording.mean_responses()[:, None])
    table = fit_features(features, one, regression="ridge", n_bootstrap=10)
    assert "one repeat" in table.attrs["ceiling"]
    assert (table.reliability == 1).all()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 5, 3, padding=1)

    def forward(self, images):
        return {"conv": torch.relu(self.conv(images))}


def test_neurons_on_a_layer_of_a_network_are_found_there_with_their_places():
    """Rates made from one place of a layer: the read-out finds the layer and predicts what is held out."""
    torch.manual_seed(0)
    net = Net()
    _, recording = simulated(n_frames=20)
    images = torch.from_numpy(recording.images).float()[:, None] / 255
    with torch.inference_mode():
        rate = net(images)["conv"][:, :, 4, 7].double().numpy() @ np.diag([1, 2, 1, 2, 1.0]) * 30
    counts = np.random.default_rng(1).poisson(rate[:, None], (len(rate), 20, 5))
    recording = recording_from_arrays(counts, images=recording.images, size_deg=4.0, name="made")
    model = VisionModel(net, "net", field_deg=4.0, input_px=12, channels=1, layers=("conv",))
    table = fit_layers(model, recording, regression="location_ridge", reduction="maps", n_bootstrap=30)
    reliable = table.reliability.values > 0.5
    assert reliable.any()
    r = table.correlation.sel(layer="conv").mean("split").values
    ceiling = np.sqrt(table.reliability.values)
    assert np.median(r[reliable] / ceiling[reliable]) > 0.9
    assert (table.attrs["model"], table.attrs["picture_size_deg"]) == ("net", 4.0)


def test_pictures_are_needed():
    _, recording = simulated()
    without = recording_from_arrays(recording.repeats(), size_deg=4.0)
    with pytest.raises(ValueError, match="holds no pictures"):
        fit_layers(VisionModel(Net(), "net", input_px=12, channels=1, layers=("conv",)), without)


def test_figures_show_every_layer_and_neuron():
    _, _, table = fitted()
    figure = figures.layer_scores({"a": table, "b": table})
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a  other", "a  good", "b  other", "b  good"]
    assert axes.get_xlabel() == "median Pearson r, held out"
    scatter = figures.neuron_scatter(table, table, layers=("other", "good"), names=("x", "y")).axes[0]
    assert len(scatter.collections[0].get_offsets()) == 6
    panels = figures.predicted_measured(table, "good").axes
    r = figures.neuron_correlations(table, "good")
    assert [panel.get_title().split(":")[0] for panel in panels] == ["best", "median", "worst"]
    assert f"r {r.max():.2f}" in panels[0].get_title()
    assert f"r {r.min():.2f}" in panels[2].get_title()


def test_neurons_of_other_recordings_are_not_compared():
    _, _, table = fitted()
    other = table.assign_coords(neuron_id=("neuron", np.arange(6) + 100))
    with pytest.raises(ValueError, match="different neurons"):
        figures.neuron_scatter(table, other, layers=("good", "good"))
