"""Jobs outlive their pages: found again after a refresh or a lost connection, shared between sessions."""

import asyncio
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from hardening.sessions import picture
from nnguide_core.logs import log_path
from nnguide_core.records import fingerprint
from nnguide_core.store import Workspace

FIELD = "path of a folder, a zip, or a list of images (.txt, .csv)"
IMAGES = 3


@pytest.fixture
def held(server, request):
    """A folder of images whose scan waits until held.go() is called, as if another process were at it."""
    folder = server.log.parent / "allowed" / request.node.name
    folder.mkdir(parents=True)
    for number in range(IMAGES):
        (folder / f"{number}.png").write_bytes(picture(number))
    with ExitStack() as stack:
        lock = f"job {fingerprint('scan', str(folder))}"
        stack.enter_context(Workspace(server.log.parent / "workspace").lock(lock))
        yield SimpleNamespace(folder=folder, go=stack.close)


async def own_images(session):
    await session.set("button_group", "What to look at", ["Own images"])


async def start(session, folder):
    await own_images(session)
    session.give(session.widget("text_input", FIELD).id, str(folder))
    await session.press("Add")


def runs(session, folder):
    return any(
        f"Reading {folder.name}" in each.value.text.replace("\\", "") for each in session.all("progress")
    )


async def until(session, is_so):
    while not is_so():
        await asyncio.sleep(0.2)
        await session.rerun()


def test_a_job_goes_on_while_its_page_is_gone_and_is_found_again(run, opened, held):
    folder = held.folder

    async def journey():
        session = await opened()
        await start(session, folder)
        assert runs(session, folder)
        before = session.id
        await session.socket.close()  # lost, and back again as the same session
        await session.open(resume=before)
        assert session.id == before
        assert runs(session, folder)
        await session.close()
        refreshed = await opened()  # a refresh begins a new session
        await own_images(refreshed)
        assert runs(refreshed, folder)
        held.go()
        await until(refreshed, lambda: f"Reading {folder.name}: finished." in refreshed.texts())
        await refreshed.press("Use the result")
        assert f"images: {IMAGES}" in refreshed.texts()
        await refreshed.close()

    run(journey())


def test_two_sessions_that_want_the_same_share_one_job_and_either_can_stop_it(run, opened, held, server):
    folder = held.folder

    async def journey():
        one, other = await opened(), await opened()
        await start(one, folder)
        await start(other, folder)
        assert runs(one, folder)
        assert runs(other, folder)
        assert len(other.all("progress")) == 1
        await other.press("Cancel")
        for session in (one, other):
            await until(session, lambda session=session: "stopped" in session.texts())
            assert not runs(session, folder)
            await session.close()

    run(journey())
    log = log_path(server.log.parent / "workspace").read_text()
    assert log.count(f"Reading {folder.name}") == 1
