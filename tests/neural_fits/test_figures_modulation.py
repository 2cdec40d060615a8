import numpy as np
import pytest
import xarray as xr

from neural_fits import figures_modulation
from neural_fits.texture_decoding import decoding, poisson_counts
from neural_fits.texture_modulation import texture_properties
from stimuli.stimulus_set import StimulusSet


def table(layers=("V1", "V2"), n=20, families=5, samples=6, seed=0):
    """Layers whose index grows from 0, in the form that texture_modulation gives."""
    rng = np.random.default_rng(seed)
    parts, alone = [], []
    for i in range(len(layers)):
        noise = 1 + rng.random((families, samples, n))
        texture = (1 + rng.random((families, samples, n))) * (1 + i * np.linspace(0.2, 1, families))[:, None, None]
        texture[..., 0] = noise[..., 0] = 0
        found = texture_properties(texture, noise, n_resamples=50, seed=seed)
        growth = decoding(poisson_counts(texture, n_repeats=5, seed=seed), population_sizes=(1, 3, 10), n_draws=4)
        found = found.merge(growth.reindex(population_size=[1, 3, 10, 30]))
        parts.append(found[[v for v in found if "unit" in found[v].dims]])
        alone.append(found[[v for v in found if "unit" not in found[v].dims]])
    whole = xr.concat(parts, dim="unit").merge(xr.concat(alone, dim="layer"))
    whole = whole.assign_coords(layer=list(layers), unit_layer=("unit", np.repeat(layers, n)))
    names = [f"family_{i}" for i in range(families)]
    return whole.assign_coords(family=names).assign_attrs(family_chance=1 / families, sample_chance=1 / samples)


@pytest.fixture(scope="module")
def tables():
    return {"net": table(), "other": table(seed=1)}


def test_the_summary_shows_both_intervals_and_the_control(readable):
    row = {"model": "net", "layer": "V2", "modulation": 0.2, "control": 0.0, "variance_ratio": 0.5}
    for name, half in (("modulation", 0.05), ("modulation_families", 0.1), ("control", 0.02), ("variance_ratio", 0.1)):
        middle = row.get(name, 0.2)
        row |= {f"{name}_low": middle - half, f"{name}_high": middle + half}
    figure = figures_modulation.modulation_summary([row, {**row, "layer": "V1"}])
    readable(figure)
    index, ratio = figure.axes
    pictures, families, point = (line.get_xdata() for line in index.lines[:3])
    np.testing.assert_allclose(pictures, [0.15, 0.25])
    np.testing.assert_allclose(families, [0.1, 0.3])
    np.testing.assert_allclose(point, [0.2])
    control = index.collections[0].get_paths()[0].vertices
    assert (control[:, 0].min(), control[:, 0].max()) == (-0.02, 0.02)
    assert ratio.get_xscale() == "log"
    assert index.get_ylim()[0] > index.get_ylim()[1]  # the first row on top
    with pytest.raises(ValueError, match="no row"):
        figures_modulation.modulation_summary([])


def test_families_stand_in_the_order_of_the_last_layer(tables, readable):
    figure = figures_modulation.index_by_family(tables)
    readable(figure)
    axes = figure.axes[0]
    deeper = axes.lines[1].get_ydata() if len(axes.lines[1].get_ydata()) == 5 else axes.containers[1][0].get_ydata()
    assert (np.diff(deeper) <= 0).all()
    expected = np.nanmean(tables["net"].modulation_by_family.values[:, 20:], axis=1)
    np.testing.assert_allclose(deeper, np.sort(expected)[::-1])
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == [f"family {i}" for i in np.argsort(-expected)]
    with pytest.raises(ValueError, match="no table"):
        figures_modulation.index_by_family({})


def test_layers_are_compared_family_by_family(tables, readable):
    figure = figures_modulation.index_between_layers(tables)
    readable(figure)
    points = figure.axes[0].lines[0]
    index = tables["net"].modulation_by_family.values
    np.testing.assert_allclose(points.get_xdata(), np.nanmean(index[:, :20], axis=1))
    np.testing.assert_allclose(points.get_ydata(), np.nanmean(index[:, 20:], axis=1))
    assert points.get_label() == "V2: 100 % above"
    with pytest.raises(ValueError, match="two layers"):
        figures_modulation.index_between_layers({"net": table(layers=("V1",))})


def test_units_with_an_index_are_counted(tables, readable):
    figure = figures_modulation.index_distributions(tables)
    readable(figure)
    assert len(figure.axes) == 4
    assert "19 of 20 units" in figure.axes[0].get_title()
    bars = figure.axes[1].patches[1:]
    significant = (tables["net"].modulation_p.values[20:] < 0.05).sum()
    assert sum(bar.get_height() for bar in bars) == significant > 0


def test_decoding_curves_stop_at_the_largest_population(tables, readable):
    figure = figures_modulation.decoding_curves(tables)
    readable(figure)
    family = figure.axes[0].containers[0][0]
    assert family.get_xdata().tolist() == [1, 3, 10]
    expected = tables["net"].family_accuracy.isel(layer=0).mean("draw").values[:3]
    np.testing.assert_allclose(family.get_ydata(), expected)


def test_the_sheet_shows_each_texture_above_its_noise(readable):
    images = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    labels = {
        "type": np.tile(["texture", "noise"], 6),
        "family": np.repeat(["a", "b"], 6),
        "sample": np.tile(np.repeat([0, 1, 2], 2), 2),
    }
    figure = figures_modulation.texture_sheet(StimulusSet(images, labels))
    readable(figure)
    shown = [int(axes.images[0].get_array()[0, 0]) for axes in figure.axes]
    assert shown == [0, 2, 1, 3, 6, 8, 7, 9]
    with pytest.raises(ValueError, match="no column 'family'"):
        figures_modulation.texture_sheet(StimulusSet(images, {"type": labels["type"]}))


def test_long_names_stay_apart(readable):
    long = {f"runs/amplitudes-{rule}-untrained-seed{i}": table(seed=i) for i, rule in enumerate(("under", "reversed"))}
    many = {**long, **{f"{name}-again": each for name, each in long.items()}}
    readable(figures_modulation.index_by_family(many))
    readable(figures_modulation.index_between_layers(many))
    readable(figures_modulation.index_distributions(many))
    readable(figures_modulation.decoding_curves(many))
    row = {"model": list(many)[1], "layer": "normalised", "modulation": 0.2, "control": 0.0, "variance_ratio": 0.5}
    for name in ("modulation", "modulation_families", "control", "variance_ratio"):
        row |= {f"{name}_low": 0.1, f"{name}_high": 0.3}
    readable(figures_modulation.modulation_summary([row] * 12))
