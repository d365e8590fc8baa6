"""Tests of nnguide_core.evaluation.judging"""

from dataclasses import replace

import pytest
import torch
from pytorch_ood.detector import KNN
from pytorch_ood.detector import NNGuide as PytorchOodNNGuide

from nnguide_core.errors import DatasetError, NNGuideWarning, UndefinedMetricError
from nnguide_core.evaluation import NNGUIDE, BankCounts, Part, evaluate, rows_with_features, with_baselines
from nnguide_core.evaluation.comparison import metrics_table
from nnguide_core.records import Features, Role, Skipped, Threshold
from nnguide_core.settings import BankSettings
from tests.synthetic import make_question


@pytest.fixture(scope="module")
def answered():
    return evaluate(make_question())


@pytest.mark.parametrize("k", [1, 7, 10])
def test_scores_are_pytorch_oods(answered, k):
    bank = answered.question.bank.features
    peer = PytorchOodNNGuide(None, answered.question.head, k=k).fit_features(bank.features, bank.labels)
    for judged in answered.queries:
        expected = peer.predict_features(judged.features.features)
        torch.testing.assert_close(judged.scores(NNGUIDE, k), expected, rtol=1e-5, atol=1e-6)


def test_id_comes_before_ood_whatever_the_order_of_the_parts(answered):
    question = replace(answered.question, parts=tuple(reversed(answered.question.parts)))
    assert [judged.dataset.role for judged in evaluate(question, baselines=()).queries] == [
        Role.ID,
        Role.OOD,
        Role.OOD,
    ]


def test_an_image_that_is_in_the_bank_does_not_meet_its_own_row():
    question = make_question()
    bank = question.bank
    copy = Part(replace(bank.dataset, name="copy", role=Role.ID), bank.features)
    judged = evaluate(replace(question, parts=(*question.parts, copy)), k=5, baselines=()).id[-1]
    own = torch.arange(len(bank.features))[:, None]
    assert not (judged.neighbors.indices == own).any()


@pytest.mark.parametrize(
    ("sizes", "usual", "other"),
    [({"ood_sizes": ()}, "id_kept", "ood_caught"), ({"id_sizes": ()}, "ood_caught", "id_kept")],
)
def test_one_side_is_enough_for_scores_and_the_threshold_that_it_sets(sizes, usual, other):
    answered = evaluate(make_question(**sizes), baselines=())
    assert answered.default_rule == answered.run(10).threshold == Threshold(usual, 0.95)
    threshold = answered.threshold(answered.default_rule, 10)
    caught = sum(int(judged.flagged(10, threshold).sum()) for judged in answered.queries)
    assert caught == {"id_kept": 3, "ood_caught": 57}[usual]  # of 60 images
    assert answered.threshold(Threshold("value", -2.0), 10) == -2.0
    with pytest.raises(UndefinedMetricError, match=f"no {'OOD' if usual == 'id_kept' else 'ID'} scores"):
        answered.threshold(Threshold(other, 0.95), 10)


def test_with_both_sides_the_default_rule_keeps_id(answered):
    assert answered.default_rule == Threshold("id_kept", 0.95)


def test_baselines_that_are_added_later_are_the_same_and_leave_the_neighbours_alone(answered):
    alone = evaluate(answered.question, baselines=())
    assert alone.detectors == (NNGUIDE,)
    later = with_baselines(alone)
    assert (later.detectors, later.without) == (answered.detectors, answered.without)
    for mine, own, expected in zip(later.queries, alone.queries, answered.queries, strict=True):
        assert mine.neighbors is own.neighbors
        for name, scores in expected.baselines.items():
            assert torch.equal(mine.baselines[name], scores), name


@pytest.mark.parametrize("wanted", [0, 2])
def test_exactly_one_bank_is_needed(wanted):
    question = make_question()
    others = [part for part in question.parts if part.dataset.role is not Role.BANK]
    with pytest.raises(DatasetError, match=f"{wanted} have it"):
        evaluate(replace(question, parts=(*[question.bank] * wanted, *others)))


