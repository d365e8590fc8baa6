"""What the trials of hostile files ask worker processes to do."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnguide_core.errors import ImageError
from tests.trials import Outcome, outcome_of


def here(function, file, *arguments, refused, **_):
    """Read a file in this process, a trial's own, where the program starts another one."""
    try:
        return function(file, *arguments)
    except MemoryError:
        raise refused("Too large: reading it needs more memory than the limit allows.") from None


def load_checkpoint(path: Path) -> Outcome:
    """Load a checkpoint into the corpus's network and use it, in the file's folder."""
    import torch

    from nnguide_core.models import checkpoints
    from tests.checkpoint_corpus import network

    torch.set_num_threads(1)
    os.chdir(path.parent)
    target = network()
    checkpoints.tensors_apart = here

    def work() -> None:
        checkpoints.load_into(target, checkpoints.read_state(path), path.name)
        target(torch.zeros(2, 3, 8, 8))

    return outcome_of(work, is_limited=True)


def load_features(path: Path) -> Outcome:
    """Read a features file and make a dataset of it, as a page does, in the file's folder."""
    import torch

    from nnguide_core.evaluation.own_features import OwnFile, own_question
    from nnguide_core.features import files
    from nnguide_core.records import Role

    torch.set_num_threads(1)
    os.chdir(path.parent)
    files.tensors_apart = here
    return outcome_of(lambda: own_question([OwnFile(path, "own", Role.BANK)]))


def be_greedy(how: str) -> Outcome:
    """Take memory in the process that has read a checkpoint, and hide it as a careless reader would."""
    import torch

    from nnguide_core.errors import CheckpointError

    def work() -> None:
        try:
            match how:
                case "modest":
                    b"x" * 2**28
                case "piece by piece":
                    pieces = []
                    while True:
                        pieces.append(b"x" * 2**23)
                case "quietly":
                    b"x" * (3 * 2**29)
                case "at once":
                    bytearray(2**36)
                case "at once, by torch":
                    torch.empty(2**36)
        except (MemoryError, RuntimeError):
            raise CheckpointError("The checkpoint is damaged, or holds more than tensors.") from None

    return outcome_of(work)


def decode_image(data: bytes) -> Outcome:
    """Decode untrusted bytes as a scan does."""
    from nnguide_core.images.reading import check

    return outcome_of(lambda: check(data), is_limited=True)


def open_zip(case: tuple[Path, Sequence[str], Mapping[str, str]]) -> Outcome:
    """Read every member of a zip that may be read, and compare with what must be read and refused."""
    from nnguide_core.archives import inspect
    from nnguide_core.images.reading import check_at

    path, kept, reasons = case

    def work() -> None:
        archive = inspect(path)
        found, refused = set(), dict(archive.refused)
        for member in archive.members:
            try:
                check_at(member.location, path)
                found.add(member.path)
            except ImageError as error:
                refused[member.path] = str(error)
        missing = [name for name in kept if not any(each.endswith(name) for each in found)]
        wrong = [name for name, reason in reasons.items() if not re.search(reason, refused.get(name, ""))]
        if missing or wrong:
            raise AssertionError(f"missing {missing}, refused otherwise {wrong}")

    return outcome_of(work)
