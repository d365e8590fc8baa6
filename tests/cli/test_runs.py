"""What the workspace keeps, on the command line."""

import json
import os
import re
import time

import pytest

from nnguide_core.cli import main
from nnguide_core.evaluation.questions import keep
from nnguide_core.records import fingerprint
from nnguide_core.store import Workspace
from tests.synthetic import make_question

DAY = 24 * 3600.0


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("nnguide_core.cli.program.log_to_file", lambda _: None)
    return Workspace()


@pytest.fixture
def run(workspace):
    question = make_question()
    keep(workspace, question)
    workspace.save_run(question.run(10))
    return question.run(10)


def stray(workspace):
    """Keep what nothing needs, made two days ago."""
    key = fingerprint("gone")
    workspace.save("banks", key, {}, {}, needs=[key])
    (path,) = (workspace.root / "tensors" / "banks").iterdir()
    os.utime(path, (time.time() - 2 * DAY,) * 2)
    return path


def test_an_empty_workspace_says_that_it_has_no_run(workspace, capsys):
    assert main(["runs"]) == 0
    assert re.match(rf"0 runs; the workspace {workspace.root} takes \d+ kB\.\n$", capsys.readouterr().out)


def test_runs_are_listed_with_their_sizes(workspace, run, capsys):
    assert main(["runs"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith(run.id[:12])
    assert line.endswith("synthetic: ID 0, OOD 0, OOD 1 against bank, k = 10")
    assert main(["runs", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["runs"]
    size = workspace.run_sizes()[run.id]
    assert (listed["id"], listed["bytes"], listed["bytes_alone"]) == (run.id, size.bytes, size.alone)
    assert listed["queries"] == ["ID 0", "OOD 0", "OOD 1"]


@pytest.mark.usefixtures("run")
def test_a_run_that_is_saved_while_runs_are_listed_does_not_matter(workspace, monkeypatch, capsys):
    usage = Workspace.usage

    def saved_meanwhile(listing):
        workspace.save_run(make_question().run(7))
        return usage(listing)

    monkeypatch.setattr(Workspace, "usage", saved_meanwhile)
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.startswith("1 run;")


def test_a_run_is_removed_by_the_first_digits_of_its_id(workspace, run, capsys):
    size = workspace.run_sizes()[run.id].bytes
    assert main(["clean", run.id[:12], run.id, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["removed"], said["bytes_freed"]) == ([run.id], size)
    assert workspace.runs() == ()


def test_a_run_that_is_not_there_is_said_and_none_is_removed(workspace, run, capsys):
    assert main(["clean", run.id, "0123456789ab"]) == 1
    assert "no single run whose id begins with 0123456789ab" in capsys.readouterr().err
    assert workspace.runs() == (run,)


@pytest.mark.usefixtures("run")
def test_cleaning_frees_what_nothing_needs(workspace, capsys):
    path = stray(workspace)
    assert main(["clean"]) == 0
    assert not path.exists()
    assert capsys.readouterr().out == "0 kB freed.\n"
    assert len(workspace.runs()) == 1


@pytest.mark.usefixtures("run")
def test_every_command_cleans_up_once_a_day(workspace):
    path = stray(workspace)
    assert main(["runs"]) == 0
    assert not path.exists()
    path = stray(workspace)
    assert main(["runs"]) == 0
    assert path.exists()
    workspace.save_setting("cleaned up", time.time() - 1.1 * DAY)
    assert main(["runs"]) == 0
    assert not path.exists()
