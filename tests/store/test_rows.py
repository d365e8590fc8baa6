"""Runs, verdicts, settings, uploads and jobs as rows."""

import dataclasses
import sqlite3
import threading
from datetime import UTC, datetime, timedelta

import pytest

from nnguide_core.errors import StoreError
from nnguide_core.records import JobRecord, JobState, Role, Run, RunDataset, Threshold, Verdict, fingerprint
from nnguide_core.settings import BankSettings
from nnguide_core.store.rows import Rows
from nnguide_core.store.schema import WORKSPACE_TABLES, Database

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CAT, DOG = fingerprint("cat"), fingerprint("dog")


@pytest.fixture
def database(tmp_path):
    return Database(tmp_path / "x.sqlite", WORKSPACE_TABLES)


@pytest.fixture
def rows(database):
    return Rows(database)


def run(k=10, model="m"):
    bank, query = (RunDataset(fingerprint(role), role, role, 10) for role in (Role.BANK, Role.ID))
    return Run(fingerprint(model), model, bank, (query,), BankSettings(), k, Threshold("id_kept", 0.95))


def said(image, decision, run="", note=""):
    return Verdict(image, decision, note, NOON, run)


def test_a_run_is_found_by_its_id_by_the_start_of_it_and_in_the_list(rows):
    first, second = run(k=1), run(k=2)
    rows.save_run(first)
    rows.save_run(second)
    assert rows.run(first.id) == first
    assert rows.run(second.id[:12]) == second
    assert rows.runs() == (second, first)
    rows.save_run(first)
    assert rows.runs() == (first, second)
    assert rows.runs(question=first.question) == (first, second)
    assert rows.runs(question="another") == ()


@pytest.mark.parametrize(
    "name", ["", "abc", "%", "_" * 64, "' OR 1=1 --", "G" * 64, "a" * 65, "\0" * 12, "f" * 12, "é" * 64]
)
def test_what_an_address_may_hold_instead_of_a_run_finds_none(rows, name):
    rows.save_run(run())
    assert rows.run(name) is None


def test_the_start_of_two_runs_finds_neither(rows, database):
    rows.save_run(run())
    with database.write() as connection:
        connection.execute(
            "INSERT INTO runs SELECT substr(id, 1, 20) || ?, question, json, saved, checksum FROM runs",
            ("0" * 44,),
        )
    assert rows.run(run().id[:12]) is None
    assert rows.run(run().id) == run()


def test_a_run_that_is_no_longer_readable_is_left_out(rows, database, caplog):
    rows.save_run(run(k=1))
    rows.save_run(run(k=2))
    with database.write() as connection:
        connection.execute(
            "UPDATE runs SET json = '{}', checksum = row_checksum(id, question, '{}', saved) WHERE id = ?",
            (run(k=1).id,),
        )
    assert rows.runs() == (run(k=2),)
    assert rows.run(run(k=1).id) is None
    assert "left out a run" in caplog.text


def test_the_last_verdict_counts_and_undo_is_one_more_row(rows):
    rows.add_verdicts([said(CAT, "really OOD"), said(DOG, "unsure")])
    rows.add_verdicts([said(CAT, "wrong label", note="a lynx")])
    assert rows.current_verdicts() == {CAT: said(CAT, "wrong label", note="a lynx"), DOG: said(DOG, "unsure")}
    rows.add_verdicts([said(CAT, "")])
    assert rows.current_verdicts() == {DOG: said(DOG, "unsure")}
    assert [verdict.decision for verdict in rows.verdicts(image=CAT)] == ["really OOD", "wrong label", ""]


def test_verdicts_are_found_by_run_by_question_and_by_image(rows):
    ten, three, other = run(k=10), run(k=3), run(model="n")
    for each in (ten, three, other):
        rows.save_run(each)
    rows.add_verdicts(
        [said(CAT, "really ID", ten.id), said(CAT, "unsure", three.id), said(DOG, "duplicate", other.id)]
    )
    assert [verdict.decision for verdict in rows.verdicts(run=ten.id)] == ["really ID"]
    assert rows.current_verdicts(question=ten.question) == {CAT: said(CAT, "unsure", three.id)}
    assert rows.current_verdicts(run=ten.id) == {CAT: said(CAT, "really ID", ten.id)}
    assert rows.current_verdicts(image=DOG, question=ten.question) == {}
    assert len(rows.verdicts()) == 3


