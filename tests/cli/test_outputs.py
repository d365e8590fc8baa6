"""Tests of nnguide_core.cli.outputs"""

import json
from argparse import Namespace
from dataclasses import replace

import pytest
import torch

from nnguide_core.cli.console import console
from nnguide_core.cli.outputs import tell_metrics, tell_report
from nnguide_core.evaluation import Evaluation, Part, evaluate
from nnguide_core.evaluation.comparison import metrics_table
from nnguide_core.records import Role
from nnguide_core.settings import BankSettings
from tests.synthetic import CLASSES, make_question

TEXT, JSON = Namespace(json=False, quiet=True), Namespace(json=True, quiet=True)
DATASETS = [part.dataset for part in make_question(bank=9, id_sizes=(6,), ood_sizes=(4,)).parts]


@pytest.fixture(scope="module")
def answered() -> Evaluation:
    return evaluate(make_question(settings=BankSettings(fraction=0.5)), baselines=("Energy", "MSP"))


def told_as_json(capsys, tell, *given):
    with console(JSON) as told:
        tell(told, *given)
    return json.loads(capsys.readouterr().out)


def told_as_text(capsys, tell, *given):
    with console(TEXT) as told:
        tell(told, *given)
    return capsys.readouterr().out


def leaking():
    """Datasets of which the ID one holds two images of the bank."""
    bank, held_out, ood = DATASETS
    copies = tuple(replace(image, dataset=held_out.name) for image in bank.images[:2])
    return [bank, replace(held_out, images=held_out.images + copies), ood]


def without_scores(question, role):
    """The question, with NaN features in all datasets of a role."""
    parts = tuple(
        Part(
            part.dataset, replace(part.features, features=torch.full_like(part.features.features, torch.nan))
        )
        if part.dataset.role is role
        else part
        for part in question.parts
    )
    return replace(question, parts=parts)


def test_where_nothing_is_found_twice_the_report_says_so(capsys):
    assert told_as_text(capsys, tell_report, DATASETS, CLASSES).splitlines() == [
        "Before any number:",
        "  No image is in two places, and no query looks like a bank image.",
        "",
    ]


def test_leaks_are_a_sentence_in_text_and_every_place_in_json(capsys):
    text = told_as_text(capsys, tell_report, leaking(), CLASSES)
    assert (
        "Both in the bank and among the queries, byte for byte: 2 (bank/cat/0.png = ID 0/cat/0.png;" in text
    )
    facts = told_as_json(capsys, tell_report, leaking(), CLASSES)
    assert [[place["dataset"] for place in each] for each in facts["report"]["leaks"]] == [
        ["bank", "ID 0"]
    ] * 2
    assert facts["report"]["sentences"][0] in text
    assert [(each["name"], each["role"], each["found"], each["read"]) for each in facts["datasets"]] == [
        ("bank", "bank", 9, 9),
        ("ID 0", "id", 8, 8),
        ("OOD 0", "ood", 4, 4),
    ]


def test_classes_that_the_model_does_not_know_are_named(capsys):
    text = told_as_text(capsys, tell_report, DATASETS, ("kitten", "dog", "crane"))
    assert "bank: the model does not know 2 of its 3 classes (cat, owl)." in text
    assert "ID 0: the model does not know 2 of its 3 classes (cat, owl)." in text
    assert "OOD 0: the model" not in text


def test_a_model_that_knows_no_class_of_a_dataset_is_asked_about_as_on_a_page(capsys):
    text = told_as_text(capsys, tell_report, DATASETS, ("kitten",))
    assert "bank: the model knows none of its 3 classes (cat, dog, owl)." in text
    assert "Is this the right model, or are its class names missing?" in text
    assert "None of its images counts as classified rightly or wrongly." in text


