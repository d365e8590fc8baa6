"""Many sessions at once on the demo, over real websockets: errors, mixed-up state, memory, time, uploads.

"The same total load": one list of moments and actions is played twice, once by 50 sessions in turn, once by a
single one that acts 50 times as often. An interaction takes from the moment at which it was due until its
page is whole, so that waiting for one's own turn counts in both. The moments come so seldom that the single
session is idle half of the time: a queue of its own would make its time long, and the comparison easy.
"""

import asyncio
import io
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote_plus

import numpy as np
from PIL import Image
from streamlit.proto.Alert_pb2 import Alert
from websockets.exceptions import WebSocketException

from hardening.client import Session
from hardening.server import Server, serve
from hardening.table import Row, must_be_zero
from nnguide_core.logs import log_path
from nnguide_core.store import Workspace

__all__ = ["Visitor", "interact", "make_map", "rows", "together", "until"]

SESSIONS = 50
_BUSY = 0.5  # share of the time in which a single session that does everything is at work
_TIMED = 120  # interactions of each timed part
_TRIED = 24  # interactions, one straight after the other, that tell how often they may come
_ENDED = 2.0  # seconds after which the server gives up a lost session, so that the check need not wait long
_PATIENCE = 60.0  # seconds for uploads to be freed
_LONG = 240.0  # seconds for a job, also on a busy machine
_MB = 2**20


@dataclass
class Visitor:
    """One session whose user chose things that no other user chose."""

    number: int
    session: Session
    image: str = ""
    selected: int = 0
    wrong: list[str] = field(default_factory=list)  # what was seen and should not have been

    @property
    def k(self) -> int:
        """A number of neighbours of its own."""
        return 11 + self.number

    @property
    def level(self) -> float:
        """A threshold of its own."""
        return round(0.5 + self.number / 1000, 3)

    async def choose(self) -> None:
        """Set k and threshold, select on the map, open an image and say something of it."""
        await self.set_k(self.k)
        await self.session.go("map")
        await self._select()
        await self.session.go("triage")
        await self._open_an_image()
        await self.session.set("text_input", "note", f"note {self.number}")
        await self.session.press("unsure")
        await self.open_again(self.image)

    async def set_k(self, k: int) -> None:
        """Open the scores and move the sliders."""
        await self.session.go("scores")
        await self.move_k(k)

    async def move_k(self, k: int) -> None:
        """Move the sliders of the score board; the scores page must be open."""
        choice = {"k": k, "kind": "id_kept", "level": self.level, "threshold": 0.0}
        await self.session.tell("nnguide_scores", "choice", choice)

    async def open_again(self, image: str) -> None:
        """Look at an image of the triage page's queue."""
        await self.session.tell("nnguide_gallery", "selected", image)

    async def look_at_all(self) -> None:
        """Visit every page and take down what is not as this session left it."""
        for page in ("", "scores", "triage", "export", "map"):
            await self.session.go(page)
            self._see(f"k = {self.k}  ·")
            self._see(f"at least {100 * self.level:g} % of ID kept")
            self._no_error(page)
        self._see(f"{self.selected:,} images selected")
        for part in (f"k={self.k}", f"image={quote_plus(self.image)}", f"threshold=id_kept%3A{self.level!r}"):
            if part not in self.session.query:
                self.wrong.append(f"{part} is not in the address {self.session.query}")

    async def _select(self) -> None:
        """Draw a box around the images left of a line of its own."""
        places = self.session.messages()["map.points"]["positions"].reshape(-1, 2)
        low, high = places.min(axis=0) - 1, places.max(axis=0) + 1
        right = float(np.quantile(places[:, 0], 0.2 + self.number / 100)) + 1e-4
        self.selected = int((places[:, 0] < right).sum())
        corners = [(low[0], low[1]), (right, low[1]), (right, high[1]), (low[0], high[1])]
        outline = [float(part) for corner in corners for part in corner]
        await self.session.tell("nnguide_map", "polygon", {"outline": outline, "hidden": []})

    async def _open_an_image(self) -> None:
        tiles = next(
            each["tiles"] for name, each in self.session.messages().items() if name.endswith(".tiles")
        )
        self.image = tiles[self.number % len(tiles)]["id"]
        await self.open_again(self.image)

    def _see(self, words: str) -> None:
        if words not in self.session.texts():
            self.wrong.append(f"session {self.number} does not see {words!r}")

    def _no_error(self, page: str) -> None:
        for each in self.session.all("exception"):
            self.wrong.append(f"session {self.number} on {page!r}: {each.value.message}")
        errors = [each for each in self.session.all("alert") if each.value.format == Alert.ERROR]
        self.wrong += [f"session {self.number} on {page!r}: {each.value.body}" for each in errors]


