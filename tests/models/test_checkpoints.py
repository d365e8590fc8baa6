"""Checkpoints: what is loaded, from whatever wrapping, and what is refused with the way to convert it."""

import argparse
import bz2
import collections
import datetime
import gzip
import os
import pickle
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nnguide_core.errors import CheckpointError
from nnguide_core.models import checkpoint_formats, checkpoints
from tests import checkpoint_corpus, pickle_corpus
from tests.trial_errands import here, load_checkpoint
from tests.trials import attempt, made


def _network(classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(classes)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, classes),
        )


@pytest.fixture(autouse=True)
def reading(monkeypatch, request):
    """Read in this process, which is quicker, but for the tests of how a worker process reads."""
    if "apart" not in request.node.name:
        monkeypatch.setattr(checkpoints, "tensors_apart", here)


@pytest.fixture
def network():
    return _network().eval()


@pytest.fixture
def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


def _loaded(path, classes=3):
    fresh = _network(classes)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    checkpoints.load_into(fresh, checkpoints.read_state(path), path.name)
    return fresh.state_dict()


def _same(one, other):
    return all(torch.equal(one[name], other[name]) for name in other)


def _refused(path, match):
    with pytest.raises(CheckpointError, match=match):
        _loaded(path)


def _trap(folder):
    """An object whose unpickling makes a folder: a stand-in for any code."""

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(folder / "sprung"),)

    return Trap()


@pytest.mark.parametrize(
    "save",
    [
        lambda state, path: save_file(state, path),
        lambda state, path: torch.save(state, path),
        lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
        lambda state, path: torch.save(collections.OrderedDict(state), path),
        lambda state, path: torch.save({n: nn.Parameter(v, v.ndim > 0) for n, v in state.items()}, path),
    ],
    ids=["safetensors", "torch", "torch before 1.6", "ordered", "parameters"],
)  # fmt: skip
def test_weights_are_loaded_whatever_the_format_and_the_file_name(save, state, path):
    save(state, path)
    assert _same(_loaded(path), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "best": 0.5},
        lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda state: {"model_state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {f"model.{name}": value for name, value in state.items()},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: {"checkpoint": 1, "model": {"state_dict": state}},
    ],
)
def test_the_wrapping_of_usual_trainers_is_taken_off(wrap, state, path):
    torch.save(wrap(state), path)
    assert _same(_loaded(path), state)


def test_a_prefix_that_the_network_has_itself_stays(path):
    network = nn.Sequential(collections.OrderedDict(model=nn.Linear(2, 2)))
    torch.save(network.state_dict(), path)
    assert list(checkpoints.read_state(path)) == ["model.weight", "model.bias"]
    checkpoints.load_into(network, checkpoints.read_state(path), path.name)


def test_a_name_of_nothing_but_prefixes_takes_no_time(network):
    long = {"module." * 500_000: torch.zeros(1)}
    began = time.process_time()
    with pytest.raises(CheckpointError, match=r"has unknown module\.module"):
        checkpoints.load_into(network, long, "weights.pth")
    assert time.process_time() - began < 2


def test_half_precision_is_widened(state, path):
    torch.save({name: v.half() if v.is_floating_point() else v for name, v in state.items()}, path)
    found = _loaded(path)
    assert found["0.weight"].dtype == torch.float32
    assert torch.equal(found["0.weight"], state["0.weight"].half().float())


def test_the_count_of_training_steps_may_be_missing(state, path):
    del state["1.num_batches_tracked"]
    torch.save(state, path)
    assert _same(_loaded(path), state)


def test_missing_and_unknown_names_and_other_shapes_are_all_named(state, path):
    del state["0.bias"]
    state |= {f"extra{number}": torch.zeros(1) for number in range(5)}
    state["4.weight"] = torch.zeros(8, 4)
    torch.save(state, path)
    _refused(
        path,
        r"weights.pth does not fit the architecture: it lacks 0.bias; it has unknown extra0, extra1, extra2 "
        r"and 2 more; it has other shapes in 4.weight \(\(8, 4\), expected \(3, 4\)\). Check",
    )


def test_a_checkpoint_for_other_classes_says_so(path):
    torch.save(_network(classes=8).state_dict(), path)
    _refused(path, r"4.weight \(\(8, 4\), expected \(3, 4\)\), 4.bias .* number of classes")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(state, path, value):
    state["0.weight"][1, 1, 1, 1] = value
    torch.save(state, path)
    _refused(path, "NaN or infinite values in 0.weight: it is damaged, or its training failed")


