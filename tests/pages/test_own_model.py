"""The way through the pages with somebody's own checkpoint and photos, beside the command line's numbers.

Add folders, name a checkpoint, check, compute, read the scores, and open them again after a restart.
"""

import contextlib
import io
import json
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from nnguide_core.cli import main
from tests.whole_way import CLASSES, FAMILIES, checkpoint, write_photos

APP = Path(__file__).parents[2] / "app.py"
SECONDS = 240  # for a job on a busy machine
FAMILY = FAMILIES["vit"]
ROLES = {"train": "bank", "asked/val": "id", "asked/strange": "ood", "asked/mixed": "ood"}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with photos and own.pth, as somebody has them."""
    folder = tmp_path_factory.mktemp("own")
    write_photos(folder, FAMILY.per_class)
    checkpoint(FAMILY, folder)
    return folder


@pytest.fixture(scope="module")
def told(own, tmp_path_factory):
    """What the command line prints for the same question, from a workspace of its own."""
    (own / "classes.txt").write_text("\n".join(CLASSES))
    words = ["evaluate", "--model", FAMILY.model, "--checkpoint", own / "own.pth", "--json", "--quiet"]
    words += ["--classes", own / "classes.txt", "--bank", own / "train", "--id", own / "asked" / "val"]
    words += ["--ood", own / "asked" / "strange", own / "asked" / "mixed"]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("NNGUIDE_HOME", str(tmp_path_factory.mktemp("command line")))
        assert main([str(each) for each in words]) == 0
    return json.loads(printed.getvalue())


@pytest.fixture(scope="module", autouse=True)
def home(own, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNGUIDE_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("NNGUIDE_DATA_ROOTS", str(own))
        st.cache_resource.clear()
        yield
        st.cache_resource.clear()


@pytest.fixture(scope="module")
def run(own):
    """Compute the run on the data page; return its address."""
    app = AppTest.from_file(str(APP), default_timeout=SECONDS).run()
    app.segmented_control[0].set_value("Own images").run()
    for name in ROLES:
        _box(app, "path of a folder").set_value(str(own / name))
        _press(app, "Add")
    for each, role in zip(_roles(app), ROLES.values(), strict=True):
        each.set_value(role)
    app.run()
    next(each for each in app.segmented_control if each.label == "Model").set_value("own checkpoint").run()
    _box(app, "path of the checkpoint").set_value(str(own / "own.pth"))
    _box(app, "architecture").set_value(FAMILY.model)
    app.text_area[0].set_value("\n".join(CLASSES))
    app.run()
    _press(app, "Check")
    assert not app.error
    _press(app, "Compute")
    assert app.segmented_control[0].value == "Open run"
    app.switch_page("app.py").run()  # writes the address
    return dict(app.query_params)["run"]


def _box(app, label):
    return next(each for each in app.text_input if each.label.startswith(label))


def _roles(app):
    return [each for each in app.selectbox if str(each.key).startswith("role.")]


def _press(app, label):
    from views import resources

    next(each for each in app.button if each.label == label).click().run()
    for job in resources.jobs().all():
        assert job.wait(SECONDS)
    app.run()
    assert not app.exception


def _scores(run):
    """Return what the scores page shows of every detector on every OOD set, and its sentences."""
    app = AppTest.from_file(str(APP), default_timeout=SECONDS)
    app.query_params["run"] = run
    app.switch_page("pages/scores.py").run()
    assert not app.exception
    assert not app.error
    tables = [each.value for each in app.dataframe if "AUROC" in list(each.value.columns)]
    rows = [row for table in tables for row in table.to_dict("records")]
    words = " ".join(str(each.value) for kind in ("text", "caption", "warning") for each in app.get(kind))
    return rows, words


def test_the_pages_compute_what_the_command_line_prints(run, told):
    rows, words = _scores(run)
    shown = {(row["detector"], row["AUROC"]) for row in rows}
    assert shown == {(each["detector"], f"{each['auroc']['estimate']:.4f}") for each in told["metrics"]}
    assert {"ViM", "Mahalanobis"} <= {row["detector"] for row in rows}
    assert not told["without"]
    assert "mixed (6)" in words


def test_a_restart_of_the_server_changes_no_number(run):
    before, _ = _scores(run)
    from views import resources

    resources.jobs().close()
    resources._opened.cache_clear()
    resources._HELD.clear()
    st.cache_resource.clear()
    after, _ = _scores(run)
    assert after == before
