"""How fraud comes about: four scenarios over a day's genuine payments.

The first three follow ideas of the Fraud Detection Handbook (Le Borgne et al. 2022, chapter 3), in our words:

1. LARGE: single payments of an amount that few customers ever spend.
2. TERMINAL: a terminal in a store is tampered with for weeks; most payments made at it are fraud, of usual
   amounts.
3. CARD: a card's data are stolen; for two weeks a third of its payments are multiplied in amount.
4. RING: begins on a day of your choice. A gang tests stolen cards at night with bursts of tiny online
   payments, all from one device at two brand-new merchants, and empties the cards over the next two nights
   with amounts that their owners might spend. A model trained before has seen neither, and the merchants are
   gone before the first chargeback can give them away.
"""

from dataclasses import dataclass

import numpy as np

from ingestion.simulators.columns import DAY_US, HOUR_US, Columns, Floats, Ints, stack, take
from ingestion.simulators.population import Population, World
from ingestion.simulators.randomness import generator, starts

GENUINE, LARGE, TERMINAL, CARD, RING = range(5)
SCENARIOS = ("genuine", "large", "terminal", "card", "ring")

_LARGE, _TERMINAL, _CARD, _RING = 20, 21, 22, 23
_RING_NIGHTS = 3


@dataclass(frozen=True)
class Fraud:
    """How much fraud of each kind, as expected shares of payments, and its shape; a pair is (least, most)."""

    large_share: float = 0.002
    large_amount: float = 300.0
    """Least amount of a LARGE fraud, in money; the excess over it is exponential, its mean half of it."""
    terminal_share: float = 0.0025
    terminal_days: tuple[int, int] = (21, 35)
    terminal_hits: float = 0.8
    """Share of a compromised terminal's payments that are fraud."""
    card_share: float = 0.003
    card_days: int = 14
    card_hits: float = 1 / 3
    card_multiple: float = 5.0
    ring_share: float = 0.003
    ring_first_day: int | None = None
    """Day of the run on which RING begins, 0 = the first; None: never."""
    ring_cards: int = 6
    ring_tests: tuple[int, int] = (3, 6)
    """Tiny payments that test a card."""
    ring_cashouts: tuple[int, int] = (2, 4)
    """Later payments that empty it."""
    ring_test_amount: tuple[float, float] = (0.5, 4.5)
    ring_cashout_multiple: tuple[float, float] = (0.8, 2.2)
    """Amount of a cash-out as a multiple of the card owner's mean."""

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        total = self.large_share + self.terminal_share + self.card_share + self.ring_share
        if min(self.large_share, self.terminal_share, self.card_share, self.ring_share) < 0 or total > 0.5:
            raise ValueError(f"expected shares of fraud from 0 up to 0.5 together, came {total:.3f}")


@dataclass(frozen=True)
class Ring(Columns):
    """Payments of RING attacks; an attack's device and merchants are its own."""

    time_us: Ints
    customer: Ints
    amount: Floats
    attack: Ints
    merchant: Ints
    """Twice the attack's number, or one more."""


@dataclass(frozen=True)
class _Stolen(Columns):
    """Cards of the attacks that begin in one night; hours since midnight."""

    customer: Ints
    attack: Ints
    began_h: Floats


def compromise(
    fraud: Fraud, world: World, seed: int, day: int, customer: Ints, slot: Ints, amount: Floats
) -> tuple[Floats, Ints]:
    """Scenarios 1 to 3 worked into a day's genuine payments: their new amounts, and the scenario of each."""
    rng = generator(seed, _LARGE, day)
    scenario = np.zeros(len(amount), dtype=np.int64)
    scenario[rng.random(len(amount)) < fraud.large_share] = LARGE
    at_bad = np.isin(slot, compromised_terminals(fraud, world.population, seed, day))
    scenario[at_bad & (rng.random(len(amount)) < fraud.terminal_hits)] = TERMINAL
    by_bad = np.isin(customer, compromised_cards(fraud, world.population, seed, day))
    scenario[by_bad & (rng.random(len(amount)) < fraud.card_hits)] = CARD
    dear = fraud.large_amount * (1.0 + 0.5 * rng.standard_exponential(len(amount)))
    changed = np.select([scenario == LARGE, scenario == CARD], [dear, amount * fraud.card_multiple], amount)
    return changed, scenario


