"""The table of faults in `docs/reliability.md`, between two marks; what is around them stays."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.faults.trial import Observed

BEGIN, END = "<!-- faults: made by `make faults` -->", "<!-- end of faults -->"
HEAD = (
    "| fault | load | scores | other calls | degraded | score p99, slowest | back after | lost or doubled |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def written(file: Path, rows: Iterable[Observed], about: str) -> None:
    """Put the table into the file in place of the one that is there."""
    before, _, rest = file.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    file.write_text(f"{before}{BEGIN}\n{about}\n\n{HEAD}\n{table(rows)}\n{END}{after}", "utf-8")


def table(rows: Iterable[Observed]) -> str:
    """A line for each fault."""
    return "\n".join(map(line, rows))


def line(seen: Observed) -> str:
    """One fault as a line of the table."""
    lost = (
        str(seen.lost) if not seen.lost else ", ".join(f"{n} {what}" for what, n in seen.differences.items())
    )
    cells = (
        seen.fault,
        f"{seen.requests_per_s:.0f}/s",
        counts(seen.scores),
        counts(seen.others),
        f"{seen.degraded:.0%}",
        f"{seen.p99_s * 1e3:.0f}, {seen.slowest_s * 1e3:.0f} ms",
        f"{seen.back_s:.0f} s",
        lost if not seen.error else f"{lost} ({seen.error[:100]})",
    )
    return "| " + " | ".join(cells) + " |"


def counts(kinds: Mapping[str, int]) -> str:
    """Answers by kind, the normal ones first."""
    order = sorted(kinds, key=lambda kind: (not kind.startswith("20"), kind))
    return ", ".join(f"{kinds[kind]} × {kind}" for kind in order) or "none"
