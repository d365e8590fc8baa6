"""Judged images and bank images as tables, as CSV or Parquet: what the export page and the CLI write.

In CSV a leading = + - @ of a name is defused, so that a spreadsheet reads it as text; Parquet keeps names
as they are.
"""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nnguide_core.evaluation.judging import Evaluation, Judged
from nnguide_core.files import write_atomic
from nnguide_core.names import csv_safe
from nnguide_core.records import Role, Run, Verdict
from nnguide_core.scoring import usage

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "bank_table",
    "decision_in_words",
    "image_table",
    "judged_table",
    "to_csv",
    "to_parquet",
    "write_table",
]

NEIGHBOURS_LISTED = 10  # bank images named per row, at most


def image_table(
    evaluation: Evaluation,
    k: int,
    threshold: float,
    verdicts: Mapping[str, Verdict] | None = None,
    run: Run | None = None,
) -> "pa.Table":
    """Return one row per judged image, datasets in order.

    Args:
        evaluation: what was judged.
        k: as for judged_table, like all that follow.
        threshold: a score.
        verdicts: image id -> verdict.
        run: what the numbers came from: its id is a column, and all of it is in the table's metadata.
    """
    paths = _bank_paths(evaluation)
    names = evaluation.question.class_names
    return _with_run(judged_table(evaluation.queries, names, paths, k, threshold, verdicts), run)


def judged_table(
    queries: Sequence[Judged],
    class_names: Sequence[str],
    bank_paths: Sequence[str],
    k: int,
    threshold: float,
    verdicts: Mapping[str, Verdict] | None = None,
) -> "pa.Table":
    """Return one row per judged image, datasets in order.

    A query without a score has the decision "no score", NaN where it has no number, and no neighbours.

    Args:
        queries: what was judged.
        class_names: the model's, by class index.
        bank_paths: of the bank rows' images, in the bank's order.
        k: neighbours that guide.
        threshold: a query is flagged as OOD when its score is at least this.
        verdicts: image id -> what a person decided; the columns are empty where nothing was said.
    """
    import pyarrow as pa

    schema = _schema()
    parts = [_part(each, class_names, k, threshold, bank_paths, verdicts or {}) for each in queries]
    return pa.concat_tables([schema.empty_table(), *(pa.table(part, schema) for part in parts)])


def bank_table(
    evaluation: Evaluation, k: int, left_out: Collection[int] = (), run: Run | None = None
) -> "pa.Table":
    """Return one row per bank row, in the bank's order: what each image does, and why to leave it out.

    The column exclude is true where a person left the row out, or where the image has the bytes of a query:
    such rows are what predict_features(..., exclude=rows) takes.

    Args:
        evaluation: what was judged.
        k: neighbours that guide.
        left_out: bank rows that a person decided to leave out.
        run: as for image_table.

    Raises:
        ValueError: a row is not in the bank.
    """
    import pyarrow as pa

    bank = evaluation.bank
    if strangers := [row for row in left_out if not 0 <= row < bank.size]:
        raise ValueError(f"The bank has rows 0 to {bank.size - 1}, got {strangers[0]} to leave out.")
    images = {image.id: image for image in evaluation.question.bank.dataset.images}
    copies = {image for judged in evaluation.queries for image in judged.features.ids} & set(bank.ids)
    served = torch.zeros(bank.size, dtype=torch.int64)
    for judged in evaluation.queries:
        served += usage(judged.neighbors, bank.size, k)
    reasons = [
        " and ".join(["left out by hand"] * (row in left_out) + ["same bytes as a query"] * (image in copies))
        for row, image in enumerate(bank.ids)
    ]
    columns = {
        "row": pa.array(range(bank.size), pa.int64()),
        "id": list(bank.ids),
        "path": [images[image].path for image in bank.ids],
        "label": [images[image].label or "" for image in bank.ids],
        "energy": pa.array(bank.energies.numpy(), pa.float32()),
        "queries_served": pa.array(served.numpy(), pa.int64()),
        "exclude": [bool(reason) for reason in reasons],
        "reason": reasons,
    }
    return _with_run(pa.table(columns), run)


def decision_in_words(role: Role, flagged: bool) -> str:
    """Return "flagged" or "passed", and "false alarm" or "miss" where that is wrong for the role.

    >>> decision_in_words(Role.ID, True)
    'false alarm'
    """
    if role is Role.ID:
        return "false alarm" if flagged else "passed"
    return "flagged" if flagged else "miss"


