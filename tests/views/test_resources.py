"""What all sessions share, at its seams: runs that stay answered, uploads, jobs and the ends of sessions."""

import gc
import io
import os
import time
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import streamlit as st
import torch
from PIL import Image

from nnguide_core.evaluation.plans import Plan, compute, scan
from nnguide_core.evaluation.questions import keep
from nnguide_core.jobs import Job, JobContext, Jobs
from nnguide_core.models import ModelSpec
from nnguide_core.models.architectures import torchvision_model
from nnguide_core.records import JobState, Role
from nnguide_core.store import Workspace
from tests.processes import fork
from tests.synthetic import make_question
from views import resources
from views.farewell import Farewells

SOON = 300.0  # seconds; never reached where things work
SESSION = "a0" * 16
RUNS = 6  # more than are kept for sessions that are gone


@pytest.fixture(scope="module")
def weights():
    """A small network's own weights, as a user saves them."""
    torch.manual_seed(0)
    network = torchvision_model("shufflenet_v2_x0_5", class_count=3).network
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders of JPEGs and PNGs: a bank, ID and OOD images."""
    root = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for name, count in (("bank", 12), ("id", 6), ("ood", 6)):
        (root / name).mkdir()
        for number in range(count):
            pixels = torch.randint(0, 256, (24, 24, 3), dtype=torch.uint8, generator=generator).numpy()
            Image.fromarray(pixels).save(root / name / f"{number}.{('jpg', 'png')[number % 2]}")
    return root


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The workspace of a server whose only tab is gone as soon as somebody looks."""
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / "home"))
    farewells = Farewells(patience=60, is_here=lambda _: False, pause=3600)
    monkeypatch.setattr(resources, "Farewells", lambda: farewells)
    monkeypatch.setattr(resources, "this_tab", lambda: "tab")
    yield resources.workspace()
    resources.jobs().close()


@pytest.fixture
def plan(workspace, pictures, weights):
    """A plan whose checkpoint was uploaded."""
    roles = {"bank": Role.BANK, "id": Role.ID, "ood": Role.OOD}
    datasets = [
        scan(workspace, pictures / name, name, role, JobContext(Job("", "", {})))
        for name, role in roles.items()
    ]
    checkpoint = resources.uploads(SESSION).add_file(weights, "own.pth")
    spec = ModelSpec("torchvision", "shufflenet_v2_x0_5", checkpoint=checkpoint, class_count=3)
    return Plan(spec, tuple(datasets))


def end_the_session():
    resources._of_server(resources.workspace_home()).farewells.look(time.monotonic() + 3600)


def start(jobs, workspace, plan):
    about = {"kind": "compute", "plan": plan.to_json()}
    return jobs.start("compute", "Computing", partial(compute, workspace, plan), about=about)


def until(condition):
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_that_is_queued_when_its_session_ends_still_finds_its_checkpoint(workspace, plan):
    def wait(context):
        while not lets_go:
            context.check()
            time.sleep(0.01)

    lets_go = []
    jobs, checkpoint = resources.jobs(), plan.spec.checkpoint
    blocker = jobs.start("blocker", "Another run", wait)
    job = start(jobs, workspace, plan)
    until(lambda: job.note == "Waiting for: Another run")
    end_the_session()
    workspace.clean_up(min_age=-1.0)
    assert checkpoint.exists()
    lets_go.append(True)
    assert blocker.wait(SOON)
    assert job.wait(SOON)
    assert (job.state, job.error) == (JobState.DONE, "")
    end_the_session()
    assert not checkpoint.parent.exists()
    assert workspace.runs()[0].question == job.result


