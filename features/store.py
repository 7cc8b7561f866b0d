"""The feature store: the only module that speaks Feast.

Entities, views and feature services are generated from the definitions in this package, once. Views hold
states, not features: a feature is finished by `read`, on the request's and on the joined states alike.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd

from features.definition import FeatureSet
from features.state import Entity, Floats, Ints
from infra.errors import UserError
from infra.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore as Feast
    from feast import FeatureView

PROJECT = "tollgate"
STAMP, KEY_SEPARATOR = "stamp", "__"
POSITION = "position"
"""Field of every view: place in the entity's stream that was folded last."""


def offline_folder(home: Path, entity: Entity) -> Path:
    """Where an entity kind's state rows lie: Parquet files with its key, `stamp` and the state's columns."""
    return home / "offline" / entity.name


class FeatureStore:
    """Feast's store over Parquet (DuckDB) and Redis, with the registry in SQLite or another SQL database.

    Args:
        home: the folder that holds state rows and registry.
        redis: `host:port`, with `,password=…` where one is set.
        registry: SQLAlchemy address of the registry; SQLite in `home` if not given.
    """

    @classmethod
    def of(cls, settings: Settings) -> "FeatureStore":
        """The store of the settings."""
        return cls(settings.home, feast_address(settings.addresses.redis), settings.addresses.registry)

    def __init__(self, home: Path, redis: str, registry: str = "") -> None:
        self._home = home.resolve()
        self._redis = redis
        self._registry = registry or f"sqlite:///{self._home / 'registry.db'}"

    def open(self) -> "Feast":
        """Feast's own client, as any other program would use it.

        Raises:
            UserError: the registry does not answer.
        """
        from feast import FeatureStore as Feast
        from feast import RepoConfig

        self._home.mkdir(parents=True, exist_ok=True)
        with _or_user_error():
            return Feast(
                config=RepoConfig(
                    project=PROJECT,
                    provider="local",
                    registry={"registry_type": "sql", "path": self._registry, "cache_mode": "thread"},
                    online_store={"type": "redis", "connection_string": self._redis},
                    offline_store={"type": "features.asof_store.AsofOfflineStore"},
                    entity_key_serialization_version=3,
                    repo_path=self._home,
                )
            )

    def apply(self, feature_sets: Sequence[FeatureSet]) -> None:
        """Register every entity, its view and each domain's feature service; again, and nothing changes.

        Raises:
            UserError: the registry does not answer.
        """
        feast = self.open()
        entities = {entity.name: entity for features in feature_sets for entity in features.entities}
        views = {name: self._view(entity) for name, entity in entities.items()}
        services = [_service(features, views) for features in feature_sets]
        with _or_user_error():
            feast.apply([*_entities(entities), *views.values(), *services])
            feast.refresh_registry()

    def states_at(self, entity: Entity, ids: Sequence[str], before_us: Ints) -> Floats:
        """Feast's point-in-time join: each entity's state strictly before a stamp, shape (n, columns).

        An entity without an earlier state has the cold state. Raises RuntimeError if Feast lost a row.
        """
        asked = pd.DataFrame(
            {
                entity.key: np.asarray(ids, dtype=object),
                "event_timestamp": pd.to_datetime(before_us - 1, unit="us", utc=True),
                "row": np.arange(len(ids)),
            }
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Feast's DuckDB store uses an ibis call that is deprecated
            joined = self._join(entity, asked).sort_values("row")
        if len(joined) != len(ids):
            raise RuntimeError(f"asked Feast for {len(ids)} states of {entity.name}, got {len(joined)}")
        return _with_cold(entity, joined[list(entity.columns)].to_numpy(np.float64))

    def _join(self, entity: Entity, asked: pd.DataFrame) -> pd.DataFrame:
        fields = [f"{entity.view}:{column}" for column in entity.columns]
        joined: pd.DataFrame = self.open().get_historical_features(entity_df=asked, features=fields).to_df()
        return joined

    def _view(self, entity: Entity) -> "FeatureView":
        from feast import Entity as FeastEntity
        from feast import FeatureView, Field, FileSource, ValueType
        from feast.types import Float64, Int64

        source = FileSource(
            name=f"{entity.name}_states",
            path=str(offline_folder(self._home, entity) / "*.parquet"),
            timestamp_field=STAMP,
        )
        return FeatureView(
            name=entity.view,
            entities=[FeastEntity(name=entity.name, join_keys=[entity.key], value_type=ValueType.STRING)],
            schema=[
                *(Field(name=column, dtype=Float64) for column in entity.columns),
                Field(name=POSITION, dtype=Int64),
            ],
            source=source,
            ttl=timedelta(0),
            online=True,
        )


@contextmanager
def _or_user_error() -> Iterator[None]:
    """A registry that is away is no bug of ours."""
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except OperationalError as error:
        reason = str(error.orig).strip().partition("\n")[0]
        raise UserError(f"Feast's registry does not answer: {reason}") from None


def _entities(entities: dict[str, Entity]) -> list[Any]:
    from feast import Entity as FeastEntity
    from feast import ValueType

    return [
        FeastEntity(name=each.name, join_keys=[each.key], value_type=ValueType.STRING)
        for each in entities.values()
    ]


def _service(features: FeatureSet, views: dict[str, "FeatureView"]) -> Any:
    from feast import FeatureService

    return FeatureService(name=features.domain, features=[views[entity.name] for entity in features.entities])


def _with_cold(entity: Entity, states: Floats) -> Floats:
    never_seen = np.isnan(states[:, 0])
    states[never_seen] = entity.cold(int(never_seen.sum()))
    return states


def feast_address(url: str) -> str:
    """Feast's way of writing a Redis address.

    >>> feast_address("redis://:sec%2Fret@127.0.0.1:6379/0")
    '127.0.0.1:6379,password=sec/ret'
    """
    parts = urlsplit(url)
    password = f",password={unquote(parts.password)}" if parts.password else ""
    return f"{parts.hostname or '127.0.0.1'}:{parts.port or 6379}{password}"
