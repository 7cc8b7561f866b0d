"""Times as people write them on a command line."""

from datetime import UTC, datetime

from infra.errors import UserError
from ingestion.events import microseconds


def moment_us(text: str | None) -> int | None:
    """Microseconds since 1970 UTC of a time in ISO 8601; without a zone it is UTC, a day begins at midnight.

    >>> moment_us("1970-01-02")
    86400000000
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"expected a time such as 2018-07-25 or 2018-07-25T12:00:00Z, came {text!r}."
        ) from None
    return microseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
