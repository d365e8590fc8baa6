"""Tests of nnguide_core.evaluation.explanation"""

import statistics
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nnguide_core import metrics
from nnguide_core.detector import NNGuide
from nnguide_core.errors import UndefinedMetricError
from nnguide_core.evaluation import NNGUIDE, Evaluation, Judged, Part, evaluate
from nnguide_core.evaluation.explanation import (
    Typical,
    WhatIf,
    flips,
    gap_to,
    thresholds_over_k,
    typical,
    what_if,
)
from nnguide_core.records import Threshold
from nnguide_core.settings import BankSettings
from tests import reference
from tests.synthetic import CLASSES, changed, make_question

pytestmark = pytest.mark.filterwarnings("ignore:.* NaN or infinity")

amounts = st.floats(-1e3, 1e3)


@pytest.fixture(scope="module")
def answered() -> Evaluation:
    """An evaluation with two ID datasets, where one query of each role has no score."""
    question = make_question(id_sizes=(60, 20))
    for name in ("ID 0", "OOD 0"):
        part = next(each for each in question.parts if each.dataset.name == name)
        features = part.features.features.clone()
        features[3] = torch.nan
        question = changed(question, name, features=features)
    with pytest.warns(UserWarning, match="NaN"):
        return evaluate(question, baselines=())


@given(amounts, amounts, amounts, amounts)
def test_the_parts_of_a_gap_are_shapley_values_and_add_up(usual_guidance, usual_energy, guidance, energy):
    usual = Typical(usual_guidance, usual_energy, 0.0, 0.0, 5, "")
    gap = gap_to(usual, guidance, energy)
    scores = {
        (own_guidance, own_energy): -(guidance if own_guidance else usual_guidance)
        * (energy if own_energy else usual_energy)
        for own_guidance in (False, True)
        for own_energy in (False, True)
    }
    expected = reference.shapley(scores)
    assert (gap.guidance, gap.energy) == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert gap.total == pytest.approx(-guidance * energy - usual.score, rel=1e-9, abs=1e-6)


def test_a_share_of_the_gap_can_leave_0_to_1_and_is_none_without_a_gap():
    usual = Typical(2.0, 10.0, 0.9, 3.0, 5, "")
    assert gap_to(usual, 1.0, 10.0).guidance_share == 1.0
    assert gap_to(usual, 2.0, 8.0).guidance_share == 0.0
    opposed = gap_to(usual, 1.0, 12.0)
    assert opposed.guidance == 11.0
    assert opposed.energy == -3.0
    assert opposed.guidance_share == pytest.approx(11 / 8)
    assert gap_to(usual, 2.0, 10.0).guidance_share is None


def medians_of(
    answered: Evaluation, k: int, class_index: int | None
) -> tuple[float, float, float, float, int]:
    """Return guidance, energy, cosine and bank energy as medians over plain lists, and their count."""
    guidance, energies, cosines, bank_energies = [], [], [], []
    for judged in answered.id:
        found = judged.neighbors
        for row, logits in enumerate(judged.features.logits.tolist()):
            energy = found.energy[row].item()
            if energy != energy or class_index not in (None, logits.index(max(logits))):
                continue
            energies.append(energy)
            guidance.append(sum(found.similarities[row, :k].tolist()) / k)
            cosines.append(sum(found.cosines[row, :k].tolist()) / k)
            rows = found.indices[row, :k].tolist()
            bank_energies.append(sum(answered.bank.energies[each].item() for each in rows) / k)
    medians = [statistics.median(each) for each in (guidance, energies, cosines, bank_energies)]
    return (*medians, len(energies))


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("class_index", range(len(CLASSES)))
def test_typical_is_the_median_over_the_id_queries_taken_for_the_class(answered, class_index, k):
    found = typical(answered, class_index, k)
    expected = medians_of(answered, k, class_index)
    assert found.class_name == CLASSES[class_index]
    numbers = (found.guidance, found.energy, found.cosine, found.bank_energy, found.images)
    assert numbers == pytest.approx(expected, rel=1e-5)
    assert found.score == -found.guidance * found.energy


