"""The map page in a real browser: the first map, a lasso, the same images below, lines of a click, Triage."""

import pytest
from playwright.sync_api import expect

FIRST_MAP = 240_000  # ms on a busy machine
MOST_SHOWN = 300  # images below the map


@pytest.fixture
def url(server):
    return server("app.py").url


@pytest.fixture
def opened(open_page, url, go_to):
    def show(**options):
        page = open_page(url, height=1400, **options)
        page.get_by_role("link", name="Map").wait_for(timeout=FIRST_MAP)
        go_to(page, "Map")
        page.locator(".stage[data-drawn]").wait_for(timeout=FIRST_MAP)
        return page

    return show


def lasso(page, right=0.5):
    page.get_by_label("select with a lasso").check()
    box = page.locator(".stage").bounding_box()
    corners = [(0.1, 0.2), (right, 0.2), (right, 0.8), (0.1, 0.8)]
    spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot, steps=8)
    page.mouse.up()


def images(page):
    """Return what the gallery's tiles say, in any order."""
    return sorted(
        page.get_by_role("option").evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")
    )


def test_a_lasso_counts_and_shows_its_images_and_triage_has_the_same(opened, settled):
    page = opened()
    status = page.locator(".status")
    for right in (0.5, 0.3, 0.2):  # where the images lie depends on the machine
        before = status.inner_text()
        lasso(page, right)
        expect(status).not_to_have_text(before)
        expect(status).to_contain_text("points selected.")
        count = status.inner_text().split()[0]
        words = page.get_by_text(f"{count} images selected:")
        expect(words).to_be_visible()
        queries = words.inner_text().split(": ")[1].split()[0]
        if "," not in queries and int(queries) <= MOST_SHOWN:
            break
    expect(page.get_by_role("option")).to_have_count(int(queries))
    shown = images(page)
    tile = page.get_by_role("option").first
    tile.click()
    expect(status).to_contain_text("true neighbours are elsewhere on the map (dashed).")
    settled(page)
    page.get_by_role("button", name="Open in Triage", exact=True).click()
    expect(page.get_by_role("radio", name=f"from the map ({queries})")).to_be_checked()
    queue = page.get_by_role("listbox", name="queue: from the map")
    expect(queue.get_by_role("option")).to_have_count(int(queries))
    assert images(page) == shown


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_show_the_map_without_an_error(opened, theme, settled, screenshot):
    page = opened(theme=theme)
    lasso(page)
    expect(page.get_by_text("images selected:")).to_be_visible()
    settled(page)
    page.set_viewport_size({"width": 1280, "height": 1900})
    page.wait_for_timeout(1500)
    screenshot(page, f"page_map_{theme}")
