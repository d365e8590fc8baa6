"""Sessions side by side on one server: each keeps its own state, and none takes anything from the others."""

import asyncio
import time

from streamlit.proto.BackMsg_pb2 import BackMsg

from hardening.sessions import make_map, picture, together, upload
from nnguide_core.store import Workspace

COUNT = 4
PATIENCE = 60  # seconds
# No other test may use these pictures: an upload is kept while the draft of any other session lists it.
FIRST, SECOND = picture(2**31), picture(2**31 + 1)


def uploaded(server):
    return [path for path in (server.log.parent / "workspace" / "blobs").rglob("*") if path.is_file()]


async def until(is_so):
    deadline = time.monotonic() + PATIENCE
    while not is_so() and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    return is_so()


def test_each_session_has_its_own_k_threshold_image_and_selection_and_verdicts_are_shared(server, run):
    async def journey():
        await make_map(server.url)
        visitors = await together(server.url, COUNT)
        for visitor in visitors:
            await visitor.session.close()
        return visitors

    visitors = run(journey())
    assert [each for visitor in visitors for each in visitor.wrong] == []
    assert len({visitor.session.query for visitor in visitors}) == COUNT
    assert len({visitor.selected for visitor in visitors}) > 1
    notes = {each.note for each in Workspace(server.log.parent / "workspace").verdicts()}
    assert {f"note {number}" for number in range(COUNT)} <= notes
    assert "Traceback" not in server.log.read_text()


def test_uploads_survive_a_lost_connection_and_cleared_caches_and_are_freed_after_their_session(
    server, run, opened
):
    async def journey():
        session, another, third = await opened(), await opened(), await opened()
        await upload(session, "photo.png", FIRST)
        await upload(another, "photo.png", SECOND)
        assert len(uploaded(server)) == 2
        before = session.id
        await session.close()
        await third.send(BackMsg(clear_cache=True))
        await third.rerun()
        await asyncio.sleep(1.5)
        await session.open(resume=before)
        await asyncio.sleep(15)
        assert session.id == before
        assert len(uploaded(server)) == 2
        await another.rerun()
        for each in (session, another):
            assert "images: 1" in each.texts()
        await session.close()
        assert await until(lambda: len(uploaded(server)) == 1)
        await another.rerun()
        assert "images: 1" in another.texts()
        await another.close()
        await third.close()
        assert await until(lambda: not uploaded(server))

    run(journey())


def test_a_session_may_not_fill_the_server_with_uploads_that_no_page_asked_for(run, opened):
    async def journey():
        session = await opened()
        path = f"/_stcore/upload_file/{session.id}/"
        sizes = [await status(session, f"{path}{number}", bytes(2**18)) for number in range(6)]
        await session.close()
        return sizes

    assert run(journey()) == [204, 204, 204, 204, 413, 413]


async def status(session, path, data):
    return await asyncio.to_thread(session.put, path, "photo.png", data)
