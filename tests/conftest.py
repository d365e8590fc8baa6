"""A run of the suite gives the same answer twice: examples and random numbers are the same in every run.

make explore looks for new examples instead, with random seeds; what it finds is kept as an explicit example.
Tests of a device ask for it by a fixture.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.made_up_gpu import made_up_gpu

# How long an example takes depends on what else the machine does, so nothing is judged by it.
_TIMELESS = [HealthCheck.too_slow]
settings.register_profile(
    "same", derandomize=True, database=None, deadline=None, suppress_health_check=_TIMELESS, print_blob=True
)
settings.register_profile("explore", deadline=None, suppress_health_check=_TIMELESS, max_examples=500)
settings.load_profile("same")  # --hypothesis-profile=explore comes after this and counts


# These few tests are slow. They go first, or one of two processes is left finishing them alone.
_HERE = Path(__file__).parent.as_posix()
_FIRST = tuple(
    f"{_HERE}/{name}"
    for name in (
        "browser/",
        "test_whole_way.py",
        "server/",
        "test_builds.py",
        "evaluation/test_loaded_models.py",
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first; keep the order of the rest."""
    items.sort(key=lambda item: not item.path.as_posix().startswith(_FIRST))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Start torch's own generator anew for each test, whichever ran before: weights are drawn from it."""
    torch.manual_seed(0)


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
