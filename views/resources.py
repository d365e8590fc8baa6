"""What all sessions share, read and never changed: workspace, jobs, evaluations, maps, thumbnails.

The only user of st.cache_*, which keeps what can be computed again. Everything is keyed by fingerprints,
because Streamlit samples large arrays when it hashes them.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import streamlit as st
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnguide_core import scoring
from nnguide_core.errors import StoreError
from nnguide_core.evaluation import NNGUIDE, Evaluation, evaluate, with_baselines
from nnguide_core.evaluation.comparison import DifferenceRow, MetricsRow, differences, metrics_table
from nnguide_core.evaluation.explanation import thresholds_over_k
from nnguide_core.evaluation.maps import ImageMap, elsewhere, find_map
from nnguide_core.evaluation.questions import ask_demo, open_question
from nnguide_core.evaluation.queues import QUEUES, Places, Situation, queue
from nnguide_core.evaluation.thumbnails import ThumbnailMaker
from nnguide_core.evaluation.uploads import SessionUploads, Stay
from nnguide_core.jobs import Jobs
from nnguide_core.logs import log_to_file
from nnguide_core.records import Dataset, ImageRef, Run, Threshold, ThresholdKind
from nnguide_core.settings import DEFAULT_K, workspace_home
from nnguide_core.store import Workspace
from nnguide_core.sweep import BinnedSweep, KSweep
from views.components.scores import BinnedScores
from views.farewell import Farewells, this_tab
from views.handover import Handover
from views.map_table import MapTable
from views.map_table import map_table as make_map_table
from views.score_tables import binned_scores, counted_scores
from views.upload_memory import cap_uploads

__all__ = [
    "bank_images",
    "compared",
    "demo_question",
    "differences_from_baselines",
    "evaluation",
    "far_neighbours",
    "find_question",
    "hand_over",
    "jobs",
    "label_names",
    "large_picture",
    "map_of",
    "map_table",
    "metrics",
    "own_metrics",
    "queues",
    "score_table",
    "sweep",
    "thresholds",
    "thumbnails",
    "uploads",
    "usage",
    "workspace",
]

THUMBNAIL_SIDE = 96  # pixels
LARGE_SIDE = 384
_HANDOVER = Handover()
_HELD: WeakValueDictionary[str, Evaluation] = WeakValueDictionary()  # by question, while a session shows them
_HOLDING = threading.Lock()  # held while what is held changes
_OPENING = threading.Lock()  # held while the workspace is opened for the first time


def workspace() -> Workspace:
    """Return the workspace that all sessions of this server share."""
    return _of_server(workspace_home()).workspace


def jobs() -> Jobs:
    """Return the background jobs of this server."""
    return _of_server(workspace_home()).jobs


def uploads(session: str) -> SessionUploads:
    """Return the uploads of one session; they are freed once its browser is gone for good."""
    server, found = _of_server(workspace_home()), SessionUploads(workspace(), session)
    if (tab := this_tab()) is not None:
        stay = Stay(found, server.jobs)
        server.farewells.expect(session, tab, stay.hold, stay.goodbye)
    return found


@st.cache_resource(show_spinner="Opening the demo")
def demo_question() -> str:
    """Return the fingerprint of the demo's question, after making sure that the workspace has it."""
    run = ask_demo(workspace()).run(DEFAULT_K)
    workspace().save_run(run)
    return run.question


def find_question(name: str) -> Run | None:
    """Return the newest run of a question, by its fingerprint or the first digits of it."""
    if not name:
        return None
    return next((run for run in workspace().runs() if run.question.startswith(name)), None)


def evaluation(question: str) -> Evaluation:
    """Return NNGuide's answer to a question that the workspace knows, the same to all who hold on to it.

    Raises:
        StoreError: there is no such question, or some of it is gone.
    """
    found = _HELD.get(question)
    if found is None:
        opened = _evaluation(question)
        with _HOLDING:  # another session may have compared it meanwhile
            found = _HELD.setdefault(question, opened)
    return found


def compared(question: str) -> Evaluation:
    """Return the same with the baselines, whose packages take seconds to import."""
    answered = evaluation(question)
    if len(answered.detectors) == 1 and not answered.without:
        answered = _compared(question)
        with _HOLDING:
            _HELD[question] = answered
    return answered


def hand_over(answered: Evaluation) -> None:
    """Keep what a job has just computed until a page opens it, unless sessions show the same already."""
    if answered.run(1).question not in _HELD:
        _HANDOVER.put(answered)


@st.cache_resource(show_spinner=False, max_entries=4)
def bank_images(question: str) -> dict[str, ImageRef]:
    """Return the images of a question's bank dataset by id."""
    return {image.id: image for image in evaluation(question).question.bank.dataset.images}


@st.cache_resource(show_spinner=False, max_entries=8)
def score_table(question: str) -> BinnedScores:
    """Return what the browser draws a question's scores from; one side is enough.

    Raises:
        UndefinedMetricError: no query has a score.
    """
    return binned_scores(evaluation(question), _counted_scores(question))


def sweep(question: str) -> KSweep:
    """Return AUROC and both FPRs of all ID against all OOD queries for every k, NaN where a side has none.

    Raises:
        UndefinedMetricError: no query has a score.
    """
    return _counted_scores(question).pooled


@st.cache_resource(show_spinner=False, max_entries=256)
def own_metrics(question: str, k: int) -> list[MetricsRow]:
    """Return NNGuide's metrics on every OOD dataset."""
    return metrics_table(evaluation(question), k, (NNGUIDE,))


