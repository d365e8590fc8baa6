"""Where do the images lie among each other, and which of them are my problem?"""

import streamlit as st

from views import map_page
from views.current import current

view = current()
st.title("Map")
places = map_page.map_of(view)
table = None if places is None else map_page.choose_points(view, places)
if places is not None and table is not None:
    map_page.explore(view, places, table)
