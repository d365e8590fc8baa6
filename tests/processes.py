"""Forked children for tests of what several processes do to the same files."""

import os
import traceback
from collections.abc import Callable


def fork(work: Callable[[], object]) -> int:
    """Run work in a child of this process, which then ends; return the child's id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    finally:
        traceback.print_exc()
        os._exit(1)


def succeeded(*children: int) -> bool:
    """Wait for children; return whether all ended well."""
    return [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
