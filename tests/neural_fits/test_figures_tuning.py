import numpy as np
import pytest

from neural_fits import figures_tuning
from neural_fits.datasets.v1_published import published_distributions
from neural_fits.tuning import tuning_properties
from neural_fits.tuning_curves import contrast_response, size_tuning


def table(n=12, layers=("V1", "V2"), seed=0):
    """Von Mises times Gaussian units, one of each layer silent."""
    rng = np.random.default_rng(seed)
    theta, f = np.arange(0, 180, 15.0), np.geomspace(0.35, 11.2, 11)
    n_all = n * len(layers)
    centre, peak = rng.uniform(0, 180, n_all), rng.uniform(1, 5, n_all)
    oriented = np.exp(2 * np.cos(np.deg2rad(2 * (theta[:, None] - centre))))
    tuned = np.exp(-(np.log2(f[:, None] / peak) ** 2))
    curve = oriented[:, None, None] * tuned[:, None] * np.ones((1, 1, 4, 1))
    curve[..., ::n] = 0
    units = tuning_properties(curve, orientations_deg=theta, frequencies_cpd=f)
    d, c = np.array([0.25, 0.5, 1, 2, 4]), np.array([0.05, 0.1, 0.3, 1.0])
    size = np.minimum(d[:, None], rng.uniform(0.4, 3, n_all))
    contrast = c[:, None] / (c[:, None] + rng.uniform(0.1, 0.5, n_all))
    found = {**size_tuning(d, size), **contrast_response(c, contrast)}
    units = units.assign({name: ("unit", value) for name, value in found.items()})
    units = units.assign(size_curve=(("diameter_deg", "unit"), size), contrast_curve=(("contrast", "unit"), contrast))
    units = units.assign_coords(diameter_deg=d, contrast=c, layer=("unit", np.repeat(layers, n)))
    return units.assign_attrs(model="net")


def test_curves_show_single_units_and_their_median(readable):
    units = table()
    figure = figures_tuning.tuning_curves(units)
    readable(figure)
    assert len(figure.axes) == 8
    orientation = figure.axes[0]
    assert "11 units" in orientation.get_title()  # the silent one has no curve
    median = orientation.lines[-1]
    assert median.get_xdata().tolist() == list(np.arange(-90, 91, 15.0))
    assert median.get_ydata()[6] == 1  # every curve at its own preferred orientation
    assert median.get_ydata()[0] == median.get_ydata()[-1]
    assert figure.axes[4].get_ylabel().startswith("V2")
    assert len(figures_tuning.tuning_curves(units.drop_vars(["size_curve", "contrast_curve"])).axes) == 4
    with pytest.raises(ValueError, match="no tuning curve"):
        figures_tuning.tuning_curves(units[["circular_variance"]])


def test_orientations_are_counted_on_both_sides_and_add_to_one(readable):
    published = published_distributions()["preferred_orientation_deg"]
    figure = figures_tuning.orientation_histograms({"net": table(), "other": table(seed=1)}, published)
    readable(figure)
    assert len(figure.axes) == 4
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert sum(heights[:12]) == pytest.approx(1)
    assert heights[:12] == heights[12:]
    angle, density = figure.axes[0].lines[0].get_data()
    horizontal = density[np.argmin(np.abs(np.asarray(angle)))]
    assert horizontal == pytest.approx(110 / 385 / 3)  # 110 of 385 cells in 45 degrees, per 15
    vertical = density[np.argmin(np.abs(np.asarray(angle) - np.pi / 2))]
    assert vertical == pytest.approx(100 / 385 / 3)
    assert "11 of 12 units" in figure.axes[0].get_title()
    with pytest.raises(ValueError, match="no table"):
        figures_tuning.orientation_histograms({})


def test_frequencies_are_shares_beside_those_of_v1(readable):
    figure = figures_tuning.frequency_histograms({"net": table()}, published_distributions())
    readable(figure)
    units, foveal, parafoveal = (patch.get_data() for patch in figure.axes[0].patches)
    for shares in (units, foveal, parafoveal):
        assert shares.values.sum() == pytest.approx(1)
    assert foveal.values[4] == pytest.approx((25 + 9) / (148 + 84))
    assert figure.axes[0].get_xscale() == "log"
    assert len(figures_tuning.frequency_histograms({"net": table()}).axes[0].patches) == 1


def test_similarities_are_written_in_their_cells(readable):
    rows = [
        {
            **{"model": m, "layer": "V1", "distribution": d, "score": score, "ceiling": 0.95},
            **{"n_units": 20, "n_undefined": 15 if score == 0.5 else 0},
        }
        for m, d, score in (("a", "x_deg", 0.25), ("a", "y/simple", np.nan), ("b", "x_deg", 0.5), ("b", "y/simple", 1))
    ]
    figure = figures_tuning.similarities(rows)
    readable(figure)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.25", "–", "(0.50)", "1.00", "0.95", "0.95"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y: simple"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a  V1", "b  V1", "neurons, resampled"]
    with pytest.raises(ValueError, match="no similarity"):
        figures_tuning.similarities([])


def test_an_empty_layer_is_drawn_as_empty(readable):
    silent = table(n=1)
    assert silent.sizes["unit"] == 2
    for figure in (
        figures_tuning.tuning_curves(silent[["orientation_curve", "frequency_curve"]]),
        figures_tuning.orientation_histograms({"net": silent}),
        figures_tuning.frequency_histograms({"net": silent}),
    ):
        readable(figure)


def test_long_names_stay_apart(readable):
    long = {f"runs/amplitudes-reversed-untrained-seed{i}": table(seed=i) for i in range(2)}
    readable(figures_tuning.orientation_histograms(long, published_distributions()["preferred_orientation_deg"]))
    readable(figures_tuning.frequency_histograms(long, published_distributions()))
