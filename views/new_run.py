"""The data page's ways to another run: own images, own features, earlier runs, the demo."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import streamlit as st

from nnguide_core.errors import NNGuideError
from nnguide_core.evaluation.checks import Check
from nnguide_core.evaluation.plans import Plan
from nnguide_core.jobs import Job
from nnguide_core.records import JobState, Run
from views import draft, job_panel, resources, state
from views.check_view import show_check
from views.current import View, current
from views.frame import errors_as_sentences
from views.model_choice import bank_options, choose_device, choose_model
from views.text import literal, markdown_text

__all__ = ["WAYS", "choose_way", "earlier_runs", "jobs", "open_run", "own_images", "take_results"]

Part = TypeVar("Part")
Look = Literal["primary", "secondary"]  # of a button

WAYS = ("Open run", "Own images", "Own features", "Earlier runs")
_BELOW = {  # kinds of jobs that are shown where they were started
    "Own images": (*job_panel.ADDING, *job_panel.COMPUTING),
    "Own features": ("features",),
}
_OPENING = ("compute", "features")  # kinds of jobs whose result is a run


def open_run() -> View | None:
    """Return what the session looks at; None, after saying why, where its run is not known."""
    return _in_words(current)


def choose_way() -> str:
    """Return what the data page shows: the open run, or a way to another one."""
    with st.container(horizontal=True, vertical_alignment="center"):
        way = st.segmented_control(
            "What to look at", WAYS, required=True, key=_way(), label_visibility="collapsed"
        )
        st.button("Open the demo", icon=":material/play_arrow:", on_click=_open_demo)
    return str(way)


def take_results() -> None:
    """Take over what the jobs of this session have finished; call it before anything is shown."""
    below = _BELOW.get(state.kept(_way()), ())

    def is_offered(job: Job[Any]) -> bool:
        """Return whether opening the result would take away what the user does now."""
        kind = job.about["kind"]
        return kind in _OPENING and (kind not in below or not draft.is_unchanged(job.key))

    job_panel.take_finished(_TAKEN, is_offered)


def jobs(way: str) -> None:
    """Offer results that were not taken over, and show the jobs that have no place further down."""
    job_panel.offers(_TAKEN)
    below = _BELOW.get(way, ())
    job_panel.job_panel([kind for kind in job_panel.KINDS if kind not in below])


def own_images() -> None:
    """Build a run from images: datasets, model, bank, check, compute."""
    # Each step has a container: one that grows does not move, and thereby close, what is open below it.
    with st.container():
        st.subheader("1. Images")
        _in_words(draft.add_datasets)
        job_panel.job_panel(job_panel.ADDING)
        draft.edit()
    with st.container():
        st.subheader("2. Model")
        spec = _in_words(choose_model)
        device = _in_words(choose_device)
    with st.expander("3. Bank and scoring"):
        settings, share = bank_options()
    checked = None
    draft.note("")
    if spec is not None and draft.chosen():
        checked = _check_and_compute(Plan(spec, draft.chosen(), settings, share, device))
    job_panel.job_panel(job_panel.COMPUTING)
    if checked is not None and checked.result is not None:
        show_check(checked.result)


def _check_and_compute(plan: Plan) -> Job[Check] | None:
    """Offer both; return the check of this plan, if there was one."""
    draft.note(job_panel.compute_key(plan))
    checked = resources.jobs().get(job_panel.check_key(plan))
    is_checked = checked is not None and checked.state is JobState.DONE
    looks: tuple[Look, Look] = ("secondary", "primary") if is_checked else ("primary", "secondary")
    with st.container(horizontal=True):
        # With keys, since a button that changes its look would be another one beside the old. Both are shown
        # before either acts; and no callback, which would take the plan from before the last change.
        checks = st.button("Check", key="check", type=looks[0])
        computes = st.button("Compute", key="compute", type=looks[1])
    if checks:
        job_panel.start_check(plan)
    if computes:
        job_panel.start_compute(plan)
    if checks or computes:
        st.rerun()
    return checked


def earlier_runs() -> None:
    """List the runs of this workspace, one per question, to open again."""
    newest: dict[str, Run] = {}
    for run in resources.workspace().runs():
        newest.setdefault(run.question, run)
    for run in newest.values():
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            queries = ", ".join(f"{each.name} ({each.size:,})" for each in run.queries) or "no queries"
            when = run.created.astimezone().strftime("%Y-%m-%d %H:%M")
            bank = f"bank {run.bank.name} ({run.bank.size:,})"
            st.text(literal(f"{when}  ·  {run.model_name}  ·  {bank}  ·  {queries}"))
            st.button(
                "Open", key=f"open.{run.question}", type="primary", on_click=_open, args=(run.question,)
            )


def _way() -> str:
    """Return the key of the choice between the ways."""
    return state.field("data_way", WAYS[0], WAYS)


def _open(question: str) -> None:
    """Show a run on every page from now on, this one first."""
    state.open_question(question)
    state.fill("data_way", WAYS[0])


@errors_as_sentences()
def _open_demo() -> None:
    _open(resources.demo_question())


def _open_result(job: Job[str]) -> None:
    if job.result is not None:
        _open(job.result)


def _nothing(_: Job[Any]) -> None:
    """Leave a result where the page finds it by its key."""


_TAKEN: Mapping[str, job_panel.OnDone] = {
    "scan": draft.add,
    "upload": draft.add,
    "check": _nothing,
    **dict.fromkeys(_OPENING, _open_result),
}


def _in_words(part: Callable[[], Part]) -> Part | None:
    """Run a part of the page; what it refuses is said in its place, and the rest of the page goes on."""
    try:
        return part()
    except NNGuideError as error:
        st.error(markdown_text(str(error)), icon=":material/error:")
        return None
