"""The work of the dashboard without a browser: fit, score, evaluate, demo; and what the workspace keeps.

Exit codes: 0 done; 1 refused or failed, with a sentence; 2 wrong arguments; 3 done, but files were skipped
and --strict was given; 130 interrupted, and the same command goes on where it stopped.
"""

import logging
import sys
import time
from argparse import Namespace
from collections.abc import Sequence

from nnguide_core.cli.arguments import parse
from nnguide_core.errors import CancelledError, NNGuideError
from nnguide_core.logs import log_to_file
from nnguide_core.names import visible
from nnguide_core.settings import workspace_home

__all__ = ["INTERRUPTED", "main"]

INTERRUPTED = 130
_LOG = logging.getLogger(__name__)
_REFUSED, _SKIPPED = 1, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parse(arguments)
    began = time.monotonic()
    try:
        return _run(options, began)
    except KeyboardInterrupt:
        _log(options.command, began, "interrupted")
        sys.stderr.write("\nnguide: interrupted. The same command goes on where it stopped.\n")
        return INTERRUPTED


def _run(options: Namespace, began: float) -> int:
    # Imported here, so that help and wrong arguments do not wait for torch.
    from nnguide_core.cli.commands import COMMANDS
    from nnguide_core.store import Workspace

    try:
        log_to_file(workspace_home())
        skipped = COMMANDS[options.command](options)
        Workspace().clean_up_daily()
    except (NNGuideError, ValueError, OSError, MemoryError, RuntimeError) as error:
        sentence = _sentence(error)
        _log(options.command, began, f"failed - {sentence}")
        if isinstance(error, CancelledError):
            return INTERRUPTED
        sys.stderr.write(f"nnguide: {visible(sentence)}\n")
        return _REFUSED
    _log(options.command, began, f"done, {skipped:,} files skipped")
    return _SKIPPED if skipped and options.strict else 0


def _sentence(error: Exception) -> str:
    """Return what a user should read of an error; what no user can cause is raised again."""
    from nnguide_core.jobs import in_words

    if sentence := in_words(error):
        return sentence
    if isinstance(error, ValueError):
        return str(error)
    raise error


def _log(command: str, began: float, outcome: str) -> None:
    _LOG.info("command %s after %.1f s: %s", command, time.monotonic() - began, outcome)
