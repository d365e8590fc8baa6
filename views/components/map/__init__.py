"""The map of all images: up to a million points to pan, zoom, hover, click and select.

Points are sent once. A box or lasso comes back as its outline; the reply is one bit per point. Call it inside
`st.fragment`, so that hovering runs nothing but the map.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from views.components import ignore, legend, pack, palettes, renderer, send, send_packed
from views.components.events import Event, Inbox
from views.components.map.polygon import points_inside
from views.text import literal
from views.theme import GROUPS

__all__ = [
    "ByClass",
    "ByValue",
    "Card",
    "Links",
    "MapEvent",
    "MapPoints",
    "MapReply",
    "image_map",
]

_CLASSES_COLORED = 8  # as many as the theme has series colours; the other classes share one
_OTHER_CLASS, _NO_CLASS = 255, 254  # codes, as in colors.js


@dataclass(frozen=True, eq=False)
class MapPoints:
    """N points, not changed once they are here. An event names a point by its row."""

    positions: NDArray[np.floating[Any]]  # (N, 2) finite
    groups: NDArray[np.integer[Any]]  # (N,) places in theme.GROUPS

    def __post_init__(self) -> None:
        if self.positions.shape != (len(self.groups), 2):
            raise ValueError(f"positions must be ({len(self.groups)}, 2), got {self.positions.shape}.")
        lost = int((~np.isfinite(self.positions).all(axis=1)).sum())
        if lost:
            raise ValueError(
                f"{lost} of {len(self.groups)} positions are not finite. Leave those points out."
            )
        if len(self.groups) and not 0 <= int(self.groups.min()) <= int(self.groups.max()) < len(GROUPS):
            raise ValueError(f"groups must be places in theme.GROUPS, 0 to {len(GROUPS) - 1}.")


@dataclass(frozen=True)
class ByValue:
    """Colour points along a ramp: diverging around the centre where there is one, else from low to high."""

    label: str
    values: NDArray[np.floating[Any]]  # (N,); NaN where unknown
    center: float | None = None  # the threshold, for scores


@dataclass(frozen=True)
class ByClass:
    """Colour points by class or dataset: the eight most frequent, all others, and those without any."""

    label: str
    codes: NDArray[np.integer[Any]]  # (N,) places in names, −1 where unknown
    names: Sequence[str]


@dataclass(frozen=True)
class Card:
    """What is shown beside a hovered point, above what the browser knows of it: group and value or class."""

    point: int
    lines: tuple[str, ...] = ()
    image: bytes | None = None  # PNG, JPEG or WebP


@dataclass(frozen=True)
class Links:
    """Lines from a point to its k true neighbours."""

    origin: tuple[float, float]
    neighbors: NDArray[np.floating[Any]]  # (k, 2) where they lie
    far: NDArray[np.bool_]  # (k,) those that are elsewhere on the map, drawn dashed


@dataclass(frozen=True)
class MapEvent:
    """What the user has just done; all None or False in a run that something else started.

    Where cleared comes with a polygon or a click, these came after it.
    """

    hovered: int | None = None
    clicked: int | None = None
    polygon: NDArray[np.float64] | None = None  # (P, 2) the outline of a box or lasso, in map coordinates
    hidden: tuple[int, ...] = ()  # places in theme.GROUPS that the legend hid when the outline was drawn
    cleared: bool = False

    def selected(self, points: MapPoints) -> NDArray[np.bool_]:
        """Return which points the outline selects, (N,): those inside that the legend does not hide."""
        if self.polygon is None:
            return np.zeros(len(points.groups), dtype=bool)
        return points_inside(self.polygon, points.positions) & ~np.isin(points.groups, self.hidden)


@dataclass(frozen=True)
class MapReply:
    """What the map shows from now on."""

    selected: NDArray[np.bool_] | None = None  # (N,); the others turn grey. None: nothing is selected
    links: Links | None = None
    card: Card | None = None  # the answer to hovered


def image_map(
    points: MapPoints,
    reply: Callable[[MapEvent], MapReply],
    *,
    key: str,
    coloring: ByValue | ByClass | None = None,
    height: int = 620,
) -> MapEvent:
    """Show the map.

    Args:
        points: where the images lie, with their group.
        reply: called once per run with what the user has just done; returns what to show. Hovering asks for a
            card 125 ms after the pointer came to rest, once per point.
        key: unique on the page; also names the component's channels.
        coloring: how to colour points; None is by group.
        height: of the map in pixels, its controls not counted.

    Returns:
        What the user has just done.
    """
    with st.container(gap=None):
        result = renderer("map")(
            key=key,
            data={
                "channel": key,
                "palettes": palettes(),
                "legend": legend(GROUPS[index] for index in np.unique(points.groups)),
                "height": height,
            },
            on_events_change=ignore,
        )
        inbox = Inbox(key, result.events)
        event = _merged(inbox.events, len(points.groups))
        send_packed(f"{key}.points", _packed_points(points, f"{key}.points"))
        send(f"{key}.coloring", *_coloring_message(coloring))
        answer = reply(event)
        inbox.close()
        _send_reply(answer, inbox.heard, key)
    return event


def _merged(events: Sequence[Event], count: int) -> MapEvent:
    """Return what several events come to: the last of each kind, and nothing that was cleared after."""
    merged = MapEvent()
    for event in events:
        if event.name == "cleared":
            merged = MapEvent(hovered=merged.hovered, cleared=True)
        elif event.name == "polygon" and (drawn := _drawn(event.value)) is not None:
            merged = replace(merged, polygon=drawn[0], hidden=drawn[1])
        elif event.name == "hovered" and _is_point(event.value, count):
            merged = replace(merged, hovered=event.value)
        elif event.name == "clicked" and _is_point(event.value, count):
            merged = replace(merged, clicked=event.value)
    return merged


def _is_point(value: Any, count: int) -> bool:
    return isinstance(value, int) and 0 <= value < count


def _drawn(value: Any) -> tuple[NDArray[np.float64], tuple[int, ...]] | None:
    """Return an outline, sent as x, y, x, y, …, and the groups that were hidden; None for anything else."""
    outline, hidden = (value.get("outline"), value.get("hidden")) if isinstance(value, dict) else (None, None)
    if not isinstance(outline, list) or len(outline) < 6 or len(outline) % 2 or not isinstance(hidden, list):
        return None
    if not all(isinstance(part, int | float) for part in (*outline, *hidden)):
        return None
    return np.array(outline, dtype=np.float64).reshape(-1, 2), tuple(hidden)


@lru_cache(maxsize=4)
def _packed_points(points: MapPoints, channel: str) -> bytes:
    """Return the points' message, made once per map: hovering and selecting run this every time."""
    positions = np.ascontiguousarray(points.positions, dtype=np.float32)
    # A change of decisions keeps the view, another map does not: the browser tells them apart by this.
    places = hashlib.blake2b(positions.tobytes(), digest_size=16).hexdigest()
    arrays: dict[str, NDArray[Any]] = {"positions": positions, "groups": points.groups.astype(np.uint8)}
    return pack(channel, {"places": places}, arrays)


