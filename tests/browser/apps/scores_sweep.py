"""The scores component on the core's own table, with exact values at every k for 95 %."""

import streamlit as st
import torch

from nnguide_core.records import Threshold
from nnguide_core.sweep import Similarities, binned_over_k
from views.components.scores import Choice, Reply, binned_scores, scores


def searched(seed, count, level):
    """Return made-up neighbours: falling similarities around a level, energies around it."""
    rng = torch.Generator().manual_seed(seed)
    similarities = level + torch.randn(count, 40, generator=rng).sort(dim=1, descending=True).values
    return Similarities(similarities, level + 0.5 * torch.randn(count, generator=rng))


@st.cache_resource
def table():
    """Return the table of one ID set, of which some images are wrongly classified, and two OOD sets."""
    known = {"known": searched(1, 300, 9.0), "known, wrongly classified": searched(2, 40, 8.0)}
    sweep = binned_over_k(known, {"near": searched(3, 200, 7.5), "far": searched(4, 100, 5.0)})
    return binned_scores(sweep, {"known, wrongly classified": "known"})


def reply(chosen):
    """Leave exact values to the table."""
    return Reply(chosen or Choice(10, Threshold("id_kept", 0.95), 0.0))


def show():
    """Show the component."""
    scores(table(), reply, key="scores")
