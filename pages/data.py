"""Which model, which images, in which role? And at a glance: how well does the detector tell them apart?"""

import streamlit as st

from views import new_run, overview, saved_draft, workspace_notes
from views.features_form import own_features
from views.frame import cautions
from views.job_panel import job_panel

new_run.take_results()
st.title("Is this image from what the classifier was trained on?")
view = new_run.open_run()
way = new_run.choose_way()
new_run.jobs(way)
if way == "Own images":
    new_run.own_images()
elif way == "Own features":
    own_features()
    job_panel(("features",))
elif way == "Earlier runs":
    new_run.earlier_runs()
elif view is not None:
    overview.datasets(view)
    cautions(view)
    view = overview.result(view)
    overview.examples(view)
workspace_notes.set_aside()
saved_draft.save()
