"""What is known before computing: counts, skipped files, copies, leaks, shared names, the model, the time."""

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from nnguide_core.datasets.report import Copies, DatasetReport
from nnguide_core.evaluation.checks import NO_IMAGE, Check, ModelCard
from nnguide_core.names import listed
from nnguide_core.records import Role
from views.draft import ROLES
from views.job_panel import duration
from views.tables import show_table
from views.text import cell, counted, literal, markdown_text

__all__ = ["show_check", "time_in_words"]

_MOST = 200  # rows of a list of copies


def show_check(found: Check) -> None:
    """Show all of it, what would make a result wrong first."""
    _warnings(found)
    _counts(found)
    _lists(found)
    if found.model is not None:
        _model(found.model)
    if words := time_in_words(found):
        st.text(words)


def _warnings(found: Check) -> None:
    if found.problem:
        _error(found.problem)
    report = found.report
    if report.leaks:
        _error(
            f"Both in the bank and among the queries: {counted(len(report.leaks), 'image')}. A query never "
            "meets itself in the bank, but its copies there make it look more typical."
        )
    for dataset, names in report.shared_classes.items():
        _warning(f"{dataset}: {listed(names)} is also the name of an ID class. Are these images really OOD?")
    for caution in found.class_cautions:
        (_error if caution.none_known else _warning)(caution.text)
    if report.conflicts:
        _warning(f"{counted(len(report.conflicts), 'ID image')} with copies under another class name.")
    if on_both_sides := _on_both_sides(report):
        _warning(
            f"{counted(on_both_sides, 'image')} both in an ID and in an OOD dataset: probably "
            "one of their roles is wrong."
        )
    if report.resemblances:
        alike = counted(len(report.resemblances), "query", "queries")
        _warning(f"Alike to a bank image without being a copy of one: {alike}.")


def _on_both_sides(report: DatasetReport) -> int:
    """Return how many query images are in an ID and in an OOD dataset."""
    roles = {each.name: each.role for each in report.datasets}
    found = ({roles.get(image.dataset) for image in each.images} for each in report.copies_of_queries)
    return sum({Role.ID, Role.OOD} <= each for each in found)


def time_in_words(found: Check) -> str:
    """Return how long computing will take, part by part, and what is not counted; "" where nobody knows."""
    if found.model is None or found.seconds is None or found.feature_seconds is None:
        return ""
    features = (
        f"computing features of {counted(found.to_compute, 'image')} {_in_words(found.feature_seconds)}"
    )
    if not found.to_compute:
        features = "all features are kept from before"
    return (
        f"Computing will take about {_in_words(found.seconds)}: loading the model "
        f"{_in_words(found.model.loading)}, {features}, searching {_in_words(found.search)}. "
        "The baselines come on top, and other work on this machine makes it longer."
    )


def _in_words(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else "less than 1 s"


def _counts(found: Check) -> None:
    rows = [
        {
            "dataset": cell(each.name),
            "role": ROLES[each.role],
            "files found": each.found,
            "images read": each.read,
            "not an image": each.skipped.get(NO_IMAGE, 0),
            "unreadable": each.found - each.read - each.skipped.get(NO_IMAGE, 0),
            "classes": len(each.class_counts),
        }
        for each in found.report.datasets
    ]
    show_table(pd.DataFrame(rows))


def _lists(found: Check) -> None:
    report = found.report
    classes = [
        {"dataset": cell(each.name), "class": cell(name), "images": count}
        for each in report.datasets
        for name, count in each.class_counts.items()
    ]
    skipped = [
        {"dataset": cell(name), "file": cell(each.path), "reason": cell(each.reason)}
        for name, each in found.skipped
    ]
    alike = [
        {
            "query": cell(f"{each.query.dataset}/{each.query.path}"),
            "bank image": cell(f"{each.bank.dataset}/{each.bank.path}"),
            "bits that differ, of 128": each.difference,
        }
        for each in report.resemblances[:_MOST]
    ]
    _table("Images per class", classes, len(classes))
    _table("Skipped files and why", skipped, sum(each.found - each.read for each in report.datasets))
    _copies("Leaks: in the bank and among the queries", report.leaks)
    _copies("Copies between query datasets", report.copies_of_queries)
    _copies("Copies inside a dataset", report.copies_within)
    _table("Near-duplicates of bank images", alike, len(report.resemblances))


def _model(card: ModelCard) -> None:
    facts = card.facts
    st.text(
        literal(
            f"{facts['model']}: {facts['features']:,} features from the layer {facts['feature layer']}, "
            f"{facts['classes']:,} classes, {facts['precision']}, on {facts['device']}. Each image is "
            f"{facts['image']}."
        )
    )
    if card.seen:
        st.text("What the network really sees:")
        for column, (path, data) in zip(st.columns(max(4, len(card.seen))), card.seen, strict=False):
            column.image(data, width=160)
            column.text(literal(path))
    with st.expander(f"The model's {len(card.class_names):,} classes"):
        names = [cell(name) for name in card.class_names]
        st.dataframe(pd.DataFrame({"class": names}), width="stretch")


def _copies(title: str, found: tuple[Copies, ...]) -> None:
    rows = [
        {"copies": "  =  ".join(cell(f"{image.dataset}/{image.path}") for image in each.images)}
        for each in found[:_MOST]
    ]
    _table(title, rows, len(found))


def _table(title: str, rows: Sequence[Mapping[str, object]], count: int) -> None:
    """Show rows, which may be the first of more, under a title that says so."""
    if rows:
        shown = f"{count:,}" if len(rows) == count else f"{len(rows):,} of {count:,}"
        with st.expander(f"{title} ({shown})"):
            show_table(pd.DataFrame(rows))


def _error(text: str) -> None:
    st.error(markdown_text(text), icon=":material/error:")


def _warning(text: str) -> None:
    st.warning(markdown_text(text), icon=":material/warning:")
