"""Thumbnails in a grid: the decision on the border and in the corner, one of them selected."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st

from views.components import ignore, legend, palettes, renderer, send
from views.components.events import Inbox
from views.text import literal
from views.theme import GROUPS, Group

__all__ = ["Tile", "gallery"]


@dataclass(frozen=True)
class Tile:
    """One thumbnail."""

    id: str
    image: bytes  # PNG, JPEG or WebP; anything else shows as a broken image
    group: Group
    caption: str  # shown below, as it is


def gallery(
    tiles: Sequence[Tile],
    reply: Callable[[str | None], str | None],
    *,
    key: str,
    label: str = "images",
    height: int = 480,
) -> str | None:
    """Show thumbnails; a click, Enter or Space selects one, arrow keys, Home and End move.

    Args:
        tiles: in reading order; hundreds are quick, thousands still work. Ids must differ.
        reply: called once per run with the id that was just selected (None in every other run); returns the
            id to show as selected, or None.
        key: unique on the page; also names the component's channels.
        label: what the grid holds, for screen readers.
        height: of the scrolled grid at most, in pixels.

    Returns:
        The id that was just selected, or None.
    """
    with st.container(gap=None):
        groups = [group for group in GROUPS if any(tile.group == group for tile in tiles)]
        result = renderer("gallery")(
            key=key,
            data={
                "channel": key,
                "palettes": palettes(),
                "groups": legend(groups),
                "label": literal(label),
                "height": height,
            },
            on_events_change=ignore,
        )
        inbox = Inbox(key, result.events)
        known = {tile.id for tile in tiles}
        selected = next((event.value for event in reversed(inbox.events) if event.value in known), None)
        _send_tiles(tiles, key)
        shown = reply(selected)
        inbox.close()
        send(f"{key}.selection", {"heard": inbox.heard, "selected": shown})
    return selected


def _send_tiles(tiles: Sequence[Tile], key: str) -> None:
    described = [
        {
            "id": tile.id,
            "caption": literal(tile.caption),
            "group": GROUPS.index(tile.group),
            "bytes": len(tile.image),
        }
        for tile in tiles
    ]
    images = np.frombuffer(b"".join(tile.image for tile in tiles), dtype=np.uint8)
    send(f"{key}.tiles", {"tiles": described}, {"images": images})
