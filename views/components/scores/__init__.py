"""Histogram, curves and one sentence that follow the k and threshold sliders without asking the server."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from nnguide_core.records import Threshold
from nnguide_core.sweep import BinnedSweep
from views.components import ignore, legend, palettes, renderer, send
from views.components.events import Inbox
from views.text import literal
from views.theme import GROUPS

__all__ = [
    "BinnedScores",
    "Choice",
    "Exact",
    "ExactOverK",
    "Reply",
    "binned_scores",
    "choice_from",
    "scores",
]


@dataclass(frozen=True)
class ExactOverK:
    """What is known exactly at every k of a table, at one level: no estimate is shown where these hold.

    What needs a side without scores is NaN, and is not asked for.
    """

    level: float
    threshold_id_kept: NDArray[np.floating[Any]]  # (K,)
    threshold_ood_caught: NDArray[np.floating[Any]]  # (K,)
    flagged_at_id_kept: NDArray[np.integer[Any]]  # (D, K) images flagged at threshold_id_kept
    flagged_at_ood_caught: NDArray[np.integer[Any]]  # (D, K)
    passed_when_kept: NDArray[np.floating[Any]]  # (K,) share of all OOD passed at threshold_id_kept
    flagged_when_caught: NDArray[np.floating[Any]]  # (K,) share of all ID flagged at threshold_ood_caught
    auroc: NDArray[np.floating[Any]]  # (OOD datasets, K)


@dataclass(frozen=True)
class BinnedScores:
    """The scores of D datasets, binned, for every k from 1 to K; the datasets share the edges at a k.

    One side is enough: what compares both then says in the browser which images are missing.
    """

    names: tuple[str, ...]  # D dataset names, from top to bottom
    ood: tuple[bool, ...]  # D, whether the dataset is OOD in truth
    edges: NDArray[np.floating[Any]]  # (K, B + 1) ascending along a row
    counts: NDArray[np.integer[Any]]  # (D, K, B) images per bin
    wrong: NDArray[np.integer[Any]] | None = None  # (D, K, B) those whose class was predicted wrongly
    exact: ExactOverK | None = None
    unknown: int = 0  # ID images of which nobody knows whether their class was predicted rightly

    def __post_init__(self) -> None:
        if self.edges.ndim != 2 or self.edges.shape[0] < 1 or self.edges.shape[1] < 2:
            raise ValueError(f"edges must be (K, B + 1) with K and B at least 1, got {self.edges.shape}.")
        expected = (len(self.names), self.edges.shape[0], self.edges.shape[1] - 1)
        for name, counts in (("counts", self.counts), ("wrong", self.wrong)):
            if counts is not None and counts.shape != expected:
                raise ValueError(f"{name} must be (D, K, B) = {expected}, got {counts.shape}.")


@dataclass(frozen=True)
class Choice:
    """What the user set: k and the rule that finds the threshold."""

    k: int
    rule: Threshold
    threshold: float  # as a score: the browser's estimate from bins, in a reply the exact one


@dataclass(frozen=True)
class Exact:
    """What the server computed from the scores themselves at a choice."""

    flagged: tuple[int, ...]  # D images with a score at or above the threshold
    level: float = 0.95  # of the two conventions
    passed_when_kept: float | None = None  # share of OOD passed when at least level of ID is kept
    flagged_when_caught: float | None = None  # share of ID flagged when at least level of OOD is caught
    aupr: tuple[float | None, ...] = ()  # per OOD dataset against all ID, OOD positive; None where undefined


@dataclass(frozen=True)
class Reply:
    """The choice that holds from now on, its threshold exact, and the numbers that belong to it."""

    choice: Choice
    exact: Exact | None = None


def scores(
    table: BinnedScores,
    reply: Callable[[Choice | None], Reply],
    *,
    key: str,
) -> Choice | None:
    """Show the scores of all datasets with sliders for k and threshold.

    Args:
        table: what the browser draws from while a slider moves.
        reply: called once per run with what the user has just chosen (None in every other run); returns what
            is current. Its numbers replace the estimates that the browser made from bins.
        key: unique on the page; also names the component's channels.

    Returns:
        What the user has just chosen, or None.
    """
    with st.container(gap=None):
        result = renderer("scores")(
            key=key,
            data={"channel": key, "palettes": palettes(), "groups": legend(GROUPS[1:])},
            on_events_change=ignore,
        )
        inbox = Inbox(key, result.events)
        chosen = next((choice_from(event.value) for event in reversed(inbox.events)), None)
        send(f"{key}.table", *_table_message(table))
        answer = reply(chosen)
        inbox.close()
        send(f"{key}.reply", {"heard": inbox.heard, **_reply_message(answer)})
    return chosen


def binned_scores(
    sweep: BinnedSweep, wrong: Mapping[str, str] | None = None, unknown: int = 0
) -> BinnedScores:
    """Return the core's table as this component draws it.

    Args:
        sweep: counts per group for every k, ID groups before OOD groups.
        wrong: group -> dataset, for groups that hold a dataset's wrongly classified images. The dataset's
            own group then holds the others, and both are drawn as one row.
        unknown: ID images among those others whose class the model does not know, or that have none.
    """
    wrong = wrong or {}
    rows = [place for place, name in enumerate(sweep.groups) if name not in wrong]
    parts = {dataset: sweep.groups.index(group) for group, dataset in wrong.items()}
    edges = np.stack([sweep.edges(row) for row in range(len(sweep.ks))])
    by_group = sweep.counts.transpose(1, 0, 2)  # (G, K, B)
    wrongly = np.zeros_like(by_group[rows])
    for place, row in enumerate(rows):
        if sweep.groups[row] in parts:
            wrongly[place] = by_group[parts[sweep.groups[row]]]
    return BinnedScores(
        names=tuple(sweep.groups[row] for row in rows),
        ood=tuple(row >= sweep.id_groups for row in rows),
        edges=edges,
        counts=by_group[rows] + wrongly,
        wrong=wrongly if wrong else None,
        exact=_exact_over_k(sweep, rows, parts),
        unknown=unknown,
    )


def choice_from(value: Any) -> Choice | None:
    """Return the choice that the browser sent, or None where it sent nonsense."""
    try:
        threshold = float(value["threshold"])
        level = threshold if value["kind"] == "value" else float(value["level"])
        return Choice(int(value["k"]), Threshold(value["kind"], level), threshold)
    except (KeyError, TypeError, ValueError):
        return None


def _exact_over_k(sweep: BinnedSweep, rows: Sequence[int], parts: Mapping[str, int]) -> ExactOverK:
    def joined(flagged: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        both = [flagged[:, [row, *_places(parts, sweep.groups[row])]].sum(axis=1) for row in rows]
        return np.stack(both)

    return ExactOverK(
        level=sweep.pooled.level,
        threshold_id_kept=sweep.pooled.threshold_id_kept,
        threshold_ood_caught=sweep.pooled.threshold_ood_caught,
        flagged_at_id_kept=joined(sweep.flagged_at_id_kept),
        flagged_at_ood_caught=joined(sweep.flagged_at_ood_caught),
        passed_when_kept=sweep.pooled.ood_passed_at_id_kept,
        flagged_when_caught=sweep.pooled.id_flagged_at_ood_caught,
        auroc=np.array([one.auroc for one in sweep.sweeps]),
    )


def _places(parts: Mapping[str, int], name: str) -> list[int]:
    return [parts[name]] if name in parts else []


def _table_message(table: BinnedScores) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    datasets = [{"name": literal(name), "ood": ood} for name, ood in zip(table.names, table.ood, strict=True)]
    arrays: dict[str, NDArray[Any]] = {
        "edges": table.edges.astype(np.float64),
        "counts": table.counts.astype(np.uint32),
    }
    if table.wrong is not None:
        arrays["wrong"] = table.wrong.astype(np.uint32)
    header: dict[str, Any] = {
        "datasets": datasets,
        "ks": table.edges.shape[0],
        "bins": table.edges.shape[1] - 1,
        "level": None,
        "unknown": table.unknown,
    }
    if table.exact is not None:
        header["level"] = table.exact.level
        arrays |= _exact_arrays(table.exact)
    return header, arrays


def _exact_arrays(exact: ExactOverK) -> dict[str, NDArray[Any]]:
    return {
        "thresholdIdKept": exact.threshold_id_kept.astype(np.float64),
        "thresholdOodCaught": exact.threshold_ood_caught.astype(np.float64),
        "flaggedAtIdKept": exact.flagged_at_id_kept.astype(np.uint32),
        "flaggedAtOodCaught": exact.flagged_at_ood_caught.astype(np.uint32),
        "passedWhenKept": exact.passed_when_kept.astype(np.float64),
        "flaggedWhenCaught": exact.flagged_when_caught.astype(np.float64),
        "auroc": exact.auroc.astype(np.float64),
    }


def _reply_message(reply: Reply) -> dict[str, Any]:
    choice, rule = reply.choice, reply.choice.rule
    told: dict[str, Any] = {
        "k": choice.k,
        "kind": rule.kind,
        "threshold": choice.threshold,
    }
    if rule.kind != "value":
        told["level"] = rule.level
    return {"choice": told, "exact": None if reply.exact is None else _exact_message(reply.exact)}


def _exact_message(exact: Exact) -> dict[str, Any]:
    both = exact.passed_when_kept is not None and exact.flagged_when_caught is not None
    conventions = {"passedWhenKept": exact.passed_when_kept, "flaggedWhenCaught": exact.flagged_when_caught}
    return {
        "flagged": list(exact.flagged),
        "level": exact.level,
        "aupr": list(exact.aupr),
        "conventions": conventions if both else None,
    }
