"""What Python sends to the browser components, read back byte by byte."""

import json
import struct

import numpy as np
import pytest
import torch

from nnguide_core.records import Threshold
from nnguide_core.sweep import Similarities, binned_over_k
from views import state
from views.components import pack
from views.components.events import Inbox
from views.components.scores import BinnedScores, Choice, Exact, Reply, binned_scores, choice_from
from views.components.scores import _reply_message as reply_message
from views.components.scores import _table_message as table_message


def unpacked(message):
    """Read a message as the browser does: the header, and each array at its place."""
    (length,) = struct.unpack("<I", message[:4])
    header = json.loads(message[4 : 4 + length])
    body = -(-(4 + length) // 8) * 8
    arrays = {
        part["name"]: np.frombuffer(message, f"<{part['type']}", part["length"], body + part["start"])
        for part in header["arrays"]
    }
    return header, arrays, [body + part["start"] for part in header["arrays"]]


def test_arrays_come_back_aligned_and_in_order():
    given = {
        "one": np.array([7], dtype=np.uint8),
        "two": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1],
        "three": np.array([], dtype=np.float64),
        "four": np.array([3, -4], dtype=">i4"),
    }
    header, arrays, starts = unpacked(pack("here", {"words": "été"}, given))
    assert header["words"] == "été"
    assert header["channel"] == "here"
    assert all(start % 8 == 0 for start in starts)
    for name, array in given.items():
        np.testing.assert_array_equal(arrays[name], array.ravel())


def test_the_digest_changes_with_content_and_only_with_content():
    one, two = np.arange(4, dtype=np.uint8), np.arange(4, dtype=np.uint8)[::-1]
    digest = [
        unpacked(pack("a", {"x": x}, {"n": array}))[0]["digest"]
        for x, array in [(1, one), (1, one), (2, one), (1, two)]
    ]
    assert digest[0] == digest[1]
    assert len(set(digest)) == 3


def test_an_array_that_a_browser_cannot_read_is_refused_with_what_it_can():
    with pytest.raises(ValueError, match="'ks' is int64; a component reads f4, f8, u1"):
        pack("a", {}, {"ks": np.arange(3)})


def test_a_header_that_is_no_json_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        pack("a", {"x": float("nan")}, {})


@pytest.mark.parametrize(
    ("edges", "counts", "message"),
    [
        (np.zeros((2, 1)), np.zeros((1, 2, 0), int), r"edges must be \(K, B \+ 1\) .* got \(2, 1\)"),
        (np.zeros((0, 5)), np.zeros((1, 0, 4), int), r"edges must be \(K, B \+ 1\) .* got \(0, 5\)"),
        (
            np.zeros((2, 5)),
            np.zeros((1, 2, 5), int),
            r"counts must be \(D, K, B\) = \(1, 2, 4\), got \(1, 2, 5\)",
        ),
    ],
)
def test_a_table_whose_shapes_disagree_is_refused(edges, counts, message):
    with pytest.raises(ValueError, match=message):
        BinnedScores(("known",), (False,), edges, counts)


def test_a_choice_is_read_and_nonsense_is_no_choice():
    sent = {"k": 5, "kind": "id_kept", "level": 0.9, "threshold": -3.5}
    assert choice_from(sent) == Choice(5, Threshold("id_kept", 0.9), -3.5)
    assert choice_from({**sent, "kind": "value"}) == Choice(5, Threshold("value", -3.5), -3.5)
    broken = [
        {"kind": "other"},
        {"k": "x"},
        {"level": None},
        {"level": 1.5},
        {"threshold": "nan", "kind": "value"},
    ]
    for change in broken:
        assert choice_from({**sent, **change}) is None
    assert choice_from(None) is choice_from({}) is choice_from("k") is None


def test_the_cores_table_keeps_every_image_and_joins_wrongly_classified_ones():
    rng = torch.Generator().manual_seed(8)
    groups = {
        name: Similarities(
            torch.rand(count, 6, generator=rng).sort(descending=True).values, torch.rand(count)
        )
        for name, count in (("known", 30), ("other", 20), ("known, wrong", 7), ("far", 11))
    }
    sweep = binned_over_k({n: groups[n] for n in ("known", "other", "known, wrong")}, {"far": groups["far"]})
    table = binned_scores(sweep, {"known, wrong": "known"})
    assert (table.names, table.ood) == (("known", "other", "far"), (False, False, True))
    assert table.counts.sum(axis=2).tolist() == [
        [37] * len(sweep.ks),
        [20] * len(sweep.ks),
        [11] * len(sweep.ks),
    ]
    assert table.wrong.sum(axis=2)[:, 0].tolist() == [7, 0, 0]
    np.testing.assert_array_equal(table.edges[2], sweep.edges(2))
    joined = sweep.flagged_at_id_kept[:, 0] + sweep.flagged_at_id_kept[:, 2]
    np.testing.assert_array_equal(table.exact.flagged_at_id_kept[0], joined)
    np.testing.assert_array_equal(table.exact.flagged_at_ood_caught[2], sweep.flagged_at_ood_caught[:, 3])
    np.testing.assert_array_equal(table.exact.auroc[0], sweep.sweeps[0].auroc)


def test_the_reply_tells_the_area_of_each_ood_dataset_and_the_table_whose_class_is_unknown():
    choice = Choice(3, Threshold("id_kept", 0.95), -4.0)
    told = reply_message(Reply(choice, Exact((1, 2), aupr=(0.5, None))))
    assert told["exact"]["aupr"] == [0.5, None]
    table = BinnedScores(("a",), (False,), np.arange(3.0)[None], np.ones((1, 1, 2), int), unknown=7)
    assert table_message(table)[0]["unknown"] == 7


@pytest.fixture
def memory(monkeypatch):
    """Stand in for the session."""
    kept = {}
    monkeypatch.setattr(state, "kept", lambda name, default=None: kept.get(name, default))
    monkeypatch.setattr(state, "keep", kept.__setitem__)


def told(*stamps):
    return [{"stamp": stamp, "name": "clicked", "value": stamp * 10} for stamp in stamps]


@pytest.mark.usefixtures("memory")
def test_an_event_is_heard_again_until_it_was_answered_and_never_after():
    assert [event.value for event in Inbox("map", told(1, 2)).events] == [10, 20]
    inbox = Inbox("map", told(1, 2, 3))
    assert [event.value for event in inbox.events] == [10, 20, 30]
    inbox.close()
    assert Inbox("map", told(1, 2, 3)).events == ()
    assert Inbox("map", told(1, 2, 3)).heard == 3
    assert [event.value for event in Inbox("map", told(3, 4)).events] == [40]
    assert [event.value for event in Inbox("other", told(1)).events] == [10]


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("nonsense", [None, "x", {}, [1], [{"stamp": "1", "name": "a"}], [{"stamp": 1}]])
def test_malformed_events_are_none(nonsense):
    assert Inbox("map", nonsense).events == ()
