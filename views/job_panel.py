"""Background jobs on a page: progress, pace, time left, Cancel; found again after a refresh or a restart."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from nnguide_core.errors import StoreError
from nnguide_core.evaluation.checks import Check, check
from nnguide_core.evaluation.plans import Chosen, Plan, compute, scan
from nnguide_core.jobs import Job, JobContext
from nnguide_core.paths.allowed import still_allowed
from nnguide_core.progress import Progress
from nnguide_core.records import JobRecord, JobState, Role, fingerprint
from views import resources, state
from views.frame import errors_as_sentences
from views.login import is_ours, owner
from views.text import literal, markdown_text

__all__ = [
    "ADDING",
    "COMPUTING",
    "KINDS",
    "check_key",
    "compute_key",
    "duration",
    "job_panel",
    "know",
    "known",
    "offers",
    "say",
    "start_check",
    "start_compute",
    "start_scan",
    "take_finished",
    "watch",
]

ADDING = ("scan", "upload")  # kinds of jobs that add a dataset
COMPUTING = ("check", "compute")  # that look at a plan
KINDS = (*ADDING, *COMPUTING, "features", "map")
_SECONDS = 0.5  # between two looks at the running jobs
_WATCHED = "watched_jobs"  # keys of the jobs that this session started
_SEEN = "seen_jobs"  # of others that ran while it looked: another session's, or its own before a refresh
_OFFERED = "job_offers"  # of those whose result waits for a button
_SAID = "said_of_jobs"

OnDone = Callable[[Job[Any]], None]


@dataclass(frozen=True)
class _Said:
    """A sentence about a job, kept until it is dismissed: a run that follows at once would wipe it out."""

    kind: str  # of the job
    text: str
    is_error: bool
    was_shown: bool = False


def start_scan(path: Path, name: str, role: Role) -> None:
    """Read a folder, zip or list in the background."""
    work = partial(_scan, path, name, role)
    about = {"kind": "scan", "path": str(path), "name": name, "role": role}
    watch(resources.jobs().start(fingerprint("scan", str(path)), f"Reading {path.name}", work, about=about))


def start_check(plan: Plan) -> None:
    """Look at a plan's datasets and model in the background."""
    about = {"kind": "check", "plan": plan.to_json()}
    key = check_key(plan)
    resources.jobs().forget(key)
    watch(resources.jobs().start(key, "Checking datasets and model", partial(_check, plan), about=about))


def check_key(plan: Plan) -> str:
    """Return the key of the job that checks a plan."""
    return f"check {plan.key}"


def compute_key(plan: Plan) -> str:
    """Return the key of the job that computes a plan."""
    return f"compute {plan.key}"


def start_compute(plan: Plan) -> None:
    """Compute a plan in the background; a second session that wants the same watches the same job."""
    names = ", ".join(each.name for each in plan.datasets)
    about = {"kind": "compute", "plan": plan.to_json()}
    title = f"Computing {names} with {plan.spec.name}"
    watch(resources.jobs().start(compute_key(plan), title, partial(_compute, plan), about=about))


def watch(job: Job[Any]) -> None:
    """Remember that this session waits for a job's result; what was said of earlier ones is old then."""
    state.keep(_SAID, tuple(each for each in state.kept(_SAID, ()) if not each.was_shown))
    waiting = state.kept(_WATCHED, ())
    if job.key not in waiting:
        state.keep(_WATCHED, (*waiting, job.key))


def say(kind: str, text: str, *, is_error: bool = False) -> None:
    """Show a sentence in the panel of a kind of jobs, until it is dismissed or another job is started."""
    state.keep(_SAID, (*state.kept(_SAID, ()), _Said(kind, text, is_error)))


