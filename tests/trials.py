"""Hostile inputs tried one by one in child processes: what came of each, and what it took."""

import errno
import re
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnguide_core.errors import NNGuideError
from nnguide_core.workers import Failure, Workers

__all__ = [
    "MOST_BYTES",
    "MOST_SECONDS",
    "Outcome",
    "Trial",
    "attempt",
    "made",
    "memory_of_this_process",
    "outcome_of",
]

MOST_SECONDS = 10.0  # of computing; what the machine does besides does not count
MOST_BYTES = 2**30  # on top of what the process had before
_HUNG_SECONDS = 30.0  # of computing, after which a trial is stopped
_ROOM = 2 * MOST_BYTES  # what a trial can take: were it no more than it may, none could be seen to take more
_NO_MEMORY = re.compile("(can't|cannot|unable to) allocate|not enough memory", re.IGNORECASE)  # torch's words

_SENTENCE = re.compile(r".{10,2000}[.)]")


@dataclass(frozen=True)
class Outcome:
    """What one input came to, in the process that took it."""

    verdict: str  # "ok", or the reason in words
    kind: str  # class of the error, "" where there was none
    is_named: bool  # whether the error, if any, is one that a user's data may cause, in a sentence
    seconds: float  # of computing
    peak: int  # bytes
    is_starved: bool = False  # whether its error came of a lack of memory, in whatever words


@dataclass(frozen=True)
class Trial:
    """One input, what was expected of it, and what came."""

    name: str
    expected: str  # "ok", "" for anything clean, or a regular expression for the reason
    came: Outcome | Failure

    @property
    def crashed(self) -> bool:
        """Whether it killed its process, twice."""
        return isinstance(self.came, Failure) and self.came.kind == "crashed"

    @property
    def hung(self) -> bool:
        """Whether it took longer than it may, and nothing stopped it in time."""
        if isinstance(self.came, Failure):
            return self.came.kind == "too slow" and self.is_wrong
        return self.came.seconds > MOST_SECONDS

    @property
    def is_excessive(self) -> bool:
        """Whether it took more memory than it may, or was refused only because there was no more."""
        return isinstance(self.came, Outcome) and (self.came.is_starved or self.came.peak > MOST_BYTES)

    @property
    def is_unnamed(self) -> bool:
        """Whether it raised what no user should see."""
        return isinstance(self.came, Outcome) and not self.came.is_named

    @property
    def is_wrong(self) -> bool:
        """Whether it was read or refused otherwise than it should have been."""
        if isinstance(self.came, Failure):
            return not re.search(self.expected or "^$", self.came.reason)
        expected = f"^{self.expected}$" if self.expected == "ok" else self.expected
        return not re.search(expected, self.came.verdict)

    @property
    def is_bad(self) -> bool:
        """Whether anything at all is wrong."""
        return any((self.crashed, self.hung, self.is_excessive, self.is_unnamed, self.is_wrong))


def attempt(
    function: Callable[[Any], Outcome], cases: Iterable[tuple[str, Any, str]], timeout: float = _HUNG_SECONDS
) -> Iterator[Trial]:
    """Try each case, given name, what the function takes and what is expected, in two worker processes."""
    waiting: list[tuple[str, str]] = []

    def payloads() -> Iterator[Any]:
        for name, payload, expected in cases:
            waiting.append((name, expected))
            yield payload

    with Workers(2) as workers:
        results = workers.map_ordered(function, payloads(), chunk=4, timeout=timeout)
        for place, came in enumerate(results):
            yield Trial(*waiting[place], came)


def made(cases: Iterable[Any], folder: Path, name: str) -> Iterator[tuple[str, Path, str]]:
    """Make each case's file in a folder of its own, as attempt takes it."""
    for place, case in enumerate(cases):
        path = folder / f"{place:05d}" / name
        path.parent.mkdir(parents=True)
        case.make(path)
        yield case.name, path, case.expected


def outcome_of(work: Callable[[], object], *, is_limited: bool = False) -> Outcome:
    """Do the work here; say what came of it and what it took.

    Args:
        work: takes one hostile input.
        is_limited: whether the program does this in a worker, whose limit of memory then stands and may be
            what an input is refused for; it is lifted otherwise, so that what is taken can be seen.
    """
    before, began = memory_of_this_process("VmRSS"), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    verdict, kind, is_named, is_starved = "ok", "", True, False
    try:
        with nullcontext() if is_limited else _room():
            work()
    except NNGuideError as error:
        verdict, kind, is_named = str(error), type(error).__name__, _is_sentence(str(error))
        is_starved = not is_limited and _is_starved(error)
    except Exception as error:  # noqa: BLE001 - what should not have come is what is looked for
        verdict, kind, is_named = f"{type(error).__name__}: {error}"[:300], type(error).__name__, False
        is_starved = _is_starved(error)
    seconds, peak = time.process_time() - began, memory_of_this_process("VmHWM") - before
    return Outcome(verdict, kind, is_named, seconds, peak, is_starved)


@contextmanager
def _room() -> Iterator[None]:
    """Allow this process _ROOM on top of what it has, whatever it has."""
    given, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = memory_of_this_process("VmData") + _ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (min(wanted, hard) if hard >= 0 else wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (given, hard))


def _is_starved(error: BaseException | None) -> bool:
    """Tell whether an error, or what it was made of, is a lack of memory."""
    if error is None:
        return False
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return _is_starved(error.__cause__) or _is_starved(error.__context__)


def memory_of_this_process(field: str) -> int:
    """Return a field of this process's status, such as VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _is_sentence(text: str) -> bool:
    return bool(_SENTENCE.fullmatch(text)) and text.isprintable()
