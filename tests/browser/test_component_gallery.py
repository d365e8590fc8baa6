"""The gallery in a real browser: hundreds of thumbnails, one of them selected by pointer or key."""

import pytest
from playwright.sync_api import expect

APP = "tests/browser/apps/components.py"


@pytest.fixture
def url(server):
    return f"{server(APP).url}/?show=gallery"


@pytest.fixture
def view(open_page, url):
    return opened(open_page, url)


def opened(open_page, url, **options):
    page = open_page(url, **options)
    page.get_by_role("option").first.wait_for()
    return page


def test_every_tile_says_its_caption_and_group_and_only_visible_ones_are_decoded(view):
    assert view.get_by_role("option").count() == 500
    labels = [view.get_by_role("option").nth(index).get_attribute("aria-label") for index in (0, 2, 3)]
    assert labels == [
        "truck/a rather long file name 0000.png, ID passed",
        "truck/a rather long file name 0002.png, ID flagged (false alarm)",
        "truck/a rather long file name 0003.png, OOD passed (miss)",
    ]
    decoded = view.locator(".frame img").evaluate_all("images => images.filter(image => image.src).length")
    assert 20 < decoded < 120
    last = view.get_by_role("option").nth(498)
    last.scroll_into_view_if_needed()
    expect(last.locator("img")).to_have_js_property("naturalWidth", 32)


def test_a_click_selects_and_the_server_hears_it(view):
    view.get_by_role("option").nth(2).click()
    view.get_by_text("selected: id2", exact=True).wait_for()
    expect(view.locator("[aria-selected=true]")).to_have_count(1)
    expect(view.get_by_role("option").nth(2)).to_have_attribute("aria-selected", "true")


def test_keys_move_and_enter_selects(view):
    view.get_by_role("option").first.focus()
    columns = view.locator(".grid").evaluate(
        "grid => getComputedStyle(grid).gridTemplateColumns.split(' ').length"
    )
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowUp"):
        view.keyboard.press(key)
    view.keyboard.press("Enter")
    view.get_by_text(f"selected: id{columns}", exact=True).wait_for()
    view.keyboard.press("End")
    view.keyboard.press("Space")
    view.get_by_text("selected: id499", exact=True).wait_for()
    assert view.locator(".grid").evaluate("grid => grid.scrollTop") > 1000
    view.keyboard.press("Home")
    view.keyboard.press("ArrowUp")
    expect(view.get_by_role("option").first).to_be_focused()


def test_what_the_server_selects_is_scrolled_to_without_moving_the_page(view):
    view.get_by_role("option").first.focus()
    view.keyboard.press("End")
    view.keyboard.press("ArrowLeft")
    view.keyboard.press("Enter")
    view.get_by_text("selected: id498", exact=True).wait_for()
    view.locator(".grid").evaluate("grid => grid.scrollTop = 0")
    view.get_by_role("button", name="next").click()
    expect(view.get_by_role("option").nth(499)).to_have_attribute("aria-selected", "true")
    assert view.locator(".grid").evaluate("grid => grid.scrollTop") > 1000
    assert view.evaluate("scrollY") == 0


def test_a_hostile_name_is_text(view):
    tile = view.get_by_role("option").nth(1)
    assert tile.locator(".caption").inner_text() == '<img src=x onerror="window.broken=1">&amp;\\u202egnp.exe'
    assert view.evaluate("window.broken") is None
    assert tile.locator("img").count() == 1


def test_other_tiles_replace_the_grid(view):
    field = view.get_by_label("count")
    field.fill("7")
    field.press("Enter")
    expect(view.get_by_role("option")).to_have_count(7)
    field.fill("0")
    field.press("Enter")
    view.get_by_text("No images here.").wait_for()


@pytest.mark.parametrize(("theme", "border"), [("light", "rgb(8, 48, 107)"), ("dark", "rgb(205, 235, 255)")])
def test_the_border_and_the_corner_say_the_decision_in_both_themes(
    open_page, url, theme, border, screenshot, settled
):
    page = opened(open_page, url, theme=theme)
    page.get_by_role("option").nth(4).click()
    settled(page)
    frame = page.get_by_role("option").nth(2).locator(".frame")
    expect(frame).to_have_css("border-top-color", border)
    expect(frame.locator(".marker")).to_have_text("✕")
    expect(page.locator(".legend")).to_contain_text("◇ OOD passed (miss)")
    screenshot(page, f"component_gallery_{theme}")