def compromised_terminals(fraud: Fraud, population: Population, seed: int, day: int) -> Ints:
    """In-store slots tampered with on a day."""
    least, most = fraud.terminal_days
    volume = population.payments * (1.0 - population.online_share) / population.in_store
    per_day = fraud.terminal_share * population.payments / (volume * fraud.terminal_hits * (least + most) / 2)
    found = [np.empty(0, dtype=np.int64)]
    for begun in range(day - most + 1, day + 1):
        rng, count = generator(seed, _TERMINAL, begun), len(starts(per_day, begun))
        slots, days = rng.integers(0, population.in_store, count), rng.integers(least, most + 1, count)
        found.append(slots[begun + days > day])
    return np.concatenate(found)


def compromised_cards(fraud: Fraud, population: Population, seed: int, day: int) -> Ints:
    """Customers whose card data are in wrong hands on a day."""
    per_day = fraud.card_share * population.customers / (fraud.card_days * fraud.card_hits)
    begun = range(day - fraud.card_days + 1, day + 1)
    return np.concatenate(
        [generator(seed, _CARD, d).integers(0, population.customers, len(starts(per_day, d))) for d in begun]
    )


def ring(fraud: Fraud, world: World, seed: int, day: int, midnight_us: int) -> Ring:
    """Payments of the RING attacks on the day that begins at `midnight_us`."""
    ago = range(_RING_NIGHTS)
    begun = stack(
        [_attacks(fraud, world, seed, day - nights, midnight_us - nights * DAY_US) for nights in ago]
    )
    return take(begun, (begun.time_us >= midnight_us) & (begun.time_us < midnight_us + DAY_US))


def _attacks(fraud: Fraud, world: World, seed: int, day: int, midnight_us: int) -> Ring:
    """All payments, of this and the next nights, of the attacks that begin on a day."""
    rng = generator(seed, _RING, day)
    cards = _stolen(fraud, world.population, day, rng)
    tested, emptied = _each(cards, fraud.ring_tests, rng), _each(cards, fraud.ring_cashouts, rng)
    test_h = tested.began_h + rng.uniform(0.0, 0.2, len(tested))
    night = rng.integers(1, _RING_NIGHTS, len(emptied))
    test_amount = rng.uniform(*fraud.ring_test_amount, len(tested))
    multiple = rng.uniform(*fraud.ring_cashout_multiple, len(emptied))
    made = stack([tested, emptied])
    hours = np.concatenate([test_h, 24.0 * night + rng.uniform(0.0, 5.5, len(emptied))])
    return Ring(
        time_us=midnight_us + (hours * HOUR_US).astype(np.int64),
        customer=made.customer,
        amount=np.concatenate([test_amount, multiple * world.customers.amount_mean[emptied.customer]]),
        attack=made.attack,
        merchant=2 * made.attack + rng.integers(0, 2, len(made)),
    )


def _stolen(fraud: Fraud, population: Population, day: int, rng: np.random.Generator) -> _Stolen:
    attacks, each = _attack_numbers(fraud, population, day), fraud.ring_cards
    cards = len(attacks) * each
    return _Stolen(
        customer=rng.integers(0, population.customers, cards),
        attack=np.repeat(np.array(attacks, dtype=np.int64), each),
        began_h=np.repeat(rng.uniform(0.5, 4.0, len(attacks)), each) + rng.uniform(0.0, 1.0, cards),
    )


def _each(cards: _Stolen, times: tuple[int, int], rng: np.random.Generator) -> _Stolen:
    """Every card as often as it is used."""
    return take(cards, np.repeat(np.arange(len(cards)), rng.integers(times[0], times[1] + 1, len(cards))))


def _attack_numbers(fraud: Fraud, population: Population, day: int) -> range:
    if fraud.ring_first_day is None or day < fraud.ring_first_day:
        return range(0)
    each = fraud.ring_cards * (sum(fraud.ring_tests) + sum(fraud.ring_cashouts)) / 2
    return starts(fraud.ring_share * population.payments / each, day)
