"""A page that says hello and shows a chart: the least that Streamlit itself takes from start to picture."""

import streamlit as st

st.title("Hello")
st.line_chart([1, 3, 2])
