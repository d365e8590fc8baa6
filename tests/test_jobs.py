"""Background jobs: once per key, in turn, stoppable, and never lost without a word."""

import errno
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from nnguide_core import jobs as jobs_module
from nnguide_core.errors import DatasetError
from nnguide_core.jobs import Jobs, in_words
from nnguide_core.progress import Progress
from nnguide_core.records import JobState, fingerprint
from nnguide_core.store import Workspace
from tests.processes import fork, succeeded

SOON = 60.0  # seconds; never reached where things work


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "w")


@pytest.fixture
def jobs(workspace):
    jobs = Jobs(workspace)
    yield jobs
    jobs.close()


class Gate:
    """Work that says when it runs and ends when it is let."""

    def __init__(self, result=None):
        self.running, self.may_end, self.result = threading.Event(), threading.Event(), result

    def __call__(self, context):
        self.running.set()
        while not self.may_end.wait(0.01):
            context.check()
        return self.result


def fail(error):
    def work(_):
        raise error

    return work


def ended(job):
    assert job.wait(SOON), f"{job.title} is still {job.state}"
    return job


def test_a_job_shows_its_progress_and_then_its_result(jobs):
    gate = Gate("fingerprint")

    def work(context):
        context.progress(Progress(5, 10, 1.0, step="images"))
        return gate(context)

    job = jobs.start("key", "Features of pets", work)
    assert gate.running.wait(SOON)
    assert (job.state, job.progress, job.result) == (
        JobState.RUNNING,
        Progress(5, 10, 1.0, step="images"),
        None,
    )
    assert not job.wait(0.01)
    gate.may_end.set()
    ended(job)
    assert (job.state, job.result, job.error, job.is_over) == (JobState.DONE, "fingerprint", "", True)
    assert 0 < job.seconds < SOON


def test_a_second_session_gets_the_job_that_runs_already(jobs):
    gate = Gate()
    first = jobs.start("key", "Features", gate)
    assert jobs.start("key", "Features", fail(AssertionError("done twice"))) is first
    assert jobs.get("key") is first
    gate.may_end.set()
    ended(first)
    again = jobs.start("key", "Features", lambda _: "new")
    assert again is not first
    assert ended(again).result == "new"


def test_a_page_that_was_refreshed_finds_its_job_again(jobs):
    gate = Gate()
    job = jobs.start("key", "Features", gate)
    assert jobs.get("key") is job
    assert jobs.all() == (job,)
    assert jobs.get("other") is None
    gate.may_end.set()
    ended(job)
    assert jobs.all() == (job,)
    jobs.forget("key")
    assert jobs.all() == ()


def test_heavy_jobs_run_one_at_a_time_in_the_order_of_their_start(jobs):
    gates, order = [Gate() for _ in range(4)], []

    def work(number):
        def run(context):
            order.append(number)
            return gates[number](context)

        return run

    started = [jobs.start(str(number), f"job {number}", work(number)) for number in range(4)]
    assert gates[0].running.wait(SOON)
    wait_until(lambda: all(job.note == "Waiting for: job 0" for job in started[1:]))
    assert [job.state for job in started] == [JobState.RUNNING] + [JobState.WAITING] * 3
    for number, job in enumerate(started):
        assert gates[number].running.wait(SOON)
        assert not any(gate.running.is_set() for gate in gates[number + 1 :])
        gates[number].may_end.set()
        ended(job)
    assert order == [0, 1, 2, 3]


@pytest.mark.parametrize("is_first", [True, False], ids=["the first", "one behind another"])
def test_a_job_whose_thread_or_lock_cannot_be_had_fails_alone_and_can_be_started_again(
    jobs, monkeypatch, is_first
):
    gate = Gate()
    if not is_first:
        jobs.start("running", "running", gate)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail(RuntimeError("can't start new thread")))
        patch.setattr(Workspace, "lock", lambda *_, **__: fail(OSError(errno.EMFILE, "Too many"))(None))
        job = jobs.start("key", "Features", lambda _: "never")
    gate.may_end.set()
    assert ended(job).state is JobState.FAILED
    assert re.match("There is not enough memory|Too many files are open", job.error)
    assert record(jobs, "key") is None
    assert ended(jobs.start("other", "other", lambda _: "done")).result == "done"
    assert ended(jobs.start("key", "Features", lambda _: "again")).result == "again"


def test_a_job_that_waited_for_another_process_takes_its_turn_before_those_started_later(workspace, jobs):
    running, order = Gate(), []
    blocker = jobs.start("blocker", "blocker", running)
    assert running.running.wait(SOON)
    with workspace.lock("job early"):
        early = jobs.start("early", "early", lambda _: order.append("early"))
        wait_until(lambda: early.note.startswith("Another process"))
        late = jobs.start("late", "late", lambda _: order.append("late"))
        wait_until(lambda: late.note == "Waiting for: blocker")
    running.may_end.set()
    for job in (blocker, early, late):
        ended(job)
    assert order == ["early", "late"]


