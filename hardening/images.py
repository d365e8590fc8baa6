"""Odd, malformed and hostile images: every case of the tests, many more cuts and flips, and the heaviest."""

from itertools import chain

from hardening.table import Row
from hardening.trying import counted
from tests import corpus
from tests.trial_errands import decode_image
from tests.trials import attempt

__all__ = ["rows"]

CUTS, FLIPS = 200, 200  # places at which each kind is cut; a twentieth of the flips per odd image
SCAN_SECONDS = 10.0  # after which the program itself gives an image up


def rows() -> list[Row]:
    """Return the table's lines."""
    light = chain(corpus.images(), corpus.truncations(CUTS), corpus.flips(FLIPS, seed=1))
    light_cases = ((case.name, case.data, case.expected) for case in light)
    heavy = [(case.name, case.data, case.expected) for case in corpus.heavy()]
    allowed = [case for case in heavy if case[2] == corpus.OK]
    slow = [case for case in heavy if case[2] != corpus.OK]
    return counted(
        "images",
        chain(
            attempt(decode_image, light_cases),
            attempt(decode_image, allowed),
            attempt(decode_image, slow, timeout=SCAN_SECONDS),
        ),
    )
