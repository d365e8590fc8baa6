"""What the pages show now: one evaluation at one k and threshold, with the verdicts of people."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import streamlit as st

from nnguide_core.errors import UndefinedMetricError
from nnguide_core.evaluation import Evaluation
from nnguide_core.evaluation.verdicts import apply_verdicts
from nnguide_core.records import Run, Threshold, Verdict
from views import navigation, resources, state

__all__ = ["View", "current"]


@dataclass(frozen=True)
class View:
    """Everything that a number on a page depends on."""

    evaluation: Evaluation
    k: int
    rule: Threshold
    remarks: Mapping[str, Verdict]  # id of a judged image -> its verdict, or a note without one

    @cached_property
    def verdicts(self) -> Mapping[str, Verdict]:
        """The verdicts, by the id of the image."""
        return {image: said for image, said in self.remarks.items() if said.decision}

    @cached_property
    def threshold(self) -> float | None:
        """The score from which a query is flagged; None where no image has a score that the rule goes by."""
        try:
            return self.evaluation.threshold(self.rule, self.k)
        except UndefinedMetricError:
            return None

    @cached_property
    def run(self) -> Run:
        """What the numbers came from."""
        return self.evaluation.run(self.k, self.rule)

    @cached_property
    def judged_by_people(self) -> Evaluation:
        """The evaluation with the verdicts applied."""
        return apply_verdicts(self.evaluation, self.verdicts)


def current(*, compared: bool = False) -> View:
    """Return what this session looks at: the run that the address names, else the demo.

    Args:
        compared: whether the page shows the baselines beside NNGuide.

    Raises:
        StoreError: the workspace does not know the run.
    """
    if not state.has_started():
        _use_the_front_door()
    name = state.question()
    run = resources.find_question(name) if name else None
    question = run.question if run else name or resources.demo_question()
    evaluation = resources.compared(question) if compared else resources.evaluation(question)
    state.keep("evaluation", evaluation)  # else the runs of other sessions would push it out of the cache
    state.open_question(question)
    remarks = {
        image: said
        for image, said in resources.workspace().current_remarks().items()
        if any(image in judged.row_of for judged in evaluation.queries)
    }
    k = min(state.k(), evaluation.k_max)
    return View(evaluation, k, _rule(evaluation, k), remarks)


def _rule(evaluation: Evaluation, k: int) -> Threshold:
    """Return the rule that the session chose; the run's own where it lacks the images that one goes by."""
    try:
        evaluation.threshold(state.threshold(), k)
    except UndefinedMetricError:
        return evaluation.default_rule
    return state.threshold()


def _use_the_front_door() -> None:
    """Run app.py with this page instead of this page alone.

    A new server whose first request is for a page runs that page's script bare, as Streamlit did before it
    had st.navigation; the first call of st.navigation ends that.
    """
    st.navigation(navigation.pages(), position="top")
    st.rerun()
