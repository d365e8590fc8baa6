"""What the interaction benchmark opens: ?show=scores or ?show=map, with &count= scores or points, made up."""

import io

import numpy as np
import streamlit as st
from PIL import Image

from nnguide_core.records import Threshold
from views.components.gallery import Tile, gallery
from views.components.map import MapPoints, MapReply, image_map
from views.components.scores import BinnedScores, Choice, Reply, scores
from views.theme import GROUPS

BINS = 100
KS = np.arange(1, 101)
IN_GALLERY = 100


@st.cache_resource
def table(count):
    """Return a table of count scores in one ID and three OOD datasets."""
    rng = np.random.default_rng(1)
    counts = np.zeros((4, len(KS), BINS), dtype=np.uint32)
    edges = np.repeat(np.linspace(-130, -10, BINS + 1)[None], len(KS), axis=0)
    for dataset, (share, centre) in enumerate([(0.5, -85), (0.2, -70), (0.2, -60), (0.1, -40)]):
        values = rng.normal(centre, 12, int(share * count)).clip(-130, -10)
        for row, k in enumerate(KS):
            counts[dataset, row] = np.histogram((values + np.log(k)).clip(-130, -10), edges[row])[0]
    ood = (False, True, True, True)
    return BinnedScores(("ID", "near", "mid", "far"), ood, edges, counts, counts * np.uint32(0))


@st.cache_resource
def points(count):
    """Return count points in ten clusters, in all groups."""
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 10, count)
    centres = rng.normal(0, 6, (10, 2))
    positions = (centres[codes] + rng.normal(0, 1, (count, 2))).astype(np.float32)
    return MapPoints(positions, rng.choice(len(GROUPS), count, p=[0.5, 0.3, 0.16, 0.02, 0.02]))


@st.cache_resource
def thumbnail(shade):
    """Return a small picture."""
    data = io.BytesIO()
    pixels = np.random.default_rng(shade).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@st.fragment
def map_and_gallery(count):
    """Show the map, and the first selected images below it."""
    shown, kept = points(count), st.session_state

    def reply(event):
        if event.polygon is not None:
            kept["selected"] = event.selected(shown)
            kept["selections"] = kept.get("selections", 0) + 1
        return MapReply(kept.get("selected"))

    image_map(shown, reply, key="map", height=520)
    rows = np.flatnonzero(kept.get("selected", np.zeros(0)))[:IN_GALLERY]
    turn = kept.get("selections", 0)
    tiles = [
        Tile(f"id{row}", thumbnail(int(row) % 64), GROUPS[shown.groups[row]], f"{turn}: image {row}")
        for row in rows
    ]
    gallery(tiles, lambda selected: selected, key="gallery")


st.set_page_config(layout="wide")
size = int(st.query_params.get("count", "5000"))
if st.query_params.get("show") == "map":
    map_and_gallery(size)
else:
    scores(
        table(size), lambda chosen: Reply(chosen or Choice(10, Threshold("id_kept", 0.9), 0.0)), key="scores"
    )
