"""The data page: the ways in, what they refuse, and what they make, run by Streamlit's own test driver."""

import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from PIL import Image
from streamlit.testing.v1 import AppTest

from nnguide_core.errors import StoreError
from nnguide_core.records import Role
from nnguide_core.store import Workspace

APP = Path(__file__).parents[2] / "app.py"
SECONDS = 240  # for a job on a busy machine


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photos of several sizes: ID in class folders, OOD flat with a broken file, a zip, an empty folder."""
    rng, root = np.random.default_rng(11), tmp_path_factory.mktemp("data")
    for label in ("cat", "frog"):
        for row in range(6):
            write(root / "test" / label / "deep" / f"{row}.png", picture(rng, 20 + row, 30))
    for row in range(5):
        write(root / "<b>street" / f"{row}.png", picture(rng, 40, 25))
    write(root / "<b>street" / "broken.jpg", b"\xff\xd8\xff")
    write(root / "<b>street" / "notes.txt", b"These are photos of a street.")
    for row in range(8):
        write(root / "strangers" / ("zebra", "yak")[row % 2] / f"{row}.png", picture(rng, 24, 24))
    with zipfile.ZipFile(root / "noise.zip", "w") as archive:
        for row in range(4):
            archive.writestr(f"noise/{row}.png", picture(rng, 16, 16))
    (root / "empty").mkdir()
    return root


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory, data):
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("home")
    patch.setenv("NNGUIDE_HOME", str(folder))
    patch.setenv("NNGUIDE_DATA_ROOTS", str(data))
    st.cache_resource.clear()
    yield folder
    st.cache_resource.clear()
    patch.undo()


@pytest.fixture
def app():
    return AppTest.from_file(str(APP), default_timeout=SECONDS).run()


def picture(rng, width, height):
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def go(app, way):
    app.segmented_control[0].set_value(way).run()
    assert not app.exception
    return app


def settle(app):
    """Wait for every job, then let the page take its result."""
    from views import resources

    for job in resources.jobs().all():
        assert job.wait(SECONDS)
    app.run()
    assert not app.exception
    return app


def path_box(app):
    return next(each for each in app.text_input if each.label.startswith("path of a folder"))


def type_path(app, path):
    path_box(app).set_value(str(path))
    next(each for each in app.button if each.label == "Add").click().run()


def add_path(app, path):
    type_path(app, path)
    return settle(app)


def press(app, label):
    next(each for each in app.button if each.label == label).click().run()
    return settle(app)


def number(app, label):
    return next(each for each in app.number_input if each.label == label)


def names(app):
    return [each.value for each in app.text_input if each.key and each.key.startswith("name.")]


def shown(app):
    return " ".join(each.value.replace("\\", "") for each in app.text)


def said(app):
    return " ".join(each.value.replace("\\", "") for each in (*app.error, *app.warning, *app.info))


def test_an_empty_choice_says_what_to_add_and_offers_nothing_to_compute(app):
    go(app, "Own images")
    assert "Add the images that the classifier was trained on" in said(app)
    assert "Compute" not in [each.label for each in app.button]


def test_a_path_outside_the_allowed_folders_is_refused_alike_whether_or_not_it_exists(app, data):
    go(app, "Own images")
    type_path(app, "/etc")
    there = said(app)
    type_path(app, "/etc-that-is-not-there")
    assert said(app) == there
    assert "not in a folder that may be read here" in there
    assert str(data) in there


def test_a_folder_without_images_is_refused_with_a_sentence(app, data):
    go(app, "Own images")
    add_path(app, data / "empty")
    assert "empty has no image that can be read (0 files found)" in said(app)
    assert names(app) == []


def test_own_folders_are_checked_computed_and_opened(app, data, home):
    go(app, "Own images")
    for name in ("test", "<b>street", "noise.zip"):
        add_path(app, data / name)
    assert names(app) == ["test", "<b>street", "noise"]
    assert path_box(app).value == ""
    assert [each.value for each in app.caption].count("role") == 1
    assert [each.value for each in app.selectbox if str(each.key).startswith("role.")] == ["id", "ood", "ood"]
    press(app, "Check")
    tables = [table.value for table in app.dataframe]
    counts = next(table for table in tables if "files found" in table)
    assert counts["files found"].tolist() == [6, 6, 7, 4]
    assert counts["images read"].tolist() == [6, 6, 5, 4]
    assert counts["not an image"].tolist() == [0, 0, 1, 0]
    assert counts["unreadable"].tolist() == [0, 0, 1, 0]
    assert any("broken.jpg" in table["file"].tolist() for table in tables if "reason" in table)
    assert any("What the network really sees" in each.value for each in app.text)
    press(app, "Compute")
    assert app.segmented_control[0].value == "Open run"
    assert any("<b>street (5)" in each.value and "model demo" in each.value for each in app.text)
    runs = Workspace(home).runs()
    assert [each.name for each in runs[0].queries] == ["test ID", "<b>street", "noise"]


def test_a_computed_run_is_opened_without_computing_it_again(app, data, monkeypatch):
    from views import resources

    def again(*_, **__):
        raise AssertionError("computed twice")

    go(app, "Own images")
    add_path(app, data / "test")
    monkeypatch.setattr(resources, "evaluate", again)
    press(app, "Compute")
    assert not app.error
    assert any("queries test ID" in each.value for each in app.text)


def test_of_two_jobs_that_finish_together_neither_result_is_lost(app, data):
    go(app, "Own images")
    add_path(app, data / "test")
    next(each for each in app.button if each.label == "Compute").click().run()
    type_path(app, data / "noise.zip")
    settle(app)
    assert app.segmented_control[0].value == "Open run"
    assert any("queries test ID" in each.value for each in app.text)
    go(app, "Own images")
    assert names(app) == ["test", "noise"]


def test_what_is_changed_right_before_a_check_is_checked(app, data):
    from views import resources

    go(app, "Own images")
    add_path(app, data / "test")
    next(each for each in app.text_input if str(each.key).startswith("name.")).set_value("clothes")
    app.button(key="check").click().run()
    job = [each for each in resources.jobs().all() if each.about["kind"] == "check"][-1]
    assert [each["name"] for each in job.about["plan"]["datasets"]] == ["clothes"]
    settle(app)


def test_a_finished_run_is_offered_where_the_form_has_changed_since(app, data):
    go(app, "Own images")
    add_path(app, data / "test")
    next(each for each in app.button if each.label == "Compute").click().run()
    number(app, "seed of every draw").set_value(3).run()
    settle(app)
    assert app.segmented_control[0].value == "Own images"
    assert number(app, "seed of every draw").value == 3
    assert any("Computing test with demo: finished." in each.value for each in app.text)
    press(app, "Use the result")
    assert app.segmented_control[0].value == "Open run"
    assert any("queries test ID" in each.value for each in app.text)


def test_a_bank_of_classes_that_the_model_does_not_know_is_an_error_in_the_check_and_on_the_run(app, data):
    go(app, "Own images")
    add_path(app, data / "strangers")
    press(app, "Check")
    asked = "the model knows none of its 2 classes (yak, zebra). Is this the right model"
    assert sum(asked in each.value.replace("\\", "") for each in app.error) == 2
    press(app, "Compute")
    assert app.segmented_control[0].value == "Open run"
    assert sum(asked in each.value.replace("\\", "") for each in app.error) == 2


def test_copies_of_bank_images_among_the_queries_are_an_error_in_the_check(app, data):
    for row in range(6):
        write(data / "copies" / f"{row}.png", (data / "test" / "cat" / "deep" / f"{row}.png").read_bytes())
    go(app, "Own images")
    add_path(app, data / "test")
    add_path(app, data / "copies")
    press(app, "Check")
    errors = [each.value.replace("\\", "") for each in app.error]
    assert any("Both in the bank and among the queries: 3 images." in each for each in errors)
    titles = [each.label for each in app.expander]
    assert "Leaks: in the bank and among the queries (3)" in titles
    assert "Copies between query datasets (3)" in titles


def test_what_a_form_holds_is_kept_when_its_page_is_left(app):
    go(app, "Own images")
    number(app, "seed of every draw").set_value(7)
    app.radio[0].set_value("cosine")
    app.run()
    app.switch_page("pages/export.py").run()
    assert not any(each.label == "seed of every draw" for each in app.number_input)
    app.switch_page("pages/data.py").run()
    assert number(app, "seed of every draw").value == 7
    assert app.radio[0].value == "cosine"
    go(app, "Own features")
    assert number(app, "seed of every draw").value == 7


def reloaded(app):
    """Return what a new session shows at the address of another."""
    app.switch_page(
        "app.py"
    ).run()  # which writes the address: after its first run the driver runs a page alone
    fresh = AppTest.from_file(str(APP), default_timeout=SECONDS)
    fresh.query_params.update(app.query_params)
    fresh.run()
    assert not fresh.exception
    return fresh


def test_a_reload_finds_the_draft_of_a_new_run(app, data):
    assert "draft" not in app.query_params
    go(app, "Own images")
    add_path(app, data / "test")
    next(each for each in app.text_input if str(each.key).startswith("name.")).set_value("clothes").run()
    next(each for each in app.selectbox if str(each.key).startswith("role.")).set_value(Role.BANK).run()
    number(app, "seed of every draw").set_value(5)
    app.radio[0].set_value("cosine")
    next(each for each in app.segmented_control if each.label == "Model").set_value("own checkpoint").run()
    next(each for each in app.text_area if each.label.startswith("class names")).set_value("cat\nfrog")
    app.file_uploader[0].upload("net.pth", b"weights", "application/octet-stream").run()
    app.run()
    fresh = reloaded(app)
    assert fresh.segmented_control[0].value == "Own images"
    assert names(fresh) == ["clothes"]
    assert [each.value for each in fresh.selectbox if str(each.key).startswith("role.")] == ["bank"]
    assert (number(fresh, "seed of every draw").value, fresh.radio[0].value) == (5, "cosine")
    assert fresh.text_area[0].value == "cat\nfrog"
    assert any("The uploaded net.pth is used." in each.value.replace("\\", "") for each in fresh.text)
    assert fresh.session_state["nnguide.session"] == app.session_state["nnguide.session"]
    number(fresh, "seed of every draw").set_value(6).run()
    assert number(reloaded(fresh), "seed of every draw").value == 6


def test_a_reload_of_another_page_keeps_the_session_with_its_uploads_and_the_forms(app, monkeypatch):
    from views import resources

    kept, uploads = [], resources.uploads
    go(app, "Own images")
    number(app, "seed of every draw").set_value(9)
    next(each for each in app.segmented_control if each.label == "Model").set_value("own checkpoint").run()
    app.file_uploader[0].upload("net.pth", b"weights", "application/octet-stream").run()
    app.switch_page("app.py").run()
    fresh = AppTest.from_file(str(APP), default_timeout=SECONDS)
    fresh.query_params.update(app.query_params)
    monkeypatch.setattr(resources, "uploads", lambda session: kept.append(session) or uploads(session))
    fresh.switch_page("pages/export.py").run()
    assert not fresh.exception
    session = app.session_state["nnguide.session"]
    assert (fresh.session_state["nnguide.session"], kept) == (session, [session])
    fresh.switch_page("pages/data.py").run()
    assert number(fresh, "seed of every draw").value == 9
    assert any("The uploaded net.pth is used." in each.value.replace("\\", "") for each in fresh.text)


def test_a_reload_finds_the_device_the_offered_result_and_what_was_said_of_jobs(app, data):
    from views import resources

    go(app, "Own images")
    app.selectbox(key="field.device").set_value("cpu").run()
    job = resources.jobs().start("offered", "Computing all", lambda _: "", about={"kind": "compute"})
    assert job.wait(SECONDS)
    app.session_state["nnguide.page.watched_jobs"] = ("offered",)
    add_path(app, data / "empty")
    assert "Computing all: finished." in shown(app)
    assert "has no image that can be read" in said(app)
    fresh = reloaded(app)
    assert fresh.selectbox(key="field.device").value == "cpu"
    assert "Computing all: finished." in shown(fresh)
    assert said(fresh).count("has no image that can be read") == 1
    app.selectbox(key="field.device").set_value("auto").run()


def test_a_device_that_is_gone_after_a_reload_is_left_to_choose_anew():
    from views import resources

    content = {"fields": {"data_way": "Own images", "device": "cuda:7"}, "kept": {}, "checkpoint": None}
    content |= {"datasets": [], "files": [], "session": "a" * 32, "saved": time.time()}
    resources.workspace().save_setting(f"draft.{'c' * 32}", content)
    fresh = AppTest.from_file(str(APP), default_timeout=SECONDS)
    fresh.query_params["draft"] = "c" * 32
    fresh.run()
    assert not fresh.exception
    assert fresh.selectbox(key="field.device").value == "auto"


def test_a_draft_that_could_not_be_read_is_not_written_over(monkeypatch):
    from views import resources

    content = {"fields": {"data_way": "Own images", "bank.seed": 8}, "kept": {}, "checkpoint": None}
    content |= {"datasets": [], "files": [], "session": "a" * 32, "saved": time.time()}
    resources.workspace().save_setting(f"draft.{'b' * 32}", content)

    def locked(*_, **__):
        raise StoreError("The workspace's file could not be used: another process kept it locked.")

    fresh = AppTest.from_file(str(APP), default_timeout=SECONDS)
    fresh.query_params["draft"] = "b" * 32
    with monkeypatch.context() as patch:
        patch.setattr(resources.workspace(), "setting", locked)
        assert "kept it locked" in said(fresh.run())
    fresh.run()  # of the page alone, by the driver; a server runs the app each time
    fresh.switch_page("app.py").run()
    assert fresh.segmented_control[0].value == "Own images"
    assert number(fresh, "seed of every draw").value == 8


def test_a_reload_finds_the_draft_of_features_files(app, data):
    go(app, "Own features")
    (data / "kept.npz").write_bytes(b"looked at when it is computed")
    box = next(each for each in app.text_input if each.label == "path of a features file")
    box.set_value(str(data / "kept.npz"))
    next(each for each in app.button if each.label == "Add").click().run()
    fresh = reloaded(app)
    assert fresh.segmented_control[0].value == "Own features"
    assert [each.value for each in fresh.text_input if str(each.key).startswith("own.name.")] == ["kept"]


def test_a_refused_features_file_is_said_and_the_others_stay_and_are_kept(app, data, monkeypatch):
    monkeypatch.setenv("NNGUIDE_UPLOAD_LIMIT", "10")
    go(app, "Own features")
    (data / "first.npz").write_bytes(b"looked at when it is computed")
    for path in (data / "first.npz", "/etc/passwd"):
        box = next(each for each in app.text_input if each.label == "path of a features file")
        box.set_value(str(path))
        next(each for each in app.button if each.label == "Add").click().run()
    assert "may be read here" in said(app)
    app.file_uploader[0].upload("second.npz", b"x" * 11, "application/octet-stream").run()
    assert "This session may upload 0 MB" in said(app)
    for each in (app, reloaded(app)):
        assert [box.value for box in each.text_input if str(box.key).startswith("own.name.")] == ["first"]


@pytest.mark.parametrize("draft", ["f" * 32, "nonsense"])
def test_an_address_with_an_unknown_draft_shows_empty_forms(draft):
    fresh = AppTest.from_file(str(APP), default_timeout=SECONDS)
    fresh.query_params["draft"] = draft
    go(fresh.run(), "Own images")
    assert names(fresh) == []
    known = draft != "f" * 32
    assert ("no longer kept" not in said(fresh)) == known


def test_an_upload_over_the_allowance_is_refused_and_nothing_is_kept(app, monkeypatch):
    monkeypatch.setenv("NNGUIDE_UPLOAD_LIMIT", "10")
    go(app, "Own images")
    app.segmented_control[1].set_value("upload files or zips").run()
    app.file_uploader[0].upload("a.png", b"x" * 11, "image/png").run()
    assert "This session may upload 0 MB" in said(app)
    assert names(app) == []


def test_uploaded_images_become_a_dataset_and_are_freed_with_the_session(app, home):
    from views import resources

    go(app, "Own images")
    app.segmented_control[1].set_value("upload files or zips").run()
    app.file_uploader[0].upload("a.png", picture(np.random.default_rng(1), 9, 9), "image/png").run()
    settle(app)
    assert names(app) == ["uploaded images"]
    session = app.session_state["nnguide.session"]  # other tests' sessions go on beside it
    blobs = [path for path in (home / "blobs" / session).rglob("*") if path.is_file()]
    assert len(blobs) == 1
    from nnguide_core.evaluation.uploads import SessionUploads

    SessionUploads(resources.workspace(), session).release()
    assert not (home / "blobs" / session).exists()


def test_earlier_runs_can_be_opened_again_even_where_the_address_names_an_unknown_one(app):
    assert not app.error
    fresh = AppTest.from_file(str(APP), default_timeout=SECONDS)
    fresh.query_params["run"] = "f" * 16
    fresh.run()
    assert "is not in this workspace" in said(fresh)
    go(fresh, "Earlier runs")
    next(each for each in fresh.button if str(each.key).startswith("open.")).click().run()
    assert "is not in this workspace" not in said(fresh)
    assert any("model demo" in each.value and "k = " in each.value for each in fresh.text)


def test_features_files_are_computed_on_the_device_that_was_chosen_and_opened(app, data, monkeypatch):
    from views import features_form

    asked, answer = [], features_form.answer
    monkeypatch.setattr(
        features_form, "answer", lambda *a, device: asked.append(device) or answer(*a, device=device)
    )
    rng = np.random.default_rng(2)
    go(app, "Own features")
    for name in ("train", "test", "street"):
        arrays = {
            "features": rng.random((30, 5), dtype=np.float32),
            "logits": rng.random((30, 3), dtype=np.float32),
        }
        np.savez(data / f"{name}.npz", **arrays)
        box = next(each for each in app.text_input if each.label == "path of a features file")
        box.set_value(str(data / f"{name}.npz"))
        next(each for each in app.button if each.label == "Add").click().run()
    next(each for each in app.selectbox if each.label == "Device").select("cpu").run()
    fresh = reloaded(app)
    assert next(each for each in fresh.selectbox if each.label == "Device").value == "cpu"
    press(app, "Compute")
    assert asked == ["cpu"]
    assert not app.error
    assert any("model own features" in each.value for each in app.text)


def test_a_file_that_holds_no_features_is_refused_with_a_sentence(app, data):
    (data / "bad.npz").write_bytes(b"nothing")
    go(app, "Own features")
    box = next(each for each in app.text_input if each.label == "path of a features file")
    box.set_value(str(data / "bad.npz"))
    next(each for each in app.button if each.label == "Add").click().run()
    press(app, "Compute")
    assert "neither a safetensors nor an npz file" in said(app)
