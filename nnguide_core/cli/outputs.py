"""What commands say of datasets and results: lines for a terminal, and JSON-able facts for machines."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nnguide_core.cli.console import Console
from nnguide_core.datasets.report import Copies, DatasetReport, in_words, report
from nnguide_core.errors import UndefinedMetricError
from nnguide_core.evaluation import Evaluation
from nnguide_core.evaluation.checks import class_cautions
from nnguide_core.evaluation.comparison import FlaggedRow, MetricsRow, flagged_table, metrics_table
from nnguide_core.intervals import Interval
from nnguide_core.names import visible
from nnguide_core.records import Dataset, ImageRef, Threshold

__all__ = ["computed_on", "tell_metrics", "tell_report"]


def tell_report(told: Console, datasets: Sequence[Dataset], class_names: Sequence[str]) -> None:
    """Tell what would make numbers from these datasets mislead: copies, leaks, names that do not fit."""
    found = report(datasets, progress=told.progress)
    unknown = [visible(each.text) for each in class_cautions(datasets, class_names)]
    sentences = in_words(found) + unknown
    none = "No image is in two places, and no query looks like a bank image."
    told.say(
        "\n".join(["Before any number:", *(f"  {sentence}" for sentence in sentences or [none]), ""]),
        datasets=[_dataset_facts(each) for each in datasets],
        report={"sentences": sentences, **_report_facts(found)},
    )


def tell_metrics(told: Console, evaluation: Evaluation, k: int) -> None:
    """Tell how well each detector does on each OOD dataset, what NNGuide flags, and what is not defined."""
    rows = metrics_table(evaluation, k)
    offered = len(evaluation.question.bank.features)
    not_defined = _one_sided(evaluation)
    without = [f"{name} is not shown: {reason}" for name, reason in evaluation.without.items()]
    try:
        threshold: float | None = evaluation.threshold(evaluation.default_rule, k)
    except UndefinedMetricError as error:
        threshold, not_defined = None, [*not_defined, f"There is no threshold. {error}"]
    flagged = [] if threshold is None else flagged_table(evaluation, k, threshold)
    lines = [*_metrics_lines(rows, k), *_flagged_lines(evaluation.default_rule, threshold, flagged)]
    told.say(
        "\n".join(
            [
                f"Bank: {evaluation.bank.size:,} of {offered:,} images."
                f"{computed_on(evaluation.question.device)} {lines[0]}",
                *lines[1:],
                *not_defined,
                *without,
                "",
            ]
        ),
        bank=evaluation.bank.size,
        bank_images=offered,
        run=json.loads(evaluation.run(k).to_json()),
        metrics=[_row_facts(row) for row in rows],
        threshold=threshold,
        flagged=[asdict(row) for row in flagged],
        not_defined=not_defined,
        without=dict(evaluation.without),
    )


def computed_on(device: str) -> str:
    """Return a sentence with the device that computed the features, "" where that is not known."""
    return f" Features computed on {device}." if device else ""


def _dataset_facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "role": str(dataset.role),
        "path": str(dataset.root),
        "found": dataset.found,
        "read": len(dataset.images),
        "classes": dataset.class_counts,
    }


def _report_facts(found: DatasetReport) -> dict[str, Any]:
    return {
        "leaks": _copies_facts(found.leaks),
        "copies_between": _copies_facts(found.copies_between),
        "copies_within": _copies_facts(found.copies_within),
        "conflicts": _copies_facts(found.conflicts),
        "resemblances": [
            {"query": _place(each.query), "bank": _place(each.bank), "bits_of_128": each.difference}
            for each in found.resemblances
        ],
        "shared_classes": found.shared_classes,
    }


def _copies_facts(copies: Iterable[Copies]) -> list[list[dict[str, str | None]]]:
    return [[_place(image) for image in each.images] for each in copies]


def _place(image: ImageRef) -> dict[str, str | None]:
    return {"dataset": image.dataset, "path": image.path, "class": image.label}


def _row_facts(row: MetricsRow) -> dict[str, Any]:
    """Return a row with the reason for every null in it."""
    facts = asdict(row)
    reasons: Mapping[str, str] = {name: _why(row) for name, value in facts.items() if value is None}
    return {**facts, "reasons": reasons}


def _why(row: MetricsRow) -> str:
    """Return why a metric of this row is not defined."""
    empty = [side for side, count in (("ID", row.id_count), ("OOD", row.ood_count)) if count == 0]
    if not empty:
        return "These scores do not define it."
    left_out = f" ({row.left_out:,} without a finite score are left out)" if row.left_out else ""
    return f"There is no {' and no '.join(empty)} image with a score{left_out}."


def _one_sided(evaluation: Evaluation) -> list[str]:
    """Return what is not defined where no ID or no OOD dataset was given."""
    lacking = [side for side, given in (("ID", evaluation.id), ("OOD", evaluation.ood)) if not given]
    return [
        f"AUROC, AUPR and both FPRs are not defined: they compare ID with OOD images, and no {side} images "
        "were given."
        for side in lacking
    ]


def _flagged_lines(rule: Threshold, threshold: float | None, rows: Sequence[FlaggedRow]) -> list[str]:
    """Return what NNGuide flags in each dataset as lines for a terminal."""
    if threshold is None:
        return []
    what = "of ID is kept" if rule.kind == "id_kept" else "of OOD is caught"
    lines = [f"NNGuide flags, where at least {100 * rule.level:g} % {what} (score ≥ {threshold:.4f}):"]
    for row in rows:
        unscored = f"; {row.without_score:,} have no score" if row.without_score else ""
        counts = f"{row.flagged:,} of {row.images:,} images{unscored}"
        lines.append(f"  {visible(row.dataset)} ({row.role.upper()}): {counts}")
    return [*lines, ""]


def _metrics_lines(rows: Sequence[MetricsRow], k: int) -> list[str]:
    """Return the metrics as lines for a terminal, one block per OOD dataset."""
    lines = [
        f"k = {k}. OOD is the positive class; higher score = more OOD. Flagged when score >= threshold.",
        "",
    ]
    for name in dict.fromkeys(row.dataset for row in rows):
        lines += [*_block([row for row in rows if row.dataset == name]), ""]
    return lines


def _block(rows: Sequence[MetricsRow]) -> list[str]:
    """Return the lines of one OOD dataset."""
    first = rows[0]
    lines = [
        f"{visible(first.dataset)}: {first.ood_count:,} OOD images against {first.id_count:,} ID images",
        f"  {'':<12}{'AUROC':>8}  {'95 % interval':<16}{'OOD passed when':>17}{'ID flagged when':>17}",
        f"  {'':<12}{'':>8}  {'':<16}{'95 % of ID kept':>17}{'95 % OOD caught':>17}",
        *map(_metrics_line, rows),
    ]
    whys = dict.fromkeys(_why(row) for row in rows if None in vars(row).values())
    return lines + [f"  Not defined: {why}" for why in whys]


def _metrics_line(row: MetricsRow) -> str:
    between = f"{row.auroc.low:.4f} to {row.auroc.high:.4f}" if row.auroc else "not defined"
    return (
        f"  {row.detector:<12}{_rate(row.auroc):>8}  {between:<16}"
        f"{_percent(row.ood_passed_at_95_id_kept):>17}{_percent(row.id_flagged_at_95_ood_caught):>17}"
    )


def _rate(value: Interval | None) -> str:
    return "not def." if value is None else f"{value.estimate:.4f}"


def _percent(value: Interval | None) -> str:
    return "not defined" if value is None else f"{100 * value.estimate:.1f} %"
