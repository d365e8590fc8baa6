"""One worker process: how it is started, what is sent to and fro, and what it does until it dies."""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Any, Literal, NoReturn

from nnguide_core.errors import NNGuideError, WorkersError

__all__ = ["MEMORY_LIMIT", "MOST_ITEMS", "TIME_SIGNALS", "Failure", "Task", "WorkerProcess", "serve"]

MOST_ITEMS = 10_000  # per message; the pipe of progress marks holds 65,536
TIME_SIGNALS = (signal.SIGPROF, signal.SIGALRM)  # what a worker dies of when an item takes too long
_PATIENCE = 10  # seconds by the clock for each second of computing: a busy machine makes no image slow
_START_SECONDS = 120.0  # by the clock, until a new process is ready for its first item
MEMORY_LIMIT = 1_200_000_000  # bytes that one worker may fill; a WebP of 64 million pixels takes 1.03 billion
_ENVIRONMENT = {
    # One thread each: the cores are shared among the workers already.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Else glibc returns every batch of arrays to the kernel and faults it in again, a tenth of all time.
    "MALLOC_MMAP_THRESHOLD_": str(16 * 1024**2),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 1024**2),
}
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from nnguide_core.worker_process import serve; serve(*map(int, sys.argv[2:5]))"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """One item without a result, and why in words."""

    reason: str
    kind: Literal["refused", "crashed", "too slow"]


@dataclass(frozen=True)
class Task:
    """What a worker is asked to do."""

    function: bytes  # pickled
    timeout: float  # seconds of computing for each item
    items: Sequence[Any]


class WorkerProcess:
    """One worker process, seen from the caller's side.

    Args:
        memory: bytes that it may fill.
        files: handles that it shares with this process, under the same numbers.

    Raises:
        WorkersError: the system gives no process or no handles.
    """

    def __init__(self, memory: int = MEMORY_LIMIT, files: Sequence[int] = ()) -> None:
        self.due: float | None = time.monotonic() + _START_SECONDS  # None once it has started
        self._waiting: Task | None = None  # until it has
        self._function: bytes | None = None  # what the process has loaded
        with ExitStack() as theirs, ExitStack() as ours:
            try:
                self.channel, channel = Pipe()
                ours.callback(self.channel.close)
                theirs.callback(channel.close)
                self._progress, marks = os.pipe()
                ours.callback(os.close, self._progress)
                theirs.callback(os.close, marks)
                self._process = _started((channel.fileno(), marks, memory), files)
            except OSError as error:
                raise WorkersError(
                    f"A worker process cannot be started: {error.strerror}. Close other programs, or raise "
                    "the limits of memory, processes and open files (ulimit)."
                ) from error
            self._handles = ours.pop_all()

    def send(self, task: Task) -> None:
        """Send a task, now or as soon as the process has started; a dead worker shows when received from."""
        if self.due is not None:
            self._waiting = task
            return
        changed = None if task.function == self._function else task.function
        self._function = task.function
        with suppress(BrokenPipeError, ConnectionResetError):
            self.channel.send_bytes(pickle.dumps((changed, task.timeout, task.items), protocol=5))

    def receive(self) -> tuple[Literal["started", "done", "dead"], list[Any]]:
        """Wait for what the worker says next: that it has started, a task's results, or nothing any more."""
        try:
            kind, value = pickle.loads(self.channel.recv_bytes())  # noqa: S301 - from a process of ours
        except (EOFError, ConnectionResetError):
            return "dead", []
        if kind == "raised":
            raise RuntimeError(f"A worker's function failed.\n{value}")
        if kind == "started":
            self.due = None
            if self._waiting is not None:
                self.send(self._waiting)
            return "started", []
        os.read(self._progress, len(value))
        return "done", value

    def post_mortem(self) -> tuple[int, int]:
        """Return how many of the items sent last were begun, and the dead process's status."""
        self.kill_process()
        os.set_blocking(self._progress, False)
        try:
            started = len(os.read(self._progress, MOST_ITEMS))
        except BlockingIOError:  # a process that it left behind holds the other end
            started = 0
        self._handles.close()
        return started, self._process.returncode

    def kill_process(self) -> None:
        """End the process, if it still runs."""
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End the process, if it still runs, and free its handles."""
        self.kill_process()
        self._handles.close()


def serve(channel_handle: int, progress_handle: int, memory: int) -> None:
    """Work in a worker process until the caller hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides when to stop
    for each in TIME_SIGNALS:
        signal.signal(each, signal.SIG_DFL)  # kills the process, inside C code too
    _limit_memory(memory)
    channel = Connection(channel_handle)
    _tell_defects(channel)
    function: Callable[[Any], Any] = _nothing
    _send(channel, ("started", None))
    while (message := _received(channel)) is not None:
        changed, timeout, items = pickle.loads(message)  # noqa: S301 - from the process that started this one
        if changed is not None:
            function = pickle.loads(changed)  # noqa: S301 - from the same
            _silence_libraries()
        _send(channel, ("done", _work(function, items, timeout, progress_handle)))


def _started(numbers: tuple[int, int, int], files: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a process that serves, given the handles of its channel and its marks, and its memory."""
    folders = json.dumps([folder for folder in sys.path if isinstance(folder, str)])
    return subprocess.Popen(  # noqa: S603 - this interpreter, and arguments made here
        [sys.executable, "-P", "-c", _BOOT, folders, *map(str, numbers)],
        pass_fds=(*numbers[:2], *files),
        env={**os.environ, **_ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _send(channel: Connection, message: object) -> None:
    data = pickle.dumps(message, protocol=5)
    with suppress(BrokenPipeError, ConnectionResetError):  # the caller is gone, which shows at the next task
        channel.send_bytes(data)


def _received(channel: Connection) -> bytes | None:
    """Wait for a message; None once the caller has hung up."""
    try:
        return channel.recv_bytes()
    except (EOFError, ConnectionResetError):
        return None


def _work(function: Callable[[Any], Any], items: Sequence[Any], timeout: float, progress: int) -> list[Any]:
    results = []
    for item in items:
        os.write(progress, b".")
        _limit_time(timeout)
        results.append(_result(function, item))
    _limit_time(0)
    return results


def _limit_time(seconds: float) -> None:
    """Die after so many seconds of computing, or of waiting for much longer; 0 for no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * _PATIENCE)


def _result(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        try:
            return function(item)
        except NNGuideError as error:
            return Failure(str(error), "refused")
    except MemoryError:
        pass  # what was running when it was raised holds the memory until here
    return Failure("Too large: reading it needs more memory than a worker may use.", "refused")


def _tell_defects(channel: Connection) -> None:
    """Send the traceback of whatever ends this process to the caller, who raises it."""

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _limit_time(0)
        if issubclass(kind, MemoryError):
            os._exit(1)  # no defect, and telling would need memory
        _send(channel, ("raised", "".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = tell


def _limit_memory(most: int) -> None:
    """Make an allocation over the limit fail here, before the kernel ends some other process for it."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _silence_libraries() -> None:
    """Send stderr nowhere and warn of nothing: libraries print a line for each damaged file."""
    warnings.simplefilter("ignore")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
        os.dup2(nowhere.fileno(), 2)


def _nothing(item: object) -> NoReturn:
    raise RuntimeError(f"No function was sent before the item {item!r}.")