def test_weights_of_another_kind_are_refused(state, path):
    state["0.weight"] = state["0.weight"].long()
    torch.save(state, path)
    _refused(path, "other than dense floating weights in 0.weight")


def test_a_refused_checkpoint_leaves_the_network_alone(network, state, path):
    broken = {name: value + 1 for name, value in state.items()}
    broken["4.bias"] = torch.full((3,), torch.nan)
    torch.save(broken, path)
    with pytest.raises(CheckpointError):
        checkpoints.load_into(network, checkpoints.read_state(path), path.name)
    assert _same(network.state_dict(), state)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {"epoch": 1}}])
def test_a_checkpoint_without_tensors_says_what_it_holds(content, path):
    torch.save(content, path)
    _refused(path, "holds no tensors by name but (nothing|epoch).*Expected a state dict")


def test_a_container_that_holds_itself_does_not_hang(path):
    content = {}
    content["state_dict"] = content
    torch.save(content, path)
    _refused(path, "holds no tensors")


def test_a_tensor_alone_is_refused(path):
    torch.save(torch.zeros(3), path)
    _refused(path, "holds a Tensor, expected tensors by name")


@pytest.mark.parametrize("wrap", [lambda whole: whole, lambda whole: {"epoch": 1, "model": whole}])
def test_a_whole_pickled_network_gives_its_weights_without_its_classes(wrap, network, state, path):
    torch.save(wrap(nn.DataParallel(network)), path)
    assert _same(_loaded(path), state)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("function", [os.mkdir, eval])
def test_code_in_a_checkpoint_never_runs(state, path, tmp_path, old, function):
    class Trap:
        def __reduce__(self):
            order = str(tmp_path / "sprung")
            return function, (f"__import__('os').mkdir({order!r})" if function is eval else order,)

    torch.save({"state_dict": state, "hook": Trap()}, path, _use_new_zipfile_serialization=not old)
    if function is eval:
        assert _same(_loaded(path), state)
    else:
        _refused(path, r"holds what is never loaded: .*(posix|os).mkdir")
    assert not (tmp_path / "sprung").exists()


class Attributes(dict):
    """A dict of another class, as configurations often are."""


@pytest.mark.parametrize(
    "content",
    [
        argparse.Namespace(lr=0.1),
        {"milestones": collections.Counter({30: 1})},
        np.float64(3.5),
        np.arange(4),
        collections.defaultdict(list, {"loss": [1.0]}),
        collections.deque([1, 2]),
        Attributes(lr=1),
        bytearray(9),
        Path("/data"),
        {"a", "b"},
        frozenset("c"),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        complex(1, 2),
        slice(3),
        nn.CrossEntropyLoss(torch.ones(3)),
        torch.float16,
    ],
    ids=lambda content: type(content).__name__,
)
@pytest.mark.parametrize("old", [True, False])
def test_what_stands_beside_the_weights_is_ignored_and_named(state, path, content, old, caplog):
    if old and isinstance(content, nn.Module):
        pytest.skip("torch before 1.6 wrote the source of every network's class beside it")
    torch.save({"model": state, "more": content}, path, _use_new_zipfile_serialization=not old)
    with caplog.at_level("INFO", "nnguide_core"):
        assert _same(_loaded(path), state)
    kind = type(content)
    if isinstance(content, argparse.Namespace | np.generic | Attributes | slice):
        assert kind.__name__ in caplog.text or "numpy" in caplog.text
        assert "ignored in the checkpoint weights.pth" in caplog.text


def test_tensors_beside_the_networks_prefix_are_left_out_and_named(state, path, caplog):
    prefixed = {f"model.{name}": value for name, value in state.items()}
    torch.save({"state_dict": prefixed | {"criterion.pos_weight": torch.ones(3)}}, path)
    with caplog.at_level("INFO", "nnguide_core"):
        assert _same(_loaded(path), state)
    assert "left out of the checkpoint weights.pth: criterion.pos_weight" in caplog.text


def test_counters_of_training_steps_may_be_of_any_type(state, path):
    torch.save({name: value.half() for name, value in state.items()}, path)
    assert torch.equal(_loaded(path)["0.weight"], state["0.weight"].half().float())


