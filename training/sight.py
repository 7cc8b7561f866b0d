"""What a task shows of its champion at a moment: the form in which every task answers the watcher."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from features.state import Flags, Floats, Ints
from infra.settings import Settings
from ingestion.tables import DAY_US
from training.drift import SCORE
from training.models import Scorer
from training.performance import Decline, Standard
from training.skew import Skew


@dataclass(frozen=True)
class Moment:
    """When a champion is looked at, in microseconds since 1970 UTC."""

    now_us: int
    """Nothing that arrived later is known; inclusive."""
    start_us: int
    """Oldest event looked at: the champion has learned from none of these."""
    drift_days: float
    """The newest so many days are compared with its reference."""

    def recent(self, time_us: Ints) -> Flags:
        """Which events are of these days."""
        found: Flags = time_us > self.now_us - round(self.drift_days * DAY_US)
        return found


@dataclass(frozen=True)
class Sight:
    """What a task shows."""

    rows: int
    """Payments or quotes later than what the champion learned from."""
    columns: Mapping[str, Floats]
    """The newest of them: each feature and the score, shape (n,)."""
    groups: Ints
    """Number of the customer or product of each of these, shape (n,)."""
    matured: Mapping[str, float]
    days: tuple[Mapping[str, float], ...]
    """The same figures of each day, with `day`, its number since 1970."""
    estimated: Mapping[str, float]
    """Of what has no labels yet."""
    declines: Mapping[str, Decline] = field(default_factory=dict)
    """By what has left what the champion promises."""


type_of_see = Callable[[Settings, Scorer, Standard, Moment], Sight]
type_of_compare = Callable[[Settings, int | None, int], Skew]


@dataclass(frozen=True)
class Watched:
    """What the watcher needs to know of a task."""

    see: type_of_see
    skew: type_of_compare | None = None
    """Compares decisions after a moment of the log's clock; None where no vectors are logged."""
    settled: str = "labels"
    """What its truth comes by."""


def sample(names: Sequence[str], matrix: Floats, score: Floats, chosen: Flags) -> dict[str, Floats]:
    """Columns of the chosen rows by name, the score among them."""
    rows, scores = matrix[chosen], score[chosen]
    return {**{name: rows[:, number] for number, name in enumerate(names)}, SCORE: scores}
