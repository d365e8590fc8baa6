"""Every page of the demo in both themes and in a narrow window: nothing is cut; pictures to look at."""

import pytest
from playwright.sync_api import expect

from nnguide_core.demo import demo_features

LONG = 240_000  # ms for the first page of a server, and for its first map
PAGES = ("data", "scores", "map", "triage", "export")
WINDOWS = {"light": ("light", 1280), "dark": ("dark", 1280), "narrow": ("light", 600)}
BETWEEN = {"700": ("light", 700), "900": ("dark", 900)}  # where columns are narrow and do not stack yet


@pytest.fixture
def opened(open_page, server, settled):
    """Open a page of the demo with an image chosen, as tall as what it shows."""
    image = demo_features()["deer and truck"].ids[3]

    def show(name, theme, width):
        path = "" if name == "data" else name
        page = open_page(
            f"{server('app.py').url}/{path}?image={image}", theme=theme, width=width, height=1000
        )
        expect(page.get_by_text("model demo")).to_be_visible(timeout=LONG)
        if name in ("data", "triage"):
            expect(page.get_by_text("The bank images behind the guidance")).to_be_visible(timeout=LONG)
        if name == "map":
            page.locator(".stage[data-drawn]").wait_for(timeout=LONG)
        for _ in range(2):  # charts come late and take their size from the window
            page.wait_for_timeout(1000)
            settled(page)
            page.set_viewport_size({"width": width, "height": content_height(page)})
        settled(page)
        return page

    return show


def content_height(page):
    tall = page.locator("[data-testid=stMain]").evaluate("main => main.scrollHeight")
    return min(int(tall) + 20, 4000)


# What reaches over the window's edge and is not in a box that scrolls.
OVER_THE_EDGE = """() => [...document.querySelectorAll("[data-testid=stMain] *")].filter((each) => {
    const box = each.getBoundingClientRect();
    if (!box.width || box.right <= innerWidth + 1) return false;
    for (let up = each.parentElement; up; up = up.parentElement) {
        const scrolls = getComputedStyle(up).overflowX !== "visible" && up.dataset.testid !== "stMain";
        if (scrolls && up.getBoundingClientRect().right <= innerWidth + 1) return false;
    }
    return true;
}).map((each) => `${each.tagName} ${each.className} ${each.textContent.slice(0, 40)}`)"""

# Texts of figures that reach over the edge of their own figure, which cuts them.
CUT_IN_FIGURES = """() => [...document.querySelectorAll("[data-testid=stMain] svg text")].filter((each) => {
    const [inner, outer] = [each.getBoundingClientRect(), each.ownerSVGElement.getBoundingClientRect()];
    const isInside = inner.left > outer.left - 1 && inner.right < outer.right + 1
        && inner.top > outer.top - 1 && inner.bottom < outer.bottom + 1;
    return inner.width && !isInside;
}).map((each) => each.textContent)"""

# Buttons whose words do not fit.
CUT_IN_BUTTONS = """() => [...document.querySelectorAll("[data-testid=stMain] button *")]
    .filter((each) => getComputedStyle(each).overflowX !== "visible")
    .filter((each) => each.scrollWidth > each.clientWidth + 1)
    .map((each) => each.textContent)"""


@pytest.mark.parametrize("window", BETWEEN)
def test_the_explanation_of_an_image_is_whole_in_windows_between(opened, screenshot, window):
    page = opened("triage", *BETWEEN[window])
    screenshot(page, f"page_triage_{window}")
    assert page.evaluate(OVER_THE_EDGE) == []
    assert page.locator(".js-plotly-plot svg text").count() > 20
    assert page.evaluate(CUT_IN_FIGURES) == []
    assert page.evaluate(CUT_IN_BUTTONS) == []


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window(opened, screenshot, name, window):
    page = opened(name, *WINDOWS[window])
    screenshot(page, f"page_{name}_{window}")
    assert page.evaluate(OVER_THE_EDGE) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert name != "triage" or page.evaluate(CUT_IN_FIGURES) == []
