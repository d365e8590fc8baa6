"""python -m nnguide_core: see nnguide_core.cli."""

import sys

from nnguide_core.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