@pytest.mark.parametrize(("images", "named"), [(4, ""), (5, "cat")])
def test_a_class_with_fewer_than_five_images_has_the_typical_of_all_classes(images, named):
    question = make_question(ood_sizes=())
    part = question.queries[0]
    logits = part.features.logits.clone()
    logits[:, 0] = -1.0
    logits[:images, 0] = 1e3
    question = replace(
        question, parts=(question.bank, Part(part.dataset, replace(part.features, logits=logits)))
    )
    answered = evaluate(question, baselines=())
    found = typical(answered, 0, 10)
    expected = medians_of(answered, 10, 0 if named else None)
    assert found.class_name == named
    assert (found.guidance, found.energy) == pytest.approx(expected[:2], rel=1e-5)
    assert found.images == (images if named else 60)


def test_nothing_is_typical_without_id_queries():
    assert typical(evaluate(make_question(id_sizes=()), baselines=()), 0, 10) is None


@pytest.mark.parametrize("level", [0.5, 0.95, 1.0])
def test_thresholds_over_k_are_those_of_metrics_at_every_k(answered, level):
    kept = thresholds_over_k(answered, Threshold("id_kept", level))
    caught = thresholds_over_k(answered, Threshold("ood_caught", level))
    assert len(kept) == len(caught) == answered.k_max
    for k in range(1, answered.k_max + 1):
        inside, outside = answered.id_scores(NNGUIDE, k), answered.ood_scores(NNGUIDE, k)
        assert kept[k - 1] == metrics.threshold_id_kept(inside, level)
        assert caught[k - 1] == metrics.threshold_ood_caught(outside, level)
        assert kept[k - 1] == answered.threshold(Threshold("id_kept", level), k)


def test_a_value_is_the_threshold_of_every_k(answered):
    assert thresholds_over_k(answered, Threshold("value", -2.5)).tolist() == [-2.5] * answered.k_max


def test_a_threshold_over_k_needs_only_the_side_that_sets_it():
    without_ood = evaluate(make_question(ood_sizes=()), baselines=())
    assert len(thresholds_over_k(without_ood, Threshold("id_kept", 0.95))) == without_ood.k_max
    with pytest.raises(UndefinedMetricError, match="no OOD scores"):
        thresholds_over_k(without_ood, Threshold("ood_caught", 0.95))
    without_id = evaluate(make_question(id_sizes=()), baselines=())
    assert len(thresholds_over_k(without_id, Threshold("ood_caught", 0.95))) == without_id.k_max
    with pytest.raises(UndefinedMetricError, match="no ID scores"):
        thresholds_over_k(without_id, Threshold("id_kept", 0.95))


def test_flips_are_every_k_whose_decision_differs_from_the_one_before(answered):
    thresholds = thresholds_over_k(answered, Threshold("id_kept", 0.7))
    changes = 0
    for judged in answered.queries:
        for row in range(len(judged.features)):
            found = flips(judged, row, thresholds)
            decisions = [
                bool(judged.neighbors.score_at(k)[row] >= thresholds[k - 1])
                for k in range(1, answered.k_max + 1)
            ]
            assert found.flagged.tolist() == decisions
            expected = [k for k in range(2, len(decisions) + 1) if decisions[k - 1] != decisions[k - 2]]
            assert list(found.ks) == expected
            changes += len(expected)
    assert changes > 5


def test_a_query_without_a_score_never_flips(answered):
    thresholds = thresholds_over_k(answered, Threshold("id_kept", 0.95))
    assert flips(answered.queries[0], 3, thresholds).ks == ()


def refitted(answered: Evaluation, excluded: list[int], k: int) -> list[Tensor]:
    """Return the scores of every query dataset by a detector fitted on the bank images that remain."""
    bank = answered.question.bank.features
    kept = [position for row, position in enumerate(answered.bank.positions.tolist()) if row not in excluded]
    settings = answered.question.settings
    detector = NNGuide(
        None, answered.question.head, k, settings.scoring, energy_offset=settings.energy_offset
    )
    detector.fit_features(bank.features[kept], ids=[bank.ids[position] for position in kept])
    return [
        detector.predict_features(
            judged.features.features, exclude=detector.bank.own_rows(judged.features.ids)
        )
        for judged in answered.queries
    ]


