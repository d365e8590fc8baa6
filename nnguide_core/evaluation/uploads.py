"""What one session uploads: counted against its allowance, kept while somebody needs it, then freed."""

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

from nnguide_core.datasets import from_uploads, open_dataset, store_upload
from nnguide_core.errors import CancelledError
from nnguide_core.evaluation.plans import Chosen, check_not_empty
from nnguide_core.files import write_atomic
from nnguide_core.images import image_id
from nnguide_core.jobs import JobContext, Jobs
from nnguide_core.logs import refusals_noted
from nnguide_core.records import JobRecord, Role
from nnguide_core.store import Workspace

__all__ = ["SessionUploads", "Stay"]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class SessionUploads:
    """The uploads of one browser session, in a folder of their own below the workspace's.

    Args:
        workspace: keeps them.
        session: an id of the session, hexadecimal.
    """

    def __init__(self, workspace: Workspace, session: str) -> None:
        self._workspace = workspace
        self._session = session
        self.folder = workspace.blobs / session

    def claim(self, sizes: Iterable[int]) -> None:
        """Count files against the session's allowance, before they are kept.

        Raises:
            StoreError: they would go over it.
        """
        with refusals_noted("upload"):
            self._workspace.claim_upload(self._session, sum(sizes))

    def add_images(
        self, files: Sequence[tuple[str, bytes]], name: str, role: Role, context: JobContext
    ) -> Chosen:
        """Check uploaded images, given path and bytes, and keep those that can be read.

        Raises:
            DatasetError: none can be read.
            CancelledError: stopped on request.
        """
        dataset = from_uploads(
            files, self.folder, name, role, progress=context.progress, cancelled=context.cancelled
        )
        check_not_empty(dataset)
        self._workspace.save_dataset(dataset)
        return Chosen.of(dataset)

    def add_zip(self, data: bytes, name: str, role: Role, context: JobContext) -> Chosen:
        """Check an uploaded zip and keep it whole.

        Raises:
            ArchiveError: it is refused as a whole.
            DatasetError: it is no zip, or holds no image that can be read.
            CancelledError: stopped on request.
        """
        path = store_upload(data, self.folder)
        dataset = open_dataset(path, name, role, progress=context.progress, cancelled=context.cancelled)
        check_not_empty(dataset)
        self._workspace.save_dataset(dataset)
        return Chosen.of(dataset)

    def add_file(self, data: bytes, name: str) -> Path:
        """Keep an uploaded checkpoint or features file and return where; the name only helps people."""
        plain = _UNSAFE.sub("_", name).lstrip(".")[-60:] or "file"
        path = self.folder / "files" / image_id(data)[:12] / plain
        write_atomic(path, data)
        return path

    def held(self) -> AbstractContextManager[None]:
        """Return a context in which no process treats the session as over; its server holds it.

        Raises:
            CancelledError: another process holds it.
        """
        return self._workspace.open_session(self._session)

    def needed_by(self, job: JobRecord) -> bool:
        """Return whether a job works for this session, or on a file of it."""
        return any(self._session in text for text in job.texts)

    def release(self) -> None:
        """Free what no run and no unfinished job needs, once the session is over."""
        self._workspace.release_uploads(self._session)


class Stay:
    """One session's stay on a server: it holds the session's uploads, and frees them at the end.

    Another server of the same workspace may hold them first; then this one goes on without, and they are
    freed by that other one.
    """

    def __init__(self, uploads: SessionUploads, jobs: Jobs) -> None:
        self._uploads = uploads
        self._jobs = jobs
        self._held: ExitStack | None = None

    def hold(self) -> bool:
        """Hold the uploads without waiting for them; return whether they are held now."""
        if self._held is None:
            with suppress(CancelledError), ExitStack() as holding:
                holding.enter_context(self._uploads.held())
                self._held = holding.pop_all()
        return self._held is not None

    def goodbye(self) -> bool:
        """Free what nobody needs; False, with nothing freed, while a job works for the session."""
        if any(self._uploads.needed_by(job.record) for job in self._jobs.all() if not job.is_over):
            return False
        if self.hold() and self._held is not None:
            self._uploads.release()
            self._held.close()
            self._held = None
        return True
