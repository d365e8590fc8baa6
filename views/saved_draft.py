"""What the forms of the data page hold, kept in the workspace by an id in the address: a reload finds it."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnguide_core.evaluation.plans import Chosen
from nnguide_core.records import Role
from views import job_panel, resources, state
from views.login import is_ours, owner

__all__ = ["restore", "save"]

_FIELDS = ("data_way", "bank.", "model.", "torchvision.", "timm.", "checkpoint.", "own_features.", "device")
_KEPT = ("source", "way", "checkpoint_last")
_SAVED = "draft_saved"  # what was last written


def restore() -> None:
    """Fill a fresh session's forms with the draft that its address names, before any page is shown.

    From then on the session is the one that it was before the reload, and keeps its uploads.
    """
    if state.kept(_SAVED) is not None:
        return
    if not state.draft():
        state.keep(_SAVED, {})
        return
    content = resources.workspace().setting(_name(state.draft()))
    state.keep(_SAVED, {})  # only now: a draft that could not be read must not be written over
    try:
        _fill(content)
    except (KeyError, TypeError, ValueError):
        state.drop_draft()
        job_panel.say("scan", "The draft that the address names is no longer kept.")


def save() -> None:
    """Keep what the forms hold now, once anything was entered; call it after they were shown."""
    content = _content()
    before = state.kept(_SAVED)
    if content == before or not (before or content["fields"].keys() - {"data_way"}):
        return
    if not state.draft():
        state.new_draft()
    resources.workspace().save_setting(
        _name(state.draft()), {**content, "session": state.session_id(), "saved": time.time()}
    )
    state.keep(_SAVED, content)


def _content() -> dict[str, Any]:
    checkpoint: Path | None = state.kept("checkpoint")
    return {
        "fields": state.fields(_FIELDS),
        "kept": {name: state.kept(name) for name in _KEPT if state.kept(name)},
        "jobs": job_panel.known(),
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "datasets": [asdict(each) for each in state.kept("draft", ())],
        "files": [list(each) for each in state.kept("own_features", ())],
    }


def _fill(content: Mapping[str, Any]) -> None:
    datasets = tuple(_chosen(each) for each in content["datasets"])
    files = tuple((path, name, Role(role)) for path, name, role in content["files"])
    session = str(content["session"])
    job_panel.know(content.get("jobs", {}))
    state.keep("draft", datasets)
    state.keep("own_features", files)
    state.keep("checkpoint", None if content["checkpoint"] is None else Path(content["checkpoint"]))
    for name, value in content["kept"].items():
        state.keep(name, value)
    for name, value in content["fields"].items():
        state.fill(name, value)
    if is_ours(session):
        state.go_on_as(session)
        resources.uploads(session)  # which now live as long as this tab


def _chosen(content: Mapping[str, Any]) -> Chosen:
    return Chosen(**{**content, "known_role": Role(content["known_role"]), "role": Role(content["role"])})


def _name(draft: str) -> str:
    """Return the name of the setting that keeps a draft; where people log in, each has their own."""
    return f"draft.{owner()}{draft}"
