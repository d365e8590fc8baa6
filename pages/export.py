"""What do I take away?"""

import streamlit as st

from views import export_page
from views.current import current
from views.frame import run_strip

view = current()
st.title("Export")
run_strip(view)
export_page.detector(view)
export_page.tables(view)
export_page.bank(view)
export_page.figures(view)
export_page.report(view)
