"""The table of alignment against the measures of two observers, formulas by hand and published shape biases."""

from itertools import combinations

import numpy as np
import pytest

from neural_fits.behavior.alignment import alignment_table, balanced_choices, held_out_choices
from neural_fits.behavior.categories import CATEGORIES
from neural_fits.behavior.measures import error_consistency, error_consistency_interval
from neural_fits.behavior.readout import LinearReadout, NeighbourReadout
from neural_fits.behavior.trials import read_experiment, trials_from_columns

KINDS = ("cat", "dog", "car")


def made(names, share, *, seed=0, n=8):
    """Observers who name the shape with a probability, else the texture or, rarely, a third category."""
    rng = np.random.default_rng(seed)
    columns = {key: [] for key in ("observer", "image", "category", "response", "condition")}
    for who, probability in zip(names, share, strict=True):
        for i in range(n):
            for shape in KINDS:
                for texture in KINDS:
                    other = 1 - probability
                    said = rng.choice([shape, texture, "car"], p=[probability, 0.9 * other, 0.1 * other])
                    row = (who, f"{shape}{i}-{texture}{i}", shape, said, "0")
                    for key, value in zip(columns, row, strict=True):
                        columns[key].append(value)
    return trials_from_columns(
        observer=columns["observer"],
        image=columns["image"],
        condition=columns["condition"],
        response=columns["response"],
        category=columns["category"],
    )


def test_every_number_is_that_of_the_measures_of_two_observers():
    people, models = made("abc", (0.9, 0.8, 0.7)), made(["net"], [0.3], seed=1)
    table = alignment_table(people, models, categories=KINDS, n_resamples=200)
    net = models.correct.values[0, :, 0]
    kappas = [error_consistency(net, people.correct.sel(observer=who).values[:, 0]) for who in "abc"]
    np.testing.assert_allclose(table.error_consistency.sel(observer="net"), kappas)
    assert table.mean_error_consistency.sel(observer="net").item() == pytest.approx(np.mean(kappas))
    pairs = [people.correct.sel(observer=list(pair)).values[..., 0] for pair in combinations("abc", 2)]
    among = [error_consistency(*pair) for pair in pairs]
    assert table.ceiling.item() == pytest.approx(np.mean(among))
    np.testing.assert_allclose(table.ceiling_range, [min(among), max(among)])
    conflict = models.category.values != models.texture.values
    said = models.response.values[0, :, 0]
    shape, texture = ((said == cue)[conflict].sum() for cue in (models.category.values, models.texture.values))
    assert table.shape_bias.sel(observer="net").item() == pytest.approx(shape / (shape + texture))
    assert table.cue_share.sel(observer="net").item() == pytest.approx((shape + texture) / conflict.sum())
    np.testing.assert_allclose(table.answered.sel(observer="net"), [(said == name).mean() for name in KINDS])
    assert table.category_accuracy.sel(observer="net", category="dog").item() == pytest.approx(
        net[models.category.values == "dog"].mean()
    )


def test_the_interval_with_one_partner_is_that_of_the_pair():
    people, models = made("ab", (0.9, 0.6)), made(["net"], [0.4], seed=1)
    table = alignment_table(people, models, categories=KINDS, n_resamples=400)
    a, b = people.correct.values[..., 0]
    of_pair = error_consistency_interval(a, b, n_resamples=400, seed=0)
    np.testing.assert_allclose(table.ceiling_interval, of_pair)
    np.testing.assert_allclose(table.mean_error_consistency_interval.sel(observer="a"), of_pair)
    low, high = table.shape_bias_interval.sel(observer="net").values
    assert low < table.shape_bias.sel(observer="net").item() < high


def test_what_cannot_be_compared_is_refused():
    people, models = made("ab", (0.9, 0.6)), made(["net"], [0.4])
    with pytest.raises(ValueError, match="there is one person"):
        alignment_table(people.isel(observer=[0]), models, categories=KINDS)
    with pytest.raises(ValueError, match="not all different"):
        alignment_table(people, models.assign_coords(observer=["a"]), categories=KINDS)
    renamed = models.assign_coords(image=[f"x{name}" for name in models.image.values])
    with pytest.raises(ValueError, match="share no image"):
        alignment_table(people, renamed, categories=KINDS)
    with pytest.raises(ValueError, match="no texture category"):
        alignment_table(people.drop_vars("texture"), models, categories=KINDS)


def test_the_prior_of_the_training_pictures_is_taken_out():
    rng = np.random.default_rng(0)
    labels = np.repeat(["common", "rare"], [180, 20])
    X = (labels == "rare")[:, None] * 1.0 + rng.standard_normal((200, 1))
    readout = LinearReadout([1.0]).fit(X, labels)
    shown = np.linspace(-1, 3, 400)[:, None]
    # both categories equally frequent: the border is half-way, at 0.5
    border = shown[(balanced_choices(readout, shown, labels) == "rare").argmax(), 0]
    plain = shown[(readout.predict(shown) == "rare").argmax(), 0]
    assert abs(border - 0.5) < 0.5
    assert plain > border + 0.5


def test_held_out_photographs_tell_no_more_than_chance_of_noise():
    rng = np.random.default_rng(0)
    photo = np.repeat(np.arange(40), 3)  # crops of a photograph are alike, its label is random
    X = rng.standard_normal((40, 30))[photo] + 0.01 * rng.standard_normal((120, 30))
    labels = rng.choice(["a", "b"], 40)[photo]

    def nearest():
        return NeighbourReadout([1])

    held = held_out_choices(nearest, X, labels, photo)
    assert held.balanced_accuracy < 0.7
    leaked = held_out_choices(nearest, X, labels, np.arange(120))
    assert leaked.accuracy == 1.0  # single crops held out: the photograph is recognised
    with pytest.raises(ValueError, match="there are 3 photographs"):
        held_out_choices(nearest, X[:9], labels[:9], photo[:9])


@pytest.mark.shared
def test_published_decisions_have_the_published_shape_biases(shared):
    networks = read_experiment(
        shared / "texture_vs_shape" / "raw-data" / "style-transfer-512-nomask-experiment-trained-CNNs"
    )
    people = read_experiment(shared / "model_vs_human" / "raw-data" / "cue-conflict", observers="subject-*")
    table = alignment_table(people, networks, n_resamples=20)
    assert table.attrs["n_images"] == 1280
    assert table.attrs["n_conflict"] == 1200
    assert table.category.values.tolist() == list(CATEGORIES)
    assert table.people_shape_bias.item() == pytest.approx(0.959, abs=5e-4)
    biases = dict(zip(table.observer.values.tolist(), table.shape_bias.values, strict=True))
    assert biases["alexnet"] == pytest.approx(0.253, abs=5e-4)
    assert biases["vgg16"] == pytest.approx(0.092, abs=5e-4)
    assert biases["resnet50"] == pytest.approx(0.221, abs=5e-4)
    assert biases["resnet50-train-60-epochs"] == pytest.approx(0.806, abs=5e-4)