def test_metrics_are_the_librarys_numbers_with_the_bank_that_was_drawn(capsys, answered):
    rows = metrics_table(answered, 5)
    facts = told_as_json(capsys, tell_metrics, answered, 5)
    assert (facts["bank"], facts["bank_images"], facts["run"]["k"]) == (45, 90, 5)
    assert [(each["detector"], each["dataset"]) for each in facts["metrics"]] == [
        (row.detector, row.dataset) for row in rows
    ]
    for told, row in zip(facts["metrics"], rows, strict=True):
        assert told["auroc"]["estimate"] == row.auroc.estimate
        assert told["aupr_ood"] == row.aupr_ood
        assert told["reasons"] == {}
    text = told_as_text(capsys, tell_metrics, answered, 5)
    assert text.startswith("Bank: 45 of 90 images. k = 5.")
    for row in rows:
        assert f"{row.detector:<12}{row.auroc.estimate:>8.4f}" in text


@pytest.mark.parametrize(("role", "side", "images"), [(Role.ID, "ID", 60), (Role.OOD, "OOD", 40)])
def test_every_null_has_its_reason(capsys, role, side, images):
    question = without_scores(make_question(ood_sizes=(40,)), role)
    with pytest.warns(UserWarning, match="NaN"):
        undefined = evaluate(question, baselines=("Energy",))
    (row, *_) = told_as_json(capsys, tell_metrics, undefined, 5)["metrics"]
    nulls = {name for name, value in row.items() if value is None}
    reason = f"There is no {side} image with a score ({images} without a finite score are left out)."
    assert {"auroc", "aupr_id", "ood_passed_at_95_id_kept"} <= nulls
    assert row["reasons"] == dict.fromkeys(nulls, reason)
    assert told_as_text(capsys, tell_metrics, undefined, 5).count(f"  Not defined: {reason}\n") == 1


def test_a_baseline_that_is_missing_has_its_reason(capsys, answered):
    lacking = replace(answered, without={"ViM": "ViM needs the weights of a linear head."})
    assert "ViM is not shown: ViM needs" in told_as_text(capsys, tell_metrics, lacking, 5)
    assert told_as_json(capsys, tell_metrics, lacking, 5)["without"] == lacking.without


@pytest.mark.parametrize(
    ("sizes", "lacking", "how", "flagged"),
    [
        ({"ood_sizes": ()}, "OOD", "95 % of ID is kept", "ID 0 (ID): 3 of 60 images"),
        ({"id_sizes": (), "ood_sizes": (40,)}, "ID", "95 % of OOD is caught", "OOD 0 (OOD): 38 of 40 images"),
    ],
)
def test_one_side_gives_a_threshold_and_what_it_flags_and_says_what_needs_both(
    capsys, sizes, lacking, how, flagged
):
    one_sided = evaluate(make_question(**sizes), baselines=())
    threshold = one_sided.threshold(one_sided.default_rule, 5)
    facts = told_as_json(capsys, tell_metrics, one_sided, 5)
    assert facts["threshold"] == threshold
    assert facts["run"]["threshold"]["kind"] == one_sided.default_rule.kind
    (row,) = facts["flagged"]
    assert f"{row['dataset']} ({row['role'].upper()}): {row['flagged']} of {row['images']} images" == flagged
    (sentence,) = facts["not_defined"]
    assert sentence == (
        f"AUROC, AUPR and both FPRs are not defined: they compare ID with OOD images, and no {lacking} "
        "images were given."
    )
    text = told_as_text(capsys, tell_metrics, one_sided, 5)
    assert f"NNGuide flags, where at least {how} (score ≥ {threshold:.4f}):\n  {flagged}\n" in text
    assert sentence in text


def test_without_any_score_there_is_no_threshold_and_that_is_said(capsys):
    with pytest.warns(UserWarning, match="NaN"):
        nothing = evaluate(without_scores(make_question(ood_sizes=()), Role.ID), baselines=())
    facts = told_as_json(capsys, tell_metrics, nothing, 5)
    assert (facts["threshold"], facts["flagged"]) == (None, [])
    assert facts["not_defined"][-1].startswith("There is no threshold. There are no OOD scores")
