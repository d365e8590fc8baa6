"""The map on made-up points; &count= sets how many there are, &slow= how many seconds a run takes longer."""

import io
import time

import numpy as np
import streamlit as st
from PIL import Image

from views.components.map import ByClass, ByValue, Card, Links, MapPoints, MapReply, image_map

CLASSES = ("automobile", "cat <i>", "dog", "ship")


def asked():
    """Return how many points the address asks for."""
    return int(st.query_params.get("count", "5000"))


@st.cache_resource
def made(count):
    """Return points in four clusters: class, score, position and group."""
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 4, count)
    centres = np.array([[-6, -3], [5, -4], [-4, 5], [6, 4]])
    positions = (centres[codes] + rng.normal(0, 1.4, (count, 2))).astype(np.float32)
    scores = rng.normal(-60, 15, count).astype(np.float32)
    bank = rng.random(count) < 0.4
    ood = codes == 3
    flagged = scores > -45
    groups = np.where(bank, 0, np.where(ood, np.where(flagged, 2, 4), np.where(flagged, 3, 1)))
    return MapPoints(positions, groups), codes, scores


@st.cache_resource
def thumbnail(code):
    """Return a small plain picture."""
    data = io.BytesIO()
    Image.new("RGB", (32, 32), (60 * code, 120, 200)).save(data, "PNG")
    return data.getvalue()


def reply(event):
    """Keep what was selected and clicked, and answer."""
    points, codes, scores = made(asked())
    chosen = st.session_state
    if event.cleared:
        chosen["drawn"], chosen["clicked"] = None, None
    if event.polygon is not None:
        chosen["drawn"] = event
    if event.clicked is not None:
        chosen["clicked"] = event.clicked
    chosen["hovered"] = event.hovered if event.hovered is not None else chosen.get("hovered")
    drawn, clicked, card = chosen.get("drawn"), chosen.get("clicked"), None
    if event.hovered is not None:
        name = f"<img src=x onerror='window.broken=1'> {event.hovered}"
        card = Card(
            event.hovered, (name, f"score {scores[event.hovered]:.2f}"), thumbnail(int(codes[event.hovered]))
        )
    selected = None if drawn is None else drawn.selected(points)
    chosen["count"] = 0 if selected is None else int(selected.sum())
    return MapReply(selected, None if clicked is None else links(clicked), card)


def links(point):
    """Return lines to seven points nearby and three far away."""
    positions = made(asked())[0].positions
    order = np.argsort(((positions - positions[point]) ** 2).sum(axis=1))
    rows = np.concatenate([order[1:8], order[-3:]])
    return Links(tuple(positions[point]), positions[rows], np.arange(10) >= 7)


@st.fragment
def show():
    """Show the map and what the server has heard."""
    time.sleep(float(st.query_params.get("slow", "0")))
    points, codes, scores = made(asked())
    by = st.segmented_control("colour by", ["group", "score", "class"], default="group")
    coloring = {"score": ByValue("score", scores, -45.0), "class": ByClass("class", codes, CLASSES)}.get(by)
    image_map(points, reply, key="map", coloring=coloring, height=520)
    chosen = st.session_state
    st.text(f"heard: count={chosen['count']} clicked={chosen.get('clicked')} hovered={chosen.get('hovered')}")
