"""Speed of the simulators: `python -m ingestion.simulators.bench` prints events per second of each step."""

import sys
from collections.abc import Callable, Sized
from time import perf_counter

from ingestion.simulators import wire
from ingestion.simulators.market import Market, MarketProcess
from ingestion.simulators.payments import Payments, simulate
from ingestion.simulators.scenarios import Fraud


def speeds(seed: int, days: int, clock: Callable[[], float] = perf_counter) -> dict[str, float]:
    """Events per second of each step, each run once."""

    def rate(work: Callable[[], Sized]) -> float:
        began = clock()
        return len(work()) / (clock() - began)

    process, market = Payments(seed, fraud=Fraud(ring_first_day=days // 2)), Market(MarketProcess(seed))
    payments, quotes, log = simulate(process, days), market.quotes(days), market.simulate(days)
    return {
        "payments": rate(lambda: simulate(process, days)),
        "transaction messages": rate(lambda: wire.encoded(wire.transactions(payments))),
        "label messages": rate(lambda: wire.encoded(wire.labels(payments))),
        "quotes with outcomes": rate(lambda: market.simulate(days)),
        "purchases": rate(lambda: market.purchase(quotes, log.price)),
        "optimal prices": rate(lambda: market.optimal(quotes).price),
        "quote messages": rate(lambda: wire.encoded(wire.quote_requests(quotes))),
        "outcome messages": rate(lambda: wire.encoded(wire.past_outcomes(log))),
    }


def main() -> None:
    """Print the speeds, one line a step."""
    for step, per_s in speeds(seed=1, days=60).items():
        sys.stdout.write(f"{step:22} {per_s:12,.0f} /s\n")


if __name__ == "__main__":
    main()
