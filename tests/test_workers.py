import errno
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nnguide_core import worker_process
from nnguide_core.errors import CancelledError, WorkersError
from nnguide_core.workers import Failure, Workers
from tests.errands import misbehave, picture, poison, square, where

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("count", "chunk", "items"), [(1, 1, 5), (2, 3, 100), (3, 16, 16), (2, 7, 0)])
def test_results_come_in_order_for_every_count_and_chunk(count, chunk, items):
    with Workers(count) as workers:
        assert list(workers.map_ordered(square, range(items), chunk=chunk)) == [n * n for n in range(items)]


def test_arrays_come_back_bit_for_bit_and_writable():
    with Workers(2) as workers:
        for seed, (name, array) in enumerate(workers.map_ordered(picture, range(20), chunk=4)):
            assert name == seed
            assert np.array_equal(array, picture(seed)[1])
            assert array.flags.writeable


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_a_crash_costs_only_the_item_that_caused_it(chunk):
    orders = [*range(10), "segfault", *range(10, 15), "exit", "segfault", *range(15, 20)]
    with Workers(2) as workers:
        results = list(workers.map_ordered(misbehave, orders, chunk=chunk))
    assert [result for result in results if not isinstance(result, Failure)] == list(range(20))
    assert results[10] == results[17] == Failure("The decoder crashed: SIGSEGV.", "crashed")
    assert results[16] == Failure("The decoder crashed: exit status 7.", "crashed")


def test_an_item_that_crashes_only_once_is_read_at_the_second_attempt(tmp_path):
    order = ("once", str(tmp_path / "flag"))
    with Workers(1) as workers:
        assert list(workers.map_ordered(misbehave, [1, order, 2])) == [1, order, 2]


def test_an_item_is_not_blamed_for_the_damage_that_others_did_to_every_process():
    with Workers(2) as workers:
        list(workers.map_ordered(poison, ["start", "both"], chunk=1))
        assert list(workers.map_ordered(poison, ["poison", "poison", "innocent"], chunk=1)) == [
            "poison",
            "poison",
            "innocent",
        ]


def test_an_item_that_takes_too_long_is_given_up_and_the_rest_goes_on():
    with Workers(2) as workers:
        results = list(workers.map_ordered(misbehave, [1, "hang", 2, 3], chunk=4, timeout=0.3))
    assert results == [1, Failure("Too slow: reading it took longer than 0.3 s.", "too slow"), 2, 3]


def test_an_item_that_computes_too_long_is_given_up_long_before_one_that_waits():
    with Workers(1) as workers:
        list(workers.map_ordered(square, [1]))  # a start takes time of its own
        began = time.monotonic()
        results = list(workers.map_ordered(sum, [[1], itertools.repeat(1), [2]], chunk=1, timeout=1.5))
        assert time.monotonic() - began < 10
    assert results == [1, Failure("Too slow: reading it took longer than 1.5 s.", "too slow"), 2]


def test_time_in_which_others_have_the_machine_does_not_count():
    with Workers(1) as workers:
        assert list(workers.map_ordered(time.sleep, [1.0], timeout=0.2)) == [None]


def test_the_time_limit_is_per_item_and_not_per_chunk():
    with Workers(1) as workers:
        assert list(workers.map_ordered(time.sleep, [0.5] * 5, chunk=5, timeout=0.1)) == [None] * 5
        assert (
            list(workers.map_ordered(sum, [range(10**7)] * 5, chunk=5, timeout=1.0))
            == [sum(range(10**7))] * 5
        )


def test_an_error_that_data_causes_becomes_a_failure_with_its_reason():
    with Workers(1) as workers:
        assert list(workers.map_ordered(misbehave, [1, "refuse", 2])) == [
            1,
            Failure("This is no image.", "refused"),
            2,
        ]


def test_a_defect_of_the_function_is_raised_with_its_traceback_and_the_pool_stays_usable():
    with Workers(2) as workers:
        with pytest.raises(RuntimeError, match=r"(?s)in misbehave.*a programmer's mistake"):
            list(workers.map_ordered(misbehave, [1, "defect", 2]))
        assert list(workers.map_ordered(square, [3])) == [9]


def test_an_error_of_the_items_themselves_is_raised_as_it_is():
    def items():
        yield 1
        raise OSError("the disk went away")

    with Workers(1) as workers, pytest.raises(OSError, match="the disk went away"):
        list(workers.map_ordered(square, items(), chunk=1))


def test_items_are_taken_only_as_far_ahead_as_promised():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    with Workers(2) as workers:
        results = workers.map_ordered(square, items(), chunk=5, ahead=2)
        first = next(results)
        time.sleep(0.5)
        assert (first, len(taken) <= 2 * 3 * 5 + 30) == (0, True)
        before = len(taken)
        time.sleep(0.3)
        assert len(taken) == before
        results.close()


def test_an_item_that_fills_the_memory_costs_only_itself():
    with Workers(1) as workers:
        results = list(workers.map_ordered(bytearray, [10, 3 * 1024**3, 20], chunk=3))
    refused = Failure("Too large: reading it needs more memory than a worker may use.", "refused")
    assert results == [bytes(10), refused, bytes(20)]


