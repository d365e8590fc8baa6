"""The scores component in a real browser: it follows the sliders alone and tells the server when let go."""

import re

import pytest
import torch
from playwright.sync_api import expect

from nnguide_core.sweep import Similarities, binned_over_k

APP = "tests/browser/apps/components.py"
LISTEN = r"Choice\(k=(\d+), rule=Threshold\(kind='(\w+)', level=(-?[\d.]+)\), threshold=(-?[\d.]+)"


@pytest.fixture
def url(server):
    return f"{server(APP).url}/?show=scores"


@pytest.fixture
def view(open_page, url):
    return opened(open_page, url)


def searched(seed, count, level):
    """Return the same made-up neighbours as apps/scores_sweep.py."""
    rng = torch.Generator().manual_seed(seed)
    similarities = level + torch.randn(count, 40, generator=rng).sort(dim=1, descending=True).values
    return Similarities(similarities, level + 0.5 * torch.randn(count, generator=rng))


def opened(open_page, url, **options):
    page = open_page(url, **options)
    expect(page.locator(".decision")).to_contain_text(re.compile("the detector keeps [^≈]*$"))
    return page


def heard(page):
    """Return what the server says it was told: k, kind, level, threshold."""
    found = re.search(LISTEN, page.get_by_text("server: Choice").inner_text())
    return int(found[1]), found[2], float(found[3]), float(found[4])


def said(page):
    return page.locator(".decision").inner_text()


def runs(page):
    return int(page.get_by_text("runs:").inner_text().split()[-1])


