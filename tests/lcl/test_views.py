from dataclasses import fields, replace
from itertools import product
from math import ceil, pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.stats import chisquare, kstest, norm, uniform

from lcl.objective import average, barlow_twins
from lcl.receptive_field import patch_side
from lcl.stages import Stage
from lcl.views import (
    AMPLITUDE_RULES,
    NOISE_SLACK,
    Deformation,
    ViewParameters,
    choose_places,
    coordinates,
    draw,
    in_pixels,
    noise_table,
    reference_px,
    region_side,
    spline_basis,
    views,
)

#: Receptive fields of V1 and V2, and the sides of their patches.
GEOMETRY = [(19, 29), (67, 101)]
NONE = Deformation(translation=0, dilation=0, contrast=0, luminance=0, noise=0)
ALL = replace(NONE, translation=0.15, dilation=0.1, rotation=0.1, shear=0.08, elastic=0.05)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coordinate_image(batch, side):
    """Channel 0 holds x, channel 1 holds y, from the centre: bilinear reading returns exactly where it read."""
    axis = torch.arange(side) - (side - 1) / 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy")).expand(batch, 2, side, side)


def read_at(parameters, side_px, region_px):
    """Where each pixel of each view was read, measured on a coordinate image: (B, 2, P, P, xy)."""
    return views(coordinate_image(len(parameters.matrix), region_px), parameters, side_px).movedim(2, -1).numpy()


def drawn(deformation, size_px, side_px, reference=None, batch=64, seed=0, channels=2):
    """ViewParameters of a batch, and the side of their source regions."""
    amplitude = in_pixels(deformation, size_px, reference or size_px)
    region_px = region_side(side_px, amplitude)
    return draw(batch, amplitude, deformation, side_px, generator(seed), channels=channels), region_px


def patch_grid(side_px):
    axis = np.arange(side_px) - (side_px - 1) / 2
    return np.stack(np.meshgrid(axis, axis, indexing="xy"), -1)


def displacement(deformation, size_px, side_px, **options):
    parameters, region_px = drawn(deformation, size_px, side_px, **options)
    return read_at(parameters, side_px, region_px) - patch_grid(side_px), parameters


