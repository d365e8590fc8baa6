"""The parts of the triage page: queues, gallery, verdicts, and what the verdicts change."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import streamlit as st
import torch
from streamlit.delta_generator import DeltaGenerator

from nnguide_core.evaluation import Judged
from nnguide_core.evaluation.queues import ORDERS, QUEUES, Places, Situation, narrowed, ordered
from nnguide_core.records import Run
from nnguide_core.settings import VERDICTS
from nnguide_core.store import Given
from views import resources, state
from views.current import View
from views.frame import cautions, errors_as_sentences, no_threshold, run_strip
from views.metrics_view import show_before_and_after
from views.pictures import boxed
from views.queries import Query, gallery_of, looked_at, query_at
from views.state import ImageKey
from views.text import literal, markdown_text
from views.why import why

__all__ = ["Found", "choose_image", "choose_queue", "effect", "explain", "give_verdict"]

_SELECTION = "from the map"
_EVERY = "all"
_MOST_TILES = 500
_PICTURE = 220  # pixels of the image that is explained
_ORDER = 260  # pixels: the longest order is not cut
_KEYS = ("1", "2", "3", "4", "5", "6")  # one per verdict; C and R are Streamlit's own


@dataclass(frozen=True)
class Found:
    """The images of a queue after filtering, in the order in which they are shown."""

    name: str
    places: tuple[tuple[Judged, int], ...]  # dataset and row

    @cached_property
    def keys(self) -> tuple[ImageKey, ...]:
        """Which images they are."""
        return tuple(ImageKey(judged.dataset.name, judged.features.ids[row]) for judged, row in self.places)


def choose_queue(view: View) -> Found:
    """Let the user choose a queue, filter and order; return what is in it."""
    run_strip(view)
    cautions(view, compared=True)
    if view.threshold is None:
        no_threshold()
        return Found("", ())
    situation = Situation(view.evaluation, view.k, view.threshold)
    queues = _queues(view, situation)
    counts = {name: sum(map(len, rows.values())) for name, rows in queues.items()}
    first = next(iter(queues))
    chosen = st.pills(
        "queue",
        list(queues),
        format_func=lambda each: f"{each} ({counts[each]:,})",
        required=True,
        key=state.field("queue", first, list(queues)),
    )
    name = chosen or first
    st.caption(_definition(name))
    return Found(name, tuple(_filtered(view, situation, queues[name])))


def choose_image(view: View, found: Found) -> Query | None:
    """Show the queue as a gallery; return the image that is looked at, if any."""
    shown = [query_at(view, judged, row) for judged, row in _shown(view, found)]
    if not shown:
        st.info("Nothing is in this queue at this k and threshold with these filters.")
    elif len(found.places) > _MOST_TILES:
        beyond = ", and the open one" if len(shown) > _MOST_TILES else ""
        st.caption(f"The first {_MOST_TILES:,} of {len(found.places):,} are shown{beyond}.")
    if shown:
        gallery_of(view, shown, key=f"queue.{found.name}", label=f"queue: {found.name}")
    query = looked_at(view)
    if query is not None and query.key not in found.keys:
        st.caption(markdown_text(f"{query.image.path} is not in this queue with these filters."))
    if shown and query is None:
        st.info("Choose an image to see why it got its score, and to say what it really is.")
    return query


def give_verdict(view: View, found: Found, query: Query) -> None:
    """Offer the verdicts on one image; what is said is kept at once, and the next image opens."""
    said, image = view.verdicts.get(query.image.id), query.image.id
    judged = sum(each.id in view.verdicts for each in found.keys)
    st.subheader(_heading(query))
    st.progress(
        judged / max(1, len(found.places)), text=f"{judged:,} of {len(found.places):,} of this queue judged"
    )
    st.text_input(
        "note",
        value=resources.workspace().note(image),
        key=_note_key(image),
        max_chars=1000,
        on_change=_save_note,
        args=(view.run, image),
    )
    _verdict_buttons(view, found, query.key, said.decision if said else "")


def explain(view: View, query: Query) -> None:
    """Show the image large and the why panel."""
    beside = st.container(horizontal=True)
    data = resources.large_picture(query.judged.dataset, query.image)
    if data is not None:
        beside.image(boxed(data), width=_PICTURE)
    words = beside.container()
    for line in (query.image.path, query.judged.dataset.name, query.group):
        words.text(literal(line))
    why(view, query)


def effect(view: View) -> None:
    """Show the metrics before and after the verdicts, side by side."""
    if not view.verdicts:
        return
    # Without a count: another label would be another expander, and closed.
    with st.expander("What the verdicts change", key="effect", on_change="rerun") as shown:
        if shown.open:
            show_before_and_after(view)


def _shown(view: View, found: Found) -> tuple[tuple[Judged, int], ...]:
    """Return what the gallery shows: the first of the queue, and the open image where that comes later."""
    first, keys, query = found.places[:_MOST_TILES], found.keys, looked_at(view)
    if query is None or query.key not in keys or keys.index(query.key) < _MOST_TILES:
        return first
    return (*first, found.places[keys.index(query.key)])


def _heading(query: Query) -> str:
    """Return what is asked about an image, for a heading."""
    return "What do you say: is the detector right?" if query.is_wrong else "What do you say?"


def _queues(view: View, situation: Situation) -> dict[str, Places]:
    found = dict(resources.queues(view.run.question, situation.k, situation.threshold))
    chosen = state.selection()
    found[_SELECTION] = {
        judged.dataset.name: torch.tensor(
            [row for row, image in enumerate(judged.features.ids) if image in chosen.of(judged.dataset.name)],
            dtype=torch.int64,
        )
        for judged in view.evaluation.queries
    }
    return found


def _definition(name: str) -> str:
    if name == _SELECTION:
        return "The images that are selected on the map."
    return (QUEUES[name].__doc__ or "").strip()


def _filtered(view: View, situation: Situation, places: Places) -> list[tuple[Judged, int]]:
    """Let the user filter by dataset, class and predicted class, and order by margin."""
    names = view.evaluation.question.class_names
    filters = st.container(horizontal=True)
    dataset = _choice(filters, "dataset", [each.dataset.name for each in view.evaluation.queries])
    label = _choice(filters, "class", resources.label_names(view.run.question))
    predicted = _choice(filters, "predicted class", names)
    kept = narrowed(
        situation,
        places,
        dataset=dataset,
        label=label,
        predicted=None if predicted is None else names.index(predicted),
    )
    order = filters.selectbox(
        "order", list(ORDERS), key=state.field("order", next(iter(ORDERS)), list(ORDERS)), width=_ORDER
    )
    return ordered(situation, kept, order)


def _choice(place: DeltaGenerator, name: str, options: Sequence[str]) -> str | None:
    """Let the user choose one option or all of them (None); the choice outlives the page."""
    every = ["", *options]
    chosen: str = place.selectbox(
        name,
        every,
        format_func=lambda each: literal(each) or _EVERY,
        key=state.field(f"filter.{name}", "", every),
    )
    return chosen or None


def _verdict_buttons(view: View, found: Found, image: ImageKey, said: str) -> None:
    """Show a button per verdict and one to undo, each with its key."""
    buttons = st.container(horizontal=True)
    for verdict, shortcut in zip(VERDICTS, _KEYS, strict=True):
        buttons.button(
            verdict,
            key=f"say.{verdict}.{image}",  # a second press while the next image opens is not about that one
            shortcut=shortcut,
            icon=":material/check:" if said == verdict else None,
            on_click=_judge,
            args=(view, found, image, verdict),
        )
    buttons.button("undo", key="undo", shortcut="U", on_click=_undo, args=(view.run,))


@errors_as_sentences()
def _judge(view: View, found: Found, image: ImageKey, decision: str) -> None:
    """Keep a verdict on the image that is looked at, and open the next."""
    query = looked_at(view)
    if query is None or query.key != image:
        return
    resources.workspace().save_run(view.run)
    given = resources.workspace().give_verdict(image.id, decision, view.run.id)
    state.keep("given", (*_given(), (image, given)))
    state.open_image(_next(view, found, image))


@errors_as_sentences()
def _save_note(run: Run, image: str) -> None:
    """Keep the note on an image as it was left, whatever was pressed then."""
    resources.workspace().save_run(run)
    if (noted := resources.workspace().save_note(image, state.typed(_note_key(image)), run.id)) is not None:
        _stands_for(noted.before, noted.number)


@errors_as_sentences()
def _undo(run: Run) -> None:
    """Take back the verdict that this session gave last, let the one before stand, and look at its image."""
    if not _given():
        st.toast("This session has no verdict to take back.")
        return
    *rest, (image, given) = _given()
    number = resources.workspace().take_back(image.id, given, run.id)
    state.keep("given", tuple(rest))
    state.open_image(image)
    if number is None:
        st.toast("Another session has changed this image's verdict or note since: yours was not undone.")
    else:
        _stands_for(given.before, number)


def _stands_for(old: int, new: int) -> None:
    """Remember that a row of the record repeats an older one's decision, so that undo goes on from it."""
    state.keep(
        "given",
        tuple((image, replace(each, number=new) if each.number == old else each) for image, each in _given()),
    )


def _next(view: View, found: Found, image: ImageKey) -> ImageKey:
    """Return the next image of the queue that nobody has judged; the same image if there is none."""
    keys = found.keys
    after = keys[keys.index(image) + 1 :] + keys[: keys.index(image)] if image in keys else keys
    return next((each for each in after if each.id not in view.verdicts), image)


def _note_key(image: str) -> str:
    return f"note.{image}"


def _given() -> tuple[tuple[ImageKey, Given], ...]:
    """Return the verdicts that this session can take back, each with its image, the latest last."""
    given: tuple[tuple[ImageKey, Given], ...] = state.kept("given", ())
    return given
