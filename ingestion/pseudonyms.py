"""Pseudonyms: what stands for a person's identifiers behind the edge.

A pseudonym is a keyed hash (BLAKE2b with a key, RFC 7693; 120 bits) of the field's name and the identifier:
the same everywhere and for ever under one key, and nobody without the key can find out, by trying, whose it
is. It names its key, so that it is told from an identifier and passes the edge a second time unchanged.

Keys form a chain: what the first makes of an identifier goes through the second, and so on. So a new key
turns a pseudonym of the time before into the new one, without the identifier.

The pseudonym of an IP address has two parts, that of its network and that of the address, divided as
`features.fraud` divides addresses: who pays from the same network as before is still known to (what Xu et al.
2002 do for every bit of an address is done for one).
"""

import binascii
import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from infra.settings import Privacy

E = TypeVar("E", bound=BaseModel)

PERSONAL = ("customer_id", "device_id", "ip")
"""Fields of a transaction that tell of a person; the setting names attributes that do."""
OPEN = ("attributes", "context")
"""Fields that hold what their sender chose."""
MARK = "ps_"
DIGEST_BYTES = 15
"""20 characters in base 64, without a remainder."""
_KEY_ID_BYTES = 3
_PSEUDONYM = re.compile(r"ps_([0-9a-f]{6})_[\w-]{20}(?:\.[\w-]{20})?")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True)
class _Key:
    """A secret and the name by which its pseudonyms are known."""

    secret: bytes
    name: str

    @classmethod
    def of(cls, secret: str) -> "_Key":
        raw = secret.encode()
        return cls(raw, hashlib.blake2b(raw, digest_size=_KEY_ID_BYTES, person=b"key id").hexdigest())

    def pseudonym(self, kind: str, value: str) -> str:
        own = self._digest(kind, value)
        if kind == "ip" and (network := _network(value)):
            own = f"{self._digest('network', network)}.{own}"
        return f"{MARK}{self.name}_{own}"

    def _digest(self, kind: str, value: str) -> str:
        raw = hashlib.blake2b(f"{kind}\x1f{value}".encode(), digest_size=DIGEST_BYTES, key=self.secret)
        return binascii.b2a_base64(raw.digest(), newline=False).translate(_URL_SAFE).decode()


class Pseudonyms:
    """Makes pseudonyms; without keys every identifier stays as it is.

    Args:
        secrets: keys, the oldest first.
        attributes: names in `attributes` and `context` whose values tell of a person.
    """

    def __init__(self, secrets: Sequence[str] = (), attributes: Collection[str] = ()) -> None:
        self.attributes = frozenset(attributes)
        self._keys = [_Key.of(secret) for secret in secrets]
        self._newest = f"{MARK}{self._keys[-1].name}_" if self._keys else MARK
        self._done = {key.name: i + 1 for i, key in enumerate(self._keys)}

    @classmethod
    def by(cls, chosen: Privacy) -> "Pseudonyms":
        """Of the settings."""
        secrets = [key.get_secret_value() for key in chosen.pseudonym_keys]
        return cls(secrets, chosen.attributes)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def of(self, kind: str, value: str) -> str:
        """What stands for an identifier; `kind` is its field's name."""
        if value.startswith(MARK):
            return value if value.startswith(self._newest) and _is_one(value) else self.chain(kind, value)[-1]
        for key in self._keys:
            value = key.pseudonym(kind, value)
        return value

    def chain(self, kind: str, value: str) -> list[str]:
        """The identifier, or pseudonym, and what each key in turn makes of it: the last is in use now."""
        found = [value]
        for key in self._keys[self._known(value) :]:
            found.append(key.pseudonym(kind, found[-1]))
        return found

    def event(self, event: E) -> E:
        """An event, or a request, with pseudonyms in place of identifiers."""
        changed = self._changed(event.__dict__) if self._keys else {}
        return event.model_copy(update=changed) if changed else event

    def decision(self, value: bytes) -> bytes:
        """A decision's JSON, so too; the same bytes if nothing changes."""
        fields = orjson.loads(value)
        changed = self._changed(fields)
        return orjson.dumps(fields | changed) if changed else value

    def rows(self, table: pa.Table) -> pa.Table:
        """Rows of the history, so too, decisions with their JSON; the very same table if nothing changes."""
        changes: dict[str, Callable[[str], str]] = {name: partial(self.of, name) for name in PERSONAL}
        changes |= dict.fromkeys(OPEN, self._opened) if self.attributes else {}
        changes["json"] = lambda value: self.decision(value.encode()).decode()
        for name in [name for name in table.column_names if name in changes and self._keys]:
            made = _by_distinct(table[name], changes[name])
            if made is not None:
                table = table.set_column(table.column_names.index(name), table.schema.field(name), made)
        return table

    def _known(self, value: str) -> int:
        """How many keys this went through already; of a key that is not ours any more, none."""
        found = _PSEUDONYM.fullmatch(value) if value.startswith(MARK) else None
        return self._done.get(found[1], 0) if found else 0

    def _changed(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for name in PERSONAL:
            value = fields.get(name)
            if value is not None and (made := self.of(name, value)) != value:
                changed[name] = made
        for name in OPEN:
            given = fields.get(name)
            if given and not self.attributes.isdisjoint(given) and (named := self._named(given)) != given:
                changed[name] = named
        return changed

    def _named(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes with pseudonyms where the name says that the value tells of a person."""
        told = {name: _text(given[name]) for name in self.attributes & given.keys()}
        return {**given, **{name: self.of(name, text) for name, text in told.items() if text is not None}}

    def _opened(self, value: str) -> str:
        given = orjson.loads(value)
        made = self._named(given)
        return value if made == given else orjson.dumps(made).decode()


NO_PSEUDONYMS = Pseudonyms()
"""What comes stays as it is."""


def _is_one(value: str) -> bool:
    return _PSEUDONYM.fullmatch(value) is not None


def _network(ip: str) -> str:
    """The part of an address by which `features.fraud` knows its network; of a pseudonym, its own part.

    >>> _network("203.0.113.7"), _network("2001:db8:1::7"), _network("unknown")
    ('203.0.113', '2001:db8:1', '')
    """
    return ":".join(ip.split(":")[:3]) if ":" in ip else ip.rpartition(".")[0]


def _text(value: object) -> str | None:
    """An attribute's value as text; a whole number has no decimal point."""
    if value is None or isinstance(value, bool):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _by_distinct(column: pa.ChunkedArray, changed: Callable[[str], str]) -> pa.Array | None:
    """Every distinct text changed once, null stays; None if all stay."""
    coded = column.combine_chunks().dictionary_encode()
    before = coded.dictionary.to_pylist()
    made = [changed(each) for each in before]
    return None if made == before else pc.take(pa.array(made, pa.string()), coded.indices)
