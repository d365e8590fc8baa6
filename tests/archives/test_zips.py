import re
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnguide_core.archives import ArchiveLimits, inspect, read_member
from nnguide_core.errors import ArchiveError, ImageError
from tests.zip_corpus import RawEntry, image_bytes, raw_zip, two_records, zips

CASES = {case.name: case for case in zips()}


def read_all(path):
    """Return the content of each readable member, and the reason of every other."""
    archive = inspect(path)
    contents, reasons = {}, dict(archive.refused)
    for member in archive.members:
        try:
            contents[member.path] = read_member(path, member.location)
        except ImageError as error:
            reasons[member.path] = str(error)
    return contents, reasons


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refused])
def test_a_zip_that_is_refused_as_a_whole_says_why(name, tmp_path):
    path = tmp_path / "x.zip"
    CASES[name].make(path)
    with pytest.raises(ArchiveError, match=CASES[name].refused):
        inspect(path)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.reasons])
def test_a_bad_entry_costs_only_itself_and_names_its_reason(name, tmp_path):
    case, path = CASES[name], tmp_path / "x.zip"
    case.make(path)
    contents, reasons = read_all(path)
    assert set(case.kept) <= set(contents)
    for entry, expected in case.reasons.items():
        if not expected.startswith("^No image"):  # only decoding finds that
            assert re.search(expected, reasons[entry])


def test_nothing_is_written_anywhere(tmp_path, monkeypatch):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    path = inside / "x.zip"
    path.write_bytes(raw_zip([RawEntry(b"../../escaped.png", b"1"), RawEntry(b"ok.png", b"2")]))
    monkeypatch.chdir(inside)
    read_all(path)
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == ["x.zip"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\\/:"), min_size=1, max_size=20).filter(
            lambda name: name not in (".", "..")
        ),
        st.binary(max_size=300),
        max_size=8,
    ),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.booleans(),
    st.binary(max_size=40).filter(lambda comment: b"PK\5\6" not in comment),  # the library gives up on it
)
def test_what_the_standard_library_writes_is_read_as_it_reads_it(tmp_path, files, method, wide, comment):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.comment = comment
        for name, data in files.items():
            with archive.open(name, "w", force_zip64=wide) as entry:
                entry.write(data)
    with zipfile.ZipFile(path) as archive:
        expected = {name: archive.read(name) for name in archive.namelist()}
    empty = {name: "Empty: the file has no bytes." for name, data in expected.items() if not data}
    assert read_all(path) == ({name: data for name, data in expected.items() if data}, empty)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_damage_anywhere_gives_a_reason_or_the_true_content(tmp_path, generator):
    files = {"a.png": image_bytes(), "b.png": image_bytes(1), "c.png": b"c" * 50}
    data = bytearray(raw_zip([RawEntry(name.encode(), content) for name, content in files.items()]))
    for _ in range(generator.randint(1, 4)):
        data[generator.randrange(len(data))] = generator.randrange(256)
    path = tmp_path / "x.zip"
    path.write_bytes(data[: generator.choice([len(data), generator.randrange(len(data))])])
    try:
        contents, _ = read_all(path)
    except ArchiveError:
        return
    assert set(contents.values()) <= set(files.values())


def test_an_entry_that_unpacks_to_far_more_than_it_declares_never_takes_the_memory(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(raw_zip([RawEntry(b"a.png", bytes(60_000_000), unpacked=1_000)]))
    (member,) = inspect(path).members
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"^Lying entry: it does not unpack to the 1,000 bytes"):
        read_member(path, member.location)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000


