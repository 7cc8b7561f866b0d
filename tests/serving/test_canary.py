"""A canary decides for its customers and the champion for the others, each as if it were alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.fraud import FRAUD
from infra import settings
from serving.champions_watch import ChampionsWatch, Deputy
from serving.fraud import FraudDecider
from tests.training.live import Live, live
from training import booster
from training.booster import Model
from training.canary import Canary
from training.champions import Champions
from training.rule_book import RuleBook, rule_book
from training.tracking import Registry

N = 400
ROWS = slice(23_000, 23_000 + N)
TWO = Canary("2", 0.3, 0)
NOBODY = "http://127.0.0.1:1"
SMALL = {**booster.CLASSIFIER, "num_iterations": 20}


@pytest.fixture(scope="module")
def payments() -> Live:
    return live()


@pytest.fixture(scope="module")
def models(payments: Live) -> dict[str, Model]:
    """Two that disagree."""
    few = np.arange(len(payments.fraud)) < 6_000
    learned = {
        "1": payments.model(rows=few, parameters=SMALL),
        "2": payments.model(payments.fraud & payments.online, rows=~few, parameters=SMALL),
    }
    for version, model in learned.items():
        model.card = model.card.registered(version)
    return learned


@pytest.fixture(scope="module")
def book() -> RuleBook:
    return rule_book(settings.load().fraud)


class Deciding:
    """A champion, and a canary beside it."""

    def __init__(self, champion: Model | None, deputy: Deputy | None = None) -> None:
        self._champion, self._deputy = champion, deputy

    def current(self, task: str) -> Model | None:
        return self._champion

    def canary(self, task: str) -> Deputy | None:
        return self._deputy


def customers() -> list[str]:
    return [f"c-{i % 150}" for i in range(N)]


def decided(payments: Live, book: RuleBook, by: Deciding, chosen: Any = None, explain: bool = True) -> Any:
    rows = np.arange(N) if chosen is None else np.flatnonzero(chosen)
    asked = [
        {
            "transaction_id": f"t-{i}",
            "event_time_us": i,
            "customer_id": customers()[i],
            "terminal_id": "m",
            "amount": payments.matrix[ROWS][i, FRAUD.names.index("amount")],
            "currency": "EUR",
        }
        for i in rows.tolist()
    ]
    found = FraudDecider(by, lambda: book).decide(asked, payments.matrix[ROWS][rows], explain=explain)
    for each in found:
        del each["latency_ms"]
    return found


@pytest.mark.parametrize("explain", [False, True])
def test_each_row_is_what_its_model_alone_would_say(
    payments: Live, models: dict[str, Model], book: RuleBook, explain: bool
) -> None:
    """To the last bit, reasons and costs too; and in the order of the payments."""
    mine = TWO.takes(customers())
    assert 50 < mine.sum() < N - 50
    together = decided(payments, book, Deciding(models["1"], Deputy(TWO, models["2"])), explain=explain)
    assert [each["transaction_id"] for each in together] == [f"t-{i}" for i in range(N)]
    champion = decided(payments, book, Deciding(models["1"]), explain=explain)
    canary = decided(payments, book, Deciding(models["2"]), explain=explain)
    for row, (said, theirs, own) in enumerate(zip(together, champion, canary, strict=True)):
        named = {"name": "fraud", "version": "2", "alias": "canary"} if mine[row] else theirs["model"]
        alone = own if mine[row] else theirs
        assert repr(said) == repr(alone | {"model": named})
    assert {each["model"]["version"] for each in together} == {"1", "2"}
    assert any(ours["reasons"] != theirs["reasons"] for ours, theirs in zip(together, champion, strict=True))


def test_one_payment_is_decided_as_in_a_batch(
    payments: Live, models: dict[str, Model], book: RuleBook
) -> None:
    by = Deciding(models["1"], Deputy(TWO, models["2"]))
    together = decided(payments, book, by)
    for row in range(0, N, 20):
        (alone,) = decided(payments, book, by, chosen=np.arange(N) == row)
        assert repr(alone) == repr(together[row])


def test_without_a_canary_models_get_the_batch_as_it_came(
    payments: Live, models: dict[str, Model], book: RuleBook
) -> None:
    """No rows are picked or copied: predict is handed the very matrix."""
    seen: list[Any] = []

    class Watched(Model):
        def predict(self, matrix: Any) -> Any:
            seen.append(matrix)
            return super().predict(matrix)

    matrix = payments.matrix[ROWS][:1]
    paid = {"transaction_id": "t", "event_time_us": 0, "customer_id": "c", "terminal_id": "m"}
    paid |= {"amount": 5.0, "currency": "EUR"}
    watched = Watched(models["1"].text, models["1"].card)
    (said,) = FraudDecider(Deciding(watched), lambda: book).decide([paid], matrix)
    assert seen[0] is matrix
    assert said["model"] == {"name": "fraud", "version": "1", "alias": "champion"}


@pytest.fixture
def champions(tmp_path: Path, models: dict[str, Model]) -> Champions:
    kept = Champions(tmp_path / "home")
    for version, model in models.items():
        model.save(tmp_path / f"made-{version}")
        kept.keep("fraud", version, tmp_path / f"made-{version}")
    kept.set_current("fraud", "1")
    return kept


def watching(champions: Champions) -> ChampionsWatch:
    """As of a process that starts now, while the registry is down."""
    watch = ChampionsWatch(champions, Registry(NOBODY), {"fraud": FRAUD})
    watch.refresh()
    return watch


def test_a_process_follows_the_canary_of_the_disk_without_a_registry(champions: Champions) -> None:
    watch = watching(champions)
    assert watch.canary("fraud") is None
    champions.set_canary("fraud", TWO)
    for process in (watch, watching(champions)):
        process.refresh()
        found = process.canary("fraud")
        assert found is not None
        assert (found.canary, found.model.card.version) == (TWO, "2")
        champion = process.current("fraud")
        assert champion is not None
        assert champion.card.version == "1"
    champions.set_canary("fraud", None)
    watch.refresh()
    assert watch.canary("fraud") is None


def test_a_canary_that_is_promoted_is_not_loaded_again(champions: Champions) -> None:
    watch = watching(champions)
    champions.set_canary("fraud", TWO)
    watch.refresh()
    found = watch.canary("fraud")
    assert found is not None
    champions.set_current("fraud", "2")
    watch.refresh()
    assert watch.current("fraud") is found.model
    assert watch.canary("fraud") is None
    before = watch.previous("fraud")
    assert before is not None
    assert before.card.version == "1"


def test_a_canary_that_is_damaged_decides_for_nobody(champions: Champions) -> None:
    champions.set_canary("fraud", TWO)
    (champions.folder("fraud", "2") / "model.txt").write_text("broken")
    watch = watching(champions)
    assert watch.canary("fraud") is None
    champion = watch.current("fraud")
    assert champion is not None
    assert replace(champion.card, version="1") == champion.card
