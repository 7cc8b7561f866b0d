"""Which labels count, whoever says them, however often they are delivered."""

from itertools import count

from features.index import Place, label_seen_key, place_entry
from serving.label_log import SOURCES, WORDS, Said, Told, contrary_keys, label_entry, label_keys, news, told


class Remembered:
    """What the customer stage leaves: each label that counted, under its key."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self._positions = count()
        self.contradicting = 0

    def take(self, *labels: Said) -> list[bool]:
        found = news(labels, self.entries)
        self.contradicting += found.contradicting
        for said, counts in zip(labels, found.counts, strict=True):
            place = Place(0, next(self._positions))
            if counts:
                self.entries[label_seen_key(*said[:3])] = label_entry(place, said.time_us)
        return found.counts

    def told(self, transaction_id: str) -> list[Told]:
        return told([self.entries.get(key) for key in label_keys(transaction_id)])


def test_a_label_counts_once_however_often_it_comes() -> None:
    known, said = Remembered(), Said("t", "chargeback", "fraud", 5)
    assert known.take(said, said) == [True, False]
    assert known.take(said, said._replace(time_us=9)) == [False, False]
    assert known.take(said._replace(transaction_id="other"), said._replace(source="customer")) == [True, True]
    assert known.contradicting == 0


def test_a_word_that_was_taken_back_can_be_said_again_later() -> None:
    fraud, taken_back = Said("t", "analyst", "fraud", 1), Said("t", "analyst", "legitimate", 2)
    again = fraud._replace(time_us=3)
    for cuts in (
        [[fraud], [taken_back], [again]],
        [[fraud, taken_back, again]],
        [[fraud, taken_back], [again]],
    ):
        known = Remembered()
        assert [counts for some in cuts for counts in known.take(*some)] == [True] * 3
        assert known.take(fraud, taken_back, again) == [False] * 3, "the whole story is delivered again"
        assert [(each.label, each.time_us) for each in known.told("t")] == [("legitimate", 2), ("fraud", 3)]
        assert known.contradicting == 2


def test_an_earlier_copy_takes_nothing_back() -> None:
    known = Remembered()
    known.take(Said("t", "analyst", "fraud", 3), Said("t", "analyst", "legitimate", 5))
    assert known.take(Said("t", "analyst", "fraud", 4), Said("t", "analyst", "fraud", 5)) == [False, False]


def test_another_source_takes_nothing_back() -> None:
    known = Remembered()
    known.take(Said("t", "chargeback", "fraud", 1), Said("t", "analyst", "legitimate", 2))
    assert known.take(Said("t", "chargeback", "fraud", 3)) == [False]


def test_of_a_backfilled_label_nothing_is_later() -> None:
    known = Remembered()
    known.entries[label_seen_key("t", "analyst", "fraud")] = place_entry(Place(-1, 7))
    known.take(Said("t", "analyst", "legitimate", 2))
    assert known.take(Said("t", "analyst", "fraud", 3)) == [False]
    assert [(each.label, each.time_us) for each in known.told("t")] == [("fraud", None), ("legitimate", 2)]


def test_contradictions_are_counted_when_they_arrive() -> None:
    known = Remembered()
    known.take(Said("t", "settlement", "legitimate", 1), Said("t", "customer", "legitimate", 2))
    assert known.contradicting == 0
    known.take(Said("t", "chargeback", "fraud", 3), Said("t", "analyst", "fraud", 4))
    assert known.contradicting == 2, "each of the two says the contrary of what was known"


def test_all_labels_that_there_can_be() -> None:
    assert len(label_keys("t")) == len(set(label_keys("t"))) == len(SOURCES) * len(WORDS) == 8
    assert set(contrary_keys("t", "fraud")) | set(contrary_keys("t", "legitimate")) == set(label_keys("t"))
