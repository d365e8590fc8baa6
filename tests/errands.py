"""What the tests of the worker processes ask them to do; imports little, since each process imports it."""

import builtins
import os
import signal
import time
from pathlib import Path

from nnguide_core.errors import ImageError


def square(number):
    return number * number


def misbehave(order):
    """Do what the order says: a number, or a way to fail."""
    match order:
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(7)
        case "hang":
            time.sleep(60)
        case "refuse":
            raise ImageError("This is no image.")
        case "defect":
            raise KeyError("a programmer's mistake")
        case "fill":
            return Unpicklable()
        case ("raise", name):
            raise getattr(builtins, name)("by itself")
        case ("once", flag):
            if not Path(flag).exists():
                Path(flag).touch()
                os.kill(os.getpid(), signal.SIGSEGV)
    return order


class Unpicklable:
    """A result whose sending takes more memory than there is."""

    def __reduce__(self):
        raise MemoryError


def picture(seed):
    import numpy as np

    return seed, np.random.default_rng(seed).integers(0, 256, (3, 50, 60), dtype=np.uint8)


def where(_):
    return os.getpid()


POISONED: list[bool] = []


def poison(order):
    """Damage this process, or die if it was damaged before."""
    if order == "poison":
        POISONED.append(True)
        time.sleep(0.5)
    elif POISONED:
        time.sleep(0.5)  # meanwhile the other process is idle again
        os.kill(os.getpid(), signal.SIGSEGV)
    return order


def take_file(file, order):
    """Read a file, or do with it what the order says."""
    match order:
        case "read":
            return file.read(), os.getpid()
        case "compute":
            sum(iter(int, 1))
        case "fill":
            bytearray(2**29)
        case "fill the answer":
            return Unpicklable()
        case "hang" | "segfault" | "exit" | "refuse" | "defect":
            misbehave(order)
