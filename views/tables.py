"""Tables whose whole numbers are written like those in sentences: 2,000."""

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

__all__ = ["show_table"]


def show_table(frame: pd.DataFrame, place: DeltaGenerator | None = None, height: int | None = None) -> None:
    """Show a table of texts and counts over the whole width, by default where the page has come to.

    Args:
        frame: columns of text or whole numbers.
        place: a column or container to show it in.
        height: pixels, or None for as high as its rows need, up to Streamlit's own limit.
    """
    (place or st).dataframe(
        frame.style.format(thousands=","), hide_index=True, width="stretch", height=height or "auto"
    )
