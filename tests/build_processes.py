"""Processes that compute a run as the app does, and are killed, or lack disk or memory; run by the tests.

Usage: python tests/build_processes.py kill|disk|memory FOLDER COUNT; prints one JSON object of counts.
"""

import hashlib
import importlib
import json
import os
import random
import resource
import signal
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from nnguide_core.demo import demo_sets, demo_spec
from nnguide_core.errors import StoreError
from nnguide_core.evaluation import evaluate
from nnguide_core.evaluation.plans import Chosen, Plan, compute, prepared, scan
from nnguide_core.evaluation.questions import ask, open_question
from nnguide_core.features import extraction
from nnguide_core.files import load_tensors
from nnguide_core.jobs import JobContext, Jobs, in_words
from nnguide_core.models import load_model
from nnguide_core.records import JobState, Role
from nnguide_core.store import Workspace
from tests.disks import grow, mounted
from tests.processes import fork, succeeded
from tests.trials import memory_of_this_process

ROLES = {"bank": Role.BANK, "ID test": Role.ID, "deer and truck": Role.OOD}
IMAGES = 128  # of each dataset: 8 batches
FAILED = 3  # exit status of a builder whose job failed with a sentence
MOST_ROOM = 2**30  # bytes beside what the process has; more than the run ever takes
HUNG_SECONDS = 90.0  # after which a builder is taken to wait for ever
REPORT = struct.Struct("<3q")  # done, total, resumed


@dataclass
class Counts:
    """What happened in all rounds."""

    tried: int = 0  # kills, or too small disks, or too little memory
    completed: int = 0  # runs that came to their end after at least one of those
    resumed: int = 0  # images that were not computed again, over all starts
    lost: int = 0  # images of finished batches that were computed again
    different: int = 0  # completed runs whose features, bank or scores are not those of the undisturbed one
    half_written: int = 0  # files that a reader could not use
    stalled: int = 0  # builders that waited for ever for memory, and were killed
    crashed: int = 0  # builders that a library ended with a signal, its allocation having failed
    unnamed: int = 0  # failures without a sentence
    sentences: list[str] = field(default_factory=list)


def kill(folder: Path, count: int) -> Counts:
    """Kill builders at random moments, and start the next where the last one stopped."""
    chance, counts = random.Random(0), Counts()  # noqa: S311 - moments, no secrets
    expected, seconds = _undisturbed(folder)
    while counts.tried < count:  # a run that ends before its kill is one more run
        root, told, status = folder / f"kill-{counts.completed}", 0, -1
        reader, stop = _reader(root)
        while status != 0:
            wait = chance.uniform(0.0, 1.05 * seconds) if counts.tried < count else None
            status, reports = _build(folder, root, wait, shard_seconds=chance.choice((0.0, 0.2, 10.0)))
            counts.tried += status == signal.SIGKILL
            told = _compare(counts, told, reports, is_over=status == 0)
            if status not in (0, signal.SIGKILL):
                raise RuntimeError(f"A builder failed that nobody killed: {_ending(folder, status)}")
        os.close(stop)
        counts.half_written += (not succeeded(reader)) + len(list(root.rglob("*.damaged")))
        counts.completed += 1
        counts.different += _in_child(lambda root=root: _digest(root)) != expected
    return counts