def expect(answered: Evaluation, judged: Judged, row: int, excluded: list[int], k: int) -> WhatIf:
    """Check what_if against a refit and return it."""
    threshold = answered.threshold(Threshold("id_kept", 0.7), k)
    found = what_if(answered, judged, row, torch.tensor(excluded, dtype=torch.int64), k, threshold)
    newly = [0, 0]
    for each, scores in zip(answered.queries, refitted(answered, excluded, k), strict=True):
        before = each.neighbors.score_at(k)
        for place, (old, new) in enumerate(zip(before.tolist(), scores.tolist(), strict=True)):
            if each is judged and place == row:
                assert found.score == pytest.approx(new, rel=1e-5, nan_ok=True)
                assert found.flagged == (new >= threshold)
            else:
                newly[0] += new >= threshold > old
                newly[1] += old >= threshold > new
    assert [found.newly_flagged, found.newly_passed] == newly
    return found


def served(answered: Evaluation) -> list[int]:
    """Return all bank rows, those first that are the nearest of most queries."""
    first = torch.cat([judged.neighbors.indices[:, 0] for judged in answered.queries])
    return torch.bincount(first[first >= 0], minlength=answered.bank.size).argsort(descending=True).tolist()


@pytest.mark.parametrize("k", [1, 4, 10])
@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_what_if_is_a_refit_without_these_bank_images(answered, count, k):
    excluded = served(answered)[:count]
    for judged, row in ((answered.queries[0], 0), (answered.queries[-1], 7), (answered.queries[0], 3)):
        found = expect(answered, judged, row, excluded, k)
        assert not set(found.neighbors.indices[0].tolist()) & set(excluded)
        assert found.neighbors.k == k


@pytest.mark.parametrize(
    "settings",
    [BankSettings(scoring="cosine"), BankSettings(energy_offset=2.0), BankSettings(fraction=0.6, seed=4)],
)
def test_what_if_is_a_refit_with_other_settings(settings):
    answered = evaluate(make_question(settings=settings), baselines=())
    found = expect(answered, answered.ood[0], 2, served(answered)[:45], 5)
    assert found.newly_flagged + found.newly_passed > 0


@pytest.mark.filterwarnings("ignore:.*energy of 0 or less")
@pytest.mark.parametrize("scoring", ["paper", "cosine"])
def test_what_if_is_a_refit_where_the_images_left_out_turn_the_mean_energy(scoring):
    energies = evaluate(make_question(), baselines=()).bank.energies
    settings = BankSettings(scoring=scoring, energy_offset=0.1 - float(energies.mean()))
    question = make_question(settings=settings)
    own = question.bank.features.features[:3]
    part = question.queries[0]
    moved = torch.cat([own, part.features.features[3:]])
    copies = replace(
        part.features,
        features=moved,
        logits=question.head(moved),
        ids=(*question.bank.features.ids[:3], *part.features.ids[3:]),
    )
    parts = (question.bank, Part(part.dataset, copies), *question.queries[1:])
    answered = evaluate(replace(question, parts=parts), baselines=())
    excluded = answered.bank.energies.argsort(descending=True)[:5].tolist()
    rest = answered.bank.without(torch.tensor(excluded))
    assert answered.bank.energies.mean() > 0 > rest.energies.mean()
    expect(answered, answered.queries[0], 1, excluded, 5)
    found = expect(answered, answered.ood[0], 2, excluded, 5)
    assert not set(found.neighbors.indices[0].tolist()) & set(excluded)