def test_verdicts_outlive_their_run_and_cannot_be_changed(rows, database):
    rows.save_run(run())
    rows.add_verdicts([said(CAT, "really ID", run().id)])
    rows.forget_run(run().id)
    assert rows.runs() == ()
    assert rows.current_verdicts(question=run().question) == {CAT: said(CAT, "really ID", run().id)}
    for statement in ("UPDATE verdicts SET decision = 'unsure'", "DELETE FROM verdicts"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"), database.write() as connection:
            connection.execute(statement)
    with database.read() as connection:
        assert connection.execute("SELECT * FROM run_datasets").fetchall() == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (said(CAT, "banana"), "must be one of .* got 'banana'"),
        (said(CAT, "unsure", note="x" * 10_001), "may have 10,000 characters, this one has 10,001"),
        (dataclasses.replace(said(CAT, "unsure"), when=datetime(2026, 1, 1)), "must have a time zone"),
    ],
)
def test_a_wrong_verdict_is_refused_together_with_those_beside_it(rows, wrong, words):
    with pytest.raises(ValueError, match=words):
        rows.add_verdicts([said(DOG, "unsure"), wrong])
    assert rows.verdicts() == ()


@pytest.mark.parametrize(
    "note", ["<script>alert(1)</script>", "=1+1", "two\nlines\0", "‮ right to left", "猫"]
)
def test_notes_are_kept_letter_by_letter(rows, note):
    rows.add_verdicts([said(CAT, "unsure", note=note)])
    assert rows.verdicts()[0].note == note


def test_half_a_character_in_a_note_is_replaced(rows):
    rows.add_verdicts([said("\ud83d", "unsure", note="half \ud83d", run="\ud83d")])
    assert rows.verdicts()[0].note == "half ?"
    assert rows.current_verdicts(image="\ud83d", run="\ud83d") == {"?": said("?", "unsure", "?", "half ?")}


def test_times_keep_their_zone(rows):
    rows.add_verdicts([said(CAT, "unsure")])
    assert rows.verdicts()[0].when == NOON
    assert rows.verdicts()[0].when.tzinfo is not None


def test_settings_are_remembered_by_name(rows):
    assert rows.setting("theme", "light") == "light"
    rows.save_setting("theme", {"dark": [1, None, "caf\udce9"]})
    rows.save_setting("theme2", 3)
    assert rows.setting("theme") == {"dark": [1, None, "caf\udce9"]}


def test_a_session_may_upload_up_to_its_limit_and_no_byte_more(rows):
    megabyte = 2**20
    assert rows.claim_upload("a", 6 * megabyte, limit=10 * megabyte) == 6 * megabyte
    with pytest.raises(StoreError, match="may upload 10 MB in all; with this it would be 12 MB"):
        rows.claim_upload("a", 6 * megabyte, limit=10 * megabyte)
    assert rows.claim_upload("a", 4 * megabyte, limit=10 * megabyte) == 10 * megabyte
    assert rows.claim_upload("b", 10 * megabyte, limit=10 * megabyte) == 10 * megabyte
    assert (rows.uploaded("a"), rows.uploaded("b")) == (10 * megabyte, 10 * megabyte)


def test_the_limit_of_the_environment_holds_without_another(rows, monkeypatch):
    monkeypatch.setenv("NNGUIDE_UPLOAD_LIMIT", "100")
    with pytest.raises(StoreError, match="may upload"):
        rows.claim_upload("a", 101)


def test_uploads_of_one_session_at_the_same_time_stay_under_the_limit_together(rows):
    granted, refusals = [], []

    def upload() -> None:
        for _ in range(10):
            try:
                granted.append(rows.claim_upload("a", 10, limit=200))
            except StoreError as error:
                refusals.append(str(error))

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(granted) == list(range(10, 201, 10))
    assert len(refusals) == 20
    assert all("may upload" in refusal for refusal in refusals)


