"""What every page stands in: the strip that says what its numbers come from, and errors as sentences."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from nnguide_core.errors import NNGuideError
from nnguide_core.evaluation import Evaluation
from nnguide_core.evaluation.checks import class_cautions
from nnguide_core.records import Role, Run, Threshold
from views.current import View
from views.text import literal, markdown_text
from views.theme import Theme, theme_named

__all__ = [
    "cautions",
    "current_theme",
    "errors_as_sentences",
    "missing_side",
    "no_threshold",
    "number",
    "rule_in_words",
    "run_in_a_line",
    "run_strip",
]


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Show what a user's data caused as a sentence in the page, never as a traceback."""
    try:
        yield
    except NNGuideError as error:
        st.error(markdown_text(str(error)), icon=":material/error:")


def run_strip(view: View) -> None:
    """Show on one line what every number of the page comes from."""
    st.text(literal(run_in_a_line(view)), help=_versions(view.run))


def run_in_a_line(view: View) -> str:
    """Return what every number comes from: model, bank, queries, k, threshold, run."""
    run = view.run
    queries = ", ".join(f"{query.name} ({query.size:,})" for query in run.queries)
    parts = [
        f"model {run.model_name}",
        f"bank {run.bank.name} ({view.evaluation.bank.size:,} images{_drawn(run)})",
        f"queries {queries}",
        f"k = {run.k}",
        f"threshold {number(view.threshold, 2)} ({rule_in_words(run.threshold)})",
        f"run {run.id[:8]}",
    ]
    return "  ·  ".join(parts)


def cautions(view: View, *, compared: bool = False) -> None:
    """Show what should be known before a number is believed; of baselines where they are compared with."""
    question = view.evaluation.question
    for found in class_cautions([part.dataset for part in question.parts], question.class_names):
        if found.none_known:
            st.error(markdown_text(found.text), icon=":material/error:")
        elif found.role is not Role.BANK:  # of a bank, the evaluation itself says it
            st.warning(markdown_text(found.text), icon=":material/warning:")
    for sentence in (*view.evaluation.cautions, *(view.evaluation.baseline_cautions if compared else ())):
        st.warning(markdown_text(sentence), icon=":material/warning:")


def missing_side(evaluation: Evaluation, what: str) -> str:
    """Return what to say in the place of what compares ID with OOD; "" where both sides have a score."""
    for side, datasets in (("ID", evaluation.id), ("OOD", evaluation.ood)):
        if not datasets:
            return f"Add {side} images to see {what}."
        if not any(judged.neighbors.finite.any() for judged in datasets):
            return f"No {side} image has a score, so {what} cannot be shown."
    return ""


def no_threshold() -> None:
    """Say why nothing is flagged or passed."""
    st.info("No test image has a score, so there is no threshold and no image is flagged or passed.")


def current_theme() -> Theme:
    """Return the colours of the theme that the browser shows."""
    return theme_named(st.context.theme.type)


def rule_in_words(rule: Threshold) -> str:
    """Return how the threshold is found.

    >>> rule_in_words(Threshold("id_kept", 0.95))
    'at least 95 % of ID kept'
    """
    if rule.kind == "value":
        return "set by hand"
    side = "ID kept" if rule.kind == "id_kept" else "OOD caught"
    return f"at least {100 * rule.level:g} % of {side}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number, or "not defined" for None.

    >>> number(None), number(-41.2)
    ('not defined', '−41.200')
    """
    return "not defined" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _drawn(run: Run) -> str:
    settings = run.settings
    said = [f"scoring {settings.scoring}"]
    if settings.fraction < 1.0:
        said.append(f"{settings.draw} {100 * settings.fraction:g} %, seed {settings.seed}")
    if settings.react_percentile is not None:
        said.append(f"ReAct at the {settings.react_percentile:g}th percentile")
    if settings.energy_offset:
        said.append(f"energy offset {settings.energy_offset:g}")
    return "".join(f", {each}" for each in said)


def _versions(run: Run) -> str:
    """Return what computed the run's numbers: versions, and the device where it is known."""
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return f"{versions}; features computed on {run.device}" if run.device else versions
