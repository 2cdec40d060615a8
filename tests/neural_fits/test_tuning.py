import numpy as np
import pytest
import torch

from neural_fits.datasets.v1_published import published_distributions
from neural_fits.distribution_similarity import compare_with_published
from neural_fits.gabor import gabor
from neural_fits.tuning import measure_tuning, tuning, tuning_properties
from neural_fits.vision_model import VisionModel

SIDE, PX_PER_DEG = 48, 24.0
SCREEN = {"size_deg": SIDE / PX_PER_DEG, "pixels_per_degree": PX_PER_DEG}


def bank(orientation, frequency, phase):
    filters = [
        gabor(
            SIDE, SIDE, orientation_deg=o, frequency_cpp=f / PX_PER_DEG, phase_deg=phase,
            across_px=0.35 * PX_PER_DEG / f, along_px=0.35 * PX_PER_DEG / f,
        ).ravel()
        for o, f in zip(orientation, frequency, strict=True)
    ]  # fmt: skip
    filters = np.stack(filters)
    return filters - filters.mean(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def neurons():
    """Twelve simple cells, a third of them with a baseline, and twelve energy cells with a normalising surround."""
    rng = np.random.default_rng(0)
    orientation, frequency = rng.uniform(0, 180, 12), rng.uniform(2, 5, 12)
    even, odd = bank(orientation, frequency, 0), bank(orientation, frequency, 90)
    offset = np.r_[np.zeros(8), np.full(4, 0.3)] * np.abs(even).sum(axis=1) / 4

    def respond(images):
        x = (images.reshape(len(images), -1) - 0.5).astype(np.float64)
        simple = np.maximum(x @ even.T + offset, 0)
        energy = (x @ even.T) ** 2 + (x @ odd.T) ** 2
        scale = (np.abs(even).sum(axis=1) / 8) ** 2
        # a full-field grating of contrast c has mean square c^2 / 8: exponent 2, c50 = sqrt(0.02)
        surround = 8 * (x**2).mean(axis=1, keepdims=True)
        return np.hstack([simple, energy / scale / (0.02 + surround)])

    shown = {"frequencies_cpd": np.geomspace(0.7, 11, 11), "diameters_deg": np.geomspace(0.1, 2, 12)}
    measured = measure_tuning(respond, **SCREEN, **shown)
    return orientation, frequency, respond, measured


def test_parameters_are_recovered_through_pictures(neurons):
    orientation, frequency, _, units = neurons
    error = np.abs((units.preferred_orientation_deg.values - np.tile(orientation, 2) + 90) % 180 - 90)
    assert error.max() < 2
    assert np.abs(units.peak_frequency_cpd.values / np.tile(frequency, 2) - 1).max() < 0.05
    assert units.attrs["undriven_units"] == 0


def test_simple_and_complex_cells(neurons):
    units = neurons[3]
    # a baseline that is subtracted leaves a simple cell simple
    assert units.f1_f0.values[:12] == pytest.approx(np.full(12, np.pi / 2), rel=0.03)
    assert units.f1_f0.values[12:].max() < 0.05
    assert units.simple.values.tolist() == [1.0] * 12 + [0.0] * 12


def test_only_cells_with_a_surround_are_suppressed(neurons):
    units = neurons[3]
    assert units.surround_suppression_index.values[:12].max() < 0.05
    assert (units.strongly_suppressed.values[12:] == 1).all()
    # two thirds of a period of a Gabor's envelope: the smaller the period, the smaller the summation field
    assert np.corrcoef(units.summation_field_deg.values[:12], 1 / neurons[1])[0, 1] > 0.9
    assert (units.surround_over_summation.values[12:] > 1).all()


def test_only_normalised_cells_saturate_with_contrast(neurons):
    units = neurons[3]
    assert (units.half_contrast.values[:8] > 0.4).all()
    assert units.c50.values[12:] == pytest.approx(np.full(12, np.sqrt(0.02)), rel=0.05)
    assert units.contrast_exponent.values[12:] == pytest.approx(np.full(12, 2.0), rel=0.05)
    assert units.contrast_r2.values[12:].min() > 0.95


def test_curves_are_what_the_neurons_answer(neurons):
    from stimuli.gratings import grating

    _, _, respond, units = neurons
    one = units.isel(unit=14)
    images = grating(
        orientation_deg=float(one.best_orientation_deg), frequency_cpd=float(one.best_frequency_cpd),
        phase_deg=np.arange(0, 360, 30), contrast=0.25, **SCREEN,
    )  # fmt: skip
    assert float(one.contrast_curve.sel(contrast=0.25)) == pytest.approx(respond(images)[:, 14].mean())


def test_baseline_can_be_kept(neurons):
    units = measure_tuning(
        neurons[2], **SCREEN, frequencies_cpd=[2, 3, 4], baseline="keep", diameters_deg=None, contrasts=None
    )
    assert (units.f1_f0.values[8:12] < units.f1_f0.values[:4].min()).all()
    assert (units.blank.values[8:12] > 0).all()
    assert "size_curve" not in units


def test_a_silent_unit_is_counted_and_has_no_properties():
    units = measure_tuning(
        lambda images: np.stack([images.std(axis=(1, 2)), np.zeros(len(images))], axis=1), **SCREEN,
        frequencies_cpd=[1, 2, 4], n_orientations=4, n_phases=4, diameters_deg=[0.5, 1, 2],
    )  # fmt: skip
    assert units.attrs["undriven_units"] == 1
    for name in ("preferred_orientation_deg", "peak_frequency_cpd", "f1_f0", "summation_field_deg", "c50", "simple"):
        assert np.isnan(units[name].values[1]), name
    assert np.isfinite(units.peak_frequency_cpd.values[0])


def test_properties_reach_the_published_distributions(neurons):
    scores = compare_with_published(neurons[3], published_distributions(), n_resamples=100)
    assert {"preferred_orientation_deg", "peak_frequency_cpd/simple_foveal", "surround_suppression_index"} <= set(
        scores
    )
    assert all(0 <= each.score <= 1 for each in scores.values())
    assert scores["peak_frequency_cpd/complex_foveal"].n_units == 12


def test_missing_responses_leave_other_units_alone():
    r = np.random.default_rng(0).random((4, 3, 4, 2))
    whole = tuning_properties(r, orientations_deg=[0, 45, 90, 135], frequencies_cpd=[1, 2, 4])
    r[0, 0, 0, 0] = np.nan
    units = tuning_properties(r, orientations_deg=[0, 45, 90, 135], frequencies_cpd=[1, 2, 4])
    assert units.attrs["undriven_units"] == 1
    assert np.isnan(units.preferred_orientation_deg[0])
    assert units.isel(unit=1).equals(whole.isel(unit=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "none"}, "baseline is 'none'"),
        ({"frequencies_cpd": [1, 2, 40]}, "2 of the frequencies"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        measure_tuning(lambda images: images.reshape(len(images), -1), **SCREEN, **options)


def test_bad_responses_are_named():
    with pytest.raises(ValueError, match=r"responses to 1 pictures have shape \(1, 48, 48\)"):
        measure_tuning(lambda images: images, **SCREEN)
    with pytest.raises(ValueError, match="4 orientations and 3 frequencies"):
        tuning_properties(np.ones((3, 4, 2, 2)), orientations_deg=[0, 45, 90, 135], frequencies_cpd=[1, 2, 3])


def test_any_layer_of_a_model():
    orientation, frequency = np.array([20.0, 75.0, 130.0]), np.array([2.0, 3.0, 4.0])
    conv = torch.nn.Conv2d(1, 6, SIDE + 1, bias=False)
    weights = np.zeros((6, 1, SIDE + 1, SIDE + 1), dtype=np.float32)
    for i, phase in enumerate((0, 90)):
        weights[3 * i : 3 * i + 3, 0, :SIDE, :SIDE] = bank(orientation, frequency, phase).reshape(3, SIDE, SIDE)
    conv.weight.data = torch.from_numpy(weights)

    def energy(x):
        even, odd = conv(x).split(3, dim=1)
        return {"simple": even.relu(), "energy": (even**2 + odd**2).sqrt()}

    model = VisionModel(energy, "energy", channels=1, input_px=64, field_deg=64 / PX_PER_DEG, mean=(0.5,))
    units = tuning(model, frequencies_cpd=np.geomspace(0.7, 11, 11), n_phases=12, diameters_deg=None, contrasts=None)
    assert units.layer.values.tolist() == ["simple"] * 3 + ["energy"] * 3
    error = (units.preferred_orientation_deg.values - np.tile(orientation, 2) + 90) % 180 - 90
    assert np.abs(error).max() < 2
    assert np.abs(units.peak_frequency_cpd.values / np.tile(frequency, 2) - 1).max() < 0.05
    assert units.f1_f0.values[:3] == pytest.approx(np.full(3, np.pi / 2), rel=0.03)
    assert units.f1_f0.values[3:].max() < 0.05
    assert units.attrs["model"] == "energy"
    one = tuning(model, layers="energy", n_units=1, frequencies_cpd=[1, 2, 4], diameters_deg=None, contrasts=None)
    assert one.sizes["unit"] == 1


def test_size_and_contrast_of_some_units_alone():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 5, 7), torch.nn.ReLU(), torch.nn.Conv2d(5, 4, 3), torch.nn.ReLU())
    model = VisionModel(net, "net", channels=1, input_px=32, field_deg=4.0, layers=("1", "3"))
    options = {"n_orientations": 4, "n_phases": 4, "contrasts": [0.1, 0.2, 0.5, 1.0]}
    whole, some = tuning(model, **options), tuning(model, n_sized=2, seed=1, **options)
    assert whole.sized.values.all()
    assert [int(some.sized[some.layer == name].sum()) for name in ("1", "3")] == [2, 2]
    left_out = ~some.sized.values
    for name in ("summation_field_deg", "c50"):
        assert np.isnan(some[name].values[left_out]).all()
        np.testing.assert_array_equal(some[name].values[~left_out], whole[name].values[~left_out])
    np.testing.assert_array_equal(some.circular_variance, whole.circular_variance)
    with pytest.raises(ValueError, match="n_sized is 0"):
        tuning(model, n_sized=0)
    with pytest.raises(ValueError, match=r"sized has shape \(2,\)"):
        measure_tuning(lambda images: images.reshape(len(images), -1)[:, :3], **SCREEN, sized=[True, False])
