"""API keys: what they look like, and what is kept of them.

A key is 256 random bits, so one SHA-256 is all that its keeping needs: nobody can try so many. The slow
hashes for passwords (bcrypt, Argon2) make up for words that people choose, and would cost every request its
budget.
"""

import hashlib
import secrets
from typing import Literal, get_args

Scope = Literal["ingest", "score", "review", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""What a key may be for: events in; scores and quotes; the analysts' queue; catalogue and models; figures."""

PREFIX = "tollgate_"
"""By it, scanners for secrets find a key where it should not be."""
RANDOM_BYTES = 32
SHORTEST = 32
"""Characters of the shortest word that is taken for a secret."""
LONGEST = 64
"""Bytes that BLAKE2b takes as a key."""
PLACEHOLDERS = frozenset({"", "tollgate", "changeme", "secret", "password", "placeholder", "example", "xxx"})


def new_key() -> str:
    """A key that was never there before."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def digest(key: str | bytes) -> str:
    """Hex digits of a key's SHA-256: all that the API knows of it.

    >>> digest("a")[:8]
    'ca978112'
    """
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def is_placeholder(secret: str) -> bool:
    """Whether somebody left a word where a secret belongs.

    >>> is_placeholder("change-me"), is_placeholder("<your key>"), is_placeholder(new_key())
    (True, True, False)
    """
    plain = secret.strip().lower().replace("-", "").replace("_", "")
    return plain in PLACEHOLDERS or secret.strip().startswith(("<", "${"))
