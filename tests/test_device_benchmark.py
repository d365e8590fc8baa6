"""What benchmarks.device says where there is no GPU, and what it prints where there is one."""

import pytest
import torch

from benchmarks import device
from tests.made_up_gpu import made_up_gpu


@pytest.fixture
def no_way(monkeypatch):
    """Without the whole way, which has tests of its own."""
    monkeypatch.setattr(device, "_whole_way", lambda *_: None)


@pytest.fixture(autouse=True)
def gradients():
    """As they were before."""
    with torch.enable_grad():
        yield


def test_without_a_cuda_device_it_says_so_and_fails(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.main([]) == 1
    said = capsys.readouterr().out
    assert said == "There is no CUDA device here, so nothing was measured: --small tries it on the CPU.\n"


@pytest.mark.usefixtures("no_way")
def test_on_a_gpu_it_prints_a_line_for_every_search(capsys):
    with made_up_gpu():
        assert device.main(["--small"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cuda (made up), torch ")
    kinds = ["bare half-precision product", "search, ", "search, ", "pytorch-ood 0.4.0 NNGuide"]
    assert [line[2:].startswith(kind) for line, kind in zip(lines[4:], kinds * 2, strict=True)] == [True] * 8
