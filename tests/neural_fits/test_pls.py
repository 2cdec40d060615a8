import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cross_decomposition import PLSRegression
from sklearn.exceptions import ConvergenceWarning

from neural_fits.coordinates import check_responses, sample_coordinates
from neural_fits.pls import PLS, choose_n_components, pls_splits
from neural_fits.splits import kfold_splits

SHAPES = {
    "more features than stimuli": (60, 500, 10, 25),
    "more stimuli than features": (200, 40, 12, 20),
    "as many": (60, 60, 8, 15),
    "one neuron": (60, 300, 1, 10),
    "300 neurons": (60, 300, 300, 25),
    "300 neurons, many stimuli": (320, 400, 300, 10),
    "two stimuli more than components": (12, 90, 5, 9),
    "one component": (30, 100, 4, 1),
}


def data(n, p, q, *, decay=1.0, noise=1.0, seed=0):
    """Correlated features with a falling spectrum, and noisy linear responses."""
    rng = np.random.default_rng(seed)
    m = min(60, p)
    latent = rng.standard_normal((n, m)) * np.arange(1.0, m + 1) ** -decay
    X = latent @ rng.standard_normal((m, p)) + 0.3 * rng.standard_normal((n, p)) + rng.standard_normal(p)
    signal = latent @ rng.standard_normal((m, q))
    return X, signal + noise * signal.std(0) * rng.standard_normal((n, q)) + rng.standard_normal(q)


def sklearn_pls(X, Y, k, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return PLSRegression(k, scale=False, **options).fit(X, Y)


def ours(X, Y, k, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return PLS(k, **options).fit(X, Y)


def difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_scikit_learn(name, decay):
    n, p, q, k = SHAPES[name]
    X, Y = data(n + 7, p, q, decay=decay)
    X, new, Y = X[:n], X[n:], Y[:n]
    theirs, mine = sklearn_pls(X, Y, k), ours(X, Y, k)
    assert mine.n_components_ == k
    assert list(mine.n_iter_) == list(theirs.n_iter_)
    expected = theirs.predict(new).reshape(7, -1)
    assert difference(mine.predict(new), expected) < 1e-9
    assert difference(mine.coef_, theirs.coef_) < 1e-9
    assert difference(mine.predict(X), theirs.predict(X).reshape(n, -1)) < 1e-9


def test_attributes_equal_scikit_learn():
    X, Y = data(80, 300, 9)
    theirs, mine = sklearn_pls(X, Y, 8), ours(X, Y, 8)
    for name in ("x_weights_", "x_rotations_", "x_scores_", "y_loadings_", "coef_", "intercept_"):
        assert getattr(mine, name).shape == getattr(theirs, name).shape
        assert difference(getattr(mine, name), getattr(theirs, name)) < 1e-9, name


def test_duplicated_stimuli_and_dead_features():
    X, Y = data(60, 400, 20)
    X[10:20] = X[:10]
    X[:, 5:50] = 0
    X[:, 60] = 3.25
    Y[:, 4] = 0
    theirs, mine = sklearn_pls(X, Y, 20), ours(X, Y, 20)
    assert difference(mine.predict(X[:7] * 0.9), theirs.predict(X[:7] * 0.9)) < 1e-9
    assert np.isfinite(mine.coef_).all()
    assert np.array_equal(mine.coef_[4], np.zeros(400))


def test_first_neuron_constant_starts_from_the_next():
    X, Y = data(50, 200, 6)
    Y[:, :2] = 0
    assert difference(ours(X, Y, 5).predict(X), sklearn_pls(X, Y, 5).predict(X)) < 1e-9


@pytest.mark.parametrize("options", [{"tol": 1e-14, "max_iter": 5000}, {"tol": 1e-2}, {"max_iter": 3}])
def test_same_stopping_rule(options):
    X, Y = data(60, 300, 12)
    theirs, mine = sklearn_pls(X, Y, 6, **options), ours(X, Y, 6, **options)
    assert list(mine.n_iter_) == list(theirs.n_iter_)
    assert difference(mine.predict(X), theirs.predict(X)) < 1e-9


def test_stopped_iteration_is_said():
    X, Y = data(40, 100, 6)
    with pytest.warns(ConvergenceWarning, match=r"stopped after max_iter=2"):
        PLS(3, max_iter=2).fit(X, Y)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(8, 50),
    p=st.integers(8, 120),
    q=st.integers(1, 60),
    k=st.integers(1, 6),
    decay=st.sampled_from([0.0, 1.0, 2.0]),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    seed=st.integers(0, 10_000),
)
def test_equals_scikit_learn_at_random(n, p, q, k, decay, scale, seed):
    X, Y = data(n, p, q, decay=decay, seed=seed)
    theirs, mine = sklearn_pls(scale * X, Y, k), ours(scale * X, Y, k)
    assert difference(mine.predict(scale * X), theirs.predict(scale * X).reshape(n, q)) < 1e-9


def test_rotated_features_predict_the_same():
    X, Y = data(60, 150, 5)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((150, 150)))[0]
    assert difference(ours(X @ rotation, Y, 6).predict(X @ rotation), ours(X, Y, 6).predict(X)) < 1e-9


