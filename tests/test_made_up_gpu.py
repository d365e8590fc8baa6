"""The made-up GPU refuses what a GPU refuses, and computes what a GPU computes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from nnguide_core.search.threads import run_all
from tests.made_up_gpu import made_up_gpu


@pytest.fixture(params=["cuda", "mps"])
def gpu(request):
    with made_up_gpu(request.param) as gpu:
        yield gpu


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).eval()


@pytest.mark.parametrize(
    "mix",
    [
        lambda there, here: there + here,
        lambda there, here: here @ there.T,
        lambda there, here: torch.cat([here, there]),
        lambda there, here: torch.equal(here, there),
        lambda there, here: here[there[:, 0] > 0],
        lambda there, here: here[there.sum().long()],
        lambda there, here: here.__setitem__(there > 0, 1.0),
        lambda there, here: there.__setitem__(torch.tensor([0]), here[:1]),
        lambda there, here: there.gather(1, here.long()),
        lambda there, here: torch.isin(there, here),
        lambda there, here: here + there.sum(),
        lambda there, here: here.add_(there),
        lambda there, here: torch.topk(there @ there.T, 2).indices + here.long(),
        lambda there, _: nn.Linear(4, 2)(there),
        lambda there, here: nn.Linear(4, 2).to(there.device)(here),
    ],
)
def test_tensors_that_lie_apart_are_not_mixed(gpu, mix):
    with pytest.raises(RuntimeError, match="same device, but found"):
        mix(torch.zeros(3, 4, device=gpu.device), torch.zeros(3, 4))


@pytest.mark.parametrize(
    "turn", [np.asarray, lambda tensor: tensor.numpy(), lambda tensor: tensor[0].numpy()]
)
def test_what_lies_on_a_gpu_is_no_array(gpu, turn):
    with pytest.raises(TypeError, match="can't convert"):
        turn(torch.zeros(2, device=gpu.device))


@pytest.mark.parametrize(
    "allowed",
    [
        lambda there, _: there + torch.tensor(2.0),
        lambda there, _: there[torch.tensor([0, 2])],
        lambda there, here: there.__setitem__(slice(0, 3), here),
        lambda there, _: there.__setitem__(there > 0, torch.tensor(1.0)),
        lambda there, here: there.copy_(here),
        lambda there, here: (there.cpu() + here, there + here.to(there), there.to(here) + here),
        lambda there, _: (float(there.sum()), bool((there > 0).any()), there.tolist()),
    ],
)
def test_what_a_gpu_allows_is_allowed(gpu, allowed):
    allowed(torch.zeros(3, 4, device=gpu.device), torch.zeros(3, 4))


def test_what_is_made_of_tensors_there_lies_there(gpu):
    there = torch.arange(6.0, device=gpu.device).reshape(2, 3)
    made = [
        there.T,
        there @ there.T,
        there.topk(2).indices,
        torch.zeros_like(there),
        there.new_zeros(3),
        there.to(gpu.device, torch.float16),
        *there,
        *there.split(1),
        torch.frexp(there).exponent,
        torch.randn(2, 3).to(there),
        torch.full((2,), 1.0, device=gpu.device),
    ]
    assert {tensor.device for tensor in made} == {gpu.device}
    assert {tensor.cpu().device.type for tensor in made} == {"cpu"}
    assert torch.zeros(2).device.type == torch.zeros_like(there, device="cpu").device.type == "cpu"
    assert (there.is_cuda, there.is_mps, there.is_cpu) == (
        gpu.device.type == "cuda",
        gpu.device.type == "mps",
        False,
    )


def test_a_network_there_gives_what_it_gave_here(gpu):
    moved, images = network(), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        before = moved(images)
        moved.to(gpu.device)
        after = moved(images.to(gpu.device))
    assert {each.device for each in (after, *moved.parameters(), *moved.buffers())} == {gpu.device}
    assert all(isinstance(each, nn.Parameter) for each in moved.parameters())
    assert torch.equal(after.cpu(), before)
    assert torch.equal(moved.cpu()(images), before)
    assert "conv2d" in gpu.ran


@pytest.mark.parametrize("pool", [run_all, lambda tasks: [ThreadPoolExecutor(1).submit(tasks[0]).result()]])
def test_threads_of_pools_know_it_too(gpu, pool):
    there = torch.zeros(2, device=gpu.device)
    assert {found.device for found in pool([lambda: there + 1, lambda: there + 2])} == {gpu.device}


@pytest.mark.parametrize(
    "widen",
    [lambda t: t.double(), lambda t: t.cumsum(0, dtype=torch.float64), lambda t: t.to("mps", torch.float64)],
)
def test_a_macs_gpu_has_no_float64(widen):
    with made_up_gpu("mps"), pytest.raises(TypeError, match="doesn't support float64"):
        widen(torch.zeros(2, device="mps"))
    with made_up_gpu("mps"):
        assert torch.zeros(2, device="mps").cpu().double().dtype == torch.float64


def test_afterwards_there_is_none():
    with made_up_gpu():
        assert torch.cuda.is_available()
        assert not torch.backends.mps.is_available()
    assert ThreadPoolExecutor.submit.__module__ == "concurrent.futures.thread"
    assert nn.Linear(2, 2).weight.device.type == "cpu"
