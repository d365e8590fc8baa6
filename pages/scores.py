"""How well does it separate, at which k and threshold?"""

import streamlit as st

from views import scores_page
from views.current import current

view = current(compared=True)
st.title("Scores")
view = scores_page.board(view)
scores_page.metrics(view)
scores_page.over_k(view)
scores_page.hubs(view)