def wait_until(condition):
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_running_job_is_cancelled_for_everyone(jobs):
    gate = Gate()
    job = jobs.start("key", "Features", gate)
    assert gate.running.wait(SOON)
    jobs.get("key").cancel()
    assert ended(job).state is JobState.CANCELLED
    assert job.error == ""


def test_a_waiting_job_is_cancelled_before_it_begins_and_the_next_takes_its_place(jobs):
    gate, never = Gate(), Gate()
    first = jobs.start("first", "first", gate)
    assert gate.running.wait(SOON)
    second, third = jobs.start("second", "second", never), jobs.start("third", "third", lambda _: 3)
    wait_until(lambda: second.note and third.note)
    second.cancel()
    assert ended(second).state is JobState.CANCELLED
    assert not never.running.is_set()
    gate.may_end.set()
    ended(first)
    assert ended(third).result == 3


def test_work_that_ends_although_it_was_cancelled_is_done(jobs):
    gate = Gate("whole")

    def work(context):
        gate.running.set()
        gate.may_end.wait(SOON)
        assert context.cancelled()
        return "whole"

    job = jobs.start("key", "Features", work)
    assert gate.running.wait(SOON)
    job.cancel()
    gate.may_end.set()
    assert (ended(job).state, job.result) == (JobState.DONE, "whole")


def allocate_too_much(_):
    return torch.empty(2**50)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (fail(DatasetError("The folder pets has no images.")), r"The folder pets has no images\."),
        (
            fail(OSError(errno.ENOSPC, "No space left on device")),
            "The disk is full. Free some space and start again",
        ),
        (fail(PermissionError(errno.EACCES, "Permission denied", "/data/x")), "/data/x: Permission denied."),
        (fail(OSError("the network drive is gone")), "the network drive is gone."),
        (fail(MemoryError()), "There is not enough memory"),
        (fail(torch.OutOfMemoryError("CUDA out of memory")), "There is not enough memory"),
        (allocate_too_much, "There is not enough memory"),
    ],
)
def test_what_users_can_cause_fails_with_a_sentence_and_without_a_traceback(jobs, caplog, work, words):
    caplog.set_level(logging.INFO)
    job = ended(jobs.start("key", "Features", work))
    assert job.state is JobState.FAILED
    assert re.match(words, job.error)
    assert "Traceback" not in caplog.text
    assert ended(jobs.start("next", "next", lambda _: 1)).state is JobState.DONE


@pytest.mark.parametrize("error", [KeyError("a bug"), SystemExit(3), KeyboardInterrupt()])
def test_what_nobody_expected_is_a_sentence_for_the_user_and_a_traceback_in_the_log(jobs, caplog, error):
    job = ended(jobs.start("key", "Features", fail(error)))
    assert job.state is JobState.FAILED
    assert job.error.startswith(
        f"Something happened that this program did not expect ({type(error).__name__})."
    )
    assert str(jobs._workspace.root / "logs" / "nnguide.log") in job.error
    assert "Traceback" in caplog.text
    assert "in fail" not in job.error
    assert ended(jobs.start("next", "next", lambda _: 1)).state is JobState.DONE


def test_errors_that_no_user_causes_have_no_words():
    assert in_words(RuntimeError("a bug")) == ""
    assert in_words(ValueError("a bug")) == ""


def test_each_job_is_one_line_in_the_log(jobs, caplog):
    caplog.set_level(logging.INFO, "nnguide_core.jobs")
    ended(jobs.start("a", "Features of pets", lambda _: 1))
    ended(jobs.start("b", "Map", fail(DatasetError("No images."))))
    wait_until(lambda: len(caplog.messages) == 2)
    assert re.fullmatch(r"job done after \d+\.\d s: Features of pets", caplog.messages[0])
    assert re.fullmatch(r"job failed after \d+\.\d s: Map - No images\.", caplog.messages[1])
    assert {record.name for record in caplog.records} == {"nnguide_core.jobs"}


def test_finished_jobs_are_kept_for_a_while_and_not_without_end(jobs, monkeypatch):
    monkeypatch.setattr(jobs_module, "_MOST_KEPT", 2)
    for name in "abc":
        ended(jobs.start(name, name, lambda _: None))
    assert [job.key for job in jobs.all()] == ["b", "c"]
    monkeypatch.setattr(jobs_module, "_KEEP_SECONDS", 0.0)
    assert jobs.all() == ()


def test_a_job_that_runs_is_not_forgotten(jobs):
    gate = Gate()
    job = jobs.start("key", "Features", gate)
    jobs.forget("key")
    assert jobs.get("key") is job


def record(jobs, key):
    return next((each for each in jobs._workspace.job_records() if each.key == key), None)


