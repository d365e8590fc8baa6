"""The bank images that gave a query its guidance, nearest first, each with what it contributes."""

import streamlit as st

from nnguide_core.evaluation.explanation import Typical
from nnguide_core.records import ImageRef
from views import resources
from views.current import View
from views.frame import number
from views.pictures import boxed
from views.queries import Query
from views.text import literal

__all__ = ["bank_image", "neighbour_choice"]

_PICTURE = 96  # pixels
_CARD_WIDTH = 170  # pixels; as many cards stand side by side as there is room for


def bank_image(view: View, row: int) -> ImageRef:
    """Return the image of a bank row."""
    return resources.bank_images(view.run.question)[view.evaluation.bank.ids[row]]


def neighbour_choice(view: View, query: Query, usual: Typical | None) -> frozenset[int]:
    """Show the k nearest bank images beside what is typical; return the bank rows that were unticked."""
    nearest = query.neighbors
    rows, shares = nearest.indices[0].tolist(), nearest.shares[0].tolist()
    images = [bank_image(view, row) for row in rows]
    st.markdown("#### The bank images behind the guidance")
    if usual is not None:
        st.text(
            f"Typical of ID images{_of_class(usual)}: cosine {number(usual.cosine)}, bank energy "
            f"{number(usual.bank_energy, 2)}. Untick an image to see what would happen without it."
        )
    pictures = resources.thumbnails((view.evaluation.question.bank.dataset, image) for image in images)
    cards = st.container(horizontal=True)
    unticked = set()
    for place, (row, image) in enumerate(zip(rows, images, strict=True)):
        with cards.container(border=True, width=_CARD_WIDTH, height="stretch"):
            st.image(boxed(pictures.get(image.id)), width=_PICTURE)
            st.text(
                literal(image.label or image.path)
                + f"\ncosine {number(float(nearest.cosines[0, place]))}"
                + f"\nenergy {number(float(view.evaluation.bank.energies[row]), 2)}"
                + f"\n{100 * shares[place]:.1f} % of guidance"
            )
            if not st.checkbox(f"neighbour {place + 1}", value=True, key=f"tick.{query.image.id}.{row}"):
                unticked.add(row)
    return frozenset(unticked)


def _of_class(usual: Typical) -> str:
    return f" taken for {literal(usual.class_name)}" if usual.class_name else ""
