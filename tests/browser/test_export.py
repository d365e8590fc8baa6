"""The export page in a real browser: figures as files, and the list of bank images to leave out."""

import csv
from pathlib import Path

import pytest
from playwright.sync_api import expect

FIGURES = ("scores", "roc", "precision-recall", "over-k")


@pytest.fixture
def url(server):
    return server("app.py").url


def downloaded(page, click):
    with page.expect_download() as waiting:
        click()
    return waiting.value.suggested_filename, Path(waiting.value.path())


def test_figures_are_saved_as_svg_and_html_with_their_run(open_page, url, go_to):
    page = open_page(url, height=2400)
    go_to(page, "Export")
    page.get_by_text("Show the figures").click()
    charts = page.locator(".js-plotly-plot")
    expect(charts).to_have_count(len(FIGURES))
    run = page.get_by_text("run ").filter(has_text="threshold").first.inner_text().split("run ")[1][:8]
    for place, name in enumerate(FIGURES):
        charts.nth(place).hover()
        camera = charts.nth(place).locator("[data-title^='Download plot']")
        given, path = downloaded(page, camera.click)
        assert given == f"nnguide-{name}.svg"
        picture = open_page(path.rename(path.with_suffix(".svg")).as_uri())
        expect(picture.locator("svg").first).to_contain_text(f"run {run}")
    given, path = downloaded(page, page.get_by_role("button", name="roc, HTML").click)
    assert given == "nnguide-roc.html"
    alone = open_page(path.rename(path.with_suffix(".html")).as_uri())
    expect(alone.locator(".js-plotly-plot .scatterlayer .trace")).to_have_count(7)
    expect(alone.get_by_text(f"run {run}")).to_be_visible()


def test_bank_images_put_on_the_list_are_exported_to_be_excluded(open_page, url, go_to):
    page = open_page(url, height=1800)
    page.get_by_role("option").first.click()
    page.get_by_text("neighbour 2", exact=True).click()
    page.get_by_role("button", name="Put on the list of bank images to leave out").click()
    expect(page.get_by_text("see the export page")).to_be_visible()
    go_to(page, "Export")
    expect(page.get_by_text("put on the list beside a misflagged image (1 now)")).to_be_visible()
    _, path = downloaded(page, page.get_by_role("button", name="Those to exclude, CSV").click)
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["reason"] for line in lines] == ["left out by hand"]
    page.get_by_role("button", name="Empty the list").click()
    expect(page.get_by_text("(0 now)")).to_be_visible()