def drag(page, locator, share):
    """Set a slider as a held pointer does: it moves, but is not let go."""
    locator.evaluate(
        """(slider, share) => {
            slider.valueAsNumber = Math.round(slider.min * 1 + share * (slider.max - slider.min));
            slider.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        share,
    )
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def painted(page, selector):
    """Return the colours of a canvas as {#rrggbb: pixels}."""
    return page.locator(selector).evaluate(
        """(canvas) => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const found = {};
            for (let at = 0; at < data.length; at += 4) {
                if (data[at + 3] < 255) continue;
                const hex = [0, 1, 2].map(i => data[at + i].toString(16).padStart(2, "0")).join("");
                found["#" + hex] = (found["#" + hex] ?? 0) + 1;
            }
            return found;
        }"""
    )


def test_the_sentence_names_k_threshold_and_both_sides_with_their_numbers(view):
    assert re.fullmatch(
        r"At k = 10 and threshold −57\.\d\d the detector keeps 95\.0 % of ID images \(2,375 of 2,500\) "
        r"and catches \d\d\.\d % of OOD images \([\d,]+ of 2,500\)\.",
        said(view),
    )
    conventions = view.locator(".conventions").inner_text()
    assert "OOD passed when at least 95 % of ID is kept: 2" in conventions
    assert "ID flagged when at least 95 % of OOD is caught: " in conventions
    assert "n = 2,500 ID and 2,500 OOD images." in conventions


def test_dragging_redraws_without_the_server_and_says_that_it_estimates(view, settled):
    settled(view)
    before, painted_before = runs(view), painted(view, ".histogram")
    drag(view, view.locator("input.threshold"), 0.5)
    assert re.search(r"keeps ≈ 75\.0 % of ID images \(1,875 of 2,500\)", said(view))
    assert painted(view, ".histogram") != painted_before
    drag(view, view.locator("input.k"), 1.0)
    assert said(view).startswith("At k = 100 and threshold −")
    drag(view, view.locator("input.k"), 36 / 99)
    assert said(view).startswith("At k = 37 and threshold −")
    view.wait_for_timeout(400)
    assert runs(view) == before


def test_an_estimate_from_bins_is_close_to_the_exact_value(view):
    exact = re.search(r"catches ([\d.]+) %", said(view))
    drag(view, view.locator("input.threshold"), 0.9)
    estimate = re.search(r"catches ≈ ([\d.]+) %", said(view))
    assert float(estimate[1]) == pytest.approx(float(exact[1]), abs=0.5)


def test_letting_go_commits_once_and_brings_exact_numbers(view):
    slider = view.locator("input.k")
    slider.focus()
    for _ in range(3):
        view.keyboard.press("ArrowRight")
    view.get_by_text("runs: 1").wait_for()
    assert heard(view)[0] == 13
    expect(view.locator(".decision")).to_contain_text(f"At k = {heard(view)[0]} ")
    expect(view.locator(".decision")).not_to_contain_text("≈")


def test_home_and_end_reach_both_ends_of_k(view):
    slider = view.locator("input.k")
    slider.focus()
    view.keyboard.press("End")
    expect(slider).to_have_attribute("aria-valuetext", "k = 100")
    view.keyboard.press("Home")
    view.get_by_text("Choice(k=1,").wait_for()


def test_every_control_has_a_name(view):
    for name in ("k, the bank images that vote", "share of ID images kept"):
        assert view.get_by_label(name).count() == 1
    assert view.get_by_role("radio").count() == 5
    assert "Score histogram. At k = 10 " in view.locator(".histogram").get_attribute("aria-label")
    assert "ROC curve" in view.locator(".rates").get_attribute("aria-label")


@pytest.mark.parametrize(
    ("label", "words", "rule"),
    [
        ("share of OOD caught", r"catches 95\.0 % of OOD images \(2,37[56] of", "ood_caught"),
        ("score value", r"threshold −57\.\d\d the detector keeps 95\.0 %", "value"),
    ],
)
def test_each_rule_holds_what_it_promises(view, label, words, rule):
    view.get_by_label(label).check()
    view.get_by_text(f"kind='{rule}'").wait_for()
    view.locator(".decision", has_not_text="≈").wait_for()
    assert re.search(words, said(view))


def test_dragging_over_the_histogram_sets_the_threshold_as_a_value(view):
    box = view.locator(".histogram").bounding_box()
    middle = box["y"] + 50
    view.mouse.move(box["x"] + box["width"] * 0.5, middle)
    view.mouse.down()
    view.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=4)
    view.mouse.up()
    view.get_by_text("kind='value'").wait_for()
    assert heard(view)[3] > -45
    expect(view.locator(".decision")).to_contain_text("keeps 100.0 % of ID")


def test_the_other_curve_can_be_shown(view):
    roc = painted(view, ".rates")
    view.get_by_label("precision and recall").check()
    view.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert painted(view, ".rates") != roc
    assert "Precision and recall" in view.locator(".rates").get_attribute("aria-label")


def test_each_curve_names_its_own_area_outside_the_plot(view):
    label = view.locator(".rates").get_attribute("aria-label")
    assert re.search(r"AUROC ≈ 0\.9\d\d near\. AUROC ≈ [01]\.\d{3} far\.", label)
    assert "AUPR" not in label
    view.get_by_label("precision and recall").check()
    view.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    label = view.locator(".rates").get_attribute("aria-label")
    assert re.search(r"AUPR ≈ 0\.\d{3} near\. AUPR ≈ [01]\.\d{3} far\.", label)
    assert "AUROC" not in label


def test_the_legend_hatches_only_where_some_images_are_wrong(view):
    assert "hatched: class predicted wrongly" in view.locator(".legend").inner_text()
    expect(view.locator(".unknown")).to_be_hidden()


def test_names_are_text_and_never_markup(view):
    assert view.locator(".scores b").count() == 0
    assert view.locator(".scores").locator("script, img").count() == 0


@pytest.mark.parametrize(("theme", "flagged"), [("light", "#f4a259"), ("dark", "#c26a12")])
def test_both_themes_have_their_own_colors(open_page, url, theme, flagged, screenshot, settled):
    page = opened(open_page, url, theme=theme)
    settled(page)
    assert painted(page, ".histogram")[flagged] > 1000
    screenshot(page, f"component_scores_{theme}")


def test_a_narrow_window_stacks_the_plots_without_cutting_them(open_page, url, screenshot, settled):
    page = opened(open_page, url, width=420)
    settled(page)
    histogram, rates = (page.locator(name).bounding_box() for name in (".histogram", ".rates"))
    assert rates["y"] >= histogram["y"] + histogram["height"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    screenshot(page, "component_scores_narrow")


def test_at_the_tables_own_level_every_k_is_exact_without_the_server(open_page, server):
    page = opened(open_page, f"{server(APP).url}/?show=scores_sweep")
    sweep = binned_over_k(
        {"known": searched(1, 300, 9.0), "known, wrongly classified": searched(2, 40, 8.0)},
        {"near": searched(3, 200, 7.5), "far": searched(4, 100, 5.0)},
    )
    assert len(sweep.ks) == 40
    for row, share in ((0, 0.0), (36, 36 / 39), (39, 1.0)):
        drag(page, page.locator("input.k"), share)
        id_flagged, ood_flagged = (
            sweep.flagged_at_id_kept[row][:2].sum(),
            sweep.flagged_at_id_kept[row][2:].sum(),
        )
        assert f"k = {sweep.ks[row]} " in said(page)
        assert f"({340 - id_flagged} of 340)" in said(page)
        assert f"({ood_flagged} of 300)" in said(page)
        conventions = page.locator(".conventions").inner_text()
        assert f"kept: {100 * sweep.pooled.ood_passed_at_id_kept[row]:.1f} %" in conventions
        assert f"caught: {100 * sweep.pooled.id_flagged_at_ood_caught[row]:.1f} %" in conventions
        assert "≈" not in said(page) + conventions
    drag(page, page.locator("input.threshold"), 0.7)
    assert "≈" in said(page)
