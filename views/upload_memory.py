"""What uploads hold of the server's memory: capped per session as they arrive, freed once they are taken."""

from collections.abc import Iterable

from starlette.exceptions import HTTPException
from streamlit import runtime
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFile, UploadedFileRec

from nnguide_core.settings import session_upload_limit
from views.farewell import this_tab

__all__ = ["accept_uploads", "cap_uploads", "free"]

_MOST_SESSIONS = 10_000  # remembered; one that was forgotten may upload again once its page has run
_ACCEPTED: dict[str, None] = {}  # sessions that were let in, in the order in which they came


class _Capped(MemoryUploadedFileManager):
    """Streamlit's uploads, refused beyond a session's allowance: its own limit is one for each file."""

    def add_file(self, session_id: str, file: UploadedFileRec) -> None:
        """Keep a file for a session.

        Raises:
            HTTPException: the session was not let in, or with it would hold more than it may.
        """
        if session_id not in _ACCEPTED:
            raise HTTPException(status_code=403, detail="This session may not upload.")
        with self._lock:
            others = [
                len(each.data)
                for name, each in self.file_storage.get(session_id, {}).items()
                if name != file.file_id
            ]
        if sum(others) + len(file.data) > session_upload_limit():
            raise HTTPException(status_code=413, detail="This session has uploaded all that it may.")
        super().add_file(session_id, file)


def cap_uploads() -> None:
    """Cap what every session of this server uploads, also where no page has asked for files."""
    if not runtime.exists():
        return
    manager = runtime.get_instance().uploaded_file_mgr
    if type(manager) is MemoryUploadedFileManager:
        manager.__class__ = _Capped


def accept_uploads() -> None:
    """Let this session upload from now on."""
    if (tab := this_tab()) is not None:
        _ACCEPTED[tab] = None
        while len(_ACCEPTED) > _MOST_SESSIONS:
            _ACCEPTED.pop(next(iter(_ACCEPTED)), None)


def free(files: Iterable[UploadedFile]) -> None:
    """Let go of uploads that were taken; Streamlit would hold them until the session ends."""
    if (tab := this_tab()) is None:
        return
    manager = runtime.get_instance().uploaded_file_mgr
    if isinstance(manager, MemoryUploadedFileManager):
        for file in files:
            manager.remove_file(tab, file.file_id)
