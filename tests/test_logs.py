"""The log file: lines stay lines, the file stays private and small."""

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from nnguide_core import logs
from nnguide_core.cli import program
from nnguide_core.datasets import from_uploads, open_dataset
from nnguide_core.errors import CancelledError, ForbiddenPathError, NNGuideError
from nnguide_core.evaluation.uploads import SessionUploads
from nnguide_core.features import files
from nnguide_core.jobs import Jobs
from nnguide_core.logs import log_path, log_to_file, note_refusals, refusals_noted
from nnguide_core.models import checkpoints
from nnguide_core.paths.allowed import allowed_path
from nnguide_core.records import Role
from nnguide_core.store import Workspace
from tests import corpus
from tests.disks import small_disk
from tests.processes import fork, succeeded
from tests.zip_corpus import RawEntry, image_bytes, raw_zip


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    logger = logging.getLogger("nnguide_core")
    before, level = logger.handlers, logger.level  # those that other tests left would write and rotate too
    logger.handlers = []
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers = before
    logger.setLevel(level)


def test_each_message_is_one_line_in_a_private_file_whatever_names_are_in_it(tmp_path):
    path = log_to_file(tmp_path)
    # Straight to the file: what pytest captures must be Unicode, or its workers cannot send it.
    name = "a\nERROR forged: \x1b[31m caf\udce9 \u2028 é"
    record = logging.LogRecord("nnguide_core.x", logging.INFO, "", 0, "refused %s", (name,), None)
    named = {getattr(each, "baseFilename", ""): each for each in logging.getLogger("nnguide_core").handlers}
    handler = named[str(path)]
    handler.handle(record)
    (line,) = path.read_text("utf-8").splitlines()
    assert line.endswith(r"INFO nnguide_core.x: refused a\x0aERROR forged: \x1b[31m caf\udce9 \x2028 é")
    assert path == log_path(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_asking_twice_does_not_write_twice(tmp_path):
    for _ in range(2):
        path = log_to_file(tmp_path)
    logging.getLogger("nnguide_core.x").info("once")
    assert path.read_text().count("once") == 1


def test_a_large_log_makes_room_for_a_new_one_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_LIMIT", 10)
    path = log_path(tmp_path)
    path.parent.mkdir()
    path.write_text("line of yesterday\n")
    log_to_file(tmp_path)
    logging.getLogger("nnguide_core.x").info("today")
    assert "today" in path.read_text()
    assert "yesterday" not in path.read_text()
    assert path.with_suffix(".log.1").read_text() == "line of yesterday\n"


def test_a_full_log_makes_room_while_the_program_runs_and_stays_private(tmp_path, monkeypatch):
    path = log_to_file(tmp_path)
    monkeypatch.setattr(logs, "_LIMIT", 100)
    for number in range(50):
        logging.getLogger("nnguide_core.x").info("line %d", number)
    assert path.stat().st_size < 300
    assert "line 49" in path.read_text() + path.with_suffix(".log.1").read_text()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def lines(tmp_path):
    """What is logged from here on, one text per line of the file."""
    path = log_to_file(tmp_path / "home")
    return lambda: path.read_text("utf-8").splitlines() if path.exists() else []


def test_every_refused_file_of_a_scan_is_one_line_with_its_reason(tmp_path, lines):
    folder = tmp_path / "photos"
    folder.mkdir()
    secret = b"the contents of a file"
    (folder / "good.png").write_bytes(image_bytes())
    (folder / "a\nb.png").write_bytes(secret)
    (folder / "cut.png").write_bytes(image_bytes()[:40] + secret)
    open_dataset(folder, "photos", Role.ID)
    from_uploads([("up.png", secret)], tmp_path / "blobs", "up", Role.ID)
    entries = [RawEntry(b"../x.png", image_bytes()), RawEntry(b"y.png", secret)]
    (tmp_path / "x.zip").write_bytes(raw_zip(entries))
    open_dataset(tmp_path / "x.zip", "zipped", Role.ID)
    written = lines()
    assert [line.partition(": ")[2].partition(": ")[0] for line in written] == [
        r"refused a\x0ab.png of photos",
        "refused cut.png of photos",
        "refused up.png of up",
        "refused ../x.png of zipped",
        "refused y.png of zipped",
    ]
    assert "No image: it begins like text" in written[0]
    assert not any(secret.decode() in line or "Traceback" in line for line in written)


def test_whatever_is_refused_as_a_whole_is_one_line(tmp_path, lines, monkeypatch):
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(tmp_path / "allowed"))
    monkeypatch.setenv("NNGUIDE_UPLOAD_LIMIT", "10")
    (tmp_path / "x.zip").write_bytes(b"PK no zip")
    torch.save({"a": torch.nn.Linear(1, 1)}, tmp_path / "x.pth")
    np.savez(tmp_path / "x.npz", features=np.array([object()]))
    uploads = SessionUploads(Workspace(tmp_path / "home"), "ab")
    refused = {
        "refused a typed path: /etc/passwd": lambda: allowed_path("/etc/passwd"),
        f"refused dataset {tmp_path / 'x.zip'}: No zip": lambda: open_dataset(tmp_path / "x.zip"),
        "refused checkpoint: The checkpoint x.pth": lambda: checkpoints.read_state(tmp_path / "x.pth"),
        "refused features file: x.npz": lambda: files.load(tmp_path / "x.npz"),
        "refused upload: This session may upload": lambda: uploads.claim([11]),
    }
    for expected, work in refused.items():
        before = len(lines())
        with pytest.raises(NNGuideError):
            work()
        (line,) = lines()[before:]
        assert expected in line


