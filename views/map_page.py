"""The parts of the map page: making the map, what it shows, and the images that are selected on it."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from nnguide_core.evaluation.maps import ImageMap, make_map
from nnguide_core.jobs import Job, JobContext
from nnguide_core.projection.reading import WITHIN
from nnguide_core.records import JobState
from views import resources, state
from views.bank_card import served_by
from views.components.map import ByClass, ByValue, Card, Links, MapEvent, MapReply, image_map
from views.current import View
from views.frame import cautions, no_threshold, number, run_strip
from views.map_table import MapTable
from views.queries import Query, gallery_of, looked_at, query_at
from views.state import ImageKey
from views.tables import show_table
from views.text import cell, counted, literal, markdown_text
from views.theme import GROUPS, Group

__all__ = ["choose_points", "explore", "map_of"]

Points = NDArray[np.intp]  # rows of a MapTable

_BLINK = 1.0  # seconds within which a map is made without a word about it
_SECONDS = 0.5  # between two looks at the job
_MOST_TILES = 300
_BANK_IMAGE = "bank_image"  # the id of the bank image that was clicked
_DECISION, _SCORE, _CLASS, _PREDICTED = "truth × decision", "score", "class", "predicted class"
_DATASET, _ENERGY, _GUIDANCE = "dataset", "energy", "guidance"
_COLORS = (_DECISION, _SCORE, _CLASS, _PREDICTED, _DATASET, _ENERGY, _GUIDANCE)


def map_of(view: View) -> ImageMap | None:
    """Return the question's map; while there is none, make it in the background and show how far it is."""
    run_strip(view)
    cautions(view)
    found = resources.map_of(view.run.question)
    if found is not None:
        return found
    key = f"map {view.run.question}"
    job = resources.jobs().get(key)
    if job is None or job.state is JobState.DONE:  # done, and what it kept was removed since
        job = _start(view, key)
    if job.wait(_BLINK) and job.state is JobState.DONE:
        return resources.map_of(view.run.question)
    if job.is_over:
        _offer_again(job)
    else:
        _show_progress(key)
    return None


def choose_points(view: View, places: ImageMap) -> MapTable | None:
    """Let the user choose which datasets are shown; return their images."""
    if view.threshold is None:
        no_threshold()
        return None
    names = list(dict.fromkeys(part.dataset.name for part in view.evaluation.question.parts))
    before = [name for name in state.kept("map_datasets", names) if name in names]
    shown = st.pills(
        "datasets",
        names,
        selection_mode="multi",
        default=before or names,
        format_func=markdown_text,
        key="map.datasets",
    )
    state.keep("map_datasets", shown)
    if not shown:
        st.info("No dataset is shown: choose one above.")
        return None
    return resources.map_table(view.run.question, view.k, view.threshold, tuple(shown), places)


@st.fragment
def explore(view: View, places: ImageMap, table: MapTable) -> None:
    """Show the map, the image that was clicked and those that are selected; only this runs again for them."""
    _map(view, places, table)
    _looked_at(view)
    _selection(view, table)
    state.write_address()


def _map(view: View, places: ImageMap, table: MapTable) -> None:
    """Show the map; what is clicked is opened and what is selected is selected on every page."""
    before = state.kept("map_color", _DECISION)
    color = st.segmented_control("colour by", _COLORS, default=before, required=True, key="map.color")
    state.keep("map_color", color)

    def reply(event: MapEvent) -> MapReply:
        _take(table, event)
        chosen = state.selection()
        query = looked_at(view)
        return MapReply(
            table.of(chosen) if chosen.images else None,
            None if query is None else _links(view, places, query),
            None if event.hovered is None else _card(table, event.hovered),
        )

    image_map(table.points, reply, key="map", coloring=_coloring(view, table, color))
    st.caption(
        "The map locates, it never decides: scores and decisions come from the features themselves. "
        "Click an image to see its true nearest bank images, or a bank image to see how many queries it "
        "serves. With the keyboard: arrows, + and − move and zoom, Enter opens the image at the cross, Space "
        "selects what is in view. "
        f"One is elsewhere if it is not among the {WITHIN * view.k:,} bank images nearest on the map."
    )
    if table.without_place:
        st.caption(f"{table.without_place:,} images have no place: their features are zero or not finite.")


def _looked_at(view: View) -> None:
    """Say which image is looked at, and link to where it is explained; of a bank image, whom it serves."""
    query = looked_at(view)
    if query is None:
        served_by(view, state.kept(_BANK_IMAGE, ""))
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        if (picture := resources.large_picture(query.judged.dataset, query.image)) is not None:
            st.image(picture, width=96)
        st.text(
            literal(f"{query.image.path} of {query.judged.dataset.name}: {query.group}")
            + f"\nscore {number(query.score, 2)}, threshold {number(view.threshold, 2)}"
        )
        if st.button("Why? Open in Triage"):
            st.switch_page("pages/triage.py")


def _selection(view: View, table: MapTable) -> None:
    """Show what is selected: how many images, of which datasets, decisions and classes, and the images."""
    st.subheader("Selected images")
    chosen = table.of(state.selection())
    if not chosen.any():
        st.info("Nothing is selected: draw a box or a lasso on the map, or hold Shift and drag.")
        return
    points = np.flatnonzero(chosen)
    queries = points[table.points.groups[points] != GROUPS.index(Group.BANK)]
    with st.container(horizontal=True, vertical_alignment="center"):
        parts = counted(len(queries), "query", "queries"), counted(len(points) - len(queries), "bank image")
        st.text(f"{counted(len(points), 'image')} selected: {' and '.join(parts)}.")
        if st.button("Open in Triage", disabled=not len(queries)):
            state.fill("queue", "from the map")
            st.switch_page("pages/triage.py")
        if st.button("Clear the selection"):
            state.clear_selection()
            st.rerun()
    _composition(table, points)
    if len(queries):
        _gallery(view, table, queries)


