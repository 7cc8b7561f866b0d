"""Any file of past events through its mapping, and on as messages."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import UserError
from infra.progress import Silent
from ingestion import checks, commands, file_source, mapping, simulated
from ingestion.broker import Partition
from ingestion.events import Label, Outcome, Quote, Transaction
from ingestion.file_source import PastEvents, payments, placed, prices, reasons
from ingestion.playback import Message, Pace, messages, play
from ingestion.simulators.market import Market, MarketProcess
from ingestion.simulators.payments import Payments, each_day, simulate
from ingestion.simulators.population import Population

MAPPINGS = Path(mapping.__file__).parents[1] / "infra" / "config" / "mappings"
DAY_US = 86_400_000_000

BOOK = """
[transactions]
transaction_id = "ID"
event_time = "TIME"
customer_id = "CARD"
terminal_id = "SHOP"
amount = "AMOUNT"
[labels]
label = "FRAUD"
delay_days = 7
"""


def mapped(tmp_path: Path, text: str = BOOK) -> mapping.Mapping:
    file = tmp_path / "mapping.toml"
    file.write_text(text)
    return mapping.load(file)


def csv(tmp_path: Path, *rows: str, head: str = "ID,TIME,CARD,SHOP,AMOUNT,FRAUD") -> Path:
    file = tmp_path / "events.csv"
    file.write_text("\n".join([head, *rows]) + "\n")
    return file


class TestMappingFile:
    def test_those_of_the_project_are_valid(self) -> None:
        for file in MAPPINGS.glob("*.toml"):
            mapping.load(file)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (BOOK.replace("amount =", "amuont ="), ":7: transactions.amuont: there is no such field. Did"),
            (BOOK.replace('amount = "AMOUNT"\n', ""), "transactions.amount: expected the name of a column"),
            (BOOK.replace("delay_days = 7", ""), "exactly one of delay_days and label_time"),
            (BOOK.replace("delay_days = 7", "delay_days = -1"), "mapping.toml:10: labels.delay_days"),
            ("[labels]\nlabel = 'x'\ndelay_days = 1", "needs [transactions]"),
            ("", "expected [transactions] or [prices]"),
            ("[prices]\nprice='p'\nunits='u'\nevent_time='t'\nperiod='w'", "event_time or period, not both"),
            ("[transactions", "expected TOML"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_said(self, tmp_path: Path, text: str, says: str) -> None:
        with pytest.raises(UserError) as error:
            mapped(tmp_path, text)
        assert says in str(error.value)

    def test_a_missing_column_is_named_with_the_nearest(self, tmp_path: Path) -> None:
        file = csv(tmp_path, "1,2018-04-01,1,1,5,0", head="ID,TIME,CARD,SHOP,Amount,FRAUD")
        with pytest.raises(UserError, match=r"no column 'AMOUNT'\. Did you mean 'Amount'\?"):
            payments(file, mapped(tmp_path), "EUR")

    def test_a_missing_file_and_a_broken_one_are_said(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file"):
            payments(tmp_path / "none.parquet", mapped(tmp_path), "EUR")
        broken = tmp_path / "broken.parquet"
        broken.write_text("no Parquet at all")
        with pytest.raises(UserError, match="expected a Parquet or CSV file"):
            payments(broken, mapped(tmp_path), "EUR")


def test_csv_and_parquet_give_the_same_events(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "ID": [1, 2],
            "TIME": pa.array([1_522_540_831_000_000_000, 1_522_540_930_500_000_000], pa.timestamp("ns")),
            "CARD": [596, 4961],
            "SHOP": ["a", "b"],
            "AMOUNT": [57.16, 81.0],
            "FRAUD": [0, 1],
        }
    )
    pq.write_table(rows, tmp_path / "events.parquet")
    file = csv(
        tmp_path, "1,2018-04-01 00:00:31,596,a,57.16,false", "2,2018-04-01T02:02:10.5+02:00,4961,b,81,fraud"
    )
    found = payments(file, mapped(tmp_path), "EUR")
    same = payments(tmp_path / "events.parquet", mapped(tmp_path), "EUR")
    assert found.decided == same.decided
    assert found.settled == same.settled
    first, second = found.decided.to_pylist()
    assert (first["transaction_id"], first["customer_id"], first["currency"]) == ("1", "596", "EUR")
    assert second["event_time_us"] == 1_522_540_930_500_000
    good, bad = found.settled.to_pylist()
    assert (good["label"], good["source"]) == ("legitimate", "settlement")
    assert (bad["label"], bad["source"], bad["paid_at_us"]) == (
        "fraud",
        "chargeback",
        second["event_time_us"],
    )
    assert bad["event_time_us"] == second["event_time_us"] + 7 * DAY_US


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (",2018-04-01,1,1,5,0", "transaction_id"),
        ("x" * 129 + ",2018-04-01,1,1,5,0", "transaction_id"),
        ("1,2018-02-31,1,1,5,0", "event_time"),
        ("1,9999-01-01,1,1,5,0", "event_time"),
        ("1,,1,1,5,0", "event_time"),
        ("1,2018-04-01, 1,1,5,0", "customer_id"),
        ('1,2018-04-01,1,"a\nb",5,0', "terminal_id"),
        ("1,2018-04-01,1,1,-5,0", "amount"),
        ("1,2018-04-01,1,1,nan,0", "amount"),
        ("1,2018-04-01,1,1,1e400,0", "amount"),
        ("1,2018-04-01,1,1,12 EUR,0", "amount"),
        ("1,2018-04-01,1,1,5,maybe", "label"),
    ],
)
def test_a_row_that_is_no_event_is_kept_with_its_reason(tmp_path: Path, row: str, field: str) -> None:
    found = payments(csv(tmp_path, "9,2018-04-01,1,1,5,0", row), mapped(tmp_path), "EUR")
    assert found.decided["transaction_id"].to_pylist() == ["9"]
    [rejected] = found.rejects.to_pylist()
    assert rejected["row"] == 1
    assert rejected["reason"].startswith(f"{field}: expected")
    assert reasons(found.rejects) == {field: 1}
    file_source.write_rejects(found.rejects, tmp_path / "rejects" / "events.csv")


def test_a_repeated_id_counts_once_and_its_first_copy_is_meant(tmp_path: Path) -> None:
    rows = ("1,2018-04-02,late,m,5,1", "1,2018-04-01,first,m,7,0", "2,2018-04-01,other,m,5,")
    found = payments(csv(tmp_path, *rows), mapped(tmp_path), "EUR")
    assert found.duplicates == 1
    assert found.decided["customer_id"].to_pylist() == ["first", "other"]
    assert found.decided["row"].to_pylist() == [1, 2]
    assert found.settled["label"].to_pylist() == ["legitimate", "fraud"]
    assert found.settled["customer_id"].to_pylist() == ["first", "first"]


def test_labels_go_before_payments_of_the_same_time(tmp_path: Path) -> None:
    found = payments(csv(tmp_path, "1,2018-04-01,a,m,5,1", "2,2018-04-08,a,m,5,0"), mapped(tmp_path), "EUR")
    ready = placed(found, ["customer", "terminal"], start=100)
    assert ready.decided["customer_position"].to_pylist() == [100, 102]
    assert ready.settled["terminal_position"].to_pylist() == [101, 103]
    assert set(ready.decided["customer_partition"].to_pylist()) == {-1}


def test_a_cut_leaves_out_labels_that_arrive_later(tmp_path: Path) -> None:
    found = payments(csv(tmp_path, "1,2018-04-01,a,m,5,1", "2,2018-04-08,a,m,5,0"), mapped(tmp_path), "EUR")
    cut = found.decided["event_time_us"][1].as_py()
    before, after = found.between(None, cut), found.between(cut, None)
    assert before.decided["transaction_id"].to_pylist() == ["1"]
    assert before.settled.num_rows == 0
    assert after.settled["transaction_id"].to_pylist() == ["1", "2"]


def test_a_label_may_have_its_own_time_and_source(tmp_path: Path) -> None:
    text = BOOK.replace("delay_days = 7", 'label_time = "KNOWN"\nsource = "analyst"')
    file = csv(tmp_path, "1,2018-04-01,a,m,5,1,2018-04-03", head="ID,TIME,CARD,SHOP,AMOUNT,FRAUD,KNOWN")
    [label] = payments(file, mapped(tmp_path, text), "EUR").settled.to_pylist()
    assert label["event_time_us"] - label["paid_at_us"] == 2 * DAY_US
    assert label["source"] == "analyst"


def test_optional_fields_are_taken_where_they_are_given(tmp_path: Path) -> None:
    text = BOOK.replace("[labels]", 'country = "LAND"\nlatitude = "LAT"\n[labels]')
    head = "ID,TIME,CARD,SHOP,AMOUNT,FRAUD,LAND,LAT"
    rows = (
        "1,2018-04-01,a,m,5,1,DE,52.5",
        "2,2018-04-01,a,m,5,1,,",
        "3,2018-04-01,a,m,5,1,Deutschland,0",
        "4,2018-04-01,a,m,5,1,,north",
    )
    found = payments(csv(tmp_path, *rows, head=head), mapped(tmp_path, text), "EUR")
    assert found.decided["country"].to_pylist() == ["DE", None]
    assert found.decided["latitude"].to_pylist() == [52.5, None]
    assert reasons(found.rejects) == {"country": 1, "latitude": 1}


def test_a_column_of_the_wrong_kind_is_said() -> None:
    with pytest.raises(UserError, match="expected a column of times, came one of int64"):
        checks.times(pa.array([1, 2]))


def test_ids_that_are_numbers_become_words() -> None:
    assert checks.text(pa.array([5.0, 2.5, None])).to_pylist() == ["5", "2.5", None]


class TestPrices:
    TEXT = '[prices]\nprice = "p"\nunits = "u"\nproduct_id = "id"\nevent_time = "t"\ncontext = ["age"]'

    def test_become_quotes_and_outcomes(self, tmp_path: Path) -> None:
        file = csv(tmp_path, "9.5,2,shoe,2018-04-01,30", "-1,2,shoe,2018-04-02,", head="p,u,id,t,age")
        found = prices(file, mapped(tmp_path, self.TEXT), "EUR")
        [quote], [outcome] = found.decided.to_pylist(), found.settled.to_pylist()
        assert (quote["quote_id"], quote["price"], quote["list_price"]) == ("row-0", 9.5, 9.5)
        assert quote["context"] == '{"age":"30"}'
        assert (outcome["units"], outcome["quoted_at_us"]) == (2.0, quote["event_time_us"])
        assert reasons(found.rejects) == {"price": 1}

    def test_as_a_table_to_learn_from(self, tmp_path: Path) -> None:
        file = csv(tmp_path, "9.5,2,shoe,2018-04-01,30", "-1,x,shoe,2018-04-02,31", head="p,u,id,t,age")
        columns = mapped(tmp_path, self.TEXT).prices
        assert columns is not None
        rows = file_source.price_table(file, columns)
        assert rows["price"].to_pylist() == [9.5, None]
        assert rows["units"].to_pylist() == [2.0, None]
        assert rows["age"].to_pylist() == [30.0, 31.0]


TYPES = {"transactions": Transaction, "labels": Label, "quotes": Quote, "outcomes": Outcome}


def small() -> Payments:
    return Payments(seed=3, population=Population(customers=40, terminals=80))


class TestSimulated:
    def test_a_written_file_comes_back_as_it_was(self, tmp_path: Path) -> None:
        file = tmp_path / "payments.parquet"
        simulated.write_payments(each_day(small(), 2), file)
        found = payments(file, mapping.load(MAPPINGS / "simulated.toml"), "USD")
        assert found.rejects.num_rows == 0
        log = simulated.past_payments(simulate(small(), 2))
        assert found.decided == log.decided
        assert found.settled.drop_columns("row") == log.settled.drop_columns("row")

    def test_prices_come_back_as_they_were(self, tmp_path: Path) -> None:
        file, market = tmp_path / "prices.parquet", Market(MarketProcess(seed=3))
        simulated.write_prices(market, market.simulate(2), file)
        found = prices(file, mapping.load(MAPPINGS / "simulated_prices.toml"), "EUR")
        log = simulated.past_prices(market, market.simulate(2))
        assert found.rejects.num_rows == 0
        assert found.decided == log.decided
        assert found.settled.drop_columns("row") == log.settled.drop_columns("row")

    def test_every_message_is_a_valid_event(self) -> None:
        market = Market(MarketProcess(seed=3))
        sent = [
            *messages(simulated.past_payments(simulate(small(), 1))),
            *messages(simulated.past_prices(market, market.simulate(1))),
        ]
        assert {each.topic for each in sent} == set(TYPES)
        for each in sent:
            TYPES[each.topic].model_validate_json(each.value)

    def test_day_by_day_is_the_same_as_all_at_once(self) -> None:
        end_us = int(datetime(2026, 1, 4, tzinfo=UTC).timestamp()) * 1_000_000
        at_once = messages(simulated.past_payments(simulate(small(), 3)).between(None, end_us))
        by_day = commands._payments_by_day(each_day(small(), 3), end_us)
        assert list(by_day) == list(at_once)


class FakeOutlet:
    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes | None]] = []
        self.safe = 0

    def send(self, topic: str, value: bytes | None, key: bytes | None = None) -> None:
        self.sent.append((topic, value, key))

    def flush(self) -> None:
        self.safe = len(self.sent)


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def two_payments(tmp_path: Path) -> PastEvents:
    file = csv(tmp_path, "1,2018-04-01,a,m,5,1", "2,2018-04-08,b,m,5.5,0")
    return payments(file, mapped(tmp_path), "EUR")


class TestPlayback:
    def test_messages_come_in_order_of_time_with_their_keys(self, tmp_path: Path) -> None:
        sent = list(messages(two_payments(tmp_path)))
        assert [(each.topic, each.key) for each in sent] == [
            ("transactions", b"a"),
            ("labels", b"1"),
            ("transactions", b"b"),
            ("labels", b"2"),
        ]
        assert orjson.loads(sent[2].value) == {
            "transaction_id": "2",
            "event_time": "2018-04-08T00:00:00.000000Z",
            "customer_id": "b",
            "terminal_id": "m",
            "amount": 5.5,
            "currency": "EUR",
        }
        assert list(messages(two_payments(tmp_path), limit=2)) == sent[:2]

    def test_speed_is_event_time_by_the_clock(self, tmp_path: Path) -> None:
        clock, outlet = FakeClock(), FakeOutlet()
        pace = Pace(86_400.0, clock, clock.sleep)
        counts = play(messages(two_payments(tmp_path)), outlet, pace, Silent())
        assert counts == {"transactions": 2, "labels": 2}
        assert clock.slept == [7.0, 7.0]
        assert outlet.safe == 4

    def test_as_fast_as_possible_never_sleeps(self) -> None:
        clock, outlet = FakeClock(), FakeOutlet()
        sent = (Message(at * DAY_US, "labels", b"k", b"v") for at in range(3))
        play(sent, outlet, Pace(None, clock, clock.sleep), Silent())
        assert not clock.slept
        assert outlet.safe == 3

    @pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "fast"])
    def test_a_speed_that_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(UserError, match="--speed"):
            commands._speed(text)


class FakeLetters:
    """A dead-letter topic of one partition to which a letter comes while it is read."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self.log = list(values)
        self.next = 0
        self.done = 0

    def poll(self, wait_ms: int) -> list[object]:
        found = [_Letter(i, value) for i, value in enumerate(self.log)][self.next : self.next + 2]
        self.next += len(found)
        return found

    def assignment(self) -> list[Partition]:
        return [Partition("labels.dlq", 0)]

    def ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        return {partitions[0]: len(self.log)}

    def position(self, partition: Partition) -> int:
        self.log.append(b"new")
        return self.next

    def commit(self, next_offsets: dict[Partition, int]) -> None:
        self.done = next_offsets[Partition("labels.dlq", 0)]


class _Letter:
    topic, partition, key = "labels.dlq", 0, b"key"

    def __init__(self, offset: int, value: bytes) -> None:
        self.offset, self.value = offset, value
        self.headers = [("masked", b"card number")] if value == b"****" else []


def test_dead_letters_are_sent_again_once_each() -> None:
    letters, outlet = FakeLetters([b"a", b"b", b"c"]), FakeOutlet()
    assert commands.send_again(letters, outlet, "labels") == 3  # type: ignore[arg-type]
    assert outlet.sent == [("labels", each, b"key") for each in (b"a", b"b", b"c")]
    assert letters.done == 3


def test_a_dead_letter_with_a_masked_card_number_is_not_sent_again() -> None:
    letters, outlet = FakeLetters([b"a", b"****", b"c"]), FakeOutlet()
    assert commands.send_again(letters, outlet, "labels") == 2  # type: ignore[arg-type]
    assert outlet.sent == [("labels", each, b"key") for each in (b"a", b"c")]
    assert letters.done == 3


def test_letters_for_a_topic_that_is_none_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'transactions'"):
        commands.replay_dlq("transaction")
