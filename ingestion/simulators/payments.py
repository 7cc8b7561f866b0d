"""Payments of a population with known fraud, and their labels as they would arrive.

A day is drawn from (seed, day) alone:

* customer c makes Poisson(rate_c × weekday factor) payments; rate_c ~ Gamma(3, mean/3);
* each is online with probability online_c ~ Beta: at a favourite merchant (4 in 5) or a popular one, at
  Normal(peak_c + 4 h, 4 h); otherwise in a store near home, the nearest most often, or anywhere when
  travelling, at Normal(peak_c, 2.5 h); hours run round the clock, in UTC;
* amount = mean_c × category factor × exp(spread_c Z - spread_c²/2), Z standard normal, at least 0.50;
* fraud is worked in as `scenarios` says: scenarios 1 to 3 change genuine payments, 4 adds payments;
* a fraud's label is a chargeback, uniformly late; any other payment is legitimate after fixed days.

Two runs with the same parameters give the same columns bit for bit (with the same numpy), and
`simulate(p, 90)` followed by `simulate(p, 10, first_day=90)` is `simulate(p, 100)`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from ingestion.simulators.columns import (
    DAY_US,
    HOUR_US,
    Columns,
    Flags,
    Floats,
    Ints,
    Words,
    midnight_us,
    stack,
    take,
)
from ingestion.simulators.population import CATEGORIES, CITIES, Population, World, favoured, populate
from ingestion.simulators.randomness import generator
from ingestion.simulators.scenarios import GENUINE, RING, Fraud, Ring, compromise, ring

_GENUINE, _LABEL = 11, 12
_WEEK = np.array([0.9, 0.92, 0.96, 1.0, 1.15, 1.22, 0.85])
"""Payments by day of the week from Monday, against the mean day."""


@dataclass(frozen=True)
class Labels:
    """When labels arrive, in days after the payment."""

    chargeback_days: tuple[float, float] = (3.0, 14.0)
    """A fraud's chargeback arrives uniformly between these."""
    settlement_days: float = 7.0
    """Any other payment counts as legitimate from then on."""


@dataclass(frozen=True)
class Payments:
    """Everything that a run of payments depends on."""

    seed: int
    start: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    """Midnight UTC of day 0."""
    population: Population = field(default_factory=Population)
    fraud: Fraud = field(default_factory=Fraud)
    labels: Labels = field(default_factory=Labels)

    def __post_init__(self) -> None:
        """Refuse a start inside a day and a negative seed."""
        midnight_us(self.start)
        if self.seed < 0:
            raise ValueError(f"seed: expected 0 or more, came {self.seed}")


@dataclass(frozen=True)
class PaymentLog(Columns):
    """Payments in order of event time; `scenario` (as in `SCENARIOS`) is the truth, for judging only."""

    transaction_id: Words
    event_time_us: Ints
    customer_id: Words
    terminal_id: Words
    amount: Floats
    currency: Words
    channel: Words
    country: Words
    device_id: Words
    """None in stores."""
    latitude: Floats
    """Degrees; NaN online and where the terminal does not tell its place."""
    longitude: Floats
    merchant_category: Words
    """None where the terminal does not tell."""
    scenario: Ints
    label: Words
    label_time_us: Ints
    source: Words

    @property
    def is_fraud(self) -> Flags:
        """The truth."""
        fraud: Flags = self.scenario != GENUINE
        return fraud

    def between(self, from_us: int, to_us: int) -> "PaymentLog":
        """Payments with event time in [from_us, to_us)."""
        first, last = np.searchsorted(self.event_time_us, [from_us, to_us])
        return take(self, slice(first, last))

    def labelled_between(self, from_us: int, to_us: int) -> "PaymentLog":
        """Payments whose label arrives in [from_us, to_us), in order of arrival."""
        rows = np.flatnonzero((self.label_time_us >= from_us) & (self.label_time_us < to_us))
        return take(self, rows[np.argsort(self.label_time_us[rows], kind="stable")])


@dataclass(frozen=True)
class _Draft(Columns):
    """Payments before they get their names; the ring's merchants are slots after the world's."""

    time_us: Ints
    customer: Ints
    slot: Ints
    amount: Floats
    device: Ints
    scenario: Ints


def simulate(process: Payments, days: int, first_day: int = 0) -> PaymentLog:
    """Payments of days first_day up to first_day + days."""
    if days < 1 or first_day < 0:
        raise ValueError(f"expected days of 1 or more from day 0 or later, came {days} from {first_day}")
    return stack(list(each_day(process, days, first_day)))


def each_day(process: Payments, days: int, first_day: int = 0) -> Iterator[PaymentLog]:
    """The same payments day by day, in the memory of one day."""
    world = populate(process.population, process.seed)
    for day in range(first_day, first_day + days):
        yield _named(process, world, day, _drafted(process, world, day))


def _drafted(process: Payments, world: World, day: int) -> _Draft:
    midnight = midnight_us(process.start) + day * DAY_US
    genuine = _genuine(process, world, day, midnight)
    amount, scenario = compromise(
        process.fraud, world, process.seed, day, genuine.customer, genuine.slot, genuine.amount
    )
    changed = _Draft(genuine.time_us, genuine.customer, genuine.slot, amount, genuine.device, scenario)
    drafted = stack([changed, _gang(world, ring(process.fraud, world, process.seed, day, midnight))])
    return take(drafted, np.argsort(drafted.time_us, kind="stable"))


