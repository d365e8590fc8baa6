"""What the workspace could not use any more: set aside, never lost without a word."""

import pandas as pd
import streamlit as st

from views import resources
from views.text import cell, counted

__all__ = ["set_aside"]


def set_aside() -> None:
    """Show what was set aside in the last 30 days, if anything was."""
    found = resources.workspace().all_set_aside()
    if not found:
        return
    title = f"Damaged and set aside: {counted(len(found), 'file')} of the workspace"
    with st.expander(title, icon=":material/warning:"):
        rows = [
            {
                "when": f"{each.when:%Y-%m-%d %H:%M}",
                "was": cell(each.was),
                "why": cell(each.reason),
                "lies now at": cell(str(each.path)),
            }
            for each in found
        ]
        st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")
        st.caption("Nothing of them is used. What can be computed again is; files here are kept for 30 days.")
