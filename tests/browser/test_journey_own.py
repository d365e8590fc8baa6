"""Own data in a real browser: uploaded, computed, explained, judged, exported; a restart forgets nothing."""

import csv
import io
import json
import re
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

from nnguide_core import NNGuide

LONG = 150_000  # ms that a job may take on a busy machine
ODD = "café <i>& co 写真.png"  # a name with a space, markup and letters of two scripts


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """ID photos in class folders, a flat and a nested OOD folder with broken files, a zip."""
    rng, root = np.random.default_rng(8), tmp_path_factory.mktemp("my photos")
    for row in range(24):
        write(
            root / "test" / ("cat", "frog", "ship")[row % 3] / f"{row}.jpg", picture(rng, 200 + 9 * row, 150)
        )
    write(root / "at night" / ODD, picture(rng, 640, 480))
    for row in range(7):
        write(root / "at night" / f"night {row}.png", picture(rng, 90, 210))
        write(root / "trips" / "2023" / f"week {row % 2}" / f"{row}.png", picture(rng, 33, 70))
    write(root / "at night" / "broken.jpg", b"\xff\xd8\xff")
    with zipfile.ZipFile(root / "old phone.zip", "w") as archive:
        for row in range(5):
            archive.writestr(f"z/{row}.png", picture(rng, 32, 32))
        archive.writestr("z/bad.png", b"no image")
    return root


@pytest.fixture
def start(server, data, tmp_path):
    """Start a server on this test's workspace; again after it was stopped."""
    env = {"NNGUIDE_DATA_ROOTS": str(data), "NNGUIDE_HOME": str(tmp_path / "workspace")}
    return lambda: server("app.py", env, fresh=True)


def picture(rng, width, height):
    """Return a picture of soft spots."""
    file, spots = io.BytesIO(), rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def upload(page, way, path, counts):
    page.get_by_text(way, exact=True).click()
    kind = "input[type=file][webkitdirectory]" if path.is_dir() else "input[type=file]:not([webkitdirectory])"
    page.locator(kind).first.set_input_files(path)
    expect(page.get_by_text(counts)).to_be_visible(timeout=LONG)


def compute(page, data):
    """Add ID images by their path, upload two OOD folders and a zip, compute, and wait for the run."""
    page.get_by_text("Own images", exact=True).click(timeout=LONG)
    box = page.get_by_label("path of a folder")
    box.fill(str(data / "test"))
    box.press("Enter")
    expect(page.get_by_text("images: 24, classes: 3")).to_be_visible(timeout=LONG)
    upload(page, "upload a folder", data / "at night", "images: 8, no classes, 1 skipped")
    upload(page, "upload a folder", data / "trips", "images: 7, classes: 1")
    upload(page, "upload files or zips", data / "old phone.zip", "images: 5, no classes, 1 skipped")
    page.get_by_role("button", name="Compute", exact=True).click()
    expect(page.get_by_text("Choose an image above")).to_be_visible(timeout=LONG)


def open_miss(page, go_to):
    """Open the misses and the first image among them; return its file name."""
    go_to(page, "Triage")
    expect(page.get_by_role("radio", name="misses (")).to_be_checked()
    page.get_by_role("option").first.click()
    expect(page.get_by_text("Passed (a miss): score −")).to_be_visible()
    expect(page.get_by_text("The bank images behind the guidance")).to_be_visible()
    return (
        page.get_by_role("option").first.get_attribute("aria-label").split("  ")[1].split(", OOD passed")[0]
    )


def judge(page):
    """Say "really OOD" by its key, take it back, say it again; the next image opens each time."""
    expect(page.get_by_text(re.compile("^0 of .* of this queue judged$"))).to_be_visible()
    page.keyboard.press("3")
    expect(page.get_by_text(re.compile("^1 of .* of this queue judged$"))).to_be_visible()
    expect(page.get_by_role("option", selected=True)).to_have_count(1)
    page.keyboard.press("u")
    expect(page.get_by_text(re.compile("^0 of .* of this queue judged$"))).to_be_visible()
    page.keyboard.press("3")
    expect(page.get_by_text(re.compile("^1 of .* of this queue judged$"))).to_be_visible()


def fetch(page, button):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    return waiting.value


def check_tables(page, name):
    """Every judged image is one line of the table, the verdict on its line."""
    text = fetch(page, "test images, CSV").path().read_text("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert sum(row["role"] == "ood" for row in rows) == 20
    assert any(ODD in row["path"] for row in rows)
    (judged,) = [row for row in rows if row["verdict"]]
    assert (judged["verdict"], judged["decision"]) == ("really OOD", "miss")
    assert judged["path"] == name
    assert float(judged["score"]) == pytest.approx(
        -float(judged["energy"]) * float(judged["guidance"]), rel=1e-4
    )
    wrong = list(csv.DictReader(io.StringIO(fetch(page, "misflagged, CSV").path().read_text("utf-8-sig"))))
    assert {row["decision"] for row in wrong} <= {"miss", "false alarm"}
    said = json.loads(fetch(page, "1 verdict, JSON").path().read_text())
    assert [each["decision"] for each in said["verdicts"]] == ["really OOD"]
    return rows


def check_detector(page, rows):
    """The file's detector holds the bank, k and threshold that the table was made with."""
    detector = NNGuide.load(fetch(page, "Download detector.nnguide").path())
    threshold = detector.provenance["threshold"]
    assert detector.k == 10
    assert detector.bank.size == 12
    assert all(
        (row["decision"] in ("flagged", "false alarm")) == (float(row["score"]) >= threshold) for row in rows
    )
    found = detector.neighbors_features(torch.ones(2, 128), logits=torch.ones(2, 8))
    assert found.indices.shape == (2, 10)


def check_report(page, open_page, name, tmp_path):
    """The report opens from the disk, shows its figures and the misses, and asks nobody for anything."""
    path = tmp_path / "report.html"
    fetch(page, "Download report.html").save_as(path)
    report, asked = open_page(), []
    report.on("request", lambda request: asked.append(request.url))
    report.goto(path.as_uri())
    expect(report.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    expect(report.get_by_text(name).first).to_be_visible()
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]


def test_own_folders_from_upload_to_export_and_over_a_restart(
    open_page, start, data, tmp_path, screenshot, go_to
):
    first = start()
    page = open_page(first.url)
    compute(page, data)
    name = open_miss(page, go_to)
    judge(page)
    screenshot(page, "journey_own_triage")
    go_to(page, "Export")
    rows = check_tables(page, name)
    check_detector(page, rows)
    check_report(page, open_page, name, tmp_path)
    address = page.url.split("?")[1]
    page.context.close()
    first.stop()
    again = open_page(f"{start().url}/triage?{address}")
    expect(again.get_by_text(re.compile("^1 of .* of this queue judged$"))).to_be_visible(timeout=LONG)
    expect(again.get_by_text("What the verdicts change")).to_be_visible()
