"""Own features: what is read, and what is refused with which words."""

import contextlib
import io
import json
import os
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from nnguide_core.errors import FeaturesFileError
from nnguide_core.features import files
from tests import features_corpus
from tests.trial_errands import here, load_features
from tests.trials import attempt, made
from tests.zip_corpus import two_records


@pytest.fixture(autouse=True)
def reading(monkeypatch, request):
    """Read in this process, which is quicker, but for the tests of how a worker process reads."""
    if "apart" not in request.node.name:
        monkeypatch.setattr(files, "tensors_apart", here)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def arrays(rng):
    return {
        "features": rng.normal(size=(6, 4)).astype(np.float32),
        "logits": rng.normal(size=(6, 3)).astype(np.float32),
        "labels": np.array([0, 1, 2, -1, 0, 1]),
    }


@pytest.fixture(params=["npz", "compressed npz", "safetensors"])
def save(request, tmp_path):
    def write(arrays):
        path = tmp_path / "own.data"
        if request.param == "safetensors":
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
        else:
            file = io.BytesIO()
            (np.savez if request.param == "npz" else np.savez_compressed)(file, **arrays)
            path.write_bytes(file.getvalue())
        return path

    return write


def _refused(path, match, **options):
    with pytest.raises(FeaturesFileError, match=match):
        files.load(path, **options)


def test_features_logits_and_labels_are_read_as_they_are(save, arrays):
    own = files.load(save(arrays))
    assert np.array_equal(own.features.numpy(), arrays["features"])
    assert np.array_equal(own.logits.numpy(), arrays["logits"])
    assert own.labels.tolist() == arrays["labels"].tolist()
    assert own.paths is None
    assert own.head is None
    assert len(own) == 6


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floating_types_become_float32(tmp_path, arrays, dtype):
    np.savez(tmp_path / "own.npz", **arrays | {"features": arrays["features"].astype(dtype)})
    own = files.load(tmp_path / "own.npz")
    assert own.features.dtype == torch.float32
    assert np.allclose(own.features.numpy(), arrays["features"], atol=2e-3)


def test_columns_stored_in_fortran_order_are_not_mixed_up(tmp_path, arrays):
    np.savez(tmp_path / "own.npz", **arrays | {"features": np.asfortranarray(arrays["features"])})
    assert np.array_equal(files.load(tmp_path / "own.npz").features.numpy(), arrays["features"])


def test_bfloat16_is_read_from_safetensors(tmp_path, arrays):
    from safetensors.torch import save_file as save_tensors

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_tensors(tensors | {"features": tensors["features"].bfloat16()}, tmp_path / "own.safetensors")
    own = files.load(tmp_path / "own.safetensors")
    assert torch.equal(own.features, tensors["features"].bfloat16().float())


@pytest.mark.parametrize(
    "paths",
    [
        np.array(["a/ä.png", "b", "c", "d", "e", "f.jpg"]),
        np.array(["a/猫.png", "b", "c", "d", "e", "f.jpg"], ">U9"),
        np.array([b"a", b"b", b"c", b"d", b"e", b"f"]),
    ],
)
def test_npz_holds_paths_as_text(tmp_path, arrays, paths):
    np.savez(tmp_path / "own.npz", **arrays, paths=paths)
    own = files.load(tmp_path / "own.npz")
    assert own.paths == tuple(name.decode() if isinstance(name, bytes) else str(name) for name in paths)


def test_numbers_that_are_no_characters_become_the_sign_for_that(tmp_path, arrays):
    codes = np.array([[0x10FFFF + 1, 65], [2**32 - 1, 66], [0xD800, 67]] * 2, np.uint32)
    np.savez(tmp_path / "own.npz", **arrays, paths=codes.view("U2")[:, 0])
    assert files.load(tmp_path / "own.npz").paths == ("\ufffdA", "\ufffdB", "\ufffdC") * 2


def test_safetensors_holds_paths_as_lines(tmp_path, arrays):
    lines = np.frombuffer("a/ä.png\nb\nc\nd\ne\nf\n".encode(), dtype=np.uint8)
    save_file(arrays | {"paths": lines}, tmp_path / "own.safetensors")
    assert files.load(tmp_path / "own.safetensors").paths == ("a/ä.png", "b", "c", "d", "e", "f")


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_gives_the_logits_that_are_not_there(save, arrays, rng, bias):
    weight, shift = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    given = {"features": arrays["features"], "head_weight": weight}
    own = files.load(save(given | ({"head_bias": shift} if bias else {})))
    expected = arrays["features"] @ weight.T + (shift if bias else 0)
    assert np.allclose(own.logits.numpy(), expected, atol=1e-5)
    assert torch.allclose(own.head(own.features), own.logits)


