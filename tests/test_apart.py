"""Reading a file in a process of its own: what comes back, and what becomes of files that misbehave."""

import os
import resource
from pathlib import Path

import pytest

from nnguide_core import worker_process
from nnguide_core.apart import Bounds, read_apart
from nnguide_core.errors import CancelledError, DatasetError, ImageError, WorkersError
from tests.errands import take_file

BOUNDS = Bounds(memory=2**28, seconds=1.0)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.data"
    path.write_bytes(b"what it holds")
    with path.open("rb") as file:
        yield file


def read(file, order, **more):
    return read_apart(take_file, file, order, bounds=BOUNDS, refused=DatasetError, **more)


def test_the_open_file_is_what_is_read_whatever_its_name_leads_to_meanwhile(file):
    Path(file.name).unlink()
    Path(file.name).write_bytes(b"something else")
    file.read(4)
    content, process = read(file, "read")
    assert content == b"what it holds"
    assert process != os.getpid()
    assert not Path(f"/proc/{process}").exists()


def test_what_the_file_is_refused_for_is_raised_as_it_is(file):
    with pytest.raises(ImageError, match=r"^This is no image\.$"):
        read(file, "refuse")


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ("segfault", r"^Reading it crashed: SIGSEGV\.$"),
        ("exit", r"^Reading it crashed: exit status 7\.$"),
        ("compute", "^Too slow: reading it took longer than 1 s.$"),
        ("fill", "^Too large: reading it needs more memory than the limit allows.$"),
        ("fill the answer", "^Too large: reading it needs more memory than the limit allows.$"),
    ],
)
def test_a_file_that_takes_its_process_down_is_refused_in_words(file, order, reason):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DatasetError, match=reason):
        read(file, order)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_reading_stops_on_request(file):
    with pytest.raises(CancelledError, match="Stopped while a file was read"):
        read(file, "hang", cancelled=lambda: True)


def test_a_defect_in_the_reader_is_raised_with_its_traceback(file):
    with pytest.raises(RuntimeError, match=r"(?s)in take_file.*a programmer's mistake"):
        read(file, "defect")


def test_a_process_that_does_not_start_is_an_error_in_words(file, monkeypatch):
    monkeypatch.setattr(worker_process, "_BOOT", "raise SystemExit(3)")
    with pytest.raises(WorkersError, match="does not start: exit status 3"):
        read(file, "read")
    monkeypatch.setattr(worker_process, "_BOOT", "import time; time.sleep(600)")
    monkeypatch.setattr(worker_process, "_START_SECONDS", 0.2)
    with pytest.raises(WorkersError, match="does not start"):
        read(file, "read")
