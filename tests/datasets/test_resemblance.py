import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnguide_core.datasets import resemblance
from nnguide_core.datasets.resemblance import find_alike
from nnguide_core.errors import CancelledError
from nnguide_core.records import ImageRef
from tests import reference


def image(name, look):
    return ImageRef(name, "d", name, None, name, look if look is None else f"{look:032x}")


def images(prefix, looks):
    return [image(f"{prefix}{place}", look) for place, look in enumerate(looks)]


def found(bank, queries):
    return [(each.query.id, each.bank.id, each.difference) for each in find_alike(bank, queries)]


@st.composite
def looks(draw):
    """Draw some looks that are near each other and some that are not."""
    centres = draw(st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=3))
    flips = st.lists(st.integers(0, 127), max_size=14)
    drawn = []
    for centre, places in draw(st.lists(st.tuples(st.sampled_from(centres), flips), max_size=12)):
        for place in places:
            centre ^= 1 << place
        drawn.append(centre)
    return drawn


@pytest.mark.parametrize("few", [0, 10_000], ids=["by bands", "every pair"])
@settings(max_examples=100, deadline=None)
@given(bank=looks(), queries=looks())
def test_the_pairs_are_those_of_a_plain_comparison_of_all(few, bank, queries):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resemblance, "_FEW", few)
        patch.setattr(resemblance, "_PAIR_PER_CANDIDATE", 0)
        assert found(images("b", bank), images("q", queries)) == reference.alike(bank, queries)


def random_looks(count, set_share=0.5, seed=0):
    bits = np.random.default_rng(seed).random((count, 128)) < set_share
    return [int.from_bytes(row.tobytes(), "big") for row in np.packbits(bits, axis=1)]


def flipped(look, count, seed):
    for place in np.random.default_rng(seed).choice(128, count, replace=False):
        look ^= 1 << int(place)
    return look


@pytest.mark.parametrize(("set_share", "most"), [(0.2, 1.2), (0.5, 0.1), (0.8, 1.2)])
def test_every_distance_is_found_by_bands_as_by_comparing_every_pair(monkeypatch, set_share, most):
    bank = random_looks(3_000, set_share)
    queries = [flipped(bank[seed], seed % 24, seed) for seed in range(240)]
    expected = found(images("b", bank), images("q", queries))
    assert {difference for _, _, difference in expected} >= set(range(4))
    compared = counted_pairs(monkeypatch)
    monkeypatch.setattr(resemblance, "_FEW", 0)
    assert found(images("b", bank), images("q", queries)) == expected
    assert sum(compared) < most * 240 * 3_000


def counted_pairs(monkeypatch):
    compared, differences = [], resemblance._differences

    def count(some, others):
        compared.append(len(some))
        return differences(some, others)

    monkeypatch.setattr(resemblance, "_differences", count)
    return compared


def test_one_picture_many_times_over_is_compared_once_for_each_look(monkeypatch):
    compared = counted_pairs(monkeypatch)
    picture = random_looks(1)[0]
    bank, queries = images("b", [picture] * 20_000), images("q", [picture ^ 1] * 20_000)
    pairs = find_alike(bank, [*queries, image("same", picture)])
    assert [each.query.id for each in pairs] == ["same", *(f"q{place}" for place in range(20_000))]
    assert {(each.bank.id, each.difference) for each in pairs} == {("b0", 0), ("b0", 1)}
    assert max(compared) <= 2


def test_a_picture_in_many_slight_variants_takes_no_more_room_than_a_block_of_pairs(monkeypatch):
    compared = counted_pairs(monkeypatch)
    picture = random_looks(1)[0]
    bank = [flipped(picture, 3, seed) for seed in range(12_000)]
    queries = [flipped(picture, 2, seed) for seed in range(40)]
    assert [difference for _, _, difference in found(images("b", bank), images("q", queries))] == [1] * 40
    assert max(compared) <= resemblance._QUERIES * resemblance._BANK


def test_the_search_says_how_far_it_is_and_stops_when_asked():
    bank, queries = images("b", random_looks(50)), images("q", random_looks(70, seed=1))
    told = []
    find_alike(bank, queries, progress=told.append)
    assert [(each.done, each.total) for each in told][-1] == (70, 70)
    assert len(told) > 1
    with pytest.raises(CancelledError):
        find_alike(bank, queries, cancelled=lambda: True)


def test_many_images_are_compared_block_by_block_like_few():
    generator = np.random.default_rng(0)
    bank = [int.from_bytes(generator.bytes(16), "big") for _ in range(9_000)]
    queries = [bank[place] ^ 0b111 for place in (8_999, 4_096, 4_095, 0)] + [5] * 20
    assert found(images("b", bank), images("q", queries)) == [
        ("q0", "b8999", 3),
        ("q1", "b4096", 3),
        ("q2", "b4095", 3),
        ("q3", "b0", 3),
    ]


def test_a_copy_is_no_resemblance_but_another_image_that_looks_the_same_is():
    look = 0xFFFF_0000_FFFF_0000
    bank = [image("same", look), image("other", look ^ 1)]
    assert found(bank, [image("same", look)]) == [("same", "other", 1)]
    assert found(bank[:1], [image("same", look)]) == []


def test_flat_images_must_agree_more_closely_than_rich_ones():
    assert found([image("b", 0b1111)], [image("q", 0b0111)]) == []
    rich = 2**64 - 1
    assert found([image("b", rich)], [image("q", rich ^ 0b1)]) == [("q", "b", 1)]
    assert found([image("b", 0)], [image("q", 0)]) == [("q", "b", 0)]


def test_images_without_a_look_take_no_part():
    assert found([image("b", None)], [image("q", 7)]) == []
    assert found([image("b", 7)], [image("q", None)]) == []
    assert found([], []) == []
