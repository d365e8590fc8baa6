"""Tests of nnguide_core.devices"""

from unittest import mock

import pytest
import torch

from nnguide_core.devices import available_devices, choose_device, describe_device, exact_device
from nnguide_core.errors import DeviceError
from tests.made_up_gpu import made_up_gpu


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Nothing but a processor, and nobody prefers anything, until a test says otherwise."""
    monkeypatch.delenv("NNGUIDE_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def cuda():
    with made_up_gpu() as gpu:
        yield gpu.device


@pytest.fixture
def two_gpus():
    with made_up_gpu(), mock.patch("torch.cuda.device_count", return_value=2):
        yield


def test_without_a_gpu_the_processor_computes():
    assert available_devices() == ("cpu",)
    assert choose_device() == choose_device("auto") == torch.device("cpu")


def test_one_cuda_device_is_offered_once_and_chosen_under_both_its_names(cuda):
    assert {"cuda", "cpu"} <= set(available_devices())
    assert choose_device() == choose_device("cuda") == choose_device("cuda:0") == cuda
    assert choose_device(torch.zeros(1, device=cuda).device) == cuda


@pytest.mark.usefixtures("two_gpus")
def test_of_two_cuda_devices_the_first_is_taken_or_the_one_that_is_named():
    assert available_devices() == ("cuda", "cuda:0", "cuda:1", "cpu")
    assert (choose_device(), choose_device("cuda:1")) == (torch.device("cuda:0"), torch.device("cuda:1"))


def test_a_macs_gpu_is_chosen_under_both_its_names(mps):
    assert available_devices() == ("mps", "cpu")
    assert choose_device() == choose_device("mps") == choose_device(mps) == torch.device("mps")


def test_the_environment_says_what_nobody_else_says(cuda, monkeypatch):
    monkeypatch.setenv("NNGUIDE_DEVICE", "cpu")
    assert choose_device() == choose_device("auto") == torch.device("cpu")
    assert choose_device("cuda") == cuda


@pytest.mark.parametrize("name", ["cuda:7", "mps", "gpu", "", "cuda:x", "cuda:-1", "cpu:1"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(cuda, name):  # noqa: ARG001
    with pytest.raises(
        DeviceError, match=rf"There is no device '{name}' here\. Choose one of: auto, cuda, .*cpu\.$"
    ):
        choose_device(name)


def test_a_refusal_says_that_the_environment_asked(monkeypatch):
    monkeypatch.setenv("NNGUIDE_DEVICE", "cuda")
    with pytest.raises(
        DeviceError, match=r"no device 'cuda' here. NNGUIDE_DEVICE asks for it. Choose one of: auto, cpu"
    ):
        choose_device()


def test_a_device_is_described_by_its_kind_and_a_gpu_by_its_name_too():
    assert describe_device(torch.device("cpu")) == "cpu"
    assert describe_device(torch.device("mps:0")) == "mps"
    with made_up_gpu():
        assert describe_device(torch.device("cuda:0")) == "cuda (made up)"


@pytest.mark.parametrize(
    ("device", "exact"), [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("mps:0", "cpu"), ("xpu", "cpu")]
)
def test_exact_work_is_done_where_there_is_float64(device, exact):
    assert exact_device(torch.device(device)) == torch.device(exact)