def _coloring_message(coloring: ByValue | ByClass | None) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    if coloring is None:
        return {"kind": "group"}, {}
    label = literal(coloring.label)
    if isinstance(coloring, ByClass):
        codes, names = _most_frequent(coloring)
        shared = {"others": bool((codes == _OTHER_CLASS).any()), "none": bool((codes == _NO_CLASS).any())}
        return {"kind": "class", "label": label, "names": names, **shared}, {"codes": codes}
    finite = coloring.values[np.isfinite(coloring.values)]
    low, high = np.quantile(finite, [0.01, 0.99]) if len(finite) else (0.0, 1.0)
    header = {
        "kind": "value",
        "label": label,
        "low": float(low),
        "high": float(high),
        "center": coloring.center,
    }
    return header, {"values": coloring.values.astype(np.float32)}


def _most_frequent(coloring: ByClass) -> tuple[NDArray[np.uint8], list[str]]:
    known = coloring.codes[coloring.codes >= 0]
    counts = np.bincount(known, minlength=len(coloring.names))
    shown = [int(code) for code in np.argsort(-counts, kind="stable")[:_CLASSES_COLORED] if counts[code]]
    renumbered = np.full(len(coloring.names) + 1, _OTHER_CLASS, dtype=np.uint8)  # the last is for −1
    renumbered[shown] = np.arange(len(shown))
    renumbered[-1] = _NO_CLASS
    return renumbered[coloring.codes], [literal(coloring.names[code]) for code in shown]


def _send_reply(reply: MapReply, heard: int, key: str) -> None:
    header: dict[str, Any] = {"heard": heard}
    arrays: dict[str, NDArray[Any]] = {}
    if reply.selected is not None:
        arrays["selected"] = np.packbits(reply.selected, bitorder="little")
    if reply.links is not None:
        header["from"] = [float(value) for value in reply.links.origin]
        arrays["to"] = reply.links.neighbors.astype(np.float32)
        arrays["far"] = reply.links.far.astype(np.uint8)
    send(f"{key}.reply", header, arrays)
    if reply.card is not None:
        card = reply.card
        lines = {"point": card.point, "lines": [literal(line) for line in card.lines]}
        send(f"{key}.card", lines, {"image": np.frombuffer(card.image or b"", dtype=np.uint8)})
