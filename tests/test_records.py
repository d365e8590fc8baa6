"""Records: fingerprints say what something came from, and a run survives its JSON."""

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nnguide_core.errors import StoreError
from nnguide_core.records import (
    Dataset,
    ImageRef,
    JobRecord,
    JobState,
    Role,
    Run,
    RunDataset,
    Skipped,
    Threshold,
    current_versions,
    fingerprint,
)
from nnguide_core.settings import VERSION, BankSettings


def image(number: int, label: str | None = "cat", dataset: str = "pets") -> ImageRef:
    return ImageRef(f"{number:064x}", dataset, f"{label}/{number}.png", label, f"{label}/{number}.png")


def dataset(*images: ImageRef, name: str = "pets", role: Role = Role.ID) -> Dataset:
    return Dataset(name, role, Path("/data"), images, (Skipped("broken.png", "truncated"),))


def run(**changes: object) -> Run:
    bank, cats, shoes = (RunDataset(fingerprint(name), name, role, 10) for name, role in PARTS)
    whole = Run("m" * 64, "ResNet-18", bank, (cats, shoes), BankSettings(), 10, Threshold("id_kept", 0.95))
    return dataclasses.replace(whole, **changes)


PARTS = (("train", Role.BANK), ("test", Role.ID), ("shoes", Role.OOD))


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_only_the_same_parts_give_the_same_fingerprint(these, those):
    assert (fingerprint(*these) == fingerprint(*those)) == (these == those)


def test_names_that_are_no_unicode_have_fingerprints():
    assert fingerprint("caf\udce9") != fingerprint("café")


def test_a_dataset_is_known_by_its_ids_and_labels_and_not_by_its_name_or_place():
    first = dataset(image(1), image(2, "dog"))
    renamed = dataset(image(1, dataset="x"), image(2, "dog", dataset="x"), name="x", role=Role.OOD)
    assert first.fingerprint == renamed.fingerprint
    assert first.fingerprint != dataset(image(1), image(2, "cat")).fingerprint
    assert first.fingerprint != dataset(image(2, "dog"), image(1)).fingerprint
    assert first.fingerprint != dataset(image(1)).fingerprint


def test_found_is_read_plus_skipped_and_classes_are_counted_in_order():
    whole = dataset(image(1, "dog"), image(2, "cat"), image(3, "dog"), image(4, None))
    assert whole.found == 5
    assert list(whole.class_counts.items()) == [("cat", 1), ("dog", 2)]
    assert whole.ids == tuple(f"{number:064x}" for number in (1, 2, 3, 4))


def test_a_run_comes_back_from_its_json_whole():
    settings = BankSettings(fraction=0.1, seed=3, balanced=True, react_percentile=95.0, scoring="cosine")
    whole = run(settings=settings, threshold=Threshold("value", -57.25), model_name="É <b>")
    read = Run.from_json(whole.to_json())
    assert read == whole
    assert read.id == whole.id
    assert read.created == whole.created
    assert read.queries[1].role is Role.OOD


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n" * 64},
        {"bank": RunDataset(fingerprint("other"), "train", Role.BANK, 10)},
        {"queries": ()},
        {"settings": BankSettings(seed=1)},
        {"k": 11},
        {"threshold": Threshold("id_kept", 0.9)},
        {"threshold": Threshold("ood_caught", 0.95)},
        {"threshold": Threshold("value", 0.95)},
        {"versions": {"torch": "0"}},
    ],
    ids=str,
)
def test_all_that_can_move_a_number_changes_the_runs_id(change):
    assert run(**change).id != run().id


@pytest.mark.parametrize("change", [{"model_name": "other"}, {"created": datetime(2020, 1, 1, tzinfo=UTC)}])
def test_names_and_dates_do_not_change_the_runs_id(change):
    assert run(**change).id == run().id


def test_the_question_stays_while_k_threshold_and_versions_move():
    moved = run(k=3, threshold=Threshold("value", 0.0), versions={})
    assert moved.question == run().question
    assert run(settings=BankSettings(seed=1)).question != run().question
    swapped = dataclasses.replace(run().queries[0], role=Role.OOD)
    assert run(queries=(swapped, run().queries[1])).question != run().question


def test_equal_settings_give_equal_ids_whether_written_as_1_or_1_point_0():
    whole, real = BankSettings(fraction=1, energy_offset=0), BankSettings(fraction=1.0, energy_offset=0.0)
    assert run(settings=whole).id == run(settings=real).id
    assert run(threshold=Threshold("id_kept", 1)).id == run(threshold=Threshold("id_kept", 1.0)).id


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no record of a run"),
        ("[]", "no record of a run"),
        ("{}", "no record of a run"),
        (b"\xff\xfe", "no record of a run"),
        (json.dumps({"format": 99}), "another version of the program"),
        (json.dumps({**json.loads(run().to_json()), "k": 11}), "changed after it was written"),
        (json.dumps({**json.loads(run().to_json()), "extra": 1}), "no record of a run"),
        (json.dumps({**json.loads(run().to_json()), "settings": {"fraction": 7}}), "no record of a run"),
        (json.dumps({**json.loads(run().to_json()), "queries": [{"role": "judge"}]}), "no record of a run"),
        (json.dumps({**json.loads(run().to_json()), "created": "yesterday"}), "no record of a run"),
    ],
)
def test_text_that_is_no_run_is_refused_in_words(text, words):
    with pytest.raises(StoreError, match=words):
        Run.from_json(text)


@pytest.mark.parametrize(
    ("kind", "level", "words"),
    [
        ("fpr95", 0.5, "must be one of"),
        ("id_kept", 0.0, r"must be in \(0, 1\], got 0.0"),
        ("ood_caught", 1.01, r"must be in \(0, 1\], got 1.01"),
        ("value", float("nan"), "must be a finite number, got nan"),
        ("id_kept", float("inf"), "must be a finite number"),
    ],
)
def test_a_threshold_rule_that_means_nothing_is_refused(kind, level, words):
    with pytest.raises(ValueError, match=words):
        Threshold(kind, level)


def test_a_run_remembers_its_datasets_with_their_size():
    part = RunDataset.of(dataset(image(1), image(2)))
    assert (part.name, part.role, part.size) == ("pets", Role.ID, 2)
    assert part.fingerprint == dataset(image(1), image(2)).fingerprint


def test_versions_name_this_program_and_the_packages_that_compute():
    versions = current_versions()
    assert versions["nnguide_core"] == VERSION
    assert versions["torch"][0].isdigit()
    assert "not installed" not in versions["numpy"]


def test_a_job_that_waits_runs_or_was_interrupted_is_not_finished():
    unfinished = {JobState.WAITING, JobState.RUNNING, JobState.INTERRUPTED}
    assert {state for state in JobState if not state.is_finished} == unfinished


def test_a_jobs_texts_are_all_that_stands_in_what_is_known_about_it():
    about = {"kind": "compute", "plan": {"sets": [{"name": "a", "size": 3}, ("b", None)], "share": 0.5}}
    job = JobRecord("key", "title", JobState.RUNNING, about, "", datetime.now(UTC), None)
    assert job.texts == {"compute", "a", "b"}
