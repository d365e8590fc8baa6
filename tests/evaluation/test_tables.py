"""Tests of nnguide_core.evaluation.tables"""

import csv
import io
import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
from pyarrow import parquet

from nnguide_core.evaluation import Evaluation, Part, Question, evaluate
from nnguide_core.evaluation.tables import (
    bank_table,
    decision_in_words,
    image_table,
    to_csv,
    to_parquet,
    write_table,
)
from nnguide_core.records import Dataset, Role, Run, Threshold, Verdict
from tests.synthetic import make_question

pytestmark = pytest.mark.filterwarnings("ignore:.* NaN or infinity")

TEXTS = ("dataset", "path", "label", "predicted", "neighbours", "note")


def hostile(dataset: Dataset, start: str) -> Dataset:
    """Return the dataset with this in front of every name."""
    images = tuple(
        replace(image, path=start + image.path, label=start + (image.label or "")) for image in dataset.images
    )
    return replace(dataset, name=start + dataset.name, images=images)


def with_nan(question: Question) -> Question:
    """Return the question with NaN in the first OOD dataset's row 3."""
    part = question.queries[1]
    features = part.features.features.clone()
    features[3] = torch.nan
    changed = Part(part.dataset, replace(part.features, features=features))
    return replace(question, parts=tuple(changed if each is part else each for each in question.parts))


@pytest.fixture(scope="module")
def answered() -> Evaluation:
    return evaluate(with_nan(make_question(id_sizes=(20,), ood_sizes=(8, 5))), baselines=())


def verdict(image: str, note: str = "") -> dict[str, Verdict]:
    return {image: Verdict(image, "really ID", note, datetime(2026, 1, 2, tzinfo=UTC))}


@pytest.mark.parametrize("k", [1, 4, 25])
def test_every_row_says_what_the_evaluation_found(answered, k):
    threshold = answered.threshold(Threshold("id_kept", 0.8), k)
    said = verdict(answered.ood[1].features.ids[2], "a cat, really")
    rows = image_table(answered, k, threshold, said).to_pylist()
    paths = [image.path for image in answered.question.bank.dataset.images]
    queries = [(judged, row) for judged in answered.queries for row in range(len(judged.features))]
    assert len(rows) == len(queries) == 33
    for found, (judged, row) in zip(rows, queries, strict=True):
        image, neighbors = judged.dataset.images[row], judged.neighbors
        score = float(neighbors.score_at(k)[row])
        listed = [] if math.isnan(score) else neighbors.indices[row, : min(k, 10)].tolist()
        similarities = neighbors.similarities[row, : len(listed)].tolist()
        talked = said.get(image.id)
        expected = {
            "id": image.id,
            "dataset": judged.dataset.name,
            "role": "id" if judged.dataset.role is Role.ID else "ood",
            "path": image.path,
            "label": image.label or "",
            "predicted": answered.question.class_names[int(judged.features.logits[row].argmax())],
            "energy": float(neighbors.energy[row]),
            "guidance": float(neighbors.guidance_at(k)[row]),
            "score": score,
            "flagged": score >= threshold,
            "decision": in_words(judged.dataset.role, score, threshold),
            "neighbours": [paths[each] for each in listed],
            "guided_similarities": similarities,
            "verdict": talked.decision if talked else "",
            "note": talked.note if talked else "",
        }
        assert repr(found) == repr(expected)  # NaN differs from itself
    assert {"passed", "false alarm", "flagged", "no score"} <= {each["decision"] for each in rows}


def in_words(role: Role, score: float, threshold: float) -> str:
    if math.isnan(score):
        return "no score"
    if role is Role.ID:
        return "false alarm" if score >= threshold else "passed"
    return "flagged" if score >= threshold else "miss"


def test_a_query_without_a_score_has_no_neighbours_and_no_decision(answered):
    row = image_table(answered, 4, -1e9).to_pylist()[20 + 3]
    assert (row["decision"], row["flagged"]) == ("no score", False)
    assert (row["neighbours"], row["guided_similarities"]) == ([], [])
    assert math.isnan(row["score"])