def worst_cases(amplitude):
    """ViewParameters at every combination of extremes, one per row."""
    turns = {s * min(amplitude.rotation_rad, limit) for s in (-1, 1) for limit in (pi / 4, pi / 2, 3 * pi / 4, pi)}
    cases = list(
        product((-1, 1), sorted(turns), (-1, 1), (-1, 1), (-1, 1), (-1, 1))  # dilation, angle, shears, shifts
    )
    scale, angle, shear_x, shear_y, x, y = (
        torch.tensor(column, dtype=torch.float32) for column in zip(*cases, strict=True)
    )
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    shearing = torch.eye(2).repeat(len(cases), 1, 1)
    shearing[:, 0, 1], shearing[:, 1, 0] = shear_x * amplitude.shear, shear_y * amplitude.shear
    matrix = torch.exp2(scale * amplitude.dilation_octaves)[:, None, None] * rotation @ shearing
    direction = torch.stack([x, y], -1)
    pair = (len(cases), 2)
    return ViewParameters(
        matrix=matrix[:, None].expand(*pair, 2, 2),
        shift_px=(direction * amplitude.translation_px)[:, None].expand(*pair, 2),
        control_px=(direction * amplitude.elastic_px)[:, None, :, None, None].expand(*pair, 2, 4, 4),
        gain=torch.ones(pair),
        offset=torch.zeros(*pair, 2),
        noise_start=0,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Geometry, measured on the coordinate image


@pytest.mark.parametrize(("size_px", "side_px"), GEOMETRY)
@pytest.mark.parametrize("name", ["none", "translation", "dilation", "rotation", "shear", "elastic", "all"])
def test_views_are_read_where_the_parameters_say(size_px, side_px, name):
    deformation = {"none": NONE, "all": ALL}.get(name) or replace(NONE, **{name: 0.12})
    parameters, region_px = drawn(deformation, size_px, side_px, batch=16)
    matrix, shift = parameters.matrix.double().numpy(), parameters.shift_px.double().numpy()
    expected = np.einsum("bvij,rcj->bvrci", matrix, patch_grid(side_px)) + shift[:, :, None, None]
    if parameters.control_px is not None:
        # scipy's cubic B-spline; the first and the last control point lie one spacing outside of the patch.
        at = np.linspace(1, parameters.control_px.shape[-1] - 2, side_px)
        rows, columns = np.meshgrid(at, at, indexing="ij")
        for b, v, axis in np.ndindex(16, 2, 2):
            control = parameters.control_px[b, v, axis].double().numpy()
            expected[b, v, :, :, axis] += map_coordinates(control, [rows, columns], order=3, prefilter=False)
    np.testing.assert_allclose(read_at(parameters, side_px, region_px), expected, atol=1e-4)
    relative = coordinates(parameters, side_px).numpy()
    np.testing.assert_allclose(relative, expected, atol=1e-4)


@pytest.mark.parametrize(("size_px", "side_px"), GEOMETRY)
def test_dilation_moves_by_factor_minus_one_times_radius(size_px, side_px):
    moved, parameters = displacement(replace(NONE, dilation=0.1), size_px, side_px)
    factor = parameters.matrix[..., 0, 0].numpy()
    radius = np.linalg.norm(patch_grid(side_px), axis=-1)
    np.testing.assert_allclose(
        np.linalg.norm(moved, axis=-1), np.abs(factor - 1)[..., None, None] * radius, atol=1e-4, rtol=1e-4
    )
    outwards = (moved * patch_grid(side_px)).sum(-1)
    assert (np.sign(outwards[..., 0, 0]) == np.sign(factor - 1)).all()
    # Half a receptive field from the centre the largest factor moves by 0.1 receptive fields.
    assert 1 / 1.2 <= factor.min() < 0.85
    assert 1.18 < factor.max() <= 1.2
    octaves = np.log2(factor).ravel() / np.log2(1.2)
    assert kstest(octaves, uniform(-1, 2).cdf).pvalue > 0.01


@pytest.mark.parametrize(("size_px", "side_px"), GEOMETRY)
def test_rotation_moves_by_angle_times_radius(size_px, side_px):
    moved, parameters = displacement(replace(NONE, rotation=0.05), size_px, side_px)
    angle = np.arctan2(parameters.matrix[..., 1, 0].numpy(), parameters.matrix[..., 0, 0].numpy())[..., None, None]
    radius = np.linalg.norm(patch_grid(side_px), axis=-1)
    length = np.linalg.norm(moved, axis=-1)
    np.testing.assert_allclose(length, 2 * np.abs(np.sin(angle / 2)) * radius, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(length, np.abs(angle) * radius, atol=1e-4, rtol=0.1**2 / 24 * 1.1)  # first order
    assert 0.095 < np.abs(angle).max() <= 0.1  # 0.05 receptive fields, half a field from the centre
    # Across the radius: x of a pixel straight below the centre moves, y does not to first order.
    below = moved[:, :, -1, side_px // 2]
    np.testing.assert_allclose(below[..., 0], -np.sin(angle[..., 0, 0]) * (side_px - 1) / 2, atol=1e-4)


@pytest.mark.parametrize(("size_px", "side_px"), GEOMETRY)
def test_shear_moves_along_each_axis_by_the_other(size_px, side_px):
    moved, parameters = displacement(replace(NONE, shear=0.1), size_px, side_px)
    grid, matrix = patch_grid(side_px), parameters.matrix.numpy()
    np.testing.assert_allclose(moved[..., 0], matrix[..., 0, 1][..., None, None] * grid[..., 1], atol=1e-4)
    np.testing.assert_allclose(moved[..., 1], matrix[..., 1, 0][..., None, None] * grid[..., 0], atol=1e-4)
    largest = np.abs(matrix[..., [0, 1], [1, 0]]).max() * size_px / 2
    assert 0.095 * size_px < largest <= 0.1 * size_px


@pytest.mark.parametrize(("size_px", "side_px"), GEOMETRY)
def test_translation_is_uniform_up_to_its_share_of_the_receptive_field(size_px, side_px):
    moved, _ = displacement(replace(NONE, translation=0.15), size_px, side_px, batch=200)
    assert np.ptp(moved, axis=(2, 3)).max() < 1e-4  # the same for every pixel of a view
    shift = moved[:, :, 0, 0] / (0.15 * size_px)
    assert np.abs(shift).max() <= 1 + 1e-5
    for axis in (0, 1):
        assert kstest(shift[..., axis].ravel(), uniform(-1, 2).cdf).pvalue > 0.01
    together = np.corrcoef(shift.reshape(200, 4), rowvar=False) - np.eye(4)
    assert np.abs(together).max() < 0.2  # axes and views are drawn independently


@pytest.mark.parametrize(("size_px", "side_px"), GEOMETRY)
@pytest.mark.parametrize("spacing", [0.3, 0.5, 2.0])
def test_the_elastic_field_is_bounded_and_smooth(size_px, side_px, spacing):
    deformation = replace(NONE, elastic=0.1, elastic_spacing=spacing)
    moved, parameters = displacement(deformation, size_px, side_px)
    bound = 0.1 * size_px
    assert 0.3 * bound < np.abs(moved).max() <= bound + 1e-4
    assert parameters.control_px is not None
    step = (side_px - 1) / (parameters.control_px.shape[-1] - 3)
    assert step <= spacing * size_px
    # The slope of a B-spline is at most the largest difference between neighbouring control points, here 2 bounds.
    for axis in (2, 3):
        assert np.abs(np.diff(moved, axis=axis)).max() <= 2 * bound / step + 1e-4
    assert moved.std((2, 3)).min() > 0  # it is local, not a shift
    extreme = parameters._replace(control_px=torch.full_like(parameters.control_px, bound))
    region_px = region_side(side_px, in_pixels(deformation, size_px, size_px))
    np.testing.assert_allclose(read_at(extreme, side_px, region_px) - patch_grid(side_px), bound, atol=1e-4)


@pytest.mark.parametrize(("side_px", "points"), [(1, 3), (2, 4), (29, 4), (29, 12), (101, 6)])
def test_spline_weights_are_positive_and_sum_to_one(side_px, points):
    basis = spline_basis(side_px, points)
    assert basis.shape == (side_px, points)
    assert (basis >= 0).all()
    torch.testing.assert_close(basis.sum(1), torch.ones(side_px))
    line = basis @ (torch.arange(points) - 1.0)  # a cubic B-spline reproduces straight lines
    torch.testing.assert_close(line, torch.linspace(0, points - 3, side_px), atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Amplitudes in units of the receptive field, and the rules of the ablation


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("matched", (19, 67, 131)),
        ("under", (19, 19, 19)),
        ("over", (131, 131, 131)),
        ("reversed", (131, 67, 19)),
        ("fixed:40", (40, 40, 40)),
        ("fixed:2.5", (2.5, 2.5, 2.5)),
    ],
)
def test_rules(rule, expected):
    assert tuple(reference_px(rule, [19, 67, 131], stage) for stage in range(3)) == expected


@pytest.mark.parametrize("rule", [*AMPLITUDE_RULES, "fixed:40"])
@pytest.mark.parametrize("family", ["translation", "dilation", "rotation", "shear", "elastic"])
def test_every_rule_sets_the_largest_displacement_in_pixels(rule, family):
    """At the edge of the stage's own receptive field, whatever the family and the side of the patch."""
    references = {"matched": (19, 67), "under": (19, 19), "over": (67, 67), "reversed": (67, 19), "fixed:40": (40, 40)}
    for stage, (size_px, side_px) in enumerate(GEOMETRY):
        amplitude = in_pixels(replace(NONE, **{family: 0.04}), size_px, reference_px(rule, [19, 67], stage))
        moved = read_at(worst_cases(amplitude), side_px, region_side(side_px, amplitude)) - patch_grid(side_px)
        largest = np.abs(moved[:, 0, side_px // 2, -1]).max()  # of the pixel furthest to the right of the centre
        if family in ("dilation", "rotation", "shear"):  # proportional to the distance from the centre
            largest *= (size_px / 2) / ((side_px - 1) / 2)
        # A rotation moves by the chord, up to 1.3 % less than its arc here.
        assert largest == pytest.approx(0.04 * references[rule][stage], rel=0.014 if family == "rotation" else 1e-4)


def test_matched_views_are_the_same_relative_to_the_receptive_field():
    small, large = (in_pixels(ALL, size, size) for size in (19, 67))
    assert small.translation_px / 19 == large.translation_px / 67 == pytest.approx(0.15)
    assert small.elastic_px / 19 == large.elastic_px / 67 == pytest.approx(0.05)
    assert small.elastic_spacing_px / 19 == large.elastic_spacing_px / 67 == pytest.approx(0.5)
    for name in ("dilation_octaves", "rotation_rad", "shear"):
        assert getattr(small, name) == pytest.approx(getattr(large, name))
    # A quarter of an octave and 0.15 receptive fields, as the default is documented.
    default = in_pixels(Deformation(), 19, 19)
    assert default.dilation_octaves == pytest.approx(0.25, abs=2e-3)
    assert (default.rotation_rad, default.shear, default.elastic_px) == (0, 0, 0)


@pytest.mark.parametrize(
    "rule", ["match", "fixed", "fixed:", "fixed:-3", "fixed:0", "fixed:nan", "fixed:inf", "fixed:x"]
)
def test_unknown_rules_are_refused(rule):
    with pytest.raises(ValueError, match=f"The amplitude rule is '{rule}'; expected"):
        reference_px(rule, [19, 67], 0)


@pytest.mark.parametrize("name", [field.name for field in fields(Deformation)])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_negative_and_infinite_amplitudes_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; expected a number of 0 or more"):
        Deformation(**{name: value})


def test_inverted_contrast_and_fields_without_spacing_are_refused():
    with pytest.raises(ValueError, match=r"contrast is 1\.5; expected at most 1"):
        Deformation(contrast=1.5)
    with pytest.raises(ValueError, match="elastic_spacing is 0; expected a positive"):
        Deformation(elastic_spacing=0)


# ---------------------------------------------------------------------------------------------------------------------
# No padding is ever seen


amplitudes = st.floats(0, 0.6)


@given(
    deformation=st.builds(
        lambda **values: replace(NONE, **values),
        translation=amplitudes,
        dilation=amplitudes,
        rotation=amplitudes,
        shear=amplitudes,
        elastic=amplitudes,
    ),
    size_px=st.integers(5, 70),
    ratio=st.floats(0.3, 3.6),
    patch=st.floats(1, 2),
)
@settings(max_examples=60, deadline=None)
def test_the_source_region_holds_every_possible_view(deformation, size_px, ratio, patch):
    side_px = patch_side(size_px, patch)
    amplitude = in_pixels(deformation, size_px, ratio * size_px)
    region_px = region_side(side_px, amplitude)
    assert (region_px - side_px) % 2 == 0  # the patch lies in the middle
    # An affine map reaches furthest from a corner of the patch; shift and local field can add up.
    corners = torch.tensor([[-1.0, -1, 1, 1], [-1, 1, -1, 1]]) * (side_px - 1) / 2
    affine = (worst_cases(amplitude).matrix @ corners).abs().max().item()
    room = (region_px - 1) / 2 - 1 - (affine + amplitude.translation_px + amplitude.elastic_px)
    rounding = 1e-6 * region_px
    assert room >= -rounding
    if amplitude.rotation_rad <= pi / 4:
        assert room < 1 + rounding  # and the region is no larger than that, up to a whole pixel


@pytest.mark.parametrize(("size_px", "side_px"), GEOMETRY)
@pytest.mark.parametrize("reference", [19, 67])
@pytest.mark.parametrize("name", ["translation", "dilation", "rotation", "shear", "elastic", "all"])
def test_no_pixel_of_a_view_comes_from_padding(size_px, side_px, reference, name):
    deformation = {"all": ALL}.get(name) or replace(NONE, **{name: 0.15})
    amplitude = in_pixels(deformation, size_px, reference)
    region_px = region_side(side_px, amplitude)
    worst = worst_cases(amplitude)
    where = coordinates(worst, side_px) + (region_px - 1) / 2
    assert where.min() >= 0
    assert where.max() <= region_px - 1
    # Padding would be 0 and darken a white picture.
    white = torch.ones(len(worst.matrix), 2, region_px, region_px)
    assert views(white, worst, side_px).min() > 1 - 1e-5
    random, _ = drawn(deformation, size_px, side_px, reference)
    assert views(white[:1].expand(64, 2, -1, -1), random, side_px).min() > 1 - 1e-5


# ---------------------------------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize(("size_px", "side_px"), GEOMETRY)
def test_zero_amplitude_gives_the_same_patch_twice(size_px, side_px):
    parameters, region_px = drawn(NONE, size_px, side_px, batch=12, channels=1)
    regions = torch.rand(12, 1, region_px, region_px, generator=generator())
    pair = views(regions, parameters, side_px)
    assert torch.equal(pair[:, 0], pair[:, 1])
    margin = (region_px - side_px) // 2
    torch.testing.assert_close(pair[:, 0], regions[:, :, margin:-margin, margin:-margin], atol=5e-5, rtol=0)
    stage = Stage(1, 8, kernel=11, stride=4, generator=generator()).eval()
    first, second = (average(stage(pair[:, view], valid=True)) for view in (0, 1))
    assert barlow_twins(first, second, weight=0.1).similarity.item() == pytest.approx(0, abs=1e-9)
    moved, _ = drawn(Deformation(), size_px, side_px, batch=12, channels=1)
    pair = views(torch.rand(12, 1, region_px + 40, region_px + 40, generator=generator()), moved, side_px)
    first, second = (average(stage(pair[:, view], valid=True)) for view in (0, 1))
    assert barlow_twins(first, second, weight=0.1).similarity.item() > 0.1


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_and_floats_give_the_same_views(channels):
    parameters, region_px = drawn(Deformation(), 19, 29, channels=channels)
    pixels = torch.randint(0, 256, (64, region_px, region_px, channels), dtype=torch.uint8, generator=generator())
    regions = pixels.permute(0, 3, 1, 2)  # channels last, as pictures are stored
    pair = views(regions, parameters, 29)
    assert pair.shape == (64, 2, channels, 29, 29)
    assert pair.dtype == torch.float32
    assert torch.equal(pair, views(regions / 255, parameters, 29))
    assert torch.equal(pair, views(regions.contiguous(), parameters, 29))


def test_views_agree_with_scipys_bilinear_reading():
    parameters, region_px = drawn(ALL, 19, 29, batch=4, channels=3)
    regions = torch.rand(4, 3, region_px, region_px, generator=generator())
    where = coordinates(parameters, 29).double().numpy() + (region_px - 1) / 2
    pair = views(regions, parameters, 29)
    for b, v, channel in np.ndindex(4, 2, 3):
        at = [where[b, v, ..., 1], where[b, v, ..., 0]]
        expected = map_coordinates(regions[b, channel].double().numpy(), at, order=1)
        np.testing.assert_allclose(pair[b, v, channel].numpy(), expected, atol=2e-5)


def test_grey_is_one_channel_of_colour():
    grey, region_px = drawn(Deformation(), 19, 29, channels=1)
    colour, _ = drawn(Deformation(), 19, 29, channels=3)
    regions = torch.rand(64, 1, region_px, region_px, generator=generator())
    pair = views(regions, grey, 29)
    assert pair.shape == (64, 2, 1, 29, 29)
    assert torch.equal(grey.matrix, colour.matrix)
    colour = colour._replace(gain=grey.gain, offset=grey.offset.expand(-1, -1, 3))
    torch.testing.assert_close(views(regions.expand(-1, 3, -1, -1), colour, 29), pair.expand(-1, -1, 3, -1, -1))


def test_parameters_for_another_number_of_channels_are_refused():
    parameters, region_px = drawn(Deformation(), 19, 29, batch=2, channels=3)
    with pytest.raises(ValueError, match="drawn for 3 channels, but the regions have 1"):
        views(torch.rand(2, 1, region_px, region_px), parameters, 29)


def test_contrast_is_about_the_patch_mean_and_luminance_shifts_it():
    deformation = replace(NONE, contrast=0.4, luminance=0.2)
    parameters, region_px = drawn(deformation, 19, 29, channels=3)
    plain = drawn(NONE, 19, 29, channels=3)[0]
    regions = torch.rand(64, 3, region_px, region_px, generator=generator())
    pair, original = views(regions, parameters, 29).double(), views(regions, plain, 29).double()
    mean, before = pair.mean((2, 3, 4)), original.mean((2, 3, 4))
    torch.testing.assert_close(mean - before, parameters.offset[..., 0].double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(pair.std((2, 3, 4)), original.std((2, 3, 4)) * parameters.gain, atol=1e-5, rtol=0)
    expected = (original - before[..., None, None, None]) * parameters.gain[..., None, None, None]
    torch.testing.assert_close(pair - mean[..., None, None, None], expected, atol=1e-5, rtol=0)
    # All channels move together, and both are uniform within their amplitudes.
    assert torch.equal(parameters.offset[..., 0], parameters.offset[..., 2])
    many = draw(2000, in_pixels(deformation, 19, 19), deformation, 29, generator(), channels=1)
    assert kstest(many.gain.ravel(), uniform(0.6, 0.8).cdf).pvalue > 0.01
    assert kstest(many.offset.ravel(), uniform(-0.2, 0.4).cdf).pvalue > 0.01


def test_colour_shifts_every_channel_on_its_own():
    deformation = replace(NONE, colour=0.1)
    parameters, region_px = drawn(deformation, 19, 29, batch=1000, channels=3)
    regions = torch.rand(1, 3, region_px, region_px, generator=generator()).expand(1000, -1, -1, -1)
    shift = views(regions, parameters, 29).mean((3, 4)) - regions[:1, :, 1:-1, 1:-1].mean((2, 3))
    torch.testing.assert_close(shift, parameters.offset, atol=1e-5, rtol=0)
    assert shift.abs().max() <= 0.1 + 1e-5
    assert kstest(shift.ravel(), uniform(-0.1, 0.2).cdf).pvalue > 0.01
    assert np.abs(np.corrcoef(shift.reshape(-1, 3), rowvar=False) - np.eye(3)).max() < 0.1


def test_noise_is_normal_and_added_as_it_is():
    table = noise_table(5000, generator())
    assert table.shape == (5000 + NOISE_SLACK,)
    assert torch.equal(table, noise_table(5000, generator()))
    assert kstest(table[:200_000], norm.cdf).pvalue > 0.01
    assert abs(np.corrcoef(table[:-1], table[1:])[0, 1]) < 0.005
    parameters, region_px = drawn(Deformation(), 19, 29, batch=8, channels=1)
    regions = torch.rand(8, 1, region_px, region_px, generator=generator())
    noise = 0.05 * torch.randn(8, 2, 1, 29, 29, generator=generator(1))
    assert torch.equal(views(regions, parameters, 29, noise=noise), views(regions, parameters, 29) + noise)


def test_every_batch_takes_another_run_of_the_noise():
    amplitude = in_pixels(NONE, 19, 19)
    starts = [draw(1, amplitude, NONE, 29, generator(seed)).noise_start for seed in range(200)]
    assert len(set(starts)) > 190
    assert 0 <= min(starts) < 0.1 * NOISE_SLACK
    assert 0.9 * NOISE_SLACK < max(starts) < NOISE_SLACK


# ---------------------------------------------------------------------------------------------------------------------
# Randomness is an argument


def test_the_same_generator_draws_the_same_parameters():
    torch.manual_seed(1)
    first, _ = drawn(ALL, 67, 101)
    torch.manual_seed(2)
    again, _ = drawn(ALL, 67, 101)
    other, _ = drawn(ALL, 67, 101, seed=1)
    assert isinstance(first.noise_start, int)
    for one, two in zip(first, again, strict=True):
        if isinstance(one, torch.Tensor):
            assert one.device.type == "cpu"
            assert torch.equal(one, two)
        else:
            assert one == two
    assert not torch.equal(first.matrix, other.matrix)
    assert not torch.equal(first.matrix[:, 0], first.matrix[:, 1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_sees_the_same_views():
    parameters, region_px = drawn(replace(ALL, contrast=0.2, luminance=0.1), 67, 101, channels=3)
    regions = torch.randint(0, 256, (64, 3, region_px, region_px), dtype=torch.uint8, generator=generator())
    moved = ViewParameters(*(value.cuda() if isinstance(value, torch.Tensor) else value for value in parameters))
    torch.testing.assert_close(
        views(regions.cuda(), moved, 101).cpu(), views(regions, parameters, 101), atol=1e-3, rtol=0
    )


# ---------------------------------------------------------------------------------------------------------------------
# Where patches lie


def images_of(count, seed=0, low=60, high=300):
    return np.random.default_rng(seed).integers(low, high, (count, 2))


def inside(places, sizes, region_px):
    assert places.image.min() >= 0
    assert places.top.min() >= 0
    assert places.left.min() >= 0
    assert (places.top + region_px <= sizes[places.image, 0]).all()
    assert (places.left + region_px <= sizes[places.image, 1]).all()


@pytest.mark.parametrize(("images", "batch"), [(64, 64), (300, 64), (1, 1)])
def test_patches_come_from_different_images_where_there_are_enough(images, batch):
    sizes = images_of(images)
    seen = set()
    for seed in range(40):
        places = choose_places(sizes, batch, 40, generator(seed))
        assert len(places.image) == len(set(places.image.tolist())) == batch
        assert places.least_distance_px == float("inf")
        inside(places, sizes, 40)
        seen |= set(places.image.tolist())
    assert seen == set(range(images))


def nearest(places):
    """Chebyshev distance of the two closest patches of one image."""
    least = float("inf")
    for image in np.unique(places.image):
        corner = np.stack([places.top, places.left], 1)[places.image == image]
        apart = np.abs(corner[:, None] - corner).max(-1)
        apart[np.diag_indices(len(apart))] = 10**9
        least = min(least, apart.min() if len(apart) > 1 else least)
    return least


@pytest.mark.parametrize(
    ("sizes", "batch", "region_px"),
    [
        (np.full((12, 2), 512), 256, 40),
        (images_of(12), 100, 40),
        (images_of(12), 25, 60),
        (np.array([[400, 50], [50, 400], [300, 300]]), 50, 45),
        (np.array([[64, 64], [500, 700]]), 3, 60),
        (np.array([[50, 50]]), 30, 45),
    ],
)
def test_patches_of_one_image_keep_their_distance(sizes, batch, region_px):
    extra = set()
    for seed in range(60):
        places = choose_places(sizes, batch, region_px, generator(seed))
        inside(places, sizes, region_px)
        counts = np.bincount(places.image, minlength=len(sizes))
        assert counts.sum() == batch
        assert np.ptp(counts) <= 1  # an even deal
        extra |= set(np.flatnonzero(counts == counts.max()).tolist())
        assert nearest(places) >= places.least_distance_px
    assert extra == set(range(len(sizes)))  # chance decides who gives one more


def test_the_distance_is_a_fair_share_of_the_image():
    # 22 patches in 473 x 473 places: a perfect square grid would keep 101 px, half of it is promised.
    places = choose_places(np.full((12, 2), 512), 256, 40, generator())
    assert 0.4 * 473 / 22**0.5 < places.least_distance_px <= 0.5 * 473 / 22**0.5


def test_more_patches_than_places_still_works():
    places = choose_places(np.array([[41, 41]]), 9, 40, generator())
    assert places.least_distance_px == 0
    inside(places, np.array([[41, 41]]), 40)
    assert choose_places(np.array([[40, 40]]), 2, 40, generator()).top.tolist() == [0, 0]


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_every_place_can_be_drawn(batch):
    count = np.zeros((4, 6), dtype=int)
    for seed in range(400):
        places = choose_places(np.array([[43, 45]]), batch, 40, generator(seed))
        np.add.at(count, (places.top, places.left), 1)
    assert count.min() > 0
    if batch == 1:
        assert chisquare(count.ravel()).pvalue > 0.01


def test_the_same_generator_chooses_the_same_places():
    for images in (12, 100):
        first, again, other = (choose_places(images_of(images), 64, 40, generator(seed)) for seed in (3, 3, 4))
        for name in ("image", "top", "left"):
            np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert (first.top != other.top).any()


def test_images_smaller_than_a_region_are_refused():
    sizes = np.array([[100, 100], [100, 39], [100, 100]])
    with pytest.raises(ValueError, match="The smallest side among 3 images is 39 px; expected at least the 40 px"):
        choose_places(sizes, 2, 40, generator())
    choose_places(sizes, 2, 39, generator())
    with pytest.raises(ValueError, match="There are 0 images"):
        choose_places(np.empty((0, 2), dtype=int), 2, 40, generator())


def test_the_margin_is_a_whole_number_of_pixels():
    amplitude = in_pixels(replace(NONE, translation=0.15), 20, 20)
    assert region_side(29, amplitude) == 29 + 2 * ceil(3 + 1)
    assert region_side(29, in_pixels(NONE, 20, 20)) == 31
