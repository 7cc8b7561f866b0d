"""Which would-be declines pass by lot, so that what is declined stays known.

The lot is a keyed hash of the transaction's id: the same over HTTP, in the stream and in a replay, and not to
be foreseen without the key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import compress

import numpy as np

from features.state import Flags, Floats
from infra.settings import FraudPolicy
from training.fraud_policy import APPROVE, DECLINE, NO_RULE, Codes

_UNIFORM = 2.0**-53


@dataclass(frozen=True)
class Admission:
    """What becomes of n decisions of the policy once the lots are drawn."""

    decisions: Codes
    control_group: Flags
    """Would have been declined, and passes."""
    propensity: Floats
    """Probability that such a payment passes, or is looked at: 1 unless the policy declines it."""


class ControlGroup:
    """Draws the lots of a policy.

    A rule's decline is somebody's will and stands, unless the policy says that rules take part.
    """

    def __init__(self, policy: FraudPolicy) -> None:
        self._share = policy.control_group_share
        self._max_amount = policy.control_group_max_amount
        self._with_rules = policy.control_group_rules
        self._key = blake2b(policy.control_group_salt.get_secret_value().encode()).digest()

    def admit(self, decisions: Codes, ruled: Codes, ids: Sequence[str], amount: Floats) -> Admission:
        """Let would-be declines within the cap pass by lot.

        Args:
            decisions: of the policy, shape (n,).
            ruled: what the rules say of each payment, `NO_RULE` where none hit.
            ids: of the transactions.
            amount: in the currency's main unit; one at the cap is within it.
        """
        declined = decisions == DECLINE
        admitted = np.zeros(len(decisions), np.bool_)
        if not declined.any():
            return Admission(decisions, admitted, np.ones(len(decisions)))
        eligible = declined & (amount <= self._max_amount)
        if not self._with_rules:
            eligible &= ruled == NO_RULE
        admitted[eligible] = self.lots(list(compress(ids, eligible))) < self._share
        propensity = np.where(declined, np.where(eligible, self._share, 0.0), 1.0)
        return Admission(np.where(admitted, np.int8(APPROVE), decisions), admitted, propensity)

    def lots(self, ids: Sequence[str]) -> Floats:
        """Each transaction's number in [0, 1), uniform over keys."""
        return lots(ids, self._key)


def lots(ids: Sequence[str], key: bytes) -> Floats:
    """Each id's number in [0, 1), uniform over keys of 1 to 64 bytes."""
    digest = b"".join(blake2b(each.encode(), digest_size=8, key=key).digest() for each in ids)
    found: Floats = (np.frombuffer(digest, "<u8") >> np.uint64(11)).astype(np.float64) * _UNIFORM
    return found
