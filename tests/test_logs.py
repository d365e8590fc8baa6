"""The log file: lines stay lines, the file stays private and small."""

import logging
from collections.abc import Iterator

import pytest

from nnguide_core import logs
from nnguide_core.logs import log_path, log_to_file


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    logger = logging.getLogger("nnguide_core")
    before, level = list(logger.handlers), logger.level
    yield
    for handler in set(logger.handlers) - set(before):
        handler.close()
        logger.removeHandler(handler)
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
