import numpy as np
import pytest
from scipy.stats import poisson

from neural_fits.curvature import TRANSFORMS, angle_deg, curvature_deg, turns, unbiased_products


def arc(degrees, n_frames=11, n_dims=20, step=1.0, seed=0):
    """Steps of equal length, each turned by so many degrees from the last towards a new direction at random."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(n_dims)
    direction /= np.linalg.norm(direction)
    frames = [np.zeros(n_dims)]
    for _ in range(n_frames - 1):
        frames.append(frames[-1] + step * direction)
        other = rng.standard_normal(n_dims)
        other -= other @ direction * direction
        other /= np.linalg.norm(other)
        direction = np.cos(np.radians(degrees)) * direction + np.sin(np.radians(degrees)) * other
    return np.array(frames)


@pytest.mark.parametrize("degrees", [0, 1e-5, 30, 90, 150, 180])
def test_curvature_of_a_trajectory_made_of_it(degrees):
    np.testing.assert_allclose(curvature_deg(arc(degrees)), degrees, atol=2e-6)


def test_curvature_of_a_polygon_is_its_outer_angle():
    turn = 2 * np.pi * np.arange(7) / 6
    np.testing.assert_allclose(curvature_deg(np.stack([np.cos(turn), np.sin(turn)], 1)), 60)


def test_curvature_does_not_change_with_rotation_scale_shift_or_reversal():
    x = np.random.default_rng(0).standard_normal((4, 11, 5))
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))[0]
    expected = curvature_deg(x)
    assert expected.shape == (4, 9)
    np.testing.assert_allclose(curvature_deg(7 - 3 * x @ rotation), expected)
    np.testing.assert_allclose(curvature_deg(x[:, ::-1]), expected[:, ::-1])
    np.testing.assert_allclose(curvature_deg(x[2]), expected[2])


def test_curvature_is_the_arc_cosine_of_products():
    x = np.random.default_rng(0).standard_normal((8, 5))
    d = np.diff(x, axis=0)
    cosine = (d[1:] * d[:-1]).sum(1) / np.linalg.norm(d[1:], axis=1) / np.linalg.norm(d[:-1], axis=1)
    np.testing.assert_allclose(curvature_deg(x), np.degrees(np.arccos(cosine)))


def test_noise_alone_has_120_degrees():
    assert curvature_deg(np.random.default_rng(0).standard_normal((40, 20000))).mean() == pytest.approx(120, abs=0.5)


def test_a_step_of_no_length_has_no_angle():
    np.testing.assert_allclose(curvature_deg([[0.0], [1.0], [1.0], [2.0], [1.0]]), [np.nan, np.nan, 180])


def test_products_of_different_repeats_by_hand():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 6, 3))
    x[1, 2, 0] = x[3, 5, 2] = x[3, 4, 2] = np.nan
    expected = np.zeros((4, 4))
    for s in range(4):
        for t in range(4):
            for neuron in range(3):
                terms = [x[s, r, neuron] * x[t, q, neuron] for r in range(6) for q in range(6) if r != q]
                expected[s, t] += np.nanmean(terms)
    np.testing.assert_allclose(unbiased_products(x), expected)


def test_products_are_unbiased_also_with_noise_that_frames_share():
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((4, 5))
    estimates = []
    for _ in range(3000):
        shared = rng.standard_normal((1, 6, 5))
        estimates.append(unbiased_products(mean[:, None] + rng.standard_normal((4, 6, 5)) + shared))
    error = np.std(estimates, axis=0) / len(estimates) ** 0.5
    assert (np.abs(np.mean(estimates, axis=0) - mean @ mean.T) < 4 * error).all()


def test_a_drift_that_all_frames_share_leaves_differences_alone():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 8, 3))
    drift = np.linspace(0, 3, 8)[None, :, None]
    for a, b in zip(turns(unbiased_products(x)), turns(unbiased_products(x + drift)), strict=True):
        # the drift meets the noise of the steps, which has no expectation: compare with its own size
        assert np.abs(a - b).max() < 10
    flat = np.broadcast_to(rng.standard_normal((5, 1, 3)), (5, 8, 3))
    for a, b in zip(turns(unbiased_products(flat)), turns(unbiased_products(flat + drift)), strict=True):
        np.testing.assert_allclose(a, b)


def test_turns_of_equal_steps_are_cosines():
    x = arc(40, step=3.0)
    product, length = turns(x @ x.T)
    np.testing.assert_allclose(length, 9)
    np.testing.assert_allclose(product / length, np.cos(np.radians(40)))
    batch = np.stack([x @ x.T, 4 * x @ x.T])
    np.testing.assert_allclose(turns(batch)[0], [product, 4 * product])


def test_angle_at_its_limits():
    np.testing.assert_allclose(angle_deg([2.0, -2.0, 0.0, 1.0, 1.0], [1, 1, 1, 0, -1]), [0, 180, 90, np.nan, np.nan])


@pytest.mark.parametrize("transform", sorted(TRANSFORMS))
@pytest.mark.parametrize("degrees", [20, 60, 100])
def test_curvature_of_poisson_counts_is_recovered(degrees, transform):
    """20 sequences, 40 neurons, 1 to 4 spikes a trial, 40 repeats: naive angles are far off, sums are not."""
    rng = np.random.default_rng(0)
    spikes = np.arange(60.0)
    sums, naive, truth = np.zeros(2), [], np.zeros(2)
    for seed in range(20):
        root = 1.5 + arc(degrees, n_dims=40, step=0.6, seed=seed)
        root = np.maximum(root - root.mean(0) + 1.5, 0.1)
        counts = rng.poisson(root[:, None] ** 2, (11, 40, 40)).astype(float)
        counts[rng.random(counts.shape) < 0.1] = np.nan
        x = TRANSFORMS[transform](counts)
        sums += [part.sum() for part in turns(unbiased_products(x))]
        naive.append(curvature_deg(np.nanmean(x, 1)))
        expected = (TRANSFORMS[transform](spikes)[:, None, None] * poisson.pmf(spikes[:, None, None], root**2)).sum(0)
        truth += [part.sum() for part in turns(expected @ expected.T)]
    assert sums[0] / sums[1] == pytest.approx(truth[0] / truth[1], abs=0.08)
    assert np.mean(naive) > angle_deg(*truth) + (20 if degrees < 90 else 2)
    if transform != "none":  # square roots of rates are what was bent
        assert angle_deg(*truth) == pytest.approx(degrees, abs=4)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="3 frames at least"):
        curvature_deg(np.ones((2, 3)))
    with pytest.raises(ValueError, match="missing or infinite"):
        curvature_deg([[0.0], [np.nan], [1.0]])
    with pytest.raises(ValueError, match=r"expected \(frame, repeat, neuron\)"):
        unbiased_products(np.ones((3, 4)))
    x = np.ones((3, 4, 2))
    x[1, 1:, 1] = np.nan
    with pytest.raises(ValueError, match="neuron 1 has fewer than two repeats"):
        unbiased_products(x)
