"""Probes against scikit-learn and closed forms, and what they find where the answer is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from neural_fits.vision_model import VisionModel
from vision_methods.dense_maps import picture_window, pixel_places
from vision_methods.probes import (
    PROBES,
    classify,
    clusterings,
    draw_pixels,
    fit_segmentation,
    interval_of_sums,
    place_maps,
)
from vision_methods.segments import (
    N_CLUSTERS,
    VOID,
    best_overlaps,
    clustering_masks,
    discovery_sums,
    mask_overlaps,
    mean_iou,
)

RNG = np.random.default_rng(0)
EYE = VisionModel(torch.nn.Identity(), "eye", input_px=32)


def points(n, spread, n_classes=4, width=6):
    labels = np.arange(n) % n_classes
    centres = np.random.default_rng(5).standard_normal((n_classes, width))
    return centres[labels] + spread * RNG.standard_normal((n, width)), labels


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_vote_as_in_scikit_learn(k):
    x, y = points(120, 1.5)
    held, truth = points(80, 1.5)
    found = classify(x, y, held, truth, probe="neighbours", n_neighbours=[k])
    reference = KNeighborsClassifier(k, metric="cosine").fit(x, y)
    assert (found.predicted == reference.predict(held)).all()
    assert found.accuracy == reference.score(held, truth)
    assert found.setting == k


def test_the_linear_probe_is_the_logistic_regression_of_scikit_learn():
    x, y = points(120, 1.5)
    held, truth = points(80, 1.5)
    found = classify(x, y, held, truth, penalties=[3.0])
    mean, deviation = x.mean(0), x.std(0)
    reference = LogisticRegression(C=1 / 3, max_iter=1000).fit((x - mean) / deviation, y)
    assert (found.predicted == reference.predict((held - mean) / deviation)).all()


@pytest.mark.parametrize("probe", PROBES)
def test_probes_find_what_is_there_and_nothing_where_nothing_is(probe):
    x, y = points(200, 0.05)
    assert classify(x, y, *points(100, 0.05), probe=probe).accuracy == 1
    found = classify(RNG.standard_normal((200, 6)), y, RNG.standard_normal((400, 6)), np.arange(400) % 4, probe=probe)
    low, high = found.interval
    assert low < 0.25 < high


@pytest.mark.parametrize("probe", PROBES)
def test_held_out_labels_do_not_change_the_answers(probe):
    x, y = points(80, 1.0)
    held, truth = points(40, 1.0)
    answers = [classify(x, y, held, labels, probe=probe).predicted for labels in (truth, RNG.permutation(truth))]
    assert (answers[0] == answers[1]).all()


def test_the_interval_of_accuracy_is_that_of_wilson():
    x, y = points(40, 0.01)
    truth = np.where(np.arange(40) < 30, y, (y + 1) % 4)
    found = classify(x, y, x, truth, probe="neighbours", n_neighbours=[1])
    n, p, z = 40, 0.75, 1.959963984540054
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose(found.interval, [centre - half, centre + half], rtol=1e-9)


def test_an_unknown_probe_is_refused():
    with pytest.raises(ValueError, match="probe is 'deep'; expected one of linear, neighbours"):
        classify(*points(8, 1), *points(8, 1), probe="deep")


def test_intervals_cover_the_ratio_that_pictures_are_drawn_from():
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(60):
        n = rng.integers(1, 9, 60)  # objects of a picture
        recovered = rng.binomial(n, 0.3)
        low, high = interval_of_sums(
            np.stack([recovered, n], 1), lambda s: s[:, 0] / s[:, 1], n_resamples=400, seed=seed
        )
        covered += low <= 0.3 <= high
    assert covered >= 50  # 57 expected


def test_intervals_of_a_mean_iou_hold_its_value():
    confusions = RNG.integers(0, 20, (30, 3, 3)) + 60 * np.eye(3, dtype=int)
    low, high = interval_of_sums(confusions, mean_iou)
    assert low < mean_iou(confusions.sum(0)) < high
    same = interval_of_sums(np.repeat(confusions[:1], 30, 0), mean_iou)
    np.testing.assert_allclose(same, mean_iou(confusions[0]), rtol=1e-12)


def test_pixels_are_drawn_once_each_and_never_void():
    labels = RNG.integers(-1, 3, (20, 20))
    drawn = draw_pixels(labels, 50, np.random.default_rng(0))
    assert len(set(drawn)) == 50
    assert (labels.ravel()[drawn] != VOID).all()
    assert len(draw_pixels(labels, 1000, np.random.default_rng(0))) == (labels != VOID).sum()


def test_a_linear_map_of_interpolated_features_is_the_interpolated_linear_map():
    maps = torch.randn(5, 6, 6)
    labels = np.arange(300) % 3
    features = RNG.standard_normal((300, 5)) + 2 * np.eye(5)[labels]
    probe = fit_segmentation(features, labels, np.arange(300) // 10, penalties=[1.0])
    places = pixel_places(24, 32, picture_window(24, 32, EYE))
    # independent: PyTorch's interpolation of the whole input, the rows of the picture, then the read-out's own formula
    whole = torch.nn.functional.interpolate(maps[None], (32, 32), mode="bilinear", align_corners=False)[0]
    inside = whole[:, 4:28].flatten(1).T.numpy()
    expected = probe.classes[(inside @ probe.weights.T + probe.bias).argmax(1)].reshape(24, 32)
    assert (probe.predict(maps, places) == expected).mean() > 0.999


def test_the_penalty_is_chosen_by_pictures_and_not_by_pixels():
    """Each picture has a mark of its own that says the class: worthless for other pictures, perfect within them."""
    n_pictures, n = 40, 12
    picture = np.repeat(np.arange(n_pictures), n)
    labels = np.repeat(RNG.integers(0, 2, n_pictures), n)
    marks = np.eye(n_pictures)[picture] + 0.01 * RNG.standard_normal((len(picture), n_pictures))
    assert fit_segmentation(marks, labels, picture, penalties=(1e-3, 1e5)).penalty == 1e5
    assert fit_segmentation(marks, labels, np.arange(len(picture)), penalties=(1e-3, 1e5)).penalty == 1e-3


def test_classes_that_are_held_out_alone_do_not_stop_the_choice():
    labels = np.arange(200) % 2
    labels[:10] = 7  # in the first picture alone
    features = RNG.standard_normal((200, 3)) + labels[:, None]
    for seed in range(6):
        assert fit_segmentation(features, labels, np.arange(200) // 10, seed=seed).classes.tolist() == [0, 1, 7]
    with pytest.raises(ValueError, match="1 picture; expected at least 2"):
        fit_segmentation(features, labels, np.zeros(200))


def shapes(size):
    """Three rectangles of their own colours on a ground, in a picture of any shape."""
    height, width = size
    labels = np.zeros(size, int)
    labels[: height // 3, : width // 2] = 1
    labels[height // 2 :, width // 4 : width // 2] = 2
    labels[height // 4 : height // 2, 3 * width // 4 :] = 3
    return labels


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (64, 40)])
def test_clusters_of_features_that_tell_objects_apart_recover_them(size):
    labels = shapes(size)
    window = picture_window(*size, EYE)
    maps = torch.zeros(4, 32, 32)
    top, left = window.top, window.left
    rows = np.arange(window.height) * size[0] // window.height
    columns = np.arange(window.width) * size[1] // window.width
    one_hot = np.moveaxis(np.eye(4)[labels[np.ix_(rows, columns)]], 2, 0)
    maps[:, top : top + window.height, left : left + window.width] = torch.from_numpy(one_hot)
    found = clusterings(maps, *size, window, side=32)
    assert [each.shape for each in found] == [size] * 8
    assert [each.max() + 1 for each in found[:3]] == [1, 2, 4]
    objects = labels == np.arange(1, 4)[:, None, None]
    best = best_overlaps(objects, found)
    assert best.min() > 0.9
    np.testing.assert_allclose(best, mask_overlaps(objects, clustering_masks(found)).max(1), rtol=1e-6)
    # the background around the picture is no cluster of its own
    assert found[0].min() == found[0].max() == 0


def test_clusters_of_places_are_as_equal_parts_and_no_more_than_places():
    window = picture_window(32, 32, EYE)
    found = clusterings(place_maps(16), 32, 32, window, spherical=False)
    assert [len(np.unique(each)) for each in found] == list(N_CLUSTERS)
    areas = np.bincount(found[2].ravel())
    assert areas.min() > 0.12 * 1024
    few = clusterings(torch.randn(3, 2, 2), 32, 32, window)
    assert [len(np.unique(each)) for each in few] == [1, 2, 4, 4, 4, 4, 4, 4]
    whole = best_overlaps(np.ones((1, 32, 32), bool), few)
    assert discovery_sums(whole).tolist() == [1, 1, 1]
