"""A run that is removed takes with it what it alone needs: head, features, datasets and maps."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from nnguide_core.evaluation.questions import keep, open_question
from nnguide_core.records import JobRecord, JobState, Verdict, fingerprint
from nnguide_core.store import Workspace
from nnguide_core.store.tensors import TensorFiles
from tests.synthetic import make_question

MODEL = fingerprint("another model")


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")


def kept(workspace, question, k=5):
    """Keep a question, a map of it and a run."""
    keep(workspace, question)
    run = question.run(k)
    workspace.save("projections", fingerprint("map", run.question), {}, {}, needs=[run.question])
    workspace.save_run(run)
    return run


def files(workspace):
    folder = workspace.root / "tensors"
    return sorted(path.relative_to(folder).parts[0] for path in folder.rglob("*.safetensors"))


def size_of_files(workspace):
    return sum(path.stat().st_size for path in (workspace.root / "tensors").rglob("*.safetensors"))


def test_the_only_run_takes_all_with_it_but_its_verdicts(workspace):
    run = kept(workspace, make_question())
    workspace.add_verdicts([Verdict("image", "unsure", "", datetime.now(UTC), run.id)])
    before = size_of_files(workspace)
    assert files(workspace) == ["datasets"] * 4 + ["features"] * 4 + ["heads", "projections"]
    assert (workspace.run_sizes()[run.id].bytes, workspace.run_sizes()[run.id].alone) == (before, before)
    assert workspace.remove_run(run.id) == before
    assert files(workspace) == []
    assert (workspace.runs(), workspace.datasets()) == ((), ())
    assert len(workspace.verdicts()) == 1


def test_what_another_run_needs_stays_and_can_be_opened(workspace):
    question = make_question()
    fewer = replace(question, parts=question.parts[:-1])
    whole, part = kept(workspace, question), kept(workspace, fewer)
    sizes = workspace.run_sizes()
    assert sizes[part.id].alone < sizes[part.id].bytes < sizes[whole.id].bytes
    assert workspace.remove_run(whole.id) == sizes[whole.id].alone
    assert files(workspace) == ["datasets"] * 3 + ["features"] * 3 + ["heads", "projections"]
    assert len(open_question(workspace, part).parts) == 3
    workspace.remove_run(part.id)
    assert files(workspace) == []


def test_a_file_that_is_deleted_while_sizes_are_counted_counts_nothing(workspace, monkeypatch):
    run = kept(workspace, make_question())
    before, needs = workspace.run_sizes()[run.id].bytes, TensorFiles.needs
    (path,) = (workspace.root / "tensors" / "heads").iterdir()
    size = path.stat().st_size

    def deleted_meanwhile(files, kind, key):
        path.unlink(missing_ok=True)
        return needs(files, kind, key)

    monkeypatch.setattr(TensorFiles, "needs", deleted_meanwhile)
    assert workspace.run_sizes()[run.id].bytes == before - size


def test_runs_of_one_question_share_all_of_it(workspace):
    question = make_question()
    one, other = kept(workspace, question, k=5), kept(workspace, question, k=7)
    assert workspace.run_sizes()[one.id].alone == 0
    assert workspace.remove_run(one.id) == 0
    assert len(open_question(workspace, other).parts) == 4


def test_another_models_features_of_the_same_datasets_stay(workspace):
    question = make_question()
    parts = tuple(replace(each, features=replace(each.features, model=MODEL)) for each in question.parts)
    one, other = kept(workspace, question), kept(workspace, replace(question, model=MODEL, parts=parts))
    workspace.remove_run(one.id)
    assert files(workspace) == ["datasets"] * 4 + ["features"] * 4 + ["heads", "projections"]
    assert open_question(workspace, other).model == MODEL


def test_what_an_unfinished_job_needs_stays(workspace):
    question = make_question()
    run = kept(workspace, question)
    part = question.bank
    about = {"plan": {"datasets": [{"fingerprint": part.dataset.fingerprint}]}}
    workspace.save_job(JobRecord("key", "a job", JobState.INTERRUPTED, about, "", datetime.now(UTC), None))
    workspace.remove_run(run.id)
    assert files(workspace) == ["datasets", "features"]
    assert workspace.dataset(part.dataset.fingerprint) == part.dataset
    assert workspace.has_features(question.model, part.dataset.fingerprint)


def test_a_dataset_that_a_draft_lists_stays_without_its_features(workspace):
    question = make_question()
    run = kept(workspace, question)
    part = question.bank
    workspace.save_setting(
        "draft.a", {"session": "a0", "datasets": [{"fingerprint": part.dataset.fingerprint}]}
    )
    workspace.remove_run(run.id)
    assert files(workspace) == ["datasets"]
    assert workspace.dataset(part.dataset.fingerprint) == part.dataset


def test_the_head_of_a_network_goes_once_no_run_was_computed_with_it(workspace):
    question = make_question()
    run = kept(workspace, question)
    workspace.clean_up(min_age=-1.0)
    assert files(workspace).count("heads") == 1
    workspace.forget_run(run.id)
    workspace.clean_up(min_age=-1.0)
    assert files(workspace).count("heads") == 0


def test_removing_a_run_that_is_not_there_removes_nothing(workspace):
    run = kept(workspace, make_question())
    assert workspace.remove_run("0" * 64) == 0
    assert workspace.runs() == (run,)
