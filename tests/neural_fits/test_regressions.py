import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from neural_fits.regressions import REGRESSIONS
from neural_fits.splits import kfold_splits

MAPS = {"location_ridge", "separable"}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_every_regression_fits_predicts_and_cross_predicts(name):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 30, 2, 2))
    Y = X[:, :4, 1, 0] + 0.3 * rng.standard_normal((60, 4))
    X = X if name in MAPS else X.reshape(60, -1)
    model = REGRESSIONS[name](10) if name in ("pls", "linear") else REGRESSIONS[name]()
    splits = kfold_splits(60, n_folds=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        predictions = model.cross_predict(X, Y, splits)
        again = [model.fit(X[train], Y[train]).predict(X[test]) for train, test in splits]
    for predicted, refitted in zip(predictions, again, strict=True):
        assert np.allclose(predicted, refitted, atol=1e-8)
    predicted, measured = np.concatenate(predictions), np.concatenate([Y[test] for test in splits.test])
    assert all(np.corrcoef(predicted[:, i], measured[:, i])[0, 1] > 0.3 for i in range(4))
