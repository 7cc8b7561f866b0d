"""What a model's folder says of it: `model.json`, beside the files that hold the model itself.

The folder is all that serving needs: no registry, no pickle. Each file's SHA-256 is in the card, so that a
half-copied or changed model is refused instead of used.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from infra.errors import UserError

CARD = "model.json"


@dataclass(frozen=True)
class Trained:
    """What a model has learned from; times in microseconds since 1970 UTC."""

    start_us: int
    """Oldest event, inclusive."""
    end_us: int
    """Newest event, inclusive."""
    label_cutoff_us: int
    """Nothing that arrived later was known."""
    rows: int


@dataclass(frozen=True)
class Card:
    """A model's identity and what it expects."""

    task: str
    kind: str
    """How it is loaded: `lightgbm`, `linear` or `demand`."""
    features: tuple[str, ...]
    """Columns of its matrix, in order."""
    feature_hash: str
    """`FeatureSet.hash` of the definitions that it learned from."""
    trained: Trained
    reference: tuple[float, ...] = ()
    """Usual (median) value of each feature in training; NaN if it was never known."""
    version: str = ""
    """Of the registered model; empty until it is registered."""
    run_id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What only this task needs, as JSON."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file beside the card."""

    def expect(self, features: Sequence[str], feature_hash: str) -> None:
        """Refuse a matrix that is built by other definitions than this model learned from.

        Raises:
            UserError: names, order or definitions differ.
        """
        if tuple(features) != self.features:
            raise UserError(
                f"{self} expects other features: {_difference(self.features, features)}; train it anew."
            )
        if feature_hash != self.feature_hash:
            raise UserError(
                f"{self} learned from feature definitions {self.feature_hash}, these are {feature_hash};"
                " train it anew."
            )

    def registered(self, version: str) -> "Card":
        """The same model under its registered version."""
        return replace(self, version=version)

    def __str__(self) -> str:
        return f"model {self.task} {self.version or '(not registered)'}"


def write(folder: Path, card: Card, files: Mapping[str, bytes]) -> Card:
    """Write a model's files and, last, its card with their checksums, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    complete = replace(
        card, files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    )
    rewrite(folder, complete)
    return complete


def add(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put more files beside a model that was written, with their checksums in its card."""
    if not files:
        return
    card = read(folder)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    rewrite(folder, replace(card, files={**card.files, **digests}))


def rewrite(folder: Path, card: Card) -> None:
    """Replace a folder's card only."""
    values = {**asdict(card), "reference": [_or_null(value) for value in card.reference]}
    (folder / CARD).write_text(json.dumps(values, indent=1, allow_nan=False), "utf-8")


def read(folder: Path) -> Card:
    """The card of a folder whose files are whole.

    Raises:
        UserError: there is no card, or a file is missing or not what the card says.
    """
    try:
        values = json.loads((folder / CARD).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: expected a model's card {CARD}: {error}; promote the version again."
        ) from None
    card = _card(values)
    for name, digest in card.files.items():
        _check(folder / name, digest)
    return card


def _card(values: dict[str, Any]) -> Card:
    reference = tuple(math.nan if value is None else value for value in values.pop("reference"))
    trained, features = Trained(**values.pop("trained")), tuple(values.pop("features"))
    return Card(**values, reference=reference, trained=trained, features=features)


def _check(path: Path, digest: str) -> None:
    came = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
    if came != digest:
        raise UserError(
            f"{path}: expected SHA-256 {digest[:12]}…, came {came[:12]}…; promote the version again."
        )


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _difference(expected: Sequence[str], came: Sequence[str]) -> str:
    missing = [name for name in expected if name not in came]
    unknown = [name for name in came if name not in expected]
    if missing or unknown:
        return f"missing {missing}, unknown {unknown}"
    return "the same names in another order"
