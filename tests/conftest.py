"""A run of the suite gives the same answer twice: examples and random numbers are the same in every run.

make explore looks for new examples instead, with random seeds; what it finds is kept as an explicit example.
"""

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does, so nothing is judged by it.
_TIMELESS = [HealthCheck.too_slow]
settings.register_profile(
    "same", derandomize=True, database=None, deadline=None, suppress_health_check=_TIMELESS, print_blob=True
)
settings.register_profile("explore", deadline=None, suppress_health_check=_TIMELESS, max_examples=500)
settings.load_profile("same")  # --hypothesis-profile=explore comes after this and counts


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Start torch's own generator anew for each test, whichever ran before: weights are drawn from it."""
    torch.manual_seed(0)
