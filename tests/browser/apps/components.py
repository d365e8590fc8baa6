"""One server for every component: ?show= says which of these modules to show."""

from importlib import import_module

import streamlit as st

SHOWN = ("charts", "gallery", "map", "scores", "scores_sweep")

st.set_page_config(layout="wide")
wanted = st.query_params.get("show")
if wanted in SHOWN:
    import_module(f"tests.browser.apps.{wanted}").show()
