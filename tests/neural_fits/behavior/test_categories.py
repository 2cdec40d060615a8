import numpy as np
import pytest

from neural_fits.behavior.categories import (
    CATEGORIES,
    category_choices,
    category_columns,
    category_members,
    category_probabilities,
    imagenet_classes,
)

# Well-known ImageNet outputs, from any published list of class names.
KNOWN = {"airplane": [404], "bear": [294, 295, 296, 297], "bicycle": [444, 671], "elephant": [385, 386], "knife": [499]}


def test_classes_are_sorted_wordnet_ids():
    classes = imagenet_classes()
    assert len(set(classes)) == 1000
    assert list(classes) == sorted(classes)
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in classes)
    # the ten classes of Imagenette: tench, springer, cassette player, chain saw, church, French horn, garbage truck ...
    ids = [
        "n01440764",
        "n02102040",
        "n02979186",
        "n03000684",
        "n03028079",
        "n03394916",
        "n03417042",
        "n03425413",
        "n03445777",
        "n03888257",
    ]
    assert [classes.index(name) for name in ids] == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def test_members_of_the_categories():
    members = category_members()
    assert tuple(members) == CATEGORIES == tuple(sorted(CATEGORIES))
    ids = [name for names in members.values() for name in names]
    assert len(ids) == len(set(ids)) == 207
    assert {name: len(names) for name, names in members.items()} == {
        "airplane": 1, "bear": 4, "bicycle": 2, "bird": 49, "boat": 5, "bottle": 7, "car": 3, "cat": 6, "chair": 4,
        "clock": 3, "dog": 109, "elephant": 2, "keyboard": 2, "knife": 1, "oven": 1, "truck": 8,
    }  # fmt: skip
    columns = category_columns()
    assert {name: columns[name].tolist() for name in KNOWN} == KNOWN
    assert columns["dog"].min() >= 151
    assert columns["dog"].max() <= 268


@pytest.mark.parametrize(("aggregation", "by_hand"), [("mean", np.mean), ("max", np.max), ("sum", np.sum)])
def test_aggregation_by_hand(aggregation, by_hand):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(1000), size=(2, 3))
    found = category_probabilities(probabilities, aggregation=aggregation)
    assert found.shape == (2, 3, 16)
    columns = category_columns()
    for i, name in enumerate(CATEGORIES):
        expected = [[by_hand([row[c] for c in columns[name]]) for row in block] for block in probabilities]
        assert np.allclose(found[..., i], expected)
    choices = category_choices(probabilities, aggregation=aggregation)
    assert (choices == np.array(CATEGORIES)[found.argmax(-1)]).all()


def test_order_of_classes_does_not_matter():
    probabilities = np.random.default_rng(1).dirichlet(np.ones(1000), size=4)
    order = np.random.default_rng(2).permutation(1000)
    classes = [imagenet_classes()[i] for i in order]
    found = category_probabilities(probabilities[:, order], classes=classes)
    assert np.allclose(found, category_probabilities(probabilities))


def test_categories_that_a_model_can_tell_apart():
    classes = ["n02102040", "n03417042", "n01440764"]
    members = {name: names for name, names in category_members().items() if name in ("dog", "truck")}
    assert category_choices([[0.1, 0.2, 0.7]], classes=classes, members=members).tolist() == ["truck"]
    with pytest.raises(ValueError, match="'airplane' has no class among the 3"):
        category_columns(classes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"probabilities": np.full((1, 1000), 2.0)}, "softmax"),
        ({"probabilities": np.full((1, 1000), np.nan)}, "softmax"),
        ({"probabilities": np.zeros((2, 16))}, "1000"),
        ({"probabilities": 0.5}, "1000"),
        ({"probabilities": np.zeros(1000), "aggregation": "median"}, "mean, max, sum"),
        ({"probabilities": np.zeros(2), "classes": ["a", "a"]}, "more than one column"),
    ],
)
def test_bad_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        category_probabilities(**wrong)
