import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nnguide_core.datasets.resemblance import find_alike
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


@settings(max_examples=200, deadline=None)
@given(looks(), looks())
def test_the_pairs_are_those_of_a_plain_comparison_of_all(bank, queries):
    assert found(images("b", bank), images("q", queries)) == reference.alike(bank, queries)


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