def test_the_workspace_remembers_how_a_job_ended(jobs):
    job = ended(jobs.start("key", "Features", fail(DatasetError("No images.")), about={"dataset": "d"}))
    wait_until(lambda: record(jobs, "key").state is JobState.FAILED)
    kept = record(jobs, "key")
    assert (kept.title, kept.error, kept.about) == ("Features", "No images.", {"dataset": "d"})
    assert kept.finished == job.finished
    assert jobs.interrupted() == ()


def test_a_job_whose_process_was_killed_is_shown_as_interrupted_and_can_be_started_again(workspace, jobs):
    reading, writing = os.pipe()

    def run_for_ever():
        def work(_):
            os.write(writing, b"x")
            time.sleep(60)

        Jobs(Workspace(workspace.root)).start("key", "Features", work, about={"dataset": "d"}).wait()

    child = fork(run_for_ever)
    os.read(reading, 1)
    assert jobs.interrupted() == ()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = jobs.interrupted()
    assert (left.key, left.state, left.about) == ("key", JobState.INTERRUPTED, {"dataset": "d"})
    gate = Gate("resumed")
    job = jobs.start(left.key, left.title, gate, about=left.about)
    assert gate.running.wait(SOON)
    assert jobs.interrupted() == ()
    gate.may_end.set()
    assert ended(job).result == "resumed"
    assert jobs.interrupted() == ()


def test_an_interrupted_job_can_be_dropped(workspace, jobs):
    jobs.start("key", "Features", Gate())
    jobs.close()
    later = Jobs(workspace)
    wait_until(lambda: len(later.interrupted()) == 1)
    later.forget("key")
    assert later.interrupted() == ()


@pytest.mark.parametrize(("manner", "state"), [("polite", JobState.INTERRUPTED), ("deaf", JobState.RUNNING)])
def test_the_end_of_the_program_interrupts_its_jobs_and_does_not_wait_for_ever(workspace, manner, state):
    script = """
import sys, time
from pathlib import Path
from nnguide_core.jobs import Jobs
from nnguide_core.progress import Progress
from nnguide_core.store import Workspace
def work(context):
    print("runs", flush=True)
    context.progress(Progress(0, 1, 0.0))
    while not (sys.argv[2] == "polite" and context.cancelled()):
        time.sleep(0.01)
    context.check()
jobs = Jobs(Workspace(Path(sys.argv[1])))
jobs.start("first", "first", work)
jobs.start("second", "second", work)
while jobs.get("first").progress is None:
    time.sleep(0.01)
"""
    command = [sys.executable, "-c", script, str(workspace.root), manner]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr
    states = {left.key: left.state for left in workspace.job_records()}
    assert states == {"first": state, "second": JobState.INTERRUPTED}
    assert {left.key for left in Jobs(workspace).interrupted()} == {"first", "second"}


def test_two_processes_that_build_the_same_thing_build_it_once(workspace, jobs):
    key, built = fingerprint("bank"), workspace.root / "built"

    def build(where):
        def work(_):
            if where.load("banks", key) is None:
                with built.open("a") as file:
                    file.write("x")
                time.sleep(0.3)
                where.save("banks", key, {"rows": torch.ones(3)}, {})

        return work

    def in_child():
        own = Workspace(workspace.root)
        assert Jobs(own).start("bank", "Bank", build(own)).wait(SOON)
        assert own.load("banks", key) is not None

    children = [fork(in_child) for _ in range(3)]
    job = jobs.start("bank", "Bank", build(workspace))
    assert ended(job).state is JobState.DONE
    assert succeeded(*children)
    assert built.read_text() == "x"


def test_a_job_that_waits_for_another_process_says_so_and_can_be_cancelled(workspace, jobs):
    elsewhere, gate = Jobs(Workspace(workspace.root)), Gate()
    other = elsewhere.start("bank", "Bank", gate)
    assert gate.running.wait(SOON)
    job = jobs.start("bank", "Bank", fail(AssertionError("built twice")))
    wait_until(lambda: job.note)
    assert job.note == "Another process is doing this already; waiting for it."
    assert ended(jobs.start("map", "Map", lambda _: "not held up")).result == "not held up"
    job.cancel()
    assert ended(job).state is JobState.CANCELLED
    gate.may_end.set()
    assert ended(other).state is JobState.DONE


def test_old_records_go_at_the_next_start(workspace, jobs, monkeypatch):
    ended(jobs.start("key", "Features", lambda _: 1))
    wait_until(lambda: record(jobs, "key").state is JobState.DONE)
    Jobs(workspace)
    assert record(jobs, "key") is not None
    monkeypatch.setattr(jobs_module, "_KEEP_RECORDS", jobs_module.timedelta(0))
    Jobs(workspace)
    assert record(jobs, "key") is None


def test_a_job_ends_well_even_if_the_workspace_cannot_take_it_down(jobs, caplog):
    jobs._workspace.close()
    database = jobs._workspace.root / "workspace.sqlite"
    database.write_bytes(b"garbage" * 1000)
    assert ended(jobs.start("key", "Features", lambda _: 1)).result == 1
    wait_until(lambda: "the job Features is not on record" in caplog.text)