def known() -> dict[str, Any]:
    """Return what this session waits for, was offered and was told, JSON-able; nothing where it is empty."""
    keys = {name: list(state.kept(name, ())) for name in (_WATCHED, _SEEN, _OFFERED)}
    said = {_SAID: [asdict(each) for each in state.kept(_SAID, ())]}
    return {name: values for name, values in (keys | said).items() if values}


def know(content: Mapping[str, Any]) -> None:
    """Go on with what known returned in the session before.

    Raises:
        TypeError: the content is none of known.
    """
    said = tuple(_Said(**each) for each in content.get(_SAID, ()))
    for name in (_WATCHED, _SEEN, _OFFERED):
        state.keep(name, tuple(content.get(name, ())))
    state.keep(_SAID, said)


def take_finished(on_done: Mapping[str, OnDone], is_offered: Callable[[Job[Any]], bool]) -> None:
    """Hand the results that this session waits for to on_done, by the kind of job; say what failed.

    Those of other sessions' jobs, and those for which is_offered holds, are only offered; see offers.
    """
    for job in _over(_WATCHED):
        if job.state is JobState.DONE and job.about["kind"] in on_done:
            (_offer if is_offered(job) else on_done[job.about["kind"]])(job)
        elif job.state is JobState.FAILED:
            say(job.about["kind"], job.error, is_error=True)
        elif job.state is JobState.CANCELLED:
            say(job.about["kind"], f"{job.title}: stopped. What was finished is kept for the next time.")
    for job in _over(_SEEN):
        if job.state is JobState.DONE and job.about["kind"] in on_done:
            _offer(job)


def offers(on_done: Mapping[str, OnDone]) -> None:
    """Offer the results that are not taken over by themselves."""
    for key in state.kept(_OFFERED, ()):
        job = resources.jobs().get(key)
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.text(literal(f"{job.title}: finished." if job else "Finished some time ago."))
            if job is not None:
                take = on_done[job.about["kind"]]
                st.button("Use the result", key=f"use.{key}", type="primary", on_click=_use, args=(job, take))
            st.button("Dismiss", key=f"dismiss.{key}", on_click=_drop_offer, args=(key,))


def job_panel(kinds: Collection[str]) -> None:
    """Show what became of the jobs of these kinds, those that run, and those that a restart interrupted."""
    _messages(kinds)
    every = [job for job in resources.jobs().all() if job.about["kind"] in kinds]
    running = [job for job in every if not job.is_over and is_ours(job.about.get("session", owner()))]
    st.fragment(_running, run_every=_SECONDS if running else None)(tuple(job.key for job in running))
    for record in resources.jobs().interrupted():
        if record.about.get("kind") in kinds:
            _interrupted(record)


def _messages(kinds: Collection[str]) -> None:
    """Show what was said of jobs of these kinds, each sentence with a button to dismiss it."""
    said: tuple[_Said, ...] = state.kept(_SAID, ())
    state.keep(_SAID, tuple(replace(each, was_shown=each.was_shown or each.kind in kinds) for each in said))
    for place, each in enumerate(said):
        if each.kind in kinds:
            _message(place, each)


def _message(place: int, said: _Said) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if said.is_error:
            st.error(markdown_text(said.text), icon=":material/error:")
        else:
            st.info(markdown_text(said.text))
        st.button("Dismiss", key=f"dismiss.said.{place}", on_click=_dismiss, args=(said,))


def _dismiss(said: _Said) -> None:
    state.keep(_SAID, tuple(each for each in state.kept(_SAID, ()) if each != said))


def _over(name: str) -> list[Job[Any]]:
    """Return the jobs of a list of keys that are over, and take them off the list."""
    keys = state.kept(name, ())
    found = {key: resources.jobs().get(key) for key in keys}
    over = {key: job for key, job in found.items() if job is None or job.is_over}
    state.keep(name, tuple(key for key in keys if key not in over))
    return [job for job in over.values() if job is not None]


def _offer(job: Job[Any]) -> None:
    state.keep(_OFFERED, (*state.kept(_OFFERED, ()), job.key))


