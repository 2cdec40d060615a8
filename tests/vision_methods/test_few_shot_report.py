"""The summary over draws by hand; what is written, and what the page shows."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

from vision_methods.few_shot import ADAPTERS, few_shot_rows
from vision_methods.few_shot_report import curve_table, shot_curves, summary, write_few_shot


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    centres, labels = rng.standard_normal((3, 8)), np.repeat(np.arange(3), 12)
    features, held = (centres[labels] + 0.8 * rng.standard_normal((36, 8)) for _ in range(2))
    found = []
    for name, texts in (("plain", None), ("with texts", centres)):
        given = few_shot_rows(features, labels, held, labels, shots=(1, 4), seeds=range(3), texts=texts, scale=10.0)
        found += [{"model": name, "layer": "<V2>", **row} for row in given]
    return found


def test_summary_is_the_mean_with_students_interval(rows):
    table = summary(rows, confidence=0.9)
    (row,) = [
        r
        for r in table
        if (r["model"], r["adapter"], r["shots"]) == ("plain", "prototypes", 4) and r["layer"] == "<V2>"
    ]
    values = [r["accuracy"] for r in rows if (r["model"], r["adapter"], r["shots"]) == ("plain", "prototypes", 4)]
    assert row["draws"] == len(values) == 3
    low, high = stats.t.interval(0.9, 2, np.mean(values), stats.sem(values))
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx((np.mean(values), low, high))
    (alone,) = [r for r in table if r["adapter"] == "zero-shot"]
    assert (alone["model"], alone["shots"], alone["draws"]) == ("with texts", 0, 1)
    assert np.isnan(alone["low"])


def test_figure_has_a_panel_for_each_adapter_and_a_line_for_each_layer(rows):
    figure = shot_curves(summary(rows), chance=1 / 3)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    assert list(panels) == list(ADAPTERS)
    table = summary(rows)
    for name, axes in panels.items():
        curves = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
        assert len(curves) == (1 if ADAPTERS[name].needs_texts else 2)
        expected = [r["accuracy"] for r in table if (r["model"], r["adapter"]) == ("with texts", name)]
        assert curves[-1].get_ydata().tolist() == expected


def test_written_files_hold_the_numbers(rows, tmp_path):
    (section,) = write_few_shot(rows, {"chance": 1 / 3, "pictures": 36}, tmp_path, command="lcl few-shot <x>")
    with (tmp_path / "few_shot.csv").open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in read] == [row["accuracy"] for row in rows]
    assert [json.loads(row["setting"]) for row in read] == [row["setting"] for row in rows]
    assert (tmp_path / "summary.csv").exists()
    assert (tmp_path / "few_shot.png").read_bytes()[1:4] == b"PNG"
    assert "&lt;V2&gt;" in section
    assert "lcl few-shot &lt;x&gt;" in section
    assert curve_table(summary(rows)) in section