def test_work_that_was_stopped_is_no_refusal(lines):
    with contextlib.suppress(CancelledError), refusals_noted("x"):
        raise CancelledError("stopped")
    assert lines() == []


def test_every_job_is_one_line_however_it_ends(tmp_path, lines):
    def refuse(_):
        raise NNGuideError("No such thing.")

    jobs = Jobs(Workspace(tmp_path / "home"))
    for title, work in (("fine", lambda _: None), ("bad", refuse)):
        jobs.start(title, title, work).wait(60)
    deadline = time.monotonic() + 60
    while len(lines()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    fine, bad = lines()
    assert " INFO nnguide_core.jobs: job done after " in fine
    assert fine.endswith(" s: fine")
    assert bad.endswith(" s: bad - No such thing.")


def test_every_command_is_one_line_and_a_user_error_leaves_no_traceback(tmp_path, lines, monkeypatch, capsys):
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / "home"))
    (tmp_path / "empty\x1b[31m").mkdir()
    (tmp_path / "empty\x1b[31m" / "x.png").write_bytes(corpus.tiff(1, 1, b""))
    out = str(tmp_path / "d.safetensors")
    assert program.main(["fit", str(tmp_path / "nowhere"), "--out", out, "--model", "demo", "--quiet"]) == 1
    assert program.main(["demo", "--quiet", "--k", "999999"]) == 1
    missing, demo = (line for line in lines() if "nnguide_core.cli" in line)
    assert "command fit after" in missing
    assert "failed - " in missing
    assert "command demo after" in demo
    assert not any("Traceback" in line for line in lines())
    assert "Traceback" not in capsys.readouterr().err


def test_a_command_without_memory_ends_with_a_sentence(tmp_path, monkeypatch, capsys):
    def fill(_):
        raise MemoryError

    from nnguide_core.cli import commands

    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(commands.COMMANDS, "demo", fill)
    assert program.main(["demo"]) == 1
    assert "nnguide: There is not enough memory." in capsys.readouterr().err


def test_a_logs_folder_that_was_removed_is_made_again(tmp_path):
    path = log_to_file(tmp_path)
    logging.getLogger("nnguide_core.x").info("before")
    shutil.rmtree(path.parent)
    logging.getLogger("nnguide_core.x").info("after")
    assert path.read_text().endswith("nnguide_core.x: after\n")
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_line_that_the_file_cannot_take_is_printed_and_disturbs_nobody(tmp_path, capsys):
    (tmp_path / "logs").write_text("no folder")  # what root may not write either
    log_to_file(tmp_path)
    with pytest.raises(ForbiddenPathError):
        allowed_path("/etc/passwd")
    error = capsys.readouterr().err
    assert "INFO nnguide_core" in error
    assert "refused a typed path: /etc/passwd" in error
    assert "Traceback" not in error


def test_a_line_on_a_full_disk_is_printed_and_disturbs_nobody(tmp_path, capsys):
    with small_disk(tmp_path / "small", megabytes=1) as folder:
        path = log_to_file(folder)
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        logging.getLogger("nnguide_core.x").info("the last %s", "straw" * 2000)
        (folder / "filler").unlink()
        logging.getLogger("nnguide_core.x").info("room again")
        assert path.read_text().endswith("room again\n")
        for handler in logging.getLogger("nnguide_core").handlers:
            handler.close()
    error = capsys.readouterr().err
    assert "the last straw" in error
    assert "Traceback" not in error


def test_a_file_system_without_locks_keeps_its_lines_in_one_file(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks available")

    path = log_to_file(tmp_path)
    monkeypatch.setattr(logs, "_LIMIT", 10)
    monkeypatch.setattr(fcntl, "flock", refuse)
    for number in range(3):
        logging.getLogger("nnguide_core.x").info("line %d", number)
    assert [line[-6:] for line in path.read_text().splitlines()] == ["line 0", "line 1", "line 2"]


def test_processes_that_fill_a_log_together_lose_no_line_but_those_of_the_oldest_file(tmp_path, monkeypatch):
    path, kept = log_path(tmp_path), tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setattr(logs, "_LIMIT", 2000)
    replace = Path.replace

    def keep_what_is_overwritten(source: Path, target: Path) -> Path:
        with contextlib.suppress(FileNotFoundError):
            os.link(target, kept / f"{target.stat().st_ino}")
        return replace(source, target)

    def fill_log(name: int) -> None:
        for number in range(300):
            logging.getLogger("nnguide_core.x").info("line %d of %d", number, name)

    monkeypatch.setattr(Path, "replace", keep_what_is_overwritten)
    log_to_file(tmp_path)
    assert succeeded(*(fork(partial(fill_log, name)) for name in range(6)))
    files = [*kept.iterdir(), *path.parent.iterdir()]
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert {line.partition("nnguide_core.x: ")[2] for line in lines} == {
        f"line {number} of {name}" for number in range(300) for name in range(6)
    }
    # A file that was moved before it was full would have cost the one before it.
    assert all(file.stat().st_size > 2000 for file in files if file != path)


def test_a_dataset_of_which_everything_is_refused_takes_a_few_lines_and_gives_the_counts(tmp_path):
    path = log_to_file(tmp_path)
    refused = [(f"{number}.png", "Empty: the file has no bytes.") for number in range(100_000)]
    refused += [(f"{number}.txt", f"Kind {number}: of its own.") for number in range(20)]
    note_refusals("photos", refused)
    lines = path.read_text().splitlines()
    assert lines[0].endswith(
        "refused 0.png of photos: Empty: the file has no bytes. (and 99,999 more of this kind)"
    )
    assert lines[1].endswith("refused 0.txt of photos: Kind 0: of its own.")
    assert lines[-1].endswith("refused 11 more files of photos for other reasons")
    assert len(lines) == 11
