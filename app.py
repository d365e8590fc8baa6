"""The front door: page settings, login, session defaults, navigation."""

from pathlib import Path

import streamlit as st

from nnguide_core.settings import ask_for_large_pages
from views import frame, login, navigation, saved_draft, state
from views.components.theme_watch import watch_theme

ask_for_large_pages()
st.set_page_config(
    page_title="NNGuide Explorer",
    page_icon=str(Path(__file__).parent / "views" / "favicon.svg"),
    layout="wide",
)
login.require_login()
state.start(login.owner())
page = st.navigation(navigation.pages(), position="top")
with frame.errors_as_sentences():
    saved_draft.restore()
    page.run()
watch_theme(frame.current_theme())
state.write_address()