def test_a_job_whose_server_was_killed_finds_its_checkpoint_when_it_is_started_again(workspace, plan):
    reading, writing = os.pipe()

    def serve():
        def work(_):
            os.write(writing, b"x")
            time.sleep(SOON)

        about = {"kind": "compute", "plan": plan.to_json()}
        Jobs(Workspace(workspace.root)).start("compute", "Computing", work, about=about).wait()

    server = fork(serve)
    os.read(reading, 1)
    os.kill(server, 9)
    os.waitpid(server, 0)
    end_the_session()
    workspace.clean_up(min_age=-1.0)
    (left,) = resources.jobs().interrupted()
    job = start(resources.jobs(), workspace, Plan.from_json(left.about["plan"]))
    assert job.wait(SOON)
    assert (job.state, job.error) == (JobState.DONE, "")
    workspace.clean_up(min_age=-1.0)
    assert not plan.spec.checkpoint.exists()


@pytest.fixture
def two_servers(workspace, monkeypatch):
    """Return what lets go of a session that another server holds; nobody here may wait for that."""

    def wait(_):
        pytest.fail("waits for a lock")

    monkeypatch.setattr("nnguide_core.locks.time", SimpleNamespace(sleep=wait))
    other = workspace.open_session(SESSION)
    other.__enter__()
    yield lambda: other.__exit__(None, None, None)
    other.__exit__(None, None, None)


def test_a_session_that_another_server_holds_hinders_nobody_and_is_freed_by_the_last_that_holds_it(
    workspace, two_servers
):
    path = resources.uploads(SESSION).add_file(b"weights", "own.pth")
    resources.uploads("b0" * 16).add_file(b"weights", "own.pth")
    end_the_session()
    assert list(workspace.blobs.iterdir()) == [path.parents[2]]
    two_servers()
    resources.uploads(SESSION)
    end_the_session()
    assert list(workspace.blobs.iterdir()) == []


def test_a_session_is_held_as_soon_as_another_server_lets_go_of_it(workspace, two_servers, monkeypatch):
    farewells = resources._of_server(resources.workspace_home()).farewells
    monkeypatch.setattr(farewells, "_is_here", lambda _: True)
    resources.uploads(SESSION)
    two_servers()
    assert not workspace.is_locked(f"session {SESSION}")
    farewells.look(time.monotonic())
    assert workspace.is_locked(f"session {SESSION}")


@pytest.fixture
def questions(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path))
    st.cache_resource.clear()
    found = []
    for size in range(10, 10 + RUNS):
        question = make_question(ood_sizes=(size,))
        keep(resources.workspace(), question)
        run = question.run(5)
        resources.workspace().save_run(run)
        found.append(run.question)
    yield found
    st.cache_resource.clear()


@pytest.mark.filterwarnings("ignore")
def test_any_number_of_sessions_keep_the_runs_that_they_show(questions, monkeypatch):
    answered = []
    evaluate = resources.evaluate
    monkeypatch.setattr(
        resources, "evaluate", lambda *each, **more: answered.append(1) or evaluate(*each, **more)
    )
    sessions = [resources.evaluation(question) for question in questions]
    for _ in range(2):
        for question, held in zip(questions, sessions, strict=True):
            assert resources.evaluation(question) is held
    assert len(answered) == RUNS
    del sessions, held
    gc.collect()
    resources.evaluation(questions[0])  # nobody holds it, and four newer ones have been opened
    assert len(answered) == RUNS + 1


@pytest.mark.filterwarnings("ignore")
def test_what_another_session_compares_while_a_run_is_opened_is_shown_to_both(questions, monkeypatch):
    compared, opening = [], resources._evaluation

    def compare_meanwhile(question):
        opened = opening(question)
        monkeypatch.setattr(resources, "_evaluation", opening)
        compared.append(resources.compared(question))
        return opened

    monkeypatch.setattr(resources, "_evaluation", compare_meanwhile)
    assert resources.evaluation(questions[0]) is compared[0]
    assert resources.evaluation(questions[0]) is compared[0]


@pytest.mark.filterwarnings("ignore")
def test_what_a_job_computes_again_while_it_is_shown_is_let_go_of(questions):
    shown = resources.evaluation(questions[0])
    again = resources.evaluate(shown.question, k=1, baselines=())
    gone = weakref.ref(again)
    resources.hand_over(again)
    del again
    gc.collect()
    assert gone() is None
