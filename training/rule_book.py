"""The fraud policy of the settings with its rules compiled over the fraud features, to decide as a whole."""

from dataclasses import dataclass

from features.fraud import FRAUD
from infra.settings import FraudPolicy, policy_version, refusal
from training.fraud_policy import RuleError, Rules, rules_over


@dataclass(frozen=True)
class RuleBook:
    """A policy that can decide; a newer one takes its place whole."""

    policy: FraudPolicy
    version: str
    rules: Rules


def rule_book(policy: FraudPolicy) -> RuleBook:
    """Compile the policy of the settings. Raises UserError with the file and line of a wrong rule."""
    try:
        return RuleBook(policy, policy_version(policy), rules_over(FRAUD.names, policy.rules))
    except RuleError as error:
        raise refusal(("fraud", "rules", error.position, "when"), str(error)) from None
