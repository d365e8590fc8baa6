"""What the tests of decoding ask worker processes to do."""

from pathlib import Path

from nnguide_core.errors import ImageError
from nnguide_core.images import decode
from nnguide_core.reading import check_at
from tests.errands import misbehave


def judge(data):
    """Decode untrusted bytes: what came of it, and the most memory this process ever took, in bytes."""
    try:
        verdict = "ok" if decode(data).mode == "RGB" else "not RGB"
    except ImageError as error:
        verdict = str(error)
    return verdict, _peak()


def check_but_fail(location, root):
    """Check the image at a location, except where its name says how this process is to end."""
    misbehave(Path(location).stem)
    return check_at(location, root)


def _peak() -> int:
    """Return the most memory that this program had, in bytes; getrusage also counts its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
