"""Runs the app again as soon as the browser shows another theme than its figures were drawn in."""

from views.components import ignore, renderer
from views.theme import Theme

__all__ = ["watch_theme"]


def watch_theme(shown: Theme) -> None:
    """Watch for a change from the theme that this run was drawn in; call it once per run, in app.py.

    Streamlit tells the server of another theme only together with something else that happens, so that
    figures would keep the old colours until then. Browser components follow by themselves.
    """
    renderer("theme_watch")(key="theme-watch", data={"shown": shown.name}, on_changed_change=ignore)
