"""Near-duplicates: queries that look like a bank image without being a copy of it, byte for byte.

Two looks (images.look) are alike when they differ in at most one bit for every twelve that are set in either,
so that flat images, whose looks have few bits, must agree more closely. Among CIFAR-10's 10,000 test and
50,000 training images this finds about 90 pairs, all of them the same scene; an image saved again as JPEG at
half its size stays alike in 99 of 100 cases. Tiny icons of one shape are alike too: this warns, it decides
nothing.

Not every pair is compared: when looks that differ in d bits are cut into more than d / 2 bands, some band
differs in one bit at most, so that only bank images that share such a band need to be compared.
"""

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nnguide_core.errors import CancelledError
from nnguide_core.progress import Cancelled, OnProgress, Progress
from nnguide_core.records import ImageRef

__all__ = ["Resemblance", "find_alike"]

_SET_BITS_PER_DIFFERENCE = 12
_MOST = 256 // _SET_BITS_PER_DIFFERENCE  # bits in which two looks of 128 bits can differ and be alike
_QUERIES, _BANK = 32, 4096  # a block of pairs that stays in the processor's cache
_FEW = 10_000  # with at most this many bank looks, comparing every pair is faster than bands
_PAIR_PER_CANDIDATE = 16  # pairs compared in a block in the time that one found by its band takes

Bits = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Resemblance:
    """A query and the bank image that it looks most like."""

    query: ImageRef
    bank: ImageRef
    difference: int  # bits of 128


def find_alike(
    bank: Iterable[ImageRef],
    queries: Iterable[ImageRef],
    *,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
) -> tuple[Resemblance, ...]:
    """Return every query that looks like a bank image with another content, the most alike first.

    Images without a look take no part. Each query is paired with the bank image nearest to it, the first of
    several; copies of a query are listed once.

    Args:
        bank: the images to compare with.
        queries: the images that are asked about.
        progress: told after every block of queries.
        cancelled: asked before every block of queries.

    Raises:
        CancelledError: stopped on request.
    """
    first, second = _first_two_of_each_look(bank)
    found: list[tuple[int, int, Resemblance]] = []  # difference and place of the query, to sort by
    left: dict[str, list[tuple[int, ImageRef]]] = {}  # by look: queries with no other image of that very look
    for place, query in enumerate(_different(queries)):
        look = query.look or ""
        twin = first.get(look)
        twin = second.get(look) if twin is not None and twin.id == query.id else twin
        if twin is not None:
            found.append((0, place, Resemblance(query, twin, 0)))
        else:
            left.setdefault(look, []).append((place, query))
    rows = tuple(first.values())
    nearest = _nearest(_bits(first), _bits(left), progress, cancelled)
    for same, (row, difference) in zip(left.values(), nearest, strict=True):
        if row >= 0:
            found += [(difference, place, Resemblance(query, rows[row], difference)) for place, query in same]
    return tuple(each for _, _, each in sorted(found, key=lambda entry: entry[:2]))


def _different(images: Iterable[ImageRef]) -> Iterable[ImageRef]:
    """Return the images that have a look, the first of each content."""
    first: dict[str, ImageRef] = {}
    for image in images:
        if image.look is not None:
            first.setdefault(image.id, image)
    return first.values()


def _first_two_of_each_look(images: Iterable[ImageRef]) -> tuple[dict[str, ImageRef], dict[str, ImageRef]]:
    """Return the first image of each look, and the second of those looks that have two contents."""
    first: dict[str, ImageRef] = {}
    second: dict[str, ImageRef] = {}
    for image in _different(images):
        look = image.look or ""
        if first.setdefault(look, image) is not image:
            second.setdefault(look, image)
    return first, second


