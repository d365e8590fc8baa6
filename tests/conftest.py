"""Cores shared out among test processes: threads that wait for each other spin, for 2.5 times the time."""

import os

CORES = len(os.sched_getaffinity(0))
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // WORKERS)))  # before anything imports torch
