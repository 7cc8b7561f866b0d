"""The backtest of a rule: what it counts, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest

from features.fraud import FRAUD
from infra import cli
from infra.settings import FraudPolicy, Rule, RuleOutcome, Settings
from ingestion.tables import DAY_US
from tests.training.made import MIDNIGHT_US, payments_file
from training.dataset import Dataset, Span
from training.fraud_backtest import RuleBacktest, judged
from training.fraud_policy import rules_over
from training.tasks import BacktestOptions

AMOUNT, FRAUDULENT, DAY = [10.0, 600.0, 700.0, 800.0, 2_000.0, 20.0], [0, 1, 0, 1, 1, 1], [0, 0, 2, 2, 2, 4]


def past() -> Dataset:
    matrix = np.full((6, len(FRAUD.names)), np.nan)
    matrix[:, FRAUD.names.index("amount")] = AMOUNT
    return Dataset(
        features=FRAUD.names,
        feature_hash=FRAUD.hash,
        ids=np.array([f"t-{i}" for i in range(6)], object),
        time_us=MIDNIGHT_US + np.array(DAY) * DAY_US,
        matrix=matrix,
        target=np.array(FRAUDULENT, np.float64),
        columns={"amount": np.array(AMOUNT, object)},
        cutoff_us=MIDNIGHT_US + 30 * DAY_US,
    )


def tried(
    policy: FraudPolicy, when: str, outcome: RuleOutcome = "review", present: str = "amount > 1000"
) -> RuleBacktest:
    rules = [
        rules_over(FRAUD.names, [Rule(name="x", when=text, outcome=said)])
        for text, said in ((when, outcome), (present, "decline"))
    ]
    return judged(past(), *rules, policy, BacktestOptions(Span(), rule=when, outcome=outcome))


@pytest.fixture
def policy(chosen: Settings) -> FraudPolicy:
    """A chargeback's fee of 15, a margin of a tenth, a review for 3."""
    return chosen.fraud


def test_what_a_rule_hits_and_what_that_was_worth(policy: FraudPolicy) -> None:
    found = tried(policy, "amount > 500")
    alone = found.alone
    assert (found.payments, found.frauds, found.fraud_amount) == (6, 4, 3_420.0)
    assert (alone.hits, alone.frauds_hit, alone.good_hit) == (4, 3, 1)
    assert (alone.precision, alone.recall) == (0.75, 0.75)
    assert (alone.fraud_amount_hit, alone.good_amount_hit) == (3_400.0, 700.0)
    assert (alone.hits_per_day_mean, alone.hits_per_day_worst) == (4 / 5, 3)
    assert alone.worst_day == str(np.datetime64(MIDNIGHT_US + 2 * DAY_US, "us").astype("M8[D]"))
    assert alone.cost == pytest.approx(20 + 15 + 4 * 3)
    assert alone.saved == pytest.approx(3_400 + 3 * 15 - 4 * 3)


def test_beside_the_present_rules(policy: FraudPolicy) -> None:
    found = tried(policy, "amount > 500")
    assert found.hit_by_present_rules == 1
    assert (found.present_rules.hits, found.present_rules.saved) == (1, pytest.approx(2_015))
    assert found.with_present_rules.hits == 4
    assert found.with_present_rules.saved == pytest.approx(3_400 + 3 * 15 - 3 * 3)
    assert tried(policy, "amount = 700").hit_by_present_rules == 0


def test_a_declined_good_payment_costs_its_margin(policy: FraudPolicy) -> None:
    assert tried(policy, "amount = 700", "decline").alone.saved == pytest.approx(-70)


def test_a_rule_that_allows_goes_before_the_present_ones(policy: FraudPolicy) -> None:
    found = tried(policy, "amount > 1500", "allow")
    assert (found.alone.hits, found.alone.saved) == (1, 0.0)
    assert found.with_present_rules.saved == 0.0


def test_nothing_hit_has_no_precision(policy: FraudPolicy) -> None:
    found = tried(policy, "amount > 1e6")
    assert found.as_json()["precision"] is None
    assert found.as_json()["worst_day"] is None
    assert found.as_json()["hits_per_day_worst"] == 0


def test_the_rules_own_figures_are_at_the_top_for_machines(policy: FraudPolicy) -> None:
    values = tried(policy, "amount > 500").as_json()
    assert (values["hits"], values["frauds_hit"], values["present_rules"]["hits"]) == (4, 3, 1)
    assert json.dumps(values)


@pytest.fixture
def file(tmp_path: Path, chosen: Settings) -> list[str]:
    """Options that name a file of one payment an hour for 60 days; every tenth, of 900, is fraud."""
    fraud = np.arange(60 * 24) % 10 == 0
    return payments_file(tmp_path, 60, 7, np.where(fraud, 900.0, 50.0), fraud)


def test_a_file_needs_no_stack(file: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["backtest", "--rule", "amount > 500", *file, "--outcome", "decline", "--json"]
    assert cli.run(arguments) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["payments"], values["frauds"], values["hits"], values["good_hit"]) == (1440, 144, 144, 0)
    assert (values["precision"], values["recall"], values["fraud_amount_hit"]) == (1.0, 1.0, 129_600.0)


def test_a_window(file: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    window = ["--until", "2024-03-31", "--days", "20"]
    assert cli.run(["backtest", "fraud", "--rule", "amount > 0", *file, *window, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["first_day"], values["last_day"]) == ("2024-03-11", "2024-03-24")


def test_a_person_is_shown_a_table(file: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["backtest", "--rule", "amount > 500", *file]) == 0
    shown = capsys.readouterr()
    assert "100.0 %" in shown.out
    assert "1,440 payments with a known label from 2024-03-01 to 2024-04-29" in shown.out
    assert "Backtest fraud: trying the rule" in shown.err


def test_features_are_those_known_at_each_payment(
    file: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first label comes after a week; by noon eleven payments find one at their terminal."""
    rule = ["--rule", "terminal_fraud_rate_30d IS NOT NULL"]
    assert cli.run(["backtest", *rule, *file, "--until", "2024-03-15T12:00:00Z", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hits"] == 11


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--rule", "amuont > 1"], "--rule: there is no feature 'amuont', did you mean `amount`"),
        (["--rule", "amount >"], "--rule: expected a condition"),
        ([], "expected --rule"),
        (["pricing", "--rule", "amount > 1"], "expected --policy FILE"),
        (["frud", "--rule", "amount > 1"], "expected a task, one of fraud, pricing; came 'frud'"),
        (["--rule", "amount > 1"], "expected past payments, got none"),
        (["--rule", "amount > 1", "--until", "soon"], "--until: expected a time"),
        (["--rule", "amount > 1", "--data", "x.csv"], "expected --mapping FILE"),
    ],
)
@pytest.mark.usefixtures("chosen")
def test_a_failure_is_one_sentence(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["backtest", *arguments, "--json"]) == 1
    told = capsys.readouterr()
    assert reason in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_no_payment_with_a_known_label(file: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["backtest", "--rule", "amount > 1", *file, "--until", "2024-03-03", "--json"]) == 1
    assert "expected payments with labels" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["backtest", "--help"]) == 0
    assert "Example: tollgate backtest --rule" in capsys.readouterr().out


def test_a_wrong_outcome_is_code_2() -> None:
    assert cli.run(["backtest", "--rule", "amount > 1", "--outcome", "perhaps"]) == 2
