"""The point-in-time join as an offline store of Feast's, over DuckDB's ASOF join.

Feast's own DuckDB store joins every request with every earlier state of its entity, then keeps the latest:
180 states a customer made 13 GB of 270,000 requests. DuckDB's ASOF join gives the same rows (the contract
test holds it to Feast's) in a second and little memory. Feast loads this class by the name in its
configuration.
"""

from typing import Any

import ibis
import pandas as pd
from feast.feature_view import FeatureView
from feast.infra.offline_stores import duckdb as feasts
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig


class AsofOfflineStoreConfig(feasts.DuckDBOfflineStoreConfig):  # type: ignore[misc]
    """As DuckDB's; Feast finds it by its name."""

    type: str = "features.asof_store.AsofOfflineStore"


class AsofOfflineStore(feasts.DuckDBOfflineStore):  # type: ignore[misc]
    """Feast's DuckDB store with another join."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame,
        registry: BaseRegistry,  # noqa: ARG004 - Feast's signature
        project: str,  # noqa: ARG004
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Each row of `entity_df` with its entities' latest states at or before its time.

        Raises ValueError for what this store does not do: a view with a `ttl`, or full feature names.
        """
        if full_feature_names or filter_by_created_timestamp or any(view.ttl for view in feature_views):
            raise ValueError("expected views without ttl, short names and no created timestamps")
        at = infer_event_timestamp_from_entity_df(dict(zip(entity_df.columns, entity_df.dtypes, strict=True)))
        joined = ibis.memtable(entity_df)
        for view in feature_views:
            wanted = [ref.split(":")[1] for ref in feature_refs if ref.startswith(f"{view.name}:")]
            joined = _asof(joined, view, wanted, at, str(config.repo_path))
        return IbisRetrievalJob(
            joined,
            [],
            full_feature_names,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entity_df.columns if name != at],
                min_event_timestamp=entity_df[at].min().to_pydatetime(),
                max_event_timestamp=entity_df[at].max().to_pydatetime(),
            ),
            data_source_writer=feasts._write_data_source,
            staging_location=None,
            staging_location_endpoint_override=None,
            repo_path=str(config.repo_path),
        )


def _asof(asked: Any, view: FeatureView, wanted: list[str], at: str, folder: str) -> Any:
    source = view.batch_source
    keys = [column.name for column in view.entity_columns]
    states = feasts._read_data_source(source, folder).select(source.timestamp_field, *keys, *wanted)
    found = asked.asof_join(states, on=asked[at] >= states[source.timestamp_field], predicates=keys)
    return found.select(*asked.columns, *wanted)
