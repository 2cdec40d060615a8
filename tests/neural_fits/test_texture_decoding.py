import numpy as np
import pytest
from scipy.stats import poisson

from neural_fits.texture_decoding import (
    PSEUDO_COUNT,
    _likeliest,
    decoding,
    family_accuracy,
    poisson_counts,
    sample_accuracy,
)


def counts_of(family_sd, sample_sd, *, units=30, seed=0, shape=(6, 8, 12)):
    rng = np.random.default_rng(seed)
    log_rate = (
        0.5
        + family_sd * rng.standard_normal((shape[0], 1, 1, units))
        + sample_sd * rng.standard_normal((*shape[:2], 1, units))
    )
    return rng.poisson(np.exp(log_rate), size=(*shape, units))


def test_the_decoder_is_the_poisson_likelihood():
    rng = np.random.default_rng(0)
    means, trials = rng.gamma(2, 2, (5, 9)), rng.poisson(3, (40, 9))
    likelihood = poisson.logpmf(trials[:, None], means + PSEUDO_COUNT).sum(axis=2)
    assert np.array_equal(_likeliest(trials, means), likelihood.argmax(axis=1))


def test_chance_without_information():
    counts = counts_of(0, 0)
    assert family_accuracy(counts) == pytest.approx(1 / 6, abs=0.06)
    assert sample_accuracy(counts) == pytest.approx(1 / 8, abs=0.05)


def test_sample_differences_alone_tell_samples_but_not_families_apart():
    counts = counts_of(0, 1)
    assert sample_accuracy(counts) > 0.9
    assert family_accuracy(counts) < 0.4


def test_family_differences_alone_tell_families_but_not_samples_apart():
    counts = counts_of(1, 0)
    assert family_accuracy(counts) > 0.9
    assert sample_accuracy(counts) == pytest.approx(1 / 8, abs=0.05)


def test_leaving_every_sample_out_against_a_plain_loop():
    counts = counts_of(0.5, 0.5, units=4, shape=(3, 4, 5)).astype(float)
    rng = np.random.default_rng(7)
    fold = rng.random((3, 4)).argsort(axis=1) % 4
    right = 0
    for f in range(3):
        for s in range(4):
            kept = [[t for t in range(4) if fold[g, t] != fold[f, s]] for g in range(3)]
            means = np.stack([counts[g, kept[g]].mean(axis=(0, 1)) for g in range(3)])
            for trial in counts[f, s]:
                right += poisson.logpmf(trial, means + PSEUDO_COUNT).sum(axis=1).argmax() == f
    assert family_accuracy(counts, n_folds=4, seed=7) == right / 60


def test_accuracy_grows_with_the_population():
    growth = decoding(counts_of(0.6, 0.4, units=60), population_sizes=(1, 5, 20, 60, 500), n_draws=6)
    assert growth.population_size.values.tolist() == [1, 5, 20, 60]
    for name in ("family_accuracy", "sample_accuracy"):
        assert (np.diff(growth[name].mean("draw")) > 0).all()
    assert growth.attrs["family_chance"] == pytest.approx(1 / 6)


def test_the_same_seed_gives_the_same_numbers():
    counts = counts_of(0.5, 0.5, units=10)
    one, two, other = (decoding(counts, population_sizes=(4,), n_draws=3, seed=s) for s in (1, 1, 2))
    assert one.equals(two)
    assert not one.equals(other)


def test_model_counts_have_the_stated_means():
    responses = np.random.default_rng(0).gamma(2, 1, (4, 5, 11)) - 0.5
    counts = poisson_counts(responses, n_repeats=4000, median_maximum=5.0, spontaneous=0.1)
    rectified = np.maximum(responses, 0)
    expected = 0.1 + 5.0 * rectified / np.median(rectified.max(axis=(0, 1)))
    assert np.allclose(counts.mean(axis=2), expected, atol=0.25)
    assert np.allclose(counts.var(axis=2), expected, atol=0.1 + 0.15 * expected.max())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: family_accuracy(np.ones((2, 2, 3))), r"\(2, 2, 3\)"),
        (lambda: family_accuracy(np.full((2, 2, 2, 3), np.nan)), "missing or negative"),
        (lambda: family_accuracy(np.ones((2, 2, 2, 3))), "n_folds is 5; expected 2 to 2"),
        (lambda: sample_accuracy(np.ones((2, 2, 3, 3))), "n_folds is 5; expected 2 to 3"),
        (lambda: decoding(np.ones((2, 5, 5, 3)), population_sizes=(10,)), "do not fit 3 units"),
        (lambda: poisson_counts(np.zeros((2, 2, 2))), "none of 2 units responds"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