def test_logits_beside_a_head_stay_those_of_the_file(save, arrays, rng):
    own = files.load(save(arrays | {"head_weight": rng.normal(size=(3, 4)).astype(np.float32)}))
    assert np.array_equal(own.logits.numpy(), arrays["logits"])
    assert own.head.weight.shape == (3, 4)


def test_what_is_not_asked_for_is_left_alone(save, arrays):
    assert len(files.load(save(arrays | {"extra": np.zeros((2, 2, 2), dtype=np.float32)}))) == 6


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"features": np.zeros((6, 4, 1), np.float32)}, r"shape \(6, 4, 1\), expected \(images, features\)"),
        ({"features": np.zeros(6, np.float32)}, r"features has shape \(6,\), expected \(images, features\)"),
        ({"features": np.zeros((6, 4), int)}, r"features \(6, 4\) has type \S+, expected floating values"),
        ({"logits": np.zeros((5, 3), np.float32)}, r"logits has shape \(5, 3\), expected \(6, 3\)"),
        ({"labels": np.zeros(5, np.int64)}, r"labels has shape \(5,\), expected \(6,\)"),
        ({"labels": np.zeros(6, np.float32)}, r"labels \(6,\) has type \S+, expected integer values"),
        ({"labels": np.array([0, 1, 2, 3, -2, 0])}, r"2 values out of range, .* 3 in row 3; expected 0 to 2"),
        ({"head_weight": np.zeros((3, 5), np.float32)}, r"head_weight has shape \(3, 5\), expected \(3, 4\)"),
        ({"head_bias": np.zeros(3, np.float32)}, r"head_bias \(3,\) is there without head_weight"),
        (
            {"head_weight": np.zeros((3, 4), np.float32), "head_bias": np.zeros(4, np.float32)},
            r"head_bias has shape \(4,\), expected \(3,\)",
        ),
    ],
)  # fmt: skip
def test_an_array_that_does_not_fit_is_named_with_what_was_expected(save, arrays, changed, match):
    _refused(save(arrays | changed), match)


def test_no_images_are_refused(save, arrays):
    empty = {name: array[:0] for name, array in arrays.items()}
    _refused(
        save(empty), r"features has shape \(0, 4\) and there are 3 classes, expected at least one of each"
    )


@pytest.mark.parametrize("missing", ["features", "logits"])
def test_a_missing_array_is_named_with_what_is_there(save, arrays, missing):
    del arrays[missing]
    _refused(save(arrays), r"own.data holds .*labels \(6,\)[^;]*; expected features")


@pytest.mark.parametrize(("name", "value"), [("features", np.nan), ("logits", np.inf), ("logits", -np.inf)])
def test_values_that_are_not_finite_are_counted_and_their_rows_named(save, arrays, name, value):
    arrays[name][[1, 4], 2] = value
    path = save(arrays)
    _refused(path, rf"{name} \(6, .\) has NaN or infinite values in 2 rows \(row 1, 4\)")
    own = files.load(path, allow_nonfinite=True).as_features()
    finite = own.features.isfinite().all(dim=1) & own.logits.isfinite().all(dim=1)
    assert finite.tolist() == [True, False, True, True, False, True]


def test_float64_beyond_float32_is_not_finite(tmp_path, arrays):
    np.savez(tmp_path / "own.npz", **arrays | {"logits": np.full((6, 3), 1e300)})
    _refused(
        tmp_path / "own.npz", r"logits \(6, 3\) has NaN or infinite values in 6 rows \(row 0, 1, 2, 3, 4, …\)"
    )


def test_objects_are_refused_and_their_code_never_runs(tmp_path, arrays):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "own.npz", **arrays | {"labels": np.array([Trap()] * 6, dtype=object)})
    _refused(tmp_path / "own.npz", r"labels \(6,\) has type \|O.*can run code")
    assert not (tmp_path / "sprung").exists()


def test_pickles_are_refused(tmp_path, arrays):
    import pickle

    (tmp_path / "own.pkl").write_bytes(pickle.dumps(arrays))
    _refused(tmp_path / "own.pkl", "neither a safetensors nor an npz file.*numpy.savez")


