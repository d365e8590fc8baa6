"""The map in a real browser: every point drawn, hover, click, box and lasso, keys and legend."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.apps.map import made

APP = "tests/browser/apps/components.py"
COLORS = {
    "light": {"bank": "#c4c4c4", "miss": "#a63603", "false alarm": "#08306b", "ID passed": "#6ba3d0"},
    "dark": {"bank": "#4b5058", "miss": "#ffc46b", "false alarm": "#cdebff", "ID passed": "#3b82c4"},
}
LIGHT = COLORS["light"]
PIXELS = """
(canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const hex = (at) => "#" + [0, 1, 2].map(i => data[at + i].toString(16).padStart(2, "0")).join("");
    return { data, hex };
}
"""


@pytest.fixture
def url(server):
    return f"{server(APP).url}/?show=map"


@pytest.fixture
def view(open_page, url):
    return opened(open_page, url, 5000)


def opened(open_page, url, count, **options):
    page = open_page(url, **options)
    page.locator(f".stage[data-drawn='{count}']").wait_for()
    return page


def painted(page):
    """Return how many pixels of the map have each colour."""
    return page.locator(".points").evaluate(
        f"""(canvas) => {{
            const {{ data, hex }} = ({PIXELS})(canvas);
            const found = {{}};
            for (let at = 0; at < data.length; at += 4) found[hex(at)] = (found[hex(at)] ?? 0) + 1;
            return found;
        }}"""
    )


def place_of(page, color):
    """Return where on the page a pixel of this colour lies, one that no other marker of it is near."""
    box = page.locator(".points").bounding_box()
    x, y = page.locator(".points").evaluate(
        f"""(canvas, wanted) => {{
            const {{ data, hex }} = ({PIXELS})(canvas);
            for (let at = 0; at < data.length; at += 4) {{
                if (hex(at) === wanted) return [(at / 4) % canvas.width, Math.floor(at / 4 / canvas.width)];
            }}
        }}""",
        color,
    )
    return box["x"] + x, box["y"] + y


def drag(page, *places):
    box = page.locator(".stage").bounding_box()
    spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot, steps=8)
    page.mouse.up()


def redrawn(page):
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_every_group_is_drawn_in_its_color_with_its_marker_named(view):
    found = painted(view)
    assert all(found.get(color, 0) > 100 for color in LIGHT.values())
    words = ["bank", "ID passed", "OOD flagged", "ID flagged (false alarm)", "OOD passed (miss)"]
    assert view.locator(".legend button").all_inner_texts() == words


def test_resting_on_a_point_shows_a_ring_and_then_a_card_with_its_picture(view):
    blank = view.locator(".overlay").evaluate("canvas => canvas.toDataURL()")
    view.mouse.move(*place_of(view, LIGHT["miss"]))
    redrawn(view)
    assert view.locator(".overlay").evaluate("canvas => canvas.toDataURL()") != blank
    card = view.locator(".card")
    expect(card).to_contain_text("OOD passed (miss)")
    expect(card.locator("img")).to_have_js_property("naturalWidth", 32)
    expect(card).to_contain_text(re.compile(r"<img src=x onerror='window\.broken=1'> \d+"))
    expect(card).to_contain_text("score -")
    assert view.evaluate("window.broken") is None
    point = int(card.inner_text().split("> ")[1].split()[0])
    view.get_by_text(f"hovered={point}").wait_for()
    view.mouse.move(5, 5)
    expect(card).to_be_hidden()


def test_a_click_draws_lines_to_true_neighbours_and_counts_those_elsewhere(view):
    view.mouse.click(*place_of(view, LIGHT["miss"]))
    expect(view.locator(".status")).to_have_text("3 of 10 true neighbours are elsewhere on the map (dashed).")
    expect(view.get_by_text(re.compile(r"clicked=\d"))).to_be_visible()


def test_a_lasso_sends_its_outline_and_the_rest_turns_grey(view):
    before = painted(view)
    view.get_by_label("select with a lasso").check()
    drag(view, (0.55, 0.02), (0.95, 0.02), (0.95, 0.5), (0.55, 0.5))
    expect(view.locator(".status")).to_contain_text("of 5,000 points selected.")
    count = int(view.locator(".status").inner_text().split()[0].replace(",", ""))
    assert 1000 < count < 1500
    view.get_by_text(f"count={count} ").wait_for()
    after = painted(view)
    assert after[LIGHT["miss"]] == pytest.approx(before[LIGHT["miss"]], rel=0.02)
    assert after.get(LIGHT["false alarm"], 0) < 0.05 * before[LIGHT["false alarm"]]


def test_a_box_selects_and_escape_clears(view):
    before = painted(view)
    view.get_by_label("select a box").check()
    drag(view, (0.01, 0.01), (0.99, 0.99))
    view.get_by_text("count=5000").wait_for()
    assert painted(view) == before
    view.locator(".stage").focus()
    view.keyboard.press("Escape")
    view.get_by_text("count=0").wait_for()
    expect(view.locator(".status")).to_have_text("")


def test_dragging_moves_the_points_and_selects_nothing(view):
    x, y = place_of(view, LIGHT["miss"])
    drag(view, (0.5, 0.5), (0.6, 0.5))
    redrawn(view)
    moved = place_of(view, LIGHT["miss"])
    width = view.locator(".stage").bounding_box()["width"]
    assert moved == (pytest.approx(x + 0.1 * width, abs=1.5), pytest.approx(y, abs=1.5))
    assert "count=0" in view.get_by_text("heard:").inner_text()


def test_keys_move_zoom_and_show_all_again(view):
    first = painted(view)
    view.locator(".stage").focus()
    for key in ("ArrowLeft", "+", "+", "ArrowUp", "-"):
        before = view.locator(".points").evaluate("canvas => canvas.toDataURL()")
        view.keyboard.press(key)
        redrawn(view)
        assert view.locator(".points").evaluate("canvas => canvas.toDataURL()") != before, key
    view.keyboard.press("0")
    redrawn(view)
    assert painted(view) == first


def test_the_wheel_scrolls_the_page_until_the_map_was_clicked(view):
    box = view.locator(".stage").bounding_box()
    view.mouse.move(box["x"] + 10, box["y"] + 10)
    first = painted(view)
    view.mouse.wheel(0, -200)
    redrawn(view)
    assert painted(view) == first
    view.locator(".stage").focus()
    view.mouse.wheel(0, -200)
    redrawn(view)
    assert painted(view) != first


def test_a_legend_entry_hides_its_group(view):
    button = view.get_by_role("button", name="OOD passed (miss)")
    button.focus()
    view.keyboard.press("Enter")
    redrawn(view)
    assert LIGHT["miss"] not in painted(view)
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(button).to_be_focused()
    button.click()
    redrawn(view)
    assert painted(view)[LIGHT["miss"]] > 100


def test_a_box_leaves_out_the_points_that_the_legend_hides(view):
    view.get_by_label("select a box").check()
    drag(view, (0.01, 0.01), (0.99, 0.99))
    view.get_by_text("count=5000 ").wait_for()
    view.get_by_role("button", name="bank").click()
    drag(view, (0.01, 0.01), (0.99, 0.99))
    expect(view.locator(".status")).not_to_contain_text("5,000 of 5,000")
    shown = made(5000)[0].groups != 0
    view.get_by_text(f"count={shown.sum()} ").wait_for()


def test_colors_by_score_have_a_ramp_and_by_class_names_that_single_one_out(view):
    view.get_by_role("radio", name="score").click()
    expect(view.locator(".ramp")).to_contain_text("(middle: threshold −45.00)")
    view.get_by_role("radio", name="class").click()
    cat = view.get_by_role("button", name="cat <i>")
    expect(cat).to_be_visible()
    every = painted(view)
    cat.click()
    redrawn(view)
    only = painted(view)
    series = [color for color in every if every[color] > 1500 and color != "#ffffff"]
    assert len(series) >= 4
    assert sum(only.get(color, 0) > 1500 for color in series) == 1
    view.get_by_role("radio", name="group").click()
    expect(cat).to_be_hidden()


def test_the_legends_marker_of_the_bank_is_smaller_than_that_of_passed_images(view):
    view.get_by_role("radio", name="class").click()
    expect(view.get_by_role("button", name="cat <i>")).to_be_visible()
    sizes = [
        view.get_by_role("button", name=name, exact=True)
        .locator("canvas")
        .evaluate(
            "canvas => canvas.getContext('2d').getImageData(0, 0, 36, 36).data"
            ".filter((value, at) => at % 4 === 3 && value > 128).length"
        )
        for name in ("bank", "ID passed")
    ]
    assert 0 < sizes[0] < 0.4 * sizes[1]


def test_many_points_open_as_a_density_picture_and_become_points_when_zoomed(open_page, server, screenshot):
    page = opened(open_page, f"{server(APP).url}/?show=map&count=220000", 220000)
    expect(page.locator(".stage")).to_have_attribute("data-shown", "density")
    screenshot(page, "component_map_density")
    for _ in range(6):
        page.get_by_role("button", name="zoom in").click()
    expect(page.locator(".stage")).to_have_attribute("data-shown", "points")


def test_selecting_and_hovering_never_send_the_points_again(open_page, server):
    page = open_page()
    received = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: received.append(len(frame))))
    page.goto(f"{server(APP).url}/?show=map&count=220000")
    page.locator(".stage[data-drawn='220000']").wait_for()
    assert sum(received) > 9 * 220000
    received.clear()
    page.get_by_label("select a box").check()
    drag(page, (0.3, 0.1), (0.7, 0.9))
    expect(page.locator(".status")).to_contain_text("of 220,000 points selected.")
    assert sum(received) < 2 * 220000 / 8


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_show_selection_lines_and_card(open_page, url, theme, screenshot):
    page = opened(open_page, url, 5000, theme=theme)
    page.keyboard.down("Shift")
    drag(page, (0.55, 0.02), (0.95, 0.02), (0.8, 0.5))
    page.keyboard.up("Shift")
    expect(page.locator(".status")).to_contain_text("points selected.")
    place = place_of(page, COLORS[theme]["miss"])
    page.mouse.click(*place)
    expect(page.locator(".status")).to_contain_text("neighbours are elsewhere")
    page.mouse.move(place[0] + 40, place[1] + 300)
    page.mouse.move(*place)
    expect(page.locator(".card img")).to_have_js_property("naturalWidth", 32)
    assert painted(page)[COLORS[theme]["miss"]] > 100
    screenshot(page, f"component_map_{theme}")


def test_a_click_is_heard_although_hovering_follows_while_the_server_is_busy(open_page, url):
    page = opened(open_page, f"{url}&slow=0.6", 5000)
    page.mouse.move(*place_of(page, LIGHT["false alarm"]))
    page.wait_for_timeout(250)  # the first card is asked for, and the run for it takes its time
    page.mouse.click(*place_of(page, LIGHT["miss"]))
    page.wait_for_timeout(200)  # the same point's card is asked for, then another's
    page.mouse.move(*place_of(page, LIGHT["ID passed"]))
    expect(page.locator(".status")).to_contain_text("neighbours are elsewhere")
    expect(page.locator(".card img")).to_have_js_property("naturalWidth", 32)
    expect(page.locator(".card")).to_contain_text("ID passed")
