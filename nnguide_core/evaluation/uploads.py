"""What one session uploads: counted against its allowance, kept while somebody needs it, then freed."""

import re
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnguide_core.datasets import from_uploads, open_dataset, store_upload
from nnguide_core.evaluation.plans import Chosen, check_not_empty
from nnguide_core.files import write_atomic
from nnguide_core.images import image_id
from nnguide_core.jobs import JobContext
from nnguide_core.logs import refusals_noted
from nnguide_core.records import JobState, Role
from nnguide_core.store import Workspace

__all__ = ["SessionUploads", "release_stale"]

_UNFINISHED = (JobState.WAITING, JobState.RUNNING, JobState.INTERRUPTED)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_STALE_SECONDS = 2 * 24 * 3600.0  # after which a session that never said goodbye counts as over


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

    def release(self) -> None:
        """Free what no run and no unfinished job needs, once the session is over."""
        needed = self._needed()
        for stored in self._workspace.datasets():
            if stored.root.is_relative_to(self.folder.resolve()) and stored.fingerprint not in needed:
                self._workspace.remove_dataset(stored)
        self._workspace.forget_session(self._session)
        used = set(self._used())
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_file() and path.resolve() not in used:
                path.unlink(missing_ok=True)
        if not any(path.is_file() for path in self.folder.rglob("*")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _needed(self) -> set[str]:
        """Return the fingerprints of datasets that runs and unfinished jobs name."""
        runs = self._workspace.runs()
        needed = {each.fingerprint for run in runs for each in (run.bank, *run.queries)}
        for job in self._workspace.job_records():
            if job.state in _UNFINISHED:
                needed |= {each["fingerprint"] for each in job.about.get("plan", {}).get("datasets", ())}
        return needed

    def _used(self) -> Iterable[Path]:
        """Yield the files of this session that datasets of the workspace still hold."""
        folder = self.folder.resolve()
        for stored in self._workspace.datasets():
            root = stored.root.resolve()
            if not root.is_relative_to(folder):
                continue
            yield root
            dataset = self._workspace.dataset(stored.fingerprint, name=stored.name, role=stored.role)
            if dataset is not None and root.is_dir():
                yield from (root / image.location for image in dataset.images)


def release_stale(workspace: Workspace) -> None:
    """Free the uploads of sessions whose server was killed, once nothing was added for two days."""
    if not workspace.knows_all():
        return  # a dataset whose row was lost may still come back, and with it a run
    before = time.time() - _STALE_SECONDS
    for folder in workspace.blobs.iterdir():
        if folder.is_dir() and folder.stat().st_mtime < before:
            SessionUploads(workspace, folder.name).release()
