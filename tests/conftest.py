"""What tests of a device share."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from tests.made_up_gpu import made_up_gpu

REAL = pytest.param(
    "real",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)


@pytest.fixture(params=["cuda", REAL])
def cuda(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A CUDA device: a made-up one everywhere, and a real one where there is one."""
    yield from _device(request.param)


@pytest.fixture(params=["mps"])
def mps(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A Mac's GPU, made up."""
    yield from _device(request.param)


@pytest.fixture(params=["cuda", "mps", REAL])
def gpu(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A GPU of any kind."""
    yield from _device(request.param)


def _device(kind: str) -> Iterator[torch.device]:
    with nullcontext() if kind == "real" else made_up_gpu(kind):
        yield torch.device("cuda" if kind == "real" else kind, 0)
