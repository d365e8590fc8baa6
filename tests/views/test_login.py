"""The door: open without secrets, a login where they configure one, and shut where they cannot be read."""

from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from nnguide_core.records import Dataset, ImageRef, Role, fingerprint
from views import login, navigation, resources

APP = Path(__file__).parents[2] / "app.py"
AUTH = {
    "redirect_uri": "http://127.0.0.1:8501/oauth2callback",
    "cookie_secret": "nothing that is used anywhere",
    "client_id": "someone",
    "client_secret": "something",
    "server_metadata_url": "https://elsewhere.example/.well-known/openid-configuration",
}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNGUIDE_HOME", str(tmp_path_factory.mktemp("home")))
        st.cache_resource.clear()
        yield
    st.cache_resource.clear()


@pytest.fixture
def app(monkeypatch):
    monkeypatch.setattr(login, "_has_library", lambda: True)
    found = AppTest.from_file(str(APP), default_timeout=180)
    found.user.clear()
    return found


def labels(app):
    return [each.label for each in app.button]


def is_open(app):
    return any(each.value.startswith("Is this image from") for each in app.title)


def ask_for_login(app, **more):
    app.secrets.update({"auth": AUTH, **more})
    return app


def test_without_secrets_everyone_comes_in(app):
    app.run()
    assert not app.exception
    assert is_open(app)
    assert "Log in" not in labels(app)


@pytest.mark.parametrize("user", [{}, {"is_logged_in": False, "email": "ann@lab.org"}])
def test_who_is_not_logged_in_sees_the_button_and_nothing_else(app, user):
    app.user.update(user)
    ask_for_login(app).run()
    assert not app.exception
    assert not is_open(app)
    assert labels(app) == ["Log in"]
    assert [each.value for each in app.text] == ["Log in to go on."]


def test_pressing_the_button_asks_streamlit_for_the_provider(app, monkeypatch):
    asked = []
    monkeypatch.setattr(st, "login", asked.append)
    ask_for_login(app).run()
    app.button[0].click().run()
    assert asked == [None]


def test_every_named_provider_has_its_button_shown_literally(app, monkeypatch):
    asked = []
    monkeypatch.setattr(st, "login", asked.append)
    named = {"auth": {"redirect_uri": "x", "cookie_secret": "y", "lab": {"client_id": "a"}, "**b**": {}}}
    app.secrets.update(named)
    app.run()
    assert labels(app) == ["Log in with lab", r"Log in with \*\*b\*\*"]
    app.button[0].click().run()
    assert asked == ["lab"]


def test_who_is_logged_in_comes_in(app):
    app.user.update({"is_logged_in": True, "email": "ann@lab.org"})
    ask_for_login(app).run()
    assert not app.exception
    assert is_open(app)


@pytest.mark.parametrize(
    ("listed", "user", "comes_in"),
    [
        (["ann@lab.org"], {"email": "Ann@Lab.org"}, True),
        (["@lab.org"], {"email": "ann@lab.org"}, True),
        (["@lab.org"], {"email": "ann@notlab.org"}, False),
        (["@lab.org"], {"email": "ann@lab.org", "email_verified": False}, False),
        (["bob@lab.org"], {"email": "ann@lab.org"}, False),
        ("ann@lab.org", {"email": "ann@lab.org"}, False),
        (["@"], {"email": ""}, False),
        ([""], {}, False),
        ([], {"email": "ann@lab.org"}, False),
    ],
)
def test_a_list_of_users_keeps_the_others_out(app, listed, user, comes_in):
    app.user.update({"is_logged_in": True, **user})
    ask_for_login(app, access={"emails": listed}).run()
    assert not app.exception
    assert is_open(app) is comes_in
    if not comes_in:
        assert "list of users does not name you" in app.error[0].value
        assert labels(app) == ["Log out"]


def test_the_menu_has_a_way_out_only_for_who_is_logged_in(monkeypatch):
    monkeypatch.setattr(navigation.st, "Page", lambda _, **options: options["title"])
    for logged_in in (True, False):
        monkeypatch.setattr(navigation, "is_logged_in", lambda answer=logged_in: answer)
        assert ("Log out" in navigation.pages()) is logged_in


def test_a_login_that_cannot_work_is_said_and_nobody_comes_in(app, monkeypatch):
    monkeypatch.setattr(login, "_has_library", lambda: False)
    ask_for_login(app).run()
    assert "needs the package Authlib" in app.error[0].value
    assert not is_open(app)


def test_secrets_that_cannot_be_read_shut_the_door(app, tmp_path, monkeypatch):
    broken = tmp_path / "secrets.toml"
    broken.write_text("[auth\n")
    original = st.get_option
    monkeypatch.setattr(
        st, "get_option", lambda name: [str(broken)] if name == "secrets.files" else original(name)
    )
    app.run()
    assert "secrets cannot be read" in app.error[0].value.replace("\\", "")
    assert not is_open(app)


def uploads_of(email):
    """Save an upload of this user in the workspace, and return its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(login, "is_logged_in", lambda: True)
        patch.setattr(login.st, "user", {"email": email})
        session = login.owner() + "0" * 32
    workspace = resources.workspace()
    folder = workspace.blobs / session
    folder.mkdir(exist_ok=True)
    image = ImageRef(fingerprint(email), f"of {email}", "a.png", None, "a.png")
    workspace.save_dataset(Dataset(f"of {email}", Role.OOD, folder, (image,)))
    return f"of {email}"


def test_who_logs_in_is_offered_their_own_uploads_and_not_those_of_others(app):
    mine, others = uploads_of("ann@lab.org"), uploads_of("bob@lab.org")
    app.user.update({"is_logged_in": True, "email": "ann@lab.org"})
    ask_for_login(app).run()
    app.segmented_control[0].set_value("Own images").run()
    next(each for each in app.segmented_control if each.label == "Add a dataset").set_value(
        "opened before"
    ).run()
    assert not app.exception
    offered = " ".join(next(each for each in app.selectbox if each.label == "dataset").options)
    assert mine in offered
    assert others not in offered
    assert "id_test" in offered or "ID test" in offered


def test_without_a_login_all_sessions_share_what_was_uploaded(app):
    name = uploads_of("bob@lab.org")
    app.run()
    app.segmented_control[0].set_value("Own images").run()
    next(each for each in app.segmented_control if each.label == "Add a dataset").set_value(
        "opened before"
    ).run()
    assert name in " ".join(next(each for each in app.selectbox if each.label == "dataset").options)


def test_owners_differ_by_provider_and_by_name(monkeypatch):
    monkeypatch.setattr(login, "is_logged_in", lambda: True)
    seen = set()
    for user in ({"sub": "1"}, {"sub": "2"}, {"sub": "1", "iss": "https://a"}, {"email": "1"}):
        monkeypatch.setattr(login.st, "user", user)
        seen.add(login.owner())
    assert len(seen) == 4
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in seen)
    monkeypatch.setattr(login, "is_logged_in", lambda: False)
    assert login.owner() == ""
