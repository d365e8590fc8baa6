"""A run with hostile names only: on no page, hover, menu, error, export or report do they become more."""

import pytest

from hardening.hostile import CODE, MARKUP, make_workspace, write_images
from hardening.injection import walk


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    run = make_workspace(folder / "workspace", folder / "images")
    upload = write_images(folder / "uploads" / f"{CODE} {MARKUP[0].replace('/', ' ')}", 3)
    return folder, run, upload


def test_hostile_names_stay_names_everywhere(open_page, server, hostile):
    folder, run, upload = hostile
    env = {"NNGUIDE_HOME": str(folder / "workspace"), "NNGUIDE_DATA_ROOTS": str(folder / "images")}
    found = walk(open_page(), server("app.py", env).url, run.question, upload, folder, steps=3)
    assert found.views > 40
    assert found.places > 500
    assert found.unseen == []
    assert found.marks == 0
    assert found.wrong == []
    assert found.requests == []
    assert found.formulas == []
