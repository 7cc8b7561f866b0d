"""Laws of every entity and every aggregate there is: new ones are found, not listed."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.domains import DOMAINS
from features.state import (
    CODES_A_COLUMN,
    MICROSECONDS,
    Began,
    Decayed,
    Entity,
    Events,
    FirstOfDay,
    Floats,
    Folded,
    Latest,
    Peak,
    Recent,
    Run,
    States,
    fold,
    life_s,
    read,
    recall,
)

ENTITIES = {each.name: each for one in DOMAINS.values() for each in one.features.entities}
AGGREGATES = {f"{e.name}-{a.name}": (e, a) for e in ENTITIES.values() for a in e.aggregates}
DECAYED = {name: pair for name, pair in AGGREGATES.items() if isinstance(pair[1], Decayed)}
LATEST = {name: pair for name, pair in AGGREGATES.items() if isinstance(pair[1], Latest)}

PEAK = {name: pair for name, pair in AGGREGATES.items() if isinstance(pair[1], Peak)}
RUN = {name: pair for name, pair in AGGREGATES.items() if isinstance(pair[1], Run)}
FIRST = {name: pair for name, pair in AGGREGATES.items() if isinstance(pair[1], FirstOfDay)}
RECENT = {name: pair for name, pair in AGGREGATES.items() if isinstance(pair[1], Recent)}

every_entity = pytest.mark.parametrize("entity", ENTITIES.values(), ids=ENTITIES)
every_decayed = pytest.mark.parametrize(("entity", "aggregate"), DECAYED.values(), ids=DECAYED)
every_latest = pytest.mark.parametrize(("entity", "aggregate"), LATEST.values(), ids=LATEST)
every_peak = pytest.mark.parametrize(("entity", "aggregate"), PEAK.values(), ids=PEAK)
every_run = pytest.mark.parametrize(("entity", "aggregate"), RUN.values(), ids=RUN)
every_first = pytest.mark.parametrize(("entity", "aggregate"), FIRST.values(), ids=FIRST)
every_recent = pytest.mark.parametrize(("entity", "aggregate"), RECENT.values(), ids=RECENT)
quick = settings(max_examples=40, deadline=None)

START_US = 1_700_000_000 * MICROSECONDS
KEYS = 3
KINDS = (0, 1)
CODES = np.array([math.nan, 1, 2, 3, 77, 2**16, 2**17 - 2, 2**17 - 1, *range(100, 106)])

gaps_us = st.sampled_from([0, 1, 999_999, 1_000_000, 3_600_000_000, 86_400_000_000, 40 * 86_400_000_000])
steps_us = st.tuples(st.sampled_from([1, 1, 1, -1]), gaps_us).map(math.prod)
amounts = st.one_of(st.just(math.nan), st.floats(0, 1e9, allow_subnormal=False))
seeds = st.integers(0, 2**32)


@st.composite
def streams(draw: st.DrawFn, entity: Entity) -> Events:
    """A stream of one entity kind: ties, late events, values not given, several keys."""
    rows = draw(st.lists(st.tuples(st.sampled_from(KINDS), steps_us, st.integers(0, KEYS - 1)), max_size=25))
    given = draw(st.lists(amounts, min_size=len(rows), max_size=len(rows)))
    n = len(rows)
    kind, step, key = np.array(rows, np.int64).reshape(n, 3).T.copy()
    time_us = START_US + np.cumsum(step)
    return Events(kind, time_us, key, 7 * np.arange(n), values_of(entity, given, time_us))


def values_of(entity: Entity, given: list[float], time_us: npt.NDArray[np.int64]) -> Floats:
    """A different value in each column, NaN where nothing is given; times are always given; codes are few."""
    values = np.array(given, np.float64).reshape(-1, 1) + np.arange(len(entity.values))
    for aggregate in entity.aggregates:
        column = entity.values.index(aggregate.value)
        if isinstance(aggregate, Latest | FirstOfDay) and aggregate.clock == aggregate.name:
            values[:, column] = time_us / MICROSECONDS
        if isinstance(aggregate, Recent):
            values[:, column] = CODES[np.nan_to_num(values[:, column]).astype(np.int64) % len(CODES)]
    return values


def same_bits(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> bool:
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    return left.shape == right.shape and left.tobytes() == right.tobytes()


def same_states(left: States, right: States) -> bool:
    pairs = [
        (left.columns, right.columns), (left.stamp_us, right.stamp_us), (left.position, right.position)
    ]  # fmt: skip
    return all(same_bits(*pair) for pair in pairs)


def same_folded(left: Folded, right: Folded) -> bool:
    pairs = [(left.seen, right.seen), (left.stamp_us, right.stamp_us), (left.fresh, right.fresh)]
    return all(same_bits(*pair) for pair in pairs)


def rows_of(events: Events, at: npt.NDArray[Any] | slice) -> Events:
    names = ("kind", "time_us", "entity", "position", "values")
    return Events(**{name: getattr(events, name)[at] for name in names})


def folded(entity: Entity, events: Events, keep: Any = "before") -> tuple[States, Folded]:
    states = States.cold(entity, KEYS)
    return states, fold(entity, states, events, keep)


@every_entity
def test_how_a_stream_is_cut_into_batches_changes_nothing(entity: Entity) -> None:
    @quick
    @given(streams(entity), st.lists(st.integers(0, 25)), st.sampled_from(["before", "after"]))
    def law(events: Events, cuts: list[int], keep: Any) -> None:
        whole_states, whole = folded(entity, events, keep)
        states = States.cold(entity, KEYS)
        bounds = sorted({0, len(events.kind), *(cut for cut in cuts if cut < len(events.kind))})
        parts = [fold(entity, states, rows_of(events, slice(*bound)), keep) for bound in pairwise(bounds)]
        assert same_states(states, whole_states)
        if parts:
            joined = [
                np.concatenate(each) for each in zip(*(vars(part).values() for part in parts), strict=True)
            ]
            assert same_folded(Folded(*joined), whole)

    law()


@every_entity
def test_the_state_before_an_event_is_the_state_after_the_one_before_it(entity: Entity) -> None:
    @quick
    @given(streams(entity))
    def law(events: Events) -> None:
        _, before = folded(entity, events, "before")
        _, after = folded(entity, events, "after")
        for key in range(KEYS):
            mine = np.flatnonzero(events.entity == key)
            expected = np.concatenate([entity.cold(1), after.seen[mine][:-1]])[: len(mine)]
            assert same_bits(before.seen[mine], expected)

    law()


@every_entity
def test_events_of_other_entities_change_nothing(entity: Entity) -> None:
    @quick
    @given(streams(entity))
    def law(events: Events) -> None:
        states, together = folded(entity, events)
        for key in range(KEYS):
            mine = np.flatnonzero(events.entity == key)
            alone_states, alone = folded(entity, rows_of(events, mine))
            assert same_bits(alone.seen, together.seen[mine])
            assert same_bits(alone.stamp_us, together.stamp_us[mine])
            assert same_bits(alone_states.columns[key], states.columns[key])

    law()


@every_entity
def test_any_part_of_the_stream_may_come_again(entity: Entity) -> None:
    @quick
    @given(streams(entity), seeds)
    def law(events: Events, seed: int) -> None:
        states, first = folded(entity, events)
        n = len(events.kind)
        seen_once = States(states.columns.copy(), states.stamp_us.copy(), states.position.copy())
        start = np.random.default_rng(seed).integers(0, n + 1)
        again = fold(entity, states, rows_of(events, slice(start, n)))
        assert same_states(states, seen_once)
        assert not again.fresh.any()
        assert first.fresh.all()
        assert same_bits(again.seen, seen_once.columns[events.entity[start:]])
        assert same_bits(again.stamp_us, seen_once.stamp_us[events.entity[start:]])

    law()


@every_entity
def test_a_batch_that_begins_with_what_was_folded_folds_the_rest(entity: Entity) -> None:
    @quick
    @given(streams(entity), seeds)
    def law(events: Events, seed: int) -> None:
        whole, _ = folded(entity, events)
        half = np.random.default_rng(seed).integers(0, len(events.kind) + 1)
        states, _ = folded(entity, rows_of(events, slice(0, half)))
        again = fold(entity, states, events)
        assert same_states(states, whole)
        assert again.fresh.tolist() == [i >= half for i in range(len(events.kind))]

    law()


@every_entity
def test_stamps_rise_strictly_and_are_the_time_where_they_can_be(entity: Entity) -> None:
    @quick
    @given(streams(entity))
    def law(events: Events) -> None:
        states, told = folded(entity, events)
        for key in range(KEYS):
            mine = events.entity == key
            stamps, last = told.stamp_us[mine].tolist(), None
            for stamp, time in zip(stamps, events.time_us[mine].tolist(), strict=True):
                assert stamp == (time if last is None or time > last else last + 1)
                last = stamp
            if stamps:
                assert states.stamp_us[key] == stamps[-1]
                assert states.position[key] == events.position[mine][-1]

    law()


@every_entity
def test_seen_at_is_the_greatest_time(entity: Entity) -> None:
    @quick
    @given(streams(entity))
    def law(events: Events) -> None:
        states, _ = folded(entity, events)
        for key in range(KEYS):
            times = events.time_us[events.entity == key]
            expected = np.max(times / MICROSECONDS) if len(times) else math.nan
            assert same_bits(states.columns[key, :1], np.array([expected]))

    law()


@every_decayed
def test_sums_are_those_of_the_formula_in_whatever_order_events_came(
    entity: Entity, aggregate: Decayed
) -> None:
    """Sum of x^p exp(-(T - t) / life), T the greatest time: late events add what is left of them."""

    @quick
    @given(streams(entity), seeds)
    def law(events: Events, seed: int) -> None:
        shuffled = np.random.default_rng(seed).permutation(len(events.kind))
        events = replace(rows_of(events, shuffled), position=events.position)
        states, _ = folded(entity, events)
        for key in range(KEYS):
            for part in aggregate.parts:
                power = ("n", "sum", "squares").index(part)
                found = states.columns[key, entity.blocks[f"{aggregate.name}_{part}"]]
                expected = [directly(entity, aggregate, events, key, power, each) for each in aggregate.lives]
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-300)

    law()


def directly(entity: Entity, aggregate: Decayed, events: Events, key: int, power: int, life: str) -> float:
    x = events.values[:, entity.values.index(aggregate.value)]
    ours = (events.entity == key) & (events.kind == aggregate.event) & ~np.isnan(x)
    if not ours.any():
        return 0.0
    latest = events.time_us[events.entity == key].max()
    age_s = (latest - events.time_us[ours]) / MICROSECONDS
    return math.fsum(x[ours] ** power * np.exp(-age_s / life_s(life)))


@every_latest
def test_latest_is_the_value_of_the_event_with_the_greatest_time(entity: Entity, aggregate: Latest) -> None:
    """Among events of its kind; of several at that time, the one that came last. Late ones count too."""

    @quick
    @given(streams(entity))
    def law(events: Events) -> None:
        events = replace(events, values=np.nan_to_num(events.values, nan=17.0))
        states, _ = folded(entity, events)
        x = events.values[:, entity.values.index(aggregate.value)]
        for key in range(KEYS):
            ours = np.flatnonzero((events.entity == key) & (events.kind == aggregate.event))
            newest = max(ours, key=lambda i: (events.time_us[i], i), default=None)
            expected = math.nan if newest is None else x[newest]
            assert same_bits(states.columns[key, entity.blocks[aggregate.name]], np.array([expected]))

    law()


@every_first
def test_what_came_first_on_the_newest_day_stays_until_the_next(
    entity: Entity, aggregate: FirstOfDay
) -> None:
    """Of events of its kind in the order of the stream; one of an earlier day changes nothing."""

    @quick
    @given(streams(entity))
    def law(events: Events) -> None:
        events = replace(events, values=np.nan_to_num(events.values, nan=17.0))
        states, _ = folded(entity, events)
        x = events.values[:, entity.values.index(aggregate.value)]
        day = events.time_us // 86_400_000_000
        for key in range(KEYS):
            ours = np.flatnonzero((events.entity == key) & (events.kind == aggregate.event))
            first = next((i for i in ours if day[i] == day[ours].max()), None)
            expected = math.nan if first is None else x[first]
            assert same_bits(states.columns[key, entity.blocks[aggregate.name]], np.array([expected]))

    law()


@every_peak
def test_a_peak_is_the_greatest_of_what_is_left_in_whatever_order_events_came(
    entity: Entity, aggregate: Peak
) -> None:
    @quick
    @given(streams(entity), seeds)
    def law(events: Events, seed: int) -> None:
        shuffled = np.random.default_rng(seed).permutation(len(events.kind))
        events = replace(rows_of(events, shuffled), position=events.position)
        states, _ = folded(entity, events)
        x = events.values[:, entity.values.index(aggregate.value)]
        for key in range(KEYS):
            ours = (events.entity == key) & (events.kind == aggregate.event) & ~np.isnan(x)
            latest = events.time_us[events.entity == key].max(initial=0)
            age_s = (latest - events.time_us[ours]) / MICROSECONDS
            expected = (x[ours] * np.exp(-age_s / life_s(aggregate.life))).max(initial=0.0)
            found = states.columns[key, entity.blocks[aggregate.name]]
            np.testing.assert_allclose(found, [expected], rtol=1e-9, atol=1e-300)

    law()


@every_run
def test_a_run_is_broken_by_another_value_and_its_beginning_is_kept(entity: Entity, aggregate: Run) -> None:
    """In the order of the stream, whatever their times."""
    begins = [each for each in entity.aggregates if isinstance(each, Began) and each.run == aggregate.name]

    @quick
    @given(streams(entity))
    def law(events: Events) -> None:
        events = replace(events, values=np.where(events.values > 5e8, 0.0, events.values))
        states, _ = folded(entity, events)
        names = (aggregate.value, *(each.value for each in begins))
        x, *begun = (events.values[:, entity.values.index(name)] for name in names)
        for key in range(KEYS):
            ours = np.flatnonzero((events.entity == key) & (events.kind == aggregate.event))
            length, starts = 0, [math.nan] * len(begins)
            for i in ours:
                starts = [
                    mine[i] if length == 0 and not math.isnan(mine[i]) else start
                    for mine, start in zip(begun, starts, strict=True)
                ]
                length = length if math.isnan(x[i]) else length + 1 if x[i] == 0 else 0
            found = states.columns[key, entity.blocks[aggregate.name]]
            assert same_bits(found, np.array([float(length)]))
            for each, start in zip(begins, starts, strict=True):
                assert same_bits(states.columns[key, entity.blocks[each.name]], np.array([start]))

    law()


@every_recent
def test_recent_codes_are_the_distinct_ones_that_came_last(entity: Entity, aggregate: Recent) -> None:
    """In the order of the stream, whatever their times."""

    @quick
    @given(streams(entity))
    def law(events: Events) -> None:
        states, _ = folded(entity, events)
        x = events.values[:, entity.values.index(aggregate.value)]
        most = CODES_A_COLUMN * aggregate.columns
        for key in range(KEYS):
            ours = (events.entity == key) & (events.kind == aggregate.event) & ~np.isnan(x)
            newest = list(dict.fromkeys(x[ours][::-1].tolist()))
            block = states.columns[[key], entity.blocks[aggregate.name]]
            for code in CODES:
                place = newest.index(code) if code in newest[:most] else most
                expected = math.nan if math.isnan(code) else float(place)
                assert same_bits(recall(block, np.array([[code]])), np.array([[expected]]))

    law()
    assert recall(np.empty((0, aggregate.columns)), np.empty((0, 1))).shape == (0, 1)


@every_entity
def test_reading_many_is_reading_each_bit_for_bit(entity: Entity) -> None:
    """A request is a batch of one: vectorised arithmetic must not round otherwise."""

    @quick
    @given(streams(entity), seeds, st.integers(1, 67))
    def law(events: Events, seed: int, n: int) -> None:
        states, _ = folded(entity, events)
        rng = np.random.default_rng(seed)
        rows = states.columns[rng.integers(0, KEYS, n)]
        at_s = START_US / MICROSECONDS + rng.choice([0.0, 1e-6, 1.5, 3e3, 9e5, 3e7, -1e4], n) * rng.random(n)
        many = read(entity, rows, at_s).columns
        each = [read(entity, rows[i : i + 1], at_s[i : i + 1]).columns[0] for i in range(n)]
        assert same_bits(many, np.array(each))

    law()


@every_decayed
def test_an_idle_entity_fades(entity: Entity, aggregate: Decayed) -> None:
    @quick
    @given(streams(entity), st.floats(0, 4e7))
    def law(events: Events, idle_s: float) -> None:
        states, _ = folded(entity, events)
        at_s = states.columns[:, 0] + idle_s
        snapshot = read(entity, states.columns, at_s)
        exactly_idle_s = np.where(np.isnan(at_s), 0.0, at_s - states.columns[:, 0])
        lives = np.array([life_s(each) for each in aggregate.lives])
        for part in aggregate.parts:
            block = f"{aggregate.name}_{part}"
            was = states.columns[:, entity.blocks[block]]
            faded = was * np.exp(-exactly_idle_s[:, None] / lives)
            np.testing.assert_allclose(snapshot.block(block), faded, rtol=1e-12, atol=1e-300)

    law()


@every_latest
def test_idleness_does_not_change_the_latest(entity: Entity, aggregate: Latest) -> None:
    @quick
    @given(streams(entity), st.floats(0, 4e7))
    def law(events: Events, idle_s: float) -> None:
        states, _ = folded(entity, events)
        then = read(entity, states.columns, states.columns[:, 0] + idle_s).block(aggregate.name)
        assert same_bits(then, states.columns[:, entity.blocks[aggregate.name]])

    law()


@every_entity
def test_a_late_request_sees_the_state_as_it_stands(entity: Entity) -> None:
    @quick
    @given(streams(entity), st.floats(0, 1e7))
    def law(events: Events, late_s: float) -> None:
        states, _ = folded(entity, events)
        seen = read(entity, states.columns, states.columns[:, 0] - late_s).columns
        assert same_bits(seen, states.columns)

    law()


@every_entity
def test_reading_changes_nothing(entity: Entity) -> None:
    states, _ = folded(entity, one_of_each(entity))
    before = states.columns.copy()
    read(entity, states.columns, np.full(KEYS, START_US / MICROSECONDS + 5e6))
    assert same_bits(states.columns, before)


@every_entity
def test_values_that_are_not_given_only_let_time_pass(entity: Entity) -> None:
    states, _ = folded(entity, one_of_each(entity))
    nothing = Events(
        kind=np.array([0, 1]),
        time_us=np.full(2, START_US + 3_600 * MICROSECONDS),
        entity=np.zeros(2, np.int64),
        position=np.array([1_000, 1_001]),
        values=np.full((2, len(entity.values)), np.nan),
    )
    at_s = nothing.time_us[:1] / MICROSECONDS
    expected = read(entity, states.columns[:1], at_s).columns
    fold(entity, states, nothing)
    np.testing.assert_allclose(states.columns[:1, 1:], expected[:, 1:], rtol=1e-12)
    assert states.columns[0, 0] == at_s[0]


def one_of_each(entity: Entity) -> Events:
    n = len(KINDS)
    time_us = START_US + np.arange(n)
    return Events(
        np.array(KINDS), time_us, np.zeros(n, np.int64), np.arange(n), values_of(entity, [3.5] * n, time_us)
    )


@every_entity
def test_every_column_belongs_to_one_block(entity: Entity) -> None:
    covered = [column for block in entity.blocks.values() for column in range(*block.indices(10_000))]
    assert sorted(covered) == list(range(len(entity.columns)))
    assert len(set(entity.columns)) == len(entity.columns)


@every_entity
def test_an_entity_never_seen_reads_as_cold_at_any_time(entity: Entity) -> None:
    cold = read(entity, entity.cold(3), np.array([0.0, 1.7e9, 4e9])).columns
    assert same_bits(cold, entity.cold(3))


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
def test_a_matrix_of_many_requests_is_the_matrices_of_each(domain: Any) -> None:
    features = domain.features

    @quick
    @given(st.data(), seeds, st.integers(1, 37))
    def law(data: st.DataObject, seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        states = {
            entity.name: folded(entity, data.draw(streams(entity)))[0].columns[rng.integers(0, KEYS, n)]
            for entity in features.entities
        }
        request = {name: rng.choice([np.nan, 0.0, 1.0, 17.25, 1e9], n) for name in features.request}
        at_s = START_US / MICROSECONDS + rng.random(n) * 4e6
        many = features.matrix(states, request, at_s)
        each = [features.matrix(cut(states, i), cut(request, i), at_s[i : i + 1])[0] for i in range(n)]
        assert same_bits(many, np.array(each))

    law()


def cut(arrays: dict[str, Floats], i: int) -> dict[str, Floats]:
    return {name: each[i : i + 1] for name, each in arrays.items()}
