"""What is done once a browser session is over: a lost connection can come back, a closed tab does not."""

import gc
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from nnguide_core.outcomes import Outcome

__all__ = ["Farewells", "this_tab"]

_LOG = logging.getLogger("nnguide_core.farewells")  # the log file takes what the core says
_PAUSE = 5.0  # seconds between two looks at who is still here
_GRACE = 5.0  # seconds more than Streamlit keeps a session whose connection was lost


@dataclass
class _Guest:
    """A session that is being watched."""

    tabs: set[str]  # more than one where its page was loaded anew
    hold: Callable[[], object]
    goodbye: Callable[[], bool]
    seen: float  # when it was last connected, by the monotonic clock


class Farewells:
    """Says goodbye to each watched session once it has been gone for longer than it can come back.

    Args:
        patience: seconds that a session may be gone.
        is_here: whether a session has a connection now.
        pause: seconds between two looks.
    """

    def __init__(
        self,
        patience: float | None = None,
        is_here: Callable[[str], bool] | None = None,
        pause: float = _PAUSE,
    ) -> None:
        self._patience = _longest_absence() if patience is None else patience
        self._is_here = is_here or _is_connected
        self._pause = pause
        self._guests: dict[str, _Guest] = {}
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def expect(self, name: str, tab: str, hold: Callable[[], object], goodbye: Callable[[], bool]) -> None:
        """Watch a name from its first tab on: a name that is watched already only gains the tab.

        Args:
            name: of the session, the same for all its tabs.
            tab: Streamlit's id of one of them.
            hold: called at once, and at each look while a tab is here; it must not wait for anything.
            goodbye: called once all tabs are gone for good; where it returns False, again later.
        """
        with self._guard:
            if name in self._guests:
                self._guests[name].tabs.add(tab)
                return
            if self._thread is None:
                thread = threading.Thread(target=self._watch, name="farewells", daemon=True)
                thread.start()
                self._thread = thread
            hold()
            self._guests[name] = _Guest({tab}, hold, goodbye, time.monotonic())

    def look(self, now: float) -> None:
        """See who is here, and say goodbye to those who have been gone for too long.

        A goodbye that fails is said again once the patience has passed anew; the others do not wait for it.
        """
        with self._guard:
            guests = dict(self._guests)
        for name, guest in guests.items():
            with Outcome() as looking:
                self._look_after(name, guest, now)
            if looking.error is not None:
                guest.seen = now
                _LOG.error("a session that is over could not be tidied up", exc_info=looking.error)

    def _look_after(self, name: str, guest: _Guest, now: float) -> None:
        with self._guard:
            tabs = frozenset(guest.tabs)
        if any(self._is_here(tab) for tab in tabs):
            guest.seen = now
            guest.hold()
        elif now - guest.seen > self._patience and guest.goodbye():
            self._let_go(name, guest, tabs, now)

    def _let_go(self, name: str, guest: _Guest, gone: frozenset[str], now: float) -> None:
        """Watch a guest no more, unless a tab came back while goodbye was being said."""
        with self._guard:
            guest.tabs -= gone
            if guest.tabs:
                guest.seen = now
                guest.hold()
                return
            del self._guests[name]
        gc.collect()  # what its pages held in circles: Streamlit collects no more after each run

    def _watch(self) -> None:
        while True:
            time.sleep(self._pause)
            self.look(time.monotonic())


def this_tab() -> str | None:
    """Return Streamlit's id of this session, None where no server runs it."""
    context = get_script_run_ctx()
    return context.session_id if context is not None and runtime.exists() else None


def _is_connected(tab: str) -> bool:
    return runtime.exists() and runtime.get_instance().is_active_session(tab)


def _longest_absence() -> float:
    return float(st.get_option("server.disconnectedSessionTTL")) + _GRACE