@st.cache_resource(show_spinner=False, max_entries=256)
def metrics(question: str, k: int) -> list[MetricsRow]:
    """Return every detector's metrics on every OOD dataset; k matters to NNGuide alone."""
    mine = own_metrics(question, k)
    others = _baseline_metrics(question)
    return [row for own in mine for row in (own, *(each for each in others if each.dataset == own.dataset))]


@st.cache_resource(show_spinner="Comparing the detectors", max_entries=256)
def differences_from_baselines(question: str, k: int) -> list[DifferenceRow]:
    """Return how much better NNGuide separates than each baseline."""
    return differences(compared(question), k)


@st.cache_resource(show_spinner=False, max_entries=8)
def queues(question: str, k: int, threshold: float) -> dict[str, Places]:
    """Return the rows of every queue of images that are worth a look; no verdict changes them."""
    situation = Situation(evaluation(question), k, threshold)
    return {name: queue(name, situation) for name in QUEUES}


@st.cache_resource(show_spinner=False, max_entries=256)
def thresholds(question: str, kind: ThresholdKind, level: float) -> Tensor:
    """Return the threshold that a rule gives for every k, (k_max,) float64; see explanation."""
    return thresholds_over_k(evaluation(question), Threshold(kind, level))


@st.cache_resource(show_spinner=False, max_entries=32)
def usage(question: str, k: int) -> NDArray[np.int64]:
    """Return how many queries each bank image serves as a neighbour, (N_bank,)."""
    answered = evaluation(question)
    counts = [scoring.usage(judged.neighbors, answered.bank.size, k) for judged in answered.queries]
    return sum(counts, torch.zeros(answered.bank.size, dtype=torch.int64)).numpy()


@st.cache_resource(show_spinner=False, max_entries=4)
def label_names(question: str) -> list[str]:
    """Return the class names that a question's query images have, in alphabetical order."""
    return sorted({name for each in evaluation(question).queries for name in each.dataset.class_counts})


@st.cache_resource(show_spinner=False, max_entries=256)
def far_neighbours(question: str, dataset: int, row: int, k: int, _places: ImageMap) -> Tensor:
    """Return which of a query's k true neighbours lie elsewhere on the map, (k,) bool; see maps."""
    return elsewhere(_places, evaluation(question), dataset, row, k)


def map_of(question: str) -> ImageMap | None:
    """Return where the images of a question lie on the map; None where the map must be made."""
    try:
        return _map_of(question)
    except LookupError:
        return None


@st.cache_resource(show_spinner=False, max_entries=4)
def map_table(question: str, k: int, threshold: float, shown: tuple[str, ...], _places: ImageMap) -> MapTable:
    """Return what the map shows of the datasets with these names, at one k and threshold."""
    return make_map_table(evaluation(question), _places, k, threshold, shown)


def large_picture(dataset: Dataset, image: ImageRef) -> bytes | None:
    """Return a picture to look at closely; None where the image cannot be read."""
    return _large_maker().make([(dataset, image)]).get(image.id)


def thumbnails(images: Iterable[tuple[Dataset, ImageRef]]) -> dict[str, bytes]:
    """Return small pictures by image id; what cannot be read is left out."""
    return _thumbnail_maker().make(images)


@st.cache_resource(show_spinner="Opening the run", max_entries=4)
def _evaluation(question: str) -> Evaluation:
    handed = _HANDOVER.take(question)
    if handed is not None:
        return handed
    run = find_question(question)
    if run is None:
        raise StoreError("This link points to a run that is not in this workspace: open another one.")
    return evaluate(open_question(workspace(), run), k=1, baselines=())


@st.cache_resource(show_spinner="Scoring with the baselines", max_entries=4)
def _compared(question: str) -> Evaluation:
    return with_baselines(evaluation(question))


@st.cache_resource(show_spinner=False, max_entries=8)
def _counted_scores(question: str) -> BinnedSweep:
    return counted_scores(evaluation(question))


@st.cache_resource(show_spinner=False, max_entries=8)
def _baseline_metrics(question: str) -> list[MetricsRow]:
    answered = compared(question)
    return metrics_table(answered, detectors=[name for name in answered.detectors if name != NNGUIDE])


@st.cache_resource(show_spinner=False, max_entries=4)
def _map_of(question: str) -> ImageMap:
    """Return a map; its absence is an error, which is not cached."""
    found = find_map(workspace(), evaluation(question))
    if found is None:
        raise LookupError("This map is not made yet.")
    return found


@st.cache_resource(show_spinner=False)
def _large_maker() -> ThumbnailMaker:
    return ThumbnailMaker(workspace(), LARGE_SIDE)


@st.cache_resource(show_spinner=False)
def _thumbnail_maker() -> ThumbnailMaker:
    return ThumbnailMaker(workspace(), THUMBNAIL_SIDE)


@dataclass(frozen=True)
class _OfServer:
    """What no session may take away from the others: any of them can ask Streamlit to clear its caches."""

    workspace: Workspace
    jobs: Jobs
    farewells: Farewells


def _of_server(home: Path) -> _OfServer:
    with _OPENING:
        return _opened(home)


@cache
def _opened(home: Path) -> _OfServer:
    workspace = Workspace(home)
    log_to_file(workspace.root)
    workspace.clean_up_in_background()
    cap_uploads()
    return _OfServer(workspace, Jobs(workspace), Farewells())