@pytest.mark.parametrize("kind", ["gram", "qr", "features"])
def test_coordinates_agree(kind):
    X, Y = data(50, 80, 6)
    mine = ours(X, Y, 6, coordinates=kind)
    assert mine.coordinates_ == kind
    assert difference(mine.predict(X), sklearn_pls(X, Y, 6).predict(X)) < 1e-9


def test_qr_taken_where_the_gram_has_lost_digits():
    rng = np.random.default_rng(0)
    n, p = 60, 300
    U = np.linalg.qr(rng.standard_normal((n, n)))[0]
    V = np.linalg.qr(rng.standard_normal((p, n)))[0]
    X = U * 10.0 ** -np.linspace(0, 7, n) @ V.T
    Y = U @ rng.standard_normal((n, 3))
    theirs, mine = sklearn_pls(X, Y, 20), ours(X, Y, 20)
    assert mine.coordinates_ == "qr"
    assert difference(mine.predict(X), theirs.predict(X)) < 1e-9
    assert ours(X, Y, 4).coordinates_ == "gram"
    everything = [np.arange(n)]
    in_gram, in_qr = (pls_splits(X, Y, everything, n_components=20, coordinates=c)[1][0] for c in ("gram", "qr"))
    assert in_gram.rounding.max() > 100 * in_qr.rounding.max()


def test_exhausted_features_stop():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 3)) @ rng.standard_normal((3, 200))
    Y = rng.standard_normal((30, 4))
    mine = ours(X, Y, 8)
    assert mine.n_components_ == 3
    least_squares = np.linalg.lstsq(X - X.mean(0), Y - Y.mean(0), rcond=None)[0]
    assert np.allclose(mine.predict(X), (X - X.mean(0)) @ least_squares + Y.mean(0))


def test_exhausted_responses_stop():
    X, _ = data(20, 50, 1)
    Y = X[:, :1].copy() * 0 + 3.0
    mine = ours(X, Y, 2)
    assert mine.n_components_ == 0
    assert np.array_equal(mine.predict(X), Y)


def test_all_components_in_one_pass():
    X, Y = data(60, 200, 7)
    mine = ours(X, Y, 8)
    for k in (1, 3, 8):
        assert difference(mine.predict(X, n_components=k), sklearn_pls(X, Y, k).predict(X)) < 1e-9


