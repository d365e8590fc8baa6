"""Rows that were damaged where SQLite cannot see it: left out, set aside with a note, never an error."""

import json
import random
import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest

from nnguide_core.jobs import Jobs
from nnguide_core.records import (
    Dataset,
    ImageRef,
    JobRecord,
    JobState,
    Role,
    Run,
    RunDataset,
    Threshold,
    Verdict,
    fingerprint,
)
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace
from nnguide_core.store.schema import WORKSPACE_TABLES, Database, row_checksum

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def root(tmp_path):
    """A closed workspace with two rows of every kind, and without a copy of them."""
    root, now = tmp_path / "w", datetime.now(UTC)
    with closing(Workspace(root)) as workspace:
        for name in ("first", "second"):
            image = ImageRef(fingerprint(name), name, "x.png", None, "x.png")
            dataset = Dataset(name, Role.ID, root, (image,))
            part = RunDataset.of(dataset)
            run = Run(name, name, part, (part,), BankSettings(), 1, Threshold("id_kept", 0.95))
            workspace.save_dataset(dataset)
            workspace.save_run(run)
            workspace.add_verdicts([Verdict(name, "unsure", f"note of {name}", NOON, run.id)])
            workspace.save_setting(name, {"value": name})
            workspace.save_job(JobRecord(name, f"title of {name}", JobState.DONE, {}, "", now, now))
    (root / "workspace.backup").unlink()
    return root


def contents(workspace):
    return {
        "datasets": [stored.name for stored in workspace.datasets()],
        "runs": [run.model_name for run in workspace.runs()],
        "verdicts": [(each.image, each.note) for each in workspace.verdicts()],
        "settings": [workspace.setting(name) for name in ("first", "second")],
        "jobs": [(record.key, record.title) for record in workspace.job_records()],
    }


def change(root, old, new):
    path = root / "workspace.sqlite"
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    (root / "workspace.backup").unlink(missing_ok=True)


@pytest.mark.parametrize("wrong", [b"\xff", b"X"], ids=["undecodable", "another letter"])
@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("datasets", b'{"name": "first"'),
        ("runs", b'"model_name": "first"'),
        ("verdicts", b"note of first"),
        ("settings", b'{"value": "first"}'),
        ("jobs", b"title of first"),
    ],
)
def test_a_damaged_row_is_left_out_and_set_aside_with_a_note_and_the_others_stay(root, table, text, wrong):
    with closing(Workspace(root)) as workspace:
        whole = contents(workspace)
    change(root, text, text.replace(b"first", wrong + b"irst"))
    for _ in range(2):
        with closing(Workspace(root)) as again:
            found = contents(again)
            (aside,) = again.all_set_aside()
            Jobs(again)
    assert {name: rows for name, rows in found.items() if name != table} == {
        name: rows for name, rows in whole.items() if name != table
    }
    assert "irst" not in str(found[table])
    assert "second" in str(found[table])
    assert aside.was == f"w/{table} of workspace.sqlite"
    assert aside.reason == "rows (1): their checksums do not fit: they were damaged on the disk"
    assert "irst" in str(json.loads(aside.path.read_bytes()))


def test_a_row_that_is_damaged_while_the_program_runs_is_left_out(root, caplog):
    workspace = Workspace(root)
    with workspace._database.write() as connection:
        connection.execute("UPDATE settings SET json = '3' WHERE name = 'first'")
        connection.execute("UPDATE jobs SET json = '3'")
        connection.execute("UPDATE datasets SET saved = 'today' WHERE json LIKE '%first%'")
    assert workspace.setting("first", "default") == "default"
    assert workspace.job_records() == ()
    assert [stored.name for stored in workspace.datasets()] == ["second"]
    assert "left out rows of jobs (2)" in caplog.text


def test_verdicts_can_still_not_be_deleted_after_a_damaged_one_was(root):
    change(root, b"note of first", b"note of Xirst")
    workspace = Workspace(root)
    for statement in ("UPDATE verdicts SET decision = ''", "DELETE FROM verdicts"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"), workspace._database.write() as rows:
            rows.execute(statement)


@pytest.mark.parametrize("wrong", [b"\x03\x17\x09fiXst", b"\x43\x17\x09first"], ids=["text", "entry"])
def test_a_damaged_index_is_made_anew_and_loses_no_row(root, caplog, wrong):
    # An entry of the index: the types of text and row 1, then the text.
    change(root, b"\x03\x17\x09first", wrong)
    with closing(Workspace(root)) as again:
        assert [verdict.note for verdict in again.verdicts(image="first")] == ["note of first"]
        assert again.all_set_aside() == ()
    assert "made the indexes of workspace.sqlite anew" in caplog.text


def test_a_checksum_tells_where_one_value_ends_and_the_next_begins():
    assert row_checksum("ab", "c") != row_checksum("a", "bc")
    assert row_checksum("caf\udce9") == row_checksum(b"caf\xe9")


def test_rows_of_the_first_version_get_checksums_and_are_kept(tmp_path):
    (tmp_path / "w").mkdir()
    old = Database(tmp_path / "w" / "workspace.sqlite", WORKSPACE_TABLES[:1])
    with old.write() as connection:
        connection.execute(
            "INSERT INTO verdicts (run, question, image, decision, note, said)"
            " VALUES ('r', 'q', 'cat', 'unsure', 'Kätzchen', ?)",
            (NOON.isoformat(),),
        )
        connection.execute("INSERT INTO settings VALUES ('theme', '\"dark\"')")
    old.close()
    workspace = Workspace(tmp_path / "w")
    assert workspace.verdicts() == (Verdict("cat", "unsure", "Kätzchen", NOON, "r"),)
    assert workspace.setting("theme") == "dark"
    assert workspace.all_set_aside() == ()
    with workspace._database.read() as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_tables_that_are_damaged_so_that_not_even_the_error_can_be_read_are_set_aside(root):
    change(root, b"CREATE TABLE settings", b"CREATE T\xe5BLE settings")
    with closing(Workspace(root)) as again:
        assert again.verdicts() == ()
        assert [aside.was for aside in again.all_set_aside()] == ["w/workspace.sqlite"]


def test_any_flipped_bit_changes_nothing_or_is_reported_and_is_never_an_error(root):
    with closing(Workspace(root)) as workspace:
        whole = contents(workspace)
    bytes_before = (root / "workspace.sqlite").read_bytes()
    chance = random.Random(0)  # noqa: S311 - places, no secrets
    for _ in range(60):
        flipped = bytearray(bytes_before)
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        for path in (*root.glob("workspace.*"), *(root / "set-aside").iterdir()):
            path.unlink()
        (root / "workspace.sqlite").write_bytes(flipped)
        with closing(Workspace(root)) as again:
            Jobs(again)
            assert contents(again) == whole or again.all_set_aside() != ()