def _with_header(path, shape):
    """An npz whose features claim a shape, with hardly any bytes behind it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", header.getvalue() + b"\0" * 64)
        archive.writestr("logits.npy", header.getvalue() + b"\0" * 64)
    return path


def test_a_header_that_claims_more_than_is_there_takes_no_memory(tmp_path):
    tracemalloc.start()
    _refused(_with_header(tmp_path / "own.npz", (10**6, 10**6)), r"unpacks to .* needs 4,000,000,000,000")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_a_file_over_the_limit_is_refused_before_it_is_read(save, arrays, monkeypatch):
    path = save(arrays)
    monkeypatch.setattr(files, "read_npz", pytest.fail)
    monkeypatch.setattr(files, "read_safetensors", pytest.fail)
    needed = 216 + 6 * files._ROW_BYTES + 3 * files._CLASS_BYTES
    _refused(path, f"needs {needed:,} bytes in memory; at most {needed - 1:,} are read", limit=needed - 1)


def test_what_just_fits_is_read(save, arrays):
    needed = 216 + 6 * files._ROW_BYTES + 3 * files._CLASS_BYTES
    assert len(files.load(save(arrays), limit=needed)) == 6


@pytest.mark.parametrize(
    ("changed", "more"),
    [
        ({"features": np.zeros((6, 4), np.float16)}, -48 + 96),
        ({"features": np.zeros((6, 4), np.float64)}, 96 + 96),
        ({"features": np.zeros((6, 4), ">f4")}, 96),
        ({"features": np.asfortranarray(np.zeros((6, 4), np.float32))}, 96),
        ({"labels": np.zeros(6, np.int32)}, -24 + 48),
        ({"labels": np.zeros(6, np.uint8)}, -42 + 48),
        ({"paths": np.array(["ab"] * 6)}, 3 * 48),
    ],
)
def test_copies_are_counted_before_they_are_made(tmp_path, arrays, changed, more):
    np.savez(tmp_path / "own.npz", **arrays | changed)
    needed = 216 + 6 * files._ROW_BYTES + 3 * files._CLASS_BYTES + more
    assert len(files.load(tmp_path / "own.npz", limit=needed)) == 6
    _refused(tmp_path / "own.npz", f"needs {needed:,} bytes", limit=needed - 1)


def test_logits_that_a_head_would_give_are_counted_before_they_are_made(tmp_path):
    many = np.zeros((50_000, 1), np.float32)
    np.savez(tmp_path / "own.npz", features=many, head_weight=many)
    _refused(tmp_path / "own.npz", r"needs 10,03\d,\d+,\d+ bytes in memory", limit=10**10)


@pytest.mark.parametrize(("rows", "classes", "what"), [(9, 2, "9 images"), (2, 8, "8 classes")])
def test_more_rows_or_classes_than_are_read_are_refused_before_they_are_read(
    save, monkeypatch, rows, classes, what
):
    monkeypatch.setattr(files, "_MOST_ROWS", 8)
    monkeypatch.setattr(files, "_MOST_CLASSES", 7)
    monkeypatch.setattr(files, "read_npz", pytest.fail)
    monkeypatch.setattr(files, "read_safetensors", pytest.fail)
    path = save(
        {"features": np.zeros((rows, 3), np.float32), "logits": np.zeros((rows, classes), np.float32)}
    )
    _refused(path, f"own.data has {what}; at most")


def test_rows_that_are_not_finite_are_found_in_every_block(save, arrays, monkeypatch):
    monkeypatch.setattr(files, "_FINITE_BLOCK", 9)
    arrays["features"][[0, 3, 5], 1] = np.nan
    _refused(save(arrays), r"in 3 rows \(row 0, 3, 5\)")


def test_a_reason_of_the_standard_library_ends_with_one_full_stop(tmp_path, arrays):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes().replace(b"logits.npy", b"l0gits.npy", 1))  # before its data alone
    _refused(path, r"'logits.npy' and header b'l0gits.npy' differ\.$")


def test_a_zip_bomb_is_refused(tmp_path):
    np.savez_compressed(
        tmp_path / "own.npz",
        features=np.zeros((20_000, 1000), np.float32),
        logits=np.zeros((20_000, 2), np.float32),
    )
    _refused(tmp_path / "own.npz", "over 100 times its own size")


def test_a_flipped_bit_in_an_npz_is_noticed(tmp_path, arrays):
    np.savez(tmp_path / "own.npz", **arrays)
    data = bytearray((tmp_path / "own.npz").read_bytes())
    place = data.index(arrays["features"].tobytes())
    data[place + 5] ^= 4
    (tmp_path / "own.npz").write_bytes(data)
    _refused(tmp_path / "own.npz", "damaged: Bad CRC-32")


@pytest.mark.parametrize("keep", [0, 5, 40, 300, -1])
def test_a_truncated_file_is_refused(save, arrays, keep):
    path = save(arrays)
    path.write_bytes(path.read_bytes()[:keep])
    _refused(path, "own.data")


def test_a_pipe_is_refused_without_being_opened(tmp_path):
    os.mkfifo(tmp_path / "own.npz")
    _refused(tmp_path / "own.npz", "not a readable file")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    _refused(tmp_path / "own.npz", "not a readable file")


def _safetensors(path, header, data=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


_ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"{" + b"[" * 100_000, "header or data are damaged"),
        (b'{"features": 1}', "header or data are damaged"),
        ({"features": _ENTRY | {"shape": [2, 3]}}, "header or data are damaged"),
        ({"features": _ENTRY | {"shape": [2, -2]}}, "header or data are damaged"),
        ({"features": _ENTRY | {"shape": [True, 4]}}, "header or data are damaged"),
        ({"features": _ENTRY | {"shape": [0, 2**60], "data_offsets": [0, 0]}}, "header or data|is too large"),
        ({"features": _ENTRY | {"data_offsets": [8, 24]}}, "header or data are damaged"),
        ({"features": _ENTRY | {"dtype": "PICKLE"}}, "header or data are damaged"),
        ({"features": _ENTRY | {"dtype": "F8_E5M2", "shape": [16]}}, "type F8_E5M2, which is not read here"),
        ({"features": _ENTRY, "logits": _ENTRY}, "header or data are damaged"),
        (
            {
                "features": _ENTRY | {"shape": [3], "data_offsets": [0, 12]},
                "logits": _ENTRY | {"shape": [3], "data_offsets": [4, 16]},
            },
            "header or data are damaged",
        ),
    ],
)  # fmt: skip
def test_a_safetensors_header_that_lies_is_refused(tmp_path, header, match):
    _refused(_safetensors(tmp_path / "own.safetensors", header, b"\0" * 16), match)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_done_to_a_file_gives_an_answer_or_the_right_kind_of_error(tmp_path_factory, data):
    file = io.BytesIO()
    np.savez(file, features=np.ones((3, 2), np.float32), logits=np.ones((3, 2), np.float32))
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "own.npz"
    path.write_bytes(content)
    with contextlib.suppress(FeaturesFileError):
        own = files.load(path)
        assert own.features.shape[0] == own.logits.shape[0]


def test_a_file_read_apart_gives_the_same_arrays_and_keeps_nothing_of_the_workers(save, arrays, rng):
    weight = rng.normal(size=(3, 4)).astype(np.float32)
    own = files.load(save(arrays | {"head_weight": weight}))
    assert np.array_equal(own.features.numpy(), arrays["features"])
    assert np.array_equal(own.logits.numpy(), arrays["logits"])
    assert own.labels.tolist() == arrays["labels"].tolist()
    assert np.array_equal(own.head.weight.numpy(), weight)
    assert own.as_features().features.shape == (6, 4)


def test_an_npz_of_which_two_readers_would_list_other_members_is_refused_apart(tmp_path):
    (tmp_path / "own.npz").write_bytes(two_records(1_500, b"x.npy"))
    _refused(tmp_path / "own.npz", "one of its two end records says 1, the other 1,500")


def test_as_many_rows_as_imagenet_has_become_features_in_little_time(tmp_path):
    many = np.ones((1_281_167, 2), np.float16)
    np.savez(tmp_path / "own.npz", features=many, logits=many)
    began = time.process_time()
    features = files.load(tmp_path / "own.npz").as_features()
    assert time.process_time() - began < 5
    assert len(set(features.ids)) == len(many)
    assert {len(each) for each in features.ids[::100_000]} == {64}


def test_as_features_they_have_ids_of_their_own_and_a_model_by_width(save, arrays):
    features = files.load(save(arrays)).as_features()
    assert len(set(features.ids)) == 6
    assert features.labels.tolist() == [0, 1, 2, -1, 0, 1]
    again = files.load(save(arrays | {"labels": np.zeros(6, np.int64)})).as_features()
    assert again.ids == features.ids
    assert again.model == features.model
    other = files.load(save(arrays | {"features": arrays["features"] + 1})).as_features()
    assert other.dataset != features.dataset
    assert not set(other.ids) & set(features.ids)
    wider = files.load(save(arrays | {"features": np.ones((6, 5), np.float32)})).as_features()
    assert wider.model != features.model


def test_without_labels_every_class_is_unknown(save, arrays):
    del arrays["labels"]
    assert files.load(save(arrays)).as_features().labels.tolist() == [-1] * 6


def test_every_features_file_of_the_corpus_is_read_or_refused_for_the_expected_reason(tmp_path):
    cases = [*features_corpus.features_files(), *features_corpus.damaged(per_file=15)]
    trials = list(attempt(load_features, made(cases, tmp_path, "own.data")))
    assert [trial for trial in trials if trial.is_bad] == []
    assert list(tmp_path.rglob("sprung")) == []
    assert sum(trial.came.verdict == "ok" for trial in trials) > 20
    assert len(trials) > 250