def to_csv(table: "pa.Table") -> bytes:
    """Return the table as UTF-8 CSV, lists joined with " | ", text that a spreadsheet would run defused."""
    import pyarrow as pa
    from pyarrow import csv

    columns = {name: _csv_column(table.column(name)) for name in table.column_names}
    target = io.BytesIO()
    csv.write_csv(pa.table(columns), target)
    return target.getvalue()


def to_parquet(table: "pa.Table") -> bytes:
    """Return the table as Parquet, its run in the file's metadata."""
    from pyarrow import parquet

    target = io.BytesIO()
    parquet.write_table(table, target)
    return target.getvalue()


def write_table(table: "pa.Table", path: Path) -> None:
    """Write the table as what the file's name says, CSV or Parquet, atomically.

    Raises:
        ValueError: the name ends in neither .csv nor .parquet.
        OSError: the file cannot be written; an older one is left as it was.
    """
    writers: dict[str, Callable[[Any], bytes]] = {".csv": to_csv, ".parquet": to_parquet}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise ValueError(f"A table is written as .csv or .parquet, got {path.name!r}.")
    write_atomic(path, writer(table))


def _with_run(table: "pa.Table", run: Run | None) -> "pa.Table":
    """Return the table with the run's id in a column and all of it in the metadata."""
    import pyarrow as pa

    if run is None:
        return table
    table = table.append_column("run", pa.array([run.id] * table.num_rows, pa.string()))
    return table.replace_schema_metadata({"nnguide.run": run.to_json()})


def _schema() -> "pa.Schema":
    """Return the columns, the same for any number of rows: without rows their types could not be told."""
    import pyarrow as pa

    text, number, texts = pa.string(), pa.float32(), pa.list_(pa.string())
    return pa.schema(
        {
            **dict.fromkeys(("id", "dataset", "role", "path", "label", "predicted"), text),
            **dict.fromkeys(("energy", "guidance", "score"), number),
            "flagged": pa.bool_(),
            "decision": text,
            "neighbours": texts,
            "guided_similarities": pa.list_(number),
            **dict.fromkeys(("verdict", "note"), text),
        }
    )


def _bank_paths(evaluation: Evaluation) -> list[str]:
    """Return the path of every bank row's image, as its dataset knows it."""
    part = evaluation.question.bank
    paths = {image.id: image.path for image in part.dataset.images}
    return [paths[image] for image in evaluation.bank.ids]


def _part(
    judged: Judged,
    class_names: Sequence[str],
    k: int,
    threshold: float,
    bank_paths: Sequence[str],
    verdicts: Mapping[str, Verdict],
) -> dict[str, Any]:
    from numpy import asarray

    rows = judged.images
    scores = judged.neighbors.score_at(k)
    flagged = judged.flagged(k, threshold).tolist()
    defined = scores.isfinite().tolist()
    listed = judged.neighbors.indices[:, : min(k, NEIGHBOURS_LISTED)]
    guided = judged.neighbors.similarities[:, : listed.shape[1]].tolist()
    said = [verdicts.get(image) for image in judged.features.ids]
    return {
        "id": list(judged.features.ids),
        "dataset": [judged.dataset.name] * len(rows),
        "role": [str(judged.dataset.role)] * len(rows),
        "path": [image.path for image in rows],
        "label": [image.label or "" for image in rows],
        "predicted": [class_names[index] for index in judged.predicted.tolist()],
        "energy": asarray(judged.neighbors.energy),
        "guidance": asarray(judged.neighbors.guidance_at(k)),
        "score": asarray(scores),
        "flagged": flagged,
        "decision": [
            decision_in_words(judged.dataset.role, one) if known else "no score"
            for one, known in zip(flagged, defined, strict=True)
        ],
        "neighbours": [[bank_paths[row] for row in found if row >= 0] for found in listed.tolist()],
        "guided_similarities": [found if known else [] for found, known in zip(guided, defined, strict=True)],
        "verdict": [verdict.decision if verdict else "" for verdict in said],
        "note": [verdict.note if verdict else "" for verdict in said],
    }


def _csv_column(column: Any) -> Any:
    import pyarrow as pa

    values = column.to_pylist()
    if pa.types.is_list(column.type):
        joined = [" | ".join(map(str, each)) for each in values]
        # Numbers are no names: a negative one must stay a number.
        safe = map(csv_safe, joined) if pa.types.is_string(column.type.value_type) else joined
        return pa.array(safe, pa.string())
    if pa.types.is_string(column.type):
        return pa.array(map(csv_safe, values), pa.string())
    return column
