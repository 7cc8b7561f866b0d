"""`make faults`: every fault under load, and the table into docs/reliability.md.

The exit code is 1 if something was lost, or answered too late or by what no client should see.
`python -m tests.faults --only NAME` tries those whose name holds a word; `--seed` repeats an order.
"""

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tests.containers.conftest import free_ports
from tests.faults import report
from tests.faults.faults import FAULTS, SHORT, Fault
from tests.faults.load import Load
from tests.faults.stack import PORTS, ROOT, Stack
from tests.faults.trial import Observed, Trials

DOCUMENT = ROOT / "docs" / "reliability.md"


def main() -> int:
    """Try them."""
    chosen = _arguments().parse_args()
    seed = chosen.seed or random.SystemRandom().randrange(10**6)
    faults = [
        each for each in (SHORT if chosen.short else FAULTS) if chosen.only.lower() in each.name.lower()
    ]
    say(f"seed {seed}, {len(faults)} faults")
    with tempfile.TemporaryDirectory() as folder, stack_of(chosen, seed, Path(folder)) as stack:
        seen = tried(stack, faults, seed)
    if not chosen.only and not chosen.short:
        about = f"Made on {datetime.now(UTC):%Y-%m-%d}, seed {seed}, {chosen.workers} workers."
        report.written(DOCUMENT, seen, about)
    say(report.table(seen))
    return 0 if all(each.fine for each in seen) else 1


@contextmanager
def stack_of(chosen: argparse.Namespace, seed: int, folder: Path) -> Iterator[Stack]:
    """One that is started for this, or the running one that was named."""
    if chosen.attach:
        yield Stack.running(chosen.attach, folder)
        return
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    stack = Stack(f"tollgate-faults-{seed}", ports, folder)
    try:
        stack.up(chosen.workers)
        yield stack
    finally:
        if not chosen.keep:
            stack.down()


def tried(stack: Stack, faults: Sequence[Fault], seed: int) -> list[Observed]:
    """Every fault, in an order by lot; each is told as it was seen."""
    chance = random.Random(seed)
    load = Load(
        f"http://127.0.0.1:{stack.ports['API_PORT']}",
        stack.key(),
        f"127.0.0.1:{stack.ports['KAFKA_PORT']}",
        seed,
    )
    trials, seen, began = Trials(stack, load, chance, Counter()), [], time.monotonic()
    for fault in chance.sample(faults, len(faults)):
        observed = trials.run(fault)
        seen.append(observed)
        facts = dataclasses.asdict(observed) | {"at_s": round(time.monotonic() - began)}
        say(json.dumps(facts))
    return seen


def say(line: str) -> None:
    """Tell it at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.ArgumentParser:
    asked = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    asked.add_argument("--seed", type=int, default=0, help="of the order, the moments and the events")
    asked.add_argument("--only", default="", help="a word of the names of the faults to try")
    asked.add_argument("--short", action="store_true", help="the short set")
    asked.add_argument("--workers", type=int, default=2, help="how many share the stream")
    asked.add_argument("--attach", default="", help="disturb this compose project, which runs already")
    asked.add_argument("--keep", action="store_true", help="leave the stack running")
    return asked


if __name__ == "__main__":
    sys.exit(main())
