"""Threads with cores of their own, which leave everybody else's alone."""

import threading

import pytest
import torch

from nnguide_core.features.compute_threads import ComputeThreads


@pytest.fixture(autouse=True)
def cores(request):
    before = torch.get_num_threads()
    torch.set_num_threads(getattr(request, "param", 2))
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "device", "count", "each"),
    [
        (1, "cpu", 1, 1),
        (2, "cpu", 2, 1),
        (8, "cpu", 8, 1),
        (20, "cpu", 8, 2),
        (4, "cuda", 2, 2),
        (1, "cuda", 2, 1),
    ],
    indirect=["cores"],
)
def test_cores_are_shared_out_among_the_threads(device, count, each):
    with ComputeThreads(device) as threads:
        assert threads.count == count
        meet = threading.Barrier(count)
        asked = [threads.submit(lambda: (meet.wait(60), torch.get_num_threads())[1]) for _ in range(count)]
        assert [future.result() for future in asked] == [each] * count


@pytest.mark.parametrize("cores", [3], indirect=True)
def test_other_threads_keep_all_the_cores(cores):
    with ComputeThreads("cpu"):
        assert torch.get_num_threads() == cores
        found = []
        later = threading.Thread(
            target=lambda: found.append((torch.ones(100_000).sum(), torch.get_num_threads()))
        )
        later.start()
        later.join()
    assert found[0][1] == cores


def test_leaving_waits_for_what_runs_and_drops_what_waits():
    done = []
    begun, go = threading.Event(), threading.Event()
    torch.set_num_threads(1)
    with ComputeThreads("cpu") as threads:
        running = threads.submit(lambda: (begun.set(), go.wait(60), done.append("running")))
        waiting = threads.submit(lambda: done.append("waiting"))
        assert begun.wait(60)
        threading.Timer(0.1, go.set).start()
    assert done == ["running"]
    assert running.done()
    assert waiting.cancelled()
