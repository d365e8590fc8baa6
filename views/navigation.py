"""The pages of the app, in the order of the work."""

from collections.abc import Sequence

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from views.login import is_logged_in, log_out

__all__ = ["pages"]


def pages() -> Sequence[StreamlitPage]:
    """Return every page, the first page first; without icons, which browsers would fetch from elsewhere."""
    leave = [st.Page(log_out, title="Log out", url_path="logout")] if is_logged_in() else []
    return [
        st.Page("pages/data.py", title="Data", default=True),
        st.Page("pages/scores.py", title="Scores"),
        st.Page("pages/map.py", title="Map"),
        st.Page("pages/triage.py", title="Triage"),
        st.Page("pages/export.py", title="Export"),
        *leave,
    ]
