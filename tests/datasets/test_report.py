from pathlib import Path

import pytest

from nnguide_core.datasets.report import in_words, kind_of, report
from nnguide_core.records import Dataset, ImageRef, Role, Skipped


def dataset(name, role, *images, skipped=()):
    """A dataset of (content, label) or (content, label, look) images."""
    refs = tuple(
        ImageRef(content, name, f"{place}.png", label, f"{place}.png", *look)
        for place, (content, label, *look) in enumerate(images)
    )
    return Dataset(
        name, role, Path("/d"), refs, tuple(Skipped(str(n), each) for n, each in enumerate(skipped))
    )


def ids(copies):
    return [each.id for each in copies]


def test_every_dataset_is_summed_up_with_its_reasons_grouped():
    reasons = [
        "Too large: 30,000 x 30,000 pixels; sides of at most 20,000 are read.",
        "Damaged PNG: image file is truncated.",
        "Too large: 70,000,000 bytes; at most 64,000,000 are read.",
    ]
    found = report([dataset("a", Role.ID, ("1", "cat"), ("2", "dog"), ("3", "cat"), skipped=reasons)])
    (summary,) = found.datasets
    assert (summary.name, summary.role, summary.found, summary.read) == ("a", Role.ID, 6, 3)
    assert summary.class_counts == {"cat": 2, "dog": 1}
    assert list(summary.skipped.items()) == [("Too large", 2), ("Damaged PNG", 1)]


@pytest.mark.parametrize(
    ("reason", "kind"), [("Empty: the file has no bytes.", "Empty"), ("Forbidden.", "Forbidden"), ("x", "x")]
)
def test_the_kind_of_a_reason_is_what_stands_before_its_colon(reason, kind):
    assert kind_of(reason) == kind


def test_copies_are_told_apart_by_where_they_are():
    found = report(
        [
            dataset("bank", Role.BANK, ("a", "x"), ("b", "x"), ("c", "x"), ("c", "x")),
            dataset("test", Role.ID, ("a", "x"), ("d", "x")),
            dataset("far", Role.OOD, ("b", None), ("e", None)),
            dataset("near", Role.OOD, ("e", None)),
        ]
    )
    assert ids(found.copies_within) == ["c"]
    assert ids(found.copies_between) == ["a", "b", "e"]
    assert ids(found.leaks) == ["a", "b"]
    assert [(image.dataset, image.path) for image in found.leaks[0].images] == [
        ("bank", "0.png"),
        ("test", "0.png"),
    ]


def test_an_image_that_is_both_twice_in_a_dataset_and_in_another_counts_for_both():
    found = report([dataset("a", Role.ID, ("x", None), ("x", None)), dataset("b", Role.OOD, ("x", None))])
    assert ids(found.copies_within) == ids(found.copies_between) == ["x"]
    assert found.leaks == ()


def test_copies_with_two_classes_among_id_images_conflict():
    bank = dataset("bank", Role.BANK, ("a", "cat"), ("b", "cat"), ("c", "cat"), ("d", None))
    test = dataset("test", Role.ID, ("a", "dog"), ("b", "cat"), ("d", "dog"))
    far = dataset("far", Role.OOD, ("c", "emu"))
    assert ids(report([bank, test, far]).conflicts) == ["a"]


def test_ood_names_that_are_also_id_classes_are_named():
    bank = dataset("bank", Role.BANK, ("a", "Cat"), ("b", "dog"))
    near = dataset("near", Role.OOD, ("c", "cat"), ("d", "emu"), ("e", "dog"))
    cats = dataset("CAT", Role.OOD, ("f", None))
    far = dataset("far", Role.OOD, ("g", "emu"))
    assert report([bank, near, cats, far]).shared_classes == {"near": ("cat", "dog"), "CAT": ("CAT",)}


def test_queries_that_look_like_a_bank_image_are_listed_and_bank_images_among_themselves_not():
    bank = dataset("bank", Role.BANK, ("a", "x", "f0" * 16), ("b", "x", "f0" * 16))
    test = dataset("test", Role.ID, ("c", "x", "f0" * 15 + "f1"), ("d", "x", "0f" * 16))
    (pair,) = report([bank, test]).resemblances
    assert (pair.query.id, pair.bank.id, pair.difference) == ("c", "a", 1)


def test_two_datasets_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"different names, got \['a', 'a'\]"):
        report([dataset("a", Role.ID), dataset("a", Role.OOD)])


def test_nothing_to_report_is_an_empty_report():
    found = report([])
    assert (found.datasets, found.leaks, found.resemblances, found.shared_classes) == ((), (), (), {})


def test_whatever_would_mislead_is_a_sentence_that_names_images():
    look = "0" * 16 + "f" * 16
    bank = dataset("bank", Role.BANK, ("a", "cat"), ("b", "cat"), ("b", "cat"), ("c", "cat", look))
    test = dataset("test", Role.ID, ("a", "dog"), ("d", "cat", look[:-1] + "e"), ("e", "cat"))
    far = dataset("far", Role.OOD, ("e", "Cat"))
    sentences = in_words(report([bank, test, far]))
    starts = [
        "Both in the bank and among the queries, byte for byte: 1 (bank/0.png = test/0.png).",
        "Queries that look like a bank image without being a copy of one: 1 "
        "(test/1.png like bank/3.png, 1 of 128 bits apart).",
        "In more than one query dataset, byte for byte: 1 (test/2.png = far/0.png).",
        "More than once in one dataset, byte for byte: 1 (bank/1.png = bank/2.png).",
        "ID images with copies under another class name: 1 (bank/0.png = test/0.png).",
        "far: Cat is also the name of an ID class.",
    ]
    assert len(sentences) == len(starts)
    for sentence, start in zip(sentences, starts, strict=True):
        assert sentence.startswith(start)


def test_a_sentence_names_three_and_counts_the_rest():
    images = [(f"{place:05}", None) for place in range(1200)]
    (sentence,) = in_words(report([dataset("bank", Role.BANK, *images), dataset("x", Role.OOD, *images)]))
    assert "byte for byte: 1,200 (bank/0.png = x/0.png; " in sentence
    assert "bank/2.png = x/2.png; and 1,197 more)" in sentence


def test_where_nothing_misleads_there_is_nothing_to_say():
    assert (
        in_words(report([dataset("bank", Role.BANK, ("a", "x")), dataset("far", Role.OOD, ("b", None))]))
        == []
    )


def test_copies_between_queries_are_those_that_are_no_leaks():
    found = report(
        [
            dataset("bank", Role.BANK, ("a", None)),
            dataset("near", Role.OOD, ("a", None), ("b", None)),
            dataset("far", Role.OOD, ("b", None)),
        ]
    )
    assert ids(found.copies_of_queries) == ["b"]
