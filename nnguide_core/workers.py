"""Worker processes that outlive what they work on: a crash or a hang costs one item, never the caller.

Each worker is a fresh Python process on a socket of its own. Not a fork, because torch and Streamlit run
threads that a fork would freeze; not multiprocessing's spawn, which imports the caller's main script again.
"""

import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self, TypeVar

from nnguide_core.errors import CancelledError, WorkersError
from nnguide_core.worker_process import MOST_ITEMS, TIME_SIGNALS, Failure, Task, WorkerProcess

__all__ = ["Failure", "Workers", "death", "usable_cores"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_FAILED_STARTS = 3  # workers in a row that died before their first item


class Workers:
    """A pool of worker processes, started when first needed and stopped on leaving the with block."""

    def __init__(self, count: int | None = None) -> None:
        if count is not None and count < 1:
            raise ValueError(f"At least one worker is needed, got {count}.")
        self.count = count or usable_cores()
        self._idle: list[WorkerProcess] = []
        self._run: _Run | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every worker now, also in the middle of an item; a map that still runs is cancelled."""
        run = self._run  # the thread that takes the results forgets it as soon as it has ended
        if run is not None:
            run.stop()
            run.join()  # until then it may hand back a worker
        while self._idle:
            self._idle.pop().kill()

    def map_ordered(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        chunk: int = 16,
        timeout: float = 10.0,
        ahead: int = 2,
    ) -> Generator[Result | Failure, None, None]:
        """Yield function(item) for every item, in order, or the Failure that took its place.

        Work goes on in the background while the caller uses a result. At most count * (ahead + 1) chunks
        are in the works or waiting to be taken. NumPy arrays come back uncopied by pickle; torch tensors
        do not, so return tensor.numpy(). Only one map runs at a time; closing the iterator early stops it.

        Args:
            function: importable and picklable. A NNGuideError that it raises becomes a Failure; anything
                else it raises is a defect and is raised here as RuntimeError, with the worker's traceback.
            items: picklable; taken one chunk at a time, from a background thread.
            chunk: items per message, 1 to 10,000.
            timeout: seconds of computing that one item may take before its worker is killed; one that waits
                instead, such as for a disk that does not answer, has ten times as many by the clock.
            ahead: finished chunks per worker that may wait to be taken.

        Raises:
            ValueError: chunk, timeout or ahead out of range.
            RuntimeError: a second map while one runs, or a defect in function.
            WorkersError: no worker starts.
            CancelledError: the pool was closed from another thread.
        """
        if not 1 <= chunk <= MOST_ITEMS or timeout <= 0 or ahead < 1:
            raise ValueError(
                f"chunk must be 1 to {MOST_ITEMS}, timeout and ahead positive; "
                f"got chunk={chunk}, timeout={timeout}, ahead={ahead}."
            )
        return self._results(_Job(pickle.dumps(function), iter(items), chunk, timeout, ahead))

    def _results(self, job: "_Job") -> Generator[Any, None, None]:
        if self._run is not None:
            raise RuntimeError("These workers are busy with another map: finish it or close it first.")
        self._run = run = _Run(self, job)
        try:
            run.thread.start()
            while ready := run.take():
                yield from ready
        finally:
            run.stop()
            run.join()
            run.close()
            self._run = None


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Job:
    """What one map was asked to do."""

    function: bytes  # pickled
    items: Iterator[Any]
    chunk: int
    timeout: float  # seconds per item
    ahead: int


@dataclass(frozen=True)
class _Share:
    """Items that go to a worker in one message, with their positions in the order of results."""

    positions: Sequence[int]
    items: Sequence[Any]
    retry: bool = False  # its one item was running when a worker died: a second death convicts it

    def part(self, start: int, stop: int | None, *, retry: bool = False) -> "_Share":
        return _Share(self.positions[start:stop], self.items[start:stop], retry)


class _Run:
    """One map: a thread that feeds the workers and collects results, and the consumer that takes them."""

    def __init__(self, workers: Workers, job: _Job) -> None:
        self._workers, self._job = workers, job
        self._room = workers.count * (job.ahead + 1) * job.chunk  # results in the works or not yet taken
        self._busy: dict[WorkerProcess, _Share] = {}
        self._again: deque[_Share] = deque()  # what dead workers left
        self._given = 0  # items handed out so far
        self._exhausted = False
        self._failed_starts = 0
        self._changed = threading.Condition()  # guards the next two
        self._done: dict[int, Any] = {}  # by position, results not taken yet
        self._taken = 0
        self._error: BaseException | None = None  # what ended the thread
        self._ended = self._stopped = False
        # A daemon, or a forgotten iterator would keep the interpreter from ending.
        self.thread = threading.Thread(target=self._pump, name="workers", daemon=True)
        self._bell, self._ringer = socket.socketpair()  # wakes the thread while it waits for workers
        self._ringer.setblocking(False)

    def take(self) -> list[Any]:
        """Wait for the next results in order and return them; an empty list after the last one."""
        ready = []
        with self._changed:
            self._changed.wait_for(lambda: self._taken in self._done or self._ended)
            while self._taken in self._done:
                ready.append(self._done.pop(self._taken))
                self._taken += 1
        if ready:
            self._ring()
            return ready
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise CancelledError("The worker processes were stopped before the work was done.")
        return ready

    def stop(self) -> None:
        """End the thread and the workers that are busy; idle ones stay for the next map."""
        self._stopped = True
        self._ring()

    def join(self) -> None:
        """Wait for the thread, if it was started; call stop first."""
        if not self.thread.is_alive():
            return
        # Daemons are frozen when the interpreter ends, and any thread may collect a forgotten iterator.
        if not sys.is_finalizing() and threading.current_thread() is not self.thread:
            self.thread.join()

    def close(self) -> None:
        """Free the sockets; call join before."""
        self._bell.close()
        self._ringer.close()

    def _pump(self) -> None:
        """Feed the workers and collect what they send until everything is done or stopped."""
        with ExitStack() as ending:
            ending.push(self._end)
            while not self._stopped:
                self._feed()
                if self._exhausted and not self._busy:
                    return
                self._collect()

    def _end(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        """Stop what is busy and leave whatever error ended the thread to the consumer, who raises it."""
        for worker in self._busy:
            worker.kill()
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()
        return True

    def _feed(self) -> None:
        while len(self._busy) < self._workers.count and (task := self._next_task()):
            idle = self._workers._idle
            # A suspect gets a process of its own: a used one may be damaged already.
            worker = idle.pop() if idle and not task.retry else WorkerProcess()
            self._busy[worker] = task
            worker.send(Task(self._job.function, self._job.timeout, task.items))

    def _next_task(self) -> _Share | None:
        if self._again:
            return self._again.popleft()
        if self._exhausted or self._given + self._job.chunk > self._taken + self._room:
            return None
        items = list(islice(self._job.items, self._job.chunk))
        self._exhausted = len(items) < self._job.chunk
        self._given += len(items)
        return _Share(range(self._given - len(items), self._given), items) if items else None

    def _collect(self) -> None:
        dues = [worker.due for worker in self._busy if worker.due is not None]
        seconds = max(0.0, min(dues) - time.monotonic()) if dues else None
        ready = wait([self._bell, *(worker.channel for worker in self._busy)], seconds)
        if self._bell in ready:
            self._bell.recv(4096)
        for worker in [each for each in self._busy if each.channel in ready]:
            self._finish(worker)
        for worker in [each for each in self._busy if each.due is not None and each.due < time.monotonic()]:
            self._bury(worker, self._busy.pop(worker))

    def _finish(self, worker: WorkerProcess) -> None:
        kind, results = worker.receive()
        if kind == "started":
            return
        task = self._busy.pop(worker)
        if kind == "dead":
            self._bury(worker, task)
            return
        self._failed_starts = 0
        self._workers._idle.append(worker)
        self._record(task.positions, results)

    def _bury(self, worker: WorkerProcess, task: _Share) -> None:
        """Put back in line what a dead worker left, and judge the item that it was working on."""
        started, status = worker.post_mortem()
        if started == 0:
            self._count_failed_start(status)
            self._again.append(task)
            return
        before, suspect, after = (
            task.part(0, started - 1),
            task.part(started - 1, started, retry=True),
            task.part(started, None),
        )
        self._again.extend(part for part in (before, after) if part.items)
        if -status in TIME_SIGNALS:
            reason = f"Too slow: reading it took longer than {self._job.timeout:g} s."
            self._record(suspect.positions, [Failure(reason, "too slow")])
        elif task.retry:
            self._record(suspect.positions, [Failure(f"The decoder crashed: {death(status)}.", "crashed")])
        else:
            # An item that came before it may have done the damage: only a death alone convicts.
            self._again.append(suspect)

    def _count_failed_start(self, status: int) -> None:
        self._failed_starts += 1
        if self._failed_starts >= _MOST_FAILED_STARTS:
            raise WorkersError(
                f"Worker processes do not start: {death(status)}, {_MOST_FAILED_STARTS} times. "
                "Close other programs, or raise the limits of memory and processes (ulimit)."
            )

    def _record(self, positions: Sequence[int], results: Sequence[Any]) -> None:
        with self._changed:
            self._done.update(zip(positions, results, strict=True))
            self._changed.notify_all()

    def _ring(self) -> None:
        with suppress(BlockingIOError):  # it is ringing already
            self._ringer.send(b".")


def death(status: int) -> str:
    """Return what a process died of, in words, given its status."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
