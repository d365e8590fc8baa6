"""The choice of a checkpoint: of a typed path and an upload the last one counts, and the page says so."""

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

LABEL = "path of the checkpoint (safetensors, or weights saved by torch.save)"


@pytest.fixture
def app(tmp_path, monkeypatch):
    """A page that chooses an own checkpoint and says which."""
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(tmp_path))
    for name in ("one.pth", "two.pth"):
        (tmp_path / name).write_bytes(b"weights")
    st.cache_resource.clear()

    def page():
        import streamlit as st

        from views import state
        from views.model_choice import choose_model

        state.start()
        state.keep("source", "own checkpoint")
        spec = choose_model()
        st.title("none" if spec is None else spec.checkpoint.name)

    return AppTest.from_function(page, default_timeout=60).run()


def typed(app, path):
    next(each for each in app.text_input if each.label == LABEL).set_value(str(path)).run()
    return app


def uploaded(app, name):
    app.file_uploader[0].upload(name, b"other weights", "application/octet-stream").run()
    return app


def chosen(app):
    """Return the checkpoint that is used and what the page says of it."""
    assert not app.exception
    return app.title[0].value, " ".join(each.value.replace("\\", "") for each in app.text)


def test_without_an_upload_the_typed_path_counts_and_nothing_needs_to_be_said(app, tmp_path):
    assert chosen(app) == ("none", "")
    assert chosen(typed(app, tmp_path / "one.pth")) == ("one.pth", "")


def test_a_path_that_is_typed_after_an_upload_counts(app, tmp_path):
    assert chosen(uploaded(app, "net.pth")) == ("net.pth", "The uploaded net.pth is used.")
    used, words = chosen(typed(app, tmp_path / "two.pth"))
    assert used == "two.pth"
    assert words == f"{tmp_path / 'two.pth'} is used, not the uploaded net.pth: clear the path to use that."
    assert chosen(typed(app, "")) == ("net.pth", "The uploaded net.pth is used.")


def test_an_upload_after_a_path_counts_until_the_path_is_changed(app, tmp_path):
    typed(app, tmp_path / "one.pth")
    used, words = chosen(uploaded(app, "net.pth"))
    assert used == "net.pth"
    assert words == f"The uploaded net.pth is used, not {tmp_path / 'one.pth'}: change the path to use that."
    assert chosen(app.run())[0] == "net.pth"
    assert chosen(typed(app, tmp_path / "two.pth"))[0] == "two.pth"
