"""The log file: one line per job and per refused input, never an image's contents."""

import logging
import logging.handlers
import os
import re
from pathlib import Path

__all__ = ["log_path", "log_to_file"]

_LIMIT = 10_000_000  # bytes after which the next start begins a new file; the one before is kept
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def log_path(workspace: Path) -> Path:
    """Return where a workspace's log lies."""
    return workspace / "logs" / "nnguide.log"


def log_to_file(workspace: Path) -> Path:
    """Write what the core logs, from INFO on, to the workspace's log file, and return the file."""
    path = log_path(workspace).absolute()
    logger = logging.getLogger("nnguide_core")
    if not any(getattr(handler, "baseFilename", None) == str(path) for handler in logger.handlers):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        if path.stat().st_size > _LIMIT:
            path.replace(path.with_suffix(".log.1"))
        # Another process may move the file when it starts.
        handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    return path


class _OneLine(logging.Formatter):
    """Keeps a message on its line, whatever file names are in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        record.message = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", record.message)
        return super().formatMessage(record)
