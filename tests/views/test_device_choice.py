"""The device that a user chooses."""

import torch
from streamlit.testing.v1 import AppTest


def page():
    import streamlit as st

    from views.model_choice import choose_device

    st.text(f"chosen: {choose_device()}")


def test_the_usual_device_is_named_and_every_one_can_be_chosen(monkeypatch):
    monkeypatch.delenv("NNGUIDE_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "made up")
    app = AppTest.from_function(page).run()
    assert app.selectbox[0].options == ["Automatic: cuda (made up)", "cuda", "cuda:0", "cuda:1", "cpu"]
    assert app.text[0].value == "chosen: None"
    app.selectbox[0].select("cuda:1").run()
    assert app.text[0].value == "chosen: cuda:1"