def _genuine(process: Payments, world: World, day: int, midnight: int) -> _Draft:
    rng = generator(process.seed, _GENUINE, day)
    people = world.customers
    weekday = (process.start.weekday() + day) % 7
    counts = rng.poisson(people.rate * _WEEK[weekday])
    customer = np.repeat(np.arange(len(counts)), counts)
    online = rng.random(len(customer)) < people.online_share[customer]
    slot = np.where(online, _merchant(world, customer, rng), _store(world, customer, rng))
    return _Draft(
        time_us=midnight + _time_of_day(people.peak_h[customer], online, rng),
        customer=customer,
        slot=slot,
        amount=_amount(world, customer, slot, rng),
        device=np.where(online, 2 * customer + (rng.random(len(customer)) < 0.15), -1),
        scenario=np.zeros(len(customer), dtype=np.int64),
    )


def _merchant(world: World, customer: Ints, rng: np.random.Generator) -> Ints:
    favourites = world.customers.favourites
    usual = favourites[customer, rng.integers(0, favourites.shape[1], len(customer))]
    popular = world.population.in_store + favoured(world.population.online, 1.5, rng, len(customer))
    return np.where(rng.random(len(customer)) < 0.8, usual, popular)


def _store(world: World, customer: Ints, rng: np.random.Generator) -> Ints:
    rank = favoured(world.customers.near_count[customer], 1.5, rng, len(customer))
    anywhere = rng.integers(0, world.population.in_store, len(customer))
    travels = rng.random(len(customer)) < world.population.travel_share
    return np.where(travels, anywhere, world.customers.near[customer, rank])


def _time_of_day(peak_h: Floats, online: Flags, rng: np.random.Generator) -> Ints:
    """Microseconds since midnight, in [0, one day)."""
    spread = np.where(online, 4.0, 2.5) * rng.standard_normal(len(peak_h))
    hours = np.where(online, peak_h + 4.0, peak_h) + spread
    return (hours * HOUR_US).astype(np.int64) % DAY_US


def _amount(world: World, customer: Ints, slot: Ints, rng: np.random.Generator) -> Floats:
    spread = world.customers.amount_spread[customer]
    relative = np.exp(spread * rng.standard_normal(len(customer)) - spread**2 / 2)
    return world.customers.amount_mean[customer] * world.terminals.factor[slot] * relative


def _gang(world: World, attacks: Ring) -> _Draft:
    return _Draft(
        time_us=attacks.time_us,
        customer=attacks.customer,
        slot=world.population.terminals + attacks.merchant,
        amount=attacks.amount,
        device=2 * world.population.customers + attacks.attack,
        scenario=np.full(len(attacks.time_us), RING),
    )


def _named(process: Payments, world: World, day: int, draft: _Draft) -> PaymentLog:
    n, terminals = len(draft), world.terminals
    seat = _seat(world, draft.slot)
    is_online = seat >= world.population.in_store
    fraud = draft.scenario != GENUINE
    return PaymentLog(
        transaction_id=_words(f"t-{day:04d}-{number:06d}" for number in range(n)),
        event_time_us=draft.time_us,
        customer_id=_numbered("c", draft.customer),
        terminal_id=_terminal_ids(world, day, draft.slot),
        amount=np.maximum(np.round(draft.amount, 2), 0.5),
        currency=np.full(n, process.population.currency, dtype=object),
        channel=_words(("in_store", "online"))[is_online.astype(np.int64)],
        country=_words(city.country for city in CITIES)[terminals.country[seat]],
        device_id=_where(draft.device >= 0, _numbered("d", draft.device)),
        latitude=np.where(terminals.tells_place[seat], terminals.latitude[seat], np.nan),
        longitude=np.where(terminals.tells_place[seat], terminals.longitude[seat], np.nan),
        merchant_category=_where(terminals.tells_category[seat], _category_names()[terminals.category[seat]]),
        scenario=draft.scenario,
        label=_words(("legitimate", "fraud"))[fraud.astype(np.int64)],
        label_time_us=draft.time_us + _label_delay_us(process, day, fraud),
        source=_words(("settlement", "chargeback"))[fraud.astype(np.int64)],
    )


def _seat(world: World, slot: Ints) -> Ints:
    """Slot whose country and category a payment shows; the ring's borrow an online merchant's."""
    population = world.population
    return np.where(slot < population.terminals, slot, population.in_store + slot % population.online)


def _terminal_ids(world: World, day: int, slot: Ints) -> Words:
    """Slot and how often its terminal has been replaced, as a word; the ring's look like any other."""
    found, place = np.unique(slot, return_inverse=True)
    real = np.minimum(found, world.population.terminals - 1)
    age = day + world.terminals.age_days[real]
    replaced = np.where(found == real, age // world.terminals.life_days[real], 0).astype(np.int64)
    return _words(f"m-{s}-{r}" for s, r in zip(found.tolist(), replaced.tolist(), strict=True))[place]


def _label_delay_us(process: Payments, day: int, fraud: Flags) -> Ints:
    rng = generator(process.seed, _LABEL, day)
    late = rng.uniform(*process.labels.chargeback_days, len(fraud))
    return (np.where(fraud, late, process.labels.settlement_days) * DAY_US).astype(np.int64)


def _where(given: Flags, words: Words) -> Words:
    missing = words.copy()
    missing[~given] = None
    return missing


def _category_names() -> Words:
    return _words(kind.name for kind in CATEGORIES)


def _numbered(letter: str, numbers: Ints) -> Words:
    """Each number after a letter and a hyphen; equal numbers share one string."""
    found, place = np.unique(numbers, return_inverse=True)
    return _words(f"{letter}-{number}" for number in found.tolist())[place]


def _words(values: Iterator[str] | tuple[str, ...]) -> Words:
    return np.array(list(values), dtype=object)
