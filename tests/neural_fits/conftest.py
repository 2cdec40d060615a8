"""A small recording, and what it means that two recordings are the same."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from neural_fits.recordings import Recording, recording_from_arrays


@pytest.fixture(scope="session")
def toy():
    return toy_recording


def toy_recording(*, time_bins=0, dtype=float, **changes):
    """Counts of 6 stimuli x 4 repeats x 3 neurons with labels, pictures and gaps."""
    rng = np.random.default_rng(0)
    responses = rng.poisson(4, size=(6, 4, 3, time_bins) if time_bins else (6, 4, 3)).astype(dtype)
    responses[1, 3] = np.nan
    responses[2, 0, 1] = np.nan
    stimulus = {
        "stimulus_id": [f"im{i}é" for i in range(6)],
        "family": ["bark"] * 3 + ["sand"] * 3,
        "sample": [0, 1, 2] * 2,
    }
    neuron = {"neuron_id": ["a", "b", "c"], "region": ["V1", "V1", ""], "animal": "m1", "depth_um": [1.0, np.nan, 3.5]}
    given = {
        "stimulus": stimulus,
        "neuron": neuron,
        "repeat": [1, 2, 3, 4],
        "time_bins_ms": [(10 * i, 10 * i + 10) for i in range(time_bins)] if time_bins else None,
        "images": rng.integers(0, 256, size=(6, 8, 9), dtype=np.uint8),
        "size_deg": 4.0,
        "window_ms": None if time_bins else (50, 200),
        "name": "toy",
        "licence": "CC0",
        "citation": "Nobody (2000)",
        "attributes": {"penetration": "u001", "latencies_ms": np.array([40.0, 50.0]), "depth": 3},
    }
    return recording_from_arrays(responses, **{**given, **changes})


@pytest.fixture(scope="session")
def assert_same():
    return assert_same_recordings


def assert_same_recordings(one: Recording, other: Recording):
    """Equal in every value, coordinate, kind of number and attribute."""
    xr.testing.assert_equal(one.dataset, other.dataset)
    assert one.responses.dtype == other.responses.dtype
    assert one.dataset.attrs.keys() == other.dataset.attrs.keys()
    for key, value in one.dataset.attrs.items():
        np.testing.assert_array_equal(value, other.dataset.attrs[key], err_msg=key)
    for name in one.dataset.coords:
        assert one.labels(str(name)).dtype.kind == other.labels(str(name)).dtype.kind, name


@pytest.fixture(scope="session")
def readable():
    return assert_readable


def assert_readable(figure: Figure):
    """No text under 8 pt, outside the figure, or on another text."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = {text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()}
    for axis in figure.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low - 1e-9 <= tick.get_loc() <= high + 1e-9 or not axis.get_visible():
                texts -= {tick.label1, tick.label2}
    placed = [(text, text.get_window_extent(canvas.get_renderer())) for text in sorted(texts, key=Text.get_text)]
    assert placed
    for i, (text, box) in enumerate(placed):
        assert text.get_fontsize() >= 8
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, f"{text.get_text()!r} leaves the figure"
        for other, place in placed[:i]:
            # turned labels are slim, their boxes are not
            if text.get_rotation() % 90 or other.get_rotation() % 90:
                continue
            apart = box.x0 >= place.x1 or place.x0 >= box.x1 or box.y0 >= place.y1 or place.y0 >= box.y1
            assert apart, f"{text.get_text()!r} lies on {other.get_text()!r}"
