"""Who may call what: the scopes of every call, API keys, and how many calls a key has left.

A key comes as `Authorization: Bearer KEY`. With no keys in the settings whoever reaches the API may call it;
then it listens on loopback only.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from infra import keys
from infra.errors import UserError
from infra.settings import Api, Settings

Scopes = frozenset[keys.Scope]


def _any(*scopes: keys.Scope) -> Scopes:
    return frozenset(scopes)


PUBLIC: Scopes = frozenset()
"""Of calls that nobody needs a key for."""
NEEDS: Mapping[tuple[str, str], Scopes] = {
    ("POST", "/v1/transactions"): _any("ingest"),
    ("POST", "/v1/labels"): _any("ingest"),
    ("POST", "/v1/prices/outcomes"): _any("ingest"),
    ("POST", "/v1/fraud/score"): _any("score"),
    ("POST", "/v1/fraud/score/batch"): _any("score"),
    ("POST", "/v1/prices/quote"): _any("score"),
    ("GET", "/v1/decisions/{transaction_id}"): _any("score", "review"),
    ("GET", "/v1/reviews"): _any("review"),
    ("POST", "/v1/reviews/{transaction_id}/verdict"): _any("review"),
    ("GET", "/v1/products"): _any("score", "admin"),
    ("PUT", "/v1/products/{product_id}"): _any("admin"),
    ("GET", "/v1/models"): _any("admin"),
    ("POST", "/v1/models/{task}/promote"): _any("admin"),
    ("POST", "/v1/models/{task}/rollback"): _any("admin"),
    ("GET", "/metrics"): _any("metrics", "admin"),
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
}
"""One of these scopes lets a key call; a call that is not here is refused to every key."""
HEALTH = frozenset({path for (_, path), scopes in NEEDS.items() if scopes == PUBLIC})
DOCS = frozenset({"/docs", "/openapi.json"})
"""Any key will do."""
_LISTED = re.compile(
    "|".join(
        re.sub(r"\\{\w+\\}", ".*", re.escape(path)) for path in sorted({path for _, path in NEEDS} | DOCS)
    ),
    re.DOTALL,
)
"""Paths of the calls above."""

SCHEME = b"bearer "


class Bucket:
    """Calls that may be made: `rate` more a second, never more than `burst`.

    A token bucket, which is the leaky one of Turner (1986) as a meter.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, float(burst)
        self._tokens, self._at_s = float(burst), 0.0

    def wait_s(self, now_s: float) -> float:
        """Take a call and give 0, or take none and give the seconds until there is one.

        >>> bucket = Bucket(rate=2.0, burst=1)
        >>> bucket.wait_s(10.0), bucket.wait_s(10.0), bucket.wait_s(10.5)
        (0.0, 0.5, 0.0)
        """
        tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if tokens >= 1.0:
            self._tokens = tokens - 1.0
            return 0.0
        self._tokens = tokens
        return (1.0 - tokens) / self._rate


@dataclass(frozen=True)
class Caller:
    """Whose key came; `bucket` None: without limit."""

    name: str
    scopes: Scopes
    bucket: Bucket | None


class Keyring:
    """The keys that are accepted, by their SHA-256."""

    def __init__(self, api: Api) -> None:
        self._callers = [
            (
                bytes.fromhex(key.sha256),
                Caller(key.name, frozenset(key.scopes), _bucket(api)),
            )
            for key in api.keys
        ]

    def __bool__(self) -> bool:
        """Whether anybody needs a key."""
        return bool(self._callers)

    def caller(self, authorization: bytes) -> Caller | None:
        """Whose key the header holds; None if nobody's.

        Every key is compared, each in constant time: how long it took tells nothing of any of them.
        """
        if authorization[: len(SCHEME)].lower() != SCHEME:
            return None
        came = hashlib.sha256(authorization[len(SCHEME) :].strip()).digest()
        found = None
        for digest, caller in self._callers:
            if hmac.compare_digest(digest, came):
                found = caller
        return found


def may(caller: Caller, method: str, path: str) -> bool:
    """Whether the caller has a scope for the call; `path` as OpenAPI has it."""
    scopes = NEEDS.get((method, path))
    return scopes is not None and (scopes == PUBLIC or not scopes.isdisjoint(caller.scopes))


def listed(path: str) -> bool:
    """Whether a path, as it came, may be one of the calls above.

    >>> listed("/v1/decisions/a/b"), listed("/v1/new")
    (True, False)
    """
    return _LISTED.fullmatch(path) is not None


def refuse_open(settings: Settings, host: str) -> None:
    """An API that others than this machine can reach must have keys, and secrets that are secret.

    Raises:
        UserError: it has none.
    """
    if host in ("127.0.0.1", "::1", "localhost"):
        return
    if not settings.api.keys:
        raise UserError(
            f"expected API keys where the API listens on {host}, there are none; run `tollgate secrets`."
        )
    if keys.is_placeholder(settings.fraud.control_group_salt.get_secret_value()):
        raise UserError(
            "fraud.control_group_salt: expected a secret, came a placeholder; run `tollgate secrets`."
        )


def _bucket(api: Api) -> Bucket | None:
    return Bucket(api.requests_per_s, api.burst) if api.requests_per_s else None
