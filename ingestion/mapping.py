"""Which column of a file is which field, so that any data set can be used: a TOML file, parsed once.

A field that is not mapped takes the configured default or stays empty.
"""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import UserError
from infra.toml_lines import line_of

ColumnName = Annotated[str, Field(min_length=1)]
Source = Literal["chargeback", "analyst", "customer", "settlement"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def columns(self) -> dict[str, str]:
        """Column of the file for every field that has one."""
        return {
            field: column for field, column in self if isinstance(column, str) and field not in _NOT_COLUMNS
        }


_NOT_COLUMNS = ("source",)


class TransactionColumns(_Section):
    """Columns of a table of payments."""

    transaction_id: ColumnName
    event_time: ColumnName
    customer_id: ColumnName
    terminal_id: ColumnName
    amount: ColumnName
    currency: ColumnName | None = None
    channel: ColumnName | None = None
    country: ColumnName | None = None
    device_id: ColumnName | None = None
    ip: ColumnName | None = None
    merchant_category: ColumnName | None = None
    latitude: ColumnName | None = None
    longitude: ColumnName | None = None


class LabelColumns(_Section):
    """What became of each payment, and when that was known."""

    label: ColumnName
    """1, true or "fraud" is fraud; 0, false or "legitimate" is not; nothing is no label."""
    delay_days: Annotated[float, Field(ge=0, le=3650)] | None = None
    """Every label arrives this long after its payment."""
    label_time: ColumnName | None = None
    """Or: the column that says when it arrived."""
    source: Source | None = None
    """Who said so; if not given, a fraud is a chargeback and anything else a settlement."""

    @model_validator(mode="after")
    def _one_arrival(self) -> Self:
        if (self.delay_days is None) == (self.label_time is None):
            raise ValueError("expected exactly one of delay_days and label_time")
        return self


class PriceColumns(_Section):
    """Columns of a table of past prices."""

    price: ColumnName
    units: ColumnName
    product_id: ColumnName | None = None
    event_time: ColumnName | None = None
    period: ColumnName | None = None
    """A number that rises with time, such as that of a week; for a file without event_time."""
    place: ColumnName | None = None
    """Where it was sold, such as a store."""
    context: tuple[ColumnName, ...] = ()
    quote_id: ColumnName | None = None
    segment: ColumnName | None = None
    list_price: ColumnName | None = None
    unit_cost: ColumnName | None = None
    outcome_time: ColumnName | None = None

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if self.event_time and self.period:
            raise ValueError("expected event_time or period, not both")
        return self


class Mapping(_Section):
    """The whole file."""

    transactions: TransactionColumns | None = None
    labels: LabelColumns | None = None
    prices: PriceColumns | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.labels and not self.transactions:
            raise ValueError("[labels] needs [transactions]")
        if not (self.transactions or self.prices):
            raise ValueError("expected [transactions] or [prices]")
        return self


def load(path: Path) -> Mapping:
    """Read a mapping file; UserError names the file, the line and what was expected."""
    try:
        text = path.read_text("utf-8")
        return Mapping.model_validate(tomllib.loads(text))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a readable TOML file: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: expected TOML: {error}.") from None
    except ValidationError as error:
        raise UserError(_sentence(path, text, _first(error))) from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: expected TOML of less depth and shorter numbers: {error}.") from None


def found(wanted: Iterable[str], columns: Iterable[str], file: Path) -> None:
    """Raise UserError if the file lacks one of the wanted columns, with the nearest name it has."""
    known = list(columns)
    for name in wanted:
        if name not in known:
            have = ", ".join(known[:20])
            raise UserError(f"{file} has no column {name!r}.{did_you_mean(name, known)} It has: {have}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, or nothing.

    >>> did_you_mean("tx_amount", ["TX_AMOUNT", "TX_FRAUD"])
    " Did you mean 'TX_AMOUNT'?"
    """
    spelled = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), spelled, n=1)
    return f" Did you mean {spelled[near[0]]!r}?" if near else ""


def _first(error: ValidationError) -> dict[str, Any]:
    """A name that nobody knows explains one that is missing."""
    found = [dict(each) for each in error.errors(include_url=False)]
    return next((each for each in found if each["type"] == "extra_forbidden"), found[0])


def _sentence(path: Path, text: str, error: dict[str, Any]) -> str:
    location = tuple(error["loc"])
    where = f"{path}:{line_of(text, location)}: {'.'.join(map(str, location))}".removesuffix(": ")
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such field.{did_you_mean(str(location[-1]), _fields(location[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: expected the name of a column, nothing came."
    came = "" if error["type"] == "value_error" else f", came {error['input']!r}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{came}."


def _fields(location: tuple[Any, ...]) -> list[str]:
    sections: dict[str, type[_Section]] = {
        "transactions": TransactionColumns,
        "labels": LabelColumns,
        "prices": PriceColumns,
    }
    section = sections.get(str(location[0]), Mapping) if location else Mapping
    return list(section.model_fields)
