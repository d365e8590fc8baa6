"""All benchmarks, a table each as it ends: python -m benchmarks [name ...]. One that fails is named.

Sizes and rounds are chosen so that all of them take less than ten minutes on two cores; the modules' own
commands take more rounds.
"""

import importlib
import platform
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.table import markdown

__all__ = ["machine", "main"]

NAMES = ("search", "features", "sweep", "startup", "interaction", "pages")
ROUNDS: Mapping[str, Mapping[str, int]] = {"search": {"rounds": 3}, "sweep": {"rounds": 3}}


def main(names: list[str]) -> int:
    """Run the named benchmarks, all if none is named; return 1 if one failed."""
    print(machine() + "\n", flush=True)
    failed = []
    for name in names or NAMES:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        began = time.perf_counter()
        try:
            rows = importlib.import_module(f"benchmarks.{name}").rows(**ROUNDS.get(name, {}))
        except (ImportError, OSError, RuntimeError, ValueError, AssertionError):
            traceback.print_exc()
            failed.append(name)
            continue
        print(f"{name}, in {time.perf_counter() - began:.0f} s\n\n{markdown(rows)}\n", flush=True)
    for name in failed:
        print(f"{name} failed: see above.")
    return 1 if failed else 0


def machine() -> str:
    """Return the machine and the versions in one line."""
    capability = torch.backends.cpu.get_cpu_capability()
    able = [name for name in ("avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(name)]
    units = ", ".join(able) or "no bfloat16 units"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{_cpu()}, {torch.get_num_threads()} cores, {capability}, {units}, {device}; "
        f"Python {platform.python_version()}, torch {torch.__version__}; {datetime.now(UTC):%Y-%m-%d}"
    )


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        fields = dict(
            line.split(":", 1) for line in reversed(information.read_text().splitlines()) if ":" in line
        )
        named = {name.strip(): value.strip() for name, value in fields.items()}
        family = f"family {named['cpu family']} model {named['model']}" if "cpu family" in named else ""
        return f"{named.get('model name', platform.machine())} {family}".strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
