"""Every page without a pointer: all controls are reached by Tab and arrows, and do their work by keys."""

import re

import pytest
from playwright.sync_api import expect

LONG = 240_000  # ms for the first page of a server, and for its first map
MOST_TABS = 120

# Numbers every control that can be seen, those inside components as well.
LIST = """() => {
    const found = [];
    const collect = (root) => {
        for (const each of root.querySelectorAll("*")) {
            if (each.shadowRoot) collect(each.shadowRoot);
            const isControl = each.matches("a[href], button, input, select, textarea, summary, [tabindex]");
            if (isControl) found.push(each);
        }
    };
    collect(document);
    window.controls = found.filter((each) => {
        const box = each.getBoundingClientRect();
        const isShown = box.width && box.height && getComputedStyle(each).visibility !== "hidden";
        return isShown && !each.disabled && each.tabIndex >= 0;
    });
    return window.controls.length;
}"""
FOCUSED = """() => {
    let at = document.activeElement;
    while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
    return window.controls.indexOf(at);
}"""
# Those that Tab did not reach, and that arrows cannot reach either from one of their group that Tab reached.
UNREACHED = """(reached) => {
    const groups = "fieldset, [role=radiogroup], [role=listbox], [role=toolbar], [data-testid=stButtonGroup]";
    const held = new Set(reached.map((at) => window.controls[at]?.closest(groups)).filter(Boolean));
    return window.controls
        .filter((each, at) => !reached.includes(at) && !held.has(each.closest(groups)))
        .map((each) => each.getAttribute("aria-label") || each.textContent || each.outerHTML.slice(0, 80));
}"""


@pytest.fixture
def opened(open_page, server):
    def show(path, **options):
        page = open_page(f"{server('app.py').url}/{path}", height=1400, **options)
        expect(page.get_by_text("model demo")).to_be_visible(timeout=LONG)
        if path == "map":
            page.locator(".stage[data-drawn]").wait_for(timeout=LONG)
        return page

    return show


@pytest.mark.parametrize("path", ["", "scores", "map", "triage", "export"])
def test_every_control_of_a_page_is_reached(opened, settled, path):
    page = opened(path)
    settled(page)
    page.wait_for_timeout(500)  # pictures and charts bring controls with them
    count = page.evaluate(LIST)
    reached = []
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUSED)
        if reached and at == reached[0]:
            break
        reached += [at] if at >= 0 else []
    assert count > 10
    assert page.evaluate(UNREACHED, reached) == []


def test_an_image_is_chosen_explained_and_judged_by_keys_alone(opened, settled):
    page = opened("triage")
    page.get_by_role("radio", name="misses").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", name="false alarms")).to_be_checked()
    page.get_by_role("listbox", name="queue: false alarms").get_by_role("option").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Flagged (a false alarm)")).to_be_visible()
    chosen = page.get_by_role("option", selected=True).get_attribute("aria-label")
    judged = page.get_by_text(re.compile(r"^\d+ of 50 of this queue judged$"))
    before = int(judged.inner_text().split()[0])
    settled(page)
    page.keyboard.press("6")
    expect(page.get_by_text(f"{before + 1} of 50 of this queue judged")).to_be_visible()
    assert page.get_by_role("option", selected=True).get_attribute("aria-label") != chosen
    settled(page)
    page.keyboard.press("u")
    expect(page.get_by_text(f"{before} of 50 of this queue judged")).to_be_visible()
    assert page.get_by_role("option", selected=True).get_attribute("aria-label") == chosen
    settled(page)  # what stands below the count is still that of the image before
    tick = page.get_by_role("checkbox", name="neighbour 1", exact=True)
    tick.focus()
    page.keyboard.press("Space")
    expect(page.get_by_text("Without 1 bank image the score is")).to_be_visible()


def test_keys_open_and_select_images_on_the_map(opened):
    page = opened("map")
    page.get_by_label("select with a lasso").focus()
    for _ in range(4):
        page.keyboard.press("Tab")
    stage = page.locator(".stage")
    expect(stage).to_be_focused()
    for key in ("+", "ArrowRight", "-"):
        page.keyboard.press(key)
    page.keyboard.press("Space")
    expect(page.locator(".status")).to_contain_text("points selected.")
    expect(page.get_by_role("heading", name="Selected images")).to_be_visible()
    aimed_at(page)
    page.keyboard.press("Enter")
    expect(
        page.locator(".status, [data-testid=stText]").filter(
            has_text=re.compile("true neighbours are|neighbours of")
        )
    ).not_to_have_count(0)
    expect(stage).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Nothing is selected")).to_be_visible()


def aimed_at(page):
    """Move the map until the cross in its middle has found an image."""
    for key in ("ArrowUp", "ArrowLeft", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight") * 4:
        if page.locator(".card").is_visible():
            return
        page.keyboard.press(key)
        page.wait_for_timeout(300)
    expect(page.locator(".card")).to_be_visible()
