import pytest

from nnguide_core.datasets import scan_folder, scanning
from nnguide_core.datasets.scanning import Watch, check_bytes, check_places
from nnguide_core.errors import CancelledError
from nnguide_core.paths.folders import Found
from nnguide_core.records import Role
from nnguide_core.workers import Failure, Workers
from tests.decoding_errands import check_but_fail
from tests.zip_corpus import image_bytes


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as pool:
        yield pool


def test_a_file_that_crashes_or_hangs_the_decoder_is_skipped(tmp_path, monkeypatch, workers):
    for seed, name in enumerate(["a", "segfault", "b", "hang", "c", "exit", "d"]):
        (tmp_path / f"{name}.png").write_bytes(image_bytes(seed))
    monkeypatch.setattr(scanning, "check_at", check_but_fail)
    monkeypatch.setattr(scanning, "_SECONDS_PER_IMAGE", 0.5)
    dataset = scan_folder(tmp_path, "x", Role.OOD, workers=workers)
    assert [image.path for image in dataset.images] == ["a.png", "b.png", "c.png", "d.png"]
    assert {each.path: each.reason for each in dataset.skipped} == {
        "exit.png": "The decoder crashed: exit status 7.",
        "hang.png": "Too slow: reading it took longer than 0.5 s.",
        "segfault.png": "The decoder crashed: SIGSEGV.",
    }


def test_what_was_refused_when_found_keeps_its_place_among_what_is_read(tmp_path, workers):
    (tmp_path / "a").write_bytes(image_bytes())
    found = [Found("x", "x", "Bad: no."), Found("a", "a"), Found("y", "y", "Bad: no."), Found("a", "a")]
    results = list(check_places(tmp_path, found, Watch(workers=workers)))
    assert [isinstance(result, Failure) for result in results] == [True, False, True, False]
    assert results[0] == Failure("Bad: no.", "refused")


def test_bytes_are_taken_only_as_they_are_needed(workers):
    taken = []

    def files():
        for seed in range(200):
            taken.append(seed)
            yield image_bytes(seed % 5)

    results = check_bytes(files(), Watch(workers=workers))
    next(results)
    assert len(taken) < 50
    results.close()


def test_progress_is_told_a_few_times_a_second_and_not_for_every_image(workers):
    told = []
    list(check_bytes([image_bytes()] * 300, Watch(progress=told.append, workers=workers)))
    assert told[-1].done == told[-1].total == 300
    assert len(told) < 150
    assert told[-1].step == "Checking images"


def test_progress_of_a_stream_of_unknown_length_grows_with_it(workers):
    told = []
    list(check_bytes((image_bytes() for _ in range(20)), Watch(progress=told.append, workers=workers)))
    assert all(each.done == each.total for each in told)


def test_a_scan_without_workers_of_its_own_starts_and_stops_some(monkeypatch):
    pools = []

    class Noted(Workers):
        def __init__(self):
            super().__init__(1)
            pools.append(self)

    monkeypatch.setattr(scanning, "Workers", Noted)
    assert len(list(check_bytes([image_bytes()] * 3, Watch()))) == 3
    assert [pool._idle for pool in pools] == [[]]


def test_a_cancelled_check_says_how_far_it_was(workers):
    watch = Watch(cancelled=lambda: True, workers=workers)
    with pytest.raises(CancelledError, match=r"^Stopped after checking 0 of 3 images\.$"):
        list(check_bytes([image_bytes()] * 3, watch))
