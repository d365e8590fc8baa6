"""Near-duplicates: queries that look like a bank image without being a copy of it, byte for byte.

Two looks (images.look) are alike when they differ in at most one bit for every twelve that are set in either,
so that flat images, whose looks have few bits, must agree more closely. Among CIFAR-10's 10,000 test and
50,000 training images this finds about 90 pairs, all of them the same scene; an image saved again as JPEG at
half its size stays alike in 99 of 100 cases. Tiny icons of one shape are alike too: this warns, it decides
nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnguide_core.records import ImageRef

__all__ = ["Resemblance", "find_alike"]

_SET_BITS_PER_DIFFERENCE = 12
_MOST = 256 // _SET_BITS_PER_DIFFERENCE  # bits in which two looks of 128 bits can differ and be alike
_QUERIES, _BANK = 8, 4096  # a block of pairs that stays in the processor's cache

Bits = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Resemblance:
    """A query and the bank image that it looks most like."""

    query: ImageRef
    bank: ImageRef
    difference: int  # bits of 128


def find_alike(bank: Iterable[ImageRef], queries: Iterable[ImageRef]) -> tuple[Resemblance, ...]:
    """Return every query that looks like a bank image with another content, the most alike first.

    Images without a look take no part. Each query is paired with the bank image nearest to it, the first of
    several; copies of a query are listed once.
    """
    rows, asked = _different(bank), _different(queries)
    if not rows or not asked:
        return ()
    found = [
        Resemblance(asked[query], rows[row], difference)
        for query, (difference, row) in enumerate(_nearest(rows, asked))
        if row >= 0
    ]
    return tuple(sorted(found, key=lambda each: each.difference))


def _different(images: Iterable[ImageRef]) -> list[ImageRef]:
    first: dict[str, ImageRef] = {}
    for image in images:
        if image.look is not None:
            first.setdefault(image.id, image)
    return list(first.values())


def _nearest(rows: Sequence[ImageRef], asked: Sequence[ImageRef]) -> Iterator[tuple[int, int]]:
    """Yield each query's smallest difference and the bank row that has it, row -1 where none is alike."""
    bank, queries = _bits(rows), _bits(asked)
    places = {image.id: row for row, image in enumerate(rows)}
    copies = np.array([places.get(image.id, -1) for image in asked])
    set_in_bank = np.bitwise_count(bank).sum(axis=1)
    for start in range(0, len(queries), _QUERIES):
        block = queries[start : start + _QUERIES]
        best = np.full(len(block), _MOST + 1)
        found = np.full(len(block), -1)
        for query, row, difference in _close_pairs(block, bank):
            set_bits = np.bitwise_count(block[query]).sum(axis=1) + set_in_bank[row]
            alike = (difference * _SET_BITS_PER_DIFFERENCE <= set_bits) & (row != copies[start + query])
            for q, r, d in zip(query[alike], row[alike], difference[alike], strict=True):
                if d < best[q]:
                    best[q], found[q] = d, r
        yield from zip(best.tolist(), found.tolist(), strict=True)


def _close_pairs(queries: Bits, bank: Bits) -> Iterator[tuple[npt.NDArray[np.intp], ...]]:
    """Yield query rows, bank rows and differences of the pairs that could be alike, bank rows ascending."""
    for start in range(0, len(bank), _BANK):
        block = bank[start : start + _BANK]
        first = np.bitwise_count(queries[:, :1] ^ block[:, 0])
        query, row = np.nonzero(first <= _MOST)
        difference = first[query, row] + np.bitwise_count(queries[query, 1] ^ block[row, 1])
        yield query, start + row, difference.astype(np.intp)


def _bits(images: Sequence[ImageRef]) -> Bits:
    """Return the looks as (N, 2) 64-bit numbers."""
    looks = bytes.fromhex("".join(image.look or "" for image in images))
    return np.frombuffer(looks, dtype=np.uint64).reshape(-1, 2)