def test_decisions_in_words():
    assert [decision_in_words(role, one) for role in (Role.ID, Role.OOD) for one in (True, False)] == [
        "false alarm",
        "passed",
        "flagged",
        "miss",
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_csv_defuses_names_in_every_text_column_and_parquet_keeps_them(start):
    question = make_question(id_sizes=(), ood_sizes=(4,))
    parts = tuple(Part(hostile(part.dataset, start), part.features) for part in question.parts)
    names = tuple(start + name for name in question.class_names)
    answered = evaluate(replace(question, parts=parts, class_names=names), baselines=())
    said = verdict(answered.ood[0].features.ids[0], start + "SUM(A1)")
    table = image_table(answered, 3, -5.0, said)
    rows = list(csv.DictReader(io.StringIO(to_csv(table).decode(), newline="")))
    kept = parquet.read_table(io.BytesIO(to_parquet(table))).to_pylist()
    assert len(rows) == len(kept) == 4
    for name in TEXTS:
        whole = kept[0][name]
        text = " | ".join(whole) if isinstance(whole, list) else whole
        assert text.startswith(start)
        assert rows[0][name] == "'" + text


def test_csv_leaves_negative_numbers_numbers(answered):
    judged = answered.ood[1]
    negative = replace(
        judged, neighbors=replace(judged.neighbors, similarities=-judged.neighbors.similarities)
    )
    table = image_table(replace(answered, queries=(negative,)), 1, 0.0)
    rows = list(csv.DictReader(io.StringIO(to_csv(table).decode())))
    for row, values in enumerate(judged.neighbors.similarities[:, 0].tolist()):
        assert float(rows[row]["guided_similarities"]) == pytest.approx(-values)
        assert float(rows[row]["guidance"]) == pytest.approx(-values)


def test_csv_has_the_same_values_as_the_table(answered):
    table = image_table(answered, 4, -5.0)
    rows = list(csv.DictReader(io.StringIO(to_csv(table).decode())))
    assert list(rows[0]) == table.column_names
    for found, expected in zip(rows, table.to_pylist(), strict=True):
        assert found["path"] == expected["path"]
        assert found["neighbours"].split(" | ") == (expected["neighbours"] or [""])
        assert float(found["score"]) == pytest.approx(expected["score"], rel=1e-6, nan_ok=True)
        assert found["flagged"] == str(expected["flagged"]).lower()


def test_parquet_names_the_run_that_it_came_from(answered):
    run = answered.run(4, Threshold("value", -5.0))
    table = image_table(answered, 4, -5.0, run=run)
    read = parquet.read_table(io.BytesIO(to_parquet(table)))
    assert Run.from_json(read.schema.metadata[b"nnguide.run"]) == run
    assert repr(read.to_pylist()) == repr(table.to_pylist())


@pytest.mark.parametrize("name", ["images.csv", "images.PARQUET"])
def test_a_table_is_written_as_its_name_says(answered, tmp_path, name):
    table = image_table(answered, 4, -5.0)
    write_table(table, tmp_path / name)
    written = (tmp_path / name).read_bytes()
    assert written == (to_csv(table) if name.endswith("csv") else to_parquet(table))


@pytest.mark.parametrize("name", ["images.txt", "images", "csv"])
def test_another_ending_is_refused_and_nothing_is_written(answered, tmp_path, name):
    with pytest.raises(ValueError, match=r"\.csv or \.parquet, got '" + name):
        write_table(image_table(answered, 4, -5.0), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("queries", ["none", "one empty", "all empty"])
def test_an_empty_table_has_the_same_columns(answered, queries):
    nothing = torch.empty(0, dtype=torch.int64)
    first = answered.id[0]
    empty = replace(
        first,
        dataset=replace(first.dataset, images=()),
        features=replace(
            first.features,
            features=first.features.features[nothing],
            logits=first.features.logits[nothing],
            labels=first.features.labels[nothing],
            ids=(),
        ),
        neighbors=first.neighbors.rows(nothing),
    )
    judged = {"none": (), "one empty": (empty, *answered.ood), "all empty": (empty,)}[queries]
    table = image_table(replace(answered, queries=judged), 4, -5.0)
    assert table.schema == image_table(answered, 4, -5.0).schema
    assert table.num_rows == (13 if queries == "one empty" else 0)
    read = parquet.read_table(io.BytesIO(to_parquet(table)))
    assert read.column_names == table.column_names
    assert len(to_csv(table).splitlines()) == table.num_rows + 1


def test_every_bank_row_says_whom_it_serves(answered):
    rows = bank_table(answered, 4).to_pylist()
    served = [0] * answered.bank.size
    for judged in answered.queries:
        for row in judged.neighbors.indices[judged.neighbors.finite, :4].flatten().tolist():
            served[row] += 1
    assert [row["queries_served"] for row in rows] == served
    assert [row["row"] for row in rows] == list(range(90))
    assert [row["id"] for row in rows] == list(answered.bank.ids)
    assert [row["energy"] for row in rows] == answered.bank.energies.tolist()
    assert not any(row["exclude"] for row in rows)


def test_rows_left_out_by_hand_and_copies_of_queries_are_to_be_excluded():
    question = make_question(bank=30, id_sizes=(6,), ood_sizes=(5,))
    bank = question.bank
    ids = question.queries[0].features.ids
    shared = replace(bank.dataset.images[7], id=ids[2])
    images = tuple(shared if row == 7 else image for row, image in enumerate(bank.dataset.images))
    dataset = replace(bank.dataset, images=images)
    leaky = Part(dataset, replace(bank.features, ids=dataset.ids, dataset=dataset.fingerprint))
    answered = evaluate(replace(question, parts=(leaky, *question.queries)), k=3, baselines=())
    chosen = {
        row["row"]: row["reason"] for row in bank_table(answered, 3, {4, 7}).to_pylist() if row["exclude"]
    }
    assert chosen == {4: "left out by hand", 7: "left out by hand and same bytes as a query"}


def test_a_row_that_the_bank_does_not_have_cannot_be_left_out(answered):
    with pytest.raises(ValueError, match="rows 0 to 89, got 90"):
        bank_table(answered, 4, [3, 90])


def test_without_queries_no_bank_row_serves_any():
    table = bank_table(evaluate(make_question(id_sizes=(), ood_sizes=()), baselines=()), 4)
    assert set(table["queries_served"].to_pylist()) == {0}


@pytest.mark.parametrize(
    "make", [lambda a, r: image_table(a, 4, -2.0, {}, r), lambda a, r: bank_table(a, 4, (), r)]
)
def test_a_table_carries_its_run_in_every_row_and_in_its_metadata(answered, make):
    run = answered.run(4)
    table = make(answered, run)
    assert set(table["run"].to_pylist()) == {run.id}
    assert Run.from_json(table.schema.metadata[b"nnguide.run"].decode()) == run
