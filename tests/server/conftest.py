"""The program's own server on the demo, and sessions of it over real websockets, without a browser."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from hardening.client import Session
from hardening.server import serve

ENDED = 6  # seconds after which a lost session is given up here, so that tests need not wait long


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server with allowed folders and a small allowance for uploads."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "allowed").mkdir()
    env = {
        "STREAMLIT_SERVER_DISCONNECTED_SESSION_TTL": str(ENDED),
        "NNGUIDE_DATA_ROOTS": str(folder / "allowed"),
        "NNGUIDE_UPLOAD_LIMIT": str(2**20),
    }
    with serve(folder, env) as running:
        yield running


@pytest.fixture
def run():
    """Run a coroutine, with a limit, in a thread of its own: Playwright keeps a loop in the main one."""

    def to_its_end(work):
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, asyncio.wait_for(work, 280)).result()

    return to_its_end


@pytest.fixture
def opened(server):
    """Open a session: await opened(page, **fields)."""

    async def one(page="", **fields):
        session = await Session(server.url, **fields).open()
        if page:
            await session.go(page)
        return session

    return one
