import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge as SklearnKernelRidge
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeCV

from neural_fits.ridge import (
    KERNELS,
    KernelRidge,
    Ridge,
    choose_penalties,
    ridge_basis,
    ridge_basis_of_features,
    ridge_cv_errors,
    smallest_cv_error,
)
from neural_fits.splits import grouped_kfold_splits, kfold_splits

SHAPES = [(40, 100, 7), (100, 30, 7), (30, 30, 3), (50, 200, 1), (40, 20, 60), (31, 30, 5)]
PENALTIES = np.logspace(-2, 4, 9)


def data(n, p, q, *, noise=2.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) @ np.diag(np.arange(1.0, p + 1) ** -0.5) + rng.standard_normal(p)
    signal = X @ rng.standard_normal((p, q)) / 3
    return X, signal + noise * rng.standard_normal((n, q)) + rng.standard_normal(q)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_scikit_learn_leave_one_out(shape):
    X, Y = data(*shape)
    theirs = RidgeCV(PENALTIES, alpha_per_target=True).fit(X, Y)
    ours = Ridge(PENALTIES).fit(X, Y)
    assert np.array_equal(ours.penalty_, np.atleast_1d(theirs.alpha_))
    assert np.allclose(ours.coef_, np.atleast_2d(theirs.coef_), atol=1e-9)
    assert np.allclose(ours.predict(X), theirs.predict(X).reshape(Y.shape), atol=1e-9)


def plain_errors(X, Y, penalties, tests):
    """Refit for each fold and penalty."""
    errors = np.zeros((len(penalties), Y.shape[1]))
    for i, penalty in enumerate(penalties):
        for test in tests:
            train = np.setdiff1d(np.arange(len(X)), test)
            fit = SklearnRidge(penalty).fit(X[train], Y[train])
            errors[i] += ((fit.predict(X[test]).reshape(len(test), -1) - Y[test]) ** 2).sum(0)
    return errors / len(X)


@pytest.mark.parametrize("shape", [(30, 80, 4), (40, 12, 4), (20, 20, 2)])
@pytest.mark.parametrize("n_folds", [None, 2, 5, 7])
def test_held_out_errors_equal_refitting(shape, n_folds):
    X, Y = data(*shape)
    tests = np.arange(len(X))[:, None] if n_folds is None else kfold_splits(len(X), n_folds=n_folds).test
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    basis = ridge_basis(x, smallest_penalty=PENALTIES[0])
    folds = None if n_folds is None else [torch.from_numpy(test) for test in tests]
    errors = ridge_cv_errors(basis, y, torch.from_numpy(PENALTIES), folds=folds)
    assert np.allclose(errors.numpy(), plain_errors(X, Y, PENALTIES, tests), rtol=1e-7)


def test_duplicated_stimuli_and_dead_features():
    X, Y = data(30, 60, 4)
    X[10:15], X[:, 7] = X[:5], 0
    basis = ridge_basis(torch.from_numpy(X), smallest_penalty=PENALTIES[0])
    errors = ridge_cv_errors(basis, torch.from_numpy(Y), torch.from_numpy(PENALTIES))
    assert np.allclose(errors.numpy(), plain_errors(X, Y, PENALTIES, np.arange(30)[:, None]), rtol=1e-7)
    assert np.isfinite(Ridge().fit(X, Y).predict(X)).all()


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(20, 60),
    p=st.integers(2, 80),
    q=st.integers(40, 80),
    noise=st.sampled_from([1e-6, 0.1, 3.0]),
    folds=st.sampled_from([None, 4]),
    seed=st.integers(0, 999),
)
def test_float32_screening_decides_as_float64(n, p, q, noise, folds, seed):
    X, Y = data(n, p, q, noise=noise, seed=seed)
    penalties = torch.from_numpy(np.logspace(-6, 5, 12))
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    basis = ridge_basis(x, smallest_penalty=1e-6)
    tests = None if folds is None else [torch.from_numpy(test) for test in kfold_splits(n, n_folds=folds).test]
    error, index = smallest_cv_error(basis, y, penalties, folds=tests)
    full, full_index = ridge_cv_errors(basis, y, penalties, folds=tests).min(0)
    assert torch.allclose(error, full, rtol=1e-6)
    assert (index == full_index).double().mean() > 0.97  # ties of rounding only


