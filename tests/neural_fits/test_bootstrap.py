import numpy as np
import pytest

from neural_fits.bootstrap import bootstrap, correlations, percentile_interval, resampled_counts, weighted_correlations


def test_weighted_correlations_equal_resampling():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 25, 4))
    counts = resampled_counts(25, n_resamples=6, seed=1)
    r = weighted_correlations(x + 1e3, 1e-3 * y, counts)
    for row, count in zip(r, counts, strict=True):
        drawn = np.repeat(np.arange(25), count.astype(int))
        assert np.allclose(row, [np.corrcoef(x[drawn, i], y[drawn, i])[0, 1] for i in range(4)], atol=1e-9)


def test_constant_is_undefined():
    x = np.random.default_rng(0).standard_normal((10, 2))
    y = np.tile([0.1 + 0.2, 1.0], (10, 1))
    assert np.isnan(correlations(x, y)).all()
    assert np.isnan(weighted_correlations(x, y, np.ones((3, 10)))).all()
    one_image = np.eye(10)[:2] * 10
    assert np.isnan(weighted_correlations(x, x, one_image)).all()


def test_groups_are_drawn_whole():
    counts = resampled_counts(12, n_resamples=50, seed=0, groups=np.repeat(np.arange(4), 3))
    assert (counts.reshape(50, 4, 3) == counts.reshape(50, 4, 3)[:, :, :1]).all()
    with pytest.raises(ValueError, match="2 labels"):
        resampled_counts(12, n_resamples=2, seed=0, groups=[1, 2])


def test_interval_of_the_mean_covers():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        x = rng.standard_normal(50)
        low, high = bootstrap(lambda rows, x=x: x[rows].mean(), 50, n_resamples=200, seed=seed)
        covered += low <= 0 <= high
    assert 86 <= covered <= 100


def test_undefined_values_are_left_out():
    assert percentile_interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()
    with pytest.raises(ValueError, match="confidence is 95"):
        percentile_interval(np.ones(3), confidence=95)
    with pytest.raises(ValueError, match="expected the same"):
        correlations(np.ones((3, 2)), np.ones((3, 1)))
