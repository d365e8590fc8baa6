"""Tests of nnguide_core.cli.console"""

import io
import json
import sys
import warnings
from argparse import Namespace

import pytest

from nnguide_core.cli.console import console
from nnguide_core.errors import NNGuideWarning
from nnguide_core.progress import Progress
from nnguide_core.records import Skipped

TEXT, JSON = Namespace(json=False, quiet=True), Namespace(json=True, quiet=True)
FILES = [Skipped(f"{n}.png", "Empty: the file has no bytes.") for n in range(25)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_text_comes_at_once_and_json_at_the_end(capsys):
    with console(TEXT) as told:
        told.say("one", one=1)
        assert capsys.readouterr().out == "one\n"
    with console(JSON) as told:
        told.say("one", one=1)
        told.say("two", two=[2])
        assert capsys.readouterr().out == ""
    assert json.loads(capsys.readouterr().out) == {"one": 1, "two": [2], "cautions": [], "skipped": []}


def test_nothing_is_printed_as_json_where_the_command_failed(capsys):
    def fail() -> None:
        with console(JSON) as told:
            told.say("one", one=1)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert capsys.readouterr().out == ""


def test_a_warning_of_the_core_is_a_sentence_once_and_in_the_json(capsys):
    with console(JSON) as told:
        for _ in range(2):
            warnings.warn("3 of 9 queries have an energy of 0 or less.", NNGuideWarning, stacklevel=1)
        told.caution("the second")
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "nnguide: caution: 3 of 9 queries have an energy of 0 or less.",
        "nnguide: caution: the second",
    ]
    assert json.loads(printed.out)["cautions"] == [
        "3 of 9 queries have an energy of 0 or less.",
        "the second",
    ]


def test_other_warnings_stay_what_they_are():
    with pytest.warns(FutureWarning, match="of another library"), console(TEXT):
        warnings.warn("of another library", FutureWarning, stacklevel=1)


def test_text_names_the_first_skipped_files_and_json_all_of_them(capsys):
    for options in (TEXT, JSON):
        with console(options) as told:
            told.skip("id", FILES)
            assert told.skipped == 25
    printed = capsys.readouterr()
    assert printed.err.splitlines()[0] == "skipped id/0.png: Empty: the file has no bytes."
    assert printed.err.splitlines()[20] == "… and 5 more files of id skipped: --json names them all."
    skipped = json.loads(printed.out)["skipped"]
    assert [each["path"] for each in skipped] == [each.path for each in FILES]
    assert skipped[24] == {"dataset": "id", "path": "24.png", "reason": FILES[24].reason}


def test_names_that_hide_something_are_written_out(capsys):
    with console(TEXT) as told:
        told.skip("id", [Skipped("a\x1b[31m.png", "Empty.")])
    assert "\x1b" not in capsys.readouterr().err


def test_every_piece_of_work_has_a_bar_of_its_own_length(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console(Namespace(json=False, quiet=False)) as told:
        for total, step in ((4, "Checking the images of id"), (9, "Computing features of id")):
            for done in (1, total):
                told.progress(Progress(done, total, 1.0, step=step))
        told.caution("a sentence between the bars")
    shown = terminal.getvalue()
    assert "Computing features of id" in shown
    assert "9/9" in shown
    assert "a sentence between the bars\n" in shown


def test_nobody_is_told_of_progress_who_wants_quiet():
    with console(TEXT) as told:
        assert told.progress is None