def _nearest(
    bank: Bits, queries: Bits, progress: OnProgress | None, cancelled: Cancelled | None
) -> Iterator[tuple[int, int]]:
    """Return the bank row nearest to each query, -1 where none is alike, and the bits in which they differ.

    The bank's looks are distinct, and so are the queries'; a bank look equal to a query's is skipped.
    """
    rows, differences = np.full(len(queries), -1), np.zeros(len(queries), np.intp)
    set_bits = _differences(queries, np.zeros_like(queries))
    # 12 d <= set bits of both, and those of the bank image are at most d more than those of the query.
    reach = np.minimum(_MOST, 2 * set_bits // (_SET_BITS_PER_DIFFERENCE - 1))
    began, done = time.monotonic(), 0
    for bands_per_word in range(1, _MOST // 4 + 2):
        asked = np.flatnonzero((reach // 4 + 1 == bands_per_word) & (reach > 0))
        bands = _Bands(bank, bands_per_word) if len(asked) and len(bank) > _FEW else None
        for start in range(0, len(asked), _QUERIES):
            if cancelled is not None and cancelled():
                raise CancelledError("Looking for near-duplicates was stopped.")
            block = asked[start : start + _QUERIES]
            rows[block], differences[block] = _nearest_of_block(bank, queries[block], bands)
            done += len(block)
            if progress is not None:
                seconds = time.monotonic() - began
                progress(Progress(done, len(queries), seconds, step="Looking for near-duplicates"))
    return zip(rows.tolist(), differences.tolist(), strict=True)


def _nearest_of_block(bank: Bits, queries: Bits, bands: "_Bands | None") -> tuple[Rows, Rows]:
    none = (_MOST + 1) * len(bank)
    best = np.full(len(queries), none)  # difference and row in one number: the smallest is the first nearest
    pairs = _all_pairs(queries, bank) if bands is None else bands.pairs(queries, bank)
    for query, row in pairs:
        difference = _differences(queries[query], bank[row])
        zeros = np.zeros((1, 2), np.uint64)
        set_bits = _differences(queries[query], zeros) + _differences(bank[row], zeros)
        alike = (difference * _SET_BITS_PER_DIFFERENCE <= set_bits) & (difference > 0)
        np.minimum.at(best, query[alike], difference[alike] * len(bank) + row[alike])
    is_found = best < none
    return np.where(is_found, best % max(1, len(bank)), -1), best // max(1, len(bank))


def _all_pairs(queries: Bits, bank: Bits) -> Iterator[tuple[Rows, Rows]]:
    """Yield query rows and bank rows of all pairs whose first words do not differ in too many bits."""
    for start in range(0, len(bank), _BANK):
        words = bank[start : start + _BANK, 0]
        query, row = np.nonzero(np.bitwise_count(queries[:, :1] ^ words) <= _MOST)
        yield query, start + row


class _Bands:
    """The looks of a bank, sorted by each band of their bits.

    Args:
        bank: (N, 2).
        per_word: bands of each 64-bit word; they find all that differ in at most 4 * per_word - 1 bits.
    """

    def __init__(self, bank: Bits, per_word: int) -> None:
        edges = [64 * band // per_word for band in range(per_word + 1)]
        self._places = [(word, start, stop) for word in (0, 1) for start, stop in pairwise(edges)]
        values = [_band(bank, place) for place in self._places]
        self._orders = [np.argsort(each) for each in values]
        self._sorted = [each[order] for each, order in zip(values, self._orders, strict=True)]

    def pairs(self, queries: Bits, bank: Bits) -> Iterator[tuple[Rows, Rows]]:
        """Yield query rows and bank rows of the pairs that share a band but for one bit, band by band."""
        spans = [self._spans(queries, band) for band in range(len(self._places))]
        candidates = sum(int(counts.sum()) for _, counts in spans)
        if candidates * _PAIR_PER_CANDIDATE > len(queries) * len(bank):
            yield from _all_pairs(queries, bank)  # as with one picture many times over, a little changed
            return
        for order, (starts, counts) in zip(self._orders, spans, strict=True):
            ends = counts.cumsum()
            within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
            probe = np.repeat(np.arange(len(counts)), counts)
            yield probe // (len(counts) // len(queries)), order[starts[probe] + within]

    def _spans(self, queries: Bits, band: int) -> tuple[Rows, Rows]:
        """Return where bank rows start whose band is a query's, or one bit off, and how many there are."""
        place = self._places[band]
        _, start, stop = place
        flips = np.array([0, *(1 << bit for bit in range(stop - start))], np.uint64)
        probes = (_band(queries, place)[:, None] ^ flips).ravel()
        starts = np.searchsorted(self._sorted[band], probes)
        return starts, np.searchsorted(self._sorted[band], probes, side="right") - starts


def _band(looks: Bits, place: tuple[int, int, int]) -> Bits:
    word, start, stop = place
    return (looks[:, word] >> np.uint64(start)) & np.uint64((1 << (stop - start)) - 1)


def _differences(some: Bits, others: Bits) -> Rows:
    """Return in how many bits looks differ, (N, 2) and (N, 2) -> (N,)."""
    counts: Rows = np.bitwise_count(some ^ others).sum(axis=1, dtype=np.intp)
    return counts


def _bits(looks: Collection[str]) -> Bits:
    """Return the looks as (N, 2) 64-bit numbers."""
    return np.frombuffer(bytes.fromhex("".join(looks)), dtype=np.uint64).reshape(-1, 2)