def test_a_bank_smaller_than_k_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"k = 10 ID images, but has 9"):
        evaluate(make_question(bank=9))


def test_an_unlabelled_bank_is_used_whole():
    question = make_question()
    bank = question.bank
    unlabelled = replace(bank.features, labels=torch.full((len(bank.features),), -1))
    parts = (Part(bank.dataset, unlabelled), *question.queries)
    assert evaluate(replace(question, parts=parts), baselines=()).bank.size == len(bank.features)


def with_bank_labels(question, known, spec):
    """Return the question where the model knows the class of the first images of the bank alone."""
    bank = question.bank
    labels = bank.features.labels.clone()
    labels[known:] = -1
    parts = (Part(bank.dataset, replace(bank.features, labels=labels)), *question.queries)
    return replace(question, parts=parts, spec=spec)


def test_images_of_a_folder_that_the_model_does_not_know_stay_in_the_bank_and_are_counted():
    question = make_question()
    with pytest.warns(NNGuideWarning, match="60 of 90 bank images are of classes that the model does not"):
        answered = evaluate(with_bank_labels(question, 30, {"source": "demo"}))
    assert answered.bank_counts == BankCounts(given=90, left_out=0, drawn=90, unlabelled=60)
    assert answered.bank.labels.tolist() == [*question.bank.features.labels.tolist()[:30], *[-1] * 60]
    assert [each for each in answered.cautions if each.startswith("60 of 90 bank images are of classes")]
    assert answered.without == {"Mahalanobis": "Mahalanobis needs the class of every bank image."}
    for judged, whole in zip(answered.queries, evaluate(question).queries, strict=True):
        assert torch.equal(judged.scores(NNGUIDE, 10), whole.scores(NNGUIDE, 10))
        assert torch.equal(judged.scores("KNN", 10), whole.scores("KNN", 10))


def test_images_whose_label_a_user_gave_as_unknown_are_left_out_and_counted():
    question = with_bank_labels(make_question(settings=BankSettings(fraction=0.5)), 30, None)
    with pytest.warns(NNGuideWarning, match="60 of 90 images for the bank have a label below 0"):
        answered = evaluate(question, baselines=())
    assert answered.bank_counts == BankCounts(given=90, left_out=60, drawn=15, unlabelled=0)
    assert (
        answered.cautions[0] == "60 of 90 images for the bank have a label below 0 and were left out of it."
    )


def test_queries_that_are_in_the_bank_are_counted_where_baselines_were_fitted_with_them():
    question = make_question()
    bank, part = question.bank, question.queries[0]
    moved = torch.cat([bank.features.features[:7], part.features.features[7:]])
    ids = (*bank.features.ids[:7], *part.features.ids[7:])
    copies = replace(part.features, features=moved, logits=question.head(moved), ids=ids)
    question = replace(question, parts=(bank, Part(part.dataset, copies), *question.queries[1:]))
    with pytest.warns(NNGuideWarning, match="7 of 60 queries are themselves in the bank"):
        answered = evaluate(question)
    sentence = (
        "ID 0: 7 of 60 queries are themselves in the bank. NNGuide and KNN leave a query's own row out; "
    )
    assert [each for each in answered.baseline_cautions if each.startswith(sentence)]
    assert evaluate(question, baselines=("KNN",)).baseline_cautions == ()
    rest = KNN(None, k=50).fit_features(bank.features.features[1:], torch.zeros(89))
    expected = rest.predict_features(moved[:1]).float()
    torch.testing.assert_close(answered.queries[0].scores("KNN", 10)[:1], expected)


def test_the_threshold_keeps_what_its_rule_says(answered):
    threshold = answered.threshold(Threshold("id_kept", 0.9), 10)
    kept = (answered.id_scores(NNGUIDE, 10) < threshold).float().mean()
    assert kept >= 0.9
    stricter = torch.nextafter(torch.tensor(threshold), torch.tensor(-torch.inf))
    assert (answered.id_scores(NNGUIDE, 10) < stricter).float().mean() < 0.9


