"""The datasets of a run to be made: added from disk or upload, named, given roles."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.uploaded_file_manager import UploadedFile

from nnguide_core.errors import NNGuideError
from nnguide_core.evaluation.plans import Chosen, guessed_role, unique_name
from nnguide_core.jobs import Job
from nnguide_core.paths.allowed import allowed_path
from nnguide_core.records import Role, fingerprint
from nnguide_core.settings import data_roots, session_upload_limit
from nnguide_core.store import StoredDataset
from views import job_panel, resources, state
from views.login import is_ours
from views.text import literal, markdown_text
from views.upload_memory import free

__all__ = [
    "ROLES",
    "add",
    "add_datasets",
    "chosen",
    "edit",
    "is_unchanged",
    "note",
    "path_field",
    "path_taken",
    "row_names",
]

ROLES = {
    Role.BANK: "bank: ID training images",
    Role.ID: "ID test: held-out ID images",
    Role.OOD: "OOD",
}
_WAYS = ("from a folder or zip on this machine", "upload a folder", "upload files or zips", "opened before")
_WIDTHS = (4, 3, 4, 1)  # of a row's columns
_PATH = "draft_path"
_DRAFT = "draft"
_NOTED = "draft_noted"  # the key of the job that would compute what the forms hold


def chosen() -> tuple[Chosen, ...]:
    """Return the datasets of the run to be made."""
    found: tuple[Chosen, ...] = state.kept(_DRAFT, ())
    return found


def add(job: Job[Chosen]) -> None:
    """Take what a job has read into the run to be made, under a free name and with a likely role."""
    if job.result is not None:
        _add(job.result)


def add_datasets() -> None:
    """Offer the ways to add a dataset."""
    way = st.segmented_control(
        "Add a dataset", _WAYS, default=state.kept("way", _WAYS[0]), required=True, key="way"
    )
    state.keep("way", way)
    if way == _WAYS[0]:
        _from_disk()
    elif way == _WAYS[3]:
        _opened_before()
    else:
        _upload(folder=way == _WAYS[1])


def note(key: str) -> None:
    """Remember which job would compute what the forms hold now; "" for none yet."""
    state.keep(_NOTED, key)


def is_unchanged(key: str) -> bool:
    """Return whether the forms still hold what the job with this key computes."""
    return bool(state.kept(_NOTED, "") == key)


def row_names(columns: Sequence[DeltaGenerator], *names: str) -> None:
    """Name the fields of the rows below once."""
    for column, name in zip(columns, names, strict=False):
        column.caption(name)


def path_field(name: str, label: str) -> str:
    """Show a field for a path in a form; it is empty again once path_taken was called."""
    return st.text_input(label, max_chars=4096, key=f"{name}.{state.kept(name, 0)}")


def path_taken(name: str) -> None:
    """Empty the field that path_field shows under a name: another key is another widget."""
    state.keep(name, state.kept(name, 0) + 1)


def edit() -> None:
    """Show the datasets chosen so far, with their names and roles to change."""
    found = chosen()
    if not found:
        st.info("Add the images that the classifier was trained on or tested with (ID), and OOD folders.")
        return
    row_names(st.columns(_WIDTHS), "dataset", "role", "images")
    edited = [_row(each) for each in found]
    kept = tuple(each for each in edited if each is not None)
    state.keep(_DRAFT, kept)
    if len(kept) < len(found):
        st.rerun()


def _row(one: Chosen) -> Chosen | None:
    """Return a dataset with the name and role that the user gives it, None to leave it out."""
    key = fingerprint(one.fingerprint, one.known_name, one.known_role)[:16]
    name_at, role_at, counts_at, remove_at = st.columns(_WIDTHS, vertical_alignment="center")
    name = name_at.text_input(
        "dataset", value=one.name, key=f"name.{key}", max_chars=200, label_visibility="collapsed"
    )
    roles = list(Role)
    role = role_at.selectbox(
        "role",
        roles,
        index=roles.index(one.role),
        format_func=ROLES.__getitem__,
        key=f"role.{key}",
        label_visibility="collapsed",
    )
    skipped = f", {one.skipped:,} skipped (no image, or unreadable)" if one.skipped else ""
    classes = f", classes: {one.classes:,}" if one.classes else ", no classes"
    counts_at.text(f"images: {one.images:,}{classes}{skipped}")
    if remove_at.button("Remove", key=f"remove.{key}", icon=":material/close:", type="tertiary"):
        return None
    return replace(one, name=name, role=role)


def _add(one: Chosen) -> None:
    found = chosen()
    same = (one.fingerprint, one.known_name, one.known_role)
    if any((each.fingerprint, each.known_name, each.known_role) == same for each in found):
        job_panel.say("scan", f"{one.name} is among the datasets already.")
        return
    name = unique_name(one.name, [each.name for each in found])
    role = guessed_role(one.name, [each.role for each in found])
    state.keep(_DRAFT, (*found, replace(one, name=name, role=role)))


def _from_disk() -> None:
    """Read a folder, zip or list by its path, inside the allowed folders only."""
    roots = ", ".join(map(str, data_roots()))
    with st.form("disk", border=False):
        typed = path_field(_PATH, "path of a folder, a zip, or a list of images (.txt, .csv)")
        asked = st.form_submit_button("Add", type="primary")
    st.text(literal(f"Allowed folders: {roots}. Set NNGUIDE_DATA_ROOTS to allow others."))
    if asked and typed.strip():
        path = allowed_path(typed)
        job_panel.start_scan(path, path.stem or path.name, Role.OOD)
        path_taken(_PATH)
        st.rerun()


def _upload(*, folder: bool) -> None:
    """Take an uploaded folder as one dataset, loose images as one more, and each zip as one."""
    again = state.kept("uploads_taken", 0)  # a new key empties the widget
    label = "a folder of images" if folder else "images (together one dataset) or zips (one dataset each)"
    given = st.file_uploader(
        label, accept_multiple_files="directory" if folder else True, key=f"upload.{folder}.{again}"
    )
    used = resources.workspace().uploaded(state.session_id())
    allowed = session_upload_limit()
    st.caption(
        f"This session has uploaded {used / 2**20:,.1f} of {allowed / 2**20:,.0f} MB. Uploads are freed when "
        "the session ends, unless a run was computed from them. Open large folders by their path instead."
    )
    if given:
        files = given if isinstance(given, list) else [given]
        state.keep("uploads_taken", again + 1)
        try:
            resources.uploads(state.session_id()).claim(file.size for file in files)
        except NNGuideError as error:
            job_panel.say("upload", str(error), is_error=True)
        else:
            _take(files)
        free(files)
        st.rerun()


def _take(files: Sequence[UploadedFile]) -> None:
    uploads = resources.uploads(state.session_id())  # here, since a job's thread belongs to no session
    zips = [file for file in files if file.name.lower().endswith(".zip") and "/" not in file.name]
    images = [file for file in files if file not in zips]
    for file in zips:
        name = PurePosixPath(file.name).stem or "zip"
        _start(name, [file.file_id], partial(uploads.add_zip, file.getvalue(), name, Role.OOD))
    if images:
        first = images[0].name.replace("\\", "/").split("/")
        name = next((part for part in first[:-1] if part not in ("", ".", "..")), "uploaded images")
        pairs = [(file.name, file.getvalue()) for file in images]
        ids = [file.file_id for file in images]
        _start(name, ids, partial(uploads.add_images, pairs, name, Role.OOD))


def _start(name: str, files: Sequence[str], work: partial[Chosen]) -> None:
    about = {"kind": "upload", "session": state.session_id()}
    key = fingerprint("upload", state.session_id(), *files)
    job_panel.watch(resources.jobs().start(key, f"Reading the upload {name}", work, about=about))


def _opened_before() -> None:
    """Take a dataset that the workspace knows, without reading it again."""
    known = [each for each in resources.workspace().datasets() if _is_ours(each)]
    if not known:
        st.text("The workspace knows no dataset yet.")
        return
    one: StoredDataset = st.selectbox("dataset", known, format_func=_described)
    if st.button("Add", key="add.known", type="primary"):
        dataset = resources.workspace().dataset(one.fingerprint, name=one.name, role=one.role)
        if dataset is None:
            st.error(markdown_text(f"The images of {one.name} are no longer kept: add them again."))
            return
        _add(Chosen.of(dataset))
        st.rerun()


def _is_ours(one: StoredDataset) -> bool:
    """Return whether a dataset may be offered here: where people log in, uploads are their own."""
    blobs = resources.workspace().blobs
    return not one.root.is_relative_to(blobs) or is_ours(one.root.relative_to(blobs).parts[0])


def _described(one: StoredDataset) -> str:
    when = one.saved.astimezone().strftime("%Y-%m-%d %H:%M")
    return literal(f"{one.name} ({one.role}, {one.size:,} images, {one.root}, {when})")
