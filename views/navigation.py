"""The pages of the app, in the order of the work."""

from collections.abc import Sequence

import streamlit as st
from streamlit.navigation.page import StreamlitPage

__all__ = ["pages"]


def pages() -> Sequence[StreamlitPage]:
    """Return every page, the first page first; without icons, which browsers would fetch from elsewhere."""
    return [
        st.Page("pages/data.py", title="Data", default=True),
        st.Page("pages/scores.py", title="Scores"),
        st.Page("pages/map.py", title="Map"),
        st.Page("pages/triage.py", title="Triage"),
        st.Page("pages/export.py", title="Export"),
    ]
