"""Finished parts of an extraction: read back whole, or set aside."""

import logging
from dataclasses import replace

import pytest
import torch

from nnguide_core.feature_shards import Shard, ShardFolder
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
