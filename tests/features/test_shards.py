"""Finished parts of an extraction: read back whole, or set aside."""

import logging
import os
from dataclasses import replace

import pytest
import torch

from nnguide_core.features.shards import Shard, ShardFolder
from nnguide_core.files import save_tensors

KEY = {"model": "m", "dataset": "d", "images": 8, "batch_size": 2}


def _shard(start, stop, failed=()):
    positions = torch.tensor([row for row in range(start, stop) if row not in failed])
    generator = torch.Generator().manual_seed(start)
    return Shard(
        start,
        stop,
        positions,
        torch.randn(len(positions), 3, generator=generator),
        torch.randn(len(positions), 2, generator=generator),
        dict.fromkeys(failed, "Not a file."),
    )


@pytest.fixture
def folder(tmp_path):
    return ShardFolder(tmp_path / "shards", KEY)


def _load(folder):
    return list(folder.load(width=3, class_count=2))


def _names(folder):
    return sorted(path.name for path in folder.folder.iterdir())


def test_shards_come_back_in_order_as_they_were_saved(folder):
    saved = [_shard(0, 4), _shard(4, 6, failed=[5]), _shard(6, 8, failed=[6, 7])]
    for shard in reversed(saved):
        folder.save(shard)
    for shard, found in zip(saved, _load(folder), strict=True):
        assert (shard.start, shard.stop, shard.failed) == (found.start, found.stop, found.failed)
        assert torch.equal(shard.positions, found.positions)
        assert torch.equal(shard.features, found.features)
        assert torch.equal(shard.logits, found.logits)


def test_notes_become_one_shard_and_a_kill_in_between_costs_nothing(folder):
    notes = [_shard(0, 2), _shard(2, 4), _shard(4, 6)]
    for note in notes:
        folder.note(note)
    assert [(found.start, found.stop) for found in _load(folder)] == [(0, 2), (2, 4), (4, 6)]
    folder.save(_shard(0, 4))  # killed before it took the notes over
    assert {found.start for found in _load(folder)} == {0, 2, 4}
    folder.save(_shard(0, 4), notes=[range(0, 2), range(2, 4)])
    assert _names(folder) == ["000000000-000000004.safetensors", "000000004-000000006.safetensors"]


def test_a_shard_of_one_note_takes_its_place(folder):
    folder.note(_shard(0, 2))
    folder.save(_shard(0, 2), notes=[range(0, 2)])
    assert _names(folder) == ["000000000-000000002.safetensors"]


def test_only_what_a_power_cut_must_not_lose_waits_for_the_disk(folder, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    folder.note(_shard(0, 2))
    assert synced == []
    folder.save(_shard(0, 2))
    assert len(synced) == 2  # the file and its folder


def test_a_folder_that_is_not_there_holds_nothing(folder):
    assert _load(folder) == []


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"dataset": "other"}, {"images": 9}, {"batch_size": 4}]
)
def test_a_shard_of_another_extraction_is_set_aside(folder, change, caplog):
    folder.save(_shard(0, 4))
    with caplog.at_level(logging.WARNING):
        assert _load(replace(folder, key=KEY | change)) == []
    assert _names(folder) == ["000000000-000000004.damaged"]
    assert "is of another model, dataset or batch size" in caplog.text


@pytest.mark.parametrize("place", [0, 200, -1])
def test_a_damaged_shard_is_set_aside_and_the_others_are_kept(folder, place):
    folder.save(_shard(0, 4))
    folder.save(_shard(4, 6))
    path = folder.folder / "000000000-000000004.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)
    assert [shard.start for shard in _load(folder)] == [4]
    assert _names(folder) == ["000000000-000000004.damaged", "000000004-000000006.safetensors"]


@pytest.mark.parametrize(
    "change",
    [
        {"start": 2},
        {"failed": {"3": "Not a file."}},
        {"failed": [3]},
        {"start": "0"},
        {"tensors": {"features": torch.zeros(4, 5)}},
        {"tensors": {"logits": torch.zeros(3, 2)}},
        {"tensors": {"more": torch.zeros(3)}},
    ],
)
def test_a_shard_whose_rows_are_not_those_it_names_is_set_aside(folder, change):
    shard = _shard(0, 4)
    tensors = {"positions": shard.positions, "features": shard.features, "logits": shard.logits}
    tensors |= change.pop("tensors", {})
    about = KEY | {"start": 0, "stop": 4, "failed": {}} | change
    save_tensors(folder.folder / "000000000-000000004.safetensors", tensors, about)
    assert _load(folder) == []
    assert _names(folder) == ["000000000-000000004.damaged"]
