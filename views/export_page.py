"""The parts of the export page: detector file, tables, lists, and the report in one file."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nnguide_core.errors import UndefinedMetricError
from nnguide_core.provenance import save_detector
from nnguide_core.records import Verdict
from nnguide_core.tables import image_table, to_csv, to_parquet
from views import report as one_file
from views.current import View
from views.frame import current_theme
from views.text import markdown_text

__all__ = ["detector", "report", "tables"]

_LOADING = """from nnguide_core import NNGuide

detector = NNGuide.load("detector.nnguide")
threshold = detector.provenance["threshold"]

found = detector.neighbors_features(features, logits=logits)  # (Q, D) and (Q, C), from the same model
flagged = found.score >= threshold                             # higher score = more OOD
reasons = [                                                    # ids of the bank images behind each score
    [detector.bank.ids[row] for row in rows] for rows in found.indices.tolist()
]"""


def detector(view: View) -> None:
    """Offer the detector file with its threshold, and the lines that use it."""
    st.subheader("The detector")
    if st.button("Prepare the detector file"):
        try:
            data = _detector_file(view)
        except UndefinedMetricError as error:
            st.error(markdown_text(str(error)))
            return
        st.download_button("Download detector.nnguide", data, "detector.nnguide", on_click="ignore")
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
        "In the CSV text that a spreadsheet would run is defused."
    )
    if not st.toggle("Prepare the tables"):
        return
    table = image_table(view.evaluation, view.k, view.threshold, view.verdicts, view.run)
    wrong = table.filter([each in ("false alarm", "miss") for each in table["decision"].to_pylist()])
    columns = st.columns(4)
    _offer(columns[0], f"All {table.num_rows:,} images, CSV", to_csv(table), "images.csv")
    _offer(columns[1], f"All {table.num_rows:,} images, Parquet", to_parquet(table), "images.parquet")
    _offer(columns[2], f"{wrong.num_rows:,} misflagged, CSV", to_csv(wrong), "misflagged.csv")
    _offer(columns[3], f"{len(view.verdicts):,} verdicts, JSON", _verdicts(view.verdicts), "verdicts.json")
    run = view.run.to_json()
    st.download_button("The run that all of this comes from, JSON", run, "run.json", on_click="ignore")


def report(view: View) -> None:
    """Offer one HTML file with figures, tables and misflagged images that opens without a network."""
    st.subheader("The report")
    st.text("One HTML file with figures, metrics and misflagged images; it opens without a network.")
    if st.button("Prepare the report"):
        page = one_file.html_report(view, current_theme())
        st.download_button("Download report.html", page, "nnguide-report.html", on_click="ignore")


def _offer(place: DeltaGenerator, label: str, data: str | bytes, name: str) -> None:
    place.download_button(label, data, name, on_click="ignore", width="stretch")


def _detector_file(view: View) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.nnguide"
        save_detector(view.evaluation, path, view.k, view.rule)
        return path.read_bytes()


def _verdicts(verdicts: Mapping[str, Verdict]) -> str:
    said = [
        {"image": each.image, "decision": each.decision, "note": each.note, "when": each.when.isoformat()}
        for each in verdicts.values()
    ]
    return json.dumps(said, indent=1)
