import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, RidgeCV

from neural_fits.readouts import Linear, LocationRidge, SeparableRidge
from neural_fits.splits import kfold_splits


def maps(n=80, c=4, h=5, w=6, seed=0):
    return np.random.default_rng(seed).standard_normal((n, c, h, w))


def test_linear_on_given_units_is_least_squares():
    X = maps().reshape(80, -1)
    Y = X[:, :9] @ np.ones((9, 3)) + maps(seed=1).reshape(80, -1)[:, :3]
    theirs = LinearRegression().fit(X[:, [5, 2, 8]], Y)
    ours = Linear(units=[5, 2, 8]).fit(X, Y)
    assert np.allclose(ours.predict(X), theirs.predict(X[:, [5, 2, 8]]))
    assert np.allclose(ours.coef_, theirs.coef_)


@pytest.mark.parametrize("block_bytes", [8 * 80 * 7, 2**25])
def test_units_most_correlated_with_each_neuron(block_bytes):
    X = maps().reshape(80, -1)
    X[:, 3] = 2.0
    Y = X[:, [10, 40]] - 0.5 * X[:, [11, 41]] + 0.5 * maps(seed=1).reshape(80, -1)[:, :2]
    ours = Linear(n_units=4, block_bytes=block_bytes).fit(X, Y)
    alive = np.delete(np.arange(X.shape[1]), 3)
    for neuron in range(2):
        squared = np.array([np.corrcoef(X[:, i], Y[:, neuron])[0, 1] ** 2 for i in alive])
        expected = alive[np.argsort(-squared)[:4]]
        assert np.array_equal(ours.units_[neuron], expected)
        theirs = LinearRegression().fit(X[:, expected], Y[:, neuron])
        assert np.allclose(ours.predict(X)[:, neuron], theirs.predict(X[:, expected]))


def test_units_are_selected_inside_the_training_part():
    X, Y = maps().reshape(80, -1), maps(seed=1).reshape(80, -1)[:, :2]
    (train, test), *_ = kfold_splits(80, n_folds=4)
    (before,) = Linear(n_units=3).cross_predict(X, Y, [(train, test)])
    Y[test] = X[test, :2] * 100
    (after,) = Linear(n_units=3).cross_predict(X, Y, [(train, test)])
    assert np.array_equal(before, after)


@pytest.mark.parametrize("channels", [4, 90])
def test_location_is_the_best_of_ridge_at_every_place(channels):
    X = maps(n=60, c=channels, h=3, w=3)
    rng = np.random.default_rng(2)
    Y = np.stack([X[:, :4, 2, 1].sum(1), X[:, 1, 0, 2]], 1) + rng.standard_normal((60, 2))
    penalties = np.logspace(-1, 4, 8)
    ours = LocationRidge(penalties).fit(X, Y)
    for neuron in range(2):
        best = (-np.inf, None, None)
        for row in range(3):
            for column in range(3):
                fit = RidgeCV(penalties).fit(X[:, :, row, column], Y[:, neuron])
                if fit.best_score_ > best[0]:
                    best = (fit.best_score_, (row, column), fit)
        assert tuple(ours.location_[neuron]) == best[1]
        assert ours.penalty_[neuron] == best[2].alpha_
        assert np.isclose(ours.cv_error_[neuron], -best[0])
        row, column = best[1]
        assert np.allclose(ours.predict(X)[:, neuron], best[2].predict(X[:, :, row, column]))


@pytest.mark.parametrize("model", [LocationRidge(), SeparableRidge(n_rounds=2), LocationRidge(folds=4)])
def test_place_is_chosen_inside_the_training_part(model):
    X = maps()
    Y = X[:, :2, 1, 1] + maps(seed=1)[:, :2, 0, 0]
    (train, test), *_ = kfold_splits(80, n_folds=4)
    (before,) = model.cross_predict(X, Y, [(train, test)])
    Y[test] = 100 * X[test][:, :2, 4, 4]
    (after,) = model.cross_predict(X, Y, [(train, test)])
    assert np.array_equal(before, after)


def test_separable_weights_are_found():
    rng = np.random.default_rng(0)
    X = maps(n=400, seed=3)
    spatial = np.zeros((5, 6))
    spatial[1:4, 2:4] = [[0.5, 0.2], [1.0, 0.6], [0.4, 0.1]]
    channel = np.array([1.0, -0.5, 0.2, 0.0])
    y = np.einsum("nchw,hw,c->n", X, spatial, channel)
    ours = SeparableRidge(n_rounds=10).fit(X, np.stack([y + 0.01 * rng.standard_normal(400), X[:, 0, 4, 5]], 1))
    assert np.corrcoef(ours.spatial_[0].ravel(), spatial.ravel())[0, 1] > 0.99
    assert np.corrcoef(ours.coef_[0], channel)[0, 1] > 0.99
    assert np.allclose(np.linalg.norm(ours.spatial_.reshape(2, -1), axis=1), 1)
    assert np.unravel_index(ours.spatial_[1].argmax(), (5, 6)) == (4, 5)
    new = maps(n=200, seed=4)
    truth = np.einsum("nchw,hw,c->n", new, spatial, channel)
    one_place = LocationRidge().fit(X, y).predict(new)
    assert np.corrcoef(ours.predict(new)[:, 0], truth)[0, 1] > 0.99
    assert np.corrcoef(one_place, truth)[0, 1] < 0.9


def test_separable_is_never_worse_inside_the_training_part():
    X = maps()
    Y = X[:, :3, 1, 1] + 2 * maps(seed=1)[:, :3, 0, 0]
    assert (SeparableRidge().fit(X, Y).cv_error_ <= LocationRidge().fit(X, Y).cv_error_).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X, Y: LocationRidge().fit(X[:, :, 0, 0], Y), "height, width"),
        (lambda X, Y: SeparableRidge().fit(X, Y).predict(X[:, :2]), r"shape \(2, 5, 6\); expected \(4, 5, 6\)"),
        (lambda X, Y: LocationRidge().fit(np.where(X > 2, np.nan, X), Y), "NaN"),
        (lambda X, Y: Linear(n_units=0).fit(X.reshape(80, -1), Y), "n_units is 0"),
        (lambda X, Y: Linear(units=[999]).fit(X.reshape(80, -1), Y), "column numbers from 0 to 119"),
        (lambda X, Y: Linear(n_units=85).fit(X.reshape(80, -1), Y), "more than 85 training stimuli"),
        (lambda X, Y: Linear().fit(X.reshape(80, -1), Y).predict(Y), "2 columns"),
    ],
)
def test_bad_input_is_named(call, message):
    X = maps()
    with pytest.raises(ValueError, match=message):
        call(X, X[:, :2, 0, 0])


def test_splits_in_threads_give_what_one_thread_gives():
    rng = np.random.default_rng(4)
    X, Y = rng.standard_normal((60, 5, 4, 4)), rng.standard_normal((60, 7))
    splits = kfold_splits(60, n_folds=5)
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            model = LocationRidge()
            found.append((model.cross_predict(X, Y, splits), model.location_))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(np.concatenate(found[1][0]), np.concatenate(found[0][0]), rtol=1e-10)
    np.testing.assert_array_equal(found[1][1], found[0][1])
