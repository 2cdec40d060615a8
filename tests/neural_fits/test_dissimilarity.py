import numpy as np
import pytest
from rsatoolbox.data import Dataset
from rsatoolbox.data.noise import prec_from_residuals
from rsatoolbox.rdm import calc_rdm
from scipy.spatial.distance import pdist

from neural_fits.dissimilarity import DISTANCES, dissimilarity, mean_patterns, noise_precision


def recorded(n=12, repeats=6, neurons=9, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.eye(neurons) + 0.3 * rng.standard_normal((neurons, neurons))
    signal = rng.standard_normal((n, 1, neurons))
    return signal[:, 0], signal + scale * rng.standard_normal((n, repeats, neurons)) @ mixing


def as_rsatoolbox(responses):
    n, repeats, neurons = responses.shape
    return Dataset(
        responses.reshape(-1, neurons),
        obs_descriptors={"stimulus": np.repeat(np.arange(n), repeats), "repeat": np.tile(np.arange(repeats), n)},
    )


@pytest.mark.parametrize(
    ("distance", "scipy_name"), [("correlation", "correlation"), ("cosine", "cosine"), ("euclidean", "sqeuclidean")]
)
def test_distances_of_means_are_those_of_scipy(distance, scipy_name):
    _, responses = recorded()
    expected = pdist(responses.mean(1), scipy_name) / (responses.shape[2] if distance == "euclidean" else 1)
    np.testing.assert_allclose(dissimilarity(responses, distance=distance), expected)
    np.testing.assert_allclose(dissimilarity(responses.mean(1), distance=distance), expected)


def test_mahalanobis_is_that_of_scipy():
    _, responses = recorded()
    precision = noise_precision(responses)
    expected = pdist(responses.mean(1), "mahalanobis", VI=precision) ** 2 / responses.shape[2]
    np.testing.assert_allclose(dissimilarity(responses, distance="mahalanobis"), expected)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # rsatoolbox, of integer descriptors
@pytest.mark.parametrize("distance", sorted(set(DISTANCES) - {"cosine"}))
def test_distances_are_those_of_rsatoolbox(distance):
    _, responses = recorded()
    precision = noise_precision(responses)
    kwargs = {"noise": precision} if distance in ("mahalanobis", "crossnobis") else {}
    if distance == "crossnobis":
        kwargs["cv_descriptor"] = "repeat"
    theirs = calc_rdm(as_rsatoolbox(responses), method=distance, descriptor="stimulus", **kwargs).get_vectors()[0]
    np.testing.assert_allclose(dissimilarity(responses, distance=distance), theirs)


def test_noise_precision_is_that_of_rsatoolbox():
    _, responses = recorded()
    residuals = (responses - responses.mean(1, keepdims=True)).reshape(-1, responses.shape[2])
    freedom = len(residuals) - len(responses)
    theirs = prec_from_residuals(residuals, dof=freedom, method="shrinkage_eye")
    np.testing.assert_allclose(noise_precision(responses), theirs)
    theirs = prec_from_residuals(residuals, dof=freedom, method="diag")
    np.testing.assert_allclose(noise_precision(responses, noise="diagonal"), theirs)


def test_noise_of_missing_repeats_is_that_of_the_repeats_there():
    _, responses = recorded()
    missing = responses.copy()
    missing[:, 4:] = np.nan
    np.testing.assert_allclose(noise_precision(missing), noise_precision(responses[:, :4]))
    missing[0, 3, 0] = np.nan  # one neuron of one trial: the trial leaves the covariance
    diagonal = noise_precision(missing, noise="diagonal")
    own = np.concatenate([responses[0, :3, 0] - responses[0, :3, 0].mean()])
    rest = responses[1:, :4, 0] - responses[1:, :4, 0].mean(1, keepdims=True)
    assert diagonal[0, 0] == pytest.approx(((len(rest) * 3) + 2) / ((own**2).sum() + (rest**2).sum()))


def test_crossnobis_is_unbiased_and_the_others_are_not():
    true, _ = recorded(n=6)
    expected = pdist(true, "sqeuclidean") / true.shape[1]
    rng = np.random.default_rng(1)
    estimates = {"crossnobis": [], "mahalanobis": []}
    for _ in range(600):
        responses = true[:, None] + 1.5 * rng.standard_normal((6, 4, true.shape[1]))
        for distance, values in estimates.items():
            values.append(dissimilarity(responses, distance=distance, noise=np.eye(true.shape[1])))
    error = np.std(estimates["crossnobis"], axis=0) / 600**0.5
    assert (np.abs(np.mean(estimates["crossnobis"], axis=0) - expected) < 4 * error).all()
    np.testing.assert_allclose(np.mean(estimates["mahalanobis"], axis=0) - expected, 2 * 1.5**2 / 4, rtol=0.2)


def test_crossnobis_of_the_same_response_is_zero_on_average_and_can_be_negative():
    rng = np.random.default_rng(0)
    values = np.array([dissimilarity(rng.standard_normal((20, 8, 10)), distance="crossnobis") for _ in range(50)])
    means = values.mean(1)
    assert 0.3 < (values < 0).mean() < 0.7
    assert abs(means.mean()) < 4 * means.std() / 50**0.5


def test_crossnobis_by_hand_of_two_folds():
    rng = np.random.default_rng(0)
    responses = rng.standard_normal((4, 5, 3))
    a, b = responses[:, ::2].mean(1), responses[:, 1::2].mean(1)
    ours = dissimilarity(responses, distance="crossnobis", noise=np.eye(3), n_folds=2)
    by_hand = [(a[i] - a[j]) @ (b[i] - b[j]) / 3 for i in range(4) for j in range(i + 1, 4)]
    np.testing.assert_allclose(ours, by_hand)


def test_crossnobis_does_not_depend_on_the_units_of_neurons():
    _, responses = recorded(repeats=30)
    scaled = responses * np.geomspace(0.1, 10, responses.shape[2])
    for noise in ("diagonal",):
        np.testing.assert_allclose(
            dissimilarity(responses, distance="crossnobis", noise=noise),
            dissimilarity(scaled, distance="crossnobis", noise=noise),
        )


def test_missing_repeats():
    _, responses = recorded()
    responses[:, 5] = np.nan
    np.testing.assert_allclose(dissimilarity(responses), dissimilarity(responses[:, :5]))
    with pytest.raises(ValueError, match="misses a stimulus in fold 5 of 6"):
        dissimilarity(responses, distance="crossnobis")
    with_two = dissimilarity(responses, distance="crossnobis", n_folds=2)
    assert np.isfinite(with_two).all()


def test_patterns_without_variance_have_no_correlation():
    d = dissimilarity([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    np.testing.assert_allclose(d, [np.nan, np.nan, 2])
    assert np.isnan(dissimilarity([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]], distance="cosine")[:2]).all()


def test_bad_input_is_refused():
    _, responses = recorded()
    with pytest.raises(ValueError, match="expected one of correlation"):
        dissimilarity(responses, distance="minkowski")
    with pytest.raises(ValueError, match=r"shape \(2, 4\)"):
        dissimilarity(np.ones((2, 4)))
    with pytest.raises(ValueError, match="n_folds is 9"):
        dissimilarity(responses, distance="crossnobis", n_folds=9)
    with pytest.raises(ValueError, match="2 repeats at least"):
        dissimilarity(responses[:, :1], distance="crossnobis")
    with pytest.raises(ValueError, match=r"noise has shape \(2, 2\)"):
        dissimilarity(responses, distance="crossnobis", noise=np.eye(2))
    with pytest.raises(ValueError, match="expected 'shrinkage' or 'diagonal'"):
        noise_precision(responses, noise="full")
    with pytest.raises(ValueError, match=r"expected \(stimulus, repeat, neuron\)"):
        noise_precision(responses[:, 0])
    with pytest.raises(ValueError, match="degrees of freedom"):
        noise_precision(responses[:, :1])
    constant = responses.copy()
    constant[..., 3] = 1
    with pytest.raises(ValueError, match="neuron 3 never varies"):
        noise_precision(constant)
    constant[2, :, 3] = np.nan
    with pytest.raises(ValueError, match="feature 3 has a stimulus without"):
        mean_patterns(constant)
