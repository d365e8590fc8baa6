"""The parts of the export page: detector file, tables, lists, and the report in one file."""

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from nnguide_core.evaluation.provenance import save_detector
from nnguide_core.evaluation.tables import bank_table, image_table, to_csv, to_parquet
from nnguide_core.records import Run, Verdict
from views import report as one_file
from views import state
from views.current import View
from views.exclusions import left_out, put_back
from views.figure_parts import signed_figure
from views.frame import current_theme, missing_side, no_threshold, run_in_a_line
from views.text import counted

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["bank", "detector", "figures", "report", "tables"]

_LOADING = """from nnguide_core import NNGuide

detector = NNGuide.load("detector.nnguide")
threshold = detector.provenance["threshold"]

found = detector.neighbors_features(features, logits=logits)  # (Q, D) and (Q, C), from the same model
flagged = found.score >= threshold                             # higher score = more OOD
reasons = [                                                    # ids of the bank images behind each score
    [detector.bank.ids[row] for row in rows if row >= 0] for rows in found.indices.tolist()
]"""


_EXCLUDING = """import csv

with open("bank-to-exclude.csv", newline="", encoding="utf-8") as file:
    rows = [int(line["row"]) for line in csv.DictReader(file)]

found = detector.neighbors_features(features, logits=logits, exclude=rows)  # as if they were not there"""


def detector(view: View) -> None:
    """Offer the detector file with its threshold, and the lines that use it."""
    st.subheader("The detector")
    if view.threshold is None:
        no_threshold()
    else:
        _offer(st, "Download detector.nnguide", partial(_detector_file, view), "detector.nnguide")
    st.code(_LOADING, language="python")
    st.text("Or: nnguide score detector.nnguide FOLDER --out scores.csv")


def tables(view: View) -> None:
    """Offer every judged image, the misflagged ones and the verdicts, as CSV and Parquet."""
    st.subheader("Every image")
    if view.threshold is None:
        no_threshold()
        return
    st.text(
        "One row per judged image: id, path, energy, guidance, score, decision, neighbours, verdict. "
        "In the CSV files, text that a spreadsheet would run as a formula is defused."
    )
    table = partial(image_table, view.evaluation, view.k, view.threshold, view.remarks, view.run)
    images = sum(len(judged.features) for judged in view.evaluation.queries)
    columns = st.columns(4)
    _offer(columns[0], f"All {images:,} test images, CSV", lambda: to_csv(table()), "images.csv")
    _offer(columns[1], f"All {images:,} test images, Parquet", lambda: to_parquet(table()), "images.parquet")
    wrong = f"{_misflagged(view, view.threshold):,} misflagged, CSV"
    _offer(columns[2], wrong, lambda: to_csv(_wrong(table())), "misflagged.csv")
    notes = len(view.remarks) - len(view.verdicts)
    said = counted(len(view.verdicts), "verdict") + (f" and {counted(notes, 'note')}" if notes else "")
    _offer(columns[3], f"{said}, JSON", lambda: _verdicts(view.remarks, view.run), "verdicts.json")
    _offer(st, "The run that all of this comes from, JSON", view.run.to_json, "run.json")


def bank(view: View) -> None:
    """Offer the bank's images with what they do, and those to leave out."""
    st.subheader("The bank")
    chosen = left_out(view)
    st.text(
        "One row per bank image: row, id, path, label, energy, queries served, and whether to exclude it: "
        "images that have the same bytes as a query, and those put on the list beside a misflagged image "
        f"({len(chosen):,} now)."
    )
    if chosen:
        st.button("Empty the list", on_click=put_back, args=(view, chosen))  # what is shown of it
    table = partial(bank_table, view.evaluation, view.k, chosen, view.run)
    images = view.evaluation.bank.size
    columns = st.columns(4)
    _offer(columns[0], f"All {images:,} bank images, CSV", lambda: to_csv(table()), "bank.csv")
    _offer(columns[1], f"All {images:,} bank images, Parquet", lambda: to_parquet(table()), "bank.parquet")
    _offer(columns[2], "Those to exclude, CSV", lambda: to_csv(_excluded(table())), "bank-to-exclude.csv")
    st.code(_EXCLUDING, language="python")


def figures(view: View) -> None:
    """Show the figures with their run below; the camera of each saves SVG, a button HTML."""
    st.subheader("Figures")
    st.text("Histogram, ROC, precision and recall, every k: as SVG, and as HTML that needs no network.")
    if not st.toggle("Show the figures", key=state.field("figures", default=False)):
        return
    drawn = one_file.figures(view, current_theme())
    if not drawn:
        no_threshold()
        return
    if missing := missing_side(view.evaluation, "ROC, precision and recall, and every k"):
        st.info(missing)
    st.text("The camera in a figure's corner saves it as SVG. Every file says below which run it comes from.")
    for name, figure in drawn.items():
        signed = signed_figure(figure, run_in_a_line(view), current_theme())
        options = {
            "format": "svg",
            "filename": f"nnguide-{name}",
            "width": 960,
            "height": signed.layout.height,
        }
        st.plotly_chart(
            signed,
            theme=None,
            width="stretch",
            key=f"export.{name}",
            config={"displayModeBar": True, "toImageButtonOptions": options},
        )
        page = partial(one_file.figure_page, signed, name, view, current_theme())
        _offer(st, f"{name}, HTML", page, f"nnguide-{name}.html")


def report(view: View) -> None:
    """Offer one HTML file with figures, tables and misflagged images that opens without a network."""
    st.subheader("The report")
    st.text("One HTML file with figures, metrics and misflagged images; it opens without a network.")
    _offer(
        st,
        "Download report.html",
        partial(one_file.html_report, view, current_theme()),
        "nnguide-report.html",
    )


def _offer(place: Any, label: str, made: Callable[[], str | bytes], name: str) -> None:
    """Offer a file that is made when it is asked for, in another thread."""
    place.download_button(label, made, name, on_click="ignore")


def _misflagged(view: View, threshold: float) -> int:
    """Return how many images with a score are false alarms or misses."""
    return sum(
        int(((judged.flagged(view.k, threshold) != is_ood) & judged.neighbors.finite).sum())
        for is_ood, side in ((False, view.evaluation.id), (True, view.evaluation.ood))
        for judged in side
    )


def _wrong(table: "pa.Table") -> "pa.Table":
    """Return the rows of an image table that are false alarms or misses."""
    return table.filter([each in ("false alarm", "miss") for each in table["decision"].to_pylist()])


def _excluded(table: "pa.Table") -> "pa.Table":
    """Return the rows of a bank table that are to be excluded."""
    return table.filter(table["exclude"])


def _detector_file(view: View) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.nnguide"
        save_detector(view.evaluation, path, view.k, view.rule)
        return path.read_bytes()


def _verdicts(remarks: Mapping[str, Verdict], run: Run) -> str:
    said = [
        {"image": each.image, "decision": each.decision, "note": each.note, "when": each.when.isoformat()}
        for each in remarks.values()
    ]
    return json.dumps({"run": json.loads(run.to_json()), "verdicts": said}, indent=1)
