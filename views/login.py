"""Who may come in: everyone, or those who log in where secrets configure [auth]; in doubt nobody.

Secrets may also list who of them, as addresses or domains: [access] emails = ["ann@lab.org", "@lab.org"].
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st

from nnguide_core.records import fingerprint
from views.text import markdown_text
from views.upload_memory import accept_uploads, cap_uploads

__all__ = ["is_logged_in", "is_ours", "log_out", "owner", "require_login"]

_OWNER_DIGITS = 16
_BROKEN = (
    "This server's secrets cannot be read, so nobody is let in: correct .streamlit/secrets.toml, then "
    "start the server again."
)
_NO_LIBRARY = 'To log in, this server needs the package Authlib: run pip install "streamlit[auth]" there.'


def require_login() -> None:
    """Go on for those who may come in, who may then upload; for everyone else end the run here."""
    cap_uploads()
    if _secrets_are_broken():
        _end(_BROKEN)
    if not _is_configured():
        accept_uploads()
        return
    if not is_logged_in():
        _offer()
    elif not _is_listed():
        _end("You are logged in, but this server's list of users does not name you.", leave=True)
    accept_uploads()


def is_logged_in() -> bool:
    """Return whether secrets ask for a login and this session has one."""
    return _is_configured() and bool(st.user.get("is_logged_in", False))


def owner() -> str:
    """Return what tells the uploads of one user from those of others, hexadecimal; "" without login."""
    if not is_logged_in():
        return ""
    names = (str(st.user.get(each) or "") for each in ("iss", "sub", "email"))
    return fingerprint("owner", *names)[:_OWNER_DIGITS]


def is_ours(session: str) -> bool:
    """Return whether whoever looks may see what this session uploads, by its id or its folder's name."""
    return session.startswith(owner())


def log_out() -> None:
    """End the login; the page that the menu opens for it."""
    st.logout()


def _secrets_are_broken() -> bool:
    if st.secrets.load_if_toml_exists():
        return False
    return any(Path(each).exists() for each in st.get_option("secrets.files"))


def _is_configured() -> bool:
    return st.secrets.load_if_toml_exists() and "auth" in st.secrets


def _offer() -> None:
    """Show one button for each provider, and end the run."""
    st.title("NNGuide Explorer")
    if not _has_library():
        _end(_NO_LIBRARY)
    st.text("Log in to go on.")
    settings = st.secrets["auth"]
    named = [name for name in settings if isinstance(settings[name], Mapping)]
    for provider in (None, *named) if "client_id" in settings else named:
        label = "Log in" if provider is None else f"Log in with {provider}"
        if st.button(markdown_text(label), key=f"login.{provider}", type="primary"):
            st.login(provider)
    st.stop()


def _has_library() -> bool:
    return importlib.util.find_spec("authlib") is not None


def _is_listed() -> bool:
    if "access" not in st.secrets:
        return True
    listed = st.secrets["access"].get("emails", ())
    email = str(st.user.get("email") or "").lower()
    if not isinstance(listed, Sequence) or isinstance(listed, str) or st.user.get("email_verified") is False:
        return False
    domain = f"@{email.rpartition('@')[2]}"
    return bool(email) and any(str(each).lower() in (email, domain) for each in listed)


def _end(sentence: str, *, leave: bool = False) -> None:
    st.error(markdown_text(sentence), icon=":material/error:")
    if leave and st.button("Log out"):
        st.logout()
    st.stop()
