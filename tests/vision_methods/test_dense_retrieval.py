"""Dense tasks by retrieval, on made pictures whose answer is known, and on real masks."""

import numpy as np
import pytest
import torch

from neural_fits.baselines import alexnet, untrained
from neural_fits.vision_model import VisionModel
from vision_methods.cosine_search import exact
from vision_methods.dense_memory import RETRIEVALS, Retrieval, patch_labels, read_memory
from vision_methods.dense_retrieval import (
    SegmentedPictures,
    answers,
    as_square,
    colour,
    enlarged,
    evaluate,
    patch_ceiling,
    patch_features,
    predict,
    remember,
    squared_errors,
)
from vision_methods.segments import VOID, classes_at, divided, mean_iou, read_instances

PLAIN = Retrieval(neighbours=1, augmentations=0)
HUES = np.array([[40, 40, 40], [220, 30, 30], [30, 220, 30], [30, 30, 220]], np.uint8)


def scene(seed, height=48, width=64, n_classes=4):
    """Rectangles of the colours of their classes, a little noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), int)
    for k in range(1, n_classes):
        top, left = rng.integers(0, height - 16), rng.integers(0, width - 20)
        labels[top : top + rng.integers(12, 16), left : left + rng.integers(12, 20)] = k
    noise = rng.integers(-15, 16, (height, width, 3))
    return np.clip(HUES[labels].astype(int) + noise, 0, 255).astype(np.uint8), labels


def coded(side=16, input_px=64):
    """A model whose features tell every patch of every picture apart: a random linear map of its pixels."""
    weight = torch.randn(48, 3, input_px // side, input_px // side, generator=torch.Generator().manual_seed(0))
    convolution = torch.nn.Conv2d(3, 48, input_px // side, input_px // side, bias=False)
    convolution.weight.data = weight
    return VisionModel(torch.nn.Sequential(convolution), "coded", input_px=input_px, layers=("0",))


def test_colours_are_segmented_by_their_colour():
    prompts, queries = [scene(i) for i in range(6)], [scene(100 + i) for i in range(4)]
    found = evaluate(colour(64), ["colour"], prompts, queries, n_classes=4, retrieval=Retrieval(augmentations=1))
    assert found["colour"].grid == (28, 28)
    assert found["colour"].entries == 6 * 28 * 28
    assert mean_iou(found["colour"].sums.sum(0)) > 0.85
    assert (
        mean_iou(found["colour"].sums.sum(0)) <= mean_iou(patch_ceiling(queries, (28, 28), n_classes=4).sum(0)) + 0.02
    )
    # The colours of other classes: nothing can be right but by chance.
    wrong = [(picture, (labels + 1) % 4) for picture, labels in prompts]
    assert mean_iou(evaluate(colour(64), ["colour"], wrong, queries, n_classes=4)["colour"].sums.sum(0)) < 0.1


def test_pictures_that_are_remembered_get_their_own_patch_labels():
    """Self-retrieval: the ceiling of the grid, exactly, as shares of 16 pixels have no rounding in half precision."""
    pictures = [scene(i, 64, 64) for i in range(5)]
    found = evaluate(coded(), ["0"], pictures, pictures, n_classes=4, retrieval=PLAIN)["0"]
    assert np.array_equal(found.sums, patch_ceiling(pictures, (16, 16), n_classes=4))
    assert (found.grid, found.channels, found.entries, found.patches_per_view) == ((16, 16), 48, 5 * 256, 256)
    memories = remember(coded(), ["0"], pictures, n_classes=4, retrieval=PLAIN, dtype=torch.float32)
    soft = answers(coded(), memories, {"0": exact(memories["0"].keys)}, [pictures[3][0]], retrieval=PLAIN)["0"][0]
    own = patch_labels(pictures[3][1], (16, 16), n_classes=4)
    torch.testing.assert_close(soft.flatten(1).T, own)


def test_the_ceiling_is_reached_by_labels_that_are_whole_patches_and_falls_with_the_grid():
    labels = np.kron(np.random.default_rng(0).integers(0, 3, (4, 4)), np.ones((16, 16), int))
    fine = [(np.zeros((64, 64, 3), np.uint8), labels)]
    iou = [mean_iou(patch_ceiling(fine, (n, n), n_classes=3).sum(0)) for n in (64, 16, 4, 2)]
    assert iou[0] == 1
    assert iou[0] > iou[1] > iou[2] > iou[3]


def test_unknown_pixels_are_neither_remembered_nor_judged():
    picture, labels = scene(0)
    hidden = labels.copy()
    hidden[:, :32] = VOID
    found = evaluate(coded(), ["0"], [(picture, hidden)], [(picture, hidden)], n_classes=4, retrieval=PLAIN)["0"]
    assert found.entries == 16 * 8
    assert found.sums.sum() == 48 * 32


def test_depth_is_read_as_classes_are():
    rng = np.random.default_rng(0)

    def sloped(seed):
        picture = np.zeros((40, 56, 3), np.uint8)
        picture[:] = np.linspace(0, 255, 56)[None, :, None]
        picture = np.roll(picture, seed * 7, 1)
        depth = 1 + 4 * (picture[..., 0] / 255)
        return picture, np.where(rng.random(depth.shape) < 0.1, np.nan, depth)

    light = VisionModel(
        lambda x: {"light": torch.cat([x, torch.ones_like(x)], 1)}, "light", input_px=56, layers=("light",)
    )
    prompts, queries = [sloped(i) for i in range(4)], [sloped(5), sloped(6)]
    found = evaluate(light, ["light"], prompts, queries, n_classes=None, retrieval=RETRIEVALS["standard"])["light"]
    total, known = found.sums.sum(0)
    deviation = np.nanstd(np.stack([depth for _, depth in queries]))
    assert known == sum(np.isfinite(depth).sum() for _, depth in queries)
    assert np.sqrt(total / known) < 0.3 * deviation  # the step where the slope begins again is blurred
    image, depth = queries[0]
    predicted = predict(image, [p for p, _ in prompts], [d for _, d in prompts], model=light)
    assert predicted.shape == depth.shape
    assert 1 <= predicted.min() <= predicted.max() <= 5
    errors = [squared_errors(depth, predicted), found.sums[0]]
    np.testing.assert_allclose(*errors, rtol=1e-4)


def test_a_bounded_memory_holds_n_patches_of_each_view_rare_classes_first():
    prompts = []
    for i in range(4):
        labels = np.zeros((64, 64), int)
        labels[:8, :8] = 1  # four of 256 patches
        prompts.append((np.random.default_rng(i).integers(0, 256, (64, 64, 3)).astype(np.uint8), labels))
    retrieval = Retrieval(augmentations=2, capacity=4 * 2 * 20 + 7)
    memory = remember(coded(), ["0"], prompts, n_classes=2, retrieval=retrieval)["0"]
    assert retrieval.patches_per_picture(4) == 20
    assert len(memory) == 160
    plain = remember(coded(), ["0"], prompts, n_classes=2, retrieval=Retrieval(augmentations=0, capacity=80))["0"]
    assert len(plain) == 80
    # 4 of 256 patches have the rare class and a score of 4 against 252: nearly all are kept, where chance keeps a 13th.
    assert (plain.labels[:, 1] > 0).sum() >= 14


def test_the_seed_and_the_pictures_decide_and_nothing_else(tmp_path):
    prompts = [scene(i) for i in range(5)]
    options = {"n_classes": 4, "retrieval": Retrieval(augmentations=2, capacity=200)}
    first = remember(colour(64), ["colour"], prompts, batch_size=2, **options)["colour"]
    again = remember(colour(64), ["colour"], prompts, batch_size=7, folder=tmp_path, **options)["colour"]
    other = remember(colour(64), ["colour"], prompts, seed=1, **options)["colour"]
    assert torch.equal(first.keys, again.keys)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.keys, other.keys)
    assert torch.equal(read_memory(tmp_path / "colour").keys, first.keys)


def test_maps_are_enlarged_before_a_class_is_chosen():
    """A class that is second everywhere on the grid can be first between its places."""
    soft = torch.tensor([[[0.6, 0.0]], [[0.0, 0.6]], [[0.4, 0.4]]])
    assert enlarged(soft, 1, 8).argmax(0)[0].tolist() == [0, 0, 0, 2, 2, 1, 1, 1]
    torch.testing.assert_close(enlarged(soft, 1, 8).sum(0), torch.ones(1, 8))


def test_large_maps_are_averaged_and_small_ones_stay():
    pixels = as_square(scene(0)[0], 64)
    own = patch_features(colour(64), pixels, ["colour"], side=None)["colour"]
    assert own.shape == (1, 3, 64, 64)
    torch.testing.assert_close(own[0].movedim(0, 2), (pixels[0] - 0.5) / 0.5)
    small = patch_features(colour(64), pixels, ["colour"], side=16)["colour"]
    torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(own, 4))
    assert patch_features(coded(8), pixels, ["0"], side=16)["0"].shape == (1, 48, 8, 8)


def test_predictions_of_examples_are_those_of_predict():
    prompts, queries = [scene(i) for i in range(3)], [scene(100), scene(101, 30, 90)]
    found = evaluate(colour(64), ["colour"], prompts, queries, n_classes=4, retrieval=PLAIN, examples=[1])["colour"]
    assert list(found.examples) == [1]
    alone = predict(queries[1][0], [p for p, _ in prompts], [t for _, t in prompts], model=colour(64), retrieval=PLAIN)
    assert alone.shape == (30, 90)
    assert np.array_equal(found.examples[1], alone)


def test_faiss_finds_the_same():
    pytest.importorskip("faiss")
    prompts, queries = [scene(i) for i in range(3)], [scene(100)]
    options = {"n_classes": 4, "retrieval": Retrieval(neighbours=5, augmentations=0)}
    ours, flat = (
        evaluate(coded(), ["0"], prompts, queries, search=search, **options)["0"].sums
        for search in ("exact", "faiss-flat")
    )
    assert np.abs(ours - flat).sum() <= 4


def test_what_does_not_fit_is_refused():
    picture, labels = scene(0)
    with pytest.raises(ValueError, match="no prompts"):
        remember(colour(64), ["colour"], [], n_classes=2)
    with pytest.raises(ValueError, match="no queries"):
        evaluate(colour(64), ["colour"], [(picture, labels)], [], n_classes=4)
    with pytest.raises(ValueError, match="search is 'annoy'"):
        evaluate(colour(64), ["colour"], [(picture, labels)], [(picture, labels)], n_classes=4, search="annoy")
    with pytest.raises(ValueError, match=r"Prompt 0 has \(48, 64\) pixels and \(48, 63\) labels"):
        remember(colour(64), ["colour"], [(picture, labels[:, 1:])], n_classes=4)
    with pytest.raises(ValueError, match="2 prompts have 1 maps"):
        predict(picture, [picture, picture], [labels], model=colour(64))
    pooled = VisionModel(lambda x: {"mean": x.mean((2, 3))}, "pooled", input_px=64, layers=("mean",))
    with pytest.raises(ValueError, match="layer mean of pooled has no places"):
        remember(pooled, ["mean"], [(picture, labels)], n_classes=4)


@pytest.mark.shared
def test_objects_of_photographs_are_found_by_trained_features_better_than_by_random_ones(shared):
    images = read_instances(shared / "coco_mini")
    train, held = divided(images)
    names, class_of = classes_at(images, "foreground")
    prompts = SegmentedPictures(train.subset(range(12)), class_of)
    queries = SegmentedPictures(held.subset(range(12)), class_of)
    model = alexnet(shared / "models" / "alexnet_imagenet_conv.npz")
    scores = {}
    for each in (model, untrained(model, seed=0)):
        found = evaluate(each, ["conv5"], prompts, queries, n_classes=len(names), retrieval=Retrieval(augmentations=0))
        scores[each.name] = float(mean_iou(found["conv5"].sums.sum(0)))
    trained, random = scores.values()
    assert trained > random + 0.03
