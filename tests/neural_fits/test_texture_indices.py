import numpy as np
import pytest
from scipy.stats import f_oneway

from neural_fits.texture_indices import (
    by_family,
    mean_defined,
    modulation_index,
    sparseness,
    stabilised,
    variance_components,
    variance_ratio,
)


def gamma(seed, shape, mean=5.0):
    return np.random.default_rng(seed).gamma(4.0, mean / 4.0, size=shape)


def test_modulation_index_golden_values():
    index = modulation_index([3, 1, 2], [1, 1, 0])
    assert np.array_equal(index, [0.5, 0, 1])
    mean, undefined = mean_defined(index)
    assert mean == 0.5
    assert undefined == 0
    mean, undefined = mean_defined(modulation_index([3, 1, 2, 0], [1, 1, 0, 0]))
    assert mean == 0.5
    assert undefined == 1
    assert mean_defined(modulation_index([1, 1, 0], [3, 1, 2]))[0] == -0.5


def test_modulation_index_is_undefined_where_the_sum_is_not_positive():
    assert np.isnan(modulation_index([-1.0, 0.0, 1.0], [-2.0, 0.0, -1.0])).all()


def test_modulation_index_ignores_scale():
    t, n = gamma(0, (15, 7)), gamma(1, (15, 7))
    assert np.allclose(modulation_index(3 * t, 3 * n), modulation_index(t, n))


def test_modulation_index_names_differing_shapes():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        modulation_index([1, 2], [1, 2, 3])


def test_sparseness_golden_values():
    assert sparseness([1, 0, 0, 0]) == pytest.approx(1)
    assert sparseness([1, 1, 1, 1]) == 0
    assert sparseness([4, 2, 1, 1]) == pytest.approx(0.363636, abs=1e-6)
    assert np.isnan(sparseness([0, 0, 0]))


def test_sparseness_ignores_scale_and_order():
    r = gamma(0, (15, 15, 4))
    assert np.allclose(sparseness(7 * r, axis=(0, 1)), sparseness(r, axis=(0, 1)))
    assert np.allclose(sparseness(r.reshape(225, 4)[::-1]), sparseness(r, axis=(0, 1)))


def test_sparseness_needs_two_responses():
    with pytest.raises(ValueError, match="over 1 responses"):
        sparseness([[1.0, 2.0]])


def test_variance_ratio_golden_values():
    residual, sample, family = variance_components([[1, 3], [6, 8]])
    assert (residual, sample, family) == (0, 2, 11.5)
    assert variance_ratio([[1, 3], [6, 8]]) == pytest.approx(5.185022, abs=1e-6)
    repeated = [[[1, 2], [3, 5]], [[8, 9], [11, 12]]]
    assert [float(v) for v in variance_components(repeated, repeats=True)] == [0.875, 3.375, 24.375]
    assert variance_ratio(repeated, repeats=True) == pytest.approx(6.319823, abs=1e-6)
    assert variance_ratio([[1, 1], [5, 5]]) == pytest.approx(51)
    assert variance_ratio([[1, 3], [1, 3]]) == pytest.approx(0.0196078, abs=1e-7)
    assert np.isnan(variance_ratio([[2, 2], [2, 2]]))


def test_family_variance_agrees_with_a_one_way_analysis():
    x = gamma(0, (6, 9)) + np.arange(6)[:, None]
    _, sample, family = variance_components(x)
    assert (9 * family + sample) / sample == pytest.approx(f_oneway(*x).statistic)


def test_components_recover_the_variances_of_a_nested_model():
    rng = np.random.default_rng(0)
    x = (
        2.0 * rng.standard_normal((40, 1, 1, 500))
        + 1.0 * rng.standard_normal((40, 10, 1, 500))
        + 0.5 * rng.standard_normal((40, 10, 5, 500))
    )
    residual, sample, family = (v.mean() for v in variance_components(x, repeats=True))
    assert residual == pytest.approx(0.25, rel=0.02)
    assert sample == pytest.approx(1, rel=0.02)
    assert family == pytest.approx(4, rel=0.05)


def test_stabilised_makes_the_variance_of_poisson_counts_constant():
    rng = np.random.default_rng(0)
    variances = [stabilised(rng.poisson(rate, 40_000)).var() for rate in (3, 10, 30)]
    assert np.allclose(variances, 1, atol=0.08)
    with pytest.raises(ValueError, match="smallest spike count is -1"):
        stabilised([-1.0, 2.0])


def test_by_family_restores_any_order_and_leaves_other_types_out():
    rng = np.random.default_rng(0)
    t, n = rng.random((3, 4, 2)), rng.random((3, 4, 2))
    flat = np.concatenate([t.reshape(12, 2), n.reshape(12, 2), rng.random((2, 2))])
    family, sample = np.divmod(np.arange(12), 4)
    labels = {
        "type": np.array(["texture"] * 12 + ["noise"] * 12 + ["blank"] * 2),
        "family": np.r_[family, family, 0, 0],
        "sample": np.r_[sample, sample, 0, 0],
    }
    order = rng.permutation(26)
    texture, noise, families, samples = by_family(flat[order], **{k: v[order] for k, v in labels.items()})
    assert np.array_equal(texture, t)
    assert np.array_equal(noise, n)
    assert families.tolist() == [0, 1, 2]
    assert samples.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="0 pictures of texture, family 0, sample 0"):
        by_family(flat[1:24], **{k: v[1:24] for k, v in labels.items()})
