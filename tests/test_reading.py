import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnguide_core import archives, images
from nnguide_core.errors import ImageError
from nnguide_core.reading import check, check_at, location_of, path_at, read
from tests.zip_corpus import RawEntry, image_bytes, raw_zip


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw and not raw.startswith(b"/")))
def test_a_location_leads_back_to_its_path_and_is_always_text(raw):
    path = os.fsdecode(raw)
    location = location_of(path)
    location.encode("utf-8")
    assert path_at(location) == path


def test_an_image_is_read_from_a_folder_and_from_a_zip(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(image_bytes())
    (tmp_path / "x.zip").write_bytes(raw_zip([RawEntry(b"a.png", image_bytes())]))
    (member,) = archives.inspect(tmp_path / "x.zip").members
    assert read(tmp_path / "folder", "a.png") == read(tmp_path / "x.zip", member.location) == image_bytes()


@pytest.mark.parametrize("location", ["../secret", "link", "/" + b"../secret".hex()])
def test_no_location_leads_out_of_the_folder(tmp_path, location):
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").write_bytes(image_bytes())
    (tmp_path / "folder" / "link").symlink_to("../secret")
    with pytest.raises(ImageError, match=r"^Link leads out: "):
        read(tmp_path / "folder", location)


def test_checking_decodes_in_full(tmp_path):
    checked = check(image_bytes())
    assert checked.id == images.image_id(image_bytes())
    assert checked.look == images.look(images.decode(image_bytes()))
    (tmp_path / "cut.png").write_bytes(image_bytes()[:-30])
    with pytest.raises(ImageError, match=r"^Damaged PNG: "):
        check_at("cut.png", tmp_path)


def test_what_workers_import_starts_fast_since_it_needs_no_torch():
    script = "import sys, nnguide_core.reading; print([name for name in sys.modules if name == 'torch'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