def test_a_worker_without_memory_for_its_own_answer_counts_as_crashed():
    with Workers(1) as workers:
        results = list(workers.map_ordered(misbehave, [1, "fill", 2], chunk=1))
    assert results == [1, Failure("The decoder crashed: exit status 1.", "crashed"), 2]


def test_workers_are_kept_between_maps_and_stop_with_the_pool():
    with Workers(1) as workers:
        (first,) = workers.map_ordered(where, [0])
        (second,) = workers.map_ordered(where, [0])
        assert first == second != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_closing_the_iterator_early_stops_its_workers_at_once_and_frees_the_pool():
    with Workers(2) as workers:
        results = workers.map_ordered(misbehave, [1, "hang", "hang", "hang"], chunk=1)
        assert next(results) == 1
        started = time.monotonic()
        results.close()
        assert time.monotonic() - started < 5
        assert list(workers.map_ordered(square, [2])) == [4]


def test_closing_the_pool_from_another_thread_cancels_the_map():
    with Workers(1) as workers:
        results = workers.map_ordered(misbehave, [1, "hang"], chunk=1)
        assert next(results) == 1
        threading.Timer(0.2, workers.close).start()
        with pytest.raises(CancelledError, match="stopped before the work was done"):
            next(results)


def test_a_second_map_while_one_runs_is_refused():
    with Workers(1) as workers:
        results = workers.map_ordered(square, range(100), chunk=1)
        next(results)
        with pytest.raises(RuntimeError, match="busy with another map"):
            next(workers.map_ordered(square, [1]))


@pytest.mark.parametrize("wrong", [{"chunk": 0}, {"chunk": 10_001}, {"timeout": 0}, {"ahead": 0}])
def test_arguments_out_of_range_are_refused_with_their_values(wrong):
    (name, value), *_ = wrong.items()
    with Workers(1) as workers, pytest.raises(ValueError, match=f"{name}={value}"):
        workers.map_ordered(square, [1], **wrong)


def test_a_pool_without_workers_is_refused():
    with pytest.raises(ValueError, match="got -1"):
        Workers(-1)


def test_a_python_that_cannot_start_is_an_error_and_not_a_loop(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        Workers(1) as workers,
        pytest.raises(RuntimeError, match="do not start: exit status 1, 3 times"),
    ):
        list(workers.map_ordered(square, [1]))


def test_a_worker_that_the_system_refuses_is_an_error_in_words_and_leaves_no_handle(monkeypatch):
    def refused(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Workers(1) as workers, pytest.raises(WorkersError, match="cannot be started: Resource temporarily"):
        list(workers.map_ordered(square, [1]))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_thread_that_cannot_start_is_reported_and_the_next_map_works(monkeypatch):
    def refused(_):
        raise RuntimeError("can't start new thread")

    with Workers(1) as workers:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                list(workers.map_ordered(square, [1]))
        assert list(workers.map_ordered(square, [3])) == [9]


def test_a_worker_that_never_starts_is_given_up(monkeypatch):
    monkeypatch.setattr(worker_process, "_BOOT", "import time; time.sleep(600)")
    monkeypatch.setattr(worker_process, "_START_SECONDS", 0.2)
    with Workers(1) as workers, pytest.raises(WorkersError, match="do not start: SIGKILL, 3 times"):
        list(workers.map_ordered(square, [b"x" * 10_000_000]))


@pytest.mark.parametrize("error", ["EOFError", "BrokenPipeError", "ConnectionResetError"])
def test_a_function_that_raises_what_a_closed_channel_raises_is_a_defect_with_its_traceback(error):
    with Workers(1) as workers, pytest.raises(RuntimeError, match=f"(?s)in misbehave.*{error}: by itself"):
        list(workers.map_ordered(misbehave, [("raise", error)]))


def test_workers_serve_a_program_that_has_thousands_of_files_open(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import math, resource
            from nnguide_core.workers import Workers
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard > 0 else 4096, hard))
            files = [open("/dev/null") for _ in range(1100)]
            with Workers(2) as workers:
                print(list(workers.map_ordered(math.sqrt, [4.0, 9.0], chunk=1)))
        """)
    )
    done = _run_script(script)
    assert (done.stdout, done.stderr) == ("[2.0, 3.0]\n", "")


def test_a_script_needs_no_main_guard_and_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import math
            from nnguide_core.workers import Workers
            print("script runs")
            with Workers(2) as workers:
                print(list(workers.map_ordered(math.sqrt, [4.0, 9.0], chunk=1)))
        """)
    )
    done = _run_script(script)
    assert done.stdout.splitlines() == ["script runs", "[2.0, 3.0]"]


def test_a_stray_module_in_the_working_folder_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('this file must not be imported')")
    monkeypatch.chdir(tmp_path)
    with Workers(1) as workers:
        assert list(workers.map_ordered(square, [3])) == [9]


def test_workers_end_when_their_caller_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, signal
            from nnguide_core.workers import Workers
            from tests.errands import where
            workers = Workers(1)
            print(*workers.map_ordered(where, [0]), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    pid = int(_run_script(script).stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail(f"worker {pid} still runs")


def test_a_program_that_forgets_its_iterator_still_ends(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import math
            from nnguide_core.workers import Workers
            results = Workers(1).map_ordered(math.sqrt, map(float, range(10_000)), chunk=1)
            print(next(results))
        """)
    )
    assert _run_script(script).stdout == "0.0\n"


def _run_script(script):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=60
    )
