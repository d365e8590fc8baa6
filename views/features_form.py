"""Own features files instead of images: added by path or upload, named, given roles, then computed."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import streamlit as st

from nnguide_core.evaluation.own_features import OwnFile, own_question
from nnguide_core.evaluation.plans import answer, guessed_role, unique_name
from nnguide_core.evaluation.questions import keep
from nnguide_core.jobs import JobContext
from nnguide_core.paths.allowed import allowed_path
from nnguide_core.records import Role, fingerprint
from nnguide_core.settings import BankSettings, data_roots
from views import draft, job_panel, resources, state
from views.frame import errors_as_sentences
from views.model_choice import bank_options, choose_device, class_names
from views.text import literal
from views.upload_memory import free

__all__ = ["own_features"]

_FILES = "own_features"
_PATH = "own_features_path"
_WIDTHS = (4, 4, 1)  # of a row's columns
_FORMAT = (
    "safetensors or npz with the arrays features (images, D) and logits (images, C) or head_weight (C, D) "
    "with head_bias; optional: labels (images,) and paths (images,). Images are shown where the paths lie "
    "in an allowed folder."
)


def own_features() -> None:
    """Build a run from features that were computed elsewhere."""
    st.caption(_FORMAT)
    with st.container():  # as it grows, it does not move, and thereby close, what is open below
        with errors_as_sentences():
            _add_by_path()
        with errors_as_sentences():
            _add_by_upload()
        files = _edit()
    with st.expander("Bank and scoring"):
        settings, _ = bank_options(with_split=False)
    device = choose_device()
    names = class_names("own_features.classes")
    draft.note(_key(files, settings, names, device))
    if files and st.button("Compute", type="primary", key="own_features.compute"):
        _start(files, settings, names, device)
        st.rerun()


def _add_by_path() -> None:
    with st.form("features file", border=False):
        typed = draft.path_field(_PATH, "path of a features file")
        asked = st.form_submit_button("Add", type="primary")
    st.text(literal(f"Allowed folders: {', '.join(map(str, data_roots()))}."))
    if asked and typed.strip():
        path = allowed_path(typed)
        _add(path, path.stem)
        draft.path_taken(_PATH)
        st.rerun()


def _add_by_upload() -> None:
    again = state.kept("features_taken", 0)  # a new key empties the widget
    given = st.file_uploader("or upload features files", accept_multiple_files=True, key=f"features.{again}")
    if given:
        uploads = resources.uploads(state.session_id())
        uploads.claim(file.size for file in given)
        for file in given:
            _add(uploads.add_file(file.getvalue(), file.name), Path(file.name).stem)
        free(given)
        state.keep("features_taken", again + 1)
        st.rerun()


def _files() -> tuple[tuple[str, str, Role], ...]:
    found: tuple[tuple[str, str, Role], ...] = state.kept(_FILES, ())
    return found


def _add(path: Path, name: str) -> None:
    files = _files()
    if str(path) not in [each for each, _, _ in files]:
        free = unique_name(name or "features", [each for _, each, _ in files])
        role = guessed_role(free, [each for _, _, each in files])
        state.keep(_FILES, (*files, (str(path), free, role)))


def _edit() -> list[OwnFile]:
    """Show the files with their names and roles to change; return them as they are now."""
    kept = []
    if _files():
        draft.row_names(st.columns(_WIDTHS), "dataset", "role")
    for path, name, role in _files():
        key = fingerprint(path)[:16]
        name_at, role_at, remove_at = st.columns(_WIDTHS, vertical_alignment="center")
        name = name_at.text_input(
            "dataset", value=name, key=f"own.name.{key}", max_chars=200, label_visibility="collapsed"
        )
        roles = list(Role)
        place = roles.index(role)
        role = role_at.selectbox(
            "role",
            roles,
            index=place,
            format_func=draft.ROLES.__getitem__,
            key=f"own.role.{key}",
            label_visibility="collapsed",
        )
        removed = remove_at.button(
            "Remove", key=f"own.remove.{key}", icon=":material/close:", type="tertiary"
        )
        if not removed:
            kept.append((path, name, role))
    if tuple(kept) != _files():
        state.keep(_FILES, tuple(kept))
        st.rerun()
    uploads = resources.workspace().blobs
    return [
        OwnFile(Path(path), name, role, typed=not Path(path).is_relative_to(uploads))
        for path, name, role in kept
    ]


def _key(
    files: Sequence[OwnFile], settings: BankSettings, names: tuple[str, ...] | None, device: str | None
) -> str:
    """Return the key of the job that computes these files."""
    wanted = [f"{each.path} {each.name} {each.role}" for each in files]
    return fingerprint("own features", repr(settings), repr(names), repr(device), *wanted)


def _start(
    files: Sequence[OwnFile], settings: BankSettings, names: tuple[str, ...] | None, device: str | None
) -> None:
    title = f"Judging {', '.join(each.name for each in files)}"
    work = partial(_compute, tuple(files), settings, names, device)
    about = {"kind": "features", "files": [str(each.path) for each in files]}
    job_panel.watch(resources.jobs().start(_key(files, settings, names, device), title, work, about=about))


def _compute(
    files: Sequence[OwnFile],
    settings: BankSettings,
    names: tuple[str, ...] | None,
    device: str | None,
    context: JobContext,
) -> str:
    question = own_question(files, settings, names, progress=context.progress, cancelled=context.cancelled)
    keep(resources.workspace(), question)
    return answer(resources.workspace(), question, context, resources.hand_over, device=device)
