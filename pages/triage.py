"""Which images are misflagged, why, and what do I say of each?"""

import streamlit as st

from views import triage
from views.current import current

view = current(compared=True)
st.title("Triage")
found = triage.choose_queue(view)
query = triage.choose_image(view, found)
if query is not None:
    triage.give_verdict(view, found, query)
    triage.explain(view, query)
triage.effect(view)
