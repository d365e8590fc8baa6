"""A browser's half of Streamlit's protocol without a browser: sessions over real websockets, many at once."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.Common_pb2 import FileURLsRequest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.NewSession_pb2 import Config
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect

__all__ = ["CHANNEL", "XSRF_COOKIE", "Session", "Shown", "xsrf_token"]

XSRF_COOKIE = "_streamlit_xsrf"
CHANNEL = "nnguide_channel"
_WAIT = 240.0  # seconds for an answer, also on a busy machine
_MOST_BYTES = 2**28  # of one message


@dataclass(frozen=True)
class Shown:
    """One element of a page."""

    kind: str  # as Streamlit's Element names it
    value: Any  # the element's own message

    @property
    def id(self) -> str:
        """The widget's id, "" where it is no widget."""
        return str(getattr(self.value, "id", ""))


@dataclass
class Session:
    """One browser tab: what it shows, and what its user does."""

    url: str
    query: str = ""
    socket: ClientConnection | None = None
    id: str = ""
    token: str = ""  # against cross-site requests, as the cookie has it
    pages: dict[str, str] = field(default_factory=dict)  # url path -> hash of the page's script
    page: str = ""  # the hash of the page that is shown
    elements: dict[tuple[int, ...], Shown] = field(default_factory=dict)
    values: dict[str, WidgetState] = field(default_factory=dict)  # what the user set, by widget id
    cached: dict[str, ForwardMsg] = field(default_factory=dict)  # messages not sent again
    received: int = 0  # bytes
    settings: Config | None = None  # what the server told its page
    _seen: set[tuple[int, ...]] = field(default_factory=set)
    _fragments: dict[tuple[int, ...], str] = field(default_factory=dict)
    _stamp: int = 0

    async def open(self, resume: str = "", page: str = "") -> Self:
        """Connect and run the app, as a new tab does; resume takes up a session that was lost."""
        await self.connect(resume)
        await self.rerun(page_name=page)
        return self

    async def connect(self, resume: str = "") -> None:
        """Connect alone, with the cookie and the headers that a browser sends."""
        parts = urlsplit(self.url)
        self.token = await asyncio.to_thread(xsrf_token, self.url)
        protocols = [each for each in ("streamlit", self.token, resume) if each]
        self.socket = await connect(
            f"ws://{parts.netloc}{parts.path.rstrip('/')}/_stcore/stream",
            subprotocols=protocols,  # type: ignore[arg-type]
            origin=f"{parts.scheme}://{parts.netloc}",  # type: ignore[arg-type]
            additional_headers={"Cookie": f"{XSRF_COOKIE}={self.token}"},
            max_size=_MOST_BYTES,
            open_timeout=_WAIT,
            ping_interval=None,
            compression=None,
            proxy=None,
        )

    async def close(self) -> None:
        """Leave, as a closed tab does."""
        if self.socket is not None:
            await self.socket.close()

    async def go(self, page: str) -> None:
        """Open a page by its path in the address, such as "scores"."""
        self.page = self.pages[page]
        await self.rerun()

    async def press(self, label: str) -> None:
        """Press the first button with this label."""
        await self.press_widget(self.widget("button", label))

    async def press_widget(self, button: Shown) -> None:
        """Press a button."""
        await self.rerun(once=WidgetState(id=button.id, trigger_value=True))

    async def set(self, kind: str, label: str, value: Any) -> None:
        """Give a widget a value; kind is Streamlit's name of the element."""
        self.give(self.widget(kind, label).id, value)
        await self.rerun()

    def give(self, widget: str, value: Any) -> None:
        """Note a widget's value, to be sent with the next run."""
        state = WidgetState(id=widget)
        if isinstance(value, list):
            state.string_array_value.data.extend(value)
        else:
            kinds = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
            setattr(state, kinds[type(value)], value)
        self.values[widget] = state

    async def upload(self, name: str, data: bytes) -> None:
        """Give a file to the page's first file uploader."""
        widget = self.all("file_uploader")[0].id
        await self.send(BackMsg(file_urls_request=FileURLsRequest(request_id=name, file_names=[name])))
        while (message := await self.receive()).WhichOneof("type") != "file_urls_response":
            pass
        urls = message.file_urls_response.file_urls[0]
        await asyncio.to_thread(self.put, urls.upload_url, name, data)
        state = WidgetState(id=widget)
        found = state.file_uploader_state_value.uploaded_file_info.add(file_id=urls.file_id, name=name)
        found.size = len(data)
        found.file_urls.CopyFrom(urls)
        self.values[widget] = state
        await self.rerun()

    def put(self, path: str, name: str, data: bytes) -> int:
        """Send a file's bytes to where uploads go; return the status of the answer."""
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'
        headers = {
            "Content-Type": f"multipart/form-data; boundary={edge}",
            "Cookie": f"{XSRF_COOKIE}={self.token}",
            "X-Xsrftoken": self.token,
        }
        body = head.encode() + data + f"\r\n--{edge}--\r\n".encode()
        request = Request(f"{self.url.rstrip('/')}{path}", body, headers, method="PUT")  # noqa: S310
        try:
            with urlopen(request, timeout=_WAIT) as answer:  # noqa: S310 - a test's own server
                return int(answer.status)
        except HTTPError as error:
            return error.code

    async def tell(self, component: str, name: str, value: Any) -> None:
        """Let a browser component tell the server what its user did, as shared.js does."""
        found = next(
            (path, each)
            for path, each in self.elements.items()
            if each.kind == "bidi_component" and each.value.component_name == component
        )
        self._stamp = max(self._stamp + 1, time.time_ns() // 1_000_000)
        told = {"events": [{"stamp": self._stamp, "name": name, "value": value}]}
        self.values[found[1].id] = WidgetState(id=found[1].id, json_value=json.dumps(told))
        await self.rerun(fragment=self._fragments.get(found[0], ""))

    async def rerun(
        self, *, once: WidgetState | None = None, page_name: str = "", fragment: str = ""
    ) -> None:
        """Ask for a run of the app and take in what it shows until it is over."""
        await self.send(self._ask(once, page_name, fragment))
        await self.until_finished()

    async def send(self, message: BackMsg) -> None:
        """Send any message."""
        assert self.socket is not None, "open the session first"
        await self.socket.send(message.SerializeToString())

    async def until_finished(self) -> None:
        """Take in messages until a run is over that no other follows at once."""
        while True:
            message = await self.receive()
            if message.WhichOneof("type") != "script_finished":
                continue
            if message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                return

    async def receive(self) -> ForwardMsg:
        """Take in one message."""
        assert self.socket is not None, "open the session first"
        data = await asyncio.wait_for(self.socket.recv(decode=False), _WAIT)
        self.received += len(data)
        message = ForwardMsg()
        message.ParseFromString(data)
        if message.WhichOneof("type") == "ref_hash":
            known = self.cached[message.ref_hash]
            full = ForwardMsg()
            full.CopyFrom(known)
            full.metadata.CopyFrom(message.metadata)
            message = full
        elif message.metadata.cacheable:
            self.cached[message.hash] = message
        self._take(message)
        return message

    def widget(self, kind: str, label: str) -> Shown:
        """Return the widget with this label.

        Raises:
            LookupError: the page has none.
        """
        for each in self.all(kind):
            if each.value.label == label or (not label and kind == "bidi_component"):
                return each
        raise LookupError(
            f"The page has no {kind} {label!r}; it has {[e.value.label for e in self.all(kind)]}."
        )

    def all(self, kind: str) -> list[Shown]:
        """Return the elements of a kind, in the order of the page."""
        return [self.elements[path] for path in sorted(self.elements) if self.elements[path].kind == kind]

    def texts(self) -> str:
        """Return what the page says in text elements, headings, captions and alerts."""
        kinds = ("text", "heading", "markdown", "alert", "exception")
        return "\n".join(
            _words(self.elements[path]) for path in sorted(self.elements) if self.elements[path].kind in kinds
        )

    def messages(self) -> dict[str, dict[str, Any]]:
        """Return what the page's channels carry to browser components, by channel, arrays included."""
        carriers = [each for each in self.all("bidi_component") if each.value.component_name == CHANNEL]
        found = [_unpacked(each.value.bytes) for each in carriers]
        return {each["channel"]: each for each in found}

    def _ask(self, once: WidgetState | None, page_name: str, fragment: str) -> BackMsg:
        state = ClientState(query_string=self.query, page_script_hash=self.page, page_name=page_name)
        state.widget_states.widgets.extend(self.values.values())
        if once is not None:
            state.widget_states.widgets.append(once)
        state.cached_message_hashes.extend(self.cached)
        state.context_info.url = self.url
        state.context_info.timezone = "UTC"
        state.context_info.color_scheme = "light"
        state.fragment_id = fragment
        return BackMsg(rerun_script=state)

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        takers: dict[str, Callable[[ForwardMsg], None]] = {
            "new_session": self._start,
            "navigation": self._navigate,
            "delta": self._draw,
            "page_info_changed": self._address,
            "script_finished": self._finish,
        }
        if kind in takers:
            takers[kind](message)

    def _start(self, message: ForwardMsg) -> None:
        self.id = message.new_session.initialize.session_id
        self.settings = message.new_session.config
        self._seen = set()

    def _navigate(self, message: ForwardMsg) -> None:
        found = message.navigation
        self.pages = {each.url_pathname: each.page_script_hash for each in found.app_pages}
        self.page = found.page_script_hash

    def _address(self, message: ForwardMsg) -> None:
        self.query = message.page_info_changed.query_string

    def _draw(self, message: ForwardMsg) -> None:
        path = tuple(message.metadata.delta_path)
        self._seen.add(path)
        delta = message.delta
        if delta.WhichOneof("type") == "new_element":
            kind = str(delta.new_element.WhichOneof("type"))
            self.elements[path] = Shown(kind, getattr(delta.new_element, kind))
        elif delta.WhichOneof("type") == "add_block":
            self.elements.pop(path, None)
        self._fragments[path] = delta.fragment_id

    def _finish(self, message: ForwardMsg) -> None:
        """Take away what a whole run of the page did not draw again."""
        whole = not message.metadata.run.fragment_ids
        if whole and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
            self.elements = {path: each for path, each in self.elements.items() if path in self._seen}


def xsrf_token(url: str) -> str:
    """Return the token that the server sets as a cookie on its first answer."""
    with urlopen(f"{url.rstrip('/')}/_stcore/health", timeout=_WAIT) as answer:  # noqa: S310 - a test's own server
        cookies = answer.headers.get_all("Set-Cookie") or []
    found = [each for each in cookies if each.startswith(f"{XSRF_COOKIE}=")]
    return found[0].split(";")[0].partition("=")[2] if found else ""


def _unpacked(data: bytes) -> dict[str, Any]:
    """Read what views.components.pack made, as shared.js does."""
    length = int.from_bytes(data[:4], "little")
    header: dict[str, Any] = json.loads(data[4 : 4 + length])
    body = -(-(4 + length) // 8) * 8
    for part in header["arrays"]:
        kind, start = np.dtype(f"<{part['type']}"), body + part["start"]
        header[part["name"]] = np.frombuffer(data, kind, part["length"], start)
    return header


def _words(shown: Shown) -> str:
    value = shown.value
    return str(getattr(value, "body", "") or getattr(value, "message", "") or value)
