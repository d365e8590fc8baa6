"""Tests of nnguide_core.evaluation.verdicts"""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch

from nnguide_core.evaluation import NNGUIDE, Evaluation, evaluate
from nnguide_core.evaluation.comparison import metrics_table
from nnguide_core.evaluation.verdicts import apply_verdicts
from nnguide_core.records import Role, Skipped, Verdict
from tests import reference
from tests.synthetic import make_question


@pytest.fixture(scope="module")
def answered() -> Evaluation:
    return evaluate(make_question(id_sizes=(30, 20)), baselines=("Energy",))


def say(answered: Evaluation, said: dict[tuple[str, int], str]) -> dict[str, Verdict]:
    """Return verdicts on images that are named by dataset and row."""
    named = {judged.dataset.name: judged.features.ids for judged in answered.queries}
    now = datetime(2026, 1, 2, tzinfo=UTC)
    return {
        named[name][row]: Verdict(named[name][row], decision, "", now)
        for (name, row), decision in said.items()
    }


def members(answered: Evaluation) -> dict[tuple[str, Role], list[str]]:
    return {
        (judged.dataset.name, judged.dataset.role): list(judged.features.ids) for judged in answered.queries
    }


def test_nothing_said_changes_nothing(answered):
    after = apply_verdicts(answered, {})
    assert all(one is other for one, other in zip(after.queries, answered.queries, strict=True))


@pytest.mark.parametrize("decision", ["detector right", "really ID", "wrong label", "unsure", ""])
def test_other_verdicts_on_id_images_change_nothing(answered, decision):
    verdicts = say(answered, {("ID 0", 1): decision})
    assert members(apply_verdicts(answered, verdicts)) == members(answered)


def test_images_move_to_the_other_role_and_duplicates_are_left_out(answered):
    said = {
        ("ID 0", 2): "really OOD",
        ("ID 0", 9): "really OOD",
        ("ID 1", 0): "duplicate",
        ("OOD 1", 5): "really ID",
        ("OOD 1", 6): "really OOD",
        ("OOD 1", 7): "duplicate",
        ("OOD 0", 0): "unsure",
    }
    before = members(answered)
    after = apply_verdicts(answered, say(answered, said))
    inside, second = before["ID 0", Role.ID], before["ID 1", Role.ID]
    outside, kept = before["OOD 1", Role.OOD], before["OOD 0", Role.OOD]
    assert list(members(after).items()) == [
        (("ID 0", Role.ID), [each for row, each in enumerate(inside) if row not in (2, 9)]),
        (("ID 1", Role.ID), second[1:]),
        (("OOD 1: really ID", Role.ID), [outside[5]]),
        (("ID 0: really OOD", Role.OOD), [inside[2], inside[9]]),
        (("OOD 0", Role.OOD), kept),
        (("OOD 1", Role.OOD), [each for row, each in enumerate(outside) if row not in (5, 7)]),
    ]


def test_what_belongs_to_an_image_moves_with_it(answered):
    said = {("ID 0", 2): "really OOD", ("OOD 1", 5): "really ID", ("OOD 1", 7): "duplicate"}
    after = apply_verdicts(answered, say(answered, said))
    origin = {image: (judged, row) for judged in answered.queries for image, row in judged.row_of.items()}
    for judged in after.queries:
        assert judged.dataset.ids == judged.features.ids
        for row, image in enumerate(judged.features.ids):
            source, place = origin[image]
            assert judged.images[row] is source.images[place]
            assert judged.baselines["Energy"][row] == source.baselines["Energy"][place]
            for name in ("features", "logits", "labels"):
                assert torch.equal(getattr(judged.features, name)[row], getattr(source.features, name)[place])
            for name in ("indices", "similarities", "cosines", "energy", "zero_norm"):
                assert torch.equal(
                    getattr(judged.neighbors, name)[row], getattr(source.neighbors, name)[place]
                )


def test_metrics_are_those_of_the_images_in_their_real_roles(answered):
    said = {("ID 0", row): "really OOD" for row in (2, 9)}
    said |= {("OOD 0", row): "really ID" for row in range(4)} | {("OOD 0", 20): "duplicate"}
    after = apply_verdicts(answered, say(answered, said))
    inside, outside = [], []
    for judged in answered.queries:
        for row, score in enumerate(judged.neighbors.score_at(10).tolist()):
            decision = said.get((judged.dataset.name, row), "")
            if decision == "duplicate":
                continue
            role = {"really ID": Role.ID, "really OOD": Role.OOD}.get(decision, judged.dataset.role)
            if role is Role.ID:
                inside.append(score)
            elif judged.dataset.name == "OOD 0":
                outside.append(score)
    row = next(each for each in metrics_table(after) if (each.detector, each.dataset) == (NNGUIDE, "OOD 0"))
    assert (row.id_count, row.ood_count) == (30 + 20 - 2 + 4, 40 - 5)
    assert row.auroc.estimate == pytest.approx(reference.auroc(inside, outside))
    assert row.auroc != next(each for each in metrics_table(answered) if each.dataset == "OOD 0").auroc


def test_a_verdict_on_a_bank_image_changes_nothing(answered):
    image = answered.bank.ids[0]
    verdicts = {image: Verdict(image, "really OOD", "", datetime(2026, 1, 2, tzinfo=UTC))}
    after = apply_verdicts(answered, verdicts)
    assert members(after) == members(answered)
    assert after.bank is answered.bank


@pytest.mark.parametrize("decision", ["really ID", "duplicate"])
def test_a_dataset_of_which_nothing_stays_is_gone(answered, decision):
    said = {("OOD 1", row): decision for row in range(20)}
    after = members(apply_verdicts(answered, say(answered, said)))
    assert ("OOD 1", Role.OOD) not in after
    moved = after.get(("OOD 1: really ID", Role.ID), [])
    assert len(moved) == (20 if decision == "really ID" else 0)


def test_images_that_failed_after_the_scan_do_not_shift_the_rows(answered):
    judged = answered.ood[1]
    features = judged.features
    kept = torch.tensor([row for row in range(20) if row != 2])
    failed = replace(
        features,
        features=features.features[kept],
        logits=features.logits[kept],
        labels=features.labels[kept],
        ids=tuple(features.ids[row] for row in kept.tolist()),
        skipped=(Skipped(judged.dataset.images[2].path, "gone"),),
    )
    part = replace(
        judged,
        features=failed,
        neighbors=judged.neighbors.rows(kept),
        baselines={name: scores[kept] for name, scores in judged.baselines.items()},
    )
    before = replace(answered, queries=(*answered.id, part))
    after = apply_verdicts(before, say(before, {("OOD 1", 4): "really ID"}))
    moved = next(each for each in after.queries if each.dataset.name == "OOD 1: really ID")
    assert moved.images == (judged.dataset.images[5],)
    assert moved.neighbors.energy == judged.neighbors.energy[5]
