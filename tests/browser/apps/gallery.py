"""The gallery on made-up thumbnails."""

import io

import numpy as np
import streamlit as st
from PIL import Image

from views.components.gallery import Tile, gallery
from views.theme import GROUPS

HOSTILE = '<img src=x onerror="window.broken=1">&amp;\u202egnp.exe'


@st.cache_resource
def tiles(count):
    """Return count tiles, every group among them, the second with a hostile name, the last no image."""
    rng = np.random.default_rng(2)
    made = []
    for index in range(count):
        pixels = np.kron(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), np.ones((4, 4, 1), dtype=np.uint8))
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        name = HOSTILE if index == 1 else f"truck/a rather long file name {index:04d}.png"
        image = data.getvalue() if index < count - 1 else b"no image"
        made.append(Tile(f"id{index}", image, GROUPS[1 + index % 4], name))
    return made


def reply(selected):
    """Keep what was selected."""
    if selected:
        st.session_state["selected"] = selected
    return st.session_state.get("selected")


def show():
    """Show the gallery, a field for how many tiles there are, and a button that selects the next."""
    count = st.sidebar.number_input("count", value=500)
    if st.sidebar.button("next"):
        st.session_state["selected"] = f"id{int(st.session_state['selected'][2:]) + 1}"
    gallery(tiles(count), reply, key="shown", label="misses")
    st.text(f"selected: {st.session_state.get('selected')}")
