"""Checking what was found: every image is decoded in full, in worker processes, before a dataset takes it."""

import operator
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from nnguide_core.errors import CancelledError
from nnguide_core.images.reading import Checked, check, check_at
from nnguide_core.paths.folders import Found
from nnguide_core.progress import Cancelled, OnProgress, Progress
from nnguide_core.workers import Failure, Workers

__all__ = ["Watch", "check_bytes", "check_places"]

Item = TypeVar("Item")

_SECONDS_PER_IMAGE = 10.0  # then its worker is killed
_SECONDS_BETWEEN_REPORTS = 0.1


@dataclass(frozen=True)
class Watch:
    """Who follows a scan and may stop it, and whose worker processes do it."""

    progress: OnProgress | None = None
    cancelled: Cancelled | None = None
    workers: Workers | None = None  # None: a pool of the scan's own


def check_places(root: Path, found: Sequence[Found], watch: Watch) -> Iterator[Checked | Failure]:
    """Yield what each thing found in a folder or zip turns out to be, in order.

    Raises:
        CancelledError: the watch stopped it.
    """
    readable = [each.location for each in found if each.reason is None]
    with closing(_in_workers(partial(check_at, root=root), readable, watch, chunk=16)) as results:
        merged = (next(results) if each.reason is None else Failure(each.reason, "refused") for each in found)
        yield from _followed(merged, len(found), watch)


def check_bytes(files: Iterable[bytes], watch: Watch) -> Iterator[Checked | Failure]:
    """Yield what each file's bytes turn out to be, in order; files are taken as they are needed.

    Raises:
        CancelledError: the watch stopped it.
    """
    with closing(_in_workers(check, files, watch, chunk=2)) as results:
        yield from _followed(results, operator.length_hint(files), watch)


def _in_workers(
    function: Callable[[Item], Checked], items: Iterable[Item], watch: Watch, chunk: int
) -> Generator[Checked | Failure, None, None]:
    with ExitStack() as ending:
        workers = watch.workers or ending.enter_context(Workers())
        yield from workers.map_ordered(function, items, chunk=chunk, timeout=_SECONDS_PER_IMAGE)


def _followed(results: Iterator[Checked | Failure], total: int, watch: Watch) -> Iterator[Checked | Failure]:
    """Pass results on, tell the watch about ten times a second, and stop when it says so."""
    started = reported = time.monotonic()
    for done, result in enumerate(results, start=1):
        if watch.cancelled is not None and watch.cancelled():
            raise CancelledError(f"Stopped after checking {done - 1:,} of {max(total, done):,} images.")
        yield result
        now = time.monotonic()
        if watch.progress is not None and (done == total or now - reported > _SECONDS_BETWEEN_REPORTS):
            reported = now
            watch.progress(Progress(done, max(total, done), now - started, step="Checking images"))
