"""The figures in a real browser: names as they are, both themes, nothing cut."""

import pytest
from playwright.sync_api import expect

APP = "tests/browser/apps/components.py"
HOSTILE = '<b onmouseover="window.broken=1">&amp;</b> %{x} $y$'


@pytest.fixture
def url(server):
    return f"{server(APP).url}/?show=charts"


def drawn(page):
    expect(page.locator(".js-plotly-plot")).to_have_count(7)
    expect(page.locator(".js-plotly-plot .main-svg text").first).to_be_visible()


def background(page):
    return page.locator(".js-plotly-plot .main-svg").first.evaluate(
        "figure => getComputedStyle(figure).backgroundColor"
    )


def test_names_are_drawn_letter_by_letter(open_page, url):
    page = open_page(url)
    drawn(page)
    texts = page.locator(".js-plotly-plot text").evaluate_all("all => all.map(text => text.textContent)")
    shown = [text for text in texts if "<b onm" in text]
    assert len(shown) >= 4
    for text in shown:
        head, tail = text.split(". ", 1)[-1].split(" (n = ")[0].split("…")
        assert HOSTILE.startswith(head)
        assert HOSTILE.endswith(tail)
    assert page.locator(".js-plotly-plot text [style*='bold']").count() == 0
    top_classes = page.locator(".js-plotly-plot").nth(3)  # columns come one after the other
    bar = top_classes.locator(".bars path").first
    bar.scroll_into_view_if_needed()
    box = bar.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2, steps=3)
    expect(top_classes.locator(".hoverlayer")).to_contain_text(f"{HOSTILE}: 90.00%")
    assert page.evaluate("window.broken") is None


def test_no_text_leaves_its_figure(open_page, url):
    page = open_page(url)
    drawn(page)
    cut = page.evaluate(
        """() => [...document.querySelectorAll(".js-plotly-plot")].flatMap((figure) => {
            const frame = figure.getBoundingClientRect();
            return [...figure.querySelectorAll("text")].filter((text) => {
                const box = text.getBoundingClientRect();
                return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1
                    || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
            }).map((text) => text.textContent);
        })"""
    )
    assert cut == []


@pytest.mark.parametrize(
    ("theme", "color"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(15, 18, 22)")], ids=["light", "dark"]
)
def test_figures_have_the_background_of_the_page(open_page, url, theme, color, screenshot, settled):
    page = open_page(url, theme=theme, height=2300)
    page.get_by_text(f"theme: {theme}").wait_for()
    drawn(page)
    settled(page)
    assert background(page) == color
    assert (
        page.locator("[data-testid=stApp]").evaluate("app => getComputedStyle(app).backgroundColor") == color
    )
    screenshot(page, f"charts_{theme}")


def test_figures_follow_a_change_of_the_theme_at_once(open_page, url):
    page = open_page(url)
    drawn(page)
    page.locator("[data-testid=stMainMenu] button").click()
    page.get_by_text("dark_mode").click()
    page.get_by_text("theme: dark").wait_for()
    expect(page.locator(".js-plotly-plot .main-svg").first).to_have_css("background-color", "rgb(15, 18, 22)")
