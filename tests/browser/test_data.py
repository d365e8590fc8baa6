"""The data page in a real browser: own folders and a zip are uploaded, checked, computed and looked at."""

import io
import re
import zipfile
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from nnguide_core.demo import demo_spec
from nnguide_core.evaluation.plans import Chosen, Plan
from nnguide_core.records import Role
from nnguide_core.store import Workspace

LONG = 150_000  # ms that a job may take on a busy machine


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """ID photos in class folders, a flat and a nested OOD folder with odd names and broken files, a zip."""
    rng, root = np.random.default_rng(4), tmp_path_factory.mktemp("photos")
    for row in range(12):
        write(root / "test" / ("cat", "frog")[row % 2] / f"{row}.png", picture(rng, 30 + row, 40))
    for row in range(6):
        write(root / "street" / f"<img src=x onerror=alert(1)>{row}.png", picture(rng, 200, 90))
        write(root / "nested" / "a" / f"b{row % 2}" / f"{row}.png", picture(rng, 50, 70))
    write(root / "street" / "broken.jpg", b"\xff\xd8\xff")
    with zipfile.ZipFile(root / "zipped.zip", "w") as archive:
        for row in range(5):
            archive.writestr(f"z/{row}.png", picture(rng, 32, 32))
        archive.writestr("z/bad.png", b"no image")
    for row in range(640):
        write(root / "many" / f"{row}.png", picture(rng, 4, 4))
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def url(server, data, home):
    return server("app.py", {"NNGUIDE_DATA_ROOTS": str(data), "NNGUIDE_HOME": str(home)}).url


def picture(rng, width, height):
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def opened(open_page, url):
    page = open_page(url)
    page.get_by_text("Own images", exact=True).click(timeout=LONG)
    return page


def add(page, path, counts):
    box = page.get_by_label("path of a folder")
    box.fill(str(path))
    box.press("Enter")
    expect(page.get_by_text(counts)).to_be_visible(timeout=LONG)


@contextmanager
def another_process_computes(home, name):
    """Hold what another server would hold that computes this dataset with the demo classifier."""
    workspace = Workspace(home)
    kept = next(each for each in workspace.datasets() if each.name == name)
    dataset = workspace.dataset(kept.fingerprint, name=kept.name, role=kept.role)
    plan = Plan(demo_spec(), (replace(Chosen.of(dataset), role=Role.ID),))
    with workspace.lock(f"job compute {plan.key}"):
        yield


def upload(page, way, path, counts):
    page.get_by_text(way, exact=True).click()
    kind = "input[type=file][webkitdirectory]" if path.is_dir() else "input[type=file]:not([webkitdirectory])"
    page.locator(kind).first.set_input_files(path)
    expect(page.get_by_text(counts)).to_be_visible(timeout=LONG)


def test_two_uploaded_folders_and_a_zip_are_computed_and_looked_at(open_page, url, data, screenshot):
    page = opened(open_page, url)
    add(page, data / "test", "images: 12, classes: 2")
    upload(page, "upload a folder", data / "street", "images: 6, no classes, 1 skipped")
    upload(page, "upload a folder", data / "nested", "images: 6, classes: 1")
    upload(page, "upload files or zips", data / "zipped.zip", "images: 5, no classes, 1 skipped")
    page.get_by_role("button", name="Check", exact=True).click()
    expect(page.get_by_text("What the network really sees")).to_be_visible(timeout=LONG)
    page.get_by_text("What the network really sees").scroll_into_view_if_needed()
    screenshot(page, "data_checked")
    page.get_by_role("button", name="Compute", exact=True).click()
    expect(page.get_by_text("Choose an image above")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("street (6), nested (6), zipped (5)")).to_be_visible()
    screenshot(page, "data_own_run")


def test_a_job_is_found_again_after_a_refresh_and_can_be_cancelled(open_page, url, home, data):
    page = opened(open_page, url)
    add(page, data / "test", "images: 12, classes: 2")
    with another_process_computes(home, "test"):
        page.get_by_role("button", name="Compute", exact=True).click()
        waits = page.get_by_text("Computing test with demo: Another process is doing this already")
        expect(waits).to_be_visible(timeout=LONG)
        page.reload()
        expect(waits).to_be_visible(timeout=LONG)
        page.get_by_role("button", name="Cancel").click()
        expect(waits).to_be_hidden(timeout=LONG)


def test_a_running_job_says_how_far_it_is_and_stops(open_page, url, data, screenshot):
    page = opened(open_page, url)
    add(page, data / "many", "images: 640, no classes")
    page.get_by_role("combobox", name="role").click()
    page.get_by_role("option", name="ID test").click()
    page.get_by_text("torchvision", exact=True).click()  # a ResNet-50: minutes of work here
    page.get_by_role("combobox", name="weights").click()
    page.get_by_role("option", name="random weights").click()
    page.get_by_role("button", name="Compute", exact=True).click()
    pace = page.get_by_text(re.compile(r"[1-9][\d,]* of 640 images, \d+ per second, .+ left"))
    expect(pace).to_be_visible(timeout=LONG)
    screenshot(page, "data_job")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("stopped. What was finished is kept")).to_be_visible(timeout=LONG)
