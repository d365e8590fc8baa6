"""Thumbnails: a cache that never fails its user."""

import os
import sqlite3

import pytest

from nnguide_core.store import thumbnails
from nnguide_core.store.thumbnails import Thumbnails
from tests.disks import small_disk


def test_pictures_come_back_by_image_and_side(tmp_path):
    cache = Thumbnails(tmp_path / "t.sqlite")
    cache.put({"a": b"small a", "b": b"small b"}, side=96)
    cache.put({"a": b"large a"}, side=256)
    assert cache.get(["a", "b", "c"], 96) == {"a": b"small a", "b": b"small b"}
    assert cache.get(["a", "b"], 256) == {"a": b"large a"}
    assert Thumbnails(tmp_path / "t.sqlite").get(["b"], 96) == {"b": b"small b"}
    cache.clear()
    assert cache.get(["a"], 96) == {}


def test_a_gallery_of_thousands_is_one_question(tmp_path):
    cache = Thumbnails(tmp_path / "t.sqlite")
    pictures = {f"{number:064x}": b"x" for number in range(5000)}
    cache.put(pictures, 96)
    assert cache.get(pictures, 96) == pictures
    assert cache.size() > 5000


def test_a_damaged_cache_is_made_anew(tmp_path, caplog):
    cache = Thumbnails(tmp_path / "t.sqlite")
    cache.put({"a": b"x"}, 96)
    cache.close()
    (tmp_path / "t.sqlite").write_bytes(os.urandom(9000))
    cache = Thumbnails(tmp_path / "t.sqlite")
    assert cache.get(["a"], 96) == {}
    cache.put({"a": b"y"}, 96)
    assert cache.get(["a"], 96) == {"a": b"y"}
    assert "made t.sqlite anew: file is not a database" in caplog.text


def test_a_cache_over_its_limit_starts_afresh(tmp_path, monkeypatch):
    cache = Thumbnails(tmp_path / "t.sqlite")
    cache.put({"a": bytes(100_000)}, 96)
    monkeypatch.setattr(thumbnails, "_LIMIT", 50_000)
    cache.put({"b": b"x"}, 96)
    assert cache.get(["a", "b"], 96) == {"b": b"x"}


def test_a_full_disk_costs_the_cache_a_picture_and_nobody_an_error(tmp_path, caplog):
    with small_disk(tmp_path / "small", megabytes=1) as folder:
        cache = Thumbnails(folder / "t.sqlite")
        cache.put({"a": b"x"}, 96)
        cache.put({"b": bytes(3_000_000)}, 96)
        assert cache.get(["a", "b"], 96) == {"a": b"x"}
        assert "1 thumbnails are not kept" in caplog.text


def of_a_newer_version(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")


def without_tables(path):
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE thumbnails")


def a_folder(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


def garbage(path):
    path.write_bytes(os.urandom(9000))


@pytest.mark.parametrize("spoil", [of_a_newer_version, without_tables, a_folder, garbage])
def test_a_cache_that_cannot_be_used_is_made_anew_at_the_start(tmp_path, spoil):
    cache = Thumbnails(tmp_path / "t.sqlite")
    cache.put({"a": b"x"}, 96)
    cache.close()
    spoil(tmp_path / "t.sqlite")
    cache = Thumbnails(tmp_path / "t.sqlite")
    cache.put({"b": b"y"}, 96)
    assert cache.get(["a", "b"], 96) == {"b": b"y"}


@pytest.mark.parametrize("spoil", [without_tables, a_folder, garbage])
def test_a_cache_that_is_spoilt_while_it_is_used_costs_only_its_pictures(tmp_path, spoil):
    cache = Thumbnails(tmp_path / "t.sqlite")
    cache.put({"a": b"x"}, 96)
    cache.close()
    spoil(tmp_path / "t.sqlite")
    assert cache.get(["a"], 96) == {}
    cache.put({"b": b"y"}, 96)
    assert cache.get(["a", "b"], 96) == {"b": b"y"}
