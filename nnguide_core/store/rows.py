"""What the workspace keeps as rows: runs, verdicts, settings, uploads and jobs."""

import json
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from nnguide_core.errors import StoreError
from nnguide_core.records import JobRecord, JobState, Run, Verdict, fingerprint
from nnguide_core.settings import VERDICTS, session_upload_limit
from nnguide_core.store.checks import sound
from nnguide_core.store.schema import Database

__all__ = ["Given", "Rows"]

_LOG = logging.getLogger(__name__)
_NOTE_LIMIT = 10_000  # characters of a verdict's note
_RUN_PREFIX = re.compile(r"[0-9a-f]{12,64}")
_APPEND_VERDICT = (
    "INSERT INTO verdicts (run, question, image, decision, note, said, checksum)"
    " SELECT ?1, question, ?2, ?3, ?4, ?5, row_checksum(?1, question, ?2, ?3, ?4, ?5) FROM"
    " (SELECT coalesce((SELECT question FROM runs WHERE id = ?1), '') AS question)"
)


@dataclass(frozen=True)
class Given:
    """What a person said last of an image, by the numbers of its rows."""

    number: int  # of the row that says it
    before: int  # of the row that stood until then, 0 where nothing was said


class Rows:
    """Runs, verdicts, settings, uploads and jobs in one database.

    Args:
        database: holds them.
        after_verdict: called with the database after each verdict or note that was kept.
    """

    def __init__(
        self, database: Database, after_verdict: Callable[[Database], None] = lambda _: None
    ) -> None:
        self._database = database
        self._after_verdict = after_verdict

    def save_run(self, run: Run) -> None:
        """Remember a run; the same run saved again becomes the newest."""
        fingerprints = {run.bank.fingerprint, *(query.fingerprint for query in run.queries)}
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO runs (id, question, json, saved, checksum)"
                " VALUES (?1, ?2, ?3, ?4, row_checksum(?1, ?2, ?3, ?4)) ON CONFLICT (id) DO UPDATE SET"
                " question = excluded.question, json = excluded.json, saved = excluded.saved,"
                " checksum = excluded.checksum",
                (run.id, run.question, run.to_json(), _now()),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO run_datasets VALUES (?, ?)", [(run.id, each) for each in fingerprints]
            )

    def run(self, name: str) -> Run | None:
        """Return a run by its id or by the first 12 or more digits of it; None if there is no such one."""
        if not _RUN_PREFIX.fullmatch(name):
            return None
        with self._database.read() as connection:
            found = connection.execute(
                "SELECT checksum, id, question, json, saved FROM runs WHERE id >= ? AND id < ? LIMIT 2",
                (name, f"{name}g"),
            ).fetchall()
        return next(iter(_runs(found)), None) if len(found) == 1 else None

    def runs(self, question: str | None = None) -> tuple[Run, ...]:
        """Return every readable run, or those of one question, the one saved last first."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT checksum, id, question, json, saved FROM runs WHERE ?1 IS NULL OR question = ?1"
                " ORDER BY saved DESC, rowid DESC",
                (question,),
            ).fetchall()
        return tuple(_runs(rows))

    def forget_run(self, run: str) -> None:
        """Forget a run by its full id; the verdicts given in it stay."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM runs WHERE id = ?", (run,))

    def add_verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """Append verdicts, all or none; what was said before stays on record.

        Raises:
            ValueError: a decision that is none of settings.VERDICTS or "", a note that is too long, or a time
                without its zone.
        """
        ready = list(verdicts)
        for verdict in ready:
            _check_verdict(verdict)
        with self._database.write() as connection:
            connection.executemany(_APPEND_VERDICT, [_verdict_row(verdict) for verdict in ready])
        self._after_verdict(self._database)

    def give_verdict(self, image: str, decision: str, run: str) -> Given:
        """Append a decision about one image; the note that stands on it stays.

        Raises:
            ValueError: a decision that is none of settings.VERDICTS.
        """
        with self._database.write() as connection:
            before, _, note = _latest(connection, image)
            number = _append(connection, Verdict(image, decision, note, _time(), run))
        self._after_verdict(self._database)
        return Given(number, before)

    def save_note(self, image: str, note: str, run: str) -> Given | None:
        """Append a note on one image, also before any verdict; the decision that stands stays.

        Returns:
            None where that note stands already.

        Raises:
            ValueError: the note is too long.
        """
        with self._database.write() as connection:
            before, decision, stands = _latest(connection, image)
            if note == stands:
                return None
            number = _append(connection, Verdict(image, decision, note, _time(), run))
        self._after_verdict(self._database)
        return Given(number, before)

    def take_back(self, image: str, given: Given, run: str) -> int | None:
        """Undo a verdict by appending a row with the decision before it; the note stays.

        Returns:
            The number of that row, or None, with nothing changed, where the verdict is not the latest of its
            image any more: somebody else said something since.
        """
        with self._database.write() as connection:
            latest, _, note = _latest(connection, image)
            if latest != given.number:
                return None
            said = {number: decision for number, decision, _ in _entries(connection, image)}
            number = _append(connection, Verdict(image, said.get(given.before, ""), note, _time(), run))
        self._after_verdict(self._database)
        return number

    def note(self, image: str) -> str:
        """Return the note that stands on an image, "" where there is none."""
        with self._database.read() as connection:
            return _latest(connection, image)[2]

    def verdicts(
        self, *, run: str | None = None, question: str | None = None, image: str | None = None
    ) -> tuple[Verdict, ...]:
        """Return all that was ever said, oldest first, what was taken back included.

        Args:
            run: only what was said while looking at this run.
            question: only what was said in runs of this question (Run.question), at any k or threshold.
            image: only what was said of this image.
        """
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT checksum, run, question, image, decision, note, said FROM verdicts"
                " WHERE (?1 IS NULL OR run = ?1) AND (?2 IS NULL OR question = ?2)"
                " AND (?3 IS NULL OR image = ?3) ORDER BY number",
                (_text(run), _text(question), _text(image)),
            ).fetchall()
        return tuple(
            Verdict(of, decision, note, datetime.fromisoformat(said), during)
            for during, _, of, decision, note, said in sound("verdicts", rows)
        )

    def current_verdicts(
        self, *, run: str | None = None, question: str | None = None, image: str | None = None
    ) -> dict[str, Verdict]:
        """Return what stands, by image id: the last verdict on each, unless that took the others back."""
        said = self.current_remarks(run=run, question=question, image=image)
        return {of: verdict for of, verdict in said.items() if verdict.decision}

    def current_remarks(
        self, *, run: str | None = None, question: str | None = None, image: str | None = None
    ) -> dict[str, Verdict]:
        """Return what stands, by image id: verdicts, and notes without one, whose decision is empty."""
        latest = {
            verdict.image: verdict for verdict in self.verdicts(run=run, question=question, image=image)
        }
        return {of: said for of, said in latest.items() if said.decision or said.note}

    def setting(self, name: str, default: Any = None) -> Any:
        """Return a remembered JSON-able value, or the default."""
        with self._database.read() as connection:
            return _setting(connection, name, default)

    def save_setting(self, name: str, value: Any) -> None:
        """Remember a JSON-able value under a name."""
        with self._database.write() as connection:
            _save_setting(connection, name, value)

    def change_setting(self, name: str, change: Callable[[Any], Any], default: Any = None) -> None:
        """Replace a remembered value by what change makes of it; nobody else can write in between."""
        with self._database.write() as connection:
            _save_setting(connection, name, change(_setting(connection, name, default)))

    def drafts(self) -> tuple[Mapping[str, Any], ...]:
        """Return what the forms of each kept draft hold: the settings whose names begin with "draft."."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT checksum, name, json FROM settings WHERE name GLOB 'draft.*'"
            ).fetchall()
        found = (json.loads(text) for _, text in sound("settings", rows))
        return tuple(each for each in found if isinstance(each, Mapping))

    def claim_upload(self, session: str, size: int, limit: int | None = None) -> int:
        """Count an upload against a session's allowance before it is kept; return what the session now holds.

        Args:
            session: an id of the session.
            size: bytes.
            limit: bytes per session; None is settings.session_upload_limit().

        Raises:
            StoreError: the upload would go over the limit; it is not counted.
        """
        most = session_upload_limit() if limit is None else limit
        with self._database.write() as connection:
            total = _uploaded(connection, session) + size
            if total > most:
                raise StoreError(
                    f"This session may upload {most / 2**20:,.0f} MB in all; with this it would be "
                    f"{total / 2**20:,.0f} MB. Put the images into a folder on this machine instead."
                )
            connection.execute(
                "INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", (session, total, time.time())
            )
        return total

    def uploaded(self, session: str) -> int:
        """Return how many bytes a session has uploaded."""
        with self._database.read() as connection:
            return _uploaded(connection, session)

    def save_job(self, job: JobRecord) -> None:
        """Remember where a job stands; the latest of a key replaces those before."""
        content = {**asdict(job), "about": dict(job.about), "started": job.started.isoformat()}
        content["finished"] = None if job.finished is None else job.finished.isoformat()
        row = (fingerprint(job.key), json.dumps(content), job.started.isoformat())
        with self._database.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO jobs (key, json, started, checksum)"
                " VALUES (?1, ?2, ?3, row_checksum(?1, ?2, ?3))",
                row,
            )

    def job_records(self) -> tuple[JobRecord, ...]:
        """Return the latest readable record of every key, the one started last first."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT checksum, key, json, started FROM jobs ORDER BY started DESC"
            ).fetchall()
        found = (_job(text) for _, text, _ in sound("jobs", rows))
        return tuple(record for record in found if record is not None)

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        self._database.close()

    def remove_job(self, key: str) -> None:
        """Forget a job's record."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM jobs WHERE key = ?", (fingerprint(key),))


def _time() -> datetime:
    return datetime.now(UTC)


def _now() -> str:
    return _time().isoformat()


def _runs(rows: Iterable[tuple[Any, ...]]) -> Iterator[Run]:
    for _, _, text, _ in sound("runs", rows):
        try:
            yield Run.from_json(text)
        except StoreError as error:
            _LOG.warning("left out a run: %s", error)


def _check_verdict(verdict: Verdict) -> None:
    if verdict.decision and verdict.decision not in VERDICTS:
        raise ValueError(f'A verdict must be one of {VERDICTS} or "", got {verdict.decision!r}.')
    if len(verdict.note) > _NOTE_LIMIT:
        raise ValueError(f"A note may have {_NOTE_LIMIT:,} characters, this one has {len(verdict.note):,}.")
    if verdict.when.tzinfo is None:
        raise ValueError("A verdict's time must have a time zone.")


def _verdict_row(verdict: Verdict) -> tuple[str | None, ...]:
    values = (verdict.run, verdict.image, verdict.decision, verdict.note, verdict.when.isoformat())
    return tuple(_text(value) for value in values)


def _append(connection: sqlite3.Connection, verdict: Verdict) -> int:
    _check_verdict(verdict)
    return connection.execute(_APPEND_VERDICT, _verdict_row(verdict)).lastrowid or 0


def _latest(connection: sqlite3.Connection, image: str) -> tuple[int, str, str]:
    return next(iter(_entries(connection, image)), (0, "", ""))


def _entries(connection: sqlite3.Connection, image: str) -> Iterator[tuple[int, str, str]]:
    """Yield number, decision and note of what was said of an image, newest first, damaged rows left out."""
    rows = connection.execute(
        "SELECT number, checksum, run, question, image, decision, note, said FROM verdicts WHERE image = ?"
        " ORDER BY number DESC",
        (_text(image),),
    ).fetchall()
    for number, *row in rows:
        for _, _, _, decision, note, _ in sound("verdicts", [row]):
            yield number, decision, note


def _setting(connection: sqlite3.Connection, name: str, default: Any) -> Any:
    found = connection.execute("SELECT checksum, name, json FROM settings WHERE name = ?", (name,)).fetchall()
    values = [json.loads(text) for _, text in sound("settings", found)]
    return values[0] if values else default


def _save_setting(connection: sqlite3.Connection, name: str, value: Any) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO settings (name, json, checksum) VALUES (?1, ?2, row_checksum(?1, ?2))",
        (name, json.dumps(value)),
    )


def _text(text: str | None) -> str | None:
    # A lone half of a surrogate pair, as browsers can send, is no text that SQLite takes.
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def _uploaded(connection: sqlite3.Connection, session: str) -> int:
    row = connection.execute("SELECT bytes FROM uploads WHERE session = ?", (session,)).fetchone()
    # A damaged number only lets the session begin to count anew.
    return row[0] if row is not None and isinstance(row[0], int) else 0


def _job(text: str) -> JobRecord | None:
    try:
        content = json.loads(text)
        finished = content["finished"]
        content["state"] = JobState(content["state"])
        content["started"] = datetime.fromisoformat(content["started"])
        content["finished"] = None if finished is None else datetime.fromisoformat(finished)
        return JobRecord(**content)
    except (ValueError, KeyError, TypeError) as error:
        _LOG.warning("left out the record of a job: %r", error)
        return None
