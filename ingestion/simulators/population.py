"""Who pays where: customers with homes and habits, terminals with places; one world for each seed."""

from dataclasses import dataclass

import numpy as np

from ingestion.simulators.columns import Flags, Floats, Ints
from ingestion.simulators.randomness import generator

_CONCERN = 10
_ROWS_AT_ONCE = 1_024
_KM_PER_DEGREE = 111.32


@dataclass(frozen=True)
class City:
    """Where people live: ISO country, degrees, share of the population."""

    country: str
    latitude: float
    longitude: float
    share: float


CITIES = (
    City("DE", 52.52, 13.40, 0.20),
    City("FR", 48.86, 2.35, 0.20),
    City("ES", 40.42, -3.70, 0.15),
    City("IT", 41.90, 12.50, 0.13),
    City("NL", 52.37, 4.90, 0.10),
    City("AT", 48.21, 16.37, 0.08),
    City("PT", 38.72, -9.14, 0.07),
    City("IE", 53.35, -6.26, 0.07),
)


@dataclass(frozen=True)
class Category:
    """Kind of merchant: its amounts are `factor` times what its customers usually spend."""

    name: str
    factor: float
    share: float
    online: bool


CATEGORIES = (
    Category("grocery", 0.7, 0.35, False),
    Category("restaurant", 0.9, 0.25, False),
    Category("fuel", 1.3, 0.12, False),
    Category("pharmacy", 0.6, 0.10, False),
    Category("clothing", 1.5, 0.12, False),
    Category("electronics", 3.0, 0.06, False),
    Category("marketplace", 1.0, 0.40, True),
    Category("fashion", 1.3, 0.25, True),
    Category("digital_goods", 0.2, 0.25, True),
    Category("travel", 3.5, 0.10, True),
)


@dataclass(frozen=True)
class Population:
    """Size and habits of the population; money in the main unit of `currency`, distances in km."""

    customers: int = 2_500
    terminals: int = 1_000
    payments_per_day: float = 2.0
    """Mean over customers; a customer's own rate is gamma distributed around it."""
    amount_mean: float = 34.0
    """Mean over customers of what a customer usually spends; their own means are log-normal around it."""
    online_share: float = 0.3
    """Mean over customers of the share of payments made online."""
    online_terminals: float = 0.15
    """Share of terminals that are online merchants."""
    radius_km: float = 6.0
    """How far from home a customer's usual terminals lie."""
    city_spread_km: float = 8.0
    travel_share: float = 0.03
    """Share of in-store payments made anywhere, far from home as well."""
    terminal_life_days: float = 250.0
    """Mean time until a terminal is replaced by a new one at the same place (a new id without history)."""
    currency: str = "EUR"

    def __post_init__(self) -> None:
        """Refuse a population that no city can hold."""
        if self.customers < 1 or self.in_store < len(CITIES) or self.online < 1:
            raise ValueError(
                f"expected a customer, an online terminal and {len(CITIES)} in stores, came "
                f"{self.customers} customers, {self.online} online, {self.in_store} in stores"
            )

    @property
    def online(self) -> int:
        """Number of online terminals; they follow the ones in stores."""
        return round(self.terminals * self.online_terminals)

    @property
    def in_store(self) -> int:
        """Number of terminals in stores: slots 0 up to this."""
        return self.terminals - self.online

    @property
    def payments(self) -> float:
        """Expected genuine payments a day."""
        return self.customers * self.payments_per_day


@dataclass(frozen=True)
class Customers:
    """One row a customer. `near` holds up to 24 in-store slots, nearest first; `near_count` are used."""

    rate: Floats
    amount_mean: Floats
    amount_spread: Floats
    online_share: Floats
    peak_h: Floats
    near: Ints
    near_count: Ints
    favourites: Ints


@dataclass(frozen=True)
class Terminals:
    """One row a slot. A slot's terminal is replaced every `life_days`, first after `life_days - age_days`."""

    latitude: Floats
    longitude: Floats
    country: Ints
    category: Ints
    factor: Floats
    tells_place: Flags
    tells_category: Flags
    life_days: Floats
    age_days: Floats


@dataclass(frozen=True)
class World:
    """Customers and terminals of a population."""

    population: Population
    customers: Customers
    terminals: Terminals


def populate(population: Population, seed: int) -> World:
    """The world of a seed."""
    rng = generator(seed, _CONCERN)
    shops = _terminal_cities(population, rng)
    shop_km = _offsets(population, population.terminals, rng)
    homes = rng.choice(len(CITIES), population.customers, p=[city.share for city in CITIES])
    home_km = _offsets(population, population.customers, rng)
    near, near_count = _near(population, homes, home_km, shops, shop_km)
    customers = _customers(population, near, near_count, rng)
    return World(population, customers, _terminals(population, shops, shop_km, rng))


