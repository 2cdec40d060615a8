import pytest
from hypothesis import given
from hypothesis import strategies as st

from stimuli.display import PIXELS_PER_DEGREE, degrees, pixels


def test_default_display_is_eight_degrees_across_224_px():
    assert PIXELS_PER_DEGREE == 28
    assert degrees(224) == 8
    assert pixels(8) == 224


def test_degrees_of_the_texture_images():
    # 320 px images shown at 4 degrees.
    assert degrees(320, 80) == 4
    assert pixels(4, 80) == 320


@given(st.floats(1e-3, 1e4), st.floats(0.1, 1e3))
def test_pixels_and_degrees_are_inverse(size_px, pixels_per_degree):
    assert pixels(degrees(size_px, pixels_per_degree), pixels_per_degree) == pytest.approx(size_px)
    assert degrees(2 * size_px, pixels_per_degree) == 2 * degrees(size_px, pixels_per_degree)


@pytest.mark.parametrize("convert", [degrees, pixels])
@pytest.mark.parametrize("bad", [0, -28.0, float("nan")])
def test_a_display_without_a_positive_resolution_is_refused(convert, bad):
    with pytest.raises(ValueError, match=f"pixels_per_degree is {bad}; expected a positive number"):
        convert(8, bad)
