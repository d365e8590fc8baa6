"""The triage page in a real browser: hasty keys judge one image, and an image from elsewhere is shown."""

import re

import pytest
from playwright.sync_api import expect

LONG = 240_000  # ms for the first page of a server


@pytest.fixture
def opened(open_page, server):
    """Open the triage page, with an image of the demo chosen."""

    def show(image=""):
        page = open_page(f"{server('app.py').url}/triage?image={image}", height=1400)
        expect(page.get_by_text("model demo")).to_be_visible(timeout=LONG)
        return page

    return show


# Send all presses at once, or the next image may open before the last one.
PRESS_3_THRICE = """() => {
  const press = { key: "3", code: "Digit3", bubbles: true, cancelable: true };
  for (const kind of ["keydown", "keyup", "keydown", "keyup", "keydown", "keyup"])
    document.activeElement.dispatchEvent(new KeyboardEvent(kind, press));
}"""


def judged(page, count):
    return page.get_by_text(re.compile(f"^{count} of .* of this queue judged$"))


def test_a_key_pressed_twice_judges_one_image_and_undo_right_after_it_takes_it_back(opened, settled):
    page = opened()
    page.get_by_role("option").first.click()
    expect(judged(page, 0)).to_be_visible()
    settled(page)
    first = page.get_by_role("option", selected=True).get_attribute("aria-label")
    page.evaluate(PRESS_3_THRICE)
    expect(judged(page, 1)).to_be_visible()
    settled(page)
    expect(judged(page, 1)).to_be_visible()
    page.keyboard.press("u")
    expect(judged(page, 0)).to_be_visible()
    settled(page)
    page.keyboard.press("4")
    page.wait_for_timeout(150)
    page.keyboard.press("u")
    settled(page)
    expect(judged(page, 0)).to_be_visible()
    assert page.get_by_role("option", selected=True).get_attribute("aria-label") == first
    page.keyboard.press("u")
    expect(page.get_by_text("This session has no verdict to take back.")).to_be_visible()


def noted(page, text):
    """Return the note field that holds this text; the last image's may still be there for a moment."""
    return page.locator(f'input[aria-label="note"][value="{text}"]')


def leave_the_note_for(page, go_to, settled, name):
    """Follow a link as a hand does: the press leaves the field, the release follows the link later."""
    page.get_by_label("note", exact=True).blur()
    settled(page)
    go_to(page, name)


def test_a_note_is_kept_however_it_is_left(opened, settled, go_to):
    page = opened()
    tiles = page.get_by_role("option")
    for place, text, leave in (
        (5, "left for another image", lambda: tiles.nth(0).click()),
        (6, "left for another page", lambda: leave_the_note_for(page, go_to, settled, "Scores")),
    ):
        tiles.nth(place).click()
        expect(tiles.nth(place)).to_have_attribute("aria-selected", "true")
        settled(page)
        expect(page.get_by_label("note", exact=True)).to_have_count(1)
        page.get_by_label("note", exact=True).fill(text)
        leave()
    go_to(page, "Triage")
    for place, text in ((6, "left for another page"), (5, "left for another image")):
        tiles.nth(place).click()
        expect(tiles.nth(place)).to_have_attribute("aria-selected", "true")
        settled(page)
        expect(noted(page, text)).to_be_visible()
    expect(page.get_by_label("note", exact=True)).to_have_count(1)
    page.get_by_label("note", exact=True).fill("left by a key")
    page.keyboard.press("Tab")
    page.keyboard.press("6")
    expect(tiles.nth(5)).to_have_attribute("aria-selected", "false")
    settled(page)
    page.keyboard.press("u")
    expect(tiles.nth(5)).to_have_attribute("aria-selected", "true")
    settled(page)
    expect(noted(page, "left by a key")).to_be_visible()


def test_a_reload_shows_the_same_queue(opened, settled):
    page = opened()
    page.get_by_role("radio", name="false alarms").click()
    page.wait_for_url(re.compile("queue=false"))
    settled(page)
    page.reload()
    expect(page.get_by_role("radio", name="false alarms")).to_be_checked(timeout=LONG)


def test_an_image_from_elsewhere_is_scrolled_to_and_marked_beyond_the_first_500(opened, misses):
    for place, beyond in ((300, False), (600, True)):
        page = opened(misses[place])
        tile = page.get_by_role("option", selected=True)
        expect(tile).to_have_count(1)
        expect(page.get_by_role("option")).to_have_count(501 if beyond else 500)
        expect(tile).to_be_in_viewport()
        shown = page.get_by_text("The first 500 of 630 are shown")
        expect(shown).to_have_text(f"The first 500 of 630 are shown{', and the open one' * beyond}.")


@pytest.fixture(scope="module")
def misses(tmp_path_factory):
    """The demo's misses, furthest from the threshold first."""
    from nnguide_core.evaluation import DEFAULT_THRESHOLD, evaluate
    from nnguide_core.evaluation.questions import ask_demo
    from nnguide_core.evaluation.queues import Situation, ordered, queue
    from nnguide_core.settings import DEFAULT_K
    from nnguide_core.store import Workspace

    workspace = Workspace(tmp_path_factory.mktemp("misses"))
    answered = evaluate(ask_demo(workspace), baselines=())
    threshold = answered.threshold(DEFAULT_THRESHOLD, DEFAULT_K)
    situation = Situation(answered, DEFAULT_K, threshold)
    places = ordered(situation, queue("misses", situation), "furthest from the threshold")
    return [judged.features.ids[row] for judged, row in places]
