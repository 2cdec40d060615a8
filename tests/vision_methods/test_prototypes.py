"""Classifiers by sums over pictures."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from vision_methods.prototypes import ClassMeans, RanPAC, choose_ridge

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(120) % 6
FEATURES = torch.randn(120, 5, generator=GENERATOR) + torch.randn(6, 5, generator=GENERATOR)[LABELS]


def in_tasks(classifier, order):
    for classes in order:
        chosen = torch.isin(LABELS, torch.tensor(classes))
        classifier.add(FEATURES[chosen], LABELS[chosen])
    return classifier.scores(FEATURES)


def test_class_means_do_not_depend_on_order_or_split():
    joint = in_tasks(ClassMeans(5, 6), [list(range(6))])
    for order in ([[0, 1], [2, 3], [4, 5]], [[5], [4, 2, 0], [3, 1]]):
        torch.testing.assert_close(in_tasks(ClassMeans(5, 6), order), joint, rtol=0, atol=1e-12)
    shuffled = ClassMeans(5, 6)
    turned = torch.randperm(120, generator=GENERATOR)
    shuffled.add(FEATURES[turned], LABELS[turned])
    torch.testing.assert_close(shuffled.scores(FEATURES), joint, rtol=0, atol=1e-12)
    means = np.stack([FEATURES[c == LABELS].numpy().mean(0) for c in range(6)])
    x = FEATURES.numpy()
    cosines = x @ means.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(means, axis=1)
    np.testing.assert_allclose(joint, cosines, atol=1e-5)


def test_classes_not_seen_are_not_named():
    means = ClassMeans(5, 6)
    means.add(FEATURES[LABELS == 2], LABELS[LABELS == 2])
    assert (means.scores(-FEATURES).argmax(1) == 2).float().mean() > 0
    assert (means.scores(FEATURES)[:, [0, 1, 3, 4, 5]] == -1).all()


def test_doubled_features_name_the_same_classes():
    # First-task adaptation whose adapted branch equals the pretrained one.
    single, double = ClassMeans(5, 6), ClassMeans(10, 6)
    single.add(FEATURES, LABELS)
    double.add(FEATURES.repeat(1, 2), LABELS)
    torch.testing.assert_close(double.scores(FEATURES.repeat(1, 2)), single.scores(FEATURES), rtol=0, atol=1e-12)


def test_ranpac_is_joint_ridge_regression_whatever_the_order():
    projection = torch.randn(5, 40, generator=GENERATOR)

    def made():
        return RanPAC(5, 6, projections=40, penalty=3.0, projection=projection)

    joint = in_tasks(made(), [list(range(6))])
    for order in ([[0, 1], [2, 3], [4, 5]], [[5], [4, 2, 0], [3, 1]]):
        torch.testing.assert_close(in_tasks(made(), order), joint, rtol=0, atol=1e-9)
    projected = np.maximum(FEATURES.numpy() @ projection.numpy(), 0).astype(float)
    ridge = Ridge(3.0, fit_intercept=False).fit(projected, np.eye(6)[LABELS])
    np.testing.assert_allclose(joint, ridge.predict(projected), atol=1e-6)


def test_penalty_is_that_of_least_error_on_the_last_fifth():
    x = torch.randn(50, 20, generator=GENERATOR, dtype=torch.float64)
    y = x[:, :1] + 3 * torch.randn(50, 1, generator=GENERATOR, dtype=torch.float64)
    penalties = (0.01, 1.0, 30.0, 1000.0)
    errors = []
    for penalty in penalties:
        fit = Ridge(penalty, fit_intercept=False).fit(x[:40], y[:40])
        errors.append(np.square(fit.predict(x[40:]).ravel() - y[40:, 0].numpy()).mean())
    assert choose_ridge(x, y, penalties) == penalties[int(np.argmin(errors))]


def test_state_is_all_there_is():
    first = RanPAC(5, 6, projections=30, generator=GENERATOR)
    first.add(FEATURES[LABELS < 3], LABELS[LABELS < 3])
    other = RanPAC(5, 6, projections=30)
    other.load_state_dict(first.state_dict())
    for each in (first, other):
        each.add(FEATURES[LABELS >= 3], LABELS[LABELS >= 3])
    assert torch.equal(first.scores(FEATURES), other.scores(FEATURES))
    assert first.get_buffer("chosen").item() == pytest.approx(10 ** round(np.log10(first.get_buffer("chosen").item())))