def rows() -> Iterable[Row]:
    """Count what goes wrong among 50 sessions, and measure their time and memory."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"STREAMLIT_SERVER_DISCONNECTED_SESSION_TTL": str(int(_ENDED))}
        with serve(Path(folder), env) as server:
            try:
                return asyncio.run(_rows(server))
            except (LookupError, TimeoutError, WebSocketException) as error:
                raise RuntimeError(f"A session broke off: {error}") from error


async def together(url: str, count: int) -> list[Visitor]:
    """Return this many visitors, open at once, after each has chosen for itself while the others did."""
    visitors = [Visitor(number, Session(url)) for number in range(count)]
    await asyncio.gather(*(each.session.open() for each in visitors))
    await asyncio.gather(*(each.choose() for each in visitors))
    await asyncio.gather(*(each.look_at_all() for each in visitors))
    return visitors


async def make_map(url: str) -> None:
    """Have the server make the demo's map, as the first visitor would."""
    first = await Session(url).open()
    await first.go("map")
    await until(first, lambda: "map.points" in first.messages())
    await first.close()


async def upload(session: Session, name: str, data: bytes) -> None:
    """Add an image on the data page, as a browser does: to the server's memory first, then to the page."""
    await session.go("")
    await session.set("button_group", "What to look at", ["Own images"])
    await session.set("button_group", "Add a dataset", ["upload files or zips"])
    await session.upload(name, data)
    await until(session, lambda: "images: 1" in session.texts())


def picture(seed: int) -> bytes:
    """Return a small PNG."""
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


async def until(session: Session, is_so: Callable[[], bool]) -> None:
    """Run a page again until it shows something.

    Raises:
        TimeoutError: it did not for some minutes.
    """
    deadline = time.monotonic() + _LONG
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"The page never showed what was waited for, but: {session.texts()[:2000]}")
        await asyncio.sleep(0.3)
        await session.rerun()


async def _rows(server: Server) -> list[Row]:
    await make_map(server.url)
    (alone,) = await together(server.url, 1)
    one = server.memory
    visitors = await together(server.url, SESSIONS)
    per_session = (server.memory - one) / (SESSIONS * _MB)
    wrong = [*alone.wrong, *(each for visitor in visitors for each in visitor.wrong)]
    rate = await _rate(alone)
    many_p95 = await _timed(visitors, rate)
    one_p95 = await _timed([alone], rate)
    left = await _uploads_left(server, visitors[:10])
    logs = server.log, log_path(server.log.parent / "workspace")
    errors = sum(each.read_text(errors="replace").count("Traceback") for each in logs if each.exists())
    notes = {each.note for each in Workspace(server.log.parent / "workspace").verdicts()}
    lost = {f"note {each.number}" for each in visitors} - notes
    for line in wrong[:20]:
        print(line)
    return [
        Row("sessions", "sessions held at once", len(visitors), least=SESSIONS),
        must_be_zero("sessions", "things seen of another session, or errors", len(wrong)),
        must_be_zero("sessions", "errors in the logs", errors),
        must_be_zero("sessions", "verdicts lost", len(lost)),
        Row(
            "sessions",
            "p95 of 50 sessions",
            many_p95,
            unit="s",
            note=f"{rate:.2g} interactions per second in all",
        ),
        Row("sessions", "p95 of one session at the same total load", one_p95, unit="s"),
        Row("sessions", "ratio of the two", many_p95 / one_p95, most=2.0),
        Row("sessions", "memory per extra session", per_session, most=20.0, unit="MB"),
        must_be_zero("sessions", "uploads left after their sessions ended", left),
    ]


async def _rate(alone: Visitor) -> float:
    """Return how many interactions per second leave a single session idle for its share of the time."""
    chance = random.Random(1)  # noqa: S311 - what is done, no secrets
    began = time.monotonic()
    for _ in range(_TRIED):
        await interact(alone, chance.random())
    return _BUSY * _TRIED / (time.monotonic() - began)


async def _timed(visitors: Sequence[Visitor], rate: float) -> float:
    """Return the 95th percentile of the seconds that interactions take, each session one at a time."""
    chance = random.Random(0)  # noqa: S311 - a schedule, the same for both
    due, moment = [], 0.0
    while len(due) < _TIMED:
        moment += chance.expovariate(rate)
        due.append((moment, chance.randrange(SESSIONS), chance.random()))
    busy = {id(each): asyncio.Lock() for each in visitors}
    began = time.monotonic()

    async def act(moment: float, who: int, what: float) -> float:
        visitor = visitors[who % len(visitors)]
        await asyncio.sleep(began + moment - time.monotonic())
        async with busy[id(visitor)]:
            await interact(visitor, what)
        return time.monotonic() - began - moment

    return float(np.quantile(await asyncio.gather(*(act(*each) for each in due)), 0.95))


async def interact(visitor: Visitor, what: float) -> None:
    """Do one of the things that a user does: another k, another page."""
    if what < 0.5:
        await visitor.set_k(1 + int(100 * what))
    else:
        await visitor.session.go(("", "triage", "map", "export")[int(what * 8) % 4])


async def _uploads_left(server: Server, visitors: Sequence[Visitor]) -> int:
    """Let sessions upload and leave; return how many files are still there some time later."""
    blobs = Path(server.log.parent / "workspace" / "blobs")
    for visitor in visitors:
        await upload(visitor.session, "photo.png", picture(visitor.number))
    if not any(path.is_file() for path in blobs.rglob("*")):
        raise RuntimeError("The uploads did not arrive, so nothing is known of their end.")
    for visitor in visitors:
        await visitor.session.close()
    deadline = time.monotonic() + _PATIENCE
    while (left := sum(path.is_file() for path in blobs.rglob("*"))) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    return left