def favoured(count: Ints | int, bias: float, rng: np.random.Generator, size: int | tuple[int, int]) -> Ints:
    """Ranks from 0 up to count, low ranks more often the higher the bias (1 = evenly)."""
    return (count * rng.random(size) ** bias).astype(np.int64)


def _customers(population: Population, near: Ints, near_count: Ints, rng: np.random.Generator) -> Customers:
    n = population.customers
    online = population.online_share
    return Customers(
        rate=rng.gamma(3.0, population.payments_per_day / 3.0, n),
        amount_mean=population.amount_mean * np.exp(0.5 * rng.standard_normal(n) - 0.125),
        amount_spread=rng.uniform(0.3, 0.8, n),
        online_share=rng.beta(4.0 * online, 4.0 * (1.0 - online), n),
        peak_h=rng.normal(14.0, 2.0, n),
        near=near,
        near_count=near_count,
        favourites=population.in_store + favoured(population.online, 1.5, rng, (n, 6)),
    )


def _terminals(population: Population, city: Ints, km: Floats, rng: np.random.Generator) -> Terminals:
    n = population.terminals
    centre = np.array([(place.latitude, place.longitude) for place in CITIES])[city]
    category = np.concatenate(
        [_categories(population.in_store, False, rng), _categories(population.online, True, rng)]
    )
    life = np.maximum(rng.exponential(population.terminal_life_days, n), 7.0)
    return Terminals(
        latitude=np.round(centre[:, 0] + km[:, 0] / _KM_PER_DEGREE, 5),
        longitude=np.round(centre[:, 1] + km[:, 1] / (_KM_PER_DEGREE * np.cos(np.radians(centre[:, 0]))), 5),
        country=city,
        category=category,
        factor=np.array([kind.factor for kind in CATEGORIES])[category],
        tells_place=(rng.random(n) < 0.7) & (np.arange(n) < population.in_store),
        tells_category=rng.random(n) < 0.9,
        life_days=life,
        age_days=life * rng.random(n),
    )


def _categories(n: int, online: bool, rng: np.random.Generator) -> Ints:
    kinds = [index for index, kind in enumerate(CATEGORIES) if kind.online == online]
    return rng.choice(np.array(kinds), n, p=[CATEGORIES[index].share for index in kinds])


def _terminal_cities(population: Population, rng: np.random.Generator) -> Ints:
    """City of each terminal; the first ones go round, so that no city is without a store."""
    cities = rng.choice(len(CITIES), population.terminals, p=[city.share for city in CITIES])
    cities[: len(CITIES)] = np.arange(len(CITIES))
    return cities


def _offsets(population: Population, n: int, rng: np.random.Generator) -> Floats:
    """Km north and east of the city's centre, shape (n, 2)."""
    return rng.normal(0.0, population.city_spread_km, (n, 2))


def _near(
    population: Population, homes: Ints, home_km: Floats, shops: Ints, shop_km: Floats
) -> tuple[Ints, Ints]:
    near = np.zeros((len(homes), 24), dtype=np.int64)
    count = np.zeros(len(homes), dtype=np.int64)
    for city in range(len(CITIES)):
        stores = np.flatnonzero(shops[: population.in_store] == city)
        residents = np.flatnonzero(homes == city)
        for first in range(0, len(residents), _ROWS_AT_ONCE):
            some = residents[first : first + _ROWS_AT_ONCE]
            ranks, count[some] = _nearest(home_km[some], shop_km[stores], population.radius_km, near.shape[1])
            near[some, : ranks.shape[1]] = stores[ranks]
    return near, count


def _nearest(homes: Floats, shops: Floats, radius: float, limit: int) -> tuple[Ints, Ints]:
    """Indices of the nearest shops, nearest first, and how many lie within the radius (at least one)."""
    distance = np.hypot(homes[:, :1] - shops[:, 0], homes[:, 1:] - shops[:, 1])
    close = np.argpartition(distance, min(limit, len(shops)) - 1, axis=1)[:, :limit]
    ordered = np.argsort(np.take_along_axis(distance, close, axis=1), axis=1, kind="stable")
    ranks = np.take_along_axis(close, ordered, axis=1)
    within = (np.take_along_axis(distance, ranks, axis=1) <= radius).sum(axis=1)
    return ranks, np.maximum(within, 1)
