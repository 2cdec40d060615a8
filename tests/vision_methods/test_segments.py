"""Objects, maps of classes and overlaps against pycocotools and scikit-learn, and limits known by hand."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO
from sklearn.metrics import confusion_matrix, jaccard_score

from vision_methods.segments import (
    LEVELS,
    N_CLUSTERS,
    VOID,
    Objects,
    best_overlaps,
    class_iou,
    classes_at,
    clustering_masks,
    confusion,
    discovery_sums,
    divided,
    mask_overlaps,
    mean_iou,
    object_masks,
    read_instances,
    semantic_map,
)

RNG = np.random.default_rng(0)


def write(folder, annotations, *, images=1, splits=(), size=(20, 30)):
    (folder / "images").mkdir()
    rows = []
    for i in range(images):
        Image.fromarray(np.full((*size, 3), i, np.uint8)).save(folder / "images" / f"{i}.png")
        rows.append({"id": i, "file_name": f"{i}.png", "height": size[0], "width": size[1]})
        rows[-1] |= {"split": splits[i]} if splits else {}
    names = [("cat", "animal"), ("dog", "animal"), ("car", "vehicle")]
    categories = [{"id": 10 * i, "name": name, "supercategory": group} for i, (name, group) in enumerate(names)]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": rows, "annotations": annotations, "categories": categories}))
    return file


def annotation(image, category, segmentation, crowd=0):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}


SQUARE = [[5, 5, 15, 5, 15, 15, 5, 15]]


def test_masks_of_polygons_run_lengths_and_codes_are_those_of_pycocotools():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 5:15] = True
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = {**code, "counts": code["counts"].decode()}
    column_major = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(column_major)) + 1
    runs = np.diff([0, *changes, mask.size]).tolist()
    found = object_masks([SQUARE, {"size": [20, 30], "counts": runs}, code, text], 20, 30)
    assert (found == mask).all()
    assert object_masks([], 20, 30).shape == (0, 20, 30)
    two = object_masks([[*SQUARE, [20, 0, 25, 0, 25, 5, 20, 5]]], 20, 30)
    assert two.sum() == 100 + 25


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [({"size": [30, 20], "counts": [600]}, "its size is"), ([], "no polygon"), ({"size": [20, 30]}, "counts")],
)
def test_a_segmentation_that_cannot_be_read_is_named(segmentation, said):
    with pytest.raises(ValueError, match=said):
        object_masks([segmentation], 20, 30)


def test_files_without_what_is_needed_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_instances(tmp_path / "none.json")
    file = tmp_path / "a.json"
    for content in ("nothing", "[]", '{"images": [], "annotations": []}'):
        file.write_text(content)
        with pytest.raises(ValueError, match="no file of annotated objects"):
            read_instances(file)
    file.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(ValueError, match="0 images and 0 categories"):
        read_instances(file)
    file = write(tmp_path, [annotation(0, 0, SQUARE)])
    (tmp_path / "images" / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"0\.png is missing"):
        read_instances(file)


def test_a_photograph_of_another_size_is_refused(tmp_path):
    images = read_instances(write(tmp_path, [annotation(0, 0, SQUARE)]))
    Image.new("RGB", (3, 3)).save(tmp_path / "images" / "0.png")
    with pytest.raises(ValueError, match="expected \\(20, 30\\) as annotated"):
        images.picture(0)


def test_splits_are_those_of_the_file_or_drawn_once(tmp_path):
    images = read_instances(write(tmp_path, [], images=4, splits=["train2017", "val2017", "train2017", "other"]))
    train, held = divided(images)
    assert [path.name for path in train.paths] == ["0.png", "2.png"]
    assert [path.name for path in held.paths] == ["1.png"]
    assert train.picture(1).max() == 2
    (tmp_path / "b").mkdir()
    images = read_instances(write(tmp_path / "b", [], images=10))
    train, held = divided(images, held_out=0.3, seed=1)
    assert len(train) == 7
    assert len(held) == 3
    assert not set(train.paths) & set(held.paths)
    with pytest.raises(ValueError, match="0 to judge by"):
        divided(images, held_out=0)


def test_classes_are_categories_groups_or_any_object(tmp_path):
    images = read_instances(write(tmp_path, [annotation(0, 20, SQUARE)]))
    assert images.objects(0).category.tolist() == [2]
    names = [classes_at(images, level) for level in LEVELS]
    assert [each.tolist() for _, each in names] == [[1, 2, 3], [1, 1, 2], [1, 1, 1]]
    assert names[1][0] == ("background", "animal", "vehicle")
    with pytest.raises(ValueError, match="level is 'stuff'"):
        classes_at(images, "stuff")


def test_a_map_of_classes_has_void_where_classes_meet_and_in_crowds():
    masks = np.zeros((4, 1, 8), bool)
    masks[0, 0, 0:3] = True  # cat
    masks[1, 0, 2:4] = True  # dog, of the same group
    masks[2, 0, 3:5] = True  # car
    masks[3, 0, 4:7] = True  # crowd
    objects = Objects(masks, np.array([0, 1, 2, 0]), np.array([0, 0, 0, 1], bool))
    assert semantic_map(objects, np.array([1, 1, 2])).tolist() == [[1, 1, 1, VOID, 2, VOID, VOID, 0]]
    assert semantic_map(objects, np.array([1, 2, 3])).tolist() == [[1, 1, VOID, VOID, 3, VOID, VOID, 0]]


def test_mean_iou_is_the_jaccard_score_of_scikit_learn_without_void():
    truth = RNG.integers(-1, 5, 3000)
    predicted = np.where(RNG.random(3000) < 0.5, np.maximum(truth, 0), RNG.integers(0, 5, 3000))
    known = truth != VOID
    found = confusion(truth.reshape(50, 60), predicted.reshape(50, 60), 5)
    assert (found == confusion_matrix(truth[known], predicted[known], labels=range(5))).all()
    expected = jaccard_score(truth[known], predicted[known], average=None)
    np.testing.assert_allclose(class_iou(found), expected, rtol=1e-12)
    np.testing.assert_allclose(mean_iou(found), expected.mean(), rtol=1e-12)
    np.testing.assert_allclose(mean_iou(np.stack([found, 2 * found])), expected.mean(), rtol=1e-12)
    np.testing.assert_allclose(mean_iou(found, [1, 3]), expected[[1, 3]].mean(), rtol=1e-12)
    # what is void in the truth may be called anything
    assert (confusion(truth, np.where(known, predicted, 4), 5) == found).all()


def test_classes_that_are_nowhere_do_not_count():
    matrix = np.zeros((3, 3), int)
    matrix[0, 0] = 4
    assert np.isnan(class_iou(matrix)).tolist() == [False, True, True]
    assert mean_iou(matrix) == 1
    matrix[0, 2] = 4  # called, though never there
    assert mean_iou(matrix) == 0.25
    assert mean_iou(matrix, [0, 1]) == 0.5


@pytest.mark.parametrize(("truth", "predicted"), [(2, 0), (0, 2), (0, VOID)])
def test_values_that_are_no_class_are_refused(truth, predicted):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        confusion(np.array([truth]), np.array([predicted]), 2)
    with pytest.raises(ValueError, match="expected the same"):
        confusion(np.zeros(2, int), np.zeros(3, int), 2)


def test_overlaps_are_those_of_pycocotools():
    masks = RNG.random((9, 30, 40)) < RNG.random((9, 1, 1))
    codes = [coco.encode(np.asfortranarray(each.astype(np.uint8))) for each in masks]
    expected = coco.iou(codes[:4], codes[4:], [0] * 5)
    np.testing.assert_allclose(mask_overlaps(masks[:4], masks[4:]), expected, rtol=1e-6)
    assert mask_overlaps(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 2), bool)).tolist() == [[0.0]]


def test_eight_clusterings_are_255_proposals_and_their_best_overlaps_agree():
    assert sum(N_CLUSTERS) == sum(2**j for j in range(8)) == 255
    labels = [RNG.integers(0, k, (30, 40)) for k in N_CLUSTERS]
    labels[3][labels[3] == 5] = 0  # a cluster that lost its pixels
    proposals = clustering_masks(labels)
    assert proposals.shape == (255, 30, 40)
    assert (proposals.sum(0) == len(N_CLUSTERS)).all()  # each clustering is a partition
    objects = RNG.random((6, 30, 40)) < 0.3
    np.testing.assert_allclose(best_overlaps(objects, labels), mask_overlaps(objects, proposals).max(1), rtol=1e-6)


def test_the_truth_as_proposals_recovers_everything():
    objects = RNG.random((5, 20, 20)) < 0.2
    overlap, recovered, n = discovery_sums(mask_overlaps(objects, objects).max(1))
    assert (overlap / n, recovered / n) == (1.0, 1.0)


def test_the_whole_picture_as_proposal_overlaps_by_the_share_of_the_area():
    objects = np.zeros((3, 10, 10), bool)
    objects[0, :6], objects[1, :5], objects[2, :1] = True, True, True  # 60, 50 and 10 % of the picture
    whole = np.zeros((10, 10), int)
    for best in (best_overlaps(objects, [whole]), mask_overlaps(objects, np.ones((1, 10, 10), bool)).max(1)):
        overlap, recovered, n = discovery_sums(best)
        np.testing.assert_allclose(overlap / n, 0.4)
        np.testing.assert_allclose(recovered / n, 1 / 3)  # a half is not more than a half


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_real_annotations_are_decoded_as_by_pycocotools(shared):
    file = shared / "coco_mini" / "instances.json"
    images, reference = read_instances(file), COCO(file)
    assert (len(images), len(images.categories)) == (159, 80)
    train, held = divided(images)
    assert (len(train), len(held)) == (80, 79)
    for index in range(0, len(images), 8):
        objects = images.objects(index)
        assert images.picture(index).shape[:2] == images.sizes[index]
        for mask, each in zip(objects.masks, images.annotations[index], strict=True):
            assert (mask == reference.annToMask(each).astype(bool)).all()
            assert abs(mask.sum() - each["area"]) <= 0.05 * each["area"] + 60 or each["iscrowd"]
