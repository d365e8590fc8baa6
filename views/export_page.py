"""The parts of the export page: detector file, tables, lists, and the report in one file."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nnguide_core.errors import UndefinedMetricError
from nnguide_core.evaluation.provenance import save_detector
from nnguide_core.evaluation.tables import bank_table, image_table, to_csv, to_parquet
from nnguide_core.records import Run, Verdict
from views import report as one_file
from views import state
from views.current import View
from views.exclusions import empty_list, left_out
from views.figure_parts import signed_figure
from views.frame import current_theme, run_in_a_line
from views.text import counted, markdown_text

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
    if _prepared(view, "the detector file"):
        _offer_detector(view)
    st.code(_LOADING, language="python")
    st.text("Or: python -m nnguide_core score detector.nnguide FOLDER --out scores.csv")


def tables(view: View) -> None:
    """Offer every judged image, the misflagged ones and the verdicts, as CSV and Parquet."""
    st.subheader("Every image")
    if view.threshold is None:
        st.info("Without a threshold there are no decisions to export: set it by value on the scores page.")
        return
    st.text(
        "One row per judged image: id, path, energy, guidance, score, decision, neighbours, verdict. "
        "In the CSV files, text that a spreadsheet would run as a formula is defused."
    )
    if not _prepared(view, "the tables"):
        return
    table = image_table(view.evaluation, view.k, view.threshold, view.verdicts, view.run)
    wrong = table.filter([each in ("false alarm", "miss") for each in table["decision"].to_pylist()])
    columns = st.columns(4)
    _offer(columns[0], f"All {table.num_rows:,} images, CSV", to_csv(table), "images.csv")
    _offer(columns[1], f"All {table.num_rows:,} images, Parquet", to_parquet(table), "images.parquet")
    _offer(columns[2], f"{wrong.num_rows:,} misflagged, CSV", to_csv(wrong), "misflagged.csv")
    _offer(
        columns[3],
        f"{counted(len(view.verdicts), 'verdict')}, JSON",
        _verdicts(view.verdicts, view.run),
        "verdicts.json",
    )
    run = view.run.to_json()
    st.download_button("The run that all of this comes from, JSON", run, "run.json", on_click="ignore")


def bank(view: View) -> None:
    """Offer the bank's images with what they do, and those to leave out."""
    st.subheader("The bank")
    chosen = left_out(view)
    st.text(
        "One row per bank image: row, id, path, label, energy, queries served, and whether to exclude it: "
        "images that have the same bytes as a query, and those put on the list beside a misflagged image "
        f"({len(chosen):,} now)."
    )
    if chosen and st.button("Empty the list"):
        empty_list(view)
        st.rerun()
    if not _prepared(view, "the bank's tables"):
        return
    table = bank_table(view.evaluation, view.k, chosen, view.run)
    excluded = table.filter(table["exclude"])
    columns = st.columns(4)
    _offer(columns[0], f"All {table.num_rows:,} bank images, CSV", to_csv(table), "bank.csv")
    _offer(columns[1], f"All {table.num_rows:,} bank images, Parquet", to_parquet(table), "bank.parquet")
    _offer(columns[2], f"{excluded.num_rows:,} to exclude, CSV", to_csv(excluded), "bank-to-exclude.csv")
    st.code(_EXCLUDING, language="python")


def figures(view: View) -> None:
    """Show the figures with their run below; the camera of each saves SVG, a button HTML."""
    st.subheader("Figures")
    st.text("Histogram, ROC, precision and recall, every k: as SVG, and as HTML that needs no network.")
    if not _prepared(view, "the figures"):
        return
    drawn = one_file.figures(view, current_theme())
    if not drawn:
        st.info("Without ID and OOD queries that have scores there are no figures.")
        return
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
        page = one_file.figure_page(signed, name, view, current_theme())
        st.download_button(f"{name}, HTML", page, f"nnguide-{name}.html", on_click="ignore")


def report(view: View) -> None:
    """Offer one HTML file with figures, tables and misflagged images that opens without a network."""
    st.subheader("The report")
    st.text("One HTML file with figures, metrics and misflagged images; it opens without a network.")
    if _prepared(view, "the report"):
        page = one_file.html_report(view, current_theme())
        st.download_button("Download report.html", page, "nnguide-report.html", on_click="ignore")


def _prepared(view: View, what: str) -> bool:
    """Offer to prepare something; what was prepared stays on the page while the run is the same."""
    name = f"export.{what}.{view.run.id}"
    if not state.kept(name):
        st.button(f"Prepare {what}", on_click=state.keep, args=(name, True))
    return bool(state.kept(name))


def _offer_detector(view: View) -> None:
    try:
        data = _detector_file(view)
    except UndefinedMetricError as error:
        st.error(markdown_text(str(error)))
        return
    st.download_button("Download detector.nnguide", data, "detector.nnguide", on_click="ignore")


def _offer(place: DeltaGenerator, label: str, data: str | bytes, name: str) -> None:
    place.download_button(label, data, name, on_click="ignore", width="stretch")


def _detector_file(view: View) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.nnguide"
        save_detector(view.evaluation, path, view.k, view.rule)
        return path.read_bytes()


def _verdicts(verdicts: Mapping[str, Verdict], run: Run) -> str:
    said = [
        {"image": each.image, "decision": each.decision, "note": each.note, "when": each.when.isoformat()}
        for each in verdicts.values()
    ]
    return json.dumps({"run": json.loads(run.to_json()), "verdicts": said}, indent=1)
