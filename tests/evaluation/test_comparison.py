"""Tests of nnguide_core.evaluation.comparison"""

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score

from nnguide_core import intervals, metrics
from nnguide_core.evaluation import NNGUIDE, Part, evaluate
from nnguide_core.evaluation.comparison import (
    FlaggedRow,
    differences,
    flagged_table,
    metrics_row,
    metrics_table,
)
from nnguide_core.records import Role
from tests.synthetic import make_question


@pytest.fixture(scope="module")
def answered():
    return evaluate(make_question())


def spoiled(row):
    """Return a question whose only OOD dataset has NaN features in a row."""
    question = make_question(ood_sizes=(20,))
    part = question.parts[-1]
    broken = part.features.features.clone()
    broken[row] = torch.nan
    features = replace(part.features, features=broken)
    return replace(question, parts=(*question.parts[:-1], Part(part.dataset, features)))


def test_metrics_are_scikit_learns(answered):
    rows = metrics_table(answered, k=10)
    id_scores = answered.id_scores(NNGUIDE, 10)
    for judged in answered.ood:
        ood_scores = judged.scores(NNGUIDE, 10)
        truth = torch.cat([torch.zeros(len(id_scores)), torch.ones(len(ood_scores))])
        expected = roc_auc_score(truth, torch.cat([id_scores, ood_scores]))
        row = next(row for row in rows if row.dataset == judged.dataset.name and row.detector == NNGUIDE)
        assert row.auroc.estimate == pytest.approx(expected, abs=1e-12)
        assert row.auroc.low < row.auroc.estimate < row.auroc.high


def test_every_baseline_is_in_the_table_or_its_absence_is_explained(answered):
    rows = metrics_table(answered, k=10)
    named = {row.detector for row in rows} | set(answered.without)
    assert named == {"NNGuide", "Energy", "MSP", "MaxLogit", "KNN", "ViM", "Mahalanobis"}


def test_a_query_without_a_score_is_left_out_and_counted():
    judged = evaluate(spoiled(3), baselines=())
    row = metrics_table(judged)[0]
    assert (row.ood_count, row.left_out) == (19, 1)
    assert not judged.ood[0].flagged(10, -1e9)[3]


def test_a_threshold_flags_so_many_of_each_dataset_and_an_image_without_a_score_is_counted_apart():
    judged = evaluate(spoiled(3), baselines=())
    id_scores, ood_scores = (each.scores(NNGUIDE, 5) for each in judged.queries)
    threshold = float(id_scores.median())
    assert flagged_table(judged, 5, threshold) == [
        FlaggedRow("ID 0", Role.ID, 60, 0, sum(score >= threshold for score in id_scores.tolist())),
        FlaggedRow("OOD 0", Role.OOD, 20, 1, sum(score >= threshold for score in ood_scores.tolist())),
    ]


def test_without_ood_there_is_no_row():
    assert metrics_table(evaluate(make_question(ood_sizes=()), baselines=())) == []


def test_a_metric_of_an_empty_side_is_not_defined_rather_than_a_number():
    row = metrics_row(NNGUIDE, "nothing", torch.tensor([1.0, 2.0]), torch.tensor([]))
    assert row.auroc is None
    assert row.aupr_ood is None
    assert row.ood_passed_at_95_id_kept is None


def test_one_score_on_a_side_has_an_auroc_and_no_bound():
    row = metrics_row(NNGUIDE, "single", torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0]))
    assert row.auroc.estimate == pytest.approx(2 / 3)
    assert (row.auroc.low, row.auroc.high) == (0.0, 1.0)


def test_both_false_positive_rates_have_their_bootstrap_intervals(answered):
    row = metrics_table(answered, k=10, detectors=["Energy"])[0]
    sides = answered.id_scores("Energy", 10), answered.ood[0].scores("Energy", 10)
    for found, metric in (
        (row.ood_passed_at_95_id_kept, metrics.ood_passed_at_id_kept),
        (row.id_flagged_at_95_ood_caught, metrics.id_flagged_at_ood_caught),
    ):
        assert found.estimate == metric(*sides)
        assert found.low <= found.estimate <= found.high
        assert found.low < found.high


def test_only_the_named_detectors_are_in_the_table(answered):
    rows = metrics_table(answered, k=3, detectors=["KNN", NNGUIDE])
    assert [(row.dataset, row.detector) for row in rows] == [
        (judged.dataset.name, name) for judged in answered.ood for name in ("KNN", NNGUIDE)
    ]
    assert {str(row) for row in rows} < {str(row) for row in metrics_table(answered, k=3)}


def test_a_difference_is_between_nnguide_and_the_baseline_on_the_same_images(answered):
    rows = differences(answered, k=7)
    assert [row.baseline for row in rows] == list(answered.detectors[1:]) * len(answered.ood)
    row = next(each for each in rows if each.baseline == "MSP" and each.dataset == "OOD 1")
    expected = intervals.auroc_difference(
        answered.id_scores(NNGUIDE, 7),
        answered.ood[1].scores(NNGUIDE, 7),
        answered.id_scores("MSP", 7),
        answered.ood[1].scores("MSP", 7),
    )
    assert row.difference == expected
    assert row.images == 60 + 20


def test_a_difference_leaves_out_what_either_detector_has_no_score_for(answered):
    unscored = answered.ood[0].scores("Energy", 10).clone()
    unscored[5] = torch.nan
    judged = replace(answered.ood[0], baselines={**answered.ood[0].baselines, "Energy": unscored})
    row = differences(replace(answered, queries=(answered.id[0], judged)))[0]
    others = torch.arange(40) != 5
    expected = intervals.auroc_difference(
        answered.id_scores(NNGUIDE, 10),
        answered.ood[0].scores(NNGUIDE, 10)[others],
        answered.id_scores("Energy", 10),
        answered.ood[0].scores("Energy", 10)[others],
    )
    assert (row.baseline, row.images, row.difference) == ("Energy", 60 + 39, expected)


def test_without_id_queries_no_difference_is_defined():
    answered = evaluate(make_question(id_sizes=()), baselines=("Energy",))
    assert {row.difference for row in differences(answered)} == {None}
