"""What a job hands over: taken once, by the page that opens the same question."""

from types import SimpleNamespace

from views.handover import Handover


def answered(question):
    return SimpleNamespace(run=lambda _: SimpleNamespace(question=question))


def test_it_is_taken_once_and_only_for_its_own_question():
    held, one = Handover(), answered("one")
    held.put(one)
    assert held.take("another") is None
    assert held.take("one") is one
    assert held.take("one") is None


def test_only_the_newest_is_held():
    held, two = Handover(), answered("two")
    held.put(answered("one"))
    held.put(two)
    assert held.take("one") is None
    assert held.take("two") is two