def test_small_penalties_use_the_features_themselves():
    rng = np.random.default_rng(0)
    X = np.linalg.qr(rng.standard_normal((50, 10)))[0] * 10.0 ** -np.arange(0, 10)
    y = torch.from_numpy(X.sum(1, keepdims=True))
    basis = ridge_basis_of_features(torch.from_numpy(X), smallest_penalty=1e-20)
    singular = np.linalg.svd(X - X.mean(0), compute_uv=False)
    assert np.allclose(basis.eigenvalues.sqrt().numpy(), singular, rtol=1e-6)
    assert basis.U.shape == (50, 10)
    assert float(ridge_cv_errors(basis, y, torch.tensor([1e-20], dtype=torch.float64))) < 1e-10


@pytest.mark.parametrize("shape", [(40, 100, 5), (60, 20, 5)])
def test_missing_responses_fit_each_neuron_on_what_it_has(shape):
    X, Y = data(*shape)
    Y[:5, 0] = np.nan
    Y[3:9, [2, 4]] = np.nan
    ours = Ridge(PENALTIES).fit(X, Y)
    for neuron in range(5):
        rows = ~np.isnan(Y[:, neuron])
        alone = RidgeCV(PENALTIES).fit(X[rows], Y[rows, neuron])
        assert ours.penalty_[neuron] == alone.alpha_
        assert np.allclose(ours.predict(X)[:, neuron], alone.predict(X), atol=1e-8)
    splits = kfold_splits(shape[0], n_folds=4)
    for (train, test), predicted in zip(splits, Ridge(PENALTIES).cross_predict(X, Y, splits), strict=True):
        assert np.allclose(predicted, Ridge(PENALTIES).fit(X[train], Y[train]).predict(X[test]), atol=1e-8)


@pytest.mark.parametrize("model", [Ridge(), Ridge(folds=5), KernelRidge(kernel="rbf"), KernelRidge(kernel="quadratic")])
@pytest.mark.parametrize("shape", [(40, 100, 5), (60, 20, 5)])
def test_cross_predict_equals_fitting_each_part(model, shape):
    X, Y = data(*shape)
    splits = kfold_splits(shape[0], n_folds=3)
    together = model.cross_predict(X, Y, splits)
    for (train, test), predicted in zip(splits, together, strict=True):
        assert np.allclose(predicted, model.fit(X[train], Y[train]).predict(X[test]), atol=1e-8)


def test_test_part_does_not_change_the_penalty():
    X, Y = data(40, 100, 5)
    (train, test), *_ = kfold_splits(40, n_folds=4)
    model = Ridge()
    (before,) = model.cross_predict(X, Y, [(train, test)])
    penalty = model.penalty_.copy()
    Y[test] = 1e6
    (after,) = model.cross_predict(X, Y, [(train, test)])
    assert np.array_equal(penalty, model.penalty_)
    assert np.array_equal(before, after)


@pytest.mark.parametrize("folds", ["loo", 3])
def test_groups_left_out_whole(folds):
    X, Y = data(30, 60, 3)
    groups = np.repeat(np.arange(6), 5)
    tests = grouped_kfold_splits(groups, n_folds=6 if folds == "loo" else 3, seed=0).test
    best = PENALTIES[plain_errors(X, Y, PENALTIES, tests).argmin(0)]
    assert np.array_equal(Ridge(PENALTIES, folds=folds).fit(X, Y, groups=groups).penalty_, best)