def test_a_job_is_remembered_by_its_key(rows):
    first = JobRecord("bank caf\udce9", "Bank of <b>", JobState.RUNNING, {"fraction": 0.1}, "", NOON, None)
    later = JobRecord("map", "Map", JobState.WAITING, {}, "", NOON + timedelta(seconds=1), None)
    over = dataclasses.replace(first, state=JobState.FAILED, error="The disk is full.", finished=NOON)
    for record in (first, later):
        rows.save_job(record)
    assert rows.job_records() == (later, first)
    rows.save_job(over)
    assert rows.job_records() == (later, over)
    rows.remove_job(over.key)
    assert rows.job_records() == (later,)


def test_a_note_is_kept_without_a_verdict_and_stays_when_one_is_given_or_taken_back(rows):
    assert rows.note(CAT) == ""
    rows.save_note(CAT, "blurred", "")
    assert rows.note(CAT) == "blurred"
    assert rows.current_verdicts() == {}
    given = rows.give_verdict(CAT, "unsure", "")
    assert (rows.current_verdicts()[CAT].decision, rows.note(CAT)) == ("unsure", "blurred")
    assert rows.take_back(CAT, given, "") is not None
    assert rows.current_verdicts() == {}
    assert rows.note(CAT) == "blurred"


def test_a_note_that_is_edited_afterwards_changes_no_verdict_and_an_equal_one_adds_no_row(rows):
    rows.give_verdict(CAT, "really ID", "")
    rows.save_note(CAT, "a lynx", "")
    count = len(rows.verdicts())
    assert rows.save_note(CAT, "a lynx", "") is None
    assert len(rows.verdicts()) == count
    assert rows.save_note(CAT, "", "") is not None
    assert [(each.decision, each.note) for each in rows.verdicts(image=CAT)] == [
        ("really ID", ""),
        ("really ID", "a lynx"),
        ("really ID", ""),
    ]


def test_only_the_latest_verdict_of_an_image_is_taken_back(rows):
    mine = rows.give_verdict(CAT, "really ID", "")
    theirs = rows.give_verdict(CAT, "really OOD", "")
    assert rows.take_back(CAT, mine, "") is None
    assert rows.current_verdicts()[CAT].decision == "really OOD"
    again = rows.take_back(CAT, theirs, "")
    assert again is not None
    assert rows.current_verdicts()[CAT].decision == "really ID"
    assert rows.take_back(CAT, dataclasses.replace(mine, number=again), "") is not None
    assert rows.current_verdicts() == {}


def test_a_damaged_row_neither_lends_its_note_nor_takes_away_the_decision_before_it(rows, database):
    rows.add_verdicts([said(CAT, "unsure", note="kept")])
    with database.write() as connection:
        connection.execute(
            "INSERT INTO verdicts (run, question, image, decision, note, said, checksum)"
            " VALUES ('', '', ?, 'really ID', 'damaged', '', 1)",
            (CAT,),
        )
    assert rows.note(CAT) == "kept"
    rows.save_note(CAT, "new", "")
    assert rows.current_verdicts()[CAT].decision == "unsure"


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (lambda rows: rows.give_verdict(CAT, "banana", ""), "must be one of .* got 'banana'"),
        (lambda rows: rows.save_note(CAT, "x" * 10_001, ""), "may have 10,000 characters"),
    ],
)
def test_what_may_not_be_said_of_an_image_is_refused(rows, say, words):
    with pytest.raises(ValueError, match=words):
        say(rows)
    assert rows.verdicts() == ()


def test_changes_of_one_value_at_the_same_time_all_count(rows):
    def add(each: int) -> None:
        for part in range(10):
            rows.change_setting("list", lambda kept, new=(each, part): sorted([*kept, list(new)]), [])

    threads = [threading.Thread(target=add, args=(each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows.setting("list") == [[each, part] for each in range(4) for part in range(10)]
