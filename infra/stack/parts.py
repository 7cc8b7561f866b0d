"""All parts of the local stack."""

from collections.abc import Iterable, Mapping

from infra.errors import UserError
from infra.stack.kafka import KAFKA
from infra.stack.mlflow import MLFLOW
from infra.stack.ours import API, HISTORY, RETRAINER, WORKER
from infra.stack.part import Part
from infra.stack.valkey import VALKEY

PARTS: Mapping[str, Part] = {
    part.name: part for part in (KAFKA, VALKEY, MLFLOW, HISTORY, WORKER, RETRAINER, API)
}


def chosen(names: Iterable[str]) -> tuple[Part, ...]:
    """Give the named parts in the order of the table.

    Raises:
        UserError: there is no part of such a name.
    """
    wanted = set(names)
    if unknown := sorted(wanted - PARTS.keys()):
        raise UserError(f"there is no part `{unknown[0]}`; expected some of {', '.join(PARTS)}.")
    return tuple(part for part in PARTS.values() if part.name in wanted)


def depth(part: Part) -> int:
    """How many parts must be there before this one; the deepest stop first."""
    return max((1 + depth(PARTS[need]) for need in part.needs), default=0)
