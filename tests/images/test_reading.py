import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnguide_core.archives import zips
from nnguide_core.errors import ImageError
from nnguide_core.images import untrusted
from nnguide_core.images.reading import check, check_at, read, why_gone
from tests.zip_corpus import RawEntry, image_bytes, raw_zip


def test_an_image_is_read_from_a_folder_and_from_a_zip(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(image_bytes())
    (tmp_path / "x.zip").write_bytes(raw_zip([RawEntry(b"a.png", image_bytes())]))
    (member,) = zips.inspect(tmp_path / "x.zip").members
    assert read(tmp_path / "folder", "a.png") == read(tmp_path / "x.zip", member.location) == image_bytes()


@pytest.mark.parametrize("location", ["../secret", "link", "/" + b"../secret".hex()])
def test_no_location_leads_out_of_the_folder(tmp_path, location):
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").write_bytes(image_bytes())
    (tmp_path / "folder" / "link").symlink_to("../secret")
    with pytest.raises(ImageError, match=r"^Link leads out: "):
        read(tmp_path / "folder", location)


@pytest.mark.parametrize("error", [errno.EACCES, errno.ESTALE, errno.ENOTCONN])
def test_an_image_on_a_lost_mount_is_skipped_with_the_reason(tmp_path, monkeypatch, error):
    def lost(*_, **__):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(Path, "is_dir", lost)
    with pytest.raises(ImageError, match=f"^Not readable: .* is gone .{os.strerror(error)}"):
        read(tmp_path, "a.png")
    assert why_gone(tmp_path) == os.strerror(error)


def test_checking_decodes_in_full(tmp_path):
    checked = check(image_bytes())
    assert checked.id == untrusted.image_id(image_bytes())
    assert checked.look == untrusted.look(untrusted.decode(image_bytes()))
    (tmp_path / "cut.png").write_bytes(image_bytes()[:-30])
    with pytest.raises(ImageError, match=r"^Damaged PNG: "):
        check_at("cut.png", tmp_path)


def test_what_workers_import_starts_fast_since_it_needs_no_torch():
    script = "import sys, nnguide_core.images.reading; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
