"""Tensors by kind and fingerprint: found again, or set aside with a note."""

import json
import os

import pytest
import torch

from nnguide_core.files import save_tensors
from nnguide_core.records import fingerprint
from nnguide_core.store.tensors import TensorFiles, list_set_aside, set_aside

KEY, OTHER = fingerprint("one"), fingerprint("two")


@pytest.fixture
def files(tmp_path):
    return TensorFiles(tmp_path / "tensors", tmp_path / "aside")


def path_of(files, key=KEY):
    return files.folder / "banks" / f"{key}.safetensors"


def test_tensors_are_found_under_their_kind_and_key_alone(files):
    files.save("banks", KEY, {"rows": torch.ones(3)}, {"k": 10, "sha256": "mine"}, needs=["d" * 64])
    tensors, about = files.load("banks", KEY)
    assert tensors["rows"].tolist() == [1, 1, 1]
    assert about == {"k": 10, "sha256": "mine"}
    assert files.needs("banks", KEY) == {"d" * 64}
    assert files.has("banks", KEY)
    assert files.load("banks", OTHER) is None
    assert files.load("maps", KEY) is None
    assert not files.has("maps", KEY)
    files.remove("banks", KEY)
    files.remove("banks", KEY)
    assert files.load("banks", KEY) is None


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("../banks", KEY),
        ("Banks", KEY),
        ("", KEY),
        ("banks", ""),
        ("banks", "../" * 20 + "etc/passwd"),
        ("banks", KEY.upper()),
        ("banks", KEY + "\n"),
        ("banks\n", KEY),
        ("banks", KEY[:-1]),
    ],
)
def test_a_kind_or_key_that_could_lead_elsewhere_is_refused(files, kind, key):
    for ask in (files.load, files.has, files.remove, files.needs):
        with pytest.raises(ValueError, match=r"A (kind|key) is"):
            ask(kind, key)


def damage(path):
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def empty(path):
    path.write_bytes(b"")


def make_foreign(path):
    save_tensors(path, {"rows": torch.ones(3)}, {"from": "a detector file"})


def make_directory(path):
    path.unlink()
    path.mkdir()


def make_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [damage, truncate, empty, make_foreign, make_directory, make_pipe])
def test_what_is_damaged_or_foreign_is_set_aside_with_a_note_and_counts_as_absent(
    files, tmp_path, spoil, caplog
):
    files.save("banks", KEY, {"rows": torch.ones(3)}, {}, needs=[])
    spoil(path_of(files))
    assert files.load("banks", KEY) is None
    assert not path_of(files).exists()
    (aside,) = list_set_aside(tmp_path / "aside")
    assert aside.was == f"banks/{KEY}.safetensors"
    assert aside.reason
    assert aside.path.exists()
    assert f"set aside banks/{KEY}.safetensors" in caplog.text
    files.save("banks", KEY, {"rows": torch.zeros(2)}, {}, needs=[])
    assert files.load("banks", KEY)[0]["rows"].tolist() == [0, 0]


def test_a_file_copied_from_another_key_or_kind_is_set_aside(files, tmp_path):
    files.save("banks", KEY, {"rows": torch.ones(3)}, {}, needs=[])
    path_of(files).rename(path_of(files, OTHER))
    assert files.load("banks", OTHER) is None
    files.save("banks", KEY, {"rows": torch.ones(3)}, {}, needs=["a"])
    (files.folder / "maps").mkdir()
    path_of(files).rename(files.folder / "maps" / path_of(files).name)
    assert files.needs("maps", KEY) == frozenset()
    reasons = {aside.reason for aside in list_set_aside(tmp_path / "aside")}
    assert reasons == {"It was moved or copied here from another place in a workspace."}
    assert len(list_set_aside(tmp_path / "aside")) == 2


def test_only_files_with_a_kind_and_a_key_for_a_name_are_listed(files):
    files.save("banks", KEY, {}, {}, needs=[])
    files.save("maps", OTHER, {}, {}, needs=[])
    (files.folder / "banks" / "notes.txt").write_text("mine")
    (files.folder / "banks" / "short.safetensors").write_text("mine")
    assert [(kind, key) for kind, key, _ in files.all()] == [("banks", KEY), ("maps", OTHER)]


def test_folders_and_files_are_the_users_alone(files):
    files.save("banks", KEY, {}, {}, needs=[])
    assert path_of(files).stat().st_mode & 0o777 == 0o600
    assert path_of(files).parent.stat().st_mode & 0o777 == 0o700


def test_setting_aside_what_another_has_set_aside_already_is_no_error(tmp_path):
    assert set_aside(tmp_path / "gone", tmp_path / "aside", "damaged") is None
    assert list_set_aside(tmp_path / "aside") == ()


def test_notes_that_cannot_be_read_are_left_out(tmp_path, caplog):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[]")
    (tmp_path / "c.json").write_text(
        json.dumps({"was": "x", "reason": "y", "when": "2026-01-01T00:00:00+00:00"})
    )
    assert [aside.was for aside in list_set_aside(tmp_path)] == ["x"]
    assert caplog.text.count("left out an unreadable note") == 2