def test_a_small_bank_is_a_caution_where_knn_is_compared_with():
    with pytest.warns(NNGuideWarning, match="50th nearest bank image, but there are only 30"):
        answered = evaluate(make_question(bank=30), baselines=("Energy", "KNN"))
    assert list(answered.baseline_cautions) == [
        "KNN looks for the 50th nearest bank image, but there are only 30: its score is the distance to the "
        "farthest one."
    ]
    assert answered.cautions == ()
    assert evaluate(make_question(bank=30), baselines=("Energy",)).baseline_cautions == ()


def test_every_caution_is_one_warning_that_names_its_dataset():
    question = make_question(bank=30, ood_sizes=(40, 20))
    parts = list(question.parts)
    for place in (2, 3):
        features = parts[place].features.features.clone()
        features[3] = torch.nan
        parts[place] = Part(parts[place].dataset, replace(parts[place].features, features=features))
    with pytest.warns(NNGuideWarning) as warned:
        answered = evaluate(replace(question, parts=tuple(parts)), baselines=("KNN",))
    said = [str(each.message) for each in warned]
    assert said == [*answered.cautions, *answered.baseline_cautions]
    assert [each.split(" have ")[0] for each in said[:2]] == [
        "OOD 0: 1 of 40 queries (rows 3)",
        "OOD 1: 1 of 20 queries (rows 3)",
    ]


@pytest.mark.parametrize("place", [0, 1], ids=["first", "last"])
def test_a_set_that_a_baseline_cannot_score_hides_the_baseline_from_no_other(place):
    question = make_question(id_sizes=(60,), ood_sizes=(40, 20))
    part = question.parts[2 + place]
    huge = replace(part.features, features=1e22 * part.features.features)
    parts = [Part(each.dataset, huge) if each is part else each for each in question.parts]
    with pytest.warns(NNGuideWarning, match="ViM gives no finite score"):
        answered = evaluate(replace(question, parts=tuple(parts)))
    assert {"ViM", "Mahalanobis", "KNN"} <= set(answered.detectors)
    assert answered.without == {}
    unscored, other = answered.ood[place], answered.ood[1 - place]
    assert unscored.scores("ViM", 10).isnan().all()
    assert other.scores("ViM", 10).isfinite().all()
    size = len(part.features)
    sentence = f"{part.dataset.name}: ViM gives no finite score for {size} of {size} queries, although"
    assert [each for each in answered.baseline_cautions if each.startswith(sentence)]
    rows = {(row.dataset, row.detector): row for row in metrics_table(answered)}
    assert len(rows) == 2 * len(answered.detectors)
    of_vim = rows[part.dataset.name, "ViM"]
    assert (of_vim.auroc, of_vim.ood_count, of_vim.left_out) == (None, 0, size)
    assert rows[other.dataset.name, "ViM"].auroc is not None


def test_a_threshold_that_is_no_number_decides_nothing(answered):
    with pytest.raises(ValueError, match="The threshold is NaN"):
        answered.queries[0].flagged(10, float("nan"))


def test_rows_with_features_leaves_out_what_failed_after_the_scan(answered):
    part = answered.question.parts[1]
    failed = replace(part.features, skipped=(Skipped(part.dataset.images[2].path, "gone"),))
    assert rows_with_features(part.dataset, failed) == [0, 1, *range(3, len(part.dataset.images))]


def test_settings_reach_the_bank():
    answered = evaluate(
        make_question(settings=BankSettings(fraction=0.5, react_percentile=90.0)), baselines=()
    )
    assert answered.bank.size == 45
    assert answered.bank.react_threshold is not None


def test_a_run_names_what_its_numbers_came_from(answered):
    run = answered.run(7, Threshold("value", -3.0))
    assert (run.k, run.threshold.level, run.bank.size) == (7, -3.0, 90)
    assert [query.name for query in run.queries] == ["ID 0", "OOD 0", "OOD 1"]
    assert isinstance(answered.queries[0].features, Features)
