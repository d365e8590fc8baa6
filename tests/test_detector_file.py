"""Detector files: the same detector again, or a sentence that says why not."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nnguide_core import detector_file
from nnguide_core.detector import NNGuide
from nnguide_core.errors import ModelNotSetException, StoreError
from nnguide_core.files import load_tensors, save_tensors


def features(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def linear(dtype: torch.dtype = torch.float32, bias: bool = True) -> nn.Linear:
    head = nn.Linear(6, 3, bias=bias).requires_grad_(False)
    head.weight.copy_(features(3, seed=5))
    if bias:
        head.bias.copy_(torch.tensor([4.0, 5.0, 6.0]))
    return head.to(dtype)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "detector.safetensors"


@pytest.fixture
def saved(path: Path) -> Path:
    NNGuide(None, linear(), 3).fit_features(features(20), ids=[f"ìd {row}\n" for row in range(20)]).save(path)
    return path


@pytest.mark.parametrize("scoring", ["paper", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_loaded_detector_scores_at_once_and_bit_for_bit_the_same(
    path: Path, scoring: Any, dtype: torch.dtype
) -> None:
    how: dict[str, Any] = {"fraction": 0.5, "seed": 3, "draw": "stratified", "react_percentile": 91.3}
    detector = NNGuide(None, linear(dtype), 4, scoring, energy_offset=0.1, **how)
    labels = torch.arange(40) % 3
    detector.fit_features(features(40), labels, ids=[str(row) for row in range(40)])
    detector.save(path)
    loaded = NNGuide.load(str(path))
    assert torch.equal(loaded.predict_features(features(9, 1)), detector.predict_features(features(9, 1)))
    assert (loaded.k, loaded.settings) == (4, detector.settings)
    assert loaded.bank is not None
    assert detector.bank is not None
    for name in ("rows", "energies", "labels", "positions"):
        assert torch.equal(getattr(loaded.bank, name), getattr(detector.bank, name))
    for name in ("ids", "settings", "react_threshold"):
        assert getattr(loaded.bank, name) == getattr(detector.bank, name)


def test_a_head_without_bias_is_kept(path: Path) -> None:
    detector = NNGuide(None, linear(bias=False), 3, energy_offset=9.0).fit_features(features(20))
    detector.save(path)
    assert torch.equal(
        NNGuide.load(path).predict_features(features(5, 1)), detector.predict_features(features(5, 1))
    )


def test_ids_of_any_text_are_kept(saved: Path) -> None:
    bank = NNGuide.load(saved).bank
    assert bank is not None
    assert bank.ids[:2] == ("ìd 0\n", "ìd 1\n")


def test_an_encoder_and_another_head_can_be_given(saved: Path) -> None:
    encoder, head = nn.Flatten(), nn.Linear(6, 9)
    loaded = NNGuide.load(saved, encoder, head)
    assert loaded.encoder is encoder
    assert loaded.head is head
    assert loaded(features(3).reshape(3, 2, 3)).shape == (3,)


def test_a_head_that_is_not_linear_is_not_saved_and_asked_for(path: Path) -> None:
    detector = NNGuide(None, nn.Sequential(linear()), 3).fit_features(features(20))
    detector.save(path)
    loaded = NNGuide.load(path)
    with pytest.raises(ModelNotSetException, match="pass logits or energies"):
        loaded.predict_features(features(2))
    given = loaded.predict_features(features(2), logits=linear()(features(2)))
    torch.testing.assert_close(given, detector.predict_features(features(2)))


class Cosine(nn.Linear):
    """A cosine classifier: its weights are those of a linear layer, its logits are not."""

    def forward(self, z: Tensor) -> Tensor:
        normalize = nn.functional.normalize
        return 9 + nn.functional.linear(normalize(z), normalize(self.weight))


@pytest.mark.parametrize("kind", ["subclass", "hook"])
def test_a_head_that_computes_more_than_its_weights_say_is_asked_for_again(path: Path, kind: str) -> None:
    head = Cosine(6, 3) if kind == "subclass" else linear()
    if kind == "hook":
        head.register_forward_hook(lambda _, __, logits: 2 * logits)
    detector = NNGuide(None, head.eval().requires_grad_(False), 3).fit_features(features(20))
    expected = detector.predict_features(features(5, 1))
    detector.save(path)
    with pytest.raises(ModelNotSetException, match="pass logits or energies"):
        NNGuide.load(path).predict_features(features(5, 1))
    assert torch.equal(NNGuide.load(path, head=head).predict_features(features(5, 1)), expected)


@pytest.mark.parametrize("k", [21, 0, 5.0, True, "3"])
def test_a_k_that_could_not_be_read_is_not_written(saved: Path, k: Any) -> None:
    detector = NNGuide.load(saved)
    detector.k = k
    with pytest.raises(ValueError, match="k must be a whole number from 1 to the 20 bank rows"):
        detector.save(saved)
    assert NNGuide.load(saved).k == 3


def test_a_k_of_numpys_integers_is_written_as_a_number(path: Path) -> None:
    k: Any = np.int64(4)
    NNGuide(None, linear(), k).fit_features(features(20)).save(path)
    assert NNGuide.load(path).k == 4


def test_provenance_is_kept_and_saved_again(path: Path) -> None:
    detector = NNGuide(None, linear(), 3).fit_features(features(20))
    detector.save(path, {"model": "resnet", "images": 20})
    loaded = NNGuide.load(path)
    assert loaded.provenance == {"model": "resnet", "images": 20}
    loaded.save(path)
    assert NNGuide.load(path).provenance == {"model": "resnet", "images": 20}


def test_provenance_that_is_no_json_is_refused_and_nothing_is_written(path: Path) -> None:
    detector = NNGuide(None, linear(), 3).fit_features(features(20))
    with pytest.raises(ValueError, match="only what JSON can"):
        detector.save(path, {"model": object()})
    assert not path.exists()


def test_the_file_is_safetensors_with_versions_and_holds_no_pickle(saved: Path) -> None:
    tensors = load_file(saved)
    assert set(tensors) == {"rows", "energies", "labels", "positions", "ids", "head.weight", "head.bias"}
    about = load_tensors(saved)[1]
    assert about["format"] == detector_file.FORMAT
    assert torch.__version__.startswith(about["versions"]["torch"])
    assert about["k"] == 3


def test_a_missing_file_is_an_os_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        NNGuide.load(path)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    data = saved.read_bytes()
    for length in (0, 1, 7, 8, 100, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:length])
        with pytest.raises(StoreError, match=r"detector\.safetensors"):
            NNGuide.load(saved)


def test_a_flipped_bit_is_refused_wherever_it_is(saved: Path) -> None:
    data = saved.read_bytes()
    for position in range(0, len(data), 29):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        saved.write_bytes(flipped)
        with pytest.raises(StoreError):
            NNGuide.load(saved)


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04 a zip", struct.pack("<Q", 2) + b"{}", b"\x80\x04pickle", b"\x00" * 1000],
    ids=["empty", "zip", "safetensors", "pickle", "zeros"],
)
def test_a_foreign_file_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(StoreError, match="not written by this program"):
        NNGuide.load(path)


def test_a_file_of_this_program_that_is_no_detector_is_refused(path: Path) -> None:
    save_tensors(path, {"rows": torch.ones(2)}, {"kind": "features"})
    with pytest.raises(StoreError, match=r"no detector file: choose a file that NNGuide\.save\(\) wrote"):
        NNGuide.load(path)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            3,
            r"format 3 and this program reads formats 1 to 2: a newer version wrote it\. Update the program",
        ),
        (0, r"has format 0 and this program reads formats 1 to 2: it is damaged\. Fit and save again\.$"),
        ("2", r"has format '2' .*: it is damaged"),
        (..., r"has format None .*: it is damaged"),
    ],
)
def test_a_file_of_a_format_that_is_not_known_is_refused_with_the_reason(
    saved: Path, number: object, message: str
) -> None:
    rewrite(saved, about={"format": number})
    with pytest.raises(StoreError, match=message):
        NNGuide.load(saved)


@pytest.mark.parametrize(("balanced", "draw"), [(True, "stratified"), (False, "random")])
def test_a_file_of_the_first_version_is_read(saved: Path, balanced: bool, draw: str) -> None:
    expected = NNGuide.load(saved)
    settings = {
        "fraction": 1.0,
        "seed": 0,
        "balanced": balanced,
        "react_percentile": None,
        "scoring": "paper",
        "energy_offset": 0.0,
    }
    rewrite(saved, about={"format": 1, "settings": settings})
    loaded = NNGuide.load(saved)
    assert loaded.settings.draw == draw
    assert torch.equal(loaded.predict_features(features(5, 1)), expected.predict_features(features(5, 1)))


def rewrite(path: Path, tensors: dict[str, Any] | None = None, about: dict[str, Any] | None = None) -> None:
    """Write a detector file again with some values replaced, or left out where None is given."""
    old_tensors, old_about = load_tensors(path)
    new_tensors = {
        name: value for name, value in (old_tensors | (tensors or {})).items() if value is not None
    }
    new_about = {name: value for name, value in (old_about | (about or {})).items() if value is not ...}
    save_tensors(path, new_tensors, new_about)


def as_bytes(ids: object) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(ids).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rows", None, "lacks 'rows'"),
        ("rows", torch.ones(20), ""),
        ("rows", torch.ones(20, 6).double(), "rows is torch.float64"),
        ("rows", torch.full((20, 6), torch.nan), "NaN or infinity"),
        ("energies", torch.ones(19), r"energies is .* \(19,\), expected"),
        ("energies", torch.full((20,), torch.inf), "NaN or infinity"),
        ("labels", torch.ones(20), "labels is torch.float32"),
        ("ids", as_bytes([]), "0 ids for 20 bank images"),
        ("ids", as_bytes([1] * 20), "20 ids for 20 bank images"),
        ("ids", as_bytes(7), ""),
        ("ids", torch.tensor([0, 200, 7], dtype=torch.uint8), ""),
        ("head.weight", torch.ones(3, 7), "head takes 7 features and its bank has 6"),
        ("head.weight", torch.ones(3), ""),
        ("head.weight", torch.ones(3, 6, dtype=torch.int64), ""),
        ("head.bias", torch.ones(9), r"3 classes and a bias of \(9,\)"),
    ],
)
def test_a_file_whose_tensors_do_not_fit_is_refused(
    saved: Path, name: str, value: Tensor | None, message: str
) -> None:
    rewrite(saved, tensors={name: value})
    with pytest.raises(StoreError, match="detector.safetensors is no usable detector: .*" + message):
        NNGuide.load(saved)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("k", ..., "lacks 'k'"),
        ("k", 21, "k is 21 and the bank has 20"),
        ("k", "3", "k is '3'"),
        ("settings", ..., "lacks 'settings'"),
        ("settings", {"fraction": 7.0}, "fraction must be in"),
        ("settings", {"fraction": "a"}, ""),
        ("settings", {"unheard": 1}, "unheard"),
        ("react_threshold", 1.0, "ReAct"),
        ("react_threshold", "1", "ReAct"),
        ("settings", {"react_percentile": 95.0}, "ReAct"),
        ("provenance", 7, ""),
    ],
)
def test_a_file_whose_description_does_not_fit_is_refused(
    saved: Path, name: str, value: Any, message: str
) -> None:
    rewrite(saved, about={name: value})
    with pytest.raises(StoreError, match="detector.safetensors is no usable detector: .*" + message):
        NNGuide.load(saved)
