"""What the browser components share on the Python side: their files, and messages with packed arrays.

A component's own data stays small. Large or changing data travels beside it on a named channel: a carrier
that shows nothing hands its message to the component in the browser. A message that did not change is not
sent again, so hovering or selecting never re-sends the points.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from views.theme import DARK, GROUPS, LIGHT, MARKERS, Group, palette

__all__ = ["Renderer", "ignore", "legend", "pack", "palettes", "renderer", "send", "send_packed"]

_FOLDER = Path(__file__).parent
_ALIGNMENT = 8  # bytes; a typed array starts at a multiple of its element's size
_TYPES = {"f4": "<f4", "f8": "<f8", "u1": "u1", "u2": "<u2", "u4": "<u4", "i4": "<i4"}


class Renderer(Protocol):
    """Mounts a component and returns what the browser says, by event name."""

    def __call__(self, *, key: str, data: Any, **options: Any) -> Any:
        """Mount under a key, with JSON-able data or bytes; options are Streamlit's."""
        ...


@cache
def renderer(name: str) -> Renderer:
    """Return the component in views/components/NAME: component.html and .css where there are, and its .js.

    component.js comes last; shared.js and the folder's other scripts are put before it, shared.css before
    component.css.
    """
    folder = _FOLDER / name
    scripts = [_FOLDER / "shared.js", *sorted(set(folder.glob("*.js")) - {folder / "component.js"})]
    mounted: Renderer = st.components.v2.component(
        f"nnguide_{name}",
        html=_text(folder / "component.html"),
        css=_text(folder / "component.css", before=_FOLDER / "shared.css"),
        js="\n".join(script.read_text("utf-8") for script in [*scripts, folder / "component.js"]),
    )
    return mounted


def send(channel: str, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
    """Send a message to the component that listens on a channel, replacing the channel's last one."""
    send_packed(channel, pack(channel, header, arrays or {}))


def send_packed(channel: str, message: bytes) -> None:
    """Send what pack made for this channel: large messages are packed once and sent in every run."""
    renderer("channel")(key=f"channel-{channel}", data=message)


def pack(channel: str, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a message as bytes: the header's length, the header as JSON, then the arrays, aligned.

    Args:
        channel: the channel's name, put into the header together with a digest of everything else.
        header: JSON-able.
        arrays: float32, float64, uint8, uint16, uint32 or int32, of any shape.

    Raises:
        ValueError: an array of another type.
    """
    parts, body, start = [], [], 0
    for name, array in arrays.items():
        data = _contiguous(name, array)
        parts.append({"name": name, "type": data.dtype.str[1:], "start": start, "length": data.size})
        padding = -data.nbytes % _ALIGNMENT
        body.append(data.tobytes() + bytes(padding))
        start += data.nbytes + padding
    digest = hashlib.blake2b(json.dumps([header, parts]).encode(), digest_size=16)
    for piece in body:
        digest.update(piece)
    full = {**header, "channel": channel, "digest": digest.hexdigest(), "arrays": parts}
    text = json.dumps(full, allow_nan=False).encode()
    lead = len(text).to_bytes(4, "little") + text
    return b"".join([lead, bytes(-len(lead) % _ALIGNMENT), *body])


def legend(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """Return what a legend says of some groups: their place in the palette, glyph and words."""
    return [
        {"index": GROUPS.index(group), "glyph": MARKERS[group].glyph, "words": str(group)} for group in groups
    ]


def palettes() -> dict[str, Any]:
    """Return the colours of both themes; the browser picks the one that it shows."""
    return {"light": palette(LIGHT), "dark": palette(DARK)}


def ignore() -> None:
    """Stand in for a callback: Streamlit reports an event only where there is one."""


def _contiguous(name: str, array: NDArray[Any]) -> NDArray[Any]:
    kind = array.dtype.str[1:]
    if kind not in _TYPES:
        raise ValueError(
            f"The array {name!r} is {array.dtype}; a component reads {', '.join(_TYPES)}. Convert it first."
        )
    return np.ascontiguousarray(array, dtype=_TYPES[kind])


def _text(file: Path, before: Path | None = None) -> str | None:
    if not file.exists():
        return None
    return (before.read_text("utf-8") + "\n" if before else "") + file.read_text("utf-8")
