"""python -m nnguide_core: see nnguide_core.cli."""

import sys

__all__: list[str] = []

if __name__ == "__main__":
    try:
        from nnguide_core.cli import main

        code = main()
    except KeyboardInterrupt:  # while the command line itself was being imported
        code = 130
    sys.exit(code)
