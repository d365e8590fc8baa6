"""Fields: filled with a default, then with what the user left, as long as it may be chosen."""

import pytest
import streamlit as st
from hypothesis import given
from hypothesis import strategies as some

from nnguide_core.names import visible
from views import state
from views.state import ImageKey


@pytest.fixture(autouse=True)
def session():
    st.session_state.clear()
    yield
    st.session_state.clear()


def leave_page():
    """Do what Streamlit does with the widgets of a page that is left, once the app has begun to run again."""
    state.start("")
    for key in [key for key in st.session_state if key.startswith("field.")]:
        del st.session_state[key]


def test_a_field_holds_its_default_at_first():
    assert st.session_state[state.field("seed", 3)] == 3


def test_a_field_holds_what_it_held_when_its_page_was_left():
    st.session_state[state.field("seed", 3)] = 7
    leave_page()
    assert st.session_state[state.field("seed", 3)] == 7


def test_what_may_not_be_chosen_any_more_becomes_the_default():
    st.session_state[state.field("class", "", ["", "cat"])] = "cat"
    leave_page()
    assert st.session_state[state.field("class", "", ["", "dog"])] == ""


def test_a_filled_field_is_what_its_widget_shows_next():
    state.field("queue", "misses")
    state.fill("queue", "from the map")
    assert st.session_state[state.field("queue", "misses")] == "from the map"


@given(some.text(), some.text("0123456789abcdef", min_size=1))
def test_an_images_key_is_read_back_from_its_text_with_the_dataset_as_it_is_shown(dataset, image):
    text = str(ImageKey(dataset, image))
    assert text.encode("utf-8")
    assert ImageKey.read(text) == ImageKey(visible(dataset), image)


def test_an_address_without_an_image_has_none_and_an_older_one_names_no_dataset():
    assert ImageKey.read("") is None
    assert ImageKey.read("ab12") == ImageKey("", "ab12")
