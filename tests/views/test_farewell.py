"""Sessions that are over: said goodbye to once, and not while they may still come back."""

import pytest

from views.farewell import Farewells


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
    farewells.expect("uploads", "tab", lambda: bool(found.append("goodbye")) or len(found) > 1)
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
    farewells.expect("uploads", "tab", lambda: said.append("second") or True)
    here.clear()
    farewells.look(1061)
    farewells.look(1062)
    assert "second" not in said
