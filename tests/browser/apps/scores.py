"""The scores component on seeded scores."""

import numpy as np
import streamlit as st

from nnguide_core.records import Threshold
from views.components.scores import BinnedScores, Choice, Exact, Reply, scores

NAMES = ("known <b>test</b>", "near", "far")
OOD = (False, True, True)
KS = np.arange(1, 101)
BINS = 100
COUNT = 5000


@st.cache_resource
def sampled():
    """Return per dataset the scores at each k, (K, N), and which images are predicted wrongly."""
    rng = np.random.default_rng(5)
    sizes = [int(COUNT * share) for share in (0.5, 0.3, 0.2)]
    drift = 3 * np.log(KS)[:, None]
    sets = [
        rng.normal(centre, spread, size=size)[None] + drift
        for centre, spread, size in zip((-85, -62, -40), (12, 14, 9), sizes, strict=True)
    ]
    return sets, rng.random(sizes[0]) < 0.08


@st.cache_resource
def table():
    """Return the binned table of the sampled scores."""
    sets, wrong = sampled()
    counts = np.zeros((3, len(KS), BINS), dtype=np.uint32)
    wrongly = np.zeros_like(counts)
    edges = np.zeros((len(KS), BINS + 1))
    for row in range(len(KS)):
        every = np.concatenate([values[row] for values in sets])
        edges[row] = np.linspace(every.min(), every.max(), BINS + 1)
        for index, values in enumerate(sets):
            counts[index, row] = np.histogram(values[row], edges[row])[0]
        wrongly[0, row] = np.histogram(sets[0][row][wrong], edges[row])[0]
    return BinnedScores(NAMES, OOD, edges, counts, wrongly)


def reply(chosen):
    """Keep what was chosen and answer with exact numbers."""
    sets, _ = sampled()
    choice = chosen or st.session_state.get("choice") or Choice(10, Threshold("id_kept", 0.95), 0.0)
    row = choice.k - 1
    known, unknown = sets[0][row], np.concatenate([values[row] for values in sets[1:]])
    threshold = choice.threshold
    if choice.rule.kind == "id_kept":
        threshold = float(np.nextafter(np.quantile(known, choice.rule.level, method="inverted_cdf"), np.inf))
    if choice.rule.kind == "ood_caught":
        threshold = float(np.quantile(unknown, 1 - choice.rule.level, method="lower"))
    choice = Choice(choice.k, choice.rule, threshold)
    st.session_state["choice"] = choice
    kept = np.quantile(known, 0.95, method="inverted_cdf")
    caught = np.quantile(unknown, 0.05, method="lower")
    flagged = tuple(int((values[row] >= threshold).sum()) for values in sets)
    return Reply(
        choice, Exact(flagged, 0.95, float((unknown <= kept).mean()), float((known >= caught).mean()))
    )


def show():
    """Show the component, what the server was told, and how often it ran."""
    scores(table(), reply, key="scores")
    st.text(f"server: {st.session_state['choice']}")
    st.text(f"runs: {st.session_state.setdefault('runs', 0)}")
    st.session_state["runs"] += 1