def _start(view: View, key: str) -> Job[None]:
    evaluation, workspace = view.evaluation, resources.workspace()

    def work(context: JobContext) -> None:
        make_map(workspace, evaluation, context.progress, context.cancelled)

    return resources.jobs().start(key, "Making the map", work, about={"kind": "map"})


def _offer_again(job: Job[None]) -> None:
    if job.state is JobState.FAILED:
        st.error(markdown_text(job.error), icon=":material/error:")
    else:
        st.info("The map was stopped before it was finished.")
    if st.button("Make the map", type="primary"):
        resources.jobs().forget(job.key)
        st.rerun()


@st.fragment(run_every=_SECONDS)
def _show_progress(key: str) -> None:
    """Show how far the map is; the whole page runs again once it is there."""
    job = resources.jobs().get(key)
    if job is None or job.is_over:
        st.rerun(scope="app")
    done = job.progress
    share = done.done / done.total if done is not None and done.total else 0.0
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        step = done.step if done is not None else job.note or "starting"
        st.progress(min(1.0, share), text=markdown_text(f"Making the map: {step}"))
        if st.button("Cancel", disabled=job.is_cancelling):
            job.cancel()
    st.caption(
        "It is made once for these images and kept. "
        "The first map after the program starts takes some seconds longer: its code is compiled then."
    )


def _take(table: MapTable, event: MapEvent) -> None:
    """Keep what the user has just done, for every page."""
    if event.cleared:
        state.clear_selection()
        state.open_image(None)
        state.forget(_BANK_IMAGE)
    if event.polygon is not None:
        state.select(table.selection(event.selected(table.points)))
    if event.clicked is not None:
        part, at = table.at(event.clicked)
        image = part.images[at].id
        state.open_image(None if part.judged is None else ImageKey(part.dataset.name, image))
        state.keep(_BANK_IMAGE, image if part.judged is None else "")


def _coloring(view: View, table: MapTable, color: str) -> ByValue | ByClass | None:
    names = table.class_names
    made: dict[str, Callable[[], ByValue | ByClass]] = {
        _SCORE: lambda: ByValue("score", table.column("scores"), view.threshold),
        _ENERGY: lambda: ByValue("energy", table.column("energies")),
        _GUIDANCE: lambda: ByValue("guidance", table.column("guidances")),
        _CLASS: lambda: ByClass("class", *table.labels),
        _PREDICTED: lambda: ByClass("predicted class", table.column("predicted").astype(np.int64), names),
        _DATASET: lambda: ByClass("dataset", table.datasets, [part.dataset.name for part in table.parts]),
    }
    return made[color]() if color in made else None


def _card(table: MapTable, point: int) -> Card:
    part, at = table.at(point)
    image = part.images[at]
    energy = f"energy {number(float(part.energies[at]), 2)}"
    line = energy if part.judged is None else f"score {number(float(part.scores[at]), 2)}, {energy}"
    picture = resources.thumbnails([(part.dataset, image)]).get(image.id)
    return Card(point, (image.path, part.dataset.name, line), picture)


def _links(view: View, places: ImageMap, query: Query) -> Links | None:
    """Return lines to the true neighbours of an image; None where it has no place or no neighbours."""
    at = next(at for at, judged in enumerate(view.evaluation.queries) if judged is query.judged)
    place, rows = places.queries[at][query.row], query.neighbors.indices[0]
    placed = (rows >= 0) & places.bank[rows.clamp(min=0)].isfinite().all(dim=1)
    if not place.isfinite().all() or not placed.any():
        return None
    far = resources.far_neighbours(view.run.question, at, query.row, view.k, places)[placed]
    return Links((float(place[0]), float(place[1])), places.bank[rows[placed]].numpy(), far.numpy())


def _composition(table: MapTable, points: Points) -> None:
    """Show how many of the points are of each dataset, decision and class."""
    codes, names = table.labels
    columns = {
        "dataset": (table.datasets, [cell(part.dataset.name) for part in table.parts]),
        "decision": (table.points.groups, [str(group) for group in GROUPS]),
        "class": (codes, [*map(cell, names), "unknown"]),  # -1 is the last
    }
    for place, (title, (values, words)) in zip(st.columns(3), columns.items(), strict=True):
        found = np.bincount(values[points] % len(words), minlength=len(words))
        order = [at for at in np.argsort(-found, kind="stable") if found[at]]
        counts = pd.DataFrame({title: [words[at] for at in order], "images": found[order]})
        show_table(counts, place, min(180, 38 + 35 * len(counts)))


def _gallery(view: View, table: MapTable, points: Points) -> None:
    """Show the first queries among points; the one that is clicked is looked at."""
    if len(points) > _MOST_TILES:
        st.caption(f"The first {_MOST_TILES:,} of {len(points):,} queries are shown.")
    found = [table.at(int(point)) for point in points[:_MOST_TILES]]
    shown = [query_at(view, part.judged, int(part.rows[at])) for part, at in found if part.judged is not None]
    if gallery_of(view, shown, key="map.selection", label="images selected on the map"):
        st.rerun()
