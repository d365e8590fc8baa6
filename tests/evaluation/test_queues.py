"""Tests of nnguide_core.evaluation.queues: every queue against its rule in plain loops."""

import math
import statistics
from dataclasses import replace

import pytest
import torch

from nnguide_core.evaluation import NNGUIDE, Evaluation, Judged, evaluate
from nnguide_core.evaluation.queues import ORDERS, QUEUES, Situation, narrowed, ordered, queue
from nnguide_core.records import Role, Threshold
from tests.synthetic import CLASSES, changed, make_question

pytestmark = pytest.mark.filterwarnings("ignore:.* NaN or infinity")

K = 5


@pytest.fixture(scope="module")
def answered() -> Evaluation:
    """An evaluation where labels are wrong, two images are equal and one of each role has no score."""
    question = make_question(id_sizes=(60, 21))
    for name in ("ID 0", "OOD 0"):
        part = next(each for each in question.parts if each.dataset.name == name)
        features = part.features.features.clone()
        features[3] = torch.nan
        features[8] = features[7]
        labels = part.features.labels.clone()
        labels[10:20] = (labels[10:20] + 1) % len(CLASSES)
        question = changed(question, name, features=features, logits=question.head(features), labels=labels)
    return evaluate(question, baselines=("Energy",))


def situation_of(answered: Evaluation, share: float = 0.7) -> Situation:
    return Situation(answered, K, answered.threshold(Threshold("id_kept", share), K))


def every(answered: Evaluation) -> list[tuple[Judged, int, float]]:
    """Return dataset, row and score of every query that has a score."""
    scored = [
        (judged, row, score)
        for judged in answered.queries
        for row, score in enumerate(judged.neighbors.score_at(K).tolist())
    ]
    return [each for each in scored if not math.isnan(each[2])]


def places(found) -> list[tuple[str, int]]:
    return [(name, row) for name, rows in found.items() for row in rows.tolist()]


def expected_places(situation: Situation, name: str) -> list[tuple[str, int]]:
    """Return what a queue holds by its docstring, query by query."""
    scored = every(situation.evaluation)
    margins = sorted(abs(score - situation.threshold) for _, _, score in scored)
    reach = margins[round(0.05 * len(margins)) - 1]
    id_scores = [score for judged, _, score in scored if judged.dataset.role is Role.ID]
    middle = statistics.median(id_scores)
    kept = {name: kept_at(situation.evaluation, name) for name in (NNGUIDE, "Energy")}
    rules = {
        "false alarms": lambda judged, _, score: is_id(judged) and score >= situation.threshold,
        "misses": lambda judged, _, score: not is_id(judged) and score < situation.threshold,
        "near the threshold": lambda _, __, score: abs(score - situation.threshold) <= reach * (1 + 1e-6),
        "suspected ID in OOD sets": lambda judged, _, score: not is_id(judged) and score < middle,
        "suspected wrong labels": lambda judged, row, _: (
            is_id(judged) and mislabelled(situation, judged, row)
        ),
        "detectors disagree": lambda judged, row, score: (
            (score >= kept[NNGUIDE]) != (judged.baselines["Energy"][row].item() >= kept["Energy"])
        ),
    }
    return [(judged.dataset.name, row) for judged, row, score in scored if rules[name](judged, row, score)]


def is_id(judged: Judged) -> bool:
    return judged.dataset.role is Role.ID


def kept_at(answered: Evaluation, detector: str) -> float:
    """Return the lowest score that at least 95 % of ID are below or at, and just above it."""
    scores = sorted(
        score for judged in answered.id for score in judged.scores(detector, K).tolist() if score == score
    )
    last = next(each for each in scores if sum(one <= each for one in scores) / len(scores) >= 0.95)
    return math.nextafter(last, math.inf)


def mislabelled(situation: Situation, judged: Judged, row: int) -> bool:
    """Return whether the model, at 90 % or more, and most neighbours agree on another class."""
    logits = judged.features.logits[row].tolist()
    predicted = logits.index(max(logits))
    probability = 1 / sum(math.exp(logit - max(logits)) for logit in logits)
    label = judged.features.labels[row].item()
    around = [
        situation.evaluation.bank.labels[place].item() for place in judged.neighbors.indices[row, :K].tolist()
    ]
    agreeing = sum(each == predicted for each in around)
    return 0 <= label != predicted and probability >= 0.9 and agreeing > K / 2


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_holds_what_its_rule_says(answered, name):
    situation = situation_of(answered)
    found = places(queue(name, situation))
    assert found == expected_places(situation, name)
    assert found
    assert not {("ID 0", 3), ("OOD 0", 3)} & set(found)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_suspected_id_lies_below_the_median_of_any_number_of_id_scores(count):
    answered = evaluate(make_question(id_sizes=(count,), ood_sizes=(150,)), baselines=())
    middle = statistics.median(answered.id_scores(NNGUIDE, K).tolist())
    expected = [row for row, score in enumerate(answered.ood_scores(NNGUIDE, K).tolist()) if score < middle]
    assert queue("suspected ID in OOD sets", situation_of(answered))["OOD 0"].tolist() == expected


