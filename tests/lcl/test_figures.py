import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from lcl import figures
from neural_fits.gabor import fit_gabor, gabor, gabor_fraction, grating_tuning, is_gabor

SIDE, PPD = 11, 28.0


def colour_gabor(orientation_deg, frequency_cpp=0.2):
    spatial = gabor(
        SIDE, SIDE, orientation_deg=orientation_deg, frequency_cpp=frequency_cpp, across_px=2.2, along_px=2.8
    )
    return np.array([1.0, 0.8, 0.6])[:, None, None] * spatial


@pytest.fixture(scope="module")
def banks():
    """Noise, and six Gabors of known orientation among three random filters."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(9, 3, SIDE, SIDE))
    trained = noise.copy()
    for place, orientation_deg in {0: 0, 2: 45, 3: 45, 5: 90, 6: 90, 8: 90}.items():
        trained[place] = colour_gabor(orientation_deg) + 0.02 * rng.normal(size=(3, SIDE, SIDE))
    return noise, trained


@pytest.fixture(scope="module")
def fits(banks):
    return tuple((fit_gabor(bank), grating_tuning(bank)) for bank in banks)


def metrics(lines=20):
    step = np.arange(lines) * 10
    return {"step": step, "loss": 50 * 0.9**step + 3, "similarity": 40 * 0.9**step + 1, "decorrelation": 4 + 0 * step}


def runs(measures=("held_out_loss", "gabor_fraction")):
    level = {"matched": 1.0, "under": 2.0, "over": 3.0, "reversed": 4.0}
    return [
        {"rule": rule, "held_fixed": kind, "seed": seed, **dict.fromkeys(measures, level[rule] + 0.1 * seed)}
        for kind in ("patch side", "amplitude")
        for rule in reversed(level)
        for seed in range(3)
    ]


def driving(units=4, ranks=3, side=20):
    return np.random.default_rng(1).integers(0, 256, (units, ranks, 3, side, side), dtype=np.uint8)


@pytest.fixture(scope="module")
def drawn(banks, fits):
    """Every figure, some of them in several sizes."""
    initial, trained = banks
    (fit_0, tuning_0), (fit_1, tuning_1) = fits
    marked = (is_gabor(fit_0, tuning_0), is_gabor(fit_1, tuning_1))
    views = np.random.default_rng(0).random((10, 2, 3, 29, 29))
    three = {name: metrics() for name in ("V1", "V2", "V4")}
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (192, 192))
    return {
        "filters": figures.filters(initial, trained, gabor_r2=fit_1.r2, marked=marked),
        "plain filters": figures.filters(initial[:, :1], trained[:, :1]),
        "gabor_fits": figures.gabor_fits(trained, fit_1, tuning_1),
        "one gabor_fit": figures.gabor_fits(trained[:1], fit_gabor(trained[:1]), grating_tuning(trained[:1])),
        "tuning": figures.tuning_distributions(fit_1, tuning_1, fit_0, tuning_0),
        "views": figures.view_pairs(views, size_px=19, title="V1"),
        "one view": figures.view_pairs(views[:1, :, :1], size_px=29, title="V1"),
        "three losses": figures.loss_terms(three),
        "one loss": figures.loss_terms({"V1": metrics()}),
        "one step": figures.loss_terms({"V1": metrics(1)}),
        "correlations": figures.correlation_matrix({"V1": noise[:64, :64], "V2": noise, "V4": noise}),
        "one correlation": figures.correlation_matrix({"V1": np.eye(2)}),
        "driving": figures.driving_patches(driving(), stage="V2", size_px=13),
        "many driving": figures.driving_patches(driving(20, 10), stage="V2", size_px=20),
        "ablation": figures.ablation(runs(("held_out_loss", "gabor_fraction", "accuracy"))),
        "one measure": figures.ablation(runs(("accuracy",))),
    }


FIGURES = [
    "filters", "plain filters", "gabor_fits", "one gabor_fit", "tuning", "views", "one view", "three losses",
    "one loss", "one step", "correlations", "one correlation", "driving", "many driving", "ablation", "one measure",
]  # fmt: skip


def shown_texts(figure):
    """Texts that are drawn: not empty, and no tick labels outside the axis."""
    texts = {text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()}
    for axis in figure.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low - 1e-9 <= tick.get_loc() <= high + 1e-9 or not axis.get_visible():
                texts -= {tick.label1, tick.label2}
    return sorted(texts, key=lambda text: text.get_text())


@pytest.mark.parametrize("name", FIGURES)
def test_texts_are_readable_apart_and_inside(drawn, name):
    figure = drawn[name]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = shown_texts(figure)
    assert texts
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    for i, (text, box) in enumerate(zip(texts, boxes, strict=True)):
        assert text.get_fontsize() >= 8
        assert "$" not in text.get_text(), "mathematics has exponents below 8 pt"
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert box.y1 <= figure.bbox.y1 + 1, text
        for other, place in zip(texts[:i], boxes[:i], strict=True):
            apart = box.x0 >= place.x1 or place.x0 >= box.x1 or box.y0 >= place.y1 or place.y0 >= box.y1
            assert apart, f"{text.get_text()!r} lies on {other.get_text()!r}"


@pytest.mark.parametrize("name", FIGURES)
def test_units_and_legends_are_there(drawn, name):
    figure = drawn[name]
    texts = " ".join(text.get_text() for text in shown_texts(figure))
    labels = {
        "filters": ["11 × 11 px = 0.39°", "Framed: r² ≥ 0.5"],
        "gabor_fits": ["(deg)", "c/deg", "r² ="],
        "tuning": ["(deg)", "(cycles/deg)", "number of filters", "after training", "at initialisation", "criterion"],
        "views": ["(px)", "(deg)", "receptive field 19 px = 0.68°"],
        "three losses": ["training step", "loss", "similarity term", "decorrelation term"],
        "correlations": ["feature, first view", "feature, second view", "cross-correlation"],
        "driving": ["rank of the patch", "unit of V2", "20 px = 0.71°", "13 px = 0.46°"],
        "ablation": ["rule", "held out loss", "patch side held fixed: 3 seeds", "amplitude held fixed: 3 seeds"],
    }
    for label in labels.get(name, []):
        assert label in texts
    assert all(axes.get_xlabel() or axes.get_ylabel() or axes.images for axes in figure.axes)


def test_nothing_global_is_changed(banks):
    def settings():
        return {name: mpl.rcParams[name] for name in mpl.rcParams if name != "backend"}  # reading it would choose one

    before = settings()
    figures.filters(*banks)
    assert settings() == before
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []


def test_filters_are_scaled_around_mid_grey_each_by_its_own_maximum(banks):
    initial, trained = banks
    axes = figures.filters(initial, trained * np.arange(1, 10)[:, None, None, None]).axes[1]
    canvas = np.asarray(axes.images[0].get_array())
    gap = 2
    for place in range(9):
        row, column = divmod(place, 3)
        top, left = gap + row * (SIDE + gap), gap + column * (SIDE + gap)
        shown = canvas[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1)
        np.testing.assert_allclose(shown, 0.5 + 0.5 * trained[place] / np.abs(trained[place]).max())
    assert (canvas[:gap] == 1).all()


def test_a_silent_filter_is_mid_grey():
    bank = np.zeros((1, 1, 5, 5))
    canvas = np.asarray(figures.filters(bank, bank).axes[0].images[0].get_array())
    assert (canvas[2:7, 2:7] == 0.5).all()


def test_filters_stand_in_the_order_of_r2_and_the_gabor_like_ones_are_framed(banks, fits):
    initial, trained = banks
    r2 = np.zeros(9)
    r2[4] = 1
    mask = np.zeros(9, dtype=bool)
    mask[[0, 4]] = True
    before, after = figures.filters(initial, trained, gabor_r2=r2, marked=(~mask, mask)).axes
    first = np.asarray(after.images[0].get_array())[2 : 2 + SIDE, 2 : 2 + SIDE].transpose(2, 0, 1)
    np.testing.assert_allclose(first, 0.5 + 0.5 * trained[4] / np.abs(trained[4]).max())
    assert (before.get_title(), after.get_title()) == (
        "At initialisation: 7 of 9 framed",
        "After training: 2 of 9 framed",
    )
    centres = [
        tuple(float(v) for v in (p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2)) for p in after.patches
    ]
    # Filters 4 and 0 are now the first two; a filter's middle is half a side behind a gap.
    assert centres == [pytest.approx((2 + SIDE / 2, 2 + SIDE / 2)), pytest.approx((4 + 1.5 * SIDE, 2 + SIDE / 2))]


def test_gabor_like_is_the_rule_of_gabor_fraction(banks, fits):
    for bank, (fit, tuning) in zip(banks, fits, strict=True):
        assert is_gabor(fit, tuning).mean() == gabor_fraction(bank)
    assert is_gabor(*fits[0]).sum() == 0
    assert np.flatnonzero(is_gabor(*fits[1])).tolist() == [0, 2, 3, 5, 6, 8]


def test_gabor_fits_run_from_best_to_worst(banks, fits):
    fit, tuning = fits[1]
    titles = [axes.get_title() for axes in figures.gabor_fits(banks[1], fit, tuning, columns=3).axes[:3]]
    best, median, worst = np.sort(fit.r2)[::-1][[0, 4, 8]]
    assert titles == [f"best\nr² = {best:.2f}", f"median\nr² = {median:.2f}", f"worst\nr² = {worst:.2f}"]


def heights(axes, which):
    """Counts of a histogram: bars are patches of one container, an outline is one polygon."""
    return np.array([bar.get_height() for bar in axes.containers[which]])


def test_histograms_count_the_filters(fits):
    (fit_0, tuning_0), (fit_1, tuning_1) = fits
    figure = figures.tuning_distributions(fit_1, tuning_1, fit_0, tuning_0, pixels_per_degree=PPD)
    quality, orientation, frequency = figure.axes
    assert heights(quality, 0).sum() == 9
    assert heights(quality, 0)[10:].sum() == (fit_1.r2 >= 0.5).sum() == 6
    criterion = quality.lines[0].get_xdata()
    assert list(criterion) == [0.5, 0.5]
    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in orientation.containers[0]}
    assert {centre: n for centre, n in bars.items() if n} == {0: 1, 45: 2, 90: 3}
    [bar] = [bar for bar in frequency.containers[0] if bar.get_height()]
    assert bar.get_height() == 6
    assert bar.get_x() < 0.2 * PPD < bar.get_x() + bar.get_width()
    assert frequency.get_xscale() == "log"
    texts = [text.get_text() for text in orientation.get_legend().get_texts()]
    assert texts == ["after training\n(6 of 9)", "at initialisation\n(0 of 9)"]


def test_bars_just_below_180_degrees_are_counted_as_horizontal():
    bank = colour_gabor(0)[None]
    fit, tuning = fit_gabor(bank), grating_tuning(bank)
    tuning.orientation_deg[:] = 175.0
    first = figures.tuning_distributions(fit, tuning, fit, tuning).axes[1].containers[0][0]
    assert (first.get_x(), first.get_width(), first.get_height()) == (-7.5, 15.0, 1)


@pytest.mark.parametrize("frequency_cpp", [0.05, 0.5])
def test_every_sampled_frequency_lies_in_a_bin(frequency_cpp):
    bank = colour_gabor(0)[None]
    fit, tuning = fit_gabor(bank), grating_tuning(bank)
    tuning.frequency_cpp[:] = max(frequency_cpp, 0.5 / SIDE)
    assert heights(figures.tuning_distributions(fit, tuning, fit, tuning).axes[2], 0).sum() == 1


@pytest.mark.parametrize("size_px", [19, 20, 29])
def test_receptive_field_is_drawn_to_scale_in_the_middle(size_px):
    figure = figures.view_pairs(np.zeros((2, 2, 3, 29, 29)), size_px=size_px, pixels_per_degree=PPD)
    assert len(figure.axes) == 4
    for axes in figure.axes:
        [square] = axes.patches
        left, top, width, height = square.get_bbox().bounds
        assert (width, height) == (size_px, size_px)
        assert (left + width / 2, top + height / 2) == (14.5, 14.5)
        # The picture's pixels are the units of the axes.
        assert axes.images[0].get_extent() == [0, 29, 29, 0]
    [scale] = figure.axes[2].child_axes
    assert scale.get_xticks().tolist() == [0, 29 / PPD]
    FigureCanvasAgg(figure).draw()
    assert scale.get_xlim() == pytest.approx((0, 29 / PPD))


def test_views_are_clipped_and_grey_ones_are_grey():
    pairs = np.stack([np.full((1, 4, 4), 1.5), np.full((1, 4, 4), -0.5)])[None].astype(np.float16)
    first, second = (np.asarray(axes.images[0].get_array()) for axes in figures.view_pairs(pairs, size_px=3).axes)
    assert (first == 1).all()
    assert (second == 0).all()
    assert first.shape == (4, 4, 3)


def test_losses_are_drawn_as_they_are():
    lines = {**metrics(5), "decorrelation": [0.0, 1.0, 2.0, 3.0, 4.0]}
    [axes] = figures.loss_terms({"V1": lines}).axes
    assert axes.get_yscale() == "log"
    for line, name in zip(axes.lines, ("loss", "similarity", "decorrelation"), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), lines["step"])
        np.testing.assert_array_equal(line.get_ydata(), np.where(np.array(lines[name]) > 0, lines[name], np.nan))


def test_correlation_is_shown_from_minus_1_to_1():
    c = np.array([[0.5, -0.1], [0.2, 0.9]])
    image = figures.correlation_matrix({"V1": c}).axes[0].images[0]
    np.testing.assert_array_equal(image.get_array(), c)
    assert image.get_clim() == (-1, 1)
    figure = figures.correlation_matrix({"V1": c})
    assert figure.axes[0].get_title() == f"V1: diagonal mean 0.70,\nelsewhere root mean square {np.sqrt(0.025):.3f}"


def test_driving_patches_lie_by_unit_and_rank_with_the_receptive_field():
    patches = driving(2, 3, 32)
    axes = figures.driving_patches(patches, stage="V2", size_px=20).axes[0]
    canvas = np.asarray(axes.images[0].get_array())
    gap = 2
    top, left = gap + 1 * (32 + gap), gap + 2 * (32 + gap)
    shown = canvas[top : top + 32, left : left + 32].transpose(2, 0, 1)
    np.testing.assert_allclose(shown, patches[1, 2] / 255)
    assert len(axes.patches) == 6
    assert axes.patches[5].get_bbox().bounds == (left + 6, top + 6, 20, 20)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1", "2"]
    assert not figures.driving_patches(patches, stage="V2", size_px=32).axes[0].patches


def test_ablation_shows_every_seed_and_the_mean():
    table = runs()
    table[0]["gabor_fraction"] = None
    loss, fraction = figures.ablation(table).axes
    points = [line for line in loss.lines if line.get_linestyle() == "None"]
    means = [line for line in loss.lines if line.get_linestyle() == "-"]
    assert len(points) == len(means) == 8
    # First kind first, rules in their usual order whatever the order of the table.
    for k, level in enumerate((1.0, 2.0, 3.0, 4.0)):
        np.testing.assert_allclose(points[k].get_ydata(), [level, level + 0.1, level + 0.2])
        np.testing.assert_allclose(means[k].get_ydata(), level + 0.1)
        assert abs(points[k].get_xdata().mean() - k) < 0.25
    assert [text.get_text() for text in loss.get_xticklabels()] == ["matched", "under", "over", "reversed"]
    assert sum(len(line.get_xdata()) for line in fraction.lines if line.get_linestyle() == "None") == 23


def test_a_name_with_dollars_is_shown_as_it_is():
    name = r"$\frac{<b>$"
    for figure in (
        figures.loss_terms({name: metrics()}),
        figures.correlation_matrix({name: np.eye(3)}),
        figures.view_pairs(np.zeros((1, 2, 1, 5, 5)), size_px=3, title=name),
        figures.driving_patches(driving(), stage=name, size_px=20),
        figures.ablation([{"rule": name, "held_fixed": name, "seed": 0, name: 1.0}]),
    ):
        FigureCanvasAgg(figure).draw()
        assert any("frac" in text.get_text() for text in figure.findobj(mpl.text.Text))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.filters(np.zeros((2, 3, 5, 5)), np.zeros((3, 3, 5, 5))), "same shape"),
        (lambda: figures.filters(np.zeros((2, 2, 5, 5)), np.zeros((2, 2, 5, 5))), "1 or 3 channels"),
        (lambda: figures.view_pairs(np.zeros((2, 2, 3, 9, 9)), size_px=10), "does not fit"),
        (lambda: figures.view_pairs(np.zeros((2, 3, 9, 9)), size_px=9), r"\(pair, 2,"),
        (lambda: figures.loss_terms({}), "nothing to draw"),
        (lambda: figures.correlation_matrix({"V1": np.zeros((2, 3))}), "correlation of V1"),
        (lambda: figures.driving_patches(np.zeros((1, 1, 3, 9, 9)), stage="V2", size_px=9), "uint8"),
        (lambda: figures.ablation([{"rule": "matched", "held_fixed": "amplitude", "seed": 0}]), "no measure"),
    ],
)
def test_bad_input_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_fit_of_other_filters_is_refused(banks, fits):
    fit, tuning = fits[1]
    with pytest.raises(ValueError, match="expected"):
        figures.gabor_fits(banks[1][:5], fit, tuning)
    with pytest.raises(ValueError, match="tuning is of 5"):
        figures.gabor_fits(banks[1], fit, grating_tuning(banks[1][:5]))
