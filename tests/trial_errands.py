"""What the trials of hostile files ask worker processes to do."""

import os
from pathlib import Path

from tests.trials import Outcome, outcome_of


def load_checkpoint(path: Path) -> Outcome:
    """Load a checkpoint into the corpus's network and use it, in the file's folder."""
    import torch

    from nnguide_core import checkpoints
    from tests.checkpoint_corpus import SPRUNG, network

    torch.set_num_threads(1)
    os.chdir(path.parent)
    target = network()

    def work() -> None:
        checkpoints.load_into(target, checkpoints.read_state(path), path.name)
        target(torch.zeros(2, 3, 8, 8))

    outcome = outcome_of(work)
    if Path(SPRUNG).exists():
        raise RuntimeError(f"{path.name} ran code")
    return outcome


def load_features(path: Path) -> Outcome:
    """Read a features file and make a dataset of it, as a page does, in the file's folder."""
    import torch

    from nnguide_core.own_features import OwnFile, own_question
    from nnguide_core.records import Role

    torch.set_num_threads(1)
    os.chdir(path.parent)
    outcome = outcome_of(lambda: own_question([OwnFile(path, "own", Role.BANK)]))
    if Path("sprung").exists():
        raise RuntimeError(f"{path.name} ran code")
    return outcome


def decode_image(data: bytes) -> Outcome:
    """Decode untrusted bytes as a scan does."""
    from nnguide_core.reading import check

    return outcome_of(lambda: check(data))