@pytest.mark.parametrize("settings", [BankSettings(), BankSettings(react_percentile=90.0)])
def test_the_bank_is_searched_again_where_too_few_neighbours_were_kept(settings):
    question = make_question(bank=150, settings=settings)
    part = question.queries[0]
    own = torch.cat([question.bank.features.features[:2], part.features.features[2:]])
    ids = (*question.bank.features.ids[:2], *part.features.ids[2:])
    changed = replace(part.features, features=own, logits=question.head(own), ids=ids)
    parts = (question.bank, Part(part.dataset, changed), *question.queries[1:])
    answered = evaluate(replace(question, parts=parts), baselines=())
    assert answered.k_max == 100
    judged, k = answered.queries[0], 10
    excluded = judged.neighbors.indices[1, :95].tolist()
    threshold = answered.threshold(Threshold("id_kept", 0.7), k)
    found = what_if(answered, judged, 1, torch.tensor(excluded), k, threshold)
    bank = answered.bank
    clipped = own[1] if bank.react_threshold is None else own[1].clamp(max=bank.react_threshold)
    units = [(row / energy).tolist() for row, energy in zip(bank.rows, bank.energies, strict=True)]
    rows, similarities = reference.nearest(units, bank.energies.tolist(), clipped.tolist(), k, {1, *excluded})
    assert found.neighbors.indices[0].tolist() == rows
    assert found.neighbors.similarities[0].tolist() == pytest.approx(similarities, rel=1e-5)
    cosines = [reference.cosine_similarity(units[row], clipped.tolist()) for row in rows]
    assert found.neighbors.cosines[0].tolist() == pytest.approx(cosines, rel=1e-5)
    assert found.neighbors.energy == judged.neighbors.energy[1]
    if settings.react_percentile is None:
        expect(answered, judged, 1, excluded, k)


def test_bank_images_that_are_nobodys_neighbours_change_nothing(answered):
    k = 3
    near = {row for judged in answered.queries for row in judged.neighbors.indices[:, :k].flatten().tolist()}
    far = [row for row in range(answered.bank.size) if row not in near]
    assert far
    judged = answered.ood[1]
    found = expect(answered, judged, 4, far, k)
    assert found.score == judged.neighbors.score_at(k)[4]
    assert (found.newly_flagged, found.newly_passed) == (0, 0)


def test_the_query_itself_is_not_among_the_others(answered):
    judged, k = answered.ood[0], 1
    scores = judged.neighbors.score_at(k)
    excluded = torch.tensor([judged.neighbors.indices[0, 0]])
    just_above = float(torch.nextafter(scores[0], torch.tensor(torch.inf)))
    found = what_if(answered, judged, 0, excluded, k, just_above)
    other = what_if(answered, judged, 1, excluded, k, just_above)
    assert found.flagged
    assert other.newly_flagged == found.newly_flagged + 1 - int(
        other.flagged and not bool(scores[1] >= just_above)
    )


def between_float32(score: Tensor) -> float:
    """Return a threshold just above a float32 score, which float32 rounds down to it."""
    above = float(torch.nextafter(score, torch.tensor(torch.inf)))
    return float(score) + 0.25 * (above - float(score))


def test_a_bank_image_that_serves_nobody_flips_no_decision_within_float32_of_the_threshold(answered):
    k, judged = 3, answered.ood[0]
    near = {row for each in answered.queries for row in each.neighbors.indices[:, :k].flatten().tolist()}
    far = next(row for row in range(answered.bank.size) if row not in near)
    threshold = between_float32(judged.neighbors.score_at(k)[5])
    for row in (0, 5):
        found = what_if(answered, judged, row, torch.tensor([far]), k, threshold)
        assert (found.newly_flagged, found.newly_passed) == (0, 0)
        assert found.flagged == bool(judged.flagged(k, threshold)[row])


def test_flips_decide_as_the_dataset_does_within_float32_of_the_threshold(answered):
    judged, k = answered.ood[0], 4
    threshold = between_float32(judged.neighbors.score_at(k)[5])
    found = flips(judged, 5, thresholds_over_k(answered, Threshold("value", threshold)))
    assert not judged.flagged(k, threshold)[5]
    assert not found.flagged[k - 1]


def test_too_many_excluded_are_refused(answered):
    excluded = torch.arange(answered.bank.size - 9)
    with pytest.raises(ValueError, match="10"):
        what_if(answered, answered.queries[0], 0, excluded, 10, 0.0)
    assert what_if(answered, answered.queries[0], 0, excluded[1:], 10, 0.0).neighbors.k == 10


def test_a_query_of_another_evaluation_is_refused(answered):
    other = evaluate(make_question(), baselines=()).queries[0]
    with pytest.raises(ValueError, match="not part of this evaluation"):
        what_if(answered, other, 0, torch.tensor([1]), 5, 0.0)
