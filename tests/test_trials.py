"""The trials themselves: a reader that takes too much memory is caught, however it hides it."""

import pytest

from tests.trial_errands import be_greedy, load_checkpoint
from tests.trials import MOST_BYTES, attempt


@pytest.mark.parametrize(
    ("how", "is_excessive"),
    [
        ("modest", False),
        ("piece by piece", True),
        ("quietly", True),
        ("at once", True),
        ("at once, by torch", True),
    ],
)
def test_whoever_takes_more_than_a_gibibyte_is_caught(how, is_excessive):
    (trial,) = attempt(be_greedy, [(how, how, "")])
    assert (trial.is_excessive, trial.is_bad) == (is_excessive, is_excessive)
    assert not trial.crashed
    assert not trial.is_unnamed


def test_the_memory_counts_on_top_of_what_the_process_had(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"nothing")
    cases = [("first", "quietly", ""), ("again", "modest", ""), ("last", "quietly", "")]
    peaks = [trial.came.peak for trial in attempt(be_greedy, cases)]
    assert [peak > MOST_BYTES for peak in peaks] == [True, False, True]
    (trial,) = attempt(load_checkpoint, [("small", tmp_path / "weights.pth", "")])
    assert trial.came.peak < 2**26
