"""One fault under load, and what was observed: while it lasted, until all was well again, and afterwards."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.faults.faults import Fault, Paused
from tests.faults.load import CUT_OFF, NO_ANSWER, REFUSED, SCORE, Answer, Load
from tests.faults.stack import Stack, StackError

CALM_S = 3.0
"""All answers of so long must be normal, then it is well again."""
BACK_LIMIT_S = 120.0
CATCH_UP_S = 120.0
TOO_MANY = "429 with Retry-After"
PATIENT_KINDS = (TOO_MANY, "503 with Retry-After")
"""Not accepted, and told so: fine for an event, and nothing else is."""
OF_A_DEAD_API, OF_A_PAUSED_API = (REFUSED, CUT_OFF, TOO_MANY), (NO_ANSWER, TOO_MANY)
"""It comes back to all calls at once that were sent, or sent again, meanwhile."""
ANSWERED = ("200", "200 degraded")
BUDGET_S = 0.25
"""For p99 of the scores, degraded or not."""


@dataclass(frozen=True)
class Observed:
    """What a fault did."""

    fault: str
    requests_per_s: float
    scores: dict[str, int]
    """Answers to scores from the fault's begin until all was well, by kind."""
    others: dict[str, int]
    """Answers to all other calls."""
    p99_s: float
    """Of the scores that were answered."""
    slowest_s: float
    late: list[tuple[float, float]]
    """Scores that took longer than the budget: when, in seconds from the fault's beginning, and how long."""
    in_budget: bool
    """Whether p99 was, unless the fault was that the API itself could not answer."""
    back_s: float
    """From the fault's end to the last answer that was not normal, and until every container was well."""
    caught_up_s: float
    """After the load's end, until workers and history had done everything."""
    audited: int
    """Events in the log so far: transactions, labels, quotes and outcomes."""
    repeated: int
    """Decisions that lie in the topic twice with the same place and bytes, so far."""
    differences: dict[str, int]
    """What the audit found that was not there before: nothing, or something was lost."""
    first: list[Any]
    unexpected: dict[str, int]
    """Answers that no client should see."""
    error: str = ""
    """What went wrong with the trial itself."""

    @property
    def degraded(self) -> float:
        """Share of the scores that were answered degraded."""
        answered = sum(self.scores.get(kind, 0) for kind in ANSWERED)
        return self.scores.get("200 degraded", 0) / answered if answered else 0.0

    @property
    def fine(self) -> bool:
        """Whether all was as it should be."""
        return not (self.lost or self.error or self.unexpected) and self.in_budget

    @property
    def lost(self) -> int:
        """Everything that the audit found."""
        return sum(self.differences.values())


@dataclass
class Trials:
    """Runs faults one after the other over the same stack, whose log grows."""

    stack: Stack
    load: Load
    chance: Random
    known: Counter[str]
    """What earlier audits found: each is told once."""

    def run(self, fault: Fault) -> Observed:
        """Disturb, wait until all is well, compare."""
        began = time.monotonic()
        self.load.start()
        error = ""
        try:
            time.sleep(self.chance.uniform(2.0, 4.0))
            began = time.monotonic()
            fault.begin(self.stack, self.load)
            time.sleep(fault.lasts_s)
            fault.end(self.stack, self.load)
            ended = time.monotonic()
            back_s = self._await_back(ended)
        except StackError as trouble:
            error, back_s = str(trouble), float("inf")
        finally:
            self.load.stop()
        return self._observed(fault, began, back_s, error)

    def _await_back(self, ended: float) -> float:
        """Seconds from the fault's end to the last answer that was not normal, or until all are healthy."""
        healthy_s = None
        while time.monotonic() < ended + BACK_LIMIT_S:
            time.sleep(0.5)
            if healthy_s is None and self.stack.healthy():
                healthy_s = time.monotonic() - ended
            bad = [each for each in self.load.since(ended - 60.0) if not each.normal]
            last = max((each.sent_s + each.took_s for each in bad), default=0.0)
            calm_since = max(last, ended)
            recent = self.load.since(calm_since)
            if healthy_s is not None and time.monotonic() > calm_since + CALM_S and len(recent) > 10:
                return max(healthy_s if healthy_s > 1.0 else 0.0, last - ended, 0.0)
        told = "; ".join(f"{name}: {state}" for name, state in self.stack.states().items())
        raise StackError(f"not well {BACK_LIMIT_S:.0f} s after its end: {told}")

    def _observed(self, fault: Fault, began: float, back_s: float, error: str) -> Observed:
        stopped = time.monotonic()
        answers = self.load.since(began)
        found: Mapping[str, Any] = {}
        try:
            found = self.stack.audit(self.load.accepted, CATCH_UP_S)
        except StackError as trouble:
            error = f"{error}; {trouble}".strip("; ")
        new = Counter(found.get("differences", {})) - self.known
        self.known |= Counter(found.get("differences", {}))
        scores = [each for each in answers if each.path == SCORE]
        took_s = sorted(each.took_s for each in scores if each.kind in ANSWERED) or [0.0]
        p99_s = took_s[math.ceil(0.99 * len(took_s)) - 1]
        return Observed(
            fault=fault.name,
            requests_per_s=round(len(answers) / max(stopped - began, 1.0), 1),
            scores=dict(Counter(each.kind for each in scores)),
            others=dict(Counter(each.kind for each in answers if each.path != SCORE)),
            p99_s=round(p99_s, 3),
            slowest_s=round(took_s[-1], 3),
            late=[
                (round(each.sent_s - began, 2), round(each.took_s, 3))
                for each in scores
                if each.took_s > BUDGET_S
            ],
            in_budget=p99_s <= BUDGET_S or "api" in fault.hits,
            back_s=round(back_s, 1),
            caught_up_s=round(float(found.get("waited_s", float("nan"))), 1),
            audited=sum(found.get("sent", {}).values()),
            repeated=int(found.get("decisions_repeated", 0)),
            differences=dict(new),
            first=list(found.get("first", []))[:5] if new else [],
            unexpected=dict(Counter(each.kind for each in answers if not expected(each, fault))),
            error=error,
        )


def expected(answer: Answer, fault: Fault) -> bool:
    """Whether a client may see this answer during this fault."""
    if answer.normal or answer.kind == "200 degraded":
        return True
    if answer.kind in PATIENT_KINDS and answer.path != SCORE:
        return True
    mute = OF_A_PAUSED_API if isinstance(fault, Paused) else OF_A_DEAD_API
    return answer.kind in mute and "api" in fault.hits
