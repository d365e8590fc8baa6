"""One image of the bank: what it is, its energy, and the queries that it serves as a neighbour."""

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from views import resources, state
from views.current import View
from views.frame import number
from views.text import literal

__all__ = ["served_by"]


def served_by(view: View, image_id: str) -> None:
    """Show a bank image and how many queries it serves, and offer to select them; nothing without one."""
    bank = view.evaluation.bank
    if image_id not in bank.ids:
        return
    row = bank.ids.index(image_id)
    image = resources.bank_images(view.run.question)[image_id]
    usage = resources.usage(view.run.question, view.k)
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        picture = resources.large_picture(view.evaluation.question.bank.dataset, image)
        if picture is not None:
            st.image(picture, width=96)
        st.text(
            literal(f"{image.path} of the bank{f', class {image.label}' if image.label else ''}")
            + f"\nenergy {number(float(bank.energies[row]), 2)}"
            + f"\n{_service_in_words(usage, row, view.k)}"
        )
        if st.button("Select these queries", disabled=not usage[row]):
            state.select(_served(view, row))
            st.rerun()


def _service_in_words(usage: NDArray[np.int64], row: int, k: int) -> str:
    """Return how many queries a bank row serves, and its rank among all rows."""
    count = int(usage[row])
    if not count:
        return f"No query has it among its {k} neighbours."
    rank = int((usage > count).sum()) + 1
    return (
        f"It is among the {k} neighbours of {count:,} queries: number {rank:,} of {usage.size:,} bank images."
    )


def _served(view: View, row: int) -> dict[str, frozenset[str]]:
    """Return the ids of the queries that have a bank row among their neighbours, by dataset name."""
    served = {}
    for judged in view.evaluation.queries:
        hit = (judged.neighbors.indices[:, : view.k] == row).any(dim=1) & judged.neighbors.finite
        ids = frozenset(judged.features.ids[at] for at in hit.nonzero().squeeze(1).tolist())
        served[judged.dataset.name] = ids
    return served
