"""The log file: one line per job and refused input, a few per dataset, never an image's contents.

A line that the file cannot take, on a full disk or in a folder that may not be written, goes to the standard
error stream: whoever logs never hears of it.
"""

import contextlib
import fcntl
import logging
import logging.handlers
import os
import re
import sys
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path

from nnguide_core.errors import CancelledError, NNGuideError

__all__ = ["log_path", "log_to_file", "note_refusals", "refusals_noted"]

_LOG = logging.getLogger(__name__)
_LIMIT = 10_000_000  # bytes after which a new file begins; the one before is kept
_MOST_KINDS = 10  # of reasons that one dataset's lines name
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def log_path(workspace: Path) -> Path:
    """Return where a workspace's log lies."""
    return workspace / "logs" / "nnguide.log"


def log_to_file(workspace: Path) -> Path:
    """Write what the core logs, from INFO on, to the workspace's log file, and return the file."""
    path = log_path(workspace).absolute()
    logger = logging.getLogger("nnguide_core")
    if not any(getattr(handler, "baseFilename", None) == str(path) for handler in logger.handlers):
        with contextlib.suppress(OSError):  # the first line will say so
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = _LimitedFile(path, encoding="utf-8", errors="backslashreplace", delay=True)
        handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    return path


@contextlib.contextmanager
def refusals_noted(what: str) -> Iterator[None]:
    """Write one line when the block refuses its input, without a traceback, and let the refusal go on."""
    try:
        yield
    except NNGuideError as error:
        if not isinstance(error, CancelledError):
            _LOG.info("refused %s: %s", what, error)
        raise


def note_refusals(dataset: str, refused: Iterable[tuple[str, str]]) -> None:
    """Write one line for each kind of reason, given path and reason of every file that was refused.

    A line per file would let one dataset push everything else out of the log.
    """
    kinds: dict[str, list[tuple[str, str]]] = {}
    for path, reason in refused:
        kinds.setdefault(reason.partition(":")[0], []).append((path, reason))
    most = sorted(kinds.values(), key=len, reverse=True)
    for files in most[:_MOST_KINDS]:
        (path, reason), others = files[0], len(files) - 1
        more = f" (and {others:,} more of this kind)" if others else ""
        _LOG.info("refused %s of %s: %s%s", path, dataset, reason, more)
    if left := sum(map(len, most[_MOST_KINDS:])):
        _LOG.info("refused %s more files of %s for other reasons", f"{left:,}", dataset)


class _LimitedFile(logging.handlers.WatchedFileHandler):
    """A log file that any process may move out of the way once it is full."""

    def emit(self, record: logging.LogRecord) -> None:
        _make_room(Path(self.baseFilename))
        try:
            super().emit(record)
        except OSError:  # the file could not be opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
            return
        # There may be no such stream, or nobody who reads it.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"{self.format(record)}\n")

    def _open(self) -> TextIOWrapper:
        path = Path(self.baseFilename)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(handle, "a", encoding=self.encoding, errors=self.errors)


def _make_room(path: Path) -> None:
    """Move a full log out of the way; only who holds the lock of the full file itself may do so."""
    with contextlib.suppress(OSError):
        if path.stat().st_size <= _LIMIT:
            return
        with path.open("rb") as full:
            fcntl.flock(full, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have moved it, and begun a new one, before it was locked.
            there = os.fstat(full.fileno())
            if there.st_size > _LIMIT and os.path.samestat(there, path.stat()):
                path.replace(path.with_suffix(".log.1"))


class _OneLine(logging.Formatter):
    """Keeps a message on its line, whatever file names are in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        record.message = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", record.message)
        return super().formatMessage(record)
