"""Windows over a text: which tokens they score."""

import itertools

import pytest

from jinfer.errors import ConfigError
from jinfer.eval.windows import WindowSizes


def scored_by_labels(
    num_tokens: int, window: int, stride: int, has_prefix: bool
) -> list[tuple[int, int, int]]:
    """(begin, end, first scored) as the usual loop over a model of fixed length has it: labels of what was
    read before are masked, and labels are moved by one, so that a first token has no prediction."""
    found, previous_end = [], 0
    for begin in range(0, num_tokens, stride):
        end = min(begin + window, num_tokens)
        labels = [position if position >= previous_end else None for position in range(begin, end)]
        if not has_prefix:
            labels[0] = None
        scored = [label for label in labels if label is not None]
        if scored:
            found.append((begin, end, scored[0]))
        previous_end = end
        if end == num_tokens:
            break
    return found


@pytest.mark.parametrize("has_prefix", [False, True])
def test_windows_are_those_of_the_usual_loop(has_prefix):
    for num_tokens, window in itertools.product(range(2, 14), range(2, 9)):
        for stride in range(1, window + 1):
            cut = WindowSizes(window, stride).cut(num_tokens, has_prefix=has_prefix)
            assert [(each.begin, each.end, each.first_scored) for each in cut] == scored_by_labels(
                num_tokens, window, stride, has_prefix
            )


def test_overlapping_windows_score_every_token_but_the_first_once():
    windows = WindowSizes(4, 3).cut(11, has_prefix=False)
    assert [(each.begin, each.end) for each in windows] == [(0, 4), (3, 7), (6, 10), (9, 11)]
    scored = [token for each in windows for token in range(each.first_scored, each.end)]
    assert scored == list(range(1, 11))


def test_windows_side_by_side_leave_out_the_first_token_of_each():
    windows = WindowSizes(4, 4).cut(9, has_prefix=False)
    assert [(each.begin, each.first_scored, each.end) for each in windows] == [(0, 1, 4), (4, 5, 8)]


def test_with_a_prefix_every_token_is_scored_and_the_prefix_is_not():
    windows = WindowSizes(4, 4).cut(9, has_prefix=True)
    assert sum(each.num_scored for each in windows) == 9
    assert windows[2].prompt((7,), range(100, 109)) == (7, 108)


def test_the_default_window_is_the_context_but_at_most_2048():
    assert WindowSizes.of(None, None, max_model_len=512, num_prefix=1) == WindowSizes(510, 510)
    assert WindowSizes.of(None, 100, max_model_len=40_960, num_prefix=0) == WindowSizes(2048, 100)
    assert WindowSizes.of(511, None, max_model_len=512, num_prefix=0) == WindowSizes(511, 511)


@pytest.mark.parametrize(
    ("window", "stride", "parts"),
    [
        (511, None, ("window=511", "from 2 to 510", "context of 512", "--window")),
        (1, None, ("window=1", "from 2 to 510")),
        (8, 9, ("stride=9", "from 1 to the window of 8", "--stride")),
        (8, 0, ("stride=0", "from 1 to the window of 8")),
    ],
)
def test_a_window_that_does_not_fit_and_a_stride_that_leaves_tokens_out(window, stride, parts):
    with pytest.raises(ConfigError) as caught:
        WindowSizes.of(window, stride, max_model_len=512, num_prefix=1)
    assert all(part in str(caught.value) for part in parts)
