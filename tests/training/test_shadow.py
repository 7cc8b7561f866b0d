"""Challengers in shadow on a real registry: who earns the place takes it, who does not is told why."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from features.fraud import FRAUD
from infra.settings import Settings
from ingestion.history import History
from ingestion.tables import DAY_US, TRANSACTIONS, completed
from serving.champions_watch import ChampionsWatch
from serving.routes_models import describe
from tests.training.live import COLUMN, Live, live, padded, with_other_features, write
from tests.training.test_tracking import record
from training.booster import Model
from training.champions import Champions, Promotion
from training.promotion import in_shadow, leave_shadow, promote
from training.runs import Desk
from training.shadow import Shadow, folder_of
from training.tasks import task
from training.tracking import EVIDENCE, IN_SHADOW, REFUSED, SHADOW, Registry, Tracking

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture(scope="module")
def desk(mlflow: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    registry = Registry(mlflow)
    yield Desk(Champions(tmp_path_factory.mktemp("desk") / "home"), registry, Tracking(mlflow))
    registry.close()


def register(desk: Desk, model: Model) -> str:
    """A challenger as a training leaves it; gives its version."""
    return str(desk.tracking.log(record("fraud"), model, True, IN_SHADOW).version)


def told(desk: Desk, version: str) -> str:
    """What became of it."""
    found = desk.registry.version("fraud", version)
    assert found
    return found.tags[SHADOW]


def swapped(payments: Live) -> Model:
    """Learned from a table in which the amount and the terminal's rates had changed places."""
    places = [COLUMN["amount"], *(COLUMN[f"terminal_fraud_rate_{life}"] for life in ("1d", "7d", "30d"))]
    matrix = payments.matrix.copy()
    matrix[:, places] = matrix[:, [*places[1:], places[0]]]
    return payments.model(matrix=matrix)


def test_who_does_not_earn_the_place_is_refused_with_its_reason_and_who_does_takes_it(
    desk: Desk, chosen: Settings
) -> None:
    payments = live()
    write(History(chosen.history), payments)
    desk.tracking.log(record("fraud"), payments.model(fraud=payments.fraud & payments.online), True)
    promote(desk.registry, desk.champions, "fraud", "1", "me", "the first")
    challengers = {
        "flipped": register(desk, payments.model(fraud=~payments.fraud)),
        "padded": register(desk, padded(payments)),
        "swapped": register(desk, swapped(payments)),
        "foreign": register(desk, with_other_features(payments.model())),
        "blind online": register(desk, payments.model(fraud=payments.fraud & ~payments.online)),
    }
    shadow, fraud = Shadow(chosen, [task("fraud")], desk), task("fraud")
    shadow.look(fraud)
    said = {name: told(desk, version) for name, version in challengers.items()}
    assert re.match(
        r"refused: average precision 0\.\d+ against .*; predicted frauds for each that", said["flipped"]
    )
    assert re.match(r"refused: a prediction takes .* ms against the champion's .* ms", said["padded"])
    assert re.match(r"refused: expected cost .* against .* on the same live decisions", said["swapped"])
    assert re.match(
        r"refused: model fraud \d+ learned from feature definitions 0123456789ab", said["foreign"]
    )
    only_online = r"refused: cost of channel:online against [^;]*(; recall of channel:online against [^;]*)?"
    assert re.fullmatch(only_online, said["blind online"])
    gains = evidence(desk, challengers["blind online"])["gains"]
    assert all(each["low"] > 0.0 for each in gains), "it was to win over all payments"
    assert [each.version for each in desk.champions.history("fraud")] == ["1"]
    assert desk.registry.aliased("fraud", "challenger") is None

    good = register(desk, payments.model())
    named = desk.registry.aliased("fraud", "challenger")
    assert named is not None
    assert named.version == good
    shadow.look(fraud)
    champion = desk.registry.champion("fraud")
    assert champion is not None
    assert (champion.version, told(desk, good)) == (good, "promoted")
    line = desk.champions.history("fraud")[-1]
    assert (line.who, line.previous, line.evidence["against"]) == ("shadow", "1", "1")
    assert line.evidence["matured frauds"] == evidence(desk, good)["matured frauds"] > 20
    assert "average precision" in line.why
    assert_told_over_http(desk, challengers["foreign"], good, line)


def test_a_clock_that_is_years_ahead_ages_no_challenger_and_who_is_gone_is_forgotten(
    desk: Desk, chosen: Settings
) -> None:
    payments, history, fraud = live(), History(chosen.history), task("fraud")
    write(history, payments)
    ahead = replace(payments, time_us=payments.time_us + 1_000 * DAY_US)
    write_one(history, ahead)
    first = str(desk.tracking.log(record("fraud"), payments.model(), True).version)
    promote(desk.registry, desk.champions, "fraud", first, "me", "the first")
    version = register(desk, payments.model(rows=np.arange(24_000) < 2_000))
    gate = chosen.gate.model_copy(update={"shadow_labels": 10**6})
    shadow = Shadow(chosen.model_copy(update={"gate": gate}), [fraud], desk)
    shadow.look(fraud)
    assert told(desk, version) == IN_SHADOW, "a week old, whatever a single clock says"
    assert re.search(r"\d+ matured labels so far", evidence(desk, version)["reasons"][0])
    assert {key[1] for key in shadow._models} >= {first, version}
    scores = folder_of(chosen.home, "fraud", version)
    Shadow(chosen.model_copy(update={"gate": gate}), [fraud], desk).look(fraud)
    assert list(scores.iterdir()), "a new process goes on with what the one before wrote"
    for each in in_shadow(desk.registry, "fraud"):
        leave_shadow(desk.registry, each, REFUSED)
    shadow.look(fraud)
    assert {key[1] for key in shadow._models} == {first}
    assert (shadow._scores, shadow._faults) == ({}, {})
    assert not scores.exists()


def write_one(history: History, found: Live) -> None:
    """The first of these payments."""
    names = ("customer", "terminal")
    places: dict[str, list[Any]] = {f"{name}_partition": [0] for name in names}
    places |= {f"{name}_position": [10**9] for name in names}
    row = pa.table({"transaction_id": ["ahead"], "event_time_us": found.time_us[:1], **places})
    history.append(TRANSACTIONS, completed(TRANSACTIONS, row))


def assert_told_over_http(desk: Desk, refused: str, promoted: str, line: Promotion) -> None:
    """What `GET /v1/models` says of it."""
    waiting = register(desk, live().model(rows=np.arange(24_000) < 2_000))
    watch = ChampionsWatch(desk.champions, desk.registry, {"fraud": FRAUD})
    watch.refresh()
    services: Any = SimpleNamespace(models=watch, registry=desk.registry, champions=desk.champions)
    said = orjson.loads(orjson.dumps(describe(services, "fraud")))
    assert (said["deciding"], said["in_memory"]["previous"]) == (promoted, "1")
    assert [(each["version"], each["shadow"]) for each in said["challengers"]] == [(waiting, "on")]
    assert "0123456789ab" in {each["version"]: each["shadow"] for each in said["refused"]}[refused]
    assert said["history"][-1]["evidence"] == line.evidence


def evidence(desk: Desk, version: str) -> dict[str, Any]:
    """What its shadow has shown."""
    found = desk.registry.version("fraud", version)
    assert found
    shown: dict[str, Any] = json.loads(found.tags[EVIDENCE])
    return shown
