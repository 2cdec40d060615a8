import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from neural_fits.presentations import count_repeats, place_presentations, presented, sort_presentations


@given(ids=st.lists(st.sampled_from("abc"), min_size=1, max_size=20))
def test_repeats_are_counted_in_order(ids):
    assert count_repeats(ids).tolist() == [ids[:place].count(each) for place, each in enumerate(ids)]


@given(
    responses=arrays(
        float, array_shapes(min_dims=3, max_dims=4, max_side=4), elements=st.sampled_from([np.nan, 0.0, 1.0])
    )
)
@settings(max_examples=100, deadline=None)
def test_trial_by_trial_and_back_loses_nothing(responses):
    row, column = presented(responses)
    order = np.random.default_rng(0).permutation(len(row))
    ids, repeats, row_again, column_again = place_presentations(row[order], column[order])
    sorted_again = sort_presentations(responses[row, column][order], row_again, column_again)
    np.testing.assert_array_equal(sorted_again[np.argsort(ids)], responses)
    np.testing.assert_array_equal(repeats, np.arange(responses.shape[1]))


def test_a_presentation_without_any_response_is_left_out():
    responses = np.ones((2, 2, 2))
    responses[1, 1] = np.nan
    responses[0, 1, 1] = np.nan
    assert np.transpose(presented(responses)).tolist() == [[0, 0], [0, 1], [1, 0]]


def test_missing_text_is_empty_and_whole_numbers_stay_whole_where_nothing_is_missing():
    row, column = np.array([0, 1, 1]), np.array([0, 0, 1])
    assert sort_presentations(np.array(["x", "y", "z"]), row, column).tolist() == [["x", ""], ["y", "z"]]
    assert sort_presentations(np.array([1, 2]), row[1:] - 1, column[1:]).dtype.kind == "i"


def test_the_same_repeat_twice_is_refused():
    with pytest.raises(ValueError, match="stimulus b has repeat 2 more than once"):
        place_presentations(["a", "b", "b"], [2, 2, 2])