def test_a_score_on_the_threshold_is_flagged(answered):
    judged = answered.ood[0]
    score = float(judged.neighbors.score_at(K)[7])
    found = queue("misses", Situation(answered, K, score))["OOD 0"].tolist()
    assert {7, 8}.isdisjoint(found)
    on_id = float(answered.id[0].neighbors.score_at(K)[7])
    assert {7, 8} <= set(queue("false alarms", Situation(answered, K, on_id))["ID 0"].tolist())


def test_equal_distances_to_the_threshold_are_near_together(answered):
    score = float(answered.id[0].neighbors.score_at(K)[7])
    assert {7, 8} <= set(queue("near the threshold", Situation(answered, K, score))["ID 0"].tolist())


@pytest.mark.parametrize("name", QUEUES)
@pytest.mark.parametrize("missing", ["id", "ood", "both"])
def test_a_queue_without_id_or_ood_queries_is_empty_or_smaller(name, missing):
    sizes = {"id_sizes": ()} if missing != "ood" else {}
    sizes |= {"ood_sizes": ()} if missing != "id" else {}
    answered = evaluate(make_question(**sizes), baselines=("Energy",))
    found = queue(name, Situation(answered, K, -8.0))
    assert list(found) == [judged.dataset.name for judged in answered.queries]
    needs = {
        "misses": "ood",
        "false alarms": "id",
        "suspected ID in OOD sets": "both",
        "suspected wrong labels": "id",
        "detectors disagree": "id",
    }.get(name)
    if missing == "both" or needs in (missing, "both"):
        assert places(found) == []


@pytest.mark.parametrize("name", QUEUES)
def test_queries_that_all_lack_a_score_are_in_no_queue(name):
    question = make_question(id_sizes=(6,), ood_sizes=(6,))
    for part in question.queries:
        features = torch.full_like(part.features.features, torch.nan)
        question = changed(question, part.dataset.name, features=features)
    answered = evaluate(question, baselines=("Energy",))
    assert places(queue(name, Situation(answered, K, -8.0))) == []


def test_id_without_nnguide_scores_leaves_nothing_to_disagree_on(answered):
    nothing = replace(answered.id[0].neighbors, energy=torch.full((60,), torch.nan))
    judged = replace(answered.id[0], neighbors=nothing)
    only = replace(answered, queries=(judged, *answered.ood))
    assert places(queue("detectors disagree", Situation(only, K, -8.0))) == []


def test_without_the_energy_baseline_no_detectors_disagree():
    answered = evaluate(make_question(), baselines=())
    assert places(queue("detectors disagree", situation_of(answered))) == []


def test_an_unknown_queue_or_order_is_a_key_error(answered):
    with pytest.raises(KeyError, match="nonsense"):
        queue("nonsense", situation_of(answered))
    with pytest.raises(KeyError, match="nonsense"):
        ordered(situation_of(answered), {}, "nonsense")


@pytest.mark.parametrize("dataset", [None, "ID 0", "OOD 1"])
@pytest.mark.parametrize("label", [None, "dog"])
@pytest.mark.parametrize("predicted", [None, 0, 1])
def test_narrowed_keeps_what_fits_every_filter(answered, dataset, label, predicted):
    situation = situation_of(answered)
    everything = {each.dataset.name: torch.arange(len(each.features)) for each in answered.queries}
    found = narrowed(situation, everything, dataset=dataset, label=label, predicted=predicted)
    expected = [
        (each.dataset.name, row)
        for each in answered.queries
        for row in range(len(each.features))
        if dataset in (None, each.dataset.name)
        and label in (None, each.images[row].label)
        and predicted in (None, int(each.features.logits[row].argmax()))
    ]
    assert places(found) == expected
    assert list(found) == list(everything)


@pytest.mark.parametrize("order", ORDERS)
def test_ordered_sorts_by_margin_with_ties_as_the_datasets_have_them(answered, order):
    situation = situation_of(answered)
    everything = {each.dataset.name: torch.arange(len(each.features)) for each in answered.queries}
    keys = {
        "furthest from the threshold": lambda score: -abs(score - situation.threshold),
        "closest to the threshold": lambda score: abs(score - situation.threshold),
        "highest score": lambda score: -score,
        "lowest score": lambda score: score,
    }
    scored = sorted(every(answered), key=lambda each: round(keys[order](each[2]), 4))
    found = ordered(situation, everything, order)
    unscored = [(judged.dataset.name, row) for judged, row in found[len(scored) :]]
    assert unscored == [("ID 0", 3), ("OOD 0", 3)]
    got = [keys[order](float(judged.neighbors.score_at(K)[row])) for judged, row in found[: len(scored)]]
    assert got == pytest.approx([keys[order](score) for _, _, score in scored], abs=1e-4)
    names = [(judged.dataset.name, row) for judged, row in found]
    assert names.index(("ID 0", 8)) == names.index(("ID 0", 7)) + 1
    assert names.index(("OOD 0", 8)) == names.index(("OOD 0", 7)) + 1


def test_ordering_nothing_gives_nothing(answered):
    nothing = {each.dataset.name: torch.empty(0, dtype=torch.int64) for each in answered.queries}
    assert ordered(situation_of(answered), nothing, "lowest score") == []
