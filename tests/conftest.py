"""What tests of a device share."""

from contextlib import nullcontext

import pytest
import torch

from tests.made_up_gpu import made_up_gpu

_REAL = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(params=["made up", pytest.param("real", marks=_REAL)])
def cuda(request):
    """A CUDA device: a made-up one everywhere, and a real one where there is one."""
    with made_up_gpu("cuda") if request.param == "made up" else nullcontext():
        yield torch.device("cuda", 0)


@pytest.fixture
def mps():
    """A Mac's GPU, made up."""
    with made_up_gpu("mps") as gpu:
        yield gpu.device