def test_kernels_against_scikit_learn():
    X, Y = data(30, 12, 2)
    Xc = X - X.mean(0)
    for kernel, theirs in {
        "linear": SklearnKernelRidge(alpha=2.0, kernel="linear"),
        "cosine": SklearnKernelRidge(alpha=2.0, kernel="cosine"),
        "rbf": SklearnKernelRidge(alpha=2.0, kernel="rbf", gamma=1 / 30.0),
        "quadratic": SklearnKernelRidge(alpha=2.0, kernel="poly", degree=2, gamma=1 / 30.0, coef0=1),
    }.items():
        K = theirs._get_kernel(Xc)
        centring = np.eye(30) - 1 / 30
        dual = np.linalg.solve(centring @ K @ centring + 2.0 * np.eye(30), Y - Y.mean(0))
        expected = centring @ K @ centring @ dual + Y.mean(0)
        assert np.allclose(KernelRidge([2.0], kernel=kernel, scale=30.0).fit(X, Y).predict(X), expected), kernel
    assert set(KERNELS) == {"linear", "cosine", "rbf", "quadratic"}


def test_share_at_the_edge():
    X, Y = data(40, 100, 5)
    assert Ridge([1e9, 2e9]).fit(X, Y).at_edge_ == 1.0
    assert Ridge([3.0]).fit(X, Y).at_edge_ == 0.0


def test_one_penalty_and_one_neuron():
    X, Y = data(40, 100, 1)
    ours, theirs = Ridge([3.0]).fit(X, Y[:, 0]), SklearnRidge(3.0).fit(X, Y[:, 0])
    assert ours.predict(X).shape == (40,)
    assert np.allclose(ours.predict(X), theirs.predict(X))


def test_constant_neuron_and_constant_features():
    X, Y = data(30, 50, 3)
    Y[:, 1] = 4.0
    assert np.allclose(Ridge().fit(X, Y).predict(X)[:, 1], 4.0)
    flat = Ridge().fit(np.ones((30, 5)), Y)
    assert np.allclose(flat.predict(np.ones((2, 5))), Y.mean(0))


def test_float32_memory_map(tmp_path):
    X, Y = data(30, 300, 3)
    stored = np.memmap(tmp_path / "f", dtype=np.float32, mode="w+", shape=X.shape)
    stored[:] = X
    exact = Ridge(PENALTIES).fit(np.asarray(stored, dtype=np.float64), Y)
    blocks = Ridge(PENALTIES, block_bytes=8 * 30 * 50).fit(stored, Y)
    assert np.allclose(exact.coef_, blocks.coef_, atol=1e-12)


def test_default_penalties_follow_the_features():
    X, Y = data(40, 100, 5)
    assert np.allclose(Ridge().fit(1000 * X, Y).predict(1000 * X), Ridge().fit(X, Y).predict(X))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X, Y: Ridge([0.0, 1.0]), "expected positive finite"),
        (lambda X, Y: Ridge(folds="leave one out").fit(X, Y), "expected 'loo'"),
        (lambda X, Y: Ridge().fit(X, np.where(np.arange(20)[:, None] < 18, np.nan, Y)), "neuron 0 has 2 responses"),
        (lambda X, Y: Ridge().fit(X, np.where(np.arange(4) == 1, np.inf, Y)), "neuron 1 are infinite"),
        (lambda X, Y: Ridge().fit(X, Y[:5]), r"expected \(20 stimuli"),
        (lambda X, Y: Ridge().fit(X, Y).predict(X[:, 1:]), "49 columns; expected the 50 that"),
        (lambda X, Y: KernelRidge(kernel="cubic"), "expected one of linear"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*data(20, 50, 4))


def test_choice_from_one_candidate_needs_no_errors():
    X, Y = (torch.from_numpy(a) for a in data(20, 5, 2))
    basis = ridge_basis(X, smallest_penalty=1.0)
    chosen, error, _ = choose_penalties(basis, Y, np.array([7.0]))
    assert chosen.tolist() == [7.0, 7.0]
    assert error.tolist() == [0.0, 0.0]