def test_the_limits_of_a_whole_zip_are_checked_before_anything_is_unpacked(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(raw_zip([RawEntry(b"%d" % n, bytes(1_000)) for n in range(3)]))
    ratio = 3_000 // path.stat().st_size
    assert len(inspect(path, ArchiveLimits(3, 3_000, ratio + 1, 1_000)).members) == 3
    for limits, reason in (
        (ArchiveLimits(entries=2), r"^Too many entries: 3 or more; at most 2 are read"),
        (ArchiveLimits(unpacked=2_999), r"^Too large: it unpacks to 0.1 GB; at most 0 GB"),
        (ArchiveLimits(ratio=ratio), rf"^Packed too tightly: it unpacks to \d+ times .* most {ratio} times"),
    ):
        with pytest.raises(ArchiveError, match=reason):
            inspect(path, limits)


def test_the_limit_of_a_member_refuses_only_that_member(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(
        raw_zip([RawEntry(b"big", np.random.default_rng(0).bytes(900)), RawEntry(b"small", b"x")])
    )
    archive = inspect(path, ArchiveLimits(member=899))
    assert [member.path for member in archive.members] == ["small"]
    assert archive.refused == (("big", "Too large: 905 bytes; at most 899 are read."),)


@pytest.mark.parametrize(
    "location", ["", "x", "1+2+3", "-1+2+3+4", "1+2+3+4+5", "1+2+3+0x4", "cats/1.png", "²+1+1+1"]
)
def test_a_location_that_is_none_is_refused(tmp_path, location):
    path = tmp_path / "x.zip"
    path.write_bytes(raw_zip([]))
    with pytest.raises(ImageError, match=r"^Not in a zip: "):
        read_member(path, location)


@pytest.mark.parametrize(
    "location", ["99999999999999999999+1+1+1", "5+1+1+1", "0+99999+1+1", "0+4+900000000+1"]
)
def test_a_location_that_leads_nowhere_is_refused(tmp_path, location):
    path = tmp_path / "x.zip"
    path.write_bytes(raw_zip([RawEntry(b"x", b"hello")]))
    with pytest.raises(ImageError):
        read_member(path, location)


def test_a_zip_that_is_gone_is_named_as_such(tmp_path):
    with pytest.raises(ArchiveError, match=r"^Not a file: nothing is there"):
        inspect(tmp_path / "missing.zip")


@pytest.mark.parametrize("times", [100.04, 100.5])
def test_a_refusal_names_a_larger_number_than_the_limit(tmp_path, times):
    path = tmp_path / "x.zip"
    body = bytes(400_000)
    size = len(raw_zip([RawEntry(b"z.bmp", body)]))
    path.write_bytes(raw_zip([RawEntry(b"z.bmp", body, unpacked=int(size * times))]))
    with pytest.raises(ArchiveError, match=r"unpacks to 101 times its size; at most 100 times"):
        inspect(path)


@pytest.mark.parametrize("length", [10, 1_000, 30_000_000])
def test_what_deflate_can_make_of_its_tightest_is_no_lie(tmp_path, length):
    path = tmp_path / "x.zip"
    path.write_bytes(raw_zip([RawEntry(b"z", bytes(length)), RawEntry(b"", bytes(length // 50), method=0)]))
    contents, reasons = read_all(path)
    assert contents == {"z": bytes(length)}
    assert list(reasons) == [""]


def test_names_that_are_no_text_are_decoded_in_a_time_that_grows_with_their_length(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(raw_zip([RawEntry(b"%d" % n + b"\xff" * 4_000, b"x", flags=0x800) for n in range(100)]))
    started = time.process_time()
    assert [member.path for member in inspect(path).members] == [f"{n}" + "\\xff" * 4_000 for n in range(100)]
    assert time.process_time() - started < 0.25  # 0.05 s here; 0.35 s by "backslashreplace"


def test_a_zip_of_which_two_readers_would_list_different_entries_is_refused(tmp_path):
    """The last record says one entry; the 64-bit one before it, which the standard library takes, 1,500."""
    path = tmp_path / "x.zip"
    path.write_bytes(two_records(1_500))
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 1_500
    with pytest.raises(ArchiveError, match="one of its two end records says 1, the other 1,500"):
        inspect(path)
