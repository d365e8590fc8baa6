"""Files: whole or absent, never silently wrong, and never more memory than they are worth."""

import errno
import hashlib
import json
import os
import resource
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file
from torch import Tensor

from nnguide_core import files
from nnguide_core.errors import StoreError
from nnguide_core.files import (
    load_tensors,
    open_atomic,
    read_header,
    remove_parts,
    save_tensors,
    write_atomic,
)
from tests.disks import small_disk

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def random_tensor(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 50
    return values > 0 if dtype == torch.bool else values.abs().to(dtype)


def sealed(
    entries: dict[str, Any], data: bytes, about: Any = None, checksums: dict[str, str] | None = None
) -> bytes:
    """A file as save_tensors would write it, with whatever lies the header is given."""
    description = {"sha256": checksums or {}} if about is None else about
    header = {"__metadata__": {"nnguide": json.dumps(description)}, **entries}
    header["__metadata__"]["seal"] = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (7,), (3, 4), (2, 3, 4)], ids=str)
def test_every_type_and_shape_comes_back_equal_and_is_what_safetensors_reads(tmp_path, dtype, shape):
    saved = {"a tensor": random_tensor(1, shape, dtype)}
    save_tensors(tmp_path / "x.safetensors", saved, {"kind": "test"})
    loaded, about = load_tensors(tmp_path / "x.safetensors")
    peer = load_file(tmp_path / "x.safetensors")
    for read in (loaded["a tensor"], peer["a tensor"]):
        assert read.dtype == dtype
        assert read.shape == shape
        assert torch.equal(read, saved["a tensor"])
    assert about == {"kind": "test"}


shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
tensor_maps = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.builds(random_tensor, st.integers(0, 2**31), shapes, st.sampled_from(DTYPES)),
    max_size=6,
)
descriptions = st.dictionaries(
    st.text(max_size=5).filter(lambda key: key != "sha256"),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(saved=tensor_maps, about=descriptions)
def test_any_mixture_of_tensors_comes_back_with_its_description(tmp_path_factory, saved, about):
    path = tmp_path_factory.mktemp("mixture") / "x.safetensors"
    save_tensors(path, saved, about)
    loaded, description = load_tensors(path)
    assert description == about
    assert set(loaded) == set(saved)
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_views_parameters_and_undecodable_names_are_kept_by_value(tmp_path):
    square = torch.arange(9.0).reshape(3, 3)
    saved = {"turned": square.t(), "part": square[:, 1], "weight": torch.nn.Parameter(square)}
    save_tensors(tmp_path / "x", saved, {"path": "caf\udce9.png"})
    loaded, about = load_tensors(tmp_path / "x")
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {
        name: tensor.tolist() for name, tensor in saved.items()
    }
    assert about == {"path": "caf\udce9.png"}


def test_the_description_is_read_without_the_tensors(tmp_path):
    save_tensors(tmp_path / "x", {"a": torch.ones(3)}, {"k": 10})
    with (tmp_path / "x").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    assert read_header(tmp_path / "x")["k"] == 10
    with pytest.raises(StoreError, match="does not match its checksum"):
        load_tensors(tmp_path / "x")


@pytest.mark.parametrize(
    ("tensors", "about", "words"),
    [
        ({"z": torch.zeros(2, dtype=torch.complex64)}, {}, 'The tensor "z" is .*complex64'),
        ({"s": torch.eye(3).to_sparse()}, {}, 'The tensor "s" is torch.sparse_coo'),
        ({"__metadata__": torch.zeros(2)}, {}, "may not be called"),
        ({}, {"sha256": "mine"}, "may not have a key"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_before_a_file_exists(tmp_path, tensors, about, words):
    with pytest.raises(ValueError, match=words):
        save_tensors(tmp_path / "x", tensors, about)
    assert list(tmp_path.iterdir()) == []


def test_a_description_over_the_formats_limit_is_refused_when_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_HEADER_LIMIT", 1000)
    with pytest.raises(ValueError, match=r"The description takes 1,[0-9]+ bytes; the format holds 1,000"):
        save_tensors(tmp_path / "x", {}, {"ids": "a" * 1000})


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_anywhere_is_never_silently_used(tmp_path, flip):
    path = tmp_path / "x"
    saved = {"a": torch.arange(6.0), "b": torch.tensor([True, False])}
    save_tensors(path, saved, {"k": 10, "name": "bank"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
        with pytest.raises(StoreError):
            load_tensors(path)


def test_a_file_cut_anywhere_or_with_something_appended_is_refused(tmp_path):
    path = tmp_path / "x"
    save_tensors(path, {"a": torch.arange(6.0), "none": torch.empty(0)}, {"k": 10})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError):
            load_tensors(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(StoreError, match="not where its header says"):
        load_tensors(path)


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "entries",
    [
        {"a": entry(shape=[3])},
        {"a": entry(shape=[-2])},
        {"a": entry(shape=[2.0])},
        {"a": entry(shape=[True, 2])},
        {"a": entry(shape=["2"])},
        {"a": entry(shape=2)},
        {"a": entry(shape=None)},
        {"a": entry(shape=[10**30])},
        {"a": entry(shape=[0, 10**30], offsets=[0, 0])},
        {"a": entry(shape=[1] * 100 + [2])},
        {"a": entry(dtype="F8_E4M3", shape=[8])},
        {"a": entry(dtype=["F32"])},
        {"a": entry(offsets=[8, 0])},
        {"a": entry(offsets=[4, 12])},
        {"a": entry(offsets=[-8, 0])},
        {"a": entry(offsets=[0, 8, 16])},
        {"a": entry(offsets=[0, 10**40], shape=[10**40 // 4])},
        {"a": entry(), "b": entry()},
        {"a": entry(shape=[1], offsets=[0, 4]), "b": entry(shape=[1], offsets=[0, 4])},
        {"a": entry(shape=[1], offsets=[4, 8])},
        {"a": "F32"},
        {"a": None},
        {"a": {"dtype": "F32"}},
        {},
    ],
    ids=repr,
)
def test_a_header_that_lies_about_its_tensors_is_refused_even_under_a_right_seal(tmp_path, entries):
    data = bytes(8)
    checksum = hashlib.sha256(data).hexdigest()
    (tmp_path / "x").write_bytes(sealed(entries, data, checksums={"a": checksum, "b": checksum}))
    with pytest.raises(StoreError):
        load_tensors(tmp_path / "x")


def test_the_same_file_without_a_lie_is_read(tmp_path):
    checksum = hashlib.sha256(bytes(8)).hexdigest()
    (tmp_path / "x").write_bytes(sealed({"a": entry()}, bytes(8), checksums={"a": checksum}))
    assert load_tensors(tmp_path / "x")[0]["a"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\0\0\0\0\0\0\0",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**8) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"\xff\xfe\0\0",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        struct.pack("<Q", 20) + b'{"__metadata__":null}'[:20],
        sealed({}, b"", about=[]),
        sealed({}, b"", about={}),
        sealed({}, b"", about={"sha256": None}),
        b"PK\x03\x04" + bytes(100),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_content_of_another_kind_is_refused_in_words(tmp_path, content):
    (tmp_path / "foreign.bin").write_bytes(content)
    with pytest.raises(StoreError, match=r"foreign\.bin (was not written by this program|does not match)"):
        load_tensors(tmp_path / "foreign.bin")


def test_a_good_safetensors_file_of_another_program_is_refused(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    with pytest.raises(StoreError, match="was not written by this program"):
        load_tensors(tmp_path / "theirs.safetensors")


def test_only_regular_files_are_opened_and_a_pipe_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path(os.devnull)):
        with pytest.raises(StoreError, match="is no regular file"):
            load_tensors(path)
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "absent")


def test_a_huge_file_is_refused_by_its_size_before_anything_is_read(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(
        StoreError, match=r"huge has 1,099,511,627,776 bytes; at most 68,719,476,736 are read"
    ):
        load_tensors(tmp_path / "huge")
    save_tensors(tmp_path / "x", {"a": torch.zeros(1000)}, {})
    with pytest.raises(StoreError, match="at most 100 are read"):
        load_tensors(tmp_path / "x", limit=100)


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    write_atomic(tmp_path / "x", b"old")

    def fail_halfway() -> None:
        with open_atomic(tmp_path / "x") as file:
            file.write(b"new")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail_halfway()
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    with small_disk(tmp_path / "small", megabytes=1) as folder:
        path = folder / "x"
        save_tensors(path, {"a": torch.ones(1000)}, {"which": "old"})
        with pytest.raises(OSError, match="No space left") as caught:
            save_tensors(path, {"a": torch.ones(1_000_000)}, {"which": "new"})
        assert caught.value.errno == errno.ENOSPC
        assert load_tensors(path)[1] == {"which": "old"}
        assert [file.name for file in folder.iterdir()] == ["x"]


def test_a_disk_quota_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    save_tensors(path, {"a": torch.ones(1000)}, {"which": "old"})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_tensors(path, {"a": torch.ones(1_000_000)}, {"which": "new"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_tensors(path)[1] == {"which": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_readers_beside_many_writers_see_only_whole_files(tmp_path):
    path = tmp_path / "x"

    def write(writer: int) -> None:
        for turn in range(15):
            value = float(100 * writer + turn)
            save_tensors(path, {"a": torch.full((5000 * (1 + writer),), value)}, {"value": value})

    write(0)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in writers:
        thread.start()
    while any(thread.is_alive() for thread in writers):
        tensors, about = load_tensors(path)
        assert set(tensors["a"].tolist()) == {about["value"]}
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_private_files_are_the_users_alone_and_others_follow_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomic(tmp_path / "shared", b"")
        write_atomic(tmp_path / "private", b"", private=True)
    finally:
        os.umask(before)
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_parts_of_killed_writers_are_removed_and_those_of_living_ones_kept(tmp_path):
    abandoned, young, foreign = (tmp_path / name for name in (".nnguide-1.part", ".nnguide-2.part", "a.part"))
    for part in (abandoned, young, foreign):
        part.write_bytes(b"half")
    for part in (abandoned, foreign):
        os.utime(part, (1, 1))
    with open_atomic(tmp_path / "x") as file:
        for part in tmp_path.glob(".nnguide-*.part"):
            if part not in (abandoned, young):
                os.utime(part, (1, 1))
        assert remove_parts(tmp_path) == 1
        file.write(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".nnguide-2.part", "a.part", "x"]
    assert (tmp_path / "x").read_bytes() == b"whole"


def test_large_tensors_are_streamed_and_not_copied(tmp_path):
    script = """
import resource, sys, torch
from pathlib import Path
from nnguide_core.files import load_tensors, save_tensors
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
path = Path(sys.argv[1])
save_tensors(path, {"a": torch.ones(10)}, {})
load_tensors(path)
tensor = torch.ones(64 * 2**18)
before = peak()
save_tensors(path, {"a": tensor}, {})
saved = peak()
load_tensors(path)
print(saved - before, peak() - saved)
"""
    path = str(tmp_path / "x")
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=True, text=True)
    saving, loading = map(int, done.stdout.split())
    assert saving < 16  # MB, for a tensor of 64
    assert loading < 80