def test_a_checkpoint_read_apart_gives_the_same_bits(state, path):
    state["tied"] = state["0.weight"][:2].expand(2, *state["0.weight"].shape[1:])
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, path)
    found = checkpoints.read_state(path)
    assert list(found) == list(state)
    assert _same(found, state)


@pytest.mark.parametrize("case", list(pickle_corpus.endless()), ids=lambda case: case.name)
def test_a_pickle_that_takes_for_ever_is_refused_apart_and_ends(path, monkeypatch, case):
    monkeypatch.setattr(checkpoints, "_SECONDS", 1.0)
    case.make(path)
    cost = "reading it (took longer than 1|needs more memory than the limit allows)"
    with pytest.raises(CheckpointError, match=rf"cannot be read. {case.expected.lstrip('^')}: {cost}"):
        checkpoints.read_state(path)


def test_a_torchscript_program_is_refused(network, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 8, 8)), path)
    _refused(path, r"is a TorchScript program.*torch.jit.load\(path\).state_dict\(\)")


def test_an_exported_program_is_refused(network, path):
    with path.open("wb") as file:
        torch.export.save(torch.export.export(network, (torch.zeros(1, 3, 8, 8),)), file)
    _refused(path, r"is an exported program \(.pt2\).*torch.export.load\(path\).state_dict\(\)")


def test_a_torch_package_is_refused(network, path):
    with torch.package.PackageExporter(path) as package:
        package.extern("**")
        package.save_pickle("model", "model.pkl", network)
    _refused(path, "is a torch package, which is not loaded")


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_joblib_and_others_are_refused_without_being_opened(path, tmp_path, protocol):
    path.write_bytes(pickle.dumps({"a": _trap(tmp_path)}, protocol=protocol))
    _refused(path, "is a pickle .of joblib.*neither safetensors nor a file of torch.save")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"weights", mtime=0), "a gzip file"),
        (bz2.compress(b"weights"), "a bzip2 file"),
        (b"\x78\x9c" + b"\0" * 50, "a compressed file of joblib"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "an HDF5 file"),
        (b"\x93NUMPY\1\0" + b"\0" * 50, "a NumPy array"),
        (b"\x08\x07\x12\x07pytorch" + b"\0" * 50, "an ONNX or TensorFlow file"),
        (b"just some text, no weights at all", "no known format"),
        (b"", "no known format"),
    ],
)
def test_other_formats_are_recognised_and_refused(content, kind, path):
    path.write_bytes(content)
    _refused(path, f"is {kind}")


def test_an_npz_and_any_other_zip_are_refused(path, tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    (tmp_path / "arrays.npz").rename(path)
    _refused(
        path, "an npz file of NumPy arrays, which is not loaded. Own features are opened as a features file"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/readme.txt", "hello")
    _refused(path, "a zip that torch.save did not write")


def test_a_flipped_bit_is_noticed(state, path):
    torch.save(state, path)
    data = bytearray(path.read_bytes())
    data[data.index(state["0.weight"].numpy().tobytes()) + 20] ^= 1
    path.write_bytes(data)
    _refused(path, "is damaged: the checksum of 'weights/data/.' is wrong")


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(state, path, share, old):
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    _refused(path, "damaged")


def test_a_truncated_safetensors_file_is_refused(state, path):
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-1])
    _refused(path, "weights.pth cannot be read: its header or data are damaged")


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_a_file_over_the_limit_is_refused_before_it_is_read(save, state, path, monkeypatch):
    save(state, path)
    monkeypatch.setattr(checkpoint_formats, "_read_torch", pytest.fail)
    monkeypatch.setattr(checkpoint_formats, "read_safetensors", pytest.fail)
    with pytest.raises(CheckpointError, match="bytes; at most 99 are read"):
        checkpoints.read_state(path, limit=99)


def test_a_pipe_is_refused_without_being_opened(path):
    os.mkfifo(path)
    _refused(path, "is not a readable file")


def test_every_checkpoint_of_the_corpus_is_loaded_or_refused_for_the_expected_reason(tmp_path):
    cases = [*checkpoint_corpus.checkpoints(), *checkpoint_corpus.damaged(per_file=12)]
    trials = list(attempt(load_checkpoint, made(cases, tmp_path, "weights.pth")))
    assert [trial for trial in trials if trial.is_bad] == []
    assert list(tmp_path.rglob("sprung")) == []
    assert sum(trial.came.verdict == "ok" for trial in trials) > 10
    assert len(trials) > 250