def disk(folder: Path, count: int) -> Counts:
    """Build on a disk that is too small, again and again with a little more room, until it is enough."""
    counts = Counts()
    expected, _ = _undisturbed(folder)
    used = sum(path.stat().st_size for path in (folder / "undisturbed").rglob("*") if path.is_file())
    with mounted(folder / "disk", 64 * 1024) as place:
        told, status = 0, FAILED << 8
        for room in _growing(64 * 1024, 3 * used // count, 20 * used):
            grow(place, room)
            status, reports = _build(folder, place / "workspace", None)
            counts.tried += status != 0
            told = _compare(counts, told, reports, is_over=status == 0)
            _note_failure(counts, folder, status)
            if status == 0:
                break
        counts.completed += 1
        counts.different += _in_child(lambda: _digest(place / "workspace")) != expected
        counts.half_written += len(list(place.rglob("*.damaged"))) + len(list(place.glob("*/set-aside/*")))
    return counts


def memory(folder: Path, count: int) -> Counts:
    """Build with too little memory, again and again with a little more, until it is enough."""
    counts = Counts()
    expected, _ = _undisturbed(folder)
    told, step = 0, 120_000_000 // count
    for room in _growing(step, step, MOST_ROOM):
        status, reports = _build(folder, folder / "memory", None, room=room)
        counts.tried += status != 0
        told = _compare(counts, told, reports, is_over=status == 0)
        _note_failure(counts, folder, status)
        if status == 0:
            break
    counts.completed += 1
    counts.different += _in_child(lambda: _digest(folder / "memory")) != expected
    counts.half_written += len(list((folder / "memory").rglob("*.damaged")))
    return counts


def _compare(counts: Counts, told: int, reports: list[tuple[int, int, int]], *, is_over: bool) -> int:
    """Count what was computed again of what was told to be finished before; return what is finished now."""
    if reports:
        resumed = reports[0][2]
        counts.resumed += resumed
        counts.lost += max(0, told - resumed)
        return reports[-1][0]
    return told if not is_over else len(ROLES) * IMAGES


def _growing(first: int, step: int, most: int) -> Iterator[int]:
    """Yield more and more bytes; RuntimeError where even the most was not enough."""
    yield from range(first, most, step)
    raise RuntimeError(f"Not even {most:,} bytes were enough.")


def _ending(folder: Path, status: int) -> str:
    """Return how a builder ended, in words."""
    return (folder / "failure.txt").read_text() if status == FAILED << 8 else f"ended with status {status}"


def _note_failure(counts: Counts, folder: Path, status: int) -> None:
    words = _ending(folder, status)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGABRT:
        counts.stalled += 1
    elif os.WIFSIGNALED(status):
        counts.crashed += 1
    elif status:
        counts.unnamed += status != FAILED << 8 or "did not expect" in words
        if words not in counts.sentences:
            counts.sentences.append(words)


def _undisturbed(folder: Path) -> tuple[str, float]:
    """Unpack some images, compute the run once undisturbed; return its digest and how long it took."""
    for each in demo_sets():
        if each.name in ROLES:
            with zipfile.ZipFile(each.path) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
                archive.extractall(folder / each.name, names[:: len(names) // IMAGES][:IMAGES])
    began = time.monotonic()
    status, _ = _build(folder, folder / "undisturbed", None)
    seconds = time.monotonic() - began
    assert status == 0, (folder / "failure.txt").read_text()
    return _in_child(lambda: _digest(folder / "undisturbed")), seconds


def _build(
    folder: Path, root: Path, wait: float | None, *, shard_seconds: float = 10.0, room: int = 0
) -> tuple[int, list[tuple[int, int, int]]]:
    """Start a builder, kill it after a while if told to; return its status and what it reported."""
    reading, writing = os.pipe()
    builder = fork(lambda: _compute(folder, root, writing, shard_seconds, room))
    os.close(writing)
    os.set_blocking(reading, False)
    latest = time.monotonic() + HUNG_SECONDS
    deadline, told, status = None if wait is None else time.monotonic() + wait, b"", None
    while status is None:
        told += _available(reading)
        ended, status_now = os.waitpid(builder, os.WNOHANG)
        status = status_now if ended else None
        if status is None and deadline is not None and time.monotonic() > deadline:
            os.kill(builder, signal.SIGKILL)
            deadline = None
        if status is None and time.monotonic() > latest:
            os.kill(builder, signal.SIGABRT)
        time.sleep(0.005)
    told += _available(reading)
    os.close(reading)
    whole = len(told) - len(told) % REPORT.size
    return status, [tuple(each) for each in REPORT.iter_unpack(told[:whole])]


def _compute(folder: Path, root: Path, writing: int, shard_seconds: float, room: int) -> None:
    """Scan what the workspace does not know yet and compute the run, each as a job, as the app does."""
    extraction._SHARD_SECONDS = shard_seconds
    torch.set_num_threads(1)
    if room:
        _limit_memory(memory_of_this_process("VmData") + room)
    try:
        workspace = Workspace(root)
        jobs = Jobs(workspace)
        known = {each.name: each for each in workspace.datasets()}
        for name, role in ROLES.items():
            if name not in known:
                path = folder / name
                _finish(folder, jobs, f"scan {name}", lambda context, path=path, name=name, role=role: scan(
                    workspace, path, name, role, context))  # fmt: skip
        chosen = [Chosen.of(workspace.dataset(each.fingerprint)) for each in workspace.datasets()]
        plan = Plan(demo_spec(), tuple(sorted(chosen, key=lambda each: each.name)))
        work = _without_baselines if room else compute
        _finish(folder, jobs, plan.key, lambda context: work(workspace, plan, Telling(context, writing)))
    except (StoreError, MemoryError) as error:  # outside a job, too, memory may be what is lacking
        _fail(folder, in_words(error))


def _limit_memory(most: int) -> None:
    """Set how many bytes this process may have; the limit can be lifted again."""
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))


def _fail(folder: Path, words: str) -> None:
    """End this process and leave its reason, for which there must be memory."""
    _limit_memory(resource.RLIM_INFINITY)
    (folder / "failure.txt").write_text(words)
    os._exit(FAILED)


def _without_baselines(workspace: Workspace, plan: Plan, context: "Telling") -> None:
    """Compute as compute does but for the baselines: OpenBLAS under them waits for memory for ever."""
    datasets = prepared(workspace, plan)
    question = ask(load_model(plan.spec), datasets, workspace=workspace, progress=context.progress)
    workspace.save_run(evaluate(question, k=10, baselines=()).run(10))


class Telling:
    """A job's context that also writes how far the features are to a pipe."""

    def __init__(self, context: JobContext, writing: int) -> None:
        self._context, self._writing = context, writing
        self.cancelled, self.check = context.cancelled, context.check

    def progress(self, progress: Any) -> None:
        self._context.progress(progress)
        if progress.total:
            os.write(self._writing, REPORT.pack(progress.done, progress.total, progress.resumed))


def _finish(folder: Path, jobs: Jobs, key: str, work: Callable[[Any], object]) -> None:
    job = jobs.start(key, key, work)
    job.wait()
    if job.state is not JobState.DONE:
        _fail(folder, job.error)


def _digest(root: Path) -> str:
    """Return a hash of all features, the bank and the scores."""
    workspace, total = Workspace(root), hashlib.sha256()
    question = open_question(workspace, workspace.runs()[0])
    answered = evaluate(question, k=10, baselines=())
    rows = [answered.bank.rows, answered.bank.energies]
    rows += [tensor for part in question.parts for tensor in (part.features.features, part.features.logits)]
    rows += [judged.neighbors.score for judged in answered.queries]
    for tensor in rows:
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def _reader(root: Path) -> tuple[int, int]:
    """Start a process that reads all there is of a workspace until the pipe is closed; return both."""
    reading, writing = os.pipe()

    def read() -> None:
        os.close(writing)
        os.set_blocking(reading, False)
        while not _is_closed(reading):
            _read_all(root)
            time.sleep(0.1)

    reader = fork(read)
    os.close(reading)
    return reader, writing


def _read_all(root: Path) -> None:
    for path in [*root.glob("tensors/*/*.safetensors"), *root.glob("shards/*/*.safetensors")]:
        try:
            load_tensors(path)
        except FileNotFoundError:
            continue  # notes become one shard
    if (root / "workspace.sqlite").exists():
        workspace = Workspace(root)
        workspace.datasets(), workspace.runs(), workspace.job_records()
        assert workspace.all_set_aside() == ()


def _in_child(work: Callable[[], str]) -> str:
    """Return what work returns, computed in a child: torch's threads must not be forked."""
    reading, writing = os.pipe()
    child = fork(lambda: os.write(writing, work().encode()))
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = file.read()
    assert succeeded(child)
    return answer


def _available(reading: int) -> bytes:
    data = b""
    try:
        while piece := os.read(reading, 65536):
            data += piece
    except BlockingIOError:
        pass
    return data


def _is_closed(reading: int) -> bool:
    try:
        return os.read(reading, 1) == b""
    except BlockingIOError:
        return False


if __name__ == "__main__":
    what, place, number = sys.argv[1:]
    for module in ("pytorch_ood.detector", "sklearn.covariance", "torchvision", "numba"):
        importlib.import_module(module)  # once here, not in every child
    found = {"kill": kill, "disk": disk, "memory": memory}[what](Path(place), int(number))
    print(json.dumps(vars(found)))  # noqa: T201 - read by the test
