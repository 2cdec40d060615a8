"""Numbers of the table against the matrices by hand; figures and page."""

import numpy as np
import pytest

from vision_methods.continual import Cell
from vision_methods.continual_report import accuracy_table, matrix_figure, parameter_figure, seed_rows, summary_rows

NAN = np.nan


def cells():
    found = []
    for seed in range(3):
        first = np.array([[0.9, NAN], [0.6 + 0.1 * seed, 0.8]])
        found.append(Cell("nmc", seed, first, np.array([10, 30]), 0, NAN, True, 1.0))
        found.append(Cell("l2p:query=oracle", seed, first - 0.1, np.array([10, 30]), 480, 90.0, False, 2.0))
        found.append(Cell("linear+joint", seed, np.array([[0.9, 0.9]]), np.array([10, 30]), 0, NAN, True, 1.0))
    return found


def test_numbers_by_hand():
    rows = seed_rows(cells())
    assert rows[0]["last_macro"] == pytest.approx((0.6 + 0.8) / 2)
    assert rows[0]["last_micro"] == pytest.approx((0.6 * 10 + 0.8 * 30) / 40)
    table = {row["method"]: row for row in summary_rows(cells())}
    nmc = table["nmc"]
    assert nmc["forgetting_best"] == pytest.approx(np.mean([0.3, 0.2, 0.1]))
    # Student's t over three seeds: 4.303 standard errors.
    values = np.array([0.7, 0.75, 0.8])
    half = 4.30265 * values.std(ddof=1) / 3**0.5
    assert nmc["last_macro_low"] == pytest.approx(values.mean() - half, abs=1e-5)
    assert nmc["difference"] == 0
    # Seed by seed, so that what seeds share drops out.
    oracle = table["l2p:query=oracle"]
    for end in ("difference", "difference_low", "difference_high"):
        assert oracle[end] == pytest.approx(-0.1)
    assert not oracle["valid"]
    assert table["linear+joint"]["forgetting_best"] == 0


def test_figures_and_table_show_every_method():
    table = summary_rows(cells())
    assert len(matrix_figure(cells()).axes) >= 3
    figure = parameter_figure(table)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("not valid" in label for label in labels)
    assert len(labels) == 3
    html = accuracy_table(table)
    assert html.count("<tr>") == 4
    assert "not a valid method" in html


def test_one_seed_has_no_interval():
    (row,) = summary_rows([cells()[0]])
    assert np.isnan(row["last_macro_low"])
    assert "small" not in accuracy_table([row])
