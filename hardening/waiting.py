"""One session uploads files that are hard to read while another works.

How long does the other one wait for its pages, what does the server's memory keep, and does the log keep its
history?
"""

import asyncio
import io
import itertools
import tempfile
import time
import zipfile
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hardening.client import Session
from hardening.server import Server, serve
from hardening.sessions import Visitor, make_map, together, until
from hardening.table import Row, must_be_zero
from nnguide_core.logs import log_path
from tests.zip_corpus import two_records

__all__ = ["rows"]

ENTRIES = 5_000_000  # of an npz and of a pth of 271 MB
EMPTY = 100_000  # files in a zip
ROWS = 400_000  # of a features file that is read to its end before it is refused
_ALONE = 30  # turns of the other session before anything is uploaded; one on the scores waits twice
_MOST_WAIT = 1.0  # seconds, 95th percentile
_MOST_KEPT = 200.0  # MB
_MOST_LINES = 40
_MB = 2**20

_Give = Callable[[str, str, bytes], Coroutine[Any, Any, float]]


def rows() -> Iterable[Row]:
    """Upload one file after the other, and look at the other session, the memory and the log."""
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as server:
        return asyncio.run(_rows(server))


async def _rows(server: Server) -> list[Row]:
    await make_map(server.url)
    (other,) = await together(server.url, 1)
    log = log_path(server.log.parent / "workspace")
    alone = [each for turn in range(_ALONE) for each in await _waits(other, turn)]
    await _give_features(server.url, "small.npz", _unreadable_features(100))  # what the first one loads stays
    before, history, size = server.memory, log.read_text(), log.stat().st_size
    result: list[Row] = []
    for name, give, data in _files():
        uploading = asyncio.create_task(give(server.url, name, data()))
        waits: list[float] = []
        turns = itertools.count()
        while not uploading.done():
            waits += await _waits(other, next(turns))
        took = await uploading
        p95 = float(np.quantile(waits, 0.95))
        note = f"{len(waits)} waits; refused {took:.0f} s after its upload began"
        result.append(Row("waiting", f"p95 beside {name}", p95, most=_MOST_WAIT, unit="s", note=note))
    await asyncio.sleep(2)
    text = log.read_text()
    lines = text[len(history) :].count("\n")
    return [
        Row("waiting", "p95 with nothing uploaded", float(np.quantile(alone, 0.95)), unit="s"),
        *result,
        Row("waiting", "memory kept", (server.memory - before) / _MB, most=_MOST_KEPT, unit="MB"),
        must_be_zero("waiting", "log lost its history", not text.startswith(history)),
        Row("waiting", "lines written to the log", lines, most=_MOST_LINES),
        Row("waiting", "bytes written to the log", log.stat().st_size - size, most=100_000),
        must_be_zero("waiting", "errors in the log", text.count("Traceback")),
    ]


async def _waits(other: Visitor, turn: int) -> list[float]:
    """Have the other session open a page and, on the scores, move k; return how long each took."""
    page = ("scores", "triage", "scores", "map", "scores", "export")[turn % 6]
    waits = [await _seconds(other.session.go(page))]
    if page == "scores":
        waits.append(await _seconds(other.move_k(1 + turn % 100)))
    return waits


async def _seconds(work: Coroutine[Any, Any, None]) -> float:
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await work
    return time.monotonic() - began


async def _give_features(url: str, name: str, data: bytes) -> float:
    """Upload a file as own features and have it computed; return the seconds until it is refused."""
    began = time.monotonic()
    session = await Session(url).open()
    await session.set("button_group", "What to look at", ["Own features"])
    await session.upload(name, data)
    await session.press("Compute")
    await until(session, lambda: "cannot be read" in session.texts() or "NaN" in session.texts())
    await session.close()
    return time.monotonic() - began


async def _give_zip(url: str, name: str, data: bytes) -> float:
    """Upload a zip of images; return the seconds until it is refused."""
    began = time.monotonic()
    session = await Session(url).open()
    await session.set("button_group", "What to look at", ["Own images"])
    await session.set("button_group", "Add a dataset", ["upload files or zips"])
    await session.upload(name, data)
    await until(session, lambda: "no image" in session.texts())
    await session.close()
    return time.monotonic() - began


def _files() -> Iterable[tuple[str, _Give, Callable[[], bytes]]]:
    yield "entries.npz", _give_features, lambda: two_records(ENTRIES, b"0000.npy")
    yield "entries.pth", _give_features, lambda: two_records(ENTRIES, b"m/data/0")
    yield "long.npz", _give_features, lambda: _unreadable_features(ROWS)
    yield "empty.zip", _give_zip, _empty_files


def _empty_files() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(EMPTY):
            archive.writestr(f"{number:06d}.png", b"")
    return file.getvalue()


def _unreadable_features(count: int) -> bytes:
    """Return a features file whose last row alone is not finite."""
    features = np.ones((count, 64), np.float32)
    features[-1] = np.nan
    file = io.BytesIO()
    paths = np.array([f"{row}.png" for row in range(count)])
    np.savez(file, features=features, logits=np.ones((count, 8), np.float32), paths=paths)
    return file.getvalue()
