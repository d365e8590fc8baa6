"""Background jobs: long work that outlives a page's refresh, once per key, in this process and in all others.

A job lives in the process that started it, not in a browser session. Jobs run one at a time, in the order in
which they were started. Work that another process does already is waited for, not done twice.
"""

import atexit
import errno
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from nnguide_core.errors import CancelledError, NNGuideError, StoreError
from nnguide_core.logs import log_path
from nnguide_core.memory_errors import is_out_of_memory
from nnguide_core.outcomes import Outcome
from nnguide_core.progress import Progress
from nnguide_core.records import JobRecord, JobState
from nnguide_core.store import Workspace

__all__ = ["Job", "JobContext", "Jobs", "in_words"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_KEEP_SECONDS = 3600.0  # how long a finished job is shown
_KEEP_RECORDS = timedelta(days=7)
_MOST_KEPT = 50  # finished jobs
_PAUSE = 0.1  # seconds between two looks at whether a waiting job was cancelled
_GOODBYE_SECONDS = 2.0  # how long the end of the program waits for cancelled jobs
_OS_REASONS = {
    errno.ENOSPC: "The disk is full. Free some space and start again; what was finished is kept.",
    errno.EDQUOT: "The disk quota is used up. Free some space and start again; what was finished is kept.",
    errno.EMFILE: "Too many files are open. Close other programs, or raise the limit with ulimit -n.",
}


class JobContext:
    """What work is given: where to report progress, and whether it should stop."""

    def __init__(self, job: "Job[Any]") -> None:
        self._job = job

    def progress(self, progress: Progress) -> None:
        """Show how far the work is."""
        self._job.progress = progress

    def cancelled(self) -> bool:
        """Return whether someone asked the job to stop."""
        return self._job.is_cancelling

    def check(self) -> None:
        """Stop here if someone asked for it.

        Raises:
            CancelledError: someone did.
        """
        if self.cancelled():
            raise CancelledError(f"{self._job.title} was stopped; what was finished is kept.")


class Job(Generic[T]):
    """One piece of work under way, or over. Any thread may look at it, wait for it or cancel it.

    Args:
        key: says what is computed.
        title: the work in words.
        about: JSON-able; what is needed to start the work again.
        withdraw: ends the job at once if it has not begun.
    """

    def __init__(
        self,
        key: str,
        title: str,
        about: Mapping[str, Any],
        withdraw: Callable[["Job[Any]"], None] = lambda _: None,
    ) -> None:
        self.key = key
        self.title = title
        self.about = about
        self.state = JobState.WAITING
        self.progress: Progress | None = None
        self.result: T | None = None
        self.error = ""  # a sentence for the user once the job has failed
        self.note = ""  # what a waiting job waits for, in words
        self.started = datetime.now(UTC)
        self.finished: datetime | None = None
        self.is_interrupted = False
        self._withdraw = withdraw
        self._cancelling = threading.Event()
        self._over = threading.Event()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self._over.is_set()

    @property
    def is_cancelling(self) -> bool:
        """Whether someone asked the job to stop."""
        return self._cancelling.is_set()

    @property
    def seconds(self) -> float:
        """How long the job took, or has taken so far."""
        return ((self.finished or datetime.now(UTC)) - self.started).total_seconds()

    @property
    def record(self) -> JobRecord:
        """What the workspace remembers of the job."""
        return JobRecord(
            self.key, self.title, self.state, self.about, self.error, self.started, self.finished
        )

    def cancel(self) -> None:
        """Ask the job to stop, for everyone who watches it: at once, or when its work next checks."""
        self._cancelling.set()
        self._withdraw(self)

    def interrupt(self) -> None:
        """Ask the job to stop because the program ends; it can be started again later."""
        self.is_interrupted = True
        self.cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job is over, at most timeout seconds; return whether it is."""
        return self._over.wait(timeout)

    def end(self, state: JobState, error: str = "") -> None:
        """Record how the job ended; called by Jobs alone, which lets others see the end with be_over."""
        self.error, self.note, self.finished = error, "", datetime.now(UTC)
        self.state = state

    def be_over(self) -> None:
        """Let those go on who wait for the job; for Jobs alone."""
        self._over.set()


@dataclass(eq=False)
class _Entry:
    """A job with its work, and the lock that keeps other processes from doing the same."""

    job: Job[Any]
    work: Callable[[JobContext], Any]
    lock: ExitStack = field(default_factory=ExitStack)
    is_locked: bool = False
    problem: BaseException | None = None  # why the lock cannot be had, which fails the job


class Jobs:
    """The jobs of this process; a server keeps one for all its sessions.

    Args:
        workspace: keeps the records that outlive the process, and the locks between processes.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._jobs: dict[str, Job[Any]] = {}
        self._waiting: list[_Entry] = []  # in the order of their start
        self._running: Job[Any] | None = None
        self._thread: threading.Thread | None = None  # works through those that wait, and ends with them
        self._guard = threading.Lock()
        self._forget_old_records()
        atexit.register(self.close)

    def start(
        self,
        key: str,
        title: str,
        work: Callable[[JobContext], T],
        *,
        about: Mapping[str, Any] | None = None,
    ) -> Job[T]:
        """Start work in the background, or return the job that does it already.

        Args:
            key: says what is computed; two jobs with one key never run at once, in any process.
            title: the work in words.
            work: called with a JobContext in a thread. It looks into the workspace first, since another
                process may just have done the same, and returns something small: it is kept in memory.
            about: JSON-able; what is needed to start the work again after a restart.
        """
        with self._guard:
            self._forget_old_jobs()
            if (running := self._jobs.get(key)) is not None and not running.is_over:
                return running
            job: Job[T] = Job(key, title, dict(about or {}), self._withdraw)
            self._jobs[key] = job
        entry = _Entry(job, work)
        with Outcome() as starting:
            if self._may_begin(entry):
                self._remember(job)
            self._line_up(entry)
        if starting.error is not None:
            self._end(entry, starting.error)
        return job

    def get(self, key: str) -> Job[Any] | None:
        """Return the job of a key, running or finished within the last hour."""
        with self._guard:
            return self._jobs.get(key)

    def all(self) -> tuple[Job[Any], ...]:
        """Return this process's jobs, running or finished within the last hour, oldest first."""
        with self._guard:
            self._forget_old_jobs()
            return tuple(self._jobs.values())

    def interrupted(self) -> tuple[JobRecord, ...]:
        """Return the jobs whose process ended before they did; starting one again resumes it."""
        return tuple(
            replace(record, state=JobState.INTERRUPTED)
            for record in self._workspace.job_records()
            if not record.state.is_finished and not self._is_alive(record.key)
        )

    def forget(self, key: str) -> None:
        """Drop a finished or interrupted job from what is shown."""
        with self._guard:
            if (job := self._jobs.get(key)) is not None and not job.is_over:
                return
            self._jobs.pop(key, None)
        if not self._is_alive(key):
            self._workspace.remove_job(key)

    def close(self) -> None:
        """Interrupt every job and wait a moment for them to end."""
        left = [job for job in self.all() if not job.is_over]
        for job in left:
            job.interrupt()
        deadline = time.monotonic() + _GOODBYE_SECONDS
        for job in left:
            job.wait(max(0.0, deadline - time.monotonic()))

    def _line_up(self, entry: _Entry) -> None:
        """Let the job wait for its turn; a thread that cannot be started is an error of this job alone."""
        with self._guard:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="jobs", daemon=True)
                thread.start()
                self._thread = thread
            self._waiting.append(entry)
            self._say_what_is_waited_for()

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            with Outcome() as working:
                self._do(entry)
            self._end(entry, working.error)

    def _next(self) -> _Entry | None:
        """Return the first job that may begin, once there is one; None when no job waits."""
        while True:
            with self._guard:
                entry = next((each for each in self._waiting if self._may_begin(each)), None)
                self._running = None if entry is None else entry.job
                if entry is not None:
                    self._waiting.remove(entry)
                elif not self._waiting:
                    self._thread = None
                    return None
                self._say_what_is_waited_for()
            if entry is not None:
                return entry
            time.sleep(_PAUSE)

    def _may_begin(self, entry: _Entry) -> bool:
        """Try to take the job's lock; return whether the job can run, or must fail as it cannot be taken."""
        if not entry.is_locked:
            lock = self._workspace.lock(_lock_name(entry.job.key), cancelled=lambda: True)
            with Outcome() as locking:
                entry.lock.enter_context(lock)
            entry.is_locked = locking.error is None
            entry.problem = None if isinstance(locking.error, CancelledError) else locking.error
        return entry.is_locked or entry.problem is not None

    def _do(self, entry: _Entry) -> None:
        if entry.problem is not None:
            raise entry.problem
        job, context = entry.job, JobContext(entry.job)
        job.state, job.note = JobState.RUNNING, ""
        self._remember(job)
        context.check()
        job.result = entry.work(context)

    def _say_what_is_waited_for(self) -> None:
        for entry in self._waiting:
            if not entry.is_locked:
                entry.job.note = "Another process is doing this already; waiting for it."
            elif self._running is not None:
                entry.job.note = f"Waiting for: {self._running.title}"

    def _withdraw(self, job: Job[Any]) -> None:
        """End a job that has not begun."""
        with self._guard:
            found = [entry for entry in self._waiting if entry.job is job]
            self._waiting = [entry for entry in self._waiting if entry.job is not job]
        for entry in found:
            self._end(entry, CancelledError(f"{job.title} was stopped before it began."))

    def _end(self, entry: _Entry, error: BaseException | None) -> None:
        job = entry.job
        if error is None:
            job.end(JobState.DONE)
        elif isinstance(error, CancelledError):
            job.end(JobState.INTERRUPTED if job.is_interrupted else JobState.CANCELLED)
        else:
            job.end(JobState.FAILED, in_words(error) or self._unexpected(job, error))
        words = (job.state, job.seconds, job.title, job.error and f" - {job.error}")
        _LOG.info("job %s after %.1f s: %s%s", *words)
        with Outcome() as closing, entry.lock:
            # The record must say so before the lock is free, or others take the job for interrupted.
            if entry.is_locked:
                self._remember(job)
        if closing.error is not None:
            _LOG.warning("the lock of %s is not free: %r", job.title, closing.error)
        job.be_over()

    def _unexpected(self, job: Job[Any], error: BaseException) -> str:
        _LOG.error("unexpected in %s", job.title, exc_info=error)
        return (
            f"Something happened that this program did not expect ({type(error).__name__}). "
            f"Please report it with the end of {log_path(self._workspace.root)}."
        )

    def _remember(self, job: Job[Any]) -> None:
        try:
            self._workspace.save_job(job.record)
        except StoreError as error:
            _LOG.warning("the job %s is not on record: %s", job.title, error)

    def _is_alive(self, key: str) -> bool:
        job = self._jobs.get(key)
        return (job is not None and not job.is_over) or self._workspace.is_locked(_lock_name(key))

    def _forget_old_jobs(self) -> None:
        over = [job for job in self._jobs.values() if job.finished is not None]
        over.sort(key=lambda job: job.finished or job.started, reverse=True)
        oldest = datetime.now(UTC) - timedelta(seconds=_KEEP_SECONDS)
        for place, job in enumerate(over):
            if place >= _MOST_KEPT or (job.finished or job.started) < oldest:
                del self._jobs[job.key]

    def _forget_old_records(self) -> None:
        for record in self._workspace.job_records():
            if record.finished is not None and record.finished < datetime.now(UTC) - _KEEP_RECORDS:
                self._workspace.remove_job(record.key)


def in_words(error: BaseException) -> str:
    """Return what a user should read of an error, a sentence; "" for errors that no user can cause."""
    if isinstance(error, NNGuideError):
        return str(error)
    if is_out_of_memory(error):
        return "There is not enough memory. Close other programs, or choose a smaller bank or batch size."
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return _OS_REASONS.get(error.errno or 0, f"{place}{error.strerror or error}.")
    return ""


def _lock_name(key: str) -> str:
    return f"job {key}"
