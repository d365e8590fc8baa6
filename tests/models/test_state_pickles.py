"""Pickles walked without being run: what torch.save writes passes, what would take for ever does not."""

import io
import pickle
import time
import zipfile

import pytest
import torch
from torch import nn

from nnguide_core.models import checkpoints, state_pickles
from nnguide_core.models.state_pickles import BadPickleError, check_old, check_one
from tests.pickle_corpus import laughing, pickle_case


def _saved(content, *, old=False):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


def _pickle(content):
    with zipfile.ZipFile(io.BytesIO(_saved(content))) as archive:
        return io.BytesIO(archive.read("archive/data.pkl"))


def _refused(body, match):
    with pytest.raises(BadPickleError, match=match):
        check_one(io.BytesIO(b"\x80\x02" + body))


def _trained():
    """Everything that a trainer keeps beside its weights."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3))
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.95))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    shared = ["cat", "dog"]
    return {
        "state_dict": network.state_dict(),
        "parameters": dict(network.named_parameters()),
        "optimizer": optimizer.state_dict(),
        "args": {"names": shared, "again": shared, "size": torch.Size([3, 8]), "type": torch.float16},
        "history": [(epoch, 0.5, None, True, 2**40, torch.device("cpu")) for epoch in range(5_000)],
        1: {None: -1, True: "x"},
    }


def test_what_trainers_save_passes_and_claims_the_bytes_of_its_tensors():
    network = _trained()["state_dict"]
    claimed = check_one(_pickle(network))
    assert claimed == sum(value.numel() * value.element_size() for value in network.values())
    check_one(_pickle(_trained()))
    check_old(io.BytesIO(_saved(_trained(), old=True)))


def test_as_many_tensors_as_the_limit_of_bytes_allows_pass():
    state = {f"encoder.layer.{number}.attention.weight": torch.zeros(1, 1, 1, 1) for number in range(25_000)}
    check_one(_pickle(state))


def test_views_of_one_memory_are_counted_once():
    whole = torch.zeros(100, dtype=torch.float64)
    assert check_one(_pickle({"a": whole, "b": whole[:50], "c": whole[50:]})) == 800


def test_the_pairs_that_python_2_wrote_for_an_ordered_dict_pass():
    body = b"\x80\x02ccollections\nOrderedDict\n](](X\1\0\0\0aK\1e](X\1\0\0\0bK\2ee\x85R."
    assert check_one(io.BytesIO(body)) == 0


@pytest.mark.parametrize("levels", [3, 24, 60])
def test_a_key_whose_hash_takes_for_ever_is_refused_at_once(tmp_path, levels):
    path = tmp_path / "weights.pth"
    pickle_case("", b"\x80\x02}" + laughing(levels) + b"K\1s.", "").make(path)
    began = time.process_time()
    with pytest.raises(checkpoints.CheckpointError, match="damaged, or holds more than tensors"):
        checkpoints.read_state(path)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"}" + pickle.dumps(2**40, 2)[2:-1] + b"Ns.", "a key is neither a text nor a small number"),
        (b"}K\1K\1\x86Ns.", "a key is neither"),
        (b"}X\1\x10\0\0" + b"a" * 4097 + b"Ns.", "a key has 4,097 characters, at most 4,096"),
        (b"}" + b"]q\1](h\1h\1eh\1h\1a.", "a container grows after it was used"),
        (b"}(K\1u.", "a key has no value"),
        (b")" + b"\x85" * 70 + b".", "too often or too deep"),
        (b"N" * 100_002 + b".", "too many of its values are not used"),
        (b"NNb.", "sets attributes otherwise"),
        (b"N}b.", "fills what is no ordered dict"),
        (b"}Na.", "fills what is no list"),
        (b"N)R.", "calls what makes no tensor"),
        (b"ctorch\nSize\nX\1\0\0\0a\x85\x85R.", "calls torch.Size with other values"),
        (b"NQ.", "describes the memory of a tensor otherwise"),
        (b"\x85.", "takes values that are not there"),
        (b"I1\n.", "an opcode INT"),
    ],
)  # fmt: skip
def test_what_no_state_dict_needs_is_refused_with_the_reason(body, match):
    _refused(body, match)


def test_work_that_is_done_again_and_again_is_counted(monkeypatch):
    monkeypatch.setattr(state_pickles, "_MOST_EFFORT", 1_000)
    pairs = b"](" + b"](K\1K\2e" * 50 + b"e\x85q\1"
    _refused(pairs + b"ccollections\nOrderedDict\nq\2" + b"h\2h\1R" * 8 + b".", "more than 1,000 steps")
