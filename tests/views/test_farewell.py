"""Sessions that are over: said goodbye to once, and not while they may still come back."""

import threading

import pytest

from views.farewell import Farewells


def nothing() -> None:
    """Hold nothing."""


@pytest.fixture
def here():
    return {"tab"}


@pytest.fixture
def farewells(here):
    return Farewells(patience=60, is_here=here.__contains__, pause=3600)


@pytest.fixture
def said(farewells):
    found = []
    farewells.look(0)
    farewells.expect("uploads", "tab", nothing, lambda: bool(found.append("goodbye")) or len(found) > 1)
    farewells.look(1000)
    return found


def test_a_session_that_is_connected_or_may_come_back_is_left_alone(farewells, here, said):
    here.clear()
    farewells.look(1060)
    assert said == []
    here.add("tab")
    farewells.look(1100)
    here.clear()
    farewells.look(1160)
    assert said == []


def test_goodbye_is_said_until_it_is_done_and_not_again(farewells, here, said):
    here.clear()
    for moment in (1061, 1062, 1063, 1064):
        farewells.look(moment)
    assert said == ["goodbye", "goodbye"]


def test_what_is_expected_twice_is_done_once(farewells, here, said):
    farewells.expect("uploads", "tab", nothing, lambda: bool(said.append("second")))
    here.clear()
    farewells.look(1061)
    farewells.look(1062)
    assert "second" not in said


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyError("bug")])
def test_a_goodbye_that_fails_is_said_again_later_and_does_not_stop_the_others(farewells, caplog, failure):
    failing, other = [], []

    def fail_once() -> bool:
        failing.append("tried")
        if len(failing) == 1:
            raise failure
        return True

    farewells.look(0)
    farewells.expect("failing", "gone", nothing, fail_once)
    farewells.expect("other", "gone", nothing, lambda: other.append("goodbye") or True)
    for moment in (1e9, 1e9 + 5):
        farewells.look(moment)
    assert (failing, other) == (["tried"], ["goodbye"])
    assert caplog.text.count("a session that is over could not be tidied up") == 1
    assert type(failure).__name__ in caplog.text
    for moment in (1e9 + 61, 1e9 + 200):
        farewells.look(moment)
    assert failing == ["tried", "tried"]


def test_a_guest_who_came_while_no_thread_could_be_started_is_welcomed_the_next_time(farewells, monkeypatch):
    def fail(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            farewells.expect("uploads", "gone", nothing, lambda: True)
    said = []
    farewells.expect("uploads", "gone", nothing, lambda: bool(said.append("goodbye")) or True)
    farewells.look(1e9)
    assert said == ["goodbye"]


def test_the_thread_outlives_a_goodbye_that_fails():
    tried, said = threading.Event(), threading.Event()

    def fail_once() -> bool:
        if not tried.is_set():
            tried.set()
            raise OSError(28, "No space left on device")
        return True

    farewells = Farewells(patience=0.0, is_here=lambda _: False, pause=0.05)
    farewells.expect("failing", "gone", nothing, fail_once)
    assert tried.wait(30)
    farewells.expect("other", "gone", nothing, lambda: said.set() or True)
    assert said.wait(30)


def test_what_a_guest_holds_is_taken_at_once_and_looked_after_while_it_is_here(farewells, here):
    held = []
    farewells.expect("uploads", "tab", lambda: held.append("held"), lambda: True)
    assert held == ["held"]
    farewells.look(1)
    assert held == ["held"] * 2
    here.clear()
    farewells.look(2)
    assert held == ["held"] * 2


def test_a_session_whose_page_was_loaded_anew_lives_as_long_as_the_new_tab(farewells, here, said):
    farewells.expect("uploads", "new tab", nothing, lambda: True)
    here.clear()
    here.add("new tab")
    farewells.look(1061)
    assert said == []
    here.clear()
    farewells.look(1122)
    assert said == ["goodbye"]


def test_a_tab_that_comes_back_while_goodbye_is_said_is_a_guest_again(farewells, here):
    said = []

    def goodbye() -> bool:
        if not said:
            farewells.expect("uploads", "new tab", lambda: said.append("another guest"), goodbye)
            here.add("new tab")
        said.append("goodbye")
        return True

    here.clear()
    farewells.look(0)
    farewells.expect("uploads", "tab", lambda: said.append("held") if said else None, goodbye)
    farewells.look(1e9)
    assert said == ["goodbye", "held"]
    farewells.look(1e9 + 1000)
    assert said == ["goodbye", "held", "held"]
    here.clear()
    farewells.look(1e9 + 2000)
    farewells.look(1e9 + 3000)
    assert said == ["goodbye", "held", "held", "goodbye"]
