"""Made videos: the answer can be read from the pixels by rule, and from no part of the video alone."""

import pytest
import torch

from vision_methods.long_sequences import chance, long_sequences, symbols


def made(count=400, seed=0, **options):
    return long_sequences(count, generator=torch.Generator().manual_seed(seed), **options)


def kinds_of(videos, side=2):
    """Which picture each place of each frame shows: the nearest one."""
    place = videos.shape[-1] // side
    pictures = symbols(place, side)
    patches = videos.unfold(3, place, place).unfold(4, place, place)  # (video, time, channel, places, place)
    patches = patches.permute(0, 1, 3, 4, 2, 5, 6).flatten(4).flatten(2, 3)
    return torch.cdist(patches.flatten(0, 2), pictures.flatten(1)).argmin(1).view(patches.shape[:3])


@pytest.mark.parametrize(("side", "size"), [(2, 8), (2, 16), (3, 12)])
def test_the_rule_read_from_the_pixels_gives_the_answer(side, size):
    count, places = 60, side**2
    task = made(count, side=side, size_px=size)
    kinds = kinds_of(task.videos, side)
    marked = kinds > places
    answers = []
    for video, shown in zip(kinds, marked, strict=True):
        full = shown.all(1).nonzero().flatten()
        same = video[full].eq(video[full][:, :1]).all(1)
        sample, choice = video[full[same][0], 0], video[full[~same][0]]
        answers.append(int((choice == sample).nonzero()))
    assert answers == task.answers.tolist()


def test_marked_squares_are_at_the_ends_alone_and_last_as_long_as_asked():
    task = made(50, frames=40, end_frames=10, duration_frames=3)
    marked = kinds_of(task.videos) > 4
    assert not bool(marked[:, 10:30].any())
    assert bool((marked.sum(1) == 6).all())
    for first in (task.sample_frame, task.choice_frame):
        assert bool(marked[torch.arange(50), first].all())
        assert bool(marked[torch.arange(50), first + 2].all())
    assert int(task.sample_frame.min()) == 0
    assert int(task.sample_frame.max()) == 7
    assert int(task.choice_frame.min()) == 30
    assert int(task.choice_frame.max()) == 37


def test_either_end_alone_says_nothing_about_the_answer():
    count = 10_000
    task = made(count, frames=8, end_frames=4, size_px=2, noise=0.0)
    for known in (task.sample, (task.choice * torch.tensor([27, 9, 3, 1])).sum(1)):
        table = torch.zeros(200, 4).index_put_((known, task.answers), torch.ones(count), accumulate=True)
        table = table[table.sum(1) > 0]
        expected = table.sum(1, keepdim=True) / 4
        squares = ((table - expected) ** 2 / expected).sum()
        free = len(table) * 3  # mean of chi-squared; its standard deviation is the root of twice that
        assert abs(float(squares) - free) < 4 * (2 * free) ** 0.5
    # Both together say everything.
    assert bool((task.choice == task.sample[:, None]).long().argmax(1).eq(task.answers).all())


def test_a_sum_over_the_ends_gains_nothing():
    # The cross-entropy of logits f(sample) + g(choice) is convex; its gradient at equal logits is zero.
    count = 20_000
    task = made(count, frames=8, end_frames=4, size_px=2, noise=0.0)
    features = torch.cat([torch.eye(4)[task.sample], torch.eye(4)[task.choice].flatten(1)], 1)
    gradient = features.T @ (torch.eye(4)[task.answers] - chance()) / count
    assert float(gradient.abs().max()) < 4 * (0.25 * 0.25 * 0.75 / count) ** 0.5


def test_distractors_fill_their_share():
    task = made(100, distractors=0.3, noise=0.0)
    kinds = kinds_of(task.videos)[:, 8:-8]
    assert float((kinds > 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert [round(float((kinds == k).float().mean()), 2) for k in (1, 2, 3, 4)] == pytest.approx([0.075] * 4, abs=0.015)
    assert bool((kinds_of(made(20, distractors=0.0, noise=0.0).videos)[:, 8:-8] == 0).all())


def test_a_seed_decides_everything():
    assert torch.equal(made(4).videos, made(4).videos)
    assert not torch.equal(made(4).videos, made(4, seed=1).videos)


def test_values_and_chance():
    task = made(4, noise=0.5)
    assert task.videos.dtype == torch.float32
    assert (float(task.videos.min()), float(task.videos.max())) == (0.0, 1.0)
    assert (chance(2), chance(3)) == (1 / 4, 1 / 9)
    assert sorted(task.choice[0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_px": 9}, "size_px is 9 for 2 x 2 places"),
        ({"side": 1}, "for 1 x 1 places"),
        ({"frames": 15}, "frames, end_frames and duration_frames are 15, 8 and 4"),
        ({"duration_frames": 9}, "64, 8 and 9"),
        ({"count": 0}, "count, distractors and noise are 0"),
        ({"distractors": 1.5}, "1.5"),
        ({"noise": -0.1}, "-0.1"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        long_sequences(**{"count": 2, **options})