@errors_as_sentences()
def _use(job: Job[Any], take: OnDone) -> None:
    _drop_offer(job.key)
    take(job)


def _drop_offer(key: str) -> None:
    state.keep(_OFFERED, tuple(each for each in state.kept(_OFFERED, ()) if each != key))


def _running(keys: tuple[str, ...]) -> None:
    """Show the jobs with these keys; the whole page runs again once one of them is over."""
    found = [resources.jobs().get(key) for key in keys]
    if any(job is None or job.is_over for job in found):
        st.rerun(scope="app")
    for job in found:
        if job is not None:
            _show(job)


def _show(job: Job[Any]) -> None:
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        done = job.progress
        share = done.done / done.total if done is not None and done.total else 0.0
        st.progress(min(1.0, share), text=markdown_text(f"{job.title}: {_in_words(job, done)}"))
        label = "Stopping" if job.is_cancelling else "Cancel"
        st.button(label, key=f"cancel.{job.key}", disabled=job.is_cancelling, on_click=job.cancel)
    if job.key not in (*state.kept(_WATCHED, ()), *state.kept(_SEEN, ())):
        state.keep(_SEEN, (*state.kept(_SEEN, ()), job.key))


def _in_words(job: Job[Any], progress: Progress | None) -> str:
    """Return how far a job is.

    With a total: "120 of 400 images, 35 per second, 8 s left".
    """
    if job.is_cancelling:
        step = (progress.step or "this batch of images") if progress is not None else job.note
        return f"stopping, as soon as this is over: {step}" if step else "stopping"
    if progress is None:
        return job.note or "starting"
    if not progress.total:
        return progress.step
    words = [f"{progress.done:,} of {progress.total:,} images"]
    if progress.rate:
        words.append(f"{progress.rate:,.0f} per second")
    if progress.left is not None:
        words.append(f"{duration(progress.left)} left")
    return ", ".join(words) + (f" ({progress.step})" if progress.step else "")


def duration(seconds: float) -> str:
    """Return a time to wait in words.

    >>> duration(8.2), duration(200), duration(7300)
    ('8 s', '3 min', '2 h 2 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _interrupted(record: JobRecord) -> None:
    """Offer to go on with a job whose server ended before it did."""
    kind = record.about.get("kind")
    if kind not in ("scan", "compute"):
        resources.jobs().forget(record.key)
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.text(literal(f"{record.title}: interrupted when the program ended. Finished batches are kept."))
        st.button("Go on", key=f"again.{record.key}", type="primary", on_click=_again, args=(record,))
        st.button("Drop", key=f"drop.{record.key}", on_click=_forget, args=(record.key,))


@errors_as_sentences()
def _forget(key: str) -> None:
    resources.jobs().forget(key)


@errors_as_sentences()
def _again(record: JobRecord) -> None:
    if record.about["kind"] == "compute":
        start_compute(Plan.from_json(record.about["plan"]))
        return
    try:
        start_scan(Path(record.about["path"]), record.about["name"], Role(record.about["role"]))
    except (KeyError, ValueError) as error:
        raise StoreError("What this job was to read is not known any more: start it anew.") from error


def _scan(path: Path, name: str, role: Role, context: JobContext) -> Chosen:
    return scan(resources.workspace(), path, name, role, context, typed=True)


def _check(plan: Plan, context: JobContext) -> Check:
    _check_checkpoint(plan)
    return check(resources.workspace(), plan, context)


def _compute(plan: Plan, context: JobContext) -> str:
    _check_checkpoint(plan)
    return compute(resources.workspace(), plan, context, resources.hand_over)


def _check_checkpoint(plan: Plan) -> None:
    """Check a typed path again when the job's turn comes, which may be after a restart."""
    path = plan.spec.checkpoint
    if path is not None and not path.is_relative_to(resources.workspace().blobs):
        still_allowed(path)