@pytest.mark.parametrize("shape", [(60, 300, 7), (90, 20, 7), (40, 100, 130)])
@pytest.mark.parametrize("n_folds", [2, 10])
def test_splits_share_one_gram(shape, n_folds):
    X, Y = data(*shape)
    splits = kfold_splits(shape[0], n_folds=n_folds, n_repeats=2, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        predictions = PLS(5).cross_predict(X, Y, splits)
    for (train, test), predicted in zip(splits, predictions, strict=True):
        assert difference(predicted, sklearn_pls(X[train], Y[train], 5).predict(X[test])) < 1e-9


def test_unsorted_and_partial_splits():
    X, Y = data(40, 200, 3)
    train, test = np.array([30, 2, 7, 11, 25, 3, 9, 14, 20, 33]), np.array([5, 1])
    (predicted,) = PLS(4).cross_predict(X, Y, [(train, test)])
    assert difference(predicted, sklearn_pls(X[train], Y[train], 4).predict(X[test])) < 1e-9


def test_float32_memory_map_and_tensor(tmp_path):
    X, Y = data(40, 700, 4)
    stored = np.memmap(tmp_path / "features.f32", dtype=np.float32, mode="w+", shape=X.shape)
    stored[:] = X
    expected = sklearn_pls(np.asarray(stored, dtype=np.float64), Y, 5).predict(np.asarray(stored, dtype=np.float64))
    small_blocks = ours(stored, Y, 5, block_bytes=8 * 40 * 64)
    assert difference(small_blocks.predict(stored), expected) < 1e-9
    tensor = torch.from_numpy(np.array(stored))
    assert difference(ours(tensor, torch.from_numpy(Y), 5).predict(tensor), expected) < 1e-9


def test_one_neuron_without_axis():
    X, Y = data(30, 50, 1)
    assert PLS(3).fit(X, Y[:, 0]).predict(X).shape == (30,)


def test_number_chosen_inside_the_training_part():
    X, Y = data(80, 200, 6, decay=1.5, noise=2.0)
    splits = kfold_splits(80, n_folds=4, seed=0)
    model = PLS([1, 3, 10, 25])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        before = model.cross_predict(X, Y, splits)
        chosen = model.n_components_.copy()
        changed = Y.copy()
        changed[splits.test[0]] = np.random.default_rng(5).standard_normal(changed[splits.test[0]].shape) * 100
        after = model.cross_predict(X, changed, splits)
    assert model.n_components_[0] == chosen[0]
    assert np.allclose(before[0], after[0], rtol=1e-8)
    # against plain refitting on the same inner folds
    train = splits.train[1]
    inner = kfold_splits(len(train), n_folds=5, seed=0)
    total = ((Y[train] - Y[train].mean(0)) ** 2).sum(0)
    scores = []
    for k in (1, 3, 10, 25):
        error = np.zeros(6)
        for rows, held_out in inner:
            fit = sklearn_pls(X[train[rows]], Y[train[rows]], k)
            error += ((fit.predict(X[train[held_out]]) - Y[train[held_out]]) ** 2).sum(0)
        scores.append(np.mean(1 - error / total))
    assert chosen[1] == (1, 3, 10, 25)[int(np.argmax(scores))]


def test_groups_stay_together_in_the_choice():
    X, Y = data(40, 100, 3)
    groups = np.repeat(np.arange(8), 5)
    coordinates = sample_coordinates(X)
    number = choose_n_components(coordinates, Y, [np.arange(40)], [1, 2], folds=8, groups=groups)
    assert number[0] in (1, 2)
    with pytest.raises(ValueError, match="expected 2 to 8 folds"):
        choose_n_components(coordinates, Y, [np.arange(40)], [1, 2], folds=9, groups=groups)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, Y: (X[:, :, None], Y), r"features have shape .*flatten"),
        (lambda X, Y: (np.where(np.arange(50) == 7, np.nan, X), Y), r"features 0 to 49 hold NaN"),
        (lambda X, Y: (X, Y[:-1]), r"responses have shape"),
        (lambda X, Y: (X, np.where(np.arange(4) == 2, np.nan, Y)), r"1 of 4 neurons .*neuron 2: 20 of 20"),
        (lambda X, Y: (X[:3], Y[:3]), r"n_components is 5; expected 1 to 3"),
    ],
)
def test_bad_input_is_named(change, message):
    X, Y = change(*data(20, 50, 4))
    with pytest.raises(ValueError, match=message):
        PLS(5).fit(X, Y)


def test_new_features_of_another_width():
    X, Y = data(20, 50, 4)
    with pytest.raises(ValueError, match="49 columns; expected the 50"):
        PLS(2).fit(X, Y).predict(X[:, :49])


def test_a_repeated_row_is_refused():
    X, Y = data(20, 50, 4)
    with pytest.raises(ValueError, match="same row twice"):
        pls_splits(X, Y, [np.array([0, 1, 1, 2])], n_components=2)


def test_missing_responses_name_the_neurons():
    Y = np.ones((4, 8))
    Y[:2, 3] = np.nan
    with pytest.raises(ValueError, match="neuron V1-17: 2 of 4"):
        check_responses(Y, 4, neuron_ids=[f"V1-{i + 14}" for i in range(8)])
